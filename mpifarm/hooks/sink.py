"""What the process of a hook does with events, as its loop sees it.

Rules of this file: it says what each kind of hook has in common, and does nothing.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

Report = Callable[[str], None]
"""Tells the user a sentence."""


class Sink(Protocol):
    """The end of an event's way."""

    def take(self, lines: Sequence[bytes]) -> None:
        """Take in lines, each with its newline."""

    def wake_at(self) -> float:
        """Return when `step` has something to do without an event; `inf` if never."""

    def step(self, now: float) -> None:
        """Do what is due."""

    def end(self) -> None:
        """End, when no line follows."""
