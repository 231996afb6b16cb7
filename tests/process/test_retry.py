"""``mpifarm retry`` beside real farms: what failed runs again, and only that."""

from pathlib import Path

import pytest

from tests.farm_driver import MPIFARM
from tests.support import wait_until


def test_failed_tasks_run_again_and_only_they(create_place, mpifarm):
    place = create_place(["echo 0 >> ran", "echo 1 >> ran; [ -e ready ]", "exit 3"])
    assert place.run() == 1
    Path(place.directory, "ready").touch()
    status, text = mpifarm(place, "retry", "tasks.txt_workdir", "--ids", "1")
    assert status == 0
    assert "1 task put back to be run: 1\n" in text
    assert f"start one: mpifarm {place.tasklist}\n" in text
    assert place.run() == 1
    assert sorted(place.notes("ran")) == ["0", "1", "1"]
    assert place.finished() == [0, 1]
    assert place.ids("failed") == [2]
    place.assert_sound()


def test_the_status_of_the_last_attempt_chooses(create_place, mpifarm):
    place = create_place(["kill -9 $$; true", "exit 137", "exit 1"])
    assert place.run() == 1
    _, text = mpifarm(place, "retry", "tasks.txt", "--status", "137")
    assert "2 tasks put back to be run: 0-1\n" in text
    assert place.ids("failed") == [2]


def test_a_farm_at_work_takes_them_up(create_place, mpifarm):
    place = create_place(
        ["[ -e ready ]", *["until [ -e done ]; do sleep 0.02; done"] * 2]
    )
    farm = place.start("--proc", "2")
    wait_until(lambda: place.ids("failed") == [0])
    Path(place.directory, "ready").touch()
    status, text = mpifarm(place, "retry", "tasks.txt")
    assert status == 0, text
    Path(place.directory, "done").touch()
    assert farm.wait() == 0
    assert place.finished() == [0, 1, 2]
    assert place.ids("failed") == []
    place.assert_sound()
    assert mpifarm(place, "check", "tasks.txt")[0] == 0


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_plain_farmers_take_them_up(create_place, plain_farmer, mpifarm):
    place = create_place(["test -e ready", "true"])
    assert place.start_plain(plain_farmer).wait() == 0
    assert place.ids("failed") == [0]
    Path(place.directory, "ready").touch()
    assert mpifarm(place, "retry", "tasks.txt")[0] == 0
    assert place.start_plain(plain_farmer).wait() == 0
    assert place.finished() == [0, 1]
    assert place.content("failed") == b""


def test_an_id_that_has_not_failed_is_status_2_and_nothing_is_touched(
    create_place, mpifarm
):
    place = create_place(["true", "false"])
    assert place.run() == 1
    status, text = mpifarm(place, "retry", "tasks.txt", "--ids", "0-1")
    assert status == 2
    assert text.startswith("mpifarm: nothing was put back: task 0 is finished")
    assert place.ids("failed") == [1]


def test_of_many_ranks_one_retries(create_place, mpirun):
    place = create_place(["false"])
    assert place.run() == 1
    child = place.start_command(mpirun(3, *MPIFARM, "retry", str(place.workdir)))
    assert child.wait() == 0
    assert child.text().count("put back to be run") == 1
