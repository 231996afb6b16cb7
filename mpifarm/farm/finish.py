"""The end of a farm: what is on disk is counted, the claim given up, and all said.

Rules of this file: what is said at the end is what is on disk then.
"""

import os
import shlex
import time
from collections.abc import Sequence
from typing import NamedTuple

from mpifarm.errors import ExitStatus, FarmError
from mpifarm.farm.cause_lines import GroupedFailures
from mpifarm.farm.context import RankContext
from mpifarm.farm.growth import explain_left
from mpifarm.farm.kinds import MAX_NAMED, name_limits
from mpifarm.farm.leader import Leader
from mpifarm.farm.summary import FailedTask, ListCounts, Summary
from mpifarm.model.id_ranges import name_ids
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import Settings
from mpifarm.model.wording import agree, counted
from mpifarm.store.custom_store import CustomStore
from mpifarm.store.store import Store
from mpifarm.store.types import Counts
from mpifarm.system.file_contents import ChangedError

MAX_FAILED_SHOWN = 10
MAX_UNRECORDED_SHOWN = 10

CONCLUDE_SECONDS = 10.0
"""Seconds for which the end of a farm waits for the lock."""

CONCLUDE_SECONDS_ON_BAD_DISK = 0.5
"""The same seconds where the disk has failed: it was waited for once already."""

LEFT_IN_CLAIM = (
    "the tasks that this farm still held stand in its claim; the next start takes them"
    " back"
)


class FarmEnd(NamedTuple):
    """The end of a farm, for the rank's last act."""

    status: ExitStatus
    lost: bool = False
    """Whether ranks were lost: MPI can't be left together with all."""
    silent: tuple[int, ...] = ()
    """Lost ranks that may yet live, and hang."""


class Conclusion:
    """The last acts of a farm, when all is on disk and before the ranks leave.

    `status` is the exit status, RUN_AGAIN before `conclude` was called.
    """

    def __init__(self, leader: Leader, context: RankContext) -> None:
        self.status = ExitStatus.RUN_AGAIN
        self._leader = leader
        self._context = context
        self._counts = ListCounts(0, 0, 0, 0, 0, is_counted=False)
        self._failed: list[FailedTask] = []
        self._wrong_line = ""

    def conclude(self) -> None:
        """Count the list, give the claim up, print the summary, write ``result.json``.

        A disk that fails is told, never raised.
        """
        leader, output = self._leader, self._context.process.output
        notes = _list_unrecorded(leader)
        storage_failed = leader.coordinator.storage_failed
        try:
            self._count(notes)
        except FarmError as error:
            self._do_without_count()
            if not storage_failed:
                notes.append(str(error))
        self._look_at_list(notes)
        summary = self._create_summary(notes)
        is_finished = self.status is ExitStatus.ALL_FINISHED
        for line in summary.lines():
            (output.mention if is_finished else output.say)(line)
        if leader.events is not None:
            leader.events.note_ended(summary)
        leader.write_state(self.status.value)
        try:
            leader.store.write_result(summary.payload())
        except FarmError as error:
            if not storage_failed:
                output.complain(str(error))

    def find_end(self) -> FarmEnd:
        """Return the exit status, and which ranks are lost or silent."""
        coordinator = self._leader.coordinator
        silent = tuple(coordinator.silent_ranks())
        return FarmEnd(self.status, bool(coordinator.lost_ranks()), silent)

    def _count(self, notes: list[str]) -> None:
        """Count the list, give the claim up, set the status; add to `notes`.

        Raises `FarmError`; the `notes` added by then are true all the same.
        """
        leader, store = self._leader, self._leader.store
        storage_failed = leader.coordinator.storage_failed
        patience = CONCLUDE_SECONDS
        if storage_failed:
            patience = CONCLUDE_SECONDS_ON_BAD_DISK
        in_array = self._context.settings.in_array
        with leader.lock.hold(timeout=patience):
            survey = store.survey(in_array=in_array)
            if not store.close():
                notes.append(LEFT_IN_CLAIM)
        try:
            counts = store.counts(survey)
        except ChangedError:  # plain farmers rewrite the queue where it stands
            with leader.lock.hold(timeout=patience):
                counts = store.counts(store.survey(in_array=in_array))
        self._counts = _count_list(counts)
        notes += _explain_wait(counts, is_database=store.is_database)
        self._failed = _find_failed(leader, self._context.settings.workdir, counts)
        if not storage_failed or counts.finished == counts.total:
            self.status = self._find_status()
        if leader.coordinator.too_many_failures and not storage_failed:
            self.status = ExitStatus.SOME_FAILED

    def _find_status(self) -> ExitStatus:
        """Return the exit status that the counts mean in this job."""
        in_array = self._context.settings.in_array
        if in_array and self._counts.is_in_good_hands:
            return ExitStatus.ALL_FINISHED
        return self._counts.exit_status

    def _look_at_list(self, notes: list[str]) -> None:
        """Note what the farm leaves of its list, and let the status ask for a start.

        That is what was added last to a farm that was stopped or drained, what was
        edited, and what stands behind a line that is wrong.
        """
        growth = self._leader.growth
        if growth is None or self.status is ExitStatus.RUN_AGAIN:
            return
        left = growth.find_left(time.monotonic())
        if sentence := explain_left(growth.path, left):
            notes.append(sentence)
        is_left = left.added > 0 or bool(left.wrong_line)
        if is_left and not self._leader.coordinator.too_many_failures:
            self.status = ExitStatus.RUN_AGAIN
            self._wrong_line = left.wrong_line

    def _do_without_count(self) -> None:
        """Take the numbers that the store knows, as the list can't be counted."""
        finished, failed = self._leader.store.recorded
        total = len(self._leader.coordinator.commands)
        self._counts = ListCounts(total, finished, failed, 0, 0, is_counted=False)
        if finished == total:
            self.status = ExitStatus.ALL_FINISHED

    def _create_summary(self, notes: Sequence[str]) -> Summary:
        leader, settings = self._leader, self._context.settings
        coordinator, tally = leader.coordinator, leader.tally
        tally.worker_count = sum(rank.workers for rank in coordinator.ranks.values())
        now = time.monotonic()
        keeps_own_state = isinstance(leader.store, CustomStore)
        place = name_workdir(settings)
        no_limit = _find_kinds_left(leader.store)
        return Summary(
            farm=coordinator.definition.farm,
            tasklist=settings.tasklist,
            workdir=settings.workdir,
            ranks=self._context.size,
            seconds=now - self._context.begun,
            counts=self._counts,
            tally=tally,
            has_leased=coordinator.has_leased,
            failed=self._failed,
            busy_share=tally.busy_share(now),
            status=self.status,
            reason=coordinator.reason,
            stopped_because=coordinator.stopped_because,
            way_on=_find_way_on(leader, settings, no_limit),
            no_limit=no_limit,
            began_again=settings.again,
            wrong_line=self._wrong_line,
            all_held=_are_all_held(leader.store, self._counts),
            makes_checkpoints=settings.policy.requeue_status is not None,
            notes=notes,
            keeps_own_state=keeps_own_state,
            is_database=leader.store.is_database,
            launch=self._context.process.environ.get("MPIFARM_LAUNCH", ""),
            place=place,
            outputs_of=place if tally.ran and settings.logs != "failed" else "",
            lost=[
                (rank, coordinator.ranks[rank].host)
                for rank in coordinator.lost_ranks()
            ],
            quarantined=[*coordinator.quarantined.values()],
            causes=_find_causes(leader),
        )


def _are_all_held(store: Store, counts: ListCounts) -> bool:
    """Return whether users hold all tasks that are left, so that a start begins none.

    False if that is not sure: with tasks elsewhere, or such as wait for others.
    """
    held = store.held_by_users
    if not counts.toprocess or held.holds_all:
        return counts.toprocess > 0
    if counts.elsewhere or counts.held_up:
        return False
    return held.count_left(counts.total, store.has_record_of) >= counts.toprocess


def _find_way_on(leader: Leader, settings: Settings, no_limit: Sequence[str]) -> str:
    """Return how to go on where the same command would stop again; "" otherwise.

    `no_limit` are the kinds of what is left because this farm has no limit for it.
    """
    options = name_limits(no_limit[:MAX_NAMED])
    if leader.store.drain_requested():
        drain = shlex.quote(leader.store.paths.drain)
        return f"remove {drain}, and {_describe_command(settings, options)}"
    if options and not leader.coordinator.way_on:
        return _describe_command(settings, options)
    return leader.coordinator.way_on


def _describe_command(settings: Settings, options: str) -> str:
    """Return what to do, in words: to give the command that goes on."""
    without = " without --again" if settings.again else ""
    return f"give the same command{without} {f'with {options}' if options else 'again'}"


def _find_kinds_left(store: Store) -> list[str]:
    """Return the kinds of what is left because this farm has no limit for it."""
    kinds = store.unlimited.find_kinds().items()
    return sorted({kind for taskid, kind in kinds if not store.has_record_of(taskid)})


def name_workdir(settings: Settings) -> str:
    """Return how the user names this workdir to a subcommand."""
    from mpifarm.store.target import find_target_of, words_of

    return shlex.join(words_of(find_target_of(settings)))


def _count_list(counts: Counts) -> ListCounts:
    return ListCounts(
        total=counts.total,
        finished=counts.finished,
        failed=counts.failed,
        toprocess=counts.toprocess + counts.held,
        elsewhere=counts.claimed + counts.elsewhere,
        claimed=counts.claimed,
        in_array=counts.in_array,
        held_up=counts.held_up,
    )


def _explain_wait(counts: Counts, *, is_database: bool) -> list[str]:
    """Return a note on tasks that wait for some that no farm has; [] if none do."""
    if not counts.lost:
        return []
    wait = counted(counts.held_up, "task waits", "tasks wait")
    where = ""
    if counts.barrier is not None:
        where = f" behind the barrier in front of task {counts.barrier}"
    lost = name_ids(counts.lost)
    are = agree(len(counts.lost), "which is", "which are")
    which = agree(len(counts.lost), f"task {lost}", f"tasks {lost}")
    place = "with no farm of mpifarm" if is_database else "in no file"
    return [f"{wait}{where} for {which}, {are} {place}"]


def _find_causes(leader: Leader) -> GroupedFailures | None:
    """Return the failures of this farm by cause; None if there are none.

    None also where tasks were put back after they had failed: their first failures
    would count, too.
    """
    if isinstance(leader.store, CustomStore) or leader.tally.repeated:
        return None
    return leader.group_failures()


def _find_failed(leader: Leader, workdir: str, counts: Counts) -> list[FailedTask]:
    """Return up to `MAX_FAILED_SHOWN` failed tasks, those of this farm first.

    Those that were put back, and have finished in another farm, are left out, unless
    too many have failed to know.
    """
    statuses = leader.tally.statuses
    if len(counts.first_failed) == counts.failed:
        own = statuses.keys() & {*counts.first_failed}
        statuses = {each: how for each, how in statuses.items() if each in own}
    known = statuses.keys() | {*leader.tally.first_not_run}
    before = [taskid for taskid in counts.first_failed if taskid not in known]
    return [
        FailedTask(
            taskid,
            statuses.get(taskid, "failed in an earlier or another farm"),
            _find_log(workdir, taskid, leader.coordinator.definition.logs),
            taskid in statuses,
        )
        for taskid in [*statuses, *before][:MAX_FAILED_SHOWN]
    ]


def _find_log(workdir: str, taskid: int, kept: str) -> str:
    """Return the path of a task's log; "" if it has no file of its own."""
    path = WorkdirPaths(workdir).log(taskid)
    return path if kept != "packed" and os.path.lexists(path) else ""


def _list_unrecorded(leader: Leader) -> list[str]:
    """Return a note that names results without a record; [] if all were recorded."""
    unrecorded = [
        taskid
        for taskid in leader.coordinator.unrecorded
        if not leader.store.has_record_of(taskid)
    ]
    if not unrecorded:
        return []
    shown = ", ".join(map(str, unrecorded[:MAX_UNRECORDED_SHOWN]))
    rest = len(unrecorded) - MAX_UNRECORDED_SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    what = agree(len(unrecorded), "task", "tasks")
    return [f"could not be recorded, will run again: {what} {shown}{more}"]
