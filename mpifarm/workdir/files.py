"""How files of the workdir are written: appended to by whole lines, or replaced whole.

Rules of this file: every change that this package makes to the disk is made here, so
that a test can end the farm between any two of them.  What can't be done raises
`StorageError`, and leaves the file as it was, as far as the disk still lets us; who
writes it again later is told by the file what became of it.  The caller holds the lock.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from mpifarm.errors import StorageError

LARGE = 8 * 1024 * 1024
"""Bytes from which on a file is read in parts: it takes too much memory, and to read
it again takes too long for the lock."""

BLOCK = 1 << 18
"""Bytes of a large file that are read or copied at once."""


_REMEDIES = {
    errno.ENOSPC: "; make room, then give the same command again",
    errno.EDQUOT: "; make room, then give the same command again",
    errno.ENOENT: "; was the workdir moved or removed?",
    errno.ESTALE: "; was it removed or replaced on the file server?",
}
_NO_SYNC = {
    *(errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EISDIR),
    *(errno.EACCES, errno.EPERM),
}
"""What the sync of a directory says where the file system has none for them."""


def storage_error(action: str, path: str, error: OSError) -> StorageError:
    """The sentence for what the system refused."""
    remedy = _REMEDIES.get(error.errno or 0, "")
    return StorageError(f"can't {action} {path}: {error.strerror or error}{remedy}")


@contextmanager
def opened(path: str, flags: int, mode: int = 0o666) -> Iterator[int]:
    """A descriptor of `path` (never inherited); raises `OSError`."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# ---- reading ------------------------------------------------------------------------


def read_from(path: str, offset: int = 0) -> bytes:
    """All bytes from `offset` on; raises `OSError`."""
    with opened(path, os.O_RDONLY) as descriptor:
        return read_descriptor(descriptor, offset)


def read_descriptor(descriptor: int, offset: int) -> bytes:
    """All bytes of an open file from `offset` on."""
    parts = []
    size = os.fstat(descriptor).st_size
    while part := os.pread(descriptor, max(size - offset, 4096), offset):
        parts.append(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def find_content(path: str) -> bytes | None:
    """The whole file, or None where there is none; raises `StorageError`."""
    try:
        return read_from(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error("read", path, error) from error


def find_rest(path: str, offset: int) -> bytes:
    """What stands from `offset` on, nothing where there is no file."""
    try:
        return read_from(path, offset)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise storage_error("read", path, error) from error


class Version(NamedTuple):
    """Tells one state of a file from another; times in ns."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


def find_version(path: str) -> Version | None:
    """The state of the file now, opened for NFS; None where there is none."""
    try:
        with opened(path, os.O_RDONLY) as descriptor:
            return _version_of(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error("read", path, error) from error


def _version_of(descriptor: int) -> Version:
    status = os.fstat(descriptor)
    return Version(
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def find_size(path: str) -> int:
    """In bytes, 0 where there is no such file; raises `StorageError`."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise storage_error("read", path, error) from error


# ---- reading what is too large for the memory ---------------------------------------


class ChangedError(StorageError):
    """A file was changed while it was read."""


class LargeFile:
    """The content of an open file, of which parts are read as they are asked for.

    It knows as much of `bytes` as composing a queue takes.  What can't be read raises
    `StorageError`; so does a part that is not there any more.
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
        """Where that byte is first, from `begin` on; -1 if nowhere."""
        while begin < self._size:
            number, offset = divmod(begin, _KEPT_BLOCK)
            found = self._block(number).find(mark, offset)
            if found >= 0:
                return number * _KEPT_BLOCK + found
            begin = (number + 1) * _KEPT_BLOCK
        return -1

    def rfind(self, mark: bytes, begin: int, end: int) -> int:
        """Where that byte is last, between the two; -1 if nowhere."""
        while end > begin:
            number = (end - 1) // _KEPT_BLOCK
            start = number * _KEPT_BLOCK
            found = self._block(number).rfind(mark, max(begin - start, 0), end - start)
            if found >= 0:
                return start + found
            end = start
        return -1

    def _block(self, number: int) -> bytes:
        block = self._kept.get(number)
        if block is None:
            if len(self._kept) >= _MOST_KEPT:
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
    """What is to be read is not there any more."""


_KEPT_BLOCK = 1 << 14
_MOST_KEPT = 256
"""Blocks of a `LargeFile`: to find many places in turn takes mostly the same ones."""


def _read_part(descriptor: int, begin: int, end: int) -> bytes:
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
    """Some bytes of a file, to be copied."""

    source: LargeFile
    begin: int
    end: int


Chunk = bytes | memoryview | Part


def part_of(content: Content, begin: int, end: int) -> Chunk:
    """That part, to be written elsewhere."""
    if isinstance(content, bytes):
        return memoryview(content)[begin:end]
    return Part(content, begin, end)


def bytes_of(chunk: Chunk) -> bytes:
    """What is to be copied."""
    if isinstance(chunk, Part):
        return chunk.source[chunk.begin : chunk.end]
    return bytes(chunk)


def length_of(chunk: Chunk) -> int:
    """In bytes."""
    return chunk.end - chunk.begin if isinstance(chunk, Part) else len(chunk)


@contextmanager
def content_of(path: str) -> Iterator[tuple[Version | None, Content | None]]:
    """A file's content, in memory unless it is large; None where there is no file.

    Raises `StorageError`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None, None
        return
    except OSError as error:
        raise storage_error("read", path, error) from error
    try:
        yield _take_content(descriptor, path)
    finally:
        with suppress(OSError):  # It was only read.
            os.close(descriptor)


def _take_content(descriptor: int, path: str) -> tuple[Version, Content]:
    try:
        version = _version_of(descriptor)
        if version.size > LARGE:
            return version, LargeFile(descriptor, path, version.size)
        return version, read_descriptor(descriptor, 0)
    except OSError as error:
        raise storage_error("read", path, error) from error


class Found(NamedTuple):
    """A file as it was at one moment under the lock; `content` unless it is large."""

    path: str
    version: Version
    content: bytes | None

    @property
    def size(self) -> int:
        """In bytes."""
        return self.version.size if self.content is None else len(self.content)

    def blocks(self, *, appended: bool) -> Iterator[bytes]:
        """All of it, block by block; it needs no lock.

        `appended`: others only append to it; what they do meanwhile is left out.
        Raises `ChangedError` where it is not any more what it was, `StorageError`.
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


def find(path: str, *, whole: bool = False) -> Found | None:
    """The file as it is now; None if there is none.  Raises `StorageError`.

    `whole`: with its content even if it is large.
    """
    with content_of(path) as (version, content):
        if version is None or content is None:
            return None
        if isinstance(content, bytes) or whole:
            return Found(path, version, content[:])
        return Found(path, version, None)


def find_last_line(path: str) -> bytes:
    """With its newline, if it has one; nothing where there is no line."""
    with content_of(path) as (_, content):
        if not content:
            return b""
        return content[content.rfind(b"\n", 0, len(content) - 1) + 1 :]


# ---- appending ----------------------------------------------------------------------


def append(path: str, lines: bytes, *, sync: bool) -> int:
    """Append whole lines and return the new size in bytes.

    Where the last byte of the file is no newline, one is written first: the torn line
    of another must not swallow the first of ours.
    """
    try:
        with opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
            return append_to(descriptor, path, lines, sync=sync)
    except OSError as error:
        raise storage_error("write", path, error) from error


def append_to(descriptor: int, path: str, lines: bytes, *, sync: bool) -> int:
    """`append` through a descriptor that is open already (a claim's)."""
    size = -1
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        content = b"\n" + lines if torn else lines
        write_at(descriptor, size, content)
        if sync:
            os.fsync(descriptor)
            if size == 0:
                sync_directory(os.path.dirname(path))
    except OSError as error:
        if size >= 0:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
        raise storage_error("write", path, error) from error
    return size + len(content)


def write_at(descriptor: int, offset: int, content: bytes | memoryview) -> None:
    """Write everything; raises `OSError` where only a part could be written."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        if written == 0:  # else we would try for ever
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        offset += written
        rest = rest[written:]


def write_again(path: str, offset: int, content: bytes) -> None:
    """Write and sync what an append that failed was to write at `offset`.

    Also what of it stands there: after a sync that failed, the kernel thinks that it is
    on the disk, and would not write it a second time.
    """
    try:
        with opened(path, os.O_RDWR) as descriptor:
            write_at(descriptor, offset, content)
            os.fsync(descriptor)
    except OSError as error:
        raise storage_error("write", path, error) from error


def write_tail(path: str, offset: int, pieces: Sequence[bytes], old: bytes) -> None:
    """Write from `offset` on, where now the file ends in `old` (``timeline.json``).

    Each piece is one write, and starts on the last byte of the piece before it.
    """
    try:
        with opened(path, os.O_RDWR) as descriptor:
            _write_pieces(descriptor, offset, pieces, old)
    except OSError as error:
        raise storage_error("write", path, error) from error


def _write_pieces(
    descriptor: int, offset: int, pieces: Sequence[bytes], old: bytes
) -> None:
    begin = offset
    try:
        for piece in pieces:
            write_at(descriptor, offset, piece)
            offset += len(piece) - 1
    except OSError:
        with suppress(OSError):
            _cut_to(descriptor, begin, old)
        raise


def _cut_to(descriptor: int, begin: int, old: bytes) -> None:
    # Before the rest is cut off: there it needs no block, which a full disk lacks.
    write_at(descriptor, begin, old)
    os.ftruncate(descriptor, begin + len(old))


def cut_back(path: str, begin: int, old: bytes) -> None:
    """Let the file end in `old` at `begin` again, where `write_tail` could not."""
    try:
        with opened(path, os.O_RDWR) as descriptor:
            _cut_to(descriptor, begin, old)
    except OSError as error:
        raise storage_error("write", path, error) from error


# ---- replacing ----------------------------------------------------------------------


def write_beside(
    path: str, chunks: Iterable[Chunk], *, like: str | None = None
) -> None:
    """Write a file that a rename will put in its place, and sync it.

    `like` names the file whose permissions it gets: those who share a workdir through
    a group must not lose a file that they could write.
    """
    try:
        with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
            offset = 0
            for chunk in chunks:
                offset += _write_chunk(descriptor, offset, chunk)
            if like is not None:
                _copy_mode(descriptor, like)
            os.fsync(descriptor)
    except OSError as error:
        with suppress(OSError):
            os.unlink(path)
        raise storage_error("write", path, error) from error


def _write_chunk(descriptor: int, offset: int, chunk: Chunk) -> int:
    """Returns its length."""
    if isinstance(chunk, Part):
        _copy(chunk, descriptor, offset)
    else:
        write_at(descriptor, offset, chunk)
    return length_of(chunk)


def _copy(part: Part, descriptor: int, offset: int) -> None:
    source, begin, end = part
    while begin < end:
        block = _read_part(source.descriptor, begin, min(begin + BLOCK, end))
        write_at(descriptor, offset, block)
        begin += len(block)
        offset += len(block)


def _copy_mode(descriptor: int, like: str) -> None:
    with suppress(OSError):
        mode = os.stat(like).st_mode & 0o777
        if os.fstat(descriptor).st_mode & 0o777 != mode:
            os.fchmod(descriptor, mode)


def rename(source: str, target: str) -> None:
    """Put `source` in the place of `target`."""
    try:
        os.rename(source, target)
    except OSError as error:
        raise storage_error("replace", target, error) from error


def replace(path: str, beside: str, content: bytes) -> None:
    """Replace `path` whole, by way of the temporary name `beside`."""
    write_beside(beside, (content,), like=path)
    try:
        rename(beside, path)
    except StorageError:
        with suppress(OSError):
            os.unlink(beside)
        raise


def empty(path: str) -> None:
    """Give back the room of a file of which only the name has to stay."""
    with suppress(OSError):
        os.truncate(path, 0)


def sync_directory(path: str) -> None:
    """Have its names on the disk: made, renamed or removed ones.  Raises `OSError`."""
    try:
        with opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def settle_names(path: str) -> None:
    """`sync_directory`, before a step that relies on it; raises `StorageError`."""
    try:
        sync_directory(path)
    except OSError as error:
        raise storage_error("write", path, error) from error


# ---- directories and names ----------------------------------------------------------


def make_directory(path: str) -> bool:
    """Make it unless it is there, or another farmer makes it now; raises `OSError`.

    Returns whether it was made here.
    """
    # Asked first: on a read-only file system mkdir may not say that it is there.
    if not os.path.isdir(path):
        with suppress(FileExistsError):
            os.mkdir(path)
            sync_directory(os.path.dirname(path))
            return True
    return False


def create_exclusively(path: str) -> int:
    """A descriptor of a file that was not there before; raises `OSError`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(path, flags, 0o666)


def remove(path: str) -> None:
    """Remove the name, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise storage_error("remove", path, error) from error


def touch(descriptor: int, path: str) -> None:
    """Set the modification time to now, by the file system's own clock."""
    try:
        os.utime(descriptor)
    except OSError as error:
        raise storage_error("touch", path, error) from error


def exists(path: str) -> bool:
    """Whether the name is there (a claim asks it of its steps).

    Raises `StorageError` where that can't be told: "gone" would mean that a step has
    happened.  It is opened, not only asked for: NFS keeps answers for seconds.
    """
    try:
        with opened(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW):
            return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        is_refused = error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP)
        if is_refused and os.path.lexists(path):
            return True
        raise storage_error("read", path, error) from error


def find_other_owner(path: str) -> str:
    """The user who owns it; empty if that is us, or can't be told."""
    try:
        uid = os.stat(path).st_uid
    except OSError:
        return ""
    if uid == os.geteuid():
        return ""
    import pwd  # for the few that share a workdir

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
