"""The file of ``--metrics``, in Prometheus' text format.

Rules of this file: the file is replaced whole, so that node_exporter's textfile
collector never reads a part of it.  The format is that of
prometheus.io/docs/instrumenting/exposition_formats.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mpifarm.hooks.definitions import HookDefinition
from mpifarm.hooks.sink import Report
from mpifarm.model.events import BROKE_OFF, FarmBegan, FarmEnded
from mpifarm.system.files import replace_unsynced

_LABELS = ("user", "job", "host", "workdir")
_STATES = ("finished", "failed", "running")


class MetricsFile:
    """Writes the last known numbers of the farm to a file."""

    def __init__(self, definition: HookDefinition, report: Report) -> None:
        self._path = definition.options["path"]
        self._title = definition.title
        self._report = report
        self._labels: dict[str, str] = {}
        self._numbers: dict[str, Any] = {}
        self._is_up = True
        self._is_told = False

    def take(self, lines: Sequence[bytes]) -> None:
        """Take in events, and write the file once."""
        for line in lines:
            self._note(json.loads(line))
        if lines:
            self._write()

    def wake_at(self) -> float:
        """Return `inf`: each event is written at once."""
        return float("inf")

    def step(self, now: float) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing: the file stays."""

    def _note(self, event: Mapping[str, Any]) -> None:
        if event["event"] == FarmBegan.event:
            self._labels = {"farm": event["farm"]}
            self._labels |= {name: str(event[name] or "") for name in _LABELS}
        self._is_up = event["event"] not in (FarmEnded.event, BROKE_OFF)
        self._numbers |= event
        if not self._is_up:
            self._numbers |= {"running": 0, "tasks_per_second": 0.0, "ranks_working": 0}

    def _write(self) -> None:
        content = "".join(encode_metrics(self._labels, self._numbers, up=self._is_up))
        staging = f"{self._path}.{os.getpid()}"  # not *.prom, which is all that is read
        try:
            replace_unsynced(self._path, staging, content.encode())
        except OSError as error:
            if not self._is_told:
                self._is_told = True
                self._report(f"{self._title} can't be written: {error.strerror}")


def encode_metrics(
    labels: Mapping[str, str], numbers: Mapping[str, Any], *, up: bool
) -> Iterator[str]:
    """Yield the lines of the file."""
    own = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
    yield from _head("mpifarm_up", "Whether the farm runs.")
    yield f"mpifarm_up{{{own}}} {int(up)}\n"
    yield from _head("mpifarm_tasks", "Tasks of the list by their state.")
    for state in _STATES:
        yield f'mpifarm_tasks{{{own},state="{state}"}} {numbers.get(state, 0)}\n'
    for name, key, text in (
        ("mpifarm_list_tasks", "total", "Tasks of the list."),
        ("mpifarm_tasks_per_second", "tasks_per_second", "Tasks that end per second."),
        ("mpifarm_ranks_working", "ranks_working", "Ranks that get tasks."),
        ("mpifarm_exit_status", "exit_status", "Exit status of the farm."),
    ):
        if key in numbers:
            yield from _head(name, text)
            yield f"{name}{{{own}}} {numbers[key]}\n"
    yield from _head("mpifarm_updated_seconds", "When this was written, since 1970.")
    yield f"mpifarm_updated_seconds{{{own}}} {time.time():.0f}\n"


def _head(name: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}\n"
    yield f"# TYPE {name} gauge\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
