"""One rank's loop, with a pool without processes and a clock that the test moves."""

import os
from collections.abc import Callable
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from mpifarm.farm.agent import (
    JOINING_SECONDS,
    RANK_PHASES,
    SILENCE_SECONDS,
    TAKING_OVER_SECONDS,
    RankPhase,
)
from mpifarm.farm.feeding import (
    IDLE_SECONDS,
    RECALL_SECONDS,
    REFUSED_SECONDS,
    RETURN_SECONDS,
)
from mpifarm.farm.shared_directories import LOOK_SECONDS, SharedDirectories
from mpifarm.farm.sureness import find_wait
from mpifarm.model.messages import (
    REPORT_SECONDS,
    Assign,
    Cancel,
    Committed,
    Drain,
    Join,
    Ping,
    PoolLost,
    RankUnusable,
    Recall,
    Rejoin,
    Report,
    Shutdown,
    SignalReceived,
    Stop,
    Stopped,
    ToCoordinator,
    Welcome,
    Withdraw,
    Withdrawn,
)
from mpifarm.model.settings import FarmDefinition, RunnerDefinition, TaskLimits
from mpifarm.model.task import LAUNCHED_WAIT, Lease, Outcome
from mpifarm.pool import Allotment, LeaseReturned, Pool, PoolDefinition, PoolUseless
from mpifarm.store.file_store import LOCK_TIMEOUT
from mpifarm.system.event_loop import Waiter
from tests.unit.fakes import define_farm
from tests.unit.virtual_rank import START, Clock, FakePool, Seconds, VirtualRank, never

Word = TypeVar("Word")


class Rank(VirtualRank):
    """A rank that a test moves, and what it said."""

    clock: Clock

    def __init__(
        self,
        workers: int = 2,
        seconds: Seconds = never,
        rank: int = 3,
        wait: float = 0.0,
    ):
        clock = Clock()
        self.said: list[ToCoordinator] = []
        self.on_word: Callable[[ToCoordinator], None] = lambda _: None
        pool = FakePool(clock, seconds)
        super().__init__(rank, workers, pool, clock, self._send, wait, host="node3")

    def _send(self, message: ToCoordinator) -> None:
        self.said.append(message)
        self.on_word(message)

    def step(self, after: float = 0.0) -> None:
        self.clock.advance(after)
        super().step()

    def begin(self, *taskids: int) -> None:
        """It has joined, runs, and has been given these tasks."""
        self.hear(Welcome(define_farm(), 0))
        self.assign(*taskids)
        self.step()

    def assign(self, *taskids: int, command: str = "true") -> None:
        self.hear(Assign(tuple(Lease(taskid, 1, command) for taskid in taskids)))

    def words(self, kind: type[Word]) -> list[Word]:
        return [message for message in self.said if isinstance(message, kind)]

    @property
    def reported(self) -> list[int]:
        return [r.taskid for report in self.words(Report) for r in report.results]

    @property
    def returned(self) -> list[tuple[int, int]]:
        return [pair for report in self.words(Report) for pair in report.returned]

    @property
    def lost(self) -> list[tuple[int, int]]:
        return [pair for report in self.words(Report) for pair in report.lost]

    @property
    def sure(self) -> float:
        """Until when all that ended counts, as it has said last."""
        said = [m for m in self.said if isinstance(m, Report | SignalReceived)]
        return said[-1].sure

    @property
    def begun(self) -> list[int]:
        return [lease.taskid for lease in self.pool.begun]


# ---- joining ------------------------------------------------------------------------


def test_a_rank_joins_with_its_host_its_pid_and_its_workers():
    rank = Rank(workers=5)
    rank.agent.join()
    assert rank.said == [Join("node3", os.getpid(), 5)]


def test_a_welcomed_rank_starts_its_pool():
    rank = Rank(workers=5)
    rank.hear(Welcome(define_farm(), 0))
    assert rank.pool.definition == PoolDefinition(
        workers=5,
        rank=3,
        farm="f00d",
        workdir="/scratch/list_workdir",
        logs="/scratch/list_workdir/logs",
        runner=define_farm().runner,
        environment={b"HOME": b"/home/x"},
    )
    assert rank.said == []


@pytest.mark.parametrize("signum", [SIGTERM, SIGINT, SIGHUP])
def test_a_rank_that_was_killed_before_its_welcome_starts_no_pool(signum):
    rank = Rank()
    rank.get_signal(signum)
    rank.step()
    rank.hear(Welcome(define_farm(), 0), Stop(0.0))
    rank.step()
    assert "start" not in rank.pool.calls
    assert rank.words(Stopped)
    rank.hear(Shutdown())
    assert rank.agent.phase is RankPhase.LEFT


def test_a_rank_that_is_told_to_leave_before_anything_else_leaves():
    rank = Rank()
    rank.hear(Shutdown())
    assert rank.agent.phase is RankPhase.LEFT
    assert rank.pool.calls == ["close"]


def test_a_drain_that_comes_right_after_the_welcome_is_kept():
    rank = Rank()
    rank.hear(Welcome(define_farm(), 0), Drain())
    rank.assign(1)
    rank.step()
    assert rank.returned == [(1, 1)]
    assert rank.begun == []


# ---- running ------------------------------------------------------------------------


def test_each_worker_gets_a_task_and_the_rest_waits():
    rank = Rank(workers=2)
    rank.begin(1, 2, 3, 4)
    assert rank.begun == [1, 2]
    assert rank.pool.busy == 2
    rank.pool.finish()
    rank.step()
    assert rank.begun == [1, 2, 3]


def test_tasks_are_started_in_the_order_in_which_they_came():
    rank = Rank(workers=1, seconds=lambda _: 0.004)
    rank.begin(5, 3, 9)
    rank.assign(1, 7)
    for _ in range(30):
        rank.step(0.001)
    assert rank.begun == [5, 3, 9, 1, 7]


def test_short_tasks_are_put_into_the_workers_pipes_ahead():
    rank = Rank(workers=2, seconds=lambda _: 0.001)
    rank.begin(*range(200))
    for _ in range(20):
        rank.step(0.001)
    assert rank.pool.busy > 2 * 5
    assert rank.agent.work_ahead() > 0.0


def test_a_rank_sleeps_for_half_of_the_work_ahead_and_40_ms_at_most(monkeypatch):
    slept = []
    monkeypatch.setattr(
        "mpifarm.system.event_loop.select.select",
        lambda r, w, x, seconds: slept.append(seconds),
    )
    rank = Rank(workers=2, seconds=lambda _: 0.001)
    rank.begin(*range(200))
    waiter = Waiter(signal_fd=0, probe=None)
    expected = []
    for _ in range(150):
        rank.step(0.001)
        ahead = rank.agent.work_ahead()
        if ahead > 0.0:
            expected.append(min(ahead / 2, 0.04))
            rank.agent.wait(waiter, 0.0, 1.0)
    assert slept == expected
    assert max(slept) == 0.04
    assert min(slept) < 0.02


def test_long_tasks_are_not_put_ahead():
    rank = Rank(workers=2, seconds=lambda _: 0.5)
    rank.begin(*range(20))
    for _ in range(300):
        rank.step(0.01)
        assert rank.pool.busy <= 2
    assert rank.agent.work_ahead() == 0.0


class Crippled(FakePool):
    """A pool of which no worker can be started."""

    def vacancies(self, ahead: int) -> int:
        return 0


def test_what_waits_for_workers_that_cannot_be_started_goes_back():
    rank = Rank(workers=2)
    rank.pool = Crippled(rank.clock, never)
    rank.agent.pool = cast(Pool, rank.pool)
    rank.begin(0, 1)
    rank.step(RETURN_SECONDS / 2)
    assert rank.returned == []
    rank.step(RETURN_SECONDS)
    assert sorted(rank.returned) == [(0, 1), (1, 1)]


def test_what_waits_behind_a_task_that_got_long_goes_to_a_worker_that_is_free():
    rank = Rank(workers=2, seconds=lambda t: 1e9 if t == 40 else 0.001)
    rank.begin(*range(60))
    while 40 not in rank.begun:
        rank.step(0.001)
    rank.step(RECALL_SECONDS / 2)
    assert len(rank.begun) < 60
    assert rank.agent.wake_at() <= rank.clock.now + RECALL_SECONDS
    for _ in range(100):
        rank.step(0.002)
    assert sorted(rank.begun) == list(range(60))
    assert sorted(rank.reported) == [taskid for taskid in range(60) if taskid != 40]


def test_a_drain_returns_what_waits_in_the_workers_pipes_as_well():
    rank = Rank(workers=2, seconds=lambda t: 0.001 if t < 40 else 1e9)
    rank.begin(*range(60))
    for _ in range(40):
        rank.step(0.001)
    assert rank.pool.busy > 2
    begun = set(rank.begun)
    rank.hear(Drain())
    rank.step()
    assert rank.pool.busy == 2
    assert {taskid for taskid, _ in rank.returned} == set(range(60)) - begun


def test_tasks_that_take_no_time_at_all_do_no_harm():
    rank = Rank(workers=2, seconds=lambda _: 0.0)
    rank.begin(*range(50))
    for _ in range(100):
        rank.step(0.001)
    assert sorted(rank.reported) == list(range(50))


# ---- reporting ----------------------------------------------------------------------


def test_a_result_is_reported_at_once_when_a_worker_starves():
    rank = Rank(workers=2)
    rank.begin(1, 2)
    rank.step(1.0)
    rank.pool.finish()
    rank.step()
    rank.pool.finish(worker=1)
    rank.step(0.0001)
    assert len(rank.words(Report)) == 2


def test_results_are_reported_in_batches_while_there_is_work():
    rank = Rank(workers=2, seconds=lambda _: 0.001)
    rank.begin(*range(1000))
    for _ in range(200):
        rank.step(0.001)
    reports = rank.words(Report)
    assert len(reports) <= 0.2 / REPORT_SECONDS + 1
    assert len(rank.reported) >= 300


def test_a_result_waits_for_no_longer_than_the_report_interval():
    rank = Rank(workers=2)
    rank.begin(*range(10))
    rank.clock.advance(1.0)
    rank.pool.finish()
    rank.step()  # the first goes out at once
    rank.pool.finish()
    rank.step(0.001)
    assert rank.reported == [0]
    due = rank.agent.wake_at()
    assert due <= rank.clock.now + REPORT_SECONDS
    rank.clock.now = due
    rank.step()
    assert rank.reported == [0, 2]


def test_a_rank_without_news_has_nothing_to_wake_for():
    rank = Rank()
    rank.begin(1)
    assert rank.agent.wake_at() == rank.agent.running.look_at
    rank.step(100.0)
    assert rank.words(Report) == []


def test_a_report_says_when_it_was_sent_by_the_clock_of_its_results():
    rank = Rank(workers=1)
    rank.begin(1)
    rank.step(2.0)
    rank.pool.finish()
    rank.clock.advance(0.5)
    rank.step()
    (report,) = rank.words(Report)
    assert report.sent - report.results[0].ended == 0.5


def test_a_rank_reports_as_often_as_rank_0_wants_it():
    rank = Rank(workers=2)
    rank.hear(Welcome(define_farm(), 0, report_seconds=2.0))
    rank.assign(*range(10))
    rank.step(3.0)
    rank.pool.finish()
    rank.step()
    rank.pool.finish()
    rank.step(1.9)
    assert rank.reported == [0]
    assert rank.agent.wake_at() == pytest.approx(rank.clock.now + 0.1)
    rank.step(0.1)
    assert rank.reported == [0, 2]


def test_of_many_ranks_each_asks_once_for_its_idle_workers_until_something_comes():
    rank = Rank(workers=3)
    rank.hear(Welcome(define_farm(), 0, report_seconds=2.0))
    rank.assign(1, 2, 3)
    rank.step()
    for worker in (0, 1):
        rank.pool.finish(worker)
        rank.step(0.01)
    assert rank.reported == [1]
    rank.assign(4)
    rank.step()
    assert rank.reported == [1, 2], "a worker is idle still"


# ---- recalls ------------------------------------------------------------------------


def answers(rank: Rank) -> list[list[int]]:
    reports = [report for report in rank.words(Report) if report.is_recall]
    return [[taskid for taskid, _ in report.returned] for report in reports]


def test_a_recall_is_answered_with_the_last_that_wait():
    rank = Rank(workers=2)
    rank.begin(*range(10))
    rank.hear(Recall(3))
    rank.step()
    assert answers(rank) == [[7, 8, 9]]
    for worker in (0, 1):
        rank.pool.finish(worker)
        rank.step()
    assert rank.begun == [0, 1, 2, 3]


def test_a_recall_takes_what_waits_in_workers_pipes_as_well():
    rank = Rank(workers=2, seconds=lambda t: 0.001 if t < 40 else 1e9)
    rank.begin(*range(60))
    for _ in range(40):
        rank.step(0.001)
    assert rank.pool.busy > 2
    rank.hear(Recall(60))
    rank.step()
    ((*returned,),) = answers(rank)
    assert sorted([*rank.begun, *returned]) == list(range(60))
    assert rank.pool.busy == 2


def test_a_recall_for_which_nothing_waits_is_answered_too():
    rank = Rank(workers=2)
    rank.begin(1, 2)
    rank.hear(Recall(5))
    rank.step()
    assert answers(rank) == [[]]
    rank.step(1.0)
    assert len(answers(rank)) == 1


def test_what_an_idle_worker_is_about_to_begin_is_not_given_back():
    rank = Rank(workers=3)
    rank.begin(1)
    rank.assign(2, 3, 4)
    rank.hear(Recall(5))
    rank.step()
    assert answers(rank) == [[4]]
    assert rank.begun == [1, 2, 3]


@pytest.mark.parametrize("word", [Drain(), Stop(2.0)])
def test_a_recall_in_a_rank_that_ends_is_answered_with_nothing_more(word):
    rank = Rank(workers=1)
    rank.begin(1, 2, 3)
    rank.hear(word, Recall(5))
    rank.step()
    drained = [(2, 1), (3, 1)] if word == Drain() else []
    assert rank.returned == drained
    assert len(answers(rank)) == 1


def test_an_idle_worker_gets_what_waits_in_the_pipe_of_another():
    rank = Rank(workers=2, seconds=lambda t: 1e9 if t == 20 else 0.002)
    rank.begin(*range(30))
    while 20 not in rank.begun or rank.pool.vacancies(0) == 0:
        rank.step(0.001)
    idle_since = rank.clock.now
    while len(rank.begun) < 30:
        rank.step(0.001)
    assert rank.clock.now - idle_since < 2 * IDLE_SECONDS + 10 * 0.002


def test_a_queue_that_does_not_move_is_given_back_before_anybody_asks():
    rank = Rank(workers=1, seconds=lambda t: 1e9 if t == 30 else 0.01)
    rank.begin(*range(40))
    while 30 not in rank.begun:
        rank.step(0.005)
    rank.step(0.9 * RETURN_SECONDS)
    assert rank.returned == []
    rank.step(0.2 * RETURN_SECONDS)
    assert [taskid for taskid, _ in rank.returned] == list(range(31, 40))
    assert answers(rank) == []


def test_tasks_that_take_equally_long_are_not_given_back_between_their_ends():
    rank = Rank(workers=4, seconds=lambda _: 10.0)
    rank.begin(*range(40))
    for _ in range(600):
        rank.step(0.1)
    assert rank.returned == []
    assert len(rank.reported) >= 20


# ---- workers and pools that are lost ------------------------------------------------


def test_what_a_lost_worker_ran_is_lost_and_what_it_had_not_started_runs_here():
    rank = Rank(workers=1, seconds=lambda t: 0.001 if t < 40 else 1e9)
    rank.begin(*range(40), 90, 91, 92, 93)
    for _ in range(100):
        rank.step(0.001)
    assert rank.begun[-1] == 90
    assert rank.pool.busy == 4
    rank.pool.lose_worker()
    rank.step(REPORT_SECONDS)
    assert rank.lost == [(90, 1)]
    assert rank.begun[-1] == 91, "the order stays"
    assert rank.returned == []


def test_a_worker_that_is_lost_without_a_task_costs_none():
    rank = Rank(workers=1)
    rank.begin()
    rank.pool.lose_worker()
    rank.step(REPORT_SECONDS)
    assert rank.words(Report) == []


def test_a_worker_lost_in_a_drain_gives_back_what_it_had_not_started():
    rank = Rank(workers=1, seconds=lambda t: 0.001 if t < 40 else 1e9)
    rank.begin(*range(40), 90, 91)
    for _ in range(100):
        rank.step(0.001)
    rank.pool.recall = list  # type: ignore[method-assign] # no answer comes in time
    rank.hear(Drain())
    rank.pool.lose_worker()
    rank.step(REPORT_SECONDS)
    assert rank.lost == [(90, 1)]
    assert rank.returned == [(91, 1)]
    assert 91 not in rank.begun


def test_a_pool_whose_workers_die_at_their_birth_is_told_with_the_reason():
    rank = Rank()
    rank.begin(1)
    rank.pool._events.append(PoolUseless("they die"))
    rank.step()
    assert rank.words(RankUnusable) == [RankUnusable("they die")]


def test_a_lease_that_was_refused_is_tried_again_for_the_grace_time():
    rank = Rank(workers=1)
    rank.begin(1)
    tries = len(rank.pool.begun)
    for _ in range(3):
        rank.pool.refuse("no room")
        rank.step()
        rank.step(1.01 * REFUSED_SECONDS)
    assert len(rank.pool.begun) > tries + 1
    assert rank.words(RankUnusable) == []
    assert rank.returned == []


def test_a_lease_that_is_refused_on_and_on_is_returned_and_told_with_the_reason():
    rank = Rank(workers=1)
    rank.begin(1)
    rank.pool.refuse("no room")
    rank.step()
    assert rank.words(RankUnusable) == []
    rank.step(define_farm().grace)
    rank.pool.refuse("no room")
    rank.step()
    assert rank.returned == [(1, 1)]
    assert rank.words(RankUnusable) == [RankUnusable("no room")]


def test_a_refusal_that_is_over_is_forgotten():
    rank = Rank(workers=1)
    rank.begin(1)
    rank.pool.refuse("no room")
    rank.step()
    rank.step(REFUSED_SECONDS)
    rank.pool.finish()
    rank.step(define_farm().grace)
    rank.assign(2)
    rank.step()
    rank.pool.refuse("no room")
    rank.step()
    assert rank.words(RankUnusable) == []


def test_a_rank_that_waits_for_a_disk_does_not_spin():
    rank = Rank(workers=1)
    rank.begin(1)
    rank.pool.refuse("no room")
    rank.step()
    assert rank.agent.wake_at() == rank.clock.now + REFUSED_SECONDS
    rank.step(REFUSED_SECONDS)
    assert rank.agent.wake_at() > rank.clock.now


def test_a_lost_pool_is_told_and_later_tasks_are_returned():
    rank = Rank()
    rank.begin(1, 2, 3)
    rank.pool.lose_fork_server()
    rank.step()
    assert rank.words(PoolLost) == [PoolLost()]
    rank.assign(4)
    rank.step()
    assert rank.returned == [(4, 1)]
    rank.hear(Stop(2.0))
    assert rank.words(Stopped) == [Stopped()]
    rank.hear(Shutdown())
    assert rank.agent.phase is RankPhase.LEFT


def test_what_ended_before_the_pool_was_lost_is_reported_before_the_loss():
    """Rank 0 takes back all that a lost pool held: what had ended would run again."""
    rank = Rank(workers=2)
    rank.begin(1, 2, 3)
    rank.pool.finish()
    rank.pool.lose_fork_server()
    rank.step()
    kinds = [type(word) for word in rank.said]
    assert rank.reported == [1]
    assert kinds.index(Report) < kinds.index(PoolLost)


# ---- draining -----------------------------------------------------------------------


def test_a_drain_returns_what_is_not_in_the_pool_and_finishes_what_is():
    rank = Rank(workers=2)
    rank.begin(1, 2, 3, 4)
    rank.hear(Drain())
    rank.step()
    assert rank.returned == [(3, 1), (4, 1)]
    rank.pool.finish()
    rank.pool.finish(worker=1)
    rank.step()
    assert sorted(rank.reported) == [1, 2]
    assert rank.pool.calls == ["start"]
    assert rank.words(Stopped) == []


def test_tasks_that_come_in_a_drain_are_returned_at_once():
    rank = Rank(workers=2)
    rank.begin(1)
    rank.hear(Drain())
    rank.assign(5)
    rank.step()
    assert rank.returned == [(5, 1)]
    assert rank.begun == [1]


# ---- stopping -----------------------------------------------------------------------


def test_a_stop_with_grace_terminates_and_kills_when_the_grace_is_over():
    rank = Rank()
    rank.begin(1, 2, 3)
    rank.hear(Stop(2.0))
    rank.step(1.99)
    assert rank.pool.calls == ["start", "terminate"]
    assert rank.agent.wake_at() <= START + 2.0
    rank.step(0.011)
    assert rank.pool.calls == ["start", "terminate", "kill"]
    rank.step(10.0)
    assert rank.pool.calls == ["start", "terminate", "kill"]


def test_a_stop_without_grace_kills_at_once():
    rank = Rank()
    rank.begin(1)
    rank.hear(Stop(0.0))
    assert rank.pool.calls == ["start", "kill"]


def test_a_second_stop_can_hasten_the_first_but_not_slow_it():
    rank = Rank()
    rank.begin(1)
    rank.hear(Stop(5.0))
    rank.step(1.0)
    rank.hear(Stop(60.0))
    rank.step(4.0)
    assert rank.pool.calls[-1] == "kill"
    other = Rank()
    other.begin(1)
    other.hear(Stop(5.0), Stop(0.0))
    assert other.pool.calls[-1] == "kill"


def test_a_rank_has_stopped_only_when_its_pool_has():
    rank = Rank(workers=2)
    rank.begin(1, 2)
    rank.hear(Stop(2.0))
    rank.step(0.1)
    rank.pool.finish(status=-15)
    rank.step(0.1)
    assert rank.words(Stopped) == []
    rank.pool.finish(worker=1)
    rank.step()
    assert rank.words(Stopped) == [Stopped()]
    rank.step(5.0)
    assert rank.words(Stopped) == [Stopped()]


def test_the_last_report_comes_before_stopped():
    rank = Rank(workers=2)
    rank.begin(1, 2)
    rank.pool.finish()
    rank.pool.finish(worker=1)
    rank.hear(Stop(2.0))
    rank.step(0.0001)
    assert sorted(rank.reported) == [1, 2]
    assert rank.said[-1] == Stopped()


def test_nothing_is_started_after_a_stop():
    rank = Rank(workers=1)
    rank.begin(1, 2, 3)
    rank.hear(Stop(2.0))
    rank.assign(4)
    rank.pool.finish()
    rank.step(0.1)
    rank.step(0.1)
    assert rank.begun == [1]
    assert rank.returned == [(4, 1)]


def test_a_stopped_rank_that_is_told_to_stop_again_says_so_again():
    rank = Rank()
    rank.begin()
    rank.hear(Stop(2.0))
    rank.step()
    rank.hear(Stop(0.0))
    assert rank.words(Stopped) == [Stopped(), Stopped()]


@pytest.mark.parametrize("signum", [SIGTERM, SIGINT, SIGHUP])
def test_a_signal_that_ends_the_farm_is_told_first_and_then_kills_at_once(signum):
    rank = Rank()
    rank.begin(1)
    calls_when_told: list[list[str]] = []
    rank.on_word = lambda _: calls_when_told.append([*rank.pool.calls])
    rank.get_signal(signum)
    assert rank.said[-1] == SignalReceived(signum, sure=START)
    assert calls_when_told == [["start"]]
    assert rank.pool.calls == ["start", "kill"]


def test_usr1_is_told_first_and_then_stops_with_the_grace_of_the_farm():
    rank = Rank()
    rank.begin(1)
    rank.get_signal(SIGUSR1)
    rank.hear(Stop(2.0, by_signal=True))
    assert rank.said[-1] == SignalReceived(SIGUSR1, sure=START)
    assert rank.pool.calls == ["start", "terminate"], "once"
    rank.step(2.0)
    assert rank.pool.calls == ["start", "terminate", "kill"]


def test_usr2_is_told_first_and_then_drains():
    rank = Rank(workers=1)
    rank.begin(1, 2)
    rank.get_signal(SIGUSR2)
    rank.step()
    assert [type(word) for word in rank.said[-2:]] == [SignalReceived, Report]
    assert rank.returned == [(2, 1)]
    assert rank.pool.calls == ["start"]


# ---- when a result is sure ----------------------------------------------------------

WAIT = 0.1


def ended(rank: Rank) -> float:
    """A command of it ends now, and is reported."""
    rank.step(1.0)
    rank.pool.finish()
    rank.step()
    return rank.clock.now


def test_a_result_is_reported_at_once_and_sure_when_its_wait_is_over():
    rank = Rank(workers=1, wait=WAIT)
    rank.begin(1)
    when = ended(rank)
    assert rank.reported == [1]
    assert rank.sure < when
    due = rank.agent.wake_at()
    assert due == pytest.approx(when + WAIT)
    rank.step(0.99 * WAIT)
    assert len(rank.words(Report)) == 1
    rank.step(0.02 * WAIT)
    assert rank.sure >= when
    assert rank.agent.wake_at() == float("inf")
    rank.step(100.0)
    assert len(rank.words(Report)) == 2


def test_results_of_a_stream_are_confirmed_by_the_reports_of_later_ones():
    rank = Rank(workers=2, seconds=lambda _: 0.001, wait=WAIT)
    rank.begin(*range(1000))
    for _ in range(400):
        rank.step(0.001)
        late = rank.clock.now - max(START, rank.sure) if rank.said else 0.0
        assert late <= WAIT + 2 * REPORT_SECONDS
    assert len(rank.words(Report)) <= 0.4 / REPORT_SECONDS + 2


def test_a_rank_of_very_many_confirms_no_more_often_than_it_reports():
    rank = Rank(workers=2, wait=WAIT)
    rank.hear(Welcome(define_farm(), 0, report_seconds=2.0))
    rank.assign(1, 2)
    rank.step()
    when = ended(rank)
    rank.step(1.5)
    assert rank.sure < when
    rank.step(0.6)
    assert rank.sure >= when


@pytest.mark.parametrize("signum", [SIGUSR1, SIGTERM, SIGINT, SIGHUP])
@pytest.mark.parametrize("age", [0.0, 0.5 * WAIT, 0.99 * WAIT])
def test_a_signal_within_the_wait_keeps_a_result_from_ever_being_sure(signum, age):
    rank = Rank(workers=2, wait=WAIT)
    rank.begin(1, 2)
    when = ended(rank)
    rank.step(age)
    rank.get_signal(signum)
    if signum == SIGUSR1:
        rank.pool.finish(worker=1)  # at the others it is killed
    rank.step(10.0)
    assert rank.reported == [1]
    assert all(
        m.sure < when for m in rank.said if isinstance(m, Report | SignalReceived)
    )
    assert rank.said[-1] == Stopped()


@pytest.mark.parametrize("signum", [SIGUSR1, SIGTERM, SIGINT, SIGHUP])
def test_a_signal_after_the_wait_voids_nothing(signum):
    rank = Rank(workers=2, wait=WAIT)
    rank.begin(1, 2)
    when = ended(rank)
    rank.step(1.01 * WAIT)
    rank.get_signal(signum)
    assert rank.sure >= when


def test_what_ends_after_a_signal_is_not_reported_whatever_its_status():
    rank = Rank(workers=2, wait=WAIT)
    rank.begin(1, 2)
    rank.get_signal(SIGUSR1)
    rank.step(0.5)
    rank.pool.finish()
    rank.pool.finish(worker=1, status=-10)
    rank.step(0.5)
    assert rank.reported == []
    assert rank.said[-1] == Stopped()


def test_a_stop_that_no_signal_began_voids_nothing_that_ended_before_it():
    rank = Rank(workers=2, wait=WAIT)
    rank.begin(1, 2)
    rank.step(1.0)
    rank.pool.finish()
    when = rank.clock.now
    rank.hear(Stop(2.0))
    rank.step(0.01)
    rank.pool.finish(worker=1)
    rank.step(0.01)
    assert rank.words(Stopped) == []
    assert rank.agent.wake_at() <= when + WAIT + 1e-5
    rank.step(WAIT)
    assert rank.reported == [1], "what ended after our own TERM runs again"
    assert rank.sure >= when
    assert rank.said[-1] == Stopped()


def test_a_signal_to_another_rank_alone_voids_nothing_here():
    rank = Rank(workers=2, wait=WAIT)
    rank.begin(1, 2)
    when = ended(rank)
    rank.hear(Stop(2.0, by_signal=True))
    rank.pool.finish(worker=1)
    rank.step(1.01 * WAIT)
    assert rank.sure >= when
    assert rank.said[-1] == Stopped()


def test_a_signal_elsewhere_that_leaves_no_time_voids_what_is_not_sure():
    rank = Rank(workers=2, wait=WAIT)
    rank.begin(1, 2)
    when = ended(rank)
    rank.hear(Stop(0.0, by_signal=True))
    rank.step(0.001)
    assert rank.sure < when
    assert rank.said[-1] == Stopped()


def test_a_signal_that_comes_while_a_stopped_rank_waits_voids_what_is_not_sure():
    rank = Rank(workers=1, wait=WAIT)
    rank.begin(1)
    when = ended(rank)
    rank.hear(Stop(2.0))
    rank.step(0.5 * WAIT)
    rank.get_signal(SIGTERM)
    rank.step(WAIT)
    assert rank.sure < when
    assert rank.said[-1] == Stopped()


def test_what_was_launched_is_sure_later_and_so_is_what_ended_after_it():
    rank = Rank(workers=1, wait=WAIT)
    rank.begin()
    rank.assign(1, command="cd x && srun -n 2 ./y")
    rank.assign(2)
    rank.step()
    when = ended(rank)
    rank.pool.finish()
    rank.step(0.1)
    assert rank.reported == [1, 2]
    rank.step(0.9 * LAUNCHED_WAIT - 0.1)
    assert rank.sure < when
    assert rank.agent.wake_at() == pytest.approx(when + LAUNCHED_WAIT, abs=0.11)
    rank.step(0.1 * LAUNCHED_WAIT)
    rank.step(0.1)
    assert rank.sure >= when + 0.1


def test_a_signal_anywhere_voids_what_was_launched_and_is_not_sure():
    """Its processes may have been on the node of that rank."""
    rank = Rank(workers=1, wait=WAIT)
    rank.begin(1)
    first = ended(rank)
    rank.assign(2, command="mpiexec -n 2 ./x")
    rank.step()
    when = ended(rank)
    rank.hear(Stop(2.0, by_signal=True))
    rank.step(LAUNCHED_WAIT)
    assert first <= rank.sure < when
    assert rank.said[-1] == Stopped()


@pytest.mark.parametrize(
    ("workers", "seen"),
    [(2, 0.0165), (4, 0.02), (8, 0.036), (16, 0.05), (64, 0.066), (256, 0.066)],
)
def test_the_wait_is_five_times_what_was_seen(workers, seen):
    """By docs/signals.md: by how much a rank was later than a command, at most."""
    assert 5 * seen <= find_wait(workers) <= 7 * seen


@pytest.mark.parametrize(("workers", "seen"), [(8, 0.0086), (64, 0.0543)])
def test_outside_of_a_job_the_wait_is_five_times_what_a_kill_takes(workers, seen):
    """By docs/signals.md: all processes are named to one kill, the rank last."""
    assert 5 * seen <= find_wait(workers, in_job=False) <= 7 * seen


def test_a_rank_that_leaves_closes_its_pool():
    rank = Rank()
    rank.begin()
    rank.hear(Shutdown())
    assert rank.pool.calls == ["start", "close"]
    assert rank.agent.phase is RankPhase.LEFT


# ---- silence ------------------------------------------------------------------------


def test_a_rank_that_does_not_hear_of_rank_0_for_long_is_forsaken():
    rank = Rank()
    rank.begin()
    assert not rank.agent.is_forsaken(START + SILENCE_SECONDS)
    assert rank.agent.is_forsaken(START + SILENCE_SECONDS + 0.1)


def test_any_word_of_rank_0_ends_the_silence():
    rank = Rank()
    rank.begin()
    rank.clock.advance(SILENCE_SECONDS - 1)
    rank.hear(Ping())
    assert not rank.agent.is_forsaken(START + 2 * SILENCE_SECONDS - 2)


def test_a_rank_that_waits_for_its_welcome_is_not_forsaken():
    """Rank 0 may wait for the lock first; a rank without a pool has nothing to kill."""
    rank = Rank()
    assert not rank.agent.is_forsaken(START + 2 * LOCK_TIMEOUT + 1)
    rank.clock.advance(2 * LOCK_TIMEOUT)
    rank.begin()
    assert not rank.agent.is_forsaken(rank.clock.now + SILENCE_SECONDS - 1)
    assert rank.agent.is_forsaken(rank.clock.now + SILENCE_SECONDS + 1)


def test_a_pause_of_this_process_is_no_silence():
    rank = Rank()
    rank.begin()
    rank.clock.advance(1000.0)
    rank.agent.forgive_pause(1000.0)
    assert not rank.agent.is_forsaken(rank.clock.now + SILENCE_SECONDS - 1)
    assert rank.agent.is_forsaken(rank.clock.now + SILENCE_SECONDS + 1)


# ---- another coordinator -----------------------------------------------------------


def test_a_rank_tells_a_new_coordinator_what_it_holds_and_what_may_not_be_on_disk():
    rank = Rank(workers=2)
    rank.agent.reporter.keeps_results = True
    rank.begin(1, 2, 3)
    rank.pool.finish()
    rank.step(REPORT_SECONDS)
    rank.agent.rejoin(rank.clock.now)
    (rejoin,) = rank.words(Rejoin)
    assert rejoin.is_welcomed
    assert [result.taskid for result in rejoin.report.results] == [1]
    assert sorted(rejoin.leases) == [(2, 1), (3, 1)]


def test_a_rank_keeps_no_result_that_is_noted():
    rank = Rank(workers=1)
    rank.agent.reporter.keeps_results = True
    rank.begin(1, 2)
    rank.pool.finish()
    rank.step(REPORT_SECONDS)
    rank.hear(Committed(((1, 1),)))
    rank.agent.rejoin(rank.clock.now)
    (rejoin,) = rank.words(Rejoin)
    assert rejoin.report.results == ()


def test_a_rank_that_nobody_can_succeed_keeps_no_results():
    rank = Rank(workers=1)
    rank.begin(1)
    rank.pool.finish()
    rank.step(REPORT_SECONDS)
    rank.agent.rejoin(rank.clock.now)
    (rejoin,) = rank.words(Rejoin)
    assert rejoin.report.results == ()


def test_a_rank_that_was_not_welcomed_says_so():
    rank = Rank()
    rank.agent.rejoin(rank.clock.now)
    assert [word.is_welcomed for word in rank.words(Rejoin)] == [False]


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        ([Drain()], [SignalReceived(SIGUSR2)]),
        ([Stop(2.0)], [SignalReceived(SIGUSR1)]),
        ([Stop(0.0)], [SignalReceived(SIGUSR1), Stopped()]),
    ],
)
def test_what_the_old_coordinator_had_decided_the_new_one_learns(heard, said):
    rank = Rank(workers=1)
    rank.begin(1)
    rank.hear(*heard)
    rank.step()
    rank.said.clear()
    rank.agent.rejoin(rank.clock.now)
    assert isinstance(rank.said[0], Rejoin)
    assert rank.said[1:] == said


# ---- a host that does not share what rank 0 has --------------------------------------


def test_a_rank_that_shares_nothing_tells_why_and_begins_no_task():
    rank = Rank()
    rank.agent.shared_directories = SharedDirectories(
        lambda _, host: f"{host} sees nothing"
    )
    rank.begin(4, 5)
    rank.step(LOOK_SECONDS - 0.1)
    assert rank.words(RankUnusable) == []
    rank.step(0.3)
    assert [word.reason for word in rank.words(RankUnusable)] == ["node3 sees nothing"]
    rank.assign(6)
    rank.step(5.0)
    returned = [each for report in rank.words(Report) for each in report.returned]
    assert returned == [(4, 1), (5, 1), (6, 1)]
    assert rank.pool.leases == []
    assert len(rank.words(RankUnusable)) == 1
    rank.agent.rejoin(rank.clock.now)  # another coordinator would give it tasks again
    assert len(rank.words(RankUnusable)) == 2


def test_a_rank_waits_for_a_disk_that_is_behind_and_looks_no_more_after_that():
    rank, looks = Rank(), [0]

    def look(_definition, _host):
        looks[0] += 1
        return "not yet" if looks[0] < 3 else ""

    rank.agent.shared_directories = SharedDirectories(look)
    rank.begin(4)
    assert rank.pool.leases == []
    assert rank.agent.wake_at() <= rank.clock.now + REFUSED_SECONDS
    rank.step(REFUSED_SECONDS)
    rank.step(REFUSED_SECONDS)
    assert [lease.taskid for lease in rank.pool.leases] == [4]
    rank.step(1.0)
    assert looks == [3]


# ---- phases -------------------------------------------------------------------------


def test_a_rank_that_was_told_to_leave_is_ended_by_nothing_that_comes_behind():
    rank = Rank()
    rank.begin(1)
    rank.hear(Shutdown(farm_goes_on=True), Stop(0.0), Drain(), Shutdown(aborts=True))
    rank.get_signal(SIGTERM)
    assert rank.agent.phase is RankPhase.LEFT
    assert rank.agent.leave == Shutdown(aborts=True)


def test_a_rank_whose_pool_is_gone_says_so_and_answers_a_stop_that_comes_after():
    rank = Rank()
    rank.begin(1)
    rank.pool.lose_fork_server()
    rank.step()
    rank.hear(Stop(2.0))
    rank.step(1.0)
    assert rank.agent.phase is RankPhase.POOL_LOST
    told = [each for each in rank.said if isinstance(each, PoolLost | Stopped)]
    assert told == [PoolLost(), Stopped()]


def test_no_phase_is_entered_that_the_table_does_not_allow():
    rank = Rank()
    rank.begin(1)
    with pytest.raises(AssertionError, match="POOL_LOST"):
        rank.agent._enter(RankPhase.POOL_LOST)
    assert rank.agent.phase is RankPhase.WORKING


@pytest.mark.parametrize("phase", RankPhase)
def test_every_phase_but_the_last_leads_to_the_last(phase):
    assert (RankPhase.LEFT in RANK_PHASES[phase]) is (phase is not RankPhase.LEFT)
    assert RankPhase.JOINING not in RANK_PHASES[phase]


def test_a_rank_that_stops_returns_nothing_that_waited_for_rank_0_knows_it():
    rank = Rank(workers=1)
    rank.begin(1, 2, 3, 4)
    rank.clock.advance(1.0)
    rank.pool.finish()
    rank.step()
    rank.hear(Stop(20.0))
    rank.step(5.0)
    assert rank.returned == []
    assert rank.begun == [1, 2]


def test_a_rank_looks_for_an_answer_soon_after_each_report():
    rank = Rank(workers=1)
    rank.begin(1)
    calls: list[str] = []
    waiter: Any = SimpleNamespace(
        expect=lambda: calls.append("expect"),
        wait=lambda fds, seconds: calls.append("wait"),
        coalesce=lambda seconds: calls.append("coalesce"),
    )
    rank.agent.pool.read_fds = list  # type: ignore[method-assign]
    rank.agent.wait(waiter, 0.0, 1.0)
    rank.clock.advance(1.0)
    rank.pool.finish()
    rank.step()
    for _ in range(2):
        rank.agent.wait(waiter, 0.0, 1.0)
    assert calls == ["wait", "expect", "wait", "wait"]


# ---- what users have cancelled or held -----------------------------------------------


def cancelled(*taskids: int) -> Cancel:
    return Cancel(tuple((taskid, 1) for taskid in taskids))


def test_a_cancelled_lease_that_waits_goes_back_and_one_that_runs_is_ended():
    rank = Rank(workers=1)
    rank.begin(7, 8, 9)
    rank.hear(cancelled(7, 9))
    rank.step(0.1)
    assert rank.returned == [(9, 1)]
    (result,) = [each for report in rank.words(Report) for each in report.results]
    assert (result.taskid, result.outcome) == (7, Outcome.CANCELLED)
    assert [lease.taskid for lease in rank.pool.begun] == [7, 8]


def test_a_cancelled_lease_that_its_worker_was_just_beginning_does_not_begin():
    rank = Rank(workers=1)
    rank.begin(7)
    rank.hear(cancelled(7))
    lease = rank.pool.hands[0][0]
    rank.pool.lose_worker()
    rank.pool._events[:] = [LeaseReturned(lease)]
    rank.step(0.1)
    assert rank.returned == [(7, 1)]
    assert rank.pool.begun == [lease]


@pytest.mark.parametrize("message", [cancelled(7), Withdraw(((7, 1),))])
def test_a_lease_that_is_wanted_back_before_its_worker_has_a_runner_goes_back(message):
    rank = Rank(workers=1)
    rank.begin(7)
    rank.pool.make_runner_again()
    assert not rank.agent.feeder.is_fed_ahead
    rank.hear(message)
    rank.step(0.1)
    assert rank.returned == [(7, 1)]
    assert rank.pool.begun == rank.pool.leases == []


def test_withdrawn_leases_go_back_before_the_rank_says_which_it_keeps():
    rank = Rank(workers=1)
    rank.begin(7, 8, 9)
    rank.hear(Withdraw(()))
    assert rank.returned == [(8, 1), (9, 1)]
    assert rank.said[-1] == Withdrawn(((7, 1),))
    assert isinstance(rank.said[-2], Report)


def test_leases_that_are_not_wanted_back_stay():
    rank = Rank(workers=1)
    rank.begin(7, 8, 9)
    rank.hear(Withdraw(((8, 1),)))
    rank.pool.finish()
    rank.step(0.1)
    assert [lease.taskid for lease in rank.pool.begun] == [7, 9]


def test_a_cancelled_task_of_a_draining_rank_is_ended():
    rank = Rank(workers=1)
    rank.begin(7)
    rank.hear(Drain(), cancelled(7))
    rank.step(0.1)
    (result,) = [each for report in rank.words(Report) for each in report.results]
    assert (result.taskid, result.outcome) == (7, Outcome.CANCELLED)


def test_a_rank_that_stops_ends_a_cancelled_task_with_all_others():
    rank = Rank(workers=1)
    rank.begin(7)
    rank.hear(Stop(2.0), cancelled(7))
    assert rank.pool.calls == ["start", "terminate"]
    assert rank.pool.cancelled == set()


# ---- to the letter -------------------------------------------------------------------


def test_the_pool_of_a_rank_is_what_the_farm_says_and_the_rank_has():
    rank = Rank(rank=3, workers=2)
    definition = FarmDefinition(
        farm="f00d",
        workdir="/scratch/list_workdir",
        runner=RunnerDefinition("shell", options={"cwd": "/x"}),
        grace=7.0,
        limits=TaskLimits(timeout=5.0, memory=7),
        logs="failed",
        id_variables=(("SLURM_ARRAY_TASK_ID", 1),),
    )
    rank.agent._first_worker = 4
    allotment = rank.agent._allotment = Allotment(3)
    rank.hear(Welcome(definition, 8))
    assert rank.pool.definition == PoolDefinition(
        workers=2,
        rank=3,
        farm="f00d",
        workdir="/scratch/list_workdir",
        logs="/scratch/list_workdir/logs",
        runner=definition.runner,
        environment={b"HOME": b"/home/x"},
        node_worker=12,
        allotment=allotment,
        limits=definition.limits,
        grace=7.0,
        kept_logs="failed",
        id_variables=definition.id_variables,
    )


@pytest.mark.parametrize(
    ("silent", "is_forsaken"),
    [(SILENCE_SECONDS, False), (SILENCE_SECONDS + 0.001, True)],
)
def test_a_rank_is_forsaken_just_after_the_silence(silent, is_forsaken):
    rank = Rank()
    rank.begin()
    assert rank.agent.is_forsaken(rank.clock.now + silent) is is_forsaken


def test_a_rank_that_rejoins_waits_longer_until_it_is_heard():
    rank = Rank()
    rank.begin()
    now = rank.clock.advance(50.0)
    rank.agent.rejoin(now)
    assert not rank.agent.is_forsaken(now + TAKING_OVER_SECONDS)
    assert rank.agent.is_forsaken(now + TAKING_OVER_SECONDS + 0.001)
    rank.hear(Ping())
    assert rank.agent.is_forsaken(now + SILENCE_SECONDS + 0.001)


def test_a_rank_without_a_welcome_waits_for_as_long_as_a_start_may_take():
    rank = Rank()
    begun = rank.clock.now
    assert not rank.agent.is_forsaken(begun + JOINING_SECONDS)
    assert rank.agent.is_forsaken(begun + JOINING_SECONDS + 0.001)


def test_what_a_killed_rank_was_to_kill_later_is_not_killed_twice():
    rank = Rank()
    rank.begin(0)
    rank.hear(Stop(2.0))
    rank.hear(Stop(0.0))
    rank.step(5.0)
    assert rank.pool.calls.count("kill") == 1


@pytest.mark.parametrize(("second", "kills_at"), [(1.0, 1.5), (9.0, 2.0)])
def test_commands_are_killed_at_the_earlier_of_two_ends(second, kills_at):
    rank = Rank()
    rank.begin(0)
    rank.hear(Stop(2.0))
    rank.clock.advance(0.5)
    rank.hear(Stop(second))
    rank.step(kills_at - 0.5 - 0.001)
    assert "kill" not in rank.pool.calls
    rank.step(0.002)
    assert "kill" in rank.pool.calls


@pytest.mark.parametrize(
    ("grace", "by_signal", "counts"),
    [(0.0, True, False), (0.0, False, True), (2.0, True, True), (2.0, False, True)],
)
def test_only_a_signal_that_leaves_no_time_voids_what_is_not_sure(
    grace, by_signal, counts
):
    rank = Rank(wait=1.0)
    rank.begin(0)
    rank.pool.finish()
    rank.agent._collect(rank.clock.now)
    rank.hear(Stop(grace, by_signal))
    rank.step(0.001)
    assert rank.reported == [0] * counts


@pytest.mark.parametrize("message", [cancelled(7), Withdraw(((7, 1),))])
def test_a_lease_that_is_wanted_back_and_then_refused_goes_back_and_costs_nothing(
    message,
):
    rank = Rank(workers=1)
    rank.begin(7)
    lease = rank.pool.hands[0][0]
    rank.agent._unwanted.add((7, 1))
    rank.pool.refuse("no space left")
    rank.hear(message)
    rank.step(0.1)
    assert rank.returned == [(7, 1)]
    assert rank.words(RankUnusable) == []
    rank.step(10.0)
    assert rank.pool.begun == [lease], "it does not begin again"


def test_a_refused_lease_that_nobody_wants_back_is_tried_again():
    rank = Rank(workers=1)
    rank.begin(7)
    rank.agent._unwanted.add((8, 1))
    rank.pool.refuse("no space left")
    rank.step(0.1)
    rank.step(REFUSED_SECONDS)
    assert rank.begun == [7, 7]
    assert rank.returned == []
