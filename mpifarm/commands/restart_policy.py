"""The decisions of ``mpifarm supervise``: whether to start a farm again, and when.

Rules of this file: no I/O and no clock.  A launcher's exit status is believed only if
the farm itself has left no ``result.json``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

from mpifarm.errors import ExitStatus
from mpifarm.farm.kinds import name_limits
from mpifarm.model.wording import agree, counted

BARREN_RUNS = 3
"""Runs in a row without any record, after which the farm is given up."""

NEVER_BEGAN = frozenset({1, 16})
"""Statuses of launchers whose ranks could not start: 1 of srun and mpirun (an MPI that
does not fit the launcher, too few slots, a Python without mpifarm), 16 of MPICH under
PMIx."""

PAUSES = (1.0, 10.0)
"""Seconds to wait after the first and the second run without any record."""

PAUSES_FOR_SLURM = (5.0, 60.0, 240.0)
"""The same pauses in an allocation in which a run has left a record.  Slurm may take
its ``SlurmdTimeout``, 300 s, to notice that a node has died; until then it starts ranks
there, in vain."""

CLAIM_SECONDS = 65.0
"""Seconds until the tasks of a farm that died on another host can be reclaimed."""

_ASKED = re.compile(
    r"SIG\w+ was received|the timeout of|the workdir has a file 'drain'"
    r"|the job ends in|the end of the job"
    r"|the first (\d+ commands|command) could not be started"
)
"""Beginnings of reasons in ``result.json`` that the user wanted, or for which another
start would end the same way."""

_BY_SIGNAL = re.compile(r"SIG\w+ was received")


# ---- what is known of a run ----------------------------------------------------------


class FarmResult(NamedTuple):
    """The part of a farm's ``result.json`` that decides about a restart."""

    farm: str
    launch: str
    """`LAUNCH_VARIABLE` as the farm found it, "" if the launcher did not pass it on."""
    status: int
    reason: str
    left: int
    """Tasks that are neither finished nor failed."""
    claimed: int
    """Tasks that other farms hold, which live or may live."""
    lost: tuple[str, ...] = ()
    """Hosts that lost a rank."""
    quarantined: tuple[str, ...] = ()
    """Hosts on which tasks failed that succeeded elsewhere."""
    no_limit: tuple[str, ...] = ()
    """The kinds of tasks that are left because the farm has no limit for them."""


class Records(NamedTuple):
    """The amount of records in a workdir."""

    tasks: int
    """Lines of ``finished`` and ``failed``."""
    size: int
    """Bytes of ``finished``, ``failed`` and the attempts; the sum only grows."""


class Run(NamedTuple):
    """One run of the command, when it is over."""

    status: int
    """The launcher's exit status, as a shell has it: 128 + n if signal n ended it."""
    result: FarmResult | None
    """The result of this run's farm; None if the farm left none."""
    moved: bool
    """Whether anything was recorded, even an attempt that is not a task's last."""
    recorded: int
    """Tasks that were recorded."""
    left_nothing: bool
    """Whether no task waits in the workdir, and no farm has left a claim."""
    stop_asked: bool = False
    """Whether a signal has told the supervisor to stop."""
    begun: bool = True
    """Whether a farm has left a trace in the workdir, even a claim alone."""


class RestartDecision(Enum):
    """A decision after a run, with its reason."""

    OVER = "over"
    """End: the farm ended as a farm ends, or as it was told to."""
    BROKEN = "broken"
    """Start again: ranks or the launcher died."""
    CLAIM_LEFT = "claim left"
    """Start again a bit later: then the tasks of a farm that died can be reclaimed."""
    NEVER_BEGAN = "never began"
    """End: the launcher could not start the farm, and will not the next time."""
    STUCK = "stuck"
    """End: ranks die, and nothing gets done."""
    LACKS_LIMIT = "lacks limit"
    """End: a start refuses the command, which lacks a limit for what was added."""
    ENOUGH = "enough"
    """End: the farm was started again as often as it may."""


@dataclass(slots=True)
class RestartPolicy:
    """The decision after each run, by all runs so far."""

    max_restarts: int | None = None
    """The limit of restarts; None: none."""
    knows_workdir: bool = True
    in_allocation: bool = False
    restarts: int = 0
    """Starts after the first."""
    barren: int = 0
    """Runs in a row in which nothing was recorded."""
    has_moved: bool = False
    """Whether any run has left a record."""
    has_begun: bool = False
    """Whether any farm has begun."""
    has_broken: bool = False
    """Whether ranks or the launcher of the last run died."""

    def decide(self, run: Run) -> RestartDecision:
        """Record a run, and count the restart if one follows.  Return the decision."""
        self.has_moved = self.has_moved or run.moved
        self.barren = 0 if run.moved else self.barren + 1
        had_broken, self.has_broken = self.has_broken, False
        if run.stop_asked:
            return RestartDecision.OVER
        if had_broken and _is_with_others(run.result):
            return self._unless_enough(RestartDecision.CLAIM_LEFT)
        if self._is_over(run):
            return RestartDecision.OVER
        if refusal := self._find_refusal(run):
            return refusal
        self.has_broken = True
        most = len(PAUSES_FOR_SLURM) + 1 if self._is_patient() else BARREN_RUNS
        if self.barren >= most:
            return RestartDecision.STUCK
        return self._unless_enough(RestartDecision.BROKEN)

    def _find_refusal(self, run: Run) -> RestartDecision | None:
        """Note whether a farm has begun.  Return why no start can succeed, or None."""
        if run.result is not None and run.result.no_limit:
            return RestartDecision.LACKS_LIMIT
        return RestartDecision.NEVER_BEGAN if self._could_not_start(run) else None

    def _could_not_start(self, run: Run) -> bool:
        """Note whether a farm has begun.  Return whether none ever has, and none will.

        If a farm has begun before, a node may have died, and another start may succeed.
        """
        self.has_begun = self.has_begun or run.begun
        return not self.has_begun and run.status in NEVER_BEGAN

    def pause_after(self, decision: RestartDecision) -> float:
        """Return the seconds to wait before the next start."""
        if decision is RestartDecision.CLAIM_LEFT:
            return CLAIM_SECONDS
        if not self.barren:
            return 0.0
        pauses = PAUSES_FOR_SLURM if self._is_patient() else PAUSES
        return pauses[min(self.barren, len(pauses)) - 1]

    def _is_patient(self) -> bool:
        return self.in_allocation and self.has_moved

    def _unless_enough(self, decision: RestartDecision) -> RestartDecision:
        """Count a restart, and return `decision`; `ENOUGH` if no restart is left."""
        if self.max_restarts is not None and self.restarts >= self.max_restarts:
            return RestartDecision.ENOUGH
        self.restarts += 1
        return decision

    def _is_over(self, run: Run) -> bool:
        """Return whether a run ended as a farm ends, and needs no restart."""
        if run.result is None:
            return self._is_over_by_status(run)
        if run.result.status != ExitStatus.RUN_AGAIN:
            return run.result.status != ExitStatus.DEFECT
        # A launcher that has lost one rank sends TERM or USR1 to the others.
        if was_killed(run.status) and _BY_SIGNAL.match(run.result.reason):
            return False
        return bool(_ASKED.match(run.result.reason))

    def _is_over_by_status(self, run: Run) -> bool:
        """Return whether a run without ``result.json`` needs no restart, by its status.

        Status 2 never needs one.  In a known workdir, 0 needs none if nothing is left.
        In an unknown one, 0, 1, 3 and 75 need none: they are a farm's own statuses.
        """
        if run.status == ExitStatus.BAD_INPUT:
            return True
        if not self.knows_workdir:
            return run.status in (
                ExitStatus.ALL_FINISHED,
                ExitStatus.SOME_FAILED,
                ExitStatus.WITH_OTHERS,
                ExitStatus.RUN_AGAIN,
            )
        return run.status == ExitStatus.ALL_FINISHED and run.left_nothing


def _is_with_others(result: FarmResult | None) -> bool:
    """Return whether only tasks that other farms hold, alive or dead, are left."""
    return (
        result is not None
        and result.status == ExitStatus.WITH_OTHERS
        and result.claimed > 0
    )


def was_killed(status: int) -> bool:
    """Return whether a launcher's status is one that no stopped farm gives it.

    Launchers that lost a rank were seen to end with 9, 14, 134, 137 and 255.  Open
    MPI's mpirun ends with 1 if it was signalled itself.
    """
    ordinary = (
        ExitStatus.ALL_FINISHED,
        ExitStatus.SOME_FAILED,
        ExitStatus.RUN_AGAIN,
    )
    return status not in ordinary


def is_of_launch(
    result: FarmResult | None, launch: str, before: FarmResult | None
) -> bool:
    """Return whether the farm of the start `launch` has written the result.

    If the launcher has not passed `LAUNCH_VARIABLE` on to the rank that writes, the
    farm must be another than in `before`, the result before that start.
    """
    if result is None:
        return False
    if result.launch:
        return result.launch == launch
    return before is None or result.farm != before.farm


def exit_status_of(run: Run) -> int:
    """Return the farm's own status if it has one, else the launcher's."""
    return run.status if run.result is None else run.result.status


def parse_result(payload: Any) -> FarmResult:
    """Parse the JSON value of a ``result.json``.

    Raises LookupError, TypeError, ValueError or AttributeError for another value.
    """
    tasks = payload["tasks"]
    return FarmResult(
        str(payload["farm"]),
        str(payload.get("launch", "")),
        int(payload["exit_status"]),
        str(payload["reason"]),
        int(tasks["toprocess"]) + int(tasks["elsewhere"]),
        int(tasks["claimed"]),
        _hosts(payload.get("lost", ())),
        _hosts(payload.get("quarantined", ())),
        tuple(map(str, payload.get("no_limit", ()))),
    )


def _hosts(ranks: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(rank["host"]) for rank in ranks))


# ---- what is said --------------------------------------------------------------------


def describe_run(
    decision: RestartDecision, run: Run, pause: float, excluded: Sequence[str]
) -> str:
    """Return the sentence about a run and the next start.

    `pause` is in seconds, `excluded` are the nodes that the next start leaves out.
    Return "" if there is no next start, and the farm has said all.
    """
    what_next = _describe_decision(decision, run, pause, excluded)
    result = run.result
    if not what_next and (result is None or result.status == run.status):
        return ""
    return "; ".join(filter(None, [_describe_end(run), what_next]))


_GIVEN_UP: Final = {
    RestartDecision.NEVER_BEGAN: (
        "no farm began, so it is not started again: the launcher has said above why (an"
        " MPI that does not fit it, for example)"
    ),
    RestartDecision.STUCK: "not started again, because nothing gets done any more",
    RestartDecision.ENOUGH: "not started again, because --max-restarts is reached",
}


def _describe_decision(
    decision: RestartDecision, run: Run, pause: float, excluded: Sequence[str]
) -> str:
    """Return the clause about the next start, "" after a farm's own end."""
    when = f"in {pause:g} s" if pause else "at once"
    without = f", without {', '.join(excluded)}" if excluded else ""
    match decision:
        case RestartDecision.OVER:
            return "not started again, because a signal came" if run.stop_asked else ""
        case RestartDecision.BROKEN:
            return f"starting it again {when}{without}"
        case RestartDecision.CLAIM_LEFT:
            return (
                f"starting it again {when}, to take back what a farm that has died"
                f" still holds{without}"
            )
        case RestartDecision.LACKS_LIMIT:
            limits = name_limits(run.result.no_limit if run.result else ())
            return (
                f"not started again, because tasks that were added need {limits}: give"
                " the same command with that"
            )
        case (
            RestartDecision.NEVER_BEGAN | RestartDecision.STUCK | RestartDecision.ENOUGH
        ):
            return _GIVEN_UP[decision]


def _describe_end(run: Run) -> str:
    """Return the clauses about the end of a run, and its records."""
    result = run.result
    ended = f"the launcher ended with status {run.status}"
    if result is not None:
        same = result.status == run.status
        reason = f" ({result.reason})" if result.reason else ""
        ended = "the farm ended" if same else f"{ended}, the farm"
        ended += f" with status {result.status}{reason}"
    done = f"{counted(run.recorded, 'task was', 'tasks were')} recorded"
    left = (
        f" and {result.left} {agree(result.left, 'is', 'are')} left" if result else ""
    )
    return f"{ended}, {done} in this run{left}"
