"""A change whose content takes long to compose: composed without the lock.

Rules of this file: a change is applied under the lock, and only if the files that it
was made from are unchanged.  A farm's start, a repair and a retry are such changes.
(`Queue.prepare` and `Queue.settle` do the same in two calls.)
"""

from collections.abc import Callable
from typing import TypeVar

from mpifarm.store.types import HeldLock
from mpifarm.system.file_contents import ChangedError

TRIES_WITHOUT_LOCK = 3
"""Tries to compose a change without the lock, before it is composed under the lock."""

S = TypeVar("S")
C = TypeVar("C")


def write_optimistically(
    lock: HeldLock,
    read: Callable[[], S],
    compose: Callable[[S], C],
    apply: Callable[[C], None],
    *,
    is_current: Callable[[S], bool],
    is_needed: Callable[[C], bool] = lambda _: True,
    read_whole: Callable[[], S] | None = None,
    seconds: float,
) -> C:
    """Compose a change out of what `read` returns, apply it, and return it.

    `read`, `is_current` and `apply` are called with the lock held; each wait for the
    lock takes `seconds` at most.  A change that is not needed (`is_needed`) is
    returned, and not applied.  `compose` may raise `ChangedError` if others have
    changed a large file that it reads.  After `TRIES_WITHOUT_LOCK` tries, `read_whole`
    (by default `read`), `compose` and `apply` are called under one lock.  Raises what
    the functions and the lock raise.
    """
    for _ in range(TRIES_WITHOUT_LOCK):
        with lock.hold(seconds):
            seen = read()
        try:
            change = compose(seen)
        except ChangedError:
            continue
        if not is_needed(change):
            return change
        with lock.hold(seconds):
            if is_current(seen):
                apply(change)
                return change
    # Farms at work write all the time: keep them out while the change is composed.
    with lock.hold(seconds):
        change = compose((read_whole or read)())
        if is_needed(change):
            apply(change)
    return change
