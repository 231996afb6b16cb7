"""A bar chart as SVG, by hand: for a page that is read in light and in dark.

Rules of this file: standard library only; values in, text out.  It paints its own
ground, light unless the reader prefers dark: where that isn't known, text on the
reader's own ground could not be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 780
LABEL_WIDTH = 270
VALUE_WIDTH = 130
ROW = 26
BAR = 16
HEAD = 62
GROUP_GAP = 10
FOOT = 14

STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
         fill: #24292f; }
  .ground { fill: #ffffff; }
  .title { font-size: 16px; font-weight: 600; }
  .quiet { fill: #57606a; }
  .mine { font-weight: 600; }
  .bar-limit { fill: #8c959f; }
  .bar-mine { fill: #2f81f7; }
  .bar-peer { fill: #d29922; }
  .line { stroke: #8c959f; stroke-width: 1; stroke-dasharray: 3 4; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .ground { fill: #0d1117; }
    .quiet { fill: #9198a1; }
  }
"""


@dataclass(frozen=True)
class Bar:
    """One row; `kind` is limit, mine or peer."""

    label: str
    value: float
    shown: str
    kind: str


def bar_chart(title: str, subtitle: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars from 0, in the given order; a gap where the kind changes.

    A dashed line goes through all rows at the first bar's value.
    """
    most = max(bar.value for bar in bars)
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    rows: list[str] = []
    top, kind = HEAD, bars[0].kind
    for bar in bars:
        top += GROUP_GAP if bar.kind != kind else 0
        kind = bar.kind
        rows.append(_row(bar, top, max(1.0, room * bar.value / most)))
        top += ROW
    mark = LABEL_WIDTH + room * bars[0].value / most
    line = (
        f'<line class="line" x1="{mark:.1f}" x2="{mark:.1f}" y1="{HEAD}" y2="{top}"/>'
    )
    height = top + FOOT
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            '<rect class="ground" width="100%" height="100%" rx="6"/>',
            f'<text class="title" x="8" y="24">{escape(title)}</text>',
            f'<text class="quiet" x="8" y="44">{escape(subtitle)}</text>',
            line,
            *rows,
            "</svg>\n",
        ]
    )


def _row(bar: Bar, top: float, length: float) -> str:
    base = top + BAR / 2 + 5
    weight = "mine" if bar.kind == "mine" else "quiet"
    return (
        f'<text class="{weight}" x="{LABEL_WIDTH - 10}" y="{base:.1f}"'
        f' text-anchor="end">{escape(bar.label)}</text>'
        f'<rect class="bar-{bar.kind}" x="{LABEL_WIDTH}" y="{top}"'
        f' width="{length:.1f}" height="{BAR}" rx="2"/>'
        f'<text x="{LABEL_WIDTH + length + 8:.1f}" y="{base:.1f}">'
        f"{escape(bar.shown)}</text>"
    )
