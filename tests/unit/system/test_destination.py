"""Where an output ends, behind launchers that are shell scripts with their names."""

import fcntl
import os
import pty
import shutil
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpifarm.system import destination
from mpifarm.system.destination import Destination, Place, find_destination

TELL = """
import os, sys
from mpifarm.system.destination import find_destination
found = find_destination(1, is_launched=True)
with open("told", "w") as file:
    file.write(f"{found.place.name} {found.count_columns()}")
"""


class Site:
    """A directory with programs that are named as launchers, and a terminal."""

    def __init__(
        self, directory: Path, terminal: int, environment: dict[str, str]
    ) -> None:
        self.directory = directory
        self.terminal = terminal
        path = f"{directory}:{os.environ['PATH']}"
        self.environment = {**environment, "PATH": path}
        rank = directory / "rank"
        rank.write_text(f"#!{sys.executable}\n{TELL}")
        rank.chmod(0o755)

    def tell(self, shell: str) -> str:
        """Return what a rank finds that a shell script starts as ``rank``."""
        script = self.directory / "script"
        script.write_text(shell)
        subprocess.run(
            ["bash", str(script)],
            cwd=self.directory,
            stdout=self.terminal,
            env=self.environment,
            check=True,
        )
        return (self.directory / "told").read_text()


@pytest.fixture
def site(tmp_path: Path, farm_environment: dict[str, str]) -> Iterator[Site]:
    master, slave = pty.openpty()
    for name in ("mpirun", "hydra_pmi_proxy", "slurmstepd", "prted", "wrapper"):
        shutil.copy("/bin/bash", tmp_path / name)
    yield Site(tmp_path, slave, farm_environment)
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    ("script", "place"),
    [
        ("mpirun -c 'rank | cat; :'", "FORWARDED 80"),
        ("mpirun -c 'rank | cat; :' | cat", "LOG 80"),
        ("mpirun -c 'rank | cat; :' > file", "LOG 80"),
        ("mpirun -c 'rank > file; :'", "LOG 80"),
        ("mpirun -c 'hydra_pmi_proxy -c \"rank; :\" | cat; :'", "FORWARDED 80"),
        ("mpirun -c 'wrapper -c \"rank; :\" | cat; :'", "FORWARDED 80"),
        ("hydra_pmi_proxy -c 'rank | cat; :' | cat", "UNKNOWN 80"),
        ("prted -c 'rank | cat; :' > /dev/null", "UNKNOWN 80"),
        ("slurmstepd -c 'rank | cat; :'", "UNKNOWN 80"),
        ("slurmstepd -c 'rank; :'", "TERMINAL 80"),
    ],
)
def test_an_output_ends_where_that_of_the_launcher_ends(site, script, place):
    assert site.tell(script) == place


def test_a_terminal_that_shows_no_live_line_is_a_log(site, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert find_destination(site.terminal).place is Place.TERMINAL
    monkeypatch.setenv("TERM", "dumb")
    assert find_destination(site.terminal) == Destination(Place.LOG)


def test_what_is_no_terminal_is_a_log_without_a_launcher(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        assert find_destination(file.fileno()) == Destination(Place.LOG)
    assert find_destination(1000) == Destination(Place.LOG)


def test_a_terminal_that_is_gone_has_the_usual_width():
    assert Destination(Place.FORWARDED, "/proc/1/fd/no").count_columns() == 80


def test_a_terminal_has_its_own_width_unless_it_has_none(site):
    found = find_destination(site.terminal)
    for columns, told in ((132, 132), (0, 80)):
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(site.terminal, termios.TIOCSWINSZ, size)
        before = os.listdir("/proc/self/fd")
        assert found.count_columns() == told
        assert os.listdir("/proc/self/fd") == before


def test_what_can_be_opened_and_is_no_terminal_has_the_usual_width():
    assert Destination(Place.FORWARDED, "/dev/null").count_columns() == 80


# ---- ancestors of a rank, without processes ------------------------------------------

PIPE, OTHER, TERMINAL = "pipe:[1]", "pipe:[2]", "/dev/pts/3"
RANK, LAUNCHER = ("python", OTHER), ("mpirun", TERMINAL)


@pytest.fixture
def behind(monkeypatch):
    """Return where an output ends, by names and outputs from the rank's parent on."""
    ends = os.pipe()

    def find(*ancestors: tuple[str, str], own: str = PIPE) -> Destination:
        processes = dict(enumerate(ancestors, os.getppid()))
        outputs = {str(pid): output for pid, (_, output) in processes.items()}
        outputs["self"] = own
        read: dict[str, Any] = {
            "_read_output": lambda pid, _: outputs.get(pid, ""),
            "_find_parent": lambda pid: pid + 1,
            "_name": lambda pid: processes.get(pid, ("", ""))[0],
        }
        for name, stand_in in read.items():
            monkeypatch.setattr(destination, name, stand_in)
        return find_destination(ends[1], is_launched=True)

    yield find
    for end in ends:
        os.close(end)


@pytest.mark.parametrize(
    "name",
    [
        *("mpiexec", "mpirun", "mpiexec.hydra", "mpiexec.openmpi", "hydra_bstrap_pr"),
        *("orterun", "prterun", "prte", "orted", "pmi_proxy", "hydra_pmi_proxy"),
    ],
)
def test_launchers_are_known_by_the_names_that_the_kernel_keeps(behind, name):
    found = behind((name, TERMINAL), ("bash", TERMINAL))
    assert found.place is Place.FORWARDED
    assert found.path.startswith(f"/proc/{os.getppid()}/fd/")


@pytest.mark.parametrize("terminal", ["/dev/pts/0", "/dev/tty1", "/dev/ttyS0"])
def test_a_launcher_may_have_any_terminal(behind, terminal):
    assert behind(("mpirun", terminal)).place is Place.FORWARDED


@pytest.mark.parametrize(
    ("ancestors", "place"),
    [
        ([("bash", PIPE), LAUNCHER], Place.FORWARDED),
        ([("bash", PIPE), ("bash", PIPE), ("mpirun", "/a/file")], Place.LOG),
        ([("bash", OTHER), LAUNCHER], Place.UNKNOWN),
        ([("mpirun", "")], Place.UNKNOWN),
        ([("mpirun", OTHER), ("bash", TERMINAL)], Place.LOG),
        ([("orted", OTHER), ("bash", TERMINAL)], Place.UNKNOWN),
        ([("pmi_proxy", OTHER)], Place.UNKNOWN),
        ([("pmi_proxy", OTHER), ("mpiexec", OTHER), LAUNCHER], Place.FORWARDED),
        ([("pmi_proxy", OTHER), ("mpiexec", OTHER)], Place.LOG),
        ([("bash", PIPE)] * 40 + [LAUNCHER], Place.UNKNOWN),
    ],
)
def test_launchers_are_looked_for_among_the_ancestors(behind, ancestors, place):
    assert behind(*ancestors).place is place


def test_an_output_of_a_socket_is_forwarded_too(behind, monkeypatch):
    behind(LAUNCHER)  # for its stand-ins
    one, other = socket.socketpair()
    with one, other:
        found = find_destination(one.fileno(), is_launched=True)
    assert found.place is Place.FORWARDED


@pytest.mark.parametrize("content", [b"", b"1 (x", b"1 (x) S", b"1 (x) S ppid"])
def test_a_parent_that_is_unknown_is_none(tmp_path, monkeypatch, content):
    (tmp_path / "stat").write_bytes(content)
    monkeypatch.setattr(
        "builtins.open", lambda *_, real=open: real(tmp_path / "stat", "rb")
    )
    assert destination._find_parent(7) == 0


def test_a_process_that_is_gone_has_neither_parent_nor_name_nor_output():
    gone = 2**22 + 1  # above the largest pid
    assert destination._find_parent(gone) == 0
    assert destination._name(gone) == ""
    assert destination._read_output(str(gone), 1) == ""
    assert destination._find_parent(os.getpid()) == os.getppid()
