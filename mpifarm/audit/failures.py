"""The failed tasks of a view, grouped by cause.

Rules of this file: it reads, without the lock.  `mpifarm.causes` groups.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from mpifarm.audit.view import State, View, is_of
from mpifarm.causes.failure import TAIL, Failure, Group
from mpifarm.causes.groups import CauseGrouper
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import decode_text
from mpifarm.output.ends import read_ends
from mpifarm.store.attempts import Attempt, LastAttempts, blocks_of
from mpifarm.store.status_lines import cut_behind_lines

MANY = 4
"""If more than one task in so many has failed, the last attempts of all are read."""


class Explanation(NamedTuple):
    """Why tasks have failed."""

    groups: list[Group]
    """The largest first."""
    ran: Mapping[str, int]
    """Attempts on each host, those that have completed as well."""
    attempts: LastAttempts


def explain_failures(view: View) -> Explanation:
    """Group the failed tasks by the causes of their last attempts.

    Raises `StorageError`.
    """
    taskids = view.ids_in(State.FAILED)
    are_many = len(taskids) > view.total // MANY
    attempts = view.read_attempts(None if are_many else taskids)
    grouper = CauseGrouper()
    for failure in _find_failures(view, taskids, attempts):
        grouper.add(failure)
    ran = Counter(count_by_host(view.paths) if taskids else {})
    if taskids:
        # What a plain farmer runs now has not ended yet.
        ended = [each for each in view.plain.values() if each.farmer is None]
        ran.update(each.host for each in ended)
    return Explanation(grouper.groups(ran or None), ran, attempts)


def _find_failures(
    view: View, taskids: Sequence[int], attempts: LastAttempts
) -> Iterator[Failure]:
    # One byte more than the end, so that it is known whether its first line is whole.
    for taskid, tail in read_ends(view.paths.logs, taskids, TAIL + 1):
        if taskid in view.plain:
            last = view.plain[taskid]
            how = last.outcome, last.status or 0, last.signal or 0, last.host
            yield Failure(taskid, *how, view.text(taskid), tail)
            continue
        attempt = find_attempt(attempts, taskid)
        if attempt is None:
            yield Failure(taskid, "failed", 0, command=view.text(taskid), tail=tail)
            continue
        yield Failure(
            taskid,
            attempt.outcome,
            attempt.status,
            attempt.signal,
            attempt.host,
            view.text(taskid),
            tail,
            attempt.started,
            attempt.seconds,
            attempt.peak_memory,
            attempt.attempt,
        )


def find_attempt(attempts: LastAttempts, taskid: int) -> Attempt | None:
    """Return the attempt that made a task fail, None if nobody has written it down."""
    attempt = attempts.find(taskid)
    if attempt is not None and is_of(State.FAILED, attempt.outcome.encode()):
        return attempt
    return None


def count_by_host(paths: WorkdirPaths) -> dict[str, int]:
    """Return the number of attempts on each host; raises `StorageError`.

    Lines of format 1 do not say the host.
    """
    counts = Counter[bytes]()
    pattern = re.compile(_UP_TO_HOST)
    for lines in cut_behind_lines(blocks_of(paths.attempts)):
        counts.update(pattern.findall(b"\n" + lines))
    return {decode_text(host): count for host, count in counts.items()}


_UP_TO_HOST: Final = rb"\n[0-9]+\t[0-9]+\t[a-z ]+\t[0-9]+\t[0-9]+\t([^\t\n]+)\t"
"""A line with the newline before it: to look for that takes a third of the time that
``^`` takes."""
