"""The process of a farm that a script has started, or of its launcher.

Rules of this file: the only one of its room that starts a process.  The process has a
group of its own: Ctrl-C comes to the script alone, which then stops the farm.
"""

import codecs
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO, Final

from mpifarm.batch.launcher import INTERACTIVE_STEP, command_environment, was_launched
from mpifarm.errors import InputError, StorageError
from mpifarm.interface.interrupts import HeldInterrupts

DEAF_SECONDS: Final = 5.0
"""Seconds after its start in which a launcher loses a signal, or dies of one."""

POLL_SECONDS: Final = 0.1
"""Seconds between two looks at a process that is to end."""


class Child:
    """A farm's process, and what it prints.

    The constructor starts it, and raises `InputError` if the program is not there,
    `StorageError` if there is no place for a temporary file.
    """

    def __init__(self, launcher: Sequence[str], words: Sequence[str]) -> None:
        self._is_launcher = bool(launcher)
        self._begun = time.monotonic()
        self._was_stopped = False
        self._output = _open_output()
        self._read_bytes = 0
        self._tail: bytes | None = None
        """The end of what the process has printed, when `close` was called."""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        argv = [*launcher, *words]
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                env=_environment_of(is_launcher=self._is_launcher),
                process_group=0,
            )
        except OSError as error:
            self._output.close()
            raise InputError(
                f"can't start {argv[0]}: {error.strerror}; is its module loaded?"
            ) from None

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    @property
    def status(self) -> int:
        """The exit status of the process that has ended, as a shell has it."""
        status = self._process.returncode
        return 128 - status if status < 0 else status

    @property
    def was_stopped(self) -> bool:
        """Whether USR1 was sent."""
        return self._was_stopped

    def wait(self, seconds: float) -> None:
        """Wait for the end, up to `seconds`."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def stop(self) -> None:
        """Send USR1, which stops a farm; a second call does nothing.

        Wait before until a launcher can pass it on, which no Ctrl-C cuts short.
        """
        with HeldInterrupts() as interrupts:
            self._send_stop()
        interrupts.pass_on()

    def end(self) -> HeldInterrupts:
        """Stop the farm, and wait for its end.  Return what Ctrl-C came meanwhile.

        Each sends INT: the farm then ends without its grace time, or at once.
        """
        with HeldInterrupts() as interrupts:
            self._send_stop()
            sent = 0
            while not self.has_ended:
                if sent < interrupts.count:
                    sent += 1
                    self._process.send_signal(signal.SIGINT)
                self.wait(POLL_SECONDS)
        return interrupts

    def _send_stop(self) -> None:
        if self._was_stopped or self.has_ended:
            return
        if self._is_launcher:
            self.wait(max(0.0, self._begun + DEAF_SECONDS - time.monotonic()))
        self._was_stopped = True
        self._process.send_signal(signal.SIGUSR1)

    def read_output(self) -> str:
        """Return what the process has printed since the last call, "" when closed."""
        if self._tail is not None:
            return ""
        size = os.fstat(self._output.fileno()).st_size
        text = os.pread(
            self._output.fileno(), size - self._read_bytes, self._read_bytes
        )
        self._read_bytes += len(text)
        return self._decode(text)

    def last_lines(self) -> list[str]:
        """Return the last lines that are not blank, 16 KiB at the most."""
        tail = self._read_tail() if self._tail is None else self._tail
        lines = tail.decode("utf-8", "replace").splitlines()
        return [line for line in lines if line.strip("\0 ")]  # mpirun prints a NUL.

    def _read_tail(self) -> bytes:
        end = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), _TAIL, max(0, end - _TAIL))

    def close(self) -> None:
        """Close the file of what the process has printed, and keep the end of it."""
        if self._tail is None:
            self._tail = self._read_tail()
            self._output.close()


_TAIL: Final = 1 << 14


def _open_output() -> BinaryIO:
    """Open a file for what a process prints: a pipe somebody would have to read.

    It has no name, so nothing is left of it.  Raises `StorageError`.
    """
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise StorageError(
            f"can't make a temporary file ({error.strerror}): name another directory"
            " for such files, as TMPDIR"
        ) from error


def _environment_of(*, is_launcher: bool) -> dict[bytes, bytes]:
    """Return the environment, without what makes a farm a rank of the script's own job.

    The shell of salloc looks like a launched step; a launcher in it needs all of that.
    """
    environ = dict(os.environb)
    is_shell = environ.get(b"SLURM_STEP_ID") == INTERACTIVE_STEP.encode()
    if (is_launcher and is_shell) or not was_launched(os.environ):
        return environ
    return command_environment(environ, span_nodes=True)
