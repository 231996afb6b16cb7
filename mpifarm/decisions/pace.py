"""How often ranks report, and how much they get ahead: more, the more ranks there are.

Rules of this file: pure.  A message costs rank 0 some 10 us whatever it carries; so
many ranks say more in each, and have enough ahead to wait for the answers.
"""

from mpifarm.decisions.state import AHEAD_SECONDS
from mpifarm.messages import REPORT_SECONDS

REPORTS_PER_SECOND = 5000
"""That all ranks together send, at the most, as long as they have work ahead."""

ROUND_SECONDS = 1e-5
"""What rank 0 needs at least, for each worker, when the tasks of all end at once."""

ROUND_SHARE = 0.02
"""Of a task's run time that may be lost so; where it would be more, each worker gets a
task ahead."""

LONG_ROUND_SECONDS = 0.05
"""Where a round takes so long, the first tasks may end all at once, too."""


class Pace:
    """Of a farm with so many `ranks` of so many `workers`."""

    def __init__(self, ranks: int, workers: int) -> None:
        self.report_seconds = max(REPORT_SECONDS, ranks / REPORTS_PER_SECOND)
        later = self.report_seconds - REPORT_SECONDS
        self.ahead_seconds = AHEAD_SECONDS + 2 * later
        """Seconds of work that a rank gets beyond what its workers run."""
        self.one_each_below = ranks * workers * ROUND_SECONDS / ROUND_SHARE
        """Run time, seconds, below which it gets one for each worker at least."""
        self.one_each_at_first = ranks * workers * ROUND_SECONDS >= LONG_ROUND_SECONDS
        """Whether it gets that much before it has shown what its tasks take."""
