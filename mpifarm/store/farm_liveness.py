"""The liveness of a claim's farm: the one answer, for farms and for subcommands.

Rules of this file: a fact that is not known counts for the farm's life.  A farm holds
an exclusive ``flock`` on its claim, and touches it every 10 s (its heartbeat).
"""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import NamedTuple

from mpifarm.immutable import immutable
from mpifarm.model.paths import clock_file
from mpifarm.store.claim_journal import Head
from mpifarm.system import files

HEARTBEAT_LIMIT = 60.0
"""Seconds without a heartbeat after which a farm on another host counts as dead."""


@immutable
class Machine:
    """The host of a farm, with its means to look up processes and the time.

    `boot_id` is "" if it is unknown.
    """

    host: str
    boot_id: str
    pid: int
    find_process_start: Callable[[int], int | None]
    """Returns the start of a process in ticks since boot, None if it does not live."""
    read_file_clock: Callable[[str], float]
    """Returns the time of a directory's file system, in seconds since the epoch."""


def find_process_start(pid: int) -> int | None:
    """Return the start of a process, in clock ticks since boot.

    Return None for a process that does not exist, and for a zombie, which has ended.
    """
    # Fields 3 (state) and 22 (starttime) of proc_pid_stat(5).
    try:
        line = files.read_from(f"/proc/{pid}/stat")
    except OSError:
        return None
    fields = line[line.rfind(b")") + 2 :].split()
    if len(fields) < 20:  # it went while it was asked for
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def read_file_clock(directory: str) -> float:
    """Return the time of a file system, in seconds since the epoch.

    On a file server that is the server's clock, the one of heartbeats.  Make, touch and
    remove a file in `directory` for that.  Raises `StorageError`.
    """
    path = clock_file(directory, os.getpid())
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
    """Return the machine of this process."""
    try:
        boot_id = files.read_from("/proc/sys/kernel/random/boot_id").decode().strip()
    except OSError:
        boot_id = ""
    return Machine(
        socket.gethostname(), boot_id, os.getpid(), find_process_start, read_file_clock
    )


class ClaimLock(Enum):
    """The state of the ``flock`` on a claim, as far as it is known."""

    HELD = "held"
    """Another process holds the lock."""
    TAKEN = "taken"
    """This process has just taken the lock."""
    UNTRIED = "untried"
    """This process did not try, or the answer proves nothing."""


class FarmLiveness(Enum):
    """The state of a claim's farm, as far as it is known."""

    HOLDS_LOCK = "holds the lock of its claim"
    RUNNING = "its process runs"
    UNCERTAIN = "may be at work"
    """The farm is on another machine, and had a heartbeat within the limit."""
    DEAD = "dead"
    DAMAGED = "damaged"
    """The claim cannot be understood, and no process is known to own the claim."""

    @property
    def is_at_work(self) -> bool:
        """Whether the farm is alive for certain."""
        return self in (FarmLiveness.HOLDS_LOCK, FarmLiveness.RUNNING)

    @property
    def may_live(self) -> bool:
        """Whether the tasks of the farm must not be touched."""
        return self.is_at_work or self is FarmLiveness.UNCERTAIN


class ClaimEvidence(NamedTuple):
    """The facts by which a farm is taken for alive or dead.

    `head` is None if the claim has no head that can be read.  `find_age` returns the
    seconds since the last heartbeat, by the clock of the file system; it writes a file
    there.
    """

    head: Head | None
    is_damaged: bool
    lock: ClaimLock
    find_age: Callable[[], float]


def assess_liveness(evidence: ClaimEvidence, machine: Machine) -> FarmLiveness:
    """Return the liveness of a claim's farm, as `machine` can know it.

    The claim's lock decides first, then on the same boot the farm's process, else the
    age of its heartbeat.  Raises what `find_age` raises.
    """
    head, is_damaged, lock, find_age = evidence
    if lock is ClaimLock.HELD:
        return FarmLiveness.HOLDS_LOCK
    gone = FarmLiveness.DAMAGED if is_damaged else FarmLiveness.DEAD
    if head is None:
        # Claims are created under the main lock, which the taker of `lock` holds: so
        # the creator was killed before its first line was whole, and took nothing.
        is_gone = is_damaged or lock is ClaimLock.TAKEN
        return gone if is_gone else FarmLiveness.UNCERTAIN
    if machine.boot_id and head.boot_id == machine.boot_id:
        start = machine.find_process_start(head.pid)
        runs = start is not None and start == head.process_start
        return FarmLiveness.RUNNING if runs else gone
    return FarmLiveness.UNCERTAIN if find_age() <= HEARTBEAT_LIMIT else gone
