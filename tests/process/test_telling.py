"""``mpifarm cancel``, ``hold``, ``release`` and ``drain`` beside real farms."""

import json
import os
import signal

import pytest

from tests.farm_driver import MPIFARM, Part, assert_ends
from tests.support import wait_until

LONG = "touch started.$PROC_NUMBER; exec sleep 1000"
WAITS = "touch started.$PROC_NUMBER; while [ ! -e go ]; do sleep 0.02; done"


def tell(place, *words, status=0):
    """Give a command; what it says."""
    child = place.start_command([*MPIFARM, *words])
    assert child.wait(90) == status, child.text()
    return child.text()


def outcomes(place):
    return {each.taskid: each.outcome for each in place.attempts()}


def test_what_runs_is_ended_and_what_waits_never_starts(create_place):
    place = create_place([LONG, f"trap '' TERM; {LONG}; true", *["true"] * 4])
    child = place.launch("-n", "2", "--grace", "1")
    place.wait_for_marks("started", 2)
    said = tell(place, "cancel", "tasks.txt", "3-4")
    assert "cancelled 2 tasks: 2 waited" in said
    said = tell(place, "cancel", "tasks.txt", "0,1")
    assert f"cancelled 2 tasks: 2 ran on {os.uname().nodename}" in said
    assert_ends(child, 1)
    assert place.failed() == [0, 1, 3, 4]
    assert place.finished() == [2, 5]
    assert {outcomes(place)[taskid] for taskid in place.failed()} == {"cancelled"}
    assert "cancelled the task (mpifarm cancel)" in place.log(0)
    assert place.pids(Part.COMMAND) == []
    said = tell(place, "cancel", "tasks.txt", "0", status=1)
    assert "no farm works in" in said
    tell(place, "retry", "tasks.txt", "--ids", "3,4")
    place.finish(status=1)
    assert place.finished() == [2, 3, 4, 5]
    place.assert_sound()


def test_held_tasks_wait_for_their_release_on_two_farms(create_place):
    place = create_place([WAITS] * 2 + ["true"] * 4)
    farms = [place.launch("-n", "1", name=name) for name in ("one", "two")]
    place.wait_for_marks("started", 2)
    said = tell(place, "hold", "tasks.txt", "0", "3-4", "--json")
    told = json.loads(said)
    assert told["done"]
    assert told["fates"] == {"waited": "3-4", "runs on": "0"}
    assert len(told["farms"]) == 2
    place.allow()
    wait_until(lambda: place.finished() == [0, 1, 2, 5], 60)
    assert place.ids("waiting") == [3, 4]
    tell(place, "release", "tasks.txt", "3")
    wait_until(lambda: place.finished() == [0, 1, 2, 3, 5], 60)
    tell(place, "release", "tasks.txt")
    statuses = sorted(child.wait(60) for child in farms)
    assert statuses in ([0, 0], [0, 3]), "3: the other still ran the last"
    place.assert_all_finished()


def test_a_farm_that_is_held_as_a_whole_keeps_on_and_drains(create_place):
    place = create_place([WAITS, *["true"] * 4])
    child = place.launch("-n", "1")
    place.wait_for_marks("started", 1)
    said = tell(place, "hold", "tasks.txt")
    assert "all tasks are held; 1 task runs on" in said
    place.allow()
    wait_until(lambda: place.finished() == [0], 60)
    assert "drains" in tell(place, "drain", "tasks.txt")
    assert_ends(child, 75)
    assert place.to_process() == [1, 2, 3, 4]
    said = tell(place, "release", "tasks.txt")
    assert "no farm works in tasks.txt_workdir: the next one" in said
    place.finish()
    place.assert_all_finished()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cancel", "tasks.txt", "7"), "has 1 task, from 0 on, and no task 7"),
        (("cancel", "tasks.txt", "x"), "'x' is not the id of a task"),
        (("cancel", "tasks.txt"), "needs the ids of tasks after it"),
        (("drain", "tasks.txt", "3"), "3"),
        (("hold", "tasks.txt", "--wait", "-1"), "--wait takes seconds"),
    ],
)
def test_a_mistake_is_told_in_a_sentence_and_changes_nothing(create_place, words, said):
    place = create_place(["true"])
    place.finish()
    before = sorted(os.listdir(place.workdir))
    assert said in tell(place, *words, status=2)
    assert sorted(os.listdir(place.workdir)) == before


def test_a_farm_that_is_killed_before_it_answers_is_said_to_be_gone(create_place):
    place = create_place([LONG] * 2)
    child = place.launch("-n", "1")
    place.wait_for_marks("started", 1)
    (rank,) = place.pids(Part.RANK)
    os.kill(rank, signal.SIGSTOP)  # it can't answer
    asked = place.start_command([*MPIFARM, "cancel", "tasks.txt", "0,1"])
    requests = place.workdir / "requests"
    wait_until(lambda: requests.read_bytes().endswith(b"\n"), 60)
    place.kill(child)
    assert asked.wait(90) == 1
    assert "has ended before it answered" in asked.text()
    # Nobody heeds it later: both run, and are cancelled by a farm that lives.
    again = place.launch("-n", "2")
    place.wait_for_marks("started", 2)
    tell(place, "cancel", "tasks.txt", "0,1")
    assert_ends(again, 1)
    assert place.failed() == [0, 1]
    place.assert_sound()
