"""Which tasks may start: the frontier against a model that looks at all tasks."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mpifarm.order.constraints import Constraints
from mpifarm.order.frontier import Frontier, PassedBarrier

MOST = 12


class Model:
    """The same answers as the frontier's, each out of the states of all tasks."""

    def __init__(self, constraints: Constraints, states: list[str]) -> None:
        self.constraints = constraints
        self.states = states
        self.expects_shared = False

    def is_shared(self, taskid: int) -> bool:
        firsts = (each.first for each in self.constraints.barriers)
        is_first = all(taskid < first for first in firsts)
        special = {*self.constraints.after, *self.constraints.kinds}
        return is_first and taskid not in special and not self.constraints.is_foreign

    def end(self, taskid: int, state: str) -> None:
        if self.states[taskid] != "finished":
            self.states[taskid] = state

    def revive(self, taskid: int) -> None:
        if self.states[taskid] == "failed":
            self.states[taskid] = ""

    def is_bad(self, taskid: int) -> bool:
        state = self.states[taskid]
        return state == "failed" or (not state and self.is_behind_failed(taskid))

    def is_behind_failed(self, taskid: int) -> bool:
        return any(map(self.is_bad, self.constraints.after.get(taskid, ())))

    def find_barrier(self) -> tuple[int, bool]:
        """Return what is behind the first shut barrier, and whether it is doomed."""
        for first, checks, since in self.constraints.barriers:
            if not all(self.states[:first]):
                return first, False
            if checks and "failed" in self.states[since:first]:
                return first, True
        return len(self.states), False

    def is_doomed(self, taskid: int) -> bool:
        first, is_failed = self.find_barrier()
        return self.is_behind_failed(taskid) or (is_failed and taskid >= first)

    def is_ready(self, taskid: int) -> bool:
        waits_for = self.constraints.after.get(taskid, ())
        finished = all(self.states[each] == "finished" for each in waits_for)
        return finished and taskid < self.find_barrier()[0]


def flags(states: list[str], wanted: str) -> bytearray:
    return bytearray(state == wanted for state in states)


def add_tasks(constraints: Constraints, begin: int, end: int, random: Random) -> None:
    for taskid in range(begin, end):
        if random.random() < 0.2:
            since = random.choice([0, random.randint(0, taskid)])
            checks = random.random() < 0.4
            constraints.add_barrier(taskid, checks=checks, since=since)
        if taskid and random.random() < 0.5:
            count = random.randint(1, 3)
            waits_for = [random.randrange(taskid) for _ in range(count)]
            constraints.after[taskid] = tuple(waits_for)
        if random.random() < 0.1:
            constraints.kinds[taskid] = "gpu"


def compare(frontier: Frontier, model: Model) -> None:
    total = len(model.states)
    first, is_failed = model.find_barrier()
    assert frontier.horizon == first
    assert frontier.doomed_from == (first if is_failed else total)
    assert [*frontier.closed] == [
        not model.is_behind_failed(taskid)
        and any(
            model.states[each] != "finished"
            for each in model.constraints.after.get(taskid, ())
        )
        for taskid in range(total)
    ]
    for taskid in range(total):
        doomed = frontier.find_doomed(taskid)
        assert bool(doomed) == model.is_doomed(taskid)
        if doomed:
            root = int(doomed.split()[1])
            assert root < taskid
            assert model.states[root] == "failed"
        assert frontier.is_ready(taskid) == model.is_ready(taskid)
    compare_candidates(frontier, model)


def compare_candidates(frontier: Frontier, model: Model) -> None:
    """What may leave ``waiting`` is open there, and may start or never will."""
    there = [
        taskid
        for taskid, state in enumerate(model.states)
        if not state and (model.expects_shared or not model.is_shared(taskid))
    ]
    first, is_failed = model.find_barrier()
    reached = [each for each in there if each < first or is_failed]
    ready = {each for each in reached if model.is_ready(each)}
    doomed = {each for each in reached if model.is_doomed(each)}
    for wanted, ids in ((False, ready - doomed), (True, ready | doomed)):
        marks = frontier.find_candidates(doomed=wanted)
        assert {taskid for taskid, mark in enumerate(marks) if not mark} == ids
    failed = [each for each, state in enumerate(model.states) if state == "failed"]
    assert frontier.find_failed() == failed
    some = [each for each in failed if 2 <= each < 9]
    assert frontier.find_failed(range(2, 9), 2) == some[:2]


@given(st.randoms(use_true_random=False))
def test_ready_and_doomed_are_those_of_the_model(random: Random) -> None:
    constraints = Constraints(is_foreign=random.random() < 0.1)
    total = random.randint(1, MOST)
    add_tasks(constraints, 0, total, random)
    some = ["", "", "finished", "failed"]
    model = Model(constraints, [random.choice(some) for _ in range(total)])
    finished, failed = (flags(model.states, each) for each in ("finished", "failed"))
    frontier = Frontier(constraints, finished, failed)
    compare(frontier, model)
    for _ in range(3 * total):
        taskid, act = random.randrange(total), random.random()
        if act < 0.6:
            frontier.note_ends(finished=[taskid], failed=[])
            model.end(taskid, "finished")
        elif act < 0.8:
            frontier.note_ends(finished=[], failed=[taskid])
            model.end(taskid, "failed")
        elif act < 0.82:
            frontier.expect_shared()
            model.expects_shared = True
        elif act < 0.95:
            revived = [random.randrange(total) for _ in range(random.randint(1, 3))]
            frontier.revive(revived)
            for each in revived:
                model.revive(each)
        else:
            before, total = total, total + random.randint(1, 4)
            add_tasks(constraints, before, total, random)
            model.states += [""] * (total - before)
            frontier.grow(total)
        compare(frontier, model)


@given(st.randoms(use_true_random=False))
def test_a_list_is_done_in_its_order(random: Random) -> None:
    constraints = Constraints()
    total = random.randint(1, MOST)
    add_tasks(constraints, 0, total, random)
    frontier = Frontier(constraints, bytearray(total), bytearray(total))
    left = set(range(total))
    while left:
        ready = [each for each in left if frontier.is_ready(each)]
        doomed = [each for each in left if frontier.find_doomed(each)]
        assert ready or doomed
        taskid = random.choice(ready + doomed)
        left.remove(taskid)
        if taskid in doomed or random.random() < 0.2:
            frontier.note_ends(finished=[], failed=[taskid])
        else:
            frontier.note_ends(finished=[taskid], failed=[])
    assert frontier.horizon in {total, frontier.doomed_from}


def test_a_doomed_task_names_the_one_that_failed_in_the_first_place() -> None:
    constraints = Constraints(after={1: (0,), 2: (1,), 3: (2,), 5: (4, 3)})
    frontier = Frontier(constraints, bytearray(6), bytearray(6))
    frontier.note_ends(finished=[], failed=[0])
    assert {frontier.find_doomed(each) for each in (1, 2, 3, 5)} == {"task 0 failed"}
    frontier.note_ends(finished=[], failed=[1, 2])
    assert frontier.find_doomed(3) == "task 0 failed"
    frontier.revive([0, 1])
    frontier.note_ends(finished=[0], failed=[])
    assert frontier.is_ready(1)
    assert frontier.find_doomed(5) == "task 2 failed"
    frontier.revive([2])
    assert not frontier.find_doomed(5)


def test_what_keeps_others_from_starting() -> None:
    constraints = Constraints(after={4: (3,), 5: (4,)})
    constraints.add_barrier(2, checks=False)
    frontier = Frontier(constraints, bytearray(6), bytearray(6))
    assert [*frontier.find_open()] == [0, 1]
    frontier.note_ends(finished=[1], failed=[])
    assert [*frontier.find_open()] == [0]
    frontier.note_ends(finished=[], failed=[0])
    assert [*frontier.find_open()] == [3]
    frontier.note_ends(finished=[2, 3, 4, 5], failed=[])
    assert not [*frontier.find_open()]


def test_no_more_is_looked_at_than_the_next_stage_when_a_barrier_opens() -> None:
    class Counted(bytearray):
        seen = 0

        def count(self, value: int, begin: int = 0, end: int = 0) -> int:  # type: ignore[override]
            type(self).seen += end - begin
            return super().count(value, begin, end)

    constraints = Constraints()
    total, stage = 100_000, 10
    for first in range(stage, total, stage):
        constraints.add_barrier(first, checks=True)
    frontier = Frontier(constraints, bytearray(total), bytearray(total))
    frontier._states = Counted(frontier._states)
    for taskid in range(total):
        assert frontier.horizon == (taskid // stage + 1) * stage
        frontier.note_ends(finished=[taskid], failed=[])
    assert Counted.seen <= 2 * total


def test_a_task_of_which_only_the_directive_is_there_is_taken_up_when_it_comes():
    constraints = Constraints(after={2: (0,)})
    constraints.add_barrier(2, checks=False)
    frontier = Frontier(constraints, bytearray(2), bytearray(2))
    assert frontier.horizon == 2
    constraints.after[3] = (1,)
    frontier.grow(4)
    frontier.note_ends(finished=[1], failed=[])
    assert [frontier.is_ready(each) for each in range(4)] == [True, True, False, False]
    frontier.note_ends(finished=[], failed=[0])
    assert frontier.find_doomed(2) == "task 0 failed"
    assert frontier.is_ready(3)


def test_a_barrier_may_check_the_last_stage_alone():
    constraints = Constraints()
    constraints.add_barrier(1, checks=False)
    constraints.add_barrier(2, checks=True, since=1)
    constraints.add_barrier(3, checks=True, since=2)
    frontier = Frontier(constraints, bytearray(4), bytearray(4))
    frontier.note_ends(finished=[1], failed=[0])
    assert frontier.is_ready(2)
    frontier.note_ends(finished=[], failed=[2])
    assert frontier.find_doomed(3) == "task 2 failed"


def test_the_reason_is_never_a_task_that_is_open_again() -> None:
    constraints = Constraints(after={1: (0,), 2: (1,), 3: (2,)})
    frontier = Frontier(constraints, bytearray(4), bytearray(4))
    frontier.note_ends(finished=[], failed=[2])
    assert frontier.find_doomed(3) == "task 2 failed"
    frontier.note_ends(finished=[], failed=[0])
    frontier.revive([2])  # which stays doomed, by 0
    assert frontier.find_doomed(3) == "task 0 failed"


def test_a_barrier_behind_all_tasks_may_go_before_the_list_grows() -> None:
    constraints = Constraints()
    constraints.add_barrier(2, checks=False)
    frontier = Frontier(constraints, bytearray([1, 1]), bytearray(2))
    constraints.cut(2)
    constraints.add_barrier(3, checks=False)
    frontier.grow(4)
    assert frontier.horizon == 3
    frontier.note_ends(finished=[2], failed=[])
    assert frontier.is_ready(3)


def frontier_of(total: int, constraints: Constraints, **ended: list[int]) -> Frontier:
    finished, failed = bytearray(total), bytearray(total)
    frontier = Frontier(constraints, finished, failed)
    frontier.note_ends(
        finished=ended.get("finished", []), failed=ended.get("failed", [])
    )
    return frontier


def staged(*, checks: bool = False) -> Constraints:
    """Tasks 0 and 1, then 2 and 3, then 4."""
    constraints = Constraints()
    constraints.add_barrier(2, checks=checks)
    constraints.add_barrier(4, checks=checks)
    return constraints


def test_a_barrier_opens_with_the_last_end_in_front_of_it():
    frontier = frontier_of(5, staged())
    assert (frontier.horizon, frontier.some_wait) == (2, True)
    frontier.note_ends(finished=[0], failed=[])
    assert frontier.horizon == 2
    frontier.note_ends(finished=[], failed=[1])
    assert (frontier.horizon, frontier.doomed_from) == (4, 5)
    frontier.note_ends(finished=[2, 3], failed=[])
    assert (frontier.horizon, frontier.some_wait) == (5, False)


def test_a_barrier_that_opens_though_tasks_failed_is_told_once_with_its_stage():
    frontier = frontier_of(5, staged())
    assert frontier.take_passed() == []
    frontier.note_ends(finished=[0], failed=[1])
    assert frontier.take_passed() == [PassedBarrier(2, 1, [1])]
    assert frontier.take_passed() == []
    frontier.note_ends(finished=[2, 3], failed=[])
    assert frontier.take_passed() == []  # nothing failed between the two barriers
    frontier.revive([1])
    frontier.note_ends(finished=[], failed=[1])
    assert frontier.take_passed() == [PassedBarrier(2, 1, [1])]


def test_a_barrier_that_was_open_at_the_start_or_checks_is_not_told():
    flags = bytearray([1, 0, 0, 0, 0]), bytearray([0, 1, 0, 0, 0])
    passed = Frontier(staged(), *flags)
    assert (passed.horizon, passed.take_passed()) == (4, [])
    passed.note_ends(finished=[], failed=[2, 3])
    assert passed.take_passed() == [PassedBarrier(4, 2, [2, 3])]
    checked = frontier_of(5, staged(checks=True))
    checked.note_ends(finished=[0], failed=[1])
    assert checked.take_passed() == []


def test_a_task_that_is_open_again_shuts_the_barriers_behind_it():
    frontier = frontier_of(5, staged(), finished=[1, 2, 3], failed=[0])
    assert frontier.horizon == 5
    frontier.revive([1, 0, 2])
    assert frontier.horizon == 2
    assert not frontier.is_ready(3)
    frontier.note_ends(finished=[0], failed=[])
    assert frontier.horizon == 5


def test_a_task_behind_an_open_barrier_that_is_open_again_leaves_that_open():
    frontier = frontier_of(5, staged(), finished=[0, 1, 3], failed=[2])
    frontier.revive([2])
    assert (frontier.horizon, frontier.is_ready(2)) == (4, True)


def test_a_barrier_with_check_stays_shut_until_what_failed_has_finished():
    frontier = frontier_of(5, staged(checks=True), finished=[1], failed=[0])
    assert (frontier.horizon, frontier.doomed_from) == (2, 2)
    assert frontier.find_doomed(1) == ""
    assert frontier.find_doomed(2) == "task 0 failed"
    assert frontier.find_candidate(0) == 0
    assert frontier.find_candidate(2) == 2
    frontier.note_ends(finished=[0], failed=[])
    assert (frontier.horizon, frontier.doomed_from) == (4, 5)
    assert frontier.find_doomed(2) == ""


def test_what_has_finished_does_not_fail_any_more():
    frontier = frontier_of(3, Constraints(after={1: (0,)}), finished=[0])
    frontier.note_ends(finished=[], failed=[0])
    assert frontier.is_ready(1)
    changes = frontier.changes
    frontier.note_ends(finished=[0], failed=[0])
    frontier.revive([0])
    assert frontier.changes == changes


def test_which_tasks_wait_and_may_start():
    constraints = Constraints(after={1: (0,), 3: (1, 2), 4: (2,)})
    frontier = frontier_of(6, constraints)
    assert [*frontier.find_closed()] == [1, 3, 4]
    assert frontier.find_candidate(0) == 0
    assert frontier.find_candidate(3) == 5
    assert frontier.find_candidate(6) == 6
    assert frontier.find_candidate(9) == 9
    assert not frontier.are_ready(range(2))
    assert frontier.are_ready(range(2, 3))
    assert frontier.are_ready(range(5, 6))
    assert not frontier.are_ready(range(5, 7)), "the list has six"
    frontier.note_ends(finished=[0], failed=[2])
    assert [*frontier.find_closed()] == []
    assert frontier.doomed == {3, 4}
    assert not frontier.are_ready(range(3, 6))
    assert frontier.find_candidate(3) == 3, "it never will"


def test_a_task_for_which_others_wait_holds_them_up_until_it_has_ended():
    constraints = Constraints(after={3: (2,)})
    constraints.add_barrier(1, checks=False)
    frontier = frontier_of(4, constraints)
    assert [frontier.holds_up(each) for each in range(4)] == [True, False, True, False]
    frontier.note_ends(finished=[0], failed=[])
    assert [frontier.holds_up(each) for each in range(4)] == [
        *(False, False, True, False)
    ]
    frontier.note_ends(finished=[], failed=[2])
    assert not frontier.holds_up(2)
