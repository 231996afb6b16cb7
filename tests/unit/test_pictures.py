"""What was written to a terminal as a picture: the screen, and the frames of a film."""

import re
import xml.etree.ElementTree as ET

import pytest

from tests.site.screen import Frame, Screen, draw

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
