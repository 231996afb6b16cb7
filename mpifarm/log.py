"""``mpifarm log``: what tasks have written, while farms run or after them.

Rules of this file: arguments, words, and the order in which things are shown; where
outputs are `workdir.outputs` knows.  Bytes go to standard output as they are; who
closes it early has seen enough.
"""

import os
import select
import time
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

from mpifarm.arguments import SubcommandParser
from mpifarm.console import Console
from mpifarm.errors import ExitStatus, InputError
from mpifarm.logfiles import UNKEPT
from mpifarm.place import (
    Place,
    add_place_arguments,
    find_place,
    has_own_state,
    read_tasks,
)
from mpifarm.tasklists import TaskList
from mpifarm.workdir import WorkdirPaths
from mpifarm.workdir.checking import (
    ClaimView,
    Contents,
    Judged,
    judge,
    learn_tasks,
)
from mpifarm.workdir.claims import DamagedClaimError, encode_ids, parse_ids
from mpifarm.workdir.examining import examine, find_claim, observer
from mpifarm.workdir.outputs import Output, OutputReader, find_outputs

PAUSE = 0.1
"""Seconds between two looks at an output that is followed."""
LOOK = 0.5
"""Seconds between two looks for an attempt that has begun."""
ASK = 1.0
"""Seconds between two looks at what has become of the task, at least; a look takes a
tenth of the time at most."""
TRIES = 5
"""How often outputs are looked for that move meanwhile."""

_DESCRIPTION = (
    "Print what tasks have written, all attempts of each in the order of their starts,"
    " whatever --logs the farms had; needs no MPI, and works while they run."
)


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """The subcommand; raises `InputError`."""
    chosen = _parse(argv)
    place = find_place(chosen)
    taskids = _parse_taskids(chosen.ids)
    attempt = _parse_attempt(chosen.attempt)
    if chosen.follow and (len(taskids) > 1 or attempt is not None):
        raise InputError(
            "--follow takes one id, and no --attempt: it shows all attempts, and goes"
            " on with the next"
        )
    show = _Show(place, environ, Sink())
    try:
        if chosen.follow:
            show.follow(taskids[0])
            return ExitStatus.ALL_FINISHED
        return _show_all(show, taskids, attempt, console)
    except BrokenPipeError:
        return ExitStatus.ALL_FINISHED
    except OSError as error:
        what = error.filename or "an output"
        raise InputError(f"can't read {what}: {error.strerror}") from error


def _show_all(
    show: "_Show", taskids: list[int], attempt: int | None, console: Console
) -> int:
    if len(taskids) == 1:
        show.task(taskids[0], attempt)
        return ExitStatus.ALL_FINISHED
    known, beyond = show.split_known(taskids)
    silent: list[int] = []
    complaints = [beyond] if beyond else []
    for taskid in known:
        heading = f"==> task {taskid} <==\n".encode()
        try:
            if not show.outputs(taskid, attempt, heading):
                silent.append(taskid)
        except InputError as error:
            complaints.append(str(error))
    complaints += show.explain_all(silent)
    for complaint in complaints:
        console.complain(complaint)
    return ExitStatus.SOME_FAILED if complaints else ExitStatus.ALL_FINISHED


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("log", _DESCRIPTION)
    add_place_arguments(parser)
    parser.add_argument("ids", metavar="ID", help="a task's id; or several, as 3,7-9")
    parser.add_argument(
        "--attempt",
        metavar="N",
        help="only the N-th attempt of those that would be printed, whichever farm's;"
        " -1 is the last",
    )
    parser.add_argument(
        "--follow",
        "-f",
        action="store_true",
        help="go on with what is being written, until the task has ended",
    )
    return parser.parse_args(argv)


def _parse_taskids(text: str) -> list[int]:
    try:
        taskids = parse_ids(text.replace(" ", ""))
    except DamagedClaimError:
        taskids = []
    if not taskids:
        raise InputError(
            f"{text!r:.60} is no id of a task: write a number, or 3,7-9 (without"
            " blanks, the smaller one of a range first)"
        )
    return taskids


def _parse_attempt(text: str | None) -> int | None:
    if text is None:
        return None
    digits = text.removeprefix("-")
    if not (digits.isdecimal() and digits.isascii()) or not int(digits[:9]):
        raise InputError(f"--attempt takes 1, 2, ... or -1 for the last, not {text!r}")
    return int(text[:9])


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


# ---- where a task is ----------------------------------------------------------------


class At(Enum):
    """Where a task is, and what is said of it if there is no output."""

    FINISHED = "has finished, and nothing of what it has written is there"
    HELD = "has not started yet: {holder} has taken it"
    WAITING = "has not started yet: it waits in toprocess"
    FAILED = "has failed, and nothing of what it has written is there"
    NOWHERE = "is in no file (a plain farmer has it, or lost it), and has no log"


class Whereabouts(NamedTuple):
    """Of one task, at one moment."""

    at: At
    holder: ClaimView | None
    may_start: bool
    """Whether any farm is at work."""


class Survey:
    """Where all tasks are, at one moment; `total` is how many the list has."""

    def __init__(
        self, contents: Contents, judged: Judged, total: int, *, has_own_state: bool
    ) -> None:
        self.total = total
        self._contents = contents
        self._judged = judged
        self._has_own_state = has_own_state
        self._finished = {*judged.finished.ids}
        self._queued = {*judged.queued}
        self._failed = {*judged.failed.ids}

    def knows(self, taskid: int) -> bool:
        """Whether there may be such a task."""
        return self._has_own_state or taskid < self.total

    def find(self, taskid: int) -> Whereabouts:
        """Where a task is."""
        claims = self._contents.claims
        holder = next((each for each in claims if taskid in each.held), None)
        at = At.NOWHERE
        if taskid in self._finished:
            at, holder = At.FINISHED, None
        elif holder:
            at = At.HELD
        elif taskid in self._queued or self._contents.toprocess is None:
            at = At.WAITING
        elif taskid in self._failed:
            at = At.FAILED
        return Whereabouts(at, holder, any(each.may_live for each in claims))


class _Show:
    """Shows outputs; knows the workdir."""

    def __init__(self, place: Place, environ: Mapping[str, str], sink: Sink) -> None:
        self._place = place
        self._environ = environ
        self._sink = sink
        self._paths = WorkdirPaths(os.path.abspath(place.workdir))

    def task(self, taskid: int, attempt: int | None, heading: bytes = b"") -> None:
        """All that is there now; raises `InputError` where nothing is."""
        if not self.outputs(taskid, attempt, heading):
            raise InputError(self._explain(taskid))

    def outputs(self, taskid: int, attempt: int | None, heading: bytes) -> bool:
        """All that is there now, if anything is."""
        readers = self._open(taskid, split=attempt is not None)
        if not readers:
            return False
        try:
            wanted = readers if attempt is None else [_choose(readers, attempt, taskid)]
            for number, reader in enumerate(wanted):
                self._begin(reader, heading, is_first=not number)
                heading = b""
        finally:
            _close(readers)
        return True

    def _begin(self, reader: OutputReader, heading: bytes, *, is_first: bool) -> None:
        if heading:
            self._sink.write_line(heading)
        if not is_first:
            self._sink.write_line(reader.output.head)
        self._drain(reader)

    def _drain(self, reader: OutputReader) -> bool:
        """Show what has come; whether there was any."""
        came = False
        while piece := reader.read():
            self._sink.write(piece)
            came = True
        return came

    def _open(self, taskid: int, *, split: bool) -> list[OutputReader]:
        """All of them before any is shown: one that moves is looked for again."""
        for left in reversed(range(TRIES)):
            outputs = find_outputs(self._paths.logs, taskid, split=split)
            readers: list[OutputReader] = []
            try:
                readers.extend(map(OutputReader, outputs))
            except FileNotFoundError as error:
                _close(readers)
                if not left:
                    raise InputError(
                        f"{error.filename} is gone, with what task {taskid} has written"
                    ) from error
            except OSError as error:
                _close(readers)
                raise InputError(
                    f"can't read {error.filename}: {error.strerror}"
                ) from error
            else:
                return readers
        return []

    # ---- words ----------------------------------------------------------------------

    def split_known(self, taskids: list[int]) -> tuple[list[int], str]:
        """Those that the tasklist has, where there is one; and a word on the others."""
        tasks = self._find_tasks()
        if tasks is None or has_own_state(tasks, self._place):
            return taskids, ""
        known = [taskid for taskid in taskids if taskid < len(tasks)]
        if len(known) == len(taskids):
            return taskids, ""
        names = encode_ids({*taskids} - {*known})
        total = f"{self._place.tasklist} has {len(tasks)} tasks, from 0 on"
        return known, f"there are no tasks {names}: {total}"

    def explain_all(self, taskids: list[int]) -> list[str]:
        """Why there is nothing of these, in few sentences."""
        if not taskids:
            return []
        survey = self._survey()
        by_reason: dict[str, list[int]] = {}
        for taskid in taskids:
            if survey.knows(taskid):
                why = self._reason(survey.find(taskid))
            else:
                why = "has written nothing that is there, and no file knows it"
            by_reason.setdefault(why, []).append(taskid)
        return [
            f"task {each[0]} {why}"
            if len(each) == 1
            else f"tasks {encode_ids(each)}: each {why}"
            for why, each in by_reason.items()
        ]

    def _explain(self, taskid: int) -> str:
        return f"task {taskid} {self._reason(self._look_up(taskid))}"

    def _reason(self, found: Whereabouts) -> str:
        holder = found.holder
        if holder and not holder.may_live:
            return (
                f"has written nothing that is there: farm {holder.farm}"
                " had taken it and died; the next start takes it back"
            )
        farm = f"farm {holder.farm} {holder.where}" if holder else ""
        sentence = found.at.value.format(holder=farm)
        unkept = f"{self._paths.logs}/{UNKEPT}"
        if found.at is At.FINISHED and os.path.isdir(unkept):
            sentence += " (--logs failed keeps nothing of what completed)"
        return sentence

    def _look_up(self, taskid: int) -> Whereabouts:
        """Raises `InputError` where there is no such task."""
        survey = self._survey()
        if not survey.knows(taskid):
            raise InputError(_no_such_task(taskid, survey.total, self._place))
        return survey.find(taskid)

    def _survey(self) -> Survey:
        tasks = self._find_tasks()
        own = has_own_state(tasks, self._place)
        contents = examine(self._place.workdir, observer(), locked=False)
        if own:
            contents = contents._replace(toprocess=None, finished=None, failed=None)
        texts = learn_tasks(contents) if own or tasks is None else tasks.tasks
        judged = judge(contents, texts, list_is_known=tasks is not None and not own)
        return Survey(contents, judged, len(texts), has_own_state=own)

    def _find_tasks(self) -> TaskList | None:
        try:
            return read_tasks(self._place, self._environ)
        except InputError:  # what is told of a task without its list will do
            return None

    # ---- following ------------------------------------------------------------------

    def follow(self, taskid: int) -> None:
        """Show what is there and what comes, until the task has ended."""
        found = self._look_up(taskid)
        readers = self._open(taskid, split=False)
        if not (readers or self._may_begin(found)):
            raise InputError(self._explain(taskid))
        for number, reader in enumerate(readers):
            self._begin(reader, b"", is_first=not number)
        ask_at = look_at = 0.0
        while True:
            # Before the last look at the output: what ends now was written before.
            has_ended = False
            now = time.monotonic()
            if now >= ask_at:
                has_ended = not self._goes_on(taskid, found)
                found = self._renewed(taskid, found)
                took = time.monotonic() - now
                ask_at = now + took + max(ASK, 9 * took)
            came = bool(readers) and self._drain(readers[-1])
            if has_ended or (not came and now >= look_at):
                look_at = now + LOOK
                came = self._show_new(taskid, readers) or came
            if has_ended:
                return
            if not came:
                self._sink.rest(PAUSE)

    def _may_begin(self, found: Whereabouts) -> bool:
        if found.holder is not None:
            return found.holder.may_live
        return found.at is At.NOWHERE or (found.at is At.WAITING and found.may_start)

    def _goes_on(self, taskid: int, found: Whereabouts) -> bool:
        """Whether the task may write more."""
        if found.holder is None:
            return self._may_begin(found)
        claim = find_claim(self._place.workdir, observer(), found.holder.farm)
        return claim is not None and claim.may_live and taskid in claim.held

    def _renewed(self, taskid: int, found: Whereabouts) -> Whereabouts:
        """A task that nobody had may have been taken meanwhile."""
        return found if found.holder is not None else self._look_up(taskid)

    def _show_new(self, taskid: int, readers: list[OutputReader]) -> bool:
        """Show attempts that have begun since; whether there are any."""
        known = {_key_of(reader.output) for reader in readers}
        came = False
        for output in find_outputs(self._paths.logs, taskid, split=False):
            is_known = _key_of(output) in known or any(
                reader.reads(output.path) for reader in readers if not output.source
            )
            if is_known:
                continue
            try:
                reader = OutputReader(output)
            except OSError:  # it has just moved: at the next look
                continue
            self._begin(reader, b"", is_first=not readers)
            readers.append(reader)
            came = True
        return came


def _close(readers: list[OutputReader]) -> None:
    for reader in readers:
        reader.close()


def _key_of(output: Output) -> tuple[object, ...]:
    return output.source.key if output.source else (output.path,)


def _choose(readers: list[OutputReader], attempt: int, taskid: int) -> OutputReader:
    place = attempt - 1 if attempt > 0 else attempt
    if not -len(readers) <= place < len(readers):
        count = len(readers)
        are = "is 1 attempt" if count == 1 else f"are {count} attempts"
        raise InputError(f"--attempt {attempt}: there {are} of task {taskid}")
    return readers[place]


def _no_such_task(taskid: int, total: int, place: Place) -> str:
    if place.tasklist is None:
        return (
            f"task {taskid} has written nothing that is there, and no file of"
            f" {place.workdir} knows it (--list FILE names the tasklist)"
        )
    return f"there is no task {taskid}: {place.tasklist} has {total} tasks, from 0 on"
