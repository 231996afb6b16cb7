"""The lines at the end of a log, and which of them tells the cause.

Rules of this file: pure; the cost for a log is bounded by its last `MAX_LINES` lines.
What is known of a line is kept for all lines that differ in digits alone: so most lines
of most logs cost one look-up.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from mpifarm.causes.failure import TAIL
from mpifarm.causes.folding import Tokens, find_label_end, fold, strip_frame
from mpifarm.causes.known import KnownCause, Weight
from mpifarm.causes.words import find_exception, weigh

MAX_LINES = 120
"""Lines that are looked at."""
NEAR = 12
"""Lines before the last complaint among which a better one is its cause."""
MAX_LINE = 400
"""Letters of a line that are looked at."""
MAX_KNOWN_LINES = 50_000
"""Lines that are remembered."""

_DIGITS = b"0123456789"
_ESCAPES = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[()][0-9A-Za-z]|.?)"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")
_OWN = b"=== mpifarm: "
_AGAIN = b"=== mpifarm: started again, "
_INDENT = (b" ", b"\t")
_FRAME_LINE = re.compile(rb"\s+File \".*\", line \d+")
_STACK_ROW = re.compile(
    rb"(?:\S+ ERROR: )?\s*(?:\[ ?\d+\] |#\d+:? |at |@ )\S+(?:\(| in |\[0x|$)"
)
"""A row of a stack trace of Java, Julia, gdb, Open MPI or JavaScript."""
_TITLE = "terminate called after throwing"
"""C++ says in the next line what was thrown."""
_HEADER_WORDS = "Traceback (most recent call last)"
_CHAINED = (b"During handling of the above", b"The above exception was")


# Names of their own: a member of an enum takes four times as long to find.
_NOTHING, _END, _CRASH, _CAUSE = (
    *(Weight.NOTHING, Weight.END, Weight.CRASH),
    Weight.CAUSE,
)


class Line:
    """What is known of a line, as far as its digits do not matter."""

    __slots__ = (
        *("cause", "exception", "is_frame", "is_header", "is_indented", "is_loud"),
        *("text", "tokens", "weight"),
    )

    def __init__(
        self,
        weight: Weight = _NOTHING,
        cause: KnownCause | None = None,
        *,
        is_indented: bool = False,
        is_frame: bool = False,
        is_header: bool = False,
    ) -> None:
        self.weight = weight
        self.cause = cause
        self.is_indented = is_indented
        self.is_frame = is_frame
        """Whether it names a place in a Python traceback."""
        self.is_header = is_header
        """Whether a Python traceback begins here."""
        self.is_loud = weight > _NOTHING or is_frame or is_header
        """Whether it is more than a line like others."""
        self.text = ""
        """One such line, if it is a message by itself."""
        self.tokens: Tokens | None = None
        self.exception = ""
        """The class of the exception, if the tokens are known."""


_EMPTY = Line()
"""A line without text, and mpifarm's own."""
_PLAIN = Line()
_INDENTED = Line(is_indented=True)
_FRAME = Line(is_indented=True, is_frame=True)
_HEADER = Line(is_header=True)


def read_line(raw: bytes) -> Line:
    """Return what is known of a line."""
    raw = raw[:MAX_LINE]
    if not raw or raw.isspace() or raw.startswith(_OWN):
        return _EMPTY
    is_indented = raw[:1] in _INDENT
    if not is_indented:
        raw = raw[find_label_end(raw) :]
        is_indented = raw[:1] in _INDENT
    if is_indented and _FRAME_LINE.match(raw):
        return _FRAME
    text = decode_line(raw)
    if _HEADER_WORDS in text:
        return _HEADER
    text = strip_frame(text)
    weight, cause = weigh(text)
    if not weight or _STACK_ROW.match(raw):
        return _INDENTED if is_indented else _PLAIN
    line = Line(weight, cause, is_indented=is_indented)
    line.text = "" if is_title(text) else text
    return line


def is_title(text: str) -> bool:
    """Return whether the message is in the next line."""
    return text.endswith(":") or text.startswith(_TITLE)


def clean_tail(tail: bytes) -> bytes:
    """Return the last lines of a log, of the last attempt, without escape sequences."""
    if len(tail) > TAIL:
        tail = tail[-TAIL:]
        tail = tail[tail.find(b"\n") + 1 :]  # a part of a line
    if _AGAIN in tail:
        tail = tail[tail.rfind(_AGAIN) :]
    if b"\x1b" in tail:
        tail = _ESCAPES.sub(b"", tail)
    if b"\r" in tail:
        tail = tail.replace(b"\r", b"\n")
    return tail


def decode_line(line: bytes) -> str:
    """Return a line as text, without control characters."""
    text = line[:MAX_LINE].decode("utf-8", "replace")
    return text if text.isprintable() else _CONTROLS.sub("", text)


def read_text(raw: bytes) -> str:
    """Return a line without labels and frames."""
    return strip_frame(decode_line(raw[find_label_end(raw) :]))


def last_lines(tail: bytes, most: int = 8) -> tuple[str, ...]:
    """Return the last lines with text, for the user."""
    lines = [decode_line(line).rstrip() for line in clean_tail(tail).split(b"\n")]
    return tuple([line for line in lines if line.strip()][-most:])


def last_printed(tail: bytes) -> str:
    """Return the last line with text that is not mpifarm's own, "" if there is none."""
    own = _OWN.decode()
    lines = reversed(last_lines(tail, 3))
    return next((line for line in lines if not line.startswith(own)), "")


class Telling:
    """The line of a log that tells the cause."""

    __slots__ = ("_below", "_raw", "line", "weight")

    def __init__(
        self, line: Line, weight: Weight, raw: bytes, below: Sequence[bytes]
    ) -> None:
        self.line = line
        self.weight = weight
        self._raw = raw
        self._below = below
        """The lines that follow, the nearest last."""

    @property
    def text(self) -> str:
        """The line with its digits; with the next one if that is its message."""
        text = read_text(self._raw)
        if not is_title(text):
            return text
        # Another rank may say the title in between.
        below = (read_text(raw) for raw in self._below[:-6:-1])
        message = next((other for other in below if other not in {"", text}), "")
        return f"{text} {message}".rstrip()

    def is_among(self, lines: Sequence[str]) -> bool:
        """Return whether this line is one of those that `last_lines` has returned."""
        return decode_line(self._raw).rstrip() in lines

    @property
    def tokens(self) -> Tokens:
        """The line's folded words."""
        self._learn()
        assert self.line.tokens is not None
        return self.line.tokens

    @property
    def exception(self) -> str:
        """The class of the exception with which the line begins, if it does."""
        self._learn()
        return self.line.exception

    def _learn(self) -> None:
        """Fold the line, if that has not been done."""
        if self.line.tokens is not None:
            return
        text = self.line.text
        if not text:
            # Many plain lines share one object, and a title has its message elsewhere.
            self.line = Line(self.line.weight, self.line.cause)
            text = self.text
        self.line.exception, message = find_exception(text)
        self.line.tokens = fold(message)


def _is_same(raws: Sequence[bytes]) -> bool:
    """Return whether the last two lines differ in their labels alone."""
    one, other = raws[-1], raws[-2]
    rest = one[find_label_end(one) :]
    # To look for the other's labels takes long, and most lines end in another way.
    return other.endswith(rest) and other[find_label_end(other) :] == rest


class LineReader:
    """Finds the telling line of each log; remembers lines."""

    def __init__(self) -> None:
        self._known: dict[bytes, Line] = {}

    def find_telling(self, tail: bytes, most: int = MAX_LINES) -> Telling | None:
        """Return the line that tells the cause, else the last one; None if none.

        The last `most` lines with text are looked at.
        """
        if len(self._known) > MAX_KNOWN_LINES:
            self._known.clear()
        return _Search(self._known, clean_tail(tail)).run(most)


class _Search:
    """The walk through one log, from its end to its begin."""

    def __init__(self, known: dict[bytes, Line], tail: bytes) -> None:
        self._known = known
        self._tail = tail
        self._end = len(tail)
        """The end of what has not been looked at."""
        self._raws: list[bytes] = []
        """What has been looked at, the last line first."""
        self._best: Line | None = None
        self._best_at = 0
        self._weight = _NOTHING
        self._passed = 0
        """Lines since the best."""
        self._outer: Line | None = None
        self._outer_at = 0
        """The nearest line below that is not indented."""
        self._in_traceback = False

    def run(self, most: int) -> Telling | None:
        """Return the telling line."""
        for line in islice(self._walk(), most):
            if line.is_loud or self._best is None:
                if self._meets(line):
                    break
            else:
                self._passed += 1
                if self._passed > NEAR and self._is_sure():
                    break
            if not line.is_indented:
                self._outer, self._outer_at = line, len(self._raws) - 1
        if self._best is None:
            return None
        at = self._best_at
        return Telling(self._best, self._weight, self._raws[at], self._raws[:at])

    def _walk(self) -> Iterator[Line]:
        """Yield the lines with text, the last one first."""
        tail, raws, known = self._tail, self._raws, self._known
        below: bytes | None = None
        while self._end >= 0:
            begin = tail.rfind(b"\n", 0, self._end) + 1
            raw = tail[begin : self._end]
            self._end = begin - 1
            raws.append(raw)
            key = raw.translate(None, _DIGITS)
            if key == below and _is_same(raws):
                continue  # ranks that say the same, one below the other, say it once
            line = known.get(key)
            if line is None:
                line = read_line(raw)
                if len(key) <= MAX_LINE:
                    known[key] = line
            if line is not _EMPTY:
                below = key
                yield line

    def _is_sure(self) -> bool:
        """Return whether the best line is far enough from what is above."""
        return self._weight >= _END and not self._in_traceback

    def _meets(self, line: Line) -> bool:
        """Weigh a line.  Return whether no line above can tell more."""
        self._passed += 1
        if line.is_frame:
            self._take_exception()
        elif line.is_header:
            return not self._is_chained()
        elif not self._in_traceback and (
            self._best is None or line.weight > self._weight or self._goes_on(line)
        ):
            self._take(line, len(self._raws) - 1, line.weight)
        return self._weight is _CAUSE

    def _goes_on(self, line: Line) -> bool:
        """Return whether the best line only goes on with the complaint of this one."""
        if line.weight < _END or line.weight != self._weight or self._passed > 1:
            return False
        above, below = self._raws[-1], self._raws[self._best_at]
        speaker = above.translate(None, _DIGITS).partition(b": ")[0]
        return below.translate(None, _DIGITS).startswith(speaker + b": ")

    def _take(self, line: Line, at: int, weight: Weight) -> None:
        self._best, self._best_at, self._weight = line, at, weight
        self._passed = 0

    def _take_exception(self) -> None:
        """Take the line below the places of a traceback, unless a better is known."""
        line, is_first = self._outer, not self._in_traceback
        self._in_traceback = True
        if line is None:
            return
        weight = max(line.weight, _CRASH)
        if weight > self._weight or (is_first and weight == self._weight):
            self._take(line, self._outer_at, weight)

    def _is_chained(self) -> bool:
        """Return whether the traceback that begins here follows from another."""
        above = self._tail[: max(0, self._end)].rstrip().rpartition(b"\n")[2]
        return any(words in above for words in _CHAINED)
