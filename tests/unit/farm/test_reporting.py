"""`Reporter`: what a rank says of its leases, and when it is due."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.farm.reporting import Reporter
from mpifarm.farm.sureness import Sureness
from mpifarm.model.messages import REPORT_SECONDS, Report
from mpifarm.model.task import Lease, Result
from tests.unit.virtual_rank import result_of

WAIT = 0.25
SELDOM = 5.0
"""Seconds between the reports of one of very many ranks."""


def ended(taskid: int, at: float = 10.0) -> Result:
    return result_of(Lease(taskid, 1, "x"), at)


class Reporting:
    """A reporter that has reported at second 10, on a rank that does not starve."""

    def __init__(self) -> None:
        self.feeder = SimpleNamespace(queue=[], is_starving=False, has_work=True)
        feeder: Any = self.feeder
        self.reporter = Reporter(feeder, 10.0)
        self.reporter.sureness = Sureness(WAIT)

    def report(self, now: float) -> Report:
        report = self.reporter.create_report(now)
        assert report is not None
        return report


@pytest.fixture
def rank():
    return Reporting()


def test_without_news_nothing_is_said(rank):
    assert rank.reporter.create_report(20.0) is None
    assert not rank.reporter.is_due(20.0)
    assert rank.reporter.next_at() == math.inf
    assert not rank.reporter.take_expectation()


def test_each_kind_of_news_is_said_once(rank):
    reporter = rank.reporter
    reporter.note_result(ended(1))
    reporter.note_returned([Lease(2, 3, "x")])
    reporter.note_lost(Lease(4, 5, "x"))
    assert rank.report(11.0) == Report(11.0, (ended(1),), ((2, 3),), ((4, 5),), False)
    assert reporter.create_report(11.0) is None
    assert reporter.take_expectation()
    assert not reporter.take_expectation()


def test_results_wait_for_others_to_the_end_of_the_interval(rank):
    reporter = rank.reporter
    reporter.note_result(ended(1))
    assert reporter.next_at() == 10.0 + REPORT_SECONDS
    assert not reporter.is_due(10.0 + REPORT_SECONDS - 0.001)
    assert reporter.is_due(10.0 + REPORT_SECONDS)
    rank.report(30.0)
    reporter.note_result(ended(2, 30.0))
    assert reporter.next_at() == 30.0 + REPORT_SECONDS


def test_a_lost_lease_waits_as_a_result_and_a_returned_one_does_not(rank):
    rank.reporter.note_lost(Lease(4, 5, "x"))
    assert not rank.reporter.is_due(10.0)
    assert rank.reporter.is_due(10.0 + REPORT_SECONDS)
    rank.reporter.note_returned([Lease(2, 3, "x")])
    assert rank.reporter.is_due(10.0)


def test_a_recall_is_answered_at_once_and_once(rank):
    rank.reporter.note_recall()
    assert rank.reporter.is_due(10.0)
    assert rank.report(10.0) == Report(10.0, is_recall=True)
    assert not rank.reporter.is_due(10.0)
    assert rank.reporter.create_report(10.0) is None


@pytest.mark.parametrize(
    ("queue", "is_starving", "is_due"),
    [([], True, True), ([1], True, False), ([], False, False)],
)
def test_a_result_asks_for_work_where_a_worker_starves(
    rank, queue, is_starving, is_due
):
    rank.feeder.queue, rank.feeder.is_starving = queue, is_starving
    rank.reporter.note_result(ended(1))
    assert rank.reporter.is_due(10.0) is is_due


def test_one_of_few_ranks_asks_each_time_and_one_of_many_once_for_an_answer(rank):
    rank.feeder.is_starving = True
    rank.reporter.note_result(ended(1))
    assert [rank.reporter.is_due(10.0) for _ in range(2)] == [True, True]
    rank.reporter.report_seconds = SELDOM
    assert [rank.reporter.is_due(10.0) for _ in range(2)] == [True, False]
    rank.reporter.note_assigned()
    assert [rank.reporter.is_due(10.0) for _ in range(2)] == [True, False]


# ---- sure ----------------------------------------------------------------------------


def quiet(rank: Reporting, now: float) -> None:
    rank.reporter.sureness.note_quiet(now)


def test_a_result_is_confirmed_when_it_is_sure(rank):
    rank.reporter.note_result(ended(1, 10.0))
    rank.report(10.0)
    sure_at = 10.0 + WAIT
    assert rank.reporter.next_at() == pytest.approx(sure_at, abs=1e-5)
    assert not rank.reporter.is_due(sure_at - 0.001)
    quiet(rank, sure_at + 0.001)
    assert rank.reporter.is_due(sure_at + 0.001)
    confirmed = rank.report(sure_at + 0.001)
    assert confirmed == Report(sure_at + 0.001, sure=confirmed.sure)
    assert confirmed.sure == pytest.approx(10.001)
    assert rank.reporter.next_at() == math.inf


@pytest.mark.parametrize(
    ("seconds", "has_work", "at"),
    [
        (REPORT_SECONDS, True, 10.0 + WAIT),
        (2 * WAIT, True, 10.0 + 2 * WAIT),
        (2 * WAIT, False, 10.2 + WAIT),
        (SELDOM, True, 10.0 + SELDOM),
        (SELDOM, False, 10.2 + WAIT),
    ],
)
def test_confirmations_go_with_other_news_where_ranks_are_many(
    rank, seconds, has_work, at
):
    rank.reporter.report_seconds = seconds
    rank.feeder.has_work = has_work
    rank.reporter.note_result(ended(1, 10.0))
    rank.reporter.note_result(ended(2, 10.2))
    rank.report(10.0)
    assert rank.reporter.next_at() == pytest.approx(at, abs=1e-5)


def test_nothing_counts_that_ends_after_the_rank_began_to_end_its_commands(rank):
    assert rank.reporter.stop_counting(20.0)
    assert not rank.reporter.stop_counting(30.0)
    for taskid, at in enumerate((20.0, 20.001, 25.0)):
        rank.reporter.note_result(ended(taskid, at))
    assert [each.taskid for each in rank.report(30.0).results] == [0]


def test_a_signal_drops_what_waits_to_be_said_and_is_not_sure(rank):
    for taskid, at in enumerate((19.0, 20.0, 21.0)):
        rank.reporter.note_result(ended(taskid, at))
    quiet(rank, 20.0 + WAIT)
    rank.reporter.void()
    rank.reporter.note_result(ended(3, 21.0))
    assert [each.taskid for each in rank.report(30.0).results] == [0, 1]


def test_a_signal_elsewhere_drops_what_was_launched_and_all_after_it(rank):
    rank.reporter.sureness.note_leases([Lease(1, 1, "srun x")])
    for taskid, at in enumerate((19.0, 20.0, 21.0)):
        rank.reporter.note_result(ended(taskid, at))
    rank.reporter.void_launched()
    assert [each.taskid for each in rank.report(30.0).results] == [0]


# ---- another coordinator -------------------------------------------------------------


def test_a_full_report_has_what_was_reported_and_is_not_on_disk(rank):
    reporter = rank.reporter
    reporter.keeps_results = True
    for taskid in range(3):
        reporter.note_result(ended(taskid))
    rank.report(11.0)
    reporter.note_committed([(1, 1), (7, 7)])
    reporter.note_result(ended(3))
    reporter.note_returned([Lease(8, 1, "x")])
    reporter.note_lost(Lease(9, 2, "x"))
    full = reporter.create_full_report(12.0)
    assert [each.taskid for each in full.results] == [0, 2, 3]
    assert (full.sent, full.returned, full.lost) == (12.0, ((8, 1),), ((9, 2),))
    assert reporter.create_report(12.0) is None
    again = reporter.create_full_report(13.0)
    assert [each.taskid for each in again.results] == [0, 2, 3]


def test_a_full_report_ends_what_the_old_coordinator_was_asked_or_had_asked(rank):
    reporter = rank.reporter
    reporter.report_seconds = SELDOM
    rank.feeder.is_starving = True
    reporter.note_result(ended(1))
    assert reporter.is_due(10.0)
    reporter.note_recall()
    assert not reporter.create_full_report(12.0).is_recall
    reporter.note_result(ended(2))
    assert reporter.is_due(12.0), "it may ask the new one"
    assert not rank.report(12.0).is_recall


@pytest.mark.parametrize("keeps", [False, True])
def test_results_are_kept_only_where_somebody_can_succeed(rank, keeps):
    rank.reporter.keeps_results = keeps
    rank.reporter.note_result(ended(1))
    rank.report(11.0)
    assert len(rank.reporter.create_full_report(12.0).results) == keeps
    rank.reporter.forget_kept()
    rank.reporter.note_result(ended(2))
    rank.report(13.0)
    assert rank.reporter.create_full_report(14.0).results == ()
