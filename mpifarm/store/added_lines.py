"""Lines that were added to the end of a list in use: the start that brings them in.

Rules of this file: the lock is held, and this farm has no claim yet.  A kill in here
changes nothing: until the fingerprint is replaced, the next start does the same again,
and no farm takes tasks that it does not know.
"""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import filterfalse

from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.wording import agree, counted
from mpifarm.store.claims import OtherClaims
from mpifarm.store.ledger import Ledgers
from mpifarm.store.queue_pair import QueuePair
from mpifarm.store.status_lines import encode_blocks
from mpifarm.store.validate import Validation
from mpifarm.system import files


class AddedLines:
    """The tasks that were added to the list since the first start."""

    def __init__(
        self,
        paths: WorkdirPaths,
        tasks: Sequence[str],
        queues: QueuePair,
        ledgers: Ledgers,
        others: OtherClaims,
    ) -> None:
        self._paths = paths
        self._tasks = tasks
        self._queues = queues
        self._ledgers = ledgers
        self._others = others

    def settle(self, validation: Validation) -> str:
        """Write the queues as they have to be before this farm begins.

        Set `QueuePair.first_added`, remove an ``added`` of an earlier life of the
        workdir, and put new tasks into ``added``.  Return a sentence for the user, ""
        if no lines are new.  Raises `StorageError`.
        """
        self._queues.first_added = validation.first_added
        if not validation.snapshot.begun and files.is_there(self._paths.added):
            files.remove(self._paths.added)
        if validation.first_added == len(self._tasks):
            return ""
        known = validation.grown_from
        if not files.exists(self._paths.toprocess):
            self._make_both_queues()
        elif known is not None:
            queued = max(validation.toprocess.ids, default=-1)
            if queued >= known or self._queues.is_taken_up(known, self._ledgers):
                return "lines were added to the list, and other farmers have them"
            self._queues.add(known)
        return "" if known is None else _describe_added(len(self._tasks) - known)

    def _make_both_queues(self) -> None:
        """Write both queues out of all unfinished tasks that no other farm holds."""
        claimed = self._others.held_ids()
        missing = self._ledgers.finished.missing()
        ids = array("I", filterfalse(claimed.__contains__, missing))
        place = bisect_left(ids, self._queues.first_added)
        queues = self._queues
        # A plain farmer that finds no `toprocess` runs all tasks of the new list: so it
        # has to be there from now on.  `added` comes first: once `toprocess` is there,
        # nothing tells a start after a kill that all tasks are still to run.
        queues.replace(queues.added, encode_blocks(ids[place:], self._tasks))
        queues.replace(queues.toprocess, encode_blocks(ids[:place], self._tasks))


def _describe_added(count: int) -> str:
    added = counted(count, "task was", "tasks were")
    run = agree(count, "it runs", "they run")
    return f"{added} added to the list since the last start: {run} too"
