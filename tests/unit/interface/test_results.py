"""Results: the status files say what has become of a task, the attempts say how."""

import pytest

from mpifarm.errors import ExitStatus, InputError, StorageError
from mpifarm.interface.directory import Directory
from mpifarm.interface.ending import Ending
from mpifarm.interface.results import Results, TasksFailedError, read_states
from mpifarm.interface.tasks import list_tasks
from mpifarm.store.attempts import FIRST_HEADER, HEADER
from tests.unit.interface.test_attempts import first_line, line

TASKS = ["zero", "one", "two", "three"]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "stdin.txt").write_text("".join(f"{task}\n" for task in TASKS))
    return tmp_path


def read(place, status=ExitStatus.RUN_AGAIN, reason=""):
    directory = Directory(str(place))
    tasks = list_tasks([(task, task.upper()) for task in TASKS])
    return Results(
        directory, Ending(status, reason), tasks, read_states(directory.paths)
    )


def write(place, **files):
    for name, taskids in files.items():
        lines = [f"{taskid} {TASKS[taskid]}\n" for taskid in taskids]
        (place / name).write_text("".join(lines))


def write_attempts(place, *lines):
    (place / "attempts.tsv").write_bytes(HEADER + b"".join(lines))


def ids(attempts):
    return [attempt.taskid for attempt in attempts]


def test_results_tell_what_failed_and_what_is_left(place):
    write(place, finished=[0], failed=[1], toprocess=[2, 3])
    write_attempts(place, line(1, "failed", 2), line(0))
    results = read(place, reason="SIGUSR1 was received")
    assert ids(results) == [0, 1]
    assert (ids(results.completed), ids(results.failed)) == ([0], [1])
    assert results.left == [2, 3]
    with pytest.raises(TasksFailedError) as error:
        results.check()
    assert str(error.value) == (
        "4 tasks, 1 completed, 1 failed, 2 left; exit status 75 (SIGUSR1 was received),"
        f" workdir {place}; the first that failed: task 1 (ONE), failed, status 2:"
        " echo \t 1"
    )
    assert error.value.failed == results.failed


def test_results_of_tasks_that_have_all_completed_pass(place):
    write(place, finished=[0, 1, 2, 3], toprocess=[])
    read(place, ExitStatus.ALL_FINISHED).check()


def test_a_task_that_was_lost_three_times_has_failed(place):
    write(place, failed=[1], toprocess=[0, 2, 3])
    write_attempts(place, *[line(1, "lost", 137)] * 3)
    results = read(place)
    assert [each.outcome for each in results.failed] == ["lost"]
    assert results.left == [0, 2, 3]


def test_a_task_with_a_retry_left_has_not_failed_yet(place):
    write(place, finished=[0], toprocess=[1, 2, 3])
    write_attempts(place, line(1, "failed", 2), line(0))
    results = read(place)
    assert results.failed == []
    assert results.left == [1, 2, 3]
    assert results[1].has_failed


def test_what_plain_farmers_have_ended_has_ended(place):
    write(place, finished=[0, 1], failed=[2], toprocess=[3])
    write_attempts(place, line(1, "failed", 2))
    results = read(place)
    assert results.left == [3]
    assert [each[:5] for each in results] == [
        (0, "ZERO", 0, "completed", 0),
        (1, "ONE", 0, "completed", 0),
        (2, "TWO", 0, "failed", 1),
    ]
    assert (ids(results.completed), ids(results.failed)) == ([0, 1], [2])
    assert results[2].command == "two"


def test_attempts_of_format_1_count_wherever_they_stand(place):
    write(place, finished=[0, 1], toprocess=[2, 3])
    (place / "attempts.1.tsv").write_bytes(FIRST_HEADER + first_line(0))
    write_attempts(place, line(1))
    results = read(place)
    assert [(each.name, each.seconds) for each in results] == [
        ("ZERO", 0.5),
        ("ONE", 0.5),
    ]
    assert results[0].command == "zero"


def test_tasks_of_others_behind_the_given_ones_are_left_out(place):
    (place / "stdin.txt").write_text("zero\none\ntwo\nthree\nmore\n")
    write(place, finished=[0, 1, 2, 3], toprocess=[])
    with (place / "finished").open("a") as file:
        file.write("4 more\n")
    write_attempts(place, *map(line, range(5)))
    assert ids(read(place)) == [0, 1, 2, 3]


def test_results_stay_as_they_were_at_the_end(place):
    write(place, finished=[0], toprocess=[1, 2, 3])
    write_attempts(place, line(0))
    results = read(place)
    write(place, finished=[0, 1], toprocess=[2, 3])
    write_attempts(place, line(0), line(1))
    assert (ids(results), results.left) == ([0], [1, 2, 3])


def test_a_status_file_that_cannot_be_read_is_an_error(place):
    (place / "finished").mkdir()
    with pytest.raises(StorageError, match="finished"):
        read(place)


def test_the_output_of_a_task_that_is_not_there_is_refused(place):
    results = read(place)
    assert results.read_output(3) == ""
    for taskid in (-1, 4):
        refused = f"there is no task {taskid}: there are 4 tasks, from 0 on"
        with pytest.raises(InputError, match=refused):
            results.read_output(taskid)
    (place / "logs").mkdir()
    (place / "logs" / "log_4").write_text("of a task that was added\n")
    assert results.read_output(4) == "of a task that was added\n"
