"""What rank 0 decides about tasks and ranks that fail, with whole farms of some ranks.

Rules of this file: one farm shows that a policy reaches all ranks; what it decides is
tested without ranks (`tests/unit/coordinator`).  What only an MPI that tells of dead
ranks can do (`ulfm`) runs under Open MPI 5 alone.  Each start of a command leaves a
line with its rank, so that runs can be counted.
"""

import os
import signal
from collections import Counter

import pytest

from tests.farm_driver import MPIFARM, assert_ends
from tests.support import wait_until

pytestmark = pytest.mark.timeout(120)

RANKS = 3
WORKERS = 2

NOTE = "echo $MPIFARM_RANK >> started.$PROC_NUMBER"
WAITS = f"{NOTE}; while [ ! -e go ]; do sleep 0.02; done"

FAILS_ON_1 = f"{NOTE}; [ $MPIFARM_RANK != 1 ] || exit 4; sleep 0.1"
"""Fast where everything fails, slower where it succeeds."""

HELD_ELSEWHERE = f"{FAILS_ON_1}; until [ -e go ]; do sleep 0.02; done"
"""Left for rank 1, however late it comes."""

KILL_RANK = r"""#!/bin/sh
# The rank is the uppermost of the ancestors that are mpifarm itself.
is_mpifarm() { tr '\0' ' ' < /proc/$1/cmdline | grep -q '^[^ ]* -m mpifarm '; }
parent_of() { sed -n 's/^PPid:[^0-9]*//p' /proc/$1/status; }
pid=$PPID
until is_mpifarm $pid; do pid=$(parent_of $pid); done
while is_mpifarm $pid; do rank=$pid; pid=$(parent_of $pid); done
kill -9 $rank
"""


@pytest.fixture
def farm(farm, mpirun):
    farm.under, farm.ranks, farm.options = mpirun, RANKS, ("-n", str(WORKERS))
    return farm


def starts(farm):
    """For each task, the ranks on which it began, in their order."""
    texts = {t: (farm.directory / f"started.{t}") for t in farm.marks("started")}
    return {taskid: path.read_text().split() for taskid, path in texts.items()}


def starts_by_rank(farm):
    """How many commands began on each rank."""
    return Counter(rank for ranks in starts(farm).values() for rank in ranks)


# ---- retries -------------------------------------------------------------------------


@pytest.mark.one_mpi
def test_a_failed_task_runs_again_on_another_rank(farm):
    # all six begin before one fails: until then, a rank may come late
    meets = "until [ $(ls started.* | wc -l) -ge 6 ]; do sleep 0.02; done"
    farm.write_list([f"{NOTE}; {meets}; [ $MPIFARM_ATTEMPT -ge 3 ]"] * 6)
    farm.finish("--retries", "2")
    farm.assert_all_finished()
    for ranks in starts(farm).values():
        first, second, third = ranks
        assert second not in (first, third)
    numbers = sorted((a.taskid, a.attempt, a.status) for a in farm.attempts())
    each = [(1, 1), (2, 1), (3, 0)]
    assert numbers == [(taskid, *pair) for taskid in range(6) for pair in each]


# ---- ranks that fail everything ------------------------------------------------------


@pytest.mark.one_mpi
def test_a_rank_that_fails_everything_gets_no_more_and_no_task_is_failed(farm):
    farm.write_list([FAILS_ON_1] * 20 + [HELD_ELSEWHERE] * 60)
    options = ("--quarantine", "3", "--max-failures", "1")
    child = farm.launch(*options)
    wait_until(lambda: "out of use" in child.text() or child.has_ended())
    farm.allow()
    assert_ends(child, 0)
    farm.assert_all_finished()
    assert 3 <= starts_by_rank(farm)["1"] < 40
    assert [each["rank"] for each in farm.result()["quarantined"]] == [1]
    summary = child.text().partition("80 finished")[2]
    assert "rank 1" in summary
    finished_by = {a.rank for a in farm.attempts() if a.status == 0}
    assert finished_by == {0, 2}


SEATS = r"""#!/bin/sh
# One of four licences for half a second, or a failure.
for seat in 1 2 3 4; do
    exec 9> seat.$seat
    flock -n 9 && exec sleep 0.5
done
exit 1
"""


@pytest.mark.one_mpi
def test_four_licences_for_24_workers_put_no_rank_out_of_use(farm):
    farm.write_list(["./take-a-seat"] * 60)
    farm.write_program("take-a-seat", SEATS)
    child = farm.launch("-n", "8", "--retries", "10")
    assert child.wait() in (0, 1)
    assert "out of use" not in child.text()
    assert farm.result()["quarantined"] == []


# ---- tasks that share seats ----------------------------------------------------------


def most_at_a_time(notes):
    """How many were between their `begin` and their `end`, at the most."""
    running = most = 0
    for note in notes:
        running += 1 if note == "begin" else -1
        most = max(most, running)
    return most


@pytest.mark.one_mpi
def test_no_more_of_a_kind_run_at_a_time_than_it_has_seats_on_all_ranks(farm):
    """There are two seats; each rank has as many workers."""
    seated = f"[limit=seat] echo begin >> seats; {WAITS}; sleep 0.05; echo end >> seats"
    free = RANKS * WORKERS - 2
    farm.write_list([seated] * 12 + [WAITS] * free)
    child = farm.launch("--limit", "seat=2")
    begun = farm.wait_for_marks("started", RANKS * WORKERS)
    assert len([taskid for taskid in begun if taskid < 12]) == 2, "all workers are busy"
    farm.allow()
    assert_ends(child, 0)
    farm.assert_all_finished()
    notes = farm.notes("seats")
    assert len(notes) == 24
    assert most_at_a_time(notes) == 2


# ---- tasks that kill their rank ------------------------------------------------------

POISON = f"{NOTE}; ./kill-rank; sleep 10"


def write_poisoned_list(farm, commands):
    farm.write_list(commands)
    farm.write_program("kill-rank", KILL_RANK)


def test_a_task_that_kills_its_ranks_is_failed_and_the_others_finish(farm, ulfm):
    write_poisoned_list(farm, [WAITS] * 8 + [POISON] + [NOTE] * 20)
    child = farm.launch(under=ulfm, ranks=5)
    wait_until(lambda: len(starts(farm).get(8, ())) >= 1)
    farm.allow()
    assert_ends(child, 1)
    others = [taskid for taskid in farm.all_ids() if taskid != 8]
    farm.assert_settled(finished=others, failed=[8])
    assert len(starts(farm)[8]) == 3
    assert len(farm.lost_ranks()) == 3
    assert "task 8 counts as failed: 3 times" in child.text()
    farm.wait_until_gone()


def test_a_task_that_first_killed_rank_0_is_failed_by_its_successors(farm, ulfm):
    """The first task that begins on rank 0 is the one that kills, wherever it runs."""
    kills = (
        f"{NOTE}; [ $MPIFARM_RANK = 0 ] && mkdir poison && touch poison/$PROC_NUMBER; "
        "until [ -e poison ]; do sleep 0.02; done; "
        "[ ! -e poison/$PROC_NUMBER ] || { ./kill-rank; sleep 10; }; sleep 0.1"
    )
    write_poisoned_list(farm, [kills] * 24)
    child = farm.launch(under=ulfm, ranks=5)
    assert_ends(child, 1)
    poison = int(os.listdir(farm.directory / "poison")[0])
    others = [taskid for taskid in farm.all_ids() if taskid != poison]
    farm.assert_settled(finished=others, failed=[poison])
    assert starts(farm)[poison][0] == "0"
    assert len(starts(farm)[poison]) == 3
    assert "leads from here" in child.text()
    farm.wait_until_gone()


def test_what_may_kill_the_last_rank_runs_when_all_else_is_done(farm, ulfm):
    """Two lost, and rank 0 alone is left: the others of the list come first."""
    write_poisoned_list(farm, [POISON] + [f"{NOTE}; sleep 0.1"] * 30)
    child = farm.launch(under=ulfm)
    child.wait()
    assert farm.finished() == list(range(1, 31))
    assert farm.failed() in ([], [0])


# ---- the end of the job --------------------------------------------------------------


ENDS_AT_THE_SECOND_QUESTION = """\
#!/bin/sh
echo $MPIFARM_RANK >> asked
seconds=3600; [ $(wc -l < asked) -lt 2 ] || seconds=12
echo "Job Id: 7.server"
echo "    Resource_List.walltime = $seconds"
echo "    stime = $(LC_ALL=C date '+%a %b %e %H:%M:%S %Y')"
"""


def test_a_rank_that_takes_over_asks_when_the_job_ends(farm, ulfm):
    farm.write_list([WAITS] * 20)
    farm.write_program("qstat", ENDS_AT_THE_SECOND_QUESTION)
    path = f"{farm.directory}:{farm.environment['PATH']}"
    env = {"PBS_JOBID": "7.server", "PATH": path}
    child = farm.launch("--grace", "6", under=ulfm, env=env)
    wait_until(lambda: len(farm.marks("started")) >= 3)
    wait_until(lambda: "the job ends at" in child.text())
    farm.signal_rank(0, signal.SIGKILL)
    assert_ends(child, 75)
    assert "leads from here" in child.text()
    assert child.text().count("the job ends at") == 2
    farm.assert_settled(to_process=range(20))


# ---- ranks that do not share the workdir ---------------------------------------------

OWN_DISK = """#!/bin/sh
# One rank has a directory of its own in place of the list's, as a node's own /tmp is.
if [ "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}" = 1 ]; then
    exec unshare --mount sh -c 'mount -t tmpfs t "$0" && exec "$@"' "$FARM_PLACE" "$@"
fi
exec "$@"
"""


@pytest.mark.one_mpi
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_rank_that_does_not_see_the_workdir_is_told_and_runs_nothing(farm):
    farm.write_list([WAITS] * 20)
    wrapper = farm.directory.parent / "own disk"
    wrapper.write_text(OWN_DISK)
    wrapper.chmod(0o755)
    env = {"FARM_PLACE": str(farm.directory)}
    child = farm.launch(before=[str(wrapper)], env=env)
    why = "is put out of use: the workdir is not shared: "
    wait_until(lambda: why in child.text() or child.has_ended())
    farm.wait_for_marks("started", 2 * WORKERS)
    farm.allow()
    assert_ends(child, 0)
    farm.assert_all_finished()
    assert f"rank 1 on {os.uname().nodename} {why}" in child.text()
    assert set(starts_by_rank(farm)) == {"0", "2"}


def test_a_task_is_cancelled_on_whichever_rank_runs_it(farm):
    """And the other ranks, with all that runs there, go on."""
    long = f"{NOTE}; [ $PROC_NUMBER != 2 ] || exec sleep 1000; {WAITS}"
    farm.write_list([long] * (RANKS * WORKERS) + ["true"] * 3)
    child = farm.launch()
    farm.wait_for_marks("started", RANKS * WORKERS)
    (rank,) = starts(farm)[2]
    cancel = farm.start_command([*MPIFARM, "cancel", "tasks.txt", "2,7"])
    assert cancel.wait() == 0, cancel.text()
    assert "cancelled 2 tasks: 1 ran on" in cancel.text()
    farm.allow()
    assert_ends(child, 1)
    assert farm.failed() == [2, 7]
    rows = {each.taskid: each for each in farm.attempts() if each.taskid in (2, 7)}
    assert {row.outcome for row in rows.values()} == {"cancelled"}
    assert rows[2].rank == int(rank)
