"""The lock under torture: our processes and both PyTaskFarmers count in one file.

Each reads a number from a file, waits, and writes the next one, under its own program's
lock.  Two that are in there at once lose a count.
"""

import json
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, Child, find_plain_python, plain_missing, wait_until

COUNTS = 300
"""Each process counts so often in each of its files."""

FEWER = 120
"""The same, where it is not asked whether one starves."""

HOLD_SECONDS = 0.005
"""What a plain farmer needs for a small list."""

STARVED_SECONDS = 5.0
"""Half of the time after which a plain farmer without the lock dies.

Four processes alone take longer than this: one whom four starve is noticed.
"""

TAKE = {
    "mpifarm": """
from mpifarm.system.lock import WorkdirLock, lock_paths
lock = WorkdirLock(lock_paths(workdir, os.environ, None))
lock.probe()
take, give_back = (lambda: lock.acquire(60.0)), lock.release
""",
    "PyTaskFarmer": """
from taskfarmer.task import TaskList
tasklist = TaskList("tasks.txt", workdir)
take, give_back = tasklist.lock, tasklist.unlock
""",
}

COUNT = """
import json, os, sys, time
workdir, go, counts, hold, *counters = sys.argv[1:]
%s
open(go + f".{os.getpid()}", "w").close()
deadline = time.monotonic() + 60
while not os.path.exists(go) and time.monotonic() < deadline:
    time.sleep(0.001)
waits = []
for _ in range(int(counts)):
    started = time.monotonic()
    take()
    waits.append(time.monotonic() - started)
    for counter in counters:
        with open(counter) as file:
            number = int(file.read())
        with open(counter, "w") as file:
            time.sleep(float(hold) / len(counters))
            file.write(str(number + 1))
    give_back()
print(json.dumps({"longest": max(waits), "mean": sum(waits) / len(waits)}))
"""


def python_of(version: str) -> str:
    """The Python of the environment that has this PyTaskFarmer."""
    python = find_plain_python(version)
    if python is None:
        pytest.fail(plain_missing(version))
    return str(python)


@pytest.fixture
def torture(tmp_path, farm_processes, farm_environment):
    """Start all counters at once, wait for all, return the longest wait of each."""
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    go = tmp_path / "go"

    def start(program: str, area: Path | None, counters: list[Path], counts: int):
        ours = program == "mpifarm"
        python = sys.executable if ours else python_of(program)
        env = dict(farm_environment, PYTHONPATH=str(ROOT if ours else ""))
        if area is not None:
            env["SCRATCH"] = str(area)
        text = COUNT % TAKE["mpifarm" if ours else "PyTaskFarmer"]
        arguments = [str(workdir), str(go), str(counts), str(HOLD_SECONDS)]
        argv = [python, "-c", text, *arguments, *map(str, counters)]
        return farm_processes(argv, env=env)

    def run(
        processes: list[tuple[str, Path | None, list[Path]]], counts: int = COUNTS
    ) -> list[float]:
        for counter in {path for _, _, counters in processes for path in counters}:
            counter.write_text("0")
        children = [start(*process, counts) for process in processes]
        wait_until(lambda: len(list(tmp_path.glob("go.*"))) == len(processes))
        go.touch()
        return [_longest_wait(child) for child in children]

    return run


def _longest_wait(child: Child) -> float:
    assert child.wait(90) == 0, child.text()
    return float(json.loads(child.text())["longest"])


OURS = ["mpifarm"] * 4
PLAIN = ["0.0.1", "0.0.1", "0.1.0", "0.1.0"]


def test_eight_processes_of_three_programs_count_exactly_and_none_starves(
    torture, tmp_path
):
    counter = tmp_path / "counter"
    waits = torture([(program, tmp_path, [counter]) for program in OURS + PLAIN])
    assert int(counter.read_text()) == 8 * COUNTS
    assert max(waits) < STARVED_SECONDS


def test_ours_bring_together_plain_farmers_whose_lock_areas_differ(torture, tmp_path):
    in_area, in_workdir = tmp_path / "in_area", tmp_path / "in_workdir"
    torture(
        [("mpifarm", tmp_path, [in_area, in_workdir])] * 2
        + [("mpifarm", None, [in_workdir])] * 2
        + [(program, tmp_path, [in_area]) for program in PLAIN[:2]]
        + [(program, None, [in_workdir]) for program in PLAIN[2:]],
        counts=FEWER,
    )
    assert int(in_area.read_text()) == 4 * FEWER
    assert int(in_workdir.read_text()) == 6 * FEWER
