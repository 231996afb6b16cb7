"""``--remap``: a workdir is brought in line with an edited list, by the tasks' texts.

Rules of this file: the caller holds the lock, and no farm is at work.  All new files
are written into ``remap.begun.new`` first, with copies of the old files; its rename to
``remap.begun`` decides.  A kill before it has changed nothing; after it no farm starts
but with ``--remap``, which goes on.  Each step behind it may be done twice.  At the end
the directory is ``before-remap-<time>``, and holds the old files.

The old list is gone, but each line of a status file has its id and its text.  The k-th
task of a text in the old list is the k-th of that text in the new one, as far as the
texts are known: those of tasks that a dead farm held are not, and nothing is recorded
of these, so they run.  Tasks that were not run, since others had failed, are to be run
again: the order of the new list decides about them.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from heapq import merge
from typing import NamedTuple

from mpifarm.errors import InputError
from mpifarm.model.paths import RemapPaths, WorkdirPaths, parse_log_name
from mpifarm.model.wording import agree
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.output.reader import find_record_files
from mpifarm.output.records import renumber, renumber_slots
from mpifarm.store.attempts import Column, is_not_run, read_last_attempts
from mpifarm.store.claims import OtherClaim, OtherClaims, find_leftovers, grasped
from mpifarm.store.farm_liveness import FarmLiveness, Machine
from mpifarm.store.fingerprint import (
    encode_fingerprint,
    parse_fingerprint,
    take_fingerprint,
)
from mpifarm.store.status_lines import encode_lines, find_id
from mpifarm.store.task_map import Location, find_settled
from mpifarm.system import files

MAX_IDS_NAMED = 5
RECORDED = (Location.FINISHED, Location.FAILED)
"""Locations of a task whose outputs and attempts move to its new id."""
_KEPT = (  # Copied, so that the user can go back to the old list.
    "finished",
    "failed",
    "toprocess",
    "added",
    "waiting",
    "attempts.tsv",
    "attempts.1.tsv",
    "fingerprint.json",
    "held",
)
_NEW = (
    "finished",
    "failed",
    "attempts.1.tsv",
    "attempts.tsv",
    "waiting",
    "toprocess",
    "fingerprint.json",
)
"""The files that are replaced, in this order."""


class OldTask(NamedTuple):
    """A line of the status files; sorted, they are in the order of the old list."""

    taskid: int
    text: str


class Old(NamedTuple):
    """The workdir as it was: the tasks by their lines, and the ids without a text.

    `claimed` are the ids in `claims`, which are names of dead farms.  The old list had
    `total` tasks at least.
    """

    known: dict[OldTask, Location]
    claimed: frozenset[int]
    claims: tuple[str, ...]
    total: int
    has_queue: bool


class Moved(NamedTuple):
    """The places of the old tasks in the new list.

    `locations` has a `Location` for each task of the new list; a task that has neither
    finished nor failed runs.  `places` maps old ids to new ones, `recorded` only those
    of tasks that have finished or failed.  `gone` is the number of finished tasks that
    the new list does not have.
    """

    locations: bytearray
    places: dict[int, int]
    recorded: dict[int, int]
    gone: int


def remap_workdir(
    paths: WorkdirPaths,
    tasks: Sequence[str],
    machine: Machine,
    now: float,
    constraints: Constraints = UNORDERED,
) -> str:
    """Bring the workdir in line with `tasks`.  Return a sentence for the user.

    If an earlier ``--remap`` was interrupted, only complete that one.  `now` is in
    seconds since the epoch.  Raises `InputError`, with nothing changed, if a farm may
    be at work or a plain farmer may have tasks; `StorageError` if the disk fails.
    """
    if not files.is_there(paths.remap):
        old, moved = plan_remap(paths, tasks, machine)
        prepare(paths, old, moved, tasks, constraints)
    return carry_out(paths, now)


def plan_remap(
    paths: WorkdirPaths, tasks: Sequence[str], machine: Machine
) -> tuple[Old, Moved]:
    """Return the old list's tasks, and their places among `tasks`; change nothing.

    Raises as `remap_workdir`.
    """
    old = read_old(paths, machine)
    refuse_lost(paths, old)
    return old, match_texts(old.known, tasks)


# ---- what was -----------------------------------------------------------------------


def read_old(paths: WorkdirPaths, machine: Machine) -> Old:
    """Read all that is known of the old list's tasks.

    Raises `InputError` if a farm may be alive, `StorageError` if the disk fails.
    """
    claims = read_dead_claims(paths, machine)
    held: dict[int, int] = {}
    for claim in claims:
        for taskid, size in claim.journal.held.items():
            # In two claims: it is settled if it is for both.
            held[taskid] = max(size, held.get(taskid, 0))
    queue = files.find_content(paths.toprocess)
    # Apart from each other: a torn last line of one must not swallow the next one's.
    others = map(files.find_content, (paths.added, paths.waiting))
    queues = [content or b"" for content in (queue, *others)]
    finished = files.find_content(paths.finished) or b""
    failed = files.find_content(paths.failed) or b""
    known: dict[OldTask, Location] = {}

    def put(location: Location, tasks: Iterable[OldTask]) -> None:
        for task in tasks:
            known[task] = max(location, known.get(task, Location.NOWHERE))

    # A last line without newline records nothing, but its task is not lost.
    for content in (*queues, finished, failed):
        put(Location.NOWHERE, read_tail(content))
    lines = [*read_lines(failed)]
    settled = find_settled(((task.taskid, end) for task, end in lines), held)
    open_ids = held.keys() - settled
    not_run = _find_not_run(paths, lines)
    for task, _ in lines:
        # Without a queue, all that has not finished is to be processed.
        runs = queue is None or task.taskid in open_ids or task.taskid in not_run
        put(Location.QUEUED if runs else Location.FAILED, [task])
    for content in queues:
        put(Location.QUEUED, (task for task, _ in read_lines(content)))
    put(Location.FINISHED, (task for task, _ in read_lines(finished)))
    stored = parse_fingerprint(files.find_content(paths.fingerprint) or b"")
    last = max((task.taskid for task in known), default=-1)
    return Old(
        known,
        frozenset(held),
        tuple(claim.farm for claim in claims),
        max(stored.total if stored else 0, last + 1),
        queue is not None,
    )


def _find_not_run(
    paths: WorkdirPaths, failed: Iterable[tuple[OldTask, int]]
) -> set[int]:
    """Return the failed tasks that were not run, since others had failed."""
    last = read_last_attempts(paths, (task.taskid for task, _ in failed))
    return {each for each in last.lines if is_not_run(last.field(each, Column.OUTCOME))}


def read_lines(content: bytes) -> Iterator[tuple[OldTask, int]]:
    """Yield each whole line that has an id, and the line's end in bytes."""
    end = 0
    *lines, _ = content.split(b"\n")
    for line in lines:
        end += len(line) + 1
        for task in _parse(line):
            yield task, end


def read_tail(content: bytes) -> Iterator[OldTask]:
    """Yield the last line if it has an id and no newline."""
    yield from _parse(content[content.rfind(b"\n") + 1 :])


def _parse(line: bytes) -> Iterator[OldTask]:
    taskid = find_id(line)
    if taskid is not None:
        text = line[line.index(b" ") + 1 :]
        yield OldTask(taskid, text.decode("utf-8", "surrogateescape"))


def read_dead_claims(paths: WorkdirPaths, machine: Machine) -> list[OtherClaim]:
    """Return all claims; raises `InputError` unless all their farms surely are dead."""
    others = OtherClaims(paths, farm="")
    others.poll()
    for claim in others.claims.values():
        with grasped(claim, machine) as grasp:
            if grasp.is_reclaimable:
                continue
        is_sure = grasp.liveness is FarmLiveness.HOLDS_LOCK
        may = "is" if is_sure else "may still be"
        raise InputError(
            f"--remap changes the ids of the tasks in {paths.root}, and farm "
            f"{claim.describe()} {may} at work there: end it first, or wait for its end"
        )
    return list(others.claims.values())


def refuse_lost(paths: WorkdirPaths, old: Old) -> None:
    """Raise `InputError` if tasks of the old list are in no file.

    A plain farmer may run such tasks.  Without ``toprocess`` there are none.
    """
    if not old.has_queue:
        return
    known = {task.taskid for task in old.known} | old.claimed
    lost = [taskid for taskid in range(old.total) if taskid not in known]
    if lost:
        named = ", ".join(map(str, lost[:MAX_IDS_NAMED]))
        more = ", …" if len(lost) > MAX_IDS_NAMED else ""
        raise InputError(
            f"{len(lost)} of the old list's tasks ({named}{more}) are in no file of "
            f"{paths.root}: taken by a PyTaskFarmer (at work, or killed), or removed "
            f"by hand; when nothing works on this list, remove {paths.toprocess} and "
            "give the same command again: all that has not finished then runs"
        )


# ---- what is to be ------------------------------------------------------------------


def match_texts(known: Mapping[OldTask, Location], tasks: Sequence[str]) -> Moved:
    """Match tasks by text: the k-th old one of a text is the k-th new one.

    Torn texts are left out.  An old id with two texts has no new id, but its locations
    count.
    """
    first, following = _chain_equal_texts(tasks)
    locations = bytearray(len(tasks))
    places: dict[int, int] = {}
    recorded: dict[int, int] = {}
    unclear: set[int] = set()
    gone = 0
    for task in _without_torn(sorted(known)):
        taskid, text = task
        location = known[task]
        place = first.get(text, -1)
        if place < 0:
            gone += location is Location.FINISHED
            continue
        first[text] = following[place]
        locations[place] = location
        if taskid in places:
            # The list was edited before, and a plain farmer went on with it.
            unclear.add(taskid)
        places[taskid] = place
        if location in RECORDED:
            recorded[taskid] = place
    for taskid in unclear:
        del places[taskid]
        recorded.pop(taskid, None)
    return Moved(locations, places, recorded, gone)


def _chain_equal_texts(tasks: Sequence[str]) -> tuple[dict[str, int], list[int]]:
    """Return the first id of each text, and for each id the next of its text."""
    first: dict[str, int] = {}
    following = [-1] * len(tasks)
    for taskid in range(len(tasks) - 1, -1, -1):
        text = tasks[taskid]
        following[taskid] = first.get(text, -1)
        first[text] = taskid
    return first, following


def _without_torn(ordered: Sequence[OldTask]) -> Iterator[OldTask]:
    """Yield the tasks without each text that begins another text of the same id.

    Among sorted texts, the next one begins with such a text if any does.
    """
    for place, task in enumerate(ordered):
        after = ordered[place + 1] if place + 1 < len(ordered) else None
        is_torn = (
            after is not None
            and after.taskid == task.taskid
            and after.text.startswith(task.text)
        )
        if not is_torn:
            yield task


def describe(moved: Moved) -> str:
    """Return a sentence about the numbers of lines that count, run, and are gone."""
    finished, failed = map(moved.locations.count, (Location.FINISHED, Location.FAILED))
    count = len(moved.locations)
    run = count - finished - failed
    sentence = (
        f"--remap: of {_group(count)} {agree(count, 'line', 'lines')} now,"
        f" {_group(finished)} {agree(finished, 'was', 'were')} finished before,"
        f" {_group(failed)} failed, {_group(run)} run"
    )
    if moved.gone:
        are = agree(moved.gone, "is", "are")
        sentence += f"; {_group(moved.gone)} that had finished {are} not in the list"
        sentence += " any more"
    return sentence


def _group(number: int) -> str:
    return f"{number:,}".replace(",", " ")


# ---- staging -----------------------------------------------------------------------


def prepare(
    paths: WorkdirPaths,
    old: Old,
    moved: Moved,
    tasks: Sequence[str],
    constraints: Constraints,
) -> None:
    """Write the new files, copies of the old ones and the plan; then decide.

    All goes into one directory, whose rename at the end decides.  Raises
    `StorageError`.
    """
    staged = RemapPaths(paths.remap_staging)
    packs = _encode_packs(paths, moved)
    for directory in (staged.root, staged.new_directory, staged.logs, staged.claims):
        _make(directory)
    for name in _KEPT:
        _write(staged.file(name), files.find_content(paths.file(name)))
    for name, content in _encode_new(paths, moved, tasks, constraints).items():
        _write(staged.new(name), content, like=paths.file(name))
    _write_packs(paths, staged, packs)
    numbers = _find_logs(paths)
    staying = {each for each, place in moved.recorded.items() if each == place}
    aside = [number for number in numbers if number not in staying]
    moves = [(each, moved.recorded[each]) for each in aside if each in moved.recorded]
    _write(staged.aside, json.dumps(aside).encode())
    plan = {
        "moves": moves,
        "claims": old.claims,
        "packs": list(packs),
        "waiting": bool(constraints),
        "found": describe(moved),
    }
    _write(staged.plan, json.dumps(plan).encode())
    files.rename(staged.root, paths.remap)


def _make(directory: str) -> None:
    try:
        files.make_directory(directory)
    except OSError as error:
        raise files.storage_error("create", directory, error) from error


def _write(path: str, content: bytes | None, *, like: str | None = None) -> None:
    """Write a whole file, with the permissions of `like`; None removes the file."""
    if content is None:
        files.remove(path)
    else:
        files.write_staging_file(path, (content,), like=like)


def _encode_new(
    paths: WorkdirPaths,
    moved: Moved,
    tasks: Sequence[str],
    constraints: Constraints,
) -> dict[str, bytes | None]:
    """Return the contents of the files of `_NEW` by name, None for no such file."""
    ids: dict[Location, list[int]] = {each: [] for each in Location}
    for taskid, location in enumerate(moved.locations):
        ids[Location(location)].append(taskid)
    run = [*merge(ids[Location.NOWHERE], ids[Location.QUEUED])]
    shared = [*constraints.find_shared(run)]
    rest = sorted({*run}.difference(shared))
    return {
        "finished": encode_lines(ids[Location.FINISHED], tasks),
        "failed": encode_lines(ids[Location.FAILED], tasks),
        "toprocess": encode_lines(shared, tasks),
        "waiting": encode_lines(rest, tasks) if constraints else None,
        "attempts.1.tsv": _renumber(paths.first_attempts, moved.places),
        "attempts.tsv": _renumber(paths.attempts, moved.places),
        "fingerprint.json": encode_fingerprint(
            take_fingerprint(tasks, constraints=constraints)
        ),
    }


def _encode_packs(paths: WorkdirPaths, moved: Moved) -> dict[str, bytes]:
    """Return the indexes and slots of packed logs under the new ids, by name.

    The outputs themselves stay in their places, even if their tasks are gone.
    """
    packs = {}
    for source in find_record_files(paths.logs):
        content = files.find_content(paths.in_logs(source)) or b""
        encode = renumber if source.endswith(".index") else renumber_slots
        packs[source] = encode(content, moved.recorded)
    return packs


def _write_packs(
    paths: WorkdirPaths, staged: RemapPaths, packs: Mapping[str, bytes]
) -> None:
    for directory in {os.path.dirname(name) for name in packs}:
        _make(staged.in_logs(directory))
    for name, content in packs.items():
        path = paths.in_logs(name)
        _write(staged.in_logs(name), files.find_content(path))
        _write(staged.new_records(name), content, like=path)


def _renumber(path: str, places: Mapping[int, int]) -> bytes | None:
    """Return the header and the rows of tasks in `places`, under their new ids.

    Return None where there is no such file.
    """
    content = files.find_content(path)
    if content is None:
        return None
    header, *rows = content.split(b"\n")
    kept = [header]
    for row in rows:
        taskid, tab, rest = row.partition(b"\t")
        place = places.get(int(taskid)) if tab and taskid.isdigit() else None
        if place is not None:
            kept.append(b"%d\t%s" % (place, rest))
    return b"\n".join([*kept, b""])


def _find_logs(paths: WorkdirPaths) -> list[int]:
    """Return the ids that have a ``log_<id>``, sorted."""
    found = map(parse_log_name, files.find_names(paths.logs))
    return sorted(taskid for taskid in found if taskid is not None)


# ---- putting it in place ------------------------------------------------------------


def carry_out(paths: WorkdirPaths, now: float) -> str:
    """Take the remaining steps of the plan.  Return a sentence for the user.

    Each step may be taken again after a kill.  At the end the directory of the plan
    becomes that of the old files, named after `now`.  Raises `StorageError`.
    """
    aside = RemapPaths(paths.remap)
    plan = json.loads(files.find_content(aside.plan) or b"")
    _set_logs_aside(paths, aside)
    for number, place in plan["moves"]:
        _rename_if_there(aside.log(number), paths.log(place))
    for name in plan.get("packs", ()):
        _rename_if_there(aside.new_records(name), paths.in_logs(name))
    for farm in plan["claims"]:
        _rename_if_there(paths.claim(farm), aside.claim(farm))
        for path, _, _ in find_leftovers(paths, farm):
            files.remove(path)
    # A new `toprocess` or `waiting` has the added tasks, too.
    files.remove(paths.added)
    files.remove(paths.held)  # its ids mean other tasks now
    if not plan.get("waiting"):
        files.remove(paths.waiting)
    for name in _NEW:
        _rename_if_there(aside.new(name), paths.file(name))
    kept = _find_free_name(paths, now)
    files.rename(paths.remap, kept)
    with suppress(OSError):
        os.rmdir(RemapPaths(kept).new_directory)
    return f"{plan['found']}; the files as they were are in {kept}"


def _set_logs_aside(paths: WorkdirPaths, aside: RemapPaths) -> None:
    """Move all logs away whose id means another task now, then remove their list.

    Without that list, do nothing: a log of such a name is a new one.
    """
    content = files.find_content(aside.aside)
    if content is None:
        return
    for number in json.loads(content):
        _rename_if_there(paths.log(number), aside.log(number))
    files.remove(aside.aside)


def _rename_if_there(source: str, target: str) -> None:
    if files.exists(source):
        files.rename(source, target)


def _find_free_name(paths: WorkdirPaths, now: float) -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    name = paths.before_remap(stamp)
    number = 1
    while files.is_there(name):
        number += 1
        name = paths.before_remap(f"{stamp}-{number}")
    return name
