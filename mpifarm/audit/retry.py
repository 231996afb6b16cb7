"""Failed tasks go back to their queues.

Rules of this file: into a queue first, then out of ``failed``, each by one rename under
the lock; between the two a task is in both, which means that it is to be processed, but
never to be run as long as one for which it waits is in ``failed`` alone.
Tasks in a claim are not touched.  With a task go back those that were not run because
it had failed, and with one of these the task that had failed.
"""

import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from mpifarm.audit.audit import Audit, Contents, FindingKind, audit_contents
from mpifarm.audit.ledger_rewrite import LedgerRewrite, rewrite_ledger
from mpifarm.audit.snapshot import examine
from mpifarm.errors import InputError, StorageError
from mpifarm.model.id_ranges import name_ids
from mpifarm.model.paths import WorkdirPaths, repair_staging_of
from mpifarm.model.wording import agree, counted
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.store.attempts import (
    Column,
    find_awaited,
    read_attempts_content,
    split_rows,
)
from mpifarm.store.farm_liveness import Machine
from mpifarm.store.optimistic import write_optimistically
from mpifarm.store.queue import insert
from mpifarm.store.status_lines import encode_lines
from mpifarm.store.task_map import Location
from mpifarm.store.types import HeldLock
from mpifarm.store.validate import EditedListError, describe_interrupted_remap
from mpifarm.system import file_contents, files

LOCK_SECONDS = 10.0
"""Seconds that a retry waits for the lock, each time that it takes the lock."""


class Wanted(NamedTuple):
    """The conditions of the wanted failed tasks; None means no such condition."""

    ids: frozenset[int] | None = None
    statuses: frozenset[int] | None = None
    """As in `LastEnds`."""


class Retried(NamedTuple):
    """The result of a retry."""

    moved: list[int]
    """Tasks that are put back, `along` included."""
    held: list[int]
    """Failed tasks that were left because a claim holds them."""
    unknown: list[int]
    """Failed tasks that were left because ``attempts.tsv`` has no status for them."""
    along: Sequence[int] = ()
    """Those of `moved` that were not wanted, and go with others by the list's order."""


# ---- which --------------------------------------------------------------------------


class LastEnds(NamedTuple):
    """The last ends of tasks, by ``attempts.tsv``."""

    statuses: dict[int, int]
    """The status of a task's last attempt, -n where signal n ended the command."""
    not_run: dict[int, int]
    """For a task that was not run, the one that had failed."""


def read_last_ends(content: bytes) -> LastEnds:
    """Return the last end of each task, from ``attempts.tsv``."""
    statuses: dict[int, int] = {}
    not_run: dict[int, int] = {}
    for fields in split_rows(content):
        with suppress(ValueError):
            taskid = int(fields[Column.TASKID])
            awaited = find_awaited(fields[Column.OUTCOME])
            if awaited is not None:
                not_run[taskid] = awaited
                statuses.pop(taskid, None)
                continue
            not_run.pop(taskid, None)
            signal = int(fields[Column.SIGNAL])
            statuses[taskid] = -signal if signal else int(fields[Column.STATUS])
    return LastEnds(statuses, not_run)


def spread_status(status: int) -> frozenset[int]:
    """Return all statuses that mean the same: -9 and 137 both are signal 9."""
    if status < 0:
        return frozenset({status, 128 - status})
    return frozenset({status, 128 - status} if status > 128 else {status})


def choose(wanted: Wanted, audit: Audit, ends: LastEnds) -> Retried:
    """Choose the tasks to be moved; `ends` has the last end of each task.

    Raises `InputError` for a wanted id that has not failed, or that a claim holds.
    """
    find = audit.locations.find
    failed = {each for each in audit.failed.ids if find(each) is not Location.FINISHED}
    chosen = failed
    if wanted.ids is not None:
        _refuse(wanted.ids, failed, audit)
        chosen = chosen & wanted.ids
    unknown: set[int] = set()
    if wanted.statuses is not None:
        statuses = ends.statuses
        unknown = chosen - statuses.keys() - ends.not_run.keys()
        chosen = {each for each in chosen if statuses.get(each) in wanted.statuses}
    held = {taskid for taskid in failed if find(taskid) is Location.CLAIMED}
    along = _find_along(chosen - held, failed - held, ends.not_run)
    moved = sorted((chosen | along) - held)
    return Retried(moved, sorted(chosen & held), sorted(unknown), tuple(sorted(along)))


def _find_along(
    chosen: set[int], failed: set[int], not_run: Mapping[int, int]
) -> set[int]:
    """Return the failed tasks that go back with the chosen ones, by the list's order.

    `not_run` has, for a task that was not run, the one that had failed.
    """
    if not not_run:
        return set()
    roots = chosen | {not_run[each] for each in chosen if each in not_run}
    more = {each for each in failed if not_run.get(each) in roots}
    return ((roots | more) & failed) - chosen


_WHY = {
    Location.FINISHED: "finished, and a finished task never runs again",
    Location.CLAIMED: "with a farm",
    Location.QUEUED: "still to be run",
    Location.NOWHERE: "in no file (mpifarm check says more)",
}
"""The reasons why a task can't be put back, by its location."""

_AFRESH = (
    ", or append the line of a finished one to the list again; to start all tasks"
    " afresh: mpifarm LIST --again"
)


def _refuse(ids: Collection[int], failed: set[int], audit: Audit) -> None:
    """Raise `InputError` with the ids that cannot run again, and the reasons.

    Do nothing if all have failed and no claim holds any.
    """
    unknown = sorted(taskid for taskid in ids if taskid >= len(audit.tasks))
    if unknown:
        raise InputError(
            f"nothing was put back: {_are(unknown)} not in the list, which has"
            f" {counted(len(audit.tasks))}, from 0 on"
        )
    reasons: dict[str, list[int]] = {}
    for taskid in sorted(ids):
        location = audit.locations.find(taskid)
        if taskid not in failed or location is Location.CLAIMED:
            reasons.setdefault(_WHY[location], []).append(taskid)
    if reasons:
        told = "; ".join(f"{_are(ids)} {why}" for why, ids in reasons.items())
        ends = _AFRESH if _WHY[Location.FINISHED] in reasons else ""
        raise InputError(f"nothing was put back: {told}; name failed tasks alone{ends}")


def _are(ids: Collection[int]) -> str:
    """Return the beginning of a sentence about tasks: ``tasks 3, 7-9 are``."""
    named, are = agree(len(ids), "task", "tasks"), agree(len(ids), "is", "are")
    return f"{named} {name_ids(ids)} {are}"


# ---- moving -------------------------------------------------------------------------


class Moves(NamedTuple):
    """The new contents of the files, made of the old ones.

    Tasks that were added to the list go to ``added``: plain farmers die of an unknown
    id in ``toprocess``.  Those that plain farmers may not run go to ``waiting``.
    """

    retried: Retried
    toprocess: bytes
    added: bytes
    waiting: bytes
    failed: bytes


def plan_moves(
    contents: Contents,
    tasks: Sequence[str],
    wanted: Wanted,
    ends: LastEnds,
    root: str,
    constraints: Constraints = UNORDERED,
) -> Moves:
    """Plan the new files; `root` names the workdir in messages.

    Raises `InputError` if tasks cannot be moved, `EditedListError` if that is because
    the list was edited, `StorageError` if the disk has failed.
    """
    audit = audit_contents(contents, tasks, constraints=constraints)
    _validate_readiness(contents, audit, root)
    assert audit.toprocess is not None
    retried = choose(wanted, audit, ends)
    back: dict[str, set[int]] = {name: set() for name in audit.queues}
    # A task that plain farmers have put into toprocess stays there.
    for taskid in {*retried.moved} - {*audit.toprocess.ids}:
        back[audit.queue_of(taskid)].add(taskid)
    rewrite = LedgerRewrite(
        frozenset(retried.moved),
        keep_last=True,
        list_is_same=False,
        keep_length=bool(contents.claims),
    )
    return Moves(
        retried,
        encode_lines(sorted(back["toprocess"] | {*audit.toprocess.ids}), audit.tasks),
        _add(contents.added or b"", sorted(back["added"]), audit.tasks),
        _add(contents.waiting or b"", sorted(back["waiting"]), audit.tasks),
        rewrite_ledger(contents.failed or b"", audit.tasks, rewrite),
    )


def _add(queue: bytes, taskids: Sequence[int], tasks: Sequence[str]) -> bytes:
    """Return the content of a queue with `taskids`; all other lines stay."""
    blocks = insert(queue, 0, tasks, taskids) if taskids else [queue]
    return b"".join(map(file_contents.bytes_of, blocks))


def _validate_readiness(contents: Contents, audit: Audit, root: str) -> None:
    """Raise `InputError` or `StorageError` unless ``toprocess`` can be added to."""
    if contents.disk_failed:
        raise StorageError(contents.unread[0])
    if contents.unread:
        raise InputError(contents.unread[0])
    if contents.remap_begun:
        raise InputError(describe_interrupted_remap(root))
    if not contents.begun:
        raise InputError(
            f"nothing was begun in {root}, so no task has failed; or its tasklist "
            "keeps its own state (then name the handler, -t)"
        )
    if audit.is_edited:
        raise EditedListError(f"the tasklist was edited since {root} was begun")
    if audit.toprocess is None:
        raise InputError(
            f"there is no toprocess in {root}, so every task that has not finished "
            "runs at the next start, those that failed too: give the farm's command"
            " again"
        )
    odd = any(each.odd for each in audit.queues.values()) or audit.failed.aliens
    if odd or audit.find(FindingKind.UNSORTED):
        raise InputError(
            f"some lines in {root} are torn, in disorder, or not of the tasklist: "
            f"{shlex.join(['mpifarm', 'check', root])} names them, and the remedy"
        )


def rehearse(
    path: str,
    tasks: Sequence[str],
    machine: Machine,
    wanted: Wanted,
    constraints: Constraints = UNORDERED,
) -> None:
    """Raise the error that `retry` would, without the lock; change nothing."""
    paths = WorkdirPaths(os.path.abspath(path))
    ends = _read_ends(paths)
    plan_moves(examine(paths.root, machine), tasks, wanted, ends, path, constraints)


def _read_ends(paths: WorkdirPaths) -> LastEnds:
    return read_last_ends(read_attempts_content(paths))


def retry(
    path: str,
    tasks: Sequence[str],
    lock: HeldLock,
    machine: Machine,
    wanted: Wanted,
    constraints: Constraints = UNORDERED,
) -> Retried:
    """Requeue the wanted tasks of the workdir `path`.  Return the moved and left ones.

    `constraints` are those of the list.

    Raises `InputError`, with nothing changed, if tasks cannot be moved; `StorageError`
    if the disk fails or the lock cannot be had in `LOCK_SECONDS`.
    """
    paths = WorkdirPaths(os.path.abspath(path))

    def compose(contents: Contents) -> tuple[Contents, Moves]:
        # Read after `contents`: it has to know the end of each task in `failed`.
        ends = _read_ends(paths)
        moves = plan_moves(contents, tasks, wanted, ends, path, constraints)
        return contents, moves

    _, moves = write_optimistically(
        lock,
        lambda: examine(paths.root, machine),
        compose,
        lambda change: _move(paths, *change),
        is_current=lambda contents: examine(paths.root, machine) == contents,
        is_needed=lambda change: bool(change[1].retried.moved),
        seconds=LOCK_SECONDS,
    )
    return moves.retried


def _move(paths: WorkdirPaths, contents: Contents, moves: Moves) -> None:
    """Replace the changed files, the queues first: a kill loses no task.

    What waits comes before that for which it waits: else a kill leaves a task that runs
    again without those that were not run because of it.
    """
    for path, before, content in (
        (paths.waiting, contents.waiting or b"", moves.waiting),
        (paths.added, contents.added or b"", moves.added),
        (paths.toprocess, contents.toprocess, moves.toprocess),
        (paths.failed, contents.failed, moves.failed),
    ):
        if content != before:
            files.replace(path, repair_staging_of(path), content)
