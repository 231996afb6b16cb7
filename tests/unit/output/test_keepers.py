"""The line that a dead worker's task gets: into the place where its output is."""

import pytest

from mpifarm.output import packed
from mpifarm.output.keepers import note_in_log
from mpifarm.output.task_log import LogPlace

LINE = "=== mpifarm: it died ===\n"


@pytest.fixture
def scratches(monkeypatch):
    """The scratch that each task of worker 4 has."""
    found: dict[int, str] = {}
    monkeypatch.setattr(
        *(packed, "find_scratch_of"),
        lambda place, worker, task: found.get(task) if worker == 4 else None,
    )
    return found


def note(tmp_path, kind, task=7):
    place = LogPlace(str(tmp_path), "f00d", 3, kind)
    note_in_log(place, 4, task, "it died")


def test_a_log_of_its_own_gets_the_line_if_it_is_there(tmp_path, scratches):
    scratches[7] = str(tmp_path / "scratch")
    (tmp_path / "scratch").touch()
    note(tmp_path, "all")
    assert not (tmp_path / "log_7").exists()
    (tmp_path / "log_7").touch()
    note(tmp_path, "all")
    assert (tmp_path / "log_7").read_text() == LINE
    assert (tmp_path / "scratch").read_text() == ""


@pytest.mark.parametrize("kind", ["packed", "failed"])
def test_a_packed_output_gets_the_line_in_the_workers_scratch(
    tmp_path, scratches, kind
):
    scratches[7] = str(tmp_path / "scratch")
    (tmp_path / "scratch").write_text("half")
    note(tmp_path, kind)
    assert (tmp_path / "scratch").read_text() == f"half\n{LINE}"
    assert not (tmp_path / "log_7").exists()


@pytest.mark.parametrize("kind", ["packed", "failed"])
@pytest.mark.parametrize("has_scratch", [True, False])
def test_without_a_scratch_a_log_is_made_for_the_line(
    tmp_path, scratches, kind, has_scratch
):
    if has_scratch:
        scratches[7] = str(tmp_path / "gone")
    note(tmp_path, kind)
    assert (tmp_path / "log_7").read_text() == LINE
