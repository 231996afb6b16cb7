"""``mpifarm check``: the state of a workdir as a table, and its repair.

Rules of this file: arguments and words.  `mpifarm.audit.audit` finds faults, and
`mpifarm.audit.repair` mends them.
"""

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from mpifarm.audit.audit import (
    NOTICES,
    Audit,
    AuditFinding,
    ClaimView,
    Contents,
    FindingKind,
    audit_contents,
    learn_tasks,
)
from mpifarm.audit.repair import Repairer
from mpifarm.audit.snapshot import (
    Past,
    WorkdirAttempts,
    examine,
    examine_whole,
    list_logs,
    observer,
)
from mpifarm.commands.farm_command import find_remap_command, find_wait
from mpifarm.commands.held_words import describe_held
from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.commands.target import (
    add_target_arguments,
    find_target,
    look_at_held,
    patience_of,
    probe_lock,
    texts_of,
)
from mpifarm.errors import ExitStatus, FutileError, InputError, StorageError
from mpifarm.model.id_ranges import name_ids
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.wording import agree, counted
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.store.farm_liveness import this_machine
from mpifarm.store.held_file import NOTHING_HELD, Held
from mpifarm.store.target import (
    Target,
    find_existing_lock,
    has_own_state,
    is_database,
    look_at_tasks,
    words_of,
)
from mpifarm.store.task_map import Location
from mpifarm.system.console import Console
from mpifarm.system.patience import Patience, try_again
from mpifarm.tasklists import TaskList, find_constraints

LOCK_SECONDS = 5.0
"""Seconds that a check waits for the lock; then it reads without the lock."""

_DESCRIPTION = (
    "Say what is finished, failed, left and wrong in a workdir, also while farms run."
    "  Without --repair, change nothing.  Exit status: 0 the workdir is in order, 1"
    " something is wrong (with --repair: is still wrong), 2 the command line or an"
    " input is wrong."
)


class Row(NamedTuple):
    """The words of a kind of finding: the fault, and the effect of ``--repair``."""

    what: str
    remedy: str
    one: str = ""
    """`what` for a single one, if it differs."""

    @property
    def has_remedy(self) -> bool:
        """Whether there is a repair, if only by ``--assume-idle``."""
        return self.remedy != _NOTHING and not self.remedy.startswith("nothing")


_IDLE = "--assume-idle: "
_NOTHING = "-"

ROWS = {
    FindingKind.REMAP_BEGUN: Row(
        "a --remap was interrupted", "nothing: give the farm's command with --remap"
    ),
    FindingKind.LIST_EDITED: Row(
        "the tasklist was edited since the workdir was begun",
        "nothing: give the farm's command with --remap",
    ),
    FindingKind.LINES_ADDED: Row(
        "notice: lines were added to the tasklist",
        "nothing: the next start takes them up",
    ),
    FindingKind.FINGERPRINT: Row("the fingerprint is damaged", "is written anew"),
    FindingKind.UNREAD: Row(
        "could not be read", "nothing: its owner has to let you read it"
    ),
    FindingKind.UNLOCKED: Row("notice: read without the lock", _NOTHING),
    FindingKind.TORN: Row(
        "torn lines", "mended; what is recorded beyond doubt stays", one="torn line"
    ),
    FindingKind.NO_TASK: Row(
        "lines that belong to no task", "taken out", one="line that belongs to no task"
    ),
    FindingKind.UNKNOWN_ID: Row(
        "ids that the tasklist does not have",
        "taken out",
        one="id that the tasklist does not have",
    ),
    FindingKind.OTHER_TEXT: Row(
        "lines with another text than the tasklist",
        "taken out",
        one="line with another text than the tasklist",
    ),
    FindingKind.QUEUED_FINISHED: Row(
        "finished, and in toprocess too", "taken out of toprocess"
    ),
    FindingKind.QUEUED_HELD: Row(
        "claimed by a farm that runs, and in toprocess", "taken out of toprocess"
    ),
    FindingKind.HELD_TWICE: Row("in the claims of two farms", "nothing"),
    FindingKind.HELD_UNKNOWN: Row("claimed, and not in the tasklist", "nothing"),
    FindingKind.FINISHED_TWICE: Row("more than once in finished", "one line stays"),
    FindingKind.QUEUED_TWICE: Row(
        "more than once in toprocess, added or waiting", "one line stays"
    ),
    FindingKind.QUEUED_EARLY: Row(
        "in toprocess, where plain farmers would run it too early", "moved to waiting"
    ),
    FindingKind.UNSORTED: Row("notice: toprocess is not sorted", "sorted"),
    FindingKind.FAILED_FINISHED: Row(
        "notice: failed once, finished later", "taken out of failed"
    ),
    FindingKind.FAILED_QUEUED: Row(
        "notice: failed, and to be processed again", "taken out of failed"
    ),
    FindingKind.FAILED_TWICE: Row("notice: more than once in failed", "one line stays"),
    FindingKind.NOWHERE: Row(
        "in no file: a PyTaskFarmer's, or removed", _IDLE + "put back"
    ),
    FindingKind.CLAIM_DEAD: Row(
        "claims of dead farms", "the tasks go back", one="claim of a dead farm"
    ),
    FindingKind.CLAIM_DAMAGED: Row(
        "claims that can't be understood",
        _IDLE + "moved aside",
        one="claim that can't be understood",
    ),
    FindingKind.CLAIM_UNSURE: Row(
        "notice: claims of farms elsewhere that may run",
        "nothing: check again in a minute",
        one="notice: claim of a farm elsewhere that may run",
    ),
    FindingKind.LEFTOVER: Row(
        "temporary files that nobody needs",
        "removed",
        one="temporary file that nobody needs",
    ),
    FindingKind.TIMELINE: Row("not valid JSON", "rebuilt from its whole events"),
    FindingKind.LOG: Row("notice: ended, and without a log", _NOTHING),
    FindingKind.DRAIN: Row(
        "notice: a drain file keeps farms from starting", "nothing: remove the file"
    ),
}
"""The words of each kind of finding."""


class Terms(NamedTuple):
    """The words for the findings, and for the tasks in no file."""

    rows: Mapping[FindingKind, Row]
    nowhere: str


FILES = Terms(ROWS, "in no file")
"""The words of a workdir of files."""

_PROOF_NEEDED = {FindingKind.NO_TASK, FindingKind.UNKNOWN_ID, FindingKind.OTHER_TEXT}
"""Repaired only if the fingerprint says that the tasklist is still the same."""

_UNPROVEN = "nothing: is it the right tasklist?"
"""The remedy of `_PROOF_NEEDED` without that proof, and of all that waits for them."""

_BY_START = {FindingKind.FINGERPRINT, FindingKind.CLAIM_DEAD}
"""Repaired by the start of a farm, which refuses lines of another list."""

_IN_QUEUES = {
    FindingKind.QUEUED_FINISHED,
    FindingKind.QUEUED_HELD,
    FindingKind.QUEUED_TWICE,
    FindingKind.QUEUED_EARLY,
    FindingKind.UNSORTED,
    FindingKind.NOWHERE,
}
"""Repaired in the queues, unless ``toprocess`` has lines of another list."""


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm check``: repair if asked, then print the report.

    Return the exit status: 0 if the workdir is in order, 1 if not, 75 if the disk
    fails.  Raises `InputError` and `StorageError`.
    """
    chosen = _parse(argv)
    patience = patience_of(console.print_error)
    target = try_again(lambda: find_target(chosen, environ), patience)
    if is_database(target, environ):
        return _check_database(chosen, target, environ, console)
    tasks, fault = try_again(lambda: look_at_tasks(target, environ), patience)
    if fault and chosen.repair:
        raise InputError(fault)
    if chosen.repair:
        idle = chosen.assume_idle
        repairer = _create_repairer(target, tasks, console, assume_idle=idle)
        try_again(lambda: _repair(repairer, target, environ), patience)
    contents, trouble = _read(target, environ, patience)
    own = has_own_state(tasks, target)
    attempts = WorkdirAttempts(WorkdirPaths(target.workdir))
    if own:
        contents = contents._replace(toprocess=None, finished=None, failed=None)
    audit = audit_contents(
        contents,
        _texts(tasks, contents, own=own),
        list_is_known=tasks is not None and not own,
        logs=_list_logs(target, attempts, patience),
        constraints=_find_constraints(tasks),
    )
    if fault:
        console.print_error(fault)
    held = look_at_held(target, patience)
    past = _find_past(attempts, audit, patience)
    terms = _adapt(FILES, audit, _explain_refusal(audit, fault, own=own))
    facts = target, contents, audit, trouble
    for line in report(*facts, own=own, terms=terms, held=held, past=past):
        console.print_text(line + "\n")
    if contents.disk_failed:
        return ExitStatus.RUN_AGAIN
    is_in_order = audit.clean and not fault
    return ExitStatus.ALL_FINISHED if is_in_order else ExitStatus.SOME_FAILED


def _check_database(
    chosen: Any, target: Target, environ: Mapping[str, str], console: Console
) -> ExitStatus:
    """Check a database and its workdir, as `main` does."""
    from mpifarm.audit.database_repair import repair_rows  # imports sqlite3
    from mpifarm.audit.databases import read_database
    from mpifarm.database.schema import Scan

    patience = patience_of(console.print_error)
    if chosen.assume_idle:
        ids = try_again(lambda: repair_rows(target, environ), patience)
        if ids:
            console.print_line(f"repair: {counted(len(ids))} put back: {name_ids(ids)}")
    elif chosen.repair:
        raise InputError(_NO_REPAIR.format(target.tasklist))
    tasks, contents, trouble, *_ = try_again(
        lambda: read_database(target, environ, observer(), Scan.WHOLE), patience
    )
    attempts = WorkdirAttempts(WorkdirPaths(target.workdir))
    audit = audit_contents(
        contents,
        tasks.tasks,
        logs=_list_logs(target, attempts, patience) if contents.begun else None,
        constraints=tasks.constraints,
    )
    held = look_at_held(target, patience)
    past = _find_past(attempts, audit, patience)
    facts = target, contents, audit, trouble
    for line in report(*facts, own=False, terms=DATABASE, held=held, past=past):
        console.print_text(line + "\n")
    return ExitStatus.ALL_FINISHED if audit.clean else ExitStatus.SOME_FAILED


_NO_REPAIR = (
    "{} is a database, which needs no --repair: each start takes back what dead farms"
    " had; to put back what a PyTaskFarmer had, too, add --assume-idle"
)

_CHANGED = {
    FindingKind.NOWHERE: Row(
        "running under a PyTaskFarmer, or under nobody", _IDLE + "put back"
    ),
    FindingKind.CLAIM_DEAD: Row(
        "dead farms that had tasks",
        "nothing: the next start takes them back",
        one="dead farm that had tasks",
    ),
    FindingKind.CLAIM_DAMAGED: Row(
        "claims that can't be understood",
        "nothing: remove them when no farm runs",
        one="claim that can't be understood",
    ),
    FindingKind.LEFTOVER: Row(
        "temporary files that nobody needs",
        "nothing: remove them",
        one="temporary file that nobody needs",
    ),
    FindingKind.TIMELINE: Row("not valid JSON", "nothing: the next start rebuilds it"),
}
"""The words of findings that have other remedies in a database."""

DATABASE = Terms(ROWS | _CHANGED, "with a PyTaskFarmer")


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("check", _DESCRIPTION)
    add_target_arguments(parser)
    parser.add_argument(
        "--repair",
        action="store_true",
        help="mend what can be proven, and keep a copy of each changed file; farms may"
        " run meanwhile",
    )
    parser.add_argument(
        "--assume-idle",
        action="store_true",
        help="with --repair: you know that no farmer runs here; put tasks that are in"
        " no file back into toprocess",
    )
    chosen = parser.parse_args(argv)
    if chosen.assume_idle and not chosen.repair:
        raise InputError("--assume-idle needs --repair: alone it changes nothing")
    return chosen


def _create_repairer(
    target: Target, tasks: TaskList | None, console: Console, *, assume_idle: bool
) -> Repairer:
    return Repairer(
        target.workdir,
        texts_of(tasks, target, f"a repair of {target.workdir}"),
        this_machine(),
        lambda line: console.print_line(f"repair: {line}"),
        assume_idle=assume_idle,
        constraints=_find_constraints(tasks),
    )


def _find_constraints(tasks: TaskList | None) -> Constraints:
    return UNORDERED if tasks is None else find_constraints(tasks)


def _repair(repairer: Repairer, target: Target, environ: Mapping[str, str]) -> None:
    repairer.run(probe_lock(target, environ, repairer.rehearse))


def _read(
    target: Target, environ: Mapping[str, str], patience: Patience
) -> tuple[Contents, str]:
    """Read the workdir.  Return its contents and, if the lock was not free, why.

    If the disk goes on failing, return the readable contents and "".
    """
    try:
        return try_again(lambda: _read_locked(target, environ), patience), ""
    except FutileError as error:  # the lock is held for long
        return examine(target.workdir, observer(), locked=False), str(error)
    except StorageError:
        return examine(target.workdir, observer(), locked=False), ""


def _read_locked(target: Target, environ: Mapping[str, str]) -> Contents:
    lock = find_existing_lock(target, environ)
    if lock is None:
        return examine_whole(target.workdir, observer())
    with lock.hold(LOCK_SECONDS):
        return examine_whole(target.workdir, observer())


def _list_logs(
    target: Target, attempts: WorkdirAttempts, patience: Patience
) -> list[str] | None:
    try:
        return try_again(lambda: list_logs(target.workdir, attempts), patience)
    except StorageError:
        return None


def _find_past(attempts: WorkdirAttempts, audit: Audit, patience: Patience) -> Past:
    """Return the past of failed and lost tasks; `Past()` if the disk goes on failing.

    Of an edited list nothing is read, because its ids may mean other tasks.
    """
    if audit.is_edited:
        return Past()
    failed, nowhere = {*audit.locations.ids_at(Location.FAILED)}, {*audit.nowhere}
    try:
        return try_again(lambda: attempts.find_past(failed, nowhere), patience)
    except StorageError:
        return Past()


def _texts(tasks: TaskList | None, contents: Contents, *, own: bool) -> Sequence[str]:
    if own or tasks is None:
        return learn_tasks(contents)
    return tasks.tasks


_NO_PAST = Past()

# ---- in words -----------------------------------------------------------------------


def _explain_refusal(audit: Audit, fault: str, *, own: bool) -> str:
    """Return the remedy of all that is found if a repair is refused, "" if it is not.

    `fault` is what is wrong with the list; `own`: the list keeps its own state.
    """
    if own:
        return "nothing: the tasklist keeps the state itself"
    if fault:
        return "nothing: the tasklist has to be right first"
    if any(map(audit.find, (FindingKind.REMAP_BEGUN, FindingKind.LIST_EDITED))):
        return "nothing: the farm's --remap comes first"
    if audit.find(FindingKind.UNREAD):
        return "nothing: all has to be readable first"
    return ""


def _adapt(terms: Terms, audit: Audit, refusal: str) -> Terms:
    """Return the words of findings, with no remedy that a repair does not carry out."""
    if refusal:
        return _withdraw(terms, {*terms.rows}, refusal)
    if audit.list_is_same or not any(map(audit.find, _PROOF_NEEDED)):
        return terms
    toprocess = audit.queues.get("toprocess")
    queues = _IN_QUEUES if toprocess and toprocess.aliens else set[FindingKind]()
    return _withdraw(terms, _BY_START | queues, _UNPROVEN)


def _withdraw(terms: Terms, kinds: Collection[FindingKind], instead: str) -> Terms:
    """Return the words of findings, with another remedy where some `kinds` have one."""
    rows = {
        kind: row._replace(remedy=instead) if kind in kinds and row.has_remedy else row
        for kind, row in terms.rows.items()
    }
    return terms._replace(rows=rows)


def report(
    target: Target,
    contents: Contents,
    audit: Audit,
    trouble: str,
    *,
    own: bool,
    terms: Terms = FILES,
    held: Held = NOTHING_HELD,
    past: Past = _NO_PAST,
) -> list[str]:
    """Return the lines of the whole report.

    `trouble` says why the lock was not held, "" if it was.  `own`: the list keeps its
    own state.  `held` is what users hold.  `past` is that of failed and lost tasks.
    """
    lines = [_where(target, audit, terms, past.not_run, own=own)]
    lines += [
        f"  farm {each.farm} {each.where} is running" for each in _at_work(contents)
    ]
    waiting = [
        each
        for each in sorted(held.tasks)
        if audit.locations.find(each) is Location.QUEUED
    ]
    if said := describe_held(target, waiting, holds_all=held.holds_all):
        lines.append(f"  {said}")
    if trouble:
        lines.append(f"  {trouble}; so what is written just now may look wrong")
    lines += table(audit, terms)
    if past.completed:
        lines.append(f"  {_describe_completed(past.completed)}")
    found = sum(finding.kind not in NOTICES for finding in audit.findings)
    lines.append(_conclude(target, audit, terms, found, past.not_run))
    return lines


def _at_work(contents: Contents) -> list[ClaimView]:
    return [each for each in contents.claims if each.liveness.is_at_work]


def _describe_completed(ids: tuple[int, ...]) -> str:
    which = agree(len(ids), "task", "tasks")
    return (
        f"attempts.tsv says that {which} {name_ids(ids, MAX_SHOWN)} completed; what is"
        " put back runs again"
    )


def _where(
    target: Target, audit: Audit, terms: Terms, not_run: int, *, own: bool
) -> str:
    if own:
        return f"{target.workdir}: its tasklist keeps the state of its tasks itself"
    at = audit.locations.count()
    lost = len(audit.nowhere)
    known = f"{counted(at.total)} of {target.tasklist}"
    if target.tasklist is None:
        known = (
            f"{counted(at.total)} in its files (to compare them with the tasklist,"
            " add --list FILE)"
        )
    if audit.is_edited:
        return f"{target.workdir}: {known}, which was edited since it was begun"
    failed = f"{at.failed - not_run} failed" + (
        f", {not_run} not run" if not_run else ""
    )
    return (
        f"{target.workdir}: {known}:\n  {at.finished} finished, {failed}, "
        f"{at.queued} to process, {at.claimed} claimed, {lost} {terms.nowhere}"
    )


def table(audit: Audit, terms: Terms = FILES) -> list[str]:
    """Return a head and a line for each kind of finding, [] without findings."""
    if not audit.findings:
        return []
    rows = [("count", "what", "which", "--repair")]
    rows += [_row(finding, audit, terms) for finding in audit.findings]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        f"  {count:>{widths[0]}}  {what:{widths[1]}}  {which:{widths[2]}}  {remedy}"
        for count, what, which, remedy in rows
    ]


def _row(
    finding: AuditFinding, audit: Audit, terms: Terms
) -> tuple[str, str, str, str]:
    words = terms.rows[finding.kind]
    remedy = words.remedy
    if finding.kind in _PROOF_NEEDED and audit.is_edited:
        remedy = "nothing: the farm's --remap takes care of it"
    elif finding.kind in _PROOF_NEEDED and not audit.list_is_same:
        remedy = _UNPROVEN
    what = words.one if finding.number == 1 and words.one else words.what
    return str(int(finding.number)), what, _which(finding), remedy


MAX_SHOWN = 40
"""Characters of the names or ids of a finding."""


def _which(finding: AuditFinding) -> str:
    """Return the ids or names of a finding in `MAX_SHOWN` printable characters."""
    if finding.ids:
        return name_ids(finding.ids, MAX_SHOWN)
    names = ", ".join(
        name.encode("utf-8", "backslashreplace").decode() for name in finding.names
    )
    shown = "".join(each if each.isprintable() else "?" for each in names)
    return shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN - 1] + "…"


def _conclude(
    target: Target, audit: Audit, terms: Terms, found: int, not_run: int
) -> str:
    if not found:
        failed = audit.locations.count().failed - not_run
        return f"the workdir is in order{_failed(target, failed, not_run)}"
    if audit.is_edited:
        return (
            "check cannot tell which tasks of the edited list are done, and a farm can,"
            f" by the text of each line: {find_wait(target)}"
            f"{find_remap_command(target)}"
        )
    kinds = counted(found, "kind of finding", "kinds of findings")
    return f"{kinds}{_hint(target, audit, terms)}"


def _hint(target: Target, audit: Audit, terms: Terms) -> str:
    """Return a clause with the repair's command, "" if a repair mends nothing."""
    rows = (
        _row(each, audit, terms) for each in audit.findings if each.kind not in NOTICES
    )
    remedies = [remedy for *_, remedy in rows]
    repair = ["mpifarm", "check", "--repair"]
    needs_word = any(each.startswith(_IDLE) for each in remedies)
    if not all(each.startswith(("nothing", _NOTHING, _IDLE)) for each in remedies):
        hint = f"; {shlex.join([*repair, *words_of(target)])} does what the last column"
        also = "; add --assume-idle once you know that no farmer works there"
        return f"{hint} says{also if needs_word else ''}"
    idle = shlex.join([*repair, "--assume-idle", *words_of(target)])
    return f"; once you know that no farmer works there: {idle}" if needs_word else ""


def _failed(target: Target, count: int, not_run: int) -> str:
    """Return a clause with the command to run failed tasks again, "" if none failed."""
    if not count + not_run:
        return ""
    retry = shlex.join(["mpifarm", "retry", *words_of(target)])
    which = "" if target.tasklist else " (FILE is the tasklist)"
    failed = counted(count, "task has", "tasks have") + " failed"
    if not_run:
        failed += f", {counted(not_run, 'was', 'were')} not run because of that"
    return f"; {failed}; to run them again: {retry}{which}"
