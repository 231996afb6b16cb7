"""The kinds of a list's tasks beside ``--limit``: each has to be given a number.

Rules of this file: a limit that is left out would start too many tasks.  At a start
that is refused; tasks that are added later wait (`mpifarm.store.unlimited`).
"""

from collections.abc import Iterable

from mpifarm.errors import InputError
from mpifarm.model.settings import Policy, Settings
from mpifarm.model.wording import counted
from mpifarm.order.constraints import Constraints

MAX_NAMED = 5
"""Kinds that a sentence names."""


def find_unlimited(policy: Policy, constraints: Constraints) -> list[str]:
    """Return the kinds of a list for which ``--limit`` gives no number."""
    limited = dict(policy.seats)
    kinds = dict.fromkeys(constraints.kinds.values())
    return [name for name in kinds if name not in limited]


def name_limits(kinds: Iterable[str]) -> str:
    """Return the options that give these kinds a limit, with N for the numbers."""
    return " ".join(f"--limit {name}=N" for name in kinds)


def check_kinds(settings: Settings, constraints: Constraints) -> None:
    """Raise `InputError` for a kind without a limit."""
    if missing := find_unlimited(settings.policy, constraints):
        taskid = next(
            each for each, name in constraints.kinds.items() if name == missing[0]
        )
        options = name_limits(missing[:MAX_NAMED])
        raise InputError(
            f"task {taskid} of {settings.tasklist} is of the kind '{missing[0]}', which"
            f" has no limit: say how many of a kind may run at a time, by {options}"
            f" (0: any number){_describe_others(settings, constraints, missing[0])}"
        )


def _describe_others(settings: Settings, constraints: Constraints, name: str) -> str:
    """Return the end of a sentence about limits that may be meant for a kind, or ""."""
    from mpifarm.model.nearness import find_near_word  # for mistakes only

    seats = dict(settings.policy.seats)
    for other, count in seats.items():
        if other.lower() == name.lower():
            return f"; --limit {other}={count} is for another kind, as capitals count"
    unused = _find_unused(settings.policy, constraints)
    if near := find_near_word(name, unused):
        return (
            f"; no task is of the kind '{near}': did you mean --limit"
            f" {name}={seats[near]}?"
        )
    if unused and not settings.has_default("--limit"):
        return f"; no task is of the kind '{unused[0]}'"
    return ""


def _find_unused(policy: Policy, constraints: Constraints) -> list[str]:
    """Return the names of limits for which the list has no task."""
    kinds = {*constraints.kinds.values()}
    return [name for name, _ in policy.seats if name not in kinds]


def warn_of_kinds(settings: Settings, constraints: Constraints) -> str:
    """Return the warning of a limit without a task of its kind, or "".

    One that a file or a variable sets for all lists need not have one in this list.
    """
    if settings.has_default("--limit"):
        return ""
    unused = _find_unused(settings.policy, constraints)
    if not unused:
        return ""
    limited = dict(settings.policy.seats)
    kinds = dict.fromkeys(constraints.kinds.values())
    return (
        f"WARNING: --limit {unused[0]}={limited[unused[0]]} limits nothing so far: no"
        f" task of {settings.tasklist} is of the kind '{unused[0]}';"
        f" {_describe([*kinds])}"
    )


def _describe(kinds: list[str]) -> str:
    if not kinds:
        return "a task of a kind is written as [limit=NAME] command"
    named = ", ".join(f"'{name}'" for name in kinds[:MAX_NAMED])
    count = counted(len(kinds), "kind", "kinds")
    return f"the list has {count}: {named}{', …' if kinds[MAX_NAMED:] else ''}"
