"""One cheap reading of a workdir, without the lock, for commands that only look.

Rules of this file: it creates, touches and locks nothing, and waits for nobody.  Farms
may write meanwhile: a last line that has no newline yet does not count, and files of
which tasks seem to be missing are read again.  `store.task_map` says where a task is.

How to use it::

    view = read_view(target, environ)     # the list, the status files, the claims
    view.total, view.counts               # the number of tasks, and of each State
    view.state(taskid)                    # its State; states(taskids): of many
    view.ids_in(State.FAILED)             # the ids in these states, in order
    view.text(taskid)                     # its command, "" if nobody knows it; texts
    view.holder(taskid)                   # the claim that holds the task, or None
    view.held                             # what users hold, by the file ``held``
    view.live_farms                       # the claims of farms that live, or may
    view.running                          # where each running task runs, since when
    view.last_failed(5)                   # the ids that failed last
    view.not_run                          # which failed ones never ran
    view.read_attempts(ids)               # the last attempts of some tasks, or of all
    view.warnings()                       # sentences for standard error

`read_attempts` returns a `store.attempts.LastAttempts`: `field` parses one column of
one task's last attempt, `find` the whole `Attempt`.  `is_of` says whether an attempt
explains the state of its task: a plain farmer, which writes no attempts, may have run
the task since.
"""

import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from mpifarm.audit.audit import (
    UNKNOWN_TEXT,
    ClaimView,
    Contents,
    ParsedContents,
    find_nowhere_of,
    learn_tasks,
    parse_contents,
)
from mpifarm.audit.farms import read_claimed
from mpifarm.audit.snapshot import TRIES, glance, observer
from mpifarm.errors import StorageError
from mpifarm.immutable import immutable
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import encode_text
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.order.frontier import Frontier
from mpifarm.store.attempts import (
    CANCELLED,
    COMPLETED,
    Column,
    LastAttempts,
    find_awaited,
    read_last_attempts,
    read_last_of_all,
)
from mpifarm.store.farm_liveness import Machine
from mpifarm.store.held_file import Held, find_held
from mpifarm.store.status_lines import encode_texts
from mpifarm.store.target import (
    Target,
    has_own_state,
    is_database,
    look_at_tasks,
)
from mpifarm.store.task_map import Location, TaskMap
from mpifarm.tasklists import TaskList, find_constraints

if TYPE_CHECKING:
    from mpifarm.audit.databases import DatabaseReading
    from mpifarm.database.farming import PlainAttempt


class State(Enum):
    """The state of a task, as a user is told it."""

    FINISHED = "finished"
    FAILED = "failed"
    RUNNING = "running"
    """A farm that lives says where the task runs."""
    CLAIMED = "claimed"
    """A farm that lives has taken the task: it runs, or is about to."""
    ORPHANED = "orphaned"
    """A farm had taken the task, and died; the next start takes the task back."""
    WAITING = "waiting"
    HELD = "held"
    """It waits, and no farm starts it before a user releases it."""
    NOWHERE = "nowhere"
    """In no file: a plain farmer runs the task, or has lost it."""
    UNKNOWN = "unknown"
    """Known only to a tasklist that keeps its own state."""

    # That of Enum is Python code, and a million states may be looked up.
    __hash__ = object.__hash__


_STATES: Final = {
    Location.FINISHED: State.FINISHED,
    Location.FAILED: State.FAILED,
    Location.QUEUED: State.WAITING,
    Location.NOWHERE: State.NOWHERE,
}
"""The states of the locations that status files tell."""

_OF_CLAIMED: Final = (State.RUNNING, State.CLAIMED, State.ORPHANED, State.HELD)
"""The states that a task in a claim may have."""

NOTHING_HELD: Final = Held()

PAUSE: Final = 0.01
"""Seconds until files of which tasks seem to be missing are read again."""


class RunningTask(NamedTuple):
    """The place of a running task, and the time of its start since the epoch."""

    taskid: int
    farm: str
    host: str
    rank: int
    worker: int | None
    pid: int | None
    """Of the worker process; None, because no farm tells of it."""
    started: float
    attempt: int | None = None


def read_running(
    paths: WorkdirPaths, claims: Iterable[ClaimView]
) -> dict[int, RunningTask]:
    """Return the places of tasks that run now, by their ids.

    The farms of `claims` tell of them in ``farms/``: of tasks that have run for some
    seconds, and of those that have run longest if there are more than 10 000.
    """
    return {
        each.taskid: RunningTask(
            *(each.taskid, farm.farm, each.host, each.rank, each.worker, None),
            *(each.started, each.attempt),
        )
        for farm in read_claimed(paths, claims)
        for each in farm.find_running()
    }


class View:
    """The state of a workdir, as it was read at one moment.

    `tasks` are the texts of the list, or those that the files have; `list_is_known`
    says which.  `troubles` are sentences about what could not be used.  `tasklist`
    makes the commands, None if the list is unknown.
    """

    def __init__(
        self,
        target: Target,
        contents: Contents,
        tasks: Sequence[str],
        *,
        tasklist: TaskList | None,
        has_own_state: bool,
        held: Held = NOTHING_HELD,
        troubles: Sequence[str] = (),
        cancelled: Collection[int] = (),
        plain: "Mapping[int, PlainAttempt] | None" = None,
    ) -> None:
        self.target = target
        self.paths = WorkdirPaths(os.path.abspath(target.workdir))
        self.tasks = tasks
        self.tasklist = tasklist
        self._cancelled = cancelled
        self.plain: Mapping[int, PlainAttempt] = plain or {}
        """The last attempts of plain farmers, as far as the list itself knows them."""
        self.list_is_known = tasklist is not None and not has_own_state
        self.has_own_state = has_own_state
        self.claims = contents.claims
        self.is_begun = contents.begun
        self.is_draining = contents.drain
        self.remap_begun = contents.remap_begun
        self.held = held
        self.unread = (*troubles, *contents.unread)
        self.constraints = _constraints_of(tasklist)
        parsed = parse_contents(
            contents,
            tasks,
            list_is_known=self.list_is_known,
            constraints=self.constraints,
        )
        self.is_edited = parsed.is_edited
        """Whether the list was edited, not only added to, since the workdir began."""
        self._was_lost = self.is_edited and bool(find_nowhere_of(contents))
        self.odd_lines = sum(len(each.odd) for each in parsed.by_name.values())
        self._locations = _locate(contents, parsed)
        self._failed = parsed.failed.ids
        self._failed_elsewhere = parsed.failed.aliens

    # ---- states ---------------------------------------------------------------------

    @property
    def total(self) -> int:
        """The number of tasks, with those that were added to the list since."""
        return len(self.tasks)

    def state(self, taskid: int) -> State:
        """Return the state of a task, `NOWHERE` for an id that the list does not have.

        A task that the workdir has not taken up yet waits for the next start.
        """
        location = self._locations.find(taskid)
        if location is Location.CLAIMED:
            return self._state_of_claimed(taskid)
        if not 0 <= taskid < self.total:
            return State.NOWHERE
        if self.has_own_state:
            return State.UNKNOWN
        state = _STATES[location] if taskid < self._locations.total else State.WAITING
        is_held = state is State.WAITING and self.held.holds(taskid)
        return State.HELD if is_held else state

    def states(self, taskids: Sequence[int]) -> Iterator[State]:
        """Return the state of each of these tasks; the list must have them all."""
        is_plain = self.held == NOTHING_HELD and not self.has_own_state
        if not is_plain or self._locations.total < self.total:
            return map(self.state, taskids)
        # Without a call for each: there may be a million.
        known = [_STATES.get(location) for location in sorted(Location)[1:]]
        return (
            known[number] or self._state_of_claimed(taskid)
            for taskid, number in zip(taskids, self._locations.at(taskids), strict=True)
        )

    def _state_of_claimed(self, taskid: int) -> State:
        if taskid in self.running:
            return State.RUNNING
        holder = self.holder(taskid)
        if holder and holder.may_live:
            return State.CLAIMED
        # It goes back at the next start, and then it waits to be released.
        return State.HELD if self.held.holds(taskid) else State.ORPHANED

    def ids_in(self, *states: State) -> list[int]:
        """Return the ids of the tasks in these states, in order."""
        wanted = {*states}
        if wanted.issuperset(State):
            return [*range(self.total)]
        found = list[int]()
        if not self.has_own_state:
            for location, state in _STATES.items():
                if state in wanted and state is not State.WAITING:
                    found += self._locations.ids_at(location)
            found += self._find_queued(wanted)
        elif State.UNKNOWN in wanted:
            found += [each for each in range(self.total) if each not in self._holders]
        if not wanted.isdisjoint(_OF_CLAIMED):
            claimed = self._locations.ids_at(Location.CLAIMED)
            found += [each for each in claimed if self.state(each) in wanted]
        return sorted(found)

    def _find_queued(self, wanted: set[State]) -> Iterable[int]:
        """Return the ids of the tasks that wait, of those held, or of both."""
        if wanted.isdisjoint((State.WAITING, State.HELD)):
            return ()
        added = range(self._locations.total, self.total)
        queued = chain(self._locations.ids_at(Location.QUEUED), added)
        if wanted.issuperset((State.WAITING, State.HELD)):
            return queued
        wants_held = State.HELD in wanted
        return (each for each in queued if self.held.holds(each) is wants_held)

    @cached_property
    def counts(self) -> Mapping[State, int]:
        """The number of tasks in each state."""
        at = self._locations.count()
        counts = dict.fromkeys(State, 0)
        for taskid in self._locations.ids_at(Location.CLAIMED):
            counts[self._state_of_claimed(taskid)] += 1
        if self.has_own_state:
            return counts | {State.UNKNOWN: self.total - at.claimed}
        queued = at.queued + self.total - at.total
        held = queued
        if not self.held.holds_all:
            found = (self.state(each) is State.HELD for each in self.held.tasks)
            held = sum(found) - counts[State.HELD]
        return counts | {
            State.FINISHED: at.finished,
            State.FAILED: at.failed,
            State.WAITING: queued - held,
            State.HELD: counts[State.HELD] + held,
            State.NOWHERE: at.nowhere,
        }

    @cached_property
    def held_up(self) -> int:
        """The number of waiting tasks that may not start yet, by the list's order."""
        if not self.constraints:
            return 0
        find_candidate = self.frontier.find_candidate
        return sum(find_candidate(each) != each for each in self.ids_in(State.WAITING))

    @cached_property
    def kinds(self) -> Sequence[str]:
        """The kinds of the list's tasks, each once."""
        return [*dict.fromkeys(self.constraints.kinds.values())]

    def count_waiting_of_kinds(self, limits: Collection[str]) -> Mapping[str, int]:
        """Return how many tasks wait of each kind that is not among these `limits`."""
        kinds = self.constraints.kinds
        if {*self.kinds}.issubset(limits):  # the quick answer for a long list
            return {}
        lacking = [each for each, kind in kinds.items() if kind not in limits]
        states = zip(lacking, self.states(lacking), strict=True)
        return Counter(kinds[each] for each, state in states if state is State.WAITING)

    @cached_property
    def frontier(self) -> Frontier:
        """Which tasks may start, by what has ended and by the list's order."""
        flags = [bytearray(self.total), bytearray(self.total)]
        for location, ended in zip(
            (Location.FINISHED, Location.FAILED), flags, strict=True
        ):
            for taskid in self._locations.ids_at(location):
                ended[taskid] = 1
        return Frontier(self.constraints, *flags)

    @cached_property
    def not_run(self) -> Mapping[int, int]:
        """The failed tasks that were not run, each with the one that it waits for.

        Raises `StorageError`.
        """
        failed = self.ids_in(State.FAILED)
        if not failed or (self.list_is_known and not self.constraints):
            return {}
        last = self.read_attempts(failed)
        awaited = {
            each: find_awaited(last.field(each, Column.OUTCOME)) for each in failed
        }
        return {each: root for each, root in awaited.items() if root is not None}

    def find_cancelled(self, attempts: LastAttempts) -> set[int]:
        """Return the failed tasks that a user has cancelled; `attempts` are theirs."""
        failed = self.ids_in(State.FAILED)
        return {
            taskid
            for taskid in failed
            if taskid in self._cancelled
            or attempts.field(taskid, Column.OUTCOME) == CANCELLED
        }

    def last_failed(self, count: int) -> list[int]:
        """Return the failed tasks that were recorded last, the last one first.

        Those that were not run are left out.  Raises `StorageError`.
        """
        found = dict[int, None]()
        for taskid in reversed(self._failed):
            if len(found) == count:
                break
            if self.state(taskid) is State.FAILED and taskid not in self.not_run:
                found[taskid] = None
        return [*found]

    def find_failed_before_edit(self) -> list[int]:
        """Return the ids that failed with a line that the list has there no more."""
        if not self.is_edited:  # then such a line is garbage
            return []
        found = {each.taskid for each in self._failed_elsewhere}
        ids = (each for each in found if each is not None)
        return sorted(each for each in ids if self.state(each) is State.NOWHERE)

    # ---- tasks and farms ------------------------------------------------------------

    @property
    def has_lost(self) -> bool:
        """Whether tasks are in no file, of the list as it was: others may run them."""
        return self._was_lost or (self.counts[State.NOWHERE] > 0 and not self.is_edited)

    def text(self, taskid: int) -> str:
        """Return the command of a task, "" if the list and the files do not have it."""
        text = self.tasks[taskid] if 0 <= taskid < self.total else ""
        return "" if text == UNKNOWN_TEXT else text

    def texts(self, taskids: Sequence[int]) -> Sequence[str]:
        """Return the command of each of these tasks, as `text` does."""
        run = _find_run(taskids)
        texts = self.tasks[run.start : run.stop]
        if not run or UNKNOWN_TEXT in texts:
            return [*map(self.text, taskids)]
        return texts

    def encoded_texts(self, taskids: Sequence[int]) -> list[bytes]:
        """Return the command of each of these tasks as its bytes.

        Return [] if a command is unknown, or has a newline.
        """
        if run := _find_run(taskids):
            content = bytes(encode_texts(run.start, run.stop, self.tasks))
        else:
            content = encode_text("\n".join([*self.texts(taskids), ""]))
        texts = content.split(b"\n")[:-1]
        return texts if len(texts) == len(taskids) and all(texts) else []

    @cached_property
    def _holders(self) -> dict[int, ClaimView]:
        # A farm that may live is named, where a dead one had the task before.
        dead_first = sorted(self.claims, key=lambda claim: claim.may_live)
        return {taskid: claim for claim in dead_first for taskid in claim.held}

    def holder(self, taskid: int) -> ClaimView | None:
        """Return the claim that holds a task, of a farm alive or dead."""
        return self._holders.get(taskid)

    @property
    def live_farms(self) -> list[ClaimView]:
        """The claims of farms that are alive, or may be."""
        return [claim for claim in self.claims if claim.may_live]

    @cached_property
    def running(self) -> dict[int, RunningTask]:
        """The places of tasks that run now, by their ids."""
        return read_running(self.paths, self.live_farms)

    def read_attempts(self, taskids: Iterable[int] | None = None) -> LastAttempts:
        """Read the last attempts of these tasks (None: of all).

        Raises `StorageError`.  Few tasks take less time and memory than all.
        """
        if taskids is None:
            return read_last_of_all(self.paths, self.total)
        return read_last_attempts(self.paths, taskids)

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for each reason why the states may not be right."""
        yield from self.unread
        if self.remap_begun:
            yield "a --remap was interrupted: give the farm's command with --remap"
        elif self.is_edited:
            yield (
                f"{self.target.tasklist} was edited since {self.target.workdir} was"
                " begun: its ids may mean other tasks now"
            )


def _find_run(taskids: Sequence[int]) -> range:
    """Return these ids as a range if they follow one another, else an empty one."""
    run = range(taskids[0], taskids[0] + len(taskids))
    return run if [*run] == taskids else range(0)


def _constraints_of(tasklist: TaskList | None) -> Constraints:
    return UNORDERED if tasklist is None else find_constraints(tasklist)


def is_of(state: State, outcome: bytes) -> bool:
    """Return whether an attempt with this outcome explains the state of its task.

    An attempt of a task that waits or runs is one from before.
    """
    if state is State.FINISHED:
        return outcome == COMPLETED
    return state is not State.FAILED or outcome != COMPLETED


def _locate(contents: Contents, parsed: ParsedContents) -> TaskMap:
    total = len(parsed.tasks)
    toprocess = range(total) if parsed.toprocess is None else parsed.toprocess.ids
    return TaskMap(
        total,
        finished=parsed.finished.ids,
        claimed=[taskid for claim in contents.claims for taskid in claim.held],
        queued=(toprocess, parsed.added.ids, parsed.waiting.ids),
        failed=parsed.failed.ids,
    )


# ---- reading ------------------------------------------------------------------------


def read_view(
    target: Target,
    environ: Mapping[str, str],
    machine: Machine | None = None,
    tasks: TaskList | None = None,
) -> View:
    """Read the tasklist, the status files and the claims.

    `machine` judges which farms live; by default that of this process.  `tasks` is a
    list in a file that was read already.  A list with a wrong line counts as unknown.
    Raises `InputError` if the list cannot be used otherwise, `StorageError` if the disk
    fails.
    """
    if is_database(target, environ):
        from mpifarm.audit.databases import read_database  # SQLite, for databases only

        return _view_database(
            target, read_database(target, environ, machine or observer())
        )
    fault = ""
    if tasks is None:
        tasks, fault = look_at_tasks(target, environ)
    own = has_own_state(tasks, target)
    texts = None if own or tasks is None else tasks.tasks
    # A list that keeps its own state may make commands at a cost: they are not asked.
    least = len(tasks) if own and tasks is not None else 0
    faults = (fault,) if fault else ()
    reader = _Reader(target, texts, machine or observer(), own, least, tasks, faults)
    view = reader.read()
    for _ in range(TRIES):
        # A file of a plain farmer that is just being written has less than all lines,
        # and a task that was just put back may have been in no file that was read.
        if not view.counts[State.NOWHERE]:
            break
        time.sleep(PAUSE)
        before, view = view, reader.read()
        if view.counts == before.counts:
            break
    return view


def _view_database(target: Target, reading: "DatabaseReading") -> View:
    """Return the view of a database; it is of one moment, and never read again."""
    held, trouble = _find_held(target)
    return View(
        target,
        reading.contents,
        reading.tasks.tasks,
        tasklist=reading.tasks,
        has_own_state=False,
        held=held,
        troubles=[each for each in (reading.trouble, trouble) if each],
        cancelled=reading.cancelled,
        plain=reading.plain,
    )


def _find_held(target: Target) -> tuple[Held, str]:
    """Return what users hold, and a sentence if that can't be read."""
    paths = WorkdirPaths(os.path.abspath(target.workdir))
    return find_held(paths) or (NOTHING_HELD, "")


@immutable
class _Reader:
    """A reader of one workdir; without `texts` there are `least` tasks or more."""

    target: Target
    texts: Sequence[str] | None
    machine: Machine
    has_own_state: bool
    least: int
    tasklist: TaskList | None
    faults: tuple[str, ...]
    """Sentences about the list."""

    def read(self) -> View:
        contents = glance(self.target.workdir, self.machine)
        if contents.disk_failed:
            raise StorageError(contents.unread[0])
        if self.has_own_state:
            contents = contents._replace(toprocess=None, finished=None, failed=None)
        tasks = self.texts
        if tasks is None:
            learned = learn_tasks(contents)
            tasks = learned + [UNKNOWN_TEXT] * (self.least - len(learned))
        held, trouble = _find_held(self.target)
        return View(
            self.target,
            contents,
            tasks,
            tasklist=self.tasklist,
            has_own_state=self.has_own_state,
            held=held,
            troubles=(*self.faults, *([trouble] if trouble else ())),
        )
