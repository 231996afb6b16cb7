"""What a rank has to tell rank 0 of its leases, and when.

Rules of this file: results are told in batches, as soon as rank 0 can hand out others
for them, and again as *sure* later (`sureness`).  It sends nothing: `create_report`
returns the message.
"""

from collections.abc import Iterable

from mpifarm.farm.feeding import Feeder
from mpifarm.farm.sureness import Sureness
from mpifarm.model.messages import REPORT_SECONDS, Report
from mpifarm.model.task import Lease, Result


class Reporter:
    """The results, returned and lost leases of which rank 0 does not know yet."""

    def __init__(self, feeder: Feeder, now: float) -> None:
        self.sureness = Sureness()
        """Which results no signal has ended."""
        self.keeps_results = False
        """Whether results are kept until they are on disk, for another coordinator."""
        self.report_seconds = REPORT_SECONDS
        """Seconds for which a result may wait for other results."""
        self._feeder = feeder
        self._results: list[Result] = []
        self._returned: list[tuple[int, int]] = []
        self._lost: list[tuple[int, int]] = []
        self._unrecorded: dict[tuple[int, int], Result] = {}
        """Results that were reported and, as far as known, are not on disk yet."""
        self._counts_until = float("inf")
        """When this rank began to end its commands; later results are dropped."""
        self._reported_at = now
        self._has_asked = False
        """Whether rank 0 was told that a worker is idle, and has not answered."""
        self._expects_answer = False
        """Whether rank 0 may answer the last report soon."""
        self._is_recalled = False
        """Whether rank 0 waits for the answer to a `Recall`."""

    # ---- in --------------------------------------------------------------------------

    def note_result(self, result: Result) -> None:
        """Note the end of a command, and its result unless a signal may have caused it.

        Our own TERM is such a signal: nothing counts after `stop_counting`.
        """
        self.sureness.note_end(result)
        if result.ended <= self._counts_until and self.sureness.may_count(result):
            self._results.append(result)

    def note_returned(self, leases: Iterable[Lease]) -> None:
        """Note leases that go back unstarted."""
        self._returned += [(lease.taskid, lease.attempt) for lease in leases]

    def note_lost(self, lease: Lease) -> None:
        """Note a lease that ended with its worker's death."""
        self._lost.append((lease.taskid, lease.attempt))

    def note_recall(self) -> None:
        """Note that rank 0 waits for an answer, even if nothing is returned."""
        self._is_recalled = True

    def note_assigned(self) -> None:
        """Note that rank 0 has answered: this rank may ask again."""
        self._has_asked = False

    def note_committed(self, results: Iterable[tuple[int, int]]) -> None:
        """Forget the kept results that are on disk: no other coordinator needs them."""
        for each in results:
            self._unrecorded.pop(each, None)

    def stop_counting(self, now: float) -> bool:
        """Count no result that ends after `now`; return whether this call is first."""
        is_first = self._counts_until == float("inf")
        self._counts_until = min(self._counts_until, now)
        return is_first

    def void(self) -> None:
        """Drop results that aren't sure by now: rank 0 lets their tasks run again."""
        self.sureness.void()
        self._drop_void()

    def void_launched(self) -> None:
        """Drop results that a signal to another rank may have caused."""
        self.sureness.void_launched()
        self._drop_void()

    def _drop_void(self) -> None:
        self._results = [*filter(self.sureness.may_count, self._results)]

    def forget_kept(self) -> None:
        """Drop the kept results, and keep none: the coordinator is on this rank."""
        self.keeps_results = False
        self._unrecorded.clear()

    # ---- when ------------------------------------------------------------------------

    def is_due(self, now: float) -> bool:
        """Return whether to report now; note it if that asks rank 0 for work."""
        if self._is_recalled:
            return True
        if self._has_news():
            due = self._reported_at + self.report_seconds <= now
            return self._asks() or due or bool(self._returned)
        return self._confirm_at() <= now

    def next_at(self) -> float:
        """Return when time alone makes a report due; `inf` if nothing is to be said."""
        if self._has_news():
            return self._reported_at + self.report_seconds
        return self._confirm_at()

    def _has_news(self) -> bool:
        return bool(self._results or self._returned or self._lost)

    def _asks(self) -> bool:
        """Return whether rank 0 should know at once that a worker is idle.

        Of many ranks, each asks once: this is noted, and later news come at the usual
        times.  Rank 0 may have nothing for them, or much to do.
        """
        feeder = self._feeder
        if feeder.queue or self._has_asked or not feeder.is_starving:
            return False
        self._has_asked = self.report_seconds > REPORT_SECONDS
        return True

    def _confirm_at(self) -> float:
        """Return when to say that reported results are sure; `inf` if none waits.

        As soon as all of them are, if that is not too often for rank 0; else together
        with other news.
        """
        sureness = self.sureness
        if not sureness.is_waiting:
            return float("inf")
        regular = self._reported_at + self.report_seconds
        if self.report_seconds > REPORT_SECONDS and self._feeder.has_work:
            return max(sureness.first_at(), regular)
        return max(sureness.first_at(), min(regular, sureness.last_at()))

    def take_expectation(self) -> bool:
        """Return whether rank 0 may answer soon, once for each report."""
        expects, self._expects_answer = self._expects_answer, False
        return expects

    # ---- out -------------------------------------------------------------------------

    def create_report(self, now: float) -> Report | None:
        """Return the news, as said from now on; None if there are none."""
        if not (self._has_news() or self._is_recalled or self.sureness.has_news):
            return None
        report = Report(
            now,
            tuple(self._results),
            tuple(self._returned),
            tuple(self._lost),
            self._is_recalled,
            self.sureness.until,
        )
        self._note_reported()
        self._is_recalled = False
        self._expects_answer = True
        self._reported_at = now
        return report

    def create_full_report(self, now: float) -> Report:
        """Return all that another coordinator has to know, kept results too, as said.

        No recall or request of the old coordinator is open any more.
        """
        self._has_asked = self._is_recalled = False
        report = Report(
            now,
            (*self._unrecorded.values(), *self._results),
            tuple(self._returned),
            tuple(self._lost),
            sure=self.sureness.until,
        )
        self._note_reported()
        return report

    def _note_reported(self) -> None:
        """Empty the news, and keep its results where another rank may take over."""
        self.sureness.note_reported(self._results)
        if self.keeps_results:  # until this coordinator says that they are on disk
            self._unrecorded.update(
                ((result.taskid, result.attempt), result) for result in self._results
            )
        self._results, self._returned, self._lost = [], [], []
