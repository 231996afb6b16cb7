"""What ``mpifarm supervise`` makes of a run, and of its command line.

Rules of this file: no process is started; a run is told as its launcher and its
``result.json`` would tell it.  Time passes where a signal is waited for.
"""

import json
import math
import signal
import subprocess
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mpifarm.batch.slurm import parse_states
from mpifarm.commands import supervise
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
    DEAF_SECONDS,
    END_SECONDS,
    KILL_SECONDS,
    LAUNCH_VARIABLE,
    LOOK_AGAIN,
    FarmFiles,
    Launcher,
    Nodes,
    SignalWaiter,
    Supervisor,
    ask_slurm,
    choose_excluded,
    end_steps,
    find_farm,
    main,
)
from mpifarm.errors import InputError
from mpifarm.farm.again import SUPERVISOR_VARIABLE
from tests.pages import take_block

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


@pytest.mark.parametrize("launchers", [75, *KILLED])
def test_a_command_that_lacks_a_limit_for_what_was_added_is_not_given_again(launchers):
    each = run(launchers, told(75, no_limit=("b", "zz")))
    assert judge(each) is RestartDecision.LACKS_LIMIT
    assert exit_status_of(each) == 75
    assert describe_run(RestartDecision.LACKS_LIMIT, each, 0, ()).endswith(
        "; not started again, because tasks that were added need --limit b=N --limit"
        " zz=N: give the same command with that"
    )


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
        "mpirun -n 4 mpifarm run tasks.txt",
    ],
)
def test_the_workdir_is_that_of_the_farms_own_arguments(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.txt").touch()
    assert find_farm(line.split(), {}) == FarmFiles(f"{tmp_path}/tasks.txt_workdir")


@pytest.mark.parametrize(
    "words",
    [
        ["convert {} {.}.png", ":::", "a", "b"],
        ["-n", "2", "wc {}", "::::", "names.txt"],
        ["-n", "2", "-"],
    ],
)
def test_the_workdir_of_a_list_that_is_no_file_is_found(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    line = ["srun", "-N", "8", "python", "-m", "mpifarm"]
    assert find_farm([*line, *words], {}) == FarmFiles(f"{tmp_path}/mpifarm_workdir")
    named = find_farm([*line, "--workdir", "here", *words], {})
    assert named == FarmFiles(f"{tmp_path}/here")


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
    ends = ("n3",), ("n6",), ("b",)
    expected = FarmResult("e8a59855", "", 75, SIGTERM, 7, 1, *ends)
    assert parse_result({**PAYLOAD, "no_limit": ["b"]}) == expected


def test_a_farm_that_names_no_nodes_has_lost_none():
    payload = {k: v for k, v in PAYLOAD.items() if k not in ("lost", "quarantined")}
    found = parse_result(payload)
    assert (found.lost, found.quarantined, found.no_limit) == ((), (), ())


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
    line = describe_run(RestartDecision.BROKEN, run(137, recorded=312), 0.0, ["node17"])
    shown = " ".join(take_block("when-ranks-fail.md", "mpifarm supervise: the").lines)
    assert f"mpifarm supervise: {line}" == shown


def test_two_statuses_that_differ_are_both_told():
    line = describe_run(RestartDecision.OVER, run(137, told(1)), 0.0, ())
    assert line.startswith("the launcher ended with status 137, the farm with status 1")
    assert ", 312 tasks were recorded in this run and 1 is left" in describe_run(
        RestartDecision.OVER, run(137, told(1, left=1), recorded=312), 0.0, ()
    )


@pytest.mark.parametrize(
    ("decision", "pause", "told_of"),
    [
        (RestartDecision.BROKEN, 10.0, "starting it again in 10 s"),
        (
            RestartDecision.CLAIM_LEFT,
            65.0,
            (
                "starting it again in 65 s, to take back what a farm that has died"
                " still holds"
            ),
        ),
        (
            RestartDecision.STUCK,
            0.0,
            "not started again, because nothing gets done any more",
        ),
        (
            RestartDecision.ENOUGH,
            0.0,
            "not started again, because --max-restarts is reached",
        ),
    ],
)
def test_each_decision_is_told(decision, pause, told_of):
    line = describe_run(decision, run(75, told(75, "why"), recorded=1), pause, ())
    assert line == (
        "the farm ended with status 75 (why), 1 task was recorded in this run and 4 are"
        f" left; {told_of}"
    )


def test_a_launcher_that_never_began_is_told_with_what_may_be_wrong():
    line = describe_run(RestartDecision.NEVER_BEGAN, run(1, recorded=0), 0.0, ())
    assert "0 tasks were recorded in this run; no farm began" in line
    assert "an MPI that does not fit it" in line


def test_an_end_by_a_signal_is_told_as_such():
    line = describe_run(RestartDecision.OVER, run(75, stop_asked=True), 0.0, ())
    assert line.endswith("; not started again, because a signal came")


# ---- signals -------------------------------------------------------------------------


@pytest.fixture
def masks(monkeypatch):
    """No signal of the tests' own process is blocked; what would be, is kept."""
    asked: list[Any] = []
    monkeypatch.setattr(
        signal, "pthread_sigmask", lambda how, signals: asked.append((how, signals))
    )
    return asked


def test_all_signals_of_a_farm_are_blocked_but_ignored_ones(masks, monkeypatch):
    real = signal.getsignal

    def find(signum):
        return signal.SIG_IGN if signum == signal.SIGHUP else real(signum)

    monkeypatch.setattr(signal, "getsignal", find)
    waiter = SignalWaiter()
    ((how, blocked),) = masks
    assert how == signal.SIG_BLOCK
    assert blocked == {
        *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT),
        signal.SIGCHLD,
    }
    assert not waiter.stop_asked
    assert SignalWaiter([signal.SIGTERM]).stop_asked


@pytest.mark.parametrize(
    ("came", "has_terminal", "passed_on", "stops"),
    [
        (None, False, None, False),
        ((signal.SIGCHLD, 0), False, None, False),
        ((signal.SIGTERM, 0), False, signal.SIGTERM, True),
        ((signal.SIGINT, 128), False, signal.SIGINT, True),
        ((signal.SIGINT, 128), True, None, True),
        ((signal.SIGINT, 0), True, signal.SIGINT, True),
    ],
)
def test_a_signal_is_passed_on_unless_the_launcher_has_it_from_the_terminal(
    masks, monkeypatch, came, has_terminal, passed_on, stops
):
    waits = []

    def wait(_signals, seconds):
        waits.append(seconds)
        return came and SimpleNamespace(si_signo=came[0], si_code=came[1])

    monkeypatch.setattr(signal, "sigtimedwait", wait)
    waiter = SignalWaiter()
    waiter.has_terminal = has_terminal
    assert waiter.wait(-1.0) == passed_on
    assert waiter.stop_asked is stops
    waiter.wait(2.5)
    assert waits == [0.0, 2.5]


class Program:
    """A command that ends with `status` at a time, or `after` its KILL or TERM."""

    def __init__(self, clock, ends_at, status=0, ends_by=()):
        self._clock, self._ends_at, self.returncode = clock, ends_at, status
        self._ends_by = ends_by
        self.got: list[tuple[float, int]] = []

    def poll(self):
        return self.returncode if self._clock.now >= self._ends_at else None

    def send_signal(self, signum):
        self.got.append((self._clock.now, signum))
        if signum in self._ends_by:
            self._ends_at = self._clock.now

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class Clock:
    """A clock that goes on where a signal is waited for, and the signals to come."""

    def __init__(self, *signals):
        self.now = 100.0
        self._signals = [(100.0 + when, signum) for when, signum in signals]
        self.stop_asked = False
        self.has_terminal = False
        self.waits: list[float] = []

    def wait(self, seconds):
        assert seconds < math.inf
        self.waits.append(seconds)
        until = self.now + max(seconds, 0.0)
        if self._signals and self._signals[0][0] <= until:
            self.now, signum = self._signals.pop(0)
            self.stop_asked = True
            return signum
        self.now = until
        return None


@pytest.fixture
def launch(monkeypatch):
    """Run a command of which only its stand-in knows: its status, what it got."""

    def run_it(clock, *, has_ended=lambda: False, shares_group=False, **program):
        made: list[Any] = []

        def start(words, **options):
            made.append((words, options))
            return program_

        program_ = Program(clock, **program)
        monkeypatch.setattr(time, "monotonic", lambda: clock.now)
        monkeypatch.setattr(subprocess, "Popen", start)
        launcher = Launcher(["srun"], {"A": "b"}, shares_group=shares_group)
        status = launcher.run(cast(Any, clock), has_ended)
        ((words, options),) = made
        assert (words, options["env"]) == (["srun"], {"A": "b"})
        assert options["process_group"] == (None if shares_group else 0)
        return status, [(when - 100.0, signum) for when, signum in program_.got]

    return run_it


@pytest.mark.parametrize(("ended", "status"), [(0, 0), (3, 3), (-9, 137), (-15, 143)])
def test_the_status_of_a_command_is_as_a_shell_has_it(launch, ended, status):
    assert launch(Clock(), ends_at=103.0, status=ended) == (status, [])
    assert launch(Clock(), ends_at=0, status=1, shares_group=True) == (1, [])


def test_usr1_and_usr2_wait_until_a_launcher_hears_and_others_do_not(launch):
    clock = Clock(
        (1.0, signal.SIGUSR1),
        (2.0, signal.SIGTERM),
        (3.0, signal.SIGUSR2),
        (6.0, signal.SIGUSR1),
    )
    _, got = launch(clock, ends_at=120.0)
    assert got == [
        (2.0, signal.SIGTERM),
        (DEAF_SECONDS, signal.SIGUSR1),
        (DEAF_SECONDS, signal.SIGUSR2),
        (6.0, signal.SIGUSR1),
    ]


def test_a_launcher_that_outlives_its_farm_is_ended(launch):
    looks: list[float] = []
    clock = Clock()

    def has_ended():
        looks.append(clock.now - 100.0)
        return len(looks) > 1

    status, got = launch(
        clock,
        has_ended=has_ended,
        ends_at=math.inf,
        status=-9,
        ends_by=[signal.SIGKILL],
    )
    assert looks[:2] == [LOOK_AGAIN, 2 * LOOK_AGAIN]
    told_to_end = 2 * LOOK_AGAIN + END_SECONDS
    assert got[0] == (told_to_end, signal.SIGTERM)
    assert got[-1] == (told_to_end + KILL_SECONDS, signal.SIGKILL)
    assert status == 137


def test_a_launcher_that_goes_on_with_its_farm_is_left_alone(launch):
    assert launch(Clock(), ends_at=500.0) == (0, [])


# ---- asking Slurm --------------------------------------------------------------------


@pytest.fixture
def slurm(monkeypatch):
    """The answers of Slurm's programs, by their names."""
    answers: dict[str, str] = {}
    asked: list[tuple[str, ...]] = []

    def ask(words):
        asked.append(tuple(words))
        return answers.get(words[0], "")

    monkeypatch.setattr(supervise, "_ask", ask)
    return answers, asked


def test_slurm_is_asked_for_states_and_for_what_the_job_still_has(slurm):
    answers, asked = slurm
    answers["sinfo"] = "n1 alloc\nn2 alloc\nn3 down\n"
    assert ask_slurm("n[1-3]").gone == {"n3"}
    assert [words[0] for words in asked] == ["sinfo"]
    assert asked[0][-1] == "--nodes=n[1-3]"
    answers |= {"squeue": "n[1,3]\n", "scontrol": "n1\nn3\n"}
    assert ask_slurm("n[1-3]", "12").gone == {"n2", "n3"}
    assert asked[2][-1] == "--jobs=12"
    assert asked[3][-1] == "n[1,3]"
    answers["squeue"] = ""
    assert ask_slurm("n[1-3]", "12").gone == {"n3"}


def test_the_steps_of_a_start_are_ended(slurm):
    answers, asked = slurm
    answers["squeue"] = "12.0 mpifarm-a\n12.1 other\n12.2 mpifarm-a\n"
    assert end_steps("12", "mpifarm-a") == ["12.0", "12.2"]
    assert asked[0][-1] == "--jobs=12"
    assert asked[1:] == [("scancel", "12.0", "12.2")]
    assert end_steps("12", "mpifarm-b") == []
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (SimpleNamespace(returncode=0, stdout="n1\n"), "n1\n"),
        (SimpleNamespace(returncode=1, stdout="n1\n"), ""),
        (FileNotFoundError(), ""),
        (subprocess.TimeoutExpired("sinfo", 30), ""),
    ],
)
def test_a_program_of_slurm_that_fails_has_said_nothing(monkeypatch, answer, expected):
    asked: list[Any] = []

    def run_it(words, **options):
        asked.append((words, options["timeout"]))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(subprocess, "run", run_it)
    assert supervise._ask(["sinfo"]) == expected
    assert asked == [(["sinfo"], 30.0)]


# ---- the whole -----------------------------------------------------------------------


class Launches:
    """The runs to come: each has a status, and what it does before it ends."""

    def __init__(self, *runs):
        self._runs = [*runs]
        self.words: list[list[str]] = []
        self.marks: list[str] = []
        self.supervisors: list[str] = []

    def start(self, words, environ, *, shares_group):
        assert not shares_group
        self.words.append([*words])
        self.supervisors.append(environ[SUPERVISOR_VARIABLE])
        self.marks.append(environ[LAUNCH_VARIABLE])
        status, act = self._runs.pop(0)
        if isinstance(status, OSError):
            raise status

        def run_it(_signals, has_ended):
            act(self.marks[-1])
            assert has_ended() is (act is not nothing)
            return status

        return SimpleNamespace(run=run_it)


def nothing(_mark):
    """Leave no record."""


@pytest.fixture
def supervisor(tmp_path, monkeypatch):
    """Supervise a list in a directory of its own: the status, and what was said."""
    (tmp_path / "tasks.txt").touch()
    root = tmp_path / "tasks.txt_workdir"
    root.mkdir()
    monkeypatch.chdir(tmp_path)

    def supervise_it(launches, *, line=FARM, environ=(), most=None, clock=None):
        monkeypatch.setattr(supervise, "Launcher", launches.start)
        clock = clock or Clock()
        monkeypatch.setattr(time, "monotonic", lambda: clock.now)
        said: list[str] = []
        console = SimpleNamespace(print_text=said.append)
        made = Supervisor(
            line.split(), dict(environ), cast(Any, console), most, cast(Any, clock)
        )
        status = made.run()
        assert all(line.startswith("mpifarm supervise: ") for line in said)
        return status, [line[19:].rstrip("\n") for line in said]

    return supervise_it


def record(tasks=1, **said):
    """Finish tasks, and leave a result."""

    def act(mark):
        with open("tasks.txt_workdir/finished", "a", encoding="ascii") as file:
            file.write("0 true\n" * tasks)
        payload = {**PAYLOAD, "launch": mark, **said}
        with open("tasks.txt_workdir/result.json", "w", encoding="ascii") as file:
            json.dump(payload, file)

    return act


def test_a_farm_that_is_done_is_run_once(supervisor):
    launches = Launches((0, record(exit_status=0, reason="")))
    assert supervisor(launches) == (0, [])
    assert launches.words == [FARM.split()]


def test_a_farm_that_died_is_run_again_under_another_mark(supervisor):
    died = record(3, exit_status=75, reason="rank 2 is lost")
    launches = Launches((137, died), (0, record(exit_status=0, reason="")))
    status, (said,) = supervisor(launches)
    assert status == 0
    assert said == (
        "the launcher ended with status 137, the farm with status 75 (rank 2 is lost),"
        " 3 tasks were recorded in this run and 7 are left; starting it again at once"
    )
    first, second = launches.marks
    assert first != second
    assert len(first) == 8


@pytest.mark.parametrize("outer", ["", "outer"])
def test_all_starts_have_one_mark_by_which_they_know_what_they_have_begun(
    supervisor, outer
):
    """A farm that a script starts can't have --again left out."""
    died = record(3, exit_status=75, reason="rank 2 is lost")
    marks = []
    for _ in range(2):
        launches = Launches((137, died), (0, record(exit_status=0, reason="")))
        supervisor(launches, environ={SUPERVISOR_VARIABLE: outer})
        first, second = launches.supervisors
        assert first == second != ""
        marks.append(first)
    assert (marks[0] == marks[1]) is (outer != "")


def test_what_has_begun_again_is_started_without_that_option(supervisor):
    died = record(3, exit_status=75, reason="rank 2 is lost")
    launches = Launches((137, died), (0, record(exit_status=0, reason="")))
    line = "mpirun mpifarm --again --proc 1 --again tasks.txt"
    supervisor(launches, line=line)
    assert launches.words[1] == ["mpirun", "mpifarm", "--proc", "1", "tasks.txt"]


def test_a_run_that_leaves_nothing_is_waited_after(supervisor):
    clock = Clock()
    launches = Launches((137, nothing), (0, record(exit_status=0, reason="")))
    _, said = supervisor(launches, clock=clock)
    assert said[0].endswith("starting it again in 1 s")
    assert clock.now == 101.0


def test_a_signal_in_the_pause_ends_it(supervisor):
    clock = Clock((0.5, signal.SIGTERM))
    status, said = supervisor(Launches((137, nothing)), clock=clock)
    assert status == 75
    assert said[1:] == ["a signal came, so it is not started again"]


def test_a_signal_before_the_start_starts_nothing(supervisor):
    clock = Clock()
    clock.stop_asked = True
    assert supervisor(Launches(), clock=clock) == (
        75,
        ["stopped by a signal before the start: nothing was started"],
    )


@pytest.mark.parametrize("most", [0, 1])
def test_it_is_run_again_as_often_as_it_may(supervisor, most):
    died = record(exit_status=75, reason="rank 2 is lost")
    status, said = supervisor(Launches(*[(137, died)] * (most + 1)), most=most)
    assert status == 75
    assert len(said) == most + 1
    assert said[-1].endswith("because --max-restarts is reached")


def test_what_another_farm_has_left_is_not_its_result(supervisor):
    launches = Launches((137, nothing))
    with open("tasks.txt_workdir/result.json", "w", encoding="ascii") as file:
        json.dump({**PAYLOAD, "launch": "theirs"}, file)
    _, said = supervisor(launches, most=0)
    assert said[0].startswith("the launcher ended with status 137, 0 tasks were")


def test_a_command_that_is_not_there_is_bad_input(supervisor):
    error = FileNotFoundError(2, "No such file or directory")
    with pytest.raises(InputError) as caught:
        supervisor(Launches((error, nothing)))
    assert str(caught.value) == (
        "cannot start 'python' (No such file or directory): is it installed, and is its"
        " module loaded?"
    )


def test_in_an_allocation_steps_are_named_and_ended_and_nodes_left_out(
    supervisor, slurm
):
    answers, asked = slurm
    answers["sinfo"] = "n1 alloc\nn2 alloc\n"

    def die(mark):
        answers["sinfo"] = "n1 alloc\nn2 down\n"
        answers["squeue"] = f"12.0 mpifarm-{mark}\n"
        record(exit_status=75, reason="rank 2 is lost")(mark)

    launches = Launches((137, die), (0, record(exit_status=0, reason="")))
    environ = {**JOB, "SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n[1-2]"}
    status, said = supervisor(launches, line=f"srun {FARM}", environ=environ)
    assert status == 0
    assert said[0].endswith("starting it again at once, without n2")
    assert said[1] == "ending steps that the last srun has left: 12.0"
    first, second = launches.words
    assert first == f"srun --job-name=mpifarm-{launches.marks[0]} {FARM}".split()
    assert f"--job-name=mpifarm-{launches.marks[1]}" in second
    assert "--exclude=n2" in second
    assert ("scancel", "12.0") in asked


def test_nodes_that_are_down_at_the_start_are_told(supervisor, slurm):
    answers, _ = slurm
    answers["sinfo"] = "n1 alloc\nn2 down\n"
    launches = Launches((0, record(exit_status=0, reason="")))
    environ = {**JOB, "SLURM_JOB_ID": "12"}
    _, said = supervisor(launches, line=f"srun {FARM}", environ=environ)
    assert said == ["starting without n2"]


# ---- run after run -------------------------------------------------------------------

WAITS = told(3, claimed=2)
GOES_ON = told(75, "rank 2 is lost")


def test_tasks_with_others_are_waited_for_only_right_after_a_death():
    policy = RestartPolicy()
    assert policy.decide(run(137, GOES_ON)) is RestartDecision.BROKEN
    assert policy.decide(run(3, WAITS)) is RestartDecision.CLAIM_LEFT
    assert policy.decide(run(3, WAITS)) is RestartDecision.OVER
    assert RestartPolicy().decide(run(3, WAITS)) is RestartDecision.OVER
    policy = RestartPolicy(has_broken=True)
    assert policy.decide(run(3, told(3, claimed=0))) is RestartDecision.OVER


@pytest.mark.parametrize("most", [0, 1, 2])
def test_each_kind_of_restart_counts(most):
    policy = RestartPolicy(max_restarts=most, has_broken=True)
    decisions = [policy.decide(run(3, WAITS))]
    decisions += [policy.decide(run(137, GOES_ON)) for _ in range(3)]
    assert decisions[most] is RestartDecision.ENOUGH
    assert RestartDecision.ENOUGH not in decisions[:most]
    assert policy.restarts == most


@pytest.mark.parametrize(
    ("in_allocation", "has_moved", "most", "pauses"),
    [
        (False, True, BARREN_RUNS, PAUSES),
        (True, False, BARREN_RUNS, PAUSES),
        (True, True, len(PAUSES_FOR_SLURM) + 1, PAUSES_FOR_SLURM),
    ],
)
def test_barren_runs_are_counted_from_the_last_that_moved(
    in_allocation, has_moved, most, pauses
):
    policy = RestartPolicy(in_allocation=in_allocation)
    if has_moved:
        policy.decide(run(137, GOES_ON, moved=True))
        assert policy.pause_after(RestartDecision.BROKEN) == 0.0
    waited = []
    for _ in range(most - 1):
        decision = policy.decide(run(137, GOES_ON, moved=False))
        assert decision is RestartDecision.BROKEN
        waited.append(policy.pause_after(decision))
    assert waited == [*(pauses + pauses[-1:] * most)[: most - 1]]
    assert policy.pause_after(RestartDecision.CLAIM_LEFT) == CLAIM_SECONDS
    assert policy.decide(run(137, GOES_ON, moved=False)) is RestartDecision.STUCK


@pytest.mark.parametrize(
    ("result", "before", "is_ours"),
    [
        (None, None, False),
        (told(launch="l"), None, True),
        (told(launch="m"), None, False),
        (told(launch="l"), told(launch="k"), True),
        (told(launch=""), None, True),
        (told(launch="", farm="a"), told(farm="a"), False),
        (told(launch="", farm="b"), told(farm="a"), True),
    ],
)
def test_a_result_is_of_a_start_by_its_mark_or_by_another_farm(result, before, is_ours):
    assert is_of_launch(result, "l", before) is is_ours


def test_a_run_that_has_noted_attempts_alone_has_got_something_done(supervisor):
    """They run again, as with --retries."""

    def die(mark):
        record(0, exit_status=75, reason="rank 2 is lost")(mark)
        with open("tasks.txt_workdir/attempts.tsv", "a", encoding="ascii") as file:
            file.write("0\t1\tfailed\n")

    launches = Launches((137, die), (0, record(exit_status=0, reason="")))
    status, (said,) = supervisor(launches)
    assert status == 0
    assert said.endswith("starting it again at once")
