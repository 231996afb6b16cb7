"""Subcommands on databases that can't be used: one sentence, status 2, all untouched.

Rules of this file: ``tests/unit/commands/test_database_commands.py`` has each command;
here is each kind of command, looking, changing, making, as a process.
"""

import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from tests.farm_driver import MPIFARM
from tests.process.test_bad_input import complaint


@pytest.fixture
def place(create_place):
    """A place with a database of three tasks, and its workdir."""
    place = create_place(["true", "echo b", "echo c"])
    run(place, "import", "tasks.txt", "tasks.db")
    (place.directory / "tasks.db_workdir" / "logs").mkdir(parents=True)
    (place.directory / "tasks.db_workdir" / "lock").touch()
    return place


def run(place, *words):
    subprocess.run(
        [*MPIFARM, *words],
        cwd=place.directory,
        env=place.environment,
        check=True,
        capture_output=True,
    )


def sqlite(place, *statements):
    with closing(sqlite3.connect(place.directory / "tasks.db")) as connection:
        for statement in statements:
            connection.execute(statement)


def damage(place):
    path = place.directory / "tasks.db"
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * 4096 + content[8192:])


def replace(place):
    (place.directory / "tasks.db").unlink()
    sqlite(place, "CREATE TABLE bookmarks (name TEXT)")


FAULTS = {
    "damaged": (damage, "tasks.db is damaged ("),
    "of another version": (
        lambda place: sqlite(place, "PRAGMA user_version = 99"),
        "has version 99",
    ),
    "of another program": (replace, "is a database of another program"),
}

COMMANDS = {
    "looks": ("ls", "tasks.db"),
    "changes": ("retry", "tasks.db"),
    "adds": ("add", "tasks.db", "echo d"),
    "checks": ("check", "tasks.db"),
    "makes": ("export", "tasks.db", "--sqlite", "out.db"),
}


@pytest.mark.parametrize(
    ("fault", "command"),
    [
        *(("damaged", each) for each in COMMANDS if each != "adds"),
        *(("of another version", each) for each in ("looks", "adds")),
        *(("of another program", each) for each in ("looks", "changes")),
    ],
)
def test_a_database_that_cannot_be_used_is_told_and_stays(place, fault, command):
    break_it, words = FAULTS[fault]
    break_it(place)
    assert words in complaint(place, argv=[*MPIFARM, *COMMANDS[command]], but=())


def test_a_database_that_another_program_writes_is_told_and_stays(place):
    writer = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect('tasks.db', isolation_level=None)\n"
        "c.execute('BEGIN EXCLUSIVE'); print('begun', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", writer],
        cwd=place.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"begun\n"
        argv = [*MPIFARM, *COMMANDS["changes"]]
        said = complaint(place, argv=argv, but=())
        assert other.stdin is not None
        other.stdin.close()
    assert "tasks.db is open in another program" in said


def test_no_import_writes_over_a_database(place):
    argv = [*MPIFARM, "import", "tasks.txt", "tasks.db"]
    assert "is not written over" in complaint(place, argv=argv, but=())


def test_adders_at_the_same_moment_each_add_theirs(create_place):
    place = create_place(["true"])
    run(place, "import", "tasks.txt", "tasks.db")
    adders = [
        subprocess.Popen(
            [*MPIFARM, "add", "tasks.db", f"echo {each}", f"echo {each}"],
            cwd=place.directory,
            env=place.environment,
            stdout=subprocess.DEVNULL,
        )
        for each in range(4)
    ]
    assert [adder.wait() for adder in adders] == [0] * len(adders)
    with closing(sqlite3.connect(place.directory / "tasks.db")) as connection:
        rows = connection.execute("SELECT command FROM tasks ORDER BY id").fetchall()
    added = [command for (command,) in rows[1:]]
    assert added[::2] == added[1::2]
    assert sorted(added[::2]) == [f"echo {each}" for each in range(4)]
