"""Retries on a disk that fails.

Rules of this file: the error number, not the action, decides whether the disk has
failed or the user has made a mistake.  An action that is tried again releases its locks
when it fails, so that no lock is held during a sleep.
"""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from mpifarm.errors import FarmError, FutileError, InputError, StorageError

T = TypeVar("T")

RETRY_SECONDS = 0.1
"""Seconds between two tries to use a disk that fails."""

COMMAND_SECONDS = 2.0
"""Seconds for which a subcommand tries; it has no ``--grace``."""

_MISTAKES = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG),
        *(errno.EINVAL, errno.EXDEV, errno.EFBIG, errno.ENXIO, errno.ENODEV),
        *(errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.ESPIPE, errno.ENOEXEC),
    }
)
"""Error numbers of a wrong name, a wrong kind of file, a missing permission.  All
others (EIO, ESTALE, ETIMEDOUT, ENOTCONN, …) are failures of the disk."""


def is_of_the_disk(error: BaseException) -> bool:
    """Return whether the disk has failed, rather than the user made a mistake."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause.errno not in _MISTAKES
        cause = cause.__cause__
    return isinstance(error, StorageError)


class Patience:
    """The limit, in `seconds`, for which a failing disk is tried again.

    `say` gets a sentence at the first failure and at the success after it; `what` names
    the file or directory in the second, which ends with `helped`.
    """

    def __init__(
        self,
        what: str,
        seconds: float,
        say: Callable[[str], None],
        helped: str = "can be written again",
    ) -> None:
        self.retry_at = 0.0
        """The time before which nothing is tried again."""
        self._what = what
        self._helped = helped
        self._seconds = seconds
        self._say = say
        self._since: float | None = None

    def is_over(self, error: StorageError, now: float) -> bool:
        """Record a failure at the time `now`.  Return whether to give up.

        Set `retry_at`, and tell the user of the first failure.  A `FutileError` is
        always given up.
        """
        if isinstance(error, FutileError):
            return True
        if self._since is None:
            self._since = now
            if self._seconds > 0:
                said = str(error).partition("; make room")[0]
                self._say(f"{said}; trying again for {self._seconds:g} s")
        self.retry_at = now + RETRY_SECONDS
        return now - self._since >= self._seconds

    def note_success(self) -> None:
        """Record a success, and tell the user if a failure came before.

        The next failure starts the time anew.
        """
        if self._since is not None:
            self._since = None
            self._say(f"{self._what} {self._helped}")


def try_again(
    act: Callable[[], T],
    patience: Patience,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Call `act`, again while the disk fails.  Return its result.

    Raises `StorageError` when the patience is over, `InputError` for an action that the
    system refuses the user, and any other error of `act`, as FileNotFoundError, as it
    is.
    """
    while True:
        try:
            result = act()
        except (FarmError, OSError) as error:
            trouble = as_storage_error(error)
            if trouble is None:
                _raise_refusal(error)
                raise
            if patience.is_over(trouble, clock()):
                raise trouble from error
        else:
            patience.note_success()
            return result
        sleep(RETRY_SECONDS)


def _raise_refusal(error: FarmError | OSError) -> None:
    """Raise `InputError` for an `OSError`, which has no sentence for the user yet."""
    # Many callers treat a missing file as a case of its own.
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        raise InputError(f"can't use {error.filename}: {error.strerror}") from error


def as_storage_error(error: FarmError | OSError) -> StorageError | None:
    """Return the error as `StorageError` if the disk has failed, else None."""
    if isinstance(error, StorageError):
        return error
    if not is_of_the_disk(error):
        return None
    if isinstance(error, OSError):
        return StorageError(f"can't use {error.filename}: {error.strerror}")
    return StorageError(str(error))
