"""Which rank gets which tasks, how many are taken ahead, and what ranks return.

Rules of this file: how many leases a rank may hold is `ahead`'s answer, how many tasks
to take is `prefetch`'s, what to ask back is `stealing`'s; here they meet the tasks.
"""

from collections.abc import Sequence

from mpifarm.coordinator.ahead import LeaseRoom
from mpifarm.coordinator.capacity import Capacity
from mpifarm.coordinator.demand import Demand
from mpifarm.coordinator.effects import NoteInLog, Post, Send
from mpifarm.coordinator.limits import Limits
from mpifarm.coordinator.pacing import ReportPacing
from mpifarm.coordinator.prefetch import Prefetch
from mpifarm.coordinator.quarantine import Quarantine
from mpifarm.coordinator.start_rate import StartRate
from mpifarm.coordinator.state import UNLIMITED, FarmState, RankRecord, TaskRecord
from mpifarm.coordinator.stealing import Recalls
from mpifarm.coordinator.task_table import TaskTable
from mpifarm.coordinator.unlocated import Unlocated
from mpifarm.errors import InputError
from mpifarm.model.messages import Assign, Recall
from mpifarm.model.task import Lease, Outcome, Result

NO_COMMAND = 1
"""The status of a task for which the handler has no command."""


class Dispatcher:
    """Hands queued tasks to ranks, and recalls leases that idle workers could begin.

    `commands` is the tasklist: ``commands[taskid]`` is the text of a task, and raises
    `InputError` for a task that a handler of the user's does not know.
    """

    def __init__(
        self,
        farm: FarmState,
        table: TaskTable,
        limits: Limits,
        quarantine: Quarantine,
        unlocated: Unlocated,
        prefetch: Prefetch,
        start_rate: StartRate,
        commands: Sequence[str],
        post: Post,
    ) -> None:
        ranks = len(farm.rank_set.ranks)
        self.demand = Demand()
        self.capacity = Capacity(ranks)
        self.pacing = ReportPacing(ranks)
        self.room = LeaseRoom(
            *(farm.rank_set, self.pacing, self.capacity),
            *(limits.failures, prefetch, table.queue),
            one_by_one=start_rate.is_limited or table.seats.is_limited,
        )
        self.recalls = Recalls(ranks)
        self._farm = farm
        self._table = table
        self._limits = limits
        self._failures = limits.failures
        self._quarantine = quarantine
        self._unlocated = unlocated
        self._start_rate = start_rate
        self.prefetch = prefetch
        self.commands = commands
        self._post = post
        self._allowed = UNLIMITED
        """Leases that may go out yet, by the limit of failures and the rate of starts.
        """

    # ---- demand ------------------------------------------------------------------

    def update_demand(self, record: RankRecord) -> None:
        """Record how many leases more a rank could hold; drop its demand if none."""
        wanted = 0
        if record.works and record.rank not in self._unlocated.awaited:
            wanted = self.room.of(record) - len(record.leases)
        if wanted > 0:
            self.demand.note(record.rank, wanted, record.idle)
        else:
            self.demand.forget(record.rank)

    def update_all_demand(self) -> None:
        """Update the demand of each rank that has any."""
        for rank in [*self.demand]:
            self.update_demand(self._farm.ranks[rank])

    # ---- handing out -------------------------------------------------------------

    def assign(self, now: float) -> None:
        """Lease tasks to ranks in turn: retries first, then the queue.

        A short queue goes out in equal shares.  Nothing goes out while tasks are
        unlocated, and no more than the limits of failures, starts and seats allow.
        """
        if self._unlocated.tasks or self._table.bars.holds_all:
            return
        table, demand = self._table, self.demand
        self._allowed = UNLIMITED
        if self._failures.counts:
            self._allowed = self.count_allowed()
        if self._start_rate.is_limited:
            self._allowed = min(self._allowed, self._start_rate.allow(now))
        if table.seats:
            table.call_to_seats()
        if table.retry_queue and table.retry_queue.ripen(now):
            self._assign_retries(now)
        queue, left = table.queue, len(demand)
        while queue and left and self._allowed > 0:
            record = self._farm.ranks[demand.first]
            wanted = self.room.of(record) - len(record.leases) if record.works else 0
            share = -(-len(queue) // left)
            if wanted > 0:
                self._lease(record, self._pick(min(wanted, share, self._allowed)), now)
            self.update_demand(record)  # some may have had no command
            demand.put_last(record.rank)
            left -= 1

    def _pick(self, count: int) -> list[TaskRecord]:
        """Take up to `count` tasks out of the queue; those without a seat wait."""
        queue, seats = self._table.queue, self._table.seats
        if not seats.is_limited:
            return [queue.popleft() for _ in range(count)]
        picked = list[TaskRecord]()
        while queue and len(picked) < count:
            task = queue.popleft()
            if seats.take(task):
                picked.append(task)
        return picked

    def count_leased(self) -> int:
        """Return how many tasks are leased to ranks and have not ended."""
        held = self._quarantine.held + len(self._limits.trial.held)
        return self._table.count_leased(held)

    def count_allowed(self) -> int:
        """Return how many leases more the limit of failures allows; may be negative."""
        return self._failures.allow(
            self.count_leased(), self.capacity.workers, self._quarantine.held
        )

    def _assign_retries(self, now: float) -> None:
        """Lease tasks that may run again, in equal shares, to ranks that suit them."""
        alone = self._quarantine.working == 1
        retry_queue, ranks = self._table.retry_queue, self._farm.ranks
        wanting = [rank for rank in self.demand if ranks[rank].works]
        for place, rank in enumerate(wanting):
            record = ranks[rank]
            share = -(-retry_queue.count() // (len(wanting) - place))
            room = self.room.of(record) - len(record.leases)
            wanted = min(share, room, self._allowed)
            if wanted > 0:
                tasks = self._pick_deadly(record, wanted)
                rest = wanted - len(tasks)
                tasks += retry_queue.take(rank, rest, now, alone=alone)
                self._lease(record, [*filter(self._table.seats.take, tasks)], now)
                self.update_demand(record)

    def _pick_deadly(self, record: RankRecord, most: int) -> list[TaskRecord]:
        """Take up to `most` tasks that may kill the rank out of the retry queue.

        A rank gets one at a time, or more once nothing else is left.  The coordinator's
        rank gets some only if it must (`_must_risk`).
        """
        table = self._table
        idle = not table.queue and self.prefetch.nothing_more_comes
        is_own = record.rank == self._farm.rank_set.own
        if is_own and not (idle and self._must_risk(record)):
            return []
        holds_one = any(table.tasks[each].may_kill_ranks for each in record.leases)
        picked: list[TaskRecord] = []
        while len(picked) < most:
            task = table.retry_queue.take_deadly(holds_one=holds_one, idle=idle)
            if task is None:
                break
            picked.append(task)
            holds_one = True
        return picked

    def _must_risk(self, own: RankRecord) -> bool:
        """Return whether only the coordinator's rank can run tasks that may kill ranks.

        False until all results are on disk: they would be lost with the rank.
        """
        table = self._table
        if table.ended or table.unsure or table.transaction is not None:
            return False
        deadly = all(table.tasks[each].may_kill_ranks for each in own.leases)
        return deadly and not self._quarantine.count_free_without(own.rank)

    def _lease(
        self, record: RankRecord, tasks: Sequence[TaskRecord], now: float
    ) -> None:
        """Lease tasks to a rank, post the `Assign`, fail tasks without a command."""
        self._allowed -= len(tasks)
        self._start_rate.note_started(len(tasks))
        self._table.lease(record, tasks)
        leases = []
        for task in tasks:
            try:
                command = self.commands[task.taskid]
            except InputError as error:
                self._on_no_command(record, task, str(error), now)
            else:
                leases.append(Lease(task.taskid, task.attempt, command))
        if leases:
            record.is_addressed = True
            self.recalls.note_leases(now)
            self._post(Send(record.rank, Assign(tuple(leases))))

    def _on_no_command(
        self, record: RankRecord, task: TaskRecord, why: str, now: float
    ) -> None:
        """Note `why` in a task's log, and fail the task: the handler has no command."""
        failed = Result(
            task.taskid, task.attempt, Outcome.FAILED, NO_COMMAND, 0, 0.0, 0.0, now
        )
        self._post(NoteInLog(task.taskid, why))
        self._table.fail(record, task, failed, now)

    # ---- having leases returned --------------------------------------------------

    def recall(self, now: float) -> None:
        """Ask ranks for leases that wait there, once workers elsewhere idle for long.

        No rank is asked while tasks are queued or unlocated.
        """
        recalls = self.recalls
        if self._table.queue or not self.demand.idle or self._unlocated.is_pending:
            recalls.rest()
            return
        more_may_come = not self.prefetch.nothing_more_comes
        if recalls.is_due(now, more_may_come=more_may_come):
            records, workers = self._farm.ranks.values(), self.capacity.workers
            for record, count in recalls.pick(records, workers, now):
                self._post(Send(record.rank, Recall(count)))

    # ---- taking ahead ------------------------------------------------------------

    def count_to_take(self, now: float, *, records: bool = False) -> int:
        """Return how many more tasks to take out of ``toprocess`` (0: none now).

        The prefetch's `first` tasks count in one answer, and are used up by it.
        `records`: whether results are recorded now, by which other tasks may be ready.
        """
        waits = records and self.prefetch.some_wait
        if self._unlocated.is_pending or (self._rests(now) and not waits):
            return 0
        if self._table.bars.holds_all or self._table.seats.is_crowded:
            return 0
        queued, unmet = len(self._table.queue), self.demand.unmet
        seatless = len(self._table.seats)
        is_starving = self.demand.idle > 0 and queued < unmet and not seatless
        if not is_starving and self.prefetch.is_too_soon(now):
            return 0
        capacity = self.capacity
        take = self.prefetch.count(queued, unmet, capacity.rate, capacity.ended)
        # Those behind may be without a seat as well: so each taking is larger.
        return self._limits.limit(take + seatless) if take else 0

    def _rests(self, now: float) -> bool:
        """Return whether ``toprocess`` was empty a moment ago, so that a look can wait.

        It can't wait for the last record: one transaction records and looks.
        """
        prefetch, table = self.prefetch, self._table
        if not prefetch.is_empty or now >= prefetch.poll_at:
            return False
        waits = prefetch.others_hold or prefetch.waits_for_more
        return len(table.ended) < len(table.tasks) or waits

    def has_work_for_returns(self) -> bool:
        """Return whether a rank that is tried again would have a task, now or later."""
        table = self._table
        is_waiting = bool(table.queue or table.retry_queue or table.seats)
        return is_waiting or not self.prefetch.nothing_more_comes

    def wake_at(self) -> float:
        """Return when a recall, a retry or a poll of ``toprocess`` is due; or `inf`."""
        wake_at, unlocated = self.recalls.look_at, self._unlocated
        if self.demand and not (unlocated.tasks or self._table.bars.holds_all):
            wake_at = min(wake_at, self._wake_for_start())
            if not (self._limits.is_shut or unlocated.awaited):
                wake_at = min(wake_at, self._wake_for_taking())
        return wake_at

    def _wake_for_taking(self) -> float:
        """Return when more tasks are to be taken; `inf` while there are enough."""
        prefetch, seats = self.prefetch, self._table.seats
        if len(self._table.queue) >= self.demand.unmet or seats.is_crowded:
            return float("inf")
        if seats and not prefetch.is_empty:
            return prefetch.next_at
        # A release may ask for a look sooner than one may follow the last taking.
        return max(prefetch.poll_at, prefetch.next_at)

    def _wake_for_start(self) -> float:
        """Return when a retry is due, or the rate lets a task start; `inf` if never."""
        table = self._table
        retry_at, start_at = table.retry_queue.wake_at(), self._start_rate.wake_at()
        if start_at == float("inf"):  # one may start already
            return retry_at
        return start_at if table.queue else max(start_at, retry_at)
