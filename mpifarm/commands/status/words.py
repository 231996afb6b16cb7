"""The words of ``mpifarm status``.

Rules of this file: pure; lines without newlines.  Names of tasks, hosts and files pass
`printable` here, or in `format_table`.
"""

import shlex
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from mpifarm.audit.farms import Farm, Life
from mpifarm.audit.status import FailedTask, Status
from mpifarm.audit.view import State
from mpifarm.commands.farm_command import (
    find_lacking,
    find_submission,
    name_farm_command,
    name_remap_command,
    name_wait,
)
from mpifarm.commands.held_words import describe_held
from mpifarm.commands.status.encoding import find_lost
from mpifarm.commands.table import TableColumn, format_table
from mpifarm.farm.kinds import name_limits
from mpifarm.farm.summary import status_in_words
from mpifarm.model.host_names import fold_hosts
from mpifarm.model.id_ranges import name_ids
from mpifarm.model.task import Outcome
from mpifarm.model.wording import (
    agree,
    counted,
    duration_in_words,
    time_left_in_words,
)
from mpifarm.store.attempts import Attempt
from mpifarm.store.farm_report import FarmReport, RunningReport
from mpifarm.store.target import words_of
from mpifarm.system.console import printable

MAX_RUNNING: Final = 5
"""Running tasks that are shown, those that have run longest."""

MAX_DEAD: Final = 3
"""Farms that died and are told of, and tasks of each."""

MAX_TEXT: Final = 120
"""Characters of a command or a line that are shown where no terminal is."""

_COUNTED: Final = (
    (State.FINISHED, "finished", True),
    (State.FAILED, "failed", True),
    (State.RUNNING, "running", True),
    (State.CLAIMED, "taken, not begun", False),
    (State.WAITING, "waiting", True),
    (State.HELD, "held", False),
    (State.ORPHANED, "with dead farms", False),
    (State.NOWHERE, "in no file", False),
    (State.UNKNOWN, "known to the tasklist alone", False),
)
"""The states in words, and whether a 0 is said."""


def describe(status: Status, width: int | None) -> list[str]:
    """Return the lines; `width` is that of the terminal, None where there is none."""
    sentences = [
        *_describe_counts(status),
        *_describe_pace(status),
        *_describe_others(status),
        *_describe_state(status),
    ]
    lines = [*_wrap(sentences, width)]
    farms = [each for farm in status.live for each in _describe_farm(farm, status.now)]
    farms += _describe_dead(status)
    if farms:
        lines += ["", *_wrap(farms, width)]
    if status.running:
        lines += ["", "running longest:", *_list_running(status, width)]
    if status.failed:
        lines += ["", "failed last:", *_list_failed(status.failed, width)]
    return lines


def _wrap(sentences: Iterable[str], width: int | None) -> Iterator[str]:
    for sentence in sentences:
        text = printable(sentence)
        if width is None or len(text) <= width:
            yield text
        else:
            yield from textwrap.wrap(
                text, width, subsequent_indent="    ", break_on_hyphens=False
            )


# ---- the list -----------------------------------------------------------------------


def _describe_counts(status: Status) -> Iterator[str]:
    view, counts = status.view, status.counts
    yield f"{view.target.workdir}: {counted(view.total)}"
    if counts_line := ", ".join(_count_states(status)):
        yield counts_line
    if view.held_up:
        which = _name_waiting(view.held_up, counts[State.WAITING])
        yield f"{which} for others, by the order of the list"
    if status.no_limit:
        which = _name_waiting(sum(status.no_limit.values()), counts[State.WAITING])
        yield f"{which} for a farm with {name_limits(status.no_limit)}"


def _name_waiting(count: int, waiting: int) -> str:
    """Return the subject and verb of a sentence about some of the waiting tasks."""
    which = f"{count} of those waiting"
    if count == waiting:
        which = agree(count, "the one waiting", "all of those waiting")
    return f"{which} {agree(count, 'waits', 'wait')}"


def _count_states(status: Status) -> Iterator[str]:
    view, not_run = status.view, status.view.not_run
    counts = {**status.counts}
    counts[State.FAILED] -= len(not_run)
    for state, words, always in _COUNTED:
        if state is State.NOWHERE and counts[state] and view.is_edited:
            yield f"{counts[state]} unknown since the list was edited"
        elif counts[state] or (always and not view.has_own_state):
            yield f"{counts[state]} {words}"
        if state is State.FAILED and not_run:
            awaited = {*not_run.values()}
            they = agree(len(not_run), "it waits", "they wait")
            task = agree(len(awaited), "task", "tasks")
            yield f"{len(not_run)} not run ({they} for {task} {name_ids(awaited)})"


def _describe_pace(status: Status) -> Iterator[str]:
    if status.rate is None:
        return
    none = "no rate yet" if status.is_early else "no task ended lately"
    rate = f"{status.rate:.3g} tasks/s" if status.rate else none
    left, counts = status.time_left, status.counts
    unended = counts[State.RUNNING] + counts[State.CLAIMED] + counts[State.WAITING]
    if left and unended:
        words = time_left_in_words(left, is_guess=status.outruns)
        yield f"{rate}, {words}"
    else:
        yield rate


def _describe_others(status: Status) -> Iterator[str]:
    if status.by_others:
        yield (
            f"{counted(status.by_others, 'finished task has', 'finished tasks have')}"
            " no attempt of mpifarm's: a PyTaskFarmer has run"
            f" {agree(status.by_others, 'it', 'them')}"
        )
    runs = Counter(each.farmer for each in status.view.plain.values() if each.farmer)
    for farmer, count in sorted(runs.items()):
        them = agree(count, "it", "them")
        yield f"{farmer} runs {counted(count)}, or was killed with {them}"
    nowhere = status.counts[State.NOWHERE] - runs.total()
    if nowhere > 0 and not status.view.is_edited:
        check = shlex.join(["mpifarm", "check", *words_of(status.view.target)])
        them = agree(nowhere, "it", "them")
        yield (
            f"{counted(nowhere, 'task is', 'tasks are')} in no file: a PyTaskFarmer"
            f" runs {them}, or has lost {them} (see {check})"
        )


def _describe_state(status: Status) -> Iterator[str]:
    """Yield what stands in the way, and what to do."""
    view = status.view
    yield from view.warnings()
    if view.is_draining and not any(f.report and f.report.reason for f in status.live):
        yield f"nothing new starts: remove the file {view.paths.drain} to go on"
    held = [] if view.held.holds_all else view.ids_in(State.HELD)
    if said := describe_held(view.target, held, holds_all=view.held.holds_all):
        yield said
    if not (status.live or view.has_own_state):
        yield _describe_way_on(status)
    elif status.live and view.is_edited:
        yield _name_remap(status)


def _describe_way_on(status: Status) -> str:
    """Return that no farm runs, and how to go on."""
    view, counts = status.view, status.counts
    gone = status.last_gone
    is_known = gone is not None and gone.heard > 0
    when = f" since {_time(gone.heard, status.now)}" if gone and is_known else ""
    how = _describe_end(gone) if gone else ""
    if way := _name_way_on(status):
        return f"no farm runs{when}{how}; {way}"
    if view.total and counts[State.FINISHED] == view.total:
        return f"no farm runs{when}: all tasks are finished"
    return f"no farm of mpifarm's runs{when}{how}"


def _name_way_on(status: Status) -> str:
    """Return how to go on where no farm runs, "" if no farm can."""
    view, counts = status.view, status.counts
    if view.is_edited or view.remap_begun:
        return _name_remap(status)
    report, kinds = status.last_report, view.kinds
    farm = name_farm_command(view.target, report, status.directory, kinds)
    left = counts[State.WAITING] + counts[State.ORPHANED]
    if left and not view.held.holds_all:
        ways = "give its command"
        if find_submission(view.target, report):
            ways = "unless its job waits in the queue, submit it"
        limits = name_limits(find_lacking(report, kinds))
        return f"to go on, {ways} {f'with {limits}' if limits else 'again'}: {farm}"
    if left or counts[State.HELD]:
        return f"what is left is held: release it, then {farm}"
    if view.target.tasklist and not view.list_is_known:
        return f"once the list is right, to go on: {farm}"
    if counts[State.FAILED] and not counts[State.NOWHERE]:
        retry = shlex.join(["mpifarm", "retry", *words_of(view.target)])
        return f"to run what failed again: {retry}"
    return ""


def _name_remap(status: Status) -> str:
    """Return how an edited list goes on."""
    reports = [farm.report for farm in status.live if farm.report]
    report = reports[0] if reports else status.last_report
    target, kinds = status.view.target, status.view.kinds
    command = name_remap_command(target, report, status.directory, kinds)
    if status.view.remap_begun:
        return f"to go on: {command}"
    wait = name_wait(target, len(status.live), has_lost=status.view.has_lost)
    return (
        f"{wait}to run what is new or was changed: {command} (or"
        " all afresh, with --again in place of --remap)"
    )


def _describe_end(farm: Farm) -> str:
    if farm.life is Life.DIED:
        return " (the last died)"
    return (
        f" (the last ended with status {farm.report.exit_status})"
        if farm.report
        else ""
    )


# ---- farms --------------------------------------------------------------------------


def _describe_farm(farm: Farm, now: float) -> Iterator[str]:
    report = farm.report
    if report is None:
        where = farm.claim.where if farm.claim else ""
        yield f"farm {farm.farm} {where}: it has told nothing of itself yet"
        return
    age = duration_in_words(max(0.0, now - report.started))
    yield (
        f"farm {farm.farm}{_describe_job(report)}: {_describe_ranks(report)},"
        f" {report.phase}, began at {_time(report.started, now)} ({age} ago)"
    )
    if report.reason:
        yield f"  it ends: {report.reason}"
    for kind, count in report.seatless:
        yield f"  {counted(count, 'task waits', 'tasks wait')} for seats of {kind}"
    silence = duration_in_words(max(0.0, now - farm.heard))
    if farm.life is Life.SILENT:
        yield (
            f"  it has given no sign of life for {silence}: rank 0 on {report.host}"
            f" (pid {report.pid}) is suspended, or hangs in its disk"
        )
    elif farm.life is Life.UNCERTAIN and now - farm.heard > MAX_BEAT:
        yield f"  it was heard last {silence} ago, on {report.host}"
    for rank in find_lost(farm)[:MAX_DEAD]:
        yield f"  rank {rank.rank} on {rank.host} is {rank.state}"


MAX_BEAT: Final = 20.0
"""Seconds without a sign of life that are worth a word."""


def _describe_job(report: FarmReport) -> str:
    return f" ({report.job[0]} job {report.job[1]})" if report.job else ""


def _describe_ranks(report: FarmReport) -> str:
    """Return ranks and workers by host: ``n[1-8] × 64 workers``."""
    by_host = dict[str, list[int]]()
    for rank in report.ranks:
        by_host.setdefault(rank.host or "?", []).append(rank.workers)
    groups = dict[tuple[int, ...], list[str]]()
    for host, workers in by_host.items():
        groups.setdefault(tuple(sorted(workers)), []).append(host)
    return " + ".join(
        f"{fold_hosts(hosts)} {_describe_workers(workers)}"
        for workers, hosts in groups.items()
    )


def _describe_workers(workers: Sequence[int]) -> str:
    if len(workers) == 1:
        return f"× {counted(workers[0], 'worker')}"
    if len({*workers}) > 1:
        return f"× {len(workers)} ranks, {sum(workers)} workers"
    return f"× {len(workers)} ranks × {counted(workers[0], 'worker')}"


def _describe_dead(status: Status) -> Iterator[str]:
    # Where nothing is left, those without tasks are of no more use to anybody.
    dead = [each for each in status.dead if each.claim or status.is_left]
    now = status.now
    for farm in dead[:MAX_DEAD]:
        report = farm.report
        if farm.is_damaged:
            check = shlex.join(["mpifarm", "check", *words_of(status.view.target)])
            yield f"the claim of farm {farm.farm} can't be understood (see {check})"
            continue
        if report is not None:
            where = f" on {report.host}{_describe_job(report)}"
        else:
            where = f" {farm.claim.where}" if farm.claim and farm.claim.where else ""
        heard = f", last heard of at {_time(farm.heard, now)}" if farm.heard else ""
        yield f"farm {farm.farm}{where} died{heard}"
        ran = status.find_unended(farm)
        for each in ran[:MAX_DEAD]:
            yield f"  it ran {_describe_place(status, each)}"
        if len(ran) > MAX_DEAD:
            yield f"  and {counted(len(ran) - MAX_DEAD, 'more task')}"
        if farm.held:
            goes = agree(len(farm.held), "goes", "go")
            yield f"  its {counted(len(farm.held))} {goes} back when a farm starts"
        elif not farm.claim:
            yield "  what it had not ended was put back"
    if len(dead) > MAX_DEAD:
        yield f"{counted(len(dead) - MAX_DEAD, 'more farm')} died"


def _describe_place(status: Status, each: RunningReport) -> str:
    command = _cut(status.view.text(each.taskid), 60)
    since = _time(each.started, status.now)
    return f"task {each.taskid} on {each.host or '?'} since {since}: {command}"


# ---- tasks --------------------------------------------------------------------------

_RUNNING_COLUMNS: Final = (
    TableColumn("task", is_number=True),
    TableColumn("age", is_number=True),
    TableColumn("host"),
    TableColumn("rank", is_number=True),
    TableColumn("worker", is_number=True),
    TableColumn("command"),
)

_FAILED_COLUMNS: Final = (
    TableColumn("task", is_number=True),
    TableColumn("host"),
    TableColumn("how"),
    TableColumn("last line of its log"),
)


def _list_running(status: Status, width: int | None) -> Iterator[str]:
    rows = [
        (
            str(each.report.taskid),
            duration_in_words(max(0.0, status.now - each.report.started)),
            each.report.host,
            str(each.report.rank),
            str(each.report.worker),
            _cut_for(status.view.text(each.report.taskid), width),
        )
        for each in status.running[:MAX_RUNNING]
    ]
    yield from _format(_RUNNING_COLUMNS, rows, width)


def _list_failed(failed: Sequence[FailedTask], width: int | None) -> Iterator[str]:
    rows = [
        (
            str(each.taskid),
            each.attempt.host if each.attempt else "",
            _describe_failure(each.attempt),
            _cut_for(each.last_line, width) or "(nothing)",
        )
        for each in failed
    ]
    yield from _format(_FAILED_COLUMNS, rows, width)


def _format(
    columns: Sequence[TableColumn], rows: Sequence[tuple[str, ...]], width: int | None
) -> Iterator[str]:
    indented = None if width is None else width - 2
    for line in "".join(format_table(columns, rows, indented)).split("\n")[:-1]:
        yield f"  {line}"


def _describe_failure(attempt: Attempt | None) -> str:
    if attempt is None:
        return "in another farmer"
    status = -attempt.signal if attempt.signal else attempt.status
    if attempt.outcome == Outcome.FAILED.value:
        return status_in_words(status)
    if attempt.outcome == Outcome.TIMED_OUT.value:
        return f"timed out after {duration_in_words(attempt.seconds)}"
    return attempt.outcome


def _cut_for(text: str, width: int | None) -> str:
    """Return a text for the last column, which a terminal cuts by itself."""
    return _cut(text, MAX_TEXT if width is None else width)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _time(seconds: float, now: float) -> str:
    """Return a local time, with its day if that is not today."""
    then = time.localtime(seconds)
    is_today = then[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S", then)
