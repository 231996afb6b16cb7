"""Each form of ``mpifarm submit`` under each fault: no task is lost, none ends twice.

Rules of this file: the jobs of all forms run beside one another, each with a list of
its own, and are struck when two tasks of each are in the middle.  A node that dies
takes all that runs on it along at once, is noticed, and is back.  The time of a job
runs out by Slurm's own clock.
"""

import re
from collections.abc import Iterator

import pytest

from tests.farm_driver import FarmDriver
from tests.slurm.batch import DEADLINE
from tests.slurm.conftest import (
    FORMS,
    OF_FORMS,
    Early,
    submit_form,
)
from tests.slurm.nodes import kill_nodes, nodes_of
from tests.support import ROOT, wait_until

pytestmark = pytest.mark.timeout(300)

FAULTS = ("cancel", "node", "time")
"""The columns of the table on the page."""

ENDS = "(same command|goes on)"
"""What its cells say."""


def read_page() -> dict[tuple[str, str], str]:
    """What follows each fault of each form, by the page."""
    page = (ROOT / "docs" / "submit.md").read_text()
    found = dict[tuple[str, str], str]()
    for form in FORMS:
        name = f"`{form}`" if form.startswith("-") else form
        row = rf"^\| {name} \| {ENDS} \| {ENDS} \| {ENDS} \|$"
        (cells,) = re.findall(row, page, re.MULTILINE)
        found |= {(form, FAULTS[at]): cell for at, cell in enumerate(cells)}
    return found


SAYS = {
    "--until-done": "again, back in the queue: there is nothing to submit",
    "--supervise --until-done": "again, back in the queue: there is nothing to submit",
    "--chain": "the next of the chain: there is nothing to submit",
}
"""What the output of a job whose time ran out says of how it goes on."""


@pytest.fixture(scope="module")
def struck(slurm_conf, tmp_path_factory) -> Iterator[dict[tuple[str, str], Early]]:
    """A job of each form for each fault, which has struck it by now."""
    base = tmp_path_factory.mktemp("forms")
    options = {"cancel": (), "node": ("--directive=--exclusive",)}
    jobs = {
        (form, fault): submit_form(
            slurm_conf, base / f"{form}, {fault}", form, "--time=10", *options[fault]
        )
        for form in FORMS
        for fault in options
    }
    try:
        for early in jobs.values():
            wait_until(early.is_busy, DEADLINE)
        strike(jobs)
        yield jobs
    finally:
        for early in jobs.values():
            early.end()


def strike(jobs: dict[tuple[str, str], Early]) -> None:
    nodes = []
    for (_, fault), early in jobs.items():
        if fault == "cancel":
            early.job.scancel()
        else:
            running = [j for j in early.slurm.queue() if j.is_running()]
            nodes.append(nodes_of(early.slurm, running[0])[-1])
    kill_nodes(early.slurm, nodes)
    for (_, fault), early in jobs.items():
        if fault == "node":
            early.farm.allow()  # what a farm that lives on has in the middle


@pytest.mark.parametrize("fault", ["cancel", "node"])
@pytest.mark.parametrize("form", FORMS)
def test_a_job_that_is_struck_loses_no_task(struck, form, fault):
    assert_is_finished_in_the_end(struck[form, fault], form, fault)


def test_a_link_that_has_lost_its_node_has_one_successor(struck):
    """It would have two if Slurm requeued it: each start of a link submits one."""
    early = struck["--chain", "node"]
    assert_is_finished_in_the_end(early, "--chain", "node")
    assert early.job.fields()["Restarts"] == "0"


@pytest.mark.parametrize("form", FORMS)
def test_a_job_whose_time_runs_out_loses_no_task(limited, form):
    assert_is_finished_in_the_end(limited[form], form, "time")
    assert SAYS.get(form, "") in outputs(limited[form].farm)


def assert_is_finished_in_the_end(early, form, fault):
    """Each task is recorded once, by the form itself or by one more submission."""
    farm, slurm, _ = early
    wait_until(lambda: not slurm.queue(), 180.0)
    farm.wait_until_gone(30)
    farm.assert_sound()
    assert farm.failed() == []
    goes_on = read_page()[form, fault] == "goes on"
    assert (farm.finished() == farm.all_ids()) == goes_on, outputs(farm)
    if not goes_on:
        slurm.submit("submit", "--time=10", *FORMS[form], *OF_FORMS)
        wait_until(lambda: not slurm.queue(), DEADLINE)
    farm.assert_all_finished()
    slurm.ask("python", "-m", "mpifarm", "check", "tasks.txt")
    completed = [a.taskid for a in farm.attempts() if a.outcome == "completed"]
    assert sorted(completed) == farm.all_ids()


def outputs(farm: FarmDriver) -> str:
    return "\n".join(p.read_text() for p in sorted(farm.workdir.glob("job-*.out")))
