"""``mpifarm check`` beside real farms and real PyTaskFarmers, that live or were killed.

Rules of this file: a check is a process of its own, as a user starts it.
"""

import fcntl
import signal
from pathlib import Path

import pytest

from tests.farm_driver import MPIFARM
from tests.support import snapshot, wait_until

SLOW = 40


def create_slow(create_place):
    """A list of which all tasks but the first wait until the test lets them go on."""
    place = create_place()
    waits = '[ "$1" -lt 8 ] || until [ -e go ]; do sleep 0.02; done'
    script = place.script("slow", waits, "exec sleep 0.1")
    place.write_list(f"{script} {number}" for number in range(SLOW))
    return place


def test_a_farm_that_has_ended_leaves_a_workdir_that_is_well(create_place, mpifarm):
    place = create_place(["true", "false", "true"])
    assert place.run() == 1
    before = snapshot(place.directory)
    status, text = mpifarm(place, "check", "tasks.txt_workdir")
    assert "2 finished, 1 failed, 0 to process" in text
    assert "the workdir is in order" in text
    assert status == 0
    assert mpifarm(place, "check", "tasks.txt")[0] == 0
    assert snapshot(place.directory) == before


def test_a_farm_at_work_is_well_at_any_moment_and_a_repair_leaves_it_alone(
    create_place, mpifarm
):
    place = create_place(["sleep 0.05"] * 200)
    farm = place.start("--proc", "4")
    wait_until(lambda: len(place.ids("finished")) > 3)
    for words in ([], ["--repair"], []):
        status, text = mpifarm(place, "check", "tasks.txt", *words)
        assert status == 0, text
        assert "is running" in text or farm.has_ended()
        assert "repair:" not in text
    status, text = mpifarm(place, "check", "tasks.txt", "--repair", "--assume-idle")
    assert status == 2 or farm.has_ended()
    assert farm.wait() == 0
    assert place.finished() == list(range(200))
    place.assert_sound()


def test_what_a_killed_farm_held_goes_back(create_place, mpifarm):
    place = create_slow(create_place)
    farm = place.start("--proc", "4")
    wait_until(lambda: len(place.ids("finished")) > 3)
    place.kill(farm)
    status, text = mpifarm(place, "check", "tasks.txt")
    assert status == 1
    assert "claim of a dead farm" in text
    status, text = mpifarm(place, "check", "tasks.txt", "--repair")
    assert "reclaimed from the dead farm" in text
    assert status == 0, text
    assert place.claims() == []
    known = place.ids("toprocess") + place.ids("finished")
    assert sorted(known) == list(range(SLOW))
    place.assert_sound()


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_what_a_killed_plain_farmer_lost_goes_back_if_the_user_vouches_for_it(
    create_place, plain_farmer, mpifarm
):
    place = create_slow(create_place)
    plain = place.start_plain(plain_farmer, "--proc", "4")
    wait_until(lambda: len(place.ids("finished")) > 3)
    status, text = mpifarm(place, "check", "tasks.txt")
    assert (status, "in no file: a PyTaskFarmer's, or removed" in text) == (1, True)
    place.kill(plain, "plain")
    finished = place.ids("finished")
    status, text = mpifarm(place, "check", "tasks.txt", "--repair")
    assert (status, "--assume-idle: put back" in text) == (1, True)
    status, text = mpifarm(place, "check", "tasks.txt", "--repair", "--assume-idle")
    assert "put back what was in no file" in text
    assert status == 0, text
    known = place.ids("toprocess") + place.ids("finished")
    assert sorted(known) == list(range(SLOW))
    place.allow()
    again = place.start_plain(plain_farmer, "--proc", "20")
    assert again.wait() == 0
    assert place.finished() == list(range(SLOW))
    assert place.ids("finished")[: len(finished)] == finished
    assert mpifarm(place, "check", "tasks.txt")[0] == 0


def test_of_many_ranks_one_checks(create_place, mpirun):
    place = create_place(["true"])
    assert place.run() == 0
    child = place.start_command(mpirun(3, *MPIFARM, "check", str(place.workdir)))
    assert child.wait() == 0
    assert child.text().count("the workdir is in order") == 1


def test_a_signal_ends_a_check_as_any_program(create_place):
    place = create_place(["true"])
    assert place.run() == 0
    with (place.workdir / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        child = place.start_command([*MPIFARM, "check", "tasks.txt"])
        # First Python and a farm's own noting of signals heed it, then nobody.
        wait_until(lambda: catches(child.pid, signal.SIGINT))
        wait_until(lambda: not catches(child.pid, signal.SIGINT))
        child.send_signal(signal.SIGINT)
        assert child.wait() == -signal.SIGINT


def catches(pid, signum):
    """Whether the process has a handler for the signal (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) & 1 << signum - 1)


def test_what_is_wrong_is_status_2_and_one_sentence(create_place, mpifarm):
    place = create_place(["true"])
    status, text = mpifarm(place, "check", "tasks.txt")
    assert status == 2
    assert text.startswith("mpifarm: no workdir tasks.txt_workdir")
    assert text.count("\n") == 1
