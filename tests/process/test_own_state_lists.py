"""Tasklists of the user's that keep their own state, with the real PyTaskFarmer."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.farm_driver import MPIFARM, FarmDriver
from tests.support import find_plain_python, plain_missing, wait_until

QUEUE_OF_FILES = '''
import os

from taskfarmer import task


class QueueOfFiles(task.TaskList):
    """A file for each task that is to be processed, and a file of what was done."""

    def __init__(self, path, workdir, prefix=""):
        super().__init__(path, workdir)
        self.prefix = prefix
        self.tasks = [line.strip() for line in open(path) if line.strip()]
        self.queue = workdir + "/queue"
        self.lock()
        if not os.path.isdir(self.queue):
            os.mkdir(self.queue)
            for taskid in range(len(self.tasks)):
                open(f"{self.queue}/{taskid}", "w").close()
        self.unlock()

    def __len__(self):
        return len(self.tasks)

    def __getitem__(self, taskid):
        return self.prefix + self.tasks[taskid]

    def pop_task(self):
        self.lock()
        names = os.listdir(self.queue)
        if names:
            os.remove(f"{self.queue}/{names[0]}")
        self.unlock()
        return int(names[0]) if names else None

    def record_toprocess_task(self, taskid):
        self.lock()
        open(f"{self.queue}/{taskid}", "w").close()
        self.unlock()

    def record_done_task(self, taskid, returncode):
        self.lock()
        with open(self.workdir + "/done", "a") as done:
            done.write(f"{taskid} {returncode}\\n")
        self.unlock()

    def get_finished(self):
        if not os.path.exists(self.workdir + "/done"):
            return []
        lines = [line.split() for line in open(self.workdir + "/done")]
        return [int(taskid) for taskid, code in lines if code == "0"]
'''


def find_packages() -> Path:
    """The directory that holds PyTaskFarmer's package."""
    python = find_plain_python("0.1.0")
    if python is None:
        pytest.skip(plain_missing("0.1.0"))
    return next(python.parent.parent.glob("lib/python*/site-packages"))


@pytest.fixture
def create_own(create_place, tmp_path):
    """A place whose handler ``own`` is a queue of files."""

    def create(commands: list[str]) -> FarmDriver:
        place: FarmDriver = create_place(commands)
        home = tmp_path / "home"
        (home / ".pytaskfarmer" / "tasklists.d").mkdir(parents=True)
        (home / ".pytaskfarmer" / "tasklists.d" / "own.ini").write_text(
            "[own]\nTaskList = queues.QueueOfFiles\nprefix = true ;\n"
        )
        (place.directory / "queues.py").write_text(QUEUE_OF_FILES)
        place.environment["HOME"] = str(home)
        place.environment["PYTHONPATH"] = os.pathsep.join(
            filter(
                None,
                [
                    place.environment.get("PYTHONPATH"),
                    str(find_packages()),
                    str(place.directory),
                ],
            )
        )
        return place

    return create


def done(place: FarmDriver) -> dict[int, list[int]]:
    """Exit statuses by id, as the list has recorded them."""
    records: dict[int, list[int]] = {}
    for line in place.content("done").decode().splitlines():
        taskid, status = line.split()
        records.setdefault(int(taskid), []).append(int(status))
    return records


def queued(place: FarmDriver) -> list[int]:
    return sorted(int(name) for name in os.listdir(place.workdir / "queue"))


def test_every_task_goes_through_the_lists_own_methods(create_own):
    place = create_own([f"echo $PROC_NUMBER >> ran; exit {n % 3}" for n in range(30)])
    farm = place.start("-t", "own", "-n", "3")
    assert farm.wait() == 1, farm.text()
    assert done(place) == {n: [n % 3] for n in range(30)}
    assert Counter(place.notes("ran")) == Counter(map(str, range(30)))
    assert queued(place) == []
    assert place.claims() == []
    assert len(place.timeline()) == len(place.attempts()) == 30
    assert not (place.workdir / "toprocess").exists()
    assert "20 failed" in farm.text()
    again = place.start("-t", "own")
    assert again.wait() == 1, again.text()
    assert len(place.notes("ran")) == 30


def test_a_stop_puts_back_what_ran_and_the_next_start_finishes(create_own):
    place = create_own(["echo x >> began; test -e go || sleep 600"] * 6)
    farm = place.start("-t", "own", "-n", "2")
    place.await_notes("began", 2)
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == 75, farm.text()
    assert done(place) == {}
    assert queued(place) == list(range(6))
    place.allow()
    assert place.run("-t", "own") == 0
    assert done(place) == {n: [0] for n in range(6)}


def test_what_a_killed_farm_held_is_run_by_the_next(create_own, mpirun, farm_processes):
    place = create_own(["echo x >> began; test -e go || sleep 600"] * 6)
    farm = place.start("-t", "own", "-n", "2")
    place.await_notes("began", 2)
    place.kill(farm)
    assert len(place.claims()) == 1
    assert len(queued(place)) < 6
    place.allow()
    ranks = mpirun(2, *MPIFARM, "-t", "own", "-n", "1", str(place.tasklist))
    again = farm_processes(
        ranks.argv, env={**ranks.env, **place.environment}, cwd=place.directory
    )
    assert again.wait() == 0, again.text()
    assert "reclaimed from the dead farm" in again.text()
    # No rank is waited for, as those of a lost coordinator are.
    assert "given up" not in again.text()
    assert done(place) == {n: [0] for n in range(6)}


def test_a_plain_farmer_with_the_same_handler_shares_the_list(create_own, plain_farmer):
    if "0.0.1" in plain_farmer[0]:
        pytest.skip("its task lists are not made by handlers of this kind")
    place = create_own(["echo $PROC_NUMBER >> ran"] * 60)
    # PyTaskFarmer has no shell
    script = place.script(
        "note",
        'echo "$PROC_NUMBER" >> ran',
        'echo "${MPIFARM_FARM:-plain}" >> farmers',
        '[ "$PROC_NUMBER" -lt 20 ] || until [ -e go ]; do sleep 0.02; done',
        "sleep 0.05",
    )
    place.tasklist.write_text(f"{script}\n" * 60)
    ini = Path(place.environment["HOME"], ".pytaskfarmer", "tasklists.d", "own.ini")
    ini.write_text("[own]\nTaskList = queues.QueueOfFiles\n")
    plain = place.start_plain(plain_farmer, "-t", "own", "-n", "2")
    wait_until(lambda: place.notes("ran"))
    farm = place.start("-t", "own", "-n", "2")
    wait_until(lambda: len({*place.notes("farmers")}) == 2)
    place.allow()
    assert farm.wait() in {0, 3}, farm.text()
    assert plain.wait() == 0, plain.text()
    assert Counter(place.notes("ran")) == Counter(map(str, range(60)))
    assert done(place) == {n: [0] for n in range(60)}
    by_plain = 60 - len(place.attempts())
    assert 0 < by_plain < 60


def break_list(place: FarmDriver, old: str, new: str) -> None:
    module = place.directory / "queues.py"
    text = module.read_text()
    assert old in text
    module.write_text(text.replace(old, new))


def test_a_task_for_which_the_list_has_no_command_fails_with_the_reason(create_own):
    place = create_own(["echo a", "echo b", "echo c"])
    break_list(place, "self.prefix + self", "taskid != 1 and self")
    farm = place.start("-t", "own")
    assert farm.wait() == 1, farm.text()
    assert done(place) == {0: [0], 1: [1], 2: [0]}
    reason = "the handler 'own' gave no command for task 1 (it is a bool, not a text)"
    assert reason in place.log(1)


@pytest.mark.parametrize("method", ["pop_task", "record_done_task"])
def test_a_list_that_leaves_the_program_stops_the_farm_with_the_reason(
    create_own, method
):
    place = create_own(["true"] * 3)
    broken = f"    def {method}(self, *rest):\n        raise SystemExit(0)\n\n"
    break_list(place, f"    def {method}(", f"{broken}    def old_{method}(")
    farm = place.start("-t", "own")
    assert farm.wait() == 75, farm.text()
    assert f"the tasklist's own {method} failed (SystemExit: 0" in farm.text()


def test_a_dry_run_says_that_the_list_itself_knows_what_is_left(create_own):
    place = create_own(["true", "false"])
    assert place.start("-t", "own").wait() == 1
    shown = place.start("-t", "own", "--dry-run")
    assert shown.wait() == 0, shown.text()
    assert "the handler 'own' keeps the state of the tasks: which of" in shown.text()
    assert (
        "task 1: true ;false\n    starts /bin/bash -c 'true ;false'\n" in shown.text()
    )
    assert done(place) == {0: [0], 1: [1]}
