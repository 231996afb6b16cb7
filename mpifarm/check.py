"""``mpifarm check``: what is true of a workdir, told in a table; put right if asked.

Rules of this file: arguments and words.  What is found `workdir.checking` says, what
is done about it `workdir.repairing`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mpifarm.arguments import SubcommandParser
from mpifarm.console import Console
from mpifarm.errors import ExitStatus, InputError, StorageError
from mpifarm.place import (
    Place,
    add_place_arguments,
    find_existing_lock,
    find_lock,
    find_place,
    has_own_state,
    read_tasks,
)
from mpifarm.tasklists import TaskList
from mpifarm.workdir import this_machine
from mpifarm.workdir.checking import (
    NOTICES,
    ClaimView,
    Contents,
    Finding,
    Judged,
    Kind,
    Standing,
    judge,
    learn_tasks,
)
from mpifarm.workdir.examining import examine, list_logs, observer
from mpifarm.workdir.fingerprint import Verdict
from mpifarm.workdir.repairing import Repairer
from mpifarm.workdir.retrying import shorten_ids

LOCK_SECONDS = 5.0
"""How long a check waits for the lock before it does without."""

_DESCRIPTION = (
    "Tell what is true of a workdir, while farms run or none does; needs no MPI, and"
    " changes nothing unless asked to.  Exit status: 0 all is well, 1 something was"
    " found (and is still so after a repair), 2 the command line or an input is wrong."
)


class Words(NamedTuple):
    """What a finding is, and what `--repair` does about it."""

    what: str
    remedy: str


_IDLE = "--assume-idle: "
_NOTHING = "-"

WORDS = {
    Kind.REMAP_BEGUN: Words(
        "a --remap was interrupted", "nothing: the farm with --remap goes on"
    ),
    Kind.LIST_EDITED: Words(
        "the tasklist was edited since the workdir was begun",
        "nothing: see mpifarm --remap",
    ),
    Kind.LINES_ADDED: Words(
        "notice: lines were added to the tasklist", "nothing: the next start does"
    ),
    Kind.FINGERPRINT: Words("the fingerprint is damaged", "is written anew"),
    Kind.UNREAD: Words("could not be read", "nothing: its owner must"),
    Kind.UNLOCKED: Words("notice: read without the lock", _NOTHING),
    Kind.TORN: Words("torn lines", "mended; what they record beyond doubt stays"),
    Kind.NO_TASK: Words("lines that are of no task", "taken out"),
    Kind.UNKNOWN_ID: Words("ids that the tasklist does not have", "taken out"),
    Kind.OTHER_TEXT: Words("lines with another text than the tasklist", "taken out"),
    Kind.QUEUED_FINISHED: Words(
        "finished, and in toprocess too", "taken out of toprocess"
    ),
    Kind.QUEUED_HELD: Words(
        "claimed by a farm at work, and in toprocess", "taken out of toprocess"
    ),
    Kind.HELD_TWICE: Words("in the claims of two farms", "nothing"),
    Kind.HELD_UNKNOWN: Words("claimed, and not in the tasklist", "nothing"),
    Kind.FINISHED_TWICE: Words("more than once in finished", "one line stays"),
    Kind.QUEUED_TWICE: Words("more than once in toprocess or added", "one line stays"),
    Kind.UNSORTED: Words("notice: toprocess is not sorted", "sorted"),
    Kind.FAILED_FINISHED: Words(
        "notice: failed once, finished later", "taken out of failed"
    ),
    Kind.FAILED_QUEUED: Words(
        "notice: failed, and to be processed again", "taken out of failed"
    ),
    Kind.FAILED_TWICE: Words("notice: more than once in failed", "one line stays"),
    Kind.NOWHERE: Words(
        "in no file: with a plain farmer, or lost by one", _IDLE + "put back"
    ),
    Kind.CLAIM_DEAD: Words("claims of dead farms", "their tasks go back"),
    Kind.CLAIM_DAMAGED: Words("claims that can't be understood", _IDLE + "moved aside"),
    Kind.CLAIM_UNSURE: Words(
        "notice: claims of farms elsewhere that may be at work",
        "nothing: a minute tells",
    ),
    Kind.LEFTOVER: Words("temporary files that nobody needs", "removed"),
    Kind.TIMELINE: Words("not valid JSON", "rebuilt of its whole events"),
    Kind.LOG: Words("notice: ended, and there is no log", _NOTHING),
    Kind.DRAIN: Words("notice: no farm starts anything here", "nothing: rm drain"),
}
"""For each kind of finding."""

_PROOF_NEEDED = {Kind.NO_TASK, Kind.UNKNOWN_ID, Kind.OTHER_TEXT}
"""Repaired only where the fingerprint says that the tasklist is still the same."""


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """The subcommand; raises `InputError` and `StorageError`."""
    chosen = _parse(argv)
    place = find_place(chosen)
    tasks = read_tasks(place, environ)
    if chosen.repair:
        _repair(place, tasks, console, environ, assume_idle=chosen.assume_idle)
    contents, trouble = _read(place, environ)
    own = has_own_state(tasks, place)
    if own:
        contents = contents._replace(toprocess=None, finished=None, failed=None)
    judged = judge(
        contents,
        _texts(tasks, contents, own=own),
        list_is_known=tasks is not None and not own,
        logs=list_logs(place.workdir),
    )
    for line in report(place, contents, judged, trouble, own=own):
        console.say_whole(line + "\n")
    return ExitStatus.ALL_FINISHED if judged.clean else ExitStatus.SOME_FAILED


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("check", _DESCRIPTION)
    add_place_arguments(parser)
    parser.add_argument(
        "--repair",
        action="store_true",
        help="put right what can be proven, and keep a copy of each file that is"
        " changed; farms may run meanwhile",
    )
    parser.add_argument(
        "--assume-idle",
        action="store_true",
        help="with --repair: no farmer runs here, I know it: what is in no file was"
        " lost, and goes back into toprocess",
    )
    chosen = parser.parse_args(argv)
    if chosen.assume_idle and not chosen.repair:
        raise InputError("--assume-idle goes with --repair: alone it changes nothing")
    return chosen


def _repair(
    place: Place,
    tasks: TaskList | None,
    console: Console,
    environ: Mapping[str, str],
    *,
    assume_idle: bool,
) -> None:
    if tasks is None:
        raise InputError(
            f"a repair of {place.workdir} needs its tasklist: name it with --list FILE"
        )
    if has_own_state(tasks, place):
        raise InputError(
            f"the tasklist handler {place.handler!r} keeps by itself what is done, so"
            f" nothing in {place.workdir} can be repaired by mpifarm"
        )
    lock = find_lock(place, environ)
    repairer = Repairer(
        place.workdir,
        tasks.tasks,
        lock,
        this_machine(),
        lambda line: console.say(f"repair: {line}"),
        assume_idle=assume_idle,
    )
    if find_existing_lock(place, environ) is None:
        # Nobody is at work; what is wrong is told before a lock file is made.
        repairer.rehearse()
    lock.probe()
    repairer.run()


def _read(place: Place, environ: Mapping[str, str]) -> tuple[Contents, str]:
    """What is there, and why it was read without the lock, if it was."""
    lock = find_existing_lock(place, environ)
    if lock is None:
        return examine(place.workdir, observer()), ""
    try:
        with lock.hold(LOCK_SECONDS):
            return examine(place.workdir, observer()), ""
    except StorageError as error:
        return examine(place.workdir, observer(), locked=False), str(error)


def _texts(tasks: TaskList | None, contents: Contents, *, own: bool) -> Sequence[str]:
    if own or tasks is None:
        return learn_tasks(contents)
    return tasks.tasks


# ---- in words -----------------------------------------------------------------------


def report(
    place: Place, contents: Contents, judged: Judged, trouble: str, *, own: bool
) -> list[str]:
    """The lines of the whole report."""
    lines = [_where(place, judged, own=own)]
    lines += [
        f"  farm {each.farm} {each.where} is at work" for each in _at_work(contents)
    ]
    if trouble:
        lines.append(f"  {trouble}; so what is being written now may look wrong")
    lines += table(judged)
    found = sum(finding.kind not in NOTICES for finding in judged.findings)
    lines.append(_verdict(judged, found))
    return lines


def _at_work(contents: Contents) -> list[ClaimView]:
    return [each for each in contents.claims if each.standing is Standing.AT_WORK]


def _where(place: Place, judged: Judged, *, own: bool) -> str:
    if own:
        return f"{place.workdir}: its tasklist keeps by itself what is done"
    at = judged.whereabouts
    known = f"{at.total} tasks of {place.tasklist}"
    if place.tasklist is None:
        known = (
            f"{at.total} tasks, as far as its files tell (--list FILE names the list)"
        )
    return (
        f"{place.workdir}: {known}:\n  {at.finished} finished, {at.failed} failed, "
        f"{at.toprocess} to process, {at.held} claimed, {at.nowhere} in no file"
    )


def table(judged: Judged) -> list[str]:
    """One line for each kind of finding, under a head; none where there is none."""
    if not judged.findings:
        return []
    rows = [("count", "what", "which", "--repair")]
    rows += [_row(finding, judged) for finding in judged.findings]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        f"  {count:>{widths[0]}}  {what:{widths[1]}}  {which:{widths[2]}}  {remedy}"
        for count, what, which, remedy in rows
    ]


def _row(finding: Finding, judged: Judged) -> tuple[str, str, str, str]:
    words = WORDS[finding.kind]
    remedy = words.remedy
    if finding.kind in _PROOF_NEEDED and not judged.list_is_same:
        remedy = "nothing: is it the right tasklist?"
    return str(int(finding.number)), words.what, _which(finding), remedy


MOST_SHOWN = 40
"""Characters of the names or ids of a finding."""


def _which(finding: Finding) -> str:
    if finding.ids:
        return shorten_ids(set(finding.ids), MOST_SHOWN)
    names = ", ".join(
        name.encode("utf-8", "backslashreplace").decode() for name in finding.names
    )
    shown = "".join(each if each.isprintable() else "?" for each in names)
    return shown if len(shown) <= MOST_SHOWN else shown[: MOST_SHOWN - 1] + "…"


def _verdict(judged: Judged, found: int) -> str:
    if not found:
        return "all is well"
    if judged.verdict is Verdict.EDITED:
        return "what was done can't be judged by a tasklist that was edited"
    return f"{found} kinds of findings" if found > 1 else "one kind of finding"
