"""The workdir of a farm: all that rank 0 reads and writes there.

Rules of this file: it knows neither MPI nor processes.  A method that says "lock held"
is called with the lock held, and keeps no shared file open beyond it.  The order of
the steps is what makes a kill between any two of them harmless; each function that
depends on an order says which and why.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from mpifarm.errors import InputError, StorageError
from mpifarm.workdir import files
from mpifarm.workdir.claims import (
    Event,
    Machine,
    OtherClaim,
    encode_event,
    find_leftovers,
    this_machine,
)
from mpifarm.workdir.joined import JoinedWorkdir
from mpifarm.workdir.ledger import Ledger
from mpifarm.workdir.opening import (
    JudgedFile,
    Judgement,
    judge_access,
    judge_snapshot,
    read_snapshot,
    shorten,
)
from mpifarm.workdir.paths import WorkdirPaths
from mpifarm.workdir.records import (
    Counts,
    HeldLock,
    Recorded,
    Survey,
    Transacted,
)
from mpifarm.workdir.status import encode_lines, parse_ids_only
from mpifarm.workdir.timeline_file import TimelineFile
from mpifarm.workdir.toprocess import (
    AlienTaskError,
    Plan,
    mend_tail,
    plan_toprocess,
)

LOCK_TIMEOUT = 60.0
MOST_FAILED_NAMED = 10
LARGE_TOPROCESS = 8 * 1024 * 1024
"""Bytes of ``toprocess`` from which on reading it again takes too long for the lock."""
_ORPHAN_FARM = re.compile(r"[0-9a-f]{8,}")


class Prepared(NamedTuple):
    """A new ``toprocess`` that was written outside the lock.

    `content` is that of the old one, unless it is so large that its `version` alone
    tells whether it was changed.
    """

    version: files.Version | None
    content: bytes | None
    give_back: tuple[int, ...]
    take: int
    plan: Plan
    step: int


class Workdir(JoinedWorkdir):
    """A workdir with PyTaskFarmer's status files, and this farm's part in it."""

    def __init__(
        self,
        paths: WorkdirPaths,
        tasks: Sequence[str],
        farm: str,
        clock: Callable[[], float],
        machine: Machine,
    ) -> None:
        super().__init__(paths, farm, machine)
        self._tasks = tasks
        self._clock = clock
        self._finished = Ledger(paths.finished, tasks)
        self._failed = Ledger(paths.failed, tasks)
        self._joined_by_others = False
        self._timeline = TimelineFile(paths, farm, tasks, self.notes)
        self._last_step = 0
        self._prepared: Prepared | None = None
        self._prepare_seconds = 0.0
        self._stuck: StorageError | None = None

    # ---- joining --------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        path: str,
        tasks: Sequence[str],
        lock: HeldLock,
        farm: str,
        clock: Callable[[], float] = time.time,
        machine: Machine | None = None,
        *,
        inherits: str = "",
    ) -> "Workdir":
        """Join the workdir at `path`; takes the lock itself.

        `inherits` names the farm whose coordinator was lost and whose place this one
        takes: what it held is held by this one from the start.

        Raises `InputError`, with everything as it was, where the workdir can't be used
        or does not belong to this tasklist; `StorageError` where the disk gives way.
        """
        paths = WorkdirPaths(os.path.abspath(path))
        make_root(paths.root)
        judge_access(paths)
        workdir = cls(paths, tasks, farm, clock, machine or this_machine())
        with lock.hold(LOCK_TIMEOUT):
            snapshot = read_snapshot(paths)
        judgement = judge_snapshot(snapshot, tasks, paths)
        with lock.hold(LOCK_TIMEOUT):
            if files.find_content(paths.fingerprint) != snapshot.fingerprint:
                # Another farm has begun meanwhile, perhaps with another list.
                judgement = judge_snapshot(read_snapshot(paths), tasks, paths)
            workdir._join(judgement, lock.paths, inherits)
        return workdir

    def _join(
        self, judgement: Judgement, lock_paths: Sequence[str], inherits: str
    ) -> None:
        """Lock held.  Judges what is left to judge before the first change."""
        self._start_ledgers(judgement)
        self._member.judge_others(lock_paths, len(self._tasks))
        self._member.make_directories()
        if judgement.fingerprint is not None:
            beside = f"{self.paths.fingerprint}.{self.farm}"
            files.replace(self.paths.fingerprint, beside, judgement.fingerprint)
        self._member.enter(self._clock)
        try:
            self._mend(judgement)
            self._adopt(inherits)
            self.reclaim_dead()
            self._remove_orphans()
        except StorageError:
            self._member.give_up()
            raise
        except BaseException:
            self._member.claim.end()
            raise

    def _start_ledgers(self, judgement: Judgement) -> None:
        for ledger, content, judged in (
            (self._finished, judgement.snapshot.finished, judgement.finished),
            (self._failed, judgement.snapshot.failed, judgement.failed),
        ):
            # A last line without newline counts once `_mend` has ended it.
            ledger.start_behind(content or b"", judged.ids)
            ledger.look()

    def _mend(self, judgement: Judgement) -> None:
        """End or replace torn lines, and tell of them."""
        for judged in (judgement.finished, judgement.failed, judgement.toprocess):
            self.notes.extend(judged.notes)
        for ledger in (self._finished, self._failed):
            if ledger.tail:
                ledger.append(())
        self._mend_toprocess(judgement.snapshot.toprocess, judgement.toprocess)
        self._timeline.mend()

    def _mend_toprocess(self, before: bytes | None, judged: JudgedFile) -> None:
        in_order = sorted({*judged.ids, *judged.tail_ids})
        if judged.clean and judged.ids == in_order:
            return
        if files.find_content(self.paths.toprocess) != before:
            # A plain farmer has written it since, whole and sorted.
            return
        beside = self._next_beside()
        files.write_beside(
            beside, (encode_lines(in_order, self._tasks),), like=self.paths.toprocess
        )
        files.rename(beside, self.paths.toprocess)

    def _remove_orphans(self) -> None:
        """Remove temporary files whose claim is gone (killed while cleaning up)."""
        for path, farm, _ in find_leftovers(self.paths):
            known = farm == self.farm or farm in self._others.claims
            if not known and _ORPHAN_FARM.fullmatch(farm):
                files.remove(path)

    # ---- transactions ---------------------------------------------------------------

    def prepare(
        self, results: Sequence[Recorded], give_back: Sequence[int], take: int
    ) -> None:
        """Write the next ``toprocess`` beside, without the lock.

        The next `transact` with the same arguments uses it, unless others have changed
        what it was made from.
        """
        self._discard_prepared()
        begun = time.perf_counter()
        with suppress(StorageError):
            self._prepare(tuple(give_back), take)
        self._prepare_seconds = time.perf_counter() - begun

    def _prepare(self, give_back: tuple[int, ...], take: int) -> None:
        if not give_back and take <= 0:
            return
        version = files.find_version(self.paths.toprocess)
        content = files.find_content(self.paths.toprocess)
        plan = self._plan(content, give_back, take)
        if plan.changed:
            self._write_plan(plan)
            large = version is not None and version.size > LARGE_TOPROCESS
            self._prepared = Prepared(
                version,
                None if large else content,
                give_back,
                take,
                plan,
                self._last_step,
            )

    def transact(
        self, results: Sequence[Recorded], give_back: Sequence[int], take: int
    ) -> Transacted:
        """Record results, put ids back, take up to `take` new ones.  Lock held."""
        begun = time.perf_counter()
        self._member.check_held([*(each.taskid for each in results), *give_back])
        self._member.claim.check()
        self._look()
        self._record(results)
        taken, empty = self._exchange(give_back, take)
        prepare_seconds, self._prepare_seconds = self._prepare_seconds, 0.0
        seconds = time.perf_counter() - begun
        return Transacted(taken, empty, seconds + prepare_seconds)

    def _look(self) -> None:
        """Learn what others have done."""
        looks = (self._finished.look(), self._failed.look())
        self._others.look()
        for ledger, look in zip((self._finished, self._failed), looks, strict=True):
            for line in look.odd:
                text = shorten(line.decode("utf-8", "surrogateescape"))
                self.notes.append(f"odd line in {ledger.path}: '{text}'")
        if any(look.ids or look.odd for look in looks) and not self._joined_by_others:
            self._joined_by_others = True
            self._timeline.leave_to_others()

    def _record(self, results: Sequence[Recorded]) -> None:
        """Record results; those that others have finished meanwhile are only struck.

        Timeline first (an event of an attempt that runs again is still true), then the
        results, and only then may the claim forget them.
        """
        if not results:
            return
        self._timeline.append(results)
        new = [result for result in results if result.taskid not in self._finished]
        for ledger, is_finished in ((self._finished, True), (self._failed, False)):
            ids = [result.taskid for result in new if result.finished is is_finished]
            if ids:
                ledger.append(ids)
        self._member.strike([result.taskid for result in results])
        self._append_attempts(results)

    def _exchange(self, give_back: Sequence[int], take: int) -> tuple[list[int], bool]:
        """Put back and take, in one step via one new ``toprocess``.

        The step happens by the rename; before it, the claim has told of it.
        """
        gone = [taskid for taskid in give_back if taskid in self._finished]
        back = tuple(taskid for taskid in give_back if taskid not in self._finished)
        if gone:
            self._member.strike(gone)
        if not back and take <= 0:
            self._discard_prepared()
            return [], self._toprocess_is_empty()
        if self._stuck is not None:
            raise self._stuck
        plan = self._find_prepared_plan(back, take) or self._write_new_plan(back, take)
        if plan.changed:
            self._commit(plan, back)
        return plan.taken, plan.empty

    def _commit(self, plan: Plan, back: tuple[int, ...]) -> None:
        """Put the file of the last step in the place of ``toprocess``."""
        step = self._last_step
        beside = self.paths.toprocess_beside(self.farm, step)
        if plan.taken or back:
            event = Event(
                take=plan.taken, put=back, via=step, failed=self._failed.size()
            )
            self._member.claim.append_step(event, beside)
        try:
            files.rename(beside, self.paths.toprocess)
        except StorageError as error:
            # The claim names the file, so it has to stay: it says "did not happen".
            self._stuck = error
            raise
        self._member.claim.held.difference_update(back)
        self._member.claim.held.update(plan.taken)

    def _find_prepared_plan(self, back: tuple[int, ...], take: int) -> Plan | None:
        """The prepared plan if it is still right; its file is that of the last step."""
        prepared = self._prepared
        if prepared is None:
            return None
        plan = prepared.plan
        fits = (
            (prepared.give_back, prepared.take) == (back, take)
            and not any(map(self._is_blocked, plan.taken))
            # What was dropped may have been put back by its farm since.
            and all(map(self._is_blocked, plan.dropped))
            and self._is_unchanged(prepared)
        )
        if not fits:
            self._discard_prepared()
            return None
        self._prepared = None
        return plan

    def _is_unchanged(self, prepared: Prepared) -> bool:
        """Whether ``toprocess`` is still what the new one was made from."""
        if files.find_version(self.paths.toprocess) != prepared.version:
            return False
        if prepared.version and prepared.version.size > LARGE_TOPROCESS:
            # Nobody rewrites so much twice within one tick of the file's clock.
            return True
        return files.find_content(self.paths.toprocess) == prepared.content

    def _write_new_plan(self, back: tuple[int, ...], take: int) -> Plan:
        content = files.find_content(self.paths.toprocess)
        plan = self._plan(content, back, take)
        if plan.changed:
            self._write_plan(plan)
        return plan

    def _plan(self, content: bytes | None, back: Sequence[int], take: int) -> Plan:
        try:
            if content is None:
                return self._plan_first(back, take)
            whole = mend_tail(content, self._tasks)
            return plan_toprocess(whole, self._tasks, self._is_blocked, back, take)
        except AlienTaskError as error:
            raise StorageError(
                f"a line of {self.paths.toprocess} is not of this tasklist (was the "
                f"list edited while farmers work on it?): '{shorten(str(error))}'"
            ) from error

    def _plan_first(self, back: Sequence[int], take: int) -> Plan:
        """No ``toprocess`` means: every task is to be processed."""
        claimed = self._others.held_ids() | self._member.claim.held
        ids = [taskid for taskid in self._finished.missing() if taskid not in claimed]
        content = encode_lines(ids, self._tasks)
        plan = plan_toprocess(content, self._tasks, self._is_blocked, back, take)
        dropped = [*plan.dropped, *self._others.held_ids()]
        return plan._replace(changed=True, dropped=dropped)

    def _write_plan(self, plan: Plan) -> None:
        beside = self._next_beside()
        files.write_beside(beside, plan.chunks, like=self.paths.toprocess)

    def _next_beside(self) -> str:
        self._last_step += 1
        return self.paths.toprocess_beside(self.farm, self._last_step)

    def _discard_prepared(self) -> None:
        if self._prepared is not None:
            step, self._prepared = self._prepared.step, None
            files.remove(self.paths.toprocess_beside(self.farm, step))

    def _is_blocked(self, taskid: int) -> bool:
        return (
            taskid in self._finished
            or taskid in self._member.claim.held
            or self._others.hold(taskid)
        )

    def _toprocess_is_empty(self) -> bool:
        try:
            return os.stat(self.paths.toprocess).st_size == 0
        except FileNotFoundError:
            return self._finished.count == len(self._tasks)
        except OSError as error:
            raise files.storage_error("read", self.paths.toprocess, error) from error

    # ---- claims ---------------------------------------------------------------------

    def reclaim_dead(self) -> int:
        """Put what dead farms held back into ``toprocess``; how many.  Lock held."""
        self._look()
        return self._member.inherit(self._take_back)

    def _take_back(self, claim: OtherClaim, descriptor: int) -> int:
        """Put back what a dead farm held, and remove its claim.

        Its own journal says how far this has come, so that whoever goes on after a
        kill puts nothing twice.
        """
        lost = sorted(self._find_open(claim))
        if lost:
            self._put_back(claim, descriptor, lost)
        self._member.remove(claim, len(lost))
        return len(lost)

    def _find_open(self, claim: OtherClaim) -> dict[int, int]:
        """What a claim holds and nothing is recorded of: id to `Event.failed`."""
        held = {
            taskid: size
            for taskid, size in claim.journal.held.items()
            if taskid not in self._finished
        }
        younger = self._failed.find_younger(held)
        return {taskid: size for taskid, size in held.items() if taskid not in younger}

    def _adopt(self, farm: str) -> None:
        """Hold what the lost coordinator of this farm held, unless others got it."""
        claim = self._others.claims.get(farm)
        if claim is not None and claim.damage is None:
            self._look()
            self._member.adopt(claim, self._find_open(claim))

    def _put_back(self, claim: OtherClaim, descriptor: int, lost: list[int]) -> None:
        leftovers = find_leftovers(self.paths, claim.farm)
        steps = [claim.journal.last_step, *(step for _, _, step in leftovers)]
        step = max(steps) + 1
        beside = self.paths.toprocess_beside(claim.farm, step)
        plan = self._plan(files.find_content(self.paths.toprocess), lost, 0)
        files.write_beside(beside, plan.chunks, like=self.paths.toprocess)
        line = encode_event(Event(put=lost, via=step))
        files.append_to(descriptor, claim.path, line, sync=True)
        files.rename(beside, self.paths.toprocess)

    # ---- looking, ending ------------------------------------------------------------

    def has_record_of(self, taskid: int) -> bool:
        """Whether the task stands in ``finished`` or ``failed``, by the last look."""
        return taskid in self._finished or taskid in self._failed

    @property
    def recorded(self) -> tuple[int, int]:
        """How many tasks stand in ``finished`` and in ``failed``, by the last look."""
        return self._finished.count, self._failed.count

    def survey(self) -> Survey:
        """What `counts` needs.  Lock held."""
        self._look()
        return Survey(
            held=frozenset(self._member.claim.held),
            claimed=frozenset(self._others.held_ids()),
            toprocess=files.find_content(self.paths.toprocess),
        )

    def counts(self, survey: Survey) -> Counts:
        """Where all tasks were at a survey.  Needs no lock; looks at each task."""
        finished = self._finished
        total = len(self._tasks)
        queued = {
            taskid
            for taskid in self._ids_queued(survey.toprocess)
            if taskid < total and taskid not in finished
        }
        claimed = {taskid for taskid in survey.claimed if taskid not in finished}
        busy = survey.held | claimed
        queued -= busy
        failed = [
            taskid
            for taskid in self._failed.recorded()
            if taskid not in finished and taskid not in queued and taskid not in busy
        ]
        known = finished.count + len(failed) + len(queued) + len(busy)
        return Counts(
            total=total,
            finished=finished.count,
            failed=len(failed),
            toprocess=len(queued),
            held=len(survey.held),
            claimed=len(busy) - len(survey.held),
            elsewhere=total - known,
            first_failed=tuple(sorted(failed)[:MOST_FAILED_NAMED]),
        )

    def _ids_queued(self, content: bytes | None) -> Iterable[int]:
        return range(len(self._tasks)) if content is None else parse_ids_only(content)

    def close(self) -> bool:
        """Leave the workdir.  Lock held."""
        try:
            self._discard_prepared()
        finally:
            left_nothing = super().close()
        return left_nothing


def make_directories(path: str) -> Callable[[], None]:
    """Make what PyTaskFarmer makes before it reads a tasklist; raises `InputError`.

    Returns what takes it back: it removes what was made here and is empty still.
    """
    paths = WorkdirPaths(os.path.abspath(path))
    made = [paths.root] if make_root(paths.root) else []
    try:
        if files.make_directory(paths.logs):
            made.insert(0, paths.logs)
    except OSError as error:
        _remove_empty(made)
        raise InputError(f"can't create {paths.logs}: {error.strerror}") from error
    return lambda: _remove_empty(made)


def _remove_empty(directories: Sequence[str]) -> None:
    for directory in directories:
        with suppress(OSError):  # Whoever has put something into it works there.
            os.rmdir(directory)


def make_root(root: str) -> bool:
    """Make the workdir's directory if it is not there; raises `InputError`.

    Returns whether it was made here.
    """
    try:
        is_new = files.make_directory(root)
    except OSError as error:
        why = error.strerror or error
        if isinstance(error, FileNotFoundError):
            why = f"there is no {os.path.dirname(root)}, create it first (mkdir -p)"
        raise InputError(f"can't create the workdir {root}: {why}") from error
    if not os.path.isdir(root):
        raise InputError(f"the workdir {root} is not a directory")
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        raise InputError(f"the workdir {root} can't be written: check its permissions")
    return is_new
