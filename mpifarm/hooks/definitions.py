"""The hooks of a farm, as rank 0 hands them to their helpers.

Rules of this file: values that JSON can hold, and the words for them.
"""

import getpass
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import field
from enum import Enum
from typing import Final

from mpifarm.batch.job import find_job
from mpifarm.errors import InputError
from mpifarm.immutable import immutable
from mpifarm.model.events import (
    BROKE_OFF,
    TASK_EVENTS,
    FarmBegan,
    FarmEnded,
    FarmState,
    TaskFailed,
)
from mpifarm.model.settings import HookSettings


class HookKind(Enum):
    """What a helper does with events."""

    EVENTS = "events"
    """Append them to a file."""
    METRICS = "metrics"
    """Keep a file in Prometheus' text format."""
    COMMANDS = "commands"
    """Run commands at failures and at the end."""
    CLASS = "class"
    """Call a class of the user's, or of the site's."""


@immutable
class HookDefinition:
    """A hook: its kind, its options, and who has switched it on."""

    kind: HookKind
    options: Mapping[str, str] = field(default_factory=dict)
    """Of EVENTS and METRICS: ``path``.  Of COMMANDS: ``on_end`` and ``on_failure``.  Of
    CLASS: the arguments of the class."""
    name: str = ""
    """Of a class: the section that names it."""
    python_class: str = ""
    source: str = ""
    """The INI file; empty for an option."""
    path: str = ""
    """A directory of the site's with modules; empty for none."""
    by_site: bool = False
    """Whether the site has switched it on, and not the user."""

    @property
    def events(self) -> frozenset[str] | None:
        """The events that the hook gets; None for all."""
        match self.kind:
            case HookKind.METRICS:
                return _FARM_EVENTS
            case HookKind.COMMANDS if self.options.get("on_failure"):
                return _FARM_EVENTS | {TaskFailed.event}
            case HookKind.COMMANDS:
                return _FARM_EVENTS
            case _:
                return None

    @property
    def watches_tasks(self) -> bool:
        """Whether the hook gets an event for each task."""
        return self.events is None

    @property
    def title(self) -> str:
        """The hook in messages to the user."""
        match self.kind:
            case HookKind.EVENTS:
                return f"the events file {self.options['path']}"
            case HookKind.METRICS:
                return f"the metrics file {self.options['path']}"
            case HookKind.COMMANDS:
                names = ["--on-end", "--on-failure"]
                keys = ["on_end", "on_failure"]
                given = zip(names, keys, strict=True)
                words = [name for name, key in given if self.options.get(key)]
                return f"the command of {' and '.join(words)}"
            case HookKind.CLASS:
                return f"the hook {self.name} ({self.python_class})"

    def describe(self) -> str:
        """Return the line at the farm's start: what is recorded, where, and by whom."""
        by = f", switched on by {self.source}" if self.by_site else ""
        match self.kind:
            case HookKind.EVENTS:
                what = "each task, rank and request of this farm is written to"
                return f"{what} {self.options['path']}{by}"
            case HookKind.METRICS:
                what = "the numbers of this farm are kept in"
                return f"{what} {self.options['path']}{by}"
            case HookKind.COMMANDS:
                end, failure = (self.options.get(k) for k in ("on_end", "on_failure"))
                runs = [f"at the end runs: {end}"] if end else []
                runs += [f"after failures runs: {failure}"] if failure else []
                return f"{'; '.join(runs)}{by}"
            case HookKind.CLASS:
                what = f"hears of each task, rank and request{by}"
                return f"{self.title} {what}"


_FARM_EVENTS = frozenset({FarmBegan.event, FarmState.event, FarmEnded.event, BROKE_OFF})
assert not _FARM_EVENTS & TASK_EVENTS


def leave_out(
    hooks: Iterable[HookDefinition], options: Collection[str]
) -> Iterator[HookDefinition]:
    """Yield `hooks` without those that are like one of the options, as ``--events``."""
    for each in hooks:
        if each.kind is HookKind.COMMANDS:
            yield from define_commands(
                "" if "--on-end" in options else each.options["on_end"],
                "" if "--on-failure" in options else each.options["on_failure"],
                each.source,
            )
        elif _OPTIONS[each.kind] not in options:
            yield each


_OPTIONS: Final = {
    HookKind.EVENTS: "--events",
    HookKind.METRICS: "--metrics",
    HookKind.CLASS: "--hook",
}


def define_by_options(
    settings: HookSettings, environ: Mapping[str, str]
) -> list[HookDefinition]:
    """Return the hooks of the command line but for the classes.

    Raise InputError for a file that can't be written.
    """
    found = []
    for kind, option, given in (
        (HookKind.EVENTS, "--events", settings.events),
        (HookKind.METRICS, "--metrics", settings.metrics),
    ):
        if given is not None:
            path = os.path.abspath(fill_in(given, environ))
            _check_writable(option, path)
            found.append(HookDefinition(kind, {"path": path}))
    return found + define_commands(settings.on_end, settings.on_failure)


def define_commands(
    on_end: str | None, on_failure: str | None, source: str = ""
) -> list[HookDefinition]:
    """Return the hook that runs these commands; [] without any.

    `source` is the file of the site that has them.
    """
    if not on_end and not on_failure:
        return []
    options = {"on_end": on_end or "", "on_failure": on_failure or ""}
    by_site = bool(source)
    return [HookDefinition(HookKind.COMMANDS, options, source=source, by_site=by_site)]


def fill_in(path: str, environ: Mapping[str, str]) -> str:
    """Return a path with ``{user}``, ``{host}`` and ``{job}`` filled in.

    Outside of a batch system, the job is the process: ``pid1234``.
    """
    job = find_job(environ)
    values = {
        "user": name_user(),
        "host": os.uname().nodename,
        "job": job[1] if job else f"pid{os.getpid()}",
    }
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value.replace("/", "_"))
    return path


def name_user() -> str:
    """Return the name of this process's user, or the number if it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _check_writable(option: str, path: str) -> None:
    """Raise InputError if a file can't be written, or its directory can't."""
    directory = os.path.dirname(path)
    if os.path.isdir(path):
        raise InputError(f"{option} {path} is a directory: name a file in it")
    if not os.path.isdir(directory):
        raise InputError(
            f"{option} {path} can't be written: there is no directory {directory}; make"
            " it, or name another file"
        )
    if not os.access(path if os.path.exists(path) else directory, os.W_OK):
        raise InputError(
            f"{option} {path} can't be written: you have no permission; name another"
            " file"
        )
