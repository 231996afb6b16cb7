"""``mpifarm status``: its words, its JSON, and its arguments."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mpifarm.audit.status import read_status
from mpifarm.commands import status
from mpifarm.commands.main import names_subcommand
from mpifarm.commands.misspelt import explain_command
from mpifarm.commands.options import HelpAsked
from mpifarm.commands.sink import Sink
from mpifarm.commands.status import command, screen, words
from mpifarm.commands.status.command import MAX_SHOWN
from mpifarm.commands.status.screen import Screen
from mpifarm.errors import InputError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.order.constraints import Constraints
from mpifarm.store.claim_journal import Head, encode_head
from mpifarm.store.fingerprint import encode_fingerprint, take_fingerprint
from mpifarm.store.target import UNKNOWN_LIST, Target
from mpifarm.system.console import Console
from tests.farm_states import encode, write_claim, write_farm
from tests.support import snapshot
from tests.unit.store_fakes import TASKS, Site
from tests.workdir_files import Attempt, format_attempts

Run = Callable[..., tuple[int, str]]
FARM = "c1a10001"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """0 and 1 finished, 2 failed, all others wait."""
    site = Site(tmp_path / "tasks.txt_workdir")
    (tmp_path / "tasks.txt").write_text("".join(f"{text}\n" for text in site.tasks))
    site.write("finished", [1, 0])
    site.write("failed", [2])
    site.write("toprocess", range(3, 12))
    attempts = (Attempt(0), Attempt(1), Attempt(2, status=-11, host="n7"))
    (site.root / "attempts.tsv").write_text(format_attempts(*attempts))
    monkeypatch.chdir(tmp_path)
    return site


@pytest.fixture
def run(capfd) -> Run:
    """Call ``mpifarm status``: its status and its output."""

    def call(*words: str) -> tuple[int, str]:
        console = Console(prints=True)
        ended = status.main([*words], console, {})
        console.close()
        return ended, capfd.readouterr().out

    return call


def hold(site: Site, *taken: int, heard: float | None = None, dead: bool = False):
    """Give tasks to a farm: to this process, or to one that is dead."""
    paths = WorkdirPaths(str(site.root))
    write_claim(paths, FARM, taken, is_dead=dead)
    if heard is not None:
        os.utime(paths.claim(FARM), (heard, heard))
    site.write("toprocess", sorted({*site.ids("toprocess")} - {*taken}))


@pytest.fixture
def now(monkeypatch) -> float:
    """The time, which stands still."""
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    return now


def tell(site: Site, age: float = 2, **state) -> None:
    paths = WorkdirPaths(str(site.root))
    write_farm(paths, FARM, written=time.time() - age, **state)


def test_a_workdir_without_farms_says_how_to_go_on(site, run):
    before = snapshot(site.root)
    ended, text = run("tasks.txt")
    assert ended == 0
    lines = text.splitlines()
    assert lines[:3] == [
        "tasks.txt_workdir: 12 tasks",
        "2 finished, 1 failed, 0 running, 9 waiting",
        "no farm runs; to go on, give its command again: mpifarm tasks.txt",
    ]
    assert lines[-1].split(maxsplit=2) == [
        *("2", "n7"),
        "killed by signal 11 (SIGSEGV)  (nothing)",
    ]
    assert snapshot(site.root) == before


def test_tasks_of_a_kind_without_a_limit_wait_for_a_farm_with_one(site, run):
    """What the last farm was given is refused: a limit is added to its command."""
    site.tasks[10:] = [f"[limit=b] {text}" for text in site.tasks[10:]]
    Path("tasks.txt").write_text("".join(f"{text}\n" for text in site.tasks))
    site.write("toprocess", range(3, 10))
    site.write("waiting", [10, 11])
    kinds = Constraints(kinds={10: "b", 11: "b"})
    begun = encode_fingerprint(take_fingerprint(site.tasks, 12, kinds))
    (site.root / "fingerprint.json").write_bytes(begun)
    told: dict[str, Any] = {"job": None, "directory": os.getcwd(), "limits": []}
    told["command"] = ["mpifarm", "-n", "1", "tasks.txt"]
    hold(site, 3)
    tell(site, **told)
    text = run("tasks.txt")[1]
    assert "\n2 of those waiting wait for a farm with --limit b=N\n" in text
    assert json.loads(run("tasks.txt", "--json")[1])["no_limit"] == {"b": 2}
    tell(site, **told | {"limits": ["b"]})
    assert "--limit" not in run("tasks.txt")[1]
    assert json.loads(run("tasks.txt", "--json")[1])["no_limit"] == {}
    (site.root / "claims" / FARM).unlink()
    tell(site, **told, exit_status=75)
    site.write("finished", [0, 1, *range(3, 10)])
    site.write("toprocess", [])
    text = run("tasks.txt")[1]
    assert "\nall of those waiting wait for a farm with --limit b=N\n" in text
    way_on = "to go on, give its command with --limit b=N: mpifarm --limit b=N -n 1 ta"
    assert way_on in text
    tell(site, **told | {"command": ["mpifarm", "run", "tasks.txt"]}, exit_status=75)
    assert "b=N: mpifarm run --limit b=N tasks.txt\n" in run("tasks.txt")[1]


def test_the_task_that_runs_longest_is_named_with_its_host_and_age(site, run, now):
    hold(site, 3, 4, 5)
    left = {"low": 6600.0, "likely": 7800.0, "high": 9600.0}
    tell(site, running={3: (0, 1, now - 30), 4: (1, 6, now - 7500)}, time_left=left)
    text = run("tasks.txt")[1]
    assert "2 running, 1 taken, not begun, 6 waiting" in text
    assert "0.25 tasks/s, about 2 h 10 min left, 1 h 50 to 2 h 40" in text
    assert (
        f"farm {FARM} (slurm job 4711): n[1-2] × 8 workers, working, began at" in text
    )
    rows = text.partition("running longest:\n")[2].splitlines()
    assert rows[0].split() == ["task", "age", "host", "rank", "worker", "command"]
    task, hours, unit, host, rank, worker, *words = rows[1].split()
    assert (task, host, rank, worker, unit) == ("4", "n2", "1", "6", "h")
    assert hours == "2:05:00"
    assert " ".join(words) == TASKS[4]
    assert rows[2].split()[0] == "3"


def test_a_dead_farm_is_told_of_with_what_it_ran(site, run):
    hold(site, 3, 4, heard=time.time() - 300, dead=True)
    tell(site, age=300, running={4: (1, 6, time.time() - 7500)})
    text = run("tasks.txt")[1]
    assert f"farm {FARM} on n1 (slurm job 4711) died, last heard of at " in text
    assert "  it ran task 4 on n2 since " in text
    assert "  its 2 tasks go back when a farm starts" in text
    assert " (the last died); to go on, give its command again: cd /data && " in text
    assert "running longest" not in text
    Path(WorkdirPaths(str(site.root)).claim(FARM)).unlink()
    site.write("toprocess", range(3, 12))
    text = run("tasks.txt")[1]
    assert "  it ran task 4 on n2 since " in text
    assert "  what it had not ended was put back\n" in text
    site.write("finished", [*range(2), *range(3, 12)])
    site.write("toprocess", [])
    text = run("tasks.txt")[1]
    assert " (the last died); to run what failed again: " in text
    assert f"farm {FARM}" not in text


def keep_back(site: Site, tasks: str = "", *, holds_all: bool = False) -> None:
    record = {"version": 1, "all": holds_all, "tasks": tasks}
    (site.root / "held").write_text(json.dumps(record))


def test_a_dead_farm_is_told_of_where_the_list_alone_knows_what_is_left(
    site, run, tmp_path, monkeypatch
):
    """Its methods say to farms what is left of it, and its length does not."""
    (tmp_path / "ownqueue.py").write_text(
        "class Own:\n"
        "    def __init__(self, path, workdir): pass\n"
        "    def __len__(self): return 0\n"
        "    def __getitem__(self, taskid): return 'a'\n"
        "    def get_finished(self): return []\n"
        "    def pop_task(self): return None\n"
        "    def record_toprocess_task(self, taskid): pass\n"
        "    def record_done_task(self, taskid, status): pass\n"
    )
    (tmp_path / "own.ini").write_text("[own]\nTaskList = ownqueue.Own\n")
    monkeypatch.syspath_prepend(tmp_path)
    tell(site, age=60)
    text = run("tasks.txt", "-t", "own", "--config", "own.ini")[1]
    assert text.startswith("tasks.txt_workdir: 0 tasks\n\nfarm ")
    assert f"farm {FARM} on n1 (slurm job 4711) died, last heard of at " in text


def test_what_is_held_is_named_with_the_command_that_releases_it(site, run):
    keep_back(site, "3,11")  # the file of the farm, which is older, does not say so
    hold(site, 4)
    tell(site)
    text = run("tasks.txt")[1]
    assert (
        "2 finished, 1 failed, 0 running, 1 taken, not begun, 6 waiting, 2 held" in text
    )
    release = "mpifarm release tasks.txt_workdir"
    assert f"2 held (tasks 3, 11): {release} lets them start\n" in text
    keep_back(site, "11")
    assert f"1 held (task 11): {release} lets it start\n" in run("tasks.txt")[1]
    found = json.loads(run("tasks.txt", "--json")[1])
    assert found["held"] == {"all": False, "tasks": "11"}
    assert found["counts"]["held"] == 1


def test_tasks_that_wait_for_seats_are_counted_by_their_kind(site, run):
    hold(site, 3, 4, 5)
    tell(site, seatless={"licence": 2, "disk": 1})
    text = run("tasks.txt")[1]
    assert "  2 tasks wait for seats of licence\n" in text
    assert "  1 task waits for seats of disk\n" in text
    (farm,) = json.loads(run("tasks.txt", "--json")[1])["farms"]
    assert farm["seatless"] == {"licence": 2, "disk": 1}


def test_without_a_farm_what_is_held_is_to_be_released_first(site, run):
    keep_back(site, holds_all=True)
    lines = run("tasks.txt")[1].splitlines()
    assert lines[1:4] == [
        "2 finished, 1 failed, 0 running, 0 waiting, 9 held",
        "held: nothing starts until mpifarm release tasks.txt_workdir",
        "no farm runs; what is left is held: release it, then mpifarm tasks.txt",
    ]
    keep_back(site, "3-11")
    assert run("tasks.txt")[1].splitlines()[3] == lines[3]
    keep_back(site, "3-10")
    text = run("tasks.txt")[1]
    assert "no farm runs; to go on, give its command again: mpifarm tasks.txt\n" in text


def test_tasks_that_have_ended_are_not_told_as_held(site, run):
    keep_back(site, "0-2")
    assert "held" not in run("tasks.txt")[1]


@pytest.mark.parametrize(
    ("elsewhere", "said"),
    [("", "mpifarm"), ("/data/my runs", "cd '/data/my runs' && mpifarm")],
)
def test_the_command_to_give_again_is_the_last_one_with_its_options(
    site, run, elsewhere, said
):
    directory = elsewhere or os.getcwd()
    options = ["mpifarm", "--retries", "2", "--chdir", "a b", "tasks.txt"]
    tell(site, exit_status=75, command=options, directory=directory)
    write_farm(
        WorkdirPaths(str(site.root)),
        "c1a10000",
        written=time.time() - 60,
        command=["mpifarm", "--retries", "9", "tasks.txt"],
        directory=directory,
        exit_status=75,
    )
    text = run("tasks.txt")[1]
    assert f"again: {said} --retries 2 --chdir 'a b' tasks.txt\n" in text


def test_a_farm_that_is_silent_is_told_of(site, run, now):
    hold(site, 3, heard=now - 300)
    tell(site, age=300)
    text = run("tasks.txt")[1]
    assert "it has given no sign of life for 5:00 min: rank 0 on n1 (pid 77)" in text


def test_a_lost_rank_and_a_reason_to_end_are_told(site, run):
    hold(site, 3)
    ranks = [
        {"rank": n, "host": f"n{n // 2}", "pid": 1, "workers": 4, "state": state}
        for n, state in enumerate(["working", "working", "dead", "working"])
    ]
    tell(site, ranks=ranks, phase="draining", reason="a drain file")
    (site.root / "drain").touch()
    text = run("tasks.txt")[1]
    assert "n[0-1] × 2 ranks × 4 workers, draining, began at" in text
    assert "  it ends: a drain file\n  rank 2 on n1 is dead\n" in text


def test_ranks_of_several_sizes_are_told_with_all_their_workers(site, run):
    hold(site, 3)
    ranks = [
        {"rank": n, "host": host, "pid": 1, "workers": workers, "state": "working"}
        for n, (host, workers) in enumerate([("a", 1), ("b", 4), ("b", 8), ("", 2)])
    ]
    tell(site, ranks=ranks)
    text = run("tasks.txt")[1]
    assert "a × 1 worker + b × 2 ranks, 12 workers + ? × 2 workers, working" in text


def test_a_farm_elsewhere_is_told_of_when_it_was_heard_last(site, run, now):
    paths = WorkdirPaths(str(site.root))
    head = Head(FARM, "n9", "another boot", 7, 1, 1.0, ())
    Path(paths.claims).mkdir()
    for age, is_told in ((15, False), (25, True)):
        Path(paths.claim(FARM)).write_bytes(encode_head(head))
        heard = now - age
        os.utime(paths.claim(FARM), (heard, heard))
        tell(site, age=age)
        text = run("tasks.txt")[1]
        assert (f"  it was heard last {age} s ago, on n1\n" in text) is is_told


def test_of_dead_farms_and_of_their_tasks_three_are_named(site, run):
    now = time.time()
    hold(site, 3, 4, 5, 6, 7, heard=now - 300, dead=True)
    tell(site, age=300, running={n: (0, n, now - 400 - n) for n in range(3, 8)})
    text = run("tasks.txt")[1]
    assert [int(line.split()[3]) for line in text.splitlines() if "it ran" in line] == [
        *(7, 6, 5)
    ]
    assert "  and 2 more tasks\n  its 5 tasks go back when a farm starts" in text
    paths = WorkdirPaths(str(site.root))
    for number in range(1, 5):
        write_claim(paths, f"c1a1100{number}", [8], is_dead=True)
    text = run("tasks.txt")[1]
    assert text.count(" died, last heard of at ") == 3
    assert "\n2 more farms died\n" in text
    assert "farm c1a11001 on n1 (pid " in text


def test_a_task_that_timed_out_is_told_with_its_time(site, run):
    attempt = Attempt(2, status=143, host="n7", seconds=90.0, outcome="timed out")
    (site.root / "attempts.tsv").write_text(format_attempts(attempt))
    assert "timed out after 90 s" in run("tasks.txt")[1]


def test_on_a_terminal_sentences_are_wrapped_and_tables_cut(site):
    (site.root.parent / "tasks.txt").write_text(f"echo {'x' * 200}\n" * 12)
    hold(site, 3)
    tell(site, running={3: (0, 1, time.time() - 30)})
    status = read_status(
        Target("tasks.txt_workdir", "tasks.txt"), {}, most_failed=MAX_SHOWN
    )
    colours = re.compile(r"\x1b\[[0-9;]*m")
    lines = [colours.sub("", line) for line in words.describe(status, 60)]
    assert max(map(len, lines)) == 60
    assert any(line.startswith("    ") for line in lines)
    assert any(line.endswith("…") for line in lines)
    assert max(map(len, words.describe(status, None))) > 100


def test_a_terminal_shows_the_last_state_in_its_rows(monkeypatch):
    shown: list[bytes] = []
    sink = cast(Any, SimpleNamespace(write=shown.append))
    monkeypatch.setattr(screen, "find_width", lambda: 80)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((80, 6)))
    live = Screen(sink, is_live=True)
    lines = [f"line {number}" for number in range(6)]
    live.show(lines[:4], 0.0, is_last=False)
    live.show(lines, 0.0, is_last=False)
    live.show(lines, 0.0, is_last=True)
    bodies = [each.decode().split("\n")[1:-1] for each in shown]
    assert bodies == [lines[:4], [*lines[:3], "… 3 lines more"], lines]
    assert all(each.startswith(b"\x1b[H\x1b[J") for each in shown)
    assert all(b"  (Ctrl-C ends this)\n" in each for each in shown)


def test_without_a_size_a_terminal_has_24_rows(monkeypatch):
    def fail(_descriptor):
        raise OSError

    monkeypatch.setattr(os, "get_terminal_size", fail)
    assert screen._find_rows() == 24
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((0, 0)))
    assert screen._find_rows() == 24


def test_a_damaged_claim_is_not_called_dead(site, run):
    (site.root / "claims" / "zz").mkdir(parents=True)
    text = run("tasks.txt")[1]
    assert "the claim of farm zz can't be understood (see mpifarm check tasks" in text
    assert "died" not in text


def test_a_drain_file_without_a_farm_is_told(site, run):
    (site.root / "drain").touch()
    text = run("tasks.txt")[1]
    assert "nothing new starts: remove the file " in text


def test_a_farm_that_has_told_nothing_yet_is_named(site, run):
    hold(site, 3)
    text = run("tasks.txt")[1]
    assert f"farm {FARM} on n1 (pid " in text
    assert "1 taken, not begun" in text


def test_what_plain_farmers_did_is_counted(site, run):
    (site.root / "attempts.tsv").unlink()
    site.write("toprocess", range(4, 12))
    text = run("tasks.txt")[1]
    assert "2 finished tasks have no attempt of mpifarm's: a PyTaskFarmer" in text
    assert "1 task is in no file: a PyTaskFarmer runs it, or has lost it" in text
    assert "in another farmer" in text


def test_of_an_edited_list_it_says_that_and_not_that_tasks_are_lost(site, run):
    fingerprint = encode_fingerprint(take_fingerprint([*TASKS[:3], *TASKS[4:]]))
    (site.root / "fingerprint.json").write_bytes(fingerprint)
    site.write("toprocess", range(4, 12))
    with open(site.root / "finished", "a") as file:
        file.write("3 old\n")
    text = run("tasks.txt")[1]
    assert "tasks.txt was edited since tasks.txt_workdir was begun" in text
    assert "8 waiting, 1 unknown since the list was edited\n" in text
    assert "PyTaskFarmer" not in text
    assert "no farm of mpifarm" not in text
    way_on = (
        "to run what is new or was changed: mpifarm --remap tasks.txt"
        " (or all afresh, with --again in place of --remap)\n"
    )
    assert f"no farm runs; {way_on}" in text
    site.write("finished", [0, 1])
    none = (
        "no PyTaskFarmer works there (if none does, first rm tasks.txt_workdir/toproce"
        "ss), "
    )
    wait = f"once {none}"
    assert f"no farm runs; {wait}{way_on}" in run("tasks.txt")[1]
    write_claim(WorkdirPaths(str(site.root)), FARM, [])
    wait = f"once the farm at work has ended and {none}"
    assert f"\n{wait}{way_on}" in run("tasks.txt")[1]


@pytest.mark.parametrize(
    ("farms", "wait"), [(1, "farm at work has"), (2, "farms at work have")]
)
def test_an_edited_list_goes_on_when_the_farms_at_work_have_ended(
    site, run, farms, wait
):
    fingerprint = encode_fingerprint(take_fingerprint([*TASKS[:3], *TASKS[4:]]))
    (site.root / "fingerprint.json").write_bytes(fingerprint)
    paths = WorkdirPaths(str(site.root))
    command = ["mpifarm", "-n", "1", "tasks.txt"]
    for farm in (FARM, "0badcafe")[:farms]:
        write_claim(paths, farm, [])
        write_farm(
            paths, farm, command=command, directory=os.getcwd(), written=time.time()
        )
    assert (
        f"\nonce the {wait} ended, to run what is new or was changed: mpifarm"
        " --remap -n 1 tasks.txt (or all afresh, with --again in place of --remap)\n"
    ) in run("tasks.txt")[1]


def test_after_a_remap_that_was_interrupted_its_command_is_named(site, run):
    (site.root / "remap.begun").mkdir()
    text = run("tasks.txt")[1]
    assert "no farm runs; to go on: mpifarm --remap tasks.txt\n" in text


def test_an_edited_list_is_not_watched_for_a_plain_farmer(site, run, monkeypatch):
    """Its changed lines are in no file, as what a PyTaskFarmer runs."""
    fingerprint = encode_fingerprint(take_fingerprint([*TASKS[:3], *TASKS[4:]]))
    (site.root / "fingerprint.json").write_bytes(fingerprint)
    site.write("toprocess", range(4, 12))
    monkeypatch.setattr(Sink, "wait", lambda *_: pytest.fail("it goes on"))
    assert run("tasks.txt", "--watch")[0] == 0
    found = json.loads(run("tasks.txt", "--json")[1])
    assert (found["counts"]["nowhere"], found["goes_on"]) == (1, False)
    assert "but not of an edited list" in read_row("goes_on")


def test_the_end_of_a_list_is_told(site, run):
    site.write("toprocess", [])
    site.write("finished", [*range(2), *range(3, 12)])
    tell(site, exit_status=1)
    text = run("tasks.txt")[1]
    assert "(the last ended with status 1); to run what failed again: mpifarm" in text
    site.write("failed", [])
    site.write("finished", range(12))
    assert "all tasks are finished" in run("tasks.txt")[1]


def test_a_list_with_a_wrong_line_is_never_told_as_finished(site, run):
    site.write("toprocess", [])
    site.write("failed", [])
    site.write("finished", range(12))
    with (site.root.parent / "tasks.txt").open("a") as stream:
        stream.write("true\n#BARRIER CHEK\n")
    text = run("tasks.txt")[1]
    assert "line 14 of tasks.txt is no #BARRIER" in text
    assert "no farm runs; once the list is right, to go on: mpifarm tasks.txt" in text
    assert "all tasks are finished" not in text


def test_control_characters_are_shown(site, run):
    (site.root.parent / "tasks.txt").write_text("echo \x1b[31m\n" * 12)
    hold(site, 3)
    hosts = [{"rank": 0, "host": "n\x1b1", "pid": 1, "workers": 4, "state": "working"}]
    tell(site, ranks=hosts, running={3: (0, 1, 1.0)}, reason="\x07")
    (site.root / "logs").mkdir()
    (site.root / "logs" / "log_2").write_bytes(b"\xff\x00 no\x07\n")
    text = run("tasks.txt")[1]
    assert all(char.isprintable() or char == "\n" for char in text)
    assert r"echo \x1b[31m" in text


@pytest.mark.parametrize("with_list", [True, False])
def test_an_empty_workdir_is_no_mistake(tmp_path, monkeypatch, run, with_list):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.txt_workdir" / "logs").mkdir(parents=True)
    if with_list:
        (tmp_path / "tasks.txt").write_text("true\n")
    ended, text = run("tasks.txt_workdir")
    assert ended == 0
    assert f"0 running, {int(with_list)} waiting" in text


def test_json_has_all_keys_and_numbers_that_add_up(site, run, now):
    hold(site, 3, 4)
    tell(site, running={4: (1, 6, now - 75)})
    ended, text = run("tasks.txt", "--json")
    found = json.loads(text)
    assert ended == 0
    assert [*found] == [
        *("workdir", "list", "time", "total", "counts", "not_run"),
        *("finished_by_others", "rate"),
        *("time_left", "no_limit", "is_draining", "held", "goes_on", "farms"),
        *("running", "failed", "warnings"),
    ]
    assert sum(found["counts"].values()) == found["total"] == 12
    (farm,) = found["farms"]
    assert farm["hosts"] == {"n1": 1, "n2": 1}
    assert (farm["life"], farm["workers"], farm["holds"]) == ("alive", 16, 2)
    (task,) = found["running"]
    assert (task["id"], task["host"], task["worker"]) == (4, "n2", 6)
    assert task["seconds"] == pytest.approx(75, abs=0.01)
    (failed,) = found["failed"]
    assert (failed["status"], failed["signal"], failed["host"]) == (139, 11, "n7")


PAGE = Path(__file__).parents[3] / "docs" / "looking-in.md"


def read_row(key):
    """What the page says of a key."""
    (row,) = [
        row for row in PAGE.read_text().splitlines() if row.startswith(f"| `{key}`")
    ]
    return row


def test_the_page_names_all_keys_of_the_json(site, run):
    hold(site, 3, 4, dead=True)
    tell(site, running={4: (1, 6, time.time() - 75)})
    found = json.loads(run("tasks.txt", "--json")[1])
    text = PAGE.read_text()
    keys = {*found, *found["farms"][0], *found["farms"][0]["ran"][0]}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


def test_watch_ends_when_nothing_lives_and_a_log_has_all_states(site, run, monkeypatch):
    hold(site, 3)
    tell(site)
    waits = []

    def wait(_, seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            Path(WorkdirPaths(str(site.root)).claim(FARM)).unlink()
            site.write("toprocess", range(3, 12))
            tell(site, exit_status=75)
        assert len(waits) < 5

    monkeypatch.setattr(Sink, "wait", wait)
    ended, text = run("--watch", "tasks.txt")
    assert ended == 0
    assert text.count("tasks.txt_workdir: 12 tasks") == 3
    assert text.count("\n== ") == 2
    assert "\x1b" not in text
    assert min(waits) >= command.WATCH_SECONDS


@pytest.mark.parametrize(
    "words", [("--watch", "5", "tasks.txt"), ("tasks.txt", "--watch=5", "--json")]
)
def test_watch_takes_seconds(site, run, monkeypatch, words):
    hold(site, 3)

    def stop(_, seconds: float) -> None:
        assert seconds >= 5
        raise KeyboardInterrupt

    monkeypatch.setattr(Sink, "wait", stop)
    assert run(*words)[0] == 130


def test_a_reader_that_has_seen_enough_is_no_mistake(site, run, monkeypatch):
    def leave(_, __: float) -> None:
        raise BrokenPipeError

    hold(site, 3)
    monkeypatch.setattr(Sink, "wait", leave)
    assert run("tasks.txt", "--watch")[0] == 0


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e-9", "soon"])
def test_odd_seconds_are_a_mistake(site, run, seconds):
    with pytest.raises(InputError, match="--watch takes seconds"):
        run("tasks.txt", f"--watch={seconds}")


@pytest.mark.parametrize(
    "words",
    ["--watch 5x tasks.txt", "tasks.txt --watch x", "--watch 1y tasks.txt_workdir"],
)
def test_a_word_behind_watch_that_is_no_number_is_told(site, run, words):
    with pytest.raises(InputError, match=r"--watch takes seconds, 0\.1 or more, or"):
        run(*words.split())
    with pytest.raises(InputError, match="no workdir nowhere"):
        run("--watch", "nowhere")


def test_a_list_without_a_workdir_is_a_mistake(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text("true\n")
    with pytest.raises(InputError, match="no workdir list_workdir"):
        run("list")
    said = "^no workdir list_workdir: no farm has run list yet$"
    with pytest.raises(InputError, match=said):
        run("list_workdir")
    with pytest.raises(InputError, match=r"name a workdir, or the tasklist of one$"):
        run("lust_workdir")
    with pytest.raises(InputError, match=r"of one: did you mean list\?$"):
        run("lists")


@pytest.mark.parametrize("word", ["top", "ps", "squeue", "watch", "eta", "monitor"])
def test_words_of_other_tools_point_here(word):
    assert "mpifarm status LIST" in explain_command(word)


def test_help_is_there_and_the_name_is_a_subcommand(run):
    with pytest.raises(HelpAsked, match="SECONDS"):
        run("--help")
    assert names_subcommand(["status", "tasks.txt"])


def test_a_time_of_another_day_has_its_day():
    noon = time.mktime((2026, 11, 23, 12, 0, 0, 0, 0, -1))
    assert words._time(noon - 3 * 3600, noon) == "09:00:00"
    assert words._time(noon - 13 * 3600, noon) == "2026-11-22 23:00:00"


@pytest.mark.parametrize(
    ("argv", "seconds"),
    [
        (["d", "--watch"], 2.0),
        (["--watch", "d"], 2.0),
        (["--watch", "0.1", "d"], 0.1),
        (["--watch=7", "d"], 7.0),
        (["--watch=1m30s", "d"], 90.0),
        (["--watch", "1e9", "d"], None),
        (["--watch=1e9", "d"], 24 * 3600.0),
    ],
)
def test_a_watch_has_its_seconds_a_day_at_the_most(argv, seconds):
    if seconds is None:  # a word that is no plain number is the workdir
        with pytest.raises(InputError):
            command._parse(argv)
        return
    chosen = command._parse(argv)
    assert chosen.workdir == "d"
    assert command._parse_seconds(chosen.watch) == seconds


@pytest.mark.parametrize(("cost", "pause"), [(0.0, 3.0), (0.7, 3.0), (2.0, 8.0)])
def test_a_reading_takes_a_quarter_of_the_time_at_most(site, monkeypatch, cost, pause):
    hold(site, 3)
    now = [0.0]

    def read(*arguments, **others):
        now[0] += cost
        return read_status(*arguments, **others)

    waits: list[float] = []

    def wait(_sink, seconds):
        waits.append(seconds)
        raise BrokenPipeError

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(command, "read_status", read)
    monkeypatch.setattr(Sink, "wait", wait)
    assert status.main(["--watch=3", "tasks.txt"], Console(prints=False), {}) == 0
    assert waits == [pause]


def test_five_running_tasks_and_five_failed_ones_are_shown(site, run):
    site.write("failed", range(2, 9))
    site.write("toprocess", range(9, 12))
    taken = range(9, 12)
    site.write("finished", [])
    hold(site, *taken)
    now = time.time()
    text = run("tasks.txt")[1]
    failed = text.partition("failed last:\n")[2].splitlines()[1:]
    assert [int(line.split()[0]) for line in failed] == [8, 7, 6, 5, 4]
    site.write("failed", [])
    site.write("toprocess", [])
    hold(site, *range(12))
    tell(site, running={n: (0, n, now - 100 + n) for n in range(12)})
    text = run("tasks.txt")[1]
    running = text.partition("running longest:\n")[2].splitlines()[1:]
    assert [int(line.split()[0]) for line in running] == [0, 1, 2, 3, 4]


# ---- to the letter -------------------------------------------------------------------


def test_failed_tasks_are_to_be_run_again_unless_some_are_in_no_file(site, run):
    site.write("toprocess", [])
    site.write("finished", [0, 1, *range(3, 12)])
    retry = "no farm runs; to run what failed again: mpifarm retry tasks.txt_workdir\n"
    assert retry in run("tasks.txt")[1]
    site.write("finished", [0, 1, *range(4, 12)])
    text = run("tasks.txt")[1]
    assert "to run what failed again" not in text
    assert "no farm of mpifarm's runs\n" in text


def test_a_state_without_farms_has_no_part_on_farms(site, run):
    lines = run("tasks.txt")[1].splitlines()
    assert lines[3:5] == ["", "failed last:"]
    hold(site, 3)
    tell(site)
    lines = run("tasks.txt")[1].splitlines()
    farm = next(n for n, line in enumerate(lines) if line.startswith("farm "))
    assert lines[farm - 1] == ""


def test_a_drain_that_a_farm_has_seen_is_told_as_its_reason_alone(site, run):
    hold(site, 3)
    tell(site, reason="")
    (site.root / "drain").touch()
    assert "nothing new starts: remove the file" in run("tasks.txt")[1]
    tell(site, reason="a drain file")
    assert "nothing new starts: remove the file" not in run("tasks.txt")[1]


@pytest.mark.parametrize(
    ("rate", "left", "said"),
    [
        (0.25, None, "0.25 tasks/s"),
        (0.0, None, "no task ended lately"),
        (12.3456, None, "12.3 tasks/s"),
    ],
)
def test_the_pace_is_told_with_or_without_a_time_left(site, run, rate, left, said):
    hold(site, 3)
    tell(site, rate=rate, time_left=left)
    assert run("tasks.txt")[1].splitlines()[2] == said
    found = json.loads(run("tasks.txt", "--json")[1])
    assert (found["rate"], found["time_left"]) == (rate, left)


def test_in_the_first_seconds_it_is_too_early_for_a_rate(site, run, now):
    hold(site, 3)
    for age, said in ((4, "no rate yet"), (12, "no task ended lately")):
        tell(site, rate=0.0, started=encode(now - age))
        assert run("tasks.txt")[1].splitlines()[2] == said
    tell(site, rate=2.0, started=encode(now - 4))
    assert run("tasks.txt")[1].splitlines()[2] == "2 tasks/s"


def test_what_runs_longer_than_anything_known_ends_nobody_knows_when(site, run):
    hold(site, 3)
    left = {"low": 50.0, "likely": 90.0, "high": 300.0}
    tell(site, rate=2.0, time_left=left, outruns=True)
    assert run("tasks.txt")[1].splitlines()[2] == (
        "2 tasks/s, time left unknown: what runs takes longer than all before"
    )
    tell(site, rate=2.0, time_left=left, outruns=False)
    assert run("tasks.txt")[1].splitlines()[2].startswith("2 tasks/s, about ")


def test_json_has_the_time_left(site, run):
    hold(site, 3)
    left = {"low": 6600.0, "likely": 7800.0, "high": 9600.0}
    tell(site, time_left=left)
    told = json.loads(run("tasks.txt", "--json")[1])["time_left"]
    assert told == pytest.approx(left, abs=60)


def test_json_says_what_a_farm_has_said_of_itself(site, run):
    hold(site, 3)
    ranks = [
        {"rank": n, "host": f"n{n // 2}", "pid": 1, "workers": n + 1, "state": state}
        for n, state in enumerate(["working", "lost", "dead", "out of use", "joining"])
    ]
    tell(
        *(site,),
        ranks=ranks,
        phase="draining",
        reason="why",
        held={"all": True, "tasks": 2},
    )
    (farm,) = json.loads(run("tasks.txt", "--json")[1])["farms"]
    del farm["heard"], farm["started"]
    assert farm == {
        "farm": FARM,
        "life": "alive",
        "holds": 1,
        "ran": [],
        "job": {"system": "slurm", "id": "4711"},
        "host": "n1",
        "pid": 77,
        "version": "0.6.0",
        "command": ["mpifarm", "tasks.txt"],
        "phase": "draining",
        "reason": "why",
        "held": {"all": True, "tasks": 2},
        "seatless": {},
        "ranks": 5,
        "workers": 15,
        "hosts": {"n0": 2, "n1": 2, "n2": 1},
        "lost_ranks": [
            {"rank": 1, "host": "n0", "state": "lost"},
            {"rank": 2, "host": "n1", "state": "dead"},
            {"rank": 3, "host": "n1", "state": "out of use"},
        ],
    }


@pytest.mark.parametrize(
    ("ran", "told"),
    [
        ("--proc=2 :::: run1/given-n1-27-0123abcd.txt", "--proc=2 run1/stdin.txt"),
        ("-w run1 /dev/fd/63", "-w run1 FILE"),
        ("-w run1 -", "-w run1 -"),
        ("tar -f - ::: /dev/fd/63", "tar -f - ::: /dev/fd/63"),
    ],
)
def test_the_command_in_the_json_names_no_list_that_is_gone(site, run, ran, told):
    hold(site, 3)
    tell(site, command=["mpifarm", *ran.split()])
    (farm,) = json.loads(run("tasks.txt", "--json")[1])["farms"]
    assert farm["command"] == ["mpifarm", *told.split()]
    assert f"`{UNKNOWN_LIST}` stands for a pipe" in read_row("farms")


def test_json_of_a_farm_outside_of_a_job_and_of_one_without_a_word(site, run):
    hold(site, 3)
    tell(site, job=None)
    (farm,) = json.loads(run("tasks.txt", "--json")[1])["farms"]
    assert farm["job"] is None
    (site.root / "farms" / f"{FARM}.json").unlink()
    (silent,) = json.loads(run("tasks.txt", "--json")[1])["farms"]
    assert silent.keys() == farm.keys()
    assert (silent["farm"], silent["holds"], silent["host"]) == (FARM, 1, None)


def test_json_says_what_a_dead_farm_ran(site, run):
    hold(site, 3, 4, heard=time.time() - 300, dead=True)
    tell(site, age=300, running={4: (1, 6, time.time() - 75)})
    found = json.loads(run("tasks.txt", "--json")[1])
    (farm,) = found["farms"]
    (ran,) = farm["ran"]
    assert (ran["id"], ran["attempt"], ran["farm"]) == (4, 1, FARM)
    assert (ran["host"], ran["rank"], ran["worker"]) == ("n2", 1, 6)
    assert ran["command"] == TASKS[4]
    assert found["running"] == []


def test_json_of_a_failure_has_all_that_is_known_of_it(site, run):
    (site.root / "logs").mkdir()
    (site.root / "logs" / "log_2").write_text("first\nlast\n")
    (failed,) = json.loads(run("tasks.txt", "--json")[1])["failed"]
    attempt = Attempt(2)
    assert (failed["id"], failed["attempt"], failed["last_line"]) == (2, 1, "last")
    assert failed["outcome"] == "failed"
    assert failed["seconds"] == attempt.seconds
    assert failed["started"]
    (site.root / "attempts.tsv").unlink()
    (failed,) = json.loads(run("tasks.txt", "--json")[1])["failed"]
    unknown = ("attempt", "outcome", "status", "signal", "host", "rank", "worker")
    assert {failed[name] for name in (*unknown, "started", "seconds", "farm")} == {None}


@pytest.mark.parametrize(
    ("outcome", "status", "signal", "said"),
    [
        ("failed", 3, 0, "exit status 3"),
        ("failed", 0, 9, "killed by signal 9 (SIGKILL)"),
        ("timed out", 0, 15, "timed out after 90 s"),
        ("cancelled", 0, 15, "cancelled"),
    ],
)
def test_each_failure_has_its_words(outcome, status, signal, said):
    attempt: Any = SimpleNamespace(
        outcome=outcome, status=status, signal=signal, seconds=90.0
    )
    assert words._describe_failure(attempt) == said
    assert words._describe_failure(None) == "in another farmer"


@pytest.mark.parametrize(("length", "is_cut"), [(60, False), (61, True)])
def test_a_text_is_cut_where_it_is_too_long(length, is_cut):
    cut = words._cut("x" * length, 60)
    assert cut == ("x" * 59 + "…" if is_cut else "x" * length)


@pytest.mark.parametrize(
    ("held_up", "which"),
    [
        (9, "all of those waiting wait for others"),
        (8, "8 of those waiting wait for others"),
        (1, "1 of those waiting waits for others"),
    ],
)
def test_tasks_that_the_order_holds_up_are_counted(
    site, run, monkeypatch, held_up, which
):
    monkeypatch.setattr("mpifarm.audit.view.View.held_up", held_up, raising=False)
    monkeypatch.setattr(
        *(words, "_describe_pace"),
        lambda status: iter(()),
    )
    text = run("tasks.txt")[1]
    assert f"{which}, by the order of the list\n" in text
