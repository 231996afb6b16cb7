"""The failed tasks in the summary of a farm, by cause.

Rules of this file: it words, and reads nothing.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mpifarm.model.host_names import fold_hosts
from mpifarm.model.id_ranges import encode_ids, name_ids
from mpifarm.model.wording import agree, counted

if TYPE_CHECKING:
    from mpifarm.causes.failure import Group

MAX_CAUSES = 5
"""Causes that are shown."""
MAX_LINES = 3
"""Lines of the example's output that are shown."""
MAX_IDS = 200
"""Characters of ids in a command that is to be copied."""
MAX_LINE = 200
"""Characters of a line of the example, and of the hosts."""


class GroupedFailures(NamedTuple):
    """The failures of a farm by cause; `looked_at` is how many were looked at."""

    groups: "Sequence[Group]"
    looked_at: int


def describe_causes(causes: GroupedFailures, failed: int, place: str) -> list[str]:
    """Return the lines on failures by cause, the most frequent first.

    `failed` is how many of the list have failed, whichever farm ran them; `place`
    names the workdir to a subcommand.
    """
    groups = causes.groups[:MAX_CAUSES]
    lines = [line for group in groups for line in _describe(group, place)]
    more = len(causes.groups) - len(groups)
    if more:
        lines.append(f"failed: {counted(more, 'more cause')}, see mpifarm why {place}")
    unknown = failed - causes.looked_at
    if unknown > 0:
        lines.append(
            f"failed: {counted(unknown, 'more task')}, in earlier or other farms or too"
            f" many to look at, see mpifarm why {place}"
        )
    return lines


def describe_memory(causes: GroupedFailures) -> list[str]:
    """Return what tasks that ran out of memory had, for those told one by one."""
    return [
        f"memory ran out in {agree(len(group.tasks), 'task', 'tasks')}"
        f" {name_ids(group.tasks)} ({group.memory})"
        for group in causes.groups
        if group.memory
    ]


def _describe(group: "Group", place: str) -> Iterator[str]:
    yield f"failed: {counted(group.count)}: {group.title}"
    example = group.example
    on = f" on {_cut(fold_hosts(group.hosts))}" if group.hosts else ""
    tasks = agree(len(group.tasks), "task", "tasks")
    attempts = f", {group.attempts}" if group.attempts else ""
    yield f"  {tasks} {name_ids(group.tasks)}{on}{attempts}"
    if example.lines:
        yield f"  task {example.taskid} ended with:"
    for line in example.lines[-MAX_LINES:]:
        yield f"  | {_cut(line)}"
    ids = encode_ids(group.tasks)
    if len(ids) <= MAX_IDS:
        yield f"  again, these alone: mpifarm retry {place} --ids {ids}"
    else:
        yield f"  again, these alone: as mpifarm why {place} says"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE - 1]}…"
