"""What rank 0 decides: events go to the members that they concern, effects come out.

Rules of this file:

* Pure: events come in (``on_...``), effects go out (`Coordinator.decide`), time is an
  argument (seconds, monotonic).  No I/O, no clock, no MPI; a test plays a thousand
  ranks, lost ranks and signals in milliseconds.
* Here is which event goes to which member, and in which order they act (`decide`).
  The members decide: each has a module of its own, is given the members that it may
  use, and posts effects.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from signal import SIGTERM, SIGUSR1, SIGUSR2, Signals
from typing import NamedTuple, assert_never

from mpifarm.coordinator.commits import COMMIT_INTERVAL, Commits
from mpifarm.coordinator.dispatch import NO_COMMAND, Dispatcher
from mpifarm.coordinator.effects import (
    Conclude,
    Effect,
    LookAtList,
    NoteAttempt,
    NoteInLog,
    NoteRank,
    NoteRunning,
    RankChange,
    Reply,
    Send,
    TakeNothing,
    Tell,
    Transact,
)
from mpifarm.coordinator.ending import Ending
from mpifarm.coordinator.failover import Failover
from mpifarm.coordinator.forecast import Forecast
from mpifarm.coordinator.growing import GrowingList
from mpifarm.coordinator.limits import Limits
from mpifarm.coordinator.liveness import Liveness
from mpifarm.coordinator.prefetch import Prefetch
from mpifarm.coordinator.quarantine import OutOfUse, Quarantine
from mpifarm.coordinator.rank_use import RankUse
from mpifarm.coordinator.requests import Requests
from mpifarm.coordinator.results import Results, died_of_drain
from mpifarm.coordinator.retries import MAX_LOST
from mpifarm.coordinator.running import Located, RunningTasks
from mpifarm.coordinator.seats import Seats
from mpifarm.coordinator.start_rate import StartRate
from mpifarm.coordinator.state import (
    FarmState,
    Phase,
    RankRecord,
    RankSet,
    RankState,
)
from mpifarm.coordinator.stop_reasons import StopReasons
from mpifarm.coordinator.task_table import TaskTable
from mpifarm.coordinator.unlocated import Unlocated
from mpifarm.coordinator.walltime import Walltime
from mpifarm.model.messages import (
    Alive,
    Join,
    PoolLost,
    RankUnusable,
    Rejoin,
    Report,
    Running,
    SignalReceived,
    Stopped,
    ToCoordinator,
    Withdrawn,
)
from mpifarm.model.requests import Request
from mpifarm.model.settings import FarmDefinition, Policy
from mpifarm.model.task import NOT_RUN

__all__ = [
    "COMMIT_INTERVAL",
    "MAX_LOST",
    "NO_COMMAND",
    "Conclude",
    "Coordinator",
    "Effect",
    "LookAtList",
    "NoteAttempt",
    "NoteInLog",
    "NoteRank",
    "NoteRunning",
    "OrderNews",
    "Phase",
    "RankChange",
    "RankSet",
    "RankState",
    "Reply",
    "Send",
    "TakeNothing",
    "Tell",
    "Transact",
]

DEFAULT_POLICY = Policy()

MAX_ASKED = 10_000
"""Held tasks of which it is asked whether they have ended: that takes a millisecond."""

MAX_TOLD = 10
"""Reasons why tasks were not run that the user is told at once."""


class OrderNews(NamedTuple):
    """What the order of a list means for a farm, after a transaction.

    `not_run` are tasks that the farm holds and that are never to run, and why.
    `more_may_come`: tasks wait that may be ready later, by what other farms do.
    `some_wait`: tasks wait for others.
    """

    not_run: Sequence[tuple[int, str]] = ()
    more_may_come: bool = False
    some_wait: bool = False


NO_NEWS = OrderNews()
"""For a list without an order."""


class Coordinator:
    """The decisions of rank 0.

    `commands` is the tasklist: ``commands[taskid]`` is the text of a task, and raises
    `InputError` for a task that a handler of the user's does not know.  `timeout` is
    the seconds after `now` at which the farm stops by itself, `deadline` the moment at
    which the job ends.  With `waits_for_others` the farm does not end while other farms
    hold tasks.  `adopted` are tasks that this farm holds already, taken over from a
    coordinator that was lost: ranks that `Rejoin` may have them.
    """

    def __init__(
        self,
        commands: Sequence[str],
        definition: FarmDefinition,
        rank_set: RankSet,
        now: float,
        *,
        policy: Policy = DEFAULT_POLICY,
        timeout: float | None = None,
        deadline: float | None = None,
        waits_for_others: bool = False,
        adopted: Iterable[int] = (),
    ) -> None:
        self.definition = definition
        self.rank_set = rank_set
        self.policy = policy
        self._effects: list[Effect] = []
        self._post = self._effects.append
        self._looked_last = False
        """Whether ``toprocess`` was empty at the last look, when nothing was held."""
        self._told_not_run: set[str] = set()
        """Why tasks were not run, as the user was told."""

        held = [*adopted]
        walltime = Walltime(deadline, definition.grace, policy.task_time)
        self._farm = farm = FarmState.begin(rank_set, policy)
        self.limits = limits = Limits(policy, len(commands), len(held), walltime)
        self.table = table = TaskTable(
            *(farm, limits.failures, held, Seats(dict(policy.seats)))
        )
        ranks = len(rank_set.ranks)
        self.running = RunningTasks(table, ranks, verbose=definition.verbose)
        self.forecast = Forecast(farm, self.running, len(commands), now)
        self.unlocated = Unlocated(held, rank_set.ranks if held else ())
        self.quarantine = Quarantine(policy.quarantine)
        first = 0 if held else len(rank_set.ranks) * rank_set.workers
        self.prefetch = Prefetch(limits, first, now, waits_for_others=waits_for_others)
        self.growing = GrowingList(self._post)
        self.dispatcher = Dispatcher(
            *(farm, table, limits, self.quarantine, self.unlocated),
            *(self.prefetch, StartRate(policy.start_rate, now), commands, self._post),
        )
        self.commits = Commits(farm, table, limits.failures, self._post)
        self.rank_use = RankUse(
            *(farm, table, self.dispatcher, self.commits, self.quarantine),
            *(limits.trial, self.unlocated, self._post),
        )
        self.results = Results(
            *(farm, table, self.dispatcher, self.rank_use, self.quarantine),
            *(limits, self.unlocated, self.forecast, self._post),
        )
        self.liveness = Liveness(
            *(farm, table, self.dispatcher, self.rank_use, self.results),
            *(self.running, definition, self._post, now),
        )
        self.failover = Failover(
            *(farm, table, self.unlocated, self.dispatcher, self.commits),
            *(self.rank_use, self.results, self.liveness, now),
        )
        self.ending = Ending(
            *(farm, table, limits.trial, self.commits, self.rank_use),
            *(self.liveness, self.failover, definition.grace, self._post),
        )
        self.requests = Requests(
            *(farm, table, limits, self.dispatcher, self.unlocated),
            *(self.ending, self.growing, self._post),
        )
        self.stop_reasons = StopReasons(
            *(farm, table, limits, self.dispatcher, self.rank_use),
            *(self.results, self.ending, timeout, now),
        )

    # ---- what others read --------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """The phase of the farm."""
        return self._farm.phase

    @property
    def commands(self) -> Sequence[str]:
        """The tasklist."""
        return self.dispatcher.commands

    @property
    def ranks(self) -> dict[int, RankRecord]:
        """The record of each rank, by rank."""
        return self._farm.ranks

    @property
    def storage_failed(self) -> bool:
        """Return whether writing to the workdir failed: nothing is recorded since."""
        return self.table.storage_failed

    @property
    def quarantined(self) -> dict[int, OutOfUse]:
        """The ranks that are out of use, by rank, until they are cleared."""
        return self.rank_use.out_of_use

    @property
    def reason(self) -> str:
        """Return why the farm stops or drains early, in words; "" otherwise."""
        return self.ending.reason

    @property
    def too_many_failures(self) -> bool:
        """Return whether the farm stops because of the tasks that failed."""
        return self.stop_reasons.too_many_failures

    @property
    def stopped_because(self) -> str:
        """Return the summary's words for a stop because of failures."""
        return self.stop_reasons.stopped_because

    @property
    def way_on(self) -> str:
        """Return how to go on where the same command would stop again; "" otherwise."""
        return self.stop_reasons.way_on

    @property
    def unrecorded(self) -> tuple[int, ...]:
        """Tasks whose results the failed storage did not take; () if nothing failed."""
        return self.ending.unrecorded

    @property
    def limits_failures(self) -> bool:
        """Return whether the number of failed tasks is limited."""
        return self.limits.failures.counts

    @property
    def must_leave_alone(self) -> bool:
        """Return whether a rank given up may live: leaving MPI would wait for it."""
        return self.liveness.must_leave_alone

    @property
    def holds_all(self) -> bool:
        """Return whether no task is started until a user releases them."""
        return self.table.bars.holds_all

    def count_seatless(self) -> dict[str, int]:
        """Return how many tasks wait for seats, by their kind."""
        return self.table.seats.count_waiting()

    def count_held(self, has_ended: Callable[[int], bool]) -> int:
        """Return how many tasks users hold by their ids, without those that have ended.

        If they are very many, those that have ended are counted, too.
        """
        held, total = self.table.bars.held, len(self.commands)
        if len(held) > MAX_ASKED:
            return len(held)
        return sum(each < total and not has_ended(each) for each in held)

    def lost_ranks(self) -> list[int]:
        """Return the ranks, without the own one, that died or were given up."""
        return self.liveness.lost_ranks()

    def silent_ranks(self) -> list[int]:
        """Return the other ranks that were given up and are not known to be dead."""
        return self.liveness.silent_ranks()

    @property
    def has_leased(self) -> bool:
        """Whether any rank has, or has had, a task of this farm's."""
        return self.table.turn > 0

    def count_running(self) -> int:
        """Return how many tasks run: of a rank's leases, one for each worker."""
        return self._farm.count_running()

    def find_running(self) -> list[Located]:
        """Return the tasks that are known to run, the longest-running first."""
        return self.running.find_longest()

    def find_violations(self) -> list[str]:
        """Return the broken invariants of the tasks, in words; [] if none is."""
        streaks = self.quarantine.streaks.values()
        suspects = [task for streak in streaks for task in streak.held]
        held = [*suspects, *self.limits.trial.held]
        return self.table.find_violations(held, self.unlocated.tasks.keys())

    # ---- before ranks have come --------------------------------------------------

    def try_place(self, explain: Callable[[int], str], way_on: str) -> None:
        """Take only a few tasks until the command of one is found to exist.

        If none of the commands is found, the farm stops: `explain` then gives the
        reason for so many tasks, and `way_on` says how to go on.
        """
        self.limits.trial.arm(explain, way_on)

    def note_failed_before(self, before: int, own: int = 0) -> str:
        """Set how many tasks failed before; return a sentence on the limit, or "".

        `before` this start: not counted.  `own`: since, under a coordinator that was
        lost.
        """
        self.limits.failures.note_before(before, own)
        return self.limits.failures.describe()

    def expect_growth(self, follow: float | None) -> None:
        """Have the leader take up lines that are added, and look before the end.

        See `LookAtList` and `on_list_grown`.  `follow` are the seconds for which the
        farm waits for more when all is done; None: it does not.
        """
        self.growing.expect(follow)
        self.prefetch.waits_for_more = follow is not None

    def share_seats(self, kinds: Mapping[int, str]) -> None:
        """Set the kind of each task that shares seats, by its id; `kinds` may grow."""
        self.table.seats.name_kinds(kinds, self.table.tasks)
        most = {name: count for name, count in self.policy.seats if count}
        self.forecast.share_seats(most, kinds)

    def expect_deadline(self) -> None:
        """Begin to measure tasks, since `on_deadline` will tell later of a deadline."""
        self.limits.walltime.expect_deadline()

    def on_deadline(self, deadline: float) -> None:
        """Set when the job ends; `inf` if the end is unknown, or there is none."""
        self.limits.walltime.set_deadline(deadline)

    # ---- what happens: ranks -----------------------------------------------------

    def on_message(self, rank: int, message: ToCoordinator, now: float) -> None:
        """Note that `rank` was heard, and act on its message.

        A rank that is gone is not heard: at most, it is told again to leave.
        """
        record = self._farm.ranks.get(rank)
        if record is None or record.is_gone:
            self.liveness.on_message_of_lost(record, message)
            return
        record.heard_at = now
        match message:
            case Alive():
                pass
            case Join() | Rejoin():
                self._on_coming(record, message, now)
            case Report():
                self.results.on_report(record, message, now)
            case Withdrawn():
                self.requests.on_withdrawn(record, message)
            case Running():
                self._on_running(record, message)
            case SignalReceived():
                self._on_signal_received(record, message, now)
            case RankUnusable():
                self.stop_reasons.on_rank_unusable(record, message.reason, now)
            case PoolLost() | Stopped():
                self.rank_use.settle(record, RankState.STOPPED)
            case _:
                assert_never(message)

    def _on_coming(
        self, record: RankRecord, message: Join | Rejoin, now: float
    ) -> None:
        """Put a rank to work that has come, or has come again."""
        if isinstance(message, Join):
            self.liveness.on_join(record, message)
        else:
            self.failover.on_rejoin(record, message, now)
            self.ending.repeat_phase(record)

    def _on_running(self, record: RankRecord, message: Running) -> None:
        if tasks := self.running.note(record, message):
            self._post(NoteRunning(record.rank, tasks))

    def on_mended(self, now: float) -> None:
        """Await a `Rejoin` of each other rank: all messages under way were lost."""
        self.failover.on_mended(now)
        self.requests.note_messages_lost()

    def on_ranks_lost(self, ranks: Iterable[int], now: float) -> None:
        """Give up ranks that MPI says are dead, and drop the messages posted for them.

        The coordinator's own rank is never given up.
        """
        for rank in ranks:
            record = self.ranks.get(rank)
            if record is not None and rank != self.rank_set.own:
                self.liveness.lose(record, RankState.DEAD, now)
        # A send to a dead rank would never complete.
        dead = {rank for rank, r in self.ranks.items() if r.state is RankState.DEAD}
        self._effects[:] = [
            effect
            for effect in self._effects
            if not isinstance(effect, Send) or effect.rank not in dead
        ]

    # ---- what happens: signals ---------------------------------------------------

    def _on_signal_received(
        self, record: RankRecord, message: SignalReceived, now: float
    ) -> None:
        """Act on a signal to a rank; void results that the signal may have caused."""
        if message.sure > record.sure:
            self.table.note_sure(record, message.sure, now)
        self.on_signal(message.signum, now)
        if message.signum == SIGUSR2:
            record.is_drained = True
            self.table.void_unsure(record, died_of_drain)
        elif self.phase is Phase.STOPPING:
            record.is_void = True
            self.table.void_unsure(record, lambda _: True)

    def on_signal(self, signum: int, now: float) -> None:
        """Stop with grace on USR1, drain on USR2, stop at once on any other signal."""
        reason = f"{Signals(signum).name} was received"
        if signum == SIGUSR1:
            self.ending.stop(reason, self.definition.grace, now)
        elif signum == SIGUSR2:
            self.on_drain(reason)
        else:
            self.ending.stop(reason, 0.0, now)

    def on_launcher_gone(self, now: float) -> None:
        """Tell the user that the launcher is gone, and stop as on TERM."""
        self._post(Tell("the launcher is gone"))
        self.on_signal(SIGTERM, now)

    def on_drain(self, reason: str) -> None:
        """Start nothing more and finish running tasks; no effect unless working."""
        self.ending.drain(reason)

    # ---- what happens: requests --------------------------------------------------

    def hold_from_start(self, taskids: Iterable[int], *, holds_all: bool) -> None:
        """Hold what users held when the farm began."""
        self.requests.restore(taskids, holds_all=holds_all)

    def on_request(self, request: Request, now: float) -> None:
        """Begin to do what a user asks; a `Reply` follows when it is done."""
        self._looked_last = False
        self.requests.on_request(request, now)

    # ---- what happens: the disk --------------------------------------------------

    def on_transacted(
        self,
        taken: Sequence[int],
        now: float,
        *,
        empty: bool,
        cost: float,
        others: bool = False,
        pulled: Sequence[int] = (),
        reopened: Collection[int] = (),
        order: OrderNews = NO_NEWS,
    ) -> None:
        """Finish the transaction, which is on disk; tell ranks; hold the `taken` tasks.

        `pulled` are the tasks that go back, or end, as soon as they are here.
        `reopened` were requeued in place of being recorded as not run.
        `empty`: ``toprocess`` has nothing more for us.  `cost`: seconds that rewriting
        ``toprocess`` took.  `others`: other farms hold tasks.  `order`: what the order
        of the list means for what is left.  If the transaction was to take nothing,
        these four are ignored.  Raise AssertionError if none is under way.
        """
        table, prefetch = self.table, self.prefetch
        done = table.finish_transaction(reopened)
        self.commits.acknowledge_results(done.results)
        is_news = empty != prefetch.is_empty and done.take > 0
        if done.take:
            more = order.more_may_come
            prefetch.note(
                now, empty=empty, cost=cost, others=others, more_may_come=more
            )
            holds_nothing = not table.tasks and not prefetch.others_hold
            has_got = taken or order.not_run or pulled
            self._looked_last = empty and holds_nothing and not has_got
        prefetch.some_wait = order.some_wait
        table.take(taken)
        if order.not_run:
            self._take_not_run(order.not_run, now)
        self.limits.note_taken(len(taken), now)
        self.requests.on_transacted(done, pulled, reopened)
        if is_news:
            # What ranks may hold depends on whether there is more to come.
            self.dispatcher.update_all_demand()

    def on_list_grown(self, now: float) -> None:
        """Note that tasks were added to the list, which has them in `commands`."""
        total = len(self.commands)
        self.limits.failures.grow(total)
        self.forecast.grow(total)
        self.requests.note_grown()
        self.prefetch.note_more(now)
        self._looked_last = False
        self.growing.note_work()
        self.dispatcher.update_all_demand()

    def on_list_seen(self) -> None:
        """Note that a look at the list, since `LookAtList`, has shown nothing new."""
        self.growing.note_seen()
        self.requests.note_seen()

    def on_list_ended(self) -> None:
        """Wait for no more lines, whatever the farm was to wait for."""
        self.growing.end_following()
        self.prefetch.waits_for_more = False

    def _take_not_run(self, not_run: Sequence[tuple[int, str]], now: float) -> None:
        """Record tasks that are never to run; tell each reason, once."""
        for taskid, why in not_run:
            self.table.take_not_run(taskid, f"{NOT_RUN}{why}", now)
            if why not in self._told_not_run and len(self._told_not_run) < MAX_TOLD:
                self._told_not_run.add(why)
                self._post(Tell(f"{why}: the tasks that wait for it are not run"))

    def on_storage_failed(self, reason: str, now: float) -> None:
        """Drop the transaction, begin no other, and stop with grace.

        Tasks that are held stay in the claim on disk.
        """
        self.table.fail_storage()
        self.ending.stop_with_grace(reason, now)

    def forgive_pause(self, seconds: float) -> None:
        """Give all ranks `seconds` more: rank 0 was suspended and heard nothing."""
        self.failover.forgive_pause(seconds)
        self.liveness.forgive_pause(seconds)

    # ---- what follows ------------------------------------------------------------

    def decide(self, now: float) -> list[Effect]:
        """Advance the farm to `now`; return the effects that are due, in their order.

        Each effect is returned once, those posted by earlier events first.
        """
        self.stop_reasons.check_time(now)
        self.liveness.give_up_silent(now)
        if self.unlocated.is_pending:
            self.failover.locate(now)
        self.requests.repeat()
        if self.quarantine.streaks:
            self.rank_use.assess_streaks(now)
        if self.quarantine.pauses:
            self.rank_use.try_again(now)
        self.stop_reasons.check_failures(now)
        phase = self._farm.phase
        match phase:
            case Phase.WORKING:
                self._work(now)
            case Phase.DRAINING:
                self.ending.advance_drain(now)
            case Phase.STOPPING:
                self.ending.advance_stop(now)
            case Phase.LEAVING:
                pass
            case _:
                assert_never(phase)
        self.liveness.ping(now)
        effects = self._effects.copy()
        self._effects.clear()
        return effects

    def wake_at(self, now: float) -> float:
        """Return when `decide` may have to act without an event; `inf` once leaving."""
        phase = self._farm.phase
        if phase is Phase.LEAVING:
            return float("inf")
        if self._effects:
            return now
        wake_at = min(
            self.liveness.ping_at,
            self.commits.wake_at(),
            self.failover.wake_at(),
            self.stop_reasons.wake_at(),
            self.ending.wake_at(),
        )
        if phase is Phase.WORKING:
            wake_at = min(wake_at, self.rank_use.wake_at(), self.growing.wake_at())
            if not self._awaits_look:
                wake_at = min(wake_at, self.dispatcher.wake_at())
        return max(now, wake_at)

    @property
    def _is_done(self) -> bool:
        """Whether nothing was left at the last look, and nobody asks for more."""
        is_done = self._looked_last and not self.table.tasks
        return is_done and not self.requests.keep_the_farm

    @property
    def _awaits_look(self) -> bool:
        """Whether the farm only waits for a last look at its list."""
        return self._is_done and not self.growing.is_waiting

    def _work(self, now: float) -> None:
        self.dispatcher.assign(now)
        if self._is_done:
            if self.growing.may_leave(now):
                self.ending.leave_if_done()
            if not self.growing.is_waiting:
                return
        else:
            self.growing.note_work()
        self.dispatcher.recall(now)
        records = self.commits.is_due(now)
        take = self.dispatcher.count_to_take(now, records=records)
        self.commits.begin(now, take)
        self.stop_reasons.check_ranks(now)
