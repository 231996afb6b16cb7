"""``mpifarm ls``: which tasks it lists, and in which words."""

import json
import os
import re
import time
from collections.abc import Callable

import pytest

from mpifarm.commands import ls, ls_table, table
from mpifarm.errors import InputError
from mpifarm.model.id_ranges import parse_ids
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store import attempts as store_attempts
from mpifarm.system.console import Console
from tests.farm_states import write_claim, write_farm
from tests.unit.store_fakes import TASKS, Site
from tests.workdir_files import Attempt, format_attempts

Run = Callable[..., tuple[int, str, str]]

ATTEMPTS = [
    Attempt(0, seconds=2.5, host="n1", started=1e9),
    Attempt(1, seconds=400.0, host="n2.example.org"),
    Attempt(2, status=1, seconds=1.0),
    Attempt(2, 2, status=3, seconds=30.0, host="n2"),
    Attempt(3, status=-9, seconds=7.0, host="n3"),
    Attempt(4, status=3, outcome="timed out", seconds=90.0, host="n3"),
    Attempt(6, status=3, seconds=5.0, host="n1"),
]
"""0 and 1 finished, 2 to 4 failed, 6 waits again; nobody knows who ran 5."""


@pytest.fixture
def site(tmp_path, monkeypatch):
    site = Site(tmp_path / "tasks.txt_workdir")
    (tmp_path / "tasks.txt").write_text("".join(f"{text}\n" for text in site.tasks))
    site.write("finished", [1, 0])
    site.write("failed", [4, 2, 3, 5])
    site.write("toprocess", range(6, 12))
    (site.root / "attempts.tsv").write_text(format_attempts(*ATTEMPTS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    return site


@pytest.fixture
def run(capfd) -> Run:
    """Call ``mpifarm ls``: its status, its output, and its words on stderr."""

    def call(
        *words: str, environ: dict[str, str] | None = None
    ) -> tuple[int, str, str]:
        console = Console(prints=True)
        status = ls.main([*words], console, environ or {})
        console.close()
        out, err = capfd.readouterr()
        return status, out, err

    return call


def ids(run: Run, *words: str) -> list[int]:
    status, out, err = run("tasks.txt", "--ids", *words)
    assert status == (0 if out else 1)
    assert bool(err) is not bool(out)
    return parse_ids(out.rstrip("\n"))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", range(12)),
        ("--failed", [2, 3, 4, 5]),
        ("--finished", [0, 1]),
        ("--waiting", range(6, 12)),
        ("--running", []),
        ("--failed --finished", range(6)),
        ("--status 3", [2, 4, 6]),
        ("--status 1", []),
        ("--status 0", [0, 1]),
        ("--status 137", [3]),
        ("--status -9", [3]),
        ("--status 3,-9", [2, 3, 4, 6]),
        ("--failed --status 3", [2, 4]),
        ("--host n1", [0, 6]),
        ("--host n2", [1, 2]),
        ("--host n2.example.org", [1]),
        ("--host n*", [0, 1, 2, 3, 4, 6]),
        ("--host n9", []),
        ("--longer-than 90", [1, 4]),
        ("--longer-than 1.5m", [1, 4]),
        ("--longer-than 6min", [1]),
        ("--longer-than 1d", []),
        ("--longer-than 0:01:30", [1, 4]),
        ("--longer-than 30s --host n3", [4]),
        ("--failed --slowest 2", [2, 4]),
        ("--slowest 99", [0, 1, 2, 3, 4, 6]),
        ("--waiting --status 3 --host n1 --longer-than 5", [6]),
    ],
)
def test_the_tasks_that_fulfil_all_conditions_are_listed(site, run, words, wanted):
    assert ids(run, *words.split()) == [*wanted]


def test_ids_are_folded_for_the_next_command(site, run):
    assert run("tasks.txt", "--failed", "--ids")[1] == "2-5\n"


def test_the_slowest_stand_in_the_order_of_their_times(site, run):
    status, out, _ = run("tasks.txt_workdir", "--slowest", "3")
    assert status == 0
    assert [int(line.split()[0]) for line in out.splitlines()[1:]] == [1, 4, 2]


@pytest.mark.parametrize("at_once", [1, 2, 12])
def test_lines_that_are_made_at_once_look_as_all_others(
    site, run, monkeypatch, at_once
):
    odd = Attempt(1, seconds=4.0).line.replace("\t4.0", "\tsoon")
    attempts = format_attempts(*ATTEMPTS, Attempt(5, host="é"), Attempt(7, 2))
    (site.root / "attempts.tsv").write_text(attempts + odd)
    monkeypatch.setattr(store_attempts, "_TASKS_AT_ONCE", at_once)
    for module in (table, ls_table):
        monkeypatch.setattr(module, "ROWS_MEASURED", 1)
    made = []
    make = ls_table._Lines.format

    def note(*arguments):
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(ls_table._Lines, "format", note)
    at_once_out = run("tasks.txt")
    assert any(made) is (at_once < 12)
    assert not all(made)
    monkeypatch.setattr(ls_table._Lines, "format", lambda *_: b"")
    assert run("tasks.txt") == at_once_out


def test_the_table_has_what_is_known_of_each_task(site, run):
    _, out, err = run("tasks.txt")
    assert err == ""
    head, *rows = (re.split(r"  +", line.strip()) for line in out.splitlines())
    assert head == [
        *("id", "state", "outcome", "status", "host", "seconds", "started", "command")
    ]
    assert rows[0] == [
        *("0", "finished", "0", "n1", "2.5", "2001-09-09 01:46:40", "echo task 0")
    ]
    killed = ["3", "failed", "killed by SIGKILL", "137", "n3", "7.0"]
    assert rows[3] == [*killed, "1970-01-01 00:00:01", "echo task 3"]
    assert rows[4][:4] == ["4", "failed", "timed out", "3"]
    assert rows[5] == ["5", "failed", "echo task 5"]
    assert rows[6][:3] == ["6", "waiting", "failed"]
    assert rows[7] == ["7", "waiting", "echo task 7"]


def test_a_task_that_was_cancelled_before_it_ran_has_no_status_and_no_start(site, run):
    early = Attempt(5, status=-15, worker=-1, pid=0, outcome="cancelled", host="")
    late = Attempt(4, 2, status=-15, outcome="cancelled")
    attempts = format_attempts(*ATTEMPTS, early, late)
    (site.root / "attempts.tsv").write_text(attempts)
    rows = [re.split(r"  +", line.strip()) for line in run("tasks.txt")[1].splitlines()]
    assert rows[6] == ["5", "failed", "cancelled before it ran", "echo task 5"]
    assert rows[5][:4] == ["4", "failed", "cancelled", "143"]
    found = json.loads(run("tasks.txt", "--json")[1])["tasks"]
    assert (found[5]["outcome"], found[5]["status"]) == ("cancelled", None)
    assert (found[5]["started"], found[5]["seconds"]) == (None, None)
    assert (found[4]["outcome"], found[4]["status"]) == ("cancelled", 143)
    assert run("tasks.txt", "--status", "143", "--ids")[1] == "4\n"


def test_a_workdir_of_a_plain_farmer_has_states_and_commands(site, run):
    (site.root / "attempts.tsv").unlink()
    _, out, _ = run("tasks.txt", "--failed")
    assert out.splitlines()[:2] == [
        "id  state   command",
        " 2  failed  echo task 2",
    ]
    status, out, err = run("tasks.txt", "--failed", "--slowest", "3")
    assert (status, out) == (1, "")
    said = "none of 12 tasks has failed and has a known duration: attempts.tsv has no"
    assert said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--held", "is held"),
        ("--held --running --host n1", "is running or is held and has a last attempt"),
        ("--status 99", "has a last attempt with status 99"),
        (
            "--status 7,8 --host node9 --longer-than 5m",
            "has a last attempt on node9, longer than 5m, with status 7,8",
        ),
        ("--waiting --host none", "is waiting and has a last attempt on none"),
        ("--held --slowest 3", "is held and has a known duration"),
    ],
)
def test_the_sentence_about_no_task_says_what_was_asked_for(site, run, words, said):
    status, out, err = run("tasks.txt", *words.split())
    assert (status, out) == (1, "")
    assert f"none of 12 tasks {said}" in err


def test_the_only_task_that_is_not_wanted_is_told(tmp_path, run):
    site = Site(tmp_path / "workdir")
    site.write("toprocess", [0])
    assert "the only task is not one that is held" in run(str(site.root), "--held")[2]


@pytest.mark.parametrize("words", ["--slowest 1", "--running --slowest 1"])
@pytest.mark.parametrize("is_dead", [True, False])
def test_before_any_attempt_has_ended_that_is_said(tmp_path, run, words, is_dead):
    site = Site(tmp_path / "workdir")
    site.write("toprocess", range(2, 12))
    paths = WorkdirPaths(str(site.root))
    write_claim(paths, "c1a10001", [0, 1], is_dead=is_dead)
    status, out, err = run(str(site.root), *words.split())
    assert (status, out) == (1, "")
    assert "has a known duration yet: no attempt has ended" in err
    assert ("a farm works: ask again in some seconds" in err) is not is_dead


def test_json_has_each_task_with_all_that_is_known(site, run):
    _, out, _ = run("tasks.txt", "--json")
    found = json.loads(out)
    assert (found["total"], found["list"]) == (12, "tasks.txt")
    assert found["counts"]["failed"] == 4
    assert [task["command"] for task in found["tasks"]] == TASKS
    third = found["tasks"][3]
    assert (third["signal"], third["status"], third["outcome"]) == (9, 137, "failed")
    assert found["tasks"][2]["attempt"] == 2
    unknown = found["tasks"][5]
    assert (unknown["state"], unknown["host"], unknown["seconds"]) == (
        *("failed", None, None),
    )


def test_json_without_such_tasks_is_json(site, run):
    status, out, _ = run("tasks.txt", "--running", "--json")
    assert status == 1
    assert json.loads(out)["tasks"] == []


def test_an_attempt_that_contradicts_the_state_is_not_shown(site, run):
    """A plain farmer has run the task since."""
    site.write("finished", [1, 0, 2])
    _, out, _ = run("tasks.txt", "--finished")
    assert out.splitlines()[-1].split() == ["2", "finished", "echo", "task", "2"]
    assert ids(run, "--status", "3") == [4, 6]


def test_no_control_character_of_a_command_is_printed(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks = ["echo \x1b[31m\r", "echo \udcff"]
    site = Site(tmp_path / "tasks.txt_workdir", tasks)
    lines = "".join(f"{text}\n" for text in tasks)
    (tmp_path / "tasks.txt").write_bytes(os.fsencode(lines))
    site.root.mkdir()
    (site.root / "toprocess").write_bytes(os.fsencode(site.lines([0, 1])))
    _, out, _ = run("tasks.txt")
    assert r"echo \x1b[31m" in out
    assert r"echo \udcff" in out
    assert all(line.isprintable() for line in out.splitlines())
    assert json.loads(run("tasks.txt", "--json")[1])["tasks"][1]["command"] == tasks[1]


def test_odd_attempts_are_no_attempts(site, run):
    odd = Attempt(7).line.replace("completed", "fa\x1biled").replace("1.0", "soon")
    with (site.root / "attempts.tsv").open("a") as stream:
        stream.write(odd + "\n\0\0\n" + Attempt(8).line[:-20])
    _, out, _ = run("tasks.txt")
    assert out.splitlines()[8].split() == ["7", "waiting", "echo", "task", "7"]
    assert ids(run, "--slowest", "99") == [0, 1, 2, 3, 4, 6]


def test_a_list_that_was_edited_is_warned_of(site, run):
    (site.root / "fingerprint.json").write_text(
        '{"version": 1, "count": 1, "block": 1000, "prefixes": ["x"]}'
    )
    _, _, err = run("tasks.txt")
    assert "was edited" in err


def test_a_list_that_keeps_its_own_state_has_no_states(site, run, monkeypatch):
    monkeypatch.setattr("mpifarm.audit.view.has_own_state", lambda *_: True)
    with pytest.raises(InputError, match="keeps the state of the tasks itself"):
        run("tasks.txt", "--failed")
    assert ids(run, "--slowest", "1") == [1]
    _, out, _ = run("tasks.txt", "--host", "n1")
    assert out.splitlines()[1].split()[:3] == ["0", "unknown", "completed"]
    assert out.splitlines()[1].endswith("  true")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--slowest 0", "--slowest takes a number of tasks, 1 or more, not '0'"),
        ("--slowest x", "--slowest takes"),
        ("--longer-than -1", "--longer-than"),
        ("--longer-than 5w", "1-02:03:04, not '5w'"),
        ("--status x", "--status takes exit statuses"),
        ("--status 300", "--status takes exit statuses"),
        ("--host=", "--host needs the name of a host"),
        ("--fialed", "has no option --fialed, did you mean --failed?"),
        ("another", "'another' is one word too many"),
        ("--list nowhere", "there is no such file"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(site, run, words, told):
    with pytest.raises(InputError, match=re.escape(told)) as caught:
        run("tasks.txt_workdir", *words.split())
    assert "\n" not in str(caught.value)


def test_what_runs_comes_with_its_host_rank_worker_and_age(site, run):
    paths = WorkdirPaths(str(site.root))
    write_claim(paths, "c1a10001", [6, 7])
    places = {7: (1, 3, time.time() - 75)}
    write_farm(paths, "c1a10001", written=time.time(), running=places)
    status, out, _ = run("tasks.txt", "--running")
    assert status == 0
    head, claimed, running = (line.split() for line in out.splitlines())
    assert head[:2] == ["id", "state"]
    assert claimed[:2] == ["6", "claimed"]
    taskid, state, host, rank, worker, seconds, *_ = running
    assert (taskid, state, host, rank, worker) == ("7", "running", "n2", "1", "3")
    assert 75 <= float(seconds) < 90


@pytest.mark.parametrize(
    ("number", "name"),
    [(9, "SIGKILL"), (11, "SIGSEGV"), (40, "signal 40"), (0, "signal 0")],
)
def test_a_signal_without_a_name_is_told_by_its_number(number, name):
    assert ls_table.name_signal(number) == name


def test_a_list_without_tasks_has_none(site, run):
    (site.root.parent / "tasks.txt").write_text("")
    for name in ("toprocess", "finished", "failed", "attempts.tsv"):
        (site.root / name).unlink()
    (site.root / "toprocess").touch()
    assert run("tasks.txt")[2].endswith("tasks.txt_workdir has no tasks\n")


def test_held_tasks_are_listed_as_such_and_are_still_to_run(site, run):
    record = {"version": 1, "all": False, "tasks": "6,8-9"}
    (site.root / "held").write_text(json.dumps(record))
    assert ids(run, "--held") == [6, 8, 9]
    assert ids(run, "--waiting") == [*range(6, 12)]
    _, out, _ = run("tasks.txt", "--waiting")
    found = [line.split()[1] for line in out.splitlines()[1:]]
    assert found == ["held", "waiting", "held", "held", "waiting", "waiting"]


def test_json_of_a_running_task_has_its_place_and_age(site, run):
    paths = WorkdirPaths(str(site.root))
    write_claim(paths, "c1a10001", [6, 7])
    started = time.time() - 75
    write_farm(paths, "c1a10001", written=time.time(), running={7: (1, 3, started)})
    claimed, running = json.loads(run("tasks.txt", "--json")[1])["tasks"][6:8]
    assert (running["id"], running["state"]) == (7, "running")
    known = ("attempt", "host", "rank", "worker", "claimed_by")
    assert [running[name] for name in known] == [1, "n2", 1, 3, "c1a10001"]
    assert 75 <= running["seconds"] < 90
    assert running["command"] == TASKS[7]
    assert (claimed["state"], claimed["claimed_by"]) == ("claimed", "c1a10001")
    assert (claimed["attempt"], claimed["host"]) == (1, "n1"), "of its last attempt"


def test_json_of_an_ended_task_names_no_claim(site, run):
    tasks = json.loads(run("tasks.txt", "--json")[1])["tasks"]
    assert {task["claimed_by"] for task in tasks} == {None}
