"""Groups of failures, chosen by what a user writes: their numbers, or words.

Rules of this file: pure; numbers count from 1, as they are printed.
"""

import re
from collections.abc import Sequence
from typing import Final

from mpifarm.causes.failure import Group
from mpifarm.causes.known import normalise

_NUMBERS: Final = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")


class NoGroupError(ValueError):
    """A text that names no group; `part` is what names none, `number` if it is one."""

    def __init__(self, part: str, number: int | None = None) -> None:
        super().__init__(part)
        self.part = part
        self.number = number


def choose_groups(groups: Sequence[Group], text: str) -> list[int]:
    """Return the numbers of the groups that a text names, in their order.

    It has numbers (``2,3`` or ``1-3``), or words of causes as ``memory``: a cause that
    has them, from the begin of a word on, is meant.  Raises `NoGroupError`.
    """
    if by_words := _find_by_words(groups, text):
        return by_words
    found = set[int]()
    for part in text.split(","):
        found.update(_choose(groups, part.strip()))
    return sorted(found)


def _choose(groups: Sequence[Group], part: str) -> Sequence[int]:
    match = _NUMBERS.fullmatch(part)
    if match is None:
        if found := _find_by_words(groups, part):
            return found
        raise NoGroupError(part)
    first, last = int(match[1]), int(match[2] or match[1])
    wrong = next((n for n in (first, last) if not 1 <= n <= len(groups)), None)
    if wrong is not None or last < first:
        raise NoGroupError(part, wrong if last >= first else None)
    return range(first, last + 1)


def _find_by_words(groups: Sequence[Group], words: str) -> list[int]:
    """Return the numbers of the groups whose cause has some words."""
    wanted = " ".join(normalise(words).split())
    if not any(map(str.isalpha, wanted)):
        return []
    # Words begin where the user's do; a number of the user's is a whole one.
    end = r"(?!\d)" if wanted[-1].isdigit() else ""
    pattern = re.compile(rf"(?<!\w){re.escape(wanted)}{end}")
    return [
        number
        for number, group in enumerate(groups, 1)
        if pattern.search(" ".join(normalise(group.cause).split()))
    ]
