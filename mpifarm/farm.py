"""One rank of a farm, put together: the pool's parent, MPI, then this rank's part.

Rules of this file: the order of things stands here.  The pool's parent is forked
before MPI is initialized; what only rank 0 needs is imported only there; rank 0 alone
returns a status other than 0, as its last act after `MPI_Finalize`.
"""

import os
import traceback
from dataclasses import replace

from mpifarm.comm import Comm, connect
from mpifarm.config import Settings
from mpifarm.errors import ExitStatus, FarmError
from mpifarm.launcher import command_environment, launched_rank, was_launched
from mpifarm.messages import ToCoordinator
from mpifarm.pool import Pool
from mpifarm.rank import RankLoop, RankParts, RankPhase
from mpifarm.surroundings import Surroundings
from mpifarm.waiting import Clock, Waiter

FLUSH_SECONDS = 2.0


def run_farm(settings: Settings, around: Surroundings) -> int:
    """Run one rank of a farm to its end; returns the exit status of the process.

    Raises nothing: the user's mistakes are told and are status 2, our defects are
    told with their traceback and are status 70.
    """
    environment = command_environment(around.environb)
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
        parts = RankParts(settings, around, pool, comm, environment)
        if comm is not None and comm.rank > 0:
            return _run_other_rank(parts, comm)
        if comm is None and was_launched(around.environ):
            return _run_alone(parts, notice)
        return _run_rank_0(parts)
    except (Exception, SystemExit):  # noqa: BLE001 - a defect becomes 70 here alone
        around.voice.complain(f"a defect of mpifarm:\n{traceback.format_exc()}")
        pool.kill()
        if comm is not None:
            comm.abort(ExitStatus.DEFECT)
        return ExitStatus.DEFECT
    finally:
        pool.close()


# ---- the other ranks ----------------------------------------------------------------


def _run_other_rank(parts: RankParts, comm: Comm) -> int:
    clock = Clock()

    def send(message: ToCoordinator) -> None:
        comm.send(0, message)

    loop = parts.create_loop(send, clock.now)
    if not _follow(loop, parts, comm, clock):
        parts.around.voice.complain(
            f"rank {comm.rank} on {loop.host} has lost rank 0 or its launcher and "
            "ends; its commands are dead"
        )
        parts.pool.close()
        # Not an orderly end: with 0 from here hydra would return 0 for the whole farm.
        os._exit(ExitStatus.RUN_AGAIN)
    comm.flush(FLUSH_SECONDS)
    if loop.ranks_lost:
        os._exit(0)
    comm.finalize()
    return 0


def _follow(loop: RankLoop, parts: RankParts, comm: Comm, clock: Clock) -> bool:
    """Do what rank 0 says until it says leave; False if it is not heard any more."""
    signals = parts.around.signals
    waiter = Waiter(signals.fd, comm.has_message)
    parent = os.getppid()
    loop.join()
    while loop.phase is not RankPhase.LEFT:
        loop.forgive_pause(clock.step())
        received = signals.take()
        for signum in received:
            loop.on_signal(signum, clock.now)
        messages = comm.receive()
        for _, message in messages:
            loop.on_message(message, clock.now)  # type: ignore[arg-type]
        loop.step(clock.now)
        if loop.is_forsaken(clock.now) or os.getppid() != parent:
            loop.pool.kill()
            return False
        if received or messages:
            waiter.restart()
        else:
            loop.wait(waiter, clock.now, loop.wake_at())
    return True


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


def _run_rank_0(parts: RankParts) -> int:
    # The workdir's side of a farm is imported on rank 0 alone.
    from mpifarm.first_rank import farm_from_rank_0

    comm, lost = parts.comm, False
    try:
        status, lost = farm_from_rank_0(parts)
    except FarmError as error:
        parts.around.voice.complain(str(error))
        status = error.exit_status
        parts.dismiss()
    parts.pool.close()
    if comm is None:
        return status
    comm.flush(FLUSH_SECONDS)
    if lost:
        # Ranks that don't answer would let MPI_Finalize hang; all is on disk.
        os._exit(status)
    comm.finalize()
    return status
