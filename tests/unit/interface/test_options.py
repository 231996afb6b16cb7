"""Options by keywords: each is one of the command line, by its own table."""

import pytest

from mpifarm.commands.options import parse_arguments
from mpifarm.errors import InputError
from mpifarm.interface.options import (
    OPTIONS,
    name_keywords,
    parse_options,
    spell_options,
)


def parse(**options):
    return parse_arguments([*spell_options(options), "--workdir=w", ":::", "true"], {})


def test_a_value_means_what_the_same_word_means_on_the_command_line():
    settings = parse(proc=4, task_timeout=1.5, bind=True, verbose=True, logs="packed")
    assert settings.workers == 4
    assert parse(proc=8 / 2).workers == 4
    assert settings.limits.timeout == 1.5
    assert (settings.bind, settings.verbose, settings.logs) == (True, True, "packed")


def test_one_that_may_be_given_again_takes_several():
    settings = parse(limit={"disk": 2, "net": 1}, hook=["a", "b"])
    assert settings.policy.seats == (("disk", 2), ("net", 1))
    assert settings.hooks.names == ("a", "b")


def test_false_undoes_a_default_and_none_is_not_given():
    assert spell_options({"bind": False, "proc": False, "retries": None}) == [
        *("--no-bind", "--no-proc")
    ]
    assert spell_options({"remap": False, "follow": True}) == ["--follow"]


def test_each_option_of_the_command_line_has_its_keyword():
    assert {"proc", "jobs", "task_memory", "requeue_status", "events"} <= OPTIONS.keys()
    assert not {"workdir", "progress", "tasklist", "dry_run", "help"} & OPTIONS.keys()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"retrys": 2}, "there is no option retrys, did you mean retries?"),
        (
            {"retry": 2},
            "there is no option retry, did you mean retries or retry_delay?",
        ),
        ({"lancher": "srun"}, "there is no option lancher, did you mean launcher?"),
        ({"wrokdir": "w"}, "there is no option wrokdir, did you mean workdir?"),
        ({"n_jobs": 2}, "there is no option n_jobs: proc=N is the number of tasks at"),
        ({"cwd": "d"}, "there is no option cwd: chdir=DIR is where the commands run"),
        ({"max_procs": 2}, "there is no option max_procs: -n N (--proc N)"),
        ({"dry_run": True}, "it is for the command line"),
        ({"xyzzy": 2}, "there is no option xyzzy: mpifarm --help-all lists all"),
        ({"tasklist": "csv"}, "no handler reads them"),
        ({"bind": 3}, "bind takes True or False, not 3"),
    ],
)
def test_a_mistake_is_told_with_what_is_near(options, sentence):
    with pytest.raises(InputError) as refused:
        parse(**options)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"proc": "many"}, "proc takes a number, or 'auto', or 50% for half of the"),
        ({"task_timeout": "x"}, "task_timeout takes seconds, 0 or more, or a time as"),
        ({"limit": "x"}, "limit takes "),
    ],
)
def test_a_wrong_value_is_told_by_its_keyword(options, sentence):
    words = [*spell_options(options), "--workdir=w", "::::", "list"]
    with pytest.raises(InputError) as refused:
        parse_options(words)
    assert str(refused.value).startswith(sentence)
    assert "--" not in str(refused.value)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("by --limit l=N (0: any number)", 'by limit={"l": N} (0: any number)'),
        ("by --limit l=N --limit m=3 (0", 'by limit={"l": N, "m": 3} (0'),
        ("hook 'x' for --hook, only: none", "hook 'x' for hook, only: none"),
        ("or name its file with --config", "or name its file with config"),
        ("--id-variable A=1 (x)", "id_variable A=1 (x)"),
        ("; --as-is runs the list", "; as_is=True runs the list"),
        ("without --task-timeout, give", "without task_timeout, give"),
        ("give mpifarm retry DIR --list X", "give mpifarm retry DIR --list X"),
        ("mpifarm --remap DIR; --remap", "mpifarm --remap DIR; remap=True"),
        ("--limits and --directive", "--limits and --directive"),
        ("can't run 'a --config b' by --config", "can't run 'a --config b' by config"),
    ],
)
def test_what_a_farm_says_of_options_is_said_of_keywords(said, told):
    assert name_keywords(said) == told
