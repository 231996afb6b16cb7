"""``--logs packed`` and ``--logs failed``: logs that cost no new file for each task.

Rules of this file:

- A command writes into the *scratch* of its worker, a file that is empty when the
  command starts.  The command has no other file of ours: a script that says
  ``> /dev/stderr`` empties the file behind its stderr, and would empty the outputs of
  earlier tasks, too.
- When an attempt has ended, its output is copied to where it is kept, then recorded
  there, and only then the scratch is emptied.  So the output is found at any moment,
  also after a kill between two of these steps.
- A large output, or one into which a process goes on writing, is not copied: the
  scratch itself is kept, and the worker begins a new one.
- No task fails because its output can't be kept in the pack: it stays in its scratch.
- Nothing is created before the first task.  Files that were there are not written to,
  except those that the workers of one rank share (`records`).
"""

import errno
import os
import time
from contextlib import suppress

from mpifarm.model.paths import PACKED, UNKEPT
from mpifarm.output.records import (
    NO_RECORD,
    SLOT,
    RankFiles,
    Record,
    encode_record,
    encode_slot,
    parse_records,
)
from mpifarm.output.task_log import LogKeeper, LogPlace, TaskLog
from mpifarm.system import processes, task_command
from mpifarm.system.regular_files import open_regular

MAX_COPIED = 1 << 20
"""Bytes whose copy takes less time than a new file does on a slow disk."""

_APPEND = os.O_CREAT | os.O_APPEND | os.O_WRONLY
_OWN = _APPEND | os.O_EXCL | os.O_CLOEXEC


class ScratchLog(TaskLog):
    """The log of an attempt that has a scratch for itself."""

    def __init__(self, path: str, fd: int) -> None:
        self.name = path
        self.trouble = ""
        self._text = None
        self._fd = fd
        self._begin = self._output_begin = 0

    def end(self) -> None:
        """Write buffered text, and let go of the scratch, which the keeper closes."""
        # A thread that still writes to this object must not reach the next output.
        if self._text is not None:
            self._end_text(self._text)
        self._text, self._fd = None, -1


class ScratchKeeper(LogKeeper):
    """A keeper that gives each attempt the scratch of its worker."""

    is_shared = True

    def __init__(self, place: LogPlace, worker: int, kind: str) -> None:
        super().__init__(place.directory)
        self._files = RankFiles(f"{place.directory}/{kind}", place.farm, place.rank)
        self._worker = worker
        self._number = 0
        """The number of the scratch, or of the next one."""
        self._fd = -1
        """The descriptor of the scratch; -1: there is none."""
        self._slots = -1
        """The descriptor of the slots; -1: not open."""
        # Orphans of commands become children of the fork server, this process's parent.
        # Only new ones are looked at: a process that did not have the scratch open at
        # one look will not have it at a later one.
        self._relatives = [
            processes.ChildrenWatch(pid) for pid in (os.getpid(), os.getppid())
        ]
        self._path = self._files.scratch(worker, 0)
        self._attempt = Record(0, 0, worker, 0.0, 0, 0, None)
        """The last attempt that had the scratch."""

    def path_of(self, taskid: int) -> str:
        """Return the path of the worker's scratch, the same for each task."""
        return self._path

    def begin(self, taskid: int, attempt: int) -> TaskLog:
        """Write the attempt into the worker's slot, and return its log, the scratch.

        The first call opens slots and scratch, and keeps the output of a worker that
        died before this one.  Raises OSError.
        """
        if self._fd < 0:
            self._open()
        record = Record(
            *(taskid, attempt, self._worker, time.time(), self._number, 0, None)
        )
        self._attempt = record
        # Before the attempt writes its first byte: a successor of this worker keeps
        # the scratch for the attempt that the slot names.
        _write_at(self._slots, self._worker * SLOT, encode_slot(record))
        return ScratchLog(self._path, self._fd)

    def end(self, log: TaskLog, *, failed: bool) -> None:
        """Close the log, and keep or drop the output; then free the scratch.

        If that fails, the scratch itself keeps the output, and the error is the log's
        `trouble`.
        """
        log.end()
        try:
            size = os.lseek(self._fd, 0, os.SEEK_END)
            is_open = self._is_held_open()
        except OSError:
            size, is_open = 1, True  # Unknown: keep the scratch as it is.
        try:
            self._keep(size, is_open=is_open, failed=failed)
        except OSError as error:
            log.note_trouble(error, "move what the task has written away from")
            self._drop()

    def close(self) -> None:
        """Keep a dead predecessor's output, remove the scratch, clear the slot.

        The last worker of the rank removes the file of the slots.  Errors are ignored.
        """
        if self._slots < 0 and os.path.exists(self._files.running):
            with suppress(OSError):
                self._open()  # keeps the output of a predecessor that died, if any
        if self._slots < 0:
            return
        with suppress(OSError):
            if self._fd >= 0:
                os.unlink(self._path)
                self._drop()
            _write_at(self._slots, self._worker * SLOT, NO_RECORD)
            # After its own slot is cleared: so the last worker sees no record.  Two
            # workers that see none do no harm.
            slots = os.pread(self._slots, os.fstat(self._slots).st_size, 0)
            if next(parse_records(slots), None) is None:
                os.unlink(self._files.running)
        with suppress(OSError):
            os.close(self._slots)
        self._slots = -1

    def _keep(self, size: int, *, is_open: bool, failed: bool) -> None:
        """Keep or drop the `size` bytes that `self._attempt` has written.

        `is_open`: a process may write more.
        """
        raise NotImplementedError

    # ---- the scratch ----------------------------------------------------------------

    def _open(self) -> None:
        """Open the slots, keep a predecessor's output, create a scratch."""
        if self._slots < 0:
            self._slots = self._open_in_directory(
                self._files.running, os.O_CREAT | os.O_RDWR
            )
            self._keep_of_predecessor()
        self._create()

    def _open_in_directory(self, path: str, flags: int) -> int:
        """Open a file, and make its directory before if that is missing."""
        try:
            return open_regular(path, flags)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(self._files.directory)
            return open_regular(path, flags)

    def _keep_of_predecessor(self) -> None:
        """Keep the output of the attempt at which the worker before this one died.

        An empty scratch is removed.
        """
        slot = os.pread(self._slots, SLOT, self._worker * SLOT)
        record = next(parse_records(slot), None)
        if record is None or record.file is None:
            return
        self._attempt, self._number = record, record.file
        self._path = self._files.scratch(self._worker, record.file)
        try:
            self._fd = open_regular(self._path, os.O_WRONLY | os.O_APPEND)
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
        """Create a scratch, unless there is one, under the next free number."""
        while self._fd < 0:
            self._path = self._files.scratch(self._worker, self._number)
            try:
                self._fd = os.open(self._path, _OWN, 0o666)
            except FileExistsError:
                self._number += 1

    def _empty(self) -> None:
        """Empty the scratch, or remove it if that fails."""
        try:
            os.ftruncate(self._fd, 0)
        except OSError:
            self._remove()  # the next attempt must not begin behind this output

    def _remove(self) -> None:
        """Close the scratch, and delete the file if possible."""
        with suppress(OSError):
            os.unlink(self._path)
        self._drop()

    def _drop(self) -> None:
        """Close the scratch, and leave the file: the next attempt gets another one."""
        if self._fd >= 0:
            with suppress(OSError):
                os.close(self._fd)
        self._fd = -1
        self._number += 1

    def _is_held_open(self) -> bool:
        """Return whether a process that the attempt left may write into the scratch.

        Two kinds are not found: processes of another user, and processes that have left
        the group and were started by a process or thread that lives on elsewhere.
        """
        command = task_command.last_command()
        if command and processes.group_exists(command):
            return True
        # A process may have left its group (timeout does), or a user's runner began it.
        return any(_has_open(pid, self._fd) for pid in self._find_offspring())

    def _find_offspring(self) -> set[int]:
        """Return the new children of worker and fork server since the last call."""
        found: set[int] = set()
        for each in self._relatives:
            with suppress(OSError):
                found |= each.find_new()
        return found


def _has_open(pid: int, scratch: int) -> bool:
    """Return whether a process has the scratch open; False for this process."""
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
        raise _full_disk()


def _full_disk(path: str | None = None) -> OSError:
    """Return the error for a write that the disk has taken only a part of."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


# ---- the kinds ----------------------------------------------------------------------


class PackedKeeper(ScratchKeeper):
    """Keeper of every output, in the pack of the rank or as a file of its own."""

    def __init__(self, place: LogPlace, worker: int) -> None:
        super().__init__(place, worker, PACKED)
        self._reader = -1
        self._pack = -1
        self._index = -1
        self._unwritten = b""
        """Records that the disk has not taken yet."""
        self._why_unwritten = _full_disk()
        """The error of the last write of these records."""

    def begin(self, taskid: int, attempt: int) -> TaskLog:
        """Write the records that wait for the disk, then begin an attempt.

        Raises OSError if records still wait.
        """
        if self._unwritten:
            self._write_index()
            if self._unwritten:
                raise self._why_unwritten
            # `_keep` could not: until now the scratch alone had the output.
            if self._fd >= 0:
                self._empty()
        return super().begin(taskid, attempt)

    def close(self) -> None:
        """Write the records that wait for the disk, then clean up.

        If records still wait, leave scratch and slot as they are.
        """
        if self._unwritten:
            self._write_index()
            if self._unwritten:
                return  # the scratch has the output, and its slot says whose it is
        super().close()

    def _keep(self, size: int, *, is_open: bool, failed: bool) -> None:
        offset = None
        if not is_open and size <= MAX_COPIED:
            offset = self._copy(size)
        if offset is None:
            self._record(self._attempt)
            self._drop()
            return
        # The output before its record, and the record before the scratch is emptied: a
        # kill between two of these leaves the output in a place that is recorded.
        self._record(self._attempt._replace(file=None, offset=offset, length=size))
        if size and not self._unwritten:
            self._empty()

    def _copy(self, size: int) -> int | None:
        """Append the output to the pack.  Return its offset, None if that failed.

        An output of 0 bytes is not copied.
        """
        if not size:
            return 0
        try:
            if self._reader < 0:
                self._reader = open_regular(self._path, os.O_RDONLY)
            if self._pack < 0:
                self._pack = open_regular(self._files.pack, _APPEND)
            content = os.pread(self._reader, size, 0)
            if os.write(self._pack, content) < size:
                return None  # no record will name the part
            # After the write: other workers append to the same pack.
            return os.lseek(self._pack, 0, os.SEEK_CUR) - size
        except OSError:
            return None

    def _record(self, record: Record) -> None:
        self._unwritten += encode_record(record)
        self._write_index()

    def _write_index(self) -> None:
        """Append the waiting records to the index, as far as the disk takes them."""
        try:
            if self._index < 0:
                self._index = open_regular(self._files.index, _APPEND)
            if os.write(self._index, self._unwritten) == len(self._unwritten):
                self._unwritten = b""
            else:
                # All of it again, later: what is torn is no record, and a reader takes
                # a record that stands there twice as one.
                self._why_unwritten = _full_disk(self._files.index)
        except OSError as error:
            error.filename = self._files.index
            self._why_unwritten = error

    def _drop(self) -> None:
        if self._reader >= 0:
            with suppress(OSError):
                os.close(self._reader)
        self._reader = -1
        super()._drop()


class FailedKeeper(ScratchKeeper):
    """Keeper of the outputs of failed attempts, each in its ``log_<id>``."""

    def __init__(self, place: LogPlace, worker: int) -> None:
        super().__init__(place, worker, UNKEPT)

    def _keep(self, size: int, *, is_open: bool, failed: bool) -> None:
        if failed:
            self._move(is_open=is_open)
        elif is_open:
            self._remove()
        elif size:
            self._empty()

    def _move(self, *, is_open: bool) -> None:
        """Make the scratch the task's log, or append it to a log that exists."""
        log = f"{self._prefix}{self._attempt.taskid}"
        if not os.path.lexists(log):
            os.rename(self._path, log)
            self._drop()
            return
        self._append_to(log)
        if is_open:
            self._remove()
        else:
            self._empty()

    def _append_to(self, log: str) -> None:
        target = TaskLog(log, self._attempt.attempt, self._attempt.started)
        try:
            source = open_regular(self._path, os.O_RDONLY)
            try:
                # Not by the kernel's copy, which does not append: a process that an
                # earlier attempt left may go on writing into this log.
                while piece := memoryview(os.read(source, MAX_COPIED)):
                    while piece:
                        piece = piece[os.write(target.fileno(), piece) :]
            finally:
                os.close(source)
        finally:
            target.end()


def find_scratch_of(place: LogPlace, worker: int, task: int) -> str | None:
    """Return the path that the slot of a dead worker names for its task's output.

    Return None if the slot is unreadable, empty, or names another task.
    """
    kind = PACKED if place.kind == "packed" else UNKEPT
    files = RankFiles(f"{place.directory}/{kind}", place.farm, place.rank)
    try:
        with open(open_regular(files.running, os.O_RDONLY), "rb", 0) as slots:
            slots.seek(worker * SLOT)
            record = next(parse_records(slots.read(SLOT)), None)
    except OSError:
        return None
    if record is None or record.taskid != task:
        return None
    return files.place_of(record)
