"""The command of a farm, to be given again.

Rules of this file: it reads, and prints nothing.  A farm's options decide what it does,
so the command of the last farm goes before one that only names the list.
"""

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from mpifarm.audit.audit import find_nowhere_of
from mpifarm.audit.snapshot import examine, observer
from mpifarm.commands.argument_words import SEPARATORS, find_options
from mpifarm.commands.options import count_values
from mpifarm.errors import StorageError
from mpifarm.farm.kinds import name_limits
from mpifarm.farm.own_words import name_kept_list
from mpifarm.model.paths import JOB_SCRIPT, WorkdirPaths, parse_given_name
from mpifarm.model.settings import STDIN_LIST, is_passing
from mpifarm.model.wording import agree
from mpifarm.store.farm_file import list_farm_files
from mpifarm.store.farm_report import FarmReport, find_report
from mpifarm.store.nowhere import describe_wait
from mpifarm.store.target import UNKNOWN_LIST, Target, farm_words_of
from mpifarm.submit.shell import find_submit_command
from mpifarm.system import files
from mpifarm.system.processes import find_directory

REMAP: Final = "--remap"

_RUN: Final = "run"
"""The word that may stand in front of a farm's command line."""

_HEAD_BYTES = 100_000
"""How far into a job script its head is looked for; the words of a list may be long."""


def find_farm_command(target: Target) -> str:
    """Return the command of the workdir's last farm, else one that goes on as well."""
    return name_farm_command(target, _find_last_report(target), find_directory())


def find_remap_command(target: Target) -> str:
    """Return the command of the workdir's last farm with ``--remap``."""
    return name_remap_command(target, _find_last_report(target), find_directory())


def find_wait(target: Target) -> str:
    """Return `name_wait` of the farmers in the workdir of a target."""
    contents = examine(os.path.abspath(target.workdir), observer(), locked=False)
    live = sum(claim.may_live for claim in contents.claims)
    return name_wait(target, live, has_lost=bool(find_nowhere_of(contents)))


def name_wait(target: Target, live: int, *, has_lost: bool) -> str:
    """Return what is to be waited for in front of a ``--remap``; "" for nothing.

    It is refused while farms `live`, or may, and while tasks are in no file
    (`has_lost`), since a plain farmer may have them.
    """
    ends = []
    if live:
        ends.append(agree(live, "the farm at work has", "the farms at work have"))
        ends[0] += " ended"
    if has_lost:
        ends.append(describe_wait(WorkdirPaths(target.workdir)))
    return f"once {' and '.join(ends)}, " if ends else ""


def _find_last_report(target: Target) -> FarmReport | None:
    paths = WorkdirPaths(os.path.abspath(target.workdir))
    reports = (find_report(paths, farm) for farm in list_farm_files(paths))
    return next(filter(None, reports), None)


def find_lacking(report: FarmReport | None, kinds: Iterable[str]) -> list[str]:
    """Return those `kinds` of a list for which the farm of a report has no limit.

    Its command would be refused for them.  A farm of an older version tells no limits.
    """
    if report is None:
        return [*kinds]
    limits = report.limits
    return [] if limits is None else [kind for kind in kinds if kind not in limits]


def name_farm_command(
    target: Target, report: FarmReport | None, here: str, kinds: Iterable[str] = ()
) -> str:
    """Return the command of the farm of a report, else one that goes on as well.

    `here` is the directory of those who read it, "" if it was removed.  A list that was
    standard input goes on without more of that.  For a farm of a job that was submitted
    by a script in the workdir, it is the command that submits the script.  The limits
    that it lacks for `kinds` of the list are added, with N for the numbers.
    """
    more = name_limits(find_lacking(report, kinds)).split()
    if report is None or not report.command:
        return shlex.join(["mpifarm", *more, *farm_words_of(target)])
    if submit := find_submission(target, report):
        return _name_new_submission(target, more) if more else submit
    front, words = _split_farm_words(report)
    return _name_command(report, [*front, *more, *words], here)


def _split_farm_words(report: FarmReport) -> tuple[Sequence[str], Sequence[str]]:
    """Return the words of a farm's command up to its options, and the others."""
    words = name_farm_words(report.command)
    size = 2 if _RUN in words[1:2] else 1
    return words[:size], words[size:]


def _name_new_submission(target: Target, more: Sequence[str]) -> str:
    """Return the command that submits a list with `more` options than its job has.

    The script has none of them, and dots stand for what the batch system is asked for.
    """
    *options, tasklist = farm_words_of(target)
    return f"mpifarm submit ... {shlex.join([tasklist, *options, *more])}"


def name_remap_command(
    target: Target, report: FarmReport | None, here: str, kinds: Iterable[str] = ()
) -> str:
    """Return the command of `name_farm_command` with ``--remap``.

    The script of a job that was submitted has no ``--remap``: it is submitted anew.
    Arguments would make the list as it was: the list that the workdir keeps stands for
    them.
    """
    limits = name_limits(find_lacking(report, kinds)).split()
    if report is None or not report.command:
        return shlex.join(["mpifarm", REMAP, *limits, *farm_words_of(target)])
    if find_submission(target, report):
        return _name_new_submission(target, [*limits, REMAP])
    front, words = _split_farm_words(report)
    if not _has_list(words):
        is_here = _is_given_in(report, here)
        workdir = target.workdir if is_here else os.path.abspath(target.workdir)
        words = name_kept_list(find_options(words, count_values), workdir)
    more = [*([] if REMAP in words else [REMAP]), *limits]
    return _name_command(report, [*front, *more, *words], here)


def _name_command(report: FarmReport, words: Sequence[str], here: str) -> str:
    command = shlex.join(words)
    if _has_list(words) and STDIN_LIST in words:
        command += " </dev/null"
    if _is_given_in(report, here):
        return command
    return f"cd {shlex.quote(report.directory)} && {command}"


def _is_given_in(report: FarmReport, here: str) -> bool:
    """Return whether the farm's command is given again in the directory `here`."""
    return report.directory in ("", here)


def find_submission(target: Target, report: FarmReport | None) -> str:
    """Return the command that submits the job of a farm again, "" if none is known.

    It is that of the last job script in the workdir; one that cannot be read, or is not
    of ``mpifarm submit``, counts for none.
    """
    if report is None or report.job is None:
        return ""
    workdir = target.workdir
    names = [name for name in files.find_names(workdir) if _is_job_script(name)]
    numbered = sorted(names, key=lambda name: (len(name), name))
    if not numbered:
        return ""
    path = os.path.join(os.path.abspath(workdir), numbered[-1])
    head = b""
    with suppress(StorageError):
        head = files.find_start(path, _HEAD_BYTES)
    command = find_submit_command(head.decode("utf-8", "replace"))
    # That of a path that cannot be shown stands there quoted.
    return command if command.isprintable() and command[:1] not in "'\"" else ""


_is_job_script = re.compile(JOB_SCRIPT).fullmatch


def name_farm_words(words: Sequence[str]) -> Sequence[str]:
    """Return the words of a farm's command as they can be given again.

    The list that the workdir keeps stands for the one that a script gave, which is gone
    at the end of its farm.  A pipe of the shell is gone as well.
    """
    workdir, name = os.path.split(words[-1] if words else "")
    if parse_given_name(name) is not None:
        return [*words[:-2], WorkdirPaths(workdir).stdin_list]
    if _has_list(words):
        return [UNKNOWN_LIST if is_passing(word) else word for word in words]
    return words


def _has_list(words: Sequence[str]) -> bool:
    return not any(word in SEPARATORS for word in words)
