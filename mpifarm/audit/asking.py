"""Asking the farms of a workdir for something, and the wait for their answers.

Rules of this file: the request is appended under the lock, which is held for that
alone.  A farm that lives answers as soon as all is done; a farm that dies before has
done nothing for sure.
"""

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.requests import Answer, Request, RequestKind
from mpifarm.store.claim_journal import DamagedClaimError, Journal, parse_head
from mpifarm.store.claims import OtherClaim, assess_untaken, grasped
from mpifarm.store.farm_liveness import FarmLiveness, Machine
from mpifarm.store.held_file import Held, find_held, replace_held
from mpifarm.store.membership import FAMILY
from mpifarm.store.old_requests import drop_old_requests
from mpifarm.store.requests import AnswerInbox, Asked, append_request
from mpifarm.store.types import HeldLock
from mpifarm.system import files

LOCK_TIMEOUT = 60.0
"""Seconds that a command waits for the lock."""

LOOK_SECONDS = 0.1
"""Seconds between two looks for answers."""

ASSESS_SECONDS = 1.0
"""Seconds between two looks whether the asked farms live."""

_MAX_HEAD = 1 << 16
"""Bytes of a claim that have its first line."""

_ABOUT_HELD = frozenset({RequestKind.HOLD, RequestKind.RELEASE})


class LivingFarm(NamedTuple):
    """A farm that lives, or may; `heeds` says whether it knows of requests."""

    farm: str
    where: str
    liveness: FarmLiveness
    heeds: bool


class Outcome(NamedTuple):
    """What came of a request."""

    farms: tuple[LivingFarm, ...]
    """The farms that live."""
    answers: tuple[tuple[LivingFarm, Answer], ...]
    silent: tuple[LivingFarm, ...]
    """Farms that live and have not answered in time."""
    gone: tuple[LivingFarm, ...]
    """Farms that have ended or died without an answer."""


def ask(
    paths: WorkdirPaths, lock: HeldLock, machine: Machine, request: Request
) -> tuple[LivingFarm, ...]:
    """Ask all farms that live, and change what is held; return the farms.

    Raises `StorageError`.
    """
    with lock.hold(LOCK_TIMEOUT):
        farms = tuple(find_living(paths, machine))
        if request.kind in _ABOUT_HELD:
            # First: a farm that starts after the request has to know.
            held, _ = find_held(paths) or (Held(), "")
            replace_held(paths, held.after(request))
        if named := tuple(each.farm for each in farms if each.heeds):
            drop_old_requests(paths, time.time())
            try:
                append_request(paths, Asked(request, named))
            except StorageError as error:
                raise StorageError(f"{error}; {_explain_unasked(request)}") from error
    return farms


def _explain_unasked(request: Request) -> str:
    """Return what holds though no farm that works could be asked, with the remedy."""
    if request.kind not in _ABOUT_HELD:
        return "nothing was asked"
    return (
        f"farms that start from now on heed the {request.kind.value}, and those that"
        " work were not asked: give the same command again"
    )


def await_answers(
    paths: WorkdirPaths,
    machine: Machine,
    request: Request,
    farms: Sequence[LivingFarm],
    seconds: float,
) -> Outcome:
    """Wait for the answer of each farm that heeds requests, `seconds` at most.

    Raises `StorageError`.
    """
    inbox = AnswerInbox(paths)
    open_ = {each.farm[:FAMILY]: each for each in farms if each.heeds}
    answers: list[tuple[LivingFarm, Answer]] = []
    gone: list[LivingFarm] = []
    begun = time.monotonic()
    assess_at = begun + ASSESS_SECONDS

    def collect() -> None:
        for answered in inbox.poll():
            farm = open_.get(answered.farm[:FAMILY])
            if farm is not None and answered.answer.request == request.name:
                del open_[answered.farm[:FAMILY]]
                answers.append((farm, answered.answer))

    while True:
        collect()
        now = time.monotonic()
        if not open_ or now - begun >= seconds:
            break
        if now >= assess_at:
            assess_at = now + ASSESS_SECONDS
            dead = [name for name in open_ if not lives_on(paths, machine, name)]
            collect()  # its answer may be its last word
            gone += [open_.pop(name) for name in dead if name in open_]
        time.sleep(LOOK_SECONDS)
    return Outcome(tuple(farms), tuple(answers), tuple(open_.values()), tuple(gone))


# ---- which farms live ---------------------------------------------------------------


def find_living(paths: WorkdirPaths, machine: Machine) -> Iterable[LivingFarm]:
    """Yield the farms that live, or may.  Lock held.  Raises `StorageError`."""
    for name in sorted(files.find_names(paths.claims)):
        if name.startswith("."):
            continue
        claim = _read_head(paths, name)
        with grasped(claim, machine) as grasp:
            if grasp.liveness.may_live:
                head = claim.journal.head
                heeds = head is not None and head.requests > 0
                where = head.where if head else ""
                yield LivingFarm(name, where, grasp.liveness, heeds)


def lives_on(paths: WorkdirPaths, machine: Machine, family: str) -> bool:
    """Return whether a farm lives, or may, whichever rank leads it now.

    Without the lock.  Raises `StorageError`.
    """
    return any(
        assess_untaken(_read_head(paths, name), machine).may_live
        for name in files.find_names(paths.claims)
        if name.startswith(family)
    )


def _read_head(paths: WorkdirPaths, name: str) -> OtherClaim:
    """Return a claim of which only the first line was read: the rest may be long."""
    claim = OtherClaim(name, paths.claim(name), Journal(lambda _: True))
    line, newline, _ = files.find_start(claim.path, _MAX_HEAD).partition(b"\n")
    try:
        claim.journal.head = parse_head(line) if newline else None
    except DamagedClaimError as error:
        claim.damage = str(error)
    return claim
