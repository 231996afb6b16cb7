"""Durations as people and batch systems write them.

Rules of this file: pure; it imports nothing of mpifarm.  A duration is a number of
seconds.
"""

import re
from typing import Final

DURATIONS: Final = "a time, as 4:00:00, 1-12:00:00, 90m or 1h30m"
"""The right values of an option that takes a duration, for a message."""

MAX_SECONDS: Final = 100 * 366 * 86400
"""The longest duration: more is a mistake, and batch systems have no room for it."""

_UNITS: Final = (86400, 3600, 60, 1)
"""The seconds of a day, an hour, a minute and a second."""
_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,6})?"
_IN_UNITS = re.compile(
    rf"(?:({_NUMBER})d)?(?:({_NUMBER})h)?(?:({_NUMBER})m(?:in)?)?(?:({_NUMBER})s)?"
)
_WITH_DAYS = re.compile(r"(\d{1,9})-(\d{1,9})(?::(\d{1,9}))?(?::(\d{1,9}))?", re.ASCII)
_WITH_COLONS = re.compile(r"(?:(\d{1,9}):)?(\d{1,9}):(\d{1,9})", re.ASCII)


def parse_duration(word: str, bare: float = 1.0) -> float:
    """Return the seconds of ``90``, ``10m``, ``1h30m``, ``1-02:03:04`` or ``4:00:00``.

    A number without a unit counts `bare` seconds.  Two numbers with a colon are minutes
    and seconds, as for Slurm.  Raises ValueError for any other word.
    """
    if re.fullmatch(_NUMBER, word):
        seconds = float(word) * bare
    elif found := _WITH_DAYS.fullmatch(word) or _WITH_COLONS.fullmatch(word):
        parts = [int(part or 0) for part in found.groups()]
        units = _UNITS[-len(parts) :]
        seconds = float(sum(p * u for p, u in zip(parts, units, strict=True)))
    elif word and (found := _IN_UNITS.fullmatch(word.lower())):
        counts = [float(part or 0) for part in found.groups()]
        seconds = sum(c * u for c, u in zip(counts, _UNITS, strict=True))
    else:
        raise ValueError(word)
    if seconds > MAX_SECONDS:
        raise ValueError(word)
    return seconds


def clock_of(seconds: float) -> str:
    """Return whole seconds as ``4:00:00``, which every batch system understands.

    A part of a second is left out: a limit must not become longer than it was.
    """
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"
