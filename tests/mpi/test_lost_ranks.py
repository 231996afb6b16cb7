"""Ranks that are killed, that hang, or in which mpifarm has a defect.

Rules of this file: the MPI is that of the environment that runs pytest; what only an
MPI that tells of dead ranks can do (`ulfm`) runs under Open MPI 5 alone.  Commands wait
for a word of the test, and each start leaves a line, so that runs can be counted.
"""

import signal
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from mpifarm.database import schema
from mpifarm.database import tasks as statements
from tests.farm_driver import Part, assert_ends
from tests.support import is_running, wait_until

pytestmark = pytest.mark.timeout(120)

RANKS = 4
WORKERS = 2

WAITS = (
    "echo $MPIFARM_RANK >> started.$PROC_NUMBER; "
    "while [ ! -e go ]; do sleep 0.02; done; echo $MPIFARM_RANK >> ended.$PROC_NUMBER"
)

BREAKS = """
import os
if os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK")) == "{rank}":
    import mpifarm.farm.agent
    step = mpifarm.farm.agent.Agent.step
    def break_in_mid_run(loop, now):
        if os.path.exists("break"):
            raise RuntimeError("broken on purpose")
        step(loop, now)
    mpifarm.farm.agent.Agent.step = break_in_mid_run
"""
"""A defect in one rank, from the moment on at which there is a file ``break``."""


@pytest.fixture
def farm(farm, mpirun):
    farm.under, farm.ranks, farm.options = mpirun, RANKS, ("-n", str(WORKERS))
    return farm


def start(farm, under, *options, tasks, busy):
    """A farm of `tasks` tasks, once `busy` of them have begun."""
    farm.write_list([WAITS] * tasks)
    child = farm.launch(*options, under=under)
    wait_until(lambda: len(starts(farm)) >= busy or child.has_ended())
    return child


def starts(farm, name="started"):
    """For each task, the ranks on which it began, in their order."""
    texts = {t: (farm.directory / f"{name}.{t}").read_text() for t in farm.marks(name)}
    # A file is there a moment before its first line.
    return {taskid: text.split() for taskid, text in texts.items() if text}


def tasks_on(farm, rank):
    """The tasks that `rank` has begun last."""
    return {taskid for taskid, ranks in starts(farm).items() if ranks[-1] == str(rank)}


def commands_on(farm, rank):
    """The pids of the commands of a rank: their environment tells."""
    found = []
    for pid in farm.pids(Part.COMMAND):
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"MPIFARM_RANK={rank}".encode() in environ:
            found.append(pid)
    return found


# ---- killed while they connect -------------------------------------------------------

DIES = """#!/bin/bash
if [ "$OMPI_COMM_WORLD_RANK" = "{rank}" ]; then
    while [ ! -e "{others}" ]; do sleep 0.02; done
    sleep 1
    kill -9 $$
fi
touch "{others}"
exec "$@"
"""
"""In front of each rank: one dies before MPI_Init, in which the others wait for it."""


@pytest.mark.parametrize("victim", [0, 2])
def test_a_rank_that_dies_while_the_others_connect_ends_the_launch_with_75(
    farm, ulfm, victim
):
    farm.write_list(["true"] * 8)
    dies = DIES.format(rank=victim, others=farm.directory / "others")
    script = farm.write_program("dies", dies)
    child = farm.start("-n", "1", under=ulfm, ranks=3, before=[str(script)])
    assert_ends(child, 75)
    assert "a rank was lost while the ranks were connecting" in child.text()
    farm.wait_until_gone()
    farm.finish("--mpi", "off", under=farm.alone)
    farm.assert_all_finished()


# ---- killed -------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [1, 3])
def test_what_a_killed_rank_ran_begins_elsewhere_without_its_timeout(
    farm, ulfm, victim
):
    busy = RANKS * WORKERS - 2
    child = start(farm, ulfm, "--rank-timeout", "1000", tasks=busy, busy=busy)
    theirs, before = tasks_on(farm, victim), starts(farm)
    commands = commands_on(farm, victim)
    assert theirs
    assert commands
    farm.signal_rank(victim, signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, commands)))
    wait_until(lambda: any(len(starts(farm)[t]) == 2 for t in theirs))
    farm.allow()
    assert_ends(child, 0)
    farm.assert_all_finished()
    again = {taskid for taskid, ranks in starts(farm).items() if len(ranks) > 1}
    assert again == theirs
    assert all(len(ranks) == 1 for t, ranks in before.items() if t not in theirs)
    assert farm.lost_ranks() == [victim]
    assert f"rank {victim}" in child.text()
    attempts = {each.taskid: each.attempt for each in farm.attempts()}
    assert all(attempts[taskid] == 2 for taskid in theirs)
    farm.wait_until_gone()


def test_all_ranks_but_one_may_die(farm, ulfm):
    child = start(farm, ulfm, tasks=12, busy=RANKS * WORKERS)
    for victim in (3, 1, 2):
        farm.signal_rank(victim, signal.SIGKILL)
    farm.allow()
    assert_ends(child, 0)
    farm.assert_all_finished()
    assert sorted(farm.lost_ranks()) == [1, 2, 3]


def wait_for_leader(child, count):
    """Until so many ranks have taken over, one after the other."""
    wait_until(lambda: child.text().count("leads from here") >= count)


# ---- rank 0 killed ------------------------------------------------------------------


def test_the_lowest_rank_leads_on_where_rank_0_was_killed(farm, ulfm):
    child = start(farm, ulfm, tasks=30, busy=RANKS * WORKERS)
    theirs = tasks_on(farm, 0)
    others = starts(farm).keys() - theirs
    farm.signal_rank(0, signal.SIGKILL)
    wait_until(lambda: "leads from here" in child.text() or child.has_ended())
    farm.allow()
    assert_ends(child, 0)
    farm.assert_all_finished()
    runs = {taskid: len(ranks) for taskid, ranks in starts(farm).items()}
    assert all(runs[taskid] == 1 for taskid in others)
    assert all(runs[taskid] == 2 for taskid in theirs)
    assert farm.lost_ranks() == [0]
    farm.wait_until_gone()


def test_so_it_does_on_a_database(farm, ulfm):
    farm.write_list([])
    farm.tasklist = farm.directory / "tasks.db"
    with schema.creating(str(farm.tasklist)) as connection:
        statements.insert_plain(connection, 0, [WAITS.encode()] * 14)
    child = farm.launch(under=ulfm)
    wait_until(lambda: len(starts(farm)) >= RANKS * WORKERS or child.has_ended())
    theirs = tasks_on(farm, 0)
    farm.signal_rank(0, signal.SIGKILL)
    wait_until(lambda: "leads from here" in child.text() or child.has_ended())
    farm.allow()
    assert_ends(child, 0)
    with closing(sqlite3.connect(farm.tasklist)) as connection:
        rows = connection.execute("SELECT state, farm, count(*) FROM tasks GROUP BY 1")
        assert rows.fetchall() == [("finished", None, 14)]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    again = {taskid for taskid, ranks in starts(farm).items() if len(ranks) > 1}
    assert again == theirs


def test_results_that_rank_0_had_not_written_yet_are_not_lost_with_it(farm, ulfm):
    held = "while [ ! -e go-on ]; do sleep 0.02; done"  # else the farm could end first
    farm.write_list([WAITS] * RANKS * WORKERS + [held])
    child = farm.launch(under=ulfm)
    wait_until(lambda: len(starts(farm)) >= RANKS * WORKERS)
    theirs = tasks_on(farm, 0)
    farm.allow()
    wait_until(lambda: len(farm.marks("ended")) == RANKS * WORKERS)
    farm.signal_rank(0, signal.SIGKILL)  # results wait for a quarter of a second
    (farm.directory / "go-on").touch()
    assert_ends(child, 0)
    farm.assert_all_finished()
    again = {taskid for taskid, ranks in starts(farm).items() if len(ranks) > 1}
    assert again <= theirs


@pytest.mark.parametrize("victims", [(1, 0), (0, 1)])
def test_rank_0_and_its_successor_may_die_at_one_moment(farm, ulfm, victims):
    child = start(farm, ulfm, tasks=30, busy=RANKS * WORKERS)
    for victim in victims:
        farm.signal_rank(victim, signal.SIGKILL)
    wait_until(lambda: "leads from here" in child.text() or child.has_ended())
    farm.allow()
    assert_ends(child, 0)
    farm.assert_all_finished()
    assert sorted(farm.lost_ranks()) == [0, 1]


def test_one_after_the_other_may_lead(farm, ulfm):
    child = start(farm, ulfm, tasks=30, busy=RANKS * WORKERS)
    for victim in (0, 1, 2):
        farm.signal_rank(victim, signal.SIGKILL)
        wait_for_leader(child, victim + 1)
    farm.allow()
    assert_ends(child, 0)
    farm.assert_all_finished()
    assert max(Counter(map(len, starts(farm).values()))) <= RANKS


def test_failures_go_on_counting_where_another_rank_leads(farm, ulfm):
    farm.write_list(["exit 4"] * 2 + [WAITS] * 8 + ["exit 4"] * 20)
    child = farm.start("-n", "1", "--max-failures", "3", under=ulfm)
    wait_until(lambda: len(farm.failed()) == 2 and len(farm.marks("started")) == RANKS)
    # The new leader knows by these lines which of the failures are its farm's own.
    wait_until(lambda: len(farm.attempts()) == 2)
    farm.signal_rank(0, signal.SIGKILL)
    wait_for_leader(child, 1)
    farm.allow()
    assert_ends(child, 1)
    assert 3 <= len(farm.failed()) < 22
    assert "--max-failures is 3" in child.text()


def test_a_new_coordinator_heeds_signals(farm, ulfm):
    child = start(farm, ulfm, tasks=30, busy=RANKS * WORKERS)
    farm.signal_rank(0, signal.SIGKILL)
    wait_until(lambda: "leads from here" in child.text())
    farm.signal_rank(3, signal.SIGUSR1)
    assert_ends(child, 75)
    farm.assert_sound()
    assert farm.claims() == []
    assert farm.failed() == []
    assert farm.to_process() == farm.all_ids()
    farm.wait_until_gone()


def test_what_rank_0_had_been_told_to_drain_stays_drained(farm, ulfm):
    child = start(farm, ulfm, tasks=30, busy=RANKS * WORKERS)
    farm.signal_rank(2, signal.SIGUSR2)
    wait_until(lambda: "nothing more is started" in child.text())
    theirs = tasks_on(farm, 0)
    farm.signal_rank(0, signal.SIGKILL)
    wait_until(lambda: "leads from here" in child.text())
    farm.allow()
    assert_ends(child, 75)
    farm.assert_sound()
    assert len(farm.finished()) == RANKS * WORKERS - len(theirs)


def test_rank_0_may_be_killed_as_the_farm_begins(farm, ulfm):
    farm.write_list(["while [ ! -e go ]; do sleep 0.02; done"] * 20)
    child = farm.start("-n", "1", under=ulfm)
    wait_until(lambda: "4 ranks" in child.text() or child.has_ended())
    farm.signal_rank(0, signal.SIGKILL)
    farm.allow()
    assert_ends(child, 0)
    farm.assert_all_finished()
    farm.wait_until_gone()


# ---- hanging ------------------------------------------------------------------------


def test_a_rank_that_hangs_is_given_up_and_does_not_hold_up_the_end(farm, mpirun):
    child = start(
        farm, mpirun, "--rank-timeout", "2", tasks=6, busy=RANKS * WORKERS - 2
    )
    theirs = tasks_on(farm, 2)
    assert theirs
    farm.signal_rank(2, signal.SIGSTOP)
    wait_until(lambda: any(len(starts(farm)[t]) == 2 for t in theirs))
    farm.allow()
    wait_until(farm.has_result)
    # hydra may tell of the rank that it had to kill, not of the farm's own end
    assert child.wait() in (0, 9, 137), child.text()
    farm.assert_all_finished()
    assert 2 in farm.lost_ranks()
    assert "rank 2" in child.text()
    farm.wait_until_gone()


def test_a_rank_that_wakes_up_too_late_does_not_end_the_others(farm, mpirun):
    child = start(farm, mpirun, "--rank-timeout", "2", tasks=20, busy=RANKS * WORKERS)
    on_ranks = [tasks_on(farm, rank) for rank in range(RANKS)]
    commands = commands_on(farm, 2)
    assert commands
    farm.signal_rank(2, signal.SIGSTOP)
    wait_until(lambda: "rank 2" in child.text())
    farm.signal_rank(2, signal.SIGCONT)
    wait_until(lambda: not any(map(is_running, commands)))
    farm.allow()
    wait_until(farm.has_result)
    # hydra may tell of the rank that is ended at last, not of the farm's own end
    assert child.wait() in (0, 9, 137), child.text()
    farm.assert_all_finished()
    # So may be another that the machine has kept still for 2 s.
    lost = farm.lost_ranks()
    assert 2 in lost
    again = {taskid for taskid, ranks in starts(farm).items() if len(ranks) > 1}
    assert again == {taskid for rank in lost for taskid in on_ranks[rank]}
    farm.wait_until_gone()


# ---- defects ------------------------------------------------------------------------


def test_a_defect_in_one_rank_costs_that_rank_alone(farm):
    farm.write_list([WAITS] * 12)
    (farm.directory / "sitecustomize.py").write_text(BREAKS.format(rank=2))
    path = f"{farm.directory}:{farm.environment.get('PYTHONPATH', '')}"
    child = farm.launch(env={"PYTHONPATH": path})
    wait_until(lambda: len(starts(farm)) == RANKS * WORKERS)
    theirs = tasks_on(farm, 2)
    (farm.directory / "break").touch()
    wait_until(lambda: "broken on purpose" in child.text())
    farm.allow()
    assert_ends(child, 0)
    farm.assert_all_finished()
    again = {taskid for taskid, ranks in starts(farm).items() if len(ranks) > 1}
    assert again == theirs
    assert "a defect of mpifarm on rank 2" in child.text()
    farm.wait_until_gone()


def test_a_defect_on_rank_0_ends_the_farm_with_70(farm):
    farm.write_list([WAITS] * 12)
    (farm.directory / "sitecustomize.py").write_text(BREAKS.format(rank=0))
    path = f"{farm.directory}:{farm.environment.get('PYTHONPATH', '')}"
    child = farm.launch(env={"PYTHONPATH": path})
    wait_until(lambda: len(starts(farm)) == RANKS * WORKERS)
    (farm.directory / "break").touch()
    # hydra may kill the rank that aborts before it hears of its status
    assert child.wait() in (70, 9), child.text()
    assert "a defect of mpifarm" in child.text()
    farm.wait_until_gone()
    (farm.directory / "break").unlink()
    farm.allow()
    farm.finish()
    farm.assert_all_finished()
