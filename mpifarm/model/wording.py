"""Numbers and durations as words of a sentence.

Rules of this file: pure; it imports nothing of mpifarm.
"""

from typing import NamedTuple


def counted(number: int, noun: str = "task", plural: str = "") -> str:
    """Return a number with its noun: ``1 task``, ``2 tasks``.

    `plural` is by default `noun` with an s: ``counted(2, "task is", "tasks are")``.
    """
    return f"{number} {agree(number, noun, plural or noun + 's')}"


def agree(number: int, singular: str, plural: str) -> str:
    """Return the word that agrees with a number: ``agree(2, "is", "are")``."""
    return singular if number == 1 else plural


def size_in_words(size: int) -> str:
    """Return a size in bytes in words, rounded up: 369 MB, 12.5 GB (of 1024 each)."""
    if size < 10 * 2**30:
        return f"{-(-size // 2**20)} MB"
    return f"{size / 2**30:.1f} GB"


def duration_in_words(seconds: float) -> str:
    """Return a duration of `seconds` in words: 4.2 s, 85 s, 3:07 min, 12:00:05 h."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return (
        f"{hours}:{minute:02}:{second:02} h" if hours else f"{minute}:{second:02} min"
    )


ROUGH = (
    (10, 1, "s"),
    (60, 5, "s"),
    (20 * 60, 60, "min"),
    (60 * 60, 5 * 60, "min"),
    (10 * 3600, 10 * 60, "h"),
    (48 * 3600, 3600, "h"),
    (10 * 86400, 12 * 3600, "days"),
)
"""Durations below so many seconds are rounded to so many, and said in this unit."""

SECONDS_OF = {"s": 1, "min": 60, "h": 3600, "days": 86400}


class TimeLeft(NamedTuple):
    """The seconds left; four times in five the end is between `low` and `high`."""

    low: float
    likely: float
    high: float


def time_left_in_words(left: TimeLeft, *, is_guess: bool = False) -> str:
    """Return a time left: ``about 2 h 10 min left, 1 h 50 to 2 h 40``.

    `is_guess`: what runs has for far longer than anything known; nobody knows then.
    """
    if is_guess:
        return "time left unknown: what runs takes longer than all before"
    low, likely, high = left
    number, unit = _roughly(likely)
    words = f"about {number} {unit} left"
    first, last = _roughly(low), _roughly(high)
    if first == last:
        return words
    if first[1] == last[1] and " " not in first[0] + last[0]:
        return f"{words}, {first[0]} to {last[0]} {last[1]}"
    return f"{words}, {_in_short(*first)} to {_in_short(*last)}"


def _roughly(seconds: float) -> tuple[str, str]:
    """Return a duration, rounded, as a number and its unit: 40 s, 2 h 10 min."""
    for below, step, unit in ROUGH:
        rounded = step * max(1, round(seconds / step))
        if rounded < below:
            return _with_unit(rounded, unit)
    return _with_unit(86400 * round(seconds / 86400), "days")


def _with_unit(seconds: int, unit: str) -> tuple[str, str]:
    hours, rest = divmod(seconds, 3600)
    if unit == "h" and rest:
        return f"{hours} h {rest // 60}", "min"
    return f"{seconds / SECONDS_OF[unit]:.6g}", unit


def _in_short(number: str, unit: str) -> str:
    """Return ``1 h 50`` for 1 h 50 min, and other durations with their unit."""
    return number if " " in number else f"{number} {unit}"


def held_in_words(count: int, holds_all: bool) -> str:  # noqa: FBT001 - as it is shown
    """Return what users hold, in words: ``all held``, ``3 held``; "" for nothing."""
    if holds_all:
        return "all held"
    return f"{count} held" if count else ""
