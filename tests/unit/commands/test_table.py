"""Tables: aligned, in the width of the terminal, and with nothing that controls it."""

import builtins
import os

import pytest

from mpifarm.commands import table
from mpifarm.commands.table import TableColumn, format_table, shorten, width_of

COLUMNS = (
    TableColumn("id", is_number=True),
    TableColumn("state", styles={"failed": "red"}),
    TableColumn("host"),
    TableColumn("command"),
)
ROWS = [("7", "failed", "", "echo a"), ("10", "finished", "", "echo b" * 9)]


@pytest.fixture
def without_rich(monkeypatch):
    real = builtins.__import__

    def fail(name, *others, **named):
        if name.startswith("rich"):
            raise ImportError(name)
        return real(name, *others, **named)

    monkeypatch.setattr(builtins, "__import__", fail)


def lines(*arguments):
    return "".join(format_table(*arguments)).splitlines()


def test_columns_are_aligned_and_empty_ones_left_out():
    assert lines(COLUMNS, ROWS, None) == [
        "id  state     command",
        " 7  failed    echo a",
        f"10  finished  {'echo b' * 9}",
    ]


def test_the_last_column_is_cut_to_the_terminal(without_rich):
    shown = lines(COLUMNS, ROWS, 40)
    assert shown[2] == f"10  finished  {('echo b' * 9)[:25]}…"
    assert len(shown[2]) == 40


def test_on_a_narrow_terminal_the_command_keeps_some_characters(without_rich):
    assert lines(COLUMNS, ROWS, 10)[2].endswith("  echo becho bech…")


def test_control_characters_are_shown():
    assert lines(COLUMNS, [("1", "\x1b[2J", "", "\r\n")], None)[1] == (
        r" 1  \x1b[2J  \r\n"
    )


def test_a_table_without_rows_has_its_last_column_alone():
    assert lines(COLUMNS, [], None) == ["command"]


def test_long_tables_come_some_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(table, "ROWS_MEASURED", 2)
    monkeypatch.setattr(table, "ROWS_AT_ONCE", 1)
    taken = []

    def rows():
        for number in range(5):
            taken.append(number)
            yield str(number), "x", "", "y"

    pieces = format_table(COLUMNS, rows(), None)
    assert next(pieces) == "id  state  host  command\n"
    assert taken == [0, 1]
    assert [*pieces] == [f" {number}  x            y\n" for number in range(5)]


@pytest.mark.parametrize("at_once", [1, 1000])
def test_rows_behind_those_measured_look_the_same(monkeypatch, at_once):
    monkeypatch.setattr(table, "ROWS_AT_ONCE", at_once)
    odd = ("\x1b[2J", "é漢", "", "a\nb", "x  ", "back\\slash", "\udcff", "\u3000")
    rows = [(str(number), text, "h", odd[-number]) for number, text in enumerate(odd)]
    rows += [(str(number), "plain", "", "") for number in range(3)]
    one_by_one = [lines(COLUMNS, [rows[0], rows[1], row], None)[3] for row in rows[2:]]
    monkeypatch.setattr(table, "ROWS_MEASURED", 2)
    assert lines(COLUMNS, rows, None)[3:] == one_by_one


def test_wide_characters_take_two_columns():
    assert width_of("a漢") == 3
    assert width_of("e\u0301") == 1
    assert shorten("漢漢漢", 6) == "漢漢漢"
    assert shorten("漢漢漢", 5) == "漢漢…"
    assert shorten("漢漢漢", 4) == "漢…"


def test_rich_colours_cells_on_a_terminal_and_leaves_the_layout(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = lines(COLUMNS, ROWS, 40)
    assert "\x1b[31mfailed" in coloured[1]
    monkeypatch.setattr(table, "ROWS_OF_RICH", 0)
    for plain, line in zip(lines(COLUMNS, ROWS, 40), coloured, strict=True):
        text = line
        for code in ("\x1b[1m", "\x1b[31m", "\x1b[0m"):
            text = text.replace(code, "")
        assert text.rstrip() == plain
    monkeypatch.setattr(table, "ROWS_OF_RICH", 500)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in "".join(lines(COLUMNS, ROWS, 40))


def test_rich_wraps_no_line_where_it_takes_the_terminal_for_narrow(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    columns = [TableColumn("id", is_number=True), TableColumn("command")]
    lines = [*format_table(columns, [("1", "echo " + "x" * 150)], 200)]
    assert [line.count("\n") for line in lines] == [1, 1]


def test_the_width_is_that_of_a_terminal(monkeypatch):
    monkeypatch.setattr(os, "isatty", lambda _: False)
    assert table.find_width() is None
    monkeypatch.setattr(os, "isatty", lambda _: True)
    for columns, width in ((132, 132), (0, 80)):
        size = os.terminal_size((columns, 24))
        monkeypatch.setattr(os, "get_terminal_size", lambda _, size=size: size)
        assert table.find_width() == width

    def fail(_descriptor):
        raise OSError

    monkeypatch.setattr(os, "get_terminal_size", fail)
    assert table.find_width() == 80


@pytest.mark.parametrize(
    ("last", "line"),
    [
        ("a", "1  a"),
        ("a  ", "1  a"),
        ("", "1"),
        (" a", "1   a"),
        ("a\n", r"1  a\n"),
        ("é", "1  é"),
    ],
)
def test_lines_end_with_their_text(last, line):
    columns = COLUMNS[:1] + COLUMNS[-1:]
    rows = [("1", last), ("2", "b"), ("3", last)]
    shown = lines(columns, rows, None)
    assert shown[1] == line.rjust(len(line) + 1)
    assert shown[3] == shown[1].replace("1", "3")


@pytest.mark.parametrize(
    ("text", "is_number", "cell"),
    [
        ("ab", False, "ab  "),
        ("ab", True, "  ab"),
        ("漢", False, "漢  "),
        ("漢", True, "  漢"),
    ],
)
def test_cells_are_padded_by_their_width(text, is_number, cell):
    assert table._pad(text, 4, is_number=is_number) == cell


def test_the_last_column_has_what_the_others_leave_of_the_terminal(without_rich):
    columns = (TableColumn("id", is_number=True), TableColumn("command"))
    for width in (40, 41):
        shown = lines(columns, [("1234", "x" * 100)], width)
        assert len(shown[1]) == width
    whole = lines(columns, [("1234", "x" * 34)], 40)[1]
    assert (len(whole), whole[-1]) == (40, "x")
