"""``mpifarm log -f``: the output of one task while it is written.

Rules of this file: the output is polled often, with a pause behind each poll.  The
location of the task is asked for seldom, because that reads the whole workdir.
"""

import time

from mpifarm.audit.locate import LocatedTask
from mpifarm.audit.snapshot import find_claim, observer
from mpifarm.commands.log.explain import NO_FARM, Explainer
from mpifarm.commands.log.printer import Printer, close_all, outputs_of
from mpifarm.errors import InputError
from mpifarm.output.reader import Output, OutputReader, Source, find_outputs
from mpifarm.store.task_map import Location

OUTPUT_SECONDS = 0.1
"""Seconds between two polls of the output, at the least."""
MAX_POLL_SECONDS = 1.0
"""Seconds of a poll that count for the pause behind it: a reader of standard output may
have stopped for long, and that is no load of the disk."""
ATTEMPT_SECONDS = 0.5
"""Seconds between two searches for a new attempt."""
TASK_SECONDS = 1.0
"""Seconds at least between two searches for the task; all searches take a tenth of the
time at most."""

CTRL_C = "; this waits for it (Ctrl-C ends that)"
IN_NO_FILE = "is in no file: a PyTaskFarmer may be running it"


def follow(printer: Printer, taskid: int) -> None:
    """Print the output of a task until the task has ended, or no living farm has it.

    Remarks on standard error say why the command waits, or why the task has not ended.
    Raises `InputError` if there is no output, and none will come; BrokenPipeError if
    the reader of standard output has closed it.
    """
    explainer = printer.explainer
    found = explainer.locate(taskid)
    readers = printer.open_outputs(taskid, split=False)
    try:
        if not (readers or may_begin(found)):
            raise InputError(explainer.explain(taskid))
        for number, reader in enumerate(readers):
            printer.begin_attempt(reader, is_first=not number)
        _report_waiting(explainer, taskid, found, has_begun=bool(readers))
        found = Following(printer, taskid, readers).run(found)
        explainer.note_doubt(taskid, outputs_of(readers))
    finally:
        close_all(readers)
    _report_unfinished(explainer, taskid, found)
    explainer.report_doubts()


def _report_waiting(
    explainer: Explainer, taskid: int, found: LocatedTask, *, has_begun: bool
) -> None:
    """Print the reason why the command waits: silence would look as if it hangs.

    Print nothing if it does not wait, or a running attempt is shown.
    """
    if not may_begin(found) or (has_begun and found.location is Location.CLAIMED):
        return
    if not has_begun:
        sentence = explainer.reason(taskid, found)
    elif found.location is Location.QUEUED:
        sentence = "waits to be run again"
    elif found.location is Location.UNKNOWN:
        sentence = "may run again, as far as the files tell"
    else:
        sentence = IN_NO_FILE
    explainer.complain(f"task {taskid} {sentence}{CTRL_C}")


def _report_unfinished(explainer: Explainer, taskid: int, found: LocatedTask) -> None:
    """Print the reason why nothing more comes of a task that has not ended, if any."""
    if why := explain_unfinished(found):
        explainer.complain(f"task {taskid}{why}")


def explain_unfinished(found: LocatedTask) -> str:
    """Return why nothing more comes of a task, behind its name; "" if it has ended."""
    holder = found.holder
    if holder and not holder.may_live:
        return (
            f" has not ended: farm {holder.farm} had it and died; the farm's command,"
            " given again, runs it again"
        )
    if found.location is Location.QUEUED:
        rest = "" if found.may_start else NO_FARM
        return f" has not ended: it waits to be run{rest}"
    return ""


class Following:
    """The loop that prints one task; `readers` are of its attempts so far, and grow."""

    def __init__(
        self, printer: Printer, taskid: int, readers: list[OutputReader]
    ) -> None:
        self._printer = printer
        self._explainer = printer.explainer
        self._taskid = taskid
        self._readers = readers

    def run(self, found: LocatedTask) -> LocatedTask:
        """Print until nothing more will come.  Return the last location of the task."""
        ask_at = search_at = 0.0
        while True:
            # Asked before the output is read: so all output of a task that has ended by
            # now is still read.
            has_ended = False
            now = time.monotonic()
            if now >= ask_at:
                found, has_ended = self._ask(found)
                took = time.monotonic() - now
                ask_at = now + took + max(TASK_SECONDS, 9 * took)
            begun = time.monotonic()
            came = self.print_new()
            took = time.monotonic() - begun
            if has_ended or (not came and now >= search_at):
                search_at = now + ATTEMPT_SECONDS
                self.print_new_attempts()
            if has_ended:
                return found
            self._printer.sink.wait(find_pause(took))

    def print_new(self) -> bool:
        """Print what the last attempt has written since.  Return whether it has."""
        return bool(self._readers) and self._printer.print_new(self._readers[-1])

    def _ask(self, found: LocatedTask) -> tuple[LocatedTask, bool]:
        """Return the location of the task, and whether no more output will come.

        While its claim lives, only that claim is read.
        """
        explainer, taskid = self._explainer, self._taskid
        if found.holder is None:
            # The end counts one question late: output until then is printed first.
            return explainer.locate(taskid), not may_begin(found)
        claim = find_claim(explainer.target.workdir, observer(), found.holder.farm)
        if claim is not None and claim.may_live and taskid in claim.held:
            return found, False
        found = explainer.locate(taskid)
        runs_again = found.location in (
            Location.CLAIMED,
            Location.QUEUED,
        ) and may_begin(found)
        return found, not runs_again

    def print_new_attempts(self, sources: list[Source] | None = None) -> bool:
        """Open and print new attempts.  Return whether there are any.

        `sources` are those of this task, if the caller has just found them.
        """
        readers, logs = self._readers, self._explainer.logs
        outputs = self._explainer.patiently(
            lambda: find_outputs(logs, self._taskid, split=False, sources=sources)
        )
        known = {_key_of(reader.output) for reader in readers}
        came = False
        for output in outputs:
            is_known = _key_of(output) in known or any(
                reader.reads(output.path) for reader in readers if not output.source
            )
            if is_known:
                continue
            try:
                reader = OutputReader(output)
            except OSError:  # it has just moved: the next search finds it
                continue
            self._printer.begin_attempt(reader, is_first=not readers)
            readers.append(reader)
            came = True
        return came


def find_pause(took: float) -> float:
    """Return the seconds to the next poll, behind one that `took` so many.

    A poll reads files of a shared disk, also while tasks print all the time.
    """
    return max(OUTPUT_SECONDS, 4 * min(took, MAX_POLL_SECONDS))


def may_begin(found: LocatedTask) -> bool:
    """Return whether an attempt of the task may run, or begin by itself."""
    if found.holder is not None:
        return found.holder.may_live
    if found.location in (Location.QUEUED, Location.UNKNOWN):
        return found.may_start
    return found.location is Location.NOWHERE


def _key_of(output: Output) -> tuple[object, ...]:
    return output.source.key if output.source else (output.path,)
