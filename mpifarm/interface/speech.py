"""What a farm prints, as a script is told it.

Rules of this file: with `progress` all of it is printed; else its warnings alone are
told, as warnings of Python at the line of the script.
"""

import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Final

_MPIFARMS = re.compile(r"(?:[-\d]+ [\d:+]+ )?mpifarm: (.*)")
"""A line that mpifarm prints, and not a launcher."""

_WARNING: Final = "WARNING: "

_ROOM: Final = __name__.rpartition(".")[0]


class Speech:
    """What a farm prints.

    `prints`: whether all of it is printed here.  `reword` puts a sentence about lines
    of the list in terms of tasks.
    """

    def __init__(self, reword: Callable[[str], str], *, prints: bool) -> None:
        self._reword = reword
        self._prints = prints
        self._rest = ""
        """A line that has no end yet."""

    def hear(self, text: str) -> None:
        """Print what a farm has printed, or tell the warnings in it."""
        if self._prints:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        *lines, self._rest = (self._rest + text).split("\n")
        for sentence in find_sentences(lines):
            if sentence.startswith(_WARNING):
                warn(self._reword(sentence.removeprefix(_WARNING)))


def find_sentences(lines: Iterable[str]) -> list[str]:
    """Return what mpifarm says in these lines, without what launchers say."""
    return [found[1] for line in lines if (found := _MPIFARMS.fullmatch(line))]


def find_others(lines: Iterable[str]) -> list[str]:
    """Return the lines in which mpifarm says nothing."""
    return [line for line in lines if not _MPIFARMS.fullmatch(line)]


def warn(sentence: str) -> None:
    """Warn at the line of the script that called this package."""
    level, frame = 0, inspect.currentframe()
    while frame and str(frame.f_globals.get("__name__")).startswith(_ROOM):
        level, frame = level + 1, frame.f_back
    warnings.warn(sentence, stacklevel=level + 1)
