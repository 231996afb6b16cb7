"""Texts that are alike: their words, shares, and what they have in common."""

import pytest

from mpifarm.causes.folding import (
    MAX_TOKENS,
    common_text,
    find_detail,
    fold,
    fold_name,
    similarity,
    strip_frame,
    unite_words,
)


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ("", "", 1.0),
        ("a", "", 0.0),
        ("a b c d", "a b c d", 1.0),
        ("a b c d", "a x c y", 0.5),  # as many words: place by place
        ("a b c d", "b c d a", 0.0),
        ("a b c", "a x y c", 0.5),  # one part in the middle differs
        ("a b", "a b c d", 0.5),
        ("c d", "a b c d", 0.5),
        ("a a", "a a a a", 0.5),  # no word counts in front and behind
        ("a b a", "a b a b a", 0.6),
        ("x a", "y b a a", 0.25),
    ],
)
def test_lines_are_alike_by_the_words_that_they_share(one, other, share):
    first, second = tuple(one.split()), tuple(other.split())
    assert similarity(first, second) == pytest.approx(share)
    assert similarity(second, first) == pytest.approx(share)


@pytest.mark.parametrize(
    ("one", "other", "united"),
    [
        ("same", "same", "same"),
        ("numpy", "numba", "num*"),
        ("a.log", "b.log", "*.log"),
        ("n1x", "n22x", "n*x"),
        ("aa", "aaaa", "aa*"),
        ("abc", "xyz", "*"),
        ("n*", "n1", "n*"),
        ("*b", "ab", "*b"),
    ],
)
def test_two_words_are_united_by_their_begin_and_end(one, other, united):
    assert unite_words(one, other) == united


@pytest.mark.parametrize(
    ("texts", "text", "share"),
    [
        ([], "", 0.0),
        (["a b"], "a b", 1.0),
        (["a b", "a c"], "a *", 0.5),
        (["a b", "a b", "a b c"], "a b", 2 / 3),
        (["a b c d", "a x c d", "z"], "a * c d", 0.75 * 2 / 3),
    ],
)
def test_texts_have_in_common_what_those_of_the_most_frequent_length_share(
    texts, text, share
):
    found, whole = common_text(texts)
    assert found == text
    assert whole == pytest.approx(share)


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("no colon here", "no colon here"),
        ("a: b c", "b c"),
        ("a: b: c d", "c d"),
        ("a: b c:", "b c:"),  # nothing stands behind the last one
        ("a:", "a:"),
        ("", ""),
    ],
)
def test_the_detail_of_a_line_stands_behind_its_last_colon(line, detail):
    assert find_detail(tuple(line.split())) == tuple(detail.split())


def test_a_long_line_is_folded_to_so_many_words():
    line = " ".join(f"{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(60))
    assert MAX_TOKENS == 40
    assert fold(line) == tuple(line.split()[:40])


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("read 3 4 5 of", "read # of"),
        ("read 3 GiB, x", "read # x"),
        ("read GiB", "read GiB"),
        ("say say", "say say"),
        ("12MB", "#"),
        ("1:2:3", "#"),
        ("fff", "fff"),
    ],
)
def test_numbers_in_a_row_and_their_units_are_one(text, folded):
    assert fold(text) == tuple(folded.split())


@pytest.mark.parametrize(
    ("name", "folded"),
    [("/a/b/part12.txt", "part#.txt"), ("dir7/", "dir#"), ("x", "x")],
)
def test_a_name_is_the_last_part_of_a_path_without_its_numbers(name, folded):
    assert fold_name(name) == folded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("*** error ***", "error"),
        ("| bad |", "bad"),
        ("Caused by: java.io.IOException: x", "java.io.IOException: x"),
        ("Error: no exception here", "Error: no exception here"),
        ("Error: ValueError: x", "ValueError: x"),
        ("a \ufffd b", "a b"),
    ],
)
def test_a_message_is_told_without_its_box_and_what_passes_it_on(text, message):
    assert strip_frame(text) == message
