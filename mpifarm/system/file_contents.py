"""Contents of files: whole ones in memory, large ones read in parts.

Rules of this file: it only reads.  Bytes that are not there any more raise
`ChangedError`; the caller then reads the file again.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple
from weakref import finalize

from mpifarm.errors import StorageError
from mpifarm.system.files import Block, opened, read_descriptor, storage_error
from mpifarm.system.regular_files import open_regular

LARGE = 8 * 1024 * 1024
"""Size in bytes above which a file is read in parts: a whole one takes too much memory,
and to read it again under the lock takes too long."""

BLOCK = 1 << 18
"""Bytes of a large file that are read or copied at once."""


class Version(NamedTuple):
    """The facts that tell one state of a file from another; times in ns."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


def find_version(path: str) -> Version | None:
    """Return the version of a file, None if there is none; raises `StorageError`."""
    # NFS asks its server for the state of a file that is opened, and of no other.
    try:
        with opened(path, os.O_RDONLY) as descriptor:
            return version_of(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error("read", path, error) from error


def version_of(descriptor: int) -> Version:
    """Return the version of an open file; raises OSError."""
    status = os.fstat(descriptor)
    return Version(
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


class KeptFile:
    """A file that is kept open: as long as it is, no other file gets its inode.

    So a file that was replaced is known also where the one that was put in its place
    would have been given the inode of the old one.
    """

    def __init__(self, descriptor: int) -> None:
        """Keep an open file, which the caller may close; raises OSError."""
        self._descriptor = os.dup(descriptor)
        # Not at the exit: the system does it.
        finalize(self, _close, self._descriptor).atexit = False

    def has(self, version: Version) -> bool:
        """Return whether the file is the one that was found just now, with `version`.

        On NFS the inode proves nothing once another host has removed the file; then the
        other facts differ, or the server knows it no more.
        """
        try:
            return version_of(self._descriptor) == version
        except OSError:
            return False


def _close(descriptor: int) -> None:
    with suppress(OSError):  # it was only read
        os.close(descriptor)


class ChangedError(StorageError):
    """The error of a file that was changed while it was read."""


class LargeFile:
    """The content of an open file, read in the parts that are asked for.

    It has those methods of `bytes` that the composition of a queue needs.  A part that
    cannot be read raises `StorageError`, one that does not exist any more
    `ChangedError`.  The caller keeps `descriptor` open.
    """

    def __init__(self, descriptor: int, path: str, size: int) -> None:
        self.descriptor = descriptor
        self.path = path
        self._size = size
        self._kept: dict[int, bytes] = {}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        begin, end, _ = part.indices(self._size)
        if end - begin > BLOCK:
            return self._read(begin, end)
        found = b""
        while begin < end:
            number, offset = divmod(begin, _KEPT_BLOCK)
            piece = self._block(number)[offset : offset + end - begin]
            found += piece
            begin += len(piece)
        return found

    def find(self, mark: bytes, begin: int) -> int:
        """Return the first index of the byte `mark` from `begin` on, or -1."""
        while begin < self._size:
            number, offset = divmod(begin, _KEPT_BLOCK)
            found = self._block(number).find(mark, offset)
            if found >= 0:
                return number * _KEPT_BLOCK + found
            begin = (number + 1) * _KEPT_BLOCK
        return -1

    def rfind(self, mark: bytes, begin: int, end: int) -> int:
        """Return the last index of the byte `mark` between `begin` and `end`, or -1."""
        while end > begin:
            number = (end - 1) // _KEPT_BLOCK
            start = number * _KEPT_BLOCK
            found = self._block(number).rfind(mark, max(begin - start, 0), end - start)
            if found >= 0:
                return start + found
            end = start
        return -1

    def _block(self, number: int) -> bytes:
        """Return a block, read unless it is kept; keep it, and drop the oldest kept."""
        block = self._kept.get(number)
        if block is None:
            if len(self._kept) >= _MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            begin = number * _KEPT_BLOCK
            block = self._read(begin, min(begin + _KEPT_BLOCK, self._size))
            self._kept[number] = block
        return block

    def _read(self, begin: int, end: int) -> bytes:
        try:
            return _read_part(self.descriptor, begin, end)
        except _ShorterError as error:
            raise ChangedError(f"{self.path} {error.strerror}") from error
        except OSError as error:
            raise storage_error("read", self.path, error) from error


class _ShorterError(OSError):
    """A file that ends before the part that is to be read."""


_KEPT_BLOCK = 1 << 14
_MAX_KEPT = 256
"""Blocks that a `LargeFile` keeps: searches for many places in turn read mostly the
same blocks."""


def _read_part(descriptor: int, begin: int, end: int) -> bytes:
    """Read bytes; raise `_ShorterError` if the file ends before `end`, or OSError."""
    parts = []
    while begin < end:
        part = os.pread(descriptor, end - begin, begin)
        if not part:
            raise _ShorterError(errno.ESTALE, "got shorter while it was read")
        parts.append(part)
        begin += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


Content = bytes | LargeFile


class Part(NamedTuple):
    """A range of bytes of a large file, to be copied."""

    source: LargeFile
    begin: int
    end: int


Chunk = bytes | memoryview | Part


def part_of(content: Content, begin: int, end: int) -> Chunk:
    """Return the bytes from `begin` to `end`, to be written to another file."""
    if isinstance(content, bytes):
        return memoryview(content)[begin:end]
    return Part(content, begin, end)


def bytes_of(chunk: Chunk) -> bytes:
    """Return the bytes of a chunk; raises `StorageError`."""
    if isinstance(chunk, Part):
        return chunk.source[chunk.begin : chunk.end]
    return bytes(chunk)


def blocks_of(chunks: Iterable[Chunk]) -> Iterator[Block]:
    """Yield the bytes of all chunks, those of a `Part` in blocks of `BLOCK` bytes.

    Raises `OSError` if a part cannot be read or does not exist any more.
    """
    for chunk in chunks:
        if isinstance(chunk, Part):
            yield from _read_blocks(chunk)
        else:
            yield chunk


def _read_blocks(part: Part) -> Iterator[bytes]:
    source, begin, end = part
    while begin < end:
        block = _read_part(source.descriptor, begin, min(begin + BLOCK, end))
        yield block
        begin += len(block)


def length_of(chunk: Chunk) -> int:
    """Return the length of a chunk in bytes."""
    return chunk.end - chunk.begin if isinstance(chunk, Part) else len(chunk)


@contextmanager
def content_of(path: str) -> Iterator[tuple[Version | None, Content | None]]:
    """Give a file's version and content, or (None, None) if it does not exist.

    The content is in memory unless the file is large; then it holds for the ``with``
    block only.  Raises `StorageError`.
    """
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        yield None, None
        return
    except OSError as error:
        raise storage_error("read", path, error) from error
    try:
        yield _take_content(descriptor, path)
    finally:
        with suppress(OSError):  # Nothing was written that the close could lose.
            os.close(descriptor)


def _take_content(descriptor: int, path: str) -> tuple[Version, Content]:
    """Return version and content of an open file; raises `StorageError`."""
    try:
        version = version_of(descriptor)
        if version.size > LARGE:
            return version, LargeFile(descriptor, path, version.size)
        return version, read_descriptor(descriptor, 0)
    except OSError as error:
        raise storage_error("read", path, error) from error


class FileState(NamedTuple):
    """The state of a file at one moment under the lock.

    `content` is None if the file is large.
    """

    path: str
    version: Version
    content: bytes | None

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.version.size if self.content is None else len(self.content)

    def blocks(self, *, appended: bool) -> Iterator[bytes]:
        """Yield the content of that moment block by block, without the lock.

        `appended`: the file is only ever appended to, and may have grown since.  Raises
        `ChangedError` if the file has changed otherwise, which may show after the last
        block; raises `StorageError` if it cannot be read.
        """
        if self.content is not None:
            yield self.content
            return
        with content_of(self.path) as (version, content):
            if version is None or version[:2] != self.version[:2]:
                raise ChangedError(f"{self.path} was replaced while it was read")
            if content is None or len(content) < self.size:
                raise ChangedError(f"{self.path} got shorter while it was read")
            for begin in range(0, self.size, BLOCK):
                yield content[begin : min(begin + BLOCK, self.size)]
            if not appended and find_version(self.path) != self.version:
                raise ChangedError(f"{self.path} was changed while it was read")


def find_state(path: str, *, whole: bool = False) -> FileState | None:
    """Return the present state of a file, None if it does not exist.

    `whole`: with the content even of a large file.  Raises `StorageError`.
    """
    with content_of(path) as (version, content):
        if version is None or content is None:
            return None
        if isinstance(content, bytes) or whole:
            return FileState(path, version, content[:])
        return FileState(path, version, None)


def find_last_line(path: str) -> bytes:
    """Return the last line of a file with its newline, if any; b"" if it has no line.

    Raises `StorageError`.
    """
    with content_of(path) as (_, content):
        if not content:
            return b""
        return content[content.rfind(b"\n", 0, len(content) - 1) + 1 :]
