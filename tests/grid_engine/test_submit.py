"""``mpifarm submit`` on a real Grid Engine: each form, its ends, an order, a refusal.

Rules of this file: what is typed after a submission is what submit has printed.
"""

import shlex

import pytest

from tests.grid_engine.batch import DEADLINE
from tests.grid_engine.conftest import QUICK
from tests.support import wait_until

pytestmark = pytest.mark.timeout(360)

WAITS = "touch started.$PROC_NUMBER; until [ -e go ]; do sleep 0.5; done"
"""Runs for ever, until the test says go."""

FORMS = {
    "one slot": ("-N", "1", "-c", "1"),
    "one host": ("-N", "1", "-c", "2", "-A", "phys", "-p", "main.q"),
    "mpirun": ("-N", "2", "-c", "2", "--pe", "mpi"),
    "until": ("--until-done", "-c", "1"),
    "array": ("--array", "2", "-c", "2"),
}


def test_each_form_farms_its_list_to_the_end(farm, grid_engine):
    jobs, place = {}, farm.directory
    for name, options in FORMS.items():
        directory = place / f"{name} it's 100%j"
        farm.move_to(directory)
        farm.write_list(["true"] * 8)
        grid_engine.directory = directory
        jobs[name] = grid_engine.submit("-t", "10", *options, "tasks.txt")
    runs = {
        name: job.assert_ends(*[0] * (2 if name == "array" else 1))
        for name, job in jobs.items()
    }
    for name in FORMS:
        farm.move_to(place / f"{name} it's 100%j")
        farm.assert_all_finished()
    slots = {name: found[0].slots for name, found in runs.items()}
    assert slots == {"one slot": 1, "one host": 2, "mpirun": 4, "until": 1, "array": 2}
    assert (runs["one host"][0].queue, runs["one host"][0].account) == (
        "main.q",
        "phys",
    )
    assert sorted(run.task for run in runs["array"]) == ["1", "2"]


def test_a_job_under_mpirun_is_one_rank_for_its_host(farm, grid_engine):
    farm.write_list(["true"] * 4)
    words = ("-t", "10", "-N", "2", "-c", "2", "--pe", "mpi", "tasks.txt")
    job = grid_engine.submit(*words)
    job.assert_ends(0)
    assert "1 rank of 2 workers" in job.text()
    assert f"Grid Engine job {job.number}" in job.text()


def test_the_farms_of_an_array_share_a_list_and_know_each_other(farm, grid_engine):
    farm.write_list([WAITS] * 4)
    words = ("-t", "10", "--array", "2", "-c", "2", "tasks.txt")
    job = grid_engine.submit(*words)
    wait_until(lambda: len(farm.marks("started")) == 4, DEADLINE)  # by two farms of two
    wait_until(lambda: "4 running" in job.type("status"), DEADLINE)  # both have told it
    farm.allow()
    job.assert_ends(0, 0)
    farm.assert_all_finished()
    outputs = [job.text(member=f".{task}") for task in (1, 2)]
    assert all("this farm ran 2 tasks" in output for output in outputs), outputs


def test_the_exit_status_of_a_job_is_that_of_its_farm(farm, grid_engine):
    farm.write_list(["true", "false"])
    job = grid_engine.submit("-t", "10", "-c", "1", "tasks.txt")
    (run,) = job.assert_ends(1)
    assert run.failed == "0"  # Grid Engine has nothing against it
    farm.assert_settled(finished=[0], failed=[1])


def test_a_job_that_goes_on_until_all_is_done_ends_where_tasks_have_failed(
    farm, grid_engine
):
    farm.write_list(["true", "false"])
    job = grid_engine.submit("-t", "10", "-c", "1", "--until-done", "tasks.txt")
    job.assert_ends(1)
    assert "goes on" not in job.text()


def test_a_job_goes_on_after_its_time_limit_until_all_is_done(limited):
    farm, job = limited
    job.assert_ends(99, 0)
    text = job.text()
    assert f"the job goes on as job {job.number} again" in text
    assert "exit status 75" in text
    farm.assert_all_finished()
    assert len(farm.all_ids()) == QUICK + 2
    assert list(farm.workdir.glob("*.idle")) == []


def test_a_job_that_is_deleted_has_its_notice_and_puts_back_what_runs(
    farm, grid_engine
):
    farm.write_list(["true"] * QUICK + [WAITS] * 2)
    words = ("-t", "10", "-c", "2", "tasks.txt")
    job = grid_engine.submit(*words)
    wait_until(lambda: len(farm.marks("started")) == 2, DEADLINE)
    wait_until(lambda: len(farm.finished()) == QUICK, DEADLINE)
    job.type("cancel")
    job.wait()
    farm.wait_until_gone()
    assert "SIGUSR1 was received" in job.text()
    farm.assert_settled(range(QUICK), to_process=[QUICK, QUICK + 1])
    farm.allow()
    grid_engine.submit(*words).assert_ends(0)
    farm.assert_all_finished()


def test_a_job_that_goes_on_does_not_outlive_qdel(farm, grid_engine):
    farm.write_list([WAITS] * 2)
    job = grid_engine.submit("-t", "10", "-c", "2", "--until-done", "tasks.txt")
    wait_until(lambda: len(farm.marks("started")) == 2, DEADLINE)
    job.type("cancel")
    job.wait()
    farm.wait_until_gone()
    farm.assert_settled(to_process=[0, 1])
    assert "goes on as job" not in job.text()
    assert "not requeued, because the job was deleted" in job.text()
    assert list(farm.workdir.glob("*.idle")) == []


def test_a_job_waits_for_the_end_of_the_jobs_that_are_named(farm, grid_engine):
    farm.write_list([WAITS])
    first = grid_engine.submit("-t", "10", "-c", "1", "tasks.txt")
    wait_until(lambda: farm.marks("started") == [0], DEADLINE)
    (farm.directory / "next.txt").write_text("true\n")
    words = ("-t", "10", "-c", "1", "--after", f"any:{first.number}", "next.txt")
    second = grid_engine.submit(*words)
    assert f"jid_predecessor_list:       {first.number}" in second.fields()
    finished = farm.directory / "next.txt_workdir" / "finished"
    assert not finished.exists()
    farm.allow()
    first.assert_ends(0)
    second.assert_ends(0)
    assert finished.read_text() == "0 true\n"


def test_an_order_by_exit_status_is_refused_with_the_one_that_there_is(
    farm, grid_engine
):
    farm.write_list(["true"])
    words = ("-t", "10", "-c", "1", "--after", "17", "tasks.txt")
    assert "give --after any:17" in grid_engine.refusal(*words)


def test_what_grid_engine_does_not_have_is_refused_and_leaves_nothing(
    farm, grid_engine
):
    farm.write_list(["true"])
    refused = {
        ("-N", "2", "-c", "3"): "has the allocation rule 3",
        ("-c", "1", "-p", "gpu.q"): "Grid Engine refused the job: ",
        ("-c", "2", "--pe", "none"): "Grid Engine refused the job: ",
    }
    for words, sentence in refused.items():
        assert sentence in grid_engine.refusal("-t", "5", *words, "tasks.txt")
    assert [path.name for path in farm.directory.iterdir()] == ["tasks.txt"]


def test_the_printed_commands_can_be_typed(farm, grid_engine):
    farm.write_list(["true"] * 2)
    job = grid_engine.submit("-t", "10", "-c", "1", "tasks.txt")
    job.assert_ends(0)
    assert "2 finished" in job.type("status")
    program, follow, *output = shlex.split(job.told["log"])
    assert (program, follow) == ("tail", "-F")
    assert "exit status 0" in grid_engine.ask("cat", *output)
