"""Tasks that leave evidence of their runs, and judges of what farms did with them.

Rules of this file: a task writes down each of its runs in a file of its own, with
O_APPEND, beside the workdir and not in it.  Judges read that and the workdir as anyone
can, without mpifarm's own readers, but for the invariant checker, which is one judge
more.  A judge returns sentences, none where all is right, and changes nothing.

A run's lines, in ``runs/<id>``::

    start <pid> <start time of the process> <attempt, or "plain"> <seconds since 1970>
    overlap <pid> <start time of the process>
    end <pid> <start time of the process> <attempt, or "plain"> <seconds since 1970>

``overlap`` is written by a run that finds another one of its task alive.
"""

import fcntl
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.invariants import find_violations
from tests.workdir_files import ATTEMPTS_HEAD, WorkdirFiles, split_attempts

PLAIN = "plain"
"""The attempt of a run that no mpifarm has started."""

SCRIPT = """\
# $1: seconds, $2: exit status, $3: what it prints
LC_ALL=C
read -r -a me < /proc/$$/stat
runs=runs/$PROC_NUMBER
note() {
    echo "$1 $$ ${me[21]} ${MPIFARM_ATTEMPT-plain} $EPOCHREALTIME" >> "$runs"
}
note start
# A run that began at the same moment has written its line as well, and sees this one.
declare -A ended
while read -r what pid began _; do
    [ "$what" = end ] && ended[$pid.$began]=1
done < "$runs"
while read -r what pid began _; do
    [ "$what $pid" != "start $$" ] && [ "$what" = start ] || continue
    [ -z "${ended[$pid.$began]}" ] || continue
    read -r -a other 2> /dev/null < "/proc/$pid/stat" || continue
    # the same process, and neither dead nor a zombie
    [ "${other[21]}" = "$began" ] && [[ ${other[2]} != [ZX] ]] || continue
    echo "overlap $pid $began" >> "$runs"
done < "$runs"
[ "$3" = - ] || echo "$3"
[ "$1" = 0 ] || sleep "$1"
note end
exit "$2"
"""


class Task(NamedTuple):
    """A line of the list."""

    seconds: str
    """How long it sleeps, "0" for not at all."""
    status: int
    word: str
    """What it prints, "-" for nothing."""
    prefix: str = ""
    """What stands in front of its command, ``[limit=NAME]`` and a blank."""

    @property
    def line(self) -> str:
        """Without any shell syntax: plain farmers have no shell."""
        return f"{self.prefix}bash task {self.seconds} {self.status} {self.word}"


class Run(NamedTuple):
    """One run of a task, as it wrote it down."""

    pid: int
    began: int
    """The start time of its process, in the kernel's ticks."""
    attempt: str
    start: float
    end: float | None
    """None if it was killed."""


class Snapshot(NamedTuple):
    """What was recorded at a moment."""

    moment: float
    """Seconds since 1970."""
    finished: frozenset[int]
    failed: frozenset[int]


@dataclass
class Allowance:
    """What the faults that were inflicted excuse."""

    overlaps: bool = False
    """A rank or a worker was stopped, and its tasks given to others; or all that could
    have ended a command were killed in one moment."""
    plain_runs: bool = False
    """Plain farmers took part: they run again what a kill made them put back."""
    failures_run_again: bool = False
    """Failed tasks were put back, as a user does it."""
    torn_attempts: bool = False
    """A disk was full, so that a line of ``attempts.tsv`` may be missing or torn."""
    missing_logs: bool = False
    """A disk was full."""


class Scene(WorkdirFiles):
    """A directory with the list, the tasks' script and their evidence.

    The workdir is ``tasks.txt_workdir`` beside the list, which may be a mount point.
    """

    list_name = "tasks.txt"

    def __init__(self, directory: Path, tasks: Sequence[Task]) -> None:
        self.directory = directory
        self.tasks = tasks
        self.tasklist = directory / self.list_name
        super().__init__(directory / f"{self.list_name}_workdir")

    def build(self) -> None:
        """Write the list and the script."""
        (self.directory / "runs").mkdir(parents=True)
        (self.directory / "task").write_text(SCRIPT)
        self.tasklist.write_text("".join(f"{task.line}\n" for task in self.tasks))

    # ---- what is there --------------------------------------------------------------

    def recorded(self, name: str) -> list[int]:
        """The ids of the whole lines of a status file, as often as they stand there."""
        return self.ids(name, [task.line for task in self.tasks])

    def take_snapshot(self, moment: float) -> Snapshot:
        """What is recorded now; `moment` must be later than that."""
        return Snapshot(
            moment,
            frozenset(self.recorded("finished")),
            frozenset(self.recorded("failed")),
        )

    def is_done(self) -> bool:
        """Whether each task is recorded."""
        return {*self.recorded("finished"), *self.recorded("failed")} == self._ids()

    def wrongly_failed(self) -> list[int]:
        """Tasks in ``failed`` that would have ended with status 0."""
        failed = self.recorded("failed")
        return [taskid for taskid in failed if self.tasks[taskid].status == 0]

    def runs(self, taskid: int) -> list[Run]:
        """The runs of a task, in their order."""
        runs: dict[tuple[int, int], Run] = {}
        for what, pid, began, *rest in self._notes(taskid):
            key = int(pid), int(began)
            if what == "start":
                runs[key] = Run(*key, rest[0], float(rest[1]), None)
            elif what == "end" and key in runs:
                runs[key] = runs[key]._replace(end=float(rest[1]))
        return list(runs.values())

    def _notes(self, taskid: int) -> Iterator[list[str]]:
        path = self.directory / "runs" / str(taskid)
        if path.exists():
            yield from map(str.split, path.read_text().splitlines())

    def _ids(self) -> set[int]:
        return set(range(len(self.tasks)))

    # ---- judges ---------------------------------------------------------------------

    def judge(
        self, snapshots: Iterable[Snapshot], status: int, allowed: Allowance
    ) -> list[str]:
        """All that is wrong after the last farm, which ended with `status`."""
        return [
            *self._judge_runs(allowed),
            *self._judge_records(allowed),
            *self._judge_what_ran_again(snapshots, allowed),
            *self._judge_files(allowed),
            *self._judge_result(status),
        ]

    def judge_end(self, status: int) -> Iterator[str]:
        """What is wrong with the files, whatever has run, after a farm's end."""
        yield from self._judge_names()
        yield from self._judge_lock()
        yield from self._judge_timelines()
        yield from self._judge_attempts()
        yield from self._judge_result(status)
        yield from find_violations(str(self.workdir), [t.line for t in self.tasks], ())

    def _judge_runs(self, allowed: Allowance) -> Iterator[str]:
        for taskid in sorted(self._ids()):
            runs = self.runs(taskid)
            if not runs:
                yield f"task {taskid} never ran"
            elif not any(run.end is not None for run in runs):
                yield f"task {taskid} never ran to its end: {runs}"
            if not allowed.overlaps and any(
                what == "overlap" for what, *_ in self._notes(taskid)
            ):
                yield f"task {taskid} ran twice at the same moment: {runs}"

    def _judge_records(self, allowed: Allowance) -> Iterator[str]:
        finished, failed = self.recorded("finished"), self.recorded("failed")
        for taskid, task in enumerate(self.tasks):
            places = finished.count(taskid), failed.count(taskid)
            if places == ((1, 0) if task.status == 0 else (0, 1)):
                continue
            if (
                allowed.failures_run_again
                and task.status
                and places[0] == 0 < places[1]
            ):
                continue
            if allowed.plain_runs and self._ran_twice_plainly(taskid):
                continue
            yield (
                f"task {taskid}, which ends with {task.status}, stands {places[0]} "
                f"times in finished and {places[1]} times in failed; "
                f"runs: {self.runs(taskid)}"
            )
        yield from find_violations(str(self.workdir), [t.line for t in self.tasks], ())

    def _ran_twice_plainly(self, taskid: int) -> bool:
        runs = [run for run in self.runs(taskid) if run.end is not None]
        return len(runs) > 1 and any(run.attempt == PLAIN for run in runs)

    def _judge_what_ran_again(
        self, snapshots: Iterable[Snapshot], allowed: Allowance
    ) -> Iterator[str]:
        told: set[int] = set()
        for moment, finished, failed in snapshots:
            ids = finished if allowed.failures_run_again else finished | failed
            for taskid in ids - told:
                later = [run for run in self.runs(taskid) if run.start > moment]
                if allowed.plain_runs:
                    later = [run for run in later if run.attempt != PLAIN]
                if later:
                    told.add(taskid)
                    yield (
                        f"task {taskid} was recorded at {moment:.3f} and ran again: "
                        f"{self.runs(taskid)}"
                    )

    def _judge_files(self, allowed: Allowance) -> Iterator[str]:
        yield from self._judge_names()
        yield from self._judge_lock()
        yield from self._judge_timelines()
        if not allowed.torn_attempts:
            yield from self._judge_attempts()
        if not allowed.missing_logs:
            yield from self._judge_logs()

    def _judge_names(self) -> Iterator[str]:
        for path in sorted(self.workdir.iterdir()):
            if not _EXPECTED.fullmatch(path.name):
                yield f"{path.name} was left in the workdir"
        if claims := self.claims():
            yield f"claims were left: {claims}"
        if self.content("toprocess"):
            yield f"toprocess still holds {self.content('toprocess')[:200]!r}"

    def _judge_lock(self) -> Iterator[str]:
        with (self.workdir / "lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield "the lock is held"
        if self.content("lock"):
            yield "somebody wrote to the lock file"

    def _judge_timelines(self) -> Iterator[str]:
        for path in sorted(self.workdir.glob("timeline*.json")):
            if path.name.startswith("timeline.invalid."):
                continue
            try:
                events = json.loads(path.read_bytes())
            except ValueError as error:
                yield f"{path.name} is no JSON: {error}"
            else:
                if not all("ts" in event and "name" in event for event in events):
                    yield f"{path.name} holds what is no event"

    def _judge_attempts(self) -> Iterator[str]:
        content = self.content("attempts.tsv")
        if not content.startswith(ATTEMPTS_HEAD.encode()):
            yield f"attempts.tsv has no head: {content[:200]!r}"
        for line in split_attempts(content)[1]:
            yield f"attempts.tsv has a line that is none: {line!r}"
        if not content.endswith(b"\n"):
            yield "attempts.tsv ends in mid-line"

    def _judge_logs(self) -> Iterator[str]:
        for taskid, task in enumerate(self.tasks):
            expected = b"" if task.word == "-" else f"{task.word}\n".encode()
            path = self.workdir / "logs" / f"log_{taskid}"
            if not path.exists():
                yield f"log_{taskid} is missing"
            elif _AGAIN.split(path.read_bytes())[-1] != expected:
                yield f"log_{taskid} holds {path.read_bytes()!r}, not {expected!r}"

    def _judge_result(self, status: int) -> Iterator[str]:
        try:
            result = json.loads(self.content("result.json"))
        except ValueError as error:
            yield f"result.json is no JSON: {error}"
            return
        counts = Counter(
            finished=len(set(self.recorded("finished"))),
            failed=len({*self.recorded("failed")} - {*self.recorded("finished")}),
            total=len(self.tasks),
        )
        told = {name: result["tasks"].get(name) for name in counts}
        if told != dict(counts):
            yield f"result.json counts {told}, the files hold {dict(counts)}"
        if result["exit_status"] != status:
            yield f"result.json says {result['exit_status']}, the farm's was {status}"
        if status != (1 if counts["failed"] else 0):
            yield f"the last farm ended with {status}; the files hold {dict(counts)}"


_EXPECTED = re.compile(
    r"toprocess|finished|failed|timeline\.json|logs|lock|claims|added|farms"
    r"|waiting|requests|answers|held|(?:requests|answers)\.new"
    # of a farm beside others; what was damaged, kept aside
    r"|timeline\.[0-9a-f]+\.json|timeline\.invalid\.[0-9a-f]+\.json|attempts\.tsv"
    r"|fingerprint\.json|result\.json|begun-in"
    # what a repair has kept
    r"|.+\.before-repair-.*"
)

_AGAIN = re.compile(rb"^=== mpifarm: started again, .* ===\n", re.MULTILINE)
"""What stands in a log between the outputs of two attempts."""


def counted(ids: Collection[int]) -> str:
    """How many, and the first ones."""
    first = ", ".join(map(str, sorted(ids)[:10]))
    return f"{len(ids)} ({first}{', …' if len(ids) > 10 else ''})"
