"""Choice of the keeper of a worker's outputs, by the farm's ``--logs``.

Rules of this file: `output.packed` is imported only where it is needed.
"""

import os

from mpifarm.model.paths import log_path
from mpifarm.output.task_log import LogKeeper, LogPlace, append_own_line


def create_log_keeper(place: LogPlace, worker: int) -> LogKeeper:
    """Return the keeper of a worker's outputs, by the kind that the farm keeps."""
    if place.kind == "all":
        return LogKeeper(place.directory)
    from mpifarm.output.packed import FailedKeeper, PackedKeeper

    if place.kind == "packed":
        return PackedKeeper(place, worker)
    return FailedKeeper(place, worker)


def note_in_log(place: LogPlace, worker: int, task: int, text: str) -> None:
    """Append a line of mpifarm's to the output of a task whose worker has died.

    With ``--logs packed`` or ``failed`` the line goes into the scratch of the worker,
    or without one into ``log_<id>``.  Nothing is written where a log cannot be opened.
    Raises OSError for a write that fails.
    """
    path = log_path(place.directory, task)
    if place.kind == "all":
        append_own_line(path, text)
        return
    from mpifarm.output.packed import find_scratch_of

    scratch = find_scratch_of(place, worker, task)
    if scratch is None or not append_own_line(scratch, text):
        append_own_line(path, text, os.O_CREAT)
