"""Farms that run a list with an order: what waits, what is not run, when they end."""

import random
from dataclasses import replace

import pytest

from mpifarm.coordinator.effects import Transact
from mpifarm.model.requests import Fate, FateOfTasks, Request, RequestKind
from mpifarm.model.settings import Policy
from mpifarm.model.task import Outcome
from mpifarm.order.constraints import Constraints
from tests.unit.fakes import FakeDisk, SimulatedFarm
from tests.unit.ordered_farm import OrderedFarm, find_needed, make_constraints

DELAY = 0.001
"""Seconds that a message takes at the most, in these farms."""


def expected_outcomes(
    constraints: Constraints, total: int, fails: set[int]
) -> dict[int, Outcome]:
    """Return how each task has to end, where those of `fails` fail if they run."""
    ends: dict[int, Outcome] = {}
    for taskid in range(total):
        needed = find_needed(constraints, taskid)
        if any(ends[each] is not Outcome.COMPLETED for each in needed):
            ends[taskid] = Outcome.NOT_RUN
        else:
            failed = taskid in fails
            ends[taskid] = Outcome.FAILED if failed else Outcome.COMPLETED
    return ends


def outcomes(disk: FakeDisk) -> dict[int, Outcome]:
    return {each: record.result.outcome for each, record in disk.records.items()}


@pytest.mark.parametrize("seed", range(25))
def test_each_task_ends_once_and_none_begins_before_what_it_waits_for(seed):
    luck = random.Random(seed)
    total = luck.randint(1, 120)
    constraints = make_constraints(total, luck)
    fails = {each for each in range(total) if luck.random() < luck.choice([0, 0.05])}
    disk = FakeDisk(total, constraints)
    farm = OrderedFarm(
        *(constraints, disk),
        ranks=3,
        seconds=lambda _: luck.choice([0.001, 0.05, 2.0]),
        seed=seed,
        disk_seconds=luck.choice([0.0, 0.02]),
        survives_rank_loss=True,
        policy=Policy(quarantine=0),
    )
    farm.status = lambda taskid: int(taskid in fails)
    farm.after(luck.uniform(0.1, 3), lambda: farm.kill(2))
    farm.after(luck.uniform(0.1, 3), farm.lose_messages)
    if luck.random() < 0.5:
        farm.after(luck.uniform(0.1, 3), farm.lose_coordinator)
    farm.run()
    assert farm.ended_at is not None
    assert not disk.held
    lost = {t for t, o in outcomes(disk).items() if o is Outcome.LOST}
    expected = expected_outcomes(constraints, total, fails | lost)
    expected |= dict.fromkeys(lost, Outcome.LOST)
    assert outcomes(disk) == expected


@pytest.mark.parametrize("seed", range(25))
def test_two_farms_share_a_list_with_an_order_and_both_stay_to_its_end(seed):
    luck = random.Random(seed)
    total = luck.randint(1, 120)
    constraints = make_constraints(total, luck)
    fails = {each for each in range(total) if luck.random() < 0.03}
    disk = FakeDisk(total, constraints)
    farms = [
        OrderedFarm(
            *(constraints, each),
            ranks=2,
            seconds=lambda _: luck.choice([0.001, 0.05, 2.0]),
            seed=seed,
            policy=Policy(quarantine=0),
        )
        for each in (disk, disk.for_another_farm())
    ]
    for farm in farms:
        farm.status = lambda taskid: int(taskid in fails)
    if luck.random() < 0.5:
        farms[0].after(luck.uniform(0.1, 3), lambda: farms[0].kill(1))
    while any(farm.ended_at is None for farm in farms):
        for farm in farms:
            farm.run(0.01)
    assert outcomes(disk) == expected_outcomes(constraints, total, fails)


def test_what_is_not_run_is_not_run_either_if_the_coordinator_is_lost_over_it():
    constraints = stages(4, checks=True)
    farm = OrderedFarm(
        *(constraints, FakeDisk(12, constraints)),
        ranks=3,
        disk_seconds=0.05,
        survives_rank_loss=True,
        policy=Policy(quarantine=0),
    )
    farm.status = lambda taskid: int(taskid == 1)

    def strike() -> None:
        if farm.disk.held & {*range(4, 12)}:
            farm.lose_coordinator()
        else:
            farm.after(0.001, strike)

    farm.after(0.1, strike)
    farm.run()
    assert outcomes(farm.disk) == expected_outcomes(constraints, 12, {1})


def stages(*firsts: int, checks: bool = False) -> Constraints:
    constraints = Constraints()
    for first in firsts:
        constraints.add_barrier(first, checks=checks)
    return constraints


def test_the_transaction_that_records_the_last_of_a_stage_takes_the_next_stage():
    constraints = stages(8, 16)
    farm = OrderedFarm(constraints, FakeDisk(24, constraints), ranks=2)
    farm.run()
    records = farm.disk.records
    last = [max(records[each].at for each in range(k, k + 8)) for k in (0, 8, 16)]
    assert set(last[:2]) <= {*farm.disk.takes}
    for first, end in ((8, last[0]), (16, last[1])):
        assert all(
            farm.ends[each, 1] - 1.0 <= end + 2 * DELAY + 1e-6
            for each in range(first, first + 8)
        )


def test_what_waits_for_a_single_task_begins_when_that_is_recorded():
    """Others run on meanwhile, for long."""
    constraints = Constraints(after={2: (0,)})
    farm = OrderedFarm(
        *(constraints, FakeDisk(3, constraints)),
        ranks=1,
        workers=3,
        seconds=lambda taskid: 100.0 if taskid == 1 else 1.0,
    )
    farm.run()
    recorded = farm.disk.records[0].at
    assert farm.ends[2, 1] - 1.0 <= recorded + 2 * DELAY + 1e-6
    assert farm.age_at_record(farm.disk.records[0]) < 0.2


def test_what_is_not_run_is_recorded_by_its_reason_which_is_told_once():
    constraints = stages(4, checks=True)
    constraints.after[2] = (1,)
    farm = OrderedFarm(constraints, FakeDisk(100, constraints))
    farm.status = lambda taskid: int(taskid == 1)
    farm.run()
    notes = {
        each: record.result.note
        for each, record in farm.disk.records.items()
        if record.result.outcome is Outcome.NOT_RUN
    }
    assert notes == dict.fromkeys([2, *range(4, 100)], "not run: task 1 failed")
    told = [each for each in farm.told if "not run" in each]
    assert told == ["task 1 failed: the tasks that wait for it are not run"]
    assert all(farm.disk.records[each].result.attempt == 0 for each in notes)


@pytest.mark.parametrize("cancels", [False, True])
def test_what_a_retry_lets_run_after_all_before_its_record_runs(cancels):
    """A user may have cancelled one of them in between."""
    constraints = stages(4, checks=True)
    farm = OrderedFarm(constraints, FakeDisk(12, constraints), disk_seconds=0.05)
    farm.status = lambda taskid: int(taskid == 1)
    waits = {*range(4, 12)}

    def put_back() -> None:
        if not farm.disk.held & waits:
            farm.after(0.001, put_back)
            return
        assert farm.disk.frontier is not None
        farm.disk.frontier.revive([1])
        del farm.disk.records[1]
        farm.disk.toprocess.appendleft(1)
        farm.status = lambda _: 0
        if cancels:
            request = Request("r", RequestKind.CANCEL, (7,), "eve")
            farm.coordinator.on_request(request, farm.now)

    farm.after(0.1, put_back)
    farm.run()
    ends = dict.fromkeys(range(12), Outcome.COMPLETED)
    if cancels:
        ends[7] = Outcome.CANCELLED
        assert farm.replies[0].fates == (FateOfTasks(Fate.WAITED, "", (7,)),)
    assert outcomes(farm.disk) == ends


class PuttingBackDisk(FakeDisk):
    """A disk that hands tasks over once, to be put back: a retry was cut half-way."""

    def transact(self, wanted: Transact, now: float) -> tuple[list[int], bool]:
        if not wanted.take or self.given_back:
            return super().transact(wanted, now)
        super().transact(replace(wanted, take=0, pull=(0, 1)), now)
        return [], True


def test_a_farm_that_only_puts_tasks_back_looks_again_before_it_ends():
    farm = SimulatedFarm(2, disk=PuttingBackDisk(2))
    farm.run()
    assert sorted(farm.disk.records) == [0, 1]


def test_what_is_not_run_counts_for_no_limit_of_failures_and_is_not_retried():
    constraints = stages(2, checks=True)
    farm = OrderedFarm(
        *(constraints, FakeDisk(50, constraints)),
        policy=Policy(max_failures=2, retries=3, quarantine=0),
    )
    farm.status = lambda taskid: int(taskid == 1)
    farm.run()
    assert len(farm.disk.records) == 50
    assert not farm.coordinator.too_many_failures
    assert [each.result.taskid for each in farm.noted] == [1, 1, 1]


def test_a_farm_stays_while_others_hold_what_its_tasks_wait_for():
    constraints = stages(3)
    disk = FakeDisk(4, constraints)
    other = disk.for_another_farm()
    other._hold([0])
    disk.toprocess.remove(0)
    farm = OrderedFarm(constraints, disk)
    farm.run(60)
    assert farm.ended_at is None
    assert sorted(disk.records) == [1, 2]
    other.held.clear()
    other.transact(Transact((), (), 0), farm.now)
    assert disk.frontier is not None
    disk.frontier.note_ends(finished=[0], failed=())
    disk.records[0] = disk.records[1]
    farm.run(1.5)
    assert sorted(disk.records) == [0, 1, 2, 3]
    assert farm.ended_at is not None


def test_a_farm_ends_when_nothing_can_come_any_more():
    """What its tasks wait for is in no file."""
    constraints = stages(3)
    disk = FakeDisk(4, constraints)
    disk.toprocess.remove(0)
    farm = OrderedFarm(constraints, disk)
    farm.run()
    assert sorted(disk.records) == [1, 2]
    assert [*disk.toprocess] == [3]
