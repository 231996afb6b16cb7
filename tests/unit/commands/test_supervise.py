"""What ``mpifarm supervise`` makes of a run, and of its command line.

Rules of this file: no process is started; a run is told as its launcher and its
``result.json`` would tell it.
"""

import json

import pytest

from mpifarm.batch.slurm import parse_states
from mpifarm.commands.restart_policy import (
    BARREN_RUNS,
    CLAIM_SECONDS,
    PAUSES,
    PAUSES_FOR_SLURM,
    FarmResult,
    RestartDecision,
    RestartPolicy,
    Run,
    describe_run,
    exit_status_of,
    is_of_launch,
    parse_result,
)
from mpifarm.commands.supervise import (
    FarmFiles,
    Nodes,
    choose_excluded,
    find_farm,
    main,
)
from mpifarm.errors import InputError

KILLED = [9, 14, 137, 143, 255]
"""What launchers end with when a rank of theirs was killed."""

SIGTERM = "SIGTERM was received"


def told(status=75, reason="", **others):
    fields = {"farm": "a", "launch": "l", "left": 4, "claimed": 0, **others}
    return FarmResult(status=status, reason=reason, **fields)


def run(status, said=None, **others):
    fields = {"moved": True, "recorded": 3, "left_nothing": False, **others}
    return Run(status, said, **fields)


def judge(each, **others):
    return RestartPolicy(**others).decide(each)


# ---- a run that is over --------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_a_farm_that_says_that_nothing_is_left_is_not_started_again(status):
    assert judge(run(status, told(status))) is RestartDecision.OVER


@pytest.mark.parametrize("launchers", [*KILLED, 1])
@pytest.mark.parametrize("status", [0, 1, 3])
def test_the_farms_own_word_counts_more_than_its_launchers(launchers, status):
    each = run(launchers, told(status))
    assert judge(each) is RestartDecision.OVER
    assert exit_status_of(each) == status


@pytest.mark.parametrize(
    "reason",
    [
        *("SIGUSR1 was received", SIGTERM, "SIGUSR2 was received"),
        "the timeout of 3600 s is over",
        "the workdir has a file 'drain' (to go on, remove here/drain)",
        "the job ends in 90 s, and a task takes 95 s (--task-time)",
        "the first 10 commands could not be started (status 126 or 127), and",
        "the first command could not be started (status 126 or 127), and",
        "the job ends in 6 s",
        "the end of the job (--deadline) has come",
    ],
)
def test_a_farm_that_somebody_has_stopped_is_not_started_again(reason):
    each = run(75, told(75, reason))
    assert judge(each) is RestartDecision.OVER
    assert exit_status_of(each) == 75


def test_a_farm_stopped_through_open_mpis_mpirun_is_not_started_again():
    each = run(1, told(75, SIGTERM))
    assert judge(each) is RestartDecision.OVER
    assert exit_status_of(each) == 75


def test_an_input_that_is_wrong_is_not_tried_again():
    assert judge(run(2, moved=False)) is RestartDecision.OVER


def test_a_list_without_tasks_is_not_started_again():
    assert judge(run(0, moved=False, left_nothing=True)) is RestartDecision.OVER


@pytest.mark.parametrize("status", [75, 137])
def test_a_supervisor_that_was_told_to_stop_starts_nothing_more(status):
    assert judge(run(status, stop_asked=True)) is RestartDecision.OVER


# ---- a run that broke ----------------------------------------------------------------


@pytest.mark.parametrize("status", [*KILLED, 1, 3, 70, 75, 134])
def test_a_farm_that_could_not_say_how_it_ended_is_started_again(status):
    assert judge(run(status)) is RestartDecision.BROKEN


def test_a_status_0_counts_for_nothing_while_tasks_are_left():
    assert judge(run(0, left_nothing=False)) is RestartDecision.BROKEN


@pytest.mark.parametrize("status", KILLED)
@pytest.mark.parametrize("reason", [SIGTERM, "SIGUSR1 was received"])
def test_a_signal_from_a_launcher_that_has_lost_a_rank_is_no_wish_to_stop(
    status, reason
):
    assert judge(run(status, told(75, reason))) is RestartDecision.BROKEN


@pytest.mark.parametrize(
    "reason",
    [
        "rank 2 on n3 has not been heard for 60 s",
        "no rank is left that can run tasks",
        "no rank is left that can run tasks (a signal was received)",
        "",
    ],
)
def test_a_farm_that_stopped_because_of_its_ranks_is_started_again(reason):
    assert judge(run(75, told(75, reason))) is RestartDecision.BROKEN


def test_a_defect_is_tried_again():
    assert judge(run(70, told(70))) is RestartDecision.BROKEN


# ---- how often -----------------------------------------------------------------------


def test_it_is_started_again_at_once_while_anything_gets_done():
    supervision = RestartPolicy()
    for _ in range(100):
        assert supervision.decide(run(137)) is RestartDecision.BROKEN
        assert supervision.pause_after(RestartDecision.BROKEN) == 0


def test_it_is_given_up_when_nothing_gets_done():
    supervision = RestartPolicy()
    pauses = []
    while supervision.decide(run(137, moved=False)) is RestartDecision.BROKEN:
        pauses.append(supervision.pause_after(RestartDecision.BROKEN))
    assert supervision.barren == BARREN_RUNS
    assert tuple(pauses) == PAUSES


def never_began(status):
    return run(status, moved=False, recorded=0, begun=False)


@pytest.mark.parametrize("status", [1, 16])
def test_what_can_not_start_is_not_started_again(status):
    assert judge(never_began(status)) is RestartDecision.NEVER_BEGAN
    line = describe_run(RestartDecision.NEVER_BEGAN, never_began(status), 0.0, ())
    assert line.startswith(
        f"the launcher ended with status {status}, 0 tasks were recorded in this run; "
        "no farm began, so it is not started again"
    )


def test_what_has_begun_once_may_begin_again():
    supervision = RestartPolicy()
    assert supervision.decide(run(137, moved=False)) is RestartDecision.BROKEN
    assert supervision.decide(never_began(1)) is RestartDecision.BROKEN


@pytest.mark.parametrize("status", KILLED)
def test_a_launcher_that_was_killed_before_its_farm_began_is_started_again(status):
    assert judge(never_began(status)) is RestartDecision.BROKEN


def test_in_an_allocation_that_worked_slurm_gets_the_time_to_miss_a_node():
    supervision = RestartPolicy(in_allocation=True)
    supervision.decide(run(137))
    pauses = []
    while supervision.decide(run(137, moved=False)) is RestartDecision.BROKEN:
        pauses.append(supervision.pause_after(RestartDecision.BROKEN))
    assert tuple(pauses) == PAUSES_FOR_SLURM
    assert sum(pauses) > 300


def test_in_an_allocation_where_nothing_ever_worked_it_is_given_up_as_soon():
    supervision = RestartPolicy(in_allocation=True)
    verdicts = [supervision.decide(run(1, moved=False)) for _ in range(BARREN_RUNS)]
    assert verdicts == [RestartDecision.BROKEN] * (BARREN_RUNS - 1) + [
        RestartDecision.STUCK
    ]
    assert supervision.pause_after(RestartDecision.BROKEN) == PAUSES[-1]


def test_a_run_that_gets_something_done_renews_the_patience():
    supervision = RestartPolicy()
    for _ in range(5):
        assert supervision.decide(run(137, moved=False)) is RestartDecision.BROKEN
        assert supervision.decide(run(137)) is RestartDecision.BROKEN


@pytest.mark.parametrize("most", [0, 1, 5])
def test_it_is_started_again_no_more_often_than_the_user_allows(most):
    supervision = RestartPolicy(most)
    verdicts = [supervision.decide(run(137)) for _ in range(most + 1)]
    assert verdicts == [RestartDecision.BROKEN] * most + [RestartDecision.ENOUGH]


def test_what_a_dead_farm_on_another_host_holds_is_waited_for_once():
    supervision = RestartPolicy()
    with_others = run(3, told(3, claimed=2))
    assert supervision.decide(run(137)) is RestartDecision.BROKEN
    assert supervision.decide(with_others) is RestartDecision.CLAIM_LEFT
    assert supervision.pause_after(RestartDecision.CLAIM_LEFT) == CLAIM_SECONDS > 60
    assert supervision.decide(with_others) is RestartDecision.OVER


def test_what_living_farms_hold_is_left_to_them():
    assert judge(run(3, told(3, claimed=2))) is RestartDecision.OVER


# ---- where the workdir isn't known ---------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 2, 3, 75])
def test_without_a_workdir_a_status_of_a_farm_is_believed(status):
    assert judge(run(status), knows_workdir=False) is RestartDecision.OVER


@pytest.mark.parametrize("status", [*KILLED, 70])
def test_without_a_workdir_any_other_status_is_a_death(status):
    assert judge(run(status), knows_workdir=False) is RestartDecision.BROKEN


# ---- the command line ----------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "srun -N 8 python -m mpifarm tasks.txt",
        "mpirun -n 4 /opt/venv/bin/python3.11 -m mpifarm -n 2 tasks.txt --grace 5",
        "/opt/venv/bin/mpifarm tasks.txt",
        "env mpifarm=1 mpirun mpifarm tasks.txt",
    ],
)
def test_the_workdir_is_that_of_the_farms_own_arguments(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.txt").touch()
    assert find_farm(line.split(), {}) == FarmFiles(f"{tmp_path}/tasks.txt_workdir")


def test_a_workdir_that_the_user_names_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.txt").touch()
    line = "mpirun -n 4 python -m mpifarm -w elsewhere tasks.txt"
    assert find_farm(line.split(), {}) == FarmFiles(f"{tmp_path}/elsewhere")


@pytest.mark.parametrize(
    "line",
    [
        "bash job.sh tasks.txt",
        "mpirun python -m mpifarm",
        "mpirun python -m mpifarm --no-such-option tasks.txt",
        "mpirun python -m mpifarm --help",
        "mpirun python -m mpifarm missing.txt",
    ],
)
def test_where_no_farm_is_to_be_seen_there_is_no_workdir(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.txt").touch()
    assert find_farm(line.split(), {}) is None


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("", "no command to supervise"),
        ("--", "no command to supervise"),
        ("--max-restarts 3", "no command to supervise"),
        ("srun -N 8 python -m mpifarm tasks.txt", "write it after --"),
        ("--max-restarts x -- true", "--max-restarts takes a number"),
        ("--max-restarts -1 -- true", "--max-restarts"),
        ("--no-such -- true", "has no option --no-such"),
    ],
)
def test_a_command_line_that_is_wrong_is_told_in_one_sentence(line, wrong):
    with pytest.raises(InputError, match=wrong) as raised:
        main(line.split(), None, {})  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_a_supervisor_is_not_to_be_a_rank():
    with pytest.raises(InputError, match="not the launcher supervise"):
        main(["--", "true"], None, {"SLURM_STEP_NUM_TASKS": "8"})  # type: ignore[arg-type]


# ---- what a farm has said ------------------------------------------------------------

PAYLOAD = {
    "version": 1,
    "farm": "e8a59855",
    "exit_status": 75,
    "reason": "SIGTERM was received",
    "tasks": {"toprocess": 5, "elsewhere": 2, "claimed": 1},
    "lost": [{"rank": 2, "host": "n3"}, {"rank": 3, "host": "n3"}],
    "quarantined": [{"rank": 5, "host": "n6"}],
}


def test_what_a_farm_has_said_is_understood():
    expected = FarmResult("e8a59855", "", 75, SIGTERM, 7, 1, ("n3",), ("n6",))
    assert parse_result(PAYLOAD) == expected


def test_a_farm_that_names_no_nodes_has_lost_none():
    payload = {k: v for k, v in PAYLOAD.items() if k not in ("lost", "quarantined")}
    assert parse_result(payload)[-2:] == ((), ())


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "3", "{}", '"x"'),
        json.dumps({**PAYLOAD, "tasks": 5}),
        json.dumps({**PAYLOAD, "tasks": {}}),
        json.dumps({**PAYLOAD, "exit_status": "x"}),
        json.dumps({**PAYLOAD, "lost": ["n3"]}),
        json.dumps({**PAYLOAD, "lost": 3}),
    ],
)
def test_what_is_no_result_says_nothing(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    assert FarmFiles(str(tmp_path)).read_result() is None


def test_a_workdir_that_is_not_there_says_nothing(tmp_path):
    farm = FarmFiles(str(tmp_path / "none"))
    assert farm.read_result() is None
    assert farm.read_records() == (0, 0)
    assert farm.has_nothing_left()


def test_tasks_and_attempts_are_counted(tmp_path):
    (tmp_path / "finished").write_text("0 true\n1 true\n")
    (tmp_path / "failed").write_text("2 false\n")
    (tmp_path / "attempts.tsv").write_text("head\n")
    assert FarmFiles(str(tmp_path)).read_records() == (3, 14 + 8 + 5)


@pytest.mark.parametrize("name", ["toprocess", "claims/ab12"])
def test_a_task_that_waits_or_a_claim_is_something_left(tmp_path, name):
    (tmp_path / "claims").mkdir()
    assert FarmFiles(str(tmp_path)).has_nothing_left()
    (tmp_path / name).write_text("0 true\n")
    assert not FarmFiles(str(tmp_path)).has_nothing_left()


def test_what_another_farm_says_meanwhile_is_not_taken_for_ours():
    assert is_of_launch(told(launch="ours"), "ours", None)
    assert not is_of_launch(told(launch="theirs"), "ours", None)


def test_where_a_launcher_drops_variables_a_new_farm_is_taken_for_ours():
    before = told(farm="a", launch="")
    assert not is_of_launch(before, "ours", before)
    assert is_of_launch(told(farm="b", launch=""), "ours", before)
    assert is_of_launch(told(farm="b", launch=""), "ours", None)


# ---- the nodes -----------------------------------------------------------------------

JOB = {"SLURM_JOB_NODELIST": "n[1-4]", "SLURM_JOB_NUM_NODES": "4"}
FARM = "python -m mpifarm tasks.txt"


def next_line(nodes, states):
    words, without = nodes.next_words(lambda asked, job: parse_states(states))
    return " ".join(words), list(without)


ALL_UP = "n1 alloc\nn2 alloc\nn3 alloc\nn4 alloc\n"


def test_nodes_that_are_down_are_left_out():
    nodes = Nodes(f"srun -N 4 {FARM}".split(), JOB)
    line, without = next_line(nodes, ALL_UP.replace("n3 alloc", "n3 down*"))
    assert line == f"srun --exclude=n3 --nodes=3 {FARM}"
    assert without == ["n3"]


def test_a_node_that_lost_a_rank_is_left_out_once_and_a_quarantined_one_for_good():
    nodes = Nodes(f"srun {FARM}".split(), JOB)
    nodes.note(told(lost=("n2.example",), quarantined=("n4",)))
    assert next_line(nodes, ALL_UP)[1] == ["n2", "n4"]
    nodes.note(None)
    assert next_line(nodes, ALL_UP)[1] == ["n4"]


def test_nodes_that_are_only_suspect_are_used_when_no_others_are_left():
    states = parse_states("n1 drng\nn2 drng\nn3 down\n")
    assert choose_excluded(states, ["n1"]) == ["n3"]
    assert choose_excluded(parse_states("n1 drng\nn2 alloc\n"), []) == ["n1"]


def test_where_all_is_well_the_command_line_stays_as_it_is():
    nodes = Nodes(f"srun -N 4 {FARM}".split(), JOB)
    assert next_line(nodes, ALL_UP) == (f"srun -N 4 {FARM}", [])


def test_where_slurm_does_not_answer_the_command_line_stays_as_it_is():
    nodes = Nodes(f"srun -N 4 {FARM}".split(), JOB)
    nodes.note(told(lost=("n2",)))
    assert next_line(nodes, "") == (f"srun -N 4 {FARM}", [])


def test_slurm_is_not_asked_for_an_mpirun():
    nodes = Nodes(f"mpirun -n 4 {FARM}".split(), JOB)
    nodes.note(told(lost=("n2",)))
    words, without = nodes.next_words(lambda *asked: pytest.fail("it was asked"))
    assert words == f"mpirun -n 4 {FARM}".split()
    assert without == ()


def test_outside_a_job_srun_is_kept_off_the_nodes_that_the_farm_has_named():
    nodes = Nodes(f"srun -N 4 {FARM}".split(), {})
    nodes.note(told(lost=("n2.example",)))
    states = {("n2", ""): parse_states("n2 idle\n")}
    words, _ = nodes.next_words(lambda *asked: states[asked])
    assert " ".join(words) == f"srun --exclude=n2 -N 4 {FARM}"


# ---- what is said --------------------------------------------------------------------


def test_nothing_is_said_where_the_farm_has_said_it_all():
    assert describe_run(RestartDecision.OVER, run(0, told(0)), 0.0, ()) == ""


def test_a_death_is_told_with_what_follows_from_it():
    line = describe_run(RestartDecision.BROKEN, run(137, recorded=312), 0.0, ["n17"])
    assert line == (
        "the launcher ended with status 137, 312 tasks were recorded in this run; "
        "starting it again at once, without n17"
    )


def test_two_statuses_that_differ_are_both_told():
    line = describe_run(RestartDecision.OVER, run(137, told(1)), 0.0, ())
    assert line.startswith("the launcher ended with status 137, the farm with status 1")
    assert ", 312 tasks were recorded in this run and 1 is left" in describe_run(
        RestartDecision.OVER, run(137, told(1, left=1), recorded=312), 0.0, ()
    )
