"""Cheap questions to a long ``attempts.tsv`` are answered as by whole readings."""

import random

import pytest

from mpifarm.model.paths import WorkdirPaths
from mpifarm.store import attempts
from mpifarm.store.attempts import read_last_attempts
from mpifarm.store.attempts_scan import (
    count_completed_lines,
    find_last_attempts,
    find_without_attempt,
)
from tests.workdir_files import Attempt, format_attempts


@pytest.fixture
def paths(tmp_path):
    return WorkdirPaths(str(tmp_path))


@pytest.mark.parametrize("at_once", [100, 333, 5000, 1 << 20])
@pytest.mark.parametrize("seed", range(5))
def test_blocks_of_any_size_are_read_alike(paths, tmp_path, monkeypatch, at_once, seed):
    monkeypatch.setattr(attempts, "BYTES_AT_ONCE", at_once)
    monkeypatch.setattr("mpifarm.store.attempts_scan.BYTES_AT_ONCE", at_once)
    draw = random.Random(seed)
    every = [
        Attempt(
            draw.randrange(30),
            status=draw.choice([0, 0, 1]),
            command="x" * draw.randrange(200),
        )
        for _ in range(60)
    ]
    torn = draw.choice(["", "5\t1\tcompl"])
    (tmp_path / "attempts.1.tsv").write_text("".join(a.old_line for a in every[:20]))
    (tmp_path / "attempts.tsv").write_text(format_attempts(*every[20:]) + torn)
    completed = [each.taskid for each in every if not each.status]
    finished = range(35)
    assert count_completed_lines(paths) == len(completed)
    without = set(finished) - set(completed)
    assert find_without_attempt(paths, finished, wait=None) == without
    wanted = draw.sample(range(40), 6)
    found = find_last_attempts(paths, wanted).lines
    assert found == read_last_attempts(paths, wanted).lines


def test_without_files_there_is_no_attempt(paths):
    assert count_completed_lines(paths) == 0
    assert find_without_attempt(paths, [1, 2], wait=None) == {1, 2}
    assert find_last_attempts(paths, [1]).lines == {}


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_attempts_that_are_written_just_now_are_waited_for(paths, tmp_path, cut):
    content = format_attempts(Attempt(1), Attempt(2), Attempt(3))
    end = len(content) - len(Attempt(3).line) + cut
    file = tmp_path / "attempts.tsv"
    file.write_text(content[:end])

    def write() -> None:
        with file.open("a") as stream:
            stream.write(content[end:])

    assert find_without_attempt(paths, [1, 2, 3, 4], wait=write) == {4}
