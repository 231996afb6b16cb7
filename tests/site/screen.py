"""A screen as a picture: what was written to a terminal, drawn as SVG.

Rules of this file: pure; standard library only.  The screen knows the sequences that
mpifarm and rich write, and no others.  What moves stands still for readers who have
asked their system for that.
"""

import re
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

_PIECES = re.compile(r"\r|\n|\x1b\[K|\x1b\[A|\x1b\[[\d;]*m|[^\x00-\x1f\x7f]")
_SGR = re.compile(r"\x1b\[([\d;]*)m")

COLORS: Final = {
    "1": "#ffffff",
    "2": "#8b949e",
    "31": "#ff7b72",
    "32": "#7ee787",
    "33": "#e3b341",
    "34": "#79c0ff",
    "35": "#d2a8ff",
    "36": "#76e3ea",
}
"""By the codes of "select graphic rendition"; the first of a sequence counts."""

INK: Final = "#e6edf3"
PAPER: Final = "#0d1117"
WIDTH: Final = 8.4
"""Of a character of 14 pixels in most monospaced fonts."""

HEIGHT: Final = 20
MARGIN: Final = 16


class Cell(NamedTuple):
    """A character and its colour."""

    letter: str
    color: str


Line = tuple[Cell, ...]

_BLANK = Cell(" ", INK)


class Frame(NamedTuple):
    """What the screen shows from a moment on, in seconds."""

    moment: float
    lines: tuple[Line, ...]


class Screen:
    """The lines that stand on a terminal of so many columns, the oldest first."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._lines: list[list[Cell]] = [[]]
        self._row = self._column = 0
        self._color = INK

    def write(self, text: str) -> None:
        """Take in what was written."""
        assert not _PIECES.sub("", text), text
        for piece in _PIECES.findall(text):
            self._take(piece)

    def _take(self, piece: str) -> None:
        if found := _SGR.fullmatch(piece):
            code = found[1].partition(";")[0]
            self._color = COLORS.get(code, INK)
            return
        match piece:
            case "\r":
                self._column = 0
            case "\n":
                self._break()
            case "\x1b[K":
                del self._lines[self._row][self._column :]
            case "\x1b[A":
                self._row = max(0, self._row - 1)
            case _:
                self._put(piece)

    def _break(self) -> None:
        self._row += 1
        if self._row == len(self._lines):
            self._lines.append([])

    def _put(self, letter: str) -> None:
        if self._column == self._columns:
            self._break()
            self._column = 0
        line = self._lines[self._row]
        line += [_BLANK] * (self._column + 1 - len(line))
        line[self._column] = Cell(letter, self._color)
        self._column += 1

    def end_line(self) -> None:
        """Begin a line, unless one has just begun: a killed program ends none."""
        if self._column:
            self.write("\r\n")

    def shown(self, rows: int) -> tuple[Line, ...]:
        """Return the last `rows` lines."""
        return tuple(tuple(line) for line in self._lines[-rows:])


def draw(frames: Sequence[Frame], columns: int, rows: int, title: str) -> str:
    """Return an SVG that shows the frames one after the other, and begins again.

    The last frame has no end of its own: it stays as long as the one before it, and at
    least five seconds.  One frame alone is a picture that stands still.
    """
    width = round(columns * WIDTH + 2 * MARGIN)
    height = rows * HEIGHT + 2 * MARGIN
    names: dict[Line, str] = {}
    film = "".join(_frame(each, i * height, names) for i, each in enumerate(frames))
    defined = "".join(_define(line, name) for line, name in names.items())
    inner = height - 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img">\n'
        f"<title>{escape(title)}</title>\n"
        f"<style>text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"
        f"'DejaVu Sans Mono',monospace;fill:{INK};white-space:pre}}"
        f"{_motion(frames, height)}</style>\n"
        f"<defs>{defined}</defs>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>\n'
        f'<svg x="{MARGIN}" y="{MARGIN}" width="{width - MARGIN}" height="{inner}">'
        f'<g class="film">{film}</g></svg>\n</svg>\n'
    )


def _frame(frame: Frame, top: int, names: dict[Line, str]) -> str:
    uses = []
    for row, line in enumerate(frame.lines):
        if line:
            name = names.setdefault(line, f"l{len(names)}")
            uses.append(f'<use href="#{name}" y="{top + row * HEIGHT}"/>')
    return "".join(uses) + "\n"


def _define(line: Line, name: str) -> str:
    spans = []
    for start, end in _runs(line):
        text = "".join(cell.letter for cell in line[start:end])
        if text.strip():
            at = f'x="{start * WIDTH:.1f}" textLength="{len(text) * WIDTH:.1f}"'
            spans.append(
                f'<tspan {at} fill="{line[start].color}">{escape(text)}</tspan>'
            )
    return f'<text id="{name}" y="15" xml:space="preserve">{"".join(spans)}</text>\n'


def _runs(line: Line) -> list[tuple[int, int]]:
    """Return where pieces of one colour begin and end."""
    starts = [
        i for i, cell in enumerate(line) if i == 0 or cell.color != line[i - 1].color
    ]
    return [*zip(starts, [*starts[1:], len(line)], strict=True)]


def _motion(frames: Sequence[Frame], height: int) -> str:
    if len(frames) == 1:
        return ""
    begun = frames[0].moment
    last = max(5.0, frames[-1].moment - frames[-2].moment)
    whole = frames[-1].moment - begun + last
    steps = "".join(
        f"{100 * (each.moment - begun) / whole:.2f}%"
        f"{{transform:translateY({-number * height}px)}}"
        for number, each in enumerate(frames)
    )
    end = f"translateY({-(len(frames) - 1) * height}px)"
    return (
        f"@keyframes film{{{steps}100%{{transform:{end}}}}}"
        f".film{{transform:{end};animation:film {whole:.1f}s steps(1,end) infinite}}"
        "@media (prefers-reduced-motion:reduce){.film{animation:none}}"
    )
