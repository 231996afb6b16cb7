"""What rank 0 does before the first task: read the input, join the workdir.

Rules of this file: all that can be wrong with the input is found before anything is
changed, as an `InputError`.  A disk that fails is tried again for the grace time.
"""

import math
import os
import secrets
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar, cast

from mpifarm.batch.arrays import find_array
from mpifarm.database.names import DATABASE_CLASS, choose_handler
from mpifarm.errors import FutileError, InputError
from mpifarm.farm.context import RankContext
from mpifarm.farm.directory import find_directory_of_commands, runs_anywhere
from mpifarm.farm.expected import choose_order_of
from mpifarm.farm.growth import (
    check_follow,
    is_plain_database,
    leave_unended,
    read_beside_writer,
)
from mpifarm.farm.standard_input import is_kept, name_kept_list
from mpifarm.model.packed_texts import PackedTexts
from mpifarm.model.paths import STATUS_FILES, WorkdirPaths
from mpifarm.model.settings import (
    FarmDefinition,
    HandlerDefinition,
    RunnerDefinition,
    Settings,
)
from mpifarm.model.wording import duration_in_words
from mpifarm.order.directives import LIMIT, command_of
from mpifarm.plugins.loading import in_one_line
from mpifarm.plugins.registry import (
    SearchPath,
    find_handler,
    find_runner,
    find_search_path_of,
)
from mpifarm.runners import check_runner
from mpifarm.store.aside import drop_second_locks
from mpifarm.store.custom_store import CustomStore, OwnStateList
from mpifarm.store.directories import make_directories, make_root
from mpifarm.store.farm_file import find_last_farm_file
from mpifarm.store.file_store import LOCK_TIMEOUT, FileStore
from mpifarm.store.membership import FAMILY
from mpifarm.store.start_order import StartOrder
from mpifarm.store.store import Store
from mpifarm.store.strangers import validate_place
from mpifarm.system.files import is_there
from mpifarm.system.lock import WorkdirLock, lock_paths
from mpifarm.system.patience import Patience, try_again
from mpifarm.system.signals import SignalInbox
from mpifarm.tasklists import (
    PLAIN_CLASS,
    ListTaskList,
    TaskList,
    TasklistFileError,
    find_constraints,
    find_handler_class,
    is_database,
    keeps_own_state,
    open_tasklist,
)

T = TypeVar("T")

TELL_SECONDS = 3.0
"""Seconds that the start sleeps for the lock before the user is told."""


class OpenedFarm(NamedTuple):
    """A workdir that was joined, with its lock, and the definition of its farm."""

    store: Store
    lock: WorkdirLock
    definition: FarmDefinition


class Opening:
    """The start of a farm, or of its rest under a new leader, on a disk that may fail.

    An act that fails is tried again as a whole for the grace time: no lock is held
    between two tries, and a kill at any step of a try is harmless, so its failure is,
    too.
    """

    def __init__(self, context: RankContext, *, takes_over: bool = False) -> None:
        self._context = context
        self._takes_over = takes_over
        settings, process = context.settings, context.process
        self._lock_names = ""
        self._order: StartOrder | None = None
        """The order in which tasks start; None: that of the list."""
        self._sleep = StartSleep(
            *(process.signals, context.begun, settings.timeout),
            *(self._tell_of_lock, self._show_wait),
        )
        self._sleep.may_end_start = not takes_over
        self._patience = Patience(
            "the disk", settings.grace, process.output.say, "can be used again"
        )

    def _tell_of_lock(self) -> None:
        self._context.process.output.say(
            f"the lock ({self._lock_names}) is held by another farmer; waiting for it"
        )

    def _show_wait(self) -> None:
        waited = duration_in_words(time.monotonic() - self._context.begun)
        self._context.process.output.show(f"waiting for the lock, {waited} so far")

    def patiently(self, act: Callable[[], T]) -> T:
        """Call `act`, again for the grace time while the disk fails; return its result.

        Raise StorageError after that, and FutileError if a signal or the timeout comes
        first.
        """
        return try_again(act, self._patience, self._sleep.pause)

    def read_definitions(self) -> tuple[RunnerDefinition, TaskList]:
        """Return the runner's definition and the list, both checked.

        Raise InputError.  A handler may make the directories of the workdir.
        """
        return self.patiently(lambda: _read_definitions(self._context))

    def check_beginning_again(self) -> None:
        """Raise `InputError` if runner or handler can't begin a kept list again.

        Nothing is known of the next list, and the list of before need not be right.
        """
        self.patiently(lambda: _check_beginning_again(self._context))

    def choose_order(self, tasks: TaskList, durations: Mapping[int, float]) -> str:
        """Choose the order in which tasks start.  Return a sentence about it, or "".

        `durations` are the seconds that tasks took before.  Raises `InputError` for a
        list that can have no order but its own.
        """
        chosen = choose_order_of(
            self._context.settings, tasks, durations, of_database=is_database(tasks)
        )
        if chosen is None:
            return ""
        self._order = chosen.order
        return chosen.sentence

    def join(
        self, tasks: TaskList, runner: RunnerDefinition, inherits: str = ""
    ) -> OpenedFarm:
        """Join the workdir as a new farm, and take over the farm `inherits`, if any.

        From then on signals and the timeout no longer end the start: they are the
        leader's.  Each try joins as another farm, which takes over the one of the try
        before.
        """
        farms = [inherits]

        def try_to_join() -> OpenedFarm:
            # A try that failed may have left its claim, which the next one inherits.
            before = farms[-1]
            farm = before[:FAMILY] + secrets.token_hex(FAMILY // 2)
            farms.append(farm)
            return self._join(tasks, self._define(farm, runner), before)

        opened = self.patiently(try_to_join)
        # From here on a signal is the leader's.
        self._sleep.may_end_start = False
        return opened

    def _define(self, farm: str, runner: RunnerDefinition) -> FarmDefinition:
        settings = self._context.settings
        return FarmDefinition(
            farm=farm,
            workdir=os.path.abspath(settings.workdir),
            runner=runner,
            grace=settings.grace,
            limits=settings.limits,
            logs=settings.logs,
            id_variables=settings.id_variables,
            verbose=settings.verbose or self._is_watched(),
            directory=""
            if runs_anywhere(runner)
            else find_directory_of_commands(settings, self._context.process.environ),
        )

    def _is_watched(self) -> bool:
        """Return whether a hook is told of each task that begins."""
        return any(each.watches_tasks for each in self._context.hooks)

    def _join(
        self, tasks: TaskList, definition: FarmDefinition, inherits: str
    ) -> OpenedFarm:
        """Make the workdir, probe the lock, and join by files or a handler's state."""
        settings, process = self._context.settings, self._context.process
        refuse_remap(settings, tasks, of_database=is_database(tasks))
        area = lock_paths(settings.workdir, process.environ, settings.lock_area)
        self._lock_names = ", ".join(area)
        lock = WorkdirLock(area, sleep=self._sleep)
        make_root(definition.workdir)
        drop_second_locks(definition.workdir)
        lock.probe()
        if is_database(tasks):
            store = self._join_database(tasks, definition, lock, inherits)
            return OpenedFarm(store, lock, definition)
        if keeps_own_state(tasks, settings.workdir):
            store = self._join_custom(tasks, definition, lock, inherits)
            return OpenedFarm(store, lock, definition)
        file_store = FileStore.open(
            definition.workdir,
            tasks.tasks,
            lock,
            definition.farm,
            predecessor=inherits,
            remap=settings.remap and not self._takes_over,
            array=find_array(process.environ),
            constraints=find_constraints(tasks),
            order=self._order,
        )
        return OpenedFarm(file_store, lock, definition)

    def _join_custom(
        self,
        tasks: object,
        definition: FarmDefinition,
        lock: WorkdirLock,
        inherits: str,
    ) -> Store:
        """Join a workdir whose handler keeps its own state."""
        own = cast(OwnStateList, tasks)
        return CustomStore.open(
            definition.workdir, own, lock, definition.farm, predecessor=inherits
        )

    def _join_database(
        self,
        tasks: TaskList,
        definition: FarmDefinition,
        lock: WorkdirLock,
        inherits: str,
    ) -> Store:
        """Join the workdir of a database."""
        from mpifarm.store.database_store import DatabaseStore  # imports sqlite3

        assert isinstance(tasks.tasks, PackedTexts)
        return DatabaseStore.open(
            definition.workdir,
            self._context.settings.tasklist,
            tasks.tasks,
            find_constraints(tasks),
            lock,
            definition.farm,
            predecessor=inherits,
            array=find_array(self._context.process.environ),
        )


def refuse_remap(settings: Settings, tasks: TaskList, *, of_database: bool) -> None:
    """Raise `InputError` for ``--remap`` with a list that is no text file."""
    if settings.remap and of_database:
        raise InputError(
            "--remap is for a text list that was edited, and in the database"
            f" {settings.tasklist} each task keeps its id: leave the option out"
        )
    if settings.remap and keeps_own_state(tasks, settings.workdir):
        raise InputError(
            "--remap changes mpifarm's own status files, and the handler"
            f" {settings.handler!r} keeps its own state: leave the option out"
        )


class StartSleep:
    """The sleeps of a start that waits for the lock or the disk.

    A signal or the timeout ends them.  `tell` is called once, when the sleeps for the
    lock have taken `TELL_SECONDS`, and `show` at each sleep for it after that.
    """

    def __init__(
        self,
        signals: SignalInbox,
        begun: float,
        timeout: float | None,
        tell: Callable[[], None],
        show: Callable[[], None] = lambda: None,
    ) -> None:
        self.may_end_start = True
        """Whether signals and the timeout end the start."""
        self._signals = signals
        self._ends = math.inf if timeout is None else begun + timeout
        self._slept = 0.0
        self._tell = tell
        self._show = show

    def __call__(self, seconds: float) -> None:
        """Sleep for the lock; raise `FutileError` after a signal or at the timeout."""
        time.sleep(seconds)
        before, self._slept = self._slept, self._slept + seconds
        if before <= TELL_SECONDS < self._slept and self.may_end_start:
            self._tell()
        elif before > TELL_SECONDS and self.may_end_start:
            self._show()
        self._check("while waiting for the lock, which another farmer holds")

    def pause(self, seconds: float) -> None:
        """Sleep between two tries to use the disk; raise `FutileError` likewise."""
        time.sleep(seconds)
        self._check("while the disk could not be used")

    def _check(self, when: str) -> None:
        """Raise `FutileError` if a signal or the timeout is to end the start."""
        if self.may_end_start and self._signals.any_noted:
            raise FutileError(f"stopped by a signal {when}; nothing was started")
        if self.may_end_start and time.monotonic() > self._ends:
            raise FutileError(f"--timeout was over {when}; nothing was started")


# ---- the input ----------------------------------------------------------------------


def _read_definitions(context: RankContext) -> tuple[RunnerDefinition, TaskList]:
    """Read and check runner, handler, GPUs and list; say the warning about GPUs."""
    settings, process = context.settings, context.process
    runner, handler = _find_definitions(context)
    if settings.gpus != "none":
        from mpifarm.system.gpus import check_gpus

        if warning := check_gpus(settings.gpus, process.environ):
            process.output.say(warning)
    refuse_workdir(settings)
    validate_place(settings.workdir, settings.tasklist)
    _finish_adding(context)
    tasks = _open_list(handler, settings)
    leave_unended(tasks, settings)
    if settings.again:
        from mpifarm.farm.again import check_again  # for those who ask

        check_again(settings, tasks, of_database=is_database(tasks))
    return runner, tasks


def _find_definitions(
    context: RankContext,
) -> tuple[RunnerDefinition, HandlerDefinition]:
    settings, environ = context.settings, context.process.environ
    search_path = find_search_path_of(settings, environ)
    runner = find_runner(settings.runner, search_path, settings.setup)
    handler = _find_handler(settings, search_path)
    check_runner(runner)
    return runner, handler


def _check_beginning_again(context: RankContext) -> None:
    """Check runner, handler and GPUs, and whether the handler keeps its own state."""
    from mpifarm.farm.again import check_again  # for those who ask

    settings, environ = context.settings, context.process.environ
    _, handler = _find_definitions(context)
    if settings.gpus != "none":
        from mpifarm.system.gpus import check_gpus

        check_gpus(settings.gpus, environ)
    python_class = find_handler_class(handler)
    if is_database(python_class):
        check_again(settings, python_class, of_database=True)
    kept = WorkdirPaths(os.path.abspath(settings.workdir)).stdin_list
    if python_class is ListTaskList or not is_there(kept):
        return
    try:
        tasks = _open_list(handler, replace(settings, tasklist=kept))
    except InputError:
        return  # The next list may be right.
    check_again(settings, tasks, of_database=False)
    check_follow(settings, tasks)


def _open_list(handler: HandlerDefinition, settings: Settings) -> TaskList:
    try:
        return open_tasklist(
            handler,
            settings.tasklist,
            settings.workdir,
            lambda: make_directories(settings.workdir),
        )
    except TasklistFileError as error:
        if handler.python_class != PLAIN_CLASS:
            raise
        return read_beside_writer(settings, error)


def _find_handler(settings: Settings, search_path: SearchPath) -> HandlerDefinition:
    """Return the handler: the one that is named, or that of a database by its name.

    A database is read under the lock of its workdir, whose area it gets as an option.
    """
    name = choose_handler(settings.handler, settings.tasklist)
    handler = find_handler(name, search_path)
    if handler.python_class != DATABASE_CLASS or settings.lock_area is None:
        return handler
    return replace(handler, options={"lock_area": settings.lock_area})


def _finish_adding(context: RankContext) -> None:
    """Bring to their end the lines that a killed ``mpifarm add`` was adding."""
    settings = context.settings
    paths = WorkdirPaths(os.path.abspath(settings.workdir))
    if not is_there(paths.adding):
        return
    from mpifarm.store import adding  # for the few who need it

    lock = WorkdirLock(
        lock_paths(settings.workdir, context.process.environ, settings.lock_area)
    )
    with lock.hold(LOCK_TIMEOUT):
        adding.finish_at_start(paths, settings.tasklist)


def refuse_workdir(settings: Settings) -> None:
    """Raise `InputError` where a workdir, or a file of one, is named as the list."""
    path = settings.tasklist
    name, kept = os.path.basename(path), WorkdirPaths(settings.workdir).stdin_list
    if os.path.realpath(path) == os.path.realpath(kept):
        return  # the list of this workdir: standard input
    looks_so = os.path.isdir(path) or name in (*STATUS_FILES, os.path.basename(kept))
    if settings.handler == "default" and looks_so:
        from mpifarm.store.target import refuse_as_list

        refuse_as_list(path)


MAX_FARM_FILES: Final = 1000
"""Files of farms that a start looks at: a job array may have left many thousands."""


def refuse_other_handler(settings: Settings) -> None:
    """Raise `InputError` where a farm read this list by a handler, and none is named.

    Its lines need not be commands, and by ``--remap`` they would run as such.
    """
    if settings.names_handler or settings.again:
        return
    paths = WorkdirPaths(os.path.abspath(settings.workdir))
    last = find_last_farm_file(paths, MAX_FARM_FILES)
    name = last.get("handler", "default")
    tasklist = name_kept_list(settings) if is_kept(settings) else settings.tasklist
    own = choose_handler("default", settings.tasklist)
    if name in ("default", own) or _is_other(last, tasklist):
        return
    option = shlex.join(["-t", str(name)])
    raise InputError(
        f"the last farm in {settings.workdir} read {tasklist} by the handler {name}:"
        f" add {option}, or -t default if each line is a command"
    )


def _is_other(last: Mapping[str, Any], tasklist: str) -> bool:
    """Return whether a farm's list is there, and not this one."""
    with suppress(OSError, TypeError, ValueError):
        return not os.path.samefile(last["tasklist"], tasklist)
    return False


def check_not_begun(settings: Settings) -> None:
    """Raise `InputError` if the workdir of a list without tasks was begun with some."""
    paths = WorkdirPaths(os.path.abspath(settings.workdir))
    if is_there(paths.fingerprint):
        raise InputError(
            f"{settings.tasklist} has no tasks, but {settings.workdir} was begun with "
            "some: restore the list, or name another --workdir"
        )


# ---- the commands -------------------------------------------------------------------


class ListCommands(Sequence[str]):
    """The commands of the default handler, by task id."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, taskid: Any) -> Any:
        """Return the command: the text without the prefix that names a kind."""
        text = self._texts[taskid]
        return command_of(text) if text.startswith(LIMIT) else text


class CheckedCommands(Sequence[str]):
    """The commands of a handler of the user's, by task id, each checked."""

    def __init__(self, tasks: TaskList, handler: str) -> None:
        self._tasks = tasks
        self._handler = handler
        self._count = len(tasks)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, taskid: Any) -> Any:
        """Return the command; raise `InputError` where the handler has none."""
        try:
            command = self._tasks[taskid]
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code
            why = in_one_line(error)
        else:
            if isinstance(command, str):
                # A string of a class of the user's own can't be sent to a worker.
                return str.__str__(command)
            why = f"it is a {type(command).__name__}, not a text"
        raise InputError(
            f"the handler {self._handler!r} gave no command for task {taskid} ({why})"
        )


def find_commands(tasks: TaskList, handler: str) -> Sequence[str]:
    """Return the commands by task id; those of a handler are checked one by one."""
    if type(tasks) is ListTaskList:
        return ListCommands(tasks.tasks)
    if is_plain_database(tasks):
        return tasks.tasks
    return CheckedCommands(tasks, handler)
