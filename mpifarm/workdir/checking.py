"""What is true of a workdir, and what is not as it should be.

Rules of this file: contents in, findings out; it opens nothing, and nothing that other
programs may have written makes it raise.  A state that a farm at work may be in at a
moment when the lock is free is no finding.

Where an id stands in several places, ``finished`` comes first, then ``toprocess`` or a
claim, then ``failed``.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from mpifarm.logfiles import UNKEPT
from mpifarm.workdir.fingerprint import (
    Fingerprint,
    Verdict,
    compare,
    parse_fingerprint,
)
from mpifarm.workdir.status import (
    AlienLine,
    find_id,
    judge_odd,
    parse_status,
)

# ---- what is judged -----------------------------------------------------------------


class Standing(Enum):
    """What is known of the farm of a claim."""

    AT_WORK = "at work"
    UNSURE = "may be at work"
    """On another machine, and heard of within the last minute."""
    DEAD = "dead"
    DAMAGED = "damaged"
    """Its claim can't be understood, and no process is known to own it."""


class ClaimView(NamedTuple):
    """A claim as it was read; `where` is host and pid, in words."""

    farm: str
    where: str
    standing: Standing
    held: frozenset[int]
    kept: frozenset[int]
    """Of those held, the ones that it is not putting back just now."""

    @property
    def may_live(self) -> bool:
        """Whether its tasks are not to be touched."""
        return self.standing in (Standing.AT_WORK, Standing.UNSURE)


class Contents(NamedTuple):
    """What was read at one moment; None where there is no such file."""

    toprocess: bytes | None
    finished: bytes | None
    failed: bytes | None
    fingerprint: bytes | None
    added: bytes | None = None
    claims: tuple[ClaimView, ...] = ()
    leftovers: tuple[str, ...] = ()
    """Names of temporary files that nobody will rename any more."""
    invalid_timelines: tuple[str, ...] = ()
    drain: bool = False
    unread: tuple[str, ...] = ()
    """A sentence for each thing that is there and could not be read."""
    locked: bool = True
    """Whether it was read with the lock held, or nobody can have held it."""
    remap_begun: bool = False
    """Whether a ``--remap`` was interrupted: then the files are of two lists."""

    @property
    def begun(self) -> bool:
        """Whether any farmer has left a trace of a task."""
        files = (self.toprocess, self.finished, self.failed)
        return bool(self.claims) or any(content is not None for content in files)


# ---- what is found ------------------------------------------------------------------


class Kind(Enum):
    """What can be found."""

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
    QUEUED_TWICE = "twice in toprocess and added"
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
        Kind.LINES_ADDED,
        Kind.UNLOCKED,
        Kind.UNSORTED,
        Kind.FAILED_FINISHED,
        Kind.FAILED_QUEUED,
        Kind.FAILED_TWICE,
        Kind.CLAIM_UNSURE,
        Kind.LOG,
        Kind.DRAIN,
    }
)
"""What is worth a word and harms nothing: a workdir with no more of it is clean."""


class Finding(NamedTuple):
    """All of one kind.  `which` are the ids, or else the names."""

    kind: Kind
    number: int
    ids: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


class Whereabouts(NamedTuple):
    """How many tasks are where; each counts once."""

    total: int
    finished: int
    failed: int
    toprocess: int
    held: int
    nowhere: int


class Sheet(NamedTuple):
    """What a status file says, line by line.

    `ids` are those that count, in their order, each as often as it stands there.
    """

    ids: list[int]
    torn: int
    aliens: list[AlienLine]


class Judged(NamedTuple):
    """A workdir, judged.  `tasks` are those that it was begun with, or has taken up.

    Those from `first_added` on are to be processed by way of ``added``.
    """

    tasks: Sequence[str]
    first_added: int
    verdict: Verdict | None
    """Of the fingerprint; None where there is none to compare with."""
    toprocess: Sheet | None
    added: Sheet
    finished: Sheet
    failed: Sheet
    nowhere: frozenset[int]
    findings: list[Finding]
    whereabouts: Whereabouts

    @property
    def queued(self) -> set[int]:
        """What stands in ``toprocess`` and ``added``."""
        return {*(self.toprocess.ids if self.toprocess else ()), *self.added.ids}

    @property
    def list_is_same(self) -> bool:
        """Whether it is proven that the files are of this tasklist."""
        return self.verdict in (Verdict.SAME, Verdict.LINES_ADDED)

    @property
    def clean(self) -> bool:
        """Whether nothing was found but what is only worth a word."""
        return all(finding.kind in NOTICES for finding in self.findings)

    def find(self, kind: Kind) -> Finding | None:
        """The finding of a kind, if there is one."""
        return next((each for each in self.findings if each.kind is kind), None)


# ---- the tasklist -------------------------------------------------------------------

UNKNOWN_TEXT = "\n"
"""Stands for the text of a task that no file tells; no line can be equal to it."""
MOST_LEARNED = 10**8


def learn_tasks(contents: Contents) -> list[str]:
    """The tasks as far as the files themselves tell, where there is no tasklist."""
    texts: dict[int, str] = {}
    told = (contents.toprocess, contents.added, contents.failed, contents.finished)
    for content in told:
        for line in (content or b"").split(b"\n")[:-1]:
            taskid = _find_learnable(line)
            if taskid is not None:
                text = line[line.index(b" ") + 1 :]
                texts.setdefault(taskid, text.decode("utf-8", "surrogateescape"))
    stored = parse_fingerprint(contents.fingerprint or b"")
    ends = [max(texts, default=-1) + 1]
    ends += [max(claim.held, default=-1) + 1 for claim in contents.claims]
    total = stored.total if stored else max(ends)
    known = range(min(total, MOST_LEARNED))
    return [texts.get(taskid, UNKNOWN_TEXT) for taskid in known]


def _find_learnable(line: bytes) -> int | None:
    head = line.partition(b" ")[0]
    taskid = find_id(line) if len(head) < 10 else None
    return taskid if taskid is not None and taskid < MOST_LEARNED else None


# ---- one status file ----------------------------------------------------------------


def read_sheet(
    content: bytes | None,
    tasks: Sequence[str],
    *,
    list_is_same: bool,
    keep_begun: bool = False,
    with_tail: bool = True,
) -> Sheet:
    """Judge the lines of a status file.

    `keep_begun`: whether a torn line counts where its id is whole (``toprocess``);
    so does one with another text there, for a plain farmer reads no more than the id.
    """
    lines = parse_status(content or b"", tasks)
    ids, aliens, torn = list(lines.ids), list[AlienLine](), 0
    odd = [(line, list_is_same) for line in lines.odd]
    tail = [(lines.tail, True)] if lines.tail and with_tail else []
    for line, may_be_torn in odd + tail:
        found = judge_odd(line, tasks, may_be_torn=may_be_torn)
        if isinstance(found, AlienLine):
            aliens.append(found)
            if keep_begun and _is_id_of(found.taskid, tasks):
                ids.append(found.taskid or 0)
            continue
        torn += 1
        ids.extend(found.ids)
        if keep_begun and found.begun is not None:
            ids.append(found.begun)
    return Sheet(ids, torn, aliens)


def _is_id_of(taskid: int | None, tasks: Sequence[str]) -> bool:
    return taskid is not None and taskid < len(tasks)


# ---- the whole ----------------------------------------------------------------------


def judge(
    contents: Contents,
    tasks: Sequence[str],
    *,
    list_is_known: bool = True,
    logs: Collection[str] | None = None,
) -> Judged:
    """Judge a workdir.

    `list_is_known`: whether `tasks` were read from the tasklist; else `learn_tasks`
    made them.  `logs` are the names in the directory of the logs, None where they
    could not be listed.
    """
    total = len(tasks)
    stored = parse_fingerprint(contents.fingerprint or b"")
    verdict = compare(stored, tasks) if stored and list_is_known else None
    # A start that was killed may have begun to take up what was added to the list.
    added = read_sheet(contents.added, tasks, list_is_same=True)
    first_added = stored.first_added if stored else min(added.ids, default=len(tasks))
    if verdict is Verdict.LINES_ADDED and stored:
        tasks = tasks[: stored.total]
        added = added._replace(ids=[each for each in added.ids if each < stored.total])
    if first_added >= len(tasks) or contents.toprocess is None:
        added = Sheet([], 0, [])  # Of an earlier life of the workdir: nobody reads it.
    sheets = _Sheets(*_read_sheets(contents, tasks, verdict), added)
    places = _Places(contents, len(tasks), sheets)
    trust_ids = verdict is not Verdict.EDITED and not contents.remap_begun
    findings = [
        *_find_in_list(contents, stored, verdict, total),
        *_find_in_reading(contents),
        *_find_in_lines(sheets, tasks),
        *places.find_all(trust_ids=trust_ids),
        *_find_in_claims(contents.claims),
        *_find_files(contents),
        *places.find_without_log(logs),
    ]
    return Judged(
        tasks,
        first_added,
        verdict,
        sheets.toprocess,
        sheets.added,
        sheets.finished,
        sheets.failed,
        frozenset(places.nowhere),
        [finding for finding in findings if finding.number],
        places.count(),
    )


class _Sheets(NamedTuple):
    toprocess: Sheet | None
    finished: Sheet
    failed: Sheet
    added: Sheet


def _read_sheets(
    contents: Contents, tasks: Sequence[str], verdict: Verdict | None
) -> tuple[Sheet | None, Sheet, Sheet]:
    same = verdict in (Verdict.SAME, Verdict.LINES_ADDED)
    finished, failed = (
        # Without the lock, a last line may be one that is being written.
        read_sheet(content, tasks, list_is_same=same, with_tail=contents.locked)
        for content in (contents.finished, contents.failed)
    )
    if contents.toprocess is None:
        return None, finished, failed
    toprocess = read_sheet(
        contents.toprocess,
        tasks,
        list_is_same=same,
        keep_begun=True,
        with_tail=contents.locked,
    )
    return toprocess, finished, failed


class _Places:
    """Where each task is."""

    def __init__(self, contents: Contents, total: int, sheets: _Sheets) -> None:
        self._total = total
        self._sheets = sheets
        self.finished = set(sheets.finished.ids)
        self.failed = set(sheets.failed.ids)
        self.held = _union(claim.held for claim in contents.claims)
        self._kept_by_living = _union(
            claim.kept for claim in contents.claims if claim.may_live
        )
        self._held_twice = _repeated(
            taskid for claim in contents.claims for taskid in claim.held
        )
        self.queued = set(sheets.added.ids)
        if sheets.toprocess is None:
            # Absent means: every task is still to be processed.
            self.queued |= set(range(total)) - self.finished - self.held
        else:
            self.queued |= set(sheets.toprocess.ids)
        recorded = self.finished | self.failed | self.queued | self.held
        # What can't be read may hold any task.
        self.nowhere = set() if contents.unread else set(range(total)) - recorded

    def count(self) -> Whereabouts:
        """Count each task in the first of its places."""
        held = {each for each in self.held - self.finished if each < self._total}
        queued = self.queued - self.finished - held
        failed = self.failed - self.finished - held - queued
        return Whereabouts(
            self._total,
            len(self.finished),
            len(failed),
            len(queued),
            len(held),
            len(self.nowhere),
        )

    def find_all(self, *, trust_ids: bool) -> Iterator[Finding]:
        """What is in two places, or in none."""
        yield of_ids(Kind.FINISHED_TWICE, _repeated(self._sheets.finished.ids))
        yield of_ids(Kind.HELD_TWICE, self._held_twice - self.finished)
        alien = [taskid for taskid in self.held if taskid >= self._total]
        yield of_ids(Kind.HELD_UNKNOWN, alien if trust_ids else ())
        if self._sheets.toprocess is not None:
            yield from self._find_in_queues(self._sheets.toprocess)
            failed = self.failed & self.queued
            yield of_ids(Kind.FAILED_QUEUED, failed - self.finished - self.held)
        yield of_ids(Kind.FAILED_FINISHED, self.failed & self.finished)
        yield of_ids(Kind.FAILED_TWICE, _repeated(self._sheets.failed.ids))
        if trust_ids:
            yield of_ids(Kind.NOWHERE, self.nowhere)

    def _find_in_queues(self, toprocess: Sheet) -> Iterator[Finding]:
        yield of_ids(Kind.QUEUED_FINISHED, self.queued & self.finished)
        kept = self.queued & self._kept_by_living
        yield of_ids(Kind.QUEUED_HELD, kept - self.finished)
        added = self._sheets.added
        yield of_ids(Kind.QUEUED_TWICE, _repeated([*toprocess.ids, *added.ids]))
        named = (("toprocess", toprocess), ("added", added))
        yield of_names(
            Kind.UNSORTED, [name for name, sheet in named if not _is_sorted(sheet)]
        )

    def find_without_log(self, logs: Collection[str] | None) -> Iterator[Finding]:
        """What has ended and left no log."""
        if logs is not None:
            names = set(logs)
            ended = self.failed if UNKEPT in names else self.finished | self.failed
            missing = {taskid for taskid in ended if f"log_{taskid}" not in names}
            yield of_ids(Kind.LOG, missing)


def _is_sorted(sheet: Sheet) -> bool:
    """Whether it is, or is to be mended anyway."""
    odd = bool(sheet.torn or sheet.aliens)
    return odd or sheet.ids == sorted(sheet.ids)


def of_ids(kind: Kind, taskids: Iterable[int]) -> Finding:
    """A finding about tasks."""
    ids = tuple(sorted(taskids))
    return Finding(kind, len(ids), ids)


def of_names(kind: Kind, names: Iterable[str]) -> Finding:
    """A finding about files, or whatever has a name."""
    found = tuple(names)
    return Finding(kind, len(found), names=found)


def _union(parts: Iterable[frozenset[int]]) -> set[int]:
    return set[int]().union(*parts)


def _repeated(taskids: Iterable[int]) -> set[int]:
    return {taskid for taskid, count in Counter(taskids).items() if count > 1}


def _find_in_list(
    contents: Contents, stored: Fingerprint | None, verdict: Verdict | None, total: int
) -> Iterator[Finding]:
    """`total` is how many tasks the list has now."""
    yield Finding(Kind.REMAP_BEGUN, contents.remap_begun, names=("remap.begun",))
    change = (f"{stored.total} tasks before, {total} now",) if stored else ()
    edited, added = verdict is Verdict.EDITED, verdict is Verdict.LINES_ADDED
    yield Finding(Kind.LIST_EDITED, edited and contents.begun, names=change)
    yield Finding(Kind.LINES_ADDED, added and contents.begun, names=change)
    damaged = contents.fingerprint is not None and stored is None
    yield Finding(Kind.FINGERPRINT, damaged, names=("fingerprint.json",))


def _find_in_reading(contents: Contents) -> Iterator[Finding]:
    yield of_names(Kind.UNREAD, contents.unread)
    yield Finding(Kind.UNLOCKED, int(not contents.locked))


def _find_in_lines(sheets: _Sheets, tasks: Sequence[str]) -> Iterator[Finding]:
    torn = [
        (name, sheet.torn)
        for name, sheet in sheets._asdict().items()
        if sheet and sheet.torn
    ]
    names = tuple(f"{name} ({count})" for name, count in torn)
    yield Finding(Kind.TORN, sum(count for _, count in torn), names=names)
    aliens = [alien for sheet in sheets if sheet for alien in sheet.aliens]
    of_no_task = [alien.text for alien in aliens if alien.taskid is None]
    yield of_names(Kind.NO_TASK, of_no_task)
    ids = [alien.taskid for alien in aliens if alien.taskid is not None]
    yield of_ids(Kind.UNKNOWN_ID, [each for each in ids if each >= len(tasks)])
    yield of_ids(Kind.OTHER_TEXT, [each for each in ids if each < len(tasks)])


def _find_in_claims(claims: Sequence[ClaimView]) -> Iterator[Finding]:
    for kind, standing in (
        (Kind.CLAIM_DEAD, Standing.DEAD),
        (Kind.CLAIM_DAMAGED, Standing.DAMAGED),
        (Kind.CLAIM_UNSURE, Standing.UNSURE),
    ):
        yield of_names(
            kind, [each.farm for each in claims if each.standing is standing]
        )


def _find_files(contents: Contents) -> Iterator[Finding]:
    yield of_names(Kind.LEFTOVER, contents.leftovers)
    yield of_names(Kind.TIMELINE, contents.invalid_timelines)
    yield Finding(Kind.DRAIN, contents.drain, names=("drain",))
