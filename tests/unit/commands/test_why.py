"""``mpifarm why`` and ``mpifarm retry --why``: groups, words, and the command."""

import json
import os
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mpifarm.audit import memory_use
from mpifarm.audit.view import View
from mpifarm.commands import retry, why
from mpifarm.errors import InputError
from mpifarm.model.id_ranges import parse_ids
from mpifarm.model.paths import WorkdirPaths
from mpifarm.pool import out_of_memory
from mpifarm.store.fingerprint import encode_fingerprint, take_fingerprint
from mpifarm.store.target import Target
from mpifarm.system.console import Console
from tests.farm_states import write_claim
from tests.support import ROOT
from tests.unit.causes.failure_corpus import FIRST, make_corpus
from tests.unit.store_fakes import Site
from tests.workdir_files import Attempt, format_attempts

Run = Callable[..., tuple[str, str]]

MISSING = "Traceback:\nValueError: no cell 3 in {}\n"


def begin(directory: Path, count: int, attempts: list[Attempt], logs) -> Site:
    """Make a workdir of `count` tasks with a failed one for each failed attempt."""
    directory.mkdir(exist_ok=True)
    site = Site(directory / "tasks.txt_workdir", [f"./run {i}" for i in range(count)])
    (directory / "tasks.txt").write_text("".join(f"{t}\n" for t in site.tasks))
    failed = {attempt.taskid for attempt in attempts if attempt.status}
    site.write("failed", sorted(failed))
    site.write("finished", [i for i in range(count) if i not in failed])
    site.write("toprocess", [])
    (site.root / "attempts.tsv").write_text(format_attempts(*attempts))
    (site.root / "logs").mkdir()
    for taskid, content in logs.items():
        (site.root / "logs" / f"log_{taskid}").write_bytes(content)
    return site


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Twelve tasks: 1 to 4 lack a cell, 6 was killed, and 8 had its own error."""
    attempts = [Attempt(i, host="n1", started=1e9) for i in (0, 5, 7, 9, 10, 11)]
    attempts += [Attempt(i, status=1, host=f"n{i % 2 + 1}") for i in (1, 2, 3, 4)]
    attempts.append(Attempt(6, status=-9, host="n3"))
    attempts.append(Attempt(8, status=4, host="n2"))
    logs = {i: MISSING.format(f"/data/{i}.nc").encode() for i in (1, 2, 3, 4)}
    logs[8] = b"solver: error: no convergence\x1b[2J\n"
    monkeypatch.chdir(tmp_path)
    return begin(tmp_path, 12, attempts, logs)


@pytest.fixture
def run(capfd) -> Run:
    """Call a subcommand, which ends with 0: its output, and its words on stderr."""

    def call(command, *words: str) -> tuple[str, str]:
        console = Console(prints=True)
        assert command.main([*words], console, {}) == 0
        console.close()
        out, err = capfd.readouterr()
        return out, err

    return call


def groups_of(run: Run, target: str = "tasks.txt"):
    return json.loads(run(why, target, "--json")[0])["groups"]


def test_each_cause_is_a_group_with_all_that_is_known(site, run):
    out, err = run(why, "tasks.txt")
    assert err == ""
    assert out.splitlines() == [
        "6 of 12 tasks have failed, of 3 causes",
        "",
        "group 1: ValueError: no cell 3 in /data/*.nc",
        "  4 tasks: 1-4",
        "  hosts: n1 2, n2 2",
        "  command of task 1: ./run 1",
        "  task 1 on n2 ended with:",
        "    | Traceback:",
        "    | ValueError: no cell 3 in /data/1.nc",
        "  mpifarm retry tasks.txt_workdir --ids 1-4",
        "",
        "group 2: killed by signal 9 (out of memory?)",
        "  1 task: 6",
        "  host: n3 1",
        "  command of task 6: ./run 6",
        "  task 6 on n3 has left no output",
        "  mpifarm retry tasks.txt_workdir --ids 6",
        "",
        "group 3: solver: error: no convergence",
        "  1 task: 8",
        "  host: n2 1",
        "  command of task 8: ./run 8",
        "  task 8 on n2 ended with:",
        "    | solver: error: no convergence",
        "  mpifarm retry tasks.txt_workdir --ids 8",
    ]


def test_json_has_the_same(site, run):
    first, second, third = groups_of(run)
    assert first == {
        "cause": "ValueError: no cell 3 in /data/*.nc",
        "count": 4,
        "tasks": "1-4",
        "hosts": {"n1": 2, "n2": 2},
        "example": {
            "task": 1,
            "host": "n2",
            "lines": ["Traceback:", "ValueError: no cell 3 in /data/1.nc"],
            "command": "./run 1",
        },
        "retry": "mpifarm retry tasks.txt_workdir --ids 1-4",
        "remap": None,
        "blamed": [],
        "memory": None,
    }
    assert (second["tasks"], third["tasks"]) == ("6", "8")
    assert json.loads(run(why, "tasks.txt", "--json")[0])["remap"] is None


def test_each_key_of_the_json_is_on_its_page(site, run):
    found = json.loads(run(why, "tasks.txt", "--json")[0])
    page = (ROOT / "docs" / "looking-in.md").read_text()
    table = page[page.index('prints one object, `{"groups": [...], ') :]
    rows = re.findall(r"^\| `(\w+)` \|", table.partition("\n## ")[0], re.MULTILINE)
    assert {*rows} == {*found["groups"][0]}
    assert {*found} == {"groups", "remap"}


def test_the_command_is_that_of_the_workdir_where_the_list_is_gone(site, run):
    (site.root.parent / "tasks.txt").unlink()
    assert "  command of task 8: ./run 8\n" in run(why, "tasks.txt_workdir")[0]


def test_a_command_that_nobody_knows_is_left_out(site, run, monkeypatch):
    monkeypatch.setattr(View, "text", lambda *_: "")
    assert "command of" not in run(why, "tasks.txt")[0]
    assert groups_of(run)[0]["example"]["command"] == ""


def test_a_command_is_cut_to_the_terminal_as_by_ls(site, run, monkeypatch):
    monkeypatch.setattr(why, "find_width", lambda: 26)
    monkeypatch.setattr(View, "text", lambda *_: "a\tb --long")
    assert "  command of task 8: a\\tb…\n" in run(why, "tasks.txt")[0]


def test_what_was_not_run_is_counted_apart(tmp_path, monkeypatch, run):
    """As at the end of the farm."""
    monkeypatch.chdir(tmp_path)
    why_not = "not run: task 0 failed"
    ends = [Attempt(0, status=1, host="n1")]
    ends += [Attempt(i, 0, status=1, outcome=why_not) for i in range(1, 20)]
    site = begin(tmp_path, 20, ends, {0: b"solver: error: no convergence\n"})
    lines = [f"{each}\n" for each in site.tasks]
    lines[1:1] = ["#BARRIER CHECK\n"]
    (tmp_path / "tasks.txt").write_text("".join(lines))
    first, *_ = run(why, "tasks.txt")[0].splitlines()
    assert first == (
        "1 of 20 tasks has failed, of 1 cause, and 19 were not run because of that"
    )
    site.write("failed", range(1, 20))
    site.write("toprocess", [0])
    first, *_ = run(why, "tasks.txt")[0].splitlines()
    assert first == "19 of 20 tasks were not run, because others had failed"


def test_without_any_failure_it_says_so(site, run):
    site.write("failed", [])
    assert run(why, "tasks.txt") == ("no task has failed\n", "")
    found = json.loads(run(why, "tasks.txt", "--json")[0])
    assert found == {"groups": [], "remap": None}
    assert run(retry, "tasks.txt", "--why", "1")[0] == "mpifarm: no task has failed\n"


def test_a_task_that_waits_again_or_finished_later_has_not_failed(site, run):
    site.write("toprocess", [6])
    site.write("finished", [0, 5, 7, 8, 9, 10, 11])
    assert [group["tasks"] for group in groups_of(run)] == ["1-4"]


def test_a_workdir_of_a_plain_farmer_has_causes_by_its_logs(site, run):
    (site.root / "attempts.tsv").unlink()
    causes = {group["cause"]: group["tasks"] for group in groups_of(run)}
    assert causes == {
        "ValueError: no cell 3 in /data/*.nc": "1-4",
        "solver: error: no convergence": "8",
        "failed, and its exit status was not kept": "6",
    }
    assert groups_of(run)[0]["hosts"] == {}


def test_an_attempt_that_completed_tells_nothing_of_a_failure_since(site, run):
    """A plain farmer has run the task again."""
    with (site.root / "attempts.tsv").open("a") as stream:
        stream.write(Attempt(6, 2, host="n9").line)
    found = groups_of(run)[1]
    assert found["cause"] == "failed, and its exit status was not kept"
    assert found["hosts"] == {}


def test_without_the_list_the_command_has_a_gap_for_it(site, run):
    os.rename("tasks.txt", "elsewhere.txt")
    (first, *_) = groups_of(run, "tasks.txt_workdir")
    assert first["retry"] == "mpifarm retry tasks.txt_workdir --list FILE --ids 1-4"


def test_without_logs_and_attempts_all_failures_are_one_group(site, run):
    (site.root / "attempts.tsv").unlink()
    shutil.rmtree(site.root / "logs")
    (only,) = groups_of(run)
    assert (only["tasks"], only["example"]["lines"]) == ("1-4,6,8", [])


def test_a_host_that_fails_what_others_run_is_named(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attempts = [
        Attempt(i, status=int(i % 4 == 0), host=f"n{i % 4}", started=1e9 + i)
        for i in range(80)
    ]
    logs = dict.fromkeys(range(0, 80, 4), b"error: no device\n")
    begin(tmp_path, 80, attempts, logs)
    out, _ = run(why, "tasks.txt")
    assert "group 1: error: no device, on n0 only\n" in out
    assert (
        "  20 of 20 attempts on n0 failed so: keep this host out of the job"
        " (Slurm: --exclude=n0)\n"
    ) in out
    assert groups_of(run)[0]["blamed"] == ["n0"]


def test_attempts_and_a_limit_of_memory_are_said(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    ends = [Attempt(i, i + 2, 137, outcome="out of memory") for i in range(2)]
    line = out_of_memory.excess_line(369 << 20, 200 << 20)
    begin(tmp_path, 2, ends, {1: f"=== mpifarm: {line} ===\n".encode()})
    told = run(why, "tasks.txt")[0].splitlines()
    assert told[2:4] == [
        "group 1: out of memory (limit 200 MB, largest seen 369 MB)",
        "  2 tasks: 0-1, each the last of up to 3 attempts",
    ]


def test_the_memory_of_what_ran_beside_is_said(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = os.uname().nodename
    monkeypatch.setattr(memory_use, "find_memory", lambda: 16 << 30)

    def ran(i, begin, end, gib=1, host=here, **more):
        more |= {"peak_memory": str(gib << 30), "host": host}
        return Attempt(i, started=1e9 + begin, seconds=end - begin, **more)

    attempts = [
        *(ran(0, 0, 10, 4), ran(1, 0, 4, 8), ran(2, 5, 9, 3, "other")),
        *(ran(3, 2, 8, 5, status=-9), ran(4, 7, 20, 6), ran(5, 9, 12, 7)),
    ]
    begin(tmp_path, 6, attempts, {})
    out, _ = run(why, "tasks.txt")
    assert (
        f"  memory: up to 15 GiB in 3 tasks on {here} when task 3 ended"
        f" ({here} has 16 GiB)\n"
    ) in out
    assert groups_of(run)[0]["memory"] == {
        "taskid": 3,
        "host": here,
        "tasks": 3,
        "peaks": 15 << 30,
        "total": 16 << 30,
    }


def test_nothing_is_said_of_memory_that_nobody_has_measured(site, run):
    assert groups_of(run)[1]["memory"] is None


def test_a_list_that_keeps_its_own_state_has_no_failures_to_group(
    site, run, monkeypatch
):
    monkeypatch.setattr("mpifarm.audit.view.has_own_state", lambda *_: True)
    with pytest.raises(InputError, match="keeps the state of the tasks itself"):
        run(why, "tasks.txt")


# ---- retry --------------------------------------------------------------------------


def test_retry_takes_the_group_and_names_its_cause(site, run):
    out, _ = run(retry, "tasks.txt", "--why", "1")
    assert out.splitlines()[:2] == [
        "mpifarm: group 1: 4 tasks have failed of: ValueError: no cell 3 in /data/*.nc",
        "mpifarm: 4 tasks put back to be run: 1-4",
    ]
    assert (site.ids("toprocess"), site.ids("failed")) == ([1, 2, 3, 4], [6, 8])
    # Its number means the next cause now, which the answer says.
    out, _ = run(retry, "tasks.txt", "--why", "1")
    assert "group 1: 1 task has failed of: killed by signal 9" in out
    assert site.ids("failed") == [8]


@pytest.mark.parametrize(
    ("named", "back"),
    [
        ("2,3", [6, 8]),
        ("1-2", [1, 2, 3, 4, 6]),
        ("memory", [6]),
        ("Memory, 3", [6, 8]),
        ("no con", [8]),
        ("no", [1, 2, 3, 4, 8]),
        ("killed by signal 9", [6]),
        ("3", [8]),
    ],
)
def test_retry_takes_several_groups_by_their_numbers_or_words(site, run, named, back):
    run(retry, "tasks.txt", "--why", named)
    assert site.ids("toprocess") == back


def test_retry_says_each_cause_that_it_takes(site, run):
    out, _ = run(retry, "tasks.txt", "--why", "memory,1")
    first, second = out.splitlines()[:2]
    assert first.startswith("mpifarm: group 1: 4 tasks have failed of: ValueError")
    assert (
        second == "mpifarm: group 2: 1 task has failed of: killed by signal 9 (out"
        " of memory?)"
    )


def test_a_wrong_word_for_the_only_cause_is_told_that_cause(site, run):
    run(retry, "tasks.txt", "--why", "1,2")
    with pytest.raises(InputError, match="the only cause is: solver: error: no conv"):
        run(retry, "tasks.txt", "--why", "memory")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--why 0", "no task has failed of '0'; --why takes the numbers of groups"),
        ("--why x", "mpifarm why tasks.txt_workdir prints the 3 causes"),
        ("--why emory", "no task has failed of 'emory'"),
        ("--why 4", "there is no group 4, as failed tasks are in 3 groups now"),
        ("--why 1,4", "there is no group 4"),
        ("--why 3-1", "no task has failed of '3-1'"),
        ("--why 1,,2", "no task has failed of ''"),
        ("--why memory,quota", "no task has failed of 'quota'"),
        ("--why 1 --ids 3", "leave out --ids and --status"),
        ("--why 1 --status 1", "leave out --ids and --status"),
        ("--why", "--why needs a value after it"),
    ],
)
def test_a_wrong_group_is_told_in_one_sentence(site, run, words, told):
    with pytest.raises(InputError, match=re.escape(told)) as caught:
        run(retry, "tasks.txt", *words.split())
    assert "\n" not in str(caught.value)
    assert site.ids("failed") == [1, 2, 3, 4, 6, 8]


def test_each_printed_command_takes_exactly_its_group(tmp_path, run, monkeypatch):
    """Twelve planted causes, fifty failures each; by hand also with a thousand."""
    monkeypatch.chdir(tmp_path)
    corpus = make_corpus(FIRST, 50)
    attempts = [
        Attempt(
            3 * failure.taskid,
            status=-failure.signal or failure.status,
            outcome=failure.outcome,
            host=failure.host,
        )
        for _, failure in corpus
    ]
    logs = {3 * failure.taskid: failure.tail for _, failure in corpus}
    begin(tmp_path / "a", 3 * len(corpus), attempts, logs)
    truth = {3 * failure.taskid: name for name, failure in corpus}
    monkeypatch.chdir("a")
    found = groups_of(run)
    assert len(found) <= 20
    right = 0
    for number, group in enumerate(found, 1):
        wanted = {*parse_ids(group["tasks"])}
        right += max(Counter(truth[taskid] for taskid in wanted).values())
        shutil.copytree(tmp_path / "a", tmp_path / str(number))
        monkeypatch.chdir(tmp_path / str(number))
        program, command, *words = shlex.split(group["retry"])
        assert (program, command) == ("mpifarm", "retry")
        run(retry, *words)
        copy = Site(Path("tasks.txt_workdir"))
        assert {*copy.ids("toprocess")} == wanted == {*truth} - {*copy.ids("failed")}
    assert right >= 0.95 * len(truth)
    assert len(found) >= len(FIRST)


def test_ids_that_are_long_are_named_by_the_number(site, run, monkeypatch):
    monkeypatch.setattr(why, "MAX_IDS", 2)
    commands = [group["retry"] for group in groups_of(run)]
    assert [command.split()[-2:] for command in commands] == [
        ["--why", "1"],
        ["--ids", "6"],
        ["--ids", "8"],
    ]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1023, "1.02e+03 B"),
        (1, "1 B"),
        (1024, "1 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (2**30, "1 GiB"),
        (999 * 2**30, "999 GiB"),
        (1000 * 2**30, "1000 GiB"),
        (2**41, "2048 GiB"),
    ],
)
def test_a_memory_is_told_in_a_unit_that_fits(number, said):
    assert why._in_bytes(number) == said


def test_warnings_about_the_list_are_errors_beside_the_groups(site, run):
    fingerprint = encode_fingerprint(take_fingerprint(["another", *site.tasks[1:]]))
    (site.root / "fingerprint.json").write_bytes(fingerprint)
    out, err = run(why, "tasks.txt")
    assert "6 of 12 tasks have failed" in out
    assert "tasks.txt was edited since tasks.txt_workdir was begun" in err
    assert "mpifarm retry" not in out  # it would be refused
    last = out.splitlines()[-1]
    assert last.startswith("mpifarm --remap tasks.txt takes up the list as it is now")
    found = json.loads(run(why, "tasks.txt", "--json")[0])
    assert found["remap"] == "mpifarm --remap tasks.txt"
    assert {(each["retry"], each["remap"]) for each in found["groups"]} == {
        (None, None)
    }
    write_claim(WorkdirPaths(str(site.root)), "c1a10000", [])
    last = run(why, "tasks.txt")[0].splitlines()[-1]
    assert last.startswith("once the farm at work has ended, mpifarm --remap tasks.txt")


def test_failed_tasks_whose_lines_were_edited_are_told(site, run):
    tasklist = site.root.parent / "tasks.txt"
    lines = [text.replace("./run", "./ran") for text in site.tasks]
    tasklist.write_text("".join(f"{text}\n" for text in lines))
    assert run(why, "tasks.txt")[0] == (
        "tasks 1-4, 6, 8 failed, and their lines are not at their places in the list"
        " any more: mpifarm --remap tasks.txt runs each line that is new or was"
        " changed; what was only moved can be retried then\n"
    )
    found = json.loads(run(why, "tasks.txt", "--json")[0])
    assert found == {"groups": [], "remap": "mpifarm --remap tasks.txt"}
    lines[1:4] = site.tasks[1:4]
    tasklist.write_text("".join(f"{text}\n" for text in lines))
    out = run(why, "tasks.txt")[0]
    assert "3 of 12 tasks have failed" in out
    assert "\ntasks 4, 6, 8 failed, and their lines are not at their places in " in out
    tasklist.write_text("".join(f"{text}\n" for text in site.tasks[:8]))
    out = run(why, "tasks.txt")[0]
    assert "\ntask 8 failed, and its line is not at its place in the list any " in out
    assert " any more: mpifarm --remap" in out
    write_claim(WorkdirPaths(str(site.root)), "c1a10000", [])
    out = run(why, "tasks.txt")[0]
    assert " any more: once the farm at work has ended, mpifarm --remap" in out


@pytest.mark.parametrize(
    ("log", "status"),
    [
        ("/bin/bash: line 1: sleeep: command not found\n", 127),
        ("/bin/bash: -c: line 1: unexpected EOF while looking for matching `\"'\n", 2),
        ("bash: -c: line 1: syntax error near unexpected token `('\n", 2),
        ("/bin/bash: -c: line 2: syntax error: unexpected end of file\n", 2),
        ("sh: 1: Syntax error: Unterminated quoted string\n", 2),
    ],
)
def test_where_a_line_itself_may_be_wrong_it_is_to_be_corrected(
    tmp_path, monkeypatch, run, log, status
):
    monkeypatch.chdir(tmp_path)
    ends = [Attempt(i, status=status * (i == 3), host="n1") for i in range(4)]
    site = begin(tmp_path, 4, ends, {3: log.encode()})
    retry, correct = run(why, "tasks.txt")[0].splitlines()[-2:]
    assert retry == "  mpifarm retry tasks.txt_workdir --ids 3"
    assert correct == (
        "  or, if the line is wrong, correct it in tasks.txt and run: mpifarm --remap"
        " tasks.txt"
    )
    assert groups_of(run)[0]["remap"] == "mpifarm --remap tasks.txt"
    write_claim(WorkdirPaths(str(site.root)), "c1a10000", [])
    assert run(why, "tasks.txt")[0].splitlines()[-1] == (
        "  or, if the line is wrong, once the farm at work has ended, correct it in"
        " tasks.txt and run: mpifarm --remap tasks.txt"
    )
    (site.root / "claims" / "c1a10000").unlink()
    site.write("toprocess", [])
    site.write("finished", [0, 1])
    assert run(why, "tasks.txt")[0].splitlines()[-1] == (
        "  or, if the line is wrong, once no PyTaskFarmer works there (if none does,"
        " first rm tasks.txt_workdir/toprocess), correct it in tasks.txt and run:"
        " mpifarm --remap tasks.txt"
    )
    (tmp_path / "tasks.txt").rename(site.root / "stdin.txt")
    assert run(why, "tasks.txt_workdir")[0].splitlines()[-1] == retry
    assert groups_of(run, "tasks.txt_workdir")[0]["remap"] is None


def test_a_line_is_not_blamed_for_a_script_that_the_shell_does_not_understand(
    tmp_path, monkeypatch, run
):
    monkeypatch.chdir(tmp_path)
    ends = [Attempt(i, status=2 * (i == 3), host="n1") for i in range(4)]
    begin(tmp_path, 4, ends, {3: b"bad.sh: line 2: syntax error near unexpected `('\n"})
    out = run(why, "tasks.txt")[0]
    assert "group 1: the shell does not understand a script: bad.sh\n" in out
    assert "if the line is wrong" not in out


def test_a_line_is_not_blamed_for_what_one_host_lacks(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    ends = [Attempt(i, status=127 * (i < 6), host=f"n{i // 6}") for i in range(60)]
    log = b"/bin/bash: line 1: gmx: command not found\n"
    begin(tmp_path, 60, ends, dict.fromkeys(range(6), log))
    out = run(why, "tasks.txt")[0]
    assert "on n0 only" in out
    assert "if the lines are wrong" not in out


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, "host: h0 9"), (5, "h4 5"), (6, "h4 5 and 1 more host"), (9, "4 more hosts")],
)
def test_five_hosts_are_named(count, said):
    hosts = {f"h{number}": 9 - number for number in range(count)}
    words = why._name_hosts(cast(Any, SimpleNamespace(hosts=hosts)))
    assert words.endswith(said)
    assert words.startswith("host: " if count == 1 else "hosts: h0 9, h1 8, ")


@pytest.mark.parametrize(("more", "is_named"), [(0, True), (1, False)])
def test_two_hundred_characters_of_ids_are_copied(more, is_named):
    ids = [*range(100, 200, 2)]  # 50 ids of 4 characters with their commas, less one
    ids += [1000 * 10**more]
    group: Any = SimpleNamespace(tasks=[each for each in ids if each != 198])
    target = Target("tasks.txt_workdir", "tasks.txt")
    line = why._retry_command(target, 3, group)
    length = len(line.rpartition(" ")[2])
    if is_named:
        assert "--ids 100,102," in line
        assert length == 200
    else:
        assert line.endswith("--why 3")
