"""The files that say what is to be run: ``toprocess``, and ``added`` beside it.

Rules of this file: a queue is replaced whole, by the rename of a temporary file which
its farm's claim has named before.  Plain farmers die of an id in ``toprocess`` that
their list does not have.  So what is added to the end of a list in use goes through
``added``, which only mpifarm knows, and comes back to it for as long as the workdir
lives; a farm that knows the shorter list leaves the other lines there alone.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from mpifarm.errors import StorageError
from mpifarm.workdir import files
from mpifarm.workdir.opening import shorten
from mpifarm.workdir.paths import WorkdirPaths
from mpifarm.workdir.status import find_id
from mpifarm.workdir.toprocess import (
    AlienTaskError,
    Plan,
    find_place,
    mend_tail,
    plan_toprocess,
)

_ENOUGH_FOR_AN_ID = 64


class Steps:
    """The temporary files of one farm: each becomes a queue when it is renamed."""

    def __init__(self, paths: WorkdirPaths, farm: str) -> None:
        self.last = 0
        self._paths = paths
        self._farm = farm

    def begin(self) -> int:
        """The number of a new one."""
        self.last += 1
        return self.last

    def file(self, step: int) -> str:
        """Its temporary file."""
        return self._paths.toprocess_beside(self._farm, step)


class Step(NamedTuple):
    """What a queue is to be, and the number of the step whose file holds it."""

    plan: Plan
    number: int


class Prepared(NamedTuple):
    """A step that was written outside the lock.

    `content` is that of the old file, unless it is so large that its `version` alone
    tells whether it was changed.
    """

    version: files.Version | None
    content: bytes | None
    give_back: tuple[int, ...]
    take: int
    step: Step


class Queue(ABC):
    """One of the two files, as a farm sees it that knows `tasks`."""

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

    # ---- without the lock -----------------------------------------------------------

    def prepare(self, give_back: tuple[int, ...], take: int) -> int:
        """Write what `settle` will want beside; how many ids that takes.

        It never fails: what can't be done, `settle` tells.
        """
        with suppress(StorageError):
            if give_back or take > 0:
                return self._prepare(give_back, take)
        return 0

    def _prepare(self, give_back: tuple[int, ...], take: int) -> int:
        with files.content_of(self.path) as (version, content):
            plan = self.compose(content, give_back, take)
            if plan.changed:
                kept = content if isinstance(content, bytes) else None
                step = self._write(plan)
                self._prepared = Prepared(version, kept, give_back, take, step)
        return len(plan.taken)

    # ---- lock held ------------------------------------------------------------------

    def settle(self, give_back: tuple[int, ...], take: int) -> Step:
        """The next content, in its file where it differs from what is there."""
        prepared = self._find_prepared(give_back, take)
        if prepared is not None:
            return prepared
        with files.content_of(self.path) as (_, content):
            plan = self.compose(content, give_back, take)
            return self._write(plan) if plan.changed else Step(plan, 0)

    def discard(self) -> None:
        """Have nothing prepared any more."""
        if self._prepared is not None:
            number, self._prepared = self._prepared.step.number, None
            files.remove(self._steps.file(number))

    def put(self, steps: Steps, taskids: Sequence[int]) -> int:
        """Write the content with these ids beside, as a step of `steps`."""
        with files.content_of(self.path) as (_, content):
            plan = self.compose(content, taskids, 0)
            return self._write(plan, steps).number

    def _write(self, plan: Plan, steps: Steps | None = None) -> Step:
        steps = steps or self._steps
        number = steps.begin()
        files.write_beside(steps.file(number), plan.chunks, like=self.path)
        return Step(plan._replace(chunks=()), number)

    def _find_prepared(self, back: tuple[int, ...], take: int) -> Step | None:
        """What was prepared, if it is still right."""
        prepared = self._prepared
        if prepared is None:
            return None
        plan = prepared.step.plan
        fits = (
            (prepared.give_back, prepared.take) == (back, take)
            and not any(map(self._is_blocked, plan.taken))
            # What was dropped may have been put back by its farm since.
            and all(map(self._is_blocked, plan.dropped))
            and self._is_unchanged(prepared)
        )
        if not fits:
            self.discard()
            return None
        self._prepared = None
        return prepared.step

    def _is_unchanged(self, prepared: Prepared) -> bool:
        """Whether the file is still what the new one was made from."""
        if files.find_version(self.path) != prepared.version:
            return False
        if prepared.version and prepared.version.size > files.LARGE:
            # Nobody rewrites so much twice within one tick of the file's clock.
            return True
        return files.find_content(self.path) == prepared.content

    # ---- composing ------------------------------------------------------------------

    def compose(
        self, content: files.Content | None, give_back: Sequence[int], take: int
    ) -> Plan:
        """The next content; raises `StorageError` where the list was edited."""
        try:
            return self._compose(content, give_back, take)
        except AlienTaskError as error:
            raise StorageError(
                f"a line of {self.path} is not of this tasklist (was the list edited "
                f"while farmers work on it?): '{shorten(str(error))}'"
            ) from error

    @abstractmethod
    def _compose(
        self, content: files.Content | None, give_back: Sequence[int], take: int
    ) -> Plan:
        """`compose`; raises `AlienTaskError`."""

    @abstractmethod
    def is_empty(self) -> bool:
        """Whether nothing that this farm may run is left in it."""


class SharedQueue(Queue):
    """``toprocess``, which plain farmers read and write too.

    `plan_absent` says what there is where the file is not; `is_all_done` whether that
    is nothing.
    """

    def __init__(
        self,
        path: str,
        tasks: Sequence[str],
        steps: Steps,
        is_blocked: Callable[[int], bool],
        plan_absent: Callable[[Sequence[int], int], Plan],
        is_all_done: Callable[[], bool],
    ) -> None:
        super().__init__(path, tasks, steps, is_blocked)
        self._plan_absent = plan_absent
        self._is_all_done = is_all_done

    def _compose(
        self, content: files.Content | None, give_back: Sequence[int], take: int
    ) -> Plan:
        if content is None:
            return self._plan_absent(give_back, take)
        whole = mend_tail(content, self._tasks)
        return plan_toprocess(whole, self._tasks, self._is_blocked, give_back, take)

    def is_empty(self) -> bool:
        """Whether it holds nothing; where it is not there, whether nothing is left."""
        version = files.find_version(self.path)
        return self._is_all_done() if version is None else version.size == 0


class AddedQueue(Queue):
    """``added``: it may hold lines of a longer list, whose farm came later."""

    def _compose(
        self, content: files.Content | None, give_back: Sequence[int], take: int
    ) -> Plan:
        known, beyond = split_known(content or b"", len(self._tasks))
        plan = plan_toprocess(known, self._tasks, self._is_blocked, give_back, take)
        return plan._replace(chunks=[*plan.chunks, beyond]) if beyond else plan

    def is_empty(self) -> bool:
        """Whether no line of the list that this farm knows is in it."""
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


def split_known(content: files.Content, total: int) -> tuple[bytes, bytes]:
    """The lines of the first `total` ids, and those of the others."""
    place, _ = find_place(content, 0, total)
    return content[:place], content[place:]
