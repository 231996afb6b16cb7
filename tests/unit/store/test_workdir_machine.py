"""Any order of moves of two farms and a plain farmer leaves each task in one place."""

import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from mpifarm.errors import InputError, StorageError
from mpifarm.store.file_store import FileStore
from mpifarm.store.start_order import shuffled
from mpifarm.store.status_lines import parse_status
from mpifarm.system import file_contents
from tests.unit.store_fakes import (
    SMALL_PARTS,
    TASKS,
    Interference,
    Killed,
    PlainFarmer,
    Site,
    ended,
    full_disk,
    instead_of_os,
)

MAX_TASKS = 20
FARMS = st.sampled_from(["left", "right"])


class SharedWorkdir(RuleBasedStateMachine):
    """Two mpifarms (which may be killed at any step, or find the disk full), one plain
    farmer: a farm that does not run is started by the rule that needs it.  Lines are
    added to the end of the list."""

    file_sizes: ClassVar[dict[str, Any]] = {"LARGE": file_contents.LARGE}

    def __init__(self):
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        self._patches = [
            mock.patch.object(os, "fsync", return_value=None),
            mock.patch.multiple(file_contents, **self.file_sizes),
        ]
        for patch in self._patches:
            patch.start()
        self.site = Site(Path(self._directory.name) / "w")
        self.plain = PlainFarmer(self.site)
        self.farms: dict[str, FileStore] = {}
        self.recorded: set[int] = set()
        self.settled = len(self.site.tasks)
        """Tasks of the list as the last start has seen it; more are in no file yet."""

    def teardown(self):
        for workdir in self.farms.values():
            self.site.kill(workdir)
        last = self.site.open()
        self.settled = len(self.site.tasks)
        while taken := last.transact((), (), 3).taken:
            assert not self.recorded & set(taken)
            last.transact([ended(taskid) for taskid in taken], (), 0)
        assert last.close()
        assert self.site.violations(self.plain.hand) == []
        assert self.site.ids("added") == []
        assert not list((self.site.root / "claims").iterdir())
        assert not list(self.site.root.glob("toprocess.*"))
        for patch in self._patches:
            patch.stop()
        self._directory.cleanup()

    def farm(self, name: str) -> FileStore:
        if name not in self.farms:
            self.farms[name] = self.site.open()
            self.settled = len(self.site.tasks)
        return self.farms[name]

    @initialize(finished=st.sets(st.integers(0, 11), max_size=3))
    def begin(self, finished):
        if finished:
            self.site.write("finished", sorted(finished))

    def transact(self, workdir: FileStore, data: st.DataObject) -> None:
        held = sorted(workdir.held)
        fates = data.draw(
            st.lists(st.sampled_from("krfb"), min_size=len(held), max_size=len(held)),
            label="keep, finish, fail, give back",
        )
        pairs = list(zip(held, fates, strict=True))
        results = [ended(t, fate == "f") for t, fate in pairs if fate in "rf"]
        back = [taskid for taskid, fate in pairs if fate == "b"]
        take = data.draw(st.integers(0, 5), label="take")
        if data.draw(st.booleans(), label="prepare"):
            workdir.prepare((), back, take)
            if data.draw(st.booleans(), label="plain pop while preparing"):
                self.plain.pop()
        done = workdir.transact(results, back, take)
        assert not set(done.taken) & set(self.finished())
        assert not set(done.taken) & self.plain_holds_alone()

    def plain_holds_alone(self) -> set[int]:
        return self.plain.hand - set(self.site.ids("toprocess"))

    def finished(self) -> list[int]:
        """What counts there: a torn line does not, and a fused one may."""
        path = self.site.root / "finished"
        if not path.exists():
            return []
        content = path.read_bytes()
        return sorted({*parse_status(content, self.site.tasks, list_is_same=True).ids})

    @precondition(lambda self: self.is_known() and len(self.site.tasks) < MAX_TASKS)
    @rule(texts=st.lists(st.sampled_from(["new", "echo task 1", "1 new"]), max_size=3))
    def lines_are_added(self, texts):
        """Farms that work know the list as it was at their start."""
        self.site.tasks += texts

    def is_known(self) -> bool:
        """Whether an mpifarm has seen the list before, and farmers have begun."""
        names = ("fingerprint.json", "toprocess")
        return all((self.site.root / name).exists() for name in names)

    @precondition(lambda self: not self.plain.hand and self.is_known())
    @rule()
    def the_plain_farmer_is_started_again(self):
        self.plain = PlainFarmer(self.site)

    @rule(name=FARMS, data=st.data())
    def a_farm_works(self, name, data):
        self.transact(self.farm(name), data)

    @rule(
        name=FARMS,
        data=st.data(),
        at=st.integers(1, 30),
        half=st.booleans(),
        killed=st.booleans(),
    )
    def a_farm_breaks(self, name, data, at, half, killed):
        strike = Killed() if killed else full_disk()
        with instead_of_os(Interference(at, strike, half=half)):
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

    @precondition(lambda self: self.farms)
    @rule(data=st.data())
    def a_farm_leaves(self, data):
        name = data.draw(st.sampled_from(sorted(self.farms)))
        workdir = self.farms.pop(name)
        if not workdir.close():
            self.site.dead.add(workdir._member._machine.pid)

    @rule()
    def the_plain_farmer_pops(self):
        self.plain.pop()

    @precondition(lambda self: self.plain.hand)
    @rule(data=st.data(), status=st.sampled_from([0, 1]))
    def the_plain_farmer_records(self, data, status):
        taskid = data.draw(st.sampled_from(sorted(self.plain.hand)))
        if taskid not in self.finished():
            self.plain.record(taskid, status)
        self.plain.hand.discard(taskid)

    @precondition(lambda self: self.plain.hand)
    @rule(data=st.data())
    def the_plain_farmer_requeues(self, data):
        self.plain.requeue(data.draw(st.sampled_from(sorted(self.plain.hand))))

    def finished_of_the_first(self) -> list[int]:
        """Tasks that were added later never reach a plain farmer."""
        return [taskid for taskid in self.finished() if taskid < len(TASKS)]

    @precondition(lambda self: self.finished_of_the_first())
    @rule(data=st.data())
    def the_plain_farmer_puts_back_what_is_finished(self, data):
        self.plain.requeue(data.draw(st.sampled_from(self.finished_of_the_first())))

    @invariant()
    def every_task_is_in_one_place(self):
        if self.site.root.is_dir():
            # A plain farmer may pop what is finished: it puts such ids back itself.
            hand = self.plain.hand - set(self.finished())
            new = range(self.settled, len(self.site.tasks))
            unknown = {f"task {taskid} is lost: in no file" for taskid in new}
            violations = set(self.site.violations(hand)) - unknown
            assert [each for each in violations if "timeline" not in each] == []

    @invariant()
    def what_is_finished_stays(self):
        finished = set(self.finished())
        assert self.recorded <= finished
        self.recorded = finished


SharedWorkdir.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=25,
)
test_any_order_of_moves = SharedWorkdir.TestCase


class WorkdirOfShufflers(SharedWorkdir):
    """The same where the farms take tasks in random orders, each in its own."""

    def farm(self, name: str) -> FileStore:
        self.site.order = shuffled(self.site.farms)
        return super().farm(name)


WorkdirOfShufflers.TestCase.settings = SharedWorkdir.TestCase.settings
test_any_order_of_moves_with_random_starts = WorkdirOfShufflers.TestCase


class WorkdirOfLargeFiles(SharedWorkdir):
    """The same where no file is read whole."""

    file_sizes = SMALL_PARTS


WorkdirOfLargeFiles.TestCase.settings = SharedWorkdir.TestCase.settings
test_any_order_of_moves_with_large_files = WorkdirOfLargeFiles.TestCase
