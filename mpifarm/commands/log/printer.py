"""Outputs of one task, or of many, on standard output.

Rules of this file: bytes are printed as they are.  A reader who closes standard output
early has seen enough.
"""

from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from mpifarm.commands.log.explain import Explainer
from mpifarm.commands.log.gaps import Gap, GapError, Gaps, GoneError
from mpifarm.commands.log.task_sink import TaskSink
from mpifarm.errors import InputError
from mpifarm.model.paths import log_path
from mpifarm.model.wording import counted
from mpifarm.output.reader import (
    Output,
    OutputReader,
    Source,
    find_kind_of_log,
    find_outputs,
    find_sources,
    has_moved,
)

TRIES = 5
"""Searches for outputs that move meanwhile, before they count as gone."""
AT_ONCE = 50_000
"""Tasks whose records are found in one reading of the indexes; they take 20 MB."""


MAX_TAIL = 1 << 20
"""Bytes that are printed at most of an output of which the last lines are wanted."""


class Printed(NamedTuple):
    """How the outputs of several tasks were printed."""

    all_read: bool
    """Whether each output that is there could be read."""
    all_there: bool
    """Whether each task has an output."""


class Printer:
    """A printer of the outputs of tasks to a sink.

    `last`: print so many lines at the end of each task's last attempt, and no other
    attempt; None: print all.  Its methods raise BrokenPipeError if nobody reads any
    more, `StorageError` if the disk goes on failing.
    """

    def __init__(
        self, explainer: Explainer, sink: TaskSink, last: int | None = None
    ) -> None:
        self.explainer = explainer
        self.sink = sink
        self._last = last

    def print_task(self, taskid: int, attempt: int | None) -> None:
        """Print all outputs of a task, or that of one attempt.

        `attempt` counts from 1, or from -1 backwards.  Remarks on the output go to
        standard error.  Raises `InputError` if there is no output or attempt.
        """
        if not self._print(taskid, attempt, None):
            raise InputError(self.explainer.explain(taskid))
        self.explainer.report_doubts()

    def print_tasks(self, taskids: Sequence[int], attempt: int | None) -> Printed:
        """Print several tasks.

        `attempt` is as in `print_task`.  Reasons for missing outputs go to standard
        error.
        """
        gaps = Gaps()
        missed = self.print_each(taskids, attempt, gaps, is_last=False)
        # The list may have got shorter since: the outputs of its tasks are printed.
        missed, beyond = self.explainer.split_known(missed)
        if beyond:
            self.explainer.complain(beyond)
        if missed:
            locator = self.explainer.locator()
            # A task may have begun and ended since it was searched for.
            missed = self.print_each(missed, attempt, gaps, is_last=True)
            all_read = gaps.are_none
            for taskid in missed:
                gaps.note(self.explainer.find_gap(locator, taskid), taskid)
        else:
            all_read = gaps.are_none
        self.report(gaps)
        return Printed(all_read, not missed and not beyond)

    def report(self, gaps: Gaps) -> None:
        """Print reasons and doubts on standard error.

        Raises `StorageError` if the disk goes on failing.
        """
        for complaint in gaps.sentences():
            self.explainer.complain(complaint)
        self.explainer.report_doubts()

    def print_each(
        self, taskids: Sequence[int], attempt: int | None, gaps: Gaps, *, is_last: bool
    ) -> list[int]:
        """Print several tasks.  Return the tasks without output.

        `gaps` notes tasks with an unreadable output, or without the attempt.  A task
        whose output has just gone is returned, too, but noted in the last search
        (`is_last`).
        """
        missed = []
        for begin in range(0, len(taskids), AT_ONCE):
            some = taskids[begin : begin + AT_ONCE]
            sources: dict[int, list[Source]] = {taskid: [] for taskid in some}
            for source in self._find_sources(sources.keys()):
                sources[source.record.taskid].append(source)
            for taskid in some:
                known = self._unless_old(sources.pop(taskid))
                try:
                    if not self._print(taskid, attempt, known):
                        missed.append(taskid)
                except GapError as error:
                    if isinstance(error, GoneError) and not is_last:
                        missed.append(taskid)
                    else:
                        gaps.note(error.gap, taskid)
        return missed

    def _unless_old(self, sources: list[Source]) -> list[Source] | None:
        """Return `sources`; None if an output has moved, and has to be found again."""
        moved = self.explainer.patiently(lambda: any(map(has_moved, sources)))
        return None if moved else sources

    def _print(
        self,
        taskid: int,
        attempt: int | None,
        sources: list[Source] | None,
    ) -> bool:
        """Print the outputs of a task.  Return whether there are any.

        Raises `GapError` if one cannot be read, or there is no such attempt.
        """
        readers = self.open_outputs(taskid, split=attempt is not None, sources=sources)
        if not readers:
            return False
        try:
            wanted = readers if attempt is None else [_choose(readers, attempt, taskid)]
            self.sink.begin(taskid)
            if self._last is None:
                self._print_all(wanted)
            else:
                self._print_last_lines(wanted[-1], self._last)
            self.explainer.note_doubt(taskid, outputs_of(readers))
            self._report_odd_log(taskid)
        finally:
            close_all(readers)
        return True

    def _print_all(self, readers: list[OutputReader]) -> None:
        for number, reader in enumerate(readers):
            self.begin_attempt(reader, is_first=not number)

    def _print_last_lines(self, reader: OutputReader, count: int) -> None:
        reader.skip(MAX_TAIL)
        tail = b""
        while piece := self.explainer.patiently(reader.read):
            tail = (tail + piece)[-MAX_TAIL:]
        self.sink.write(last_lines(tail, count))

    def _report_odd_log(self, taskid: int) -> None:
        """Print a remark if ``log_<id>`` is not a regular file."""
        with suppress(OSError):  # the output has been printed
            if what := find_kind_of_log(self.explainer.logs, taskid):
                path = log_path(self.explainer.logs, taskid)
                self.explainer.complain(f"{path} is {what}, and is not shown")

    def begin_attempt(self, reader: OutputReader, *, is_first: bool) -> None:
        """Print the output of an attempt, after its own first line.

        The first attempt has no line of its own.
        """
        if not is_first:
            self.sink.write_line(reader.output.head)
        self.print_new(reader)

    def print_new(self, reader: OutputReader) -> bool:
        """Print the output since the last call.  Return whether there is any."""
        came = False
        while piece := self.explainer.patiently(reader.read):
            self.sink.write(piece)
            came = True
        return came

    def _find_sources(self, wanted: Container[int]) -> list[Source]:
        return self.explainer.patiently(
            lambda: find_sources(self.explainer.logs, wanted)
        )

    def open_outputs(
        self, taskid: int, *, split: bool, sources: list[Source] | None = None
    ) -> list[OutputReader]:
        """Open all outputs of a task before one is printed; [] if there are none.

        An output that moves meanwhile is searched for again, but not with `sources`:
        each search reads all indexes.  Raises `GoneError` if an output stays gone,
        `GapError` if one cannot be read.  The caller closes the readers.
        """
        return self.explainer.patiently(
            lambda: self._open_outputs(taskid, split=split, sources=sources)
        )

    def _open_outputs(
        self, taskid: int, *, split: bool, sources: list[Source] | None
    ) -> list[OutputReader]:
        for left in reversed(range(TRIES if sources is None else 1)):
            readers: list[OutputReader] = []
            try:
                outputs = find_outputs(
                    self.explainer.logs, taskid, split=split, sources=sources
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


def last_lines(content: bytes, count: int) -> bytes:
    """Return the last lines of an output, of which the very last may have no end."""
    place = len(content) - content.endswith(b"\n")
    for _ in range(count):
        place = content.rfind(b"\n", 0, place)
        if place < 0:
            return content
    return content[place + 1 :]


def close_all(readers: Iterable[OutputReader]) -> None:
    """Close all readers."""
    for reader in readers:
        reader.close()


def _choose(readers: list[OutputReader], attempt: int, taskid: int) -> OutputReader:
    """Return the reader of attempt 1, 2, …, or -1 (the last); raises `GapError`."""
    place = attempt - 1 if attempt > 0 else attempt
    if not -len(readers) <= place < len(readers):
        count = counted(len(readers), "attempt")
        raise GapError(Gap(f"--attempt {attempt}: only {count} of ", ""), taskid)
    return readers[place]


def outputs_of(readers: Iterable[OutputReader]) -> list[Output]:
    """Return the outputs of readers, as they are now."""
    return [reader.output for reader in readers]
