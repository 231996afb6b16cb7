"""The requests of users to a running farm, from the disk and back to it.

Rules of this file: it decides nothing.  It looks each second, and answers as soon as
the lock can be had, for which it waits only at the farm's end.
"""

from collections.abc import Callable
from contextlib import suppress

from mpifarm.coordinator.coordinator import Coordinator
from mpifarm.errors import StorageError
from mpifarm.model.requests import Answer, Request, RequestKind
from mpifarm.store.store import Store
from mpifarm.system.lock import WorkdirLock
from mpifarm.system.patience import RETRY_SECONDS

LOCK_SECONDS = 0.01
"""Seconds between two tries of a lock that another farmer holds."""

LAST_SECONDS = 2.0
"""Seconds that a farm at its end waits for the lock: who has asked it waits, too."""

_ABOUT_HELD = frozenset({RequestKind.HOLD, RequestKind.RELEASE})


class RequestDesk:
    """Takes requests from the workdir to the coordinator, and its answers back."""

    def __init__(
        self, coordinator: Coordinator, store: Store, lock: WorkdirLock
    ) -> None:
        self.due_at = float("inf")
        """When to try again to write the answers that wait; `inf` if none does."""
        self.note_request: Callable[[Request], None] = lambda _: None
        """Called with each request before the coordinator hears it."""
        self._coordinator = coordinator
        self._store = store
        self._lock = lock
        self._answers: list[Answer] = []

    def look(self, now: float) -> None:
        """Hand the requests that have come since the last look to the coordinator."""
        store = self._store
        for request in store.requests.poll():
            if request.kind in _ABOUT_HELD:
                store.hold(store.held_by_users.after(request))
            self.note_request(request)
            self._coordinator.on_request(request, now)

    def note_answer(self, answer: Answer, now: float) -> None:
        """Accept an answer, which is written with the next `write`."""
        self._answers.append(answer)
        self.due_at = now

    def write(self, now: float) -> None:
        """Write the answers that wait, if it is time and the lock can be had."""
        if now < self.due_at:
            return
        self.due_at = now + LOCK_SECONDS
        try:
            if not self._lock.try_acquire():
                return
            try:
                self._store.requests.answer(self._answers)
            finally:
                self._lock.release()
        except StorageError:
            # Who waits for it is told that the farm lives and has not answered.
            self.due_at = now + RETRY_SECONDS
            return
        self._answers, self.due_at = [], float("inf")

    def close(self) -> None:
        """Write the answers that wait, before the farm leaves."""
        if self._answers:
            with suppress(StorageError), self._lock.hold(LAST_SECONDS):
                self._store.requests.answer(self._answers)
            self._answers, self.due_at = [], float("inf")
