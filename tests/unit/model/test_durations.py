"""Durations: each spelling that people use, and each word that is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.model.durations import MAX_SECONDS, clock_of, parse_duration

RIGHT = {
    "90": 90,
    "0": 0,
    "1.5": 1.5,
    "90s": 90,
    "10m": 600,
    "10min": 600,
    "10M": 600,
    "1h30m": 5400,
    "1.5h": 5400,
    "2d": 172800,
    "1d2h3m4s": 93784,
    "4:00:00": 14400,
    "04:00:00": 14400,
    "100:00:00": 360000,
    "10:30": 630,
    "1-02:03:04": 93784,
    "1-02:03": 93780,
    "1-02": 93600,
    "0-00:00:01": 1,
}

WRONG = (
    *("", " ", "h", "1x", "-5", "-1h", "1:2:3:4", "1-", "-1:00", "1::2", "1:", ":30"),
    *("30m1h", "1h1h", "1e3", "nan", "inf", "1.h", "²", "1:²", "٣", "1-٣", "4h:30"),
    *("1 h", "h1", "--5", "1--2", "1_000", "0x10", "9" * 13, f"{MAX_SECONDS + 1}"),
)


@pytest.mark.parametrize(("word", "seconds"), RIGHT.items())
def test_a_duration_is_understood_as_it_is_written(word, seconds):
    assert parse_duration(word) == seconds


@pytest.mark.parametrize("word", WRONG)
def test_another_word_is_refused(word):
    with pytest.raises(ValueError, match=r".*"):
        parse_duration(word)


def test_only_a_number_without_a_unit_counts_in_the_unit_that_is_asked_for():
    assert parse_duration("90", 60) == 5400
    assert parse_duration("90s", 60) == 90
    assert parse_duration("1:30", 60) == 90


@given(st.integers(0, MAX_SECONDS))
def test_a_clock_reads_what_it_shows(seconds):
    assert parse_duration(clock_of(seconds)) == seconds


@given(st.text(max_size=12))
def test_no_word_is_a_negative_or_endless_duration(word):
    try:
        seconds = parse_duration(word)
    except ValueError:
        return
    assert 0 <= seconds <= MAX_SECONDS
