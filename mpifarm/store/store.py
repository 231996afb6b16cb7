"""A workdir that a farm has joined: the common part of `FileStore` and `CustomStore`.

Rules of this file: a method that says "lock held" is called with the lock held; one
that says "without the lock" must not be.
"""

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress

from mpifarm.errors import StorageError
from mpifarm.model.id_ranges import name_ids
from mpifarm.model.paths import WorkdirPaths, is_farm_id, staging_of
from mpifarm.model.wording import agree, counted
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.order.frontier import Frontier
from mpifarm.store.attempts import (
    CANCELLED,
    COMPLETED,
    AttemptsFile,
    Column,
    is_not_run,
    last_outcomes,
    split_rows,
)
from mpifarm.store.claims import OtherClaim
from mpifarm.store.farm_liveness import Machine
from mpifarm.store.held_file import Held, find_held
from mpifarm.store.lost_attempts import LostAttempts
from mpifarm.store.membership import FAMILY, Membership
from mpifarm.store.requests import RequestInbox
from mpifarm.store.timeline_file import TimelineFile
from mpifarm.store.types import Counts, Recorded, Survey, Transacted
from mpifarm.store.unlimited import Unlimited
from mpifarm.system import files


class Store(ABC):
    """A workdir that this farm has joined."""

    is_database = False
    """Whether the states of the tasks are in a database, not in the workdir."""

    def __init__(
        self,
        paths: WorkdirPaths,
        texts: Sequence[str],
        farm: str,
        machine: Machine,
        clock: Callable[[], float] = time.time,
        constraints: Constraints = UNORDERED,
    ) -> None:
        self.paths = paths
        self.farm = farm
        self.notes: list[str] = []
        """Sentences for the user; the caller clears it."""
        self._attempts = AttemptsFile(paths, farm, texts)
        self._lost = LostAttempts(paths)
        self._member = Membership(paths, farm, machine, self.notes)
        self._others = self._member.others
        self.requests = RequestInbox(paths, farm, self.notes)
        self.held_by_users = Held()
        """The tasks that users hold."""
        self.unlimited = Unlimited(constraints)
        """The tasks that this farm does not start, as their kinds have no limit here.
        """
        self._failed_unlisted: set[int] = set()
        """Tasks whose failures another rank had recorded, while it led this farm, and
        may not have listed in ``attempts.tsv`` yet when it was lost."""
        self._texts = texts
        self._timeline = TimelineFile(
            paths, farm, texts, self.notes, self._count_waiting, clock
        )

    @property
    def frontier(self) -> Frontier | None:
        """What may start by the list's order; None if the list has none."""
        return None

    def _warn_of_passed(self, frontier: Frontier) -> None:
        """Note the barriers that have opened though tasks in front of them failed."""
        for each in frontier.take_passed():
            count = counted(each.failures, "task", "tasks")
            have = agree(each.failures, "has", "have")
            self.notes.append(
                f"WARNING: {count} in front of the {each.words} before task"
                f" {each.first} {have} failed ({name_ids(each.failed)}), and what is"
                f" behind it starts all the same; {each.words} CHECK would keep it from"
                " that"
            )

    # ---- transactions ---------------------------------------------------------------

    @abstractmethod
    def prepare(
        self, results: Sequence[Recorded], requeue: Sequence[int], take: int
    ) -> None:
        """Prepare the next `transact`, which has to get the same arguments.

        Without the lock.  Never raises: `transact` raises the error.
        """

    @abstractmethod
    def transact(
        self,
        results: Sequence[Recorded],
        requeue: Sequence[int],
        take: int,
        pull: Sequence[int] = (),
    ) -> Transacted:
        """Record results, requeue ids, take up to `take` new ones.  Lock held.

        The tasks `pull` are taken wherever they wait, unless others hold them.

        Raises `ValueError` for an id that this farm does not hold, `StorageError` if a
        write fails.  The steps before that stay done, and the same arguments may be
        given again.
        """

    def transact_or_reclaim(
        self,
        results: Sequence[Recorded],
        requeue: Sequence[int],
        take: int,
        pull: Sequence[int] = (),
    ) -> Transacted:
        """Transact; if no task is left to take, reclaim the tasks of dead farms.

        Lock held.  Reclaimed tasks make `empty` False, and are taken by the next call.
        Raises what `transact` raises; an error of the reclaiming becomes a note.
        """
        done = self.transact(results, requeue, take, pull)
        if not take or done.taken or done.not_run or not done.empty:
            return done
        is_empty = not self._try_to_reclaim()
        return done._replace(empty=is_empty, more_may_come=self._more_may_come)

    @property
    def _more_may_come(self) -> bool:
        """Whether tasks wait that may be ready later, by what other farms do.

        To be asked when dead farms have been reclaimed.
        """
        return False

    def _try_to_reclaim(self) -> int:
        try:
            reclaimed = self.reclaim_dead()
        except StorageError as error:
            # The transaction itself is on disk, and the next start looks again.
            self.notes.append(str(error))
            return 0
        with suppress(StorageError):
            self._attempts.append()
        return reclaimed

    @abstractmethod
    def reclaim_dead(self) -> int:
        """Poll, reclaim the tasks of dead farms, return their number.  Lock held.

        Notes for the user name the farms.
        """

    def _reclaim_each(self, reclaim: Callable[[OtherClaim, int], int]) -> int:
        """Call `reclaim` as `Membership.reclaim_dead` does.  Return the sum.

        It notes in `_lost` the tasks that it has reclaimed, once nobody can reclaim
        these again: a kill then costs a line of ``attempts.tsv``, and doubles none.
        The attempts that were running are kept for the next lines of that file.
        """
        try:
            return self._member.reclaim_dead(reclaim)
        finally:
            for farm, attempts in self._lost.take():
                self._attempts.note(attempts, farm)

    def note_attempts(self, results: Sequence[Recorded]) -> None:
        """Keep attempts whose tasks run again, for timeline and ``attempts.tsv``.

        The next `transact` with results writes them, or else `close`.
        """
        self._timeline.note(results)
        self._attempts.note(results)

    @property
    def _total(self) -> int:
        """The number of tasks in the list."""
        return len(self._texts)

    def count_in_timeline(self, count_running: Callable[[], int]) -> None:
        """Have the timeline count tasks; `count_running` returns how many run now."""
        self._timeline.count_running = count_running

    def _count_waiting(self, running: int) -> int:
        """Count the tasks that nobody has begun, as far as this farm knows.

        `running` tasks run in this farm.
        """
        elsewhere = len(self._others.held_ids())
        return self._total - sum(self.recorded) - elsewhere - running

    def _begin_attempts(self) -> None:
        """Choose the format of ``attempts.tsv``, and write noted attempts.  Lock held.

        A disk that fails leaves the file as it is: its lines are no results.
        """
        with suppress(StorageError):
            self._attempts.begin(beside_others=bool(self._others.claims))
            self._attempts.append()

    def _remove_orphaned_files(self) -> None:
        """Remove staging files whose claim is gone, but for those of queues."""
        begun_in = os.path.basename(self.paths.begun_in)
        for name in files.find_names(self.paths.root):
            stem, _, farm = name.rpartition(".")
            if stem.endswith((".json", ".tsv")) or stem == begun_in:
                self._remove_if_orphan(self.paths.file(name), farm)

    def _remove_if_orphan(self, path: str, farm: str) -> None:
        known = farm == self.farm or farm in self._others.claims
        if not known and is_farm_id(farm):
            files.remove(path)

    # ---- requests -------------------------------------------------------------------

    def _begin_requests(self, predecessor: str) -> None:
        """Learn what users hold, and begin to hear what they ask.  Lock held."""
        is_alone = not self._others.claims and not predecessor
        self.requests.begin(beside_others=not is_alone)
        if found := find_held(self.paths):
            held, sentence = found
            self.hold(held)
            if sentence:
                self.notes.append(sentence)

    def hold(self, held: Held) -> None:
        """Let the tasks that users hold, and no others, wait until they are released.

        Whoever takes tasks holds back the others if all are held.
        """
        self.held_by_users = held

    # ---- counting -------------------------------------------------------------------

    @property
    @abstractmethod
    def recorded(self) -> tuple[int, int]:
        """The numbers of finished and of failed tasks, as far as they are known."""

    @abstractmethod
    def has_record_of(self, taskid: int) -> bool:
        """Return whether the task has finished or failed, as far as is known."""

    @abstractmethod
    def survey(self, *, in_array: bool = False) -> Survey:
        """Poll, and return the state of the workdir for `counts`.  Lock held.

        `in_array`: whether to find the tasks of living farms of the same job array.
        """

    @abstractmethod
    def counts(self, survey: Survey) -> Counts:
        """Count the tasks by their places at a survey.  Without the lock.

        Raises `StorageError` and `ChangedError`.
        """

    @property
    def held(self) -> frozenset[int]:
        """The ids that this farm holds."""
        return frozenset(self._member.claim.held)

    def count_failed_here(self, total: int) -> int:
        """Count the list's tasks whose last attempt under this farm has failed.

        Attempts while another rank led the farm count, too.  A task that this farm
        holds, that has no record yet, or that was not run or cancelled, is left out,
        but for one that was cancelled and is not listed yet (`_failed_unlisted`).
        `total` is the number of tasks in the list.  Raises `StorageError`.
        """
        family = self.farm[:FAMILY].encode()
        content = files.find_content(self.paths.attempts) or b""
        ended = last_outcomes(
            fields
            for fields in split_rows(content)
            if fields[Column.FARM].startswith(family)
        )
        failed = {
            taskid
            for taskid, outcome in ended.items()
            if outcome not in (COMPLETED, CANCELLED) and not is_not_run(outcome)
        }
        failed |= self._failed_unlisted - ended.keys()
        known = failed.intersection(range(total)) - self.held
        return sum(map(self.has_record_of, known))

    @property
    def others_hold_tasks(self) -> bool:
        """Whether a claim of another farm holds a task, as last polled."""
        return bool(self._others.held_ids())

    def drain_requested(self) -> bool:
        """Return whether the user has put a file ``drain`` into the workdir."""
        return os.path.exists(self.paths.drain)

    # ---- writing --------------------------------------------------------------------

    def heartbeat(self) -> None:
        """Touch the claim, so that other hosts know that this farm lives.

        To be called every 10 s.  Raises `StorageError`.
        """
        self._member.claim.beat()

    def note_in_log(self, taskid: int, sentence: str) -> None:
        """Append a line of mpifarm's to ``log_<id>``, of a task that runs no more.

        Errors are ignored.
        """
        line = f"=== mpifarm: {sentence} ===\n".encode()
        with suppress(StorageError):
            files.append(self.paths.log(taskid), line, sync=False)

    def note_place(self, directory: str) -> str:
        """Return the directory in which the commands ran first.

        If none is recorded, record `directory`, and return "".  Errors are ignored.
        """
        with suppress(StorageError):
            if begun := find_begun_in(self.paths):
                return begun
            staging = staging_of(self.paths.begun_in, self.farm)
            content = os.fsencode(directory) + b"\n"
            files.replace(self.paths.begun_in, staging, content)
        return ""

    def write_result(self, payload: dict[str, object]) -> None:
        """Replace ``result.json``; raises `StorageError` if a second try fails, too."""
        content = json.dumps(payload, indent=2).encode("ascii") + b"\n"
        staging = staging_of(self.paths.result, self.farm)
        try:
            files.replace(self.paths.result, staging, content)
        except StorageError:
            # This farm has no claim any more: one that starts may have cleaned up.
            files.replace(self.paths.result, staging, content)

    def close(self) -> bool:
        """Write noted attempts and last counters, and leave the workdir.  Lock held.

        Remove the claim if it holds no task, and return whether.  Else the claim stays,
        and the next start reclaims its tasks.
        """
        with suppress(StorageError):
            self._timeline.close()
        with suppress(StorageError):
            self._attempts.append()
        return self._member.leave()


def find_begun_in(paths: WorkdirPaths) -> str:
    """Return the directory in which the commands ran first, "" if none is recorded.

    Raises `StorageError`.
    """
    begun = files.find_content(paths.begun_in) or b""
    return os.fsdecode(begun[:-1]) if begun.endswith(b"\n") else ""
