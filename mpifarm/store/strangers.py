"""Files that another user may have put in the place of a workdir, or into it.

Rules of this file: it changes nothing; a file that must not be used is an `InputError`
that names the file, its owner and the remedy.  This is a first check, so that all is
reported before anything begins: the code that opens a file checks it again.
"""

import os
import pwd
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress

from mpifarm.errors import InputError
from mpifarm.model.paths import WorkdirPaths, parse_queue_staging
from mpifarm.system import files
from mpifarm.system.regular_files import kind_in_words

_MAX_LINKS = 40
"""The number of links that Linux follows, path_resolution(7)."""

_NOT_THERE = (FileNotFoundError, NotADirectoryError, PermissionError)
"""Errors that the code that uses the file reports; all others may pass."""

_WHOSE = "who is neither you, root nor the owner of"


def validate_place(workdir: str, tasklist: str | None) -> None:
    """Raise `InputError` for the workdir of a stranger, or a stranger's link to one.

    Such a workdir stands where everyone may write, and belongs neither to the user, nor
    to root, nor to the owner of `tasklist` (None: unknown).  A workdir that does not
    exist passes.
    """
    root = os.path.abspath(workdir)
    _validate_links(root, "workdir")
    with suppress(*_NOT_THERE):
        status = os.stat(root)
        above = os.stat(os.path.dirname(os.path.realpath(root)))
        friends = {*_friends(), _owner_of(tasklist)} if tasklist else _friends()
        if above.st_mode & stat.S_IWOTH and status.st_uid not in friends:
            raise InputError(
                f"the workdir {workdir} belongs to {user_name(status.st_uid)}, {_WHOSE}"
                " the tasklist, and stands where everyone may write: it is not used;"
                " name another workdir, where only you or your group may write"
            )


def validate_contents(paths: WorkdirPaths) -> None:
    """Raise `FarmError` for a directory or file in a workdir that a farm cannot use.

    It is a stranger's link, not a directory, or not a regular file.  Missing ones pass.
    """
    for directory in _directories(paths):
        _validate_links(directory, "directory")
        if files.is_there(directory) and not files.is_directory(directory):
            raise InputError(
                f"{directory} is not a directory: remove it, or use another workdir"
            )
    for path in _files(paths):
        with suppress(*_NOT_THERE):
            validate_file(path)


def is_of_workdir(paths: WorkdirPaths, path: str) -> bool:
    """Return whether `path` is a file that a farm keeps, there or not yet there."""
    real = os.path.realpath(path)
    if real in map(os.path.realpath, _files(paths)):
        return True
    return any(
        real.startswith(os.path.join(os.path.realpath(each), ""))
        for each in (paths.logs, paths.claims, paths.farms)
    )


def validate_file(path: str) -> None:
    """Raise `UnfitFileError` unless `path` is a regular file, OSError if it is gone."""
    if what := kind_in_words(os.lstat(path).st_mode):
        raise files.unfit_file_error(path, f"it is {what}")


def _directories(paths: WorkdirPaths) -> Iterator[str]:
    yield paths.logs
    yield paths.claims
    yield paths.farms
    yield paths.packed_logs
    yield paths.unkept_logs


def _files(paths: WorkdirPaths) -> Iterator[str]:
    yield from (paths.toprocess, paths.added, paths.waiting)
    yield from (paths.finished, paths.failed)
    yield from (paths.timeline, paths.attempts, paths.first_attempts)
    yield from (paths.fingerprint, paths.result, paths.adding)
    yield from (paths.stdin_list, paths.begun_in, paths.begun_again)
    yield from (paths.drain, paths.lock)
    yield from (paths.requests, paths.answers, paths.held)
    with suppress(*_NOT_THERE):
        for name in os.listdir(paths.root):
            if parse_queue_staging(name):
                yield paths.file(name)


def _validate_links(path: str, what: str) -> None:
    """Follow links from `path`; raise `InputError` for a link of a stranger.

    Such a link may lead anywhere.  Errors of the system are left to the code that uses
    `path`.
    """
    for _ in range(_MAX_LINKS):
        try:
            status = os.lstat(path)
            if not stat.S_ISLNK(status.st_mode):
                return
            above = os.path.dirname(path)
            if status.st_uid not in {*_friends(), _owner_of(above)}:
                raise InputError(
                    f"the {what} {path} is a link of {user_name(status.st_uid)},"
                    f" {_WHOSE} {above}: it is not followed; have it removed, or name"
                    " another workdir"
                )
            path = os.path.join(above, os.readlink(path))
        except OSError:
            return  # The code that uses it reports this.


def _friends() -> Collection[int]:
    return {os.geteuid(), 0}  # root could do anything anyway


def _owner_of(path: str) -> int:
    """Return the uid of a file's owner, -1, which nobody has, if that is unknown."""
    try:
        return os.stat(path).st_uid
    except _NOT_THERE:
        return -1


def user_name(uid: int) -> str:
    """Return ``user <name>``, or ``user <uid>`` for a user without a name here."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
