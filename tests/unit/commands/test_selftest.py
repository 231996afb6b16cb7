"""The self-test's checks and words, with another rank that is a stand-in.

Rules of this file: no process and no MPI.  `tests/process/test_selftest.py` has the
same checks between two processes, and the command as a whole.
"""

import dataclasses
import errno
import os
import signal
import statistics
import time
from typing import Any, cast

import pytest

from mpifarm.batch import launcher
from mpifarm.commands.doctor import command as doctor
from mpifarm.commands.selftest import calls, command, node, ranks, sharing, storage
from mpifarm.commands.selftest.calls import (
    CallError,
    Leave,
    Question,
    Rank,
    Ranks,
    Reply,
)
from mpifarm.commands.selftest.findings import (
    CheckResult,
    RankFindings,
    SelfTestFinding,
    conclude,
    holds,
    in_words,
    measured,
    merge,
    run_check,
    untested,
)
from mpifarm.errors import FutileError, InputError, StorageError
from mpifarm.model.settings import Settings
from mpifarm.system import cpus, files, processes
from mpifarm.system.signals import SignalInbox
from mpifarm.transport import mpi


class Neighbour:
    """A rank on another host that sees the same files, unless `stand_ins` differ."""

    def __init__(self, **stand_ins):
        self.name = "rank 1 on b"
        self._stand_ins = stand_ins
        self.asked = []

    def ask(self, function, *arguments):
        self.asked.append(function.__name__)
        return self._stand_ins.get(function.__name__, function)(*arguments)

    def begin(self, function, *arguments):
        self.ask(function, *arguments)

    def end(self):
        return None


def neighbour(**stand_ins) -> Any:
    return Neighbour(**stand_ins)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    for name in ("SCRATCH", "TMP", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    yield storage.Stage(str(tmp_path))
    for lock in storage._locks.values():
        lock.release()
    storage.remove_locks()


@pytest.fixture
def impatient(monkeypatch):
    """Let no stand-in be waited for."""
    monkeypatch.setattr(sharing, "SEEN_SECONDS", 0.0)
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.0)


# ---- between two ranks --------------------------------------------------------------


class Locks:
    """Locks of two ranks: `excluding` are the files whose lock keeps the other out."""

    def __init__(self, *excluding, deaf=(), sticky=(), one_way=()):
        self._excluding, self._deaf = excluding, deaf
        self._sticky, self._one_way = sticky, one_way
        self._held = {}

    def take_as(self, who):
        def take(paths, _seconds):
            (path,) = paths
            if path in self._deaf or (path in self._sticky and who == "b"):
                return False
            others = self._held.get(path, {who}) - {who}
            excludes = path in self._excluding and not (
                who == "a" and path in self._one_way
            )
            if others and excludes:
                return False
            self._held.setdefault(path, set()).add(who)
            return True

        take.__name__ = "take"
        return take

    def release_as(self, who):
        def release(paths):
            self._held.get(paths[0], set()).discard(who)

        release.__name__ = "release"
        return release

    @property
    def held(self):
        return {path for path, holders in self._held.items() if holders}


def check_flock(stage, monkeypatch, locks):
    ours, theirs = locks.take_as("a"), locks.take_as("b")
    release_ours, release_theirs = locks.release_as("a"), locks.release_as("b")
    monkeypatch.setattr(sharing, "take", ours)
    monkeypatch.setattr(sharing, "release", release_ours)
    other = neighbour(take=theirs, release=release_theirs)
    finding = sharing.check_flock(stage, other)
    assert not locks.held
    return finding


def lock_files(stage):
    *area, own = stage.lock_files()
    return own, area


def test_a_lock_that_keeps_the_other_out_holds(stage, monkeypatch):
    own, _ = lock_files(stage)
    finding = check_flock(stage, monkeypatch, Locks(own))
    assert finding.result is CheckResult.HOLDS
    assert finding.seen == "the holder of the lock keeps the other out"
    assert finding.follows == ""


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ({}, "does not exclude: both held it at once"),
        ({"deaf": True}, "can't be taken at all"),
        ({"sticky": True}, "stays taken after its release"),
        ({"one_way": True}, "excludes in one direction only"),
    ],
)
def test_what_is_wrong_with_a_lock_is_told(stage, monkeypatch, faults, told):
    own, _ = lock_files(stage)
    excluding = (own,) if faults else ()
    locks = Locks(*excluding, **dict.fromkeys(faults, (own,)))
    finding = check_flock(stage, monkeypatch, locks)
    assert finding.result is CheckResult.BROKEN
    assert finding.seen == f"flock in {stage.directory} {told}"
    assert finding.follows == storage.LOCK_REMEDY


@pytest.mark.parametrize("has_area", [True, False])
def test_one_of_two_locks_that_excludes_is_enough(
    stage, tmp_path, monkeypatch, has_area
):
    area = tmp_path / "area"
    area.mkdir()
    stage = stage._replace(lock_area=str(area))
    own, (in_area,) = lock_files(stage)
    excluding = in_area if has_area else own
    finding = check_flock(stage, monkeypatch, Locks(excluding))
    assert finding.result is CheckResult.HOLDS
    fails = stage.directory if has_area else str(area)
    assert finding.seen == f"flock in {fails} does not exclude: both held it at once"
    assert ("the lock that excludes is in" in finding.follows) is has_area
    assert ("PyTaskFarmers" in finding.follows) is not has_area
    assert str(area) in finding.follows


def test_an_error_at_a_lock_is_what_is_wrong_with_it(stage, monkeypatch):
    def fail(_paths, _seconds):
        raise FutileError("no flock here")

    monkeypatch.setattr(sharing, "take", fail)
    finding = sharing.check_flock(stage, neighbour())
    assert (finding.result, finding.seen) == (CheckResult.BROKEN, "no flock here")


def test_what_two_ranks_see_alike_holds(stage):
    other = neighbour()
    for check, seen in (
        (sharing.check_rename, "10 times of 10"),
        (sharing.check_old_name, "at once"),
        (sharing.check_append, "all 100 records are there, whole"),
    ):
        finding = check(stage, other)
        assert (finding.result, finding.seen, finding.follows) == (
            CheckResult.HOLDS,
            seen,
            "",
        )
    assert other.asked.count("read_locked") == sharing.ROUNDS
    watched = sharing.check_time_until_seen(stage, other)
    assert (watched.result, watched.follows) == (CheckResult.MEASURED, "")
    assert watched.seen.startswith("after ")
    without = sharing.check_append_without_lock(stage, other)
    assert (without.result, without.seen) == (
        CheckResult.MEASURED,
        "all 100 records are there, whole",
    )
    assert (os.stat(stage.path("append_locked")).st_size) == 2 * (10 * 4 + 40 * 5)


def test_a_reader_of_old_files_breaks_the_promise(stage):
    finding = sharing.check_rename(stage, neighbour(read_locked=lambda *_: b"old\n"))
    assert finding.result is CheckResult.BROKEN
    assert finding.seen == "it read b'old\\n' for b'version 0\\n'"
    assert "runs tasks twice" in finding.follows


def test_a_new_name_that_is_not_seen_breaks_the_promise(stage):
    finding = sharing.check_old_name(stage, neighbour(exists=lambda _: False))
    assert finding.seen == "it doesn't see the new file"
    assert finding.result is CheckResult.BROKEN


def test_an_old_name_that_stays_is_told(stage, impatient):
    finding = sharing.check_old_name(stage, neighbour(exists=lambda _: True))
    assert finding.seen == "it sees the old name after 0 s"
    assert finding.result is CheckResult.BROKEN
    assert "lookupcache=none" in finding.follows


def test_an_old_name_that_goes_later_is_told_with_the_time(stage):
    answers = iter([True, True, True, False])
    finding = sharing.check_old_name(stage, neighbour(exists=lambda _: next(answers)))
    assert finding.seen.startswith("only after ")
    assert finding.result is CheckResult.BROKEN


def test_a_file_that_is_seen_as_it_was_is_told(stage, impatient):
    old = neighbour(find_content=lambda _: b"old\n")
    finding = sharing.check_time_until_seen(stage, old)
    assert finding.result is CheckResult.MEASURED
    assert finding.seen == "not within 0 s (attributes are cached)"
    assert "drain" in finding.follows


def test_records_that_are_lost_and_torn_are_counted(stage):
    def append(_stage, path, records):
        with open(path, "ab") as file:
            file.write(b"".join(records[3:]) + b"odd")

    finding = sharing.check_append_without_lock(stage, neighbour(append=append))
    assert finding.result is CheckResult.MEASURED
    assert finding.seen == "4 of 100 records are lost, 1 lines are torn"
    assert ">> results" in finding.follows

    def lose(_stage, _path, _records):
        return None

    finding = sharing.check_append(stage, neighbour(append_locked=lose))
    assert finding.result is CheckResult.BROKEN
    assert finding.seen == "50 of 100 records are lost, 0 lines are torn"
    assert "results of tasks would be lost" in finding.follows


@pytest.mark.parametrize(
    ("seconds", "result"),
    [
        (-20.5, CheckResult.BROKEN),
        (-19.0, CheckResult.HOLDS),
        (19.0, CheckResult.HOLDS),
        (20.5, CheckResult.BROKEN),
    ],
)
def test_a_heartbeat_that_looks_old_or_from_the_future_is_told(stage, seconds, result):
    finding = sharing.check_heartbeat(stage, neighbour(age=lambda _: seconds))
    assert finding.result is result
    assert finding.seen == f"a fresh one looks {seconds:.2f} s old"
    assert ("60 s" in finding.follows and "NTP" in finding.follows) is (
        result is CheckResult.BROKEN
    )


def test_the_other_rank_s_heartbeat_counts_as_well(stage):
    def touch(path):
        os.utime(path, (0, time.time() - 100))

    finding = sharing.check_heartbeat(stage, neighbour(touch=touch))
    assert finding.result is CheckResult.BROKEN
    assert 99 < float(finding.seen.split()[4]) < 130


def test_each_pair_has_files_of_its_own_and_each_check_its_name(stage, monkeypatch):
    seen = []

    def check(stage, _other):
        seen.append(os.path.basename(stage.directory))
        return holds("fine")

    monkeypatch.setattr(
        sharing, "_CHECKS", {"a {}": check, "between this one and {}": check}
    )
    findings = [*sharing.check_shared(stage, neighbour())]
    assert [each.name for each in findings] == [
        "a rank 1 on b",
        "between this one and rank 1 on b",
    ]
    assert seen == ["with-rank-1-on-b"] * 2
    assert [*sharing.check_shared(stage, neighbour())] == findings


# ---- one node -----------------------------------------------------------------------


def test_one_node_is_checked_for_files_locks_and_space(stage, monkeypatch):
    assert {name: check.__name__ for name, check in storage.CHECKS.items()} == {
        "file system": "check_mount",
        "free space": "check_room",
        "fsync": "check_fsync",
        "flock between two processes on this node": "check_lock",
    }
    asked = []

    def check(stage):
        asked.append(stage)
        return holds("seen")

    monkeypatch.setattr(storage, "CHECKS", dict.fromkeys(["a", "b"], check))
    found = [(each.name, each.seen) for each in storage.check_alone(stage)]
    assert found == [("a", "seen"), ("b", "seen")]
    assert asked == [stage, stage]


@pytest.mark.parametrize(
    ("seconds", "words", "is_slow"),
    [(0.002, "2 ms", False), (0.05, "50 ms", False), (0.06, "60 ms", True)],
)
def test_a_slow_fsync_is_told_with_what_follows(
    stage, monkeypatch, seconds, words, is_slow
):
    clock = iter(number * seconds for number in range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(
        storage, "median", lambda values: round(statistics.median(values), 6)
    )
    monkeypatch.setattr(files, "append", lambda *_, **__: 0)
    finding = storage.check_fsync(stage)
    assert finding.seen == f"works; median {words}, longest {words}"
    assert bool(finding.follows) is is_slow
    assert finding.weight == seconds


def test_each_fsync_is_of_a_record(stage):
    storage.check_fsync(stage)
    with open(stage.path("synced"), encoding="ascii") as file:
        assert [*map(int, file)] == [*range(20)]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0123456, "12.3 ms"), (0.999, "999 ms"), (1.0, "1.0 s"), (2.25, "2.2 s")],
)
def test_a_time_is_told_in_ms_or_s(seconds, words):
    assert storage.in_ms(seconds) == words


MIB = 1 << 20


@pytest.mark.parametrize(
    ("free", "inodes", "result"),
    [
        (100 * MIB, 1000, CheckResult.HOLDS),
        (99 * MIB, 1000, CheckResult.BROKEN),
        (100 * MIB, 999, CheckResult.BROKEN),
        (100 * MIB, None, CheckResult.HOLDS),
    ],
)
def test_too_little_space_is_told(stage, monkeypatch, free, inodes, result):
    class Status:
        f_frsize = 4096
        f_bavail = free // 4096
        f_files = 0 if inodes is None else 10**6
        f_favail = inodes or 0

    monkeypatch.setattr(os, "statvfs", lambda _path: Status)
    finding = storage.check_room(stage)
    assert finding.result is result
    assert finding.seen.startswith("0.1 GiB")
    assert (f", {inodes} files;" in finding.seen) is (inodes is not None)
    assert "1 MiB written" in finding.seen
    assert os.stat(stage.path("room")).st_size == MIB


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_one_thing(stage, monkeypatch, number):
    def refuse(path, *_, **__):
        raise StorageError(f"can't write {path}: full") from OSError(number, "full")

    monkeypatch.setattr(files, "write_staging_file", refuse)
    monkeypatch.setattr(files, "append", refuse)
    room, sync = storage.check_room(stage), storage.check_fsync(stage)
    assert room.result is CheckResult.BROKEN
    assert "; 1 MiB can't be written (quota -s" in room.seen
    assert sync == untested("the disk is full", storage.FULL_REMEDY)
    assert room.follows == storage.FULL_REMEDY


def test_a_disk_that_fails_otherwise_is_told_in_its_words(stage, monkeypatch):
    def fail(path, *_, **__):
        raise StorageError(f"can't write {path}: Input/output error") from OSError(5)

    monkeypatch.setattr(files, "write_staging_file", fail)
    monkeypatch.setattr(files, "append", fail)
    found = {each.name: each for each in storage.check_alone(stage)}
    for name in ("free space", "fsync"):
        assert found[name].result is CheckResult.BROKEN
        assert "Input/output error" in found[name].seen


def test_a_lock_that_others_hold_is_not_taken(stage, monkeypatch):
    class Lock:
        paths = ()
        seconds = None

        def probe(self):
            pass

        def acquire(self, seconds):
            Lock.seconds = seconds
            raise FutileError("held")

    monkeypatch.setattr(storage, "WorkdirLock", lambda _paths: Lock())
    assert storage.take(("a",), 0.3) is False
    assert Lock.seconds == 0.3
    storage._locks.clear()


def test_lock_files_are_made_once_and_removed(stage):
    paths = stage.lock_files()
    assert storage.take(paths, 1.0)
    assert storage.find_lock(paths) is storage.find_lock(paths)
    storage.release(paths)
    storage.release(("nobody's",))
    assert all(map(os.path.exists, paths))
    storage.remove_locks()
    assert not any(map(os.path.exists, paths))


def test_an_fsync_that_fails_is_found(stage, monkeypatch):
    def fail(_descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    finding = run_check("fsync", lambda: storage.check_fsync(stage))
    assert finding.result is CheckResult.BROKEN
    assert os.strerror(errno.EIO) in finding.seen


# ---- the mounts ---------------------------------------------------------------------

MOUNTS = """\
tmpfs /scratch/inner tmpfs rw 0 0
/dev/sda1 / ext4 rw,relatime 0 0
10.0.0.1@o2ib:/scratch /scratch lustre rw,nosuid,{lustre} 0 0
server:/home /home nfs4 rw,vers=4.2,{nfs} 0 0
beegfs_nodev /with\\040blank beegfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/scratch/me/list", "lustre"),
        ("/scratch2", "ext4"),
        ("/home", "nfs4"),
        ("/with blank/x", "beegfs"),
        ("/scratch/inner/x", "tmpfs"),
    ],
)
def test_the_mount_of_a_path_is_the_longest_that_holds_it(path, kind):
    found = storage.find_mount(path, MOUNTS.format(lustre="flock", nfs="hard"))
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize(
    ("path", "lustre", "nfs", "told"),
    [
        ("/scratch", "localflock", "hard", "without flock"),
        ("/scratch", "flock,lazystatfs", "hard", ""),
        ("/home", "flock", "local_lock=all", "on one node only"),
        ("/home", "flock", "nolock", "on one node only"),
        ("/home", "flock", "local_lock=none", ""),
        ("/with blank", "flock", "hard", "tuneUseGlobalFileLocks"),
    ],
)
def test_mount_options_that_make_locks_local_are_told(path, lustre, nfs, told):
    found = storage.find_mount(path, MOUNTS.format(lustre=lustre, nfs=nfs))
    assert found is not None
    warning = storage.warn_of_mount(found)
    assert told in warning
    assert bool(warning) == bool(told)


# ---- in words -----------------------------------------------------------------------


def test_of_several_ranks_the_worst_finding_is_told_with_its_host():
    good = SelfTestFinding(CheckResult.HOLDS, "fine", weight=1, name="x")
    bad = SelfTestFinding(CheckResult.BROKEN, "not fine", name="x")
    slow = SelfTestFinding(CheckResult.HOLDS, "slow", weight=2, name="x")
    told = merge({0: RankFindings("a", [good]), 1: RankFindings("b", [bad])})
    assert [each.result for each in told] == [CheckResult.BROKEN]
    assert "rank 1 on b, the worst of 2" in in_words(told[0])
    (told_slow,) = merge({0: RankFindings("a", [good]), 1: RankFindings("b", [slow])})
    assert told_slow.seen.startswith("slow (rank 1")
    (same,) = merge({0: RankFindings("a", [good]), 1: RankFindings("b", [good])})
    assert same.seen == "fine (on all 2 ranks)"


def test_the_conclusion_counts_what_is_broken_and_names_it():
    fine = SelfTestFinding(CheckResult.HOLDS, "", name="a")
    broken = [SelfTestFinding(CheckResult.BROKEN, "", name=name) for name in "bc"]
    assert conclude([fine]) == "All that mpifarm promises holds here."
    assert conclude([fine, *broken]) == "2 of our promises do not hold here: b; c."
    assert "1 of our promises does not" in conclude(broken[:1])
    assert "Not tested: d" in conclude(
        [SelfTestFinding(CheckResult.UNTESTED, "", name="d")]
    )


# ---- between ranks, by messages -----------------------------------------------------


class Comm:
    """A connection whose messages are scripted; `survives_rank_loss` as MPI's."""

    def __init__(self, size=3, incoming=(), *, survives=False):
        self.size = size
        self.sent = []
        self.survives_rank_loss = survives
        self.flushed = None
        self._incoming = [*incoming]
        self.losses = []

    def send(self, rank, message):
        self.sent.append((rank, message))

    def has_message(self):
        return True

    def receive(self):
        return self._incoming.pop(0) if self._incoming else []

    def flush(self, seconds):
        self.flushed = seconds

    def take_losses(self):
        return self.losses


def make_comm(*arguments, **options) -> Any:
    return Comm(*arguments, **options)


@pytest.fixture
def inbox():
    calls._signals_seen.clear()
    yield SignalInbox()
    calls._signals_seen.clear()


def test_a_rank_answers_until_it_may_leave(inbox):
    asked = [(0, Question(1, max, (3, 4)))]
    comm = make_comm(2, [asked, [], [(0, Leave(can_finalize=True))]])
    assert calls.serve(comm, inbox, "found") is True
    assert comm.sent == [(0, Reply(0, "found")), (0, Reply(1, 4))]
    assert calls.serve(make_comm(2, [[(0, Leave(can_finalize=False))]]), inbox, 0) is (
        False
    )


def test_an_error_of_a_function_is_the_answer(inbox):
    def fail(error):
        raise error

    for error, words in ((InputError("wrong"), "wrong"), (OSError("gone"), "gone")):
        asked = [(0, Question(7, fail, (error,)))]
        comm = make_comm(2, [asked, [(0, Leave(can_finalize=True))]])
        calls.serve(comm, inbox, None)
        assert comm.sent[1] == (0, Reply(7, None, words))


def test_a_rank_that_nobody_asks_leaves(inbox, monkeypatch):
    monkeypatch.setattr(calls, "SILENT_SECONDS", 0.0)
    assert calls.serve(make_comm(2), inbox, None) is False


def test_signals_that_come_while_a_rank_answers_are_counted(inbox):
    inbox._received.append(signal.SIGUSR1)
    comm = make_comm(2, [[(0, Leave(can_finalize=True))]])
    calls.serve(comm, inbox, None)
    assert calls.count_signals() == 1


def test_an_answer_to_an_earlier_question_is_not_taken(inbox, monkeypatch):
    late, right = (1, Reply(1, "late")), (1, Reply(2, "right"))
    comm = make_comm(2, [[late], [right]])
    rank = Ranks(comm, inbox).others[1]
    rank.begin(time.time)
    rank.begin(os.getcwd)
    assert rank.end() == "right"
    assert [message.number for _, message in comm.sent] == [1, 2]
    monkeypatch.setattr(calls, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(CallError, match=r"^rank 1 did not answer$"):
        rank.ask(time.time)


def test_the_error_of_a_rank_names_it(inbox):
    rank = Ranks(make_comm(2, [[(1, Reply(1, None, "no disk"))]]), inbox).others[1]
    with pytest.raises(CallError, match=r"^rank 1: no disk$"):
        rank.ask(os.getcwd)


@pytest.mark.parametrize(
    ("lost", "survives", "can_finalize"),
    [(None, False, True), (2, False, False), (2, True, True)],
)
def test_all_ranks_but_the_lost_one_are_let_go(inbox, lost, survives, can_finalize):
    comm = make_comm(3, survives=survives)
    assert Ranks(comm, inbox).leave(lost) is can_finalize
    expected = [1, 2] if lost is None else [1]
    assert comm.sent == [(rank, Leave(can_finalize)) for rank in expected]
    assert comm.flushed == calls.PATIENCE_SECONDS


def test_what_each_rank_finds_is_collected_with_its_host(inbox, monkeypatch):
    monkeypatch.setattr(calls, "PATIENCE_SECONDS", 0.01)
    found = RankFindings("b", (holds("fine"),))
    all_ranks = Ranks(make_comm(3, [[(1, Reply(0, found))]]), inbox)
    own = RankFindings("a", ())
    collected = ranks._collect(all_ranks, own)
    assert (collected[0], collected[1]) == (own, found)
    assert all_ranks.others[1].name == "rank 1 on b"
    assert collected[2].host == ranks.NO_HOST
    (silent,) = collected[2].findings
    assert silent.result is CheckResult.BROKEN
    assert (silent.name, silent.seen) == ("a rank answers", "rank 2 did not answer")


@pytest.mark.parametrize(
    ("hosts", "chosen"),
    [
        ({0: "a", 1: "a", 2: "b", 3: "c", 4: "b"}, [2, 3]),
        ({0: "a"}, []),
        ({number: f"n{number}" for number in range(9)}, [1, 2, 3, 4]),
    ],
)
def test_the_first_rank_of_each_other_host_is_compared_with(hosts, chosen):
    assert ranks.choose_partners(hosts) == chosen


def test_hosts_are_told_with_their_ranks():
    several = ranks.check_hosts(["b", "a", "b"])
    assert several.result is CheckResult.MEASURED
    assert (several.name, several.seen) == ("ranks", "3 on 2 hosts: a (1), b (2)")
    one = ranks.check_hosts(["a", "a"])
    assert one.result is CheckResult.UNTESTED
    assert (one.name, one.seen) == ("ranks on several hosts", "2 on 1 host: a (2)")
    assert "srun -N 2" in one.follows


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2", "MPI_LOCALNRANKS": "1"}, "mpirun of Open MPI"),
        ({"MPI_LOCALNRANKS": "1"}, "mpiexec of MPICH (hydra)"),
        (
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_MPI_TYPE": "pmix"},
            "srun (--mpi=pmix)",
        ),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "srun (--mpi=?)"),
        ({}, "an MPI launcher"),
    ],
)
def test_a_launcher_is_known_by_its_variables(environ, name):
    assert launcher.name_launcher(environ) == name


@pytest.mark.parametrize("survives", [True, False])
def test_how_the_ranks_were_started_is_told(monkeypatch, survives):
    comm = make_comm(3, survives=survives)
    monkeypatch.setattr(mpi, "connect", lambda _environ: (comm, ""))
    environ = {"OMPI_COMM_WORLD_SIZE": "3"}
    connected, finding = ranks.connect(environ)
    assert connected is comm
    assert finding.result is CheckResult.HOLDS
    assert finding.name == "MPI connects the ranks"
    assert finding.seen.startswith("3 ranks by mpirun of Open MPI, 3 processes; ")
    assert finding.seen.endswith("it tells of ranks that die") is survives


def test_ranks_that_see_none_of_each_other_are_a_broken_promise(monkeypatch):
    monkeypatch.setattr(mpi, "connect", lambda _environ: (None, "the remedy"))
    comm, finding = ranks.connect({"OMPI_COMM_WORLD_SIZE": "2"})
    assert comm is None
    assert finding.result is CheckResult.BROKEN
    assert finding.seen == (
        "started by mpirun of Open MPI, 2 processes, and MPI sees one"
    )
    assert finding.follows == "the remedy"


@pytest.mark.parametrize(("skew", "is_told"), [(1.5, True), (-1.5, True), (0.9, False)])
def test_round_trips_and_clocks_are_measured(monkeypatch, skew, is_told):
    ticks = iter(range(1000))

    def look():
        return next(ticks) * 0.004

    monkeypatch.setattr(time, "time", look)

    def rank_with(seconds):
        # Between the two looks at our clock, which is the middle.
        return neighbour(look=lambda: look() + seconds)

    trips, clocks = ranks.check_messages({1: rank_with(0.0), 2: rank_with(skew)})
    assert trips.name == "messages"
    assert trips.seen.startswith(
        "round trip of rank 0 and another: median 8 ms, longest 8 ms (rank"
    )
    assert clocks.name == "clocks of the nodes differ"
    assert clocks.seen == f"at most {skew:+.3f} s (rank 2)"
    assert bool(clocks.follows) is is_told


def step_of(reached):
    """Ranks of which `reached` note the signal."""
    counts = dict.fromkeys(range(3), 0)

    class Others:
        def __init__(self):
            self.others = {
                number: neighbour(count_signals=lambda number=number: counts[number])
                for number in (1, 2)
            }

        def note_signals(self):
            pass

    sent: list[list[str]] = []

    def send(argv):
        for number in reached:
            counts[number] += 1
        sent.append(argv)
        return " no permission \n"

    return Others(), counts, send, sent


SLURM_STEP = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "3"}


@pytest.mark.parametrize(
    ("reached", "told"),
    [
        ((0, 1, 2), "by scancel, after"),
        ((0, 2), "by scancel; rank 1 did not get it (no permission)"),
        ((), "by scancel; rank 0, 1, 2 did not get it (no permission)"),
    ],
)
def test_a_signal_to_the_step_has_to_reach_all_ranks(monkeypatch, reached, told):
    others, counts, send, sent = step_of(reached)
    monkeypatch.setattr(ranks, "which", lambda _name: "/bin/scancel")
    monkeypatch.setattr(ranks, "run_program", send)
    monkeypatch.setattr(ranks, "count_signals", lambda: counts[0])
    monkeypatch.setattr(ranks, "SIGNAL_SECONDS", 0.06)
    for rank in others.others.values():
        rank.ask = lambda _function, rank=rank: rank._stand_ins["count_signals"]()
    finding = ranks.check_step_signal(cast(Any, others), SLURM_STEP)
    assert finding.seen.startswith(told)
    assert sent == [["/bin/scancel", "--signal=USR1", "12.3"]]
    all_reached = len(reached) == 3
    assert (finding.result is CheckResult.HOLDS) is all_reached
    assert (finding.follows == node.SIGNAL_REMEDY) is not all_reached


@pytest.mark.parametrize(
    ("environ", "scancel"),
    [(SLURM_STEP, None), ({"SLURM_JOB_ID": "12"}, "/bin/scancel"), ({}, None)],
)
def test_outside_of_a_step_no_signal_is_sent(monkeypatch, environ, scancel):
    monkeypatch.setattr(ranks, "which", lambda _name: scancel)
    finding = ranks.check_step_signal(cast(Any, None), environ)
    assert finding.result is CheckResult.UNTESTED


class LosingRanks:
    """Three ranks, of which `fails` says how those that are left answer."""

    def __init__(self, losses=(), *, fails=False):
        self.comm = make_comm(4)
        self.comm.losses = [*losses]
        self.others = {number: neighbour() for number in (1, 2, 3)}
        self.killed: list[Any] = []
        self.others[3].begin = lambda *asked: self.killed.append(asked)

        def answer(_function):
            if fails:
                raise CallError("rank 1 did not answer")
            return 0.0

        self.others[1].ask = self.others[2].ask = answer


@pytest.mark.parametrize("losses", [[3], []])
def test_the_others_go_on_when_the_last_rank_is_killed(monkeypatch, losses):
    monkeypatch.setattr(ranks, "LOSS_SECONDS", 0.1)
    found = LosingRanks(losses)
    finding = ranks.check_loss(cast(Any, found))
    assert found.killed == [(signal.raise_signal, signal.SIGKILL)]
    assert finding.result is CheckResult.HOLDS
    said = "MPI tells of it after" if losses else "MPI tells nothing, so that silence"
    assert finding.seen.startswith(f"rank 3 is gone; {said}")


def test_others_that_answer_no_more_are_told(monkeypatch):
    finding = ranks.check_loss(cast(Any, LosingRanks(fails=True)))
    assert finding.result is CheckResult.BROKEN
    assert finding.seen == "rank 1 did not answer"
    assert "mpifarm supervise" in finding.follows


def test_the_findings_of_all_ranks_come_in_their_order(stage, monkeypatch):
    own = [holds("fine").named("own")]
    found = {
        0: RankFindings("a", tuple(own)),
        1: RankFindings("b", tuple(own)),
        2: RankFindings(ranks.NO_HOST, ()),
    }
    others = {1: neighbour(), 2: neighbour()}
    compared = []

    class All:
        comm = make_comm(3)

        def __init__(self):
            self.others = others

    monkeypatch.setattr(ranks, "find", lambda *_: found[0])
    monkeypatch.setattr(ranks, "_collect", lambda *_: found)
    monkeypatch.setattr(ranks, "check_step_signal", lambda *_: untested("not sent"))
    monkeypatch.setattr(
        ranks,
        "check_messages",
        lambda asked: iter([measured(f"{[*asked]}").named("messages")]),
    )

    def check_shared(_stage, rank):
        compared.append(rank)
        return iter([holds("").named("shared")])

    monkeypatch.setattr(ranks, "check_shared", check_shared)
    told = [*ranks.check_ranks(stage, cast(Any, All()), cast(Any, None), own, {})]
    assert [each.name for each in told] == [
        "USR1 to the launcher or the step reaches all ranks",
        "ranks",
        "own",
        "messages",
        "shared",
    ]
    assert told[1].seen == "2 on 2 hosts: a (1), b (1)"
    assert told[3].seen == "[1]"
    assert compared == [others[1]]


# ---- a rank by itself ---------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_the_cpus_of_a_rank_are_told_for_its_workers(monkeypatch, count):
    monkeypatch.setattr(cpus, "cpus_of_rank", lambda: frozenset({0, 1}))
    monkeypatch.setattr(cpus, "cpus_of_machine", lambda: 8)
    sharers = dataclasses.replace(cpus.ALONE, count=count)
    monkeypatch.setattr(cpus, "find_sharers", lambda _environ: sharers)
    finding = node.check_cpus({}, 5)
    shared = ", in common with 2 more ranks" if count == 3 else ""
    assert finding.seen == f"2 of the node's 8 for 5 workers{shared}"
    fitting = 1 if count == 3 else 2
    assert finding.follows == (
        "Ask what started it for more (a batch system, taskset, a container); or --proc"
        f" {fitting} fits what it has"
    )
    assert finding.weight == -2
    enough = node.check_cpus({}, 2)
    assert bool(enough.follows) is (count == 3)


@pytest.mark.parametrize(("seconds", "is_slow"), [(4.9, False), (5.1, True)])
def test_a_slow_start_of_python_is_told(monkeypatch, seconds, is_slow):
    clock = iter([0.0, 0.5, 0.5 + seconds])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    programs: list[list[str]] = []
    monkeypatch.setattr(node, "run_program", programs.append)
    finding = node.check_python_start()
    assert finding.seen.startswith(f"0.50 s; with mpifarm {seconds:.2f} s, from ")
    assert bool(finding.follows) is is_slow
    assert finding.weight == pytest.approx(seconds)
    assert ["-S" in argv for argv in programs] == [True, False]


class StillTimer:
    """A timer that sends at once."""

    def __init__(self, _seconds, send):
        self._send = send

    def start(self):
        self._send()

    def join(self):
        pass


@pytest.mark.parametrize(
    ("signum", "late", "told"),
    [
        (signal.SIGUSR1, 0.25, "after 2.5e+02 ms"),
        (signal.SIGUSR1, 0.75, "0.75 s late"),
        (signal.SIGUSR2, 0.25, "it never came"),
    ],
)
def test_a_signal_has_to_wake_the_loop_soon(monkeypatch, inbox, signum, late, told):
    now = [0.0]

    def send(_pid, _signum):
        inbox._received.append(signum)
        now[0] += late

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(processes, "kill_process", send)
    monkeypatch.setattr(node, "Timer", StillTimer)
    finding = node.check_wake(inbox, make_comm(2))
    assert finding.seen == told
    is_soon = told.startswith("after")
    assert (finding.result is CheckResult.HOLDS) is is_soon
    assert (finding.follows == node.SIGNAL_REMEDY) is not is_soon


# ---- the command --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["nowhere"], "nowhere is not a directory"),
        ([".", "--proc", "0"], "--proc 0 would run nothing: write a number of tasks"),
        ([".", "-n", "x"], "--proc takes a number, or .auto., or 50%"),
        ([".", "--kill-a-rank"], "--kill-a-rank needs --mpi, and three ranks or more"),
    ],
)
def test_a_wrong_command_line_is_told(argv, told):
    with pytest.raises(InputError, match=told):
        command._parse(argv)


def test_the_words_of_a_command_line_are_read():
    chosen = command._parse([".", "-n", "1", "--mpi", "--kill-a-rank"])
    assert (chosen.proc, chosen.mpi, chosen.kill_a_rank) == (1, True, True)
    assert command._parse([]).directory == "."
    assert command._parse([]).proc == Settings("", "").workers
    assert command._parse(["-n", "auto"]).proc == len(os.sched_getaffinity(0))
    assert command._parse(["-n", "1%"]).proc == 1


@pytest.mark.parametrize("parse", [command._parse, doctor._parse])
@pytest.mark.parametrize(
    ("words", "what"),
    [([""], "DIRECTORY"), ([".", "--lock-area", ""], "DIR of --lock-area")],
)
def test_an_empty_word_is_no_place(parse, words, what):
    with pytest.raises(InputError, match=f"the {what} is empty: is a variable not set"):
        parse(words)


@pytest.mark.parametrize("launched", [True, False])
@pytest.mark.parametrize("installed", [True, False])
def test_mpi_needs_a_launcher_and_a_library(monkeypatch, launched, installed):
    monkeypatch.setattr(command, "was_launched", lambda _environ: launched)
    spec = object() if installed else None
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: spec)
    told = [] if launched else ["--mpi needs a launcher"]
    told += [] if installed else ["mpi4py is not installed here"]
    if not told:
        command.check_launch({})
        return
    with pytest.raises(InputError) as caught:
        command.check_launch({})
    assert all(each in str(caught.value) for each in told)
    assert str(caught.value).count("; ") == len(told) - 1


class Lines:
    def __init__(self):
        self.texts = []

    def print_text(self, text):
        self.texts.append(text)


@pytest.fixture
def first_rank(tmp_path, monkeypatch, inbox):
    """Make the first rank, whose node has the finding `result`."""

    def make(result, *options):
        found = SelfTestFinding(result, "seen").named("a promise")
        monkeypatch.setattr(storage, "check_alone", lambda _stage: iter([found]))
        monkeypatch.setattr(node, "check_node", lambda _environ, _workers: iter(()))
        chosen = command._parse([str(tmp_path), *options])
        console = Lines()
        rank = command._FirstRank(chosen, cast(Any, console), {}, inbox)
        return rank, console

    return make


@pytest.mark.parametrize(
    ("result", "status"), [(CheckResult.HOLDS, 0), (CheckResult.BROKEN, 1)]
)
def test_a_broken_promise_makes_status_1(tmp_path, first_rank, result, status):
    rank, console = first_rank(result)
    assert rank.run() == status
    assert console.texts[0] == f"mpifarm selftest in {tmp_path}\n\n"
    assert "a promise: seen\n" in console.texts[1]
    assert "ranks on several hosts: 1 on 1 host" in console.texts[2]
    assert ("All that mpifarm promises holds here" in console.texts[3]) is not status
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("size", "is_killed"), [(2, False), (3, True)])
def test_a_rank_is_killed_only_of_three(
    tmp_path, monkeypatch, first_rank, size, is_killed
):
    rank, console = first_rank(CheckResult.HOLDS, "--mpi", "--kill-a-rank")
    comm = make_comm(size)
    comm.finalize = lambda: comm.sent.append("finalized")
    monkeypatch.setattr(ranks, "connect", lambda _environ: (comm, holds("ranks")))
    monkeypatch.setattr(ranks, "check_ranks", lambda *_: iter(()))
    monkeypatch.setattr(ranks, "check_loss", lambda _others: holds("they do"))
    assert rank.run() == 0
    text = "".join(console.texts)
    assert ("Now rank 2 is killed." in text) is is_killed
    assert ("the loss of a rank: only 2 ranks: it takes 3" in text) is not is_killed
    assert ("the other ranks go on when one is killed: they do" in text) is is_killed
    left = [each for each in comm.sent if each != "finalized"]
    assert [number for number, _ in left] == [1]
    assert ("finalized" in comm.sent) is not is_killed
    assert os.listdir(tmp_path) == []


def test_a_rank_number_is_its_name(inbox):
    assert [each.name for each in Ranks(make_comm(3), inbox).others.values()] == [
        "rank 1",
        "rank 2",
    ]
    assert Rank(cast(Any, None), 4).name == "rank 4"


def test_an_error_of_a_check_is_a_broken_promise():
    def fail():
        raise OSError(errno.EIO, "broken disk")

    finding = run_check("disk", fail)
    assert (finding.result, finding.name) == (CheckResult.BROKEN, "disk")
    assert "broken disk" in finding.seen


# ---- the lock of one node ------------------------------------------------------------


def test_the_lock_of_a_node_is_free_when_its_holder_was_killed(stage):
    finding = storage.check_lock(stage)
    assert finding.result is CheckResult.HOLDS
    words = "the holder of the lock keeps the other out; free "
    assert finding.seen.startswith(words)
    assert finding.seen.endswith(" after kill -9 of its holder")
    assert finding.follows == ""
    assert storage.take(stage.lock_files(), 5.0), "nobody holds it any more"


@pytest.mark.parametrize(
    ("taken", "result", "seen", "releases"),
    [
        ([True], CheckResult.BROKEN, "both held it at once", 1),
        (
            [False, False],
            CheckResult.BROKEN,
            "still taken 5 s after kill -9 of its holder",
            0,
        ),
        ([False, True], CheckResult.HOLDS, "the holder of the lock keeps", 1),
    ],
)
def test_what_a_lock_of_a_node_does_wrong_is_told(
    stage, monkeypatch, taken, result, seen, releases
):
    waits: list[float] = []
    released: list[tuple[str, ...]] = []
    answers = iter(taken)

    def take(paths: tuple[str, ...], seconds: float) -> bool:
        assert paths == stage.lock_files()
        waits.append(seconds)
        return bool(next(answers))

    monkeypatch.setattr(storage, "take", take)
    monkeypatch.setattr(storage, "release", released.append)
    finding = storage.check_lock(stage)
    assert finding.result is result
    assert finding.seen.startswith(seen)
    assert waits == [0.1, storage.FREE_SECONDS][: len(taken)]
    assert len(released) == releases
    assert processes.find_dead_child() is None


def test_a_lock_that_another_process_can_not_take_is_not_judged(stage, monkeypatch):
    fork = processes.fork_child
    monkeypatch.setattr(processes, "fork_child", lambda _: fork(lambda: None))
    finding = storage.check_lock(stage)
    assert finding == untested("another process could not take the lock")


def test_a_lock_area_without_flock_is_told_with_what_all_farms_need(stage):
    lock = storage.find_lock(stage.lock_files())
    lock.without_flock = ("/area/lock",)
    finding = storage.check_lock(stage)
    assert finding.result is CheckResult.HOLDS
    assert finding.follows.endswith(": all farms must have the same lock area")


def test_the_mount_of_the_directory_is_told(stage, monkeypatch):
    asked: list[str] = []
    found = storage.Mount("nfs4", "server:/home", "rw,nolock")

    def find(path: str, mounts: str) -> Any:
        asked.append(path)
        assert "proc" in mounts
        return found if len(asked) == 1 else None

    monkeypatch.setattr(storage, "find_mount", find)
    assert storage.check_mount(stage) == measured(
        "nfs4 (server:/home), rw,nolock",
        "mounted with nolock: locks exclude on one node only",
    )
    assert storage.check_mount(stage) == untested("the mounts can't be read")
    assert asked == [os.path.realpath(stage.directory)] * 2


# ---- the command as a whole ----------------------------------------------------------


class Errors:
    def __init__(self) -> None:
        self.said: list[str] = []

    def print_error(self, sentence: str) -> None:
        self.said.append(sentence)


@pytest.fixture
def ran(monkeypatch, inbox):
    """Return a function that runs the command as a rank, with what it did and said."""
    done: list[str] = []
    console = Errors()
    monkeypatch.setattr(command, "SignalInbox", lambda: inbox)
    monkeypatch.setattr(inbox, "install", lambda: done.append("install"))
    monkeypatch.setattr(
        *(command, "_raise_stopped_at_signals"), lambda: done.append("arm")
    )
    monkeypatch.setattr(storage, "remove_locks", lambda: done.append("remove locks"))
    monkeypatch.setattr(command, "check_launch", lambda _: done.append("launch"))
    monkeypatch.setattr(time, "sleep", lambda _: done.append("sleep"))

    def run(rank: int, *argv: str, stops: bool = False) -> tuple[int, list[str], Any]:
        def work(*_: object) -> int:
            done.append("work")
            if stops:
                raise command._Stopped
            return 1

        monkeypatch.setattr(command, "launched_rank", lambda _: rank)
        monkeypatch.setattr(command._FirstRank, "run", work)
        monkeypatch.setattr(command, "_follow", work)
        status = command.main(argv, cast(Any, console), {})
        return status, done, console.said

    return run


def test_the_first_rank_tests_and_removes_its_locks(ran):
    assert ran(0) == (1, ["install", "arm", "work", "remove locks"], [])


def test_another_rank_is_there_for_mpi_alone(ran):
    assert ran(1) == (0, [], [])
    status, done, _ = ran(1, "--mpi")
    assert status == 1
    assert done == ["launch", "install", "arm", "work", "remove locks"]


def test_a_wrong_command_line_is_told_by_the_first_rank_alone(ran):
    assert ran(1, "nowhere") == (0, [], [])
    with pytest.raises(InputError, match="nowhere"):
        ran(0, "nowhere")


@pytest.mark.parametrize(("rank", "sleeps"), [(0, []), (2, ["sleep"])])
def test_a_signal_ends_it_with_75_and_the_others_leave_the_first_some_time(
    ran, rank, sleeps
):
    status, done, said = ran(rank, "--mpi", stops=True)
    assert status == 75
    assert done[1:] == ["install", "arm", "work", *sleeps, "remove locks"]
    assert said == ["the self-test was stopped by a signal"]


def test_signals_that_end_it_are_raised_once_and_ignored_ones_stay_so(monkeypatch):
    handlers: dict[int, Any] = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_IGN,
    }
    monkeypatch.setattr(signal, "getsignal", handlers.__getitem__)
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    command._raise_stopped_at_signals()
    assert handlers[signal.SIGHUP] is signal.SIG_IGN
    assert handlers[signal.SIGTERM] is handlers[signal.SIGINT]
    with pytest.raises(command._Stopped):
        handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert {*handlers.values()} == {signal.SIG_IGN}


def test_a_directory_that_can_not_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't make a directory in "):
        command._make_directory(str(tmp_path / "file"))


@pytest.mark.parametrize("is_served", [True, False])
def test_another_rank_answers_with_what_its_node_has_and_leaves_mpi_if_it_may(
    monkeypatch, inbox, is_served
):
    acts: list[Any] = []
    comm = make_comm(2)
    comm.finalize = lambda: acts.append("finalize")
    monkeypatch.setattr(node, "check_node", lambda _, workers: iter([workers]))
    monkeypatch.setattr(ranks, "connect", lambda _: (comm, None))
    monkeypatch.setattr(ranks, "find", lambda *given: given)

    def serve(*given: Any) -> bool:
        acts.append(given)
        return bool(is_served)

    monkeypatch.setattr(command, "serve", serve)
    assert command._follow(3, {}, inbox) == 0
    served = (comm, inbox, (comm, inbox, [3]))
    assert acts == [served, *(["finalize"] if is_served else [])]
    monkeypatch.setattr(ranks, "connect", lambda _: (None, None))
    acts.clear()
    assert command._follow(3, {}, inbox) == 0
    assert acts == []


def test_where_mpi_sees_no_others_the_first_rank_concludes_alone(
    first_rank, monkeypatch
):
    rank, console = first_rank(CheckResult.HOLDS, "--mpi")
    monkeypatch.setattr(ranks, "connect", lambda _: (None, untested("no ranks")))
    assert rank.run() == 0
    text = "".join(console.texts)
    assert "no ranks" in text
    assert "ranks on several hosts: 1 on 1 host" in text
