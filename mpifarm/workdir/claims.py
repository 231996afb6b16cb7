"""Claims: the record of what each farm has taken out of ``toprocess``.

Rules of this file: a claim is an append-only journal, one JSON object a line; the head
first, unknown keys and events ignored, a line that is no whole JSON object was torn
and never happened.  Ids stand as ranges (``0-99,105``).  Claims are created, judged
and removed only under the main lock.  Its farm holds an exclusive ``flock`` on it.

A step that changes ``toprocess`` names the temporary file *via* which it does so: as
long as that file exists, the step has not happened.  So such a file goes only after
the claim that names it.
"""

import errno
import fcntl
import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from mpifarm.errors import StorageError
from mpifarm.workdir import files
from mpifarm.workdir.paths import WorkdirPaths, parse_beside

FORMAT_VERSION = 1
HEARTBEAT_LIMIT = 60.0
"""Seconds without a heartbeat after which a farm on another host counts as dead."""

_RANGES = re.compile(r"(?:[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*)?")
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


# ---- the format ---------------------------------------------------------------------


class LockFile(NamedTuple):
    """A lock file that a farm takes, as that farm saw it."""

    path: str
    device: int
    inode: int


class Head(NamedTuple):
    """The first line of a claim.  `process_start` is in clock ticks since boot."""

    farm: str
    host: str
    boot_id: str
    pid: int
    process_start: int
    started: float
    locks: tuple[LockFile, ...]


class Event(NamedTuple):
    """A line behind the head.  `failed` is the size of ``failed`` at the take.

    `giving`: these are about to be put back, by means that name no file: from here on
    others may have them, but where their farm dies they may be nowhere else.
    """

    take: Sequence[int] = ()
    put: Sequence[int] = ()
    done: Sequence[int] = ()
    giving: Sequence[int] = ()
    via: int | None = None
    failed: int = 0


class DamagedClaimError(ValueError):
    """A whole line of a claim can't be understood: nothing may be done with it."""


def encode_ids(taskids: Iterable[int]) -> str:
    """Ids as ranges, sorted."""
    ranges: list[str] = []
    begin = last = -2
    for taskid in [*sorted(taskids), -1]:
        if taskid == last + 1 and taskid >= 0:
            last = taskid
            continue
        if begin >= 0:
            ranges.append(str(begin) if begin == last else f"{begin}-{last}")
        begin = last = taskid
    return ",".join(ranges)


def parse_ids(text: object) -> list[int]:
    """The ids of a text of ranges; raises `DamagedClaimError`."""
    if not isinstance(text, str) or not _RANGES.fullmatch(text):
        raise DamagedClaimError(f"no ranges of ids: {text!r:.60}")
    taskids: list[int] = []
    for part in text.split(",") if text else ():
        begin, _, last = part.partition("-")
        if len(part) > 30 or int(last or begin) - int(begin) > 10**8:
            raise DamagedClaimError(f"no ranges of ids: {text!r:.60}")
        taskids.extend(range(int(begin), int(last or begin) + 1))
    return taskids


def encode_head(head: Head) -> bytes:
    """The first line."""
    record = {"version": FORMAT_VERSION, **head._asdict()}
    return json.dumps(record).encode("ascii") + b"\n"


def parse_head(line: bytes) -> Head:
    """Raises `DamagedClaimError`, also for a version that isn't known."""
    try:
        record = json.loads(line)
        version = record["version"]
        locks = tuple(LockFile(*lock[:3]) for lock in record["locks"])
        head = Head(
            farm=str(record["farm"]),
            host=str(record["host"]),
            boot_id=str(record["boot_id"]),
            pid=int(record["pid"]),
            process_start=int(record["process_start"]),
            started=float(record["started"]),
            locks=locks,
        )
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedClaimError("its first line can't be read") from error
    if version != FORMAT_VERSION:
        raise DamagedClaimError(f"its format is version {version!r:.20}")
    return head


def encode_event(event: Event) -> bytes:
    """One line."""
    record: dict[str, str | int] = {}
    for name, taskids in (
        ("take", event.take),
        ("put", event.put),
        ("done", event.done),
        ("giving", event.giving),
    ):
        if taskids:
            record[name] = encode_ids(taskids)
    if event.via is not None:
        record["via"] = event.via
    if event.take:
        record["failed"] = event.failed
    return json.dumps(record).encode("ascii") + b"\n"


def parse_event(line: bytes) -> Event | None:
    """None for a torn line; raises `DamagedClaimError`."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    via, failed = record.get("via"), record.get("failed", 0)
    if not isinstance(failed, int) or not isinstance(via, int | None):
        raise DamagedClaimError("one of its lines is damaged")
    return Event(
        take=parse_ids(record.get("take", "")),
        put=parse_ids(record.get("put", "")),
        done=parse_ids(record.get("done", "")),
        giving=parse_ids(record.get("giving", "")),
        via=via,
        failed=failed,
    )


class Journal:
    """What the lines of a claim add up to.

    `held` maps each id that the farm holds to the size of ``failed`` at its take;
    `giving` are those among them that others may have meanwhile.
    `step_happened` tells of the number of a step whether its temporary file is gone.
    """

    def __init__(self, step_happened: Callable[[int], bool]) -> None:
        self.head: Head | None = None
        self.held: dict[int, int] = {}
        self.giving: set[int] = set()
        self.last_step = 0
        self._step_happened = step_happened
        self._pending: list[Event] = []
        self._rest = b""

    def feed(self, content: bytes) -> None:
        """Read on; a last line without its newline waits for the rest."""
        *lines, self._rest = (self._rest + content).split(b"\n")
        self._apply_all(self._pending)
        for line in lines:
            if self.head is None:
                self.head = parse_head(line)
            elif event := parse_event(line):
                self._apply_all([*self._pending, event])

    def _apply_all(self, events: list[Event]) -> None:
        self._pending = []
        for event in events:
            self._apply(event)

    def _apply(self, event: Event) -> None:
        for taskid in event.done:
            self.held.pop(taskid, None)
        self.giving.difference_update(event.done)
        self.giving.update(event.giving)
        if event.via is not None:
            self.last_step = max(self.last_step, event.via)
            if not self._step_happened(event.via):
                self._pending.append(event)
                return
        for taskid in event.put:
            self.held.pop(taskid, None)
        for taskid in event.take:
            self.held[taskid] = event.failed


# ---- dead or alive ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a farm runs, and how it learns what else runs there."""

    host: str
    boot_id: str
    pid: int
    find_process_start: Callable[[int], int | None]
    """When a process started, in ticks since boot; None if there is none (a zombie
    is none: whoever should have waited for it has not yet)."""
    read_file_clock: Callable[[str], float]
    """The time of the file system of a directory, in seconds since the epoch."""


def find_process_start(pid: int) -> int | None:
    """From ``/proc/<pid>/stat``, fields 3 and 22 (proc_pid_stat(5))."""
    try:
        stat = files.read_from(f"/proc/{pid}/stat")
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def read_file_clock(directory: str) -> float:
    """By the modification time of a new file: on a file server, the server's clock."""
    path = f"{directory}/.clock.{os.getpid()}"
    try:
        with files.opened(path, os.O_WRONLY | os.O_CREAT) as descriptor:
            files.touch(descriptor, path)
            return os.fstat(descriptor).st_mtime
    except OSError as error:
        raise files.storage_error("write", path, error) from error
    finally:
        with suppress(OSError):
            os.unlink(path)


def this_machine() -> Machine:
    """The machine of this process."""
    try:
        boot_id = files.read_from("/proc/sys/kernel/random/boot_id").decode().strip()
    except OSError:
        boot_id = ""
    return Machine(
        socket.gethostname(), boot_id, os.getpid(), find_process_start, read_file_clock
    )


class Life(Enum):
    """What is known of the farm of a claim."""

    ALIVE = "alive"
    UNPROVEN = "not proven dead"
    """Its lock can be taken, but the rest does not say that it is dead."""
    DEAD = "dead"


def judge(head: Head, heartbeat: float, directory: str, machine: Machine) -> Life:
    """Judge a farm whose claim's ``flock`` could be taken."""
    if machine.boot_id and head.boot_id == machine.boot_id:
        start = machine.find_process_start(head.pid)
        gone = start is None or start != head.process_start
        return Life.DEAD if gone else Life.UNPROVEN
    age = machine.read_file_clock(directory) - heartbeat
    return Life.DEAD if age > HEARTBEAT_LIMIT else Life.UNPROVEN


def share_a_lock(ours: Iterable[LockFile], head: Head, *, same_boot: bool) -> bool:
    """Whether one lock file is among those of both.

    A device number means something on one machine only; from another one, the file
    has the same inode number and name.
    """
    if same_boot:
        theirs = {(lock.device, lock.inode) for lock in head.locks}
        return any((lock.device, lock.inode) in theirs for lock in ours)
    named = {(os.path.basename(lock.path), lock.inode) for lock in head.locks}
    return any((os.path.basename(lock.path), lock.inode) in named for lock in ours)


def find_lock_files(paths: Iterable[str]) -> tuple[LockFile, ...]:
    """The lock files as they are now; the lock is held, so they exist."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            status = os.stat(path)
            absolute = os.path.abspath(path)
            found.append(LockFile(absolute, status.st_dev, status.st_ino))
    return tuple(found)


def take_flock(descriptor: int) -> bool:
    """Whether the exclusive lock could be taken.

    Where the file system has no such lock it proves nothing, and the rest decides.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
    return True


def is_at(descriptor: int, path: str) -> bool:
    """Whether the open file is still the one that bears the name.

    The name is opened, not only asked for: NFS keeps answers for seconds.
    """
    try:
        with files.opened(path, os.O_RDONLY) as there:
            return os.path.samestat(os.fstat(there), os.fstat(descriptor))
    except FileNotFoundError:
        return False


# ---- the claim of this farm ---------------------------------------------------------


class OwnClaim:
    """This farm's claim, from its creation to its removal.

    The descriptor stays open for life: it carries the lock that says "alive", and no
    other program writes this file.
    """

    def __init__(self, paths: WorkdirPaths, head: Head) -> None:
        self.farm = head.farm
        self.path = paths.claim(head.farm)
        self.held: set[int] = set()
        try:
            self._descriptor = files.create_exclusively(self.path)
        except OSError as error:
            raise files.storage_error("create", self.path, error) from error
        try:
            self._claim(head)
        except StorageError:
            self.end()
            with suppress(OSError):
                os.unlink(self.path)
            raise
        except BaseException:
            self.end()
            raise

    def _claim(self, head: Head) -> None:
        try:
            locked = take_flock(self._descriptor)
        except OSError as error:
            raise files.storage_error("lock", self.path, error) from error
        if not locked or not is_at(self._descriptor, self.path):
            raise StorageError(f"another farm has taken over {self.path}")
        files.append_to(self._descriptor, self.path, encode_head(head), sync=True)

    def check(self) -> None:
        """Raise `StorageError` unless this claim is still this farm's."""
        try:
            ours = is_at(self._descriptor, self.path)
        except OSError as error:
            raise files.storage_error("read", self.path, error) from error
        if not ours:
            raise StorageError(
                f"the claim {self.path} is gone: another farm took this one for dead "
                "and took its tasks over, or the workdir was removed"
            )

    def append(self, event: Event, *, sync: bool = True) -> None:
        """Add an event; `held` is the caller's to change once it has happened."""
        files.append_to(self._descriptor, self.path, encode_event(event), sync=sync)

    def append_step(self, event: Event, beside: str) -> None:
        """Add a step that will happen by the renaming of `beside`.

        Where that fails, `beside` goes, but only if no trace of the step is left.
        """
        before = self._size()
        try:
            self.append(event)
        except StorageError:
            if self._size() == before:
                files.remove(beside)
            raise

    def _size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def beat(self) -> None:
        """The heartbeat: the modification time of the claim."""
        files.touch(self._descriptor, self.path)

    def end(self) -> None:
        """Give up the lock; whoever comes next may judge the claim."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


# ---- the claims of others -----------------------------------------------------------


@dataclass(slots=True)
class OtherClaim:
    """What is known of another farm's claim; read on from where the last look ended."""

    farm: str
    path: str
    journal: Journal
    offset: int = 0
    inode: tuple[int, int] | None = None
    damage: str | None = None

    def keeps(self, taskid: int) -> bool:
        """Whether its farm holds the task, and doesn't put it back just now."""
        return taskid in self.journal.held and taskid not in self.journal.giving


@dataclass(slots=True)
class OtherClaims:
    """The claims of all farms but this one (`farm` may have none yet)."""

    paths: WorkdirPaths
    farm: str
    claims: dict[str, OtherClaim] = field(default_factory=dict)

    def look(self) -> None:
        """Read what has come since; raises `StorageError`."""
        try:
            names = sorted(os.listdir(self.paths.claims))
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise files.storage_error("read", self.paths.claims, error) from error
        there = {
            name for name in names if name != self.farm and not name.startswith(".")
        }
        for gone in self.claims.keys() - there:
            del self.claims[gone]
        for name in there:
            self._look_at(name)

    def _look_at(self, name: str) -> None:
        claim = self.claims.get(name) or self._meet(name)
        try:
            with files.opened(claim.path, os.O_RDONLY) as descriptor:
                status = os.fstat(descriptor)
                if claim.inode not in (None, (status.st_dev, status.st_ino)):
                    claim = self._meet(name)
                claim.inode = (status.st_dev, status.st_ino)
                content = files.read_descriptor(descriptor, claim.offset)
        except OSError as error:
            raise files.storage_error("read", claim.path, error) from error
        claim.offset += len(content)
        try:
            claim.journal.feed(content)
        except DamagedClaimError as error:
            claim.damage = str(error)

    def _meet(self, name: str) -> OtherClaim:
        def step_happened(step: int) -> bool:
            return not files.exists(self.paths.toprocess_beside(name, step))

        claim = OtherClaim(name, self.paths.claim(name), Journal(step_happened))
        self.claims[name] = claim
        return claim

    def hold(self, taskid: int) -> bool:
        """Whether any of them holds the id."""
        return any(claim.keeps(taskid) for claim in self.claims.values())

    def held_ids(self) -> set[int]:
        """All ids that they hold."""
        held: set[int] = set()
        for claim in self.claims.values():
            held.update(claim.journal.held)
        return held


@contextmanager
def grasped(claim: OtherClaim, machine: Machine) -> Iterator[tuple[Life, int]]:
    """Judge a claim; while it is dead, its lock stays ours.

    Gives the descriptor along, by which its journal can be ended.
    """
    try:
        descriptor = os.open(claim.path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise files.storage_error("open", claim.path, error) from error
        yield Life.UNPROVEN, -1
        return
    try:
        yield _judge_open(claim, descriptor, machine), descriptor
    finally:
        os.close(descriptor)


def _judge_open(claim: OtherClaim, descriptor: int, machine: Machine) -> Life:
    if not take_flock(descriptor):
        return Life.ALIVE
    if claim.damage is not None or not is_at(descriptor, claim.path):
        return Life.UNPROVEN
    if claim.journal.head is None:
        # Claims are created under the main lock, which we hold: its creator was killed
        # before the first line was whole, and so before it took anything.
        return Life.DEAD
    heartbeat = os.fstat(descriptor).st_mtime
    return judge(claim.journal.head, heartbeat, os.path.dirname(claim.path), machine)


def find_leftovers(
    paths: WorkdirPaths, farm: str | None = None
) -> list[tuple[str, str, int]]:
    """(path, farm, step) of the temporary files of one farm, or of all."""
    try:
        names = os.listdir(paths.root)
    except OSError as error:
        raise files.storage_error("read", paths.root, error) from error
    found = []
    for name in sorted(names):
        beside = parse_beside(name)
        if beside and (farm is None or beside[0] == farm):
            found.append((f"{paths.root}/{name}", *beside))
    return found
