"""The one command of a worker: start, wait, terminate, limit its memory.

Rules of this file:

- A process runs one command at a time.  From right after its start until right before
  it is reaped, the command's pid stands in the process's *slot*, a word of shared
  memory.  A KILL of the group that a slot names never hits a pid that was used again.
  While a command is being started, its slot says `STARTING`.
- Signal handlers never raise.  A handler that finds `STARTING` leaves a note, which
  `start_command` reads as soon as it has the pid.
- A command gets default signals, an empty signal mask, a session of its own, and no
  descriptor but 0, 1 and 2: all of ours are close-on-exec, and 0 is /dev/null.
- A limit costs nothing where none is set.
"""

import os
import signal
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from mpifarm.errors import InputError
from mpifarm.system.cgroups import TaskCgroup
from mpifarm.system.processes import (
    GROUP_POLL,
    SETTABLE_SIGNALS,
    children_of,
    group_exists,
    ignore_signal,
    kill_group,
    kill_with_session,
    living_in_group,
    name_of,
)

STARTING = -1
"""The slot's value between the start of a command and the knowledge of its pid."""

MEASURED_SECONDS = 0.02
"""Seconds of a command from which on its peak memory is measured by itself: to fill
100 MB takes longer."""
_WAKE_SECONDS = 2.0
"""Seconds between two interruptions of a call in which a worker waits."""
_WORKERS_OWN_MEMORY = 2**24
"""Bytes of memory that a worker may need beyond those it has when it is made."""
_SRUN_SECONDS = 0.1
"""Seconds in which a helper of srun ends, which lives on a moment after srun."""


class _Running:
    """The state of this process's one command."""

    def __init__(self) -> None:
        self.slot: memoryview = memoryview(array("q", [0]))
        self.last = 0
        """The pid of the task's command, even after its end."""
        self.noted = False
        """Whether a note below is set: one test instead of two for each task."""
        self.note_signal = 0
        self.note_exit = False
        self.terminated = False
        self.ending_signal: int = signal.SIGTERM
        self.memory_limit: int | None = None
        """Bytes for each process of a command."""
        self.cgroup: TaskCgroup | None = None
        """The cgroup for all processes of a command."""
        self.began = 0.0
        """When the last command was started (monotonic)."""
        self.peak = 0
        """The peak of its largest process in KiB, once it is reaped; 0: not known."""
        self.own_peak = 0
        """This process's own peak memory as of the last look, in KiB."""


_running = _Running()


# ---- the command --------------------------------------------------------------------


def publish_command_in(slot: memoryview) -> None:
    """Publish the pid of this process's command in `slot`, one word of type "q"."""
    _running.slot = slot


def start_command(
    argv: Sequence[bytes | str], env: Mapping[bytes, bytes], logfd: int
) -> int:
    """Start a command with its output in `logfd`.  Return its pid.

    A program without a slash is looked up in the PATH of *this* process, not of `env`.
    A signal or exit that was asked for meanwhile follows at once.  Raises OSError if it
    cannot be started, ValueError for a NUL byte.
    """
    slot = _running.slot
    _running.terminated = False
    _running.peak = 0
    _running.began = time.monotonic()
    slot[0] = STARTING
    cgroup = _running.cgroup
    if cgroup is not None:
        cgroup.enter()
    try:
        pid = os.posix_spawnp(
            argv[0],
            tuple(argv),
            env,
            file_actions=(
                (os.POSIX_SPAWN_DUP2, logfd, 1),
                (os.POSIX_SPAWN_DUP2, logfd, 2),
            ),
            setsid=True,
            setsigmask=(),
            setsigdef=SETTABLE_SIGNALS,
        )
    except BaseException:
        slot[0] = 0
        if _running.note_exit:
            exit_with_command()
        raise
    finally:
        if cgroup is not None:
            cgroup.leave()
    slot[0] = _running.last = pid
    if _running.noted:
        _obey_notes()
    return pid


def wait_command(pid: int) -> int:
    """Wait for the command.  Return its status as in `subprocess` (-n: by signal n).

    After `terminate_command`, wait for the whole process group of the command.
    """
    slot = _running.slot
    try:
        # WNOWAIT: the slot is cleared first, so that it never holds a free pid.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        if _running.terminated:
            # Its children may still clean up, and have to stay in reach of a KILL.
            return _wait_with_group(pid)
    finally:
        slot[0] = 0
    return os.waitstatus_to_exitcode(_reap(pid))


def choose_ending_signal(signum: int) -> None:
    """Make `signum` the default signal of `terminate_command`."""
    _running.ending_signal = signum


def terminate_command(signum: int | None = None) -> None:
    """Signal the group of this process's command, even while it is being started.

    The default is the signal of `choose_ending_signal`, else TERM.  Without a command,
    the signal is kept for the next, until `forget_termination`.  A signal handler may
    call this.
    """
    signum = signum or _running.ending_signal
    pid = _running.slot[0]
    if pid > 0:
        _running.terminated = True
        kill_group(pid, signum)
    else:
        _running.note_signal = signum
        _running.noted = True


def forget_termination() -> None:
    """Forget a signal that is kept, and the last command: a new task begins."""
    _running.note_signal = 0
    _running.noted = _running.note_exit
    _running.last = 0


def last_command() -> int:
    """Return the pid of the task's command, running or not, 0 if none was started."""
    return _running.last


def has_left_processes() -> bool:
    """Return whether processes of the task's command live on after its end.

    Processes that have made a session of their own are not seen.  It costs one system
    call if no process is left, and `_SRUN_SECONDS` if an srun seems to be.
    """
    pid = _running.last
    if not pid or not group_exists(pid):
        return False
    left = living_in_group(pid)  # A group of zombies, not yet reaped by init, exists.
    if any(name_of(each) == "srun" for each in left):
        time.sleep(_SRUN_SECONDS)
        left = living_in_group(pid)
    return bool(left)


def exit_with_command() -> None:
    """KILL the command's group and all other children, and exit.

    The own group dies too, if this process leads it.  Returns only while a command is
    being started: then `start_command` calls this.
    """
    pid = _running.slot[0]
    if pid == STARTING:
        _running.note_exit = True
        _running.noted = True
        return
    if pid > 0:
        kill_group(pid, signal.SIGKILL)
    for child in children_of(os.getpid()):
        kill_with_session(child)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def wake_regularly() -> None:
    """Interrupt every blocking call of this process every few seconds, from now on.

    If a signal comes right before a call that blocks, Python runs its handler only
    after the call.  Other remedies (a blocked signal, a descriptor beside the child)
    add a quarter to the cost of starting a task.
    """
    signal.signal(signal.SIGALRM, ignore_signal)
    signal.setitimer(signal.ITIMER_REAL, _WAKE_SECONDS, _WAKE_SECONDS)


def _obey_notes() -> None:
    """Exit, or signal the command, as was asked for while it was being started."""
    if _running.note_exit:
        exit_with_command()
    if _running.note_signal:
        terminate_command(_running.note_signal)
        _running.note_signal = 0
    _running.noted = False


def _wait_with_group(pid: int) -> int:
    """Reap the command, wait for the end of its group.  Return its status."""
    # The pid stays in the slot though it is reaped here: while a process of its group
    # lives the kernel gives it to nobody, and the slot is cleared one poll later.
    status = _reap(pid)
    while group_exists(pid):
        time.sleep(GROUP_POLL)
    return os.waitstatus_to_exitcode(status)


def _reap(pid: int) -> int:
    """Reap a dead child, and record its peak.  Return its status as `os.waitpid`.

    The peak of a command of less than `MEASURED_SECONDS` is not asked for, unless a
    limit is set: Python's wait4 takes 7 us more.
    """
    if (
        _running.memory_limit is None
        and time.monotonic() - _running.began < MEASURED_SECONDS
    ):
        return os.waitpid(pid, 0)[1]
    _, status, usage = os.wait4(pid, 0)
    _running.peak = usage.ru_maxrss
    return status


# ---- its memory ---------------------------------------------------------------------


def start_commands_in(cgroup: TaskCgroup) -> None:
    """Have all commands of this process start in this cgroup."""
    _running.cgroup = cgroup


def limit_memory(limit: int) -> int:
    """Limit the memory of this process, and of each that it starts, to `limit` bytes.

    Return the limit that holds: the user's own (ulimit -d) may be lower.  The kernel
    counts private memory that a process may write to (RLIMIT_DATA in getrlimit(2)).
    Raises InputError if this process itself needs more.
    """
    import resource

    # Not RLIMIT_AS: it counts reserved address space, too.  Go, Java and CUDA reserve
    # much more than they use, and would end at their start.
    own = _own_memory() + _WORKERS_OWN_MEMORY
    if limit < own:
        raise InputError(
            f"--task-memory is {limit >> 20} MB, and a worker itself needs"
            f" {(own >> 20) + 1} MB: give --task-memory {(own >> 20) + 1}M or more"
        )
    lower, most = _allowed_limits(limit)
    # The hard limit too: else a command could lift the soft one.
    resource.setrlimit(resource.RLIMIT_DATA, (lower, most))
    _running.memory_limit = lower
    return lower


@contextmanager
def as_if_limited(limit: int | None) -> Iterator[None]:
    """Have `memory_limit` return what `limit_memory` would set, for a block.

    No limit is set; None: there would be none.
    """
    kept = _running.memory_limit
    _running.memory_limit = None if limit is None else _allowed_limits(limit)[0]
    try:
        yield
    finally:
        _running.memory_limit = kept


def _allowed_limits(limit: int) -> tuple[int, int]:
    """Return the soft and the hard limit for `limit`: the user's own may be lower."""
    import resource

    soft, hard = (
        limit if each == resource.RLIM_INFINITY else min(limit, each)
        for each in resource.getrlimit(resource.RLIMIT_DATA)
    )
    return soft, hard


def memory_limit() -> int | None:
    """Return the memory limit of each process of a command in bytes, None if none."""
    return _running.memory_limit


def peak_memory(highest: int = 0) -> int:
    """Return the peak memory of the last command's largest process in bytes.

    Return 0 if it is not known, or not larger than this process.  `highest` (KiB)
    counts for a command that was not measured by itself.
    """
    return _peak_above_own(_running.peak or highest)


def _peak_above_own(kibibytes: int) -> int:
    """Return a child's peak in bytes, 0 if it is not above this process's own.

    Until its exec a child shares this process's memory, and its peak begins there
    (``setmax_mm_hiwater_rss`` in Linux, fs/exec.c).
    """
    if kibibytes <= _running.own_peak:
        return 0
    from resource import RUSAGE_SELF, getrusage

    # It only grows: most commands are below what it was at an earlier look.
    _running.own_peak = getrusage(RUSAGE_SELF).ru_maxrss
    return kibibytes * 1024 if kibibytes > _running.own_peak else 0


def _own_memory() -> int:
    """Return about how many bytes the kernel counts against this process's limit."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")
