"""A rank's pool in a test: its commands, what it says, what is left of it.

Rules of this file: commands are found by the token in their environment; nothing is
killed but what the pool has started.
"""

import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mpifarm.model.task import Lease, Result
from mpifarm.pool import Pool, PoolDefinition, PoolEvent, WorkerLost
from mpifarm.pool.definition import CreateRunner
from mpifarm.system.processes import children_of
from tests.support import find_pids, is_running, try_rounds, wait_until


class PoolDriver:
    """Feeds a pool as a rank does, and keeps what it has said."""

    def __init__(
        self,
        logs: Path,
        environment: dict[str, str],
        token: str,
        workers: int = 2,
        create_runner: CreateRunner | None = None,
        **definition: Any,
    ) -> None:
        self.logs = logs
        self.token = token
        self.events: list[PoolEvent] = []
        self.seen: set[int] = set()
        """Pids of all workers that there were."""
        self.pool = Pool.launch(create_runner)
        self.pool.start(
            PoolDefinition(
                workers=workers,
                rank=3,
                farm="f" + token,
                workdir=str(logs),
                logs=str(logs),
                environment={
                    os.fsencode(name): os.fsencode(value)
                    for name, value in environment.items()
                },
                **definition,
            )
        )

    @property
    def waits(self) -> str:
        """The command of a task that runs until `allow`."""
        return f"until [ -e {self.logs}/go ]; do sleep 0.02; done"

    def allow(self) -> None:
        """Let the tasks end that wait."""
        (self.logs / "go").touch()

    def submit(self, *commands: str, first: int = 0) -> None:
        for taskid, command in enumerate(commands, first):
            self.pool.submit([Lease(taskid, 1, command)])

    def collect(self, seconds: float = 0.01) -> None:
        select.select(self.pool.read_fds(), (), (), seconds)
        self.events.extend(self.pool.collect())

    def collect_until(self, condition, deadline: float = 30.0) -> None:
        end = time.monotonic() + deadline
        while not condition():
            assert time.monotonic() < end, f"not in {deadline} s; {self.events}"
            self.collect()

    def results(self) -> dict[int, Result]:
        return {event.taskid: event for event in self.events if type(event) is Result}

    def losses(self) -> list[WorkerLost]:
        return [event for event in self.events if isinstance(event, WorkerLost)]

    def run(self, *commands: str, first: int = 0) -> dict[int, Result]:
        """Run these, and wait for all their results."""
        self.submit(*commands, first=first)
        ids = set(range(first, first + len(commands)))
        self.collect_until(lambda: ids <= set(self.results()))
        return self.results()

    def run_in_time(self, command: str, limit: float, first: int = 0) -> Result:
        """Run this until the machine does not stall for its whole `limit` of time."""

        def run(number: int) -> Result | None:
            taskid = first + number
            result = self.run(command, first=taskid)[taskid]
            return result if result.seconds < limit else None

        return try_rounds(run)

    def log(self, taskid: int) -> str:
        path = self.logs / f"log_{taskid}"
        return path.read_text(errors="surrogateescape") if path.exists() else ""

    def worker_pids(self) -> list[int]:
        """The living workers."""
        return [pid for pid in children_of(self.pool.fork_server) if _is_worker(pid)]

    def commands(self) -> list[int]:
        """Whatever runs of what tasks have started."""
        return [pid for pid in find_pids(self.token) if is_running(pid)]

    def end(self) -> None:
        self.pool.kill()
        self.pool.close()
        for pid in find_pids(self.token):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.commands())


def _is_worker(pid: int) -> bool:
    """A fork that has not become a command: it has its parent's program still."""
    return is_running(pid) and _program(pid) == _program(os.getpid())


def _program(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
