"""A workdir whose tasks a list of the user's keeps by itself: its pop, its records.

Rules of this file: the list takes the lock in its own methods, so none of them is
called with the lock held.  They are called one by one, and after each the claim says
what it changed; a kill between the two leaves that one task to the list alone, and so
does a claim that can't be written: what the list has just given goes back to it.  What
else a farm writes (claim, timeline, attempts, logs) it writes under the lock as ever.
"""

import operator
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

from mpifarm.classes import in_one_line
from mpifarm.errors import StorageError
from mpifarm.workdir import files
from mpifarm.workdir.claims import Event, Machine, OtherClaim, this_machine
from mpifarm.workdir.joined import JoinedWorkdir
from mpifarm.workdir.opening import judge_access
from mpifarm.workdir.paths import WorkdirPaths
from mpifarm.workdir.progress import Progress
from mpifarm.workdir.records import Counts, HeldLock, Recorded, Survey, Transacted
from mpifarm.workdir.timeline_file import TimelineFile
from mpifarm.workdir.workdir import LOCK_TIMEOUT, MOST_FAILED_NAMED, make_root

POP_SECONDS = 0.1
"""How long one transaction goes on popping: signals wait for it."""


class OwnStateList(Protocol):
    """A tasklist as PyTaskFarmer's base class ``TaskList`` describes it."""

    def __len__(self) -> int: ...

    def get_finished(self) -> list[int] | None:
        """The ids of the finished tasks; None where the list can't tell."""

    def pop_task(self) -> int | None:
        """Take a task out of those to be processed; None when there is none."""

    def record_toprocess_task(self, taskid: int) -> None:
        """Put a task back."""

    def record_done_task(self, taskid: int, returncode: int) -> None:
        """Record how a task ended."""


class Texts(Sequence[str]):
    """The texts of tasks for the timeline: of ``tasks`` if the list has it."""

    def __init__(self, tasks: Any) -> None:
        self._tasks = getattr(tasks, "tasks", tasks)
        self._count = len(tasks)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, taskid: Any) -> Any:
        try:
            return str(self._tasks[taskid])
        except Exception:  # noqa: BLE001 - the user's own; a name is not worth a farm
            return f"task {taskid}"


class ForeignWorkdir(JoinedWorkdir):
    """The workdir of a farm whose tasklist keeps its own state."""

    def __init__(
        self, paths: WorkdirPaths, tasks: OwnStateList, farm: str, machine: Machine
    ) -> None:
        super().__init__(paths, farm, machine)
        self._tasks = tasks
        self._total = len(tasks)
        self._timeline = TimelineFile(paths, farm, Texts(tasks), self.notes)
        self._finished: set[int] = set()
        self._failed: set[int] = set()
        self._inherited: list[int] = []
        """What dead farms held: ours by our claim, and not handed out yet."""
        self._popped: list[int] = []
        self._unclaimed: list[int] = []
        """What the list gave us, and the claim does not say yet."""
        self._progress = Progress()
        self._empty = False
        self._trouble: StorageError | None = None
        self._prepare_seconds = 0.0

    @classmethod
    def open(
        cls,
        path: str,
        tasks: OwnStateList,
        lock: HeldLock,
        farm: str,
        clock: Callable[[], float] = time.time,
        machine: Machine | None = None,
        *,
        inherits: str = "",
    ) -> "ForeignWorkdir":
        """Join the workdir at `path`; takes the lock itself.

        `inherits` names the farm whose coordinator was lost and whose place this one
        takes: what it held is held by this one from the start.

        Raises `InputError` where the workdir can't be used, `StorageError` where the
        disk or the list gives way.
        """
        paths = WorkdirPaths(os.path.abspath(path))
        make_root(paths.root)
        judge_access(paths)
        workdir = cls(paths, tasks, farm, machine or this_machine())
        workdir._ask_finished()
        workdir._failed = set(workdir._read_failed()) - workdir._finished
        with lock.hold(LOCK_TIMEOUT):
            workdir._join(lock.paths, clock, inherits)
        return workdir

    def _join(
        self, lock_paths: Sequence[str], clock: Callable[[], float], inherits: str
    ) -> None:
        self._member.judge_others(lock_paths, self._total)
        self._member.make_directories()
        self._member.enter(clock)
        try:
            self._timeline.mend()
            self._adopt(inherits)
            self.reclaim_dead()
        except StorageError:
            if not self.held:
                self._member.give_up()
            self._member.claim.end()
            raise
        except BaseException:
            self._member.claim.end()
            raise

    def _adopt(self, farm: str) -> None:
        """Hold what the lost coordinator of this farm held, unless others got it."""
        self._others.look()
        for claim in self._member.find_ancestors(farm):
            held = claim.journal.held.keys() - self._finished - self.held
            self._member.adopt(claim, dict.fromkeys(held, 0))

    # ---- the list -------------------------------------------------------------------

    def _ask(self, method: str, *arguments: object) -> Any:
        """What a method of the list returns; `StorageError` for what it raises."""
        try:
            return getattr(self._tasks, method)(*arguments)
        except (Exception, SystemExit) as error:
            raise StorageError(
                f"the tasklist's own {method} failed ({in_one_line(error)})"
            ) from error

    def _ask_finished(self) -> None:
        given = self._ask("get_finished")
        try:
            ids = [operator.index(taskid) for taskid in given or ()]
        except TypeError as error:
            raise StorageError(
                f"the tasklist's own get_finished gave no task ids: {str(given)[:60]!r}"
            ) from error
        self._finished.update(taskid for taskid in ids if 0 <= taskid < self._total)

    def _read_failed(self) -> Iterator[int]:
        """Tasks whose last attempt failed: no list tells of them."""
        content = files.find_content(self.paths.attempts) or b""
        last: dict[int, int] = {}
        for line in content.splitlines()[1:]:
            with suppress(ValueError):  # a torn line
                taskid, _, status = line.split(b"\t")[:3]
                last[int(taskid)] = int(status)
        return (
            taskid
            for taskid, status in last.items()
            if status and 0 <= taskid < self._total
        )

    # ---- transactions ---------------------------------------------------------------

    def prepare(
        self, results: Sequence[Recorded], give_back: Sequence[int], take: int
    ) -> None:
        """Have the list record, put back and pop, one by one, without the lock."""
        begun = time.perf_counter()
        self._trouble = None
        try:
            for result in results:
                self._record(result)
            self._put_back(give_back)
            if take <= 0:
                self._put_back(self._inherited)
                self._inherited.clear()
                self._return_unclaimed()
            self._pop(take, until=begun + POP_SECONDS)
        except StorageError as error:
            self._trouble = error
            with suppress(StorageError):
                self._return_unclaimed()
        self._prepare_seconds = time.perf_counter() - begun

    def _record(self, result: Recorded) -> None:
        taskid = result.taskid
        if self._progress.left("record", [taskid]):
            if taskid not in self._finished:
                status = 0 if result.finished else result.status or 1
                self._ask("record_done_task", taskid, status)
            (self._finished if result.finished else self._failed).add(taskid)
            self._progress.note("record", [taskid])
        self._strike(taskid)

    def _strike(self, taskid: int) -> None:
        # Once: the list may have given it to us again since.
        if self._progress.left("strike", [taskid]):
            self._member.strike([taskid])
            self._progress.note("strike", [taskid])

    def _put_back(self, taskids: Sequence[int]) -> None:
        """Have the list take them.

        The claim says so before: another farm that gets one of them from the list at
        once must not think that it is still ours, for nobody else would get it then.
        """
        left = self._progress.left("strike", taskids)
        if not left:
            return
        self._member.claim.append(Event(giving=left))
        for taskid in left:
            if taskid not in self._finished and self._progress.left("put", [taskid]):
                self._return(taskid)
                self._progress.note("put", [taskid])
            self._strike(taskid)

    def _return(self, taskid: int) -> None:
        self._ask("record_toprocess_task", taskid)
        self._empty = False

    def _return_unclaimed(self) -> None:
        while self._unclaimed:
            self._return(self._unclaimed[-1])
            self._unclaimed.pop()

    def _pop(self, take: int, until: float) -> None:
        if take > 0:
            self._others.look()
        while len(self._popped) < take:
            if self._unclaimed:
                self._claim_given()
                continue
            if self._inherited:
                taskid = self._inherited.pop()
                if taskid in self._member.claim.held:
                    self._popped.append(taskid)
                continue
            if time.perf_counter() > until and self._popped:
                return
            given = self._ask("pop_task")
            self._empty = given is None
            if self._empty:
                return
            taskid = self._checked_id(given)
            if self._is_free(taskid):
                self._unclaimed.append(taskid)

    def _claim_given(self) -> None:
        self._hold(self._unclaimed[-1:])
        self._popped.append(self._unclaimed.pop())

    def _checked_id(self, given: Any) -> int:
        try:
            taskid = operator.index(given)  # numpy's integers as well
        except TypeError:
            taskid = -1
        if not 0 <= taskid < self._total:
            raise StorageError(
                f"the tasklist's own pop_task gave {given!r}, which is no task id: "
                f"it has {self._total} tasks"
            )
        return taskid

    def _is_free(self, taskid: int) -> bool:
        if taskid in self._finished or taskid in self._member.claim.held:
            return False
        if self._others.hold(taskid):
            self._others.look()  # It may be given back since the last look.
        return not self._others.hold(taskid)

    def _hold(self, taskids: Sequence[int]) -> None:
        self._member.claim.append(Event(take=taskids))
        self._member.claim.held.update(taskids)
        self._failed.difference_update(taskids)

    def transact(
        self, results: Sequence[Recorded], give_back: Sequence[int], take: int
    ) -> Transacted:
        """Tell what `prepare` got, and write the rest of it down.  Lock held."""
        begun = time.perf_counter()
        if self._trouble is not None:
            # Until it was prepared again: the list may not have recorded the results.
            raise self._trouble
        self._member.claim.check()
        self._others.look()
        if results:
            self._progress.once("timeline", results, self._timeline.append)
            self._progress.once("attempts", results, self._append_attempts)
        self._progress.forget()
        taken, self._popped = self._popped, []
        empty = self._empty and not self._inherited
        seconds = time.perf_counter() - begun + self._prepare_seconds
        return Transacted(taken, empty, seconds)

    def reclaim_dead(self) -> int:
        """Take over what dead farms held; how many tasks.  Lock held."""
        self._others.look()
        return self._member.inherit(self._take_over)

    def _take_over(self, claim: OtherClaim, _descriptor: int) -> int:
        """Into our own claim first: a kill in between leaves it in both."""
        held = claim.journal.held.keys() - self._finished - self._member.claim.held
        held = {taskid for taskid in held if not self._is_with_another(taskid, claim)}
        if held:
            self._hold(sorted(held))
            self._inherited.extend(sorted(held, reverse=True))
        self._member.remove(claim, len(held))
        return len(held)

    def _is_with_another(self, taskid: int, dead: OtherClaim) -> bool:
        """Whether a farm got it from the list when the dead one had put it back."""
        claims = self._others.claims.values()
        return any(claim.keeps(taskid) for claim in claims if claim is not dead)

    # ---- looking --------------------------------------------------------------------

    @property
    def recorded(self) -> tuple[int, int]:
        """How many tasks have finished and failed, as far as this farm knows."""
        return len(self._finished), len(self._failed - self._finished)

    def has_record_of(self, taskid: int) -> bool:
        """Whether the task has finished or failed, as far as this farm knows."""
        return taskid in self._finished or taskid in self._failed

    def survey(self) -> Survey:
        """What the claims say.  Lock held."""
        self._others.look()
        return Survey(self.held, frozenset(self._others.held_ids()), None)

    def counts(self, survey: Survey) -> Counts:
        """Where all tasks were, as far as the list tells.  Without the lock."""
        self._ask_finished()
        finished = self._finished
        claimed = survey.claimed - finished
        busy = survey.held | claimed
        failed = self._failed - finished - busy
        rest = max(0, self._total - len(finished) - len(failed) - len(busy - finished))
        return Counts(
            total=self._total,
            finished=len(finished),
            failed=len(failed),
            toprocess=0 if self._empty else rest,
            held=len(survey.held),
            claimed=len(busy) - len(survey.held),
            elsewhere=rest if self._empty else 0,
            first_failed=tuple(sorted(failed)[:MOST_FAILED_NAMED]),
        )
