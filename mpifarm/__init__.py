"""mpifarm: run each command of a text file once, over MPI ranks.

``docs/design.md`` describes the design.  This module imports nothing: every rank of a
large job reads it, all at once and from one shared file system.
"""

__version__ = "0.5.0"
