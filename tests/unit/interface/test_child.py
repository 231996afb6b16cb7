"""The process of a farm, and Ctrl-C while it starts or ends."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from mpifarm.errors import StorageError
from mpifarm.interface import child as child_module
from mpifarm.interface.child import Child
from mpifarm.interface.interrupts import HeldInterrupts
from tests.support import wait_until

PROGRAM = """
import os, signal, sys, time
heard = []
def note(signum, frame):
    heard.append(signal.Signals(signum).name)
    print(heard[-1], flush=True)
    if heard.count("SIGUSR1") + heard.count("SIGINT") == int(sys.argv[1]):
        os._exit(75)
signal.signal(signal.SIGUSR1, note)
signal.signal(signal.SIGINT, note)
print("ready", flush=True)
while True:
    time.sleep(60)
"""


@pytest.fixture
def start():
    children = []

    def start(signals, *, launcher=False):
        words = ["-c", PROGRAM, str(signals)]
        head, rest = ([sys.executable], words)
        child = Child(head, rest) if launcher else Child([], [*head, *rest])
        children.append(child)
        wait_until(lambda: "ready" in child.last_lines())
        return child

    yield start
    for child in children:
        if not child.has_ended:
            child._process.kill()
            child.wait(30)
        child.close()


def press():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def press_in_first_wait(monkeypatch):
    """Press Ctrl-C while a launcher is too young for the signal that stops a farm."""
    monkeypatch.setattr(child_module, "DEAF_SECONDS", 1000.0)
    wait, waits = Child.wait, list[float]()

    def wait_and_press(child, seconds):
        waits.append(seconds)
        if len(waits) == 1:
            press()
        wait(child, min(seconds, 0.01))

    monkeypatch.setattr(Child, "wait", wait_and_press)
    return waits


def test_a_second_interrupt_does_not_cancel_the_stop(start, press_in_first_wait):
    child = start(2, launcher=True)
    interrupts = child.end()
    assert interrupts.count == 1
    # Python runs the handlers of signals that come together in their own order.
    assert {*child.last_lines()} == {"ready", "SIGUSR1", "SIGINT"}
    assert child.status == 75
    assert press_in_first_wait[0] > 900


def test_an_interrupt_waits_until_the_stop_is_sent(start, press_in_first_wait):
    child = start(1, launcher=True)
    with pytest.raises(KeyboardInterrupt):
        child.stop()
    wait_until(lambda: child.has_ended)
    assert child.last_lines() == ["ready", "SIGUSR1"]


def test_what_was_printed_last_is_known_when_it_is_closed(start):
    child = start(1)
    child.end()
    child.close()
    assert child.read_output() == ""
    assert child.last_lines() == ["ready", "SIGUSR1"]


def test_interrupts_are_held_and_passed_on():
    with HeldInterrupts() as interrupts:
        press()
        press()
    assert interrupts.count == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        interrupts.pass_on()
    with HeldInterrupts() as interrupts:
        pass
    interrupts.pass_on()


def test_a_signal_for_which_the_script_has_a_handler_is_held_too():
    def leave(signum, frame):
        raise SystemExit(signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with HeldInterrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGTERM)
            press()
        assert interrupts.count == 2
        with pytest.raises(SystemExit) as left:
            interrupts.pass_on()
        assert left.value.code == signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_script_that_ignores_interrupts_goes_on_doing_so(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with HeldInterrupts() as interrupts:
            press()
        interrupts.pass_on()
        assert interrupts.count == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_starts_and_ends_farms(start):
    ended = list[str]()

    def work():
        child = start(1)
        child.end()
        ended.extend(child.last_lines())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == ["ready", "SIGUSR1"]


def test_a_full_or_missing_place_for_temporary_files_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(StorageError, match="can't make a temporary file"):
        Child([], ["true"])
    assert not Path(tmp_path / "none").exists()
