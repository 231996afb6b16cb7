"""``timeline.json``: one JSON array of Chrome trace events, as PyTaskFarmer writes it.

Rules of this file: it only composes and parses; `timeline_file` writes.  `tracks` has
the processes and threads of the events.  Each event begins with its category, and has
``name``, ``ph`` and ``ts``: by these a damaged array is known.  No surrogate is
escaped: Perfetto refuses the whole file for one, even in a pair.

The array is valid JSON whenever the lock is free.  It is appended to in place, over its
final ``]``: each piece ends in ``]`` again, and stays within one page of the file,
since the kernel copies page by page and a kill comes between two pages.  Only a piece
of a single event crosses into the next page.  A kill at that moment, or a power cut,
leaves an array without its end, which the next start mends.
"""

import json
import re
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii
from typing import Final, NamedTuple

from mpifarm.model.task import Outcome
from mpifarm.store.types import Recorded

PAGE = 4096
SEPARATOR = b",\n"
EMPTY = b"[]"
_TAIL = 65536
MAX_IN_VAIN = 1 << 24
"""Characters outside of events after which `salvage` gives up; each takes 10 ns."""
COST_OF_NESTING = 1 << 13
"""The time to find a value nested too deeply, in characters of `MAX_IN_VAIN`."""


COLOURS: Final = {
    Outcome.FAILED: "terrible",
    Outcome.TIMED_OUT: "bad",
    Outcome.OUT_OF_MEMORY: "black",
    Outcome.LOST: "grey",
    Outcome.INTERRUPTED: "yellow",
    Outcome.CANCELLED: "olive",
    Outcome.NOT_RUN: "white",
}
"""Names of colours of the Trace Event Format: red, orange, ...  An attempt that
completed has none: viewers choose its colour by its name."""


class Kind(NamedTuple):
    """The parts of an event that follow from the outcome of its attempt."""

    head: str
    """Up to the value of ``name``."""
    end: str
    """Behind ``dur``, up to the value of the first argument."""
    outcome: str
    """The argument ``outcome``, with the next key."""


def _kind_of(outcome: Outcome) -> Kind:
    colour = COLOURS.get(outcome)
    categories = f"task,{outcome.value}" if colour else "task"
    cname = f', "cname": "{colour}"' if colour else ""
    return Kind(
        f'{{"cat": "{categories}", "name": ',
        f', "ph": "X"{cname}, "args": {{"taskid": ',
        f', "outcome": "{outcome.value}", "status": ',
    )


_KINDS: Final = {outcome: _kind_of(outcome) for outcome in Outcome}
_COMPLETED: Final = _KINDS[Outcome.COMPLETED]


class Track(NamedTuple):
    """The row of a worker in a viewer, encoded for its events.

    `place` has ``pid`` and ``tid``, `host` is a JSON string.
    """

    place: str
    host: str


class ArrayEnd(NamedTuple):
    """The offset of the final ``]`` in bytes; `empty`: no event is before it."""

    offset: int
    empty: bool


_ESCAPES: Final = re.compile(
    r"\\(?:(ud[89ab][0-9a-f]{2})\\ud[c-f][0-9a-f]{2}|(ud[89a-f][0-9a-f]{2})|.)",
    re.IGNORECASE,
)
"""The escapes of JSON strings; the groups are a surrogate of a pair, and any other."""


def _show(escape: re.Match[str]) -> str:
    of_pair, alone = escape.groups()
    if of_pair:
        return str(json.loads(f'"{escape[0]}"'))
    return "\\ufffd" if alone else escape[0]


def show_surrogates(encoded: str) -> str:
    """Return encoded JSON with each escaped pair of surrogates as its character.

    A surrogate alone stands for a byte that is not UTF-8, and becomes U+FFFD.
    """
    # Each event comes here; one character is found ten times as fast as three.
    if "\\" not in encoded or ("\\ud" not in encoded and "\\uD" not in encoded):
        return encoded
    return _ESCAPES.sub(_show, encoded)


def encode_json(value: object) -> str:
    """Return the value as JSON that Perfetto reads."""
    return show_surrogates(json.dumps(value))


def encode_event(text: str, track: Track, recorded: Recorded) -> bytes:
    """Return the event of an attempt; ``ts`` and ``dur`` are µs.

    `text` is that of the task.  The argument ``status`` is as ``$?`` in a shell.
    """
    result = recorded.result
    outcome, status = result.outcome, result.status
    # An enum is hashed by Python code.
    kind = _COMPLETED if outcome is Outcome.COMPLETED else _KINDS[outcome]
    signal = -status if status < 0 else 0
    name = show_surrogates(encode_basestring_ascii(text))
    return (
        f"{kind.head}{name}, {track.place}, "
        f'"ts": {float(result.started) * 1e6!r}, '
        f'"dur": {float(result.seconds) * 1e6!r}{kind.end}'
        f'{recorded.taskid}, "attempt": {result.attempt}{kind.outcome}'
        f'{128 + signal if signal else status}, "signal": {signal}, '
        f'"host": {track.host}}}}}'
    ).encode()


_STRING: Final = r'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+"'
_INTEGER: Final = r"(?:0|[1-9][0-9]{0,17}+)"
_NUMBER: Final = rf"{_INTEGER}(?:\.[0-9]{{1,18}}+)?+(?:e[+-]?[0-9]{{1,3}}+)?+"
_PID: Final = r"(?:0|[1-9][0-9]{0,8}+)"

match_attempt = re.compile(
    rf'\{{"cat": "task[a-z, ]*+", "name": {_STRING},'
    rf' ("pid": {_PID}, "tid": {_PID},)'
    rf' "ts": {_NUMBER}, "dur": {_NUMBER}, "ph": "X"(?:, "cname": "[a-z]*+")?+,'
    rf' "args": \{{"taskid": {_INTEGER}, "attempt": {_INTEGER},'
    rf' "outcome": "[a-z ]*+", "status": {_INTEGER}, "signal": {_INTEGER},'
    rf' "host": ({_STRING})\}}\}}'
).match
"""Match an event as `encode_event` makes it, of which all is valid JSON.

The groups are ``pid`` and ``tid`` with the comma behind them, and the host.
"""


def encode_name(kind: str, place: str, arguments: dict[str, object]) -> bytes:
    """Return a metadata event, such as ``process_name``; `place` is as in `Track`."""
    # With a time, which the format does not ask for, but `salvage` does.
    return (
        f'{{"cat": "__metadata", "name": "{kind}", {place}, "ts": 0, "ph": "M", '
        f'"args": {encode_json(arguments)}}}'
    ).encode()


def encode_counter(place: str, now: float, values: dict[str, int]) -> bytes:
    """Return an event with the numbers of tasks at the time `now`, in seconds."""
    return (
        f'{{"cat": "count", "name": "tasks", {place}, "ts": {now * 1e6!r}, "ph": "C", '
        f'"args": {json.dumps(values)}}}'
    ).encode("ascii")


def find_end(tail: bytes, offset: int) -> ArrayEnd | None:
    """Return the end of the array; `tail` is the end of the file from `offset` on.

    Return None if the file does not end as an array of events does.
    """
    content = tail.rstrip()
    before = content[:-1].rstrip()
    if content[-1:] != b"]" or before[-1:] not in (b"}", b"["):
        return None
    return ArrayEnd(offset + len(content) - 1, before[-1:] == b"[")


def cut_pieces(end: ArrayEnd, events: Sequence[bytes]) -> list[bytes]:
    """Return the writes that append the events, each over the last ``]`` before it.

    A write stays within a page of the file, unless its single event is too long.
    """
    pieces: list[bytes] = []
    piece = bytearray()
    offset, first = end.offset, end.empty
    for event in events:
        addition = event if first else SEPARATOR + event
        room = PAGE - offset % PAGE
        if piece and len(piece) + len(addition) + 1 > room:
            pieces.append(bytes(piece) + b"]")
            offset += len(piece)
            piece.clear()
        piece += addition
        first = False
        if len(piece) + 1 > PAGE - offset % PAGE:
            pieces.append(bytes(piece) + b"]")
            offset += len(piece)
            piece.clear()
    if piece:
        pieces.append(bytes(piece) + b"]")
    return pieces


def is_part(left: bytes, pieces: Sequence[bytes]) -> bool:
    """Return whether a file may end in `left` if the writes `pieces` failed.

    The writes may have come to any byte, with a ``]`` before or behind that byte, and a
    ``]`` may have been put back over their beginning.
    """
    whole = b"".join(piece[:-1] for piece in pieces) + b"]"
    return left[:1] in (whole[:1], b"]") and (
        whole[1:].startswith(left[1:])
        or (left.endswith(b"]") and whole[1:].startswith(left[1:-1]))
    )


def ends_well(content: bytes) -> bool:
    """Return whether an array is whole, by its beginning and its last event alone."""
    start = content.rfind(b'{"cat"', max(0, len(content) - _TAIL))
    if not content.lstrip().startswith(b"[") or start < 0:
        return False
    try:
        json.loads(b"[" + content[start:])
    except (ValueError, RecursionError):
        return False
    return True


def is_valid(content: bytes) -> bool:
    """Return whether the content is one JSON array.

    A large array (a million events take seconds to parse, under the lock) is parsed
    only if its ends look wrong.
    """
    if len(content) > 1 << 20 and ends_well(content):
        return True
    try:
        return isinstance(json.loads(content), list)
    except (ValueError, RecursionError):
        return False


def salvage(content: bytes) -> list[bytes]:
    """Return the encoded events of a damaged array that are still whole.

    After `MAX_IN_VAIN` characters the search is given up: in a file that is not a
    timeline, nested brackets would be read again from each bracket on.
    """
    text = content.decode("utf-8", "replace")
    decoder = json.JSONDecoder()
    events = []
    in_vain = 0
    place = text.find("{")
    while place >= 0 and in_vain < MAX_IN_VAIN:
        try:
            event, after = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            event, after = None, place + 1
            # Such an error counts the lines before it, 32 characters as fast as one.
            in_vain += error.pos - place + error.pos // 32
        except (ValueError, RecursionError):
            event, after = None, place + 1
            in_vain += COST_OF_NESTING
        if isinstance(event, dict) and {"name", "ph", "ts"} <= event.keys():
            events.append(encode_json(event).encode())
        place = text.find("{", after)
    return events


def encode_timeline(events: Sequence[bytes]) -> bytes:
    """Return the content of a whole ``timeline.json`` with encoded `events`."""
    return b"[" + SEPARATOR.join(events) + b"]"
