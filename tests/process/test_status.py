"""``mpifarm status`` beside real farms: what runs, what died, and ``--watch``."""

import errno
import fcntl
import json
import os
import pty
import re
import signal
import struct
import termios
import time

import pytest

from tests.farm_driver import FARM_PARTS, MPIFARM, Part, send_signal
from tests.support import wait_until

HANGS = "touch started.$PROC_NUMBER; [ -e go ] || sleep 1000; true"

TELLS_SOON = ("--verbose",)
"""A farm tells what runs each half second then, and not each five."""

TOLD = 60.0
"""Seconds until a farm has told what runs, on a busy machine."""


def ask(place):
    """``mpifarm status --json``, as it is told."""
    child = place.start_command([*MPIFARM, "status", "tasks.txt", "--json"])
    assert child.wait(60) == 0, child.text()
    return json.loads(child.text())


def ask_until(place, holds):
    """The first status for which `holds`, once a task has begun."""
    found = {}
    place.wait_for_marks("started", 1)

    def look():
        found.update(ask(place))
        return holds(found)

    wait_until(look, TOLD)
    return found


def test_the_numbers_are_those_of_the_workdir(create_place):
    place = create_place(["true"] * 5 + ["echo no; exit 3"] * 2 + [HANGS] * 3)
    place.launch(*TELLS_SOON, "-n", "2")
    place.wait_for_marks("started", 2)
    found = ask_until(place, lambda status: len(status["running"]) == 2)
    finished, failed = place.finished(), place.failed()
    assert found["counts"]["finished"] == len(finished)
    assert found["counts"]["failed"] == len(failed)
    assert sorted(each["id"] for each in found["running"]) == place.marks("started")
    assert {each["host"] for each in found["running"]} == {os.uname().nodename}
    assert {each["last_line"] for each in found["failed"]} == {"no"}
    assert found["finished_by_others"] == 0
    (farm,) = found["farms"]
    assert (farm["life"], farm["workers"]) == ("alive", 2)
    place.allow()
    place.kill_all_but_commands()


def test_a_farm_that_was_killed_keeps_its_last_state(create_place):
    place = create_place([HANGS] * 2)
    child = place.launch(*TELLS_SOON, "-n", "2")
    ask_until(place, lambda status: len(status["running"]) == 2)
    place.kill(child)
    found = ask(place)
    assert found["running"] == []
    assert not found["goes_on"]
    (farm,) = found["farms"]
    assert farm["life"] == "dead"
    assert sorted(each["id"] for each in farm["ran"]) == [0, 1]
    assert {each["host"] for each in farm["ran"]} == {os.uname().nodename}
    # Its tasks go back when the next farm starts, which ends; the dead one is told of.
    place.allow()
    place.finish()
    found = ask(place)
    assert found["counts"]["finished"] == 2
    assert [each["ran"] for each in found["farms"]] == [[]]


def test_a_suspended_farm_still_lives(create_place):
    place = create_place([HANGS])
    child = place.launch(*TELLS_SOON, "-n", "1")
    ask_until(place, lambda status: len(status["running"]) == 1)
    send_signal(place.pids(*FARM_PARTS), signal.SIGSTOP)
    (farm,) = ask(place)["farms"]
    assert farm["life"] == "alive"
    send_signal(place.pids(*FARM_PARTS), signal.SIGCONT)
    place.allow()
    place.kill(child)


def test_watch_ends_with_the_farm(create_place):
    place = create_place([HANGS] * 2)
    farm = place.launch(*TELLS_SOON, "-n", "2")
    place.wait_for_marks("started", 2)
    words = [*MPIFARM, "status", "--watch", "0.2", "tasks.txt"]
    child = place.start_command(words)
    wait_until(lambda: child.text().count("== 20") > 2, TOLD)
    place.allow()
    # The tasks that run wait for no file any more, but for their sleep.
    send_signal(place.pids(Part.COMMAND), signal.SIGKILL)
    farm.wait()
    assert child.wait(60) == 0, child.text()
    last = child.text().rpartition("== 20")[2]
    assert "0 running, 0 waiting" in last
    assert "no farm runs since" in last
    assert "died" not in last


def test_watch_waits_for_a_job_that_is_in_the_queue(create_place):
    place = create_place([HANGS])
    place.workdir.mkdir()
    (place.workdir / "job.slurm").touch()
    words = [*MPIFARM, "status", "--watch", "0.2", "tasks.txt"]
    child = place.start_command(words)
    wait_until(lambda: "no farm has begun this list yet" in child.text(), TOLD)
    (place.workdir / "lock").touch()  # as a farm does before its claim
    wait_until(lambda: "no farm runs" in child.text(), TOLD)
    farm = place.launch(*TELLS_SOON, "-n", "1")
    wait_until(lambda: "1 running, 0 waiting" in child.text(), TOLD)
    place.allow()
    send_signal(place.pids(Part.COMMAND), signal.SIGKILL)
    farm.wait()
    assert child.wait(60) == 0, child.text()
    assert child.text().count("no farm has begun") == 1


@pytest.mark.parametrize("columns", [80, 200])
def test_on_a_terminal_watch_redraws_and_ends_with_130_at_ctrl_c(create_place, columns):
    place = create_place([f"{HANGS} # {'long ' * 60}"])
    farm = place.launch(*TELLS_SOON, "-n", "1")
    ask_until(place, lambda status: len(status["running"]) == 1)
    words = [*MPIFARM, "status", "--watch", "0.3", "tasks.txt"]
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(place.directory)
        environment = {**place.environment, "NO_COLOR": "1"}
        os.execve(words[0], words, environment)
    os.set_blocking(terminal, False)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    shown = Shown(terminal)
    wait_until(lambda: shown.read().count("\x1b[H\x1b[J") > 3, TOLD)
    os.write(terminal, b"\x03")
    wait_until(lambda: shown.find_end(pid) is not None, 30)
    os.close(terminal)
    assert shown.status == 130
    assert "Traceback" not in shown.text
    state = shown.text.split("\x1b[H\x1b[J")[-1]
    lines = re.sub(r"\x1b\[[0-9;]*m", "", state).splitlines()
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("     0  ") for line in lines)
    place.kill(farm)


class Shown:
    """What a terminal has shown so far."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self.text = ""
        self.status: int | None = None

    def read(self) -> str:
        try:
            self.text += os.read(self._terminal, 1 << 16).decode()
        except BlockingIOError:
            time.sleep(0.05)
        except OSError as error:
            if error.errno != errno.EIO:  # nobody writes to it any more
                raise
        return self.text

    def find_end(self, pid: int) -> int | None:
        """Return the exit status of the process, None while it runs."""
        self.read()
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            self.status = os.waitstatus_to_exitcode(status)
        return self.status
