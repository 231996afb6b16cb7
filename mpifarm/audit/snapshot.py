"""The reading of a workdir for an audit: nothing is changed.

Rules of this file: it creates, touches and removes nothing, not even a lock file; what
can't be read is noted, and the rest is read all the same.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from mpifarm.audit.audit import ClaimView, Contents
from mpifarm.errors import StorageError
from mpifarm.model.paths import (
    WorkdirPaths,
    is_clock_file,
    is_farm_id,
    is_result_staging,
    is_timeline,
    log_name,
    parse_queue_staging,
    parse_staging,
)
from mpifarm.output.reader import list_kept_ids
from mpifarm.output.records import DIRECTORIES
from mpifarm.store.attempts import (
    COMPLETED,
    Column,
    LastAttempts,
    is_not_run,
    read_last_attempts,
    why_never_run,
)
from mpifarm.store.claim_journal import DamagedClaimError, Journal
from mpifarm.store.claims import OtherClaim, assess_untaken, grasped
from mpifarm.store.farm_liveness import (
    HEARTBEAT_LIMIT,
    FarmLiveness,
    Machine,
    this_machine,
)
from mpifarm.store.timeline_file import is_valid_timeline
from mpifarm.system import files
from mpifarm.system.patience import is_of_the_disk
from mpifarm.system.regular_files import OddFileError

TRIES = 5
"""Readings without the lock, after the first, until two in a row are the same."""


def observer() -> Machine:
    """Return this machine with the local clock in place of the file system's.

    A reading must write nothing, and the file system's clock needs a file.
    """
    return replace(this_machine(), read_file_clock=lambda _: time.time())


def examine(path: str, machine: Machine, *, locked: bool = True) -> Contents:
    """Read the workdir at `path`; a file that cannot be read is noted in `unread`.

    `locked`: the caller holds the lock, or nobody can.  Without the lock, all is read
    again, up to `TRIES` times, until nothing has changed.
    """
    paths = WorkdirPaths(os.path.abspath(path))
    contents = _Reader(paths, machine, locked=locked).read()
    for _ in range(0 if locked else TRIES):
        before, contents = contents, _Reader(paths, machine, locked=locked).read()
        if contents == before:
            break
    return contents


def glance(path: str, machine: Machine) -> Contents:
    """Read the workdir at `path` once, without the lock: as `examine`, but cheaper.

    A task that moved back meanwhile, from a claim to ``toprocess``, may be in no file.
    """
    paths = WorkdirPaths(os.path.abspath(path))
    return _Reader(paths, machine, locked=False).read()


def list_logs(path: str, attempts: "WorkdirAttempts | None" = None) -> list[str] | None:
    """Return the names in the directory of the logs, None if they cannot be listed.

    A task whose output is in a file shared by tasks counts as if it had a ``log_<id>``,
    and so does one that no worker ever had, by the `attempts` of the workdir.
    Raises `StorageError` if the disk fails.
    """
    paths = WorkdirPaths(path)
    try:
        names = files.find_names(paths.logs)
    except StorageError as error:
        if is_of_the_disk(error):
            raise
        return None
    if not {*DIRECTORIES}.isdisjoint(names):
        names += [log_name(taskid) for taskid in list_kept_ids(paths.logs)]
    attempts = attempts or WorkdirAttempts(paths)
    names += map(log_name, attempts.find_never_run())
    return names


class Past(NamedTuple):
    """What ``attempts.tsv`` says of tasks that failed, and of tasks in no file."""

    not_run: int = 0
    """Failed tasks that no rank ever had, because a task that they wait for failed."""
    completed: tuple[int, ...] = ()
    """Tasks in no file whose last attempt has completed."""


class WorkdirAttempts:
    """The last attempts of a workdir, which are read when they are first asked for.

    Its methods raise `StorageError`.
    """

    def __init__(self, paths: WorkdirPaths) -> None:
        self._paths = paths

    @cached_property
    def _last(self) -> LastAttempts:
        return read_last_attempts(self._paths)

    def find_never_run(self) -> dict[int, str]:
        """Return, for each task that no worker ever had, why: see `why_never_run`."""
        if not files.find_size(self._paths.failed):
            return {}
        reasons = dict[int, str]()
        for taskids, columns in self._last.blocks([*self._last.lines]):
            found = map(why_never_run, columns[Column.OUTCOME], columns[Column.WORKER])
            reasons.update(zip(taskids, found, strict=True))
        return {taskid: why for taskid, why in reasons.items() if why}

    def find_past(self, failed: set[int], nowhere: set[int]) -> Past:
        """Return the past of failed tasks, and of tasks in no file."""
        if not failed | nowhere:
            return Past()

        def outcome_of(taskid: int) -> bytes:
            return self._last.field(taskid, Column.OUTCOME)

        return Past(
            sum(is_not_run(outcome_of(each)) for each in failed),
            tuple(each for each in sorted(nowhere) if outcome_of(each) == COMPLETED),
        )


def examine_whole(path: str, machine: Machine, *, locked: bool = True) -> Contents:
    """Read the workdir as `examine` does; raise `StorageError` if the disk fails."""
    contents = examine(path, machine, locked=locked)
    if contents.disk_failed:
        raise StorageError(contents.unread[0])
    return contents


def read_claims(path: str, machine: Machine) -> list[ClaimView]:
    """Read the claims of all farms of a workdir without the lock, and nothing else."""
    return [*_Reader(WorkdirPaths(path), machine, locked=False).read_claims()]


def find_claim(path: str, machine: Machine, farm: str) -> ClaimView | None:
    """Read the claim of one farm without the lock; return None without a claim."""
    return _Reader(WorkdirPaths(path), machine, locked=False).read_claim(farm)


class _Reader:
    """One reading of a workdir."""

    def __init__(self, paths: WorkdirPaths, machine: Machine, *, locked: bool) -> None:
        self._paths = paths
        self._machine = machine
        self._locked = locked
        self._unread: list[str] = []
        self._disk_failed = False

    def read(self) -> Contents:
        """Read all files, in the order in which tasks move on through them.

        So a task that moves on meanwhile is seen twice rather than never.
        """
        paths = self._paths
        toprocess = self._find_content(paths.toprocess)
        added = self._find_content(paths.added)
        waiting = self._find_content(paths.waiting)
        claims = tuple(self.read_claims())
        failed = self._find_content(paths.failed)
        finished = self._find_content(paths.finished)
        names = self._list(paths.root)
        farms = {claim.farm for claim in claims}
        return Contents(
            toprocess,
            finished,
            failed,
            self._find_content(paths.fingerprint),
            added,
            waiting,
            claims,
            tuple(self._find_leftovers(names, farms)),
            tuple(name for name in names if self._is_invalid_timeline(name)),
            os.path.basename(paths.drain) in names,
            tuple(self._unread),
            self._locked,
            os.path.basename(paths.remap) in names,
            self._disk_failed,
        )

    def _note_unread(self, error: OSError | StorageError, sentence: str = "") -> None:
        """Note an error, in its own words or a `sentence`, as a thing not read."""
        self._unread.append(sentence or str(error))
        self._disk_failed |= is_of_the_disk(error)

    def _find_content(self, path: str) -> bytes | None:
        try:
            return files.find_content(path)
        except StorageError as error:
            self._note_unread(error)
            return None

    def _list(self, directory: str) -> list[str]:
        try:
            return sorted(files.find_names(directory))
        except StorageError as error:
            self._note_unread(error)
            return []

    # ---- claims ---------------------------------------------------------------------

    def read_claims(self) -> Iterator[ClaimView]:
        """Yield the claims of all farms."""
        for name in self._list(self._paths.claims):
            if name.startswith("."):
                continue
            claim = self.read_claim(name)
            if claim is not None:
                yield claim

    def read_claim(self, name: str) -> ClaimView | None:
        """Return the claim of the farm `name`, None if that has no claim.

        A claim that cannot be read or understood has the tasks that were read of it.
        """

        def step_happened(step: int) -> bool:
            return not files.exists(self._paths.queue_staging(name, step))

        path, journal = self._paths.claim(name), Journal(step_happened)
        damage = None
        try:
            journal.feed(_read_regular(path))
        except FileNotFoundError:
            return None
        except DamagedClaimError as error:
            damage = str(error)
        except (OSError, StorageError) as error:
            self._note_unread(error, f"can't read {path}: {error}")
        head = journal.head
        claim = OtherClaim(name, path, journal, damage=damage)
        return ClaimView(
            name,
            head.where if head else "",
            self._assess(claim),
            frozenset(journal.held),
            frozenset(journal.held) - journal.giving,
        )

    def _assess(self, claim: OtherClaim) -> FarmLiveness:
        # A farm that starts takes the lock of its claim under the main lock: without
        # that one, a try of ours could make it fail.
        if not self._locked:
            return assess_untaken(claim, self._machine)
        try:
            with grasped(claim, self._machine) as grasp:
                return grasp.liveness
        except (StorageError, OSError) as error:
            self._note_unread(error)
            return FarmLiveness.UNCERTAIN

    # ---- other files ----------------------------------------------------------------

    def _find_leftovers(self, names: list[str], farms: set[str]) -> Iterator[str]:
        for name in names:
            if step := parse_queue_staging(name):
                # Staging files of a claim go when the claim goes.
                known = step[0] in farms or not is_farm_id(step[0])
            elif (named := parse_staging(name)) is not None:
                known = not farms.isdisjoint(named)
            else:
                continue
            if not known and self._is_left(name):
                yield name
        for name in self._list(self._paths.claims):
            if is_clock_file(name) and self._locked:
                path = f"{self._paths.claims}/{name}"
                yield os.path.relpath(path, self._paths.root)

    def _is_left(self, name: str) -> bool:
        """Return whether no farm can be writing a temporary file just now.

        Without the lock, no file is sure to be left but an old one of ``result.json``.
        """
        if not is_result_staging(name):
            return self._locked
        # A farm writes its result last of all, without lock and claim.
        with suppress(OSError):
            modified = os.stat(self._paths.file(name)).st_mtime
            return self._machine.read_file_clock("") - modified > HEARTBEAT_LIMIT
        return False

    def _is_invalid_timeline(self, name: str) -> bool:
        if not self._locked or not is_timeline(name):
            return False
        try:
            return not is_valid_timeline(self._paths.file(name))
        except FileNotFoundError:
            return False
        except OSError as error:
            self._note_unread(error, f"can't read {name}: {error.strerror}")
            return False


def _read_regular(path: str) -> bytes:
    """Read a file; raises `DamagedClaimError` for a link or a fifo, else OSError."""
    try:
        return files.read_from(path)
    except OddFileError as error:
        raise DamagedClaimError("it is no file") from error
