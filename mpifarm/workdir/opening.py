"""Whether a workdir belongs to a tasklist: judged before anything in it is changed.

Rules of this file: it reads, and raises `InputError` with one sentence that names the
id, the file, what it was, what it is now and the remedy.  It writes nothing.  Large
files are read without the lock, block by block; where one changes meanwhile, all is
read again.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from operator import lt
from typing import NamedTuple

from mpifarm.errors import InputError, StorageError
from mpifarm.workdir import files
from mpifarm.workdir.fingerprint import (
    Fingerprint,
    Verdict,
    compare,
    encode_fingerprint,
    find_edited_block,
    parse_fingerprint,
    take_fingerprint,
)
from mpifarm.workdir.paths import WorkdirPaths
from mpifarm.workdir.status import (
    AlienLine,
    Ids,
    StatusLines,
    TornLine,
    judge_odd,
    scan_status,
)

REMEDY = (
    "go on with the list as it was, have the lines that were done found again by their "
    "text (--remap), or give the new list a workdir of its own (--workdir)"
)


class EditedListError(InputError):
    """The workdir was begun with another list; ``--remap`` can mend it."""


class Snapshot(NamedTuple):
    """The files as they were under the lock; None where there is none."""

    toprocess: files.Found | None
    finished: files.Found | None
    failed: files.Found | None
    fingerprint: bytes | None
    added: files.Found | None
    """Only read where the fingerprint does not say what is in it."""
    begun: bool
    """Whether any farmer has left a trace."""
    is_half_remapped: bool


class JudgedFile(NamedTuple):
    """A status file: the ids that count, and what was wrong with some of its lines.

    `tail_ids` are those of the last line, where that has no newline yet; `tail` is how
    many bytes of it there are.
    """

    ids: Ids
    tail_ids: list[int]
    tail: int
    notes: list[str]
    in_order: bool
    """Whether nothing is wrong, and the ids are sorted, each once."""


class Judgement(NamedTuple):
    """A workdir that belongs to the tasklist."""

    snapshot: Snapshot
    toprocess: JudgedFile
    finished: JudgedFile
    failed: JudgedFile
    fingerprint: bytes | None
    """What to write into its file, where that does not say it already."""
    first_added: int
    """The first id that plain farmers at work may not know; the total if none."""
    grown_from: int | None
    """How many tasks the list had, where lines were added since the last start."""


def read_snapshot(paths: WorkdirPaths, *, whole: bool = False) -> Snapshot:
    """Read everything at once; the caller holds the lock.  Raises `InputError`.

    `whole`: with the content of the queues, however large they are.
    """
    try:
        toprocess = files.find(paths.toprocess, whole=whole)
        finished = files.find(paths.finished)
        failed = files.find(paths.failed)
        fingerprint = files.find_content(paths.fingerprint)
        known = parse_fingerprint(fingerprint or b"") is not None
        added = None if known else files.find(paths.added, whole=whole)
    except StorageError as error:
        raise InputError(str(error)) from error
    claims: list[str] = []
    with suppress(FileNotFoundError):
        claims = os.listdir(paths.claims)
    begun = bool(claims) or any(
        found is not None for found in (toprocess, finished, failed)
    )
    return Snapshot(
        toprocess,
        finished,
        failed,
        fingerprint,
        added,
        begun,
        is_half_remapped=os.path.lexists(paths.remap),
    )


def judge_snapshot(
    snapshot: Snapshot, tasks: Sequence[str], paths: WorkdirPaths
) -> Judgement:
    """Needs no lock: a million lines take a second.

    Raises `InputError`; `files.ChangedError` where a large file was changed meanwhile,
    `StorageError` where one can't be read.
    """
    if snapshot.is_half_remapped:
        raise EditedListError(
            f"a --remap of {paths.root} was interrupted: give the same command with "
            "--remap, and it goes on where it was"
        )
    stored = parse_fingerprint(snapshot.fingerprint or b"")
    verdict = compare(stored, tasks) if stored else None
    begins_alike = verdict in (Verdict.SAME, Verdict.LINES_ADDED)
    finished, failed, toprocess, added = [
        judge_lines(
            path,
            scan_status(found.blocks(appended=appended) if found else (), tasks),
            tasks,
            list_is_same=begins_alike,
            keep_begun=path == paths.toprocess,
        )
        for path, found, appended in (
            (paths.finished, snapshot.finished, True),
            (paths.failed, snapshot.failed, True),
            (paths.toprocess, snapshot.toprocess, False),
            (paths.added, snapshot.added, False),
        )
    ]
    first_added, grown_from = min(added.ids, default=len(tasks)), None
    if not snapshot.begun:
        first_added = len(tasks)
    elif stored is not None:
        if verdict is Verdict.EDITED:
            raise EditedListError(_describe_edit(stored, tasks, paths))
        first_added = stored.first_added
        grown_from = stored.total if verdict is Verdict.LINES_ADDED else None
    same = stored and verdict is Verdict.SAME and stored.first_added == first_added
    fresh = None if same else encode_fingerprint(take_fingerprint(tasks, first_added))
    return Judgement(
        snapshot, toprocess, finished, failed, fresh, first_added, grown_from
    )


def _describe_edit(
    stored: Fingerprint, tasks: Sequence[str], paths: WorkdirPaths
) -> str:
    block = find_edited_block(stored, tasks)
    return (
        f"the tasklist was edited since {paths.root} was begun: it had "
        f"{stored.total} tasks, it has {len(tasks)} now, and the first change is "
        f"among the ids {block.start} to {block.stop - 1}; {REMEDY}"
    )


def judge_lines(
    path: str,
    lines: StatusLines,
    tasks: Sequence[str],
    *,
    list_is_same: bool,
    keep_begun: bool,
) -> JudgedFile:
    """Judge what a status file says.

    `keep_begun`: whether a torn line counts where its id is whole (``toprocess``).
    """
    ids, tail_ids, notes = lines.ids, list[int](), list[str]()
    for line, torn_allowed in _odd_lines(
        lines.odd, lines.tail, list_is_same=list_is_same
    ):
        found = judge_odd(line, tasks, may_be_torn=torn_allowed)
        if isinstance(found, AlienLine):
            raise EditedListError(describe_alien(path, found, tasks))
        begun = [found.begun] if keep_begun and found.begun is not None else []
        (tail_ids if line is lines.tail else ids).extend([*found.ids, *begun])
        notes.append(_describe_torn(path, line, found, begun))
    in_order = not notes and all(map(lt, ids, islice(ids, 1, None)))
    return JudgedFile(ids, tail_ids, len(lines.tail), notes, in_order)


def _odd_lines(
    odd: Sequence[bytes], tail: bytes, *, list_is_same: bool
) -> Iterator[tuple[bytes, bool]]:
    for line in odd:
        yield line, list_is_same
    if tail:
        yield tail, True


def describe_alien(path: str, found: AlienLine, tasks: Sequence[str]) -> str:
    """The sentence on a line that is not of this tasklist."""
    if found.taskid is None:
        text = shorten(found.text)
        return f"a line of {path} is not of this tasklist: '{text}'; {REMEDY}"
    was = shorten(found.text)
    if found.taskid >= len(tasks):
        now = f"the tasklist has only {len(tasks)} tasks"
    else:
        was, text = _from_the_difference(found.text, tasks[found.taskid])
        now = f"in the tasklist it is '{text}'"
    return (
        f"the tasklist was edited since the workdir was begun: task {found.taskid} is "
        f"'{was}' in {path}, and {now}; {REMEDY}"
    )


def _from_the_difference(was: str, now: str, before: int = 30) -> tuple[str, str]:
    """Both texts short enough for a message, with the place where they differ."""
    places = range(min(len(was), len(now)))
    same = next((place for place in places if was[place] != now[place]), len(places))
    if same <= before:
        return shorten(was), shorten(now)
    start = same - before
    return "…" + shorten(was[start:]), "…" + shorten(now[start:])


def _describe_torn(
    path: str, line: bytes, found: TornLine, begun: Sequence[int]
) -> str:
    text = shorten(line.decode("utf-8", "surrogateescape"))
    counted = sorted({*found.ids, *begun})
    if counted:
        which = ", ".join(map(str, counted))
        return f"a torn line of {path} was read as task {which}: '{text}'"
    return f"a torn line of {path} does not count: '{text}'"


def shorten(text: str, limit: int = 80) -> str:
    """A text for a message: printable, and not too long."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    plain = plain.replace("\r", "\\r")  # else it hides what stands before it
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def judge_access(paths: WorkdirPaths) -> None:
    """Raise `InputError` if anything that is there could not be written later."""
    for directory in (paths.logs, paths.claims):
        if os.path.lexists(directory) and not os.path.isdir(directory):
            raise InputError(
                f"{directory} is not a directory: remove it, or use another --workdir"
            )
        _judge_mode(directory, os.R_OK | os.W_OK | os.X_OK)
    for file in (
        paths.toprocess,
        paths.added,
        paths.finished,
        paths.failed,
        paths.timeline,
        paths.attempts,
    ):
        _judge_mode(file, os.R_OK | os.W_OK)


def _judge_mode(path: str, mode: int) -> None:
    if os.path.lexists(path) and not os.access(path, mode):
        raise InputError(
            f"{path} can't be read and written: change its permissions, or use another "
            "--workdir"
        )
