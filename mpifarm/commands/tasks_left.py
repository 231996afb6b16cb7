"""Which tasks of a list a start would run, and which of them first.

Rules of this file: it reads, and changes nothing.  A farm at work may change the answer
at any moment.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice, takewhile

from mpifarm.audit.snapshot import observer
from mpifarm.audit.view import State, View, read_view
from mpifarm.farm.input_check import CheckedInput
from mpifarm.immutable import immutable
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import Policy, Settings
from mpifarm.model.wording import agree, counted
from mpifarm.order.frontier import Frontier
from mpifarm.store.file_store import LOCK_TIMEOUT
from mpifarm.store.remap import RECORDED, describe, plan_remap
from mpifarm.store.start_order import StartOrder
from mpifarm.store.target import (
    Target,
    find_existing_lock,
    find_target_of,
    is_database,
)
from mpifarm.store.task_map import Location
from mpifarm.system import files
from mpifarm.tasklists import TaskList, find_constraints, keeps_own_state

_LEFT = (State.WAITING, State.ORPHANED)
_WORDS = {
    State.FINISHED: "finished",
    State.FAILED: "failed",
    State.HELD: "held",
    State.RUNNING: "running",
    State.CLAIMED: "with other farms",
    State.NOWHERE: "in no file",
}
"""The states of tasks that a start does not run, in the order in which they are told.
"""


@immutable
class TasksLeft:
    """The tasks that a start would run, by their ids."""

    ids: Sequence[int]
    """In their order."""
    frontier: Frontier
    """Which of them may start now."""
    has_finished: Callable[[int], bool]
    """Whether a task has finished."""
    sentence: str = ""
    """What of the list has ended; "" where it was not begun."""

    def find_first(self, order: StartOrder | None, count: int) -> list[int]:
        """Return up to `count` of the tasks: those that may start first, then others.

        `order` is that of the starts, None for that of the list.
        """
        is_ready = self.frontier.is_ready
        # In front of the first shut barrier: behind it, no task is ready.
        near = takewhile(self.frontier.horizon.__gt__, self.ids)
        first = _choose(filter(is_ready, near), order, count)
        if len(first) < count:
            others = (each for each in self.ids if not is_ready(each))
            first += _choose(others, order, count - len(first))
        return first


def _choose(taskids: Iterable[int], order: StartOrder | None, count: int) -> list[int]:
    return (
        [*islice(taskids, count)] if order is None else order.find_first(taskids, count)
    )


def find_tasks_left(
    settings: Settings, environ: Mapping[str, str], checked: CheckedInput
) -> TasksLeft:
    """Return the tasks that a start would run.

    Raises `InputError` for a ``--remap`` that a start would refuse, `StorageError` if
    the disk fails.
    """
    tasks = checked.tasklist
    target = find_target_of(settings)
    of_database = is_database(target, environ)
    paths = WorkdirPaths(os.path.abspath(settings.workdir))
    if keeps_own_state(tasks, settings.workdir):
        sentence = (
            f"the handler {settings.handler!r} keeps the state of the tasks: which of"
            " them are left, and which is first, it says at the start"
        )
        return _find_all(tasks, sentence)
    if settings.again:
        return _find_all(tasks)
    view = read_view(target, environ, tasks=None if of_database else tasks)
    if not (of_database or view.is_begun):
        return _find_all(tasks)
    if settings.remap and (view.is_edited or view.remap_begun):
        return _find_after_remap(target, environ, paths, tasks)
    return TasksLeft(
        view.ids_in(*_LEFT),
        view.frontier,
        lambda taskid: view.state(taskid) is State.FINISHED,
        _describe_left(view, is_begun=not of_database),
    )


def _find_all(tasks: TaskList, sentence: str = "") -> TasksLeft:
    return _find_by_locations(bytearray(len(tasks)), tasks, sentence)


def _find_after_remap(
    target: Target, environ: Mapping[str, str], paths: WorkdirPaths, tasks: TaskList
) -> TasksLeft:
    """Return what is left once ``--remap`` has brought the workdir in line."""
    if files.is_there(paths.remap):
        sentence = "the start would complete the --remap that was interrupted, first"
        return _find_all(tasks, sentence)
    lock = find_existing_lock(target, environ)
    # A try of the locks of others, without this one, could make a start of them fail.
    with nullcontext() if lock is None else lock.hold(LOCK_TIMEOUT):
        _, moved = plan_remap(paths, tasks.tasks, observer())
    return _find_by_locations(moved.locations, tasks, describe(moved))


def _find_by_locations(
    locations: bytearray, tasks: TaskList, sentence: str
) -> TasksLeft:
    """Return the tasks of which `locations` says neither finished nor failed."""
    finished, failed = (_mark(locations, each) for each in RECORDED)
    return TasksLeft(
        [each for each, at in enumerate(locations) if at not in RECORDED]
        if any(locations)
        else range(len(locations)),
        Frontier(find_constraints(tasks), finished, failed),
        lambda taskid: bool(finished[taskid]),
        sentence,
    )


def _mark(locations: bytearray, wanted: Location) -> bytearray:
    """Return a byte for each task, 1 if it is at the place."""
    return locations.translate(bytes(each == wanted for each in range(256)))


def _describe_left(view: View, *, is_begun: bool) -> str:
    """Return what has ended, "" for a list that perhaps no farm has begun."""
    counts = view.counts
    left = sum(counts[state] for state in _LEFT)
    told = [*_count_others(view)]
    if not told and not is_begun:
        return ""
    verb = "is" if 1 in (left, view.total) else "are"
    of = f"{left} of {counted(view.total)} {verb} left to run"
    return f"the list was begun before: {', '.join([of, *told])}"


def _count_others(view: View) -> Iterator[str]:
    """Yield the number of tasks in each state that a start does not run."""
    not_run = len(view.not_run)
    for state, word in _WORDS.items():
        is_failed = state is State.FAILED
        count = view.counts[state] - (not_run if is_failed else 0)
        if count:
            yield f"{count} {word}"
        if is_failed and not_run:
            yield f"{not_run} not run"


def describe_start(
    left: TasksLeft, tasks: TaskList, taskid: int, policy: Policy
) -> Iterator[str]:
    """Yield why a task may not start at once, or never."""
    constraints, frontier = find_constraints(tasks), left.frontier
    if why := frontier.find_doomed(taskid):
        yield f"is not run, because {why}"
        return
    if taskid >= frontier.horizon:
        yield f"waits until all tasks before task {frontier.horizon} have ended"
    elif not frontier.is_ready(taskid):
        awaited = constraints.after[taskid]
        ids = [str(each) for each in awaited if not left.has_finished(each)]
        yield f"waits for {agree(len(ids), 'task', 'tasks')} {', '.join(ids)}"
    kind = constraints.kinds.get(taskid)
    if kind is not None and (seats := dict(policy.seats).get(kind)):
        yield f"is of the kind {kind!r}, of which {seats} may run at a time"
