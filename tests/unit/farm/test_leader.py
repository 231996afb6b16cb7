"""Rank 0's loop, with a fake disk, a fake lock and a clock that waiting moves.

Rules of this file: `LedFarm.run` runs the real loop to its end in virtual time; what
befalls it is scripted beforehand, by moments.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from signal import SIGTERM, SIGUSR1, SIGUSR2
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.coordinator.coordinator import Coordinator, OrderNews, Transact
from mpifarm.errors import StorageError
from mpifarm.farm.agent import Agent, RankPhase
from mpifarm.farm.leader import JOIN_SECONDS, LOOK_SECONDS, Leader
from mpifarm.farm.summary import Tally
from mpifarm.farm.transactions import HEARTBEAT_SECONDS, StoreWriter, Written
from mpifarm.model.messages import (
    Join,
    Ping,
    Rejoin,
    Shutdown,
    Stop,
    Stopped,
    ToRank,
)
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.requests import Answer, Request, RequestKind
from mpifarm.model.settings import Policy, Settings
from mpifarm.model.task import Lease, Outcome
from mpifarm.order.constraints import UNORDERED
from mpifarm.store.held_file import Held
from mpifarm.store.types import Recorded, Transacted
from mpifarm.store.unlimited import Unlimited
from tests.unit.fakes import Commands, define_farm, rank_set_of
from tests.unit.virtual_rank import START, Clock, FakePool, result_of

LONGEST_FARM = 1000.0
"""Virtual seconds after which a farm that has not ended is a failure."""


class LoopClock(Clock):
    """Virtual time, in which scripted events happen."""

    def __init__(self) -> None:
        super().__init__()
        self.script: list[tuple[float, Callable[[], None]]] = []
        self.paused = 0.0

    def at(self, seconds: float, event: Callable[[], None]) -> None:
        self.script.append((START + seconds, event))

    def step(self) -> float:
        assert self.now < START + LONGEST_FARM, "the farm does not end"
        due = [each for each in self.script if each[0] <= self.now]
        self.script = [each for each in self.script if each[0] > self.now]
        for _, event in due:
            event()
        paused, self.paused = self.paused, 0.0
        return paused


class LoopPool(FakePool):
    """A pool on which the loop can wait."""

    def read_fds(self) -> list[int]:
        return [7]


class LoopWaiter:
    """Sleeps by moving the clock; each pass of the loop takes some time, too."""

    def __init__(self, clock: LoopClock, pool: LoopPool) -> None:
        self._clock = clock
        self._pool = pool

    def wait(self, read: Sequence[int], seconds: float) -> None:
        moments = [moment for moment, _ in self._clock.script]
        if read:
            moments.append(self._pool.next_end())
        until_event = min(moments, default=math.inf) - self._clock.now
        self._clock.advance(max(0.0005, min(seconds, until_event, 1.0)))

    def restart(self) -> None:
        self._clock.advance(0.0001)

    def expect(self) -> None:
        pass

    def coalesce(self, seconds: float) -> None:
        self._clock.advance(max(0.0005, seconds))


class FakeLock:
    """In use by another farmer until `busy_until`."""

    paths = ("/here/lock",)

    def __init__(self, clock: LoopClock) -> None:
        self.busy_until = 0.0
        self.held = False
        self.tries: list[float] = []
        self.rests = False
        """Whether it can't be taken again at once, as the real one."""
        self._released_at = -1.0
        self._clock = clock

    def try_acquire(self) -> bool:
        assert not self.held
        self.tries.append(self._clock.now - START)
        rests = self.rests and self._clock.now == self._released_at
        self.held = self._clock.now >= self.busy_until and not rests
        return self.held

    def release(self) -> None:
        assert self.held
        self.held = False
        self._released_at = self._clock.now

    @contextmanager
    def hold(self, timeout: float) -> Iterator[None]:
        assert not self.held
        self.held = True
        yield
        self.held = False


class FakeStore:
    """A workdir in memory, which is changed with the lock held only."""

    def __init__(self, count: int, clock: LoopClock, lock: FakeLock) -> None:
        self.paths = WorkdirPaths("/here")
        self.toprocess = [*range(count)]
        self.held: set[int] = set()
        self.records: dict[int, Recorded] = {}
        self.requeued: list[int] = []
        self.prepared = 0
        self.takes: list[tuple[float, int]] = []
        self.beats: list[float] = []
        self.notes: list[str] = []
        self.in_logs: list[tuple[int, str]] = []
        self.attempts: list[Recorded] = []
        self.drains = False
        self.fails_until = 0.0
        self.beats_fail_until = 0.0
        self.others_hold_tasks = False
        self.requests = FakeInbox(lock)
        self.held_by_users = Held()
        self.unlimited = Unlimited(UNORDERED)
        self._clock = clock
        self._lock = lock

    @property
    def recorded(self) -> tuple[int, int]:
        finished = sum(each.result.status == 0 for each in self.records.values())
        return finished, len(self.records) - finished

    def has_record_of(self, taskid: int) -> bool:
        return taskid in self.records

    def count_in_timeline(self, count_running: Callable[[], int]) -> None:
        """There is no timeline."""

    def prepare(
        self, results: Sequence[Recorded], give_back: Sequence[int], take: int
    ) -> None:
        assert not self._lock.held
        self.prepared += 1

    def transact_or_reclaim(
        self,
        results: Sequence[Recorded],
        give_back: Sequence[int],
        take: int,
        pull: Sequence[int],
    ) -> Transacted:
        assert self._lock.held
        if self._clock.now < self.fails_until:
            raise StorageError("can't write /here/finished: no space left; make room")
        self.takes.append((self._clock.now - START, take))
        for each in results:
            self.held.remove(each.taskid)
            assert each.taskid not in self.records
            self.records[each.taskid] = each
        self.held -= {*give_back}
        self.requeued += give_back
        taken, self.toprocess = self.toprocess[:take], self.toprocess[take:]
        self.held.update(taken)
        pulled = [each for each in pull if each in self.toprocess]
        self.toprocess = [each for each in self.toprocess if each not in pulled]
        self.held.update(pulled)
        return Transacted(taken, not self.toprocess, 0.001, pulled=pulled)

    def hold(self, held: Held) -> None:
        self.held_by_users = held

    def heartbeat(self) -> None:
        self.beats.append(self._clock.now - START)
        if self._clock.now < self.beats_fail_until:
            raise StorageError("can't touch /here/claims/f00d: input/output error")

    def drain_requested(self) -> bool:
        return self.drains

    def note_in_log(self, taskid: int, sentence: str) -> None:
        self.in_logs.append((taskid, sentence))

    def note_attempts(self, results: Sequence[Recorded]) -> None:
        self.attempts += results


class FakeInbox:
    """Requests that a test puts there, and the answers, written with the lock held."""

    def __init__(self, lock: FakeLock) -> None:
        self.requests: list[Request] = []
        self.answers: list[Answer] = []
        self.fails = False
        self._lock = lock

    def poll(self) -> list[Request]:
        requests, self.requests = self.requests, []
        return requests

    def answer(self, answers: Sequence[Answer]) -> None:
        assert self._lock.held
        if self.fails:
            self.fails = False
            raise StorageError("can't write /here/answers: no space left")
        self.answers += answers


class FakeComm:
    """The other ranks, as rank 0 hears them."""

    survives_rank_loss = True

    def __init__(self) -> None:
        self.inbox: list[tuple[int, Any]] = []
        self.losses: list[int] = []
        self.sent: list[tuple[int, ToRank]] = []

    def has_message(self) -> bool:
        return bool(self.inbox)

    def receive(self) -> list[tuple[int, Any]]:
        inbox, self.inbox = self.inbox, []
        return inbox

    def take_losses(self) -> list[int]:
        losses, self.losses = self.losses, []
        return losses

    def send(self, rank: int, message: ToRank) -> None:
        self.sent.append((rank, message))


class FakeJobEnd:
    """The batch system's answer, which comes at `answers_at`."""

    def __init__(
        self, answers_at: float = math.inf, deadline: float = math.inf
    ) -> None:
        self.deadline = deadline
        self.is_open = answers_at < math.inf
        self.is_unknown = False
        self.looks = 0
        self._answers_at = answers_at

    def poll(self, now: float) -> bool:
        self.looks += 1
        return now >= self._answers_at

    def take_news(self) -> list[str]:
        return ["the job ends at noon"]


class LedFarm:
    """A farm of rank 0, and of others that a test speaks for."""

    def __init__(
        self,
        tasks: int = 6,
        *,
        seconds: float = 1.0,
        size: int = 1,
        grace: float = 2.0,
        policy: Policy | None = None,
        verbose: bool = False,
        job_end: FakeJobEnd | None = None,
        waits_for_others: bool = False,
    ) -> None:
        self.clock = LoopClock()
        self.lock = FakeLock(self.clock)
        self.store = FakeStore(tasks, self.clock, self.lock)
        self.pool = LoopPool(self.clock, lambda _: seconds)
        self.comm = FakeComm() if size > 1 else None
        self.said: list[tuple[float, str]] = []
        self.shown: list[str] = []
        self.order: list[str] = []
        """What is done at the end, in its order."""
        self.signals: list[int] = []
        self.coordinator = Coordinator(
            *(Commands(tasks), define_farm(grace)),
            *(rank_set_of(size, 2, survives_rank_loss=size > 1), START),
            policy=policy or Policy(),
            waits_for_others=waits_for_others,
        )
        self.tally = Tally(START)
        self.job_end: Any = job_end or FakeJobEnd()
        self.leader = self._create_leader(verbose=verbose)
        pool: Any = self.pool
        self.agent = Agent(0, "node0", 2, pool, {}, self.leader.hear, START)
        self.agent.join()

    def _create_leader(self, *, verbose: bool) -> Leader:
        output = SimpleNamespace(
            say=self._say, mention=self._say, show=self.shown.append
        )
        context: Any = SimpleNamespace(
            comm=self.comm,
            settings=Settings("list", "list_workdir", verbose=verbose),
            process=SimpleNamespace(
                signals=SimpleNamespace(fd=0, take=self._take_signals),
                output=output,
                environ={},
                started_in="",
            ),
            begun=START,
        )
        store: Any = self.store
        lock: Any = self.lock
        clock: Any = self.clock
        waiter: Any = LoopWaiter(self.clock, self.pool)
        return Leader(
            *(self.coordinator, store, lock, self.tally, context, self.job_end),
            *(clock, waiter),
        )

    def _say(self, sentence: str) -> None:
        self.said.append((self.clock.now - START, sentence))
        self.order.append(f"say {sentence}")

    def _take_signals(self) -> list[int]:
        signals, self.signals = self.signals, []
        return signals

    def _conclude(self) -> None:
        self.order.append("conclude")
        sent = self.comm.sent if self.comm else []
        left = [m for _, m in sent if isinstance(m, Shutdown) and not m.farm_goes_on]
        assert not left, "a rank that is told to leave waits in MPI"
        assert "close" not in self.pool.calls
        assert not self.lock.held

    def run(self) -> float:
        """Run the farm to its end; return how long it took."""
        self.leader.run(self.agent, self._conclude)
        assert self.agent.phase is RankPhase.LEFT
        assert self.order.count("conclude") == 1
        return self.clock.now - START

    def at(self, seconds: float, event: Callable[[], None]) -> None:
        self.clock.at(seconds, event)

    def signal_at(self, seconds: float, signum: int) -> None:
        self.at(seconds, lambda: self.signals.append(signum))

    def hear_at(self, seconds: float, rank: int, *messages: Any) -> None:
        comm = self.comm
        assert comm is not None
        self.at(seconds, lambda: comm.inbox.extend((rank, m) for m in messages))

    def told(self, words: str) -> list[float]:
        """When sentences with these words were said."""
        return [moment for moment, sentence in self.said if words in sentence]


# ---- to the end ---------------------------------------------------------------------


def test_a_list_is_done_and_concluded_before_anybody_is_told_to_leave():
    farm = LedFarm(6)
    assert farm.run() < 5.0
    assert sorted(farm.store.records) == [*range(6)]
    assert farm.store.held == set()
    assert farm.tally.ran == 6


def test_what_is_to_be_said_before_the_end_is_said_before_the_conclusion():
    farm = LedFarm(2, size=2)
    farm.hear_at(0.0, 1, Join("node1", 7, 2))
    comm = farm.comm
    assert comm is not None
    farm.at(1.5, lambda: comm.losses.append(1))
    farm.run()
    lost = next(i for i, each in enumerate(farm.order) if "is lost" in each)
    assert lost < farm.order.index("conclude")


def test_the_last_rank_to_be_told_to_leave_is_the_leaders_own():
    farm = LedFarm(2, size=2)
    farm.hear_at(0.0, 1, Join("node1", 7, 0))
    farm.run()
    assert farm.comm is not None
    assert [m for r, m in farm.comm.sent if isinstance(m, Shutdown)] == [Shutdown()]
    assert farm.pool.calls[-1] == "close"


def test_each_result_is_told_where_that_is_asked_for():
    farm = LedFarm(2, verbose=True)
    farm.run()
    for taskid in (0, 1):
        [begun] = farm.told(f"task {taskid} began at")
        [ended] = farm.told(f"task {taskid} finished after 1 s on node0, worker")
        assert begun <= ended


def test_the_state_is_shown_each_second():
    farm = LedFarm(6, seconds=4.0)
    farm.run()
    assert 11 <= len(farm.shown) <= 14
    assert farm.shown[-1].startswith("6/6 done") or farm.shown[-1].startswith("4/6")


def test_an_attempt_that_is_retried_is_noted_and_counted():
    farm = LedFarm(2, seconds=2.0, policy=Policy(retries=1))
    farm.at(0.5, lambda: farm.pool.finish(0, status=9))
    farm.run()
    assert [each.result[1:4:2] for each in farm.store.attempts] == [(1, 9)]
    assert farm.tally.retried == 1
    assert farm.store.recorded == (2, 0)


def test_what_was_to_be_recorded_and_was_requeued_is_not_counted():
    farm = LedFarm(2)
    store: Any = farm.store
    transact = store.transact_or_reclaim

    def requeue_first(
        results: Sequence[Recorded], give_back: Sequence[int], *more: Any
    ) -> Transacted:
        if farm.store.requeued:
            done: Transacted = transact(results, give_back, *more)
            return done
        back = [each.taskid for each in results]
        done = transact((), [*give_back, *back], *more)
        farm.store.toprocess += back
        return done._replace(reopened=back, empty=done.empty and not back)

    store.transact_or_reclaim = requeue_first
    farm.run()
    assert farm.store.requeued
    assert farm.store.recorded == (2, 0)
    assert farm.tally.ran == 2


def test_a_task_that_timed_out_has_failed_though_its_command_ended_with_0():
    farm = LedFarm(1)
    collect: Any = farm.pool.collect
    farm.pool.collect = lambda: [  # type: ignore[method-assign]
        each._replace(outcome=Outcome.TIMED_OUT) for each in collect()
    ]
    farm.run()
    record = farm.store.records[0]
    assert (record.finished, record.result.status) == (False, 0)


def test_a_task_that_always_loses_its_worker_is_told_so_in_its_log():
    farm = LedFarm(1, seconds=100.0)

    def lose() -> None:
        farm.pool.lose_worker(0 if farm.pool.hands[0] else 1)

    for moment in (1.0, 3.0, 5.0):
        farm.at(moment, lose)
    farm.run()
    ((taskid, sentence),) = farm.store.in_logs
    assert taskid == 0
    assert sentence.startswith("counts as failed: 3 times its worker or its rank was")
    assert farm.store.recorded == (0, 1)


def test_a_farm_that_waits_for_others_ends_when_they_hold_nothing():
    farm = LedFarm(2, waits_for_others=True)
    farm.store.others_hold_tasks = True
    farm.at(20.0, lambda: setattr(farm.store, "others_hold_tasks", False))
    assert 20.0 <= farm.run() < 22.5


# ---- the lock -----------------------------------------------------------------------


def test_a_lock_that_others_hold_for_long_is_told_and_waited_for():
    farm = LedFarm()
    farm.lock.busy_until = START + 100.0
    assert 100.0 < farm.run() < 105.0
    assert [round(moment) for moment in farm.told("still trying")] == [30, 60, 90]
    assert farm.told("on its host: fuser -v ")
    assert sorted(farm.store.records) == [*range(6)]


def test_the_lock_is_tried_each_millisecond_for_a_second_and_then_less_often():
    farm = LedFarm()
    farm.lock.busy_until = START + 3.0
    farm.run()
    tries = farm.lock.tries
    assert 800 <= sum(moment < 1.0 for moment in tries) <= 1001
    assert 150 <= sum(2.0 <= moment < 3.0 for moment in tries) <= 201


def test_signals_are_served_while_others_hold_the_lock():
    farm = LedFarm(seconds=50.0)
    farm.at(1.0, lambda: setattr(farm.lock, "busy_until", START + 60.0))
    farm.signal_at(20.0, SIGUSR2)
    farm.run()
    (moment,) = farm.told("SIGUSR2 was received")
    assert 20.0 <= moment < 20.1


def test_a_stop_gives_a_lock_up_that_others_hold_for_three_seconds():
    farm = LedFarm(seconds=0.5)
    farm.at(0.4, lambda: setattr(farm.lock, "busy_until", START + 600.0))
    farm.signal_at(0.55, SIGUSR1)
    ended = farm.run()
    assert farm.coordinator.storage_failed
    assert 3.5 <= ended < 4.5
    assert farm.store.records == {}
    assert farm.lock.tries[-1] <= ended


def test_a_stop_gives_a_lock_up_at_once_that_was_waited_for_before():
    farm = LedFarm()
    farm.lock.busy_until = START + 600.0
    farm.signal_at(10.0, SIGTERM)
    assert 10.0 <= farm.run() < 10.5
    assert farm.coordinator.storage_failed


def test_a_lock_that_comes_free_within_three_seconds_of_a_stop_is_used():
    farm = LedFarm(seconds=0.5)
    farm.at(0.4, lambda: setattr(farm.lock, "busy_until", START + 2.5))
    farm.signal_at(0.55, SIGUSR1)
    farm.run()
    assert not farm.coordinator.storage_failed
    assert farm.store.held == set()


# ---- a stop in the middle of a transaction ------------------------------------------


@pytest.mark.parametrize("signum", [SIGUSR1, SIGUSR2])
def test_nothing_is_taken_after_a_signal_that_came_while_the_lock_was_in_use(signum):
    farm = LedFarm()
    farm.lock.busy_until = START + 2.0
    farm.signal_at(1.0, signum)
    farm.run()
    assert [take for _, take in farm.store.takes] == [0]
    assert farm.store.toprocess == [*range(6)]
    assert farm.pool.begun == []


def test_results_that_waited_for_the_lock_are_recorded_at_a_stop():
    farm = LedFarm(seconds=0.5)
    farm.at(0.4, lambda: setattr(farm.lock, "busy_until", START + 2.5))
    farm.signal_at(2.0, SIGUSR1)
    farm.run()
    assert len(farm.store.records) == 2
    assert farm.store.held == set()


# ---- a disk that fails --------------------------------------------------------------


def test_a_disk_that_fails_and_comes_back_costs_nothing():
    farm = LedFarm(grace=5.0)
    farm.store.fails_until = START + 3.0
    farm.run()
    assert sorted(farm.store.records) == [*range(6)]
    assert [round(each, 1) for each in farm.told("trying again for 5 s")] == [0.0]
    (moment,) = farm.told("the workdir can be written again")
    assert 3.0 <= moment < 3.2
    tries = [each for each in farm.lock.tries if each < 3.0]
    assert 25 <= len(tries) <= 31
    assert farm.store.prepared >= len(tries)


def test_a_disk_that_fails_for_the_grace_time_stops_the_farm():
    farm = LedFarm(seconds=0.5, grace=2.0)
    farm.at(0.4, lambda: setattr(farm.store, "fails_until", math.inf))
    farm.run()
    assert farm.coordinator.storage_failed
    assert farm.store.records == {}
    assert farm.coordinator.unrecorded != ()
    (moment,) = farm.told("can't write /here/finished: no space left; make room: ")
    assert 2.5 <= moment < 3.2


def test_the_lock_is_given_back_each_time_that_the_disk_fails():
    farm = LedFarm(grace=1.0)
    farm.store.fails_until = math.inf
    farm.run()
    assert not farm.lock.held
    assert farm.lock.tries[-1] < 1.2, "what was given up is not tried again"


class Writing:
    """A writer with a transaction that waits."""

    def __init__(self, grace: float = 60.0) -> None:
        clock = LoopClock()
        self.lock = FakeLock(clock)
        self.store = FakeStore(3, clock, self.lock)
        self._clock = clock
        store: Any = self.store
        lock: Any = self.lock
        self.writer = StoreWriter(store, lock, grace, lambda sentence: None)
        self.writer.begin(Transact((), (), 2), (), START)

    def write(self, seconds: float, *, is_stopping: bool = False) -> Any:
        self._clock.now = START + seconds
        return self.writer.write(self._clock.now, is_stopping=is_stopping)


def test_a_disk_that_fails_is_tried_ten_times_a_second_however_busy_the_rank_is():
    writing = Writing()
    writing.store.fails_until = START + 1.0
    for step in range(100):
        assert writing.write(step / 100) is None
    assert 9 <= len(writing.lock.tries) <= 10
    assert isinstance(writing.write(1.05), Written)
    assert not writing.writer.is_waiting


def test_the_wait_for_the_lock_begins_anew_where_the_disk_has_failed():
    writing = Writing()
    writing.store.fails_until = START + 11.0
    assert writing.write(10.0) is None
    writing.lock.busy_until = math.inf
    assert writing.write(12.9, is_stopping=True) is None
    assert isinstance(writing.write(13.1, is_stopping=True), StorageError)
    assert not writing.writer.is_waiting


# ---- the claim's heartbeat ----------------------------------------------------------


def test_the_claim_is_touched_every_ten_seconds():
    farm = LedFarm(2, seconds=65.0)
    farm.run()
    beats = farm.store.beats
    assert [round(each) for each in beats] == [10, 20, 30, 40, 50, 60]
    assert HEARTBEAT_SECONDS == 10.0


def test_the_claim_is_touched_while_others_hold_the_lock():
    farm = LedFarm()
    farm.lock.busy_until = START + 45.0
    farm.run()
    assert [round(each) for each in farm.store.beats] == [10, 20, 30, 40]


def test_a_claim_that_cannot_be_touched_for_a_moment_is_tried_again_soon():
    farm = LedFarm(2, seconds=25.0, grace=5.0)
    farm.store.beats_fail_until = START + 12.0
    farm.run()
    beats = farm.store.beats
    assert 15 <= sum(each < 12.0 for each in beats) <= 21
    assert [round(each) for each in beats if each > 12.5] == [22]
    assert farm.told("the claim can be written again")
    assert not farm.coordinator.storage_failed


def test_a_claim_that_cannot_be_touched_for_the_grace_time_stops_the_farm():
    farm = LedFarm(2, seconds=60.0, grace=3.0)
    farm.store.beats_fail_until = math.inf
    assert 13.0 <= farm.run() < 17.0
    assert farm.coordinator.storage_failed


def test_what_waits_is_not_written_once_the_claim_was_given_up():
    farm = LedFarm(grace=3.0)
    farm.lock.busy_until = START + 13.5
    farm.store.beats_fail_until = math.inf
    farm.run()
    assert farm.coordinator.storage_failed
    assert farm.store.takes == []


def test_what_waits_is_not_written_while_a_rank_has_yet_to_stop_for_the_claim():
    farm = LedFarm(2, seconds=12.5, size=2, grace=3.0)
    farm.hear_at(0.0, 1, Join("node1", 7, 2))
    farm.store.beats_fail_until = math.inf

    def occupy_the_lock() -> None:
        farm.lock.busy_until = START + 13.5

    def expect_the_failure() -> None:
        assert farm.coordinator.storage_failed
        assert farm.store.records == {}

    farm.at(12.0, occupy_the_lock)
    farm.at(13.4, expect_the_failure)
    farm.hear_at(14.5, 1, Stopped())
    assert farm.run() >= 14.5
    assert farm.store.records == {}


# ---- looks --------------------------------------------------------------------------


def test_a_drain_file_is_seen_within_a_second():
    farm = LedFarm(20, seconds=3.0)
    farm.at(4.0, lambda: setattr(farm.store, "drains", True))
    farm.run()
    (moment,) = farm.told("has a file 'drain' (to go on, remove /here/drain): nothing")
    assert 4.0 <= moment <= 5.1
    assert len(farm.store.records) == 4
    assert farm.store.held == set()


def test_a_launcher_that_is_gone_ends_the_farm(monkeypatch):
    farm = LedFarm(2, seconds=60.0, size=2)
    farm.hear_at(0.0, 1, Join("node1", 7, 2))
    farm.at(5.0, lambda: monkeypatch.setattr("os.getppid", lambda: 1))
    assert farm.run() < 8.0
    (moment,) = farm.told("the launcher is gone")
    assert 5.0 <= moment <= 6.1
    assert farm.comm is not None
    assert Stop(0.0, by_signal=True) in [message for _, message in farm.comm.sent]


def test_a_farm_without_a_launcher_may_lose_its_parent(monkeypatch):
    farm = LedFarm(2, seconds=3.0)
    farm.at(1.0, lambda: monkeypatch.setattr("os.getppid", lambda: 1))
    farm.run()
    assert sorted(farm.store.records) == [0, 1]


def test_the_hosts_are_looked_at_once_when_all_have_joined():
    farm = LedFarm(4, seconds=4.0, size=2)
    seen: list[set[str]] = []

    def describe(hosts: Any) -> str:
        seen.append(hosts)
        return "all on one node"

    farm.leader.watch_hosts(describe, lambda ranks: f"{len([*ranks])} ranks")
    farm.hear_at(2.5, 1, Join("node0", 7, 0))
    farm.run()
    (told,) = farm.told("2 ranks")
    assert 2.5 <= told <= 3.6
    assert seen == [{"node0"}]
    (moment,) = farm.told("all on one node")
    assert 2.5 <= moment <= 3.6


def test_the_ranks_are_told_after_a_while_if_some_do_not_join():
    farm = LedFarm(4, seconds=40.0, size=2)
    farm.leader.watch_hosts(lambda hosts: "", lambda ranks: f"{len([*ranks])} ranks")
    farm.hear_at(38.0, 1, Join("node0", 7, 0))
    farm.run()
    (told,) = farm.told("2 ranks")
    assert JOIN_SECONDS <= told <= JOIN_SECONDS + 2


def test_the_answer_of_the_batch_system_is_told_and_heeded():
    farm = LedFarm(
        20, seconds=5.0, job_end=FakeJobEnd(START + 2.0, deadline=START + 13.0)
    )
    farm.run()
    assert len(farm.told("the job ends at noon")) == 1
    assert farm.coordinator.reason.startswith("the job ends in")
    assert farm.job_end.looks < 50


def test_what_the_store_has_to_say_is_said_once():
    farm = LedFarm(2)
    farm.at(0.5, lambda: farm.store.notes.append("a line of no task"))
    farm.run()
    assert len(farm.told("a line of no task")) == 1


# ---- other ranks --------------------------------------------------------------------


def test_a_rank_that_is_silent_is_asked_and_then_given_up():
    farm = LedFarm(4, seconds=20.0, size=2, policy=Policy(rank_timeout=8.0))
    farm.hear_at(0.0, 1, Join("node1", 7, 2))
    farm.run()
    assert farm.comm is not None
    assert any(isinstance(message, Ping) for _, message in farm.comm.sent)
    (moment,) = farm.told("has not been heard for 8 s and is given up")
    assert 8.0 <= moment < 11.0
    assert sorted(farm.store.records) == [*range(4)]


def test_a_leader_that_was_suspended_gives_nobody_up():
    farm = LedFarm(4, seconds=6.0, size=2, policy=Policy(rank_timeout=8.0))
    farm.hear_at(0.0, 1, Join("node1", 7, 2))

    def suspend() -> None:
        farm.clock.paused = 60.0
        farm.clock.advance(60.0)

    farm.at(3.0, suspend)
    farm.at(67.0, lambda: farm.signals.append(SIGTERM))
    farm.run()
    assert farm.told("is given up") == []


def test_a_leader_that_takes_over_hears_its_own_agent_first_and_then_the_others():
    farm = LedFarm(2, size=2)
    farm.agent.reporter.keeps_results = True
    heard: list[tuple[int, Any]] = []
    farm.coordinator.on_message = lambda rank, message, now: heard.append(  # type: ignore[method-assign]
        (rank, message)
    )
    farm.leader.take_over(farm.agent, [(1, Join("node1", 7, 2))])
    assert [(rank, type(message)) for rank, message in heard] == [
        (0, Rejoin),
        (1, Join),
    ]
    assert not farm.agent.reporter.keeps_results


def test_a_rank_that_takes_over_tells_its_own_results_that_nobody_has_recorded():
    farm = LedFarm(2, size=2)
    reporter = farm.agent.reporter
    reporter.keeps_results = True
    done = result_of(Lease(0, 1, "run 0"), START)
    reporter.note_result(done)
    reporter.create_report(START)  # the lost rank 0 got it
    heard: list[Any] = []
    farm.coordinator.on_message = lambda rank, message, now: heard.append(message)  # type: ignore[method-assign]
    farm.leader.take_over(farm.agent, [])
    assert [message.report.results for message in heard] == [(done,)]


# ---- what users ask ------------------------------------------------------------------


def ask_at(farm: LedFarm, seconds: float, kind: RequestKind, *taskids: int) -> None:
    request = Request(f"at {seconds}", kind, taskids or None, "eve on login1")
    farm.at(seconds, lambda: farm.store.requests.requests.append(request))


def test_a_request_is_heard_within_a_second_and_answered_when_it_is_done() -> None:
    farm = LedFarm(6, seconds=100.0)
    ask_at(farm, 10.0, RequestKind.CANCEL, *range(6))
    assert farm.run() < 10.0 + LOOK_SECONDS + 1.0
    (answer,) = farm.store.requests.answers
    assert sorted(each for fate in answer.fates for each in fate.tasks) == [*range(6)]
    outcomes = {each.result.outcome for each in farm.store.records.values()}
    assert outcomes == {Outcome.CANCELLED}
    assert farm.told("eve on login1 cancels 6 tasks: 0-5")


def test_the_last_answer_is_written_before_the_farm_leaves() -> None:
    farm = LedFarm(1, seconds=100.0)
    ask_at(farm, 10.0, RequestKind.CANCEL, 0)
    farm.lock.rests = True
    farm.run()
    assert len(farm.store.requests.answers) == 1


def test_an_answer_waits_for_the_lock_and_for_the_disk() -> None:
    farm = LedFarm(2, seconds=100.0)
    farm.store.requests.fails = True
    ask_at(farm, 10.0, RequestKind.HOLD)
    farm.at(10.5, lambda: setattr(farm.lock, "busy_until", START + 20.0))
    ask_at(farm, 30.0, RequestKind.RELEASE)
    farm.run()
    assert [each.request for each in farm.store.requests.answers] == [
        "at 10.0",
        "at 30.0",
    ]
    assert farm.store.held_by_users == Held()


def test_the_live_line_says_that_all_is_held() -> None:
    farm = LedFarm(4, seconds=5.0)
    ask_at(farm, 1.0, RequestKind.HOLD)
    ask_at(farm, 60.0, RequestKind.RELEASE)
    assert farm.run() > 60.0
    assert any("all held" in line for line in farm.shown)
    assert sorted(farm.store.records) == [*range(4)]


# ---- each act by itself --------------------------------------------------------------


NO_FAILURES = (Outcome.COMPLETED, Outcome.NOT_RUN)


@pytest.mark.parametrize(
    ("outcome", "is_failure"),
    [
        (Outcome.COMPLETED, False),
        (Outcome.NOT_RUN, False),
        *(
            (each, True)
            for each in Outcome
            if each.name not in ("COMPLETED", "NOT_RUN")
        ),
    ],
)
def test_each_outcome_but_two_is_a_failure_to_tell(outcome, is_failure):
    farm = LedFarm(2)
    noted: list[int] = []
    failures: Any = SimpleNamespace(
        note=lambda _rank, result, _now: noted.append(result.taskid)
    )
    farm.leader._failures = failures
    result = result_of(Lease(1, 1, "x"), START)._replace(outcome=outcome)
    farm.leader._count(0, result)
    assert noted == [1] * is_failure
    assert farm.tally.outcomes[outcome] == 1
    told = [taskid for taskid, _ in farm.store.in_logs]
    assert told == [1] * (outcome is Outcome.LOST)


def test_the_failures_of_a_farm_are_grouped_by_the_attempts_of_each_host():
    farm = LedFarm(2, size=3)
    assert farm.leader.group_failures() is None
    for rank, (host, ended) in enumerate([("n1", 2), ("n2", 3), ("n1", 4)]):
        record = farm.coordinator.ranks[rank]
        record.host, record.ended = host, ended
    failures: Any = SimpleNamespace(group=dict)
    farm.leader._failures = failures
    grouped: Any = farm.leader.group_failures()
    assert grouped == {"n1": 6, "n2": 3}


@pytest.mark.parametrize("is_unknown", [True, False])
def test_an_end_that_is_not_known_is_told_also_where_little_is(is_unknown):
    farm = LedFarm(2)
    farm.job_end.is_unknown = is_unknown
    mentioned: list[str] = []
    output: Any = farm.leader._output
    output.mention = mentioned.append
    farm.leader.tell_job_end()
    assert len(farm.told("the job ends at noon")) == is_unknown
    assert mentioned == ["the job ends at noon"] * (not is_unknown)


def test_a_launcher_that_is_gone_is_told_to_the_coordinator_once(monkeypatch):
    farm = LedFarm(2, size=2)
    gone: list[float] = []
    monkeypatch.setattr(farm.coordinator, "on_launcher_gone", gone.append)
    farm.leader._look_around()
    monkeypatch.setattr("os.getppid", lambda: 1)
    for _ in range(3):
        farm.leader._look_around()
    assert gone == [START]


@pytest.mark.parametrize(
    ("hosts", "after", "told", "seen"),
    [
        (["a", "b"], 0.0, 1, [{"a", "b"}]),
        (["a", ""], 0.0, 0, []),
        (["a", ""], JOIN_SECONDS - 0.001, 0, []),
        (["a", ""], JOIN_SECONDS, 1, []),
    ],
)
def test_hosts_and_ranks_are_described_once_all_are_known(hosts, after, told, seen):
    farm = LedFarm(2, size=2)
    found: list[Any] = []

    def describe(known: Any) -> str:
        found.append({*known})
        return ""

    farm.leader.watch_hosts(describe, lambda ranks: f"{len([*ranks])} ranks")
    for rank, host in enumerate(hosts):
        farm.coordinator.ranks[rank].host = host
    farm.clock.advance(after)
    for _ in range(2):
        farm.leader._look_around()
    assert len(farm.told("2 ranks")) == told
    assert found == seen
    assert farm.told("") == farm.told("2 ranks"), "an empty sentence is not said"


def test_without_mpi_no_hosts_are_described():
    farm = LedFarm(2)
    farm.leader.watch_hosts(lambda hosts: "hosts", lambda ranks: "ranks")
    farm.coordinator.ranks[0].host = "a"
    farm.leader._look_around()
    assert farm.said == []


def test_all_that_a_transaction_has_brought_is_told_to_the_coordinator(monkeypatch):
    farm = LedFarm(4)
    told: list[Any] = []
    monkeypatch.setattr(
        farm.coordinator,
        "on_transacted",
        lambda taken, now, **others: told.append((taken, now, others)),
    )
    farm.store.others_hold_tasks = True
    results = [result_of(Lease(taskid, 1, "x"), START) for taskid in (2, 3)]
    done = Transacted(
        [0, 1],
        True,
        0.25,
        not_run=[(3, "why")],
        more_may_come=True,
        some_wait=True,
        pulled=[7],
        reopened=frozenset({3}),
    )
    transaction = Transact(tuple((0, each) for each in results), (), 2)
    farm.leader._note_written(Written(transaction, done))
    ((taken, now, others),) = told
    assert (taken, now) == ([0, 1], farm.clock.now)
    assert others == {
        "empty": True,
        "others": True,
        "cost": 0.25,
        "order": OrderNews([(3, "why")], True, True),
        "pulled": [7],
        "reopened": frozenset({3}),
    }
    assert farm.tally.ran == 1, "what was opened again is not counted"


def test_the_last_answers_are_written_before_the_end_is_counted(monkeypatch):
    farm = LedFarm(2)
    desk = farm.leader._desk
    monkeypatch.setattr(desk, "close", lambda: farm.order.append("close the desk"))
    farm.run()
    assert farm.order.index("close the desk") < farm.order.index("conclude")


@pytest.mark.parametrize(
    ("started", "worker", "host", "is_now"),
    [(5.0, 3, "node9", False), (0.0, 3, "node9", True), (0.0, None, "", True)],
)
def test_an_attempt_of_which_nobody_told_has_a_time_and_maybe_no_host(
    started, worker, host, is_now
):
    farm = LedFarm(2)
    record = farm.coordinator.ranks[0]
    record.host, record.pid = "node9", 77
    outcome = Outcome.NOT_RUN if worker is None else Outcome.LOST
    result = result_of(Lease(1, 1, "x"), START)._replace(
        started=started, worker_index=worker, outcome=outcome
    )
    found = farm.leader._record(0, result)
    assert (found.host, found.pid, found.rank, found.finished) == (host, 77, 0, False)
    assert (found.result.started > 1e9) is is_now


def test_a_state_has_the_rate_of_its_moment_though_no_line_was_shown(monkeypatch):
    farm, rates = LedFarm(), list[float]()
    states = SimpleNamespace(describe=lambda rate, *_: rates.append(rate))
    monkeypatch.setattr(farm.leader, "_states", states)
    file = SimpleNamespace(write=lambda *_: None)
    monkeypatch.setattr(farm.leader, "_farm_file", file)
    for _ in range(6):
        farm.tally.add(result_of(Lease(1, 1, "x"), START))
    farm.clock.now = START + 3.0
    farm.leader.write_state()
    assert rates == [2.0]
