"""Ctrl-C while a farm starts or ends: counted, and raised when that is done.

Rules of this file: only the main thread is ever interrupted, and only there may a
handler be set.  TERM and HUP are as Ctrl-C, if the script has a handler for them.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, Self, TypeAlias

_Handler: TypeAlias = Callable[[int, FrameType | None], Any]


SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class HeldInterrupts:
    """A block in which Ctrl-C raises nothing, but is counted.

    A script that ignores Ctrl-C goes on doing so.
    """

    def __init__(self) -> None:
        self.count = 0
        """How often Ctrl-C was pressed in the block."""
        self._first: int | None = None
        """The signal that came first."""
        self._before: dict[int, _Handler] = {}
        if threading.current_thread() is threading.main_thread():
            handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
            self._before = {n: each for n, each in handlers.items() if callable(each)}

    def __enter__(self) -> Self:
        for signum in self._before:
            signal.signal(signum, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def pass_on(self) -> None:
        """Do, after the block, what Ctrl-C in it was to do: raise KeyboardInterrupt."""
        if self._first is not None:
            self._before[self._first](self._first, None)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1
        self._first = self._first or signum
