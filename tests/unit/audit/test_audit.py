"""The audit of a workdir's contents: each kind of finding, and what is none.

Rules of this file: no files; contents are given as bytes.
"""

from typing import Any

import pytest

from mpifarm.audit.audit import (
    MAX_LEARNED,
    NOTICES,
    UNKNOWN_TEXT,
    Audit,
    ClaimView,
    Contents,
    FindingKind,
    audit_contents,
    learn_tasks,
)
from mpifarm.model.paths import UNKEPT, log_name
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.store.farm_liveness import FarmLiveness
from mpifarm.store.fingerprint import ListMatch, encode_fingerprint, take_fingerprint
from mpifarm.store.task_map import Location

TASKS = [f"cmd {number}" for number in range(8)]
SAME = encode_fingerprint(take_fingerprint(TASKS))
Kind = FindingKind


def lines(*taskids: int) -> bytes:
    return b"".join(b"%d cmd %d\n" % (each, each) for each in taskids)


def claim(
    *held: int,
    farm: str = "f1",
    liveness: FarmLiveness = FarmLiveness.RUNNING,
    requeueing: int | None = None,
) -> ClaimView:
    kept = frozenset(held) - {requeueing}
    return ClaimView(farm, "", liveness, frozenset(held), kept)


def audit(logs: Any = None, constraints: Constraints | None = None, **of: Any) -> Audit:
    """Audit a workdir in order, in which these parts are other ones."""
    parts: dict[str, Any] = {
        "toprocess": lines(2, 3, 4, 5, 6, 7),
        "finished": lines(0),
        "failed": lines(1),
        "fingerprint": SAME,
        **of,
    }
    contents = Contents(**parts)
    return audit_contents(
        contents, TASKS, logs=logs, constraints=constraints or UNORDERED
    )


def found(checked: Audit) -> dict[FindingKind, Any]:
    """Ids, or names, of each finding."""
    assert all(each.number for each in checked.findings)
    return {each.kind: each.ids or each.names for each in checked.findings}


def test_a_workdir_in_order_has_no_findings():
    checked = audit()
    assert found(checked) == {}
    assert checked.clean
    assert checked.list_is_same
    assert checked.queued == {2, 3, 4, 5, 6, 7}
    assert checked.find(Kind.TORN) is None


@pytest.mark.parametrize(
    ("change", "findings"),
    [
        ({"finished": lines(0, 0)}, {Kind.FINISHED_TWICE: (0,)}),
        ({"failed": lines(1, 1)}, {Kind.FAILED_TWICE: (1,)}),
        ({"failed": lines(0, 1)}, {Kind.FAILED_FINISHED: (0,)}),
        ({"failed": lines(1, 2)}, {Kind.FAILED_QUEUED: (2,)}),
        ({"finished": lines(0, 2)}, {Kind.QUEUED_FINISHED: (2,)}),
        (
            {"finished": lines(0, 2), "failed": lines(1, 2)},
            {Kind.QUEUED_FINISHED: (2,), Kind.FAILED_FINISHED: (2,)},
        ),
        ({"toprocess": lines(3, 4, 5, 6, 7)}, {Kind.NOWHERE: (2,)}),
        ({"toprocess": lines(3, 2, 4, 5, 6, 7)}, {Kind.UNSORTED: ("toprocess",)}),
        ({"toprocess": lines(2, 2, 3, 4, 5, 6, 7)}, {Kind.QUEUED_TWICE: (2,)}),
        ({"claims": (claim(2),)}, {Kind.QUEUED_HELD: (2,)}),
        ({"claims": (claim(2, requeueing=2),)}, {}),
        (
            {"claims": (claim(2, liveness=FarmLiveness.DEAD),)},
            {Kind.CLAIM_DEAD: ("f1",)},
        ),
        (
            {"claims": (claim(0),)},
            {},
        ),
        ({"claims": (claim(9),)}, {Kind.HELD_UNKNOWN: (9,)}),
        (
            {"claims": (claim(1), claim(1, farm="f2"))},
            {Kind.HELD_TWICE: (1,)},
        ),
        ({"claims": (claim(0), claim(0, farm="f2"))}, {}),
        (
            {"claims": (claim(liveness=FarmLiveness.DAMAGED),)},
            {Kind.CLAIM_DAMAGED: ("f1",)},
        ),
        (
            {"claims": (claim(liveness=FarmLiveness.UNCERTAIN),)},
            {Kind.CLAIM_UNSURE: ("f1",)},
        ),
        ({"leftovers": ("x", "y")}, {Kind.LEFTOVER: ("x", "y")}),
        ({"invalid_timelines": ("t",)}, {Kind.TIMELINE: ("t",)}),
        ({"drain": True}, {Kind.DRAIN: ("drain",)}),
        ({"locked": False}, {Kind.UNLOCKED: ()}),
        (
            {"toprocess": lines(3, 4, 5, 6, 7), "unread": ("can't read claims",)},
            {Kind.UNREAD: ("can't read claims",)},
        ),
        ({"fingerprint": None}, {}),
        ({"fingerprint": b"x"}, {Kind.FINGERPRINT: ("fingerprint.json",)}),
        ({"remap_begun": True}, {Kind.REMAP_BEGUN: ("remap.begun",)}),
        (
            {"remap_begun": True, "toprocess": b"", "claims": (claim(9),)},
            {Kind.REMAP_BEGUN: ("remap.begun",)},
        ),
        ({"toprocess": None}, {}),
        ({"toprocess": None, "claims": (claim(2),)}, {}),
        ({"finished": lines(0) + b"9 cmd 9\n"}, {Kind.UNKNOWN_ID: (9,)}),
        ({"finished": lines(0) + b"3 cmd x\n"}, {Kind.OTHER_TEXT: (3,)}),
        ({"finished": lines(0) + b"what\n"}, {Kind.NO_TASK: ("what",)}),
        ({"finished": lines(0) + b"3 cm"}, {Kind.TORN: ("finished (1)",)}),
    ],
)
def test_each_fault_is_found_and_nothing_else(change, findings):
    checked = audit(**change)
    assert found(checked) == findings
    assert checked.clean is (findings.keys() <= NOTICES)


def test_a_last_line_may_be_one_that_is_being_written():
    finished = lines(0) + b"2 cm"
    assert Kind.TORN in found(audit(finished=finished))
    assert Kind.TORN not in found(audit(finished=finished, locked=False))


@pytest.mark.parametrize(
    ("change", "begun", "findings"),
    [
        (TASKS[:6], True, {Kind.LINES_ADDED}),
        (["x", *TASKS[1:]], True, {Kind.LIST_EDITED}),
        (["x", *TASKS[1:]], False, set()),
        (TASKS[:6], False, set()),
    ],
)
def test_a_changed_list_is_told_where_somebody_has_begun_it(change, begun, findings):
    of: dict[str, Any] = {"fingerprint": encode_fingerprint(take_fingerprint(change))}
    if not begun:
        of |= dict.fromkeys(("toprocess", "finished", "failed"))
    elif findings == {Kind.LINES_ADDED}:
        of |= {"toprocess": lines(2, 3, 4, 5)}
    checked = audit(**of)
    assert {*found(checked)} == findings
    for kind in findings:
        assert found(checked)[kind] == (f"{len(change)} tasks before, 8 now",)


def test_of_a_list_that_has_grown_the_tasks_are_those_of_before():
    fingerprint = encode_fingerprint(take_fingerprint(TASKS[:6]))
    checked = audit(
        toprocess=lines(2, 3, 4, 5), waiting=lines(3, 6), fingerprint=fingerprint
    )
    assert checked.match is ListMatch.LINES_ADDED
    assert checked.list_is_same
    assert [*checked.tasks] == TASKS[:6]
    assert [*checked.waiting.ids] == [3]


def test_of_an_edited_list_no_id_is_called_unknown_or_lost():
    fingerprint = encode_fingerprint(take_fingerprint(["x", *TASKS[1:]]))
    checked = audit(toprocess=b"", claims=(claim(9),), fingerprint=fingerprint)
    assert {*found(checked)} == {Kind.LIST_EDITED}
    assert not checked.list_is_same


def added_from(first: int) -> bytes:
    stored = take_fingerprint(TASKS)._replace(first_added=first)
    return encode_fingerprint(stored)


def test_tasks_from_the_first_added_on_have_a_queue_of_their_own():
    checked = audit(
        toprocess=lines(2, 3, 4, 5), added=lines(6, 7), fingerprint=added_from(6)
    )
    assert found(checked) == {}
    assert [checked.queue_of(each) for each in (5, 6)] == ["toprocess", "added"]
    assert [*checked.added.ids] == [6, 7]


@pytest.mark.parametrize("change", [{"toprocess": None}, {"fingerprint": SAME}])
def test_a_queue_that_nobody_reads_has_nothing(change):
    of = {"fingerprint": added_from(6), "added": lines(6, 7), **change}
    checked = audit(**of)
    assert [*checked.added.ids] == []
    assert bool(checked.queues) is (checked.toprocess is not None)


def ordered() -> Constraints:
    constraints = Constraints()
    constraints.after = {4: (0,), 5: (3,)}
    return constraints


def test_what_waits_for_others_is_no_task_of_plain_farmers():
    whole = encode_fingerprint(take_fingerprint(TASKS, constraints=ordered()))
    of: dict[str, Any] = {"fingerprint": whole, "constraints": ordered()}
    checked = audit(toprocess=lines(2, 3, 6, 7), waiting=lines(4, 5), **of)
    assert found(checked) == {}
    assert [checked.queue_of(each) for each in (4, 6)] == ["waiting", "toprocess"]
    early = audit(**of)
    assert found(early) == {Kind.QUEUED_EARLY: (4, 5)}
    assert found(audit(toprocess=None, waiting=lines(4, 5), **of)) == {}


@pytest.mark.parametrize(
    ("logs", "missing"),
    [
        (None, None),
        ([log_name(0), log_name(1)], None),
        ([log_name(0)], (1,)),
        ([], (0, 1)),
        ([UNKEPT], (1,)),
        ([UNKEPT, log_name(1)], None),
    ],
)
def test_what_has_ended_and_left_no_log_is_found(logs, missing):
    expected = {} if missing is None else {Kind.LOG: missing}
    assert found(audit(logs=logs)) == expected


def test_the_places_of_tasks_are_known_without_toprocess_too():
    checked = audit(toprocess=None, claims=(claim(2),))
    places = [checked.locations.find(each) for each in range(4)]
    assert places == [
        *(Location.FINISHED, Location.QUEUED, Location.CLAIMED, Location.QUEUED)
    ]
    assert checked.queues == {}
    assert checked.nowhere == frozenset()


# ---- tasks that only the files name --------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "tasks"),
    [
        (Contents(lines(1), lines(0), None, None), TASKS[:2]),
        (Contents(lines(1), None, None, None), [UNKNOWN_TEXT, TASKS[1]]),
        (Contents(None, None, lines(1), None), [UNKNOWN_TEXT, TASKS[1]]),
        (
            Contents(lines(0), None, None, None, added=lines(1), waiting=lines(2)),
            TASKS[:3],
        ),
        (Contents(None, None, None, None, claims=(claim(1),)), [UNKNOWN_TEXT] * 2),
        (Contents(lines(0), None, None, SAME), [TASKS[0], *[UNKNOWN_TEXT] * 7]),
        (Contents(b"0 new\n", lines(0), None, None), ["new"]),
        (Contents(lines(0)[:-1], None, None, None), []),
        (Contents(b"x\n\n9999999999 y\n", None, None, None), []),
        (Contents(b"%d y\n" % MAX_LEARNED, None, None, None), []),
    ],
)
def test_without_the_list_its_tasks_are_those_of_the_files(contents, tasks):
    assert learn_tasks(contents) == tasks


@pytest.mark.parametrize(
    ("contents", "begun"),
    [
        (Contents(None, None, None, None), False),
        (Contents(b"", None, None, None), True),
        (Contents(None, b"", None, None), True),
        (Contents(None, None, b"", None), True),
        (Contents(None, None, None, SAME), False),
        (Contents(None, None, None, None, claims=(claim(),)), True),
    ],
)
def test_a_workdir_is_begun_with_the_first_status_file_or_claim(contents, begun):
    assert contents.begun is begun
