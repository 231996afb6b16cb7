"""Tables on standard output: aligned text, by rich in colours on a terminal.

Rules of this file: each cell is escaped here, so that no control character of a task
reaches the terminal.  Without rich, and for everyone but a terminal, a table is plain
text.  Rows may come without end: the widths are those of the first ones.
"""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import NamedTuple, Protocol

from mpifarm.system.console import printable

ROWS_MEASURED = 10_000
"""The rows at the beginning by which the widths of the columns are chosen."""
ROWS_OF_RICH = 500
"""The rows above which a table is plain: rich takes a ms for each."""
ROWS_AT_ONCE = 1000
"""Rows that are made into text at once, if they are plain."""
_LEAST_OF_LAST = 16
"""The characters that the last column gets at least, however narrow the terminal."""
GAP = "  "


class TableColumn(NamedTuple):
    """A column; `is_number`: aligned to the right.  `styles` maps cells to rich's."""

    name: str
    is_number: bool = False
    styles: dict[str, str] = {}  # noqa: RUF012 - nobody changes it


def find_width(descriptor: int = 1) -> int | None:
    """Return the columns of the terminal, None if `descriptor` is not a terminal."""
    if not os.isatty(descriptor):
        return None
    try:
        return os.get_terminal_size(descriptor).columns or 80
    except OSError:
        return 80


def format_table(
    columns: Sequence[TableColumn],
    rows: Iterable[tuple[str, ...]],
    width: int | None,
) -> Iterator[str]:
    """Yield the text of a table: the head, then one or more whole lines at a time.

    `width` is that of the terminal: see `Table`.
    """
    left = iter(rows)
    table = Table(columns, [*islice(left, ROWS_MEASURED)], width)
    yield from table.first_lines()
    while block := [*islice(left, ROWS_AT_ONCE)]:
        yield table.format(block)


def _escape(row: tuple[str, ...]) -> tuple[str, ...]:
    # All cells at once, because most are printable.
    return row if "".join(row).isprintable() else tuple(map(printable, row))


def _without_empty(
    columns: Sequence[TableColumn], rows: list[tuple[str, ...]]
) -> tuple[Sequence[TableColumn], list[tuple[str, ...]]]:
    """Return columns and rows without the columns that have no text in any row."""
    places = range(len(columns) - 1)
    kept = [place for place in places if any(row[place] for row in rows)]
    kept.append(len(columns) - 1)
    return (
        [columns[place] for place in kept],
        [tuple(row[place] for place in kept) for row in rows],
    )


def _measure(
    columns: Sequence[TableColumn], rows: Sequence[Sequence[str]], width: int | None
) -> tuple[list[int], int | None]:
    """Return the width of each column but the last, and that, None for any width."""
    cells = [[column.name for column in columns], *rows]
    places = range(len(columns) - 1)
    widths = [max(width_of(row[place]) for row in cells) for place in places]
    if width is None:
        return widths, None
    left = width - sum(widths) - len(GAP) * len(widths)
    return widths, max(_LEAST_OF_LAST, left)


class Table:
    """A table whose layout is that of its first rows, `ROWS_MEASURED` at most.

    `width` is that of the terminal: the last column, which is the longest, is shortened
    to it.  None: nothing is shortened.  A column without any cell is left out, unless
    the table is long.
    """

    def __init__(
        self,
        columns: Sequence[TableColumn],
        first: Sequence[tuple[str, ...]],
        width: int | None,
    ) -> None:
        self._first = [*map(_escape, first)]
        if len(first) < ROWS_MEASURED:
            columns, self._first = _without_empty(columns, self._first)
        self._columns = columns
        self.sizes, self.last = _measure(columns, self._first, width)
        """The widths of the columns; the last is None if nothing is shortened."""
        self._are_numbers = [column.is_number for column in columns[:-1]]
        sized = zip(self._are_numbers, self.sizes, strict=True)
        fields = [f"%{'' if number else '-'}{size}s" for number, size in sized]
        self._form = GAP.join([*fields, "%s"])

    def first_lines(self) -> Iterator[str]:
        """Yield the head and the first rows, in colours on a terminal."""
        names = tuple(column.name for column in self._columns)
        are_few = self.last is not None and len(self._first) <= ROWS_OF_RICH
        color = _find_colors() if are_few else None
        if color is not None:
            yield color(self._columns, self._align(names), is_head=True)
            for row in self._first:
                yield color(self._columns, self._align(row), is_head=False)
            return
        yield self.format([names])
        for begin in range(0, len(self._first), ROWS_AT_ONCE):
            yield self.format(self._first[begin : begin + ROWS_AT_ONCE])

    def format(self, rows: Sequence[tuple[str, ...]]) -> str:
        """Return the lines of some rows; they need not be escaped."""
        if self.last is None:
            # All rows at once, because there may be a million.
            lines = map(str.rstrip, map(self._form.__mod__, rows), repeat(" "))
            text = "\n".join(lines)
            if text.isascii() and is_printable(text.encode("ascii"), len(rows)):
                return f"{text}\n"
        aligned = map(self._align, map(_escape, rows))
        return "".join([f"{GAP.join(cells).rstrip()}\n" for cells in aligned])

    def _align(self, row: Sequence[str]) -> list[str]:
        """Return the cells of a row, padded or shortened."""
        last = row[-1] if self.last is None else shorten(row[-1], self.last)
        return [*self.pad(row[:-1]), last]

    def pad(self, cells: Sequence[str], place: int = 0) -> Iterator[str]:
        """Yield cells as wide as the columns from `place` on."""
        end = place + len(cells)
        sizes, are_numbers = self.sizes[place:end], self._are_numbers[place:end]
        sized = zip(cells, sizes, are_numbers, strict=True)
        return (_pad(cell, size, is_number=number) for cell, size, number in sized)


def is_printable(text: bytes, lines: int) -> bool:
    """Return whether ASCII text is so many lines, and nothing controls a terminal."""
    return text.translate(None, _PRINTABLE) == b"\n" * (lines - 1)


_PRINTABLE = bytes(range(0x20, 0x7F))


def _pad(text: str, size: int, *, is_number: bool) -> str:
    if text.isascii():
        return text.rjust(size) if is_number else text.ljust(size)
    spaces = " " * (size - width_of(text))
    return spaces + text if is_number else text + spaces


def width_of(text: str) -> int:
    """Return the columns that a printable text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(map(_width_of_character, text))


def _width_of_character(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def shorten(text: str, width: int) -> str:
    """Return a printable text in `width` columns, with an ellipsis if it was cut."""
    if width_of(text) <= width:
        return text
    kept = text[: width - 1]
    while width_of(kept) > width - 1:
        kept = kept[:-1]
    return f"{kept}…"


# ---- rich ---------------------------------------------------------------------------


class _Color(Protocol):
    def __call__(
        self, columns: Sequence[TableColumn], cells: Sequence[str], *, is_head: bool
    ) -> str:
        """Return a line, with its newline."""


def _find_colors() -> _Color | None:
    """Return the function that colors a line by rich, None if rich is not here.

    rich obeys ``NO_COLOR`` and ``TERM``.
    """
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return None
    console = Console(force_terminal=True, highlight=False)

    def color(
        columns: Sequence[TableColumn], cells: Sequence[str], *, is_head: bool
    ) -> str:
        line = Text()
        for place, (column, cell) in enumerate(zip(columns, cells, strict=True)):
            style = "bold" if is_head else column.styles.get(cell.strip(), "")
            line.append(GAP if place else "").append(cell, style)
        line.rstrip()
        with console.capture() as capture:
            # The cells have the width that the terminal had; rich may find another one.
            console.print(line, soft_wrap=True)
        return str(capture.get())

    return color
