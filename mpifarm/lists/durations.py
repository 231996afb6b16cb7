"""``--durations FILE``: what tasks are said to take, for the time left.

Rules of this file: a file is lines of a task's id and its seconds, or the
``attempts.tsv`` of a workdir that had the same list; the workdir itself will do, too.
"""

import os

from mpifarm.errors import InputError
from mpifarm.model.paths import WorkdirPaths

_HEADER = "taskid"


def read_durations(path: str) -> dict[int, float]:
    """Return the seconds of tasks by id; raise InputError that names a wrong line.

    Of the attempts of a task the last that completed counts.
    """
    if os.path.isdir(path):
        path = WorkdirPaths(path.rstrip("/")).attempts
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().split("\n")
    except OSError as error:
        raise InputError(
            f"can't read {path} (--durations): {error.strerror}"
        ) from error
    if lines[0].split("\t")[0] == _HEADER:
        return _read_attempts(path, lines)
    return _read_pairs(path, lines)


def _read_attempts(path: str, lines: list[str]) -> dict[int, float]:
    names = lines[0].split("\t")
    if not {"seconds", "outcome"} <= {*names}:
        raise InputError(
            f"{path} (--durations) has no columns seconds and outcome: name an "
            "attempts.tsv of this version, or a file of lines: task id, seconds"
        )
    seconds, outcome = names.index("seconds"), names.index("outcome")
    found = {}
    for line in lines[1:]:
        fields = line.split("\t")
        if len(fields) != len(names) or fields[outcome] != "completed":
            continue
        if pair := _parse_pair([fields[0], fields[seconds]]):  # else it is damaged
            found[pair[0]] = pair[1]
    return found


def _read_pairs(path: str, lines: list[str]) -> dict[int, float]:
    found = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        pair = _parse_pair(words)
        if pair is None:
            raise InputError(
                f"{path} line {number} (--durations) is not a task id and its seconds: "
                f"{line[:60]!r}"
            )
        found[pair[0]] = pair[1]
    return found


def _parse_pair(words: list[str]) -> tuple[int, float] | None:
    try:
        taskid, seconds = int(words[0]), float(words[1])
    except (ValueError, IndexError):
        return None
    is_right = len(words) == 2 and taskid >= 0 and 0 <= seconds < 1e12
    return (taskid, seconds) if is_right else None
