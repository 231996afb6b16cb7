"""What stood in a workdir while many worked on it, and judges of a list with an order.

Rules of this file: the list, its order and the files are read as the pages of the
project describe them, without mpifarm's own readers.  A `Watch` takes the lock as any
farmer does, for a moment at each look.  A judge returns sentences, none where all is
right.

Each task has a word of its own, so that a line tells from whom it came.
"""

import fcntl
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.fault.evidence import PLAIN, Run, Scene, Task, counted
from tests.workdir_files import parse_ranges

QUEUES = ("toprocess", "added", "waiting")

_TASK = re.compile(r"(\[limit=\w+\] )?bash task (\S+) (\d+) (\S+)")

HOLD_SLACK = 1.0
"""Seconds in which what ran when all was held notes its start, if no time stalls."""


# ---- the list ------------------------------------------------------------------------


@dataclass
class Listing:
    """A list as it reads: its tasks and their order."""

    tasks: list[Task] = field(default_factory=list)
    barriers: list[tuple[int, bool]] = field(default_factory=list)
    """The first task behind each, and whether it checks."""
    after: dict[int, set[int]] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)
    """Lines that nobody has written so."""

    def is_shared(self, taskid: int) -> bool:
        """Return whether plain farmers may run the task as it stands."""
        behind = any(first <= taskid for first, _ in self.barriers)
        return not (behind or taskid in self.after or self.tasks[taskid].prefix)

    def find_needed(self, taskid: int) -> set[int]:
        """Return the tasks that have to finish before this one may start."""
        needed = set(self.after.get(taskid, ()))
        for first, checks in self.barriers:
            if checks and first <= taskid:
                needed.update(range(first))
        return needed

    def find_awaited(self, taskid: int) -> set[int]:
        """Return the tasks that have to end before this one may start."""
        firsts = [first for first, _ in self.barriers if first <= taskid]
        return {*range(max(firsts, default=0)), *self.after.get(taskid, ())}


def read_task(line: str) -> Task | None:
    """Read one line of a list; None if it is no task of these."""
    found = _TASK.fullmatch(line)
    if found is None:
        return None
    prefix, seconds, status, word = found.groups(default="")
    return Task(seconds, int(status), word, prefix)


def read_listing(path: Path) -> Listing:
    """Read the whole lines of a list."""
    listing = Listing()
    after: set[int] = set()
    for line in path.read_text().split("\n")[:-1]:
        if line.startswith("#BARRIER"):
            listing.barriers.append((len(listing.tasks), line.endswith("CHECK")))
        elif line.startswith("#AFTER "):
            after |= parse_ranges(line.removeprefix("#AFTER "))
        elif task := read_task(line):
            if after:
                listing.after[len(listing.tasks)], after = after, set()
            listing.tasks.append(task)
        elif line:
            listing.odd.append(line)
    return listing


class Sight(NamedTuple):
    """What stands in the files at one moment."""

    listing: Listing
    finished: frozenset[int]
    failed: frozenset[int]
    queued: dict[str, list[int]]
    """The ids in each queue."""
    shown: list[str]
    """The lines that plain farmers may take."""


class CrowdScene(Scene):
    """A scene with a text list that grows."""

    plain_options: tuple[str, ...] = ()
    pops_known = False
    """Whether plain farmers leave what was added since their start."""
    plain_path = ""
    """Where else a plain farmer finds Python's modules."""

    def is_made(self) -> bool:
        """Whether anybody has begun the workdir."""
        return (self.workdir / "toprocess").exists()

    def is_begun(self) -> bool:
        """Whether a farm of mpifarm has."""
        return (self.workdir / "fingerprint.json").exists() and self.is_made()

    def read_listing(self) -> Listing:
        """Read the list as it is now."""
        return read_listing(self.tasklist)

    def look(self) -> Sight | None:
        """Read all; None if that can't be done now.  Lock held."""
        listing = self.read_listing()
        texts = [task.line for task in listing.tasks]
        return Sight(
            listing,
            frozenset(self.ids("finished", texts)),
            frozenset(self.ids("failed", texts)),
            {name: self.ids(name, texts) for name in QUEUES},
            self.content("toprocess").decode().split("\n"),
        )


# ---- while they work -----------------------------------------------------------------


class Watch:
    """Looks at the workdir while farmers work on it."""

    def __init__(self, scene: CrowdScene) -> None:
        self._scene = scene
        self._finished: frozenset[int] = frozenset()
        self.recorded: dict[int, float] = {}
        """When each task was seen in ``finished`` or ``failed`` first."""
        self.readers: dict[str, int] = {}
        """The plain farmers that are there, and how many tasks each of them knows."""
        self.withheld: set[int] = set()
        """What is held for sure, by the answer of a farm."""
        self.findings: list[str] = []
        self.looks = 0

    def look(self, now: float) -> None:
        """Look under the lock, if that is free; `now` are seconds since 1970."""
        try:
            lock = (self._scene.workdir / "lock").open("rb")
        except FileNotFoundError:
            return
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            sight = self._scene.look()
        if sight is None:
            return
        self.looks += 1
        for taskid in sight.finished | sight.failed:
            self.recorded.setdefault(taskid, now)
        if gone := self._finished - sight.finished:
            self._find(f"{sorted(gone)} were finished, and are no more")
        self._finished = sight.finished
        if sight.listing.odd:
            self._find(f"the list has odd lines: {sight.listing.odd}")
        self._judge_queues(sight.queued)
        self._judge_shown(sight.listing, sight.shown)

    def _judge_queues(self, queued: dict[str, list[int]]) -> None:
        places = Counter(taskid for ids in queued.values() for taskid in ids)
        twice = [taskid for taskid, count in places.items() if count > 1]
        if twice:
            self._find(f"{twice} stand in two queues, or twice in one: {queued}")

    def _judge_shown(self, listing: Listing, lines: Sequence[str]) -> None:
        """Judge what plain farmers are shown."""
        texts = {f"{i} {task.line}": i for i, task in enumerate(listing.tasks)}
        shown = [line for line in lines if line]
        if odd := [line for line in shown if line not in texts]:
            self._find(f"toprocess has lines that are no tasks: {odd[:3]}")
            return
        ids = [texts[line] for line in shown]
        for taskid in ids:
            if not listing.is_shared(taskid):
                self._find(f"toprocess shows {taskid}, which plain farmers may not run")
            if taskid in self.withheld:
                self._find(f"toprocess shows {taskid}, which is held")
        readers = {} if self._scene.pops_known else self.readers
        for name, known in readers.items():
            if unknown := [taskid for taskid in ids if taskid >= known]:
                self._find(f"toprocess shows {unknown} to {name}, which knows {known}")

    def _find(self, sentence: str) -> None:
        if len(self.findings) < 10:
            self.findings.append(sentence)


# ---- what was asked ------------------------------------------------------------------


class Hold(NamedTuple):
    """Tasks that nobody may start between two moments; None: all."""

    tasks: frozenset[int] | None
    begin: float
    end: float


@dataclass
class Asked:
    """What farms have answered."""

    cancelled: dict[int, float] = field(default_factory=dict)
    """When each task was cancelled for sure."""
    maybe_cancelled: set[int] = field(default_factory=set)
    """Tasks of all requests to cancel, answered or not."""
    holds: list[Hold] = field(default_factory=list)
    stalled: float = 0.0
    """The longest time for which the machine kept the test still, in seconds."""


# ---- judges --------------------------------------------------------------------------


class CrowdJudge:
    """The judge of a list that is done."""

    def __init__(
        self, scene: CrowdScene, listing: Listing, watch: Watch, asked: Asked
    ) -> None:
        self._scene = scene
        self._listing = listing
        self._watch = watch
        self._asked = asked
        self._runs = {i: scene.runs(i) for i in range(len(listing.tasks))}
        self._finished = Counter(scene.recorded("finished"))
        self._failed = Counter(scene.recorded("failed"))

    def judge(self, written: Collection[str]) -> Iterator[str]:
        """Yield what is wrong; `written` are the words of all lines of the list."""
        yield from self._judge_list(written)
        yield from self._judge_records()
        yield from self._judge_late_runs()
        yield from self._judge_order()
        yield from self._judge_cancelled()
        yield from self._judge_holds()
        yield from self._judge_logs()

    def _judge_list(self, written: Collection[str]) -> Iterator[str]:
        there = Counter(task.word for task in self._listing.tasks)
        if missing := sorted({*written} - there.keys()):
            yield f"lines are missing in the list: {missing}"
        if alien := sorted(there.keys() - {*written}):
            yield f"the list has lines that nobody has added: {alien}"
        if twice := sorted(word for word, count in there.items() if count > 1):
            yield f"the list has lines twice: {twice}"
        if self._listing.odd:
            yield f"the list has odd lines: {self._listing.odd}"

    def _judge_records(self) -> Iterator[str]:
        excused = self._asked.maybe_cancelled | self._find_doomed()
        for taskid, task in enumerate(self._listing.tasks):
            places = self._finished[taskid], self._failed[taskid]
            runs = self._runs[taskid]
            ran = any(run.end is not None for run in runs)
            what = f"task {taskid} ({task.line})"
            if sum(places) != 1:
                yield f"{what} stands {places} times in finished, failed: {runs}"
            elif places[0]:
                if task.status:
                    yield f"{what} stands in finished, and fails: {runs}"
                if not ran:
                    yield f"{what} stands in finished, and never ran to its end: {runs}"
            elif taskid not in excused and not (task.status and ran):
                yield f"{what} stands in failed for no reason: {runs}"

    def _find_doomed(self) -> set[int]:
        """Return the tasks that need one that has failed."""
        needed = self._listing.find_needed
        return {i for i in self._runs if needed(i) & self._failed.keys()}

    def _judge_late_runs(self) -> Iterator[str]:
        """Judge runs of tasks that were recorded already."""
        for taskid, seen in self._watch.recorded.items():
            if late := [run for run in self._runs[taskid] if run.start > seen]:
                yield f"task {taskid} was recorded by {seen:.3f} and ran again: {late}"
        for taskid in self._runs:
            path = self._scene.directory / "runs" / str(taskid)
            if path.exists() and "overlap" in path.read_text():
                yield f"task {taskid} ran twice at one moment: {path.read_text()}"

    def _judge_order(self) -> Iterator[str]:
        doomed = self._find_doomed()
        for taskid, runs in self._runs.items():
            if taskid in doomed and runs:
                needed = self._listing.find_needed(taskid) & self._failed.keys()
                yield f"task {taskid} ran, and {counted(needed)} failed: {runs}"
            for each in sorted(self._listing.find_awaited(taskid)):
                for run in runs:
                    if why := self._find_too_early(run, each):
                        yield f"task {taskid} began too early, {why}: {run}"

    def _find_too_early(self, run: Run, awaited: int) -> str:
        """Return why a run has not waited for a task, "" if it has."""
        before = self._runs[awaited]
        if late := [each for each in before if each.start > run.start]:
            return f"task {awaited} ran later: {late}"
        ended = [each for each in before if each.end and each.end <= run.start]
        if not ended and awaited not in self._failed:
            return f"task {awaited} had not ended: {before}"
        running = [each for each in before if each.end and each.end > run.start]
        return f"task {awaited} ran still: {running}" if running else ""

    def _judge_cancelled(self) -> Iterator[str]:
        for taskid, when in self._asked.cancelled.items():
            if late := [run for run in self._runs[taskid] if run.start > when]:
                yield f"task {taskid} was cancelled by {when:.3f}, and ran: {late}"
            if not self._failed[taskid]:
                yield f"task {taskid} was cancelled and is not in failed"

    def _judge_holds(self) -> Iterator[str]:
        slack = HOLD_SLACK + self._asked.stalled
        for tasks, held, end in self._asked.holds:
            # Of a farm that was killed nobody knows when it heeds a hold of all.
            begin = held + slack if tasks is None else held
            for taskid, runs in self._runs.items():
                if tasks is not None and taskid not in tasks:
                    continue
                # Nobody can keep a plain farmer from what it was shown before.
                late = [
                    run
                    for run in runs
                    if begin < run.start < end and run.attempt != PLAIN
                ]
                if late:
                    yield f"task {taskid} was held from {begin:.3f} and ran: {late}"

    def _judge_logs(self) -> Iterator[str]:
        for taskid in self._finished:
            log = self._scene.content(f"logs/log_{taskid}").decode()
            word = self._listing.tasks[taskid].word
            if log.splitlines()[-1:] != [word]:
                yield f"log_{taskid} holds {log!r}, not {word}"
