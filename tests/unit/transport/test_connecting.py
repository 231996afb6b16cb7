"""Who of a node's ranks is missing, counted without processes."""

import os
import threading
import time

import pytest

from mpifarm.transport import connecting
from mpifarm.transport.connecting import (
    BLIND_SECONDS,
    MAX_SECONDS,
    STALL_SECONDS,
    RankCount,
    count_children,
    find_daemon,
)


def look(count, *counts, since=0.0, every=0.5):
    """Whether it is broken after each of these counts."""
    return [count.is_broken(n, since + every * i) for i, n in enumerate(counts)]


def test_ranks_that_are_all_there_are_not_broken():
    assert not any(look(RankCount(4, 0.0), *[4] * 1000))


def test_a_rank_that_was_there_and_is_gone_is_told_at_the_second_look():
    assert look(RankCount(4, 0.0), 4, 3, 3) == [False, False, True]


def test_a_rank_that_is_missed_in_one_look_alone_is_not_dead():
    assert not any(look(RankCount(4, 0.0), 4, 3, 4, 3, 4, 3, 4))


def test_a_node_whose_ranks_start_one_by_one_is_only_slow():
    counts = [n for n in range(1, 65) for _ in range(16)]  # each 8 s one more
    assert not any(look(RankCount(64, 0.0), *counts, *[64] * 100))


def test_a_rank_that_never_came_is_told_when_no_more_come():
    count = RankCount(4, 0.0)
    assert not any(look(count, 2, 3, 3))
    assert not count.is_broken(3, STALL_SECONDS)
    assert count.is_broken(3, STALL_SECONDS + 1.0)


@pytest.fixture
def proc(tmp_path):
    """A /proc of a daemon (10) with ranks, one of them (21) below a script (20)."""

    def add(pid, parent, comm, children=""):
        (tmp_path / f"{pid}/task/{pid}").mkdir(parents=True)
        (tmp_path / f"{pid}/comm").write_text(f"{comm}\n")
        (tmp_path / f"{pid}/stat").write_text(f"{pid} (a ) name) S {parent} 1 1\n")
        (tmp_path / f"{pid}/task/{pid}/children").write_text(children)

    add(1, 0, "init", "10 ")
    add(10, 1, "prted", "20 30 ")
    add(20, 10, "bash", "21 ")
    add(21, 20, "python")
    add(30, 10, "python")
    (tmp_path / "10/task/11").mkdir()
    (tmp_path / "10/task/11/children").write_text("40 ")
    return str(tmp_path)


@pytest.mark.parametrize("pid", [21, 30])
def test_the_daemon_of_a_node_is_found_above_scripts_too(proc, pid):
    assert find_daemon(pid, proc) == 10


@pytest.mark.parametrize("name", ["prted", "prterun", "mpirun", "mpiexec"])
def test_each_program_that_starts_ranks_is_a_daemon(proc, name):
    with open(f"{proc}/10/comm", "w") as comm:
        comm.write(f"{name}\n")
    assert find_daemon(30, proc) == 10


def test_a_start_is_given_up_after_the_times_of_the_documents():
    assert (STALL_SECONDS, BLIND_SECONDS, MAX_SECONDS) == (10.0, 120.0, 600.0)


def test_where_no_daemon_is_nothing_is_found(proc):
    assert find_daemon(10, proc) is None
    assert find_daemon(99, proc) is None


def test_the_children_of_all_threads_are_counted(proc):
    assert count_children(10, proc) == 3


def test_a_kernel_that_does_not_say_is_no_answer(proc):
    os.unlink(f"{proc}/10/task/11/children")
    assert count_children(10, proc) is None
    assert count_children(99, proc) is None


# ---- the watch ----------------------------------------------------------------------


@pytest.fixture
def watch(monkeypatch):
    """A watch that began at 0 over a node of 4 ranks: ``watch(4)``, ``watch(None)``."""
    monkeypatch.setattr(connecting, "find_daemon", lambda _: 10)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)

    def create(count):
        monkeypatch.setattr(connecting, "count_children", lambda _: count)
        environ = {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
        return connecting._Watch(environ, lambda: None)

    return create


def test_ranks_that_are_all_there_and_never_connect_are_given_up_at_last(watch):
    ranks = watch(4)
    assert not ranks._is_broken(MAX_SECONDS)
    assert ranks._is_broken(MAX_SECONDS + 1)


def test_where_no_death_would_be_seen_the_ranks_have_less_time(watch, monkeypatch):
    monkeypatch.setattr(connecting, "find_daemon", lambda _: None)
    alone = watch(4)
    assert not alone._is_broken(BLIND_SECONDS)
    assert alone._is_broken(BLIND_SECONDS + 1)


def test_a_kernel_that_does_not_count_children_is_blind_too(watch):
    blind = watch(None)
    assert not blind._is_broken(BLIND_SECONDS)
    assert blind._is_broken(BLIND_SECONDS + 1)


def test_a_rank_that_died_is_seen_by_the_watch(watch, monkeypatch):
    ranks = watch(4)
    ranks._is_broken(1.0)
    monkeypatch.setattr(connecting, "count_children", lambda _: 3)
    assert [ranks._is_broken(2.0), ranks._is_broken(2.5)] == [False, True]


@pytest.mark.parametrize(("is_broken", "turn"), [(True, 0), (True, 500), (False, 0)])
def test_ranks_that_can_not_connect_give_up_in_their_turn(monkeypatch, is_broken, turn):
    monkeypatch.setattr(connecting, "LOOK_SECONDS", 0.001)
    looks, gave_up = threading.Event(), threading.Event()

    def look(self, now):
        looks.set()
        return is_broken

    monkeypatch.setattr(connecting._Watch, "_is_broken", look)
    environ = {"OMPI_COMM_WORLD_LOCAL_RANK": str(turn)}
    with connecting.watched(environ, gave_up.set):
        assert looks.wait(20)
        if is_broken and not turn:
            assert gave_up.wait(20)
    assert gave_up.is_set() is (is_broken and not turn)
