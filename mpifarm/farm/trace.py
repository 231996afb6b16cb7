"""The trace of a rank: a line for each event and effect of its agent and coordinator.

Rules of this file: it is imported only where ``MPIFARM_TRACE`` is set.  It wraps the
methods of the objects that it watches, once, so that a farm without a trace pays
nothing.  It changes no value and decides nothing.  `docs/trace.md` has the format.
"""

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from mpifarm.coordinator.coordinator import OrderNews
from mpifarm.coordinator.effects import Send
from mpifarm.farm.agent import Agent
from mpifarm.model.messages import ToCoordinator
from mpifarm.model.settings import FarmDefinition
from mpifarm.model.task import Lease, Result, RunningTask

Names = list[tuple[str, object]]
"""(name, value) of each word of a line."""

NOT_WRITTEN = frozenset({"now", "command", "started", "worker"})
"""Fields that the time of the line or the workdir has."""


class TraceFormatter(logging.Formatter):
    """The format of a line, with its time as ISO 8601 has it."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03d"


class TraceHandler(logging.FileHandler):
    """The file of a trace."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Drop a line that can't be written: the farm is worth more than its trace."""


class Trace:
    """The trace of one rank, in a file of its own."""

    def __init__(self, path: str) -> None:
        """Open the file to append to it; raises `OSError`."""
        handler = TraceHandler(path, encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(TraceFormatter("%(asctime)s %(message)s"))
        # Not `getLogger`: what the user's own classes configure must not reach it.
        self._logger = logging.Logger("mpifarm.trace", logging.INFO)  # noqa: LOG001
        self._logger.addHandler(handler)

    def close(self) -> None:
        """Close the file; `logging` does it at the end of the process, too."""
        for handler in self._logger.handlers:
            handler.close()

    def write(self, event: str, names: Iterable[tuple[str, object]] = ()) -> None:
        """Write a line: the event, then its names and values."""
        words = [event, *(f"{name}={_show(value)}" for name, value in names)]
        self._logger.info("%s", " ".join(words))

    def _write_value(self, event: str, value: object, first: Names) -> None:
        """Write a message, event or effect; then a line for each task in it."""
        name = type(value).__name__
        if names := _names_of_task(value):
            self.write(f"{event} {name}", [*first, *names])
            return
        for what, names in _lines_of(name, _fields_of(value)):
            self.write(f"{event} {what}", [*first, *names])

    # ---- the agent -------------------------------------------------------------------

    def watch_agent(self, agent: Agent, send: Callable[[ToCoordinator], None]) -> None:
        """Write, from now on, what an agent, which sends by `send`, hears and does."""
        rank: Names = [("rank", agent.rank)]
        through = agent.send_through

        def send_through(send: Callable[[ToCoordinator], None]) -> None:
            # A rank that takes over sends to its own coordinator from then on.
            through(
                _before(send, lambda said: self._write_value("agent out", said, rank))
            )

        send_through(send)
        _replace(agent, "send_through", send_through)
        note_phase = self._create_phase_note("agent", agent, rank)
        _replace(agent, "step", _after(agent.step, note_phase))
        on_message = _before(
            agent.on_message,
            lambda message, now: self._write_value("agent in", message, rank),
        )
        _replace(agent, "on_message", _after(on_message, note_phase))
        on_signal = _before(
            agent.on_signal,
            lambda signum, now: self.write(
                "agent in signal", [*rank, ("signum", int(signum))]
            ),
        )
        _replace(agent, "on_signal", _after(on_signal, note_phase))
        self._watch_pool(agent.pool, rank)

    def _watch_pool(self, pool: Any, rank: Names) -> None:
        """Write, from now on, the leases into the pool and the events out of it."""
        collect, submit = pool.collect, pool.submit

        def collect_and_write() -> Sequence[object]:
            events: Sequence[object] = collect()
            for event in events:
                self._write_value("pool out", event, rank)
            return events

        def write_and_submit(leases: Sequence[Lease]) -> None:
            for lease in leases:
                self._write_value("pool in", lease, rank)
            submit(leases)

        _replace(pool, "collect", collect_and_write)
        _replace(pool, "submit", write_and_submit)

    def _create_phase_note(
        self, part: str, owner: Any, names: Names
    ) -> Callable[[], None]:
        """Return a function that writes the phase of `owner` if it has changed."""
        known = [owner.phase]

        def note() -> None:
            if owner.phase is not known[0]:
                known[0] = owner.phase
                self.write(f"{part} phase", [*names, ("phase", owner.phase)])

        return note

    # ---- the coordinator -------------------------------------------------------------

    def watch_coordinator(self, coordinator: Any) -> None:
        """Write, from now on, a coordinator's every ``on_...``, effect and phase."""
        note_phase = self._create_phase_note("coordinator", coordinator, [])
        for name in dir(coordinator):
            if name.startswith("on_"):
                method = getattr(coordinator, name)
                note = self._create_event_note(name.removeprefix("on_"), method)
                _replace(coordinator, name, _after(_before(method, note), note_phase))
        decide = coordinator.decide

        def decide_and_write(now: float) -> Sequence[object]:
            effects: Sequence[object] = decide(now)
            note_phase()
            for effect in effects:
                self._write_effect(effect)
            return effects

        _replace(coordinator, "decide", decide_and_write)

    def _create_event_note(
        self, event: str, method: Callable[..., object]
    ) -> Callable[..., None]:
        """Return a function that writes a call of `method`, which takes in `event`."""
        if event == "message":
            return lambda rank, message, now: self._write_value(
                "coordinator in", message, [("rank", rank)]
            )
        signature = inspect.signature(method)

        def note(*args: object, **named: object) -> None:
            values = [*signature.bind(*args, **named).arguments.items()]
            for what, names in _lines_of(event, values):
                self.write(f"coordinator in {what}", names)

        return note

    def _write_effect(self, effect: object) -> None:
        if isinstance(effect, Send):
            rank: Names = [("rank", effect.rank)]
            self._write_value("coordinator out", effect.message, rank)
        else:
            self._write_value("coordinator out", effect, [])


# ---- methods in front of methods -----------------------------------------------------


def _replace(owner: object, name: str, method: Callable[..., object]) -> None:
    setattr(owner, name, method)


def _before(
    method: Callable[..., Any], note: Callable[..., None]
) -> Callable[..., Any]:
    """Return `method` with `note` called first, with the same arguments."""

    def noted(*args: Any, **named: Any) -> Any:
        note(*args, **named)
        return method(*args, **named)

    return noted


def _after(method: Callable[..., Any], note: Callable[[], None]) -> Callable[..., Any]:
    """Return `method` with `note` called last."""

    def noted(*args: Any, **named: Any) -> Any:
        returned = method(*args, **named)
        note()
        return returned

    return noted


# ---- values as names -----------------------------------------------------------------


def _lines_of(name: str, values: Names) -> Iterator[tuple[str, Names]]:
    """Yield (title, names) of a message, event or effect, then of each task in it."""
    own: Names = []
    below: list[tuple[str, Names]] = []
    for field, value in values:
        if field in NOT_WRITTEN:
            continue
        if isinstance(value, Lease | Result):
            own += _names_of_task(value)
        elif isinstance(value, FarmDefinition):
            own.append(("farm", value.farm))
        elif is_dataclass(value):
            below += _lines_of(f"{name}.{field}", _fields_of(value))
        elif isinstance(value, OrderNews):
            (_, names), *lines = _lines_of(name, [*value._asdict().items()])
            own += names
            below += lines
        elif isinstance(value, list | tuple) and field != "ranks":
            own.append((field, len(value)))
            below += [(f"{name}.{field}", _names_of_task(each)) for each in value]
        else:
            own.append(("task" if field == "taskid" else field, value))
    yield name, own
    yield from below


def _fields_of(value: Any) -> Names:
    if not is_dataclass(value):
        return []
    return [(each.name, getattr(value, each.name)) for each in fields(value)]


def _names_of_task(value: object) -> Names:
    """Return the names by which a message names a task; [] if `value` is no task."""
    match value:
        case Result():
            names = ("task", "attempt", "outcome", "status", "seconds", "ended")
            fields_named = (
                *(value.taskid, value.attempt, value.outcome, value.status),
                *(value.seconds, value.ended),
            )
            return [*zip(names, fields_named, strict=True)]
        case Lease() | RunningTask():
            return [("task", value.taskid), ("attempt", value.attempt)]
        case int():
            return [("task", value)]
        case (int() as rank, Result() as result):
            return [("rank", rank), *_names_of_task(result)]
        case (int() as taskid, int() | str() as other):
            name = "why" if isinstance(other, str) else "attempt"
            return [("task", taskid), (name, other)]
    return []


def _show(value: object) -> str:
    match value:
        case Enum():
            return _show(value.value)
        case float():
            return f"{value:.3f}"
        case list() | tuple() | set() | frozenset():
            return ",".join(map(_show, sorted(value)))
        case str():
            return (
                value
                if value and value.isprintable() and " " not in value
                else repr(value)
            )
    return str(value)
