"""The two that a check needs: this process, and another one that does as it is asked.

Rules of this file: the other is a child of this process, or another rank; both do the
same actions (`Party`), so that one check serves for both.  What goes between them are
plain values that JSON can hold.  A question without an answer in time is an error.
"""

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from mpifarm import processes
from mpifarm.errors import FarmError
from mpifarm.lock import WorkdirLock, lock_paths
from mpifarm.workdir import claims, files

PATIENCE_SECONDS = 5.0
"""How long an answer may take, beyond what the action itself may."""

POLL_SECONDS = 0.002

Answer = Any
"""What JSON can hold: the action says which."""


class PartyError(FarmError):
    """The other one failed at what it was asked, or did not answer."""


class Other(Protocol):
    """One who does what it is asked."""

    name: str

    def begin(self, action: str, *arguments: object) -> None:
        """Ask, and don't wait for the answer."""

    def end(self, seconds: float = 0.0) -> Answer:
        """The answer; raises `PartyError`."""


def ask(other: Other, action: str, *arguments: object, seconds: float = 0.0) -> Answer:
    """Ask and wait; `seconds` is what the action may take."""
    other.begin(action, *arguments)
    return other.end(seconds)


# ---- what either can do -------------------------------------------------------------


class Party:
    """The actions, by name.  `environ` and `lock_area` choose the lock's files."""

    def __init__(
        self, environ: "os._Environ[str] | dict[str, str]", lock_area: str | None
    ) -> None:
        self._environ = dict(environ)
        self._lock_area = lock_area
        self._locks: dict[str, WorkdirLock] = {}
        self.actions: dict[str, Callable[..., Answer]] = {
            "age": self.age,
            "append": append_without_lock,
            "append locked": self.append_locked,
            "await text": await_text,
            "create": create,
            "exists": files.exists,
            "flip": flip,
            "file clock": claims.read_file_clock,
            "lock files": self.lock_files,
            "read locked": self.read_locked,
            "release": self.release,
            "signal": signal_later,
            "take": self.take,
            "touch": touch,
            "wall clock": time.time,
        }

    def perform(self, action: str, arguments: Sequence[object]) -> Answer:
        """Do what was asked; raises what it raises."""
        return self.actions[action](*arguments)

    def lock_files(self, directory: str) -> list[str]:
        """The lock files that a farm started here would take for that workdir."""
        return list(lock_paths(directory, self._environ, self._lock_area))

    def take(self, place: str, seconds: float) -> bool:
        """Whether the lock could be taken; it is kept.

        `place` is a lock file, or a directory, of which it takes all that a farm would.
        """
        lock = self._find_lock(place)
        deadline = time.monotonic() + seconds
        while not lock.try_acquire():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def release(self, place: str) -> None:
        """Give back what `take` took."""
        if place in self._locks:
            self._locks[place].release()

    def remove_locks(self) -> None:
        """Unlink what `take` has made: of workdirs that nobody else knows."""
        for path in {path for lock in self._locks.values() for path in lock.paths}:
            with suppress(OSError):
                os.unlink(path)

    def _find_lock(self, place: str) -> WorkdirLock:
        if place not in self._locks:
            if os.path.isdir(place):
                self._locks[place] = WorkdirLock(self.lock_files(place))
                self._locks[place].probe()
            else:
                self._locks[place] = WorkdirLock((place,))
        return self._locks[place]

    def read_locked(self, path: str, lock: str) -> str | None:
        """The file, as the next holder of the lock reads it."""
        self._hold(lock)
        try:
            content = files.find_content(path)
        finally:
            self.release(lock)
        return None if content is None else content.decode()

    def append_locked(self, path: str, lock: str, count: int, name: str) -> None:
        """Append records as a farm does: one taking of the lock for each."""
        for number in range(count):
            self._hold(lock)
            try:
                files.append(path, record(name, number), sync=False)
            finally:
                self.release(lock)

    def age(self, path: str) -> float:
        """Seconds since the file was touched, as a farm reckons a heartbeat."""
        with files.opened(path, os.O_RDONLY) as descriptor:
            touched = os.fstat(descriptor).st_mtime
        return claims.read_file_clock(os.path.dirname(path)) - touched

    def _hold(self, lock: str) -> None:
        if not self.take(lock, PATIENCE_SECONDS):
            raise PartyError(f"the lock {lock} could not be had")


def record(name: str, number: int) -> bytes:
    """A short line that says whose it is."""
    return f"{name} {number}\n".encode()


def append_without_lock(path: str, count: int, name: str) -> None:
    """Append records as ``>>`` does."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number in range(count):
        with files.opened(path, flags) as descriptor:
            os.write(descriptor, record(name, number))


def await_text(path: str, text: str, seconds: float) -> bool:
    """Open the file again and again until it holds `text`; whether it came to."""
    deadline = time.monotonic() + seconds
    while files.find_content(path) != text.encode():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def flip(path: str, old: str, new: str, count: int) -> None:
    """Replace the file again and again."""
    for number in range(count):
        content = (old if number % 2 else new).encode()
        beside = f"{path}.{os.getpid()}"
        # Not `files.replace`, which syncs each: here the renames are to come fast.
        with files.opened(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
            files.write_at(descriptor, 0, content)
        files.rename(beside, path)


def create(path: str) -> bool:
    """Whether the file could be made as one that was not there before."""
    try:
        os.close(files.create_exclusively(path))
    except FileExistsError:
        return False
    return True


def touch(path: str) -> None:
    """A heartbeat."""
    with files.opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
        files.touch(descriptor, path)


def signal_later(pid: int, signum: int, seconds: float) -> float:
    """Send a signal after a while; returns when that was (monotonic)."""
    time.sleep(seconds)
    sent = time.monotonic()
    processes.kill_process(pid, signum)
    return sent


# ---- a child of this process --------------------------------------------------------


class ChildParty:
    """A child with a session of its own.  Made before MPI is initialized."""

    name = "another process on this node"

    def __init__(self, party: Party) -> None:
        self._socket, theirs = socket.socketpair()
        self._rest = b""
        self._number = 0
        self.pid = processes.fork_child(lambda: _serve(theirs, party))
        theirs.close()

    def begin(self, action: str, *arguments: object) -> None:
        """Ask, and don't wait for the answer."""
        self._number += 1
        question = json.dumps([self._number, action, arguments]).encode() + b"\n"
        try:
            self._socket.sendall(question)
        except OSError as error:
            raise PartyError(f"a helper process is gone: {error.strerror}") from error

    def end(self, seconds: float = 0.0) -> Answer:
        """The answer; raises `PartyError`."""
        deadline = time.monotonic() + PATIENCE_SECONDS + seconds
        number, value, error = -1, None, None
        while number != self._number:  # others are of checks that were given up
            number, value, error = json.loads(self._read_line(deadline))
        if error is not None:
            raise PartyError(error)
        return value

    def _read_line(self, deadline: float) -> bytes:
        while b"\n" not in self._rest:
            wait = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._socket], (), (), wait)
            if not readable:
                raise PartyError("a helper process did not answer")
            part = self._receive()
            if not part:
                raise PartyError("a helper process has ended")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except OSError:
            return b""

    def kill(self) -> None:
        """End it as a node's end would: by SIGKILL."""
        if self.pid:
            processes.kill_process(self.pid, signal.SIGKILL)
            processes.reap_child(self.pid)
            self._socket.close()
            self.pid = 0


def _serve(connection: socket.socket, party: Party) -> None:
    processes.leave_session()
    processes.close_descriptors_except({connection.fileno()})
    processes.calm_signals()
    came: list[int] = []
    signal.signal(signal.SIGUSR1, lambda signum, _frame: came.append(signum))
    party.actions["signals"] = lambda: len(came)
    with connection.makefile("rb") as questions:
        for line in questions:
            number, action, arguments = json.loads(line)
            answer = [number, *attempt(party, action, arguments)]
            with suppress(BrokenPipeError):
                connection.sendall(json.dumps(answer).encode() + b"\n")


def attempt(
    party: Party, action: str, arguments: Sequence[object]
) -> tuple[Answer, str | None]:
    """What the action returned, and the sentence of what went wrong instead."""
    try:
        return party.perform(action, arguments), None
    except (OSError, FarmError) as error:
        return None, str(error)
