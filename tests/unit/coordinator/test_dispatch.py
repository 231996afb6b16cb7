"""Who gets what, and when tasks are taken: the dispatcher alone, at exact bounds."""

from math import inf
from typing import Any

import pytest

from mpifarm.coordinator import seats as seats_module
from mpifarm.coordinator.dispatch import NO_COMMAND, Dispatcher
from mpifarm.coordinator.effects import Effect, NoteInLog, Send
from mpifarm.coordinator.limits import Limits
from mpifarm.coordinator.prefetch import POLL_SECONDS, TAKE_INTERVAL, Prefetch
from mpifarm.coordinator.quarantine import Quarantine
from mpifarm.coordinator.retries import PATIENCE_SECONDS
from mpifarm.coordinator.seats import Seats
from mpifarm.coordinator.start_rate import StartRate
from mpifarm.coordinator.state import FarmState, RankRecord, RankState, TaskRecord
from mpifarm.coordinator.stealing import (
    PATIENCE_FOR_DISK_SECONDS,
)
from mpifarm.coordinator.stealing import (
    PATIENCE_SECONDS as RECALL_SECONDS,
)
from mpifarm.coordinator.task_table import TaskTable
from mpifarm.coordinator.unlocated import Unlocated
from mpifarm.coordinator.walltime import Walltime
from mpifarm.errors import InputError
from mpifarm.model.messages import Assign, Recall
from mpifarm.model.settings import Policy
from mpifarm.model.task import Outcome
from tests.unit.fakes import Commands, rank_set_of


class Desk:
    """A dispatcher, and the members that it needs; `first` tasks are still to take."""

    def __init__(self, ranks: int = 2, first: int = 0, **policy: Any) -> None:
        rules = Policy(**policy)
        self.farm = FarmState.begin(rank_set_of(ranks, 2), rules)
        self.limits = Limits(rules, 100, 0, Walltime(None, 2.0, None))
        self.table = TaskTable(
            *(self.farm, self.limits.failures, (), Seats(dict(rules.seats)))
        )
        self.quarantine = Quarantine(0)
        self.unlocated = Unlocated((), ())
        self.prefetch = Prefetch(self.limits, first, 0.0, waits_for_others=True)
        self.posted: list[Effect] = []
        self.dispatcher = Dispatcher(
            *(self.farm, self.table, self.limits, self.quarantine, self.unlocated),
            *(self.prefetch, StartRate(rules.start_rate, 0.0), Commands(100)),
            self.posted.append,
        )

    def join(self, rank: int, workers: int = 2) -> RankRecord:
        record = self.farm.ranks[rank]
        self.quarantine.enter(record, RankState.WORKING)
        record.state, record.workers = RankState.WORKING, workers
        self.dispatcher.capacity.update(record)
        self.dispatcher.update_demand(record)
        return record

    def wait_for_seats(self, *taskids: int) -> None:
        """Have these tasks wait for the only seat of their kind, which is taken."""
        self.table.seats.name_kinds(dict.fromkeys(taskids, "gpu"), ())
        self.table.seats.free["gpu"] = 0
        self.table.take(taskids)
        for _ in taskids:
            assert not self.table.seats.take(self.table.queue.popleft())

    def fail(self, taskid: int, rank: int, *, now: float = 0.0) -> TaskRecord:
        """Have a task wait that has failed on this rank."""
        self.table.take([taskid])
        task = self.table.queue.pop()
        task.rank = rank
        task.past.failures = 1
        task.past.waits_from = now
        self.table.retry_queue.add(task)
        self.table.retry_queue.ripen(now)
        return task

    def note(self, *, empty: bool, now: float = 0.0, **more: Any) -> None:
        self.prefetch.note(now, empty=empty, cost=0.0, others=False, **more)

    def given(self, rank: int) -> list[int]:
        return [
            lease.taskid
            for effect in self.posted
            if isinstance(effect, Send)
            and isinstance(effect.message, Assign)
            and effect.rank == rank
            for lease in effect.message.leases
        ]


# ---- demand --------------------------------------------------------------------------


def test_only_a_rank_that_works_and_is_not_awaited_has_a_demand():
    desk = Desk()
    record = desk.join(1)
    assert (desk.dispatcher.demand.unmet, desk.dispatcher.demand.idle) == (2, 2)
    desk.unlocated.awaited.add(1)
    desk.dispatcher.update_demand(record)
    assert not desk.dispatcher.demand
    desk.unlocated.awaited.clear()
    desk.dispatcher.update_demand(record)
    record.leases = {1, 2}
    desk.dispatcher.update_demand(record)
    assert not desk.dispatcher.demand, "it has what it can hold"
    record.leases = {1}
    desk.dispatcher.update_demand(record)
    assert (desk.dispatcher.demand.unmet, desk.dispatcher.demand.idle) == (1, 1)
    record.state = RankState.OUT_OF_USE
    desk.dispatcher.update_all_demand()
    assert not desk.dispatcher.demand


# ---- handing out ---------------------------------------------------------------------


@pytest.mark.parametrize("hinders", ["unlocated", "held"])
def test_nothing_goes_out_while_tasks_are_not_located_or_all_is_held(hinders):
    desk = Desk()
    desk.join(1)
    desk.table.take([1])
    if hinders == "unlocated":
        desk.unlocated.tasks[9] = None
    else:
        desk.table.bars.hold(None)
    desk.dispatcher.assign(0.0)
    assert desk.posted == []
    assert desk.dispatcher.wake_at() == inf


def test_a_short_queue_goes_out_in_equal_shares_and_the_turns_go_on():
    desk = Desk(ranks=3)
    for rank in range(3):
        desk.join(rank, workers=4)
    desk.table.take(range(4))
    desk.dispatcher.assign(0.0)
    assert [desk.given(rank) for rank in range(3)] == [[0, 1], [2], [3]]
    desk.table.take([4, 5])
    desk.dispatcher.assign(0.0)
    assert [desk.given(rank) for rank in range(3)] == [[0, 1, 4], [2, 5], [3]]
    desk.table.take([6])
    desk.dispatcher.assign(0.0)
    assert desk.given(2) == [3, 6], "its turn is next"


def test_no_more_goes_out_than_the_limit_of_failures_allows():
    desk = Desk(max_failures=3)
    for rank in range(2):
        desk.join(rank)
    desk.table.take(range(9))
    for taskid in (50, 51):
        desk.limits.failures.note(taskid, failed=True)
    desk.dispatcher.assign(0.0)
    assert len(desk.given(0) + desk.given(1)) == 4, "one for each worker"
    desk.limits.failures.note(52, failed=True)
    assert desk.dispatcher.count_allowed() <= 0


def test_starts_are_limited_by_their_rate():
    desk = Desk(start_rate=2.0)
    desk.join(1, workers=4)
    desk.table.take(range(4))
    desk.dispatcher.assign(0.0)
    assert desk.given(1) == [0]
    assert desk.dispatcher.wake_at() == 0.5
    desk.dispatcher.assign(0.4)
    assert desk.given(1) == [0]
    desk.dispatcher.assign(0.5)
    assert desk.given(1) == [0, 1]


def test_tasks_without_a_seat_let_others_pass_and_come_first_when_one_is_free():
    desk = Desk(seats=(("gpu", 1),))
    desk.join(1, workers=3)
    desk.table.seats.name_kinds({0: "gpu", 1: "gpu", 2: "gpu"}, ())
    desk.table.take(range(5))
    desk.dispatcher.assign(0.0)
    assert desk.given(1) == [0, 3, 4]
    assert [task.taskid for task in desk.table.seats] == [1, 2]


def test_of_two_tasks_of_a_kind_the_first_of_the_list_gets_its_seat_first():
    desk = Desk(seats=(("gpu", 2),))
    desk.wait_for_seats(5, 6, 7)
    desk.table.take([8])
    desk.table.seats.free["gpu"] = 2
    desk.table.call_to_seats()
    assert [task.taskid for task in desk.table.queue] == [5, 6, 8]
    assert [task.taskid for task in desk.table.seats] == [7]


def test_a_task_that_failed_waits_for_another_rank_after_it_waited_for_a_seat():
    desk = Desk(seats=(("gpu", 1),))
    desk.wait_for_seats(5)
    (task,) = desk.table.seats
    task.past.failures = 1
    desk.table.seats.free["gpu"] = 1
    desk.table.call_to_seats()
    assert [*desk.table.retry_queue] == [task]
    assert not desk.table.queue


def test_retries_go_first_to_a_rank_on_which_they_did_not_fail():
    desk = Desk()
    desk.join(0)
    desk.join(1)
    desk.fail(7, rank=0)
    desk.table.take([8])
    desk.dispatcher.assign(1.0)
    assert (desk.given(0), desk.given(1)) == ([8], [7])


def test_retries_go_out_in_equal_shares():
    desk = Desk(ranks=3)
    for rank in (1, 2):
        desk.join(rank)
    for taskid in (3, 4):
        desk.fail(taskid, rank=0)
    desk.dispatcher.assign(1.0)
    assert (desk.given(1), desk.given(2)) == ([3], [4])


def test_the_only_rank_at_work_tries_again_at_once_what_failed_there():
    desk = Desk()
    desk.join(0)
    desk.fail(7, rank=0)
    desk.dispatcher.assign(0.0)
    assert desk.given(0) == [7]


def test_a_retry_without_a_seat_waits_for_one():
    desk = Desk(seats=(("gpu", 1),))
    desk.join(1)
    desk.table.seats.name_kinds({7: "gpu"}, ())
    desk.table.seats.free["gpu"] = 0
    desk.fail(7, rank=0)
    desk.dispatcher.assign(0.0)
    assert desk.given(1) == []
    assert [task.taskid for task in desk.table.seats] == [7]


def deadly(desk: Desk, *taskids: int, lost: int = 1) -> None:
    desk.table.take(taskids)
    for _ in taskids:
        task = desk.table.queue.pop()
        task.past.ranks_lost = lost
        desk.table.retry_queue.add(task)


@pytest.mark.parametrize(
    ("hinders", "is_run"),
    [
        ("nothing", True),
        ("the queue", False),
        ("the disk", False),
        ("a result", False),
        ("an unsure result", False),
        ("a transaction", False),
        ("a lease", False),
        ("another rank", False),
    ],
)
def test_the_own_rank_risks_its_life_only_when_nothing_else_is_left(hinders, is_run):
    desk = Desk()
    own = desk.join(0, workers=3)
    deadly(desk, 7)
    table = desk.table
    desk.note(empty=hinders != "the disk")
    if hinders == "the queue":
        table.take([8])
        desk.dispatcher.room = type("Room", (), {"of": lambda *_: 1})()
    elif hinders == "a result":
        table.ended.append(TaskRecord(9))
    elif hinders == "an unsure result":
        table.unsure = 1
    elif hinders == "a transaction":
        table.begin_transaction((), 1)
    elif hinders == "a lease":
        table.take([9])
        table.lease(own, [table.queue.pop()])
    elif hinders == "another rank":
        desk.join(1).most_leases = 0
    desk.dispatcher.assign(1.0)
    assert (7 in desk.given(0)) is is_run


def test_a_rank_gets_one_task_that_may_kill_it_and_others_beside_it():
    desk = Desk()
    desk.join(1, workers=4)
    deadly(desk, 8, 7)
    desk.fail(6, rank=0)
    desk.dispatcher.assign(0.0)
    assert desk.given(1) == [7, 6]
    desk.note(empty=True)
    desk.dispatcher.assign(0.0)
    assert desk.given(1) == [7, 6, 8], "each was lost once, and nothing else is left"


# ---- recalls -------------------------------------------------------------------------


def test_leases_are_recalled_when_workers_idle_and_nothing_waits():
    desk = Desk()
    rich = desk.join(1)
    rich.leases = {1, 2, 3, 4, 5, 6}
    desk.join(0)
    desk.note(empty=True, now=10.0)
    desk.dispatcher.recall(10.0)
    assert desk.posted == []
    assert desk.dispatcher.wake_at() == 10.0 + RECALL_SECONDS
    desk.dispatcher.recall(10.0 + RECALL_SECONDS)
    assert desk.posted == [Send(1, Recall(3))]
    assert rich.is_asked


@pytest.mark.parametrize("hinders", ["the queue", "no idle worker", "awaited ranks"])
def test_nothing_is_recalled_while_tasks_are_there_or_not_located(hinders):
    desk = Desk()
    rich = desk.join(1)
    rich.leases = {1, 2, 3, 4, 5, 6}
    desk.dispatcher.update_demand(rich)
    poor = desk.join(0)
    desk.note(empty=True)
    desk.dispatcher.recall(0.0)
    if hinders == "the queue":
        desk.table.take([9])
    elif hinders == "no idle worker":
        poor.leases = {7, 8}
        desk.dispatcher.update_demand(poor)
    else:
        desk.unlocated.awaited.add(5)
    desk.dispatcher.recall(9.0)
    assert desk.posted == []
    assert desk.dispatcher.recalls.look_at == inf


def test_leases_are_left_for_longer_where_the_disk_may_have_more():
    desk = Desk()
    desk.join(1).leases = {1, 2, 3, 4}
    desk.join(0)
    desk.note(empty=False)
    desk.dispatcher.recall(10.0)
    assert desk.dispatcher.recalls.look_at == 10.0 + PATIENCE_FOR_DISK_SECONDS


# ---- taking --------------------------------------------------------------------------


def taking_desk(**policy: Any) -> Desk:
    """Two workers idle, a moment after a taking."""
    desk = Desk(**policy)
    desk.join(1)
    desk.note(empty=False, now=10.0)
    return desk


def test_workers_that_idle_do_not_wait_for_the_next_taking():
    desk = taking_desk()
    assert desk.dispatcher.count_to_take(10.0) == 2
    desk.table.take([1])
    assert desk.dispatcher.count_to_take(10.0) == 1
    desk.table.take([2])
    assert desk.dispatcher.count_to_take(10.0) == 0, "there is one for each"


def test_without_an_idle_worker_takings_are_apart():
    desk = Desk()
    record = desk.join(1)
    record.leases, record.mean, record.ended = {1, 2}, 0.1, 100
    desk.dispatcher.capacity.update(record)
    desk.dispatcher.capacity.ended = 100
    desk.dispatcher.update_demand(record)
    assert (desk.dispatcher.demand.idle, desk.dispatcher.demand.unmet) == (0, 10)
    desk.note(empty=False, now=10.0)
    assert desk.dispatcher.count_to_take(10.0 + 0.9 * TAKE_INTERVAL) == 0
    assert desk.dispatcher.count_to_take(10.0 + TAKE_INTERVAL) == 10 + 40


def test_nothing_is_taken_while_tasks_are_not_located_or_all_is_held():
    desk = taking_desk()
    desk.unlocated.awaited.add(5)
    assert desk.dispatcher.count_to_take(20.0) == 0
    desk.unlocated.awaited.clear()
    desk.table.bars.hold(None)
    assert desk.dispatcher.count_to_take(20.0) == 0
    desk.table.bars.release(None)
    assert desk.dispatcher.count_to_take(20.0) == 2


def test_tasks_without_a_seat_slow_takings_down_and_make_them_larger(monkeypatch):
    desk = taking_desk(seats=(("gpu", 1),))
    desk.wait_for_seats(7, 8, 9)
    assert desk.dispatcher.wake_at() == 10.0 + TAKE_INTERVAL
    assert desk.dispatcher.count_to_take(10.0 + 0.9 * TAKE_INTERVAL) == 0
    assert desk.dispatcher.count_to_take(10.0 + TAKE_INTERVAL) == 2 + 3
    monkeypatch.setattr(seats_module, "MAX_WAITING", 3)
    assert desk.dispatcher.count_to_take(20.0) == 0
    assert desk.dispatcher.wake_at() == inf
    monkeypatch.setattr(seats_module, "MAX_WAITING", 4)
    assert desk.dispatcher.count_to_take(20.0) == 5


def test_a_farm_that_takes_nothing_does_not_take_for_those_without_a_seat():
    desk = taking_desk(seats=(("gpu", 1),))
    desk.wait_for_seats(7, 8, 9)
    desk.table.take([1, 2, 3])
    assert desk.dispatcher.count_to_take(20.0) == 0


@pytest.mark.parametrize(
    ("waits", "records", "takes"),
    [
        ((), False, True),
        (("a task",), False, False),
        (("a task",), True, False),
        (("a task", "the order"), True, True),
        (("a task", "the order"), False, False),
        (("others",), False, False),
        (("lines",), False, False),
    ],
)
def test_an_empty_list_is_looked_at_again_after_a_second_or_with_the_last_record(
    waits, records, takes
):
    desk = Desk()
    desk.join(1)
    desk.note(empty=True, now=10.0, more_may_come="others" in waits)
    if "a task" in waits:
        desk.table.take([1])
        desk.table.queue.clear()
    desk.prefetch.some_wait = "the order" in waits
    desk.prefetch.waits_for_more = "lines" in waits
    soon, later = 10.0 + 0.9 * POLL_SECONDS, 10.0 + POLL_SECONDS
    assert (desk.dispatcher.count_to_take(soon, records=records) > 0) is takes
    assert desk.dispatcher.count_to_take(later, records=records) > 0


@pytest.mark.parametrize(
    ("place", "has_work"),
    [
        ("nowhere", False),
        ("the queue", True),
        ("the retry queue", True),
        ("a seat", True),
        ("the disk", True),
    ],
)
def test_a_rank_that_is_tried_again_has_work_wherever_a_task_waits(place, has_work):
    desk = Desk(seats=(("gpu", 1),))
    desk.note(empty=place != "the disk")
    if place == "the queue":
        desk.table.take([1])
    elif place == "the retry queue":
        desk.fail(1, rank=0)
    elif place == "a seat":
        desk.wait_for_seats(1)
    assert desk.dispatcher.has_work_for_returns() is has_work


# ---- when to act ---------------------------------------------------------------------


def test_without_a_rank_that_wants_leases_nothing_is_due():
    desk = Desk()
    desk.fail(7, rank=0)
    assert desk.dispatcher.wake_at() == inf


def test_a_look_at_the_disk_is_due_unless_there_is_enough_or_it_must_not_be():
    desk = taking_desk(canary=5)
    look_at = 10.0 + POLL_SECONDS
    assert desk.dispatcher.wake_at() == look_at
    desk.unlocated.awaited.add(5)
    assert desk.dispatcher.wake_at() == inf
    desk.unlocated.awaited.clear()
    desk.table.take([1])
    assert desk.dispatcher.wake_at() == look_at
    desk.table.take([2])
    assert desk.dispatcher.wake_at() == inf, "there is one for each worker"
    desk.table.queue.clear()
    desk.limits.note_taken(5, 10.0)
    assert desk.dispatcher.wake_at() == inf, "the gate is shut"


def test_a_look_for_those_without_a_seat_waits_if_the_disk_has_nothing():
    desk = taking_desk(seats=(("gpu", 1),))
    desk.wait_for_seats(7)
    desk.note(empty=True, now=10.0)
    assert desk.dispatcher.wake_at() == 10.0 + POLL_SECONDS


@pytest.mark.parametrize(
    ("rate", "is_queued", "wake_at"),
    [
        (None, False, PATIENCE_SECONDS),
        (0.01, False, 100.0),  # both have to be
        (1.0, False, PATIENCE_SECONDS),
        (0.01, True, 100.0),
        (1.0, True, 1.0),
    ],
)
def test_a_retry_or_a_start_is_due_when_both_the_rank_and_the_rate_allow_it(
    rate, is_queued, wake_at
):
    desk = Desk(start_rate=rate, canary=1)
    desk.limits.note_taken(1, 0.0)  # so that no taking is due
    desk.join(1)
    desk.dispatcher._start_rate.note_started(1)
    desk.fail(7, rank=1)
    if is_queued:
        desk.table.take([1])
    assert desk.dispatcher.wake_at() == wake_at


# ---- bounds of what goes out ---------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "unmet"),
    [({}, 2 + 10), ({"start_rate": 5.0}, 2), ({"seats": (("gpu", 1),)}, 2)],
)
def test_where_starts_or_seats_are_limited_nothing_goes_out_ahead(policy, unmet):
    desk = Desk(**policy)
    record = desk.join(1)
    record.mean, record.ended = 0.1, 100
    desk.dispatcher.update_demand(record)
    assert desk.dispatcher.demand.unmet == unmet


@pytest.mark.parametrize("rate", [None, 100.0])
def test_nothing_goes_out_once_as_many_have_failed_as_may(rate):
    desk = Desk(max_failures=1, start_rate=rate)
    desk.join(1)
    desk.table.take([1, 2])
    desk.limits.failures.note(50, failed=True)
    desk.dispatcher.assign(1.0)
    assert desk.posted == []


def test_a_task_whose_kind_has_a_seat_again_goes_first():
    desk = Desk(seats=(("gpu", 1),))
    desk.wait_for_seats(5, 6)
    desk.join(1, workers=1)
    desk.table.take([8])
    desk.table.seats.free["gpu"] = 1
    desk.dispatcher.assign(0.0)
    assert desk.given(1) == [5]


def test_a_rank_gets_no_more_than_it_has_workers_where_seats_are_limited():
    desk = Desk(seats=(("gpu", 1),))
    desk.join(1, workers=2)
    desk.table.take(range(5))
    desk.dispatcher.assign(0.0)
    assert desk.given(1) == [0, 1]


def test_where_no_task_has_a_seat_none_goes_out():
    desk = Desk(seats=(("gpu", 1),))
    desk.table.seats.name_kinds({0: "gpu"}, ())
    desk.table.seats.free["gpu"] = 0
    desk.join(1)
    desk.table.take([0])
    desk.dispatcher.assign(0.0)
    assert desk.posted == []
    assert len(desk.table.seats) == 1


@pytest.mark.parametrize(("rate", "given"), [(None, [3, 4]), (2.0, [3])])
def test_retries_fill_the_workers_and_count_as_starts(rate, given):
    desk = Desk(start_rate=rate)
    desk.join(1)
    for taskid in (3, 4, 5):
        desk.fail(taskid, rank=0)
    desk.dispatcher.assign(0.0)
    assert desk.given(1) == given
    assert desk.dispatcher.demand.unmet == 2 - len(given)


def test_no_more_tasks_that_may_kill_share_a_rank_than_it_has_workers():
    desk = Desk()
    desk.join(1)
    deadly(desk, 7, 8, 9)
    desk.note(empty=True)
    desk.dispatcher.assign(0.0)
    assert len(desk.given(1)) == 2
    assert len(desk.table.retry_queue) == 1


def test_what_goes_to_one_rank_is_taken_off_what_others_may_get():
    desk = Desk(start_rate=20.0)
    for rank in (0, 1):
        desk.join(rank)
    desk.table.take(range(6))
    desk.dispatcher.assign(50.0)
    assert len(desk.given(0) + desk.given(1)) == 2


@pytest.mark.parametrize("queued", [2, 3])
def test_workers_for_which_tasks_are_there_do_not_hasten_the_next_taking(queued):
    desk = Desk(start_rate=1000.0)
    record = desk.join(1)
    record.mean, record.ended = 0.1, 100
    desk.dispatcher.capacity.update(record)
    desk.dispatcher.capacity.ended = 100
    desk.note(empty=False, now=10.0)
    desk.table.take(range(queued))
    assert desk.dispatcher.count_to_take(10.0) == 0
    assert desk.dispatcher.count_to_take(10.0 + TAKE_INTERVAL) == 2 + 40 - queued


class NoCommands(Commands):
    """A list whose handler knows none of its tasks."""

    def __getitem__(self, taskid: Any) -> Any:
        raise InputError(f"no task {taskid}")


def test_tasks_without_a_command_fail_and_their_rank_is_sent_nothing():
    desk = Desk()
    desk.join(1)
    desk.dispatcher.commands = NoCommands(100)
    desk.table.take([7])
    desk.dispatcher.assign(5.0)
    assert desk.posted == [NoteInLog(7, "no task 7")]
    (task,) = desk.table.ended
    assert task.result is not None
    assert (task.result.outcome, task.result.status) == (Outcome.FAILED, NO_COMMAND)
    assert (task.due, task.past.is_final) == (5.0, True)
    assert not desk.farm.ranks[1].is_addressed
    assert desk.dispatcher.demand.unmet == 2
