"""What a dead farm had running gets a line in ``attempts.tsv`` when it is reclaimed."""

from collections.abc import Iterator

import pytest

from mpifarm.model.paths import WorkdirPaths
from mpifarm.store import lost_attempts
from mpifarm.store.attempts import read_last_rows
from tests.farm_states import write_farm
from tests.unit.store.test_custom_store import Farms
from tests.unit.store_fakes import Killed, Site, ended, interference
from tests.workdir_files import (
    OLD_ATTEMPTS_HEAD,
    Attempt,
    format_attempts,
    split_attempts,
)

STARTED = 1_700_000_000.125
WRITTEN = STARTED + 600
RUNNING = {0: (1, 5, STARTED), 1: (0, 2, STARTED + 1), 9: (0, 3, STARTED)}
"""Task 9 is none of those that the farm holds."""
MAX_STEPS = 200


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "tasks.txt_workdir")


def leave(site, **others):
    """Leave the claim of a dead farm that holds 0 to 3, and what it said last."""
    farm = site.open()
    farm.transact((), (), 4)
    paths = WorkdirPaths(str(site.root))
    write_farm(paths, farm.farm, written=WRITTEN, running=RUNNING, **others)
    site.kill(farm)
    return farm.farm


def test_each_task_that_ran_gets_one_line_of_the_dead_farm(site):
    farm = leave(site)
    site.open()
    first, second = site.attempts()
    assert first == Attempt(
        taskid=0,
        attempt=1,
        status=-9,
        rank=1,
        worker=5,
        pid=0,
        started=STARTED,
        seconds=0.0,
        farm=farm,
        outcome="lost",
        host="n2",
        user_seconds="",
        system_seconds="",
        output_bytes="",
        command="echo task 0",
    )
    assert (second.taskid, second.host, second.worker) == (1, "n1", 2)


def test_a_farm_that_finds_a_dead_one_when_it_runs_out_of_work_writes_the_lines(site):
    site.write("toprocess", range(4))
    leave(site)
    site.dead.clear()
    other = site.open()
    site.dead.add(1)
    assert not other.transact_or_reclaim((), (), 4).empty
    assert [each.taskid for each in site.attempts()] == [0, 1]


def test_the_lines_that_stand_are_read_once_for_all_dead_farms(site, monkeypatch):
    other = site.open()
    one = leave(site)
    other.transact((), (), 4)
    running = {4: (0, 1, STARTED), 5: (0, 1, STARTED)}
    paths = WorkdirPaths(str(site.root))
    write_farm(paths, other.farm, written=WRITTEN, running=running)
    site.kill(other)
    stands = Attempt(taskid=0, status=1, farm=one, outcome="failed")
    alike = Attempt(taskid=4, status=1, farm=one, outcome="failed")
    (site.root / "attempts.tsv").write_text(format_attempts(stands, alike))
    readings = []

    def read_counted(paths: WorkdirPaths, most: int) -> Iterator[list[bytes]]:
        readings.append(most)
        return read_last_rows(paths, most)

    monkeypatch.setattr(lost_attempts, "read_last_rows", read_counted)
    site.open()
    lost = [(each.taskid, each.farm) for each in site.attempts()[2:]]
    assert lost == [(4, other.farm), (5, other.farm), (1, one)]
    assert len(readings) == 1


def test_a_line_that_came_between_two_reclaims_is_seen(site):
    """A claim that could not be removed is reclaimed again, with what it holds then."""
    living = site.open()
    dead = leave(site)
    site.dead.discard(2)
    assert living.reclaim_dead() == 0
    stands = Attempt(taskid=0, status=1, farm=dead, outcome="failed")
    (site.root / "attempts.tsv").write_text(format_attempts(stands))
    site.dead.add(2)
    assert living.reclaim_dead() == 4
    assert not living.reclaim_dead()
    living.transact_or_reclaim((), (), 1)
    living.transact([ended(0)], (), 0)
    assert [each.taskid for each in site.attempts()] == [0, 1, 0]


def test_a_task_that_has_ended_or_stands_already_gets_no_line(site):
    farm = leave(site)
    site.write("failed", [1])
    stands = Attempt(taskid=0, status=1, farm=farm, outcome="failed")
    others = Attempt(taskid=1, status=1, farm="fedcba98", outcome="failed")
    (site.root / "attempts.tsv").write_text(format_attempts(stands, others))
    site.open()
    assert site.attempts() == [stands, others]


def test_the_line_of_another_farm_or_attempt_is_not_that_of_this_one(site):
    farm = leave(site)
    rows = (Attempt(0, farm="fedcba98"), Attempt(1, attempt=2, farm=farm))
    (site.root / "attempts.tsv").write_text(format_attempts(*rows))
    site.open()
    assert [each.taskid for each in site.attempts()[2:]] == [0, 1]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 2}', '{"format": 1, "running": 7}', None]
)
def test_a_damaged_or_missing_file_of_a_farm_costs_nothing(site, content):
    farm = leave(site)
    path = site.root / "farms" / f"{farm}.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    site.open()
    assert site.ids("toprocess") == list(range(12))
    assert not (site.root / "attempts.tsv").exists()


def test_what_stands_in_a_file_of_a_farm_stays_in_its_field(site):
    host = 'a\tb\nc\x1b\ud800"'
    ranks = [{"rank": 1, "host": host, "pid": 1, "workers": 1, "state": "working"}]
    leave(site, ranks=ranks)
    site.open()
    assert [each.host for each in site.attempts()] == [r'a\tb\nc\x1b\x00"', ""]


@pytest.mark.parametrize(("ended_before", "lines"), [(61, 2), (59, 0)])
def test_where_more_was_written_since_than_is_read_no_line_is_doubled(
    site, monkeypatch, ended_before, lines
):
    leave(site)
    started = WRITTEN - ended_before - 1
    rows = [Attempt(number, started=started, farm="fedcba98") for number in range(9)]
    (site.root / "attempts.tsv").write_text(format_attempts(*rows))
    monkeypatch.setattr(lost_attempts, "MAX_READ", 300)
    site.open()
    assert len(site.attempts()) == 9 + lines


def test_beside_an_older_farm_the_line_has_the_older_format(site):
    (site.root).mkdir()
    (site.root / "attempts.tsv").write_text(OLD_ATTEMPTS_HEAD)
    other = site.open()
    (site.root / "attempts.tsv").write_text(OLD_ATTEMPTS_HEAD)
    farm = leave(site)
    site.open()
    lines = (site.root / "attempts.tsv").read_text().splitlines()
    assert lines[1] == f"0\t1\t-9\t1\t0\t{STARTED:.6f}\t0.000000\t{farm}"
    assert other.held == set()


@pytest.mark.parametrize("half", [False, True])
def test_a_kill_at_any_step_of_a_reclaim_doubles_no_line(tmp_path, monkeypatch, half):
    for at in range(1, MAX_STEPS):
        site = Site(tmp_path / str(at))
        leave(site)
        try:
            with interference(monkeypatch, at, Killed(), half=half):
                site.open()
        except Killed:
            last = site.open()
        else:
            assert at > 10
            assert [each.taskid for each in site.attempts()] == [0, 1]
            return
        last.transact((), (), 12)
        last.transact([ended(taskid) for taskid in sorted(last.held)], (), 0)
        assert site.violations() == []
        attempts, _torn = split_attempts(site.content("attempts.tsv"))
        lost = [each.taskid for each in attempts if each.outcome == "lost"]
        assert len({*lost}) == len(lost), at
    pytest.fail("a reclaim has no end")


def test_a_list_with_its_own_state_gets_the_lines_too(tmp_path):
    farms = Farms(tmp_path / "list_workdir")
    one = farms.open()
    farms.transact(one, take=2)
    paths = WorkdirPaths(str(farms.site.root))
    running = {11: (0, 1, STARTED), 3: (0, 1, STARTED)}
    write_farm(paths, one.farm, written=WRITTEN, running=running)
    farms.kill(one)
    farms.open()
    (line,) = farms.site.attempts()
    assert (line.taskid, line.outcome, line.farm) == (11, "lost", one.farm)
