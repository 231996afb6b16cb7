"""What each task may take, and what a stop tells it: with real commands."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mpifarm.model.settings import TaskLimits
from mpifarm.model.task import Lease, Outcome
from mpifarm.pool import LeaseRefused, WorkerLost, time_limit
from mpifarm.pool import out_of_memory as memory
from mpifarm.runners import BasicRunner
from mpifarm.system import cgroups, process_memory, processes
from tests.pages import take_block
from tests.required import skip_where_allowed
from tests.support import ROUNDS, is_running, try_rounds

TERM, KILL = -signal.SIGTERM, -signal.SIGKILL
MB = 2**20


LIMIT = 0.3
"""The seconds of each task in `timed_pool`."""


@pytest.fixture
def timed_pool(start_pool, monkeypatch):
    """A pool of one worker whose tasks have 0.3 s, and a minute after TERM.

    A worker that stalls is left alone, unless a test says how `late` it may be.
    """

    def start(create_runner=None, timeout=LIMIT, grace=60, late=60.0, **limits):
        monkeypatch.setattr(time_limit, "LATE", int(late * time_limit.SECOND))
        return start_pool(
            *(1, create_runner),
            limits=TaskLimits(timeout=timeout, **limits),
            grace=grace,
        )

    return start


@pytest.fixture
def limited_pool(start_pool):
    """A pool of one worker whose commands have so many MB."""

    def start(megabytes=200, create_runner=None):
        limits = TaskLimits(memory=megabytes * MB)
        return start_pool(1, create_runner, limits=limits)

    return start


def run_with_next(driver, command, then="true"):
    """The results of two tasks; the second one again where a stall took it its time."""
    results = driver.run(command, then)
    after = results[1]
    if after.seconds >= LIMIT:
        after = driver.run_in_time(then, LIMIT, first=2)
    return {0: results[0], 1: after}


def run_from_up(driver, command):
    """The result of a command that says "up", in the round in which it got so far."""

    def run(taskid):
        result = driver.run(command, first=taskid)[taskid]
        return result if driver.log(taskid).startswith("up\n") else None

    return try_rounds(run)


def ends(results):
    return [(result.outcome, result.status) for _, result in sorted(results.items())]


def told(driver, taskid=0):
    """mpifarm's own lines in the log of a task."""
    lines = driver.log(taskid).splitlines()
    return [line for line in lines if line.startswith("=== mpifarm: ")]


(LIMIT_LINE,) = take_block("when-tasks-fail.md", "=== mpifarm: ended after").lines
LIMIT_LINE = LIMIT_LINE.replace("3600", "0.3")


# ---- time: commands -----------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    ["sleep 1000", "sleep 1000 | cat; exit 3", "(sleep 1000; true) & sleep 1000; wait"],
)
def test_a_command_that_takes_too_long_is_terminated_with_its_children(
    timed_pool, command
):
    driver = timed_pool()
    results = run_with_next(driver, command, "echo next")
    assert ends(results) == [(Outcome.TIMED_OUT, TERM), (Outcome.COMPLETED, 0)]
    assert results[0].seconds >= LIMIT
    assert driver.log(0) == LIMIT_LINE + "\n"
    assert driver.log(results[1].taskid) == "next\n"
    assert driver.commands() == []
    assert results[0].worker == results[1].worker
    assert driver.losses() == []


def test_a_command_that_cleans_up_in_the_grace_time_has_timed_out_all_the_same(
    timed_pool,
):
    driver = timed_pool(grace=1000)
    saves = "trap 'echo saved; exit 0' TERM; echo up; sleep 1000 & wait"
    result = run_from_up(driver, saves)
    assert (result.outcome, result.status) == (Outcome.TIMED_OUT, 0)
    assert driver.log(result.taskid) == f"up\nsaved\n{LIMIT_LINE}\n"


def test_a_command_that_ignores_term_is_killed_after_the_grace_time(timed_pool):
    driver = timed_pool(grace=0.4)
    ignores = "trap '' TERM; echo up; sleep 1000; sleep 1000; sleep 1000"
    result = run_from_up(driver, ignores)
    assert (result.outcome, result.status) == (Outcome.TIMED_OUT, KILL)
    assert result.seconds >= 0.7
    assert driver.commands() == []
    after = driver.run_in_time("true", LIMIT, first=result.taskid + 1)
    assert after.outcome is Outcome.COMPLETED
    assert result.worker == after.worker


def test_a_child_that_ignores_term_is_killed_though_its_shell_has_ended(timed_pool):
    driver = timed_pool(grace=0.4)
    ignores = "(trap '' TERM; echo up; sleep 1000; sleep 1000) & sleep 1000"
    result = run_from_up(driver, ignores)
    assert result.outcome is Outcome.TIMED_OUT
    assert result.seconds >= 0.7
    assert driver.commands() == []


def test_what_has_left_the_commands_session_does_not_outlive_its_time(timed_pool):
    driver = timed_pool(grace=0.2)
    stubborn = "setsid bash -c \"trap '' TERM; while true; do sleep 0.01; done\" & "
    results = driver.run(stubborn + "sleep 1000", "true")
    assert results[0].outcome is Outcome.TIMED_OUT
    driver.collect_until(lambda: driver.commands() == [])
    assert results[0].worker == results[1].worker


def test_tasks_that_take_less_are_not_touched(timed_pool):
    driver = timed_pool(timeout=100)
    results = driver.run("true", "exit 3", "sleep 0.3", "kill -TERM $$")
    outcomes = [Outcome.COMPLETED, Outcome.FAILED, Outcome.COMPLETED, Outcome.FAILED]
    assert [outcome for outcome, _ in ends(results)] == outcomes
    assert told(driver, 3) == ["=== mpifarm: killed by signal 15 (SIGTERM) ==="]


def test_the_time_in_the_pipe_does_not_count(timed_pool):
    driver = timed_pool()
    results = driver.run(*["sleep 0.1"] * 8)
    # but for those that a stall took their time
    in_time = [result for result in results.values() if result.seconds < LIMIT]
    assert {result.outcome for result in in_time} <= {Outcome.COMPLETED}


def test_tasks_that_end_just_when_their_time_is_over_cost_the_next_nothing(timed_pool):
    """The limit is met by half of them; what follows each is never hit."""
    driver = timed_pool(timeout=0.012, grace=0.2)
    odd = [0.002, 0.004, 0.006, 0.008, 0.01, 0.012]
    commands = []
    for number in range(48):
        commands += [f"sleep {odd[number % 6]}", "trap 'exit 9' TERM; exit 0"]
    results = driver.run(*commands)
    timed_out = [i for i, r in results.items() if r.outcome is Outcome.TIMED_OUT]
    assert all(results[i].seconds >= 0.012 for i in timed_out)
    others = set(results) - set(timed_out)
    assert all(results[i].outcome is Outcome.COMPLETED for i in others)
    assert timed_out
    assert others
    assert driver.losses() == []
    assert {result.worker for result in results.values()} == {results[0].worker}


# ---- time: users' runners -----------------------------------------------------------


class PlainRunner:
    """As users write them; what `terminate` does, a class below says."""

    alone = False
    process: subprocess.Popen[bytes]

    def __init__(self, definition):
        pass

    def run(self, taskid, command, logfh):
        self.process = subprocess.Popen(
            command, shell=True, stdout=logfh, start_new_session=self.alone
        )
        return self.process.wait()

    def terminate(self):
        self.process.terminate()


class IdleTerminateRunner(PlainRunner):
    def terminate(self):
        pass


class OwnSessionRunner(IdleTerminateRunner):
    alone = True


class RaisingTerminateRunner(PlainRunner):
    def terminate(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "create_runner",
    [
        IdleTerminateRunner,
        OwnSessionRunner,
        RaisingTerminateRunner,
    ],
)
def test_a_users_runner_whose_terminate_ends_nothing_keeps_no_worker(
    timed_pool, create_runner
):
    driver = timed_pool(create_runner, grace=0.2)
    results = run_with_next(driver, "sleep 1000; true")
    assert ends(results) == [(Outcome.TIMED_OUT, KILL), (Outcome.COMPLETED, 0)]
    assert results[0].seconds >= 0.5
    assert driver.log(0) == LIMIT_LINE + "\n"
    assert driver.commands() == []
    assert results[0].worker == results[1].worker
    assert driver.losses() == []


def test_a_killed_line_does_not_go_on_behind_the_command_that_was_killed(timed_pool):
    driver = timed_pool(IdleTerminateRunner, grace=0.2)
    line = "; ".join(["sleep 1000"] * 3)
    for taskid in range(5):
        driver.run(f"({line}; echo on); echo on", first=taskid)
        assert driver.log(taskid) == LIMIT_LINE + "\n"


@pytest.mark.parametrize("alone", [False, True])
def test_what_a_users_runner_has_left_at_the_limit_is_ended(timed_pool, alone):
    class LeavingRunner(PlainRunner):
        def terminate(self):
            self.process.kill()  # the shell alone

    LeavingRunner.alone = alone
    driver = timed_pool(LeavingRunner, grace=0.2)
    stubborn = "bash -c \"trap '' TERM; sleep 1000; sleep 1000\" & wait"
    results = run_with_next(driver, stubborn)
    assert ends(results) == [(Outcome.TIMED_OUT, KILL), (Outcome.COMPLETED, 0)]
    assert driver.commands() == []
    assert results[0].worker == results[1].worker


@pytest.mark.parametrize("create_runner", [None, PlainRunner])
def test_what_other_tasks_left_running_is_left_alone(timed_pool, create_runner):
    driver = timed_pool(create_runner)
    driver.run_in_time("sleep 1000 & exit 0", LIMIT)
    driver.run_in_time("setsid sleep 1000 & exit 0", LIMIT, first=ROUNDS)
    driver.collect_until(lambda: len(driver.commands()) == 2)
    left = set(driver.commands())
    result = driver.run("exec sleep 1000", first=2 * ROUNDS)[2 * ROUNDS]
    assert result.outcome is Outcome.TIMED_OUT
    assert set(driver.commands()) == left


def test_a_child_without_any_environment_is_the_tasks_too(timed_pool, tmp_path):
    class BareRunner(PlainRunner):
        def run(self, taskid, command, logfh):
            bare = subprocess.Popen(["/bin/sleep", "1000"], env={})
            (tmp_path / "pid").write_text(str(bare.pid))
            return super().run(taskid, command, logfh)

    driver = timed_pool(BareRunner)
    assert ends(driver.run("sleep 1000")) == [(Outcome.TIMED_OUT, TERM)]
    pid = int((tmp_path / "pid").read_text())
    assert not is_running(pid)


def block_signals(_taskid):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    while True:
        time.sleep(1)


def ignore_everything(_taskid):
    while True:
        try:
            subprocess.run("sleep 1000", shell=True, check=False)
        except BaseException:  # noqa: BLE001
            continue


def crash_at_the_end(_taskid):
    subprocess.run("sleep 1000", shell=True, check=False)
    os._exit(7)


def block_in_terminate(_taskid):
    return subprocess.run("sleep 1000; true", shell=True, check=False).returncode


@pytest.mark.parametrize(
    "hang", [block_signals, ignore_everything, crash_at_the_end, block_in_terminate]
)
def test_a_run_that_does_not_end_costs_the_worker_and_not_an_attempt(timed_pool, hang):
    class HangingRunner(PlainRunner):
        def run(self, taskid, command, logfh):
            logfh.write("begun\n")
            logfh.flush()
            return hang(taskid) if command == "hang" else super().run(0, command, logfh)

        def terminate(self):
            time.sleep(1000 if hang is block_in_terminate else 0)

    driver = timed_pool(HangingRunner, grace=0.2, late=2)
    before = time.time()
    driver.submit("hang", "true")
    driver.collect_until(driver.losses)
    driver.pool.submit(driver.losses()[0].unstarted)
    driver.collect_until(lambda: 1 in driver.results())
    results = driver.results()
    if results[1].seconds >= LIMIT:
        results = {0: results[0], 1: driver.run_in_time("true", LIMIT, first=2)}
    assert ends(results) == [(Outcome.TIMED_OUT, KILL), (Outcome.COMPLETED, 0)]
    assert driver.losses()[0].running is None
    assert [loss.unstarted for loss in driver.losses()] == [(Lease(1, 1, "true"),)]
    assert results[0].worker != results[1].worker
    # without it, `mpifarm cancel` would say that the task had waited
    assert results[0].worker_index == 0
    assert results[0].seconds >= 0.5
    assert before <= results[0].started <= time.time()
    driver.collect_until(lambda: driver.log(0) == f"begun\n{LIMIT_LINE}\n")
    assert driver.commands() == []


def test_a_users_runner_may_use_the_alarm_itself(timed_pool):
    class AlarmRunner(PlainRunner):
        def run(self, taskid, command, logfh):
            self.process = subprocess.Popen(command, shell=True)
            signal.signal(signal.SIGALRM, lambda *_: self.process.kill())
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            return self.process.wait()

    driver = timed_pool(AlarmRunner, timeout=100)
    results = driver.run("sleep 1000", "exec env sleep 1000")
    assert ends(results) == [(Outcome.FAILED, KILL)] * 2


# ---- time: the end of the farm ------------------------------------------------------


def test_a_stop_leaves_a_command_its_own_grace_time_whatever_its_limit(timed_pool):
    saves = "trap 'sleep 1.2; echo saved; exit' TERM; echo up; sleep 1000 & wait"

    def terminate_in_time(number):
        driver = timed_pool(timeout=0.4, grace=0.0, late=0.4)
        (driver.logs / "log_0").unlink(missing_ok=True)
        begun = time.monotonic()
        driver.submit(saves)
        driver.collect_until(lambda: driver.results() or driver.log(0) == "up\n")
        driver.pool.terminate()
        return driver if time.monotonic() - begun < 0.4 else None

    driver = try_rounds(terminate_in_time)
    driver.collect_until(lambda: driver.pool.stopped)
    assert driver.log(0) == "up\nsaved\n"


def test_a_worker_killed_in_time_is_still_a_loss(timed_pool):
    driver = timed_pool(timeout=100)
    driver.submit("sleep 1000")
    driver.collect_until(driver.commands)
    os.kill(driver.worker_pids()[0], signal.SIGKILL)
    driver.collect_until(lambda: driver.events)
    assert driver.events == [WorkerLost(Lease(0, 1, "sleep 1000"), (), -9)]


def test_a_worker_without_a_task_is_not_measured(timed_pool):
    driver = timed_pool(timeout=0.1, grace=0.1, late=1)
    worker = driver.run("true")[0].worker
    end = time.monotonic() + 0.1 + 0.1 + 1 + 0.2
    while time.monotonic() < end:
        driver.collect(0.1)
    assert driver.worker_pids() == [worker]
    assert driver.losses() == []


def test_the_fork_server_sleeps_while_no_time_is_over(timed_pool):
    driver = timed_pool(timeout=50)
    driver.submit("sleep 1000")
    driver.collect_until(driver.commands)

    def switches():
        status = f"/proc/{driver.pool.fork_server}/status"
        with open(status) as lines:
            return sum(int(line.split()[1]) for line in lines if "ctxt" in line)

    before, end = switches(), time.monotonic() + 0.5
    while time.monotonic() < end:
        driver.collect(0.1)
    assert switches() - before <= 2


# ---- memory -------------------------------------------------------------------------

PYTHON = sys.executable
EATS_AT_ONCE = f"{PYTHON} -c 'bytearray(1 << 30)'"
EATS_SLOWLY = (
    f'{PYTHON} -c \'import os\nl = []\ntry:\n while 1: l.append(b"x" * 999999)\n'
    "except MemoryError:\n del l; os._exit(4)'"
)
(LINE_200,) = take_block("when-tasks-fail.md", "=== mpifarm: it failed").lines
LINE_200 = LINE_200.replace("4 GB", "200 MB")
(TOGETHER,) = take_block("when-tasks-fail.md", "=== mpifarm: it was ended, b").lines


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (EATS_AT_ONCE, 1),  # seen in the log
        (f"{EATS_AT_ONCE}; exit 6", 6),
        (EATS_SLOWLY, 4),  # seen by its peak
        (f"{EATS_SLOWLY} | cat; exit ${{PIPESTATUS[0]}}", 4),
        ("printf -v a %250000000d 0; exit 2", 2),  # the shell alone
        ("perl -e '$a = \"x\" x (1 << 30)'", 12),
        ("dd if=/dev/zero of=/dev/null bs=1G count=1", 1),
    ],
    ids=["at once", "in a line", "slowly", "in a pipe", "bash", "perl", "dd"],
)
def test_a_command_that_meets_its_limit_fails_and_is_told_to(
    limited_pool, command, status
):
    driver = limited_pool()
    assert ends(driver.run(command)) == [(Outcome.OUT_OF_MEMORY, status)]
    assert told(driver) == [LINE_200]


def test_without_a_limit_the_same_failure_is_only_a_failure(pool):
    results = pool.run("echo MemoryError; exit 1", f"{PYTHON} -c 'bytes(300 << 20)'")
    assert ends(results) == [(Outcome.FAILED, 1), (Outcome.COMPLETED, 0)]
    assert told(pool) == []


def test_a_failure_that_is_none_of_memory_is_only_a_failure(limited_pool):
    driver = limited_pool()
    results = driver.run("exit 3", "echo MemoryError", "echo CUDA out of memory; false")
    completed, failed = Outcome.COMPLETED, Outcome.FAILED
    assert ends(results) == [(failed, 3), (completed, 0), (failed, 1)]
    assert [told(driver, taskid) for taskid in range(3)] == [[], [], []]


def test_what_an_earlier_attempt_printed_is_no_evidence(limited_pool):
    driver = limited_pool()
    driver.run("echo MemoryError; exit 1")
    driver.pool.submit([Lease(0, 2, "exit 5")])
    driver.collect_until(lambda: len(driver.events) == 2)
    outcomes = [event.outcome for event in driver.events]
    assert outcomes == [Outcome.OUT_OF_MEMORY, Outcome.FAILED]


def test_the_limit_is_of_each_process_and_can_not_be_lifted(limited_pool):
    driver = limited_pool()
    results = driver.run(
        "ulimit -S -d; ulimit -H -d",
        "sleep 0.2; ulimit -d unlimited",
        f"{PYTHON} -c 'bytearray(150 << 20)' & {PYTHON} -c 'bytearray(150 << 20)'",
        "bash -c 'bash -c \"ulimit -S -d\"'",
    )
    assert driver.log(0) == "204800\n204800\n"
    assert [results[taskid].status for taskid in range(4)] == [0, 1, 0, 0]
    assert driver.log(3) == "204800\n"


def test_address_space_that_is_only_reserved_does_not_count(limited_pool):
    reserve = "import mmap; mmap.mmap(-1, 1 << 36, prot=0, flags=34)"
    assert limited_pool().run(f"{PYTHON} -c '{reserve}'")[0].status == 0


def test_a_limit_too_low_for_a_worker_starts_nothing(limited_pool):
    driver = limited_pool(5)
    driver.submit("touch ran")
    driver.collect_until(lambda: driver.events)
    (event,) = driver.events
    assert isinstance(event, LeaseRefused)
    assert "(--task-memory is 5 MB, and a worker itself needs" in event.reason


def test_a_lower_limit_of_the_users_own_holds(limited_pool):
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (150 * MB, before[1]))
    try:
        driver = limited_pool()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    results = driver.run("ulimit -S -d; ulimit -H -d", EATS_AT_ONCE)
    assert driver.log(0) == "153600\n204800\n"
    assert ends(results)[1] == (Outcome.OUT_OF_MEMORY, 1)
    line = LINE_200.replace("200 MB", "150 MB").replace("--task-memory", "ulimit -d")
    assert told(driver, 1) == [line]


def test_children_of_a_users_runner_are_limited_and_its_own_memory_too(limited_pool):
    class EatingRunner(PlainRunner):
        def run(self, taskid, command, logfh):
            if command == "eat":
                bytearray(1 << 30)
            return super().run(taskid, command, logfh)

    driver = limited_pool(200, EatingRunner)
    results = driver.run("ulimit -S -d", EATS_AT_ONCE + " 2>&1", "eat", "true")
    assert driver.log(0) == "204800\n"
    out = (Outcome.OUT_OF_MEMORY, 1)
    assert ends(results)[1:] == [out, out, (Outcome.COMPLETED, 0)]
    assert len({result.worker for result in results.values()}) == 1


def test_a_runner_derived_from_the_default_one_has_the_limit(limited_pool):
    class DerivedRunner(BasicRunner):
        def __init__(self, definition):
            super().__init__()

    driver = limited_pool(200, DerivedRunner)
    results = driver.run("ulimit -H -d", EATS_AT_ONCE)
    assert driver.log(0) == "204800\n"
    assert ends(results)[1] == (Outcome.OUT_OF_MEMORY, 1)


def test_memory_and_time_can_be_limited_together(timed_pool):
    driver = timed_pool(memory=200 * MB)
    eats = driver.run_in_time(EATS_AT_ONCE, LIMIT)
    assert (eats.outcome, eats.status) == (Outcome.OUT_OF_MEMORY, 1)
    hangs = driver.run("echo MemoryError; sleep 1000", first=ROUNDS)[ROUNDS]
    assert (hangs.outcome, hangs.status) == (Outcome.TIMED_OUT, TERM)


def holds(megabytes, then="time.sleep(1000)"):
    """A process that has so many MB."""
    return f"{PYTHON} -c 'import time; a = bytearray({megabytes} << 20); {then}'"


def together_line(log, limit="200 MB"):
    """Whether mpifarm's only line is that of a task whose processes had too much."""
    text = re.escape(TOGETHER.replace("4 GB", limit)).replace("4310", r"\d+")
    (line,) = log
    return re.fullmatch(text, line) is not None


THREE = f"{holds(80)} & {holds(80)} & {holds(80)} & wait"


def test_processes_that_together_have_too_much_are_ended_and_others_go_on(start_pool):
    driver = start_pool(2, limits=TaskLimits(memory=200 * MB))
    driver.submit(THREE, holds(120, "time.sleep(1.5)"))
    driver.collect_until(lambda: len(driver.results()) == 2)
    results = driver.results()
    out, completed = Outcome.OUT_OF_MEMORY, Outcome.COMPLETED
    assert ends(results) == [(out, KILL), (completed, 0)]
    assert together_line(told(driver))
    assert driver.commands() == []
    assert driver.run("true", first=2)[2].worker == results[0].worker
    assert driver.losses() == []


def test_processes_whose_parents_have_ended_or_that_lead_sessions_count(limited_pool):
    driver = limited_pool()
    line = f"(setsid {holds(80)} & {holds(80)} &); {holds(80)}"
    assert ends(driver.run(line)) == [(Outcome.OUT_OF_MEMORY, KILL)]
    assert together_line(told(driver))
    driver.collect_until(lambda: driver.commands() == [])


NAMELESS = """
import os, time
print(os.getpid(), file=open("pid", "w"))
a = bytearray(80 << 20)
time.sleep(1000)
"""


def test_what_counts_is_killed_though_it_bears_no_name_and_leads_a_session(
    limited_pool, tmp_path
):
    driver = limited_pool()
    (tmp_path / "nameless.py").write_text(NAMELESS)
    line = f"cd {tmp_path}; setsid env -i setsid --wait {PYTHON} nameless.py"
    results = driver.run(f"{line} & {holds(80)} & {holds(80)}")
    assert ends(results) == [(Outcome.OUT_OF_MEMORY, KILL)]
    assert not is_running(int((tmp_path / "pid").read_text()))


SPAWNS_SLOWLY = """
import os, time
a = bytearray(120 << 20)
opening = [(os.POSIX_SPAWN_OPEN, 3, "fifo", os.O_RDONLY, 0)]
os.posix_spawn("/bin/true", ["true"], {}, file_actions=opening)
"""


@pytest.mark.skipif(
    not process_memory.has_same_memory(os.getpid(), os.getpid()),
    reason="this kernel or container does not say which processes have one memory",
)
def test_a_process_counts_once_while_it_starts_another(limited_pool, tmp_path):
    driver = limited_pool()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "spawn.py").write_text(SPAWNS_SLOWLY)
    opens = "sleep 1.5; : > fifo"
    line = f"cd {tmp_path}; ({opens}) & exec {PYTHON} spawn.py"
    assert ends(driver.run(line)) == [(Outcome.COMPLETED, 0)]


def looking(driver):
    """The process that looks, as soon as there is one."""
    found: list[int] = []

    def find():
        workers = {event.worker for event in driver.results().values()}
        found[:] = set(processes.children_of(driver.pool.fork_server)) - workers
        return found and all(map(is_running, found))

    driver.collect_until(find)
    (pid,) = found
    return pid


def test_the_bound_holds_though_the_process_that_looks_is_killed(limited_pool):
    driver = limited_pool()
    driver.run("true")
    os.kill(looking(driver), signal.SIGKILL)
    assert ends(driver.run(THREE, first=1))[1:] == [(Outcome.OUT_OF_MEMORY, KILL)]
    assert driver.losses() == []


@pytest.mark.parametrize("is_killed", [False, True])
def test_nobody_waits_for_a_look_and_none_outlives_the_fork_server(
    limited_pool, is_killed
):
    driver = limited_pool()
    (result,) = driver.run("true").values()
    pid = looking(driver)
    if is_killed:
        os.kill(driver.pool.fork_server, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGSTOP)  # as one that a look holds
        os.kill(result.worker, signal.SIGKILL)
        driver.collect_until(driver.losses)
        assert driver.run("true", first=1)[1].outcome is Outcome.COMPLETED
        driver.pool.close()
    driver.collect_until(lambda: not is_running(pid))


def test_what_an_earlier_task_has_left_running_does_not_count(limited_pool):
    driver = limited_pool()
    driver.run(f"{holds(120)} > /dev/null 2>&1 & exit 0")
    left = set(driver.commands())
    results = driver.run(holds(120, "time.sleep(1.5)"), first=1)
    assert results[1].outcome is Outcome.COMPLETED
    assert set(driver.commands()) == left


def test_what_processes_have_of_each_other_by_a_fork_counts_once(limited_pool):
    driver = limited_pool()
    shares = "import os, time; a = bytearray(120 << 20); os.fork(); time.sleep(1.5)"
    assert ends(driver.run(f"{PYTHON} -c '{shares}'")) == [(Outcome.COMPLETED, 0)]


def test_the_processes_of_a_users_runner_count_with_its_worker(limited_pool):
    """The worker has what the process of the tests has, too, and the same limit."""

    class EatingRunner(PlainRunner):
        def run(self, taskid, command, logfh):
            own = bytearray(330 << 20) if command.startswith("own=1") else None
            status = super().run(taskid, command, logfh)
            del own
            return status

    driver = limited_pool(600, EatingRunner)
    results = driver.run(f"own=1; {holds(330)}", holds(330, "time.sleep(1.5)"))
    out, completed = Outcome.OUT_OF_MEMORY, Outcome.COMPLETED
    assert ends(results) == [(out, KILL), (completed, 0)]
    assert together_line(told(driver), "600 MB")
    assert driver.losses() == []


def test_what_earlier_tasks_of_a_users_runner_have_left_does_not_count(limited_pool):
    class LeavingRunner(PlainRunner):
        def run(self, taskid, command, logfh):
            if taskid:
                return super().run(taskid, command, logfh)
            subprocess.Popen(command, shell=True)  # and stays its parent
            return 0

    driver = limited_pool(200, LeavingRunner)
    driver.run(f"exec {holds(120)}")
    left = set(driver.commands())
    assert left
    results = driver.run(holds(120, "time.sleep(1.5)"), first=1)
    assert results[1].outcome is Outcome.COMPLETED
    assert set(driver.commands()) == left


# ---- memory: the cgroup of a task ---------------------------------------------------


@pytest.fixture
def delegated():
    """A real cgroup that is marked as delegated, with this process in it."""
    own = cgroups.find_own()
    if own is None:
        skip_where_allowed("cgroup", "no cgroup counts the memory of this process")
    place = Path(own.directory, f"mpifarm-test-{os.getpid()}")
    try:
        place.mkdir()
        os.setxattr(place, "user.delegate", b"1")
        (place / "cgroup.procs").write_text(str(os.getpid()))
        cgroups.find_delegated()
    except (OSError, cgroups.NoCgroupError) as error:
        with suppress(OSError):
            place.rmdir()
        skip_where_allowed("cgroup", f"no cgroup can be made here: {error}")
    yield place
    Path(own.directory, "cgroup.procs").write_text(str(os.getpid()))
    for child in [*place.glob("*/"), place]:
        child.rmdir()


@pytest.fixture
def bounded_pool(delegated, start_pool):
    """A pool of two workers, with a cgroup of 200 MB for each task."""
    return start_pool(2, limits=TaskLimits(memory=200 * MB))


(KERNEL_LINE,) = take_block("when-tasks-fail.md", "=== mpifarm: it was ended by").lines
KERNEL_LINE = KERNEL_LINE.replace("4 GB", "200 MB")


def test_the_kernel_ends_a_task_whose_processes_have_too_much(bounded_pool, delegated):
    driver = bounded_pool
    driver.submit(THREE, holds(120, "time.sleep(1.5)"))
    driver.collect_until(lambda: len(driver.results()) == 2)
    results = driver.results()
    out, completed = Outcome.OUT_OF_MEMORY, Outcome.COMPLETED
    assert [results[taskid].outcome for taskid in (0, 1)] == [out, completed]
    assert told(driver)[-1] == KERNEL_LINE
    assert driver.commands() == []
    # what each process of a command may have is as ever, and so are the workers
    after = driver.run("ulimit -S -d", EATS_AT_ONCE, first=2)
    assert driver.log(2) == "204800\n"
    assert ends(after)[2:] == [(completed, 0), (out, 1)]
    assert {after[2].worker, after[3].worker} == {results[0].worker, results[1].worker}
    assert driver.losses() == []
    driver.pool.close()
    assert [*delegated.glob("mpifarm-[0-9]*")] == []


def test_a_process_that_the_kernel_killed_is_not_hidden_by_its_commands_status(
    bounded_pool,
):
    driver = bounded_pool
    results = driver.run(f"({THREE}) > /dev/null 2>&1; sleep 1000; exit 0")
    assert results[0].outcome is Outcome.OUT_OF_MEMORY
    assert told(driver)[-1] == KERNEL_LINE
    assert driver.commands() == []


def test_what_a_task_leaves_keeps_its_cgroup_and_the_next_has_its_own(
    bounded_pool, delegated
):
    driver = bounded_pool
    driver.run(f"{holds(120)} > /dev/null 2>&1 & exit 0")
    assert driver.run(holds(120, "pass"), first=1)[1].outcome is Outcome.COMPLETED
    (left,) = driver.commands()
    (home,) = delegated.glob("mpifarm-[0-9]*")
    (place,) = home.glob("*/")
    assert (place / "cgroup.procs").read_text().split() == [str(left)]
    os.kill(left, signal.SIGKILL)


# ---- the kernel's own killer --------------------------------------------------------

(OOM_LINE,) = take_block("when-tasks-fail.md", "=== mpifarm: it was killed").lines


@pytest.fixture
def counted_pool(start_pool, tmp_path, monkeypatch):
    """A pool whose worker takes a file of ours for that of its cgroup."""
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 3\noom_kill 3\n")
    monkeypatch.setattr(memory, "find_oom_file", lambda: str(events))
    return start_pool(1)


COUNT = "echo 'oom_kill 4' > memory.events; "


@pytest.mark.parametrize("end", ["kill -9 $$", "bash -c 'kill -9 $$'; exit $?"])
def test_a_command_killed_by_the_kernel_for_memory_is_told(counted_pool, end):
    driver, place = counted_pool, counted_pool.logs
    results = driver.run(f"cd {place}; {COUNT}{end}", "kill -9 $$")
    assert ends(results)[0][0] is Outcome.OUT_OF_MEMORY
    assert told(driver)[-1] == OOM_LINE
    # the next one was killed by somebody else
    assert ends(results)[1] == (Outcome.FAILED, KILL)
    assert told(driver, 1) == ["=== mpifarm: killed by signal 9 (SIGKILL) ==="]


def test_other_failures_are_not_put_down_to_the_kernel(counted_pool):
    driver = counted_pool
    results = driver.run(f"cd {driver.logs}; {COUNT} exit 3")
    assert ends(results) == [(Outcome.FAILED, 3)]


# ---- the checkpoint signal ----------------------------------------------------------

SAVES = "trap 'echo saved; exit 0' USR1; echo up; while :; do sleep 0.05; done"


@pytest.fixture
def saving_pool(start_pool):
    def start(create_runner=None):
        limits = TaskLimits(checkpoint_signal=signal.SIGUSR1)
        return start_pool(2, create_runner, limits=limits)

    return start


def stop(driver):
    driver.pool.terminate()
    driver.collect_until(lambda: driver.pool.stopped)


def test_a_stop_sends_the_checkpoint_signal_in_place_of_term(saving_pool):
    driver = saving_pool()
    driver.submit(SAVES, "trap 'echo TERM' TERM; echo up; sleep 1000")
    driver.collect_until(lambda: driver.log(0) == driver.log(1) == "up\n")
    stop(driver)
    # the sleep died of USR1, which its shell does not trap
    assert driver.log(0).startswith("up\n")
    assert driver.log(0).endswith("saved\n")
    assert driver.log(1) == "up\n"
    statuses = {i: result.status for i, result in driver.results().items()}
    assert statuses == {0: 0, 1: -signal.SIGUSR1}


def test_a_program_behind_the_shell_gets_the_checkpoint_signal_itself(saving_pool):
    driver = saving_pool()
    driver.submit(f"trap : USR1; bash -c '{SAVES.replace(chr(39), chr(34))}'; exit 5")
    driver.collect_until(lambda: driver.log(0) == "up\n")
    stop(driver)
    assert driver.log(0).endswith("saved\n")
    assert driver.results()[0].status == 5


def test_a_script_can_save_between_two_steps(saving_pool):
    driver = saving_pool()
    step = f"(trap '' USR1; echo begins; {driver.waits}; echo ends)"
    # A witness: what it has got, all of the command have got.
    notes = f"exec > /dev/null 2>&1; trap 'touch {driver.logs}/got; exit' USR1"
    script = f"trap 'echo saved; exit' USR1; while :; do {step}; done"
    driver.submit(f"({notes}; {driver.waits}) & {script}")
    driver.collect_until(lambda: driver.log(0) == "begins\n")
    driver.pool.terminate()
    driver.collect_until((driver.logs / "got").exists)
    driver.allow()
    stop(driver)
    assert driver.log(0) == "begins\nends\nsaved\n"


def test_a_stop_without_grace_kills_at_once(saving_pool):
    driver = saving_pool()
    driver.submit(SAVES)
    driver.collect_until(lambda: driver.log(0) == "up\n")
    driver.pool.kill()
    driver.collect_until(lambda: driver.pool.stopped)
    assert driver.log(0) == "up\n"


def test_a_command_that_goes_on_after_the_checkpoint_signal_is_killed(saving_pool):
    driver = saving_pool()
    driver.submit("trap 'echo saved' USR1; echo up; while :; do sleep 0.05; done")
    driver.collect_until(lambda: driver.log(0) == "up\n")
    driver.pool.terminate()
    driver.collect_until(lambda: driver.log(0).endswith("saved\n"))
    assert not driver.pool.stopped
    driver.pool.kill()
    driver.collect_until(lambda: driver.pool.stopped)
    assert driver.commands() == []


def test_the_time_limit_sends_term_whatever_the_checkpoint_signal(timed_pool):
    driver = timed_pool(checkpoint_signal=signal.SIGUSR1)
    assert ends(driver.run("sleep 1000")) == [(Outcome.TIMED_OUT, TERM)]


def test_a_users_runner_is_terminated_as_ever(saving_pool):
    class NotingRunner(PlainRunner):
        def run(self, taskid, command, logfh):
            shell = self.process = subprocess.Popen(command, shell=True, stdout=logfh)
            os.write(logfh.fileno(), b"has begun\n")
            return shell.wait()

    class DerivedRunner(BasicRunner):
        def __init__(self, definition):
            super().__init__()

    driver = saving_pool(NotingRunner)
    driver.submit("trap 'echo term; exit' TERM; echo up; while :; do sleep 0.05; done")
    driver.collect_until(lambda: {"has begun", "up"} <= set(driver.log(0).split("\n")))
    stop(driver)
    assert driver.log(0).endswith("\nterm\n")
    driver = saving_pool(DerivedRunner)
    driver.submit(SAVES, first=7)
    driver.collect_until(lambda: driver.log(7) == "up\n")
    stop(driver)
    assert driver.log(7).endswith("saved\n")
