"""Errors that end a farm early, and the exit statuses that a job script acts on.

Rules of this file: it imports nothing of mpifarm.  A failed *task* is data and never an
exception.  The exceptions here are mistakes of the user, storage that fails, and
defects of mpifarm.
"""

from enum import IntEnum


class ExitStatus(IntEnum):
    """The exit statuses of a farm; 70 and 75 are from BSD's sysexits.h."""

    ALL_FINISHED = 0
    SOME_FAILED = 1
    BAD_INPUT = 2
    WITH_OTHERS = 3
    """Another farm or a plain farmer still holds tasks."""
    DEFECT = 70
    """A defect of mpifarm (``EX_SOFTWARE``)."""
    RUN_AGAIN = 75
    """The same command goes on where this one stopped (``EX_TEMPFAIL``)."""


class FarmError(Exception):
    """An error that ends the farm with `exit_status`; its text is one sentence."""

    exit_status = ExitStatus.DEFECT


class InputError(FarmError):
    """A mistake in the command line or in an input file.

    The sentence names the option or the file, the place in it, and the remedy.
    """

    exit_status = ExitStatus.BAD_INPUT


class StorageError(FarmError):
    """A failure to read or write the workdir: full, gone, read-only, claim lost."""

    exit_status = ExitStatus.RUN_AGAIN


class InUseError(StorageError):
    """A file that another program is writing just now: wait until it has done so."""


class FutileError(StorageError):
    """A storage error that a second try cannot mend.

    The claim is lost, another farmer keeps the lock, or the start is over.
    """


class UnfitFileError(FutileError):
    """A link, directory, fifo or socket in place of a regular file of the workdir."""

    exit_status = ExitStatus.BAD_INPUT
