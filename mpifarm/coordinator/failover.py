"""Finding out which rank has which task, after messages or a coordinator were lost.

Rules of this file: nothing is decided of a task before all ranks have said what they
have (`Rejoin`), or were given up.
"""

from mpifarm.coordinator.commits import Commits
from mpifarm.coordinator.dispatch import Dispatcher
from mpifarm.coordinator.liveness import Liveness
from mpifarm.coordinator.rank_use import RankUse
from mpifarm.coordinator.results import Results
from mpifarm.coordinator.state import (
    FarmState,
    Phase,
    RankRecord,
    RankState,
    TaskRecord,
)
from mpifarm.coordinator.task_table import TaskTable
from mpifarm.coordinator.unlocated import LastSeen, SeenAs, Unlocated
from mpifarm.model.messages import Rejoin, Report

REJOIN_SECONDS = 10.0
"""Seconds after which a rank that has not rejoined, after a loss, is given up."""


class Failover:
    """The way back to knowing where each task is."""

    def __init__(
        self,
        farm: FarmState,
        table: TaskTable,
        unlocated: Unlocated,
        dispatcher: Dispatcher,
        commits: Commits,
        rank_use: RankUse,
        results: Results,
        liveness: Liveness,
        now: float,
    ) -> None:
        self._farm = farm
        self._table = table
        self._unlocated = unlocated
        self._dispatcher = dispatcher
        self._commits = commits
        self._rank_use = rank_use
        self._results = results
        self._liveness = liveness
        self._rejoin_by = now + REJOIN_SECONDS

    @property
    def awaits_ranks(self) -> bool:
        """Return whether ranks have yet to `Rejoin`."""
        return bool(self._unlocated.awaited)

    def wake_at(self) -> float:
        """Return when ranks that have not rejoined are given up; `inf` in a stop."""
        awaits = self._unlocated.awaited and self._farm.phase is not Phase.STOPPING
        return self._rejoin_by if awaits else float("inf")

    def forgive_pause(self, seconds: float) -> None:
        """Let ranks rejoin `seconds` later: rank 0 was suspended and heard nothing."""
        self._rejoin_by += seconds

    # ---- what ranks say ----------------------------------------------------------

    def on_mended(self, now: float) -> None:
        """Await a `Rejoin` of each other rank: all messages under way were lost.

        Until then these ranks get no leases.  They count as heard now, and no recall is
        open.
        """
        own, awaited = self._farm.rank_set.own, self._unlocated.awaited
        self._rejoin_by = now + REJOIN_SECONDS
        for record in self._farm.ranks.values():
            is_other = record.rank != own
            if not record.is_gone and (is_other or record.rank in awaited):
                record.heard_at = now
                record.is_asked = False
                awaited.add(record.rank)
                self._dispatcher.demand.forget(record.rank)

    def on_rejoin(self, record: RankRecord, message: Rejoin, now: float) -> None:
        """Await the rank no more; take in its place, its report and its leases.

        If the rank was awaited, release the leases that it turns out not to hold.
        """
        is_expected = record.rank in self._unlocated.awaited
        self._unlocated.awaited.discard(record.rank)
        if message.is_welcomed:
            self._adopt_rank(record, message)
        else:
            self._liveness.on_join(record, message)
        self._results.on_report(record, message.report, now)
        self._unlocated.note_leases(record.rank, message.leases)
        if is_expected:
            self._release_unsent(record, {*message.leases})
        self._acknowledge_recorded(record, message.report)
        self._dispatcher.update_demand(record)

    def _adopt_rank(self, record: RankRecord, message: Rejoin) -> None:
        """Welcome a rank anew that another coordinator had welcomed; put it to work.

        Note the attempts of its leases that this farm does not hold
        (`foreign_attempts`).
        """
        self._liveness.note_place(record, message)
        self._dispatcher.capacity.update(record)
        # Should this coordinator be lost as well, it has to know which farm this was.
        self._liveness.welcome(record)
        if record.state is RankState.JOINING:
            self._rank_use.enter(record, RankState.WORKING)
        foreign = self._table.foreign_attempts
        for taskid, attempt in message.leases:
            if taskid not in self._table.tasks:
                foreign[taskid] = max(foreign.get(taskid, 0), attempt)

    def _release_unsent(self, record: RankRecord, held: set[tuple[int, int]]) -> None:
        """Release the rank's leases that are not `held`: they were lost on the way."""
        # The last first: each is queued before all others, so the order stays.
        for taskid in sorted(record.leases, reverse=True):
            task = self._table.tasks[taskid]
            if (taskid, task.attempt) not in held:
                self._table.release_unstarted(record, task)

    def _acknowledge_recorded(self, record: RankRecord, report: Report) -> None:
        """Tell a rank to forget its results of tasks that this farm does not hold."""
        tasks = self._table.tasks
        recorded = [
            (result.taskid, result.attempt)
            for result in report.results
            if result.taskid not in tasks
        ]
        self._commits.acknowledge(record.rank, recorded)

    # ---- what follows ------------------------------------------------------------

    def locate(self, now: float) -> None:
        """Give up ranks that are late; once all have spoken, locate all tasks.

        A task that no rank has runs again.  In a stop, nothing happens here.
        """
        if self._farm.phase is Phase.STOPPING:
            return  # what a rank has is requeued when the rank has stopped
        awaited, ranks = self._unlocated.awaited, self._farm.ranks
        if now >= self._rejoin_by:
            for rank in sorted(awaited - {self._farm.rank_set.own}):
                self._liveness.lose(ranks[rank], RankState.LOST, now)
            awaited.clear()
        if awaited:
            return
        for taskid, seen in self._unlocated.clear().items():
            self._locate(self._table.tasks[taskid], seen, now)
        for record in ranks.values():
            self._dispatcher.update_demand(record)

    def _locate(self, task: TaskRecord, seen: LastSeen | None, now: float) -> None:
        """Put a task where it was last seen; act on a result or loss seen there."""
        if seen is None or self._is_gone_with_rank(seen):
            self._locate_lost(task, seen, now)
            return
        record = self._farm.ranks[seen.rank]
        self._table.locate(record, task, seen.attempt)
        match seen.seen_as:
            case SeenAs.HELD:
                pass
            case SeenAs.ENDED if seen.result is not None:
                self._results.on_result(record, task, seen.result, seen.ended)
            case SeenAs.LOST:
                self._results.on_lease_lost(record, task, now)
            case _:
                self._table.release_unstarted(record, task)

    def _locate_lost(self, task: TaskRecord, seen: LastSeen | None, now: float) -> None:
        """Run a task again that no living rank has, or of whose end no rank was sure.

        The loss counts against the task unless its command had ended.
        """
        own = self._farm.ranks[self._farm.rank_set.own]
        self._table.locate(own, task, task.attempt)
        if seen is None or seen.seen_as is SeenAs.HELD:
            self._results.on_lease_lost(own, task, now, with_rank=True)
        else:
            self._table.release(own, task)  # it had ended: it did not kill the rank

    def _is_gone_with_rank(self, seen: LastSeen) -> bool:
        """Return whether nothing can come of a task any more, as its rank has settled.

        False if the rank was sure of the result, or said that it lost or returned the
        task.
        """
        record = self._farm.ranks[seen.rank]
        is_sure = seen.result is not None and seen.result.ended <= record.sure
        is_open = seen.seen_as is SeenAs.HELD or (
            seen.seen_as is SeenAs.ENDED and not is_sure
        )
        return record.settled and is_open

    def requeue_unlocated(self) -> None:
        """Requeue all tasks that are not located yet."""
        for taskid in self._unlocated.clear():
            self._table.requeue(self._table.tasks[taskid])

    def abandon(self) -> None:
        """Forget the tasks that are not located, and await no rank."""
        self._unlocated.clear()
        self._unlocated.awaited.clear()
