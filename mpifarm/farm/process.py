"""One rank of a farm, put together: the fork server, MPI, then this rank's part.

Rules of this file: the order of things stands here.  The fork server is forked
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
from typing import TYPE_CHECKING, NoReturn

from mpifarm.batch.launcher import (
    find_step,
    launched_rank,
    was_launched,
)
from mpifarm.errors import ExitStatus, FarmError
from mpifarm.farm.agent import SILENCE_SECONDS, Agent, RankPhase
from mpifarm.farm.context import (
    TRACE_VARIABLE,
    ProcessContext,
    RankContext,
    environment_of_commands,
)
from mpifarm.model.messages import (
    Alive,
    PoolLost,
    Shutdown,
    Stop,
    Stopped,
    ToCoordinator,
    ToRank,
)
from mpifarm.model.settings import Settings
from mpifarm.pool import Pool
from mpifarm.system.event_loop import Clock, Waiter
from mpifarm.system.processes import find_directory, start_unattended
from mpifarm.transport.mpi import BrokenLaunchError, Comm, Message, connect

if TYPE_CHECKING:
    from mpifarm.farm.trace import Trace


FLUSH_SECONDS = 2.0
ABORT_SECONDS = 10.0
"""Seconds for which a rank waits for the leading rank to end all ranks."""

WITHDRAWN_SECONDS = 0.01
"""Seconds between two looks of a rank that only waits for the end."""

IDLE_SECONDS = 0.5
"""Seconds between two looks of a rank that the farm has given up."""


def run_farm(settings: Settings, process: ProcessContext) -> int:
    """Run one rank of a farm to its end.  Return the exit status of the process.

    Nothing is raised: the user's mistakes are told and are status 2, our defects are
    told with their traceback and are status 70.  Where MPI can't be left in order, the
    process ends here (`os._exit`).
    """
    trace_path = _find_trace_path(process)
    settings, here, fault = _enter_directory(settings)
    process = replace(process, started_in=here)
    _keep_for_good()  # in the fork server and in workers a look would copy the pages
    try:
        pool = Pool.launch()
    except OSError as error:
        process.output.complain(
            f"can't start a process ({error.strerror}): raise the limit of processes"
            " (ulimit -u) or end some, and give the same command again"
        )
        return ExitStatus.RUN_AGAIN

    def give_up(error: FarmError) -> NoReturn:
        process.output.complain(str(error))
        pool.kill()
        os._exit(error.exit_status)

    comm: Comm | None = None
    try:
        notice = ""
        if settings.mpi == "auto":
            comm, notice = connect(process.environ, give_up, process.defaults.found)
            _keep_for_good()
        settings, process = _take_defaults(settings, process, comm, here)
        environment = environment_of_commands(settings, process.environb)
        rank = comm.rank if comm else launched_rank(process.environ)
        trace, trace_fault = _open_trace(trace_path, rank)
        fault = fault or trace_fault
        context = RankContext(settings, process, pool, comm, environment, fault, trace)
        if comm is not None and comm.rank > 0:
            return _run_other_rank(context, comm)
        if comm is None and was_launched(process.environ):
            return _run_alone(context, notice)
        return _run_rank_0(context)
    except BrokenLaunchError as error:
        if launched_rank(process.environ) < 2:  # one or two of all say it
            process.output.complain(str(error))
        pool.kill()
        os._exit(error.exit_status)
    except (Exception, SystemExit):  # noqa: BLE001 - a defect becomes 70 here alone
        process.output.complain(f"a defect of mpifarm:\n{_traceback()}")
        pool.kill()
        if comm is not None:
            _end_all(comm)
        return ExitStatus.DEFECT
    finally:
        pool.close()


def _take_defaults(
    settings: Settings, process: ProcessContext, comm: Comm | None, here: str
) -> tuple[Settings, ProcessContext]:
    """Return the settings with the defaults that rank 0 has found, and the process.

    Where this process farms alone, and is not the first of a launch, find them.  `here`
    is where mpifarm was started, "" without ``--chdir``.
    """
    defaults = process.defaults
    if comm is not None and comm.rank > 0:
        found = comm.told
    elif comm is None and launched_rank(process.environ) > 0:
        try:
            found = defaults.find()
        except FarmError as error:
            return settings, replace(process, defaults=replace(defaults, fault=error))
    else:
        return settings, process
    if not found or defaults.settle is None:
        return settings, process
    settings = defaults.settle(found)
    process.output.obey(settings)
    if here:
        from mpifarm.farm.directory import count_from

        settings = count_from(settings, here)
    return settings, process


def _enter_directory(settings: Settings) -> tuple[Settings, str, str]:
    """Change the directory to ``--chdir``; return new settings, and the fault or "".

    Between them stands where mpifarm was started, "" without ``--chdir``.
    """
    here = find_directory()
    if here and settings.chdir is None:
        return settings, "", ""
    from mpifarm.farm.directory import enter_directory  # most farms stay where they are

    settings, fault = enter_directory(settings)
    return settings, here if settings.chdir is not None else "", fault


def _find_trace_path(process: ProcessContext) -> str:
    """Return the absolute path that the user gave for the trace; "" for no trace."""
    path = process.environ.get(TRACE_VARIABLE, "")
    # A relative path counts from where mpifarm was started, whatever --chdir says.
    return os.path.join(os.getcwd(), path) if path else ""


def _open_trace(path: str, rank: int) -> "tuple[Trace | None, str]":
    """Return (trace of this rank or None, why it can't be written or "")."""
    if not path:
        return None, ""
    from mpifarm.farm.trace import Trace  # for those who ask for it

    try:
        return Trace(f"{path}.rank{rank}"), ""
    except OSError as error:
        return None, (
            f"can't write the trace {path}.rank{rank} ({error.strerror}): let"
            f" {TRACE_VARIABLE} name a file in a directory that you can write to"
        )


def _keep_for_good() -> None:
    """Exempt all objects that exist by now from the collection of garbage.

    The last collection, at the interpreter's end, took longer than all else there.
    Modules of the user's own come later: at the end they are freed, and their files
    flushed.
    """
    gc.freeze()


def _traceback() -> str:
    """Return the traceback of the exception that is being handled."""
    import traceback  # for those who need it

    return traceback.format_exc()


def _end_all(comm: Comm) -> None:
    """End all ranks, and this process, after a defect on the leading rank."""
    if not comm.survives_rank_loss:
        comm.abort(ExitStatus.DEFECT)
    # Here, MPI_Abort would end this process alone.
    for rank in comm.members:
        if rank != comm.rank:
            comm.send(rank, Shutdown(ranks_lost=True))
    comm.flush(FLUSH_SECONDS)
    os._exit(ExitStatus.DEFECT)


# ---- the other ranks ----------------------------------------------------------------


class _Followed(Enum):
    """How a rank came to the end of following the leading rank."""

    LEFT = "left"
    """The leading rank has said to leave."""
    FORSAKEN = "forsaken"
    """The leading rank, or the launcher, is not heard any more."""
    LEADS = "leads"
    """The leading rank is lost, and this is the lowest rank now."""


def _run_other_rank(context: RankContext, comm: Comm) -> int:
    """Follow the leading rank to the end; lead the farm if this rank takes over.

    Return the exit status, or end the process where MPI can't be left in order.
    """
    clock = Clock()
    agent = context.create_agent(lambda said: comm.send(comm.first, said), clock.now)
    early: list[tuple[int, ToCoordinator]] = []
    try:
        followed = _follow(agent, context, comm, clock, early)
    except (Exception, SystemExit):  # noqa: BLE001 - a defect costs this rank alone
        _withdraw(context, comm)
        followed = _Followed.LEFT
    if followed is _Followed.LEADS:
        return _run_rank_0(context, agent, early)
    if followed is _Followed.FORSAKEN:
        context.process.output.complain(
            f"rank {comm.rank} on {agent.host} has lost rank 0 or its launcher and "
            "ends; its commands were killed.  Give the same command again"
        )
        context.pool.close()
        # Not an orderly end: with 0 from here hydra would return 0 for the whole farm.
        os._exit(ExitStatus.RUN_AGAIN)
    comm.flush(FLUSH_SECONDS)
    if agent.leave.farm_goes_on and not comm.survives_rank_loss:
        _stay_idle(comm, clock)
    if agent.leave.aborts and not comm.survives_rank_loss:
        time.sleep(ABORT_SECONDS)
    if agent.leave.ranks_lost or comm.lost:
        os._exit(0)
    comm.finalize()
    return 0


def _stay_idle(comm: Comm, clock: Clock) -> NoReturn:
    """Run nothing, and exit when rank 0 or the launcher is not heard any more.

    An earlier exit would have a launcher end all ranks.  No signal ends this process
    either: the farm may be stopping in an orderly way.
    """
    parent = os.getppid()
    heard_at = asked_at = clock.now
    while os.getppid() == parent and clock.now - heard_at < SILENCE_SECONDS:
        time.sleep(IDLE_SECONDS)
        heard_at += clock.step()
        if comm.receive():
            heard_at = clock.now
        if clock.now - asked_at > SILENCE_SECONDS / 6:
            asked_at = clock.now
            comm.send(comm.first, Alive())
    os._exit(ExitStatus.RUN_AGAIN)


def _follow(
    agent: Agent,
    context: RankContext,
    comm: Comm,
    clock: Clock,
    early: list[tuple[int, ToCoordinator]],
) -> _Followed:
    """Do what the lowest living rank says; return how following it has ended.

    `early` gets what other ranks say to this one before it knows that it leads.  A rank
    that is forsaken has killed its commands.
    """
    signals = context.process.signals
    waiter = Waiter(signals.fd, comm.has_message)
    parent = os.getppid()
    followed = 0
    kept: list[tuple[int, Message]] = []
    agent.join()
    while agent.phase is not RankPhase.LEFT:
        agent.forgive_pause(clock.step())
        received = signals.take()
        for signum in received:
            agent.on_signal(signum, clock.now)
        messages = comm.receive()
        if comm.first != followed:
            followed = comm.first
            if comm.first == comm.rank:
                early += _to_coordinator(messages)
                return _Followed.LEADS
            agent.rejoin(clock.now)
        early += _to_coordinator(messages)
        kept = _obey(agent, comm.first, [*kept, *messages], clock.now)
        agent.step(clock.now)
        if agent.is_forsaken(clock.now) or os.getppid() != parent:
            agent.pool.kill()
            return _Followed.FORSAKEN
        if received or messages:
            waiter.restart()
        else:
            agent.wait(waiter, clock.now, agent.wake_at())
    return _Followed.LEFT


def _obey(
    agent: Agent, leader: int, messages: list[tuple[int, Message]], now: float
) -> list[tuple[int, Message]]:
    """Let the agent do what the leading rank says.  Return messages of higher ranks.

    A successor may have sent these already.  The last words of a lost rank are dropped:
    its successor doesn't know them.
    """
    for rank, message in messages:
        if rank == leader and isinstance(message, ToRank):
            agent.on_message(message, now)
    return [
        (rank, message)
        for rank, message in messages
        if rank > leader and isinstance(message, ToRank)
    ]


def _to_coordinator(
    messages: list[tuple[int, Message]],
) -> list[tuple[int, ToCoordinator]]:
    """Return the messages that are for a coordinator."""
    return [
        (rank, message)
        for rank, message in messages
        if isinstance(message, ToCoordinator)
    ]


def _withdraw(context: RankContext, comm: Comm) -> None:
    """Tell a defect, kill the commands, and run nothing more on this rank.

    Where MPI tells of a death, this process dies.  Else it answers rank 0 until it is
    told to leave, and returns, or exits if ranks are lost or rank 0 is silent.
    """
    context.process.output.complain(
        f"a defect of mpifarm on rank {comm.rank}, which runs nothing more:\n"
        f"{_traceback()}"
    )
    context.pool.kill()
    context.pool.close()
    if comm.survives_rank_loss:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.send(0, PoolLost())
    heard_at = time.monotonic()
    while time.monotonic() < heard_at + SILENCE_SECONDS:
        for _, message in comm.receive():
            heard_at = time.monotonic()
            if isinstance(message, Shutdown):
                if message.ranks_lost:
                    os._exit(0)
                return
            comm.send(0, Stopped() if isinstance(message, Stop) else Alive())
        time.sleep(WITHDRAWN_SECONDS)
    os._exit(ExitStatus.DEFECT)


# ---- rank 0 -------------------------------------------------------------------------


def _run_alone(context: RankContext, notice: str) -> int:
    """Run a farm in one of several processes of a launch that see no other rank.

    The launcher may kill all at the first status other than 0, so only the first
    process returns one, and it ends last.
    """
    if launched_rank(context.process.environ) > 0:
        if context.process.defaults.fault is None:  # one sentence for the whole launch
            _run_rank_0(context)
        return 0
    if notice:
        context.process.output.complain(notice)
    return _run_rank_0(replace(context, waits_for_others=True))


def _run_rank_0(
    context: RankContext,
    agent: Agent | None = None,
    early: Sequence[tuple[int, ToCoordinator]] = (),
) -> int:
    """Lead the farm from its beginning, or with the `agent` of a rank that takes over.

    `early`: messages that ranks have sent to this one already.  A `FarmError` is told,
    and gives the exit status.  Where ranks were lost, the process ends here.
    """
    # A thousand ranks import from one file system: the workdir's side on rank 0 alone.
    from mpifarm.farm.default_words import name_sources
    from mpifarm.farm.finish import FarmEnd
    from mpifarm.farm.startup import lead_farm, take_over

    _keep_for_good()
    comm = context.comm
    try:
        end = take_over(context, agent, early) if agent else lead_farm(context)
    except FarmError as error:
        told = name_sources(str(error), context.settings.defaults)
        output = context.process.output
        is_refusal = agent is None and error.exit_status is ExitStatus.BAD_INPUT
        (output.refuse if is_refusal else output.complain)(told)
        end = FarmEnd(error.exit_status)
        context.dismiss()
    context.pool.close()
    if comm is None:
        return end.status
    comm.flush(FLUSH_SECONDS)
    if end.silent:
        # They may only hang, and keep the launcher waiting.
        _await_departures(comm, end.silent)
        _cancel_step(context)
        comm.abort(end.status)
    if end.lost or comm.lost:
        # Ranks that don't answer would let MPI_Finalize hang; all is on disk.
        os._exit(end.status)
    comm.finalize()
    return end.status


def _await_departures(comm: Comm, silent: Sequence[int]) -> None:
    """Wait up to `FLUSH_SECONDS` for all ranks but the `silent` to go, if MPI tells.

    There, MPI_Abort ends ranks that hang only when no others are left.
    """
    until = time.monotonic() + FLUSH_SECONDS
    leaving = set(comm.members) - {comm.rank, *silent}
    while comm.survives_rank_loss and leaving - comm.lost and time.monotonic() < until:
        comm.receive()
        time.sleep(WITHDRAWN_SECONDS)


def _cancel_step(context: RankContext) -> None:
    """Have Slurm KILL this job step, and so this process; no effect elsewhere.

    MPI_Abort would not end ranks that hang: srun waits for all that it started.
    """
    environ = context.process.environ
    step = find_step(environ)
    if step and start_unattended(["scancel", "--signal=KILL", step], environ):
        time.sleep(ABORT_SECONDS)  # it ends this process, too
