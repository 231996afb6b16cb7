"""The checks of one node: a signal to a rank, its CPUs, how fast things start there.

Rules of this file: commands are started as a worker starts them.  A signal is only sent
to this process, never to a group that others may be in.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from mpifarm.batch.launcher import command_environment
from mpifarm.commands.selftest.findings import (
    SelfTestFinding,
    broken,
    holds,
    measured,
    run_check,
)
from mpifarm.commands.selftest.helpers import Helper, send_signal
from mpifarm.errors import FarmError
from mpifarm.model.wording import counted
from mpifarm.system import cpus, processes, task_command
from mpifarm.system.event_loop import Waiter
from mpifarm.system.signals import SignalInbox

RATE_SECONDS = 0.25
MAX_STARTS = 400

WAKE_SECONDS = 1.0
"""Longest wait of a loop without a signal: what ends a wait later was no signal."""

PROMPT_SECONDS = 0.5
"""A busy node is slow; a signal that wakes nobody is found 0.9 s late."""

SLOW_START_SECONDS = 5.0

SIGNAL_REMEDY = (
    "farms here don't stop by USR1: give --timeout, shorter than the job's time limit"
)


def check_node(environ: Mapping[str, str], workers: int) -> Iterator[SelfTestFinding]:
    """Yield the findings of one rank by itself."""
    yield run_check("starts of a process", check_start_rate)
    yield run_check("start of Python", check_python_start)
    yield run_check("CPUs of a rank", lambda: check_cpus(environ, workers))


def check_wake(
    helper: Helper, inbox: SignalInbox, probe: Callable[[], bool] | None = None
) -> SelfTestFinding:
    """Return whether USR1 reaches a rank that waits; `probe` looks for MPI messages."""
    name = "USR1 reaches a rank that waits in its loop"
    name += " with MPI" if probe else ""
    return run_check(name, lambda: check_signal_wakes(helper, inbox, probe))


def check_signal_wakes(
    helper: Helper, inbox: SignalInbox, probe: Callable[[], bool] | None
) -> SelfTestFinding:
    """Return whether a USR1 ends the wait of a rank's loop at once."""
    inbox.take()
    waiter = Waiter(inbox.fd, probe)
    helper.begin(send_signal, os.getpid(), int(signal.SIGUSR1), 0.1)
    begun = time.monotonic()
    while not inbox.any_noted and time.monotonic() - begun < WAKE_SECONDS:
        waiter.wait([], WAKE_SECONDS)
        waiter.restart()
    woken = time.monotonic()
    late = woken - helper.end()
    if signal.SIGUSR1 not in inbox.take():
        return broken("it never came", SIGNAL_REMEDY)
    if late > PROMPT_SECONDS:
        return broken(f"{late:.2f} s late", SIGNAL_REMEDY)
    return holds(f"after {late * 1000:.2g} ms", weight=late)


def check_start_rate() -> SelfTestFinding:
    """Measure how many commands a second one process starts and waits for."""
    count, begun = 0, time.monotonic()
    while count < MAX_STARTS and time.monotonic() - begun < RATE_SECONDS:
        seconds_of(["/bin/true"])
        count += 1
    rate = count / (time.monotonic() - begun)
    return measured(f"{rate:.0f} a second, one after the other", weight=-rate)


def check_python_start() -> SelfTestFinding:
    """Measure how long Python and mpifarm take to start here."""
    bare = seconds_of([sys.executable, "-S", "-c", ""])
    program = "import mpifarm.farm.process, mpifarm.farm.startup"
    whole = seconds_of([sys.executable, "-c", program])
    seen = f"{bare:.2f} s; with mpifarm {whole:.2f} s, from {sys.prefix}"
    follows = (
        "each rank waits that long at the start: have the environment on a file system"
        " made for it, or on the node (an image, a container)"
    )
    return measured(seen, follows if whole > SLOW_START_SECONDS else "", whole)


def seconds_of(argv: Sequence[str], *statuses: int) -> float:
    """Return how long a command takes; raise FarmError for an unexpected status.

    Expected are 0 and `statuses`, as `subprocess` has them (-n: killed by signal n).
    """
    begun = time.monotonic()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        pid = task_command.start_command(argv, command_environment(os.environb), null)
    finally:
        os.close(null)
    try:
        status = task_command.wait_command(pid)
    except BaseException:  # a signal ends the self-test
        if pid in processes.children_of(os.getpid()):  # else the pid may be another's
            processes.kill_group(pid, signal.SIGKILL)
            processes.reap_child(pid)
        raise
    if status not in (0, *statuses):
        raise FarmError(f"{' '.join(argv)} ended with status {status}")
    return time.monotonic() - begun


def check_cpus(environ: Mapping[str, str], workers: int) -> SelfTestFinding:
    """Return a finding on the CPUs of the rank: enough for its workers, not shared."""
    own, total = cpus.cpus_of_rank(), cpus.cpus_of_machine()
    sharers = cpus.find_sharers(environ)
    seen = f"{len(own)} of the node's {total} for {counted(workers, 'worker')}"
    if sharers.count > 1:
        seen += f", in common with {counted(sharers.count - 1, 'more rank')}"
    follows = cpus.binding_warning(environ, len(own), workers, total, sharers)
    return measured(seen, follows, weight=-len(own))
