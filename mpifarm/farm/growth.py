"""Lines that are added to the list while its farm works: rank 0 takes them up.

Rules of this file: it never waits.  In each pass of the loop it makes one step, which
takes a tenth of a second at the most: it reads a part of the list, or, if the lock can
be had, takes up a part of what was added.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from mpifarm.coordinator.coordinator import Coordinator, Phase
from mpifarm.errors import InputError, StorageError
from mpifarm.farm.standard_input import InputFeed
from mpifarm.lists.growth import (
    LOOK_SECONDS,
    ODD_SECONDS,
    ListFile,
    ListWatch,
    Odd,
    Oddity,
    explain_odd,
)
from mpifarm.model.packed_texts import PackedTexts
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import Settings
from mpifarm.model.wording import agree, counted
from mpifarm.store.file_store import FileStore
from mpifarm.store.fingerprint import parse_fingerprint
from mpifarm.store.take_up import TakenUp
from mpifarm.store.unlimited import Unlimited
from mpifarm.system import files
from mpifarm.system.lock import WorkdirLock
from mpifarm.tasklists import (
    ListTaskList,
    TaskList,
    TasklistFileError,
    is_database,
    read_list,
)

MIN_TASKS = 50_000
"""Tasks that are taken up in one step, at the most, as long as few were added before.
``added`` is written anew at each step, so a step grows with it."""

MAX_AHEAD = 200_000
"""Tasks that wait to be taken up, above which standard input is not read."""

LOCK_SECONDS = 0.005
"""Seconds between two tries to get the lock."""

TELL_SECONDS = 10.0
"""Seconds between two sentences about tasks that were added."""


END_IT = "end it by a newline, and give the same command again"
"""The remedy for a last line that has no newline."""

_HALF = "has no newline at its end, so it may be half written, and"


class Left(NamedTuple):
    """What a farm leaves of its list at its end.

    `added` tasks were not taken up; `odd` says why, if the list is odd.
    """

    added: int = 0
    odd: Odd | None = None

    @property
    def wrong_line(self) -> str:
        """The place of the line that can't be taken up; "" without one."""
        if self.odd is None or self.odd.why is not Oddity.WRONG:
            return ""
        return self.odd.place or "a line"


def explain_left(path: str, left: Left) -> str:
    """Return the sentence about what a farm leaves, with the remedy; "" for nothing."""
    added = counted(left.added, "task was", "tasks were")
    them = agree(left.added, "it", "them")
    if left.odd is not None:
        match left.odd.why:
            case Oddity.EDITED:
                return _explain_edit(path, left.added)
            case Oddity.WRONG:
                return left.odd.fault
        return ""
    if not left.added:
        return ""
    return (
        f"{added} added to {path} last, and this farm has left {them}: give the"
        " same command again"
    )


def _explain_edit(path: str, added: int) -> str:
    warning = (
        f"WARNING: {path} was edited while the farm ran: what is said here is of the"
        " list as the farm knew it"
    )
    if not added:
        return warning
    has = f"it has {counted(added)} more now, and what was added has not run"
    return f"{warning}; {has}: give the same command with --remap"


class GrowthNews:
    """The sentences about tasks that were added; `say` and `mention` print them."""

    def __init__(
        self,
        tasks: TaskList,
        unlimited: Unlimited,
        say: Callable[[str], None],
        mention: Callable[[str], None],
        now: float,
    ) -> None:
        self._untold = 0
        """How many tasks were added that run, since it was told."""
        self._path: str = getattr(tasks, "path", "the list")
        self._unlimited = unlimited
        self._say = say
        self._mention = mention
        self._tell_at = now
        self._told = set[str]()
        """The kinds without a limit that were told."""

    def note(self, begin: int, end: int) -> None:
        """Note tasks that were added; tell at once of kinds without a limit.

        The tasks have the ids from `begin` to `end` - 1.
        """
        left = self._unlimited.find_kinds(begin)
        self._untold += end - begin - len(left)
        for kind in {*left.values()} - self._told:
            self._told.add(kind)
            self._say(
                f"WARNING: tasks of the kind '{kind}' were added, which has no limit in"
                f" this farm: they wait until a farm with --limit {kind}=N runs them;"
                " start one beside this one, or after it"
            )

    def tell(self, now: float) -> None:
        """Tell how many tasks were added, now and then."""
        if not self._untold or now < self._tell_at:
            return
        self._tell_at = now + TELL_SECONDS
        count, self._untold = self._untold, 0
        run = agree(count, "it runs", "they run")
        added = counted(count, "task was", "tasks were")
        self._mention(f"{added} added to {self._path}: {run} too")


class Growth:
    """The growth of one farm's list; `say` and `mention` print a sentence."""

    def __init__(
        self,
        tasks: ListTaskList,
        store: FileStore,
        lock: WorkdirLock,
        coordinator: Coordinator,
        say: Callable[[str], None],
        mention: Callable[[str], None],
        now: float,
    ) -> None:
        assert isinstance(tasks.tasks, PackedTexts)
        self.path = tasks.path
        self.watch = ListWatch(tasks, now)
        store.grows = True
        self._texts: PackedTexts = tasks.tasks
        self._constraints = tasks.constraints
        self._store = store
        self._lock = lock
        self._coordinator = coordinator
        self._say = say
        self._news = GrowthNews(tasks, store.unlimited, say, mention, now)
        self._first = len(self._texts)
        self._try_at = 0.0
        """When to try to take up what was added."""
        self._refused_since: float | None = None
        """Since when nothing could be taken up, for whatever reason."""
        self._asked_at: int | None = None
        """The number of looks when the coordinator asked for one."""
        self.feed: InputFeed | None = None
        """The standard input, if that is the list."""
        self._has_told_odd = False

    def find_left(self, now: float) -> Left:
        """Look at the list again.  Return what this farm leaves there."""
        watch, looks = self.watch, self.watch.looks
        watch.look_soon()
        watch.look(now)
        while watch.is_reading:
            watch.look(now)
        if watch.wrong is not None:
            return Left(0, watch.wrong)
        if watch.odd is None or watch.looks == looks:
            return Left(watch.count) if watch.count else self._find_unended()
        return self._count_more(watch.odd)

    def _find_unended(self) -> Left:
        """Return what is left by a last line that has no newline."""
        path = self.watch.path
        if not has_unended_line(path):
            return Left()
        try:
            reader = read_list(path)
        except TasklistFileError as error:
            return Left(0, Odd(Oddity.WRONG, str(error), error.place))
        if (fault := reader.fault) is not None:
            what = f"{fault.place} {_HALF} does not count yet: {END_IT}"
            return Left(0, Odd(Oddity.WRONG, what, fault.place))
        if not reader.is_unended or len(reader.texts) <= len(self._texts):
            return Left()
        place = f"line {reader.lines} of {path}"
        what = f"{place} {_HALF} has not run: {END_IT}"
        return Left(0, Odd(Oddity.WRONG, what, place))

    def _count_more(self, odd: Odd) -> Left:
        """Return what is left of an odd list: the tasks that it has more, if any."""
        try:
            reader = read_list(self.watch.path)
            if reader.fault is not None:
                raise reader.fault
            total = len(reader.texts)
        except TasklistFileError as error:
            if not error.number:
                return Left(0, odd)
            return Left(0, Odd(Oddity.WRONG, str(error), error.place))
        return Left(max(0, total - len(self._texts)), odd)

    def look_at_end(self) -> None:
        """Look at the list at once; the coordinator is told what comes of it.

        What standard input has by now is read first.
        """
        self._asked_at = self.watch.looks
        self.watch.look_soon()
        if self.feed is not None:
            self.feed.look_at = float("-inf")

    def step(self, now: float) -> bool:
        """Make a step, if one is due.  Return whether there was anything to do."""
        if self._coordinator.phase is not Phase.WORKING:
            return False
        self._read_input(now)
        looked = now >= self.watch.look_at
        self.watch.look(now)
        if self.watch.odd is None:
            self._has_told_odd = False
        elif not self._has_told_odd:
            self._has_told_odd = True
            odd = explain_odd(self.watch.path, self.watch.odd, len(self._texts))
            self._say(odd)
        moved = self.watch.count > 0 and now >= self._try_at and self._take_up(now)
        if not self.watch.count:
            self._news.tell(now)
        self._answer(now)
        return moved or (looked and self.watch.look_at <= now)

    def wake_at(self) -> float:
        """Return when `step` is due."""
        if self._coordinator.phase is not Phase.WORKING:
            return float("inf")
        wake_at = self.watch.look_at
        if self.watch.count:
            wake_at = min(wake_at, self._try_at)
        if self.feed is not None:
            wake_at = min(wake_at, self.feed.look_at)
        return wake_at

    def _read_input(self, now: float) -> None:
        """Read what has come by standard input, unless there is much to take up."""
        if self.feed is None or self.watch.count > MAX_AHEAD:
            return
        has_changed = self.feed.step(now, self._lock) or self.feed.has_ended
        if self.feed.has_ended:
            self.feed = None
            self.watch.look_soon()
            self._coordinator.on_list_ended()
        if has_changed and self._asked_at is not None:
            self.look_at_end()  # the look before has not seen the last lines

    # ---- taking up -------------------------------------------------------------------

    def _take_up(self, now: float) -> bool:
        """Take up a part of what was added, if the lock can be had; return whether."""
        known = len(self._texts)
        try:
            if not self._lock.try_acquire():
                self._try_at = now + LOCK_SECONDS
                return False
            try:
                taken_up = self._take_up_locked(known)
            finally:
                self._lock.release()
        except StorageError as error:
            self._note_failure(str(error), now)
            return False
        match taken_up:
            case TakenUp.YES:
                self._note_taken_up(known, now)
                return True
            case TakenUp.LATER:
                self._note_failure("", now)
            case TakenUp.NO:
                self.watch.note_refused(now)
        return False

    def _take_up_locked(self, known: int) -> TakenUp:
        """Offer the store what was added, and what is said of its order."""
        watch, constraints = self.watch, self._constraints
        constraints.extend(watch.fresh.constraints)
        taken_up = TakenUp.NO
        most = max(MIN_TASKS, (known - self._first) // 16)
        try:
            taken_up = self._store.take_up(watch.fresh.texts, watch.begin, most)
        finally:
            beyond = len(self._texts) if taken_up is TakenUp.YES else known
            watch.fresh.constraints = constraints.cut(beyond)
        return taken_up

    def _note_taken_up(self, known: int, now: float) -> None:
        total = len(self._texts)
        self._refused_since = None
        self._try_at = now
        self._news.note(known, total)
        self.watch.note_taken(total - known)
        self._coordinator.on_list_grown(now)

    def _note_failure(self, fault: str, now: float) -> None:
        """Try again in a while; tell of a failing disk, once."""
        self._try_at = now + LOOK_SECONDS
        if self._refused_since is None:
            self._refused_since = now
            if fault:
                self._say(f"{fault}; trying again to take up what was added")

    def _answer(self, now: float) -> None:
        """Tell the coordinator that a look has shown nothing new, if it has asked."""
        if self._asked_at is None or self.watch.looks == self._asked_at:
            return
        if self._awaits_input:
            return
        if self.watch.count:
            since = self._refused_since
            if since is None or now - since < ODD_SECONDS:
                return
        self._asked_at = None
        self._coordinator.on_list_seen()

    @property
    def _awaits_input(self) -> bool:
        """Whether lines of standard input are in memory, or the first task is to come.

        A list that has tasks from a start before does not wait for that, and one that
        is odd waits for none.
        """
        if self.feed is None:
            return False
        has_tasks = len(self._texts) or self.watch.count
        return self.feed.has_lines or not (has_tasks or self.watch.odd)


def may_grow(tasks: TaskList) -> bool:
    """Return whether a list can grow while it runs.

    Lists of other handlers, and those from a pipe, cannot.
    """
    texts = tasks.tasks if type(tasks) is ListTaskList else None
    is_file = isinstance(texts, PackedTexts) and texts.version is not None
    return is_file or is_plain_database(tasks)


def check_follow(settings: Settings, tasks: TaskList) -> None:
    """Raise `InputError` for ``--follow`` with a list that does not grow."""
    if settings.follow is not None and not may_grow(tasks):
        raise InputError(
            f"--follow waits for lines in a text file, and {settings.tasklist} is read"
            f" by the handler {settings.handler!r}, or from a pipe (the list - is"
            " standard input): leave the option out"
        )


def is_plain_database(tasks: TaskList) -> bool:
    """Return whether a list is a database whose commands are as its rows have them."""
    if not is_database(tasks):
        return False
    from mpifarm.databases import SqliteTaskList  # imports sqlite3

    python_class: type = type(tasks)
    return python_class is SqliteTaskList


def leave_unended(tasks: TaskList, settings: Settings) -> None:
    """Leave a last line without newline to the watch, if others may be writing it.

    So it is with ``--follow``, and where lines were added to a list that was begun.  A
    list of another tool has no watch: then it is refused.  Raises `StorageError` and
    `TasklistFileError`.
    """
    if settings.remap or not isinstance(tasks, ListTaskList):
        return
    if place := getattr(tasks, "unended_place", ""):
        if 0 < _count_known(settings) < len(tasks):
            raise TasklistFileError(
                f"{place} has no newline at its end, and was added since the list was"
                f" begun, so it may be half written: {END_IT}",
                place,
            )
    elif may_grow(tasks) and tasks.is_unended:
        known = _count_known(settings)
        if known < len(tasks) and (known or settings.follow is not None):
            tasks.leave_last()


def read_beside_writer(settings: Settings, error: TasklistFileError) -> ListTaskList:
    """Return a plain list without its last line, which is wrong and has no newline.

    Raises `error` unless others may be writing that line, and `StorageError`.
    """
    may_wait = error.is_unended and files.is_file(settings.tasklist)
    if not may_wait or settings.remap:
        raise error
    if settings.follow is None and not _count_known(settings):
        raise error
    return ListTaskList.read_ended(settings.tasklist, settings.workdir)


def _count_known(settings: Settings) -> int:
    """Return how many tasks a list had when farms worked on it, 0 if none did."""
    paths = WorkdirPaths(os.path.abspath(settings.workdir))
    content = files.find_content(paths.fingerprint)
    stored = parse_fingerprint(content or b"")
    return stored.total if stored is not None else 0


def explain_unended(tasks: TaskList) -> str:
    """Return the sentence about a last line that was left; "" without one."""
    if not getattr(tasks, "has_left_last", False):
        return ""
    assert isinstance(tasks, ListTaskList)
    return (
        f"the last line of {tasks.path} has no newline yet, so it may be half written:"
        " it counts once it has one"
    )


def has_unended_line(path: str) -> bool:
    """Return whether a list's file has a last line without newline."""
    try:
        opened = ListFile(path)
    except OSError:
        return False
    try:
        version = opened.version()
        size = version[2] if version else 0
        return size > 0 and opened.read(size - 1, 1) not in (b"\n", b"\r")
    except OSError:
        return False
    finally:
        opened.close()


def has_changed(tasks: TaskList) -> bool:
    """Return whether the file of a list that may grow has changed since the reading."""
    if not may_grow(tasks) or not isinstance(tasks, ListTaskList):
        return False
    assert isinstance(tasks.tasks, PackedTexts)
    try:
        opened = ListFile(tasks.path)
    except OSError:
        return False
    try:
        return opened.version() != tasks.tasks.version
    finally:
        opened.close()
