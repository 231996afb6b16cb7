"""The end of the job, as rank 0 learns it from the batch system while the farm runs.

Rules of this file: it asks once and never waits for the answer; whoever owns a
`JobEnd` closes it.  Times are monotonic but for what is said to the user.
"""

import math
import time
from collections.abc import Mapping

from mpifarm.batch.job_end import Question, clean_environment, find_question
from mpifarm.model.wording import duration_in_words
from mpifarm.system.processes import Inquiry

ANSWER_SECONDS = 60.0
"""Seconds without an answer after which the end of the job counts as unknown."""

LOOK_SECONDS = 0.05
"""Seconds between two looks for the answer."""

_MAX_REASON = 120
_DAY = 86400.0


class JobEnd:
    """The end of the job: given, or asked of the batch system.

    `deadline` is given by the user or the environment, in seconds since the epoch:
    `inf` if there is no end.  If it is None, the constructor starts a question.
    """

    def __init__(self, deadline: float | None, environ: Mapping[str, str]) -> None:
        self._known = deadline
        self._question: Question | None = None
        self._inquiry: Inquiry | None = None
        self._untold: list[str] = []
        self._asked = time.time()
        self._answer_by = time.monotonic() + ANSWER_SECONDS
        if deadline is not None:
            self._tell_known(deadline)
        elif question := find_question(environ):
            self._ask(question, environ)

    @property
    def is_open(self) -> bool:
        """Whether the answer is still to come."""
        return self._inquiry is not None

    @property
    def deadline(self) -> float:
        """The end, monotonic seconds; `inf` if it never comes or is not known yet."""
        if self._known is None:
            return math.inf
        return time.monotonic() + self._known - time.time()

    @property
    def is_unknown(self) -> bool:
        """Whether the end of the job is not known, or not yet."""
        return self._known is None

    def take_news(self) -> list[str]:
        """Return the sentences for the user, each once."""
        news, self._untold = self._untold, []
        return news

    def poll(self, now: float) -> bool:
        """Take in the answer if it has come; return whether the wait for it is over.

        After `ANSWER_SECONDS` without an answer the end counts as unknown.
        """
        if self._inquiry is None or self._question is None:
            return True
        text = self._inquiry.collect()
        if text is None and now < self._answer_by:
            return False
        self.close()
        if text is None:
            self._tell_unknown(f"no answer in {ANSWER_SECONDS:.0f} s")
            return True
        self._known = self._question.parse(text, self._asked)
        if self._known is None:
            self._tell_unknown(_first_line(text))
        else:
            self._tell_known(self._known)
        return True

    def close(self) -> None:
        """Kill the program that asks the batch system, if one runs."""
        if self._inquiry is not None:
            self._inquiry.end()
            self._inquiry = None

    def _ask(self, question: Question, environ: Mapping[str, str]) -> None:
        """Start the question; if that fails, note that the end is unknown."""
        self._question = question
        if not question.argv:
            self._tell_unknown("mpifarm does not ask this batch system")
            return
        try:
            self._inquiry = Inquiry(question.argv, clean_environment(environ))
        except OSError as error:
            self._tell_unknown(error.strerror or str(error))

    def _tell_known(self, end: float) -> None:
        if math.isfinite(end):
            self._untold.append(f"the job ends at {describe_time(end, time.time())}")
        elif self._question is not None:
            self._untold.append(f"{self._question.job} has no time limit")

    def _tell_unknown(self, why: str) -> None:
        if self._question is None:
            return
        argv = self._question.argv
        reason = f"{argv[0]}: {why}" if argv else why
        self._untold.append(
            f"can't find out when {self._question.job} ends ({reason}): give "
            "--deadline TIME, or the end of the job cuts this farm off"
        )


def describe_time(end: float, now: float) -> str:
    """Return a moment as people say it: ``14:32, in 3:59:50 h``."""
    pattern = "%H:%M" if abs(end - now) < _DAY / 2 else "%H:%M on %Y-%m-%d"
    try:
        clock = time.strftime(pattern, time.localtime(end))
    except (OverflowError, ValueError, OSError):  # of a year that no calendar has
        return f"{end:.0f} s since 1970"
    left = end - now
    if left > 2 * _DAY:
        return f"{clock}, in {left / _DAY:.0f} days"
    return (
        f"{clock}, in {duration_in_words(left)}" if left > 0 else f"{clock}, now past"
    )


def _first_line(text: str) -> str:
    """Return the first line that is not blank, fit for a terminal."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "an empty answer"
    return "".join(c if c.isprintable() else "?" for c in lines[0][:_MAX_REASON])
