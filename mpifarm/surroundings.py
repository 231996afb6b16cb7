"""What a farm gets from the process that it runs in.

Rules of this file: values only; the command line fills them in, a test puts its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mpifarm.signals import SignalInbox


@dataclass(frozen=True, slots=True)
class Voice:
    """Where the farm's words go."""

    say: Callable[[str], None]
    """A line that stays; only the first rank is heard."""
    show: Callable[[str], None]
    """The state of things, which the next one replaces."""
    complain: Callable[[str], None]
    """A line about a mistake or a defect, from any rank."""
    speak_up: Callable[[], None] = lambda: None
    """From now on this rank is the one that is heard."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The environment (as text and as bytes), the signals, the voice."""

    environ: Mapping[str, str]
    environb: Mapping[bytes, bytes]
    signals: SignalInbox
    voice: Voice
