"""What a list says of its tasks: barriers, tasks that wait for others, kinds."""

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
