"""What a farm of one rank does about tasks that fail, and about the end of its time.

Rules of this file: each policy once, from the option to the files and the words; what
it decides is tested in `tests/unit/coordinator`.  Commands write beside the tasklist
what they did; a test waits for those lines, or for lines of the workdir, before it
sends anything.  Times are compared in the one direction that a busy machine can't turn
round.
"""

import signal
import time
from itertools import takewhile

from tests.support import try_rounds, wait_until

NOTE = "echo $PROC_NUMBER >> begun"
WAITS = f"{NOTE}; until [ -e go ]; do sleep 0.02; done"
FOR_EVER = f"{NOTE}; exec sleep 1000"


def attempts_of(place, taskid):
    """The number and the status of each attempt of a task, as ``attempts.tsv`` has."""
    return [(a.attempt, a.status) for a in place.attempts() if a.taskid == taskid]


def start_and_await_failure(place, *options):
    """A farm whose task 0 has failed and waits for its retry, when the others end.

    An attempt after which a task runs again is written with the next results.
    """
    farm = place.start("--retries", "2", "--retry-delay", "60", *options)
    wait_until(lambda: attempts_of(place, 0))
    assert attempts_of(place, 0) == [(1, 4)]
    return farm


# ---- retries -------------------------------------------------------------------------

SUCCEEDS_AT_LAST = "echo run $MPIFARM_ATTEMPT; [ $MPIFARM_ATTEMPT -ge 3 ] || exit 4"


def test_a_task_that_fails_twice_and_then_succeeds_is_finished_once(create_place):
    place = create_place([SUCCEEDS_AT_LAST, "true"])
    farm = place.start("--retries", "2")
    assert farm.wait() == 0
    place.assert_settled(finished=[0, 1])
    assert attempts_of(place, 0) == [(1, 4), (2, 4), (3, 0)]
    assert attempts_of(place, 1) == [(1, 0)]
    runs = [line for line in place.log(0).splitlines() if line.startswith("run")]
    assert runs == ["run 1", "run 2", "run 3"]
    assert place.result()["this_farm"]["attempts_that_ran_again"] == 2
    assert "2 finished, 0 failed" in farm.text()


def test_a_task_that_has_no_retry_left_is_failed_once(create_place):
    place = create_place([SUCCEEDS_AT_LAST, "kill -9 $$; true", "true"])
    farm = place.start("--retries", "1")
    assert farm.wait() == 1
    place.assert_settled(finished=[2], failed=[0, 1])
    assert attempts_of(place, 0) == [(1, 4), (2, 4)]
    assert attempts_of(place, 1) == [(1, -9), (2, -9)]
    assert farm.text().count("task 0: exit status 4") == 1
    assert farm.text().count("task 1: ") == 1


FAILS = f"{NOTE}; exit 4"
ENDS_LATER = "until [ -e begun ]; do sleep 0.02; done; sleep 0.2"
"""Several of these end when what notes its beginning has long failed."""


def test_a_stop_puts_back_what_waits_for_its_retry_and_the_next_farm_gives_it_all(
    create_place,
):
    place = create_place([FAILS, *[ENDS_LATER] * 3])
    farm = start_and_await_failure(place, "--proc", "2")
    wait_until(lambda: place.finished() == [1, 2, 3])
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == 75
    place.assert_settled(finished=[1, 2, 3], to_process=[0])
    assert place.run("--retries", "2") == 1
    assert attempts_of(place, 0) == [(1, 4), (1, 4), (2, 4), (3, 4)]
    place.assert_settled(finished=[1, 2, 3], failed=[0])


# ---- a limit for failures ------------------------------------------------------------


def test_so_many_failures_stop_the_farm_and_the_next_start_goes_on(create_place):
    rest = range(3, 9)
    place = create_place(["exit 4"] * 3 + [WAITS] * 6)
    farm = place.start("--proc", "2", "--max-failures", "3")
    assert farm.wait() == 1
    place.assert_settled(failed=range(3), to_process=rest)
    assert place.result()["exit_status"] == 1
    assert "--max-failures" in place.result()["reason"]
    assert "--max-failures" in farm.text()
    place.allow()
    assert place.run() == 1
    place.assert_settled(finished=rest, failed=range(3))


def test_no_more_fail_than_the_limit_and_what_was_running(create_place):
    place = create_place(["false"] * 2000)
    assert place.run("--proc", "8", "--max-failures", "20") == 1
    assert 20 <= len(place.ids("failed")) <= 20 + 8
    farm = place.start("--proc", "8", "--max-failures", "1%")
    assert farm.wait() == 1
    assert "20 of the list's 2000" in farm.text()
    assert "that failed before this start do not count" in farm.text()
    assert 40 <= len(place.ids("failed")) <= 40 + 16


# ---- tasks that run in pieces --------------------------------------------------------


def test_a_task_that_makes_checkpoints_runs_until_it_ends(create_place):
    piece = "echo $MPIFARM_ATTEMPT >> pieces; [ $MPIFARM_ATTEMPT -ge 4 ] || exit 75"
    place = create_place([piece])
    assert place.run("--requeue-status", "75", "--max-failures", "1") == 0
    assert place.notes("pieces") == ["1", "2", "3", "4"]
    assert attempts_of(place, 0) == [(1, 75), (2, 75), (3, 75), (4, 0)]
    place.assert_settled(finished=[0])


def test_a_task_that_made_a_checkpoint_goes_to_the_end_of_the_queue(create_place):
    piece = f"{NOTE}; [ $MPIFARM_ATTEMPT -ge 2 ] || exit 75"
    place = create_place([piece, *[f"{NOTE}; sleep 0.1"] * 8])
    assert place.run("--proc", "1", "--requeue-status", "75") == 0
    assert place.notes("begun") == [*map(str, range(9)), "0"]


def test_a_task_that_asks_to_run_again_for_ever_is_failed_and_told(create_place):
    place = create_place(["echo >> pieces; exit 75", "true"])
    farm = place.start("--requeue-status", "75")
    assert farm.wait() == 1
    asked = [each.seconds for each in place.attempts() if each.taskid == 0]
    assert len(place.notes("pieces")) == len(asked)
    # one of a second, on a machine that stalls, is none of those in a row
    assert len([*takewhile(lambda seconds: seconds < 1, reversed(asked))]) == 10
    assert "task 0 counts as failed" in farm.text()
    assert "10 times in a row" in farm.text()
    place.assert_settled(finished=[1], failed=[0])


# ---- canaries ------------------------------------------------------------------------


def test_nothing_else_is_started_when_the_canaries_fail(create_place):
    place = create_place([f"{NOTE}; exit 4"] * 2 + [NOTE] * 4)
    farm = place.start("--canary", "2")
    assert farm.wait() == 1
    assert sorted(place.notes("begun")) == ["0", "1"]
    place.assert_settled(failed=[0, 1], to_process=range(2, 6))
    assert place.result()["exit_status"] == 1
    assert "canary" in place.result()["reason"]
    assert "canary" in farm.text()
    assert place.run() == 1
    place.assert_settled(finished=range(2, 6), failed=[0, 1])


# ---- the end of the job --------------------------------------------------------------


def end_of_job(seconds):
    """The time so many seconds from now, as a batch system writes it, and the same."""
    moment = int(time.time() + seconds) + 1
    return str(moment), moment


def test_a_farm_ends_by_itself_before_its_job_does(create_place):

    def run(number):
        text, moment = end_of_job(5 * 2**number)
        place = create_place(["true", *[FOR_EVER] * 4], name=f"here {number}")
        env = {"SLURM_JOB_END_TIME": text}
        farm = place.start("--proc", "2", "--grace", "0.2", env=env)
        assert farm.wait() == 75
        return place if time.time() < moment and place.finished() else None

    place = try_rounds(run)
    place.assert_settled(finished=[0], to_process=range(1, 5))
    assert place.notes("begun")
    assert place.result()["exit_status"] == 75


def test_nothing_is_started_that_is_known_to_take_too_long(create_place):
    text, _ = end_of_job(1000)
    place = create_place([NOTE] * 4)
    farm = place.start("--deadline", text, "--task-time", "10000", "--grace", "0.2")
    assert farm.wait() == 75
    assert place.notes("begun") == []
    place.assert_settled(to_process=range(4))
    assert "--task-time" in farm.text()


def test_a_deadline_of_none_overrides_the_job(create_place):
    place = create_place([NOTE] * 4)
    end = {"SLURM_JOB_END_TIME": str(int(time.time()))}
    assert place.run("--deadline", "none", env=end) == 0
    place.assert_settled(finished=range(4))


# ---- limits for each task ------------------------------------------------------------


def how(place):
    """How each failed task has ended, in the words of ``result.json``."""
    return {each["taskid"]: each["how"] for each in place.result()["failed"]}


def test_a_task_over_its_time_is_told_in_the_summary(create_place):

    def run(number):
        place = create_place(["exec sleep 1000", "true"], name=f"here {number}")
        farm = place.start("--task-timeout", "0.3", "--grace", "0.2")
        assert farm.wait() == 1
        (quick,) = [each for each in place.attempts() if each.taskid == 1]
        return (place, farm) if quick.seconds < 0.3 else None

    place, farm = try_rounds(run)
    place.assert_settled(finished=[1], failed=[0])
    assert place.result()["this_farm"]["outcomes"] == {"completed": 1, "timed out": 1}
    assert "timed out" in how(place)[0]
    assert "task 0: timed out" in farm.text()
    assert "=== mpifarm: ended after 0.3 s, the limit" in place.log(0)


def test_a_task_over_its_time_has_its_retries(create_place):
    place = create_place(["[ $MPIFARM_ATTEMPT -ge 2 ] || exec sleep 1000"])
    options = ("--task-timeout", "0.5", "--grace", "0.2", "--retries", "20")
    assert place.run(*options) == 0
    place.assert_settled(finished=[0])


def test_a_task_out_of_memory_is_told_in_the_summary(create_place):
    place = create_place(["python3 -c 'bytearray(500_000_000)'", "true"])
    farm = place.start("--proc", "2", "--task-memory", "200M")
    assert farm.wait() == 1
    place.assert_settled(finished=[1], failed=[0])
    outcomes = place.result()["this_farm"]["outcomes"]
    assert outcomes == {"completed": 1, "out of memory": 1}
    assert "memory ran out" in how(place)[0]
    assert "task 0: memory ran out" in farm.text()


def test_a_task_whose_processes_have_too_much_memory_has_its_retries(create_place):
    eats = "python3 -c 'import time; a = bytearray(80 << 20); time.sleep(1000)'"
    line = f"[ $MPIFARM_ATTEMPT -ge 2 ] || {{ {eats} & {eats} & {eats} & wait; }}"
    place = create_place([line, "sleep 2"])
    options = ("--proc", "2", "--task-memory", "200M", "--retries", "1")
    assert place.run(*options) == 0
    place.assert_settled(finished=[0, 1])
    assert place.result()["this_farm"]["outcomes"] == {"completed": 2}
    assert "memory ran out: its processes had" in place.log(0)


def test_a_stop_sends_the_checkpoint_signal_so_that_tasks_can_save(create_place):
    saves = "trap 'echo $PROC_NUMBER >> saved; exit 3' USR1; trap '' TERM; "
    place = create_place([saves + WAITS] * 2)
    farm = place.start("--checkpoint-signal", "USR1", "--grace", "60")
    place.await_notes("begun", 2)
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == 75
    assert sorted(place.notes("saved")) == ["0", "1"]
    place.assert_settled(to_process=[0, 1])
    assert place.result()["exit_status"] == 75
