"""What rank 0 decides: which rank runs what, when to write, when to end.

Rules of this file:

* Pure: events come in (``on_...``), effects go out (`Coordinator.decide`), time is an
  argument (seconds, monotonic).  No I/O, no clock, no MPI; a test plays a thousand
  ranks, lost ranks and signals in milliseconds.
* Where tasks are, and how they move, is in `holdings`; here is why.
* At most one `Transact` is under way; what comes up meanwhile goes into the next.
* An answer counts only with the rank and the attempt that the task has now: a late or
  repeated one changes nothing.
"""

from collections.abc import Iterable, Sequence
from signal import SIGUSR1, SIGUSR2, Signals
from typing import assert_never

from mpifarm.config import FarmDefinition, Policy
from mpifarm.decisions.attempts import (
    MOST_LOST,
    fate_in_words,
)
from mpifarm.decisions.effects import (
    Effect,
    End,
    NoteAttempt,
    NoteInLog,
    Send,
    Tell,
    Transact,
)
from mpifarm.decisions.holdings import COMMIT_INTERVAL, HOLD, NO_COMMAND
from mpifarm.decisions.limbo import Found, Where
from mpifarm.decisions.outcomes import Outcomes
from mpifarm.decisions.state import (
    PHASES,
    Crew,
    Phase,
    RankRecord,
    RankState,
    TaskRecord,
)
from mpifarm.messages import (
    Alive,
    Drain,
    Join,
    Leave,
    Ping,
    PoolLost,
    RankTrouble,
    Rejoin,
    Report,
    SignalSeen,
    Stop,
    Stopped,
    ToCoordinator,
    ToRank,
    Welcome,
)
from mpifarm.task import Result, TaskState

__all__ = [
    "COMMIT_INTERVAL",
    "HOLD",
    "MOST_LOST",
    "NO_COMMAND",
    "Coordinator",
    "Crew",
    "Effect",
    "End",
    "NoteAttempt",
    "NoteInLog",
    "Phase",
    "RankState",
    "Send",
    "Tell",
    "Transact",
]

PING_SECONDS = 5.0
"""Between two pings; less where ranks are given up early (a fourth of that time)."""

JOIN_SECONDS = 600.0
"""A rank that has not come by then is given up: thousands of nodes that import from
one cold file system take minutes."""

REJOIN_SECONDS = 10.0
"""The same for a rank that has to say where it is after others were lost."""

ANSWER_SECONDS = 0.5
"""Seconds beyond the grace time after which a silent rank is given up at a stop."""

ANSWER_SECONDS_AT_ONCE = 0.1
"""The same at a stop without grace, where the launcher's KILL is close behind."""

DEFAULT_POLICY = Policy()

_LISTENS = frozenset({Phase.WORKING, Phase.DRAINING})
"""Where ranks that are silent are given up; a stop has its own times."""


class Coordinator(Outcomes):
    """The decisions of rank 0.

    `commands` is the tasklist: ``commands[taskid]`` is the text of a task; it raises
    `InputError` where a handler of the user's has none.  `timeout` is the seconds
    after `now` at which the farm stops by itself, `deadline` the moment at which the
    job ends.  With `waits_for_others` it does not end while other farms hold tasks.
    `adopted` are tasks that this farm holds already, taken over from a coordinator
    that was lost: ranks that `Rejoin` may have them.
    """

    def __init__(
        self,
        commands: Sequence[str],
        definition: FarmDefinition,
        crew: Crew,
        now: float,
        *,
        policy: Policy = DEFAULT_POLICY,
        timeout: float | None = None,
        deadline: float | None = None,
        waits_for_others: bool = False,
        adopted: Iterable[int] = (),
    ) -> None:
        super().__init__(
            commands,
            definition,
            crew,
            policy,
            now,
            deadline=deadline,
            adopted=adopted,
            waits_for_others=waits_for_others,
        )
        self.reason = ""
        """Why the farm stops or drains before the list is done, in words."""
        self.running_before = 0
        """Tasks that ran when the phase began; it may have ended them at once."""
        self.too_many_failures = False
        """Whether the farm stops because of the tasks that failed."""
        self.unrecorded: tuple[int, ...] = ()
        """Tasks whose results could not be recorded when the storage failed."""
        self._rejoin_by = now + REJOIN_SECONDS
        self._looked_last = False
        self._stop_at = float("inf") if timeout is None else now + timeout
        self._timeout = timeout
        self._ping_seconds = min(PING_SECONDS, policy.rank_timeout / 4)
        self._ping_at = now + self._ping_seconds
        self._looked_at = now
        """When signals and messages were looked for, the last time but one."""
        self._listen_at = now
        """When to look which ranks are silent."""
        self._grace = 0.0
        self._answer_by = 0.0
        self._trouble = ""
        """What the last rank in trouble said."""
        self._node_workers: dict[str, int] = {}
        """Workers by host, of the ranks that have joined."""

    # ---- what happens: ranks -----------------------------------------------------

    def on_message(self, rank: int, message: ToCoordinator, now: float) -> None:
        """Take in what `rank` says; a rank that was given up is not heard."""
        record = self.ranks.get(rank)
        if record is None or record.is_gone:
            self._dismiss(record, message)
            return
        record.heard_at = now
        match message:
            case Alive():
                pass
            case Join():
                self._on_join(record, message)
            case Rejoin():
                self._on_rejoin(record, message, now)
            case Report():
                self._on_report(record, message, now)
            case SignalSeen():
                self.on_signal(message.signum, now)
            case RankTrouble():
                self._on_trouble(record, message.reason, now)
            case PoolLost():
                self._settle(record, RankState.STOPPED)
            case Stopped():
                self._settle(record, RankState.STOPPED)
            case _:
                assert_never(message)

    def _dismiss(self, record: RankRecord | None, message: ToCoordinator) -> None:
        """A rank that was given up is there after all: it may go, once."""
        if record is None or record.rank == self.crew.own:
            return
        # What was said before a `Rejoin` was lost.
        is_told = record.is_dismissed and not isinstance(message, Rejoin)
        if record.state is RankState.LOST and not is_told:
            record.is_dismissed = True
            self._outbox.append(Send(record.rank, Leave(ranks_lost=True)))

    def _on_join(self, record: RankRecord, message: Join | Rejoin) -> None:
        record.host = message.host
        record.pid = message.pid
        record.workers = message.workers
        if not record.may_work or self.phase is not Phase.WORKING:
            return
        self._enter_rank(record, RankState.WORKING)
        self._welcome(record)
        self._note_hunger(record)

    def _welcome(self, record: RankRecord) -> None:
        number = self._number_workers(record)
        pace = self._pace.report_seconds
        welcome = Welcome(self.definition, number, pace)
        self._outbox.append(Send(record.rank, welcome))

    def _number_workers(self, record: RankRecord) -> int:
        """Its first worker, among those of its node; the same each time."""
        if record.node_worker is None:
            record.node_worker = self._node_workers.get(record.host, 0)
            self._node_workers[record.host] = record.node_worker + record.workers
        return record.node_worker

    # ---- what happens: messages were lost ------------------------------------------

    def on_mended(self, now: float) -> None:
        """All messages under way were lost; each other rank will say `Rejoin`."""
        self._rejoin_by = now + REJOIN_SECONDS
        for record in self.ranks.values():
            is_other = record.rank != self.crew.own
            if not record.is_gone and (is_other or record.rank in self._rejoining):
                record.heard_at = now
                record.is_asked = False
                self._rejoining.add(record.rank)
                self.hungry.forget(record.rank)

    def _on_rejoin(self, record: RankRecord, message: Rejoin, now: float) -> None:
        is_expected = record.rank in self._rejoining
        self._rejoining.discard(record.rank)
        if message.is_welcomed:
            self._on_return(record, message)
        else:
            self._on_join(record, message)
        self._on_report(record, message.report, now)
        self.limbo.note_leases(record.rank, message.leases)
        if is_expected:
            self._requeue_unsent(record, {*message.leases})
        self._forget_recorded(record, message.report)
        self._repeat_phase(record, now)
        self._note_hunger(record)

    def _on_return(self, record: RankRecord, message: Rejoin) -> None:
        record.host = message.host
        record.pid = message.pid
        record.workers = message.workers
        self._census.note(record)
        # Should this coordinator be lost as well, it has to know which farm this was.
        self._welcome(record)
        if record.state is RankState.JOINING:
            self._enter_rank(record, RankState.WORKING)
        for taskid, attempt in message.leases:
            if taskid not in self.tasks:
                known = self._strays.get(taskid, 0)
                self._strays[taskid] = max(known, attempt)

    def _requeue_unsent(self, record: RankRecord, held: set[tuple[int, int]]) -> None:
        """What it was to have and has not never reached it."""
        for taskid in sorted(record.leases, reverse=True):
            task = self.tasks[taskid]
            if (taskid, task.attempt) not in held:
                task.attempt -= 1
                self._unlease(record, task)

    def _forget_recorded(self, record: RankRecord, report: Report) -> None:
        """It reported results again that are on disk, or that nobody needs."""
        self._note_at(
            record.rank,
            [
                (r.taskid, r.attempt)
                for r in report.results
                if r.taskid not in self.tasks
            ],
        )

    def _repeat_phase(self, record: RankRecord, now: float) -> None:
        """What all were told may have been lost on its way to this one."""
        match self.phase:
            case Phase.WORKING:
                return
            case Phase.DRAINING:
                message: ToRank = Drain()
            case Phase.STOPPING:
                message = Stop(self._grace)
            case Phase.LEAVING:
                message = self._create_leave()
            case _:
                assert_never(self.phase)
        self._outbox.append(Send(record.rank, message))

    def _heed_rejoins(self, now: float) -> None:
        """When all have said what is true there, what nobody has is nowhere."""
        if self.phase is Phase.STOPPING:
            return  # what they have is given back when it's dead
        if now >= self._rejoin_by:
            for rank in sorted(self._rejoining - {self.crew.own}):
                self._lose(self.ranks[rank], RankState.LOST, now)
            self._rejoining.clear()
        if self._rejoining:
            return
        for taskid, found in self.limbo.clear().items():
            self._place(self.tasks[taskid], found, now)
        for record in self.ranks.values():
            self._note_hunger(record)

    def _place(self, task: TaskRecord, found: Found | None, now: float) -> None:
        """A task leaves limbo for where it was found."""
        if found is None or (
            found.where is Where.HELD and self.ranks[found.rank].settled
        ):
            own = self.ranks[self.crew.own]
            task.rank = own.rank
            self._on_lease_lost(own, task, now, with_rank=True)
            return
        record = self.ranks[found.rank]
        task.rank, task.attempt = found.rank, found.attempt
        record.leases.add(task.taskid)
        match found.where:
            case Where.HELD:
                pass
            case Where.ENDED if found.result is not None:
                self._on_result(record, task, found.result, found.ended)
            case Where.LOST:
                self._on_lease_lost(record, task, now)
            case _:
                task.attempt -= 1
                self._unlease(record, task)

    # ---- what happens: results -----------------------------------------------------

    def _on_report(self, record: RankRecord, report: Report, now: float) -> None:
        if self.limbo:
            self.limbo.note_report(record.rank, report, now)
        for result in report.results:
            task = self._find_leased(record, result.taskid, result.attempt)
            if task is not None:
                ago = report.sent - result.ended
                ended = now - ago if ago > 0.0 else now
                record.note_duration(result.seconds)
                self._census.ended += 1
                self._on_result(record, task, result, ended)
        if report.is_recall:
            record.is_asked = False
        for taskid, attempt in reversed(report.returned):  # to the front, in order
            task = self._find_leased(record, taskid, attempt)
            if task is not None:
                task.attempt -= 1  # it wasn't started
                self._unlease(record, task)
        if report.returned and not report.is_recall:
            record.expect_long_tasks()
        for taskid, attempt in report.lost:
            task = self._find_leased(record, taskid, attempt)
            if task is not None:
                self._on_lease_lost(record, task, now)
        self._census.note(record)
        self._note_hunger(record)

    def _settle(self, record: RankRecord, state: RankState) -> None:
        """The rank runs nothing any more; what it held goes on elsewhere."""
        self._leave_use(record, state)
        self._unlease_all(record)

    def on_ranks_lost(self, ranks: Iterable[int], now: float) -> None:
        """MPI says that these are dead."""
        for rank in ranks:
            record = self.ranks.get(rank)
            if record is not None and rank != self.crew.own:
                self._lose(record, RankState.DEAD, now)
        dead = {rank for rank, r in self.ranks.items() if r.state is RankState.DEAD}
        self._outbox = [
            effect
            for effect in self._outbox
            if not isinstance(effect, Send) or effect.rank not in dead
        ]

    def _lose(self, record: RankRecord, state: RankState, now: float) -> None:
        """The farm goes on without it."""
        if record.is_gone:
            record.state = state
            return
        has_come = record.state is not RankState.JOINING
        held = sorted(record.leases, reverse=True)
        self._leave_use(record, state)
        for taskid in held:
            self._on_lease_lost(record, self.tasks[taskid], now, with_rank=True)
        if state is RankState.DEAD:
            why = "is lost (it was killed, or its node failed)"
        elif has_come:
            seconds = min(self.policy.rank_timeout, now - record.heard_at)
            why = f"has not been heard for {seconds:g} s and is given up"
        else:
            why = "has not come and is given up"
        if state is RankState.LOST:
            # It stands there when the rank wakes, before it starts what it still has.
            record.is_dismissed = True
            self._outbox.append(Send(record.rank, Leave(ranks_lost=True)))
        if self.crew.own > 0 and state is RankState.DEAD and not has_come:
            return  # it was lost before this rank led, and that was said
        again = sum(self.tasks[t].state is not TaskState.ENDED for t in held)
        fate = fate_in_words(again, is_working=self.phase is Phase.WORKING)
        self._outbox.append(Tell(f"{record.name} {why}; {fate}"))

    def _on_trouble(self, record: RankRecord, reason: str, now: float) -> None:
        """It can run no task; where others can, the farm goes on."""
        others = (r for r in self.ranks.values() if r is not record)
        if self.phase is Phase.STOPPING:
            return
        if any(other.may_work for other in others):
            self._trouble = reason
            if record.state is not RankState.OUT_OF_USE:
                self._put_out_of_use(record, reason, 0)
        else:
            grace = self.definition.grace
            self.on_stop(reason, grace, now, by_signal=False)

    # ---- what happens: signals and time ------------------------------------------

    def on_signal(self, signum: int, now: float) -> None:
        """What a signal to any rank means (design.md, Signals)."""
        reason = f"{Signals(signum).name} was received"
        if signum == SIGUSR1:
            self.on_stop(reason, self.definition.grace, now)
        elif signum == SIGUSR2:
            self._drain_at = now
            self.on_drain(reason)
            self._give_back_recent(now - HOLD, self._died_of_drain)
        else:
            self.on_stop(reason, 0.0, now)

    def on_drain(self, reason: str) -> None:
        """Start nothing more, finish what runs."""
        if self.phase is not Phase.WORKING:
            return
        self._end_streaks()
        self._enter(Phase.DRAINING, reason)
        self._give_back_queue()
        self._send_all(Drain())

    def on_stop(
        self, reason: str, grace: float, now: float, *, by_signal: bool = True
    ) -> None:
        """Kill what runs and give it back.

        With `by_signal`, results of the last `HOLD` seconds don't count: the signal
        may have ended those commands.
        """
        if self.phase is Phase.LEAVING:
            return
        self._end_streaks()
        came = min(now, self._looked_at)  # at the earliest, however long a look took
        if by_signal:
            self._give_back_recent(came - HOLD, lambda _: True)
        if self.phase is Phase.STOPPING:
            self._hasten(grace, now)
            return
        self._stopped_at = came if by_signal else now
        self._enter(Phase.STOPPING, reason)
        self._set_answer_by(grace, now)
        self._give_back_queue()
        self._send_all(Stop(grace))

    def _hasten(self, grace: float, now: float) -> None:
        if grace < self._grace:
            self._set_answer_by(grace, now)
            self._send_all(Stop(grace))

    def _set_answer_by(self, grace: float, now: float) -> None:
        wait = ANSWER_SECONDS if grace > 0 else ANSWER_SECONDS_AT_ONCE
        self._grace = grace
        self._answer_by = now + grace + wait

    def _enter(self, phase: Phase, reason: str) -> None:
        if phase not in PHASES[self.phase]:
            raise AssertionError(f"phase {self.phase} -> {phase}")
        self.phase = phase
        self.reason = reason
        self.running_before = self.count_running()

    def count_running(self) -> int:
        """Tasks that run now; of a rank's leases, at most as many as it has workers."""
        ranks = self.ranks.values()
        return sum(min(len(rank.leases), rank.workers) for rank in ranks)

    # ---- what happens: the disk --------------------------------------------------

    def on_transacted(
        self,
        taken: Iterable[int],
        now: float,
        *,
        empty: bool,
        cost: float,
        others: bool = False,
    ) -> None:
        """The transaction is on disk; `taken` are ours now.

        `empty`: ``toprocess`` has nothing more for us.  `cost` is what the rewriting
        of it took, in seconds.  `others`: other farms hold tasks.
        """
        done, self.transaction = self._pending(), None
        for _, result in done.results:
            del self.tasks[result.taskid]
        if self.crew.heals:
            self._note_results(done.results)
        for taskid in done.give_back:
            del self.tasks[taskid]
        is_news = empty != self._intake.is_empty and done.take > 0
        if done.take:
            self._intake.note(now, empty=empty, cost=cost, others=others)
            nothing_held = not self.tasks and not self._intake.others_hold
            self._looked_last = empty and nothing_held
        for taskid in taken:
            task = self.tasks[taskid] = TaskRecord(taskid)
            if self._strays:
                task.attempt = self._strays.pop(taskid, 0)
            self._looked_last = False
            if not self._canary.is_open:
                self._canary.note_taken(1)
            if self.phase is Phase.WORKING:
                self.queue.append(task)
            else:
                self._give_back(task)
        self._renew_hunger(is_news=is_news)

    def _renew_hunger(self, *, is_news: bool) -> None:
        """What ranks may hold depends on whether there is more to come."""
        if is_news:
            for rank in [*self.hungry]:
                self._note_hunger(self.ranks[rank])

    def _note_results(self, results: Iterable[tuple[int, Result]]) -> None:
        """The ranks need not keep them for another coordinator."""
        by_rank: dict[int, list[tuple[int, int]]] = {}
        for rank, result in results:
            by_rank.setdefault(rank, []).append((result.taskid, result.attempt))
        for rank, recorded in by_rank.items():
            self._note_at(rank, recorded)

    def on_storage_failed(self, reason: str, now: float) -> None:
        """Nothing can be recorded any more; the claim on disk keeps what is held."""
        self.transaction = None
        self.storage_failed = True
        self.on_stop(reason, self.definition.grace, now, by_signal=False)

    def _pending(self) -> Transact:
        if self.transaction is None:
            raise AssertionError("no transaction is under way")
        return self.transaction

    def forgive_pause(self, seconds: float) -> None:
        """Rank 0 was suspended: it heard nothing because it could not."""
        self._rejoin_by += seconds
        for record in self.ranks.values():
            record.heard_at += seconds

    def _heed_silence(self, now: float) -> None:
        """A rank that died unseen must not leave the farm waiting for ever."""
        if now < self._listen_at or self.phase not in _LISTENS:
            return
        self._listen_at = now + self._ping_seconds / 4
        for record in self.ranks.values():
            record.heard_at = min(record.heard_at, now)
            patience = self.policy.rank_timeout
            if record.state is RankState.JOINING:
                patience = max(patience, JOIN_SECONDS)
            silent = now - record.heard_at > patience
            if silent and record.rank != self.crew.own and not record.settled:
                self._lose(record, RankState.LOST, now)

    def _heed_time_left(self, now: float) -> None:
        """The job ends: start nothing that can't finish, and end what runs in time."""
        walltime = self._walltime
        if now >= walltime.stop_at:
            if self.phase in {Phase.WORKING, Phase.DRAINING}:
                grace = self.definition.grace
                self.on_stop(walltime.why_stop(now), grace, now, by_signal=False)
        elif self.phase is Phase.WORKING and walltime.is_too_late(now):
            self._drain_for_the_end(now)

    def _drain_for_the_end(self, now: float) -> None:
        if self.queue or self.reruns or not self._intake.is_empty:
            self.on_drain(self._walltime.why_drain(now))

    def _heed_failures(self, now: float) -> None:
        """Too many tasks failed, or all canaries did."""
        why = self._failures.why() if self._failures.counts else ""
        canaries_died = self._canary.is_exhausted and not self.tasks
        if canaries_died and self.transaction is None:
            why = self._canary.why()
        if why and self.phase in {Phase.WORKING, Phase.DRAINING}:
            self.too_many_failures = True
            self.on_stop(why, self.definition.grace, now, by_signal=False)

    # ---- the way out -------------------------------------------------------------

    def decide(self, now: float) -> list[Effect]:
        """All that is to be done now."""
        if now >= self._stop_at:
            self._stop_at = float("inf")
            reason = f"the timeout of {self._timeout:g} s is over"
            self.on_stop(reason, self.definition.grace, now, by_signal=False)
        self._heed_time_left(now)
        self._heed_silence(now)
        if self._rejoining or self.limbo:
            self._heed_rejoins(now)
        if self._quarantine.streaks:
            self._heed_streaks(now)
        self._heed_failures(now)
        match self.phase:
            case Phase.WORKING:
                self._work(now)
            case Phase.DRAINING:
                self._transact(now, take=0)
                self._leave_if_done()
            case Phase.STOPPING:
                self._stop(now)
            case Phase.LEAVING:
                pass
            case _:
                assert_never(self.phase)
        self._ping(now)
        self._looked_at = now
        effects, self._outbox = self._outbox, []
        return effects

    def wake_at(self, now: float) -> float:
        """The next moment at which time alone may make `decide` do something."""
        if self.phase is Phase.LEAVING:
            return float("inf")
        times = [self._ping_at, self._stop_at]
        if self.phase is not Phase.STOPPING:
            times.append(self._walltime.stop_at)
        if self._rejoining and self.phase is not Phase.STOPPING:
            times.append(self._rejoin_by)
        if self.ended and self.transaction is None and not self.storage_failed:
            times.append(self._commit_at())
        if self.phase is Phase.WORKING:
            self._add_work_times(times)
        if self.phase is Phase.STOPPING:
            times.append(self._answer_by)
        return max(now, min(times))

    def _add_work_times(self, times: list[float]) -> None:
        if self.hungry and not self.limbo:
            times.append(self.reruns.wake_at())
            if not (self._canary.is_exhausted or self._rejoining):
                times.append(self._intake.poll_at)
        times.append(self._recalls.look_at)
        if self._quarantine.streaks:
            times.append(self._quarantine.wake_at)

    def _work(self, now: float) -> None:
        self._assign(now)
        if self._looked_last and not self.tasks:
            self._leave_if_done()
            return
        self._recall(now)
        self._transact(now, self._take_count(now))
        if not self._census.can_work:
            why = f" ({self._trouble})" if self._trouble else ""
            self.on_stop(f"no rank is left that can run tasks{why}", 0.0, now)

    def _stop(self, now: float) -> None:
        if now >= self._answer_by:
            for record in self.ranks.values():
                if not record.settled:
                    self._settle(record, RankState.LOST)
        settled = self._all_settled()
        if settled:
            for taskid in self.limbo.clear():
                self._give_back(self.tasks[taskid])
        if settled or self._grace > 0:
            self._transact(now, take=0)
        if settled:
            self._leave_if_done()

    def _all_settled(self) -> bool:
        return all(record.settled for record in self.ranks.values())

    def _leave_if_done(self) -> None:
        if self.storage_failed:
            self._abandon()
        if self.tasks or self.transaction is not None:
            return
        if self._rejoining and self.phase is not Phase.STOPPING:
            return
        self._enter(Phase.LEAVING, self.reason)
        # Those given up too: they may only be late, and this rank itself may be one.
        leave, own = self._create_leave(), self.crew.own
        self._outbox += [
            Send(record.rank, leave)
            # its own last: that one waits for its pool
            for record in sorted(self.ranks.values(), key=lambda r: r.rank == own)
            if record.state is not RankState.DEAD and not record.is_dismissed
        ]
        self._outbox.append(End())

    def _create_leave(self) -> Leave:
        hang = self.must_leave_alone
        return Leave(ranks_lost=hang or bool(self.lost_ranks()), aborts=hang)

    def _abandon(self) -> None:
        """What is held stays in the claim; results without a record are told."""
        self.unrecorded = tuple(
            sorted(task.taskid for task in self.tasks.values() if task.result)
        )
        self.tasks.clear()
        self.limbo.clear()
        self._rejoining.clear()
        self.ended.clear()
        self.returning.clear()

    def _transact(self, now: float, take: int) -> None:
        if self.transaction is not None or self.storage_failed:
            return
        due = self._commit_due(now)
        if not (due or self.returning or take):
            return
        results = tuple(self._matured(now))
        give_back = tuple(task.taskid for task in self.returning)
        if not (results or give_back or take):
            return
        self.returning = []
        self.transaction = Transact(results, give_back, take)
        self._outbox.append(self.transaction)

    def _ping(self, now: float) -> None:
        if now >= self._ping_at and self.phase is not Phase.LEAVING:
            self._ping_at = now + self._ping_seconds
            since = now - self._ping_seconds
            for record in self.ranks.values():
                # What works hears of this one, and is heard, without a ping.
                is_known = record.is_addressed and record.heard_at > since
                record.is_addressed = False
                if not (is_known or record.is_gone):
                    self._outbox.append(Send(record.rank, Ping()))

    def _send_all(self, message: ToRank) -> None:
        for record in self.ranks.values():
            if not record.is_gone:
                self._outbox.append(Send(record.rank, message))

    def lost_ranks(self) -> list[int]:
        """Other ranks that died or were given up."""
        others = (r for r in self.ranks.values() if r.rank != self.crew.own)
        return [record.rank for record in others if record.is_gone]

    def silent_ranks(self) -> list[int]:
        """Those that were given up because they were silent, and may yet live."""
        ranks = self.ranks
        return [
            rank for rank in self.lost_ranks() if ranks[rank].state is RankState.LOST
        ]

    @property
    def must_leave_alone(self) -> bool:
        """Whether MPI can't be left: it would wait for ranks that were given up."""
        return bool(self.silent_ranks())
