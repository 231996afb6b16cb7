"""What a signal does to a farm of one rank, and to the commands that it runs.

Rules of this file: commands write their pids and what happens to them beside the
tasklist; a test waits for those lines before it sends anything.
"""

import fcntl
import os
import signal
import time
from collections import Counter

import pytest

from tests.farm_driver import send_signal
from tests.support import (
    environment_of,
    is_running,
    is_suspended,
    survivors,
    try_rounds,
    wait_until,
)

SLEEP = "echo $$ >> begun; exec sleep 1000"

IGNORES = "trap 'echo $$ >> asked' TERM; echo $$ >> begun; while :; do sleep 0.05; done"
"""It notes a TERM, and goes on."""


STOPS = [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def start_and_await(place, count, *options):
    """A farm of which so many commands run."""
    farm = place.start(*options)
    place.await_notes("begun", count)
    return farm


def assert_nothing_is_left(place, farm_token):
    wait_until(lambda: not survivors(farm_token))
    place.assert_sound()
    assert place.claims() == []
    assert not list(place.workdir.glob("toprocess.*"))


def stop(farm, signum):
    """Seconds from the signal to the end; the status must be 75."""
    sent = time.monotonic()
    farm.send_signal(signum)
    assert farm.wait() == 75
    return time.monotonic() - sent


# ---- the stop ------------------------------------------------------------------------


@pytest.mark.parametrize("signum", STOPS)
def test_a_stop_kills_what_runs_and_puts_it_back(create_place, farm_token, signum):
    place = create_place(["true"] * 2 + [SLEEP] * 6 + ["true"] * 3)
    farm = start_and_await(place, 4, "--proc", "4")
    wait_until(lambda: place.finished() == [0, 1])
    stop(farm, signum)
    assert_nothing_is_left(place, farm_token)
    assert place.finished() == [0, 1]
    assert place.content("failed") == b""
    assert place.ids("toprocess") == list(range(2, 11))
    assert place.result()["exit_status"] == 75
    assert signum.name in place.result()["reason"]
    assert signum.name in farm.text()


def test_the_timeout_stops_as_usr1_does(create_place, farm_token):

    def run(number):
        seconds = 1.5 * 2**number  # longer for a machine that stalls
        place = create_place(["true"] * 2 + [SLEEP] * 4, name=f"here {number}")
        begun = time.monotonic()
        farm = place.start("--timeout", f"{seconds}")
        assert farm.wait() == 75
        assert time.monotonic() - begun >= seconds
        has_begun = len(place.notes("begun")) == 4 and len(place.finished()) == 2
        return (place, farm) if has_begun else None

    place, farm = try_rounds(run)
    assert "4 tasks running, ended now and run again next time" in farm.text()
    assert_nothing_is_left(place, farm_token)
    assert place.ids("toprocess") == [2, 3, 4, 5]
    assert place.finished() == [0, 1]
    assert "timeout" in place.result()["reason"]


def test_a_timeout_that_is_not_needed_does_no_harm(create_place):
    assert create_place(["true"] * 3).run("--timeout", "60") == 0


def test_usr1_gives_commands_time_to_clean_up(create_place, farm_token):
    cleans = (
        "trap 'sleep 0.5; echo cleaned > end; exit 1' TERM; echo $$ >> begun; "
        "while :; do sleep 0.05; done"
    )
    place = create_place([cleans])
    farm = start_and_await(place, 1, "--grace", "60")
    assert stop(farm, signal.SIGUSR1) > 0.5
    assert place.notes("end") == ["cleaned"]
    assert place.ids("toprocess") == [0]
    assert_nothing_is_left(place, farm_token)


@pytest.mark.parametrize("grace", ["0", "0.5"])
def test_a_command_that_ignores_term_is_killed_after_the_grace(
    create_place, farm_token, grace
):
    place = create_place([IGNORES, "true"])
    farm = start_and_await(place, 1, "--grace", grace)
    assert stop(farm, signal.SIGUSR1) >= float(grace)
    assert_nothing_is_left(place, farm_token)
    assert 0 in place.ids("toprocess")


def test_term_does_not_wait_for_a_command_that_ignores_it(create_place, farm_token):
    place = create_place([IGNORES])
    farm = start_and_await(place, 1, "--grace", "1000")
    stop(farm, signal.SIGTERM)
    assert_nothing_is_left(place, farm_token)
    assert place.ids("toprocess") == [0]


def test_a_term_hastens_a_stop_that_gives_grace(create_place, farm_token):
    place = create_place([IGNORES])
    farm = start_and_await(place, 1, "--grace", "1000")
    farm.send_signal(signal.SIGUSR1)
    place.await_notes("asked", 1)
    stop(farm, signal.SIGTERM)
    assert_nothing_is_left(place, farm_token)
    assert place.ids("toprocess") == [0]


def test_a_second_usr1_in_the_stop_changes_nothing(create_place, farm_token):
    place = create_place([IGNORES, "true"])
    farm = start_and_await(place, 1, "--grace", "1")
    sent = time.monotonic()
    farm.send_signal(signal.SIGUSR1)
    place.await_notes("asked", 1)
    stop(farm, signal.SIGUSR1)
    assert time.monotonic() - sent >= 1
    assert_nothing_is_left(place, farm_token)
    assert 0 in place.ids("toprocess")


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
def test_grandchildren_die_with_their_command(create_place, farm_token, signum):
    family = "(sleep 1000; true) & (sleep 1000 & wait) & echo $$ >> begun; wait"
    place = create_place([family])
    farm = start_and_await(place, 1)
    stop(farm, signum)
    assert_nothing_is_left(place, farm_token)
    assert place.ids("toprocess") == [0]


def test_a_grandchild_that_ignores_term_dies_too(create_place, farm_token):
    family = (
        "(trap '' TERM; echo $$ >> begun; while :; do sleep 0.05; done) & "
        "exec sleep 1000"
    )
    place = create_place([family])
    farm = start_and_await(place, 1, "--grace", "0.5")
    stop(farm, signal.SIGUSR1)
    assert_nothing_is_left(place, farm_token)


def test_a_stop_before_the_first_command_leaves_everything_to_do(create_place):
    place = create_place(["until [ -e go ]; do sleep 0.02; done"] * 50)
    farm = place.start()
    wait_until(place.workdir.exists)
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == 75
    place.assert_sound()
    place.allow()
    assert place.run() == 0
    assert place.finished() == list(range(50))


@pytest.mark.parametrize("after", [0.0, 0.03, 0.1, 0.2])
def test_a_signal_right_at_the_start_ends_it_in_order_or_by_that_signal(
    create_place, after
):
    place = create_place(["true"] * 3)
    farm = place.start()
    time.sleep(after)
    farm.send_signal(signal.SIGUSR1)
    # before our first line of Python runs, nobody can catch it
    assert farm.wait() in (75, 0, -signal.SIGUSR1)
    assert place.run() == 0
    place.assert_sound()


# ---- the signal that reaches the commands as well ------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
def test_nothing_that_the_signal_ended_is_booked(create_place, farm_token, signum):

    def run(number):
        place = create_place(["true"] + [SLEEP] * 12, name=f"here {number}")
        farm = start_and_await(place, 8, "--proc", "8")
        wait_until(lambda: place.ids("finished") == [0])
        seconds = place.signal_all(farm, signum)
        status = farm.wait()
        # what ended 52 ms before the signal of the farm counts
        return (place, status) if seconds < 0.04 else None

    place, status = try_rounds(run)
    assert status == 75
    assert place.content("failed") == b""
    assert place.content("finished") == b"0 true\n"
    assert place.ids("toprocess") == list(range(1, 13))
    assert_nothing_is_left(place, farm_token)


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
def test_a_command_that_ends_with_0_half_done_is_not_booked(
    create_place, farm_token, signum
):
    traps = (
        "trap 'echo half >> halves; exit 0' TERM USR1; echo $$ >> begun; "
        "while :; do sleep 0.02; done"
    )

    def run(number):
        place = create_place([traps] * 4, name=f"here {number}")
        # in a job, whose signals are waited for longer than others: 182 ms
        options = ("--proc", "8", "--deadline", "none")
        farm = place.start(*options, env={"SLURM_JOB_ID": "7"})
        place.await_notes("begun", 4)
        # the commands get it well before the farm does
        sent = time.monotonic()
        send_signal(map(int, place.notes("begun")), signum)
        place.await_notes("halves", 4)
        farm.send_signal(signum)
        seconds = time.monotonic() - sent
        status = farm.wait()
        return (place, status) if seconds < 0.17 else None

    place, status = try_rounds(run)
    assert status == 75
    assert place.content("finished") == place.content("failed") == b""
    assert place.ids("toprocess") == [0, 1, 2, 3]
    assert_nothing_is_left(place, farm_token)


def test_a_command_that_a_stop_lets_end_with_0_is_not_booked(create_place, farm_token):
    traps = "trap 'exit 0' TERM; echo $$ >> begun; while :; do sleep 0.02; done"
    place = create_place([traps] * 3)
    farm = start_and_await(place, 3, "--grace", "60")
    stop(farm, signal.SIGUSR1)
    assert place.content("finished") == place.content("failed") == b""
    assert place.ids("toprocess") == [0, 1, 2]
    assert_nothing_is_left(place, farm_token)


def test_what_ended_well_before_the_stop_stays_finished(create_place):
    place = create_place(["true", SLEEP])
    farm = start_and_await(place, 1)
    wait_until(lambda: place.ids("finished") == [0])
    stop(farm, signal.SIGTERM)
    assert place.ids("finished") == [0]
    assert place.ids("toprocess") == [1]


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_after_the_last_word_does_not_change_the_exit_status(
    create_place, signum
):
    # a batch system signals a job that is just ending; its script reads the status
    for attempt in range(2):
        place = create_place(["true"], name=f"here {attempt}")
        farm = place.start()
        while not farm.has_ended():
            if "exit status 0" in farm.text():
                farm.send_signal(signum)
        assert farm.wait() == 0


# ---- the second INT ------------------------------------------------------------------


def test_a_second_int_ends_it_at_once_and_the_next_start_makes_it_right(
    create_place, farm_token
):
    place = create_place(["true", SLEEP, SLEEP])
    farm = start_and_await(place, 2)
    wait_until(lambda: place.ids("finished") == [0])
    # stopped in between, it can't be done with the first before the second comes
    os.kill(farm.pid, signal.SIGSTOP)
    farm.send_signal(signal.SIGINT)
    os.kill(farm.pid, signal.SIGCONT)
    time.sleep(0.25)
    if not farm.has_ended():
        farm.send_signal(signal.SIGINT)
    assert farm.wait() == 75
    wait_until(lambda: not survivors(farm_token))
    stop(start_and_await(place, 4), signal.SIGUSR1)
    assert place.ids("finished") == [0]
    assert place.ids("toprocess") == [1, 2]
    assert_nothing_is_left(place, farm_token)


def test_one_ctrl_c_that_comes_twice_at_once_is_one(create_place, farm_token):

    def run(number):
        place = create_place([SLEEP], name=f"here {number}")
        farm = start_and_await(place, 1)
        with (place.workdir / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # its stop waits for that
            sent = time.monotonic()
            farm.send_signal(signal.SIGINT)
            time.sleep(0.02)  # else the kernel makes one of them
            farm.send_signal(signal.SIGINT)
            seconds = time.monotonic() - sent
        status = farm.wait()
        return (place, status) if seconds < 0.1 else None  # two in 0.2 s are one

    place, status = try_rounds(run)
    assert status == 75
    # an orderly stop: the result is written, the claim removed
    assert_nothing_is_left(place, farm_token)
    assert place.result()["exit_status"] == 75


# ---- the drain -----------------------------------------------------------------------


def start_waiting_for_go(place, count):
    return start_and_await(place, count, "--proc", "2")


WAITS = "echo $$ >> begun; until [ -e go ]; do sleep 0.02; done"


def await_drain(farm):
    wait_until(lambda: "nothing more is started" in farm.text())


@pytest.mark.parametrize("how", ["USR2", "file"])
def test_a_drain_finishes_what_runs_and_starts_nothing_more(create_place, how):
    place = create_place([WAITS] * 6)
    farm = start_waiting_for_go(place, 2)
    if how == "USR2":
        farm.send_signal(signal.SIGUSR2)
    else:
        (place.workdir / "drain").touch()
    await_drain(farm)
    place.allow()
    assert farm.wait() == 75
    assert place.finished() == [0, 1]
    assert place.ids("toprocess") == [2, 3, 4, 5]
    assert len(place.notes("begun")) == 2
    place.assert_sound()
    assert {"USR2": "USR2", "file": "drain"}[how] in place.result()["reason"]


def test_a_drain_starts_nothing_of_what_waits_behind_short_tasks(create_place):
    place = create_place(["true"] * 40 + [WAITS] * 16)
    farm = place.start("--proc", "2")
    place.await_notes("begun", 2)
    farm.send_signal(signal.SIGUSR2)
    # all but the two that run; which two of the sixteen that are is not promised
    wait_until(lambda: len(place.ids("toprocess") + place.ids("finished")) == 54)
    place.allow()
    assert farm.wait() == 75
    assert len(place.notes("begun")) == 2
    returned = place.ids("toprocess")
    assert sorted(returned + place.ids("finished")) == list(range(56))
    assert len([taskid for taskid in returned if taskid >= 40]) == 14


def test_a_worker_that_is_free_gets_what_waits_for_another(create_place):
    place = create_place(["true"] * 40 + [WAITS] * 4)
    farm = place.start("--proc", "4")
    place.await_notes("begun", 4)
    place.allow()
    assert farm.wait() == 0


def test_a_drain_of_the_last_tasks_ends_with_their_status(create_place):
    place = create_place([WAITS, WAITS + "; exit 4"])
    farm = start_waiting_for_go(place, 2)
    farm.send_signal(signal.SIGUSR2)
    await_drain(farm)
    place.allow()
    assert farm.wait() == 1
    assert (place.ids("finished"), place.ids("failed")) == ([0], [1])


def test_a_drain_file_that_is_still_there_is_told_and_starts_nothing(create_place):
    place = create_place(["echo x >> ran"] * 3)
    place.workdir.mkdir()
    (place.workdir / "drain").touch()
    farm = place.start()
    assert farm.wait() == 75
    assert place.notes("ran") == []
    assert str(place.workdir / "drain") in farm.text()
    assert "this farm started no task, in " in farm.text()
    (place.workdir / "drain").unlink()
    assert place.run() == 0
    assert place.notes("ran") == ["x"] * 3


def test_a_stop_ends_a_drain(create_place, farm_token):
    place = create_place([SLEEP] * 4)
    farm = start_waiting_for_go(place, 2)
    farm.send_signal(signal.SIGUSR2)
    await_drain(farm)
    assert len(place.ids("toprocess")) == 2
    stop(farm, signal.SIGUSR1)
    assert place.ids("toprocess") == [0, 1, 2, 3]
    assert_nothing_is_left(place, farm_token)


# ---- Ctrl-Z --------------------------------------------------------------------------


def test_a_suspended_farm_goes_on_as_it_was(create_place):
    place = create_place(["echo $PROC_NUMBER >> begun; sleep 0.3"] * 30)
    farm = start_and_await(place, 4, "--proc", "4")
    os.kill(farm.pid, signal.SIGSTOP)
    wait_until(lambda: is_suspended(farm.pid))
    time.sleep(1)
    os.kill(farm.pid, signal.SIGCONT)
    assert farm.wait() == 0
    assert Counter(map(int, place.notes("begun"))) == Counter(range(30))
    assert place.finished() == list(range(30))
    place.assert_sound()


def test_a_signal_that_came_in_the_suspension_counts(create_place, farm_token):
    place = create_place([SLEEP] * 2)
    farm = start_and_await(place, 2)
    os.kill(farm.pid, signal.SIGSTOP)
    farm.send_signal(signal.SIGUSR1)
    os.kill(farm.pid, signal.SIGCONT)
    assert farm.wait() == 75
    assert place.ids("toprocess") == [0, 1]
    assert_nothing_is_left(place, farm_token)


def test_nohup_keeps_a_farm_from_a_hangup(create_place):
    place = create_place([WAITS, "true"])
    farm = place.start(before=("nohup",))
    place.await_notes("begun", 1)
    farm.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    place.allow()
    assert farm.wait() == 0
    assert place.finished() == [0, 1]


# ---- kill -9 -------------------------------------------------------------------------


def test_the_commands_of_a_rank_that_is_killed_die(create_place, farm_token):
    place = create_place([SLEEP] * 3)
    farm = start_and_await(place, 3)
    assert all(environment_of(int(pid)) for pid in place.notes("begun"))
    farm.send_signal(signal.SIGKILL)
    assert farm.wait() == -signal.SIGKILL
    wait_until(lambda: not survivors(farm_token))
    assert not any(is_running(int(pid)) for pid in place.notes("begun"))
