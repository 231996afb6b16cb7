"""The next tasks of a queue in another order than the queue's own.

Rules of this file: it knows no file.  The content of a queue is sorted by id; what is
picked stands anywhere in it.  A picker plans ahead: it has sorted the ids that were in
the queue at its last look, and looks again when those are used up, or taken by others.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from mpifarm.store.queue import (
    AlienTaskError,
    Plan,
    end_of_line,
    find_place,
    plan_toprocess,
)
from mpifarm.store.start_order import StartOrder
from mpifarm.store.status_lines import Ids, parse_line, scan_ids
from mpifarm.store.waiting import edit
from mpifarm.system.file_contents import BLOCK, Content

LEAST: Final = 64
"""Tasks that are looked for at once: others may have taken most of them."""

IsBlocked = Callable[[int], bool]


class Line(NamedTuple):
    """The place of a line in a queue: its bytes from `begin` up to `end`."""

    begin: int
    end: int


class Picker:
    """Picks the next tasks of one queue by a `StartOrder`.

    A task that gets into the queue later, by others, is picked after those of the last
    look.
    """

    def __init__(self, order: StartOrder) -> None:
        self._order = order
        self._ids: Ids = array("I")
        """The tasks of the last look, in the order of their starts."""
        self._place = 0
        """All before this index were taken; those behind may have been."""

    def begin(
        self, taskids: Iterable[int], is_blocked: IsBlocked, take: int
    ) -> list[int]:
        """Return the first of `taskids`, which are to become the queue."""
        if not self._ids:
            self._ids = self._order.sort(taskids)
        picked: list[int] = []
        for taskid in self._ids[self._place :]:
            if len(picked) >= take:
                break
            if not is_blocked(taskid):
                picked.append(taskid)
        return picked

    def plan(
        self,
        content: Content,
        tasks: Sequence[str],
        is_blocked: IsBlocked,
        requeue: Sequence[int],
        take: int,
    ) -> Plan:
        """Plan as `plan_toprocess` does, but for which tasks are taken.

        The same call may be made again, until what it has planned has happened.
        """
        picked = self._pick(content, tasks, is_blocked, take)
        dropped: dict[int, Line] = {}
        size = sum(end - begin for begin, end in picked.values())
        if len(picked) < take and size < len(content):
            dropped = self._look_again(content, tasks, is_blocked)
            if not self._ids:  # blank lines, or lines of another list, may be left
                self._put_back(requeue)
                return plan_toprocess(content, tasks, is_blocked, requeue, take)
            picked = self._pick(content, tasks, is_blocked, take)
        lines = sorted([*picked.values(), *dropped.values()])
        chunks = edit(content, lines, tasks, requeue)
        self._put_back(requeue)
        return Plan(
            taken=[*picked],
            dropped=[*dropped],
            chunks=chunks,
            changed=bool(lines or requeue),
            empty=not chunks,
        )

    def _pick(
        self,
        content: Content,
        tasks: Sequence[str],
        is_blocked: IsBlocked,
        take: int,
    ) -> dict[int, Line]:
        """Return up to `take` tasks that the queue has, in order, with their lines."""
        picked: dict[int, Line] = {}
        place = self._place
        while len(picked) < take and place < len(self._ids):
            some = self._ids[place : place + max(LEAST, take - len(picked))]
            free = [each for each in some if not is_blocked(each)]
            lines = find_lines(content, sorted({*free}), tasks)
            if not picked and not lines:
                self._place = place + len(some)
            for taskid in filter(lines.__contains__, free):
                if len(picked) >= take:
                    break
                picked[taskid] = lines[taskid]
            place += len(some)
        return picked

    def _look_again(
        self, content: Content, tasks: Sequence[str], is_blocked: IsBlocked
    ) -> dict[int, Line]:
        """Plan by what the queue has now.  Return what must not run, with its lines."""
        blocks = (content[at : at + BLOCK] for at in range(0, len(content), BLOCK))
        ids = array("I")
        for some in scan_ids(blocks):
            # Plain farmers that know a longer list may have put its ids there.
            ids.extend(filter(len(tasks).__gt__, some))
        blocked = {*filter(is_blocked, ids)}
        self._ids = self._order.sort(each for each in ids if each not in blocked)
        self._place = 0
        return find_lines(content, sorted(blocked), tasks)

    def _put_back(self, taskids: Sequence[int]) -> None:
        """Let tasks that return to the queue be the next ones."""
        ids = self._order.sort({*taskids})
        begin = max(0, self._place - len(ids))
        self._ids[begin : self._place] = ids
        self._place = begin


def find_lines(
    content: Content, taskids: Sequence[int], tasks: Sequence[str]
) -> dict[int, Line]:
    """Return the lines of those of `taskids`, in order, that the content has.

    Raises `AlienTaskError` for a line of another list.
    """
    found: dict[int, Line] = {}
    place = 0
    for taskid in taskids:
        place, is_there = find_place(content, place, taskid)
        if is_there:
            begin, place = place, end_of_line(content, place) + 1
            line = content[begin : place - 1]
            if parse_line(line, tasks) is None:
                raise AlienTaskError(line.decode("utf-8", "backslashreplace"))
            found[taskid] = Line(begin, place)
    return found
