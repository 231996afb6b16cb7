"""The repair of a workdir: all that can be proven, or that the user vouches for.

Rules of this file: every file is written under the lock, whole and then renamed, after
a copy of the old file.  Each step may be the last: a check finds what is left, and the
next repair goes on.  Tasks in a claim of a farm that may live are not touched.  Faults
that the start of a farm mends are left to the code of that start.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from mpifarm.audit.audit import (
    Audit,
    Contents,
    FindingKind,
    audit_contents,
)
from mpifarm.audit.ledger_rewrite import LedgerRewrite, rewrite_ledger
from mpifarm.audit.snapshot import examine
from mpifarm.errors import InputError, StorageError
from mpifarm.model.id_ranges import name_ids
from mpifarm.model.paths import (
    WorkdirPaths,
    copy_staging_of,
    name_before_repair,
    repair_staging_of,
)
from mpifarm.model.wording import counted
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.store import timeline
from mpifarm.store.farm_liveness import FarmLiveness, Machine
from mpifarm.store.file_store import FileStore
from mpifarm.store.fingerprint import ListMatch
from mpifarm.store.membership import FAMILY
from mpifarm.store.optimistic import write_optimistically
from mpifarm.store.status_lines import encode_lines
from mpifarm.store.task_map import Location
from mpifarm.store.timeline_file import MAX_SALVAGED, is_valid_timeline
from mpifarm.store.types import HeldLock
from mpifarm.store.validate import describe_interrupted_remap
from mpifarm.system import files

LOCK_SECONDS = 10.0
"""Seconds that a repair waits for the lock, each time that it takes the lock."""

MAX_ROUNDS = 5
"""Rounds of a repair: when a round has removed dead claims, the next may do more."""


class Change(NamedTuple):
    """A file of the workdir that gets another content; `why` is for the user."""

    name: str
    before: bytes
    content: bytes
    why: str


class Repair(NamedTuple):
    """The plan of one round."""

    changes: tuple[Change, ...] = ()
    damaged: tuple[str, ...] = ()
    """Farms whose claims are moved aside."""
    timelines: tuple[str, ...] = ()
    """Names of invalid timelines, which are rebuilt."""
    leftovers: tuple[str, ...] = ()
    """Names of temporary files, which are removed."""
    start_needed: bool = False
    """Whether a farm has to start and leave: it reclaims dead claims."""


# ---- what is to be done -------------------------------------------------------------


def plan_repair(contents: Contents, audit: Audit, *, assume_idle: bool) -> Repair:
    """Plan one round.  `assume_idle`: the user vouches that no farmer is at work."""
    damaged = [
        claim.farm
        for claim in contents.claims
        if claim.liveness is FarmLiveness.DAMAGED and assume_idle
    ]
    changes = [
        change
        for change in (
            # First, so that no task is ever in no file that moves there.
            _plan_queue("waiting", contents, audit, assume_idle=assume_idle),
            _plan_queue("toprocess", contents, audit, assume_idle=assume_idle),
            _plan_queue("added", contents, audit, assume_idle=assume_idle),
            _plan_ledger("finished", contents.finished, contents, audit),
            _plan_ledger("failed", contents.failed, contents, audit),
        )
        if change is not None
    ]
    dead = any(claim.liveness is FarmLiveness.DEAD for claim in contents.claims)
    timelines = audit.find(FindingKind.TIMELINE)
    leftovers = audit.find(FindingKind.LEFTOVER)
    return Repair(
        tuple(changes),
        tuple(damaged),
        timelines.names if timelines else (),
        leftovers.names if leftovers else (),
        start_needed=dead or audit.find(FindingKind.FINGERPRINT) is not None,
    )


def _plan_queue(
    name: str, contents: Contents, audit: Audit, *, assume_idle: bool
) -> Change | None:
    """Plan the new content of a queue: sorted, each id once.

    Finished tasks, and tasks of a farm that may live, are taken out.  With
    `assume_idle`, tasks in no file are put back.  A task that is in two queues stays in
    ``toprocess``, which plain farmers read, unless they may not run it.

    Return None if the file is right, absent, or must not be touched.
    """
    queues, tasks = audit.queues, audit.tasks
    aliens = queues and queues["toprocess"].aliens
    if not queues or (aliens and not audit.list_is_same):
        return None
    if name != "toprocess" and audit.match is ListMatch.LINES_ADDED:
        return None  # A start may have begun to write it.
    before = getattr(contents, name) or b""
    if name == "added" and audit.first_added >= len(tasks):
        return None  # Nobody reads it.
    parsed = queues[name]
    lost = {each for each in audit.nowhere if audit.queue_of(each) == name}
    if not assume_idle:
        lost = set[int]()
    queued = set(parsed.ids)
    early = _find_early(name, audit)
    elsewhere = queued & _find_elsewhere(name, audit)
    finished = (queued | early) & set(audit.finished.ids)
    kept = (claim.kept for claim in contents.claims if claim.may_live)
    held = (queued | early) & set[int]().union(*kept) - finished
    ids = (queued | lost | early) - finished - held - elsewhere
    content = encode_lines(sorted(ids), tasks)
    if content == before:
        return None
    why = _why(
        (lost, f"put back what was in no file: {name_ids(lost)}"),
        (early, f"put in what plain farmers may not run: {name_ids(early)}"),
        (finished, f"taken out what has finished: {name_ids(finished)}"),
        (held, f"taken out what a farm at work has claimed: {name_ids(held)}"),
        (elsewhere, f"taken out what is in another queue: {name_ids(elsewhere)}"),
        (not parsed.is_in_order, "lines put in order"),
    )
    return Change(name, before, content, why)


def _find_early(name: str, audit: Audit) -> set[int]:
    """Return the tasks of other queues that belong to ``waiting``, if that is meant."""
    if name != "waiting" or not audit.constraints:
        return set()
    others = {*audit.queues["toprocess"].ids, *audit.queues["added"].ids}
    shared = set(audit.constraints.find_shared(sorted(others)))
    return others - shared - {*audit.waiting.ids}


def _find_elsewhere(name: str, audit: Audit) -> set[int]:
    """Return the tasks that leave a queue, since they are or belong in another one."""
    if audit.match is ListMatch.LINES_ADDED:
        return set()  # The other one is not written.
    toprocess, added = ({*audit.queues[each].ids} for each in ("toprocess", "added"))
    others = toprocess | added
    shared = others
    if audit.constraints:
        shared = set(audit.constraints.find_shared(sorted(others)))
    if name == "waiting":
        return shared
    return (toprocess if name == "added" else set()) | (others - shared)


def _why(*parts: tuple[object, str]) -> str:
    """Return the words of each part whose first value is true, with commas."""
    return ", ".join(words for holds, words in parts if holds)


def _plan_ledger(
    name: str, before: bytes | None, contents: Contents, audit: Audit
) -> Change | None:
    """Plan the new ``finished`` or ``failed``; None if the file is right or absent."""
    parsed = audit.finished if name == "finished" else audit.failed
    if before is None:
        return None
    drop = _find_superseded(audit) if name == "failed" else set[int]()
    repeated = len(set(parsed.ids)) < len(parsed.ids)
    gaps = not contents.claims and (before[:1] == b"\n" or b"\n\n" in before)
    if not (drop or repeated or parsed.torn or parsed.aliens or gaps):
        return None
    rewrite = LedgerRewrite(
        drop,
        keep_last=name == "failed",
        list_is_same=audit.list_is_same,
        keep_length=bool(contents.claims),
    )
    content = rewrite_ledger(before, audit.tasks, rewrite)
    if content == before:
        return None
    aliens = len(parsed.aliens) if audit.list_is_same else 0
    why = _why(
        (drop, f"taken out what has finished or is to be run: {name_ids(drop)}"),
        (repeated, "tasks that stood there twice left once"),
        (parsed.torn, f"{counted(parsed.torn, 'torn line')} mended"),
        (aliens, f"taken out {counted(aliens, 'line')} of no task"),
        (gaps, "blank lines taken out"),
    )
    return Change(name, before, content, why)


def _find_superseded(audit: Audit) -> set[int]:
    """Return failed tasks that have finished since, or are to be processed again.

    Tasks of a claim are left out: the age of a line of ``failed`` says whether a task
    of a dead farm has failed under that farm.
    """
    over = {Location.FINISHED}
    if audit.toprocess is not None:
        over.add(Location.QUEUED)
    return {each for each in audit.failed.ids if audit.locations.find(each) in over}


# ---- doing it -----------------------------------------------------------------------


class Repairer:
    """A repair of the workdir at `path`.

    `say` takes a line for each change.  `constraints` are those of the list.
    `assume_idle`: the user vouches that no farmer is at work.  `wall` returns the wall
    clock, for the names of the copies.  `farm` is the name under which a start joins,
    by default a random one.
    """

    def __init__(
        self,
        path: str,
        tasks: Sequence[str],
        machine: Machine,
        say: Callable[[str], None],
        *,
        assume_idle: bool = False,
        wall: Callable[[], float] = time.time,
        farm: str = "",
        constraints: Constraints = UNORDERED,
    ) -> None:
        self._paths = WorkdirPaths(os.path.abspath(path))
        self._tasks = tasks
        self._constraints = constraints
        self._machine = machine
        self._say = say
        self._assume_idle = assume_idle
        self._wall = wall
        self._farm = farm or os.urandom(4).hex()
        self._copies: dict[str, str] = {}
        self._has_started = False
        """Whether a farm was started: a second start would mend nothing more."""

    def run(self, lock: HeldLock) -> None:
        """Repair all that can be repaired, in up to `MAX_ROUNDS` rounds.

        Raises `InputError`, with nothing changed, if a repair is impossible.  Raises
        `StorageError` if the disk fails or the lock cannot be had: the changes until
        then are whole, and the next run goes on from there.
        """
        self._lock = lock
        for _ in range(MAX_ROUNDS):
            if not self._repair_once():
                return

    def rehearse(self) -> None:
        """Raise the error that `run` would, without the lock; change nothing."""
        self._plan(self._examine())

    def _repair_once(self) -> bool:
        """Repair once, and start a farm if needed.  Return whether there was work."""
        nothing = Repair()
        repair = write_optimistically(
            self._lock,
            self._examine,
            self._plan,
            self._apply,
            is_current=lambda contents: self._examine() == contents,
            is_needed=lambda repair: repair != nothing,
            seconds=LOCK_SECONDS,
        )
        if repair.start_needed:
            self._start_farm()
        return repair != nothing

    def _examine(self) -> Contents:
        # A reading must write nothing, and the file system's clock needs a file.
        reader = replace(self._machine, read_file_clock=lambda _: self._wall())
        return examine(self._paths.root, reader)

    def _plan(self, contents: Contents) -> Repair:
        """Audit the contents, and plan a round, with one start of a farm in all.

        From now on this repair knows only the tasks that the workdir has taken up.
        """
        audit = audit_contents(contents, self._tasks, constraints=self._constraints)
        self._refuse(contents, audit)
        # Lines that were added since are the affair of the next farm.
        self._tasks = audit.tasks
        repair = plan_repair(contents, audit, assume_idle=self._assume_idle)
        if self._has_started:
            return repair._replace(start_needed=False)
        return repair

    def _refuse(self, contents: Contents, audit: Audit) -> None:
        """Raise `InputError` or `StorageError` if the contents prove too little."""
        root = self._paths.root
        if contents.disk_failed:
            raise StorageError(contents.unread[0])
        if contents.unread:
            raise InputError(
                f"{contents.unread[0]}: a repair must read everything in {root}, so "
                "have its owner do it"
            )
        if contents.remap_begun:
            raise InputError(describe_interrupted_remap(root))
        if audit.is_edited and contents.begun:
            raise InputError(
                f"the tasklist was edited since {root} was begun, and nothing can be "
                "proven by it: repair with the list as it was (--list FILE)"
            )
        if self._assume_idle:
            _refuse_idle(contents, root)

    # ---- under the lock -------------------------------------------------------------

    def _apply(self, repair: Repair) -> None:
        """Carry out a round, with a line for the user for each change.  Lock held.

        After a kill, each step may be the last.
        """
        for farm in repair.damaged:
            self._set_aside(farm)
        for change in repair.changes:
            self._change(change)
        for name in repair.timelines:
            self._mend_timeline(name)
        for name in repair.leftovers:
            files.remove(self._paths.file(name))
            self._say(f"{name}: removed, nobody needed it any more")
        if repair.start_needed:
            self._copy_queues()

    def _set_aside(self, farm: str) -> None:
        aside = self._free_name(f"claim-{farm}")
        files.rename(self._paths.claim(farm), self._paths.file(aside))
        self._say(f"claims/{farm}: can't be understood, moved to {aside}")

    def _change(self, change: Change) -> None:
        copy = self._keep_copy(change.name, change.before)
        self._replace(change.name, change.content)
        self._say(f"{change.name}: {change.why} (as it was: {copy})")

    def _mend_timeline(self, name: str) -> None:
        """Copy and rebuild a timeline, unless it is valid by now."""
        path = self._paths.file(name)
        if is_valid_timeline(path):
            return
        content = files.find_content(path) or b""
        copy = self._keep_copy(name, content)
        # To take a large one apart takes longer than the lock may be held.
        small = len(content) <= MAX_SALVAGED
        events = timeline.salvage(content) if small else []
        self._replace(name, timeline.encode_timeline(events))
        saved = f"{counted(len(events), 'event')} saved"
        self._say(f"{name}: was not valid JSON, {saved} (as it was: {copy})")

    def _copy_queues(self) -> None:
        for name in ("toprocess", "added", "waiting"):
            content = files.find_content(self._paths.file(name))
            if content is not None:
                self._keep_copy(name, content)

    def _keep_copy(self, name: str, content: bytes) -> str:
        """Copy a file, once in this repair.  Return the name of the copy."""
        if name not in self._copies:
            copy = self._free_name(name)
            kept = self._paths.file(copy)
            staging = copy_staging_of(kept)
            files.write_staging_file(staging, (content,), like=self._paths.file(name))
            files.rename(staging, kept)
            self._copies[name] = copy
        return self._copies[name]

    def _free_name(self, name: str) -> str:
        """Return an unused name for the copy of a file."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.localtime(self._wall()))
        name = name_before_repair(name, stamp)
        free, number = name, 1
        while files.exists(self._paths.file(free)):
            number += 1
            free = f"{name}-{number}"
        return free

    def _replace(self, name: str, content: bytes) -> None:
        path = self._paths.file(name)
        staging = repair_staging_of(path)
        files.write_staging_file(staging, (content,), like=path)
        files.rename(staging, path)

    # ---- what a start of a farm does ------------------------------------------------

    def _start_farm(self) -> None:
        """Join the workdir as a farm, which reclaims dead claims, and leave it.

        A start that is impossible is told to the user, and not tried again.
        """
        # One that failed may have left its claim, which this one takes over.
        before, self._farm = self._farm, self._farm[:FAMILY] + os.urandom(4).hex()
        try:
            workdir = FileStore.open(
                self._paths.root,
                self._tasks,
                self._lock,
                self._farm,
                machine=self._machine,
                predecessor=before,
                constraints=self._constraints,
            )
        except InputError as error:
            self._has_started = True
            self._say(f"no farm can start here yet: {error}")
            return
        self._has_started = True
        for note in workdir.notes:
            self._say(note)
        with self._lock.hold(LOCK_SECONDS):
            workdir.close()


def _refuse_idle(contents: Contents, root: str) -> None:
    """Raise `InputError` if a farm may be running in the workdir `root`."""
    for claim in contents.claims:
        if claim.may_live:
            is_sure = claim.liveness.is_at_work
            runs = "is running" if is_sure else "was heard of in the last minute"
            raise InputError(
                f"cannot use --assume-idle: farm {claim.farm} {claim.where} {runs} in "
                f"{root}; wait until it ends"
            )
