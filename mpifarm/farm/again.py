"""``--again``: a list begins again, and what was there is moved aside, not removed.

Rules of this file: what is wrong is an `InputError`, with nothing changed.  A job that
its batch system starts again runs the same script: what it has begun, it goes on with.
So does what ``mpifarm supervise`` starts again.
"""

import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from mpifarm.batch.arrays import find_array
from mpifarm.batch.job import BATCH_SYSTEMS, find_job
from mpifarm.batch.launcher import launched_size
from mpifarm.errors import FarmError, InputError
from mpifarm.farm.standard_input import is_kept
from mpifarm.model.paths import WorkdirPaths, copy_staging_of
from mpifarm.model.settings import Settings
from mpifarm.store.aside import (
    finish_move,
    has_begun,
    list_asides,
    move_aside,
    move_back,
    refuse_farmers,
)
from mpifarm.store.claim_journal import Head
from mpifarm.store.directories import make_root
from mpifarm.store.farm_liveness import (
    ClaimEvidence,
    ClaimLock,
    Machine,
    assess_liveness,
    this_machine,
)
from mpifarm.store.file_store import LOCK_TIMEOUT
from mpifarm.system import files
from mpifarm.system.lock import WorkdirLock, lock_paths
from mpifarm.system.processes import find_directory
from mpifarm.tasklists import TaskList, keeps_own_state

RESTARTS: Final = {
    "slurm": "SLURM_RESTART_COUNT",
    "lsf": "LSB_RESTART",
    "sge": "RESTARTED",
}
"""Variables that say that a batch system has started a job once more."""

CHAIN_VARIABLE: Final = "FARM_CHAIN_OF"
"""The variable by which the script of a chain knows its directory and workdir."""

SUPERVISOR_VARIABLE: Final = "MPIFARM_SUPERVISOR"
"""The variable by which all that one ``mpifarm supervise`` starts knows itself."""

_FIRST_START: Final = ("", "0", "N", "n")


def check_again(settings: Settings, tasks: TaskList, *, of_database: bool) -> None:
    """Raise `InputError` for ``--again`` with a list that keeps its own state."""
    if settings.again and of_database:
        raise InputError(
            f"--again is for a list in a file, and the database {settings.tasklist} has"
            " the states of its tasks itself: print it as a list (mpifarm export), and"
            " import that as a new database (mpifarm import)"
        )
    if settings.again and keeps_own_state(tasks, settings.workdir):
        raise InputError(
            f"--again moves the state of a list aside, and the handler"
            f" {settings.handler!r} keeps its own: begin again in the way of that"
            " handler"
        )


def check_launch(
    settings: Settings, environ: Mapping[str, str], *, sees_all: bool
) -> None:
    """Raise `InputError` where several farms would each begin the same list again.

    `sees_all`: whether the ranks of this launch are one farm.
    """
    if not settings.again:
        return
    if find_array(environ):
        raise InputError(
            "--again can't be given in a job array, of which each job would begin the"
            " list again: give it to mpifarm submit --array, which begins again once"
        )
    chain = environ.get(CHAIN_VARIABLE, "")
    if chain.endswith(
        (f" {settings.workdir}", f" {os.path.abspath(settings.workdir)}")
    ):
        raise InputError(
            "--again can't be given in a chain of jobs, of which each would begin the"
            " list again: give it to mpifarm submit --until-done, which begins again"
            " once"
        )
    if not sees_all and launched_size(environ) > 1:
        raise InputError(
            f"--again can't be given to {launched_size(environ)} processes that don't"
            " see each other, of which each would begin the list again: see mpifarm"
            " doctor for the MPI, or start one"
        )


def refuse_at_work(settings: Settings, environ: Mapping[str, str], total: int) -> None:
    """Raise `InputError` for what may be at work in a workdir, as `begin_again` does.

    It reads, without the lock, for a list that is not to begin now.  Raises
    `StorageError`.
    """
    paths = WorkdirPaths(os.path.realpath(settings.workdir))
    *before, _ = _read_starter(paths)
    if not _find_known(_find_starter(environ), before, environ):
        refuse_farmers(paths, this_machine(), total, locked=False)


def begin_again(
    settings: Settings,
    environ: Mapping[str, str],
    total: int = 0,
    sleep: Callable[[float], None] = time.sleep,
    *,
    in_job: bool = True,
) -> str:
    """Move the workdir aside, if its list has begun.  Return a sentence for the user.

    `total` is the number of tasks, 0 if it is not known.  `in_job`: whether the job, or
    the ``mpifarm supervise``, that has begun the list again goes on with it.  Raises
    `InputError` with nothing changed, `StorageError`.
    """
    root = os.path.realpath(settings.workdir)
    paths = WorkdirPaths(root)
    told = finish_begun_move(settings)
    starter = _find_starter(environ) if in_job else _NO_STARTER
    if starter == _NO_STARTER and not files.is_there(root):
        return ""
    make_root(root)  # for the record of who has begun
    named = WorkdirPaths(settings.workdir).root
    lock = WorkdirLock(lock_paths(named, environ, settings.lock_area), sleep=sleep)
    lock.probe()
    with lock.hold(LOCK_TIMEOUT):
        *before, process = _read_starter(paths)
        known = _find_known(starter, before, environ)
        if known:
            return f"--again: {known} has begun this list again before, and goes on"
        machine = this_machine()
        refuse_farmers(paths, machine, total)
        aside = ""
        if has_begun(paths):
            aside = move_aside(root, time.strftime("%Y%m%d-%H%M%S"))
        else:
            _refuse_starting(paths, process, machine)
            # It may be that of another list, with which no task has begun.
            files.remove(paths.fingerprint)
        if in_job:
            content = "\n".join((*starter, _name_process(machine))).encode()
            staging = copy_staging_of(paths.begun_again)
            files.replace(paths.begun_again, staging, content)
    return _describe(settings, aside) if aside else told


def finish_begun_move(settings: Settings) -> str:
    """Put the next workdir in its place if a kill has left none.  Return a sentence.

    It has to come before anything makes a workdir in that place.  Raises `InputError`
    with nothing changed, `StorageError`.
    """
    refuse_place(settings)
    root = os.path.realpath(settings.workdir)
    if not finish_move(root):
        return ""
    return _describe(settings, *list_asides(root)[-1:])


def undo(
    settings: Settings, environ: Mapping[str, str], ours: bytes | None = None
) -> str:
    """Put the workdir that `begin_again` has just moved in its place again.

    Return what the user is told of it.  It is not done if others have begun something
    there since; a list that is there may be `ours`.
    """
    root = os.path.realpath(settings.workdir)
    asides = list_asides(root)
    if not asides:
        return "nothing is left of the workdir of before"
    aside = asides[-1]
    named = WorkdirPaths(settings.workdir).root
    lock = WorkdirLock(lock_paths(named, environ, settings.lock_area))
    is_done = False
    with suppress(FarmError), lock.hold(LOCK_TIMEOUT):
        is_done = move_back(root, aside, ours)
    shown, before = settings.workdir.rstrip("/"), _show(settings, aside)
    if is_done:
        return f"{shown} is as it was before --again"
    place = root if before == aside else shown
    moves = (["mv", place, f"{place}.new"], ["mv", before, place])
    return (
        f"to have the workdir of before --again: {' && '.join(map(shlex.join, moves))}"
    )


def _describe(settings: Settings, aside: str = "") -> str:
    """Return the sentence about a workdir that was moved to `aside`, if known."""
    if not aside:
        return "--again: all tasks are to run"
    shown = _show(settings, aside)
    return f"--again: all tasks are to run; the workdir of before is {shown}"


def _show(settings: Settings, aside: str) -> str:
    """Return the path of a workdir that was moved, by the name that the user knows."""
    root = os.path.realpath(settings.workdir)
    is_by_name = root == os.path.abspath(settings.workdir)
    return settings.workdir.rstrip("/") + aside[len(root) :] if is_by_name else aside


def refuse_place(settings: Settings) -> None:
    """Raise `InputError` if list, INI file or commands are in the workdir.

    They would go with it.  A list that is kept there is in the next workdir, too.
    """
    root = os.path.realpath(settings.workdir)
    kept = WorkdirPaths(root).stdin_list
    tasklist = os.path.realpath(settings.tasklist)
    if not is_kept(settings) and tasklist != kept and _is_in(tasklist, root):
        raise InputError(
            f"--again moves {settings.workdir} aside, and the list {settings.tasklist}"
            " is in it: move the list elsewhere, and name the workdir by --workdir"
        )
    if settings.config and _is_in(os.path.realpath(settings.config), root):
        raise InputError(
            f"--again moves {settings.workdir} aside, and the file {settings.config} of"
            " --config is in it: move the file elsewhere"
        )
    here = find_directory()  # a farm tells of one that is gone
    if here and _is_in(os.path.realpath(here), root):
        raise InputError(
            f"--again moves {settings.workdir} aside, and the commands would run in it:"
            " go to another directory, or name one by --chdir"
        )


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory + "/")


def _name_job(environ: Mapping[str, str]) -> str:
    """Return the batch job of this process in words, "" outside of one."""
    job = find_job(environ)
    return f"{BATCH_SYSTEMS[job[0]]} job {job[1]}" if job else ""


_NO_STARTER: Final = ("", "")


def _find_starter(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the batch job, and the mark of ``mpifarm supervise``; "" without one."""
    return _name_job(environ), environ.get(SUPERVISOR_VARIABLE, "")


def _find_known(
    starter: tuple[str, str], before: Sequence[str], environ: Mapping[str, str]
) -> str:
    """Return who of `starter` has begun the list again `before`, "" if nobody has."""
    job, supervisor = starter
    if job and job == before[0] and _is_restart(environ):
        return job
    return "mpifarm supervise" if supervisor and supervisor == before[1] else ""


def _is_restart(environ: Mapping[str, str]) -> bool:
    """Return whether the batch system may have started this job before.

    Where it says nothing of that, a job that is no user's terminal may be one.
    """
    job = find_job(environ)
    variable = RESTARTS.get(job[0]) if job else None
    if variable is None:
        return not os.isatty(0)
    return environ.get(variable, "") not in _FIRST_START


def _read_starter(paths: WorkdirPaths) -> list[str]:
    """Return job and supervisor that have begun the list, and their process."""
    content = files.find_content(paths.begun_again) or b""
    lines = content.decode("utf-8", "replace").split("\n")
    return [*lines, "", "", ""][:3]


def _name_process(machine: Machine) -> str:
    """Return the words by which others see whether this process lives."""
    start = machine.find_process_start(machine.pid)
    return f"{machine.pid} {start or 0} {machine.host} {machine.boot_id}"


def _refuse_starting(paths: WorkdirPaths, process: str, machine: Machine) -> None:
    """Raise `InputError` if another process begins the same list again just now.

    It has no claim yet, and would share its list.  Raises `StorageError`.
    """
    found = re.fullmatch(r"([0-9]{1,9}) ([0-9]{1,15}) (\S+) (\S*)", process, re.ASCII)
    if found is None or process == _name_process(machine):
        return
    pid, start, host, boot_id = found.groups()
    head = Head("", host, boot_id, int(pid), int(start), 0.0, ())

    def find_age() -> float:
        written = os.stat(paths.begun_again).st_mtime
        return machine.read_file_clock(paths.root) - written

    evidence = ClaimEvidence(
        head, is_damaged=False, lock=ClaimLock.UNTRIED, find_age=find_age
    )
    liveness = assess_liveness(evidence, machine)
    if liveness.is_at_work:
        raise InputError(
            f"--again: an mpifarm {head.where} begins this list again just now: to work"
            " beside it, wait until its farm runs, and leave --again out"
        )
    if liveness.may_live:
        raise InputError(
            f"--again: an mpifarm {head.where} begins this list again just now, or"
            " ended in the last minute: give the same command again in a minute, or, to"
            " work beside it once its farm runs, leave --again out"
        )
