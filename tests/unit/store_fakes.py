"""What the workdir's tests play with: a lock, machines, a plain farmer, and a killer.

Rules of this file: no process, no sleep.  A farm is "killed" by an exception that
nothing catches, in place of one step on the file system.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest

from mpifarm.model.packed_texts import PackedTexts
from mpifarm.model.task import Outcome, Result
from mpifarm.order.constraints import Constraints
from mpifarm.store.farm_liveness import Machine
from mpifarm.store.file_store import FileStore
from mpifarm.store.membership import FAMILY
from mpifarm.store.start_order import StartOrder
from mpifarm.store.take_up import TakenUp
from mpifarm.store.types import Recorded
from mpifarm.system import file_contents, files
from mpifarm.system import regular_files as regular
from tests.invariants import find_violations
from tests.workdir_files import WorkdirFiles

TASKS = [f"echo task {number}" for number in range(12)]

SMALL_PARTS = {"LARGE": 0, "BLOCK": 32, "_KEPT_BLOCK": 16, "_MAX_KEPT": 4}
"""For `file_contents`: every file with a byte is large, and read in small parts."""


class FakeLock:
    """Excludes nobody, and knows whether it is held."""

    def __init__(self, *paths: Path) -> None:
        self.paths = tuple(map(str, paths))
        self.held = False

    @contextmanager
    def hold(self, timeout: float = 60) -> Iterator[None]:
        assert not self.held
        assert timeout > 0
        for path in self.paths:
            Path(path).touch()
        self.held = True
        try:
            yield
        finally:
            self.held = False


class Site(WorkdirFiles):
    """A workdir, and the farms that come and go in it."""

    def __init__(self, root: Path, tasks: Sequence[str] = TASKS) -> None:
        super().__init__(root)
        self.root = root
        self.tasks = list(tasks)
        self.constraints = Constraints()
        self.order: StartOrder | None = None
        """The order of starts of the farms that are opened; None: that of the list."""
        self.now = 1000.0
        self.dead: set[int] = set()
        self.farms = 0
        self.grows = False
        """Whether farms that are opened can take up lines."""

    def machine(self, pid: int, host: str = "node1", boot: str = "boot1") -> Machine:
        def find_start(of: int) -> int | None:
            return None if of in self.dead else 5000 + of

        return Machine(host, boot, pid, find_start, lambda _: self.now)

    def open(
        self,
        machine: Machine | None = None,
        *,
        remap: bool = False,
        predecessor: str = "",
    ) -> FileStore:
        self.farms += 1
        machine = machine or self.machine(self.farms)
        lock = FakeLock(self.root / "lock")
        farm = f"{predecessor[:FAMILY]}{self.farms:08x}"
        try:
            return FileStore.open(
                str(self.root),
                self.read_tasks(),
                lock,
                farm,
                lambda: self.now,
                machine,
                predecessor=predecessor,
                remap=remap,
                constraints=deepcopy(self.constraints),
                order=self.order,
            )
        except BaseException:
            self.dead.add(machine.pid)
            raise

    def read_tasks(self) -> Sequence[str]:
        """Read the list as it is now: it may be edited while the farm works."""
        if not self.grows:
            return list(self.tasks)
        texts = PackedTexts()
        texts.extend(self.tasks)
        return texts

    def take_up(self, workdir: FileStore, most: int = 1000) -> TakenUp:
        """Have a farm take up what its list has not, as far as that is at the end."""
        now = PackedTexts()
        now.extend(self.tasks)
        known, constraints = len(workdir._tasks), workdir._queues.constraints
        constraints.extend(deepcopy(self.constraints).cut(known))
        return workdir.take_up(now, known, most)

    def kill(self, workdir: FileStore) -> None:
        self.dead.add(workdir._member._machine.pid)
        workdir._member.claim.end()

    def lines(self, ids: Iterable[int]) -> str:
        return "".join(f"{taskid} {self.tasks[taskid]}\n" for taskid in ids)

    def write(self, name: str, ids: Iterable[int]) -> None:
        self.root.mkdir(exist_ok=True)
        (self.root / name).write_text(self.lines(ids))

    def violations(self, in_hand: Iterable[int] = ()) -> list[str]:
        """What `find_violations` finds, and what is in our queues and elsewhere too."""
        hand, finished = set(in_hand), set(self.ids("finished"))
        added, waiting = ({*self.ids(each)} - finished for each in ("added", "waiting"))
        others = hand | set(self.ids("toprocess")) | self.claimed()
        found = find_violations(str(self.root), self.tasks, hand)
        ours = {f"task {taskid} is lost: in no file" for taskid in added | waiting}
        more = [each for each in found if each not in ours]
        for name, ids, elsewhere in (
            ("added", added, others),
            ("waiting", waiting, others | added),
        ):
            twice = ids & elsewhere if (self.root / "toprocess").exists() else ()
            more += [f"task {taskid} is in {name} and elsewhere" for taskid in twice]
        return more

    def claimed(self) -> set[int]:
        return set().union(*self.held().values())

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path.name != "lock"
        }


class PlainFarmer:
    """PyTaskFarmer's moves, as its ``task.py`` makes them.

    It knows the first `known` tasks: those of the list when it was started.
    """

    def __init__(self, site: Site, known: int | None = None) -> None:
        self.site = site
        self.known = len(site.tasks) if known is None else known
        self.hand: set[int] = set()

    def read(self) -> set[int]:
        if (self.site.root / "toprocess").exists():
            return set(self.site.ids("toprocess"))
        return set(range(self.known))

    def write(self, ids: set[int]) -> None:
        assert max(ids, default=-1) < self.known, "it would die half-way through this"
        self.site.write("toprocess", sorted(ids))

    def pop(self) -> int | None:
        ids = self.read()
        if not ids:
            return None
        taskid = ids.pop()
        self.write(ids)
        self.hand.add(taskid)
        return taskid

    def requeue(self, taskid: int) -> None:
        self.write(self.read() | {taskid})
        self.hand.discard(taskid)

    def record(self, taskid: int, status: int) -> None:
        name = "failed" if status else "finished"
        with (self.site.root / name).open("a") as stream:
            stream.write(self.site.lines([taskid]))
        self.hand.discard(taskid)


class Killed(BaseException):
    """The farm is gone, at this very step."""


class Interference:
    """Stands in for ``os`` in `files`: counts the steps that change the disk.

    At step `at`, `strike` happens in its place; a write can happen by half before.
    """

    CHANGES = frozenset(
        {"pwrite", "fsync", "rename", "unlink", "ftruncate", "mkdir", "utime", "fchmod"}
    )

    def __init__(self, at: int, strike: BaseException, *, half: bool) -> None:
        self.steps = 0
        self._at = at
        self._strike = strike
        self._half = half

    def __getattr__(self, name: str) -> object:
        value = getattr(os, name)
        return self._counted(name, value) if name in self.CHANGES else value

    def _counted(self, name: str, call: Callable[..., int]) -> Callable[..., int]:
        def counted(*args: object) -> int:
            self.steps += 1
            if self.steps == self._at:
                if self._half and name == "pwrite":
                    descriptor, content, offset = args
                    assert isinstance(content, memoryview)
                    call(descriptor, content[: len(content) // 2], offset)
                raise self._strike
            return call(*args)

        return counted

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and not os.path.lexists(path):
            self.steps += 1
            if self.steps == self._at:
                raise self._strike
        return os.open(path, flags, mode)


@contextmanager
def instead_of_os(stand_in: object, *others: ModuleType) -> Iterator[None]:
    """For all that touches the files of a workdir, and for `others`."""
    with ExitStack() as patched:
        for module in (files, file_contents, regular, *others):
            patched.enter_context(mock.patch.object(module, "os", stand_in))
        yield


@contextmanager
def interference(
    _patch: pytest.MonkeyPatch, at: int, strike: BaseException, *, half: bool
) -> Iterator[None]:
    with instead_of_os(Interference(at, strike, half=half)):
        yield


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def ended(taskid: int, status: int = 0, attempt: int = 1) -> Recorded:
    outcome = Outcome.FAILED if status else Outcome.COMPLETED
    started = 1_700_000_000.5
    result = Result(taskid, attempt, outcome, status, 78, started, 0.25, 9.0)
    return Recorded(taskid, status == 0, result, 0, 77, "n1")
