"""The workdir of a farm whose tasklist is a database, which has the states of tasks.

Rules of this file: a method that says "lock held" is called with the lock held.  The
database is opened under the lock and closed before its release, each time: so other
hosts see it on NFS.  A transaction of the farm is one of SQL, so a kill leaves all of
it or nothing.  The claim has no ids: a farm holds the rows that name it.

The order of a transaction is that of the protocol: the timeline first, then the rows,
then ``attempts.tsv``.
"""

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from mpifarm.database import farming
from mpifarm.database import tasks as statements
from mpifarm.database.errors import explained
from mpifarm.database.schema import (
    Connection,
    connect,
    find_version,
    make_triggers,
)
from mpifarm.database.tasks import TaskEnd, TaskState
from mpifarm.database.waiting import PATIENCE, wait_while_busy
from mpifarm.errors import FutileError, InputError, StorageError
from mpifarm.model.packed_texts import PackedTexts
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import Outcome
from mpifarm.model.wording import agree, counted
from mpifarm.order.constraints import Constraints
from mpifarm.order.frontier import Frontier
from mpifarm.store.attempts import (
    outcome_in_words,
    read_last_attempts,
)
from mpifarm.store.claims import OtherClaim
from mpifarm.store.counting import count_map
from mpifarm.store.directories import make_root
from mpifarm.store.farm_liveness import Machine, this_machine
from mpifarm.store.file_store import LOCK_TIMEOUT
from mpifarm.store.held_file import Held
from mpifarm.store.progress import Progress, TransactionStep
from mpifarm.store.row_search import find_tasks
from mpifarm.store.row_states import Changes, RowStates
from mpifarm.store.store import Store
from mpifarm.store.take_up import split_texts
from mpifarm.store.task_map import TaskMap
from mpifarm.store.types import Counts, HeldLock, Recorded, Survey, Transacted
from mpifarm.store.validate import validate_access
from mpifarm.system import files
from mpifarm.system.time_of_day import encode_time

BUSY_SECONDS: Final = 0.3
"""Seconds for which a farm at work waits for another program's transaction; then it
serves its ranks, and tries again."""


@dataclass(slots=True)
class OpenTransaction:
    """The done part of a transaction that has not returned yet."""

    progress: Progress = field(default_factory=Progress)
    taken: list[int] = field(default_factory=list)
    """Tasks that the farm holds since a commit whose answer was lost."""
    done: Transacted | None = None
    """The result, once the rows are written."""


class DatabaseStore(Store):
    """A workdir beside a database, and this farm's part in both."""

    is_database = True

    def __init__(
        self,
        paths: WorkdirPaths,
        database: str,
        texts: PackedTexts,
        constraints: Constraints,
        farm: str,
        machine: Machine,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(paths, texts, farm, machine, clock, constraints)
        self.database = database
        self._packed = texts
        self._constraints = constraints
        self._machine = machine
        self._place = farming.place_of(paths.root, database)
        self._states = RowStates(len(texts))
        self._frontier: Frontier | None = None
        """What may run of a list with an order; None for one without."""
        self._open = OpenTransaction()
        self._is_unsure = False
        """Whether the answer to a commit was lost."""
        self._version = 0
        """The version of the database after this farm's last look at it."""
        self._own_writes = 0
        """The number of this farm's transactions that have changed rows."""
        self._is_stale = False
        """Whether others have changed rows since they were read."""
        self._grown_version = 0
        """The version of the database when it was last looked at for new tasks."""
        self._next_change = 0
        """The number of the first change that may have made ready what has to wait."""
        self._has_met_others = False
        """Whether others have changed rows while this farm ran."""
        self._has_left_timeline = False
        self._has_joined = False
        self._surveyed: TaskMap | None = None

    # ---- joining --------------------------------------------------------------------

    @classmethod
    def open(  # noqa: PLR0913 - the facts of a start, the last two by name
        cls,
        path: str,
        database: str,
        texts: PackedTexts,
        constraints: Constraints,
        lock: HeldLock,
        farm: str,
        clock: Callable[[], float] = time.time,
        machine: Machine | None = None,
        *,
        predecessor: str = "",
        array: str = "",
    ) -> "DatabaseStore":
        """Make the workdir at `path` if needed, take the lock, and join.

        `texts` and `constraints` are those of the `database`; both grow with it.  For
        `predecessor` and `array` see `FileStore.open`.

        Raises `InputError`, with every file as it was, if workdir or database cannot be
        used; `StorageError` if the disk fails or the lock cannot be had in
        `LOCK_TIMEOUT` seconds.
        """
        paths = WorkdirPaths(os.path.abspath(path))
        make_root(paths.root)
        validate_access(paths)
        _refuse_files(paths, database)
        machine = machine or this_machine()
        store = cls(paths, database, texts, constraints, farm, machine, clock)
        store._member.array = array
        with lock.hold(LOCK_TIMEOUT):
            store._join(lock.paths, clock, predecessor)
        store._has_joined = True
        return store

    def _join(
        self, lock_paths: Sequence[str], clock: Callable[[], float], predecessor: str
    ) -> None:
        """Check the other farms, create the claim, reclaim dead farms.  Lock held.

        If that fails, the claim is removed unless rows name this farm.
        """
        self._member.validate_others(lock_paths, self._total)
        with self._connected() as connection:
            self._check_rows(connection)
            with self._changing(connection):
                make_triggers(connection)
                farming.claim_place(connection, self._place, self.database)
                self._keep_apart(connection)
                self._next_change = farming.find_changes(connection).stop
        self._member.make_directories()
        self._member.enter(clock)
        try:
            self._timeline.mend()
            with self._connected() as connection:
                self._begin(connection, predecessor)
            self.reclaim_dead()
            self._reclaim_orphans()
            self._begin_attempts()
            self._begin_requests(predecessor)
            self._remove_orphaned_files()
        except (StorageError, OSError, InputError):
            self._member.give_up()
            raise
        except BaseException:
            self._member.claim.end()
            raise

    def _check_rows(self, connection: Connection) -> None:
        """Raise `InputError` if tasks were deleted since the list was read."""
        total = statements.find_total(connection)
        if total < self._total:
            raise InputError(
                f"the database {self.database} has {counted(total)} now, and had"
                f" {self._total} when it was read: give the same command again"
            )

    def _begin(self, connection: Connection, predecessor: str) -> None:
        """Read the states, begin the order, and take over what `predecessor` had."""
        self._states.read(connection)
        self._is_stale = False
        if self._constraints or farming.find_waiting(connection, 0, self._total, 1):
            self._begin_order()
        self._others.poll()
        self._read_holders(connection)
        before = self._member.find_predecessors(predecessor)
        if not before:
            return
        for claim in before:
            # Before the commit: if its answer is lost, the claim has to stay.
            self._member.claim.held.update(claim.journal.held)
        with self._changing(connection):
            for claim in before:
                statements.inherit(connection, claim.farm, self.farm)
        for claim in before:
            self._member.discard(claim)
        self._requeue_doomed(connection)
        self._failed_unlisted.update(self._find_unlisted(connection))

    def _find_unlisted(self, connection: Connection) -> set[int]:
        """Return the failed tasks that the lost leader had recorded, and not listed."""
        failed = set(farming.find_ran_and_failed(connection))
        return failed - read_last_attempts(self.paths, failed).lines.keys()

    def _requeue_doomed(self, connection: Connection) -> None:
        """Put back the tasks that were never to run: no rank of this farm has them."""
        frontier, held = self._frontier, self._member.claim.held
        doomed = [*filter(frontier.find_doomed, sorted(held))] if frontier else []
        if doomed:
            with self._changing(connection):
                self._requeue(connection, doomed)
            held.difference_update(doomed)

    @property
    def frontier(self) -> Frontier | None:
        """What may start by the list's order; None if the list has none."""
        return self._frontier

    def _begin_order(self) -> None:
        """Begin to heed the order of the tasks, by the states that were read."""
        if self._frontier is None:
            states = self._states
            self._frontier = Frontier(self._constraints, states.finished, states.failed)

    # ---- the database ---------------------------------------------------------------

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Open the database in a ``with`` block.  Lock held.

        Notes whether others have changed it.  A database that can't be used any more
        ends a farm that has joined: `FutileError`.
        """
        before, own = find_version(self.database), self._own_writes
        if before != self._version:
            self._note_others()
        try:
            with (
                closing(connect(self.database, patience=BUSY_SECONDS)) as connection,
                explained(self.database),
            ):
                yield connection
        except InputError as error:
            if self._has_joined:
                raise FutileError(str(error)) from error
            raise
        self._version = find_version(self.database)
        # A user commits between two looks of a farm, by SQL's locks alone.
        if self._version != before + self._own_writes - own:
            self._note_others()

    def _note_others(self) -> None:
        """Note that others have changed rows."""
        self._is_stale = True
        self._has_met_others = self._has_joined

    @contextmanager
    def _changing(self, connection: Connection) -> Iterator[None]:
        """Make a ``with`` block one transaction, which counts if it changes rows."""
        before = connection.total_changes
        with statements.transaction(connection):
            yield
        # The database's own counter, too, leaves out those that change nothing.
        self._own_writes += connection.total_changes > before

    def has_changed(self) -> bool:
        """Return whether the database has changed since the last `take_up`.

        Without the lock.
        """
        return find_version(self.database) != self._grown_version

    def _read_holders(self, connection: Connection) -> None:
        """Note which tasks the other farms have."""
        claims = self._others.claims
        for claim in claims.values():
            claim.journal.held.clear()
        if not claims:
            return
        for farm, taskid in statements.find_holders(connection):
            if farm in claims:
                claims[farm].journal.held[taskid] = 0

    def _poll(self, connection: Connection, *, whole: bool = False) -> None:
        """Read what others have changed, if they have: who has what, and what ended.

        With `whole`, all rows are read.
        """
        self._others.poll()
        self._read_holders(connection)
        if self._is_stale and self._has_met_others and not self._has_left_timeline:
            # Plain farmers read and write it whole.
            self._timeline.leave_to_others()
            self._has_left_timeline = True
        if whole:
            self._heed(self._states.read(connection))
        elif self._is_stale:
            self._heed(self._states.refresh(connection))
        self._is_stale = False

    def _heed(self, changes: Changes) -> None:
        """Let what others have ended or opened count for the order of the tasks."""
        if self._frontier is not None:
            self._frontier.revive(changes.opened)
            self._frontier.note_ends(finished=changes.finished, failed=changes.failed)

    # ---- transactions ---------------------------------------------------------------

    def prepare(
        self, results: Sequence[Recorded], requeue: Sequence[int], take: int
    ) -> None:
        """Do nothing: rows are changed under the lock alone."""

    def transact(
        self,
        results: Sequence[Recorded],
        requeue: Sequence[int],
        take: int,
        pull: Sequence[int] = (),
    ) -> Transacted:
        """Record results, requeue ids, take new ones, by one transaction.  Lock held.

        Raises as `Store.transact`.
        """
        begun = time.perf_counter()
        self._check(results, requeue)
        done = self._open.done
        if done is None:
            with self._connected() as connection:
                done = self._carry_out(connection, results, requeue, take, pull)
            self._open.done = done
        recorded = [each for each in results if each.taskid not in done.reopened]
        if recorded:
            once = self._open.progress.once
            once(TransactionStep.ATTEMPTS, recorded, self._attempts.append)
        self._open = OpenTransaction()
        return done._replace(seconds=time.perf_counter() - begun)

    def _check(self, results: Sequence[Recorded], requeue: Sequence[int]) -> None:
        """Raise `ValueError` for a task that this farm does not hold, or given twice.

        Raises `ClaimLostError` if the claim is not this farm's any more.
        """
        ids = [*(each.taskid for each in results), *requeue]
        left = self._open.progress.left(TransactionStep.RELEASE, ids)
        self._member.check_held(left)
        self._member.claim.check()

    def _carry_out(
        self,
        connection: Connection,
        results: Sequence[Recorded],
        requeue: Sequence[int],
        take: int,
        pull: Sequence[int],
    ) -> Transacted:
        """Write timeline and rows.  Return what was taken."""
        self._check_place(connection)
        if self._is_unsure:
            self._find_out(connection, results)
        self._poll(connection)
        reopened = self._reopen(results)
        if reopened:
            results = [each for each in results if each.taskid not in reopened]
            requeue = [*requeue, *reopened]
        self._note_ends(results)
        self._write_timeline(results)
        done = self._write_rows(connection, results, requeue, take, pull)
        return done._replace(reopened=reopened)

    def _check_place(self, connection: Connection) -> None:
        place = farming.find_about(connection, farming.PLACE)
        if place != self._place:
            raise FutileError(
                f"{self.database} is used from another workdir by now ({place}), under"
                " another lock: this farm ends"
            )

    def _find_out(self, connection: Connection, results: Sequence[Recorded]) -> None:
        """Find out what became of a commit whose answer was lost."""
        held = self._member.claim.held
        now = set(statements.find_held(connection, self.farm))
        gone, found = held - now, now - held
        self._note_ends([each for each in results if each.taskid in gone])
        self._open.progress.note(TransactionStep.RELEASE, gone)
        self._open.taken += sorted(found)
        held.difference_update(gone)
        held.update(found)
        self._is_unsure = False

    def _note_ends(self, results: Sequence[Recorded]) -> None:
        """Let results count for the order of the tasks, before what they let start."""
        finished = [each.taskid for each in results if each.finished]
        failed = [each.taskid for each in results if not each.finished]
        if self._frontier is not None:
            self._frontier.note_ends(finished=finished, failed=failed)
        self._states.note_ends(finished, failed)

    def _reopen(self, results: Sequence[Recorded]) -> set[int]:
        """Return the tasks that were not to run when they were taken, and may by now.

        What they wait for was put back meanwhile.
        """
        frontier = self._frontier
        if frontier is None:
            return set()
        not_run = [
            each.taskid for each in results if each.result.outcome is Outcome.NOT_RUN
        ]
        if all(map(frontier.find_doomed, not_run)):
            return set()
        frontier.revive(not_run)
        self._states.note_open(not_run)
        return {taskid for taskid in not_run if not frontier.find_doomed(taskid)}

    def _write_timeline(self, results: Sequence[Recorded]) -> None:
        ran = [each for each in results if each.result.outcome is not Outcome.NOT_RUN]
        if ran:
            once = self._open.progress.once
            once(TransactionStep.TIMELINE, ran, self._timeline.append)

    def _write_rows(
        self,
        connection: Connection,
        results: Sequence[Recorded],
        requeue: Sequence[int],
        take: int,
        pull: Sequence[int],
    ) -> Transacted:
        """Change the rows by one transaction of SQL, then what is held."""
        progress, before = self._open.progress, self._open.taken
        ids = [each.taskid for each in results]
        left = {*progress.left(TransactionStep.RELEASE, [*ids, *requeue])}
        back = [taskid for taskid in requeue if taskid in left]
        self._is_unsure = True
        with self._changing(connection):
            self._keep_apart(connection)
            ends = [self._describe(each) for each in results if each.taskid in left]
            statements.record(connection, ends)
            self._requeue(connection, back)
            found = find_tasks(
                connection,
                take - len(before),
                self._total,
                self._frontier,
                stays=frozenset(requeue),
                held=(self.held_by_users.tasks, self.unlimited.tasks),
            )
            pulled = set(farming.find_queued(connection, pull)) - {*found.ids}
            statements.take(connection, self.farm, {*found.ids, *pulled})
            farming.forget_changes(connection)
            next_change = farming.find_changes(connection).stop
        self._is_unsure, self._next_change = False, next_change
        progress.note(TransactionStep.RELEASE, left)
        held = self._member.claim.held
        held.difference_update(left)
        held.update(found.ids, pulled)
        self._note_taken([*found.ids, *pulled])
        for taskid in before:
            found.add(taskid, self._frontier)
        wanted = {*pull}.intersection(found.taken)
        if self._frontier is not None:
            self._warn_of_passed(self._frontier)
        return Transacted(
            [taskid for taskid in found.taken if taskid not in wanted],
            found.is_empty,
            0.0,
            found.doomed,
            sorted(pulled | wanted),
            some_wait=self._frontier is not None and self._frontier.some_wait,
        )

    def _keep_apart(self, connection: Connection) -> None:
        """Let rows wait again that others have made ready too soon."""
        constraints, total, begin = self._constraints, self._total, self._next_change
        if not constraints:
            return
        changes = farming.find_changes(connection)
        if not farming.are_worth_reading(changes, begin, total):
            is_single = bool(constraints.after or constraints.kinds)
            farming.keep_apart(connection, 0, total, singly=is_single)
            return
        changed = farming.read_changed(connection, begin, total)
        ready = [each for each, state in changed if state == TaskState.TO_PROCESS]
        early = {*ready}.difference(constraints.find_shared(sorted(ready)))
        farming.let_wait(connection, early)

    def _note_taken(self, taskids: Collection[int]) -> None:
        """Let tasks that run again, by somebody's retry, count as open."""
        self._states.note_open(taskids)
        if self._frontier is not None:
            self._frontier.revive(taskids)

    def _describe(self, recorded: Recorded) -> TaskEnd:
        """Return the end of an attempt, in the words of ``attempts.tsv``."""
        result = recorded.result
        state = TaskState.FINISHED if recorded.finished else TaskState.FAILED
        if result.outcome is Outcome.CANCELLED:
            state = TaskState.CANCELLED
        signal = max(-result.status, 0)
        return TaskEnd(
            recorded.taskid,
            state,
            result.attempt,
            outcome_in_words(result),
            128 + signal if signal else result.status,
            signal,
            recorded.host or None,
            encode_time(result.started),
            round(result.seconds, 6),
            result.peak_memory or None,
        )

    def _requeue(self, connection: Connection, taskids: Collection[int]) -> None:
        """Put tasks back: those that plain farmers may run at once, and the others."""
        is_shared, held = self._constraints.is_shared, self.held_by_users.tasks
        shared = {each for each in taskids if is_shared(each) and each not in held}
        statements.requeue(connection, shared, TaskState.TO_PROCESS)
        waiting = {*taskids} - shared
        statements.requeue(connection, waiting, TaskState.WAITING)
        if waiting:
            self._begin_order()

    def hold(self, held: Held) -> None:
        """Let held tasks, and no others, wait until they are released.

        Those that are to be processed are pulled out by whoever takes tasks.
        """
        super().hold(held)
        self._begin_order()

    @property
    def _more_may_come(self) -> bool:
        """Whether tasks wait for tasks that other farms hold, or until a release."""
        total, have = self._total, self._states.have
        held = self.held_by_users.tasks
        if any(taskid < total and not have(taskid) for taskid in held):
            return True
        frontier = self._frontier
        return frontier is not None and any(
            taskid < total and frontier.holds_up(taskid)
            for taskid in self._member.held_by_living()
        )

    # ---- what is added --------------------------------------------------------------

    def take_up(self, most: int) -> int:
        """Take up to `most` tasks up that were inserted behind the known ones.

        Lock held.  Return their number.  Raises `InputError`, with nothing taken up,
        for a row that can't be a task; `StorageError`.
        """
        known = self._total
        before, own = find_version(self.database), self._own_writes
        with (
            closing(connect(self.database, patience=BUSY_SECONDS)) as connection,
            explained(self.database),
        ):
            self._check_rows(connection)
            texts = statements.read_commands(connection, known, most)
            total = known + len(texts)
            constraints = statements.read_constraints(connection, known, total)
            if texts:
                with self._changing(connection):
                    farming.keep_apart(connection, known, total, singly=True)
            states = farming.read_states(connection, known, total)
        # What others commit behind this look is seen by the next one.
        self._grown_version = before + self._own_writes - own
        if texts:
            self._packed.extend_encoded(split_texts(texts, 0, len(texts)))
        self._constraints.extend(constraints)
        self._grow(known)
        # They may have ended since.
        self._heed(self._states.take_in(states))
        return len(texts)

    def _grow(self, known: int) -> None:
        """Heed what was added to the list from `known` on, and to its order."""
        self._states.grow(self._total)
        self.unlimited.grow(known)
        if self._frontier is not None:
            self._frontier.grow(self._total)
        elif self._constraints:
            self._begin_order()

    def find_left(self) -> int:
        """Return how many tasks were inserted that this farm does not know.

        Without the lock.  Raises `FarmError`.
        """
        return max(0, wait_while_busy(self._find_total) - self._total)

    def _find_total(self) -> int:
        with (
            closing(
                connect(self.database, writes=False, patience=PATIENCE, is_locked=False)
            ) as connection,
            explained(self.database),
        ):
            return statements.find_total(connection)

    # ---- dead farms -----------------------------------------------------------------

    def reclaim_dead(self) -> int:
        """Poll, put back the tasks of dead farms, remove their claims.  Lock held.

        Return the number of these tasks.  Notes for the user name the farms.
        """
        with self._connected() as connection:
            self._poll(connection)
            return self._reclaim_each(lambda claim, _: self._reclaim(connection, claim))

    def _reclaim(self, connection: Connection, claim: OtherClaim) -> int:
        """Put back the tasks of a dead farm, and remove its claim.

        Return the number of the tasks.  After a kill in between, the next farm finds a
        claim without rows.
        """
        lost = sorted(claim.journal.held)
        known = [taskid for taskid in lost if taskid < self._total]
        with self._changing(connection):
            self._requeue(connection, lost)
        if lost:
            self._lost.note_reclaimed(claim.farm, known)
        self._member.remove(claim, len(lost))
        return len(lost)

    def _reclaim_orphans(self) -> None:
        """Put back the rows of farms without a claim, if no other farm is here.

        Their workdir was removed; the check of its claim ends a farm that lives.
        Plain farmers have no claims: their rows are told.
        """
        with self._connected() as connection:
            rows = [*statements.find_holders(connection)]
            plain = [farm or "nobody" for farm, _ in rows if _is_plain(farm)]
            self._tell_of_plain(plain)
            if self._others.claims:
                return
            lost = [
                taskid
                for farm, taskid in rows
                if farm != self.farm and not _is_plain(farm)
            ]
            if not lost:
                return
            with self._changing(connection):
                self._requeue(connection, lost)
        self.notes.append(
            f"{counted(len(lost))} put back that ran under farms whose claims are gone"
        )

    def _tell_of_plain(self, farmers: Sequence[str]) -> None:
        """Note which plain farmers have tasks, and which of them are gone."""
        for farmer in sorted({*farmers}):
            count = farmers.count(farmer)
            has = f"{farmer} has {counted(count)} of {self.database}"
            if self._is_gone(farmer):
                has = (
                    f"{farmer} was killed as it had {counted(count)} of"
                    f" {self.database}, which {agree(count, 'stays', 'stay')} 'running'"
                )
            self.notes.append(has)

    def _is_gone(self, farmer: str) -> bool:
        """Return whether a plain farmer ran on this host, and does no more."""
        host, _, pid = farmer.removeprefix(farming.PLAIN_FARMER).rpartition(" ")
        if host != self._machine.host or not pid.isdecimal():
            return False
        return self._machine.find_process_start(int(pid)) is None

    # ---- counting, ending -----------------------------------------------------------

    @property
    def recorded(self) -> tuple[int, int]:
        """The numbers of finished and of failed tasks, as far as they are known."""
        return self._states.counts

    def has_record_of(self, taskid: int) -> bool:
        """Return whether the task has ended, as far as is known."""
        return self._states.have(taskid)

    def survey(self, *, in_array: bool = False) -> Survey:
        """Read the rows, and return their state for `counts`.  Lock held."""
        # What this farm itself has put back was not remembered: all is read.
        with self._connected() as connection:
            self._poll(connection, whole=True)
        survey = Survey(
            held=frozenset(self._member.claim.held),
            claimed=frozenset(self._others.held_ids()),
            toprocess=None,
            in_array=frozenset(self._member.held_in_array() if in_array else ()),
        )
        states = self._states
        self._surveyed = TaskMap(
            self._total,
            finished=states.finished,
            claimed=survey.held | survey.claimed,
            queued=[states.queued],
            failed=states.failed,
        )
        return survey

    def counts(self, survey: Survey) -> Counts:
        """Count the tasks by their places at a survey, the last one."""
        assert self._surveyed is not None
        return count_map(self._surveyed, survey, self._frontier)

    def close(self) -> bool:
        """Leave the workdir.  Lock held.  Return whether the claim was removed.

        Raises `ClaimLostError` if the claim is not this farm's any more,
        `StorageError`; its lock is released in any case.
        """
        try:
            self._member.claim.check()
            if self._is_unsure:
                with self._connected() as connection:
                    self._find_out(connection, ())
        except BaseException:
            self._member.claim.end()
            raise
        return super().close()


def _refuse_files(paths: WorkdirPaths, database: str) -> None:
    """Raise `InputError` for the workdir of a list of another kind."""
    for path in (paths.toprocess, paths.finished, paths.failed, paths.fingerprint):
        with suppress(OSError):
            if files.is_there(path):
                raise InputError(
                    f"the workdir {paths.root} was begun with a list that is a text"
                    f" ({os.path.basename(path)} is there), and {database} is a"
                    " database: name another --workdir"
                )


def _is_plain(farm: str | None) -> bool:
    """Return whether a row is with a plain farmer, or with nobody who has a claim."""
    return farm is None or farm.startswith(farming.PLAIN_FARMER.rstrip())
