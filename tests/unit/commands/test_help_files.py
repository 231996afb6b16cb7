"""Manual pages and completion: all that --help has, in other forms."""

import re

import pytest

from mpifarm.commands import SUBCOMMANDS, completion
from mpifarm.commands.help_files.candidates import Candidates, find_candidates
from mpifarm.commands.help_files.command_lines import (
    Takes,
    list_command_lines,
    split_items,
    summarize,
)
from mpifarm.commands.help_files.files import write_completion, write_help_files
from mpifarm.commands.options import ALL_NAMES, HelpAsked, parse_line
from mpifarm.errors import InputError
from mpifarm.system.console import Console

LINES = {line.name: line for line in list_command_lines()}
FILES = write_help_files("2026-12-01")
SHELLS = ("bash", "fish", "zsh")


def names_of(line):
    return {name for option in line.options for name in option.names}


def test_a_farm_and_each_subcommand_are_described():
    assert [*LINES] == ["", *SUBCOMMANDS]
    assert names_of(LINES[""]) == ALL_NAMES
    for name, options in SUBCOMMANDS.items():
        assert {*options, "--help"} <= names_of(LINES[name])


def test_each_subcommand_has_words_for_a_list_of_them():
    about = summarize(LINES[""])
    assert {*about} == {*SUBCOMMANDS}
    assert all(about.values())


@pytest.mark.parametrize(
    ("name", "option", "takes"),
    [
        ("", "--bind", Takes.NOTHING),
        ("", "--retries", Takes.VALUE),
        ("", "--follow", Takes.MAY),
        ("", "-j", Takes.MAY),
        ("", "-v", Takes.MAY),
        ("log", "--last", Takes.VALUE),
        ("log", "--failed", Takes.NOTHING),
    ],
)
def test_it_is_known_which_options_have_a_value(name, option, takes):
    (found,) = (each for each in LINES[name].options if option in each.names)
    assert found.takes is takes


def test_the_width_of_a_terminal_changes_nothing(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert write_help_files("2026-12-01") == FILES


def test_two_columns_are_items():
    text = "  a B   one\n        and more\n  c\n      two\n"
    assert split_items(text) == [("a B", "one and more"), ("c", "two")]


# ---- completion ---------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_a_completion_knows_each_subcommand_and_option(shell):
    script = write_completion(shell)
    for name, line in LINES.items():
        assert name in script
        for option in names_of(line):
            assert (in_fish(option) if shell == "fish" else option) in script


def in_fish(option):
    return f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"


@pytest.mark.parametrize(
    ("command", "metavar", "found"),
    [
        ("", "all|packed|failed", ("all", "packed", "failed")),
        ("", "auto|N|none", ("auto", "none")),
        ("", "N[/s|/m|/h]", Candidates.NOTHING),
        ("", "N", Candidates.NOTHING),
        ("", "FILE", Candidates.FILES),
        ("", "DIR", Candidates.DIRECTORIES),
        ("status", "WORKDIR", Candidates.WORKDIRS),
        ("completion", "SHELL", SHELLS),
        ("submit", "NAME", Candidates.NOTHING),
    ],
)
def test_the_name_of_a_value_tells_what_may_stand_there(command, metavar, found):
    assert find_candidates(command, metavar) == found


@pytest.mark.parametrize(
    ("shell", "told"),
    [
        ("tcsh", "has no completion for 'tcsh', only for bash, fish, zsh"),
        ("bahs", "did you mean bash?"),
    ],
)
def test_another_shell_is_told_which_ones_there_are(shell, told):
    with pytest.raises(InputError, match=re.escape(told)):
        completion.main([shell], Console(prints=False), {})


# ---- the manual ---------------------------------------------------------------------


def read_page(name):
    page = FILES[f"share/man/man1/{name}"]
    page = re.sub(r"\\f[BIR]|\\&", "", page).replace(r"\-", "-")
    return page.replace(r"\(aq", "'").replace(r"\(ti", "~")


def test_there_is_a_page_for_the_farm_and_each_subcommand():
    pages = {name.rpartition("/")[2] for name in FILES if "/man1/" in name}
    assert pages == {"mpifarm.1", *(f"mpifarm-{name}.1" for name in SUBCOMMANDS)}


@pytest.mark.parametrize("name", [*LINES])
def test_a_page_has_all_words_of_the_help(name):
    page = read_page(f"mpifarm-{name}.1" if name else "mpifarm.1")
    flat = " ".join(page.split())
    line = LINES[name]
    for option in line.options:
        assert " ".join(option.help.split()) in flat
        assert all(each in page for each in option.names)
    for sentence in re.split(r"(?<=\.)\s+", line.description):
        assert " ".join(sentence.split()) in flat


def test_the_page_of_the_farm_has_the_end_of_the_help_word_by_word():
    with pytest.raises(HelpAsked) as asked:
        parse_line(["--help-all"], {})
    end = asked.value.text.partition("\nsubcommands, each")[2].split("\n", 1)[1]
    flat = " ".join(read_page("mpifarm.1").split())
    for line in end.splitlines():
        if not line.endswith(":"):  # a head
            for part in re.split("  +", line.strip()):
                assert part in flat


def test_an_argument_that_may_be_given_again_is_shown_so():
    assert "[COMMAND] ..." in read_page("mpifarm-add.1")
    assert "\nWORKDIR\n" in read_page("mpifarm-add.1")


def test_no_line_of_a_page_is_taken_for_a_request():
    known = r"\.(\\\"|TH|SH|SS|TP|BR|br|nf|fi|nh|ad)\b|\.\\\""
    for name, page in FILES.items():
        if "/man1/" in name:
            for line in page.splitlines():
                assert not line.startswith((".", "'")) or re.match(known, line), line
