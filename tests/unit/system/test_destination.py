"""Where an output ends, behind launchers that are shell scripts with their names."""

import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
