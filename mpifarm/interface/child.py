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
from typing import Final

from mpifarm.batch.launcher import INTERACTIVE_STEP, command_environment, was_launched
from mpifarm.errors import InputError

DEAF_SECONDS: Final = 5.0
"""Seconds after its start in which a launcher loses a signal, or dies of one."""


class Child:
    """A farm's process, and what it prints.

    The constructor starts it, and raises `InputError` if the program is not there.
    """

    def __init__(self, launcher: Sequence[str], words: Sequence[str]) -> None:
        self._is_launcher = bool(launcher)
        self._begun = time.monotonic()
        self._was_stopped = False
        # Not a pipe: nobody has to read it for the farm to go on.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._read_bytes = 0
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
            ) from error

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
        """Whether `stop` was called."""
        return self._was_stopped

    def wait(self, seconds: float) -> None:
        """Wait for the end, up to `seconds`."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def stop(self) -> None:
        """Send USR1, which stops a farm; a second call does nothing.

        Wait before until a launcher can pass it on.
        """
        if self._was_stopped:
            return
        self._was_stopped = True
        if self._is_launcher:
            self.wait(max(0.0, self._begun + DEAF_SECONDS - time.monotonic()))
        self._process.send_signal(signal.SIGUSR1)

    def end(self) -> None:
        """Stop the farm, and wait for its end.

        A KeyboardInterrupt meanwhile sends INT: the second INT ends the farm at once.
        """
        interrupt = None
        while not self.has_ended:
            try:
                self.stop()
                self._process.wait()
            except KeyboardInterrupt as error:
                interrupt = error
                self._process.send_signal(signal.SIGINT)
        if interrupt is not None:
            raise interrupt

    def read_output(self) -> str:
        """Return what the process has printed since the last call."""
        size = os.fstat(self._output.fileno()).st_size
        text = os.pread(
            self._output.fileno(), size - self._read_bytes, self._read_bytes
        )
        self._read_bytes += len(text)
        return self._decode(text)

    def last_lines(self, most: int) -> list[str]:
        """Return the last lines that the process has printed."""
        end = os.fstat(self._output.fileno()).st_size
        text = os.pread(self._output.fileno(), _TAIL, max(0, end - _TAIL))
        return text.decode("utf-8", "replace").strip().splitlines()[-most:]

    def close(self) -> None:
        """Forget what the process has printed."""
        self._output.close()


_TAIL: Final = 1 << 14


def _environment_of(*, is_launcher: bool) -> dict[bytes, bytes]:
    """Return the environment, without what makes a farm a rank of the script's own job.

    The shell of salloc looks like a launched step; a launcher in it needs all of that.
    """
    environ = dict(os.environb)
    is_shell = environ.get(b"SLURM_STEP_ID") == INTERACTIVE_STEP.encode()
    if (is_launcher and is_shell) or not was_launched(os.environ):
        return environ
    return command_environment(environ, span_nodes=True)
