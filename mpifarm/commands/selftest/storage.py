"""The checks of the file system: alone, and between this process and another one.

Rules of this file: a check returns one finding, and lets OSError and FarmError pass
(`run_check`).  Files are written by the farm's own functions.  What follows from a
finding is what a farm would suffer, with the remedy.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from statistics import median
from typing import NamedTuple

from mpifarm.commands.selftest.actions import (
    LockPlace,
    age,
    append,
    append_locked,
    await_content,
    create,
    flip,
    hold,
    read_locked,
    record,
    release,
    take,
    touch,
)
from mpifarm.commands.selftest.findings import (
    SelfTestFinding,
    broken,
    holds,
    measured,
    run_check,
    untested,
)
from mpifarm.commands.selftest.helpers import (
    PATIENCE_SECONDS,
    POLL_SECONDS,
    Helper,
)
from mpifarm.errors import FarmError
from mpifarm.store import farm_liveness
from mpifarm.system import files

RECORDS = 50
"""Appended by each of two at the same time."""

ROUNDS = 10
SYNCS = 20
READS = 200

FREE_SECONDS = 5.0
"""Within which a lock has to be free after its holder was killed."""

SEEN_SECONDS = 5.0
"""How long to wait for the other to see a change without the lock."""

LOCK_REMEDY = (
    "two farms on one workdir could run a task twice: give all of them --lock-area (or"
    " $SCRATCH) on a file system where flock does exclude, or start only one"
)

MIN_BYTES = 100 << 20
MIN_FILES = 1000

MAX_SKEW = 20.0
"""Seconds by which a heartbeat may look old at once: a third of the limit."""

SLOW_SYNC = 0.05


class Stage(NamedTuple):
    """The directory of a check, and the lock area of its farms."""

    directory: str
    lock_area: str | None = None

    @property
    def lock(self) -> LockPlace:
        """Return all locks that a farm would take for the directory."""
        return LockPlace(self.directory, self.lock_area)

    def path(self, name: str) -> str:
        """Return a file in the directory."""
        return f"{self.directory}/{name}"

    def replace(self, name: str, content: bytes) -> str:
        """Replace a file as a farm does, and return its path."""
        path = self.path(name)
        files.replace(path, path + ".beside", content)
        return path


# ---- the lock -----------------------------------------------------------------------


def check_flock(stage: Stage, other: Helper) -> SelfTestFinding:
    """Return whether any of the lock files of a farm excludes the other one."""
    ours, theirs = stage.lock.files(), other.ask(stage.lock.files)
    # The workdir's own lock is the last; only one of the two may have a lock area.
    troubles = {
        mine: _try_exclusion(other, LockPlace(mine), LockPlace(its))
        for mine, its in zip(reversed(ours), reversed(theirs), strict=False)
    }
    seen = "; ".join(filter(None, troubles.values()))
    if not seen:
        return holds("the holder of the lock keeps the other out")
    if all(troubles.values()):
        return broken(seen, LOCK_REMEDY)
    own, area = ours[-1], os.path.dirname(ours[0])
    if troubles[own]:
        return holds(
            seen, f"the lock that excludes is in {area}: all farms must have it"
        )
    return holds(
        seen,
        f"mpifarm takes the workdir's lock as well; PyTaskFarmers that have only {area}"
        " do not exclude each other: set SCRATCH to a directory that all nodes share",
    )


def _try_exclusion(other: Helper, mine: LockPlace, its: LockPlace) -> str:
    """Return what is wrong with a lock file, "" if nothing."""
    try:
        return _exclude_each_other(other, mine, its)
    except (FarmError, OSError) as error:
        return f"no flock on {mine.path} ({error})"
    finally:
        release(mine)
        other.ask(release, its)


def _exclude_each_other(other: Helper, mine: LockPlace, its: LockPlace) -> str:
    where = os.path.dirname(mine.path)
    if not take(mine, PATIENCE_SECONDS):
        return f"flock in {where} can't be taken at all"
    if other.ask(take, its, 0.1):
        return f"flock in {where} does not exclude: both held it at once"
    release(mine)
    if not other.ask(take, its, FREE_SECONDS):
        return f"flock in {where} stays taken after its release"
    if take(mine, 0.1):
        return f"flock in {where} excludes in one direction only"
    return ""


def check_release_at_kill(stage: Stage, other: Helper) -> SelfTestFinding:
    """Kill `other` while it holds the lock; return whether the lock is free soon."""
    lock = stage.lock
    if not other.ask(take, lock, PATIENCE_SECONDS):
        return untested("it could not take the lock")
    if take(lock, 0.1):
        release(lock)
        return untested("flock does not exclude here")
    other.die()
    begun = time.monotonic()
    is_free = take(lock, FREE_SECONDS)
    seconds = time.monotonic() - begun
    release(lock)
    if is_free:
        return holds(f"after {_ms(seconds)}", weight=seconds)
    return broken(
        f"still taken {FREE_SECONDS:g} s later",
        "after a kill no farm can start here until the lock is free: use --lock-area"
        " on another file system",
    )


# ---- what the other one sees --------------------------------------------------------


def check_rename(stage: Stage, other: Helper) -> SelfTestFinding:
    """Return whether the next holder of the lock reads what the last one renamed."""
    for number in range(ROUNDS):
        text = f"version {number}\n"
        with hold(stage.lock):
            path = stage.replace("replaced", text.encode())
        read = other.ask(read_locked, path, stage.lock)
        if read != text:
            return broken(
                f"it read {read!r} for {text!r}",
                "a farm that reads an old toprocess runs tasks twice: use one farm for"
                " each workdir here, or a workdir on another file system",
            )
    return holds(f"{ROUNDS} times of {ROUNDS}")


_NAME_REMEDY = (
    "a farm that ends may be misjudged by another one for that time: mount with"
    " lookupcache=none, or start the next farm a minute later"
)


def check_old_name(stage: Stage, other: Helper) -> SelfTestFinding:
    """Return whether a name that was renamed is gone for the other one, too."""
    path, beside = stage.path("named"), stage.path("named.beside")
    files.write_staging_file(beside, (b"new\n",))
    if not other.ask(files.exists, beside):
        return broken("it doesn't see the new file", _NAME_REMEDY)
    files.rename(beside, path)
    begun, tries = time.monotonic(), 1
    while other.ask(files.exists, beside):
        if time.monotonic() - begun > SEEN_SECONDS:
            return broken(
                f"it sees the old name after {SEEN_SECONDS:g} s", _NAME_REMEDY
            )
        tries += 1
        time.sleep(POLL_SECONDS)
    if tries > 1:
        seen = f"only after {_ms(time.monotonic() - begun)} (names are cached)"
        return broken(seen, _NAME_REMEDY)
    return holds("at once")


def check_time_until_seen(stage: Stage, other: Helper) -> SelfTestFinding:
    """Measure how long the other one, without the lock, sees the file as it was."""
    path = stage.replace("watched", b"old\n")
    other.begin(await_content, path, b"new\n", SEEN_SECONDS)
    time.sleep(0.05)
    stage.replace("watched", b"new\n")
    begun = time.monotonic()
    if other.end(SEEN_SECONDS):
        seconds = time.monotonic() - begun
        return measured(f"after {_ms(seconds)}", weight=seconds)
    return measured(
        f"not within {SEEN_SECONDS:g} s (attributes are cached)",
        "a file named drain, and what others append, is noticed that much later",
    )


def check_exclusive_create(stage: Stage, other: Helper) -> SelfTestFinding:
    """Return whether the second of two that create a file is told so."""
    path = stage.path("exclusive")
    os.close(files.create_exclusively(path))
    if other.ask(create, path):
        return broken(
            "both created the same file",
            "two farms could have one claim: use one farm for each workdir here",
        )
    return holds("the second is told that the file exists")


def check_whole_replacement(stage: Stage, other: Helper) -> SelfTestFinding:
    """Return whether a reader without the lock always sees a whole file."""
    old, new = b"a" * 9000 + b"\n", b"b" * 9000 + b"\n"
    path = stage.replace("flipped", old)
    other.begin(flip, path, old, new, READS)
    odd = sum(files.find_content(path) not in (old, new) for _ in range(READS))
    other.end(PATIENCE_SECONDS)
    if odd:
        return broken(
            f"{odd} of {READS} reads saw none",
            "a kill in that moment could lose the queue: use another file system",
        )
    return holds(f"{READS} reads saw the old or the new file")


# ---- appending ----------------------------------------------------------------------


def check_append(stage: Stage, other: Helper) -> SelfTestFinding:
    """Return whether appends under the lock, as farms make them, lose nothing."""
    path = stage.path("appended")
    other.begin(append_locked, path, stage.lock, RECORDS, "b")
    append_locked(path, stage.lock, RECORDS, "a")
    other.end(PATIENCE_SECONDS)
    with hold(stage.lock):
        lost = _lost_records(path)
    if lost:
        return broken(lost, "results of tasks would be lost; " + LOCK_REMEDY)
    return holds(f"all {2 * RECORDS} records are there, whole")


def check_append_without_lock(stage: Stage, other: Helper) -> SelfTestFinding:
    """Return whether O_APPEND alone loses nothing, as commands with ``>>`` rely on."""
    path = stage.path("logged")
    touch(path)
    other.begin(append, path, RECORDS, "b")
    append(path, RECORDS, "a")
    other.end(PATIENCE_SECONDS)
    if lost := _lost_records(path):
        return broken(
            lost,
            "commands that append to one file (>> results) can lose lines: have each"
            " write its own; mpifarm's files are appended to under the lock",
        ).as_unpromised()
    return holds(f"all {2 * RECORDS} records are there, whole").as_unpromised()


def _lost_records(path: str) -> str:
    """Return what two that appended `RECORDS` each have lost, "" if nothing."""
    there = (files.find_content(path) or b"").splitlines(keepends=True)
    wanted = {record(name, number) for name in "ab" for number in range(RECORDS)}
    lost, foreign = len(wanted - set(there)), len(set(there) - wanted)
    if not lost and not foreign and len(there) == len(wanted):
        return ""
    return f"{lost} of {len(wanted)} records are lost, {foreign} lines are torn"


# ---- clocks -------------------------------------------------------------------------


def check_heartbeat(stage: Stage, other: Helper) -> SelfTestFinding:
    """Return whether a heartbeat of one looks fresh to the other, both ways."""
    path = stage.path("heartbeat")
    touch(path)
    ages = [other.ask(age, path)]
    other.ask(touch, path)
    ages.append(age(path))
    worst = max(ages, key=abs)
    seen = f"a fresh one looks {worst:.2f} s old"
    if abs(worst) > MAX_SKEW:
        return broken(
            seen,
            "a farm that lives could be taken for dead (after"
            f" {farm_liveness.HEARTBEAT_LIMIT:g} s) and its tasks run twice: have the"
            " clocks of the nodes set (NTP)",
        )
    return holds(seen, weight=abs(worst))


# ---- alone --------------------------------------------------------------------------


def check_fsync(stage: Stage) -> SelfTestFinding:
    """Return whether fsync works, and how long it takes."""
    seconds = []
    for number in range(SYNCS):
        begun = time.monotonic()
        files.append(stage.path("synced"), record("s", number), sync=True)
        seconds.append(time.monotonic() - begun)
    middle = median(seconds)
    follows = (
        "results go to disk a few at a time; lists of very short tasks run slower,"
        " nothing is lost"
    )
    return holds(
        f"works; median {_ms(middle)}, longest {_ms(max(seconds))}",
        follows if middle > SLOW_SYNC else "",
        middle,
    )


def check_room(stage: Stage) -> SelfTestFinding:
    """Return whether there is space for files, and a MiB can be written."""
    files.write_staging_file(stage.path("room"), (b"\0" * (1 << 20),))
    status = os.statvfs(stage.directory)
    free = status.f_bavail * status.f_frsize
    inodes = f", {status.f_favail} files" if status.f_files else ""
    seen = f"{free / (1 << 30):.1f} GiB{inodes}"
    seen += "; 1 MiB written (quota -s, or lfs quota, tells your quota)"
    if free < MIN_BYTES or (inodes and status.f_favail < MIN_FILES):
        return broken(seen, "a farm stops with status 75 when it is full: make room")
    return holds(seen)


# ---- the mount ----------------------------------------------------------------------


class Mount(NamedTuple):
    """A mounted file system."""

    kind: str
    source: str
    options: list[str]


def check_mount(stage: Stage) -> SelfTestFinding:
    """Tell which file system it is, and of options that touch our promises."""
    with open(
        "/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape"
    ) as file:
        mount = find_mount(os.path.realpath(stage.directory), file.read())
    if mount is None:
        return untested("the mounts can't be read")
    seen = f"{mount.kind} ({mount.source}), {','.join(mount.options)}"
    return measured(seen, warn_of_mount(mount))


def find_mount(path: str, mountinfo: str) -> Mount | None:
    """Return the file system of `path`, None if it is not found.

    `mountinfo` has a line for each mount, as proc_pid_mountinfo(5) says.
    """
    longest, found = "", None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if len(before) < 6 or len(after) < 3:
            continue
        # A blank is written as \\040.
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(longest):
            options = [*before[5].split(","), *after[2].split(",")]
            longest = point
            found = Mount(after[0], after[1], [*dict.fromkeys(options)])
    return found


def warn_of_mount(mount: Mount) -> str:
    """Return what a farm should know of the mount, "" if nothing."""
    local = {"nolock", "local_lock=flock", "local_lock=all"} & {*mount.options}
    match mount.kind:
        case "lustre" if "flock" not in mount.options:
            return "mounted without flock: see whether locks exclude between nodes"
        case "nfs" | "nfs4" if local:
            return f"mounted with {local.pop()}: locks exclude on one node only"
        case "gpfs":
            return "flock has excluded on one node only: see the lines on flock"
        case "tmpfs" | "ramfs" | "overlay":
            return "this is memory, or local to the node: gone with it"
    if mount.kind.startswith("beegfs"):
        return "locks exclude on one node only unless tuneUseGlobalFileLocks is set"
    return ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.1f} s"


# ---- all of them --------------------------------------------------------------------

_ALONE = {
    "file system": check_mount,
    "free space": check_room,
    "fsync": check_fsync,
}

_SHARED = {
    "flock between this process and {}": check_flock,
    "a file replaced under the lock is read by {}": check_rename,
    "a name that was renamed is gone for {}": check_old_name,
    "a replaced file is seen by {} without the lock": check_time_until_seen,
    "O_EXCL between this process and {}": check_exclusive_create,
    "appends under the lock, by this process and {}": check_append,
    "O_APPEND without a lock, by this process and {}": check_append_without_lock,
    "heartbeats between this process and {}": check_heartbeat,
}


def check_alone(stage: Stage, child: Helper) -> Iterator[SelfTestFinding]:
    """Yield the findings of one node."""
    for name, check in _ALONE.items():
        yield run_check(name, partial(check, stage))
    replacement = partial(check_whole_replacement, stage, child)
    yield run_check("rename is atomic", replacement)


def check_shared(stage: Stage, other: Helper) -> Iterator[SelfTestFinding]:
    """Yield the findings of two processes, or of two ranks."""
    # A directory for this pair, so that no file is another pair's.
    directory = stage.path(f"with-{re.sub('[ /]', '-', other.name)}")
    with suppress(FileExistsError):
        os.mkdir(directory)
    pair = stage._replace(directory=directory)
    for name, check in _SHARED.items():
        yield run_check(name.format(other.name), partial(check, pair, other))


def check_release(stage: Stage, other: Helper) -> SelfTestFinding:
    """Return whether a lock is free when its holder was killed, with its name."""
    return run_check(
        f"lock free after kill -9 of {other.name}",
        lambda: check_release_at_kill(stage, other),
    )
