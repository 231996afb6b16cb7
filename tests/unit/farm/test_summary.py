"""What a farm says about itself."""

import json
from typing import Any

import pytest

from mpifarm.causes.failure import Failure
from mpifarm.causes.groups import CauseGrouper
from mpifarm.coordinator.quarantine import OutOfUse
from mpifarm.errors import ExitStatus
from mpifarm.farm.cause_lines import GroupedFailures
from mpifarm.farm.summary import (
    LONG_RATE_SECONDS,
    MAX_STATUSES,
    MEANINGS,
    RATE_SECONDS,
    FailedTask,
    ListCounts,
    Summary,
    Tally,
    failed_in_words,
    how_it_failed,
    progress_line,
    status_in_words,
)
from mpifarm.model.task import LEFT_RUNNING, Lease, Outcome
from mpifarm.pool.out_of_memory import excess_line
from tests.pages import take_block
from tests.unit.virtual_rank import result_of


def result(taskid: int = 0, seconds: float = 1.0, status: int = 0) -> Any:
    return result_of(Lease(taskid, 1, "x"), 0.0, seconds, status)


# ---- the exit status ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        (ListCounts(5, 5, 0, 0, 0), ExitStatus.ALL_FINISHED),
        (ListCounts(0, 0, 0, 0, 0), ExitStatus.ALL_FINISHED),
        (ListCounts(5, 4, 1, 0, 0), ExitStatus.SOME_FAILED),
        (ListCounts(5, 0, 5, 0, 0), ExitStatus.SOME_FAILED),
        (ListCounts(5, 4, 0, 1, 0), ExitStatus.RUN_AGAIN),
        (ListCounts(5, 2, 1, 1, 1), ExitStatus.RUN_AGAIN),
        (ListCounts(5, 4, 0, 0, 1), ExitStatus.WITH_OTHERS),
        (ListCounts(5, 3, 1, 0, 1), ExitStatus.WITH_OTHERS),
        (ListCounts(5, 2, 0, 2, 1, held_up=2), ExitStatus.WITH_OTHERS),
        (ListCounts(5, 1, 0, 3, 1, held_up=2), ExitStatus.RUN_AGAIN),
    ],
)
def test_the_exit_status_says_what_is_left(counts, status):
    assert counts.exit_status is status


def test_the_exit_statuses_are_those_that_job_scripts_know():
    assert {status.name: status.value for status in ExitStatus} == {
        "ALL_FINISHED": 0,
        "SOME_FAILED": 1,
        "BAD_INPUT": 2,
        "WITH_OTHERS": 3,
        "DEFECT": 70,
        "RUN_AGAIN": 75,
    }
    assert MEANINGS.keys() == set(ExitStatus)


# ---- the tally ----------------------------------------------------------------------


def test_a_tally_counts_outcomes_and_keeps_the_statuses_of_failures():
    tally = Tally(started=100.0)
    for taskid, status in enumerate([0, 3, 0, -9]):
        tally.add(result(taskid, status=status))
    assert tally.ran == 4
    assert tally.outcomes == {Outcome.COMPLETED: 2, Outcome.FAILED: 2}
    assert tally.statuses == {1: "exit status 3", 3: "killed by signal 9 (SIGKILL)"}


def test_a_task_that_was_put_back_counts_as_it_ended_last():
    tally = Tally(started=0.0)
    for taskid, status in [(0, 3), (1, 3), (0, 0), (1, 4), (2, 0)]:
        tally.add(result(taskid, status=status))
    assert tally.statuses == {1: "exit status 4"}
    assert tally.repeated == 2


def test_tasks_that_were_not_run_are_not_told_once_all_are_done():
    tally = Tally(started=0.0)
    tally.add(result(4)._replace(outcome=Outcome.NOT_RUN))
    told = [
        any("not run: 1 task" in line for line in summary(**each).lines())
        for each in (
            {"tally": tally},
            {"tally": tally, "counts": ListCounts(12, 12, 0, 0, 0), "failed": []},
        )
    ]
    assert told == [True, False]


@pytest.mark.parametrize(
    ("failed", "repeated", "said"),
    [
        (20, 0, "1 finished, 1 failed, 19 not run, 0 to process, "),
        (19, 0, "1 finished, 0 failed, 19 not run, 0 to process, "),
        (18, 0, "1 finished, 18 failed, 0 to process, "),
        (20, 1, "1 finished, 20 failed, 0 to process, "),
    ],
)
def test_what_was_not_run_is_counted_apart_unless_tasks_were_put_back(
    failed, repeated, said
):
    tally = Tally(started=0.0, repeated=repeated)
    for taskid in range(19):
        tally.add(result(taskid)._replace(outcome=Outcome.NOT_RUN))
    counts = ListCounts(21, 1, failed, 0, 0)
    assert summary(tally=tally, counts=counts, failed=[]).lines()[0].startswith(said)


def test_tasks_that_left_something_running_are_counted_and_the_first_are_named():
    tally = Tally(started=0.0)
    for taskid in (5, 3, *range(20, 40)):
        tally.add(result(taskid)._replace(note=LEFT_RUNNING))
    tally.add(result(7))
    assert (tally.left_running, tally.cut_short) == (22, 0)
    told = "\n".join(summary(tally=tally).lines())
    assert "22 tasks ended while processes started there still ran" in told
    assert "waits: task 3, 5, 20, 21, 22, 23, 24, 25, 26, 27, …" in told
    payload: Any = summary(tally=tally).payload()
    assert payload["this_farm"]["left_processes_running"] == 22


def test_a_failed_task_that_left_something_running_says_so():
    failed = result(status=3)._replace(note=LEFT_RUNNING)
    assert how_it_failed(failed) == f"exit status 3; {LEFT_RUNNING}"


def test_a_tally_does_not_grow_with_the_number_of_failures():
    tally = Tally(started=100.0)
    for taskid in range(3 * MAX_STATUSES):
        tally.add(result(taskid, status=1))
    assert len(tally.statuses) == MAX_STATUSES
    assert tally.ran == 3 * MAX_STATUSES


def test_the_rate_is_that_of_the_last_seconds():
    tally = Tally(started=0.0)
    for second in range(1, 101):
        for _ in range(5 if second <= 50 else 2):
            tally.add(result())
        rate = tally.rate(float(second))
        if second == 50:
            assert rate == pytest.approx(5.0)
    assert tally.rate(100.0) == pytest.approx(2.0)
    assert len(tally._recent) < 2 * LONG_RATE_SECONDS


def test_tasks_that_end_by_bursts_have_a_rate_between_these():
    tally = Tally(started=0.0)
    for second in range(1, 91):
        if second % 15 == 0:
            tally.add(result())
        rate = tally.rate(float(second))
        if second > 60:
            assert rate == pytest.approx(1 / 15, rel=0.6)
    rates = [tally.rate(float(second)) for second in range(91, 152)]
    assert rates[-1] == 0.0


def test_the_first_rate_is_that_since_the_start():
    tally = Tally(started=100.0)
    for _ in range(30):
        tally.add(result())
    assert tally.rate(103.0) == pytest.approx(10.0)


def test_a_rate_without_time_is_none():
    tally = Tally(started=100.0)
    assert tally.rate(100.0) == 0.0
    assert tally.rate(100.0) == 0.0


def test_the_busy_share_is_of_the_time_of_all_workers():
    tally = Tally(started=100.0, worker_count=4)
    tally.add(result(seconds=20.0))
    assert tally.busy_share(110.0) == pytest.approx(0.5)
    assert tally.busy_share(101.0) == 1.0
    assert tally.busy_share(100.0) == 0.0
    assert Tally(started=100.0).busy_share(110.0) == 0.0


# ---- words --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exit status 0"),
        (127, "exit status 127"),
        (-9, "killed by signal 9 (SIGKILL)"),
        (-15, "killed by signal 15 (SIGTERM)"),
        (-41, "killed by signal 41"),
        (-999, "killed by signal 999"),
    ],
)
def test_statuses_in_words(status, words):
    assert status_in_words(status) == words


def test_the_progress_line_says_what_is_done_and_how_long_it_takes():
    line = progress_line(100, 40, 10, 8, 0.5, "about 2 min left")
    assert line == "50/100 done, 10 failed, 8 running, 0.5 tasks/s, about 2 min left"


def test_without_a_rate_the_time_left_is_said_all_the_same():
    line = progress_line(100, 0, 0, 8, 0.0, "about 2 h left")
    assert line == "0/100 done, 0 failed, 8 running, about 2 h left"


def test_what_is_not_known_is_left_out():
    line = progress_line(100, 0, 0, 8, 0.0, "")
    assert line == "0/100 done, 0 failed, 8 running"


def test_more_done_than_there_is_leaves_no_time():
    line = progress_line(10, 10, 2, 0, 1.0, "about 1 s left")
    assert line == "10/10 done, 2 failed, 0 running, 1 tasks/s"


def test_the_share_of_a_farm_is_what_it_has_done_of_all_that_was_done_since():
    tally = Tally(started=0.0, done_before=100)
    assert tally.share(done=150) == 1.0
    for _ in range(10):
        tally.add(result())
    assert tally.share(done=110) == 1.0
    assert tally.share(done=180) == pytest.approx(1 / 8)
    # retry has put back what had failed
    assert tally.share(done=60) == 1.0


def test_a_failed_task_names_how_it_failed_and_its_log():
    how = how_it_failed(result(7, status=-15))
    assert FailedTask(7, how, "w/logs/log_7").in_words() == (
        "task 7: killed by signal 15 (SIGTERM), see w/logs/log_7"
    )


def test_a_task_whose_workers_were_killed_was_not_killed_itself():
    lost = result(7, status=-9)._replace(outcome=Outcome.LOST, attempt=3)
    assert how_it_failed(lost) == ("its worker or its rank died each time that it ran")


def test_a_failure_by_a_limit_names_the_limit():
    late = result(7, status=-15)._replace(outcome=Outcome.TIMED_OUT, seconds=30.0)
    assert how_it_failed(late) == (
        "timed out after 30 s (killed by signal 15 (SIGTERM))"
    )
    large = result(7, status=1)._replace(outcome=Outcome.OUT_OF_MEMORY)
    assert how_it_failed(large) == "memory ran out (exit status 1)"


def test_an_output_that_may_not_be_whole_is_told_apart_from_how_its_task_ended():
    tally = Tally(0.0)
    for taskid, status in ((3, 0), (4, 7)):
        cut = result(taskid, status=status)._replace(note="can't write the end of log")
        tally.add(cut)
    lines = "\n".join(summary(tally=tally).lines())
    assert (
        "the output of 2 tasks may not be whole: task 3: can't write the end" in lines
    )
    assert tally.outcomes[Outcome.COMPLETED] == 1
    assert tally.statuses == {4: "exit status 7; can't write the end of log"}
    unrun = result(5, status=1)._replace(note="not run: no log")
    assert how_it_failed(unrun) == "not run: no log"


OUT = OutOfUse(3, "n18", "14 tasks in a row failed there")


def test_the_summary_names_the_ranks_that_fell_out():
    changes = {"lost": [(2, "n17"), (0, "")], "quarantined": [OUT]}
    lines = summary(**changes).lines()
    assert "ranks that were lost: rank 2 on n17, rank 0; " in "\n".join(lines)
    assert "put out of use: rank 3 on n18: 14 tasks in a row failed there" in lines
    payload = summary(**changes).payload()
    assert payload["lost"] == [{"rank": 2, "host": "n17"}, {"rank": 0, "host": ""}]
    assert payload["quarantined"] == [OUT._asdict()]


def test_attempts_whose_tasks_ran_again_are_counted_apart():
    tally = Tally(started=0.0, worker_count=1)
    tally.note_retry(result(1, status=1))
    tally.add(result(1, status=0))
    farm = summary(tally=tally).payload()["this_farm"]
    assert isinstance(farm, dict)
    assert (farm["ran"], farm["attempts_that_ran_again"]) == (1, 1)


# ---- the summary --------------------------------------------------------------------


def summary(**changes: Any) -> Summary:
    tally = Tally(started=0.0, worker_count=8)
    for taskid in range(6):
        tally.add(result(taskid, status=taskid // 4))
    settings: dict[str, Any] = {
        "farm": "f00d",
        "tasklist": "list.txt",
        "workdir": "list.txt_workdir",
        "ranks": 2,
        "seconds": 3.0,
        "counts": ListCounts(12, 9, 3, 0, 0),
        "tally": tally,
        "failed": [
            FailedTask(4, "exit status 1", "log_4"),
            FailedTask(5, "exit status 1", "log_5"),
        ],
        "busy_share": 0.25,
        "status": ExitStatus.SOME_FAILED,
        "reason": "",
        "place": "list.txt_workdir",
    }
    return Summary(**{**settings, **changes})


def test_the_summary_says_what_is_finished_failed_left_and_the_exit_status():
    lines = summary().lines()
    assert lines[0] == (
        "9 finished, 3 failed, 0 to process, 0 with others; 12 tasks in all"
    )
    assert "ran 6 tasks in 3 s (2 tasks/s) with 8 workers on 2 ranks, 25 %" in lines[1]
    assert lines[-1] == "exit status 1: nothing is left to do; some tasks failed"


def test_the_summary_names_the_first_failures_and_counts_the_others():
    lines = summary().lines()
    assert "failed: task 4: exit status 1, see log_4" in lines
    assert "failed: 1 more, see list.txt_workdir/failed" in lines
    assert not [line for line in summary(failed=[]).lines() if "task 4" in line]


def test_the_summary_says_why_a_farm_ended_early_and_what_is_to_be_known():
    left = {"counts": ListCounts(12, 9, 2, 1, 0), "status": ExitStatus.RUN_AGAIN}
    lines = summary(
        **left, reason="SIGUSR1 was received", notes=["rank 3 was lost"]
    ).lines()
    assert "ended early: SIGUSR1 was received" in lines
    assert "rank 3 was lost" in lines
    assert not [line for line in summary().lines() if "ended early" in line]


@pytest.mark.parametrize(
    ("status", "failed"), [(ExitStatus.ALL_FINISHED, 0), (ExitStatus.SOME_FAILED, 3)]
)
def test_a_farm_that_did_all_has_not_ended_early(status, failed):
    counts = ListCounts(12, 12 - failed, failed, 0, 0)
    lines = summary(reason="SIGUSR2", counts=counts, status=status).lines()
    said = "too late to end early, because no task was left to start: SIGUSR2"
    assert said in lines
    others = counts._replace(finished=counts.finished - 1, elsewhere=1)
    lines = summary(reason="SIGUSR2", counts=others, status=status).lines()
    assert "ended early: SIGUSR2" in lines


def test_the_summary_says_where_the_outputs_are():
    lines = summary(outputs_of="list.txt_workdir").lines()
    assert "outputs: mpifarm log list.txt_workdir" in lines
    assert not [line for line in summary().lines() if "outputs" in line]


def test_the_attempts_of_a_failed_task_are_counted():
    third = result(7, status=1)._replace(attempt=3, seconds=2.0, worker_index=1)
    assert failed_in_words(third) == (
        "failed (exit status 1, the last of 3 attempts) after 2 s"
    )
    tally = Tally(started=0.0)
    tally.add(third)
    tally.add(result(8, status=1))
    assert tally.statuses == {
        7: "exit status 1, the last of 3 attempts",
        8: "exit status 1",
    }
    cancelled = third._replace(outcome=Outcome.CANCELLED, worker_index=None)
    assert failed_in_words(cancelled) == "failed (cancelled before it ran)"


@pytest.mark.parametrize(("left", "said"), [(1, "1 task is"), (7, "7 tasks are")])
def test_what_is_left_after_too_many_failures_may_have_been_tried(left, said):
    because = "none of the first 3 tasks (--canary) succeeded"
    counts = ListCounts(12, 2, 3, left, 0)
    lines = summary(counts=counts, stopped_because=because).lines()
    assert lines[-1] == (
        f"exit status 1: stopped because {because}; {said} left to process"
    )


def test_where_the_same_command_would_not_do_the_end_says_what_does():
    again = {"status": ExitStatus.RUN_AGAIN, "way_on": "remove d, and …"}
    assert summary(**again).lines()[-1] == (
        "exit status 75: tasks are left: to go on, remove d, and …"
    )
    assert summary(way_on="remove d, and …").lines()[-1].endswith("some tasks failed")


@pytest.mark.parametrize(
    ("count", "checkpoints", "said"),
    [
        (1, False, "1 more attempt failed and was retried"),
        (8, False, "8 more attempts failed and were retried"),
        (1, True, "1 more attempt failed or made a checkpoint: its task runs again"),
        (8, True, "8 more attempts failed or made a checkpoint: their tasks run again"),
    ],
)
def test_attempts_that_were_not_the_last_are_told(count, checkpoints, said):
    tally = Tally(started=0.0, worker_count=1)
    tally.add(result(0))
    for _ in range(count):
        tally.note_retry(result(1, status=1))
    lines = summary(tally=tally, makes_checkpoints=checkpoints).lines()
    assert lines[1].endswith(f"; {said}")


def test_one_rank_is_no_ranks():
    assert "on 1 rank," in summary(ranks=1).lines()[1]


def test_a_farm_that_took_no_time_has_a_summary():
    assert summary(seconds=0.0).lines()
    assert summary(seconds=0.0).payload()


def test_the_result_file_is_json_whatever_the_names_are():
    payload = summary(workdir="caf\udce9", tasklist="\udcff").payload()
    text = json.dumps(payload)
    assert json.loads(text) == payload
    assert payload["version"] == 1
    assert payload["exit_status"] == 1
    assert payload["tasks"] == {
        "total": 12,
        "finished": 9,
        "failed": 3,
        "toprocess": 0,
        "held_up": 0,
        "elsewhere": 0,
        "claimed": 0,
        "is_counted": True,
        "in_array": 0,
    }
    farm = payload["this_farm"]
    assert isinstance(farm, dict)
    assert farm["outcomes"] == {"completed": 4, "failed": 2}
    assert farm["busy_percent"] == 25.0


def test_the_summary_tells_how_to_run_again_what_failed():
    (line,) = [line for line in summary().lines() if "again" in line]
    assert "mpifarm retry list.txt_workdir, and the same command" in line


def test_a_list_that_could_not_be_counted_is_not_given_sums():
    counts = ListCounts(12, 3, 1, 0, 0, is_counted=False)
    first = summary(counts=counts).lines()[0]
    assert first == (
        "3 finished and 1 failed were recorded, of 12 tasks; the rest can't be counted "
        "now"
    )


@pytest.mark.parametrize(
    ("status", "has_leased", "said"),
    [
        (
            ExitStatus.RUN_AGAIN,
            True,
            "this farm recorded the end of no task, in 3 s: what it ran runs again",
        ),
        (ExitStatus.RUN_AGAIN, False, "this farm started no task, in 3 s"),
        (ExitStatus.ALL_FINISHED, False, "this farm had nothing to run, in 3 s"),
    ],
)
def test_a_farm_that_ran_nothing_says_so(status, has_leased, said):
    end = summary(tally=Tally(0.0), status=status, has_leased=has_leased)
    assert end.lines()[1] == said


@pytest.mark.parametrize(
    ("left", "fate"), [(0, "what they held ran elsewhere"), (2, "they held runs again")]
)
def test_what_lost_ranks_held_runs_again_or_has_run(left, fate):
    counts = ListCounts(12, 9, 1, left, 0)
    lines = summary(lost=[(2, "n17")], counts=counts).lines()
    (line,) = [each for each in lines if "ranks that were lost" in each]
    assert line.endswith(fate)


@pytest.mark.parametrize(("held", "said"), [(1, "1 task is"), (3, "3 tasks are")])
def test_a_member_of_an_array_says_who_has_the_rest(held, said):
    counts = ListCounts(12, 12 - held, 0, 0, held, claimed=held, in_array=held)
    status = ExitStatus.ALL_FINISHED
    assert summary(counts=counts, status=status).lines()[-1] == (
        f"exit status 0: nothing is left to start; {said} with other farms of this job "
        "array, whose own status says how they end"
    )


def test_tasks_that_a_handler_has_lost_are_told_without_files():
    lines = summary(counts=LOST, status=ExitStatus.WITH_OTHERS, keeps_own_state=True)
    (line,) = [each for each in lines.lines() if "no farm's claim" in each]
    assert line == (
        "4 tasks are in no farm's claim, and the handler offers no more: look into the "
        "state that it keeps"
    )


def test_a_log_without_a_file_of_its_own_is_found_by_a_command():
    failed = [FailedTask(4, "exit status 1", "")]
    line = "failed: task 4: exit status 1, see mpifarm log 'my list_workdir' 4"
    assert line in summary(failed=failed, workdir="my list_workdir").lines()


@pytest.mark.parametrize(
    ("own", "others", "count", "line"),
    [
        (1, (10,), 2, "1 task in earlier or other farms (task 10)"),
        (0, (1, 2, 3), 3, "3 tasks in earlier or other farms (tasks 1-3)"),
        (0, (1, 2, 9), 12, "12 tasks in earlier or other farms (tasks 1-2, 9, …)"),
    ],
)
def test_what_failed_in_other_farms_is_one_line(own, others, count, line):
    failed = [FailedTask(4, "exit status 1", "log_4")] * own
    failed += [FailedTask(each, "elsewhere", "", False) for each in others]
    shown = summary(failed=failed, counts=ListCounts(20, 8, count, 0, 0))
    lines = [each for each in shown.lines() if each.startswith("failed: ")]
    assert len(lines) == own + 1
    assert lines[-1] == f"failed: {line}, see mpifarm why list.txt_workdir"
    shown = summary(failed=failed, counts=shown.counts, keeps_own_state=True)
    assert f"failed: {line}" in shown.lines()


def test_the_page_shows_what_failed_in_other_farms():
    (line,) = take_block("screen.md", "mpifarm: failed: 9 tasks").lines
    others = (10, 11, 12, 13, 15, 16, 17, 20, 27)
    failed = [FailedTask(each, "elsewhere", "", False) for each in others]
    counts = ListCounts(40, 31, 9, 0, 0)
    shown = summary(failed=failed, counts=counts, place="tasks.txt_workdir")
    assert line.removeprefix("mpifarm: ") in shown.lines()


@pytest.mark.parametrize(("looked_at", "by_cause"), [(3, False), (4, True)])
def test_more_than_three_failures_are_told_by_cause(looked_at, by_cause):
    causes = GroupedFailures((), looked_at)
    lines = summary(causes=causes, counts=ListCounts(12, 2, 10, 0, 0)).lines()
    assert ("failed: task 4: exit status 1, see log_4" in lines) is not by_cause
    assert any("mpifarm why list.txt_workdir" in each for each in lines) is by_cause


def test_the_memory_of_few_tasks_that_ran_out_of_it_is_told():
    grouper = CauseGrouper()
    grouper.add(Failure(3, "failed", 1))
    for taskid, size in (4, 369 << 20), (7, 201 << 20):
        tail = f"=== mpifarm: {excess_line(size, 200 << 20)} ===\n".encode()
        grouper.add(Failure(taskid, "out of memory", 137, 9, tail=tail))
    causes = GroupedFailures(grouper.groups(), 3)
    lines = summary(causes=causes).lines()
    memory = "memory ran out in tasks 4, 7 (limit 200 MB, largest seen 369 MB)"
    assert lines.count(memory) == 1
    assert "memory ran out" not in "\n".join(summary().lines())


def test_a_retried_attempt_that_was_lost_is_no_retry_and_takes_no_time():
    tally = Tally(started=0.0, worker_count=1)
    tally.note_retry(result(1, seconds=2.0, status=1))
    tally.note_retry(result(1, seconds=9.0)._replace(outcome=Outcome.LOST))
    assert (tally.retried, tally.busy) == (1, 2.0)


def test_the_rate_counts_the_last_ten_seconds():
    assert RATE_SECONDS == 10.0


def test_the_result_file_has_the_numbers_of_this_farm():
    payload: Any = summary(launch="17793fa0", notes=["a note"], reason="why").payload()
    assert payload["this_farm"] == {
        "ran": 6,
        "outcomes": {"completed": 4, "failed": 2},
        "attempts_that_ran_again": 0,
        "outputs_not_whole": 0,
        "left_processes_running": 0,
        "seconds": 3.0,
        "tasks_per_second": 2.0,
        "ranks": 2,
        "workers": 8,
        "busy_percent": 25.0,
    }
    assert payload["failed"][0] == {"taskid": 4, "how": "exit status 1", "log": "log_4"}
    said = ("farm", "launch", "tasklist", "reason", "notes", "meaning")
    assert [payload[name] for name in said] == [
        *("f00d", "17793fa0", "list.txt", "why", ["a note"]),
        "nothing is left to do; some tasks failed",
    ]


LOST = ListCounts(20, 16, 0, 0, 4)


def test_a_summary_of_a_database_names_no_files():
    counts = ListCounts(30, 13, 13, 0, 4)
    status = ExitStatus.WITH_OTHERS
    lines = summary(counts=counts, status=status, is_database=True).lines()
    (lost,) = [each for each in lines if "PyTaskFarmer" in each]
    assert lost.startswith("4 tasks are 'running' under no farm of mpifarm: taken by")
    (more,) = [each for each in lines if each.startswith("failed: 1")]
    assert more.endswith("more, list them: mpifarm ls --failed list.txt_workdir")


@pytest.mark.parametrize(
    ("counts", "lost"),
    [
        (LOST, "4 tasks are"),
        (LOST._replace(claimed=3), "1 task is"),
        (LOST._replace(claimed=4), ""),
    ],
)
def test_the_summary_tells_how_to_run_what_a_plain_farmer_has_lost(counts, lost):
    lines = summary(counts=counts, status=ExitStatus.WITH_OTHERS, failed=[]).lines()
    (told,) = [line for line in lines if " in no file:" in line] or [""]
    assert told.startswith(f"{lost} in no file") == bool(lost)
    remedy = "mpifarm check --repair --assume-idle list.txt_workdir"
    assert (remedy in told) == bool(lost)


def test_remedies_by_files_are_not_told_where_a_list_keeps_its_own_state():
    for status in (ExitStatus.SOME_FAILED, ExitStatus.WITH_OTHERS):
        lines = summary(counts=LOST, status=status, keeps_own_state=True).lines()
        assert not any("mpifarm" in line for line in lines)


@pytest.mark.parametrize(
    ("status", "changes", "meaning"),
    [
        (ExitStatus.SOME_FAILED, {}, MEANINGS[ExitStatus.SOME_FAILED]),
        (
            ExitStatus.SOME_FAILED,
            {"left": 2, "stopped_because": "5 tasks have failed"},
            "stopped because 5 tasks have failed; 2 tasks are left to process",
        ),
        (ExitStatus.RUN_AGAIN, {"left": 2}, MEANINGS[ExitStatus.RUN_AGAIN]),
        (
            ExitStatus.RUN_AGAIN,
            {"left": 2, "wrong_line": "line 7", "all_held": True, "way_on": "go"},
            (
                "line 7 and what follows it have not run: correct the line, then give"
                " the same command again"
            ),
        ),
        (
            ExitStatus.RUN_AGAIN,
            {"left": 1, "all_held": True},
            (
                "1 task is left, and held: give mpifarm release list.txt_workdir, then"
                " the same command"
            ),
        ),
        (
            ExitStatus.RUN_AGAIN,
            {"left": 2, "all_held": True, "way_on": "remove drain"},
            (
                "2 tasks are left, and held: give mpifarm release list.txt_workdir,"
                " remove drain"
            ),
        ),
        (
            ExitStatus.RUN_AGAIN,
            {"left": 2, "way_on": "remove drain"},
            "tasks are left: to go on, remove drain",
        ),
        (
            ExitStatus.WITH_OTHERS,
            {"left": 2, "wrong_line": "line 7", "all_held": True, "way_on": "go"},
            MEANINGS[ExitStatus.WITH_OTHERS],
        ),
        (ExitStatus.ALL_FINISHED, {"way_on": "go"}, MEANINGS[ExitStatus.ALL_FINISHED]),
    ],
)
def test_an_exit_status_is_told_as_it_came_about(status, changes, meaning):
    left = changes.pop("left", 0)
    counts = ListCounts(12, 9, 3 - left, left, 0)
    assert summary(status=status, counts=counts, **changes).meaning == meaning


@pytest.mark.parametrize(
    ("elsewhere", "claimed", "status", "is_told"),
    [
        (1, 0, ExitStatus.WITH_OTHERS, True),
        (1, 1, ExitStatus.WITH_OTHERS, False),
        (2, 1, ExitStatus.WITH_OTHERS, True),
        (1, 0, ExitStatus.RUN_AGAIN, False),
    ],
)
def test_the_remedy_for_lost_tasks_is_told_where_some_are_lost(
    elsewhere, claimed, status, is_told
):
    counts = ListCounts(12, 12 - elsewhere, 0, 0, elsewhere, claimed)
    lines = summary(counts=counts, status=status, failed=[]).lines()
    assert any("check --repair --assume-idle" in line for line in lines) is is_told


def test_failed_in_words_tells_the_time_once():
    late = result(7, seconds=30.0, status=-15)
    assert failed_in_words(late) == (
        "failed (killed by signal 15 (SIGTERM)) after 30 s"
    )
    for outcome, words in (
        (Outcome.TIMED_OUT, "timed out after 30 s (killed by signal 15 (SIGTERM))"),
        (Outcome.CANCELLED, "cancelled after 30 s (killed by signal 15 (SIGTERM))"),
        (Outcome.LOST, "its worker or its rank died each time that it ran"),
    ):
        assert failed_in_words(late._replace(outcome=outcome)) == f"failed ({words})"
    unrun = late._replace(outcome=Outcome.CANCELLED, worker_index=None)
    assert failed_in_words(unrun) == "failed (cancelled before it ran)"


def test_a_lost_attempt_takes_no_time_and_is_no_retry_but_others_are():
    tally = Tally(started=0.0, worker_count=1)
    tally.note_retry(result(1, seconds=5.0)._replace(outcome=Outcome.LOST))
    assert (tally.retried, tally.busy) == (0, 0.0)
    tally.note_retry(result(1, seconds=5.0, status=1))
    assert (tally.retried, tally.busy) == (1, 5.0)


def test_tasks_that_were_not_run_take_no_time_and_no_share():
    tally = Tally(started=0.0, worker_count=1, done_before=10)
    for taskid in range(30, 10, -1):
        tally.add(result(taskid, seconds=5.0)._replace(outcome=Outcome.NOT_RUN))
    assert (tally.ran, tally.not_run, tally.busy) == (0, 20, 0.0)
    assert tally.first_not_run == [*range(11, 21)]
    assert tally.share(done=40) == 1.0
    tally.add(result(1))
    assert tally.share(done=40) == pytest.approx(1 / 10)
    assert tally.share(done=30) == 1.0


def test_who_has_begun_again_goes_on_without_that_option():
    left = ListCounts(3, 1, 1, 1, 0)
    stopped = summary(counts=left, status=ExitStatus.RUN_AGAIN, began_again=True)
    assert stopped.meaning == (
        "tasks are left: to go on, give the same command without --again"
    )
    ended = summary(status=ExitStatus.SOME_FAILED, began_again=True)
    assert any("and the same command without --again" in each for each in ended.lines())
