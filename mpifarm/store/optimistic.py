"""A change whose content takes long to compose: composed without the lock.

Rules of this file: a change is applied under the lock, and only if what it was made
from is still current.  A farm's start, a repair and a retry are such changes.
(`Queue.prepare` and `Queue.settle` do the same in two calls.)
"""

from collections.abc import Callable
from typing import TypeVar

from mpifarm.store.types import HeldLock
from mpifarm.system.file_contents import ChangedError

TRIES_WITHOUT_LOCK = 3
"""How often a change is composed without the lock before it is composed with it."""

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

    `read`, `is_current` and `apply` are called with the lock held, for which this
    waits at most `seconds`; `apply` only if the change `is_needed`.  `compose` may
    raise `ChangedError` where it reads on in a large file that others have changed;
    `read_whole` reads that file, too.  Raises what the functions raise.
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
