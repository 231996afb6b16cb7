"""``mpifarm log -f`` of several tasks: their outputs while they are written.

Rules of this file: one reading of the workdir tells of all tasks, and is made seldom.
Outputs are polled of tasks that a farm has; a task that waits costs nothing.  Lines are
printed whole, because several tasks write at the same time.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from mpifarm.audit.locate import TaskLocator
from mpifarm.commands.log.follow import (
    ATTEMPT_SECONDS,
    CTRL_C,
    IN_NO_FILE,
    TASK_SECONDS,
    Following,
    explain_unfinished,
    find_pause,
    may_begin,
)
from mpifarm.commands.log.gaps import Gap, Gaps
from mpifarm.commands.log.printer import Printed, Printer, close_all, outputs_of
from mpifarm.commands.log.task_sink import LineSink
from mpifarm.output.reader import OutputReader, Source, find_sources
from mpifarm.store.task_map import Location

MAX_OPEN: Final = 500
"""Running tasks whose outputs are open at once: most processes may open 1024 files."""

MAX_FULL_LOOKS: Final = 10
"""Looks after which the user is told: short tasks may just have ended."""

TOO_MANY: Final = (
    f"the outputs of {MAX_OPEN} tasks are followed at once; that of another is printed"
    " when it has ended, or one of these"
)
MAX_REASONS: Final = 1000
"""Waiting tasks that are told of, at most: a reason costs some microseconds."""


class _Open(NamedTuple):
    """A task that a farm has, and what was opened of it: nothing before it begins."""

    following: Following
    readers: list[OutputReader]
    lines: LineSink


class TasksFollower:
    """The loop that prints several tasks, and what it knows of them.

    `find_ids` returns the ids of the wanted tasks, which may become more, for a reading
    of the workdir.
    """

    def __init__(
        self, printer: Printer, find_ids: Callable[[TaskLocator], Sequence[int]]
    ) -> None:
        self._printer = printer
        self._explainer = printer.explainer
        self._find_ids = find_ids
        self._ended = set[int]()
        """Tasks of which nothing more comes."""
        self._open = dict[int, _Open]()
        self._unread = Gaps()
        self._missed = dict[int, Gap]()
        """Tasks that have ended without output, and why that is so."""
        self._unfinished = Gaps()
        self._has_told_of_many = False
        self._full_looks = 0
        """Looks one after the other that found more outputs than may be open."""

    def run(self, *, awaits_farms: bool) -> Printed:
        """Print until nothing more will come.

        `awaits_farms`: also until no farm is alive, though all wanted tasks have ended.
        Remarks on standard error say why the command waits, and why tasks have no
        output.  Raises as `Printer.print_each`.
        """
        try:
            self._run(awaits_farms=awaits_farms)
        finally:
            for each in self._open.values():
                close_all(each.readers)
        all_read = self._unread.are_none
        for taskid, gap in self._missed.items():
            self._unread.note(gap, taskid)
        self._printer.report(self._unread)
        self._complain(self._unfinished)
        return Printed(all_read, all_there=not self._missed)

    def _run(self, *, awaits_farms: bool) -> None:
        ask_at = search_at = 0.0
        has_waited = False
        while True:
            now = time.monotonic()
            if now >= ask_at:
                locator = self._explainer.locate_anew()
                # What it takes to print outputs keeps nobody from looking again.
                took = time.monotonic() - now
                waiting = self._settle(locator)
                awaits = locator.may_start and (waiting or awaits_farms)
                if not (self._open or awaits):
                    for taskid in waiting:
                        self._note_unfinished(locator, taskid)
                    return
                if not has_waited:
                    self._report_waiting(locator, waiting)
                has_waited = True
                ask_at = time.monotonic() + max(TASK_SECONDS, 9 * took)
            begun = time.monotonic()
            for each in self._open.values():
                each.following.print_new()
            took = time.monotonic() - begun
            if now >= search_at:
                begun = time.monotonic()
                sources = self._find_sources()
                searched = time.monotonic() - begun
                self._search(sources)
                search_at = time.monotonic() + max(ATTEMPT_SECONDS, 9 * searched)
            self._printer.sink.wait(find_pause(took))

    # ---- what has become of the tasks ------------------------------------------------

    def _settle(self, locator: TaskLocator) -> list[int]:
        """Open what has begun, print what has ended.  Return the tasks that wait.

        All output of a task that has ended is read behind `locator`, so it is whole.
        """
        pending = [each for each in self._find_ids(locator) if each not in self._ended]
        begun, others, ended = list[int](), list[int](), list[int]()
        for taskid in locator.find_unqueued(pending):
            found = locator.locate(taskid)
            if not may_begin(found):
                ended.append(taskid)
            elif found.location is Location.CLAIMED:
                begun.append(taskid)
            elif found.location is Location.NOWHERE:
                others.append(taskid)
            elif taskid in self._open:  # only its tasklist knows how it ended
                ended.append(taskid)
        if not locator.may_start:
            requeued = self._open.keys() - {*begun, *others, *ended}
            ended += sorted(requeued)
        self._finish(locator, ended)
        self._open_some([*begun, *others])
        return [
            each
            for each in pending
            if each not in self._ended and each not in self._open
        ]

    def _finish(self, locator: TaskLocator, taskids: Sequence[int]) -> None:
        """Print what is left to print of tasks that have ended, and forget them."""
        self._ended.update(taskids)
        unseen = [taskid for taskid in taskids if taskid not in self._open]
        sources = self._find_sources() if len(unseen) < len(taskids) else {}
        for taskid in taskids:
            if each := self._open.pop(taskid, None):
                self._print_rest(taskid, each, sources.get(taskid, []))
                self._note_unfinished(locator, taskid)
        missed = self._printer.print_each(unseen, None, self._unread, is_last=True)
        for taskid in missed:
            self._missed[taskid] = self._explainer.find_gap(locator, taskid)

    def _print_rest(self, taskid: int, each: _Open, sources: list[Source]) -> None:
        try:
            each.following.print_new()
            each.following.print_new_attempts(sources)
            each.lines.end()
            if each.readers:
                self._explainer.note_doubt(taskid, outputs_of(each.readers))
        finally:
            close_all(each.readers)

    def _open_some(self, taskids: Sequence[int]) -> None:
        """Let tasks be looked at that a farm has: they run, or are about to."""
        for taskid in taskids:
            if taskid not in self._open:
                readers = list[OutputReader]()
                lines = LineSink(self._printer.sink, taskid)
                following = Following(Printer(self._explainer, lines), taskid, readers)
                self._open[taskid] = _Open(following, readers, lines)

    def _find_sources(self) -> dict[int, list[Source]]:
        """Return the records of all open tasks: one reading finds them all."""
        logs, sources = self._explainer.logs, dict[int, list[Source]]()
        for source in self._explainer.patiently(
            lambda: find_sources(logs, self._open.keys())
        ):
            sources.setdefault(source.record.taskid, []).append(source)
        return sources

    def _search(self, sources: Mapping[int, list[Source]]) -> None:
        """Look for new attempts of all open tasks, and print them.

        Outputs of `MAX_OPEN` tasks at most are opened.
        """
        room = MAX_OPEN - sum(bool(each.readers) for each in self._open.values())
        is_full = False
        for taskid, each in self._open.items():
            had_any = bool(each.readers)
            if not had_any and room <= 0:
                is_full = True
                continue
            each.following.print_new_attempts(sources.get(taskid, []))
            room -= bool(each.readers) - had_any
        self._note_full(is_full=is_full)

    def _note_full(self, *, is_full: bool) -> None:
        """Tell once that outputs are not followed, if that lasts."""
        self._full_looks = self._full_looks + 1 if is_full else 0
        if self._full_looks == MAX_FULL_LOOKS and not self._has_told_of_many:
            self._has_told_of_many = True
            self._explainer.complain(TOO_MANY)

    # ---- remarks ---------------------------------------------------------------------

    def _report_waiting(self, locator: TaskLocator, waiting: Sequence[int]) -> None:
        """Print why the command waits: silence would look as if it hangs."""
        remarks = Gaps()
        for taskid in self._open:
            if locator.locate(taskid).location is Location.NOWHERE:
                remarks.note(Gap("", f" {IN_NO_FILE}{CTRL_C}"), taskid)
        for taskid in () if self._open else waiting[:MAX_REASONS]:
            why = self._explainer.reason(taskid, locator.locate(taskid))
            remarks.note(Gap("", f" {why}{CTRL_C}"), taskid)
        self._complain(remarks)

    def _note_unfinished(self, locator: TaskLocator, taskid: int) -> None:
        if why := explain_unfinished(locator.locate(taskid)):
            self._unfinished.note(Gap("", why), taskid)

    def _complain(self, remarks: Gaps) -> None:
        for sentence in remarks.sentences():
            self._explainer.complain(sentence)
