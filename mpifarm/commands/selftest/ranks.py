"""The checks between ranks: rank 0 asks, the others answer.

Rules of this file: rank 0 compares its file system with the first rank of each other
host.  Nothing is forked after `MPI_Init`.
"""

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from shutil import which
from socket import gethostname
from statistics import median

from mpifarm.batch.launcher import launched_size, name_launcher
from mpifarm.commands.selftest.calls import (
    CallError,
    Rank,
    Ranks,
    count_signals,
)
from mpifarm.commands.selftest.findings import (
    RankFindings,
    SelfTestFinding,
    broken,
    holds,
    measured,
    merge,
    run_check,
    untested,
)
from mpifarm.commands.selftest.node import SIGNAL_REMEDY, check_wake, run_program
from mpifarm.commands.selftest.sharing import check_shared
from mpifarm.commands.selftest.storage import Stage
from mpifarm.model.wording import counted
from mpifarm.system.signals import SignalInbox
from mpifarm.transport import mpi

MAX_HOSTS = 4
"""Other hosts that rank 0 compares itself with: the whole takes half a minute."""

NO_HOST = "?"
"""In place of the host of a rank that does not answer."""

ROUND_TRIPS = 5

TELLING_SKEW = 1.0
"""Seconds by which clocks may differ before a user notices."""

SIGNAL_SECONDS = 10.0
LOSS_SECONDS = 3.0


# ---- the launch ---------------------------------------------------------------------


def connect(environ: Mapping[str, str]) -> tuple[mpi.Comm | None, SelfTestFinding]:
    """Connect the ranks.  Return how they were started, too."""
    name = "MPI connects the ranks"
    comm, notice = mpi.connect(environ)
    launcher = f"{name_launcher(environ)}, {launched_size(environ)} processes"
    if comm is None:
        seen = f"started by {launcher}, and MPI sees one"
        return None, broken(seen, notice).named(name)
    seen = f"{comm.size} ranks by {launcher}; {mpi.find_loaded_library()}"
    if comm.survives_rank_loss:
        seen += "; it tells of ranks that die"
    return comm, holds(seen).named(name)


def find(
    comm: mpi.Comm, inbox: SignalInbox, findings: Sequence[SelfTestFinding]
) -> RankFindings:
    """Return what a rank finds by itself; `findings` are from before `MPI_Init`."""
    name = "USR1 reaches a rank that waits in its loop with MPI"
    woken = run_check(name, check_wake, inbox, comm)
    return RankFindings(gethostname(), (*findings, woken))


# ---- what rank 0 finds of all -------------------------------------------------------


def check_ranks(
    stage: Stage,
    ranks: Ranks,
    inbox: SignalInbox,
    own: Sequence[SelfTestFinding],
    environ: Mapping[str, str],
) -> Iterator[SelfTestFinding]:
    """Yield the findings of all ranks, merged, and of those between them."""
    found = _collect(ranks, find(ranks.comm, inbox, own))
    name = "USR1 to the launcher or the step reaches all ranks"
    yield run_check(name, check_step_signal, ranks, environ)
    hosts = {rank: each.host for rank, each in found.items() if each.host != NO_HOST}
    yield check_hosts([*hosts.values()])
    yield from merge(found)
    if answering := {rank: ranks.others[rank] for rank in hosts if rank}:
        yield from check_messages(answering)
    for rank in choose_partners(hosts):
        yield from check_shared(stage, ranks.others[rank])


def _collect(ranks: Ranks, own: RankFindings) -> dict[int, RankFindings]:
    """Return what every rank finds; a rank that doesn't answer has no host."""
    found = {0: own}
    for number, rank in ranks.others.items():
        try:
            found[number] = rank.end()
            rank.name += f" on {found[number].host}"
        except CallError as error:
            silent = broken(str(error)).named("a rank answers")
            found[number] = RankFindings(NO_HOST, (silent,))
    return found


def check_hosts(hosts: Sequence[str]) -> SelfTestFinding:
    """Tell on which hosts the ranks are."""
    counts = ", ".join(f"{host} ({hosts.count(host)})" for host in sorted(set(hosts)))
    seen = f"{len(hosts)} on {counted(len(set(hosts)), 'host')}: {counts}"
    if len(set(hosts)) > 1:
        return measured(seen).named("ranks")
    follows = (
        "nothing was tried between two nodes: srun -N 2 python -m mpifarm selftest"
        " --mpi does that"
    )
    return untested(seen, follows).named("ranks on several hosts")


def choose_partners(hosts: Mapping[int, str]) -> list[int]:
    """Return the first rank of each other host; `hosts` are by rank."""
    first: dict[str, int] = {}
    for rank, host in sorted(hosts.items()):
        first.setdefault(host, rank)
    return [rank for rank in first.values() if rank][:MAX_HOSTS]


def check_messages(others: Mapping[int, Rank]) -> Iterator[SelfTestFinding]:
    """Measure round trips and the clocks of all ranks that answer."""
    trips, skews = [], []
    for number, rank in others.items():
        answers = [_ask_time(rank) for _ in range(ROUND_TRIPS)]
        trips.append((median(trip for trip, _ in answers), number))
        # The quickest answer tells most of the clock.
        skews.append((min(answers)[1], number))
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


def _ask_time(rank: Rank) -> tuple[float, float]:
    """Return the seconds of a round trip, and the rank's clock less ours."""
    begun = time.time()
    theirs = rank.ask(time.time)
    ended = time.time()
    return ended - begun, theirs - (begun + ended) / 2


# ---- a signal to all ----------------------------------------------------------------


def check_step_signal(ranks: Ranks, environ: Mapping[str, str]) -> SelfTestFinding:
    """Return what a USR1 to the whole step reaches, if it can be sent from within."""
    step = [environ.get(f"SLURM_{part}_ID", "") for part in ("JOB", "STEP")]
    scancel = which("scancel")
    if not all(step) or scancel is None:
        return untested("not to be sent from within; each rank had a USR1 of its own")
    before = _count_signals(ranks)
    begun = time.monotonic()
    told = run_program([scancel, "--signal=USR1", ".".join(step)]).strip()
    missed = [*before]
    while missed and time.monotonic() - begun < SIGNAL_SECONDS:
        time.sleep(0.05)
        after = _count_signals(ranks)
        missed = [rank for rank in missed if after[rank] <= before[rank]]
    if missed:
        which_ranks = ", ".join(map(str, missed))
        seen = f"by scancel; rank {which_ranks} did not get it"
        return broken(f"{seen} ({told})" if told else seen, SIGNAL_REMEDY)
    return holds(f"by scancel, after {time.monotonic() - begun:.1f} s")


def _count_signals(ranks: Ranks) -> dict[int, int]:
    """Return how many signals came to each rank."""
    ranks.note_signals()
    theirs = {number: rank.ask(count_signals) for number, rank in ranks.others.items()}
    return {0: count_signals(), **theirs}


# ---- the loss of a rank -------------------------------------------------------------


def check_loss(ranks: Ranks) -> SelfTestFinding:
    """Kill the last rank with -9; return whether the others go on."""
    *others, victim = ranks.others
    ranks.others[victim].begin(signal.raise_signal, signal.SIGKILL)
    begun = time.monotonic()
    losses: list[int] = []
    while time.monotonic() - begun < LOSS_SECONDS and not losses:
        try:
            for rank in others:
                ranks.others[rank].ask(time.time)
        except CallError as error:
            follows = "a farm ends with the rank: start it under mpifarm supervise"
            return broken(str(error), follows)
        time.sleep(0.05)
        losses = ranks.comm.take_losses()
    seen = "MPI tells nothing, so that silence has to (--rank-timeout)"
    if losses:
        seen = f"MPI tells of it after {time.monotonic() - begun:.1f} s"
    return holds(f"rank {victim} is gone; {seen}")
