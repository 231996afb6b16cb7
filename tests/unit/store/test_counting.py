"""The numbers of a list at a survey: which task counts where, and what waits for what.

Rules of this file: no files; the queues are given as ids.
"""

from collections.abc import Iterable

import pytest

from mpifarm.order.constraints import Constraints
from mpifarm.order.frontier import Frontier
from mpifarm.store.counting import MAX_FAILED_NAMED, count_map
from mpifarm.store.task_map import TaskMap
from mpifarm.store.types import Counts, Survey

TOTAL = 30


def flags(ids: Iterable[int]) -> bytearray:
    wanted = {*ids}
    return bytearray(taskid in wanted for taskid in range(TOTAL))


def count(
    *,
    finished: Iterable[int] = (),
    failed: Iterable[int] = (),
    queued: Iterable[int] = (),
    held: Iterable[int] = (),
    claimed: Iterable[int] = (),
    in_array: Iterable[int] = (),
    constraints: Constraints | None = None,
) -> Counts:
    survey = Survey(
        frozenset(held), frozenset(claimed), None, in_array=frozenset(in_array)
    )
    tasks = TaskMap(
        TOTAL,
        finished=flags(finished),
        claimed=survey.held | survey.claimed,
        queued=[[*queued]],
        failed=flags(failed),
    )
    frontier = None
    if constraints is not None:
        frontier = Frontier(constraints, flags(finished), flags(failed))
    return count_map(tasks, survey, frontier)


def test_each_task_counts_once():
    counts = count(
        finished=[0, 1, 2],
        failed=[2, 3, 4, 5],
        queued=[5, 6, 7, 8],
        held=[8, 9, 0],
        claimed=[10, 11, 1],
        in_array=[11, 1, 6],
    )
    assert counts == Counts(
        total=TOTAL,
        finished=3,
        failed=2,
        toprocess=3,
        held=2,
        claimed=2,
        elsewhere=TOTAL - 12,
        first_failed=(3, 4),
        in_array=1,
    )


def test_only_the_first_failed_are_named():
    counts = count(failed=range(TOTAL))
    assert counts.failed == TOTAL
    assert counts.first_failed == tuple(range(MAX_FAILED_NAMED))


def barrier(first: int, *, checks: bool = False) -> Constraints:
    constraints = Constraints()
    constraints.add_barrier(first, checks=checks)
    return constraints


@pytest.mark.parametrize(
    ("queued", "held_up", "lost", "shut"),
    [
        (range(TOTAL), 20, (), 10),
        (range(1, TOTAL), 20, (0,), 10),
        (range(9, TOTAL), 20, tuple(range(9)), 10),
        (range(10, TOTAL), 20, tuple(range(MAX_FAILED_NAMED)), 10),
        (range(12, TOTAL), 18, tuple(range(MAX_FAILED_NAMED)), 10),
    ],
)
def test_what_is_queued_behind_a_shut_barrier_waits(queued, held_up, lost, shut):
    counts = count(queued=queued, constraints=barrier(10))
    assert (counts.held_up, counts.lost, counts.barrier) == (held_up, lost, shut)


def test_nothing_waits_behind_a_barrier_that_is_open():
    counts = count(finished=range(10), queued=range(10, TOTAL), constraints=barrier(10))
    assert (counts.held_up, counts.lost, counts.barrier) == (0, (), None)


def test_a_barrier_behind_which_nothing_is_run_is_not_shut():
    counts = count(
        finished=range(9),
        failed=[9],
        queued=range(10, TOTAL),
        constraints=barrier(10, checks=True),
    )
    assert (counts.held_up, counts.barrier) == (0, None)


def test_tasks_that_wait_for_others_are_held_up_while_these_may_finish():
    constraints = Constraints()
    constraints.after = {5: (1,), 6: (1, 2), 7: (3,)}
    counts = count(finished=[3], queued=[2, *range(4, TOTAL)], constraints=constraints)
    assert counts.held_up == 2
    assert counts.lost == (1,)
    assert counts.barrier is None
