"""``mpifarm retry``: failed tasks go back to be run again.

Rules of this file: arguments and words; `mpifarm.audit.retry` moves the tasks.
"""

import shlex
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from mpifarm.audit.retry import (
    Retried,
    Wanted,
    rehearse,
    retry,
)
from mpifarm.audit.snapshot import observer
from mpifarm.audit.view import read_view
from mpifarm.commands.farm_command import (
    find_farm_command,
    find_remap_command,
    find_wait,
)
from mpifarm.commands.held_words import describe_held
from mpifarm.commands.statuses import join_statuses, parse_statuses
from mpifarm.commands.subcommand import SubcommandParser, parse_id_word
from mpifarm.commands.target import (
    add_target_arguments,
    find_target,
    look_at_held,
    patience_of,
    probe_lock,
    texts_of,
)
from mpifarm.commands.why import find_groups
from mpifarm.errors import ExitStatus, InputError
from mpifarm.model.id_ranges import name_ids
from mpifarm.model.wording import agree, counted
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.store.held_file import NOTHING_HELD, Held
from mpifarm.store.target import (
    Target,
    is_database,
    read_tasks,
    words_of,
)
from mpifarm.store.validate import EditedListError
from mpifarm.system.console import Console
from mpifarm.system.patience import Patience, try_again
from mpifarm.tasklists import find_constraints

_DESCRIPTION = (
    "Put failed tasks back to be run, so that the farms that run now, or the next one,"
    " run them again.  Without --ids, --status and --why: all failed tasks.  With each"
    " task go back those that were not run because it had failed."
)


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm retry``: requeue failed tasks, and print the result.

    Return 0, even if no task was wanted.  Raises `InputError` and `StorageError`.
    """
    chosen = _parse(argv)
    patience = patience_of(console.print_error)
    target = try_again(lambda: find_target(chosen, environ), patience)
    ids = None if chosen.ids is None else frozenset(parse_id_word(chosen.ids))
    wanted = Wanted(ids, _parse_statuses(chosen.status))
    if chosen.why is not None:
        if ids is not None or wanted.statuses is not None:
            raise InputError("--why names the tasks: leave out --ids and --status")
        view = try_again(lambda: read_view(target, environ), patience)
        groups = try_again(lambda: find_groups(view, chosen.why), patience)
        if not groups:
            console.print_line("no task has failed")
            return ExitStatus.ALL_FINISHED
        wanted = Wanted(frozenset(chain.from_iterable(g.tasks for _, g in groups)))
        for number, group in groups:
            count = counted(len(group.tasks), "task has", "tasks have")
            console.print_line(f"group {number}: {count} failed of: {group.cause}")
    if is_database(target, environ):
        from mpifarm.audit.database_repair import retry_rows  # imports sqlite3

        retried = try_again(lambda: retry_rows(target, environ, wanted), patience)
    else:
        retried = _retry_lines(target, environ, wanted, patience)
    held = look_at_held(target, patience)
    for line in report(target, wanted, retried, held):
        console.print_line(line)
    return ExitStatus.ALL_FINISHED


def _retry_lines(
    target: Target, environ: Mapping[str, str], wanted: Wanted, patience: Patience
) -> Retried:
    """Requeue tasks in the files of a workdir."""
    tasks = try_again(lambda: read_tasks(target, environ), patience)
    texts = texts_of(tasks, target, f"a retry in {target.workdir}")
    known = Known(texts, UNORDERED if tasks is None else find_constraints(tasks))
    try:
        return try_again(lambda: _retry(target, known, environ, wanted), patience)
    except EditedListError as error:
        remap = f"{find_wait(target)}{find_remap_command(target)}"
        raise InputError(
            f"{error}, so ids may mean other tasks now, and a line that was corrected"
            f" needs no retry: {remap} runs each line that is new or was changed, and"
            " none that has finished; what else has failed can be retried then"
        ) from error


class Known(NamedTuple):
    """The texts of the list's tasks, and what the list says of their order."""

    texts: Sequence[str]
    constraints: Constraints


def _retry(
    target: Target, known: Known, environ: Mapping[str, str], wanted: Wanted
) -> Retried:
    texts, constraints = known
    lock = probe_lock(
        target,
        environ,
        lambda: rehearse(target.workdir, texts, observer(), wanted, constraints),
    )
    return retry(target.workdir, texts, lock, observer(), wanted, constraints)


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("retry", _DESCRIPTION)
    add_target_arguments(parser)
    parser.add_argument(
        "--failed",
        action="store_true",
        help="all failed tasks (the default)",
    )
    parser.add_argument(
        "--ids", metavar="IDS", help="only these tasks, as 3,7-9; each must have failed"
    )
    parser.add_argument(
        "--status",
        metavar="STATUS",
        help="only tasks whose last attempt ended with this status, as 1 or 2,137;"
        " -9 and 137 both mean killed by signal 9",
    )
    parser.add_argument(
        "--why",
        metavar="CAUSE",
        help="only the tasks of some causes: the numbers of groups in mpifarm why, as"
        " 2,3 (1 is the largest), or words of a cause, as memory",
    )
    return parser.parse_args(join_statuses(argv))


def _parse_statuses(text: str | None) -> frozenset[int] | None:
    if text is None:
        return None
    statuses = parse_statuses(text)
    if 0 in statuses:
        raise InputError(
            "--status takes the status of failed tasks, and no task fails with 0: leave"
            " it out"
        )
    return statuses


def report(
    target: Target, wanted: Wanted, retried: Retried, held: Held = NOTHING_HELD
) -> list[str]:
    """Return the lines about the moved and the left tasks, with the next command.

    `held` is what users hold.
    """
    count = len(retried.moved)
    if count:
        command = find_farm_command(target)
        lines = [f"{counted(count)} put back to be run: {name_ids(retried.moved)}"]
        if retried.along:
            were = agree(len(retried.along), "task", "tasks")
            lines.append(
                f"of these, {were} {name_ids(retried.along)} by the order of the list:"
                f" {agree(len(retried.along), 'it waits', 'they wait')} for others, or"
                f" others for {agree(len(retried.along), 'it', 'them')}"
            )
        waiting = [taskid for taskid in retried.moved if held.holds(taskid)]
        if waiting:
            said = describe_held(target, waiting, holds_all=held.holds_all)
            lines.append(said)
        lines.append(f"if no farm is running, start one: {command}")
    else:
        lines = [_explain_none(wanted)]
    if retried.held:
        repair = shlex.join(["mpifarm", "check", "--repair", *words_of(target)])
        was, them = _agree(retried.held)
        lines.append(
            f"{was} not put back, because a farm has claimed {them} (if that farm is"
            f" dead, run: {repair})"
        )
    if retried.unknown:
        was, them = _agree(retried.unknown)
        lines.append(
            f"{was} not put back, because attempts.tsv has no status for {them}:"
            f" another farmer ran {them}"
        )
    return lines


def _explain_none(wanted: Wanted) -> str:
    """Return why no task was put back."""
    if wanted.statuses is None:
        return "no task has failed"
    of_these = "" if wanted.ids is None else f" of {name_ids(wanted.ids)}"
    return f"no failed task{of_these} has {_name_statuses(wanted.statuses)}"


def _name_statuses(statuses: frozenset[int]) -> str:
    """Return exit statuses in words, without the other spelling of a signal's."""
    named = sorted({-each + 128 if each < 0 else each for each in statuses})
    noun = agree(len(named), "exit status", "one of the exit statuses")
    return f"{noun} {', '.join(map(str, named))}"


def _agree(taskids: Sequence[int]) -> tuple[str, str]:
    """Return ``task 3 was`` and ``it``, or the same for several tasks."""
    count, ids = len(taskids), name_ids(taskids)
    return agree(count, f"task {ids} was", f"tasks {ids} were"), agree(
        count, "it", "them"
    )
