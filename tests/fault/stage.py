"""Where farms of fault tests play: a scene, and the processes that act on it.

Rules of this file: each stage has a token of its own, so that several can play at the
same time; what it has started it ends, by pid.
"""

import os
import signal
import time
import uuid
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from tests.farm_driver import FarmDriver, Member, Mpirun
from tests.fault.evidence import Scene, Snapshot
from tests.support import (
    ROOT,
    TOKEN_VARIABLE,
    Child,
    Processes,
    clean_environment,
    survivors,
    wait_until,
)

FARM_DEADLINE = 60.0
"""Seconds that a farm of short tasks gets on a busy machine; beyond, it hangs.  A rank
that hears nothing ends after 30 s by itself."""


class Stage:
    """A scene with farms; a context manager that leaves no process behind."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.scene.build()
        directory = scene.directory
        self.snapshots: list[Snapshot] = []
        self.token = uuid.uuid4().hex
        # this tree, whatever is installed
        own = {TOKEN_VARIABLE: self.token, "PYTHONPATH": str(ROOT)}
        self.environment = clean_environment(os.environ) | own
        self._processes = Processes(directory, self.environment)
        self.farm = FarmDriver(directory, self._processes, self.environment)
        self.farm.tasklist, self.farm.workdir = scene.tasklist, scene.workdir

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._processes.end()

    def start(
        self, *options: str, name: str, under: Mpirun | None = None, **others: Any
    ) -> Child:
        """Start a farm of one process, or `under` another launcher.

        What is recorded now must not run again.
        """
        snapshot = self.scene.take_snapshot(time.time())
        self.snapshots.append(snapshot._replace(moment=time.time()))
        if under is None:
            options = ("--mpi", "off", *options)
        return self.farm.start(*options, name=name, under=under, **others)

    def members(self, name: str) -> list[Member]:
        """The processes of a farmer."""
        return self.farm.members(name=name)

    def await_end(self, name: str) -> list[str]:
        """Sentences about the processes of a farmer that live on after it; they end."""
        try:
            wait_until(lambda: not self.members(name))
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
            for child in self._processes.children
        )
