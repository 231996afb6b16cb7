"""What `make_lines` makes of a command and arguments, with GNU parallel as the judge.

Random commands with random arguments go to ``parallel --dry-run``, which prints the
command of each job.  PARALLEL_EXAMPLES=2000 asks for so many; without it there are 100,
always the same.
"""

import os
import random
import subprocess

import pytest

from mpifarm.lists.arguments import Source, make_lines, split_arguments
from tests.required import find_tool, skip_where_allowed

SEED = os.environ.get("PARALLEL_SEED", "17")
COUNT = int(os.environ.get("PARALLEL_EXAMPLES", "100"))


@pytest.fixture
def parallel():
    """GNU parallel: moreutils has another program of this name."""
    path = find_tool("parallel")
    said = subprocess.run([path, "--version"], capture_output=True, check=False)
    if not said.stdout.startswith(b"GNU parallel"):
        skip_where_allowed("tools", f"{path} is not GNU parallel")
    return path


PLACES = ["", "", "", "1", "2", "3", "-1", "-2", "-3", "9", "0", "1 ", "01", "-4"]
CHANGES = ["", "", "", ".", "/", "//", "/.", "#"]
TEXTS = [
    *("echo", "cat", "a", "=", "-o", "'", '"', "%", "%d", "%%", "{", "}", "{}}", "$x"),
    *(" ", " ", "  ", "\t", "\\", "|", ";", ">", "é", "ï", "{ }", "{a}", "{.", "{1"),
    *("{+/}", "{..}", "{1.5}", "#", "*", "~"),
]
CHARACTERS = [
    *("a", "b", "Z", "0", ".", ".", "/", "/", "-", "_", "+", "'", "'", '"', " ", "\t"),
    *("\\", "$", "`", "#", "*", "?", "{", "}", "{}", "=", "%", ",", ":", "@", "~", "!"),
    *("é", "ï", "\udcff", "\n", "(", ";", "&", "|", "<"),
]
SEPARATORS = [":::", ":::", ":::", ":::+", "::::", "::::+"]


def random_command(luck):
    """Words of a command: most with replacement strings, some without any."""
    words = []
    for number in range(luck.randint(0, 4)):
        parts = []
        for _ in range(luck.randint(0 if number else 1, 3)):
            if luck.random() < 0.45:
                parts.append("{" + luck.choice(PLACES) + luck.choice(CHANGES) + "}")
            else:
                parts.append(luck.choice(TEXTS))
        words.append("".join(parts))
    # An option of GNU parallel's, and a comment in a list.
    if " ".join(words).lstrip().startswith(("-", "#")):
        words[0] = "x" + words[0]
    return words


def random_argument(luck):
    size = luck.choice([0, 1, 1, 2, 3, 4, 6])
    word = "".join(luck.choice(CHARACTERS) for _ in range(size))
    return "x" + word if word.startswith(":::") else word


def random_sources(luck, directory):
    """The words from the first ``:::`` on, and the same as `Source`s."""
    words, sources = [], []
    for number in range(luck.choice([1, 1, 1, 2, 2, 3])):
        separator = luck.choice(SEPARATORS)
        given = [random_argument(luck) for _ in range(luck.randint(1, 3))]
        content = "".join(f"{each}\n" for each in given)
        words.append(separator)
        if separator.startswith("::::"):
            path = directory / f"file{number}"
            content = content.removesuffix("\n" * luck.randint(0, 1))
            path.write_bytes(os.fsencode(content))
            words.append(str(path))
        else:
            words += given
        arguments = split_arguments(os.fsencode(content))
        sources.append(Source(arguments, separator.endswith("+")))
    return words, sources


def dry_run(parallel, words, home):
    environ = {**os.environ, "HOME": str(home), "PARALLEL_SHELL": "/bin/bash"}
    said = subprocess.run(
        [parallel, "-k", "-j1", "--dry-run", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environ,
        check=False,
        timeout=60,
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


@pytest.mark.timeout(60 + COUNT)
def test_lines_are_the_commands_that_parallel_would_run(parallel, tmp_path):
    luck = random.Random(SEED)
    for number in range(COUNT):
        command = random_command(luck)
        words, sources = random_sources(luck, tmp_path)
        made = make_lines([os.fsencode(word) for word in command], sources)
        judged = dry_run(parallel, [*command, *words], tmp_path)
        assert made == judged, (SEED, number, command, words)
