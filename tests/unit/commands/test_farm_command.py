"""The command that goes on with a workdir: that of its last farm, if one is known."""

import os
import time
from pathlib import Path

import pytest

from mpifarm.commands.farm_command import (
    find_farm_command,
    find_lacking,
    find_remap_command,
    name_farm_command,
    name_remap_command,
)
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.farm_report import find_report
from mpifarm.store.target import Target, farm_words_of, words_of
from tests.farm_states import write_farm

TARGET = Target("tasks.txt_workdir", "tasks.txt")


def make_workdir(target, tmp_path, monkeypatch):
    """Make the workdir of a target in a directory that becomes the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / target.workdir).mkdir()
    return WorkdirPaths(str(tmp_path / target.workdir))


@pytest.fixture
def paths(tmp_path, monkeypatch):
    return make_workdir(TARGET, tmp_path, monkeypatch)


def write(paths, farm, command, age, directory="", **more):
    now = time.time()
    more |= {"command": command, "directory": directory or os.getcwd()}
    write_farm(paths, farm, written=now - age, **more)
    os.utime(paths.farm(farm), (now - age, now - age))


def test_the_last_farm_that_said_so_tells_its_command_with_its_options(paths):
    write(paths, "0badcafe", ["mpifarm", "-n", "2", "tasks.txt"], 60)
    write(paths, "c1a10000", ["mpifarm", "-r", "my runner", "tasks.txt"], 30)
    Path(paths.farm("deadbeef")).write_text("torn")
    assert find_farm_command(TARGET) == "mpifarm -r 'my runner' tasks.txt"


def test_a_command_of_another_directory_begins_there(paths):
    write(paths, "0badcafe", ["mpifarm", "tasks.txt"], 60, "/my data")
    assert find_farm_command(TARGET) == "cd '/my data' && mpifarm tasks.txt"


def test_a_list_that_was_standard_input_goes_on_without_it(paths):
    write(paths, "0badcafe", ["mpifarm", "-w", "run1", "-"], 60)
    assert find_farm_command(TARGET) == "mpifarm -w run1 - </dev/null"


def test_a_dash_in_a_command_is_no_standard_input(paths):
    write(paths, "0badcafe", ["mpifarm", "tar", "x", "-f", "-", ":::", "a"], 60)
    assert find_farm_command(TARGET) == "mpifarm tar x -f - ::: a"


def test_a_pipe_of_the_shell_is_not_named_to_others(paths):
    write(paths, "0badcafe", ["mpifarm", "-w", "run1", "/dev/fd/63"], 60)
    assert find_farm_command(TARGET) == "mpifarm -w run1 FILE"
    target = Target("run1", "/dev/fd/63")
    assert words_of(target) == ["run1", "--list", "FILE"]
    assert farm_words_of(target) == ["--workdir", "run1", "FILE"]


def test_arguments_are_named_as_they_were_given(paths):
    words = ["mpifarm", "wc -c", ":::", "/proc/cpuinfo", "/proc/meminfo"]
    write(paths, "0badcafe", words, 60)
    assert (
        find_farm_command(TARGET) == "mpifarm 'wc -c' ::: /proc/cpuinfo /proc/meminfo"
    )


def test_a_list_that_a_script_gave_goes_on_as_the_workdir_keeps_it(paths):
    given = "run1/given-n1-27-0123abcd.txt"
    write(
        paths, "0badcafe", ["mpifarm", "--proc=2", "--workdir=run1", "::::", given], 9
    )
    command = "mpifarm --proc=2 --workdir=run1 run1/stdin.txt"
    assert find_farm_command(TARGET) == command


def test_without_any_farm_the_list_is_named(paths):
    assert find_farm_command(TARGET) == "mpifarm tasks.txt"
    write(paths, "0badcafe", [], 60)
    assert find_farm_command(TARGET) == "mpifarm tasks.txt"


SLURM = {"job": {"system": "Slurm", "id": "7"}}


def write_script(paths, number, command):
    head = (
        f"#!/bin/bash\n# Written by: me\n#\n# To submit it once more:  {command}\n#\n"
    )
    Path(paths.job_script("slurm", number)).write_text(head + "echo\n")


def test_a_job_that_was_submitted_goes_on_by_its_last_script(paths):
    write(paths, "0badcafe", ["mpifarm", "tasks.txt"], 60, **SLURM)
    assert find_farm_command(TARGET) == "mpifarm tasks.txt"
    for number in (1, 2, 9, 10):
        write_script(paths, number, f"sbatch /w/job-{number}.slurm")
    assert find_farm_command(TARGET) == "sbatch /w/job-10.slurm"
    for odd in ("sbatch \x1b[2J", "'sbatch /t/\\udcff/job.slurm'", ""):
        write_script(paths, 10, odd)
        assert find_farm_command(TARGET) == "mpifarm tasks.txt"
    Path(paths.job_script("slurm", 10)).write_text("#!/bin/bash\necho mine\n")
    assert find_farm_command(TARGET) == "mpifarm tasks.txt"
    Path(paths.job_script("slurm", 11)).mkdir()
    assert find_farm_command(TARGET) == "mpifarm tasks.txt"


def test_a_job_without_the_limit_of_a_kind_is_submitted_anew(paths):
    write(paths, "0badcafe", ["mpifarm", "tasks.txt"], 60, **SLURM, limits=["a"])
    write_script(paths, 1, "sbatch /w/job.slurm")
    report = find_report(paths, "0badcafe")
    assert report is not None
    assert name_farm_command(TARGET, report, "", ["a"]) == "sbatch /w/job.slurm"
    anew = "mpifarm submit ... tasks.txt --limit b=N"
    assert name_farm_command(TARGET, report, "", ["a", "b"]) == anew
    assert name_remap_command(TARGET, report, "", ["b"]) == f"{anew} --remap"
    assert find_lacking(report._replace(limits=None), ["b"]) == []


def test_a_farm_outside_of_jobs_goes_on_without_one(paths):
    write(paths, "0badcafe", ["mpifarm", "tasks.txt"], 60, job=None)
    write_script(paths, 1, "sbatch /w/job.slurm")
    assert find_farm_command(TARGET) == "mpifarm tasks.txt"


def test_a_list_that_was_edited_goes_on_with_remap(paths):
    assert find_remap_command(TARGET) == "mpifarm --remap tasks.txt"
    write(paths, "0badcafe", ["mpifarm", "-n", "2", "tasks.txt"], 60)
    assert find_remap_command(TARGET) == "mpifarm --remap -n 2 tasks.txt"
    write(paths, "0badcafe", ["mpifarm", "tasks.txt", "--remap"], 60)
    assert find_remap_command(TARGET) == "mpifarm tasks.txt --remap"
    write(paths, "0badcafe", ["mpifarm", "tasks.txt"], 60, "/my data")
    assert find_remap_command(TARGET) == "cd '/my data' && mpifarm --remap tasks.txt"


KEPT = Target("wa", "wa/stdin.txt")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    return make_workdir(KEPT, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("given", "way_on"),
    [
        ("-n 1 -w wa echo {} ::: a b", "--remap -n 1 --workdir wa wa/stdin.txt"),
        ("-n1 --workdir=wa -v -- x ::: a", "--remap -n1 -v --workdir wa wa/stdin.txt"),
        ("-w wa x -w b ::: a --remap", "--remap --workdir wa wa/stdin.txt"),
        ("run --proc -w wa ::: a", "run --remap --proc --workdir wa wa/stdin.txt"),
        ("--remap cat :::: names ::: b", "--remap --workdir wa wa/stdin.txt"),
        (
            "--workdir=wa :::: wa/given-n1-27-0123abcd.txt",
            "--remap --workdir=wa wa/stdin.txt",
        ),
    ],
)
def test_a_list_of_arguments_that_was_edited_goes_on_as_the_workdir_keeps_it(
    kept, given, way_on
):
    write(kept, "0badcafe", ["mpifarm", *given.split()], 60)
    assert find_remap_command(KEPT) == f"mpifarm {way_on}"


def test_a_list_of_arguments_of_another_directory_is_named_by_its_whole_path(kept):
    words = ["mpifarm", "-w", "wa", "echo", ":::", "a"]
    write(kept, "0badcafe", words, 60, "/my data")
    whole = f"--workdir {kept.root} {kept.stdin_list}"
    assert find_remap_command(KEPT) == f"cd '/my data' && mpifarm --remap {whole}"


def test_the_word_run_stays_in_front(paths):
    write(paths, "0badcafe", ["mpifarm", "run", "-n", "2", "tasks.txt"], 60)
    assert find_remap_command(TARGET) == "mpifarm run --remap -n 2 tasks.txt"


def test_a_submitted_list_that_was_edited_is_submitted_anew_with_remap(paths):
    write(paths, "0badcafe", ["mpifarm", "tasks.txt"], 60, **SLURM)
    write_script(paths, 1, "sbatch /w/job.slurm")
    assert find_remap_command(TARGET) == "mpifarm submit ... tasks.txt --remap"
    elsewhere = Target(TARGET.workdir, "lists/tasks.txt")
    words = "mpifarm submit ... lists/tasks.txt --workdir tasks.txt_workdir --remap"
    assert find_remap_command(elsewhere) == words
