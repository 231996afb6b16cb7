"""Streaks of fast failures and what is made of them, alone, at their exact bounds."""

from collections import deque
from math import inf

import pytest

from mpifarm.coordinator.alike import FEWEST, Alike, Recent
from mpifarm.coordinator.quarantine import (
    FAST_SECONDS,
    FIRST_PAUSE,
    FIRST_PROBE_SECONDS,
    LONGEST_PAUSE,
    LONGEST_PROBE_SECONDS,
    STREAK_SECONDS,
    Quarantine,
    QuarantineVerdict,
    Streak,
)
from mpifarm.coordinator.state import UNLIMITED, RankRecord, RankState, TaskRecord

OUT_OF_USE = QuarantineVerdict.OUT_OF_USE
PROBE = QuarantineVerdict.PROBE
STILL_OUT = QuarantineVerdict.STILL_OUT
TASKS_AT_FAULT = QuarantineVerdict.TASKS_AT_FAULT


class Ranks:
    """Ranks of four workers at work; tasks fail on rank 1."""

    def __init__(self, most: int = 2, ranks: int = 3) -> None:
        self.quarantine = Quarantine(most)
        self.records = [RankRecord(rank, workers=4) for rank in range(ranks)]
        for record in self.records:
            self.enter(record.rank, RankState.WORKING)

    def enter(self, rank: int, state: RankState) -> None:
        self.quarantine.enter(self.records[rank], state)
        self.records[rank].state = state

    def fail(
        self, *turns: int, rank: int = 1, seconds: float = 0.1, ended: float = 100.0
    ) -> list[TaskRecord]:
        """Return the tasks whose failures count, once these have failed."""
        counts = []
        for turn in turns:
            self.records[rank].ended += 1
            task = TaskRecord(turn, turn=turn, rank=rank, ended=ended)
            record = self.records[rank]
            counts += self.quarantine.note_failure(record, task, seconds)
        return counts

    def succeed(self, turn: int, *, rank: int = 0, seconds: float = 0.1) -> None:
        self.quarantine.note_success(self.records[rank], seconds, turn)

    def assess(self, now: float = 100.0, rank: int = 1) -> QuarantineVerdict | None:
        streak = self.quarantine.streaks[rank]
        return self.quarantine.assess(streak, self.records[rank], now)

    @property
    def streak(self) -> Streak:
        return self.quarantine.streaks[1]


# ---- what is held back ---------------------------------------------------------------


def test_so_many_fast_failures_in_a_row_put_a_rank_on_trial():
    ranks = Ranks(most=3)
    assert ranks.fail(1, 2) == []
    assert (ranks.quarantine.held, ranks.quarantine.trials) == (2, 0)
    assert ranks.records[1].most_leases == UNLIMITED
    assert ranks.fail(3) == []
    assert (ranks.quarantine.held, ranks.quarantine.trials) == (3, 1)
    assert ranks.records[1].most_leases == 0
    assert ranks.fail(4) == [], "it was under way"
    assert (ranks.quarantine.held, ranks.quarantine.trials) == (4, 1)


@pytest.mark.parametrize(
    ("successes", "seconds", "is_held"),
    [
        (0.1, 0.99, True),
        (0.1, FAST_SECONDS, False),
        (100.0, 9.0, True),  # a tenth of what successes take
        (100.0, 11.0, False),
    ],
)
def test_a_failure_is_fast_below_a_second_or_a_tenth_of_a_success(
    successes, seconds, is_held
):
    ranks = Ranks()
    for turn in range(200):
        ranks.succeed(turn, seconds=successes)
    assert (ranks.fail(300, seconds=seconds) == []) is is_held
    assert ranks.quarantine.held == is_held


def test_the_mean_of_successes_follows_them_by_a_twentieth():
    ranks = Ranks()
    ranks.succeed(1, seconds=400.0)
    assert ranks.quarantine.is_fast(1.99)
    assert not ranks.quarantine.is_fast(2.0)


@pytest.mark.parametrize(
    ("most", "ranks", "state", "is_held"),
    [
        (2, 2, RankState.WORKING, True),
        (0, 2, RankState.WORKING, False),
        (2, 1, RankState.WORKING, False),
        (2, 3, RankState.OUT_OF_USE, False),
    ],
)
def test_nothing_is_held_back_of_a_rank_alone_or_out_of_use_or_without_a_quarantine(
    most, ranks, state, is_held
):
    farm = Ranks(most, ranks)
    if state is not RankState.WORKING:
        farm.enter(0, state)
    assert (farm.fail(1, rank=0) == []) is is_held


@pytest.mark.parametrize("slow", [True, False])
def test_a_failure_that_is_not_suspect_lets_the_held_ones_count_before_it(slow):
    ranks = Ranks(most=3)
    ranks.fail(1, 2)
    if not slow:
        ranks.enter(0, RankState.DEAD)
        ranks.enter(2, RankState.DEAD)
    counts = ranks.fail(3, seconds=5.0 if slow else 0.1)
    assert [task.turn for task in counts] == [1, 2, 3]
    assert (ranks.quarantine.held, ranks.quarantine.streaks) == (0, {})


def test_the_end_of_a_streak_lifts_the_limit_of_leases():
    ranks = Ranks()
    ranks.fail(1, 2)
    held = ranks.quarantine.end(ranks.records[1])
    assert [task.turn for task in held] == [1, 2]
    assert ranks.records[1].most_leases == UNLIMITED
    assert (ranks.quarantine.held, ranks.quarantine.trials) == (0, 0)
    assert ranks.quarantine.end(ranks.records[1]) == []


def test_the_streak_knows_its_longest_and_its_latest_failure():
    ranks = Ranks(most=9)
    ranks.fail(7, seconds=0.3, ended=100.0)
    ranks.fail(8, seconds=0.2, ended=90.0)
    streak = ranks.streak
    assert (streak.turn, streak.count) == (7, 2)
    assert (streak.longest, streak.latest) == (0.3, 100.0)


def test_tasks_that_fail_on_the_others_as_well_make_no_trial():
    ranks = Ranks()
    for rank in (0, 2):
        ranks.fail(*range(4), rank=rank)
        ranks.quarantine.end(ranks.records[rank])
    counts = ranks.fail(11, 12)
    assert [task.turn for task in counts] == [11, 12]
    assert ranks.quarantine.trials == 0


# ---- quiet streaks -------------------------------------------------------------------


def test_failures_of_a_quiet_rank_count_after_three_seconds_and_the_streak_goes_on():
    ranks = Ranks(most=3)
    ranks.fail(1, 2, ended=100.0)
    quarantine = ranks.quarantine
    assert quarantine.wake_at == 100.0 + STREAK_SECONDS
    assert quarantine.find_due(102.9) == []
    assert quarantine.find_due(103.0) == [ranks.streak]
    assert [task.turn for task in quarantine.release(ranks.streak)] == [1, 2]
    assert quarantine.held == 0
    quarantine.set_timer()
    assert quarantine.wake_at == inf
    ranks.fail(3, ended=200.0)
    assert quarantine.trials == 1
    assert [task.turn for task in quarantine.end(ranks.records[1])] == [3]


def test_only_what_is_due_is_assessed_and_a_trial_always():
    ranks = Ranks(most=2)
    ranks.fail(1, ended=100.0)
    ranks.fail(2, rank=2, ended=50.0)
    due = ranks.quarantine.find_due(60.0)
    assert [streak.rank for streak in due] == [2]
    ranks.fail(3, ended=100.0)
    due = ranks.quarantine.find_due(51.0)
    assert [streak.rank for streak in due] == [1]


# ---- trials --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "verdict"),
    [
        ([51], OUT_OF_USE),
        ([49], None),  # it was handed out before the streak began
        ([90, 3], OUT_OF_USE),  # a long task of before ends after it
        ([], None),
    ],
)
def test_a_success_of_a_later_task_elsewhere_tells(successes, verdict):
    ranks = Ranks()
    ranks.fail(50, 52)
    for turn in successes:
        ranks.succeed(turn)
    assert ranks.assess() is verdict


def test_a_streak_that_chance_may_have_made_tells_nothing():
    ranks = Ranks()
    for rank in (0, 2):
        ranks.fail(1, 2, 3, 4, rank=rank)
        ranks.quarantine.end(ranks.records[rank])
        for turn in range(10, 16):
            ranks.succeed(turn, rank=rank)
    ranks.fail(20, 21)
    ranks.succeed(30)
    assert ranks.streak.is_on_trial
    assert ranks.assess() is None
    ranks.fail(22, 23, 24)
    assert ranks.assess() is OUT_OF_USE


def test_what_fails_on_most_ranks_since_the_streak_began_is_the_tasks_fault():
    ranks = Ranks()
    ranks.fail(20, 21)
    for rank in (0, 2):
        for turn in range(20):
            ranks.records[rank].ended += 1
            ranks.succeed(turn, rank=rank)
        ranks.fail(22, 23, rank=rank)
        ranks.quarantine.end(ranks.records[rank])
    ranks.succeed(30)
    assert ranks.assess() is TASKS_AT_FAULT


def test_a_rank_that_works_alone_is_acquitted():
    ranks = Ranks(ranks=2)
    ranks.fail(50, 51)
    ranks.succeed(90)
    ranks.enter(0, RankState.DEAD)
    assert ranks.assess() is TASKS_AT_FAULT


def test_while_the_rank_has_leases_only_time_acquits():
    ranks = Ranks()
    ranks.fail(50, 51, seconds=0.5)
    ranks.succeed(90)
    ranks.records[1].leases = {52}
    assert ranks.assess(100.0) is None
    assert ranks.streak.acquit_at == 102.0, "a second, and twice the longest failure"
    ranks.quarantine.set_timer()
    assert ranks.quarantine.wake_at == 102.0
    assert ranks.assess(101.9) is None
    assert ranks.assess(102.0) is QuarantineVerdict.RUNS_ON


def test_the_time_to_run_on_begins_anew_with_a_probe():
    ranks = Ranks()
    ranks.fail(50, 51)
    ranks.records[1].leases = {52}
    ranks.assess(100.0)
    ranks.records[1].leases = set()
    ranks.fail(52, ended=100.2)
    assert ranks.assess(100.2) is None
    assert ranks.assess(110.0) is PROBE
    ranks.records[1].leases = {53}
    assert ranks.assess(110.0) is None
    assert ranks.assess(111.0) is None
    assert ranks.assess(111.2) is QuarantineVerdict.RUNS_ON


def test_without_a_word_of_the_others_a_rank_gets_a_task_ever_more_seldom():
    ranks = Ranks()
    ranks.fail(1, 2, ended=100.0)
    wait, now = FIRST_PROBE_SECONDS, 100.0
    ranks.quarantine.set_timer()
    for turn in range(3, 12):
        assert ranks.quarantine.wake_at == now + wait
        assert ranks.assess(now + 0.99 * wait) is None
        assert ranks.assess(now + wait) is PROBE
        assert ranks.records[1].most_leases == 1
        assert ranks.streak.is_probing
        assert ranks.assess(now + 100 * wait) is None, "the task has not come yet"
        now += wait
        ranks.fail(turn, ended=now)
        assert ranks.records[1].most_leases == 0
        assert not ranks.streak.is_probing
        wait = min(LONGEST_PROBE_SECONDS, 2 * wait)
        ranks.quarantine.set_timer()
    assert wait == LONGEST_PROBE_SECONDS


def test_a_failure_on_trial_that_was_under_way_does_not_put_the_probe_off():
    ranks = Ranks()
    ranks.fail(1, 2, ended=100.0)
    ranks.fail(3, ended=100.5)
    assert ranks.streak.probe_at == 101.0


# ---- the way back --------------------------------------------------------------------


def test_a_rank_is_out_of_use_for_twice_as_long_each_time():
    quarantine = Quarantine(2)
    wait = FIRST_PAUSE
    for _ in range(9):
        assert quarantine.pause(1, 0.1, 100.0) == wait
        assert quarantine.return_at() == 100.0 + wait
        assert quarantine.find_due_returns(99.9 + wait) == []
        assert quarantine.find_due_returns(100.0 + wait) == [1]
        wait = min(LONGEST_PAUSE, 2 * wait)
    assert wait == LONGEST_PAUSE


def tried_again() -> Ranks:
    """Rank 1 was put out of use at 100, and is tried at 110."""
    ranks = Ranks()
    ranks.fail(50, 51, seconds=0.3)
    ranks.quarantine.end(ranks.records[1])
    ranks.quarantine.pause(1, 0.3, 100.0)
    ranks.enter(1, RankState.OUT_OF_USE)
    assert ranks.quarantine.has_returned(1)
    assert not ranks.quarantine.has_returned(0)
    ranks.enter(1, RankState.WORKING)
    ranks.quarantine.try_again(ranks.records[1], 60)
    return ranks


def test_a_rank_that_is_tried_again_is_on_trial_with_one_lease():
    ranks = tried_again()
    quarantine, streak = ranks.quarantine, ranks.streak
    assert (quarantine.trials, quarantine.working) == (1, 3)
    assert (ranks.records[1].most_leases, streak.turn) == (1, 60)
    assert (streak.is_on_trial, streak.is_probing, streak.returns) == (True,) * 3
    assert not quarantine.has_returned(1), "it is suspect"
    assert quarantine.return_at() == inf
    assert quarantine.find_due_returns(1e9) == []
    quarantine.set_timer()
    assert quarantine.wake_at == inf
    assert ranks.assess(1e9) is None, "the task for it has not come yet"


def test_a_rank_that_fails_again_is_still_out_whatever_the_others_say():
    ranks = tried_again()
    ranks.fail(61, ended=110.0)
    assert ranks.assess(110.0) is STILL_OUT


def test_a_task_that_is_tried_there_has_as_long_as_the_failures_before():
    ranks = tried_again()
    ranks.records[1].leases = {61}
    assert ranks.assess(110.0) is None
    assert ranks.streak.acquit_at == pytest.approx(111.6)


# ---- the others ----------------------------------------------------------------------


def test_ranks_that_work_and_are_not_on_trial_are_counted_without_one():
    ranks = Ranks(ranks=4)
    quarantine = ranks.quarantine
    assert quarantine.count_free_without(0) == 3
    ranks.fail(1)
    assert quarantine.count_free_without(0) == 3
    ranks.fail(2)
    assert quarantine.count_free_without(0) == 2
    assert quarantine.count_free_without(1) == 3
    ranks.enter(2, RankState.DEAD)
    assert quarantine.count_free_without(0) == 1


def test_what_failed_on_a_rank_that_works_no_more_is_forgotten():
    ranks = Ranks()
    ranks.fail(1)
    assert 1 in ranks.quarantine.alike.recent
    ranks.enter(1, RankState.WORKING)
    assert 1 in ranks.quarantine.alike.recent
    assert ranks.quarantine.working == 3
    ranks.enter(1, RankState.OUT_OF_USE)
    assert 1 not in ranks.quarantine.alike.recent
    assert ranks.quarantine.working == 2
    ranks.enter(1, RankState.DEAD)
    assert ranks.quarantine.working == 2


def test_a_rank_with_a_streak_is_free_until_it_is_on_trial():
    ranks = Ranks(ranks=4)
    ranks.fail(1)
    assert ranks.quarantine.count_free_without(1) == 3


def test_each_rank_on_trial_counts_and_the_first_that_is_due_wakes():
    ranks = Ranks(most=2)
    ranks.fail(1, rank=0, ended=100.0)
    ranks.fail(2, rank=2, ended=200.0)
    assert ranks.quarantine.wake_at == 100.0 + STREAK_SECONDS
    ranks.quarantine.set_timer()
    assert ranks.quarantine.wake_at == 100.0 + STREAK_SECONDS
    ranks.fail(3, rank=0, ended=100.0)
    ranks.fail(4, rank=2, ended=200.0)
    assert ranks.quarantine.trials == 2


def fail_on(ranks: Ranks, rank: int, *, failed: int, other: int, at: float) -> None:
    """Have so many of the results of a rank be fast failures, and none held back."""
    for turn in range(failed):
        ranks.fail(turn, rank=rank, ended=at)
    for turn in range(other):
        ranks.records[rank].ended += 1
        ranks.succeed(turn, rank=rank)
    ranks.quarantine.end(ranks.records[rank])


@pytest.mark.parametrize(
    ("count", "failing", "at_fault"),
    [
        *((3, 2, True), (3, 1, False), (4, 2, True), (4, 1, False), (5, 3, True)),
        *((5, 2, False), (6, 3, True), (6, 2, False)),
    ],
)
def test_the_tasks_are_at_fault_where_they_fail_on_more_than_half_of_the_others(
    count, failing, at_fault
):
    ranks = Ranks(ranks=count)
    others = [each.rank for each in ranks.records if each.rank != 1]
    for rank in others[:failing]:
        fail_on(ranks, rank, failed=4, other=0, at=100.0)
    assert (ranks.fail(50, 51) != []) is at_fault


@pytest.mark.parametrize(("other", "at_fault"), [(4, True), (5, False)])
def test_half_of_their_results_is_enough(other, at_fault):
    ranks = Ranks()
    for rank in (0, 2):
        fail_on(ranks, rank, failed=4, other=other, at=100.0)
    assert (ranks.fail(50, 51) != []) is at_fault


@pytest.mark.parametrize(("ago", "at_fault"), [(59.0, True), (60.0, False)])
def test_what_failed_on_the_others_a_minute_ago_is_forgotten(ago, at_fault):
    ranks = Ranks()
    for rank in (0, 2):
        fail_on(ranks, rank, failed=4, other=0, at=100.0)
    assert (ranks.fail(50, 51, ended=100.0 + ago) != []) is at_fault


def test_failures_that_take_their_time_show_that_not_all_fails_fast():
    ranks = Ranks()
    for rank in (0, 2):
        fail_on(ranks, rank, failed=4, other=0, at=100.0)
        ranks.fail(*range(5), rank=rank, seconds=5.0)
    assert ranks.fail(50, 51) == []


@pytest.mark.parametrize(
    ("most", "failed", "shows"), [(10, 2, False), (10, 3, True), (2, 2, True)]
)
def test_three_failures_show_that_tasks_fail_elsewhere_or_as_many_as_make_a_trial(
    most, failed, shows
):
    ranks = Ranks(most)
    fail_on(ranks, 0, failed=failed, other=0, at=100.0)
    assert (ranks.quarantine.alike.median_without(1, 1) > 0.5) is shows


def test_a_trial_ends_when_all_tasks_begin_to_fail_fast():
    ranks = Ranks()
    ranks.fail(50, 51)
    assert ranks.assess() is None
    for rank in (0, 2):
        fail_on(ranks, rank, failed=4, other=0, at=100.0)
    assert ranks.assess() is TASKS_AT_FAULT


@pytest.mark.parametrize(
    ("count", "failing", "verdict"),
    [
        (3, 2, TASKS_AT_FAULT),
        (3, 1, OUT_OF_USE),
        (4, 2, TASKS_AT_FAULT),
        (4, 1, OUT_OF_USE),
        (5, 3, TASKS_AT_FAULT),
        (5, 2, OUT_OF_USE),
    ],
)
def test_what_fails_since_the_streak_began_has_to_fail_on_more_than_half_of_the_others(
    count, failing, verdict
):
    ranks = Ranks(ranks=count)
    ranks.fail(50, 51)
    others = [each.rank for each in ranks.records if each.rank != 1]
    for rank in others:
        for turn in range(40):
            ranks.records[rank].ended += 1
            ranks.succeed(turn, rank=rank)
    for rank in others[:failing]:
        ranks.fail(52, 53, rank=rank)
        ranks.quarantine.end(ranks.records[rank])
    ranks.succeed(60, rank=others[-1])
    assert ranks.assess() is verdict


def test_of_ranks_out_of_use_the_first_that_is_due_is_tried_and_both_are_on_trial():
    ranks = Ranks(ranks=4)
    quarantine = ranks.quarantine
    for rank, now in ((1, 100.0), (2, 103.0)):
        quarantine.pause(rank, 0.1, now)
        ranks.enter(rank, RankState.OUT_OF_USE)
    assert quarantine.return_at() == 110.0
    assert quarantine.find_due_returns(112.9) == [1]
    assert quarantine.find_due_returns(113.0) == [1, 2]
    for rank in (1, 2):
        ranks.enter(rank, RankState.WORKING)
        quarantine.try_again(ranks.records[rank], 60)
    assert quarantine.trials == 2


# ---- the last results of a rank ------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "shown", "running", "share"),
    [
        (4, 1, 0, 2 / 4),
        (5, 1, 0, 1 / 2),  # counted from the first failure of a later task on
        (5, 1, 3, 1 / 5),
        (4, 2, 0, 2 / 4),
        (5, 2, 0, 0.0),  # too few to show anything
        (9, 1, 0, 0.0),
    ],
)
def test_the_share_since_a_turn_counts_from_its_first_failure_on(
    turn, shown, running, share
):
    recent = Recent(1, 1, 100.0, 8, running=running, turns=deque([5, 9]))
    for bit in (0, 1, 0):
        recent.push(bit)
    assert recent.share_since(turn, shown) == share


def test_only_the_last_results_count():
    recent = Recent(0b1, 1, 100.0, 4)
    for bit, bits, count in ((1, 0b11, 2), (0, 0b110, 3), (0, 0b1100, 4)):
        recent.push(bit)
        assert (recent.bits, recent.count) == (bits, count)
    recent.push(1)
    assert (recent.bits, recent.count) == (0b1001, 4)


def test_no_more_turns_are_kept_than_results():
    alike, record = Alike(1), RankRecord(0, workers=1, ended=1)
    for turn in range(100):
        alike.note_failed_fast(record, TaskRecord(turn, turn=turn, ended=1.0))
    assert [*alike.recent[0].turns] == [*range(100 - FEWEST, 100)]


@pytest.mark.parametrize(
    ("workers", "ended", "window", "count"),
    [(4, 1, FEWEST, 1), (8, 99, FEWEST, FEWEST), (10, 99, 40, 40), (10, 0, 40, 1)],
)
def test_four_results_of_each_worker_count_and_not_fewer_than_32(
    workers, ended, window, count
):
    alike, record = Alike(1), RankRecord(0, workers=workers, ended=ended)
    alike.note_failed_fast(record, TaskRecord(0, turn=1, ended=1.0))
    assert (alike.recent[0].window, alike.recent[0].count) == (window, count)


def test_the_rank_that_failed_longest_ago_is_forgotten_first():
    alike = Alike(1)
    for rank, ended in ((0, 100.0), (1, 101.0), (0, 150.0)):
        record = RankRecord(rank, workers=1, ended=1)
        alike.note_failed_fast(record, TaskRecord(0, turn=1, ended=ended))
    alike.expire(160.9)
    assert [*alike.recent] == [1, 0]
    alike.expire(161.0)
    assert [*alike.recent] == [0]
