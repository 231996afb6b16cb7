"""What a handler of a user may get wrong in constraints, at each bound."""

from typing import Any

import pytest

from mpifarm.order.constraints import Barrier, Constraints
from mpifarm.order.faults import find_fault

TOTAL = 5
ODD: Any = "1"


def constrained(**parts: Any) -> Constraints:
    return Constraints(**parts)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"barriers": [Barrier(1, checks=False), Barrier(5, checks=True, since=5)]},
        {"after": {0: (), 4: (0, 3)}},
        {"kinds": {0: "a", 4: "A_1.b-c"}},
    ],
)
def test_constraints_up_to_each_bound_are_right(parts):
    assert find_fault(constrained(**parts), TOTAL) == ""


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ({"barriers": ()}, "barriers are not a list but tuple"),
        ({"barriers": [(1, False, 0)]}, "which is no Barrier of ids"),
        ({"barriers": [Barrier(-1, checks=False)]}, "which is no Barrier of ids"),
        ({"barriers": [Barrier(1, True, -1)]}, "which is no Barrier of ids"),
        ({"barriers": [Barrier(ODD, True)]}, "which is no Barrier of ids"),
        ({"barriers": [Barrier(0, checks=False)]}, "ids are to ascend, from 1 to 5"),
        ({"barriers": [Barrier(6, checks=False)]}, "out of place"),
        ({"barriers": [Barrier(2, False), Barrier(2, False)]}, "out of place"),
        ({"barriers": [Barrier(3, False), Barrier(2, False)]}, "out of place"),
        ({"barriers": [Barrier(2, True, 3)]}, "which checks from behind itself"),
        ({"after": []}, "after is not a dict but list"),
        ({"after": {5: (0,)}}, "after has 5, which is no id of the 5 tasks"),
        ({"after": {-1: (0,)}}, "after has -1, which is no id"),
        ({"after": {"1": (0,)}}, "after has '1', which is no id"),
        ({"after": {3: [0]}}, "after has [0] for task 3, which is no tuple of ids"),
        ({"after": {3: (-1,)}}, "which is no tuple of ids"),
        ({"after": {3: (0, 3)}}, "lets task 3 wait for task 3, but"),
        ({"after": {3: (4, 0)}}, "lets task 3 wait for task 4, but"),
        ({"kinds": []}, "kinds are not a dict but list"),
        ({"kinds": {5: "a"}}, "kinds have 5, which is no id of the 5 tasks"),
        ({"kinds": {"1": "a"}}, "kinds have '1', which is no id of the 5 tasks"),
        ({"kinds": {-1: "a"}}, "kinds have -1, which is no id"),
        ({"kinds": {1: ""}}, "kinds have '' for task 1: a name has letters"),
        ({"kinds": {1: "a b"}}, "a name has letters, digits, _ . -"),
        ({"kinds": {1: 7}}, "kinds have 7 for task 1"),
    ],
)
def test_a_fault_is_told_with_its_place(parts, what):
    assert what in find_fault(constrained(**parts), TOTAL)
