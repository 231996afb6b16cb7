"""Ids of tasks as ranges: ``0-99,105`` in files and arguments, ``0-99, 105`` in words.

Rules of this file: pure; it imports nothing of mpifarm.
"""

import re
from collections.abc import Iterable
from itertools import chain

MAX_IDS = 4_000_000
"""Ids that one text may name: a longer text is damaged, and would fill the memory."""
_MAX_DIGITS = 15
"""Digits of the largest number that is accepted: Python's numbers have no limit."""
_NUMBER = f"[0-9]{{1,{_MAX_DIGITS}}}"
_RANGE = f"{_NUMBER}(?:-{_NUMBER})?"
_RANGES = re.compile(f"(?:{_RANGE}(?:,{_RANGE})*)?")

NO_ID = "{!r:.60} is not the id of a task: write a number, or 3,7-9"


class IdRangesError(ValueError):
    """A text that does not consist of ranges of ids, and why."""


def encode_ids(taskids: Iterable[int]) -> str:
    """Return ids as ranges, sorted: ``0-99,105``; "" for no ids.

    Each id must be there once only.
    """
    ranges: list[str] = []
    begin = last = -2
    for taskid in [*sorted(taskids), -1]:
        if taskid == last + 1 and taskid >= 0:
            last = taskid
            continue
        if begin >= 0:
            ranges.append(str(begin) if begin == last else f"{begin}-{last}")
        begin = last = taskid
    return ",".join(ranges)


def parse_ids(text: object) -> list[int]:
    """Return the ids of a text of ranges, in its order; "" has none.

    Raises `IdRangesError` for anything else, and for more than `MAX_IDS` ids.
    """
    if not isinstance(text, str) or not _RANGES.fullmatch(text):
        raise IdRangesError(NO_ID.format(text))
    ranges = [_parse_range(part) for part in text.split(",")] if text else []
    count = sum(map(len, ranges))
    if count > MAX_IDS:
        raise IdRangesError(
            f"{text!r:.60} names {count} tasks, and {MAX_IDS} at a time are the most"
        )
    return [*chain.from_iterable(ranges)]


def _parse_range(text: str) -> range:
    begin, _, end = text.partition("-")
    first = last = int(begin)
    if end:
        last = int(end)
    if last < first:
        raise IdRangesError(
            f"the range {text} ends before it begins: write {last}-{first}"
        )
    return range(first, last + 1)


def name_ids(taskids: Iterable[int], most: int = 60) -> str:
    """Return ids for a sentence: ``0-99, 105``, in `most` characters with the comma.

    An ellipsis replaces the ids that do not fit.
    """
    text = encode_ids(taskids).replace(",", ", ")
    return text if len(text) <= most else text[:most].rpartition(",")[0] + ", …"
