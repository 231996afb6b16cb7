"""A workdir is put right: what can be proven, and what the user vouches for.

Rules of this file: everything is written under the lock, whole and then renamed, after
a copy of what was there.  Each step may be the last: what it leaves, a check finds and
the next repair goes on with.  What a claim of a farm that may live holds is not
touched, and what a start of a farm can put right is left to its own code.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from mpifarm.errors import InputError
from mpifarm.workdir import files, timeline
from mpifarm.workdir.checking import (
    Contents,
    Judged,
    Kind,
    Standing,
    judge,
)
from mpifarm.workdir.claims import Machine, encode_ids
from mpifarm.workdir.examining import examine
from mpifarm.workdir.fingerprint import Verdict
from mpifarm.workdir.mending import Mending, mend_ledger
from mpifarm.workdir.paths import WorkdirPaths
from mpifarm.workdir.records import HeldLock
from mpifarm.workdir.status import encode_lines
from mpifarm.workdir.timeline_file import MOST_SALVAGED, is_valid_timeline
from mpifarm.workdir.workdir import Workdir

LOCK_SECONDS = 10.0
"""How long a repair waits for the lock."""

MOST_ROUNDS = 5
"""A round can make another one useful: when dead claims are gone, more may move."""

TRIES_WITHOUT_LOCK = 3
"""How often a repair is composed without the lock before it is composed with it."""


class Change(NamedTuple):
    """A file of the workdir that gets another content, and why, in words."""

    name: str
    before: bytes
    content: bytes
    why: str


class Repair(NamedTuple):
    """What one round is to do."""

    changes: tuple[Change, ...] = ()
    damaged: tuple[str, ...] = ()
    """Farms whose claims are moved aside."""
    timelines: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    start_needed: bool = False
    """Whether the rest is done by the start of a farm."""


# ---- what is to be done -------------------------------------------------------------


def plan_repair(contents: Contents, judged: Judged, *, assume_idle: bool) -> Repair:
    """One round; pure.  `assume_idle`: the user vouches that no farmer is at work."""
    damaged = [
        claim.farm
        for claim in contents.claims
        if claim.standing is Standing.DAMAGED and assume_idle
    ]
    changes = [
        change
        for change in (
            _plan_queue("toprocess", contents, judged, assume_idle=assume_idle),
            _plan_queue("added", contents, judged, assume_idle=assume_idle),
            _plan_ledger("finished", contents.finished, contents, judged),
            _plan_ledger("failed", contents.failed, contents, judged),
        )
        if change is not None
    ]
    dead = any(claim.standing is Standing.DEAD for claim in contents.claims)
    timelines = judged.find(Kind.TIMELINE)
    leftovers = judged.find(Kind.LEFTOVER)
    return Repair(
        tuple(changes),
        tuple(damaged),
        timelines.names if timelines else (),
        leftovers.names if leftovers else (),
        start_needed=dead or judged.find(Kind.FINGERPRINT) is not None,
    )


def _plan_queue(
    name: str, contents: Contents, judged: Judged, *, assume_idle: bool
) -> Change | None:
    """The new ``toprocess`` or ``added``: sorted, each id once, none that must not run.

    What is in both stays in ``toprocess``: there plain farmers know of it.
    """
    sheet, tasks = judged.toprocess, judged.tasks
    if sheet is None or (sheet.aliens and not judged.list_is_same):
        return None
    before = contents.toprocess
    lost = {each for each in judged.nowhere if each < judged.first_added}
    elsewhere = set[int]()
    if name == "added":
        before, elsewhere, sheet = contents.added, set(sheet.ids), judged.added
        lost = set(judged.nowhere) - lost
        if judged.first_added >= len(tasks) or judged.verdict is Verdict.LINES_ADDED:
            return None  # Nobody reads it, or a start has begun to write it.
    if not assume_idle:
        lost = set[int]()
    queued = set(sheet.ids)
    finished = queued & set(judged.finished.ids)
    kept = (claim.kept for claim in contents.claims if claim.may_live)
    held = queued & set[int]().union(*kept) - finished
    ids = (queued | lost) - finished - held - elsewhere
    content = encode_lines(sorted(ids), tasks)
    if content == (before or b""):
        return None
    is_whole = not (sheet.torn or sheet.aliens) and sheet.ids == sorted(queued)
    why = _why(
        (lost, f"tasks {_listed(lost)} put back: they were in no file"),
        (finished, f"tasks {_listed(finished)} taken out: they are finished"),
        (held, f"tasks {_listed(held)} taken out: a farm at work has claimed them"),
        (queued & elsewhere, "taken out what is in toprocess too"),
        (not is_whole, "lines put in order"),
    )
    return Change(name, before or b"", content, why)


def _why(*parts: tuple[object, str]) -> str:
    """The words of those parts that hold."""
    return ", ".join(words for holds, words in parts if holds)


def _plan_ledger(
    name: str, before: bytes | None, contents: Contents, judged: Judged
) -> Change | None:
    sheet = judged.finished if name == "finished" else judged.failed
    if before is None:
        return None
    drop = _superseded(contents, judged) if name == "failed" else set[int]()
    repeated = len(set(sheet.ids)) < len(sheet.ids)
    gaps = not contents.claims and (before[:1] == b"\n" or b"\n\n" in before)
    if not (drop or repeated or sheet.torn or sheet.aliens or gaps):
        return None
    mending = Mending(
        drop,
        keep_last=name == "failed",
        list_is_same=judged.list_is_same,
        keep_length=bool(contents.claims),
    )
    content = mend_ledger(before, judged.tasks, mending)
    if content == before:
        return None
    aliens = len(sheet.aliens) if judged.list_is_same else 0
    why = _why(
        (drop, f"tasks {_listed(drop)} taken out: they are finished or to be run"),
        (repeated, "tasks that stood there twice left once"),
        (sheet.torn, f"{sheet.torn} torn lines mended"),
        (aliens, f"{aliens} lines that are not of the tasklist taken out"),
        (gaps, "blank lines taken out"),
    )
    return Change(name, before, content, why)


def _superseded(contents: Contents, judged: Judged) -> set[int]:
    """Failed tasks that have finished since, or are to be processed again.

    Those of a claim are left: how old a line of ``failed`` is says what of a dead
    farm's tasks is recorded.
    """
    failed = set(judged.failed.ids)
    queued = judged.queued if judged.toprocess else set[int]()
    held = set[int]().union(*(claim.held for claim in contents.claims))
    return failed & ((queued - held) | set(judged.finished.ids))


def _listed(taskids: Sequence[int] | set[int]) -> str:
    """Ids for a sentence, not too many."""
    text = encode_ids(taskids)
    return text if len(text) <= 60 else text[:60].rpartition(",")[0] + ",…"


# ---- doing it -----------------------------------------------------------------------


class Repairer:
    """Repairs the workdir at `path`; `say` takes a line for each thing done.

    `wall` gives the wall clock, for the names of the copies.
    """

    def __init__(
        self,
        path: str,
        tasks: Sequence[str],
        lock: HeldLock,
        machine: Machine,
        say: Callable[[str], None],
        *,
        assume_idle: bool = False,
        wall: Callable[[], float] = time.time,
        farm: str = "",
    ) -> None:
        self._paths = WorkdirPaths(os.path.abspath(path))
        self._tasks = tasks
        self._lock = lock
        self._machine = machine
        self._say = say
        self._assume_idle = assume_idle
        self._wall = wall
        self._farm = farm or os.urandom(4).hex()
        self._copies: dict[str, str] = {}
        self._has_started = False

    def run(self) -> None:
        """Repair what can be; raises `InputError` with everything as it was.

        `StorageError` where the disk or the lock gives way: what was done until then
        stands, and each part of it is whole.
        """
        for _ in range(MOST_ROUNDS):
            if not self._repair_once():
                return

    def rehearse(self) -> None:
        """Raise the `InputError` that `run` would, without the lock."""
        self._plan(self._examine())

    def _repair_once(self) -> bool:
        """One round; whether there may be more to do."""
        for _ in range(TRIES_WITHOUT_LOCK):
            with self._lock.hold(LOCK_SECONDS):
                contents = self._examine()
            repair = self._plan(contents)
            if repair == Repair():
                return False
            with self._lock.hold(LOCK_SECONDS):
                if self._examine() == contents:
                    self._apply(repair)
                    break
        else:
            # Farms at work write all the time.
            with self._lock.hold(LOCK_SECONDS):
                repair = self._plan(self._examine())
                self._apply(repair)
        if repair.start_needed:
            self._start_farm()
        return repair != Repair()

    def _examine(self) -> Contents:
        # Only looking: the clock of the file system would need a file.
        looking = replace(self._machine, read_file_clock=lambda _: self._wall())
        return examine(self._paths.root, looking)

    def _plan(self, contents: Contents) -> Repair:
        judged = judge(contents, self._tasks)
        self._refuse(contents, judged)
        # Lines that were added since are the affair of the next farm.
        self._tasks = judged.tasks
        repair = plan_repair(contents, judged, assume_idle=self._assume_idle)
        if self._has_started:
            return repair._replace(start_needed=False)
        return repair

    def _refuse(self, contents: Contents, judged: Judged) -> None:
        root = self._paths.root
        if contents.unread:
            raise InputError(
                f"{contents.unread[0]}: a repair must read everything in {root}, so "
                "have its owner do it"
            )
        if contents.remap_begun:
            raise InputError(
                f"a --remap of {root} was interrupted: give the farm's command with "
                "--remap, and it goes on where it was"
            )
        if judged.verdict is Verdict.EDITED and contents.begun:
            raise InputError(
                f"the tasklist was edited since {root} was begun, and nothing can be "
                "proven by it: repair with the list as it was (--list FILE)"
            )
        if self._assume_idle:
            _refuse_idle(contents, root)

    # ---- under the lock -------------------------------------------------------------

    def _apply(self, repair: Repair) -> None:
        """Each of these can be the last that is done."""
        for farm in repair.damaged:
            self._set_aside(farm)
        for change in repair.changes:
            self._change(change)
        for name in repair.timelines:
            self._mend_timeline(name)
        for name in repair.leftovers:
            files.remove(f"{self._paths.root}/{name}")
            self._say(f"{name}: removed, nobody needed it any more")
        if repair.start_needed:
            self._copy_queues()

    def _set_aside(self, farm: str) -> None:
        aside = self._free_name(f"claim-{farm}")
        files.rename(self._paths.claim(farm), f"{self._paths.root}/{aside}")
        self._say(f"claims/{farm}: can't be understood, moved to {aside}")

    def _change(self, change: Change) -> None:
        copy = self._keep_copy(change.name, change.before)
        self._replace(change.name, change.content)
        self._say(f"{change.name}: {change.why} (as it was: {copy})")

    def _mend_timeline(self, name: str) -> None:
        path = f"{self._paths.root}/{name}"
        if is_valid_timeline(path):
            return
        content = files.find_content(path) or b""
        copy = self._keep_copy(name, content)
        # To take a large one apart takes longer than the lock may be held.
        small = len(content) <= MOST_SALVAGED
        events = timeline.salvage(content) if small else []
        self._replace(name, timeline.encode_timeline(events))
        saved = f"{len(events)} events saved"
        self._say(f"{name}: was not valid JSON, {saved} (as it was: {copy})")

    def _copy_queues(self) -> None:
        for name in ("toprocess", "added"):
            content = files.find_content(f"{self._paths.root}/{name}")
            if content is not None:
                self._keep_copy(name, content)

    def _keep_copy(self, name: str, content: bytes) -> str:
        """Write it beside under a name of its own, once; returns the name."""
        if name not in self._copies:
            path, copy = f"{self._paths.root}/{name}", self._free_name(name)
            beside = f"{self._paths.root}/{copy}.new"
            files.write_beside(beside, (content,), like=path)
            files.rename(beside, f"{self._paths.root}/{copy}")
            self._copies[name] = copy
        return self._copies[name]

    def _free_name(self, name: str) -> str:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.localtime(self._wall()))
        name = f"{name}.before-repair-{stamp}"
        free, number = name, 1
        while files.exists(f"{self._paths.root}/{free}"):
            number += 1
            free = f"{name}-{number}"
        return free

    def _replace(self, name: str, content: bytes) -> None:
        path = f"{self._paths.root}/{name}"
        files.write_beside(f"{path}.repair", (content,), like=path)
        files.rename(f"{path}.repair", path)

    # ---- what a start of a farm does ------------------------------------------------

    def _start_farm(self) -> None:
        """Join the workdir as a farm, which takes dead claims back, and leave it."""
        self._has_started = True
        try:
            workdir = Workdir.open(
                self._paths.root,
                self._tasks,
                self._lock,
                self._farm,
                machine=self._machine,
            )
        except InputError as error:
            self._say(f"no farm can start here yet: {error}")
            return
        for note in workdir.notes:
            self._say(note)
        with self._lock.hold(LOCK_SECONDS):
            workdir.close()


def _refuse_idle(contents: Contents, root: str) -> None:
    """Raise `InputError` where farmers are known to be at work."""
    for claim in contents.claims:
        if claim.may_live:
            what = (
                "is at work"
                if claim.standing is Standing.AT_WORK
                else "was heard of in the last minute"
            )
            raise InputError(
                f"--assume-idle can't be: farm {claim.farm} {claim.where} {what} in "
                f"{root}; wait until it has ended"
            )
