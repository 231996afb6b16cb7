"""Versions, options, disk, lock, CPUs, and the memory of a task.

Rules of this file: what is on a disk is looked at in a child (`ask_child`), because a
dead server keeps a process for ever.
"""

import errno
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib import metadata, util
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from mpifarm import __version__
from mpifarm.batch.job import find_job
from mpifarm.commands.defaults import find_defaults
from mpifarm.commands.doctor.asking import ask_child
from mpifarm.commands.doctor.findings import (
    Finding,
    Verdict,
    bad,
    good,
    note,
    of_selftest,
)
from mpifarm.commands.option_values import parse_workers
from mpifarm.commands.selftest import node, storage
from mpifarm.commands.selftest.findings import run_check
from mpifarm.errors import InputError
from mpifarm.model.settings import Settings
from mpifarm.system.cgroups import NoCgroupError, find_delegated
from mpifarm.system.processes import find_directory

FILE_SECONDS: Final = 20.0
OPTION_SECONDS: Final = 10.0

LEAST_VERSIONS: Final = {"mpi4py": (4, 1), "filelock": (3, 30)}
"""As in pyproject.toml, which no checkout has pip obey."""


class Options(NamedTuple):
    """What files and variables say of options that the doctor needs."""

    lock_area: str | None = None
    workers: str | None = None


# ---- versions ------------------------------------------------------------------------


def look_at_versions() -> Finding:
    """Return the versions of mpifarm and of what it is made of."""
    found = {name: _find_version(name) for name in LEAST_VERSIONS}
    python = sys.version.split(maxsplit=1)[0]
    others = [f"{name} {version or 'missing'}" for name, version in found.items()]
    seen = f"mpifarm {__version__}, Python {python} ({sys.prefix}), {', '.join(others)}"
    old = [
        f"'{name}>={'.'.join(map(str, least))}'"
        for name, least in LEAST_VERSIONS.items()
        if () < parse_version(found[name]) < least
        or (name == "filelock" and not found[name])
    ]
    if old:
        return bad("versions", seen, f"pip install {' '.join(old)}")
    if util.find_spec("_sqlite3") is None:
        remedy = "for lists that are databases take another one, as that of the system"
        return note("versions", f"{seen}; this Python has no SQLite", remedy)
    return good("versions", seen)


def _find_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # copied without what pip notes
        return _UNKNOWN if util.find_spec(name) else ""


_UNKNOWN: Final = "of an unknown version"


def parse_version(text: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version: (3, 30) of 3.30.dev1."""
    numbers: list[int] = []
    for part in text.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


# ---- options -------------------------------------------------------------------------


def look_at_options(environ: Mapping[str, str]) -> tuple[Options, Finding]:
    """Return what files and variables set, and whether they can be read."""
    name = "options"

    def find() -> Any:
        defaults, warnings = find_defaults(environ)
        words = {each.option: each.words[0] for each in defaults if each.words}
        sources = [*dict.fromkeys(each.source for each in defaults)]
        return words, sources, warnings

    found, fault = ask_child(find, OPTION_SECONDS)
    if found is None:
        return Options(), bad(name, fault, "no farm starts before that is corrected")
    words, sources, warnings = found
    options = Options(words.get("--lock-area"), words.get("--proc"))
    places = f" by {', '.join(sources)}" if sources else " by files or variables"
    seen = f"{len(words) or 'none'} set{places}"
    if warnings:
        seen = "; ".join([seen, *(each.removeprefix("WARNING: ") for each in warnings)])
        remedy = (
            "correct that; only you or root may write such a file and the directories"
            " above it"
        )
        return options, note(name, seen, remedy)
    return options, good(name, seen, "mpifarm config lists each" if words else "")


# ---- the disk ------------------------------------------------------------------------


def look_at_disk(directory: str, lock_area: str | None) -> Iterator[Finding]:
    """Yield what the file system of a directory is, its space, fsync and lock.

    Without a file system that can be written, nothing more is looked at.
    """
    where = os.path.join(find_directory(), directory)
    if not os.path.isabs(where):
        yield bad(storage.FILE_SYSTEM, "the current directory is gone", _WHOLE)
        return
    where = os.path.normpath(where)
    for name in storage.CHECKS:
        found, fault = ask_child(partial(_try, name, where, lock_area), FILE_SECONDS)
        if found is None:
            remedy = _WAIT if "no answer" in fault else _ASK
            yield bad(_NAMES.get(name, name), f"{where}: {fault}", remedy)
            return
        shown, verdict, seen, remedy = found
        yield Finding(shown, Verdict(verdict), seen, remedy)
        if verdict == Verdict.BAD and shown == storage.FILE_SYSTEM:
            return


_NAMES: Final = {storage.LOCK: "lock"}
_WAIT: Final = (
    "this file system hangs, or that of the lock area: wait, or ask your site"
)
_ASK: Final = "ask your site, or name a directory on another file system"
_WHOLE: Final = (
    "go to one that is there, or name a whole path: mpifarm doctor DIRECTORY"
)
_ANOTHER: Final = (
    "name a directory that you may write, on the file system of your workdirs: mpifarm"
    " doctor DIRECTORY"
)


def _try(name: str, where: str, lock_area: str | None) -> tuple[str, ...]:
    """Make one check of the self-test.  Return the fields of its finding."""
    found = _check(name, where, lock_area)
    remedy = _ASK if found.verdict is Verdict.BAD else ""  # of an error of the system
    return found.name, found.verdict, found.seen, found.remedy or remedy


def _check(name: str, where: str, lock_area: str | None) -> Finding:
    try:
        made = TemporaryDirectory(prefix=".mpifarm-doctor-", dir=where)
    except OSError as error:
        return _refuse(where, error)
    try:
        with made as directory:
            stage = storage.Stage(directory, lock_area)
            if name == storage.LOCK:
                return _check_lock(stage)
            return of_selftest(run_check(name, storage.CHECKS[name], stage))
    finally:
        storage.remove_locks()


def _refuse(where: str, error: OSError) -> Finding:
    """Return the finding of a place in which no directory can be made."""
    name = storage.FILE_SYSTEM
    # /proc is one, and says ENOENT to whoever would make a directory there.
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.isdir(where):
        return bad(name, f"{where} is not a directory", _ANOTHER)
    seen = storage.check_mount(storage.Stage(where)).seen
    seen += f"; no file can be made in {where}: {error.strerror}"
    remedy = storage.FULL_REMEDY if storage.is_full(error) else _ANOTHER
    return bad(name, seen, remedy)


def _check_lock(stage: storage.Stage) -> Finding:
    """Return the finding of the lock, with the place of its files."""
    name = _NAMES[storage.LOCK]
    try:
        locks = stage.lock_files()
    except InputError as error:  # of the lock area
        seen, _, remedy = str(error).rpartition(": ")
        return bad(name, seen, remedy)
    found = of_selftest(run_check(name, storage.check_lock, stage))
    places = [os.path.dirname(each) for each in locks[:-1]]
    where = " and ".join([*places, "the workdir"])
    return replace(found, seen=f"flock in {where}; {found.seen}")


# ---- CPUs ----------------------------------------------------------------------------


def look_at_cpus(environ: Mapping[str, str], words: str | None) -> Finding:
    """Return whether this process has CPUs for the workers of a rank."""
    workers = parse_workers(words) if words else Settings("", "").workers
    finding = of_selftest(node.check_cpus(environ, workers), "CPUs")
    if words:
        return finding
    seen = f"{finding.seen}, the default of --proc"
    return replace(finding, seen=seen, remedy=finding.remedy or _MORE_WORKERS)


_MORE_WORKERS: Final = "--proc auto has a worker for each CPU, for tasks of one thread"


# ---- the memory of a task ------------------------------------------------------------


def look_at_task_memory(environ: Mapping[str, str]) -> Finding:
    """Return what bounds a task as a whole where ``--task-memory`` is given."""
    name = "task memory"
    try:
        version, directory = find_delegated()
    except NoCgroupError as why:
        seen = (
            "with --task-memory, the kernel bounds each process, and all of a task"
            f" together are looked at each second; {why}"
        )
        return good(name, seen, _how_to_delegate(environ))
    seen = f"with --task-memory, each task gets a cgroup of version {version}"
    return good(name, f"{seen} in {directory}, which was delegated")


def _how_to_delegate(environ: Mapping[str, str]) -> str:
    """Return how the kernel can bound a task, "" where a batch system is in charge."""
    user = os.getuid()
    if find_job(environ) or not os.path.isdir("/sys/fs/cgroup/system.slice"):
        return ""
    if user and not os.path.isdir(f"/run/user/{user}/systemd"):
        return ""
    scope = f"systemd-run {'--user ' if user else ''}--scope -p Delegate=yes"
    return f"to have the kernel bound it at once: {scope} mpifarm LIST"
