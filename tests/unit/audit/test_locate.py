"""Where one task is, and who has it."""

import pytest

from mpifarm.audit.audit import ClaimView, Contents
from mpifarm.audit.locate import locate_tasks
from mpifarm.store.farm_liveness import FarmLiveness
from mpifarm.store.fingerprint import encode_fingerprint, take_fingerprint
from mpifarm.store.task_map import Location

TASKS = ["a", "b", "c", "d"]


def claim(*held: int, liveness: FarmLiveness = FarmLiveness.DEAD) -> ClaimView:
    return ClaimView("f1", "on n1 (pid 7)", liveness, frozenset(held), frozenset(held))


def contents(**others) -> Contents:
    fields = {
        "toprocess": b"3 d\n",
        "finished": b"0 a\n",
        "failed": b"1 b\n",
        "fingerprint": None,
        "claims": (claim(2),),
    }
    return Contents(**{**fields, **others})


@pytest.mark.parametrize("texts", [TASKS, None])
def test_each_task_is_where_the_files_say(texts):
    found = locate_tasks(contents(), texts, has_own_state=False)
    assert [found.locate(taskid).location for taskid in range(5)] == [
        Location.FINISHED,
        Location.FAILED,
        Location.CLAIMED,
        Location.QUEUED,
        Location.NOWHERE,
    ]
    assert [found.knows(taskid) for taskid in (0, 3, 4)] == [True, True, False]
    assert found.locate(2).holder == claim(2)
    assert found.locate(3).holder is None


@pytest.mark.parametrize(
    ("liveness", "may_start"),
    [
        (FarmLiveness.HOLDS_LOCK, True),
        (FarmLiveness.UNCERTAIN, True),
        (FarmLiveness.DEAD, False),
    ],
)
def test_a_task_may_start_while_a_farm_may_live(liveness, may_start):
    claims = (claim(), claim(2, liveness=liveness))
    found = locate_tasks(contents(claims=claims), TASKS, has_own_state=False)
    assert found.locate(3).may_start is may_start


def test_of_a_list_with_its_own_state_only_claims_are_known():
    found = locate_tasks(contents(), TASKS, has_own_state=True)
    assert [found.locate(taskid).location for taskid in range(4)] == [
        *(Location.UNKNOWN, Location.UNKNOWN, Location.CLAIMED, Location.UNKNOWN)
    ]
    assert found.knows(99)


@pytest.mark.parametrize(
    ("toprocess", "location"), [(None, Location.QUEUED), (b"", Location.NOWHERE)]
)
def test_a_task_that_was_added_waits_where_all_run(toprocess, location):
    fingerprint = encode_fingerprint(take_fingerprint(TASKS[:3]))
    found = locate_tasks(
        contents(toprocess=toprocess, fingerprint=fingerprint),
        TASKS,
        has_own_state=False,
    )
    assert found.total == 4
    assert found.locate(3).location is location
