"""The tasks that this farm holds: the place of each, and its way from place to place.

Rules of this file:

* A task is here from the moment it is taken out of ``toprocess`` until it is on disk
  again.
* Nothing else changes a task's state.  Each move is a method here; it changes the state
  by `MOVES`, together with the facts that belong to it (`TaskRecord`) and with the list
  in which the task stands, so that they can't disagree.
* Why a task moves is decided elsewhere.
* A task that users have cancelled or held (`Bars`) is never queued: in place of that it
  ends, or goes back to the disk.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from itertools import islice

from mpifarm.coordinator.bars import Bars
from mpifarm.coordinator.effects import Transact
from mpifarm.coordinator.limits import FailureLimit
from mpifarm.coordinator.retries import RetryQueue
from mpifarm.coordinator.seats import Seats
from mpifarm.coordinator.state import (
    MOVES,
    FarmState,
    History,
    RankRecord,
    TaskRecord,
    TaskState,
)
from mpifarm.model.task import CANCELLED_STATUS, NOT_RUN_STATUS, Outcome, Result

MAX_AT_ONCE = 10_000
"""Tasks that a transaction pulls, and results that it records, at most: other farmers
wait for the lock meanwhile, and PyTaskFarmers die of a long wait."""


class TaskTable:
    """The tasks that this farm holds; `adopted` are those of a lost coordinator.

    Adopted tasks may be leased to any rank, as any attempt.  Without `seats`, no kind
    of task is limited.
    """

    def __init__(
        self,
        farm: FarmState,
        failures: FailureLimit,
        adopted: Iterable[int],
        seats: Seats | None = None,
    ) -> None:
        self.tasks = {
            taskid: TaskRecord(taskid, TaskState.LEASED, 1) for taskid in adopted
        }
        self.queue: deque[TaskRecord] = deque()
        """Tasks for whichever rank is next."""
        self.retry_queue = RetryQueue()
        """Tasks for a rank that suits them."""
        self.seats = Seats({}) if seats is None else seats
        """Tasks for whichever rank is next once their kind has a seat."""
        self.ended: deque[TaskRecord] = deque()
        """Tasks whose results count, and wait for others to go to disk with."""
        self.unsure = 0
        """Tasks whose results don't count yet (`RankRecord.unsure`), of all ranks."""
        self.requeuing: list[TaskRecord] = []
        """Tasks that go back into ``toprocess`` with the next transaction."""
        self.to_pull: dict[int, None] = {}
        """Tasks that are to be taken out of the queues on disk, if they are there, in
        this order."""
        self.bars = Bars()
        """Tasks that must not start."""
        self.transaction: Transact | None = None
        """The transaction that is under way."""
        self.storage_failed = False
        """Whether nothing can be recorded any more."""
        self.foreign_attempts: dict[int, int] = {}
        """The last attempt, by id, of tasks that have run and the farm holds no more.

        If such a task is taken again, its attempts are counted on from there.
        """
        self._misfortunes: dict[int, tuple[History | None, int, int]] = {}
        """History, lost attempts and last rank, by id, of such tasks that went back as
        held."""
        self.turn = len(self.tasks)
        """The number of leases so far, with those of adopted tasks."""
        self._farm = farm
        self._failures = failures

    def find_leased(self, rank: int, taskid: int, attempt: int) -> TaskRecord | None:
        """Return the task if it is leased to this rank as this attempt, else None."""
        task = self.tasks.get(taskid)
        if (
            task is None
            or task.state is not TaskState.LEASED
            or task.rank != rank
            or task.attempt != attempt
        ):
            return None
        return task

    def count_leased(self, held: int) -> int:
        """Return how many tasks are leased; `held` have ended and are held back."""
        here = len(self.queue) + len(self.ended) + len(self.requeuing)
        moving = self.transaction
        if moving:
            here += len(moving.results) + len(moving.requeue)
        here += len(self.retry_queue) + len(self.seats)
        return len(self.tasks) - here - held - self.unsure

    # ---- from the disk to a rank -------------------------------------------------

    def take(self, taskids: Iterable[int]) -> None:
        """Hold and queue tasks out of ``toprocess``; requeue them if the farm ends."""
        tasks, queue = self.tasks, self.queue
        are_new = not self.foreign_attempts
        is_working = self._farm.is_working
        for taskid in taskids:
            task = tasks[taskid] = TaskRecord(taskid)
            if not are_new:
                self._remember(task)
            if self.bars.is_set and self._turn_back(task):
                continue
            if not is_working:
                self.requeue(task)
            elif are_new or not task.waits_for_rank:
                queue.append(task)
            else:
                self.retry_queue.add(task)

    def take_pulled(self, taskids: Iterable[int]) -> None:
        """Hold tasks that were pulled, to be recorded as cancelled or to go back.

        None of them is queued: it may have been pulled before its turn.
        """
        for taskid in taskids:
            task = self.tasks[taskid] = TaskRecord(taskid)
            self._remember(task)
            self.requeue(task)

    def _remember(self, task: TaskRecord) -> None:
        """Give a task that may have been here before its attempts and misfortunes."""
        task.attempt = self.foreign_attempts.pop(task.taskid, 0)
        before = self._misfortunes.pop(task.taskid, (None, 0, task.rank))
        task.history, task.lost, task.rank = before

    def take_not_run(self, taskid: int, note: str, now: float) -> None:
        """Hold a task out of a queue that is never to run: record that, and why."""
        task = self.tasks[taskid] = TaskRecord(taskid, TaskState.ENDED)
        task.rank = self._farm.rank_set.own
        task.past.is_final = True
        task.result = Result(
            *(taskid, 0, Outcome.NOT_RUN, NOT_RUN_STATUS, 0),
            *(0.0, 0.0, now, note),
        )
        task.ended = task.due = now
        self.ended.append(task)

    def lease(self, record: RankRecord, tasks: Iterable[TaskRecord]) -> None:
        """Hand tasks to a rank, each as its next attempt."""
        rank, leases, turn = record.rank, record.leases, self.turn
        for task in tasks:
            self._move(task, TaskState.LEASED)
            task.attempt += 1
            task.rank = rank
            turn += 1
            task.turn = turn
            leases.add(task.taskid)
        self.turn = turn

    def locate(self, record: RankRecord, task: TaskRecord, attempt: int) -> None:
        """Set the rank and attempt of an adopted task, now among the rank's leases."""
        task.rank, task.attempt = record.rank, attempt
        record.leases.add(task.taskid)

    # ---- from a rank to another place --------------------------------------------

    def end(
        self, record: RankRecord, task: TaskRecord, result: Result, ended: float
    ) -> None:
        """Record how an attempt ended; the caller decides what the result is worth."""
        record.leases.discard(task.taskid)
        self._move(task, TaskState.ENDED)
        task.result = result
        task.ended = ended

    def fail(
        self, record: RankRecord, task: TaskRecord, result: Result, now: float
    ) -> None:
        """Record a final failure, due at once, and count it towards the limit.

        No other attempt follows, and the rank need not be sure of this result.
        """
        task.past.is_final = True
        self._failures.expect(task.taskid)
        self.end(record, task, result, now)
        task.due = now
        self.ended.append(task)

    def release(self, record: RankRecord, task: TaskRecord) -> None:
        """Take a task from its rank, drop its result, and queue it before all others.

        A farm that hands out no more requeues it.
        """
        record.leases.discard(task.taskid)
        self._drop_result(task)
        self._move(task, TaskState.QUEUED)
        if self.bars.is_set and self._turn_back(task):
            return
        if self._farm.is_working:
            self._queue_first(task)
        else:
            self.requeue(task)

    def release_unstarted(self, record: RankRecord, task: TaskRecord) -> None:
        """Take a task from its rank that was not begun; uncount the attempt."""
        task.attempt -= 1
        self.release(record, task)

    def release_all(self, record: RankRecord) -> None:
        """Take all tasks from a rank, those with results that don't count yet, too."""
        for task in self.pick_held(record):
            self.release(record, task)

    def pick_held(self, record: RankRecord) -> list[TaskRecord]:
        """Empty the rank's list of unsure tasks; return all its tasks, last id first.

        The caller has to `release`, requeue or fail each of them.
        """
        unsure = {task.taskid for task in self._take_unsure(record)}
        # The last first: each is queued before all others, so the order stays.
        held = sorted(record.leases | unsure, reverse=True)
        return [self.tasks[taskid] for taskid in held]

    # ---- a result counts when its rank is sure of it -----------------------------

    def keep(self, task: TaskRecord) -> None:
        """Let a result go to disk, at once or as soon as its rank is sure of it.

        Raise AssertionError if the task has no result.
        """
        result = task.result
        if result is None:
            raise _no_result(task)
        record = self._farm.ranks[task.rank]
        if result.ended <= record.sure:
            task.due = task.ended
            self.ended.append(task)
        else:
            self.unsure += 1
            record.unsure.append(task)

    def note_sure(self, record: RankRecord, sure: float, now: float) -> None:
        """Set until when a rank is sure; let the results count that ended until then.

        The rank has got no signal that may have ended commands before that.
        """
        record.sure = sure
        unsure = record.unsure
        while unsure and result_of(unsure[0]).ended <= sure:
            task = unsure.popleft()
            self.unsure -= 1
            task.due = now
            self.ended.append(task)

    def void_unsure(
        self, record: RankRecord, is_void: Callable[[TaskRecord], bool]
    ) -> None:
        """Requeue unsure tasks that are `is_void`: a signal has come to the rank.

        The signal may have come to their commands first.
        """
        for task in self._take_unsure(record):
            if is_void(task):
                self.requeue(task)
            else:
                self.unsure += 1
                record.unsure.append(task)

    def _take_unsure(self, record: RankRecord) -> Iterable[TaskRecord]:
        """Empty the rank's list of unsure tasks, uncount them, and return them."""
        unsure, record.unsure = record.unsure, deque()
        self.unsure -= len(unsure)
        return unsure

    # ---- another attempt ---------------------------------------------------------

    def go_on(self, task: TaskRecord) -> None:
        """Drop the result of an ended task, and queue it last, for any rank."""
        if self._queue_again(task):
            self.queue.append(task)

    def retry(self, task: TaskRecord, now: float, delay: float) -> None:
        """Drop an ended task's result; queue it for another rank after `delay` s."""
        task.past.waits_from = now + delay  # it may be held, and come again
        if self._queue_again(task):
            self.retry_queue.add(task)

    def retry_first(self, task: TaskRecord) -> None:
        """Drop the result of an ended task, and queue it before all others."""
        if self._queue_again(task):
            self._queue_first(task)

    def _queue_again(self, task: TaskRecord) -> bool:
        """Drop the result of an ended task; return whether to queue the task.

        If not, it is cancelled or held, and has gone on to the disk.
        """
        self._drop_result(task)
        self._move(task, TaskState.QUEUED)
        return not (self.bars.is_set and self._turn_back(task))

    def call_to_seats(self) -> None:
        """Queue tasks that waited for a seat, as many as have one now, before others.

        One that has failed, or that may kill ranks, still waits for a rank that suits
        it, no longer than without seats.
        """
        for task in reversed(self.seats.call()):
            if task.waits_for_rank:
                self.retry_queue.add(task)
            else:
                self._queue_first(task)

    def _queue_first(self, task: TaskRecord) -> None:
        """Queue a task before all others, or for a retry if it may kill ranks."""
        if task.may_kill_ranks:
            self.retry_queue.add(task)
        else:
            self.queue.appendleft(task)

    # ---- to the disk -------------------------------------------------------------

    def requeue(self, task: TaskRecord) -> None:
        """Drop a task's result, and requeue the task with the next transaction.

        A task that is cancelled ends in place of that.
        """
        self._drop_result(task)
        if task.taskid in self.bars.cancelled:
            self._end_cancelled(task)
            return
        self._move(task, TaskState.REQUEUING)
        self.requeuing.append(task)

    def requeue_waiting(self) -> None:
        """Requeue all tasks that wait for a rank, a seat, or another try."""
        while self.queue:
            self.requeue(self.queue.popleft())
        for task in [*self.retry_queue.clear(), *self.seats.clear()]:
            self.requeue(task)

    # ---- tasks that must not start -----------------------------------------------

    def turn_back_waiting(self) -> None:
        """End the cancelled and requeue the held among the tasks that wait here."""
        queued = [*self.queue]
        self.queue.clear()  # in place: others look at it, too
        self.queue.extend(task for task in queued if not self._turn_back(task))
        waiting = [*self.retry_queue, *self.seats]
        if barred := [task for task in waiting if self._is_barred(task)]:
            taskids = {task.taskid for task in barred}
            self.retry_queue.remove(taskids)
            self.seats.remove(taskids)
            for task in barred:
                self._turn_back(task)

    def pull(self, taskids: Iterable[int]) -> None:
        """Have tasks taken out of the queues on disk, with the next transactions."""
        self.to_pull.update(dict.fromkeys(sorted(taskids)))

    def _is_barred(self, task: TaskRecord) -> bool:
        return task.taskid in self.bars.cancelled or self.bars.holds(task.taskid)

    def _turn_back(self, task: TaskRecord) -> bool:
        """End a cancelled task, or requeue a held one; return whether it was either."""
        if not self._is_barred(task):
            return False
        self.requeue(task)
        return True

    def _end_cancelled(self, task: TaskRecord) -> None:
        """End a task that was cancelled before an attempt; it is due at once."""
        if task.state is not TaskState.ENDED:
            self._move(task, TaskState.ENDED)
        task.attempt += 1
        task.result = Result(
            *(task.taskid, task.attempt, Outcome.CANCELLED, CANCELLED_STATUS, 0),
            *(0.0, 0.0, 0.0),
        )
        task.ended = task.due = 0.0
        if task.rank < 0:  # a record names some rank
            task.rank = self._farm.rank_set.own
        self.ended.append(task)

    # ---- records -----------------------------------------------------------------

    def write(self, task: TaskRecord) -> None:
        """Let the result of an ended task go to disk with the next transaction."""
        self._move(task, TaskState.WRITING)

    def begin_transaction(
        self, results: tuple[tuple[int, Result], ...], take: int
    ) -> Transact:
        """Begin and return a transaction of `results` and all tasks to be requeued.

        It pulls what is to be pulled, `MAX_AT_ONCE` tasks at most, but for tasks that
        are here: `bars` has these.
        """
        requeue = tuple(task.taskid for task in self.requeuing)
        self.requeuing = []
        chosen = [*islice(self.to_pull, MAX_AT_ONCE)]
        for taskid in chosen:
            del self.to_pull[taskid]
        pull = tuple(sorted(each for each in chosen if each not in self.tasks))
        self.transaction = Transact(results, requeue, take, pull)
        return self.transaction

    def finish_transaction(self, reopened: Collection[int] = ()) -> Transact:
        """Drop the tasks that are on disk now; return what the transaction has done.

        Those `reopened` were requeued in place of being recorded.  Raise AssertionError
        if none is under way.
        """
        done, self.transaction = self.transaction, None
        if done is None:
            raise AssertionError("no transaction is under way")
        if reopened:
            left = [each for each in done.results if each[1].taskid not in reopened]
            back = (*done.requeue, *reopened)
            done = replace(done, results=tuple(left), requeue=back)
        for _, result in done.results:
            del self.tasks[result.taskid]
        for taskid in done.requeue:
            task = self.tasks.pop(taskid)
            if task.attempt and self._farm.is_working:  # held; it comes again
                self.foreign_attempts[taskid] = task.attempt
                if task.history is not None or task.lost:
                    misfortunes = task.history, task.lost, task.rank
                    self._misfortunes[taskid] = misfortunes
        return done

    def fail_storage(self) -> None:
        """Drop the transaction that is under way, and begin no more."""
        self.transaction = None
        self.storage_failed = True

    def abandon(self) -> tuple[int, ...]:
        """Drop all tasks; return the ids of those whose results are not recorded."""
        unrecorded = sorted(task.taskid for task in self.tasks.values() if task.result)
        self.tasks.clear()
        self.ended.clear()
        for record in self._farm.ranks.values():
            self._take_unsure(record)
        self.requeuing = []
        return tuple(unrecorded)

    # ---- the moves ---------------------------------------------------------------

    def _move(self, task: TaskRecord, state: TaskState) -> None:
        """Set a task's state; raise AssertionError if `MOVES` has no such move."""
        if state not in MOVES[task.state]:
            raise AssertionError(f"task {task.taskid}: {task.state} -> {state}")
        if self.seats.free and task.state is TaskState.LEASED:
            self.seats.give_back(task.taskid)
        task.state = state

    def _drop_result(self, task: TaskRecord) -> None:
        """Drop a task's result, if any, and its failure from the limit."""
        # A failure counts by the limit as soon as it is known: not when it's dropped.
        if task.result is not None:
            self._failures.forget(task.taskid)
            task.result = None

    # ---- the invariants ----------------------------------------------------------

    def find_violations(
        self, held: Iterable[TaskRecord], unlocated: Collection[int]
    ) -> list[str]:
        """Return each contradiction between tasks and lists, in words; tests ask.

        `held` are ended tasks that are held back; `unlocated` ones may be on any rank.
        """
        there: dict[TaskState, list[int]] = {state: [] for state in TaskState}
        for task in self.tasks.values():
            there[task.state].append(task.taskid)
        found = [
            f"{state.value}: listed {sorted(listed)}, are {sorted(there[state])}"
            for state, listed in self._lists(held, unlocated)
            if sorted(listed) != sorted(there[state])
        ]
        unsure = sum(len(record.unsure) for record in self._farm.ranks.values())
        if self.unsure != unsure:
            found.append(f"unsure: {self.unsure} are counted, are {unsure}")
        for task in self.tasks.values():
            found += self._find_wrong_facts(task, unlocated)
        return found

    def _lists(
        self, held: Iterable[TaskRecord], unlocated: Iterable[int]
    ) -> Iterator[tuple[TaskState, list[int]]]:
        """Yield each state with the tasks that stand in its lists."""
        ranks = self._farm.ranks.values()
        leased = [taskid for record in ranks for taskid in record.leases]
        unsure = [task for record in ranks for task in record.unsure]
        queued = [*self.queue, *self.retry_queue, *self.seats]
        yield TaskState.QUEUED, ids_of(queued)
        yield TaskState.LEASED, [*leased, *unlocated]
        yield TaskState.ENDED, ids_of([*self.ended, *held, *unsure])
        if not self.storage_failed:  # the transaction that named the others failed
            done = self.transaction or Transact((), (), 0)
            yield TaskState.WRITING, [result.taskid for _, result in done.results]
            yield TaskState.REQUEUING, [*ids_of(self.requeuing), *done.requeue]

    def _find_wrong_facts(
        self, task: TaskRecord, unlocated: Collection[int]
    ) -> list[str]:
        """Compare a task's facts with its state."""
        has_result = task.state in {TaskState.ENDED, TaskState.WRITING}
        if has_result != (task.result is not None):
            return [f"task {task.taskid} is {task.state.value} with {task.result}"]
        is_leased = task.state is TaskState.LEASED and task.taskid not in unlocated
        record = self._farm.ranks.get(task.rank)
        if is_leased and (record is None or task.taskid not in record.leases):
            return [f"task {task.taskid} is not among the leases of rank {task.rank}"]
        return []


def result_of(task: TaskRecord) -> Result:
    """Return the result of a task that has ended; AssertionError if it has none."""
    if task.result is None:
        raise _no_result(task)
    return task.result


def ids_of(tasks: Iterable[TaskRecord]) -> list[int]:
    """Return the ids of `tasks`."""
    return [task.taskid for task in tasks]


def _no_result(task: TaskRecord) -> AssertionError:
    return AssertionError(f"task {task.taskid} has ended without a result")
