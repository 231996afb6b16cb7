"""The counting of tasks by their locations, for the report of a farm.

Rules of this file: a `Survey` is made under the lock, and counted without the lock.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from mpifarm.order.frontier import Frontier
from mpifarm.store.ledger import Ledger
from mpifarm.store.status_lines import scan_ids
from mpifarm.store.task_map import Location, TaskMap
from mpifarm.store.types import Counts, Survey

MAX_FAILED_NAMED = 10


def count_tasks(
    survey: Survey,
    finished: Ledger,
    failed: Ledger,
    first_added: int,
    frontier: Frontier | None = None,
) -> Counts:
    """Count the tasks of a list at a survey.

    Tasks from `first_added` on go through ``added``.  `frontier`: what may run of a
    list with an order.  Raises `StorageError` where a queue cannot be read,
    `ChangedError` where others have changed a large queue since the survey.
    """
    tasks = TaskMap(
        len(finished.flags),
        finished=finished.flags,
        claimed=survey.held | survey.claimed,
        queued=_ids_queued(survey, first_added, len(finished.flags)),
        failed=failed.flags,
    )
    return count_map(tasks, survey, frontier)


def count_map(tasks: TaskMap, survey: Survey, frontier: Frontier | None) -> Counts:
    """Count the tasks of a list by their locations at a survey."""
    counts = tasks.count()
    held = sum(tasks.find(each) is Location.CLAIMED for each in survey.held)
    in_array = survey.claimed & survey.in_array
    known = Counts(
        total=counts.total,
        finished=counts.finished,
        failed=counts.failed,
        toprocess=counts.queued,
        held=held,
        claimed=counts.claimed - held,
        elsewhere=counts.nowhere,
        first_failed=tuple(islice(tasks.ids_at(Location.FAILED), MAX_FAILED_NAMED)),
        in_array=sum(tasks.find(each) is Location.CLAIMED for each in in_array),
    )
    return known if frontier is None else _look_at_order(known, tasks, frontier)


def _look_at_order(counts: Counts, tasks: TaskMap, frontier: Frontier) -> Counts:
    """Count the tasks that wait for others, and find out which of these are lost."""
    nowhere = Location.NOWHERE
    lost = (each for each in frontier.find_open() if tasks.find(each) is nowhere)
    is_shut = frontier.horizon < min(frontier.doomed_from, tasks.total)
    queued = Location.QUEUED
    held_up = sum(tasks.find(each) is queued for each in frontier.find_closed())
    if is_shut:
        held_up += tasks.count_from(queued, frontier.horizon)
    return counts._replace(
        held_up=held_up,
        lost=tuple(islice(lost, MAX_FAILED_NAMED)),
        barrier=frontier.horizon if is_shut else None,
    )


def _ids_queued(
    survey: Survey, first_added: int, total: int
) -> Iterator[Sequence[int]]:
    """Yield the ids to be processed; without ``toprocess`` all tasks are."""
    if survey.toprocess is None:
        yield range(first_added)
    else:
        yield from scan_ids(survey.toprocess.blocks(appended=False))
    if first_added < total and survey.added:
        yield from scan_ids(survey.added.blocks(appended=False))
    if survey.waiting:
        yield from scan_ids(survey.waiting.blocks(appended=False))
