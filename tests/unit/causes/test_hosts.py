"""Which hosts are blamed: how many, in which order, and which are not known."""

import pytest

from mpifarm.causes.hosts import find_blamed


@pytest.mark.parametrize(
    ("failed", "ran", "blamed"),
    [
        ({}, {}, ()),
        # The worst first, and of equals by name.
        ({"b": 50, "a": 60}, {"a": 60, "b": 60, "c": 600}, ("a", "b")),
        ({"b": 50, "a": 50}, {"a": 60, "b": 60, "c": 600}, ("a", "b")),
        # A host of which nobody knows what it ran.
        ({"x": 50, "a": 50}, {"a": 60, "b": 600}, ("a",)),
        ({"x": 50, "a": 50}, {"x": 0, "a": 60, "b": 600}, ("a",)),
        # Four at the most.
        (
            dict.fromkeys("abcde", 50),
            {**dict.fromkeys("abcde", 60), "f": 6000},
            ("a", "b", "c", "d"),
        ),
        # Three failures in ten are enough.
        (
            {"a": 30, **dict.fromkeys("bcdefgh", 10)},
            {"a": 30, **dict.fromkeys("bcdefgh", 500)},
            ("a",),
        ),
        (
            {"a": 29, **dict.fromkeys("bcdefgh", 10)},
            {"a": 30, **dict.fromkeys("bcdefgh", 500)},
            (),
        ),
        # One that failed now and then stands beside one that fails all.
        ({"a": 9, "b": 1}, {"a": 9, "b": 2, "c": 90}, ("a",)),
        ({"a": 9, "b": 5}, {"a": 9, "b": 5, "c": 90}, ("a", "b")),
        ({"a": 9, "b": 4}, {"a": 9, "b": 4, "c": 90}, ("a",)),
    ],
)
def test_only_hosts_on_which_failures_are_concentrated_are_blamed(failed, ran, blamed):
    assert find_blamed(failed, ran) == blamed
