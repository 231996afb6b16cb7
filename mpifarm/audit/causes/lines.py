"""The lines at the end of a log, and which of them tells the cause.

Rules of this file: pure; the cost for a log is bounded by its last `MAX_LINES` lines.
What is known of a line is kept for all lines that differ in digits alone: so most lines
of most logs cost one look-up.
"""

import re

from mpifarm.audit.causes.failure import TAIL
from mpifarm.audit.causes.folding import Tokens, find_label_end, fold
from mpifarm.audit.causes.known import KnownCause, Weight, may_tell, weigh

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
_HEADER_WORDS = "Traceback (most recent call last)"
_CHAINED = (b"During handling of the above", b"The above exception was")


class Line:
    """What is known of a line, as far as its digits do not matter."""

    __slots__ = ("cause", "is_frame", "is_header", "is_indented", "tokens", "weight")

    def __init__(
        self,
        weight: Weight = Weight.NOTHING,
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
        self.tokens: Tokens | None = None


_PLAIN = Line()
_INDENTED = Line(is_indented=True)
_FRAME = Line(is_indented=True, is_frame=True)
_HEADER = Line(is_header=True)


def read_line(raw: bytes) -> Line:
    """Return what is known of a line."""
    if not may_tell(raw[:MAX_LINE]):
        if raw[:1] not in _INDENT:
            raw = raw[find_label_end(raw) :]
        if raw[:1] not in _INDENT:
            return _PLAIN
        return _FRAME if _FRAME_LINE.match(raw) else _INDENTED
    raw = raw[find_label_end(raw) :]
    if _FRAME_LINE.match(raw):
        return _FRAME
    text = decode_line(raw)
    if _HEADER_WORDS in text:
        return _HEADER
    weight, cause = weigh(text.strip())
    return Line(weight, cause, is_indented=text[:1] in {" ", "\t"})


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
    return _CONTROLS.sub("", line[:MAX_LINE].decode("utf-8", "replace"))


def last_lines(tail: bytes, most: int = 8) -> tuple[str, ...]:
    """Return the last lines with text, for the user."""
    lines = [decode_line(line).rstrip() for line in clean_tail(tail).split(b"\n")]
    return tuple([line for line in lines if line.strip()][-most:])


class Telling:
    """The line of a log that tells the cause."""

    __slots__ = ("line", "raw", "weight")

    def __init__(self, line: Line, raw: bytes, weight: Weight) -> None:
        self.line = line
        self.raw = raw
        self.weight = weight

    @property
    def text(self) -> str:
        """The line with its digits, for the user."""
        return decode_line(self.raw[find_label_end(self.raw) :]).strip()

    @property
    def tokens(self) -> Tokens:
        """The line's folded words."""
        if self.line.weight is Weight.NOTHING:  # many lines share it
            return fold(self.text)
        if self.line.tokens is None:
            self.line.tokens = fold(self.text)
        return self.line.tokens


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
        self._keys = tail.translate(None, _DIGITS).split(b"\n")
        self._raws: list[bytes] = []
        self._best: Line | None = None
        self._best_at = 0
        self._weight = Weight.NOTHING
        self._outer: int | None = None
        """The nearest line below that is not indented."""
        self._in_traceback = False

    def run(self, most: int) -> Telling | None:
        """Return the telling line."""
        for at in range(len(self._keys) - 1, -1, -1):
            key = self._keys[at]
            if not key or key.isspace() or key.startswith(_OWN):
                continue
            line = self._known.get(key)
            if line is None:
                line = self._known[key] = read_line(self._raw(at))
            most -= 1
            if self._meets(line, at) or not most:
                break
        if self._best is None:
            return None
        return Telling(self._best, self._raw(self._best_at), self._weight)

    def _meets(self, line: Line, at: int) -> bool:
        """Weigh a line.  Return whether no line above can tell more."""
        if line.is_frame:
            self._take_exception()
        elif line.is_header:
            return not self._is_chained(at)
        elif not self._in_traceback and (
            self._best is None or line.weight > self._weight
        ):
            self._best, self._best_at, self._weight = line, at, line.weight
        if not line.is_indented:
            self._outer = at
        if self._weight is Weight.CAUSE:
            return True
        is_far = self._best_at - at > NEAR and self._weight >= Weight.END
        return is_far and not self._in_traceback

    def _take_exception(self) -> None:
        """Take the line below the places of a traceback, unless a better is known."""
        at, is_first = self._outer, not self._in_traceback
        self._in_traceback = True
        if at is None:
            return
        line = read_line(self._raw(at))
        weight = max(line.weight, Weight.CRASH)
        if weight > self._weight or (is_first and weight == self._weight):
            self._best, self._best_at, self._weight = line, at, weight

    def _is_chained(self, at: int) -> bool:
        above = [key for key in self._keys[max(0, at - 4) : at] if key.strip()]
        return bool(above) and any(words in above[-1] for words in _CHAINED)

    def _raw(self, at: int) -> bytes:
        if not self._raws:
            self._raws = self._tail.split(b"\n")
        return self._raws[at]
