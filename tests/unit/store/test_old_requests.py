"""Old requests and their answers go, and none that somebody needs."""

import time

import pytest

from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.requests import Answer, Request, RequestKind
from mpifarm.store import old_requests
from mpifarm.store.old_requests import KEPT_SECONDS, drop_old_requests
from mpifarm.store.requests import (
    Answered,
    AnswerInbox,
    Asked,
    LinesRead,
    RequestInbox,
    append_request,
    encode_answer,
)
from mpifarm.system import files

FARM, HEIR, OTHER = "0badcafe00000001", "0badcafe00000002", "feedbeef00000001"
LATER = KEPT_SECONDS + 60.0


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """A workdir in which `FARM` works."""
    monkeypatch.setattr(old_requests, "MAX_BYTES", 0)
    paths = WorkdirPaths(str(tmp_path))
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / FARM).touch()
    return paths


def ask(paths, name, *farms):
    request = Request(name, RequestKind.DRAIN)
    append_request(paths, Asked(request, farms or (FARM,)))
    return request


def answer(paths, name, farm=FARM):
    line = encode_answer(Answered(farm, Answer(name)))
    files.append(paths.answers, line, sync=True)


def drop(paths, later=LATER):
    drop_old_requests(paths, time.time() + later)


def names(paths):
    """The requests that are there, and those of the answers."""
    asked = RequestInbox(paths, FARM, []).poll()
    answered = AnswerInbox(paths).poll()
    return [each.name for each in asked], [each.answer.request for each in answered]


def test_what_is_answered_goes_once_it_is_old(paths):
    ask(paths, "r1")
    answer(paths, "r1")
    drop(paths, 60.0)
    assert names(paths) == (["r1"], ["r1"])
    drop(paths)
    assert names(paths) == ([], [])


def test_while_the_first_is_young_none_is_looked_at(paths, monkeypatch):
    monkeypatch.setattr(old_requests, "select_needed", None)
    ask(paths, "r1")
    ask(paths, "r2")
    drop(paths, 60.0)
    assert names(paths) == (["r1", "r2"], [])


@pytest.mark.parametrize("first", [b"{\n", b"\n", b"x" * 100_000 + b"\n"])
def test_a_damaged_first_line_does_not_keep_what_is_old(paths, first):
    files.append(paths.requests, first, sync=True)
    ask(paths, "r1")
    answer(paths, "r1")
    drop(paths)
    assert names(paths) == ([], [])


def test_what_a_farm_has_yet_to_do_stays_with_the_answers_of_others(paths, tmp_path):
    (tmp_path / "claims" / OTHER).touch()
    ask(paths, "r1", FARM, OTHER)
    answer(paths, "r1", OTHER)
    drop(paths)
    assert names(paths) == (["r1"], ["r1"])
    (tmp_path / "claims" / FARM).rename(tmp_path / "claims" / HEIR)
    drop(paths)
    assert names(paths) == (["r1"], ["r1"]), "another rank leads that farm"
    (tmp_path / "claims" / HEIR).unlink()
    drop(paths)
    assert names(paths) == ([], [])


def test_an_answer_that_came_late_stays_for_who_waits_for_it(paths, monkeypatch):
    ask(paths, "r1")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + LATER)
    answer(paths, "r1")
    monkeypatch.undo()
    monkeypatch.setattr(old_requests, "MAX_BYTES", 0)
    drop(paths)
    assert names(paths) == (["r1"], ["r1"])


def test_few_requests_stay_as_they_are(paths, monkeypatch):
    monkeypatch.setattr(old_requests, "MAX_BYTES", 1000)
    ask(paths, "r1")
    answer(paths, "r1")
    drop(paths)
    assert names(paths) == (["r1"], ["r1"])


def test_a_farm_that_reads_on_meets_what_came_since_and_nothing_twice(paths):
    inbox = RequestInbox(paths, FARM, [])
    first, second = ask(paths, "r1"), ask(paths, "r2")
    assert inbox.poll() == [first, second]
    answer(paths, "r1")
    third = ask(paths, "r3")
    drop(paths)
    fourth = ask(paths, "r4")
    assert names(paths)[0] == ["r2", "r3", "r4"]
    assert inbox.poll() == [third, fourth]
    assert inbox._notes == []


def test_a_kill_between_the_two_files_leaves_no_request_without_its_answer(
    paths, monkeypatch
):
    ask(paths, "r1")
    answer(paths, "r1")
    replace = files.replace

    def fail_at_answers(path, *rest):
        if path == paths.answers:
            raise files.storage_error("replace", path, OSError(28, "no space"))
        replace(path, *rest)

    monkeypatch.setattr(files, "replace", fail_at_answers)
    drop(paths)
    assert names(paths) == ([], ["r1"])


def test_files_of_another_user_are_left_alone(paths, monkeypatch):
    ask(paths, "r1")
    answer(paths, "r1")
    monkeypatch.setattr(files, "find_other_owner", lambda _: "user eve")
    drop(paths)
    assert names(paths) == (["r1"], ["r1"])


def test_a_file_that_has_got_the_inode_of_the_last_one_is_read_from_its_begin(tmp_path):
    path = tmp_path / "requests"
    path.write_bytes(b"one\ntwo\n")
    lines = LinesRead(str(path))
    assert lines.poll() == [b"one", b"two"]
    path.write_bytes(b"three\nfour\nfive\n")
    assert lines.poll() == [b"three", b"four", b"five"]
