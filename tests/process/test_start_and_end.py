"""The start and the end of a farm: wide pools, and what the user left in buffers."""

import os

import pytest

from tests.support import wait_until

HANDLER = """
from mpifarm.tasklists import ListTaskList

notes = open("notes", "w")

class Handler(ListTaskList):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        notes.write("left in the buffer")
"""

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
