"""``mpifarm status``: the arguments, and the loop of ``--watch``.

Rules of this file: it prints what `words` and `encoding` make of a `Status`.  Between
two states it holds nothing open.
"""

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from mpifarm.audit.status import Status, read_status
from mpifarm.commands.option_values import TIMES, parse_seconds
from mpifarm.commands.sink import Sink
from mpifarm.commands.status.encoding import encode_status
from mpifarm.commands.status.screen import Screen
from mpifarm.commands.status.words import describe
from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.commands.target import (
    NotBegunError,
    add_target_arguments,
    find_target,
    patience_of,
)
from mpifarm.errors import ExitStatus, InputError
from mpifarm.store.target import SUFFIX, Target
from mpifarm.system.console import Console
from mpifarm.system.patience import try_again

WATCH_SECONDS: Final = 2.0
"""Seconds between two states, unless the user says otherwise."""

MIN_SECONDS: Final = 0.1
MAX_SHARE: Final = 0.25
"""Share of the time that readings take at most, however long the list is."""

MAX_SHOWN: Final = 5
"""Failed tasks that are shown."""

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C, as a shell has it."""

_DESCRIPTION = (
    "Say what goes on in a workdir, also while farms run: how many tasks are finished,"
    " failed, running and waiting, how long it takes still, which farms live and where,"
    " which tasks run longest and on which host, what failed last."
)
_EPILOG = (
    "Exit status: 0, whatever goes on; 2 the command line or an input is wrong; 75 the"
    " disk fails; 130 after Ctrl-C."
)


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm status``: print the state, with ``--watch`` until nothing lives.

    Return the exit status.  Raises `InputError` and `StorageError`.
    """
    chosen = _parse(argv)
    seconds = None if chosen.watch is None else _parse_seconds(chosen.watch)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _run(chosen, console, environ, seconds)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # its reader has seen enough
        pass
    return ExitStatus.ALL_FINISHED


def _run(
    chosen: Any, console: Console, environ: Mapping[str, str], seconds: float | None
) -> None:
    patience = patience_of(console.print_error)
    sink = Sink()
    target, waits = _await_target(chosen, console, environ, seconds, sink)

    def read() -> Status:
        return read_status(target, environ, most_failed=MAX_SHOWN)

    screen = Screen(sink, is_live=seconds is not None)
    while True:
        begun = time.monotonic()
        status = try_again(read, patience)
        cost = time.monotonic() - begun
        # Who has waited for the job sees the farm: it is about to begin.
        waits = waits and not (status.goes_on or status.has_ended_tasks)
        goes_on = status.goes_on or waits
        if chosen.json:
            sink.write(json.dumps(encode_status(status)).encode("ascii") + b"\n")
        else:
            ends = seconds is None or not goes_on
            screen.show(describe(status, screen.width), status.now, is_last=ends)
        if seconds is None or not goes_on:
            return
        sink.wait(max(seconds, cost / MAX_SHARE))


def _await_target(
    chosen: Any,
    console: Console,
    environ: Mapping[str, str],
    seconds: float | None,
    sink: Sink,
) -> tuple[Target, bool]:
    """Return workdir and list, and whether their job was waited for.

    With ``--watch`` (`seconds`), a list whose job waits in the queue is told once.
    Raises `InputError`, `StorageError`, and BrokenPipeError.
    """
    patience = patience_of(console.print_error)
    has_waited = False
    while True:
        try:
            target = try_again(lambda: find_target(chosen, environ), patience)
        except NotBegunError as error:
            if seconds is None:
                raise
            if not has_waited:
                console.print_error(str(error))
            has_waited = True
            sink.wait(seconds)
        else:
            return target, has_waited


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("status", _DESCRIPTION)
    parser.epilog = _EPILOG
    add_target_arguments(parser)
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        help=f"again every SECONDS ({WATCH_SECONDS:g} without a number), until Ctrl-C"
        " or until no farm lives any more; a job that waits is waited for",
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object, on one line"
    )
    return parser.parse_args(_with_seconds(argv))


def _with_seconds(argv: list[str]) -> list[str]:
    """Return `argv` with a number of seconds for each ``--watch``.

    argparse would take the workdir behind ``--watch`` for one.
    """
    words = list[str]()
    for place, word in enumerate(argv):
        after = argv[place + 1] if place + 1 < len(argv) else ""
        if word == "--watch" and not _is_seconds(after, argv):
            word = f"--watch={WATCH_SECONDS}"  # noqa: PLW2901 - the word as it is meant
        words.append(word)
    return words


def _is_seconds(word: str, argv: Sequence[str]) -> bool:
    """Return whether the word behind ``--watch`` is, or was meant to be, a number.

    It was meant so if it names nothing, and another word stands for the list.
    """
    if word.replace(".", "", 1).replace("-", "", 1).isdecimal():
        return True
    if word == "" or word.startswith("-") or _names_something(word):
        return False
    return any(map(_names_something, argv))


def _names_something(word: str) -> bool:
    return any(map(os.path.exists, (word, word + SUFFIX)))


def _parse_seconds(text: str) -> float:
    with suppress(ValueError):
        if (seconds := parse_seconds(text)) >= MIN_SECONDS:
            return min(seconds, 24 * 3600.0)
    raise InputError(
        f"--watch takes seconds, {MIN_SECONDS:g} or more, or nothing, {TIMES}, not"
        f" {text!r:.60}"
    )
