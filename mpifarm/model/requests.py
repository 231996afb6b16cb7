"""What users ask of a running farm, and what the farm answers.

Rules of this file: vocabulary only.
"""

from enum import Enum
from typing import NamedTuple


class RequestKind(Enum):
    """What a farm is asked to do."""

    CANCEL = "cancel"
    """End these tasks, or don't start them; they count as failed."""
    HOLD = "hold"
    """Start none of these tasks, or no task at all, until they are released."""
    RELEASE = "release"
    """Start held tasks again."""
    DRAIN = "drain"
    """Start nothing more, and end when the running tasks have ended."""


class Request(NamedTuple):
    """A request of a user to running farms."""

    name: str
    """No other request has this name."""
    kind: RequestKind
    tasks: tuple[int, ...] | None = None
    """The tasks by their ids; None: all, or the farm itself."""
    asker: str = ""
    """Who asked, in words."""


class Fate(Enum):
    """What has become of a task because of a request."""

    ENDED_NOW = "ended now"
    """It ran, and was ended because of the request."""
    WAITED = "waited"
    """It waited for its turn, and does not any more."""
    RUNS_ON = "runs on"
    ENDED_BEFORE = "ended before"
    """It had ended before the request could change that, and is recorded so."""
    NOT_HERE = "not here"
    """This farm does not hold it, and it is in no queue."""


class FateOfTasks(NamedTuple):
    """Tasks with one fate; `host` is where they run or ran, "" for no host."""

    fate: Fate
    host: str
    tasks: tuple[int, ...]


class Answer(NamedTuple):
    """What a farm has done about a request."""

    request: str
    """Its name."""
    fates: tuple[FateOfTasks, ...] = ()
    running: int = 0
    """How many tasks run in the farm."""
    refusal: str = ""
    """Why the farm has done nothing; "" if it has."""
