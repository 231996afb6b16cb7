"""A workdir whose tasks a list of the user's keeps by itself."""

import fcntl
from collections.abc import Sequence
from pathlib import Path

import pytest

from mpifarm.errors import FarmError, InputError, StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store import custom_store
from mpifarm.store.custom_store import CustomStore, Texts
from mpifarm.store.held_file import Held, replace_held
from tests.unit.store_fakes import (
    TASKS,
    FakeLock,
    Killed,
    Site,
    ended,
    full_disk,
    interference,
)
from tests.workdir_files import Attempt, format_attempts

LOCK_TAKEN = "a method of the list was called with the lock held"


class OwnList:
    """A tasklist that keeps its tasks in memory, and takes the lock as PyTaskFarmer's
    do: whoever calls it with the lock held would wait for ever."""

    def __init__(self, lock: FakeLock, count: int = len(TASKS)) -> None:
        self.lock = lock
        self.tasks = TASKS[:count]
        self.queue = list(range(count))
        self.done: dict[int, list[int]] = {}
        self.broken: str = ""

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, taskid: int) -> str:
        return self.tasks[taskid]

    def _enter(self, method: str) -> None:
        assert not self.lock.held, LOCK_TAKEN
        if self.broken == method:
            raise RuntimeError("Unable to lock after 10 seconds.")

    def get_finished(self) -> list[int]:
        self._enter("get_finished")
        return [taskid for taskid, codes in self.done.items() if 0 in codes]

    def pop_task(self) -> int | None:
        self._enter("pop_task")
        return self.queue.pop() if self.queue else None

    def record_toprocess_task(self, taskid: int) -> None:
        self._enter("record_toprocess_task")
        if taskid not in self.queue:
            self.queue.append(taskid)

    def record_done_task(self, taskid: int, returncode: int) -> None:
        self._enter("record_done_task")
        self.done.setdefault(taskid, []).append(returncode)


class Farms:
    """Farms that come and go in one workdir with one such list."""

    def __init__(self, root: Path) -> None:
        self.site = Site(root)
        self.lock = FakeLock(root / "lock")
        self.list = OwnList(self.lock)

    def open(self) -> CustomStore:
        site = self.site
        site.farms += 1
        machine = site.machine(site.farms)
        try:
            return CustomStore.open(
                str(site.root),
                self.list,
                self.lock,
                f"{site.farms:08x}",
                lambda: site.now,
                machine,
            )
        except BaseException:
            site.dead.add(machine.pid)
            raise

    def kill(self, workdir: CustomStore) -> None:
        self.site.dead.add(workdir._member._machine.pid)
        workdir._member.claim.end()

    def transact(
        self,
        workdir: CustomStore,
        results: Sequence[object] = (),
        give_back: Sequence[int] = (),
        take: int = 0,
    ) -> list[int]:
        """What a leader does."""
        workdir.prepare(results, give_back, take)  # type: ignore[arg-type]
        with self.lock.hold():
            done = workdir.transact(results, give_back, take)  # type: ignore[arg-type]
        return done.taken

    def close(self, workdir: CustomStore) -> bool:
        with self.lock.hold():
            return workdir.close()

    def claims(self) -> list[str]:
        return sorted(path.name for path in (self.site.root / "claims").iterdir())


@pytest.fixture
def farms(tmp_path):
    return Farms(tmp_path / "list_workdir")


def test_tasks_are_popped_recorded_and_put_back_by_the_lists_own_methods(farms):
    workdir = farms.open()
    taken = farms.transact(workdir, take=3)
    assert taken == [11, 10, 9]
    assert workdir.held == {9, 10, 11}
    assert farms.transact(workdir, [ended(11), ended(10, 7)], [9]) == []
    assert farms.list.done == {11: [0], 10: [7]}
    assert farms.list.queue[-1] == 9
    assert workdir.recorded == (1, 1)
    assert farms.close(workdir)
    assert farms.claims() == []


def test_a_task_that_a_farm_has_put_back_and_got_again_is_no_other_farms(farms):
    first = farms.open()
    assert farms.transact(first, take=1) == [11]
    farms.transact(first, give_back=[11])
    assert farms.transact(first, take=1) == [11]
    second = farms.open()
    farms.list.queue.append(11)  # the list gives it a second time
    assert farms.transact(second, take=1) == [10]
    assert first.held == {11}


def test_a_task_that_did_not_complete_is_never_recorded_as_done_with_0(farms):
    """One that has taken too long may trap TERM and exit 0."""
    workdir = farms.open()
    farms.transact(workdir, take=1)
    farms.transact(workdir, [ended(11)._replace(finished=False)])
    assert farms.list.done == {11: [1]}
    assert farms.close(workdir)


def test_the_farms_own_files_are_written_as_ever(farms):
    workdir = farms.open()
    farms.transact(workdir, take=1)
    farms.transact(workdir, [ended(11, 3)])
    root = farms.site.root
    assert farms.site.timeline()[0]["name"] == TASKS[11]
    assert [each[:3] for each in farms.site.attempts()] == [(11, 1, 3)]
    assert not (root / "toprocess").exists()
    assert not (root / "fingerprint.json").exists()


def test_an_empty_list_is_empty(farms):
    workdir = farms.open()
    assert len(farms.transact(workdir, take=100)) == 12
    workdir.prepare((), (), 1)
    with farms.lock.hold():
        assert workdir.transact((), (), 1).empty


def test_what_a_killed_farm_held_is_run_by_the_next_without_asking_the_list(farms):
    first = farms.open()
    farms.transact(first, take=4)
    farms.transact(first, [ended(11)])
    farms.kill(first)
    second = farms.open()
    assert "3 tasks reclaimed" in " ".join(second.notes)
    assert second.held == {8, 9, 10}
    assert farms.transact(second, take=5) == [8, 9, 10, 7, 6]
    assert len(farms.claims()) == 1


def test_what_was_inherited_and_not_run_goes_back_to_the_list(farms):
    first = farms.open()
    farms.transact(first, take=4)
    farms.kill(first)
    second = farms.open()
    farms.transact(second)
    assert sorted(farms.list.queue) == list(range(12))
    assert farms.close(second)


def test_what_a_live_farm_holds_is_not_run_though_the_list_gives_it_again(farms):
    first, second = farms.open(), farms.open()
    farms.transact(first, take=2)
    farms.list.record_toprocess_task(11)
    assert farms.transact(second, take=1) == [9]
    with farms.lock.hold():
        assert second.reclaim_dead() == 0
        survey = second.survey()
    assert second.counts(survey).claimed == 2


def test_what_a_farm_puts_back_is_taken_by_another_at_that_very_moment(farms):
    one, two = farms.open(), farms.open()
    got = farms.transact(one, take=3)
    farms.transact(two, take=9)
    real, moments = farms.list.pop_task, [1]

    def pop_after_the_other_has_put_back():
        if moments:
            moments.clear()
            one._member.release = lambda _: None  # it does not come to this yet
            one.prepare((), got, 0)
        return real()

    farms.list.pop_task = pop_after_the_other_has_put_back
    assert sorted(farms.transact(two, take=12)) == sorted(got)


def test_what_two_farms_have_when_one_dies_runs_once(farms):
    one, two = farms.open(), farms.open()
    (got,) = farms.transact(one, take=1)
    one._member.release = lambda _: None
    one.prepare((), [got], 0)
    farms.kill(one)
    assert farms.transact(two, take=1) == [got]
    third = farms.open()
    assert third.held == set()
    assert "0 tasks reclaimed" in " ".join(third.notes)


def test_what_a_dead_farm_was_putting_back_is_not_lost(farms):
    one = farms.open()
    (got,) = farms.transact(one, take=1)
    farms.list.broken = "record_toprocess_task"
    one.prepare((), [got], 0)
    farms.kill(one)
    farms.list.broken = ""
    assert farms.open().held == {got}


def test_a_farm_that_was_taken_for_dead_writes_nothing_more(farms):
    one = farms.open()
    farms.transact(one, take=1)
    (farms.site.root / "claims" / one.farm).unlink()
    one.prepare((), (), 0)
    with farms.lock.hold(), pytest.raises(StorageError, match="is gone"):
        one.transact([ended(11)], (), 0)
    assert not (farms.site.root / "attempts.tsv").exists()


def test_a_farm_under_other_locks_is_refused(farms, tmp_path):
    farms.open()
    farms.lock.paths = (str(tmp_path / "another_lock"),)
    with pytest.raises(InputError, match="under other locks"):
        farms.open()
    assert len(farms.claims()) == 1


def test_a_start_that_fails_after_it_has_inherited_keeps_its_claim(farms, monkeypatch):
    one = farms.open()
    farms.transact(one, take=2)
    farms.kill(one)

    def fail(*_):
        raise StorageError("no more")

    with monkeypatch.context() as broken:
        broken.setattr("mpifarm.store.membership.Membership.remove", fail)
        with pytest.raises(StorageError):
            farms.open()
    assert farms.open().held == {10, 11}


def test_a_slow_list_is_asked_for_a_while_only(farms, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    real = farms.list.pop_task

    def slow():
        now[0] += 0.04
        return real()

    farms.list.pop_task = slow
    assert len(farms.transact(farms.open(), take=12)) == 3


def test_a_list_is_not_empty_while_inherited_tasks_are_left(farms):
    one = farms.open()
    farms.transact(one, take=12)
    farms.kill(one)
    two = farms.open()
    two.prepare((), (), 5)
    with farms.lock.hold():
        first = two.transact((), (), 5)
    assert not first.empty
    two.prepare((), (), 20)
    with farms.lock.hold():
        assert two.transact((), (), 20).empty


def test_what_others_have_finished_is_counted(farms):
    one = farms.open()
    farms.list.queue.remove(3)
    farms.list.done[3] = [0]
    with farms.lock.hold():
        survey = one.survey()
    assert one.counts(survey)[:4] == (12, 1, 0, 11)


class Integer:
    """As numpy's."""

    def __init__(self, number):
        self.number = number

    def __index__(self):
        return self.number


def test_an_id_may_be_any_integer(farms):
    farms.list.queue = [Integer(4)]
    assert farms.transact(farms.open(), take=1) == [4]


def test_a_list_that_leaves_the_program_does_not_end_the_farm(farms):
    def leave():
        raise SystemExit(0)

    farms.list.pop_task = leave
    with pytest.raises(StorageError, match=r"pop_task failed \(SystemExit: 0"):
        farms.transact(farms.open(), take=1)


def test_a_finished_task_that_the_list_gives_again_is_not_run_again(farms):
    workdir = farms.open()
    farms.transact(workdir, take=1)
    farms.transact(workdir, [ended(11)])
    farms.list.record_toprocess_task(11)
    assert farms.transact(workdir, take=1) == [10]


@pytest.mark.parametrize("given", [-1, 12, "7", 1.0])
def test_an_id_that_is_none_is_told(farms, given):
    workdir = farms.open()
    farms.list.queue.append(given)
    with pytest.raises(StorageError, match=r"pop_task gave .*it has 12 tasks"):
        farms.transact(workdir, take=1)
    assert not workdir.held


@pytest.mark.parametrize(
    ("method", "results", "give_back", "take"),
    [
        ("pop_task", (), (), 1),
        ("record_done_task", [ended(11)], (), 0),
        ("record_toprocess_task", (), [11], 0),
    ],
)
def test_a_list_that_fails_is_told_and_its_task_stays_in_the_claim(
    farms, method, results, give_back, take
):
    workdir = farms.open()
    farms.transact(workdir, take=1)
    farms.list.broken = method
    with pytest.raises(StorageError, match=f"own {method} failed .RuntimeError: Unab"):
        farms.transact(workdir, results, give_back, take)
    assert workdir.held == {11}
    farms.list.broken = ""
    assert not farms.close(workdir)
    farms.kill(workdir)
    assert farms.open().held == {11}


def test_counts_tell_what_is_left_and_what_nobody_knows_of(farms):
    workdir = farms.open()
    farms.transact(workdir, take=3)
    farms.transact(workdir, [ended(11), ended(10, 1)])
    with farms.lock.hold():
        survey = workdir.survey()
    assert workdir.counts(survey)[:7] == (12, 1, 1, 9, 1, 0, 0)
    farms.transact(workdir, take=100)
    rest = sorted(workdir.held)
    farms.transact(workdir, [ended(taskid) for taskid in rest[1:]], (), 1)
    # 0 was lost by another farmer
    farms.transact(workdir, [ended(rest[0])], (), 1)
    del farms.list.done[0]
    workdir._finished.discard(0)
    with farms.lock.hold():
        survey = workdir.survey()
    assert workdir.counts(survey)[:8] == (12, 10, 1, 0, 0, 0, 1, (10,))


def test_failures_of_earlier_farms_are_known_from_their_attempts(farms):
    first = farms.open()
    farms.transact(first, take=3)
    farms.transact(first, [ended(11), ended(10, 1), ended(9, 2)])
    farms.close(first)
    with (farms.site.root / "attempts.tsv").open("a") as torn:
        torn.write(Attempt(8).line[:3])
    second = farms.open()
    assert second.recorded == (1, 2)
    farms.list.record_toprocess_task(9)
    assert farms.transact(second, take=1) == [9]
    assert second.recorded == (1, 1)


def test_a_list_that_can_not_tell_what_is_finished_is_taken_as_it_is(
    farms, monkeypatch
):
    monkeypatch.setattr(farms.list, "get_finished", lambda: None)
    workdir = farms.open()
    farms.transact(workdir, take=1)
    farms.transact(workdir, [ended(11)])
    assert workdir.recorded == (1, 0)


@pytest.mark.parametrize("given", [["7x"], [1.5], 3, [None]])
def test_finished_tasks_that_have_no_ids_are_told(farms, monkeypatch, given):
    monkeypatch.setattr(farms.list, "get_finished", lambda: given)
    with pytest.raises(StorageError, match="get_finished gave no task ids"):
        farms.open()


def test_finished_tasks_and_attempts_that_the_list_does_not_have_count_for_nothing(
    farms, monkeypatch
):
    monkeypatch.setattr(farms.list, "get_finished", lambda: [1, -1, 99])
    farms.site.root.mkdir()
    attempts = [Attempt(taskid, status=5) for taskid in (99, -3, 2)]
    text = format_attempts(*attempts) + "9" * 5000 + attempts[0].line
    (farms.site.root / "attempts.tsv").write_text(text)
    assert farms.open().recorded == (1, 1)


def test_a_workdir_that_can_not_be_made_is_bad_input(tmp_path):
    farms = Farms(tmp_path / "there is no" / "such place")
    with pytest.raises(InputError, match="create it first"):
        farms.open()


def work(farms: Farms, workdir: CustomStore) -> None:
    """All that happens in a farm's life."""
    taken = farms.transact(workdir, take=4)
    farms.transact(workdir, [ended(taken[0]), ended(taken[1], 5)], [taken[2]], 2)
    farms.transact(workdir, give_back=sorted(workdir.held))
    farms.close(workdir)


@pytest.mark.parametrize("strike", [Killed(), full_disk()])
def test_a_kill_at_any_step_loses_at_most_the_task_under_way_and_a_full_disk_none(
    farms, tmp_path, monkeypatch, strike
):
    least = 11 if isinstance(strike, Killed) else 12
    for at in range(1, 200):
        farms = Farms(tmp_path / f"workdir{at}")
        dead = Farms.open(farms)
        farms.transact(dead, take=2)
        farms.kill(dead)
        began = farms.site.farms
        struck, workdir = False, None
        with interference(monkeypatch, at, strike, half=True):
            try:
                workdir = farms.open()
                work(farms, workdir)
            except (Killed, StorageError, InputError):
                struck = True
        for farm in range(began, farms.site.farms + 1):
            farms.site.dead.add(farm)
        if struck and workdir is not None:
            workdir._member.claim.end()
        last = farms.open()
        while taken := farms.transact(last, take=5):
            farms.transact(last, [ended(taskid) for taskid in taken])
        known = set(farms.list.done)
        assert len(known) >= least, (at, sorted(known))
        assert all(codes.count(0) <= 1 for codes in farms.list.done.values()), at
        assert farms.close(last)
        assert farms.claims() == []
        if not struck:
            assert at > 20
            return
    raise AssertionError("it never got through")


def test_a_task_has_a_record_once_it_has_ended(farms):
    farm = farms.open()
    first, second, third = farms.transact(farm, take=3)
    farms.transact(farm, [ended(first), ended(second, 1)])
    assert [farm.has_record_of(each) for each in (first, second, third)] == [
        *(True, True, False)
    ]


def test_a_task_without_a_text_is_named_by_its_number():
    class Shy:
        def __len__(self):
            return 2

        def __getitem__(self, taskid):
            raise KeyError(taskid)

    texts = Texts(Shy())
    assert [len(texts), texts[0], texts[1]] == [2, "task 0", "task 1"]


def test_another_rank_that_leads_on_holds_what_the_lost_one_did(farms):
    lost = farms.open()
    taken = farms.transact(lost, take=4)
    farms.transact(lost, [ended(taken[0])])
    site = farms.site
    site.farms += 1
    farm = CustomStore.open(
        str(site.root),
        farms.list,
        farms.lock,
        f"{lost.farm[:8]}0000000{site.farms}",
        lambda: site.now,
        site.machine(site.farms),
        predecessor=lost.farm,
    )
    assert farm.held == {*taken[1:]}
    assert farms.claims() == [farm.farm]


def test_a_task_that_the_list_gives_twice_is_run_once(farms):
    workdir = farms.open()
    assert farms.transact(workdir, take=1) == [11]
    farms.list.queue.append(11)
    assert farms.transact(workdir, take=1) == [10]


def test_what_has_gone_back_to_the_list_goes_back_once(farms):
    first = farms.open()
    farms.transact(first, take=2)
    farms.kill(first)
    second = farms.open()
    farms.transact(second)
    farms.list.queue.clear()
    farms.transact(second)
    assert farms.list.queue == []


def test_a_list_that_got_a_task_back_is_not_empty(farms):
    workdir = farms.open()
    farms.transact(workdir, take=13)
    workdir.prepare((), [3], 0)
    with farms.lock.hold():
        assert not workdir.transact((), [3], 0).empty
        survey = workdir.survey()
    counts = workdir.counts(survey)
    assert (counts.toprocess, counts.held, counts.elsewhere) == (1, 11, 0)


def test_a_list_that_is_too_slow_gives_one_task_at_least(farms, monkeypatch):
    monkeypatch.setattr(custom_store, "POP_SECONDS", -1.0)
    workdir = farms.open()
    assert farms.transact(workdir, take=3) == [11]


def test_a_claim_that_changes_nothing_does_not_grow(farms):
    workdir = farms.open()
    claim = farms.site.root / "claims" / workdir.farm
    farms.transact(workdir, take=1)
    size = claim.stat().st_size
    farms.transact(workdir)
    assert claim.stat().st_size == size


def test_a_disk_and_a_list_that_both_fail_are_told_at_the_transaction(
    farms, monkeypatch
):
    workdir = farms.open()

    def fail(_: object) -> None:
        raise StorageError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(workdir, "_hold", fail)
        farms.list.broken = "record_toprocess_task"
        workdir.prepare((), (), 1)
        with farms.lock.hold(), pytest.raises(StorageError, match="no space left"):
            workdir.transact((), (), 1)
    farms.list.broken = ""
    assert farms.transact(workdir, take=2) == [11, 10]


def test_the_seconds_of_a_transaction_are_those_of_both_its_parts(farms, monkeypatch):
    workdir = farms.open()
    clock = iter([100.0, 100.0, 102.0, 200.0, 203.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    workdir.prepare((), (), 1)
    with farms.lock.hold():
        assert workdir.transact((), (), 1).seconds == 5.0


def test_a_start_looks_at_what_is_there_mends_the_timeline_and_hears_requests(farms):
    farms.open()
    timeline = farms.site.root / "timeline.json"
    timeline.write_text('[\n{"name": "a", "ph": "X"},\n{"na')
    paths = WorkdirPaths(str(farms.site.root))
    replace_held(paths, Held(frozenset({3})))
    workdir = farms.open()
    assert b'{"na' not in timeline.read_bytes()
    assert workdir.held_by_users == Held(frozenset({3}))
    Path(paths.waiting).mkdir()  # which no list of one's own has
    with pytest.raises(FarmError, match="waiting can't be used"):
        farms.open()


@pytest.mark.parametrize(
    ("error", "is_given_up"),
    [(StorageError("full"), True), (OSError("full"), True), (KeyError(), False)],
)
def test_a_start_that_breaks_gives_up_the_lock_of_its_claim(
    farms, monkeypatch, error, is_given_up
):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(CustomStore, "_begin_attempts", fail)
    with pytest.raises(type(error)):
        farms.open()
    assert (farms.claims() == []) is is_given_up
    for name in farms.claims():
        with (farms.site.root / "claims" / name).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
