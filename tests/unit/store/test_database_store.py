"""A farm's part in a database: what it takes, records and puts back."""

import fcntl
import os
import sqlite3
from contextlib import closing
from unittest import mock

import pytest

from mpifarm.database import farming, tasks
from mpifarm.database.schema import find_version
from mpifarm.errors import FutileError, InputError, StorageError
from mpifarm.model.task import Outcome
from mpifarm.order.constraints import Barrier, Constraints
from mpifarm.store import row_states
from mpifarm.store.claims import ClaimLostError
from mpifarm.store.database_store import DatabaseStore
from mpifarm.store.held_file import Held
from tests.unit.database_fakes import (
    DatabaseSite,
    FastConnection,
    connecting_by,
    full_database,
)
from tests.unit.store_fakes import TASKS, Killed, ended


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with connecting_by(FastConnection):
        yield


@pytest.fixture
def site(tmp_path):
    site = DatabaseSite(tmp_path)
    yield site
    assert site.ask("PRAGMA integrity_check") == [("ok",)]


def ordered(tmp_path, constraints):
    return DatabaseSite(tmp_path, constraints=constraints)


# ---- taking, recording, putting back -------------------------------------------------


def test_the_first_tasks_are_taken_first(site):
    store = site.open()
    done = store.transact((), (), 5)
    assert (done.taken, done.empty) == ([0, 1, 2, 3, 4], False)
    assert site.held(store.farm) == set(store.held) == {0, 1, 2, 3, 4}


def test_the_last_tasks_leave_the_list_empty(site):
    store = site.open()
    assert store.transact((), (), 12).empty
    done = store.transact((), (), 12)
    assert (done.taken, done.empty) == ([], True)


def test_results_are_recorded_with_what_is_known_of_their_attempts(site):
    store = site.open()
    store.transact((), (), 3)
    store.transact([ended(0), ended(1, 3), ended(2, -9, attempt=2)], (), 0)
    rows = site.ask(
        "SELECT state, attempt, outcome, status, signal, host, seconds, started, farm"
        " FROM tasks WHERE id < 3"
    )
    begun = "2023-11-14T22:13:20.500Z"
    assert rows == [
        ("finished", 1, "completed", 0, 0, "n1", 0.25, begun, None),
        ("failed", 1, "failed", 3, 0, "n1", 0.25, begun, None),
        ("failed", 2, "failed", 137, 9, "n1", 0.25, begun, None),
    ]
    assert store.recorded == (1, 2)
    assert site.attempts() == [0, 1, 2]
    assert [*map(store.has_record_of, range(4))] == [True, True, True, False]


def test_a_cancelled_task_is_cancelled(site):
    store = site.open()
    store.transact((), (), 1)
    cancelled = ended(0, -15)
    result = cancelled.result._replace(outcome=Outcome.CANCELLED)
    store.transact([cancelled._replace(result=result)], (), 0)
    assert site.ids("cancelled") == [0]
    assert store.recorded == (0, 1)


def test_requeued_tasks_are_not_taken_by_the_same_transaction(site):
    store = site.open()
    store.transact((), (), 12)
    done = store.transact((), (3, 4), 5)
    assert (done.taken, done.empty) == ([], False)
    assert site.ids("to process") == [3, 4]
    assert store.transact((), (), 5).taken == [3, 4]


def test_nor_are_those_that_wait_for_others_or_a_seat(tmp_path):
    site = ordered(tmp_path, Constraints(kinds=dict.fromkeys(range(12), "disk")))
    store = site.open()
    store.transact((), (), 4)
    done = store.transact((), (0, 1), 3)
    assert (done.taken, done.empty) == ([4, 5, 6], False)
    store.transact([ended(each) for each in (2, 3, 4, 5, 6)], (), 9)
    store.transact([ended(each) for each in range(7, 12)], (), 0)
    done = store.transact((), (0, 1), 3)
    assert (done.taken, done.empty) == ([], False)


def test_a_task_that_is_not_held_is_refused(site):
    store = site.open()
    store.transact((), (), 2)
    with pytest.raises(ValueError, match="not held"):
        store.transact([ended(5)], (), 0)
    with pytest.raises(ValueError, match="not held"):
        store.transact([ended(1), ended(1)], (), 0)


def test_tasks_are_pulled_wherever_they_wait(tmp_path):
    site = ordered(tmp_path, Constraints(barriers=[Barrier(6, checks=False)]))
    store = site.open()
    done = store.transact((), (), 1, (2, 8, 0))
    assert (done.taken, done.pulled) == ([], [0, 2, 8])
    assert set(store.held) == {0, 2, 8}


def test_two_farms_share_the_tasks(site):
    left, right = site.open(), site.open()
    assert left.transact((), (), 4).taken == [0, 1, 2, 3]
    assert right.transact((), (), 4).taken == [4, 5, 6, 7]
    left.transact([ended(each) for each in range(4)], (), 0)
    assert left.others_hold_tasks
    right.survey()
    assert right.recorded == (4, 0)
    assert not site.violations()


def test_a_farm_whose_claim_is_gone_records_nothing_more(site):
    store = site.open()
    store.transact((), (), 1)
    (site.root / "claims" / store.farm).unlink()
    with pytest.raises(FutileError, match="is gone"):
        store.transact([ended(0)], (), 0)
    assert site.ids("finished") == []


def test_what_a_user_puts_back_by_sql_runs_again(site):
    store = site.open()
    store.transact((), (), 12)
    store.transact([ended(each, each % 2) for each in range(12)], (), 0)
    site.ask("UPDATE tasks SET state = 'to process' WHERE state = 'failed'")
    assert store.transact((), (), 12).taken == [1, 3, 5, 7, 9, 11]
    assert store.recorded == (6, 0)


REPLACE = {
    "replace": ["REPLACE INTO tasks (id, command) VALUES (1, 'echo again')"],
    "insert or replace": [
        "INSERT OR REPLACE INTO tasks (id, command) VALUES (1, 'echo again')"
    ],
    "upsert": [
        "INSERT INTO tasks (id, command) VALUES (1, 'x')"  # noqa: ISC004
        " ON CONFLICT (id) DO UPDATE SET state = 'to process'",
    ],
    "recursive": [
        "PRAGMA recursive_triggers = ON",
        "REPLACE INTO tasks (id, command) VALUES (1, 'echo again')",
    ],
    "delete and insert": [
        "BEGIN",
        "DELETE FROM tasks WHERE id = 1",
        "INSERT INTO tasks (id, command) VALUES (1, 'echo again')",
        "COMMIT",
    ],
    "delete, then insert": [
        "DELETE FROM tasks WHERE id = 1",
        "INSERT INTO tasks (id, command) VALUES (1, 'echo again')",
    ],
}
"""How programs put another row in the place of one."""


def execute(site, *statements):
    with closing(sqlite3.connect(site.path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("statements", REPLACE.values(), ids=REPLACE)
def test_what_a_user_replaces_by_sql_is_known_to_the_farms(tmp_path, statements):
    site = ordered(tmp_path, Constraints(barriers=[Barrier(3, checks=False)]))
    left, right = site.open(), site.open()
    left.transact((), (), 3)
    left.transact([ended(0), ended(1, 1)], (), 0)
    right.transact((), (), 0)
    assert right.recorded == (1, 1)
    execute(site, *statements)
    left.transact([ended(2)], (), 0)
    # The barrier waits for it again.
    assert right.transact((), (), 12).taken == [1]
    assert left.transact((), (), 12).taken == []
    assert left.recorded == right.recorded == (2, 0)


@pytest.mark.parametrize("statement", ["delete and insert", "replace"])
def test_what_a_user_replaces_as_the_last_row_is_known_to_the_farms(site, statement):
    store = site.open()
    store.transact((), (), 12)
    store.transact([ended(11)], (), 0)
    store.transact((), (), 0)
    changes = [
        each.replace("= 1", "= 11").replace("(1,", "(11,")
        for each in REPLACE[statement]
    ]
    execute(site, *changes)
    store.transact((), (), 0)
    assert store.recorded == (0, 0)
    assert store.transact((), (), 12).taken == [11]


def test_inserted_tasks_are_no_changes_of_known_ones(site):
    site.open()
    site.insert("echo new")
    site.ask("INSERT INTO tasks (id, command) VALUES (13, 'echo new')")
    assert site.ask("SELECT task FROM changes") == []


def test_a_start_makes_the_triggers_that_an_older_mpifarm_did_not_make(site):
    triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
    made = site.ask(triggers)
    execute(site, "DROP TRIGGER note_replacement", "DROP TRIGGER note_deletion")
    store = site.open()
    assert site.ask(triggers) == made
    store.transact((), (), 12)
    store.transact([ended(1)], (), 0)
    store.transact((), (), 0)
    execute(site, *REPLACE["replace"])
    store.transact((), (), 0)
    assert store.recorded == (0, 0)
    assert store.transact((), (), 12).taken == [1]


# ---- an order ------------------------------------------------------------------------


def test_what_stands_behind_a_barrier_waits_for_all_above(tmp_path):
    site = ordered(tmp_path, Constraints(barriers=[Barrier(3, checks=False)]))
    store = site.open()
    done = store.transact((), (), 12)
    assert (done.taken, done.empty, done.some_wait) == ([0, 1, 2], True, True)
    assert store.transact([ended(0), ended(1, 1)], (), 12).taken == []
    assert store.notes == []
    last = store.transact([ended(2)], (), 12)
    assert (last.taken, last.some_wait) == ([*range(3, 12)], False)
    (warning,) = store.notes
    assert "1 task in front of the #BARRIER before task 3 has failed (1)" in warning


def test_a_barrier_waits_for_what_other_farms_have(tmp_path):
    site = ordered(tmp_path, Constraints(barriers=[Barrier(3, checks=False)]))
    left, right = site.open(), site.open()
    left.transact((), (), 2)
    right.transact((), (), 1)
    left.transact([ended(0), ended(1)], (), 0)
    waits = left.transact_or_reclaim((), (), 5)
    assert (waits.taken, waits.more_may_come) == ([], True)
    right.transact([ended(2)], (), 0)
    assert left.transact((), (), 2).taken == [3, 4]


def test_what_a_plain_farmer_has_ended_opens_a_barrier(tmp_path):
    site = ordered(tmp_path, Constraints(barriers=[Barrier(2, checks=False)]))
    store, plain = site.open(), site.plain_farmer(7)
    assert [plain.pop(), plain.pop(), plain.pop()] == [0, 1, None]
    plain.record(0, 0)
    plain.record(1, 5)
    assert store.transact((), (), 2).taken == [2, 3]


def test_what_waits_for_a_failed_task_is_not_run(tmp_path):
    site = ordered(tmp_path, Constraints(after={1: (0,), 2: (1,)}))
    store = site.open()
    store.transact((), (), 1)
    done = store.transact([ended(0, 1)], (), 12)
    assert done.taken == [*range(3, 12)]
    assert done.not_run == [(1, "task 0 failed"), (2, "task 0 failed")]
    assert {1, 2} <= store.held


def not_run(taskid):
    recorded = ended(taskid, 1, attempt=0)
    outcome, note = Outcome.NOT_RUN, "not run: task 0 failed"
    return recorded._replace(
        result=recorded.result._replace(outcome=outcome, note=note)
    )


def test_a_task_that_is_not_run_says_why(tmp_path):
    site = ordered(tmp_path, Constraints(after={1: (0,)}))
    store = site.open()
    store.transact((), (), 1)
    store.transact([ended(0, 1)], (), 12)
    store.transact([not_run(1)], (), 0)
    rows = site.ask("SELECT state, outcome, attempt FROM tasks WHERE id = 1")
    assert rows == [("failed", "not run: task 0 failed", 0)]


def test_what_was_put_back_meanwhile_is_not_recorded_as_not_run(tmp_path):
    site = ordered(tmp_path, Constraints(after={1: (0,)}))
    store = site.open()
    store.transact((), (), 1)
    store.transact([ended(0, 1)], (), 12)
    site.ask("UPDATE tasks SET state = 'to process' WHERE id = 0")
    done = store.transact([not_run(1)], (), 1)
    assert (done.taken, done.reopened) == ([0], {1})
    assert site.ids("failed") == []


def test_a_task_of_a_kind_waits_for_a_farm(tmp_path):
    site = ordered(tmp_path, Constraints(kinds={0: "disk"}))
    plain, store = site.plain_farmer(7), site.open()
    assert plain.pop() == 1
    assert store.transact((), (), 12).taken == [*range(2, 12), 0]


def test_what_a_user_inserts_waits_for_what_it_names(site):
    site.insert("echo last", after="0-11")
    plain = site.plain_farmer(7)
    assert [plain.pop() for _ in range(13)] == [*range(12), None]
    for taskid in range(12):
        plain.requeue(taskid)
    store = site.open()
    assert site.ids("waiting") == [12]
    assert store.transact((), (), 20).taken == [*range(12)]


def test_what_a_user_puts_back_too_soon_waits_again(tmp_path):
    site = ordered(tmp_path, Constraints(after={3: (2,)}))
    store = site.open()
    store.transact((), (), 3)
    site.ask("UPDATE tasks SET state = 'to process' WHERE id = 3")
    assert 3 not in store.transact((), (), 12).taken
    assert site.ids("waiting") == [3]


def test_what_a_user_puts_back_too_soon_behind_a_look_waits_again(
    tmp_path, monkeypatch
):
    site = ordered(tmp_path, Constraints(after={3: (2,)}))
    store = site.open()
    poll = store._poll

    def put_back_behind(connection):
        poll(connection)
        site.ask("UPDATE tasks SET state = 'to process' WHERE id = 3")

    monkeypatch.setattr(store, "_poll", put_back_behind)
    assert store.transact((), (), 4).taken == [0, 1, 2, 4]
    assert site.ids("waiting") == [3]


def test_beside_others_a_farm_reads_the_changed_rows_alone(tmp_path, monkeypatch):
    site = ordered(tmp_path, Constraints(barriers=[Barrier(3, checks=False)]))
    left, right = site.open(), site.open()
    monkeypatch.setattr(row_states, "read_unfinished", mock.Mock(side_effect=TypeError))
    left.transact((), (), 2)
    right.transact((), (), 1)
    left.transact([ended(0), ended(1, 1)], (), 0)
    right.transact([ended(2)], (), 0)
    left.transact((), (), 0)
    assert left.recorded == right.recorded == (2, 1)
    site.ask("UPDATE tasks SET state = 'to process' WHERE id = 1")
    assert right.transact((), (), 5).taken == [1]
    assert left.transact((), (), 5).taken == []
    assert (left.recorded, right.recorded) == ((2, 0), (2, 0))
    right.transact([ended(1, 1)], (), 0)
    left.transact((), (), 0)
    site.ask("UPDATE tasks SET state = 'waiting' WHERE id = 1")
    left.transact((), (), 0)
    assert left.recorded == (2, 0)


def test_a_farm_that_has_missed_changes_reads_all_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(farming, "MAX_CHANGES", 2)
    constraints = Constraints(barriers=[Barrier(9, checks=False)], after={8: (0,)})
    site = ordered(tmp_path, constraints)
    left, right = site.open(), site.open()
    left.transact((), (), 0)
    right.transact((), (), 9)
    right.transact([ended(each, each % 2) for each in range(8)], (), 0)
    assert site.ask("SELECT number FROM changes") == [(7,), (8,)]
    site.ask("UPDATE tasks SET state = 'to process' WHERE id = 11")
    site.ask("DELETE FROM changes WHERE task = 11")
    site.ask("INSERT INTO changes VALUES (99, 0)")
    assert left.transact((), (), 12).taken == [8]
    assert left.recorded == right.recorded == (4, 4)
    assert site.ids("waiting") == [9, 10, 11]


@pytest.mark.parametrize(("missed", "reads"), [(1000, True), (1001, False)])
def test_a_farm_that_has_missed_many_changes_reads_all_rows_as_well(
    tmp_path, monkeypatch, missed, reads
):
    site = ordered(tmp_path, Constraints(after={8: (0,)}))
    store = site.open()
    store.transact((), (), 0)
    site.ask(
        "WITH RECURSIVE number (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM number"
        " WHERE n < ?) INSERT INTO changes (task) SELECT 5 FROM number",
        missed,
    )
    site.ask("UPDATE tasks SET state = 'to process' WHERE id = 8")
    asked = []

    def read(*values):
        asked.append(values)
        return read_changed(*values)

    read_changed = farming.read_changed
    monkeypatch.setattr(farming, "read_changed", read)
    monkeypatch.setattr(row_states, "read_changed", read)
    assert 8 not in store.transact((), (), 9).taken
    assert site.ids("waiting") == [8]
    # For the states, and for what was put back too soon.
    assert len(asked) == 2 * reads


def test_a_reading_that_fails_is_made_again(tmp_path, monkeypatch):
    site = ordered(tmp_path, Constraints(barriers=[Barrier(1, checks=False)]))
    store, plain = site.open(), site.plain_farmer(7)
    plain.pop()
    plain.record(0, 0)
    site.ask("DELETE FROM changes")
    site.ask("INSERT INTO changes VALUES (9, 11)")
    read, fails = farming.read_unfinished, iter([True])

    def fail_once(*values):
        if next(fails, False):
            raise full_database()
        return read(*values)

    monkeypatch.setattr(row_states, "read_unfinished", fail_once)
    with pytest.raises(StorageError):
        store.transact((), (), 2)
    assert store.transact((), (), 2).taken == [1, 2]


# ---- held ----------------------------------------------------------------------------


def test_held_tasks_wait_until_they_are_released(site):
    store = site.open()
    store.hold(Held(frozenset({0, 1})))
    pulled = store.transact((), (), 0, (0, 1)).pulled
    store.transact((), pulled, 0)
    assert site.ids("waiting") == [0, 1]
    assert store.transact((), (), 2).taken == [2, 3]
    store.hold(Held())
    assert store.transact((), (), 2).taken == [4, 5]
    assert store.transact((), (), 12).taken == [*range(6, 12), 0, 1]


def test_a_farm_stays_for_what_is_held(site):
    store = site.open()
    store.hold(Held(frozenset({0})))
    store.transact((), store.transact((), (), 0, (0,)).pulled, 0)
    store.transact((), (), 12)
    done = store.transact_or_reclaim((), (), 12)
    assert (done.taken, done.empty, done.more_may_come) == ([], True, True)


# ---- dead farms ----------------------------------------------------------------------


def test_a_start_puts_back_what_a_dead_farm_had(site):
    dead = site.open()
    dead.transact((), (), 4)
    dead.transact([ended(0), ended(1, 1)], (), 0)
    site.kill(dead)
    store = site.open()
    assert "2 tasks reclaimed from the dead farm" in store.notes[0]
    assert (site.ids("running"), site.ids("failed")) == ([], [1])
    assert store.transact((), (), 3).taken == [2, 3, 4]


def test_a_farm_without_work_puts_back_what_a_dead_one_had(site):
    dead, store = site.open(), site.open()
    dead.transact((), (), 12)
    site.kill(dead)
    assert not store.transact_or_reclaim((), (), 5).empty
    assert store.transact_or_reclaim((), (), 5).taken == [0, 1, 2, 3, 4]


def test_what_a_living_farm_has_stays_with_it(site):
    left, right = site.open(), site.open()
    left.transact((), (), 12)
    assert right.transact_or_reclaim((), (), 5).empty
    assert site.held(left.farm) == {*range(12)}


def test_what_a_dead_farm_had_that_must_wait_goes_back_to_what_waits(tmp_path):
    site = ordered(tmp_path, Constraints(after={1: (0,)}))
    dead = site.open()
    dead.transact((), (), 1)
    dead.transact([ended(0)], (), 3)
    site.kill(dead)
    site.open()
    assert site.ids("waiting") == [1]


def test_a_new_leader_takes_over_what_its_farm_had(site):
    lost = site.open()
    lost.transact((), (), 4)
    lost.transact([ended(0)], (), 0)
    site.kill(lost)
    store = site.open(predecessor=lost.farm)
    assert set(store.held) == site.held(store.farm) == {1, 2, 3}
    assert os.listdir(site.root / "claims") == [store.farm]


def test_a_new_leader_counts_failures_that_were_not_listed_yet(site):
    lost = site.open()
    lost.transact((), (), 4)
    lost.transact([ended(0, 1)], (), 0)
    kills = mock.patch.object(lost._attempts, "append", side_effect=Killed)
    with kills, pytest.raises(Killed):
        lost.transact([ended(1, 1), ended(2)], (), 0)
    site.kill(lost)
    store = site.open(predecessor=lost.farm)
    assert store.count_failed_here(12) == 2


def test_rows_of_a_farm_whose_claim_is_gone_go_back(site):
    dead = site.open()
    dead.transact((), (), 2)
    (site.root / "claims" / dead.farm).unlink()
    site.kill(dead)
    store = site.open()
    assert "2 tasks put back" in store.notes[0]
    assert store.transact((), (), 1).taken == [0]


# ---- plain farmers -------------------------------------------------------------------


def test_what_a_killed_plain_farmer_had_stays_running_and_is_told(site):
    plain = site.plain_farmer(777)
    plain.pop()
    site.dead.add(777)
    store = site.open()
    assert "PyTaskFarmer node1 777 was killed as it had 1 task of" in store.notes[0]
    assert "'running'" in store.notes[0]
    taken = store.transact((), (), 20).taken
    assert taken == [*range(1, 12)]
    store.transact([ended(each) for each in taken], (), 0)
    counts = store.counts(store.survey())
    assert (counts.finished, counts.elsewhere) == (11, 1)


def test_a_plain_farmer_at_work_is_told(site):
    site.plain_farmer(777).pop()
    assert "PyTaskFarmer node1 777 has 1 task of" in site.open().notes[0]


def test_a_plain_farmer_records_only_what_it_has(site):
    plain, store = site.plain_farmer(7), site.open()
    plain.pop()
    store.transact((), (), 1)
    plain.record(1, 0)
    plain.requeue(1)
    assert site.held(store.farm) == {1}
    plain.record(0, 0)
    plain.requeue(0)
    assert site.ids("finished") == [0]
    assert plain.tasks.get_finished() == [0]


# ---- the end -------------------------------------------------------------------------


def test_the_tasks_are_counted_by_their_places(site):
    store, other, plain = site.open(), site.open(), site.plain_farmer(7)
    store.transact((), (), 4)
    other.transact((), (), 3)
    plain.pop()
    store.transact([ended(0), ended(1, 1)], (), 0)
    counts = store.counts(store.survey())
    assert counts.total == len(TASKS)
    assert (counts.finished, counts.failed, counts.first_failed) == (1, 1, (1,))
    assert (counts.held, counts.claimed, counts.elsewhere) == (2, 3, 1)
    assert counts.toprocess == 4


def test_what_is_put_back_at_the_end_is_counted(site):
    store = site.open()
    store.transact((), (), 4)
    store.transact((), (0, 1, 2, 3), 0)
    assert store.counts(store.survey()).toprocess == 12


def test_what_a_barrier_holds_up_is_counted(tmp_path):
    site = ordered(tmp_path, Constraints(barriers=[Barrier(2, checks=False)]))
    store, plain = site.open(), site.plain_farmer(7)
    plain.pop()
    counts = store.counts(store.survey())
    assert (counts.held_up, counts.barrier, counts.lost) == (10, 2, (0,))


def test_a_farm_that_holds_nothing_leaves_no_claim(site):
    store = site.open()
    store.transact((), (), 1)
    store.transact([ended(0)], (), 0)
    assert store.close()
    assert os.listdir(site.root / "claims") == []


def test_a_farm_that_holds_tasks_leaves_its_claim(site):
    store = site.open()
    store.transact((), (), 1)
    assert not store.close()
    assert os.listdir(site.root / "claims") == [store.farm]


# ---- what is refused -----------------------------------------------------------------


def test_the_workdir_of_a_text_list_is_refused(site):
    site.root.mkdir()
    (site.root / "toprocess").touch()
    with pytest.raises(InputError, match="was begun with a list that is a text"):
        site.open()


def test_a_second_workdir_is_refused_while_tasks_run_under_the_first(site, tmp_path):
    store = site.open()
    store.transact((), (), 1)
    first, site.root = site.root, tmp_path / "other"
    with pytest.raises(InputError, match=r"tasks\.db_workdir, which has a lock of its"):
        site.open()
    assert os.listdir(site.root) == ["lock"]
    site.root = first
    store.transact((), (0,), 0)
    site.root = tmp_path / "other"
    site.open()
    with pytest.raises(FutileError, match="from another workdir by now"):
        store.transact((), (), 1)


def test_a_database_may_be_moved_with_its_workdir(site, tmp_path):
    store = site.open()
    store.transact((), (), 1)
    site.kill(store)
    (tmp_path / "new").mkdir()
    for each in (site.path, site.root):
        each.rename(tmp_path / "new" / each.name)
    site.path, site.root = (
        tmp_path / "new" / each.name for each in (site.path, site.root)
    )
    assert site.open().transact((), (), 1).taken == [0]


# ---- what is added -------------------------------------------------------------------


def test_inserted_tasks_are_taken_once_they_are_taken_up(site):
    store = site.open()
    store.transact((), (), 12)
    site.insert("echo new", "echo newer")
    assert store.has_changed()
    assert store.transact((), (), 5).taken == []
    assert store.take_up(100) == 2
    assert not store.has_changed()
    assert store.transact((), (), 5).taken == [12, 13]
    store.transact([ended(13)], (), 0)
    assert site.ids("finished") == [13]


def test_inserted_tasks_are_taken_up_in_parts(site):
    store = site.open()
    site.insert("a", "b", "c")
    assert [store.take_up(2), store.take_up(2), store.take_up(2)] == [2, 1, 0]


def test_inserted_tasks_may_wait_for_others(site):
    store = site.open()
    store.transact((), (), 12)
    site.insert("echo last", after="0,3")
    assert store.take_up(100) == 1
    assert store.transact([ended(0)], (), 5).taken == []
    assert store.transact([ended(3)], (), 5).taken == [12]


def test_a_row_that_can_be_no_task_is_told_and_nothing_taken_up(site):
    store = site.open()
    site.insert("echo last", after="nobody")
    with pytest.raises(InputError, match=r"task 12 of .* that names no tasks"):
        store.take_up(100)
    site.ask('UPDATE tasks SET "after" = NULL WHERE id = 12')
    assert store.take_up(100) == 1


def test_a_part_of_inserted_tasks_has_its_own_order_alone(site):
    store = site.open()
    site.insert("echo new", after="3")
    site.insert("echo new")
    site.insert("echo last", after="nobody")
    site.ask("INSERT INTO barriers VALUES (14, 0, 0)")
    assert store.take_up(2) == 2
    assert site.ids("waiting") == [12]
    assert store.transact((), (), 20).taken == [*range(12), 13]
    with pytest.raises(InputError, match=r"task 14 of .* that names no tasks"):
        store.take_up(2)


def test_what_ended_before_it_was_taken_up_opens_a_barrier(site):
    left, right = site.open(), site.open()
    left.transact((), (), 12)
    left.transact([ended(each) for each in range(12)], (), 0)
    site.insert("echo new", "echo last")
    site.ask("INSERT INTO barriers VALUES (13, 0, 0)")
    left.take_up(5)
    assert left.transact((), (), 5).taken == [12]
    left.transact([ended(12)], (), 0)
    right.transact((), (), 0)
    right.take_up(5)
    assert right.transact((), (), 5).taken == [13]


def test_what_another_farm_has_done_of_inserted_tasks_is_known(site):
    left, right = site.open(), site.open()
    site.insert("echo new")
    right.take_up(5)
    taken = right.transact((), (), 13).taken
    right.transact([ended(each) for each in taken], (), 0)
    left.take_up(5)
    assert left.transact_or_reclaim((), (), 5).empty
    assert left.counts(left.survey()).finished == 13


# ---- the timeline --------------------------------------------------------------------


def timelines(site):
    return sorted(each.name for each in site.root.glob("timeline*"))


def test_a_farm_alone_writes_the_timeline_that_all_share(site):
    store = site.open()
    store.transact((), (), 2)
    store.transact([ended(0)], (), 1)
    store.transact([ended(1)], (2,), 0)
    store.survey()
    assert store.close()
    assert timelines(site) == ["timeline.json"]


def test_beside_others_a_farm_writes_a_timeline_of_its_own(site):
    store = site.open()
    store.transact((), (), 2)
    site.plain_farmer(7).pop()
    store.transact([ended(0)], (), 0)
    assert timelines(site) == [f"timeline.{store.farm}.json"]


# ---- a user who commits between two looks --------------------------------------------


def commit_after_the_close(site, monkeypatch, statement):
    """Have a user commit after the farm's next connection is closed."""
    calls = []

    def find(path):
        calls.append(path)
        if len(calls) == 2:
            site.ask(statement)
        return find_version(path)

    monkeypatch.setattr("mpifarm.store.database_store.find_version", find)


def test_a_commit_between_two_looks_is_noticed(site, monkeypatch):
    store = site.open()
    change = "UPDATE tasks SET state = 'finished' WHERE id = 11"
    commit_after_the_close(site, monkeypatch, change)
    store.transact((), (), 1)
    assert not store.has_record_of(11)
    store.transact((), (), 1)
    assert store.has_record_of(11)


def test_an_insertion_behind_a_look_for_more_is_noticed(site, monkeypatch):
    store = site.open()
    assert store.take_up(100) == 0
    assert not store.has_changed()
    read = tasks.read_constraints

    def insert_behind(*values):
        found = read(*values)
        site.insert("echo new")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "read_constraints", insert_behind)
        assert store.take_up(100) == 0
    assert store.has_changed()
    assert store.take_up(100) == 1
    assert not store.has_changed()


def test_a_farm_takes_its_own_changes_for_no_others(site):
    store = site.open()
    store.transact((), (), 5)
    store.transact((), (), 0)
    store.transact([ended(0), ended(1, 3)], [2], 2)
    store.reclaim_dead()
    assert not store._has_met_others
    assert not store._is_stale


def test_what_is_left_is_counted_without_an_undoing(site):
    store = site.open()
    site.insert("echo new")
    journal = site.path.with_name("tasks.db-journal")
    looks = []

    def end_change(_):
        looks.append(journal.read_bytes())
        journal.write_bytes(b"")

    journal.write_bytes(b"\xd9" * 600)
    with mock.patch("time.sleep", end_change):
        assert store.find_left() == 1
    assert looks == [b"\xd9" * 600]


def test_what_is_left_is_counted_once_another_program_has_committed(site):
    store = site.open()
    looks = []
    with closing(sqlite3.connect(site.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("INSERT INTO tasks (command) VALUES ('echo new')")

        def commit(seconds):
            looks.append(seconds)
            other.execute("COMMIT")

        # Between two looks, when signals are served.
        with mock.patch("time.sleep", commit):
            assert store.find_left() == 1
    assert len(looks) == 1


# ---- what is found at a start, and at the end ----------------------------------------


def test_a_database_that_has_lost_rows_since_it_was_read_is_refused(site, monkeypatch):
    total = tasks.find_total
    monkeypatch.setattr(tasks, "find_total", lambda connection: total(connection) - 1)
    with pytest.raises(InputError, match="has 11 tasks now, and had 12 when it was"):
        site.open()
    assert not (site.root / "claims").exists()


def test_a_new_leader_puts_back_what_was_never_to_run(tmp_path):
    site = ordered(tmp_path, Constraints(after={1: (0,), 2: (1,)}))
    lost = site.open()
    lost.transact((), (), 1)
    assert lost.transact([ended(0, 1)], (), 12).not_run
    assert site.held(lost.farm) == {*range(1, 12)}
    site.kill(lost)
    store = site.open(predecessor=lost.farm)
    assert set(store.held) == site.held(store.farm) == {*range(3, 12)}
    assert store.transact((), (), 12).not_run == [
        *((1, "task 0 failed"), (2, "task 0 failed")),
    ]


def test_a_database_that_is_bad_by_now_ends_a_farm_and_at_a_start_is_bad_input(site):
    store = site.open()
    content = site.path.read_bytes()
    site.path.write_bytes(b"no database" * 999)
    with pytest.raises(FutileError, match="not a database"):
        store.transact((), (), 1)
    site.path.write_bytes(content)
    assert store.transact((), (), 1).taken == [0]


@pytest.mark.parametrize(
    ("farmer", "is_gone"),
    [
        ("PyTaskFarmer node1 777", True),
        ("PyTaskFarmer node1 778", False),
        ("PyTaskFarmer node2 777", False),
        ("PyTaskFarmer node1 x", False),
        ("PyTaskFarmer", False),
    ],
)
def test_a_plain_farmer_is_gone_where_this_host_has_no_such_process(
    site, farmer, is_gone
):
    site.dead.add(777)
    assert site.open()._is_gone(farmer) is is_gone


def test_a_farm_whose_claim_is_gone_gives_up_its_lock_at_the_end(site):
    store = site.open()
    claim = site.root / "claims" / store.farm
    os.link(claim, site.root / "kept")
    claim.unlink()
    with pytest.raises(ClaimLostError):
        store.close()
    with (site.root / "kept").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("name", ["toprocess", "finished", "failed"])
def test_any_file_of_a_text_list_is_named(site, name):
    site.root.mkdir()
    (site.root / name).touch()
    with pytest.raises(InputError, match=rf"\({name} is there\), and .* is a database"):
        site.open()


def test_a_start_that_breaks_gives_up_the_lock_of_its_claim(site, monkeypatch):
    for error, is_left in ((OSError("full"), False), (KeyError("x"), True)):
        fails = mock.patch.object(DatabaseStore, "_begin_attempts", side_effect=error)
        with fails, pytest.raises(type(error)):
            site.open()
        names = os.listdir(site.root / "claims")
        assert len(names) == is_left
        for name in names:
            with (site.root / "claims" / name).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
