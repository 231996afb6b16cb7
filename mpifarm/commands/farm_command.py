"""The command of a farm, to be given again.

Rules of this file: it reads, and prints nothing.  A farm's options decide what it does,
so the command of the last farm goes before one that only names the list.
"""

import os
import shlex
from collections.abc import Sequence

from mpifarm.commands.argument_words import SEPARATORS
from mpifarm.model.paths import WorkdirPaths, parse_given_name
from mpifarm.model.settings import STDIN_LIST, is_passing
from mpifarm.store.directories import find_directory
from mpifarm.store.farm_file import list_farm_files
from mpifarm.store.farm_report import FarmReport, find_report
from mpifarm.store.target import UNKNOWN_LIST, Target, farm_words_of


def find_farm_command(target: Target) -> str:
    """Return the command of the workdir's last farm, else one that goes on as well."""
    paths = WorkdirPaths(os.path.abspath(target.workdir))
    for farm in list_farm_files(paths):
        if (report := find_report(paths, farm)) is not None:
            return name_farm_command(target, report, find_directory())
    return name_farm_command(target, None, "")


def name_farm_command(target: Target, report: FarmReport | None, here: str) -> str:
    """Return the command of the farm of a report, else one that goes on as well.

    `here` is the directory of those who read it, "" if it was removed.  A list that was
    standard input goes on without more of that.
    """
    if report is None or not report.command:
        return shlex.join(["mpifarm", *farm_words_of(target)])
    # A pipe of the shell has gone, and its name with it.
    words = [
        UNKNOWN_LIST if is_passing(word) else word
        for word in _without_given(report.command)
    ]
    command = shlex.join(words)
    if STDIN_LIST in words and not any(word in SEPARATORS for word in words):
        command += " </dev/null"
    if report.directory in ("", here):
        return command
    return f"cd {shlex.quote(report.directory)} && {command}"


def _without_given(words: Sequence[str]) -> Sequence[str]:
    """Return the words with the list that the workdir keeps, if a script gave one.

    The list that a script gives is gone at the end of its farm.
    """
    workdir, name = os.path.split(words[-1])
    if parse_given_name(name) is None:
        return words
    return [*words[:-2], WorkdirPaths(workdir).stdin_list]
