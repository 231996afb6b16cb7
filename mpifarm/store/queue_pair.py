"""The queues of a workdir, for one farm.

Rules of this file: the queue of a task follows from its id alone.  Nothing here names a
step in a claim: `replace` is for the start, when no claim names a step of this farm,
and for tasks that are in no claim.

Tasks that plain farmers may not run as they stand go through ``waiting``, others that
were added to a list in use through ``added``, and all others through ``toprocess``.
"""

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain, filterfalse, islice, takewhile

from mpifarm.model.paths import WorkdirPaths
from mpifarm.order.constraints import Constraints
from mpifarm.order.frontier import Frontier
from mpifarm.store.ledger import Ledgers
from mpifarm.store.membership import Membership
from mpifarm.store.picking import Picker
from mpifarm.store.queue import (
    AddedQueue,
    Plan,
    Queue,
    SharedQueue,
    Steps,
    find_lines_before,
)
from mpifarm.store.start_order import StartOrder
from mpifarm.store.status_lines import Ids, encode_blocks, find_id
from mpifarm.store.unlimited import Unlimited
from mpifarm.store.waiting import WaitingQueue
from mpifarm.system import file_contents, files


class QueuePair:
    """The queues ``toprocess``, ``added`` and ``waiting``, in the order of taking."""

    def __init__(
        self,
        paths: WorkdirPaths,
        tasks: Sequence[str],
        ledgers: Ledgers,
        member: Membership,
        constraints: Constraints,
        order: StartOrder | None = None,
        unlimited: Unlimited | None = None,
    ) -> None:
        self.steps = Steps(paths, member.farm)
        self._common = common = (tasks, self.steps, self._is_blocked)
        self.toprocess = SharedQueue(
            paths.toprocess, *common, self._plan_first, self._is_all_finished
        )
        self.added = AddedQueue(paths.added, *common)
        self._order = order
        self._picker: Picker | None = None
        """What picks tasks out of ``toprocess``; None: they come as in the list."""
        if order is not None:
            self.toprocess.picker = self._picker = Picker(order)
            self.added.picker = Picker(order)
        self.waiting: WaitingQueue | None = None
        """None for a list without constraints, unless there is such a file."""
        self.held: set[int] = set()
        """Tasks that users hold: they stay in ``waiting``."""
        self._unlimited = Unlimited(constraints) if unlimited is None else unlimited
        """Tasks that stay there since their kinds have no limit in this farm."""
        self.may_have_held = False
        """Whether ``toprocess`` may have tasks that users hold, since it was missing,
        which meant all tasks, and was written anew."""
        self.frontier: Frontier | None = None
        """What may run of a list with constraints, by the ends that are told."""
        self.first_added = len(tasks)
        """From this id on, tasks go through ``added``."""
        self.constraints = constraints
        self._paths = paths
        self._tasks = tasks
        self._ledgers = ledgers
        self._finished = ledgers.finished
        self._member = member
        self._others = member.others

    def expect_order(self) -> None:
        """Find out what may run by the constraints of the list, if it has any.

        What has ended is what the ledgers have read, and what `frontier` is told later.
        """
        self.forget_order()
        if self.constraints:
            self._begin_waiting()

    def forget_order(self) -> None:
        """Forget what may run, until `begin_order`."""
        self.frontier = self.waiting = None

    def begin_order(self) -> None:
        """Begin to heed the constraints of the list, if it has any.

        Unless `expect_order` has found out, what has ended is what the ledgers have
        read.  A list without constraints may have a ``waiting``, too: what stands there
        is ready.
        """
        if self.constraints or files.is_there(self._paths.waiting):
            self._begin_waiting()

    def hold(self, taskids: Iterable[int]) -> None:
        """Let these tasks, and no others, stay in ``waiting`` though they are ready."""
        self._begin_waiting()
        if self.frontier is not None:
            self.frontier.expect_shared()
        self.held.clear()
        self.held.update(taskids)

    def _begin_waiting(self) -> None:
        if self.frontier is None:
            flags = (ledger.flags for ledger in self._ledgers)
            self.frontier = Frontier(self.constraints, *flags)
            path, frontier = self._paths.waiting, self.frontier
            stay = self.held, self._unlimited.tasks
            parts = *self._common, frontier, stay, self._find_claimed
            self.waiting = WaitingQueue(path, *parts, self._order)
            if not self.constraints:
                frontier.expect_shared()

    def each(self) -> Iterator[Queue]:
        """Yield all queues that the farm has."""
        yield self.toprocess
        if self.first_added < len(self._tasks):
            yield self.added
        if self.waiting is not None:
            yield self.waiting

    def divide(self, taskids: Sequence[int]) -> Iterator[tuple[Queue, tuple[int, ...]]]:
        """Yield each queue with its ids among `taskids`, in the order of taking.

        ``added`` is left out if the list has no added tasks, ``waiting`` if it has no
        constraints.
        """
        first, shared = self.first_added, taskids
        if self.waiting is not None:
            shared = [*filter(self.constraints.is_shared, taskids)]
            if self.held:
                shared = [*filterfalse(self.held.__contains__, shared)]
        yield self.toprocess, tuple(each for each in shared if each < first)
        if first < len(self._tasks):
            yield self.added, tuple(each for each in shared if each >= first)
        if self.waiting is not None:
            is_shared = frozenset(shared).__contains__
            yield self.waiting, tuple(filterfalse(is_shared, taskids))

    def split(self, taskids: Iterable[int]) -> tuple[Ids, Ids, Ids]:
        """Return the ids for ``toprocess``, ``added`` and ``waiting``, each in order.

        `taskids` have to be in order.
        """
        ids, waiting = array("I", taskids), array("I")
        held = self.held if self.waiting is not None else ()
        if self.constraints or held:
            shared = array("I", self.constraints.find_shared(ids))
            if held:
                shared = array("I", filterfalse(self.held.__contains__, shared))
            waiting = array("I", sorted({*ids}.difference(shared)))
            ids = shared
        place = bisect_left(ids, self.first_added)
        return ids[:place], ids[place:], waiting

    def replace(self, queue: Queue, chunks: Iterable[file_contents.Chunk]) -> None:
        """Write and rename a staging file in place of a queue, as no step of a claim.

        Raises `StorageError`.
        """
        self._replace(queue.path, chunks)

    def _replace(self, path: str, chunks: Iterable[file_contents.Chunk]) -> None:
        staging = self.steps.file(self.steps.begin())
        files.write_staging_file(staging, file_contents.blocks_of(chunks), like=path)
        files.rename(staging, path)

    def add(self, first: int) -> None:
        """Put all tasks from `first` on, which are in no file yet, into their queues.

        Lines of these tasks that are there already, by a farm that was killed, are
        replaced.  Raises `StorageError`.
        """
        _, added, waiting = self.split(range(first, len(self._tasks)))
        self._add(self._paths.added, first, added)
        if waiting or self.waiting is not None:
            self._add(self._paths.waiting, first, waiting)

    def _add(self, path: str, first: int, taskids: Ids) -> None:
        """Replace a queue by its lines of the ids below `first`, and `taskids`.

        One that is that already stays.
        """
        last = find_id(file_contents.find_last_line(path))
        if not taskids and last is not None and last < first:
            return
        lines = encode_blocks(taskids, self._tasks)
        with file_contents.content_of(path) as (_, content):
            before = find_lines_before(content or b"", first)
            self._replace(path, chain([before], lines))

    def grow(self, known: int) -> None:
        """Heed what the list says of the order of its tasks from `known` on.

        The list has grown, and the ledgers with it.
        """
        self._unlimited.grow(known)
        if self.frontier is None:
            self.begin_order()
            return
        total = len(self._tasks)
        self.frontier.grow(total)
        finished, failed = (
            [taskid for taskid in range(known, total) if taskid in ledger]
            for ledger in self._ledgers
        )
        self.frontier.note_ends(finished=finished, failed=failed)

    def heed_ended_tails(self) -> None:
        """Let the tasks of last lines that were ended by a newline count as ended."""
        finished, failed = (ledger.take_ended_tail() for ledger in self._ledgers)
        if self.frontier is not None:
            self.frontier.note_ends(finished=finished, failed=failed)

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
        if self.waiting is not None:
            self.waiting.discard()

    def _plan_first(
        self, back: Sequence[int], take: int, pull: Collection[int]
    ) -> Plan:
        """Plan the first ``toprocess``, whose absence means that all tasks are to run.

        Tasks that are finished or held by a claim are left out.
        """
        self.may_have_held = bool(self.held)
        others = {each for each in self._others.held_ids() if each < self.first_added}
        claimed = others | self._member.claim.held
        missing = self._finished.missing()
        known: Iterator[int] = takewhile(self.first_added.__gt__, missing)
        if self.constraints:
            known = self.constraints.find_shared(known)
        free = filterfalse(claimed.__contains__, known) if claimed else known
        if self._picker is not None and take > 0:
            ids = array("I", free)
            taken = self._picker.begin(ids, self._is_blocked, take)
            free = filterfalse({*taken}.__contains__, ids)
        else:
            taken = list(islice(free, max(take, 0)))
        if pull:
            pulled, there = {*pull}, [*free]
            taken += filter(pulled.__contains__, there)
            free = filterfalse(pulled.__contains__, there)
        left = array("I", merge(free, sorted(set(back))) if back else free)
        return Plan(
            taken,
            dropped=[*others],
            chunks=encode_blocks(left, self._tasks),
            changed=True,
            empty=not left,
        )

    def _find_claimed(self) -> Iterator[int]:
        """Yield the tasks that claims hold, this farm's too, some of them twice."""
        yield from self._member.claim.held
        for claim in self._others.claims.values():
            yield from claim.journal.held

    def _is_blocked(self, taskid: int) -> bool:
        return (
            taskid in self._finished
            or taskid in self._member.claim.held
            or (bool(self._others.claims) and self._others.hold(taskid))
        )

    def _is_all_finished(self) -> bool:
        return self._finished.count == len(self._tasks)
