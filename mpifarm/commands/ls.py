"""``mpifarm ls``: the tasks of a workdir as a table, as ids, or as JSON.

Rules of this file: arguments and words; `mpifarm.audit.selection` chooses the tasks.
"""

import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, repeat, starmap
from typing import Any, Final

from mpifarm.audit.selection import Conditions, select
from mpifarm.audit.view import State, View, is_of, read_view
from mpifarm.commands.ls_json import format_json
from mpifarm.commands.sink import write_all
from mpifarm.commands.statuses import join_statuses, parse_statuses
from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.commands.table import TableColumn, find_width, format_table
from mpifarm.commands.target import add_target_arguments, find_target, patience_of
from mpifarm.errors import ExitStatus, InputError
from mpifarm.model.id_ranges import encode_ids
from mpifarm.model.task import Outcome, decode_text
from mpifarm.model.wording import counted
from mpifarm.store.attempts import (
    COMPLETED,
    NO_OUTCOME,
    Column,
    Columns,
    LastAttempts,
    is_not_run,
    parse_time,
    unescape,
)
from mpifarm.system.console import Console
from mpifarm.system.patience import try_again
from mpifarm.system.time_of_day import encode_time

_DESCRIPTION = (
    "List the tasks of a workdir, also while farms run: the id, the state and the"
    " command of each, and how, where and when its last attempt ran.  Several options"
    " choose the tasks that fulfil all of them; --failed --waiting together choose both"
    " kinds."
)
_EPILOG = (
    "States: finished; failed; running (its farm says so); claimed (a farm that lives"
    " has taken it: it is about to run, or has just begun); waiting; held (it waits"
    " until mpifarm release lets it start); orphaned (its farm has died, and the next"
    " start takes it back); nowhere (a PyTaskFarmer has it, or has lost it)."
    '  Example: mpifarm retry LIST --ids "$(mpifarm ls LIST --failed --status 3'
    ' --ids)".  Exit status: 0 tasks were listed, 1 no task is such, 2 the command line'
    " is wrong."
)

_STATES: Final = {
    "failed": frozenset({State.FAILED}),
    "finished": frozenset({State.FINISHED}),
    "running": frozenset({State.RUNNING, State.CLAIMED}),
    "waiting": frozenset({State.WAITING, State.HELD, State.ORPHANED}),
    "held": frozenset({State.HELD}),
}
"""The states that each option chooses."""

NARROW = 100
"""Columns of a terminal below which times have no year."""

_STYLES: Final = {
    "failed": "red",
    "finished": "green",
    "running": "cyan",
    "claimed": "cyan",
    "held": "yellow",
    "orphaned": "yellow",
    "nowhere": "yellow",
}
_COLUMNS: Final = (
    TableColumn("id", is_number=True),
    TableColumn("state", styles=_STYLES),
    TableColumn("outcome"),
    TableColumn("status", is_number=True),
    TableColumn("host"),
    TableColumn("seconds", is_number=True),
    TableColumn("started"),
    TableColumn("command"),
)

_PLACE: Final = (
    TableColumn("rank", is_number=True),
    TableColumn("worker", is_number=True),
)
"""The columns behind the host, if any task runs; they are of running tasks alone, to
keep the lines short."""

_BEHIND_HOST: Final = 5
"""The number of columns up to the host."""


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm ls``.  Return 0, or 1 if there is no such task.

    Raises `InputError` and `StorageError`.
    """
    chosen = _parse(argv)
    wanted = _conditions(chosen)
    patience = patience_of(console.print_error)
    target = try_again(lambda: find_target(chosen, environ), patience)
    view = try_again(lambda: read_view(target, environ), patience)
    _refuse_unknown(view, wanted)
    now = time.time()
    selection = try_again(
        lambda: select(view, wanted, now, with_attempts=not chosen.ids), patience
    )
    for warning in view.warnings():
        console.print_error(warning)
    if not (selection.taskids or chosen.json):
        console.print_error(_none_found(view, wanted))
    if chosen.ids:
        pieces = iter([f"{encode_ids(selection.taskids)}\n".encode()])
    elif chosen.json:
        pieces = format_json(view, selection, now)
    else:
        width = find_width()
        is_narrow = width is not None and width < NARROW
        rows = _Rows(view, selection.attempts, now, is_narrow=is_narrow)
        lines = format_table(rows.columns, rows.rows(selection.taskids), width)
        pieces = (each.encode("utf-8", "backslashreplace") for each in lines)
    if selection.taskids or chosen.json:
        write_all(pieces)
    return ExitStatus.ALL_FINISHED if selection.taskids else ExitStatus.SOME_FAILED


# ---- arguments ----------------------------------------------------------------------


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("ls", _DESCRIPTION)
    parser.epilog = _EPILOG
    add_target_arguments(parser)
    for name, what in (
        ("failed", "only tasks that have failed"),
        ("finished", "only tasks that have finished"),
        ("running", "only tasks that farms have taken: running and claimed ones"),
        (
            "waiting",
            "only tasks that are still to run: waiting, held and orphaned ones",
        ),
        ("held", "only tasks that wait until mpifarm release lets them start"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=what)
    parser.add_argument(
        "--slowest",
        metavar="N",
        help="only the N tasks whose last attempts took longest, the longest first",
    )
    parser.add_argument(
        "--host",
        metavar="HOST",
        help="only tasks whose last attempt was on this host; a pattern may match"
        " several: 'node0*'",
    )
    parser.add_argument(
        "--longer-than",
        metavar="TIME",
        help="only tasks whose last attempt took longer: seconds, or as 90s, 5m, 1.5h",
    )
    parser.add_argument(
        "--status",
        metavar="STATUS",
        help="only tasks whose last attempt ended with this status, as 1 or 2,137;"
        " -9 and 137 both mean killed by signal 9",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--ids",
        action="store_true",
        help="print only the ids, as 3,7-9, for --ids of mpifarm retry",
    )
    form.add_argument("--json", action="store_true", help="print JSON, for programs")
    return parser.parse_args(join_statuses(argv))


def _conditions(chosen: Any) -> Conditions:
    states = [states for name, states in _STATES.items() if getattr(chosen, name)]
    if chosen.host == "":
        raise InputError("--host needs the name of a host: is a variable not set?")
    return Conditions(
        frozenset().union(*states) if states else None,
        chosen.host,
        None if chosen.longer_than is None else parse_duration(chosen.longer_than),
        None if chosen.status is None else parse_statuses(chosen.status),
        None if chosen.slowest is None else _parse_count(chosen.slowest),
    )


_DURATION = r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(s|m|min|h|d|)"
_UNITS: Final = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """Return the seconds that a word as 90, 90s, 5m or 1.5h means.

    Raises `InputError`.
    """
    match = re.fullmatch(_DURATION, text.strip())
    if match is None:
        raise InputError(
            "--longer-than takes seconds, or a time as 90s, 5m or 1.5h, not"
            f" {text!r:.60}"
        )
    return float(match[1]) * _UNITS[match[2]]


def _parse_count(text: str) -> int:
    if not (text.isdecimal() and text.isascii()) or not int(text[:9]):
        raise InputError(
            f"--slowest takes a number of tasks, 1 or more, not {text!r:.60}"
        )
    return int(text[:9])


def _refuse_unknown(view: View, wanted: Conditions) -> None:
    """Raise `InputError` for states that only the tasklist itself knows."""
    if view.has_own_state and wanted.states is not None:
        raise InputError(
            f"the tasklist handler {view.target.handler!r} keeps the state of the tasks"
            " itself: leave out --failed, --finished, --running, --waiting and --held"
        )


def _none_found(view: View, wanted: Conditions) -> str:
    if not view.total:
        return f"{view.target.workdir} has no tasks"
    total = counted(view.total)
    sentence = f"none of {total} is such" if view.total > 1 else "the task is not such"
    if wanted.need_attempts and not view.read_attempts().lines:
        sentence += ": attempts.tsv has no attempts, because no mpifarm has run any"
    return sentence


# ---- rows ---------------------------------------------------------------------------


class _Rows:
    """The cells of the table, of each task."""

    def __init__(
        self, view: View, attempts: LastAttempts, now: float, *, is_narrow: bool
    ) -> None:
        self._view = view
        self._attempts = attempts
        self._now = now
        self._form = "%m-%d %H:%M:" if is_narrow else "%Y-%m-%d %H:%M:"
        self._minutes: dict[bytes, str] = {}
        self._times: dict[bytes, str] = {}
        """Local times to the minute and to the second: most are those of others."""
        self._has_places = bool(view.running)

    @property
    def columns(self) -> Sequence[TableColumn]:
        """The columns of the rows."""
        places = _PLACE if self._has_places else ()
        return (*_COLUMNS[:_BEHIND_HOST], *places, *_COLUMNS[_BEHIND_HOST:])

    def rows(self, taskids: Sequence[int]) -> Iterator[tuple[str, ...]]:
        """Return the cells of each of these tasks."""
        blocks = self._attempts.blocks(taskids, Column.SECONDS)
        return chain.from_iterable(starmap(self._rows, blocks))

    def _rows(self, taskids: Sequence[int], columns: Columns) -> list[tuple[str, ...]]:
        """Return the cells of some tasks; an odd line is no attempt."""
        try:
            return self._join(taskids, columns)
        except ValueError:
            if len(taskids) == 1:
                columns = LastAttempts({}).columns(taskids, Column.SECONDS)
                return self._join(taskids, columns)
        half = len(taskids) // 2
        first = self._rows(taskids[:half], [each[:half] for each in columns])
        return first + self._rows(taskids[half:], [each[half:] for each in columns])

    def _join(self, taskids: Sequence[int], columns: Columns) -> list[tuple[str, ...]]:
        # Column by column, because there may be a million rows.
        states = [*self._view.states(taskids)]
        ends = map(_find_end, states, *columns[Column.OUTCOME : Column.RANK])
        *cells, have_run = zip(*ends, strict=True)
        times, starts = self._times, columns[Column.STARTED]
        rows = zip(
            map(str, taskids),
            *cells,
            *([repeat("")] * len(_PLACE) if self._has_places else ()),
            [f"{each:.1f}" for each in map(float, columns[Column.SECONDS])],
            [times.get(each[:19]) or self._time(each) for each in starts],
            self._find_texts(taskids),
            strict=False,  # the cells of `_PLACE` are without end
        )
        if all(have_run) and State.RUNNING not in states:
            return [*rows]
        facts = zip(states, have_run, rows, strict=True)
        return [
            self._running(row)
            if state is State.RUNNING
            else row
            if has_run
            else (*row[:-3], "", "", row[-1])
            for state, has_run, row in facts
        ]

    def _find_texts(self, taskids: Sequence[int]) -> Sequence[str]:
        """Return the commands, those that the list does not have by their attempts."""
        texts = self._view.texts(taskids)
        if all(texts):
            return texts
        pairs = zip(texts, taskids, strict=True)
        return [text or find_command(self._attempts, taskid) for text, taskid in pairs]

    def _running(self, row: tuple[str, ...]) -> tuple[str, ...]:
        """Return the cells of a running task, by those of its last attempt."""
        taskid, text = row[0], row[-1]
        place = self._view.running[int(taskid)]
        started = self._time(encode_time(place.started).encode())
        seconds = f"{self._now - place.started:.1f}"
        where = (place.host, str(place.rank), str(place.worker))
        return (taskid, State.RUNNING.value, "", "", *where, seconds, started, text)

    def _time(self, field: bytes) -> str:
        """Return the local time of a start, and keep it.

        Raises ValueError for no time.
        """
        minute = self._minutes.get(field[:16])
        if minute is None:
            local = time.localtime(parse_time(field))
            minute = time.strftime(self._form, local)
            self._minutes[field[:16]] = minute
        found = self._times[field[:19]] = minute + field[17:19].decode("ascii")
        return found


@cache  # Most attempts ended as others, on the same host.
def _find_end(
    state: State, outcome: bytes, status: bytes, signum: bytes, host: bytes
) -> tuple[str, str, str, str, bool]:
    """Return the cells from state to host, and whether an attempt is to be shown.

    Raises ValueError for odd fields.
    """
    if outcome == NO_OUTCOME or not is_of(state, outcome):
        return (state.value, "", "", "", False)
    words = outcome_in_words(outcome, signum, state)
    if is_not_run(outcome):
        return (state.value, words, "", "", False)
    return (state.value, words, str(int(status)), decode_text(host), True)


def find_command(attempts: LastAttempts, taskid: int) -> str:
    """Return the command that a task's last attempt has, "" without an attempt."""
    return decode_text(unescape(attempts.field(taskid, Column.COMMAND)))


def outcome_in_words(outcome: bytes, signum: bytes, state: State) -> str:
    """Return the end of an attempt in words, "" if the state of its task says it.

    Raises ValueError for an odd field.
    """
    if signum != b"0" and outcome == FAILED:
        return f"killed by {name_signal(int(signum))}"
    return "" if outcome == _SAID.get(state) else outcome.decode()


FAILED: Final = Outcome.FAILED.value.encode()
_SAID: Final = {State.FINISHED: COMPLETED, State.FAILED: FAILED}


def name_signal(number: int) -> str:
    """Return the name of a signal, as SIGKILL; ``signal 40`` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
