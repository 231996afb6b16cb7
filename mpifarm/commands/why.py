"""``mpifarm why``: the failed tasks, grouped by cause.

Rules of this file: arguments and words; `mpifarm.audit.failures` groups.
"""

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mpifarm.audit.failures import Explanation, explain_failures
from mpifarm.audit.memory_use import MemoryUse, find_memory_use, is_of_memory
from mpifarm.audit.view import View, read_view
from mpifarm.causes.choosing import NoGroupError, choose_groups
from mpifarm.causes.failure import Example, Group
from mpifarm.causes.groups import encode_groups
from mpifarm.commands.farm_command import find_remap_command, name_wait
from mpifarm.commands.sink import write_all
from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.commands.table import find_width, shorten
from mpifarm.commands.target import add_target_arguments, find_target, patience_of
from mpifarm.database.names import is_database_name
from mpifarm.errors import ExitStatus, InputError
from mpifarm.model.id_ranges import encode_ids, name_ids
from mpifarm.model.wording import agree, counted
from mpifarm.store.target import Target, words_of
from mpifarm.system.console import Console, printable
from mpifarm.system.patience import try_again

_DESCRIPTION = (
    "Say why tasks have failed, also while farms run: the failed tasks in groups, one"
    " for each cause, the largest first, with the hosts, the last lines of one task and"
    " the command that runs exactly these tasks again.  The causes are read in the ends"
    " of the logs and in attempts.tsv."
)
_EPILOG = (
    "A group's number holds until tasks fail or are put back: mpifarm retry --why says"
    " which cause it has taken.  It also takes words of a cause (--why memory).  Exit"
    " status: 0, also if no task has failed; 2 if the command line is wrong."
)

MAX_IDS: Final = 200
"""Characters of ids in a command that is to be copied."""
MAX_HOSTS: Final = 5
"""Hosts that are named with their numbers."""


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm why``.  Return 0; raises `InputError` and `StorageError`."""
    chosen = _parse(argv)
    patience = patience_of(console.print_error)
    target = try_again(lambda: find_target(chosen, environ), patience)
    view = try_again(lambda: read_view(target, environ), patience)
    explanation = try_again(lambda: explain(view), patience)
    memory = try_again(lambda: _find_memory(view, explanation), patience)
    for warning in view.warnings():
        console.print_error(warning)
    if chosen.json:
        lines = iter([_encode(view, explanation.groups, memory)])
    elif explanation.groups:
        lines = _format(view, explanation, memory, find_width())
    elif view.find_failed_before_edit():
        lines = iter([_explain_edit(view)])
    else:
        lines = iter(["no task has failed"])
    write_all(f"{line}\n".encode("utf-8", "backslashreplace") for line in lines)
    return ExitStatus.ALL_FINISHED


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("why", _DESCRIPTION)
    parser.epilog = _EPILOG
    add_target_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    return parser.parse_args(argv)


def explain(view: View) -> Explanation:
    """Group the failed tasks of a view by cause.

    Raises `InputError` if only the tasklist itself knows which have failed,
    `StorageError` if the disk fails.
    """
    if view.has_own_state:
        raise InputError(
            f"the tasklist handler {view.target.handler!r} keeps the state of the tasks"
            " itself: mpifarm cannot know which have failed"
        )
    return explain_failures(view)


def find_groups(view: View, text: str) -> list[tuple[int, Group]]:
    """Return the groups that a text names by numbers or words, with their numbers.

    Return [] if no task has failed.  Raises `InputError` if there is no such group,
    `StorageError` if the disk fails.
    """
    groups = explain(view).groups
    try:
        chosen = choose_groups(groups, text) if groups else []
    except NoGroupError as error:
        why = shlex.join(["mpifarm", "why", *words_of(view.target)])
        raise InputError(_explain_no_group(error, groups, why)) from error
    return [(number, groups[number - 1]) for number in chosen]


def _explain_no_group(error: NoGroupError, groups: Sequence[Group], why: str) -> str:
    """Return why a text names no group; `why` is the command that prints them."""
    if error.number:
        count = counted(len(groups), "group")
        return (
            f"there is no group {error.number}, as failed tasks are in {count} now:"
            f" {why} prints them"
        )
    named = agree(
        len(groups),
        f"the only cause is: {groups[0].cause}",
        f"{why} prints the {len(groups)} causes",
    )
    return (
        f"no task has failed of {error.part!r:.60}; --why takes the numbers of groups,"
        f" as 2,3, or words of a cause, as memory: {printable(named)}"
    )


def _find_memory(view: View, explanation: Explanation) -> dict[int, MemoryUse]:
    """Return the use of memory by the number of the group whose example it is of."""
    found = {}
    for number, group in enumerate(explanation.groups, 1):
        if is_of_memory(group):
            taskid = group.example.taskid
            use = find_memory_use(view.paths, taskid, explanation.attempts)
            if use is not None:
                found[number] = use
    return found


def _retry_command(target: Target, number: int, group: Group) -> str:
    """Return the command that runs exactly this group again.

    Its ids hold for ever, its number only until other tasks fail.
    """
    ids = encode_ids(group.tasks)
    which = ["--ids", ids] if len(ids) <= MAX_IDS else ["--why", str(number)]
    return shlex.join(["mpifarm", "retry", *words_of(target), *which])


# ---- text ---------------------------------------------------------------------------


def _format(
    view: View,
    explanation: Explanation,
    memory: Mapping[int, MemoryUse],
    width: int | None,
) -> Iterator[str]:
    """Yield the lines of all groups; commands and logs are cut to the width."""
    groups = explanation.groups
    yield _count(view, groups)
    for number, group in enumerate(groups, 1):
        yield ""
        yield printable(f"group {number}: {group.title}")
        for line in _describe(group, explanation.ran, memory.get(number)):
            yield f"  {printable(line)}"
        yield from _show(group.example, view.text(group.example.taskid), width)
        if view.is_edited:  # then a retry is refused
            continue
        yield f"  {printable(_retry_command(view.target, number, group))}"
        if _may_be_of_the_line(view, group):
            yield f"  {printable(_explain_line(view, group))}"
    if view.is_edited:
        yield ""
        yield printable(_explain_edit(view))


def _may_be_of_the_line(view: View, group: Group) -> bool:
    """Return whether the commands of a group may be wrong as they stand in the list."""
    return group.is_of_the_line and not group.blamed and _has_lines(view)


def _has_lines(view: View) -> bool:
    """Return whether the list is a text file of the user's, with the commands in it."""
    target = view.target
    name = target.tasklist
    if name is None or target.handler != "default" or is_database_name(name):
        return False
    return os.path.abspath(name) != view.paths.stdin_list


def _explain_line(view: View, group: Group) -> str:
    """Return how a task goes on whose command is wrong as it stands in the list."""
    lines = agree(len(group.tasks), "the line is", "the lines are")
    them = agree(len(group.tasks), "it", "them")
    wait = name_wait(view.target, len(view.live_farms), has_lost=view.has_lost)
    return (
        f"or, if {lines} wrong, {wait}correct {them} in {view.target.tasklist} and run:"
        f" {find_remap_command(view.target)}"
    )


def _explain_edit(view: View) -> str:
    """Return what is left to do about failed tasks of a list that was edited."""
    ids = view.find_failed_before_edit()
    wait = name_wait(view.target, len(view.live_farms), has_lost=view.has_lost)
    remap = f"{wait}{find_remap_command(view.target)}"
    if not ids:
        return f"{remap} takes up the list as it is now; then tasks can be retried"
    named = agree(
        len(ids),
        f"task {name_ids(ids)} failed, and its line is not at its place",
        f"tasks {name_ids(ids)} failed, and their lines are not at their places",
    )
    return (
        f"{named} in the list any more: {remap} runs each line that is new or was"
        " changed; what was only moved can be retried then"
    )


def _count(view: View, groups: Sequence[Group]) -> str:
    """Return how many tasks have failed, and how many were not run because of them."""
    not_run = view.not_run
    causes = [each for each in groups if not_run.keys().isdisjoint(each.tasks)]
    failed = sum(len(each.tasks) for each in causes)
    of_all = f"of {counted(view.total)}"
    were = agree(len(not_run), "was", "were")
    if not failed:
        return f"{len(not_run)} {of_all} {were} not run, because others had failed"
    have = agree(failed, "has", "have")
    words = f"{failed} {of_all} {have} failed, of {counted(len(causes), 'cause')}"
    if not_run:
        words += f", and {len(not_run)} {were} not run because of that"
    return words


def _describe(
    group: Group, ran: Mapping[str, int], use: MemoryUse | None
) -> Iterator[str]:
    """Yield the facts of a group."""
    attempts = f", {group.attempts}" if group.attempts else ""
    yield f"{counted(len(group.tasks))}: {name_ids(group.tasks)}{attempts}"
    if group.hosts:
        yield _name_hosts(group)
    if group.blamed:
        tried = sum(ran[host] for host in group.blamed)
        count = sum(group.hosts[host] for host in group.blamed)
        hosts = ",".join(group.blamed)
        yield (
            f"{count} of {counted(tried, 'attempt')} on {hosts} failed so: keep"
            f" {agree(len(group.blamed), 'this host', 'these hosts')} out of the job"
            f" (Slurm: --exclude={hosts})"
        )
    if use is not None:
        yield _name_memory(use)


def _show(example: Example, command: str, width: int | None) -> Iterator[str]:
    """Yield the lines of a group's example; `command` is "" if nobody knows it."""
    if command:
        yield _cut(f"  command of task {example.taskid}: {command}", width)
    where = f" on {example.host}" if example.host else ""
    end = "ended with:" if example.lines else "has left no output"
    yield printable(f"  task {example.taskid}{where} {end}")
    for line in example.lines:
        yield _cut(f"    | {line}", width)


def _cut(line: str, width: int | None) -> str:
    text = printable(line)
    return text if width is None else shorten(text, width)


def _name_hosts(group: Group) -> str:
    first = [f"{host} {count}" for host, count in [*group.hosts.items()][:MAX_HOSTS]]
    more = len(group.hosts) - len(first)
    rest = f" and {counted(more, 'more host')}" if more else ""
    return f"{agree(len(group.hosts), 'host', 'hosts')}: {', '.join(first)}{rest}"


def _name_memory(use: MemoryUse) -> str:
    total = f" ({use.host} has {_in_bytes(use.total)})" if use.total else ""
    return (
        f"memory: up to {_in_bytes(use.peaks)} in {counted(use.tasks)} on {use.host}"
        f" when task {use.taskid} ended{total}"
    )


def _in_bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} GiB" if number < 1000 else f"{number:.0f} GiB"


# ---- JSON ---------------------------------------------------------------------------


def _encode(view: View, groups: list[Group], memory: Mapping[int, MemoryUse]) -> str:
    found = encode_groups(groups)
    edited = view.is_edited
    found["remap"] = find_remap_command(view.target) if edited else None
    for number, (entry, group) in enumerate(
        zip(found["groups"], groups, strict=True), 1
    ):
        entry["example"]["command"] = view.text(group.example.taskid)
        retry = _retry_command(view.target, number, group)
        entry["retry"] = None if edited else retry  # which is refused then
        of_line = not edited and _may_be_of_the_line(view, group)
        entry["remap"] = find_remap_command(view.target) if of_line else None
        entry["blamed"] = [*group.blamed]
        use = memory.get(number)
        entry["memory"] = use and use._asdict()
    return json.dumps(found, indent=1)
