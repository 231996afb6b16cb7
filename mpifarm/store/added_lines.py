"""The queues that a start has to write: for added lines, and for a list with an order.

Rules of this file: the lock is held, and this farm has no claim yet.  A kill in here
changes nothing: until the fingerprint is replaced, the next start does the same again,
and no farm takes tasks that it does not know.
"""

import os
from collections.abc import Iterator, Sequence
from itertools import filterfalse

from mpifarm.model.paths import WorkdirPaths, staging_of
from mpifarm.model.wording import agree, counted
from mpifarm.store.claims import OtherClaims
from mpifarm.store.fingerprint import Fingerprint, encode_fingerprint
from mpifarm.store.ledger import Ledgers
from mpifarm.store.queue_pair import QueuePair
from mpifarm.store.status_lines import encode_blocks
from mpifarm.store.validate import Validation
from mpifarm.system import files


class AddedLines:
    """The queues and the fingerprint as they have to be before this farm begins."""

    def __init__(
        self,
        paths: WorkdirPaths,
        tasks: Sequence[str],
        queues: QueuePair,
        ledgers: Ledgers,
        others: OtherClaims,
        farm: str,
    ) -> None:
        self._farm = farm
        self._paths = paths
        self._tasks = tasks
        self._queues = queues
        self._ledgers = ledgers
        self._others = others

    def settle(self, validation: Validation) -> str:
        """Write the queues as they have to be before this farm begins.

        Set `QueuePair.first_added`, remove queues of an earlier life of the workdir,
        put new tasks into their queues, and replace the fingerprint.  Return a sentence
        for the user, "" if no lines are new.  Raises `StorageError`.
        """
        queues, known = self._queues, validation.grown_from
        queues.first_added = validation.first_added
        if not validation.snapshot.begun:
            for path in (self._paths.added, self._paths.waiting):
                if files.is_there(path):
                    files.remove(path)
        queues.begin_order()
        told = "" if known is None else _describe_added(len(self._tasks) - known)
        is_missing = not files.exists(self._paths.toprocess)
        if is_missing and queues.waiting is not None:
            self._make_ordered_queues(validation.fingerprint)
            return told
        if is_missing and validation.first_added < len(self._tasks):
            self._make_both_queues()
        elif known is not None and self._is_taken_up(known, validation.toprocess.ids):
            told = "lines were added to the list, and other farmers have them"
        elif known is not None:
            queues.add(known)
        if validation.is_new:
            self._replace_fingerprint(validation.fingerprint)
        return told

    def _is_taken_up(self, known: int, queued: Sequence[int]) -> bool:
        """Return whether plain farmers have the tasks from `known` on already.

        `queued` are ids in ``toprocess``.
        """
        is_queued = max(queued, default=-1) >= known
        return is_queued or self._queues.is_taken_up(known, self._ledgers)

    def _replace_fingerprint(self, fingerprint: Fingerprint) -> None:
        path = self._paths.fingerprint
        staging = staging_of(path, self._farm)
        files.replace(path, staging, encode_fingerprint(fingerprint))

    def _find_open(self) -> Iterator[int]:
        """Yield all unfinished tasks that no other farm holds."""
        claimed = self._others.held_ids()
        return filterfalse(claimed.__contains__, self._ledgers.finished.missing())

    def _make_both_queues(self) -> None:
        """Write ``added`` and ``toprocess`` out of all tasks that are to be run."""
        queues = self._queues
        toprocess, added, _ = queues.split(self._find_open())
        # A plain farmer that finds no `toprocess` runs all tasks of the new list: so it
        # has to be there from now on.  `added` comes first: once `toprocess` is there,
        # nothing tells a start after a kill that all tasks are still to run.
        queues.replace(queues.added, encode_blocks(added, self._tasks))
        queues.replace(queues.toprocess, encode_blocks(toprocess, self._tasks))

    def _make_ordered_queues(self, fingerprint: Fingerprint) -> None:
        """Write all queues of a list with constraints, and its fingerprint.

        The first ``toprocess`` comes last: until then nothing has begun, and the next
        start does all this again.  The fingerprint comes before: it keeps farms away
        that don't heed the order, and names the staging file.  As long as that exists,
        a ``toprocess`` is that of a plain farmer, who has taken the whole list.
        """
        queues = self._queues
        toprocess, added, waiting = queues.split(self._find_open())
        staging = queues.steps.file(queues.steps.begin())
        blocks = encode_blocks(toprocess, self._tasks)
        files.write_staging_file(staging, blocks, like=queues.toprocess.path)
        name = os.path.basename(staging)
        self._replace_fingerprint(fingerprint._replace(staging=name))
        if queues.first_added < len(self._tasks):
            queues.replace(queues.added, encode_blocks(added, self._tasks))
        assert queues.waiting is not None
        queues.replace(queues.waiting, encode_blocks(waiting, self._tasks))
        files.rename(staging, queues.toprocess.path)


def _describe_added(count: int) -> str:
    added = counted(count, "task was", "tasks were")
    run = agree(count, "it runs", "they run")
    return f"{added} added to the list since the last start: {run} too"
