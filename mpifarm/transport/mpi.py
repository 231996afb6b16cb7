"""Messages between ranks over MPI: the only module that knows MPI.

Rules of this file:

* MPI is initialized by `connect`, never by import, so that the fork server can be
  forked before.
* Nothing here blocks: a send is begun, and completed by later calls; a receive probes
  first.
* All calls come from one thread.
* The death of a rank costs only the messages from and to it.  Where the library reports
  deaths (ULFM, the fault tolerance of Open MPI 5 under ``mpirun --with-ft ulfm``), each
  rank acknowledges them by itself (`MPI_Comm_ack_failed`) and goes on over the same
  communicator.  `MPI_Comm_shrink` would wait for all ranks, suspended ones included.
* The messages that carry tasks (`Assign`, `Report`) are encoded by `marshal`, column by
  column, in about half the time of a pickle; all others are pickled.  The tag tells
  which.  All ranks are the same Python.
"""

import marshal
import os
import pickle
import re
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import starmap
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

from mpifarm.batch.launcher import launched_rank, launched_size, was_launched
from mpifarm.errors import ExitStatus, FarmError
from mpifarm.model.messages import Assign, Report, ToCoordinator, ToRank
from mpifarm.model.task import Lease, Outcome, Result

if TYPE_CHECKING:
    from mpi4py import MPI

Message = ToRank | ToCoordinator

FINALIZE_SECONDS = 10
"""`MPI_Finalize` waits for all ranks; a rank that hangs must not hang the others."""

MAX_AT_ONCE = 1000
"""Messages that one `receive` takes: a flood must not keep a rank from its signals."""

MAX_TESTED = 100
"""Sends that one call tests for completion: thousands may be under way."""

# ---- messages as bytes --------------------------------------------------------------

_PICKLED, _ASSIGN, _REPORT = 0, 1, 2
"""Tags: how the bytes of a message are encoded."""

_FIELDS_OF_REPORT = attrgetter(*Report.__match_args__)
_RESULTS = Report.__match_args__.index("results")
_OUTCOME = Result._fields.index("outcome")
_OUTCOMES = list(Outcome)


class EncodedMessage(NamedTuple):
    """A message as MPI carries it."""

    tag: int
    content: bytes


def encode_message(message: Message) -> EncodedMessage:
    """Encode a message: its bytes, and the tag that tells how to read them."""
    match message:
        case Assign():
            columns: list[Any] = [*zip(*message.leases, strict=True)]
            return EncodedMessage(_ASSIGN, marshal.dumps(columns))
        case Report():
            fields = [*_FIELDS_OF_REPORT(message)]
            columns = fields[_RESULTS] = [*zip(*message.results, strict=True)]
            if columns:
                columns[_OUTCOME] = [*map(_OUTCOMES.index, columns[_OUTCOME])]
            return EncodedMessage(_REPORT, marshal.dumps(fields))
    return EncodedMessage(_PICKLED, pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def parse_message(tag: int, content: bytes | bytearray) -> Message:
    """Parse the bytes of a message that a rank of this farm has encoded under `tag`."""
    if tag == _PICKLED:
        return cast(Message, pickle.loads(content))  # noqa: S301
    fields = marshal.loads(content)  # noqa: S302 - see the head of this file
    if tag == _ASSIGN:
        return Assign(tuple(starmap(Lease, zip(*fields, strict=True))))
    if columns := fields[_RESULTS]:
        columns[_OUTCOME] = map(_OUTCOMES.__getitem__, columns[_OUTCOME])
    fields[_RESULTS] = tuple(starmap(Result, zip(*columns, strict=True)))
    return Report(*fields)


# ---- this rank among the others -----------------------------------------------------


class BrokenLaunchError(FarmError):
    """Raised when a rank died before all ranks were connected."""

    exit_status = ExitStatus.RUN_AGAIN

    def __init__(self) -> None:
        super().__init__(
            "a rank was lost while the ranks were connecting; nothing was started: "
            "give the same command again"
        )


class Comm:
    """This rank's connection to the other ranks.

    `survives_rank_loss`: whether the library reports deaths of ranks, so that the
    others can go on.  `lost`: the ranks whose deaths were reported.  `told`: what rank
    0 told all ranks at the start.
    """

    def __init__(
        self,
        mpi: Any,
        world: "MPI.Intracomm",
        *,
        survives_rank_loss: bool = False,
        told: Any = (),
    ) -> None:
        self._mpi = mpi  # the module
        self._world = world
        self._status = mpi.Status()
        self._probe_once: Callable[[], bool] = partial(
            world.Iprobe, mpi.ANY_SOURCE, mpi.ANY_TAG, self._status
        )
        self._sends: deque[tuple[int, MPI.Request]] = deque()
        self._unreported: list[int] = []
        self.rank: int = world.rank
        self.size: int = world.size
        self.survives_rank_loss = survives_rank_loss
        self.told = told
        self.lost: set[int] = set()
        world.Set_errhandler(mpi.ERRORS_RETURN)

    @property
    def members(self) -> tuple[int, ...]:
        """Return the ranks that are not known to be dead, sorted."""
        return tuple(rank for rank in range(self.size) if rank not in self.lost)

    @property
    def first(self) -> int:
        """Return the lowest rank not known to be dead: the coordinator's."""
        return next(rank for rank in range(self.size) if rank not in self.lost)

    @property
    def vendor(self) -> str:
        """Return the name of the MPI library, as mpi4py spells it."""
        return str(self._mpi.get_vendor()[0])

    def send(self, rank: int, message: Message) -> None:
        """Begin to send `message`; later calls of `receive` and `flush` complete it.

        A message to a dead rank is dropped, and so is one that MPI refuses.
        """
        if rank in self.lost:
            return  # a send to a dead rank never completes
        try:
            tag, content = encode_message(message)
            send = self._world.Isend([content, self._mpi.BYTE], rank, tag)
            self._sends.append((rank, send))
        except self._mpi.Exception:
            self._acknowledge_losses()

    def receive(self) -> list[tuple[int, Message]]:
        """Return up to `MAX_AT_ONCE` messages that have come, each with its sender.

        Test earlier sends for completion, and note ranks whose deaths MPI reports.
        """
        received: list[tuple[int, Message]] = []
        try:
            while self._probe() and len(received) < MAX_AT_ONCE:
                source, tag = self._status.source, self._status.tag
                content = bytearray(self._status.count)
                self._world.Recv([content, self._mpi.BYTE], source, tag)
                received.append((source, parse_message(tag, content)))
        except self._mpi.Exception:
            self._acknowledge_losses()
        # Here as well: MPI frees a send only when it is tested, and a rank that waits
        # for messages calls nothing else.
        if self._sends:
            self._complete_sends()
        return received

    def has_message(self) -> bool:
        """Return whether `receive` has something to do: a message, or a death."""
        try:
            return self._probe()
        except self._mpi.Exception:
            return self.survives_rank_loss  # a loss that `receive` acknowledges

    def _probe(self) -> bool:
        # Twice, since the first probe may only drive the library's progress.
        return self._probe_once() or self._probe_once()

    def _complete_sends(self) -> None:
        """Drop sends that are over, of up to `MAX_TESTED` that are tested."""
        for _ in range(min(len(self._sends), MAX_TESTED)):
            rank, send = self._sends.popleft()
            if rank not in self.lost and not self._is_over(send):
                self._sends.append((rank, send))

    def _is_over(self, send: "MPI.Request") -> bool:
        """Return whether a send is complete, or has failed for good and is noted."""
        try:
            return send.Test()
        except self._mpi.Exception:
            self._acknowledge_losses()
            return True

    def _acknowledge_losses(self) -> None:
        """Note new deaths in `lost`, and acknowledge them, where MPI reports them."""
        if not self.survives_rank_loss:
            return  # here a rank is lost when it is silent for long (`--rank-timeout`)
        failed = self._world.Get_failed()
        ranks = self._mpi.Group.Translate_ranks(failed, None, self._world.group)
        new = sorted(set(ranks) - self.lost) if failed.size else []
        self._unreported += new
        self.lost.update(new)
        # Else each receive from any rank would fail again for this loss.
        self._world.Ack_failed()

    def take_losses(self) -> list[int]:
        """Return the ranks whose deaths were noted since the last call."""
        untold, self._unreported = self._unreported, []
        return untold

    def flush(self, seconds: float) -> bool:
        """Wait up to `seconds` for pending sends.  Return whether all completed."""
        until = time.monotonic() + seconds
        while self._sends and time.monotonic() < until:
            self._complete_sends()
            time.sleep(0.0005)
        return not self._sends

    def finalize(self) -> None:
        """Leave MPI together with the other ranks; all ranks call this.

        If that takes longer than `FINALIZE_SECONDS` because a rank is gone, SIGALRM
        ends this process.
        """
        # By the kernel's default: mpi4py keeps the interpreter locked meanwhile, so no
        # handler of ours would run.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(FINALIZE_SECONDS)
        self._mpi.Finalize()
        signal.alarm(0)

    def abort(self, status: int) -> None:
        """End all ranks with `status`, at once: after a defect, or where ranks hang."""
        self._world.Abort(status)


def _end_at_once(error: FarmError) -> NoReturn:
    os._exit(error.exit_status)


def connect(
    environ: Mapping[str, str],
    give_up: Callable[[FarmError], None] = _end_at_once,
    tell: Any = (),
) -> tuple[Comm | None, str]:
    """Initialize MPI if a launcher started this process.

    All ranks are told what rank 0 has to `tell`.  Return the communicator and "".
    Where this process is to farm alone, return None and a sentence for the user, which
    is "" if the launch meant that or another process says it.  Where a rank died
    meanwhile, raise `BrokenLaunchError` or call `give_up`, perhaps in a thread;
    `give_up` ends the process.
    """
    if not was_launched(environ):
        return None, ""
    try:
        mpi = _load()
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        return None, _explain_alone(
            environ, f"no MPI library could be loaded ({reason})"
        )
    if _would_abort(mpi, environ):
        why = "this MPICH speaks PMI, the launcher PMIx"
        return None, _explain_alone(environ, why, "MPICH")
    survives_rank_loss = _is_fault_tolerant(mpi, environ)
    world, told = (
        _initialize_watched(mpi, environ, give_up, tell)
        if survives_rank_loss
        else _initialize(mpi, tell)
    )
    if world.size > 1:
        return Comm(mpi, world, survives_rank_loss=survives_rank_loss, told=told), ""
    if launched_size(environ) > 1:
        library = mpi.get_vendor()[0]
        mpi.Finalize()
        why = f"{library} says that there is one rank"
        return None, _explain_alone(environ, why, library)
    return Comm(mpi, world), ""


def _initialize(mpi: Any, tell: Any) -> "tuple[MPI.Intracomm, Any]":
    with warnings.catch_warnings():
        # mpi4py warns of a launcher that doesn't fit: `_explain_alone` has a remedy.
        warnings.simplefilter("ignore", RuntimeWarning)
        mpi.Init_thread(mpi.THREAD_FUNNELED)
    return _own_world(mpi, tell)


def _own_world(mpi: Any, tell: Any) -> "tuple[MPI.Intracomm, Any]":
    """Return a communicator of all ranks for our messages, and what rank 0 tells.

    All ranks call this.  Raise `BrokenLaunchError` if a rank has died.
    """
    world: MPI.Intracomm = mpi.COMM_WORLD
    if world.size == 1:
        return world, tell
    try:
        own = world.Dup()
        # All ranks are here by now, so that none waits; then nothing is collective.
        return own, own.bcast(tell, root=0)
    except mpi.Exception as error:
        raise BrokenLaunchError from error


def _initialize_watched(
    mpi: Any,
    environ: Mapping[str, str],
    give_up: Callable[[FarmError], None],
    tell: Any,
) -> "tuple[MPI.Intracomm, Any]":
    """Initialize MPI where the death of a rank does not end the other ranks.

    Call `give_up`, or raise `BrokenLaunchError`, if a rank dies meanwhile.
    """
    from mpifarm.transport.connecting import watched

    # `MPI_Init` and `MPI_Comm_dup` wait for all ranks: for a dead one without end.
    with watched(environ, lambda: give_up(BrokenLaunchError())):
        _initialize_unlocked(mpi)
        return _own_world(mpi, tell)


def _initialize_unlocked(mpi: Any) -> None:
    """Initialize MPI and let other threads run meanwhile; raise `BrokenLaunchError`."""
    # Not by mpi4py, whose call keeps the interpreter locked: then no thread could end
    # this process with a status of ours.
    import ctypes

    provided = ctypes.c_int()
    library = ctypes.CDLL(mpi.__file__)  # and the libraries that it needs
    failed = library.MPI_Init_thread(
        None, None, mpi.THREAD_FUNNELED, ctypes.byref(provided)
    )
    if failed:
        raise BrokenLaunchError
    # As mpi4py's own call does.
    for world in (mpi.COMM_WORLD, mpi.COMM_SELF):
        world.Set_errhandler(mpi.ERRORS_RETURN)


def _load() -> Any:
    """Import MPI without initializing it."""
    import mpi4py

    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    from mpi4py import MPI

    return MPI


class Library(NamedTuple):
    """An MPI library, as mpi4py has loaded it."""

    vendor: str
    """The name, as mpi4py spells it."""
    version: str
    """The beginning of what the library says of itself."""
    path: str


def find_library() -> Library:
    """Load the MPI library, and do not initialize it.

    Raises ImportError, RuntimeError or OSError; an odd library may end the process.
    """
    mpi = _load()
    first = str(mpi.Get_library_version()).strip().splitlines()[0].partition(",")[0]
    version = " ".join(first.strip("\0").split())
    return Library(str(mpi.get_vendor()[0]), version, find_loaded_library())


def find_loaded_library() -> str:
    """Return the path of the MPI library that this process has loaded.

    Return a sentence if none is found.
    """
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8") as maps:
        if found := re.search(r"/.*/lib(mpi|mpich)\.so.*", maps.read()):
            return found[0]
    return "the MPI library could not be seen"


def _is_fault_tolerant(mpi: Any, environ: Mapping[str, str]) -> bool:
    """Return whether this is Open MPI 5 under ``mpirun --with-ft ulfm``."""
    return (
        mpi.get_vendor()[0] == "Open MPI"
        and environ.get("OMPI_MCA_mpi_ft_enable") == "1"
        and "PRTE_LAUNCHED" in environ
    )


def _would_abort(mpi: Any, environ: Mapping[str, str]) -> bool:
    """Return whether MPI_Init would abort: MPICH without PMIx under a PMIx launcher."""
    return (
        mpi.get_vendor()[0] == "MPICH"
        and "PMIX_RANK" in environ
        and not {"PMI_RANK", "PMI_FD", "PMI_PORT"} & environ.keys()
        and "pmix" not in mpi.Get_library_version().lower()
    )


def _explain_alone(environ: Mapping[str, str], why: str, vendor: str = "") -> str:
    """Return the sentence for a process that farms alone because of `why`.

    Of the processes of one launch, only the first has one, the others "".  `vendor`
    names the MPI library; it is "" where none could be loaded.
    """
    count = launched_size(environ)
    if count == 1:
        return f"{why}; this process farms alone"
    if launched_rank(environ) > 0:
        return ""
    return (
        f"WARNING: the launcher started {count} processes that don't see each other "
        f"({why}); each farms the list by itself: where all see the same workdir each "
        "task runs once all the same, where each node has a workdir of its own each "
        f"runs all tasks. {_remedy(environ, vendor)}"
    )


def _remedy(environ: Mapping[str, str], vendor: str) -> str:
    """Return how to start one farm: the whole line stands last, to be pasted."""
    from mpifarm.batch.launch_lines import (
        PMI_OF,
        correct_mpirun,
        correct_srun,
        find_farm_words,
    )
    from mpifarm.system.processes import command_lines

    words = find_farm_words(sys.orig_argv)
    install = "" if vendor else "Install an MPI library (pip install mpich).  "
    if "SLURM_STEP_NUM_TASKS" not in environ:
        line = correct_mpirun(sys.prefix, launched_size(environ), words)
        return (
            f"{install}It takes the mpirun of the MPI library that mpi4py uses "
            "('python -m mpi4py --mpi-library' names it); '--mpi off' farms separately "
            f"on purpose.{' One farm: ' if line else ''}{line}"
        )
    pmi, lines = PMI_OF.get(vendor, "pmi2"), command_lines("srun")
    line = correct_srun(environ, pmi, words, lines)
    return f"{install}One farm ('srun --mpi=list' should name {pmi}): {line}"
