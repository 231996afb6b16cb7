"""``--logs packed`` and ``--logs failed``: logs that cost no new file for each task.

Rules of this file:

- A command writes into the *scratch* of its worker, which is empty when the command
  starts.  It has no other file of ours: a script that says ``> /dev/stderr`` empties
  what is its stderr, and would empty what earlier tasks have written, too.
- When an attempt has ended, its output goes where it is kept, is recorded there, and
  only then the scratch is emptied.  So it is found at any moment, also after a kill.
- A large output, or one to which somebody goes on writing, is not copied: the scratch
  itself is kept, and the worker begins a new one.
- That something can't be kept where it should fails no task: it is kept as it is.
- Nothing is created before the first task, and no file that was there is written to,
  but those that the workers of one rank share (`logfiles`).
"""

import errno
import os
import time
from contextlib import suppress

from mpifarm import processes
from mpifarm.logfiles import (
    NO_RECORD,
    PACKED,
    SLOT,
    UNKEPT,
    RankFiles,
    Record,
    encode_record,
    encode_slot,
    parse_records,
)
from mpifarm.pool.definition import PoolDefinition
from mpifarm.pool.log import LogKeeper, TaskLog

MOST_COPIED = 1 << 20
"""Bytes: to copy them takes less than to make a file, where that is slow."""

_SHARED = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_APPEND = _SHARED | os.O_APPEND | os.O_WRONLY
_OWN = _SHARED | os.O_EXCL | os.O_APPEND | os.O_WRONLY


class ScratchLog(TaskLog):
    """The log of an attempt that has the scratch for itself."""

    def __init__(self, path: str, fd: int) -> None:
        self.name = path
        self._text = None
        self._fd = fd
        self._begin = 0

    def end(self) -> None:
        """Write what is buffered; the scratch is not ours to close."""
        # What still writes to this object must not reach the next attempt's output.
        text, self._text, self._fd = self._text, None, -1
        if text is not None and not text.closed:
            text.flush()


class ScratchKeeper(LogKeeper):
    """What both kinds share."""

    is_shared = True

    def __init__(self, definition: PoolDefinition, worker: int, kind: str) -> None:
        super().__init__(definition.logs)
        self._files = RankFiles(
            f"{definition.logs}/{kind}", definition.farm, definition.rank
        )
        self._worker = worker
        self._number = 0
        self._fd = -1
        self._slots = -1
        # What our commands have left is given to our parent.  A process that did not
        # have the scratch open at one look will not have it at a later one.
        self._relatives = [
            processes.ChildrenWatch(pid) for pid in (os.getpid(), os.getppid())
        ]
        self._path = self._files.scratch(worker, 0)
        self._attempt = Record(0, 0, worker, 0.0, 0, 0, None)

    def path_of(self, taskid: int) -> str:
        """The scratch."""
        return self._path

    def begin(self, taskid: int, attempt: int) -> TaskLog:
        """Note whose the scratch is from now on, and give it."""
        if self._fd < 0:
            self._open()
        record = Record(
            *(taskid, attempt, self._worker, time.time(), self._number, 0, None)
        )
        self._attempt = record
        _write_at(self._slots, self._worker * SLOT, encode_slot(record))
        return ScratchLog(self._path, self._fd)

    def end(self, log: TaskLog, *, failed: bool) -> None:
        """Keep what the attempt has written, or don't; the scratch is free again."""
        try:
            log.end()
        except (OSError, ValueError):
            self._keep_or_drop(failed=True)
            raise
        self._keep_or_drop(failed=failed)

    def _keep_or_drop(self, *, failed: bool) -> None:
        try:
            size = os.lseek(self._fd, 0, os.SEEK_END)
            self._keep(size, is_open=self._is_held_open(), failed=failed)
        except OSError:
            self._drop()
            raise

    def close(self) -> None:
        """Take away what nobody needs any more."""
        if self._slots < 0 and os.path.exists(self._files.running):
            with suppress(OSError):
                self._open()  # the worker before this one may have died
        if self._slots < 0:
            return
        with suppress(OSError):
            if self._fd >= 0:
                os.unlink(self._path)
                self._drop()
            _write_at(self._slots, self._worker * SLOT, NO_RECORD)
            # The last one sees no record; two that see none are no harm.
            slots = os.pread(self._slots, os.fstat(self._slots).st_size, 0)
            if next(parse_records(slots), None) is None:
                os.unlink(self._files.running)
        os.close(self._slots)
        self._slots = -1

    def _keep(self, size: int, *, is_open: bool, failed: bool) -> None:
        """The attempt `self._attempt` has written so many bytes.

        `is_open`: somebody may write more.
        """
        raise NotImplementedError

    # ---- the scratch ----------------------------------------------------------------

    def _open(self) -> None:
        if self._slots < 0:
            self._slots = self._open_in_directory(
                self._files.running, _SHARED | os.O_RDWR
            )
            self._take_over()
        self._create()

    def _open_in_directory(self, path: str, flags: int) -> int:
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(self._files.directory)
            return os.open(path, flags, 0o666)

    def _take_over(self) -> None:
        """Keep what the worker in whose place this one came was at when it died."""
        slot = os.pread(self._slots, SLOT, self._worker * SLOT)
        record = next(parse_records(slot), None)
        if record is None or record.file is None:
            return
        self._attempt, self._number = record, record.file
        self._path = self._files.scratch(self._worker, record.file)
        try:
            self._fd = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            )
        except OSError:
            self._drop()
            return
        with suppress(OSError):
            if size := os.lseek(self._fd, 0, os.SEEK_END):
                self._keep(size, is_open=True, failed=True)
            else:
                os.unlink(self._path)
        self._drop()

    def _create(self) -> None:
        while self._fd < 0:
            self._path = self._files.scratch(self._worker, self._number)
            try:
                self._fd = os.open(self._path, _OWN, 0o666)
            except FileExistsError:
                self._number += 1

    def _empty(self) -> None:
        os.ftruncate(self._fd, 0)

    def _drop(self) -> None:
        """The scratch is not ours any more; the next attempt gets another."""
        if self._fd >= 0:
            with suppress(OSError):
                os.close(self._fd)
        self._fd = -1
        self._number += 1

    def _is_held_open(self) -> bool:
        """Whether what the attempt has left running may write into the scratch.

        Not found: what has left the group and was started by a process that lives on
        elsewhere, or by a thread that lives; and what belongs to another user.
        """
        command = processes.last_command()
        if command and processes.group_exists(command):
            return True
        # It has left its group (timeout does), or a user's runner started it.
        return any(_has_open(pid, self._fd) for pid in self._find_offspring())

    def _find_offspring(self) -> set[int]:
        found: set[int] = set()
        for each in self._relatives:
            with suppress(OSError):
                found |= each.find_new()
        return found


def _has_open(pid: int, scratch: int) -> bool:
    if pid == os.getpid():
        return False
    file = os.fstat(scratch)
    with suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{fd}"), file):
                    return True
    return False


def _write_at(fd: int, offset: int, line: bytes) -> None:
    if os.pwrite(fd, line, offset) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---- the kinds ----------------------------------------------------------------------


class PackedKeeper(ScratchKeeper):
    """Keeps every output, in the pack of the rank or as a file of its own."""

    def __init__(self, definition: PoolDefinition, worker: int) -> None:
        super().__init__(definition, worker, PACKED)
        self._reader = -1
        self._pack = -1
        self._index = -1
        self._unwritten = b""
        """Records that the disk has not taken yet."""

    def begin(self, taskid: int, attempt: int) -> TaskLog:
        """As ever; raises OSError while records wait for the disk."""
        if self._unwritten:
            self._write_index()
            if self._unwritten:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self._fd >= 0:
                self._empty()
        return super().begin(taskid, attempt)

    def close(self) -> None:
        """Write what could not be written before, if that can be done now."""
        if self._unwritten:
            self._write_index()
            if self._unwritten:
                return  # the scratch and its slot tell of it
        super().close()

    def _keep(self, size: int, *, is_open: bool, failed: bool) -> None:
        offset = None
        if not is_open and size <= MOST_COPIED:
            offset = self._copy(size)
        if offset is None:
            self._record(self._attempt)
            self._drop()
            return
        self._record(self._attempt._replace(file=None, offset=offset, length=size))
        if size and not self._unwritten:
            self._empty()

    def _copy(self, size: int) -> int | None:
        """Where it stands in the pack; None where it can't be there."""
        if not size:
            return 0
        try:
            if self._reader < 0:
                self._reader = os.open(
                    self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                )
            if self._pack < 0:
                self._pack = os.open(self._files.pack, _APPEND, 0o666)
            content = os.pread(self._reader, size, 0)
            if os.write(self._pack, content) < size:
                return None  # nobody will look at the part
            return os.lseek(self._pack, 0, os.SEEK_CUR) - size
        except OSError:
            return None

    def _record(self, record: Record) -> None:
        self._unwritten += encode_record(record)
        self._write_index()

    def _write_index(self) -> None:
        """Whole records: of those that were torn none is cut in two by the next."""
        with suppress(OSError):
            if self._index < 0:
                self._index = os.open(self._files.index, _APPEND, 0o666)
            if os.write(self._index, self._unwritten) == len(self._unwritten):
                self._unwritten = b""

    def _drop(self) -> None:
        if self._reader >= 0:
            os.close(self._reader)
        self._reader = -1
        super()._drop()


class FailedKeeper(ScratchKeeper):
    """Keeps the outputs of what did not complete, each in its ``log_<id>``."""

    def __init__(self, definition: PoolDefinition, worker: int) -> None:
        super().__init__(definition, worker, UNKEPT)

    def _keep(self, size: int, *, is_open: bool, failed: bool) -> None:
        if failed:
            self._move(is_open=is_open)
        elif is_open:
            os.unlink(self._path)
            self._drop()
        elif size:
            self._empty()

    def _move(self, *, is_open: bool) -> None:
        log = f"{self._prefix}{self._attempt.taskid}"
        if not os.path.lexists(log):
            os.rename(self._path, log)
            self._drop()
            return
        self._append_to(log)
        if is_open:
            os.unlink(self._path)
            self._drop()
        else:
            self._empty()

    def _append_to(self, log: str) -> None:
        TaskLog(log, self._attempt.attempt, self._attempt.started).end()
        source = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # For append, so not by the kernel: something may write on into the log.
            target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                while piece := memoryview(os.read(source, MOST_COPIED)):
                    while piece:
                        piece = piece[os.write(target, piece) :]
            finally:
                os.close(target)
        finally:
            os.close(source)


def create_scratch_keeper(definition: PoolDefinition, worker: int) -> LogKeeper:
    """The keeper for ``packed`` or ``failed``."""
    if definition.kept_logs == "packed":
        return PackedKeeper(definition, worker)
    return FailedKeeper(definition, worker)


def find_scratch_of(definition: PoolDefinition, worker: int, task: int) -> str | None:
    """The scratch of a worker that has died at this task, if nobody has moved it."""
    kind = PACKED if definition.kept_logs == "packed" else UNKEPT
    files = RankFiles(f"{definition.logs}/{kind}", definition.farm, definition.rank)
    try:
        with open(files.running, "rb", buffering=0) as slots:
            slots.seek(worker * SLOT)
            record = next(parse_records(slots.read(SLOT)), None)
    except OSError:
        return None
    if record is None or record.taskid != task:
        return None
    return files.place_of(record)
