"""``--remap``: a workdir brought in line with a list that was edited, by the text.

Rules of this file: the caller holds the lock, and nobody is at work.  All that is to be
is written into ``remap.begun.new`` first, with a copy of all that was; its rename to
``remap.begun`` decides.  A kill before it has changed nothing; after it no farm starts
but with ``--remap``, which goes on.  Each step behind it may be done twice.  At the end
the directory is ``before-remap-<time>``, and holds what was.

The old list is gone, but each line of a status file has its id and its text.  The k-th
task of a text in the old list is the k-th of that text in the new one, as far as the
texts are known: those of tasks that a dead farm held are not, and nothing is recorded
of these, so they run.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from mpifarm.errors import InputError
from mpifarm.logfiles import renumber, renumber_slots
from mpifarm.workdir import files
from mpifarm.workdir.claims import (
    Life,
    Machine,
    OtherClaim,
    OtherClaims,
    find_leftovers,
    grasped,
)
from mpifarm.workdir.fingerprint import (
    encode_fingerprint,
    parse_fingerprint,
    take_fingerprint,
)
from mpifarm.workdir.outputs import find_record_files
from mpifarm.workdir.paths import WorkdirPaths
from mpifarm.workdir.status import encode_lines, find_id

QUEUED, FAILED, FINISHED = 0, 1, 2
"""What is known of a task: the greatest but where what failed is in a queue again."""

MOST_IDS_NAMED = 5
_KEPT = (
    "finished",
    "failed",
    "toprocess",
    "added",
    "attempts.tsv",
    "fingerprint.json",
)
_NEW = ("finished", "failed", "attempts.tsv", "toprocess", "fingerprint.json")
"""In the order in which they take their places."""


class OldTask(NamedTuple):
    """A line of the status files; sorted, they are in the order of the old list."""

    taskid: int
    text: str


class Old(NamedTuple):
    """The workdir as it was: what is known of each line, and of ids without a text.

    `total` is how many tasks the old list had, at least.
    """

    known: dict[OldTask, int]
    claimed: frozenset[int]
    claims: tuple[str, ...]
    total: int
    has_queue: bool


class Moved(NamedTuple):
    """What becomes of the old tasks.

    `states` has a state for each task of the new list.  `places` maps each old id to
    its new one, and `recorded` those among them that finished or failed.  `gone` is how
    many had finished and are not in the new list.
    """

    states: bytearray
    places: dict[int, int]
    recorded: dict[int, int]
    gone: int


def remap_workdir(
    paths: WorkdirPaths, tasks: Sequence[str], machine: Machine, now: float
) -> str:
    """Bring the workdir in line with `tasks`; the sentence on what was found.

    Where an earlier one was interrupted, only that one is brought to its end.  `now` is
    in seconds since the epoch.  Raises `InputError`, with nothing changed, where it
    can't be done safely, `StorageError` where the disk gives way.
    """
    if not os.path.lexists(paths.remap):
        old = read_old(paths, machine)
        refuse_lost(paths, old)
        moved = match_texts(old.known, tasks)
        prepare(paths, old, moved, tasks)
    return carry_out(paths, now)


# ---- what was -----------------------------------------------------------------------


def read_old(paths: WorkdirPaths, machine: Machine) -> Old:
    """Read all that is known of the old list's tasks; raises `InputError`."""
    claims = read_dead_claims(paths, machine)
    held: dict[int, int] = {}
    for claim in claims:
        held.update(claim.journal.held)
    queue = files.find_content(paths.toprocess)
    queued = (queue or b"") + (files.find_content(paths.added) or b"")
    finished = files.find_content(paths.finished) or b""
    failed = files.find_content(paths.failed) or b""
    # A last line without newline records nothing, but its task is not lost.
    known = dict.fromkeys(
        [task for each in (queued, finished, failed) for task in read_tail(each)],
        QUEUED,
    )
    known.update((task, FAILED) for task, _ in read_lines(failed))
    for task, end in read_lines(failed):
        # Without a queue all that has not finished is to be processed.
        if queue is None or end <= held.get(task.taskid, -1):
            known[task] = QUEUED
    known.update((task, QUEUED) for task, _ in read_lines(queued))
    known.update((task, FINISHED) for task, _ in read_lines(finished))
    stored = parse_fingerprint(files.find_content(paths.fingerprint) or b"")
    last = max((task.taskid for task in known), default=-1)
    return Old(
        known,
        frozenset(held),
        tuple(claim.farm for claim in claims),
        max(stored.total if stored else 0, last + 1),
        queue is not None,
    )


def read_lines(content: bytes) -> Iterator[tuple[OldTask, int]]:
    """Each whole line that has an id, and where it ends."""
    end = 0
    *lines, _ = content.split(b"\n")
    for line in lines:
        end += len(line) + 1
        for task in _parse(line):
            yield task, end


def read_tail(content: bytes) -> Iterator[OldTask]:
    """The last line, where it has an id and no newline."""
    yield from _parse(content[content.rfind(b"\n") + 1 :])


def _parse(line: bytes) -> Iterator[OldTask]:
    taskid = find_id(line)
    if taskid is not None:
        text = line[line.index(b" ") + 1 :]
        yield OldTask(taskid, text.decode("utf-8", "surrogateescape"))


def read_dead_claims(paths: WorkdirPaths, machine: Machine) -> list[OtherClaim]:
    """All claims; raises `InputError` where one of them may be of a living farm."""
    others = OtherClaims(paths, farm="")
    others.look()
    for claim in others.claims.values():
        with grasped(claim, machine) as (life, _):
            if life is Life.DEAD:
                continue
        head = claim.journal.head
        who = f"{claim.farm} on {head.host} (pid {head.pid})" if head else claim.farm
        may = "is" if life is Life.ALIVE else "may still be"
        raise InputError(
            f"--remap changes the ids of the tasks in {paths.root}, and farm {who} "
            f"{may} at work there: end it first, or wait for its end"
        )
    return list(others.claims.values())


def refuse_lost(paths: WorkdirPaths, old: Old) -> None:
    """Raise `InputError` if a plain farmer may be running some of the tasks."""
    if not old.has_queue:
        return
    known = {task.taskid for task in old.known} | old.claimed
    lost = [taskid for taskid in range(old.total) if taskid not in known]
    if lost:
        named = ", ".join(map(str, lost[:MOST_IDS_NAMED]))
        more = ", …" if len(lost) > MOST_IDS_NAMED else ""
        raise InputError(
            f"{len(lost)} of the old list's tasks ({named}{more}) are in no file of "
            f"{paths.root}: a PyTaskFarmer is running them, or was killed and has lost "
            f"them; when none is at work here, remove {paths.toprocess} and give the "
            "same command again: all that has not finished then runs"
        )


# ---- what is to be ------------------------------------------------------------------


def match_texts(known: Mapping[OldTask, int], tasks: Sequence[str]) -> Moved:
    """The k-th old task of a text is the k-th new one of that text."""
    first, following = _chain_equal_texts(tasks)
    states = bytearray(len(tasks))
    places: dict[int, int] = {}
    recorded: dict[int, int] = {}
    unclear: set[int] = set()
    gone = 0
    for task in _without_torn(sorted(known)):
        taskid, text = task
        state = known[task]
        place = first.get(text, -1)
        if place < 0:
            gone += state == FINISHED
            continue
        first[text] = following[place]
        states[place] = state
        if taskid in places:
            # The list was edited before, and a plain farmer went on with it.
            unclear.add(taskid)
        places[taskid] = place
        if state != QUEUED:
            recorded[taskid] = place
    for taskid in unclear:
        del places[taskid]
        recorded.pop(taskid, None)
    return Moved(states, places, recorded, gone)


def _chain_equal_texts(tasks: Sequence[str]) -> tuple[dict[str, int], list[int]]:
    """The first id of each text, and for each id the next one of the same text."""
    first: dict[str, int] = {}
    following = [-1] * len(tasks)
    for taskid in range(len(tasks) - 1, -1, -1):
        text = tasks[taskid]
        following[taskid] = first.get(text, -1)
        first[text] = taskid
    return first, following


def _without_torn(ordered: Sequence[OldTask]) -> Iterator[OldTask]:
    """Leave out what is the beginning of another line of the same id.

    Among sorted texts the next one begins so if any does.
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
    """What the user is told."""
    finished, failed = moved.states.count(FINISHED), moved.states.count(FAILED)
    run = moved.states.count(QUEUED)
    sentence = (
        f"--remap: of {_group(len(moved.states))} lines now, {_group(finished)} were "
        f"finished before, {_group(failed)} failed, {_group(run)} run"
    )
    if moved.gone:
        which = (
            "1 that had finished is"
            if moved.gone == 1
            else (f"{_group(moved.gone)} that had finished are")
        )
        sentence += f"; {which} not in the list any more"
    return sentence


def _group(number: int) -> str:
    return f"{number:,}".replace(",", " ")


# ---- writing it beside --------------------------------------------------------------


def prepare(paths: WorkdirPaths, old: Old, moved: Moved, tasks: Sequence[str]) -> None:
    """Write the directory that says what is to be; its last rename decides."""
    beside = f"{paths.remap}.new"
    packs = _encode_packs(paths, moved)
    for directory in ("", "/new", "/logs", "/claims"):
        _make(beside + directory)
    for name in _KEPT:
        _write(f"{beside}/{name}", files.find_content(f"{paths.root}/{name}"))
    for name, content in _encode_new(paths, moved, tasks).items():
        _write(f"{beside}/new/{name}", content, like=f"{paths.root}/{name}")
    _write_packs(paths, beside, packs)
    numbers = _find_logs(paths)
    staying = {each for each, place in moved.recorded.items() if each == place}
    aside = [number for number in numbers if number not in staying]
    moves = [(each, moved.recorded[each]) for each in aside if each in moved.recorded]
    _write(f"{beside}/aside.json", json.dumps(aside).encode())
    plan = {
        "moves": moves,
        "claims": old.claims,
        "packs": list(packs),
        "found": describe(moved),
    }
    _write(f"{beside}/plan.json", json.dumps(plan).encode())
    files.rename(beside, paths.remap)


def _make(directory: str) -> None:
    try:
        files.make_directory(directory)
    except OSError as error:
        raise files.storage_error("create", directory, error) from error


def _write(path: str, content: bytes | None, *, like: str | None = None) -> None:
    """The whole file; nothing, where it is None (a killed start may have left one)."""
    if content is None:
        files.remove(path)
    else:
        files.write_beside(path, (content,), like=like)


def _encode_new(
    paths: WorkdirPaths, moved: Moved, tasks: Sequence[str]
) -> dict[str, bytes | None]:
    attempts = files.find_content(paths.attempts)
    ids: tuple[list[int], list[int], list[int]] = ([], [], [])
    for taskid, state in enumerate(moved.states):
        ids[state].append(taskid)
    return {
        "finished": encode_lines(ids[FINISHED], tasks),
        "failed": encode_lines(ids[FAILED], tasks),
        "toprocess": encode_lines(ids[QUEUED], tasks),
        "attempts.tsv": None if attempts is None else _renumber(attempts, moved.places),
        "fingerprint.json": encode_fingerprint(take_fingerprint(tasks)),
    }


def _encode_packs(paths: WorkdirPaths, moved: Moved) -> dict[str, bytes]:
    """By their names in the logs' directory, the indexes and slots under new ids.

    What they tell of stays where it is, also that of tasks that are gone.
    """
    packs = {}
    for source in find_record_files(paths.logs):
        content = files.find_content(f"{paths.logs}/{source}") or b""
        encode = renumber if source.endswith(".index") else renumber_slots
        packs[source] = encode(content, moved.recorded)
    return packs


def _write_packs(paths: WorkdirPaths, beside: str, packs: Mapping[str, bytes]) -> None:
    for directory in {os.path.dirname(name) for name in packs}:
        _make(f"{beside}/logs/{directory}")
    for name, content in packs.items():
        path = f"{paths.logs}/{name}"
        _write(f"{beside}/logs/{name}", files.find_content(path))
        _write(_new_pack(beside, name), content, like=path)


def _new_pack(directory: str, name: str) -> str:
    return f"{directory}/new/{name.replace('/', '-')}"


def _renumber(attempts: bytes, places: Mapping[int, int]) -> bytes:
    """The rows of the tasks that are still there, under their new ids."""
    header, *rows = attempts.splitlines(keepends=True) or [b""]
    kept = [header]
    for row in rows:
        taskid, tab, rest = row.partition(b"\t")
        place = places.get(int(taskid)) if tab and taskid.isdigit() else None
        if place is not None:
            kept.append(b"%d\t%s" % (place, rest))
    return b"".join(kept)


def _find_logs(paths: WorkdirPaths) -> list[int]:
    """The ids that have a log."""
    try:
        names = set(os.listdir(paths.logs))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise files.storage_error("read", paths.logs, error) from error
    numbers = [name.removeprefix("log_") for name in names if name.startswith("log_")]
    known = (int(each) for each in numbers if each.isascii() and each.isdigit())
    return sorted(number for number in known if f"log_{number}" in names)


# ---- putting it in place ------------------------------------------------------------


def carry_out(paths: WorkdirPaths, now: float) -> str:
    """Do what that directory says, as far as it is not done."""
    plan = json.loads(files.find_content(f"{paths.remap}/plan.json") or b"")
    aside = WorkdirPaths(paths.remap)
    _set_logs_aside(paths, aside)
    for number, place in plan["moves"]:
        _rename_if_there(aside.log(number), paths.log(place))
    for name in plan.get("packs", ()):
        _rename_if_there(_new_pack(paths.remap, name), f"{paths.logs}/{name}")
    for farm in plan["claims"]:
        _rename_if_there(paths.claim(farm), aside.claim(farm))
        for path, _, _ in find_leftovers(paths, farm):
            files.remove(path)
    files.remove(paths.added)
    for name in _NEW:
        _rename_if_there(f"{paths.remap}/new/{name}", f"{paths.root}/{name}")
    kept = _find_free_name(paths, now)
    files.rename(paths.remap, kept)
    with suppress(OSError):
        os.rmdir(f"{kept}/new")
    return f"{plan['found']}; what was is kept in {kept}"


def _set_logs_aside(paths: WorkdirPaths, aside: WorkdirPaths) -> None:
    """All logs whose id means another task now.

    Only while the list of them is there: afterwards a log of that name is a new one.
    """
    listed = f"{aside.root}/aside.json"
    content = files.find_content(listed)
    if content is None:
        return
    for number in json.loads(content):
        _rename_if_there(paths.log(number), aside.log(number))
    files.remove(listed)


def _rename_if_there(source: str, target: str) -> None:
    if files.exists(source):
        files.rename(source, target)


def _find_free_name(paths: WorkdirPaths, now: float) -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    name = f"{paths.root}/before-remap-{stamp}"
    number = 1
    while os.path.lexists(name):
        number += 1
        name = f"{paths.root}/before-remap-{stamp}-{number}"
    return name
