"""How long tasks are said to take: the file of ``--durations``.

Rules of this file: a farm without such a file imports nothing for it.
"""

from collections.abc import Mapping

from mpifarm.model.settings import Settings


def read_durations_of(settings: Settings) -> Mapping[int, float]:
    """Return the seconds of tasks by id; raise `InputError` that names a wrong line."""
    if settings.durations is None:
        return {}
    from mpifarm.lists.durations import read_durations  # for those who have a file

    return read_durations(settings.durations)
