"""The queues that a start has to write: for added lines, and for a list with an order.

Rules of this file: the lock is held, and this farm has no claim yet.  A kill in here
changes nothing: until the fingerprint is replaced, the next start does the same again,
and no farm takes tasks that it does not know.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import filterfalse
from typing import NamedTuple

from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths, staging_of
from mpifarm.model.wording import agree, counted
from mpifarm.store.claims import OtherClaims
from mpifarm.store.fingerprint import Fingerprint, encode_fingerprint
from mpifarm.store.ledger import Ledgers
from mpifarm.store.queue_pair import QueuePair
from mpifarm.store.status_lines import Ids, encode_blocks
from mpifarm.store.validate import Validation
from mpifarm.system import files
from mpifarm.system.file_contents import Version, find_version


class Staged(NamedTuple):
    """A file that is to become a queue, as it was written."""

    path: str
    version: Version | None

    def is_unchanged(self) -> bool:
        """Return whether the file is still that one; raises `StorageError`."""
        return find_version(self.path) == self.version


class StagedQueues(NamedTuple):
    """The first queues of a list with constraints; `added` only if it has grown."""

    toprocess: Staged
    waiting: Staged
    added: Staged | None = None

    def each(self) -> Iterator[Staged]:
        """Yield the files that there are."""
        yield self.toprocess
        yield self.waiting
        if self.added is not None:
            yield self.added


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
        self._staged: StagedQueues | None = None
        """The first queues, written without the lock."""

    def prepare(self, validation: Validation) -> None:
        """Write the first queues of a list with an order, without the lock.

        `settle` uses these files if nothing has begun until then.  An error is left to
        it.
        """
        self.discard()
        if validation.snapshot.begun or not self._queues.constraints:
            return
        self._queues.first_added = validation.first_added
        with suppress(StorageError):
            self._staged = self._stage(range(len(self._tasks)))

    def discard(self) -> None:
        """Remove the files of `prepare` that were not used; errors are ignored."""
        staged, self._staged = self._staged, None
        if staged is not None:
            _remove(staged.each())

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
        paths = self._paths
        staged = self._find_staged() or self._stage(self._find_open())
        # From here on nobody removes the first one: the fingerprint names it.
        self._staged = None
        name = os.path.basename(staged.toprocess.path)
        self._replace_fingerprint(fingerprint._replace(staging=name))
        if staged.added is not None:
            files.rename(staged.added.path, paths.added)
        files.rename(staged.waiting.path, paths.waiting)
        files.rename(staged.toprocess.path, paths.toprocess)

    def _find_staged(self) -> StagedQueues | None:
        """Return the queues of `prepare` if they are what `settle` would write.

        Else remove them, and return None.
        """
        staged = self._staged
        if (
            staged is not None
            # They have tasks that users hold where plain farmers take them.
            and not self._queues.held
            and not self._ledgers.finished.count
            and not self._others.held_ids()
            # Another farm that started meanwhile has removed files without a claim.
            and all(map(Staged.is_unchanged, staged.each()))
        ):
            return staged
        self.discard()
        return None

    def _stage(self, taskids: Iterable[int]) -> StagedQueues:
        """Write the queues of these tasks, in order, into staging files.

        Raises `StorageError`, and leaves none of them then.
        """
        queues, paths = self._queues, self._paths
        toprocess, added, waiting = queues.split(taskids)
        each = [(paths.toprocess, toprocess), (paths.waiting, waiting)]
        if queues.first_added < len(self._tasks):
            each.append((paths.added, added))
        staged: list[Staged] = []
        try:
            for path, ids in each:
                staged.append(self._stage_one(path, ids))
        except StorageError:
            _remove(staged)
            raise
        return StagedQueues(*staged)

    def _stage_one(self, path: str, taskids: Ids) -> Staged:
        steps = self._queues.steps
        staging = steps.file(steps.begin())
        blocks = encode_blocks(taskids, self._tasks)
        files.write_staging_file(staging, blocks, like=path)
        return Staged(staging, find_version(staging))


def _remove(staged: Iterable[Staged]) -> None:
    """Remove staged files; errors are ignored."""
    for each in staged:
        with suppress(StorageError):
            files.remove(each.path)


def _describe_added(count: int) -> str:
    added = counted(count, "task was", "tasks were")
    run = agree(count, "it runs", "they run")
    return f"{added} added to the list since the last start: {run} too"
