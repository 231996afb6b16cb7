"""The workdir and the tasklist that the arguments of a subcommand name.

Rules of this file: it finds and reads, and creates nothing.  A mistake is an InputError
of one sentence.  A disk that fails is a StorageError, which `patience_of` lets pass for
a while.
"""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.database.names import DATABASE_HANDLER, choose_handler
from mpifarm.errors import InputError, StorageError
from mpifarm.model.paths import JOB_ENDINGS, WorkdirPaths
from mpifarm.store.farm_file import find_last_farm_file, read_farm_files
from mpifarm.store.held_file import NOTHING_HELD, Held, find_held
from mpifarm.store.strangers import validate_contents, validate_place
from mpifarm.store.target import (
    SUFFIX,
    Target,
    find_existing_lock,
    find_lock,
    find_tasklist_of,
    find_workdir_of_kept,
    has_own_state,
    recall_handler,
    refuse_status_file,
)
from mpifarm.system import files
from mpifarm.system.lock import WorkdirLock
from mpifarm.system.patience import COMMAND_SECONDS, Patience, try_again
from mpifarm.tasklists import TaskList, name_near

_NAMES = {
    "workdir": "the workdir",
    "tasklist": "--list",
    "config": "--config",
    "lock_area": "--lock-area",
}
"""The arguments that are names of files or directories, in words."""


class NotBegunError(InputError):
    """No farm has begun a list; its job may wait in the queue of a batch system."""


def add_target_arguments(parser: SubcommandParser, *, after: str = "") -> None:
    """Add the arguments by which a workdir and its tasklist are named.

    `after` stands after the workdir in an example.  ``--list`` is not ``--tasklist``,
    because that names the handler, here as in a farm's command line.
    """
    parser.add_argument(
        "workdir", metavar="WORKDIR", help="the workdir, or its tasklist"
    )
    parser.add_argument(
        "--list",
        metavar="FILE",
        dest="tasklist",
        help="the tasklist (default: the workdir's name without _workdir, or the"
        " stdin.txt in it)",
    )
    parser.add_argument(
        "--tasklist",
        "-t",
        metavar="HANDLER",
        dest="handler",
        help="the --tasklist that the farm was given (default: that of the last farm)",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="the --config that the farm was given"
    )
    parser.add_argument(
        "--lock-area", metavar="DIR", help="the --lock-area that the farm was given"
    )
    parser.set_defaults(example=f"{parser.prog} DIR {after}".rstrip())


def patience_of(complain: Callable[[str], None]) -> Patience:
    """Return the limit to which a subcommand tries a failing disk again.

    `complain` gets a sentence at the first failure, and at the success after that.
    """
    return Patience("the disk", COMMAND_SECONDS, complain, "can be used again")


def find_target(chosen: Any, environ: Mapping[str, str]) -> Target:
    """Return the workdir and list that `chosen` names (`add_target_arguments`).

    The user may name the list in place of the workdir.  What is not typed is as for a
    farm (`commands.defaults`); a handler that nobody names is that of the workdir's
    last farm.  Raises `InputError` if there is
    no such workdir, or if a farm could not use it; `StorageError` if the disk fails.
    """
    for name, what in _NAMES.items():
        if getattr(chosen, name) == "":
            raise InputError(f"the name of {what} is empty: is a variable not set?")
    is_typed = chosen.config is not None
    complete(chosen, environ)
    os.path.abspath(chosen.workdir)  # raises in a directory that is gone
    workdir, tasklist = chosen.workdir, chosen.tasklist
    is_begun = True
    if tasklist is None and (root := find_workdir_of_kept(workdir)):
        workdir = root
    elif files.is_file(workdir):
        is_begun = not _is_database(workdir, chosen.handler or "default")
        workdir, tasklist = _find_workdir(
            workdir, tasklist, chosen.example, is_begun=is_begun
        )
    elif not files.is_there(workdir) and files.is_directory(workdir + SUFFIX):
        workdir += SUFFIX  # the list is gone
    if is_begun or files.is_there(workdir):
        _check_workdir(workdir, is_begun=is_begun)
    if tasklist is None:
        tasklist = find_tasklist_of(workdir) or _find_database_of(workdir)
    validate_place(workdir, tasklist)
    validate_contents(WorkdirPaths(os.path.abspath(workdir)))
    options = chosen.config, chosen.lock_area
    target = Target(
        *(workdir, tasklist, chosen.handler or "default", *options),
        has_typed_config=is_typed,
    )
    return target if chosen.handler else recall_handler(target)


def complete(chosen: Any, environ: Mapping[str, str]) -> None:
    """Fill in what is not typed of a farm's handler, INI file and lock area.

    What nobody has said stays None.  Raises `InputError` for a wrong value in a file or
    a variable.
    """
    from mpifarm.commands.defaults import find_words

    words = find_words(environ)
    for name, option in _OF_FARM.items():
        if getattr(chosen, name, "") is None:
            setattr(chosen, name, words.get(option))


_OF_FARM = {
    "handler": "--tasklist",
    "config": "--config",
    "lock_area": "--lock-area",
}
"""Options of a farm that its subcommands need, by the fields of what was chosen."""


def _is_database(named: str, handler: str) -> bool:
    """Return whether a list has the states of its tasks, without a workdir, too."""
    return choose_handler(handler, named) == DATABASE_HANDLER


def _find_workdir(
    named: str, tasklist: str | None, example: str, *, is_begun: bool
) -> tuple[str, str]:
    """Return the workdir of the tasklist `named`, and that tasklist.

    `tasklist` is the value of ``--list``.  Raises `InputError` for both, or without a
    workdir where there has to be one (`is_begun`).
    """
    if tasklist is not None:
        raise InputError(
            f"{named} is not a directory: give the workdir with --list {tasklist}"
        )
    workdir = named + SUFFIX
    if not is_begun:
        return _find_place(named) or workdir, named
    if not files.is_directory(workdir):
        refuse_status_file(named)
        raise InputError(
            f"no workdir {workdir}: no farm has run this list.  If you used --workdir"
            f" DIR, run: {example} --list {shlex.quote(named)}"
        )
    return workdir, named


def _find_place(database: str) -> str | None:
    """Return the workdir that a database names, if it is there."""
    with suppress(ModuleNotFoundError):  # no SQLite: the reading will tell
        from mpifarm.database.copy import find_place

        place = find_place(database)
        if place is not None and files.is_directory(place):
            return place
    return None


def _find_database_of(workdir: str) -> str | None:
    """Return the database of the last farm of a workdir, None if it had none."""
    for state in read_farm_files(WorkdirPaths(os.path.abspath(workdir))):
        tasklist = str(state.get("tasklist", ""))
        is_database = _is_database(tasklist, str(state.get("handler", "")))
        if is_database and files.is_file(tasklist):
            return tasklist
    return None


def _check_workdir(workdir: str, *, is_begun: bool = True) -> None:
    """Raise `InputError` unless `workdir` is a readable directory that a farm began.

    That of a database may have been made just now, and have nothing in it yet.
    """
    if not files.is_directory(workdir):
        if tasklist := find_tasklist_of(workdir):
            raise InputError(f"no workdir {workdir}: no farm has run {tasklist} yet")
        raise InputError(
            f"no workdir {workdir}: name a workdir, or the tasklist of one"
            f"{name_near(workdir)}"
        )
    paths = WorkdirPaths(workdir)
    marks = (
        *(paths.toprocess, paths.finished, paths.failed, paths.logs),
        *(paths.claims, paths.fingerprint, paths.timeline, paths.lock),
        paths.attempts,
    )
    if not files.is_permitted(workdir, os.R_OK | os.X_OK):
        raise InputError(f"cannot read the workdir {workdir}: ask its owner")
    if is_begun and not any(map(files.is_there, marks)):
        for ending in JOB_ENDINGS:
            if files.is_there(paths.job_script(ending, 1)):
                raise NotBegunError(_explain_waiting(workdir, ending))
        raise InputError(
            f"{workdir} is not a workdir: it has neither status files nor logs"
        )


def _explain_waiting(workdir: str, system: str) -> str:
    """Return why nothing is known yet of a list that was submitted."""
    from mpifarm.submit.systems import SYSTEMS  # for lists that wait

    look = SYSTEMS[system].look("")
    return (
        f"no farm has begun this list yet: its job waits in the queue ({look} lists"
        f" it), or ended before the farm began ({workdir} has its script and output)"
    )


def look_at_held(target: Target, patience: Patience) -> Held:
    """Return what users hold, nothing if the disk goes on failing."""
    paths = WorkdirPaths(os.path.abspath(target.workdir))
    try:
        found = try_again(lambda: find_held(paths), patience)
    except StorageError:
        return NOTHING_HELD
    return found[0] if found else NOTHING_HELD


def ask_for_list(workdir: str) -> str:
    """Return the end of a sentence that lacks the list of a workdir."""
    last = find_last_farm_file(WorkdirPaths(os.path.abspath(workdir)))
    beside = workdir.rstrip("/").removesuffix(SUFFIX)
    named = last.get("tasklist") or os.path.abspath(beside)
    if files.is_file(named):
        return f": add --list {shlex.quote(named)}"
    if not last.get("tasklist") and not workdir.rstrip("/").endswith(SUFFIX):
        return ": add --list FILE"
    shown = beside if named == os.path.abspath(beside) else named
    return f", and {shown} is gone: move it back, or add --list FILE"


def texts_of(tasks: TaskList | None, target: Target, what: str) -> Sequence[str]:
    """Return the texts of the tasks, which the action `what` needs.

    Raises `InputError` if the list is unknown (None) or keeps its own state.
    """
    if tasks is None:
        raise InputError(f"{what} needs the tasklist{ask_for_list(target.workdir)}")
    if has_own_state(tasks, target):
        raise InputError(
            f"{what} is impossible: the tasklist handler {target.handler!r} keeps the"
            " state of the tasks itself"
        )
    return tasks.tasks


def probe_lock(
    target: Target, environ: Mapping[str, str], rehearse: Callable[[], object]
) -> WorkdirLock:
    """Make the lock files of a workdir if needed.  Return the lock, not yet taken.

    Without lock files no farm runs: then `rehearse` is called first, so that a mistake
    is reported before the files are made.  Raises `InputError`, `StorageError`, and
    what `rehearse` raises.
    """
    lock = find_lock(target, environ)
    if find_existing_lock(target, environ) is None:
        rehearse()
    lock.probe()
    return lock
