"""Immutable values: equal, hashed, shown and sent by their fields."""

import pickle
from dataclasses import fields, replace

import pytest

from mpifarm.immutable import immutable


@immutable
class Pair:
    """Two numbers."""

    first: int
    second: int = 2


@immutable
class Nothing:
    """No fields."""


@immutable
class Other:
    """The fields of `Pair`."""

    first: int
    second: int = 2


@immutable
class Triple(Pair):
    """A pair and more."""

    third: int = 3


def test_values_of_the_same_fields_are_equal_and_hash_alike() -> None:
    assert Pair(1) == Pair(1, 2)
    assert hash(Pair(1)) == hash(Pair(1, 2))
    assert Pair(1) != Pair(1, 3)


def test_values_of_two_classes_differ() -> None:
    others: list[object] = [Other(1), (1, 2)]
    assert Pair(1) not in others
    assert Triple(1) != Pair(1)
    assert Triple(1, 2, 4) != Triple(1, 2, 3)


def test_a_value_without_fields_is_true() -> None:
    assert Nothing()
    assert Nothing() == Nothing()


def test_a_value_with_a_list_has_no_hash() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Pair([]))  # type: ignore[arg-type]


def test_the_text_names_class_and_fields() -> None:
    assert repr(Triple(1)) == "Triple(first=1, second=2, third=3)"
    assert repr(Nothing()) == "Nothing()"


def test_a_value_takes_no_other_attribute() -> None:
    with pytest.raises(AttributeError):
        Pair(1).third = 3  # type: ignore[attr-defined]


def test_a_value_is_a_dataclass() -> None:
    assert [each.name for each in fields(Triple)] == ["first", "second", "third"]
    assert replace(Pair(1), second=5) == Pair(1, 5)


@pytest.mark.parametrize("each", [Pair(1), Nothing(), Triple(1, 2, 3)])
def test_a_value_comes_back_from_a_pickle(each: object) -> None:
    assert pickle.loads(pickle.dumps(each)) == each
    assert b"second" not in pickle.dumps(each)
