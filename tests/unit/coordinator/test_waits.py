"""The small members that say when: recalls, starts, the end of a list that grows."""

from math import inf

import pytest

from mpifarm.coordinator.effects import Effect, LookAtList
from mpifarm.coordinator.growing import GrowingList
from mpifarm.coordinator.limits import TRIAL_TASKS, Limits
from mpifarm.coordinator.pacing import ReportPacing
from mpifarm.coordinator.prefetch import (
    POLL_SECONDS,
    TAKE_INTERVAL,
    Prefetch,
)
from mpifarm.coordinator.seats import Seats
from mpifarm.coordinator.start_rate import StartRate
from mpifarm.coordinator.state import UNLIMITED, RankRecord, RankState, TaskRecord
from mpifarm.coordinator.stealing import (
    PATIENCE_FOR_DISK_SECONDS,
    PATIENCE_SECONDS,
    Recalls,
)
from mpifarm.coordinator.walltime import Walltime
from mpifarm.model.settings import Policy

# ---- recalls -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "more", "patience"),
    [
        (2, False, PATIENCE_SECONDS),
        (2, True, PATIENCE_FOR_DISK_SECONDS),
        (1000, False, 0.02),
        (100_000, True, 2.0),  # a look at all of them takes time
    ],
)
def test_workers_idle_for_a_moment_before_leases_are_recalled(ranks, more, patience):
    recalls = Recalls(ranks)
    assert recalls.look_at == inf
    assert not recalls.is_due(100.0, more_may_come=more)
    assert recalls.look_at == 100.0 + patience
    assert not recalls.is_due(100.0 + 0.99 * patience, more_may_come=more)
    assert recalls.is_due(100.0 + patience, more_may_come=more)
    recalls.rest()
    assert recalls.look_at == inf
    assert not recalls.is_due(200.0, more_may_come=more)


def test_leases_that_go_out_while_workers_idle_are_looked_at_soon():
    recalls = Recalls(2)
    recalls.note_leases(100.0)
    assert recalls.look_at == inf, "no worker is idle"
    recalls.is_due(100.0, more_may_come=True)
    recalls.note_leases(100.1)
    assert recalls.look_at == 100.1 + PATIENCE_SECONDS
    recalls.note_leases(100.2)
    assert recalls.look_at == 100.1 + PATIENCE_SECONDS, "not later than before"


def rank_with(leases: int, **facts: bool) -> RankRecord:
    record = RankRecord(leases, RankState.WORKING, workers=2)
    record.leases = {*range(leases)}
    record.is_asked = facts.get("is_asked", False)
    return record


def test_all_but_a_small_share_of_what_ranks_have_ahead_comes_back():
    recalls = Recalls(4)
    full, some, busy = rank_with(2), rank_with(4), rank_with(10)
    picked = recalls.pick([full, some, busy], 8, 100.0)
    assert picked == [(some, 1), (busy, 7)]  # of 10 ahead each keeps an eighth
    assert some.is_asked
    assert busy.is_asked
    assert not full.is_asked
    assert recalls.look_at == 100.0 + PATIENCE_SECONDS
    assert recalls.pick([full, some, busy], 8, 200.0) == []
    assert recalls.look_at == 200.0 + PATIENCE_SECONDS


def test_where_no_rank_has_more_than_it_runs_there_is_no_look():
    recalls = Recalls(4)
    assert recalls.pick([rank_with(2)], 8, 100.0) == []
    assert recalls.look_at == inf


def test_a_rank_that_has_stopped_returns_nothing():
    stopped = rank_with(9)
    stopped.state = RankState.STOPPED
    assert Recalls(4).pick([stopped], 8, 100.0) == []
    assert not stopped.is_asked


# ---- starts --------------------------------------------------------------------------


def test_any_number_may_start_without_a_rate():
    rate = StartRate(None, 0.0)
    rate.note_started(1000)
    assert (rate.allow(0.0), rate.wake_at()) == (UNLIMITED, inf)


def test_a_start_is_due_when_its_part_has_grown_whole():
    rate = StartRate(4.0, 10.0)
    assert (rate.allow(10.0), rate.wake_at()) == (1, inf)
    rate.note_started(1)
    assert (rate.allow(10.0), rate.wake_at()) == (0, 10.25)
    assert rate.allow(10.125) == 0
    assert rate.wake_at() == 10.25
    assert rate.allow(10.25) == 1
    assert rate.allow(99.0) == 1, "starts that were not used are lost"


@pytest.mark.parametrize(
    ("rate", "most"), [(5.0, 1), (10.0, 1), (30.0, 3), (100.0, 10)]
)
def test_starts_of_a_tenth_of_a_second_may_come_together(rate, most):
    starts = StartRate(rate, 0.0)
    assert starts.allow(0.0) == 1
    assert starts.allow(50.0) == most


def test_a_clock_that_goes_back_takes_no_start():
    rate = StartRate(4.0, 10.0)
    assert rate.allow(9.0) == 1


# ---- the end of a list that may grow -------------------------------------------------


def growing(follow: float | None, *, expect: bool = True) -> GrowingList:
    posted: list[Effect] = []
    growing = GrowingList(posted.append)
    growing.posted = posted  # type: ignore[attr-defined]
    if expect:
        growing.expect(follow)
    return growing


def looks(growing: GrowingList) -> int:
    posted: list[Effect] = growing.posted  # type: ignore[attr-defined]
    assert all(isinstance(each, LookAtList) for each in posted)
    return len(posted)


def test_a_list_that_cannot_grow_is_left_at_once():
    group = growing(None, expect=False)
    assert group.may_leave(10.0)
    assert (looks(group), group.is_waiting, group.wake_at()) == (0, False, inf)


def test_a_list_that_may_grow_is_looked_at_once_before_it_is_left():
    group = growing(None)
    group.note_seen()  # of an earlier look
    assert not group.may_leave(10.0)
    assert not group.may_leave(11.0)
    assert looks(group) == 1
    group.note_seen()
    assert group.may_leave(12.0)
    assert (group.is_waiting, group.wake_at()) == (False, inf)


def test_a_farm_that_follows_waits_so_long_and_looks_then():
    group = growing(60.0)
    assert not group.is_waiting
    assert not group.may_leave(10.0)
    assert (group.is_waiting, group.wake_at()) == (True, 70.0)
    assert not group.may_leave(69.9)
    assert looks(group) == 0
    assert not group.may_leave(70.0)
    assert (looks(group), group.wake_at()) == (1, inf)
    group.note_seen()
    assert group.may_leave(70.0)


def test_work_begins_the_wait_and_the_look_anew():
    group = growing(60.0)
    group.may_leave(10.0)
    group.may_leave(70.0)
    group.note_seen()
    group.note_work()
    assert (group.is_waiting, group.wake_at()) == (False, inf)
    assert not group.may_leave(100.0)
    assert group.wake_at() == 160.0
    assert not group.may_leave(160.0)
    assert looks(group) == 2


def test_nobody_waits_for_a_list_that_has_ended():
    group = growing(3600.0)
    group.may_leave(10.0)
    group.end_following()
    assert (group.is_waiting, group.wake_at()) == (False, inf)
    assert not group.may_leave(11.0)
    assert looks(group) == 1
    group.note_seen()
    assert group.may_leave(11.0)


# ---- takings -------------------------------------------------------------------------


def prefetch_of(*, waits: bool, first: int = 0) -> Prefetch:
    limits = Limits(Policy(), 1000, 0, Walltime(None, 2.0, None))
    return Prefetch(limits, first, 10.0, waits_for_others=waits)


@pytest.mark.parametrize(
    ("waits", "others", "more", "hold"),
    [
        (True, True, False, True),
        (False, True, False, False),
        (True, False, False, False),
        (False, False, True, True),  # the order of the list makes it wait
    ],
)
def test_a_farm_waits_for_others_if_told_to_or_by_the_order(waits, others, more, hold):
    prefetch = prefetch_of(waits=waits)
    prefetch.note(20.0, empty=True, cost=0.0, others=others, more_may_come=more)
    assert prefetch.others_hold is hold


def test_what_was_queued_is_looked_at_at_once():
    prefetch = prefetch_of(waits=False)
    prefetch.note(20.0, empty=True, cost=0.0, others=False)
    assert prefetch.nothing_more_comes
    prefetch.note_more(20.5)
    assert (prefetch.is_empty, prefetch.poll_at) == (False, 20.5)
    assert prefetch.next_at == 20.0 + TAKE_INTERVAL
    prefetch.note(21.0, empty=False, cost=0.0, others=False)
    assert prefetch.poll_at == 21.0 + POLL_SECONDS
    assert not prefetch.nothing_more_comes


def test_a_shut_gate_lets_nothing_more_come():
    prefetch = prefetch_of(waits=False)
    prefetch._limits.trial.arm(str, "")
    prefetch._limits.note_taken(TRIAL_TASKS, 0.0)
    assert prefetch.nothing_more_comes


def test_the_first_taking_stays_as_long_as_there_is_enough():
    prefetch = prefetch_of(waits=False, first=8)
    assert prefetch.count(5, 2, 0.0, 0) == 0
    assert prefetch.count(2, 2, 0.0, 0) == 8
    assert prefetch.count(0, 2, 0.0, 0) == 2


def test_what_is_taken_ahead_is_bounded_by_what_was_done_also_while_tasks_wait():
    prefetch = prefetch_of(waits=False)
    assert prefetch.count(20, 2, 1000.0, 2) == 0, "16 ahead are enough"
    assert prefetch.count(18, 2, 1000.0, 2) == 0
    assert prefetch.count(17, 2, 1000.0, 2) == 1
    assert prefetch.count(40, 2, 20.0, 100) == 0
    assert prefetch.poll_at == 10.0


def test_a_canary_that_did_not_run_lets_another_pass():
    limits = Limits(Policy(canary=2), 1000, 0, Walltime(None, 2.0, None))
    limits.trial.arm(str, "")
    limits.note_taken(2, 0.0)
    assert limits.limit(9) == 0
    limits.note_not_run()
    assert limits.limit(9) == 1
    limits.canary.is_open = True
    assert limits.limit(99) == TRIAL_TASKS - 1


# ---- pace and seats ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "report", "ahead"), [(1, 0.02, 0.5), (100, 0.02, 0.5), (5000, 1.0, 2.46)]
)
def test_many_ranks_report_less_often_and_get_more_ahead(ranks, report, ahead):
    pacing = ReportPacing(ranks)
    assert pacing.report_seconds == pytest.approx(report)
    assert pacing.ahead_seconds == pytest.approx(ahead)


def test_tasks_that_wait_for_a_seat_can_be_taken_out_of_the_line():
    seats = Seats({"gpu": 1, "disk": 1, "any": 0})
    seats.name_kinds({1: "gpu", 2: "gpu", 3: "gpu", 4: "disk", 5: "disk", 6: "any"}, ())
    got = [seats.take(TaskRecord(taskid)) for taskid in range(8)]
    assert got == [True, True, False, False, True, False, True, True]
    assert (len(seats), [task.taskid for task in seats]) == (3, [2, 3, 5])
    seats.remove({2, 9})
    assert (len(seats), [task.taskid for task in seats]) == (2, [3, 5])
    seats.give_back(1)
    seats.give_back(6)
    seats.give_back(99)
    assert [task.taskid for task in seats.call()] == [3]
    assert (len(seats), seats.free) == (1, {"gpu": 1, "disk": 0})
    assert [task.taskid for task in seats.clear()] == [5]
    assert (len(seats), [*seats]) == (0, [])
