"""The checks between ranks: rank 0 asks, the others do as they are asked.

Rules of this file: messages go through `mpifarm.comm` and are waited for as a farm
waits for them.  Rank 0 compares itself with the first rank of each other host, and with
rank 1 where there is none; every rank tells of its own node.  Children of a rank are
from before `MPI_Init`.
"""

import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from shutil import which
from statistics import median
from typing import Any, cast

from mpifarm.comm import Comm
from mpifarm.selftest import storage
from mpifarm.selftest.findings import Finding, FromRank, Verdict, guard, merge
from mpifarm.selftest.node import SIGNAL_WHY, check_signal_wakes, note_usr1, seconds_of
from mpifarm.selftest.parties import (
    PATIENCE_SECONDS,
    Answer,
    ChildParty,
    Party,
    PartyError,
    ask,
    attempt,
)
from mpifarm.selftest.storage import Stage
from mpifarm.waiting import Waiter

MOST_HOSTS = 4
"""Other hosts that rank 0 compares itself with: the whole takes half a minute."""

ROUND_TRIPS = 30

SILENT_SECONDS = 120.0
"""A rank that has not been asked for so long leaves."""

SIGNAL_SECONDS = 3.0
LOSS_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Ask:
    """From rank 0: do this.  The number comes back with the reply."""

    number: int
    action: str
    arguments: Sequence[object]


@dataclass(frozen=True, slots=True)
class Reply:
    """To rank 0: what came of it, or the sentence of what went wrong."""

    number: int
    value: Answer
    error: str | None


@dataclass(frozen=True, slots=True)
class Leave:
    """From rank 0: it is over.  Not all can `finalize` where a rank is lost."""

    finalize: bool


def _send(comm: Comm, rank: int, message: Ask | Reply | Leave) -> None:
    comm.send(rank, cast(Any, message))  # these never meet those of a farm


# ---- the other ranks ----------------------------------------------------------------


class Peer:
    """A rank that does what rank 0 asks, until it says leave."""

    def __init__(
        self,
        comm: Comm,
        party: Party,
        child: ChildParty,
        findings: Sequence[Finding],
    ) -> None:
        self._comm = comm
        self._party = party
        self._child = child
        self._inbox = note_usr1()
        self._signals: list[int] = []
        self._told = FromRank(socket.gethostname(), tuple(findings))
        party.actions |= {
            "echo": lambda: None,
            "end child": child.kill,
            "signals": self._count_signals,
            "take in child": self._take_in_child,
            "tell": self._tell,
            "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
        }

    def serve(self) -> bool:
        """Do as asked, until `Leave`, or until nothing was asked for long.

        Returns whether `MPI_Finalize` would return.
        """
        waiter = Waiter(self._inbox.fd, self._comm.has_message)
        heard = time.monotonic()
        while time.monotonic() - heard < SILENT_SECONDS:
            for _, message in cast(Any, self._comm.receive()):
                if isinstance(message, Leave):
                    return message.finalize
                reply = attempt(self._party, message.action, message.arguments)
                _send(self._comm, 0, Reply(message.number, *reply))
                heard = time.monotonic()
                waiter.restart()
            self._signals += self._inbox.take()
            waiter.wait([], 1.0)
        return False

    def _tell(self) -> FromRank:
        woken = check_signal_wakes(self._child, self._inbox, self._comm.has_message)
        return FromRank(self._told.host, (*self._told.findings, woken))

    def _count_signals(self) -> list[int]:
        return [len(self._signals), ask(self._child, "signals")]

    def _take_in_child(self, path: str) -> bool:
        return bool(ask(self._child, "take", path, PATIENCE_SECONDS))


# ---- rank 0's side ------------------------------------------------------------------


class Ranks:
    """All other ranks, as rank 0 reaches them."""

    def __init__(self, comm: Comm) -> None:
        self.comm = comm
        self.signals: list[int] = []
        self._replies: dict[int, Reply] = {}
        self._numbers: dict[int, int] = {}
        self.inbox = note_usr1()
        self._waiter = Waiter(self.inbox.fd, comm.has_message)

    def begin(self, rank: int, action: str, *arguments: object) -> None:
        """Send a question."""
        self._numbers[rank] = self._numbers.get(rank, 0) + 1
        self._replies.pop(rank, None)
        _send(self.comm, rank, Ask(self._numbers[rank], action, arguments))
        self._waiter.restart()

    def end(self, rank: int, seconds: float) -> Answer:
        """The answer of the rank; raises `PartyError`."""
        deadline = time.monotonic() + PATIENCE_SECONDS + seconds
        while rank not in self._replies:
            if time.monotonic() > deadline:
                raise PartyError(f"rank {rank} did not answer")
            self._receive()
            if rank not in self._replies:
                self._waiter.wait([], 0.1)
        reply = self._replies.pop(rank)
        if reply.error is not None:
            raise PartyError(f"rank {rank}: {reply.error}")
        return reply.value

    def _receive(self) -> None:
        self.signals += self.inbox.take()
        for source, message in cast(Any, self.comm.receive()):
            if message.number == self._numbers[source]:  # else: of one given up
                self._replies[source] = message

    def leave(self) -> None:
        """Let all ranks go."""
        for rank in range(1, self.comm.size):
            _send(self.comm, rank, Leave(finalize=True))
        self.comm.flush(PATIENCE_SECONDS)

    def leave_without(self, lost: int) -> bool:
        """Let all ranks but that one go; returns whether they and we can finalize."""
        for rank in range(1, self.comm.size):
            if rank != lost:
                _send(self.comm, rank, Leave(finalize=self.comm.heals))
        self.comm.flush(PATIENCE_SECONDS)
        return self.comm.heals


class RankParty:
    """One of them, for a check between two."""

    def __init__(self, ranks: Ranks, rank: int, host: str) -> None:
        self._ranks = ranks
        self.rank = rank
        self.host = host
        self.name = f"rank {rank} on {host}"

    def begin(self, action: str, *arguments: object) -> None:
        """Ask, and don't wait for the answer."""
        self._ranks.begin(self.rank, action, *arguments)

    def end(self, seconds: float = 0.0) -> Answer:
        """The answer; raises `PartyError`."""
        return self._ranks.end(self.rank, seconds)


class _ChildOf:
    """The child of another rank, who takes the lock there."""

    def __init__(self, rank: RankParty) -> None:
        self._rank = rank
        self.name = f"a process of {rank.name}"

    def begin(self, action: str, *arguments: object) -> None:
        self._rank.begin(f"{action} in child", arguments[0])

    def end(self, seconds: float = 0.0) -> Answer:
        return self._rank.end(seconds)


def collect(ranks: Ranks, own: FromRank) -> dict[int, FromRank]:
    """What every rank tells of its node; one that doesn't answer has no findings."""
    others = range(1, ranks.comm.size)
    for rank in others:
        ranks.begin(rank, "tell")
    told = {0: own}
    for rank in others:
        try:
            told[rank] = ranks.end(rank, 5.0)
        except PartyError as error:
            silent = Finding("a rank answers", Verdict.BROKEN, str(error))
            told[rank] = FromRank("?", (silent,))
    return told


def check_ranks(
    stage: Stage, ranks: Ranks, told: dict[int, FromRank]
) -> Iterator[Finding]:
    """All checks between ranks, the ranks' own findings merged."""
    yield check_hosts(told)
    yield from merge(told)
    yield from check_messages(ranks)
    for rank in choose_partners(told):
        other = RankParty(ranks, rank, told[rank].host)
        yield from check_pair(stage, other)


def check_hosts(told: dict[int, FromRank]) -> Finding:
    """Which hosts the ranks are on."""
    hosts = [each.host for each in told.values()]
    counts = ", ".join(f"{host} ({hosts.count(host)})" for host in sorted(set(hosts)))
    several = "host" if len(set(hosts)) == 1 else "hosts"
    seen = f"{len(told)} on {len(set(hosts))} {several}: {counts}"
    if len(set(hosts)) > 1:
        return Finding("ranks", Verdict.MEASURED, seen)
    follows = "nothing was tried between two nodes: run it on two (srun -N 2)"
    return Finding("ranks on several hosts", Verdict.UNTESTED, seen, follows)


def choose_partners(told: dict[int, FromRank]) -> list[int]:
    """The first rank of each other host, or rank 1 where there is one host only."""
    first: dict[str, int] = {}
    for rank in sorted(told, reverse=True):
        first[told[rank].host] = rank
    partners = sorted(
        rank for host, rank in first.items() if host not in (told[0].host, "?")
    )
    return partners[:MOST_HOSTS] or [rank for rank in (1,) if rank in told]


def check_messages(ranks: Ranks) -> Iterator[Finding]:
    """Round trips and clocks of all ranks."""
    trips: dict[int, float] = {}
    skews: dict[int, float] = {}
    for rank in range(1, ranks.comm.size):
        other = RankParty(ranks, rank, "")
        trips[rank] = median(_round_trip(other) for _ in range(_trips(ranks)))
        skews[rank] = _skew(other)
    if not trips:
        return
    slow, far = (
        max(trips, key=trips.__getitem__),
        max(skews, key=lambda r: abs(skews[r])),
    )
    middle = median(trips.values())
    yield Finding(
        "messages",
        Verdict.MEASURED,
        f"round trip of rank 0 and another: median {middle * 1e3:.2g} ms, longest"
        f" {trips[slow] * 1e3:.2g} ms (rank {slow})",
    )
    follows = ""
    if abs(skews[far]) > 1.0:
        follows = "the times in attempts.tsv and timeline.json differ by that"
    seen = f"at most {skews[far]:+.3f} s (rank {far})"
    yield Finding("clocks of the nodes differ", Verdict.MEASURED, seen, follows)


def _trips(ranks: Ranks) -> int:
    return max(3, ROUND_TRIPS // max(1, ranks.comm.size // 16))


def _round_trip(other: RankParty) -> float:
    begun = time.monotonic()
    ask(other, "echo")
    return time.monotonic() - begun


def _skew(other: RankParty) -> float:
    """Its clock less ours, from the quickest of a few answers."""
    tries: list[tuple[float, float]] = []
    for _ in range(3):
        begun = time.time()
        theirs: float = ask(other, "wall clock")
        ended = time.time()
        tries.append((ended - begun, theirs - (begun + ended) / 2))
    return min(tries)[1]


def check_pair(stage: Stage, other: RankParty) -> Iterator[Finding]:
    """What two ranks rely on together."""
    yield from storage.check_shared(stage, other)
    yield guard(
        lambda: storage.check_release_at_kill(
            stage, _ChildOf(other), lambda: ask(other, "end child")
        ),
        f"lock free after kill -9 on {other.host}",
    )


# ---- a signal to all ----------------------------------------------------------------


def check_step_signal(
    ranks: Ranks, child: ChildParty, environ: Mapping[str, str]
) -> Finding:
    """What a USR1 to the whole step reaches, where the step can be told of within."""
    name = "USR1 to the launcher or the step reaches all ranks"
    step = [environ.get(f"SLURM_{part}_ID", "") for part in ("JOB", "STEP")]
    scancel = which("scancel")
    if not all(step) or scancel is None:
        seen = "not to be sent from within; each rank had a USR1 of its own"
        return Finding(name, Verdict.UNTESTED, seen)
    before = _signals_of_all(ranks, child)
    begun = time.monotonic()
    # Where the signal reaches all that descends from the step, scancel gets it too.
    seconds_of([scancel, "--signal=USR1", ".".join(step)], -signal.SIGUSR1)
    reached = [False]
    after = before
    while not all(reached) and time.monotonic() - begun < SIGNAL_SECONDS:
        time.sleep(0.05)
        after = _signals_of_all(ranks, child)
        reached = [now[0] > was[0] for was, now in zip(before, after, strict=True)]
    if not all(reached):
        missed = ", ".join(str(rank) for rank, it in enumerate(reached) if not it)
        seen = f"by scancel; rank {missed} did not get it"
        return Finding(name, Verdict.BROKEN, seen, SIGNAL_WHY)
    commands = sum(now[1] > was[1] for was, now in zip(before, after, strict=True))
    seen = f"by scancel, after {time.monotonic() - begun:.1f} s; it also came to what"
    seen += f" {commands} of {len(after)} ranks run in sessions of their own"
    return Finding(name, Verdict.HOLDS, seen)


def _signals_of_all(ranks: Ranks, child: ChildParty) -> list[list[int]]:
    """Of each rank, how many signals came to it and to its child."""
    others = range(1, ranks.comm.size)
    theirs = [ask(RankParty(ranks, rank, ""), "signals") for rank in others]
    return [[len(ranks.signals), ask(child, "signals")], *theirs]


# ---- the loss of a rank -------------------------------------------------------------


def check_loss(ranks: Ranks) -> Finding:
    """Whether the others go on when the last rank is killed with -9."""
    name = "the other ranks go on when one is killed"
    victim = ranks.comm.size - 1
    ranks.begin(victim, "die")
    begun = time.monotonic()
    losses: list[int] = []
    while time.monotonic() - begun < LOSS_SECONDS and not losses:
        try:
            for rank in range(1, victim):
                ask(RankParty(ranks, rank, ""), "echo")
        except PartyError as error:
            return Finding(name, Verdict.BROKEN, str(error), _LOSS_WHY)
        time.sleep(0.05)
        losses = ranks.comm.take_losses()
    seen = "MPI tells nothing, so that silence has to (--rank-timeout)"
    if losses:
        seen = f"MPI tells of it after {time.monotonic() - begun:.1f} s"
    return Finding(name, Verdict.HOLDS, f"rank {victim} is gone; {seen}")


_LOSS_WHY = "a farm ends with the rank: start it under mpifarm supervise"
