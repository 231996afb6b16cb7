"""``MPIFARM_TRACE`` as a user sets it: a file for each rank, or one sentence."""

import os
import re

import pytest

from tests.pages import take_block
from tests.process.page_desk import Desk
from tests.required import need_launcher

NUMBER = re.compile(r"\d+")


def traced(path):
    return {"MPIFARM_TRACE": str(path)}


def test_a_farm_writes_its_trace_beside_the_name_that_was_given(create_place):
    place = create_place(["true", "false", "echo ${MPIFARM_TRACE-none}"])
    assert (
        place.run("--mpi", "off", "-n", "2", env=place.environment | traced("t")) == 1
    )
    lines = (place.directory / "t.rank0").read_text().splitlines()
    for words in (
        "coordinator in Join rank=0",
        "pool in Lease rank=0 task=1 attempt=1",
        "coordinator in Report.results rank=0 task=1 attempt=1 outcome=failed status=1",
        "coordinator out Conclude",
        "agent phase rank=0 phase=left",
    ):
        assert sum(words in line for line in lines) == 1, words


def test_a_second_start_goes_on_in_the_same_file(create_place):
    place = create_place(["true"])
    for _ in range(2):
        place.run("--mpi", "off", env=place.environment | traced("t"))
    assert (place.directory / "t.rank0").read_text().count(" agent out Join ") == 2


def test_a_task_does_not_inherit_the_variable(create_place):
    place = create_place(["echo ${MPIFARM_TRACE-none}"])
    assert place.run("--mpi", "off", env=place.environment | traced("t")) == 0
    assert "none" in (place.workdir / "logs" / "log_0").read_text()


@pytest.mark.parametrize("path", ["nowhere/t", "."])
def test_a_trace_that_cannot_be_written_is_told_in_one_sentence_with_2(
    create_place, path
):
    place = create_place(["true"])
    os.mkdir(place.directory / "..rank0")
    child = place.start("--mpi", "off", env=place.environment | traced(path))
    assert child.wait() == 2
    (line,) = child.text().splitlines()
    assert "can't write the trace" in line
    assert "MPIFARM_TRACE" in line
    assert not place.workdir.exists()


def test_without_the_variable_nothing_is_written(create_place):
    place = create_place(["true"])
    assert place.run("--mpi", "off", env={"MPIFARM_TRACE": ""}) == 0
    assert not [name for name in os.listdir(place.directory) if "rank0" in name]


def test_the_page_types_a_farm_with_a_trace_and_reads_it(create_place):
    told = 'until grep -qs "nothing more is started" trace.rank0; do sleep 0.05; done'
    drains = f"touch tasks.txt_workdir/drain; {told}; touch go"
    place = create_place([drains, *["until [ -e go ]; do sleep 0.02; done"] * 300])
    need_launcher()
    desk = Desk(place)
    desk.type(take_block("trace.md", "MPIFARM_TRACE=trace mpirun").text(), status=75)
    (line,) = take_block("trace.md", "2026-11-30").lines
    form = re.compile(NUMBER.sub(r"\\d+", re.escape(line)))
    lines = (place.directory / "trace.rank0").read_text().splitlines()
    assert any(map(form.fullmatch, lines))
    a_task, phases, said = take_block("trace.md", "grep -h").lines
    assert any(" pool in Lease " in line for line in desk.type(a_task))
    assert desk.type(phases)[-1].endswith(" phase=left")
    assert any("Tell sentence=" in line for line in desk.type(said))
