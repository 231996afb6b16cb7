"""The workdir of a farm with PyTaskFarmer's status files: joining it, and its parts.

Rules of this file: it knows neither MPI nor processes.  A method that says "lock held"
is called with the lock held, and keeps no shared file open beyond it.  A kill between
any two steps is harmless because of their order; each function that depends on an
order says which and why.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from mpifarm.errors import FarmError, StorageError
from mpifarm.model.packed_texts import PackedTexts
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import Outcome
from mpifarm.model.wording import counted
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.order.frontier import Frontier
from mpifarm.store.added_lines import AddedLines
from mpifarm.store.claim_journal import Event, encode_event
from mpifarm.store.claims import OtherClaim, find_leftovers
from mpifarm.store.counting import count_tasks
from mpifarm.store.directories import make_root
from mpifarm.store.farm_liveness import Machine, this_machine
from mpifarm.store.fingerprint import PrefixHashes
from mpifarm.store.held_file import Held, find_held
from mpifarm.store.ledger import Appended, Ledger, Ledgers
from mpifarm.store.membership import put_off
from mpifarm.store.optimistic import write_optimistically
from mpifarm.store.queue import Steps
from mpifarm.store.queue_pair import QueuePair
from mpifarm.store.start_order import StartOrder
from mpifarm.store.status_lines import (
    ParsedStatus,
    encode_blocks,
    is_beyond,
)
from mpifarm.store.store import Store
from mpifarm.store.take_up import TakenUp, TakeUp
from mpifarm.store.transaction import Transactions
from mpifarm.store.types import Counts, HeldLock, Recorded, Survey, Transacted
from mpifarm.store.validate import (
    EditedListError,
    Snapshot,
    Validation,
    read_snapshot,
    shorten,
    validate_access,
    validate_snapshot,
)
from mpifarm.system import file_contents, files

LOCK_TIMEOUT = 60.0
"""Seconds that a start waits for the lock, each time that it takes the lock."""


class FileStore(Store):
    """A workdir with PyTaskFarmer's status files, and this farm's part in it."""

    def __init__(
        self,
        paths: WorkdirPaths,
        tasks: Sequence[str],
        farm: str,
        clock: Callable[[], float],
        machine: Machine,
        constraints: Constraints = UNORDERED,
        order: StartOrder | None = None,
    ) -> None:
        super().__init__(paths, tasks, farm, machine, clock, constraints)
        self._tasks = tasks
        self._constraints = constraints
        self._machine = machine
        self._clock = clock
        finished = Ledger(paths.finished, tasks)
        self._ledgers = Ledgers(finished, Ledger(paths.failed, tasks))
        self._queues = QueuePair(
            *(paths, tasks, self._ledgers, self._member),
            *(constraints, order, self.unlimited),
        )
        self._added_lines = AddedLines(
            paths, tasks, self._queues, self._ledgers, self._others, farm
        )
        self._transactions = Transactions(
            self._member,
            self._queues,
            self._ledgers,
            self._timeline,
            self._attempts.append,
        )
        self._hashes = PrefixHashes(tasks, constraints)
        self._take_up: TakeUp | None = None
        self.grows = False
        """Whether lines that are added to the list are taken up (`take_up`)."""
        self._met_others = False
        """Whether another farmer has recorded tasks while this farm ran."""
        self._joined_by_others = False
        """Whether this farm has left ``timeline.json`` to others."""
        self._reported: set[str] = set()
        """Sentences that the user need not read twice."""

    # ---- joining --------------------------------------------------------------------

    @classmethod
    def open(  # noqa: PLR0913 - the facts of a start, the last four by name
        cls,
        path: str,
        tasks: Sequence[str],
        lock: HeldLock,
        farm: str,
        clock: Callable[[], float] = time.time,
        machine: Machine | None = None,
        *,
        predecessor: str = "",
        remap: bool = False,
        array: str = "",
        constraints: Constraints = UNORDERED,
        order: StartOrder | None = None,
    ) -> "FileStore":
        """Make the workdir at `path` if needed, take the lock, and join.

        `constraints` is what the list says of its order, for as long as the farm lives;
        `order` is that of the starts within it (None: as in the list).
        `remap`: if the list was edited, bring the workdir in line by the tasks' texts.
        `predecessor` names the farm that this one takes over, since its coordinator was
        lost: this farm holds that one's tasks from the start ("": none).  `array` names
        the job array of this farm, for its other members ("": none).

        Raises `InputError`, with every file as it was, if the workdir cannot be used or
        does not belong to this tasklist; `StorageError` if the disk fails or the
        lock cannot be had in `LOCK_TIMEOUT` seconds.
        """
        paths = WorkdirPaths(os.path.abspath(path))
        make_root(paths.root)
        validate_access(paths)
        machine = machine or this_machine()
        workdir = cls(paths, tasks, farm, clock, machine, constraints, order)
        workdir._member.array = array
        while True:
            try:
                workdir._enter(lock, predecessor)
            except EditedListError as error:
                if not remap:
                    raise put_off(error, paths, machine) from None
                workdir._remap(lock)
            else:
                return workdir

    def _enter(self, lock: HeldLock, predecessor: str) -> None:
        """Validate the workdir without the lock, then join it under the lock.

        Raises `EditedListError` if ``--remap`` may help.
        """
        try:
            write_optimistically(
                lock,
                lambda: read_snapshot(self.paths),
                self._validate,
                lambda validation: self._join(validation, lock.paths, predecessor),
                is_current=self._is_current,
                read_whole=lambda: read_snapshot(self.paths, whole=True),
                seconds=LOCK_TIMEOUT,
            )
        except (FarmError, OSError):
            self._added_lines.discard()
            raise

    def _validate(self, snapshot: Snapshot) -> Validation:
        """Validate a snapshot, and start the ledgers behind its lines.

        For a list with an order, find out what may run, and stage the first queues.
        """
        validation = validate_snapshot(
            snapshot, self._tasks, self.paths, self._constraints, self._hashes
        )
        self._start_ledgers(validation)
        if snapshot.toprocess and validation.toprocess.is_in_order:
            self._queues.toprocess.sorted_version = snapshot.toprocess.version
        self._queues.expect_order()
        self._added_lines.prepare(validation)
        return validation

    def _is_current(self, snapshot: Snapshot) -> bool:
        """Return whether no other farm has started since the snapshot.

        Such a farm may have another list.  Tasks that farms have recorded or taken
        since are read at the joining.  A plain farmer that has put ``toprocess`` there
        has begun a list whose order it may not heed.
        """
        if files.is_there(self.paths.remap):
            return False
        has_begun = snapshot.toprocess is None and files.exists(self.paths.toprocess)
        if self._constraints and has_begun:
            return False
        return files.find_content(self.paths.fingerprint) == snapshot.fingerprint

    def _remap(self, lock: HeldLock) -> None:
        from mpifarm.store.remap import remap_workdir

        with lock.hold(LOCK_TIMEOUT):
            sentence = remap_workdir(
                *(self.paths, self._tasks, self._machine, self._clock()),
                self._constraints,
            )
        self.notes.append(sentence)

    def _join(
        self, validation: Validation, lock_paths: Sequence[str], predecessor: str
    ) -> None:
        """Check the other farms, create the claim, mend the workdir.  Lock held.

        Queues and the fingerprint are written before the claim.  Then torn lines are
        mended, `predecessor` is taken over, dead farms are reclaimed, and orphaned
        staging files are removed.  If that fails, the claim is removed unless it holds
        tasks.
        """
        self._read_on()
        self._member.validate_others(lock_paths, len(self._tasks))
        self._member.make_directories()
        if found := find_held(self.paths):
            self._queues.held.update(found[0].tasks)
        # This comes first: the fingerprint says that nothing is left to be added.
        if sentence := self._added_lines.settle(validation):
            self.notes.append(sentence)
        self._revive_open()
        self._member.enter(self._clock)
        try:
            self._mend(validation)
            self._take_over(predecessor)
            self.reclaim_dead()
            self._begin_attempts()
            self._begin_requests(predecessor)
            self._remove_orphans()
        except (StorageError, OSError):
            self._member.give_up()
            raise
        except BaseException:
            self._member.claim.end()
            raise

    def _read_on(self) -> None:
        """Read what was recorded since the snapshot, for the order of the list, too."""
        for ledger in self._ledgers:
            appended = ledger.poll()
            self._note_ends(ledger, appended)
            if appended.gone:  # What has ended may be open again, and the reverse.
                self._queues.forget_order()

    @property
    def frontier(self) -> Frontier | None:
        """What may start by the list's order; None if the list has none."""
        return self._queues.frontier

    def _revive_open(self) -> None:
        """Let tasks that have failed and run again count as open, for the order.

        They stand in a queue or a claim too; the queues are as this start leaves them.
        """
        frontier = self._queues.frontier
        if frontier is None or not self._ledgers.failed.count:
            return
        failed = frontier.find_failed()
        for queue in self._queues.each():
            frontier.revive(queue.find_standing(failed))
        for claim in self._others.claims.values():
            frontier.revive(self._find_open(claim))

    def _start_ledgers(self, validation: Validation) -> None:
        """Start both ledgers behind the last whole line that was validated."""
        for ledger, found, parsed in (
            (self._ledgers.finished, validation.snapshot.finished, validation.finished),
            (self._ledgers.failed, validation.snapshot.failed, validation.failed),
        ):
            # A last line without newline counts once `_mend` has ended it.
            ledger.start_behind(
                found.size - parsed.tail_size if found else 0,
                parsed.ids,
                found.version if found else None,
            )

    def _mend(self, validation: Validation) -> None:
        """End torn lines, sort ``toprocess``, rebuild an invalid timeline.

        Notes for the user name each torn line.
        """
        self.notes.extend(validation.notes)
        for ledger in self._ledgers:
            if ledger.tail:
                ledger.append(())
        self._queues.heed_ended_tails()
        self._mend_toprocess(validation.snapshot.toprocess, validation.toprocess)
        self._timeline.mend()

    def _mend_toprocess(
        self, before: file_contents.FileState | None, parsed: ParsedStatus
    ) -> None:
        """Sort ``toprocess``, and drop its odd lines, if it has any or is unsorted.

        A file that others have changed since `before` is left alone.
        """
        if before is None or parsed.is_in_order:
            return
        is_whole = before.content is not None
        if file_contents.find_state(self.paths.toprocess, whole=is_whole) != before:
            # A plain farmer has written the file since, whole and sorted.
            return
        in_order = sorted({*parsed.ids, *parsed.tail_ids})
        queues = self._queues
        queues.replace(queues.toprocess, encode_blocks(in_order, self._tasks))

    def _remove_orphans(self) -> None:
        """Remove staging files whose claim is gone: a farm was killed as it left."""
        for path, farm, _ in find_leftovers(self.paths):
            self._remove_if_orphan(path, farm)
        self._remove_orphaned_files()

    # ---- transactions ---------------------------------------------------------------

    def prepare(
        self, results: Sequence[Recorded], requeue: Sequence[int], take: int
    ) -> None:
        """Write the staging files of the next queues, without the lock.

        The next `transact` with the same arguments uses these files, unless others have
        changed the queues since.  Errors are left to `transact`.
        """
        self._note_results(results)
        self._transactions.prepare(requeue, take)

    def transact(
        self,
        results: Sequence[Recorded],
        requeue: Sequence[int],
        take: int,
        pull: Sequence[int] = (),
    ) -> Transacted:
        """Poll the files, record results, requeue ids, take new ones.  Lock held.

        Raises as `Store.transact`.
        """
        begun = time.perf_counter()
        self._transactions.check(results, requeue)
        self._poll()
        frontier = self._queues.frontier
        if frontier is None:
            return self._transactions.carry_out(results, requeue, take, pull, begun)
        reopened = _reopen(frontier, _ids_not_run(results))
        if reopened:
            results = [each for each in results if each.taskid not in reopened]
            requeue = [*requeue, *reopened]
        self._note_results(results)
        done = self._transactions.carry_out(results, requeue, take, pull, begun)
        frontier.revive(done.taken)  # a retry may have put them back half-way
        done = self._spare_reopened(done, frontier)
        self._warn_of_passed(frontier)
        return done._replace(some_wait=frontier.some_wait, reopened={*reopened})

    def _spare_reopened(self, done: Transacted, frontier: Frontier) -> Transacted:
        """Have taken tasks go back that may run, since a retry was cut half-way.

        Such a task stands in ``failed`` still, and so does what it waits for.
        """
        doomed = [taskid for taskid, _ in done.not_run]
        if not any(map(self._ledgers.failed.has, doomed)):
            return done
        self._revive_open()
        reopened = _reopen(frontier, doomed)
        return done._replace(
            not_run=[each for each in done.not_run if each[0] not in reopened],
            pulled=[*done.pulled, *reopened],
        )

    def hold(self, held: Held) -> None:
        """Let held tasks, and no others, stay in ``waiting`` until they are released.

        Those in other queues are pulled out by whoever takes tasks.
        """
        super().hold(held)
        self._queues.hold(held.tasks)

    def take_up(self, fresh: PackedTexts, begin: int, most: int) -> TakenUp:
        """Take up tasks that were added to the end of the list.  Lock held.

        Up to `most` texts of `fresh`, from `begin` on, get to the end of the list that
        this farm knows, which has to be `PackedTexts`.  Raises `StorageError`: nothing
        was taken up then, and the same may be given again.
        """
        self._poll()
        if self._take_up is None:
            assert isinstance(self._tasks, PackedTexts)
            self._take_up = TakeUp(
                *(self.paths, self._tasks, self.farm),
                *(self._queues, self._ledgers, self._hashes),
            )
        return self._take_up.take_up(fresh, begin, most)

    def _note_results(self, results: Sequence[Recorded]) -> None:
        """Let results count for the order of the list.

        They are recorded before the same transaction takes what they let start.
        """
        if self._queues.frontier is not None:
            self._queues.frontier.note_ends(
                finished=[each.taskid for each in results if each.finished],
                failed=[each.taskid for each in results if not each.finished],
            )

    @property
    def _more_may_come(self) -> bool:
        """Whether tasks wait for tasks that other farms hold, or until a release."""
        frontier = self._queues.frontier
        total, have = len(self._tasks), self._ledgers.have
        if any(taskid < total and not have(taskid) for taskid in self._queues.held):
            return True
        return frontier is not None and any(
            taskid < len(self._tasks) and frontier.holds_up(taskid)
            for taskid in self._member.held_by_living()
        )

    def _poll(self) -> None:
        """Read the ledgers and claims; note odd lines for the user.

        At the first lines of another farmer, this farm leaves ``timeline.json`` to
        others.
        """
        for ledger, appended in self._transactions.poll_ledgers():
            self._report_odd_lines(ledger, appended.odd)
            self._met_others |= bool(appended.ids or appended.odd)
            self._note_ends(ledger, appended)
        self._others.poll()
        if self._met_others and not self._joined_by_others:
            self._timeline.leave_to_others()
            self._joined_by_others = True

    def _note_ends(self, ledger: Ledger, appended: Appended) -> None:
        """Let what others have recorded count for the order of the list."""
        frontier = self._queues.frontier
        if frontier is None:
            return
        if ledger is self._ledgers.finished:
            frontier.note_ends(finished=appended.ids, failed=())
        else:
            frontier.revive(appended.gone)
            frontier.note_ends(finished=(), failed=appended.ids)

    def _report_odd_lines(self, ledger: Ledger, lines: Sequence[bytes]) -> None:
        for line in lines:
            if is_beyond(line, self._tasks):
                self._report_beyond(
                    "lines were added to the tasklist while this farm works: it does "
                    f"the first {counted(len(self._tasks))}, others do the rest"
                )
            else:
                text = shorten(line.decode("utf-8", "surrogateescape"))
                self.notes.append(f"a line of {ledger.path} is of no task: '{text}'")

    def _report_beyond(self, sentence: str) -> None:
        """Tell once of tasks beyond the list, unless this farm takes them up soon."""
        if not self.grows and sentence not in self._reported:
            self._reported.add(sentence)
            self.notes.append(sentence)

    # ---- claims ---------------------------------------------------------------------

    def reclaim_dead(self) -> int:
        """Poll, requeue the tasks of dead farms, remove their claims.  Lock held.

        Return the number of requeued tasks.  Notes for the user name the farms.
        """
        self._poll()
        return self._reclaim_each(self._reclaim)

    def _reclaim(self, claim: OtherClaim, descriptor: int) -> int:
        """Requeue the tasks of a dead farm, and remove its claim.  Return their number.

        `descriptor` is open for writing to the claim.  Each requeued task is written
        into the dead farm's journal, so that after a kill the next farm requeues
        nothing twice.  A claim with tasks behind the end of this farm's list stays.
        """
        # A rank that was killed as it took over has left its ids in two claims.
        lost = sorted(self._find_open(claim).keys() - self._member.claim.held)
        if lost:
            self._requeue_held(claim, descriptor, lost)
            if self._queues.frontier is not None:
                self._queues.frontier.revive(lost)  # it may have run as it was retried
            self._lost.note_reclaimed(claim.farm, lost)
        if max(claim.journal.held, default=-1) >= len(self._tasks):
            self._report_beyond(
                f"the dead farm {claim.farm} holds tasks that were added to the list "
                "while this farm works: the next start reclaims them"
            )
        else:
            self._member.remove(claim, len(lost))
        return len(lost)

    def _find_open(self, claim: OtherClaim) -> dict[int, int]:
        """Return the tasks of a claim that must run again: id to `Event.failed`."""
        held = {
            taskid: size
            for taskid, size in claim.journal.held.items()
            if taskid < len(self._tasks) and taskid not in self._ledgers.finished
        }
        settled = self._ledgers.failed.find_settled(held)
        return {taskid: size for taskid, size in held.items() if taskid not in settled}

    def _take_over(self, farm: str) -> None:
        """Put the tasks of the lost coordinator `farm` into this farm's claim.

        Tasks that others have recorded or hold are left out, and claims that were taken
        over are removed.  Tasks that were never to run go back into their queue: no
        rank has them.  "" names no farm: only poll.
        """
        self._poll()
        for claim in self._member.find_predecessors(farm):
            held = self._find_open(claim)
            settled = claim.journal.held.keys() - held.keys()
            self._failed_unlisted.update(filter(self._counts_as_failed, settled))
            for taskid in self._member.claim.held & held.keys():
                del held[taskid]
            self._member.take_over(claim, held)
        frontier, taken = self._queues.frontier, self._member.claim.held
        doomed = [*filter(frontier.find_doomed, sorted(taken))] if frontier else []
        if doomed:
            self._transactions.carry_out((), doomed, 0, (), time.perf_counter())

    def _counts_as_failed(self, taskid: int) -> bool:
        """Return whether a task that has a record has failed by itself."""
        finished, failed = self._ledgers
        frontier = self._queues.frontier
        is_failed = failed.has(taskid) and not finished.has(taskid)
        return is_failed and not (frontier and frontier.find_doomed(taskid))

    def _requeue_held(
        self, claim: OtherClaim, descriptor: int, lost: list[int]
    ) -> None:
        """Put the `lost` tasks of a dead farm into their queues.

        The dead farm's journal names each step before its rename: a reader of the claim
        then knows by the staging file whether the step has happened.
        """
        leftovers = find_leftovers(self.paths, claim.farm)
        steps = Steps(self.paths, claim.farm)
        steps.last = max([claim.journal.last_step, *(step for _, _, step in leftovers)])
        for queue, ids in self._queues.divide(lost):
            if ids:
                step = queue.put(steps, ids)
                line = encode_event(Event(put=ids, step=step))
                files.append_to(descriptor, claim.path, line, sync=True)
                files.rename(steps.file(step), queue.path)

    @property
    def others_hold_tasks(self) -> bool:
        """Whether a claim of another farm holds a task of this list, as last polled."""
        return any(taskid < len(self._tasks) for taskid in self._others.held_ids())

    # ---- counting, ending -----------------------------------------------------------

    def has_record_of(self, taskid: int) -> bool:
        """Return whether ``finished`` or ``failed`` had the task at the last poll."""
        return self._ledgers.have(taskid)

    @property
    def recorded(self) -> tuple[int, int]:
        """The numbers of tasks in ``finished`` and ``failed`` at the last poll."""
        return self._ledgers.finished.count, self._ledgers.failed.count

    def survey(self, *, in_array: bool = False) -> Survey:
        """Poll, and return the state of the workdir for `counts`.  Lock held."""
        self._poll()
        return Survey(
            held=frozenset(self._member.claim.held),
            claimed=frozenset(self._others.held_ids()),
            toprocess=file_contents.find_state(self.paths.toprocess),
            added=file_contents.find_state(self.paths.added),
            waiting=file_contents.find_state(self.paths.waiting),
            in_array=frozenset(self._member.held_in_array() if in_array else ()),
        )

    def counts(self, survey: Survey) -> Counts:
        """Count the tasks by their places at a survey, without the lock.

        Raises `StorageError` where a queue cannot be read, `ChangedError` where others
        have changed a large queue since.
        """
        queues = self._queues
        return count_tasks(survey, *self._ledgers, queues.first_added, queues.frontier)

    def close(self) -> bool:
        """Remove prepared files, settle an open step, leave the workdir.  Lock held.

        Return whether the claim was removed.  Raises `ClaimLostError` if the claim is
        not this farm's any more, `StorageError`; its lock is released in any case.
        """
        try:
            with suppress(StorageError):
                self._queues.discard_prepared()
            self._member.claim.check()
            self._transactions.close_step()
        except BaseException:
            self._member.claim.end()
            raise
        return super().close()


def _ids_not_run(results: Sequence[Recorded]) -> list[int]:
    """Return the tasks that are to be recorded as not run."""
    return [each.taskid for each in results if each.result.outcome is Outcome.NOT_RUN]


def _reopen(frontier: Frontier, taskids: Sequence[int]) -> list[int]:
    """Return which of these tasks may run after all; they count as open.

    They were never to run when they were taken.  The others may count as failed.
    """
    if all(map(frontier.find_doomed, taskids)):
        return []
    # All of them first: one that counts as failed dooms those that wait for it.
    frontier.revive(taskids)
    return [taskid for taskid in taskids if not frontier.find_doomed(taskid)]
