"""Rank 0's part of a farm: open the list and the workdir, conduct, conclude.

Rules of this file: all that can be wrong with the input is found before anything is
changed, as an `InputError`; what is said at the end is what is on disk then.
"""

import os
import secrets
import time
from collections.abc import Sequence
from typing import cast

from mpifarm.conductor import Conductor
from mpifarm.config import FarmDefinition
from mpifarm.coordinator import Coordinator
from mpifarm.errors import ExitStatus, FarmError
from mpifarm.lock import WorkdirLock, lock_paths
from mpifarm.rank import RankParts
from mpifarm.report import FailedTask, Standing, Summary, Tally
from mpifarm.runners import find_runner
from mpifarm.tasklists import TaskList, open_tasklist
from mpifarm.workdir import Counts, Workdir, make_root

MOST_FAILED_SHOWN = 10
CONCLUDE_SECONDS = 10.0
"""How long the end of a farm waits for the lock."""


def farm_from_rank_0(parts: RankParts) -> tuple[ExitStatus, bool]:
    """The whole farm; returns the exit status and whether ranks were lost.

    Raises InputError for what the user has to mend.
    """
    begun = time.monotonic()
    settings, voice = parts.settings, parts.around.voice
    runner = find_runner(settings.runner)
    tasks = open_tasklist(settings.handler, settings.tasklist, settings.workdir)
    if len(tasks) == 0:
        voice.say(f"{settings.tasklist} has no tasks")
        parts.dismiss()
        return ExitStatus.ALL_FINISHED, False
    path = os.path.abspath(settings.workdir)
    area = lock_paths(settings.workdir, parts.around.environ, settings.lock_area)
    lock = WorkdirLock(area)
    make_root(path)
    lock.probe()
    farm = secrets.token_hex(4)
    workdir = Workdir.open(path, tasks.tasks, lock, farm)
    definition = FarmDefinition(farm, path, runner, settings.grace)
    conductor = _create_conductor(parts, tasks, workdir, lock, definition, begun)
    for line in _opening(parts, conductor):
        voice.say(line)
    conductor.run(parts.create_loop(conductor.hear, begun))
    return _conclude(conductor, parts, begun), bool(conductor.lost_ranks())


def _size(parts: RankParts) -> int:
    return parts.comm.size if parts.comm else 1


def _create_conductor(
    parts: RankParts,
    tasks: TaskList,
    workdir: Workdir,
    lock: WorkdirLock,
    definition: FarmDefinition,
    begun: float,
) -> Conductor:
    settings, size = parts.settings, _size(parts)
    commands = cast(Sequence[str], tasks)  # len() and [] are what a handler has
    coordinator = Coordinator(
        commands,
        definition,
        size,
        settings.workers,
        begun,
        settings.timeout,
        waits_for_others=parts.waits_for_others,
    )
    tally = Tally(begun, worker_count=size * settings.workers)
    return Conductor(coordinator, workdir, lock, tally, parts)


def _opening(parts: RankParts, conductor: Conductor) -> Sequence[str]:
    definition = conductor.coordinator.definition
    size, workers = _size(parts), parts.settings.workers
    total = len(conductor.coordinator.commands)
    finished, failed = conductor.workdir.recorded
    before = f", {finished} finished and {failed} failed before"
    what = (
        f"farm {definition.farm}: {total} {'task' if total == 1 else 'tasks'} of "
        f"{parts.settings.tasklist}{before if finished or failed else ''}"
    )
    where = (
        f"{size} {'rank' if size == 1 else 'ranks'} of {workers} "
        f"{'worker' if workers == 1 else 'workers'}, workdir {definition.workdir}"
    )
    return what, where, conductor.lock.describe()


def _conclude(conductor: Conductor, parts: RankParts, begun: float) -> ExitStatus:
    """Count what is on disk, give the claim up, say how it went."""
    workdir, coordinator = conductor.workdir, conductor.coordinator
    notes = _notes_of(conductor)
    status = ExitStatus.RUN_AGAIN
    standing = Standing(
        len(coordinator.commands), *workdir.recorded, 0, 0, is_complete=False
    )
    failed: list[FailedTask] = []
    try:
        # A disk that has failed once isn't waited for again.
        patience = 0.5 if coordinator.storage_failed else CONCLUDE_SECONDS
        with conductor.lock.hold(timeout=patience):
            counts = workdir.counts()
            standing = _standing(counts)
            failed = _failed_tasks(conductor, parts.settings.workdir, counts)
            if not workdir.close():
                notes.append(
                    "the tasks that this farm still held stand in its claim; the next "
                    "start takes them back"
                )
        if not coordinator.storage_failed:
            status = standing.exit_status
    except FarmError as error:
        if not coordinator.storage_failed:
            notes.append(str(error))
    now = time.monotonic()
    summary = Summary(
        farm=coordinator.definition.farm,
        tasklist=parts.settings.tasklist,
        workdir=parts.settings.workdir,
        ranks=_size(parts),
        seconds=now - begun,
        standing=standing,
        tally=conductor.tally,
        failed=failed,
        busy_share=conductor.tally.busy_share(now),
        status=status,
        reason=coordinator.reason,
        notes=notes,
    )
    for line in summary.lines():
        parts.around.voice.say(line)
    try:
        workdir.write_result(summary.payload())
    except FarmError as error:
        if not coordinator.storage_failed:
            parts.around.voice.complain(str(error))
    return status


def _standing(counts: Counts) -> Standing:
    return Standing(
        total=counts.total,
        finished=counts.finished,
        failed=counts.failed,
        toprocess=counts.toprocess + counts.held,
        elsewhere=counts.claimed + counts.elsewhere,
    )


def _failed_tasks(
    conductor: Conductor, workdir: str, counts: Counts
) -> list[FailedTask]:
    """The first of this farm, then those of earlier ones."""
    statuses = conductor.tally.statuses
    before = [taskid for taskid in counts.first_failed if taskid not in statuses]
    return [
        FailedTask(taskid, statuses.get(taskid), f"{workdir}/logs/log_{taskid}")
        for taskid in [*statuses, *before][:MOST_FAILED_SHOWN]
    ]


def _notes_of(conductor: Conductor) -> list[str]:
    notes = []
    lost = conductor.lost_ranks()
    if lost:
        ranks = ", ".join(map(str, lost))
        notes.append(f"ranks that did not answer and were given up: {ranks}")
    unrecorded = [
        taskid
        for taskid in conductor.coordinator.unrecorded
        if not conductor.workdir.has_record_of(taskid)
    ]
    if unrecorded:
        first = ", ".join(map(str, unrecorded[:10]))
        more = f" and {len(unrecorded) - 10} more" if len(unrecorded) > 10 else ""
        notes.append(f"could not be recorded, will run again: tasks {first}{more}")
    return notes
