"""What every kind of joined workdir has: see `Workdir` and `ForeignWorkdir`.

Rules of this file: a method that says "lock held" is called with the lock held; one
that says "without the lock" must not be.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress

from mpifarm.errors import StorageError
from mpifarm.workdir import files
from mpifarm.workdir.claims import Machine
from mpifarm.workdir.membership import Membership
from mpifarm.workdir.paths import WorkdirPaths
from mpifarm.workdir.records import Counts, Recorded, Survey, Transacted

ATTEMPTS_HEADER = b"taskid\tattempt\tstatus\trank\tworker\tstarted\tseconds\tfarm\n"


class JoinedWorkdir(ABC):
    """A workdir that this farm has joined."""

    def __init__(self, paths: WorkdirPaths, farm: str, machine: Machine) -> None:
        self.paths = paths
        self.farm = farm
        self.notes: list[str] = []
        """Sentences for the user; the caller clears it."""
        self._noted: list[Recorded] = []
        self._member = Membership(paths, farm, machine, self.notes)
        self._others = self._member.others

    # ---- transactions ---------------------------------------------------------------

    @abstractmethod
    def prepare(
        self, results: Sequence[Recorded], give_back: Sequence[int], take: int
    ) -> None:
        """Do what can be done without the lock for the next `transact`.

        It never fails: what can't be done, `transact` tells.
        """

    @abstractmethod
    def transact(
        self, results: Sequence[Recorded], give_back: Sequence[int], take: int
    ) -> Transacted:
        """Record results, put ids back, take up to `take` new ones.  Lock held.

        Raises `ValueError` for an id that this farm does not hold, `StorageError`
        where something could not be written: what had been done until then stands,
        and the same results may be given again.
        """

    @abstractmethod
    def reclaim_dead(self) -> int:
        """Have what dead farms held processed again; how many tasks.  Lock held."""

    def note_attempts(self, results: Sequence[Recorded]) -> None:
        """Tell of attempts whose tasks run again, together with the next results."""
        self._noted += results

    def _append_attempts(self, results: Sequence[Recorded]) -> None:
        """Lock held."""
        lines = [
            f"{r.taskid}\t{r.attempt}\t{r.status}\t{r.rank}\t{r.tid}\t"
            f"{r.started:.6f}\t{r.seconds:.6f}\t{self.farm}\n"
            for r in (*self._noted, *results)
        ]
        version = files.find_version(self.paths.attempts)
        header = b"" if version and version.size else ATTEMPTS_HEADER
        content = header + "".join(lines).encode("ascii")
        files.append(self.paths.attempts, content, sync=False)
        self._noted.clear()

    # ---- looking --------------------------------------------------------------------

    @property
    @abstractmethod
    def recorded(self) -> tuple[int, int]:
        """How many tasks have finished and failed, as far as is known."""

    @abstractmethod
    def has_record_of(self, taskid: int) -> bool:
        """Whether the task has finished or failed, as far as is known."""

    @abstractmethod
    def survey(self) -> Survey:
        """What `counts` needs.  Lock held."""

    @abstractmethod
    def counts(self, survey: Survey) -> Counts:
        """Where all tasks were at a survey.  Without the lock."""

    @property
    def held(self) -> frozenset[int]:
        """The ids that this farm holds."""
        return frozenset(self._member.claim.held)

    @property
    def others_hold_tasks(self) -> bool:
        """Whether a live claim of another farm holds any, as of the last look."""
        return bool(self._others.held_ids())

    def drain_requested(self) -> bool:
        """Whether the user has put a file ``drain`` into the workdir."""
        return os.path.exists(self.paths.drain)

    # ---- telling --------------------------------------------------------------------

    def heartbeat(self) -> None:
        """Tell other hosts that this farm lives; the caller does it every 10 s."""
        self._member.claim.beat()

    def note_in_log(self, taskid: int, sentence: str) -> None:
        """Write a line of our own into the log of a task that runs no more."""
        line = f"=== mpifarm: {sentence} ===\n".encode()
        with suppress(StorageError):
            files.append(self.paths.log(taskid), line, sync=False)

    def write_result(self, payload: dict[str, object]) -> None:
        """Replace ``result.json``."""
        content = json.dumps(payload, indent=2).encode("ascii") + b"\n"
        beside = f"{self.paths.result}.{self.farm}"
        try:
            files.replace(self.paths.result, beside, content)
        except StorageError:
            # This farm has no claim any more: one that starts may have cleaned up.
            files.replace(self.paths.result, beside, content)

    def close(self) -> bool:
        """Leave the workdir.  Lock held.

        Removes the claim if it holds nothing, and returns whether; else it is left for
        the next start to take back.
        """
        if self._noted:
            with suppress(StorageError):
                self._append_attempts(())
        return self._member.leave()
