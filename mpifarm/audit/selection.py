"""The tasks of a view that a user asks for.

Rules of this file: of the last attempts only the columns that are asked for are looked
at.
"""

import heapq
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from mpifarm.audit.view import State, View
from mpifarm.store.attempts import COMPLETED, Column, LastAttempts, is_not_run


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
    if not wanted.need_attempts:
        taskids = view.ids_in(*states)
        known = _read_attempts(view, states) if with_attempts else LastAttempts({})
        return Selection(taskids, known)
    attempts = _read_attempts(view, states)
    found = _Matcher(view, attempts, wanted, now).find(states)
    if wanted.slowest is None:
        return Selection(sorted(-negative for _, negative in found), attempts)
    slowest = heapq.nlargest(wanted.slowest, found)
    return Selection([-negative for _, negative in slowest], attempts)


def _read_attempts(view: View, states: frozenset[State]) -> LastAttempts:
    """Read the last attempts of the tasks in these states, or of all tasks.

    To leave some out takes longer than to keep them, unless they are most.
    """
    count = sum(view.counts[state] for state in states)
    return view.read_attempts(None if count > view.total // 4 else view.ids_in(*states))


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

    def find(self, states: frozenset[State]) -> Iterator[tuple[float, int]]:
        """Yield the seconds of each wanted task (0 if not asked for), and minus its id.

        So the greatest is the slowest, and the first of those that took equally long.
        """
        for state in states:
            taskids = self._view.ids_in(state)
            if state is State.RUNNING:
                yield from self._find_running(taskids)
            else:
                yield from self._find_ended(state, taskids)

    def _find_running(self, taskids: list[int]) -> Iterator[tuple[float, int]]:
        least = self._wanted.longer_than or 0.0
        for taskid in taskids:
            place = self._view.running[taskid]
            seconds = self._now - place.started
            is_there = self._is_wanted_host(place.host.encode())
            if self._statuses is None and seconds >= least and is_there:
                yield seconds, -taskid

    def _find_ended(
        self, state: State, taskids: list[int]
    ) -> Iterator[tuple[float, int]]:
        # A million tasks pass here, so each condition is looked up once only.
        wanted, statuses, least = self._wanted, self._statuses, self._wanted.longer_than
        needs_time = least is not None or wanted.slowest is not None
        needs_host = wanted.host is not None
        last = Column.SECONDS if needs_time else Column.HOST
        is_ended, is_finished = state in _ENDED, state is State.FINISHED
        is_failed = state is State.FAILED
        seconds = 0.0
        rows = self._attempts.rows(taskids, last)
        for taskid, fields in zip(taskids, rows, strict=True):
            if not fields:
                continue
            # See `view.is_of`.
            if is_ended and (fields[Column.OUTCOME] == COMPLETED) is not is_finished:
                continue
            if is_failed and is_not_run(fields[Column.OUTCOME]):
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
            yield seconds, -taskid

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
