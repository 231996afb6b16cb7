"""The kinds of a list's tasks beside ``--limit``: each has to be given a number.

Rules of this file: a limit that is left out or misspelt would start too many tasks
silently, so both are refused before anything is changed.
"""

from mpifarm.errors import InputError
from mpifarm.model.settings import Settings
from mpifarm.model.wording import counted
from mpifarm.order.constraints import Constraints

MAX_NAMED = 5
"""Kinds that a sentence names."""


def check_kinds(settings: Settings, constraints: Constraints) -> None:
    """Raise `InputError` for a kind without a limit, and for a limit without a task."""
    limited = dict(settings.policy.seats)
    kinds = dict.fromkeys(constraints.kinds.values())
    if missing := [name for name in kinds if name not in limited]:
        taskid = next(
            each for each, name in constraints.kinds.items() if name == missing[0]
        )
        options = " ".join(f"--limit {name}=N" for name in missing[:MAX_NAMED])
        raise InputError(
            f"task {taskid} of {settings.tasklist} is of the kind '{missing[0]}', which"
            f" has no limit: say how many of a kind may run at a time, by {options}"
            " (0: any number)"
        )
    if unused := [name for name in limited if name not in kinds]:
        raise InputError(
            f"--limit {unused[0]}={limited[unused[0]]} limits nothing: no task of"
            f" {settings.tasklist} is of the kind '{unused[0]}'; {_describe([*kinds])}"
        )


def _describe(kinds: list[str]) -> str:
    if not kinds:
        return "a task of a kind is written as [limit=NAME] command"
    named = ", ".join(f"'{name}'" for name in kinds[:MAX_NAMED])
    count = counted(len(kinds), "kind", "kinds")
    return f"the list has {count}: {named}{', …' if kinds[MAX_NAMED:] else ''}"
