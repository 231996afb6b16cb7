"""The lines of a log: what counts, what is passed over, how far is looked."""

import signal

import pytest

from mpifarm.causes import groups, lines
from mpifarm.causes.failure import TAIL, Failure
from mpifarm.causes.known import Weight
from mpifarm.causes.lines import (
    MAX_LINE,
    MAX_LINES,
    NEAR,
    LineReader,
    clean_tail,
    decode_line,
    last_lines,
    last_printed,
    read_line,
    read_text,
)

OWN = b"=== mpifarm: killed by signal 9 ==="


def told(*texts: str, most: int = MAX_LINES) -> str:
    telling = LineReader().find_telling("\n".join(texts).encode(), most)
    return telling.text if telling else ""


@pytest.mark.parametrize("raw", [b"", b"  \t", OWN])
def test_a_line_without_text_and_mpifarms_own_are_nothing(raw):
    assert read_line(raw) is lines._EMPTY


@pytest.mark.parametrize(
    ("raw", "is_indented", "is_frame", "is_header"),
    [
        (b"plain", False, False, False),
        (b"\tindented", True, False, False),
        (b'  File "a.py", line 3, in f', True, True, False),
        (b'File "a.py", line 3, in f', False, False, False),
        (b"Traceback (most recent call last):", False, False, True),
        (b"[rank 3]: Traceback (most recent call last):", False, False, True),
        (b"  error: indented", True, False, False),
        (b"error: at the edge", False, False, False),
    ],
)
def test_the_kind_of_a_line_is_known(raw, is_indented, is_frame, is_header):
    line = read_line(raw)
    assert (line.is_indented, line.is_frame, line.is_header) == (
        *(is_indented, is_frame),
        is_header,
    )
    assert line.is_loud is (line.weight > Weight.NOTHING or is_frame or is_header)


def test_a_message_is_kept_and_a_title_has_it_in_the_next_line():
    assert read_line(b"error: no such file").text == "error: no such file"
    assert read_line(b"fatal error:").text == ""
    assert read_line(b"terminate called after throwing an instance of 'x'").text == ""
    assert read_line(b"error " + b"x" * 999).text == "error " + "x" * (MAX_LINE - 6)


def test_a_row_of_a_stack_trace_is_no_complaint():
    assert read_line(b"at java.error(Main.java:3)").weight is Weight.NOTHING
    assert read_line(b"[ 3] libc.so(abort+0x10)[0x7f]").weight is Weight.NOTHING
    assert read_line(b"error at the start").weight > Weight.NOTHING


def test_the_end_of_a_log_is_looked_at_from_a_whole_line_on():
    assert clean_tail(b"x" * TAIL) == b"x" * TAIL
    long = b"torn line\n" + b"y" * (TAIL - 5) + b"\nend"
    assert clean_tail(long) == b"y" * (TAIL - 5) + b"\nend"
    assert clean_tail(b"a" + b"x" * TAIL) == b"x" * TAIL, "there is no whole one"


def test_only_the_last_attempt_counts():
    again = b"=== mpifarm: started again, attempt 2 ===\n"
    assert (
        clean_tail(b"one\n" + again + b"two\n" + again + b"three") == again + b"three"
    )


def test_what_a_terminal_would_not_show_is_not_looked_at():
    assert clean_tail(b"\x1b[31mred\x1b[0m \x1b]0;title\x07x\r50 %\rend") == (
        b"red x\n50 %\nend"
    )
    assert decode_line(b"a\x00b\xe2\x80\xaec \xff") == "abc \ufffd"
    assert decode_line(b"x" * 999) == "x" * MAX_LINE
    assert read_text(b"[rank 3]: error") == read_text(b"error") == "error"


def test_the_last_lines_are_those_with_text():
    tail = b"a\n \nb  \n" + OWN + b"\n\n"
    assert last_lines(tail) == ("a", "b", OWN.decode())
    assert last_lines(tail, 2) == ("b", OWN.decode())
    assert last_printed(tail) == "b"
    assert last_printed(OWN) == ""
    assert len(last_lines(b"x\n" * 20)) == 8


# ---- the walk from the end to the begin ----------------------------------------------


def test_without_a_complaint_the_last_line_tells():
    assert told("one", "two", "", OWN.decode()) == "two"
    assert told("", "  ") == ""


def test_a_worse_complaint_is_looked_for_near_the_last_one_alone():
    worse, last = "Segmentation fault", "error: bad thing"
    assert told(worse, *_lines(NEAR), last) == worse
    assert told(worse, *_lines(NEAR + 1), last) == last
    assert told(last, *_lines(17), "aborting") == last, "that is but a consequence"


def _lines(count: int) -> list[str]:
    return [f"step {chr(ord('a') + number)}" for number in range(count)]


def test_no_more_lines_are_looked_at_than_said():
    texts = ["error: no such file", *_lines(5)]
    assert told(*texts, most=6) == "error: no such file"
    assert told(*texts, most=5) == "step e"


def test_lines_that_differ_in_their_labels_alone_are_one():
    texts = ["error: no such file", *(f"[rank {n}]: the same" for n in range(9))]
    assert told(*texts, most=2) == "error: no such file"


@pytest.mark.parametrize(
    "title", ["fatal error:", f"{lines._TITLE} an instance of 'x'"]
)
def test_a_title_is_told_with_its_message(title):
    assert told(title, title, "  odd words") == f"{title} odd words"
    assert told(title) == title
    assert told(title, "one", "two", "three", "four") == f"{title} one"


def test_what_raised_first_in_a_chain_tells_if_it_is_the_cause():
    places = ["Traceback (most recent call last):", '  File "a.py", line 3', "    f()"]
    chained = "During handling of the above exception, another exception occurred:"
    first, last = [*places, "MemoryError"], [*places, "KeyError: 'b'"]
    assert told("step a", *last) == "KeyError: 'b'"
    assert told(*first, "", chained, "", *last) == "MemoryError"
    assert told(*first, "", *last) == "KeyError: 'b'"


def test_plain_lines_are_told_each_with_its_own_words():
    reader = LineReader()
    for words in ("alpha beta", "gamma delta"):
        telling = reader.find_telling(words.encode())
        assert telling is not None
        assert [*telling.tokens] == words.split()


def test_lines_are_remembered_up_to_a_number(monkeypatch):
    reader = LineReader()
    monkeypatch.setattr(lines, "MAX_KNOWN_LINES", 2)
    reader.find_telling(b"one\ntwo\nthree\n" + b"x" * (MAX_LINE + 1))
    assert reader._known.keys() == {b"one", b"two", b"three"}
    reader.find_telling(b"four")
    assert reader._known.keys() == {b"four"}


def test_a_telling_line_knows_whether_it_is_shown():
    telling = LineReader().find_telling(b"error: a  \nb")
    assert telling is not None
    assert telling.is_among(["error: a"])
    assert not telling.is_among(["b"])
    assert telling.weight > Weight.NOTHING


@pytest.mark.parametrize(
    ("status", "number", "most"),
    [
        (139, 0, NEAR),
        (128 + 9, 0, NEAR),
        (0, signal.SIGSEGV, NEAR),
        (1, 0, MAX_LINES),
        (128, 0, MAX_LINES),
        (0, signal.SIGUSR1, MAX_LINES),
    ],
)
def test_a_sudden_end_has_no_reason_far_above(status, number, most):
    assert groups._lines_of(Failure(0, "failed", status, number)) == most
