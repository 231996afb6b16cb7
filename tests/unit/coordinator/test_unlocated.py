"""What ranks say of tasks whose coordinator was lost: which word counts."""

import pytest

from mpifarm.coordinator.unlocated import LastSeen, SeenAs, Unlocated
from mpifarm.model.messages import Report
from mpifarm.model.task import Lease
from tests.unit.virtual_rank import result_of

HELD, RETURNED = SeenAs.HELD, SeenAs.RETURNED


def test_until_all_are_located_and_all_ranks_have_spoken_something_is_pending():
    unlocated = Unlocated([7], [0, 1])
    unlocated.awaited.clear()
    assert unlocated.is_pending
    assert unlocated.clear() == {7: None}
    assert not unlocated.is_pending
    assert Unlocated([], [1]).is_pending


def test_leases_that_a_rank_no_more_names_are_nowhere():
    unlocated = Unlocated([7, 8, 9], [])
    unlocated.note_leases(1, [(7, 1), (8, 1), (99, 1)])
    unlocated.note_leases(2, [(9, 1)])
    unlocated.note_leases(1, [(8, 1)])
    assert unlocated.clear() == {
        7: None,
        8: LastSeen(1, 1, HELD),
        9: LastSeen(2, 1, HELD),
    }


def test_what_a_rank_has_reported_is_not_lost_with_its_next_word():
    unlocated = Unlocated([7], [])
    unlocated.note_report(1, Report(5.0, (), ((7, 1),)), 5.0)
    unlocated.note_leases(1, [])
    assert unlocated.clear() == {7: LastSeen(1, 1, RETURNED)}


@pytest.mark.parametrize(("ago", "ended"), [(0.0, 100.0), (2.5, 97.5), (-1.0, 100.0)])
def test_a_result_ended_so_long_ago_as_its_rank_says(ago, ended):
    unlocated = Unlocated([7], [])
    result = result_of(Lease(7, 1, ""), 50.0 - ago)
    unlocated.note_report(1, Report(50.0, (result,)), 100.0)
    assert unlocated.clear() == {7: LastSeen(1, 1, SeenAs.ENDED, result, ended)}


def test_what_a_rank_has_lost_is_noted_as_lost():
    unlocated = Unlocated([7], [])
    unlocated.note_report(1, Report(5.0, (), (), ((7, 2),)), 5.0)
    assert unlocated.clear() == {7: LastSeen(1, 2, SeenAs.LOST)}


@pytest.mark.parametrize(
    ("first", "second", "counts"),
    [
        ((1, 1, HELD), (2, 2, HELD), 1),  # the later attempt
        ((2, 2, HELD), (1, 1, HELD), 0),
        ((1, 1, HELD), (2, 1, HELD), 0),  # of one attempt, who spoke first
        ((1, 1, HELD), (1, 1, RETURNED), 1),  # or the same rank later
        ((1, 1, RETURNED), (2, 1, HELD), 1),  # or who got it after it was returned
    ],
)
def test_of_two_words_on_a_task_the_later_attempt_counts(first, second, counts):
    unlocated = Unlocated([7], [])
    for rank, attempt, seen_as in (first, second):
        if seen_as is HELD:
            unlocated.note_leases(rank, [(7, attempt)])
        else:
            unlocated.note_report(rank, Report(5.0, (), ((7, attempt),)), 5.0)
    assert unlocated.clear() == {7: LastSeen(*(first, second)[counts])}
