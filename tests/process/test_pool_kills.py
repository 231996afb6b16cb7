"""What dies when something of a pool is killed, and what is told of it."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from mpifarm.model.task import Lease, Outcome
from mpifarm.pool import PoolGone, PoolUseless, WorkerLost
from mpifarm.runners import BasicRunner
from mpifarm.system.processes import children_of
from tests.support import find_pids, is_running, survivors, wait_until

FAMILY = "sleep 1000 & sleep 1000 & wait"
"""Two grandchildren and a shell: three processes."""

STUBBORN = "trap '' TERM; echo up; sleep 1000 & sleep 1000 & wait; wait; wait"


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def wait_until_nothing_is_left(token):
    wait_until(lambda: not survivors(token))


def all_gone(pids):
    return not [pid for pid in pids if is_running(pid)]


# ---- a worker is killed -------------------------------------------------------------


def test_a_killed_worker_is_told_with_what_ran_and_what_did_not(start_pool):
    driver = start_pool(workers=1)
    driver.submit(FAMILY, "true", "exit 3")
    driver.collect_until(lambda: len(driver.commands()) == 3)
    (worker,) = driver.worker_pids()
    kill(worker)
    driver.collect_until(lambda: driver.events)
    unstarted = (Lease(1, 1, "true"), Lease(2, 1, "exit 3"))
    assert driver.events == [WorkerLost(Lease(0, 1, FAMILY), unstarted, -9)]
    assert driver.commands() == []
    assert driver.pool.busy == 0


def test_a_killed_worker_is_replaced(start_pool):
    driver = start_pool(workers=2)
    driver.submit(FAMILY)
    driver.collect_until(lambda: len(driver.commands()) == 3)
    first = set(driver.worker_pids())
    kill(driver.run("true", first=1)[1].worker)
    driver.collect_until(lambda: len(driver.losses()) == 1)
    assert driver.losses() == [WorkerLost(None, (), -9)]
    driver.collect_until(lambda: len(driver.worker_pids()) == 2)
    assert set(driver.worker_pids()) != first
    assert len(driver.commands()) == 3, "the other worker's command lives on"
    # its birth told: a lease before that would wait for the other one's command
    driver.collect_until(lambda: driver.pool.idle == 1)
    assert driver.run("true", first=2)[2].status == 0


# ---- workers die before their first task --------------------------------------------


@pytest.mark.parametrize(
    ("end", "manner"),
    [
        (lambda: os._exit(9), "exit status 9"),
        (os.abort, "killed by signal 6"),
    ],
)
def test_a_pool_whose_workers_all_die_at_their_birth_says_so(start_pool, end, manner):
    driver = start_pool(2, lambda definition: end())
    driver.submit("true")
    driver.collect_until(lambda: useless(driver))
    (event,) = useless(driver)
    assert event.reason == (
        f"the workers on host {os.uname().nodename} die before their first task "
        f"({manner}): see what the runner 'default' does there when it is made"
    )
    assert len(driver.losses()) >= 10
    assert {loss.running for loss in driver.losses()} == {None}


def test_a_pool_is_not_useless_while_one_of_its_workers_works(start_pool):
    class FirstOnly(BasicRunner):
        def __init__(self):
            super().__init__()
            if os.environ["MPIFARM_WORKER"] != "0":
                os._exit(9)

    driver = start_pool(2, lambda definition: FirstOnly())
    driver.submit("sleep 1000")
    driver.collect_until(lambda: len(driver.losses()) == 6)
    assert useless(driver) == []
    assert len(driver.commands()) == 1


def test_deaths_of_idle_workers_are_counted_anew_after_each_task(start_pool):
    driver = start_pool(workers=1)
    for number in range(6):
        if number == 4:
            driver.run("true")
        driver.collect_until(lambda: len(driver.worker_pids()) == 1)
        (worker,) = driver.worker_pids()
        kill(worker)
        driver.collect_until(lambda seen=number: len(driver.losses()) > seen)
    assert useless(driver) == []
    assert driver.run("exit 3", first=1)[1].status == 3


NO_ROOM = """
import os, resource, select
from mpifarm.pool import Pool, PoolDefinition, PoolUseless

_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (9, most))
pool = Pool.launch(lambda definition: None)
logs = os.getcwd()
pool.start(PoolDefinition(2, 0, "f", logs, logs, environment=dict(os.environb)))
useless = []
while not useless:
    select.select(pool.read_fds(), (), (), 1)
    useless = [e.reason for e in pool.collect() if isinstance(e, PoolUseless)]
print(useless[0])
pool.close()
"""


def test_a_pool_none_of_whose_workers_can_be_started_says_so(farm_processes):
    rank = farm_processes([sys.executable, "-c", NO_ROOM])
    assert rank.wait() == 0, rank.text()
    assert rank.text() == (
        f"no worker can be started on host {os.uname().nodename}: see how many "
        "processes and open files you may have there (ulimit -u, ulimit -n)\n"
    )


def useless(driver):
    return [event for event in driver.events if isinstance(event, PoolUseless)]


def test_commands_that_kill_their_workers_cost_no_other_task(start_pool):
    driver = start_pool(workers=2)
    waiting = [Lease(i, 1, "kill -9 $PPID" if i % 3 else "true") for i in range(30)]
    lost: set[int] = set()
    while len(lost) + len(driver.results()) < 30:
        while waiting and driver.pool.vacancies(2):
            driver.pool.submit([waiting.pop()])
        driver.collect()
        for loss in driver.losses():
            lost.update([loss.running.taskid] if loss.running else [])
            waiting.extend(loss.unstarted)
        driver.events = [e for e in driver.events if not isinstance(e, WorkerLost)]
    assert lost == {i for i in range(30) if i % 3}
    assert all(r.outcome is Outcome.COMPLETED for r in driver.results().values())


def test_what_earlier_tasks_left_survives_the_death_of_their_worker(start_pool):
    driver = start_pool(workers=1)
    driver.run("setsid sleep 1000 & exit 0", "sleep 1000 & exit 0")
    driver.collect_until(lambda: len(driver.commands()) == 2)
    left = set(driver.commands())
    driver.submit(FAMILY, first=2)
    driver.collect_until(lambda: len(driver.commands()) == 5)
    kill(*driver.worker_pids())
    driver.collect_until(driver.losses)
    assert set(driver.commands()) == left


class SubprocessRunner:
    """As users write them: subprocess, with or without a session of its own."""

    process: subprocess.Popen[bytes]

    def __init__(self, definition):
        pass

    def run(self, taskid, command, logfh):
        self.process = subprocess.Popen(
            command, shell=True, stdout=logfh, start_new_session=taskid % 2 == 0
        )
        return self.process.wait()

    def terminate(self):
        self.process.terminate()


@pytest.mark.parametrize("victim", ["worker", "fork server"])
def test_the_children_of_a_users_runner_die_with_the_worker(start_pool, victim):
    driver = start_pool(2, SubprocessRunner)
    driver.submit(FAMILY, FAMILY)
    driver.collect_until(lambda: len(driver.commands()) == 6)
    fork_server = [driver.pool.fork_server]
    for pid in driver.worker_pids() if victim == "worker" else fork_server:
        kill(pid)
    driver.collect_until(lambda: driver.events)
    driver.collect_until(lambda: not driver.commands())


def test_the_command_of_a_users_runner_has_no_ignored_signals(start_pool):
    driver = start_pool(1, SubprocessRunner)
    driver.run("exec cat /proc/self/status")
    line = next(line for line in driver.log(0).splitlines() if "SigIgn" in line)
    glibcs = 0b11 << 31  # 32 and 33: its posix_spawn ignores them in every program
    assert int(line.split()[1], 16) & ~glibcs == 0


def test_workers_that_die_at_birth_are_forked_again_at_growing_intervals(start_pool):
    def create_runner(definition):
        os._exit(9)

    begun = time.monotonic()
    driver = start_pool(1, create_runner)
    driver.collect_until(lambda: len(driver.losses()) >= 4)
    assert time.monotonic() - begun >= 0.1 + 0.2 + 0.4
    assert {loss.status for loss in driver.losses()} == {9}


def test_workers_killed_at_random_moments_leave_no_command(start_pool):
    driver = start_pool(workers=2)
    source = random.Random(4)
    next_task = 0
    for _ in range(40):
        while driver.pool.vacancies(1):
            driver.submit("sleep 0.01; sleep 1000 & wait", first=next_task)
            next_task += 1
        time.sleep(source.random() * 0.02)
        workers = driver.worker_pids()
        if workers:
            kill(source.choice(workers))
        driver.collect(0.05)
    driver.collect_until(lambda: len(driver.worker_pids()) == 2)
    for pid in driver.worker_pids():
        kill(pid)
    deaths = len(driver.losses()) + 2
    driver.collect_until(lambda: len(driver.losses()) >= deaths)
    assert driver.commands() == []


# ---- the fork server is killed ------------------------------------------------------


def test_workers_and_commands_die_with_the_fork_server(start_pool):
    driver = start_pool(workers=3)
    driver.submit(FAMILY, STUBBORN, first=0)
    driver.submit("true", "true", first=2)
    driver.collect_until(lambda: len(driver.commands()) >= 6)
    driver.collect_until(lambda: driver.events)
    workers = driver.worker_pids()
    kill(driver.pool.fork_server)
    driver.collect_until(lambda: driver.pool.workers == 0)
    driver.collect_until(
        lambda: any(isinstance(event, PoolGone) for event in driver.events)
    )
    driver.collect_until(lambda: all_gone(workers))
    driver.collect_until(lambda: not driver.commands())
    told = [e.taskid for e in driver.events if not isinstance(e, PoolGone)]
    (gone,) = [event for event in driver.events if isinstance(event, PoolGone)]
    assert sorted(told + [lease.taskid for lease in gone.leases]) == [0, 1, 2, 3]
    assert driver.pool.stopped
    assert driver.pool.vacancies(5) == 0
    driver.pool.close()


def test_a_worker_that_hears_nothing_is_killed_by_the_rank(start_pool):
    """As one in native code: no Python handler runs in it."""

    class DeafRunner:
        def __init__(self, definition):
            pass

        def run(self, taskid, command, logfh):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
            logfh.write("deaf")
            logfh.flush()
            while True:
                time.sleep(1)

        def terminate(self):
            pass

    driver = start_pool(2, DeafRunner)
    driver.submit("", "")
    driver.collect_until(lambda: driver.log(0) == driver.log(1) == "deaf")
    workers = driver.worker_pids()
    kill(driver.pool.fork_server)
    driver.collect_until(lambda: driver.events)
    driver.collect_until(lambda: all_gone(workers))


@pytest.mark.parametrize("seed", range(20))
def test_the_fork_server_killed_at_a_random_moment_leaves_nothing(start_pool, seed):
    driver = start_pool(workers=3)
    driver.submit(*[FAMILY, "true", STUBBORN, "true", "echo; echo"] * 3)
    end = time.monotonic() + random.Random(seed).random() * 0.06
    workers = set()
    while time.monotonic() < end:
        driver.collect(0.001)
        workers.update(driver.worker_pids())
    kill(driver.pool.fork_server)
    driver.collect_until(lambda: driver.pool.stopped)
    driver.collect_until(lambda: not driver.commands())
    driver.collect_until(lambda: all_gone(workers))


# ---- the rank is killed -------------------------------------------------------------

RANK = """
import os, select, sys
from mpifarm.pool import Pool, PoolDefinition
from mpifarm.system.processes import children_of
from mpifarm.model.task import Lease

pool = Pool.launch()
logs = os.getcwd()
pool.start(PoolDefinition(3, 0, "f", logs, logs, environment=dict(os.environb)))
for taskid in range(12):
    pool.submit([Lease(taskid, 1, sys.argv[1 + taskid % (len(sys.argv) - 1)])])
while True:
    select.select(pool.read_fds(), (), (), 1)
    pool.collect()
"""


@pytest.mark.parametrize("seed", range(20))
def test_a_rank_killed_at_a_random_moment_leaves_nothing(
    farm_processes, farm_token, seed
):
    rank = farm_processes([sys.executable, "-c", RANK, FAMILY, "true", STUBBORN])
    # rank and fork server at least
    wait_until(lambda: len(list(find_pids(farm_token))) >= 2)
    time.sleep(random.Random(seed).random() * 0.1)
    kill(rank.pid)
    wait_until_nothing_is_left(farm_token)


@pytest.mark.parametrize("seed", range(20))
def test_any_one_process_of_a_pool_may_be_killed_first(
    farm_processes, farm_token, seed
):
    """Whichever it is: when the rank dies as well, nothing is left."""
    source = random.Random(seed)
    rank = farm_processes([sys.executable, "-c", RANK, FAMILY, "true", STUBBORN])
    wait_until(lambda: len(list(find_pids(farm_token))) >= 5)
    # its fork server or a worker: what a killed command leaves running is the command's
    (server,) = children_of(rank.pid)
    kill(source.choice([server, *children_of(server)]))
    time.sleep(source.random() * 0.01)
    kill(rank.pid)
    wait_until_nothing_is_left(farm_token)


# ---- terminate and kill -------------------------------------------------------------


def test_terminate_ends_what_runs_and_starts_nothing_more(start_pool):
    driver = start_pool(workers=2)
    driver.submit(*["sleep 1000"] * 2, *["true"] * 6)
    driver.collect_until(lambda: len(driver.commands()) == 2)
    driver.pool.terminate()
    driver.collect_until(lambda: driver.pool.stopped)
    assert {i: r.status for i, r in driver.results().items()} == {0: -15, 1: -15}
    assert driver.losses() == []
    assert driver.worker_pids() == []
    assert driver.log(0) == ""


def test_terminate_lets_a_command_clean_up_and_its_children_too(start_pool):
    driver = start_pool(workers=2)
    child = "trap 'sleep 0.3; echo saved; exit' TERM; echo up; sleep 1000 & wait"
    driver.submit(f'bash -c "{child}"; true', child)
    driver.collect_until(lambda: driver.log(0) == driver.log(1) == "up\n")
    driver.pool.terminate()
    driver.collect_until(lambda: driver.pool.stopped)
    assert driver.log(0) == driver.log(1) == "up\nsaved\n"
    assert driver.results()[1].status == 0
    assert driver.results()[0].seconds >= 0.3
    assert driver.commands() == []


def test_kill_ends_commands_that_ignore_term(start_pool):
    driver = start_pool(workers=2)
    driver.submit(STUBBORN, f"{STUBBORN} & exit 0 ", STUBBORN)
    driver.collect_until(lambda: driver.log(0).startswith("up"))
    driver.pool.terminate()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        driver.collect()
    assert not driver.pool.stopped
    driver.pool.kill()
    driver.collect_until(lambda: driver.pool.stopped)
    assert driver.losses() == []
    assert 2 not in driver.results()


def test_kill_leaves_nothing_once_the_pool_says_stopped(start_pool):
    driver = start_pool(workers=4)
    driver.submit(*[FAMILY, STUBBORN] * 4)
    driver.collect_until(lambda: len(driver.commands()) == 12)
    driver.pool.kill()
    driver.collect_until(lambda: driver.pool.stopped)
    assert driver.commands() == []
    assert driver.events == []


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("order", ["terminate", "kill"])
def test_an_end_at_a_random_moment_leaves_nothing(start_pool, order, seed):
    driver = start_pool(workers=3)
    driver.submit(*["true", FAMILY, "true", "sleep 1000", "echo; echo"] * 3)
    end = time.monotonic() + random.Random(seed).random() * 0.06
    while time.monotonic() < end:
        driver.collect(0.001)
    getattr(driver.pool, order)()
    driver.collect_until(lambda: driver.pool.stopped)
    assert driver.commands() == []
    assert driver.losses() == []


def test_terminate_reaches_a_users_runner(start_pool):
    driver = start_pool(1, SubprocessRunner)
    driver.submit("exec sleep 1000")
    driver.collect_until(driver.commands)
    driver.pool.terminate()
    driver.collect_until(lambda: driver.pool.stopped)
    assert driver.results()[0].status == -15


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_a_terminate_that_raises_in_a_users_runner_does_not_end_the_task(
    start_pool, tmp_path, error
):
    class RaisingRunner(SubprocessRunner):
        def terminate(self):
            (tmp_path / "raised").touch()
            raise error("no")

    driver = start_pool(1, RaisingRunner)
    driver.submit(driver.waits)
    driver.collect_until(driver.commands)
    driver.pool.terminate()
    driver.collect_until((tmp_path / "raised").exists)
    driver.allow()
    driver.collect_until(lambda: driver.pool.stopped)
    assert driver.results()[0].status == 0
