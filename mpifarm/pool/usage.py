"""What a task has used: CPU time, memory, output.

Rules of this file: what the worker's children have used meanwhile is the task's, and
with a user's runner, which may do anything, what the worker itself has used, too.  It
is as cheap as it can be: each task comes here twice.
"""

from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

from mpifarm.output.task_log import TaskLog
from mpifarm.system import task_command

Usage = tuple[float | None, float | None, int | None, int | None]
"""User seconds, system seconds, peak memory and bytes of output, as the fields of
`mpifarm.model.task.Result`."""

UNKNOWN: Usage = (None, None, None, None)
"""The usage of a task whose run nobody saw end."""


class CommandMeter:
    """The meter of a runner that runs one command by `task_command`."""

    def begin(self) -> None:
        """Begin a task."""
        self._before = getrusage(RUSAGE_CHILDREN)

    def read(self, log: TaskLog) -> Usage:
        """Return what was used since `begin`.

        The peak of a command that was not measured by itself (`task_command.peak_of`)
        is known only if it is higher than those of all commands before.
        """
        before, now = self._before, getrusage(RUSAGE_CHILDREN)
        highest = now.ru_maxrss if now.ru_maxrss > before.ru_maxrss else 0
        return (
            now.ru_utime - before.ru_utime,
            now.ru_stime - before.ru_stime,
            task_command.peak_memory(highest),
            log.output_bytes(),
        )


class ProcessMeter:
    """The meter of a user's runner: of this process and its children."""

    def begin(self) -> None:
        """Begin a task."""
        self._own, self._children = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)

    def read(self, log: TaskLog) -> Usage:
        """Return what was used since `begin`.

        The peak is known only if it is higher than that of all tasks before.
        """
        own, children = self._own, self._children
        own_now, children_now = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
        peak = 0
        if own_now.ru_maxrss > own.ru_maxrss:
            peak = own_now.ru_maxrss
        if children_now.ru_maxrss > children.ru_maxrss:
            peak = max(peak, children_now.ru_maxrss)
        return (
            own_now.ru_utime - own.ru_utime + children_now.ru_utime - children.ru_utime,
            own_now.ru_stime - own.ru_stime + children_now.ru_stime - children.ru_stime,
            peak * 1024,
            log.output_bytes(),
        )
