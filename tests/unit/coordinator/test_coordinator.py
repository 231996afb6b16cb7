"""What rank 0 decides, as facts about whole farms in virtual time.

The farms are of `fakes`: hundreds of ranks, their deaths, signals, slow disks and late
words in milliseconds.  Each is a number (the seed) away from coming again.
"""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest

from mpifarm.coordinator.coordinator import (
    COMMIT_INTERVAL,
    MAX_LOST,
    NO_COMMAND,
    Conclude,
    Coordinator,
    Effect,
    NoteAttempt,
    NoteInLog,
    Phase,
    RankState,
    Send,
    TakeNothing,
    Tell,
    Transact,
)
from mpifarm.coordinator.ending import ANSWER_SECONDS, ANSWER_SECONDS_AT_ONCE
from mpifarm.coordinator.liveness import PING_SECONDS
from mpifarm.coordinator.prefetch import POLL_SECONDS
from mpifarm.coordinator.state import TaskState
from mpifarm.errors import InputError
from mpifarm.model.messages import (
    Assign,
    Drain,
    Join,
    PoolLost,
    Report,
    Shutdown,
    SignalReceived,
    Stop,
    Stopped,
    ToRank,
    Welcome,
)
from mpifarm.model.settings import Policy
from mpifarm.model.task import LAUNCHED_WAIT, Lease, Outcome, Result
from tests.unit.fakes import (
    WAIT,
    Commands,
    SimulatedFarm,
    define_farm,
    rank_set_of,
    sure_report,
)
from tests.unit.virtual_rank import START, Clock, result_of

LATEST_RECORD = 0.2
HOUR = 3600.0

# ---- one coordinator, by hand -------------------------------------------------------


class Hand:
    """A coordinator whose events a test gives one by one."""

    def __init__(
        self,
        tasks: int = 100,
        size: int = 1,
        workers: int = 2,
        timeout: float | None = None,
        grace: float = 2.0,
        *,
        survives_rank_loss: bool = False,
        policy: Policy | None = None,
        deadline: float | None = None,
    ) -> None:
        self.clock = Clock()
        self.coordinator = Coordinator(
            Commands(tasks),
            define_farm(grace),
            rank_set_of(size, workers, survives_rank_loss=survives_rank_loss),
            START,
            policy=policy or Policy(),
            timeout=timeout,
            deadline=deadline,
        )
        self.sent: list[tuple[int, ToRank]] = []
        self.transactions: list[Transact] = []
        self.ends = 0
        self.notes: list[NoteInLog] = []
        self.noted: list[NoteAttempt] = []
        self.told: list[str] = []

    def decide(self, after: float = 0.0) -> list[Effect]:
        now = self.clock.advance(after)
        effects = self.coordinator.decide(now)
        assert self.coordinator.find_violations() == []
        for effect in effects:
            match effect:
                case Send():
                    self.sent.append((effect.rank, effect.message))
                case Transact():
                    self.transactions.append(effect)
                case NoteInLog():
                    self.notes.append(effect)
                case NoteAttempt():
                    self.noted.append(effect)
                case Tell():
                    self.told.append(effect.sentence)
                case Conclude():
                    self.ends += 1
        return effects

    def hear(self, rank: int, message: Any) -> None:
        self.coordinator.on_message(rank, message, self.clock.now)
        assert self.coordinator.find_violations() == []

    def write(self, *taken: int, empty: bool = False) -> Transact:
        """The transaction under way is on disk."""
        now = self.clock.now
        self.coordinator.on_transacted(taken, now, empty=empty, cost=0.0)
        self.decide()
        return self.transactions[-1]

    def begin(self, *taken: int, workers: int = 2, empty: bool = True) -> list[Lease]:
        """Rank 0 is ready, and these tasks are handed to it."""
        self.hear(0, Join("node", 1, workers))
        self.decide()
        self.write(*taken, empty=empty)
        return self.leases(0)

    def leases(self, rank: int) -> list[Lease]:
        assigned = [m for r, m in self.sent if r == rank and isinstance(m, Assign)]
        return [lease for message in assigned for lease in message.leases]

    def report(self, *leases: Lease, status: int = 0, rank: int = 0) -> None:
        """The commands of these leases end just now."""
        now = self.clock.now
        results = tuple(result_of(lease, now, 1.0, status) for lease in leases)
        self.hear(rank, sure_report(now, results))

    def failed_now(self, lease: Lease) -> Result:
        return result_of(lease, self.clock.now, 1.0, status=1)

    def report_of(self, *results: Result) -> Report:
        return sure_report(self.clock.now, results)

    @property
    def recorded(self) -> list[int]:
        return [r.taskid for t in self.transactions for _, r in t.results]

    @property
    def given_back(self) -> list[int]:
        return [taskid for t in self.transactions for taskid in t.requeue]


def welcomes(hand):
    return {rank: m for rank, m in hand.sent if isinstance(m, Welcome)}


def test_a_rank_that_joins_is_welcomed_and_has_work_in_the_same_breath():
    hand = Hand(size=3)
    hand.begin(*range(20))
    assert list(welcomes(hand)) == [0]
    hand.hear(2, Join("node", 3, 2))
    hand.decide()
    said = [message for rank, message in hand.sent if rank == 2]
    assert [type(message) for message in said] == [Welcome, Assign]


def test_the_workers_of_a_node_are_numbered_through_its_ranks():
    hand = Hand(size=4)
    for rank, host, workers in ((1, "a", 4), (0, "a", 2), (3, "b", 2), (2, "a", 8)):
        hand.hear(rank, Join(host, 100 + rank, workers))
    hand.decide()
    first = {rank: welcome.node_worker for rank, welcome in welcomes(hand).items()}
    assert first == {1: 0, 0: 4, 2: 6, 3: 0}


@pytest.mark.parametrize("signum", [SIGUSR1, SIGUSR2])
def test_a_rank_that_joins_a_farm_that_is_ending_starts_no_pool(signum):
    hand = Hand(size=2)
    hand.begin(0)
    hand.hear(0, SignalReceived(signum))
    hand.decide()
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    assert list(welcomes(hand)) == [0]
    assert hand.leases(1) == []


def test_the_first_take_is_one_task_for_each_worker():
    hand = Hand(size=3, workers=5)
    hand.decide()
    assert [transaction.take for transaction in hand.transactions] == [15]


def test_a_lease_carries_the_text_of_its_task():
    hand = Hand()
    assert hand.begin(7) == [Lease(7, 1, "run 7")]


def test_a_list_without_anything_to_do_ends_at_once():
    hand = Hand(size=2)
    hand.decide()
    hand.write(empty=True)
    assert [rank for rank, m in hand.sent if isinstance(m, Shutdown)] == [1, 0]
    assert hand.ends == 1


@pytest.mark.parametrize("signum", [SIGTERM, SIGINT, SIGHUP])
def test_term_int_and_hup_stop_without_grace(signum):
    hand = Hand(size=2)
    hand.begin(0, 1)
    hand.hear(1, SignalReceived(signum))
    hand.decide()
    stops = [(rank, m) for rank, m in hand.sent if isinstance(m, Stop)]
    assert stops == [(0, Stop(0.0, by_signal=True)), (1, Stop(0.0, by_signal=True))]


def test_usr1_stops_with_the_grace_of_the_farm():
    hand = Hand(size=2, grace=7.0)
    hand.hear(1, SignalReceived(SIGUSR1))
    hand.decide()
    assert [m for _, m in hand.sent if isinstance(m, Stop)] == [
        Stop(7.0, by_signal=True)
    ] * 2


def test_a_stop_tells_what_ran_when_it_began():
    hand = Hand()
    hand.begin(0)
    assert hand.coordinator.count_running() == 1
    hand.hear(0, SignalReceived(SIGUSR1))
    hand.hear(0, Stopped())
    hand.decide()
    assert hand.told == [
        "SIGUSR1 was received: 1 task running, ended now and run again next time"
    ]
    assert hand.coordinator.count_running() == 0


def test_a_drain_and_the_stop_after_it_are_told_once_each():
    hand = Hand()
    hand.begin(0)
    for signum in (SIGUSR2, SIGUSR2, SIGUSR1, SIGUSR1):
        hand.hear(0, SignalReceived(signum))
    hand.decide()
    assert hand.told == [
        "SIGUSR2 was received: nothing more is started, 1 task still running",
        "SIGUSR1 was received: 1 task running, ended now and run again next time",
    ]


def test_a_launcher_that_is_gone_stops_the_farm_at_once():
    hand = Hand()
    hand.begin(0)
    hand.coordinator.on_launcher_gone(hand.clock.now)
    hand.decide()
    assert hand.told[0] == "the launcher is gone"
    assert hand.told[1].startswith("SIGTERM was received: 1 task running")
    assert [m for _, m in hand.sent if isinstance(m, Stop)] == [
        Stop(0.0, by_signal=True)
    ]


@pytest.mark.parametrize("signum", [SIGUSR1, SIGUSR2])
def test_a_transaction_under_way_takes_nothing_after_a_signal(signum):
    hand = Hand()
    hand.hear(0, Join("node", 100, 2))
    effects = hand.decide()
    assert isinstance(effects[-1], Transact)
    assert effects[-1].take > 0
    hand.hear(0, SignalReceived(signum))
    assert [each for each in hand.decide() if isinstance(each, TakeNothing)] == [
        TakeNothing()
    ]


def test_the_farm_concludes_after_all_else_and_before_a_rank_is_told_to_leave():
    hand = Hand(size=2)
    hand.hear(0, SignalReceived(SIGUSR1))
    for rank in (0, 1):
        hand.hear(rank, Stopped())
    effects = hand.decide()
    at = effects.index(Conclude())
    assert [type(each) for each in effects[:at]] == [Tell, Send, Send]
    assert [
        (each.rank, type(each.message))
        for each in effects[at + 1 :]
        if isinstance(each, Send)
    ] == [(1, Shutdown), (0, Shutdown)]


def test_term_hastens_a_stop_under_way_and_a_second_term_changes_nothing():
    hand = Hand(grace=60.0)
    hand.begin(0)
    hand.hear(0, SignalReceived(SIGUSR1))
    hand.decide()
    hand.hear(0, SignalReceived(SIGTERM))
    hand.hear(0, SignalReceived(SIGTERM))
    hand.decide(0.01)
    assert [m for _, m in hand.sent if isinstance(m, Stop)] == [
        Stop(60.0, by_signal=True),
        Stop(0.0, by_signal=True),
    ]
    hand.decide(ANSWER_SECONDS_AT_ONCE)
    assert hand.given_back == [0]


def test_usr1_does_not_slow_a_stop_without_grace():
    hand = Hand()
    hand.begin(0)
    hand.hear(0, SignalReceived(SIGTERM))
    hand.hear(0, SignalReceived(SIGUSR1))
    hand.decide()
    assert [m for _, m in hand.sent if isinstance(m, Stop)] == [
        Stop(0.0, by_signal=True)
    ]


def test_usr2_gives_back_what_is_queued_and_waits_for_what_runs():
    hand = Hand(workers=1)
    (lease,) = hand.begin(0, 1, 2, workers=1)
    hand.hear(0, SignalReceived(SIGUSR2))
    hand.decide()
    assert hand.sent[-1] == (0, Drain())
    assert sorted(hand.given_back) == [1, 2]
    hand.write()
    assert hand.ends == 0
    hand.report(lease)
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == [0]
    hand.write()
    assert hand.ends == 1


def test_tasks_taken_while_a_drain_begins_are_given_back():
    hand = Hand()
    hand.decide()
    hand.coordinator.on_drain("a file")
    hand.decide()
    hand.write(4, 5)
    assert hand.given_back == [4, 5]
    assert hand.leases(0) == []


def test_usr2_during_a_stop_changes_nothing():
    hand = Hand()
    hand.begin(0)
    hand.hear(0, SignalReceived(SIGUSR1))
    hand.hear(0, SignalReceived(SIGUSR2))
    hand.decide()
    assert hand.coordinator.phase is Phase.STOPPING
    assert not [m for _, m in hand.sent if isinstance(m, Drain)]


# ---- results that are not sure yet --------------------------------------------------


def unsure(hand, *leases, status=0, rank=0):
    """The commands of these leases end just now, and the rank is not sure yet."""
    now = hand.clock.now
    results = tuple(result_of(lease, now, 1.0, status) for lease in leases)
    hand.hear(rank, Report(now, results, sure=now - WAIT))


def test_no_result_is_recorded_before_its_rank_is_sure_of_it():
    hand = Hand()
    ended = hand.clock.now
    lease, _ = hand.begin(0, 1)
    unsure(hand, lease)
    hand.decide(0.5)
    assert hand.recorded == []
    assert hand.coordinator.count_running() == 1  # it has ended all the same
    hand.hear(0, Report(hand.clock.now, sure=ended - 1e-9))
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == []
    hand.hear(0, Report(hand.clock.now, sure=ended))
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == [0]


def test_the_worker_of_a_result_that_is_not_sure_gets_another_task_at_once():
    hand = Hand(workers=1)
    (lease,) = hand.begin(0, 1, workers=1)
    unsure(hand, lease)
    hand.decide()
    assert [lease.taskid for lease in hand.leases(0)] == [0, 1]


def two_ranks(*more):
    """A farm of two ranks of one worker, each with a lease; `more` tasks are taken."""
    hand = Hand(size=2, workers=1)
    (lease,) = hand.begin(0, workers=1, empty=False)
    hand.hear(1, Join("node", 2, 1))
    hand.decide()
    hand.write(1, *more, empty=True)
    (other,) = hand.leases(1)
    return hand, lease, other


def test_a_rank_that_is_not_sure_keeps_no_other_from_the_disk():
    hand, lease, other = two_ranks()
    unsure(hand, lease)
    hand.report(other, rank=1)
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == [1]


def test_the_clocks_of_ranks_are_their_own():
    hand = Hand()
    (lease,) = hand.begin(0)
    hand.hear(0, Report(55.0, (result_of(lease, 54.8),), sure=54.7))
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == []
    hand.hear(0, Report(56.0, sure=54.9))
    hand.decide()
    assert hand.recorded == [0]


def test_the_group_commit_is_as_quick_as_the_documents_promise():
    assert COMMIT_INTERVAL <= 0.1
    assert ANSWER_SECONDS == 0.5
    assert ANSWER_SECONDS_AT_ONCE <= 0.1


def test_the_last_results_do_not_wait_for_others():
    hand = Hand()
    hand.report(*hand.begin(0, 1))
    hand.decide()
    assert sorted(hand.recorded) == [0, 1]


@pytest.mark.parametrize("status", [0, 1, -SIGTERM, -SIGUSR1, 143])
@pytest.mark.parametrize("signum", [SIGTERM, SIGUSR1, SIGINT, SIGHUP])
def test_what_is_not_sure_when_a_signal_comes_is_given_back_whatever_its_status(
    status, signum
):
    hand = Hand()
    lease, _ = hand.begin(0, 1)
    unsure(hand, lease, status=status)
    hand.decide(0.01)
    hand.hear(0, SignalReceived(signum))
    hand.hear(0, Stopped())
    hand.decide()
    assert sorted(hand.given_back) == [0, 1]
    assert hand.recorded == []


@pytest.mark.parametrize("signum", [SIGTERM, SIGUSR1])
def test_what_was_sure_when_a_signal_came_is_recorded(signum):
    hand = Hand()
    lease, _ = hand.begin(0, 1)
    ended = hand.clock.now
    unsure(hand, lease)
    hand.decide(0.3)
    hand.hear(0, SignalReceived(signum, sure=ended))
    hand.hear(0, Stopped())
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == [0]
    assert hand.given_back == [1]


def test_a_signal_to_one_rank_voids_nothing_of_another():
    hand, lease, other = two_ranks()
    unsure(hand, lease)
    ended = hand.clock.now
    unsure(hand, other, rank=1)
    hand.hear(0, SignalReceived(SIGUSR1))
    hand.decide(0.1)
    hand.hear(1, Report(hand.clock.now, sure=ended))
    for rank in (0, 1):
        hand.hear(rank, Stopped())
    hand.decide(COMMIT_INTERVAL)
    hand.write()
    hand.decide(COMMIT_INTERVAL)
    assert (hand.recorded, hand.given_back) == ([1], [0])


@pytest.mark.parametrize("status", [0, 1, -SIGTERM])
def test_a_result_that_comes_after_the_signal_is_given_back_whatever_its_status(status):
    hand = Hand()
    leases = hand.begin(0, 1)
    hand.hear(0, SignalReceived(SIGUSR1))
    hand.decide(0.5)
    unsure(hand, *leases, status=status)
    hand.decide(COMMIT_INTERVAL)
    assert sorted(hand.given_back) == [0, 1]
    assert hand.recorded == []


def test_what_ended_before_the_timeout_is_recorded():
    hand = Hand(timeout=10.0)
    lease, _ = hand.begin(0, 1)
    hand.clock.advance(9.99)
    ended = hand.clock.now
    unsure(hand, lease)
    hand.decide(0.02)
    assert hand.coordinator.phase is Phase.STOPPING
    assert "timeout" in hand.coordinator.reason
    assert hand.sent[-1] == (0, Stop(2.0, by_signal=False))
    hand.hear(0, Report(hand.clock.advance(WAIT), sure=ended))
    hand.hear(0, Stopped())
    hand.decide()
    assert hand.given_back == [1]
    assert hand.recorded == [0]


@pytest.mark.parametrize("signum", [SIGTERM, SIGUSR1])
def test_a_signal_just_after_the_timeout_still_voids_what_ended_before_it(signum):
    """Slurm's own limit comes about when ours does, and reaches the commands too."""
    hand = Hand(timeout=10.0)
    lease, _ = hand.begin(0, 1)
    hand.clock.advance(9.99)
    unsure(hand, lease, status=-signum)
    hand.decide(0.02)
    hand.hear(0, SignalReceived(signum))
    hand.hear(0, Stopped())
    hand.decide()
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == []
    assert sorted(hand.given_back) == [0, 1]


def test_ranks_are_told_that_a_signal_came_after_a_stop_that_none_had_begun():
    hand = Hand(timeout=10.0)
    hand.begin(0)
    hand.decide(10.0)
    hand.hear(0, SignalReceived(SIGUSR1))
    hand.hear(0, SignalReceived(SIGUSR1))
    hand.decide()
    stops = [message for _, message in hand.sent if isinstance(message, Stop)]
    assert stops == [Stop(2.0, by_signal=False), Stop(2.0, by_signal=True)]


def test_what_a_lost_rank_was_not_sure_of_runs_again():
    hand, lease, first = two_ranks(2)
    hand.report(first, rank=1)
    hand.decide()
    _, second = hand.leases(1)
    now = hand.clock.advance(1.0)
    hand.hear(1, Report(now, (result_of(second, now),), sure=now - WAIT))
    hand.coordinator.on_ranks_lost([1], now)
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == [first.taskid]
    assert hand.leases(0) == [lease]
    task = hand.coordinator.table.tasks[second.taskid]
    assert (task.state, task.lost, task.result) == (TaskState.QUEUED, 0, None)
    assert not task.may_kill_ranks


def test_a_stop_without_signal_waits_until_a_rank_is_sure_of_what_mpirun_ran():
    hand = Hand(size=2, timeout=10.0, grace=0.0)
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.decide(10.0)
    hand.hear(0, Stopped())
    hand.decide(LAUNCHED_WAIT + 0.9 * ANSWER_SECONDS)
    assert hand.coordinator.lost_ranks() == []
    hand.decide(0.2 * ANSWER_SECONDS)
    assert hand.coordinator.lost_ranks() == [1]


def test_the_timeout_counts_from_the_start_of_the_farm():
    hand = Hand(timeout=10.0)
    hand.begin(0)
    hand.decide(9.9)
    assert hand.coordinator.reason == ""
    assert hand.coordinator.wake_at(hand.clock.now) <= START + 10.0
    hand.decide(0.1)
    assert hand.coordinator.phase is Phase.STOPPING


# ---- late and repeated answers ------------------------------------------------------


def test_a_repeated_result_is_recorded_once():
    hand = Hand()
    (lease,) = hand.begin(0)
    hand.report(lease)
    hand.report(lease)
    hand.decide(COMMIT_INTERVAL)
    hand.report(lease)
    hand.write(empty=True)
    hand.report(lease)
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == [0]


def test_a_result_of_another_rank_or_of_an_old_attempt_changes_nothing():
    hand = Hand(size=2)
    (lease,) = hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.report(lease, rank=1)
    hand.hear(0, sure_report(1.0, lost=((0, 1),)))
    hand.decide()
    hand.report(lease)
    hand.hear(0, sure_report(1.0, returned=((0, 1),), lost=((0, 1),)))
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == []
    assert hand.coordinator.table.tasks[0].attempt == 2
    assert hand.coordinator.table.tasks[0].lost == 1


def test_a_rank_that_was_given_up_is_not_heard_any_more():
    hand = Hand(size=2)
    (lease,) = hand.begin(0)
    hand.hear(0, SignalReceived(SIGTERM))
    hand.decide()
    hand.decide(ANSWER_SECONDS_AT_ONCE)
    assert hand.coordinator.ranks[0].state is RankState.LOST
    hand.report(lease)
    hand.hear(0, Stopped())
    hand.hear(0, Join("node", 1, 2))
    assert hand.coordinator.ranks[0].state is RankState.LOST
    assert hand.given_back == [0]


class SomeCommands(Commands):
    """A handler that has no command for task 1."""

    def __getitem__(self, taskid):
        if taskid == 1:
            raise InputError("the handler gave no command for task 1")
        return super().__getitem__(taskid)


def test_a_task_without_a_command_has_failed_and_the_others_run():
    hand = Hand()
    hand.coordinator.dispatcher.commands = SomeCommands(10)
    leases = hand.begin(0, 1, 2, workers=4)
    assert [lease.taskid for lease in leases] == [0, 2]
    assert hand.notes == [NoteInLog(1, "the handler gave no command for task 1")]
    hand.report(*leases)
    hand.decide(COMMIT_INTERVAL)
    assert sorted(hand.recorded) == [0, 1, 2]
    (failed,) = [r for t in hand.transactions for _, r in t.results if r.taskid == 1]
    assert (failed.outcome, failed.status) == (Outcome.FAILED, NO_COMMAND)


class LaterCommands(Commands):
    """A handler that has no command for the first two tasks."""

    def __getitem__(self, taskid):
        if taskid in (0, 1):
            raise InputError("the handler gave no command")
        return super().__getitem__(taskid)


def test_a_rank_whose_tasks_all_had_no_command_gets_others():
    hand = Hand()
    hand.coordinator.dispatcher.commands = LaterCommands(10)
    assert hand.begin(0, 1, empty=False) == []
    for _ in range(20):
        hand.decide(0.1)
        if hand.coordinator.table.transaction:
            hand.write(2, 3)
        if hand.leases(0):
            break
    assert [lease.taskid for lease in hand.leases(0)] == [2, 3]


def test_a_result_from_before_a_signal_that_was_heard_late_does_not_count():
    hand = Hand(size=2)
    (lease,) = hand.begin(7)
    hand.decide(1.0)
    hand.write(empty=True)
    came = hand.clock.now + 0.01
    hand.clock.advance(0.6)  # rank 0 wrote to a slow disk
    hand.hear(0, SignalReceived(SIGUSR1, sure=came - WAIT))
    hand.decide()
    now = hand.clock.advance(0.1)
    hand.hear(0, Report(now, (result_of(lease, came, 1.0),), sure=came - WAIT))
    hand.hear(0, Stopped())
    hand.hear(1, Stopped())
    hand.decide(0.01)
    assert (hand.recorded, hand.given_back) == ([], [7])


def test_ranks_are_told_to_leave_mpi_alone_where_one_was_given_up():
    hand = Hand(size=3)
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.hear(0, SignalReceived(SIGTERM))
    hand.decide()
    for rank in (0, 1):
        hand.hear(rank, Stopped())
    hand.decide(ANSWER_SECONDS_AT_ONCE)
    hand.write()
    assert hand.ends == 1
    leaves = [message for _, message in hand.sent if isinstance(message, Shutdown)]
    assert leaves == [Shutdown(ranks_lost=True, aborts=True)] * 3


def test_a_lease_returned_unstarted_does_not_count_as_an_attempt():
    hand = Hand()
    (lease,) = hand.begin(0)
    hand.hear(0, sure_report(1.0, returned=((0, 1),)))
    hand.decide()
    assert hand.leases(0) == [lease, lease]


def test_a_lease_whose_worker_was_lost_counts_as_an_attempt():
    hand = Hand()
    (lease,) = hand.begin(0)
    hand.hear(0, sure_report(1.0, lost=((0, 1),)))
    hand.decide()
    assert hand.leases(0) == [lease, lease._replace(attempt=2)]


def test_a_task_that_loses_its_worker_each_time_is_failed_as_lost():
    hand = Hand()
    hand.begin(0)
    for attempt in range(1, MAX_LOST + 1):
        hand.hear(0, sure_report(1.0, lost=((0, attempt),)))
        hand.decide()
    assert len(hand.leases(0)) == MAX_LOST
    hand.decide(COMMIT_INTERVAL)
    (transaction,) = [t for t in hand.transactions if t.results]
    ((rank, result),) = transaction.results
    assert (rank, result.taskid, result.attempt) == (0, 0, MAX_LOST)
    assert result.outcome is Outcome.LOST
    assert result.status != 0


def test_a_lost_worker_says_nothing_about_how_long_tasks_take():
    hand = Hand(workers=8)
    leases = hand.begin(*range(8), workers=8, empty=False)
    for attempt in range(1, MAX_LOST + 1):
        hand.hear(0, sure_report(1.0, lost=((leases[0].taskid, attempt),)))
        hand.decide()
    assert hand.coordinator.dispatcher.room.of(hand.coordinator.ranks[0]) == 8


def test_a_worker_lost_while_the_farm_stops_gives_its_task_back():
    hand = Hand()
    hand.begin(0)
    for attempt in range(1, MAX_LOST):
        hand.hear(0, sure_report(1.0, lost=((0, attempt),)))
        hand.decide()
    hand.hear(0, SignalReceived(SIGUSR1))
    hand.hear(0, sure_report(1.0, lost=((0, MAX_LOST),)))
    hand.decide()
    assert hand.given_back == [0]


def test_what_a_lost_pool_held_goes_to_another_rank():
    hand = Hand(size=2)
    first = hand.begin(0, 1)
    hand.hear(0, PoolLost())
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    again = hand.leases(1)
    assert [lease.taskid for lease in again] == [lease.taskid for lease in first]
    assert {lease.attempt for lease in again} == {2}


def test_a_farm_whose_ranks_are_all_gone_stops_and_gives_all_back():
    hand = Hand(size=2)
    hand.begin(0, 1, 2)
    hand.hear(1, Join("node", 2, 2))
    hand.hear(0, PoolLost())
    hand.hear(1, PoolLost())
    hand.decide()
    hand.decide()
    hand.write()
    assert sorted(hand.given_back) == [0, 1, 2]
    assert hand.ends == 1
    assert "no rank" in hand.coordinator.reason


# ---- the end ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signum", "wait"),
    [(SIGUSR1, 2.0 + ANSWER_SECONDS), (SIGTERM, ANSWER_SECONDS_AT_ONCE)],
)
def test_a_silent_rank_is_given_up_and_what_it_held_is_given_back(signum, wait):
    farm = SimulatedFarm(100, ranks=3, workers=4, seconds=HOUR)
    farm.run(1.0)
    farm.ranks[1].silent = True
    farm.signal(signum)
    farm.run()
    assert farm.ended_at is not None
    assert wait <= farm.ended_at - (START + 1.0) < wait + 0.05
    # the silent one too: it may only be late
    assert farm.counts.leaves == {0: 1, 1: 1, 2: 1}
    assert farm.disk.held == set()
    assert farm.disk.find_unaccounted() == []
    assert farm.disk.left == 100


def test_end_waits_for_the_transaction_under_way():
    farm = SimulatedFarm(4, ranks=1, workers=4, seconds=0.5, disk_seconds=3.0)
    farm.run()
    assert farm.ended_at is not None
    assert farm.ended_at == pytest.approx(max(r.at for r in farm.disk.records.values()))
    assert farm.counts.ends == 1


def test_nothing_is_said_to_a_rank_after_leave():
    hand = Hand(tasks=1)
    (lease,) = hand.begin(0)
    hand.decide(PING_SECONDS - 0.3)
    hand.write(empty=True)
    hand.report(lease)
    hand.decide(0.01)
    hand.clock.advance(0.1)  # the disk takes its time, and a ping is due
    hand.write(empty=True)
    assert hand.ends == 1
    assert hand.sent[-1] == (0, Shutdown())


def test_the_last_look_finds_a_task_that_another_farmer_has_put_back():
    farm = SimulatedFarm(4, ranks=1, workers=4, seconds=30.0)
    farm.disk.toprocess.remove(2)  # another farmer runs it
    farm.at(START + 30.0 + WAIT - 0.01, lambda: farm.disk.toprocess.append(2))
    farm.run()
    assert sorted(farm.disk.records) == [0, 1, 2, 3]


def test_the_last_look_comes_with_or_after_the_last_record():
    for seed in range(10):
        farm = SimulatedFarm(30, 3, 4, lambda t: 0.1 + t % 7, seed=seed, delay=0.1)
        farm.run()
        last = max(record.at for record in farm.disk.records.values())
        assert farm.disk.emptied_at[-1] >= last


def test_tasks_that_others_put_in_while_the_farm_idles_are_run():
    farm = SimulatedFarm(4, ranks=2, workers=4, seconds=20.0)
    farm.at(START + 10.0, lambda: farm.disk.toprocess.extend([5, 6, 7]))
    farm.run()
    assert sorted(farm.disk.records) == [0, 1, 2, 3, 5, 6, 7]
    assert farm.ended_at is not None
    assert farm.ended_at < START + 10.0 + POLL_SECONDS + 20.0 + 1.0


def test_a_list_that_others_empty_is_no_task_of_ours():
    farm = SimulatedFarm(1000, ranks=2, workers=4, seconds=1.0)
    farm.at(START + 3.5, farm.disk.toprocess.clear)
    farm.run()
    assert set(farm.disk.records) == set(farm.disk.taken)
    assert len(farm.disk.records) < 100


def test_a_farm_that_waits_for_others_runs_what_they_give_back():
    farm = SimulatedFarm(4, 2, 2, seconds=5.0, waits_for_others=True)
    farm.disk.toprocess.remove(1)
    farm.disk.with_others = 1

    def others_give_back() -> None:
        farm.disk.with_others = 0
        farm.disk.toprocess.append(1)

    farm.at(START + 60.0, others_give_back)
    farm.run()
    assert sorted(farm.disk.records) == [0, 1, 2, 3]
    assert farm.ended_at == pytest.approx(START + 60.0 + 5.0, abs=POLL_SECONDS + 1.0)
    assert len(farm.disk.takes) < 1.2 * 60.0 / POLL_SECONDS + 5
    assert farm.counts.spins == 0


def test_a_farm_does_not_wait_for_others_unless_told_to():
    farm = SimulatedFarm(4, 2, 2, seconds=5.0)
    farm.disk.with_others = 1
    farm.run()
    assert farm.ended_at is not None
    assert farm.ended_at < START + 6.0


def test_after_a_failure_of_the_storage_nothing_is_written_and_the_farm_ends():
    farm = SimulatedFarm(100, ranks=2, workers=4, seconds=1.0)
    farm.run(1.5)
    farm.disk_fails = True
    recorded = len(farm.disk.records)
    farm.run()
    assert farm.counts.ends == 1
    assert len(farm.disk.records) == recorded
    assert farm.coordinator.storage_failed
    assert "full" in farm.coordinator.reason
    unrecorded = farm.coordinator.unrecorded
    assert set(unrecorded) <= {taskid for taskid, _ in farm.ends}
    ended = {t for (t, _), ended in farm.ends.items() if ended < START + 1.5}
    assert set(unrecorded) >= ended - set(farm.disk.records)


# ---- whole farms, whatever befalls them ---------------------------------------------


def trouble(farm: SimulatedFarm, luck: random.Random) -> None:
    """Something befalls a rank."""
    rank = luck.choice(farm.ranks)
    befall: list[Callable[[], None]] = [
        rank.lose_worker,
        rank.lose_worker,
        rank.lose_worker,
        lambda: farm.hold_words_of(rank.rank, luck.uniform(0, 3)),
        lambda: farm.disk.toprocess.extend(_taken_by_others(farm, luck)),
    ]
    if luck.random() < 0.3:
        befall.append(rank.lose_pool)
    luck.choice(befall)()


def _taken_by_others(farm: SimulatedFarm, luck: random.Random) -> list[int]:
    """Other farmers take some tasks, and put one of them back."""
    count = min(farm.disk.left, luck.randrange(5))
    taken = [farm.disk.toprocess.pop() for _ in range(count)]
    return taken[:1]


def troubled_farm(seed: int) -> SimulatedFarm:
    luck = random.Random(seed)
    mean = 10 ** luck.uniform(-2, 1)
    times = [luck.expovariate(1 / mean) for _ in range(997)]
    farm = SimulatedFarm(
        luck.choice([0, 1, 7, 100, 400]),
        ranks=luck.choice([1, 2, 5, 30]),
        workers=luck.choice([1, 2, 8]),
        seconds=lambda taskid: times[taskid % 997],
        seed=seed,
        grace=luck.choice([0.0, 0.5, 2.0]),
        timeout=luck.choice([None, None, luck.uniform(0, 20)]),
        delay=luck.choice([0.0001, 0.002, 0.05]),
        disk_seconds=luck.choice([0.0, 0.005, 0.3]),
    )
    farm.status = lambda taskid: taskid % 3 % 2
    for _ in range(luck.randrange(20)):
        farm.at(START + luck.uniform(0, 5 * mean), lambda: trouble(farm, luck))
    return farm


@pytest.mark.parametrize("seed", range(40))
def test_every_task_taken_is_recorded_once_or_given_back_once(seed):
    farm = troubled_farm(seed)
    farm.run(600.0)
    assert farm.ended_at is not None
    assert farm.counts.ends == 1
    assert farm.disk.held == set()
    assert farm.disk.find_unaccounted() == []
    assert all(rank.left for rank in farm.ranks)
    assert max(farm.started.values(), default=1) == 1, "an attempt was started twice"
    # words that were held may be late, but never early
    ages = [
        farm.age_at_record(record)
        for record in farm.disk.records.values()
        if record.result.outcome is not Outcome.LOST
    ]
    assert min(ages, default=WAIT) >= WAIT - 1e-9


@pytest.mark.parametrize("signum", [SIGTERM, SIGINT, SIGHUP, SIGUSR1])
@pytest.mark.parametrize("seed", range(10))
def test_a_signal_at_any_time_ends_the_farm_and_nothing_that_it_hit_is_recorded(
    seed, signum
):
    """As under Slurm: the signal comes to all ranks, and to the commands."""
    farm = troubled_farm(seed + 1000)
    luck = random.Random(seed)
    moment = START + luck.uniform(0, 5)
    deaf = luck.sample(farm.ranks, len(farm.ranks) // 4)

    def come() -> None:
        for rank in deaf:
            rank.silent = True
        for rank in farm.ranks:
            rank.signal_commands(signum, share=0.5)
        for rank in farm.ranks:
            rank.get_signal(signum)

    farm.at(moment, come)
    farm.run(1000.0)
    assert farm.ended_at is not None
    assert farm.disk.held == set()
    assert farm.disk.find_unaccounted() == []
    for record in farm.disk.records.values():
        attempt = (record.result.taskid, record.result.attempt)
        # a farm may have ended before, or have been draining and end by itself
        assert farm.ends[attempt] <= moment - WAIT or record.at < moment


def test_a_stop_without_grace_gives_back_within_0_2_seconds_of_the_signal():
    farm = SimulatedFarm(
        10_000, ranks=200, workers=8, seconds=HOUR, disk_seconds=0.01, checked=False
    )
    farm.run(5.0)
    farm.ranks[17].silent = True
    for rank in farm.ranks:
        rank.get_signal(SIGTERM)
    farm.run()
    assert farm.ended_at is not None
    assert farm.ended_at - (START + 5.0) < 0.2
    assert farm.disk.left == 10_000


@pytest.mark.parametrize("seed", range(5))
def test_a_result_is_recorded_soon_when_the_disk_answers_at_once(seed):
    luck = random.Random(seed)
    times = [luck.expovariate(1 / 0.5) for _ in range(997)]
    farm = SimulatedFarm(700, 10, 8, lambda t: times[t % 997], seed=seed)
    farm.run()
    ages = [farm.age_at_record(record) for record in farm.disk.records.values()]
    assert min(ages) >= WAIT - 1e-9
    assert max(ages) <= LATEST_RECORD


def test_hundreds_of_ranks_share_a_list():
    farm = SimulatedFarm(3000, ranks=300, workers=4, seconds=2.0, checked=False)
    farm.run()
    assert len(farm.disk.records) == 3000
    assert farm.ended_at is not None
    # ceil(3000 / 1200) rounds of 2 s
    assert farm.ended_at - START < 3 * 2.0 + 1.0


@pytest.mark.parametrize("seed", range(10))
def test_a_drain_records_what_runs_and_gives_back_the_rest(seed):
    farm = SimulatedFarm(500, 5, 4, lambda t: 0.5 + t % 5, seed=seed, disk_seconds=0.05)
    farm.at(START + 3.3, lambda: farm.signal(SIGUSR2, rank=3))
    farm.run()
    assert farm.disk.held == set()
    assert {taskid for taskid, _ in farm.started} == set(farm.disk.records)
    assert len(farm.disk.records) + farm.disk.left == 500


# ---- how much is taken, and how often -----------------------------------------------


def test_with_a_short_queue_every_hungry_rank_gets_some():
    farm = SimulatedFarm(12, ranks=10, workers=8, seconds=HOUR, disk_seconds=0.1)
    farm.run(5.0)
    assert min(rank.most_leases for rank in farm.ranks) >= 1
    assert max(rank.most_leases for rank in farm.ranks) <= 8


def test_a_queue_too_short_for_the_hungry_ranks_is_shared_equally():
    hand = Hand(size=4, workers=8)
    hand.decide()
    for rank in range(4):
        hand.hear(rank, Join("node", rank, 8))
    hand.write(*range(10))
    assert [len(hand.leases(rank)) for rank in range(4)] == [3, 3, 2, 2]


def test_what_comes_with_the_news_that_no_more_does_is_handed_out_ahead():
    """What a rank may have ahead is a share of the queue, these tasks included."""
    hand = Hand(size=2)
    for rank in range(2):
        hand.hear(rank, Join(f"node{rank}", rank, 2))
    hand.decide()
    for record in hand.coordinator.ranks.values():
        record.ended, record.mean = 1000, 0.001  # it gets so much done
    hand.write(0, 1, 2, 3)
    hand.decide(0.2)
    assert hand.coordinator.table.transaction
    hand.write(*range(4, 24), empty=True)
    assert min(len(hand.leases(rank)) for rank in range(2)) > 2


def test_with_tasks_of_an_hour_no_rank_gets_more_than_its_workers_run():
    farm = SimulatedFarm(300, ranks=10, workers=4, seconds=HOUR, delay=0.05)
    farm.run(5 * HOUR)
    assert len(farm.disk.records) > 100
    # a result may be on its way, and its place taken already
    assert max(rank.most_leases for rank in farm.ranks) <= 4
    assert len(farm.disk.held) <= 2 * 40


def fast_farm(disk_seconds: float) -> SimulatedFarm:
    """30 000 tasks at 3 000 a second."""
    return SimulatedFarm(
        30_000,
        ranks=8,
        workers=4,
        seconds=32 / 3000,
        delay=0.002,
        disk_seconds=disk_seconds,
        checked=False,
    )


@pytest.mark.parametrize("disk_seconds", [0.002, 0.02])
def test_fast_tasks_are_handed_out_ahead_and_taken_seldom(disk_seconds):
    farm = fast_farm(disk_seconds)
    farm.run()
    assert len(farm.disk.records) == 30_000
    assert farm.ended_at is not None
    assert farm.ended_at - START < 1.1 * 10.0 + 1.0
    assert max(rank.most_leases for rank in farm.ranks) > 2 * 4
    # one a second, those of the beginning and of the end
    assert farm.counts.takes < 10 + 20


def test_results_are_written_in_groups_to_the_last():
    farm = fast_farm(0.002)
    farm.run()
    assert farm.ended_at is not None
    assert farm.counts.transactions < 1.5 * (farm.ended_at - START) / COMMIT_INTERVAL


@pytest.mark.parametrize(("cost", "most"), [(0.01, 13), (0.3, 3)])
def test_a_taking_is_worth_20_times_what_it_costs(cost, most):
    """Seldom enough that plain farmers get at a list that is costly to rewrite."""
    farm = SimulatedFarm(12_000, 2, 2, 0.01, disk_seconds=cost, checked=False)
    farm.run(20.0)
    assert farm.disk.left, "the list is too short for this test"
    steady = [moment for moment in farm.disk.takes if moment >= START + 8.0]
    assert 2 <= len(steady) <= most
    # ... and nobody starved for it: 4 workers, 100 tasks a second each
    assert len(farm.ends) > 0.9 * 20.0 * 400


def test_an_idle_farm_looks_for_work_once_in_a_poll_interval():
    farm = SimulatedFarm(20, ranks=5, workers=8, seconds=100.0)
    farm.run(90.0)
    between = [
        b - a for a, b in zip(farm.disk.takes, farm.disk.takes[1:], strict=False)
    ]
    assert min(between[3:]) >= POLL_SECONDS - 1e-9
    assert 80 <= len(farm.disk.takes) <= 95


def test_a_farm_whose_workers_are_all_busy_does_not_ask_for_more():
    farm = SimulatedFarm(40, ranks=5, workers=8, seconds=100.0)
    farm.run(90.0)
    assert len(farm.disk.takes) <= 3


def test_a_coordinator_with_nothing_to_do_does_not_ask_to_be_woken_at_once():
    for seed in range(20):
        farm = troubled_farm(seed)
        farm.run(100.0)
        assert farm.counts.spins == 0, seed


def test_a_lost_pool_that_was_hungry_does_not_keep_rank_0_awake():
    farm = SimulatedFarm(2, ranks=2, workers=2, seconds=1000.0)
    farm.run(0.5)
    hungry = next(rank for rank in farm.ranks if not rank.running)
    farm.at(START + 5.0, hungry.lose_pool)
    farm.run(30.0)
    assert farm.counts.spins == 0


def test_tasks_that_become_slow_do_not_keep_rank_0_awake():
    """The rank holds more than it could use, and says so with each result."""
    farm = SimulatedFarm(5000, 1, 8, lambda t: 0.01 if t < 400 else 60.0, checked=False)
    farm.run(3000.0)
    assert farm.counts.spins == 0


@pytest.mark.parametrize("grace", [0.0, 2.0])
def test_a_farm_whose_storage_failed_does_not_keep_rank_0_awake(grace):
    farm = SimulatedFarm(1000, 3, 4, 0.3, seed=3, grace=grace)
    farm.run(2.0)
    farm.ranks[1].silent = True
    farm.disk_fails = True
    farm.run()
    assert farm.counts.spins == 0


def test_each_rank_hears_of_rank_0_every_ping_interval():
    farm = SimulatedFarm(8, ranks=4, workers=2, seconds=100.0)
    farm.run(51.0)
    # but in the first, in which it has got its tasks
    assert {rank.pings for rank in farm.ranks} == {int(51.0 / PING_SECONDS) - 1}


# ---- cost ---------------------------------------------------------------------------


def operations(count: int) -> int:
    """Python calls that the coordinator makes in the same 3 s of a list so long."""
    farm = SimulatedFarm(count, 4, 4, 0.02, disk_seconds=0.01, checked=False)
    counted = 0
    place = str(Path(Coordinator.decide.__code__.co_filename).parent)

    def note(frame: Any, event: str, argument: object) -> None:
        nonlocal counted
        counted += event == "call" and frame.f_code.co_filename.startswith(place)

    sys.setprofile(note)
    try:
        farm.run(3.0)
    finally:
        sys.setprofile(None)
    return counted


def test_the_cost_of_a_task_does_not_grow_with_the_length_of_the_list():
    short, long = operations(5_000), operations(500_000)
    assert long == pytest.approx(short, rel=0.05)


def test_the_effects_for_a_task_do_not_grow_with_the_number_of_tasks():
    few = SimulatedFarm(2_000, 2, 2, 0.01, disk_seconds=0.01, checked=False)
    many = SimulatedFarm(8_000, 2, 2, 0.01, disk_seconds=0.01, checked=False)
    few.run()
    many.run()
    assert many.counts.effects / 8_000 <= 1.05 * few.counts.effects / 2_000
    assert many.counts.decisions / 8_000 <= 1.05 * few.counts.decisions / 2_000


@pytest.mark.parametrize("status", [-SIGUSR2, 128 + SIGUSR2])
@pytest.mark.parametrize("command_first", [True, False])
def test_a_command_that_dies_of_the_signal_that_says_drain_runs_again(
    status, command_first
):
    """Slurm may deliver USR2 to the commands as well."""
    hand = Hand(workers=2)
    first, second = hand.begin(0, 1)
    if command_first:
        unsure(hand, first, status=status)
    hand.hear(0, SignalReceived(SIGUSR2))
    if not command_first:
        hand.report(first, status=status)
    hand.report(second, status=1)
    hand.decide(COMMIT_INTERVAL)
    hand.write(empty=True)
    hand.decide()
    assert hand.given_back == [0]
    assert hand.recorded == [1]


def test_a_rank_that_dies_unseen_does_not_leave_the_farm_waiting_for_ever():
    farm = SimulatedFarm(24, ranks=3, workers=4, seconds=HOUR)
    farm.run(1.0)
    farm.ranks[1].silent = True
    farm.run()
    assert sorted(farm.disk.records) == [*range(24)]
    assert {record.rank for record in farm.disk.records.values()} == {0, 2}
    assert farm.coordinator.silent_ranks() == [1]
    assert farm.coordinator.reason == ""
