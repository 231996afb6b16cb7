"""The texts of a long list in one piece of memory.

Rules of this file: pure.
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final, overload

from mpifarm.model.task import encode_text

MARKS: Final = b"\0$&\\<\xef"
"""Bytes for which a text is checked: NUL, those with a meaning to a shell, and the
first of a byte order mark."""

_BLOCK: Final = 1000
"""Texts that are decoded at once."""


class PackedTexts(Sequence[str]):
    """The texts of a long list in one piece of memory, with 8 bytes more for each.

    A text becomes a str only when it is asked for.
    """

    def __init__(self) -> None:
        self._content = bytearray()
        """All texts, each followed by a newline."""
        self._ends = array("Q", [0])
        """After a 0, for each text the length of all texts up to its end, without the
        newlines."""
        self.version: tuple[int, ...] | None = None
        """The version of the list's file (`tasklists.version_of`)."""
        self._parts: list[tuple[int, bytes]] = []
        """For texts that were added together, the first id and the `MARKS` in them."""
        self.remarks: list[tuple[int, str]] = []
        """Comments in the list's file that mean something to another program: the
        numbers and texts of the first `tasklists.MAX_REMARKS` lines."""

    def extend(self, texts: Sequence[str]) -> None:
        """Append texts without line breaks, and note the `MARKS` in them."""
        self.extend_encoded([encode_text(text) for text in texts])

    def extend_encoded(self, texts: Sequence[bytes]) -> None:
        """Append encoded texts without line breaks, and note the `MARKS` in them."""
        encoded = b"\n".join([*texts, b""])
        # Now, while the texts are in the processor's cache: later it takes twice as
        # long.
        marks = bytes(mark for mark in MARKS if mark in encoded)
        self._parts.append((len(self), marks))
        ends = accumulate(map(len, texts), initial=self._ends[-1])
        next(ends)
        self._content += encoded
        self._ends.extend(ends)

    def cut(self, count: int) -> None:
        """Keep the first `count` texts alone."""
        del self._content[self._ends[count] + count :]
        del self._ends[count + 1 :]
        while self._parts and self._parts[-1][0] >= count:
            self._parts.pop()

    def copy_from(self, begin: int) -> "PackedTexts":
        """Return the texts from `begin` on as a list of their own."""
        copy = PackedTexts()
        if begin < len(self):
            texts = bytes(self.encoded_texts(begin, len(self)))
            copy.extend_encoded(texts.split(b"\n")[:-1])
        return copy

    def has_mark(self, mark: bytes) -> bool:
        """Return whether a text of the last `extend` has `mark`, one of `MARKS`."""
        return bool(self._parts) and mark in self._parts[-1][1]

    def has_any(self, marks: bytes) -> bool:
        """Return whether any text has one of these `MARKS`."""
        return any(mark in found for _, found in self._parts for mark in marks)

    def blocks_with(self, mark: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield first id and encoded texts of each part that has `mark` in it.

        A part is the texts of one `extend`, each text followed by a newline.
        """
        ends = [begin for begin, _ in self._parts[1:]] + [len(self)]
        for (begin, marks), end in zip(self._parts, ends, strict=True):
            if mark in marks:
                yield begin, bytes(self.encoded_texts(begin, end))

    def encoded_text(self, taskid: int) -> bytearray:
        """Return an encoded text; `taskid` must not be negative.

        Raises `IndexError` for an id beyond the list.
        """
        end = self._ends[taskid + 1] + taskid
        return self._content[self._ends[taskid] + taskid : end]

    def encoded_texts(self, begin: int, end: int) -> memoryview:
        """Return the encoded texts of the ids from `begin` to `end` - 1, with newlines.

        The memory is the list's own: it cannot grow while the result lives.
        """
        place = self._ends[begin] + begin
        return memoryview(self._content)[place : self._ends[end] + end]

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, taskid: int, /) -> str: ...

    @overload
    def __getitem__(self, taskid: slice, /) -> Sequence[str]: ...

    def __getitem__(self, taskid: int | slice, /) -> str | Sequence[str]:
        if isinstance(taskid, slice):
            taskids = range(*taskid.indices(len(self)))
            if taskids.step == 1 and taskids:
                return self._decode(taskids.start, taskids.stop)
            return [self[each] for each in taskids]
        if taskid < 0:
            taskid += len(self)
            if taskid < 0:
                raise IndexError("there is no such task")
        # Without `encoded_text` and `decode_text`: this is done thrice for each task.
        ends = self._ends
        text = self._content[ends[taskid] + taskid : ends[taskid + 1] + taskid]
        return text.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), _BLOCK):
            yield from self._decode(begin, min(begin + _BLOCK, len(self)))

    def _decode(self, begin: int, end: int) -> list[str]:
        block = self.encoded_texts(begin, end)
        return str(block, "utf-8", "surrogateescape").split("\n")[:-1]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(ours == theirs for ours, theirs in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, others: list[str]) -> list[str]:
        """Return a list of all texts and `others`, for handlers of users."""
        return [*self, *others]
