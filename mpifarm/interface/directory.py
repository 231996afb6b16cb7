"""The workdir of a farm that a script has started, with the list that it is given.

Rules of this file: each start writes a list of its own, so that two scripts with one
workdir never take each other's.  What is made here is removed when no farm has used it.
"""

import os
import shutil
import socket
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from mpifarm.errors import InputError, StorageError
from mpifarm.model.paths import WorkdirPaths, mark_of_given, parse_given_name
from mpifarm.model.task import decode_text
from mpifarm.model.wording import agree, counted
from mpifarm.store.directories import make_root
from mpifarm.store.strangers import validate_contents, validate_place
from mpifarm.system import files
from mpifarm.system.processes import find_directory, is_alive

MAX_SHOWN: Final = 60
"""Characters of a command that are shown."""


def find_workdir(workdir: object) -> str | None:
    """Return the name of a workdir as text, None if there is none to be.

    Raises `InputError` for what can't be a name.
    """
    if workdir is None:
        return None
    if not isinstance(workdir, (str, bytes, os.PathLike)):
        raise InputError(f"workdir is {workdir!r:.60}: give the name of a directory")
    name = os.fsdecode(workdir)
    if not name:
        raise InputError(
            "workdir is an empty text: name a directory, or leave it out for a"
            " temporary one"
        )
    if "\0" in name:
        raise InputError(f"workdir {name!r:.60} has a NUL byte in it: no name has one")
    home = os.path.expanduser(name)
    if home != name:
        raise InputError(
            f"workdir {name!r:.60} begins with ~, which means a home to a shell alone:"
            f" give {home!r:.60}"
        )
    return name


class Directory:
    """The workdir of a farm, with the list that it is given.

    Without a `path`, it is a temporary one in `where` (None: where such ones are).
    Raises `InputError` if that can't be made.
    """

    def __init__(self, path: str | None, where: str | None = None) -> None:
        self._is_temporary = path is None
        self.path = _make_temporary(where) if path is None else path
        self.paths = WorkdirPaths(os.path.abspath(self.path))
        host, start = socket.gethostname(), os.urandom(4).hex()
        self.mark = mark_of_given(host, os.getpid(), start)
        """What stands in the words of this start alone."""
        self._is_new = self._is_temporary

    def give(self, content: bytes) -> str:
        """Write the list, and return its path; make the workdir if it is missing.

        Raises `InputError`, and `StorageError`.
        """
        try:
            validate_place(self.path, None)
            self._is_new |= make_root(self.paths.root)
        except OSError as error:  # too long a name, or links in a circle
            why = error.strerror or error
            raise InputError(f"can't use the workdir {self.path}: {why}") from None
        validate_contents(self.paths)
        refuse_other(self.path, self._find_kept(), content)
        self._remove_orphans()
        files.write_staging_file(self.paths.given_list(self.mark), (content,))
        return WorkdirPaths(self.path.rstrip("/") or "/").given_list(self.mark)

    def _find_kept(self) -> bytes:
        """Return the whole lines of the list that the workdir has."""
        kept = files.find_content(self.paths.stdin_list) or b""
        return kept[: kept.rfind(b"\n") + 1]

    def _remove_orphans(self) -> None:
        """Remove the lists that scripts of this host left when they were killed."""
        with suppress(StorageError, OSError):
            for name in os.listdir(self.paths.root):
                host, pid = parse_given_name(name) or ("", 0)
                if host == socket.gethostname() and not is_alive(pid):
                    files.remove(self.paths.file(name))

    def leave(self) -> None:
        """Remove the list that was given, and a new workdir in which nothing began."""
        with suppress(StorageError, OSError):
            files.remove(self.paths.given_list(self.mark))
            if self._is_new:
                os.rmdir(self.paths.root)  # unless something is in it

    def remove_when_unused(self) -> None:
        """Remove a temporary workdir when nothing in the script refers to it."""
        if self._is_temporary:
            weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _make_temporary(where: str | None) -> str:
    """Make a temporary directory, and return its absolute path: scripts do `chdir`."""
    try:
        return tempfile.mkdtemp(prefix="mpifarm-", dir=where)
    except OSError as error:
        place = f"the directory {where}" if where else "a directory for temporary files"
        raise InputError(
            f"can't make a workdir in {place} ({error.strerror}): name one, as"
            " workdir='DIR'"
        ) from None


def find_place(*, is_shared: bool) -> str | None:
    """Return where temporary workdirs are, None for where such directories are."""
    # All nodes see the current directory, hardly ever /tmp.
    return (find_directory() or ".") if is_shared else None


def refuse_other(workdir: str, before: bytes, content: bytes) -> None:
    """Raise `InputError` if the tasks of a workdir are more than, or other than, these.

    `before` is the list that the workdir has, `content` the list that is given.
    """
    if content.startswith(before):
        return
    old, new = before.split(b"\n")[:-1], content.split(b"\n")[:-1]
    if before.startswith(content):
        kept = WorkdirPaths(workdir.rstrip("/")).stdin_list
        raise InputError(
            f"{workdir} has {counted(len(old))}, and only the first {len(new)} of them"
            f" {agree(len(new), 'is', 'are')} given: give all, as"
            f" mpifarm.run(open({kept!r}), …), or name another workdir"
        )
    number = next(n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    raise InputError(
        f"{workdir} was begun with other tasks: task {number} is"
        f" {_show(old, number)} there, and {_show(new, number)} here; give the same"
        " tasks, with new ones behind them, or name another workdir"
    )


def _show(lines: Sequence[bytes], number: int) -> str:
    text = decode_text(lines[number])
    return repr(text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…")
