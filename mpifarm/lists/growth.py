"""Changes of a tasklist while its farm ran: lines added at the end, or an edit.

Rules of this file: it runs once, at the end of a farm, and costs one stat of the file
if nothing has changed.
"""

import os
from contextlib import suppress
from typing import NamedTuple

from mpifarm.model.packed_texts import PackedTexts
from mpifarm.model.wording import counted
from mpifarm.tasklists import TasklistFileError, read_list, version_of


class Change(NamedTuple):
    """The difference between a list now and as a farm has read it."""

    added: int = 0
    """The number of new tasks."""
    is_edited: bool = False
    """Whether a line that was read has changed or is gone."""


def find_change(path: str, texts: PackedTexts) -> Change:
    """Return the change of the list since `texts` were read from it.

    The file is read again only if its version has changed.  A list that is gone, cannot
    be read or came from a pipe counts as unchanged.  A last line without newline is not
    counted as new: it may be half written.
    """
    if texts.version is None or _find_version(path) in (None, texts.version):
        return Change()
    try:
        now = read_list(path).texts
    except TasklistFileError:
        return Change()
    count, before = len(now), len(texts)
    if count > before and not _ends_whole(path):
        count -= 1  # An editor or a script may still be writing it.
    is_edited = len(now) < before or not _begins_with(now, texts)
    return Change(max(0, count - before), is_edited)


def explain_change(path: str, change: Change) -> str:
    """Return the sentence about a change, with its remedy; "" if nothing changed."""
    if change.is_edited:
        return _explain_edit(path, change.added)
    if not change.added:
        return ""
    added = counted(change.added, "line was", "lines were")
    return f"{added} added to {path} while the farm ran: give the same command again"


def _explain_edit(path: str, added: int) -> str:
    warning = (
        f"WARNING: {path} was edited while the farm ran: what is said here"
        " is of the list as it was at the start"
    )
    if not added:
        return warning
    has = f"it has {counted(added)} more now, and what was added has not run"
    return f"{warning}; {has}: give the same command with --remap"


def _find_version(path: str) -> tuple[int, ...] | None:
    """Return the version of a list, None if it is gone or cannot be opened."""
    # Opened: NFS answers a plain stat from its cache.
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return version_of(fd)
        finally:
            os.close(fd)
    return None


def _ends_whole(path: str) -> bool:
    with suppress(OSError), open(path, "rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) in (b"\n", b"\r")
    return False


def _begins_with(now: PackedTexts, texts: PackedTexts) -> bool:
    count = len(texts)
    return now.encoded_texts(0, count) == texts.encoded_texts(0, count)
