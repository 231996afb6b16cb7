"""The self-test between ranks, under mpirun: it holds here, and its checks can fail.

Rules of this file: other hosts and their defects are stand-ins, put into each rank by
way of ``sitecustomize``: there a rank is a host of its own.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.farm_driver import send_signal
from tests.patience import PATIENT
from tests.support import Launch, find_launcher, find_pids, survivors, wait_until

RANK = """
import os
rank = os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK", "?")
"""

OWN_HOSTS = (
    RANK
    + """
import socket
socket.gethostname = lambda: "node" + rank
"""
)

LOCAL_FLOCK = (
    OWN_HOSTS
    + """
import fcntl
real_flock, real_close, shadows = fcntl.flock, os.close, {}
def flock(fd, operation):
    if operation & fcntl.LOCK_UN:
        return release(fd)
    path = os.readlink(f"/proc/self/fd/{fd}") + ".on." + rank
    shadow = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        real_flock(shadow, operation)
    except OSError:
        real_close(shadow)
        raise
    shadows[fd] = shadow
def release(fd):
    if fd in shadows:
        real_close(shadows.pop(fd))
def close(fd):
    release(fd)
    real_close(fd)
fcntl.flock, os.close = flock, close
"""
)
"""flock that excludes only what runs on the same host, as with Lustre's localflock."""

WRONG_CLOCK = (
    OWN_HOSTS
    + """
import time
real_utime = os.utime
def utime(file):
    when = time.time() - (100 if rank == "1" else 0)
    real_utime(file, (when, when))
os.utime = utime
"""
)

LATE_NAMES = (
    OWN_HOSTS
    + """
if rank == "1":
    real_open, left = os.open, iter(range(4))
    def open_what_was(path, flags, *mode, **others):
        stale = str(path).endswith("named.beside") and not flags & os.O_CREAT
        if stale and next(left, None) is not None:
            path = os.devnull
        return real_open(path, flags, *mode, **others)
    os.open = open_what_was
"""
)

DEAF = (
    RANK
    + """
if rank == "2":
    import signal
    real_signal = signal.signal
    def ignore_usr1(signum, handler):
        return real_signal(signum, signal.SIG_IGN if signum == 10 else handler)
    signal.signal = ignore_usr1
"""
)

SILENT = (
    RANK
    + """
if rank == "2":
    import socket, time
    socket.gethostname = lambda: time.sleep(11) or "late"
"""
)

IN_A_STEP = (
    RANK
    + """
import sys
site = os.path.dirname(__file__)
path = site + ":" + os.environ["PATH"]
os.environ.update(SLURM_JOB_ID="7", SLURM_STEP_ID="0", PATH=path)
if rank != "?":
    open(f"{site}/pid.{rank}", "w").write(f"{os.getpid()} ")
"""
)
"""A step of Slurm's, in which `scancel` is the one beside this file."""


class SelfTest:
    """Starts self-tests of some ranks in a directory, with a stand-in put into them."""

    def __init__(self, directory, start, mpirun, path):
        self.there = directory / "there"
        self.there.mkdir()
        self._site = directory / "site"
        self._site.mkdir()
        self._start, self._mpirun, self._path = start, mpirun, path

    def install_scancel(self, ranks):
        """Make a scancel that signals ranks, by a pattern of their numbers."""
        scancel = self._site / "scancel"
        scancel.write_text(f'#!/bin/sh\nkill -USR1 $(cat "${{0%/*}}"/pid.{ranks})\n')
        scancel.chmod(0o755)

    def __call__(self, *options, ranks=3, stand_in="", patience=30.0, launch=None):
        patient = f"{PATIENT}calls.PATIENCE_SECONDS = {patience}\n"
        (self._site / "sitecustomize.py").write_text(stand_in + patient)
        path = os.pathsep.join(filter(None, [str(self._site), self._path]))
        argv = [sys.executable, "-m", "mpifarm", "selftest", "--mpi", *options]
        launched = launch(argv) if launch else self._mpirun(ranks, *argv)
        launched.env["PYTHONPATH"] = path
        return self._start(launched, cwd=self.there)


@pytest.fixture
def selftest(tmp_path, farm_processes, farm_environment, mpirun):
    path = farm_environment.get("PYTHONPATH", "")
    return SelfTest(tmp_path, farm_processes, mpirun, path)


def lines_of(child, verdict):
    return [
        line.removeprefix(verdict).strip()
        for line in child.text().splitlines()
        if line.startswith(verdict + "  ")
    ]


def test_three_ranks_print_one_table_in_which_all_holds(selftest, farm_token):
    child = selftest()
    assert child.wait() == 0, child.text()
    assert child.text().count("All that mpifarm promises holds here.") == 1
    assert child.text().count("mpifarm selftest in") == 1
    assert lines_of(child, "does not hold") == []
    held = lines_of(child, "holds")
    assert any("with MPI" in line for line in held)
    assert any(line.startswith("flock between two processes") for line in held)
    # one host: that is told
    assert any(
        "several hosts" in line for line in lines_of(child, "could not be tested")
    )
    assert list(selftest.there.iterdir()) == []
    wait_until(lambda: not survivors(farm_token))


@pytest.mark.one_mpi
def test_each_other_host_is_compared_with_that_of_rank_0(selftest):
    child = selftest(stand_in=OWN_HOSTS)
    assert child.wait() == 0, child.text()
    assert "3 on 3 hosts: node0 (1), node1 (1), node2 (1)" in child.text()
    for rank in (1, 2):
        assert (
            f"flock between this process and rank {rank} on node{rank}" in child.text()
        )


ON_NODE_1 = "rank 1 on node1"

BROKEN = {
    "lock": (LOCAL_FLOCK, f"flock between this process and {ON_NODE_1}", "--lock-area"),
    "clock": (WRONG_CLOCK, f"heartbeats between this process and {ON_NODE_1}", "NTP"),
    "names": (LATE_NAMES, f"a name that was renamed is gone for {ON_NODE_1}", "lookup"),
    "signals": (DEAF, "USR1 reaches a rank that waits in its loop", "--timeout"),
}


@pytest.mark.parametrize(
    ("stand_in", "name", "remedy"),
    [
        pytest.param(
            *broken, marks=[] if id_ == "signals" else pytest.mark.one_mpi, id=id_
        )
        for id_, broken in BROKEN.items()
    ],
)
def test_what_does_not_hold_between_hosts_is_found(selftest, stand_in, name, remedy):
    child = selftest(stand_in=stand_in)
    assert child.wait() == 1, child.text()
    broken = lines_of(child, "does not hold")
    assert any(line.startswith(name) for line in broken), child.text()
    assert remedy in child.text()
    assert "not hold here:" in child.text()  # Open MPI has the last word
    assert list(selftest.there.iterdir()) == []


def test_a_rank_that_does_not_answer_is_told_and_the_others_are_tested(selftest):
    child = selftest(stand_in=SILENT, patience=8.0)
    assert child.wait() == 1, child.text()
    (broken,) = lines_of(child, "does not hold")
    assert broken.startswith("a rank answers: rank 2 did not answer")
    assert "ranks on several hosts: 2 on 1 host" in child.text()
    assert "messages: round trip of rank 0 and another" in child.text()
    assert "not hold here:" in child.text()


@pytest.mark.one_mpi
def test_node_local_locks_hold_on_each_node(selftest):
    child = selftest(ranks=2, stand_in=LOCAL_FLOCK)
    assert child.wait() == 1, child.text()
    held = lines_of(child, "holds")
    assert any("flock between two processes on this node" in it for it in held)


@pytest.mark.one_mpi
@pytest.mark.parametrize(
    ("ranks", "status", "line"),
    [
        ("*", 0, "by scancel, after"),
        ("0", 1, "by scancel; rank 1, 2 did not get it"),
    ],
)
def test_a_signal_to_the_step_is_tried_where_it_can_be_sent(
    selftest, ranks, status, line
):
    selftest.install_scancel(ranks)
    child = selftest(stand_in=IN_A_STEP)
    assert child.wait() == status, child.text()
    name = "USR1 to the launcher or the step reaches all ranks: "
    lines = lines_of(child, "does not hold" if status else "holds")
    assert any(each.startswith(name + line) for each in lines), child.text()


def test_ranks_that_do_not_see_each_other_are_found_with_the_remedy(
    selftest, farm_environment
):
    launcher = find_launcher()
    assert launcher is not None
    foreign = "OMPI_COMM_WORLD" if launcher.mpi == "MPICH" else "PMI"
    # the variables of another launcher than this MPI's own
    claimed = {f"{foreign}_SIZE": "2", f"{foreign}_RANK": "0"}
    env = {**farm_environment, **launcher.variables, **claimed}
    child = selftest(launch=lambda argv: Launch(argv, env))
    assert child.wait() == 1, child.text()
    (broken,) = lines_of(child, "does not hold")
    assert broken.startswith("MPI connects the ranks")
    assert "the mpirun of the MPI library that mpi4py uses" in child.text()
    # all else was tried nevertheless
    assert any(line.startswith("CPUs") for line in lines_of(child, "measured"))


@pytest.mark.one_mpi
def test_bad_input_is_told_once(selftest):
    child = selftest("no-such")
    assert child.wait() == 2, child.text()
    told = [line for line in child.text().splitlines() if line.startswith("mpifarm:")]
    assert len(told) == 1
    assert "no-such is not a directory" in told[0]


def test_the_loss_of_a_rank_ends_in_time_and_leaves_nothing(selftest, farm_token):
    child = selftest("--kill-a-rank", ranks=3)
    # what the launcher makes of it is its affair; that it does not hang is ours
    child.wait()
    assert "Now rank 2 is killed." in child.text()
    assert list(selftest.there.iterdir()) == []
    wait_until(lambda: not survivors(farm_token))


def test_where_mpi_tells_of_a_lost_rank_the_others_go_on(selftest, mpirun, farm_token):
    launcher = find_launcher()
    if launcher is None or launcher.mpi != "Open MPI":
        pytest.skip("only Open MPI 5 has ULFM")

    def with_ulfm(argv):
        launch = mpirun(4, *argv)
        launch.argv[1:1] = ["--with-ft", "ulfm"]
        return launch

    child = selftest("--kill-a-rank", launch=with_ulfm)
    assert child.wait() == 0, child.text()
    held = lines_of(child, "holds")
    assert any("rank 3 is gone; MPI tells of it after" in line for line in held)
    wait_until(lambda: not survivors(farm_token))


@pytest.mark.one_mpi
def test_two_ranks_are_too_few_to_kill_one(selftest):
    child = selftest("--kill-a-rank", ranks=2)
    assert child.wait() == 0, child.text()
    told = lines_of(child, "could not be tested")
    assert any(line.startswith("the loss of a rank: only 2") for line in told)


def ranks_of(token):
    """The pids of the ranks, and of what they have started."""
    names = (b"OMPI_COMM_WORLD_RANK=", b"PMI_RANK=")
    found = set()
    for pid in find_pids(token):
        with suppress(OSError):
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            if any(name in environ for name in names):
                found.add(pid)
    return found


def test_a_stop_in_mid_run_leaves_nothing(selftest, farm_token):
    child = selftest()
    wait_until(lambda: "MPI connects" in child.text() or child.has_ended())
    # To the ranks: after its own TERM, Open MPI's mpirun leaves them half a second.
    send_signal(ranks_of(farm_token), signal.SIGTERM)
    child.wait()
    wait_until(lambda: not survivors(farm_token))
    assert list(selftest.there.iterdir()) == []
