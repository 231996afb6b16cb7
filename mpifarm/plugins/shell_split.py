"""The words of lines that need no shell.

Rules of this file: pure.  A line is started directly only if a shell would do nothing
but start one program: each character means itself to every shell, and the first word is
the name of a program.  In doubt the shell runs the line, which costs time but never
gives a wrong result.  GNU make does the same (``construct_command_argv_internal`` in
its job.c).
"""

import re
from typing import Final

_COMPGEN_K = """
! [[ ]] case coproc do done elif else esac fi for function if in select then time until
while { }
"""
_COMPGEN_B = """
. : [ alias bg bind break builtin caller cd command compgen complete compopt continue
declare dirs disown echo enable eval exec exit export false fc fg getopts hash help
history jobs kill let local logout mapfile popd printf pushd pwd read readarray readonly
return set shift shopt source suspend test times trap true type typeset ulimit umask
unalias unset wait
"""

KEYWORDS: Final = frozenset(_COMPGEN_K.split())
"""Reserved words: ``compgen -k`` of bash 5.2; dash's are among them."""

BUILTINS: Final = frozenset(_COMPGEN_B.split()) | {"chdir"}
"""``compgen -b`` of bash 5.2; ``chdir`` is dash's own (builtins.def.in of 0.5.12)."""

SHELL_WORDS: Final = KEYWORDS | BUILTINS
"""First words that the shell itself handles, even if there are such programs."""

STAND_INS: Final = {
    "true": "/bin/true",
    "false": "/bin/false",
    "echo": "/bin/echo",
}
"""Programs that do the same as the builtin if no argument starts with ``-``.

By path: a shell does not look for them in PATH.  Only ``-n`` and backslashes differ
between one ``echo`` and another (POSIX, "echo"), and a backslash is not a plain
character.  The GNU programs have the options ``--help`` and ``--version``.
"""

_is_plain = re.compile(r"[A-Za-z0-9_./:=,@%+\- \t]*").fullmatch
"""Characters that mean themselves in each word but the first.

Not among them: ``~`` (home directories), ``^`` (a pipe in the oldest shells), ``#``,
``!``, ``{}``, ``[]``, and all that is not ASCII (the locale defines the blanks).
"""


def split_direct(
    line: str, functions: frozenset[str] = frozenset()
) -> list[str] | None:
    """Return the argv of a line that needs no shell, None if a shell must run it.

    The argv, with its program looked up in PATH, gives the same output and status as
    ``/bin/bash -c line``.  `functions` are the names of the shell functions in the
    environment.  A call takes about 1 µs: every task has one.
    """
    if _is_plain(line) is None:
        return None
    words = line.split()
    if not words:
        return None
    name = words[0]
    if name in functions:
        return None
    if name in SHELL_WORDS:
        return _stand_in(words)
    if "=" in name or name[0] == "%":  # An assignment; a job of the shell.
        return None
    return words


def _stand_in(words: list[str]) -> list[str] | None:
    """Return the argv of the program that replaces a builtin, None without one."""
    name, *arguments = words
    if name not in STAND_INS or any(word[0] == "-" for word in arguments):
        return None
    return [STAND_INS[name], *arguments]
