"""Failures are grouped by cause: `mpifarm.causes`."""

import json
import random
import re
from collections import Counter

import pytest

from mpifarm.causes import folding, hosts, known, words
from mpifarm.causes.failure import TAIL, Failure
from mpifarm.causes.folding import common_text, fold
from mpifarm.causes.groups import CauseGrouper, encode_groups, group_failures
from mpifarm.causes.hosts import find_blamed
from mpifarm.causes.lines import LineReader, last_lines
from mpifarm.model.id_ranges import parse_ids
from mpifarm.pool import out_of_memory
from tests.unit.causes.failure_corpus import FIRST, HOSTS, confusion, make_corpus, score
from tests.unit.causes.second_failure_corpus import SECOND
from tests.unit.causes.third_failure_corpus import THIRD


def make_failure(taskid: int, text: str | bytes, status: int = 1, **more) -> Failure:
    tail = text.encode() if isinstance(text, str) else text
    return Failure(taskid, "failed", status, tail=tail, **more)


def cause_of(text: str | bytes, status: int = 1, **more) -> str:
    (group,) = group_failures([make_failure(7, text, status, **more)])
    return group.cause


# ---- planted causes -----------------------------------------------------------------


@pytest.fixture(scope="module", params=[1, 2])
def first(request):
    corpus = make_corpus(FIRST, each=150, seed=request.param)
    return corpus, group_failures(failure for _, failure in corpus)


def test_nineteen_of_twenty_failures_are_in_the_group_of_their_cause(first):
    corpus, groups = first
    found = [counts.most_common(3) for counts in confusion(corpus, groups)]
    assert score(corpus, groups) >= 0.95, found


def test_there_are_at_most_twenty_groups(first):
    _, groups = first
    assert len(FIRST) <= len(groups) <= 20


def test_each_failure_is_in_one_group(first):
    corpus, groups = first
    assert sorted(taskid for group in groups for taskid in group.tasks) == [
        *range(len(corpus))
    ]
    assert sum(group.count for group in groups) == len(corpus)


def test_the_retry_ids_of_a_group_are_its_tasks(first):
    _, groups = first
    encoded = json.loads(json.dumps(encode_groups(groups)))
    for group, found in zip(groups, encoded["groups"], strict=True):
        assert parse_ids(found["retry"]) == list(group.tasks)
        assert set(found) == {"cause", "count", "tasks", "hosts", "example", "retry"}


def test_a_cause_is_one_short_line(first):
    _, groups = first
    for group in groups:
        assert 0 < len(group.cause) <= 140
        assert group.cause.isprintable()


@pytest.mark.parametrize("causes", [SECOND, THIRD], ids=["second", "third"])
def test_causes_for_which_no_table_was_written_are_told_apart(causes):
    corpus = make_corpus(causes, each=150)
    groups = group_failures(failure for _, failure in corpus)
    found = confusion(corpus, groups)
    # Some causes were planted with two messages, which are two groups.
    assert score(corpus, groups) >= 0.9, found
    assert len(groups) <= 20
    mixed = sum(counts.total() - max(counts.values()) for counts in found)
    assert mixed <= 0.01 * len(corpus), found


# ---- one log ------------------------------------------------------------------------

FRAME = '  File "/x/run.py", line 3, in main\n    load()\n'
TRACE = f"Traceback (most recent call last):\n{FRAME}"

CHAINED = (
    f"{TRACE}OSError: [Errno 28] No space left on device\n\n"
    "During handling of the above exception, another exception occurred:\n\n"
    f"{TRACE}ValueError: bad\n"
)
JAVA = (
    'Exception in thread "main" a.b.JobException: 7\n\tat a.b(error.java:2)\n'
    "Caused by: a.NoAtomsException: none\n\tat a.error(x.java:3)\n\t... 1 more\n"
)
RANKS = "[rank0]: ERROR: no atoms\n[rank1]: ERROR: no atoms\n"
ABORT = "MPI_ABORT was invoked on rank 1\nwith errorcode 1.\n"
PRTERUN = (
    "prterun has exited due to process rank 0 with PID 0 on node vm calling\n"
    '"abort". This may have caused other processes in the application to be\n'
    "terminated by signals sent by prterun (as reported here).\n"
)
AGAIN = "=== mpifarm: started again, attempt 2 of farm f, host n1 ===\n"
BARS = " 50%|#####     | 1/2\r 99%|###\r"

TOLD = [
    ("bash: line 3: gmx: command not found\n", 127, "command not found: gmx"),
    ("sh: 1: gmx: not found\n", 127, "command not found: gmx"),
    ("bash: ./run.sh: No such file or directory\n", 127, "command not found: run.sh"),
    ("env: ‘gmx’: No such file or directory\n", 127, "command not found: gmx"),
    ("", 127, "command not found (127)"),
    ("", 126, "the command cannot be executed (126)"),
    ("", 3, "exit status 3"),
    ("", 137, "killed by signal 9 (out of memory?)"),
    ("", 139, "segmentation fault (signal 11)"),
    ("", 143, "exit status 143 (SIGTERM)"),
    ("all is well\n", 3, "exit status 3; last line: all is well"),
    (f"{TRACE}KeyError: 'a'\n", 1, "KeyError: 'a'"),
    (f"{TRACE}mylib.BadInput: no atoms\n", 1, "mylib.BadInput: no atoms"),
    (CHAINED, 1, "OSError: [Errno 28] No space left on device"),
    (f"x: No such file or directory\n{TRACE}KeyError: 'a'\n", 1, "KeyError: 'a'"),
    (f"{BARS}{TRACE}KeyError: 'a'\n", 1, "KeyError: 'a'"),
    ("\x1b[31mERROR\x1b[0m: no atoms\n", 1, "ERROR: no atoms"),
    (b"ERROR: no \xff\xfeatoms\n", 1, "ERROR: no atoms"),
    ("Fatal error:\nno atoms\nhttp://x/Errors\n", 1, "Fatal error: no atoms"),
    ("ERROR: no atoms\nmean error: 0.1\n0 errors\n", 1, "ERROR: no atoms"),
    ("ERROR: no atoms\nWARNING: error in b\n", 1, "ERROR: no atoms"),
    ("ERROR: no atoms\nexiting\nmake: *** [all] Error 2\n", 1, "ERROR: no atoms"),
    (RANKS + ABORT, 1, "ERROR: no atoms"),
    (ABORT, 1, "the program called MPI_Abort"),
    (ABORT + PRTERUN, 1, "the program called MPI_Abort"),
    ("std::bad_alloc\n", 134, "std::bad_alloc"),
    ("CUDA error: out of memory\n", 1, "CUDA error: out of memory"),
    ("ERROR: no atoms\nERROR: giving up\n", 1, "ERROR: no atoms"),
    ("a: Fatal error:\na: Fatal error:\nno atoms\n", 1, "a: Fatal error: no atoms"),
    (JAVA, 1, "a.NoAtomsException: none"),
    (
        "terminate called after throwing an instance of 'E'\n  what():  no atoms\n",
        134,
        "terminate called after throwing an instance of 'E' what(): no atoms",
    ),
    ("| Error: no atoms      |\n|---------------------|\n", 1, "Error: no atoms"),
    (f"ERROR: no atoms\n{AGAIN}ERROR: no bonds\n", 1, "ERROR: no bonds"),
]


@pytest.mark.parametrize(("text", "status", "cause"), TOLD)
def test_the_telling_line_of_a_log_is_the_cause(text, status, cause):
    assert cause_of(text, status) == cause


@pytest.mark.parametrize("outcome", ["timed out", "out of memory", "lost", "not run"])
def test_the_outcome_tells_the_cause_where_the_log_does_not(outcome):
    failures = [Failure(taskid, outcome, 1) for taskid in range(3)]
    (group,) = group_failures(failures)
    assert group.count == 3
    assert outcome.split()[-1] in group.cause or group.cause.startswith("time limit")


def test_a_signal_says_more_than_what_stands_far_above():
    text = "cp: x: No such file or directory\n" + "all is well\n" * 20
    text = "".join(f"{line}{number}\n" for number, line in enumerate(text.split("\n")))
    found = cause_of(text, 137, signal=9)
    assert found == "killed by signal 9 (out of memory?)"


@pytest.mark.parametrize("word", out_of_memory.WORDS)
def test_out_of_memory_is_recognised_as_the_pool_does(word):
    text = b"x: " + word + b"\n"
    assert words.weigh(text.decode())[1] is known.OUT_OF_MEMORY


def test_each_word_of_the_tables_is_found_in_a_line():
    table = [word for group in words.WORDS.values() for word in group]
    table += [phrase for cause in known.KNOWN for phrase in cause.phrases]
    for word in table:
        assert word == known.normalise(word)
        match = words._WORD.match(word)
        assert match
        assert match[0] == word


# ---- what varies --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("took 3.5 s", "took 1e-3 s"),
        ("read 3.50 GiB of", "read 20 MiB of"),
        ("at 0x7ffe12 in f", "at 0xdeadbeef in f"),
        (
            "id 123e4567-e89b-12d3-a456-426614174000",
            "id " + "0f" * 4 + "-1234" * 4 + "0a" * 4,
        ),
        ("commit 3fa9b1c", "commit 0123abcdef"),
        ("open /a/b/c.txt: bad", "open ../x/y.txt: bad"),
        ("in /tmp/tmpab12cd/x", "in /tmp/tmpzz99yy/x"),
        ("on n001 at 2026-01-02T03:04:05", "on n117 at 2025-11-12T13:14:15"),
        ("path /a /b /c end", "path /a end"),
    ],
)
def test_numbers_ids_addresses_paths_and_times_are_folded(one, other):
    assert fold(one) == fold(other)


def test_words_are_not_folded():
    assert fold("ValueError: no such key") != fold("ValueError: no such value")


def test_what_lines_have_in_common_stays():
    lines = [f"No module named 'nump{letter}'" for letter in "abc"]
    assert common_text(lines)[0] == "No module named 'nump*'"


def test_each_of_two_missing_modules_is_a_cause_and_many_are_one():
    def failures(names):
        return [
            make_failure(
                number, f"{TRACE}ModuleNotFoundError: No module named '{name}'\n"
            )
            for number, name in enumerate(names)
        ]

    two = group_failures(failures(["numpy", "scipy"] * 10))
    assert sorted(group.cause for group in two) == [
        "ModuleNotFoundError: No module named 'numpy'",
        "ModuleNotFoundError: No module named 'scipy'",
    ]
    letters = "abcdefghij"
    (many,) = group_failures(failures([f"m{letter}{letter}" for letter in letters]))
    assert many.cause == "ModuleNotFoundError: No module named 'm*'"


def test_one_file_that_all_miss_is_told_from_files_that_each_misses():
    same = [
        make_failure(n, "cat: /x/params.csv: No such file or directory\n")
        for n in range(9)
    ]
    own = [
        make_failure(n, f"cat: /x/in_{n}.csv: No such file or directory\n")
        for n in range(9, 20)
    ]
    groups = group_failures([*same, *own])
    assert [group.count for group in groups] == [11, 9]
    assert "params.csv" in groups[1].cause


@pytest.mark.parametrize(
    ("paths", "shown"),
    [
        (["/no/such/file"], "/no/such/file"),
        (["table.17"], "table.17"),
        (["/data/a/input.dat", "/data/b/input.dat"], "/data/*/input.dat"),
        (["data/0005.nc", "data/0018.nc"], "data/00*.nc"),
        (["/a/params.csv", "params.csv"], "params.csv"),
        ([f"/{'deep/' * 30}x.csv"], f"…{('deep/' * 30)[-64:]}x.csv"),
    ],
)
def test_a_missing_file_is_told_with_its_path(paths, shown):
    lines = [f"cat: {path}: No such file or directory\n" for path in paths]
    (group,) = group_failures(make_failure(n, line) for n, line in enumerate(lines))
    assert group.cause == f"a file is missing (No such file or directory): {shown}"


def test_rare_causes_are_one_group_behind_nineteen():
    vowels = "aeiou"
    names = [f"{a}{b}{c}{a}x" for a in "bcdfg" for b in vowels for c in "klm"]
    failures = [
        make_failure(100 * kind + n, f"ERROR: {name} {name[::-1]} {name.upper()}\n")
        for kind, name in enumerate(names)
        for n in range(len(names) - kind)
    ]
    groups = group_failures(failures)
    assert len(groups) == 20
    assert groups[-1].cause == f"other causes ({len(names) - 19} kinds)"
    assert sum(group.count for group in groups) == len(failures)


# ---- hosts --------------------------------------------------------------------------


def test_a_host_divides_a_group_if_failures_are_concentrated_on_it():
    bad = [
        make_failure(n, "CUDA error: uncorrectable ECC error\n", host="n017")
        for n in range(300)
    ]
    rest = [
        make_failure(1000 + n, "CUDA error: uncorrectable ECC error\n", host=host)
        for n, host in enumerate(HOSTS)
    ]
    ran = dict.fromkeys(HOSTS, 100) | {"n017": 320}
    on_host, elsewhere = group_failures([*bad, *rest], ran)
    assert on_host.blamed == ("n017",)
    assert on_host.cause.endswith(", on n017")
    assert on_host.hosts == {"n017": 301}
    assert elsewhere.cause.endswith(", elsewhere")
    assert len(elsewhere.hosts) == len(HOSTS) - 1


def test_hosts_that_fail_alike_do_not_divide_a_group():
    failures = [
        make_failure(n, "ERROR: no atoms\n", host=random.Random(n).choice(HOSTS))
        for n in range(500)
    ]
    (group,) = group_failures(failures)
    assert group.blamed == ()
    assert list(group.hosts.values()) == sorted(group.hosts.values(), reverse=True)


BOUNDS_OF_BLAME = [
    ({"a": hosts.MIN_FAILURES}, {"a": 10, "b": 100}, ("a",)),
    ({"a": hosts.MIN_FAILURES - 1}, {"a": 10, "b": 100}, ()),
    ({"a": 10}, {"a": 10, "b": hosts.MIN_FAILURES}, ("a",)),
    ({"a": 10}, {"a": 10, "b": hosts.MIN_FAILURES - 1}, ()),
    ({"a": 50, "b": 10}, {"a": 50, "b": 10 * hosts.MIN_RATIO}, ("a",)),
    ({"a": 50, "b": 10}, {"a": 50, "b": 10 * hosts.MIN_RATIO - 1}, ()),
]


@pytest.mark.parametrize(
    ("failed", "ran", "blamed"),
    [
        ({"a": 50}, {"a": 50, "b": 50}, ("a",)),
        ({"a": 50}, {"a": 50}, ()),  # no other host: nothing to compare with
        ({"a": 50, "b": 50}, {"a": 60, "b": 60, "c": 60}, ("a", "b")),
        ({"a": 50, "b": 40}, {"a": 5000, "b": 4000}, ()),  # it has got more
        ({"a": 4}, {"a": 5, "b": 5}, ()),  # too few to tell
        # At each bound, and just below it.
        *BOUNDS_OF_BLAME,
        (
            {"a": 50, **dict.fromkeys("bcdefgh", 5)},
            dict.fromkeys("abcdefgh", 100),
            ("a",),
        ),
        ({"a": 50, **dict.fromkeys("bcdefgh", 40)}, dict.fromkeys("abcdefgh", 100), ()),
    ],
)
def test_blamed_hosts_fail_much_more_often_than_the_others(failed, ran, blamed):
    assert find_blamed(failed, ran) == blamed


# ---- odd input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"\n\n \t\n",
        b"\r\r\r",
        b"x" * 3 * TAIL,
        b"error " * TAIL,
        b"/" * TAIL,
        b"0" * TAIL,
        b"a.b-" * TAIL,
        b'  File "' * 600,
        b"\x1b" * TAIL,
        b"\x1b[" * TAIL,
        bytes(range(256)) * 16,
        b"Traceback (most recent call last):\n" * 100,
    ],
)
def test_no_log_is_too_odd(tail):
    assert cause_of(tail).isprintable()


def test_random_bytes_are_grouped():
    source = random.Random(1)
    tails = [source.randbytes(source.randrange(2000)) for _ in range(200)]
    failures = [make_failure(n, tail) for n, tail in enumerate(tails)]
    groups = group_failures(failures)
    assert sum(group.count for group in groups) == 200


def test_no_more_than_the_end_of_a_log_is_looked_at():
    text = b"No space left on device\n" + b"all is well\n" * 400
    found = LineReader().find_telling(text)
    assert found
    assert found.line.cause is None


def test_the_last_lines_hold_no_control_characters():
    tail = b"\x1b[1;31mred\x1b[0m\x07\nbar 1\rbar 2\n\x9b\xff\xe2\x80\xaex\n"
    assert last_lines(tail) == ("red", "bar 1", "bar 2", "\ufffd\ufffdx")


def test_a_task_that_failed_twice_stands_once_among_the_tasks():
    (group,) = group_failures([make_failure(3, "ERROR: a\n")] * 2)
    assert (group.count, group.tasks) == (2, (3,))


def test_the_order_of_failures_does_not_matter_to_the_causes():
    corpus = [failure for _, failure in make_corpus(FIRST, each=40)]
    forwards = group_failures(corpus)
    backwards = group_failures(reversed(corpus))
    assert Counter(group.tasks for group in forwards) == Counter(
        group.tasks for group in backwards
    )


def test_the_groups_can_be_asked_for_twice():
    grouper = CauseGrouper()
    for _, failure in make_corpus(SECOND, each=20):
        grouper.add(failure)
    assert grouper.groups() == grouper.groups()


def test_the_hosts_to_blame_stand_behind_a_long_cause():
    text = f"ERROR: {'no atoms ' * 40}\n"
    failures = [make_failure(n, text, host="n001") for n in range(99)]
    (group,) = group_failures(failures, {"n001": 99, "n002": 99})
    assert group.cause.endswith("…, on n001 only")


def test_many_different_messages_are_grouped_with_bounded_memory():
    source = random.Random(2)
    letters = "abcdefghijklmnopqrstuvwxyz"
    failures = [
        make_failure(
            n, f"ValueError: bad {''.join(source.choices(letters, k=8))} here\n"
        )
        for n in range(3000)
    ]
    (group,) = group_failures(failures)
    assert re.fullmatch(r"ValueError: bad \S* here", group.cause)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (make_failure(1, "", 15, signal=15), "killed by signal 15 (SIGTERM)"),
        (make_failure(1, "", 40, signal=40), "killed by signal 40"),
        (make_failure(1, "", 126), "the command cannot be executed (126)"),
        (make_failure(1, "", 127), "command not found (127)"),
        (make_failure(1, "", 143), "exit status 143 (SIGTERM)"),
        (make_failure(1, "", 3), "exit status 3"),
        (make_failure(1, "", 0), "failed, and its exit status was not kept"),
    ],
)
def test_without_a_telling_line_the_end_is_the_cause(failure, words):
    assert group_failures([failure])[0].cause == words


def test_words_that_are_folded_are_forgotten_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(folding, "_MAX_WORDS", 8)
    monkeypatch.setattr(folding, "_WORDS", {})
    for number in range(50):
        assert fold(f"cell{number} failed") == fold("cell99 failed")
        assert len(folding._WORDS) <= 9


def test_names_of_temporary_files_are_folded():
    assert fold("cannot open tmpab12cd.nc") == fold("cannot open tmpx9_yz.nc")


SYNTAX = "syntax error near unexpected token `then'\n"


@pytest.mark.parametrize(
    ("text", "is_of_the_line"),
    [
        (f"/bin/bash: -c: line 1: {SYNTAX}", True),
        (f"bash: -c: line 2: {SYNTAX}", True),
        (f"/bin/bash: eval: line 1: {SYNTAX}", True),
        (f"bad.sh: line 2: {SYNTAX}", False),
        (f"./bad.sh: line 1: {SYNTAX}", False),
        (f"bash: line 2: {SYNTAX}", False),
        ("bad.sh: 2: Syntax error: Unterminated quoted string\n", False),
        ("/bin/bash: line 1: frob: command not found\n", True),
        ("bash: frob: command not found\n", True),
        ("sh: 1: frob: not found\n", True),
        ("zsh:1: command not found: frob\n", True),
        ("run.sh: line 7: frob: command not found\n", False),
        ("/home/x/run.sh: 7: frob: not found\n", False),
        ("run.zsh:1: command not found: frob\n", False),
    ],
)
def test_a_line_of_the_list_is_not_blamed_for_a_script(text, is_of_the_line):
    grouper = CauseGrouper()
    status = 127 if "not found" in text else 2
    grouper.add(Failure(0, "failed", status, tail=text.encode()))
    (group,) = grouper.groups()
    assert group.is_of_the_line is is_of_the_line
    if status == 2:
        assert ("does not understand a script" in group.cause) is not is_of_the_line


def test_a_command_that_is_missing_in_scripts_and_lines_is_one_cause():
    grouper = CauseGrouper()
    texts = (
        "run.sh: line 7: frob: command not found\n",
        "bash: line 1: frob: command not found\n",
    )
    for taskid, text in enumerate(texts):
        grouper.add(Failure(taskid, "failed", 127, tail=text.encode()))
    (group,) = grouper.groups()
    assert (group.tasks, group.is_of_the_line) == ((0, 1), True)


def test_a_command_that_is_missing_is_told_by_its_status_and_its_words():
    missing = "bash: frob: command not found\n"
    assert cause_of(missing, 127).startswith("command not found")
    module = "ModuleNotFoundError: No module named 'frob'\n"
    assert cause_of(module, 127) == cause_of(module, 1)
