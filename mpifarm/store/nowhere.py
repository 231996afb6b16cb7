"""Tasks in no file: a plain farmer has them, or was killed with them.

Rules of this file: a line counts by its id alone, for the list may have been edited.
"""

import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.fingerprint import parse_fingerprint
from mpifarm.system import files

MAX_ID: Final = 10**8
"""A larger id is not that of a task: a line of something else begins with it."""

_LEADING_ID: Final = rb"(?m)^(?:0|[1-9][0-9]{0,17})(?= )"


def describe_wait(paths: WorkdirPaths) -> str:
    """Return what is to be waited for while tasks are in no file.

    A task that nobody has any more never comes back: without ``toprocess`` it runs.
    """
    remove = shlex.join(["rm", paths.toprocess])
    return f"no PyTaskFarmer works there (if none does, first {remove})"


def read_nowhere(
    paths: WorkdirPaths, claimed: Collection[int], total: int = 0
) -> list[int]:
    """Return the tasks of a workdir's list that are in no file and not `claimed`.

    The list has `total` tasks, as far as that is known.  Raises `StorageError`.
    """
    queue = files.find_content(paths.toprocess)
    if queue is None:
        return []
    others = (paths.added, paths.waiting, paths.finished, paths.failed)
    contents = (queue, *map(files.find_content, others))
    fingerprint = files.find_content(paths.fingerprint)
    return find_nowhere(contents, fingerprint, claimed, total)


def find_nowhere(
    contents: Iterable[bytes | None],
    fingerprint: bytes | None,
    claimed: Collection[int],
    total: int = 0,
) -> list[int]:
    """Return the tasks that no file and no claim has, of the list as it began.

    `contents` are those of the status files, ``toprocess`` among them: without it, all
    tasks are still to be processed.
    """
    seen = {*claimed}
    for content in contents:
        seen.update(_find_ids(content or b""))
    stored = parse_fingerprint(fingerprint or b"")
    known = stored.total if stored else max(total, max(seen, default=-1) + 1)
    return [taskid for taskid in range(known) if taskid not in seen]


def _find_ids(content: bytes) -> Iterator[int]:
    """Yield the ids with which lines begin."""
    found = map(int, re.findall(_LEADING_ID, content))
    return (taskid for taskid in found if taskid < MAX_ID)
