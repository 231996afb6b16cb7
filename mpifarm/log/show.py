"""What is there now of the outputs of one task, or of many.

Rules of this file: bytes go to standard output as they are; who closes it early has
seen enough.
"""

import os
import select
from collections.abc import Iterable

from mpifarm.errors import InputError
from mpifarm.log.gaps import Gap, GapError, Gaps, GoneError
from mpifarm.log.words import Words
from mpifarm.workdir.outputs import (
    Output,
    OutputReader,
    Source,
    find_outputs,
    find_sources,
    has_moved,
)

TRIES = 5
"""How often outputs are looked for that move meanwhile."""
AT_ONCE = 50_000
"""Tasks whose records are looked for in one reading of the indexes: some 20 MB."""


class Sink:
    """Standard output, for bytes."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._ends_line = True

    def write(self, content: bytes) -> None:
        """All of it; raises BrokenPipeError where nobody reads, else `InputError`."""
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[self._write_some(rest) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise InputError(f"can't write the output: {error.strerror}") from error
        if content:
            self._ends_line = content.endswith(b"\n")

    def write_line(self, line: bytes) -> None:
        """A line of ours, at the start of a line."""
        self.write(line if self._ends_line else b"\n" + line)

    def rest(self, seconds: float) -> None:
        """Wait; raises BrokenPipeError where nobody reads any more."""
        poll = select.poll()
        poll.register(self._descriptor, 0)
        if poll.poll(seconds * 1000):
            raise BrokenPipeError

    def _write_some(self, content: memoryview) -> int:
        try:
            return os.write(self._descriptor, content)
        except BlockingIOError:  # others have made the terminal or pipe so
            select.select((), (self._descriptor,), ())
            return 0


class Show:
    """Shows the outputs of tasks, on a sink."""

    def __init__(self, words: Words, sink: Sink) -> None:
        self.words = words
        self.sink = sink

    def task(self, taskid: int, attempt: int | None) -> None:
        """All that is there now; raises `InputError` where nothing is."""
        if not self._show(taskid, attempt, b"", None):
            raise InputError(self.words.explain(taskid))
        self.words.remark()

    def several(self, taskids: list[int], attempt: int | None) -> bool:
        """The same of many, each under a heading; whether there was some of each."""
        gaps = Gaps()
        missed = self._show_each(taskids, attempt, gaps, is_last=False)
        # A list may have got shorter since: what its tasks have left is shown.
        missed, beyond = self.words.split_known(missed)
        if beyond:
            self.words.complain(beyond)
        if missed:
            survey = self.words.survey()
            # What has ended by now had not begun, maybe, when it was looked for.
            for taskid in self._show_each(missed, attempt, gaps, is_last=True):
                gaps.note(self.words.find_gap(survey, taskid), taskid)
        complaints = gaps.sentences()
        for complaint in complaints:
            self.words.complain(complaint)
        self.words.remark()
        return not (beyond or complaints)

    def _show_each(
        self, taskids: list[int], attempt: int | None, gaps: Gaps, *, is_last: bool
    ) -> list[int]:
        """Returns those of which nothing is there, or where it was a moment ago."""
        missed = []
        for begin in range(0, len(taskids), AT_ONCE):
            some = taskids[begin : begin + AT_ONCE]
            sources: dict[int, list[Source]] = {taskid: [] for taskid in some}
            for source in find_sources(self.words.logs, sources.keys()):
                sources[source.record.taskid].append(source)
            for taskid in some:
                heading = f"==> task {taskid} <==\n".encode()
                known = _unless_old(sources.pop(taskid))
                try:
                    if not self._show(taskid, attempt, heading, known):
                        missed.append(taskid)
                except GapError as error:
                    if isinstance(error, GoneError) and not is_last:
                        missed.append(taskid)
                    else:
                        gaps.note(error.gap, taskid)
        return missed

    def _show(
        self,
        taskid: int,
        attempt: int | None,
        heading: bytes,
        sources: list[Source] | None,
    ) -> bool:
        """All that is there now, if anything is."""
        readers = self.open(taskid, split=attempt is not None, sources=sources)
        if not readers:
            return False
        try:
            wanted = readers if attempt is None else [_choose(readers, attempt, taskid)]
            for number, reader in enumerate(wanted):
                self.begin(reader, heading, is_first=not number)
                heading = b""
            self.words.note_doubt(taskid, outputs_of(readers))
        finally:
            close_all(readers)
        return True

    def begin(self, reader: OutputReader, heading: bytes, *, is_first: bool) -> None:
        """Show what there is of an attempt, with the lines before it."""
        if heading:
            self.sink.write_line(heading)
        if not is_first:
            self.sink.write_line(reader.output.head)
        self.drain(reader)

    def drain(self, reader: OutputReader) -> bool:
        """Show what has come; whether there was any."""
        came = False
        while piece := reader.read():
            self.sink.write(piece)
            came = True
        return came

    def open(
        self, taskid: int, *, split: bool, sources: list[Source] | None = None
    ) -> list[OutputReader]:
        """All of them before any is shown: one that moves is looked for again.

        With `sources` it isn't: each look reads all indexes.
        """
        for left in reversed(range(TRIES if sources is None else 1)):
            readers: list[OutputReader] = []
            try:
                outputs = find_outputs(
                    self.words.logs, taskid, split=split, sources=sources
                )
                readers.extend(map(OutputReader, outputs))
            except FileNotFoundError as error:
                close_all(readers)
                if not left:
                    gap = Gap(f"{error.filename} is gone, with the output of ", "")
                    raise GoneError(gap, taskid) from error
            except OSError as error:
                close_all(readers)
                gap = Gap(f"can't read {error.filename}: {error.strerror} (", ")")
                raise GapError(gap, taskid) from error
            else:
                return readers
        return []


def _unless_old(sources: list[Source]) -> list[Source] | None:
    """None where an attempt that ran has its output elsewhere by now: look again."""
    return None if any(map(has_moved, sources)) else sources


def close_all(readers: Iterable[OutputReader]) -> None:
    """Give back what they have open."""
    for reader in readers:
        reader.close()


def _choose(readers: list[OutputReader], attempt: int, taskid: int) -> OutputReader:
    place = attempt - 1 if attempt > 0 else attempt
    if not -len(readers) <= place < len(readers):
        count = len(readers)
        are = "is 1 attempt" if count == 1 else f"are {count} attempts"
        raise GapError(Gap(f"--attempt {attempt}: there {are} of ", ""), taskid)
    return readers[place]


def outputs_of(readers: Iterable[OutputReader]) -> list[Output]:
    """What they read."""
    return [reader.output for reader in readers]
