"""Both queues of a workdir, for one farm.

Rules of this file: the queue of a task follows from its id alone.  Nothing here names a
step in a claim: `replace` is for the start, when no claim names a step of this farm,
and for tasks that are in no claim.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain, filterfalse, islice, takewhile

from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.ledger import Ledger, Ledgers
from mpifarm.store.membership import Membership
from mpifarm.store.queue import (
    AddedQueue,
    Plan,
    Queue,
    SharedQueue,
    Steps,
    find_lines_before,
)
from mpifarm.store.status_lines import encode_blocks, find_id
from mpifarm.system import file_contents, files


class QueuePair:
    """The queues ``toprocess`` and ``added``, in the order of taking."""

    def __init__(
        self,
        paths: WorkdirPaths,
        tasks: Sequence[str],
        finished: Ledger,
        member: Membership,
    ) -> None:
        self.steps = Steps(paths, member.farm)
        common = (tasks, self.steps, self._is_blocked)
        self.toprocess = SharedQueue(
            paths.toprocess, *common, self._plan_first, self._is_all_finished
        )
        self.added = AddedQueue(paths.added, *common)
        self.first_added = len(tasks)
        """From this id on, tasks go through ``added``."""
        self._tasks = tasks
        self._finished = finished
        self._member = member
        self._others = member.others

    def divide(self, taskids: Sequence[int]) -> Iterator[tuple[Queue, tuple[int, ...]]]:
        """Yield each queue with its ids among `taskids`, in the order of taking.

        ``added`` is left out if the list has no added tasks.
        """
        first = self.first_added
        yield self.toprocess, tuple(each for each in taskids if each < first)
        if first < len(self._tasks):
            yield self.added, tuple(each for each in taskids if each >= first)

    def replace(self, queue: Queue, chunks: Iterable[file_contents.Chunk]) -> None:
        """Write and rename a staging file in place of a queue, as no step of a claim.

        Raises `StorageError`.
        """
        staging = self.steps.file(self.steps.begin())
        blocks = file_contents.blocks_of(chunks)
        files.write_staging_file(staging, blocks, like=queue.path)
        files.rename(staging, queue.path)

    def add(self, first: int) -> None:
        """Put all tasks from `first` on, which are in no file yet, into their queue.

        Lines of these tasks that are there already, by a farm that was killed, are
        replaced.  Raises `StorageError`.
        """
        lines = encode_blocks(range(first, len(self._tasks)), self._tasks)
        with file_contents.content_of(self.added.path) as (_, content):
            before = find_lines_before(content or b"", first)
            self.replace(self.added, chain([before], lines))

    def is_taken_up(self, first: int, ledgers: Ledgers) -> bool:
        """Return whether plain farmers have the tasks from `first` on already.

        That is so if ``toprocess`` was missing when the first one started that knew the
        longer list.  The ledgers have to be polled.
        """
        last = find_id(file_contents.find_last_line(self.toprocess.path))
        return (last is not None and last >= first) or any(
            map(ledgers.have, range(first, len(self._tasks)))
        )

    def discard_prepared(self) -> None:
        """Remove the staging files that were prepared and not used."""
        self.toprocess.discard()
        self.added.discard()

    def _plan_first(self, back: Sequence[int], take: int) -> Plan:
        """Plan the first ``toprocess``, whose absence means that all tasks are to run.

        Tasks that are finished or held by a claim are left out.
        """
        others = {each for each in self._others.held_ids() if each < self.first_added}
        claimed = others | self._member.claim.held
        missing = self._finished.missing()
        known = takewhile(self.first_added.__gt__, missing)
        free = filterfalse(claimed.__contains__, known) if claimed else known
        taken = list(islice(free, max(take, 0)))
        left = array("I", merge(free, sorted(set(back))) if back else free)
        return Plan(
            taken,
            dropped=[*others],
            chunks=encode_blocks(left, self._tasks),
            changed=True,
            empty=not left,
        )

    def _is_blocked(self, taskid: int) -> bool:
        return (
            taskid in self._finished
            or taskid in self._member.claim.held
            or self._others.hold(taskid)
        )

    def _is_all_finished(self) -> bool:
        return self._finished.count == len(self._tasks)
