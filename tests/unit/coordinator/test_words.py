"""The sentences of the coordinator for the user, whole, and times to plan with."""

import math
from signal import SIGUSR1, SIGUSR2

import pytest

from mpifarm.coordinator import (
    alike,
    commits,
    ending,
    failover,
    liveness,
    prefetch,
    quarantine,
    retries,
    stealing,
)
from mpifarm.coordinator.announcement import announce
from mpifarm.coordinator.coordinator import Coordinator, RankSet, Tell
from mpifarm.coordinator.limits import Canary, FailureLimit
from mpifarm.coordinator.liveness import JOIN_SECONDS
from mpifarm.coordinator.rank_use import MAX_TOLD
from mpifarm.coordinator.retries import fate_in_words, poison_in_words
from mpifarm.coordinator.state import Phase, RankRecord, TaskRecord
from mpifarm.coordinator.walltime import Walltime
from mpifarm.model.messages import (
    Drain,
    Join,
    Rejoin,
    Report,
    Shutdown,
    Stop,
    Stopped,
    Welcome,
)
from mpifarm.model.settings import Policy
from tests.unit.coordinator.test_coordinator import Hand
from tests.unit.coordinator.test_losses import mended_hand, rejoin
from tests.unit.fakes import Commands, define_farm, sure_report
from tests.unit.virtual_rank import START

# ---- the end -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "running", "said"),
    [
        (Phase.DRAINING, 0, "nothing more is started, nothing is running"),
        (Phase.DRAINING, 1, "nothing more is started, 1 task still running"),
        (Phase.STOPPING, 0, "nothing is running"),
        (Phase.STOPPING, 3, "3 tasks running, ended now and run again next time"),
    ],
)
def test_the_begin_of_an_end_is_told_with_what_runs(phase, running, said):
    assert announce(phase, "USR2 was received", running) == f"USR2 was received: {said}"


def test_that_the_farm_leaves_is_told_by_its_summary():
    assert announce(Phase.LEAVING, "a reason", 0) == ""


# ---- limits --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "why"),
    [
        (1, "the first task (--canary 1) failed"),
        (2, "none of the first 2 tasks (--canary) succeeded"),
    ],
)
def test_canaries_that_died_are_counted(count, why):
    assert Canary(count, 0).why() == why


@pytest.mark.parametrize(
    ("most", "before", "said"),
    [
        (1, 1, "1 task has failed (--max-failures); 1 that failed {} does not count"),
        (3, 2, "3 tasks have failed (--max-failures); 2 that failed {} do not count"),
    ],
)
def test_the_limit_of_failures_is_told_where_tasks_failed_before(most, before, said):
    limit = FailureLimit(Policy(max_failures=most), 100)
    limit.note_before(before, 0)
    assert limit.describe() == (
        f"the farm stops when {said.format('before this start')}"
    )


def test_a_limit_of_one_failure_is_told_as_one():
    limit = FailureLimit(Policy(max_failures=1), 100)
    limit.note(7, failed=True)
    assert limit.why() == "1 task has failed, and --max-failures is 1"


# ---- the end of the job --------------------------------------------------------------


def test_a_drain_before_the_jobs_end_says_what_tasks_take():
    walltime = Walltime(100.0, 2.0, None)
    walltime.note(30.0)
    assert walltime.why_drain(60.0) == (
        "the job ends in 40 s, and the only task that has finished took 30 s"
    )
    for _ in range(9):
        walltime.note(30.0)
    assert walltime.why_drain(60.0) == (
        "the job ends in 40 s, and 90 % of the 10 tasks that have finished took up to "
        "30 s"
    )
    assert Walltime(100.0, 2.0, 20.0).why_drain(60.0) == (
        "the job ends in 40 s, and a task takes 20 s (--task-time)"
    )


def test_a_stop_near_the_jobs_end_says_how_near():
    walltime = Walltime(100.0, 2.0, None)
    assert walltime.why_stop(94.0) == "the job ends in 6 s"
    assert walltime.why_stop(100.0) == "the end of the job (--deadline) has come"


def test_what_is_known_of_tasks_is_learnt_only_where_a_job_ends():
    assert Walltime(100.0, 2.0, None).learns
    assert not Walltime(100.0, 2.0, 20.0).learns
    assert not Walltime(None, 2.0, None).learns
    assert not Walltime(math.inf, 2.0, None).is_too_late(1e9)


def test_half_a_second_is_left_between_the_last_start_and_the_stop():
    walltime = Walltime(100.0, 2.0, 20.0)
    assert walltime.stop_at == 94.0
    assert walltime.start_until() == 94.0 - 0.5 - 20.0
    assert not walltime.is_too_late(73.5)
    assert walltime.is_too_late(73.6)


# ---- tasks and ranks -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks_lost", "what"), [(3, "its rank"), (2, "its worker or its rank")]
)
def test_a_task_that_kills_is_told_by_what_it_killed(ranks_lost, what):
    task = TaskRecord(7)
    task.past.ranks_lost = ranks_lost
    assert poison_in_words(task, 3) == (
        f"task 7 counts as failed: 3 times {what} was lost under it"
    )


@pytest.mark.parametrize(
    ("count", "is_working", "fate"),
    [
        (0, True, "it had no task"),
        (1, True, "its 1 task runs again elsewhere"),
        (4, True, "its 4 tasks run again elsewhere"),
        (1, False, "its 1 task will run again"),
    ],
)
def test_what_becomes_of_the_tasks_of_a_lost_rank(count, is_working, fate):
    assert fate_in_words(count, is_working=is_working) == fate


def test_a_rank_is_named_with_its_host_once_that_is_known():
    assert RankRecord(3).name == "rank 3"
    assert RankRecord(3, host="n17").name == "rank 3 on n17"


def test_a_rank_that_never_came_is_told_as_that():
    hand = Hand(size=2)
    hand.begin(0)
    for _ in range(20):
        hand.decide(JOIN_SECONDS / 20 + 0.5)
        hand.hear(0, sure_report(1.0))
    assert hand.told == ["rank 1 did not connect and is given up; it had no task"]


@pytest.mark.parametrize(("own", "told"), [(0, 1), (2, 0)])
def test_a_rank_that_died_before_another_led_was_told_of_then(own, told):
    rank_set = RankSet((0, 1, 2), own, 2, survives_rank_loss=True)
    coordinator = Coordinator(Commands(9), define_farm(), rank_set, START)
    coordinator.on_ranks_lost([1], START)
    said = [each for each in coordinator.decide(START) if isinstance(each, Tell)]
    assert len(said) == told


def test_when_no_rank_is_left_the_last_reason_is_told():
    hand = Hand(size=2)
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    use = hand.coordinator.stop_reasons
    use.on_rank_unusable(hand.coordinator.ranks[1], "no licence", hand.clock.now)
    hand.coordinator.on_message(0, Stopped(), hand.clock.now)
    hand.decide()
    assert hand.coordinator.reason == "no rank is left that can run tasks (no licence)"
    assert Stop(0.0, by_signal=False) in [m for _, m in hand.sent]


def test_ten_ranks_out_of_use_are_told_one_by_one():
    hand = Hand(size=15)
    hand.begin(0)
    for rank in range(1, 14):
        hand.hear(rank, Join("node", rank, 2))
        record = hand.coordinator.ranks[rank]
        hand.coordinator.rank_use.give_up(record, "no licence")
    hand.decide()
    told = [f"rank {n} on node is put out of use: no licence" for n in range(1, 11)]
    assert hand.told == told
    assert len(hand.coordinator.quarantined) == 13
    assert MAX_TOLD == 10


# ---- what is said again --------------------------------------------------------------


def test_a_drain_that_was_lost_is_said_again():
    hand = mended_hand(0)
    hand.coordinator.on_signal(SIGUSR2, hand.clock.now)
    hand.decide()
    before = len(hand.sent)
    hand.hear(1, rejoin((0, 1)))
    hand.decide()
    said = [m for _, m in hand.sent[before:]]
    assert [type(m) for m in said] == [Welcome, Drain]


def test_a_stop_that_was_lost_is_said_again_as_it_was():
    hand = mended_hand(0)
    hand.coordinator.on_storage_failed("the disk is full", hand.clock.now)
    hand.decide()
    hand.hear(1, rejoin((0, 1)))
    hand.decide()
    assert hand.sent[-1] == (1, Stop(2.0, by_signal=False))
    hand.coordinator.ending.stop("TERM", 0.0, hand.clock.now)
    hand.hear(1, rejoin((0, 1)))
    hand.decide()
    assert hand.sent[-1] == (1, Stop(0.0, by_signal=True))


def test_an_end_that_was_lost_is_said_again():
    hand = Hand(size=2, survives_rank_loss=True)
    hand.begin(empty=True)
    assert hand.ends == 1
    before = len(hand.sent)
    hand.hear(1, Rejoin("node", 2, 2, True, (), Report(1.0)))
    hand.decide()
    assert (1, Shutdown()) in hand.sent[before:]


def test_a_rank_given_up_that_missed_its_dismissal_is_told_again():
    hand = Hand(size=2, policy=Policy(rank_timeout=4.0))
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.decide(5.0)
    leave = (1, Shutdown(ranks_lost=True, farm_goes_on=True))
    assert hand.sent.count(leave) == 1
    hand.hear(1, rejoin())
    hand.decide()
    assert hand.sent.count(leave) == 2


@pytest.mark.parametrize("signum", [SIGUSR1, SIGUSR2])
def test_nothing_is_said_to_a_rank_that_is_gone(signum):
    hand = Hand(size=2)
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    hand.decide()
    before = len(hand.sent)
    hand.coordinator.on_signal(signum, hand.clock.now)
    hand.decide()
    assert {rank for rank, _ in hand.sent[before:]} == {0}


# ---- times ---------------------------------------------------------------------------


def test_a_rank_is_pinged_four_times_before_it_is_given_up():
    pings = {
        timeout: Hand(policy=Policy(rank_timeout=timeout)).coordinator.liveness.ping_at
        for timeout in (4.0, 20.0, 300.0)
    }
    begun = min(pings.values()) - 1.0
    assert [at - begun for at in pings.values()] == [1.0, 5.0, 5.0]


def test_a_rank_given_up_is_told_with_the_silence_that_was_allowed():
    hand = Hand(size=2, policy=Policy(rank_timeout=4.0))
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.decide(50.0)
    assert hand.told == [
        "rank 1 on node has not been heard for 4 s and is given up; it had no task"
    ]


def test_a_pause_of_the_coordinator_gives_ranks_longer_to_rejoin():
    hand = mended_hand(0)
    hand.coordinator.forgive_pause(60.0)
    hand.decide(failover.REJOIN_SECONDS + 30.0)
    assert hand.coordinator.lost_ranks() == []
    hand.decide(31.0)
    assert hand.coordinator.lost_ranks() == [1]


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (commits.COMMIT_INTERVAL, 0.1),
        (prefetch.POLL_SECONDS, 1.0),
        (prefetch.TAKE_SECONDS, 2.0),
        (prefetch.TAKE_COST_FACTOR, 20),
        (prefetch.TAKE_INTERVAL, 0.1),
        (prefetch.MAX_AT_ONCE, 200_000),
        (retries.PATIENCE_SECONDS, 10.0),
        (retries.MAX_LOST, 3),
        (retries.MAX_CHECKPOINTS, 1000),
        (retries.MAX_FAST_CHECKPOINTS, 10),
        (retries.FAST_CHECKPOINT_SECONDS, 1.0),
        (liveness.JOIN_SECONDS, 600.0),
        (liveness.PING_SECONDS, 5.0),
        (failover.REJOIN_SECONDS, 10.0),
        (ending.ANSWER_SECONDS, 0.5),
        (ending.ANSWER_SECONDS_AT_ONCE, 0.1),
        (quarantine.FAST_SECONDS, 1.0),
        (quarantine.FAST_SHARE, 0.1),
        (quarantine.STREAK_SECONDS, 3.0),
        (quarantine.FIRST_PAUSE, 10.0),
        (quarantine.LONGEST_PAUSE, 600.0),
        (quarantine.LONGEST_PROBE_SECONDS, 60.0),
        (alike.FORGET_SECONDS, 60.0),
        (stealing.PATIENCE_SECONDS, 0.01),
        (stealing.PATIENCE_FOR_DISK_SECONDS, 0.2),
    ],
)
def test_users_and_pages_rely_on_these_bounds(seconds, value):
    assert seconds == value
