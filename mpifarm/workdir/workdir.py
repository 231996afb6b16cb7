"""The workdir of a farm: all that rank 0 reads and writes there.

Rules of this file: it knows neither MPI nor processes.  A method that says "lock held"
is called with the lock held, and keeps no shared file open beyond it.  The order of
the steps is what makes a kill between any two of them harmless; each function that
depends on an order says which and why.
"""

import os
import re
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from heapq import merge
from itertools import chain, filterfalse, islice, takewhile
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
    EditedListError,
    JudgedFile,
    Judgement,
    judge_access,
    judge_snapshot,
    read_snapshot,
    shorten,
)
from mpifarm.workdir.paths import WorkdirPaths
from mpifarm.workdir.progress import Progress
from mpifarm.workdir.queues import AddedQueue, Queue, SharedQueue, Step, Steps
from mpifarm.workdir.records import (
    Counts,
    HeldLock,
    Recorded,
    Survey,
    Transacted,
)
from mpifarm.workdir.status import (
    encode_blocks,
    find_id,
    is_beyond,
    scan_ids,
)
from mpifarm.workdir.timeline_file import TimelineFile
from mpifarm.workdir.toprocess import Plan, find_place

LOCK_TIMEOUT = 60.0
MOST_FAILED_NAMED = 10
TRIES_WITHOUT_LOCK = 3
"""How often a large queue that others change is read without the lock at a start."""
_ORPHAN_FARM = re.compile(r"[0-9a-f]{8,}")


class OpenStep(NamedTuple):
    """A step that was to happen by the renaming of `beside`: that file tells."""

    beside: str
    taken: list[int]
    back: tuple[int, ...]


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
        self._machine = machine
        self._clock = clock
        self._finished = Ledger(paths.finished, tasks)
        self._failed = Ledger(paths.failed, tasks)
        self._joined_by_others = False
        self._timeline = TimelineFile(paths, farm, tasks, self.notes)
        self._steps = Steps(paths, farm)
        common = (tasks, self._steps, self._is_blocked)
        self._toprocess = SharedQueue(
            paths.toprocess, *common, self._plan_first, self._is_all_finished
        )
        self._added = AddedQueue(paths.added, *common)
        self._first_added = len(tasks)
        """From this id on, tasks go through ``added``."""
        self._prepare_seconds = 0.0
        self._progress = Progress()
        self._open_step: OpenStep | None = None
        self._taken: list[int] = []
        """Taken by the transaction under way, and not told yet."""
        self._met_others = False
        self._told: set[str] = set()

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
        remap: bool = False,
    ) -> "Workdir":
        """Join the workdir at `path`; takes the lock itself.

        `remap`: where the list was edited, find what was done by the lines' text.
        `inherits` names the farm whose coordinator was lost and whose place this one
        takes: what it held is held by this one from the start.

        Raises `InputError`, with everything as it was, where the workdir can't be used
        or does not belong to this tasklist; `StorageError` where the disk gives way.
        """
        paths = WorkdirPaths(os.path.abspath(path))
        make_root(paths.root)
        judge_access(paths)
        workdir = cls(paths, tasks, farm, clock, machine or this_machine())
        judgement = workdir._judge(lock, remap=remap and not inherits)
        workdir._start_ledgers(judgement)
        with lock.hold(LOCK_TIMEOUT):
            if workdir._has_changed(judgement):
                # Another farm has begun meanwhile, perhaps with another list.
                judgement = judge_snapshot(read_snapshot(paths), tasks, paths)
                workdir._start_ledgers(judgement)
            workdir._join(judgement, lock.paths, inherits)
        return workdir

    def _judge(self, lock: HeldLock, *, remap: bool) -> Judgement:
        """What is on the disk, in line with the list; where it isn't, `remap` it."""
        while True:
            try:
                return self._judge_once(lock)
            except EditedListError:
                if not remap:
                    raise
            self._remap(lock)

    def _judge_once(self, lock: HeldLock) -> Judgement:
        for _ in range(TRIES_WITHOUT_LOCK):
            with lock.hold(LOCK_TIMEOUT):
                found = read_snapshot(self.paths)
            with suppress(files.ChangedError):
                return judge_snapshot(found, self._tasks, self.paths)
        # Others write it all the time: so it has to fit into the memory.
        with lock.hold(LOCK_TIMEOUT):
            found = read_snapshot(self.paths, whole=True)
        return judge_snapshot(found, self._tasks, self.paths)

    def _remap(self, lock: HeldLock) -> None:
        from mpifarm.workdir.remap import remap_workdir

        with lock.hold(LOCK_TIMEOUT):
            sentence = remap_workdir(
                self.paths, self._tasks, self._machine, self._clock()
            )
        self.notes.append(sentence)

    def _has_changed(self, judgement: Judgement) -> bool:
        before = judgement.snapshot.fingerprint
        is_remapped = os.path.lexists(self.paths.remap)
        return is_remapped or files.find_content(self.paths.fingerprint) != before

    def _join(
        self, judgement: Judgement, lock_paths: Sequence[str], inherits: str
    ) -> None:
        """Lock held.  Judges what is left to judge before the first change."""
        for ledger in (self._finished, self._failed):
            ledger.look()
        self._member.judge_others(lock_paths, len(self._tasks))
        self._member.make_directories()
        # Before the fingerprint says that nothing is left to be added.
        self._settle_added(judgement)
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
        for ledger, found, judged in (
            (self._finished, judgement.snapshot.finished, judgement.finished),
            (self._failed, judgement.snapshot.failed, judgement.failed),
        ):
            # A last line without newline counts once `_mend` has ended it.
            ledger.start_behind(found.size - judged.tail if found else 0, judged.ids)

    def _mend(self, judgement: Judgement) -> None:
        """End or replace torn lines, and tell of them."""
        for judged in (judgement.finished, judgement.failed, judgement.toprocess):
            self.notes.extend(judged.notes)
        for ledger in (self._finished, self._failed):
            if ledger.tail:
                ledger.append(())
        self._mend_toprocess(judgement.snapshot.toprocess, judgement.toprocess)
        self._timeline.mend()

    def _mend_toprocess(self, before: files.Found | None, judged: JudgedFile) -> None:
        if before is None or judged.in_order:
            return
        is_whole = before.content is not None
        if files.find(self.paths.toprocess, whole=is_whole) != before:
            # A plain farmer has written it since, whole and sorted.
            return
        in_order = sorted({*judged.ids, *judged.tail_ids})
        self._replace_queue(self._toprocess, encode_blocks(in_order, self._tasks))

    def _replace_queue(self, queue: Queue, chunks: Iterable[files.Chunk]) -> None:
        """While nobody but this start takes from it, and no claim tells of it."""
        beside = self._steps.file(self._steps.begin())
        files.write_beside(beside, chunks, like=queue.path)
        files.rename(beside, queue.path)

    # ---- lines that were added to the list ------------------------------------------

    def _settle_added(self, judgement: Judgement) -> None:
        """Let ``added`` hold what it should before this farm begins.

        A kill in here changes nothing: until the fingerprint is replaced, the next
        start does the same again, and nobody takes what it does not know.
        """
        self._first_added = judgement.first_added
        if not judgement.snapshot.begun and os.path.isfile(self.paths.added):
            files.remove(self.paths.added)  # of an earlier life of the workdir
        if self._first_added == len(self._tasks):
            return
        known = judgement.grown_from
        if not files.exists(self.paths.toprocess):
            self._make_both_queues()
        elif known is not None and self._is_taken_up(known, judgement.toprocess.ids):
            self.notes.append(
                "lines were added to the list, and other farmers have them"
            )
            return
        elif known is not None:
            self._add_lines(known)
        if known is not None:
            self.notes.append(_describe_added(len(self._tasks) - known))

    def _make_both_queues(self) -> None:
        """No ``toprocess`` means: every task is to be processed.

        It has to be there from now on: a plain farmer that starts with the new list
        would take its absence for all tasks.  So ``added`` comes first.
        """
        claimed = self._others.held_ids()
        ids = array("I", filterfalse(claimed.__contains__, self._finished.missing()))
        place = bisect_left(ids, self._first_added)
        for queue, its in ((self._added, ids[place:]), (self._toprocess, ids[:place])):
            self._replace_queue(queue, encode_blocks(its, self._tasks))

    def _add_lines(self, known: int) -> None:
        """Put the tasks behind the first `known` ones into ``added``."""
        before = files.find_content(self.paths.added) or b""
        place, _ = find_place(before, 0, known)
        lines = encode_blocks(range(known, len(self._tasks)), self._tasks)
        self._replace_queue(self._added, chain([before[:place]], lines))

    def _is_taken_up(self, known: int, queued: Sequence[int]) -> bool:
        """Whether plain farmers have the new tasks already.

        They do where ``toprocess`` was missing when the first of them came that knew
        the longer list.
        """
        last = find_id(files.find_last_line(self.paths.toprocess))
        return (
            (last is not None and last >= known)
            or max(queued, default=-1) >= known
            or any(map(self.has_record_of, range(known, len(self._tasks))))
        )

    def _remove_orphans(self) -> None:
        """Remove temporary files whose claim is gone (killed while cleaning up)."""
        for path, farm, _ in find_leftovers(self.paths):
            self._remove_if_orphan(path, farm)
        for name in os.listdir(self.paths.root):
            stem, _, farm = name.rpartition(".json.")
            if stem:
                self._remove_if_orphan(f"{self.paths.root}/{name}", farm)

    def _remove_if_orphan(self, path: str, farm: str) -> None:
        known = farm == self.farm or farm in self._others.claims
        if not known and _ORPHAN_FARM.fullmatch(farm):
            files.remove(path)

    # ---- transactions ---------------------------------------------------------------

    def prepare(
        self, results: Sequence[Recorded], give_back: Sequence[int], take: int
    ) -> None:
        """Write the next queues beside, without the lock.

        The next `transact` with the same arguments uses it, unless others have changed
        what it was made from.
        """
        with suppress(StorageError):
            self._discard_prepared()
        begun = time.perf_counter()
        for queue, back in self._by_queue(give_back):
            take -= queue.prepare(back, take)
        self._prepare_seconds = time.perf_counter() - begun

    def transact(
        self, results: Sequence[Recorded], give_back: Sequence[int], take: int
    ) -> Transacted:
        """Record results, put ids back, take up to `take` new ones.  Lock held."""
        begun = time.perf_counter()
        ids = [*(each.taskid for each in results), *give_back]
        self._member.check_held(self._progress.left("strike", ids))
        self._member.claim.check()
        self._look()
        self._record(results)
        taken, empty = self._exchange(give_back, take)
        self._progress.forget()
        prepare_seconds, self._prepare_seconds = self._prepare_seconds, 0.0
        seconds = time.perf_counter() - begun
        return Transacted(taken, empty, seconds + prepare_seconds)

    def _look(self) -> None:
        """Learn what others have done."""
        for ledger in (self._finished, self._failed):
            look = ledger.look()
            self._progress.note(ledger.path, look.own)
            self._tell_of_odd_lines(ledger, look.odd)
            self._met_others |= bool(look.ids or look.odd)
        self._others.look()
        if self._met_others and not self._joined_by_others:
            self._timeline.leave_to_others()
            self._joined_by_others = True

    def _tell_of_odd_lines(self, ledger: Ledger, lines: Sequence[bytes]) -> None:
        for line in lines:
            if is_beyond(line, self._tasks):
                self._tell_once(
                    "lines were added to the tasklist while this farm works: it does "
                    f"the first {len(self._tasks)} tasks, others do the rest"
                )
            else:
                text = shorten(line.decode("utf-8", "surrogateescape"))
                self.notes.append(f"odd line in {ledger.path}: '{text}'")

    def _tell_once(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self.notes.append(sentence)

    def _record(self, results: Sequence[Recorded]) -> None:
        """Record results; those that others have finished meanwhile are only struck.

        Timeline first (an event of an attempt that runs again is still true), then the
        results, and only then may the claim forget them.
        """
        if not results:
            return
        once = self._progress.once
        once("timeline", results, self._timeline.append)
        new = [result for result in results if result.taskid not in self._finished]
        for ledger, is_finished in ((self._finished, True), (self._failed, False)):
            ended = [result for result in new if result.finished is is_finished]
            once(ledger.path, ended, ledger.record)
        self._strike([result.taskid for result in results])
        once("attempts", results, self._append_attempts)

    def _strike(self, taskids: Sequence[int]) -> None:
        if left := self._progress.left("strike", taskids):
            self._member.strike(left)
            self._progress.note("strike", left)

    def _exchange(self, give_back: Sequence[int], take: int) -> tuple[list[int], bool]:
        """Put back and take, in one step for each queue via one new file of it.

        A step happens by the rename; before it, the claim has told of it.
        """
        self._close_step()
        left = self._progress.left("strike", give_back)
        self._strike([taskid for taskid in left if taskid in self._finished])
        back = [taskid for taskid in left if taskid not in self._finished]
        empty = True
        for queue, ids in self._by_queue(back):
            empty &= self._settle(queue, ids, take - len(self._taken))
        taken, self._taken = self._taken, []
        return taken, empty

    def _by_queue(
        self, give_back: Sequence[int]
    ) -> Iterator[tuple[Queue, tuple[int, ...]]]:
        """Each queue, in the order in which they are taken from, and what is its."""
        first = self._first_added
        yield self._toprocess, tuple(each for each in give_back if each < first)
        if first < len(self._tasks):
            yield self._added, tuple(each for each in give_back if each >= first)

    def _settle(self, queue: Queue, back: tuple[int, ...], take: int) -> bool:
        """Put back and take; whether nothing is left in the queue then."""
        if not back and take <= 0:
            queue.discard()
            return queue.is_empty()
        step = queue.settle(back, take)
        if step.plan.changed:
            self._commit(queue, step, back)
        return step.plan.empty

    def _commit(self, queue: Queue, step: Step, back: tuple[int, ...]) -> None:
        """Put the file of a step in the place of the queue."""
        plan, number = step
        beside = self._steps.file(number)
        if plan.taken or back:
            event = Event(
                take=plan.taken, put=back, via=number, failed=self._failed.size()
            )
            self._member.claim.append_step(event, beside)
        self._open_step = OpenStep(beside, plan.taken, back)
        files.rename(beside, queue.path)
        self._end_step(self._open_step)

    def _end_step(self, step: OpenStep) -> None:
        """It has happened."""
        self._open_step = None
        self._member.claim.held.difference_update(step.back)
        self._member.claim.held.update(step.taken)
        self._progress.note("strike", step.back)
        self._taken += step.taken

    def _close_step(self) -> None:
        """Find out what became of a step whose rename failed: it may have happened."""
        step = self._open_step
        if step is None:
            return
        if not files.exists(step.beside):
            self._end_step(step)
            return
        # The claim names it: for as long as there is one, it says "did not happen".
        files.empty(step.beside)
        self._open_step = None

    def _plan_first(self, back: Sequence[int], take: int) -> Plan:
        """No ``toprocess`` means: every task is to be processed."""
        others = {each for each in self._others.held_ids() if each < self._first_added}
        claimed = others | self._member.claim.held
        missing = self._finished.missing()
        known = takewhile(self._first_added.__gt__, missing)
        free = filterfalse(claimed.__contains__, known) if claimed else known
        taken = list(islice(free, max(take, 0)))
        left = array("I", merge(free, sorted(set(back))) if back else free)
        return Plan(
            taken,
            dropped=[*others],
            chunks=encode_blocks(left, self._tasks),
            changed=True,
            empty=not left,
        )

    def _is_blocked(self, taskid: int) -> bool:
        return (
            taskid in self._finished
            or taskid in self._member.claim.held
            or self._others.hold(taskid)
        )

    def _is_all_finished(self) -> bool:
        return self._finished.count == len(self._tasks)

    def _discard_prepared(self) -> None:
        self._toprocess.discard()
        self._added.discard()

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
        # A successor that was killed as it took over has left its ids in two claims.
        lost = sorted(self._find_open(claim).keys() - self._member.claim.held)
        if lost:
            self._put_back(claim, descriptor, lost)
        if max(claim.journal.held, default=-1) >= len(self._tasks):
            self._tell_once(
                f"the dead farm {claim.farm} holds tasks that were added to the list "
                "while this farm works: the next start takes them back"
            )
        else:
            self._member.remove(claim, len(lost))
        return len(lost)

    def _find_open(self, claim: OtherClaim) -> dict[int, int]:
        """What a claim holds and nothing is recorded of: id to `Event.failed`."""
        held = {
            taskid: size
            for taskid, size in claim.journal.held.items()
            if taskid < len(self._tasks) and taskid not in self._finished
        }
        younger = self._failed.find_younger(held)
        return {taskid: size for taskid, size in held.items() if taskid not in younger}

    def _adopt(self, farm: str) -> None:
        """Hold what the lost coordinator of this farm held, unless others got it."""
        self._look()
        for claim in self._member.find_ancestors(farm):
            held = self._find_open(claim)
            for taskid in self._member.claim.held & held.keys():
                del held[taskid]
            self._member.adopt(claim, held)

    def _put_back(self, claim: OtherClaim, descriptor: int, lost: list[int]) -> None:
        leftovers = find_leftovers(self.paths, claim.farm)
        steps = Steps(self.paths, claim.farm)
        steps.last = max([claim.journal.last_step, *(step for _, _, step in leftovers)])
        for queue, ids in self._by_queue(lost):
            if ids:
                step = queue.put(steps, ids)
                line = encode_event(Event(put=ids, via=step))
                files.append_to(descriptor, claim.path, line, sync=True)
                files.rename(steps.file(step), queue.path)

    @property
    def others_hold_tasks(self) -> bool:
        """Whether a live claim of another farm holds any of this list's tasks."""
        return any(taskid < len(self._tasks) for taskid in self._others.held_ids())

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
            toprocess=files.find(self.paths.toprocess),
            added=files.find(self.paths.added),
        )

    def counts(self, survey: Survey) -> Counts:
        """Where all tasks were at a survey.  Needs no lock; looks at each task.

        Raises `StorageError` where a queue can't be read, `ChangedError` where others
        have changed a large one meanwhile.
        """
        finished = self._finished
        total = len(self._tasks)
        claimed = {
            taskid
            for taskid in survey.claimed
            if taskid < total and taskid not in finished
        }
        held = {taskid for taskid in survey.held if taskid not in finished}
        busy = held | claimed
        queued = self._find_queued(survey)
        for taskid in busy:
            queued[taskid] = 0
        elsewhere = (
            taskid
            for taskid in self._failed.recorded()
            if not queued[taskid] and taskid not in finished
        )
        failed = array("I", filterfalse(busy.__contains__, elsewhere))
        toprocess = queued.count(1)
        known = finished.count + len(failed) + toprocess + len(busy)
        return Counts(
            total=total,
            finished=finished.count,
            failed=len(failed),
            toprocess=toprocess,
            held=len(held),
            claimed=len(busy) - len(held),
            elsewhere=total - known,
            first_failed=tuple(failed[:MOST_FAILED_NAMED]),
        )

    def _find_queued(self, survey: Survey) -> bytearray:
        """For each task whether it is in a queue, and not finished."""
        total = len(self._tasks)
        queued = bytearray(total)
        for ids in self._ids_queued(survey):
            if isinstance(ids, range):
                known = range(ids.start, min(ids.stop, total))
                queued[known.start : known.stop] = b"\1" * len(known)
            else:
                for taskid in ids:
                    if taskid < total:
                        queued[taskid] = 1
        self._finished.clear_in(queued)
        return queued

    def _ids_queued(self, survey: Survey) -> Iterator[Sequence[int]]:
        if survey.toprocess is None:
            yield range(self._first_added)
        else:
            yield from scan_ids(survey.toprocess.blocks(appended=False))
        if self._first_added < len(self._tasks) and survey.added:
            yield from scan_ids(survey.added.blocks(appended=False))

    def close(self) -> bool:
        """Leave the workdir.  Lock held."""
        try:
            with suppress(StorageError):
                self._discard_prepared()
            self._member.claim.check()
            self._close_step()
        except BaseException:
            self._member.claim.end()
            raise
        return super().close()


def _describe_added(count: int) -> str:
    if count == 1:
        return "1 task was added to the list since the last start: it runs too"
    return f"{count} tasks were added to the list since the last start: they run too"


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
