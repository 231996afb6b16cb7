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
import math
import os
import re
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from mpifarm.errors import StorageError
from mpifarm.workdir import files
from mpifarm.workdir.paths import WorkdirPaths, parse_beside

FORMAT_VERSION = 1
HEARTBEAT_LIMIT = 60.0
"""Seconds without a heartbeat after which a farm on another host counts as dead."""

MOST_IDS = 4_000_000
"""Ids that one claim may hold: more is damage, and would fill the memory."""
_LONGEST = 15
"""Digits of a number that makes sense; those of Python have no end."""
_RANGES = re.compile(r"(?:[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*)?")
_READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
"""What strangers have put there, a fifo or a link, holds nobody up."""
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ELOOP}
"""Why a claim can't be opened, if that does not mean that the disk gives way."""
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


class ClaimLostError(StorageError):
    """This farm was taken for dead, or its workdir is gone: no use in trying again."""


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
        if max(len(begin), len(last)) > _LONGEST:
            raise DamagedClaimError(f"no ranges of ids: {text!r:.60}")
        ids = range(int(begin), int(last or begin) + 1)
        if not ids or len(taskids) + len(ids) > MOST_IDS:
            raise DamagedClaimError(f"no ranges of ids: {text!r:.60}")
        taskids.extend(ids)
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
        head = (
            None
            if version != FORMAT_VERSION
            else Head(
                farm=_word(record["farm"]),
                host=_word(record["host"]),
                boot_id=_word(record["boot_id"]),
                pid=_number(record["pid"], least=1),
                process_start=_number(record["process_start"]),
                started=_time(record["started"]),
                locks=tuple(map(_lock_file, record["locks"])),
            )
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise DamagedClaimError("its first line can't be read") from error
    if head is None:
        raise DamagedClaimError(f"its format is version {version!r:.20}")
    return head


def _word(value: Any) -> str:
    # It is said to the user as it stands.
    if not isinstance(value, str) or not value.isprintable() or len(value) > 255:
        raise TypeError
    return value


def _number(value: Any, least: int = 0) -> int:
    if type(value) is not int or not least <= value < 10**20:
        raise TypeError
    return value


def _time(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _lock_file(value: Any) -> LockFile:
    path, device, inode = value[:3]
    if not isinstance(path, str):
        raise TypeError
    return LockFile(path, _number(device), _number(inode))


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
    except RecursionError as error:
        raise DamagedClaimError("one of its lines is damaged") from error
    if not isinstance(record, dict):
        return None
    return Event(
        take=parse_ids(record.get("take", "")),
        put=parse_ids(record.get("put", "")),
        done=parse_ids(record.get("done", "")),
        giving=parse_ids(record.get("giving", "")),
        via=None if record.get("via") is None else _parse_number(record["via"], 1),
        failed=_parse_number(record.get("failed", 0), 0),
    )


def _parse_number(value: object, least: int) -> int:
    try:
        number = _number(value, least)
    except TypeError as error:
        raise DamagedClaimError("one of its lines is damaged") from error
    if number >= 10**_LONGEST:
        raise DamagedClaimError("one of its lines is damaged")
    return number


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
        if len(self.held) > MOST_IDS:
            raise DamagedClaimError(f"it holds more than {MOST_IDS} tasks")


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
        line = files.read_from(f"/proc/{pid}/stat")
    except OSError:
        return None
    fields = line[line.rfind(b")") + 2 :].split()
    if len(fields) < 20:  # it went while it was asked for
        return None
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
            status = _status_of(path)
            absolute = os.path.abspath(path)
            found.append(LockFile(absolute, status.st_dev, status.st_ino))
    return tuple(found)


def _status_of(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise files.storage_error("read", path, error) from error


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
    except OSError as error:
        raise files.storage_error("open", path, error) from error


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
        if not is_at(self._descriptor, self.path):
            raise ClaimLostError(
                f"the claim {self.path} is gone: another farm took this one for dead "
                "and took its tasks over, or the workdir was removed"
            )

    def append(self, event: Event, *, sync: bool = True) -> None:
        """Add an event; `held` is the caller's to change once it has happened."""
        files.append_to(self._descriptor, self.path, encode_event(event), sync=sync)

    def append_step(self, event: Event, beside: str) -> None:
        """Add a step that will happen by the renaming of `beside`.

        Where that fails, `beside` goes; or, if a trace of the step may be left, stays
        as an empty file that says "did not happen": the next step is another one.
        """
        before = self._find_size()
        try:
            self.append(event)
        except StorageError:
            files.empty(beside)
            if before is not None and self._find_size() == before:
                with suppress(StorageError):
                    files.remove(beside)
            raise

    def _find_size(self) -> int | None:
        try:
            return os.fstat(self._descriptor).st_size
        except OSError:
            return None

    def beat(self) -> None:
        """The heartbeat: the modification time of the claim."""
        files.touch(self._descriptor, self.path)

    def end(self) -> None:
        """Give up the lock; whoever comes next may judge the claim."""
        if self._descriptor >= 0:
            with suppress(OSError):  # each line that matters was synced
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
            with files.opened(claim.path, _READ_FLAGS) as descriptor:
                status = os.fstat(descriptor)
                if claim.inode not in (None, (status.st_dev, status.st_ino)):
                    claim = self._meet(name)
                claim.inode = (status.st_dev, status.st_ino)
                if not stat.S_ISREG(status.st_mode):
                    claim.damage = "it is no file"
                    return
                content = files.read_descriptor(descriptor, claim.offset)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise files.storage_error("read", claim.path, error) from error
            claim.damage = "it is a link"
            return
        self._feed(claim, content)

    def _feed(self, claim: OtherClaim, content: bytes) -> None:
        claim.offset += len(content)
        try:
            claim.journal.feed(content)
        except DamagedClaimError as error:
            claim.damage = str(error)
        except StorageError:
            # What came of its steps can't be told now: read it all again.
            del self.claims[claim.farm]
            raise

    def _meet(self, name: str) -> OtherClaim:
        def step_happened(step: int) -> bool:
            return not files.exists(self.paths.toprocess_beside(name, step))

        claim = OtherClaim(name, self.paths.claim(name), Journal(step_happened))
        self.claims[name] = claim
        return claim

    def hold(self, taskid: int) -> bool:
        """Whether any of them holds the id."""
        for claim in self.claims.values():  # noqa: SIM110 - any() takes three times as long
            if claim.keeps(taskid):
                return True
        return False

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
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(claim.path, flags)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise files.storage_error("open", claim.path, error) from error
        yield _judge_unwritable(claim), -1
        return
    try:
        yield _judge_open(claim, descriptor, machine), descriptor
    finally:
        os.close(descriptor)


def _judge_unwritable(claim: OtherClaim) -> Life:
    """Another user's: whether its lock is held can be seen where it can be read."""
    try:
        with files.opened(claim.path, _READ_FLAGS) as descriptor:
            return Life.UNPROVEN if take_flock(descriptor) else Life.ALIVE
    except OSError:  # NFS wants it open for writing
        return Life.UNPROVEN


def _judge_open(claim: OtherClaim, descriptor: int, machine: Machine) -> Life:
    try:
        if not take_flock(descriptor):
            return Life.ALIVE
        if claim.damage is not None or not is_at(descriptor, claim.path):
            return Life.UNPROVEN
        heartbeat = os.fstat(descriptor).st_mtime
    except OSError as error:
        raise files.storage_error("read", claim.path, error) from error
    if claim.journal.head is None:
        # Claims are created under the main lock, which we hold: its creator was killed
        # before the first line was whole, and so before it took anything.
        return Life.DEAD
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
