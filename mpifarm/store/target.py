"""A workdir with its tasklist: the words that name it, the tasks, the lock.

Rules of this file: it finds and reads, and creates nothing but a workdir (`find_lock`).
A mistake is an InputError of one sentence.
"""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from mpifarm.database.names import DATABASE_CLASS, choose_handler
from mpifarm.errors import InputError
from mpifarm.model.paths import STATUS_FILES, WorkdirPaths, parse_aside
from mpifarm.model.settings import HandlerDefinition, Settings, is_passing
from mpifarm.plugins.loading import RefusedModuleError
from mpifarm.plugins.registry import (
    UndefinedError,
    find_handler,
    find_search_path,
    is_built_in_handler,
)
from mpifarm.store.directories import make_root
from mpifarm.store.farm_file import find_last_with_path
from mpifarm.store.validate import validate_access
from mpifarm.system import files
from mpifarm.system.lock import WorkdirLock, lock_paths
from mpifarm.system.processes import find_directory
from mpifarm.tasklists import (
    TaskList,
    TasklistFileError,
    keeps_own_state,
    open_tasklist,
)

SUFFIX = "_workdir"


class Target(NamedTuple):
    """A workdir and its tasklist, with the options that a farm there was given.

    `tasklist` is None if it cannot be found.  `recalled_from`: the directory of the
    last farm, whose handler it is, because nobody has named one; it may not be defined
    elsewhere.  `refusal`: why that handler is not used, in a sentence; "" if it may be.
    `has_typed_config`: whether the user has typed `config`, and so has
    chosen its file; neither a default nor the farm file of a colleague's is that.
    """

    workdir: str
    tasklist: str | None
    handler: str = "default"
    config: str | None = None
    lock_area: str | None = None
    recalled_from: str | None = None
    has_typed_config: bool = False
    refusal: str = ""


def find_target_of(settings: Settings) -> Target:
    """Return the target of a farm."""
    return Target(
        *(settings.workdir, settings.tasklist, settings.handler),
        *(settings.config, settings.lock_area),
        has_typed_config=not settings.has_default("--config"),
    )


UNKNOWN_LIST: Final = "FILE"
"""What stands for a tasklist that is not known, or whose name means nothing now."""


def words_of(target: Target) -> list[str]:
    """Return the words by which a subcommand's command line names the target.

    `UNKNOWN_LIST` stands for a tasklist that is not known.
    """
    words = [target.workdir]
    root = target.workdir.rstrip("/")
    is_kept = target.tasklist == WorkdirPaths(root).stdin_list
    is_found = root == f"{target.tasklist}{SUFFIX}" or (
        is_kept and _find_list_beside(root) is None
    )
    if not is_found:
        words += ["--list", _name_list(target)]
    return words + _options_of(target)


def farm_words_of(target: Target) -> list[str]:
    """Return the words by which a farm's command line names the target.

    `UNKNOWN_LIST` stands for a tasklist that is not known.
    """
    words = _options_of(target)
    if target.workdir.rstrip("/") != f"{target.tasklist}{SUFFIX}":
        words += ["--workdir", target.workdir]
    return [*words, _name_list(target)]


def _name_list(target: Target) -> str:
    name = target.tasklist
    return UNKNOWN_LIST if name is None or is_passing(name) else name


def _options_of(target: Target) -> list[str]:
    words: list[str] = []
    if target.config is not None:
        words += ["--config", target.config]
    if target.handler != "default":
        words += ["-t", target.handler]
    if target.lock_area is not None:
        words += ["--lock-area", target.lock_area]
    return words


def recall_handler(target: Target) -> Target:
    """Return a target with the handler and the INI file of the workdir's last farm.

    An INI file of the target itself is kept.  A farm of PyTaskFarmer tells neither.  Of
    a farm file that a stranger could have written, only a built-in handler is used.
    """
    path, last = find_last_with_path(WorkdirPaths(os.path.abspath(target.workdir)))
    name, config = last.get("handler"), last.get("config")
    if not isinstance(name, str) or name == "default":
        return target
    if why := _find_stranger(path):
        # Neither the INI file nor the directory of a stranger's farm file is used.
        refusal = _refuse_to_recall(target, name, why, has_config=config is not None)
        return target._replace(handler=name, recalled_from="", refusal=refusal)
    if target.config is None and isinstance(config, str):
        refusal = "" if files.is_there(config) else _miss_config(target, name, config)
        target = target._replace(config=config, refusal=refusal)
    begun_in = str(last.get("directory", ""))
    return target._replace(handler=name, recalled_from=begun_in)


def _refuse_to_recall(target: Target, name: str, why: str, *, has_config: bool) -> str:
    """Return why a handler of a stranger's choice is not used, "" if it is built in."""
    if is_built_in_handler(name):
        return ""
    words = ["-t", name]
    if has_config:
        words += ["--config", UNKNOWN_LIST]
    return (
        f"{_tell_recalled(target, name)}, which could be any code, because {why}: if it"
        f" is right, give {shlex.join(words)}"
    )


def _miss_config(target: Target, name: str, config: str) -> str:
    """Return the sentence about an INI file of the last farm that is gone."""
    words = ["-t", name]
    if not is_built_in_handler(name):
        words += ["--config", UNKNOWN_LIST]
    return (
        f"{_tell_recalled(target, name)} and the --config {shlex.quote(config)}, which"
        f" is not there: move it back, or give {shlex.join(words)}"
    )


def _find_stranger(path: str) -> str:
    """Return why a file of the workdir is not to be trusted, "" if nothing is wrong."""
    from mpifarm.system.trust import find_stranger  # for lists with a handler

    try:
        return find_stranger(path)
    except OSError as error:  # it was there a moment ago
        return f"{path} can't be judged ({error.strerror})"


def find_handler_of(target: Target, environ: Mapping[str, str]) -> HandlerDefinition:
    """Return the definition of the handler that reads the list of a target.

    Unless the user names one, the name of a database chooses its handler.  Raises
    `InputError`, and `StorageError` if the disk fails.
    """
    if target.refusal:
        raise InputError(target.refusal)
    name = choose_handler(target.handler, target.tasklist or "")
    search_path = find_search_path(
        environ, target.config, is_typed=target.has_typed_config
    )
    try:
        return find_handler(name, search_path)
    except InputError as error:
        if target.recalled_from is None:
            raise
        is_undefined = isinstance(error, UndefinedError)
        if is_undefined and target.config is None and _began_elsewhere(target):
            raise InputError(
                f"{_tell_recalled(target, target.handler)}, which is not defined here:"
                f" give --config FILE, or first: cd {shlex.quote(target.recalled_from)}"
            ) from error
        why = _explain_recalled(target, error, may_be_there=is_undefined)
        raise InputError(why) from error


def _explain_recalled(
    target: Target, error: InputError, *, may_be_there: bool = False
) -> str:
    """Return why the handler of the last farm is not to be had, and what to do.

    `may_be_there`: what is missing may be in the directory where that farm began.
    """
    what = f"{_tell_recalled(target, target.handler)}: {error}"
    if may_be_there and _began_elsewhere(target):
        go = f"cd {shlex.quote(target.recalled_from or '')}"
        what += f" (or go first to where that farm began: {go})"
    return what


def _began_elsewhere(target: Target) -> bool:
    return target.recalled_from not in (None, "", find_directory())


def _tell_recalled(target: Target, name: str) -> str:
    option = shlex.join(["-t", name])
    return f"the last farm in {target.workdir} read its list by {option}"


def is_database(target: Target, environ: Mapping[str, str]) -> bool:
    """Return whether the list of a target is a database, which has all states itself.

    Raises as `find_handler_of`.
    """
    if target.tasklist is None:
        return False
    try:
        return find_handler_of(target, environ).python_class == DATABASE_CLASS
    except InputError:
        if target.recalled_from is None:
            raise
        return False  # who reads the list is told


def read_tasks(target: Target, environ: Mapping[str, str]) -> TaskList | None:
    """Read the tasks with their handler; return None if no tasklist is known.

    Raises `InputError`, and `StorageError` if the disk fails.
    """
    if target.tasklist is None:
        return None
    handler = find_handler_of(target, environ)
    if handler.python_class == DATABASE_CLASS:
        from mpifarm.store.database_reading import read_database_tasks

        return read_database_tasks(
            target.tasklist, lambda: find_existing_lock(target, environ)
        )
    try:
        with _trusting(target):
            return open_tasklist(
                handler, target.tasklist, target.workdir, lambda: lambda: None
            )
    except InputError as error:
        cause = _find_import_error(error)
        if target.recalled_from is None or cause is None:
            raise
        module = handler.python_class.partition(".")[0]
        is_missing = getattr(cause, "name", None) == module
        why = _explain_recalled(target, error, may_be_there=is_missing)
        raise InputError(why) from error


def _find_import_error(error: BaseException | None) -> BaseException | None:
    """Return the error of an import that has led to another, None if none has."""
    while error is not None:
        if isinstance(error, ImportError | RefusedModuleError):
            return error
        error = error.__cause__
    return None


@contextmanager
def _trusting(target: Target) -> Iterator[None]:
    """Have the modules of the current directory judged for a recalled handler.

    Nobody has asked for its class here, and the last farm may have begun elsewhere.
    """
    here = find_directory()
    if target.recalled_from is None or not here:
        yield
        return
    from mpifarm.plugins.trusted_finder import TrustedFinder  # for lists with a handler

    path, finder = [*sys.path], TrustedFinder("", [here])
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if _find_stranger(here):
            # What the class imports later is not judged.
            sys.path[:] = path


def look_at_tasks(
    target: Target, environ: Mapping[str, str]
) -> tuple[TaskList | None, str]:
    """Read the tasks, for a command that only looks, as `read_tasks` does.

    If a line of the list is wrong, or a recalled handler can't read it here, return
    None and the sentence about it: a farm may be at work, and the files still tell
    enough.
    """
    try:
        return read_tasks(target, environ), ""
    except InputError as error:
        is_of_a_line = isinstance(error, TasklistFileError) and error.place
        if not is_of_a_line and target.recalled_from is None:
            raise
        return None, str(error)


def has_own_state(tasks: TaskList | None, target: Target) -> bool:
    """Return whether the tasklist keeps its own state, apart from files."""
    return tasks is not None and keeps_own_state(tasks, target.workdir)


def find_lock(target: Target, environ: Mapping[str, str]) -> WorkdirLock:
    """Return the lock that a farm would take, not yet taken; its probe makes files.

    Make the workdir if it is missing.  Raises `InputError` if a farm could not write to
    the workdir, `StorageError` if the disk fails.
    """
    root = os.path.abspath(target.workdir)
    make_root(root)
    validate_access(WorkdirPaths(root))
    return WorkdirLock(lock_paths(target.workdir, environ, target.lock_area))


def find_existing_lock(
    target: Target, environ: Mapping[str, str]
) -> WorkdirLock | None:
    """Return a lock of the lock files that exist, None if there is none."""
    paths = lock_paths(target.workdir, environ, target.lock_area)
    there = [path for path in paths if files.is_there(path)]
    return WorkdirLock(there) if there else None


def find_tasklist_of(workdir: str) -> str | None:
    """Return the list of a workdir, None if nothing in sight says which that is.

    It is the file that the workdir is named after, or standard input as it was kept.
    """
    if (tasklist := _find_list_beside(workdir)) is not None:
        return tasklist
    kept = WorkdirPaths(workdir.rstrip("/")).stdin_list
    return kept if files.is_file(kept) else None


def _find_list_beside(workdir: str) -> str | None:
    """Return the file that a workdir is named after, None if it does not exist.

    A workdir that was moved aside (``--again``) keeps that name in front.
    """
    path = workdir.rstrip("/")
    if aside := parse_aside(path):
        path = aside[0]
    tasklist = path.removesuffix(SUFFIX)
    return tasklist if tasklist != path and files.is_file(tasklist) else None


def find_workdir_of_kept(path: str) -> str | None:
    """Return the workdir that keeps standard input at `path`, None for another list."""
    workdir, name = os.path.split(path)
    paths = WorkdirPaths(workdir or ".")
    is_kept = name == os.path.basename(paths.stdin_list) and files.is_file(path)
    return paths.root if is_kept and files.is_there(paths.fingerprint) else None


def refuse_as_list(path: str) -> None:
    """Raise `InputError` if `path`, given as a list, is a workdir or a file in one."""
    is_directory = files.is_directory(path)
    workdir = path if is_directory else os.path.dirname(path) or os.getcwd()
    if _is_workdir(workdir):
        target = Target(workdir, find_tasklist_of(workdir))
        farm = shlex.join(["mpifarm", *farm_words_of(target)])
        retry = shlex.join(["mpifarm", "retry", *words_of(target)])
        what = "the workdir" if is_directory else "a file in the workdir"
        raise InputError(
            f"{path} is {what} of a list, and no list: {farm} goes on with the list,"
            f" {retry} puts back what failed"
        )


def refuse_status_file(path: str) -> None:
    """Raise `InputError` if `path` is a file that a farm keeps in its workdir."""
    workdir, name = os.path.split(path)
    if name in STATUS_FILES and _is_workdir(workdir or os.getcwd()):
        raise InputError(
            f"{path} is a file in the workdir {workdir or '.'}: name the workdir"
        )


def _is_workdir(path: str) -> bool:
    """Return whether a directory is named after a list, or has a fingerprint."""
    has_list = _find_list_beside(path) is not None
    return has_list or files.is_there(WorkdirPaths(path).fingerprint)
