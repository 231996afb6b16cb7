"""``--dry-run`` beside the farm that it speaks of: its words, and its environment."""

import json
import os
import shlex
import sys

import pytest

from tests.process.dry_runs import assert_called, assert_changed, read_starts
from tests.support import snapshot

NOTE = f"""#!{sys.executable} -I
import json, os, sys
with open(os.environ["NOTES"], "a") as notes:
    print(json.dumps([sys.argv, dict(os.environ), os.getcwd()]), file=notes)
"""
"""A program that notes what it was given."""

OWN_RUNNER = """
import json, os

class Own:
    def __init__(self, greeting):
        self.greeting = greeting

    def run(self, taskid, command, logfh):
        with open(os.environ["NOTES"], "a") as notes:
            words = [taskid, command, self.greeting]
            print(json.dumps([words, dict(os.environ), os.getcwd()]), file=notes)
        return 0

    def terminate(self):
        pass
"""

JOB = {
    "LOADL_STEP_ID": "7",
    "LOADL_HOSTFILE": "/the/nodes/of/the/farm",
    "PMI_RANK": "0",
    "PMI_SIZE": "1",
    "OMPI_MCA_ras": "of the user",
    "PWD": "/not/here",
}
"""A rank in a job of a batch system."""


@pytest.fixture
def dry(create_place):
    """Show what a farm would run, run it, and compare; return what was shown."""
    place = create_place()
    notes = place.directory / "notes.json"
    (place.directory / "note").write_text(NOTE)
    (place.directory / "note").chmod(0o755)
    (place.directory / "own.py").write_text(OWN_RUNNER)
    (place.directory / "below").mkdir()
    path = f"{place.directory}:{os.environ['PATH']}"
    place.environment |= {"NOTES": str(notes), "PATH": path}

    def dry(lines, *options, ini="", environ=()):
        place.write_list(lines)
        (place.directory / "own.ini").write_text(ini)
        place.environment |= dict(environ)
        words = ["--config", "own.ini", "--mpi", "off", "-n", "1", *options]
        before = snapshot(place.directory)
        shown = place.start("--dry-run", *words)
        assert shown.wait() == 0, shown.text()
        assert snapshot(place.directory) == before
        farm = place.start(*words)
        assert farm.wait() == 0, farm.text()
        noted = [json.loads(line) for line in notes.read_text().splitlines()]
        for _, environment, _ in noted:
            assert_changed(shown.text(), place.environment, environment)
        return shown.text(), noted

    return dry


def test_a_dry_run_shows_words_variables_and_directory_of_the_default_runner(dry):
    text, noted = dry(
        ["note 'a  b' $SET", "note c; true", "note d"],
        *("-r", "quiet", "--id-variable", "NUMBER=5", "--gpus", "2", "--setup", "E=e"),
        ini="[quiet]\nRunner = mpifarm.runners.BasicRunner\n"
        "env.SET = x y\nenv.EMPTY =\nenv.OMP_NUM_THREADS = 7\ncwd = below\n",
        environ={**JOB, "MPIFARM_TRACE": "trace", "CUDA_VISIBLE_DEVICES": "3,5"},
    )
    starts = ["E=e && note 'a  b' $SET", "E=e\n\ncase", "E=e && note d"]
    for begin in starts:
        assert f"    starts {shlex.join(['/bin/bash', '-c', begin])[:-1]}" in text
    for _, environment, directory in noted:
        assert directory.endswith("/here/below")
        assert f"commands run in {directory}\n" in text
        assert environment["SET"] == "x y"
    assert [argv[1:] for argv, _, _ in noted] == [["a  b", "x", "y"], ["c"], ["d"]]
    assert "variables that commands don't get: LOADL_HOSTFILE, MPIFARM_TRACE, " in text
    assert "variable set: SET=x y\n" in text
    assert "variable set: EMPTY=\n" in text
    assert "variable set: OMP_NUM_THREADS=7\n" in text
    assert "variable set: HYDRA_RMK=user\n" in text
    assert "OMPI_MCA_ras" not in text
    assert "NUMBER (5 in task 0)" in text
    assert "CUDA_VISIBLE_DEVICES (here one of 3, 5)" in text


def test_a_dry_run_shows_the_words_of_a_line_without_a_shell(dry):
    text, noted = dry(["note a --b=c", "note d"], environ={"OMP_NUM_THREADS": "9"})
    for words, (argv, _, _) in zip(read_starts(text), noted, strict=True):
        assert_called(words, [os.path.basename(argv[0]), *argv[1:]])
    assert "OMP_NUM_THREADS" not in text


def test_a_dry_run_shows_what_a_class_of_the_user_gets(dry):
    text, noted = dry(
        ["a 'b'", "c"],
        *("-r", "own", "--id-variable", "NUMBER", "--chdir", "."),
        ini="[own]\nRunner = own.Own\ngreeting = hello\n",
        environ=JOB,
    )
    assert "/own.ini: own.Own, a class of your own with greeting = hello\n" in text
    for taskid, (words, _, _) in enumerate(noted):
        assert words == [taskid, ["a 'b'", "c"][taskid], "hello"]
        assert f"    calls Own.run({taskid}, {words[1]!r}, the file of its o" in text
    assert "starts" not in text


def test_a_dry_run_says_how_the_shell_gets_a_line_that_looks_like_an_option(dry):
    text, _ = dry(["+x () { note a; }; +x"])
    assert read_starts(text) == [["/bin/bash", "-c", "--", "+x () { note a; }; +x"]]
