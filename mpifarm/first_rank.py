"""Rank 0's part of a farm: open the list and the workdir, conduct, conclude.

Rules of this file: all that can be wrong with the input is found before anything is
changed, as an `InputError`; what is said at the end is what is on disk then.
"""

import math
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

from mpifarm.classes import in_one_line
from mpifarm.conductor import Conductor
from mpifarm.config import FarmDefinition, Policy, RunnerDefinition, Settings
from mpifarm.coordinator import Coordinator, Crew
from mpifarm.cpus import (
    binding_warning,
    cpus_of_machine,
    cpus_of_rank,
    find_sharers,
)
from mpifarm.errors import ExitStatus, FarmError, InputError, StorageError
from mpifarm.lock import WorkdirLock, lock_paths
from mpifarm.messages import ToCoordinator
from mpifarm.plugins import find_handler, find_places, find_runner
from mpifarm.rank import RankLoop, RankParts
from mpifarm.report import FailedTask, Standing, Summary, Tally
from mpifarm.runners import check_runner
from mpifarm.signals import SignalInbox
from mpifarm.tasklists import ListTaskList, TaskList, keeps_own_state, open_tasklist
from mpifarm.workdir import (
    FAMILY,
    ChangedError,
    Counts,
    ForeignWorkdir,
    JoinedWorkdir,
    OwnStateList,
    Workdir,
    WorkdirPaths,
    make_directories,
    make_root,
)

MOST_FAILED_SHOWN = 10
TELL_SECONDS = 3.0
"""Of sleep, while the start waits for the lock, before that is told."""

CONCLUDE_SECONDS = 10.0
"""How long the end of a farm waits for the lock."""

LEFT_IN_CLAIM = (
    "the tasks that this farm still held stand in its claim; the next start takes them"
    " back"
)


class Ended(NamedTuple):
    """How a farm has ended, for the rank's last act."""

    status: ExitStatus
    lost: bool = False
    """Whether ranks were lost: MPI can't be left together with all."""
    silent: tuple[int, ...] = ()
    """Those that may only hang."""


def farm_from_rank_0(parts: RankParts) -> Ended:
    """The whole farm; raises InputError for what the user has to mend."""
    runner, tasks = _read_definitions(parts)
    if len(tasks) == 0:
        _check_not_begun(parts.settings)
        parts.around.voice.say(f"{parts.settings.tasklist} has no tasks")
        parts.dismiss()
        return Ended(ExitStatus.ALL_FINISHED)
    conductor = _prepare(parts, tasks, runner, "")
    for line in _opening(parts, conductor):
        parts.around.voice.say(line)
    _say_if(parts, _warn_of_binding(parts))
    loop = parts.create_loop(conductor.hear, time.monotonic())
    loop.lead()
    loop.join()
    return _conduct(parts, conductor, loop)


def _check_not_begun(settings: Settings) -> None:
    """A list that has no tasks any more is an edited one."""
    paths = WorkdirPaths(os.path.abspath(settings.workdir))
    if os.path.exists(paths.fingerprint):
        raise InputError(
            f"{settings.tasklist} has no tasks, but {settings.workdir} was begun with "
            "some: restore the list, or name another --workdir"
        )


def take_over(
    parts: RankParts, loop: RankLoop, early: Sequence[tuple[int, ToCoordinator]]
) -> Ended:
    """The rest of a farm whose coordinator was lost; this rank is the lowest now.

    Its `loop` goes on.  `early`: what other ranks have said to this one already.
    """
    parts.around.voice.speak_up()
    before = loop.definition
    runner, tasks = _read_definitions(parts)
    runner = before.runner if before else runner
    conductor = _prepare(parts, tasks, runner, before.farm if before else "")
    own = conductor.coordinator.crew.own
    before_it = list(range(own))
    which = f"ranks {_listed(before_it)} are" if own > 1 else "rank 0 is"
    parts.around.voice.say(
        f"{which} lost: rank {own} on {loop.host} leads from here, as farm "
        f"{conductor.coordinator.definition.farm}; what they ran runs again"
    )
    loop.send_through(conductor.hear)
    conductor.take_over(loop, early)
    return _conduct(parts, conductor, loop)


def _listed(ranks: Sequence[int]) -> str:
    *first, last = map(str, ranks)
    return f"{', '.join(first)} and {last}" if first else last


def _prepare(
    parts: RankParts, tasks: TaskList, runner: RunnerDefinition, inherits: str
) -> Conductor:
    """Join the workdir; `inherits` names the farm whose claim is taken over, if any."""
    settings = parts.settings
    definition = FarmDefinition(
        farm=inherits[:FAMILY] + secrets.token_hex(FAMILY // 2),
        workdir=os.path.abspath(settings.workdir),
        runner=runner,
        grace=settings.grace,
        limits=settings.limits,
        logs=settings.logs,
    )
    workdir, lock = _open_workdir(parts, tasks, definition, inherits)
    return _create_conductor(
        parts, tasks, workdir, lock, definition, takes_over=bool(inherits)
    )


def _conduct(parts: RankParts, conductor: Conductor, loop: RankLoop) -> Ended:
    ending = Ending(conductor, parts)
    conductor.run(loop, ending.conclude)
    coordinator = conductor.coordinator
    lost, silent = coordinator.lost_ranks(), coordinator.silent_ranks()
    return Ended(ending.status, bool(lost), tuple(silent))


def _read_definitions(parts: RankParts) -> tuple[RunnerDefinition, TaskList]:
    """What runs the tasks, and the tasks."""
    settings = parts.settings
    places = find_places(parts.around.environ, settings.config)
    runner = find_runner(settings.runner, places)
    handler = find_handler(settings.handler, places)
    check_runner(runner)
    if settings.gpus != "none":
        from mpifarm.gpus import check_gpus

        _say_if(parts, check_gpus(settings.gpus, parts.around.environ))
    tasks = open_tasklist(
        handler,
        settings.tasklist,
        settings.workdir,
        lambda: make_directories(settings.workdir),
    )
    return runner, tasks


def _say_if(parts: RankParts, sentence: str) -> None:
    if sentence:
        parts.around.voice.say(sentence)


def _open_workdir(
    parts: RankParts, tasks: TaskList, definition: FarmDefinition, inherits: str
) -> tuple[JoinedWorkdir, WorkdirLock]:
    settings, around = parts.settings, parts.around
    area = lock_paths(settings.workdir, around.environ, settings.lock_area)
    sleep = HeedfulSleep(
        around.signals,
        parts.begun,
        settings.timeout,
        lambda: around.voice.say(
            f"the lock ({', '.join(area)}) is held by another farmer; waiting for it"
        ),
    )
    sleep.heeds = not inherits
    lock = WorkdirLock(area, sleep=sleep)
    make_root(definition.workdir)
    lock.probe()
    workdir: JoinedWorkdir
    if keeps_own_state(tasks, settings.workdir):
        if settings.remap:
            raise InputError(
                "--remap changes mpifarm's own status files, and the handler "
                f"{settings.handler!r} keeps its own state: leave the option out"
            )
        own = cast(OwnStateList, tasks)
        workdir = ForeignWorkdir.open(
            definition.workdir, own, lock, definition.farm, inherits=inherits
        )
    else:
        workdir = Workdir.open(
            definition.workdir,
            tasks.tasks,
            lock,
            definition.farm,
            inherits=inherits,
            remap=settings.remap,
        )
    sleep.heeds = False
    return workdir, lock


class HeedfulSleep:
    """How the start waits for the lock: a signal or the timeout ends it.

    `tell` is called once, when it has taken `TELL_SECONDS`.
    """

    def __init__(
        self,
        signals: SignalInbox,
        begun: float,
        timeout: float | None,
        tell: Callable[[], None],
    ) -> None:
        self.heeds = True
        """Whether signals are still ours; later they are the conductor's."""
        self._signals = signals
        self._ends = math.inf if timeout is None else begun + timeout
        self._slept = 0.0
        self._tell = tell

    def __call__(self, seconds: float) -> None:
        """Sleep; raises `StorageError` where the start is to end."""
        time.sleep(seconds)
        before, self._slept = self._slept, self._slept + seconds
        if before <= TELL_SECONDS < self._slept and self.heeds:
            self._tell()
        if self.heeds and self._signals.any_noted:
            raise StorageError("a signal came before the lock: nothing was started")
        if self.heeds and time.monotonic() > self._ends:
            raise StorageError("the timeout came before the lock: nothing was started")


class Commands(Sequence[str]):
    """What the runner gets, by id: what the handler's own ``[]`` says, checked."""

    def __init__(self, tasks: TaskList, handler: str) -> None:
        self._tasks = tasks
        self._handler = handler
        self._count = len(tasks)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, taskid: Any) -> Any:
        """The command; raises `InputError` where the handler has none."""
        try:
            command = self._tasks[taskid]
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code
            why = in_one_line(error)
        else:
            if isinstance(command, str):
                # A string of a class of the user's own can't be sent to a worker.
                return str.__str__(command)
            why = f"it is a {type(command).__name__}, not a text"
        raise InputError(
            f"the handler {self._handler!r} gave no command for task {taskid} ({why})"
        )


def _commands_of(tasks: TaskList, handler: str) -> Sequence[str]:
    """What the runner gets; a list of mpifarm's own needs no checks."""
    if type(tasks) is ListTaskList:
        return tasks.tasks
    return Commands(tasks, handler)


def _policy(settings: Settings, workdir: JoinedWorkdir, *, takes_over: bool) -> Policy:
    """That of the user; in a farm that goes on, the canary has sung already."""
    if takes_over and workdir.recorded[0]:
        return replace(settings.policy, canary=0)
    return settings.policy


def _on_the_monotonic_clock(epoch: float | None) -> float | None:
    return None if epoch is None else time.monotonic() + epoch - time.time()


def _crew(parts: RankParts) -> Crew:
    workers = parts.settings.workers
    if parts.comm is None:
        return Crew((0,), 0, workers)
    ranks = tuple(range(parts.comm.size))
    return Crew(ranks, parts.comm.rank, workers, parts.comm.heals)


def _size(parts: RankParts) -> int:
    return parts.comm.size if parts.comm else 1


def _create_conductor(
    parts: RankParts,
    tasks: TaskList,
    workdir: JoinedWorkdir,
    lock: WorkdirLock,
    definition: FarmDefinition,
    *,
    takes_over: bool,
) -> Conductor:
    settings = parts.settings
    coordinator = Coordinator(
        _commands_of(tasks, settings.handler),
        definition,
        _crew(parts),
        parts.begun,
        policy=_policy(settings, workdir, takes_over=takes_over),
        timeout=settings.timeout,
        deadline=_on_the_monotonic_clock(settings.policy.deadline),
        waits_for_others=parts.waits_for_others,
        adopted=sorted(workdir.held),
    )
    if parts.comm:
        lost = [*parts.comm.lost]
        parts.comm.take_losses()
        coordinator.on_ranks_lost(lost, time.monotonic())
    tally = Tally(parts.begun)
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


def _warn_of_binding(parts: RankParts) -> str:
    """What to say of a rank that has more workers than CPUs; other ranks are alike."""
    environ = parts.around.environ
    return binding_warning(
        environ,
        len(cpus_of_rank()),
        parts.settings.workers,
        cpus_of_machine(),
        find_sharers(environ),
    )


class Ending:
    """The end of a farm: what is on disk is counted, the claim given up, and all said.

    `status` is the exit status, once `conclude` was called.
    """

    def __init__(self, conductor: Conductor, parts: RankParts) -> None:
        self.status = ExitStatus.RUN_AGAIN
        self._conductor = conductor
        self._parts = parts
        total = len(conductor.coordinator.commands)
        self._standing = Standing(total, 0, 0, 0, 0, is_counted=False)
        self._failed: list[FailedTask] = []

    def conclude(self) -> None:
        """Count, give the claim up, say how it went."""
        conductor, voice = self._conductor, self._parts.around.voice
        notes = _notes_of(conductor)
        storage_failed = conductor.coordinator.storage_failed
        try:
            self._count(notes)
        except FarmError as error:
            self._do_without_count()
            if not storage_failed:
                notes.append(str(error))
        summary = self._summary(notes)
        for line in summary.lines():
            voice.say(line)
        try:
            conductor.workdir.write_result(summary.payload())
        except FarmError as error:
            if not storage_failed:
                voice.complain(str(error))

    def _count(self, notes: list[str]) -> None:
        """Raises `FarmError`; what `notes` have got by then is true all the same."""
        conductor, workdir = self._conductor, self._conductor.workdir
        storage_failed = conductor.coordinator.storage_failed
        # A disk that has failed once isn't waited for again.
        patience = 0.5 if storage_failed else CONCLUDE_SECONDS
        with conductor.lock.hold(timeout=patience):
            survey = workdir.survey()
            if not workdir.close():
                notes.append(LEFT_IN_CLAIM)
        try:
            counts = workdir.counts(survey)
        except ChangedError:  # plain farmers rewrite the queue where it stands
            with conductor.lock.hold(timeout=patience):
                counts = workdir.counts(workdir.survey())
        self._standing = _standing(counts)
        self._failed = _failed_tasks(conductor, self._parts.settings.workdir, counts)
        if not storage_failed or counts.finished == counts.total:
            self.status = self._standing.exit_status
        if conductor.coordinator.too_many_failures and not storage_failed:
            self.status = ExitStatus.SOME_FAILED

    def _do_without_count(self) -> None:
        finished, failed = self._conductor.workdir.recorded
        self._standing = self._standing._replace(finished=finished, failed=failed)
        if finished == self._standing.total:
            self.status = ExitStatus.ALL_FINISHED

    def _summary(self, notes: Sequence[str]) -> Summary:
        conductor, settings = self._conductor, self._parts.settings
        coordinator, tally = conductor.coordinator, conductor.tally
        tally.worker_count = sum(rank.workers for rank in coordinator.ranks.values())
        now = time.monotonic()
        return Summary(
            farm=coordinator.definition.farm,
            tasklist=settings.tasklist,
            workdir=settings.workdir,
            ranks=_size(self._parts),
            seconds=now - self._parts.begun,
            standing=self._standing,
            tally=tally,
            failed=self._failed,
            busy_share=tally.busy_share(now),
            status=self.status,
            reason=coordinator.reason,
            notes=notes,
            keeps_own_state=isinstance(conductor.workdir, ForeignWorkdir),
            launch=self._parts.around.environ.get("MPIFARM_LAUNCH", ""),
            place=_place_in_words(settings),
            lost=[
                (rank, coordinator.ranks[rank].host)
                for rank in coordinator.lost_ranks()
            ],
            quarantined=coordinator.quarantined,
        )


def _place_in_words(settings: Settings) -> str:
    """How the user names this workdir to a subcommand."""
    import shlex

    from mpifarm.place import Place, words_of

    place = Place(
        settings.workdir,
        settings.tasklist,
        settings.handler,
        settings.config,
        settings.lock_area,
    )
    return shlex.join(words_of(place))


def _standing(counts: Counts) -> Standing:
    return Standing(
        total=counts.total,
        finished=counts.finished,
        failed=counts.failed,
        toprocess=counts.toprocess + counts.held,
        elsewhere=counts.claimed + counts.elsewhere,
        claimed=counts.claimed,
    )


def _failed_tasks(
    conductor: Conductor, workdir: str, counts: Counts
) -> list[FailedTask]:
    """The first of this farm, then those of earlier ones."""
    statuses = conductor.tally.statuses
    before = [taskid for taskid in counts.first_failed if taskid not in statuses]
    return [
        FailedTask(
            taskid,
            statuses.get(taskid, "failed in an earlier farm"),
            _find_log(workdir, taskid, conductor.coordinator.definition.logs),
        )
        for taskid in [*statuses, *before][:MOST_FAILED_SHOWN]
    ]


def _find_log(workdir: str, taskid: int, kept: str) -> str:
    """The path of its log; empty where it is a part of other files, or not there."""
    path = f"{workdir}/logs/log_{taskid}"
    return path if kept != "packed" and os.path.lexists(path) else ""


def _notes_of(conductor: Conductor) -> list[str]:
    notes = []
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
