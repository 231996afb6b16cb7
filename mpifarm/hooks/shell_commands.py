"""The commands of ``--on-end`` and ``--on-failure``.

Rules of this file: a shell runs each, with what happened in its environment; no word of
an event becomes part of a command.  One command of ``--on-failure`` runs at a time, the
next `PAUSE_SECONDS` later at the earliest, and tells of all failures since.
"""

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mpifarm.hooks.definitions import HookDefinition
from mpifarm.hooks.sink import Report
from mpifarm.model.events import BROKE_OFF, FarmEnded, TaskFailed
from mpifarm.system.processes import (
    GROUP_POLL,
    find_dead_child,
    kill_group,
    reap_child,
    start_in_group,
)

FIRST_SECONDS = 1.0
"""Seconds from the first failure to the command: others may follow at once."""

PAUSE_SECONDS = 60.0
"""Seconds between two starts of the command of ``--on-failure``."""

COMMAND_SECONDS = 60.0
"""Seconds after which a command is killed."""

END_SECONDS = 80.0
"""Seconds after the last event by which all commands are killed: the helper that looks
after them may have little longer (`helper.ORPHAN_SECONDS`)."""

MAX_FAILURES = 10
"""Failures that one command is told one by one."""

_LOOK_SECONDS = 0.5

_VARIABLES = {
    "MPIFARM_FARM": "farm",
    "MPIFARM_USER": "user",
    "MPIFARM_JOB_ID": "job",
    "MPIFARM_TASKLIST": "tasklist",
    "MPIFARM_WORKDIR": "workdir",
    "MPIFARM_TOTAL": "total",
    "MPIFARM_FINISHED": "finished",
    "MPIFARM_FAILED": "failed",
    "MPIFARM_LEFT": "toprocess",
    "MPIFARM_EXIT_STATUS": "exit_status",
    "MPIFARM_MEANING": "meaning",
    "MPIFARM_REASON": "reason",
}
"""The variables, and the keys of events whose last values they have."""


class ShellCommands:
    """Runs the commands when it is time."""

    def __init__(self, definition: HookDefinition, report: Report) -> None:
        self._on_end = definition.options["on_end"]
        self._on_failure = definition.options["on_failure"]
        self._source = definition.source
        self._report = report
        self._known: dict[str, Any] = {}
        self._failures: list[str] = []
        """Failures that no command was told of, at most `MAX_FAILURES`."""
        self._new = 0
        self._due_at = float("inf")
        self._next_at = float("-inf")
        self._running: dict[int, tuple[str, float]] = {}
        """(option, when to kill it) of each running command, by its pid."""
        self._last_at = float("inf")
        """When to kill a command however late it was started."""
        self._told: set[tuple[str, int]] = set()

    def take(self, lines: Sequence[bytes]) -> None:
        """Take in events; note failures, and run the command of the end."""
        for line in lines:
            self._note(json.loads(line))

    def wake_at(self) -> float:
        """Return when a command is due, or is to be looked after."""
        if self._running:
            return time.monotonic() + _LOOK_SECONDS
        return self._due_at

    def step(self, now: float) -> None:
        """Look after what runs; run the command of failures if it is time."""
        self._look_after(now)
        if now >= self._due_at and not self._is_failure_running():
            self._run_on_failure(now)

    def end(self) -> None:
        """Tell of failures that are untold, and wait for what runs."""
        self._last_at = time.monotonic() + END_SECONDS
        while self._running or self._new:
            if self._new and not self._is_failure_running():
                self._run_on_failure(time.monotonic())
            time.sleep(10 * GROUP_POLL)
            self._look_after(time.monotonic())

    def _note(self, event: Mapping[str, Any]) -> None:
        name = event["event"]
        if name == TaskFailed.event:
            self._note_failure(event)
            return
        self._known |= event
        if name in (FarmEnded.event, BROKE_OFF) and self._on_end:
            failures = event.get("failures", [])
            lines = [f"task {each['task']}: {each['how']}" for each in failures]
            self._run("--on-end", self._on_end, name, lines, len(failures))

    def _note_failure(self, event: Mapping[str, Any]) -> None:
        self._known["failed"] = self._known.get("failed", 0) + 1
        if not self._new:
            self._due_at = max(self._next_at, time.monotonic() + FIRST_SECONDS)
        self._new += 1
        if len(self._failures) < MAX_FAILURES:
            where = f" on {event['host']}" if event["host"] else ""
            how = f"{event['outcome']}, status {event['status']}"
            self._failures.append(f"task {event['task']}: {how}{where}")

    def _run_on_failure(self, now: float) -> None:
        lines, new = self._failures, self._new
        self._failures, self._new, self._due_at = [], 0, float("inf")
        self._next_at = now + PAUSE_SECONDS
        self._run("--on-failure", self._on_failure, TaskFailed.event, lines, new)

    def _run(
        self, option: str, command: str, event: str, failures: Sequence[str], new: int
    ) -> None:
        env = dict(os.environ)
        for name, key in _VARIABLES.items():
            value = self._known.get(key)
            env[name] = "" if value is None else str(value).replace("\0", "")
        env["MPIFARM_EVENT"] = event
        env["MPIFARM_FAILURES"] = "\n".join(failures)
        env["MPIFARM_NEW_FAILURES"] = str(new)
        try:
            pid = start_in_group(["/bin/sh", "-c", command], env)
        except OSError as error:
            self._tell(option, error.errno or 0, f"can't be started: {error.strerror}")
            return
        until = min(time.monotonic() + COMMAND_SECONDS, self._last_at)
        self._running[pid] = (option, until)

    def _look_after(self, now: float) -> None:
        for pid, (option, until) in [*self._running.items()]:
            if find_dead_child(pid) is not None:
                del self._running[pid]
                status = reap_child(pid)
                if status:
                    self._tell(option, status, self._describe(status))
            elif now >= until:
                kill_group(pid, signal.SIGKILL)

    def _is_failure_running(self) -> bool:
        return any(option == "--on-failure" for option, _ in self._running.values())

    def _describe(self, status: int) -> str:
        """Return how a command ended, and how its user can see why."""
        is_of_user = status > 0 and not self._source
        why = "; to see why, put 'exec 2>>FILE;' in front of it" if is_of_user else ""
        return f"ended with status {status}{why}"

    def _tell(self, option: str, status: int, what: str) -> None:
        if (option, status) not in self._told:
            self._told.add((option, status))
            of_site = f" in {self._source}" if self._source else ""
            self._report(f"the command of {option}{of_site} {what}")
