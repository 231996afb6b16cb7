"""What one request does to one task, told to a coordinator by hand."""

from typing import Any

import pytest

from mpifarm.coordinator.coordinator import (
    COMMIT_INTERVAL,
    Effect,
    LookAtList,
    Phase,
    Reply,
)
from mpifarm.coordinator.state import TaskState
from mpifarm.model.messages import (
    Cancel,
    Join,
    Report,
    Stopped,
    ToRank,
    Withdraw,
    Withdrawn,
)
from mpifarm.model.requests import Answer, Fate, Request, RequestKind
from mpifarm.model.settings import Policy
from mpifarm.model.task import CANCELLED_STATUS, Lease, Outcome, Result
from tests.unit.coordinator.test_coordinator import Hand
from tests.unit.coordinator.test_losses import rejoin
from tests.unit.fakes import Commands, sure_report
from tests.unit.virtual_rank import result_of

CANCEL, HOLD = RequestKind.CANCEL, RequestKind.HOLD
RELEASE, DRAIN = RequestKind.RELEASE, RequestKind.DRAIN


class Asked(Hand):
    """A coordinator that is asked for things; its rank 0 has two workers."""

    def __init__(self, tasks: int = 100, **how: Any) -> None:
        super().__init__(tasks, **how)
        self.answers: list[Answer] = []
        self.looks = 0

    def decide(self, after: float = 0.0) -> list[Effect]:
        effects = super().decide(after)
        self.answers += [each.answer for each in effects if isinstance(each, Reply)]
        self.looks += sum(isinstance(each, LookAtList) for each in effects)
        return effects

    def ask(self, kind: RequestKind, *taskids: int, asker: str = "eve") -> None:
        """Ask for this of these tasks, or of all."""
        request = Request("r", kind, taskids or None, asker)
        self.coordinator.on_request(request, self.clock.now)
        self.decide()

    def pull(self, *pulled: int, taken: tuple[int, ...] = ()) -> None:
        """The transaction under way is on disk, and has pulled these."""
        self.coordinator.on_transacted(
            taken, self.clock.now, empty=True, cost=0.0, pulled=pulled
        )
        self.decide()

    def end(
        self, lease: Lease, outcome: Outcome = Outcome.COMPLETED, rank: int = 0
    ) -> None:
        result = result_of(lease, self.clock.now)._replace(outcome=outcome)
        self.hear(rank, self.report_of(result))

    def said(self, rank: int, kind: type[ToRank]) -> list[ToRank]:
        return [m for each, m in self.sent if each == rank and isinstance(m, kind)]

    @property
    def fates(self) -> dict[int, tuple[Fate, str]]:
        return {
            taskid: (fate, host)
            for fate, host, ids in self.answers[-1].fates
            for taskid in ids
        }

    @property
    def results(self) -> list[Result]:
        return [result for each in self.transactions for _, result in each.results]


def begun(*taken: int, empty: bool = True, **how: Any) -> Asked:
    hand = Asked(**how)
    hand.begin(*taken, empty=empty)
    return hand


# ---- who is heard --------------------------------------------------------------------


@pytest.mark.parametrize("kind", RequestKind)
@pytest.mark.parametrize("why", ["it leaves", "the storage failed"])
def test_a_farm_that_is_about_to_end_refuses_whatever_is_asked(kind, why):
    hand = begun(*(() if why == "it leaves" else (0,)))
    if why == "it leaves":
        assert hand.coordinator.phase is Phase.LEAVING
    else:
        hand.coordinator.on_storage_failed("the disk is full", hand.clock.now)
    hand.ask(kind, 0)
    (answer,) = hand.answers
    assert (answer.request, answer.refusal) == ("r", "the farm is about to end")
    assert answer.fates == ()


@pytest.mark.parametrize(
    ("kind", "taskids", "said"),
    [
        (CANCEL, (5,), "{} cancels task 5"),
        (CANCEL, (5, 7, 6), "{} cancels 3 tasks: 5-7"),
        (HOLD, (5,), "{} holds task 5"),
        (HOLD, (), "{} holds all tasks: none is started"),
        (RELEASE, (5, 9), "{} releases 2 tasks: 5, 9"),
        (RELEASE, (), "{} releases all tasks"),
    ],
)
@pytest.mark.parametrize("asker", ["eve", ""])
def test_what_is_asked_is_told_with_who_asked(kind, taskids, said, asker):
    hand = begun(0)
    hand.ask(kind, *taskids, asker=asker)
    assert hand.told == [said.format(asker or "somebody")]


def test_a_drain_is_answered_at_once_with_what_runs():
    hand = begun(0, 1, 2)
    hand.ask(DRAIN)
    assert hand.coordinator.phase is Phase.DRAINING
    assert hand.coordinator.reason == "eve asked for a drain (mpifarm drain)"
    assert hand.answers == [Answer("r", (), 2)]


def test_a_request_keeps_the_farm_until_it_is_answered():
    hand = begun(0)
    assert not hand.coordinator.requests.keep_the_farm
    hand.ask(CANCEL, 5)
    assert hand.coordinator.requests.keep_the_farm
    hand.pull()
    assert hand.answers != []
    assert not hand.coordinator.requests.keep_the_farm
    hand.ask(HOLD)
    hand.hear(0, Withdrawn(((0, 1),)))
    hand.decide()
    assert len(hand.answers) == 2
    assert hand.coordinator.requests.keep_the_farm, "its tasks may be released"


def test_an_answer_names_only_the_tasks_that_were_asked_for():
    hand = begun(0, 1, 2)
    hand.ask(CANCEL, 2)
    hand.end(hand.leases(0)[0])
    hand.decide(COMMIT_INTERVAL)
    hand.write(empty=True)
    assert sorted(hand.recorded) == [0, 2]
    assert hand.fates == {2: (Fate.WAITED, "")}


def test_a_cancel_of_nothing_is_answered_at_once():
    hand = begun(0)
    hand.ask(CANCEL)
    assert hand.answers == [Answer("r", (), 1)]


# ---- cancel --------------------------------------------------------------------------


def test_a_task_that_waits_for_a_rank_is_recorded_as_cancelled():
    hand = begun(0, 1, 2)
    hand.ask(CANCEL, 2)
    assert hand.answers == [], "it is not on disk"
    hand.decide(COMMIT_INTERVAL)
    (result,) = hand.results
    assert (result.taskid, result.attempt) == (2, 1)
    assert (result.outcome, result.status) == (Outcome.CANCELLED, CANCELLED_STATUS)
    hand.write(empty=True)
    assert hand.fates == {2: (Fate.WAITED, "")}
    assert not hand.coordinator.table.bars.is_set


def test_a_task_that_runs_is_ended_by_its_rank():
    hand = begun(0, 1)
    hand.ask(CANCEL, 1)
    assert hand.said(0, Cancel) == [Cancel(((1, 1),))]
    hand.end(hand.leases(0)[1], Outcome.CANCELLED)
    hand.decide(COMMIT_INTERVAL)
    hand.write(empty=True)
    assert hand.fates == {1: (Fate.ENDED_NOW, "node")}


def test_a_task_that_ended_before_the_order_came_is_recorded_as_it_ended():
    hand = begun(0, 1)
    hand.ask(CANCEL, 1)
    hand.end(hand.leases(0)[1])
    hand.decide(COMMIT_INTERVAL)
    hand.write(empty=True)
    assert [each.outcome for each in hand.results] == [Outcome.COMPLETED]
    assert hand.fates == {1: (Fate.ENDED_BEFORE, "")}


def test_a_task_that_had_completed_is_answered_at_once():
    hand = begun(0, 1)
    hand.end(hand.leases(0)[1])
    hand.ask(CANCEL, 1)
    assert hand.fates == {1: (Fate.ENDED_BEFORE, "")}


def test_a_task_that_had_failed_does_not_run_again_and_counts_as_cancelled():
    hand = begun(0, 1, policy=Policy(retries=3))
    hand.end(hand.leases(0)[1], Outcome.FAILED)
    hand.ask(CANCEL, 1)
    assert hand.answers == []
    hand.decide(COMMIT_INTERVAL)
    hand.decide()
    (result,) = hand.results
    assert (result.outcome, result.attempt) == (Outcome.CANCELLED, 2)


def test_a_task_that_is_on_its_way_to_the_disk_is_pulled_when_it_is_there():
    hand = begun(0, 1, 2)
    table = hand.coordinator.table
    table.requeue(table.queue.popleft())
    hand.ask(CANCEL, 2)
    assert hand.given_back == [2]
    assert all(each.pull == () for each in hand.transactions)
    hand.write(empty=True)
    assert hand.transactions[-1].pull == (2,)
    hand.pull(2)
    hand.decide(COMMIT_INTERVAL)
    hand.write(empty=True)
    assert hand.fates == {2: (Fate.WAITED, "")}


def test_a_task_that_is_nowhere_is_said_to_be_elsewhere_and_barred_no_more():
    hand = begun(0)
    hand.ask(CANCEL, 7, 8)
    assert hand.transactions[-1].pull == (7, 8)
    hand.pull(8)
    assert hand.answers == []
    assert hand.coordinator.table.bars.cancelled == {8}
    hand.decide(COMMIT_INTERVAL)
    hand.write(empty=True)
    assert hand.fates == {7: (Fate.NOT_HERE, ""), 8: (Fate.WAITED, "")}
    assert not hand.coordinator.table.bars.is_set


def test_a_task_that_was_taken_as_it_was_to_be_pulled_is_not_elsewhere():
    hand = begun(0)
    hand.ask(CANCEL, 7)
    hand.pull(taken=(7,))
    assert hand.answers == []
    hand.decide(COMMIT_INTERVAL)
    hand.write(empty=True)
    assert hand.fates == {7: (Fate.WAITED, "")}


def test_an_answer_names_its_tasks_in_order():
    hand = begun(0)
    hand.ask(CANCEL, 9, 7, 8)
    hand.pull()
    ((fate, _, taskids),) = hand.answers[0].fates
    assert (fate, taskids) == (Fate.NOT_HERE, (7, 8, 9))


@pytest.mark.parametrize(("taskid", "is_known"), [(9, True), (10, False)])
def test_a_task_that_the_list_does_not_have_is_not_cancelled(taskid, is_known):
    hand = begun(0, tasks=10)
    hand.ask(CANCEL, taskid)
    assert (hand.answers == []) is is_known
    assert hand.looks == 0


@pytest.mark.parametrize("is_working", [True, False])
def test_a_list_that_may_grow_is_looked_at_for_a_task_that_is_not_known(is_working):
    hand = Asked(10)
    hand.coordinator.expect_growth(None)
    hand.begin(0)
    if not is_working:
        hand.coordinator.on_drain("because")
    hand.ask(CANCEL, 9, 10)
    assert hand.looks == is_working
    hand.pull()
    assert (hand.answers == []) is is_working
    if is_working:
        hand.coordinator.on_list_seen()
        hand.decide()
        assert hand.fates[10] == (Fate.NOT_HERE, "")
        assert not hand.coordinator.table.bars.is_set


def test_a_task_that_is_added_then_is_pulled_and_no_other():
    hand = Asked(10)
    hand.coordinator.expect_growth(None)
    hand.begin(0)
    hand.ask(CANCEL, 10, 12)
    commands = hand.coordinator.commands
    assert isinstance(commands, Commands)
    commands.grow(1)
    hand.coordinator.on_list_grown(hand.clock.now)
    hand.decide()
    assert hand.transactions[-1].pull == (10,)
    hand.coordinator.on_list_seen()
    hand.pull(10)
    hand.decide(COMMIT_INTERVAL)
    hand.write(empty=True)
    assert hand.fates == {10: (Fate.WAITED, ""), 12: (Fate.NOT_HERE, "")}


# ---- hold and release ----------------------------------------------------------------


def test_a_held_task_that_waits_goes_back_to_the_disk():
    hand = begun(0, 1, 2)
    hand.ask(HOLD, 2)
    assert hand.given_back == [2]
    assert hand.answers == []
    hand.write(empty=True)
    assert hand.fates == {2: (Fate.WAITED, "")}


def test_a_held_task_that_runs_runs_on_and_its_rank_says_so():
    hand = begun(0, 1)
    hand.ask(HOLD, 1)
    assert hand.said(0, Withdraw) == [Withdraw(((1, 1),))]
    hand.hear(0, Withdrawn(((1, 2),)))
    hand.decide()
    assert hand.answers == [], "that is another attempt"
    hand.hear(0, Withdrawn(((1, 1),)))
    hand.decide()
    assert hand.fates == {1: (Fate.RUNS_ON, "node")}


def test_a_word_on_a_held_task_answers_no_cancel_of_it():
    hand = begun(0, 1)
    hand.ask(CANCEL, 1)
    hand.hear(0, Withdrawn(((1, 1),)))
    hand.decide()
    assert hand.answers == []


def test_a_held_task_that_has_ended_is_answered_at_once():
    hand = begun(0, 1)
    hand.end(hand.leases(0)[1])
    hand.ask(HOLD, 1)
    assert hand.fates == {1: (Fate.ENDED_BEFORE, "")}


@pytest.mark.parametrize(
    ("retries", "fate"), [(0, Fate.ENDED_BEFORE), (1, Fate.WAITED)]
)
def test_a_held_task_whose_attempt_has_just_failed_waits_if_it_runs_again(
    retries, fate
):
    hand = begun(0, 1, policy=Policy(retries=retries))
    hand.end(hand.leases(0)[1], Outcome.FAILED)
    hand.ask(HOLD, 1)
    assert hand.fates == {1: (fate, "")}
    hand.decide(COMMIT_INTERVAL)
    hand.write(empty=True)
    assert [each.requeue for each in hand.transactions if each.requeue] == (
        [(1,)] * retries
    )
    assert hand.said(0, Withdraw) == []


def test_a_held_task_that_is_on_disk_is_pulled_and_goes_back():
    hand = begun(0)
    hand.ask(HOLD, 7, 8)
    assert hand.transactions[-1].pull == (7, 8)
    hand.pull(7)
    assert hand.given_back == [7]
    hand.write(empty=True)
    assert hand.fates == {7: (Fate.WAITED, ""), 8: (Fate.NOT_HERE, "")}


def test_a_held_task_that_the_list_does_not_have_yet_waits():
    hand = begun(0, tasks=10)
    hand.ask(HOLD, 9, 10)
    assert hand.transactions[-1].pull == (9,)
    hand.pull(9)
    hand.write(empty=True)
    assert hand.fates == {9: (Fate.WAITED, ""), 10: (Fate.WAITED, "")}


def test_all_ranks_that_have_leases_return_what_they_have_not_begun():
    hand = Asked(size=4)
    hand.begin(empty=False)
    for rank in (1, 2):
        hand.hear(rank, Join(f"node{rank}", rank, 2))
    hand.decide()
    hand.write(0, 1, 2, empty=False)
    hand.coordinator.ranks[3].leases.clear()
    with_leases = {r for r, each in hand.coordinator.ranks.items() if each.leases}
    assert with_leases == {0, 1, 2}
    hand.hear(2, Stopped())
    hand.ask(HOLD)
    asked = {rank for rank, m in hand.sent if m == Withdraw(())}
    assert asked == {0, 1}


def test_nothing_starts_while_all_is_held_and_a_release_looks_at_the_disk_at_once():
    hand = begun(0)
    hand.ask(HOLD)
    assert hand.coordinator.holds_all
    hand.end(hand.leases(0)[0])
    hand.decide(COMMIT_INTERVAL)
    hand.write(empty=True)
    before = len(hand.transactions)
    hand.decide(10.0)
    assert len(hand.transactions) == before
    hand.ask(RELEASE)
    assert not hand.coordinator.holds_all
    assert hand.transactions[-1].take > 0
    assert hand.answers[-1] == Answer("r")
    hand.write(1, 2)
    assert [lease.taskid for lease in hand.leases(0)] == [0, 1, 2]


def test_held_tasks_that_have_ended_are_counted_only_if_there_are_very_many(
    monkeypatch,
):
    hand = begun(0)
    hand.ask(HOLD, 7, 8, 10**6)
    assert hand.coordinator.count_held({8}.__contains__) == 1
    monkeypatch.setattr("mpifarm.coordinator.coordinator.MAX_ASKED", 2)
    assert hand.coordinator.count_held({8}.__contains__) == 3


def test_a_release_by_id_leaves_the_others_held():
    hand = begun(0)
    hand.ask(HOLD, 7, 8)
    assert hand.coordinator.count_held(lambda _: False) == 2
    hand.ask(RELEASE, 7, 9)
    assert hand.coordinator.table.bars.held == {8}
    hand.ask(RELEASE)
    assert not hand.coordinator.table.bars.is_set


def test_what_was_held_when_the_farm_began_is_pulled_as_far_as_the_list_has_it():
    hand = Asked(10)
    hand.coordinator.hold_from_start([3, 9, 10], holds_all=False)
    hand.decide()
    assert hand.transactions[-1].pull == (3, 9)
    assert not hand.coordinator.holds_all
    hand.coordinator.hold_from_start([], holds_all=True)
    assert hand.coordinator.holds_all


def test_held_tasks_that_are_added_are_pulled_and_those_of_before_are_not_again():
    hand = Asked(10)
    hand.begin(0)
    hand.ask(HOLD, 9, 10, 12)
    hand.pull(9)
    hand.write(empty=True)
    commands = hand.coordinator.commands
    assert isinstance(commands, Commands)
    commands.grow(2)
    hand.coordinator.on_list_grown(hand.clock.now)
    hand.decide()
    assert hand.transactions[-1].pull == (10,)


# ---- messages that were lost ---------------------------------------------------------


@pytest.mark.parametrize("kind", [CANCEL, HOLD])
def test_an_order_that_was_lost_is_given_again_once_all_is_located(kind):
    hand = Asked(size=2, survives_rank_loss=True)
    hand.begin(empty=False)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.hear(0, Stopped())
    hand.write(0, 1, empty=True)
    hand.ask(kind, 0)
    order = Cancel(((0, 1),)) if kind is CANCEL else Withdraw(((0, 1),))
    assert hand.said(1, type(order)) == [order]
    hand.coordinator.on_mended(hand.clock.now)
    hand.decide()
    assert hand.said(1, type(order)) == [order], "who has it is not known"
    hand.hear(1, rejoin((0, 1), (1, 1)))
    hand.decide()
    assert hand.said(1, type(order)) == [order, order]
    hand.decide()
    assert hand.said(1, type(order)) == [order, order]


# ---- the gates of the first tasks ----------------------------------------------------


def test_a_first_task_that_is_cancelled_lets_another_pass_the_gate():
    hand = Asked(policy=Policy(canary=3))
    hand.begin(0, 1, 2, empty=False)
    assert hand.coordinator.limits.limit(9) == 0
    hand.ask(CANCEL, 2)
    hand.decide(COMMIT_INTERVAL)
    hand.pull()
    assert hand.coordinator.limits.limit(9) == 1


def test_a_first_task_that_is_held_lets_another_pass_the_gate():
    hand = Asked(policy=Policy(canary=3))
    hand.begin(0, 1, 2, empty=False)
    hand.ask(HOLD, 2)
    hand.pull()
    assert hand.coordinator.limits.limit(9) == 1


@pytest.mark.parametrize("kind", [CANCEL, HOLD])
def test_a_task_that_was_pulled_had_passed_no_gate(kind):
    hand = Asked(policy=Policy(canary=1))
    hand.begin(0, empty=False)
    hand.ask(kind, 7)
    hand.pull(7)
    hand.decide(COMMIT_INTERVAL)
    hand.pull()
    assert hand.coordinator.limits.limit(9) == 0
    assert hand.answers != []


def test_a_first_task_that_ended_by_itself_lets_no_other_pass():
    hand = Asked(policy=Policy(canary=1))
    (lease,) = hand.begin(0, empty=False)
    hand.ask(CANCEL, 0)
    hand.end(lease, Outcome.FAILED)
    hand.decide(COMMIT_INTERVAL)
    hand.coordinator.table.bars.hold([50])
    hand.pull()
    assert hand.coordinator.limits.limit(9) == 0


# ---- ranks and workers that are lost -------------------------------------------------


def test_a_cancelled_task_whose_worker_is_lost_is_cancelled_and_not_lost():
    hand = begun(0, 1)
    hand.ask(CANCEL, 1)
    hand.hear(0, Report(hand.clock.now, (), (), ((1, 1),)))
    assert hand.coordinator.table.tasks[1].state is TaskState.ENDED
    hand.decide(COMMIT_INTERVAL)
    assert [each.outcome for each in hand.results] == [Outcome.CANCELLED]
    assert hand.noted == []


# ---- what was just added, and what happens meanwhile ---------------------------------


def growing(*taken: int, tasks: int = 10) -> Asked:
    hand = Asked(tasks)
    hand.coordinator.expect_growth(None)
    hand.begin(*taken)
    return hand


def grow(hand: Asked, count: int) -> None:
    commands = hand.coordinator.commands
    assert isinstance(commands, Commands)
    commands.grow(count)
    hand.coordinator.on_list_grown(hand.clock.now)
    hand.decide()


def test_a_task_that_was_said_to_be_elsewhere_is_cancelled_no_more_when_it_comes():
    hand = growing(0)
    hand.ask(CANCEL, 10)
    hand.coordinator.on_list_seen()
    hand.decide()
    assert hand.fates == {10: (Fate.NOT_HERE, "")}
    grow(hand, 1)
    assert all(10 not in each.pull for each in hand.transactions)


def test_a_task_that_is_not_known_keeps_no_other_from_being_cancelled():
    hand = growing(0, 1)
    hand.ask(CANCEL, 16, 1)
    assert hand.said(0, Cancel) == [Cancel(((1, 1),))]


def test_a_list_is_not_looked_at_for_tasks_that_are_known():
    hand = growing(0, 1)
    hand.ask(CANCEL, 1)
    assert hand.looks == 0


def test_nobody_looks_at_the_list_once_the_farm_drains():
    hand = growing(0)
    hand.ask(CANCEL, 10)
    assert hand.answers == []
    hand.coordinator.on_drain("because")
    hand.decide()
    assert hand.fates == {10: (Fate.NOT_HERE, "")}


def test_a_release_has_the_disk_looked_at_and_ranks_want_what_they_could_hold():
    hand = begun(0)
    prefetch, demand = (
        hand.coordinator.prefetch,
        hand.coordinator.dispatcher.demand,
    )
    assert prefetch.is_empty
    record = hand.coordinator.ranks[0]
    record.mean, record.ended = 0.1, 100
    hand.ask(RELEASE, 7)
    assert (prefetch.is_empty, prefetch.poll_at) == (False, hand.clock.now)
    assert demand.unmet == 1 + 10


def test_an_order_is_not_given_again_for_a_task_that_has_ended():
    hand = Asked(survives_rank_loss=True, policy=Policy(retries=3))
    hand.begin(0, 1)
    hand.end(hand.leases(0)[1], Outcome.FAILED)
    hand.ask(CANCEL, 1)
    assert hand.answers == []
    hand.coordinator.on_mended(hand.clock.now)
    hand.decide()
    assert hand.said(0, Cancel) == []


def test_a_hold_is_answered_though_its_tasks_are_released_meanwhile():
    hand = begun(0, 1, 2)
    hand.ask(HOLD, 2)
    assert hand.given_back == [2]
    hand.ask(RELEASE, 2)
    hand.write(empty=True)
    assert hand.fates == {2: (Fate.WAITED, "")}


def test_a_hold_of_a_task_on_disk_is_answered_at_its_release():
    hand = begun(0)
    hand.ask(HOLD, 7, 8)
    hand.ask(RELEASE, 7)
    assert len(hand.answers) == 1, "the release; 8 is still held"
    hand.ask(RELEASE)
    assert len(hand.answers) == 3
    assert hand.fates == {7: (Fate.WAITED, ""), 8: (Fate.WAITED, "")}


def test_a_hold_is_answered_by_its_rank_though_its_tasks_are_released_meanwhile():
    hand = begun(0, 1)
    hand.ask(HOLD, 0, 1)
    hand.ask(RELEASE, 0, 1)
    assert len(hand.answers) == 1, "the rank has begun some of them, or none"
    hand.hear(0, sure_report(1.0, returned=((1, 1),)))
    hand.hear(0, Withdrawn(((0, 1),)))
    hand.decide()
    assert hand.fates == {0: (Fate.RUNS_ON, "node"), 1: (Fate.WAITED, "")}


def test_a_hold_of_a_task_that_has_ended_is_answered_by_its_record():
    hand = begun(0, 1, policy=Policy(retries=1))
    hand.ask(HOLD, 1)
    hand.end(hand.leases(0)[1])
    hand.ask(RELEASE, 1)
    assert len(hand.answers) == 1
    hand.decide(COMMIT_INTERVAL)
    hand.write(empty=True)
    assert hand.fates == {1: (Fate.ENDED_BEFORE, "")}


def test_a_task_that_was_held_before_the_farm_began_lets_another_pass_the_gate():
    hand = Asked(policy=Policy(canary=2))
    hand.coordinator.table.bars.hold([1])
    hand.begin(0, 1, empty=False)
    assert hand.given_back == [1]
    assert hand.coordinator.limits.limit(9) == 0
    hand.pull()
    assert hand.coordinator.limits.limit(9) == 1
