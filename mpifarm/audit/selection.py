"""The tasks of a view that a user asks for.

Rules of this file: of the last attempts only the columns that are asked for are looked
at.
"""

import heapq
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import partial
from typing import Final, NamedTuple

from mpifarm.audit.view import State, View
from mpifarm.store.attempts import COMPLETED, Column, LastAttempts


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
_ENDED: Final = (State.FINISHED, State.FAILED)


def select(
    view: View, wanted: Conditions, now: float, *, with_attempts: bool
) -> Selection:
    """Return the wanted tasks, by their ids or, with `slowest`, by their times.

    `with_attempts`: the caller wants to know the last attempts.  `now` is in seconds
    since the epoch.  Raises `StorageError`.
    """
    states = wanted.states or _ALL
    taskids = view.ids_in(*states)
    if not (with_attempts or wanted.need_attempts):
        return Selection(taskids, LastAttempts({}))
    are_all = len(taskids) > view.total // 4
    attempts = view.read_attempts(None if are_all else taskids)
    if wanted.need_attempts:
        matcher = _Matcher(view, attempts, wanted, now)
        if wanted.slowest is None:
            taskids = sorted(taskid for taskid, _ in matcher.find(states))
        else:
            found = matcher.find(states)
            taskids = [
                taskid
                for taskid, _ in heapq.nlargest(
                    wanted.slowest, found, key=lambda each: (each[1], -each[0])
                )
            ]
    return Selection(taskids, attempts)


class _Matcher:
    def __init__(
        self, view: View, attempts: LastAttempts, wanted: Conditions, now: float
    ) -> None:
        self._view = view
        self._attempts = attempts
        self._wanted = wanted
        self._now = now
        self._hosts: dict[bytes, bool] = {}
        """Whether each host that was met is wanted."""
        statuses = wanted.statuses
        self._statuses = None if statuses is None else {b"%d" % n for n in statuses}

    def find(self, states: frozenset[State]) -> Iterator[tuple[int, float]]:
        """Yield the ids of wanted tasks, and their seconds (0 if not asked for)."""
        for state in states:
            taskids = self._view.ids_in(state)
            if state is State.RUNNING:
                yield from self._find_running(taskids)
            else:
                yield from self._find_ended(state, taskids)

    def _find_running(self, taskids: list[int]) -> Iterator[tuple[int, float]]:
        least = self._wanted.longer_than or 0.0
        for taskid in taskids:
            place = self._view.running[taskid]
            seconds = self._now - place.started
            is_there = self._is_wanted_host(place.host.encode())
            if self._statuses is None and seconds >= least and is_there:
                yield taskid, seconds

    def _find_ended(
        self, state: State, taskids: list[int]
    ) -> Iterator[tuple[int, float]]:
        # A million tasks pass here, so each condition is looked up once only.
        wanted, statuses, least = self._wanted, self._statuses, self._wanted.longer_than
        needs_time = least is not None or wanted.slowest is not None
        needs_host = wanted.host is not None
        last = Column.SECONDS if needs_time else Column.HOST
        find = partial(self._attempts.fields, column=last)
        is_ended, is_finished = state in _ENDED, state is State.FINISHED
        seconds = 0.0
        for taskid in taskids:
            fields = find(taskid)
            if not fields:
                continue
            # See `view.is_of`.
            if is_ended and (fields[Column.OUTCOME] == COMPLETED) is not is_finished:
                continue
            if statuses is not None and fields[Column.STATUS] not in statuses:
                continue
            if needs_host and not self._is_wanted_host(fields[Column.HOST]):
                continue
            if needs_time:
                try:
                    seconds = float(fields[Column.SECONDS])
                except ValueError:
                    continue
                if least is not None and not seconds >= least:
                    continue
            yield taskid, seconds

    def _is_wanted_host(self, host: bytes) -> bool:
        if self._wanted.host is None:
            return True
        is_wanted = self._hosts.get(host)
        if is_wanted is None:
            name = host.decode("utf-8", "replace")
            names = (name, name.partition(".")[0])
            is_wanted = any(fnmatchcase(each, self._wanted.host) for each in names)
            self._hosts[host] = is_wanted
        return is_wanted
