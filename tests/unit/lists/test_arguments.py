"""A list of a command and arguments.

``tests/process/test_arguments_against_parallel.py`` has random ones, and the judge.
"""

import pytest

from mpifarm.errors import InputError
from mpifarm.lists.arguments import (
    MAX_TASKS,
    Source,
    make_lines,
    quote_argument,
    split_arguments,
)


def lines(command, *sources, linked=()):
    """The list of the words of a command, with the words of each source."""
    given = [
        Source([word.encode() for word in words], number in linked)
        for number, words in enumerate(sources, 1)
    ]
    made = make_lines([word.encode() for word in command], given)
    assert made == b"" or made.endswith(b"\n")
    return made.decode().split("\n")[:-1]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("{}", "dir.d/a.tar.gz"),
        ("{.}", "dir.d/a.tar"),
        ("{/}", "a.tar.gz"),
        ("{//}", "dir.d"),
        ("{/.}", "a.tar"),
        ("{#}", "1"),
        ("{1}", "dir.d/a.tar.gz"),
        ("{1/.}", "a.tar"),
        ("{1 /.}", "a.tar"),
        ("{-1.}", "dir.d/a.tar"),
        ("{0/}", "a.tar.gz"),
        ("{01/}", "a.tar.gz"),
        ("{2}", ""),
        ("{-3}", ""),
        ("{-2}", "dir.d/a.tar.gz"),
        ("{0#}", "1"),
        ("{1#}", ""),
        ("{+/}", "{+/} dir.d/a.tar.gz"),
        ("{a}", "{a} dir.d/a.tar.gz"),
        ("{ }", "{ } dir.d/a.tar.gz"),
        ("%d%%{#}", "%d%%1"),
    ],
)
def test_a_replacement_string_becomes_a_part_of_the_argument(place, value):
    assert lines(["x", place], ["dir.d/a.tar.gz"]) == [f"x {value}"]


def test_two_words_make_no_replacement_string_together():
    assert lines(["x", "{1 }"], ["a"]) == ["x a"]
    assert lines(["x", "{1", "}"], ["a"]) == ["x {1 } a"]
    assert lines(["x", "{1", "}{}", "{", "}"], ["a"]) == ["x {1 }a { }"]


@pytest.mark.parametrize(
    ("argument", "directory"),
    [
        *(("/a/b", "/a"), ("a/b/", "a"), ("a/", "."), ("a", "."), ("/", "/")),
        *(("//", "/"), ("/a", "/"), ("//a", "/"), ("a//b", "a"), ("a//", ".")),
        *(("", "."), ("..", "."), ("a/b//", "a"), ("//a/", "/"), ("./a", ".")),
    ],
)
def test_a_directory_is_that_of_dirname_in_perl(argument, directory):
    assert lines(["x", "{//}"], [argument]) == [f"x {directory}"]


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("a-b_c.d+e/F9", "a-b_c.d+e/F9"),
        ("", "''"),
        ("a b", "'a b'"),
        ("it's", "'it'\"'\"'s'"),
        ("'", '"\'"'),
        ("''", "\"'\"''\"'\""),
        ("$x", "'$x'"),
        ("a=b", "'a=b'"),
        ("é", "'é'"),
        ("\t", "'\t'"),
    ],
)
def test_an_argument_is_one_word_for_a_shell(argument, quoted):
    assert quote_argument(argument.encode()).decode() == quoted


def test_all_arguments_are_appended_if_no_place_is_named():
    assert lines(["echo", "x  y"], ["a b"], ["c"]) == ["echo x  y 'a b' c"]


def test_without_a_command_arguments_are_whole_commands():
    assert lines([], ["echo a; b", "", "c"]) == ["echo a; b", "", "c"]


def test_a_command_that_is_an_argument_is_not_quoted_but_one_behind_a_variable_is():
    assert lines(["{}", "x"], ["a b"]) == ["a b x"]
    assert lines(["my{}", "{}"], ["a b"]) == ["mya b a b"]
    assert lines(["V={}", "x"], ["a b"]) == ["V='a b' x"]


def test_sources_make_all_combinations_the_last_one_fastest():
    made = lines(["x", "{2}{1}{#}"], ["1", "2"], ["a", "b"])
    assert made == ["x a11", "x b12", "x a23", "x b24"]


def test_linked_sources_go_together_as_long_as_the_shorter():
    assert lines(["x"], ["1", "2", "3"], ["a", "b"], linked={2}) == ["x 1 a", "x 2 b"]
    made = lines(["x"], ["1", "2"], ["a", "b"], ["P", "Q"], linked={2})
    assert made == ["x 1 a P", "x 1 a Q", "x 2 b P", "x 2 b Q"]
    made = lines(["x"], ["P", "Q"], ["1", "2"], ["a"], linked={3})
    assert made == ["x P 1 a", "x Q 1 a"]


def test_a_source_without_arguments_has_an_empty_one_unless_all_are_empty():
    assert lines(["x"], [], ["a", "b"]) == ["x '' a", "x '' b"]
    assert lines(["x"], []) == []
    assert lines(["x"], [], []) == []
    assert lines(["x", "{9}"], ["a", "b"]) == ["x ", "x "]
    assert lines(["x", "{#}"], ["a", "b"]) == ["x 1", "x 2"]


def test_arguments_are_lines_the_last_one_with_a_newline_or_without():
    assert split_arguments(b"a\n\nb c") == split_arguments(b"a\n\nb c\n")
    assert split_arguments(b"a\n\nb c\n") == [b"a", b"", b"b c"]
    assert split_arguments(b"") == []
    assert split_arguments(b"\n") == [b""]


def test_bytes_that_are_no_text_stay_as_they_are():
    assert make_lines([b"x\xff"], [Source([b"\xfe"])]) == b"x\xff '\xfe'\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["a\nb {}"], "line break"),
        (["a\rb {}"], "line break"),
        (["#", "a"], "begins with #"),
        ([" #BARRIER"], "begins with #"),
        (["x {%}"], "$MPIFARM_WORKER"),
        (["x {2%}"], "$MPIFARM_WORKER"),
        (["x {= s/a/b/ =}"], "Perl"),
    ],
)
def test_a_command_that_can_be_no_line_of_a_list_is_refused(command, said):
    with pytest.raises(InputError, match="\\$" if "$" in said else said) as caught:
        lines(command, ["a"])
    assert said in str(caught.value)


def test_more_combinations_than_fit_into_a_list_are_refused_at_once():
    many = Source([b"a"] * 10_000)
    with pytest.raises(InputError, match=f"{MAX_TASKS} are the most"):
        make_lines([b"x"], [many, many, Source([b"1", b"2"])])


@pytest.mark.parametrize(("content", "place"), [(b"a\r", 1), (b"a\nb\rtouch c\n", 2)])
def test_a_carriage_return_in_an_argument_is_refused(content, place):
    """It would end a line of the list, and what is behind it would be a command."""
    with pytest.raises(InputError, match=rf"argument {place} has a carriage return"):
        split_arguments(content)


def test_lines_of_a_file_from_windows_are_arguments():
    assert split_arguments(b"a\r\nb c\r\n") == [b"a", b"b c"]
