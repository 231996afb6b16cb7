"""What a farm says of itself in ``farms/<farm>.json``, put together.

Rules of this file: it only reads, and its cost does not grow with the list.
"""

import os
import sys
import time
from typing import Any

from mpifarm import __version__
from mpifarm.batch.job import find_job
from mpifarm.coordinator.coordinator import Coordinator
from mpifarm.farm.context import RankContext
from mpifarm.farm.own_words import is_read_once, name_kept_list
from mpifarm.model.settings import Settings
from mpifarm.model.wording import TimeLeft
from mpifarm.store.store import Store
from mpifarm.system.time_of_day import encode_time

FOR_ONE_START = ("--again", "--remap")
"""Options with which a farm begins, and does not go on."""

MAX_ARGUMENTS = 4096
"""Characters of a farm's arguments that are written down: it is done each second."""


def _find_words(settings: Settings) -> list[str]:
    """Return the words with which the farm goes on: those that it was given.

    ``--again`` and ``--remap`` were for one start: given once more, it would begin its
    list anew, or take up a list that was edited by mistake.  The list in the workdir
    stands for a long list of arguments, and for arguments that can't be read again:
    from standard input or a pipe.
    """
    arguments, words = settings.arguments, sys.argv[1:]
    if arguments is None:
        return _without_one_start(words)
    size = len(words) - arguments.size
    options, given = _without_one_start(words[:size]), words[size:]
    are_short = sum(map(len, words)) <= MAX_ARGUMENTS
    if are_short and not any(map(is_read_once, arguments.sources)):
        return [*options, *given]
    return name_kept_list(options, settings.workdir)


def _without_one_start(words: list[str]) -> list[str]:
    return [word for word in words if word not in FOR_ONE_START]


class FarmStates:
    """The states of one farm, one after the other."""

    def __init__(
        self, coordinator: Coordinator, store: Store, context: RankContext
    ) -> None:
        self._coordinator = coordinator
        self._store = store
        settings, environ = context.settings, context.process.environ
        job = find_job(environ)
        self._constant = {
            "farm": coordinator.definition.farm,
            "version": __version__,
            "command": ["mpifarm", *_find_words(settings)],
            "directory": context.process.started_in or os.getcwd(),
            "tasklist": os.path.abspath(settings.tasklist),
            "handler": settings.handler,
            "config": settings.config and os.path.abspath(settings.config),
            "limits": [name for name, _ in coordinator.policy.seats],
            "workdir": os.path.abspath(settings.workdir),
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "job": None if job is None else {"system": job[0], "id": job[1]},
            "started": encode_time(time.time() - (time.monotonic() - context.begun)),
        }

    def describe(
        self,
        rate: float,
        time_left: TimeLeft | None,
        exit_status: int | None = None,
    ) -> dict[str, Any]:
        """Return the state now; `rate` is in tasks per second.

        `exit_status`: that of a farm that has ended.
        """
        coordinator, (finished, failed) = self._coordinator, self._store.recorded
        return {
            **self._constant,
            "written": encode_time(time.time()),
            "phase": "ended" if exit_status is not None else coordinator.phase.value,
            "reason": coordinator.reason,
            "exit_status": exit_status,
            "grows": coordinator.growing.is_expected,
            "counts": {
                "total": len(coordinator.commands),
                "finished": finished,
                "failed": failed,
                "running": coordinator.count_running(),
            },
            "held": {
                "all": coordinator.holds_all,
                "tasks": coordinator.count_held(self._store.has_record_of),
            },
            "seatless": coordinator.count_seatless(),
            "rate": rate,
            "time_left": None if time_left is None else time_left._asdict(),
            "outruns": coordinator.forecast.outruns,
            "ranks": [
                {
                    "rank": each.rank,
                    "host": each.host,
                    "pid": each.pid,
                    "workers": each.workers,
                    "state": each.state.value,
                }
                for each in coordinator.ranks.values()
            ],
            "running": [
                {
                    "task": each.task.taskid,
                    "attempt": each.task.attempt,
                    "rank": each.rank,
                    "worker": each.task.worker_index,
                    "started": encode_time(each.task.started),
                }
                for each in coordinator.find_running()
            ],
        }
