"""The audit of a workdir: the locations of its tasks, and the faults of its files.

Rules of this file: contents in, findings out; it opens nothing, and no content of a
file makes it raise.  A state in which a running farm may leave the files when it frees
the lock is not a finding.  `store.task_map` gives the location of a task that several
files name.
"""

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import Enum
from itertools import chain
from typing import NamedTuple

from mpifarm.model.paths import UNKEPT, log_name
from mpifarm.model.wording import counted
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.store.farm_liveness import FarmLiveness
from mpifarm.store.fingerprint import (
    Fingerprint,
    ListMatch,
    compare,
    parse_fingerprint,
)
from mpifarm.store.nowhere import find_nowhere
from mpifarm.store.status_lines import (
    ParsedStatus,
    find_empty_status,
    find_id,
    parse_status,
)
from mpifarm.store.task_map import Location, TaskMap

# ---- what is audited ----------------------------------------------------------------


class ClaimView(NamedTuple):
    """A claim as it was read.

    `where` is host and pid in words, "" if they are unknown; `held` are the ids of the
    claim.
    """

    farm: str
    where: str
    liveness: FarmLiveness
    held: frozenset[int]
    kept: frozenset[int]
    """The tasks among `held` that the farm is not requeueing just now."""

    @property
    def may_live(self) -> bool:
        """Whether the tasks of the claim must not be touched."""
        return self.liveness.may_live


class Contents(NamedTuple):
    """The contents of a workdir at one moment; None for a missing or unread file."""

    toprocess: bytes | None
    finished: bytes | None
    failed: bytes | None
    fingerprint: bytes | None
    added: bytes | None = None
    waiting: bytes | None = None
    claims: tuple[ClaimView, ...] = ()
    leftovers: tuple[str, ...] = ()
    """Names of temporary files that nobody will rename any more."""
    invalid_timelines: tuple[str, ...] = ()
    drain: bool = False
    """Whether there is a file ``drain``."""
    unread: tuple[str, ...] = ()
    """A sentence for each file or directory that could not be read."""
    locked: bool = True
    """Whether the lock was held at the reading, or nobody can have held the lock."""
    remap_begun: bool = False
    """Whether a ``--remap`` was interrupted: then the files are of two lists."""
    disk_failed: bool = False
    """Whether the disk has failed at a file in `unread`: that may pass."""

    @property
    def begun(self) -> bool:
        """Whether any farmer has left a claim or a status file."""
        files = (self.toprocess, self.finished, self.failed)
        return bool(self.claims) or any(content is not None for content in files)


# ---- what is found ------------------------------------------------------------------


class FindingKind(Enum):
    """The kinds of findings."""

    REMAP_BEGUN = "a --remap was interrupted"
    LIST_EDITED = "the tasklist was edited"
    LINES_ADDED = "lines were added to the tasklist"
    FINGERPRINT = "the fingerprint is damaged"
    UNREAD = "could not be read"
    UNLOCKED = "read without the lock"
    TORN = "torn lines"
    NO_TASK = "lines that are of no task"
    UNKNOWN_ID = "ids that the list does not have"
    OTHER_TEXT = "texts that differ"
    QUEUED_FINISHED = "finished and in toprocess"
    QUEUED_HELD = "claimed and in toprocess"
    HELD_TWICE = "in two claims"
    HELD_UNKNOWN = "claimed, and not in the list"
    FINISHED_TWICE = "finished twice"
    QUEUED_TWICE = "twice in the queues"
    QUEUED_EARLY = "in toprocess, where plain farmers would run it too early"
    UNSORTED = "toprocess is not sorted"
    FAILED_FINISHED = "failed, finished later"
    FAILED_QUEUED = "failed, to be processed again"
    FAILED_TWICE = "failed twice"
    NOWHERE = "in no file"
    CLAIM_DEAD = "claims of dead farms"
    CLAIM_DAMAGED = "damaged claims"
    CLAIM_UNSURE = "claims of farms that may be dead"
    LEFTOVER = "temporary files"
    TIMELINE = "invalid timelines"
    LOG = "logs missing"
    DRAIN = "a drain file"


NOTICES = frozenset(
    {
        FindingKind.LINES_ADDED,
        FindingKind.UNLOCKED,
        FindingKind.UNSORTED,
        FindingKind.FAILED_FINISHED,
        FindingKind.FAILED_QUEUED,
        FindingKind.FAILED_TWICE,
        FindingKind.CLAIM_UNSURE,
        FindingKind.LOG,
        FindingKind.DRAIN,
    }
)
"""The findings that harm nothing: a workdir without any other finding is clean."""


class AuditFinding(NamedTuple):
    """All that was found of one kind: tasks have `ids`, files and the like `names`.

    `number` is the number of tasks or things, 0 if there is no finding.
    """

    kind: FindingKind
    number: int
    ids: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


class Audit(NamedTuple):
    """The state of a workdir, and the findings about it.

    `tasks` are the tasks that the workdir was begun with, or has taken up since.  Tasks
    from `first_added` on go through ``added``, those of which `constraints` say so
    through ``waiting``.  `toprocess` is None without that file.
    """

    tasks: Sequence[str]
    first_added: int
    match: ListMatch | None
    """The comparison of list and fingerprint; None if either is unknown."""
    is_edited: bool
    """As in `ParsedContents`."""
    toprocess: ParsedStatus | None
    added: ParsedStatus
    waiting: ParsedStatus
    finished: ParsedStatus
    failed: ParsedStatus
    nowhere: frozenset[int]
    """The tasks in no file; empty if any file could not be read."""
    findings: list[AuditFinding]
    locations: TaskMap
    constraints: Constraints

    @property
    def queues(self) -> dict[str, ParsedStatus]:
        """The queues by name, none without ``toprocess``."""
        if self.toprocess is None:
            return {}
        return {
            "toprocess": self.toprocess,
            "added": self.added,
            "waiting": self.waiting,
        }

    @property
    def queued(self) -> set[int]:
        """The tasks in the queues."""
        return set[int]().union(*(each.ids for each in self.queues.values()))

    def queue_of(self, taskid: int) -> str:
        """Return the name of the queue to which a task belongs."""
        if not self.constraints.is_shared(taskid):
            return "waiting"
        return "toprocess" if taskid < self.first_added else "added"

    @property
    def list_is_same(self) -> bool:
        """Whether the fingerprint proves that the files are of this tasklist."""
        return self.match in (ListMatch.SAME, ListMatch.LINES_ADDED)

    @property
    def clean(self) -> bool:
        """Whether there are no findings but notices."""
        return all(finding.kind in NOTICES for finding in self.findings)

    def find(self, kind: FindingKind) -> AuditFinding | None:
        """Return the finding of a kind, None if there is no such finding."""
        return next((each for each in self.findings if each.kind is kind), None)


# ---- the tasklist -------------------------------------------------------------------

UNKNOWN_TEXT = "\n"
"""The text of a task that no file has; no line can be equal to it."""
MAX_LEARNED = 10**8
"""Tasks that are learned at most: a damaged id must not fill the memory."""


def learn_tasks(contents: Contents) -> list[str]:
    """Return the tasks that the files name, for a workdir without its tasklist.

    The text of a task that only a claim or the fingerprint counts is `UNKNOWN_TEXT`.
    """
    texts: dict[int, str] = {}
    queues = (contents.toprocess, contents.added, contents.waiting)
    for content in (*queues, contents.failed, contents.finished):
        for line in (content or b"").split(b"\n")[:-1]:
            taskid = _find_learnable(line)
            if taskid is not None:
                text = line[line.index(b" ") + 1 :]
                texts.setdefault(taskid, text.decode("utf-8", "surrogateescape"))
    stored = parse_fingerprint(contents.fingerprint or b"")
    ends = [max(texts, default=-1) + 1]
    ends += [max(claim.held, default=-1) + 1 for claim in contents.claims]
    total = stored.total if stored else max(ends)
    known = range(min(total, MAX_LEARNED))
    return [texts.get(taskid, UNKNOWN_TEXT) for taskid in known]


def _find_learnable(line: bytes) -> int | None:
    """Return the id of a line, None without one or from `MAX_LEARNED` on."""
    head = line.partition(b" ")[0]
    taskid = find_id(line) if len(head) < 10 else None
    return taskid if taskid is not None and taskid < MAX_LEARNED else None


def find_nowhere_of(contents: Contents) -> list[int]:
    """Return the tasks in no file, of the list with which the workdir was begun.

    That list may have been edited since.  What can't be read may hold any task.
    """
    if contents.unread or contents.remap_begun or contents.toprocess is None:
        return []
    ended = contents.finished, contents.failed
    queues = contents.toprocess, contents.added, contents.waiting
    claimed = _union(claim.held for claim in contents.claims)
    return find_nowhere((*ended, *queues), contents.fingerprint, claimed)


# ---- the whole ----------------------------------------------------------------------


def audit_contents(
    contents: Contents,
    tasks: Sequence[str],
    *,
    list_is_known: bool = True,
    logs: Collection[str] | None = None,
    constraints: Constraints = UNORDERED,
) -> Audit:
    """Audit the contents of a workdir.

    `list_is_known`: whether `tasks` were read from the tasklist; else `learn_tasks`
    made them, and they are not compared with the fingerprint.  `logs` are the names in
    the directory of the logs; None: not looked at.  `constraints` are those of the
    list.
    """
    total = len(tasks)
    parsed = parse_contents(
        contents, tasks, list_is_known=list_is_known, constraints=constraints
    )
    places = _Places(contents, parsed)
    trust_ids = not (parsed.is_edited or contents.remap_begun)
    findings = [
        *_find_in_list(contents, parsed, total),
        *_find_in_reading(contents),
        *_find_in_lines(parsed),
        *_find_early(parsed, constraints),
        *places.find_all(trust_ids=trust_ids),
        *_find_in_claims(contents.claims),
        *_find_files(contents),
        *places.find_without_log(logs),
    ]
    return Audit(
        parsed.tasks,
        parsed.first_added,
        parsed.match,
        parsed.is_edited,
        parsed.toprocess,
        parsed.added,
        parsed.waiting,
        parsed.finished,
        parsed.failed,
        places.nowhere,
        [finding for finding in findings if finding.number],
        places.locations,
        constraints,
    )


class ParsedContents(NamedTuple):
    """The status files of a workdir, and the list that they are of.

    `tasks`, `first_added`, `match` and `toprocess` are as in `Audit`; `tasks` may be
    learned from the files themselves (`list_is_known`).
    """

    tasks: Sequence[str]
    first_added: int
    stored: Fingerprint | None
    match: ListMatch | None
    toprocess: ParsedStatus | None
    finished: ParsedStatus
    failed: ParsedStatus
    added: ParsedStatus
    waiting: ParsedStatus
    list_is_known: bool

    @property
    def is_edited(self) -> bool:
        """Whether the list was edited, not only added to, since the workdir began.

        A PyTaskFarmer leaves no fingerprint: there the lines of its files tell.
        """
        if self.match is not None or not self.list_is_known:
            return self.match is ListMatch.EDITED
        aliens = chain.from_iterable(each.aliens for each in self.by_name.values())
        return any(alien.taskid is not None for alien in aliens)

    @property
    def by_name(self) -> dict[str, ParsedStatus]:
        """The files that are there, by their names."""
        files = {
            "toprocess": self.toprocess,
            "finished": self.finished,
            "failed": self.failed,
            "added": self.added,
            "waiting": self.waiting,
        }
        return {name: each for name, each in files.items() if each}


def parse_contents(
    contents: Contents,
    tasks: Sequence[str],
    *,
    list_is_known: bool,
    constraints: Constraints = UNORDERED,
) -> ParsedContents:
    """Parse the status files; the arguments are those of `audit_contents`."""
    stored = parse_fingerprint(contents.fingerprint or b"")
    match = compare(stored, tasks, constraints) if stored and list_is_known else None
    # A start that was killed may have begun to take up what was added to the list.
    added, waiting = (
        parse_status(content or b"", tasks, list_is_same=True).ended()
        for content in (contents.added, contents.waiting)
    )
    first_added = stored.first_added if stored else min(added.ids, default=len(tasks))
    if match is ListMatch.LINES_ADDED and stored:
        tasks = tasks[: stored.total]
        added, waiting = (_cut(each, stored.total) for each in (added, waiting))
    if first_added >= len(tasks) or contents.toprocess is None:
        # Then `added` is of an earlier life of the workdir: nobody reads it.
        added = find_empty_status()
    if contents.toprocess is None:
        waiting = find_empty_status()
    files = _parse_files(contents, tasks, match)
    return ParsedContents(
        *(tasks, first_added, stored, match, *files, added, waiting),
        list_is_known=list_is_known,
    )


def _cut(parsed: ParsedStatus, total: int) -> ParsedStatus:
    """Return the content of a queue without the ids from `total` on."""
    known = (taskid for taskid in parsed.ids if taskid < total)
    return parsed._replace(ids=array("I", known))


def _parse_files(
    contents: Contents, tasks: Sequence[str], match: ListMatch | None
) -> tuple[ParsedStatus | None, ParsedStatus, ParsedStatus]:
    """Parse ``toprocess`` (None: missing), ``finished`` and ``failed``.

    A last line without newline counts only if the lock was held.
    """
    same = match in (ListMatch.SAME, ListMatch.LINES_ADDED)
    toprocess, finished, failed = [
        parse_status(
            content or b"", tasks, list_is_same=same, counts_begun=counts_begun
        )
        for content, counts_begun in (
            (contents.toprocess, True),
            (contents.finished, False),
            (contents.failed, False),
        )
    ]
    if not contents.locked:
        # A last line may be one that is being written.
        toprocess, finished, failed = (
            each.without_tail() for each in (toprocess, finished, failed)
        )
    there = None if contents.toprocess is None else toprocess.ended()
    return there, finished.ended(), failed.ended()


class _Places:
    """The ids that each file names, and the ids in two files or in none."""

    def __init__(self, contents: Contents, parsed: ParsedContents) -> None:
        self._total = total = len(parsed.tasks)
        self._parsed = parsed
        self.finished = set(parsed.finished.ids)
        self.failed = set(parsed.failed.ids)
        self.held = _union(claim.held for claim in contents.claims)
        self._kept_by_living = _union(
            claim.kept for claim in contents.claims if claim.may_live
        )
        self._held_twice = _repeated(
            taskid for claim in contents.claims for taskid in claim.held
        )
        self.queued = {*parsed.added.ids, *parsed.waiting.ids}
        if parsed.toprocess is None:
            # Absent means: every task is still to be processed.
            self.queued |= set(range(total)) - self.finished - self.held
        else:
            self.queued |= set(parsed.toprocess.ids)
        self.locations = TaskMap(
            total,
            finished=self.finished,
            claimed=self.held,
            queued=(self.queued,),
            failed=self.failed,
        )
        # What can't be read may hold any task.
        lost = () if contents.unread else self.locations.ids_at(Location.NOWHERE)
        self.nowhere = frozenset(lost)

    def find_all(self, *, trust_ids: bool) -> Iterator[AuditFinding]:
        """Yield findings about tasks recorded twice, in two places, or in none.

        `trust_ids`: whether ids mean the tasks of this list.  If not, no task is called
        unknown or in no file.
        """
        yield of_ids(FindingKind.FINISHED_TWICE, _repeated(self._parsed.finished.ids))
        yield of_ids(FindingKind.HELD_TWICE, self._held_twice - self.finished)
        alien = [taskid for taskid in self.held if taskid >= self._total]
        yield of_ids(FindingKind.HELD_UNKNOWN, alien if trust_ids else ())
        if self._parsed.toprocess is not None:
            yield from self._find_in_queues(self._parsed.toprocess)
            failed = self.failed & self.queued
            yield of_ids(FindingKind.FAILED_QUEUED, failed - self.finished - self.held)
        yield of_ids(FindingKind.FAILED_FINISHED, self.failed & self.finished)
        yield of_ids(FindingKind.FAILED_TWICE, _repeated(self._parsed.failed.ids))
        if trust_ids:
            yield of_ids(FindingKind.NOWHERE, self.nowhere)

    def _find_in_queues(self, toprocess: ParsedStatus) -> Iterator[AuditFinding]:
        yield of_ids(FindingKind.QUEUED_FINISHED, self.queued & self.finished)
        kept = self.queued & self._kept_by_living
        yield of_ids(FindingKind.QUEUED_HELD, kept - self.finished)
        added, waiting = self._parsed.added, self._parsed.waiting
        named = (("toprocess", toprocess), ("added", added), ("waiting", waiting))
        ids = [taskid for _, queue in named for taskid in queue.ids]
        yield of_ids(FindingKind.QUEUED_TWICE, _repeated(ids))
        yield of_names(
            FindingKind.UNSORTED, [name for name, each in named if not _is_sorted(each)]
        )

    def find_without_log(self, logs: Collection[str] | None) -> Iterator[AuditFinding]:
        """Yield a finding about tasks that have ended and left no log.

        `logs` are the names of all logs; None: nothing is known, and found.  If any
        farm had ``--logs failed``, finished tasks need no log.
        """
        if logs is not None:
            names = set(logs)
            ended = self.failed if UNKEPT in names else self.finished | self.failed
            missing = {taskid for taskid in ended if log_name(taskid) not in names}
            yield of_ids(FindingKind.LOG, missing)


def _is_sorted(parsed: ParsedStatus) -> bool:
    """Return whether the ids are sorted; True for a file that has odd lines anyway."""
    return bool(parsed.odd) or list(parsed.ids) == sorted(parsed.ids)


def of_ids(kind: FindingKind, taskids: Iterable[int]) -> AuditFinding:
    """Return a finding about tasks, sorted; its number may be 0."""
    ids = tuple(sorted(taskids))
    return AuditFinding(kind, len(ids), ids)


def of_names(kind: FindingKind, names: Iterable[str]) -> AuditFinding:
    """Return a finding about files, or other things with names; it may have none."""
    found = tuple(names)
    return AuditFinding(kind, len(found), names=found)


def _union(parts: Iterable[frozenset[int]]) -> set[int]:
    return set[int]().union(*parts)


def _repeated(taskids: Iterable[int]) -> set[int]:
    return {taskid for taskid, count in Counter(taskids).items() if count > 1}


def _find_in_list(
    contents: Contents, parsed: ParsedContents, total: int
) -> Iterator[AuditFinding]:
    """Yield findings about the list, which has `total` tasks now."""
    yield AuditFinding(
        FindingKind.REMAP_BEGUN, contents.remap_begun, names=("remap.begun",)
    )
    stored = parsed.stored
    change = (f"{counted(stored.total)} before, {total} now",) if stored else ()
    edited, added = parsed.is_edited, parsed.match is ListMatch.LINES_ADDED
    yield AuditFinding(FindingKind.LIST_EDITED, edited and contents.begun, names=change)
    yield AuditFinding(FindingKind.LINES_ADDED, added and contents.begun, names=change)
    damaged = contents.fingerprint is not None and stored is None
    yield AuditFinding(FindingKind.FINGERPRINT, damaged, names=("fingerprint.json",))


def _find_in_reading(contents: Contents) -> Iterator[AuditFinding]:
    yield of_names(FindingKind.UNREAD, contents.unread)
    yield AuditFinding(FindingKind.UNLOCKED, int(not contents.locked))


def _find_early(
    parsed: ParsedContents, constraints: Constraints
) -> Iterator[AuditFinding]:
    """Yield a finding about tasks in ``toprocess`` that plain farmers may not run."""
    if parsed.toprocess is not None and not parsed.is_edited:
        shared = set(constraints.find_shared(sorted(parsed.toprocess.ids)))
        early = set(parsed.toprocess.ids) - shared
        yield of_ids(FindingKind.QUEUED_EARLY, early)


def _find_in_lines(parsed: ParsedContents) -> Iterator[AuditFinding]:
    files, tasks = parsed.by_name, parsed.tasks
    torn = [(name, each.torn) for name, each in files.items() if each.torn]
    names = tuple(f"{name} ({count})" for name, count in torn)
    yield AuditFinding(FindingKind.TORN, sum(count for _, count in torn), names=names)
    aliens = [alien for each in files.values() for alien in each.aliens]
    of_no_task = [alien.text for alien in aliens if alien.taskid is None]
    yield of_names(FindingKind.NO_TASK, of_no_task)
    ids = [alien.taskid for alien in aliens if alien.taskid is not None]
    yield of_ids(FindingKind.UNKNOWN_ID, [each for each in ids if each >= len(tasks)])
    yield of_ids(FindingKind.OTHER_TEXT, [each for each in ids if each < len(tasks)])


def _find_in_claims(claims: Sequence[ClaimView]) -> Iterator[AuditFinding]:
    for kind, liveness in (
        (FindingKind.CLAIM_DEAD, FarmLiveness.DEAD),
        (FindingKind.CLAIM_DAMAGED, FarmLiveness.DAMAGED),
        (FindingKind.CLAIM_UNSURE, FarmLiveness.UNCERTAIN),
    ):
        yield of_names(
            kind, [each.farm for each in claims if each.liveness is liveness]
        )


def _find_files(contents: Contents) -> Iterator[AuditFinding]:
    yield of_names(FindingKind.LEFTOVER, contents.leftovers)
    yield of_names(FindingKind.TIMELINE, contents.invalid_timelines)
    yield AuditFinding(FindingKind.DRAIN, contents.drain, names=("drain",))
