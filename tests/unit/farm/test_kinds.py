"""Kinds of tasks beside --limit: what is left out or misspelt is refused."""

import pytest

from mpifarm.errors import InputError
from mpifarm.farm.kinds import check_kinds, warn_of_kinds
from mpifarm.model.settings import Default, Policy, Settings
from mpifarm.order.constraints import Constraints


def check(kinds: dict[int, str], *seats: tuple[str, int]) -> str:
    """Return the warning."""
    settings = Settings("list.txt", "list.txt_workdir", policy=Policy(seats=seats))
    check_kinds(settings, Constraints(kinds=kinds))
    return warn_of_kinds(settings, Constraints(kinds=kinds))


def test_each_kind_needs_a_number_and_each_number_a_kind():
    assert check({}) == ""
    assert check({3: "disk", 4: "gpu"}, ("gpu", 0), ("disk", 2)) == ""


@pytest.mark.parametrize(
    ("kinds", "seats", "sentence"),
    [
        (
            {7: "disk", 8: "gpu", 9: "disk"},
            [("gpu", 1)],
            (
                "task 7 of list.txt is of the kind 'disk', which has no limit: say how"
                " many of a kind may run at a time, by --limit disk=N (0: any number)"
            ),
        ),
        (
            {7: "disk", 8: "gpu"},
            [],
            (
                "task 7 of list.txt is of the kind 'disk', which has no limit: say how"
                " many of a kind may run at a time, by --limit disk=N --limit gpu=N"
                " (0: any number)"
            ),
        ),
        (
            {7: "GPU"},
            [("disk", 1), ("gpu", 2)],
            (
                "task 7 of list.txt is of the kind 'GPU', which has no limit: say how"
                " many of a kind may run at a time, by --limit GPU=N (0: any number);"
                " --limit gpu=2 is for another kind, as capitals count"
            ),
        ),
        (
            {7: "licence"},
            [("disk", 1), ("license", 2)],
            (
                "task 7 of list.txt is of the kind 'licence', which has no limit: say"
                " how many of a kind may run at a time, by --limit licence=N (0: any"
                " number); no task is of the kind 'license': did you mean --limit"
                " licence=2?"
            ),
        ),
        (
            {7: "licence", 8: "disk"},
            [("disk", 1), ("gpu", 2)],
            (
                "task 7 of list.txt is of the kind 'licence', which has no limit: say"
                " how many of a kind may run at a time, by --limit licence=N (0: any"
                " number); no task is of the kind 'gpu'"
            ),
        ),
        (
            {7: "license", 8: "licence"},
            [("license", 1)],
            (
                "task 8 of list.txt is of the kind 'licence', which has no limit: say"
                " how many of a kind may run at a time, by --limit licence=N (0: any"
                " number)"
            ),
        ),
    ],
)
def test_a_kind_without_a_limit_is_refused(kinds, seats, sentence):
    with pytest.raises(InputError) as caught:
        check(kinds, *seats)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("kinds", "seats", "sentence"),
    [
        (
            {7: "disk"},
            [("disk", 1), ("dsik", 2)],
            (
                "WARNING: --limit dsik=2 limits nothing so far: no task"
                " of list.txt is of the kind 'dsik'; the list has 1 kind: 'disk'"
            ),
        ),
        (
            {},
            [("disk", 1)],
            (
                "WARNING: --limit disk=1 limits nothing so far: no task"
                " of list.txt is of the kind 'disk';"
                " a task of a kind is written as [limit=NAME] command"
            ),
        ),
        (
            dict(enumerate("abcdef")),
            [*zip("abcdefg", [1] * 7, strict=True)],
            (
                "WARNING: --limit g=1 limits nothing so far: no task"
                " of list.txt is of the kind 'g';"
                " the list has 6 kinds: 'a', 'b', 'c', 'd', 'e', …"
            ),
        ),
    ],
)
def test_a_limit_without_a_task_is_told(kinds, seats, sentence):
    assert check(kinds, *seats) == sentence


def test_a_limit_that_a_file_sets_for_all_lists_needs_no_task_in_this_one():
    seats = Default("--limit", ("disk=1",), "/etc/mpifarm/config.ini", 2)
    settings = Settings(
        *("list.txt", "workdir"),
        policy=Policy(seats=(("disk", 1),)),
        defaults=(seats,),
    )
    assert warn_of_kinds(settings, Constraints()) == ""
    with pytest.raises(InputError, match=r"\(0: any number\)$"):
        check_kinds(settings, Constraints(kinds={0: "gpu"}))
