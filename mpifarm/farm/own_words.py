"""The words of a farm's command line, as they are given again.

Rules of this file: pure, but for what kind of file an argument names.  The words are
without the program's name.
"""

import os
from collections.abc import Sequence

from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import STDIN_LIST, ArgumentSource, is_passing

_WORKDIR = ("-w", "--workdir")


def without_workdir(words: Sequence[str]) -> list[str]:
    """Return the words of options without the one that names the workdir."""
    kept: list[str] = []
    waiting = [*reversed(words)]
    while waiting:
        word = waiting.pop()
        if word in _WORKDIR:
            del waiting[-1:]
        elif not word.startswith(("-w", "--workdir=")):
            kept.append(word)
    return kept


def name_kept_list(options: Sequence[str], workdir: str) -> list[str]:
    """Return words by which a farm goes on with the list that its workdir keeps.

    `options` are those in front of a command and its arguments.
    """
    options = without_workdir(options)
    if options[-1:] == ["--"]:
        options.pop()
    kept = WorkdirPaths(workdir.rstrip("/")).stdin_list
    return [*options, "--workdir", workdir, kept]


def is_read_once(source: ArgumentSource) -> bool:
    """Return whether arguments come from standard input or a pipe."""
    if not source.is_file:
        return False
    (path,) = source.words
    return path == STDIN_LIST or is_passing(path) or not os.path.isfile(path)
