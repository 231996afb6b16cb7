"""A farm of one rank from its start to its end: what ran, and what the workdir says."""

import re
import shlex
import time

import pytest

from mpifarm.farm.failures import MAX_TOLD


def is_settled(place):
    """Nothing is held, nothing left over, and the workdir breaks no promise."""
    return (
        place.violations() == []
        and place.claims() == []
        and place.content("toprocess") == b""
        and not list(place.workdir.glob("toprocess.*"))
    )


# ---- how many tasks ------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n", b"# only a comment\n"])
def test_a_list_without_tasks_says_so_and_makes_no_workdir(create_place, content):
    place = create_place(content=content)
    farm = place.start()
    assert farm.wait() == 0
    assert "no tasks" in farm.text()
    assert not place.workdir.exists()


@pytest.mark.parametrize("count", [3, 5000])
def test_every_task_runs_once_and_is_recorded_once(create_place, count):
    place = create_place(["true"] * count)
    begun = time.time()
    assert place.run() == 0
    ended = time.time()
    assert place.finished() == list(range(count))
    assert place.content("failed") == b""
    assert is_settled(place)
    attempts = place.attempts()
    assert sorted(attempt.taskid for attempt in attempts) == list(range(count))
    assert {(a.attempt, a.status, a.rank) for a in attempts} == {(1, 0, 0)}
    assert all(begun <= a.started <= ended for a in attempts)
    assert all(0 <= a.seconds < ended - begun for a in attempts)
    events = place.timeline()
    assert [event["name"] for event in events] == ["true"] * count
    assert all(begun * 1e6 <= e["ts"] <= ended * 1e6 for e in events)
    assert {(e["cat"], e["args"]["outcome"]) for e in events} == {("task", "completed")}
    assert [e["args"]["taskid"] for e in events] == [a.taskid for a in attempts]
    assert len(list((place.workdir / "logs").iterdir())) == count


def test_more_workers_than_tasks_is_no_trouble(create_place):
    place = create_place(["echo a", "echo b"])
    assert place.run("--proc", "16") == 0
    assert [place.log(0), place.log(1)] == ["a\n", "b\n"]


def test_equal_lines_are_tasks_of_their_own(create_place):
    place = create_place(["echo $PROC_NUMBER >> ids"] * 20)
    assert place.run() == 0
    assert sorted(map(int, place.notes("ids"))) == list(range(20))


def test_as_many_tasks_run_at_one_time_as_proc_says(create_place):
    wait = "echo $$ >> here; until [ $(wc -l < here) -ge 3 ]; do sleep 0.02; done"
    place = create_place([wait] * 3)
    assert place.run("-n", "3") == 0


# ---- what the workdir says -----------------------------------------------------------


def test_status_0_is_finished_and_any_other_failed(create_place):
    statuses = [0, 1, 2, 77, 126, 255]
    place = create_place([f"exit {status}" for status in statuses])
    assert place.run() == 1
    assert place.content("finished") == b"0 exit 0\n"
    lines = place.content("failed").decode().splitlines()
    assert sorted(lines) == [f"{i} exit {statuses[i]}" for i in range(1, 6)]
    found = {attempt.taskid: attempt.status for attempt in place.attempts()}
    assert found == dict(enumerate(statuses))
    assert is_settled(place)


def test_the_summary_and_result_json_say_the_same(create_place):
    place = create_place(["true", "exit 3", "true"])
    farm = place.start("--proc", "2")
    assert farm.wait() == 1
    result = place.result()
    assert result["exit_status"] == 1
    counts = {"total": 3, "finished": 2, "failed": 1, "toprocess": 0, "elsewhere": 0}
    assert {name: result["tasks"][name] for name in counts} == counts
    assert result["this_farm"]["ran"] == 3
    assert result["this_farm"]["outcomes"] == {"completed": 2, "failed": 1}
    assert result["this_farm"]["workers"] == 2
    text = farm.text()
    assert "2 finished, 1 failed" in text
    assert "task 1: exit status 3" in text
    assert str(place.workdir / "logs" / "log_1") in text
    assert "exit status 1:" in text.splitlines()[-1]


LOST = "echo nothing; cat tasks.txt.$PROC_NUMBER"

WRONG = "echo 'ValueError: too hot' >&2; exit 3"


@pytest.mark.parametrize("logs", ["all", "packed"])
def test_failures_are_told_as_they_happen_and_by_cause_in_the_end(create_place, logs):
    place = create_place([LOST, WRONG] * 6 + ["true"])
    farm = place.start("--logs", logs)
    assert farm.wait() == 1
    text = farm.text()
    assert re.search(r"task \d+ failed \(exit status 3\) after .* on .*: echo ", text)
    assert re.search(r"task \d+ printed last: ValueError: too hot", text)
    assert len(re.findall(r"task \d+ failed", text)) == MAX_TOLD
    assert "failed: 6 tasks: ValueError: too hot" in text
    assert re.search(r"failed: 6 tasks: .*No such file or directory", text)
    (again,) = re.findall(r"mpifarm (retry .* --ids 1,3,5,7,9,11)\n", text)
    assert place.run_words(*shlex.split(again)) == 0
    assert place.ids("toprocess") == [1, 3, 5, 7, 9, 11]


def test_a_few_failures_are_listed_one_by_one(create_place):
    place = create_place(["exit 4", "true", "exit 5", "exit 6"])
    farm = place.start()
    assert farm.wait() == 1
    for taskid, status in ((0, 4), (2, 5), (3, 6)):
        log = f"tasks.txt_workdir/logs/log_{taskid}"
        assert re.search(
            f"failed: task {taskid}: exit status {status}, see .*{log}", farm.text()
        )


def test_the_log_has_stdout_and_stderr_in_the_order_of_writing(create_place):
    place = create_place(["echo 1; echo 2 >&2; echo 3; printf 4 >&2"])
    assert place.run() == 0
    assert place.log(0) == "1\n2\n3\n4"


def test_an_id_that_is_in_no_file_is_told_by_exit_status_3(create_place):
    place = create_place(["true"] * 4)
    place.workdir.mkdir()
    (place.workdir / "toprocess").write_text("0 true\n1 true\n3 true\n")
    farm = place.start()
    assert farm.wait() == 3
    assert place.finished() == [0, 1, 3]
    assert place.result()["tasks"]["elsewhere"] == 1
    # 3 says more than 1: whoever reads it must not take the list for done
    assert "exit status 3" in farm.text()


def test_a_failed_task_does_not_run_again_by_itself(create_place):
    place = create_place(["echo x >> ran; exit 1"])
    assert place.run() == 1
    assert place.run() == 1
    assert place.notes("ran") == ["x"]


def test_the_default_workdir_is_beside_the_list_and_commands_run_here(
    create_place, tmp_path
):
    place = create_place(["pwd"])
    here = tmp_path / "elsewhere"
    here.mkdir()
    assert place.run(before=("env", "-C", str(here))) == 0
    assert place.log(0) == f"{here}\n"
    assert place.workdir.is_dir()


def test_odd_names_of_list_and_workdir_are_taken_as_they_are(create_place):
    place = create_place(["echo a"], name="a b'c\"d$e*é")
    place.workdir = place.directory / "w o\nrk"
    assert place.run("--workdir", str(place.workdir)) == 0
    assert place.log(0) == "a\n"
    assert is_settled(place)


# ---- lines ---------------------------------------------------------------------------


def test_the_shortest_commands_run(create_place):
    commands = [":", "id", "pwd", "true", "echo ab"]
    assert [len(command) for command in commands] == [1, 2, 3, 4, 7]
    place = create_place(commands)
    assert place.run() == 0
    assert place.log(2) == f"{place.directory}\n"
    assert place.log(4) == "ab\n"


@pytest.mark.parametrize("size", [5_000, 1_000_000])
def test_a_long_line_runs_whole(create_place, size):
    plain = "echo " + "a" * (size - 5)
    piped = "echo " + "b" * (size - 13) + " | wc -c"
    place = create_place([plain, piped])
    assert place.run() == 0
    assert place.log(0) == "a" * (size - 5) + "\n"
    assert place.log(1) == f"{size - 12}\n"
    assert sorted(place.content("finished").splitlines()) == [
        b"0 " + plain.encode(),
        b"1 " + piped.encode(),
    ]
    assert is_settled(place)


def test_a_last_line_without_newline_is_a_task(create_place):
    place = create_place(content=b"echo a\necho b")
    assert place.run() == 0
    assert [place.log(0), place.log(1)] == ["a\n", "b\n"]


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_other_line_ends_are_no_part_of_the_command(create_place, end):
    place = create_place(content=end.join([b"echo a", b"echo b", b""]))
    assert place.run() == 0
    assert [place.log(0), place.log(1)] == ["a\n", "b\n"]
    assert place.content("finished").count(b"\r") == 0


def test_comments_and_blank_lines_have_no_id(create_place):
    content = b"# a comment\n\necho a\n   \n#echo x\n  echo b # a remark\n"
    place = create_place(content=content)
    assert place.run() == 0
    assert sorted(place.content("finished").splitlines()) == [
        b"0 echo a",
        b"1 echo b # a remark",
    ]
    assert [place.log(0), place.log(1)] == ["a\n", "b\n"]


def test_bytes_that_are_not_utf_8_pass_unchanged(create_place):
    word = bytes(set(range(0x80, 0x100)) - {0x85, 0xA0})
    place = create_place([b"echo '" + word + b"'", b"printf %s " + word])
    assert place.run() == 0
    assert place.content("logs/log_0") == word + b"\n"
    assert place.content("logs/log_1") == word
    assert b"1 printf %s " + word + b"\n" in place.content("finished")
    assert is_settled(place)


# ---- commands that behave badly ------------------------------------------------------


def test_a_command_that_does_not_exist_fails_with_127_and_a_reason(create_place):
    place = create_place(["no_such_command_here", "./nor/here", "true"])
    assert place.run() == 1
    assert place.failed() == [0, 1]
    assert {a.status for a in place.attempts() if a.taskid < 2} == {127}
    assert "not found" in place.log(0)
    assert "No such file or directory" in place.log(1)


def test_a_file_without_permission_to_run_fails_with_126(create_place):
    place = create_place(["./tasks.txt"])
    assert place.run() == 1
    assert [a.status for a in place.attempts()] == [126]
    assert "Permission denied" in place.log(0)


@pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("KILL", 9), ("SEGV", 11)])
def test_death_by_signal_is_told_in_the_log_and_in_attempts(create_place, name, number):
    place = create_place([f"echo begun; kill -{name} $$"])
    farm = place.start()
    assert farm.wait() == 1
    assert [a.status for a in place.attempts()] == [-number]
    first, said = place.log(0).splitlines()
    assert first == "begun"
    assert f"killed by signal {number}" in said
    assert f"killed by signal {number} (SIG{name})" in farm.text()


def test_the_farm_does_not_wait_for_what_a_task_leaves_behind(create_place):
    leaves = "setsid sleep 1000 & echo left"
    place = create_place([leaves, "sleep 1000 & echo left", "true"])
    assert place.run() == 0
    assert [place.log(0), place.log(1)] == ["left\n", "left\n"]


def test_a_task_that_closes_its_stdout_finishes(create_place):
    place = create_place(["exec >&- 2>&- <&-; sleep 0.1", "echo a; exec >&-"])
    assert place.run() == 0
    assert place.log(1) == "a\n"


def test_a_task_that_floods_its_stdout_has_it_all_in_its_log(create_place):
    place = create_place(["yes | head -c 30000000", "echo a"])
    assert place.run() == 0
    assert len(place.content("logs/log_0")) == 30_000_000
    assert place.log(1) == "a\n"


def test_a_task_that_writes_binary_keeps_its_bytes(create_place):
    place = create_place(["head -c 100000 /dev/zero | tr '\\0' '\\377'"])
    assert place.run() == 0
    assert place.content("logs/log_0") == b"\xff" * 100_000


def test_a_task_that_kills_its_parent_fails_after_three_tries(create_place):
    kill = 'echo $PPID >> tried; echo "try $MPIFARM_ATTEMPT"; kill -9 $PPID; sleep 1000'
    place = create_place(["echo a"] * 5 + [kill] + ["echo a"] * 5)
    begun = time.time()
    farm = place.start("--proc", "2")
    assert farm.wait() == 1
    assert place.ids("failed") == [5]
    assert place.finished() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert len(set(place.notes("tried"))) == 3
    assert is_settled(place)
    assert place.result()["this_farm"]["outcomes"]["lost"] == 1
    # each try is in its log
    log = place.log(5)
    for attempt in (1, 2, 3):
        assert f"try {attempt}\n" in log
    assert "started again, attempt 3" in log
    # that the worker died, not the command: else the user looks for the wrong thing
    assert "worker" in log.rpartition("try 3\n")[2]
    assert "worker" in next(e for e in farm.text().splitlines() if "task 5:" in e)
    # ts 0 is 1970: Perfetto would draw one bar of fifty years
    assert min(event["ts"] for event in place.timeline()) >= begun * 1e6
    assert min(attempt.started for attempt in place.attempts()) >= begun
