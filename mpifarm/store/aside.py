"""Workdirs that are moved aside, so that their lists begin again (``--again``).

Rules of this file: the caller holds the workdir's lock, and no farm is at work.  The
next workdir is made whole beside the old one; then two renames follow.  A kill before
the first has changed nothing.  Between the two there is no workdir, and the next start
that is to begin again puts the new one in its place: it would move nothing aside, for
nothing has begun there.  The next workdir has a mark, made first and removed last: one
without it is the user's, and is left alone.

The new workdir has the lock file of the old one, by another name of the same file: a
farmer that waits for the lock in this moment gets it in the new workdir.  It also has
the list, if that is kept in the workdir, and the job scripts, since jobs may wait.
"""

import errno
import os
import re
import shlex
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from mpifarm.errors import InputError, StorageError
from mpifarm.model.id_ranges import name_ids
from mpifarm.model.paths import (
    JOB_SCRIPT,
    PACKED,
    UNKEPT,
    WorkdirPaths,
    aside_of,
    copy_staging_of,
    parse_aside,
)
from mpifarm.model.wording import agree
from mpifarm.store.claims import OtherClaim, OtherClaims, assess_untaken, grasped
from mpifarm.store.farm_liveness import FarmLiveness, Machine
from mpifarm.store.nowhere import read_nowhere
from mpifarm.system import files

# ---- names ---------------------------------------------------------------------------


def name_aside(root: str, stamp: str) -> str:
    """Return a free path beside the workdir `root`, to which to move it."""
    number = 1
    while os.path.lexists(aside_of(root, stamp, number)):
        number += 1
    return aside_of(root, stamp, number)


def name_next(root: str) -> str:
    """Return the path at which the workdir that is to come is made."""
    return f"{root}.mpifarm-next"


def list_asides(root: str) -> list[str]:
    """Return the workdirs that were moved aside from `root`, the latest last."""
    above, name = os.path.split(os.path.realpath(root))
    try:
        found = {each: parse_aside(each) for each in os.listdir(above)}
    except OSError:
        return []
    ours = {each: aside for each, aside in found.items() if aside and aside[0] == name}
    return [os.path.join(above, each) for each in sorted(ours, key=ours.__getitem__)]


# ---- what is there -------------------------------------------------------------------


def has_begun(paths: WorkdirPaths) -> bool:
    """Return whether a workdir has anything of tasks that have begun, or were recorded.

    Farms that were killed before they took a task leave nothing to keep.  Raises
    `StorageError`.
    """
    kept = (
        *(paths.toprocess, paths.added, paths.waiting, paths.finished, paths.failed),
        *(paths.attempts, paths.first_attempts, paths.timeline, paths.result),
        paths.remap,
    )
    if any(map(files.is_there, kept)):
        return True
    outputs = {*files.find_names(paths.logs)} - {PACKED, UNKEPT}
    places = (paths.packed_logs, paths.unkept_logs)
    return bool(outputs) or any(map(files.find_names, places))


def refuse_farmers(
    paths: WorkdirPaths, machine: Machine, total: int, *, locked: bool = True
) -> None:
    """Raise `InputError` if a farm may be at work, or a plain farmer may have tasks.

    `total` is the number of tasks in the list, as far as it is known.  `locked`: the
    main lock is held; without it, no lock of a claim is tried.  Raises `StorageError`.
    """
    others = OtherClaims(paths, farm="")
    others.poll()
    claimed: set[int] = set()
    for claim in others.claims.values():
        claimed.update(claim.journal.held)
        liveness = (_grasp if locked else assess_untaken)(claim, machine)
        if liveness.may_live:
            is_sure = liveness is not FarmLiveness.UNCERTAIN
            may = "is" if is_sure else "may still be"
            raise InputError(
                f"--again moves {paths.root} aside, and farm {claim.describe()} {may}"
                " at work there: end it first (mpifarm drain), or wait for its end"
            )
    if not files.is_there(paths.remap):  # else no plain farmer was at work
        _refuse_lost(paths, claimed, total)


def _grasp(claim: OtherClaim, machine: Machine) -> FarmLiveness:
    with grasped(claim, machine) as grasp:
        return grasp.liveness


def _refuse_lost(paths: WorkdirPaths, claimed: set[int], total: int) -> None:
    """Raise `InputError` if tasks are in no file.  Without ``toprocess`` none are."""
    lost = read_nowhere(paths, claimed, total)
    if lost:
        are = agree(len(lost), "task", "tasks")
        is_in = agree(len(lost), "is", "are")
        move = shlex.join(["mv", paths.root, f"{paths.root}.before"])
        raise InputError(
            f"--again moves {paths.root} aside, and {are} {name_ids(lost)} {is_in} in"
            " no file there: with a PyTaskFarmer that is at work, or lost by one; if"
            f" none is, move it yourself: {move}"
        )


# ---- moving --------------------------------------------------------------------------


def finish_move(root: str) -> bool:
    """Put the next workdir in its place if a kill has left none.  Return whether.

    Where it is in its place, names that a kill has left are removed.  Raises
    `InputError` for one that is not ours, `StorageError`.
    """
    following = name_next(root)
    is_left = not files.is_there(root) and bool(files.find_names(following))
    if is_left:
        _refuse_strangers(following)
        try:
            _rename(following, root)
        except OSError as error:
            raise files.storage_error("make", root, error) from error
    with suppress(OSError):
        os.unlink(WorkdirPaths(root).next_mark)
    drop_second_locks(root)
    return is_left


def find_next_list(root: str) -> bytes | None:
    """Return the list in a next workdir that a kill has left, as `finish_move` will.

    Return None without one.  Raises `StorageError`.
    """
    following = name_next(root)
    is_left = not files.is_there(root) and _is_made(files.find_names(following))
    return files.find_content(WorkdirPaths(following).stdin_list) if is_left else None


def drop_second_locks(root: str) -> None:
    """Remove second names that a killed start has left of the lock file in `root`.

    In a directory where everyone may write, a lock file with two names is not used.
    """
    try:
        lock = os.lstat(WorkdirPaths(root).lock)
        if lock.st_nlink == 1 or not os.stat(root).st_mode & stat.S_IWOTH:
            return
        for each in (name_next(root), *list_asides(root)):
            other = WorkdirPaths(each).lock
            with suppress(FileNotFoundError):
                if os.path.samestat(os.lstat(other), lock):
                    os.unlink(other)
    except OSError:
        return  # Who uses the lock says what is wrong.


def move_aside(root: str, stamp: str) -> str:
    """Move the workdir `root` aside, and make a new one.  Return where the old one is.

    `root` is no link.  `stamp` is a word for the time.  Raises `InputError` if the
    system refuses it, with nothing changed; `StorageError`, after which `finish_move`
    may have something to do.
    """
    aside, following = name_aside(root, stamp), name_next(root)
    if files.is_there(following):
        _refuse_strangers(following)
    try:
        _make_next(WorkdirPaths(root), WorkdirPaths(following))
        _rename(root, aside)
    except OSError as error:
        if files.is_there(root):
            _remove_next(following)
        raise _explain(root, error) from error
    try:
        _rename(following, root)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise files.storage_error("make", root, error) from error
        # Another farmer has made it in this moment, and begins there.
        _remove_next(following)
    # The two would have one lock.
    for left in (WorkdirPaths(aside).lock, WorkdirPaths(root).next_mark):
        with suppress(OSError):
            os.unlink(left)
    with suppress(StorageError):  # all has happened
        files.sync_names(os.path.dirname(root))
    return aside


def move_back(root: str, aside: str, ours: bytes | None = None) -> bool:
    """Put the workdir that was moved to `aside` in its place again.  Return whether.

    It stays where it is if the workdir `root` has anything but what `move_aside` has
    made there; `ours` is a list that may be there, too.  Raises `StorageError`.
    """
    old, new, following = WorkdirPaths(aside), WorkdirPaths(root), name_next(root)
    if files.is_there(following) or not _is_unused(old, new, ours):
        return False
    try:
        os.close(files.create_exclusively(new.next_mark))
        with suppress(OSError):  # a file system without hard links
            os.link(new.lock, old.lock, follow_symlinks=False)
        _rename(root, following)
        _rename(aside, root)
    except OSError:
        with suppress(OSError):
            if not files.is_there(root):
                os.rename(following, root)
        for left in (old.lock, new.next_mark):
            with suppress(OSError):
                os.unlink(left)
        return False
    _remove_next(following)
    with suppress(StorageError):  # all has happened
        files.sync_names(os.path.dirname(root))
    return True


def _is_unused(old: WorkdirPaths, new: WorkdirPaths, ours: bytes | None) -> bool:
    """Return whether a next workdir has only what it got from the old one, or `ours`.

    Raises `StorageError`.
    """
    kept, lock = map(os.path.basename, (new.stdin_list, new.lock))
    if not {*files.find_names(new.root)} <= {kept, lock, *_list_carried(old)}:
        return False
    found = files.find_content(new.stdin_list)
    return found in (None, ours, files.find_content(old.stdin_list))


def _rename(source: str, target: str) -> None:
    """Rename a directory; raises OSError.

    NFS may have done it although it says that there is no `source`: the answer to the
    first request was lost.  So may another start that found the next workdir.
    """
    try:
        os.rename(source, target)
    except FileNotFoundError:
        if files.is_there(source) or not files.is_there(target):
            raise


def _refuse_strangers(path: str) -> None:
    """Raise `InputError` for a next workdir that a killed start of ours has not made.

    Who made it could replace all files in it.  An empty one may be ours.
    """
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise InputError(
            f"--again makes the new workdir as {path}, and there is something else by"
            " that name, or it is another user's: move it away"
        )
    if not _is_made(files.find_names(path)):
        raise InputError(
            f"--again makes the new workdir as {path}, and a directory by that name has"
            " files that it has not made: move that away"
        )


_MARK: Final = os.path.basename(WorkdirPaths("").next_mark)


def _is_made(names: Sequence[str]) -> bool:
    """Return whether `_make_next` may have made a directory that has these names."""
    return not names or (_MARK in names and all(map(_is_made_name, names)))


def _is_made_name(name: str) -> bool:
    paths = WorkdirPaths("")
    name = name.removesuffix(copy_staging_of(""))
    if name in map(os.path.basename, (paths.lock, paths.stdin_list, paths.next_mark)):
        return True
    return re.fullmatch(JOB_SCRIPT, name) is not None


def _make_next(old: WorkdirPaths, new: WorkdirPaths) -> None:
    """Make the next workdir; one that a kill has left is used.

    Raises OSError, `StorageError`.
    """
    with suppress(FileExistsError):
        os.mkdir(new.root)
    with suppress(FileExistsError):
        os.close(files.create_exclusively(new.next_mark))
    files.sync_names(new.root)  # so that a power failure keeps the mark
    status = os.stat(old.root)
    with suppress(OSError):  # the group is not one of ours
        os.chown(new.root, -1, status.st_gid)
    os.chmod(new.root, stat.S_IMODE(status.st_mode))
    for name in _list_carried(old):
        content = files.find_content(old.file(name))
        path = new.file(name)
        files.replace(path, copy_staging_of(path), content or b"")
        if name != os.path.basename(old.stdin_list):  # its mode says whose it is
            with suppress(OSError):
                os.chmod(path, stat.S_IMODE(os.stat(old.file(name)).st_mode))
    with suppress(FileNotFoundError):
        os.unlink(new.lock)
    with suppress(OSError):  # a file system without hard links
        os.link(old.lock, new.lock, follow_symlinks=False)


def _list_carried(old: WorkdirPaths) -> Iterator[str]:
    """Yield the names of the files that the next workdir has, too."""
    kept = os.path.basename(old.stdin_list)
    for name in files.find_names(old.root):
        if name == kept or re.fullmatch(JOB_SCRIPT, name):
            yield name


def _remove_next(path: str) -> None:
    """Remove what `_make_next` has made; errors are ignored."""
    with suppress(OSError):
        names = os.listdir(path)
        if not _is_made(names):
            return
        for name in sorted(names, key=_MARK.__eq__):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)


def _explain(root: str, error: OSError) -> InputError | StorageError:
    refused = (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EROFS, errno.EXDEV)
    if error.errno not in refused:
        return files.storage_error("move", root, error)
    return InputError(
        f"--again can't move {root} aside ({error.strerror}): name another --workdir,"
        " or have its directory made writable for you"
    )
