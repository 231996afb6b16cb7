"""The order in which a farm starts its tasks: ``--shuffle``, ``--order``.

Rules of this file: a farm in the order of the list imports nothing for it.
"""

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from mpifarm.errors import InputError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import ANY_SEED, Settings
from mpifarm.model.wording import agree, counted
from mpifarm.store.aside import list_asides
from mpifarm.store.start_order import StartOrder, longest_first, shuffled
from mpifarm.tasklists import TaskList, keeps_own_state

SEEDS: Final = 10**6
"""A seed that nobody has given is below this number, to be typed again."""


class ChosenOrder(NamedTuple):
    """The order of a farm's starts: None, that of the list."""

    order: StartOrder | None = None
    sentence: str = ""
    """What the user is told of it; "" for nothing."""


def check_order(settings: Settings, tasks: TaskList, *, of_database: bool) -> bool:
    """Return whether tasks are to start in another order, as the user asks.

    Raises `InputError` for a list whose tasks come as its own state has them.  For such
    a list a default does not count.
    """
    if settings.shuffle is None and settings.order == "list":
        return False
    if not (of_database or keeps_own_state(tasks, settings.workdir)):
        return True
    if settings.has_default("--order"):
        return False
    option = "--shuffle" if settings.shuffle is not None else "--order"
    if of_database:
        raise InputError(
            f"{option} is for a list in a file, and the tasks of the database"
            f" {settings.tasklist} start by their ids: leave the option out, or print"
            " the database as a list (mpifarm export), and farm that"
        )
    raise InputError(
        f"{option} is for a list of which mpifarm keeps the state, and the handler"
        f" {settings.handler!r} hands out its tasks itself: leave the option out"
    )


def choose_order(
    settings: Settings,
    tasks: TaskList,
    durations: Mapping[int, float],
    *,
    of_database: bool,
) -> ChosenOrder:
    """Return the order of the starts; `durations` are those of `find_durations`.

    Raises `InputError` as `check_order`.
    """
    if not check_order(settings, tasks, of_database=of_database):
        return ChosenOrder()
    if settings.shuffle is not None:
        is_given = settings.shuffle != ANY_SEED
        seed = settings.shuffle if is_given else secrets.randbelow(SEEDS)
        return ChosenOrder(
            shuffled(seed),
            f"tasks start in a random order (--shuffle {seed} means the same again)",
        )
    known = sum(taskid < len(tasks) for taskid in durations)
    if not known:
        return ChosenOrder(
            sentence="no duration is known yet, so tasks start in the order of the list"
            " (--order longest-first)"
        )
    rest = len(tasks) - known
    others = agree(rest, "the other one", f"the {rest} others")
    before = f", {others}, of unknown duration, before them" if rest else ""
    return ChosenOrder(
        longest_first(durations),
        f"tasks start longest first, by {counted(known, 'known duration')}{before}",
    )


def find_durations(settings: Settings) -> dict[int, float]:
    """Return the seconds that tasks took before, by id.

    They are those of the last workdir that was moved aside, and of the workdir itself.
    What can't be read is left out.
    """
    from mpifarm.lists.durations import read_durations

    root = os.path.abspath(settings.workdir)
    found: dict[int, float] = {}
    for place in (*list_asides(root)[-1:], root):
        with suppress(InputError):
            found |= read_durations(WorkdirPaths(place).attempts)
    return found
