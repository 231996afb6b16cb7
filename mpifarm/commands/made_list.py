"""A list that is no file, for commands that start no farm: made, checked, kept.

Rules of this file: it is what a farm would make of arguments or of standard input
(`mpifarm.farm.standard_input`), and nothing is changed before `MadeList.keep`.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from mpifarm.errors import FarmError, InputError
from mpifarm.farm.arguments import MAX_SHOWN
from mpifarm.farm.other_list import explain_other
from mpifarm.farm.standard_input import (
    STDIN,
    TYPED,
    Kept,
    is_surely_empty,
    keep_list,
    make_list_of,
    name_kept_list,
    read_all,
    take_back,
)
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import Settings
from mpifarm.model.task import decode_text
from mpifarm.store.strangers import validate_contents, validate_place
from mpifarm.system import files


class MadeList:
    """The list that the arguments or the standard input of `settings` are.

    Standard input is read to its end; if a user types it, `say` says how.  With
    `appends` its lines stand behind the list that the workdir has, as a farm with
    ``--follow`` has them.  Raises `InputError` for arguments that make no list, and for
    another list than the workdir has; `StorageError`.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        say: Callable[[str], None] | None = None,
        *,
        appends: bool = False,
    ) -> None:
        validate_place(settings.workdir, None)
        validate_contents(WorkdirPaths(os.path.abspath(settings.workdir)))
        self.path = name_kept_list(settings)
        """The path of the list in the workdir, which need not be there."""
        self._settings = settings
        self._environ = environ
        self.content = _make(settings, say)
        """The list that arguments or standard input make now."""
        before = _find_before(settings, self.path)
        if is_surely_empty(settings, self.content):
            before = b""  # It has no task, whatever list is in the workdir.
        if appends:
            before = b"" if settings.again else before
            self.content = before + self.content
        if settings.again and self.content not in (b"", before):
            before = b""
        is_other = not before.startswith(self.content)
        if not self.content.startswith(before) and is_other:
            raise InputError(explain_other(settings, environ, self.content, before))
        self.rest = before.count(b"\n", len(self.content))
        """The lines that the list in the workdir has more."""
        self.is_kept = len(before) >= len(self.content) > 0
        """Whether the workdir has the list already."""
        self._all = max(before, self.content, key=len)
        self._kept: Kept | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the list has no line."""
        return not self._all

    @property
    def first(self) -> str:
        """The first line, cut to `MAX_SHOWN` characters."""
        text = decode_text(self._all.partition(b"\n")[0])
        return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"

    @property
    def in_workdir(self) -> Settings:
        """The settings of a farm whose list is the one in the workdir."""
        return replace(self._settings, tasklist=self.path, arguments=None)

    @contextmanager
    def as_file(self) -> Iterator[Settings]:
        """Write the list into a temporary file for a block, and give settings for it.

        An `InputError` of the block names the list by its place in the workdir.  Raises
        `StorageError` if no temporary file can be written.
        """
        with _opened_directory() as directory:
            path = os.path.join(directory, "list")
            self._write(path)
            try:
                yield replace(self._settings, tasklist=path, arguments=None)
            except InputError as error:
                raise InputError(str(error).replace(path, self.path)) from error

    def _write(self, path: str) -> None:
        try:
            with open(path, "wb") as file:
                file.write(self._all)
        except OSError as error:
            raise files.storage_error("write", path, error) from error

    def keep(self) -> None:
        """Write the list into the workdir.  Raises `InputError`, `StorageError`."""
        self._kept = keep_list(self._settings, self._environ, self.content)

    def put_back(self, is_in_use: Callable[[], bool]) -> bool:
        """Put the list in the workdir back as it was before `keep`.

        Return whether it is as it was: not if a farm has begun it, others have changed
        it, or it `is_in_use`.
        """
        kept = self._kept
        if kept is None:
            return True
        settings, environ = self._settings, self._environ
        try:
            return take_back(settings, environ, self.content, kept, is_in_use)
        except FarmError:
            return False


def _find_before(settings: Settings, path: str) -> bytes:
    """Return the list that the workdir has, b"" without one.  Raises `StorageError`.

    With ``--again``, a killed start may have left it in the next workdir.
    """
    before = files.find_content(path)
    if before is None and settings.again:
        from mpifarm.store.aside import find_next_list  # for those who ask

        before = find_next_list(os.path.realpath(settings.workdir))
    return before or b""


@contextmanager
def _opened_directory() -> Iterator[str]:
    """Make a temporary directory for a block.  Raises `StorageError`."""
    try:
        directory = tempfile.TemporaryDirectory(
            prefix="mpifarm-", ignore_cleanup_errors=True
        )
    except OSError as error:
        name = os.environ.get("TMPDIR", "/tmp")  # noqa: S108 - it is only named
        raise files.storage_error("write", name, error) from error
    with directory as path:
        yield path


def _make(settings: Settings, say: Callable[[str], None] | None) -> bytes:
    def read_input() -> bytes:
        if say is not None and os.isatty(STDIN):
            say(TYPED)
        return read_all(lambda: None)

    if settings.arguments is None:
        return read_input()
    return make_list_of(settings.arguments, lambda: None, read_input)
