"""What goes on in a workdir: counts, farms, what runs longest, what failed last."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.audit.audit import ClaimView
from mpifarm.audit.farms import Farm, Life
from mpifarm.audit.status import RECENT_SECONDS, Status, read_status
from mpifarm.audit.view import State
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.wording import TimeLeft
from mpifarm.store.claim_journal import Event, Head, encode_event, encode_head
from mpifarm.store.farm_liveness import FarmLiveness, Machine
from mpifarm.store.target import Target
from tests.farm_states import write_farm
from tests.unit.store_fakes import TASKS, Site
from tests.workdir_files import Attempt, format_attempts

ALL = list(range(len(TASKS)))
NOW = 1_790_000_000.0


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr("mpifarm.audit.status.time.time", lambda: NOW)
    monkeypatch.setattr("mpifarm.audit.status.time.sleep", lambda _: None)


@pytest.fixture
def site(tmp_path):
    """0 and 1 are finished; 2, 3 and 4 failed, 2 last; all others wait."""
    site = Site(tmp_path / "list_workdir")
    site.write("toprocess", ALL[5:])
    site.write("finished", [1, 0])
    site.write("failed", [4, 3, 2])
    (tmp_path / "list").write_bytes(os.fsencode("".join(f"{t}\n" for t in TASKS)))
    return site


def paths_of(site: Site) -> WorkdirPaths:
    return WorkdirPaths(str(site.root))


def claim(site: Site, pid: int, *taken: int, heard: float = NOW - 3) -> str:
    head = Head(f"c1a1{pid:04x}", "n1", "boot1", pid, 5000 + pid, 1.0, ())
    path = Path(paths_of(site).claim(head.farm))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode_head(head) + encode_event(Event(take=taken)))
    os.utime(path, (heard, heard))
    site.write("toprocess", sorted({*site.ids("toprocess")} - {*taken}))
    return head.farm


def write_attempts(site: Site, *attempts: Attempt) -> None:
    (site.root / "attempts.tsv").write_text(format_attempts(*attempts))


def look(site: Site, most_failed: int = 2) -> Status:
    target = Target(str(site.root), str(site.root.parent / "list"))
    machine: Machine = site.machine(1)
    return read_status(target, {}, most_failed=most_failed, machine=machine)


def test_what_runs_longest_comes_first_with_its_host_and_worker(site):
    farm = claim(site, 7, 5, 6, 7)
    places = {6: (1, 4, NOW - 50), 5: (0, 2, NOW - 10)}
    write_farm(paths_of(site), farm, written=NOW - 5, running=places)
    status = look(site)
    found = [
        (each.report.taskid, each.report.host, each.report.worker)
        for each in status.running
    ]
    assert found == [(6, "n2", 4), (5, "n1", 2)]
    counts = status.counts
    assert (counts[State.RUNNING], counts[State.CLAIMED]) == (2, 1)
    assert sum(counts.values()) == len(TASKS)
    assert status.rate == 0.25
    assert status.goes_on


def test_tasks_count_as_running_as_their_farm_counts_them(site):
    farm = claim(site, 7, 5, 6, 7, 8)
    numbers = {"total": 12, "finished": 2, "failed": 3, "running": 3}
    write_farm(paths_of(site), farm, written=NOW, counts=numbers)
    counts = look(site).counts
    assert (counts[State.RUNNING], counts[State.CLAIMED]) == (3, 1)


def test_more_tasks_than_are_held_do_not_run(site):
    farm = claim(site, 7, 5)
    numbers = {"total": 12, "finished": 2, "failed": 3, "running": 30}
    write_farm(paths_of(site), farm, written=NOW, counts=numbers)
    counts = look(site).counts
    assert (counts[State.RUNNING], counts[State.CLAIMED]) == (1, 0)


def test_a_farm_that_died_keeps_what_it_ran_and_nothing_runs(site):
    farm = claim(site, 8, 5, 6, heard=NOW - 200)
    site.dead.add(8)
    places = {5: (1, 2, NOW - 500), 1: (0, 1, NOW - 900)}
    write_farm(paths_of(site), farm, written=NOW - 205, running=places)
    status = look(site)
    (dead,) = status.dead
    assert (dead.life, dead.heard) == (Life.DIED, NOW - 200)
    assert [each.taskid for each in status.find_unended(dead)] == [5]
    assert (status.running, status.rate, status.goes_on) == ([], None, False)
    assert status.counts[State.ORPHANED] == 2


def test_a_farm_that_died_is_told_of_for_a_day_after_its_tasks_went_back(site):
    paths = paths_of(site)
    write_farm(paths, "aaaaaaaa01", written=NOW - 100, running={5: (1, 2, NOW - 500)})
    write_farm(paths, "bbbbbbbb01", written=NOW - 100_000)
    status = look(site)
    (dead,) = status.dead
    assert dead.farm == "aaaaaaaa01"
    assert [each.host for each in status.find_unended(dead)] == ["n2"]


def test_the_time_left_is_that_of_the_farm_that_expects_the_latest_end(site):
    for pid, likely in ((7, 90.0), (9, 200.0)):
        left = {"low": 50.0, "likely": likely, "high": 300.0}
        farm = claim(site, pid, pid - 2)
        write_farm(paths_of(site), farm, written=NOW - 60, time_left=left)
    assert look(site).time_left == (0.0, 140.0, 240.0)


def test_without_farms_there_is_no_time_left_and_no_rate(site):
    write_farm(paths_of(site), "aaaaaaaa01", written=NOW - 90, exit_status=75)
    status = look(site)
    assert (status.time_left, status.rate, status.live) == (None, None, [])
    assert status.last_gone
    assert status.last_gone.farm == "aaaaaaaa01"


def test_what_failed_last_comes_with_its_host_and_its_last_line(site):
    write_attempts(
        site,
        Attempt(3, status=1, host="n7"),
        Attempt(2, status=-9, host="n8"),
        Attempt(0),
        Attempt(1),
    )
    (site.root / "logs").mkdir()
    log = "step 1\rstep 2\nValueError: \x1b[31mno\x1b[0m\n\n=== mpifarm: killed ===\n"
    (site.root / "logs" / "log_2").write_text(log)
    last, before = look(site).failed
    assert (last.taskid, before.taskid) == (2, 3)
    assert last.attempt
    assert (last.attempt.host, last.attempt.signal) == ("n8", 9)
    assert (last.last_line, before.last_line) == ("ValueError: no", "")


def test_a_failure_of_a_plain_farmer_has_no_attempt(site):
    write_attempts(site, Attempt(0), Attempt(1), Attempt(2))
    assert [each.attempt for each in look(site).failed] == [None, None]


@pytest.mark.parametrize(
    ("attempts", "others"),
    [
        ([], 2),
        ([Attempt(0)], 1),
        ([Attempt(0), Attempt(1)], 0),
        ([Attempt(0), Attempt(1), Attempt(1), Attempt(7)], 0),
        ([Attempt(0), Attempt(1, status=1), Attempt(2, status=1)], 1),
    ],
)
def test_finished_tasks_without_an_attempt_were_run_by_others(site, attempts, others):
    write_attempts(site, *attempts)
    assert look(site).by_others == others


def test_the_attempts_of_both_formats_count(site):
    lines = "".join(each.old_line for each in (Attempt(0), Attempt(3, status=2)))
    (site.root / "attempts.1.tsv").write_text(lines)
    (site.root / "attempts.tsv").write_text(Attempt(1).line + Attempt(7).old_line)
    status = look(site)
    assert status.by_others == 0
    assert [each.attempt and each.attempt.status for each in status.failed] == [None, 2]


def test_tasks_in_no_file_go_on_with_a_plain_farmer(site):
    site.write("toprocess", ALL[6:])
    status = look(site)
    assert status.counts[State.NOWHERE] == 1
    assert status.goes_on


def test_of_several_farms_the_rates_add_up_and_the_last_end_counts(site):
    paths = paths_of(site)
    for pid, rate in ((7, 0.25), (9, 2.0)):
        write_farm(paths, claim(site, pid, pid - 2), written=NOW, rate=rate)
    for name, age in (("aaaaaaaa01", 90), ("bbbbbbbb01", 80), ("cccccccc01", 85)):
        write_farm(paths, name, written=NOW - age, exit_status=0)
    status = look(site)
    assert status.rate == 2.25
    assert status.last_gone
    assert status.last_gone.farm == "bbbbbbbb01"


# ---- the state by itself -------------------------------------------------------------


def farm(name: str, life: Life, *held: int, claimed: bool = True, **said: Any) -> Farm:
    """A farm; what it said comes by keywords, and without any it said nothing."""
    held_by = ClaimView(name, "", FarmLiveness.DEAD, frozenset(held), frozenset(held))
    report: Any = None
    if said:
        known = {"written": NOW, "running": (), "running_count": 0, "rate": 0.0}
        report = SimpleNamespace(**{**known, "time_left": None, **said})
    heard = said.get("written", NOW)
    return Farm(name, life, heard, held_by if claimed else None, report)


def status_of(*farms: Farm, **counts: int) -> Status:
    """The state of twelve tasks; those that are held are running, others wait."""
    known = dict.fromkeys(State, 0) | {State[name]: n for name, n in counts.items()}
    states = {0: State.FINISHED, 1: State.CLAIMED, 2: State.RUNNING, 3: State.RUNNING}
    view: Any = SimpleNamespace(
        counts=known,
        state=lambda taskid: states.get(taskid, State.ORPHANED),
        is_edited=False,
        list_is_known=True,
    )
    return Status(view, [*farms], [], 0, NOW, "/here")


def runs(taskid: int, started: float) -> Any:
    return SimpleNamespace(taskid=taskid, started=started)


@pytest.mark.parametrize(
    ("taken", "told", "running"),
    [((2, 3), 0, 2), ((2, 3), 4, 4), ((2, 3), 9, 5), ((0, 1), 1, 1), ((0, 0), 7, 0)],
)
def test_as_many_run_as_farms_tell_but_no_more_than_are_taken(taken, told, running):
    known, claimed = taken
    lives = farm("a", Life.LIVES, running_count=told)
    died = farm("b", Life.DIED, running_count=99)
    status = status_of(lives, died, RUNNING=known, CLAIMED=claimed, WAITING=4)
    assert status.counts[State.RUNNING] == running
    assert status.counts[State.CLAIMED] == sum(taken) - running
    assert status.counts[State.WAITING] == 4


def test_what_runs_is_what_the_view_says_and_the_longest_comes_first():
    ran = (runs(2, 20.0), runs(3, 10.0), runs(1, 5.0), runs(4, 1.0))
    lives = farm("a", Life.LIVES, 1, 2, 3, running=ran)
    died = farm("b", Life.DIED, 4, running=ran)
    found = [each.report.taskid for each in status_of(lives, died).running]
    assert found == [3, 2]


def test_a_dead_farm_has_not_ended_what_it_holds_and_is_not_finished():
    ran = (runs(5, 20.0), runs(6, 10.0), runs(0, 5.0), runs(7, 1.0))
    status = status_of()
    died = farm("a", Life.DIED, 5, 6, 0, running=ran)
    assert [each.taskid for each in status.find_unended(died)] == [6, 5]
    gone = farm("a", Life.DIED, running=ran, claimed=False)
    assert [each.taskid for each in status.find_unended(gone)] == [7, 6, 5]
    assert status.find_unended(farm("a", Life.DIED, 5)) == []


@pytest.mark.parametrize(
    ("age", "claimed", "is_told"),
    [
        (RECENT_SECONDS - 1, False, True),
        (RECENT_SECONDS, False, False),
        (RECENT_SECONDS, True, True),
    ],
)
def test_dead_farms_are_told_of_while_they_hold_tasks_or_for_a_day(
    age, claimed, is_told
):
    died = farm("a", Life.DIED, claimed=claimed, written=NOW - age)
    ended = farm("b", Life.ENDED, claimed=claimed, written=NOW - age)
    assert status_of(died, ended).dead == [died] * is_told


@pytest.mark.parametrize("state", State)
def test_tasks_are_left_that_have_neither_finished_nor_failed(state):
    is_left = state not in (State.FINISHED, State.FAILED)
    counts = {"FINISHED": 3, "FAILED": 1, state.name: 1}
    assert status_of(**counts).is_left is is_left


def test_where_the_list_alone_knows_its_tasks_some_may_be_left():
    status = status_of(FINISHED=3)
    status.view.list_is_known = False
    assert status.is_left


def test_the_last_word_is_of_the_farm_that_spoke_last_and_lives_no_more():
    first = farm("a", Life.ENDED, written=NOW - 9)
    last = farm("b", Life.ENDED, written=NOW - 5)
    died = farm("c", Life.DIED, written=NOW - 3)
    lives = farm("d", Life.LIVES, written=NOW - 1)
    silent = farm("e", Life.DIED)  # it has left no report
    status = status_of(lives, first, last, died, silent)
    assert status.last_gone == silent
    assert status_of(lives, first, last, died).last_gone == died
    assert status_of(lives, first, last).last_gone == last
    assert status.last_report is died.report
    assert status_of(lives).last_gone is None
    assert status_of(lives).last_report is None


def test_rates_and_times_left_are_of_farms_that_live_and_tell_them():
    near, far = TimeLeft(1.0, 20.0, 30.0), TimeLeft(5.0, 25.0, 90.0)
    one = farm("a", Life.LIVES, rate=1.5, time_left=near)
    other = farm("b", Life.UNCERTAIN, rate=2.0, time_left=far, written=NOW - 7)
    died = farm("c", Life.DIED, rate=50.0, time_left=TimeLeft(9.0, 999.0, 9999.0))
    silent = farm("d", Life.LIVES)
    status = status_of(one, other, died, silent)
    assert status.rate == 3.5
    assert status.time_left == near, "the other has less left by now"
    assert status_of(other).time_left == TimeLeft(0.0, 18.0, 83.0)
    late = farm("e", Life.LIVES, time_left=near, written=NOW + 60)
    assert status_of(late).time_left == near, "a clock that is ahead adds nothing"
    assert (status_of(silent, died).rate, status_of(died).time_left) == (None, None)


@pytest.mark.parametrize(
    ("life", "nowhere", "goes_on"),
    [
        (Life.LIVES, 0, True),
        (Life.UNCERTAIN, 0, True),
        (Life.DIED, 0, False),
        (Life.ENDED, 1, True),
    ],
)
def test_it_goes_on_while_a_farm_may_live_or_a_plain_farmer(life, nowhere, goes_on):
    assert status_of(farm("a", life), NOWHERE=nowhere).goes_on is goes_on
