"""Tasks as a table: what ``mpifarm ls`` prints.

Rules of this file: columns of ``attempts.tsv`` in, lines out.  There may be a million
tasks: behind the first ones, whose cells tell the widths, most lines are made at once.
"""

import signal
import time
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, repeat, starmap
from typing import Final

from mpifarm.audit.selection import Selection
from mpifarm.audit.view import State, View, is_of
from mpifarm.commands.halves import make_in_halves
from mpifarm.commands.table import (
    GAP,
    ROWS_MEASURED,
    Table,
    TableColumn,
    is_printable,
)
from mpifarm.model.task import Outcome, decode_text
from mpifarm.store.attempts import (
    CANCELLED,
    COMPLETED,
    NO_OUTCOME,
    Column,
    Columns,
    LastAttempts,
    has_run,
    parse_time,
    unescape,
)
from mpifarm.system.time_of_day import encode_time

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


def format_tasks(
    view: View, selection: Selection, now: float, width: int | None
) -> Iterator[bytes]:
    """Yield a table with a line for each task; `width` is that of the terminal."""
    times = _Times(is_narrow=width is not None and width < NARROW)
    rows = _Rows(view, selection.attempts, times, now)
    taskids, blocks = selection.taskids, selection.attempts.blocks
    first = starmap(rows.make, blocks(taskids[:ROWS_MEASURED]))
    table = Table(rows.columns, [*chain.from_iterable(first)], width)
    yield from map(_encode, table.first_lines())
    if rest := taskids[ROWS_MEASURED:]:
        lines = _Lines(view, table, times)

        def make(taskids: Sequence[int]) -> Iterator[bytes]:
            for block in blocks(taskids):
                yield lines.format(*block) or _encode(table.format(rows.make(*block)))

        yield from make_in_halves(make, rest)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


class _Times:
    """Local times of starts."""

    def __init__(self, *, is_narrow: bool) -> None:
        self._form = "%m-%d %H:%M:" if is_narrow else "%Y-%m-%d %H:%M:"
        self._minutes: dict[bytes, bytes] = {}
        self._seconds: dict[bytes, bytes] = {}
        """Times by the beginnings of their fields: most are those of others."""

    def find(self, fields: Sequence[bytes]) -> list[bytes]:
        """Return the local times of these fields; raise ValueError for no time."""
        known = self._seconds
        return [known.get(each[:19]) or self._add(each) for each in fields]

    def _add(self, field: bytes) -> bytes:
        if not field.isascii():
            raise ValueError("no time")
        minute = self._minutes.get(field[:16])
        if minute is None:
            local = time.localtime(parse_time(field))
            minute = time.strftime(self._form, local).encode()
            self._minutes[field[:16]] = minute
        found = self._seconds[field[:19]] = minute + field[17:19]
        return found


class _Lines:
    """Makes the lines of tasks whose last attempts are all shown, and have run."""

    def __init__(self, view: View, table: Table, times: _Times) -> None:
        self._view = view
        self._table = table
        self._times = times
        self._find_end = cache(self._format_end)
        *_, seconds, _started = table.sizes
        self._form = (
            f"%{table.sizes[0]}d{GAP}%b{GAP}%{seconds}.1f{GAP}%b{GAP}%b".encode()
        )

    def format(self, taskids: Sequence[int], columns: Columns) -> bytes:
        """Return the lines of these tasks, b"" if any is not as all others."""
        texts = self._view.encoded_texts(taskids)
        states = self._view.states(taskids)
        ends = [*map(self._find_end, states, *columns[Column.OUTCOME : Column.RANK])]
        are_ours = self._view.plain.keys().isdisjoint(taskids)
        if self._table.last is not None or not (texts and all(ends) and are_ours):
            return b""
        try:
            values = zip(
                taskids,
                ends,
                map(float, columns[Column.SECONDS]),
                self._times.find(columns[Column.STARTED]),
                texts,
                strict=True,
            )
            lines = b"\n".join(map(self._form.__mod__, values))
        except ValueError:  # an odd line
            return b""
        is_plain = is_printable(lines, len(taskids)) and b" \n" not in lines + b"\n"
        return lines + b"\n" if is_plain else b""

    def _format_end(self, state: State, *fields: bytes) -> bytes:
        """Return the cells from state to worker, b"" if no attempt is shown."""
        try:
            *cells, has_run = _find_end(state, *fields)
        except ValueError:
            return b""
        if state is State.RUNNING or not has_run:
            return b""
        if self._view.running:
            cells += [""] * len(_PLACE)
        text = GAP.join(self._table.pad(cells, 1))
        return text.encode() if text.isascii() else b""


class _Rows:
    """The cells of the table, of each task."""

    def __init__(
        self, view: View, attempts: LastAttempts, times: _Times, now: float
    ) -> None:
        self._view = view
        self._attempts = attempts
        self._now = now
        self._times = times
        self._has_places = bool(view.running)

    @property
    def columns(self) -> Sequence[TableColumn]:
        """The columns of the rows."""
        places = _PLACE if self._has_places else ()
        return (*_COLUMNS[:_BEHIND_HOST], *places, *_COLUMNS[_BEHIND_HOST:])

    def make(self, taskids: Sequence[int], columns: Columns) -> list[tuple[str, ...]]:
        """Return the cells of some tasks; an odd line is no attempt."""
        try:
            return self._join(taskids, columns)
        except ValueError:
            if len(taskids) == 1:
                return self._join(taskids, LastAttempts({}).columns(taskids))
        half = len(taskids) // 2
        first = self.make(taskids[:half], [each[:half] for each in columns])
        return first + self.make(taskids[half:], [each[half:] for each in columns])

    def _join(self, taskids: Sequence[int], columns: Columns) -> list[tuple[str, ...]]:
        # Column by column, because there may be a million rows.
        states = [*self._view.states(taskids)]
        ends = map(_find_end, states, *columns[Column.OUTCOME : Column.RANK])
        *cells, have_run = zip(*ends, strict=True)
        rows = zip(
            map(str, taskids),
            *cells,
            *([repeat("")] * len(_PLACE) if self._has_places else ()),
            [f"{each:.1f}" for each in map(float, columns[Column.SECONDS])],
            map(bytes.decode, self._times.find(columns[Column.STARTED])),
            self._find_texts(taskids),
            strict=False,  # the cells of `_PLACE` are without end
        )
        plain = self._view.plain
        if all(have_run) and State.RUNNING not in states and not plain:
            return [*rows]
        facts = zip(states, have_run, rows, strict=True)
        return [
            self._running(row)
            if state is State.RUNNING
            else self._plain(row, state)
            if plain and int(row[0]) in plain
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
        (start,) = self._times.find([encode_time(place.started).encode()])
        seconds = f"{self._now - place.started:.1f}"
        where = (place.host, str(place.rank), str(place.worker))
        how = (State.RUNNING.value, "", "")
        return (taskid, *how, *where, seconds, start.decode(), text)

    def _plain(self, row: tuple[str, ...], state: State) -> tuple[str, ...]:
        """Return the cells of a task of a plain farmer, which tells no duration."""
        last = self._view.plain[int(row[0])]
        signum = b"%d" % (last.signal or 0)
        words = outcome_in_words(last.outcome.encode(), signum, state)
        status = "" if last.status is None else str(last.status)
        starts = self._times.find([last.started.encode()] if last.started else [])
        start = b"".join(starts).decode()
        places = [""] * len(_PLACE) if self._has_places else []
        ended = (state.value, words, status, last.host)
        return (row[0], *ended, *places, "", start, row[-1])


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
    if not has_run(outcome, host):
        words = CANCELLED_EARLY if outcome == CANCELLED else words
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


CANCELLED_EARLY: Final = "cancelled before it ran"
FAILED: Final = Outcome.FAILED.value.encode()
_SAID: Final = {State.FINISHED: COMPLETED, State.FAILED: FAILED}


def name_signal(number: int) -> str:
    """Return the name of a signal, as SIGKILL; ``signal 40`` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
