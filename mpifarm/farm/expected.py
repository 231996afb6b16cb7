"""How long tasks are said to take: the file of ``--durations``, or earlier attempts.

Rules of this file: a farm that needs no durations imports nothing for them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mpifarm.model.settings import Settings
from mpifarm.tasklists import TaskList

if TYPE_CHECKING:
    from mpifarm.farm.start_order import ChosenOrder


def read_durations_of(settings: Settings) -> Mapping[int, float]:
    """Return the seconds of tasks by id; raise `InputError` that names a wrong line."""
    if settings.durations is None and settings.order == "longest-first":
        from mpifarm.farm.start_order import find_durations  # for those who ask

        return find_durations(settings)
    if settings.durations is None:
        return {}
    from mpifarm.lists.durations import read_durations  # for those who have a file

    return read_durations(settings.durations)


def choose_order_of(
    settings: Settings,
    tasks: TaskList,
    durations: Mapping[int, float],
    *,
    of_database: bool,
) -> "ChosenOrder | None":
    """Return the order of the starts, None for that of the list.

    Raises `InputError` for a list that can have no other.
    """
    if settings.shuffle is None and settings.order == "list":
        return None
    from mpifarm.farm.start_order import choose_order  # for those who ask

    return choose_order(settings, tasks, durations, of_database=of_database)
