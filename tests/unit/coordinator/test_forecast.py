"""`Forecast`: what the farm knows of its tasks, on its way to the estimator."""

import pytest

from mpifarm.coordinator.forecast import Forecast
from mpifarm.coordinator.running import RunningTasks
from mpifarm.coordinator.state import RankState
from mpifarm.model.messages import RUNNING_SECONDS, Running
from mpifarm.model.settings import Policy
from mpifarm.model.task import Lease, RunningTask
from mpifarm.model.wording import TimeLeft
from tests.unit.coordinator.test_task_table import create_table, lease
from tests.unit.virtual_rank import result_of

WALL = 1.7e9


class Site:
    """Two ranks of two workers, and a list of 100 tasks."""

    def __init__(self, **policy):
        self.farm, self.table = create_table()
        self.farm.policy = Policy(**policy)
        self.running = RunningTasks(self.table, 2, verbose=False)
        self.forecast = Forecast(self.farm, self.running, 100, 0.0)
        for record in self.farm.ranks.values():
            record.workers = 2
            record.state = RankState.WORKING

    def end(self, *taskids, seconds=10.0):
        for taskid in taskids:
            result = result_of(Lease(taskid, 1, "true"), 0.0)
            self.forecast.note_ended(result._replace(seconds=seconds))

    def likely(self, now, done, share=1.0):
        estimate = self.estimate(now, done, share)
        return None if estimate is None else estimate.likely

    def estimate(self, now, done, share=1.0):
        """As if the first tasks of the list had ended."""
        has_ended = range(done).__contains__
        return self.forecast.estimate(now, WALL + now, done, share, has_ended)


@pytest.fixture
def site():
    return Site()


def test_before_anything_has_ended_nothing_is_known(site):
    lease(site.table, site.farm, 0, 1)
    assert site.likely(1.0, 0) is None


def test_tasks_that_are_alike_take_what_is_left_of_them_over_the_workers(site):
    lease(site.table, site.farm, 8, 9)
    site.end(*range(8))
    assert site.likely(20.0, 8) == pytest.approx(92 * 10 / 4, rel=0.25)


def test_what_others_do_makes_the_time_left_shorter(site):
    lease(site.table, site.farm, 8, 9)
    site.end(*range(8))
    alone, shared = site.likely(20.0, 8), site.likely(20.0, 8, share=0.5)
    assert shared == pytest.approx(alone / 2, rel=0.25)


def test_durations_that_are_known_count_before_anything_has_ended(site):
    site.forecast.expect({**dict.fromkeys(range(100), 60.0), 10**9: 1.0})
    lease(site.table, site.farm, 0, 1)
    assert site.likely(1.0, 0) == pytest.approx(100 * 60 / 4, rel=0.25)


def test_attempts_of_earlier_farms_count(site):
    for taskid in range(50):
        site.forecast.note_earlier(taskid, 20.0)
    site.forecast.note_earlier(10**9, 20.0)
    lease(site.table, site.farm, 50, 51)
    assert site.likely(1.0, 50) == pytest.approx(50 * 20 / 4, rel=0.25)


def test_at_the_end_what_runs_longest_is_waited_for(site):
    lease(site.table, site.farm, 98, 99)
    site.end(*range(98))
    told = RunningTask(98, 1, 0, WALL + 240.0), RunningTask(99, 1, 1, WALL + 249.0)
    site.running.note(site.farm.ranks[1], Running(told))
    assert site.likely(250.0, 98) <= 10.0


def test_tasks_that_may_start_only_now_and_then_take_as_long_as_their_starts():
    site = Site(start_rate=0.01)
    lease(site.table, site.farm, 8, 9)
    site.end(*range(8), seconds=0.1)
    estimate = site.estimate(20.0, 8)
    assert estimate == TimeLeft(9000.0, 9000.0, 9000.0)
    assert site.likely(20.0, 8, share=0.5) == 4500


def test_tasks_that_share_seats_take_as_long_as_these_need_for_all_of_them():
    """However many workers are free."""
    site = Site()
    kinds = {**dict.fromkeys(range(4), "few"), **dict.fromkeys(range(50, 100), "few")}
    site.forecast.share_seats({"few": 1, "many": 50}, kinds)
    lease(site.table, site.farm, 8, 9)
    site.end(*range(8))
    assert site.likely(20.0, 8) == pytest.approx(50 * 10, rel=0.05)
    assert site.likely(20.0, 8, share=0.5) == pytest.approx(25 * 10, rel=0.05)
    kinds.update({**dict.fromkeys(range(20, 30), "many"), 100: "few"})  # it grows
    assert site.likely(20.0, 8) == pytest.approx(51 * 10, rel=0.05)


def test_as_long_as_none_of_a_kind_has_ended_they_take_what_others_take():
    site = Site()
    site.forecast.share_seats({"few": 1}, dict.fromkeys(range(50, 100), "few"))
    lease(site.table, site.farm, 8, 9)
    site.end(*range(8))
    low, likely, high = site.estimate(20.0, 8)
    assert likely == pytest.approx(50 * 10, rel=0.05)
    assert low < likely / 2 < 2 * likely < high


def test_the_range_of_such_a_time_is_as_wide_as_durations_differ():
    site = Site()
    site.forecast.share_seats({"few": 1}, dict.fromkeys(range(100), "few"))
    lease(site.table, site.farm, 8, 9)
    for taskid in range(8):
        site.end(taskid, seconds=2.0 + 5.0 * (taskid % 2))
    low, likely, high = site.estimate(20.0, 8)
    assert likely == pytest.approx(92 * 4.5, rel=0.05)
    assert low < 0.85 * likely
    assert high > 1.15 * likely


# ---- what the estimator is told ------------------------------------------------------


class Spy:
    """An estimator that only remembers what it was told."""

    def __init__(self):
        self.known, self.earlier, self.ended = [], [], []
        self.total = 0
        self.asked = ()

    def note_known(self, taskid, seconds):
        self.known.append((taskid, seconds))

    def note_earlier(self, taskid, seconds):
        self.earlier.append((taskid, seconds))

    def note_ended(self, taskid, seconds, known):
        self.ended.append((taskid, seconds, known))

    def grow(self, total):
        self.total = total

    def estimate(self, *asked):
        self.asked = asked


@pytest.fixture
def spy(site):
    spy = Spy()
    vars(site.forecast)["_estimator"] = spy
    return spy


def test_only_durations_of_tasks_of_the_list_are_told(site, spy):
    site.forecast.expect({99: 5.0, 100: 6.0})
    site.forecast.note_earlier(99, 7.0)
    site.forecast.note_earlier(100, 8.0)
    assert (spy.known, spy.earlier) == ([(99, 5.0)], [(99, 7.0)])
    site.end(99, 98)
    assert spy.ended == [(99, 10.0, 5.0), (98, 10.0, 0.0)]


def test_durations_of_tasks_are_told_when_these_are_added(site, spy):
    site.forecast.expect({99: 5.0, 100: 6.0, 103: 7.0, 104: 8.0})
    spy.known.clear()
    site.forecast.grow(104)
    assert (spy.total, spy.known) == (104, [(100, 6.0), (103, 7.0)])


def test_nothing_is_told_of_a_list_that_grows_before_anything_is_known(site):
    site.forecast.grow(104)
    assert "_estimator" not in vars(site.forecast)
    assert site.forecast._total == 104


def test_what_waits_is_what_neither_runs_nor_has_ended(site, spy):
    lease(site.table, site.farm, 8, 9)
    site.farm.ranks[0].state = RankState.DEAD
    site.estimate(20.0, 8, share=0.5)
    now, waiting, workers, ages, share = spy.asked
    assert (now, waiting, workers, share) == (20.0, 90, 2, 0.5)
    assert sum(count for _, count in ages) == 2
    site.estimate(20.0, 99)
    assert spy.asked[1] == 0


@pytest.mark.parametrize(
    ("ended", "age"),
    [
        ([], RUNNING_SECONDS / 2),
        ([0.5, 1.5], 0.5),  # half of what tasks take
        ([100.0, 200.0], RUNNING_SECONDS / 2),
    ],
)
def test_tasks_of_which_no_rank_has_told_have_begun_lately(site, spy, ended, age):
    (first, _) = lease(site.table, site.farm, 8, 9)
    told = Running((RunningTask(8, first.attempt, 0, WALL - 100.0),))
    site.running.note(site.farm.ranks[1], told)
    for seconds in ended:
        site.end(0, seconds=seconds)
    site.estimate(0.0, 8)
    (old, one), (young, other) = spy.asked[3]
    assert (one, other) == (1, 1)
    assert (old, young) == pytest.approx((100.0, age))


def test_nothing_outruns_others_where_nothing_runs_as_in_a_farm_that_waits(site):
    site.end(*range(100))
    site.estimate(21.0, 100)
    assert not site.forecast.outruns


@pytest.mark.parametrize(
    ("seconds", "now", "outruns"),
    [((), 60.0, False), ((0.2,), 9.0, False), ((0.2,), 11.0, True)],
)
def test_of_what_runs_nothing_is_said_before_any_has_ended_or_for_some_seconds(
    site, seconds, now, outruns
):
    lease(site.table, site.farm, 99)
    task = RunningTask(99, 1, 0, WALL)
    site.running.note(site.farm.ranks[1], Running((task,)))
    for each in seconds:
        site.end(0, seconds=each)
    site.estimate(now, 99)
    assert site.forecast.outruns is outruns


@pytest.mark.parametrize(
    ("done", "began", "now", "outruns"),
    [
        (98, (0.0, 0.0), 19.0, False),
        (98, (0.0, 0.0), 21.0, True),
        (98, (0.0, 5.0), 21.0, False),
        (97, (0.0, 0.0), 21.0, False),
    ],
)
def test_what_runs_far_longer_than_any_that_has_ended_outruns_them(
    site, done, began, now, outruns
):
    """The last two run; with 97 done, one more waits."""
    lease(site.table, site.farm, 98, 99)
    told = (RunningTask(98 + n, 1, n, WALL + each) for n, each in enumerate(began))
    site.running.note(site.farm.ranks[1], Running(tuple(told)))
    assert not site.forecast.outruns
    site.end(*range(done))
    assert site.estimate(now, done) is not None
    assert site.forecast.outruns is outruns
    site.forecast.expect({98: 100.0})
    site.estimate(now, done)
    assert not site.forecast.outruns
