"""The tasks of a view that a user asks for.

Rules of this file: of the last attempts only the columns that are asked for are looked
at.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache, partial
from itertools import chain, compress
from math import inf, isfinite
from operator import neg
from typing import Final, NamedTuple

from mpifarm.audit.view import State, View, is_of
from mpifarm.store.attempts import (
    NO_OUTCOME,
    Column,
    LastAttempts,
    has_run,
    parse_seconds,
)


class Conditions(NamedTuple):
    """The conditions of the wanted tasks; None means no such condition."""

    states: frozenset[State] | None = None
    host: str | None = None
    """A host's name, with or without its domain, or a pattern as ``node0*``."""
    longer_than: float | None = None
    """Seconds."""
    statuses: frozenset[int] | None = None
    """As in a shell's ``$?``."""
    slowest: int | None = None
    """So many of those that have taken longest, the longest first."""

    @property
    def need_attempts(self) -> bool:
        """Whether only attempts tell which tasks are wanted."""
        return any(each is not None for each in self[1:])


class Selection(NamedTuple):
    """The wanted tasks, and their last attempts as far as these were read."""

    taskids: list[int]
    attempts: LastAttempts


_ALL: Final = frozenset(State)


def select(
    view: View, wanted: Conditions, now: float, *, with_attempts: bool
) -> Selection:
    """Return the wanted tasks, by their ids or, with `slowest`, by their times.

    `with_attempts`: the caller wants to know the last attempts.  `now` is in seconds
    since the epoch.  Raises `StorageError`.
    """
    states = wanted.states or _ALL
    if not wanted.need_attempts:
        taskids = view.ids_in(*states)
        known = _read_attempts(view, states) if with_attempts else LastAttempts({})
        return Selection(taskids, known)
    attempts = _read_attempts(view, states)
    matcher = _Matcher(view, attempts, wanted, now)
    found = chain.from_iterable(map(matcher.find, states))
    if wanted.slowest is None:
        wanted_ids = chain.from_iterable(each.taskids for each in found)
        return Selection(sorted(wanted_ids), attempts)
    return Selection(_find_slowest(found, wanted.slowest), attempts)


def _read_attempts(view: View, states: frozenset[State]) -> LastAttempts:
    """Read the last attempts of the tasks in these states, or of all tasks.

    To leave some out takes longer than to keep them, unless they are most.
    """
    count = sum(view.counts[state] for state in states)
    return view.read_attempts(None if count > view.total // 4 else view.ids_in(*states))


class _Found(NamedTuple):
    """Some wanted tasks, and how long each took, if a condition needs that."""

    taskids: Sequence[int]
    seconds: Sequence[float]


def _find_slowest(found: Iterable[_Found], count: int) -> list[int]:
    """Return the tasks that took longest, the first of those that took equally long."""
    pairs = (zip(each.seconds, map(neg, each.taskids), strict=True) for each in found)
    slowest = heapq.nlargest(count, chain.from_iterable(pairs))
    return [-negative for _, negative in slowest]


class _Matcher:
    def __init__(
        self, view: View, attempts: LastAttempts, wanted: Conditions, now: float
    ) -> None:
        self._view = view
        self._attempts = attempts
        self._wanted = wanted
        self._now = now
        statuses = wanted.statuses
        self._statuses = None if statuses is None else {b"%d" % n for n in statuses}
        self._needs_time = not (wanted.longer_than is None and wanted.slowest is None)

    def find(self, state: State) -> Iterator[_Found]:
        """Yield the wanted tasks in a state, some at a time."""
        taskids = self._view.ids_in(state)
        if state is State.RUNNING:
            yield self._find_running(taskids)
            return
        is_wanted = cache(partial(self._is_wanted, state))
        for block, columns in self._attempts.blocks(taskids):
            # Most attempts ended as others, on the same host.
            flags = [
                *map(
                    is_wanted,
                    columns[Column.OUTCOME],
                    columns[Column.STATUS],
                    columns[Column.HOST],
                )
            ]
            self._judge_plain(block, flags, is_wanted)
            found = [*compress(block, flags)]
            if self._needs_time:
                yield self._choose(found, [*compress(columns[Column.SECONDS], flags)])
            else:
                yield _Found(found, ())

    def _judge_plain(
        self,
        taskids: Sequence[int],
        flags: list[bool],
        is_wanted: Callable[[bytes, bytes, bytes], bool],
    ) -> None:
        """Set the flags of tasks that plain farmers ran; nobody knows how long."""
        plain = self._view.plain
        for place, taskid in enumerate(taskids) if plain else ():
            if taskid in plain:
                last = plain[taskid]
                status = b"" if last.status is None else b"%d" % last.status
                fields = last.outcome.encode(), status, last.host.encode()
                flags[place] = not self._needs_time and is_wanted(*fields)

    def _find_running(self, taskids: list[int]) -> _Found:
        places = [self._view.running[taskid] for taskid in taskids]
        seconds = [self._now - place.started for place in places]
        least = self._wanted.longer_than or 0.0
        flags = [
            self._statuses is None and took >= least and self._is_wanted_host(host)
            for took, host in zip(seconds, (each.host for each in places), strict=True)
        ]
        return _Found([*compress(taskids, flags)], [*compress(seconds, flags)])

    def _is_wanted(
        self, state: State, outcome: bytes, status: bytes, host: bytes
    ) -> bool:
        """Return whether an attempt fulfils all conditions but that of its time.

        It must explain the state of its task (see `view.is_of`), and have run.
        """
        is_explained = outcome != NO_OUTCOME and is_of(state, outcome)
        if not is_explained or (state is State.FAILED and not has_run(outcome, host)):
            return False
        if self._statuses is not None and status not in self._statuses:
            return False
        return self._is_wanted_host(host.decode("utf-8", "replace"))

    def _is_wanted_host(self, host: str) -> bool:
        wanted = self._wanted.host
        names = (host, host.partition(".")[0])
        return wanted is None or any(fnmatchcase(each, wanted) for each in names)

    def _choose(self, taskids: Sequence[int], fields: Sequence[bytes]) -> _Found:
        """Return those of some tasks that took long enough, by their fields."""
        try:
            seconds = [*map(float, fields)]
        except ValueError:
            seconds = [inf]
        if not all(map(isfinite, seconds)):
            return self._choose(*_without_odd(taskids, fields))
        least = self._wanted.longer_than
        if least is None:
            return _Found(taskids, seconds)
        flags = [each >= least for each in seconds]
        return _Found([*compress(taskids, flags)], [*compress(seconds, flags)])


def _without_odd(
    taskids: Sequence[int], fields: Sequence[bytes]
) -> tuple[list[int], list[bytes]]:
    """Return the tasks whose fields are numbers, and these fields."""
    flags = [_is_number(each) for each in fields]
    return [*compress(taskids, flags)], [*compress(fields, flags)]


def _is_number(field: bytes) -> bool:
    try:
        parse_seconds(field)
    except ValueError:
        return False
    return True
