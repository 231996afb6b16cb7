"""The first lines of a farm: who is where, and what is strange."""

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm import __version__
from mpifarm.coordinator.state import RankRecord
from mpifarm.errors import InputError
from mpifarm.farm import first_words
from mpifarm.farm.first_words import (
    MAX_HOSTS,
    check_list,
    describe_farm,
    describe_held,
    describe_limit,
    describe_memory,
    describe_ranks,
    warn_of_binding,
    warn_of_directory,
    warn_of_order,
    warn_of_unused,
)
from mpifarm.model.settings import RunnerDefinition, Settings, TaskLimits
from mpifarm.order.constraints import Constraints
from mpifarm.order.frontier import Frontier
from mpifarm.store.held_file import Held
from mpifarm.system import cgroups
from mpifarm.tasklists import ListTaskList
from tests.pages import take_block
from tests.unit.fakes import Commands, define_farm


def records(*of):
    return [
        RankRecord(rank, host=host, workers=workers)
        for rank, (host, workers) in enumerate(of)
    ]


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([("n1", 1)], "n1 × 1 worker"),
        ([(f"n{number}", 64) for number in range(1, 9)], "n[1-8] × 64 workers"),
        ([("n1", 16)] * 4, "n1 × 4 ranks × 16 workers"),
        ([("n1", 16), ("n2", 16), ("n2", 16)], "n1 × 16 workers; n2 × 2 ranks × 16"),
        ([("n1", 16), ("n1", 15)], "n1 × 2 ranks, 31 workers"),
        ([("n1", 4), ("", 0)], "n1 × 4 workers; 1 rank has not joined yet"),
    ],
)
def test_ranks_are_told_by_host(ranks, words):
    assert describe_ranks(records(*ranks)).startswith(f"ranks: {words}")


def test_the_line_of_hosts_without_numbers_has_an_end():
    names = ["x" * 20 + chr(ord("a") + number) for number in range(26)]
    told = describe_ranks(records(*[(name, 1) for name in names]))
    assert len(told) <= MAX_HOSTS + len("ranks: ")


# ---- the farm ------------------------------------------------------------------------


class Farm:
    """A leader and a context, of which the words are made."""

    def __init__(self, tasks: int = 5, size: int = 2, **environ: str) -> None:
        self.said: list[str] = []
        self.tried: list[Any] = []
        self.failed_before: list[int] = []
        self.noted: list[str] = []
        self.begun = ""
        self.definition = define_farm()
        self.store = SimpleNamespace(recorded=(0, 0), note_place=self._note_place)
        self.coordinator = SimpleNamespace(
            definition=self.definition,
            commands=Commands(tasks),
            try_place=lambda *words: self.tried.extend(words),
            note_failed_before=self._note_failed_before,
        )
        output = SimpleNamespace(say=self.said.append)
        self.context: Any = SimpleNamespace(
            settings=Settings("list", "list_workdir", workers=3),
            process=SimpleNamespace(environ=environ, output=output),
            size=size,
            environment={},
        )

    @property
    def leader(self) -> Any:
        self.coordinator.definition = self.definition
        lock = SimpleNamespace(describe=lambda: "the lock is here")
        return SimpleNamespace(
            coordinator=self.coordinator, store=self.store, lock=lock
        )

    def _note_place(self, directory: str) -> str:
        self.noted.append(directory)
        return self.begun

    def _note_failed_before(self, count: int) -> str:
        self.failed_before.append(count)
        return "the limit"


def test_the_first_lines_name_the_process_the_list_the_ranks_and_the_lock():
    farm = Farm()
    farm.definition = replace(farm.definition, directory="/data")
    assert [*describe_farm(farm.context, farm.leader)] == [
        f"version {__version__} on {os.uname().nodename}, in /data",
        "farm f00d: 5 tasks of list",
        "2 ranks of 3 workers, workdir /scratch/list_workdir",
        "the lock is here",
    ]


@pytest.mark.parametrize("recorded", [(3, 1), (0, 1), (3, 0)])
def test_what_was_done_before_is_told(recorded):
    farm = Farm(tasks=1, size=1)
    farm.store.recorded = recorded
    _, what, where, _ = describe_farm(farm.context, farm.leader)
    finished, failed = recorded
    assert what == (
        f"farm f00d: 1 task of list, {finished} finished and {failed} failed before"
    )
    assert where.startswith("1 rank of 3 workers, ")


@pytest.mark.parametrize(
    ("environ", "job"),
    [
        ({"SLURM_JOB_ID": "7"}, "Slurm job 7"),
        ({"LSB_JOBID": "7"}, "LSF job 7"),
        ({"PBS_JOBID": "7.server"}, "PBS job 7.server"),
        ({"FLUX_JOB_ID": "f7"}, "Flux job f7"),
        ({"OAR_JOB_ID": "7"}, "OAR job 7"),
        ({"COBALT_JOBID": "7"}, "Cobalt job 7"),
        ({"JOB_ID": "7", "SGE_TASK_ID": "1"}, "Grid Engine job 7"),
    ],
)
def test_the_job_is_named_as_its_users_name_it(environ, job):
    farm = Farm(**environ)
    assert (
        f"{os.uname().nodename}, {job}, in "
        in (describe_farm(farm.context, farm.leader)[0])
    )


def test_it_is_told_what_bounds_the_memory_of_a_task(monkeypatch):
    settings = Settings("list", "list_workdir")
    assert describe_memory(settings) == ""
    settings = replace(settings, limits=TaskLimits(memory=4 << 30))
    monkeypatch.setattr(cgroups, "find_delegated", lambda: cgroups.Delegated(2, "/c"))
    assert describe_memory(settings) == (
        "--task-memory 4 GB: the kernel bounds each task as a whole, by a cgroup as in"
        " /c on this host; where none can be made, it bounds each process, and all"
        " together are looked at each second"
    )

    (shown,) = take_block("when-tasks-fail.md", "2026-11-30").lines
    *_, words = shown.partition(" mpifarm: ")
    *_, why = words.rpartition("can be made: ")

    def refuse():
        raise cgroups.NoCgroupError(why)

    monkeypatch.setattr(cgroups, "find_delegated", refuse)
    assert describe_memory(settings) == words


def test_the_limit_counts_from_what_failed_before():
    farm = Farm()
    farm.store.recorded = (3, 4)
    assert describe_limit(farm.leader) == "the limit"
    assert farm.failed_before == [4]


def test_too_few_cpus_are_told_with_those_of_rank_and_machine(monkeypatch):
    farm = Farm()
    monkeypatch.setattr(first_words, "cpus_of_rank", lambda: frozenset({3}))
    monkeypatch.setattr(first_words, "cpus_of_machine", lambda: 64)
    assert "has 3 workers and may use only 1 of the 64 CPUs" in (
        warn_of_binding(farm.context.settings, farm.context.process.environ)
    )


# ---- another directory than before ---------------------------------------------------


def test_a_list_that_was_begun_elsewhere_is_warned_of_and_tried(tmp_path):
    farm = Farm()
    here, farm.begun = str(tmp_path), "/"
    farm.definition = replace(farm.definition, directory=here)
    warning = warn_of_directory(farm.leader)
    assert warning.startswith(
        f"WARNING: this list was begun in /, and its commands run in {here} now"
    )
    assert farm.noted == [here]
    explain, way_on = farm.tried
    assert explain(3).startswith("the first 3 commands could not be started")
    assert way_on == "give --chdir / with the same command"


@pytest.mark.parametrize("begun", ["", "{here}", "/nowhere"])
def test_a_list_that_goes_on_where_it_was_gets_no_word(tmp_path, begun):
    farm = Farm()
    farm.begun = begun.format(here=tmp_path)
    farm.definition = replace(farm.definition, directory=str(tmp_path))
    assert warn_of_directory(farm.leader) == ""
    assert farm.tried == []


def test_where_the_runner_names_the_directory_none_is_noted():
    farm = Farm()
    farm.begun = "/"
    runner = RunnerDefinition(options={"cwd": "/data"})
    farm.definition = replace(farm.definition, runner=runner)
    assert warn_of_directory(farm.leader) == ""
    assert (farm.noted, farm.tried) == ([], [])


# ---- a list that would run wrongly ---------------------------------------------------

FOREIGN = "./run $SLURM_ARRAY_TASK_ID\n" * 3


@pytest.fixture
def check(tmp_path):
    """Check a list: ``check(text)``; return what is said of it."""
    path, workdir = tmp_path / "list", tmp_path / "list_workdir"

    def check(
        text: str, *, begun: str = "", runner: Any = None, **settings: Any
    ) -> list[str]:
        path.write_text(text)
        if begun:
            workdir.mkdir()
            (workdir / begun).touch()
        farm = Farm()
        farm.context.settings = Settings(str(path), str(workdir), **settings)
        tasks = ListTaskList(str(path), str(workdir))
        check_list(farm.context, runner or RunnerDefinition(), tasks)
        return farm.said

    return check


def test_a_list_of_plain_commands_gets_no_word(check):
    assert check("true\nfalse\n") == []


def test_a_list_that_would_run_wrongly_is_refused_before_anything_is_begun(check):
    with pytest.raises(InputError, match=r"uses \$SLURM_ARRAY_TASK_ID.*; --as-is runs"):
        check(FOREIGN)


@pytest.mark.parametrize(
    "begun", ["fingerprint.json", "toprocess", "finished", "failed"]
)
def test_in_a_workdir_that_was_begun_it_is_only_told(check, begun):
    (sentence,) = check(FOREIGN, begun=begun)
    assert sentence.startswith("WARNING: ")
    assert "uses $SLURM_ARRAY_TASK_ID" in sentence
    assert sentence.endswith(
        "; the list runs as it stands, and with --as-is without this WARNING"
    )


def test_a_fault_that_is_not_certain_is_only_told(check):
    (sentence,) = check("echo it's\n./run 1\n")
    assert sentence.startswith("WARNING: ")


def test_who_says_as_is_or_runs_no_shell_gets_no_word(check):
    assert check(FOREIGN, as_is=True) == []
    assert check(FOREIGN, id_variables=(("SLURM_ARRAY_TASK_ID", 0),)) == []
    no_shell = RunnerDefinition(python_class="user.Runner")
    assert check(FOREIGN, runner=no_shell) == []


def test_options_and_sections_that_change_nothing_are_told(monkeypatch):
    farm, runner = Farm(A="b"), RunnerDefinition()
    farm.context.settings = replace(
        farm.context.settings, runner="mine", handler="its", config="some.ini"
    )
    asked: list[Any] = []

    def find(*given: Any, **more: Any) -> list[str]:
        asked.append((*given, *more.items()))
        return [f"warning {len(asked)}"]

    monkeypatch.setattr(first_words, "find_unused", find)
    monkeypatch.setattr(first_words, "find_untrusted", find)
    monkeypatch.setattr(first_words, "find_idle_sections", find)
    monkeypatch.setattr(first_words, "find_search_path_of", lambda *given: given)
    settings, environ = farm.context.settings, farm.context.process.environ
    warnings = [*warn_of_unused(settings, environ, runner)]
    assert warnings == ["warning 1", "warning 2", "warning 3"]
    assert asked == [
        (farm.context.settings, runner, {"A": "b"}),
        ((settings, environ), "mine", "its"),
        ((settings, environ), "mine", "its", ()),
    ]


@pytest.mark.parametrize(
    ("holds", "overlaps", "waits"),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_an_srun_waits_where_the_step_holds_all_cpus_and_does_not_overlap(
    monkeypatch, holds, overlaps, waits
):
    farm = Farm(A="b")
    monkeypatch.setattr(
        "mpifarm.batch.step_cpus.holds_all_cpus",
        lambda env: env == {"A": "b"} and holds,
    )
    monkeypatch.setattr(
        "mpifarm.batch.step_cpus.is_overlapping",
        lambda lines, words: (lines, words) == ("lines of srun", ["x"]) and overlaps,
    )
    monkeypatch.setattr(
        "mpifarm.system.processes.command_lines", lambda name: f"lines of {name}"
    )
    monkeypatch.setattr(
        "mpifarm.batch.launch_lines.find_farm_words", lambda words: [*words][:1]
    )
    monkeypatch.setattr("sys.orig_argv", ["x", "y"])
    assert first_words.holds_cpus_for_tasks(farm.context.process.environ) is waits


# ---- what waits for others -----------------------------------------------------------


def ordered(finished: str, failed: str) -> Frontier:
    """Nine tasks: 3 waits for 0, 4 for 3, and all from 6 on for all before."""
    constraints = Constraints()
    constraints.after |= {3: (0,), 4: (3,)}
    constraints.add_barrier(6, checks=True)
    done, bad = (
        bytearray(str(taskid) in ids for taskid in range(9))
        for ids in (finished, failed)
    )
    return Frontier(constraints, done, bad)


@pytest.mark.parametrize(
    ("finished", "failed", "told"),
    [
        ("012", "", ""),
        ("12", "0", "2 tasks will not run (3-4), because task 0 failed before"),
        ("12", "034", "2 tasks will not run (3-4), because task 0 failed before"),
        ("12", "0345678", "5 tasks will not run (3-4, 6-8), because task 0 failed"),
        ("01234", "5", "3 tasks will not run (6-8), because task 5 failed before"),
        ("12", "0345", "5 tasks will not run (3-4, 6-8), because task 0 failed"),
        ("012567", "34", "2 tasks will not run (4, 8), because task 3 failed"),
    ],
)
def test_what_waits_for_a_task_that_failed_before_is_told(finished, failed, told):
    sentence = warn_of_order(ordered(finished, failed), "tasks.txt_workdir")
    assert (f"WARNING: {told}" in sentence) is bool(told)
    assert bool(sentence) is bool(told)
    ending = ": mpifarm retry tasks.txt_workdir puts all of them back"
    assert sentence.endswith(ending) is bool(told)


def test_a_list_without_an_order_has_nothing_that_waits():
    assert warn_of_order(None, "w") == ""
    assert describe_held(Held(), None, 9) == ""


@pytest.mark.parametrize(
    ("held", "waits"),
    [
        (Held(frozenset({0})), True),
        (Held(frozenset({8})), False),
        (Held(frozenset({1})), True),
        (Held(frozenset({99})), False),
        (Held(frozenset({0}), holds_all=True), False),
    ],
)
def test_who_waits_for_what_is_held_is_told(held, waits):
    sentence = describe_held(held, ordered("", ""), 9)
    assert " held (mpifarm hold was given; mpifarm release lets them" in sentence
    assert ("; others wait for what is held" in sentence) is waits
