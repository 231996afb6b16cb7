"""A Python that is too old is told in one sentence, and make leaves nothing behind.

Rules of this file: the old Python is a script that says it is 3.9, and for `python -m
mpifarm` a real one if there is one (Debian's pypy3); make runs in a directory that
holds the Makefile alone.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from tests.required import find_tool
from tests.support import ROOT, clean_environment

FAKE = """\
#!/bin/sh
# A Python {version}, as far as `-c` goes.  Its environments hold itself, and a list of
# what was done.
case $1 in
-c) shift; exec {real} -c 'import sys
sys.version_info, sys.version = ({tuple}, 0), "{version} (fake)"
code = sys.argv.pop(1)
exec(code)' "$@" ;;
-m) [ "$2" = venv ] || exit 0
    for directory; do :; done
    mkdir -p "$directory/bin" && cp "$0" "$directory/bin/python"
    echo made >> "$directory/made" ;;
esac
"""


@pytest.fixture
def place(tmp_path):
    """A checkout, as far as make looks at it."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def write_python(place, version):
    path = place / f"python{version}"
    parts = ", ".join(version.split("."))
    text = FAKE.format(version=version, tuple=parts, real=sys.executable)
    path.write_text(text)
    path.chmod(0o755)
    return f"PYTHON=./{path.name}"


def make(place, *words):
    env = clean_environment(os.environ)
    env.pop("MAKEFLAGS", None)  # those of the make that runs the tests
    return subprocess.run(
        ["make", *words],
        cwd=place,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


SENTENCE = re.compile(
    r"Package 'mpifarm' requires a different Python: 3\.\d+\.\d+ not in '>=3\.11'"
)
"""That of pip, from which make and `python -m mpifarm` have it."""

READY = ".venvs/mpich/.ready"


@pytest.mark.parametrize("version", ["3.9.16", "3.10.0", "2.7.18"])
def test_make_says_which_python_it_needs_and_makes_nothing(place, version):
    ended = make(place, write_python(place, version), "demo")
    sentence, _ = ended.stderr.splitlines()
    assert sentence == (
        f"Package 'mpifarm' requires a different Python: {version} not in '>=3.11': "
        "name another, as in make PYTHON=/path/to/python3.11 demo"
    )
    assert ended.returncode != 0
    assert not (place / ".venvs").exists()


def test_make_says_that_there_is_no_such_python(place):
    ended = make(place, "PYTHON=./python4", "demo")
    assert "./python4, which is not there, not in '>=3.11': name" in ended.stderr
    assert ended.returncode != 0


def test_make_makes_an_environment_of_another_python_anew(place):
    old, new = write_python(place, "3.11.2"), write_python(place, "3.13.0")
    for python, times in ((old, 1), (old, 1), (new, 2), (new, 2), (old, 3)):
        ended = make(place, python, READY)
        assert ended.returncode == 0, ended.stderr
        environment = place / ".venvs" / "mpich"
        assert (environment / "made").read_text() == "made\n" * times
        python_in_it = (environment / "bin" / "python").read_text()
        assert python_in_it == (place / python.partition("./")[2]).read_text()


def test_what_a_python_that_is_too_old_has_left_does_not_stand_in_the_way(place):
    write_python(place, "3.9.16")
    left = place / ".venvs" / "mpich" / "bin"
    left.mkdir(parents=True)
    shutil.copy(place / "python3.9.16", left / "python")
    ended = make(place, write_python(place, "3.12.0"), READY)
    assert ended.returncode == 0, ended.stderr
    assert (left / "python").read_text() == (place / "python3.12.0").read_text()


def test_the_makefile_needs_the_python_that_the_package_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (line,) = (
        line
        for line in (ROOT / "Makefile").read_text().splitlines()
        if line.startswith("OLDEST_PYTHON")
    )
    assert project["requires-python"] == f">={line.split()[-1]}"


def run_old_python(*words, **env):
    pypy = find_tool("pypy3")
    env = clean_environment(os.environ) | env
    return subprocess.run(
        [pypy, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def test_a_farm_under_an_old_python_says_so_once_for_all_ranks():
    ended = run_old_python("-m", "mpifarm", "tasks.txt", PMI_RANK="0")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    sentence, found, remedy = line.partition(": name another")
    assert SENTENCE.fullmatch(sentence)
    assert found + remedy == ": name another, as in /path/to/python3.11 -m mpifarm"
    other = run_old_python("-m", "mpifarm", "tasks.txt", PMI_RANK="5")
    assert (other.returncode, other.stderr) == (2, "")


def test_pip_tells_an_old_python_which_one_is_needed(tmp_path):
    pypy = find_tool("pypy3")
    # This environment's pip, run by the old Python: Debian's has none.
    pip = [sys.executable, "-m", "pip", "--python", pypy]
    ended = subprocess.run(
        [
            *pip,
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            str(tmp_path),
            str(ROOT),
        ],
        env=clean_environment(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = (each for each in ended.stderr.splitlines() if "Python" in each)
    assert SENTENCE.fullmatch(line.removeprefix("ERROR: "))
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())
