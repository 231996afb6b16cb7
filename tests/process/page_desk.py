"""A place to type what a page shows, on hosts of any name, and to compare the output.

Rules of this file: a farm here is a real one; only the names of its hosts, and the
number of its job, are given by the test.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.farm_driver import FarmDriver, assert_ends
from tests.pages import without_varying
from tests.support import Child

HOST = os.uname().nodename

_NAMES = """\
import os
import socket

if hosts := os.environ.get("FARM_TEST_HOSTS", "").split():
    host = hosts[int(os.environ.get("PMI_RANK", "0"))]
    kernel, _, *others = os.uname()
    os.uname = lambda: os.uname_result((kernel, host, *others))
    socket.gethostname = lambda: host
if job := os.environ.get("FARM_TEST_JOB"):
    os.environ["SLURM_JOB_ID"] = job
"""
"""What a Python of the desk runs first."""

SRUN = """\
while [[ $1 == -* ]]; do [[ $1 != -N ]] || shift; shift; done
exec mpirun -n 2 "$@"
"""
"""srun that starts two ranks on this machine, whatever it is asked for."""

Varying = Sequence[tuple[str, str]]

VARYING: Varying = (
    (r"\d+:\d\d min\b(?! ago)", "SECONDS"),
    (r"[\d.]+ tasks/s, about .* left\b.*", "RATE"),  # without a range, if it is small
    (r"\(pid \d+\)", "(PID)"),
    (r"(?<=[^d] )(n\d+ +)\d+ +\d+ +(?=\./)", r"\1RANK WORKER "),
)
"""What is another in each run, beside what is on any page."""


class Desk:
    """A place, and programs in its PATH; squeue knows of no job."""

    def __init__(self, place: FarmDriver) -> None:
        self.place = place
        directory = place.directory
        for name in ("site", "bin"):
            (directory / name).mkdir()
        (directory / "site" / "sitecustomize.py").write_text(_NAMES)
        self.install("mpifarm", f'exec {sys.executable} -m mpifarm "$@"')
        self.install("squeue", "exit 1")
        here = [directory / "bin", directory, Path(sys.prefix, "bin")]
        path = [str(directory / "site"), place.environment.get("PYTHONPATH", "")]
        place.environment |= {
            "PATH": ":".join([*map(str, here), "/usr/bin", "/bin"]),
            "PYTHONPATH": ":".join(filter(None, path)),
            "HOME": str(directory),
        }

    def install(self, name: str, text: str) -> None:
        self.place.write_program(f"bin/{name}", f"#!/bin/bash\n{text}\n")

    def start(self, command: str, hosts: str = "", job: str = "") -> Child:
        """Type a command; the rank r of a farm is on the host r of `hosts`."""
        named = {"FARM_TEST_HOSTS": hosts, "FARM_TEST_JOB": job}
        argv = ["/bin/bash", "-c", command]
        return self.place.start_command(argv, env=named, name="farm")

    def type(self, command: str, status: int = 0, host: str = "") -> list[str]:
        """Type a command to its end; return the lines that it prints."""
        child = self.start(command, host)
        assert_ends(child, status)
        return child.text().splitlines()


def _without(lines: Sequence[str], varying: Varying) -> list[str]:
    found = []
    for line in lines:
        text = line
        for pattern, word in (*varying, *VARYING):
            text = re.sub(pattern, word, text)
        found.append(text)
    return without_varying(found, HOST)


def _is_shown_as(printed: str, shown: str) -> bool:
    """Whether a line is shown so: its end may be left out, as " …"."""
    if shown.endswith(" …"):
        return printed.startswith(shown.removesuffix("…"))
    return printed == shown


def assert_has(
    printed: Sequence[str], shown: Sequence[str], varying: Varying = ()
) -> None:
    """The lines that are shown are among those that were printed, in their order."""
    rest = iter(found := _without(printed, varying))
    for line in _without(shown, varying):
        is_there = any(_is_shown_as(each, line) for each in rest)  # reads on to it
        assert is_there, "\n".join([repr(line), "is not printed in:", *found])


def assert_prints(
    printed: Sequence[str], shown: Sequence[str], varying: Varying = ()
) -> None:
    """The same, and only rows of tables, and the end, may be left out."""
    assert_has(printed, shown, varying)
    heads = _without(_without_rows(shown), varying)
    found = _without(_without_rows(printed), varying)[: len(heads)]
    assert all(map(_is_shown_as, found, heads)), found


def _without_rows(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if not line.startswith("  ")]
