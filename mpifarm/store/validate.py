"""The validation of a workdir: does it belong to a tasklist?  Nothing is changed yet.

Rules of this file: it reads, and raises `InputError` with one sentence that names the
id, the file, what it was, what it is now and the remedy.  It writes nothing.  Large
files are read without the lock, block by block; where one changes meanwhile, all is
read again.
"""

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from mpifarm.errors import InputError, StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.wording import counted
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.store.fingerprint import (
    Fingerprint,
    ListMatch,
    PrefixHashes,
    compare,
    find_edited_block,
    parse_fingerprint,
    take_fingerprint,
)
from mpifarm.store.status_lines import AlienLine, ParsedStatus, ids_of_odd, parse_status
from mpifarm.store.strangers import validate_contents
from mpifarm.system import file_contents, files
from mpifarm.system.patience import is_of_the_disk

REMEDY = (
    "add --remap to run what is new or was changed and nothing that has finished, "
    "--again to run all of it afresh, or give it a workdir of its own (--workdir)"
)


class EditedListError(InputError):
    """The workdir was begun with another list; ``--remap`` can mend it.

    `what` is the sentence without the `remedy` at its end, if that is not part of it.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy


class Snapshot(NamedTuple):
    """The files of a workdir as they were under the lock; None for a missing one."""

    toprocess: file_contents.FileState | None
    finished: file_contents.FileState | None
    failed: file_contents.FileState | None
    fingerprint: bytes | None
    added: file_contents.FileState | None
    """Read only if there is no valid fingerprint, which tells the added tasks."""
    begun: bool
    """Whether any farmer has left a claim or a status file."""
    is_half_remapped: bool
    """Whether a ``--remap`` was interrupted."""
    has_waiting: bool
    """Whether there is a file ``waiting``."""
    has_staging: bool
    """Whether the first ``toprocess`` of a list with constraints is still staged."""


class Validation(NamedTuple):
    """A workdir that belongs to the tasklist."""

    snapshot: Snapshot
    toprocess: ParsedStatus
    finished: ParsedStatus
    failed: ParsedStatus
    notes: list[str]
    """A sentence on each torn line."""
    fingerprint: Fingerprint
    """The fingerprint of the list as it is to be."""
    is_new: bool
    """Whether ``fingerprint.json`` has to be replaced by that one."""
    first_added: int
    """The first id that plain farmers at work may not know; the total if none."""
    grown_from: int | None
    """The number of tasks before lines were added since the last start, else None."""


def read_snapshot(paths: WorkdirPaths, *, whole: bool = False) -> Snapshot:
    """Read the files of a workdir; the caller holds the lock.

    `whole`: read the content of the queues, however large they are.  Raises
    `InputError` for a file that cannot be read, `StorageError` if the disk fails.
    """
    try:
        toprocess = file_contents.find_state(paths.toprocess, whole=whole)
        finished = file_contents.find_state(paths.finished)
        failed = file_contents.find_state(paths.failed)
        fingerprint = files.find_content(paths.fingerprint)
        known = parse_fingerprint(fingerprint or b"")
        added = None if known else file_contents.find_state(paths.added, whole=whole)
        has_waiting = files.is_there(paths.waiting)
        staging = known.staging if known else ""
        has_staging = bool(staging) and files.is_there(paths.file(staging))
        claims = files.find_names(paths.claims)
        is_half_remapped = files.is_there(paths.remap)
    except StorageError as error:
        if is_of_the_disk(error):
            raise
        raise InputError(str(error)) from error
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
        is_half_remapped,
        has_waiting,
        has_staging,
    )


def validate_snapshot(
    snapshot: Snapshot,
    tasks: Sequence[str],
    paths: WorkdirPaths,
    constraints: Constraints = UNORDERED,
    hashes: PrefixHashes | None = None,
) -> Validation:
    """Check that a workdir belongs to `tasks`: a second for a million lines, unlocked.

    `hashes` are those of the list, which read it once for all who ask.

    Raises `EditedListError` if it does not, if a farmer has begun it that does not heed
    the list's `constraints`, or if a ``--remap`` was interrupted; `InputError` for a
    line of no task; `ChangedError` if others have changed a large file since the
    snapshot; `StorageError` if a file cannot be read.
    """
    if snapshot.is_half_remapped:
        raise EditedListError(describe_interrupted_remap(paths.root))
    stored = parse_fingerprint(snapshot.fingerprint or b"")
    match = compare(stored, tasks, constraints, hashes) if stored else None
    if snapshot.begun and _is_unheeded(snapshot, stored, constraints):
        raise EditedListError(describe_unheeded(paths))
    begins_alike = match in (ListMatch.SAME, ListMatch.LINES_ADDED)
    notes: dict[str, list[str]] = {}
    finished, failed, toprocess, added = [
        _validate_file(path, found, tasks, notes, list_is_same=begins_alike)
        for path, found in (
            (paths.finished, snapshot.finished),
            (paths.failed, snapshot.failed),
            (paths.toprocess, snapshot.toprocess),
            (paths.added, snapshot.added),
        )
    ]
    del notes[paths.added]  # Nobody mends it at a start.
    first_added, grown_from = min(added.ids, default=len(tasks)), None
    if not snapshot.begun:
        first_added = len(tasks)
    elif stored is not None:
        if match is ListMatch.EDITED:
            what = _describe_edit(stored, tasks, paths, constraints)
            raise EditedListError(what, REMEDY)
        first_added = stored.first_added
        grown_from = stored.total if match is ListMatch.LINES_ADDED else None
    if constraints and not _are_shared(sorted(toprocess.ids), constraints):
        raise EditedListError(describe_unheeded(paths))
    if stored and match is ListMatch.SAME and stored.first_added == first_added:
        fresh = stored
    else:
        fresh = take_fingerprint(tasks, first_added, constraints, hashes)
        if stored and snapshot.begun:
            fresh = fresh._replace(staging=stored.staging)
    told = [note for each in notes.values() for note in each]
    return Validation(
        *(snapshot, toprocess, finished, failed, told),
        *(fresh, fresh is not stored, first_added, grown_from),
    )


def check_not_edited(
    paths: WorkdirPaths, tasks: Sequence[str], constraints: Constraints
) -> None:
    """Raise `EditedListError` if the workdir was begun with another list.

    It reads without the lock, for a list that is not to be run now.  Raises
    `StorageError`.
    """
    stored = parse_fingerprint(files.find_content(paths.fingerprint) or b"")
    ended = (paths.toprocess, paths.finished, paths.failed)
    if stored is None:  # A PyTaskFarmer leaves none: the lines tell.
        for path in ended:
            with suppress(file_contents.ChangedError):  # by one at work: a start looks
                found = file_contents.find_state(path)
                _validate_file(path, found, tasks, {}, list_is_same=False)
        return
    if not any(map(files.is_there, ended)):
        return
    if compare(stored, tasks, constraints) is ListMatch.EDITED:
        what = _describe_edit(stored, tasks, paths, constraints)
        raise EditedListError(what, REMEDY)


def _is_unheeded(
    snapshot: Snapshot, stored: Fingerprint | None, constraints: Constraints
) -> bool:
    """Return whether a farmer has begun the workdir that heeds no constraints.

    A list may have got constraints behind all tasks that such a farmer knew.
    """
    if not constraints:
        return False
    if stored is None:
        # Before `waiting` there is a fingerprint, which may have been damaged since.
        return not snapshot.has_waiting
    if not stored.heeds_order:
        directives = constraints.describe(0, stored.total)
        return constraints.is_foreign or next(directives, None) is not None
    # As long as it is staged, mpifarm has not put `toprocess` there.
    return snapshot.has_staging and snapshot.toprocess is not None


def _are_shared(taskids: Sequence[int], constraints: Constraints) -> bool:
    """Return whether all of these tasks, in order, may stand in ``toprocess``."""
    return sum(1 for _ in constraints.find_shared(taskids)) == len(taskids)


def describe_unheeded(paths: WorkdirPaths) -> str:
    """Return the sentence about a workdir begun by who heeds no constraints."""
    return (
        f"{paths.root} was begun by a farmer that does not heed what the tasklist says"
        " of its order (a PyTaskFarmer, or an older mpifarm): tasks may have run too"
        " early; give the list a workdir of its own (--workdir), or, if nothing works"
        " there any more, have the tasks that are done found again (--remap)"
    )


def _validate_file(
    path: str,
    found: file_contents.FileState | None,
    tasks: Sequence[str],
    notes: dict[str, list[str]],
    *,
    list_is_same: bool,
) -> ParsedStatus:
    """Parse a file, and put sentences about its torn lines into `notes`, by its path.

    Raises `InputError` for an alien line.
    """
    name = os.path.basename(path)
    blocks = found.blocks(appended=name in ("finished", "failed")) if found else ()
    is_toprocess = name == "toprocess"
    parsed = parse_status(
        blocks, tasks, list_is_same=list_is_same, counts_begun=is_toprocess
    )
    notes[path] = validate_lines(
        path, parsed, tasks, list_is_same=list_is_same, counts_begun=is_toprocess
    )
    return parsed


def describe_interrupted_remap(root: str) -> str:
    """Return the sentence about an interrupted ``--remap``, with the remedy."""
    return (
        f"a --remap of {root} was interrupted: give the farm's command again with "
        "--remap, and it goes on where it was"
    )


def _describe_edit(
    stored: Fingerprint,
    tasks: Sequence[str],
    paths: WorkdirPaths,
    constraints: Constraints,
) -> str:
    # A list in a dialect says its order in other words.
    words = "" if constraints.is_foreign else " (#BARRIER, #AFTER)"
    if constraints and compare(stored, tasks) is not ListMatch.EDITED:
        return (
            f"the tasklist was edited since {paths.root} was begun: the tasks are the"
            f" same, but their order has changed{words}"
        )
    block = find_edited_block(stored, tasks, constraints)
    if stored.staging and stored.total == len(tasks):
        return (
            f"the tasklist was edited since {paths.root} was begun, tasks or their"
            f" order{words}: the first change is among the ids"
            f" {block.start} to {block.stop - 1}"
        )
    return (
        f"the tasklist was edited since {paths.root} was begun: it had "
        f"{counted(stored.total)}, it has {len(tasks)} now, and the first change is "
        f"among the ids {block.start} to {block.stop - 1}"
    )


def validate_lines(
    path: str,
    parsed: ParsedStatus,
    tasks: Sequence[str],
    *,
    list_is_same: bool,
    counts_begun: bool = False,
) -> list[str]:
    """Return a sentence about each torn line of a status file.

    Raises `InputError` for an alien line: `EditedListError` unless `list_is_same`.
    """
    notes = []
    for odd in (*parsed.odd, *([parsed.tail] if parsed.tail else [])):
        if isinstance(odd.found, AlienLine):
            if list_is_same:
                raise InputError(_describe_garbage(path, odd.found))
            raise EditedListError(describe_alien(path, odd.found, tasks), REMEDY)
        ids = ids_of_odd(odd, len(tasks), counts_begun=counts_begun)
        notes.append(_describe_torn(path, odd.line, ids))
    return notes


def describe_alien(path: str, found: AlienLine, tasks: Sequence[str]) -> str:
    """Return the sentence about an alien line, for an `EditedListError`."""
    if found.taskid is None:
        text = shorten(found.text)
        return f"a line of {path} is not of this tasklist: '{text}'"
    was = shorten(found.text)
    if found.taskid >= len(tasks):
        now = f"the tasklist has only {counted(len(tasks))}"
    else:
        was, text = _from_the_difference(found.text, tasks[found.taskid])
        now = f"in the tasklist it is '{text}'"
    return (
        f"the tasklist was edited since the workdir was begun: task {found.taskid} is "
        f"'{was}' in {path}, and {now}"
    )


def _describe_garbage(path: str, found: AlienLine) -> str:
    """Return the sentence about an alien line of a list that was not edited."""
    number = "" if found.taskid is None else f"{found.taskid} "
    return (
        f"a line of {path} is of no task, though the tasklist is the same as before: "
        f"'{shorten(number + found.text)}'; mpifarm check --repair "
        f"{shlex.quote(os.path.dirname(path))} takes it out"
    )


def _from_the_difference(was: str, now: str, before: int = 30) -> tuple[str, str]:
    """Return both texts short enough for a message, with their first difference.

    `before` characters in front of the difference stay; an ellipsis marks a cut.
    """
    places = range(min(len(was), len(now)))
    same = next((place for place in places if was[place] != now[place]), len(places))
    if same <= before:
        return shorten(was), shorten(now)
    start = same - before
    return "…" + shorten(was[start:]), "…" + shorten(now[start:])


def _describe_torn(path: str, line: bytes, taskids: Sequence[int]) -> str:
    text = shorten(line.decode("utf-8", "surrogateescape"))
    if taskids:
        which = ", ".join(map(str, sorted({*taskids})))
        return f"a torn line of {path} was read as task {which}: '{text}'"
    return f"a torn line of {path} does not count: '{text}'"


def shorten(text: str, limit: int = 80) -> str:
    """Return a text in `limit` characters at most, cut by an ellipsis.

    Lone surrogates become escapes.  Control characters stay: the console escapes them.
    """
    plain = text.encode("utf-8", "backslashreplace").decode()
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def validate_access(paths: WorkdirPaths) -> None:
    """Raise `FarmError` if a farm could not use a file or directory of the workdir.

    A missing one passes.  Raises `StorageError` if the disk does not answer.
    """
    validate_contents(paths)
    for directory in (paths.logs, paths.claims):
        _validate_mode(directory, os.R_OK | os.W_OK | os.X_OK)
    for file in (
        paths.toprocess,
        paths.added,
        paths.waiting,
        paths.finished,
        paths.failed,
        paths.timeline,
        paths.attempts,
        paths.first_attempts,
    ):
        _validate_mode(file, os.R_OK | os.W_OK)


def _validate_mode(path: str, mode: int) -> None:
    if files.is_there(path) and not files.is_permitted(path, mode):
        raise InputError(
            f"{path} can't be read and written: change its permissions, or use another "
            "workdir"
        )
