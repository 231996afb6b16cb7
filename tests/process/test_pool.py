"""A rank's pool, with real workers and commands: what runs, in what, what is told."""

import errno
import gc
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mpifarm.model.task import Lease, Outcome
from mpifarm.pool import LeaseRefused, LeaseReturned, Pool, PoolDefinition
from mpifarm.system.task_command import start_command, wait_command
from tests.support import is_running

# ---- results ------------------------------------------------------------------------


def test_a_result_says_how_the_command_ended(pool):
    before, begun = time.time(), time.monotonic()
    results = pool.run("true", "exit 3", "kill -TERM $$", "sleep 0.2", "no-such-thing")
    assert [results[taskid].status for taskid in range(5)] == [0, 3, -15, 0, 127]
    outcomes = [results[taskid].outcome for taskid in range(5)]
    completed, failed = Outcome.COMPLETED, Outcome.FAILED
    assert outcomes == [completed, failed, failed, completed, failed]
    slept = results[3]
    assert before <= slept.started <= time.time()
    assert begun + 0.2 <= slept.ended <= time.monotonic()
    assert 0.2 <= slept.seconds <= slept.ended - begun
    assert slept.worker in pool.worker_pids()


def test_a_single_worker_runs_leases_in_their_order(start_pool):
    driver = start_pool(workers=1)
    driver.run(*["true"] * 50)
    assert [event.taskid for event in driver.events] == list(range(50))


def test_leases_go_to_the_worker_with_the_fewest_in_hand(start_pool):
    driver = start_pool(workers=3)
    results = driver.run(*["sleep 0.3"] * 3)
    assert len({result.worker for result in results.values()}) == 3


def test_leases_that_are_recalled_do_not_run_and_later_ones_do(start_pool):
    driver = start_pool(workers=1)
    driver.submit(f"echo began; {driver.waits}", *["echo ran"] * 9)
    driver.collect_until(lambda: driver.log(0) or driver.pool._shared.row(0).begun)
    recalled = driver.pool.recall()
    assert [lease.taskid for lease in recalled] == list(range(1, 10))
    assert driver.pool.busy == 1
    driver.allow()
    driver.run("echo later", first=20)
    assert [event.taskid for event in driver.events] == [0, 20]
    assert all(driver.log(taskid) == "" for taskid in range(1, 10))
    assert driver.pool.recall() == []


def test_leases_can_be_recalled_before_their_worker_is_there(start_pool):
    driver = start_pool(workers=2)
    driver.submit(*["true"] * 5)
    recalled = driver.pool.recall()
    assert len(recalled) == 5
    driver.pool.submit(recalled)
    driver.collect_until(lambda: set(driver.results()) == set(range(5)))
    assert len(driver.events) == 5


def test_no_lease_is_both_run_and_recalled_and_none_is_neither(start_pool):
    driver = start_pool(workers=2)
    luck, waiting, recalls = random.Random(7), list(range(1500)), 0
    while len(driver.results()) < 1500:
        returned = [e for e in driver.events if isinstance(e, LeaseReturned)]
        driver.events = [e for e in driver.events if e not in returned]
        waiting += [event.lease.taskid for event in returned]
        if waiting and driver.pool.vacancies(12):
            driver.pool.submit([Lease(waiting.pop(0), 1, "echo x")])
        if luck.random() < 0.05:
            recalled = driver.pool.recall()
            waiting += [lease.taskid for lease in recalled]
            recalls += len(recalled)
        driver.collect(0)
    assert recalls > 100
    assert len(driver.events) == 1500
    assert all(driver.log(taskid) == "x\n" for taskid in range(1500))


def test_the_pool_counts_what_it_has_in_hand(start_pool):
    driver = start_pool(workers=2)
    pool = driver.pool
    counts = (pool.workers, pool.idle, pool.busy, pool.vacancies(0), pool.vacancies(2))
    assert counts == (2, 2, 0, 2, 6)
    driver.submit(*[driver.waits] * 3)
    counts = (pool.workers, pool.idle, pool.busy, pool.vacancies(0), pool.vacancies(2))
    assert counts == (2, 0, 3, 0, 3)
    driver.allow()
    driver.collect_until(lambda: len(driver.events) == 3)
    assert (pool.idle, pool.busy) == (2, 0)
    assert not pool.stopped


def test_what_its_pipe_has_no_room_for_is_not_ahead_of_a_worker(start_pool):
    driver = start_pool(workers=1)
    driver.submit("sleep 60", ": ahead")
    driver.collect_until(driver.commands)
    assert driver.pool.least_ahead() == 1
    driver.submit(*[": " + "x" * 1_000_000] * 2, first=2)
    assert driver.pool.least_ahead() == 0


def test_commands_of_a_megabyte_pass_in_both_workers_without_blocking(pool):
    line = "echo " + "x" * 1_000_000 + " | wc -c"
    # While these wait, no worker reads what comes: to block here is to hang.
    pool.submit(*[pool.waits] * 2)
    pool.submit(*[line] * 8, first=2)
    pool.allow()
    pool.collect_until(lambda: len(pool.events) == 10)
    assert [pool.log(taskid) for taskid in range(2, 10)] == ["1000001\n"] * 8


def test_bytes_that_are_not_utf8_reach_the_command(pool):
    pool.run("printf %s a\udcff\udc80b")
    assert pool.log(0) == "a\udcff\udc80b"


def test_a_command_with_a_nul_fails_and_the_next_one_runs(start_pool):
    results = start_pool(workers=1).run("echo a\0b", "true")
    assert results[0].status != 0
    assert results[1].status == 0


# ---- what a command finds -----------------------------------------------------------


def test_a_command_is_told_what_it_is(pool):
    says = "echo $PROC_NUMBER $MPIFARM_TASK_ID $MPIFARM_ATTEMPT $MPIFARM_RANK"
    pool.pool.submit([Lease(7, 2, says)])
    pool.submit("echo $MPIFARM_WORKER; echo $MPIFARM_WORKDIR $MPIFARM_FARM", first=8)
    pool.collect_until(lambda: len(pool.events) == 2)
    assert pool.log(7) == "7 7 2 3\n"
    worker, names = pool.log(8).splitlines()
    assert worker in ("0", "1")
    assert names == f"{pool.logs} f{pool.token}"


def test_a_command_gets_the_environment_of_the_definition_and_no_other(
    pool, monkeypatch
):
    pool.run("env")
    names = {line.partition("=")[0] for line in pool.log(0).splitlines()}
    assert "FARM_TEST_TOKEN" in names
    assert not [name for name in names if name.startswith("PYTEST")]


@pytest.mark.parametrize("command", ["ls -l /proc/self/fd", "ls -l /proc/self/fd;:"])
def test_a_command_has_no_descriptor_but_its_three(start_pool, command):
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    os.set_inheritable(read_end, True)
    try:
        driver = start_pool(workers=3)
        driver.run(*[command] * 6)
    finally:
        os.close(read_end)
        os.close(write_end)
    for taskid in range(6):
        links = [line.split() for line in driver.log(taskid).splitlines()]
        found = {words[-3]: words[-1] for words in links if "->" in words}
        # ls has the directory open itself
        directory = [fd for fd, name in found.items() if name.startswith("/proc")]
        assert set(found) - set(directory) == {"0", "1", "2"}
        log = str(driver.logs / f"log_{taskid}")
        assert (found["0"], found["1"], found["2"]) == ("/dev/null", log, log)


@pytest.mark.parametrize(
    "command", ["cat /proc/self/status", "cat /proc/self/status;:"]
)
def test_a_command_has_default_signals_and_none_blocked(start_pool, command):
    previous = {
        signum: signal.signal(signum, signal.SIG_IGN)
        for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
    }
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        driver = start_pool()
        driver.run(command)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    words = dict(
        line.split(":\t") for line in driver.log(0).splitlines() if ":\t" in line
    )
    # glibc's posix_spawn ignores 32 and 33, which are its own, on purpose
    glibc = 1 << 31 | 1 << 32
    assert int(words["SigIgn"], 16) & ~glibc == 0
    assert int(words["SigBlk"], 16) == 0


def test_a_command_has_a_session_of_its_own(pool):
    pool.run("cut -d' ' -f 1,4,5,6 /proc/self/stat")
    pid, _parent, group, session = pool.log(0).split()
    assert pid == group == session


def test_a_pipe_that_breaks_ends_its_writer(pool):
    results = pool.run("yes | head -n 1; exit ${PIPESTATUS[0]}")
    assert results[0].status == 128 + signal.SIGPIPE


# ---- what commands do ---------------------------------------------------------------


def test_what_a_task_leaves_running_is_left_alone(pool):
    results = pool.run(
        "sleep 1000 & exit 0", "setsid sleep 1000 & exit 0", "(sleep 1000 &) ; true"
    )
    assert {result.status for result in results.values()} == {0}
    pool.collect_until(lambda: len(pool.commands()) == 3)
    pool.pool.close()
    assert len(pool.commands()) == 3


def test_a_task_may_close_or_flood_its_output(pool):
    results = pool.run(
        "exec >&- 2>&-; sleep 0.1", "head -c 30000000 /dev/zero; exit 4", "exec <&-"
    )
    assert [results[taskid].status for taskid in range(3)] == [0, 4, 0]
    assert (pool.logs / "log_1").stat().st_size == 30_000_000


def test_a_command_that_signals_all_it_can_name_hurts_no_worker(start_pool):
    driver = start_pool(workers=1)
    results = driver.run(
        "kill -USR1 $PPID; kill -USR2 $PPID; kill -TERM $PPID; kill -INT $PPID;"
        "kill -HUP $PPID; kill -PIPE $PPID; kill -IO $PPID; kill -CHLD $PPID",
        "true",
    )
    assert results[0].worker == results[1].worker


# ---- logs ---------------------------------------------------------------------------


def test_the_log_of_a_second_attempt_keeps_the_first_one(start_pool):
    driver = start_pool(workers=1)
    driver.run("printf first")
    driver.pool.submit([Lease(0, 2, "echo second")])
    driver.collect_until(lambda: len(driver.events) == 2)
    first, line, second = driver.log(0).splitlines()
    assert (first, second) == ("first", "second")
    assert line.startswith("=== mpifarm: started again, attempt 2 of farm ")
    assert line.endswith(f", host {os.uname().nodename} ===")


def test_a_log_says_which_signal_killed_the_command(pool):
    pool.run("kill -9 $$", "printf half; kill -SEGV $$")
    assert pool.log(0) == "=== mpifarm: killed by signal 9 (SIGKILL) ===\n"
    assert pool.log(1) == "half\n=== mpifarm: killed by signal 11 (SIGSEGV) ===\n"


def test_no_task_fails_for_what_stands_in_place_of_its_log(pool, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (pool.logs / "log_0").mkdir()
    (pool.logs / "log_1").symlink_to(victim)
    os.mkfifo(pool.logs / "log_2")
    results = pool.run("echo 0", "echo 1", "echo 2")
    assert [results[taskid].status for taskid in range(3)] == [0, 0, 0]
    assert [pool.log(taskid) for taskid in range(3)] == ["0\n", "1\n", "2\n"]
    assert victim.read_text() == "precious"


def test_without_a_directory_for_logs_nothing_is_started_and_no_task_fails(pool):
    pool.logs.rmdir()
    pool.submit("touch ran")
    pool.collect_until(lambda: pool.events)
    (event,) = pool.events
    assert isinstance(event, LeaseRefused)
    assert event.lease.taskid == 0
    assert "No such file" in event.reason


def refuse_logs(number):
    """Makes a runner, in a worker to which the disk gives no log any more."""

    def create(definition):
        real = os.open

        def refuse(path, *others, **options):
            if "log_" in str(path):
                raise OSError(number, os.strerror(number), path)
            return real(path, *others, **options)

        os.open = refuse
        return StubRunner(definition)

    return create


@pytest.mark.parametrize(
    "name", ["EACCES", "EPERM", "EROFS", "ESTALE", "EIO", "ELOOP", "ENOTDIR", "ENOENT"]
)
def test_no_task_fails_for_logs_that_can_not_be_written(start_pool, name):
    driver = start_pool(1, refuse_logs(getattr(errno, name)))
    driver.submit("touch ran")
    driver.collect_until(lambda: driver.events)
    (event,) = driver.events
    assert isinstance(event, LeaseRefused)
    assert os.strerror(getattr(errno, name)) in event.reason


def test_a_log_has_the_permissions_of_the_umask(start_pool):
    previous = os.umask(0o027)
    try:
        driver = start_pool()
        driver.run("true")
    finally:
        os.umask(previous)
    assert (driver.logs / "log_0").stat().st_mode & 0o777 == 0o640


def strike(name, number):
    """Have a call of ``os`` fail on what is a log or a scratch."""
    real = getattr(os, name)

    def struck(what, *others, **options):
        path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else what
        if "/log_" in path or "/unkept/" in path or "/packed/" in path:
            if name == "close":
                real(what)
            raise OSError(number, os.strerror(number))
        return real(what, *others, **options)

    return struck


class LateTroubleRunner:
    """Runs ``close EIO echo``: from the end of the echo on, each close gives EIO."""

    def __init__(self, definition):
        pass

    def run(self, taskid, command, logfh):
        name, number, command = command.split(" ", 2)
        status = subprocess.call(["bash", "-c", command], stdout=logfh.fileno())
        setattr(os, name, strike(name, getattr(errno, number)))
        return status

    def terminate(self):
        pass


LATE_TROUBLES = [
    *(("all", "close EIO"), ("all", "close ENOSPC"), ("all", "close EDQUOT")),
    *(("packed", f"{name} EIO") for name in ("ftruncate", "lseek", "write", "pread")),
    *(("failed", f"{name} EIO") for name in ("ftruncate", "lseek", "unlink")),
]


@pytest.mark.parametrize(("kept", "trouble"), LATE_TROUBLES)
def test_no_trouble_after_the_run_changes_how_a_task_ended(start_pool, kept, trouble):
    driver = start_pool(1, LateTroubleRunner, kept_logs=kept)
    result = driver.run(f"{trouble} echo output")[0]
    assert (result.status, result.outcome) == (0, Outcome.COMPLETED)
    number = getattr(errno, trouble.split()[1])
    told = f"can't write the end of {driver.logs}/log_0: {os.strerror(number)}"
    assert result.note == (told if kept == "all" else "")


# ---- runners ------------------------------------------------------------------------


class StubRunner:
    """Its command says what it does; run() is the test's own."""

    def __init__(self, definition):
        pass

    def run(self, taskid, command, logfh):
        return eval(command, {"logfh": logfh, "os": os, "print": print})

    def terminate(self):
        pass


def test_a_runner_that_raises_fails_its_task_with_the_traceback_in_the_log(start_pool):
    driver = start_pool(1, StubRunner)
    results = driver.run("1 / 0", "exit()", "0", "os.close(logfh.fileno())", "0")
    assert [results[taskid].status for taskid in range(5)] == [1, 1, 0, 1, 0]
    assert driver.log(0).startswith("Traceback (most recent call last):\n")
    assert driver.log(0).endswith("ZeroDivisionError: division by zero\n")


def test_garbage_of_a_users_runner_is_looked_for_as_often_as_in_any_python(start_pool):
    as_in_any = gc.get_threshold()
    gc.set_threshold(20_000)
    try:
        driver = start_pool(1, StubRunner)
    finally:
        gc.set_threshold(*as_in_any)
    driver.run("print(__import__('gc').get_threshold()) or 0")
    assert driver.log(0) == f"{as_in_any}\n"


@pytest.mark.parametrize("value", ["None", "'0'", "1.5"])
def test_a_runner_that_returns_no_number_fails_its_task(start_pool, value):
    driver = start_pool(1, StubRunner)
    assert driver.run(value)[0].status == 1
    assert "the runner returned " + value in driver.log(0)


def test_a_runner_can_write_text_and_use_the_descriptor_in_turn(start_pool):
    driver = start_pool(1, StubRunner)
    driver.run(
        "[logfh.write('a' + chr(0xdcff) + '\\n'), os.write(logfh.fileno(), b'b\\n'),"
        " print('c', file=logfh), logfh.writelines(['d\\n']), logfh.writable(),"
        " print('e')] and 0"
    )
    assert driver.log(0) == "a\udcff\nb\nc\nd\ne\n"


def test_a_command_can_be_started_outside_a_worker(tmp_path):
    with open(tmp_path / "log", "wb") as log:
        pid = start_command(["sh", "-c", "echo $A; exit 5"], {b"A": b"1"}, log.fileno())
        assert wait_command(pid) == 5
    assert (tmp_path / "log").read_bytes() == b"1\n"
    with pytest.raises(FileNotFoundError), open(tmp_path / "log", "wb") as log:
        start_command(["no-such-program"], {}, log.fileno())


# ---- the end ------------------------------------------------------------------------


def test_a_pool_that_was_never_started_closes(farm_token):
    pool = Pool.launch()
    pool.close()
    assert not is_running(pool.fork_server)
    pool.close()


def test_close_ends_workers_and_fork_server_at_once(pool, monkeypatch):
    # A step that is only ended by its patience hangs.
    monkeypatch.setattr("mpifarm.pool.client._CLOSE_PATIENCE", 1000.0)
    pool.run("true", "true")
    pids = [pool.pool.fork_server, *pool.worker_pids()]
    pool.pool.close()
    assert len(pids) == 3
    assert not [pid for pid in pids if is_running(pid)]
    assert pool.pool.stopped
    assert pool.pool.workers == 0
    assert pool.pool.collect() == []


def test_close_kills_what_still_runs_and_never_hangs(pool):
    pool.submit("trap '' TERM; sleep 1000; sleep 1000", "sleep 1000")
    pool.collect_until(lambda: len(pool.commands()) == 3)
    pool.pool.close()
    pool.collect_until(lambda: not pool.commands())


def test_a_thousand_idle_milliseconds_cost_nothing(pool):
    pool.run("true")
    pids = [pool.pool.fork_server, *pool.worker_pids()]
    before = sum(_ticks(pid) for pid in pids)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pool.collect(1)
    assert sum(_ticks(pid) for pid in pids) - before <= 1


def _ticks(pid: int) -> int:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def test_a_pool_has_at_least_one_worker(tmp_path):
    pool = Pool.launch()
    with pytest.raises(ValueError, match="1 to"):
        pool.start(PoolDefinition(0, 0, "f", str(tmp_path), str(tmp_path)))
    pool.close()
