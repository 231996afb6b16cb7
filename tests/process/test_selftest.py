"""The self-test: it holds here, and each of its checks can fail.

Rules of this file: a broken cluster is a stand-in for one system call.  Checks between
two ranks run in this process and a child of it, with a pair of sockets in place of MPI;
what the command makes of them is tried in a self-test of its own, into which the
stand-in is put by way of ``sitecustomize``.
"""

import errno
import fcntl
import os
import pickle
import select
import signal
import socket
import sys
import time
from contextlib import ExitStack, contextmanager
from importlib import util
from typing import Any, cast

import pytest

from mpifarm.commands.selftest import calls, command, node, sharing, storage
from mpifarm.commands.selftest.findings import (
    CheckResult,
    run_check,
)
from mpifarm.errors import InputError
from mpifarm.system import processes
from mpifarm.system.signals import SignalInbox
from tests.support import survivors, wait_until

# ---- between two ranks --------------------------------------------------------------


class PairComm:
    """A rank's connection to one other rank, over a pair of sockets."""

    size = 2
    survives_rank_loss = False

    def __init__(self, connection, other):
        self._connection, self._other = connection, other

    def send(self, _rank, message):
        self._connection.send(pickle.dumps(message))

    def has_message(self):
        return bool(select.select([self._connection], (), (), 0)[0])

    def receive(self):
        messages = []
        while self.has_message() and (content := self._connection.recv(1 << 16)):
            messages.append((self._other, pickle.loads(content)))
        return messages


@contextmanager
def running_rank():
    """Run rank 1 in a child, and be rank 0."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)

    def be_rank_1():
        ours.close()
        calls.serve(cast(Any, PairComm(theirs, 0)), SignalInbox(), None)

    pid = processes.fork_child(be_rank_1)
    theirs.close()
    try:
        comm = cast(Any, PairComm(ours, 1))
        rank = calls.Ranks(comm, SignalInbox()).others[1]
        rank.end()
        yield rank
    finally:
        processes.kill_process(pid, signal.SIGKILL)
        processes.reap_child(pid)
        ours.close()


@pytest.fixture
def stage(tmp_path, monkeypatch):
    for name in ("SCRATCH", "TMP", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    yield storage.Stage(str(tmp_path))
    storage.remove_locks()


@pytest.fixture
def start_rank():
    """Make the other rank, after the stand-in was put in place."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(running_rank())


def path_of(descriptor):
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    return os.readlink(f"/proc/self/fd/{number}")


def test_a_local_file_system_holds_what_two_ranks_rely_on(stage, start_rank):
    findings = [*sharing.check_shared(stage, start_rank())]
    assert len(findings) == 7
    for finding in findings:
        assert finding.result in (CheckResult.HOLDS, CheckResult.MEASURED), finding
        assert finding.follows == ""


def test_a_lock_that_excludes_nobody_is_found(stage, start_rank, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda _fd, _operation: None)
    finding = sharing.check_flock(stage, start_rank())
    assert finding.result is CheckResult.BROKEN
    assert "both held it at once" in finding.seen
    assert "--lock-area" in finding.follows


def test_a_lock_that_excludes_in_one_direction_only_is_found(
    stage, start_rank, monkeypatch
):
    child = start_rank()
    monkeypatch.setattr(fcntl, "flock", lambda _fd, _operation: None)
    finding = sharing.check_flock(stage, child)
    assert finding.result is CheckResult.BROKEN
    assert "both held it" in finding.seen or "one direction" in finding.seen


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_flock_is_found(stage, start_rank, monkeypatch, code):
    def refuse(_fd, _operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for finding in (
        run_check("flock", storage.check_lock, stage),
        sharing.check_flock(stage, start_rank()),
    ):
        assert finding.result is CheckResult.BROKEN
        assert "there is no file locking (flock)" in finding.seen
        assert "--lock-area" in finding.seen


def test_a_lock_area_that_excludes_makes_up_for_a_workdir_that_does_not(
    stage, tmp_path, start_rank, monkeypatch
):
    area = tmp_path / "area"
    area.mkdir()
    real = fcntl.flock

    def only_in_area(descriptor, operation):
        if path_of(descriptor).startswith(str(area)):
            real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", only_in_area)
    stage = stage._replace(lock_area=str(area))
    finding = sharing.check_flock(stage, start_rank())
    assert finding.result is CheckResult.HOLDS
    assert "both held it at once" in finding.seen
    assert str(area) in finding.follows


def test_a_lock_area_that_differs_does_no_harm_but_to_plain_farmers(
    stage, tmp_path, start_rank, monkeypatch
):
    areas = [tmp_path / "a", tmp_path / "b"]
    for area in areas:
        area.mkdir()
    monkeypatch.setenv("TMPDIR", str(areas[1]))
    child = start_rank()
    monkeypatch.setenv("TMPDIR", str(areas[0]))
    finding = sharing.check_flock(stage, child)
    assert finding.result is CheckResult.HOLDS
    assert f"flock in {areas[0]} does not exclude" in finding.seen
    assert "PyTaskFarmers" in finding.follows


def test_a_lock_area_of_one_alone_is_not_mistaken_for_the_workdirs(
    stage, tmp_path, start_rank, monkeypatch
):
    area = tmp_path / "a"
    area.mkdir()
    child = start_rank()
    monkeypatch.setenv("TMPDIR", str(area))
    finding = sharing.check_flock(stage, child)
    assert finding.result is CheckResult.HOLDS
    assert finding.follows == ""


def test_a_lock_excludes_and_is_free_when_its_holder_was_killed(stage):
    finding = storage.check_lock(stage)
    assert finding.result is CheckResult.HOLDS
    assert "after kill -9" in finding.seen


def test_a_workdir_without_flock_is_told_where_a_lock_area_makes_up_for_it(
    stage, tmp_path, monkeypatch
):
    area = tmp_path / "area"
    area.mkdir()
    real = fcntl.flock

    def only_in_area(descriptor, operation):
        if not path_of(descriptor).startswith(str(area)):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", only_in_area)
    finding = storage.check_lock(stage._replace(lock_area=str(area)))
    assert finding.result is CheckResult.HOLDS
    assert f"there is no flock for {tmp_path}/lock" in finding.follows
    assert "all farms must have the same lock area" in finding.follows


def test_a_lock_that_excludes_nobody_on_the_node_is_found(stage, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda _fd, _operation: None)
    finding = storage.check_lock(stage)
    assert finding.result is CheckResult.BROKEN
    assert "both held it at once" in finding.seen
    assert "--lock-area" in finding.follows


def test_a_lock_that_outlives_its_holder_is_found(stage, monkeypatch):
    held: dict[int, str] = {}
    real_close = os.close

    def release(descriptor):
        if descriptor in held:
            os.rmdir(held.pop(descriptor))

    def flock(descriptor, operation):
        if operation & fcntl.LOCK_UN:
            release(descriptor)
            return
        marker = path_of(descriptor) + ".held"
        try:
            os.mkdir(marker)
        except FileExistsError:
            raise BlockingIOError(errno.EAGAIN, "held") from None
        held[descriptor] = marker

    def close(descriptor):
        release(descriptor)
        real_close(descriptor)

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(os, "close", close)
    monkeypatch.setattr(storage, "FREE_SECONDS", 0.2)
    finding = storage.check_lock(stage)
    assert finding.result is CheckResult.BROKEN
    assert "still taken" in finding.seen


def test_a_reader_that_sees_old_files_is_found(stage, start_rank, monkeypatch):
    real = os.rename
    renamed: list[str] = []

    def rename_once(source, target):
        if not renamed:
            real(source, target)
        renamed.append(target)

    monkeypatch.setattr(os, "rename", rename_once)
    finding = sharing.check_rename(stage, start_rank())
    assert finding.result is CheckResult.BROKEN
    assert "version 0" in finding.seen


@pytest.mark.parametrize(("looks", "told"), [(3, "only after"), (10**9, "sees the")])
def test_an_old_name_that_stays_is_found(stage, start_rank, monkeypatch, looks, told):
    monkeypatch.setattr(sharing, "SEEN_SECONDS", 0.5)
    real, left = os.open, iter(range(looks))

    def open_what_was(path, flags, *mode):
        stale = path.endswith("named.beside") and not flags & os.O_CREAT
        if stale and next(left, None) is not None:
            path = os.devnull
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", open_what_was)
    finding = sharing.check_old_name(stage, start_rank())
    assert finding.result is CheckResult.BROKEN
    assert told in finding.seen


def test_appends_that_overwrite_each_other_are_told_and_are_no_promise_of_ours(
    stage, start_rank, monkeypatch
):
    real = os.open

    def open_without(path, flags, *mode):
        return real(path, flags & ~os.O_APPEND, *mode)

    monkeypatch.setattr(os, "open", open_without)
    finding = sharing.check_append_without_lock(stage, start_rank())
    assert finding.result is CheckResult.MEASURED
    assert "records are lost" in finding.seen
    assert ">> results" in finding.follows


def test_appends_under_the_lock_that_are_lost_are_found(stage, start_rank, monkeypatch):
    real = os.pwrite
    # as where each host has its own idea of the size of the file
    monkeypatch.setattr(os, "pwrite", lambda fd, text, _offset: real(fd, text, 0))
    finding = sharing.check_append(stage, start_rank())
    assert finding.result is CheckResult.BROKEN
    assert "records are lost" in finding.seen


@pytest.mark.parametrize("seconds", [-100, 100])
def test_clocks_that_differ_by_more_than_a_heartbeat_bears_are_found(
    stage, start_rank, monkeypatch, seconds
):
    child = start_rank()  # its clock is right
    real = os.utime

    def touch_wrongly(descriptor):
        when = time.time() + seconds
        real(descriptor, (when, when))

    monkeypatch.setattr(os, "utime", touch_wrongly)
    finding = sharing.check_heartbeat(stage, child)
    assert finding.result is CheckResult.BROKEN
    assert "NTP" in finding.follows


def test_an_answer_that_comes_too_late_is_not_the_next_ones(start_rank):
    rank = start_rank()
    rank.begin(os.getcwd)
    assert isinstance(rank.ask(time.time), float)


def test_a_rank_that_is_gone_is_an_error_and_no_hang(start_rank, monkeypatch):
    rank = start_rank()
    monkeypatch.setattr(calls, "PATIENCE_SECONDS", 0.3)
    rank.begin(os._exit, 0)
    with pytest.raises(calls.CallError, match="rank 1 did not answer"):
        rank.end()


def test_a_program_that_a_check_runs_is_waited_for():
    assert node.run_program(["/bin/sh", "-c", "sleep 0.1; echo told"]) == "told\n"


# ---- the command --------------------------------------------------------------------


class SelfTest:
    """Starts self-tests in a directory, with a stand-in put into them."""

    def __init__(self, directory, start, env):
        self.there = directory / "there"
        self.there.mkdir()
        self._site = directory / "site"
        self._site.mkdir()
        self._start, self._env = start, env

    def __call__(self, *options, stand_in=""):
        (self._site / "sitecustomize.py").write_text(stand_in)
        path = [str(self._site), self._env.get("PYTHONPATH", "")]
        env = {**self._env, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        argv = [sys.executable, "-m", "mpifarm", "selftest", *options]
        return self._start(argv, env=env, cwd=self.there)


@pytest.fixture
def selftest(tmp_path, farm_processes, farm_environment):
    return SelfTest(tmp_path, farm_processes, farm_environment)


def lines_of(child, verdict):
    return [
        line.removeprefix(verdict.value).strip()
        for line in child.text().splitlines()
        if line.startswith(verdict.value + "  ")
    ]


def test_all_holds_on_this_machine_and_nothing_stays(selftest, farm_token):
    child = selftest()
    assert child.wait() == 0, child.text()
    assert child.text().splitlines()[-1] == (
        "All that mpifarm promises holds here.  Not tested: ranks on several hosts."
    )
    assert len(lines_of(child, CheckResult.HOLDS)) == 3
    assert "srun -N 2 python -m mpifarm selftest --mpi" in child.text()
    assert list(selftest.there.iterdir()) == []
    wait_until(lambda: not survivors(farm_token))


def test_a_flock_that_does_not_exclude_makes_status_1(selftest, farm_token):
    child = selftest(stand_in="import fcntl\nfcntl.flock = lambda fd, op: None\n")
    assert child.wait() == 1, child.text()
    assert any(line.startswith("flock") for line in lines_of(child, CheckResult.BROKEN))
    assert "--lock-area" in child.text()
    assert "not hold here:" in child.text().splitlines()[-1]
    assert list(selftest.there.iterdir()) == []
    wait_until(lambda: not survivors(farm_token))


def test_the_lock_of_the_lock_area_is_tried_and_removed(selftest, tmp_path):
    area = tmp_path / "area"
    area.mkdir()
    child = selftest("--lock-area", str(area), stand_in=NO_FLOCK_IN_THERE)
    assert child.wait() == 0, child.text()
    flock = [line for line in child.text().splitlines() if "  flock between" in line]
    assert flock[0].startswith(CheckResult.HOLDS.value), flock
    assert list(area.iterdir()) == []


NO_FLOCK_IN_THERE = """
import fcntl, os
real = fcntl.flock
def flock(fd, operation):
    if "/there/" not in os.readlink(f"/proc/self/fd/{fd}"):
        real(fd, operation)
fcntl.flock = flock
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_selftest_that_is_stopped_leaves_nothing(selftest, farm_token, signum):
    child = selftest()
    wait_until(lambda: "fsync" in child.text() or child.has_ended())
    child.send_signal(signum)
    assert child.wait() in (75, 0), child.text()
    assert list(selftest.there.iterdir()) == []
    wait_until(lambda: not survivors(farm_token))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["no-such"], "no-such is not a directory"),
        (["--proc", "0"], "--proc 0"),
        (["--mpi"], "srun -N 2"),
        (["--kill-a-rank"], "needs --mpi"),
        (["--nonsense"], "--nonsense"),
        (["--lock-area", "no-such"], "no-such"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(selftest, options, told):
    child = selftest(*options)
    assert child.wait() == 2, child.text()
    assert told in child.text()
    assert len(child.text().splitlines()) == 1
    assert list(selftest.there.iterdir()) == []


def test_without_mpi4py_mpi_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match="pip install"):
        command.check_launch({"PMI_SIZE": "2", "PMI_RANK": "0"})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_is_bad_input(selftest):
    selftest.there.chmod(0o555)
    child = selftest()
    assert child.wait() == 2, child.text()
    assert "name one that you may write" in child.text()


def test_help_is_printed(selftest):
    child = selftest("--help")
    assert child.wait() == 0
    assert "--kill-a-rank" in child.text()
