"""The queue ``waiting``: tasks that plain farmers may not run as they stand.

Rules of this file: a task is taken out of the queue only when it is ready, by the
frontier of the list; nothing moves in the file when a barrier opens.  Tasks that are
never to run are taken too, apart from the others, so that they are recorded.

Tasks that are not ready may stand in front of those that are.  The frontier knows the
next one that may leave the queue, and bisection finds its line: long stretches of lines
that have to stay are not looked at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mpifarm.order.frontier import Frontier
from mpifarm.store.queue import (
    WINDOW,
    AddedQueue,
    AlienTaskError,
    Plan,
    Steps,
    end_of_line,
    find_place,
    find_places,
    id_at,
)
from mpifarm.store.status_lines import encode_line, find_id, find_run, parse_line
from mpifarm.system.file_contents import Chunk, Content, content_of, part_of

MAX_DOOMED = 10_000
"""Tasks that are not to run, of one step: each of them has to be recorded."""


class WaitingQueue(AddedQueue):
    """``waiting``, for a farm that knows `tasks` and their `frontier`.

    The tasks `held`, which may change, stay there though they are ready.

    As ``added``, it may have lines of a longer list.
    """

    def __init__(
        self,
        path: str,
        tasks: Sequence[str],
        steps: Steps,
        is_blocked: Callable[[int], bool],
        frontier: Frontier,
        held: set[int],
    ) -> None:
        super().__init__(path, tasks, steps, is_blocked)
        self._frontier = frontier
        self._held = held

    def is_empty(self) -> bool:
        """Return whether no task in the queue may run now."""
        with content_of(self.path) as (_, content):
            return self.compose(content, (), 0).empty

    def _holds(self, plan: Plan, take: int) -> bool:
        frontier = self._frontier
        if not super()._holds(plan, take):
            return False
        return plan.changes == frontier.changes or (
            # If it takes fewer, more may be ready by now.
            len(plan.taken) == take
            and all(map(frontier.is_ready, plan.taken))
            and all(frontier.find_doomed(taskid) for taskid, _ in plan.doomed)
        )

    def _compose(
        self, content: Content | None, requeue: Sequence[int], take: int
    ) -> Plan:
        content = content or b""
        end, _ = find_place(content, 0, len(self._tasks))
        stays = self._held.union(requeue) if self._held else frozenset(requeue)
        search = ReadySearch(
            content, self._tasks, self._frontier, self._is_blocked, frozenset(stays)
        )
        search.run(end, take)
        chunks = edit(content, search.removed, self._tasks, requeue)
        return Plan(
            [*search.taken],
            search.dropped,
            chunks,
            changed=bool(search.removed or requeue),
            empty=not search.is_more and not any(map(self._may_leave, requeue)),
            doomed=search.doomed,
            changes=self._frontier.changes,
        )

    def _may_leave(self, taskid: int) -> bool:
        return taskid not in self._held and self._frontier.is_ready(taskid)


@dataclass(slots=True)
class ReadySearch:
    """The search for tasks that may leave the queue.

    `content` has whole lines, sorted by id; the lines of the ids in `stays` stay.
    """

    content: Content
    tasks: Sequence[str]
    frontier: Frontier
    is_blocked: Callable[[int], bool]
    stays: frozenset[int]
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
            begin, place = place, min(place + WINDOW, end)
            cut = content.rfind(b"\n", begin, place) + 1
            place = cut or end_of_line(content, place) + 1
            self._look_at(content[begin:place], begin, take)

    def _find_next(self, place: int, end: int) -> int:
        """Return where the next line begins that may leave the queue."""
        if place >= end:
            return end
        here = id_at(self.content, place)
        taskid = self.frontier.find_candidate(here)
        if taskid == here:
            return place
        return min(end, find_place(self.content, place, taskid)[0])

    def _look_at(self, lines: bytes, place: int, take: int) -> None:
        """Look at whole lines that begin at the byte `place`."""
        run = find_run(lines, self.tasks)
        if (
            run is not None
            and len(run) <= take - len(self.taken)
            and self.frontier.are_ready(run)
            and self.stays.isdisjoint(run)
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
        frontier = self.frontier
        if taskid is not None and frontier.find_candidate(taskid) != taskid:
            return False
        if taskid is None or parse_line(line, self.tasks) is None:
            raise AlienTaskError(line.decode("utf-8", "backslashreplace"))
        if taskid in self.stays:
            return False
        why = frontier.find_doomed(taskid)
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
