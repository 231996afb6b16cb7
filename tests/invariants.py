"""What must hold of a workdir whenever its lock is free, judged by its files alone.

Rules of this file: one function, used by tests and by the command line; it reads, and
changes nothing.  The caller holds the lock (or knows that nobody is at work).
"""

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.status_lines import AlienLine, ParsedStatus, parse_status
from mpifarm.system import files
from tests.workdir_files import WorkdirFiles


def find_violations(
    path: str, tasks: Sequence[str], in_hand: Collection[int] | None = None
) -> list[str]:
    """A sentence for each broken promise.

    `in_hand` are the ids that plain farmers are known to have; where it is given, an
    id that is nowhere is a violation (else nobody can know), and so is one of them
    that stands in ``toprocess`` or a claim as well.
    """
    paths = WorkdirPaths(os.path.abspath(path))
    return list(_find_all(paths, tasks, in_hand))


def _find_all(
    paths: WorkdirPaths, tasks: Sequence[str], in_hand: Collection[int] | None
) -> Iterator[str]:
    finished = _read(paths.finished, tasks)
    failed = set(_read(paths.failed, tasks))
    yield from _find_alien_lines(paths, tasks)
    yield from _name(
        [taskid for taskid, count in Counter(finished).items() if count > 1],
        "is in finished more than once",
    )
    queued = _read_queued(paths, tasks)
    claimed = WorkdirFiles(paths.root).held()
    places = Counter(set(queued) - set(finished))
    for ids in claimed.values():
        places.update(ids - set(finished))
    yield from _name(
        [taskid for taskid, count in places.items() if count > 1],
        "is in toprocess and a claim, or in two claims",
    )
    yield from _name(
        [t for t in places if t >= len(tasks)], "is claimed, and not in the tasklist"
    )
    if in_hand is not None:
        yield from _name(set(in_hand) & places.keys(), "is with two farmers")
        known = {*finished, *failed, *places, *in_hand}
        yield from _name(set(range(len(tasks))) - known, "is lost: in no file")
    yield from _find_timeline_faults(paths)


def _name(taskids: Collection[int], what: str) -> Iterator[str]:
    for taskid in sorted(taskids):
        yield f"task {taskid} {what}"


def _read(path: str, tasks: Sequence[str]) -> Collection[int]:
    return _parse(path, tasks).ids


def _parse(path: str, tasks: Sequence[str]) -> ParsedStatus:
    content = files.find_content(path) or b""
    return parse_status(content, tasks, list_is_same=True)


def _read_queued(paths: WorkdirPaths, tasks: Sequence[str]) -> Collection[int]:
    if not files.exists(paths.toprocess):
        claimed = set().union(*WorkdirFiles(paths.root).held().values())
        return [taskid for taskid in range(len(tasks)) if taskid not in claimed]
    queues = (paths.toprocess, paths.waiting)
    return [taskid for path in queues for taskid in _parse(path, tasks).ids]


def _find_alien_lines(paths: WorkdirPaths, tasks: Sequence[str]) -> Iterator[str]:
    for path in (paths.toprocess, paths.finished, paths.failed):
        for odd in _parse(path, tasks).ended().odd:
            if isinstance(odd.found, AlienLine):
                yield f"a line of {path} is not of this tasklist: {odd.line!r:.80}"


def _find_timeline_faults(paths: WorkdirPaths) -> Iterator[str]:
    content = files.find_content(paths.timeline)
    if content is None:
        return
    try:
        valid = isinstance(json.loads(content), list)
    except (ValueError, RecursionError):
        valid = False
    if not valid:
        yield f"{paths.timeline} is not a JSON array"
