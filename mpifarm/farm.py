"""One rank of a farm, put together: the pool's parent, MPI, then this rank's part.

Rules of this file: the order of things stands here.  The pool's parent is forked
before MPI is initialized; what only rank 0 needs is imported only there; rank 0 alone
returns a status other than 0, as its last act after `MPI_Finalize`.
"""

import gc
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from mpifarm.comm import BrokenLaunchError, Comm, Message, connect
from mpifarm.config import Settings
from mpifarm.errors import ExitStatus, FarmError
from mpifarm.launcher import (
    command_environment,
    find_step,
    launched_rank,
    was_launched,
)
from mpifarm.messages import (
    Alive,
    Leave,
    PoolLost,
    Stop,
    Stopped,
    ToCoordinator,
    ToRank,
)
from mpifarm.pool import Pool
from mpifarm.processes import start_unattended
from mpifarm.rank import SILENCE_SECONDS, RankLoop, RankParts, RankPhase
from mpifarm.surroundings import Surroundings
from mpifarm.waiting import Clock, Waiter

FLUSH_SECONDS = 2.0
ABORT_SECONDS = 10.0
"""How long a rank waits to be ended by the coordinator's."""

WITHDRAWN_SECONDS = 0.01
"""Between two looks of a rank that only waits for the end."""


def run_farm(settings: Settings, around: Surroundings) -> int:
    """Run one rank of a farm to its end; returns the exit status of the process.

    Raises nothing: the user's mistakes are told and are status 2, our defects are
    told with their traceback and are status 70.
    """
    environment = command_environment(around.environb)
    _keep_for_good()  # in the pool's parent and in workers a look would copy the pages
    try:
        pool = Pool.launch()
    except OSError as error:
        around.voice.complain(
            f"can't start a process ({error.strerror}): is a limit reached (ulimit -u)?"
        )
        return ExitStatus.RUN_AGAIN
    comm: Comm | None = None
    try:
        notice = ""
        if settings.mpi == "auto":
            comm, notice = connect(around.environ)
            _keep_for_good()
        parts = RankParts(settings, around, pool, comm, environment)
        if comm is not None and comm.rank > 0:
            return _run_other_rank(parts, comm)
        if comm is None and was_launched(around.environ):
            return _run_alone(parts, notice)
        return _run_rank_0(parts)
    except BrokenLaunchError as error:
        if launched_rank(around.environ) < 2:  # one or two of all say it
            around.voice.complain(str(error))
        pool.kill()
        os._exit(error.exit_status)
    except (Exception, SystemExit):  # noqa: BLE001 - a defect becomes 70 here alone
        around.voice.complain(f"a defect of mpifarm:\n{_traceback()}")
        pool.kill()
        if comm is not None:
            _end_all(comm)
        return ExitStatus.DEFECT
    finally:
        pool.close()


def _keep_for_good() -> None:
    """What is there by now stays: no collection of garbage looks at it any more.

    The last look, at the interpreter's end, took longer than all else there.  Modules
    of the user's own come later: at the end they are freed, and their files flushed.
    """
    gc.freeze()


def _traceback() -> str:
    """That of the exception that is being handled."""
    import traceback  # for those who need it

    return traceback.format_exc()


def _end_all(comm: Comm) -> None:
    """After a defect on the rank that leads: nobody is to wait for it."""
    if not comm.heals:
        comm.abort(ExitStatus.DEFECT)
    # Here, MPI_Abort would end this process alone.
    for rank in comm.members:
        if rank != comm.rank:
            comm.send(rank, Leave(ranks_lost=True))
    comm.flush(FLUSH_SECONDS)
    os._exit(ExitStatus.DEFECT)


# ---- the other ranks ----------------------------------------------------------------


class _Followed(Enum):
    """How following rank 0 has ended."""

    LEFT = "left"
    """It said leave."""
    FORSAKEN = "forsaken"
    """It, or the launcher, is not heard any more."""
    LEADS = "leads"
    """It is lost, and this is the lowest rank now."""


def _run_other_rank(parts: RankParts, comm: Comm) -> int:
    clock = Clock()
    loop = parts.create_loop(lambda said: comm.send(comm.first, said), clock.now)
    early: list[tuple[int, ToCoordinator]] = []
    try:
        followed = _follow(loop, parts, comm, clock, early)
    except (Exception, SystemExit):  # noqa: BLE001 - a defect costs this rank alone
        _withdraw(parts, comm)
        followed = _Followed.LEFT
    if followed is _Followed.LEADS:
        return _run_rank_0(parts, loop, early)
    if followed is _Followed.FORSAKEN:
        parts.around.voice.complain(
            f"rank {comm.rank} on {loop.host} has lost rank 0 or its launcher and "
            "ends; its commands are dead.  Give the same command again"
        )
        parts.pool.close()
        # Not an orderly end: with 0 from here hydra would return 0 for the whole farm.
        os._exit(ExitStatus.RUN_AGAIN)
    comm.flush(FLUSH_SECONDS)
    if loop.aborts and not comm.heals:
        time.sleep(ABORT_SECONDS)
    if loop.ranks_lost or comm.lost:
        os._exit(0)
    comm.finalize()
    return 0


def _follow(
    loop: RankLoop,
    parts: RankParts,
    comm: Comm,
    clock: Clock,
    early: list[tuple[int, ToCoordinator]],
) -> _Followed:
    """Do what the lowest rank says until it says leave.

    `early` takes what other ranks say to this one before it knows that it leads.
    """
    signals = parts.around.signals
    waiter = Waiter(signals.fd, comm.has_message)
    parent = os.getppid()
    followed = 0
    kept: list[tuple[int, Message]] = []
    loop.join()
    while loop.phase is not RankPhase.LEFT:
        loop.forgive_pause(clock.step())
        received = signals.take()
        for signum in received:
            loop.on_signal(signum, clock.now)
        messages = comm.receive()
        if comm.first != followed:
            followed = comm.first
            if comm.first == comm.rank:
                early += _to_coordinator(messages)
                return _Followed.LEADS
            loop.rejoin(clock.now)
        early += _to_coordinator(messages)
        kept = _obey(loop, comm.first, [*kept, *messages], clock.now)
        loop.step(clock.now)
        if loop.is_forsaken(clock.now) or os.getppid() != parent:
            loop.pool.kill()
            return _Followed.FORSAKEN
        if received or messages:
            waiter.restart()
        else:
            loop.wait(waiter, clock.now, loop.wake_at())
    return _Followed.LEFT


def _obey(
    loop: RankLoop, leader: int, messages: list[tuple[int, Message]], now: float
) -> list[tuple[int, Message]]:
    """Do what the leader says; returns what its successor has said already.

    What a lost leader has said last, its successor doesn't know: it doesn't count.
    """
    for rank, message in messages:
        if rank == leader and isinstance(message, ToRank):
            loop.on_message(message, now)
    return [
        (rank, message)
        for rank, message in messages
        if rank > leader and isinstance(message, ToRank)
    ]


def _to_coordinator(
    messages: list[tuple[int, Message]],
) -> list[tuple[int, ToCoordinator]]:
    return [
        (rank, message)
        for rank, message in messages
        if isinstance(message, ToCoordinator)
    ]


def _withdraw(parts: RankParts, comm: Comm) -> None:
    """After a defect of ours: run nothing more, and hold nobody up.

    Where a death is told, this process dies; else it stays to leave with the others.
    """
    parts.around.voice.complain(
        f"a defect of mpifarm on rank {comm.rank}, which runs nothing more:\n"
        f"{_traceback()}"
    )
    parts.pool.kill()
    parts.pool.close()
    if comm.heals:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.send(0, PoolLost())
    heard_at = time.monotonic()
    while time.monotonic() < heard_at + SILENCE_SECONDS:
        for _, message in comm.receive():
            heard_at = time.monotonic()
            if isinstance(message, Leave):
                if message.ranks_lost:
                    os._exit(0)
                return
            comm.send(0, Stopped() if isinstance(message, Stop) else Alive())
        time.sleep(WITHDRAWN_SECONDS)
    os._exit(ExitStatus.DEFECT)


# ---- rank 0 -------------------------------------------------------------------------


def _run_alone(parts: RankParts, notice: str) -> int:
    """One of several processes of a launch that see no other rank.

    The launcher may kill all at the first status other than 0, so only the first
    process returns one, and it ends last.
    """
    if launched_rank(parts.around.environ) > 0:
        _run_rank_0(parts)
        return 0
    if notice:
        parts.around.voice.complain(notice)
    return _run_rank_0(replace(parts, waits_for_others=True))


def _run_rank_0(
    parts: RankParts,
    loop: RankLoop | None = None,
    early: Sequence[tuple[int, ToCoordinator]] = (),
) -> int:
    """Lead the farm; from its beginning, or with the `loop` of a rank that takes over.

    `early`: what ranks have said to this one already.
    """
    # The workdir's side of a farm is imported on rank 0 alone.
    from mpifarm.first_rank import Ended, farm_from_rank_0, take_over

    _keep_for_good()
    comm = parts.comm
    try:
        ended = take_over(parts, loop, early) if loop else farm_from_rank_0(parts)
    except FarmError as error:
        parts.around.voice.complain(str(error))
        ended = Ended(error.exit_status)
        parts.dismiss()
    parts.pool.close()
    if comm is None:
        return ended.status
    comm.flush(FLUSH_SECONDS)
    if ended.silent:
        # They may only hang, and keep the launcher waiting.
        _await_departures(comm, ended.silent)
        _cancel_step(parts)
        comm.abort(ended.status)
    if ended.lost or comm.lost:
        # Ranks that don't answer would let MPI_Finalize hang; all is on disk.
        os._exit(ended.status)
    comm.finalize()
    return ended.status


def _await_departures(comm: Comm, silent: Sequence[int]) -> None:
    """Wait until all but the `silent` are gone, where that can be known.

    There, MPI_Abort ends those that hang only when no others are left.
    """
    until = time.monotonic() + FLUSH_SECONDS
    leaving = set(comm.members) - {comm.rank, *silent}
    while comm.heals and leaving - comm.lost and time.monotonic() < until:
        comm.receive()
        time.sleep(WITHDRAWN_SECONDS)


def _cancel_step(parts: RankParts) -> None:
    """End what hangs where MPI_Abort would not: srun waits for all that it started."""
    environ = parts.around.environ
    step = find_step(environ)
    if step and start_unattended(["scancel", "--signal=KILL", step], environ):
        time.sleep(ABORT_SECONDS)  # it ends this process, too
