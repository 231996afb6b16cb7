"""The checks of one node: signals, commands and their groups, CPUs, how fast it starts.

Rules of this file: commands are started and ended by `processes`, as a worker does it;
what a check has started it has also ended when it returns.  A signal is only ever sent
to this process or to what it has started, never to a group that others may be in.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from mpifarm import cpus, processes
from mpifarm.errors import FarmError
from mpifarm.launcher import command_environment
from mpifarm.selftest.findings import Finding, Verdict, guard
from mpifarm.selftest.parties import ChildParty
from mpifarm.signals import SignalInbox
from mpifarm.waiting import Waiter

RATE_SECONDS = 0.25
MOST_STARTS = 400

WAKE_SECONDS = 1.0
"""Longest wait of a loop without a signal: a later wake is none."""

PROMPT_SECONDS = 0.5
"""A busy node takes its time; a signal that wakes nobody is found 0.9 s late."""

END_SECONDS = 2.0

_OFTEN = 0.002

_FAMILY = "sleep 60 & (sleep 60 & wait) & wait"
"""A command with children and a grandchild."""

_FAMILY_SIZE = 4

_LEAVER = "setsid sleep 60 & wait"
"""A command whose child makes a session of its own."""


def check_node(
    child: ChildParty, environ: Mapping[str, str], workers: int
) -> Iterator[Finding]:
    """All that one rank can see by itself, before MPI is initialized."""
    checks: dict[str, Callable[[], Finding]] = {
        "USR1 reaches a rank that waits in its loop": partial(
            check_signal_wakes, child, note_usr1()
        ),
        "a signal to a rank leaves its commands alone": check_own_group,
        "a command is killed with its children": check_group_kill,
        "processes that leave their command (setsid) are found": check_orphans,
        "starts of a process": check_start_rate,
        "start of Python": check_python_start,
        "CPUs of a rank": partial(check_cpus, environ, workers),
    }
    for name, check in checks.items():
        yield guard(check, name)


# ---- signals ------------------------------------------------------------------------


def check_signal_wakes(
    child: ChildParty, inbox: SignalInbox, probe: Callable[[], bool] | None = None
) -> Finding:
    """Whether a USR1 ends the wait of a rank's loop at once.

    With `probe` the loop looks for MPI messages besides.
    """
    waiter = Waiter(inbox.fd, probe)
    child.begin("signal", os.getpid(), int(signal.SIGUSR1), 0.1)
    begun = time.monotonic()
    while not inbox.any_noted and time.monotonic() - begun < WAKE_SECONDS:
        waiter.wait([], WAKE_SECONDS)
        waiter.restart()
    woken = time.monotonic()
    late = woken - child.end()
    name = "USR1 reaches a rank that waits"
    name += " in its loop with MPI" if probe else " in its loop"
    if signal.SIGUSR1 not in inbox.take():
        return Finding(name, Verdict.BROKEN, "it never came", SIGNAL_WHY)
    if late > PROMPT_SECONDS:
        return Finding(name, Verdict.BROKEN, f"{late:.2f} s late", SIGNAL_WHY)
    return Finding(name, Verdict.HOLDS, f"after {late * 1000:.2g} ms", weight=late)


def note_usr1() -> SignalInbox:
    """An inbox for USR1 and USR2; what ends the self-test goes on doing so."""
    kept = {
        signum: signal.getsignal(signum)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    inbox = SignalInbox()
    inbox.install()
    for signum, handler in kept.items():
        signal.signal(signum, handler)
    return inbox


SIGNAL_WHY = (
    "farms here don't stop by USR1: give --timeout, shorter than the job's time limit"
)


def check_own_group() -> Finding:
    """Whether a command is out of reach of a signal to the rank or to its group."""
    name = "a signal to a rank leaves its commands alone"
    with _command(["sleep", "60"]) as pid:
        if os.getpgid(pid) == os.getpgrp() or not processes.is_session_leader(pid):
            return Finding(
                name,
                Verdict.BROKEN,
                "commands are in the rank's own group",
                "a command that a stop's signal hits is run again, others are not told",
            )
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.02)
        if not processes.is_alive(pid):
            seen, follows = "the command died of the rank's USR1", _PASSED_ON
            return Finding(name, Verdict.BROKEN, seen, follows)
    seen = "each has a session of its own (tried with a USR1 from within)"
    return Finding(name, Verdict.HOLDS, seen)


_PASSED_ON = "what was running at a stop is run again, as it should be"


# ---- commands and their groups ------------------------------------------------------


def check_group_kill() -> Finding:
    """Whether a command's children and grandchildren die with it."""
    name = "a command is killed with its children and grandchildren"
    processes.adopt_orphans()  # as the pool's parent does: else init has to reap
    with _command(["/bin/sh", "-c", _FAMILY]) as pid:
        if not _await(lambda: len(_below(pid)) >= _FAMILY_SIZE - 1):
            return Finding(name, Verdict.UNTESTED, "the command did not start")
        family = [pid, *_below(pid)]
        processes.kill_group(pid, signal.SIGKILL)
        gone = processes.await_group_end(pid, END_SECONDS)
        left = [each for each in family if processes.is_alive(each)]
        for each in left:
            processes.kill_process(each, signal.SIGKILL)
    if left or not gone:
        follows = "commands that are stopped leave processes behind on this node"
        return Finding(name, Verdict.BROKEN, f"{len(left)} live on", follows)
    return Finding(name, Verdict.HOLDS, f"{_FAMILY_SIZE} processes of it, all gone")


def check_orphans() -> Finding:
    """Whether a child that left its command's session is still found and killed."""
    name = "processes that leave their command (setsid) are found"
    adopting = processes.adopt_orphans()
    with _command(["/bin/sh", "-c", _LEAVER]) as pid:
        _await(lambda: any(map(processes.is_session_leader, _below(pid))))
        leavers = [each for each in _below(pid) if processes.is_session_leader(each)]
        processes.kill_group(pid, signal.SIGKILL)
        processes.kill_process(pid, signal.SIGKILL)
        processes.reap_child(pid)
        found = _await(
            lambda: bool(leavers) and set(leavers) <= set(_below(os.getpid()))
        )
        for each in leavers:
            processes.kill_process(each, signal.SIGKILL)
            processes.reap_child(each)
    if not leavers:
        return Finding(name, Verdict.UNTESTED, "there is no setsid command here")
    if adopting and found:
        seen = "given to their farm when the command is gone, and killable"
        return Finding(name, Verdict.HOLDS, seen)
    return Finding(
        name,
        Verdict.BROKEN,
        "they go to init" if adopting else "this kernel adopts no orphans (prctl)",
        "a command whose worker is killed in its first moment may live on",
    )


@contextmanager
def _command(argv: Sequence[str]) -> Iterator[int]:
    """A command as a worker starts it, KILLed with its group at the end."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        pid = processes.start_command(argv, command_environment(os.environb), null)
    finally:
        os.close(null)
    try:
        yield pid
    finally:
        # Reaped already, the pid may be another's.
        if pid in processes.children_of(os.getpid()):
            processes.kill_group(pid, signal.SIGKILL)
            processes.kill_process(pid, signal.SIGKILL)  # should the group not be one
            processes.reap_child(pid)


def _below(pid: int) -> list[int]:
    """The descendants of a process."""
    with suppress(OSError):
        children = processes.children_of(pid)
        return [*children, *(each for child in children for each in _below(child))]
    return []


def _await(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + END_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_OFTEN)
    return True


# ---- how fast -----------------------------------------------------------------------


def check_start_rate() -> Finding:
    """How many commands a second one process starts and waits for."""
    count, begun = 0, time.monotonic()
    while count < MOST_STARTS and time.monotonic() - begun < RATE_SECONDS:
        seconds_of(["/bin/true"])
        count += 1
    rate = count / (time.monotonic() - begun)
    seen = f"{rate:.0f} a second, one after the other"
    return Finding("starts of a process", Verdict.MEASURED, seen, weight=-rate)


def check_python_start() -> Finding:
    """What Python takes to start here, and mpifarm's modules to be imported."""
    bare = seconds_of([sys.executable, "-S", "-c", ""])
    whole = seconds_of(
        [sys.executable, "-c", "import mpifarm.farm, mpifarm.first_rank"]
    )
    seen = f"{bare:.2f} s; with mpifarm {whole:.2f} s, from {sys.prefix}"
    follows = ""
    if whole > 5.0:
        follows = (
            "each rank waits that long at the start: have the environment on a file"
            " system made for it, or on the node (an image, a container)"
        )
    return Finding("start of Python", Verdict.MEASURED, seen, follows, weight=whole)


def seconds_of(argv: Sequence[str], *also: int) -> float:
    """What a command takes; raises `FarmError` unless it ends with 0 or one of `also`.

    A status is as in `subprocess`: -n is killed by signal n.
    """
    begun = time.monotonic()
    with _command(argv) as pid:
        status = processes.wait_command(pid)
    if status not in (0, *also):
        raise FarmError(f"{' '.join(argv)} ended with status {status}")
    return time.monotonic() - begun


def check_cpus(environ: Mapping[str, str], workers: int) -> Finding:
    """What the rank is bound to, against the number of its workers."""
    own, total = cpus.cpus_of_rank(), cpus.cpus_of_machine()
    sharers = cpus.find_sharers(environ)
    seen = f"{len(own)} of the node's {total} for {workers} workers"
    if sharers.count > 1:
        seen += f", in common with {sharers.count - 1} more ranks"
    follows = cpus.binding_warning(environ, len(own), workers, total, sharers)
    return Finding("CPUs of a rank", Verdict.MEASURED, seen, follows, weight=-len(own))
