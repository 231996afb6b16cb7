"""The process of one hook: reads events from its standard input, until that ends.

Rules of this file: it is started by `start_helper` with the definition as its argument.
What it writes to its standard output is told to the user.  It outlives signals to the
job: the end of its input ends it.
"""

import json
import os
import select
import signal
import sys
import threading
import time
from typing import Any

from mpifarm.errors import InputError
from mpifarm.hooks.definitions import HookDefinition, HookKind
from mpifarm.hooks.sink import Report, Sink
from mpifarm.model.events import BROKE_OFF, encode_line
from mpifarm.system.processes import (
    Companion,
    Environment,
    ignore_signals,
    kill_group,
)
from mpifarm.system.time_of_day import encode_time

END_MARK = b"end\n"
"""The last line of a farm that has ended in order, and of a helper's output."""

ORPHAN_SECONDS = 90.0
"""Seconds for which a helper outlives a rank 0 that was killed: its commands end by
then."""

CHECK_SECONDS = 20.0
"""Seconds for which the import of a hook's class is waited for."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from mpifarm.hooks import helper; helper.{}(sys.argv[2])"
)


def start_helper(definition: HookDefinition, env: Environment) -> Companion:
    """Start the process of a hook; raises OSError."""
    return _start("main", definition, env)


def find_fault(definition: HookDefinition, env: Environment) -> str:
    """Return why the class of a hook can't be one, "" if nothing says so in time.

    Another process imports it: what that does to its process, it does not do to ours.
    """
    try:
        helper = _start("check", definition, env)
    except OSError:
        return ""  # told by whoever starts the hook itself
    said, until = b"", time.monotonic() + CHECK_SECONDS
    try:
        while (piece := helper.read()) is not None and time.monotonic() < until:
            said += piece
            time.sleep(0.0 if piece else 0.01)
    finally:
        helper.end()
    return said.decode("utf-8", "replace").strip()


def check(words: str) -> None:
    """Import the class of the hook that `words` define, and report why that fails."""
    report = _open_reports()
    from mpifarm.hooks.own import import_hook
    from mpifarm.hooks.trusted_import import trusting_modules

    definition = _parse_definition(words)
    try:
        with trusting_modules(definition):
            import_hook(definition)
    except InputError as error:
        report(str(error))


def _start(what: str, definition: HookDefinition, env: Environment) -> Companion:
    words = {
        "kind": definition.kind.value,
        "options": dict(definition.options),
        "name": definition.name,
        "python_class": definition.python_class,
        "source": definition.source,
        "path": definition.path,
        "by_site": definition.by_site,
    }
    # -P: no module of the current directory is taken for one of Python's.
    argv = [
        sys.executable,
        "-P",
        "-c",
        _START.format(what),
        json.dumps(sys.path),
        json.dumps(words),
    ]
    return Companion(argv, env)


def main(words: str) -> None:
    """Run the hook that `words` define, until the input ends."""
    ignore_signals()
    _watch_parent()
    definition = _parse_definition(words)
    report = _open_reports()
    from mpifarm.hooks.trusted_import import trusting_modules

    try:
        with trusting_modules(definition):
            _serve(definition, report)
        report(END_MARK.decode())
    except Exception as error:  # noqa: BLE001 - told, and only this hook ends
        warning = "WARNING: " if definition.by_site else ""
        what = f"{definition.title} fails and is left out ({_in_words(error)})"
        report(f"{warning}{what}")
        sys.exit(1)


def _serve(definition: HookDefinition, report: Report) -> None:
    """Hand all events to the sink of a hook, and end it."""
    sink = _create_sink(definition, report)
    last = _pump(sink)
    if last is not None:
        sink.take([_describe_break(last)])
    sink.end()


def _watch_parent() -> None:
    """Have this process end `ORPHAN_SECONDS` after rank 0 is gone, even if it hangs."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        time.sleep(ORPHAN_SECONDS)
        kill_group(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _parse_definition(words: str) -> HookDefinition:
    values: dict[str, Any] = json.loads(words)
    return HookDefinition(**{**values, "kind": HookKind(values["kind"])})


def _open_reports() -> Report:
    """Return what tells the user; standard output and error become /dev/null."""
    reports = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)

    def report(sentence: str) -> None:
        line = " ".join(sentence.split())
        os.write(reports, line.encode("utf-8", "backslashreplace") + b"\n")

    return report


def _create_sink(definition: HookDefinition, report: Report) -> Sink:
    match definition.kind:
        case HookKind.EVENTS:
            from mpifarm.hooks.events_file import EventsFile

            return EventsFile(definition, report)
        case HookKind.METRICS:
            from mpifarm.hooks.metrics import MetricsFile

            return MetricsFile(definition, report)
        case HookKind.COMMANDS:
            from mpifarm.hooks.shell_commands import ShellCommands

            return ShellCommands(definition, report)
        case HookKind.CLASS:
            from mpifarm.hooks.own import OwnHook

            return OwnHook(definition, report)


def _pump(sink: Sink) -> bytes | None:
    """Hand lines to the sink until the input ends.

    Return the last line if the farm broke off after it, None if it ended in order.
    """
    rest, last = b"", b""
    while True:
        seconds = min(max(0.0, sink.wake_at() - time.monotonic()), 3600.0)
        if select.select([0], [], [], seconds)[0]:
            piece = os.read(0, 65536)
            if not piece:
                return last or None
            *lines, rest = (rest + piece).split(b"\n")
            whole = [line + b"\n" for line in lines]
            if END_MARK in whole:
                sink.take(whole[: whole.index(END_MARK)])
                return None
            sink.take(whole)
            last = whole[-1] if whole else last
        sink.step(time.monotonic())


def _describe_break(last: bytes) -> bytes:
    """Return the event of a farm whose rank 0 is gone without an end."""
    before = json.loads(last)
    when = encode_time(time.time())
    return encode_line(before["n"] + 1, when, BROKE_OFF, before["farm"], {})


def _in_words(error: Exception) -> str:
    from mpifarm.errors import FarmError
    from mpifarm.plugins.loading import in_one_line

    return str(error) if isinstance(error, FarmError) else in_one_line(error)
