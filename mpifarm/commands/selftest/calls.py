"""Calls between ranks: rank 0 asks for a function, another rank calls it and answers.

Rules of this file: messages go through `mpifarm.transport.mpi` and are waited for as a
farm waits for them.  What is asked for is a function of a module, so that MPI can carry
it.  A question without an answer in time is an error.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, TypeVarTuple, cast

from mpifarm.errors import FarmError
from mpifarm.system.event_loop import Waiter
from mpifarm.system.signals import SignalInbox
from mpifarm.transport.mpi import Comm

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

PATIENCE_SECONDS = 10.0
"""How long an answer may take."""

SILENT_SECONDS = 120.0
"""A rank that has not been asked for so long leaves."""

_signals_seen: list[int] = []


class Question(NamedTuple):
    """From rank 0: a function, its arguments, and a number that the reply bears too."""

    number: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Leave(NamedTuple):
    """From rank 0: the test is over.  Without a lost rank, not all can finalize."""

    can_finalize: bool


class Reply(NamedTuple):
    """To rank 0: what the function has returned, or the sentence of its error."""

    number: int
    value: Any
    error: str = ""


class CallError(FarmError):
    """A rank failed, or did not answer."""


def note_signals(inbox: SignalInbox) -> None:
    """Note the signals that have come to this rank."""
    _signals_seen.extend(inbox.take())


def count_signals() -> int:
    """Return how many signals were noted on this rank."""
    return len(_signals_seen)


def serve(comm: Comm, inbox: SignalInbox, first: object) -> bool:
    """Send `first`, then answer questions.  Return whether this rank can finalize."""
    waiter = Waiter(inbox.fd, comm.has_message)
    _send(comm, 0, Reply(0, first))
    heard = time.monotonic()
    while time.monotonic() - heard < SILENT_SECONDS:
        note_signals(inbox)
        for _, message in cast(Any, comm.receive()):
            if isinstance(message, Leave):
                return message.can_finalize
            _send(comm, 0, _answer(message))
            heard = time.monotonic()
            waiter.restart()
        waiter.wait([], 1.0)
    return False


def _answer(question: Question) -> Reply:
    try:
        return Reply(question.number, question.function(*question.arguments))
    except (OSError, FarmError) as error:
        return Reply(question.number, None, str(error))


def _send(comm: Comm, rank: int, message: Question | Leave | Reply) -> None:
    comm.send(rank, cast(Any, message))  # these never meet the messages of a farm


class Ranks:
    """All ranks, as rank 0 reaches them."""

    def __init__(self, comm: Comm, inbox: SignalInbox) -> None:
        self.comm = comm
        self.others = {number: Rank(self, number) for number in range(1, comm.size)}
        self._inbox = inbox
        self._waiter = Waiter(inbox.fd, comm.has_message)
        self._replies: dict[int, Reply] = {}
        """The last of each rank: nobody waits for an earlier one any more."""

    def send(self, rank: int, message: Question | Leave) -> None:
        """Begin to send a message to a rank."""
        _send(self.comm, rank, message)
        self._waiter.restart()

    def find_reply(self, rank: int, number: int) -> Reply | None:
        """Wait for a rank's reply to a question.  Return None if it is late."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            self._replies.update(cast(Any, self.comm.receive()))
            reply = self._replies.get(rank)
            if reply is not None and reply.number == number:
                return reply
            self.note_signals()
            self._waiter.wait([], 0.1)
        return None

    def note_signals(self) -> None:
        """Note the signals that have come to rank 0."""
        note_signals(self._inbox)

    def leave(self, lost: int | None = None) -> bool:
        """Let all ranks go but the lost one.  Return whether all can finalize."""
        can_finalize = lost is None or self.comm.survives_rank_loss
        for rank in self.others:
            if rank != lost:
                self.send(rank, Leave(can_finalize))
        self.comm.flush(PATIENCE_SECONDS)
        return can_finalize


class Rank:
    """Another rank, as rank 0 asks it."""

    def __init__(self, ranks: Ranks, number: int) -> None:
        self.name = f"rank {number}"
        self._ranks = ranks
        self._rank = number
        self._question = 0
        """The number of the last question; the first reply comes unasked."""

    def begin(self, function: Callable[[*Ts], object], *arguments: *Ts) -> None:
        """Ask, and don't wait for the answer."""
        self._question += 1
        self._ranks.send(self._rank, Question(self._question, function, arguments))

    def end(self) -> Any:
        """Return the answer; raise CallError if the function failed, or none comes."""
        reply = self._ranks.find_reply(self._rank, self._question)
        if reply is None:
            raise CallError(f"{self.name} did not answer")
        if reply.error:
            raise CallError(f"{self.name}: {reply.error}")
        return reply.value

    def ask(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Ask, and return the answer."""
        self.begin(function, *arguments)
        value: T = self.end()
        return value
