"""Options that change nothing as they were given: told, because a user relies on them.

Rules of this file: one sentence for each option, which names it and what it needs to
have an effect.  An option whose case can't come up (``--rank-timeout`` on one rank)
gets no word: what was asked for holds.  Nor does an option that a file or a variable
has set for all farms: this one need not be of those that it is for.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Final

from mpifarm.batch.arrays import find_array
from mpifarm.model.settings import RunnerDefinition, Settings
from mpifarm.plugins.loading import import_class
from mpifarm.runners import CommandRunner

_JOB_VARIABLES: Final = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
"""Variables by which a process knows that it is in a job, whose end may be known."""


def find_unused(
    settings: Settings, runner: RunnerDefinition, environ: Mapping[str, str]
) -> Iterator[str]:
    """Yield a warning for each option of `settings` that has no effect."""
    policy, limits = settings.policy, settings.limits
    if (
        policy.retry_delay
        and not policy.retries
        and not settings.has_default("--retry-delay")
    ):
        yield _warn(
            f"--retry-delay {policy.retry_delay:g}",
            "without --retries N: a failed task is not run again",
        )
    if policy.task_time is not None and (why := _no_end(policy.deadline, environ)):
        yield _warn(f"--task-time {policy.task_time:g}", why)
    if settings.in_array and not find_array(environ):
        yield _warn("--in-array", "outside of a job array: this is no member of one")
    if limits.checkpoint_signal is None or settings.has_default("--checkpoint-signal"):
        return
    if not settings.grace:
        yield _warn("--checkpoint-signal", "with --grace 0: a stop kills at once")
    elif not _runs_commands(runner):
        yield _warn(
            "--checkpoint-signal",
            f"with the runner {runner.name}: a stop calls its own terminate()",
        )


def _no_end(deadline: float | None, environ: Mapping[str, str]) -> str:
    """Return why no end of the job can be known; "" if one may be."""
    if deadline == math.inf:
        return "with --deadline none"
    if deadline is None and not any(name in environ for name in _JOB_VARIABLES):
        return "without --deadline TIME: this is no batch job whose end is known"
    return ""


def _warn(option: str, why: str) -> str:
    return f"WARNING: {option} has no effect {why}"


def _runs_commands(runner: RunnerDefinition) -> bool:
    """Return whether the runner ends its tasks by the signal that the worker names.

    Raises InputError if its class can't be imported.
    """
    if runner == RunnerDefinition():
        return True
    python_class = import_class(runner.python_class)
    return isinstance(python_class, type) and issubclass(python_class, CommandRunner)
