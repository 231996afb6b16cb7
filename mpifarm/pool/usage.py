"""What a task has used: CPU time, memory, output.

Rules of this file: mpifarm's own runners run one command, whose usage the kernel gives
as the command is reaped.  A user's runner may do anything: what its worker and the
worker's children have used meanwhile is the task's.
"""

from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import NamedTuple

from mpifarm.output.task_log import TaskLog
from mpifarm.system import task_command


class Usage(NamedTuple):
    """What an attempt has used; see the fields of `mpifarm.model.task.Result`."""

    user_seconds: float
    system_seconds: float
    peak_memory: int
    output_bytes: int


UNKNOWN = (None, None, None, None)
"""In place of a `Usage`, of a task whose run nobody saw end."""


class CommandMeter:
    """The meter of a runner that runs one command by `task_command`."""

    def begin(self) -> None:
        """Begin a task."""
        task_command.forget_usage()

    def read(self, log: TaskLog) -> Usage:
        """Return what the task has used; zeros where no command was started."""
        usage = task_command.usage_of_command()
        if usage is None:
            return Usage(0.0, 0.0, 0, log.output_bytes())
        return Usage(
            usage.ru_utime,
            usage.ru_stime,
            task_command.peak_above_own(usage.ru_maxrss),
            log.output_bytes(),
        )


class ProcessMeter:
    """The meter of a user's runner: of this process and its children."""

    def begin(self) -> None:
        """Begin a task."""
        self._before = [getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN)]

    def read(self, log: TaskLog) -> Usage:
        """Return what was used since `begin`.

        The peak is known only if it is higher than that of all tasks before.
        """
        now = [getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN)]
        pairs = [*zip(self._before, now, strict=True)]
        peaks = [new.ru_maxrss for old, new in pairs if new.ru_maxrss > old.ru_maxrss]
        return Usage(
            sum(new.ru_utime - old.ru_utime for old, new in pairs),
            sum(new.ru_stime - old.ru_stime for old, new in pairs),
            max(peaks, default=0) * 1024,
            log.output_bytes(),
        )
