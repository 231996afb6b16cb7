"""What ends a farm early, and the exit statuses that a job script acts on.

Rules of this file: it imports nothing of ours.  A failed *task* is data and never
an exception; these are the user's mistakes, storage that gives way, and our defects.
"""

from enum import IntEnum


class ExitStatus(IntEnum):
    """The exit statuses of a farm (``EX_TEMPFAIL``, ``EX_SOFTWARE``: sysexits.h)."""

    ALL_FINISHED = 0
    SOME_FAILED = 1
    BAD_INPUT = 2
    WITH_OTHERS = 3
    DEFECT = 70
    RUN_AGAIN = 75


class FarmError(Exception):
    """One sentence for the user; ends the farm with `exit_status`."""

    exit_status = ExitStatus.DEFECT


class InputError(FarmError):
    """The command line or an input is wrong: names the thing, the place, the remedy."""

    exit_status = ExitStatus.BAD_INPUT


class StorageError(FarmError):
    """The workdir can't be written any more (full, gone, read-only, claim lost)."""

    exit_status = ExitStatus.RUN_AGAIN
