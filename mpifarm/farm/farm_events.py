"""What rank 0 knows of a farm, made into events for its hooks.

Rules of this file: it is imported only where somebody wants events.  It reads, and
decides nothing.  It never waits: `EventFeeds` takes events at once.
"""

import os
import sys
from collections.abc import Callable

from mpifarm import __version__
from mpifarm.batch.job import find_job
from mpifarm.coordinator.coordinator import (
    Coordinator,
    NoteRank,
    NoteRunning,
    Phase,
    RankChange,
)
from mpifarm.farm.context import RankContext
from mpifarm.farm.event_feeds import EventFeeds
from mpifarm.farm.summary import Summary
from mpifarm.hooks.definitions import name_user
from mpifarm.model.events import (
    Asked,
    FarmBegan,
    FarmDraining,
    FarmEnded,
    FarmState,
    FarmStopping,
    RankBack,
    RankJoined,
    RankLost,
    RankQuarantined,
    TaskBegan,
    TaskCancelled,
    TaskFailed,
    TaskFinished,
    TaskNotRun,
    TaskRetried,
)
from mpifarm.model.id_ranges import encode_ids
from mpifarm.model.requests import Request
from mpifarm.model.task import Outcome, Result
from mpifarm.store.store import Store
from mpifarm.store.types import Recorded
from mpifarm.system.time_of_day import encode_time

STATE_SECONDS = 10.0
"""Seconds between two events `FarmState`."""

_Ended = type[TaskFinished | TaskFailed | TaskCancelled]

_ENDS: dict[Outcome, _Ended] = {
    Outcome.COMPLETED: TaskFinished,
    Outcome.CANCELLED: TaskCancelled,
}


class FarmEvents:
    """The events of one farm; `find_rate` tells its tasks per second."""

    def __init__(
        self,
        coordinator: Coordinator,
        store: Store,
        feeds: EventFeeds,
        find_rate: Callable[[], float],
    ) -> None:
        self.has_ended = False
        """Whether the end of the farm was raised."""
        self._coordinator = coordinator
        self._store = store
        self._feeds = feeds
        self._find_rate = find_rate
        self._wants_ends = feeds.wants(TaskFinished.event)
        """Whether some hook gets each task; else failures alone matter."""
        self._phase = Phase.WORKING
        self._state_at = float("-inf")

    # ---- the farm --------------------------------------------------------------------

    def note_began(self, context: RankContext) -> None:
        """Raise the event of the beginning."""
        settings, environ = context.settings, context.process.environ
        finished, failed = self._store.recorded
        job = find_job(environ)
        self._feeds.post(
            FarmBegan(
                version=__version__,
                user=name_user(),
                host=os.uname().nodename,
                pid=os.getpid(),
                job=None if job is None else job[1],
                command=["mpifarm", *sys.argv[1:]],
                directory=context.process.started_in or os.getcwd(),
                tasklist=os.path.abspath(settings.tasklist),
                workdir=os.path.abspath(settings.workdir),
                ranks=context.size,
                workers=settings.workers,
                total=len(self._coordinator.commands),
                finished=finished,
                failed=failed,
                takes_over=self._coordinator.rank_set.own > 0,
            )
        )

    def look(self, now: float) -> None:
        """Raise what has come about since the last look, and hand events on."""
        if self._phase is not self._coordinator.phase:
            self._note_phase(self._coordinator.phase)
        if now >= self._state_at:
            self._state_at = now + STATE_SECONDS
            self._feeds.post(self._describe_state())
        self._feeds.step(now)

    def due_at(self) -> float:
        """Return when to look next without an event."""
        return min(self._state_at, self._feeds.due_at)

    def _note_phase(self, phase: Phase) -> None:
        self._phase = phase
        reason = self._coordinator.reason
        if phase is Phase.DRAINING:
            self._feeds.post(FarmDraining(reason))
        elif phase is Phase.STOPPING:
            self._feeds.post(FarmStopping(reason))

    def _describe_state(self) -> FarmState:
        coordinator = self._coordinator
        finished, failed = self._store.recorded
        return FarmState(
            total=len(coordinator.commands),
            finished=finished,
            failed=failed,
            running=coordinator.count_running(),
            held=coordinator.count_held(self._store.has_record_of),
            holds_all=coordinator.holds_all,
            tasks_per_second=round(self._find_rate(), 3),
            ranks_working=sum(each.works for each in coordinator.ranks.values()),
        )

    def note_ended(self, summary: Summary) -> None:
        """Raise the event of the end."""
        counts = summary.counts
        self.has_ended = True
        self._feeds.post(
            FarmEnded(
                exit_status=summary.status.value,
                meaning=summary.meaning,
                reason=summary.reason,
                seconds=round(summary.seconds, 3),
                total=counts.total,
                finished=counts.finished,
                failed=counts.failed,
                toprocess=counts.toprocess,
                elsewhere=counts.elsewhere,
                failures=[
                    {"task": each.taskid, "how": each.how, "log": each.log}
                    for each in summary.failed
                ],
            )
        )

    def note_request(self, request: Request) -> None:
        """Raise the event of a request, which the coordinator hears now."""
        tasks = None if request.tasks is None else encode_ids(request.tasks)
        self._feeds.post(Asked(request.kind.value, request.asker, tasks))

    # ---- ranks -----------------------------------------------------------------------

    def note_rank(self, change: NoteRank) -> None:
        """Raise the event of a rank's change."""
        record = self._coordinator.ranks[change.rank]
        where = change.rank, record.host
        match change.change:
            case RankChange.JOINED:
                self._feeds.post(RankJoined(*where, record.pid, record.workers))
            case RankChange.LOST:
                self._feeds.post(RankLost(*where, change.why))
            case RankChange.OUT_OF_USE:
                self._feeds.post(RankQuarantined(*where, change.why))
            case RankChange.IN_USE:
                self._feeds.post(RankBack(*where, change.why))

    # ---- tasks -----------------------------------------------------------------------

    def note_running(self, note: NoteRunning) -> None:
        """Raise an event for each task that a rank says it runs."""
        if not self._wants_ends:
            return
        host = self._coordinator.ranks[note.rank].host
        for each in note.tasks:
            self._feeds.post(
                TaskBegan(
                    *(each.taskid, each.attempt, note.rank, host, each.worker_index),
                    encode_time(each.started),
                )
            )

    def note_recorded(self, rank: int, result: Result) -> None:
        """Raise the event of a result that is on disk."""
        outcome = result.outcome
        if not self._wants_ends and outcome is Outcome.COMPLETED:
            return
        if outcome is Outcome.NOT_RUN:
            self._feeds.post(TaskNotRun(result.taskid, result.note))
            return
        host = self._coordinator.ranks[rank].host
        event = _ENDS.get(outcome, TaskFailed)
        self._feeds.post(event(*_describe_end(result, rank, host)))

    def note_retried(self, record: Recorded) -> None:
        """Raise the event of an attempt whose task runs again."""
        if self._wants_ends:
            ended = _describe_end(record.result, record.rank, record.host)
            self._feeds.post(TaskRetried(*ended))


def _describe_end(result: Result, rank: int, host: str) -> tuple:  # type: ignore[type-arg]
    """Return the fields of the end of an attempt, in their order."""
    user, system = result.user_seconds, result.system_seconds
    cpu = None if user is None or system is None else round(user + system, 3)
    return (
        *(result.taskid, result.attempt, result.outcome.value, result.status),
        *(rank, host, result.worker_index, encode_time(result.started)),
        *(round(result.seconds, 3), cpu, result.peak_memory, result.output_bytes),
        result.note,
    )
