"""Any order of moves of farms, a plain farmer and a user leaves each task in one state.

As `test_workdir_machine`, on a database.
"""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mpifarm.errors import InputError, StorageError
from mpifarm.order.constraints import Barrier, Constraints
from mpifarm.store.database_store import DatabaseStore
from mpifarm.store.held_file import Held
from tests.unit.database_fakes import (
    ENDED,
    DatabaseSite,
    FastConnection,
    PlainFarmer,
    connecting_by,
    full_database,
    struck_at,
)
from tests.unit.store_fakes import Killed, ended, full_disk

MAX_TASKS = 18
FARMS = st.sampled_from(["left", "right"])
PLAIN_PID = 9999


class SharedDatabase(RuleBasedStateMachine):
    """Two farms (which may be killed at any step, or find the disk full), one plain
    farmer, and a user who inserts tasks and puts failed ones back."""

    constraints: ClassVar[Constraints] = Constraints()

    def __init__(self):
        super().__init__()
        self._stack = ExitStack()
        directory = self._stack.enter_context(tempfile.TemporaryDirectory())
        self._stack.enter_context(mock.patch.object(os, "fsync", return_value=None))
        self._stack.enter_context(connecting_by(FastConnection))
        self.site = DatabaseSite(Path(directory), constraints=self.constraints)
        self.plain: PlainFarmer | None = None
        self.farms: dict[str, DatabaseStore] = {}
        self.finished: set[int] = set()

    def teardown(self):
        try:
            self._finish()
        finally:
            self._stack.close()

    def _finish(self):
        self.site.kill_all()
        if self.plain is not None:
            for taskid in sorted(self.plain.hand):
                self.plain.record(taskid, 0)
        last = self.site.open()
        done = last.transact((), (), 3)
        while done.taken or done.not_run:
            assert not self.finished & {*done.taken}
            results = [ended(taskid) for taskid in done.taken]
            results += [ended(taskid, 1) for taskid, _ in done.not_run]
            done = last.transact(results, (), 3)
        assert last.close()
        assert self.site.violations() == []
        (total,) = self.site.ask("SELECT count(*) FROM tasks")[0]
        assert self.site.ids(*ENDED) == [*range(total)]
        assert os.listdir(self.site.root / "claims") == []

    def farm(self, name: str) -> DatabaseStore:
        if name not in self.farms:
            self.farms[name] = self.site.open()
        return self.farms[name]

    # ---- farms -----------------------------------------------------------------------

    def transact(self, store: DatabaseStore, data: st.DataObject) -> None:
        held = sorted(store.held)
        fates = data.draw(
            st.lists(st.sampled_from("krfb"), min_size=len(held), max_size=len(held)),
            label="keep, finish, fail, give back",
        )
        pairs = list(zip(held, fates, strict=True))
        results = [ended(t, fate == "f") for t, fate in pairs if fate in "rf"]
        back = [taskid for taskid, fate in pairs if fate == "b"]
        take = data.draw(st.integers(0, 5), label="take")
        pull = data.draw(st.sets(st.integers(0, 11), max_size=2), label="pull")
        others = self.held_elsewhere(store)
        done = store.transact(results, back, take, tuple(pull - {*held}))
        got = [*done.taken, *done.pulled, *(taskid for taskid, _ in done.not_run)]
        assert len(got) == len({*got})
        assert not {*got} & ({*self.site.ids("finished")} | others | {*back})
        assert store.held == self.site.held(store.farm)
        self.check_order([*done.taken])

    def held_elsewhere(self, store: DatabaseStore) -> set[int]:
        query = "SELECT id FROM tasks WHERE state = 'running' AND farm <> ?"
        return {taskid for (taskid,) in self.site.ask(query, store.farm)}

    def check_order(self, taken: list[int]) -> None:
        finished, all_ended = {*self.site.ids("finished")}, {*self.site.ids(*ENDED)}
        for taskid in taken:
            assert finished.issuperset(self.constraints.after.get(taskid, ()))
            for barrier in self.constraints.barriers:
                if barrier.first <= taskid:
                    assert all_ended.issuperset(range(barrier.first))

    @rule(name=FARMS, data=st.data())
    def a_farm_works(self, name, data):
        self.transact(self.farm(name), data)

    @rule(name=FARMS, data=st.data(), at=st.integers(1, 30), killed=st.booleans())
    def a_farm_breaks(self, name, data, at, killed):
        strikes = (Killed(), Killed()) if killed else (full_disk(), full_database())
        with struck_at(at, *strikes):
            try:
                self.transact(self.farm(name), data)
            except (Killed, StorageError, InputError):
                broken = True
            else:
                broken = False
        if broken and name in self.farms:
            self.site.kill(self.farms.pop(name))

    @rule(name=FARMS)
    def a_farm_looks_for_dead_ones(self, name):
        self.farm(name).reclaim_dead()

    @rule(name=FARMS, most=st.integers(1, 3))
    def a_farm_takes_up_what_was_inserted(self, name, most):
        self.farm(name).take_up(most)

    @rule(name=FARMS, held=st.frozensets(st.integers(0, 11), max_size=2))
    def a_farm_holds_and_releases(self, name, held):
        self.farm(name).hold(Held(held))

    @precondition(lambda self: self.farms)
    @rule(data=st.data())
    def a_farm_counts_and_leaves(self, data):
        name = data.draw(st.sampled_from(sorted(self.farms)))
        store = self.farms.pop(name)
        counts = store.counts(store.survey())
        assert counts.finished == len([*filter(store._total.__gt__, self.finished)])
        if not store.close():
            self.site.dead.add(store._machine.pid)

    # ---- others ----------------------------------------------------------------------

    @rule()
    def the_plain_farmer_pops(self):
        if self.plain is None:
            self.plain = self.site.plain_farmer(PLAIN_PID)
        taskid = self.plain.pop()
        if taskid is not None:
            self.check_order([taskid])

    @precondition(lambda self: self.plain and self.plain.hand)
    @rule(data=st.data(), status=st.sampled_from([0, 1]))
    def the_plain_farmer_records(self, data, status):
        assert self.plain
        taskid = data.draw(st.sampled_from(sorted(self.plain.hand)))
        self.plain.record(taskid, status)

    @precondition(lambda self: self.plain and self.plain.hand)
    @rule(data=st.data())
    def the_plain_farmer_requeues(self, data):
        assert self.plain
        self.plain.requeue(data.draw(st.sampled_from(sorted(self.plain.hand))))

    @rule()
    def the_user_puts_back_what_has_failed(self):
        self.site.ask("UPDATE tasks SET state = 'to process' WHERE state = 'failed'")

    @rule()
    def the_user_replaces_what_has_failed(self):
        self.site.ask(
            'REPLACE INTO tasks (id, command, "after") SELECT id, command, "after"'
            " FROM tasks WHERE state = 'failed'"
        )

    @rule(count=st.integers(1, 2))
    def the_user_inserts_tasks(self, count):
        if self.site.ask("SELECT count(*) FROM tasks")[0][0] + count <= MAX_TASKS:
            self.site.insert(*["echo new"] * count)

    # ---- what holds ------------------------------------------------------------------

    @invariant()
    def every_row_is_as_it_should_be(self):
        assert self.site.violations() == []

    @invariant()
    def what_is_finished_stays(self):
        now = {*self.site.ids("finished")}
        assert self.finished <= now
        self.finished = now


SharedDatabase.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=25,
)
test_any_order_of_moves = SharedDatabase.TestCase


class OrderedDatabase(SharedDatabase):
    """The same with tasks that wait for others."""

    constraints = Constraints(
        barriers=[Barrier(6, checks=False)], after={2: (0,), 4: (1, 2), 9: (7,)}
    )


OrderedDatabase.TestCase.settings = SharedDatabase.TestCase.settings
test_any_order_of_moves_with_an_order = OrderedDatabase.TestCase
