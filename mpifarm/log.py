"""``mpifarm log``: what tasks have written, while farms run or after them.

Rules of this file: arguments, words, and the order in which things are shown; where
outputs are `workdir.outputs` knows.  Bytes go to standard output as they are; who
closes it early has seen enough.
"""

import os
import select
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import cached_property
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
from mpifarm.workdir.claims import MOST_IDS, DamagedClaimError, encode_ids, parse_ids
from mpifarm.workdir.examining import examine, find_claim, observer
from mpifarm.workdir.outputs import (
    Output,
    OutputReader,
    Source,
    find_outputs,
    find_sources,
)

PAUSE = 0.1
"""Seconds between two looks at an output that is followed."""
LOOK = 0.5
"""Seconds between two looks for an attempt that has begun."""
ASK = 1.0
"""Seconds between two looks at what has become of the task, at least; a look takes a
tenth of the time at most."""
TRIES = 5
"""How often outputs are looked for that move meanwhile."""
AT_ONCE = 50_000
"""Tasks whose records are looked for in one reading of the indexes: some 20 MB."""
MOST_NAMES = 70
"""Characters that the ids in a sentence take."""
MOST_GAPS = 20
"""Sentences on what can't be shown."""

_DESCRIPTION = (
    "Print what tasks have written, all attempts of each in the order of their starts,"
    " whatever --logs the farms had; needs no MPI, and works while they run."
)
_EPILOG = (
    "Exit status: 0; 2 if there is nothing to print, with the reason; of several tasks,"
    " 1 if some, or all, had nothing."
)


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """The subcommand; raises `InputError`."""
    chosen = _parse(argv)
    place = find_place(chosen)
    taskids = _parse_taskids(chosen.ids)
    attempt = _parse_attempt(chosen.attempt)
    if chosen.follow:
        _check_follow(taskids, attempt)
    show = _Show(place, environ, Sink(), console)
    try:
        return _show(show, taskids, attempt, follow=chosen.follow)
    except BrokenPipeError:
        return ExitStatus.ALL_FINISHED
    except OSError as error:
        what = error.filename or "an output"
        raise InputError(f"can't read {what}: {error.strerror}") from error


def _show(
    show: "_Show", taskids: list[int], attempt: int | None, *, follow: bool
) -> ExitStatus:
    if follow:
        show.follow(taskids[0])
    elif len(taskids) == 1:
        show.task(taskids[0], attempt)
    elif not show.several(taskids, attempt):
        return ExitStatus.SOME_FAILED
    return ExitStatus.ALL_FINISHED


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("log", _DESCRIPTION)
    parser.epilog = _EPILOG
    add_place_arguments(parser)
    parser.add_argument(
        "ids", metavar="ID", nargs="+", help="a task's id; or several, as 3,7-9"
    )
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
        help="go on with what is being written, next attempts included, until the task"
        " has ended or no live farm has it; one task only",
    )
    return parser.parse_args(argv)


def _parse_taskids(words: Sequence[str]) -> list[int]:
    """The ids in the order in which they stand, each once."""
    taskids: dict[int, None] = {}
    for word in words:
        part = word.replace(" ", "").strip(",")
        try:
            found = parse_ids(part)
        except DamagedClaimError:
            found = []
        if not found:
            raise InputError(_explain_ids(word, part))
        taskids.update(dict.fromkeys(found))
    return [*taskids]


def _explain_ids(word: str, part: str) -> str:
    """Why `word` names no tasks."""
    count = 0
    for each in part.split(","):
        begin, dash, last = each.partition("-")
        if not (_is_number(begin) and (_is_number(last) or not dash)):
            return f"{word!r:.60} is no id of a task: write a number, or 3,7-9"
        first, end = int(begin), int(last or begin)
        if end < first:
            return f"the range {each} ends before it begins: write {end}-{first}"
        count += end - first + 1
    return f"{word!r:.60} names {count} tasks: {MOST_IDS} at a time are the most"


def _is_number(text: str) -> bool:
    return text.isdecimal() and text.isascii() and len(text) <= 15


def _check_follow(taskids: list[int], attempt: int | None) -> None:
    if len(taskids) > 1:
        raise InputError(
            f"-f (--follow) follows one task, and these are {len(taskids)}: name one"
        )
    if attempt is not None:
        raise InputError(
            "-f (--follow) shows all attempts and goes on with the next: leave out"
            " --attempt, or -f"
        )


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
    UNTOLD = "has written nothing that is there; what is done its tasklist knows"
    """A tasklist that keeps its own state."""


_NO_FARM = ", and no farm is at work: give the farm's command again to run it"
_CTRL_C = "; this waits for it (Ctrl-C ends that)"


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

    @property
    def claims(self) -> tuple[ClaimView, ...]:
        """Those of all farms."""
        return self._contents.claims

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
        elif self._has_own_state:
            at = At.UNTOLD
        elif taskid in self._queued or self._contents.toprocess is None:
            at = At.WAITING
        elif taskid in self._failed:
            at = At.FAILED
        return Whereabouts(at, holder, any(each.may_live for each in claims))


class Gap(NamedTuple):
    """Why something can't be shown: a sentence, without the tasks it is about."""

    before: str
    behind: str


class GapError(InputError):
    """Something of one task can't be shown."""

    def __init__(self, gap: Gap, taskid: int) -> None:
        super().__init__(f"{gap.before}task {taskid}{gap.behind}")
        self.gap = gap


class GoneError(GapError):
    """It is gone from where it was: it may be elsewhere now."""


class Gaps:
    """What can't be shown of many tasks, in few sentences."""

    def __init__(self) -> None:
        self._ids: dict[Gap, list[int]] = {}

    def note(self, gap: Gap, taskid: int) -> None:
        """One more task to which it applies."""
        self._ids.setdefault(gap, []).append(taskid)

    def sentences(self) -> list[str]:
        """One for each reason."""
        found = [
            f"{gap.before}{_name_tasks(ids)}{gap.behind}"
            for gap, ids in self._ids.items()
        ]
        if len(found) > MOST_GAPS:
            rest = [*self._ids.values()][MOST_GAPS:]
            count = sum(map(len, rest))
            found[MOST_GAPS:] = [f"so it is, or alike, with {count} tasks more"]
        return found


def _name_tasks(taskids: Sequence[int]) -> str:
    if len(taskids) == 1:
        return f"task {taskids[0]}"
    names = encode_ids(taskids)
    if len(names) > MOST_NAMES:
        return f"each of {len(taskids)} tasks ({_shortened(names)})"
    return f"each of the tasks {names}"


def _shortened(names: str) -> str:
    if len(names) <= MOST_NAMES:
        return names
    return names[: names.rindex(",", 0, MOST_NAMES)] + ",..."


class _Show:
    """Shows outputs; knows the workdir."""

    def __init__(
        self, place: Place, environ: Mapping[str, str], sink: Sink, console: Console
    ) -> None:
        self._place = place
        self._environ = environ
        self._sink = sink
        self._console = console
        self._paths = WorkdirPaths(os.path.abspath(place.workdir))
        self._unkept = f"{self._paths.logs}/{UNKEPT}"
        self._doubtful: dict[int, Output] = {}

    def task(self, taskid: int, attempt: int | None) -> None:
        """All that is there now; raises `InputError` where nothing is."""
        if not self._show(taskid, attempt, b"", None):
            raise InputError(self._explain(taskid))
        self._remark()

    def several(self, taskids: list[int], attempt: int | None) -> bool:
        """The same of many, each under a heading; whether there was some of each."""
        known, beyond = self._split_known(taskids)
        if beyond:
            self._console.complain(beyond)
        gaps = Gaps()
        missed = self._show_each(known, attempt, gaps, is_last=False)
        if missed:
            survey = self._survey()
            # What has ended by now had not begun, maybe, when it was looked for.
            for taskid in self._show_each(missed, attempt, gaps, is_last=True):
                gaps.note(self._find_gap(survey, taskid), taskid)
        complaints = gaps.sentences()
        for complaint in complaints:
            self._console.complain(complaint)
        self._remark()
        return not (beyond or complaints)

    def _show_each(
        self, taskids: list[int], attempt: int | None, gaps: Gaps, *, is_last: bool
    ) -> list[int]:
        """Returns those of which nothing is there, or where it was a moment ago."""
        missed = []
        for begin in range(0, len(taskids), AT_ONCE):
            some = taskids[begin : begin + AT_ONCE]
            sources: dict[int, list[Source]] = {taskid: [] for taskid in some}
            for source in find_sources(self._paths.logs, sources.keys()):
                sources[source.record.taskid].append(source)
            for taskid in some:
                heading = f"==> task {taskid} <==\n".encode()
                try:
                    if not self._show(taskid, attempt, heading, sources.pop(taskid)):
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
        readers = self._open(taskid, split=attempt is not None, sources=sources)
        if not readers:
            return False
        try:
            wanted = readers if attempt is None else [_choose(readers, attempt, taskid)]
            for number, reader in enumerate(wanted):
                self._begin(reader, heading, is_first=not number)
                heading = b""
            self._note_doubt(taskid, readers)
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

    def _open(
        self, taskid: int, *, split: bool, sources: list[Source] | None = None
    ) -> list[OutputReader]:
        """All of them before any is shown: one that moves is looked for again.

        With `sources` it isn't: each look reads all indexes.
        """
        for left in reversed(range(TRIES if sources is None else 1)):
            readers: list[OutputReader] = []
            try:
                outputs = find_outputs(
                    self._paths.logs, taskid, split=split, sources=sources
                )
                readers.extend(map(OutputReader, outputs))
            except FileNotFoundError as error:
                _close(readers)
                if not left:
                    gap = Gap(f"{error.filename} is gone, with the output of ", "")
                    raise GoneError(gap, taskid) from error
            except OSError as error:
                _close(readers)
                gap = Gap(f"can't read {error.filename}: {error.strerror} (", ")")
                raise GapError(gap, taskid) from error
            else:
                return readers
        return []

    # ---- words ----------------------------------------------------------------------

    def _split_known(self, taskids: list[int]) -> tuple[list[int], str]:
        """Those that the tasklist has, where there is one; and a word on the others."""
        tasks = self._tasks
        if tasks is None or has_own_state(tasks, self._place):
            return taskids, ""
        known = [taskid for taskid in taskids if taskid < len(tasks)]
        if len(known) == len(taskids):
            return taskids, ""
        beyond = {*taskids}.difference(known)
        total = f"{self._place.tasklist} has {len(tasks)} tasks, from 0 on"
        if len(beyond) == 1:
            return known, f"there is no task {encode_ids(beyond)}: {total}"
        return known, f"there are no tasks {_shortened(encode_ids(beyond))}: {total}"

    def _find_gap(self, survey: Survey, taskid: int) -> Gap:
        """Why there is nothing of a task."""
        if survey.knows(taskid):
            return Gap("", f" {self._reason(survey.find(taskid))}")
        return Gap("", " has written nothing that is there, and no file knows it")

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
        if found.at is At.FINISHED and self._keeps_little:
            sentence += " (--logs failed keeps nothing of what completed)"
        if found.at is At.WAITING and not found.may_start:
            sentence += _NO_FARM
        return sentence

    @cached_property
    def _keeps_little(self) -> bool:
        """Whether any farm here has had ``--logs failed``."""
        return os.path.isdir(self._unkept)

    def _note_doubt(self, taskid: int, readers: Iterable[OutputReader]) -> None:
        """What is shown may be no output of the attempt that completed."""
        if not self._keeps_little:
            return
        outputs = [reader.output for reader in readers]
        if outputs and not any(
            each.source and each.source.files.directory != self._unkept
            for each in outputs
        ):
            self._doubtful[taskid] = outputs[-1]

    def _remark(self) -> None:
        """Say of what finished that only what went wrong before is there."""
        if not self._doubtful:
            return
        survey = self._survey()
        live = {claim.farm for claim in survey.claims if claim.may_live}
        remarks = Gaps()
        for taskid, output in self._doubtful.items():
            if survey.find(taskid).at is not At.FINISHED or output.farm in live:
                continue
            # A log may be of another farm, which kept all.
            may_be = "may be" if output.source is None else "is"
            remark = (
                f" has finished; what is shown {may_be} from before: of an attempt that"
                " completed --logs failed keeps nothing"
            )
            remarks.note(Gap("", remark), taskid)
        for sentence in remarks.sentences():
            self._console.complain(sentence)

    def _look_up(self, taskid: int) -> Whereabouts:
        """Raises `InputError` where there is no such task."""
        survey = self._survey()
        if not survey.knows(taskid):
            raise InputError(_no_such_task(taskid, survey.total, self._place))
        return survey.find(taskid)

    def _survey(self) -> Survey:
        tasks = self._tasks
        own = has_own_state(tasks, self._place)
        contents = examine(self._place.workdir, observer(), locked=False)
        if own:
            contents = contents._replace(toprocess=None, finished=None, failed=None)
        texts = learn_tasks(contents) if own or tasks is None else tasks.tasks
        judged = judge(contents, texts, list_is_known=tasks is not None and not own)
        return Survey(contents, judged, len(texts), has_own_state=own)

    @cached_property
    def _tasks(self) -> TaskList | None:
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
        self._say_what_it_waits_for(taskid, found, has_begun=bool(readers))
        try:
            self._follow_on(taskid, found, readers)
            self._note_doubt(taskid, readers)
        finally:
            _close(readers)
        self._say_what_is_left(taskid)
        self._remark()

    def _follow_on(
        self, taskid: int, found: Whereabouts, readers: list[OutputReader]
    ) -> None:
        ask_at = look_at = 0.0
        while True:
            # Before the last look at the output: what ends now was written before.
            has_ended = False
            now = time.monotonic()
            if now >= ask_at:
                found, has_ended = self._ask(taskid, found)
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

    def _say_what_it_waits_for(
        self, taskid: int, found: Whereabouts, *, has_begun: bool
    ) -> None:
        """Silence would look like a command that hangs."""
        if not self._may_begin(found) or (has_begun and found.at is At.HELD):
            return
        if not has_begun:
            words = self._reason(found)
        elif found.at is At.WAITING:
            words = "waits in toprocess, to run again"
        elif found.at is At.UNTOLD:
            words = "may run again, as far as the files tell"
        else:
            words = "is in no file: a plain farmer has it, or lost it"
        self._console.complain(f"task {taskid} {words}{_CTRL_C}")

    def _say_what_is_left(self, taskid: int) -> None:
        """Why nothing more comes, of a task that has not ended."""
        found = self._look_up(taskid)
        holder = found.holder
        if holder and not holder.may_live:
            self._console.complain(
                f"task {taskid} has not ended: farm {holder.farm} had it and died; the"
                " farm's command, given again, runs it again"
            )
        elif found.at is At.WAITING:
            rest = "" if found.may_start else _NO_FARM
            self._console.complain(
                f"task {taskid} has not ended: it waits in toprocess{rest}"
            )

    def _may_begin(self, found: Whereabouts) -> bool:
        if found.holder is not None:
            return found.holder.may_live
        if found.at in (At.WAITING, At.UNTOLD):
            return found.may_start
        return found.at is At.NOWHERE

    def _ask(self, taskid: int, found: Whereabouts) -> tuple[Whereabouts, bool]:
        """Where the task is now, and whether nothing more is to come of it."""
        if found.holder is None:
            # What ends between the two looks is shown before the third.
            return self._look_up(taskid), not self._may_begin(found)
        claim = find_claim(self._place.workdir, observer(), found.holder.farm)
        if claim is not None and claim.may_live and taskid in claim.held:
            return found, False
        found = self._look_up(taskid)
        runs_again = found.at in (At.HELD, At.WAITING) and self._may_begin(found)
        return found, not runs_again

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
        raise GapError(Gap(f"--attempt {attempt}: there {are} of ", ""), taskid)
    return readers[place]


def _no_such_task(taskid: int, total: int, place: Place) -> str:
    if place.tasklist is None:
        return (
            f"task {taskid} has written nothing that is there, and no file of"
            f" {place.workdir} knows it (--list FILE names the tasklist)"
        )
    return f"there is no task {taskid}: {place.tasklist} has {total} tasks, from 0 on"
