"""The lists without a name: standard input (``-``), and what arguments make.

Both are kept in the workdir; standard input line by line.

Rules of this file: it reads only what is there, and never waits, but for `read_all` and
for the lock at a start.  Only whole lines get into the list, under the lock: on NFS the
appends of two hosts may overlap.  A new list is made without the lock, by one start
alone, so that a refused one leaves nothing; from then on it is changed under the lock.
Lines that were not read when the farm ends are the producer's.
"""

import os
import select
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from mpifarm.batch.launcher import launched_rank
from mpifarm.errors import FarmError, FutileError, InputError, StorageError
from mpifarm.farm.context import RankContext
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import STDIN_LIST, Arguments, Settings
from mpifarm.store.adding import find_missing
from mpifarm.store.aside import has_begun
from mpifarm.store.directories import make_root
from mpifarm.store.file_store import LOCK_TIMEOUT
from mpifarm.store.strangers import validate_contents, validate_place
from mpifarm.store.target import Target, find_lock
from mpifarm.system import files
from mpifarm.system.file_contents import Version, find_version
from mpifarm.system.lock import WorkdirLock
from mpifarm.system.pipes import PART, read_to_end

STDIN: Final = 0

NO_LINE: Final = (
    "standard input has ended, and had no line (srun gives it to rank 0 if it is given"
    " --input=0)"
)

NO_TASK: Final = (
    "standard input has ended, and none of its lines is a task: comments and empty"
    " lines are none"
)

PARTS = 16
"""Parts that are read in one step, at the most."""

TYPED: Final = "the list is what is typed here, a task a line; Ctrl-D ends it"

EAGER_SECONDS = 0.01
IDLE_SECONDS = 0.1
"""Seconds between two looks at an input that had something, and at one that had not."""

APPEND_SECONDS = 0.1
"""Seconds between two appends, at the least: each keeps others from the lock."""

LOCK_SECONDS = 0.005
"""Seconds between two tries to get the lock."""

RETRY_SECONDS = 1.0
"""Seconds until lines are written again that the disk did not take."""

SYNC_SECONDS = 1.0
"""Seconds between two syncs of the list."""


def is_readable(descriptor: int) -> bool:
    """Return whether a read would not wait: something is there, or the end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


class InputFeed:
    """Standard input, appended to the list at `path` as it comes.

    `say` prints a sentence.
    """

    def __init__(
        self, path: str, say: Callable[[str], None], descriptor: int = STDIN
    ) -> None:
        self.has_ended = False
        """Whether all of the input is in the list."""
        self.look_at = 0.0
        """When to look next (monotonic)."""
        self._path = path
        self._say = say
        self._descriptor = descriptor
        self._is_open = True
        self._rest = b""
        """What was read and is not in the list yet."""
        self._begin: int | None = None
        """The size of the list before an append that failed."""
        self._append_at = self._sync_at = 0.0
        self._has_failed = False

    @property
    def has_lines(self) -> bool:
        """Whether lines were read that are not in the list yet."""
        return b"\n" in self._rest

    def step(self, now: float, lock: WorkdirLock) -> bool:
        """Take what is there, if a look is due.  Return whether lines were added.

        They wait for the `lock` in memory, if others hold it.
        """
        if self.has_ended or now < self.look_at:
            return False
        was_there = self._read()
        self.look_at = now + (EAGER_SECONDS if was_there else IDLE_SECONDS)
        cut = self._rest.rfind(b"\n") + 1
        lines, rest = self._rest[:cut], self._rest[cut:]
        if not self._is_open and rest:
            lines, rest = self._rest + b"\n", b""
        if lines and not self._is_written(lines, now, lock):
            return False
        self._rest = rest
        self.has_ended = not self._is_open
        if self.has_ended:
            self._tell_if_empty()
        return bool(lines)

    def _tell_if_empty(self) -> None:
        with suppress(StorageError):  # it is only a help
            if files.find_size(self._path) == 0:
                self._say(NO_LINE)

    def _is_written(self, lines: bytes, now: float, lock: WorkdirLock) -> bool:
        """Append lines if it is time and the lock can be had; return whether."""
        if now < self._append_at:
            self.look_at = min(self.look_at, self._append_at)
            return False
        try:
            if not lock.try_acquire():
                self.look_at = now + LOCK_SECONDS
                return False
            try:
                self._append(lines, sync=now >= self._sync_at)
            finally:
                lock.release()
        except StorageError as error:
            self._note_failure(error, now)
            return False
        self._has_failed = False
        self._append_at = now + APPEND_SECONDS
        if now >= self._sync_at:
            self._sync_at = now + SYNC_SECONDS
        return True

    def _read(self) -> bool:
        """Read some parts, if any are there.  Return whether there was something."""
        if self._rest.rfind(b"\n") >= PARTS * PART:
            return True  # Whole lines wait for the lock or the disk: no more of them.
        for number in range(PARTS):
            if not self._is_open or not is_readable(self._descriptor):
                return number > 0
            try:
                part = os.read(self._descriptor, PART)
            except BlockingIOError:
                return number > 0
            except OSError as error:
                self._say(f"can't read standard input any more ({error.strerror})")
                part = b""
            self._is_open = bool(part)
            self._rest += part
        return True

    def _append(self, lines: bytes, *, sync: bool) -> None:
        """Append whole lines, beside others that append; raises `StorageError`.

        Users append without the lock.
        """
        has_failed = self._begin is not None
        begin = self._begin if has_failed else files.find_size(self._path)
        self._begin = begin = begin or 0
        end = files.find_rest(self._path, max(0, begin - 1))
        there = end[1:] if begin else end
        if has_failed:  # A part may be there, and lines of others behind it.
            lines = find_missing(there, lines)
        if not there and end not in (b"", b"\n"):
            lines = b"\n" + lines
        if lines:
            files.append_beside_others(self._path, lines, sync=sync, is_ours=True)
        self._begin = None

    def _note_failure(self, error: StorageError, now: float) -> None:
        self.look_at = now + RETRY_SECONDS
        if not self._has_failed:
            self._has_failed = True
            self._say(f"{error}; trying again")


def open_list(paths: WorkdirPaths) -> Version | None:
    """Make the list of standard input, or mend the one that is there (`mend_list`).

    Return the version of a new list, None if there was one.  The lock is held, if there
    is one.  Raises `StorageError`.
    """
    if mend_list(paths):
        return None
    return _make_list(paths, b"") or open_list(paths)


def mend_list(paths: WorkdirPaths) -> bool:
    """Remove a line torn by a kill from the end of the list.  Return whether it exists.

    The lock is held, unless the list is whole.  Raises `StorageError`.
    """
    content = files.find_content(paths.stdin_list)
    if content is not None and _is_torn(content):
        _replace_list(paths, content[: content.rfind(b"\n") + 1])
    return content is not None


def _is_torn(content: bytes) -> bool:
    return content != b"" and not content.endswith(b"\n")


def _make_list(paths: WorkdirPaths, content: bytes) -> Version | None:
    """Make the list; return its version, None if another start has just made one.

    A start that was refused or stopped may have removed the workdir, if it was empty.
    Raises `InputError` if that can't be made again, `StorageError`.
    """
    make_root(paths.root)
    try:
        staging, version = _write_staging(paths, content)
    except StorageError:
        if files.is_there(paths.root):
            raise
        return _make_list(paths, content)
    try:
        files.rename_new(staging, paths.stdin_list)
    except InputError:
        return None
    finally:
        files.remove(staging)
    return version


def _replace_list(paths: WorkdirPaths, content: bytes) -> Version:
    """Replace the list, under the lock; return its version.  Raises `StorageError`."""
    staging, version = _write_staging(paths, content)
    files.put_in_place(paths.stdin_list, staging)
    return version


def _write_staging(paths: WorkdirPaths, content: bytes) -> tuple[str, Version]:
    """Write a staging file of the list; return its path and its version.

    Raises `StorageError`.
    """
    staging = _name_staging(paths)
    files.write_staging_file(staging, (content,), like=paths.stdin_list)
    # Before it has its name: from then on others may share it.
    version = find_version(staging)
    assert version is not None
    return staging, version


def _name_staging(paths: WorkdirPaths) -> str:
    """Return the path of a staging file of the list that no other start has."""
    return paths.list_staging(os.urandom(4).hex())


SHARED_SECONDS: Final = 2
"""By how much `share_list` makes a list younger.  Some file systems keep seconds."""


def share_list(paths: WorkdirPaths) -> bool:
    """Note on a list that is found as it is that its writer is not alone with it.

    Its time is changed, by which `is_unshared` knows.  Return whether there is a list;
    one that a farm has begun is left as it is.  Raises `StorageError`.
    """
    if files.is_there(paths.fingerprint):
        return True
    return files.make_younger(paths.stdin_list, SHARED_SECONDS)


def is_unshared(path: str, content: bytes, version: Version) -> bool:
    """Return whether a file is what this process has written, and nobody has shared it.

    Raises `StorageError`.
    """
    found = find_version(path)
    same = found is not None and _identify(found) == _identify(version)
    return same and files.find_content(path) == content


def _identify(version: Version) -> tuple[int, ...]:
    """Return what a rename leaves as it is."""
    return version.device, version.inode, version.modified


def read_all(check: Callable[[], None], descriptor: int = STDIN) -> bytes:
    """Return the whole lines of standard input, read to its end.

    `check` is called while nothing comes, and may raise.  Raises `InputError`.
    """
    try:
        content = read_to_end(descriptor, check)
    except OSError as error:
        raise InputError(f"can't read standard input: {error.strerror}") from error
    if content and not content.endswith(b"\n"):
        content += b"\n"
    return content


def make_list_of(
    arguments: Arguments,
    check: Callable[[], None],
    read_input: Callable[[], bytes] | None = None,
) -> bytes:
    """Return the list that arguments make, their files and standard input read.

    `check` is called while nothing comes, and may raise.  `read_input` takes the place
    of `read_all`.  Raises `InputError`.
    """
    from mpifarm.farm.arguments import make_list  # for those who have some

    read_input = read_input or partial(read_all, check)
    return make_list(
        arguments,
        lambda path: read_input() if path == STDIN_LIST else _read_file(path, check),
    )


def _read_file(path: str, check: Callable[[], None]) -> bytes:
    """Return the content of a file behind ``::::``, which may be a pipe."""
    try:
        # O_NONBLOCK: the open of a fifo would wait for a writer, and hear no signal.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return read_to_end(descriptor, check)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(
            f"can't read {path}, which is to have arguments ({error.strerror}): name a"
            " file behind :::: that rank 0 can read, or - for standard input"
        ) from error


class NoArgumentError(InputError):
    """Arguments that make no task: nothing is to be run."""


def is_surely_empty(settings: Settings, content: bytes) -> bool:
    """Return whether arguments make no task, and never did: `content` is their list.

    A pipe or standard input may have been read by an earlier start, and then the list
    in the workdir is meant; a regular file is as it was.  With ``--follow`` tasks may
    still come.
    """
    if content or settings.arguments is None or settings.follow is not None:
        return False
    named = (each for each in settings.arguments.sources if each.is_file)
    return all(
        path != STDIN_LIST and os.path.isfile(path)
        for source in named
        for path in source.words
    )


class Kept(NamedTuple):
    """A list that was put into a workdir, or was there.

    `rest` is the number of lines that it has more; `before` is the list that was there
    (None without one); `written` is the version of the list that was written, None if
    it was left as it is.
    """

    rest: int
    before: bytes | None
    written: Version | None


def keep_all(
    paths: WorkdirPaths,
    content: bytes,
    explain_other: Callable[[bytes], str],
    *,
    replaces: bool = False,
    is_locked: bool = True,
) -> Kept | None:
    """Make an input that has ended the list, or go on with the list that is there.

    An input that ends earlier than the list means the list as it is.  Return None, with
    nothing changed, if that needs the lock, and it is not held (`is_locked`).  Raises
    `StorageError`, and `InputError` if the list has other lines, with the sentence that
    `explain_other` makes of the list.  With `replaces`, an input that has any line is
    the whole list, and the list that is there is dropped.
    """
    found = files.find_content(paths.stdin_list)
    before = found or b""
    is_dropped = replaces and content not in (b"", before)
    if is_dropped:
        before = b""
    if not content.startswith(before) and not before.startswith(content):
        raise InputError(explain_other(before))
    written, is_still_so = None, True
    if found is None:
        written = _make_list(paths, content)
        is_still_so = written is not None
    elif (found or content) and not is_locked:
        return None
    elif is_dropped or len(content) > len(before):
        written = _replace_list(paths, content)
    elif found:  # of an empty list, none but its writer has anything
        is_still_so = share_list(paths)
    if not is_still_so:  # another start has just made the list, or has taken it back
        return keep_all(
            paths, content, explain_other, replaces=replaces, is_locked=is_locked
        )
    return Kept(before.count(b"\n", len(content)), found, written)


def is_kept(settings: Settings) -> bool:
    """Return whether the list is kept in the workdir, because it is no file."""
    return settings.arguments is not None or is_standard_input(settings)


def is_standard_input(settings: Settings) -> bool:
    """Return whether the list is standard input, and not a file with that name."""
    return settings.tasklist == STDIN_LIST and not os.path.exists(STDIN_LIST)


def describe_no_tasks(settings: Settings, *, has_lines: bool = False) -> str:
    """Return what is told of a list without tasks, which may have lines.

    The settings are those that the user gave.
    """
    if settings.arguments is not None:
        from mpifarm.farm import arguments  # for those who have some

        return arguments.NO_COMMAND if has_lines else arguments.NO_ARGUMENT
    if is_standard_input(settings):
        return f"there are no tasks: {NO_TASK if has_lines else NO_LINE}"
    return f"{settings.tasklist} has no tasks"


class KeptInput:
    """What a start has made of the list that is kept in the workdir; at first nothing.

    It is put back where the list is refused, unless others have changed the list since.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._paths = WorkdirPaths(os.path.abspath(settings.workdir))
        self._was_begun = is_kept(settings) and files.is_there(self._paths.fingerprint)
        self._content: bytes | None = None
        """The list that this start has written; None if it has written none."""
        self._version: Version | None = None
        """The version of that list."""
        self._before: bytes | None = None
        """The list that was there before; None if there was none."""
        self.has_made_root = False
        """Whether this start has made the workdir."""

    @property
    def has_written(self) -> bool:
        """Whether this start has written a list."""
        return self._content is not None

    @property
    def has_lines(self) -> bool:
        """Whether the list that is kept has any line.  Raises `StorageError`."""
        return is_kept(self._settings) and files.find_size(self._paths.stdin_list) > 0

    def note(self, content: bytes, before: bytes | None, version: Version) -> None:
        """Note that this start has put `content` in the place of the list `before`."""
        if before != self._content:
            self._before = before
        self._content = content
        self._version = version

    @contextmanager
    def put_back_if_refused(self) -> Iterator[None]:
        """Put the list back as it was if the block raises `InputError`.

        So the corrected input is no other list than the refused one was, and a workdir
        of another list gets none.  The list with which a workdir was begun is left.
        After a signal while the input is read, an empty new workdir is removed.
        """
        try:
            yield
        except InputError:
            self.put_back()
            raise
        except FutileError:
            self._remove_empty_root()  # who was told to stop waits for no lock
            raise

    def put_back(self) -> None:
        """Put the list back as it was, if the disk lets it, or remove a new workdir.

        A list that others have changed or share is left: ranks that see no other make
        it each, and one may have no input.
        """
        if self._content is not None and self._version is not None:
            with suppress(FarmError), _held_lock(self._settings, self._environ):
                self._put_back(self._content, self._version)
        else:
            self._remove_empty_root()

    def _remove_empty_root(self) -> None:
        """Remove the workdir if this start has made it, and nothing is in it."""
        if self.has_made_root:
            with suppress(OSError):  # there is something in it
                os.rmdir(self._paths.root)

    def _put_back(self, content: bytes, version: Version) -> None:
        """Put back the list, or remove it, and an empty workdir.

        Raises `StorageError`.
        """
        path = self._paths.stdin_list
        if not is_unshared(path, content, version):
            return  # It is another start's by now, or that one's as well.
        is_begun = files.is_there(self._paths.fingerprint)
        if self._before is None:
            if self._was_begun or not is_begun:
                _remove_list(self._paths, content, version)
                with suppress(OSError):  # there is something else in it
                    os.rmdir(self._paths.root)
        elif not is_begun:
            _replace_list(self._paths, self._before)


def _remove_list(paths: WorkdirPaths, content: bytes, version: Version) -> bool:
    """Remove the list, unless another start has come to share it just before.

    In a new workdir there is no lock.  Return whether it was removed.  Raises
    `StorageError`.
    """
    aside = _name_staging(paths)
    files.rename(paths.stdin_list, aside)  # who wants to share it now makes it anew
    is_ours = is_unshared(aside, content, version)
    if not is_ours:
        with suppress(InputError):  # another list has its name by now
            files.rename_new(aside, paths.stdin_list)
    files.remove(aside)
    return is_ours


def take_standard_input(
    context: RankContext,
    begin_again: Callable[[], None] = lambda: None,
    kept: KeptInput | None = None,
    *,
    takes_over: bool = False,
) -> tuple[RankContext, InputFeed | None]:
    """Return a context whose list is that of standard input, and what is still to come.

    Without ``--follow``, all of it is read here.  Nothing is read on a rank that
    `takes_over`, or that is not the first of a launch.  A list that arguments make is
    made here.  Another list is left as it is.  `begin_again` is called before anything
    is written; what is written is noted in `kept`.
    Raises `InputError`, `StorageError`, `FutileError` after a signal; `NoArgumentError`
    with nothing written.
    """
    settings, process = context.settings, context.process
    if not is_kept(settings):
        return context, None
    kept = kept or KeptInput(settings, process.environ)
    made: bytes | None = None
    if settings.arguments is not None and not takes_over:
        made = make_list_of(settings.arguments, stop_check(context))
        if is_surely_empty(settings, made):
            raise NoArgumentError(describe_no_tasks(settings))
    paths = WorkdirPaths(os.path.abspath(settings.workdir))
    validate_place(settings.workdir, None)
    kept.has_made_root = make_root(paths.root)
    validate_contents(paths)
    begin_again()
    tasklist = name_kept_list(settings)
    context = replace(context, settings=replace(settings, tasklist=tasklist))
    if made is not None:
        _keep_made(context, made, kept)
        return context, None
    if takes_over or launched_rank(process.environ) > 0:
        return context, None
    torn = _is_torn(files.find_content(paths.stdin_list) or b"")
    with _held_lock(settings, process.environ, makes_it=torn):
        _begin_list(paths, kept, settings)
    if os.isatty(STDIN):
        process.output.say(TYPED)
    if settings.follow is not None:
        return context, InputFeed(paths.stdin_list, process.output.say)
    content = read_all(stop_check(context))
    _note_kept(kept, content, keep_list(settings, process.environ, content))
    return context, None


def _begin_list(paths: WorkdirPaths, kept: KeptInput, settings: Settings) -> None:
    """Open the list before standard input is read.  Raises `StorageError`.

    Without ``--follow`` none is made: of two that fill an empty one at one instant, the
    first could not tell that its list was replaced.
    """
    if settings.follow is None:
        mend_list(paths)
        return
    if settings.again and not has_begun(paths):
        _drop_list(paths, kept)  # who writes the list begins again, too
    if version := open_list(paths):
        kept.note(b"", None, version)
    elif not kept.has_written:
        share_list(paths)


def _drop_list(paths: WorkdirPaths, kept: KeptInput) -> None:
    """Empty the list, if there is one.  Raises `StorageError`."""
    before = files.find_content(paths.stdin_list)
    if before is not None:
        kept.note(b"", before, _replace_list(paths, b""))


def _note_kept(kept: KeptInput, content: bytes, done: Kept) -> None:
    if done.written is not None:
        kept.note(content, done.before, done.written)


def name_kept_list(settings: Settings) -> str:
    """Return the path of a list that is kept in the workdir, as the user names that.

    Commands that are told find the list by it.
    """
    return WorkdirPaths(settings.workdir.rstrip("/")).stdin_list


def keep_list(settings: Settings, environ: Mapping[str, str], content: bytes) -> Kept:
    """Make `content` the list in the workdir, or go on with the list that is there.

    Raises `InputError` if the list has other lines, `StorageError`.
    """

    def explain(before: bytes) -> str:
        from mpifarm.farm.other_list import explain_other  # for those who have another

        return explain_other(settings, environ, content, before)

    paths = WorkdirPaths(os.path.abspath(settings.workdir))
    kept: Kept | None = None
    needs_lock = False
    while kept is None:
        with _held_lock(settings, environ, makes_it=needs_lock) as is_locked:
            replaces = settings.again and not has_begun(paths)
            kept = keep_all(
                paths, content, explain, replaces=replaces, is_locked=is_locked
            )
        needs_lock = True
    return kept


def take_back(
    settings: Settings,
    environ: Mapping[str, str],
    content: bytes,
    kept: Kept,
    is_in_use: Callable[[], bool],
) -> bool:
    """Put the list of before `kept` in the place of `content`, which that has written.

    Return whether that was done: not if a farm has begun the list, others have changed
    or share it, or it `is_in_use`.  Who is about to use it must be seen by that before
    it looks for the list.  Raises `InputError`, `StorageError`.
    """
    if kept.written is None:
        return True
    paths, before = WorkdirPaths(os.path.abspath(settings.workdir)), kept.before
    with _held_lock(settings, environ):
        is_ours = is_unshared(paths.stdin_list, content, kept.written)
        if not is_ours or files.is_there(paths.fingerprint) or is_in_use():
            return False
        if before is not None:
            _replace_list(paths, before)
        elif not _remove_list(paths, content, kept.written):
            return False
        # Once more: who has found the list just before this is seen now.
        if not is_in_use():
            return True
        if before is None:
            _make_list(paths, content)
        elif files.find_content(paths.stdin_list) == before:
            _replace_list(paths, content)
        return False


def _keep_made(context: RankContext, content: bytes, kept: KeptInput) -> None:
    """Keep the list that arguments make, and tell of tasks that it has besides.

    Raises `InputError` if the list that is there is another one.
    """
    from mpifarm.farm.arguments import describe_rest, warn_of_options

    done = keep_list(context.settings, context.process.environ, content)
    _note_kept(kept, content, done)
    if done.rest:
        context.process.output.say(describe_rest(context.settings.tasklist, done.rest))
    arguments = context.settings.arguments
    if arguments is not None and arguments.like_option:
        context.process.output.say(warn_of_options(arguments.like_option))


def stop_check(context: RankContext) -> Callable[[], None]:
    """Return a function that raises `FutileError` after a signal."""

    def check() -> None:
        if context.process.signals.any_noted:
            raise FutileError(
                "stopped by a signal while the list was read; nothing was started"
            )

    return check


@contextmanager
def _held_lock(
    settings: Settings, environ: Mapping[str, str], *, makes_it: bool = False
) -> Iterator[bool]:
    """Hold the lock of a workdir for a block.  Give whether there is one.

    In a new workdir there is none, unless this `makes_it`: it can't be taken back.
    Raises `InputError`, and `StorageError` if the lock can't be had.
    """
    root = os.path.abspath(settings.workdir)
    if not makes_it and not files.is_there(WorkdirPaths(root).lock):
        yield False
        return
    target = Target(settings.workdir, None, lock_area=settings.lock_area)
    lock = find_lock(target, environ)
    lock.probe()
    with lock.hold(LOCK_TIMEOUT):
        yield True
