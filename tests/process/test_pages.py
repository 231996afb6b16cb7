"""The examples of pages on requests and on lists that grow, typed as they stand there.

Rules of this file: what is typed is read from the page, never repeated here; what it
prints is what the page shows, but for ids of farms, times, hosts and widths.  A page
may leave out the last lines.
"""

import json
import os
import sys
from pathlib import Path

from tests.farm_driver import FarmDriver, assert_ends
from tests.pages import Typed, blocks_of, read_page, without_varying
from tests.support import Child, wait_until

HOST = os.uname().nodename
WAITS = "touch started.$PROC_NUMBER; until [ -e go ]; do sleep 0.02; done"


class Page:
    """The examples of a page, and a place to type them; `left` are those not yet typed.

    `word` tells an example from all others that are left.
    """

    def __init__(self, place: FarmDriver, name: str) -> None:
        self.text = read_page(name)
        self.blocks = [*blocks_of(self.text)]
        self.left = [typed for block in self.blocks for typed in block.typed]
        self._place = place
        programs = place.directory / "bin"
        programs.mkdir()
        here = f"{programs}:{place.directory}:{Path(sys.prefix, 'bin')}"
        place.environment["PATH"] = f"{here}:/usr/bin:/bin"
        shim = f'#!/bin/sh\nexec {sys.executable} -m mpifarm "$@"\n'
        place.write_program("bin/mpifarm", shim)

    def _take(self, word: str) -> Typed:
        (found,) = (typed for typed in self.left if word in typed.command)
        self.left.remove(found)
        return found

    def leave(self, word: str) -> None:
        self._take(word)

    def start(self, word: str) -> Child:
        return self.type(self._take(word).command)

    def type(self, command: str) -> Child:
        return self._place.start_command(["/bin/bash", "-c", command])

    def run(self, *words: str) -> None:
        """Type examples side by side to their ends, and compare what they print."""
        typed = [self._take(word) for word in words]
        for each, child in [(each, self.type(each.command)) for each in typed]:
            assert_ends(child, 0)
            if each.printed:
                shown = without_varying(each.printed)
                printed = without_varying(child.text().splitlines(), HOST)
                assert printed[: len(shown)] == shown


def running(place):
    """How many tasks run, by what the farms say of themselves."""
    states = [
        json.loads(path.read_text()) for path in place.workdir.glob("farms/*.json")
    ]
    return sum(state["counts"]["running"] for state in states)


def test_what_a_running_farm_is_told(create_place):
    place = create_place([WAITS] * 14)
    page = Page(place, "telling-a-farm.md")
    farm = page.type("mpifarm -n 2 tasks.txt")
    place.wait_for_marks("started", 2)
    page.run("cancel tasks.txt 3,7-9", "cancel tasks.txt 0,4")
    assert place.failed() == [0, 3, 4, 7, 8, 9]
    page.run("hold tasks.txt   ", "hold tasks.txt 12   ")
    held = json.loads(place.content("held"))
    assert (held["all"], held["tasks"]) == (True, "12")
    page.run("release tasks.txt  ")
    page.run("drain tasks.txt")
    place.allow()
    assert_ends(farm, 75)
    page.run("hold tasks.txt 12")
    page.run("release tasks.txt 12")
    assert page.left == []
    place.assert_sound()


def test_what_is_added_while_farms_wait_for_more(create_place):
    place = create_place(["true"] * 1000)
    page = Page(place, "adding-tasks.md")
    place.write_program("simulate", '#!/bin/sh\necho "seed $2 is done"\n')
    place.script("generate", "seq -f './simulate --seed %.0f' 0 5")
    (place.directory / "out").mkdir()
    farms = [page.start("--follow tasks.txt")]
    wait_until(lambda: [*place.workdir.glob("farms/*.json")])
    page.run("mpifarm add")
    farms.append(page.start("--follow 600"))
    wait_until(lambda: len(place.claims()) == 2)
    wait_until(lambda: len(place.finished()) == 1001)
    assert place.notes("out/3.txt") == ["seed 3 is done"]
    (place.workdir / "drain").touch()
    for farm in farms:
        assert_ends(farm, 0)
    place.assert_all_finished()
    page.run("generate | mpifarm")
    page.run("log run1 3")
    page.leave("srun")  # tests/slurm types it
    assert page.left == []


def test_what_is_shown_of_tasks_that_wait_while_workers_are_free(create_place):
    place = create_place()
    page = Page(place, "what-is-going-on.md")
    (tasks,) = (block for block in page.blocks if "./mesh" in block.lines)
    place.tasklist.write_text(tasks.text())
    for name in ("mesh", "solve", "collect", "plot"):
        place.script(name, "until [ -e go ]; do sleep 0.02; done")
    before = " ".join(tasks.before.split())
    command = "mpifarm --limit licence=1 -n 4 tasks.txt"
    assert f"`{command}`" in before
    farm = page.type(command)
    wait_until(lambda: running(place) == 2)
    hold = "mpifarm hold tasks.txt 5"
    assert f"`{hold}`" in page.text
    assert_ends(page.type(hold), 0)
    (shown,) = (block for block in page.blocks if "1 held (task 5)" in block.text())
    page.left = shown.typed
    page.run("status", "ls")
    farm.end()
