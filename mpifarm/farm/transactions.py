"""What rank 0 writes to the workdir: transactions, and the claim's heartbeat.

Rules of this file: the lock is never waited for.  It is tried in each step while a
transaction waits, so that signals, messages and this rank's own workers are served
meanwhile.  A disk that fails is tried again for the grace time, a database that
another program writes for as long as the lock would be.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace

from mpifarm.coordinator.effects import Transact
from mpifarm.errors import InUseError, StorageError
from mpifarm.farm.lock_wait import WARNING_SECONDS, LockVerdict, LockWait
from mpifarm.immutable import immutable
from mpifarm.store.store import Store
from mpifarm.store.types import Recorded, Transacted
from mpifarm.system.lock import WorkdirLock
from mpifarm.system.patience import RETRY_SECONDS, Patience

HEARTBEAT_SECONDS = 10.0
"""Seconds between two touches of the claim: other hosts take a claim that was not
touched for long for that of a dead farm."""

IN_USE_SECONDS = 1.0
"""Seconds between two tries to write what another program writes: each try waits for
that program under the lock, and nothing else is done meanwhile."""

TELL_SECONDS = 3.0
"""Seconds of such tries until the user is told."""


@immutable
class Written:
    """A transaction that is on disk."""

    transaction: Transact
    transacted: Transacted


class StoreWriter:
    """The writer of one transaction at a time, as soon as the lock can be had.

    A method that returns a `StorageError` has given the workdir up.
    """

    def __init__(
        self,
        store: Store,
        lock: WorkdirLock,
        grace: float,
        say: Callable[[str], None],
    ) -> None:
        self.lock_wait = LockWait()
        self._store = store
        self._lock = lock
        self._say = say
        self._patience = Patience("the workdir", grace, say)
        self._is_used = False
        """Whether the user knows that another program writes the database."""
        self._transaction: Transact | None = None
        self._records: Sequence[Recorded] = ()

    @property
    def is_waiting(self) -> bool:
        """Whether a transaction waits for the lock or the disk."""
        return self._transaction is not None

    def begin(
        self, transaction: Transact, records: Sequence[Recorded], now: float
    ) -> None:
        """Accept a transaction and its `records`; write the parts that need no lock."""
        self._transaction, self._records = transaction, records
        self.lock_wait.begin(now)
        self._prepare(transaction)

    def take_nothing(self) -> None:
        """Have the transaction that waits, if any, take no tasks."""
        if self._transaction is not None:
            self._transaction = replace(self._transaction, take=0)

    def drop(self) -> None:
        """Forget the transaction that waits."""
        self._transaction = None

    def _prepare(self, transaction: Transact) -> None:
        self._store.prepare(self._records, transaction.requeue, transaction.take)

    def write(self, now: float, *, is_stopping: bool) -> Written | StorageError | None:
        """Try the lock; with it, write the transaction that waits.

        None: none waits, or it waits on for the lock or the disk.  Another farmer that
        holds the lock for long is told.  A `StorageError`: the transaction is given up.
        """
        transaction = self._transaction
        if transaction is None or now < self._patience.retry_at:
            return None
        try:
            if not self._lock.try_acquire():
                return self._complain_of_lock(now, is_stopping=is_stopping)
            try:
                transacted = self._store.transact_or_reclaim(
                    self._records,
                    transaction.requeue,
                    transaction.take,
                    transaction.pull,
                )
            finally:
                self._lock.release()
        except InUseError as error:
            return self._complain_of_use(transaction, error, now, is_stopping)
        except StorageError as error:
            return self._retry_or_give_up(transaction, error, now)
        self._transaction = None
        self._note_success()
        return Written(transaction, transacted)

    def _retry_or_give_up(
        self, transaction: Transact, error: StorageError, now: float
    ) -> StorageError | None:
        """Prepare another try, or give up after the grace time and return the error.

        The wait for the lock begins anew.
        """
        self.lock_wait.begin(now)
        if self._patience.is_over(error, now):
            self._transaction = None
            return error
        self._prepare(transaction)
        return None

    def _complain_of_use(
        self,
        transaction: Transact,
        error: InUseError,
        now: float,
        is_stopping: bool,  # noqa: FBT001 - as the verdict takes it
    ) -> StorageError | None:
        """Prepare another try, and tell of a long wait; in a stop, give up likewise."""
        self._patience.retry_at = now + IN_USE_SECONDS
        verdict = self.lock_wait.assess(now, is_stopping=is_stopping)
        if verdict is LockVerdict.GIVE_UP:
            self._transaction = None
            return error
        is_long = self.lock_wait.waited(now) > TELL_SECONDS and not self._is_used
        if is_long or verdict is LockVerdict.WARN:
            self._is_used = True
            said = str(error).partition(", then give")[0]
            self._say(f"{said}; this farm waits for it")
        self._prepare(transaction)
        return None

    def _note_success(self) -> None:
        self._patience.note_success()
        if self._is_used:
            self._is_used = False
            self._say("the database can be written again")

    def _complain_of_lock(
        self, now: float, *, is_stopping: bool
    ) -> StorageError | None:
        """Tell of a lock held for long; in a stop, give up and return the error."""
        waited = self.lock_wait.waited(now)
        lock = f"the lock ({', '.join(self._lock.paths)})"
        match self.lock_wait.assess(now, is_stopping=is_stopping):
            case LockVerdict.WARN:
                self._say(
                    f"{lock} has been held by another farmer for "
                    f"{WARNING_SECONDS:.0f} s; still trying: if it hangs, end it (to "
                    f"find it, on its host: fuser -v {shlex.join(self._lock.paths)})"
                )
            case LockVerdict.GIVE_UP:
                self._transaction = None
                return StorageError(
                    f"{lock} was held by another farmer for {waited:.0f} s; the next "
                    "start puts this farm's tasks back"
                )
            case LockVerdict.TRY_AGAIN:
                pass
        return None

    def poll_seconds(self, now: float) -> float:
        """Return how many seconds to sleep before the transaction is tried again."""
        return max(self.lock_wait.poll_seconds(now), self._patience.retry_at - now)


class Heartbeat:
    """The sign to other hosts that this farm lives."""

    def __init__(
        self, store: Store, now: float, grace: float, say: Callable[[str], None]
    ) -> None:
        self.due_at = now + HEARTBEAT_SECONDS
        self._store = store
        self._patience = Patience("the claim", grace, say)

    def beat(self, now: float) -> StorageError | None:
        """Touch the claim, and set when to do so next.

        Return the error once the disk has failed for the grace time, else None.
        """
        self.due_at = now + HEARTBEAT_SECONDS
        try:
            self._store.heartbeat()
        except StorageError as error:
            self.due_at = now + RETRY_SECONDS
            return error if self._patience.is_over(error, now) else None
        self._patience.note_success()
        return None
