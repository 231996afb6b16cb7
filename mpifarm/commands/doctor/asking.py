"""Programs and children that are asked something, each with a deadline.

Rules of this file: no answer is an answer.  What does not end in time is killed, and is
not waited for: a process that hangs on a dead file system can't be killed.
"""

import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from mpifarm.system import processes

POLL_SECONDS = 0.01
REAP_SECONDS = 0.5


class Answer(NamedTuple):
    """What a program has printed, or a child has found; or why there is nothing."""

    value: Any
    fault: str = ""


def ask_program(
    argv: Sequence[str], env: Mapping[bytes, bytes], seconds: float
) -> Answer:
    """Run a program.  Return what it has printed, on both its outputs."""
    try:
        program = processes.Inquiry(argv, env)
    except OSError as error:
        return Answer("", f"can't be started: {error.strerror}")
    until = time.monotonic() + seconds
    try:
        while (printed := program.collect()) is None:
            if time.monotonic() > until:
                return Answer("", f"no answer in {seconds:g} s")
            time.sleep(POLL_SECONDS)
    finally:
        program.end()
    return Answer(printed)


def ask_child(find: Callable[[], Any], seconds: float) -> Answer:
    """Call a function in a child.  Return its value, which JSON has to be able to hold.

    The child prints nothing, and its death or an exception is the fault.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = processes.fork_child(lambda: _answer(find, write, seconds))
    os.close(write)
    text = b""
    until = time.monotonic() + seconds
    try:
        while select.select([read], [], [], max(0.0, until - time.monotonic()))[0]:
            if not (piece := os.read(read, 65536)):
                return _parse(text, pid)
            text += piece
        return Answer(None, f"no answer in {seconds:g} s")
    finally:
        os.close(read)
        processes.kill_process(pid, signal.SIGKILL)
        processes.reap_child_within(pid, REAP_SECONDS)


def _answer(find: Callable[[], Any], write: int, seconds: float) -> None:
    """Be the child."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(seconds) + 2)  # the parent may be gone
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    try:
        told = {"value": find()}
    except Exception as error:  # noqa: BLE001 - it is what is asked for
        lines = str(error).strip().splitlines() or [type(error).__name__]
        told = {"fault": lines[0]}
    with suppress(BrokenPipeError):
        os.write(write, json.dumps(told).encode("ascii"))


def _parse(text: bytes, pid: int) -> Answer:
    if text:
        told = json.loads(text)
        return Answer(told.get("value"), told.get("fault", ""))
    status = processes.reap_child(pid)
    if status is not None and status < 0:
        return Answer(None, f"it dies of {signal.Signals(-status).name}")
    return Answer(None, f"it ends with status {status}")


def first_line(printed: str) -> str:
    """Return the first line with words, without a mark of who says it."""
    for line in printed.splitlines():
        if sum(char.isalpha() for char in line) > len("error"):
            return " ".join(line.split())[:200]
    return "it printed nothing"
