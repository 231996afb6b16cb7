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

Chunk = bytes | memoryview


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
            status = os.fstat(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error("read", path, error) from error
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


def write_at(descriptor: int, offset: int, content: Chunk) -> None:
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
                write_at(descriptor, offset, chunk)
                offset += len(chunk)
            if like is not None:
                _copy_mode(descriptor, like)
            os.fsync(descriptor)
    except OSError as error:
        with suppress(OSError):
            os.unlink(path)
        raise storage_error("write", path, error) from error


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
