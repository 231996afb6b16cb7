"""Tasks that are inserted into a database while its farm works.

Rules of this file: as those of `growth`.  A look without the lock tells whether anybody
has written to the database; then the rows behind the known ones are read under it.
"""

import time
from collections.abc import Callable
from typing import Final

from mpifarm.coordinator.coordinator import Coordinator, Phase
from mpifarm.errors import FarmError, InputError, StorageError
from mpifarm.farm.growth import LOCK_SECONDS, GrowthNews, Left
from mpifarm.farm.standard_input import InputFeed
from mpifarm.lists.growth import LOOK_SECONDS, MAX_SHARE, Odd, Oddity
from mpifarm.store.database_store import DatabaseStore
from mpifarm.store.store import Store
from mpifarm.system.lock import WorkdirLock
from mpifarm.tasklists import TaskList

MAX_TASKS: Final = 50_000
"""Tasks that are taken up in one step, which takes a tenth of a second."""


class DatabaseGrowth:
    """The growth of one farm's database; `say` and `mention` print a sentence."""

    feed: InputFeed | None = None
    """No standard input is a database."""

    def __init__(
        self,
        tasks: TaskList,
        store: DatabaseStore,
        lock: WorkdirLock,
        coordinator: Coordinator,
        say: Callable[[str], None],
        mention: Callable[[str], None],
        now: float,
    ) -> None:
        self.path = store.database
        self._store = store
        self._lock = lock
        self._coordinator = coordinator
        self._say = say
        self._news = GrowthNews(tasks, store.unlimited, say, mention, now)
        self._look_at = now + LOOK_SECONDS
        self._is_asked = False
        """Whether the coordinator waits for a look."""
        self._fault = ""
        """What is wrong with the rows, as it was told last."""

    @classmethod
    def of_store(
        cls,
        tasks: TaskList,
        store: Store,
        lock: WorkdirLock,
        coordinator: Coordinator,
        say: Callable[[str], None],
        mention: Callable[[str], None],
        now: float,
    ) -> "DatabaseGrowth | None":
        """Return the growth of a database, None for a store that is none."""
        if not isinstance(store, DatabaseStore):
            return None
        return cls(tasks, store, lock, coordinator, say, mention, now)

    def look_at_end(self) -> None:
        """Look at the rows at once; the coordinator is told what comes of it."""
        self._is_asked = True
        self._look_at = float("-inf")

    def wake_at(self) -> float:
        """Return when `step` is due."""
        is_working = self._coordinator.phase is Phase.WORKING
        return self._look_at if is_working else float("inf")

    def step(self, now: float) -> bool:
        """Take up what was inserted, if a look is due and the lock can be had.

        Return whether there was anything to do.
        """
        if self._coordinator.phase is not Phase.WORKING:
            return False
        self._news.tell(now)
        if now < self._look_at:
            return False
        if not self._is_asked and not self._store.has_changed():
            self._look_at = now + LOOK_SECONDS
            return False
        return self._look(now)

    def _look(self, now: float) -> bool:
        begun = time.perf_counter()
        try:
            if not self._lock.try_acquire():
                self._look_at = now + LOCK_SECONDS
                return False
            try:
                added = self._store.take_up(MAX_TASKS)
            finally:
                self._lock.release()
        except StorageError:
            # The next look tries again, and the next transaction tells.
            self._look_at = now + LOOK_SECONDS
            self._answer()
            return False
        except InputError as error:
            self._note_fault(str(error), now)
            return False
        cost = time.perf_counter() - begun
        self._fault = ""
        self._look_at = now
        if added:
            total = len(self._coordinator.commands)
            self._news.note(total - added, total)
            self._coordinator.on_list_grown(now)
            return True
        self._look_at += max(LOOK_SECONDS, cost / MAX_SHARE)
        self._answer()
        return True

    def _note_fault(self, fault: str, now: float) -> None:
        """Tell, once, why nothing is taken up; look again in a while."""
        self._look_at = now + LOOK_SECONDS
        if fault != self._fault:
            self._fault = fault
            self._say(f"WARNING: {fault}; until then, no inserted task is taken up")
        self._answer()

    def _answer(self) -> None:
        """Tell the coordinator, if it has asked, that nothing more is to be done."""
        if self._is_asked:
            self._is_asked = False
            self._coordinator.on_list_seen()

    def find_left(self, _now: float) -> Left:
        """Look at the rows again.  Return what this farm leaves there."""
        try:
            left = self._store.find_left()
        except FarmError as error:
            return Left(0, Odd(Oddity.WRONG, str(error), self.path))
        if left and self._fault:
            return Left(left, Odd(Oddity.WRONG, self._fault, "an inserted row"))
        return Left(left)
