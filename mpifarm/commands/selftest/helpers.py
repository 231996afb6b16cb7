"""A process that acts when it is asked: a child of this process, or another rank.

Rules of this file: what is asked for is a function of a module, so that question and
reply can go by pickle.  A question without an answer in time is an error.
"""

import itertools
import pickle
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

from mpifarm.errors import FarmError
from mpifarm.system import processes

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

PATIENCE_SECONDS = 5.0
"""How long an answer may take, beyond what the function itself may take."""

POLL_SECONDS = 0.002
MAX_BYTES = 1 << 16

signals_seen: list[int] = []
"""Of this process, each time that one came."""


class Question(NamedTuple):
    """A function, its arguments, and a number that the reply bears too."""

    number: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Reply(NamedTuple):
    """What the function has returned, or the sentence of its error."""

    number: int
    value: Any
    error: str = ""


class HelperError(FarmError):
    """A helper failed, or did not answer."""


def answer(question: Question) -> Reply:
    """Call the function, and return the reply."""
    try:
        return Reply(question.number, question.function(*question.arguments))
    except (OSError, FarmError) as error:
        return Reply(question.number, None, str(error))


class Helper:
    """A process that acts when it is asked."""

    _numbers = itertools.count(1)
    """Of all questions: a rank and its child answer by one way."""

    def __init__(
        self,
        name: str,
        send: Callable[[Question], None],
        receive: Callable[[float], Reply | None],
    ) -> None:
        """`receive` returns None if no reply comes within its seconds."""
        self.name = name
        self._send = send
        self._receive = receive
        self._number = 0

    def begin(self, function: Callable[[*Ts], object], *arguments: *Ts) -> None:
        """Ask, and don't wait for the answer."""
        self._number = next(self._numbers)
        self._send(Question(self._number, function, arguments))

    def end(self, seconds: float = 0.0) -> Any:
        """Return the answer of a function that may take `seconds`.

        Raise HelperError if the function failed, or if no answer comes.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS + seconds
        while True:
            reply = self._receive(max(0.0, deadline - time.monotonic()))
            if reply is None:
                raise HelperError(f"{self.name} did not answer")
            if reply.number == self._number:  # else nobody waits for it any more
                break
        if reply.error:
            raise HelperError(f"{self.name}: {reply.error}")
        return reply.value

    def ask(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Ask, and return the answer."""
        self.begin(function, *arguments)
        value: T = self.end(PATIENCE_SECONDS)
        return value

    def die(self) -> None:
        """Let the helper die as by ``kill -9``."""
        with suppress(HelperError):  # it can't answer
            self.ask(signal.raise_signal, signal.SIGKILL)


@contextmanager
def start_child() -> Iterator[Helper]:
    """Start a child in a session of its own, and kill it at the end.

    It has to be started before MPI is.
    """
    name = "another process on this node"
    # One message is one read.
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    pid = processes.fork_child(lambda: _serve(theirs))
    theirs.close()

    def send(question: Question) -> None:
        try:
            ours.send(pickle.dumps(question))
        except OSError as error:
            raise HelperError(f"{name} is gone: {error.strerror}") from error

    def receive(seconds: float) -> Reply | None:
        ours.settimeout(seconds or POLL_SECONDS)
        content = b""
        with suppress(ConnectionError):
            try:
                content = ours.recv(MAX_BYTES)
            except TimeoutError:
                return None
        if not content:
            raise HelperError(f"{name} has ended")
        reply: Reply = pickle.loads(content)  # noqa: S301 - from our child
        return reply

    try:
        yield Helper(name, send, receive)
    finally:
        processes.kill_process(pid, signal.SIGKILL)
        processes.reap_child(pid)
        ours.close()


def _serve(connection: socket.socket) -> None:
    """Act until the parent is gone."""
    processes.begin_session()
    processes.close_descriptors_except({connection.fileno()})
    processes.ignore_signals()
    signals_seen.clear()
    signal.signal(signal.SIGUSR1, lambda signum, _: signals_seen.append(signum))
    with suppress(OSError):
        while content := connection.recv(MAX_BYTES):
            reply = answer(pickle.loads(content))  # noqa: S301 - from our parent
            connection.send(pickle.dumps(reply))


def count_signals() -> int:
    """Return how many signals have come to this process."""
    return len(signals_seen)


def send_signal(pid: int, signum: int, seconds: float) -> float:
    """Wait `seconds`, send a signal, and return when (monotonic)."""
    time.sleep(seconds)
    sent = time.monotonic()
    processes.kill_process(pid, signum)
    return sent
