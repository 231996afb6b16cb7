"""Old lines of ``requests`` and ``answers``, which are dropped while farms live.

Rules of this file: the lock is held.  A request goes only when it is old and no farm
has it yet to do: each that was asked has answered, or has no claim any more, under
whichever rank.  Its answers go with it, and not before: a rank that takes over does
what is not answered.
"""

from collections.abc import Collection, Iterator
from contextlib import suppress

from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths, copy_staging_of
from mpifarm.store.membership import FAMILY
from mpifarm.store.requests import (
    DamagedLineError,
    find_time,
    parse_answer,
    parse_request,
)
from mpifarm.system import files

MAX_BYTES = 1 << 20
"""The size of ``requests`` up to which nothing is dropped."""

KEPT_SECONDS = 3600.0
"""Seconds for which a request and its answers stay: somebody may wait for them."""

_LINE_BYTES = 1 << 16
"""A longer first request counts as old: then all are looked at."""


def drop_old_requests(paths: WorkdirPaths, now: float) -> None:
    """Drop requests that are old and done, and their answers, if there are many.

    A disk that fails leaves the files as they are, and so do files of another user: who
    could write to them before might not any more.
    """
    with suppress(StorageError):
        if files.find_size(paths.requests) > MAX_BYTES and _may_be_old(paths, now):
            _drop(paths, now)


def _may_be_old(paths: WorkdirPaths, now: float) -> bool:
    """Return whether the first request, than which none is older, is old or damaged."""
    line = files.find_start(paths.requests, _LINE_BYTES).partition(b"\n")[0]
    return find_time(line) <= now - KEPT_SECONDS


def _drop(paths: WorkdirPaths, now: float) -> None:
    both = paths.requests, paths.answers
    if any(map(files.find_other_owner, both)):
        return
    requests, answers = (files.find_content(path) or b"" for path in both)
    families = {name[:FAMILY] for name in files.find_names(paths.claims)}
    kept = select_needed(requests, answers, families, now)
    # The requests first: without its answers, a request would be done once more.
    for path, before, content in zip(both, (requests, answers), kept, strict=True):
        if len(content) < len(before):
            files.replace(path, copy_staging_of(path), content)


def select_needed(
    requests: bytes, answers: bytes, families: Collection[str], now: float
) -> tuple[bytes, bytes]:
    """Return the lines of both files that are needed, in their order.

    `families` are the farms that have claims, by the part of their names that stays
    when another rank leads.
    """
    answered = dict[str, set[str]]()
    times = dict[str, float]()
    of_answers = [*_answers_in(answers)]
    for name, farm, line in of_answers:
        answered.setdefault(name, set()).add(farm[:FAMILY])
        times[name] = max(times.get(name, 0.0), find_time(line))
    needed = dict[str, bytes]()
    for line in requests.splitlines(keepends=True):
        with suppress(DamagedLineError):
            request, farms = parse_request(line)
            open_ = {each[:FAMILY] for each in farms}.intersection(families)
            last = max(find_time(line), times.get(request.name, 0.0))
            is_open = not open_ <= answered.get(request.name, set())
            if is_open or last > now - KEPT_SECONDS:
                needed[request.name] = line
    left = [line for name, _, line in of_answers if name in needed]
    return b"".join(needed.values()), b"".join(left)


def _answers_in(content: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Yield the name of the request, the farm, and the line of each answer."""
    for line in content.splitlines(keepends=True):
        with suppress(DamagedLineError):
            answered = parse_answer(line)
            yield answered.answer.request, answered.farm, line
