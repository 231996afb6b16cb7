"""Ids of tasks as ranges, at their bounds."""

import pytest

from mpifarm.model import id_ranges
from mpifarm.model.id_ranges import IdRangesError, encode_ids, name_ids, parse_ids


@pytest.mark.parametrize(
    ("taskids", "text"),
    [
        ([], ""),
        ([0], "0"),
        ([0, 1], "0-1"),
        ([0, 2], "0,2"),
        ([7, 3, 2, 1], "1-3,7"),
        ([5, 6, 8, 9, 10], "5-6,8-10"),
    ],
)
def test_ids_are_written_as_ranges_and_read_as_they_were(taskids, text):
    assert encode_ids(taskids) == text
    assert parse_ids(text) == sorted(taskids)


def test_ids_are_read_in_the_order_of_the_text():
    assert parse_ids("7-8,3,5-5") == [7, 8, 3, 5]


@pytest.mark.parametrize(
    "text", ["x", "-1", "1-", "1,,2", ",", "1 ", "1\n", "1-2-3", "1" * 16, None, 3]
)
def test_anything_else_is_told_with_an_example(text):
    with pytest.raises(IdRangesError, match="is not the id of a task: write a number"):
        parse_ids(text)


def test_a_number_may_have_fifteen_digits():
    assert parse_ids("1" * 15) == [int("1" * 15)]


def test_a_range_that_ends_before_it_begins_is_told_the_right_way_round():
    with pytest.raises(IdRangesError, match=r"the range 3-2 .* write 2-3"):
        parse_ids("3-2")


def test_one_text_names_a_bounded_number_of_ids(monkeypatch):
    monkeypatch.setattr(id_ranges, "MAX_IDS", 5)
    assert len(parse_ids("0-2,4-5")) == 5
    with pytest.raises(IdRangesError, match="names 6 tasks, and 5 at a time"):
        parse_ids("0-2,4-6")


def test_ids_in_a_sentence_are_cut_behind_a_comma():
    assert name_ids([0, 1, 5]) == "0-1, 5"
    odd = range(1, 100, 2)
    words = name_ids(odd, 20)
    assert words == "1, 3, 5, 7, 9, 11, …"
    exact = "1, 3, 5, 7, 9, 11, 13"
    assert name_ids(range(1, 14, 2), len(exact)) == exact
    assert name_ids(range(1, 14, 2), len(exact) - 1) == "1, 3, 5, 7, 9, 11, …"
