"""Many at work on one list that grows and has an order; a seed is a scenario.

    python -m tests.fault.crowd --seed 17 --runs 1 -v

Two MPI farms, both PyTaskFarmers, ``mpifarm add`` and a user who appends lines, and
somebody who cancels, holds and releases tasks: all act on one workdir, and most are
killed at some moment.  Farms that end are started again.  When all acts are over, all
is released, a farm that nothing happens to does the rest, and the judges look
(`tests.fault.crowd_evidence`).

Rules of this file: what is random is decided by `plan`, which does nothing.  Moments
are seconds since the scenario began, so a busy machine may see another order of events.
Plain farmers join a list that they would misread only when a farm of mpifarm has begun
the workdir.  What each kill excuses stands where it is inflicted.
"""

import json
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.farm_driver import MPIFARM, Mpirun, Part, send_signal
from tests.fault.crowd_evidence import (
    Asked,
    CrowdJudge,
    CrowdScene,
    Hold,
    Watch,
)
from tests.fault.evidence import Task
from tests.fault.harness import (
    ALL_FINISHED,
    ELSEWHERE,
    GRACE,
    SOME_FAILED,
    TO_GO_ON,
    Kind,
    Outcome,
    find_programs,
    is_task,
    play_command_line,
)
from tests.fault.stage import Stage
from tests.support import Child, Launch, find_launcher, find_plain_python
from tests.workdir_files import parse_ranges

FARM_DEADLINE = 60.0
"""Seconds in which a farm of some dozens of short tasks ends on a busy machine."""
COMMAND_DEADLINE = 60.0
WAIT_SECONDS = "30"
"""How long a request waits for answers: no farm that lives needs so long."""
SEAT = "[limit=seat] "
LOOK_EACH = 0.05
SHOWN = 600
"""Characters of what a command has printed that a report shows."""


# ---- the plan ------------------------------------------------------------------------


class Adding(NamedTuple):
    """Tasks that are added to the list."""

    moment: float
    tasks: tuple[Task, ...]
    after: tuple[float, ...] = ()
    """What they wait for, each as a share of the list's length."""
    as_json: bool = False
    killed_after: float | None = None


class Asking(NamedTuple):
    """A request to the farms."""

    moment: float
    kind: str
    picks: tuple[float, ...] = ()
    """Its tasks, each as a share of the list's length; none: all."""
    killed_after: float | None = None


class Kill(NamedTuple):
    """A KILL to one rank of a farm, or to all of them and their launcher."""

    moment: float
    pick: float
    """Which rank, from 0 to 1; 1 and more: all."""


class FarmPlan(NamedTuple):
    """A farm, started again whenever it has ended."""

    name: str
    ranks: int
    options: tuple[str, ...]
    joins_at: float
    pause: float
    kills: tuple[Kill, ...]


class PlainPlan(NamedTuple):
    """A plain farmer."""

    version: str
    joins_at: float
    killed_after: float | None
    is_first: bool
    """Whether it begins the workdir, before any farm."""


@dataclass(frozen=True)
class Scenario:
    """All that a seed decides."""

    seed: int
    lines: tuple[str, ...]
    farms: tuple[FarmPlan, ...]
    plain: tuple[PlainPlan, ...]
    added: tuple[Adding, ...]
    """By ``mpifarm add``."""
    appended: tuple[Adding, ...]
    """By the user."""
    asked: tuple[Asking, ...]
    ends_by_kill: bool
    """Whether the farms are killed before the last one starts."""

    @property
    def has_kinds(self) -> bool:
        return any(line.startswith(SEAT) for line in self.lines)

    @property
    def kills_plain(self) -> bool:
        return any(each.killed_after is not None for each in self.plain)

    def __str__(self) -> str:
        parts = [*self.farms, *self.plain, *self.added, *self.appended, *self.asked]
        ends = "farms are killed" if self.ends_by_kill else "farms end"
        head = f"seed {self.seed}: {len(self.lines)} lines, {ends}"
        return "\n".join((head, *(f"    {part}" for part in parts)))


ACTS = 5.0
"""Seconds in which all acts begin."""


def plan(seed: int) -> Scenario:
    """What the seed stands for."""
    rng = random.Random(seed)
    is_ordered, has_kinds = rng.random() < 0.5, rng.random() < 0.25
    failing = rng.choice([0.0, 0.03])
    words = _Words(rng, failing, has_kinds=has_kinds)
    plain_first = not (is_ordered or has_kinds) and rng.random() < 0.5
    kills_plain = rng.random() < 0.2
    return Scenario(
        seed,
        tuple(_plan_lines(rng, words, is_ordered=is_ordered)),
        tuple(_plan_farm(rng, name, has_kinds=has_kinds) for name in ("east", "west")),
        tuple(_plan_plain(rng, first=plain_first, kills=kills_plain)),
        tuple(_plan_adding(rng, words, "add", is_killable=True)),
        tuple(_plan_adding(rng, words, "user", is_killable=False)),
        tuple(_plan_asking(rng)),
        rng.random() < 0.3,
    )


class _Words:
    """Tasks, each with a word of its own."""

    def __init__(self, rng: random.Random, failing: float, *, has_kinds: bool) -> None:
        self._rng, self._failing, self._has_kinds = rng, failing, has_kinds

    def make(self, word: str) -> Task:
        rng = self._rng
        seconds = rng.choices(["0", "0.1", "0.4", "1"], [2, 2, 4, 2])[0]
        status = rng.choice([1, 3]) if rng.random() < self._failing else 0
        # A limit is refused without a task of the kind: the first task is one.
        is_kind = word == "i0" or rng.random() < 0.3
        prefix = SEAT if self._has_kinds and is_kind else ""
        return Task(seconds, status, word, prefix)


def _plan_lines(
    rng: random.Random, words: _Words, *, is_ordered: bool
) -> Iterator[str]:
    count = rng.randint(60, 90)
    barriers: dict[int, str] = {}
    if is_ordered:
        for place in rng.sample(range(5, count), rng.randint(1, 3)):
            barriers[place] = rng.choice(["#BARRIER", "#BARRIER", "#BARRIER CHECK"])
    for number in range(count):
        if number in barriers:
            yield barriers[number]
        if is_ordered and number and rng.random() < 0.1:
            ids = {rng.randrange(number) for _ in range(rng.randint(1, 3))}
            yield f"#AFTER {','.join(map(str, sorted(ids)))}"
        yield words.make(f"i{number}").line


def _plan_farm(rng: random.Random, name: str, *, has_kinds: bool) -> FarmPlan:
    options = ["--proc", str(rng.randint(1, 3)), "--grace", GRACE]
    if rng.random() < 0.3:
        options += ["--follow", "2"]
    if rng.random() < 0.2:
        options += ["--retries", "1"]
    if rng.random() < 0.2:
        options += ["--start-rate", "30/s"]
    if has_kinds:
        options += ["--limit", f"seat={rng.choice([0, 1, 2])}"]
    kills = [
        Kill(rng.uniform(0.5, ACTS + 1), rng.uniform(0.0, 1.6))
        for _ in range(rng.randint(0, 2))
    ]
    begin = 0.0 if name == "east" else rng.uniform(0.0, 3.0)
    ranks, pause = rng.choice([2, 2, 3]), rng.uniform(0.1, 1.0)
    return FarmPlan(name, ranks, tuple(options), begin, pause, tuple(sorted(kills)))


def _plan_plain(rng: random.Random, *, first: bool, kills: bool) -> Iterator[PlainPlan]:
    moments = [0.0] if first else []
    moments += [rng.uniform(0.5, ACTS) for _ in range(rng.randint(0, 2))]
    for number, moment in enumerate(sorted(moments)):
        killed_after = rng.uniform(0.2, 2.0) if kills and rng.random() < 0.7 else None
        version = rng.choice(["0.0.1", "0.1.0"])
        yield PlainPlan(version, moment, killed_after, first and not number)


def _plan_adding(
    rng: random.Random, words: _Words, who: str, *, is_killable: bool
) -> Iterator[Adding]:
    for number, moment in enumerate(_moments(rng, rng.randint(2, 5))):
        count = rng.choice([1, 1, 2, 5])
        tasks = tuple(words.make(f"{who}{number}-{each}") for each in range(count))
        after: tuple[float, ...] = ()
        if is_killable and rng.random() < 0.4:
            after = tuple(rng.random() for _ in range(rng.randint(1, 3)))
        killed_after = None
        if is_killable and rng.random() < 0.3:
            killed_after = rng.uniform(0.05, 0.6)
        yield Adding(moment, tasks, after, rng.random() < 0.5, killed_after)


def _plan_asking(rng: random.Random) -> Iterator[Asking]:
    kinds = ["cancel", "hold", "release", "hold all", "release all", "drain"]
    for moment in _moments(rng, rng.randint(2, 5)):
        kind, _, is_all = rng.choices(kinds, [5, 4, 3, 1, 2, 0.5])[0].partition(" ")
        picks: tuple[float, ...] = ()
        if not is_all and kind != "drain":
            picks = tuple(rng.random() for _ in range(rng.choice([1, 3, 8])))
        killed_after = rng.uniform(0.05, 0.8) if rng.random() < 0.2 else None
        yield Asking(moment, kind, picks, killed_after)


def _moments(rng: random.Random, count: int) -> list[float]:
    return sorted(rng.uniform(0.0, ACTS) for _ in range(count))


def missing(scenario: Scenario) -> str:
    """Why the scenario can't be played here; empty if it can."""
    if find_programs(Kind.MPICH) is None:
        return f"no launcher for {Kind.MPICH.value!r}"
    for version in sorted({each.version for each in scenario.plain}):
        if find_plain_python(version) is None:
            return f"no PyTaskFarmer {version}"
    return ""


# ---- who acts ------------------------------------------------------------------------


class Crowd:
    """What all actors share."""

    def __init__(self, scenario: Scenario, stage: Stage, scene: CrowdScene) -> None:
        self.scenario = scenario
        self.stage = stage
        self.scene = scene
        self.list = scene.tasklist.name
        self.watch = Watch(scene)
        self.asked = Asked()
        self.findings: list[str] = []
        self.story: list[str] = []
        self.kills: list[float] = []
        """When farms and plain farmers were killed, in seconds since 1970."""
        self.awaits_plain = any(each.is_first for each in scenario.plain)
        """Whether farms leave the first start to a plain farmer, which is there."""
        self.is_closing = False
        """Whether no farm is started again."""
        self._begun = time.monotonic()

    @property
    def now(self) -> float:
        """Seconds since the scenario began."""
        return time.monotonic() - self._begun

    def note_look(self, before: float) -> float:
        """Note a stall since the look before.  Return the time (monotonic)."""
        now = time.monotonic()
        self.asked.stalled = max(self.asked.stalled, now - before)
        return now

    def tell(self, event: str) -> None:
        self.story.append(f"{self.now:6.2f} [{time.time():.3f}] {event}")

    def find(self, sentence: str) -> None:
        self.tell(f"WRONG: {sentence}")
        self.findings.append(sentence)

    def tell_kill(self, event: str) -> None:
        self.kills.append(time.time())
        self.tell(f"{event} killed")

    def length(self) -> int:
        """How many tasks the list has now."""
        return len(self.scene.read_listing().tasks)

    def pick(self, shares: Sequence[float]) -> str:
        """The ids that are these shares of the list."""
        length = self.length()
        return ",".join(map(str, sorted({int(share * length) for share in shares})))

    def start(self, *words: str, name: str) -> Child:
        """Start a subcommand."""
        return self.stage.farm.start_command([*MPIFARM, *words], name=name)


class Actor(Protocol):
    """Somebody of the crowd."""

    @property
    def has_acts(self) -> bool:
        """Whether it is still to do something, or to be killed."""

    @property
    def is_idle(self) -> bool:
        """Whether no process of it is left."""

    def step(self) -> None:
        """Do what is due."""


class FarmActor:
    """A farm that is started again whenever it has ended."""

    def __init__(self, crowd: Crowd, its: FarmPlan) -> None:
        self._crowd, self._its = crowd, its
        self._under = _launcher(crowd.stage.environment)
        self._child: Child | None = None
        self._name = ""
        self._starts = 0
        self._start_at = its.joins_at
        self._kills = [*its.kills]
        self._was_killed = False
        self._deadline = 0.0
        self._had_failed = False

    @property
    def has_acts(self) -> bool:
        return bool(self._kills)

    @property
    def is_idle(self) -> bool:
        return self._child is None

    def step(self) -> None:
        crowd, now = self._crowd, self._crowd.now
        if self._child is None:
            if crowd.awaits_plain and not crowd.scene.is_made():
                return  # a plain farmer is to begin
            if now >= self._start_at and not crowd.is_closing:
                self._start()
        elif self._child.has_ended():
            self._end(self._child)
        elif now > self._deadline and crowd.is_closing:
            members = crowd.stage.members(self._name)
            crowd.find(f"{self._name} hangs: {members}")
            self.kill()
        elif not crowd.is_closing:
            self._deadline = now + FARM_DEADLINE
        while self._kills and self._kills[0].moment <= now:
            self._inflict(self._kills.pop(0))

    def _start(self) -> None:
        self._name = f"{self._its.name}-{self._starts}"
        self._starts += 1
        self._was_killed = False
        self._had_failed = bool(self._crowd.scene.recorded("failed"))
        self._child = self._crowd.stage.farm.start(
            *self._its.options,
            name=self._name,
            under=self._under,
            ranks=self._its.ranks,
        )
        self._crowd.tell(f"{self._name} starts")

    def _end(self, child: Child) -> None:
        crowd, status = self._crowd, child.wait()
        crowd.tell(f"{self._name} ended with {status}")
        crowd.findings += crowd.stage.await_end(self._name)
        statuses = {SOME_FAILED, ELSEWHERE, TO_GO_ON}
        statuses |= set() if self._had_failed else {ALL_FINISHED}
        if not self._was_killed and status not in statuses:
            crowd.find(f"{self._name} ended with {status}: {child.text()}")
        _judge_text(crowd, self._name, child)
        self._child = None
        self._start_at = crowd.now + self._its.pause

    def _inflict(self, kill: Kill) -> None:
        if self._child is None:
            return
        members = self._crowd.stage.members(self._name)
        ranks = sorted(m.pid for m in members if m.part is Part.RANK)
        if kill.pick >= 1.0 or not ranks:
            self.kill()
            return
        self._was_killed = True
        pid = ranks[int(kill.pick * len(ranks))]
        self._crowd.tell_kill(f"{self._name}: the rank {pid} is")
        send_signal([pid], signal.SIGKILL)

    def kill(self) -> None:
        """KILL launcher and ranks; their fork servers end the commands."""
        if self._child is None:
            return
        self._was_killed = True
        members = self._crowd.stage.members(self._name)
        parts = (Part.LAUNCHER, Part.RANK)
        pids = [member.pid for member in members if member.part in parts]
        self._crowd.tell_kill(f"{self._name}: {pids} are")
        send_signal(pids, signal.SIGKILL)


class PlainActor:
    """A plain farmer."""

    def __init__(self, crowd: Crowd, its: PlainPlan, number: int) -> None:
        self._crowd, self._its = crowd, its
        self._name = f"plain-{number}"
        self._child: Child | None = None
        self._kill_at = float("inf")
        self._has_ended = False

    @property
    def has_acts(self) -> bool:
        return self._child is None or self._kill_at < float("inf")

    @property
    def is_idle(self) -> bool:
        return self._has_ended

    def step(self) -> None:
        crowd = self._crowd
        if self._child is None:
            is_due = crowd.now >= self._its.joins_at
            if is_due and (self._its.is_first or crowd.scene.is_begun()):
                self._start()
        elif self._has_ended:
            return
        elif self._child.has_ended():
            self._end(self._child)
        elif crowd.now >= self._kill_at:
            self._kill(self._child)
        else:
            self._note_reader(self._child)

    def _start(self) -> None:
        python = find_plain_python(self._its.version)
        assert python is not None
        argv = [str(python), str(python.parent / "pytaskfarmer.py")]
        stage, scene = self._crowd.stage, self._crowd.scene
        path = stage.environment["PYTHONPATH"] + scene.plain_path
        # Unbuffered: how many tasks it knows has to be known while it works.
        self._child = stage.farm.start_command(
            [*argv, *scene.plain_options, "--proc", "2", self._crowd.list],
            env={"PYTHONUNBUFFERED": "1", "PYTHONPATH": path},
            name=self._name,
        )
        self._crowd.tell(f"{self._name} starts: {self._its.version}")
        if self._its.killed_after is not None:
            self._kill_at = self._crowd.now + self._its.killed_after

    def _note_reader(self, child: Child) -> None:
        """Tell the watch how many tasks it knows, when it has said so."""
        before, found, _ = child.text().partition(" total tasks")
        if found:
            self._crowd.watch.readers[self._name] = int(before.split()[-1])

    def _end(self, child: Child) -> None:
        status = child.wait()
        self._crowd.tell(f"{self._name} ended with {status}")
        self._forget()
        if status:
            self._crowd.find(f"{self._name} ended with {status}: {child.text()}")
        _judge_text(self._crowd, self._name, child)

    def _kill(self, child: Child) -> None:
        """KILL it and its workers; its commands go on, and are in no file."""
        self._crowd.tell_kill(f"{self._name} is")
        while pids := [
            member.pid
            for member in self._crowd.stage.members(self._name)
            if not is_task(member.pid)
        ]:
            send_signal(pids, signal.SIGKILL)
        child.wait()
        self._forget()

    def _forget(self) -> None:
        self._crowd.awaits_plain = False
        self._kill_at = float("inf")
        self._has_ended = True
        self._crowd.watch.readers.pop(self._name, None)


class CommandActor:
    """Somebody who gives commands, one after another, and may be killed with one."""

    name = ""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self._child: Child | None = None
        self._words: tuple[str, ...] = ()
        self._kill_at = float("inf")
        self._deadline = 0.0

    @property
    def is_idle(self) -> bool:
        return self._child is None

    @property
    def has_acts(self) -> bool:
        return self._child is not None

    def begin(self, words: Sequence[str], killed_after: float | None) -> None:
        """Start a command."""
        self._words = tuple(words)
        self._child = self.start(*words)
        self._deadline = self.crowd.now + COMMAND_DEADLINE
        self._kill_at = float("inf")
        if killed_after is not None:
            self._kill_at = self.crowd.now + killed_after
        self.crowd.tell(f"{self.name}: {' '.join(words)}")

    def start(self, *words: str) -> Child:
        """Start its process."""
        return self.crowd.start(*words, name=self.name)

    def step(self) -> None:
        """Kill the command if that is due, or see how it has ended."""
        child, now = self._child, self.crowd.now
        if child is None:
            return
        if not child.has_ended() and now >= self._kill_at:
            child.end()
            self.crowd.tell(f"{self.name} is killed")
        elif not child.has_ended() and now >= self._deadline:
            self.crowd.find(f"{self.name}: {' '.join(self._words)} hangs")
            child.end()
        if child.has_ended():
            self._child = None
            text = child.text().strip()[:SHOWN]
            self.crowd.tell(f"{self.name}: {child.wait()} {text}")
            _judge_text(self.crowd, self.name, child)
            self.on_end(child)

    def on_end(self, child: Child) -> None:
        raise NotImplementedError


class Adder(CommandActor):
    """Adds tasks by ``mpifarm add``; after a kill the same again, as the page says."""

    name = "adder"

    def __init__(self, crowd: Crowd, plans: Sequence[Adding]) -> None:
        super().__init__(crowd)
        self._plans = [*plans]
        self._last: Adding | None = None
        self.told: dict[int, str] = {}
        """The words of the tasks by the ids that were told."""

    @property
    def has_acts(self) -> bool:
        return bool(self._plans) or super().has_acts

    def step(self) -> None:
        super().step()
        crowd = self.crowd
        if self._child is not None or not self._plans:
            return
        # in a directory that no farm has begun, it asks for a --workdir
        if crowd.scene.is_begun() and crowd.now >= self._plans[0].moment:
            self._last = its = self._plans.pop(0)
            self.begin(self._compose(its), its.killed_after)

    def _compose(self, its: Adding) -> list[str]:
        words = ["add", self.crowd.list, *(task.line for task in its.tasks)]
        words += ["--after", self.crowd.pick(its.after)] if its.after else []
        return words + ["--json"] * its.as_json

    def on_end(self, child: Child) -> None:
        assert self._last is not None
        ids = find_added(child.text())
        if not ids and child.wait() == -signal.SIGKILL:
            self.begin(self._words, None)
        elif not ids or child.wait() not in (0, -signal.SIGKILL):
            self.crowd.find(f"the adder ended with {child.wait()}: {child.text()}")
        else:
            words = [task.word for task in self._last.tasks]
            self.told.update(zip(ids, words, strict=True))


def find_added(text: str) -> list[int]:
    """The ids that an adder has told; none if it has told none yet."""
    if not text.endswith("\n"):
        return []
    if text.startswith("{"):
        return sorted(parse_ranges(json.loads(text)["tasks"]))
    before, found, _ = text.partition(" added to ")
    return sorted(parse_ranges(before.split()[-2])) if found else []


class User:
    """Appends lines to the list, without asking anybody."""

    def __init__(self, crowd: Crowd, plans: Sequence[Adding]) -> None:
        self._crowd = crowd
        self._plans = [*plans]

    @property
    def has_acts(self) -> bool:
        return bool(self._plans)

    @property
    def is_idle(self) -> bool:
        return True

    def step(self) -> None:
        crowd = self._crowd
        while self._plans and crowd.now >= self._plans[0].moment:
            if crowd.scenario.plain and not crowd.scene.is_begun():
                return
            tasks = self._plans.pop(0).tasks
            lines = "".join(f"{task.line}\n" for task in tasks)
            with crowd.scene.tasklist.open("ab", buffering=0) as tasklist:
                tasklist.write(lines.encode())
            crowd.tell(f"the user appends {[task.word for task in tasks]}")


class Asker(CommandActor):
    """Cancels, holds and releases tasks, and drains farms."""

    name = "asker"

    def __init__(self, crowd: Crowd, plans: Sequence[Asking]) -> None:
        super().__init__(crowd)
        self._plans = [*plans]
        self._kind = ""
        self._ids: frozenset[int] | None = None
        self._open: list[tuple[frozenset[int] | None, float]] = []
        """What is held for sure, and since when."""

    @property
    def has_acts(self) -> bool:
        return bool(self._plans) or super().has_acts

    def step(self) -> None:
        super().step()
        if self._child is None and self._plans:
            is_due = self.crowd.now >= self._plans[0].moment
            if is_due and self.crowd.scene.is_begun():
                self.ask(self._plans.pop(0))

    def ask(self, its: Asking) -> None:
        """Give the command."""
        ids = self.crowd.pick(its.picks)
        self._kind = its.kind
        self._ids = frozenset(parse_ranges(ids)) if its.picks else None
        if its.kind == "cancel":
            self.crowd.asked.maybe_cancelled |= self._ids or set()
        if its.kind == "release":
            self._close_holds()
        words = [its.kind, self.crowd.list, *([ids] if its.picks else [])]
        options = ["--wait", WAIT_SECONDS, "--json"]
        self.begin([*words, *options], its.killed_after)

    def _close_holds(self) -> None:
        """End what may be released from now on."""
        released, now = self._ids, time.time()
        kept: list[tuple[frozenset[int] | None, float]] = []
        for tasks, begin in self._open:
            if tasks is None and released is not None:
                kept.append((tasks, begin))  # all are held until all are released
                continue
            hit = tasks if released is None or tasks is None else tasks & released
            self.crowd.asked.holds.append(Hold(hit, begin, now))
            if tasks is not None and hit is not None and tasks - hit:
                kept.append((tasks - hit, begin))
        self._open = kept
        held = self.crowd.watch.withheld
        held.clear() if released is None else held.difference_update(released)

    def on_end(self, child: Child) -> None:
        now, status = time.time(), child.wait()
        if status == -signal.SIGKILL:
            return
        if status not in (0, 1):
            self.crowd.find(f"{self._words} ended with {status}: {child.text()}")
            return
        fates = {
            fate: parse_ranges(ids)
            for fate, ids in json.loads(child.text())["fates"].items()
        }
        waited = fates.get("waited", set())
        if self._kind == "cancel":
            for taskid in waited | fates.get("ended now", set()):
                self.crowd.asked.cancelled.setdefault(taskid, now)
        elif self._kind == "hold" and self._ids is None:
            # plain farmers take what waits while all are held
            if status == 0:
                self._open.append((None, now))
        elif self._kind == "hold" and waited:
            self._open.append((frozenset(waited), now))
            self.crowd.watch.withheld |= waited


def _launcher(environment: dict[str, str]) -> Mpirun:
    programs = find_programs(Kind.MPICH)
    assert programs is not None
    launcher = find_launcher(programs.parent)
    assert launcher is not None

    def launch(ranks: int, _python: str, *words: str) -> Launch:
        return launcher(environment, ranks, str(programs / "python"), *words)

    return launch


def _judge_text(crowd: Crowd, name: str, child: Child) -> None:
    if "Traceback" in child.text():
        crowd.find(f"{name} has left a traceback: {child.text()}")


# ---- the play ------------------------------------------------------------------------


@dataclass
class Play:
    """One scenario on a stage."""

    scenario: Scenario
    stage: Stage
    scene: CrowdScene
    story: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        scenario = self.scenario
        self.crowd = crowd = Crowd(scenario, self.stage, self.scene)
        self.write_list("".join(f"{line}\n" for line in scenario.lines))
        self.farms = [FarmActor(crowd, its) for its in scenario.farms]
        plain = enumerate(scenario.plain)
        self.plain = [PlainActor(crowd, its, number) for number, its in plain]
        self.adder = Adder(crowd, scenario.added)
        self.asker = Asker(crowd, scenario.asked)
        self.others = self.create_others()
        self._look_at = 0.0

    def write_list(self, text: str) -> None:
        """Make what the farms work on of a text list."""
        self.scene.tasklist.write_text(text)

    def create_others(self) -> list[Actor]:
        """Return the actors who know what kind of list it is."""
        return [User(self.crowd, self.scenario.appended)]

    def run(self) -> list[str]:
        """Play it to its end; what is wrong."""
        crowd = self.crowd
        everybody = self._everybody()
        self._play(lambda: not any(each.has_acts for each in everybody), 120.0)
        self._close()
        if not crowd.findings:
            self._finish()
        crowd.findings += crowd.watch.findings
        crowd.findings += self.stage.judge_survivors()
        return crowd.findings

    def _play(self, is_over: Callable[[], bool], seconds: float) -> None:
        seen = time.monotonic()
        end = seen + seconds
        while not is_over() and not self.crowd.findings:
            seen = self.crowd.note_look(seen)
            if seen > end:
                self.crowd.find(f"the scenario is not over after {seconds} s")
            self._step()
            time.sleep(0.01)  # the grain of the schedule, nobody is waited for

    def _everybody(self) -> list[Actor]:
        return [*self.farms, *self.plain, self.adder, *self.others, self.asker]

    def _step(self) -> None:
        for actor in self._everybody():
            actor.step()
        if time.monotonic() >= self._look_at:
            self.crowd.watch.look(time.time())
            self._look_at = time.monotonic() + LOOK_EACH

    def _close(self) -> None:
        """No farm is started again; all is released, and those that work end."""
        crowd = self.crowd
        crowd.is_closing = True
        self.asker.ask(Asking(0.0, "release"))
        if self.scenario.ends_by_kill:
            for farm in self.farms:
                farm.kill()
        actors: list[Actor] = [*self.farms, *self.plain, *self.others, self.asker]
        self._play(lambda: all(each.is_idle for each in actors), 2 * FARM_DEADLINE)
        for number in range(len(self.plain)):
            # the commands of one that was killed go on
            crowd.findings += self.stage.await_end(f"plain-{number}")

    # ---- the end ---------------------------------------------------------------------

    def _finish(self) -> None:
        """The last farm, which nothing happens to, and the judges."""
        crowd = self.crowd
        last = Adding(0.0, (Task("0", 0, "last"),))
        self._run("add", crowd.list, last.tasks[0].line)
        status = self._run_farm("last-0")
        if status == ELSEWHERE and self.scenario.kills_plain:
            self._judge_lost()
            self._run("check", "--repair", "--assume-idle", self.scene.workdir.name)
            status = self._run_farm("last-1")
        crowd.watch.look(time.time())
        if not crowd.findings:
            crowd.findings += self._judge(status)

    def _run_farm(self, name: str) -> int:
        options = ["--mpi", "off", "--proc", "4", "--grace", GRACE]
        options += ["--limit", "seat=0"] if self.scenario.has_kinds else []
        child = self.stage.farm.start(*options, name=name)
        status = self._await(child, name)
        self.crowd.findings += self.stage.await_end(name)
        return status

    def _run(self, *words: str) -> None:
        """Run a subcommand, which has to succeed."""
        name = " ".join(words)
        child = self.crowd.start(*words, name="end")
        if status := self._await(child, name):
            self.crowd.find(f"{name} ended with {status}: {child.text()}")

    def _await(self, child: Child, name: str) -> int:
        seen = time.monotonic()
        end = seen + FARM_DEADLINE
        while not child.has_ended():
            seen = self.crowd.note_look(seen)
            if seen > end:
                self.crowd.find(f"{name} hangs: {child.text()}")
                child.end()
            self.crowd.watch.look(time.time())
            time.sleep(0.02)
        self.crowd.tell(f"{name} ended with {child.wait()}: {child.text()}")
        _judge_text(self.crowd, name, child)
        return child.wait()

    def _judge_lost(self) -> None:
        """Judge what the farm says of tasks that a plain farmer has lost."""
        scene = self.crowd.scene
        scene.tasks = scene.read_listing().tasks
        places = ("finished", "failed", "toprocess", "added", "waiting")
        texts = [task.line for task in scene.tasks]
        there = {taskid for name in places for taskid in scene.ids(name, texts)}
        lost = len(texts) - len(there)
        told = json.loads(scene.content("result.json"))["tasks"]["elsewhere"]
        if not lost or told != lost:
            self.crowd.find(f"{lost} tasks are in no file, and result.json has {told}")

    def _judge(self, status: int) -> Iterator[str]:
        crowd, scene = self.crowd, self.crowd.scene
        listing = scene.read_listing()
        scene.tasks = listing.tasks
        judge = CrowdJudge(scene, listing, crowd.watch, crowd.asked)
        yield from judge.judge(self._words())
        yield from scene.judge_end(status)
        for taskid, word in self.adder.told.items():
            if listing.tasks[taskid].word != word:
                yield f"the adder has told the id {taskid} for {word}"
        for name in ("added", "waiting"):
            if scene.content(name):
                yield f"{name} still holds {scene.content(name)!r}"
        self._run("check", scene.workdir.name)

    def _words(self) -> set[str]:
        """The words of all lines that anybody has written."""
        lines = [line for line in self.scenario.lines if not line.startswith("#")]
        added = [*self.scenario.added, *self.scenario.appended]
        words = {task.word for adding in added for task in adding.tasks}
        return {*(line.split()[-1] for line in lines), *words, "last"}


def play(scenario: Scenario, directory: Path) -> Outcome:
    """Play it in this directory, which must not exist."""
    return play_on(scenario, CrowdScene(directory, ()), Play)


def play_on(
    scenario: Scenario,
    scene: CrowdScene,
    create: Callable[[Scenario, Stage, CrowdScene], Play],
) -> Outcome:
    """Play it on this scene."""
    begun = time.monotonic()
    with Stage(scene) as stage:
        act = create(scenario, stage, scene)
        try:
            findings = act.run()
        except AssertionError as error:  # a deadline
            findings = [*act.crowd.findings, str(error)]
        story = act.crowd.story
        report = "\n".join([str(scenario), *story, *findings[:20], stage.outputs()])
    return Outcome(findings, report, time.monotonic() - begun)


if __name__ == "__main__":
    what = "Play many at work on one list, some of whom are killed."
    sys.exit(play_command_line(what, plan, missing, play))
