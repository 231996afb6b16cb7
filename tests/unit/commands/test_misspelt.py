"""Words that a farm does not know: to the letter, what is said of each."""

import pytest

from mpifarm.commands import misspelt

OPTIONS = ["--retries", "--proc", "-n", "--follow", "--limit", "--rank-timeout"]

EVER = misspelt.FOLLOW_EVER
"""``--follow`` without seconds."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "t").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "tasklist", "extra", "said"),
    [
        ([EVER, "x", "t"], "x", ["t"], "not 'x'"),
        ([EVER, "x", "-"], "x", ["-"], "not 'x'"),
        (["t", EVER, "x"], "t", ["x"], "not 'x'"),
        ([EVER, "t", "x"], "t", ["x"], ""),
        ([EVER, "x", "y"], "x", ["y"], ""),
        (["t", "x", EVER], "t", ["x"], ""),
        (["t", "x"], "t", ["x"], ""),
        ([EVER, "--proc", "t", "x"], "t", ["x"], ""),
        ([EVER, "x", "-y"], "x", ["-y"], ""),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_word_behind_follow_is_told_where_another_is_the_list(
    words, tasklist, extra, said
):
    told = misspelt._explain_follow(words, tasklist, extra)
    assert told.endswith(said)
    assert bool(told) is bool(said)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--retires", ", did you mean --retries?"),
        ("--retr", ", did you mean --retries?"),
        ("--xyzzy", ""),
        ("--ids", "; mpifarm "),
        ("-j8", ": "),
    ],
)
def test_an_unknown_option_is_told_with_what_is_near(word, said):
    told = misspelt._explain_option(word, OPTIONS)
    assert told.startswith(said)
    assert bool(told) is bool(said)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "tasklist", "extra", "said"),
    [
        (["t", "n"], "t", ["n"], "n is not an option, did you mean -n?"),
        (["t", "-"], "t", ["-"], None),
        (["t", "--a b"], "t", ["--a b"], None),
        (["t", "--xyzzy"], "t", ["--xyzzy"], "there is no option --xyzzy"),
        (["t", "x"], "t", ["x"], None),
    ],
)
def test_a_word_too_many_is_told_for_what_it_may_have_been(
    words, tasklist, extra, said
):
    told = misspelt.explain_words(words, extra, tasklist, OPTIONS)
    if said is None:
        assert "there is no option" not in told
        assert "is not an option" not in told
    else:
        assert told == said
