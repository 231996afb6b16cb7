"""The queue ``waiting``: tasks that plain farmers may not run as they stand.

Rules of this file: a task is taken out of the queue only when it is ready, by the
frontier of the list; nothing moves in the file when a barrier opens.  Tasks that are
never to run are taken too, apart from the others, so that they are recorded.

Tasks that are not ready may stand in front of those that are.  A byte for each task of
the list tells which may leave the queue, and bisection finds their lines: so neither
long stretches of lines that have to stay are looked at, nor tasks that have ended, or
that claims and other queues have.  A failed task that stands here all the same, for a
retry was cut half-way, counts as open once it is met.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias

from mpifarm.order.frontier import Frontier
from mpifarm.store.queue import (
    WINDOW,
    AddedQueue,
    AlienTaskError,
    Plan,
    Step,
    Steps,
    end_of_line,
    find_place,
    find_places,
    find_standing,
    id_at,
)
from mpifarm.store.start_order import StartOrder
from mpifarm.store.status_lines import encode_line, find_id, find_run, parse_line
from mpifarm.system.file_contents import (
    Chunk,
    Content,
    Version,
    find_version,
    part_of,
)

Identity: TypeAlias = tuple[int, int, int, int]
"""Device, inode, size and time of a file: a rename changes none of these."""

MAX_LOOKED_FOR = 1000
"""Failed tasks that are looked for in a queue that others have changed, at a time."""

MAX_DOOMED = 10_000
"""Tasks that are not to run, of one step: each of them has to be recorded."""


class WaitingQueue(AddedQueue):
    """``waiting``, for a farm that knows `tasks` and their `frontier`.

    The tasks in the sets `stay`, which may change, stay there though they are ready.

    As ``added``, it may have lines of a longer list.
    """

    def __init__(
        self,
        path: str,
        tasks: Sequence[str],
        steps: Steps,
        is_blocked: Callable[[int], bool],
        frontier: Frontier,
        stay: Sequence[set[int]],
        find_claimed: Callable[[], Iterable[int]],
        order: StartOrder | None = None,
    ) -> None:
        super().__init__(path, tasks, steps, is_blocked)
        self._order = order
        self._frontier = frontier
        self._stay = stay
        self._find_claimed = find_claimed
        self._known: Identity | None = None
        """The file in which failed tasks are looked for."""
        self._written: Identity | None = None
        """The file that this farm wrote last: it has no others than the one before."""
        self._unseen: list[range] = []
        """Ids of which the failed ones were not looked for in that file yet."""
        self._looked_at = -1
        """The failed task that was looked for last."""

    def is_empty(self) -> bool:
        """Return whether no task in the queue may run now."""
        with self._content() as (_, content):
            return self.compose(content, (), 0).empty

    @contextmanager
    def _content(self) -> Iterator[tuple[Version | None, Content | None]]:
        """Give version and content, once what others may have put there is heeded."""
        with super()._content() as (version, content):
            self._meet(version, content)
            yield version, content

    def _meet(self, version: Version | None, content: Content | None) -> None:
        """Have failed tasks count as open that stand in a queue that others wrote.

        Some at a time, so that a taking costs the same however many have failed.
        """
        identity = version[:4] if version else None
        if identity not in (self._known, self._written):
            place = self._looked_at + 1
            self._unseen = [range(place, len(self._tasks)), range(place)]
        self._known = identity
        some = self._next_failed()
        if not some:
            return
        with self._naming_aliens():
            self._frontier.revive(find_standing(content or b"", sorted(some)))
        self._looked_at = some[-1]

    def _next_failed(self) -> list[int]:
        """Return failed tasks that were not looked for yet, some of them."""
        some: list[int] = []
        while self._unseen and len(some) < MAX_LOOKED_FOR:
            ids = self._unseen[0]
            most = MAX_LOOKED_FOR - len(some)
            found = self._frontier.find_failed(ids, most)
            some += found
            if len(found) < most:
                del self._unseen[0]
            else:
                self._unseen[0] = range(found[-1] + 1, ids.stop)
        return some

    def _write(self, plan: Plan, steps: Steps | None = None) -> Step:
        """Begin a step as `Queue` does, and know its file again."""
        step = super()._write(plan, steps)
        version = find_version((steps or self._steps).file(step.number))
        self._written = version[:4] if version else None
        return step

    def _holds(self, plan: Plan, take: int) -> bool:
        frontier = self._frontier
        if not super()._holds(plan, take):
            return False
        if plan.changes != frontier.changes and not (
            all(map(frontier.is_ready, plan.taken))
            and all(frontier.find_doomed(taskid) for taskid, _ in plan.doomed)
        ):
            return False
        # If it leaves no ready one, more may be ready, or let go by a claim, by now.
        is_full = len(plan.taken) == take and not plan.empty
        return is_full or plan.candidates == self._find_candidates(take)

    def _find_candidates(self, take: int) -> bytearray:
        """Return a byte for each task, 0 if it may leave the queue.

        Without any to `take`, those that are never to run stay.  What a step puts back
        stays, too: until it has happened, a claim holds it.
        """
        candidates = self._frontier.find_candidates(doomed=take > 0)
        total = len(candidates)
        for taskid in chain(self._find_claimed(), *self._stay):
            if taskid < total:
                candidates[taskid] = 1
        return candidates

    def _compose(
        self, content: Content | None, requeue: Sequence[int], take: int
    ) -> Plan:
        content = content or b""
        search, candidates = self._search(content, take)
        if take and content and not search.has_found and self._frontier.expect_shared():
            # A task that was held may stand here, though no file says so any more.
            search, candidates = self._search(content, take)
        chunks = edit(content, search.removed, self._tasks, requeue)
        return Plan(
            search.in_order(self._order),
            search.dropped,
            chunks,
            changed=bool(search.removed or requeue),
            empty=not search.is_more and not any(map(self._may_leave, requeue)),
            doomed=search.doomed,
            changes=self._frontier.changes,
            candidates=candidates,
        )

    def _search(self, content: Content, take: int) -> "tuple[ReadySearch, bytearray]":
        """Search for up to `take` tasks; return the search, and its candidates."""
        end, _ = find_place(content, 0, len(self._tasks))
        candidates = self._find_candidates(take)
        search = self._run_search(content, candidates, end, take)
        return search, candidates

    def _run_search(
        self, content: Content, candidates: bytearray, end: int, take: int
    ) -> "ReadySearch":
        """Search in the lines up to `end`; in all of them, if there is an order."""
        parts = content, self._tasks, self._frontier, self._is_blocked
        search = ReadySearch(*parts, candidates)
        if self._order is None or not take:
            search.run(end, take)
            return search
        search.run(end, len(self._tasks))
        if len(search.taken) <= take:
            return search
        left = bytearray(candidates)
        for taskid in search.taken:
            left[taskid] = 1
        for taskid in self._order.find_first(search.taken, take):
            left[taskid] = 0
        search = ReadySearch(*parts, left)
        search.run(end, take)
        search.is_more = True
        return search

    def _may_leave(self, taskid: int) -> bool:
        stays = any(taskid in each for each in self._stay)
        return not stays and self._frontier.is_ready(taskid)


_NEAR_BYTES = 512
"""A candidate that is not in the queue has others near it, most likely, if it would
stand within so many bytes."""

_NEAR_IDS = 32
"""A candidate with another one behind it within so many ids is looked at with it."""


@dataclass(slots=True)
class ReadySearch:
    """The search for tasks that may leave the queue.

    `content` has whole lines, sorted by id; `candidates` has a byte for each task, 0 if
    it may leave.
    """

    content: Content
    tasks: Sequence[str]
    frontier: Frontier
    is_blocked: Callable[[int], bool]
    candidates: bytes | bytearray
    taken: dict[int, None] = field(default_factory=dict)
    """Tasks to run."""
    doomed: list[tuple[int, str]] = field(default_factory=list)
    """Tasks that are never to run, and why."""
    dropped: list[int] = field(default_factory=list)
    """Tasks that must not run, since they are finished or a claim holds them."""
    removed: list[tuple[int, int]] = field(default_factory=list)
    """The ranges of bytes of all these tasks' lines, in order."""
    is_more: bool = False
    """Whether another task is ready than those `taken`."""

    def in_order(self, order: StartOrder | None) -> list[int]:
        """Return the tasks to run, in the order of their starts."""
        return [*(order.sort(self.taken) if order is not None else self.taken)]

    @property
    def has_found(self) -> bool:
        """Whether any task may leave the queue."""
        return bool(self.is_more or self.removed)

    def run(self, end: int, take: int) -> None:
        """Find up to `take` tasks in the lines up to the byte `end`.

        Without any to take, find out whether there is one.  Raises `AlienTaskError`
        for a line of another list.
        """
        place, content = 0, self.content
        while not self.is_more:
            place = self._find_next(place, end)
            if place >= end:
                return
            begin = place
            if self._is_alone(id_at(content, begin)):
                place = end_of_line(content, begin) + 1
            else:
                place = min(begin + WINDOW, end)
                cut = content.rfind(b"\n", begin, place) + 1
                place = cut or end_of_line(content, place) + 1
            self._look_at(content[begin:place], begin, take)

    def _find_next(self, place: int, end: int) -> int:
        """Return where a line begins that may leave the queue, or others near it."""
        content, candidates = self.content, self.candidates
        while place < end:
            here = id_at(content, place)
            taskid = candidates.find(0, here)
            if taskid == here:
                return place
            if taskid < 0:
                return end
            before = place
            place, is_there = find_place(content, before, taskid)
            # Where many are not there, a look at the lines costs less.
            if is_there or place - before < _NEAR_BYTES:
                return min(place, end)
        return end

    def _is_alone(self, taskid: int) -> bool:
        """Return whether no candidate is near behind this one."""
        candidates = self.candidates
        return candidates[taskid] == 0 and (
            candidates.find(0, taskid + 1, taskid + _NEAR_IDS) < 0
        )

    def _look_at(self, lines: bytes, place: int, take: int) -> None:
        """Look at whole lines that begin at the byte `place`."""
        run = find_run(lines, self.tasks)
        if (
            run is not None
            and len(run) <= take - len(self.taken)
            and self.frontier.are_ready(run)
            and self.candidates.find(1, run.start, run.stop) < 0
        ):
            for taskid in run:
                self._leave(taskid)
            self._remove(place, place + len(lines))
            return
        for line in lines.split(b"\n")[:-1]:
            end = place + len(line) + 1
            if line and self._may_leave(line, take):
                self._remove(place, end)
            place = end

    def _may_leave(self, line: bytes, take: int) -> bool:
        """Note what becomes of the task of a line.  Return whether the line leaves."""
        taskid = find_id(line)
        candidates = self.candidates
        if taskid is not None and taskid < len(candidates) and candidates[taskid]:
            return False
        if taskid is None or parse_line(line, self.tasks) is None:
            raise AlienTaskError(line.decode("utf-8", "backslashreplace"))
        why = self.frontier.find_doomed(taskid)
        if not why and len(self.taken) >= take:
            self.is_more |= not self.is_blocked(taskid)
            return False
        if why and (not take or len(self.doomed) >= MAX_DOOMED):
            self.is_more |= bool(take)
            return False
        self._leave(taskid, why)
        return True

    def _leave(self, taskid: int, why: str = "") -> None:
        if self.is_blocked(taskid):
            self.dropped.append(taskid)
        elif why:
            self.doomed.append((taskid, why))
        else:
            self.taken[taskid] = None

    def _remove(self, begin: int, end: int) -> None:
        if self.removed and self.removed[-1][1] == begin:
            begin, _ = self.removed.pop()
        self.removed.append((begin, end))


def edit(
    content: Content,
    removed: Sequence[tuple[int, int]],
    tasks: Sequence[str],
    taskids: Sequence[int],
) -> list[Chunk]:
    """Return the content without the `removed` bytes, with the lines of `taskids`.

    An id that the content has is not put in again.  Raises `AlienTaskError`.
    """
    edits = [(begin, end, b"") for begin, end in removed]
    for place, taskid in find_places(content, 0, tasks, taskids):
        edits.append((place, place, encode_line(taskid, tasks)))
    chunks: list[Chunk] = []
    place = 0
    for begin, end, line in sorted(edits, key=lambda each: each[:2]):
        if begin > place:
            chunks.append(part_of(content, place, begin))
        if line:
            chunks.append(line)
        place = max(place, end)
    if place < len(content):
        chunks.append(part_of(content, place, len(content)))
    return chunks
