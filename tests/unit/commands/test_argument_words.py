"""The words of a command line that make a list: ``mpifarm 'x {}' ::: a b``."""

import math

import pytest

from mpifarm.commands.options import parse_arguments
from mpifarm.errors import ExitStatus, InputError
from mpifarm.model.settings import ArgumentSource as Source
from mpifarm.model.settings import Settings


def parsed(*argv: str) -> Settings:
    return parse_arguments(argv, {})


def mistake(*argv: str) -> str:
    with pytest.raises(InputError) as caught:
        parsed(*argv)
    assert caught.value.exit_status == ExitStatus.BAD_INPUT
    return str(caught.value)


def command_of(*argv: str) -> tuple[str, ...]:
    arguments = parsed(*argv).arguments
    assert arguments is not None
    return arguments.command


def sources_of(*argv: str) -> tuple[Source, ...]:
    arguments = parsed(*argv).arguments
    assert arguments is not None
    return arguments.sources


def test_options_stand_in_front_of_the_command_and_the_rest_is_its_own():
    settings = parsed("--retries", "2", "-n4", "x", "--retries", "{}", ":::", "-n", "a")
    assert settings.policy.retries == 2
    assert settings.workers == 4
    assert settings.arguments is not None
    assert settings.arguments.command == ("x", "--retries", "{}")
    assert settings.arguments.sources == (Source(("-n", "a")),)
    assert settings.arguments.size == 6


@pytest.mark.parametrize(
    "options",
    [
        *(
            ["-w", "d"],
            ["-wd"],
            ["--workdir=d"],
            ["--workd", "d"],
            ["-v"],
            ["-v", "no"],
        ),
        *(["-n"], ["-n", "2"], ["--proc=2"], ["-n", "auto"], ["--no-bind"], ["--"]),
        *(
            ["--follow"],
            ["--follow", "3"],
            ["--follow=3"],
            ["--quiet"],
            ["--bind", "--"],
        ),
        *(["--limit", "a=1", "--limit=b=2"], ["--timeout", "3", "-r", "bash"]),
    ],
)
def test_the_command_begins_behind_the_last_option(options):
    assert command_of(*options, "x", "y", ":::", "a") == ("x", "y")


def test_an_option_that_may_have_a_value_leaves_the_command_alone():
    assert parsed("--follow", "x", ":::", "a").follow == math.inf
    assert parsed("-v", "x", ":::", "a").verbose
    assert not parsed("-v", "off", "x", ":::", "a").verbose


def test_each_separator_says_what_stands_behind_it():
    assert sources_of(
        *("x", ":::", "a", "b", ":::+", "c", "::::", "f", "g", "::::+", "h")
    ) == (
        Source(("a", "b")),
        Source(("c",), is_linked=True),
        Source(("f",), is_file=True),
        Source(("g",), is_file=True),
        Source(("h",), is_file=True, is_linked=True),
    )


def test_without_a_name_the_workdir_has_one_of_mpifarm():
    assert parsed("x", ":::", "a").workdir == "mpifarm_workdir"
    assert parsed("-w", "d", "x", ":::", "a").workdir == "d"
    assert parsed("-").workdir == "mpifarm_workdir"


def test_a_file_of_another_name_with_colons_is_a_list():
    assert parsed(":::x").tasklist == ":::x"
    assert parsed("x:::").arguments is None


def test_commands_may_have_the_name_of_another_tools_subcommand():
    assert command_of("convert", "{}", ":::", "a") == ("convert", "{}")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((":::",), "::: needs an argument behind it"),
        (("x", ":::", "a", ":::+"), ":::+ needs an argument behind it"),
        (("x", "::::", ""), "the name of a file behind :::: is empty"),
        ((":::", "echo a", "-w", "d"), "-w would be a command"),
        (("--resume", "x", ":::", "a"), "there is no option --resume"),
        (("-k", "x", ":::", "a"), "there is no option -k"),
        (("-n", "0", "x", ":::", "a"), "--proc 0"),
        (
            ("x", ":::", "a", "--dry-run"),
            "--dry-run stands behind :::, where",
        ),
        (("x", ":::", "a", "::::", "--help", "f"), "--help stands behind ::::, where"),
    ],
)
def test_what_is_wrong_is_told(argv, said):
    assert said in mistake(*argv)


def test_an_argument_that_looks_like_an_option_of_the_farm_is_noted():
    settings = parsed("x {}", ":::", "a", "--retries", "2")
    assert settings.arguments is not None
    assert settings.arguments.like_option == "--retries"
    settings = parsed("x --retries {}", ":::", "a", "-n", "--other")
    assert settings.arguments is not None
    assert settings.arguments.like_option == ""
