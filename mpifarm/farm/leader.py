"""Rank 0's loop: carries out what the coordinator decides, on disk and to ranks.

Rules of this file: it decides nothing.  What happens goes to the coordinator as an
event; the coordinator's effects are carried out in their order.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, assert_never

from mpifarm.coordinator.coordinator import (
    MAX_LOST,
    Conclude,
    Coordinator,
    Effect,
    LookAtList,
    NoteAttempt,
    NoteInLog,
    NoteRank,
    NoteRunning,
    OrderNews,
    Phase,
    Reply,
    Send,
    TakeNothing,
    Tell,
    Transact,
)
from mpifarm.coordinator.state import RankRecord
from mpifarm.errors import StorageError
from mpifarm.farm.agent import Agent, RankPhase
from mpifarm.farm.context import RankContext
from mpifarm.farm.farm_state import FarmStates
from mpifarm.farm.job_end import LOOK_SECONDS as ANSWER_LOOK_SECONDS
from mpifarm.farm.job_end import JobEnd
from mpifarm.farm.request_desk import RequestDesk
from mpifarm.farm.summary import Tally, progress_line
from mpifarm.farm.task_lines import TaskLines
from mpifarm.farm.time_left import TimeLeftLook
from mpifarm.farm.transactions import Heartbeat, StoreWriter, Written
from mpifarm.model.messages import ToCoordinator, ToRank
from mpifarm.model.task import Outcome, Result, has_not_run
from mpifarm.model.wording import held_in_words, time_left_in_words
from mpifarm.store.farm_file import FarmFile
from mpifarm.store.store import Store
from mpifarm.store.types import Recorded
from mpifarm.system.event_loop import Clock, Waiter
from mpifarm.system.lock import WorkdirLock

if TYPE_CHECKING:
    from mpifarm.farm.cause_lines import GroupedFailures
    from mpifarm.farm.database_growth import DatabaseGrowth
    from mpifarm.farm.failures import Failures
    from mpifarm.farm.farm_events import FarmEvents
    from mpifarm.farm.growth import Growth

JOIN_SECONDS = 30.0
"""Seconds after which the ranks are told by host, though some have not joined."""

LOOK_SECONDS = 1.0
"""Seconds between two looks for a ``drain`` file and for the launcher."""

KILLED_TOO_OFTEN = (
    f"counts as failed: {MAX_LOST} times its worker or its rank was killed while it "
    "ran (did it kill its parent, or did memory run out?)"
)


class Leader:
    """The loop of the leading rank, from the first task to the last record.

    `clock` and `waiter` default to the machine's.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        store: Store,
        lock: WorkdirLock,
        tally: Tally,
        context: RankContext,
        job_end: JobEnd,
        clock: Clock | None = None,
        waiter: Waiter | None = None,
    ) -> None:
        self.coordinator = coordinator
        self.store = store
        self.lock = lock
        self.tally = tally
        self.growth: Growth | DatabaseGrowth | None = None
        """The growth of the list; None for one that does not grow while it runs."""
        self._events: FarmEvents | None = None
        self._job_end = job_end
        self._comm = context.comm
        self._signals = context.process.signals
        self._output = context.process.output
        self._task_lines: TaskLines | None = None
        if context.settings.verbose:
            commands, say = coordinator.commands, self._output.say
            self._task_lines = TaskLines(commands, self._find_host, say)
        self._failures: Failures | None = None
        self._clock = clock or Clock()
        probe = context.comm.has_message if context.comm else None
        self._waiter = waiter or Waiter(self._signals.fd, probe)
        grace, say, now = (
            coordinator.definition.grace,
            self._output.say,
            self._clock.now,
        )
        store.count_in_timeline(coordinator.count_running)
        self._writer = StoreWriter(store, lock, grace, say)
        self._heartbeat = Heartbeat(store, now, grace, say)
        self._look_at = now
        self._time_left = TimeLeftLook(coordinator, store, tally)
        self._rate = 0.0
        """Tasks per second, as of the last look."""
        self._answer_at = now if job_end.is_open else float("inf")
        self._parent = os.getppid()
        self._desk = RequestDesk(coordinator, store, lock)
        self._states = FarmStates(coordinator, store, context)
        self._farm_file = FarmFile(store.paths, coordinator.definition.farm, now)
        self._describe_hosts: Callable[[Collection[str]], str] | None = None
        self._describe_ranks: Callable[[Iterable[RankRecord]], str] | None = None
        self._ranks_told_by = now + JOIN_SECONDS
        self._conclude: Callable[[], None] = lambda: None

    @property
    def events(self) -> "FarmEvents | None":
        """What is told of the farm's events; None if nobody wants them."""
        return self._events

    @events.setter
    def events(self, events: "FarmEvents") -> None:
        self._events = events
        self._desk.note_request = events.note_request

    @property
    def task_rate(self) -> float:
        """Tasks per second, as of the last look."""
        return self._rate

    def watch_hosts(
        self,
        describe: Callable[[Collection[str]], str],
        describe_ranks: Callable[[Iterable[RankRecord]], str],
    ) -> None:
        """Print both once all ranks have joined; no effect without MPI.

        `describe` says what is wrong with the hosts, "" if nothing; `describe_ranks`
        who is where, after `JOIN_SECONDS` at the latest.
        """
        if self._comm is not None:
            self._describe_hosts = describe
            self._describe_ranks = describe_ranks

    def hear(self, message: ToCoordinator) -> None:
        """Hand a message of this rank's own agent to the coordinator."""
        own = self.coordinator.rank_set.own
        self.coordinator.on_message(own, message, self._clock.now)

    def take_over(
        self, agent: Agent, early: Sequence[tuple[int, ToCoordinator]]
    ) -> None:
        """Have all ranks rejoin, this one first; then hand `early` to the coordinator.

        `early` are the messages that ranks have sent to this rank already.
        """
        self.coordinator.on_mended(self._clock.now)
        agent.rejoin(self._clock.now)
        agent.lead()
        for rank, message in early:
            self.coordinator.on_message(rank, message, self._clock.now)

    def run(self, agent: Agent, conclude: Callable[[], None]) -> None:
        """Run until this rank's agent has left; call `conclude` once before that."""
        self._conclude = conclude
        while agent.phase is not RankPhase.LEFT:
            self._forgive_pause(agent, self._clock.step())
            moved = self._listen(agent)
            agent.step(self._clock.now)
            moved |= self._perform_effects(agent)
            moved |= self._write()
            if self.growth is not None:
                moved |= self.growth.step(self._clock.now)
            self._do_what_is_due()
            if moved:
                self._waiter.restart()
            else:
                self._wait(agent)

    def _forgive_pause(self, agent: Agent, seconds: float) -> None:
        """Tell agent and coordinator how long this process was suspended (0: not)."""
        agent.forgive_pause(seconds)
        self.coordinator.forgive_pause(seconds)

    # ---- events ----------------------------------------------------------------------

    def _listen(self, agent: Agent) -> bool:
        """Hand on signals, messages and lost ranks; return whether any came."""
        signals = self._signals.take()
        for signum in signals:
            agent.on_signal(signum, self._clock.now)
        if self._comm is None:
            return bool(signals)
        messages = self._comm.receive()
        for rank, message in messages:
            self.coordinator.on_message(rank, message, self._clock.now)  # type: ignore[arg-type]
        lost = self._comm.take_losses()
        if lost:
            self.coordinator.on_ranks_lost(lost, self._clock.now)
        return bool(signals or messages or lost)

    # ---- effects ---------------------------------------------------------------------

    def _perform_effects(self, agent: Agent) -> bool:
        """Carry out the coordinator's decisions; return whether there were any."""
        effects = self.coordinator.decide(self._clock.now)
        for effect in effects:
            self._perform(agent, effect)
        return bool(effects)

    def _perform(self, agent: Agent, effect: Effect) -> None:
        """Carry out one effect."""
        match effect:
            case Send():
                self._send(agent, effect.rank, effect.message)
            case Transact():
                records = [self._record(*each) for each in effect.results]
                self._writer.begin(effect, records, self._clock.now)
            case TakeNothing():
                self._writer.take_nothing()
            case NoteInLog() | NoteAttempt() | NoteRunning() | NoteRank():
                self._note(effect)
            case Tell():
                self._output.say(effect.sentence)
            case LookAtList():
                assert self.growth is not None
                self.growth.look_at_end()
            case Reply():
                self._desk.note_answer(effect.answer, self._clock.now)
            case Conclude():
                self._desk.close()
                self._conclude()
            case _:
                assert_never(effect)

    def _note(self, effect: NoteInLog | NoteAttempt | NoteRunning | NoteRank) -> None:
        """Note something about tasks or a rank that changes nothing for them."""
        match effect:
            case NoteInLog():
                self.store.note_in_log(effect.taskid, effect.sentence)
            case NoteAttempt():
                self.tally.note_retry(effect.result)
                record = self._record(effect.rank, effect.result)
                self.store.note_attempts([record])
                if self._events is not None:
                    self._events.note_retried(record)
            case NoteRunning():
                self._note_running(effect)
            case NoteRank():
                if self._events is not None:
                    self._events.note_rank(effect)
            case _:
                assert_never(effect)

    def _note_running(self, effect: NoteRunning) -> None:
        if self._task_lines is not None:
            self._task_lines.note_running(effect.rank, effect.tasks)
        if self._events is not None:
            self._events.note_running(effect)

    def _send(self, agent: Agent, rank: int, message: ToRank) -> None:
        """Send a message to a rank, or hand it to this rank's own agent."""
        if rank == self.coordinator.rank_set.own:
            agent.on_message(message, self._clock.now)
        elif self._comm is not None:
            self._comm.send(rank, message)

    def _record(self, rank: int, result: Result) -> Recorded:
        is_finished = result.outcome is Outcome.COMPLETED
        record = self.coordinator.ranks[rank]
        host = record.host
        if not result.started:  # nobody lived to tell, or it never ran
            host = "" if has_not_run(result) else host
            result = result._replace(started=time.time())
        # By place: names take twice as long, and each task comes here.
        return Recorded(result.taskid, is_finished, result, rank, record.pid, host)

    def _find_host(self, rank: int) -> str:
        return self.coordinator.ranks[rank].host

    # ---- the disk --------------------------------------------------------------------

    def _write(self) -> bool:
        """Write the transaction that waits, if the lock can be had.

        Return whether it was written, or given up; both are told to the coordinator.
        """
        is_stopping = self.coordinator.phase is Phase.STOPPING
        match self._writer.write(self._clock.now, is_stopping=is_stopping):
            case None:
                return False
            case Written() as written:
                self._note_written(written)
            case StorageError() as error:
                self._fail(error)
        return True

    def _note_written(self, written: Written) -> None:
        """Count the results on disk, and tell the coordinator what was written."""
        done = written.transacted
        for rank, result in written.transaction.results:
            if not done.reopened or result.taskid not in done.reopened:
                self._count(rank, result)
        self._clock.step()  # a slow write is no suspension, and what follows is later
        self.coordinator.on_transacted(
            done.taken,
            self._clock.now,
            empty=done.empty,
            others=self.store.others_hold_tasks,
            cost=done.seconds,
            order=OrderNews(done.not_run, done.more_may_come, done.some_wait),
            pulled=done.pulled,
            reopened=done.reopened,
        )

    def _count(self, rank: int, result: Result) -> None:
        """Tally a recorded result, and tell it."""
        self.tally.add(result)
        if self._task_lines is not None:
            self._task_lines.note_end(rank, result)
        if self._events is not None:
            self._events.note_recorded(rank, result)
        if result.outcome is not Outcome.COMPLETED:
            self._count_failure(rank, result)

    def _count_failure(self, rank: int, result: Result) -> None:
        """Tell a failure; note in the task's log that it was lost too often."""
        if result.outcome is Outcome.LOST:
            self.store.note_in_log(result.taskid, KILLED_TOO_OFTEN)
        if result.outcome is not Outcome.NOT_RUN:
            self._note_failure(rank, result)

    def _note_failure(self, rank: int, result: Result) -> None:
        if self._failures is None:
            from mpifarm.farm.failures import Failures  # a farm may have none

            self._failures = Failures(
                self.store.paths.logs,
                self.coordinator.definition.farm,
                self.coordinator.commands,
                self._find_host,
                self._output.mention,
                self._clock.now,
                tells_ends=self._task_lines is None,
            )
        self._failures.note(rank, result, self._clock.now)

    def group_failures(self) -> "GroupedFailures | None":
        """Return the failed tasks of this farm by cause; None if none has failed."""
        if self._failures is None:
            return None
        ran = Counter[str]()
        for record in self.coordinator.ranks.values():
            ran[record.host] += record.ended
        return self._failures.group(ran)

    def _fail(self, error: StorageError) -> None:
        """Drop the transaction, and tell the coordinator that the storage failed."""
        self._writer.drop()
        self.coordinator.on_storage_failed(str(error), self._clock.now)

    # ---- time ------------------------------------------------------------------------

    def _do_what_is_due(self) -> None:
        """Touch the claim, look around and ask for answers, each if it is time.

        Print the notes of the store.
        """
        now = self._clock.now
        self._desk.write(now)
        if now >= self._heartbeat.due_at and (error := self._heartbeat.beat(now)):
            self._fail(error)
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._look_around()
        if now >= self._answer_at:
            self._look_for_job_end()
        if now >= self._farm_file.due_at:
            self.write_state()
        if self._events is not None:
            self._events.look(now)
        while self.store.notes:
            self._output.say(self.store.notes.pop(0))

    def write_state(self, exit_status: int | None = None) -> None:
        """Write what this farm says of itself, at its end with its exit status."""
        begun = time.perf_counter()
        left = self._time_left.find(self._clock.now)
        self._rate = self.tally.rate(self._clock.now)
        state = self._states.describe(self._rate, left, exit_status)
        self._farm_file.write(state, time.perf_counter() - begun, self._clock.now)

    def _look_for_job_end(self) -> None:
        """Hand on the job's end if the batch system has answered; else look later."""
        self._answer_at = self._clock.now + ANSWER_LOOK_SECONDS
        if self._job_end.poll(self._clock.now):
            self._answer_at = float("inf")
            self.coordinator.on_deadline(self._job_end.deadline)
            self.tell_job_end()

    def tell_job_end(self) -> None:
        """Say what is known of the job's end since the last call."""
        output = self._output
        # With an unknown end comes the remedy, which --quiet leaves.
        tell = output.say if self._job_end.is_unknown else output.mention
        for sentence in self._job_end.take_news():
            tell(sentence)

    def _look_around(self) -> None:
        """Look for requests, a file ``drain``, the launcher and new hosts.

        Show the progress.
        """
        self._desk.look(self._clock.now)
        if self.store.drain_requested():
            drain = self.store.paths.drain
            self.coordinator.on_drain(
                f"the workdir has a file 'drain' (to go on, remove {drain})"
            )
        if self._comm is not None and os.getppid() != self._parent:
            self._parent = os.getppid()
            self.coordinator.on_launcher_gone(self._clock.now)
        if self._describe_ranks is not None:
            self._look_at_ranks(self._describe_ranks)
        if self._describe_hosts is not None:
            self._look_at_hosts(self._describe_hosts)
        if self._failures is not None:
            self._failures.look(self._clock.now)
        self._output.show(self.progress())

    def _look_at_ranks(self, describe: Callable[[Iterable[RankRecord]], str]) -> None:
        ranks = self.coordinator.ranks.values()
        if all(each.host for each in ranks) or self._clock.now >= self._ranks_told_by:
            self._describe_ranks = None
            self._output.mention(describe(ranks))

    def _look_at_hosts(self, describe: Callable[[Collection[str]], str]) -> None:
        hosts = {record.host for record in self.coordinator.ranks.values()}
        if "" in hosts:
            return  # of a rank that has not joined
        self._describe_hosts = None
        if sentence := describe(hosts):
            self._output.say(sentence)

    def progress(self) -> str:
        """Return the live line, and sample the rate of tasks for the next one."""
        finished, failed = self.store.recorded
        rate = self._rate = self.tally.rate(self._clock.now)
        left = self._time_left.find(self._clock.now)
        is_guess = self.coordinator.forecast.outruns
        return progress_line(
            len(self.coordinator.commands),
            finished,
            failed,
            self.coordinator.count_running(),
            rate,
            "" if left is None else time_left_in_words(left, is_guess=is_guess),
            waits=self.coordinator.growing.is_waiting,
            held=held_in_words(
                self.coordinator.count_held(self.store.has_record_of),
                self.coordinator.holds_all,
            ),
        )

    def _wait(self, agent: Agent) -> None:
        """Sleep until an event, or until something is due."""
        now = self._clock.now
        if self._writer.is_waiting:
            # The lock is with another farmer, or the disk fails.
            self._waiter.wait((), self._writer.poll_seconds(now))
            return
        wake_at = min(
            agent.wake_at(),
            self.coordinator.wake_at(now),
            self._look_at,
            self._heartbeat.due_at,
            self._answer_at,
            self._farm_file.due_at,
            self._desk.due_at,
            self.growth.wake_at() if self.growth else float("inf"),
            self._events.due_at() if self._events else float("inf"),
        )
        agent.wait(self._waiter, now, wake_at)
