"""Failed tasks by cause, out of a workdir: what of their attempts is used."""

from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.audit import failures
from mpifarm.audit.failures import count_by_host, explain_failures, find_attempt
from mpifarm.causes.failure import TAIL, Failure
from mpifarm.database.farming import PlainAttempt
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.attempts import LastAttempts
from tests.workdir_files import OLD_ATTEMPTS_HEAD, Attempt, format_attempts

TRIED = (
    Attempt(0, host="n1"),
    Attempt(1, status=3, host="n2", started=1e9, seconds=2.5, peak_memory="99"),
    Attempt(2, host="n2"),  # of before it failed elsewhere
)


@pytest.fixture
def view(tmp_path) -> Any:
    """Tasks 1, 2 and 3 have failed; 3 has no attempt."""
    lines = {each.taskid: each.line.rstrip("\n").encode() for each in TRIED}
    (tmp_path / "attempts.tsv").write_text(format_attempts(*TRIED))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "log_1").write_text("x" * (TAIL + 9))
    (tmp_path / "logs" / "log_3").write_text("bad\n")
    asked: list[Any] = []

    def read(taskids: Any) -> LastAttempts:
        asked.append(taskids)
        return LastAttempts(lines)

    return SimpleNamespace(
        paths=WorkdirPaths(str(tmp_path)),
        plain={},
        total=12,
        ids_in=lambda _: [1, 2, 3],
        text=lambda taskid: f"cmd {taskid}",
        read_attempts=read,
        asked=asked,
    )


def test_each_failed_task_is_grouped_by_its_attempt_and_its_last_words(
    view, monkeypatch
):
    added: list[Failure] = []
    grouper = SimpleNamespace(add=added.append, groups=lambda ran: ["grouped", ran])
    monkeypatch.setattr(failures, "CauseGrouper", lambda: grouper)
    explained = explain_failures(view)
    first, second, third = added
    assert first == Failure(
        *(1, "failed", 3, 0, "n2", "cmd 1", b"x" * (TAIL + 1), 1e9, 2.5, 99, 1)
    )
    assert second == Failure(2, "failed", 0, command="cmd 2", tail=b"")
    assert third == Failure(3, "failed", 0, command="cmd 3", tail=b"bad\n")
    assert explained.ran == {"n1": 1, "n2": 2}
    groups: Any = explained.groups
    assert groups == ["grouped", {"n1": 1, "n2": 2}]


def test_what_plain_farmers_run_has_not_ended_on_their_host(view):
    ended = PlainAttempt(1, None, 1, "failed", 1, 0, "n3", "")
    runs = PlainAttempt(5, "PyTaskFarmer n4 7", 1, "", None, None, "n4", "")
    view.plain = {1: ended, 5: runs}
    assert explain_failures(view).ran == {"n1": 1, "n2": 2, "n3": 1}


@pytest.mark.parametrize("many", [failures.MANY, 1])
def test_attempts_of_many_failed_tasks_are_read_with_all_others(
    view, monkeypatch, many
):
    monkeypatch.setattr(failures, "MANY", many)
    explain_failures(view)
    assert view.asked == [None if 12 // many < 3 else [1, 2, 3]]


def test_an_attempt_explains_a_failure_only_if_it_failed():
    lines = {each.taskid: each.line.rstrip("\n").encode() for each in TRIED}
    attempts = LastAttempts(lines)
    found = [find_attempt(attempts, taskid) for taskid in range(4)]
    assert [each and each.taskid for each in found] == [None, 1, None, None]


def test_attempts_are_counted_by_host_where_their_format_has_it(tmp_path):
    content = format_attempts(*TRIED, Attempt(4, host=""))
    (tmp_path / "attempts.tsv").write_text(content)
    assert count_by_host(WorkdirPaths(str(tmp_path))) == {"n1": 1, "n2": 2}
    old = OLD_ATTEMPTS_HEAD + Attempt(2).old_line
    (tmp_path / "attempts.tsv").write_text(old)
    assert count_by_host(WorkdirPaths(str(tmp_path))) == {}
