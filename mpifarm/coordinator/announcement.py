"""What the user is told when the farm begins to drain or to stop.

Rules of this file: pure; words only.
"""

from mpifarm.coordinator.state import Phase
from mpifarm.model.wording import counted


def announce(phase: Phase, reason: str, running: int) -> str:
    """Return the sentence for the user as the farm enters `phase`.

    `running` is the number of tasks that run.  "" for LEAVING: the summary follows at
    once.
    """
    match phase:
        case Phase.DRAINING:
            now, fate = "nothing more is started, ", "still running"
        case Phase.STOPPING:
            now, fate = "", "running, ended now and run again next time"
        case _:
            return ""
    what = f"{counted(running)} {fate}" if running else "nothing is running"
    return f"{reason}: {now}{what}"
