"""What `shell_lines` says of a line, with bash itself as the judge.

Random lines are run by bash in an empty directory; PATH has bash alone.  ``nounset``
makes it tell each variable that it expands and that is not set, and is passed on to the
bash that a line starts.
"""

import os
import re
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpifarm.lists.line_faults import LineChecker
from mpifarm.lists.shell_lines import read_line

BASH = "/bin/bash"
EMPTY_TEST = re.compile(r"\[\[\s*\]\]")
"""bash says nothing of ``[[ ]]``, returns 0, and drops the rest of the line."""
NAME = "SGE_TASK_ID"

pytestmark = pytest.mark.skipif(
    not os.access(BASH, os.X_OK), reason="bash is what it is compared with"
)

QUOTING = [
    *(
        "echo ",
        "a",
        " ",
        " ",
        "'",
        "'",
        '"',
        '"',
        "\\",
        "$",
        "`",
        "#",
        " # ",
        "; ",
        "| ",
    ),
    *(f"${NAME}", f"${{{NAME}}}", f"${{{NAME}:-x}}", f"${{{NAME}%x}}", f"${{#{NAME}}}"),
    *(f"$(({NAME}+1))", f"$((${NAME}+1))", "$(", ")", "$(echo ", "$'", '$"', "${", "}"),
    *(
        f" {NAME}=1; ",
        "> o ",
        "3>&1 ",
        "<<<",
        "(",
        "[[ ",
        " ]]",
        "{ ",
        "; }",
        "\t",
        "&",
    ),
    *(f"$[{NAME}+1]", f"$[${NAME}%4]", f"${{x[${NAME}]}}", f"let x={NAME}+1", "env "),
    *(f"${{x:-${NAME}}}", "bash -c ", "~", "*", "?", "!", "=", "+", "x=", "(( ", " ))"),
]
"""Pieces of lines that say what is expanded.

None redirects 2: what bash says of a variable would land in a file or a pipe.
"""

STRUCTURE = [
    *(
        "for i in 1 2",
        "; do ",
        "; done",
        "do ",
        "done",
        "while ",
        "until ",
        "case x in ",
    ),
    *(
        "x) ",
        ";; ",
        "esac",
        "if ",
        "; then ",
        "; else ",
        "; elif ",
        "; fi",
        "fi",
        "then ",
    ),
    *(
        "true",
        "echo a",
        " ",
        " ",
        "; ",
        "&& ",
        "|| ",
        "| ",
        "& ",
        "{ ",
        "; }",
        "( ",
        " )",
    ),
    *(
        "f() ",
        "function f ",
        "[[ ",
        " ]]",
        "x",
        "! ",
        "time ",
        "((",
        "))",
        "'",
        '"',
        "$(",
    ),
    *("> o ", "2> o ", "<<EOF", "# x", "x=", "x=(a b)", "for ((;;))", "select y in a"),
]
"""Pieces of lines that say where commands begin and end."""


def lines_of(pieces):
    return st.lists(st.sampled_from(pieces), min_size=1, max_size=9).map("".join)


@pytest.fixture(scope="module")
def only_bash(tmp_path_factory):
    """A directory with bash, and nothing else that a line could start."""
    directory = tmp_path_factory.mktemp("only-bash")
    (directory / "bash").symlink_to(BASH)
    return directory


def bash(line, *options, directory, path="/nowhere", options_of_all=""):
    return subprocess.run(
        [BASH, *options, "-c", line],
        env={"PATH": str(path), "LC_ALL": "C", "SHELLOPTS": options_of_all},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


def accepts(line, directory):
    """Return whether the line is whole and right to bash, which runs nothing of it."""
    if EMPTY_TEST.search(line):
        return False
    judged = bash(line, "-n", directory=directory)
    return judged.returncode == 0 and judged.stderr == b""


checked = settings(
    max_examples=int(os.environ.get("RANDOM_EXAMPLES", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@checked
@given(line=lines_of(QUOTING))
def test_a_variable_that_is_told_is_one_that_bash_expands(tmp_path, only_bash, line):
    text = line.strip()
    if not text:
        return
    faults = LineChecker({}).faults_of(text)
    if not any(fault.kind == f"${NAME}" and fault.is_certain for fault in faults):
        return
    if "&&" in text or "||" in text or not accepts(text, tmp_path):
        return  # bash may not come to it, or says what is wrong
    ran = bash(text, directory=tmp_path, path=only_bash, options_of_all="nounset")
    if b"bad substitution" in ran.stderr:
        return  # bash ends before it comes to the variable
    # bash ends at the first, which may be another: $SGE_TASK_IDecho
    assert b": unbound variable" in ran.stderr, (text, ran.stderr)


@checked
@given(line=lines_of(STRUCTURE))
def test_a_line_that_is_no_whole_command_is_none_to_bash(tmp_path, line):
    text = line.strip()
    reading = read_line(text)
    if reading.is_sure and (reading.unfinished or reading.stray):
        assert reading.unfinished == "\\" or not accepts(text, tmp_path), text


@checked
@given(line=lines_of(QUOTING))
def test_a_quote_that_is_not_closed_is_not_closed_to_bash(tmp_path, line):
    text = line.strip()
    reading = read_line(text)
    if reading.is_sure and reading.unfinished not in ("", "\\"):
        assert not accepts(text, tmp_path), text


@checked
@given(line=lines_of([*QUOTING, "true & ", "echo a &", " &"]))
def test_what_is_told_to_end_in_the_background_does(tmp_path, line):
    text = line.strip()
    reading = read_line(text)
    if (
        not reading.ends_in_background
        or bash(text, "-n", directory=tmp_path).returncode
    ):
        return
    told = bash(f"{text}\necho started ${{!-nothing}}", directory=tmp_path)
    if b"syntax error" in told.stderr:
        return  # a wrong calculation ends the line before its &
    assert b"started nothing" not in told.stdout, (text, told)


@checked
@given(line=lines_of([*QUOTING, "<<", "<<EOF", "cat <<", "$((1<<2))", "<< '"]))
def test_a_here_document_is_one_to_bash(tmp_path, line):
    text = line.strip()
    if read_line(text).has_heredoc:
        assert not accepts(text, tmp_path), text
