"""Coordinator, agents and pools over live MPI ranks, in this process of pytest.

Rules of this file: every rank runs every test; rank 0 conducts, the others follow, as
`mpifarm.farm.process` has it.  The workdir is real; pools are fakes where a test is
about what ranks say to each other.
"""

import json
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mpifarm.errors import ExitStatus
from mpifarm.farm.context import ProcessContext, RankContext, UserOutput
from mpifarm.model.messages import (
    Assign,
    Join,
    Shutdown,
    SignalReceived,
    Stop,
    Stopped,
    Welcome,
)
from mpifarm.model.settings import FarmDefinition, RunnerDefinition, Settings
from mpifarm.model.task import Lease, Outcome, Result
from mpifarm.pool import Pool
from mpifarm.system.event_loop import Clock
from mpifarm.system.signals import SIGNALS, SignalInbox
from tests.invariants import find_violations
from tests.workdir_files import WorkdirFiles

pytestmark = [pytest.mark.mpi(min_size=3), pytest.mark.timeout(60)]

CPU_SHARE = 0.05
"""Promised are 2 % of a core, on a machine that has nothing else to do."""

ANSWER_SECONDS = 0.15
"""Of the median answer, on a machine that may be full of ranks: a rank that slept
through messages would take longer.  `make bench` measures the 5 ms of the promise."""


class FakePool:
    """A pool whose commands end at once, or, those that are ``long``, when told to."""

    def __init__(self):
        self.running: deque[Lease] = deque()
        self.ended: list[Result] = []
        self.submitted: list[Lease] = []
        self.workers = 0
        self.over = False
        self.look: Callable[[], None] = lambda: None

    def start(self, definition):
        self.workers = definition.workers

    def vacancies(self, ahead):
        return 0 if self.over else self.workers * (1 + ahead) - len(self.running)

    def least_ahead(self):
        return 0

    def submit(self, leases):
        for lease in leases:
            self.submitted.append(lease)
            self.running.append(lease)
            if lease.command != "long":
                self.end(lease)

    def recall(self):
        return []

    @property
    def leases(self):
        return [*self.running]

    def cancel(self, taskid, attempt):
        for lease in [*self.running]:
            if lease[:2] == (taskid, attempt):
                self.end(lease, Outcome.CANCELLED, -15)

    @property
    def busy(self):
        return len(self.running)

    def count_busy(self):
        return len(self.running)

    def running_tasks(self):
        return []

    def end(self, lease, outcome=Outcome.COMPLETED, status=0):
        self.running.remove(lease)
        now = time.monotonic()
        self.ended.append(
            Result(lease.taskid, lease.attempt, outcome, status, 1, 1.7e9, 1e-4, now)
        )

    def end_all(self, outcome=Outcome.COMPLETED, status=0):
        for lease in list(self.running):
            self.end(lease, outcome, status)

    def collect(self):
        """As a pool's; called in each step of the rank's loop."""
        self.look()
        ended, self.ended = self.ended, []
        return ended

    def is_full(self):
        return len(self.running) == self.workers > 0

    def terminate(self):
        self.over = True
        self.end_all(Outcome.FAILED, -signal.SIGTERM)

    def kill(self):
        self.over = True
        self.running.clear()

    def close(self):
        self.over = True

    @property
    def stopped(self):
        return self.over and not self.running and not self.ended

    def read_fds(self):
        return []


class DeafToTerm(FakePool):
    """Its commands end by KILL alone."""

    def terminate(self):
        self.over = True


@dataclass
class LiveFarm:
    """This rank's part of a farm, and where the farm is."""

    comm: Any
    directory: str
    said: list[str] = field(default_factory=list)

    @property
    def workdir(self):
        return self.directory + "/work"

    def context(self, pool, signals, **settings):
        settings = {"workers": 2, "grace": 0.5, **settings}
        say = self.said.append
        output = UserOutput(say, say, say, say, say)
        return RankContext(
            Settings(self.directory + "/tasks.txt", self.workdir, **settings),
            ProcessContext({}, {}, signals, output),
            pool,
            self.comm,
            {name: value for name, value in os.environb.items() if name == b"PATH"},
        )

    def run(self, context):
        """This rank's part to its end; rank 0 gets (exit status, whether lost)."""
        from mpifarm.farm.process import _follow, _Followed
        from mpifarm.farm.startup import lead_farm

        if self.comm.rank == 0:
            try:
                return lead_farm(context)
            finally:
                dismiss(self.comm)
        clock = Clock()
        loop = context.create_agent(lambda m: self.comm.send(0, m), clock.now)
        assert _follow(loop, context, self.comm, clock, []) is _Followed.LEFT
        assert self.comm.flush(10)
        return None

    def write_list(self, commands):
        if self.comm.rank == 0:
            with open(self.directory + "/tasks.txt", "w") as tasklist:
                tasklist.writelines(f"{command}\n" for command in commands)

    @property
    def files(self):
        return WorkdirFiles(self.workdir)


@pytest.fixture
def world():
    from mpi4py import MPI

    return MPI.COMM_WORLD


@pytest.fixture
def live_farm(world, tmp_path):
    from mpi4py import MPI

    from mpifarm.transport.mpi import Comm

    farm = LiveFarm(Comm(MPI, world.Dup()), world.bcast(str(tmp_path)))
    yield farm
    world.Barrier()


@pytest.fixture
def signals():
    """A real inbox; what the signals did before is put back."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    inbox = SignalInbox()
    inbox.install()
    yield inbox
    signal.set_wakeup_fd(-1)
    for signum, action in before.items():
        signal.signal(signum, action)
    os.close(inbox.fd)


def signal_myself(when, signum):
    """A look that sends this process a signal, once, when it is time."""
    due = [signum]

    def look():
        if due and when():
            os.kill(os.getpid(), due.pop())

    return look


# ---- work ---------------------------------------------------------------------------


def test_every_task_runs_once_and_every_rank_does_some(live_farm, signals):
    live_farm.write_list([f"quick {n}" for n in range(3000)])
    ended = live_farm.run(live_farm.context(FakePool(), signals))
    if live_farm.comm.rank == 0:
        assert ended == (ExitStatus.ALL_FINISHED, False, ())
        assert sorted(live_farm.files.ids("finished")) == list(range(3000))
        assert live_farm.files.ranks_at_work() == set(range(live_farm.comm.size))


def test_commands_of_a_megabyte_reach_the_pools_of_all_ranks_whole(
    live_farm, signals, world
):
    commands = [f"{n} " + "x" * 1_000_000 for n in range(4 * live_farm.comm.size)]
    live_farm.write_list(commands)
    pool = FakePool()
    ended = live_farm.run(live_farm.context(pool, signals, workers=1))
    assert all(lease.command == commands[lease.taskid] for lease in pool.submitted)
    shares = world.gather([lease.taskid for lease in pool.submitted])
    if live_farm.comm.rank == 0:
        assert ended == (ExitStatus.ALL_FINISHED, False, ())
        ran = [taskid for share in shares for taskid in share]
        assert sorted(ran) == list(range(len(commands)))


def test_real_pools_run_real_commands_on_every_rank(live_farm, signals):
    # the fork server is forked after MPI_Init here, which a farm itself never does
    live_farm.write_list(["echo $PROC_NUMBER $MPIFARM_RANK; sleep 0.05"] * 40)
    pool = Pool.launch()
    ended = live_farm.run(live_farm.context(pool, signals))
    if live_farm.comm.rank == 0:
        pool.close()
        assert ended == (ExitStatus.ALL_FINISHED, False, ())
        logs = {}
        for taskid in range(40):
            with open(f"{live_farm.workdir}/logs/log_{taskid}") as log:
                logs[taskid] = log.read().split()
        assert [int(words[0]) for words in logs.values()] == list(range(40))
        ranks = {int(words[1]) for words in logs.values()}
        assert (
            ranks == set(range(live_farm.comm.size)) == live_farm.files.ranks_at_work()
        )


def test_a_list_without_tasks_lets_every_rank_go(live_farm, signals, world):
    live_farm.write_list([])
    ended = live_farm.run(live_farm.context(FakePool(), signals))
    if live_farm.comm.rank == 0:
        assert ended == (ExitStatus.ALL_FINISHED, False, ())


# ---- stops --------------------------------------------------------------------------


def assert_all_given_back(farm, ended, count):
    assert ended == (ExitStatus.RUN_AGAIN, False, ())
    assert farm.files.ids("toprocess") == list(range(count))
    assert not os.path.exists(farm.workdir + "/failed")
    assert find_violations(farm.workdir, ["long"] * count, in_hand=()) == []


@pytest.mark.parametrize("of_last_rank", [False, True])
@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_to_any_rank_stops_all_and_everything_is_given_back(
    live_farm, signals, of_last_rank, signum
):
    comm = live_farm.comm
    live_farm.write_list(["long"] * 50)
    pool = FakePool()
    if comm.rank == (comm.size - 1 if of_last_rank else 0):
        pool.look = signal_myself(pool.is_full, signum)
    ended = live_farm.run(live_farm.context(pool, signals))
    assert not pool.running
    if comm.rank == 0:
        assert_all_given_back(live_farm, ended, 50)


def test_commands_deaf_to_term_are_killed_after_the_grace_time(live_farm, signals):
    live_farm.write_list(["long"] * 20)
    pool = DeafToTerm()
    if live_farm.comm.rank == 1:
        pool.look = signal_myself(pool.is_full, signal.SIGUSR1)
    begun = time.monotonic()
    ended = live_farm.run(live_farm.context(pool, signals, grace=0.5))
    assert not pool.running
    assert 0.5 <= time.monotonic() - begun < 0.5 + 1 + 4
    if live_farm.comm.rank == 0:
        assert_all_given_back(live_farm, ended, 20)


def test_a_rank_that_never_answers_is_given_up_in_time_and_its_tasks_go_back(
    live_farm, signals, world
):
    comm = live_farm.comm
    last = comm.size - 1
    live_farm.write_list(["long"] * 50)
    pool = FakePool()
    if comm.rank == last:
        # it takes its leases, and is not heard again
        comm.send(0, Join("host", 1, 2))
    if comm.rank == 0:
        pool.look = signal_myself(pool.is_full, signal.SIGUSR1)
        begun = time.monotonic()
        status, lost, _ = live_farm.run(live_farm.context(pool, signals, grace=0.5))
        assert time.monotonic() - begun < 0.5 + 1 + 3
        assert lost
        assert_all_given_back(live_farm, (status, False, ()), 50)
        with open(live_farm.workdir + "/result.json") as result:
            assert [each["rank"] for each in json.load(result)["lost"]] == [last]
    elif comm.rank != last:
        live_farm.run(live_farm.context(pool, signals))
    world.Barrier()
    if comm.rank == last:
        kinds = []
        while messages := comm.receive():
            kinds += [type(message) for _, message in messages]
        assert kinds[0] is Welcome
        assert Stop in kinds


def test_a_rank_that_does_not_hear_of_rank_0_any_more_kills_its_commands(
    live_farm, signals, world, monkeypatch
):
    from mpifarm.farm.process import _follow, _Followed

    monkeypatch.setattr("mpifarm.farm.agent.SILENCE_SECONDS", 0.5)
    comm, pool = live_farm.comm, FakePool()
    context = live_farm.context(pool, signals)
    definition = FarmDefinition("f", live_farm.workdir, RunnerDefinition(), 0.5)
    if comm.rank == 0:
        claims = Path(live_farm.workdir, "claims")
        claims.mkdir(parents=True)
        (claims / "f").touch()  # the ranks look whether the workdir is shared
        for rank in range(1, comm.size):
            comm.send(rank, Welcome(definition, 0))
            comm.send(rank, Assign((Lease(rank, 1, "long"),)))
        assert comm.flush(10)
    else:
        clock = Clock()
        loop = context.create_agent(lambda m: comm.send(0, m), clock.now)
        assert _follow(loop, context, comm, clock, []) is _Followed.FORSAKEN
        assert pool.submitted == [Lease(comm.rank, 1, "long")]
        assert pool.over
        assert not pool.running
    world.Barrier()
    while comm.receive():  # what they have said to rank 0
        pass


# ---- waiting ------------------------------------------------------------------------


def test_ranks_that_wait_for_two_seconds_use_next_to_no_cpu(live_farm, signals):
    live_farm.write_list(["long"] * 50)
    pool = FakePool()
    times: list[tuple[float, float]] = []

    def look():
        if pool.is_full():
            times.append((time.monotonic(), time.process_time()))
            stop_in_time()

    def stop_in_time():
        if times[-1][0] - times[0][0] > 2.5 and live_farm.comm.rank == 0:
            os.kill(os.getpid(), signal.SIGUSR1)

    pool.look = look
    live_farm.run(live_farm.context(pool, signals))
    (begun, cpu_begun), (ended, cpu_ended) = times[0], times[-1]
    assert ended - begun > 1.5
    share = (cpu_ended - cpu_begun) / (ended - begun)
    assert share < CPU_SHARE, f"rank {live_farm.comm.rank} used {share:.1%} of a core"


def seconds_until_answer(comm, answer):
    begun = time.monotonic()
    while not (messages := comm.receive()):
        assert time.monotonic() - begun < 10
        time.sleep(0.0002)
    assert [(rank, without_sure(said)) for rank, said in messages] == [answer]
    return time.monotonic() - begun


def without_sure(said):
    """A message, whatever its rank was sure of."""
    return SignalReceived(said.signum) if isinstance(said, SignalReceived) else said


def await_joins(comm):
    joined = set[int]()
    begun = time.monotonic()
    while len(joined) < comm.size - 1:
        joined |= {rank for rank, said in comm.receive() if isinstance(said, Join)}
        assert time.monotonic() - begun < 10


def dismiss(comm):
    for rank in range(1, comm.size):
        comm.send(rank, Shutdown())
    assert comm.flush(10)


def test_a_message_to_an_idle_rank_is_answered_at_once(live_farm, signals):
    comm = live_farm.comm
    if comm.rank != 0:
        live_farm.run(live_farm.context(FakePool(), signals))
        return
    seconds = []
    await_joins(comm)
    for _ in range(15):
        # until the rank's backing off has come to its end
        time.sleep(0.1)
        comm.send(1, Stop(0.5))
        seconds.append(seconds_until_answer(comm, (1, Stopped())))
    dismiss(comm)
    assert sorted(seconds)[len(seconds) // 2] < ANSWER_SECONDS


def test_a_signal_to_an_idle_rank_is_told_at_once(live_farm, signals, world):
    comm, pids = live_farm.comm, world.allgather(os.getpid())
    if comm.rank != 0:
        live_farm.run(live_farm.context(FakePool(), signals))
        return
    seconds = []
    await_joins(comm)
    for _ in range(15):
        time.sleep(0.1)
        os.kill(pids[1], signal.SIGUSR2)
        seconds.append(seconds_until_answer(comm, (1, SignalReceived(signal.SIGUSR2))))
    dismiss(comm)
    assert sorted(seconds)[len(seconds) // 2] < ANSWER_SECONDS
