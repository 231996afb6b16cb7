"""Waits until other programs have committed, in which no farm has to wait, too.

Rules of this file: a program of the user's, with an open transaction, keeps us waiting
for seconds.  The lock of the workdir is let go meanwhile, and held for short tries.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Final, TypeVar

from mpifarm.database.errors import BusyError, explained
from mpifarm.database.schema import Connection, connect, reading

BUSY_SECONDS: Final = 5.0
"""Seconds for which a command waits until another program has committed."""

PATIENCE: Final = 0.01
"""Seconds of those that it waits under the lock, and keeps farms waiting."""

PAUSE_SECONDS: Final = 0.05
"""Seconds from one try to the next, without the lock."""

T = TypeVar("T")


def wait_while_busy(look: Callable[[], T]) -> T:
    """Return what `look` returns; try for a while if another program is writing."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return look()
        except BusyError:
            if time.monotonic() >= end:
                raise
        time.sleep(PAUSE_SECONDS)


@contextmanager
def opened_to_change(
    path: str, hold: Callable[[], AbstractContextManager[object]]
) -> Iterator[Connection]:
    """Open a database for a ``with`` block, within what `hold` returns, to change it.

    The block begins when nobody else has a transaction.  Raises what `connect` raises.
    """
    with ExitStack() as stack:
        yield wait_while_busy(lambda: stack.enter_context(_opened_if_free(path, hold)))


@contextmanager
def opened_to_read(
    path: str, hold: Callable[[], AbstractContextManager[object]]
) -> Iterator[Connection]:
    """Open a database for a ``with`` block, within what `hold` returns, to read it.

    The block begins when nobody keeps others from reading, and reads the rows as of
    that moment.  Raises what `connect` raises.
    """
    with ExitStack() as stack:
        yield wait_while_busy(lambda: stack.enter_context(_readable(path, hold)))


@contextmanager
def _readable(
    path: str, hold: Callable[[], AbstractContextManager[object]]
) -> Iterator[Connection]:
    # The block's first look would else be the one that finds others writing.
    with hold(), reading(path, PATIENCE) as connection:
        yield connection


@contextmanager
def _opened_if_free(
    path: str, hold: Callable[[], AbstractContextManager[object]]
) -> Iterator[Connection]:
    with (
        hold(),
        closing(connect(path, patience=PATIENCE)) as connection,
        explained(path),
    ):
        # Exclusive: those who read keep the block from its commit.
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("ROLLBACK")
        # Whoever is faster than the block writes for a moment.
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
        yield connection
