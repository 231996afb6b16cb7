"""How often ranks report: the less often, the more ranks there are.

Rules of this file: pure.  A message costs rank 0 some 10 us whatever it carries; so
many ranks say more in each, and have enough ahead to wait for the answers
(`ahead.LeaseRoom`).
"""

from mpifarm.model.messages import REPORT_SECONDS

REPORTS_PER_SECOND = 5000
"""Reports of all ranks together, at the most, as long as ranks have work ahead."""


AHEAD_SECONDS = 0.5
"""Seconds of work that a rank of a small farm gets beyond its running tasks."""


class ReportPacing:
    """The pace of reports in a farm of so many `ranks`."""

    def __init__(self, ranks: int) -> None:
        self.report_seconds = max(REPORT_SECONDS, ranks / REPORTS_PER_SECOND)
        later = self.report_seconds - REPORT_SECONDS
        # Leases come only with the answer to a report.
        self.ahead_seconds = AHEAD_SECONDS + 2 * later
        """Seconds of work that a rank gets beyond its running tasks."""
