"""Random mixes of faults over whole farms, each of them known by its seed.

    python -m tests.fault.harness --seed 17 --runs 1 -v

A seed gives a `Scenario`: how the farm is launched, its list, and a schedule of faults.
While faults are left and the list is not done, a farm that ended is started again, so
that faults hit farms that go on after others as well.  Then come farms that nothing
happens to, until all is done, and then the judges (`tests.fault.evidence`).

Rules of this file: what is random is decided by `plan`, which does nothing; who is hit
is chosen among those that are there then, by a number of the plan.  A moment is
seconds of the schedule, so a busy machine may see another order of events.  What each
fault excuses stands where it is inflicted.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple, TypeVar

from tests.farm_driver import MPIFARM, NO_LAUNCH, Member, Mpirun, Part, send_signal
from tests.fault.evidence import Allowance, Scene, Task, counted
from tests.fault.stage import FARM_DEADLINE, Stage
from tests.support import (
    ROOT,
    Child,
    Launch,
    find_launcher,
    find_plain_python,
    is_running,
)

TASKS = 500
GRACE = "0.5"
DISK_BYTES = 8 << 20
MAX_RESUMES = 6
PLAIN_DEADLINE = 8.0
ALL_JOINED = " workdir /"
"""What rank 0 says when all ranks are there."""

SILENT = " has not been heard for "
"""What it says of a rank that it gives up."""

ALL_FINISHED, SOME_FAILED, ELSEWHERE, TO_GO_ON = 0, 1, 3, 75


# ---- the plan -----------------------------------------------------------------------


class Kind(Enum):
    """How the farm is launched."""

    ALONE = "one process"
    MPICH = "mpiexec -n 3"
    OPENMPI = "mpirun -n 3"
    ULFM = "mpirun --with-ft ulfm -n 4"


class Deed(Enum):
    """What happens."""

    SIGNAL = "signal"
    SUSPEND = "suspend"
    FILL_DISK = "fill the disk"
    JOIN_FARM = "a second farm joins"
    JOIN_PLAIN = "a plain farmer joins"


class Victim(Enum):
    """Whom it happens to."""

    RANK_0 = "rank 0"
    RANK = "a rank"
    WORKER = "a worker"
    PARENT = "a fork server"
    LAUNCHER = "the launcher"
    PLAIN = "the plain farmer"
    NOBODY = "-"


@dataclass(frozen=True)
class Fault:
    """One entry of a schedule."""

    moment: float
    """Seconds since the schedule began."""
    deed: Deed
    victim: Victim = Victim.NOBODY
    signum: int = 0
    """What is sent; for a suspension, what ends it: CONT or KILL."""
    pick: float = 0.0
    """Which of the victims there are, from 0 to 1."""
    lasts: float = 0.0
    """Seconds until a suspension or a full disk ends."""

    def __str__(self) -> str:
        name = signal.Signals(self.signum).name if self.signum else ""
        return (
            f"{self.moment:.2f} s: {self.deed.value} {name} {self.victim.value} "
            f"pick={self.pick:.2f} lasts={self.lasts:.2f}"
        )


@dataclass(frozen=True)
class Scenario:
    """All that a seed decides."""

    seed: int
    kind: Kind
    options: tuple[str, ...]
    tasks: tuple[Task, ...]
    faults: tuple[Fault, ...]
    resumes_as_begun: bool
    """Whether the last farms are launched as the first was, or alone."""

    @property
    def wants_disk(self) -> bool:
        return any(fault.deed is Deed.FILL_DISK for fault in self.faults)

    @property
    def wants_plain(self) -> bool:
        return any(fault.deed is Deed.JOIN_PLAIN for fault in self.faults)

    def __str__(self) -> str:
        return "\n".join(
            (
                f"seed {self.seed}: {self.kind.value}, {' '.join(self.options)}",
                f"    {sum(task.status != 0 for task in self.tasks)} tasks fail; "
                + ("ends as it began" if self.resumes_as_begun else "ends alone"),
                *(f"    {fault}" for fault in self.faults),
            )
        )


def plan(seed: int) -> Scenario:
    """What the seed stands for."""
    rng = random.Random(seed)
    kind = rng.choice(list(Kind))
    options = ["--proc", str(rng.randint(1, 4)), "--grace", GRACE]
    if rng.random() < 0.25:
        options += ["--retries", "1"]
    if kind is not Kind.ALONE and rng.random() < 0.3:
        options += ["--rank-timeout", "2"]
    failing = rng.choice([0.0, 0.02])
    tasks = tuple(_plan_task(rng, i, failing) for i in range(TASKS))
    return Scenario(
        seed, kind, tuple(options), tasks, _plan_faults(rng), rng.random() < 0.3
    )


def _plan_task(rng: random.Random, taskid: int, failing: float) -> Task:
    seconds = rng.choices(["0", "0.01", "0.3"], [90, 8, 2])[0]
    status = rng.choice([1, 3, 75]) if rng.random() < failing else 0
    word = f"word-{taskid}" if rng.random() < 0.3 else "-"
    return Task(seconds, status, word)


def _plan_faults(rng: random.Random) -> tuple[Fault, ...]:
    faults = [fault for _ in range(rng.randint(1, 4)) for fault in _plan_fault(rng)]
    return tuple(sorted(faults, key=lambda fault: fault.moment))


def _plan_fault(rng: random.Random) -> list[Fault]:
    """A fault, or some that belong together."""
    kinds: list[tuple[Callable[[random.Random, float], list[Fault]], int]] = [
        (_plan_kill, 8),
        (_plan_suspension, 3),
        (_plan_signal, 4),
        (_plan_kill_in_stop, 2),
        (_plan_full_disk, 2),
        (_plan_plain, 2),
        (_plan_second_farm, 1),
    ]
    create = rng.choices([kind for kind, _ in kinds], [w for _, w in kinds])[0]
    return create(rng, rng.uniform(0.05, 4.0) * rng.choice([0.5, 1.0]))


_KILLED = (Victim.RANK_0, Victim.RANK, Victim.WORKER, Victim.PARENT, Victim.LAUNCHER)
_TOLD = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


def _plan_kill(rng: random.Random, moment: float) -> list[Fault]:
    victim = rng.choice(_KILLED)
    return [Fault(moment, Deed.SIGNAL, victim, signal.SIGKILL, rng.random())]


def _plan_suspension(rng: random.Random, moment: float) -> list[Fault]:
    victim = rng.choice([Victim.RANK_0, Victim.RANK, Victim.WORKER])
    end = rng.choice([signal.SIGCONT, signal.SIGKILL])
    lasts = rng.uniform(0.1, 3.0)
    return [Fault(moment, Deed.SUSPEND, victim, end, rng.random(), lasts)]


def _plan_signal(rng: random.Random, moment: float) -> list[Fault]:
    victim = rng.choice([Victim.RANK, Victim.RANK_0, Victim.LAUNCHER])
    return [Fault(moment, Deed.SIGNAL, victim, rng.choice(_TOLD), rng.random())]


def _plan_kill_in_stop(rng: random.Random, moment: float) -> list[Fault]:
    """Rank 0 dies within the grace time of a stop."""
    stop = Fault(moment, Deed.SIGNAL, Victim.RANK, signal.SIGUSR1, rng.random())
    later = moment + rng.uniform(0.0, 0.6)
    return [stop, Fault(later, Deed.SIGNAL, Victim.RANK_0, signal.SIGKILL)]


def _plan_full_disk(rng: random.Random, moment: float) -> list[Fault]:
    return [Fault(moment, Deed.FILL_DISK, lasts=rng.uniform(0.1, 2.0))]


def _plan_plain(rng: random.Random, moment: float) -> list[Fault]:
    join = Fault(moment / 2, Deed.JOIN_PLAIN)
    how = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGUSR1])
    later = moment + rng.uniform(0.3, 1.5)
    return [join, Fault(later, Deed.SIGNAL, Victim.PLAIN, how)]


def _plan_second_farm(rng: random.Random, moment: float) -> list[Fault]:
    return [Fault(moment / 2, Deed.JOIN_FARM)]


# ---- launchers ----------------------------------------------------------------------


def find_programs(kind: Kind) -> Path | None:
    """Where the Python and the launcher for this kind of farm are, if they are."""
    if kind is Kind.ALONE:
        return Path(sys.executable).parent
    name, program = (
        ("mpich", "mpiexec.hydra") if kind is Kind.MPICH else ("openmpi", "prterun")
    )
    for prefix in (Path(sys.prefix), ROOT / ".venvs" / name):
        if (prefix / "bin" / program).exists():
            return prefix / "bin"
    return None


def missing(scenario: Scenario) -> str:
    """Why the scenario can't be played here; empty if it can."""
    if find_programs(scenario.kind) is None:
        return f"no launcher for {scenario.kind.value!r}"
    if scenario.wants_plain and find_plain_python("0.1.0") is None:
        return "no PyTaskFarmer 0.1.0"
    return ""


def launcher_of(kind: Kind, environment: Mapping[str, str]) -> Mpirun | None:
    """The launcher of farms of this kind; None for one process."""
    if kind is Kind.ALONE:
        return None
    programs = find_programs(kind)
    assert programs is not None
    launcher = find_launcher(programs.parent)
    assert launcher is not None
    ulfm = ("--with-ft", "ulfm") if kind is Kind.ULFM else ()
    launcher = replace(launcher, options=(*launcher.options, *ulfm))

    def launch(_ranks: int, _python: str, *words: str) -> Launch:
        ranks = 4 if kind is Kind.ULFM else 3
        return launcher(environment, ranks, str(programs / "python"), *words)

    return launch


# ---- a small disk -------------------------------------------------------------------


@contextmanager
def small_disk(path: Path) -> Iterator[bool]:
    """A tmpfs at `path`, if this user may mount one; says whether it is there."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "mpifarm-test"]
    mounted = os.geteuid() == 0 and _succeeds([*mount, str(path)])
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(path)], check=True)


def _succeeds(argv: list[str]) -> bool:
    try:
        ended = subprocess.run(argv, capture_output=True, check=False)
    except OSError:
        return False
    return ended.returncode == 0


def fill(path: Path) -> None:
    """Write to the file until the disk is full."""
    ballast = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with suppress(OSError):
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while os.write(ballast, bytes(size)):
                    pass
    os.close(ballast)


# ---- the play -----------------------------------------------------------------------


class Pause(NamedTuple):
    """A process that is suspended, and when and how that ends."""

    end: float
    pid: int
    signum: int


@dataclass
class Harm:
    """What was done to one farm, and so what its exit status may be."""

    is_broken: bool = False
    """Its rank or launcher was killed, or a signal came that it did not catch yet."""
    may_stop: bool = False
    """It was told to stop, or had to."""
    may_hang: bool = False
    """Its launcher was killed while the ranks connected: they may wait there for it."""


@dataclass
class Play:
    """One scenario on a stage."""

    scenario: Scenario
    stage: Stage
    has_disk: bool
    allowed: Allowance = field(default_factory=Allowance)
    findings: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    """What was done to whom, as it came out."""

    def __post_init__(self) -> None:
        self._begun = time.monotonic()
        self._pending = list(self.scenario.faults)
        self._pauses: list[Pause] = []
        self._disk_is_freed = 0.0
        self._farms = 0
        self._losses = 0
        self._beside: list[tuple[str, Child]] = []
        self._harm = Harm()

    def run(self) -> list[str]:
        """Play it to its end; what is wrong."""
        self._under = launcher_of(self.scenario.kind, self.stage.environment)
        while self._pending and not self.stage.scene.is_done() and not self.findings:
            self._play_farm()
        self._end_faults()
        self._resume_until_done()
        self.findings += self.stage.judge_survivors()
        return self.findings

    # ---- farms under faults ---------------------------------------------------------

    def _play_farm(self) -> None:
        name = f"farm-{self._farms}"
        self._farms += 1
        self._harm = Harm()
        options = self.scenario.options
        child = self.stage.start(*options, name=name, under=self._under)
        self._tell(f"{name} starts")
        quiet_since = time.monotonic()
        while not child.has_ended():
            if self._inflict(name, child) or self._pauses or self._pending:
                quiet_since = time.monotonic()
            if time.monotonic() > quiet_since + FARM_DEADLINE:
                self._end_hanging(name, child)
            time.sleep(0.005)  # the grain of the schedule, nobody is waited for
        self._tell(f"{name} ended with {child.wait()}")
        self._end_pauses()
        orphans = self.stage.await_end(name)
        self.findings += [] if self._harm.may_hang else orphans
        self._note_silence(child)
        self._judge_status(name, child)

    def _end_hanging(self, name: str, child: Child) -> None:
        members = self.stage.members(name)
        self._tell(f"{name} hangs: {members}")
        self.findings.append(f"{name} hangs: {members}")
        child.end()
        send_signal([m.pid for m in members if m.part is Part.RANK], signal.SIGKILL)

    def _inflict(self, name: str, child: Child) -> bool:
        """Do what is due; whether anything was."""
        now = time.monotonic()
        done = False
        while self._pending and self._begun + self._pending[0].moment <= now:
            fault = self._pending.pop(0)
            self._tell(f"{fault}")
            self._do(fault, name, child)
            done = True
        for pause in [pause for pause in self._pauses if pause.end <= now]:
            self._end_pause(pause)
            done = True
        if self._disk_is_freed and self._disk_is_freed <= now:
            self._free_disk()
        return done

    def _do(self, fault: Fault, name: str, child: Child) -> None:
        match fault.deed:
            case Deed.SIGNAL | Deed.SUSPEND:
                self._send(fault, name, child)
            case Deed.FILL_DISK if self.has_disk:
                self._fill_disk(fault)
            case Deed.JOIN_FARM:
                options = ("--proc", "2", "--grace", GRACE)
                child = self.stage.start(*options, name="second")
                self._beside.append(("second", child))
            case Deed.JOIN_PLAIN:
                self._join_plain()

    def _send(self, fault: Fault, name: str, child: Child) -> None:
        if fault.victim is Victim.PLAIN:
            self._send_to_plain(fault.signum)
            return
        pid = self._choose(fault, name, child)
        if pid is None:
            self._tell("  nobody is there")
            return
        self._tell(f"  pid {pid}")
        if fault.deed is Deed.SUSPEND:
            self._note_start(child, fault)
            self._suspend(fault, pid)
        else:
            if fault.signum == signal.SIGKILL or not _catches(pid, fault):
                self._note_start(child, fault)
            self._note_harm(fault, pid)
            send_signal([pid], fault.signum)

    def _choose(self, fault: Fault, name: str, child: Child) -> int | None:
        """The victim's pid."""
        if fault.victim is Victim.LAUNCHER:
            return None if child.has_ended() else child.pid
        members = self.stage.members(name)
        wanted = sorted(m.pid for m in members if _is_victim(m, fault.victim))
        return wanted[int(fault.pick * len(wanted))] if wanted else None

    def _note_start(self, child: Child, fault: Fault) -> None:
        """Ranks that are not yet in the farm: their MPI_Init bears no faults."""
        ranks = (Victim.RANK, Victim.RANK_0, Victim.PARENT)
        if ALL_JOINED not in child.text():
            self._harm.is_broken |= fault.victim in ranks
            is_alone = self.scenario.kind is Kind.ALONE
            self._harm.may_hang |= fault.victim is Victim.LAUNCHER and not is_alone

    def _note_silence(self, child: Child) -> None:
        """A rank that the machine keeps still is given up; its commands go on."""
        if SILENT in child.text():
            self.allowed.overlaps = True
            self._harm.is_broken = True

    def _note_harm(self, fault: Fault, pid: int) -> None:
        harm = self._harm
        alone = self.scenario.kind is Kind.ALONE
        launcher = fault.victim is Victim.LAUNCHER and not alone
        if fault.signum == signal.SIGKILL:
            self._losses += 1
            harm.is_broken |= fault.victim not in (Victim.WORKER, Victim.PARENT)
            # a farm without any pool can't go on
            harm.may_stop |= fault.victim is Victim.PARENT
        else:
            # Open MPI's own status counts then; a second INT ends at once
            harm.is_broken |= launcher or harm.may_stop or not _catches(pid, fault)
            harm.may_stop = True

    def _suspend(self, fault: Fault, pid: int) -> None:
        # its tasks may be given to others while its commands still run
        self.allowed.overlaps = True
        self._harm.may_stop = True
        self._harm.is_broken |= fault.signum == signal.SIGKILL
        self._losses += fault.signum == signal.SIGKILL
        end = time.monotonic() + fault.lasts
        self._pauses.append(Pause(end, pid, fault.signum))
        send_signal([pid], signal.SIGSTOP)

    def _end_pause(self, pause: Pause) -> None:
        self._pauses.remove(pause)
        self._tell(f"pid {pause.pid} gets {signal.Signals(pause.signum).name}")
        send_signal([pause.pid], pause.signum)

    def _end_pauses(self) -> None:
        """After the farm's end: what the test has suspended may hold up nobody."""
        for pause in list(self._pauses):
            self._end_pause(pause)

    # ---- the disk -------------------------------------------------------------------

    @property
    def _ballast(self) -> Path:
        return self.stage.scene.workdir / "ballast"

    def _fill_disk(self, fault: Fault) -> None:
        self.allowed.torn_attempts = self.allowed.missing_logs = True
        self._harm.may_stop = True
        self._disk_is_freed = time.monotonic() + fault.lasts
        fill(self._ballast)

    def _free_disk(self) -> None:
        self._disk_is_freed = 0.0
        self._tell("the disk is freed")
        self._ballast.unlink(missing_ok=True)

    # ---- others beside --------------------------------------------------------------

    def _join_plain(self) -> None:
        python = find_plain_python("0.1.0")
        self.allowed.plain_runs = True
        argv = [str(python), str(python and python.parent / "pytaskfarmer.py")]
        name = f"plain-{len(self._beside)}"
        child = self.stage.farm.start_plain(argv, "--proc", "2", name=name)
        self._beside.append((name, child))

    def _send_to_plain(self, signum: int) -> None:
        """Its workers die with it; its commands don't, and are let end."""
        for name, child in self._beside:
            if name.startswith("plain") and not child.has_ended():
                members = self.stage.members(name)
                farmers = [m.pid for m in members if m.part is not Part.COMMAND]
                commands = [pid for pid in farmers if is_task(pid)]
                victims = [child.pid]
                if signum == signal.SIGKILL:
                    victims += sorted(set(farmers) - set(commands) - {child.pid})
                send_signal(victims, signum)

    def _end_faults(self) -> None:
        """Nothing is full or suspended any more, and nobody else is at work."""
        self._pending.clear()
        self._end_pauses()
        if self._disk_is_freed:
            self._free_disk()
        for name, child in self._beside:
            # a plain farmer that was told to stop may wait for its workers for ever
            patience = FARM_DEADLINE if name == "second" else PLAIN_DEADLINE
            end = time.monotonic() + patience
            while not child.has_ended() and time.monotonic() < end:
                time.sleep(0.01)
            if not child.has_ended() and name == "second":
                self.findings.append(f"the second farm hangs: {child.text()}")
            child.end()
            # a plain farmer's commands outlive it
            self.findings += self.stage.await_end(name)

    # ---- exit statuses --------------------------------------------------------------

    def _judge_status(self, name: str, child: Child) -> None:
        """Whether the farm could end so, after what was done to it."""
        status = child.wait()
        failed = bool(self.stage.scene.recorded("failed"))
        is_done = self.stage.scene.is_done()
        if self._harm.is_broken or NO_LAUNCH in child.text():
            right = True
        elif status == ALL_FINISHED:
            right = is_done and not failed
        elif status == SOME_FAILED:
            right = is_done and failed
        elif status == ELSEWHERE:
            right = bool(self._beside)
        else:
            right = status == TO_GO_ON and self._harm.may_stop
        if not right:
            finished = set(self.stage.scene.recorded("finished"))
            self.findings.append(
                f"{name} ended with {status} after {self._harm}; "
                f"finished are {counted(finished)}"
            )

    # ---- the end --------------------------------------------------------------------

    def _resume_until_done(self) -> None:
        status = TO_GO_ON
        for number in range(MAX_RESUMES):
            status = self._resume(f"resume-{number}")
            if self.findings:
                return
            if not self._put_back(status):
                break
        self.findings += self.stage.scene.judge(
            self.stage.snapshots, status, self.allowed
        )
        self.findings += self._judge_check()

    def _resume(self, name: str) -> int:
        under = self._under if self.scenario.resumes_as_begun else None
        options = ("--proc", "4", "--grace", GRACE)
        child = self.stage.start(*options, name=name, under=under)
        status = child.wait(FARM_DEADLINE)
        self._note_silence(child)
        self._tell(f"{name} ended with {status}")
        self.findings += self.stage.await_end(name)
        return status

    def _put_back(self, status: int) -> bool:
        """Do what a user does to have the rest run; whether there was anything."""
        scene = self.stage.scene
        if status == ELSEWHERE and self.allowed.plain_runs:
            self._bring_back_lost()
            return True
        wrongly = scene.wrongly_failed()
        # a log that can't be written, or a worker lost three times, fails a task
        excused = self.allowed.missing_logs or self._losses >= 3
        if wrongly and excused and status == SOME_FAILED:
            self._tell(f"failed is put back: {counted(wrongly)} should not be there")
            self.allowed.failures_run_again = True
            (scene.workdir / "failed").rename(scene.workdir / "toprocess")
            return True
        return status == TO_GO_ON

    def _bring_back_lost(self) -> None:
        """What a plain farmer had when it was killed is in no file."""
        self._check("--repair", "--assume-idle")

    def _check(self, *options: str) -> str:
        """What ``mpifarm check`` has found."""
        argv = [*MPIFARM, "check", *options, "tasks.txt_workdir"]
        child = self.stage.farm.start_command(argv, name="check")
        status = child.wait()
        self._tell(f"check {' '.join(options)}: {status}\n{child.text()}")
        return child.text() if status else ""

    def _judge_check(self) -> Iterator[str]:
        found = self._check()
        if found and not self.allowed.missing_logs and not self.allowed.plain_runs:
            yield f"mpifarm check finds: {found}"

    def _tell(self, event: str) -> None:
        self.story.append(f"{time.monotonic() - self._begun:6.2f} {event}")


def _is_victim(member: Member, victim: Victim) -> bool:
    match victim:
        case Victim.RANK_0:
            return member.part is Part.RANK and member.rank == 0
        case Victim.RANK:
            return member.part is Part.RANK
        case Victim.WORKER:
            return member.part is Part.WORKER
        case _:
            return member.part is Part.PARENT


def is_task(pid: int) -> bool:
    """Whether it is a command of the list, or a child of one."""
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return argv[:2] == [b"bash", b"task"] or argv[0].endswith(b"sleep")


def _catches(pid: int, fault: Fault) -> bool:
    """Whether the process has a handler for the signal already."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = status.partition("SigCgt:")[2].split()[0]
    return bool(int(caught, 16) >> (fault.signum - 1) & 1) and is_running(pid)


class Outcome(NamedTuple):
    """What came of a scenario."""

    findings: list[str]
    report: str
    """The scenario, what was done, what is wrong, what the farms said."""
    seconds: float


def play(scenario: Scenario, directory: Path) -> Outcome:
    """Play it in this directory, which must not exist."""
    begun = time.monotonic()
    stage = Stage(Scene(directory, scenario.tasks))
    with _disk_of(scenario, stage) as has_disk, stage:
        act = Play(scenario, stage, has_disk)
        try:
            findings = act.run()
        except AssertionError as error:  # a deadline
            findings = [*act.findings, str(error)]
        report = "\n".join([str(scenario), *act.story, *findings[:20], stage.outputs()])
    return Outcome(findings, report, time.monotonic() - begun)


@contextmanager
def _disk_of(scenario: Scenario, stage: Stage) -> Iterator[bool]:
    if not scenario.wants_disk:
        yield False
        return
    with small_disk(stage.scene.workdir) as has_disk:
        yield has_disk


# ---- the command line ---------------------------------------------------------------


def say(text: str) -> None:
    """A line of the report, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


S = TypeVar("S")


def play_command_line(
    what: str,
    plan: Callable[[int], S],
    missing: Callable[[S], str],
    play: Callable[[S, Path], Outcome],
) -> int:
    """Play the seeds of the command line; the exit status is 1 if any went wrong."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--runs", type=int, default=1, help="how many, one by one")
    parser.add_argument("--keep", type=Path, help="a directory that stays")
    parser.add_argument("-v", action="store_true", dest="verbose")
    arguments = parser.parse_args()
    # by an exception, so that the farms end and the disk is unmounted
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    wrong = []
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        scenario = plan(seed)
        if why := missing(scenario):
            say(f"seed {seed}: skipped, {why}")
            continue
        with tempfile.TemporaryDirectory(prefix="mpifarm-fault-") as directory:
            outcome = play(scenario, (arguments.keep or Path(directory)) / str(seed))
        wrong += [seed] if outcome.findings else []
        state = "WRONG" if outcome.findings else "right"
        say(f"seed {seed}: {state}, {outcome.seconds:.1f} s")
        if outcome.findings or arguments.verbose:
            say(outcome.report)
    say(f"{len(wrong)} of {arguments.runs} are wrong: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(play_command_line("Play random mixes of faults.", plan, missing, play))
