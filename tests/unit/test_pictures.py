"""What was written to a terminal as a picture: the screen, and the frames of a film."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from tests.site.screen import Frame, Screen, draw
from tests.site.workers import draw_workers

SVG = "{http://www.w3.org/2000/svg}"


def texts_of(screen, rows=9):
    return ["".join(cell.letter for cell in line) for line in screen.shown(rows)]


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ("a\r\nb", ["a", "b"]),
        ("1/9 done\r\x1b[K2/9\r\x1b[Kend\r\n", ["end", ""]),
        ("one\r\ntwo\x1b[A\r\x1b[KONE", ["ONE", "two"]),
        ("abcdefgh", ["abcdef", "gh"]),
        ("\x1b[31mred\x1b[0m", ["red"]),
    ],
)
def test_the_screen_shows_what_a_terminal_of_six_columns_shows(written, lines):
    wide = "\r\x1b[K" in written
    screen = Screen(80 if wide else 6)
    screen.write(written)
    assert texts_of(screen) == lines


def test_a_line_that_a_killed_program_has_not_ended_is_ended():
    screen = Screen(20)
    screen.write("4/20 done")
    screen.end_line()
    screen.end_line()
    screen.write("$ ")
    assert texts_of(screen) == ["4/20 done", "$ "]


def test_a_film_stands_still_on_its_last_frame_where_nothing_moves():
    screen, frames = Screen(20), []
    for moment, text in [(0.0, "one"), (1.0, " <two>"), (4.0, " & three")]:
        screen.write(text)
        frames.append(Frame(moment, screen.shown(5)))
    drawn = draw(frames, 20, 5, "numbers")
    (height,) = re.findall(r' height="(\d+)" role', drawn)
    (still,) = re.findall(r"\.film\{transform:translateY\((.*?)px\);animation", drawn)
    assert int(still) == -2 * int(height)
    assert "animation:film 9.0s" in drawn, "the last frame stays five seconds"
    root = ET.fromstring(drawn)
    said = ["".join(each.itertext()) for each in root.iter(f"{SVG}text")]
    assert said == ["one", "one <two>", "one <two> & three"]


def test_each_attempt_of_a_timeline_is_a_bar_in_the_row_of_its_worker():
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "rank 0 on n1"}},
        *(
            {
                "ph": "M",
                "name": "thread_name",
                "pid": 1,
                "tid": tid,
                "args": {"name": f"worker {tid}"},
            }
            for tid in (2, 3)
        ),
        *(
            {"ph": "X", "name": name, "cat": cat, "pid": 1, "tid": tid, "ts": ts}
            | {"dur": 1e6}
            for name, cat, tid, ts in [
                ("./a", "task", 2, 5e6),
                ("./b", "task,failed", 3, 5e6),
                ("./c", "task", 3, 6e6),
            ]
        ),
    ]
    drawn = draw_workers(events, "what ran")
    bar = r'<rect x="([\d.]+)" y="([\d.]+)".* fill="(.*?)"><title>(\./.)</title>'
    bars = {name: (float(x), y, fill) for x, y, fill, name in re.findall(bar, drawn)}
    assert [*bars] == ["./a", "./b", "./c"]
    (a, b, c) = bars.values()
    assert a[2] == c[2] != b[2], "what failed has a colour of its own"
    assert a[1] != b[1] == c[1], "a row for each worker"
    assert a[0] == b[0] < c[0], "by its time"
