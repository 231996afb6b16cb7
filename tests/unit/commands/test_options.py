"""The command line: PyTaskFarmer's own means the same; mistakes are one sentence."""

import argparse
import contextlib
import dataclasses
import importlib
import io
import math
import os
import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mpifarm import __version__
from mpifarm.commands import SUBCOMMANDS, misspelt, option_values
from mpifarm.commands.first_screen import FIRST_SCREEN
from mpifarm.commands.options import (
    ALL_NAMES,
    LONG_NAMES,
    OLD_NAMES,
    OPTIONS,
    HelpAsked,
    parse_arguments,
    parse_line,
)
from mpifarm.errors import ExitStatus, InputError
from mpifarm.model.settings import (
    ANY_SEED,
    Default,
    HookSettings,
    Policy,
    Settings,
    TaskLimits,
)

CPUS = 48
USABLE = 6


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine of 48 CPUs, of which this process may use 6."""
    monkeypatch.setattr(os, "cpu_count", lambda: CPUS)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(USABLE)))


def parsed(*argv: str) -> Settings:
    return parse_arguments(argv, {})


def mistake(*argv: str) -> str:
    with pytest.raises(InputError) as caught:
        parsed(*argv)
    assert caught.value.exit_status == ExitStatus.BAD_INPUT
    return str(caught.value)


def wanted(tasklist: str = "tasks.txt", **others: object) -> Settings:
    others.setdefault("workdir", f"{tasklist}_workdir")
    others.setdefault("names_handler", "handler" in others)
    return Settings(tasklist=tasklist, **others)  # type: ignore[arg-type]


def limited(**limits: object) -> Settings:
    return wanted(limits=TaskLimits(**limits))  # type: ignore[arg-type]


def decided(**policy: object) -> Settings:
    return wanted(policy=Policy(**policy))  # type: ignore[arg-type]


# Command lines as users of PyTaskFarmer have them in their job scripts.
OLD_COMMAND_LINES = [
    ("tasks.txt", wanted()),
    ("--proc 4 tasks.txt", wanted(workers=4)),
    ("--proc=4 tasks.txt", wanted(workers=4)),
    ("-n 4 tasks.txt", wanted(workers=4)),
    ("-n4 tasks.txt", wanted(workers=4)),
    ("tasks.txt --proc", wanted(workers=CPUS)),
    ("tasks.txt -n", wanted(workers=CPUS)),
    ("--proc -v 1 tasks.txt", wanted(workers=CPUS, verbose=True)),
    ("--proc auto tasks.txt", wanted(workers=USABLE)),
    ("--timeout 60 tasks.txt", wanted(timeout=60.0)),
    ("--timeout 0 tasks.txt", wanted(timeout=None)),
    ("--timeout=1700 -w out tasks.txt", wanted(timeout=1700.0, workdir="out")),
    ("-w out tasks.txt", wanted(workdir="out")),
    ("--workdir /scratch/run1 tasks.txt", wanted(workdir="/scratch/run1")),
    ("tasks.txt --workdir out", wanted(workdir="out")),
    ("-v 1 tasks.txt", wanted(verbose=True)),
    ("-v tasks.txt", wanted(verbose=True)),
    ("-v1 tasks.txt", wanted(verbose=True)),
    ("tasks.txt -v", wanted(verbose=True)),
    ("-v -n 2 tasks.txt", wanted(verbose=True, workers=2)),
    ("-v -- tasks.txt", wanted(verbose=True)),
    ("--verbose True tasks.txt", wanted(verbose=True)),
    ("--verbose=1 tasks.txt", wanted(verbose=True)),
    ("--verbose tasks.txt", wanted(verbose=True)),
    ("tasks.txt --verbose True", wanted(verbose=True)),
    ("-v False tasks.txt", wanted(verbose=False)),
    ("-v 2 tasks.txt", wanted(verbose=True)),
    ("-v very tasks.txt", wanted(verbose=True)),
    ("-v -1 tasks.txt", wanted(verbose=True)),
    ("-verbose tasks.txt", wanted(verbose=True)),
    ("-r docker tasks.txt", wanted(runner="docker")),
    ("--runner shifter tasks.txt", wanted(runner="shifter")),
    ("-t db tasks.txt", wanted(handler="db")),
    ("--tasklist db tasks.txt", wanted(handler="db")),
    ("--task db tasks.txt", wanted(handler="db")),
    ("--ta db tasks.txt", wanted(handler="db")),
    ("--time 5 tasks.txt", wanted(timeout=5.0)),
    ("--ti=5 tasks.txt", wanted(timeout=5.0)),
    ("--w out tasks.txt", wanted(workdir="out")),
    ("--work=out tasks.txt", wanted(workdir="out")),
    ("--p 3 tasks.txt", wanted(workers=3)),
    ("--r docker tasks.txt", wanted(runner="docker")),
    ("--v 1 tasks.txt", wanted(verbose=True)),
    ("--ver tasks.txt", wanted(verbose=True)),
    ("--verb 1 tasks.txt", wanted(verbose=True)),
    ("-n 1 -n 2 tasks.txt", wanted(workers=2)),
    ("-- -odd-name", wanted("-odd-name")),
    ("-n 64 --timeout 1700 -w w -v 1 -r r -t t list", wanted(
        "list",
        workers=64, timeout=1700.0, workdir="w", verbose=True, runner="r", handler="t",
    )),
]  # fmt: skip

NEW_COMMAND_LINES = [
    ("--timeout 1.5 tasks.txt", wanted(timeout=1.5)),
    ("--grace 10 tasks.txt", wanted(grace=10.0)),
    ("--grace 0 tasks.txt", wanted(grace=0.0)),
    ("--lock-area /locks tasks.txt", wanted(lock_area="/locks")),
    ("--mpi off tasks.txt", wanted(mpi="off")),
    ("--mpi=auto tasks.txt", wanted(mpi="auto")),
    ("--config a.ini tasks.txt", wanted(config="a.ini")),
    ("--chdir /run tasks.txt", wanted(chdir="/run")),
    ("--bind tasks.txt", wanted(bind=True)),
    ("--gpus auto tasks.txt", wanted(gpus="auto")),
    ("--gpus 04 tasks.txt", wanted(gpus="4")),
    ("--gpus none tasks.txt", wanted(gpus="none")),
    ("--logs packed tasks.txt", wanted(logs="packed")),
    ("--logs failed tasks.txt", wanted(logs="failed")),
    ("--progress bar tasks.txt", wanted(progress="bar")),
    ("--quiet tasks.txt", wanted(quiet=True)),
    ("--remap tasks.txt", wanted(remap=True)),
    ("--as-is tasks.txt", wanted(as_is=True)),
    ("--in-array tasks.txt", wanted(in_array=True)),
    ("--durations a.txt tasks.txt", wanted(durations="a.txt")),
    ("--id-variable ID tasks.txt", wanted(id_variables=(("ID", 0),))),
    (
        "--id-variable A=2 --id-variable B=7 --id-variable A=2 tasks.txt",
        wanted(id_variables=(("A", 2), ("B", 7))),
    ),
    ("--task-timeout 9 tasks.txt", limited(timeout=9.0)),
    ("--task-timeout 0 tasks.txt", limited(timeout=None)),
    ("--task-memory 64M tasks.txt", limited(memory=2**26)),
    ("--task-memory 67108864 tasks.txt", limited(memory=2**26)),
    ("--task-memory 65536k tasks.txt", limited(memory=2**26)),
    ("--task-memory 1.5G tasks.txt", limited(memory=3 * 2**29)),
    ("--task-memory 4GiB tasks.txt", limited(memory=2**32)),
    ("--task-memory 1t tasks.txt", limited(memory=2**40)),
    ("--checkpoint-signal USR1 tasks.txt", limited(checkpoint_signal=10)),
    ("--checkpoint-signal sigint tasks.txt", limited(checkpoint_signal=2)),
    ("--checkpoint-signal 15 tasks.txt", limited(checkpoint_signal=15)),
    ("--retries 3 tasks.txt", decided(retries=3)),
    ("--retry-delay 2.5 tasks.txt", decided(retry_delay=2.5)),
    ("--requeue-status 1 tasks.txt", decided(requeue_status=1)),
    ("--requeue-status 255 tasks.txt", decided(requeue_status=255)),
    ("--max-failures 1 tasks.txt", decided(max_failures=1)),
    ("--max-failures 5% tasks.txt", decided(max_failed_share=0.05)),
    ("--max-failures 100% tasks.txt", decided(max_failed_share=1.0)),
    ("--canary 4 tasks.txt", decided(canary=4)),
    ("--start-rate 20 tasks.txt", decided(start_rate=20.0)),
    ("--start-rate 0.5/s tasks.txt", decided(start_rate=0.5)),
    ("--start-rate 90/m tasks.txt", decided(start_rate=1.5)),
    ("--start-rate 1800/h tasks.txt", decided(start_rate=0.5)),
    ("--start-rate 0 tasks.txt", decided(start_rate=None)),
    (
        "--limit disk=5 --limit my-gpu.1=0 --limit disk=5 tasks.txt",
        decided(seats=(("disk", 5), ("my-gpu.1", 0))),
    ),
    ("--quarantine off tasks.txt", decided(quarantine=0)),
    ("--quarantine 1 tasks.txt", decided(quarantine=1)),
    ("--rank-timeout 2 tasks.txt", decided(rank_timeout=2.0)),
    ("--deadline none tasks.txt", decided(deadline=math.inf)),
    ("--deadline 1700000000 tasks.txt", decided(deadline=1.7e9)),
    ("--deadline 2026-11-23T12:00+00:00 tasks.txt", decided(deadline=1795435200.0)),
    ("--task-time 8 tasks.txt", decided(task_time=8.0)),
    ("--proc 4096 tasks.txt", wanted(workers=4096)),
    ("--proc 1 tasks.txt", wanted(workers=1)),
]


@pytest.mark.parametrize(("line", "expected"), OLD_COMMAND_LINES)
def test_an_old_command_line_goes_on_working(line, expected):
    assert parsed(*line.split()) == expected


@pytest.mark.parametrize(("line", "expected"), NEW_COMMAND_LINES)
def test_the_new_options_are_read(line, expected):
    assert parsed(*line.split()) == expected


def test_names_with_spaces_and_bytes_that_are_not_utf8_stay_as_they_are():
    assert parsed("my tasks \udcff", "-w", "-out dir").workdir == "-out dir"
    assert parsed("my tasks \udcff").workdir == "my tasks \udcff_workdir"


def test_all_cpus_are_one_where_nobody_knows_how_many_there_are(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert parsed("tasks.txt", "-n").workers == 1


# ---- against PyTaskFarmer's own parser ----------------------------------------------


def whole(least: int):
    """PyTaskFarmer's `int`, without the numbers that it accepts and then dies of."""

    def parse(word: str) -> int:
        if int(word) < least:
            raise ValueError(word)
        return int(word)

    return parse


def pytaskfarmer_parser() -> argparse.ArgumentParser:
    """The parser of PyTaskFarmer 0.1.0 (0.0.1 has the same)."""
    parser = argparse.ArgumentParser(description="Simple task queue")
    parser.add_argument("tasklist", metavar="List", type=str)
    parser.add_argument(
        "--proc", "-n", metavar="Processes", type=whole(1), nargs="?", default=8
    )
    parser.add_argument("--timeout", type=whole(0), default=None)
    parser.add_argument("--workdir", "-w", required=False, default=None)
    parser.add_argument(
        "--verbose", "-v", type=bool, dest="verb", required=False, default=False
    )
    parser.add_argument("--runner", "-r", default="default")
    parser.add_argument("--tasklist", "-t", default="default", dest="tasklisthandler")
    return parser


def find_old_reading(argv: Sequence[str]) -> argparse.Namespace | None:
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            return pytaskfarmer_parser().parse_args(list(argv))
        except SystemExit:
            return None


def as_settings(old: argparse.Namespace) -> Settings:
    return Settings(
        tasklist=old.tasklist,
        workdir=old.tasklist + "_workdir" if old.workdir is None else old.workdir,
        workers=CPUS if old.proc is None else old.proc,
        timeout=float(old.timeout) if old.timeout else None,
        verbose=old.verb,
        runner=old.runner,
        handler=old.tasklisthandler,
    )


SHORTENED = ["--proc", "--timeout", "--workdir", "--verbose", "--runner", "--tasklist"]
OPTION_WORDS = ["-n", "-w", "-v", "-r", "-t"] + [
    name[:length] for name in SHORTENED for length in range(3, len(name) + 1)
]
VALUES = ["1", "4", "60", "True", "word", "tasks.txt", "off", "-1", "-", "a b", "-x y"]
WHOLE_OPTIONS = {  # options with values that suit them, so that many lines are accepted
    ("-n", "--p", "--proc"): ["1", "64", " 4 ", "0_2"],
    ("--ti", "--timeout"): ["0", "60", "1800"],
    ("-w", "-v", "-r", "-t", *OPTION_WORDS[5:]): VALUES,
}
WHOLE_OPTION = st.sampled_from(list(WHOLE_OPTIONS)).flatmap(
    lambda names: st.tuples(
        st.sampled_from(names), st.sampled_from(WHOLE_OPTIONS[names])
    )
)
WORDS = st.one_of(
    st.sampled_from(OPTION_WORDS + VALUES).map(lambda word: [word]),
    WHOLE_OPTION.map(list),
    WHOLE_OPTION.map(list),
    WHOLE_OPTION.map(lambda option: ["=".join(option)]),
    WHOLE_OPTION.filter(lambda option: len(option[0]) == 2).map(
        lambda option: ["".join(option)]
    ),
)


def joined(groups: list[list[str]]) -> list[str]:
    return [word for group in groups for word in group]


@settings(max_examples=300)
@example(["-v", "word", "tasks.txt"])
@example(["-v", "-1", "tasks.txt"])
@example(["-v", "off", "-v", "word", "tasks.txt"])
@given(
    st.builds(
        lambda before, after: joined([*before, ["list.txt"], *after]),
        st.lists(WORDS, max_size=3),
        st.lists(WORDS, max_size=2),
    )
)
def test_what_pytaskfarmer_accepts_means_the_same(argv):
    old = find_old_reading(argv)
    assume(old is not None)
    assert old is not None
    assume(old.tasklist != "-")  # refused: users mean a pipe by it
    new = parse_arguments(argv, {})
    # "no" was yes to PyTaskFarmer, which made no use of it.
    assert new.verbose in {old.verb, False}
    old.verb = new.verbose
    assert dataclasses.replace(new, names_handler=False) == as_settings(old)


@given(st.lists(st.one_of(WORDS, st.lists(st.one_of(
    st.text(max_size=8), st.text("-=hnvtx1 ", max_size=6),
    st.sampled_from(["--", "--mpi", "--grace", "--lock", "--version", "-h", "--prock"]),
), max_size=2)), max_size=5).map(joined))  # fmt: skip
def test_any_words_are_settings_or_one_sentence(argv):
    told = told_of(argv)
    assert "\n" not in told
    assert told == "" or told.endswith("(mpifarm --help tells more)")
    assert len(told) < 220 + sum(len(repr(word)) for word in argv)


def told_of(argv: Sequence[str]) -> str:
    """The sentence about a mistake, and none where there is no mistake."""
    try:
        assert isinstance(parse_arguments(argv, {}), Settings)
    except HelpAsked:
        return ""
    except InputError as error:
        return str(error)
    return ""


# ---- mistakes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "no tasklist"),
        ("", "that lists the commands, or - for standard input"),
        ("-v 1", "no tasklist"),
        ("-n 0 tasks.txt", "--proc 0"),
        ("--proc four tasks.txt", "'four'"),
        ("--proc tasks.txt", "'tasks.txt'"),
        ("--timeout -5 tasks.txt", "'-5'"),
        ("--timeout nan tasks.txt", "'nan'"),
        ("--timeout inf tasks.txt", "'inf'"),
        ("--timeout soon tasks.txt", "'soon'"),
        ("--grace -1 tasks.txt", "--grace"),
        ("--grace nan tasks.txt", "--grace"),
        ("--mpi on tasks.txt", "'on'"),
        ("tasks.txt -w", "--workdir"),
        ("tasks.txt --timeout -v", "--timeout"),
        ("--prock 4 tasks.txt", "did you mean --proc?"),
        ("--time-out=4 tasks.txt", "did you mean --timeout?"),
        ("--log-area /x tasks.txt", "did you mean --lock-area?"),
        ("-timeout 60 tasks.txt", "did you mean --timeout?"),
        ("-workdir out tasks.txt", "did you mean --workdir?"),
        ("tasks.txt proc 4", "did you mean --proc?"),
        ("tasks.txt proc=4", "did you mean --proc?"),
        ("--zzz tasks.txt", "no option --zzz"),
        ("-x tasks.txt", "no option -x"),
        ("--t 5 tasks.txt", "--timeout or --tasklist"),
        ("one.txt two.txt", "'two.txt'"),
        ("echo hello", "quote a name"),
        ("\u2014proc 4 tasks.txt", "\u2014proc begins with a dash that is not '-'"),
        ("tasks.txt \u2013v", "\u2013v begins with a dash"),
        ("\u2014help", "\u2014help begins with a dash"),
        ("-v one.txt -v two.txt", "'two.txt'"),
        ("--version=2 tasks.txt", "takes no value"),
        ("--help=me tasks.txt", "takes no value"),
        ("--proc 4097 tasks.txt", "--proc 4097 is too many: 4096 at the most"),
        ("-j 9999999% tasks.txt", "--proc 9999999% is too many: 4096 at the most"),
        ("--no-such", "there is no option --no-such"),
        ("--halt=now", "there is no option --halt=now: --max-failures 1 stops"),
        ("-w x --tag", "there is no option --tag: each task's output is in"),
        ("-w x -n 3", "no tasklist is given: name the file that lists"),
        ("-j 0 tasks.txt", "--proc 0 would run nothing: write a number of tasks"),
        ("-j 50%x tasks.txt", "or 'auto', or 50% for half of the CPUs, not '50%x'"),
        ("-np 4 tasks.txt", "-np is mpirun's: write -n N"),
        ("--mpi=pmix tasks.txt", "--mpi=pmix is srun's: give it to srun"),
        ("--gpus 0 tasks.txt", "--gpus 0 would share nothing: it takes 1 or more"),
        ("--gpus some tasks.txt", "'auto', 'none' or a number of GPUs"),
        ("--gpus -1 tasks.txt", "'auto', 'none' or a number of GPUs"),
        ("--logs none tasks.txt", "'all', 'packed' or 'failed'"),
        ("--progress on tasks.txt", "'auto', 'bar', 'lines' or 'off'"),
        ("--task-memory much tasks.txt", "takes bytes, as 500M or 4G, not 'much'"),
        ("--task-memory 4X tasks.txt", "takes bytes, as 500M or 4G, not '4X'"),
        ("--task-memory 67108863 tasks.txt", "is too little: it takes 64M or more"),
        ("--checkpoint-signal KILL tasks.txt", "a signal that a command can catch"),
        ("--checkpoint-signal 19 tasks.txt", "a signal that a command can catch"),
        ("--checkpoint-signal 0 tasks.txt", "a signal that a command can catch"),
        ("--retries -1 tasks.txt", "a number, 0 or more"),
        ("--retries 1.5 tasks.txt", "a number, 0 or more"),
        ("--retry-delay -1 tasks.txt", "seconds, 0 or more"),
        ("--requeue-status 0 tasks.txt", "a status, 1 to 255, not '0'"),
        ("--requeue-status 256 tasks.txt", "a status, 1 to 255, not '256'"),
        ("--max-failures 0 tasks.txt", "a number of tasks, 1 or more, or a share"),
        ("--max-failures 0% tasks.txt", "a number of tasks, 1 or more, or a share"),
        ("--max-failures 101% tasks.txt", "a number of tasks, 1 or more, or a share"),
        ("--canary few tasks.txt", "a number, 0 or more"),
        ("--quarantine 0 tasks.txt", "a number, 1 or more, or 'off', not '0'"),
        ("--start-rate fast tasks.txt", "a number of tasks per second, as 20"),
        ("--start-rate 5/d tasks.txt", "or 90/m, or 500/h, not '5/d'"),
        ("--start-rate 5/ tasks.txt", "or 90/m, or 500/h, not '5/'"),
        ("--start-rate -1 tasks.txt", "or 90/m, or 500/h, not '-1'"),
        ("--limit disk tasks.txt", "takes NAME=N, the kind of a task"),
        ("--limit =3 tasks.txt", "takes NAME=N, the kind of a task"),
        ("--limit a/b=3 tasks.txt", "takes NAME=N, the kind of a task"),
        ("--limit disk=-3 tasks.txt", "takes NAME=N, the kind of a task"),
        ("--limit a=1,b=2 t", "--limit a=1,b=2 names several kinds: give --limit a=1"),
        ("--limit a=1 --limit a=2 t", "--limit a=1 and --limit a=2 contradict each"),
        ("--id-variable A=1 --id-variable A=2 t", "contradict each other: leave one"),
        ("--rank-timeout 1.9 tasks.txt", "--rank-timeout 1.9 is too short: a busy"),
        ("--rank-timeout soon tasks.txt", "seconds, 0 or more"),
        ("--deadline soon tasks.txt", "seconds since 1970, a time as"),
        ("--deadline 0001-01-01T00:00 tasks.txt", "seconds since 1970, a time as"),
        ("--quiet -v tasks.txt", "--quiet and --verbose contradict each other"),
    ],
)
def test_a_mistake_is_told_in_one_sentence_that_names_it_and_the_help(line, named):
    sentence = mistake(*line.split())
    assert named in sentence
    assert sentence.endswith("(mpifarm --help tells more)")
    assert "\n" not in sentence
    assert len(sentence) < 200


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (
            "--retry 3 tasks.txt",
            "did you mean --retries, --retry-delay or mpifarm retry?",
        ),
        ("--gr=.5 tasks.txt", "no option --gr=.5, did you mean --grace?"),
        ("--lock /locks tasks.txt", "did you mean --lock-area?"),
        ("--max 3 tasks.txt", "did you mean --max-failures?"),
        ("--check tasks.txt", "did you mean --checkpoint-signal or mpifarm check?"),
        ("--vers tasks.txt", "did you mean --version?"),
        ("--task-t 3 tasks.txt", "did you mean --task-time or --task-timeout?"),
    ],
)
def test_only_the_options_of_pytaskfarmer_can_be_shortened(line, named):
    assert named in mistake(*line.split())


OPTIONS_OF_OTHERS = [
    ("--resume tasks.txt", "the same command goes on"),
    ("--restart tasks.txt", "the same command goes on"),
    ("--joblog log tasks.txt", "attempts.tsv"),
    ("--halt soon,fail=1 tasks.txt", "--max-failures 1"),
    ("--halt=now,fail=1 tasks.txt", "--max-failures 1"),
    ("-P 4 tasks.txt", "-n 4 runs 4 tasks"),
    ("-P4 tasks.txt", "-n 4 runs 4 tasks"),
    ("--workers 4 tasks.txt", "--proc N"),
    ("-np 4 tasks.txt", "-np is mpirun's"),
    ("--eta tasks.txt", "the farm shows its progress"),
    ("--prologue x tasks.txt", "--setup 'source env.sh'"),
    ("--mpi=pmix tasks.txt", "--mpi=pmix is srun's"),
    ("--nodes 4 tasks.txt", "asked for by sbatch, srun or mpirun"),
    ("-N4 tasks.txt", "asked for by sbatch, srun or mpirun"),
    ("--dryrun tasks.txt", "mpifarm check LIST"),
    ("--repair tasks.txt", "mpifarm check has one"),
]


@pytest.mark.parametrize(("line", "named"), OPTIONS_OF_OTHERS)
def test_an_option_of_another_tool_is_answered_by_what_does_the_same(line, named):
    sentence = mistake(*line.split())
    assert named in sentence
    assert "did you mean" not in sentence


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("progress tasks.txt", "mpifarm has no progress"),
        ("top tasks.txt", "mpifarm status LIST"),
        ("watch", "mpifarm status LIST"),
        ("-n 4 squeue tasks.txt", "mpifarm status LIST"),
        ("-n 4 status tasks.txt", "a subcommand stands first: mpifarm status"),
        ("sbatch tasks.txt", "mpifarm submit -N 8 -t 4:00:00 LIST"),
        ("stats tasks.txt", "result.json"),
        ("run tasks.txt", "give the list alone"),
        ("resume", "mpifarm release LIST lets held tasks start; after a stop"),
        ("kill tasks.txt", "USR1"),
        ("stop tasks.txt 3", "mpifarm cancel LIST ID"),
        ("scancel tasks.txt 3", "mpifarm cancel LIST ID"),
        ("pause tasks.txt", "mpifarm hold LIST"),
        ("qhold tasks.txt 3", "mpifarm hold LIST ID"),
        ("unpause tasks.txt", "mpifarm release LIST"),
        ("cancle tasks.txt 3", "did you mean mpifarm cancel?"),
        ("logs tasks.txt", "mpifarm log LIST ID"),
        ("usage", "mpifarm --help"),
        ("-n 4 check tasks.txt", "a subcommand stands first: mpifarm check"),
        ("chekc tasks.txt", "did you mean mpifarm check?"),
        ("ps tasks.txt", "mpifarm status LIST"),
        ("list tasks.txt", "mpifarm ls LIST"),
        ("queue", "mpifarm ls LIST"),
        ("history tasks.txt", "mpifarm joblog LIST --gnu"),
        ("explain tasks.txt", "mpifarm why LIST"),
        ("query tasks.txt", "mpifarm export LIST --sqlite FILE.db"),
    ],
)
def test_a_subcommand_of_another_tool_is_answered_by_what_serves_the_need(
    line, named, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert named in mistake(*line.split())


def test_an_unknown_subcommand_before_a_list_that_is_there_is_told_with_all_there_are(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.txt").touch()
    sentence = mistake("frobnicate", "tasks.txt")
    assert "no subcommand frobnicate, only add, cancel, check, completion" in sentence
    assert "mpifarm tasks.txt" in sentence


def test_a_name_with_spaces_that_is_there_is_to_be_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my tasks.txt").touch()
    assert "quote a name that has spaces in it: 'my tasks.txt'" in mistake(
        "my", "tasks.txt"
    )


@pytest.mark.parametrize("name", ["summary", "batch", "run", "help"])
def test_a_list_that_is_named_as_a_subcommand_of_others_is_a_list(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    assert parsed(name) == wanted(name)


@pytest.mark.parametrize("name", sorted(SUBCOMMANDS))
def test_a_list_that_is_named_as_a_subcommand_is_a_list_and_told(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    assert parsed(name) == wanted(name)
    for option in SUBCOMMANDS[name]:
        sentence = mistake(name, option)
        assert f"say ./{name} for the list" in sentence
        assert f"mpifarm {name} WORKDIR for the command" in sentence


def test_a_list_that_is_named_as_another_tool_s_subcommand_is_told_before_a_list(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").touch()
    (tmp_path / "tasks.txt").touch()
    sentence = mistake("run", "tasks.txt")
    assert "'tasks.txt' is one word too many behind run" in sentence
    assert "(say ./run)" in sentence
    assert "give the list alone" in sentence


def test_no_word_of_another_tool_is_one_of_ours():
    own = {*LONG_NAMES, "-n", "-w", "-v", "-r", "-t", "-h"}
    assert not own & set(misspelt.OPTIONS_OF_OTHERS)
    assert not set(SUBCOMMANDS) & set(misspelt.COMMANDS_OF_OTHERS)


def test_who_wants_to_remove_is_told_of_tasks_before_the_workdir():
    for word in ("rm", "remove", "delete"):
        said = misspelt.explain_command(word)
        assert said.index("mpifarm cancel LIST ID") < said.index("rm -r LIST_workdir")


def test_each_setting_but_the_list_is_set_by_one_option():
    set_by = [option.field for group in OPTIONS.values() for option in group]
    parts = {"limits": TaskLimits, "policy": Policy, "hooks": HookSettings}
    others = {"tasklist", "arguments", "defaults", "names_handler", *parts}
    wanted = [name for name in names_of(Settings) if name not in others]
    for part, of_part in parts.items():
        wanted += [f"{part}.{name}" for name in names_of(of_part)]
    wanted.remove("policy.max_failed_share")  # --max-failures sets two
    wanted.remove("hooks.left_out")  # --no-events and its like add to it
    assert sorted(filter(None, set_by)) == sorted(wanted)


def names_of(of_settings: type) -> list[str]:
    return [field.name for field in dataclasses.fields(of_settings)]


@pytest.mark.parametrize(
    ("subcommand", "option"),
    [(name, option) for name, options in SUBCOMMANDS.items() for option in options],
)
def test_an_option_of_a_subcommand_is_in_its_help(subcommand, option):
    module = importlib.import_module(f"mpifarm.commands.{subcommand}")
    with pytest.raises(HelpAsked) as asked:
        module.main(["--help"], None, {})
    assert option in asked.value.text
    assert option not in LONG_NAMES


@pytest.mark.parametrize("path", ["/dev/fd/63", "/dev/stdin", "/proc/self/fd/0"])
def test_a_list_from_a_pipe_needs_a_workdir_that_is_named(path):
    assert "add --workdir DIR" in mistake(path)
    assert parsed(path, "-w", "x").workdir == "x"


@pytest.mark.parametrize(
    ("words", "follow", "tasklist"),
    [
        ("t", None, "t"),
        ("--follow t", math.inf, "t"),
        ("t --follow", math.inf, "t"),
        ("--follow 60 t", 60.0, "t"),
        ("--follow=0.5 t", 0.5, "t"),
        ("t --follow 2", 2.0, "t"),
        ("--follow - -w x", math.inf, "-"),
        ("--follow -w x -- 7", math.inf, "7"),
        ("--follow -n 2 t", math.inf, "t"),
    ],
)
def test_to_follow_takes_seconds_or_none(words, follow, tasklist):
    settings = parsed(*words.split())
    assert (settings.follow, settings.tasklist) == (follow, tasklist)


@pytest.mark.parametrize("word", ["x", "-1", ""])
def test_to_follow_takes_no_other_word(word):
    assert "--follow takes seconds" in mistake(f"--follow={word}", "t")


@pytest.mark.parametrize(
    "words", ["--follow 5x t", "t --follow x", "--follow 9y - -w x"]
)
def test_a_word_behind_follow_that_is_no_number_is_told(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").touch()
    assert "--follow takes seconds, 0 or more, or nothing, or a time" in mistake(
        *words.split()
    )
    assert "one word too many" in mistake("--follow", "t", "x")
    assert "one word too many" in mistake("--follow", "x", "y")


@pytest.mark.parametrize(
    "argv", [("",), ("-w", "", "t"), ("--lock-area=", "t"), ("t", "--workdir=")]
)
def test_an_empty_name_is_told_as_a_variable_that_is_not_set(argv):
    assert "is a variable in your job script not set?" in mistake(*argv)


def test_a_mistake_before_the_question_for_help_does_not_hide_the_help():
    with pytest.raises(HelpAsked):
        parsed("--prock", "4", "-h")


def test_a_deadline_that_is_given_goes_before_the_end_of_the_slurm_job():
    job = {"SLURM_JOB_END_TIME": "2000000000"}
    assert parse_arguments(["tasks.txt"], job).policy.deadline == 2e9
    given = parse_arguments(["--deadline", "1900000000", "tasks.txt"], job)
    assert given.policy.deadline == 1.9e9


def test_tasks_may_span_nodes_when_asked_to():
    assert parsed("tasks.txt") == wanted(span_nodes=False)
    assert parsed("--span-nodes", "tasks.txt") == wanted(span_nodes=True)
    assert "--span-nodes takes no value" in mistake("--span-nodes=2", "tasks.txt")


# ---- help and version ---------------------------------------------------------------


@pytest.mark.parametrize("word", ["-h", "--help", "--h", "--he"])
def test_help_is_what_fits_on_a_screen(word, capsys):
    with pytest.raises(HelpAsked) as asked:
        parsed(word)
    text = asked.value.text
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 79
    assert text.isascii()
    assert "--help-all" in text
    examples = text.partition("examples:\n")[2].partition("\n\n")[0]
    assert examples.count("\n") + 1 == 5
    assert text.count("\n  -") == 8
    assert {*re.findall(r"--[a-z-]+", text)} <= {*ALL_NAMES, "--watch", "--mpi"}
    named = text.partition("commands (")[2]
    for subcommand in SUBCOMMANDS:
        assert re.search(rf"\b{subcommand}\b", named), subcommand
    assert capsys.readouterr() == ("", "")


def test_all_of_the_help_is_a_text_for_the_caller_to_print(capsys):
    with pytest.raises(HelpAsked) as asked:
        parsed("--help-all")
    for option in LONG_NAMES:
        assert option in asked.value.text
    assert capsys.readouterr() == ("", "")


def test_help_tells_every_exit_status_and_signal():
    with pytest.raises(HelpAsked) as asked:
        parsed("--help-all")
    for status in ExitStatus:
        assert f"\n  {status:<4}" in asked.value.text
    for signal in ("USR1", "USR2", "TERM", "INT", "HUP"):
        assert signal in asked.value.text


@pytest.mark.parametrize("columns", ["", "80", "0", "nonsense", "7", "²", "61"])
def test_help_fits_the_terminal_is_ascii_and_has_no_colours(columns):
    with pytest.raises(HelpAsked) as asked:
        parse_arguments(["--help-all"], {"COLUMNS": columns, "FORCE_COLOR": "1"})
    assert not [line for line in asked.value.text.splitlines() if len(line) >= 80]
    assert asked.value.text.isascii()
    assert "\x1b" not in asked.value.text


def test_version_is_a_text_for_the_caller_to_print():
    with pytest.raises(HelpAsked, match=f"mpifarm {__version__}\n"):
        parsed("--version")


def test_the_options_of_pytaskfarmer_are_the_table_by_which_abbreviations_go():
    old = {o for a in pytaskfarmer_parser()._actions for o in a.option_strings}
    assert {option for option in old if option.startswith("--")} == set(OLD_NAMES)


@pytest.mark.parametrize("name", ["--proc", "-n", "-j", "--jobs"])
def test_the_number_of_tasks_at_one_time_has_the_name_of_parallel_too(name):
    assert parsed(name, "3", "t").workers == 3
    assert parsed("t", f"{name}{'=' if name.startswith('--') else ''}3").workers == 3


@pytest.mark.parametrize(
    ("word", "seconds"),
    [
        ("90", 90.0),
        ("1e2", 100.0),
        (".5", 0.5),
        ("90s", 90.0),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("1-02:03:04", 93784.0),
        ("4:00:00", 14400.0),
    ],
)
def test_times_are_seconds_or_as_people_write_them(word, seconds):
    assert parsed("--task-timeout", word, "t").limits.timeout == seconds
    assert parsed("--timeout", word, "t").timeout == seconds
    assert parsed("--grace", word, "t").grace == seconds
    assert parsed("--follow", word, "t").follow == seconds


@pytest.mark.parametrize("word", ["23:59", "1:30", "10x", "1h30", "-5m", "m", "inf"])
def test_what_may_be_a_time_of_day_and_what_is_no_time_are_refused(word):
    assert "1h30m or 1-02:03:04, not" in mistake(f"--grace={word}", "t")


def test_a_list_with_the_name_of_a_time_is_no_value_of_follow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "10m").touch()
    assert parsed("--follow", "10m").tasklist == "10m"


@pytest.mark.parametrize("ahead", [-3600, 3600, 20 * 3600])
def test_a_deadline_may_be_a_time_of_day_the_next_one(ahead):
    now = time.time()
    at = time.localtime(now + ahead)
    deadline = parsed("--deadline", time.strftime("%H:%M:%S", at), "t").policy.deadline
    assert deadline is not None
    found = time.localtime(deadline)
    assert found[3:6] == at[3:6]
    assert now - 2 < deadline < now + 25 * 3600 + 2


def test_the_version_has_a_short_option():
    with pytest.raises(HelpAsked, match=r"^mpifarm \d"):
        parsed("-V")


# ---- GNU parallel's ways to say how many ---------------------------------------------


@pytest.mark.parametrize(
    ("word", "cpus", "workers"),
    [
        ("100%", 8, 8),
        ("50%", 8, 4),
        ("200%", 8, 16),
        ("12.5%", 8, 1),
        ("50%", 3, 1),
        ("1%", 8, 1),
        ("0%", 8, 1),
        ("+2", 8, 10),
        ("-2", 8, 6),
        ("-8", 4, 1),
    ],
)
def test_tasks_at_one_time_may_count_from_the_cpus(monkeypatch, word, cpus, workers):
    monkeypatch.setattr(option_values, "usable_cpus", lambda: cpus)
    before = parse_arguments(["-j", word, "tasks.txt"], {})
    behind = parse_arguments(["tasks.txt", f"--jobs={word}"], {})
    made = parse_arguments(["-j", word, "x {}", ":::", "a"], {})
    attached = parse_arguments([f"-j{word}", "x {}", ":::", "a"], {})
    assert {each.workers for each in (before, behind, made, attached)} == {workers}
    assert made.arguments is not None
    assert made.arguments.command == ("x {}",)


# ---- the order of starts -------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "seed"),
    [
        (["t"], None),
        (["t", "--shuffle"], ANY_SEED),
        (["--shuffle", "t"], ANY_SEED),
        (["--shuffle", "42", "t"], 42),
        (["--shuffle=0", "t"], 0),
        (["--shuffle", "42"], ANY_SEED),  # a list of that name
    ],
)
def test_a_seed_may_stand_behind_shuffle(tmp_path, monkeypatch, words, seed):
    monkeypatch.chdir(tmp_path)
    if words[-1] == "42":
        (tmp_path / "42").touch()
    chosen = parsed(*words)
    assert (chosen.shuffle, chosen.tasklist in words) == (seed, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--order", "longest"], "--order takes 'list' or 'longest-first', not 'long"),
        (
            ["--shuffle=x"],
            "--shuffle takes a whole number as a seed, or nothing, not 'x",
        ),
        (["--shuffle", "--order", "longest-first"], "--shuffle and --order longest-f"),
    ],
)
def test_a_wrong_order_of_starts_is_told(words, said):
    assert mistake(*words, "t").startswith(said)


def test_a_typed_shuffle_is_stronger_than_an_order_of_a_file():
    order = Default("--order", ("longest-first",), "mpifarm.ini", 3)
    assert parse_line(["t"], {}).settle([order]).order == "longest-first"
    chosen = parse_line(["t", "--shuffle"], {}).settle([order])
    assert (chosen.shuffle, chosen.order, chosen.defaults) == (ANY_SEED, "list", ())


def test_a_word_in_the_place_of_the_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = mistake("-n", "four", "t")
    assert said.startswith(
        "--proc takes a number, or 'auto', or 50% for half of the CPUs, not 'four' ("
    )
    (tmp_path / "my.txt").touch()
    said = mistake("-n", "my.txt")
    assert said.startswith(
        "my.txt stands in the place of the number of --proc: write mpifarm -n 8 my.txt,"
        " or, to use all of the machine, mpifarm my.txt --proc ("
    )
    assert parsed(*["mpifarm", "my.txt", "--proc"][1:]).workers > 0
    (tmp_path / "my list.txt").touch()
    said = mistake("--proc=my list.txt")
    assert "write mpifarm -n 8 'my list.txt', or" in said
    assert "mpifarm 'my list.txt' --proc (" in said


@pytest.mark.parametrize("number", ["8", "32", "auto", "50%", "+2", "-1"])
def test_a_number_of_workers_may_be_the_name_of_a_file(tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    (tmp_path / number).mkdir()
    workers = parsed(f"--proc={number}", "t").workers
    assert workers == (int(number) if number.isdecimal() else workers)
    if number != "-1":
        assert parsed("-n", number, "t").workers == workers


def test_the_first_screen_names_n_first_and_run():
    assert "\n  -n N, --proc N " in FIRST_SCREEN
    assert FIRST_SCREEN.startswith("usage: mpifarm [run] [options] tasklist\n")
    with pytest.raises(HelpAsked) as asked:
        parsed("--help-all")
    assert asked.value.text.startswith("usage: mpifarm [run] [options] tasklist\n")
