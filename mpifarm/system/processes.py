"""The owner of processes: fork, start, signal, reap, and look them up in /proc.

Rules of this file: no other module forks, spawns, waits for or kills a process, with
two exceptions.  `task_command` does so with the command of a worker, and `supervise`
starts the launcher.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

Environment = Mapping[str, str] | Mapping[bytes, bytes]

_REAP_SECONDS = 0.2
"""Seconds that `Inquiry` waits for a killed program.  A program that a dead file server
holds cannot even be killed."""
_MAX_OUTPUT = 2**20
"""Bytes that `Inquiry` collects."""
_PIPE_SIZE = 2**20
"""Bytes that wait for a `Companion`: the most that Linux lets all users have."""
SETTABLE_SIGNALS = tuple(
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
"""Signals that a process gets for its own defects.  If a handler returned from one, the
same instruction would raise it again, for ever."""
JOB_SIGNALS = frozenset(
    {
        *(signal.SIGUSR1, signal.SIGUSR2),
        *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    }
)
"""Signals by which batch systems and users tell all processes of a job of its end."""
_MAX_STOPS = 20
"""Looks for processes that others start before they are stopped."""
GROUP_POLL = 0.002
"""Seconds between two looks at a group that is ending."""


# ---- groups and children ------------------------------------------------------------


def kill_group(pid: int, signum: int) -> bool:
    """Signal the process group `pid`.  Return False if it is gone or not ours."""
    try:
        os.killpg(pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def group_exists(pid: int) -> bool:
    """Return whether the process group has a process, even a zombie or not ours."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def living_in_group(group: int) -> list[int]:
    """Return the pids of a group's living processes, without its leader."""
    return [
        pid
        for pid in _all_pids()
        if pid != group and group_of(pid) == group and is_alive(pid)
    ]


def name_of(pid: int) -> str:
    """Return the name of a process's program, "" if the process is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().rstrip("\n")
    except OSError:
        return ""


def group_of(pid: int) -> int:
    """Return the process group of a process, 0 if the process is gone."""
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def kill_process(pid: int, signum: int) -> None:
    """Signal one process; no effect if it is gone or not ours."""
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        return


def kill_with_session(pid: int) -> None:
    """KILL a process, and its whole group if the process leads a session."""
    if is_session_leader(pid):
        kill_group(pid, signal.SIGKILL)
    kill_process(pid, signal.SIGKILL)


def kill_together(pids: Collection[int]) -> None:
    """KILL several processes, all stopped first.

    Else a shell could start its next command while another process is killed.
    """
    for signum in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            kill_process(pid, signum)


def stop_all(find: Callable[[], set[int]]) -> set[int]:
    """STOP the processes that `find` returns, until it returns no other ones.

    Return them: from now on they start no others.
    """
    stopped: set[int] = set()
    for _ in range(_MAX_STOPS):
        new = find() - stopped
        if not new:
            break
        for pid in new:
            kill_process(pid, signal.SIGSTOP)
        stopped |= new
    return stopped


def await_group_end(pid: int, seconds: float) -> bool:
    """Reap our children in a group until it is gone.  Return False after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        _reap_group(pid)
        if not group_exists(pid):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(GROUP_POLL)


def find_dead_child(pid: int | None = None) -> int | None:
    """Return the pid of a dead child (or of `pid`, if dead) without reaping it."""
    kind, wanted = (os.P_ALL, 0) if pid is None else (os.P_PID, pid)
    try:
        dead = os.waitid(kind, wanted, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if dead is None else dead.si_pid


def reap_child(pid: int) -> int | None:
    """Wait for a child, without end.  Return its status as in `subprocess`.

    Return None if it is not our child.
    """
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None


def reap_child_within(pid: int, seconds: float) -> bool:
    """Wait up to `seconds` for a child, and reap it.  Return whether it is gone."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return True
        except ChildProcessError:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(GROUP_POLL)


def children_of(pid: int) -> list[int]:
    """Return the children of a single-threaded process, including zombies.

    Raises ProcessLookupError if the process ends meanwhile.
    """
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as children:
            return [int(word) for word in children.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [each for each in _all_pids() if parent_of(each) == pid]


def tree_of(pid: int) -> list[int]:
    """Return a process and all its descendants, those of its threads too.

    A process that ends meanwhile takes none of the others away.
    """
    tree = [pid]
    for each in tree:  # which grows meanwhile
        tree.extend(_children_of_threads(each))
    return tree


class ChildrenWatch:
    """The new children of a single-threaded process, found at little cost for a task.

    The file of the kernel is opened once, and parsed only if its text has changed.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._fd = -1
        self._text: bytes | None = None
        self._seen: set[int] = set()

    def find_new(self) -> set[int]:
        """Return the children since the last call, including zombies.

        Raises OSError; after that nothing is open and no child is known.
        """
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
        """Close the kernel's file.  The next `find_new` returns all children."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._text, self._seen = -1, None, set()

    def _read(self) -> bytes | None:
        """Return the kernel's list of children, None if the kernel has no such list."""
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
    """Return whether the process leads a session; False if it is gone."""
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    return _stat_words(pid)[:1] not in ([], [b"Z"], [b"X"])


def is_held(pid: int) -> bool:
    """Return whether a thread of a process waits in the kernel, and hears no signal.

    A dead file server holds one so.  Its memory may be locked meanwhile: who reads that
    in /proc (``environ``, ``cmdline``, ``smaps``) waits with it.  ``stat`` and
    ``statm`` never wait.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    return any(_stat_words(f"{pid}/task/{each}")[:1] == [b"D"] for each in threads)


def environment_of(pid: int) -> bytes:
    """Return the environment that a process was started with, NUL-separated.

    Return b"" if the process is gone or not ours.  It may wait if the process
    `is_held`.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            return environ.read()
    except OSError:
        return b""


def find_named(words: Collection[bytes]) -> list[int]:
    """Return the living processes, except this one, that have all these ``NAME=value``.

    `words` were in the environment with which a process was started.
    """
    # All of /proc: processes in a container may not descend from the process that
    # started it.
    ours, wanted = os.getpid(), set(words)
    return [
        pid
        for pid in _all_pids()
        if pid != ours and wanted <= set(environment_of(pid).split(b"\0"))
    ]


def command_lines(name: str) -> list[list[str]]:
    """Return the command line of each program `name` that this user runs here.

    `name` is compared with the last part of the first word.  A program that `is_held`
    is left out.
    """
    found = []
    for pid in _all_pids():
        try:
            # The name first: who reads the command line of a held process, of any
            # program, may wait for ever.
            if _short_name(pid) != name[:_SHORT_NAME] or is_held(pid):
                continue
            if os.stat(f"/proc/{pid}").st_uid != os.getuid():
                continue
            with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                words = os.fsdecode(cmdline.read()).split("\0")[:-1]
        except OSError:  # it is gone
            continue
        if words and os.path.basename(words[0]) == name:
            found.append(words)
    return found


_SHORT_NAME = 15
"""Bytes of a program's name that the kernel keeps."""


def _short_name(pid: int) -> str:
    """Return the beginning of the name of a process's program, and never wait for it.

    Raises OSError if the process is gone.
    """
    with open(f"/proc/{pid}/comm", "rb") as comm:
        return os.fsdecode(comm.read()).removesuffix("\n")


def _reap_group(pid: int) -> None:
    try:
        while os.waitpid(-pid, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def parent_of(pid: int) -> int:
    """Return the parent of a process; 0 if the process is gone."""
    return int([*_stat_words(pid), b"0", b"0"][1])


def _children_of_threads(pid: int) -> list[int]:
    """Return the children of all threads of a process; [] if it is gone."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    if threads == [str(pid)]:  # most have one
        with suppress(ProcessLookupError):
            return children_of(pid)
        return []
    found: list[int] = []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as children:
                found.extend(map(int, children.read().split()))
        except OSError:  # the thread is gone, or the kernel has no such list
            continue
    return found


def _stat_words(pid: int | str) -> list[bytes]:
    """Return a process's state, its parent and so on (proc(5), "stat"); [] if gone.

    `pid` may be the path of a thread below /proc.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()
    except OSError:
        return []


# ---- processes of our own -----------------------------------------------------------


def start_unattended(argv: list[str], env: Mapping[str, str]) -> bool:
    """Start a program that is not waited for.  Return whether it could be started."""
    try:
        os.posix_spawnp(argv[0], argv, env)
    except OSError:
        return False
    return True


class Inquiry:
    """A running program whose output is collected without waiting for it.

    The output is that of stdout and stderr, up to `_MAX_OUTPUT` bytes.
    """

    def __init__(self, argv: Sequence[str], env: Environment) -> None:
        """Start the program; raises OSError."""
        self._output = b""
        self._fd, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(write, True)
            self._pid = _spawn_alone(argv, env, write)
        except BaseException:
            os.close(self._fd)
            raise
        finally:
            os.close(write)

    def collect(self) -> str | None:
        """Return the output once the program has ended, None until then.

        At the end, or at `_MAX_OUTPUT` bytes, the program is killed and forgotten.
        """
        while len(self._output) < _MAX_OUTPUT:
            try:
                piece = os.read(self._fd, 65536)
            except BlockingIOError:
                return None
            if not piece:
                break
            self._output += piece
        self.end()
        return self._output.decode("utf-8", "replace")

    def end(self) -> None:
        """Kill the program, if it still runs, and reap it; forget it."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        kill_group(self._pid, signal.SIGKILL)
        reap_child_within(self._pid, _REAP_SECONDS)


class Companion:
    """A running program that reads lines from this process, and writes lines to it.

    It leads a session, so that all that it starts can be found and ended.  Neither side
    of this process ever blocks.
    """

    def __init__(self, argv: Sequence[str], env: Environment) -> None:
        """Start the program; raises OSError."""
        source, self._input = os.pipe2(os.O_CLOEXEC)
        self._output, output = os.pipe2(os.O_CLOEXEC)
        _widen(self._input)
        try:
            os.set_blocking(self._input, False)
            os.set_blocking(self._output, False)
            self._pid = _spawn_alone(argv, env, output, source)
        except BaseException:
            os.close(self._input)
            os.close(self._output)
            raise
        finally:
            os.close(source)
            os.close(output)

    def write(self, content: memoryview) -> int:
        """Return how many bytes the program's pipe took, 0 if it is full.

        Raises BrokenPipeError if the program has ended.
        """
        try:
            return os.write(self._input, content)
        except BlockingIOError:
            return 0

    def close_input(self) -> None:
        """Let the program read the end of its input."""
        if self._input >= 0:
            os.close(self._input)
            self._input = -1

    def read(self) -> bytes | None:
        """Return output, b"" if there is none now, None if no more will come."""
        try:
            return os.read(self._output, 65536) or None
        except BlockingIOError:
            return b""

    def end(self) -> None:
        """End the program and all that it has started in its session; reap it."""
        self.close_input()
        os.close(self._output)
        # Asked before it is reaped: until then its pid, the session's id, is its own.
        for pid in [self._pid, *_members_of_session(self._pid)]:
            kill_process(pid, signal.SIGKILL)
        reap_child_within(self._pid, _REAP_SECONDS)


def _widen(pipe: int) -> None:
    """Have a pipe hold `_PIPE_SIZE` bytes, if this user may have that much."""
    import fcntl  # for those who have a companion

    with suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)


def _members_of_session(session: int) -> list[int]:
    """Return the processes of a session."""
    found = []
    for pid in _all_pids():
        try:
            if os.getsid(pid) == session:
                found.append(pid)
        except OSError:
            continue  # it is gone, or not ours
    return found


def start_in_group(argv: Sequence[str], env: Environment) -> int:
    """Start a program in a process group of its own, with /dev/null as 0, 1 and 2.

    It ignores the signals by which a job is told of its end.  Return its pid; raises
    OSError.
    """
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    # What is ignored stays so in a program, and posix_spawn can't ask for it.
    before = {each: signal.signal(each, signal.SIG_IGN) for each in JOB_SIGNALS}
    try:
        return os.posix_spawnp(
            argv[0],
            list(argv),
            env,
            file_actions=null,
            setpgroup=0,
            setsigmask=(),
            setsigdef=set(SETTABLE_SIGNALS) - JOB_SIGNALS,
        )
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _spawn_alone(
    argv: Sequence[str], env: Environment, output: int, source: int | None = None
) -> int:
    """Start a program in its own session, with `output` as 1 and 2.  Return its pid.

    `source` becomes its standard input; without one, that is /dev/null.
    """
    # A launcher does not return while any process holds a descriptor of the rank's.
    inherited = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2]
    return os.posix_spawnp(
        argv[0],
        list(argv),
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
            if source is None
            else (os.POSIX_SPAWN_DUP2, source, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
            *((os.POSIX_SPAWN_CLOSE, fd) for fd in inherited),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=SETTABLE_SIGNALS,
    )


def fork_child(main: Callable[[], object]) -> int:
    """Fork a child that runs `main` and exits: 0, or 70 if `main` raises.

    Return its pid.  Raises OSError if the fork fails.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        main()
        status = 0
    finally:
        # Without exit handlers: mpi4py would finalize MPI in the child of a rank.
        os._exit(status)


def find_directory() -> str:
    """Return the current directory, "" if it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def begin_session() -> None:
    """Become the leader of a new session, with /dev/null as 0, 1 and 2."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
    _renew_streams()


def _renew_streams() -> None:
    """Put Python's own streams on the descriptors 0, 1 and 2.

    The launcher may have put the rank's streams elsewhere.  Such a descriptor is closed
    here, and is soon that of another file, into which a print would go.
    """
    # Kept for ever: a stream that is collected would close that other file.
    _old_streams.extend((sys.stdin, sys.stdout, sys.stderr))
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115 - for good
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115


_old_streams: list[object] = []


def close_descriptors_except(kept: Collection[int]) -> None:
    """Close every descriptor from 3 on that is not in `kept`.

    A rank inherits descriptors of its launcher, and the launcher does not return while
    any process holds one of them.
    """
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:  # the descriptor of listdir itself
                continue


def ignore_signals() -> None:
    """Ignore, by handlers, each signal that usually ends or reaches a rank.

    Not by SIG_IGN: a program that a user's runner starts would inherit that.  The two
    signals that Python ignores, PIPE and XFSZ, get handlers for the same reason.
    Signals for defects, and CHLD, get the default action; no signal is blocked any
    more.
    """
    signal.set_wakeup_fd(-1)
    for defect in _DEFECTS:
        signal.signal(defect, signal.SIG_DFL)
    for signum in set(SETTABLE_SIGNALS) - set(_DEFECTS):
        if signum in JOB_SIGNALS or signal.getsignal(signum) is not signal.SIG_DFL:
            signal.signal(signum, ignore_signal)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def adopt_orphans() -> bool:
    """Become the parent of all orphaned descendants (Linux).  Return whether it worked.

    So a command is found even if its worker was killed before the pid was published.
    """
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(36, 1, 0, 0, 0) == 0)  # PR_SET_CHILD_SUBREAPER
    except (ImportError, OSError, AttributeError):
        return False


def drop_signal_stack() -> None:
    """Disable the signal stack of faulthandler, if that was imported.

    It has room for few signals at a time, and a farm may get many at once.  The kernel
    ends a process whose signal stack overflows by SIGSEGV.
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


def ignore_signal(signum: int, frame: object) -> None:
    """Do nothing, as the handler of a signal without effect."""
