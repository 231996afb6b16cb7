"""The start and the end of a farm: wide pools, and what the user left in buffers."""

import os
import shlex
from pathlib import Path

import pytest

from tests.farm_driver import MPIFARM
from tests.support import wait_until

HANDLER = """
from mpifarm.tasklists import ListTaskList

notes = open("notes", "w")

class Handler(ListTaskList):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        notes.write("left in the buffer")
"""

NULL = Path(os.devnull)

INI = "[mine]\nTaskList = handler.Handler\n"


def test_what_a_handlers_module_left_in_a_buffer_is_in_its_file(create_place):
    place = create_place(["true"])
    (place.directory / "handler.py").write_text(HANDLER)
    (place.directory / "mine.ini").write_text(INI)
    assert place.run("--config", "mine.ini", "-t", "mine") == 0
    assert (place.directory / "notes").read_text() == "left in the buffer"


@pytest.mark.parametrize("files", [None, 1024])
def test_256_workers_run_256_tasks_at_once_without_a_warning(create_place, files):
    place = create_place(["touch here.$PROC_NUMBER; : < go"] * 256)
    os.mkfifo(place.directory / "go")
    limit = f"ulimit -n {files};" if files else ""
    child = place.start("-n", "256", before=("bash", "-c", f'{limit} exec "$@"', "-"))
    wait_until(lambda: len([*place.directory.glob("here.*")]) == 256)
    # opened for reading, a fifo waits for whoever opens it for writing
    go = os.open(place.directory / "go", os.O_RDWR)
    assert child.wait() == 0
    os.close(go)
    assert place.finished() == [*range(256)]
    said = [line for line in child.text().splitlines() if "/256 done" not in line]
    assert [line.partition(" mpifarm: ")[2][:10] for line in said] == [
        *("version 0.", said[1][35:45], "1 rank of ", "the lock o"),
        *("256 finish", "this farm ", "outputs: m", "exit statu"),
    ]


@pytest.mark.parametrize("name", ["copy", "json", "signal", "socket", "random"])
def test_a_file_named_as_a_module_of_python_lies_where_the_farm_starts(
    create_place, name
):
    place = create_place(["true"])
    (place.directory / f"{name}.py").write_text(
        "raise RuntimeError('not Python\\'s')\n"
    )
    child = place.start()
    assert child.wait() == 0, child.text()


def without(closed, *words):
    """A command line of mpifarm that begins with some descriptors closed."""
    return ["bash", "-c", f"exec {shlex.join([*MPIFARM, *words])} {closed}"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["-"], 0, "standard input has ended, and had no line"),
        (["x", "::::", "-"], 0, "there are no tasks"),
        (["submit", "--print", "-t", "1h", "-"], 2, "standard input has no line"),
        (["import", "-", "new.db"], 2, "can't read the tasklist /dev/stdin"),
    ],
)
def test_a_standard_input_that_is_closed_is_an_empty_one(
    create_place, words, status, said
):
    place = create_place(["true"])
    child = place.start_command(without("<&-", *words))
    assert child.wait() == status, child.text()
    assert said in child.text()
    assert [*place.directory.iterdir()] == [place.tasklist]


@pytest.mark.parametrize(
    ("closed", "numbers"),
    [("<&-", [0]), (">&-", [1]), ("2>&-", [2]), ("<&- >&- 2>&-", [0, 1, 2])],
)
def test_nothing_of_a_farm_gets_the_number_of_a_stream_that_is_closed(
    create_place, closed, numbers
):
    place = create_place([": > begun; : < go"])
    os.mkfifo(place.directory / "go")
    child = place.start_command(without(closed, "tasks.txt"))
    wait_until((place.directory / "begun").exists)
    open_ones = Path(f"/proc/{child.pid}/fd")
    assert {(open_ones / str(each)).readlink() for each in numbers} == {NULL}
    (place.directory / "go").write_text("")
    assert child.wait() == 0, child.text()


def test_nothing_is_added_from_a_standard_input_that_is_closed(create_place):
    place = create_place(["true"])
    assert place.run() == 0
    child = place.start_command(without("<&-", "add", "tasks.txt"))
    assert child.wait() == 2
    assert "no command is given: there is nothing to add" in child.text()
    assert place.tasklist.read_text() == "true\n"
