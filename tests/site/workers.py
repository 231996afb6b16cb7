"""What ran when, as a picture: the bars of a timeline, a row for each worker.

Rules of this file: pure; standard library only.
"""

from collections.abc import Sequence
from html import escape
from typing import Any, Final

Event = dict[str, Any]

WIDTH: Final = 780
LEFT: Final = 116
ROW: Final = 24
TOP: Final = 34
GOOD: Final = "#3b7dd8"
BAD: Final = "#d1495b"
INK: Final = "#57606a"
INK_ON_BLACK: Final = "#9aa4ae"


def draw_workers(events: Sequence[Event], title: str) -> str:
    """Return an SVG of the attempts of a timeline."""
    bars = [each for each in events if each["ph"] == "X"]
    names = _names(events)
    rows = sorted({(bar["pid"], bar["tid"]) for bar in bars}, key=names.__getitem__)
    begun = min(bar["ts"] for bar in bars)
    ended = max(bar["ts"] + bar["dur"] for bar in bars)
    scale = (WIDTH - LEFT - 16) / (ended - begun)
    height = TOP + ROW * len(rows) + 28
    lines = [
        _head(height, title),
        _box(LEFT, 8, 12, 12, GOOD) + _word(LEFT + 18, 18, "completed"),
        _box(LEFT + 100, 8, 12, 12, BAD) + _word(LEFT + 118, 18, "failed"),
    ]
    for number, row in enumerate(rows):
        lines.append(_word(0, TOP + number * ROW + 15, ", ".join(names[row])))
    for bar in bars:
        row_number = rows.index((bar["pid"], bar["tid"]))
        x = LEFT + (bar["ts"] - begun) * scale
        color = BAD if "," in bar["cat"] else GOOD
        width = max(1.0, bar["dur"] * scale - 1)
        y = TOP + row_number * ROW
        lines.append(_box(x, y, width, ROW - 4, color, bar["name"]))
    lines += _seconds(ended - begun, scale, height)
    return "\n".join([*lines, "</svg>", ""])


def _names(events: Sequence[Event]) -> dict[tuple[int, int], tuple[str, str]]:
    """Return the names of process and thread by their numbers."""
    ranks, workers = dict[int, str](), dict[tuple[int, int], str]()
    for each in events:
        if each["ph"] == "M" and each["name"] == "process_name":
            ranks[each["pid"]] = each["args"]["name"].partition(" on ")[0]
        elif each["ph"] == "M" and each["name"] == "thread_name":
            workers[each["pid"], each["tid"]] = each["args"]["name"]
    return {key: (ranks[key[0]], name) for key, name in workers.items()}


def _seconds(duration: float, scale: float, height: int) -> list[str]:
    """Return marks below the rows; times of a timeline are microseconds."""
    return [
        _word(LEFT + second * 1e6 * scale, height - 8, f"{second} s")
        for second in range(int(duration / 1e6) + 1)
    ]


def _head(height: int, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" role="img">\n'
        f"<title>{escape(title)}</title>\n"
        f"<style>text{{font:12px system-ui,sans-serif;fill:{INK}}}"
        f"@media (prefers-color-scheme:dark){{text{{fill:{INK_ON_BLACK}}}}}</style>"
    )


def _box(
    x: float, y: float, width: float, height: float, color: str, title: str = ""
) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" rx="2"'
        f' fill="{color}"><title>{escape(title)}</title></rect>'
    )


def _word(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
