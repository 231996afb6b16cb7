"""Farms and subcommands on a disk that fails at one of its calls, and what must hold.

    python -m tests.fault.disk_faults --play resume --deed EIO -v

Rules of this file: a `Play` is one command on a workdir in a known state.  Without a
fault it tells which calls it makes; then it is played once for each of them, with that
one call failing.  What must hold then stands in `judge`.  States are made once, by real
farms on a sound disk, and copied.  What tasks do they write down outside the disk.
"""

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple, Self

from tests.farm_driver import FARM_PARTS, MPIFARM, Part, find_members
from tests.fault.faulty_disk import Call, Fault, FaultyDisk
from tests.invariants import find_violations
from tests.support import (
    ROOT,
    TOKEN_VARIABLE,
    Child,
    Launch,
    clean_environment,
    wait_until,
)
from tests.workdir_files import WorkdirFiles

DEADLINE = 60.0
"""Seconds for a command of some short tasks on a busy machine."""

AT_ONCE = 4
"""Disks side by side: a farm waits for half of its time."""

TASKS = 6
EARLY = 4
"""Tasks that end at once in each state; the others do what ``$REST`` says."""

LIST = "tasks.txt"
WORKDIR = "tasks.txt_workdir"
OPTIONS = ("--mpi", "off", "--proc", "2", "--grace", "2")


def line_of(number: int) -> str:
    """A task: its text is its own, and each of its runs is written down."""
    return (
        f': {number}; echo $PROC_NUMBER >>"$RUNS"; ((PROC_NUMBER < {EARLY})) || $REST'
    )


LINES = tuple(map(line_of, range(TASKS)))


class Place(WorkdirFiles):
    """A directory with the list and the workdir, perhaps on a faulty disk.

    Not a `FarmDriver`, which finds list and workdir where its farms run: here a test
    that looks there would use up the faults.
    `there` is where commands find it, `truth` where it is without any fault.
    """

    def __init__(self, there: Path, truth: Path, outside: Path) -> None:
        self.there = there
        self.truth = truth
        self.runs = outside / "runs"
        self.token = uuid.uuid4().hex
        super().__init__(truth / WORKDIR)

    def lines(self) -> list[str]:
        return (self.truth / LIST).read_text().splitlines()

    def ran(self) -> Counter[int]:
        """How often each task was begun."""
        if not self.runs.exists():
            return Counter()
        return Counter(map(int, self.runs.read_text().split()))

    def start(self, *argv: str, rest: str = "true") -> Child:
        environment = {
            **clean_environment(os.environ),
            "PYTHONPATH": str(ROOT),
            "RUNS": str(self.runs),
            TOKEN_VARIABLE: self.token,
            "REST": rest,
        }
        launch = Launch([*argv], environment)
        return Child(launch, self.there, self.runs.with_name("said"))

    def run(self, *argv: str, rest: str = "true") -> tuple[int, str]:
        """A command to its end: its exit status, and what it said."""
        child = self.start(*argv, rest=rest)
        try:
            self.await_end(child)
            return child.wait(), child.text()
        except AssertionError as error:
            return 124, str(error)
        finally:
            child.end()

    def await_end(self, child: Child) -> None:
        """Wait until the farm is gone; commands may outlive a kill of all else."""
        child.wait(DEADLINE)
        parts = (*FARM_PARTS, Part.LAUNCHER)
        wait_until(lambda: not any(m.part in parts for m in find_members(self.token)))


def farm(*options: str) -> tuple[str, ...]:
    """The command line of a farm."""
    return (*MPIFARM, LIST, *OPTIONS, *options)


# ---- states -------------------------------------------------------------------------


def _leave_fresh(place: Place) -> None:
    pass


def _leave_begun(place: Place) -> None:
    """Stopped in order, with some tasks finished."""
    _stop_when_early_are_done(place, lambda pid: os.kill(pid, signal.SIGUSR1))


def _leave_dead(place: Place) -> None:
    """Killed, with a claim of what was running."""
    _stop_when_early_are_done(place, lambda pid: os.killpg(pid, signal.SIGKILL))
    assert place.claims()


def _stop_when_early_are_done(place: Place, stop: Callable[[int], None]) -> None:
    child = place.start(*farm(), rest="sleep 1000")
    wait_until(lambda: len(place.ids("finished")) == EARLY)
    wait_until(lambda: len(place.ran()) == TASKS)
    stop(child.pid)
    place.await_end(child)


def _leave_failed(place: Place) -> None:
    """Done, but for tasks that failed."""
    status, said = place.run(*farm(), rest="false")
    assert status == 1, said


def _leave_edited(place: Place) -> None:
    """Begun, then a line was put before the others."""
    _leave_begun(place)
    lines = [line_of(100), *LINES]
    (place.truth / LIST).write_text("".join(f"{line}\n" for line in lines))


def _leave_longer(place: Place) -> None:
    """Begun, then lines were added."""
    _leave_begun(place)
    with (place.truth / LIST).open("a") as stream:
        stream.write(f"{line_of(100)}\n{line_of(101)}\n")


def _leave_damaged(place: Place) -> None:
    """Begun, and then many things went wrong that can be repaired."""
    _leave_dead(place)
    finished = place.workdir / "finished"
    finished.write_bytes(finished.read_bytes() + f"0 {LINES[0]}\n1 {LINES[1]}".encode())
    toprocess = place.workdir / "toprocess"
    toprocess.write_bytes(f"2 {LINES[2]}\n".encode() + toprocess.read_bytes())
    (place.workdir / "timeline.json").write_text("[")


STATES: Mapping[str, Callable[[Place], None]] = {
    "fresh": _leave_fresh,
    "begun": _leave_begun,
    "dead": _leave_dead,
    "failed": _leave_failed,
    "edited": _leave_edited,
    "longer": _leave_longer,
    "damaged": _leave_damaged,
}


class States:
    """Directories in each of the states; each is made when it is first wanted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: dict[str, Path] = {}

    def prepare(self, names: Iterable[str]) -> None:
        """Make those that are missing."""
        for name in names:
            if name in self._made:
                continue
            outside = self._directory / name
            place = Place(outside / "place", outside / "place", outside)
            place.truth.mkdir(parents=True)
            text = "".join(f"{line}\n" for line in LINES)
            (place.truth / LIST).write_text(text)
            STATES[name](place)
            self._made[name] = outside

    def lay(self, name: str, place: Place) -> None:
        """Let `place` be in that state."""
        shutil.rmtree(place.truth, ignore_errors=True)
        shutil.copytree(self._made[name] / "place", place.truth)
        place.runs.unlink(missing_ok=True)
        if (self._made[name] / "runs").exists():
            shutil.copy(self._made[name] / "runs", place.runs)


# ---- plays --------------------------------------------------------------------------

ENDED, FOUND, MISTAKE, TO_GO_ON = 0, 1, 2, 75


@dataclass(frozen=True)
class Play:
    """A command on a workdir in a state."""

    state: str
    argv: tuple[str, ...]
    statuses: frozenset[int]
    """How it may end when one call fails."""
    then: tuple[str, ...] = farm()
    """The farm that finishes the list on the sound disk."""


_MENDED = ("damaged", "failed")
"""States that a farm alone does not put right."""

_FARM = frozenset({ENDED, TO_GO_ON})
_TOOL = frozenset({ENDED, TO_GO_ON})
_CHECK = frozenset({ENDED, FOUND, TO_GO_ON})

PLAYS: Mapping[str, Play] = {
    "start": Play("fresh", farm(), _FARM),
    "resume": Play("begun", farm(), _FARM),
    "reclaim": Play("dead", farm(), _FARM),
    "longer": Play("longer", farm(), _FARM),
    "remap": Play("edited", farm("--remap"), _FARM, farm("--remap")),
    "packed": Play("begun", farm("--logs", "packed"), _FARM),
    "check": Play("dead", (*MPIFARM, "check", WORKDIR), _CHECK),
    "repair": Play("damaged", (*MPIFARM, "check", "--repair", WORKDIR), _CHECK),
    "retry": Play("failed", (*MPIFARM, "retry", WORKDIR), _TOOL),
    "log": Play("begun", (*MPIFARM, "log", WORKDIR, "0"), _TOOL),
}

NAMES = r"^/place/"
"""The paths that may be struck: all but the mount point itself."""

KINDS: Mapping[str, str] = {
    "EIO": "",
    "ESTALE": "",
    "ENOSPC": "write|create|mkdir|rename|symlink|link|truncate|fsync|flush|utimens",
    "EACCES": "open|create|opendir|access|rename|unlink|mkdir|write|truncate|utimens",
    "EROFS": "create|open|rename|unlink|mkdir|write|truncate|utimens|access",
    "done:EIO": "rename|unlink|mkdir|create|write|truncate|fsync",
    "short": "write",
}
"""For each deed a pattern of the calls that it may happen to; all if it is empty."""

_MISTAKES = ("EACCES", "EROFS")
"""These may be the user's own: a start may refuse, 2."""


class Strike(NamedTuple):
    """One call of a play, and what happens to it."""

    play: str
    deed: str
    call: Call
    number: int
    """The how manieth of these calls on this path."""

    @property
    def fault(self) -> Fault:
        # The kernel asks once more where the answer was ESTALE.
        count = 2 if self.deed == "ESTALE" else 1
        # A name of this run stands for its like in another run.
        pieces = map(re.escape, _RANDOM.split(self.call.path))
        pattern = f"(?:{_RANDOM.pattern})".join(pieces)
        return Fault(self.call.name, f"^{pattern}$", self.deed, self.number, count)

    def __str__(self) -> str:
        return (
            f"{self.play}: {self.deed} at {self.call.name} {self.number} of "
            f"{self.call.path}"
        )


_RANDOM = re.compile("[0-9]{8}[T-][0-9]{6}|[0-9a-f]{8,16}")
"""Times and the names of farms, in names of files."""


def strikes_of(play: str, deed: str, calls: Sequence[Call]) -> list[Strike]:
    """One for each of the calls that the deed may happen to."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for call in calls:
        if not re.search(NAMES, call.path):
            continue
        if KINDS[deed] and not re.fullmatch(KINDS[deed], call.name):
            continue
        key = call.name, _RANDOM.sub("*", call.path)
        seen[key] += 1
        found.append(Strike(play, deed, call, seen[key]))
    return found


def sample(strikes: Sequence[Strike], most: int) -> list[Strike]:
    """Some of them, from the beginning to the end, of calls that differ."""
    first: dict[tuple[str, str], Strike] = {}
    for strike in strikes:
        path = _RANDOM.sub("*", strike.call.path)
        first.setdefault((strike.call.name, re.sub(r"[0-9]+", "N", path)), strike)
    distinct = list(first.values())
    step = max(len(distinct) / most, 1.0)
    count = min(most, len(distinct))
    return [distinct[int(step * number)] for number in range(count)]


# ---- the stage ----------------------------------------------------------------------


class Verdict(NamedTuple):
    """What came of a strike."""

    strike: Strike
    struck: bool
    """Whether the call came again in this run."""
    status: int
    findings: list[str]
    said: str


@dataclass
class Theatre:
    """Some disks, and the states that are laid on them; a context manager."""

    directory: Path
    at_once: int = AT_ONCE
    _stack: ExitStack = field(default_factory=ExitStack)
    _disks: "SimpleQueue[tuple[FaultyDisk, Place]]" = field(default_factory=SimpleQueue)

    def __enter__(self) -> Self:
        self.states = States(self.directory / "states")
        for number in range(self.at_once):
            own = self.directory / str(number)
            disk = self._stack.enter_context(FaultyDisk(own))
            place = Place(disk.root / "place", disk.backing / "place", own)
            self._disks.put((disk, place))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def find_calls(self, play: str) -> list[Call]:
        """The calls of a play on the sound disk."""
        with self.stage(PLAYS[play].state) as (disk, place):
            status, said = place.run(*PLAYS[play].argv)
            assert status in PLAYS[play].statuses - {TO_GO_ON}, said
            return disk.calls()

    @contextmanager
    def stage(self, state: str) -> Iterator[tuple[FaultyDisk, Place]]:
        """A sound disk with the list and the workdir in that state."""
        self.states.prepare([state])
        disk, place = self._disks.get()
        try:
            disk.heal()
            self.states.lay(state, place)
            disk.heal()  # Calls count from here.
            yield disk, place
        finally:
            disk.heal()
            self._disks.put((disk, place))

    def strike(self, strike: Strike) -> Verdict:
        """Play with that call failing, then put all right on the sound disk."""
        with self.stage(PLAYS[strike.play].state) as (disk, place):
            return self._strike(strike, disk, place)

    def _strike(self, strike: Strike, disk: FaultyDisk, place: Place) -> Verdict:
        play = PLAYS[strike.play]
        before = {*place.ids("finished")}, place.ran()
        disk.inject(strike.fault)
        status, said = place.run(*play.argv)
        struck = bool(disk.struck())
        disk.heal()
        findings = [*judge_end(play, strike.deed, status, said)]
        if strike.play != "remap":
            findings += judge_runs(place, *before)
        if play.state in _MENDED and status != ENDED:
            # It has done nothing, or a part: what is left of it comes first.
            place.run(*play.argv)
        recorded = {*place.ids("finished")}, place.ran()
        last, again = place.run(*play.then)
        findings += [*judge_finished(place, last)]
        if strike.play != "remap":
            findings += judge_runs(place, *recorded)
        said = f"{said}--- then {last}\n{again}"
        return Verdict(strike, struck, status, findings, said)

    def play_all(self, strikes: Iterable[Strike]) -> Iterator[Verdict]:
        """The verdicts, as they come."""
        with ThreadPoolExecutor(self.at_once) as pool:
            yield from pool.map(self.strike, strikes)


# ---- judges -------------------------------------------------------------------------


def judge_end(play: Play, deed: str, status: int, said: str) -> Iterator[str]:
    """How the struck command ended."""
    allowed = play.statuses | ({MISTAKE} if deed in _MISTAKES else set())
    if status not in allowed:
        yield f"it ended with {status}"
    if "Traceback" in said or "defect" in said:
        yield "it told of a defect"


def judge_runs(place: Place, finished: set[int], ran: Counter[int]) -> Iterator[str]:
    """Nothing that was recorded as finished may have run again since."""
    now = place.ran()
    for taskid in sorted(finished):
        if now[taskid] > ran[taskid]:
            yield f"task {taskid} was recorded as finished and ran again"


def judge_finished(place: Place, status: int) -> Iterator[str]:
    """After the farm on the sound disk."""
    if status != ENDED:
        yield f"the farm after it ended with {status}"
    lines = place.lines()
    finished = place.ids("finished")
    if sorted(finished) != [*range(len(lines))]:
        yield f"finished holds {sorted(finished)}"
    yield from find_violations(str(place.workdir), lines, ())
    if left := place.claims():
        yield f"claims were left: {left}"
    if never := set(range(len(lines))) - place.ran().keys():
        yield f"tasks never ran: {never}"


# ---- the command line ---------------------------------------------------------------


def say(text: str) -> None:
    """A line of the report, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Play; the exit status is 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--play", action="append", choices=PLAYS)
    parser.add_argument("--deed", action="append", choices=KINDS)
    parser.add_argument("--only", default="", help="a pattern of what is struck")
    parser.add_argument("--step", type=int, default=1, help="each how manieth call")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("-v", action="store_true", dest="verbose")
    chosen = parser.parse_args()
    begun = time.monotonic()
    wrong = total = 0
    with (
        tempfile.TemporaryDirectory(prefix="mpifarm-disk-") as directory,
        Theatre(Path(directory), chosen.at_once) as theatre,
    ):
        for play in chosen.play or PLAYS:
            calls = theatre.find_calls(play)
            for deed in chosen.deed or KINDS:
                strikes = strikes_of(play, deed, calls)[:: chosen.step]
                chosen_ones = [s for s in strikes if re.search(chosen.only, str(s))]
                ends: Counter[int] = Counter()
                for verdict in theatre.play_all(chosen_ones):
                    total += 1
                    ends[verdict.status] += 1
                    wrong += bool(verdict.findings)
                    if verdict.findings or chosen.verbose:
                        say(f"{verdict.strike}: {verdict.status} {verdict.findings}")
                    if chosen.verbose:
                        say(verdict.said)
                say(f"{play} {deed}: {sum(ends.values())} strikes, ends {dict(ends)}")
    say(f"{wrong} of {total} are wrong, {time.monotonic() - begun:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
