"""Standard output for the texts of several tasks, which are told from each other.

Rules of this file: bytes are written as they are, but for headings, tags, and the
newline that a text lacks before another task's begins.
"""

from enum import Enum
from typing import Final

from mpifarm.commands.sink import Sink


class Style(Enum):
    """How the text of one task is told from that of another."""

    PLAIN = "plain"
    """Not at all: there is one task."""
    HEADING = "heading"
    """By a line ``==> task 3 <==`` before it."""
    TAG = "tag"
    """By the id and a tab before each line."""


class TaskSink(Sink):
    """Standard output, on which `begin` says whose text follows."""

    def __init__(self, style: Style = Style.PLAIN, descriptor: int = 1) -> None:
        super().__init__(descriptor)
        self._style = style
        self._taskid: int | None = None
        self._tag = b""

    def begin(self, taskid: int) -> None:
        """Let what is written from now on be the text of a task.

        Raises as `write`.
        """
        if taskid == self._taskid:
            return
        self._taskid = taskid
        if self._style is Style.HEADING:
            self.write_line(b"==> task %d <==\n" % taskid)
        elif self._style is Style.TAG:
            if not self.ends_line:
                super().write(b"\n")
            self._tag = b"%d\t" % taskid

    def write(self, content: bytes) -> None:
        """Write all bytes as `Sink.write`, with the tag before each line."""
        if self._tag and content:
            begin = self._tag if self.ends_line else b""
            inner = content[:-1].replace(b"\n", b"\n" + self._tag)
            content = begin + inner + content[-1:]
        super().write(content)


MAX_LINE: Final = 1 << 20
"""Bytes of a line that are kept back, at most, until the line has ended."""


class LineSink(TaskSink):
    """The sink of one task among several that write at the same time: whole lines."""

    def __init__(self, sink: TaskSink, taskid: int) -> None:
        super().__init__()
        self._sink = sink
        self._writer = taskid
        self._rest = b""

    def write(self, content: bytes) -> None:
        """Write the lines that have ended, keep the rest; raises as `Sink.write`."""
        text = self._rest + content
        cut = len(text) if len(text) > MAX_LINE else text.rfind(b"\n") + 1
        self._put(text[:cut])
        self._rest = text[cut:]
        if content:
            self.ends_line = content.endswith(b"\n")

    def end(self) -> None:
        """Write the rest as a line: nothing more comes.  Raises as `Sink.write`."""
        if self._rest:
            self._put(self._rest + b"\n")
        self._rest = b""

    def _put(self, lines: bytes) -> None:
        if lines:
            self._sink.begin(self._writer)
            self._sink.write(lines)
