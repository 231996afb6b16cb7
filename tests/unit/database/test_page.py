"""The queries of docs/databases.md, each run on the example of the page."""

import sqlite3
from contextlib import closing
from importlib import import_module
from pathlib import Path

import pytest

from mpifarm.commands import export
from mpifarm.database.tasks import TaskState
from mpifarm.system.console import Console
from tests.pages import read_page, take_block, take_blocks
from tests.unit.store_fakes import Site
from tests.workdir_files import Attempt, format_attempts

import_ = import_module("mpifarm.commands.import")

PAGE = read_page("databases.md")
QUERIES = take_blocks("databases.md", "sqlite3 ")
CHANGES = [
    *take_block("databases.md", "INSERT").lines,
    *take_block("databases.md", "UPDATE").lines,
]

TASKS = [
    *(
        f"./simulate --mass {mass} --seed {seed}"
        for mass in (1, 5)
        for seed in range(4)
    ),
    *("./merge 1", "./merge 5"),
]


def attempt(
    taskid: int, number: int = 1, status: int = 0, outcome: str = ""
) -> Attempt:
    """Return an attempt of the example: the masses take different times and memory."""
    mass = 5 if taskid in range(4, 8) else 1
    return Attempt(
        taskid,
        number,
        status,
        outcome=outcome,
        host=f"n{1 + taskid % 3}",
        started=1.7e9 + 60 * taskid + 3600 * (number - 1),
        seconds=100.0 * mass + taskid,
        user_seconds=f"{90.0 * mass}",
        system_seconds="1.0",
        peak_memory=f"{mass * 2**30}",
        farm=f"f{number}",
        command=TASKS[taskid],
    )


ATTEMPTS = [
    *(attempt(taskid) for taskid in (0, 1, 2, 3)),
    attempt(4, status=-9, outcome="out of memory"),
    *(attempt(5, status=3), attempt(6), attempt(7, status=3)),
    *(attempt(4, 2), attempt(7, 2, status=3)),
    attempt(8, 2),
]


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    """A workdir, with its databases: nine tasks have ended, one is left."""
    directory: Path = tmp_path_factory.mktemp("page")
    site = Site(directory / "tasks.txt_workdir", TASKS)
    (directory / "tasks.txt").write_text("".join(f"{text}\n" for text in TASKS))
    site.write("finished", [0, 1, 2, 3, 6, 4, 8])
    site.write("failed", [5, 7])
    site.write("toprocess", [9])
    (site.root / "attempts.tsv").write_text(format_attempts(*ATTEMPTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        console = Console(prints=False)
        environ = {"HOME": str(directory)}
        import_.main(["tasks.txt", "tasks.db"], console, environ)
        export.main(["tasks.txt", "--sqlite", "out.db"], console, environ)
    return directory


def answer(path: Path, query: str) -> str:
    """Return what ``sqlite3 FILE QUERY`` prints, in its default form."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(query).fetchall()
    return "".join(
        "|".join("" if each is None else str(each) for each in row) + "\n"
        for row in rows
    )


@pytest.mark.parametrize("block", QUERIES, ids=lambda block: block.before)
def test_a_query_of_the_page_answers_as_the_page_says(example, block):
    command, query, printed = block.text().split('"')
    assert printed.startswith("\n")
    assert answer(example / command.split()[1], query) == printed[1:]


def test_the_page_has_ten_queries():
    assert len(QUERIES) >= 10


def test_the_page_names_each_column_and_each_state(example):
    for table in ("tasks", "attempts"):
        with closing(sqlite3.connect(example / "out.db")) as connection:
            rows = connection.execute(f"PRAGMA table_info({table})").fetchall()
        for row in rows:
            assert f"`{row[1]}`" in PAGE
    for state in TaskState:
        assert f"`{state.value}`" in PAGE


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_page_is_taken_by_a_database(example, change):
    with closing(sqlite3.connect(example / "tasks.db")) as connection:
        assert connection.execute(change).rowcount > 0
        connection.rollback()
