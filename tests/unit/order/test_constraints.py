"""What a list says of its tasks: barriers, tasks that wait for others, kinds."""

import pytest

from mpifarm.order.constraints import Barrier, Constraints


def test_no_constraints() -> None:
    constraints = Constraints()
    assert not constraints
    assert constraints.is_shared(7)
    assert [*constraints.describe(0, 10)] == []


def test_which_tasks_plain_farmers_may_run() -> None:
    constraints = Constraints(after={2: (0,)}, kinds={1: "disk"})
    constraints.add_barrier(4, checks=False)
    assert [each for each in range(6) if constraints.is_shared(each)] == [0, 3]
    assert not Constraints(is_foreign=True).is_shared(0)


def test_barriers_at_one_place_are_one() -> None:
    constraints = Constraints()
    constraints.add_barrier(0, checks=False)
    constraints.add_barrier(3, checks=True)
    constraints.add_barrier(3, checks=False)
    constraints.add_barrier(5, checks=False)
    assert constraints.barriers == [Barrier(3, checks=True), Barrier(5, checks=False)]
    counts = [constraints.count_barriers(each) for each in range(7)]
    assert counts == [0, 0, 0, 1, 1, 2, 2]


def test_directives_by_task() -> None:
    constraints = Constraints(after={3: (0, 2), 9: (1,)}, kinds={3: "disk", 4: "gpu"})
    constraints.add_barrier(3, checks=True)
    expected = [(3, "#BARRIER CHECK\n#AFTER 0,2\n#KIND disk\n"), (4, "#KIND gpu\n")]
    assert [*constraints.describe(0, 9)] == expected
    assert [*constraints.describe(4, 5)] == [(4, "#KIND gpu\n")]
    assert [*constraints.describe(9, 10)] == [(9, "#AFTER 1\n")]


def test_a_barrier_says_from_where_it_checks() -> None:
    constraints = Constraints()
    constraints.add_barrier(3, checks=True, since=2)
    constraints.add_barrier(3, checks=False)
    constraints.add_barrier(4, checks=False)
    constraints.add_barrier(4, checks=True, since=4)
    constraints.add_barrier(5, checks=True, since=5)
    constraints.add_barrier(5, checks=True, since=1)
    checked = [
        Barrier(each, checks=True, since=since)
        for each, since in [(3, 2), (4, 4), (5, 1)]
    ]
    assert constraints.barriers == checked
    assert dict(constraints.describe(0, 9))[3] == "#BARRIER CHECK 2\n"
    copy = Constraints()
    copy.extend(constraints)
    assert copy == constraints


@pytest.mark.parametrize(
    "constraints",
    [
        Constraints(barriers=[Barrier(3, checks=False)]),
        Constraints(after={3: (0,)}),
        Constraints(kinds={0: "disk"}),
        Constraints(is_foreign=True),
    ],
)
def test_whatever_plain_farmers_do_not_heed_is_a_constraint(constraints):
    assert constraints


def test_a_cut_leaves_what_is_said_of_the_first_tasks_and_no_barrier_behind_them():
    constraints = Constraints(
        after={2: (0,), 3: (1,), 4: (0,)}, kinds={1: "a", 3: "b", 5: "c"}
    )
    for first in (2, 3, 4, 5):
        constraints.add_barrier(first, checks=first == 4)
    rest = constraints.cut(3)
    assert constraints.barriers == [Barrier(2, checks=False)]
    assert (constraints.after, constraints.kinds) == ({2: (0,)}, {1: "a"})
    assert rest.barriers == [Barrier(first, checks=first == 4) for first in (3, 4, 5)]
    assert [*rest.after.items()] == [(3, (1,)), (4, (0,))]
    assert [*rest.kinds.items()] == [(3, "b"), (5, "c")]
    assert not rest.is_foreign
    assert Constraints(is_foreign=True).cut(3).is_foreign


def test_what_is_cut_off_and_appended_again_is_as_before():
    constraints = Constraints(after={2: (0,), 4: (3,)}, kinds={4: "a"})
    constraints.add_barrier(2, checks=True, since=1)
    constraints.add_barrier(4, checks=False)
    before = [*constraints.describe(0, 9)]
    for count in range(6):
        constraints.extend(constraints.cut(count))
        assert [*constraints.describe(0, 9)] == before


def test_tasks_for_which_a_task_waits_are_joined_in_order():
    constraints = Constraints(after={5: (1, 4)})
    constraints.extend(Constraints(after={5: (3, 1), 6: (2,)}, kinds={6: "disk"}))
    assert constraints.after == {5: (1, 3, 4), 6: (2,)}
    assert constraints.kinds == {6: "disk"}


@pytest.mark.parametrize("with_barrier", [True, False])
def test_of_many_tasks_those_are_found_that_plain_farmers_may_run(with_barrier):
    constraints = Constraints(after={2: (0,)}, kinds={1: "disk"})
    if with_barrier:
        constraints.add_barrier(4, checks=False)
        constraints.add_barrier(7, checks=False)
    found = [*constraints.find_shared(range(8))]
    assert found == [each for each in range(8) if constraints.is_shared(each)]
    assert found == ([0, 3] if with_barrier else [0, 3, 4, 5, 6, 7])
    assert [*Constraints(is_foreign=True).find_shared([0])] == []


def test_directives_are_those_of_the_range_whether_it_is_long_or_short():
    kinds = dict.fromkeys(range(2, 12), "disk")
    constraints = Constraints(kinds=kinds)
    for first in (3, 5, 7):
        constraints.add_barrier(first, checks=False)
    for begin, end in ((3, 5), (0, 99), (4, 5), (5, 8)):
        found = dict(constraints.describe(begin, end))
        assert [*found] == [each for each in kinds if begin <= each < end]
        barred = [each for each, said in found.items() if "#BARRIER" in said]
        assert barred == [each for each in (3, 5, 7) if begin <= each < end]


def test_a_barrier_that_checks_nothing_checks_from_nowhere():
    constraints = Constraints()
    constraints.add_barrier(3, checks=False, since=2)
    assert constraints.barriers == [Barrier(3, checks=False, since=0)]


def test_ids_are_in_order_however_many_lie_between():
    constraints = Constraints(after={40: (16,)}, kinds={16: "a", 9: "b"})
    constraints.extend(Constraints(after={40: (9,)}))
    assert constraints.after == {40: (9, 16)}
    said = [*constraints.describe(0, 99)]
    assert said == [(9, "#KIND b\n"), (16, "#KIND a\n"), (40, "#AFTER 9,16\n")]


@pytest.mark.parametrize("end", [12, 99])
def test_only_tasks_of_the_range_that_have_directives_are_described(end):
    kinds = dict.fromkeys([2, 3, 5, 8, 11, 100], "disk")
    found = [taskid for taskid, _ in Constraints(kinds=kinds).describe(3, end)]
    assert found == [3, 5, 8, 11]
    found = [taskid for taskid, _ in Constraints(kinds=kinds).describe(3, 6)]
    assert found == [3, 5]


def test_a_barrier_is_described_as_it_checks():
    constraints = Constraints()
    constraints.add_barrier(3, checks=False)
    constraints.add_barrier(5, checks=True)
    assert [*constraints.describe(0, 9)] == [
        *((3, "#BARRIER\n"), (5, "#BARRIER CHECK\n"))
    ]
