"""Kills at each system call that writes, and the farms that go on after them.

Rules of this file: most kills come from inside, before the n-th call of Python's os
module that writes (``striking/sitecustomize.py``); strace shows the same with the real
calls.  ``FAULT_FULL=1`` takes each n everywhere; without it, some tests take steps.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from tests.fault.evidence import Allowance, Scene, Task
from tests.fault.stage import FARM_DEADLINE, Stage
from tests.required import find_tool
from tests.support import ROOT

pytestmark = pytest.mark.timeout(900)

FULL = bool(os.environ.get("FAULT_FULL"))
AT_ONCE = 6
"""Farms that run side by side: each waits most of the time."""

MAX_TOLD = 3

STRIKING = str(Path(__file__).parent / "striking")
ENDS = (0, 1)
STOPPED = 75

TASKS = [
    Task("0.15" if i % 7 == 3 else "0", 3 if i % 6 == 5 else 0, f"word-{i}")
    for i in range(20)
]
OPTIONS = ("--proc", "2", "--grace", "0.3")

Verdict = list[str] | None
"""What is wrong; None where nothing was struck."""


class Theatre:
    """Stages in numbered directories."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = count()

    def open_stage(self) -> Stage:
        return Stage(Scene(self._directory / str(next(self._numbers)), TASKS))

    def strike(self, *schedules: str, part: str = "rank") -> Verdict:
        """Farms one after the other, each struck by its schedule, and a resume."""
        with self.open_stage() as stage:
            notes = stage.scene.directory / "strikes"
            findings: list[str] = []
            for number, schedule in enumerate(schedules):
                variables = {
                    "PYTHONPATH": f"{STRIKING}:{ROOT}",
                    "STRIKE_AT": schedule,
                    "STRIKE_PART": part,
                    "STRIKE_NOTES": f"{notes}-{number}",
                }
                findings += play(stage, f"struck-{number}", env=variables)
                # the last deed of the schedule, or the farm ended before
                if not Path(f"{notes}-{number}.{schedule.split(',')[-1]}").exists():
                    return None
            findings += resume(stage, torn=any("torn" in s for s in schedules))
            strikes = sorted(stage.scene.directory.glob("strikes-[0-9]"))
            struck = [path.read_text() for path in strikes if findings]
            verdict = told(findings, f"{part} {schedules}: {struck}", stage)
            self._clear(stage, findings)
            return verdict

    def trace(self, call: str, n: int) -> Verdict:
        """A farm killed by strace at the n-th of these calls, and a resume."""
        with self.open_stage() as stage:
            inject = f"inject={call}:signal=KILL:when={n}"
            before = [
                find_tool("strace"),
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                f"trace={call}",
            ]
            findings = play(stage, "struck", before=[*before, "-e", inject])
            if stage.scene.is_done() and not stage.scene.claims():
                return None
            findings += resume(stage, torn=False)
            verdict = told(findings, f"{call} {n}", stage)
            self._clear(stage, findings)
            return verdict

    def _clear(self, stage: Stage, findings: list[str]) -> None:
        if not findings:
            shutil.rmtree(stage.scene.directory)


def told(findings: list[str], title: str, stage: Stage) -> list[str]:
    """The findings, and what the farms said, if there are any."""
    if not findings:
        return []
    return [f"=== {title}", *findings, stage.outputs() if len(findings) else ""]


def play(stage: Stage, name: str, **others: Any) -> list[str]:
    """A farm to its end, whatever that is; nothing of it may live on."""
    child = stage.start(*OPTIONS, name=name, **others)
    child.wait(FARM_DEADLINE)
    return stage.await_end(name)


def resume(stage: Stage, *, torn: bool) -> list[str]:
    """A farm that nothing happens to puts all right."""
    child = stage.start(*OPTIONS, name="resume")
    status = child.wait(FARM_DEADLINE)
    findings = stage.await_end("resume") + stage.judge_survivors()
    allowed = Allowance(torn_attempts=torn)
    return findings + stage.scene.judge(stage.snapshots, status, allowed)


def each_until_unharmed(
    strike: Callable[[int], Verdict], numbers: Iterable[int], at_least: int
) -> Iterator[list[str]]:
    """The findings for one number after the other, until nothing was struck.

    A farm that the machine keeps still writes more in fewer calls: where fewer than
    `at_least` were struck, each number is tried again.
    """
    remaining, kills = iter(numbers), 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while batch := list(islice(remaining, 2 * AT_ONCE)):
            verdicts = list(pool.map(strike, batch))
            if (
                None in verdicts
                and kills + len(batch) - verdicts.count(None) < at_least
            ):
                verdicts = [
                    strike(number) if verdict is None else verdict
                    for number, verdict in zip(batch, verdicts, strict=True)
                ]
            struck = [verdict for verdict in verdicts if verdict is not None]
            yield from struck
            kills += len(struck)
            if not struck or (None in verdicts and kills >= at_least):
                return


def assert_all_right(
    strike: Callable[[int], Verdict], numbers: Iterable[int], at_least: int
) -> None:
    """Strike at one number after the other; `at_least` so many are struck."""
    kills = 0
    wrong = []
    for verdict in each_until_unharmed(strike, numbers, at_least):
        kills += 1
        wrong += [verdict] if verdict else []
        if len(wrong) == MAX_TOLD:
            break
    report = "\n".join("\n".join(verdict) for verdict in wrong)
    assert not wrong, f"{len(wrong)} of {kills} kills and more; the first:\n{report}"
    assert kills >= at_least, f"only {kills} kills: the farm has changed"


@pytest.fixture
def theatre(tmp_path):
    return Theatre(tmp_path)


def steps(first, step):
    return count(first, 1 if FULL else step)


# ---- from inside --------------------------------------------------------------------


@pytest.mark.parametrize("deed", ["kill", "torn"])
def test_a_kill_at_any_call_that_writes_loses_nothing(theatre, deed):
    numbers = steps(1, 1 if deed == "kill" else 3)
    at_least = 40 if deed == "kill" or FULL else 12
    assert_all_right(lambda n: theatre.strike(f"{n}:{deed}"), numbers, at_least)


@pytest.mark.parametrize("first", [22, 42] if not FULL else range(15, 60, 4))
def test_a_kill_at_any_call_of_a_farm_that_goes_on_after_a_kill_loses_nothing(
    theatre, first
):
    assert_all_right(
        lambda n: theatre.strike(f"{first}:kill", f"{n}:kill"), steps(8, 6), 5
    )


def test_a_second_kill_of_farms_that_take_back_a_claim_loses_nothing(theatre):
    assert_all_right(
        lambda n: theatre.strike("28:kill", f"{n}:torn", f"{n + 1}:kill"),
        *(steps(9, 6), 4),
    )


@pytest.mark.parametrize("signal", ["USR1", "TERM", "USR2"])
def test_a_kill_at_any_call_of_a_farm_that_stops_loses_nothing(theatre, signal):
    assert_all_right(lambda n: theatre.strike(f"26:{signal},{n}:kill"), steps(27, 4), 3)


@pytest.mark.parametrize("part", ["parent", "worker"])
def test_a_kill_of_a_pools_process_at_any_of_its_calls_loses_nothing(theatre, part):
    assert_all_right(lambda n: theatre.strike(f"{n}:kill", part=part), steps(1, 2), 1)


# ---- with the real calls ------------------------------------------------------------

CALLS = ["pwrite64", "rename", "unlink", "fsync"]
if FULL:
    CALLS += ["write", "flock", "fcntl", "mkdir", "openat"]


def count_calls(theatre, call):
    """The numbers of a farm's own calls that write, counted as strace does."""
    with theatre.open_stage() as stage:
        trace = stage.scene.directory / "trace"
        options = ["-qq", "-o", str(trace), "-e", f"trace={call}"]
        before = [find_tool("strace"), *options]
        child = stage.start(*OPTIONS, name="traced", before=before)
        assert child.wait(FARM_DEADLINE) in ENDS, child.text()
        calls = re.findall(rf"^{call}\(.*", trace.read_text(), re.MULTILINE)
    return [n for n, line in enumerate(calls, 1) if "O_RDONLY" not in line]


@pytest.mark.parametrize("call", CALLS)
def test_a_kill_by_strace_at_a_call_that_writes_loses_nothing(theatre, call):
    numbers = count_calls(theatre, call)
    chosen = numbers if FULL else numbers[1::6]
    at_least = 0 if len(numbers) < 8 else 1
    assert_all_right(lambda n: theatre.trace(call, n), chosen, at_least)
