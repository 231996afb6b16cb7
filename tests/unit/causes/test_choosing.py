"""Groups of failures are chosen by their numbers, or by words of their causes."""

from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.causes.choosing import NoGroupError, choose_groups

CAUSES = [
    "exit status 1",
    "exit status 127",
    "killed by signal 11 (SIGSEGV)",
    "memory  ran out",
    "no memory left",
]
GROUPS: list[Any] = [SimpleNamespace(cause=cause) for cause in CAUSES]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("exit status 1", [1]),
        ("exit status 127", [2]),
        ("exit status", [1, 2]),
        ("signal 11", [3]),
        ("memory", [4, 5]),
        ("memory ran", [4]),
        ("memory,1", [1, 4, 5]),
        ("2-3", [2, 3]),
    ],
)
def test_numbers_and_words_choose_groups(text, chosen):
    assert choose_groups(GROUPS, text) == chosen


@pytest.mark.parametrize(
    "text", ["signal 1", "emory", "exit status 12", "6", "2-1", ""]
)
def test_what_names_no_group_is_refused(text):
    with pytest.raises(NoGroupError):
        choose_groups(GROUPS, text)
