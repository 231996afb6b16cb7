"""The checks between ranks: rank 0 asks, the others act.

Rules of this file: messages go through `mpifarm.transport.mpi` and are waited for as a
farm waits for them.  Rank 0 compares itself with the first rank of each other host, and
with rank 1 where there is one host.  Children of a rank are from before `MPI_Init`.
"""

import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from shutil import which
from socket import gethostname
from statistics import median
from typing import Any, NamedTuple, cast

from mpifarm.commands.selftest import storage
from mpifarm.commands.selftest.findings import (
    RankFindings,
    SelfTestFinding,
    broken,
    holds,
    measured,
    merge,
    untested,
)
from mpifarm.commands.selftest.helpers import (
    PATIENCE_SECONDS,
    Helper,
    HelperError,
    Question,
    Reply,
    answer,
    count_signals,
    signals_seen,
)
from mpifarm.commands.selftest.node import SIGNAL_REMEDY, check_wake, seconds_of
from mpifarm.commands.selftest.storage import Stage
from mpifarm.model.wording import counted
from mpifarm.system.event_loop import Waiter
from mpifarm.system.signals import SignalInbox
from mpifarm.transport.mpi import Comm

MAX_HOSTS = 4
"""Other hosts that rank 0 compares itself with: the whole takes half a minute."""

ROUND_TRIPS = 30

SILENT_SECONDS = 120.0
"""A rank that has not been asked for so long leaves."""

TELLING_SKEW = 1.0
"""Seconds by which clocks may differ before a user notices."""

SIGNAL_SECONDS = 3.0
LOSS_SECONDS = 3.0


class Leave(NamedTuple):
    """From rank 0: the test is over.  Without a lost rank, not all can finalize."""

    can_finalize: bool


class Order(NamedTuple):
    """From rank 0: answer this question, or let your child answer it."""

    question: Question
    is_for_child: bool


# ---- the other ranks ----------------------------------------------------------------


def find(
    comm: Comm, child: Helper, inbox: SignalInbox, findings: Sequence[SelfTestFinding]
) -> RankFindings:
    """Return what a rank finds by itself; `findings` are from before `MPI_Init`."""
    woken = check_wake(child, inbox, comm.has_message)
    return RankFindings(gethostname(), (*findings, woken))


def serve(
    comm: Comm, child: Helper, inbox: SignalInbox, findings: Sequence[SelfTestFinding]
) -> bool:
    """Send what this rank finds, then answer.  Return whether it can finalize."""
    waiter = Waiter(inbox.fd, comm.has_message)
    _send(comm, 0, Reply(0, find(comm, child, inbox, findings)))
    heard = time.monotonic()
    while time.monotonic() - heard < SILENT_SECONDS:
        signals_seen.extend(inbox.take())
        for _, message in cast(Any, comm.receive()):
            if isinstance(message, Leave):
                return message.can_finalize
            _send(comm, 0, _answer(message, child))
            heard = time.monotonic()
            waiter.restart()
        waiter.wait([], 1.0)
    return False


def _answer(order: Order, child: Helper) -> Reply:
    number, function, arguments = order.question
    if order.is_for_child:
        function, arguments = child.ask, (function, *arguments)
    return answer(Question(number, function, arguments))


def _send(comm: Comm, rank: int, message: Order | Leave | Reply) -> None:
    comm.send(rank, cast(Any, message))  # these never meet the messages of a farm


# ---- rank 0's side ------------------------------------------------------------------


class Ranks:
    """The other ranks, as rank 0 reaches them."""

    def __init__(self, comm: Comm, inbox: SignalInbox) -> None:
        numbers = range(1, comm.size)
        self.comm = comm
        self.helpers = {rank: self._helper(rank, is_child=False) for rank in numbers}
        self.children = {rank: self._helper(rank, is_child=True) for rank in numbers}
        self._waiter = Waiter(inbox.fd, comm.has_message)
        self._inbox = inbox
        self._replies: dict[int, deque[Reply]] = {rank: deque() for rank in numbers}

    def _helper(self, rank: int, *, is_child: bool) -> Helper:
        return Helper(
            f"{'a process of ' if is_child else ''}rank {rank}",
            lambda question: self._send(rank, Order(question, is_child)),
            lambda seconds: self._receive(rank, seconds),
        )

    def _send(self, rank: int, message: Order | Leave) -> None:
        _send(self.comm, rank, message)
        self._waiter.restart()

    def _receive(self, rank: int, seconds: float) -> Reply | None:
        """Return the next reply of a rank, None if it is late."""
        deadline = time.monotonic() + seconds
        while not self._replies[rank]:
            for source, reply in cast(Any, self.comm.receive()):
                self._replies[source].append(reply)
            if self._replies[rank]:
                break
            if time.monotonic() > deadline:
                return None
            self.note_signals()
            self._waiter.wait([], 0.1)
        return self._replies[rank].popleft()

    def note_signals(self) -> None:
        """Note which signals have come to rank 0."""
        signals_seen.extend(self._inbox.take())

    def leave(self, lost: int | None = None) -> bool:
        """Let all ranks go but the lost one.  Return whether all can finalize."""
        can_finalize = lost is None or self.comm.survives_rank_loss
        for rank in self.helpers:
            if rank != lost:
                self._send(rank, Leave(can_finalize))
        self.comm.flush(PATIENCE_SECONDS)
        return can_finalize


def collect(ranks: Ranks, own: RankFindings) -> dict[int, RankFindings]:
    """Return what every rank finds; a rank that doesn't answer has no host."""
    found = {0: own}
    for rank, helper in ranks.helpers.items():
        try:
            of_rank = found[rank] = helper.end(PATIENCE_SECONDS)
        except HelperError as error:
            silent = broken(str(error)).named("a rank answers")
            found[rank] = RankFindings("?", (silent,))
        else:
            helper.name += f" on {of_rank.host}"
            ranks.children[rank].name += f" on {of_rank.host}"
    return found


def check_ranks(
    stage: Stage, ranks: Ranks, found: Mapping[int, RankFindings]
) -> Iterator[SelfTestFinding]:
    """Yield the findings of all ranks, merged, and of those between them."""
    yield check_hosts([of_rank.host for of_rank in found.values()])
    yield from merge(found)
    yield from check_messages(ranks)
    for rank in choose_partners(found):
        yield from storage.check_shared(stage, ranks.helpers[rank])
        yield storage.check_release(stage, ranks.children[rank])


def check_hosts(hosts: Sequence[str]) -> SelfTestFinding:
    """Tell on which hosts the ranks are."""
    counts = ", ".join(f"{host} ({hosts.count(host)})" for host in sorted(set(hosts)))
    seen = f"{len(hosts)} on {counted(len(set(hosts)), 'host')}: {counts}"
    if len(set(hosts)) > 1:
        return measured(seen).named("ranks")
    follows = "nothing was tried between two nodes: run it on two (srun -N 2)"
    return untested(seen, follows).named("ranks on several hosts")


def choose_partners(found: Mapping[int, RankFindings]) -> list[int]:
    """Return the first rank of each other host, or rank 1 if there is one host only."""
    first: dict[str, int] = {}
    for rank in sorted(found):
        first.setdefault(found[rank].host, rank)
    partners = [rank for host, rank in first.items() if rank and host != "?"]
    return partners[:MAX_HOSTS] or [rank for rank in (1,) if rank in found]


def check_messages(ranks: Ranks) -> Iterator[SelfTestFinding]:
    """Measure round trips and the clocks of all ranks."""
    if not ranks.helpers:
        return
    count = max(3, ROUND_TRIPS // max(1, ranks.comm.size // 16))
    trips, skews = [], []
    for rank, helper in ranks.helpers.items():
        trips.append((median(_round_trip(helper) for _ in range(count)), rank))
        skews.append((_skew(helper), rank))
    longest, slow = max(trips)
    middle = median(trip for trip, _ in trips)
    yield measured(
        f"round trip of rank 0 and another: median {middle * 1e3:.2g} ms, longest"
        f" {longest * 1e3:.2g} ms (rank {slow})"
    ).named("messages")
    skew, far = max(skews, key=lambda each: abs(each[0]))
    follows = "the times in attempts.tsv and timeline.json differ by that"
    yield measured(
        f"at most {skew:+.3f} s (rank {far})",
        follows if abs(skew) > TELLING_SKEW else "",
    ).named("clocks of the nodes differ")


def _round_trip(helper: Helper) -> float:
    begun = time.monotonic()
    helper.ask(time.time)
    return time.monotonic() - begun


def _skew(helper: Helper) -> float:
    """Return the rank's clock less ours, from the quickest of three answers."""
    answers: list[tuple[float, float]] = []
    for _ in range(3):
        begun = time.time()
        theirs = helper.ask(time.time)
        ended = time.time()
        answers.append((ended - begun, theirs - (begun + ended) / 2))
    return min(answers)[1]


# ---- a signal to all ----------------------------------------------------------------


def check_step_signal(
    ranks: Ranks, child: Helper, environ: Mapping[str, str]
) -> SelfTestFinding:
    """Return what a USR1 to the whole step reaches, if it can be sent from within."""
    step = [environ.get(f"SLURM_{part}_ID", "") for part in ("JOB", "STEP")]
    scancel = which("scancel")
    if not all(step) or scancel is None:
        return untested("not to be sent from within; each rank had a USR1 of its own")
    before = _count_signals(ranks, child)
    begun = time.monotonic()
    # If the signal reaches all that descends from the step, scancel gets it too.
    seconds_of([scancel, "--signal=USR1", ".".join(step)], -signal.SIGUSR1)
    missed = [*range(ranks.comm.size)]
    after = before
    while missed and time.monotonic() - begun < SIGNAL_SECONDS:
        time.sleep(0.05)
        after = _count_signals(ranks, child)
        missed = [rank for rank in missed if after[rank][0] <= before[rank][0]]
    if missed:
        which_ranks = ", ".join(map(str, missed))
        seen = f"by scancel; rank {which_ranks} did not get it"
        return broken(seen, SIGNAL_REMEDY)
    commands = sum(now[1] > was[1] for was, now in zip(before, after, strict=True))
    return holds(
        f"by scancel, after {time.monotonic() - begun:.1f} s; it also came to what"
        f" {commands} of {counted(len(after), 'rank')} run in sessions of their own"
    )


def _count_signals(ranks: Ranks, child: Helper) -> list[tuple[int, int]]:
    """Return for each rank how many signals came to it and to its child."""
    ranks.note_signals()
    own = count_signals(), child.ask(count_signals)
    theirs = [
        (helper.ask(count_signals), ranks.children[rank].ask(count_signals))
        for rank, helper in ranks.helpers.items()
    ]
    return [own, *theirs]


# ---- the loss of a rank -------------------------------------------------------------


def check_loss(ranks: Ranks) -> SelfTestFinding:
    """Kill the last rank with -9; return whether the others go on."""
    *others, victim = ranks.helpers
    ranks.helpers[victim].begin(signal.raise_signal, signal.SIGKILL)
    begun = time.monotonic()
    losses: list[int] = []
    while time.monotonic() - begun < LOSS_SECONDS and not losses:
        try:
            for rank in others:
                ranks.helpers[rank].ask(time.time)
        except HelperError as error:
            follows = "a farm ends with the rank: start it under mpifarm supervise"
            return broken(str(error), follows)
        time.sleep(0.05)
        losses = ranks.comm.take_losses()
    seen = "MPI tells nothing, so that silence has to (--rank-timeout)"
    if losses:
        seen = f"MPI tells of it after {time.monotonic() - begun:.1f} s"
    return holds(f"rank {victim} is gone; {seen}")
