"""What a rank is given at its start: by its process, by the launch, by the user.

Rules of this file: what is put together here stays the same for the whole farm.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING

from mpifarm.batch.launcher import command_environment, is_in_job
from mpifarm.errors import FarmError
from mpifarm.farm.agent import Agent
from mpifarm.farm.shared_directories import SharedDirectories, find_missing
from mpifarm.farm.sureness import Sureness, find_wait
from mpifarm.immutable import immutable
from mpifarm.model.messages import Shutdown, ToCoordinator
from mpifarm.model.settings import Default, FarmDefinition, Settings
from mpifarm.pool import Allotment, Pool
from mpifarm.system.cpus import (
    count_on_node,
    cpus_of_rank,
    find_sharers,
    place_on_node,
    read_cores,
    share_out,
    threads_of_worker,
)
from mpifarm.system.signals import SignalInbox
from mpifarm.transport.mpi import Comm

if TYPE_CHECKING:
    from mpifarm.farm.trace import Trace
    from mpifarm.hooks.definitions import HookDefinition

TRACE_VARIABLE = "MPIFARM_TRACE"
"""Names the file to which each rank writes its trace, with a suffix (docs/trace.md)."""

DISMISS_SECONDS = 2.0
"""Seconds for which rank 0 receives messages where no farm comes about."""


@immutable
class UserOutput:
    """The outlets of a farm's messages to the user."""

    say: Callable[[str], None]
    """Print a line that stays; only the first rank is heard."""
    mention: Callable[[str], None]
    """Print a line that ``--quiet`` leaves out."""
    show: Callable[[str], None]
    """Show the state of the farm, which the next call replaces."""
    complain: Callable[[str], None]
    """Print a line about a mistake or a defect, from any rank."""
    refuse: Callable[[str], None]
    """Print a line about an input, because of which no farm begins."""
    speak_up: Callable[[], None] = lambda: None
    """Have this rank heard from now on."""
    obey: Callable[[Settings], None] = lambda _: None
    """Print as the settings say: ``--progress``, ``--quiet``."""


@immutable
class Defaults:
    """The options that nobody has typed: what rank 0 found, for all ranks.

    A rank that farms alone, apart from rank 0, looks for itself.
    """

    found: Sequence[Default] = ()
    """On rank 0 alone."""
    fault: FarmError | None = None
    """Why they can't be used; on rank 0 alone."""
    find: Callable[[], Sequence[Default]] = tuple
    """Find them on this rank; raises `FarmError`."""
    settle: Callable[[Sequence[Default]], Settings] | None = None
    """Return the settings of this rank's command line with those of all."""


@immutable
class ProcessContext:
    """The environment, signals and output of the process, for its farm."""

    environ: Mapping[str, str]
    environb: Mapping[bytes, bytes]
    signals: SignalInbox
    output: UserOutput
    defaults: Defaults = Defaults()
    started_in: str = ""
    """Where mpifarm was started, if that is not the current directory (``--chdir``)."""


@immutable
class RankContext:
    """The parts that each rank has from the start."""

    settings: Settings
    process: ProcessContext
    pool: Pool
    comm: Comm | None
    """None on a rank that farms alone."""
    environment: dict[bytes, bytes]
    """The environment of the commands."""
    fault: str = ""
    """Why no command can run on this rank; "" if nothing is wrong."""
    trace: "Trace | None" = None
    """The trace of all that happens on this rank; None without one."""
    waits_for_others: bool = False
    """Whether the farm waits while other farms hold tasks: those of the same launch, in
    which no rank sees another."""
    hooks: "Sequence[HookDefinition]" = ()
    """What watches the farm; on rank 0 alone."""
    begun: float = field(default_factory=time.monotonic)
    """When this process began (monotonic)."""

    def create_agent(self, send: Callable[[ToCoordinator], None], now: float) -> Agent:
        """Create the agent of this rank, which sends through `send`.

        Where there is a trace, it watches the agent.
        """
        agent = Agent(
            rank=self.comm.rank if self.comm else 0,
            host=os.uname().nodename,
            workers=self.settings.workers,
            pool=self.pool,
            environment=self.environment,
            send=send,
            now=now,
            allotment=find_allotment(self.settings, self.process.environ),
            first_worker=self._count_neighbours(),
        )
        commands = self.settings.workers * count_on_node(self.process.environ)
        in_job = is_in_job(self.process.environ)
        agent.reporter.sureness = Sureness(find_wait(commands, in_job=in_job))
        agent.shared_directories = SharedDirectories(self._find_missing)
        survives = self.comm is not None and self.comm.survives_rank_loss
        agent.reporter.keeps_results = survives
        if self.trace is not None:
            self.trace.watch_agent(agent, send)
        return agent

    @property
    def size(self) -> int:
        """How many ranks the farm was started with."""
        return self.comm.size if self.comm else 1

    def _find_missing(self, definition: FarmDefinition, host: str) -> str:
        return self.fault or find_missing(definition, host)

    def _count_neighbours(self) -> int:
        """Return how many workers lower ranks of the launch have on this node.

        They are counted, as ranks without MPI can't ask each other.  0 with MPI: there
        rank 0 numbers the workers (`Welcome`).
        """
        if self.comm is not None:
            return 0
        return place_on_node(self.process.environ) * self.settings.workers

    def dismiss(self) -> None:
        """Send `Shutdown` to the other ranks, on rank 0, when no farm comes about.

        Then wait up to `DISMISS_SECONDS` for a message of each, and drop it: some MPIs
        complain of messages left over.
        """
        if self.comm is None:
            return
        others = set(range(1, self.comm.size))
        for rank in others:
            self.comm.send(rank, Shutdown())
        until = time.monotonic() + DISMISS_SECONDS
        while others and time.monotonic() < until:
            others -= {rank for rank, _ in self.comm.receive()}
            time.sleep(0.001)


def environment_of_commands(
    settings: Settings, environ: Mapping[bytes, bytes]
) -> dict[bytes, bytes]:
    """Return the environment that the commands of this rank get, of its own."""
    environment = command_environment(environ, span_nodes=settings.span_nodes)
    # A farm that a task starts must not write to the trace of this one.
    environment.pop(TRACE_VARIABLE.encode(), None)
    return environment


def find_allotment(settings: Settings, environ: Mapping[str, str]) -> Allotment:
    """Return the threads, CPUs and GPUs of this rank's workers.

    To be called when all ranks have started: only then can they be counted.
    """
    sharers = find_sharers(environ)
    cpus = cpus_of_rank()
    shares: tuple[tuple[int, ...], ...] = ()
    gpus: dict[str, tuple[str, ...]] = {}
    if settings.bind:
        shares = share_out(read_cores(cpus), settings.workers, sharers)
    if settings.gpus != "none":
        from mpifarm.system.gpus import find_gpus  # for those who ask for it

        gpus = find_gpus(settings.gpus, environ).lists
    threads = threads_of_worker(len(cpus), settings.workers, sharers)
    return Allotment(threads, shares, gpus)
