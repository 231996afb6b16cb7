"""A workdir is read for `checking`: whoever may read it can, and nothing is changed.

Rules of this file: it creates, touches and removes nothing, not even a lock file; what
can't be read is told, and the rest is read all the same.
"""

import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from mpifarm.errors import StorageError
from mpifarm.logfiles import DIRECTORIES
from mpifarm.workdir import files
from mpifarm.workdir.checking import ClaimView, Contents, Standing
from mpifarm.workdir.claims import (
    HEARTBEAT_LIMIT,
    DamagedClaimError,
    Journal,
    Life,
    Machine,
    OtherClaim,
    grasped,
    this_machine,
)
from mpifarm.workdir.outputs import list_kept_ids
from mpifarm.workdir.paths import WorkdirPaths, parse_beside
from mpifarm.workdir.timeline_file import is_valid_timeline

TRIES = 5
"""How often files are read without the lock until they stay the same meanwhile."""

_FARM = "[0-9a-f]{8,}"
_TEMPORARY = re.compile(
    rf"""(?: result\.json | fingerprint\.json | timeline (?:\.{_FARM})? \.json )
         \.(?P<farm>{_FARM})
       | timeline\.invalid\.(?P<farm_of_invalid>{_FARM})\.json\.new
       | [a-z.]+ \.repair
       | .+ \.before-repair-[0-9T-]+ \.new""",
    re.VERBOSE,
)
"""Names by which files are written beside, but for the new ``toprocess`` of a step."""
_FARM_ID = re.compile(_FARM)
_TIMELINE = re.compile(r"timeline(?:\.(?!invalid\.)[A-Za-z0-9_-]+)?\.json")


def observer() -> Machine:
    """This machine, for looking only: the clock of a file system would need a file."""
    return replace(this_machine(), read_file_clock=lambda _: time.time())


def examine(path: str, machine: Machine, *, locked: bool = True) -> Contents:
    """Read the workdir at `path`.

    `locked`: the caller holds the lock, or nobody can.  Without it, what is written
    meanwhile is read again, a few times.
    """
    paths = WorkdirPaths(os.path.abspath(path))
    contents = _Reader(paths, machine, locked=locked).read()
    for _ in range(0 if locked else TRIES):
        before, contents = contents, _Reader(paths, machine, locked=locked).read()
        if contents == before:
            break
    return contents


def list_logs(path: str) -> list[str] | None:
    """The names in the directory of the logs; None where it can't be listed.

    A task whose output is in another file there counts as if it had a ``log_<id>``.
    """
    logs = WorkdirPaths(path).logs
    try:
        names = os.listdir(logs)
    except FileNotFoundError:
        return []
    except OSError:
        return None
    if not {*DIRECTORIES}.isdisjoint(names):
        names += [f"log_{taskid}" for taskid in list_kept_ids(logs)]
    return names


def find_claim(path: str, machine: Machine, farm: str) -> ClaimView | None:
    """The claim of one farm, read without the lock; None where it has none."""
    return _Reader(WorkdirPaths(path), machine, locked=False).read_claim(farm)


class _Reader:
    """One reading of a workdir."""

    def __init__(self, paths: WorkdirPaths, machine: Machine, *, locked: bool) -> None:
        self._paths = paths
        self._machine = machine
        self._locked = locked
        self._unread: list[str] = []

    def read(self) -> Contents:
        """Read everything, in the order in which tasks move."""
        paths = self._paths
        toprocess = self._find_content(paths.toprocess)
        added = self._find_content(paths.added)
        claims = tuple(self._read_claims())
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
            claims,
            tuple(self._find_leftovers(names, farms)),
            tuple(name for name in names if self._is_invalid_timeline(name)),
            os.path.basename(paths.drain) in names,
            tuple(self._unread),
            self._locked,
            os.path.basename(paths.remap) in names,
        )

    def _find_content(self, path: str) -> bytes | None:
        try:
            return files.find_content(path)
        except StorageError as error:
            self._unread.append(str(error))
            return None

    def _list(self, directory: str) -> list[str]:
        try:
            return sorted(os.listdir(directory))
        except FileNotFoundError:
            return []
        except OSError as error:
            self._unread.append(f"can't read {directory}: {error.strerror}")
            return []

    # ---- claims ---------------------------------------------------------------------

    def _read_claims(self) -> Iterator[ClaimView]:
        for name in self._list(self._paths.claims):
            if name.startswith("."):
                continue
            claim = self.read_claim(name)
            if claim is not None:
                yield claim

    def read_claim(self, name: str) -> ClaimView | None:
        """The claim of that name; None where there is none."""

        def step_happened(step: int) -> bool:
            return not files.exists(self._paths.toprocess_beside(name, step))

        path, journal = self._paths.claim(name), Journal(step_happened)
        damage = None
        try:
            journal.feed(_read_regular(path))
        except FileNotFoundError:
            return None
        except DamagedClaimError as error:
            damage = str(error)
        except (OSError, StorageError) as error:
            self._unread.append(f"can't read {path}: {error}")
        head = journal.head
        claim = OtherClaim(name, path, journal, damage=damage)
        return ClaimView(
            name,
            f"on {head.host} (pid {head.pid})" if head else "",
            self._judge(claim),
            frozenset(journal.held),
            frozenset(journal.held) - journal.giving,
        )

    def _judge(self, claim: OtherClaim) -> Standing:
        """Its lock is tried only under the main lock: a farm that starts takes it."""
        if self._locked:
            try:
                with grasped(claim, self._machine) as (life, descriptor):
                    if descriptor >= 0 and life is not Life.UNPROVEN:
                        alive = life is Life.ALIVE
                        return Standing.AT_WORK if alive else Standing.DEAD
            except (StorageError, OSError) as error:
                self._unread.append(str(error))
                return Standing.UNSURE
        return self._judge_from_outside(claim)

    def _judge_from_outside(self, claim: OtherClaim) -> Standing:
        """By its process, if that is of this machine, and else by its heartbeat."""
        head, machine = claim.journal.head, self._machine
        if head is None:
            return Standing.UNSURE if claim.damage is None else Standing.DAMAGED
        gone = Standing.DEAD if claim.damage is None else Standing.DAMAGED
        if machine.boot_id and head.boot_id == machine.boot_id:
            start = machine.find_process_start(head.pid)
            at_work = start is not None and start == head.process_start
            return Standing.AT_WORK if at_work else gone
        with suppress(OSError):
            age = machine.read_file_clock("") - os.stat(claim.path).st_mtime
            return Standing.UNSURE if age <= HEARTBEAT_LIMIT else gone
        return Standing.UNSURE

    # ---- other files ----------------------------------------------------------------

    def _find_leftovers(self, names: list[str], farms: set[str]) -> Iterator[str]:
        for name in names:
            if beside := parse_beside(name):
                # Those of a claim go with it.
                known = beside[0] in farms or not _FARM_ID.fullmatch(beside[0])
            elif match := _TEMPORARY.fullmatch(name):
                known = not farms.isdisjoint(match.groups())
            else:
                continue
            if not known and self._is_left(name):
                yield name
        for name in self._list(self._paths.claims):
            if name.startswith(".clock.") and self._locked:
                yield f"claims/{name}"

    def _is_left(self, name: str) -> bool:
        """Whether nobody can be writing it just now."""
        if not name.startswith("result.json."):
            return self._locked
        # That one a farm writes last of all, without lock and claim.
        with suppress(OSError):
            modified = os.stat(f"{self._paths.root}/{name}").st_mtime
            return self._machine.read_file_clock("") - modified > HEARTBEAT_LIMIT
        return False

    def _is_invalid_timeline(self, name: str) -> bool:
        if not self._locked or not _TIMELINE.fullmatch(name):
            return False
        try:
            return not is_valid_timeline(f"{self._paths.root}/{name}")
        except FileNotFoundError:
            return False
        except OSError as error:
            self._unread.append(f"can't read {name}: {error.strerror}")
            return False


def _read_regular(path: str) -> bytes:
    """A file that strangers may have put there: no fifo and no link holds us up."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        with files.opened(path, flags) as descriptor:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return files.read_descriptor(descriptor, 0)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    raise DamagedClaimError("it is no file")
