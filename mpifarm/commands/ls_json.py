"""Tasks as JSON: what ``mpifarm ls --json`` prints.

Rules of this file: bytes of ``attempts.tsv`` in, JSON out, a column at a time, because
there may be a million tasks.  Numbers as mpifarm writes them go over as text, others
are parsed and encoded anew.  A task whose attempt is not shown is encoded alone.
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import compress, repeat
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from mpifarm.audit.selection import Selection
from mpifarm.audit.view import State, View, is_of
from mpifarm.commands.halves import make_in_halves
from mpifarm.model.task import decode_text
from mpifarm.store.attempts import (
    NO_OUTCOME,
    Attempt,
    Column,
    Columns,
    LastAttempts,
    has_run,
    parse_seconds,
    parse_time,
    unescape,
)

_OF_ATTEMPT: Final = Attempt._fields[1:-1]
"""The keys that are null where they are unknown: all but the task and its command."""
_UNKNOWN: Final = dict.fromkeys(_OF_ATTEMPT)

_CLAIMED: Final = (State.RUNNING, State.CLAIMED, State.ORPHANED)

_PLAIN: Final = bytes({*range(0x20, 0x7F)} - {*b'"\\'})
"""The characters that stand in a JSON string as they are."""

_BEGIN: Final = _OF_ATTEMPT[: Column.STARTED - 1]
_ROW: Final = "".join(
    [
        '{"id": %d, %b, ',
        '"started": %b%b, ',
        *(f'"{key}": %b, ' for key in _OF_ATTEMPT[Column.STARTED :]),
        '"claimed_by": null, "command": %b}',
    ]
).encode()
"""A task with an attempt; the second place has `_encode_begin`, those of the start
`_encode_times`."""


def format_json(view: View, selection: Selection, now: float) -> Iterator[bytes]:
    """Yield a JSON object, with one task a line."""
    head = {
        "workdir": view.target.workdir,
        "list": view.target.tasklist,
        "total": view.total,
        "counts": {state.value: count for state, count in view.counts.items()},
    }
    yield f'{json.dumps(head)[:-1]}, "tasks": ['.encode()
    objects = _Objects(view, selection.attempts, now)
    pieces = make_in_halves(objects.encode_all, selection.taskids)
    yield next(pieces, b"").removeprefix(b",")
    yield from pieces
    yield b"\n]}\n"


class _Objects:
    """Encodes tasks."""

    def __init__(self, view: View, attempts: LastAttempts, now: float) -> None:
        self._view = view
        self._attempts = attempts
        self._now = now

    def encode_all(self, taskids: Sequence[int]) -> Iterator[bytes]:
        """Yield the objects of tasks, each behind a comma and a newline."""
        for block in self._attempts.blocks(taskids):
            yield b",\n" + b",\n".join(self.encode(*block))

    def encode(self, taskids: Sequence[int], columns: Columns) -> list[bytes]:
        """Return the objects of some tasks; an odd line is no attempt."""
        try:
            return self._encode(taskids, columns)
        except ValueError:
            if len(taskids) == 1:
                columns = LastAttempts({}).columns(taskids)
                return self._encode(taskids, columns)
        half = len(taskids) // 2
        first = self.encode(taskids[:half], [each[:half] for each in columns])
        return first + self.encode(taskids[half:], [each[half:] for each in columns])

    def _encode(self, taskids: Sequence[int], columns: Columns) -> list[bytes]:
        states = [*self._view.states(taskids)]
        begins = map(_encode_begin, states, *columns[Column.ATTEMPT : Column.STARTED])
        are_shown = [*begins]
        if plain := self._view.plain:
            pairs = zip(taskids, are_shown, strict=True)
            are_shown = [b"" if taskid in plain else shown for taskid, shown in pairs]
        commands = self._encode_commands(taskids, columns[Column.COMMAND])
        everything: list[Sequence[Any]] = [
            *(taskids, are_shown, *columns[Column.STARTED : Column.COMMAND], commands)
        ]
        if all(are_shown):
            return _encode_rows(*everything)
        shown = [[*compress(each, are_shown)] for each in everything]
        rows = iter(_encode_rows(*shown))
        facts = zip(are_shown, taskids, states, commands, strict=True)
        return [
            next(rows) if is_shown else self._encode_other(taskid, state, command)
            for is_shown, taskid, state, command in facts
        ]

    def _encode_commands(
        self, taskids: Sequence[int], fields: Sequence[bytes]
    ) -> list[bytes]:
        """Return the commands, those that the list does not have by their attempts."""
        encoded = self._view.encoded_texts(taskids)
        if encoded and not b"".join(encoded).translate(None, _PLAIN):
            return (b'"%b"' % b'"\n"'.join(encoded)).split(b"\n")
        texts = self._view.texts(taskids)
        if not all(texts):
            pairs = zip(texts, fields, strict=True)
            texts = [text or decode_text(unescape(field)) for text, field in pairs]
        return "\n".join(map(encode_basestring_ascii, texts)).encode().split(b"\n")

    def _encode_other(self, taskid: int, state: State, command: bytes) -> bytes:
        """Return the object of a task whose attempt is not shown as it is."""
        is_known = taskid in self._attempts.lines or taskid in self._view.plain
        if state in _CLAIMED or is_known:
            known = _encode_keys(self._describe(taskid, state))
        else:
            known = _encode_unknown(state)
        return b'{"id": %d, %b, "command": %b}' % (taskid, known, command)

    def _describe(self, taskid: int, state: State) -> dict[str, Any]:
        """Return what is known of a task, but its id and its command."""
        attempt = self._attempts.find(taskid)
        found: dict[str, Any] = {"state": state.value, **_UNKNOWN}
        if state is State.RUNNING:
            place = self._view.running[taskid]
            known = place._asdict()
            found |= {name: known[name] for name in _OF_ATTEMPT if name in known}
            found["seconds"] = round(self._now - place.started, 3)
        elif last := self._view.plain.get(taskid):
            found |= {"attempt": last.attempt, "outcome": last.outcome or None}
            found |= {"status": last.status, "signal": last.signal, "host": last.host}
            if last.started:
                found["started"] = parse_time(last.started.encode())
        elif attempt and not has_run(attempt.outcome.encode(), attempt.host.encode()):
            if state is State.FAILED:
                found["outcome"] = attempt.outcome
        elif attempt and is_of(state, attempt.outcome.encode()):
            found.update(zip(_OF_ATTEMPT, attempt[1:], strict=False))
            found["host"] = attempt.host or None
        holder = self._view.holder(taskid) if state in _CLAIMED else None
        found["claimed_by"] = holder.farm if holder else None
        return found


def _encode_keys(found: dict[str, Any]) -> bytes:
    return json.dumps(found)[1:-1].encode()


@cache
def _encode_unknown(state: State) -> bytes:
    return _encode_keys({"state": state.value, **_UNKNOWN, "claimed_by": None})


@cache  # Most attempts ended as others, in the same worker.
def _encode_begin(state: State, *fields: bytes) -> bytes:
    """Return the keys up to the pid, b"" if the attempt is not shown as it is.

    Raises ValueError for odd fields.
    """
    attempt, outcome, status, signum, host, rank, worker, pid = fields
    is_known = outcome != NO_OUTCOME and has_run(outcome, host)
    if state in _CLAIMED or not is_known or not is_of(state, outcome):
        return b""
    values = (
        *(int(attempt), outcome.decode(), int(status), int(signum)),
        *(decode_text(host) or None, int(rank), int(worker) if worker else None),
        int(pid),
    )
    return _encode_keys({"state": state.value} | dict(zip(_BEGIN, values, strict=True)))


def _encode_rows(
    taskids: Sequence[int],
    begins: Sequence[bytes],
    started: Sequence[bytes],
    seconds: Sequence[bytes],
    *others: Sequence[bytes],
) -> list[bytes]:
    """Return the objects of tasks with attempts; raise ValueError for odd fields."""
    if not taskids:
        return []
    user, system, peak, size, farms, commands = others
    if b"" in seconds:
        raise ValueError("an attempt without its time")
    values = zip(
        taskids,
        begins,
        *_encode_times(started),
        *map(_encode_decimals, (seconds, user, system)),
        *map(_encode_integers, (peak, size)),
        map(_encode_farm, farms),
        commands,
        strict=True,
    )
    return [*map(_ROW.__mod__, values)]


# ---- fields -------------------------------------------------------------------------


@cache
def _encode_farm(field: bytes) -> bytes:
    return json.dumps(field.decode("ascii", "replace")).encode()


def _encode_times(fields: Sequence[bytes]) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Return times since the epoch as seconds and what follows them.

    Raises ValueError.
    """
    try:
        seconds = [*map(_encode_second, [each[:19] for each in fields])]
        return seconds, [*map(_encode_ms, [each[19:] for each in fields])]
    except ValueError:
        times = [json.dumps(parse_time(each)).encode() for each in fields]
        return times, [b""] * len(times)


@cache
def _encode_second(field: bytes) -> bytes:
    if not _is_second(field):
        raise ValueError("not as mpifarm writes it")
    return b"%d" % int(parse_time(field + b"Z"))


# Before 1970, a second and its ms are not the digits of their sum.
_is_second = re.compile(rb"(?:19[7-9]|2\d\d)\d-\d\d-\d\dT\d\d:\d\d:\d\d").fullmatch


@cache
def _encode_ms(field: bytes) -> bytes:
    if not _is_ms(field):
        raise ValueError("not as mpifarm writes it")
    return field[:2] + field[2:4].rstrip(b"0")


_is_ms = re.compile(rb"\.\d{3}Z").fullmatch


def _encode_decimals(fields: Sequence[bytes]) -> Sequence[bytes]:
    """Return decimals as Python encodes them, null for b""; raise ValueError."""
    text = b"\t%b\t" % b"\t".join(fields)
    if not _are_decimals(text):
        return [json.dumps(parse_seconds(f)).encode() if f else b"null" for f in fields]
    shortened = [*map(bytes.rstrip, fields, repeat(b"0"))]
    if not any(part in text for part in _OF_ODD_DECIMALS):
        return shortened
    return [
        each if each >= _LEAST and each[-1:] != b"." else _finish_decimal(each)
        for each in shortened
    ]


_are_decimals = re.compile(
    rb"\t(?:(?:(?:0|[1-9][0-9]{0,8}+)\.[0-9]{6}+)?\t)*+"
).fullmatch
_LEAST: Final = b"0.0001"
"""What is less, as bytes, is empty, 0, or a decimal that Python encodes as 1e-05."""
_OF_ODD_DECIMALS: Final = (b"\t\t", b".000000\t", b"\t0.0000")
"""What a decimal has between tabs that loses more than zeros at its end."""


def _finish_decimal(shortened: bytes) -> bytes:
    """Return an odd decimal that has no zeros at its end."""
    return repr(float(shortened)).encode() if shortened else b"null"


def _encode_integers(fields: Sequence[bytes]) -> Sequence[bytes]:
    """Return integers as Python encodes them, null for b""; raise ValueError."""
    text = b"\t%b\t" % b"\t".join(fields)
    if not _are_integers(text):
        return [b"%d" % int(each) if each else b"null" for each in fields]
    return [each or b"null" for each in fields] if b"\t\t" in text else fields


_are_integers = re.compile(rb"\t(?:(?:0|[1-9][0-9]{0,17}+)?\t)*+").fullmatch
