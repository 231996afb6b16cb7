"""Options that have no effect as they were given are told, each with what it needs."""

import pytest

from mpifarm.commands.options import parse_arguments, parse_line
from mpifarm.farm.unused_options import find_unused
from mpifarm.model.settings import Default, RunnerDefinition

DEFAULT = RunnerDefinition()
APPTAINER = RunnerDefinition("box", "mpifarm.containers.ApptainerRunner")
OWN = RunnerDefinition("own", "tests.unit.farm.test_unused_options.Own")


class Own:
    """A runner that is written from scratch."""

    def run(self, taskid, command, logfh):
        return 0

    def terminate(self):
        pass


def told(line: str, runner: RunnerDefinition = DEFAULT, **environ: str) -> list[str]:
    settings = parse_arguments([*line.split(), "tasks.txt"], environ)
    return [*find_unused(settings, runner, environ)]


@pytest.mark.parametrize(
    ("line", "runner", "named"),
    [
        ("--retry-delay 3", DEFAULT, "--retry-delay 3 has no effect without --retries"),
        ("--retry-delay 3 --retries 0", DEFAULT, "without --retries"),
        ("--retry-delay 3 --requeue-status 85", DEFAULT, "without --retries"),
        ("--task-time 60", DEFAULT, "--task-time 60 has no effect without --deadline"),
        ("--task-time 60 --deadline none", DEFAULT, "with --deadline none"),
        ("--in-array", DEFAULT, "--in-array has no effect outside of a job array"),
        ("--checkpoint-signal USR1 --grace 0", DEFAULT, "with --grace 0"),
        ("--checkpoint-signal USR1", OWN, "with the runner own"),
    ],
)
def test_an_option_without_effect_is_told_with_what_it_needs(line, runner, named):
    (warning,) = told(line, runner)
    assert warning.startswith("WARNING: ")
    assert named in warning


def test_an_option_that_nobody_typed_need_not_have_an_effect_in_each_farm():
    line = parse_line(["--grace", "0", "tasks.txt"], {})
    for option, word in (("--retry-delay", "3"), ("--checkpoint-signal", "USR1")):
        settings = line.settle([Default(option, (word,), "config.ini", 2)])
        assert settings.has_default(option)
        assert [*find_unused(settings, DEFAULT, {})] == []


@pytest.mark.parametrize(
    ("line", "runner"),
    [
        ("", DEFAULT),
        ("--retry-delay 3 --retries 1", DEFAULT),
        ("--retry-delay 0", DEFAULT),
        ("--task-time 60 --deadline 4000000000", DEFAULT),
        ("--checkpoint-signal USR1", DEFAULT),
        ("--checkpoint-signal USR1", APPTAINER),
        ("--rank-timeout 30 --quarantine 3 --canary 2 --max-failures 3", OWN),
    ],
)
def test_an_option_that_has_its_effect_gets_no_word(line, runner):
    assert told(line, runner) == []


def test_the_task_time_has_a_meaning_in_a_job_whose_end_may_be_known():
    assert told("--task-time 60", SLURM_JOB_ID="1") == []


def test_to_be_in_an_array_has_a_meaning_in_one():
    assert told("--in-array", SLURM_ARRAY_JOB_ID="1") == []
