"""One farm, put together: the pool's parent, MPI, then rank 0's part or the others'.

Rules of this file: the order of things stands here.  The pool's parent is forked
before MPI is initialized; what only rank 0 needs is imported only there; rank 0 alone
returns a status other than 0, as its last act after `MPI_Finalize`.
"""

import os
import platform
import secrets
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpifarm.comm import Comm, connect
from mpifarm.config import FarmDefinition, Settings
from mpifarm.errors import ExitStatus, FarmError
from mpifarm.launcher import command_environment
from mpifarm.messages import Leave, ToCoordinator
from mpifarm.pool import Pool
from mpifarm.rank import RankLoop, RankPhase
from mpifarm.signals import SignalInbox
from mpifarm.waiting import Clock, Waiter

if TYPE_CHECKING:
    from mpifarm.conductor import Conductor

FLUSH_SECONDS = 2.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Voice:
    """Where rank 0's words go; the command line provides it."""

    say: Say
    """A line that stays."""
    show: Say
    """The state of things, which the next one replaces."""
    complain: Say
    """A line about a mistake or a defect."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a farm gets from the process that it runs in."""

    environ: Mapping[str, str]
    environb: Mapping[bytes, bytes]
    signals: SignalInbox
    voice: Voice


def run_farm(settings: Settings, around: Surroundings) -> int:
    """Run one rank of a farm to its end; returns the exit status of the process.

    Raises nothing: the user's mistakes are told and are status 2, our defects are
    told with their traceback and are status 70.
    """
    environment = command_environment(around.environb)
    pool = Pool.launch()
    comm: Comm | None = None
    try:
        notice = ""
        if settings.mpi == "auto":
            comm, notice = connect(around.environ)
        if notice:
            around.voice.complain(notice)
        if comm is not None and comm.rank > 0:
            return _run_other_rank(settings, around, pool, comm, environment)
        return _run_rank_0(settings, around, pool, comm, environment)
    except Exception:
        around.voice.complain(f"a defect of mpifarm:\n{traceback.format_exc()}")
        pool.kill()
        if comm is not None:
            comm.abort(ExitStatus.DEFECT)
        return ExitStatus.DEFECT
    finally:
        pool.close()


# ---- the other ranks ----------------------------------------------------------------


def _run_other_rank(
    settings: Settings,
    around: Surroundings,
    pool: Pool,
    comm: Comm,
    environment: dict[bytes, bytes],
) -> int:
    clock = Clock()

    def send(message: ToCoordinator) -> None:
        comm.send(0, message)

    loop = _create_loop(comm.rank, settings, pool, environment, send, clock)
    if not _follow(loop, comm, around.signals, clock):
        around.voice.complain(
            f"rank {comm.rank} on {loop.host} has not heard of rank 0 for a long "
            "time and ends; its commands are dead"
        )
        pool.close()
        os._exit(0)
    comm.flush(FLUSH_SECONDS)
    comm.finalize(0)
    return 0


def _create_loop(
    rank: int,
    settings: Settings,
    pool: Pool,
    environment: dict[bytes, bytes],
    send: Callable[[ToCoordinator], None],
    clock: Clock,
) -> RankLoop:
    return RankLoop(
        rank, platform.node(), settings.workers, pool, environment, send, clock.now
    )


def _follow(
    loop: RankLoop, comm: Comm, signals: SignalInbox, clock: Clock
) -> bool:
    """Do what rank 0 says until it says leave; False if it is not heard any more."""
    waiter = Waiter(signals.fd, looks_for_messages=True)
    parent = os.getppid()
    while loop.phase is not RankPhase.LEFT:
        paused = clock.step()
        if paused:
            loop.forgive_pause(paused)
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
        elif loop.coalesces():
            waiter.coalesce()
        else:
            pool = loop.pool
            seconds = loop.wake_at() - clock.now
            waiter.wait(pool.read_fds(), pool.write_fds(), seconds)
    return True


# ---- rank 0 -------------------------------------------------------------------------


def _run_rank_0(
    settings: Settings,
    around: Surroundings,
    pool: Pool,
    comm: Comm | None,
    environment: dict[bytes, bytes],
) -> int:
    try:
        status, lost = _farm(settings, around, pool, comm, environment)
    except FarmError as error:
        around.voice.complain(str(error))
        status, lost = error.exit_status, False
        _dismiss(comm)
    pool.close()
    if comm is not None:
        comm.flush(FLUSH_SECONDS)
        if lost:
            # Ranks that don't answer would let MPI_Finalize hang; all is on disk.
            os._exit(status)
        comm.finalize(status)
    return status


def _dismiss(comm: Comm | None) -> None:
    """Tell the other ranks, which wait for the first message, to leave."""
    if comm is not None:
        for rank in range(1, comm.size):
            comm.send(rank, Leave())


def _farm(
    settings: Settings,
    around: Surroundings,
    pool: Pool,
    comm: Comm | None,
    environment: dict[bytes, bytes],
) -> tuple[ExitStatus, bool]:
    """The farm from rank 0; returns the exit status and whether ranks were lost."""
    from mpifarm.conductor import Conductor
    from mpifarm.coordinator import Coordinator
    from mpifarm.lock import WorkdirLock, lock_paths
    from mpifarm.report import Tally
    from mpifarm.runners import find_runner
    from mpifarm.tasklists import open_tasklist
    from mpifarm.workdir import Workdir

    say = around.voice.say
    begun = time.monotonic()
    runner = find_runner(settings.runner)
    tasks = open_tasklist(settings.handler, settings.tasklist, settings.workdir)
    if len(tasks) == 0:
        say(f"{settings.tasklist} has no tasks")
        _dismiss(comm)
        return ExitStatus.ALL_FINISHED, False
    path = os.path.abspath(settings.workdir)
    lock = WorkdirLock(
        lock_paths(settings.workdir, around.environ, settings.lock_area)
    )
    farm = secrets.token_hex(4)
    workdir = Workdir.open(path, tasks, lock, farm)
    definition = FarmDefinition(farm, path, runner, settings.grace)
    size = comm.size if comm else 1
    tally = Tally(begun, worker_count=size * settings.workers)
    coordinator = Coordinator(
        tasks, definition, size, settings.workers, begun, settings.timeout
    )
    say(
        f"farm {farm}: {len(tasks)} tasks of {settings.tasklist}, workdir {path}, "
        f"{size} {'rank' if size == 1 else 'ranks'} of {settings.workers} workers"
    )
    say(f"locks: {', '.join(lock.paths)}")
    conductor = Conductor(
        coordinator,
        workdir,
        lock,
        comm,
        around.signals,
        tally,
        say,
        around.voice.show,
        settings.verbose,
    )
    clock = Clock()
    loop = _create_loop(0, settings, pool, environment, conductor.hear, clock)
    conductor.run(loop)
    status = _conclude(settings, around.voice, conductor, size, begun)
    return status, bool(conductor.lost_ranks())


def _conclude(
    settings: Settings, voice: Voice, conductor: "Conductor", ranks: int, begun: float
) -> ExitStatus:
    """Count what is on disk, give the claim up, say how it went."""
    from mpifarm.report import Summary

    coordinator, workdir = conductor.coordinator, conductor.workdir
    notes = _notes_of(conductor)
    status = ExitStatus.RUN_AGAIN
    try:
        with conductor.lock.hold(timeout=10):
            workdir.counts()
            notes += workdir.close()
        standing = conductor.standing()
        if not coordinator.storage_failed:
            status = standing.exit_status
    except FarmError as error:
        notes.append(str(error))
        standing = conductor.standing()
    now = time.monotonic()
    summary = Summary(
        farm=coordinator.definition.farm,
        tasklist=settings.tasklist,
        workdir=settings.workdir,
        ranks=ranks,
        seconds=now - begun,
        standing=standing,
        tally=conductor.tally,
        busy_share=conductor.tally.busy_share(now),
        status=status,
        reason=coordinator.reason,
        notes=notes,
    )
    for line in summary.lines():
        voice.say(line)
    try:
        workdir.write_result(summary.payload())
    except FarmError as error:
        voice.complain(str(error))
    return status


def _notes_of(conductor: "Conductor") -> list[str]:
    notes = []
    lost = conductor.lost_ranks()
    if lost:
        ranks = ", ".join(map(str, lost))
        notes.append(f"ranks that did not answer and were given up: {ranks}")
    unrecorded = conductor.coordinator.unrecorded
    if unrecorded:
        first = ", ".join(map(str, unrecorded[:10]))
        more = f" and {len(unrecorded) - 10} more" if len(unrecorded) > 10 else ""
        notes.append(
            f"could not be recorded, will run again: tasks {first}{more}"
        )
    return notes
