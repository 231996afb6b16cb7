"""What users ask of the running farm: cancel tasks, hold and release them, drain.

Rules of this file:

* A request is answered once, when all is done about it: what was cancelled is on disk,
  what is held is in a queue or known to run on.
* Which tasks must not start is in `Bars`: whoever would queue such a task ends or
  requeues it (`TaskTable`).  So a rank that is lost, a worker that dies and a stop that
  comes meanwhile need no word here.
* Tasks that the farm does not hold are pulled out of the queues on disk: cancelled ones
  to be recorded, held ones to go where only `mpifarm` finds them.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from mpifarm.coordinator.dispatch import Dispatcher
from mpifarm.coordinator.effects import (
    LookAtList,
    Post,
    Reply,
    Send,
    Tell,
    Transact,
)
from mpifarm.coordinator.ending import Ending
from mpifarm.coordinator.growing import GrowingList
from mpifarm.coordinator.limits import Limits
from mpifarm.coordinator.retries import is_final
from mpifarm.coordinator.state import (
    FarmState,
    Phase,
    RankRecord,
    TaskRecord,
    TaskState,
)
from mpifarm.coordinator.task_table import TaskTable
from mpifarm.coordinator.unlocated import Unlocated
from mpifarm.model.id_ranges import name_ids
from mpifarm.model.messages import Cancel, Withdraw, Withdrawn
from mpifarm.model.requests import (
    Answer,
    Fate,
    FateOfTasks,
    Request,
    RequestKind,
)
from mpifarm.model.task import Outcome, Result, has_not_run
from mpifarm.model.wording import counted


@dataclass(slots=True)
class _Open:
    """A request that is not answered yet."""

    request: Request
    awaited: set[int]
    """Tasks whose fate is not known yet."""
    fates: dict[tuple[Fate, str], list[int]] = field(default_factory=dict)
    was_released: bool = False
    """Whether tasks, maybe its own, were released since: of a hold."""

    def note(self, taskid: int, fate: Fate, host: str = "") -> None:
        """Note the fate of a task, if it is awaited."""
        if taskid in self.awaited:
            self.awaited.discard(taskid)
            self.fates.setdefault((fate, host), []).append(taskid)


class Requests:
    """The requests of users to this farm."""

    def __init__(
        self,
        farm: FarmState,
        table: TaskTable,
        limits: Limits,
        dispatcher: Dispatcher,
        unlocated: Unlocated,
        ending: Ending,
        growing: GrowingList,
        post: Post,
    ) -> None:
        self._farm = farm
        self._table = table
        self._bars = table.bars
        self._limits = limits
        self._dispatcher = dispatcher
        self._unlocated = unlocated
        self._ending = ending
        self._growing = growing
        self._post = post
        self._open: list[_Open] = []
        self._pulled: set[int] = set()
        """Tasks that were pulled, and are not on disk again."""
        self._has_to_repeat = False
        """Whether ranks may not have got the messages of open requests."""
        self._total = len(dispatcher.commands)
        """Tasks of the list, as far as this farm knows it."""
        self._unseen: set[int] = set()
        """Cancelled tasks that this farm does not know yet: they were just added."""

    @property
    def keep_the_farm(self) -> bool:
        """Whether the farm stays though it has no task: all is held, or to be said."""
        return self._bars.holds_all or bool(self._open)

    # ---- what is asked -----------------------------------------------------------

    def on_request(self, request: Request, now: float) -> None:
        """Begin to do what is asked; the answer follows when it is done."""
        if self._farm.phase is Phase.LEAVING or self._table.storage_failed:
            self._reply(_Open(request, set()), "the farm is about to end")
            return
        match request.kind:
            case RequestKind.CANCEL:
                self._cancel(request, request.tasks or ())
            case RequestKind.HOLD:
                self._hold(request)
            case RequestKind.RELEASE:
                self._release(request, now)
            case RequestKind.DRAIN:
                who = _asker_of(request)
                self._ending.drain(f"{who} asked for a drain (mpifarm drain)")
                self._reply(_Open(request, set()))
        self._reply_done()

    def restore(self, taskids: Iterable[int], *, holds_all: bool) -> None:
        """Hold what was held when the farm began."""
        self._bars.hold(taskids)
        if holds_all:
            self._bars.hold(None)
        self._table.pull(self._find_known(self._bars.held))

    def note_grown(self) -> None:
        """Pull barred tasks out of the queue that they came into as the list grew.

        They were cancelled or held before this farm knew them.
        """
        before, self._total = self._total, len(self._dispatcher.commands)
        if seen := self._find_known(self._unseen):
            self._unseen.difference_update(seen)
            self._table.pull(seen)
        if held := self._bars.held:
            added = range(before, self._total)
            self._table.pull(each for each in added if each in held)

    def note_seen(self) -> None:
        """Note that the list has, for this farm, no more tasks than those it knows."""
        for taskid in self._unseen:
            self._note_fate(taskid, Fate.NOT_HERE)
        self._bars.forget(self._unseen)
        self._unseen.clear()
        self._reply_done()

    def _find_known(self, taskids: Iterable[int]) -> list[int]:
        """Return those of these tasks that the list has, as far as this farm knows."""
        total = self._total
        return [each for each in taskids if each < total]

    # ---- cancel ------------------------------------------------------------------

    def _cancel(self, request: Request, asked: Sequence[int]) -> None:
        table = self._table
        taskids = self._find_known(asked)
        if self._growing.is_expected and self._farm.is_working:
            taskids += self._await_growth(asked)
        waits = _Open(request, set(taskids))
        self._open.append(waits)
        self._post(Tell(f"{_asker_of(request)} cancels {_name(asked)}"))
        leased, absent = [], []
        for taskid in waits.awaited.copy():
            task = table.tasks.get(taskid)
            if taskid in self._unseen:
                continue
            if task is None or task.state is TaskState.REQUEUING:
                absent.append(taskid)
            elif task.state is TaskState.LEASED:
                leased.append(task)
            elif task.result and task.result.outcome is Outcome.COMPLETED:
                waits.note(taskid, Fate.ENDED_BEFORE)
        self._bars.cancel(taskids)
        table.turn_back_waiting()
        table.pull(absent)
        self._send_cancels(leased)

    def _await_growth(self, taskids: Sequence[int]) -> list[int]:
        """Return the tasks that this farm does not know, and look for them in the list.

        `note_grown` or `note_seen` follows.
        """
        unseen = [each for each in taskids if each >= self._total]
        if unseen:
            self._unseen.update(unseen)
            self._post(LookAtList())
        return unseen

    def _send_cancels(self, tasks: Iterable[TaskRecord]) -> None:
        for record, leases in self._by_rank(tasks):
            self._post(Send(record.rank, Cancel(leases)))

    # ---- hold, release -----------------------------------------------------------

    def _hold(self, request: Request) -> None:
        table, bars, taskids = self._table, self._bars, request.tasks
        wanted = self._select(taskids)
        waits = _Open(request, {task.taskid for task in wanted})
        for task in wanted:
            if task.result:
                waits.note(task.taskid, self._foresee(task, task.result))
        bars.hold(taskids)
        if taskids is None:
            self._post(Tell(f"{_asker_of(request)} holds all tasks: none is started"))
        else:
            self._post(Tell(f"{_asker_of(request)} holds {_name(taskids)}"))
            absent = [each for each in taskids if each not in table.tasks]
            waits.awaited.update(absent)
            table.pull(self._find_known(absent))
            for taskid in absent:
                if taskid >= self._total:  # added, and not taken up yet
                    waits.note(taskid, Fate.WAITED)
        self._open.append(waits)
        table.turn_back_waiting()
        leased = [task for task in wanted if task.state is TaskState.LEASED]
        if taskids is None:
            for record in self._farm.ranks.values():
                if record.leases and not record.is_gone:
                    self._post(Send(record.rank, Withdraw(())))
        else:
            self._send_withdrawals(leased)

    def _foresee(self, task: TaskRecord, result: Result) -> Fate:
        """Return what becomes of a task that is to be held and has just ended.

        It would run again, and waits for its release before that, or it has ended.
        """
        ends = result.outcome is Outcome.COMPLETED
        ends |= is_final(self._farm.policy, task, result)
        return Fate.ENDED_BEFORE if ends else Fate.WAITED

    def _select(self, taskids: Sequence[int] | None) -> list[TaskRecord]:
        """Return the tasks that the farm holds, of all or of these."""
        tasks = self._table.tasks
        if taskids is None:
            return [*tasks.values()]
        return [tasks[each] for each in taskids if each in tasks]

    def _send_withdrawals(self, tasks: Iterable[TaskRecord]) -> None:
        for record, leases in self._by_rank(tasks):
            self._post(Send(record.rank, Withdraw(leases)))

    def _release(self, request: Request, now: float) -> None:
        self._bars.release(request.tasks)
        what = "all tasks" if request.tasks is None else _name(request.tasks)
        self._post(Tell(f"{_asker_of(request)} releases {what}"))
        self._dispatcher.prefetch.note_more(now)
        self._dispatcher.update_all_demand()
        self._reply(_Open(request, set()))
        for waits in self._open:
            waits.was_released = True
        self._note_released()

    def _note_released(self) -> None:
        """Note the fate of tasks that were released before their hold was answered.

        They wait for their turn, as before: nothing more is heard of them until they
        have run.  What a rank has of them, it says itself.
        """
        ours = (TaskState.LEASED, TaskState.ENDED, TaskState.WRITING)
        for waits in self._open:
            if waits.request.kind is not RequestKind.HOLD or not waits.was_released:
                continue  # each rank's answer comes by here: no walk without need
            for taskid in waits.awaited.copy():
                task = self._table.tasks.get(taskid)
                is_here = task is not None and task.state in ours
                if not (is_here or self._bars.holds(taskid)):
                    waits.note(taskid, Fate.WAITED)

    # ---- what ranks say ----------------------------------------------------------

    def on_withdrawn(self, record: RankRecord, message: Withdrawn) -> None:
        """Note the tasks that a rank has begun: they run on though they are held."""
        for taskid, attempt in message.kept:
            if self._table.find_leased(record.rank, taskid, attempt):
                for waits in self._open:
                    if waits.request.kind is RequestKind.HOLD:
                        waits.note(taskid, Fate.RUNS_ON, record.host)
        self._note_released()  # it has returned those that it has not begun
        self._reply_done()

    def note_messages_lost(self) -> None:
        """Send the messages of open requests again, once all tasks are located."""
        self._has_to_repeat = True

    def repeat(self) -> None:
        """Send the messages of open requests again if ranks may not have got them.

        Only once all tasks are located.
        """
        if self._unseen and not self._farm.is_working:
            self.note_seen()  # nobody looks at the list any more
        if not self._has_to_repeat or self._unlocated.is_pending:
            return
        self._has_to_repeat = False
        for waits in self._open:
            tasks = [
                task
                for taskid in waits.awaited
                if (task := self._table.tasks.get(taskid)) is not None
                and task.state is TaskState.LEASED
            ]
            if waits.request.kind is RequestKind.CANCEL:
                self._send_cancels(tasks)
            else:
                self._send_withdrawals(tasks)

    # ---- what is on disk ---------------------------------------------------------

    def on_transacted(
        self, done: Transact, pulled: Sequence[int], reopened: Collection[int] = ()
    ) -> None:
        """Take in the tasks that were pulled, and note what is on disk now.

        `reopened` are tasks of `done.requeue` that were taken as never to run.
        """
        bars = self._bars
        if pulled:
            self._pulled.update(pulled)
            self._table.take_pulled(pulled)
        if not (self._open or bars.is_set or self._pulled):
            return
        for rank, result in done.results:
            self._note_recorded(rank, result)
        if done.requeue:
            self._note_requeued(done.requeue, reopened)
        for taskid in {*done.pull}.difference(pulled, self._table.tasks):
            self._note_fate(taskid, Fate.NOT_HERE)
            bars.forget([taskid])
        self._reply_done()

    def _note_recorded(self, rank: int, result: Result) -> None:
        taskid, fate, host = result.taskid, Fate.ENDED_BEFORE, ""
        if result.outcome is Outcome.CANCELLED:
            fate = Fate.WAITED if has_not_run(result) else Fate.ENDED_NOW
            host = "" if has_not_run(result) else self._farm.ranks[rank].host
            self._note_not_run(taskid)
        self._bars.forget([taskid])
        self._note_fate(taskid, fate, host)

    def _note_requeued(self, taskids: Sequence[int], reopened: Collection[int]) -> None:
        bars = self._bars
        cancelled = [each for each in taskids if each in bars.cancelled]
        # The request came as they were on their way to the disk.
        self._table.pull(cancelled)
        for taskid in taskids:
            if taskid not in reopened:  # the gates never let it pass
                self._note_not_run(taskid)
            if taskid not in bars.cancelled:
                self._note_fate(taskid, Fate.WAITED)

    def _note_not_run(self, taskid: int) -> None:
        """Let another task pass the gates of the first tasks, if this one had."""
        if taskid in self._pulled:
            self._pulled.discard(taskid)  # the gates know nothing of it
        else:
            self._limits.note_not_run()

    def _note_fate(self, taskid: int, fate: Fate, host: str = "") -> None:
        for waits in self._open:
            waits.note(taskid, fate, host)

    # ---- answers -----------------------------------------------------------------

    def _reply_done(self) -> None:
        for waits in [each for each in self._open if not each.awaited]:
            self._open.remove(waits)
            self._reply(waits)

    def _reply(self, waits: _Open, refusal: str = "") -> None:
        fates = tuple(
            FateOfTasks(fate, host, tuple(sorted(taskids)))
            for (fate, host), taskids in waits.fates.items()
        )
        running = self._farm.count_running()
        self._post(Reply(Answer(waits.request.name, fates, running, refusal)))

    def _by_rank(
        self, tasks: Iterable[TaskRecord]
    ) -> Iterable[tuple[RankRecord, tuple[tuple[int, int], ...]]]:
        """Yield each rank with the leases that it has of these tasks.

        Tasks that are not located are left out: `repeat` finds them.
        """
        by_rank: dict[int, list[tuple[int, int]]] = {}
        for task in tasks:
            if task.taskid in self._unlocated.tasks:
                self._has_to_repeat = True
            else:
                by_rank.setdefault(task.rank, []).append((task.taskid, task.attempt))
        for rank, leases in by_rank.items():
            yield self._farm.ranks[rank], tuple(leases)


def _asker_of(request: Request) -> str:
    return request.asker or "somebody"


def _name(taskids: Sequence[int]) -> str:
    what = "task" if len(taskids) == 1 else f"{counted(len(taskids))}:"
    return f"{what} {name_ids(taskids)}"
