"""The queues: ``toprocess`` and ``added``, whose tasks are to be run (and `waiting`).

Rules of this file: a queue is replaced whole, by the rename of a staging file whose
step the farm's claim has named before.  Plain farmers die of an id in ``toprocess``
that their list does not have.  So tasks that are added to the end of a list in use go
through ``added``, which only mpifarm knows, and are requeued there for as long as the
workdir lives.  A farm that knows the shorter list leaves the other lines there alone.

Composing the next content takes content in and gives chunks out.  Only the front is
taken apart; the rest is copied as it is, so that Python's work grows with the batch and
not with the list, and of a large file only a few parts are read.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol

from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.status_lines import (
    cut_behind_lines,
    encode_line,
    find_id,
    find_run,
    parse_line,
    scan_ids,
)
from mpifarm.store.validate import shorten
from mpifarm.system import file_contents, files
from mpifarm.system.file_contents import Chunk, Content, Version, length_of, part_of

_ENOUGH_FOR_AN_ID = 64
"""Bytes of the beginning of a queue in which its first id is whole."""


class AlienTaskError(ValueError):
    """A line of a queue that is not of this tasklist, the error's text."""


class Plan(NamedTuple):
    """The next content of a queue, in `chunks`, and the ids that it leaves out.

    `taken` are ids that the farm gets, `dropped` ids that were met and must not run.
    `changed`: whether the content differs from the present one.  `empty`: whether the
    next content has no line of this farm's list, or none that may run now.
    """

    taken: list[int]
    dropped: list[int]
    chunks: Iterable[Chunk]
    changed: bool
    empty: bool
    doomed: Sequence[tuple[int, str]] = ()
    """Ids that the farm gets though they are never to run, and why."""
    changes: int = 0
    """`Frontier.changes` when the plan was made, where a frontier tells what may run.
    """
    candidates: bytes | bytearray = b""
    """For each task 0 if it could leave the queue then, where a frontier tells that."""

    @property
    def held(self) -> Sequence[int]:
        """All ids that the farm gets."""
        if not self.doomed:
            return self.taken
        return [*self.taken, *(taskid for taskid, _ in self.doomed)]


class Front(NamedTuple):
    """The ids read off the front of a queue, up to the byte `end`.

    `taken` are ids to run, `dropped` ids that must not run.
    """

    taken: list[int]
    dropped: list[int]
    end: int


class Steps:
    """The numbered steps of one farm: the staging file of each becomes a queue.

    `last` is the number of the last step, 0 before the first.
    """

    def __init__(self, paths: WorkdirPaths, farm: str) -> None:
        self.last = 0
        self._paths = paths
        self._farm = farm

    def begin(self) -> int:
        """Begin a step, and return its number."""
        self.last += 1
        return self.last

    def file(self, step: int) -> str:
        """Return the staging file of a step."""
        return self._paths.queue_staging(self._farm, step)


class Step(NamedTuple):
    """The next content of a queue, and the number of the step that stages it.

    The number is 0, and there is no staging file, if the content does not change.
    """

    plan: Plan
    number: int


class Prepared(NamedTuple):
    """A step that was written outside the lock, for `requeue` and `take`.

    `content` is that of the old file; None for one that is missing, or so large that
    `version` alone tells whether it has changed.
    """

    version: file_contents.Version | None
    content: bytes | None
    requeue: tuple[int, ...]
    take: int
    step: Step


class NextTasks(Protocol):
    """What picks the next tasks of a queue in another order than that of the queue."""

    def plan(
        self,
        content: Content,
        tasks: Sequence[str],
        is_blocked: Callable[[int], bool],
        requeue: Sequence[int],
        take: int,
    ) -> Plan:
        """Plan as `plan_toprocess` does, but for which tasks are taken."""


class Queue(ABC):
    """A queue, for a farm that knows `tasks`.

    `is_blocked` returns whether a task must not run: it is finished, or held by a
    claim.
    """

    def __init__(
        self,
        path: str,
        tasks: Sequence[str],
        steps: Steps,
        is_blocked: Callable[[int], bool],
    ) -> None:
        self.path = path
        self._tasks = tasks
        self._steps = steps
        self._is_blocked = is_blocked
        self._prepared: Prepared | None = None
        self.picker: NextTasks | None = None
        """What picks the next tasks; None: they are taken from the front."""

    # ---- without the lock -----------------------------------------------------------

    def prepare(self, requeue: tuple[int, ...], take: int) -> int:
        """Write the staging file for the next `settle`.  Return how many ids it takes.

        Return 0 if there is nothing to do or the disk fails: `settle` then raises.
        """
        with suppress(StorageError):
            if requeue or take > 0:
                return self._prepare(requeue, take)
        return 0

    def _prepare(self, requeue: tuple[int, ...], take: int) -> int:
        with self._content() as (version, content):
            plan = self.compose(content, requeue, take)
            if plan.changed:
                kept = content if isinstance(content, bytes) else None
                step = self._write(plan)
                self._prepared = Prepared(version, kept, requeue, take, step)
        return len(plan.taken)

    # ---- lock held ------------------------------------------------------------------

    def settle(self, requeue: tuple[int, ...], take: int) -> Step:
        """Return the step to the next content, which has its staging file.

        Use the file of `prepare` if its arguments and the queue are unchanged, else
        remove that file and write another.  Nothing is written if the content does not
        change.  Raises `StorageError`.
        """
        prepared = self._find_prepared(requeue, take)
        if prepared is not None:
            return prepared
        with self._content() as (_, content):
            plan = self.compose(content, requeue, take)
            return self._write(plan) if plan.changed else Step(plan, 0)

    def pull(self, taskids: Collection[int]) -> Step:
        """Return the step to the content without these tasks, with its staging file.

        `Plan.taken` are those that the queue has and that may run.  Nothing is written
        if it has none.  Raises `StorageError`.
        """
        with self._content() as (_, content):
            with self._naming_aliens():
                plan = self._plan_pull(content, taskids)
            return self._write(plan) if plan.changed else Step(plan, 0)

    def _plan_pull(self, content: Content | None, taskids: Collection[int]) -> Plan:
        """Plan as `pull` does; raise `AlienTaskError` if the list was edited."""
        taken, chunks = pull_out(content or b"", self._is_blocked, taskids)
        return Plan(taken, [], chunks, changed=bool(taken), empty=False)

    def discard(self) -> None:
        """Remove the staging file of `prepare`, if any; raises `StorageError`."""
        if self._prepared is not None:
            number, self._prepared = self._prepared.step.number, None
            files.remove(self._steps.file(number))

    def put(self, steps: Steps, taskids: Sequence[int]) -> int:
        """Write the content with `taskids` in it to a staging file of `steps`.

        Return the step's number.  The queue itself stays.  Raises `StorageError`.
        """
        with self._content() as (_, content):
            plan = self.compose(content, taskids, 0)
            return self._write(plan, steps).number

    def _write(self, plan: Plan, steps: Steps | None = None) -> Step:
        """Begin a step, and write the plan's chunks to its staging file."""
        steps = steps or self._steps
        number = steps.begin()
        blocks = file_contents.blocks_of(plan.chunks)
        files.write_staging_file(steps.file(number), blocks, like=self.path)
        return Step(plan._replace(chunks=()), number)

    @contextmanager
    def _content(self) -> Iterator[tuple[Version | None, Content | None]]:
        """Give the version and content of the queue, as `content_of` does."""
        with file_contents.content_of(self.path) as (version, content):
            yield version, content

    def _find_prepared(self, back: tuple[int, ...], take: int) -> Step | None:
        """Return the prepared step if it is still right, and forget it.

        Remove the staging file of a step that is not, and return None.
        """
        prepared = self._prepared
        if prepared is None:
            return None
        fits = (
            (prepared.requeue, prepared.take) == (back, take)
            and self._holds(prepared.step.plan, take)
            and self._is_unchanged(prepared)
        )
        if not fits:
            self.discard()
            return None
        self._prepared = None
        return prepared.step

    def _holds(self, plan: Plan, take: int) -> bool:
        """Return whether a plan for `take` ids is right for all but the content."""
        return (
            not any(map(self._is_blocked, plan.taken))
            # A task that was dropped may have been requeued by its farm since.
            and all(map(self._is_blocked, plan.dropped))
        )

    def _is_unchanged(self, prepared: Prepared) -> bool:
        """Return whether the queue is as it was when the step was prepared."""
        if file_contents.find_version(self.path) != prepared.version:
            return False
        if prepared.version and prepared.version.size > file_contents.LARGE:
            # Nobody rewrites so much twice within one tick of the file's clock.
            return True
        return files.find_content(self.path) == prepared.content

    def find_standing(self, taskids: Sequence[int]) -> list[int]:
        """Return those of `taskids`, in order, that the queue has.

        Raises `StorageError`.
        """
        with self._content() as (version, content):
            lines = len(content or b"") // _BYTES_OF_LINE
            is_short = lines < len(taskids) * _LINES_OF_SEARCH
            if is_short or not self._is_sorted(version):
                return scan_for(content or b"", taskids)
            with self._naming_aliens():
                return find_standing(content or b"", taskids)

    def _is_sorted(self, version: Version | None) -> bool:
        """Return whether this version of the file is known to be sorted."""
        return True

    # ---- composing ------------------------------------------------------------------

    def compose(
        self, content: Content | None, requeue: Sequence[int], take: int
    ) -> Plan:
        """Plan the next content, without `take` ids at the front, and with `requeue`.

        `content` is None if the queue is missing.  Raises `StorageError`, also if the
        list was edited.
        """
        with self._naming_aliens():
            return self._compose(content, requeue, take)

    @contextmanager
    def _naming_aliens(self) -> Iterator[None]:
        """Raise `StorageError` for a line of another list that is met in a block."""
        try:
            yield
        except AlienTaskError as error:
            raise StorageError(
                f"a line of {self.path} is not of this tasklist (was the list edited "
                f"while farmers work on it?): '{shorten(str(error))}'"
            ) from error

    @abstractmethod
    def _compose(
        self, content: Content | None, requeue: Sequence[int], take: int
    ) -> Plan:
        """Plan as `compose` does; raise `AlienTaskError` if the list was edited."""

    def _plan(self, content: Content, requeue: Sequence[int], take: int) -> Plan:
        """Plan the next content out of whole lines of this list, sorted by id."""
        known = self._tasks, self._is_blocked
        if self.picker is not None and take > 0:
            return self.picker.plan(content, *known, requeue, take)
        return plan_toprocess(content, *known, requeue, take)

    @abstractmethod
    def is_empty(self) -> bool:
        """Return whether the queue has no task of this farm's list.

        Raises `StorageError`.
        """


class SharedQueue(Queue):
    """``toprocess``, which plain farmers read and write too.

    If the file is absent, `plan_absent` plans the first content, and `is_all_done`
    returns whether no task is left.
    """

    def __init__(
        self,
        path: str,
        tasks: Sequence[str],
        steps: Steps,
        is_blocked: Callable[[int], bool],
        plan_absent: Callable[[Sequence[int], int, Collection[int]], Plan],
        is_all_done: Callable[[], bool],
    ) -> None:
        super().__init__(path, tasks, steps, is_blocked)
        self.sorted_version: Version | None = None
        """The version of the file that was read and found sorted: plain farmers may
        leave it in disorder."""
        self._plan_absent = plan_absent
        self._is_all_done = is_all_done

    def _compose(
        self, content: Content | None, requeue: Sequence[int], take: int
    ) -> Plan:
        if content is None:
            return self._plan_absent(requeue, take, ())
        return self._plan(mend_tail(content, self._tasks), requeue, take)

    def _plan_pull(self, content: Content | None, taskids: Collection[int]) -> Plan:
        if content is None:
            return self._plan_absent((), 0, taskids)
        return super()._plan_pull(mend_tail(content, self._tasks), taskids)

    def _is_sorted(self, version: Version | None) -> bool:
        # Of a small file, the version does not prove that it is the one that was read.
        is_large = version is not None and version.size > file_contents.LARGE
        return is_large and version == self.sorted_version

    def is_empty(self) -> bool:
        """Return whether the queue is empty; if it is absent, whether all is done."""
        version = file_contents.find_version(self.path)
        return self._is_all_done() if version is None else version.size == 0


class AddedQueue(Queue):
    """``added``, which may have lines of a longer list, whose farm came later."""

    def _compose(
        self, content: Content | None, requeue: Sequence[int], take: int
    ) -> Plan:
        known, beyond = split_known(content or b"", len(self._tasks))
        plan = self._plan(known, requeue, take)
        return plan._replace(chunks=[*plan.chunks, beyond]) if beyond else plan

    def is_empty(self) -> bool:
        """Return whether no line of the list that this farm knows is in the queue."""
        taskid = find_id(self._read_beginning())
        return taskid is None or taskid >= len(self._tasks)

    def _read_beginning(self) -> bytes:
        try:
            with files.opened(self.path, os.O_RDONLY) as descriptor:
                return os.pread(descriptor, _ENOUGH_FOR_AN_ID, 0)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise files.storage_error("read", self.path, error) from error


def split_known(content: Content, total: int) -> tuple[bytes, bytes]:
    """Return the lines of the first `total` ids, and the other lines."""
    place, _ = find_place(content, 0, total)
    return content[:place], content[place:]


def find_lines_before(content: Content, first: int) -> Chunk:
    """Return the lines of the ids below `first`, without a torn line at the end."""
    end = content.rfind(b"\n", 0, len(content)) + 1
    whole = content if end == len(content) else content[:end]
    place, _ = find_place(whole, 0, first)
    return part_of(whole, 0, place)


# ---- composing the next content ------------------------------------------------------


def mend_tail(content: Content, tasks: Sequence[str]) -> Content:
    """Return the content with its last line whole.

    A plain farmer that was killed while it wrote has left the last line torn.  That
    line is completed if its id is whole, and else dropped, since its task is unknown.
    Raises `AlienTaskError` for a line of another list.
    """
    if not content or content[len(content) - 1 :] == b"\n":
        return content
    begin = content.rfind(b"\n", 0, len(content)) + 1
    taskid = find_id(content[begin:])
    if taskid is None or taskid >= len(tasks):
        return content[:begin]
    line = encode_line(taskid, tasks)
    if not line.startswith(content[begin:]):
        raise AlienTaskError(content[begin:].decode("utf-8", "backslashreplace"))
    return content[:begin] + line


def plan_toprocess(
    content: Content,
    tasks: Sequence[str],
    is_blocked: Callable[[int], bool],
    requeue: Sequence[int],
    take: int,
) -> Plan:
    """Plan the next content of a queue out of `content` (whole lines, sorted by id).

    Ids that must not run (`is_blocked`) are dropped at the front that is read.  Ids of
    `requeue` are not taken in the same step.  Raises `AlienTaskError`.
    """
    front = read_front(content, tasks, is_blocked, take)
    chunks = insert(content, front.end, tasks, requeue)
    return Plan(
        taken=front.taken,
        dropped=front.dropped,
        chunks=chunks,
        changed=front.end > 0 or bool(requeue),
        empty=not chunks,
    )


def read_front(
    content: Content,
    tasks: Sequence[str],
    is_blocked: Callable[[int], bool],
    take: int,
) -> Front:
    """Return up to `take` ids from the front that may run, and the dropped ones.

    Raises `AlienTaskError` for a line of another list.
    """
    taken: dict[int, None] = {}
    dropped: list[int] = []
    place = 0
    windows = range(0, len(content), WINDOW)
    for lines in cut_behind_lines(content[at : at + WINDOW] for at in windows):
        run = find_run(lines, tasks) if lines.endswith(b"\n") else None
        pieces: Iterable[tuple[Sequence[int], int]] = _each(lines, tasks)
        if run is not None and len(run) <= take - len(taken):
            pieces = [(run, len(lines))]
        for taskids, length in pieces:
            if len(taken) >= take:
                return Front(list(taken), dropped, place)
            for taskid in taskids:
                if is_blocked(taskid):
                    dropped.append(taskid)
                else:
                    taken[taskid] = None
            place += length
    return Front(list(taken), dropped, place)


def _each(lines: bytes, tasks: Sequence[str]) -> Iterator[tuple[Sequence[int], int]]:
    """Yield the id of each line (none of a blank one) and the line's length."""
    for line in lines.split(b"\n")[:-1]:
        taskid = parse_line(line, tasks)
        if taskid is None and line:
            raise AlienTaskError(line.decode("utf-8", "backslashreplace"))
        yield () if taskid is None else (taskid,), len(line) + 1


WINDOW = 1 << 13
"""Bytes that are compared with the tasklist at once: fewer than one take has."""


def insert(
    content: Content, begin: int, tasks: Sequence[str], taskids: Sequence[int]
) -> list[Chunk]:
    """Return the content from `begin` on, with the lines of `taskids` in their places.

    An id that the content has is not put in again.  Raises `AlienTaskError`.
    """
    chunks: list[Chunk] = []
    place = begin
    for there, taskid in find_places(content, begin, tasks, taskids):
        if there > place:
            chunks.append(part_of(content, place, there))
            place = there
        chunks.append(encode_line(taskid, tasks))
    chunks.append(part_of(content, place, len(content)))
    return [chunk for chunk in chunks if length_of(chunk)]


def pull_out(
    content: Content, is_blocked: Callable[[int], bool], taskids: Collection[int]
) -> tuple[list[int], list[Chunk]]:
    """Return the tasks that may run and that the content has, and the other lines.

    Raises `AlienTaskError`.
    """
    taken: list[int] = []
    chunks: list[Chunk] = []
    place = kept = 0
    for taskid in sorted(set(taskids)):
        place, found = find_place(content, place, taskid)
        if found and not is_blocked(taskid):
            taken.append(taskid)
            chunks.append(part_of(content, kept, place))
            place = kept = end_of_line(content, place) + 1
    chunks.append(part_of(content, kept, len(content)))
    return taken, [chunk for chunk in chunks if length_of(chunk)]


def find_places(
    content: Content, begin: int, tasks: Sequence[str], taskids: Iterable[int]
) -> Iterator[tuple[int, int]]:
    """Yield the index at which the line of each id belongs, and the id, in order.

    An id that the content has from `begin` on is left out.  Raises `AlienTaskError`.
    """
    place, next_id = begin, -1
    for taskid in sorted(set(taskids)):
        if taskid >= next_id:
            place, found = find_place(content, place, taskid)
            next_id = id_at(content, place) if place < len(content) else len(tasks)
            if found:
                continue
        yield place, taskid


_BYTES_OF_LINE = 20
"""About what a line of a queue has."""

_LINES_OF_SEARCH = 50
"""Lines that are scanned in the time in which bisection finds one."""


def scan_for(content: Content, taskids: Sequence[int]) -> list[int]:
    """Return those of `taskids` that the content has, whatever its order."""
    wanted, found = {*taskids}, list[int]()
    blocks = range(0, len(content) if wanted else 0, file_contents.BLOCK)
    for ids in scan_ids(content[at : at + file_contents.BLOCK] for at in blocks):
        found += wanted.intersection(ids)
    return found


def find_standing(content: Content, taskids: Sequence[int]) -> list[int]:
    """Return those of `taskids`, in order, that the content has; its lines are sorted.

    Raises `AlienTaskError` for a line without an id.
    """
    found, place = list[int](), 0
    for taskid in taskids:
        place, is_there = find_place(content, place, taskid)
        if is_there:
            found.append(taskid)
    return found


def find_place(content: Content, begin: int, taskid: int) -> tuple[int, bool]:
    """Return the index at which the line of `taskid` is or belongs, and which of both.

    The second value is True if the line is there.  The search starts at `begin`, and
    costs least if the line is near; the lines must be sorted.  Raises `AlienTaskError`
    for a line without an id.
    """
    low, high, ahead = begin, len(content), _NEAR
    before: tuple[int, int] | None = None
    behind: tuple[int, int] | None = None
    step = 0
    while low < high:
        step += 1
        middle = (low + high) // 2
        if behind is None:
            middle = min(low + ahead, middle)
        elif before is not None and step % 3:
            middle = max(low, min(_guess(before, behind, taskid), high - 1))
        newline = content.rfind(b"\n", low, middle)
        start = low if newline < 0 else newline + 1
        found = id_at(content, start)
        if found == taskid:
            return start, True
        if found > taskid:
            high = start
            behind = start, found
            continue
        low = end_of_line(content, start) + 1
        before = start, found
        # As far ahead as it is if all lines are as long, and none is missing; then as
        # far as it may be.
        ahead = max(_NEAR, (taskid - found) * (low - start)) if step < 4 else 4 * ahead
    return low, False


def _guess(before: tuple[int, int], behind: tuple[int, int], taskid: int) -> int:
    """Return where the line of `taskid` is if ids rise evenly between two lines.

    Each of the two is its index and its id.
    """
    (begin, first), (end, last) = before, behind
    return begin + (end - begin) * (taskid - first) // (last - first)


_NEAR = 256
"""Bytes ahead in which a line is looked for first."""


def id_at(content: Content, start: int) -> int:
    """Return the id of the line that begins at an index; raises `AlienTaskError`."""
    line = content[start : end_of_line(content, start)]
    taskid = find_id(line)
    if taskid is None:
        raise AlienTaskError(line.decode("utf-8", "backslashreplace"))
    return taskid


def end_of_line(content: Content, start: int) -> int:
    """Return the index of the line's newline; raises `AlienTaskError`."""
    end = content.find(b"\n", start)
    if end < 0:
        raise AlienTaskError("its last line has no end")
    return end
