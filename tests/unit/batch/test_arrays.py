"""Members of one job array on one list: whose tasks count as done.

Rules of this file: no process; a farm that is killed leaves its claim and no lock.
"""

import json

import pytest

from mpifarm.batch.arrays import find_array
from mpifarm.commands.options import parse_arguments
from mpifarm.errors import ExitStatus
from mpifarm.farm.summary import ListCounts
from mpifarm.store.claim_journal import encode_head, parse_head
from mpifarm.store.file_store import FileStore
from tests.unit.store.test_claims import HEAD
from tests.unit.store_fakes import FakeLock, PlainFarmer, Site, ended

# ---- which array ---------------------------------------------------------------------

SLURM = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "9"}
SGE = {"JOB_ID": "7", "SGE_TASK_ID": "2"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SLURM, {**SLURM, "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "10"}),
        (
            {"LSB_JOBID": "7", "LSB_JOBINDEX": "1"},
            {"LSB_JOBID": "7", "LSB_JOBINDEX": "2"},
        ),
        ({"PBS_JOBID": "7[1].server"}, {"PBS_JOBID": "7[12].server"}),
        (SGE, {**SGE, "SGE_TASK_ID": "3"}),
    ],
)
def test_members_of_an_array_have_one_name(one, other):
    assert find_array(one) == find_array(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SLURM, {**SLURM, "SLURM_ARRAY_JOB_ID": "8"}),
        (SLURM, {**SLURM, "SLURM_CLUSTER_NAME": "another"}),
        (SLURM, SGE),
        ({"PBS_JOBID": "7[1].server"}, {"PBS_JOBID": "7[1].another"}),
        (SGE, {**SGE, "SGE_CELL": "another"}),
        ({"LSB_JOBID": "7", "LSB_JOBINDEX": "1"}, {"PBS_JOBID": "7[1].server"}),
    ],
)
def test_two_arrays_have_two_names(one, other):
    assert find_array(one) != find_array(other)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "7"},
        {"LSB_JOBID": "7", "LSB_JOBINDEX": "0"},
        {"PBS_JOBID": "7.server"},
        {"JOB_ID": "7", "SGE_TASK_ID": "undefined"},
        {"SLURM_ARRAY_JOB_ID": "7\x1b[31m"},
        {"SLURM_ARRAY_JOB_ID": "7" * 300},
        {"SLURM_ARRAY_JOB_ID": "7" * (200 - len("slurm  "))},
    ],
)
def test_outside_of_an_array_there_is_no_name(environ):
    assert find_array(environ) == ""


def test_a_claim_says_the_array_and_older_claims_none():
    head = HEAD._replace(array="slurm test 7")
    assert parse_head(encode_head(head)) == head
    record = json.loads(encode_head(head))
    del record["array"]
    assert parse_head(json.dumps(record).encode()) == HEAD


# ---- what others hold ----------------------------------------------------------------


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "w")


def join(site, array):
    """Open the workdir as a farm of this job array."""
    site.farms += 1
    machine = site.machine(site.farms)
    lock = FakeLock(site.root / "lock")
    farm = f"{site.farms:08x}"
    return FileStore.open(
        *(str(site.root), list(site.tasks), lock, farm, lambda: site.now, machine),
        array=array,
    )


def count(workdir):
    return workdir.counts(workdir.survey(in_array=True))


def finish_some(workdir):
    """Take and finish all tasks that no other farm holds."""
    taken = workdir.transact([], [], 12).taken
    workdir.transact([ended(taskid) for taskid in taken], [], 0)


def test_what_a_living_member_of_the_array_holds_is_counted(site):
    holder = join(site, "slurm test 7")
    assert holder.transact([], [], 3).taken == [0, 1, 2]
    leaver = join(site, "slurm test 7")
    finish_some(leaver)
    counts = count(leaver)
    assert (counts.claimed, counts.in_array, counts.elsewhere) == (3, 3, 0)
    assert (counts.finished, counts.toprocess) == (9, 0)


def test_who_does_not_ask_for_the_array_opens_no_claim_of_others(site, monkeypatch):
    join(site, "slurm test 7").transact([], [], 3)
    leaver = join(site, "slurm test 7")
    finish_some(leaver)
    monkeypatch.setattr("mpifarm.store.membership.grasped", None)
    counts = leaver.counts(leaver.survey())
    assert (counts.claimed, counts.in_array) == (3, 0)


@pytest.mark.parametrize("array", ["", "slurm test 8", "slurm other 7"])
def test_what_a_farm_outside_of_the_array_holds_is_not(site, array):
    holder = join(site, array)
    holder.transact([], [], 3)
    leaver = join(site, "slurm test 7")
    finish_some(leaver)
    counts = count(leaver)
    assert (counts.claimed, counts.in_array) == (3, 0)


def test_two_farms_outside_of_any_array_are_none(site):
    join(site, "").transact([], [], 3)
    leaver = join(site, "")
    finish_some(leaver)
    assert count(leaver).in_array == 0


def test_a_member_that_only_may_live_does_not_count(site):
    holder = join(site, "slurm test 7")
    holder.transact([], [], 3)
    leaver = join(site, "slurm test 7")
    finish_some(leaver)
    holder._member.claim.end()  # its process is there, its lock is not
    counts = count(leaver)
    assert (counts.claimed, counts.in_array) == (3, 0)


def test_a_member_that_is_dead_does_not_count(site):
    holder = join(site, "slurm test 7")
    holder.transact([], [], 3)
    leaver = join(site, "slurm test 7")
    finish_some(leaver)
    site.kill(holder)
    assert count(leaver).in_array == 0


def test_what_a_plain_farmer_has_is_in_no_hands(site):
    plain = PlainFarmer(site)
    plain.pop()
    leaver = join(site, "slurm test 7")
    finish_some(leaver)
    counts = count(leaver)
    assert (counts.elsewhere, counts.in_array) == (1, 0)


# ---- the exit status -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "is_good"),
    [
        (ListCounts(9, 6, 0, 0, 3, claimed=3, in_array=3), True),
        (ListCounts(9, 6, 0, 0, 3, claimed=3, in_array=2), False),
        (ListCounts(9, 6, 0, 0, 3, claimed=2, in_array=2), False),
        (ListCounts(9, 5, 1, 0, 3, claimed=3, in_array=3), False),
        (ListCounts(9, 5, 0, 1, 3, claimed=3, in_array=3), False),
        (ListCounts(9, 9, 0, 0, 0), False),
        (ListCounts(9, 8, 1, 0, 0), False),
    ],
)
def test_only_where_members_hold_all_the_rest_and_nothing_failed_is_it_in_good_hands(
    counts, is_good
):
    assert counts.is_in_good_hands is is_good
    if is_good:
        assert counts.exit_status is ExitStatus.WITH_OTHERS


def test_the_option_is_off_unless_it_is_given():
    assert not parse_arguments(["tasks.txt"], {}).in_array
    assert parse_arguments(["--in-array", "tasks.txt"], {}).in_array
