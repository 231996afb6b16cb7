"""Which workdir, which tasklist and which lock a subcommand means.

Rules of this file: it finds and reads, and creates nothing.  What is wrong is an
InputError of one sentence.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from mpifarm.arguments import SubcommandParser
from mpifarm.errors import InputError
from mpifarm.lock import WorkdirLock, lock_paths
from mpifarm.plugins import find_handler, find_places
from mpifarm.tasklists import TaskList, keeps_own_state, open_tasklist
from mpifarm.workdir import WorkdirPaths, make_root
from mpifarm.workdir.opening import judge_access

SUFFIX = "_workdir"


class Place(NamedTuple):
    """What the user has named.  `tasklist` is None where it can't be found."""

    workdir: str
    tasklist: str | None
    handler: str = "default"
    config: str | None = None
    lock_area: str | None = None


def add_place_arguments(parser: SubcommandParser) -> None:
    """The arguments by which a workdir and its tasklist are named.

    It is ``--list`` and not ``--tasklist``, for that one names the handler, in a farm's
    command line as well as in this one.
    """
    parser.add_argument(
        "workdir", metavar="WORKDIR", help="the workdir; or its tasklist"
    )
    parser.add_argument(
        "--list",
        metavar="FILE",
        dest="tasklist",
        help="the tasklist (default: the workdir's name without _workdir)",
    )
    parser.add_argument(
        "--tasklist",
        "-t",
        metavar="HANDLER",
        dest="handler",
        default="default",
        help="the handler that reads the tasklist, as the farm was given it",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="the INI file that the farm was given"
    )
    parser.add_argument(
        "--lock-area", metavar="DIR", help="the lock area that the farm was given"
    )


def find_place(chosen: Any) -> Place:
    """Out of what `add_place_arguments` has got; raises `InputError`."""
    for name in ("workdir", "tasklist", "config", "lock_area"):
        if getattr(chosen, name) == "":
            raise InputError(f"a name ({name}) is empty: is a variable not set?")
    workdir, tasklist = chosen.workdir, chosen.tasklist
    if os.path.isfile(workdir):
        workdir, tasklist = _find_workdir(workdir, tasklist)
    _check_workdir(workdir)
    if tasklist is None:
        tasklist = _find_tasklist(workdir)
    return Place(workdir, tasklist, chosen.handler, chosen.config, chosen.lock_area)


def words_of(place: Place) -> list[str]:
    """The words by which a command line of a subcommand names it."""
    words = [place.workdir]
    is_default = place.workdir.rstrip("/") == f"{place.tasklist}{SUFFIX}"
    if place.tasklist is not None and not is_default:
        words += ["--list", place.tasklist]
    return words + _options_of(place)


def farm_words_of(place: Place) -> list[str]:
    """The words of a farm's command line that farms it; its tasklist is known."""
    words = _options_of(place)
    if place.workdir.rstrip("/") != f"{place.tasklist}{SUFFIX}":
        words += ["--workdir", place.workdir]
    return [*words, place.tasklist or ""]


def _options_of(place: Place) -> list[str]:
    words: list[str] = []
    if place.config is not None:
        words += ["--config", place.config]
    if place.handler != "default":
        words += ["-t", place.handler]
    if place.lock_area is not None:
        words += ["--lock-area", place.lock_area]
    return words


def _find_workdir(named: str, tasklist: str | None) -> tuple[str, str]:
    """Workdir and tasklist, where the user has named the tasklist instead."""
    if tasklist is not None:
        raise InputError(f"{named} is not a directory: with --list name the workdir")
    workdir = named + SUFFIX
    if not os.path.isdir(workdir):
        raise InputError(
            f"there is no {workdir}: nothing was begun with {named}, or in another"
            f" --workdir (then name that, and --list {named})"
        )
    return workdir, named


def _check_workdir(workdir: str) -> None:
    if not os.path.isdir(workdir):
        raise InputError(f"there is no workdir {workdir}")
    paths = WorkdirPaths(workdir)
    marks = (
        *(paths.toprocess, paths.finished, paths.failed, paths.logs),
        *(paths.claims, paths.fingerprint, paths.timeline, f"{workdir}/lock"),
    )
    if not os.access(workdir, os.R_OK | os.X_OK):
        raise InputError(f"the workdir {workdir} can't be read: ask its owner")
    if not any(map(os.path.lexists, marks)):
        raise InputError(
            f"{workdir} is no workdir: it has neither status files nor logs"
        )


def _find_tasklist(workdir: str) -> str | None:
    path = workdir.rstrip("/")
    tasklist = path.removesuffix(SUFFIX)
    return tasklist if tasklist != path and os.path.isfile(tasklist) else None


def read_tasks(place: Place, environ: Mapping[str, str]) -> TaskList | None:
    """The tasks; None where no tasklist is known.  Raises `InputError`."""
    if place.tasklist is None:
        return None
    handler = find_handler(place.handler, find_places(environ, place.config))
    return open_tasklist(handler, place.tasklist, place.workdir, lambda: lambda: None)


def has_own_state(tasks: TaskList | None, place: Place) -> bool:
    """Whether the tasklist keeps by itself what is done, and no file tells it."""
    return tasks is not None and keeps_own_state(tasks, place.workdir)


def find_lock(place: Place, environ: Mapping[str, str]) -> WorkdirLock:
    """The lock that a farm would take; its files are made when it is probed.

    Raises `InputError` where the workdir could not be written to.
    """
    root = os.path.abspath(place.workdir)
    make_root(root)
    judge_access(WorkdirPaths(root))
    return WorkdirLock(lock_paths(place.workdir, environ, place.lock_area))


def find_existing_lock(place: Place, environ: Mapping[str, str]) -> WorkdirLock | None:
    """The same, as far as it is there; None where no farmer has ever taken one."""
    paths = lock_paths(place.workdir, environ, place.lock_area)
    there = [path for path in paths if os.path.lexists(path)]
    return WorkdirLock(there) if there else None
