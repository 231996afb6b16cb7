"""Which ranks are there: they join, are pinged, fall silent, and are lost.

Rules of this file: pure; time is an argument (seconds, monotonic).  A rank that was
given up is not heard any more, even if it lives.
"""

from mpifarm.coordinator.dispatch import Dispatcher
from mpifarm.coordinator.effects import NoteRank, Post, RankChange, Send, Tell
from mpifarm.coordinator.rank_use import RankUse
from mpifarm.coordinator.results import Results
from mpifarm.coordinator.retries import fate_in_words
from mpifarm.coordinator.running import RunningTasks
from mpifarm.coordinator.state import (
    FarmState,
    Phase,
    RankRecord,
    RankState,
    TaskState,
)
from mpifarm.coordinator.task_table import TaskTable
from mpifarm.model.messages import (
    Alive,
    Join,
    Ping,
    Rejoin,
    Shutdown,
    ToCoordinator,
    ToRank,
    Welcome,
)
from mpifarm.model.settings import FarmDefinition

PING_SECONDS = 5.0
"""Seconds between two pings; less where ranks are given up early (a fourth of that)."""

JOIN_SECONDS = 600.0
"""Seconds after which a rank that has not joined is given up: thousands of nodes that
import from one cold file system take minutes."""

_LISTENS = frozenset({Phase.WORKING, Phase.DRAINING})
"""Phases in which silent ranks are given up; a stop has its own times."""


class Liveness:
    """The coming, the silence and the loss of ranks."""

    def __init__(
        self,
        farm: FarmState,
        table: TaskTable,
        dispatcher: Dispatcher,
        rank_use: RankUse,
        results: Results,
        running: RunningTasks,
        definition: FarmDefinition,
        post: Post,
        now: float,
    ) -> None:
        self._farm = farm
        self._table = table
        self._dispatcher = dispatcher
        self._rank_use = rank_use
        self._results = results
        self._running = running
        self._definition = definition
        self._post = post
        self._ping_seconds = min(PING_SECONDS, farm.policy.rank_timeout / 4)
        self.ping_at = now + self._ping_seconds
        """When to ping next."""
        self._listen_at = now
        """When to look for silent ranks next."""
        self._node_workers: dict[str, int] = {}
        """Workers by host, of the ranks that have joined."""

    # ---- ranks come --------------------------------------------------------------

    def on_join(self, record: RankRecord, message: Join | Rejoin) -> None:
        """Note where a rank is; welcome it and put it to work, unless the farm ends.

        A rank that was put out of use, or has stopped, stays so.
        """
        self.note_place(record, message)
        if not record.may_work or not self._farm.is_working:
            return
        self._rank_use.enter(record, RankState.WORKING)
        self._post(NoteRank(record.rank, RankChange.JOINED))
        self.welcome(record)
        self._dispatcher.update_demand(record)

    def note_place(self, record: RankRecord, message: Join | Rejoin) -> None:
        """Record host, process id and number of workers of a rank."""
        record.host = message.host
        record.pid = message.pid
        record.workers = message.workers

    def welcome(self, record: RankRecord) -> None:
        """Send a rank the farm's definition, its first worker's number and its pace."""
        number = self._number_workers(record)
        report_seconds = self._dispatcher.pacing.report_seconds
        welcome = Welcome(
            *(self._definition, number, report_seconds),
            *(self._running.seconds, self._running.most),
        )
        self._post(Send(record.rank, welcome))

    def _number_workers(self, record: RankRecord) -> int:
        """Assign a rank's workers their numbers on its node, once; return the first."""
        if record.node_worker is None:
            record.node_worker = self._node_workers.get(record.host, 0)
            self._node_workers[record.host] = record.node_worker + record.workers
        return record.node_worker

    # ---- ranks are silent --------------------------------------------------------

    def ping(self, now: float) -> None:
        """Ping, once an interval, each rank that was not heard or was sent no lease."""
        if now < self.ping_at or self._farm.phase is Phase.LEAVING:
            return
        self.ping_at = now + self._ping_seconds
        since = now - self._ping_seconds
        for record in self._farm.ranks.values():
            # What works hears of this one, and is heard, without a ping.
            is_known = record.is_addressed and record.heard_at > since
            record.is_addressed = False
            if not (is_known or record.is_gone):
                self._post(Send(record.rank, Ping()))

    def give_up_silent(self, now: float) -> None:
        """Lose ranks that are silent for too long: they may have died unseen.

        Nothing happens in a stop, which has its own times, or before the next look is
        due.
        """
        farm = self._farm
        if now < self._listen_at or farm.phase not in _LISTENS:
            return
        self._listen_at = now + self._ping_seconds / 4
        for record in farm.ranks.values():
            # A rank that never spoke is timed from the first look on.
            record.heard_at = min(record.heard_at, now)
            patience = farm.policy.rank_timeout
            if record.state is RankState.JOINING:
                patience = max(patience, JOIN_SECONDS)
            is_silent = now - record.heard_at > patience
            if is_silent and record.rank != farm.rank_set.own and not record.settled:
                self.lose(record, RankState.LOST, now)

    def forgive_pause(self, seconds: float) -> None:
        """Give all ranks `seconds` more: rank 0 was suspended and heard nothing."""
        for record in self._farm.ranks.values():
            record.heard_at += seconds

    # ---- ranks are lost ----------------------------------------------------------

    def lose(self, record: RankRecord, state: RankState, now: float) -> None:
        """Put a rank into `state`, LOST or DEAD; run its tasks elsewhere, and tell.

        A LOST rank is told to leave.  For a rank that is gone already, only the state
        changes.
        """
        if record.is_gone:  # given up before: its tasks are elsewhere already
            self._rank_use.enter(record, state)
            return
        has_come = record.state is not RankState.JOINING
        self._rank_use.leave(record, state)
        held = self._table.pick_held(record)
        for task in held:
            self._results.on_rank_lost(record, task, now)
        if state is RankState.LOST:
            # It stands there when the rank wakes, before it starts what it still has.
            self._dismiss(record)
        is_dead = state is RankState.DEAD
        if self._farm.rank_set.own > 0 and is_dead and not has_come:
            return  # it was lost before this rank led, and that was said
        again = sum(task.state is not TaskState.ENDED for task in held)
        why = self._explain_loss(record, has_come=has_come, now=now)
        fate = fate_in_words(again, is_working=self._farm.is_working)
        self._post(Tell(f"{record.name} {why}; {fate}"))
        self._post(NoteRank(record.rank, RankChange.LOST, why))

    def _explain_loss(self, record: RankRecord, *, has_come: bool, now: float) -> str:
        """Return the words for a loss; a silence is told in seconds."""
        if record.state is RankState.DEAD:
            return "is lost (it was killed, or its node failed)"
        if not has_come:
            return "did not connect and is given up"
        seconds = min(self._farm.policy.rank_timeout, now - record.heard_at)
        return f"has not been heard for {seconds:g} s and is given up"

    def _dismiss(self, record: RankRecord) -> None:
        """Tell a lost rank to leave, while the farm goes on."""
        record.is_dismissed = True
        leave = Shutdown(ranks_lost=True, farm_goes_on=True)
        self._post(Send(record.rank, leave))

    def on_message_of_lost(
        self, record: RankRecord | None, message: ToCoordinator
    ) -> None:
        """Tell a LOST rank that speaks to leave, once; answer its later questions.

        Say nothing to the own rank, a dead one, or a rank that is not known (None).
        """
        if record is None or record.rank == self._farm.rank_set.own:
            return
        if record.state is not RankState.LOST:
            return
        # What was said before a `Rejoin` was lost.
        if isinstance(message, Rejoin) or not record.is_dismissed:
            self._dismiss(record)
        elif isinstance(message, Alive):
            # It stays until the farm's end, and asks whether the farm still is.
            self._post(Send(record.rank, Ping()))

    # ---- all ranks ---------------------------------------------------------------

    def send_all(self, message: ToRank) -> None:
        """Send a message to each rank that is not gone."""
        for record in self._farm.ranks.values():
            if not record.is_gone:
                self._post(Send(record.rank, message))

    def are_all_settled(self) -> bool:
        """Return whether all ranks have stopped or are gone."""
        return all(record.settled for record in self._farm.ranks.values())

    @property
    def must_leave_alone(self) -> bool:
        """Return whether a rank given up may live: leaving MPI would wait for it."""
        return bool(self.silent_ranks())

    def lost_ranks(self) -> list[int]:
        """Return the ranks, without the own one, that died or were given up."""
        own = self._farm.rank_set.own
        others = (r for r in self._farm.ranks.values() if r.rank != own)
        return [record.rank for record in others if record.is_gone]

    def silent_ranks(self) -> list[int]:
        """Return the other ranks that were given up and are not known to be dead."""
        ranks = self._farm.ranks
        lost = self.lost_ranks()
        return [rank for rank in lost if ranks[rank].state is RankState.LOST]
