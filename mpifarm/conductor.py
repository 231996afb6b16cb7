"""Rank 0's loop: does what the coordinator decides, on the disk and to the ranks.

Rules of this file: it decides nothing about tasks.  The lock is never waited for: it
is tried in each step while a transaction waits, so that signals, messages and this
rank's own workers are served meanwhile.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import assert_never

from mpifarm.coordinator import (
    MOST_LOST,
    Coordinator,
    Effect,
    End,
    NoteAttempt,
    NoteInLog,
    Phase,
    Send,
    Tell,
    Transact,
)
from mpifarm.errors import StorageError
from mpifarm.lock import WorkdirLock
from mpifarm.messages import ToCoordinator, ToRank
from mpifarm.rank import RankLoop, RankParts, RankPhase
from mpifarm.report import Tally, progress_line
from mpifarm.task import Outcome, Result
from mpifarm.waiting import Clock, Waiter
from mpifarm.workdir import ClaimLostError, JoinedWorkdir, Recorded

HEARTBEAT_SECONDS = 10.0
LOOK_SECONDS = 1.0
"""Between two looks for a ``drain`` file and for the launcher."""

LOCK_POLL_SECONDS = 0.001
LOCK_SLOW_POLL_SECONDS = 0.005
LOCK_HASTE_SECONDS = 1.0
"""How long the lock is tried each millisecond, as plain farmers do; then less often."""
LOCK_WARNING_SECONDS = 30.0
LOCK_SECONDS_AT_STOP = 3.0

RETRY_SECONDS = 0.1
"""Between two tries to write to a disk that fails."""


class Patience:
    """How long a disk that fails is tried again, `seconds` at the most.

    `say` tells when it begins and when it has helped; `what` names what is written.
    """

    def __init__(self, what: str, seconds: float, say: Callable[[str], None]) -> None:
        self.retry_at = 0.0
        """Not before."""
        self._what = what
        self._seconds = seconds
        self._say = say
        self._since: float | None = None

    def is_over(self, error: StorageError, now: float) -> bool:
        """It has failed (again); whether to give up."""
        if isinstance(error, ClaimLostError):
            return True
        if self._since is None:
            self._since = now
            if self._seconds > 0:
                said = str(error).partition("; make room")[0]
                self._say(f"{said}; trying again for {self._seconds:g} s")
        self.retry_at = now + RETRY_SECONDS
        return now - self._since >= self._seconds

    def note_success(self) -> None:
        """It could be written."""
        if self._since is not None:
            self._since = None
            self._say(f"{self._what} can be written again")


class Conductor:
    """Carries out the farm on rank 0, from the first task to the last record."""

    def __init__(
        self,
        coordinator: Coordinator,
        workdir: JoinedWorkdir,
        lock: WorkdirLock,
        tally: Tally,
        parts: RankParts,
    ) -> None:
        self.coordinator = coordinator
        self.workdir = workdir
        self.lock = lock
        self.tally = tally
        self._comm = parts.comm
        self._signals = parts.around.signals
        self._voice = parts.around.voice
        self._verbose = parts.settings.verbose
        self._clock = Clock()
        probe = parts.comm.has_message if parts.comm else None
        self._waiter = Waiter(self._signals.fd, probe)
        self._announced = coordinator.phase
        self._transaction: Transact | None = None
        grace, say = coordinator.definition.grace, self._voice.say
        self._patience = Patience("the workdir", grace, say)
        self._beat_patience = Patience("the claim", grace, say)
        self._records: list[Recorded] = []
        """The results of the transaction."""
        self._wanted_since = 0.0
        self._heartbeat_at = self._clock.now + HEARTBEAT_SECONDS
        self._look_at = self._clock.now
        self._parent = os.getppid()

    def hear(self, message: ToCoordinator) -> None:
        """What this rank's own loop says."""
        own = self.coordinator.crew.own
        self.coordinator.on_message(own, message, self._clock.now)

    def take_over(
        self, loop: RankLoop, early: Sequence[tuple[int, ToCoordinator]]
    ) -> None:
        """Go on where a coordinator was lost; `early` is what ranks have said since."""
        self.coordinator.on_mended(self._clock.now)
        loop.rejoin(self._clock.now)
        loop.lead()
        for rank, message in early:
            self.coordinator.on_message(rank, message, self._clock.now)

    def run(self, loop: RankLoop, conclude: Callable[[], None]) -> None:
        """Until every rank has been told to leave; before that, once, `conclude`."""
        self._conclude = conclude
        while loop.phase is not RankPhase.LEFT:
            self._forgive(loop, self._clock.step())
            moved = self._listen(loop)
            loop.step(self._clock.now)
            moved |= self._perform(loop)
            moved |= self._transact()
            self._keep_house()
            if moved:
                self._waiter.restart()
            else:
                self._wait(loop)

    def _forgive(self, loop: RankLoop, seconds: float) -> None:
        """This process was suspended for so long (0: it wasn't)."""
        loop.forgive_pause(seconds)
        self.coordinator.forgive_pause(seconds)

    # ---- in ------------------------------------------------------------------------

    def _listen(self, loop: RankLoop) -> bool:
        signals = self._signals.take()
        for signum in signals:
            loop.on_signal(signum, self._clock.now)
        if self._comm is None:
            return bool(signals)
        messages = self._comm.receive()
        for rank, message in messages:
            self.coordinator.on_message(rank, message, self._clock.now)  # type: ignore[arg-type]
        lost = self._comm.take_losses()
        if lost:
            self.coordinator.on_ranks_lost(lost, self._clock.now)
        return bool(signals or messages or lost)

    # ---- out -----------------------------------------------------------------------

    def _perform(self, loop: RankLoop) -> bool:
        if self.coordinator.phase is not self._announced:
            self._announce()
        effects = self.coordinator.decide(self._clock.now)
        if effects and isinstance(effects[-1], End):
            # Before the others are told to leave: they would wait for us in MPI.
            self._conclude()
        for effect in effects:
            self._do(loop, effect)
        return bool(effects)

    def _do(self, loop: RankLoop, effect: Effect) -> None:
        match effect:
            case Send():
                self._send(loop, effect.rank, effect.message)
            case Transact():
                self._begin(effect)
            case NoteInLog():
                self.workdir.note_in_log(effect.taskid, effect.sentence)
            case NoteAttempt():
                self.tally.note_retry(effect.result)
                record = self._record(effect.rank, effect.result)
                self.workdir.note_attempts([record])
            case Tell():
                self._voice.say(effect.sentence)
            case End():
                pass
            case _:
                assert_never(effect)

    def _send(self, loop: RankLoop, rank: int, message: ToRank) -> None:
        if rank == self.coordinator.crew.own:
            loop.on_message(message, self._clock.now)
        elif self._comm is not None:
            self._comm.send(rank, message)

    def _begin(self, transaction: Transact) -> None:
        self._transaction = transaction
        self._wanted_since = self._clock.now
        self._records = [self._record(*each) for each in transaction.results]
        self._prepare(transaction)

    def _prepare(self, transaction: Transact) -> None:
        self.workdir.prepare(self._records, transaction.give_back, transaction.take)

    def _transact(self) -> bool:
        """Try the lock; with it, do what waits for the disk."""
        if self._transaction is None or self._clock.now < self._patience.retry_at:
            return False
        try:
            if not self.lock.try_acquire():
                self._complain_of_lock()
                return False
            try:
                self._write(self._transaction)
            finally:
                self.lock.release()
        except StorageError as error:
            self._wanted_since = self._clock.now
            if self._patience.is_over(error, self._clock.now):
                self._fail(error)
            else:
                self._prepare(self._transaction)
        return True

    def _write(self, transaction: Transact) -> None:
        # A stop may have come while the lock was with another.
        take = transaction.take if self.coordinator.phase is Phase.WORKING else 0
        done = self.workdir.transact(self._records, transaction.give_back, take)
        self._transaction = None
        self._patience.note_success()
        empty = done.empty
        if take and empty and not done.taken:
            empty = not self._reclaim_dead()
        for rank, result in transaction.results:
            self._count(rank, result)
        self._clock.step()
        self.coordinator.on_transacted(
            done.taken,
            self._clock.now,
            empty=empty,
            others=self.workdir.others_hold_tasks,
            cost=done.seconds,
        )

    def _reclaim_dead(self) -> int:
        try:
            return self.workdir.reclaim_dead()
        except StorageError as error:
            # The transaction itself is on disk, and the next start looks again.
            self.workdir.notes.append(str(error))
            return 0

    def _record(self, rank: int, result: Result) -> Recorded:
        is_finished = result.outcome is Outcome.COMPLETED
        started = result.started or time.time()  # 0: nobody lived to tell
        return Recorded(  # by place: names take twice as long, and each task comes here
            *(result.taskid, is_finished, started, result.seconds),
            *(self.coordinator.ranks[rank].pid, result.worker),
            *(result.attempt, result.status, rank),
        )

    def _count(self, rank: int, result: Result) -> None:
        self.tally.add(result)
        if result.outcome is Outcome.LOST:
            why = (
                f"counts as failed: {MOST_LOST} times its worker or its rank was "
                "killed while it ran (did it kill its parent, or did memory run out?)"
            )
            self.workdir.note_in_log(result.taskid, why)
        if self._verbose:
            self._voice.say(
                f"task={result.taskid} attempt={result.attempt} rank={rank} "
                f"worker={result.worker} outcome={result.outcome.value} "
                f"status={result.status} seconds={result.seconds:.3f}"
            )

    def _fail(self, error: StorageError) -> None:
        self._transaction = None
        self.coordinator.on_storage_failed(str(error), self._clock.now)

    def _complain_of_lock(self) -> None:
        waited = self._clock.now - self._wanted_since
        if self.coordinator.phase is Phase.STOPPING and waited > LOCK_SECONDS_AT_STOP:
            error = StorageError(
                f"the lock ({', '.join(self.lock.paths)}) was held by another farmer "
                f"for {waited:.0f} s; the next start puts this farm's tasks back"
            )
            self._fail(error)
            return
        if waited > LOCK_WARNING_SECONDS:
            self._wanted_since = self._clock.now
            self._voice.say(
                f"the lock ({', '.join(self.lock.paths)}) has been held by another "
                f"farmer for {LOCK_WARNING_SECONDS:.0f} s; still trying"
            )

    # ---- time ----------------------------------------------------------------------

    def _keep_house(self) -> None:
        now = self._clock.now
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_SECONDS
            self._beat()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._look_around()
        while self.workdir.notes:
            self._voice.say(self.workdir.notes.pop(0))

    def _beat(self) -> None:
        try:
            self.workdir.heartbeat()
        except StorageError as error:
            self._heartbeat_at = self._clock.now + RETRY_SECONDS
            if self._beat_patience.is_over(error, self._clock.now):
                self._fail(error)
        else:
            self._beat_patience.note_success()

    def _look_around(self) -> None:
        if self.workdir.drain_requested():
            self.coordinator.on_drain(
                f"the workdir has a file 'drain' ({self.workdir.paths.drain}); "
                "remove it to go on"
            )
        if self._comm is not None and os.getppid() != self._parent:
            self._parent = os.getppid()
            self._voice.say("the launcher is gone")
            self.coordinator.on_signal(signal.SIGTERM, self._clock.now)
        self._voice.show(self.progress())

    def progress(self) -> str:
        """The state of things in one line."""
        finished, failed = self.workdir.recorded
        return progress_line(
            len(self.coordinator.commands),
            finished,
            failed,
            self.coordinator.count_running(),
            self.tally.rate(self._clock.now),
        )

    def _announce(self) -> None:
        """Say at once what a signal, a drain file or a failure has begun."""
        running = _count(self.coordinator.running_before)
        phase, self._announced = self.coordinator.phase, self.coordinator.phase
        if phase is Phase.DRAINING:
            what = f"nothing more is started, {running} still running"
        elif phase is Phase.STOPPING:
            what = f"{running} running, ended now, to run again"
            if not self.coordinator.running_before:
                what = "nothing is running"
        else:
            return
        self._voice.say(f"{self.coordinator.reason}: {what}")

    def _wait(self, loop: RankLoop) -> None:
        now = self._clock.now
        if self._transaction is not None:
            # The lock is with another farmer.
            waited = now - self._wanted_since
            patient = waited > LOCK_HASTE_SECONDS
            poll = LOCK_SLOW_POLL_SECONDS if patient else LOCK_POLL_SECONDS
            self._waiter.wait((), max(poll, self._patience.retry_at - now))
            return
        wake_at = min(
            loop.wake_at(),
            self.coordinator.wake_at(now),
            self._look_at,
            self._heartbeat_at,
        )
        loop.wait(self._waiter, now, wake_at)


def _count(tasks: int) -> str:
    return f"{tasks} {'task' if tasks == 1 else 'tasks'}"
