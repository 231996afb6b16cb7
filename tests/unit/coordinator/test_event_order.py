"""Which event goes to which member of a coordinator, and what it leaves undone."""

from math import inf
from signal import SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest

from mpifarm.coordinator import coordinator
from mpifarm.coordinator.coordinator import (
    COMMIT_INTERVAL,
    MAX_TOLD,
    LookAtList,
    OrderNews,
    Phase,
    RankState,
    Tell,
)
from mpifarm.coordinator.effects import NoteRunning
from mpifarm.coordinator.prefetch import POLL_SECONDS
from mpifarm.coordinator.state import TaskState
from mpifarm.model.messages import (
    Alive,
    Join,
    PoolLost,
    Report,
    Running,
    SignalReceived,
    Stopped,
)
from mpifarm.model.requests import Request, RequestKind
from mpifarm.model.settings import Policy
from mpifarm.model.task import NOT_RUN, Outcome, RunningTask
from tests.unit.coordinator.test_coordinator import Hand
from tests.unit.fakes import Commands
from tests.unit.virtual_rank import START, result_of


def begun(*taken: int, **how: Any) -> Hand:
    hand = Hand(**how)
    hand.begin(*taken)
    return hand


def transacted(hand: Hand, *taken: int, empty: bool = True, **more: Any) -> None:
    hand.coordinator.on_transacted(taken, hand.clock.now, empty=empty, cost=0.0, **more)


# ---- before ranks have come ----------------------------------------------------------


@pytest.mark.parametrize("follow", [None, 60.0])
def test_a_farm_whose_list_may_grow_waits_for_lines_only_if_it_follows(follow):
    hand = Hand()
    hand.coordinator.expect_growth(follow)
    assert hand.coordinator.growing.is_expected
    assert hand.coordinator.prefetch.waits_for_more is (follow is not None)


def test_a_list_that_has_ended_is_waited_for_no_more():
    hand = Hand()
    hand.coordinator.expect_growth(3600.0)
    hand.coordinator.on_list_ended()
    assert hand.coordinator.growing.follow is None
    assert not hand.coordinator.prefetch.waits_for_more


def test_failures_of_before_are_told_with_the_limit_and_do_not_count():
    hand = Hand(policy=Policy(max_failures=3))
    said = hand.coordinator.note_failed_before(2, 1)
    assert said.endswith("2 that failed before this start do not count")
    assert hand.coordinator.limits.failures.left == 2


def test_a_deadline_that_comes_later_is_learnt_for_from_the_begin():
    hand = Hand()
    assert not hand.coordinator.limits.walltime.learns
    hand.coordinator.expect_deadline()
    assert hand.coordinator.limits.walltime.learns
    hand.coordinator.on_deadline(START + 100.0)
    assert hand.coordinator.limits.walltime.stop_at == START + 94.0


def test_kinds_share_their_seats_and_those_without_a_limit_do_not():
    hand = Hand(policy=Policy(seats=(("gpu", 1), ("disk", 0))))
    hand.coordinator.share_seats(dict.fromkeys(range(3), "gpu") | {3: "disk"})
    assert hand.begin(0, 1, 3) != []
    assert [lease.taskid for lease in hand.leases(0)] == [0, 3]


# ---- messages ------------------------------------------------------------------------


def test_a_rank_is_heard_with_each_of_its_messages():
    hand = begun(0)
    hand.clock.advance(3.0)
    hand.hear(0, Alive())
    assert hand.coordinator.ranks[0].heard_at == hand.clock.now


@pytest.mark.parametrize("message", [PoolLost(), Stopped()])
def test_a_rank_whose_pool_is_gone_holds_nothing(message):
    hand = begun(0, size=2)
    hand.hear(0, message)
    record = hand.coordinator.ranks[0]
    assert (record.state, record.leases) == (RankState.STOPPED, set())
    assert [task.taskid for task in hand.coordinator.table.queue] == [0]


def test_what_runs_is_noted_only_if_the_rank_still_has_it():
    hand = begun(0, 1)
    told = (RunningTask(0, 1, 0, 1.7e9), RunningTask(1, 2, 1, 1.7e9))
    hand.hear(0, Running(told))
    hand.hear(0, Running(told[1:]))
    noted = [each for each in hand.decide() if isinstance(each, NoteRunning)]
    assert noted == [NoteRunning(0, told[:1])]


# ---- signals -------------------------------------------------------------------------


def unsure(status: int, *, sure: float = 4.0) -> Hand:
    hand = begun(0)
    result = result_of(hand.leases(0)[0], 5.0, status=status)
    hand.hear(0, Report(9.0, (result,), sure=sure))
    return hand


@pytest.mark.parametrize(
    ("signum", "status", "state"),
    [
        (SIGUSR1, 0, TaskState.REQUEUING),
        (SIGTERM, 1, TaskState.REQUEUING),
        (SIGUSR2, 0, TaskState.ENDED),
        (SIGUSR2, -SIGUSR2, TaskState.REQUEUING),
    ],
)
def test_a_signal_voids_unsure_results_that_it_may_have_caused(signum, status, state):
    hand = unsure(status)
    hand.hear(0, SignalReceived(signum))
    assert hand.coordinator.table.tasks[0].state is state
    record = hand.coordinator.ranks[0]
    assert record.is_drained is (signum == SIGUSR2)
    assert record.is_void is (signum != SIGUSR2)


@pytest.mark.parametrize(
    ("sure", "state"), [(5.0, TaskState.ENDED), (4.9, TaskState.REQUEUING)]
)
def test_what_ended_before_a_rank_was_sure_of_it_is_not_voided(sure, state):
    hand = unsure(0)
    hand.hear(0, SignalReceived(SIGUSR1, sure=sure))
    assert hand.coordinator.table.tasks[0].state is state


def test_a_rank_is_not_less_sure_by_a_signal():
    hand = unsure(0, sure=7.0)
    hand.hear(0, SignalReceived(SIGUSR1, sure=3.0))
    assert hand.coordinator.ranks[0].sure == 7.0


# ---- the disk ------------------------------------------------------------------------


def test_the_farm_leaves_when_a_look_has_found_nothing_and_nothing_is_held():
    hand = begun(0)
    hand.report(*hand.leases(0))
    hand.decide()
    assert hand.recorded == [0]
    hand.write(empty=True)
    assert hand.ends == 1


@pytest.mark.parametrize(
    "why", ["more", "others", "taken", "pulled", "not run", "a task"]
)
def test_a_look_is_not_the_last_while_there_may_be_more(why):
    hand = Hand()
    hand.hear(0, Join("node", 1, 2))
    hand.decide()
    news = {
        "others": OrderNews(more_may_come=True),
        "not run": OrderNews(not_run=((5, "task 3 failed"),)),
    }
    taken = (1,) if why == "taken" else ()
    if why == "a task":
        hand.coordinator.table.take([9])
    order = news.get(why, OrderNews())
    pulled = (2,) if why == "pulled" else ()
    transacted(hand, *taken, empty=why != "more", order=order, pulled=pulled)
    assert not hand.coordinator._looked_last


def test_a_transaction_that_took_nothing_says_nothing_of_what_is_left():
    hand = begun(0, 1)
    hand.report(hand.leases(0)[0])
    hand.decide(COMMIT_INTERVAL)
    assert hand.transactions[-1].take == 0
    before = hand.coordinator.prefetch.poll_at
    transacted(hand, empty=False)
    assert hand.coordinator.prefetch.is_empty
    assert hand.coordinator.prefetch.poll_at == before


def test_ranks_get_more_ahead_with_the_news_that_more_comes():
    hand = begun(0, 1)
    record, dispatcher = hand.coordinator.ranks[0], hand.coordinator.dispatcher
    record.mean, record.ended = 0.1, 100
    dispatcher.update_demand(record)
    assert dispatcher.demand.unmet == 0
    dispatcher.demand.note(0, 1, 0)
    hand.decide(POLL_SECONDS)
    assert hand.transactions[-1].take > 0
    transacted(hand, empty=False)
    assert dispatcher.demand.unmet == 10


def test_tasks_that_are_never_to_run_are_recorded_and_each_reason_is_told_once():
    hand = begun(0)
    hand.decide(POLL_SECONDS)
    hand.coordinator.dispatcher.demand.note(0, 1, 1)
    not_run = tuple((10 + n, f"task {n // 2} failed") for n in range(2 * MAX_TOLD + 4))
    table = hand.coordinator.table
    table.begin_transaction((), 5)
    transacted(hand, order=OrderNews(not_run=not_run))
    told = [each for each in hand.decide() if isinstance(each, Tell)]
    assert [each.sentence for each in told] == [
        f"task {n} failed: the tasks that wait for it are not run"
        for n in range(MAX_TOLD)
    ]
    result = table.tasks[11].result
    assert result is not None
    assert (result.outcome, result.note) == (Outcome.NOT_RUN, f"{NOT_RUN}task 0 failed")
    table.transaction = None
    table.begin_transaction((), 5)
    transacted(hand, order=OrderNews(not_run=((90, "task 0 failed"),)))
    assert not [each for each in hand.decide() if isinstance(each, Tell)]


def test_what_was_never_to_run_and_may_run_again_lets_no_more_pass_the_first_gate():
    hand = begun(0, policy=Policy(canary=1))
    request = Request("r0", RequestKind.CANCEL, (0,), "eve on login1")
    hand.coordinator.on_request(request, hand.clock.now)
    table = hand.coordinator.table
    table.begin_transaction((), 5)
    transacted(hand, order=OrderNews(not_run=((10, "task 3 failed"),)))
    hand.decide(COMMIT_INTERVAL)
    assert table.transaction is not None
    assert [each.taskid for _, each in table.transaction.results] == [10]
    transacted(hand, reopened={10})
    assert hand.coordinator.limits.canary.is_exhausted


def test_whether_tasks_wait_for_others_is_known_from_the_last_transaction():
    hand = begun(0)
    hand.coordinator.table.begin_transaction((), 0)
    transacted(hand, order=OrderNews(some_wait=True))
    assert hand.coordinator.prefetch.some_wait


def test_lines_that_are_added_are_taken_up_by_each_member():
    hand = Hand(100, policy=Policy(max_failed_share=0.1))
    hand.begin(0)
    commands = hand.coordinator.commands
    assert isinstance(commands, Commands)
    hand.coordinator.growing.may_leave(hand.clock.now)
    commands.grow(100)
    hand.coordinator._looked_last = True
    hand.coordinator.on_list_grown(hand.clock.now)
    assert hand.coordinator.limits.failures.left == 20
    assert hand.coordinator.forecast._total == 200
    assert not hand.coordinator.prefetch.is_empty
    assert not hand.coordinator._looked_last
    assert not hand.coordinator.growing.is_waiting


# ---- when to decide ------------------------------------------------------------------


def test_a_farm_that_leaves_is_never_woken():
    hand = begun()
    assert hand.coordinator.phase is Phase.LEAVING
    assert hand.coordinator.wake_at(hand.clock.now) == inf


def test_what_is_posted_is_due_at_once():
    hand = begun(0)
    hand.coordinator.on_drain("because")
    assert hand.coordinator.wake_at(hand.clock.now) == hand.clock.now
    hand.decide()
    assert hand.coordinator.wake_at(hand.clock.now) > hand.clock.now


@pytest.mark.parametrize(
    ("member", "phase"),
    [
        ("commits", Phase.WORKING),
        ("commits", Phase.DRAINING),
        ("failover", Phase.DRAINING),
        ("stop_reasons", Phase.DRAINING),
        ("ending", Phase.STOPPING),
        ("rank_use", Phase.WORKING),
        ("growing", Phase.WORKING),
        ("dispatcher", Phase.WORKING),
    ],
)
@pytest.mark.parametrize("late", [True, False])
def test_the_first_of_all_that_is_due_wakes_and_never_in_the_past(
    member, phase, late, monkeypatch
):
    hand = begun(0, 1)
    hand.coordinator._farm.phase = phase
    now = hand.clock.now
    due = now - 1.0 if late else now + 1e-3
    monkeypatch.setattr(getattr(hand.coordinator, member), "wake_at", lambda: due)
    assert hand.coordinator.wake_at(now) == (now if late else due)


@pytest.mark.parametrize("member", ["rank_use", "growing", "dispatcher"])
def test_what_only_a_working_farm_does_wakes_no_other(member, monkeypatch):
    hand = begun(0, 1)
    hand.coordinator._farm.phase = Phase.DRAINING
    monkeypatch.setattr(getattr(hand.coordinator, member), "wake_at", lambda: 0.0)
    assert hand.coordinator.wake_at(hand.clock.now) > hand.clock.now


def following(follow: float | None) -> Hand:
    """A farm that has done all, and whose list may grow."""
    hand = Hand()
    hand.coordinator.expect_growth(follow)
    hand.begin(0)
    hand.report(*hand.leases(0))
    hand.decide()
    hand.write(empty=True)
    return hand


def test_a_farm_that_only_waits_for_a_look_at_its_list_is_not_woken_by_the_disk():
    hand = following(None)
    assert (hand.ends, hand.coordinator.phase) == (0, Phase.WORKING)
    assert hand.coordinator._awaits_look
    before = len(hand.transactions)
    hand.decide(2 * POLL_SECONDS)
    assert len(hand.transactions) == before
    hand.coordinator.on_list_seen()
    hand.decide()
    assert hand.ends == 1


def test_a_farm_that_waits_for_lines_looks_at_the_disk():
    hand = following(3600.0)
    assert not hand.coordinator._awaits_look
    before = len(hand.transactions)
    hand.decide(POLL_SECONDS)
    assert len(hand.transactions) == before + 1
    assert hand.ends == 0


def test_a_request_is_looked_at_before_the_farm_leaves():
    hand = following(None)
    hand.coordinator.table.bars.hold(None)
    assert not hand.coordinator._is_done
    hand.coordinator.table.bars.release(None)
    assert hand.coordinator._is_done
    hand.coordinator.table.take([5])
    assert not hand.coordinator._is_done


def test_whatever_is_asked_the_disk_is_looked_at_again():
    hand = following(None)
    assert hand.coordinator._looked_last
    request = Request("r", RequestKind.RELEASE, (5,), "eve")
    hand.coordinator.on_request(request, hand.clock.now)
    assert not hand.coordinator._looked_last


def test_the_list_is_looked_at_anew_when_there_was_work_meanwhile():
    hand = following(None)
    hand.coordinator.table.take([5])
    hand.decide()
    hand.report(hand.leases(0)[-1])
    hand.decide()
    transacted(hand)
    looks = [each for each in hand.decide() if isinstance(each, LookAtList)]
    assert looks == [LookAtList()]


def test_after_a_pause_all_ranks_have_longer():
    hand = begun(0)
    heard = hand.coordinator.ranks[0].heard_at
    hand.coordinator.forgive_pause(60.0)
    assert hand.coordinator.ranks[0].heard_at == heard + 60.0


# ---- what others read ----------------------------------------------------------------


def test_the_time_left_is_told_of_the_kinds_that_have_a_limit_alone():
    hand = Hand(policy=Policy(seats=(("gpu", 1), ("disk", 0))))
    assert hand.coordinator.forecast._seats is None
    hand.coordinator.share_seats({0: "gpu", 1: "disk"})
    seats = hand.coordinator.forecast._seats
    assert seats is not None
    assert seats._most == {"gpu": 1}


def test_of_held_tasks_those_count_that_the_list_has_and_that_have_not_ended():
    hand = begun(0, tasks=10)
    hand.coordinator.hold_from_start([3, 9, 10, 12], holds_all=False)
    assert hand.coordinator.count_held({3}.__contains__) == 1
    assert hand.coordinator.count_held(lambda _: False) == 2


def test_very_many_held_tasks_are_counted_without_a_look_at_each(monkeypatch):
    hand = begun(0, tasks=10)
    hand.coordinator.hold_from_start([3, 9, 10], holds_all=False)
    monkeypatch.setattr(coordinator, "MAX_ASKED", 3)
    assert hand.coordinator.count_held(lambda _: True) == 0
    monkeypatch.setattr(coordinator, "MAX_ASKED", 2)
    assert hand.coordinator.count_held(lambda _: True) == 3
