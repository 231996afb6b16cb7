"""How a worker starts a command, and what reaches it then."""

import os
import signal
from array import array

import pytest

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
