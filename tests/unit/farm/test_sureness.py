"""`Sureness`: when a result is sure, to the instant."""

import math

import pytest

from mpifarm.farm.sureness import LONGEST_WAIT, Sureness, find_wait
from mpifarm.model.task import LAUNCHED_WAIT, Lease, Result
from tests.unit.virtual_rank import result_of

WAIT = 0.25


def ended(at: float, taskid: int = 1) -> Result:
    return result_of(Lease(taskid, 1, "x"), at)


@pytest.fixture
def sureness():
    return Sureness(WAIT)


@pytest.mark.parametrize(
    ("commands", "in_job", "wait"),
    [
        (0, True, 0.07),
        (10, True, 0.21),
        (20, True, LONGEST_WAIT),
        (1000, True, LONGEST_WAIT),
        (10, False, 0.06),
        (1000, False, LONGEST_WAIT),
    ],
)
def test_the_wait_grows_with_the_commands_of_the_node(commands, in_job, wait):
    assert find_wait(commands, in_job=in_job) == pytest.approx(wait)


def test_without_another_word_a_rank_takes_its_node_for_one_in_a_job():
    assert find_wait(10) == find_wait(10, in_job=True)


def test_what_ended_a_wait_ago_is_sure(sureness):
    sureness.note_reported([ended(10.0)])
    sureness.note_quiet(10.0 + WAIT - 0.001)
    assert sureness.is_waiting
    assert not sureness.has_news
    sureness.note_quiet(10.0 + WAIT)
    assert sureness.until == 10.0
    assert sureness.has_news
    sureness.note_reported([])
    assert not sureness.is_waiting
    assert not sureness.has_news


def test_the_first_and_the_last_that_wait_say_when_they_get_sure(sureness):
    sureness.note_reported([ended(10.0), ended(12.0)])
    assert sureness.first_at() == pytest.approx(10.0 + WAIT, abs=1e-5)
    assert sureness.last_at() == pytest.approx(12.0 + WAIT, abs=1e-5)
    assert sureness.first_at() - WAIT > 10.0


def test_what_is_not_sure_at_a_signal_never_gets_sure(sureness):
    sureness.note_quiet(10.0 + WAIT)
    sureness.void()
    assert sureness.may_count(ended(10.0))
    assert not sureness.may_count(ended(10.001))
    sureness.note_quiet(20.0)
    assert sureness.until == 10.0
    sureness.note_reported([ended(10.001)])
    assert not sureness.is_waiting
    sureness.void()
    assert sureness.may_count(ended(10.0)), "a later signal voids no more"


def launch(sureness: Sureness, taskid: int = 1, at: float = 10.0) -> None:
    sureness.note_leases([Lease(taskid, 1, "srun ./run")])
    sureness.note_end(ended(at, taskid))


def test_a_launched_command_holds_back_itself_and_what_ended_after_it(sureness):
    launch(sureness)
    sureness.note_quiet(11.0)
    assert 9.999 < sureness.until < 10.0
    sureness.note_quiet(10.0 + LAUNCHED_WAIT)
    assert sureness.until == pytest.approx(10.0 + LAUNCHED_WAIT - WAIT)
    sureness.note_quiet(20.0)
    assert sureness.until == 20.0 - WAIT


def test_what_ended_before_a_launched_command_is_sure_as_ever(sureness):
    launch(sureness)
    sureness.note_quiet(9.0 + WAIT)
    assert sureness.until == 9.0
    sureness.note_reported([ended(9.9), ended(10.0)])
    assert sureness.first_at() == pytest.approx(9.9 + WAIT, abs=1e-5)
    assert sureness.last_at() == pytest.approx(10.0 + LAUNCHED_WAIT, abs=1e-5)


def test_a_signal_elsewhere_voids_the_first_launched_command_and_all_later(sureness):
    launch(sureness, 1, 12.0)
    launch(sureness, 2, 10.0)
    sureness.void_launched()
    assert sureness.may_count(ended(9.999))
    assert not sureness.may_count(ended(10.0))
    assert not sureness.may_count(ended(11.0))


def test_a_signal_elsewhere_voids_a_launched_command_that_ends_later(sureness):
    sureness.note_leases([Lease(1, 1, "srun ./run"), Lease(2, 1, "srun ./run")])
    sureness.void_launched()
    assert sureness.may_count(ended(10.0))
    sureness.note_end(ended(10.0, 3))
    assert sureness.may_count(ended(10.0)), "it was not launched"
    sureness.note_end(ended(10.0, 2))
    assert not sureness.may_count(ended(10.0))
    sureness.note_end(ended(11.0, 1))
    assert sureness.may_count(ended(9.99)), "a later end voids nothing earlier"


def test_an_attempt_is_launched_only_once(sureness):
    launch(sureness)
    sureness.note_quiet(20.0)
    sureness.note_end(ended(20.0))
    sureness.note_quiet(20.0 + WAIT)
    assert sureness.until == 20.0


def test_before_the_first_look_nothing_is_sure(sureness):
    assert sureness.until == -math.inf
    assert Sureness().until == -math.inf
    sureness.void()
    assert not sureness.may_count(ended(0.0))
