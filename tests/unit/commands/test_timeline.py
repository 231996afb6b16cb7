"""``mpifarm timeline``: its words, what it writes and what it refuses."""

import json
import os
from pathlib import Path

import pytest

from mpifarm.commands import timeline
from mpifarm.commands.sink import Sink
from mpifarm.errors import InputError
from mpifarm.system.console import Console

EVENT = {"name": "a", "ph": "X", "ts": 1, "pid": 1, "tid": 2, "args": {}}


@pytest.fixture
def workdir(tmp_path):
    workdir = tmp_path / "tasks.txt_workdir"
    (workdir / "logs").mkdir(parents=True)
    (tmp_path / "tasks.txt").write_text("true\n")
    (workdir / "timeline.json").write_text(json.dumps([EVENT]))
    (workdir / "timeline.0123abcd.json").write_text(json.dumps([EVENT]))
    return workdir


@pytest.fixture
def run(tmp_path, capfd):
    """Call the subcommand: its status, and what it has printed."""

    def call(*argv: object) -> tuple[int, str]:
        console = Console(prints=True)
        status = timeline.main([*map(str, argv)], console, {})
        console.close()
        return status, capfd.readouterr().out

    return call


def test_all_timelines_become_one_file(workdir, run, tmp_path):
    status, said = run(tmp_path / "tasks.txt", "-o", tmp_path / "all.json")
    assert status == 0
    assert said == (
        f"mpifarm: 2 attempts of 2 timelines in {tmp_path}/all.json: open it in"
        " https://ui.perfetto.dev (Open trace file), which shows which worker ran which"
        " task when\n"
    )
    assert len(json.loads((tmp_path / "all.json").read_text())) == 2
    assert sorted(os.listdir(tmp_path)) == ["all.json", "tasks.txt", workdir.name]


def test_an_older_one_is_replaced_also_in_the_workdir(workdir, run):
    for _ in range(2):
        assert run(workdir, "-o", workdir / "all.json")[0] == 0
    assert len(json.loads((workdir / "all.json").read_text())) == 2


def test_a_dash_stands_for_standard_output(workdir, run):
    status, said = run(workdir, "-o", "-")
    assert status == 0
    assert len(json.loads(said)) == 2


def test_a_reader_who_leaves_early_is_no_error(workdir, run, monkeypatch):
    def fail(_sink: object, _content: bytes) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(Sink, "write", fail)
    assert run(workdir, "-o", "-") == (0, "")


OWN = ["finished", "toprocess", "timeline.json", "timeline.0123abcd.json", "lock"]


@pytest.mark.parametrize(
    "name", [*OWN, "timeline.new.json", "attempts.tsv", "logs/all.json", "result.json"]
)
def test_no_file_of_the_workdir_is_overwritten(workdir, run, tmp_path, name):
    before = (workdir / "timeline.json").read_text()
    (tmp_path / "link").symlink_to(workdir / name)
    for output in (workdir / name, tmp_path / "link"):
        with pytest.raises(InputError, match="workdir's own files"):
            run(workdir, "-o", output)
    assert (workdir / "timeline.json").read_text() == before


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("", "the name of --output is empty"),
        ("tasks.txt", "exists and is not a timeline"),
        ("nowhere/all.json", "there is no directory"),
        (".", "is not a file"),
        ("/dev/null", "is not a file"),
    ],
)
def test_an_output_that_cannot_be_is_refused(
    workdir, run, tmp_path, monkeypatch, output, why
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=why):
        run(workdir, "-o", output)
    assert (tmp_path / "tasks.txt").read_text() == "true\n"


def test_a_workdir_without_a_timeline_is_told(workdir, run, tmp_path):
    for path in Path(workdir).glob("timeline*"):
        path.unlink()
    with pytest.raises(InputError, match="has no timeline: no task has ended"):
        run(workdir, "-o", tmp_path / "all.json")


def test_the_output_has_to_be_named(workdir, run):
    with pytest.raises(InputError, match=r"timeline needs .*-o.* after it"):
        run(workdir)
