"""Words that a farm does not know: to the letter, what is said of each."""

import re
from pathlib import Path

import pytest

import mpifarm
from mpifarm.commands import SUBCOMMANDS, misspelt
from mpifarm.commands.option_values import FOLLOW
from mpifarm.commands.options import ALL_NAMES, LONG_NAMES

OPTIONS = ["--retries", "--proc", "-n", "--follow", "--limit", "--rank-timeout"]

EVER = misspelt.FOLLOW_EVER
"""``--follow`` without seconds."""

ANY = misspelt.SHUFFLE_ANY
"""``--shuffle`` without a seed."""


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
    told = misspelt._explain_bare(EVER, FOLLOW, words, tasklist, extra)
    assert told.endswith(said)
    assert bool(told) is bool(said)


@pytest.mark.usefixtures("here")
def test_a_word_behind_shuffle_is_told_as_well():
    told = misspelt.explain_words([ANY, "x", "t"], ["t"], "x", OPTIONS)
    assert told == "--shuffle takes a whole number as a seed, or nothing, not 'x'"


PAGE = Path(mpifarm.__file__).parent.parent / "docs" / "coming-from-parallel.md"


def test_the_page_has_options_that_are_ours_or_are_answered():
    rows = re.findall(r"^\| ([^|]*)\| ([^|]*)\|$", PAGE.read_text(), re.MULTILINE)
    theirs = [name for row, _ in rows for name in re.findall(r"`(--?[\w-]+)", row)]
    assert len(theirs) > 30
    for name in theirs:
        assert name in {*misspelt.OPTIONS_OF_OTHERS, *ALL_NAMES, "--retry"}, name
    for _, answer in rows:
        for name in re.findall(r"`(--[a-z][a-z-]*)", answer):
            assert name in ALL_NAMES, name


def test_an_answer_names_options_and_subcommands_that_there_are():
    answers = {
        *misspelt.OPTIONS_OF_OTHERS.values(),
        *misspelt.COMMANDS_OF_OTHERS.values(),
    }
    known = {*ALL_NAMES, *(name for names in SUBCOMMANDS.values() for name in names)}
    for answer in answers:
        for name in re.findall(r"(?<![\w-])--[a-z][a-z-]*", answer):
            assert name in known, (name, answer)
        for name in re.findall(r"mpifarm ([a-z]+) LIST", answer):
            assert name in SUBCOMMANDS, (name, answer)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--halt", "--max-failures 1"),
        ("--halt=soon,fail=5%", "--max-failures 5%"),
        ("--delay", "--start-rate 30/m"),
        ("--delay", "--start-rate 2 two in a second"),
        ("--sem", "--limit NAME=N"),
        ("--header", "use {1} {2}"),
        *(
            (word, "start all tasks afresh: mpifarm LIST --again")
            for word in (
                *("--restart", "--rerun", "--fresh", "--force"),
                *("--overwrite", "--reset"),
            )
        ),
        ("--joblog", "mpifarm joblog LIST --gnu"),
        ("--results", "logs/log_ID"),
        ("--tag", "mpifarm log LIST --tag prints all lines"),
        ("--tagstring", "mpifarm log LIST --tag"),
        ("--load", "--limit NAME=N"),
        ("--memfree", "--task-memory"),
        ("--sshlogin", "mpifarm submit"),
        ("--colsep", "::::+"),
        ("--resume-failed", "the same command goes on"),
        ("-k", "mpifarm log LIST prints all of them"),
        ("-N", "before python -m mpifarm"),
        ("-P4", "-n N"),
        ("-L", "runs COMMAND a and COMMAND b"),
        ("--max-fails", "--max-failures N"),
        ("--prefix", "--workdir DIR"),
        ("--pipe", "nothing on its standard input"),
        ("--will-cite", "leave it out"),
    ],
)
def test_an_option_of_a_peer_is_answered_in_place_of_the_nearest_spelling(word, said):
    told = misspelt._explain_option(word, LONG_NAMES)
    assert said in told
    assert "did you mean" not in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-m 4 t", ": -n 4 runs 4 tasks at one time on each rank; else, mpifarm 'COM"),
        ("-m4 t", ": -n 4 runs 4 tasks at one time on each rank; else, mpifarm 'COMM"),
        ("-N 4 t", ": -n 4 runs 4 tasks at one time on each rank; else, nodes, CPUs"),
        ("-P=4 t", ": -n 4 runs 4 tasks at one time on each rank"),
        ("-j 4 t", ": -n 4 runs 4 tasks at one time on each rank"),
        ("-b 4 t", ": -n 4 runs 4 tasks at one time on each rank"),
        ("t -m", ""),
        ("-m x t", ""),
        ("-m x4 t", ""),
        ("-mx 4 t", ""),
        *((f"-{letter} 5 t", "") for letter in "acdefgiklopquxyzACDHIJLSX"),
        ("--mm 4 t", ""),
    ],
)
def test_a_letter_with_a_number_may_be_a_slip_for_that_of_the_workers(words, said):
    typed = words.split()
    word = next(each for each in typed if each.startswith("-"))
    told = misspelt._explain_letter(word, typed)
    assert told.startswith(said)
    assert bool(told) is bool(said)
    if said:
        assert misspelt.explain_words(typed, [word, "t"], "4", LONG_NAMES) == (
            f"there is no option {word}{told}"
        )


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--retires", ", did you mean --retries?"),
        ("--retr", ", did you mean --retries?"),
        ("--xyzzy", ""),
        ("--ids", "; mpifarm "),
        ("-j8", ": "),
        ("-f", ": the list needs no option"),
        ("-e", ""),
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


@pytest.mark.parametrize("word", ["rerun", "reset", "restart"])
def test_who_wants_all_tasks_anew_is_told_how(word):
    said = misspelt.explain_command(word)
    assert "mpifarm retry LIST" in said
    assert "start all tasks afresh: mpifarm LIST --again" in said
