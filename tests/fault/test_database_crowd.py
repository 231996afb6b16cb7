"""Many at work on one database: some seeds, or `CROWD_RUNS`.

    CROWD_SEED=17 pytest tests/fault/test_database_crowd.py     # that one alone

Rules of this file: what is played stands in `tests.fault.database_crowd`; a failure
tells its seed, all acts, what was done to whom, what is wrong, and what all have
printed.
"""

import fcntl
import os
import sqlite3
from contextlib import closing

import pytest

from mpifarm.database import schema
from mpifarm.database import tasks as statements
from tests.fault.crowd import missing
from tests.fault.database_crowd import HoldWatch, plan, play
from tests.fault.database_evidence import DatabaseScene
from tests.fault.evidence import Task
from tests.fault.test_crowd import features_of
from tests.support import kill_survivors, wait_until
from tests.workdir_files import Attempt, format_attempts

pytestmark = pytest.mark.timeout(240)

SEEDS = [11, 23, 172]
"""Such that all who can be killed are killed, and all others' acts are among them."""

FIRST = int(os.environ.get("CROWD_SEED", "1"))
IS_SAMPLE = not {"CROWD_SEED", "CROWD_RUNS"} & os.environ.keys()
RUNS = int(os.environ.get("CROWD_RUNS", "1"))


@pytest.mark.parametrize("seed", SEEDS if IS_SAMPLE else range(FIRST, FIRST + RUNS))
def test_each_row_ends_once_and_in_its_order_whoever_is_killed(seed, tmp_path):
    scenario = plan(seed)
    if why := missing(scenario):
        pytest.skip(why)
    outcome = play(scenario, tmp_path / "scene")
    assert not outcome.findings, outcome.report


def acts_of(scenario):
    """What a sample has to have, beside the options of farms."""
    yield from (act for act in features_of(scenario) if not act.startswith("--"))
    for each in scenario.appended:
        yield "the user's SQL killed" if each.killed_after is not None else "SQL ends"
        yield "inserted in an order" if each.after else "inserted"


def test_a_seed_is_one_scenario_and_the_seeds_have_all_acts():
    scenarios = [plan(seed) for seed in SEEDS]
    assert scenarios == [plan(seed) for seed in SEEDS]
    assert all(scenario.reader_kills for scenario in scenarios)
    many = {act for seed in range(300) for act in acts_of(plan(seed))}
    assert {act for scenario in scenarios for act in acts_of(scenario)} == many


# ---- the judges see what is wrong ----------------------------------------------------


@pytest.fixture
def scene(tmp_path):
    """A database of two tasks, each of which has run and is recorded."""
    scene = DatabaseScene(tmp_path / "scene", [Task("0", 0, "a"), Task("0", 0, "b")])
    scene.build()
    with schema.creating(str(scene.tasklist)) as connection:
        lines = [task.line.encode() for task in scene.tasks]
        statements.insert_plain(connection, 0, lines)
        connection.execute(
            "UPDATE tasks SET state = 'finished', attempt = 1, outcome = 'completed',"
            " status = 0, signal = 0, host = 'n1'"
        )
    scene.workdir.mkdir()
    attempts = format_attempts(Attempt(0), Attempt(1))
    (scene.workdir / "attempts.tsv").write_text(attempts)
    for taskid in (0, 1):
        note_run(scene, taskid, 10)
    return scene


def note_run(scene, taskid, start):
    with (scene.directory / "runs" / str(taskid)).open("a") as notes:
        notes.write(f"start {start} 1 1 {start}\nend {start} 1 1 {start + 1}\n")


def test_a_line_of_attempts_is_missing_after_a_kill_alone(scene):
    assert [*scene.judge_agreement([])] == []
    (scene.workdir / "attempts.tsv").write_text(format_attempts(Attempt(0)))
    assert [*scene.judge_agreement([11.5])] == []
    for kills in ([], [5.0], [30.0]):
        (finding,) = scene.judge_agreement(kills)
        assert finding.startswith("row 1 (finished) says of attempt 1")


def test_a_row_and_its_line_that_differ_are_found(scene):
    lines = format_attempts(Attempt(0), Attempt(1, status=3))
    (scene.workdir / "attempts.tsv").write_text(lines)
    (finding,) = scene.judge_agreement([])
    assert finding.startswith("row 1 (finished) says of attempt 1")


def test_a_task_runs_again_after_a_kill_alone(scene):
    note_run(scene, 1, 20)
    assert [*scene.judge_repeats([15.0])] == []
    for kills in ([], [5.0], [25.0]):
        (finding,) = scene.judge_repeats(kills)
        assert finding.startswith("task 1 ran again without a kill")


def test_a_look_tells_the_states_and_finds_damage(scene):
    sight = scene.look()
    assert (sight.finished, sight.listing.odd) == ({0, 1}, [])
    with closing(sqlite3.connect(scene.tasklist)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_master WHERE name = 'unfinished'")
        connection.commit()
    assert scene.look().listing.odd


def test_a_look_is_put_off_while_a_program_writes(scene):
    with closing(sqlite3.connect(scene.tasklist, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert scene.look() is None


def test_how_long_a_process_waits_with_the_lock_is_summed_up(
    tmp_path, farm_processes, farm_token
):
    lock = tmp_path / "lock"
    lock.touch()
    holds = HoldWatch(lock)
    child = farm_processes(["flock", str(lock), "sleep", "1000"])
    first = wait_until(lambda: holds.find_time(child.pid))
    wait_until(lambda: holds.find_time(child.pid) > first)
    assert holds.find_time(1) == 0
    kill_survivors(farm_token)  # both have the lock
    assert holds.find_time(child.pid) == 0


def test_a_process_that_runs_does_not_wait_with_the_lock(tmp_path):
    (tmp_path / "lock").touch()
    holds = HoldWatch(tmp_path / "lock")
    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        first, second = holds.find_time(os.getpid()), holds.find_time(os.getpid())
    assert 0 < first == second
