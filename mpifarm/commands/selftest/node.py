"""The checks of one rank by itself: its CPUs, the start of Python, a signal to it.

Rules of this file: a signal is only sent to this process, never to a group that others
may be in.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from threading import Timer

from mpifarm.batch.launcher import command_environment
from mpifarm.commands.selftest.findings import (
    SelfTestFinding,
    broken,
    holds,
    measured,
    run_check,
)
from mpifarm.model.wording import counted
from mpifarm.system import cpus, processes
from mpifarm.system.event_loop import Waiter
from mpifarm.system.signals import SignalInbox
from mpifarm.transport.mpi import Comm

WAKE_SECONDS = 1.0
"""Longest wait of a loop without a signal: what ends a wait later was no signal."""

PROMPT_SECONDS = 0.5
"""A busy node is slow; a signal that wakes nobody is found 0.9 s late."""

SLOW_START_SECONDS = 5.0
POLL_SECONDS = 0.005

SIGNAL_REMEDY = (
    "farms here don't stop by USR1: give --timeout, shorter than the job's time limit"
)


def check_node(environ: Mapping[str, str], workers: int) -> Iterator[SelfTestFinding]:
    """Yield the findings of one rank by itself."""
    yield run_check("start of Python", check_python_start)
    yield run_check("CPUs of a rank", check_cpus, environ, workers)


def check_wake(inbox: SignalInbox, comm: Comm) -> SelfTestFinding:
    """Return whether a USR1 ends the wait of a rank's loop at once."""
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        processes.kill_process(os.getpid(), signal.SIGUSR1)

    inbox.take()
    waiter = Waiter(inbox.fd, comm.has_message)
    sender = Timer(0.1, send)
    sender.start()
    begun = time.monotonic()
    while not inbox.any_noted and time.monotonic() - begun < WAKE_SECONDS:
        waiter.wait([], WAKE_SECONDS)
        waiter.restart()
    woken = time.monotonic()
    sender.join()
    late = woken - sent[0]
    if signal.SIGUSR1 not in inbox.take():
        return broken("it never came", SIGNAL_REMEDY)
    if late > PROMPT_SECONDS:
        return broken(f"{late:.2f} s late", SIGNAL_REMEDY)
    return holds(f"after {late * 1000:.2g} ms", weight=late)


def check_python_start() -> SelfTestFinding:
    """Measure how long Python and mpifarm take to start here."""
    begun = time.monotonic()
    run_program([sys.executable, "-S", "-c", ""])
    bare = time.monotonic() - begun
    program = "import mpifarm.farm.process, mpifarm.farm.startup"
    run_program([sys.executable, "-c", program])
    whole = time.monotonic() - begun - bare
    seen = f"{bare:.2f} s; with mpifarm {whole:.2f} s, from {sys.prefix}"
    follows = (
        "each rank waits that long at the start: have the environment on a file system"
        " made for it, or on the node (an image, a container)"
    )
    return measured(seen, follows if whole > SLOW_START_SECONDS else "", whole)


def run_program(argv: Sequence[str]) -> str:
    """Run a program that is no rank to its end.  Return what it has printed."""
    program = processes.Inquiry(argv, command_environment(os.environb))
    try:
        while (output := program.collect()) is None:
            time.sleep(POLL_SECONDS)
    finally:  # a signal ends the self-test
        program.end()
    return output


def check_cpus(environ: Mapping[str, str], workers: int) -> SelfTestFinding:
    """Return a finding on the CPUs of the rank: enough for its workers, not shared."""
    own, total = cpus.cpus_of_rank(), cpus.cpus_of_machine()
    sharers = cpus.find_sharers(environ)
    seen = f"{len(own)} of the node's {total} for {counted(workers, 'worker')}"
    if sharers.count > 1:
        seen += f", in common with {counted(sharers.count - 1, 'more rank')}"
    follows = ""
    if cpus.lacks_cpus(len(own), workers, sharers):
        follows = cpus.find_remedy(environ, len(own), workers, total, sharers)
    return measured(seen, follows, -len(own))
