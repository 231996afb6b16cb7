"""Which lines need a shell, and the words of those that don't.

Rules of this file: pure; no I/O, no environment.  On the safe side: a line is started
directly only where every character of it means itself to every shell and its first
word is a program's name, so that a shell would do nothing but start that program.
Whatever is in doubt goes to the shell, which costs time and never a wrong result.
GNU make draws the same line (``construct_command_argv_internal`` in its job.c).
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
"""First words which the shell itself answers, whatever programs have these names."""

STAND_INS: Final = {
    "true": "/bin/true",
    "false": "/bin/false",
    "echo": "/bin/echo",
}
"""Programs that do the same as the builtin where no argument starts with ``-``.

By path, because a shell never asks PATH for them.  POSIX leaves only ``-n`` and
backslashes to an ``echo``, and a backslash is no plain character; the GNU programs
answer ``--help`` and ``--version``.
"""

_is_plain = re.compile(r"[A-Za-z0-9_./:=,@%+\- \t]*").fullmatch
"""Characters that mean themselves wherever they stand, but in the first word.

Not among them, of the harmless looking: ``~`` (homes), ``^`` (a pipe in the oldest
shells), ``#``, ``!``, ``{}`` and ``[]``, and whatever is not ASCII (the locale says
what is blank).
"""


def split_direct(
    line: str, functions: frozenset[str] = frozenset()
) -> list[str] | None:
    """The argv of a line that needs no shell; None where a shell must run it.

    Started along PATH, the argv gives the same output and status as
    ``/bin/bash -c line``.  `functions` are the names of the shell functions in the
    environment.  Costs about 1 µs: it is on the way of every task.
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
    if "=" in name or name[0] == "%":  # an assignment; a job
        return None
    return words


def _stand_in(words: list[str]) -> list[str] | None:
    """The argv of the program that does the same as the builtin, if one does."""
    name, *arguments = words
    if name not in STAND_INS or any(word[0] == "-" for word in arguments):
        return None
    return [STAND_INS[name], *arguments]
