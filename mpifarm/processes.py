"""The owner of child processes: fork, start, wait, signal, kill.

Rules of this file:

- Nobody else forks, spawns, waits or kills; `supervise` alone starts the launcher.
- A process runs one command at a time.  Its pid stands in the process's *slot*, a word
  of shared memory, from right after its start until right before its pid is reaped: who
  KILLs the group named in a slot never hits a reused pid.  While a command is being
  started the slot says `STARTING`.
- Signal handlers of ours never raise.  One that finds `STARTING` leaves a note, which
  `start_command` reads as soon as it knows the pid.
- A command gets default signals, an empty signal mask, a session of its own, and no
  descriptor but 0, 1 and 2: all of ours are close-on-exec, and 0 is /dev/null.
- What limits a command costs nothing where no limit is asked for.
"""

import os
import signal
import sys
import time
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence

from mpifarm.errors import InputError

STARTING = -1
"""What a slot says between the start of a command and the knowledge of its pid."""

_SETTABLE = tuple(
    int(signum)
    for signum in signal.valid_signals()
    if signum not in (signal.SIGKILL, signal.SIGSTOP)
)
_DEFECTS = (
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGABRT,
    signal.SIGTRAP,
    signal.SIGSYS,
)
"""Signals that a process gets for its own defects: one that lets them pass spins."""
_WAKE_SECONDS = 2.0
"""Between two interruptions of whatever a process of ours waits for."""
_GROUP_POLL = 0.002
"""Seconds between two looks at a group that is ending."""
_ROOM = 2**24
"""Bytes of memory that a worker may need beyond what it has when it is made."""


class _Running:
    """What this process knows of its one command."""

    def __init__(self) -> None:
        self.slot: memoryview = memoryview(array("q", [0]))
        self.last = 0
        """The pid of the task's command, after its end as well."""
        self.noted = False
        """One of the two notes below is set: the one test on the fast path."""
        self.note_signal = 0
        self.note_leave = False
        self.terminated = False
        self.ending_signal: int = signal.SIGTERM
        self.memory_limit: int | None = None
        """Bytes for each process of a command."""
        self.peak_memory = 0


_running = _Running()
_old_streams: list[object] = []


# ---- commands: in a worker ----------------------------------------------------------


def publish_command_in(slot: memoryview) -> None:
    """From now on the pid of this process's command stands in `slot` (one 'q' word)."""
    _running.slot = slot


def start_command(
    argv: Sequence[bytes | str], env: Mapping[bytes, bytes], logfd: int
) -> int:
    """Start a command with its output in `logfd`; its pid.

    A name without a slash is looked for in the PATH of *this* process.  Raises OSError
    if it can't be started, ValueError for a NUL byte.
    """
    slot = _running.slot
    _running.terminated = False
    _running.peak_memory = 0
    slot[0] = STARTING
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
            setsigdef=_SETTABLE,
        )
    except BaseException:
        slot[0] = 0
        if _running.note_leave:
            leave_with_command()
        raise
    slot[0] = _running.last = pid
    if _running.noted:
        _heed_notes()
    return pid


def wait_command(pid: int) -> int:
    """Wait for the command; its status as in `subprocess` (-n: killed by signal n).

    A command that `terminate_command` has signalled has ended when its whole group has:
    its children may still be cleaning up, and stay within reach of a KILL meanwhile.
    """
    slot = _running.slot
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        if _running.terminated:
            return _wait_with_group(pid)
    finally:
        slot[0] = 0
    return os.waitstatus_to_exitcode(_reap(pid))


def choose_ending_signal(signum: int) -> None:
    """From now on this is the signal with which `terminate_command` ends a command."""
    _running.ending_signal = signum


def terminate_command(signum: int | None = None) -> None:
    """Signal the group of this process's command, even one not quite started yet.

    With the chosen signal (TERM) if none is given.  May be called in a signal handler.
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
    """A new task begins: what was meant for the one before does not hit its command."""
    _running.note_signal = 0
    _running.noted = _running.note_leave
    _running.last = 0


def last_command() -> int:
    """The pid that the task's command has, or had; 0 if none was started here."""
    return _running.last


def leave_with_command() -> None:
    """KILL the command's group and all other children, and exit.

    Returns only if a command is just being started: then `start_command` does it.
    """
    pid = _running.slot[0]
    if pid == STARTING:
        _running.note_leave = True
        _running.noted = True
        return
    if pid > 0:
        kill_group(pid, signal.SIGKILL)
    for child in children_of(os.getpid()):
        _kill_child(child)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def wake_regularly() -> None:
    """Interrupt whatever this process waits for every few seconds, from now on.

    A handler of Python's does not run when its signal comes right before a call that
    blocks, but after it.  To block the signal and wait for it would cost each task a
    fourth of what its start costs; so does a look at a descriptor beside the child.
    """
    signal.signal(signal.SIGALRM, let_pass)
    signal.setitimer(signal.ITIMER_REAL, _WAKE_SECONDS, _WAKE_SECONDS)


def _heed_notes() -> None:
    if _running.note_leave:
        leave_with_command()
    if _running.note_signal:
        terminate_command(_running.note_signal)
        _running.note_signal = 0
    _running.noted = False


def _wait_with_group(pid: int) -> int:
    # The pid stays in the slot though it is reaped here: while a process of its group
    # lives the kernel gives it to nobody, and the slot is cleared one poll later.
    status = _reap(pid)
    while group_exists(pid):
        time.sleep(_GROUP_POLL)
    return os.waitstatus_to_exitcode(status)


def _reap(pid: int) -> int:
    """The wait status of a dead child; where memory is limited, its peak is noted."""
    if _running.memory_limit is None:
        return os.waitpid(pid, 0)[1]
    _, status, usage = os.wait4(pid, 0)
    _running.peak_memory = usage.ru_maxrss * 1024
    return status


# ---- memory: in a worker ------------------------------------------------------------


def limit_memory(limit: int) -> int:
    """Bytes that this process, and each that it starts, may have from now on.

    Returns the limit that holds: one that the user has set (ulimit -d) may be lower.
    The kernel counts what a process may write to and shares with nobody (RLIMIT_DATA).
    It does not count address space that is only reserved: Go, Java and CUDA reserve
    much more than they use, so RLIMIT_AS would end them at their start.

    Raises InputError if this process itself has more, or needs it: soft and hard limit
    are one, so that nobody lifts it, and a worker goes on after its commands.
    """
    import resource

    own = _own_memory() + _ROOM
    if limit < own:
        raise InputError(
            f"--task-memory is {limit >> 20} MB, and a worker itself needs"
            f" {(own >> 20) + 1} MB: give more"
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lower = limit if soft == resource.RLIM_INFINITY else min(limit, soft)
    most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (lower, most))
    _running.memory_limit = lower
    return lower


def memory_limit() -> int | None:
    """The bytes that each process of a command may have, if they are limited."""
    return _running.memory_limit


def peak_memory() -> int:
    """Bytes that the largest process of the last command had in memory at its peak.

    0 where nothing is known: it was not limited, or is somebody else's child.
    """
    import resource

    # A child's begins with that of the worker, whose memory it shared until its exec.
    own: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return _running.peak_memory if _running.peak_memory > own else 0


def _own_memory() -> int:
    """Bytes that the kernel counts of this process, about."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")


# ---- groups and children ------------------------------------------------------------


def kill_group(pid: int, signum: int) -> bool:
    """Signal the process group `pid`; False if there is none (or none of ours)."""
    try:
        os.killpg(pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def group_exists(pid: int) -> bool:
    """Whether the process group has a process, be it a zombie."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def living_in_group(group: int) -> list[int]:
    """The living processes of a group, other than its leader."""
    return [
        pid
        for pid in _all_pids()
        if pid != group and group_of(pid) == group and is_alive(pid)
    ]


def group_of(pid: int) -> int:
    """The process group of a process; 0 if it is gone."""
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def kill_process(pid: int, signum: int) -> None:
    """Signal one process, if it is still there."""
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        return


def kill_together(pids: Collection[int]) -> None:
    """KILL these; none goes on meanwhile: a shell would start its next command."""
    for signum in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            kill_process(pid, signum)


def await_group_end(pid: int, seconds: float) -> bool:
    """Wait until the group is gone, and reap our children in it; False: it lives."""
    deadline = time.monotonic() + seconds
    while True:
        _reap_group(pid)
        if not group_exists(pid):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_GROUP_POLL)


def find_dead_child(pid: int | None = None) -> int | None:
    """A child (or this child) that has died and is not reaped yet; it stays so."""
    kind, wanted = (os.P_ALL, 0) if pid is None else (os.P_PID, pid)
    try:
        dead = os.waitid(kind, wanted, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if dead is None else dead.si_pid


def reap_child(pid: int) -> int | None:
    """Wait for a child; its status as in `subprocess`, None if it isn't our child."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None


def reap_child_within(pid: int, seconds: float) -> bool:
    """Wait for a child for at most so long; whether it is gone."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return True
        except ChildProcessError:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_GROUP_POLL)


def children_of(pid: int) -> list[int]:
    """The children of a single-threaded process, zombies too."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as children:
            return [int(word) for word in children.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [each for each in _all_pids() if _parent_of(each) == pid]


class ChildrenWatch:
    """Tells which children a single-threaded process has got since the last look.

    For who looks after every task: the file is opened once, and what is the same as
    before is not taken apart.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._fd = -1
        self._text: bytes | None = None
        self._seen: set[int] = set()

    def find_new(self) -> set[int]:
        """Zombies too; raises OSError, after which nothing is open or known."""
        try:
            text = self._read()
        except OSError:
            self.forget()
            raise
        if text is not None and text == self._text:
            return set()
        before, self._text = self._seen, text
        self._seen = set(
            children_of(self._pid) if text is None else map(int, text.split())
        )
        return self._seen - before

    def forget(self) -> None:
        """Close what is open; the next look finds all children new."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._text, self._seen = -1, None, set()

    def _read(self) -> bytes | None:
        """The list as the kernel writes it; None where it has none."""
        if self._fd < 0:
            try:
                path = f"/proc/{self._pid}/task/{self._pid}/children"
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
        text = b""
        while piece := os.pread(self._fd, 65536, len(text)):
            text += piece
        return text


def is_session_leader(pid: int) -> bool:
    """Whether the process has a session of its own."""
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    return _stat_words(pid)[:1] not in ([], [b"Z"], [b"X"])


def environment_of(pid: int) -> bytes:
    """What the process got as its environment; empty if it is gone or not ours."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            return environ.read()
    except OSError:
        return b""


def find_named(words: Collection[bytes]) -> list[int]:
    """Living processes, but this one, that got all of ``NAME=value`` `words`.

    Wherever they are: a container's, for one, are no descendants of who started it.
    """
    ours, wanted = os.getpid(), set(words)
    return [
        pid
        for pid in _all_pids()
        if pid != ours and wanted <= set(environment_of(pid).split(b"\0"))
    ]


def _kill_child(pid: int) -> None:
    if is_session_leader(pid):
        kill_group(pid, signal.SIGKILL)
    kill_process(pid, signal.SIGKILL)


def _reap_group(pid: int) -> None:
    try:
        while os.waitpid(-pid, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent_of(pid: int) -> int:
    return int([*_stat_words(pid), b"0", b"0"][1])


def _stat_words(pid: int) -> list[bytes]:
    """State, parent and so on; empty if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()
    except OSError:
        return []


# ---- processes of our own -----------------------------------------------------------


def start_unattended(argv: list[str], env: Mapping[str, str]) -> bool:
    """Start a program that nobody waits for; whether it could be started."""
    try:
        os.posix_spawnp(argv[0], argv, env)
    except OSError:
        return False
    return True


def fork_child(main: Callable[[], object]) -> int:
    """Fork; the child runs `main` and nothing else of ours, no exit handler either.

    The child of a rank must never reach Python's exit: mpi4py would finalize MPI there.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        main()
        status = 0
    finally:
        os._exit(status)


def leave_session() -> None:
    """Be the leader of a new session, with /dev/null as 0, 1 and 2."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
    _renew_streams()


def _renew_streams() -> None:
    """Have Python's own streams on 0, 1 and 2, wherever the rank's were.

    Else a print goes to a descriptor that is closed here, and soon another file's.
    The old ones are kept: to collect them would close that other file.
    """
    _old_streams.extend((sys.stdin, sys.stdout, sys.stderr))
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115 - for good
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115


def close_descriptors_except(kept: Collection[int]) -> None:
    """Close every descriptor from 3 on that isn't named.

    Launchers leave inheritable ones of their own in a rank; whoever keeps one of those
    open keeps the launcher from returning.
    """
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:  # the one of listdir itself
                continue


def calm_signals() -> None:
    """Let every signal that usually ends or reaches a rank pass without effect.

    By handlers, not by SIG_IGN: an ignored signal stays ignored in what a user's runner
    starts.  That goes for the two that Python ignores, PIPE and XFSZ, as well.
    """
    signal.set_wakeup_fd(-1)
    usual = {
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
    }
    for defect in _DEFECTS:
        signal.signal(defect, signal.SIG_DFL)
    for signum in set(_SETTABLE) - set(_DEFECTS):
        if signum in usual or signal.getsignal(signum) is not signal.SIG_DFL:
            signal.signal(signum, let_pass)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def adopt_orphans() -> bool:
    """Become the one that orphans among our descendants are given to (Linux).

    Then a command whose worker was killed before it could publish the pid is found.
    False where that can't be had.
    """
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(36, 1, 0, 0, 0) == 0)  # PR_SET_CHILD_SUBREAPER
    except (ImportError, OSError, AttributeError):
        return False


def drop_signal_stack() -> None:
    """Have signals handled on the normal stack, if faulthandler has made its own.

    That one has room for few signals at a time, and a farm is sent many at once: the
    kernel ends a process whose signal stack overflows by SIGSEGV.
    """
    if "faulthandler" not in sys.modules:
        return
    try:
        import ctypes
    except ImportError:
        return

    class Stack(ctypes.Structure):
        _fields_ = (
            ("start", ctypes.c_void_p),
            ("flags", ctypes.c_int),
            ("size", ctypes.c_size_t),
        )

    disabled = Stack(None, 2, 0)  # SS_DISABLE
    ctypes.CDLL(None).sigaltstack(ctypes.byref(disabled), None)


def let_pass(signum: int, frame: object) -> None:
    """The handler of a signal that is to have no effect."""
