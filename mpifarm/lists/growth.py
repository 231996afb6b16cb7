"""The watch over a tasklist whose farm runs: lines that are added at its end.

Rules of this file: a list is read a part at a time, and nothing waits.  Only lines that
end in a newline count.  What is new is offered only after the known lines in front of
it were found to be the same: by their hash, or else text by text.  A list that is
shorter, gone or different is looked at again for some seconds before that is said: an
editor, or a script, may be writing it anew.  Of a list with a line that is wrong, what
stands in front of that line is offered.
"""

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import NamedTuple, Protocol

from mpifarm.model.packed_texts import PackedTexts
from mpifarm.model.wording import counted
from mpifarm.order.constraints import Constraints
from mpifarm.system.regular_files import open_regular
from mpifarm.tasklists import ListReader, ListTaskList, TasklistFileError, version_of

LOOK_SECONDS = 1.0
"""Seconds between two looks at the list."""

MAX_SHARE = 0.1
"""Share of rank 0's time that looks may take: a list that is appended to all the time
is read again, from its beginning, at each look."""

ODD_SECONDS = 5.0
"""Seconds for which a list is odd before that is said."""

PART = 1 << 21
"""Bytes that are read in one step, which takes some 20 ms."""

Version = tuple[int, ...]


class OpenList(Protocol):
    """An open file with a list; the methods raise OSError."""

    def version(self) -> Version | None:
        """Return a value that changes with the file; device and inode come first."""

    def read(self, begin: int, length: int) -> bytes:
        """Return the bytes from `begin` on, none behind the file's end."""

    def close(self) -> None:
        """Close the file."""


class ListFile:
    """The open file at `path`; raises OSError."""

    def __init__(self, path: str) -> None:
        # Opened anew for each look: NFS answers a plain stat from its cache.
        self._fd = open_regular(path, os.O_RDONLY, follow=True)

    def version(self) -> Version | None:
        """Return a value that changes with the file."""
        return version_of(self._fd)

    def read(self, begin: int, length: int) -> bytes:
        """Return the bytes from `begin` on, none behind the file's end."""
        return os.pread(self._fd, length, begin)

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # Nothing was written.
            os.close(self._fd)


class Oddity(Enum):
    """Why nothing of a list is taken up."""

    EDITED = "edited"
    GONE = "gone"
    WRONG = "wrong"
    """A line was added that can't be taken up."""
    OTHER = "other"
    """Another farm has taken up other lines."""


class Odd(NamedTuple):
    """A list of which nothing is taken up, and its fault in words, if there are any.

    `place` names the line that is wrong; "" if no line is to blame.
    """

    why: Oddity
    fault: str = ""
    place: str = ""


def explain_odd(path: str, odd: Odd, known: int) -> str:
    """Return the sentence about a list that is odd while its farm runs.

    `known` is the number of its tasks that the farm knows.
    """
    match odd.why:
        case Oddity.EDITED:
            what = f"{path} was edited, and not only added to, while the farm runs"
        case Oddity.GONE:
            what = f"{path} can't be read any more ({odd.fault})"
        case Oddity.WRONG:
            return (
                f"WARNING: {odd.fault}; until then, neither this line nor what follows"
                " it in the list is taken up"
            )
        case _:
            what = f"another farm knows other lines at the end of {path}"
    return (
        f"WARNING: {what}: the farm goes on with the {counted(known)} that it knows,"
        " and takes no others up unless the list begins with these again"
    )


class Mark(NamedTuple):
    """A place in the file, behind a newline, and the hash of all before it."""

    end: int
    digest: bytes


class ListWatch:
    """The watch over the file of one list, of which the farm knows `tasks`.

    The texts of `tasks` are read here, and grow elsewhere.
    """

    def __init__(
        self,
        tasks: ListTaskList,
        now: float,
        open_list: Callable[[str], OpenList] = ListFile,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        assert isinstance(tasks.tasks, PackedTexts)
        self.path = tasks.path
        self.look_at = now + LOOK_SECONDS
        """When `look` is due: in the past while a look is under way."""
        self.looks = 0
        """How many looks have come to an answer."""
        self.odd: Odd | None = None
        """The list's oddity, once it is to be said."""
        self.fresh = ListReader(self.path)
        """What was added, from `begin` on in its texts."""
        self.begin = 0
        self._known: PackedTexts = tasks.tasks
        self._constraints = tasks.constraints
        self._open = open_list
        self._timer = timer
        self._cost = 0.0
        self._mark: Mark | None = None
        """The place up to which all was read into `fresh`, or is known."""
        self._seen = tasks.tasks.version
        """The version of the file that was looked at last."""
        self._found: Odd | None = None
        """The oddity of that version."""
        self._odd_since = 0.0
        self._scan: _Scan | None = None

    @property
    def count(self) -> int:
        """How many tasks may be taken up: the lines in front of them are the same."""
        if self._scan is not None or (self._found is not None and not self.wrong):
            return 0
        return len(self.fresh.texts) - self.begin

    @property
    def wrong(self) -> Odd | None:
        """The line that can't be taken up, found by the last look; None without one."""
        found = self._found
        return found if found is not None and found.why is Oddity.WRONG else None

    @property
    def is_reading(self) -> bool:
        """Whether a look is under way."""
        return self._scan is not None

    def note_taken(self, count: int) -> None:
        """Forget tasks that were added: the farm knows them now."""
        self.begin += count
        if self.begin == len(self.fresh.texts):
            self.fresh.texts, self.begin = PackedTexts(), 0

    def note_refused(self, now: float) -> None:
        """Note that nothing was taken up, because another farm knows other lines."""
        self._note_odd(Odd(Oddity.OTHER), now)

    def look_soon(self) -> None:
        """Look as soon as possible."""
        self.look_at = float("-inf")

    def look(self, now: float) -> None:
        """Look at the list if that is due: one step, after which more may be due."""
        if now < self.look_at:
            return
        begun = self._timer()
        try:
            is_done = self._step(now)
        except _OddListError as error:
            is_done = self._note_odd(error.odd, now)
        except TasklistFileError as error:
            self.fresh, self.begin = ListReader(self.path), 0
            is_done = self._note_odd(_describe_wrong(error), now)
        except OSError as error:
            fault = error.strerror or str(error)
            self._seen = None  # it may come back as it was
            is_done = self._note_odd(Odd(Oddity.GONE, fault), now)
        self._cost += self._timer() - begun
        self.looks += is_done
        if self._scan is None:
            self.look_at = now + max(LOOK_SECONDS, self._cost / MAX_SHARE)
            self._cost = 0.0

    def _step(self, now: float) -> bool:
        """Begin a look, or go on with it.  Return whether it has come to an answer."""
        scan = self._scan
        if scan is None:
            opened = self._open(self.path)
            version = opened.version()
            if version == self._seen:
                opened.close()
                return self._found is None or self._note_odd(self._found, now)
            self._seen = version
            known = self._known, self._constraints
            self._scan = scan = _Scan(opened, self.path, *known, self.fresh, self._mark)
        if not scan.step():
            return False
        self._check_replaced(scan.end)
        if scan.reader is not self.fresh:
            self.fresh, self.begin = scan.reader, 0
        if scan.wrong is not None:
            return self._note_odd(_describe_wrong(scan.wrong), now)
        self._mark = scan.mark
        self._found = self.odd = None
        self._close()
        return True

    def _check_replaced(self, end: int) -> None:
        """Raise if the file has another inode, or was cut, while it was read."""
        now = self._open(self.path)
        try:
            version = now.version()
            is_same = version and self._seen and version[:2] == self._seen[:2]
            if not is_same or (end and not now.read(end - 1, 1)):
                self._seen = None
                raise _OddListError(Odd(Oddity.EDITED))
        finally:
            now.close()

    def _note_odd(self, odd: Odd, now: float) -> bool:
        """Note an oddity.  Return whether it has lasted, so that it is to be said."""
        self._close()
        # What was read of this version may stand in `fresh` by half.
        self._mark = None
        if self._found is None:
            self._odd_since = now
        self._found = odd
        if now - self._odd_since < ODD_SECONDS:
            return False
        self.odd = odd
        return True

    def _close(self) -> None:
        if self._scan is not None:
            self._scan.close()
            self._scan = None


def _describe_wrong(error: TasklistFileError) -> Odd:
    return Odd(Oddity.WRONG, str(error), error.place)


class _OddListError(Exception):
    """The error of a list that is not as the farm knows it."""

    def __init__(self, odd: Odd) -> None:
        super().__init__(odd.why)
        self.odd = odd


class _Scan:
    """The reading of one version of a list.

    With a `mark`, its hash is compared, and `fresh` read on; without, or if the hash
    differs, the list is read from its beginning and compared with `known`.  If a line
    is wrong, the list is read once more, up to that line.
    """

    def __init__(
        self,
        opened: OpenList,
        path: str,
        known: PackedTexts,
        constraints: Constraints,
        fresh: ListReader,
        mark: Mark | None,
    ) -> None:
        self.reader = fresh
        self.mark: Mark | None = None
        """The place up to which all was read, None if `known` goes beyond it."""
        self.end = 0
        """The bytes that were read so far, all of them whole lines."""
        self.wrong: TasklistFileError | None = None
        """The fault of the line up to which the list is read; None without one."""
        self._file = opened
        self._path = path
        self._known = known
        self._constraints = constraints
        self._digest = hashlib.blake2b(digest_size=16)
        self._compared = 0
        """The number of known texts that were found to be the same."""
        self._expected = mark
        if mark is None:
            self._begin_again()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def step(self) -> bool:
        """Read a part.  Return whether that was the last one.

        Raises TasklistFileError for a wrong line among the known ones.
        """
        if self._expected is not None:
            self._check_hash(self._expected)
            return False
        lines, rest = self._read_lines()
        if self.wrong is not None:
            lines, rest = self._cut_at_wrong(lines, self.wrong), b""
        if not lines:
            self._end(rest)
            return True
        try:
            self.reader.take(lines)
        except TasklistFileError as error:
            if self.wrong is not None or not error.number:
                raise
            self.wrong = error
            self._begin_again()
            return False
        self.end += len(lines)
        self._digest.update(lines)
        if self._compared < len(self._known):
            self._compare()
        return False

    def _check_hash(self, expected: Mark) -> None:
        """Hash one part of the known lines; read all anew if the hash differs."""
        part = self._file.read(self.end, min(PART, expected.end - self.end))
        self.end += len(part)
        self._digest.update(part)
        if part and self.end < expected.end:
            return
        self._expected = None
        if self.end < expected.end or self._digest.digest() != expected.digest:
            self._begin_again()
        else:
            self._compared = len(self._known)

    def _begin_again(self) -> None:
        """Read the list from its beginning, with another reader."""
        self.reader, self.end, self._compared = ListReader(self._path), 0, 0
        self._digest = hashlib.blake2b(digest_size=16)
        if not self._known:
            self._compare_constraints()

    def _read_lines(self) -> tuple[bytes, bytes]:
        """Return the next whole lines; without any, b"" and what is at the end."""
        content = b""
        while part := self._file.read(self.end + len(content), PART):
            cut = part.rfind(b"\n") + 1
            if cut:
                return content + part[:cut], b""
            content += part
        return b"", content

    def _cut_at_wrong(self, lines: bytes, wrong: TasklistFileError) -> bytes:
        """Return the lines in front of the wrong one; b"" if there are no more.

        Raises TasklistFileError if known tasks stand behind it.
        """
        left = wrong.number - 1 - self.reader.lines
        # Lone CRs end lines, too: then the wrong one is found again, and told.
        rest = lines.split(b"\n", left)[-1] if lines.count(b"\n") > left else b""
        before = lines[: len(lines) - len(rest)]
        if not before and self._compared < len(self._known):
            raise wrong
        return before

    def _compare(self) -> None:
        """Compare the texts that were read with the known ones, and keep only others.

        Raises `_OddListError`.
        """
        texts, known, compared = self.reader.texts, self._known, self._compared
        count = min(len(texts), len(known) - compared)
        ours = known.encoded_texts(compared, compared + count)
        if texts.encoded_texts(0, count) != ours:
            raise _OddListError(Odd(Oddity.EDITED))
        self._compared += count
        self.reader.texts = texts.copy_from(count)
        if self._compared == len(known):
            self._compare_constraints()

    def _compare_constraints(self) -> None:
        """Compare what the known lines say of their order, and keep only the rest."""
        known = len(self._known)
        beyond = self.reader.constraints.cut(known)
        # What the farm has read of the next task's is in `beyond`, too.
        self._constraints.cut(known)
        if self.reader.constraints != self._constraints:
            raise _OddListError(Odd(Oddity.EDITED))
        self.reader.constraints = beyond

    def _end(self, rest: bytes) -> None:
        """Set the mark, at the file's end; `rest` is a last line without newline.

        Raises `_OddListError` if known texts are missing.
        """
        left = len(self._known) - self._compared
        if not left:
            self.mark = Mark(self.end, self._digest.digest())
            return
        # A start counts a last line without newline, and all lines that end in a CR.
        last = ListReader(self._path, self.reader.lines, self._compared)
        last.take(rest)
        ours = self._known.encoded_texts(self._compared, len(self._known))
        if len(last.texts) < left or last.texts.encoded_texts(0, left) != ours:
            raise _OddListError(Odd(Oddity.EDITED))
