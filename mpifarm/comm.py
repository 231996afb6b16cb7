"""Messages between ranks over MPI: the only module that knows MPI.

Rules of this file:

* MPI is initialized by `connect`, never by import, so that the pool's parent can be
  forked before.
* Nothing here blocks: sends are begun and completed later, receives look first.  A
  look is two probes, since the first may only drive the library's progress.
* All calls come from one thread.
* A rank that dies costs only the messages from and to it.  Where the library tells of
  it (ULFM, the fault tolerance of Open MPI 5 under ``mpirun --with-ft ulfm``), each
  rank acknowledges that by itself (`MPI_Comm_ack_failed`) and goes on over the same
  communicator.  `MPI_Comm_shrink` would wait for all, a suspended rank included.
* The messages that carry tasks (`Assign`, `Report`) go by `marshal`, column by column,
  which takes about half the time; everything else is pickled.  The tag tells which.
  All ranks are the same Python.
"""

import marshal
import pickle
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import starmap
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from mpifarm.errors import ExitStatus, FarmError
from mpifarm.launcher import launched_size, was_launched
from mpifarm.messages import Assign, Report, ToCoordinator, ToRank
from mpifarm.task import Lease, Outcome, Result

if TYPE_CHECKING:
    from mpi4py import MPI

Message = ToRank | ToCoordinator

FINALIZE_SECONDS = 10
"""`MPI_Finalize` waits for all ranks; one that hangs must not hang the others."""

INITIALIZE_SECONDS = 120
"""So does `MPI_Init`, in which a rank may have died."""

MOST_AT_ONCE = 1000

MOST_TESTED = 100
"""Sends that a call looks at whether they are complete: thousands may be under way."""

# ---- messages as bytes --------------------------------------------------------------

_PICKLED, _ASSIGN, _REPORT = 0, 1, 2
"""Tags: how the bytes of a message are to be read."""

_FIELDS_OF_REPORT = attrgetter(*Report.__match_args__)
_RESULTS = Report.__match_args__.index("results")
_OUTCOME = Result._fields.index("outcome")
_OUTCOMES = list(Outcome)


class Packed(NamedTuple):
    """A message as it goes over the wire."""

    tag: int
    content: bytes


def encode_message(message: Message) -> Packed:
    """The bytes of a message, and the tag that tells how to read them."""
    match message:
        case Assign():
            columns: list[Any] = [*zip(*message.leases, strict=True)]
            return Packed(_ASSIGN, marshal.dumps(columns))
        case Report():
            fields = [*_FIELDS_OF_REPORT(message)]
            columns = fields[_RESULTS] = [*zip(*message.results, strict=True)]
            if columns:
                columns[_OUTCOME] = [*map(_OUTCOMES.index, columns[_OUTCOME])]
            return Packed(_REPORT, marshal.dumps(fields))
    return Packed(_PICKLED, pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def parse_message(tag: int, content: bytes | bytearray) -> Message:
    """The message of these bytes, which a rank of this farm has encoded."""
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
    """A rank died before all had met."""

    exit_status = ExitStatus.RUN_AGAIN

    def __init__(self) -> None:
        super().__init__(
            "a rank was lost while the ranks were connecting; nothing was started: "
            "give the same command again"
        )


class Comm:
    """This rank among the others.

    `heals`: whether the library tells of ranks that die, so that any other can go on.
    `lost`: those of which it has told.
    """

    def __init__(
        self, mpi: Any, world: "MPI.Intracomm", *, heals: bool = False
    ) -> None:
        self._mpi = mpi  # the module
        self._world = world
        self._status = mpi.Status()
        self._look: Callable[[], bool] = partial(
            world.Iprobe, mpi.ANY_SOURCE, mpi.ANY_TAG, self._status
        )
        self._sends: deque[tuple[int, MPI.Request]] = deque()
        self._untold: list[int] = []
        self.rank: int = world.rank
        self.size: int = world.size
        self.heals = heals
        self.lost: set[int] = set()
        world.Set_errhandler(mpi.ERRORS_RETURN)

    @property
    def members(self) -> tuple[int, ...]:
        """The ranks that are not known to be dead, sorted."""
        return tuple(rank for rank in range(self.size) if rank not in self.lost)

    @property
    def first(self) -> int:
        """The lowest rank that is not known to be dead: the coordinator's."""
        return next(rank for rank in range(self.size) if rank not in self.lost)

    def send(self, rank: int, message: Message) -> None:
        """Begin to send `message`; `receive` and `flush` complete it."""
        if rank in self.lost:
            return
        try:
            tag, content = encode_message(message)
            send = self._world.Isend([content, self._mpi.BYTE], rank, tag)
            self._sends.append((rank, send))
        except self._mpi.Exception:
            self._look_for_losses()

    def receive(self) -> list[tuple[int, Message]]:
        """The messages that have come, each with the rank that sent it."""
        received: list[tuple[int, Message]] = []
        try:
            while self._probe() and len(received) < MOST_AT_ONCE:
                source, tag = self._status.source, self._status.tag
                content = bytearray(self._status.count)
                self._world.Recv([content, self._mpi.BYTE], source, tag)
                received.append((source, parse_message(tag, content)))
        except self._mpi.Exception:
            self._look_for_losses()
        if self._sends:
            self._complete_sends()
        return received

    def has_message(self) -> bool:
        """Whether `receive` has something to do."""
        try:
            return self._probe()
        except self._mpi.Exception:
            return self.heals

    def _probe(self) -> bool:
        return self._look() or self._look()

    def _complete_sends(self) -> None:
        for _ in range(min(len(self._sends), MOST_TESTED)):
            rank, send = self._sends.popleft()
            if rank not in self.lost and not self._is_over(send):
                self._sends.append((rank, send))

    def _is_over(self, send: "MPI.Request") -> bool:
        """Whether nothing more will become of it."""
        try:
            return send.Test()
        except self._mpi.Exception:
            self._look_for_losses()
            return True

    def _look_for_losses(self) -> None:
        if not self.heals:
            return  # the silence of a rank tells
        failed = self._world.Get_failed()
        ranks = self._mpi.Group.Translate_ranks(failed, None, self._world.group)
        new = sorted(set(ranks) - self.lost) if failed.size else []
        self._untold += new
        self.lost.update(new)
        self._world.Ack_failed()

    def take_losses(self) -> list[int]:
        """The ranks that have died since the last call, as far as the library tells."""
        untold, self._untold = self._untold, []
        return untold

    def flush(self, seconds: float) -> bool:
        """Wait at most `seconds` until all that was sent is out; whether it is."""
        until = time.monotonic() + seconds
        while self._sends and time.monotonic() < until:
            self._complete_sends()
            time.sleep(0.0005)
        return not self._sends

    def finalize(self) -> None:
        """Leave MPI together with the other ranks; all ranks call this.

        Where that takes longer than `FINALIZE_SECONDS`, since a rank is gone, the
        kernel ends this process by SIGALRM: Python could not, for mpi4py keeps the
        interpreter locked meanwhile.
        """
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(FINALIZE_SECONDS)
        self._mpi.Finalize()
        signal.alarm(0)

    def abort(self, status: int) -> None:
        """End all ranks at once: for a defect of ours, and for ranks that hang."""
        self._world.Abort(status)


def connect(
    environ: Mapping[str, str],
) -> tuple[Comm | None, str]:
    """Initialize MPI if a launcher started this process.

    Returns the communicator, or None where this process is to farm alone, with a
    sentence for the user if that isn't what the launch meant ("" otherwise).  Raises
    `BrokenLaunchError`.
    """
    if not was_launched(environ):
        return None, ""
    try:
        mpi = _load()
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        return None, _alone(environ, f"no MPI library could be loaded ({reason})")
    if _would_abort(mpi, environ):
        return None, _alone(environ, "this MPICH speaks PMI, the launcher PMIx")
    with warnings.catch_warnings():
        # mpi4py warns of a launcher that doesn't fit; we say it with the remedy.
        warnings.simplefilter("ignore", RuntimeWarning)
        heals = _heals(mpi, environ)
        _initialize(mpi, can_hang=heals)
    world = mpi.COMM_WORLD
    if world.size == 1:
        signal.alarm(0)
        if launched_size(environ) > 1:
            library = mpi.get_vendor()[0]
            mpi.Finalize()
            return None, _alone(environ, f"{library} says that there is one rank")
        return Comm(mpi, world), ""
    try:
        dup = world.Dup()
    except mpi.Exception as error:
        raise BrokenLaunchError from error
    signal.alarm(0)
    return Comm(mpi, dup, heals=heals), ""


def _initialize(mpi: Any, *, can_hang: bool) -> None:
    """Where the death of a rank does not end the others, it may leave them in here.

    The alarm is for `MPI_Comm_dup` as well, which waits for all.
    """
    if can_hang:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(INITIALIZE_SECONDS)
    mpi.Init_thread(mpi.THREAD_FUNNELED)


def _load() -> Any:
    import mpi4py

    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    from mpi4py import MPI

    return MPI


def _heals(mpi: Any, environ: Mapping[str, str]) -> bool:
    """Whether this is Open MPI 5 under ``mpirun --with-ft ulfm``, which sets this."""
    return (
        mpi.get_vendor()[0] == "Open MPI"
        and environ.get("OMPI_MCA_mpi_ft_enable") == "1"
        and "PRTE_LAUNCHED" in environ
    )


def _would_abort(mpi: Any, environ: Mapping[str, str]) -> bool:
    """MPICH without PMIx ends the process in MPI_Init under a PMIx launcher."""
    return (
        mpi.get_vendor()[0] == "MPICH"
        and "PMIX_RANK" in environ
        and not {"PMI_RANK", "PMI_FD", "PMI_PORT"} & environ.keys()
        and "pmix" not in mpi.Get_library_version().lower()
    )


def _alone(environ: Mapping[str, str], why: str) -> str:
    count = launched_size(environ)
    if count == 1:
        return f"{why}; this process farms alone"
    return (
        f"WARNING: the launcher started {count} processes that don't see each other "
        f"({why}); each farms the list by itself, which is safe but is not one farm. "
        f"{_remedy(environ)}"
    )


def _remedy(environ: Mapping[str, str]) -> str:
    if "SLURM_STEP_NUM_TASKS" in environ:
        return (
            "Start it with 'srun --mpi=pmi2' (MPICH, Intel MPI) or 'srun --mpi=pmix' "
            "(Open MPI); 'srun --mpi=list' says which there are."
        )
    return (
        "Start it with the mpirun of the MPI library that mpi4py uses "
        "('python -m mpi4py --mpi-library' names it); '--mpi off' farms separately "
        "on purpose."
    )
