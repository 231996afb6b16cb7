"""Words that a farm does not know: to the letter, what is said of each."""

import importlib
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

import mpifarm
from mpifarm.commands import SUBCOMMANDS, misspelt
from mpifarm.commands.option_values import FOLLOW
from mpifarm.commands.options import ALL_NAMES, LONG_NAMES, parse_line
from mpifarm.errors import InputError
from mpifarm.plugins.registry import SearchPath, find_handler

OPTIONS = ["--retries", "--proc", "-n", "--follow", "--limit", "--rank-timeout"]

EVER = misspelt.FOLLOW_EVER
"""``--follow`` without seconds."""

ANY = misspelt.SHUFFLE_ANY
"""``--shuffle`` without a seed."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "t").touch()
    (tmp_path / "begun_workdir").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "tasklist", "extra", "said"),
    [
        ([EVER, "x", "t"], "x", ["t"], "not 'x'"),
        ([EVER, "x", "-"], "x", ["-"], "not 'x'"),
        (["t", EVER, "x"], "t", ["x"], "not 'x'"),
        ([EVER, "t", "x"], "t", ["x"], ""),
        ([EVER, "x", "y"], "x", ["y"], ""),
        (["t", "x", EVER], "t", ["x"], ""),
        (["t", "x"], "t", ["x"], ""),
        ([EVER, "--proc", "t", "x"], "t", ["x"], ""),
        ([EVER, "x", "-y"], "x", ["-y"], ""),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_word_behind_follow_is_told_where_another_is_the_list(
    words, tasklist, extra, said
):
    told = misspelt._explain_bare(EVER, FOLLOW, words, tasklist, extra)
    assert told.endswith(said)
    assert bool(told) is bool(said)


@pytest.mark.usefixtures("here")
def test_a_word_behind_shuffle_is_told_as_well():
    told = misspelt.explain_words([ANY, "x", "t"], ["t"], "x", OPTIONS)
    assert told == "--shuffle takes a whole number as a seed, or nothing, not 'x'"


PAGE = Path(mpifarm.__file__).parent.parent / "docs" / "coming-from-parallel.md"


ROWS = re.findall(r"^\| ([^|]*) \| ([^|]*) \|$", PAGE.read_text(), re.MULTILINE)
TYPED = [
    (typed, answer)
    for theirs, answer in ROWS
    for typed in re.findall(r"`(-[^`]*)`", theirs)
]
"""Each option of a row, as it stands there, with mpifarm's word for it."""

THE_SAME = ("-j", "-P", "--retries N", "--timeout SECONDS", "--workdir DIR", "-n 2")
"""Options of the page that mean something here: the same, or what the row says."""


def answer_of(words, here):
    """Return the sentence about an option in front of a list, "" if it is taken."""
    try:
        settings = parse_line([*words, "t"], {}).settle()
    except InputError as error:
        return str(error)
    if settings.handler == "default":
        return ""
    with pytest.raises(InputError) as caught:
        find_handler(settings.handler, SearchPath(str(here), f"{here}/.config"))
    return str(caught.value)


def names_of(text):
    """Return the options, subcommands and separators that a text names."""
    plain = re.sub(r"(?<![\w-])-[jn]\b", "--proc", text).replace("FILE", "LIST")
    return {*re.findall(r"(?<![\w-])--[a-z][a-z-]*|::::\+|mpifarm \w+|\$\w+", plain)}


@pytest.mark.parametrize(("typed", "answer"), TYPED)
def test_an_option_of_the_page_is_answered_as_its_row_says(
    typed, answer, here, tmp_path
):
    values = {"N": "4", "TIME": "60", "SECONDS": "60"}
    told = answer_of([values.get(word, word) for word in typed.split()], tmp_path)
    if not told:
        assert typed.startswith(THE_SAME)
    elif "nothing to say" in answer and not names_of(answer):
        assert re.search("none is needed|anyway", told)
    elif names := names_of(answer):
        assert names & names_of(told), told
    else:
        assert "an argument on each line" in told


def test_the_page_has_enough_rows():
    assert len(TYPED) > 35
    for _, answer in ROWS:
        for name in re.findall(r"`(--[a-z][a-z-]*)", answer):
            assert name in ALL_NAMES, name


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-0 t", "there is no option -0: mpifarm 'COMMAND {}' ::: a b runs"),
        ("t -0", "there is no option -0: mpifarm 'COMMAND {}' ::: a b runs"),
        ("-n 4 -0 t", "there is no option -0: mpifarm 'COMMAND {}' ::: a b runs"),
        ("-0", "there is no option -0: mpifarm 'COMMAND {}' ::: a b runs"),
        ("-1 t", "there is no option -1 ("),
        ("-1", "there is no option -1 ("),
        ("-1.5 t", "there is no option -1.5 ("),
    ],
)
def test_an_option_that_is_a_number_is_not_taken_for_the_list(line, said):
    with pytest.raises(InputError) as caught:
        parse_line(line.split(), {})
    assert str(caught.value).startswith(said)


@pytest.mark.usefixtures("here")
def test_a_list_may_have_a_negative_number_for_a_name(tmp_path):
    (tmp_path / "-0").touch()
    assert parse_line(["-0"], {}).values["tasklist"] == "-0"
    assert parse_line(["-n", "-1", "t"], {}).values["tasklist"] == "t"


def test_an_answer_names_options_and_subcommands_that_there_are():
    answers = {
        *misspelt.OPTIONS_OF_OTHERS.values(),
        *misspelt.COMMANDS_OF_OTHERS.values(),
    }
    known = {*ALL_NAMES, *(name for names in SUBCOMMANDS.values() for name in names)}
    for answer in answers:
        for name in re.findall(r"(?<![\w-])--[a-z][a-z-]*", answer):
            assert name in known, (name, answer)
        for name in re.findall(r"mpifarm ([a-z]+) LIST", answer):
            assert name in SUBCOMMANDS, (name, answer)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--halt", "--max-failures 1"),
        ("--halt=soon,fail=5%", "--max-failures 5%"),
        ("--delay", "--start-rate 30/m"),
        ("--delay", "--start-rate 2 two in a second"),
        ("--sem", "--limit NAME=N"),
        ("--header", "use {1} {2}"),
        *(
            (word, "start all tasks afresh: mpifarm LIST --again")
            for word in (
                *("--restart", "--rerun", "--fresh", "--force"),
                *("--overwrite", "--reset"),
            )
        ),
        ("--joblog", "mpifarm joblog LIST --gnu"),
        ("--results", "logs/log_ID"),
        ("--tag", "mpifarm log LIST --tag prints all lines"),
        ("--tagstring", "mpifarm log LIST --tag"),
        ("--load", "--limit NAME=N"),
        ("--memfree", "--task-memory"),
        ("--sshlogin", "mpifarm submit"),
        ("--colsep", "::::+"),
        ("--resume-failed", "the same command goes on"),
        ("-k", "mpifarm log LIST prints all of them"),
        ("-N", "before python -m mpifarm"),
        ("-P4", "-n N"),
        ("-L", "runs COMMAND a and COMMAND b"),
        ("--max-fails", "--max-failures N"),
        ("--prefix", "--workdir DIR"),
        ("--pipe", "nothing on its standard input"),
        ("--will-cite", "leave it out"),
        ("--rate", "--start-rate 2 two in a second"),
        ("--rate-limit", "--start-rate 30/m"),
        ("--licence", "--limit NAME=N runs at most N tasks of the kind NAME"),
        ("--on-exit", "--on-end COMMAND runs it by the shell"),
        ("--on-error", "--on-failure COMMAND runs it by the shell"),
        ("--env-file", "--setup 'source env.sh' runs before each command"),
        ("--only-failed", "mpifarm retry LIST puts failed tasks back"),
        ("--begin", "before python -m mpifarm"),
        ("--tasks-per-node", "-n N (--proc N) is the number of tasks"),
        ("--tasksPerNode", "-n N (--proc N) is the number of tasks"),
        ("--ntasks-per-node", "before python -m mpifarm"),
        ("--cpusPerTask", "before python -m mpifarm"),
        ("--keeporder", "mpifarm log LIST prints all of them"),
        ("--retryfailed", "mpifarm retry LIST puts failed tasks back"),
        ("--no-run-if-empty", "none is needed"),
        ("--compress", "--logs packed"),
        ("--color", "has colours on a terminal"),
        ("--record-env", "have the environment of mpifarm"),
        ("--number-of-cores", "-n auto runs a task on each"),
        ("--profile", "~/.config/mpifarm/config.ini"),
        ("--process-slot-var", "$MPIFARM_WORKER"),
        ("--replace", "runs COMMAND a and COMMAND b"),
        ("--gnu", "none is needed"),
        ("--bin", "nothing on its standard input"),
        ("--sshdelay", "mpifarm submit"),
    ],
)
def test_an_option_of_a_peer_is_answered_in_place_of_the_nearest_spelling(word, said):
    told = misspelt._explain_option(word, LONG_NAMES)
    assert said in told
    assert "did you mean" not in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-m 4 t", ": -n 4 runs 4 tasks at one time on each rank; else, mpifarm 'COM"),
        ("-m4 t", ": -n 4 runs 4 tasks at one time on each rank; else, mpifarm 'COMM"),
        ("-N 4 t", ": -n 4 runs 4 tasks at one time on each rank; else, nodes, CPUs"),
        ("-P=4 t", ": -n 4 runs 4 tasks at one time on each rank"),
        ("-j 4 t", ": -n 4 runs 4 tasks at one time on each rank"),
        ("-b 4 t", ": -n 4 runs 4 tasks at one time on each rank"),
        ("t -m", ""),
        ("-m x t", ""),
        ("-m x4 t", ""),
        ("-mx 4 t", ""),
        *((f"-{letter} 5 t", "") for letter in "acdefgiklopquxyzACDHIJLSX"),
        ("--mm 4 t", ""),
    ],
)
def test_a_letter_with_a_number_may_be_a_slip_for_that_of_the_workers(words, said):
    typed = words.split()
    word = next(each for each in typed if each.startswith("-"))
    told = misspelt._explain_letter(word, typed)
    assert told.startswith(said)
    assert bool(told) is bool(said)
    if said:
        assert misspelt.explain_words(typed, [word, "t"], "4", LONG_NAMES) == (
            f"there is no option {word}{told}"
        )


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--retires", ", did you mean --retries?"),
        ("--retr", ", did you mean --retries?"),
        ("--xyzzy", ""),
        ("--ids", "; mpifarm ls and retry have one"),
        ("--failed", "; mpifarm log, ls and retry have one"),
        ("--repair", "; mpifarm check has one"),
        ("-j8", ": "),
        ("-f", ": the list needs no option"),
        ("-g", ""),
        ("-limi", ", did you mean --limit?"),
        ("-joblog", ": attempts.tsv in the workdir has a line for each attempt"),
        ("-partition", ": nodes, CPUs and memory are asked for"),
        ("-log", ", did you mean mpifarm log?"),
        ("-exclusive", ": nodes, CPUs and memory are asked for"),
        ("-else", ""),
        ("-pdebug", ": nodes, CPUs and memory are asked for"),
        ("-l2", ": mpifarm 'COMMAND {}' ::: a b"),
        ("-I{}", ": mpifarm 'COMMAND {}' ::: a b"),
        ("--timeout", ", did you mean --rank-timeout?"),
    ],
)
def test_an_unknown_option_is_told_with_what_is_near(word, said):
    told = misspelt._explain_option(word, OPTIONS)
    assert told.startswith(said)
    assert bool(told) is bool(said)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("--rate", ["--start-rate"]),
        ("--area", ["--lock-area"]),
        ("--signal", ["--checkpoint-signal"]),
        ("--failures", ["--max-failures"]),
        ("--retry", ["--retries", "--retry-delay"]),
        ("--e", []),
    ],
)
def test_an_option_is_near_by_its_end(name, near):
    assert [*misspelt.find_near(name, LONG_NAMES)] == near


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("t status", "a subcommand stands first: mpifarm status t"),
        ("t cancel 3", "a subcommand stands first: mpifarm cancel t 3"),
        ("t retry", "a subcommand stands first: mpifarm retry t"),
        ("t log 1", "a subcommand stands first: mpifarm log t 1"),
        ("no retry", "a subcommand stands first: mpifarm retry no"),
        ("t ls --failed", "a subcommand stands first: mpifarm ls t ..."),
        ("t --failed ls", "a subcommand stands first: mpifarm ls t ..."),
        ("-n 4 t drain", "a subcommand stands first: mpifarm drain t ..."),
        ("t submit -N 8", "a subcommand stands first: mpifarm submit ... t"),
        ("t doctor", "a subcommand stands first: mpifarm doctor"),
        ("t config", "'config' is one word too many, because a farm has one tasklist,"),
        ("t squeue", "mpifarm has no squeue, and no file of that name is here: "),
        ("t kill 3", "mpifarm has no kill, and no file of that name is here: to stop "),
        ("STATUS t", "'STATUS': did you mean mpifarm status?"),
        ("t STATUS", "'STATUS': did you mean mpifarm status t?"),
        ("t staus", "'staus': did you mean mpifarm status t?"),
        ("t hld 3", "'hld': did you mean mpifarm hold t 3?"),
        ("t relase --all", "'relase': did you mean mpifarm release t ...?"),
        ("t submit 3 4", "a subcommand stands first: mpifarm submit t 3 4"),
        (
            "'my list' add 'echo a; echo b' c",
            "a subcommand stands first: mpifarm add 'my list' 'echo a; echo b' c",
        ),
        ("3 cancel t", "a subcommand stands first: mpifarm cancel t 3"),
        ("no add 3 x", "a subcommand stands first: mpifarm add no 3 x"),
        ("- status", "a subcommand stands first: mpifarm status - ..."),
        ("t jobs 4", "'jobs' is one word too many: -n N (--proc N) is the number of"),
        ("t workers 4", "'workers' is one word too many: -n N (--proc N) is the numbe"),
        ("t jobs", "a subcommand stands first: mpifarm jobs"),
        ("t log=x", "'log=x' is one word too many, because a farm has one tasklist, d"),
        ("t limit gpu=1", "'limit' is one word too many, because a farm has one taskl"),
        ("t retrie 3", "'retrie' is one word too many, because a farm has one taskli"),
        ("t other", "'other' is one word too many, because a farm has one tasklist: q"),
    ],
)
def test_a_subcommand_behind_the_list_is_told_to_stand_first(line, said):
    with pytest.raises(InputError) as caught:
        parse_line(shlex.split(line), {})
    assert str(caught.value).startswith(said)
    if said[-1] in "t134csx.r?":  # the whole command
        assert str(caught.value).startswith(f"{said} (")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("t --results log", "--results: each task's output is in the workdir"),
        ("t --joblog joblog", "--joblog: attempts.tsv in the workdir has a line"),
        ("t --log-file log", "--log-file: attempts.tsv in the workdir has a line"),
        ("t -J retry", "-J: nodes, CPUs and memory are asked for by sbatch"),
        ("t --partition debug", "--partition: nodes, CPUs and memory are asked for"),
        ("t --mode retry", "--mode, did you mean --order?"),
        ("t --state failed", "--state; mpifarm export has one"),
        ("t --xyzzy staus", "--xyzzy ("),
    ],
)
def test_the_value_of_an_unknown_option_is_no_subcommand(line, said):
    with pytest.raises(InputError) as caught:
        parse_line(line.split(), {})
    assert str(caught.value).startswith(f"there is no option {said}")


@pytest.mark.usefixtures("here")
def test_a_file_behind_the_list_is_no_subcommand(tmp_path):
    for name in ("status", "my log"):
        (tmp_path / name).touch()
    for line in ("t status", "my log", "my log retry", "my log staus 3"):
        with pytest.raises(InputError, match="quote a name that has spaces in it"):
            parse_line(line.split(), {})


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("doctr", "no file doctr is here: did you mean mpifarm doctor?"),
        ("confg", "no file confg is here: did you mean mpifarm config?"),
        ("hlep", "no file hlep is here: did you mean mpifarm help?"),
        ("STATUS", "no file STATUS is here: did you mean mpifarm status?"),
        ("chek", ""),  # for chekk is nearer
        ("wombat", ""),
        ("dir/doctr", ""),
        ("doctr.txt", ""),
        ("status.txt", ""),
        ("./log", ""),
    ],
)
def test_a_misspelt_subcommand_alone_is_told_where_no_file_is_so_named(
    word, said, tmp_path
):
    (tmp_path / "chekk").touch()
    if not said:
        assert parse_line([word], {}).values["tasklist"] == word
        return
    with pytest.raises(InputError) as caught:
        parse_line([word], {})
    assert str(caught.value).startswith(said)
    (tmp_path / word).touch()
    assert parse_line([word], {}).values["tasklist"] == word


def test_a_file_named_run_is_told_how_to_be_named():
    told = misspelt.explain_list_named_as_command("run")
    assert told.endswith("say ./run for the list")
    told = misspelt.explain_list_named_as_command("ls")
    assert told.endswith("./ls for the list, or mpifarm ls WORKDIR for the command")


def mistake_of_subcommand(line: str) -> str:
    name, *words = shlex.split(line)
    module = importlib.import_module(f"mpifarm.commands.{name}")
    with pytest.raises(InputError) as caught:
        module.main(words, SimpleNamespace(print_error=print), {})
    return str(caught.value).removesuffix(f" (mpifarm {name} --help tells more)")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ls --state failed t", "mpifarm ls LIST --failed lists the failed tasks"),
        ("ls t --state=failed", "mpifarm ls LIST --failed lists the failed tasks"),
        ("ls t --all", "without options, all tasks are listed: mpifarm ls LIST"),
        ("ls t --node x", "--host NAME lists the tasks of a host"),
        ("log t --all", "without ids, all tasks are printed: mpifarm log LIST"),
        ("log t -n 3", "--last N prints the last N lines of each task"),
        ("log t --tail 3", "--last N prints the last N lines of each task"),
        ("retry --all t", "without options, all failed tasks are put back: mpifarm"),
        ("retry t --task 3", "--ids 3,7-9 names tasks"),
        ("ls t --tasks 3", "--ids 3,7-9 names tasks"),
        ("add x begun", "the list stands first: mpifarm add begun x"),
        ("import x.db t", "the list stands first: mpifarm import t x.db"),
        ("retry t all", "for mpifarm retry: without options, all failed tasks are put"),
        ("hold t --all", "without ids, farms start nothing more: mpifarm hold LIST"),
        (
            "release t --all",
            "without ids, all tasks are released: mpifarm release LIST",
        ),
        ("status t --follow", "--watch shows the state again and again"),
        ("status t --failed", "; mpifarm log, ls and retry have one"),
        ("export t --failed", "--state failed prints the failed tasks alone"),
        ("export t failed", "--state failed prints the failed tasks alone"),
        ("export t --db x.db", "--sqlite FILE.db writes a database"),
        ("export t out.db", "for mpifarm export: --sqlite out.db writes a database"),
        ("export t out.txt", "for mpifarm export: -o out.txt writes the list"),
        ("export t t", "for mpifarm export: name one list, in quotes if it has"),
        ("doctor a b", "for mpifarm doctor: name one directory, in quotes if it has"),
        ("doctor a 3", "for mpifarm doctor: name one directory, in quotes if it has"),
        ("selftest a b", "for mpifarm selftest: name one directory, in quotes if it"),
        ("completion bash x", "for mpifarm completion: name one shell"),
        (
            "import t -o x.db",
            "the database is the second name: mpifarm import LIST FILE",
        ),
        (
            "import -o x.db t",
            "the database is the second name: mpifarm import LIST FILE",
        ),
        ("import t --sqlite x.db", "the database is the second name: mpifarm import"),
        ("check t --fix", "--repair mends what is wrong"),
        ("submit --halt now t", "submit has no option --halt: --max-failures 1 stops"),
        ("submit --keeporder t", ": each task's output is in the workdir"),
        ("submit --no-requeue t", "for one of the batch system's, give --directive --"),
        (
            "add t -c x",
            "the command stands behind the list: mpifarm add LIST 'COMMAND'",
        ),
    ],
)
def test_a_word_that_a_subcommand_does_not_take_is_answered_by_what_serves(line, said):
    told = mistake_of_subcommand(line)
    assert said in told
    assert "did you mean" not in told


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cancel 13 t", "the list stands first, then the ids: mpifarm cancel t 13"),
        ("hold 3,7-9 t", "the list stands first, then the ids: mpifarm hold t 3,7-9"),
        ("release 13 t", "the list stands first, then the ids: mpifarm release t 13"),
        ("log 13 14 t", "the list stands first, then the ids: mpifarm log t 13 14"),
        (
            "retry 13",
            "the list stands first, then the ids: mpifarm retry LIST --ids 13",
        ),
        ("log 13", "the list stands first, then the ids: mpifarm log LIST 13"),
        ("retry 13 t", "the list stands first, then the ids: mpifarm retry t --ids 13"),
        ("ls 1 2 t", "the list stands first, then the ids: mpifarm ls t --ids 1,2"),
        (
            "cancel 13 t 'a; b'",
            "the list stands first, then the ids: mpifarm cancel t 13 'a; b'",
        ),
        ("ls t 1 'a; b' 2", "'1' is one word too many for mpifarm ls: name tasks by"),
        ("ls 1 t 'a; b'", "the list stands first, then the ids: mpifarm ls t --ids 1"),
        (
            "why 13 t",
            "'13' is one word too many for mpifarm why: mpifarm log LIST 13 p",
        ),
    ],
)
def test_ids_before_the_list_are_told_to_stand_behind(line, said, tmp_path):
    told = mistake_of_subcommand(line)
    assert told.startswith(said)
    assert "--ids 1,a" not in told


@pytest.mark.usefixtures("here")
def test_a_list_may_have_a_number_for_a_name(tmp_path):
    (tmp_path / "13").touch()
    assert "no farm has run this list" in mistake_of_subcommand("cancel 13 3")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "tasklist", "extra", "said"),
    [
        (["t", "n"], "t", ["n"], "n is not an option, did you mean -n?"),
        (["t", "-"], "t", ["-"], None),
        (["t", "--a b"], "t", ["--a b"], None),
        (["t", "--xyzzy"], "t", ["--xyzzy"], "there is no option --xyzzy"),
        (["t", "x"], "t", ["x"], None),
    ],
)
def test_a_word_too_many_is_told_for_what_it_may_have_been(
    words, tasklist, extra, said
):
    told = misspelt.explain_words(words, extra, tasklist, OPTIONS)
    if said is None:
        assert "there is no option" not in told
        assert "is not an option" not in told
    else:
        assert told == said


@pytest.mark.usefixtures("here")
def test_a_list_behind_a_word_that_is_no_subcommand_is_quoted(tmp_path):
    (tmp_path / "my list").touch()
    with pytest.raises(InputError, match="is farmed: mpifarm 'my list' "):
        parse_line(["wombat", "my list"], {})


@pytest.mark.usefixtures("here")
def test_a_database_that_is_there_is_not_told_to_be_the_second_name(tmp_path):
    (tmp_path / "x.db").touch()
    assert "new is no name of a database" in mistake_of_subcommand("import x.db new")
    assert "list stands first: mpifarm import t x.db" in mistake_of_subcommand(
        "import x.db t"
    )


@pytest.mark.parametrize("word", ["rerun", "reset", "restart"])
def test_who_wants_all_tasks_anew_is_told_how(word):
    said = misspelt.explain_command(word)
    assert "mpifarm retry LIST" in said
    assert "start all tasks afresh: mpifarm LIST --again" in said
