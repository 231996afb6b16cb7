"""How a worker starts a command, and what reaches it then."""

import os
import resource
import signal
import time
from array import array
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mpifarm.errors import InputError
from mpifarm.system import processes, task_command


@pytest.fixture
def sleeping():
    """A command as a worker starts it."""
    null = os.open(os.devnull, os.O_RDWR)
    pid = task_command.start_command(["sleep", "60"], os.environb, null)
    os.close(null)
    yield pid
    processes.kill_process(pid, signal.SIGKILL)
    task_command.wait_command(pid)


def test_a_command_that_is_terminated_while_it_starts_gets_the_signal(monkeypatch):
    spawn = os.posix_spawnp

    def spawn_meanwhile(*args, **options):
        task_command.terminate_command()
        return spawn(*args, **options)

    monkeypatch.setattr(os, "posix_spawnp", spawn_meanwhile)
    null = os.open(os.devnull, os.O_RDWR)
    pid = task_command.start_command(["sleep", "60"], os.environb, null)
    os.close(null)
    assert task_command.wait_command(pid) == -signal.SIGTERM
    task_command.forget_termination()


def test_a_command_starts_in_its_cgroup_and_this_process_leaves_it(monkeypatch):
    calls: list[str] = []
    monkeypatch.setattr(task_command, "_running", task_command._Running())
    task_command.start_commands_in(
        cast(
            Any,
            SimpleNamespace(
                enter=lambda: calls.append("enter"), leave=lambda: calls.append("leave")
            ),
        )
    )
    spawn = os.posix_spawnp

    def spawn_there(*args: Any, **options: Any) -> int:
        calls.append("spawn")
        return spawn(*args, **options)

    monkeypatch.setattr(os, "posix_spawnp", spawn_there)
    null = os.open(os.devnull, os.O_RDWR)
    assert task_command.wait_command(start_with(["true"], null)) == 0
    with pytest.raises(FileNotFoundError):
        start_with(["/no/such/program"], null)
    os.close(null)
    assert calls == ["enter", "spawn", "leave"] * 2


def start_with(argv: list[str], null: int) -> int:
    return task_command.start_command(argv, os.environb, null)


def test_a_command_is_out_of_reach_of_a_signal_to_the_group_of_its_rank(sleeping):
    assert os.getsid(sleeping) == os.getpgid(sleeping) == sleeping
    assert os.getpgrp() != sleeping


def test_a_command_that_was_terminated_is_in_reach_of_a_kill_until_its_group_is_gone(
    monkeypatch,
):
    slot = memoryview(array("q", [0]))
    monkeypatch.setattr(task_command._running, "slot", slot)
    children_live = iter([True, True, False])
    reached: list[int] = []

    def group_exists(_pid: int) -> bool:
        reached.append(slot[0])
        return next(children_live)

    monkeypatch.setattr(task_command, "group_exists", group_exists)
    null = os.open(os.devnull, os.O_RDWR)
    pid = task_command.start_command(["sleep", "60"], os.environb, null)
    os.close(null)
    task_command.terminate_command()
    assert task_command.wait_command(pid) == -signal.SIGTERM
    assert reached == [pid] * 3
    assert slot[0] == 0


# ---- a new task, and a command that did not begin -----------------------------------


@pytest.fixture
def slot(monkeypatch):
    """A state of this process's command of its own, and its slot."""
    monkeypatch.setattr(task_command, "_running", task_command._Running())
    slot = memoryview(array("q", [0]))
    task_command.publish_command_in(slot)
    return slot


def start(*argv: str) -> int:
    null = os.open(os.devnull, os.O_RDWR)
    try:
        return task_command.start_command(argv, os.environb, null)
    finally:
        os.close(null)


def run(shell: str) -> int:
    return task_command.wait_command(start("sh", "-c", shell))


def test_the_slot_has_the_pid_as_long_as_the_command_runs(slot):
    pid = start("sleep", "60")
    assert slot[0] == task_command.last_command() == pid
    task_command.terminate_command(signal.SIGKILL)
    assert task_command.wait_command(pid) == -signal.SIGKILL
    assert slot[0] == 0
    assert task_command.last_command() == pid


@pytest.mark.parametrize(("shell", "status"), [("exit 3", 3), ("kill -6 $$", -6)])
def test_the_status_of_a_command_is_as_in_subprocess(slot, shell, status):
    assert run(shell) == status


def test_a_command_that_can_not_be_started_leaves_no_command(slot):
    with pytest.raises(FileNotFoundError):
        start("/nowhere/program")
    assert slot[0] == 0
    assert task_command.last_command() == 0


def test_a_signal_without_a_command_is_for_the_next_one(slot):
    task_command.terminate_command()
    assert run("exec sleep 60") == -signal.SIGTERM
    assert run("exit 0") == 0


def test_a_signal_that_was_for_another_task_is_forgotten_and_its_command_too(slot):
    task_command.terminate_command()
    task_command.forget_termination()
    assert run("exit 0") == 0
    task_command.forget_termination()
    assert task_command.last_command() == 0
    assert not task_command.has_left_processes()


def test_a_command_is_ended_by_the_signal_that_was_chosen(slot):
    task_command.choose_ending_signal(signal.SIGUSR1)
    pid = start("sleep", "60")
    task_command.terminate_command()
    assert task_command.wait_command(pid) == -signal.SIGUSR1


class Exited(BaseException):
    """In place of the end of this process."""


@pytest.fixture
def exits(monkeypatch):
    """Returns what is killed where this process would have ended itself."""
    killed: list[int] = []

    def leave(status: int) -> None:
        raise Exited(status)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(os, "getpgrp", lambda: 1)
    monkeypatch.setattr(task_command, "children_of", lambda _: [7, 8])
    monkeypatch.setattr(task_command, "kill_with_session", killed.append)
    monkeypatch.setattr(
        task_command, "kill_group", lambda pid, _signum: killed.append(pid)
    )
    return killed


def test_who_exits_takes_the_command_and_all_other_children_along(slot, exits):
    slot[0] = 5
    with pytest.raises(Exited):
        task_command.exit_with_command()
    assert exits == [5, 7, 8]


def test_an_exit_during_a_start_waits_for_the_pid(slot, exits, monkeypatch):
    def spawn(*_args, **_options):
        task_command.exit_with_command()
        assert exits == []
        return 5

    monkeypatch.setattr(os, "posix_spawnp", spawn)
    with pytest.raises(Exited):
        start("true")
    assert exits == [5, 7, 8]


def test_an_exit_during_a_start_that_fails_comes_at_once(slot, exits, monkeypatch):
    def spawn(*_args, **_options):
        task_command.exit_with_command()
        raise FileNotFoundError

    monkeypatch.setattr(os, "posix_spawnp", spawn)
    with pytest.raises(Exited):
        start("true")
    assert exits == [7, 8]


# ---- what it leaves -----------------------------------------------------------------


def test_what_lives_on_in_the_background_is_seen(slot):
    assert run("sleep 60 &") == 0
    (left,) = processes.living_in_group(task_command.last_command())
    try:
        assert task_command.has_left_processes()
    finally:
        processes.kill_process(left, signal.SIGKILL)
    until = time.monotonic() + 20
    while task_command.has_left_processes():  # it may stay a zombie
        assert time.monotonic() < until


def test_a_command_that_leaves_nothing_is_told_so(slot):
    run("exit 0")
    assert not task_command.has_left_processes()


@pytest.mark.parametrize(
    ("name", "waits", "is_left"), [("srun", 1, False), ("server", 0, True)]
)
def test_a_helper_of_srun_gets_a_moment_to_end(slot, monkeypatch, name, waits, is_left):
    run("exit 0")
    slept: list[float] = []
    left = iter([[7], []])
    monkeypatch.setattr(task_command, "group_exists", lambda _: True)
    monkeypatch.setattr(task_command, "living_in_group", lambda _: next(left))
    monkeypatch.setattr(task_command, "name_of", lambda _: name)
    monkeypatch.setattr(time, "sleep", slept.append)
    assert task_command.has_left_processes() is is_left
    assert len(slept) == waits


# ---- its memory ---------------------------------------------------------------------

MB = 1 << 20
INFINITE = resource.RLIM_INFINITY


@pytest.fixture
def limits(slot, monkeypatch):
    """A worker of 30 MB with such limits; returns the list of those that it sets."""
    limits_set: list[tuple[int, int]] = []

    def create(soft: int = INFINITE, hard: int = INFINITE) -> list[tuple[int, int]]:
        monkeypatch.setattr(task_command, "_own_memory", lambda: 30 * MB)
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
        monkeypatch.setattr(
            resource, "setrlimit", lambda what, pair: limits_set.append((what, pair))
        )
        return limits_set

    return create


@pytest.mark.parametrize(
    ("soft", "hard", "lower", "most"),
    [
        (INFINITE, INFINITE, 100, 100),
        (200 * MB, 300 * MB, 100, 100),
        (50 * MB, INFINITE, 50, 100),
        (50 * MB, 60 * MB, 50, 60),
    ],
)
def test_a_limit_of_memory_can_not_be_lifted_and_the_users_own_holds(
    limits, soft, hard, lower, most
):
    limits_set = limits(soft, hard)
    assert task_command.limit_memory(100 * MB) == lower * MB
    assert task_command.memory_limit() == lower * MB
    assert limits_set == [(resource.RLIMIT_DATA, (lower * MB, most * MB))]


def test_a_limit_below_what_a_worker_needs_is_refused_with_what_it_needs(limits):
    limits_set = limits()
    with pytest.raises(InputError) as caught:
        task_command.limit_memory(46 * MB - 1)
    assert str(caught.value) == (
        "--task-memory is 45 MB, and a worker itself needs 47 MB: give --task-memory "
        "47M or more"
    )
    assert limits_set == []
    assert task_command.memory_limit() is None
    assert task_command.limit_memory(46 * MB) == 46 * MB


def test_without_a_limit_the_peak_of_a_short_command_is_not_asked_for(
    slot, monkeypatch
):
    asked: list[int] = []
    wait4 = os.wait4

    def wait4_and_note(pid: int, how: int) -> object:
        asked.append(pid)
        return wait4(pid, how)

    monkeypatch.setattr(os, "wait4", wait4_and_note)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    run("exit 0")
    assert asked == []
    pid = start("true")
    now[0] += task_command.MEASURED_SECONDS
    task_command.wait_command(pid)
    assert asked == [pid]
    task_command._running.memory_limit = 100 * MB
    run("exit 0")
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("peak", "highest", "bytes_"),
    [(900, 0, 900 * 1024), (900, 2000, 900 * 1024), (0, 800, 800 * 1024), (500, 0, 0)],
)
def test_the_peak_of_a_command_counts_if_it_is_above_the_workers_own(
    slot, monkeypatch, peak, highest, bytes_
):
    usage = type("Usage", (), {"ru_maxrss": 500})
    monkeypatch.setattr(resource, "getrusage", lambda _: usage)
    task_command._running.peak = peak
    assert task_command.peak_memory(highest) == bytes_


def test_a_command_begins_with_no_signal_blocked_or_ignored(slot, tmp_path):
    """Python ignores PIPE and XFSZ, and a rank may block some."""
    log = os.open(tmp_path / "log", os.O_CREAT | os.O_RDWR)
    handler = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        argv = ["grep", "-hE", "^Sig(Blk|Ign)", "/proc/self/status", "/nowhere"]
        pid = task_command.start_command(argv, os.environb, log)
        assert task_command.wait_command(pid) == 2
    finally:
        signal.signal(signal.SIGUSR1, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(log)
    said, words, *_ = (tmp_path / "log").read_text().partition("grep: /nowhere: ")
    _, blocked, _, ignored = said.split()
    of_the_c_library = 1 << 31 | 1 << 32  # 32 and 33: nobody else can set them
    assert int(blocked, 16) == 0
    assert int(ignored, 16) & ~of_the_c_library == 0
    assert words, "what it says to standard error is in the log, too"


def test_the_seconds_of_a_command_count_from_its_start(slot):
    before = time.monotonic()
    run("true")
    assert before <= task_command._running.began <= time.monotonic()


def test_a_command_counts_as_terminated_before_it_gets_the_signal(slot, monkeypatch):
    """Else who waits for it could miss that its group has to be waited for."""
    seen: list[bool] = []
    monkeypatch.setattr(
        *(task_command, "kill_group"),
        lambda *_: seen.append(task_command._running.terminated),
    )
    slot[0] = 5
    task_command.terminate_command()
    assert seen == [True]


def test_the_group_of_a_command_that_is_gone_is_looked_at_no_further(slot, monkeypatch):
    run("exit 0")
    monkeypatch.setattr(task_command, "living_in_group", None)
    assert not task_command.has_left_processes()


def test_who_leads_a_group_takes_it_along(slot, exits, monkeypatch):
    groups: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "killpg", lambda *of: groups.append(of))
    for group, killed in ((1, []), (os.getpid(), [(0, signal.SIGKILL)])):
        monkeypatch.setattr(os, "getpgrp", lambda group=group: group)
        with pytest.raises(Exited):
            task_command.exit_with_command()
        assert groups == killed


def test_calls_that_block_are_interrupted_every_few_seconds(monkeypatch):
    acts: list[object] = []
    monkeypatch.setattr(signal, "signal", lambda *of: acts.append(of))
    monkeypatch.setattr(signal, "setitimer", lambda *of: acts.append(of))
    task_command.wake_regularly()
    assert acts == [
        (signal.SIGALRM, processes.ignore_signal),
        (signal.ITIMER_REAL, 2.0, 2.0),
    ]


def test_what_was_noted_for_a_command_is_done_once(slot):
    task_command.terminate_command()
    assert run("exec sleep 60") == -signal.SIGTERM
    running = task_command._running
    assert (running.note_signal, running.noted) == (0, False)


def test_the_peak_of_a_command_that_took_long_enough_is_measured(slot, monkeypatch):
    monkeypatch.setattr(task_command, "MEASURED_SECONDS", float("inf"))
    run("exit 0")
    assert task_command._running.peak == 0
    monkeypatch.setattr(task_command, "MEASURED_SECONDS", 0.0)
    run("exit 0")
    assert task_command._running.peak > 0
