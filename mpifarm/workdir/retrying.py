"""Failed tasks go back to ``toprocess``.

Rules of this file: into ``toprocess`` first, then out of ``failed``, each by one
rename under the lock; between the two a task stands in both, which means that it is to
be processed.  What a claim holds is not touched.
"""

import os
from collections.abc import Collection, Sequence
from typing import NamedTuple

from mpifarm.errors import InputError
from mpifarm.workdir import files
from mpifarm.workdir.checking import Contents, Judged, Kind, judge
from mpifarm.workdir.claims import Machine, encode_ids
from mpifarm.workdir.examining import examine
from mpifarm.workdir.fingerprint import Verdict
from mpifarm.workdir.mending import Mending, mend_ledger
from mpifarm.workdir.paths import WorkdirPaths
from mpifarm.workdir.records import HeldLock
from mpifarm.workdir.status import encode_lines
from mpifarm.workdir.toprocess import insert

LOCK_SECONDS = 10.0
"""How long a retry waits for the lock."""

TRIES_WITHOUT_LOCK = 3


class Wanted(NamedTuple):
    """Which of the failed tasks: all, or those that each condition lets through."""

    ids: frozenset[int] | None = None
    statuses: frozenset[int] | None = None
    """As `attempts.tsv` has them: -n for a task that signal n has killed."""


class Retried(NamedTuple):
    """What was done."""

    moved: list[int]
    held: list[int]
    """Failed ones that were left, for a claim holds them."""
    unknown: list[int]
    """Failed ones that were left, for nobody has recorded their status."""


# ---- which --------------------------------------------------------------------------


def read_last_statuses(content: bytes) -> dict[int, int]:
    """The status of the last attempt of each task, out of ``attempts.tsv``."""
    last: dict[int, int] = {}
    for line in content.split(b"\n")[:-1]:
        fields = line.split(b"\t", 3)
        try:
            last[int(fields[0])] = int(fields[2])
        except (ValueError, IndexError):
            continue  # The header, or a torn line.
    return last


def spread_status(status: int) -> frozenset[int]:
    """All by which it may be recorded: a shell says 137 of what signal 9 has killed."""
    if status < 0:
        return frozenset({status, 128 - status})
    return frozenset({status, 128 - status} if status > 128 else {status})


def find_failed(judged: Judged) -> set[int]:
    """The tasks that have failed and not finished."""
    return set(judged.failed.ids) - set(judged.finished.ids)


def choose(
    wanted: Wanted, contents: Contents, judged: Judged, statuses: dict[int, int]
) -> Retried:
    """What is to be moved; raises `InputError` for an id that can't be."""
    failed = find_failed(judged)
    held = set[int]().union(*(claim.held for claim in contents.claims))
    if wanted.ids is not None:
        _refuse(wanted.ids, failed, held, judged)
        failed &= wanted.ids
    unknown: set[int] = set()
    if wanted.statuses is not None:
        unknown = {taskid for taskid in failed if taskid not in statuses}
        failed = {each for each in failed if statuses.get(each) in wanted.statuses}
    return Retried(sorted(failed - held), sorted(failed & held), sorted(unknown))


def _refuse(
    ids: Collection[int], failed: set[int], held: set[int], judged: Judged
) -> None:
    """Raise `InputError` that names the ids that have not failed, and why."""
    finished = set(judged.finished.ids)
    queued = judged.queued
    reasons: dict[str, list[int]] = {}
    for taskid in sorted(ids):
        if taskid >= len(judged.tasks):
            reason = f"not in the list, which has {len(judged.tasks)} tasks"
        elif taskid in finished:
            reason = "finished, and a finished task never runs again"
        elif taskid in held:
            reason = "with a farm"
        elif taskid in failed:
            continue
        elif taskid in queued:
            reason = "still to be processed"
        else:
            reason = "in no file (mpifarm check tells more)"
        reasons.setdefault(reason, []).append(taskid)
    if reasons:
        told = "; ".join(f"{shorten_ids(ids)}: {why}" for why, ids in reasons.items())
        raise InputError(f"only failed tasks can be run again, and not {told}")


def shorten_ids(taskids: Collection[int], most: int = 60) -> str:
    """Ids as ranges, for a sentence."""
    text = encode_ids(taskids).replace(",", ", ")
    return text if len(text) <= most else text[:most].rpartition(",")[0] + ", …"


# ---- moving -------------------------------------------------------------------------


class Moves(NamedTuple):
    """The new contents of the files, made of the old ones.

    Tasks that were added to the list go to ``added``: plain farmers die of an id that
    they don't know.
    """

    retried: Retried
    toprocess: bytes
    added: bytes
    failed: bytes


def plan_moves(
    contents: Contents,
    tasks: Sequence[str],
    wanted: Wanted,
    statuses: dict[int, int],
    root: str,
) -> Moves:
    """Pure.  Raises `InputError` where nothing can be moved."""
    judged = judge(contents, tasks)
    _judge_readiness(contents, judged, root)
    assert judged.toprocess is not None
    retried = choose(wanted, contents, judged, statuses)
    # One that plain farmers have taken up already stays where it is.
    first = judged.first_added
    back = {each for each in retried.moved if each < first}
    later = {*retried.moved} - back - {*judged.toprocess.ids}
    mending = Mending(
        frozenset(retried.moved),
        keep_last=True,
        list_is_same=False,
        keep_length=bool(contents.claims),
    )
    return Moves(
        retried,
        encode_lines(sorted({*judged.toprocess.ids, *back}), judged.tasks),
        _add(contents.added or b"", sorted(later), judged.tasks),
        mend_ledger(contents.failed or b"", judged.tasks, mending),
    )


def _add(added: bytes, taskids: Sequence[int], tasks: Sequence[str]) -> bytes:
    """``added`` with these; lines of a longer list stay as they are."""
    chunks = insert(added, 0, tasks, taskids) if taskids else [added]
    return b"".join(map(files.bytes_of, chunks))


def _judge_readiness(contents: Contents, judged: Judged, root: str) -> None:
    """Raise `InputError` where ``toprocess`` can't be added to."""
    if contents.unread:
        raise InputError(contents.unread[0])
    if contents.remap_begun:
        raise InputError(
            f"a --remap of {root} was interrupted: give the farm's command with "
            "--remap, and it goes on where it was"
        )
    if not contents.begun:
        raise InputError(
            f"nothing was begun in {root}, so no task has failed; or its tasklist "
            "keeps its own state (then name the handler, -t)"
        )
    if judged.verdict is Verdict.EDITED:
        raise InputError(
            f"the tasklist was edited since {root} was begun: name the list as it was "
            "(--list FILE)"
        )
    if judged.toprocess is None:
        raise InputError(
            f"there is no toprocess in {root}, so every task that has not finished "
            "runs at the next start anyway, those that failed too"
        )
    sheets = (judged.toprocess, judged.added)
    odd = any(sheet.torn or sheet.aliens for sheet in sheets) or judged.failed.aliens
    if odd or judged.find(Kind.UNSORTED):
        raise InputError(
            f"some lines in {root} are torn, in disorder, or not of the tasklist: "
            f"mpifarm check {root} tells which, and what to do"
        )


def rehearse(path: str, tasks: Sequence[str], machine: Machine, wanted: Wanted) -> None:
    """Raise the `InputError` that `retry` would, without the lock."""
    paths = WorkdirPaths(os.path.abspath(path))
    statuses = _read_statuses(paths)
    plan_moves(examine(paths.root, machine), tasks, wanted, statuses, path)


def _read_statuses(paths: WorkdirPaths) -> dict[int, int]:
    return read_last_statuses(files.find_content(paths.attempts) or b"")


def retry(
    path: str, tasks: Sequence[str], lock: HeldLock, machine: Machine, wanted: Wanted
) -> Retried:
    """Move them.  Raises `InputError` with nothing touched, `StorageError`."""
    paths = WorkdirPaths(os.path.abspath(path))
    statuses = _read_statuses(paths)
    for _ in range(TRIES_WITHOUT_LOCK):
        with lock.hold(LOCK_SECONDS):
            contents = examine(paths.root, machine)
        moves = plan_moves(contents, tasks, wanted, statuses, path)
        with lock.hold(LOCK_SECONDS):
            if examine(paths.root, machine) == contents:
                _move(paths, contents, moves)
                return moves.retried
    # Farms at work write all the time.
    with lock.hold(LOCK_SECONDS):
        contents = examine(paths.root, machine)
        moves = plan_moves(contents, tasks, wanted, statuses, path)
        _move(paths, contents, moves)
    return moves.retried


def _move(paths: WorkdirPaths, contents: Contents, moves: Moves) -> None:
    """Lock held.  ``toprocess`` first: a kill in between loses none."""
    if not moves.retried.moved:
        return
    for path, before, content in (
        (paths.toprocess, contents.toprocess, moves.toprocess),
        (paths.added, contents.added or b"", moves.added),
        (paths.failed, contents.failed, moves.failed),
    ):
        if content != before:
            files.replace(path, f"{path}.repair", content)
