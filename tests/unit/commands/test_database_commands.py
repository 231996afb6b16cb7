"""The subcommands on a database: they read and change its rows, under the lock."""

import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from typing import Any

import pytest

from mpifarm.audit.failures import explain_failures
from mpifarm.audit.view import read_view
from mpifarm.commands import add, check, export, hold, joblog, log, ls, retry, why
from mpifarm.commands.status import main as status_main
from mpifarm.database import errors, schema
from mpifarm.errors import InputError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.target import Target
from mpifarm.system.console import Console
from mpifarm.system.lock import WorkdirLock
from tests.farm_states import write_claim, write_farm
from tests.workdir_files import Attempt, format_attempts

import_ = import_module("mpifarm.commands.import")
WAITING = import_module("mpifarm.database.waiting")

Run = Callable[..., tuple[int, str]]

FARM = "abcd0001"
DEAD = "abcd0002"
ATTEMPTS = [
    Attempt(1, status=3, host="n2"),
    Attempt(2, status=1),
    Attempt(3, outcome="not run: task 2 failed", status=1, worker=-1),
    Attempt(4, outcome="cancelled", status=-15, worker=-1),
]
STATES = {
    0: "finished",
    1: "failed",
    2: "failed",
    3: "failed",
    4: "cancelled",
    5: "running",  # under a farm that lives
    6: "running",  # under a dead one
    7: "running",  # under a plain farmer
}
LIST = "".join(f"echo {each}\n" for each in range(8)) + "#AFTER 0\necho 8\necho 9\n"


@pytest.fixture
def database(tmp_path, monkeypatch):
    """A database in the midst of things; 8 waits for 0, and 9 for nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.txt").write_text(LIST)
    import_.main(["tasks.txt", "tasks.db"], Console(prints=False), {})
    farms = {5: FARM, 6: DEAD, 7: "PyTaskFarmer n1 77"}
    sqlite(
        *(f"UPDATE tasks SET state = '{s}' WHERE id = {i}" for i, s in STATES.items())
    )
    sqlite(*(f"UPDATE tasks SET farm = '{s}' WHERE id = {i}" for i, s in farms.items()))
    workdir = tmp_path / "tasks.db_workdir"
    workdir.mkdir()
    (workdir / "attempts.tsv").write_text(format_attempts(*ATTEMPTS))
    (workdir / "lock").touch()
    paths = WorkdirPaths(str(workdir))
    write_claim(paths, FARM, [])
    write_claim(paths, DEAD, [], is_dead=True)
    return workdir


def sqlite(*statements: str) -> list[Any]:
    """Execute statements as another program would.  Return the last one's rows."""
    rows: list[Any] = []
    with closing(sqlite3.connect("tasks.db", isolation_level=None)) as connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


def states() -> dict[int, str]:
    return dict(sqlite("SELECT id, state FROM tasks"))


@pytest.fixture
def run(capfd) -> Run:
    """Call a subcommand: its status, and what it has printed."""

    def call(main: Any, *words: str) -> tuple[int, str]:
        capfd.readouterr()
        console = Console(prints=True)
        try:
            code = main([*words], console, {"HOME": os.getcwd()})
        finally:
            console.close()
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return call


# ---- those that look -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "ids"),
    [
        ("--failed", "1-4"),
        ("--finished", "0"),
        ("--running", "5"),
        ("--waiting", "6,8-9"),
    ],
)
def test_ls_lists_rows_by_their_states(database, run, option, ids):
    assert run(ls.main, "tasks.db", option, "--ids") == (0, f"{ids}\n")


def test_ls_names_the_states_as_of_files(database, run):
    _, printed = run(ls.main, "tasks.db", "--json")
    found = {each["id"]: each["state"] for each in json.loads(printed)["tasks"]}
    assert found == {
        0: "finished",
        1: "failed",
        2: "failed",
        3: "failed",
        4: "failed",
        5: "claimed",
        6: "orphaned",
        7: "nowhere",
        8: "waiting",
        9: "waiting",
    }


@pytest.mark.parametrize("name", ["tasks.db", "tasks.db_workdir"])
def test_status_counts_rows(database, run, name):
    _, printed = run(status_main, name)
    assert "1 finished, 3 failed, 1 not run (it waits for task 2)" in printed
    assert "2 waiting" in printed


def test_why_groups_failed_rows(database, run):
    _, printed = run(why.main, "tasks.db")
    assert "exit status 3" in printed
    assert "mpifarm retry tasks.db_workdir --ids 1" in printed


@pytest.mark.parametrize(
    ("taskid", "words"),
    [
        ("0", "has finished, and has no output"),
        ("5", f"has not started yet: farm {FARM}"),
        ("6", f"farm {DEAD} had taken it and died"),
        ("9", "waits to be run"),
    ],
)
def test_log_says_why_there_is_no_output(database, run, taskid, words):
    with pytest.raises(InputError, match=words):
        run(log.main, "tasks.db", taskid)


def test_log_knows_how_many_tasks_there_are(database, run):
    with pytest.raises(InputError, match=r"no task 10: tasks\.db has 10 tasks"):
        run(log.main, "tasks.db", "10")


def test_joblog_has_the_commands_of_rows(database, run):
    _, printed = run(joblog.main, "tasks.db", "--gnu")
    assert printed.count("\n") == 1 + len(ATTEMPTS) + 1


def test_what_a_user_has_inserted_waits_by_its_order(database, run):
    sqlite("INSERT INTO tasks (command, \"after\") VALUES ('new', '9')")
    assert run(ls.main, "tasks.db", "--waiting", "--ids") == (0, "6,8-10\n")
    _, printed = run(check.main, "tasks.db")
    assert "too early" not in printed


def test_a_row_that_was_cancelled_by_hand_is_cancelled(database, run):
    sqlite("UPDATE tasks SET state = 'cancelled' WHERE id = 9")
    code, printed = run(export.main, "tasks.db", "--state", "cancelled")
    assert (code, printed) == (0, "echo 4\necho 9\n")


def test_a_database_without_a_workdir_is_looked_at_and_none_is_made(
    tmp_path, monkeypatch, run
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.txt").write_text("true\n")
    run(import_.main, "tasks.txt", "tasks.db")
    assert run(ls.main, "tasks.db", "--waiting", "--ids") == (0, "0\n")
    assert run(check.main, "tasks.db")[0] == 0
    assert run(status_main, "tasks.db")[0] == 0
    assert not (tmp_path / "tasks.db_workdir").exists()


def test_the_workdir_may_have_nothing_in_it_yet(tmp_path, monkeypatch, run):
    """Another adder has made it a moment ago."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.txt").write_text("true\n")
    run(import_.main, "tasks.txt", "tasks.db")
    (tmp_path / "tasks.db_workdir").mkdir()
    run(add.main, "tasks.db", "echo")
    assert run(ls.main, "tasks.db", "--ids") == (0, "0-1\n")


def test_the_workdir_is_the_one_that_the_database_names(database, run):
    """A farm had --workdir: its lock and its claims are there."""
    database.rename(database.with_name("elsewhere"))
    sqlite("INSERT INTO about VALUES ('workdir', 'elsewhere')")
    assert run(ls.main, "tasks.db", "--running", "--ids") == (0, "5\n")
    run(add.main, "tasks.db", "echo")
    assert not database.exists()


def test_the_database_of_a_workdir_is_that_of_its_last_farm(database, run):
    workdir = database.rename(database.with_name("elsewhere"))
    paths, path = WorkdirPaths(str(workdir)), str(database.with_name("tasks.db"))
    write_farm(paths, FARM, written=1e9, tasklist=path, handler="sqlite")
    assert run(ls.main, "elsewhere", "--running", "--ids") == (0, "5\n")


def test_a_reader_holds_the_lock_and_gives_it_back(database, run, monkeypatch):
    held = []
    copy = import_module("mpifarm.store.database_reading").read_copy

    def look(*words: Any, **named: Any) -> Any:
        lock = WorkdirLock([str(database / "lock")])
        held.append(not lock.try_acquire())
        lock.release()
        return copy(*words, **named)

    monkeypatch.setattr("mpifarm.store.database_reading.read_copy", look)
    run(ls.main, "tasks.db")
    assert held == [True]
    lock = WorkdirLock([str(database / "lock")])
    assert lock.try_acquire()
    lock.release()


def test_a_reader_that_gets_no_lock_says_so_and_reads(database, run, monkeypatch):
    monkeypatch.setattr("mpifarm.store.database_reading.LOCK_SECONDS", 0.01)
    lock = WorkdirLock([str(database / "lock")])
    with lock.hold(1):
        code, printed = run(ls.main, "tasks.db", "--failed", "--ids")
    assert code == 0
    assert printed.startswith("1-4\n")
    assert "tasks.db was read without the lock" in printed


def test_a_reader_waits_for_another_program_without_the_lock(
    database, run, monkeypatch
):
    lock = WorkdirLock([str(database / "lock")])
    held = []
    with closing(sqlite3.connect("tasks.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")

        def sleep(_seconds: float) -> None:
            held.append(not lock.try_acquire())
            lock.release()
            if len(held) == 3:
                other.execute("COMMIT")

        monkeypatch.setattr(WAITING.time, "sleep", sleep)
        code, printed = run(ls.main, "tasks.db", "--failed", "--ids")
    assert (code, printed) == (0, "1-4\n")
    assert held == [False] * 3


def test_a_reader_keeps_no_farm_waiting_for_a_writer_that_came_as_it_opened(
    database, run, monkeypatch
):
    monkeypatch.setattr(WAITING, "BUSY_SECONDS", 0.01)
    opened, connect = [], schema.connect
    with closing(sqlite3.connect("tasks.db", isolation_level=None)) as other:

        def open_and_write(*words: Any, **options: Any) -> Any:
            connection = connect(*words, **options)
            opened.append(connection)
            if len(opened) == 2:  # the first one undoes what a dead writer has begun
                other.execute("BEGIN EXCLUSIVE")
            return connection

        for module in ("copy", "schema"):
            monkeypatch.setattr(f"mpifarm.database.{module}.connect", open_and_write)
        with pytest.raises(InputError, match="is open in another program"):
            run(ls.main, "tasks.db")


# ---- check ---------------------------------------------------------------------------


def end_under_plain_farmers() -> None:
    sqlite(
        "UPDATE tasks SET state = 'failed', attempt = 2, outcome = 'failed',"
        " signal = 9, status = 137, host = 'n7', started = '2023-11-14T22:13:20.000Z'"
        " WHERE id = 1",
        "UPDATE tasks SET state = 'finished', attempt = 1, outcome = 'completed',"
        " signal = 0, status = 0, host = 'n8', started = 'once' WHERE id = 9",
        "UPDATE tasks SET started = '2023-11-14T22:13:20.000Z' WHERE id = 7",
    )


def test_the_hosts_of_plain_farmers_are_shown(database, run):
    end_under_plain_farmers()
    _, printed = run(ls.main, "tasks.db")
    lines = [line.split() for line in printed.splitlines()]
    day = time.strftime("%Y-%m-%d", time.localtime(1.7e9))
    assert lines[2][:8] == ["1", "failed", "killed", "by", "SIGKILL", "137", "n7", day]
    assert lines[8][:4] == ["7", "nowhere", "n1", day]
    assert lines[10] == ["9", "finished", "0", "n8", "echo", "9"]


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (("--host", "n7"), "1"),
        (("--host", "n1", "--status", "0"), None),
        (("--host", "n1"), "2,4,7"),
        (("--status", "137"), "1"),
        (("--host", "n8", "--longer-than", "0"), None),
    ],
)
def test_tasks_of_plain_farmers_are_found_by_host_and_status(database, run, words, ids):
    end_under_plain_farmers()
    code, printed = run(ls.main, "tasks.db", *words, "--ids")
    found = (code, printed.strip()) if code == 0 else (code, None)
    assert found == (0 if ids else 1, ids)


def test_json_has_what_plain_farmers_know_of_their_tasks(database, run):
    end_under_plain_farmers()
    _, printed = run(ls.main, "tasks.db", "--json")
    tasks = json.loads(printed)["tasks"]
    keys = "state", "attempt", "outcome", "status", "signal", "host", "started", "rank"
    assert [[tasks[taskid][key] for key in keys] for taskid in (1, 7, 9)] == [
        ["failed", 2, "failed", 137, 9, "n7", 1.7e9, None],
        ["nowhere", 1, None, None, None, "n1", 1.7e9, None],
        ["finished", 1, "completed", 0, 0, "n8", None, None],
    ]


def test_the_hosts_of_plain_farmers_are_shown_behind_the_first_rows(
    database, run, monkeypatch
):
    for module in ("table", "ls_table"):
        monkeypatch.setattr(f"mpifarm.commands.{module}.ROWS_MEASURED", 1)
    _, before = run(ls.main, "tasks.db", "--ids", "--failed")
    sqlite(
        "UPDATE tasks SET state = 'failed', outcome = 'failed', status = 1,"
        " signal = 0, host = 'n7' WHERE id = 2"
    )
    _, printed = run(ls.main, "tasks.db", "--failed", "--host", "n[27]")
    hosts = [line.split()[3] for line in printed.splitlines()[1:]]
    assert (before, hosts) == ("1-4\n", ["n2", "n7"])


def test_why_names_the_hosts_of_plain_farmers(database, run):
    end_under_plain_farmers()
    _, printed = run(why.main, "tasks.db")
    assert "task 1 on n7 has left no output" in printed


def test_attempts_of_plain_farmers_are_counted_by_their_hosts(database):
    end_under_plain_farmers()
    target = Target("tasks.db_workdir", "tasks.db", "default", None)
    ran = explain_failures(read_view(target, {})).ran
    assert (ran["n7"], ran["n8"], ran["n2"]) == (1, 1, 1)


def test_status_names_plain_farmers_with_their_tasks(database, run):
    _, printed = run(status_main, "tasks.db")
    assert "PyTaskFarmer n1 77 runs 1 task, or was killed with it" in printed
    assert "in no file" not in printed.partition("PyTaskFarmer")[2]


def test_check_tells_of_what_farmers_have_left(database, run):
    code, printed = run(check.main, "tasks.db")
    assert code == 1
    assert (
        "1 finished, 3 failed, 1 not run, 2 to process, 2 claimed, 1 with a PyT"
        in printed
    )
    assert "dead farm that had tasks" in printed
    assert "nothing: the next start takes them back" in printed
    assert "running under a PyTaskFarmer" in printed


def test_a_repair_is_for_files(database, run):
    with pytest.raises(InputError, match="needs no --repair"):
        run(check.main, "tasks.db", "--repair")


def test_a_repair_puts_back_what_plain_farmers_had(database, run):
    (database / "claims" / FARM).unlink()
    sqlite("UPDATE tasks SET farm = NULL WHERE id = 5")
    _, printed = run(check.main, "tasks.db", "--repair", "--assume-idle")
    assert "2 tasks put back: 5, 7" in printed
    assert states() == STATES | dict.fromkeys((5, 7, 9), "to process") | {8: "waiting"}


def test_no_repair_assumes_that_a_farm_is_gone_that_lives(database, run):
    with pytest.raises(InputError, match=f"farm {FARM} runs"):
        run(check.main, "tasks.db", "--repair", "--assume-idle")
    assert states()[7] == "running"


def test_check_names_the_damage(database, run):
    file = database.with_name("tasks.db")
    content = file.read_bytes()
    middle = len(content) // 2 // 4096 * 4096
    before = content[:middle] + b"\xff" * 4096 + content[middle + 4096 :]
    file.write_bytes(before)
    with pytest.raises(InputError, match=r"tasks.db is damaged \(.+restore a copy"):
        run(check.main, "tasks.db")
    assert file.read_bytes() == before


def test_faults_of_a_database_are_told_in_one_sentence():
    sentence = str(errors.damaged_at("x.db", ["a", "b", "c", "d", "e"]))
    assert "(a; b; c, and 2 more)" in sentence


# ---- retry ---------------------------------------------------------------------------


def test_failed_and_cancelled_rows_go_back(database, run):
    code, printed = run(retry.main, "tasks.db")
    assert code == 0
    assert "4 tasks put back to be run: 1-4" in printed
    assert states() == STATES | {
        **dict.fromkeys((1, 2, 3, 4, 9), "to process"),
        8: "waiting",
    }


def test_rows_with_an_order_go_back_to_wait(database, run):
    sqlite("UPDATE tasks SET state = 'failed' WHERE id = 8")
    run(retry.main, "tasks.db", "--ids", "8")
    assert states()[8] == "waiting"
    assert states()[1] == "failed"


def test_rows_go_back_by_status_and_by_cause(database, run):
    run(retry.main, "tasks.db", "--status", "3")
    assert {i for i, each in states().items() if each == "to process"} == {1, 9}
    _, printed = run(retry.main, "tasks.db", "--why", "1")
    assert "group 1" in printed


def test_a_row_goes_back_by_a_status_that_no_attempt_has(database, run):
    sqlite("UPDATE tasks SET state = 'failed', status = 139, signal = 11 WHERE id = 7")
    _, printed = run(retry.main, "tasks.db", "--status", "139")
    assert "1 task put back to be run: 7" in printed


def test_with_a_row_goes_back_what_was_not_run_because_of_it(database, run):
    _, printed = run(retry.main, "tasks.db", "--ids", "2")
    assert "put back to be run: 2-3" in printed
    assert states()[3] == "to process"


@pytest.mark.parametrize(
    ("ids", "why_not"),
    [("0", "finished"), ("5", "with a farm"), ("9", "still to be"), ("99", "not in")],
)
def test_rows_that_have_not_failed_are_told(database, run, ids, why_not):
    before = states()
    with pytest.raises(InputError, match=why_not):
        run(retry.main, "tasks.db", "--ids", ids)
    assert states() == before


# ---- add -----------------------------------------------------------------------------


def added() -> list[Any]:
    query = 'SELECT id, command, state, "after", kind FROM tasks WHERE id > 9'
    return sqlite(query)


def test_tasks_are_added_as_rows(database, run):
    code, printed = run(add.main, "tasks.db", "echo a", "[limit=gpu] echo b")
    assert code == 0
    assert "tasks 10-11 were added to tasks.db" in printed
    assert added() == [
        (10, "echo a", "to process", None, None),
        (11, "echo b", "waiting", None, "gpu"),
    ]
    assert sqlite("SELECT count(*) FROM about WHERE key = 'adding'") == [(0,)]


def test_added_tasks_wait_for_others(database, run):
    _, printed = run(add.main, "tasks.db", "echo a", "--after", "3,5-6", "--json")
    assert json.loads(printed)["tasks"] == "10"
    assert added() == [(10, "echo a", "waiting", "3,5-6", None)]


def test_added_tasks_wait_behind_a_barrier(database, run):
    sqlite("INSERT INTO barriers VALUES (10, 0, 0)")
    run(add.main, "tasks.db", "echo a")
    assert added() == [(10, "echo a", "waiting", None, None)]


def test_a_command_that_is_not_utf_8_is_added(database, run):
    run(add.main, "tasks.db", "echo \udcff")
    assert added()[0][1] == b"echo \xff"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("x", "--after", "10"), "names task 10, and the database has ids 0 to 9"),
        (("[limit= x",), "begins with a broken prefix"),
        (("#x",), "begins with #"),
    ],
)
def test_a_mistake_in_what_is_added_changes_nothing(database, run, words, sentence):
    with pytest.raises(InputError, match=sentence):
        run(add.main, "tasks.db", *words)
    assert added() == []


def test_what_a_killed_adder_has_added_is_told_and_not_added_again(
    database, run, monkeypatch
):
    changes = import_module("mpifarm.store.database_changes")
    forget = changes.forget_added
    monkeypatch.setattr(changes, "forget_added", lambda _: None)
    run(add.main, "tasks.db", "echo a")
    monkeypatch.setattr(changes, "forget_added", forget)
    _, printed = run(add.main, "tasks.db", "echo a")
    assert "task 10 was added to tasks.db by an earlier mpifarm add" in printed
    assert len(added()) == 1
    run(add.main, "tasks.db", "echo a")
    assert len(added()) == 2


def test_what_a_killed_adder_has_added_is_not_taken_for_something_else(
    database, run, monkeypatch
):
    changes = import_module("mpifarm.store.database_changes")
    monkeypatch.setattr(changes, "forget_added", lambda _: None)
    for words in (["echo a"], ["echo b"], ["echo b", "--after", "1"]):
        _, printed = run(add.main, "tasks.db", *words)
        assert "an earlier mpifarm add" not in printed
    assert len(added()) == 3


def test_tasks_are_added_to_a_database_that_no_farm_has_begun(
    tmp_path, monkeypatch, run
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    run(import_.main, "empty.txt", "tasks.db")
    run(add.main, "tasks.db", "echo a")
    assert sqlite("SELECT id, command FROM tasks") == [(0, "echo a")]


def test_rows_can_be_held(database, run):
    (database / "claims" / FARM).unlink()
    run(hold.main, "tasks.db", "9")
    assert run(ls.main, "tasks.db", "--held", "--ids") == (0, "9\n")


# ---- another program, another state --------------------------------------------------

LOOK = (
    *((ls.main, ()), (status_main, ()), (why.main, ()), (check.main, ())),
    *((export.main, ()), (joblog.main, ("--gnu",)), (log.main, ("--failed",))),
)
CHANGE = ((retry.main, ()), (add.main, ("echo",)))


@pytest.mark.parametrize(("main", "words"), CHANGE)
@pytest.mark.parametrize("begin", ["EXCLUSIVE", "IMMEDIATE", "DEFERRED"])
def test_who_changes_waits_for_another_program_without_the_lock(
    database, run, monkeypatch, main, words, begin
):
    lock = WorkdirLock([str(database / "lock")])
    held = []
    with closing(sqlite3.connect("tasks.db", isolation_level=None)) as other:
        other.execute(f"BEGIN {begin}")
        other.execute("SELECT * FROM tasks").fetchall()

        def sleep(_seconds: float) -> None:
            held.append(not lock.try_acquire())
            lock.release()
            if len(held) == 3:
                other.execute("COMMIT")

        monkeypatch.setattr(WAITING.time, "sleep", sleep)
        run(main, "tasks.db", *words)
    assert held == [False] * 3
    assert ("failed" in states().values()) == (main is add.main)


@pytest.mark.parametrize(("main", "words"), [*LOOK, *CHANGE])
def test_a_database_that_another_program_writes_is_told(
    database, run, monkeypatch, main, words
):
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.01)
    monkeypatch.setattr(WAITING, "BUSY_SECONDS", 0.01)
    with closing(sqlite3.connect("tasks.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("UPDATE tasks SET state = 'finished'")
        with pytest.raises(InputError, match="is open in another program"):
            run(main, "tasks.db", *words)
        other.execute("ROLLBACK")
    assert states()[1] == "failed"
