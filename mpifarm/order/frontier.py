"""Which tasks may start now, and which never will, as the tasks of a list end.

Rules of this file: pure.  Ends come in, in any order, and tasks that have failed may be
open again (``mpifarm retry``).  An end costs what waits for that task alone, and a
barrier that opens a look at the tasks up to the next one, not at the list.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from mpifarm.order.constraints import Constraints

_OPEN, _FINISHED, _FAILED = range(3)
_HAVE_ENDED = bytes([0, 1, 1]) + bytes(253)


MAX_NAMED = 1000
"""Failed tasks in front of a barrier that are named, at most."""


class PassedBarrier(NamedTuple):
    """A barrier that has opened, though `failures` tasks in front of it have failed.

    `first` is the task behind it, and `failed` has the first of these tasks.  `words`
    are the list's for a barrier.
    """

    first: int
    failures: int
    failed: list[int]
    words: str = "#BARRIER"


class Frontier:
    """What has ended of a list with constraints, and what may start.

    `finished` and `failed` have a byte of 0 or 1 for each task of the list.  A task
    that both have is finished.
    """

    def __init__(
        self, constraints: Constraints, finished: bytearray, failed: bytearray
    ) -> None:
        self.horizon = 0
        """The first task behind a shut barrier: it and all later ones may not start.
        The length of the list if no barrier is shut."""
        self.doomed_from = 0
        """From this id on no task is run, since a barrier with CHECK has met a failed
        task; the length of the list if there is no such barrier."""
        self.closed = bytearray()
        """For each task 1 if it waits for tasks that may yet finish, apart from
        barriers.  Not to be changed."""
        self.stays = bytearray()
        """For each task 1 if it does not leave ``waiting``, apart from barriers: it is
        closed, has ended, or stands in another queue.  Not to be changed."""
        self.doomed: set[int] = set()
        """The tasks that wait for one that has failed, or that is doomed itself.  Not
        to be changed."""
        self.changes = 0
        """How often a task has ended, or was revived, or the list has grown."""
        self._constraints = constraints
        self._expects_shared = False
        """Whether tasks that plain farmers may run can stand in ``waiting``."""
        self._states = _join(finished, failed)
        self._failures = self._states.count(_FAILED)
        self._unfinished: dict[int, int] = {}
        """For a task that waits for others, how many of these are not finished."""
        self._bad: dict[int, int] = {}
        """For each of `doomed`, how many of those that it waits for have failed, or are
        doomed."""
        self._dependents: dict[int, list[int]] = {}
        """For a task, those that wait for it."""
        self._roots: dict[int, int] = {}
        """For some of `doomed`, the task that has failed in the first place."""
        self._met = 0
        """The failed task for which nothing from `doomed_from` on is run."""
        self._place = 0
        """The index of the first shut barrier."""
        self._open_before = 0
        """How many tasks in front of that barrier have not ended."""
        self._passed: dict[int, int] = {}
        """For the first task behind a barrier that has opened, how many have failed in
        front of it."""
        self._take_up(0)
        self._passed.clear()  # before this look, by others

    def grow(self, total: int) -> None:
        """Take up the tasks that the list has got, with their constraints.

        `total` is the new length of the list.
        """
        before = len(self._states)
        self.changes += 1
        self._states.extend(bytes(total - before))
        self._take_up(before)

    def _take_up(self, begin: int) -> None:
        """Take up what the tasks from `begin` on wait for."""
        self.closed.extend(bytes(len(self._states) - begin))
        self.stays.extend(bytes(len(self._states) - begin))
        self._mark_those_elsewhere(begin)
        new = []
        for taskid in reversed(self._constraints.after):  # what was added stands last
            if taskid < begin:
                break
            if taskid < len(self._states):  # else nothing follows its line yet
                new.append(taskid)
        for taskid in sorted(new):  # after those for which it waits
            self._take_up_one(taskid, self._constraints.after[taskid])
        self._look_at_barriers(self._place)

    def _take_up_one(self, taskid: int, waits_for: tuple[int, ...]) -> None:
        states, dependents = self._states, self._dependents
        unfinished = bad = 0
        for each in waits_for:
            dependents.setdefault(each, []).append(taskid)
            unfinished += states[each] != _FINISHED
            bad += self._is_bad(each)
        self._unfinished[taskid] = unfinished
        if bad:
            self._bad[taskid] = bad
            self.doomed.add(taskid)
        self.closed[taskid] = is_closed = unfinished > 0 and not bad
        self.stays[taskid] = is_closed or states[taskid] != _OPEN

    def _mark_those_elsewhere(self, begin: int) -> None:
        """Set `stays` from `begin` on by what has ended and by the other queues."""
        states, constraints = self._states, self._constraints
        self.stays[begin:] = states[begin:].translate(_HAVE_ENDED)
        if self._expects_shared or constraints.is_foreign:
            return
        barriers = constraints.barriers
        end = min(barriers[0].first, len(states)) if barriers else len(states)
        if begin < end:
            self.stays[begin:end] = b"\1" * (end - begin)
        for mapping in (constraints.after, constraints.kinds):
            for taskid in reversed(mapping):  # what was added stands last
                if taskid < begin:
                    break
                if taskid < end:
                    self.stays[taskid] = states[taskid] != _OPEN

    def expect_shared(self) -> bool:
        """Look in ``waiting`` for tasks that plain farmers may run, too.

        They get there when users hold them.  Return False if that is done already.
        """
        if self._expects_shared:
            return False
        self._expects_shared = True
        self.changes += 1
        self._mark_those_elsewhere(0)
        for taskid in _find_marked(self.closed, len(self.closed)):
            self.stays[taskid] = 1
        return True

    def _mark(self, taskid: int) -> None:
        """Set `stays` of a task whose state has changed."""
        self.stays[taskid] = (
            self._states[taskid] != _OPEN
            or self.closed[taskid]
            or (not self._expects_shared and self._constraints.is_shared(taskid))
        )

    # ---- what happens ----------------------------------------------------------------

    def note_ends(self, *, finished: Iterable[int], failed: Iterable[int]) -> None:
        """Note tasks that have ended.  One that has finished before stays finished."""
        states = self._states
        for taskid in finished:
            if states[taskid] != _FINISHED:
                self._end(taskid, _FINISHED)
        for taskid in failed:
            if states[taskid] == _OPEN:
                self._end(taskid, _FAILED)

    def revive(self, taskids: Iterable[int]) -> None:
        """Open tasks that had failed; any others stay as they are.

        Barriers behind them are shut again.
        """
        failed = [each for each in taskids if self._states[each] == _FAILED]
        for taskid in failed:
            self._set(taskid, _OPEN)
        if failed:
            place = self._constraints.count_barriers(min(failed))
            self._look_at_barriers(min(place, self._place))

    def _end(self, taskid: int, state: int) -> None:
        before = self._states[taskid]
        self._set(taskid, state)
        if before == _OPEN and self._open_before and taskid < self.horizon:
            self._open_before -= 1
            if not self._open_before:
                self._look_at_barriers(self._place)
        elif before == _FAILED and self.doomed_from < len(self._states):
            self._look_at_barriers(self._place)

    def _look_at_barriers(self, place: int) -> None:
        """Find the first shut barrier, from the one with the index `place` on.

        All tasks in front of the barrier before that one have ended.
        """
        states, barriers = self._states, self._constraints.barriers
        begin = barriers[place - 1].first if place else 0
        self.horizon = self.doomed_from = len(states)
        self._open_before = 0
        lowest: int | None = None
        # One behind all tasks keeps none of them from starting.
        while place < len(barriers) and barriers[place].first < len(states):
            first, checks, since = barriers[place]
            self._open_before = states.count(_OPEN, begin, first)
            if self._open_before:
                self.horizon = first
                break
            if checks and lowest is None:
                lowest = self._states.find(_FAILED) if self._failures else -1
            if checks and lowest is not None and 0 <= lowest < first:
                # Searched once for all barriers that check everything above them.
                met = lowest if lowest >= since else states.find(_FAILED, since, first)
                if met >= 0:
                    self.horizon = self.doomed_from = first
                    self._met = met
                    break
            if self._failures and (count := states.count(_FAILED, begin, first)):
                self._passed[first] = count
            place, begin = place + 1, first
        self._place = place

    def take_passed(self) -> list[PassedBarrier]:
        """Return the barriers that have opened since the last call though tasks failed.

        Those of the stage in front of a barrier count, up to the barrier before.
        """
        states, found = self._states, list[PassedBarrier]()
        words = self._constraints.barrier_words
        for first, count in sorted(self._passed.items()):
            before = self._constraints.count_barriers(first) - 1
            begin = self._constraints.barriers[before - 1].first if before else 0
            failed = islice(_find_marked(states, first, _FAILED, begin), MAX_NAMED)
            found.append(PassedBarrier(first, count, [*failed], words))
        self._passed.clear()
        return found

    # ---- tasks that wait for others --------------------------------------------------

    def _is_bad(self, taskid: int) -> bool:
        """Return whether those that wait for the task are doomed."""
        state = self._states[taskid]
        return state == _FAILED or (state == _OPEN and taskid in self.doomed)

    def _set(self, taskid: int, state: int) -> None:
        """Set the state of a task, and tell those that wait for it."""
        before, was_bad = self._states[taskid], self._is_bad(taskid)
        self._states[taskid] = state
        self.changes += 1
        self._mark(taskid)
        self._failures += (state == _FAILED) - (before == _FAILED)
        if before == _FAILED:
            self._roots.clear()  # also if it stays doomed, by another
        dependents = self._dependents.get(taskid)
        if not dependents:
            return
        if state == _FINISHED:
            for each in dependents:
                self._unfinished[each] -= 1
                self._close(each)
        if was_bad != self._is_bad(taskid):
            self._spread(taskid, -1 if was_bad else 1)

    def _spread(self, taskid: int, change: int) -> None:
        """Doom what waits for a task, and what waits for that; undo it if `change` < 0.

        A task that is doomed already, or still, ends the way.
        """
        if change < 0:
            self._roots.clear()
        changed = [taskid]
        while changed:
            for each in self._dependents.get(changed.pop(), ()):
                count = self._bad[each] = self._bad.get(each, 0) + change
                if count == max(change, 0):
                    if count:
                        self.doomed.add(each)
                    else:
                        self.doomed.discard(each)
                        del self._bad[each]
                    if self._states[each] == _OPEN:
                        changed.append(each)
                self._close(each)

    def _close(self, taskid: int) -> None:
        is_closed = self._unfinished[taskid] > 0 and taskid not in self.doomed
        self.closed[taskid] = is_closed
        self._mark(taskid)

    # ---- what follows ----------------------------------------------------------------

    def is_ready(self, taskid: int) -> bool:
        """Return whether a task that has not ended may start now."""
        return (
            taskid < self.horizon
            and not self.closed[taskid]
            and taskid not in self.doomed
        )

    def find_closed(self) -> Iterator[int]:
        """Return the tasks that wait for others, in front of the first shut barrier."""
        return _find_marked(self.closed, self.horizon)

    def are_ready(self, taskids: range) -> bool:
        """Return whether all of these tasks, none of which has ended, may start now."""
        begin, end = taskids.start, taskids.stop
        return (
            end <= self.horizon
            and self.closed.find(1, begin, end) < 0
            and (not self.doomed or self.doomed.isdisjoint(taskids))
        )

    def find_candidate(self, begin: int) -> int:
        """Return the first id from `begin` on that may start now, or never will.

        Without one, return the length of the list, or `begin` if that is behind it.
        """
        found = self.closed.find(0, begin, self.horizon)
        return found if found >= 0 else max(begin, self.doomed_from)

    def find_candidates(self, *, doomed: bool) -> bytearray:
        """Return a byte for each task, 0 if it may leave ``waiting``.

        It has not ended, and may start now, or, if `doomed`, never will.
        """
        marks, total = bytearray(self.stays), len(self.stays)
        begin = self.doomed_from
        if doomed and begin < total:  # those that wait are never to run, too
            marks[begin:] = self._states[begin:].translate(_HAVE_ENDED)
        else:
            marks[self.horizon :] = b"\1" * (total - self.horizon)
        if not doomed:
            for taskid in self.doomed:
                marks[taskid] = 1
        return marks

    def find_failed(
        self, ids: range | None = None, most: int | None = None
    ) -> list[int]:
        """Return the tasks that have failed and do not run again, in order.

        Of these `ids` alone, and the first ones up to `most`, if that is given.
        """
        if not self._failures:
            return []
        states = self._states
        begin, end = (ids.start, ids.stop) if ids is not None else (0, len(states))
        return [*islice(_find_marked(states, end, _FAILED, begin), most)]

    def find_doomed(self, taskid: int) -> str:
        """Return why a task that has not ended is never to start, "" if it may yet."""
        awaited = self.find_awaited(taskid)
        return "" if awaited is None else f"task {awaited} failed"

    def find_awaited(self, taskid: int) -> int | None:
        """Return the failed task for which a task is never to start, None if it may."""
        if taskid in self.doomed:
            return self._find_root(taskid)
        return self._met if taskid >= self.doomed_from else None

    def find_not_to_run(self) -> list[int]:
        """Return the unfinished tasks that wait for a failed one, in order.

        Those that are recorded as not run are among them.
        """
        behind = range(self.doomed_from, len(self._states))
        before = (each for each in sorted(self.doomed) if each < self.doomed_from)
        return [each for each in (*before, *behind) if self._states[each] != _FINISHED]

    def _find_root(self, taskid: int) -> int:
        """Return the failed task that dooms a task, by way of others if need be."""
        roots, way = self._roots, list[int]()
        while taskid in self.doomed and taskid not in roots:
            way.append(taskid)
            taskid = min(filter(self._is_bad, self._constraints.after[taskid]))
        root = roots.get(taskid, taskid)
        roots.update(dict.fromkeys(way, root))
        return root

    @property
    def some_wait(self) -> bool:
        """Whether a task waits for others that may yet end."""
        return bool(self._open_before) or self.closed.find(1) >= 0

    def holds_up(self, taskid: int) -> bool:
        """Return whether others cannot start before this task has ended."""
        if self._states[taskid] != _OPEN:
            return False
        is_before = bool(self._open_before) and taskid < self.horizon
        return is_before or taskid in self._dependents

    def find_open(self) -> Iterator[int]:
        """Yield the tasks that have not ended and that keep others from starting.

        They are those in front of the first shut barrier, in order; without such a
        barrier, those for which a task waits that is no more than that.
        """
        states = self._states
        if self._open_before:
            yield from _find_marked(states, self.horizon, _OPEN)
            return
        for taskid in sorted(self._dependents):
            if states[taskid] == _OPEN and self.is_ready(taskid):
                yield taskid


def _find_marked(
    marks: bytearray, end: int, mark: int = 1, begin: int = 0
) -> Iterator[int]:
    """Yield the places of a mark from `begin` on, in front of `end`."""
    place = marks.find(mark, begin, end)
    while place >= 0:
        yield place
        place = marks.find(mark, place + 1, end)


def _join(finished: bytearray, failed: bytearray) -> bytearray:
    """Return the state of each task."""
    # For all at once: a loop over a million tasks would take a second.
    done = int.from_bytes(finished, "little")
    bad = int.from_bytes(failed, "little") & ~done
    states = done * _FINISHED | bad * _FAILED
    return bytearray(states.to_bytes(len(finished), "little"))
