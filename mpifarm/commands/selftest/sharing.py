"""The checks of the file system between rank 0 and a rank on another host.

Rules of this file: those of `storage`.  A public function without ``check_`` is one
that the other rank can be asked for.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress

from mpifarm.commands.selftest.calls import Rank
from mpifarm.commands.selftest.findings import (
    SelfTestFinding,
    broken,
    holds,
    measured,
    run_check,
)
from mpifarm.commands.selftest.storage import (
    FREE_SECONDS,
    LOCK_REMEDY,
    LOCK_SECONDS,
    Stage,
    find_lock,
    in_ms,
    release,
    take,
)
from mpifarm.errors import FarmError
from mpifarm.store import farm_liveness
from mpifarm.system import files

RECORDS = 50
"""Appended by each of two at the same time."""

ROUNDS = 10

SEEN_SECONDS = 5.0
"""How long to wait for the other to see a change without the lock."""

POLL_SECONDS = 0.002

MAX_SKEW = 20.0
"""Seconds by which a heartbeat may look old at once: a third of the limit."""


def check_shared(stage: Stage, other: Rank) -> Iterator[SelfTestFinding]:
    """Yield the findings of this rank and another one."""
    # A directory for this pair, so that no file is another pair's.
    pair = stage._replace(directory=stage.path(f"with-{other.name.replace(' ', '-')}"))
    with suppress(FileExistsError):
        os.mkdir(pair.directory)
    for name, check in _CHECKS.items():
        yield run_check(name.format(other.name), check, pair, other)


# ---- the lock -----------------------------------------------------------------------


def hold(stage: Stage) -> AbstractContextManager[None]:
    """Hold all locks that a farm would take for the directory."""
    return find_lock(stage.lock_files()).hold(LOCK_SECONDS)


def check_flock(stage: Stage, other: Rank) -> SelfTestFinding:
    """Return whether any of the lock files of a farm excludes the other one."""
    ours, theirs = stage.lock_files(), other.ask(stage.lock_files)
    # The workdir's own lock is the last; only one of the two may have a lock area.
    troubles = {
        mine: _try_exclusion(other, mine, its)
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


def _try_exclusion(other: Rank, mine: str, its: str) -> str:
    """Return what is wrong with a lock file, "" if nothing."""
    where, trouble = os.path.dirname(mine), ""
    try:
        if not take((mine,), LOCK_SECONDS):
            trouble = f"flock in {where} can't be taken at all"
        elif other.ask(take, (its,), 0.1):
            trouble = f"flock in {where} does not exclude: both held it at once"
        else:
            release((mine,))
            if not other.ask(take, (its,), FREE_SECONDS):
                trouble = f"flock in {where} stays taken after its release"
            elif take((mine,), 0.1):
                trouble = f"flock in {where} excludes in one direction only"
    except (FarmError, OSError) as error:
        trouble = str(error)
    release((mine,))
    other.ask(release, (its,))
    return trouble


# ---- what the other one sees --------------------------------------------------------


def replace(stage: Stage, name: str, content: bytes) -> None:
    """Replace a file as a farm does."""
    files.replace(stage.path(name), stage.path(f"{name}.beside"), content)


def read_locked(stage: Stage, name: str) -> bytes | None:
    """Return the file as the next holder of the lock reads it."""
    with hold(stage):
        return files.find_content(stage.path(name))


def check_rename(stage: Stage, other: Rank) -> SelfTestFinding:
    """Return whether the next holder of the lock reads what the last one renamed."""
    for number in range(ROUNDS):
        text = b"version %d\n" % number
        with hold(stage):
            replace(stage, "replaced", text)
        read = other.ask(read_locked, stage, "replaced")
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


def check_old_name(stage: Stage, other: Rank) -> SelfTestFinding:
    """Return whether a name that was renamed is gone for the other one, too."""
    path, beside = stage.path("named"), stage.path("named.beside")
    files.write_staging_file(beside, (b"new\n",))
    if not other.ask(files.exists, beside):
        return broken("it doesn't see the new file", _NAME_REMEDY)
    files.rename(beside, path)
    if not other.ask(files.exists, beside):
        return holds("at once")
    seconds = _seconds_until(lambda: not other.ask(files.exists, beside))
    if seconds is None:
        return broken(f"it sees the old name after {SEEN_SECONDS:g} s", _NAME_REMEDY)
    return broken(f"only after {in_ms(seconds)} (names are cached)", _NAME_REMEDY)


def check_time_until_seen(stage: Stage, other: Rank) -> SelfTestFinding:
    """Measure how long the other one, without the lock, sees the file as it was."""
    path = stage.path("watched")
    replace(stage, "watched", b"old\n")
    other.ask(files.find_content, path)  # into its cache
    replace(stage, "watched", b"new\n")
    seconds = _seconds_until(lambda: other.ask(files.find_content, path) == b"new\n")
    if seconds is not None:
        return measured(f"after {in_ms(seconds)}")
    return measured(
        f"not within {SEEN_SECONDS:g} s (attributes are cached)",
        "a file named drain, and what others append, is noticed that much later",
    )


def _seconds_until(is_seen: Callable[[], bool]) -> float | None:
    """Return the seconds until something is seen, None if it is not in time."""
    begun = time.monotonic()
    while not is_seen():
        if time.monotonic() - begun > SEEN_SECONDS:
            return None
        time.sleep(POLL_SECONDS)
    return time.monotonic() - begun


# ---- appending ----------------------------------------------------------------------


def append_locked(stage: Stage, path: str, records: Sequence[bytes]) -> None:
    """Append records as a farm does: each under the lock."""
    for record in records:
        with hold(stage):
            files.append(path, record, sync=False)


def append(_stage: Stage, path: str, records: Sequence[bytes]) -> None:
    """Append records as ``>>`` does."""
    for record in records:
        with files.opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as descriptor:
            os.write(descriptor, record)


def check_append(stage: Stage, other: Rank) -> SelfTestFinding:
    """Return whether appends under the lock, as farms make them, lose nothing."""
    if lost := _append_together(stage, other, append_locked):
        return broken(lost, "results of tasks would be lost; " + LOCK_REMEDY)
    return holds(f"all {2 * RECORDS} records are there, whole")


def check_append_without_lock(stage: Stage, other: Rank) -> SelfTestFinding:
    """Measure whether O_APPEND loses nothing; only commands with ``>>`` rely on it."""
    if lost := _append_together(stage, other, append):
        return measured(
            lost,
            "commands that append to one file (>> results) can lose lines: have each"
            " write its own; mpifarm's files are appended to under the lock",
        )
    return measured(f"all {2 * RECORDS} records are there, whole")


def _append_together(
    stage: Stage, other: Rank, append: Callable[[Stage, str, Sequence[bytes]], None]
) -> str:
    """Append from both at the same time.  Return what is lost, "" if nothing."""
    path = stage.path(append.__name__)
    ours, theirs = (
        [b"%s %d\n" % (name, number) for number in range(RECORDS)]
        for name in (b"a", b"b")
    )
    touch(path)
    other.begin(append, stage, path, theirs)
    append(stage, path, ours)
    other.end()
    with hold(stage):
        there = (files.find_content(path) or b"").splitlines(keepends=True)
    if sorted(there) == sorted(ours + theirs):
        return ""
    lost = len({*ours, *theirs}.difference(there))
    torn = len(set(there).difference(ours, theirs))
    return f"{lost} of {2 * RECORDS} records are lost, {torn} lines are torn"


# ---- clocks -------------------------------------------------------------------------


def touch(path: str) -> None:
    """Write a heartbeat."""
    with files.opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
        files.touch(descriptor, path)


def age(path: str) -> float:
    """Return the seconds since a heartbeat, as a farm reckons them."""
    with files.opened(path, os.O_RDONLY) as descriptor:
        touched = os.fstat(descriptor).st_mtime
    return farm_liveness.read_file_clock(os.path.dirname(path)) - touched


def check_heartbeat(stage: Stage, other: Rank) -> SelfTestFinding:
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
    return holds(seen)


_CHECKS = {
    "flock between this process and {}": check_flock,
    "a file replaced under the lock is read by {}": check_rename,
    "a name that was renamed is gone for {}": check_old_name,
    "a replaced file is seen by {} without the lock": check_time_until_seen,
    "appends under the lock, by this process and {}": check_append,
    "O_APPEND without a lock, by this process and {}": check_append_without_lock,
    "heartbeats between this process and {}": check_heartbeat,
}
