"""Processes: what is found of them, and the order in which they are ended.

Rules of this file: the processes are real, few, and killed by the fixture; what a child
of this process has to hold becomes its exit status.
"""

import errno
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from mpifarm.system import processes
from mpifarm.system.processes import ChildrenWatch, Companion, Inquiry

DEADLINE = 20.0


class Starter:
    """Starts programs that sleep; the fixture kills them."""

    def __init__(self) -> None:
        self.started: list[int] = []

    def __call__(self, *, group: int = 0, session: bool = False, **environ: str) -> int:
        how = {"setsid": True} if session else {"setpgroup": group}
        pid = os.posix_spawnp("sleep", ["sleep", "61.25"], environ, **how)
        self.started.append(pid)
        until = time.monotonic() + DEADLINE
        while processes.name_of(pid) != "sleep":  # it may be just before its exec
            assert time.monotonic() < until
        return pid

    def kill(self, pid: int) -> None:
        """Kill a process, and leave it a zombie."""
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def start() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    for pid in starter.started:
        processes.kill_process(pid, signal.SIGKILL)
        processes.reap_child(pid)


def gone() -> int:
    """Return the pid of a process that is no more."""
    pid = processes.fork_child(lambda: None)
    processes.reap_child(pid)
    return pid


def status_of(main: Callable[[], object]) -> int | None:
    return processes.reap_child(processes.fork_child(main))


def test_of_several_processes_none_runs_while_another_is_killed(monkeypatch):
    sent = []
    monkeypatch.setattr(
        processes, "kill_process", lambda pid, signum: sent.append((pid, signum))
    )
    processes.kill_together([7, 9])
    stops = [(7, signal.SIGSTOP), (9, signal.SIGSTOP)]
    assert sent == [*stops, (7, signal.SIGKILL), (9, signal.SIGKILL)]


def test_what_others_start_before_they_are_stopped_is_stopped_too(monkeypatch):
    sent = []
    monkeypatch.setattr(processes, "kill_process", lambda *args: sent.append(args))
    looks = [{7}, {7, 9}, {7, 9}]
    assert processes.stop_all(lambda: looks.pop(0)) == {7, 9}
    assert sent == [(7, signal.SIGSTOP), (9, signal.SIGSTOP)]
    many = iter(range(10**6))  # others come for ever
    assert len(processes.stop_all(lambda: {next(many)})) < 100


# ---- groups and sessions ------------------------------------------------------------


def test_in_a_group_live_those_that_are_no_zombies_and_not_its_leader(start):
    leader = start()
    second, third = start(group=leader), start(group=leader)
    assert sorted(processes.living_in_group(leader)) == sorted([second, third])
    start.kill(third)
    assert processes.living_in_group(leader) == [second]
    assert processes.group_exists(leader)


def test_a_group_exists_as_long_as_a_zombie_is_in_it(start):
    leader = start()
    assert processes.group_of(leader) == leader
    assert processes.kill_group(leader, signal.SIGKILL)
    os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
    assert processes.group_exists(leader)
    assert not processes.await_group_end(os.getpgrp(), 0.0)
    assert processes.await_group_end(leader, DEADLINE)
    assert not processes.group_exists(leader)
    assert not processes.kill_group(leader, signal.SIGKILL)


def test_a_group_of_another_user_exists_and_is_not_ours_to_signal(monkeypatch):
    def refuse(_pid, _signum):
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    assert processes.group_exists(7)
    assert not processes.kill_group(7, signal.SIGTERM)


def test_only_who_leads_a_session_takes_the_group_along(start, monkeypatch):
    groups: list[int] = []
    monkeypatch.setattr(processes, "kill_group", lambda pid, _: groups.append(pid))
    leader, other = start(session=True), start()
    assert processes.is_session_leader(leader)
    assert not processes.is_session_leader(other)
    for pid in (leader, other):
        processes.kill_with_session(pid)
    assert groups == [leader]
    assert [processes.reap_child(pid) for pid in (leader, other)] == [-9, -9]


def test_of_a_process_that_is_gone_nothing_is_known_and_nothing_raises():
    pid = gone()
    assert (processes.name_of(pid), processes.group_of(pid)) == ("", 0)
    assert not processes.is_session_leader(pid)
    assert not processes.is_alive(pid)
    assert not processes.group_exists(pid)
    assert processes.environment_of(pid) == b""
    processes.kill_process(pid, signal.SIGKILL)
    processes.kill_with_session(pid)
    assert processes.reap_child(pid) is None
    assert processes.reap_child_within(pid, 0.0)
    assert processes.find_dead_child(pid) is None


# ---- children -----------------------------------------------------------------------


def test_a_dead_child_is_found_until_it_is_reaped(start):
    pid = start()
    assert processes.is_alive(pid)
    assert processes.find_dead_child(pid) is None
    assert not processes.reap_child_within(pid, 0.0)
    start.kill(pid)
    assert not processes.is_alive(pid)
    assert [processes.find_dead_child(pid) for _ in range(2)] == [pid, pid]
    assert processes.reap_child(pid) == -signal.SIGKILL


def test_children_are_found_zombies_too(start):
    pid = start()
    start.kill(pid)
    assert pid in processes.children_of(os.getpid())
    assert processes.reap_child_within(pid, DEADLINE)
    assert pid not in processes.children_of(os.getpid())


def test_a_kernel_without_a_list_of_children_is_asked_for_each_parent(
    start, monkeypatch
):
    pid = start()
    monkeypatch.setattr("builtins.open", lambda *_, **__: _not_found())
    monkeypatch.setattr(
        processes, "parent_of", lambda each: os.getpid() if each == pid else 1
    )
    assert processes.children_of(os.getpid()) == [pid]


THREADS = """
import os, subprocess, threading
thread = threading.Thread(target=subprocess.run, args=(["sleep", "61.25"],))
thread.start()
subprocess.run(["sh", "-c", "sleep 61.25; true"])
"""


def test_a_tree_has_the_children_of_children_and_those_of_threads():
    root = os.posix_spawnp(sys.executable, [sys.executable, "-c", THREADS], os.environ)

    def names() -> list[str]:
        return sorted(map(processes.name_of, processes.tree_of(root)[1:]))

    try:
        until = time.monotonic() + DEADLINE
        while names() != ["sh", "sleep", "sleep"]:
            assert time.monotonic() < until, names()
    finally:
        processes.kill_together(processes.tree_of(root))
        processes.reap_child(root)
    assert processes.tree_of(gone())[1:] == []


HELD_THREAD = """
import os, threading
def run():
    opening = [(os.POSIX_SPAWN_OPEN, 3, {!r}, os.O_RDONLY, 0)]
    os.posix_spawn("/bin/true", ["true"], {{}}, file_actions=opening)
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


def test_a_process_is_held_as_long_as_the_kernel_holds_one_of_its_threads(tmp_path):
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    words = [sys.executable, "-c", HELD_THREAD.format(fifo)]
    pid = os.posix_spawnp(sys.executable, words, os.environ)
    try:
        until = time.monotonic() + DEADLINE
        while not processes.tree_of(pid)[1:] or not processes.is_held(pid):
            assert time.monotonic() < until
    finally:
        # The child, too: it may not have come to its open yet, and would wait for ever.
        processes.kill_together(processes.tree_of(pid))
        processes.reap_child(pid)
    assert not processes.is_held(pid)
    assert not processes.is_held(os.getpid())


def _not_found() -> None:
    raise FileNotFoundError


def test_the_watch_tells_of_each_new_child_once(start):
    watch = ChildrenWatch(os.getpid())
    before = watch.find_new()
    first = start()
    assert first not in before
    assert watch.find_new() == {first}
    assert watch.find_new() == set()
    second = start()
    assert watch.find_new() == {second}
    watch.forget()
    assert watch.find_new() >= {first, second}
    watch.forget()


def test_a_watch_over_what_is_gone_raises_and_keeps_nothing_open():
    watch = ChildrenWatch(gone())
    before = sorted(os.listdir("/proc/self/fd"))
    assert watch._read() is None
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("raises", "status"), [(False, 0), (True, 70)])
def test_a_forked_child_ends_with_its_main_and_without_our_exit_handlers(
    raises, status, capfd
):
    def main() -> None:
        if raises:
            raise RuntimeError("a defect")

    assert status_of(main) == status


def test_a_child_keeps_no_descriptor_but_those_named():
    kept, other = os.pipe()

    def main() -> None:
        processes.close_descriptors_except({kept})
        os.fstat(kept)
        os.fstat(2)
        try:
            os.fstat(other)
        except OSError:
            return
        raise AssertionError

    try:
        assert status_of(main) == 0
    finally:
        os.close(kept)
        os.close(other)


def test_a_new_session_has_dev_null_as_its_streams():
    null = os.stat(os.devnull).st_rdev

    def main() -> None:
        processes.begin_session()
        assert os.getsid(0) == os.getpid()
        assert [os.fstat(fd).st_rdev for fd in (0, 1, 2)] == [null] * 3
        assert [each.fileno() for each in (sys.stdin, sys.stdout, sys.stderr)] == [
            *(0, 1, 2)
        ]

    assert status_of(main) == 0


def test_a_program_in_a_group_outlives_what_a_job_is_told(tmp_path):
    before = {each: signal.getsignal(each) for each in processes.JOB_SIGNALS}
    names = "TERM INT HUP USR1 USR2"
    tell = f"for each in {names}; do kill -$each $$; done; echo > done; kill -QUIT $$"
    pid = processes.start_in_group(
        ["/bin/sh", "-c", f"cd {tmp_path}; {tell}"], {"PATH": os.environ["PATH"]}
    )
    _, status = os.waitpid(pid, 0)
    assert os.listdir(tmp_path) == ["done"]
    assert os.waitstatus_to_exitcode(status) == -signal.SIGQUIT
    assert {each: signal.getsignal(each) for each in before} == before


def test_signals_to_a_rank_are_ignored_by_handlers_and_defects_still_end_it():
    def main() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGSEGV, processes.ignore_signal)
        processes.ignore_signals()
        for signum in ("TERM", "INT", "HUP", "USR1", "USR2", "PIPE", "XFSZ"):
            number = signal.Signals[f"SIG{signum}"]
            os.kill(os.getpid(), number)
            assert signal.getsignal(number) is processes.ignore_signal
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
        for signum in ("SEGV", "BUS", "ABRT", "CHLD"):
            default = signal.getsignal(signal.Signals[f"SIG{signum}"])
            assert default is signal.SIG_DFL

    assert status_of(main) == 0


# ---- any process --------------------------------------------------------------------


def test_a_process_is_found_by_all_the_variables_that_it_was_started_with(start):
    mark = f"MARK={os.getpid()}-{time.monotonic_ns()}".encode()
    name, _, value = mark.decode().partition("=")
    pid = start(**{name: value, "OTHER": "1"})
    assert processes.find_named([mark]) == [pid]
    assert processes.find_named([mark, b"OTHER=1"]) == [pid]
    assert processes.find_named([mark, b"OTHER=2"]) == []


def test_this_process_itself_is_not_found():
    own, *_ = processes.environment_of(os.getpid()).split(b"\0")
    assert os.getpid() not in processes.find_named([own])


def test_the_command_lines_of_this_user_are_found_by_the_programs_name(
    start, monkeypatch
):
    start()
    assert ["sleep", "61.25"] in processes.command_lines("sleep")
    assert ["sleep", "61.25"] not in processes.command_lines("leep")
    monkeypatch.setattr(os, "getuid", lambda: 1 << 30)
    assert processes.command_lines("sleep") == []


def test_the_command_line_of_another_program_or_a_held_one_is_not_read(
    start, monkeypatch
):
    pid, read = start(), []

    def opened(path: str, mode: str) -> object:
        read.append(path)
        return open(path, mode)

    monkeypatch.setattr(processes, "open", opened, raising=False)
    processes.command_lines("sleep")
    assert f"/proc/{pid}/cmdline" in read
    assert f"/proc/{os.getpid()}/cmdline" not in read
    monkeypatch.setattr(processes, "is_held", lambda each: each == pid)
    read.clear()
    assert ["sleep", "61.25"] not in processes.command_lines("sleep")
    assert f"/proc/{pid}/cmdline" not in read


# ---- programs that are asked --------------------------------------------------------


def answer_of(inquiry: Inquiry) -> str:
    until = time.monotonic() + DEADLINE
    while (answer := inquiry.collect()) is None:
        assert time.monotonic() < until
        time.sleep(0.001)
    return answer


def ask(shell: str) -> Inquiry:
    return Inquiry(["sh", "-c", shell], os.environ)


def test_both_outputs_of_a_program_are_collected_when_it_has_ended():
    assert answer_of(ask("echo a; echo b >&2; printf '\\377'")) == "a\nb\n\ufffd"


def test_a_program_that_is_asked_reads_nothing_and_inherits_nothing():
    inherited = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    try:
        descriptors = answer_of(ask("cat; cd /proc/$$/fd; echo *")).split()
    finally:
        os.close(inherited)
    assert str(inherited) not in descriptors
    assert {"0", "1", "2"} <= {*descriptors}


def test_a_program_that_does_not_answer_is_killed_and_reaped():
    inquiry = ask("exec sleep 61.5")
    assert inquiry.collect() is None
    pid = inquiry._pid
    assert os.getsid(pid) == pid
    inquiry.end()
    inquiry.end()
    assert not processes.is_alive(pid)
    assert processes.find_dead_child(pid) is None


def test_a_program_that_talks_for_ever_is_cut_off_after_a_megabyte():
    answer = answer_of(ask("exec yes 0123456"))
    assert 2**20 <= len(answer) < 2**20 + 65536


def test_a_program_that_can_not_be_started_leaves_nothing_open():
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No such file"):
        Inquiry(["/nowhere/squeue"], os.environ)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_who_starts_a_program_unattended_learns_whether_it_began():
    assert processes.start_unattended(["true"], os.environ)
    while (pid := processes.find_dead_child()) is None:
        time.sleep(0.001)
    assert processes.reap_child(pid) == 0
    assert not processes.start_unattended(["/nowhere/scancel"], os.environ)


def test_a_companion_that_does_not_read_has_room_for_a_megabyte():
    companion = Companion(["sleep", "61.25"], os.environ)
    try:
        piece = memoryview(bytes(1 << 16))
        taken = [companion.write(piece) for _ in range(17)]
    finally:
        companion.end()
    assert taken[-1] == 0
    assert sum(taken) == _find_room()


def _find_room() -> int:
    """Return the bytes that a pipe may hold: a user may have used all large ones up."""
    source, target = os.pipe()
    try:
        return fcntl.fcntl(target, fcntl.F_SETPIPE_SZ, 1 << 20)
    except PermissionError:
        return fcntl.fcntl(target, fcntl.F_GETPIPE_SZ)
    finally:
        os.close(source)
        os.close(target)


def test_a_directory_that_was_removed_has_no_name(monkeypatch):
    assert processes.find_directory() == os.getcwd()

    def fail() -> str:
        raise FileNotFoundError(errno.ENOENT, "gone")

    monkeypatch.setattr(os, "getcwd", fail)
    assert processes.find_directory() == ""
