"""Each start and each subcommand on a disk that fails at one call, or for a while.

Rules of this file: the plays and what must hold stand in `tests.fault.disk_faults`.
CI plays a fixed sample of the calls; ``FAULT_FULL=1`` (``make test-long``) all of them.
"""

import fcntl
import os
import signal
import time

import pytest

from tests.farm_driver import MPIFARM, assert_ends
from tests.fault.disk_faults import (
    KINDS,
    OPTIONS,
    PLAYS,
    WORKDIR,
    Theatre,
    farm,
    sample,
    strikes_of,
)
from tests.fault.faulty_disk import Fault, skip_without_fuse
from tests.support import wait_until

FULL = bool(os.environ.get("FAULT_FULL"))

pytestmark = pytest.mark.timeout(7200 if FULL else 180)

MOST = {"EIO": 6}
"""Strikes of a sample, for each play; 2 for the deeds that are not here."""

MAX_TOLD = 3


@pytest.fixture(scope="module")
def theatre(tmp_path_factory):
    skip_without_fuse()
    with Theatre(tmp_path_factory.mktemp("disks")) as theatre:
        yield theatre


@pytest.fixture(scope="module")
def calls(theatre):
    """The calls of each play on a sound disk."""
    return {name: theatre.find_calls(name) for name in PLAYS}


# ---- one call -----------------------------------------------------------------------


@pytest.mark.parametrize("deed", KINDS)
@pytest.mark.parametrize("play", PLAYS)
def test_one_call_that_fails_loses_nothing_and_is_no_mistake_of_the_users(
    theatre, calls, play, deed
):
    strikes = strikes_of(play, deed, calls[play])
    if not FULL:
        strikes = sample(strikes, MOST.get(deed, 2))
    wrong: list[str] = []
    missed = play_strikes(theatre, strikes, wrong)
    # What is done at the same time, or in one go, is another in each run.
    missed = play_strikes(theatre, missed, wrong)
    report = "\n".join(wrong[:MAX_TOLD])
    assert not wrong, f"{len(wrong)} of {len(strikes)} are wrong; the first:\n{report}"
    assert len(missed) <= len(strikes) * 0.3


def play_strikes(theatre, strikes, wrong):
    """Return those that met no call, and add to what is wrong."""
    missed = []
    for verdict in theatre.play_all(strikes):
        if not verdict.struck:
            missed.append(verdict.strike)
        if verdict.findings:
            wrong.append(f"=== {verdict.strike}: {verdict.findings}\n{verdict.said}")
    return missed


# ---- all calls ----------------------------------------------------------------------

UNREADABLE = {
    "finished": r"/finished$",
    "toprocess": r"/toprocess$",
    "fingerprint.json": r"/fingerprint.json$",
    "the listing of claims": r"/claims$",
    "the tasklist": r"/tasks.txt$",
    "the workdir": r"/tasks.txt_workdir$",
    "the lock": r"/lock$",
    "a dead claim": r"/claims/.",
}


GRACE = "0.5"

_STALE = ("finished", "the listing of claims")


@pytest.mark.parametrize(
    ("what", "deed"),
    [*((what, "EIO") for what in UNREADABLE), *((what, "ESTALE") for what in _STALE)],
)
def test_a_start_that_can_read_nothing_of_a_file_is_75_after_the_grace_time(
    theatre, what, deed
):
    with theatre.stage("dead") as (disk, place):
        reads = "getattr|open|opendir|read|readdir|access"
        disk.inject(Fault(reads, UNREADABLE[what], deed, count=0))
        begun = time.monotonic()
        status, said = place.run(*farm("--grace", GRACE))
        assert status == 75, said
        assert time.monotonic() - begun > float(GRACE)
        assert f"; trying again for {GRACE} s" in said
        assert said.count("\n") <= 3, said
        disk.heal()
        status, said = place.run(*farm())
        assert status == 0, said


@pytest.mark.parametrize(
    ("argv", "path"),
    [
        (("check", WORKDIR), r"/finished$"),
        (("check", "--repair", WORKDIR), r"/finished$"),
        (("retry", WORKDIR), r"/failed$"),
        (("log", WORKDIR, "0"), r"/logs/log_0$"),
    ],
)
def test_a_subcommand_that_can_read_nothing_of_a_file_is_75(theatre, argv, path):
    with theatre.stage("failed") as (disk, place):
        disk.inject(Fault("getattr|open|read", path, "EIO", count=0))
        status, said = place.run(*MPIFARM, *argv)
        assert status == 75, said
        assert "; trying again for 2 s" in said


def test_a_start_goes_on_when_the_disk_does(theatre):
    with theatre.stage("begun") as (disk, place):
        disk.inject(Fault("open", r"/finished$", "EIO", count=0))
        child = place.start(*farm("--grace", "30"))
        wait_until(disk.struck)
        disk.heal()
        assert_ends(child, 0)
        assert "the disk can be used again" in child.text()


def test_while_a_start_tries_again_others_get_the_lock(theatre):
    with theatre.stage("begun") as (disk, place):
        disk.inject(Fault("open", r"/finished$", "EIO", count=0))
        child = place.start(*farm("--grace", "1000"))
        wait_until(disk.struck)
        for _ in range(3):
            with (place.there / WORKDIR / "lock").open("rb+") as lock:
                wait_until(lambda: takes(lock))
                fcntl.flock(lock, fcntl.LOCK_UN)
        child.send_signal(signal.SIGTERM)
        assert_ends(child, 75)
        told = "stopped by a signal while the disk could not be used"
        assert told in child.text()


def takes(lock):
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_a_list_that_is_not_there_is_still_the_users_mistake(theatre):
    with theatre.stage("fresh") as (_, place):
        status, said = place.run(*MPIFARM, "no-list", *OPTIONS)
        assert status == 2
        assert "can't read the tasklist no-list" in said


def test_a_log_that_can_never_be_opened_fails_its_own_task_alone(theatre):
    with theatre.stage("begun") as (disk, place):
        disk.inject(Fault("open", r"/logs/log_5$", "EIO", count=0))
        status, said = place.run(*farm())
        assert status == 1, said
        assert place.ids("failed") == [5]
        assert "not run: can't write" in said
