"""The owner of changes to the disk: append whole lines, or replace a whole file.

Rules of this file:

- mpifarm changes its files only here, so that a test can end the farm between any two
  changes.  The caller holds the lock.
- A change that fails raises `StorageError` and restores the file as far as the disk
  permits.  The caller that tries again asks the file how far the change had come.
- Only regular files are opened.  A link, a fifo or a directory in place of one raises
  `UnfitFileError`, no matter when it got there.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from mpifarm.errors import InputError, StorageError, UnfitFileError
from mpifarm.system.patience import is_of_the_disk
from mpifarm.system.regular_files import OddFileError, kind_in_words, open_regular

_REMEDIES = {
    errno.ENOSPC: "; make room, then give the same command again",
    errno.EDQUOT: "; make room, then give the same command again",
    errno.ENOENT: "; was the workdir moved or removed?",
    errno.ESTALE: "; was it removed or replaced on the file server?",
}

Block = bytes | memoryview

_NO_SYNC = {
    *(errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EISDIR),
    *(errno.EACCES, errno.EPERM),
}
"""Errors with which fsync refuses a directory on file systems that cannot sync one."""


def storage_error(action: str, path: str, error: OSError) -> StorageError:
    """Return the error for an `action` on `path` that the system has refused."""
    if isinstance(error, OddFileError):
        return unfit_file_error(path, error.strerror or "")
    remedy = _REMEDIES.get(error.errno or 0, "")
    return StorageError(f"can't {action} {path}: {error.strerror or error}{remedy}")


def unfit_file_error(path: str, what: str) -> UnfitFileError:
    """Return the error for a `path` that is not a file; `what` is as "it is a fifo"."""
    # A link may lead to the record of what was done: without it, all tasks run again.
    is_link = what == f"it is {kind_in_words(stat.S_IFLNK)}"
    remedy = "put the file itself in its place" if is_link else "remove it"
    return UnfitFileError(
        f"{path} can't be used: {what}, and has to be a file; {remedy}, or name"
        " another workdir"
    )


@contextmanager
def opened(path: str, flags: int, mode: int = 0o666) -> Iterator[int]:
    """Open the regular file `path` for a ``with`` block (never inherited).

    Raises `OddFileError` if `path` is not a regular file, else `OSError`.
    """
    descriptor = open_regular(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# ---- reading ------------------------------------------------------------------------


def read_from(path: str, offset: int = 0) -> bytes:
    """Return all bytes of a file from `offset` on; raises `OSError`."""
    with opened(path, os.O_RDONLY) as descriptor:
        return read_descriptor(descriptor, offset)


def read_descriptor(descriptor: int, offset: int) -> bytes:
    """Return all bytes of an open file from `offset` on; raises `OSError`."""
    parts = []
    size = os.fstat(descriptor).st_size
    while part := os.pread(descriptor, max(size - offset, 4096), offset):
        parts.append(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def find_content(path: str) -> bytes | None:
    """Return a whole file, None if it does not exist; raises `StorageError`."""
    try:
        return read_from(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error("read", path, error) from error


def find_rest(path: str, offset: int) -> bytes:
    """Return a file from `offset` on, b"" if it does not exist.

    Raises `StorageError`.
    """
    try:
        return read_from(path, offset)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise storage_error("read", path, error) from error


def find_start(path: str, most: int) -> bytes:
    """Return the first bytes of a file, `most` at most; b"" if there is none."""
    try:
        with opened(path, os.O_RDONLY) as descriptor:
            return os.pread(descriptor, most, 0)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise storage_error("read", path, error) from error


def find_size(path: str) -> int:
    """Return a file's size in bytes, 0 if it does not exist; raises `StorageError`."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise storage_error("read", path, error) from error
    if what := kind_in_words(status.st_mode):
        raise unfit_file_error(path, f"it is {what}")
    return status.st_size


# ---- appending ----------------------------------------------------------------------


def append(path: str, lines: bytes, *, sync: bool) -> int:
    """Append whole lines, and sync them if `sync`.  Return the new size in bytes.

    A line that others have left torn is ended first.  Raises `StorageError`, and then
    takes back the part that was written, if possible.
    """
    try:
        with opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
            return append_to(descriptor, path, lines, sync=sync)
    except OSError as error:
        raise storage_error("write", path, error) from error


def append_to(descriptor: int, path: str, lines: bytes, *, sync: bool) -> int:
    """Append whole lines to an open file, as `append` does.

    `path` names the file in errors.  A new file's directory is synced, too.
    """
    size = -1
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        # Else the torn line of another farmer swallows the first of these.
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


def append_beside_others(
    path: str, content: bytes, *, sync: bool = True, is_ours: bool = False
) -> None:
    """Append to a file to which others append without a lock, and sync it if `sync`.

    A file that `is_ours` is made if it is missing; for any other, a link is followed.
    Raises `StorageError`, and then takes back the part that was written, unless others
    have written behind it.
    """
    flags = os.O_RDWR | os.O_APPEND | (os.O_CREAT if is_ours else 0)
    size = -1
    try:
        descriptor = open_regular(path, flags, follow=not is_ours)
        try:
            size = os.fstat(descriptor).st_size
            # With O_APPEND, each write goes to the end of the file, whatever its place.
            write_at(descriptor, size, content)
            if sync:
                os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                _take_back(descriptor, size, content)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error("write", path, error) from error


def _take_back(descriptor: int, size: int, content: bytes) -> None:
    written = read_descriptor(descriptor, size)
    if content.startswith(written):
        os.ftruncate(descriptor, size)


def write_at(descriptor: int, offset: int, content: bytes | memoryview) -> None:
    """Write all of `content` at `offset`; raises `OSError` if only a part fits."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        if written == 0:  # Else the loop never ends.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        offset += written
        rest = rest[written:]


def write_again(path: str, offset: int, content: bytes) -> None:
    """Write and sync again all that a failed append was to write at `offset`.

    Raises `StorageError`.
    """
    # All of it, even bytes that stand there already: after a sync that failed, the
    # kernel takes them for written, and no later sync would write them.
    try:
        with opened(path, os.O_RDWR) as descriptor:
            write_at(descriptor, offset, content)
            os.fsync(descriptor)
    except OSError as error:
        raise storage_error("write", path, error) from error


def write_tail(path: str, offset: int, pieces: Sequence[bytes], old: bytes) -> None:
    """Replace the end `old` of a file, at `offset`, by `pieces` (``timeline.json``).

    Each piece is one write, and overwrites the last byte of the piece before it.
    Raises `StorageError`, and then restores `old` if possible.
    """
    try:
        with opened(path, os.O_RDWR) as descriptor:
            _write_pieces(descriptor, offset, pieces, old)
    except OSError as error:
        raise storage_error("write", path, error) from error


def _write_pieces(
    descriptor: int, offset: int, pieces: Sequence[bytes], old: bytes
) -> None:
    """Write the pieces; if that fails, restore `old` if possible, and raise OSError."""
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
    """Write `old` at `begin`, and end the file after it; raises OSError."""
    # First write, then truncate: there is a block for `old` now, and a full disk has
    # no other.
    write_at(descriptor, begin, old)
    os.ftruncate(descriptor, begin + len(old))


def cut_back(path: str, begin: int, old: bytes) -> None:
    """Restore the end `old` at `begin`, after a `write_tail` that could not do so.

    Raises `StorageError`.
    """
    try:
        with opened(path, os.O_RDWR) as descriptor:
            _cut_to(descriptor, begin, old)
    except OSError as error:
        raise storage_error("write", path, error) from error


# ---- replacing ----------------------------------------------------------------------


def write_staging_file(
    path: str, blocks: Iterable[Block], *, like: str | None = None
) -> None:
    """Write and sync a file that a later rename puts in its place.

    It gets the permissions of the file `like`: users who share a workdir through a
    group must still be able to write the file.  Raises `StorageError`, with the file
    removed.
    """
    try:
        with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
            offset = 0
            for block in blocks:
                write_at(descriptor, offset, block)
                offset += len(block)
            if like is not None:
                _copy_mode(descriptor, like)
            os.fsync(descriptor)
    except OSError as error:
        with suppress(OSError):
            os.unlink(path)
        raise storage_error("write", path, error) from error


def _copy_mode(descriptor: int, like: str) -> None:
    """Give an open file the permissions of `like`, if that is there and allowed."""
    with suppress(OSError):
        mode = os.lstat(like).st_mode & 0o777
        if os.fstat(descriptor).st_mode & 0o777 != mode:
            os.fchmod(descriptor, mode)


def rename(source: str, target: str) -> None:
    """Rename `source` to `target`, replacing it; raises `StorageError`."""
    try:
        os.rename(source, target)
    except OSError as error:
        raise storage_error("replace", target, error) from error


def rename_new(source: str, target: str) -> None:
    """Rename `source` to `target`, and sync the name; nothing is replaced.

    Raises `InputError` if there is a `target`, else `StorageError`.
    """
    try:
        os.link(source, target)
        os.unlink(source)
    except FileExistsError:
        refuse_existing(target)
    except OSError:
        # A file system without hard links.
        refuse_existing(target)
        rename(source, target)
    sync_names(os.path.dirname(os.path.abspath(target)))


def refuse_existing(path: str) -> None:
    """Raise `InputError` if there is anything with this name."""
    if os.path.lexists(path):
        raise InputError(
            f"{path} exists, and is not written over: name another file, or move it"
            " away"
        )


def replace(path: str, staging: str, content: bytes) -> None:
    """Replace `path` by a file with `content`, by way of the staging file `staging`.

    Raises `StorageError`, with the staging file removed, if possible.
    """
    write_staging_file(staging, (content,), like=path)
    put_in_place(path, staging)


def put_in_place(path: str, staging: str) -> None:
    """Replace `path` by the file `staging`.

    Raises `StorageError`, with the staging file removed, if possible.
    """
    try:
        rename(staging, path)
    except StorageError as error:
        if is_of_the_disk(error) and not is_there(staging):
            return  # The rename has happened: NFS has lost only the answer.
        with suppress(OSError):
            os.unlink(staging)
        raise


def replace_unsynced(path: str, staging: str, content: bytes) -> None:
    """Replace a file of which an older state does no harm; raises `OSError`."""
    try:
        with opened(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
            write_at(descriptor, 0, content)
        os.rename(staging, path)
    except OSError:
        with suppress(OSError):
            os.unlink(staging)
        raise


def truncate(path: str) -> None:
    """Truncate a file of which only the name is needed; errors are ignored."""
    with suppress(OSError), opened(path, os.O_WRONLY) as descriptor:
        os.truncate(descriptor, 0)


def sync_directory(path: str) -> None:
    """Sync a directory: its new, renamed and removed names.  Raises `OSError`.

    A file system that cannot sync a directory is not an error.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def sync_names(path: str) -> None:
    """Sync a directory on whose names the next step relies; raises `StorageError`."""
    try:
        sync_directory(path)
    except OSError as error:
        raise storage_error("write", path, error) from error


# ---- directories and names ----------------------------------------------------------


def make_directory(path: str) -> bool:
    """Make a directory, unless it exists, and sync its parent.

    Return whether it was made by this call.  Raises `OSError`, and `StorageError` if
    the disk fails.
    """
    # On a read-only file system, mkdir of an existing directory may answer EROFS.
    if not is_directory(path):
        with suppress(FileExistsError):
            os.mkdir(path)
            sync_directory(os.path.dirname(path))
            return True
    return False


def create_exclusively(path: str) -> int:
    """Create a file that must not exist.  Return its descriptor; raises `OSError`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(path, flags, 0o666)


def remove(path: str) -> None:
    """Remove a name, if it exists; raises `StorageError`."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise storage_error("remove", path, error) from error


def touch(descriptor: int, path: str) -> None:
    """Set the modification time to now, by the file system's own clock.

    Raises `StorageError`.
    """
    try:
        os.utime(descriptor)
    except OSError as error:
        raise storage_error("touch", path, error) from error


def make_younger(path: str, seconds: int) -> bool:
    """Move the modification time of a file ahead.  Return whether there is a file.

    Where that is not allowed, nothing is changed.  Raises `StorageError`.
    """
    try:
        status = os.stat(path)
        modified = status.st_mtime_ns + seconds * 1_000_000_000
        os.utime(path, ns=(status.st_atime_ns, modified))
    except FileNotFoundError:
        return False
    except PermissionError:
        pass
    except OSError as error:
        raise storage_error("touch", path, error) from error
    return True


def exists(path: str) -> bool:
    """Return whether a claim's step file exists, of whatever kind.

    Raises `StorageError` if that is unknown: without its file, a step has happened.
    """
    # Opened, not only looked up: NFS caches the answers to look-ups for seconds.
    try:
        with opened(path, os.O_RDONLY):
            return True
    except OddFileError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        is_refused = error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP)
        if is_refused and os.path.lexists(path):
            return True
        raise storage_error("read", path, error) from error


def is_there(path: str) -> bool:
    """Return whether a name exists, of any kind of file; raises `StorageError`.

    A name that this process may not look up counts as missing.
    """
    # Not `os.path.lexists`: it returns False when the disk fails.
    return _find_status(path, os.lstat) is not None


def is_directory(path: str) -> bool:
    """Return whether `path` is a directory, or a link to one.

    False for a name that may not be looked up.  Raises `StorageError` if the disk
    fails.
    """
    status = _find_status(path, os.stat)
    return status is not None and stat.S_ISDIR(status.st_mode)


def is_file(path: str) -> bool:
    """Return whether `path` is a regular file, or a link to one.

    False for a name that may not be looked up.  Raises `StorageError` if the disk
    fails.
    """
    status = _find_status(path, os.stat)
    return status is not None and stat.S_ISREG(status.st_mode)


def is_permitted(path: str, mode: int) -> bool:
    """Return whether this process may use `path` in that `mode` (as `os.access`).

    Raises `StorageError` if the disk fails.
    """
    # Asked twice, with a stat between: `os.access` returns False when the disk fails.
    return os.access(path, mode) or (
        _find_status(path, os.stat) is not None and os.access(path, mode)
    )


def _find_status(
    path: str, ask: Callable[[str], os.stat_result]
) -> os.stat_result | None:
    """Return the status that `ask` gives, None if there is no such file for us.

    Raises `StorageError` if the disk fails.
    """
    try:
        return ask(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG):
            return None
        raise storage_error("read", path, error) from error


def find_names(path: str) -> list[str]:
    """Return the names in a directory, none if it does not exist.

    Raises `StorageError`.
    """
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error("read", path, error) from error


def find_other_owner(path: str) -> str:
    """Return the owner of `path` as "user NAME", "" if that is us or unknown."""
    try:
        uid = os.stat(path).st_uid
    except OSError:
        return ""
    if uid == os.geteuid():
        return ""
    import pwd  # Only here: few users share a workdir.

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
