"""The checks of the file system: alone, and between this process and another one.

Rules of this file: a check returns one finding, and lets OSError and FarmError pass,
which the caller makes a finding of.  Files are written by the farm's own functions.
What is said to follow is what a farm would suffer, with the remedy.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from mpifarm.errors import FarmError
from mpifarm.selftest.findings import Finding, Verdict, guard
from mpifarm.selftest.parties import (
    PATIENCE_SECONDS,
    POLL_SECONDS,
    Other,
    Party,
    append_without_lock,
    ask,
    record,
    touch,
)
from mpifarm.workdir import claims, files

RECORDS = 50
"""Appended by each of two at the same time."""

ROUNDS = 10
SYNCS = 20

FREE_SECONDS = 5.0
"""Within which a lock has to be free after its holder was killed."""

SEEN_SECONDS = 5.0
"""How long to wait for the other to see a change without the lock."""

LOCK_REMEDY = (
    "two farms on one workdir could run a task twice: give all of them --lock-area (or"
    " $SCRATCH) on a file system where flock does exclude, or start only one"
)

LEAST_BYTES = 100 << 20
LEAST_FILES = 1000


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the checks play: a directory made for them, and who we are in it."""

    directory: str
    us: Party
    our_name: str = "this process"

    def path(self, name: str) -> str:
        """A file in the directory."""
        return f"{self.directory}/{name}"

    @property
    def lock(self) -> str:
        """What to take: all lock files that a farm would take for the directory."""
        return self.directory


# ---- the lock -----------------------------------------------------------------------


def check_flock(stage: Stage, other: Other) -> Finding:
    """Whether one of the lock files of a farm excludes the other."""
    ours = stage.us.lock_files(stage.directory)
    theirs = ask(other, "lock files", stage.directory)
    # The workdir's own is the last; an area may be in one's environment only.
    troubles = {
        mine: _try_exclusion(stage.us, other, mine, its)
        for mine, its in zip(reversed(ours), reversed(theirs), strict=False)
    }
    name = f"flock between {stage.our_name} and {other.name}"
    seen = "; ".join(filter(None, troubles.values()))
    if not seen:
        return Finding(name, Verdict.HOLDS, "who holds it keeps the other out")
    if all(troubles.values()):
        return Finding(name, Verdict.BROKEN, seen, LOCK_REMEDY)
    own, area = ours[-1], os.path.dirname(ours[0])
    follows = (
        f"what excludes is the lock in {area}: all farms must have it"
        if troubles[own]
        else f"mpifarm takes the workdir's as well; PyTaskFarmers that have only {area}"
        " do not exclude each other: set SCRATCH to a directory that all nodes share"
    )
    return Finding(name, Verdict.HOLDS, seen, follows)


def _try_exclusion(us: Party, other: Other, mine: str, its: str) -> str:
    """What is wrong with the lock file, "" if nothing."""
    try:
        return _exclude_each_other(us, other, mine, its)
    except (FarmError, OSError) as error:
        return f"no flock on {mine} ({error})"
    finally:
        us.release(mine)
        ask(other, "release", its)


def _exclude_each_other(us: Party, other: Other, mine: str, its: str) -> str:
    where = os.path.dirname(mine)
    if not us.take(mine, PATIENCE_SECONDS):
        return f"flock in {where} can't be taken at all"
    if ask(other, "take", its, 0.1):
        return f"flock in {where} does not exclude: both held it at once"
    us.release(mine)
    if not ask(other, "take", its, FREE_SECONDS, seconds=FREE_SECONDS):
        return f"flock in {where} stays taken after its release"
    if us.take(mine, 0.1):
        return f"flock in {where} excludes in one direction only"
    return ""


def check_release_at_kill(
    stage: Stage, other: Other, kill: Callable[[], object]
) -> Finding:
    """Whether the lock of a process that is killed with -9 is free soon.

    `other` takes it, and is what `kill` kills.
    """
    name = f"lock free after kill -9 of {other.name}"
    if not ask(other, "take", stage.lock, PATIENCE_SECONDS, seconds=PATIENCE_SECONDS):
        return Finding(name, Verdict.UNTESTED, "it could not take the lock")
    if stage.us.take(stage.lock, 0.1):
        stage.us.release(stage.lock)
        return Finding(name, Verdict.UNTESTED, "flock does not exclude here")
    kill()
    begun = time.monotonic()
    free = stage.us.take(stage.lock, FREE_SECONDS)
    seconds = time.monotonic() - begun
    stage.us.release(stage.lock)
    if free:
        return Finding(name, Verdict.HOLDS, f"after {_ms(seconds)}", weight=seconds)
    return Finding(
        name,
        Verdict.BROKEN,
        f"still taken {FREE_SECONDS:g} s later",
        "after a kill no farm can start here until the lock is free: use --lock-area"
        " on another file system",
    )


# ---- replacing and appending --------------------------------------------------------


def check_rename(stage: Stage, other: Other) -> Finding:
    """Whether the next holder of the lock reads what the last one has renamed."""
    name = f"a file replaced under the lock is read by {other.name}"
    path, beside = stage.path("replaced"), stage.path("replaced.beside")
    for number in range(ROUNDS):
        text = f"version {number}\n"
        with _held(stage):
            files.replace(path, beside, text.encode())
        read = ask(other, "read locked", path, stage.lock, seconds=PATIENCE_SECONDS)
        if read != text:
            return Finding(
                name,
                Verdict.BROKEN,
                f"it read {read!r} for {text!r}",
                "a farm that reads an old toprocess runs tasks twice: use one farm for"
                " each workdir here, or a workdir on another file system",
            )
    return Finding(name, Verdict.HOLDS, f"{ROUNDS} times of {ROUNDS}")


def check_old_name(stage: Stage, other: Other) -> Finding:
    """Whether a name that was renamed is gone for the other one, too."""
    name = f"a name that was renamed is gone for {other.name}"
    path, beside = stage.path("named"), stage.path("named.beside")
    files.write_beside(beside, (b"new\n",))
    if not ask(other, "exists", beside):
        return Finding(name, Verdict.BROKEN, "it doesn't see the new file", _NAME_WHY)
    files.rename(beside, path)
    begun, looks = time.monotonic(), 1
    while ask(other, "exists", beside):
        if time.monotonic() - begun > SEEN_SECONDS:
            seen = f"it sees the old name after {SEEN_SECONDS:g} s"
            return Finding(name, Verdict.BROKEN, seen, _NAME_WHY)
        looks += 1
        time.sleep(POLL_SECONDS)
    if looks > 1:
        seen = f"only after {_ms(time.monotonic() - begun)} (names are cached)"
        return Finding(name, Verdict.BROKEN, seen, _NAME_WHY)
    return Finding(name, Verdict.HOLDS, "at once")


_NAME_WHY = (
    "a farm that ends may be misjudged by another one for that time: mount with"
    " lookupcache=none, or start the next farm a minute later"
)


def check_time_until_seen(stage: Stage, other: Other) -> Finding:
    """How long until the other sees a replaced file without the lock."""
    name = f"a replaced file is seen by {other.name} without the lock"
    path = stage.path("watched")
    files.replace(path, path + ".beside", b"old\n")
    other.begin("await text", path, "new\n", SEEN_SECONDS)
    time.sleep(0.05)
    files.replace(path, path + ".beside", b"new\n")
    begun = time.monotonic()
    if other.end(SEEN_SECONDS):
        seconds = time.monotonic() - begun
        return Finding(name, Verdict.MEASURED, f"after {_ms(seconds)}", weight=seconds)
    return Finding(
        name,
        Verdict.MEASURED,
        f"not within {SEEN_SECONDS:g} s (attributes are cached)",
        "a file named drain, and what others append, is noticed that much later",
    )


def check_exclusive_create(stage: Stage, other: Other) -> Finding:
    """Whether of two that create a file, one is told that it is there."""
    name = f"O_EXCL between {stage.our_name} and {other.name}"
    path = stage.path("exclusive")
    os.close(files.create_exclusively(path))
    if ask(other, "create", path):
        return Finding(
            name,
            Verdict.BROKEN,
            "both created the same file",
            "two farms could have one claim: use one farm for each workdir here",
        )
    return Finding(name, Verdict.HOLDS, "the second is told that it is there")


def check_append(stage: Stage, other: Other) -> Finding:
    """Whether appends under the lock, as farms make them, lose nothing."""
    path = stage.path("appended")
    other.begin("append locked", path, stage.lock, RECORDS, "b")
    stage.us.append_locked(path, stage.lock, RECORDS, "a")
    other.end(PATIENCE_SECONDS)
    with _held(stage):
        lost = _lost_records(path)
    name = f"appends under the lock, by {stage.our_name} and {other.name}"
    if lost:
        follows = "results of tasks would be lost; " + LOCK_REMEDY
        return Finding(name, Verdict.BROKEN, lost, follows)
    return Finding(name, Verdict.HOLDS, f"all {2 * RECORDS} records are there, whole")


def check_append_without_lock(stage: Stage, other: Other) -> Finding:
    """Whether O_APPEND alone loses nothing, as commands with ``>>`` rely on."""
    path = stage.path("logged")
    touch(path)
    other.begin("append", path, RECORDS, "b")
    append_without_lock(path, RECORDS, "a")
    other.end(PATIENCE_SECONDS)
    lost = _lost_records(path)
    name = f"O_APPEND without a lock, by {stage.our_name} and {other.name}"
    if lost:
        follows = (
            "commands that append to one file (>> results) can lose lines: have each"
            " write its own; mpifarm's files are appended to under the lock"
        )
        return Finding(name, Verdict.BROKEN, lost, follows, ours=False)
    seen = f"all {2 * RECORDS} records are there, whole"
    return Finding(name, Verdict.HOLDS, seen, ours=False)


def _lost_records(path: str) -> str:
    """What is not as two that appended `RECORDS` each must have left it; "" if all."""
    there = (files.find_content(path) or b"").splitlines(keepends=True)
    wanted = {record(name, number) for name in "ab" for number in range(RECORDS)}
    lost, foreign = len(wanted - set(there)), len(set(there) - wanted)
    if not lost and not foreign and len(there) == len(wanted):
        return ""
    return f"{lost} of {len(wanted)} records are lost, {foreign} lines are torn"


@contextmanager
def _held(stage: Stage) -> Iterator[None]:
    if not stage.us.take(stage.lock, PATIENCE_SECONDS):
        raise FarmError(f"the lock {stage.lock} could not be had")
    try:
        yield
    finally:
        stage.us.release(stage.lock)


# ---- clocks -------------------------------------------------------------------------

MOST_SKEW = 20.0
"""Seconds by which a heartbeat may look old at once: a third of the limit."""


def check_heartbeat(stage: Stage, other: Other) -> Finding:
    """Whether what one has touched looks fresh to the other, both ways."""
    path = stage.path("heartbeat")
    touch(path)
    ages = [ask(other, "age", path)]
    ask(other, "touch", path)
    ages.append(stage.us.age(path))
    worst = max(ages, key=abs)
    name = f"heartbeats between {stage.our_name} and {other.name}"
    seen = f"a fresh one looks {worst:.2f} s old"
    if abs(worst) > MOST_SKEW:
        follows = (
            "a farm that lives could be taken for dead (after"
            f" {claims.HEARTBEAT_LIMIT:g} s) and its tasks run twice: have the clocks"
            " of the nodes set (NTP)"
        )
        return Finding(name, Verdict.BROKEN, seen, follows)
    return Finding(name, Verdict.HOLDS, seen, weight=abs(worst))


def check_file_clock(stage: Stage) -> Finding:
    """What the file system's clock says, and ours."""
    skew = claims.read_file_clock(stage.directory) - time.time()
    seen = f"{skew:+.3f} s against this node's clock"
    follows = ""
    if abs(skew) > 1.0:
        follows = "times in the workdir's files and ls differ by that; nothing else"
    name = "clock of the file system"
    return Finding(name, Verdict.MEASURED, seen, follows, weight=abs(skew))


# ---- alone --------------------------------------------------------------------------


def check_fsync(stage: Stage) -> Finding:
    """Whether fsync works, and how long it takes."""
    path, seconds = stage.path("synced"), []
    for number in range(SYNCS):
        begun = time.monotonic()
        files.append(path, record("s", number), sync=True)
        seconds.append(time.monotonic() - begun)
    middle = median(seconds)
    seen = f"works; median {_ms(middle)}, longest {_ms(max(seconds))}"
    follows = ""
    if middle > 0.05:
        follows = (
            "results go to disk a few at a time; lists of very short tasks run slower,"
            " nothing is lost"
        )
    return Finding("fsync", Verdict.HOLDS, seen, follows, weight=middle)


def check_whole_replacement(stage: Stage, other: Other) -> Finding:
    """Whether a reader without the lock ever sees a file that is neither."""
    path = stage.path("flipped")
    old, new = b"a" * 9000 + b"\n", b"b" * 9000 + b"\n"
    files.replace(path, path + ".beside", old)
    other.begin("flip", path, old.decode(), new.decode(), 200)
    odd = reads = 0
    for _ in range(200):
        reads += 1
        odd += files.find_content(path) not in (old, new)
    other.end(PATIENCE_SECONDS)
    name = "rename is atomic"
    if odd:
        follows = "a kill in that moment could lose the queue: use another file system"
        return Finding(
            name, Verdict.BROKEN, f"{odd} of {reads} reads saw none", follows
        )
    return Finding(name, Verdict.HOLDS, f"{reads} reads saw the old or the new file")


def check_room(stage: Stage) -> Finding:
    """What is free, and whether a MiB can be written."""
    files.write_beside(stage.path("room"), (b"\0" * (1 << 20),))
    status = os.statvfs(stage.directory)
    free = status.f_bavail * status.f_frsize
    seen = f"{free / (1 << 30):.1f} GiB"
    few = free < LEAST_BYTES
    if status.f_files:
        seen += f", {status.f_favail} files"
        few = few or status.f_favail < LEAST_FILES
    seen += "; 1 MiB written (quota -s, or lfs quota, tells your quota)"
    if few:
        follows = "a farm stops with status 75 when it is full: make room"
        return Finding("free space", Verdict.BROKEN, seen, follows)
    return Finding("free space", Verdict.HOLDS, seen)


# ---- what it is ---------------------------------------------------------------------


def check_mount(stage: Stage, mounts: str = "/proc/self/mountinfo") -> Finding:
    """Which file system it is, and the options that touch our promises."""
    found = find_mount(os.path.realpath(stage.directory), _read(mounts))
    if found is None:
        return Finding("file system", Verdict.UNTESTED, "the mounts can't be read")
    kind, source, options = found
    seen = f"{kind} ({source}), {options}"
    return Finding("file system", Verdict.MEASURED, seen, _mount_warning(kind, options))


def find_mount(path: str, mountinfo: str) -> tuple[str, str, str] | None:
    """Type, source and options of the file system of `path`; proc_pid_mountinfo(5)."""
    best, found = -1, None
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if not separator or len(before) < 6 or len(after) < 2:
            continue
        point = _unescaped(before[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            options = {**dict.fromkeys(before[5].split(","))}
            options.update(dict.fromkeys(after[2].split(",") if after[2:] else ()))
            best, found = len(point), (after[0], after[1], ",".join(options))
    return found


def _unescaped(field: str) -> str:
    for escape, character in (
        ("040", " "),
        ("011", "\t"),
        ("012", "\n"),
        ("134", "\\"),
    ):
        field = field.replace(f"\\{escape}", character)
    return field


def _mount_warning(kind: str, options: str) -> str:
    given = set(options.split(","))
    if kind == "lustre" and "flock" not in given:
        return "mounted without flock: see whether locks exclude between nodes"
    local = {"nolock", "local_lock=flock", "local_lock=all"} & given
    if kind in ("nfs", "nfs4") and local:
        return f"mounted with {local.pop()}: locks exclude on one node only"
    if kind == "gpfs":
        return "flock was seen to exclude on one node only here; see the lines on flock"
    if kind.startswith("beegfs"):
        return "locks exclude on one node only unless tuneUseGlobalFileLocks is set"
    if kind in ("tmpfs", "ramfs", "overlay"):
        return "this is memory, or local to the node: gone with it"
    return ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.1f} s"


# ---- all of them --------------------------------------------------------------------


def check_alone(stage: Stage, child: Other) -> Iterator[Finding]:
    """What one node can see of the file system."""
    yield guard(lambda: check_mount(stage), "file system")
    yield guard(lambda: check_room(stage), "free space")
    yield guard(lambda: check_fsync(stage), "fsync")
    yield guard(lambda: check_file_clock(stage), "clock of the file system")
    yield guard(lambda: check_whole_replacement(stage, child), "rename is atomic")


def check_shared(stage: Stage, other: Other) -> Iterator[Finding]:
    """What two processes, or two ranks, rely on together."""
    checks = {
        "flock": check_flock,
        "a file replaced under the lock": check_rename,
        "a name that was renamed": check_old_name,
        "a replaced file without the lock": check_time_until_seen,
        "O_EXCL": check_exclusive_create,
        "appends under the lock": check_append,
        "O_APPEND without a lock": check_append_without_lock,
        "heartbeats": check_heartbeat,
    }
    for name, check in checks.items():
        yield guard(partial(check, _part(stage, other), other), f"{name}, {other.name}")


def _part(stage: Stage, other: Other) -> Stage:
    """A directory for this pair, so that no file is another pair's."""
    directory = stage.path(f"with-{other.name.replace(' ', '-').replace('/', '-')}")
    with suppress(FileExistsError):
        os.mkdir(directory)
    return replace(stage, directory=directory)
