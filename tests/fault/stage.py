"""Where farms of fault tests play: a scene, and the processes that act on it.

Rules of this file: each stage has a token of its own, so that several can play at the
same time; what it has started it ends, by pid.
"""

import os
import signal
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.farm_driver import Member, find_members
from tests.fault.evidence import Scene, Snapshot, Task
from tests.process.farms import NAME_VARIABLE, environment_of
from tests.support import (
    ROOT,
    TOKEN_VARIABLE,
    Child,
    Launch,
    clean_environment,
    kill_survivors,
    survivors,
    wait_until,
)

FARM_DEADLINE = 40.0
"""Seconds that a farm of short tasks gets on a busy machine; beyond, it hangs.  A rank
that hears nothing ends after 30 s by itself."""


class Stage:
    """A scene with farms; a context manager that leaves no process behind."""

    def __init__(self, directory: Path, tasks: Sequence[Task]) -> None:
        self.scene = Scene(directory, tasks)
        self.scene.build()
        self.snapshots: list[Snapshot] = []
        self.token = uuid.uuid4().hex
        self.environment = clean_environment(os.environ)
        self.environment[TOKEN_VARIABLE] = self.token
        # this tree, whatever is installed
        self.environment["PYTHONPATH"] = str(ROOT)
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for child in self._children:
            child.end()
        kill_survivors(self.token)

    def start(self, launch: Launch, name: str) -> Child:
        """Start a farmer; its processes carry the `name`."""
        output = self.scene.directory / f"output-{len(self._children)}.{name}.txt"
        environment = {**launch.env, NAME_VARIABLE: name}
        child = Child(Launch(launch.argv, environment), self.scene.directory, output)
        self._children.append(child)
        return child

    def alone(
        self,
        *options: str,
        before: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> Launch:
        """A farm of one process; `before` is put in front of its command line."""
        argv = [sys.executable, "-m", "mpifarm", self.scene.tasklist.name]
        env = {**self.environment, **(variables or {})}
        return Launch([*before, *argv, "--mpi", "off", *options], env)

    def resume(self, launch: Launch, name: str) -> Child:
        """Start a farm that nothing happens to, with a snapshot from before it."""
        self.take_snapshot()
        return self.start(launch, name)

    def take_snapshot(self) -> None:
        """What is recorded now must not run again."""
        snapshot = self.scene.take_snapshot(time.time())
        self.snapshots.append(snapshot._replace(moment=time.time()))

    def members(self, name: str) -> list[Member]:
        """The processes of a farmer."""
        mark = f"{NAME_VARIABLE}={name}".encode()
        found = find_members(self.token)
        return [member for member in found if mark in environment_of(member.pid)]

    def await_end(self, name: str, deadline: float) -> list[str]:
        """Sentences about the processes of a farmer that live on after it; they end."""
        try:
            wait_until(lambda: not self.members(name), deadline)
        except AssertionError:
            orphans = self.members(name)
            for orphan in orphans:
                with suppress(ProcessLookupError):
                    os.kill(orphan.pid, signal.SIGKILL)
            return [f"{name} has left orphans: {orphans}"]
        return []

    def judge_survivors(self) -> list[str]:
        """A sentence where any process is left."""
        left = survivors(self.token)
        return [f"processes are left: {left}"] if left else []

    def outputs(self) -> str:
        """What all farmers have printed, the last lines of each."""
        return "\n".join(
            f"--- {child.output.name}: {child.process.returncode}\n"
            + "\n".join(child.text().splitlines()[-25:])
            for child in self._children
        )
