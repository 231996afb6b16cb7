"""What users hold: what requests make of it, and the file that says it."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.requests import Request, RequestKind
from mpifarm.store.held_file import (
    VERSION,
    Held,
    encode_held,
    find_held,
    parse_held,
    replace_held,
)
from mpifarm.store.store import Store

SOME = Held(frozenset({3, 4}))
ALL = Held(frozenset({3, 4}), holds_all=True)


@pytest.mark.parametrize(
    ("before", "kind", "tasks", "after"),
    [
        (Held(), RequestKind.HOLD, (3, 4), SOME),
        (SOME, RequestKind.HOLD, (5,), Held(frozenset({3, 4, 5}))),
        (SOME, RequestKind.HOLD, None, ALL),
        (ALL, RequestKind.HOLD, (5,), Held(frozenset({3, 4, 5}), holds_all=True)),
        (SOME, RequestKind.RELEASE, (4, 9), Held(frozenset({3}))),
        (ALL, RequestKind.RELEASE, (4,), Held(frozenset({3}), holds_all=True)),
        (SOME, RequestKind.RELEASE, None, Held()),
        (ALL, RequestKind.RELEASE, None, Held()),
        (ALL, RequestKind.CANCEL, (3,), ALL),
        (SOME, RequestKind.DRAIN, None, SOME),
    ],
)
def test_what_is_held_after_a_request(before, kind, tasks, after):
    assert before.after(Request("x", kind, tasks, "eve")) == after


def test_a_task_is_held_by_its_id_or_with_all_others():
    assert [SOME.holds(each) for each in (3, 5)] == [True, False]
    assert ALL.holds(5)
    assert not Held().holds(0)


@pytest.mark.parametrize(
    ("total", "has_ended", "left"),
    [(5, set(), 2), (4, set(), 1), (3, set(), 0), (5, {3}, 1), (5, {3, 4}, 0)],
)
def test_held_tasks_of_a_list_that_have_not_ended_are_left(total, has_ended, left):
    assert SOME.count_left(total, has_ended.__contains__) == left


@pytest.mark.parametrize("held", [Held(), SOME, ALL, Held(holds_all=True)])
def test_what_is_written_is_read(held, tmp_path):
    paths = WorkdirPaths(str(tmp_path))
    assert find_held(paths) is None
    replace_held(paths, held)
    assert find_held(paths) == (held, "")
    assert [path.name for path in tmp_path.iterdir()] == ["held"]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": VERSION + 1},
        {"tasks": "x"},
        {"tasks": None},
        {"version": None},
    ],
)
def test_a_file_of_another_version_or_kind_holds_nothing_and_is_told(changes, tmp_path):
    record = {**json.loads(encode_held(ALL)), **changes}
    paths = WorkdirPaths(str(tmp_path))
    (tmp_path / "held").write_text(json.dumps(record))
    found = find_held(paths)
    assert found is not None
    assert found[0] == Held()
    assert found[1].startswith(f"{tmp_path}/held can't be read: no task is held")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"7", b"\xff", b"[" * 100_000])
def test_what_is_no_record_is_no_word(content):
    assert parse_held(content) is None


@pytest.mark.parametrize("word", [1, "yes", None, "false"])
def test_only_true_holds_all(word):
    record = {**json.loads(encode_held(SOME)), "all": word}
    assert parse_held(json.dumps(record).encode()) == SOME


@pytest.mark.parametrize(
    ("claims", "predecessor", "beside"),
    [((), "", False), (("c",), "", True), ((), "f00d", True), (("c",), "f00d", True)],
)
def test_requests_are_kept_for_others_and_for_who_takes_over(
    tmp_path, claims, predecessor, beside
):
    begun: list[bool] = []
    store: Any = SimpleNamespace(
        _others=SimpleNamespace(claims=claims),
        requests=SimpleNamespace(
            begin=lambda *, beside_others: begun.append(beside_others)
        ),
        paths=WorkdirPaths(str(tmp_path)),
    )
    Store._begin_requests(store, predecessor)
    assert begun == [beside]
