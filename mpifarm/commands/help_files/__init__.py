"""The help in other forms: completion for shells, and manual pages.

Rules of this package: pure, and imported for these questions and by the build of a
package alone, which has the standard library and nothing else.  What it says comes from
the parsers that print ``--help`` (`command_lines`); nothing is said here for itself.
"""
