"""``mpifarm import`` and ``mpifarm export``: lists to databases, and back."""

import json
import os
import sqlite3
from contextlib import closing
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpifarm.audit import importing
from mpifarm.audit.database_rows import write_view
from mpifarm.commands import export, log
from mpifarm.errors import InputError, StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.system.console import Console
from tests.farm_states import write_claim
from tests.unit.store_fakes import Site
from tests.workdir_files import Attempt, format_attempts

import_ = import_module("mpifarm.commands.import")

PLAIN = [f"echo {each}" for each in range(7)]

ATTEMPTS = [
    Attempt(0, started=1e9, seconds=2.5, peak_memory="4096"),
    Attempt(1, status=3),
    Attempt(1, 2, status=-9, host="n2"),
    Attempt(2, status=-15, outcome="cancelled", worker=-1),
    Attempt(3, command="a\\tb"),
]
"""0 has finished, 1 failed and 2 was cancelled; 3 was put back since."""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def site(here) -> Site:
    """A workdir in which 6 is a plain farmer's."""
    site = Site(here / "tasks.txt_workdir", PLAIN)
    (here / "tasks.txt").write_text("".join(f"{text}\n" for text in PLAIN))
    site.write("finished", [0])
    site.write("failed", [1, 2])
    site.write("toprocess", [3, 4, 5])
    (site.root / "attempts.tsv").write_text(format_attempts(*ATTEMPTS))
    return site


def run(command: Any, *words: str) -> int:
    console = Console(prints=True)
    try:
        status: int = command.main([*words], console, {"HOME": os.getcwd()})
        return status
    finally:
        console.close()


def rows(path: str, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def exported(capfd, *words: str) -> bytes:
    capfd.readouterr()
    assert run(export, *words) == 0
    out: str = capfd.readouterr().out
    return out.encode("utf-8", "surrogateescape")


# ---- there and back ------------------------------------------------------------------

LIST = """\
echo 0
 #hash
echo ümlaut
#BARRIER
#AFTER 0-1
[limit=gpu] echo 3
#BARRIER CHECK
[ -e x ] && echo 4
"""


def test_a_list_that_is_imported_is_exported_as_it_was(here, capfd):
    (here / "tasks.txt").write_text(f"# comment\n\n{LIST}")
    assert run(import_, "tasks.txt", "tasks.db") == 0
    assert "tasks.db has the 5 tasks of tasks.txt" in capfd.readouterr().out
    assert exported(capfd, "tasks.db") == LIST.encode()


def test_a_new_database_says_which_tasks_wait_for_others(here):
    (here / "tasks.txt").write_text(LIST)
    run(import_, "tasks.txt", "tasks.db")
    assert rows("tasks.db", 'SELECT id, state, "after", kind FROM tasks') == [
        *((0, "to process", None, None), (1, "to process", None, None)),
        *((2, "to process", None, None), (3, "waiting", "0-1", "gpu")),
        (4, "waiting", None, None),
    ]
    assert rows("tasks.db", "SELECT * FROM barriers") == [(3, 0, 0), (4, 1, 0)]


def test_a_command_that_is_not_utf_8_comes_back(here, capfd):
    (here / "tasks.txt").write_bytes(b"echo \xff\n")
    run(import_, "tasks.txt", "tasks.db")
    assert rows("tasks.db", "SELECT command FROM tasks") == [(b"echo \xff",)]
    run(export, "tasks.db", "-o", "again.txt")
    assert (here / "again.txt").read_bytes() == b"echo \xff\n"


LINES = st.one_of(
    st.sampled_from(["echo", "#c", "#BARRIER", "#BARRIER CHECK", " #x", "[limit=a] b"]),
    st.sampled_from(["#AFTER 0", "#AFTER 0-1", "x\t y ", "é", "\udcff"]),
)


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(lines=st.lists(LINES, max_size=12))
def test_what_was_exported_is_the_same_list(here, lines):
    for path in (*here.glob("*.db"), *here.glob("*.txt")):
        path.unlink()
    text = "".join(f"{line}\n" for line in ["true", "true", *lines])
    (here / "a.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    run(import_, "a.txt", "a.db")
    run(export, "a.db", "-o", "b.txt")
    run(import_, "b.txt", "b.db")
    run(export, "b.db", "-o", "c.txt")
    for table in ("tasks", "barriers"):
        query = f"SELECT * FROM {table}"
        assert rows("a.db", query) == rows("b.db", query)
    assert (here / "b.txt").read_bytes() == (here / "c.txt").read_bytes()


def test_commands_are_those_that_the_handler_makes(here, capfd):
    (here / "tasks.txt").write_text("a b\nc\n")
    (here / "my.ini").write_text(
        "[zip]\nTaskList = mpifarm.templates.TemplateTaskList\ncommand = gzip {}\n"
    )
    run(import_, "tasks.txt", "tasks.db", "-t", "zip", "--config", "my.ini")
    assert exported(capfd, "tasks.db") == b"gzip 'a b'\ngzip c\n"


def test_a_list_of_disbatch_keeps_its_order(here):
    (here / "tasks.txt").write_text("echo 0\n#DISBATCH BARRIER CHECK\necho 1\n")
    run(import_, "tasks.txt", "tasks.db", "-t", "disbatch")
    assert rows("tasks.db", "SELECT state FROM tasks") == [
        ("to process",),
        ("waiting",),
    ]
    assert rows("tasks.db", "SELECT command FROM tasks")[1][0].endswith("; echo 1")


def test_a_list_that_a_farm_has_read_by_a_handler_is_imported_and_exported_by_it(
    here, capfd
):
    (here / "tasks.txt").write_text("echo 0\n#DISBATCH BARRIER CHECK\necho 1\n")
    site = Site(here / "tasks.txt_workdir", ["echo 0"])
    site.write("finished", [0])
    (site.root / "farms").mkdir()
    told = {"format": 1, "directory": str(here), "handler": "disbatch", "config": None}
    (site.root / "farms" / "aaaaaaaa.json").write_text(json.dumps(told))
    run(import_, "tasks.txt", "tasks.db")
    assert exported(capfd, "tasks.db").splitlines()[1] == b"#BARRIER CHECK"
    assert exported(capfd, "tasks.txt").splitlines()[1] == b"#BARRIER CHECK"


def test_an_empty_list_makes_an_empty_database(here, capfd):
    (here / "tasks.txt").write_text("# nothing yet\n")
    run(import_, "tasks.txt", "tasks.db")
    assert rows("tasks.db", "SELECT * FROM tasks") == []
    assert exported(capfd, "tasks.db") == b""


# ---- with the state of a workdir -----------------------------------------------------


def test_states_and_last_attempts_are_imported(site, capfd):
    run(import_, "tasks.txt", "tasks.db")
    said = capfd.readouterr().out
    assert "3 to process, 1 running, 1 finished, 1 failed, 1 cancelled" in said
    columns = "state, farm, attempt, outcome, status, signal, host, seconds"
    assert rows("tasks.db", f"SELECT {columns} FROM tasks") == [
        ("finished", None, 1, "completed", 0, 0, "n1", 2.5),
        ("failed", None, 2, "failed", 137, 9, "n2", 1.0),
        ("cancelled", None, 1, "cancelled", 143, 15, "n1", 1.0),
        ("to process", None, 1, "completed", 0, 0, "n1", 1.0),
        ("to process", None, 0, None, None, None, None, None),
        ("to process", None, 0, None, None, None, None, None),
        ("running", "PyTaskFarmer elsewhere", 0, None, None, None, None, None),
    ]
    query = "SELECT started, peak_memory FROM tasks WHERE id = 0"
    assert rows("tasks.db", query) == [("2001-09-09T01:46:40.000Z", 4096)]


def test_an_attempt_from_before_is_not_the_end_of_a_task(site):
    """A plain farmer has done task 1 since."""
    site.write("finished", [0, 1])
    site.write("failed", [2])
    run(import_, "tasks.txt", "tasks.db")
    query = "SELECT state, outcome, attempt FROM tasks WHERE id = 1"
    assert rows("tasks.db", query) == [("finished", None, 0)]


def test_attempts_are_imported(site, here):
    run(import_, "tasks.txt", "tasks.db")
    copy = here / "tasks.db_workdir" / "attempts.tsv"
    assert copy.read_bytes() == (site.root / "attempts.tsv").read_bytes()


@pytest.mark.parametrize(
    ("taskid", "has"),
    [
        (0, "has finished, and has no output"),
        (1, "has failed, and has no output"),
    ],
)
def test_an_output_that_stayed_where_it_was_is_told_with_its_command(site, taskid, has):
    run(import_, "tasks.txt", "tasks.db")
    earlier = f"here; what ran before the import: mpifarm log {site.root}"
    with pytest.raises(InputError, match=f"^task {taskid} {has} {earlier}$"):
        run(log, "tasks.db", str(taskid))


def test_a_new_database_has_no_outputs_from_before(here):
    (here / "tasks.txt").write_text("true\n")
    run(import_, "tasks.txt", "tasks.db")
    with pytest.raises(InputError, match="has not started yet: it waits to be"):
        run(log, "tasks.db", "0")


def test_the_list_and_its_workdir_stay_as_they_are(site, here):
    before = {each: each.read_bytes() for each in here.rglob("*") if each.is_file()}
    run(import_, "tasks.txt", "tasks.db")
    assert {each: each.read_bytes() for each in before} == before


def test_no_list_is_imported_while_a_farm_works_on_it(site, here):
    write_claim(WorkdirPaths(str(site.root)), "abcd0001", [3])
    with pytest.raises(InputError, match="wait until it has ended"):
        run(import_, "tasks.txt", "tasks.db")
    assert not (here / "tasks.db").exists()


@pytest.mark.parametrize(
    "at",
    ["mpifarm.audit.importing.write_view", "mpifarm.system.files.write_staging_file"],
)
def test_an_import_that_fails_leaves_nothing(site, here, monkeypatch, at):
    def fail(*_: object, **__: object) -> None:
        raise StorageError("full")

    monkeypatch.setattr(at, fail)
    monkeypatch.setattr("mpifarm.commands.import.patience_of", lambda _: None)
    monkeypatch.setattr("mpifarm.commands.import.try_again", lambda act, _: act())
    before = {*here.iterdir()}
    with pytest.raises(StorageError, match="full"):
        run(import_, "tasks.txt", "tasks.db")
    assert {*here.iterdir()} == before


def test_what_a_killed_import_has_left_hinders_no_other(site, here):
    (here / "tasks.db_workdir").mkdir()
    (here / "tasks.db_workdir" / "attempts.tsv").write_text("taskid")
    (here / "tasks.db.making.new").touch()
    (here / "tasks.db.0123abcd.new").write_text("half of it")
    run(import_, "tasks.txt", "tasks.db")
    assert len(rows("tasks.db", "SELECT * FROM tasks")) == len(PLAIN)
    copy = here / "tasks.db_workdir" / "attempts.tsv"
    assert copy.read_bytes() == (site.root / "attempts.tsv").read_bytes()
    assert [*here.glob("*.new")] == []


def test_two_imports_of_a_name_cost_nobody_its_attempts(site, here, monkeypatch):
    refusals: list[str] = []

    def import_meanwhile(*values: Any) -> None:
        monkeypatch.setattr(importing, "write_view", write_view)
        with pytest.raises(InputError) as caught:
            run(import_, "tasks.txt", "tasks.db")
        refusals.append(str(caught.value))
        write_view(*values)

    monkeypatch.setattr(importing, "write_view", import_meanwhile)
    run(import_, "tasks.txt", "tasks.db")
    with pytest.raises(InputError, match="exists"):
        run(import_, "tasks.txt", "tasks.db")
    (refusal,) = refusals
    assert refusal.startswith("tasks.db is being imported by another mpifarm import: ")
    assert len(rows("tasks.db", "SELECT * FROM tasks")) == len(PLAIN)
    copy = here / "tasks.db_workdir" / "attempts.tsv"
    assert copy.read_bytes() == (site.root / "attempts.tsv").read_bytes()
    names = ["tasks.db", "tasks.db_workdir", "tasks.txt", "tasks.txt_workdir"]
    assert sorted(each.name for each in here.iterdir()) == names


# ---- what is refused -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["tasks.db", "tasks.db_workdir"])
def test_nothing_is_written_over_by_an_import(here, name):
    (here / "tasks.txt").write_text("true\n")
    (here / name).write_text("mine")
    with pytest.raises(InputError, match="exists"):
        run(import_, "tasks.txt", "tasks.db")
    assert (here / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("tasks.txt", "new"), "is no name of a database"),
        (("tasks.txt", "no/new.db"), "there is no directory no"),
        (("none.txt", "new.db"), "there is no such file"),
        (("tasks.txt", ""), "a name is empty"),
        (("tasks.txt", "new.db", "--workdir", "none"), "no workdir none"),
        (("old.db", "new.db"), "is a database already"),
    ],
)
def test_a_mistake_in_an_import_is_told(here, words, sentence):
    (here / "tasks.txt").write_text("true\n")
    run(import_, "tasks.txt", "old.db")
    with pytest.raises(InputError, match=sentence):
        run(import_, *words)
    assert not (here / "new.db").exists()


@pytest.mark.parametrize("words", [("-o", "new.txt"), ("--sqlite", "new.txt")])
def test_nothing_is_written_over_by_an_export(site, here, words):
    (here / "new.txt").write_text("mine")
    with pytest.raises(InputError, match="exists, and is not written over"):
        run(export, "tasks.txt", *words)
    assert (here / "new.txt").read_text() == "mine"


def test_an_unknown_state_is_told(site):
    with pytest.raises(InputError, match="not 'lost'"):
        run(export, "tasks.txt", "--state", "failed,lost")


# ---- exports -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "ids"),
    [
        ("failed", [1]),
        ("cancelled", [2]),
        ("failed, cancelled", [1, 2]),
        ("waiting", [3, 4, 5]),
        ("finished,running", [0, 6]),
    ],
)
@pytest.mark.parametrize("source", ["tasks.txt", "tasks.db"])
def test_tasks_in_some_states_are_exported(site, capfd, source, states, ids):
    run(import_, "tasks.txt", "tasks.db")
    wanted = "".join(f"{PLAIN[each]}\n" for each in ids).encode()
    assert exported(capfd, source, "--state", states) == wanted


def test_chosen_tasks_keep_their_order(here, capfd):
    (here / "tasks.txt").write_text(LIST)
    run(import_, "tasks.txt", "tasks.db")
    with closing(sqlite3.connect("tasks.db")) as connection, connection:
        connection.execute("UPDATE tasks SET state = 'failed' WHERE id IN (1, 3)")
    wanted = b" #hash\n#BARRIER\n#AFTER 0\n[limit=gpu] echo 3\n"
    assert exported(capfd, "tasks.db", "--state", "failed") == wanted


@pytest.mark.parametrize("source", ["tasks.txt", "tasks.db"])
def test_a_workdir_is_exported_for_queries(site, capfd, source):
    run(import_, "tasks.txt", "tasks.db")
    run(export, source, "--sqlite", "out.db")
    assert f"out.db has 7 tasks and 5 attempts of {source}" in capfd.readouterr().out
    query = "SELECT * FROM tasks"
    assert rows("out.db", query) == rows("tasks.db", query)
    attempts = rows("out.db", "SELECT * FROM attempts")
    assert attempts[0] == (
        *(0, 1, "completed", 0, 0, "n1", 0, 0, 1, "2001-09-09T01:46:40.000Z", 2.5),
        *(0.01, 0.02, 4096, 0, "x", "true"),
    )
    assert attempts[4][-1] == "a\tb"
    assert attempts[3][7] is None
    about = dict(rows("out.db", "SELECT key, value FROM about"))
    assert about["list"] == os.path.abspath(source)
    assert about["exported_from"] == os.path.abspath(f"{source}_workdir")


def test_what_a_farm_has_is_running_in_an_export(site):
    write_claim(WorkdirPaths(str(site.root)), "abcd0001", [3, 4])
    run(export, "tasks.txt", "--sqlite", "out.db")
    query = "SELECT id, farm FROM tasks WHERE state = 'running'"
    wanted = [(3, "abcd0001"), (4, "abcd0001"), (6, "PyTaskFarmer elsewhere")]
    assert rows("out.db", query) == wanted


def test_the_workdir_of_a_plain_farmer_is_exported(here):
    site = Site(here / "tasks.txt_workdir", PLAIN)
    (here / "tasks.txt").write_text("".join(f"{text}\n" for text in PLAIN))
    site.write("finished", [1])
    site.write("failed", [0])
    site.write("toprocess", [3, 4, 5, 6])
    run(export, "tasks.txt", "--sqlite", "out.db")
    states = [state for (state,) in rows("out.db", "SELECT state FROM tasks")]
    assert states == ["failed", "finished", "running", *["to process"] * 4]
    assert rows("out.db", "SELECT * FROM attempts") == []


def test_an_export_has_the_ends_that_plain_farmers_have_written_into_rows(here):
    (here / "tasks.txt").write_text("a\nb\n")
    run(import_, "tasks.txt", "tasks.db")
    with closing(sqlite3.connect("tasks.db")) as connection, connection:
        connection.execute(
            "UPDATE tasks SET state = 'failed', attempt = 1, outcome = 'failed',"
            " status = 3, signal = 0, host = 'n1' WHERE id = 1"
        )
    run(export, "tasks.db", "--sqlite", "out.db")
    query = "SELECT * FROM tasks"
    assert rows("out.db", query) == rows("tasks.db", query)


def test_a_barrier_that_no_list_can_say_is_told(here):
    (here / "tasks.txt").write_text("a\nb\nc\n")
    run(import_, "tasks.txt", "tasks.db")
    with closing(sqlite3.connect("tasks.db")) as connection, connection:
        connection.execute("INSERT INTO barriers VALUES (2, 1, 1)")
    with pytest.raises(InputError, match="no text list can say all"):
        run(export, "tasks.db")


# ---- what is refused, and what stays after an error ----------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-o", ""], "the name of a file is empty: is a variable not set"),
        (["-o", "none/x"], "cannot write none/x: there is no directory none"),
        (["--sqlite", "none/x.db"], "cannot write none/x.db: there is no directory"),
        (["--sqlite", "x.db", "--state", "failed"], "leave out --state, and query"),
    ],
)
def test_an_export_that_can_not_be_written_is_told_first(site, words, sentence):
    with pytest.raises(InputError, match=sentence):
        run(export, "tasks.txt", *words)


def test_a_directory_that_is_not_writable_is_told(site, monkeypatch):
    monkeypatch.setattr("mpifarm.system.files.is_permitted", lambda *_: False)
    with pytest.raises(InputError, match=r"cannot write x: \. is not writable"):
        run(export, "tasks.txt", "-o", "x")


@pytest.mark.parametrize("option", ["-o", "--sqlite"])
def test_a_new_file_is_told_with_its_number_of_tasks(site, capfd, option):
    assert run(export, "tasks.txt", option, "new.db") == 0
    out = capfd.readouterr().out
    assert out.startswith("mpifarm: new.db has 7 tasks")
    assert ("and 5 attempts of tasks.txt_workdir: sqlite3 new.db" in out) is (
        option == "--sqlite"
    )


def test_a_list_whose_handler_keeps_the_state_has_no_states_to_export(
    site, monkeypatch
):
    view: Any = SimpleNamespace(has_own_state=True, warnings=list, total=7)
    monkeypatch.setattr(export, "read_view", lambda *_: view)
    with pytest.raises(InputError, match="keeps the state of the tasks itself"):
        run(export, "tasks.txt", "--state", "failed")


def test_an_import_that_can_not_copy_its_attempts_leaves_nothing(
    site, here, monkeypatch
):
    def fail(_: str) -> None:
        raise OSError(28, "No space left on device")

    before = {*os.listdir(here)}
    monkeypatch.setattr("mpifarm.system.files.make_directory", fail)
    with pytest.raises(StorageError, match=r"tasks\.db_workdir.*No space left"):
        run(import_, "tasks.txt", "tasks.db")
    assert {*os.listdir(here)} == before


def test_a_state_that_is_in_doubt_is_not_imported(site):
    (site.root / "failed").unlink()
    (site.root / "failed").mkdir()
    with pytest.raises(InputError, match=r"mpifarm check tasks\.txt_workdir tells"):
        run(import_, "tasks.txt", "tasks.db")
