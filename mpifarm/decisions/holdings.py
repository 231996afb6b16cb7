"""The tasks that this farm holds: where each is, and how they go from place to place.

Rules of this file:

* A task is here from the moment it is taken out of ``toprocess`` until it is on disk
  again; its state changes through `Holdings._move` alone, by `state.MOVES`.
* What happens, and what is to become of the farm, is the coordinator's affair.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from mpifarm.config import Policy
from mpifarm.decisions.attempts import Reruns
from mpifarm.decisions.effects import Effect, NoteInLog, Send, Transact
from mpifarm.decisions.gates import Canary
from mpifarm.decisions.hunger import Census, Hunger
from mpifarm.decisions.intake import Intake
from mpifarm.decisions.limbo import Limbo
from mpifarm.decisions.pace import Pace
from mpifarm.decisions.quarantine import Quarantine
from mpifarm.decisions.recalls import Recalls, share_ahead
from mpifarm.decisions.state import MOVES, Crew, Phase, RankRecord, TaskRecord
from mpifarm.errors import InputError
from mpifarm.messages import Assign, Recall
from mpifarm.task import Lease, Outcome, Result, TaskState

HOLD = 0.25
"""Seconds between the end of a command and the earliest record of it: a signal that
stops the farm may have reached the command first, whose result then doesn't count."""

COMMIT_INTERVAL = 0.1
"""Seconds for which a result that may be recorded waits for others."""

NO_COMMAND = 1
"""The status of a task for which the handler has no command."""


class Holdings:
    """What the farm holds; `adopted` are tasks that it held before this began.

    `commands` is the tasklist: ``commands[taskid]`` is the text of a task; it raises
    `InputError` where a handler of the user's has none.
    """

    def __init__(
        self,
        commands: Sequence[str],
        crew: Crew,
        policy: Policy,
        now: float,
        *,
        adopted: Iterable[int],
        waits_for_others: bool,
    ) -> None:
        self.commands = commands
        self.crew = crew
        self.policy = policy
        self.phase = Phase.WORKING
        self.storage_failed = False
        self.ranks = {rank: RankRecord(rank) for rank in crew.ranks}
        self.tasks = {
            taskid: TaskRecord(taskid, TaskState.LEASED, 1) for taskid in adopted
        }
        self.queue: deque[TaskRecord] = deque()
        self.reruns = Reruns(crew.own)
        self.ended: deque[TaskRecord] = deque()
        self.returning: list[TaskRecord] = []
        self.hungry = Hunger()
        self.transaction: Transact | None = None
        self.limbo = Limbo(self.tasks)
        self._rejoining: set[int] = set(crew.ranks) if self.tasks else set()
        """Ranks that have yet to say what is true there; they get no leases."""
        self._strays: dict[int, int] = {}
        """What ranks run though it isn't ours any more: the last attempt."""
        self._quarantine = Quarantine(policy.quarantine)
        self._canary = Canary(policy.canary, len(self.tasks))
        first = 0 if self.tasks else len(crew.ranks) * crew.workers
        self._intake = Intake(first, now, waits_for_others=waits_for_others)
        self._census = Census(len(crew.ranks))
        self._recalls = Recalls(len(crew.ranks))
        self._pace = Pace(len(crew.ranks), crew.workers)
        self._turn = 0
        self._ended_last = float("-inf")
        """When the last command ended, of all that have."""
        self._outbox: list[Effect] = []

    # ---- the moves ---------------------------------------------------------------

    def _move(self, task: TaskRecord, state: TaskState) -> None:
        if state not in MOVES[task.state]:
            raise AssertionError(f"task {task.taskid}: {task.state} -> {state}")
        task.state = state

    def _find_leased(
        self, record: RankRecord, taskid: int, attempt: int
    ) -> TaskRecord | None:
        task = self.tasks.get(taskid)
        if (
            task is None
            or task.state is not TaskState.LEASED
            or task.rank != record.rank
            or task.attempt != attempt
        ):
            return None
        return task

    def _unlease_all(self, record: RankRecord) -> None:
        for taskid in sorted(record.leases, reverse=True):
            self._unlease(record, self.tasks[taskid])

    def _unlease(self, record: RankRecord, task: TaskRecord) -> None:
        """The task goes on at another place: another rank, or back on disk."""
        record.leases.discard(task.taskid)
        self._move(task, TaskState.QUEUED)
        if self.phase is Phase.WORKING:
            self._queue_first(task)
        else:
            self._give_back(task)

    def _queue_first(self, task: TaskRecord) -> None:
        if task.may_kill_ranks:
            self.reruns.add(task, 0.0)
        else:
            self.queue.appendleft(task)

    def _give_back(self, task: TaskRecord) -> None:
        self._move(task, TaskState.RETURNING)
        self.returning.append(task)

    def _give_back_queue(self) -> None:
        while self.queue:
            self._give_back(self.queue.popleft())
        for task in self.reruns.clear():
            self._give_back(task)

    def _give_back_recent(
        self, since: float, is_void: Callable[[TaskRecord], bool]
    ) -> None:
        kept: deque[TaskRecord] = deque()
        for task in self.ended:
            if task.ended >= since and is_void(task):
                self._give_back(task)
            else:
                kept.append(task)
        self.ended = kept

    def _fail(
        self, record: RankRecord, task: TaskRecord, result: Result, now: float
    ) -> None:
        """It failed, and no other attempt can change that."""
        task.past.is_final = True
        record.leases.discard(task.taskid)
        self._move(task, TaskState.ENDED)
        task.result = result
        task.ended = self._ended_last = now
        self.ended.append(task)

    def _result_of(self, task: TaskRecord) -> Result:
        if task.result is None:
            raise AssertionError(f"task {task.taskid} has ended without a result")
        return task.result

    # ---- handing out -------------------------------------------------------------

    def _note_hunger(self, record: RankRecord) -> None:
        wanted = 0
        if record.works and record.rank not in self._rejoining:
            wanted = self._room(record) - len(record.leases)
        if wanted > 0:
            self.hungry.note(record.rank, wanted, record.idle)
        else:
            self.hungry.forget(record.rank)

    def _room(self, record: RankRecord) -> int:
        """Leases that it may hold: the less is left for all, the fewer ahead."""
        pace = self._pace
        room = record.room(pace.ahead_seconds, pace.one_each_below)
        if pace.one_each_at_first and not record.ended:
            room = min(2 * record.workers, record.most_leases)
        if room > record.workers and self._comes_nothing_more:
            workers = record.workers
            ahead = share_ahead(len(self.queue), workers, self._census.workers)
            return min(room, workers + ahead)
        return room

    @property
    def _comes_nothing_more(self) -> bool:
        """Whether the queue is all that is left to hand out, as far as known."""
        return self._intake.is_empty or self._canary.is_exhausted

    def _assign(self, now: float) -> None:
        """Hand out the queue; when it is short, in equal shares."""
        if self.limbo:
            return
        if self.reruns and self.reruns.ripen(now):
            self._assign_reruns(now)
        queue, hungry = self.queue, self.hungry
        left = len(hungry)
        while queue and left:
            record = self.ranks[hungry.first]
            wanted = self._room(record) - len(record.leases) if record.works else 0
            share = -(-len(queue) // left)
            if wanted > 0:
                count = min(wanted, share)
                self._lease(record, [queue.popleft() for _ in range(count)], now)
            self._note_hunger(record)  # some may have had no command
            hungry.put_last(record.rank)
            left -= 1

    def _assign_reruns(self, now: float) -> None:
        alone = self._quarantine.working == 1
        hungry = [rank for rank in self.hungry if self.ranks[rank].works]
        for place, rank in enumerate(hungry):
            record = self.ranks[rank]
            share = -(-self.reruns.count() // (len(hungry) - place))
            wanted = min(share, self._room(record) - len(record.leases))
            if wanted > 0:
                tasks = self._pick_deadly(record, wanted, alone=alone)
                rest = wanted - len(tasks)
                tasks += self.reruns.take(rank, rest, now, alone=alone)
                self._lease(record, tasks, now)
                self._note_hunger(record)

    def _pick_deadly(
        self, record: RankRecord, most: int, *, alone: bool
    ) -> list[TaskRecord]:
        holds_one = any(self.tasks[each].may_kill_ranks for each in record.leases)
        picked: list[TaskRecord] = []
        idle = not self.queue and self._intake.is_empty
        if alone and not (idle and len(self.tasks) == self.reruns.count_deadly()):
            return []  # with the last rank all that is not on disk yet would be lost
        while len(picked) < most:
            task = self.reruns.take_deadly(
                record, holds_one=holds_one, alone=alone, idle=idle
            )
            if task is None:
                break
            picked.append(task)
            holds_one = True
        return picked

    def _lease(
        self, record: RankRecord, tasks: Sequence[TaskRecord], now: float
    ) -> None:
        leases = []
        for task in tasks:
            self._move(task, TaskState.LEASED)
            task.attempt += 1
            task.rank = record.rank
            self._turn = task.turn = self._turn + 1
            record.leases.add(task.taskid)
            try:
                command = self.commands[task.taskid]
            except InputError as error:
                self._on_no_command(record, task, str(error), now)
            else:
                leases.append(Lease(task.taskid, task.attempt, command))
        if leases:
            record.is_addressed = True
            self._recalls.note_leases(now)
            self._outbox.append(Send(record.rank, Assign(tuple(leases))))

    def _on_no_command(
        self, record: RankRecord, task: TaskRecord, why: str, now: float
    ) -> None:
        """The user's handler has no command for it: it has failed, before it ran."""
        failed = Result(
            task.taskid, task.attempt, Outcome.FAILED, NO_COMMAND, 0, 0.0, 0.0, now
        )
        self._outbox.append(NoteInLog(task.taskid, why))
        self._fail(record, task, failed, now)

    # ---- calling back ------------------------------------------------------------

    def _recall(self, now: float) -> None:
        """Workers are idle, and others' leases wait: they are handed out again."""
        idle = self.hungry.idle
        if self.queue or not idle or self.limbo or self._rejoining:
            self._recalls.rest()
            return
        more_may_come = not self._comes_nothing_more
        if self._recalls.is_due(now, more_may_come=more_may_come):
            records, workers = self.ranks.values(), self._census.workers
            for record, count in self._recalls.pick(records, workers, now):
                self._outbox.append(Send(record.rank, Recall(count)))

    # ---- to and from the disk ----------------------------------------------------

    def _take_count(self, now: float) -> int:
        """How many more to take out of ``toprocess`` (0: none now)."""
        if self.limbo or self._rejoining or self._rests(now):
            return 0
        unmet = self.hungry.unmet
        starving = self.hungry.idle > 0 and len(self.queue) < unmet
        if not starving and self._intake.is_too_soon(now):
            return 0
        census = self._census
        take = self._intake.count(len(self.queue), unmet, census.rate, census.ended)
        return self._canary.limit(take)

    def _rests(self, now: float) -> bool:
        """Whether ``toprocess`` was empty a moment ago, with no reason to look again.

        The last look comes together with the last record.
        """
        if not self._intake.is_empty or now >= self._intake.poll_at:
            return False
        if len(self.ended) < len(self.tasks) or self._intake.others_hold:
            return True
        return bool(self.ended) and now < self._ended_last + HOLD

    def _commit_due(self, now: float) -> bool:
        return bool(self.ended) and self._commit_at() <= now

    def _commit_at(self) -> float:
        """When results will have waited for others long enough, or no others come."""
        soonest = self.ended[0].ended + HOLD
        enough = soonest + COMMIT_INTERVAL
        if len(self.ended) < len(self.tasks):
            return enough
        return max(soonest, min(enough, self._ended_last + HOLD))

    # ---- the invariants ----------------------------------------------------------

    def find_violations(self) -> list[str]:
        """What is wrong with this state, in words; used by tests after each step."""
        found = []
        streaks = self._quarantine.streaks.values()
        suspects = [task for streak in streaks for task in streak.held]
        places = [
            (
                TaskState.QUEUED,
                [task.taskid for task in (*self.queue, *self.reruns)],
            ),
            (TaskState.ENDED, [task.taskid for task in (*self.ended, *suspects)]),
            (
                TaskState.LEASED,
                [
                    *(i for record in self.ranks.values() for i in record.leases),
                    *self.limbo.found,
                ],
            ),
        ]
        for state, taskids in places:
            there = sorted(t.taskid for t in self.tasks.values() if t.state is state)
            if sorted(taskids) != there:
                found.append(f"{state.value}: listed {sorted(taskids)}, are {there}")
        moving = {t.taskid for t in self.tasks.values() if t.state in _MOVING}
        named = {task.taskid for task in self.returning}
        if self.transaction is not None:
            named |= set(self.transaction.give_back)
            named |= {result.taskid for _, result in self.transaction.results}
        if not self.storage_failed and moving != named:
            found.append(f"to the disk: {sorted(moving)}, listed {sorted(named)}")
        return found


_MOVING = frozenset({TaskState.WRITING, TaskState.RETURNING})
