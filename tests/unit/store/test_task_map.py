"""Where a task is: of several files that name it, one counts."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mpifarm
from mpifarm.store.task_map import Location, TaskMap, find_settled

TOTAL = 12
some = st.sets(st.integers(0, TOTAL + 3))
ORDER = (Location.FINISHED, Location.CLAIMED, Location.QUEUED, Location.FAILED)


def flags(ids: set[int]) -> bytearray:
    return bytearray(taskid in ids for taskid in range(TOTAL))


@given(some, some, some, some, st.integers(0, 9), st.integers(0, 20))
def test_the_first_place_of_the_table_counts(
    finished, claimed, queued, failed, begin, end
):
    run = range(begin, end)
    tasks = TaskMap(
        TOTAL,
        finished=flags(finished),
        claimed=claimed,
        queued=[queued, run],
        failed=flags(failed),
    )
    same = TaskMap(
        TOTAL,
        finished=finished,
        claimed=[*claimed],
        queued=[{*run, *queued}],
        failed=failed,
    )
    named = (finished, claimed, queued | {*run}, failed)
    for taskid in range(TOTAL):
        places = [at for at, ids in zip(ORDER, named, strict=True) if taskid in ids]
        expected = places[0] if places else Location.NOWHERE
        assert tasks.find(taskid) is same.find(taskid) is expected
        assert taskid in tasks.ids_at(expected)
    counts = tasks.count()
    assert sum(counts[1:]) == counts.total == TOTAL
    assert counts.queued == len([*tasks.ids_at(Location.QUEUED)])


def test_an_id_beyond_the_list_is_nowhere():
    tasks = TaskMap(0, finished=(), claimed=[3], queued=[range(5)], failed=())
    assert tasks.find(3) is Location.NOWHERE
    assert tasks.count() == (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("lines", "settled"),
    [
        ([], set()),
        ([(1, 10)], set()),  # at the very take
        ([(1, 11)], {1}),
        ([(1, 5), (1, 20)], {1}),
        ([(1, 5)], set()),
        ([(7, 99)], set()),  # not of this claim
    ],
)
def test_a_line_of_failed_that_is_younger_than_the_take_settles_a_task(lines, settled):
    assert find_settled(lines, {1: 10, 2: 0}) == settled


def test_the_order_is_the_one_of_the_table_in_the_docs():
    page = Path(mpifarm.__file__).parents[1] / "docs" / "protocol.md"
    table = page.read_text().partition("### Where a task is")[2]
    places = re.findall(r"^\| (\w+) \|", table, re.MULTILINE)[1:6]
    expected = sorted(Location, reverse=True)
    assert places == [each.name.lower() for each in expected if each >= 0]
