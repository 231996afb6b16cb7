"""The same command again: goes on where the last farm was, whatever ended that one."""

import os
import re
import signal
import time
from collections import Counter

import pytest

from tests.support import survivors, wait_until
from tests.workdir_files import split_attempts

LIST = ["true", "echo b", "true # c", "echo d", "exit 7"]
ALL = set(range(len(LIST)))


def notes_ids(count, seconds=0.05):
    return [f"echo $PROC_NUMBER >> starts; sleep {seconds}"] * count


def note_ids_and_wait(count, free, seconds=0.1):
    """But for the `free` first ones, they wait until the test lets them go on."""
    waits = f"[ $PROC_NUMBER -lt {free} ] || until [ -e go ]; do sleep 0.02; done"
    return [f"echo $PROC_NUMBER >> starts; {waits}; sleep {seconds}"] * count


def started(place):
    return Counter(map(int, place.notes("starts")))


def await_a_start(place, farm, before):
    """Until a command has begun, or the farm has nothing more to start."""
    wait_until(lambda: farm.has_ended() or started(place) - before)


def finished_and_failed(place):
    return place.finished(), place.failed()


# ---- after an end in order -----------------------------------------------------------


def test_a_finished_list_runs_nothing_again(create_place):
    place = create_place(notes_ids(20, 0))
    assert place.run() == 0
    finished, timeline = place.content("finished"), place.content("timeline.json")
    assert place.run() == 0
    assert started(place) == Counter(range(20))
    assert place.content("finished") == finished
    assert place.content("timeline.json") == timeline
    assert len(place.attempts()) == 20
    place.assert_sound()


def test_nothing_finished_runs_again_after_stop_upon_stop(create_place):
    until = "until [ $PROC_NUMBER -lt $(cat limit) ]; do sleep 0.02; done"
    place = create_place([f"echo $PROC_NUMBER >> starts; {until}; sleep 0.05"] * 70)
    status, rounds = 75, 0
    before: set[int] = set()
    while status == 75 and rounds < 30:
        # no round does all that is left, however long the machine stalls
        (place.directory / "limit").write_text(f"{20 * (rounds + 1)}\n")
        farm = place.start("--proc", "4")
        once = started(place)
        await_a_start(place, farm, once)
        time.sleep(0.25 + 0.1 * (rounds % 4))
        if not farm.has_ended():
            farm.send_signal([signal.SIGUSR1, signal.SIGTERM][rounds % 2])
        status = farm.wait()
        again = {i for i, n in (started(place) - once).items() if n}
        assert not again & before, "finished tasks were started again"
        place.assert_sound()
        before, rounds = set(place.ids("finished")), rounds + 1
    assert status == 0
    assert rounds > 2
    assert place.finished() == list(range(70))


def test_a_second_attempt_keeps_the_log_of_the_first(create_place):
    place = create_place(
        ["echo first words; echo $$ >> begun; [ -e go ] || sleep 1000; echo done"]
    )
    farm = place.start()
    place.await_notes("begun", 1)
    wait_until(lambda: place.log(0))
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == 75
    place.allow()
    assert place.run() == 0
    lines = place.log(0).splitlines()
    assert lines[0] == lines[-2] == "first words"
    assert lines[-1] == "done"
    between = [line for line in lines if line.startswith("=== mpifarm: started again")]
    assert len(between) == 1


def test_the_line_of_a_second_attempt_stands_on_its_own(create_place):
    place = create_place(["printf half; echo >> begun; [ -e go ] || sleep 1000"])
    farm = place.start()
    place.await_notes("begun", 1)
    wait_until(lambda: place.log(0))
    farm.send_signal(signal.SIGTERM)
    assert farm.wait() == 75
    place.allow()
    assert place.run() == 0
    first, second, third = place.log(0).splitlines()
    assert (first, third) == ("half", "half")
    assert second.startswith("=== mpifarm: started again")


# ---- after kill -9 -------------------------------------------------------------------


def test_after_kill_9_of_all_the_next_start_takes_the_claim_back(create_place):
    place = create_place(note_ids_and_wait(120, free=40))
    farm = place.start("--proc", "4")
    wait_until(lambda: len(place.ids("finished")) > 8)
    place.kill(farm)
    place.allow()
    held = set(range(120)) - set(place.ids("finished")) - set(place.ids("toprocess"))
    assert held
    assert len(place.claims()) == 1
    finished, before = set(place.ids("finished")), started(place)
    again = place.start("--proc", "16")
    assert again.wait() == 0
    assert "dead farm" in again.text()
    assert not set(started(place) - before) & finished
    assert place.finished() == list(range(120))
    assert max(started(place).values()) == 2
    assert place.claims() == []
    place.assert_sound()


def test_a_kill_of_the_rank_alone_is_made_right_as_well(create_place, farm_token):
    place = create_place(notes_ids(60, 0.1))
    farm = place.start("--proc", "4")
    wait_until(lambda: len(place.ids("finished")) > 4)
    farm.send_signal(signal.SIGKILL)
    # at once: the pool of the dead one may still be there
    again = place.start("--proc", "8")
    assert again.wait() == 0
    assert place.finished() == list(range(60))
    place.assert_sound()
    wait_until(lambda: not survivors(farm_token))


def test_a_zombie_farm_is_dead(create_place):
    # its launcher has not waited for it yet: kill -0 says that it lives
    place = create_place(["echo >> begun; [ -e go ] || sleep 1000"])
    farm = place.start()
    place.await_notes("begun", 1)
    os.kill(farm.pid, signal.SIGKILL)
    place.allow()
    assert place.run() == 0
    assert farm.process.returncode is None


# ---- files that another has left like that -------------------------------------------


def write(place, **files):
    place.workdir.mkdir()
    for name, content in files.items():
        (place.workdir / name).write_bytes(content)


def test_toprocess_that_lists_finished_tasks_runs_the_others(create_place):
    place = create_place(notes_ids(4, 0))
    text = place.tasks[0].encode()
    write(
        place,
        finished=b"0 %s\n2 %s\n" % (text, text),
        toprocess=b"".join(b"%d %s\n" % (i, text) for i in range(4)),
    )
    assert place.run() == 0
    assert started(place) == Counter([1, 3])
    assert place.finished() == [0, 1, 2, 3]
    place.assert_sound()


def test_a_finished_task_put_back_while_a_farm_works_does_not_run_again(create_place):
    place = create_place(note_ids_and_wait(60, free=8))
    farm = place.start("--proc", "2")
    wait_until(lambda: len(place.ids("finished")) > 2)
    done = place.ids("finished")[0]
    put_back_as_a_plain_farmer(place, done)
    place.allow()
    assert farm.wait() == 0
    assert started(place)[done] == 1
    assert place.content("toprocess") == b""
    place.assert_sound()


def put_back_as_a_plain_farmer(place, taskid):
    """Under the lock, in place, sorted: as PyTaskFarmer's record_toprocess_task."""
    import fcntl

    with open(place.workdir / "lock", "w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ids = sorted({*place.ids("toprocess"), taskid})
        with open(place.workdir / "toprocess", "w") as stream:
            stream.writelines(f"{i} {place.tasks[i]}\n" for i in ids)


def test_no_toprocess_means_all_that_is_not_finished(create_place):
    place = create_place(notes_ids(4, 0))
    write(place, finished=b"1 %s\n" % place.tasks[1].encode())
    assert place.run() == 0
    assert started(place) == Counter([0, 2, 3])
    place.assert_sound()


def test_an_empty_toprocess_means_nothing(create_place):
    place = create_place(notes_ids(2, 0))
    write(place, toprocess=b"")
    farm = place.start()
    assert farm.wait() == 3
    assert not started(place)
    # what it says runs them
    (remedy,) = re.findall(r"mpifarm (check --repair [^,]*),", farm.text())
    assert place.run_words(*remedy.split()) == 0
    assert place.run() == 0
    assert started(place) == Counter(range(2))


@pytest.mark.parametrize(
    ("finished", "runs"),
    [
        (b"0 true\n1 echo b\n2 tru", {2, 3, 4}),
        # PyTaskFarmer appends to a torn line
        (b"0 true\n1 ech2 true # c\n", {1, 3, 4}),
    ],
)
def test_a_torn_line_of_finished_finishes_nothing_else(create_place, finished, runs):
    place = create_place(LIST)
    write(place, finished=finished)
    assert place.run() == 1
    assert {attempt.taskid for attempt in place.attempts()} == runs
    tasks = place.result()["tasks"]
    assert (tasks["finished"], tasks["failed"]) == (4, 1)
    assert place.content("finished").endswith(b"\n")
    assert place.run() == 1
    assert {attempt.taskid for attempt in place.attempts()} == runs
    place.assert_sound()


def test_a_torn_line_of_failed_is_mended(create_place):
    place = create_place(LIST)
    write(place, failed=b"4 exi", finished=b"0 true\n", toprocess=b"1 echo b\n")
    assert place.run() == 3
    assert place.ids("finished") == [0, 1]
    assert place.violations(alone=False) == []
    assert place.content("failed").endswith(b"\n")


@pytest.mark.parametrize(
    ("toprocess", "runs"),
    [
        # as PyTaskFarmer leaves it when it is killed while it writes in place
        (b"1 echo b\n2 true # c\n3 ec", {1, 2, 3}),
        (b"3 echo d\n1 echo b\n1 echo b\n\n", {1, 3}),
    ],
)
def test_a_torn_line_of_toprocess_runs_nothing_wrong(create_place, toprocess, runs):
    place = create_place(LIST)
    write(place, toprocess=toprocess)
    assert place.run() == 3
    assert {attempt.taskid for attempt in place.attempts()} == runs
    assert set(place.ids("finished")) == runs
    assert place.content("toprocess") == b""
    assert place.violations(alone=False) == []


@pytest.mark.parametrize("timeline", [b'[{"cat": "task", "na', b"{}"])
def test_a_timeline_that_is_no_json_is_mended_and_kept(create_place, timeline):
    place = create_place(LIST)
    write(place, **{"timeline.json": timeline})
    assert place.run() == 1
    assert len(place.timeline()) == len(LIST)
    place.assert_sound()


def test_torn_files_of_the_farm_itself_are_no_trouble(create_place):
    place = create_place(LIST)
    write(place, **{"fingerprint.json": b'{"ver', "attempts.tsv": b"taskid\tatt"})
    (place.workdir / "result.json").write_bytes(b"{")
    assert place.run() == 1
    assert finished_and_failed(place) == ([0, 1, 2, 3], [4])
    assert place.result()["exit_status"] == 1
    attempts, torn = split_attempts(place.content("attempts.tsv"))
    assert sorted(each.taskid for each in attempts) == [*range(5)]
    assert torn == ["taskid\tatt"]


def test_unknown_files_in_the_workdir_stay_as_they_are(create_place):
    place = create_place(LIST)
    write(place, **{"toprocess.mine.1": b"mine", "notes.txt": b"mine"})
    assert place.run() == 1
    assert place.content("notes.txt") == b"mine"


# ---- several farms -------------------------------------------------------------------


def test_farms_that_start_in_the_same_moment_share_a_new_workdir(create_place):
    place = create_place(notes_ids(120, 0.03))
    farms = [place.start("--proc", "2", name=f"farm {n}") for n in range(4)]
    # 3: done for itself, while another still has some
    assert {farm.wait() for farm in farms} <= {0, 3}
    assert started(place) == Counter(range(120))
    place.assert_all_finished()
    assert place.run() == 0


def test_a_second_farm_joins_and_takes_its_share(create_place):
    # a farm that is far ahead waits for the other
    waits = "[ -e go ] || [ $(grep -c $MPIFARM_FARM farms) -lt 12 ]"
    waits += " || until [ -e go ]; do sleep 0.02; done"
    notes = "echo $PROC_NUMBER >> starts; echo $MPIFARM_FARM >> farms"
    place = create_place([f"{notes}; {waits}; sleep 0.1"] * 80)
    one = place.start("--proc", "2")
    place.await_notes("starts", 2)
    two = place.start("--proc", "2", name="two")
    wait_until(lambda: sorted(Counter(place.notes("farms")).values())[-2:-1] >= [10])
    place.allow()
    assert {one.wait(), two.wait()} <= {0, 3}
    assert started(place) == Counter(range(80))
    farms = Counter(attempt.farm for attempt in place.attempts())
    assert len(farms) == 2
    assert min(farms.values()) >= 10
    assert len(place.attempts()) == 80
    place.assert_sound()
    assert "is at work" in two.text()


def test_a_farm_whose_tasks_are_with_another_ends_with_3(create_place):
    place = create_place(["echo >> begun; until [ -e go ]; do sleep 0.02; done"])
    one = place.start()
    place.await_notes("begun", 1)
    assert place.run(name="two") == 3
    place.allow()
    assert one.wait() == 0
    assert len(place.notes("begun")) == 1


def test_two_farms_with_locks_that_do_not_exclude_each_other_do_not_work_together(
    create_place,
):
    # by way of the workdir's own lock they always do: also with two lock areas
    place = create_place(notes_ids(40))
    areas = [place.directory / "area 1", place.directory / "area 2"]
    for area in areas:
        area.mkdir()
    farms = [
        place.start("--proc", "2", "--lock-area", str(area), name=area.name)
        for area in areas
    ]
    assert {farm.wait() for farm in farms} <= {0, 3}
    assert started(place) == Counter(range(40))
    place.assert_sound()


def test_a_workdir_by_two_names_is_one(create_place):
    place = create_place(notes_ids(60))
    alias = place.directory / "alias"
    alias.symlink_to(place.workdir)
    one = place.start("--proc", "2")
    wait_until(place.workdir.exists)
    two = place.start("--proc", "2", "--workdir", str(alias), name="two")
    assert {one.wait(), two.wait()} <= {0, 3}
    assert started(place) == Counter(range(60))
    place.assert_sound()


# ---- from another directory ----------------------------------------------------------


def test_a_resume_in_another_directory_stops_and_names_the_one_to_give(create_place):
    place = create_place(["./count"] * 40)
    place.script("count", "echo x >> counted")
    drain = place.workdir / "drain"
    place.workdir.mkdir()
    drain.touch()
    assert place.run() == 75
    drain.unlink()
    other = place.directory / "other"
    other.mkdir()
    place.directory, home = other, place.directory
    farm = place.start()
    assert farm.wait() == 75
    said = farm.text()
    assert f"WARNING: this list was begun in {home}, and its commands run" in said
    assert f"to go on, give --chdir {home} with the same command\n" in said
    assert "the same command again" not in said
    assert place.ids("failed") == []
    farm = place.start("--chdir", str(home))
    assert farm.wait() == 0
    assert "was begun in" not in farm.text()
    assert len((home / "counted").read_text().split()) == 40


def test_a_directory_to_run_in_that_is_not_there_is_the_users_mistake(create_place):
    place = create_place(["true"])
    farm = place.start("--chdir", "nowhere")
    assert farm.wait() == 2
    assert "can't run commands in nowhere" in farm.text()
    assert not place.workdir.exists()
