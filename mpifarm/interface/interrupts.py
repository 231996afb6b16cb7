"""Ctrl-C while a farm starts or ends: counted, and raised when that is done.

Rules of this file: only the main thread is ever interrupted, and only there may a
handler be set.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class HeldInterrupts:
    """A block in which Ctrl-C raises nothing, but is counted.

    A script or a notebook that ignores Ctrl-C goes on doing so.
    """

    def __init__(self) -> None:
        self.count = 0
        """How often Ctrl-C was pressed in the block."""
        self._before = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        self._holds = is_main and callable(self._before)
        if self._holds:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._holds:
            signal.signal(signal.SIGINT, self._before)

    def pass_on(self) -> None:
        """Do, after the block, what Ctrl-C in it was to do: raise KeyboardInterrupt."""
        if self.count and callable(self._before):
            self._before(signal.SIGINT, None)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1
