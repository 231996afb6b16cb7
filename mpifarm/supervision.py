"""What ``mpifarm supervise`` makes of a run: whether to start the farm again, and when.

Rules of this file: no I/O and no clock.  A launcher's exit status is believed only
where the farm itself has not said how it ended (``result.json``).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from mpifarm.errors import ExitStatus

BARREN_RUNS = 3
"""Runs in a row in which nothing was recorded, after which it is given up."""

PAUSES = (1.0, 10.0)
"""Seconds to wait after the first and the second of them."""

PAUSES_FOR_SLURM = (5.0, 60.0, 240.0)
"""The same in an allocation where runs have worked: for a node that dies Slurm may take
its ``SlurmdTimeout``, 300 s, to notice; until then it starts ranks there, in vain."""

CLAIM_SECONDS = 65.0
"""After so long the tasks of a farm that died on another host can be taken back."""

_ASKED = re.compile(
    r"SIG\w+ was received|the timeout of|the workdir has a file 'drain'"
    r"|the job ends in|the end of the job"
)
"""How a reason in ``result.json`` begins where somebody wanted the end."""

_BY_SIGNAL = re.compile(r"SIG\w+ was received")


# ---- what is known of a run ----------------------------------------------------------


class Told(NamedTuple):
    """What ``result.json`` says of a farm."""

    farm: str
    launch: str
    """`LAUNCH_VARIABLE` as the farm found it; "" where the launcher did not pass it."""
    status: int
    reason: str
    left: int
    """Tasks that are neither finished nor failed."""
    claimed: int
    """Of those: held by other farms that live, or may."""
    lost: tuple[str, ...] = ()
    """Hosts that lost a rank."""
    quarantined: tuple[str, ...] = ()
    """Hosts on which tasks failed while they succeeded elsewhere."""


class Records(NamedTuple):
    """What is recorded in a workdir."""

    tasks: int
    """Lines of ``finished`` and ``failed``."""
    size: int
    """Bytes of these, and of ``attempts.tsv``: they only grow."""


class Run(NamedTuple):
    """How one run of the command went."""

    status: int
    """The launcher's, as a shell has it: 128 + n when signal n ended it."""
    told: Told | None
    """What the farm of this very run has said; None if it could not."""
    moved: bool
    """Whether anything was recorded, be it an attempt that is no task's last."""
    recorded: int
    """Tasks that were."""
    left_nothing: bool
    """Whether no task waits in the workdir, and no farm has left a claim."""
    asked: bool = False
    """Whether the supervisor was told to stop meanwhile."""


class Verdict(Enum):
    """What a run means for the next one."""

    OVER = "over"
    """It ended as a farm ends, or as it was told to."""
    BROKEN = "broken"
    """Ranks or the launcher died."""
    CLAIM_LEFT = "claim left"
    """What is left is with a farm that has died: it can be taken back a bit later."""
    STUCK = "stuck"
    """They die, and nothing gets done."""
    ENOUGH = "enough"
    """It was started again as often as it may."""


@dataclass(slots=True)
class Supervision:
    """The decisions: run after run in, a verdict out."""

    max_restarts: int | None = None
    knows_workdir: bool = True
    in_allocation: bool = False
    restarts: int = 0
    barren: int = 0
    """Runs in a row in which nothing was recorded."""
    has_moved: bool = False
    has_broken: bool = False
    """Whether the last run did."""

    def judge(self, run: Run) -> Verdict:
        """What `run` means."""
        self.has_moved = self.has_moved or run.moved
        self.barren = 0 if run.moved else self.barren + 1
        had_broken, self.has_broken = self.has_broken, False
        if run.asked:
            return Verdict.OVER
        if had_broken and _is_with_others(run.told):
            return self._unless_enough(Verdict.CLAIM_LEFT)
        if self._is_over(run):
            return Verdict.OVER
        self.has_broken = True
        most = len(PAUSES_FOR_SLURM) + 1 if self._is_patient() else BARREN_RUNS
        if self.barren >= most:
            return Verdict.STUCK
        return self._unless_enough(Verdict.BROKEN)

    def pause(self, verdict: Verdict) -> float:
        """Seconds to wait before the next start."""
        if verdict is Verdict.CLAIM_LEFT:
            return CLAIM_SECONDS
        if not self.barren:
            return 0.0
        pauses = PAUSES_FOR_SLURM if self._is_patient() else PAUSES
        return pauses[min(self.barren, len(pauses)) - 1]

    def _is_patient(self) -> bool:
        return self.in_allocation and self.has_moved

    def _unless_enough(self, verdict: Verdict) -> Verdict:
        if self.max_restarts is not None and self.restarts >= self.max_restarts:
            return Verdict.ENOUGH
        self.restarts += 1
        return verdict

    def _is_over(self, run: Run) -> bool:
        if run.told is None:
            return self._is_over_by_status(run)
        if run.told.status != ExitStatus.RUN_AGAIN:
            return run.told.status != ExitStatus.DEFECT
        # A launcher that has lost one rank sends TERM or USR1 to the others.
        if was_killed(run.status) and _BY_SIGNAL.match(run.told.reason):
            return False
        return bool(_ASKED.match(run.told.reason))

    def _is_over_by_status(self, run: Run) -> bool:
        """The farm has not said how it ended: it died, or it never began."""
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


def _is_with_others(told: Told | None) -> bool:
    """Whether nothing is left but what other farms hold, living ones or dead ones."""
    return (
        told is not None and told.status == ExitStatus.WITH_OTHERS and told.claimed > 0
    )


def was_killed(status: int) -> bool:
    """Whether a launcher's status is none that a stopped farm gives it.

    Of those that lost a rank 9, 14, 134, 137 and 255 were seen; Open MPI's mpirun ends
    with 1 where it was signalled itself.
    """
    ordinary = (
        ExitStatus.ALL_FINISHED,
        ExitStatus.SOME_FAILED,
        ExitStatus.RUN_AGAIN,
    )
    return status not in ordinary


def is_of_launch(told: Told | None, launch: str, before: Told | None) -> bool:
    """Whether the farm of this very launch has said it.

    `before` is what stood there before; it counts where the launcher has not passed
    `LAUNCH_VARIABLE` on to the rank that writes.
    """
    if told is None:
        return False
    if told.launch:
        return told.launch == launch
    return before is None or told.farm != before.farm


def exit_status_of(run: Run) -> int:
    """The farm's own, where it has one."""
    return run.status if run.told is None else run.told.status


def parse_told(payload: Any) -> Told:
    """``result.json``; LookupError, TypeError or ValueError if it is none."""
    tasks = payload["tasks"]
    return Told(
        str(payload["farm"]),
        str(payload.get("launch", "")),
        int(payload["exit_status"]),
        str(payload["reason"]),
        int(tasks["toprocess"]) + int(tasks["elsewhere"]),
        int(tasks["claimed"]),
        _hosts(payload.get("lost", ())),
        _hosts(payload.get("quarantined", ())),
    )


def _hosts(ranks: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(rank["host"]) for rank in ranks))


# ---- what is said --------------------------------------------------------------------


def words_for(verdict: Verdict, run: Run, pause: float, without: Sequence[str]) -> str:
    """What is said after a run; "" where the farm has said it all."""
    when = f"in {pause:g} s" if pause else "at once"
    left_out = f", without {', '.join(without)}" if without else ""
    what_next = {
        Verdict.OVER: "not started again, as a signal came" if run.asked else "",
        Verdict.BROKEN: f"starting it again {when}{left_out}",
        Verdict.CLAIM_LEFT: f"starting it again {when}, to take back what a farm that "
        f"has died still holds{left_out}",
        Verdict.STUCK: "not started again, for nothing gets done any more",
        Verdict.ENOUGH: "not started again, for --max-restarts is reached",
    }[verdict]
    told = run.told
    if not what_next and (told is None or told.status == run.status):
        return ""
    return "; ".join(filter(None, [_event_of(run), what_next]))


def _event_of(run: Run) -> str:
    """How it ended, and how far it got."""
    told = run.told
    ended = f"the launcher ended with {run.status}"
    if told is not None:
        same = told.status == run.status
        reason = f" ({told.reason})" if told.reason else ""
        ended = "the farm ended" if same else f"{ended}, the farm"
        ended += f" with {told.status}{reason}"
    tasks = "task was" if run.recorded == 1 else "tasks were"
    done = f"{run.recorded} {tasks} recorded"
    left = "" if told is None else f" and {told.left} are left"
    return f"{ended}, {done} in this run{left}"
