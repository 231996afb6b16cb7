"""Whole farms for the tests of this directory: a tasklist, its workdir, what ran where.

Rules of this file: it starts processes through the fixture `farm_processes` only, and
reads a workdir as a user would, by its files; the one thing of mpifarm that it asks is
the invariant checker.
"""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mpifarm.tasklists import ListTaskList
from tests.invariants import find_violations
from tests.support import TOKEN_VARIABLE, Child, find_pids, wait_until
from tests.workdir_files import WorkdirFiles

MPIFARM = (sys.executable, "-m", "mpifarm")

StartProcess = Callable[..., Child]
Command = str | bytes

NAME_VARIABLE = "FARM_TEST_NAME"
"""Tells the processes of one farm, its commands among them, from another's."""


class Place(WorkdirFiles):
    """A tasklist in a directory of its own, and the workdir beside it.

    Each element of `commands` is a line, ended by a newline; `content` is the whole
    file instead.
    """

    def __init__(
        self,
        directory: Path,
        processes: StartProcess,
        env: Mapping[str, str],
        commands: Iterable[Command] = (),
        *,
        content: bytes | None = None,
    ) -> None:
        self.directory = directory
        self.tasklist = directory / "tasks.txt"
        super().__init__(directory / "tasks.txt_workdir")
        self._processes = processes
        self.environment = dict(env)
        lines = b"".join(_as_bytes(command) + b"\n" for command in commands)
        self.tasklist.write_bytes(lines if content is None else content)

    # ---- starting farmers ------------------------------------------------------------

    def start(
        self,
        *options: str,
        name: str = "farm",
        env: Mapping[str, str] | None = None,
        before: tuple[str, ...] = (),
    ) -> Child:
        """An mpifarm on the list; `before` is put in front of its command line."""
        environment = {**self.environment, NAME_VARIABLE: name, **(env or {})}
        argv = [*before, *MPIFARM, *options, str(self.tasklist)]
        return self._processes(argv, env=environment, cwd=self.directory)

    def run(self, *options: str, **others: Any) -> int:
        """The exit status of an mpifarm that runs to its end."""
        return self.start(*options, **others).wait()

    def run_words(self, *words: str) -> int:
        """The exit status of an mpifarm with just these words, a subcommand first."""
        argv = [*MPIFARM, *words]
        return self._processes(argv, env=self.environment, cwd=self.directory).wait()

    def start_plain(
        self, plain_farmer: list[str], *options: str, name: str = "plain"
    ) -> Child:
        """A PyTaskFarmer on the list."""
        environment = {**self.environment, NAME_VARIABLE: name}
        argv = [*plain_farmer, *options, str(self.tasklist)]
        return self._processes(argv, env=environment, cwd=self.directory)

    # ---- the processes of a farmer ---------------------------------------------------

    def pids(self, name: str = "farm") -> list[int]:
        """All processes of a farmer: its own and its commands, with all children."""
        mark = f"{NAME_VARIABLE}={name}".encode()
        token = self.environment[TOKEN_VARIABLE]
        return [pid for pid in find_pids(token) if mark in environment_of(pid)]

    def kill(self, child: Child, name: str = "farm") -> None:
        """KILL them all, until none is left."""
        while pids := self.pids(name):
            for pid in pids:
                kill_if_there(pid, signal.SIGKILL)
        child.wait(5)

    def signal_all(self, child: Child, signum: int, name: str = "farm") -> None:
        """The signal to them all, as a batch system sends it; the rank gets it last."""
        for pid in sorted(set(self.pids(name)) - {child.pid}, reverse=True):
            kill_if_there(pid, signum)
        child.send_signal(signum)

    # ---- reading the workdir ---------------------------------------------------------

    @property
    def tasks(self) -> list[str]:
        return list(ListTaskList(str(self.tasklist), str(self.workdir)).tasks)

    def ids(self, name: str, tasks: Sequence[str] | None = None) -> list[int]:
        """The ids of the lines of a status file that count, in their order."""
        return super().ids(name, self.tasks if tasks is None else tasks)

    def counts(self) -> Counter[int]:
        """How often each id stands in ``finished`` and ``failed`` together."""
        return Counter(self.ids("finished") + self.ids("failed"))

    def log(self, taskid: int) -> str:
        return self.content(f"logs/log_{taskid}").decode("utf-8", "surrogateescape")

    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.content("result.json"))
        return result

    def timeline(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = json.loads(self.content("timeline.json"))
        return events

    def violations(self, *, alone: bool = True) -> list[str]:
        """Broken promises; `alone`: no plain farmer has had a hand in it."""
        return find_violations(str(self.workdir), self.tasks, () if alone else None)

    def notes(self, name: str) -> list[str]:
        """The lines of a file that the commands have written beside the tasklist."""
        with suppress(FileNotFoundError):
            return (self.directory / name).read_text().splitlines()
        return []

    def await_notes(self, name: str, count: int, deadline: float = 30) -> list[str]:
        """Wait until that file has so many lines."""
        wait_until(lambda: len(self.notes(name)) >= count, deadline)
        return self.notes(name)

    def script(self, name: str, *lines: str) -> Path:
        """A shell script beside the tasklist, which runs there."""
        path = self.directory / name
        path.write_text("\n".join(["#!/bin/sh", f"cd {self.directory}", *lines, ""]))
        path.chmod(0o755)
        return path


def _as_bytes(command: Command) -> bytes:
    return (
        command
        if isinstance(command, bytes)
        else command.encode("utf-8", "surrogateescape")
    )


# ---- processes -----------------------------------------------------------------------


def environment_of(pid: int) -> list[bytes]:
    """The entries with which a process was started; none where it is gone."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def kill_if_there(pid: int, signum: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signum)


# ---- directories ---------------------------------------------------------------------


def snapshot(directory: Path, *, but: Iterable[str] = ()) -> dict[str, object]:
    """Every path below a directory, with what would tell that it was touched."""
    left_out = {directory / name for name in but}
    return {
        str(path.relative_to(directory)): _state_of(path)
        for path in [directory, *directory.rglob("*")]
        if path not in left_out
    }


def _state_of(path: Path) -> object:
    status = path.lstat()
    content = path.read_bytes() if path.is_file() else None
    return (
        status.st_mode,
        status.st_ino,
        content,
        status.st_mtime_ns if content is not None else None,
    )
