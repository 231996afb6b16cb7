"""What rank 0 counts, says and returns at the end of a farm."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.coordinator.coordinator import Coordinator
from mpifarm.errors import ExitStatus, StorageError
from mpifarm.farm import finish
from mpifarm.farm.finish import Conclusion
from mpifarm.farm.growth import Left
from mpifarm.farm.summary import Summary, Tally
from mpifarm.lists.growth import Odd, Oddity
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import Settings
from mpifarm.model.task import Outcome, Result
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.store.held_file import Held
from mpifarm.store.types import Counts
from mpifarm.store.unlimited import Unlimited
from mpifarm.system.file_contents import ChangedError
from tests.unit import fakes

COUNTS = Counts(
    total=3,
    finished=1,
    failed=0,
    toprocess=0,
    held=2,
    claimed=0,
    elsewhere=0,
    first_failed=(),
)


class BusyLock:
    """It can be had `times` times."""

    def __init__(self, times: int) -> None:
        self.held = False
        self.timeouts: list[float] = []
        self._left = times

    @contextmanager
    def hold(self, timeout: float) -> Iterator[None]:
        assert not self.held
        self.timeouts.append(timeout)
        if not self._left:
            raise StorageError(f"the lock could not be had within {timeout:g} s")
        self._left -= 1
        self.held = True
        try:
            yield
        finally:
            self.held = False


class ChangingWorkdir:
    """Others rewrite its queue while it is counted; the first `changes` times."""

    is_database = False

    def __init__(
        self,
        lock: BusyLock,
        changes: int,
        *,
        left_nothing: bool,
        counts: Counts = COUNTS,
        drains: bool = False,
    ) -> None:
        self.paths = WorkdirPaths("/here/list_workdir")
        self._drains = drains
        self._lock = lock
        self._counts = counts
        self._changes = changes
        self._left_nothing = left_nothing
        self.held_by_users = Held()
        self.unlimited = Unlimited(UNORDERED)
        self.recorded = (1, 0)
        self.records: set[int] = set()
        self.results: list[dict[str, Any]] = []
        self.result_fails = False
        self.closed = 0
        self.asked_for_array = False

    def drain_requested(self) -> bool:
        return self._drains

    def survey(self, *, in_array: bool) -> object:
        assert self._lock.held
        self.asked_for_array = in_array
        return object()

    def close(self) -> bool:
        assert self._lock.held
        self.closed += 1
        return self._left_nothing

    def counts(self, survey: object) -> Counts:
        if self._changes:
            self._changes -= 1
            raise ChangedError("toprocess was changed while it was read")
        return self._counts

    def has_record_of(self, taskid: int) -> bool:
        return taskid in self.records

    def write_result(self, payload: dict[str, Any]) -> None:
        assert not self._lock.held
        if self.result_fails:
            raise StorageError("can't write result.json")
        self.results.append(payload)


class ConcludedFarm:
    """What a farm of three tasks has said at its end, and how it has ended."""

    def __init__(
        self,
        locks: int,
        changes: int,
        *,
        left_nothing: bool = False,
        counts: Counts = COUNTS,
        in_array: bool = False,
        drains: bool = False,
        before: Callable[["ConcludedFarm"], None] = lambda farm: None,
        growth: "LeftLines | None" = None,
        logs: str = "all",
    ) -> None:
        self.said: list[str] = []
        self.tally = Tally(0.0)
        self.states: list[int] = []
        self.events: list[object] = []
        """What hooks were told at the end."""
        lock = self.lock = BusyLock(locks)
        self.workdir = ChangingWorkdir(
            lock, changes, left_nothing=left_nothing, counts=counts, drains=drains
        )
        self.coordinator = Coordinator(
            *(
                fakes.Commands(3),
                fakes.define_farm(),
                fakes.rank_set_of(1, 1),
                0.0,
            )
        )
        leader: Any = SimpleNamespace(
            coordinator=self.coordinator,
            store=self.workdir,
            lock=lock,
            tally=self.tally,
            events=SimpleNamespace(note_ended=self.events.append),
            growth=growth,
            write_state=self.states.append,
            group_failures=lambda: None,
        )
        say = self.said.append
        output = SimpleNamespace(say=say, mention=say, complain=say)
        context: Any = SimpleNamespace(
            settings=Settings("list", "list_workdir", in_array=in_array, logs=logs),
            process=SimpleNamespace(output=output, environ={}, started_in=""),
            size=1,
            begun=0.0,
        )
        before(self)
        conclusion = Conclusion(leader, context)
        conclusion.conclude()
        self.status = conclusion.status
        self.end = conclusion.find_end()

    def tells(self, words: str) -> bool:
        """Whether a line of it has these words; they come once at the most."""
        lines = [line for line in self.said if words in line]
        assert len(lines) <= 1
        return bool(lines)


def test_a_queue_that_changes_while_it_is_counted_is_counted_again_under_the_lock():
    end = ConcludedFarm(locks=2, changes=1)
    assert end.tells("1 finished")
    assert end.tells("stand in its claim")
    assert end.workdir.closed == 1
    assert end.status is ExitStatus.RUN_AGAIN


@pytest.mark.parametrize(
    ("locks", "changes", "why"),
    [(1, 1, "the lock could not be had"), (2, 2, "toprocess was changed")],
)
def test_tasks_left_in_the_claim_are_told_where_the_second_count_fails(
    locks, changes, why
):
    end = ConcludedFarm(locks, changes)
    assert end.tells("stand in its claim; the next start takes them back")
    assert end.tells(why)
    assert end.status is ExitStatus.RUN_AGAIN


def ran(taskid: int) -> Callable[["ConcludedFarm"], None]:
    result = Result(taskid, 1, Outcome.COMPLETED, 0, 4711, 1.7e9, 2.5, 9.0)
    return lambda farm: farm.tally.add(result)


@pytest.mark.parametrize("logs", ["all", "packed", "failed"])
def test_a_farm_that_ran_tasks_says_where_their_outputs_are(logs):
    end = ConcludedFarm(1, 1, before=ran(2), logs=logs)
    assert end.tells("outputs: mpifarm log list_workdir") is (logs != "failed")
    assert not ConcludedFarm(1, 1).tells("outputs")


def test_a_claim_that_holds_nothing_is_not_spoken_of():
    assert not ConcludedFarm(1, 1, left_nothing=True).tells("claim")
    assert not ConcludedFarm(1, 0, left_nothing=True).tells("claim")


REST_WITH_OTHERS = COUNTS._replace(held=0, claimed=2, in_array=2)


def conclude_in_array(**counts: Any) -> ConcludedFarm:
    """The end of a member of a job array."""
    found = REST_WITH_OTHERS._replace(**counts)
    return ConcludedFarm(1, 0, left_nothing=True, counts=found, in_array=True)


def test_a_member_of_an_array_ends_with_0_where_living_members_have_the_rest():
    end = conclude_in_array()
    assert end.status is ExitStatus.ALL_FINISHED
    assert end.workdir.asked_for_array
    assert end.tells("exit status 0: nothing is left to start; 2 tasks are with other")


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        ({"in_array": 1}, ExitStatus.WITH_OTHERS),
        ({"claimed": 1, "in_array": 1, "elsewhere": 1}, ExitStatus.WITH_OTHERS),
        ({"finished": 0, "failed": 1}, ExitStatus.WITH_OTHERS),
        ({"claimed": 1, "in_array": 1, "toprocess": 1}, ExitStatus.RUN_AGAIN),
        ({"claimed": 1, "in_array": 1, "held": 1}, ExitStatus.RUN_AGAIN),
        ({"claimed": 0, "in_array": 0, "failed": 2}, ExitStatus.SOME_FAILED),
    ],
)
def test_a_member_of_an_array_ends_as_any_farm_in_all_other_cases(counts, status):
    assert conclude_in_array(**counts).status is status


def test_without_the_option_the_rest_with_others_is_told_by_3():
    end = ConcludedFarm(1, 0, left_nothing=True, counts=REST_WITH_OTHERS)
    assert not end.workdir.asked_for_array
    assert end.status is ExitStatus.WITH_OTHERS


def test_a_drain_file_that_is_there_is_named_as_what_is_to_be_removed_first():
    end = ConcludedFarm(1, 0, left_nothing=True, drains=True)
    assert end.tells(
        "exit status 75: tasks are left: to go on, remove /here/list_workdir/drain, and"
        " give the same command again"
    )
    end = ConcludedFarm(1, 0, left_nothing=True)
    assert end.tells("tasks are left: give the same command again to go on")


@pytest.mark.parametrize(
    ("held", "counts", "drains", "words"),
    [
        (
            Held(frozenset({1, 2, 7})),
            {},
            False,
            "2 tasks are left, and held: give mpifarm release list_workdir, then",
        ),
        (
            Held(holds_all=True),
            {"held_up": 1},
            True,
            "2 tasks are left, and held: give mpifarm release list_workdir, remo",
        ),
        (Held(frozenset({0, 2})), {}, False, "tasks are left: give the same command"),
        (Held(frozenset({1, 2})), {"held_up": 1}, False, "tasks are left: give the sa"),
        (Held(frozenset({1, 2})), {"elsewhere": 1}, False, "tasks are left: give the"),
        (Held(frozenset({1})), {"held": 0, "finished": 3}, False, "all tasks of the l"),
    ],
)
def test_where_all_that_is_left_is_held_the_end_says_how_to_release_it(
    held, counts, drains, words
):
    def hold(farm: ConcludedFarm) -> None:
        farm.workdir.held_by_users = held
        farm.workdir.records = {0}

    found = COUNTS._replace(**counts)
    end = ConcludedFarm(
        1, 0, left_nothing=True, counts=found, drains=drains, before=hold
    )
    assert end.said[-1].partition(": ")[2].startswith(words)
    assert end.workdir.results[0]["meaning"].startswith(words)


@pytest.mark.parametrize(
    ("has_record", "drains", "words"),
    [
        (False, False, "give the same command with --limit a=N --limit zz=N"),
        (True, False, ""),
        (False, True, "give the same command with --limit a=N --limit zz=N"),
    ],
)
def test_where_tasks_of_a_kind_without_a_limit_are_left_the_end_names_the_option(
    has_record, drains, words
):
    def leave(farm: ConcludedFarm) -> None:
        kinds = {0: "zz", 1: "b", 2: "a"}
        farm.workdir.unlimited = Unlimited(Constraints(kinds=kinds))
        farm.workdir.unlimited.name_limits(["b"])
        farm.workdir.records = {0, 2} if has_record else set()

    end = ConcludedFarm(1, 0, left_nothing=True, drains=drains, before=leave)
    way_on = end.said[-1].partition("to go on, ")[2]
    assert way_on.endswith(words)
    assert way_on.startswith("remove ") is drains
    assert bool(way_on) is bool(words)
    left = [] if has_record else ["a", "zz"]
    assert end.workdir.results[0]["no_limit"] == left


def test_what_did_not_fail_in_this_farm_failed_in_another():
    counts = COUNTS._replace(failed=1, held=1, first_failed=(2,))
    end = ConcludedFarm(1, 0, left_nothing=True, counts=counts)
    assert end.tells("failed: 1 task in earlier or other farms (task 2), see mpifarm")
    (failed,) = end.workdir.results[0]["failed"]
    assert failed["how"] == "failed in an earlier or another farm"


def test_a_task_that_was_put_back_and_has_finished_elsewhere_has_not_failed():
    def fail_two(farm: ConcludedFarm) -> None:
        farm.tally.statuses.update({0: "exit status 3", 1: "exit status 4"})

    counts = COUNTS._replace(finished=2, failed=1, held=0, first_failed=(1,))
    end = ConcludedFarm(1, 0, left_nothing=True, counts=counts, before=fail_two)
    assert end.tells("failed: task 1: exit status 4")
    assert not end.tells("task 0")
    assert [each["taskid"] for each in end.workdir.results[0]["failed"]] == [1]


# ---- the exit status ----------------------------------------------------------------

ALL_FINISHED = COUNTS._replace(finished=3, held=0)
ONE_FAILED = COUNTS._replace(finished=2, failed=1, held=0)


def lose_storage(farm: ConcludedFarm) -> None:
    """Nothing can be recorded any more."""
    farm.coordinator.on_storage_failed("the disk is full", 1.0)


def stop_for_failures(farm: ConcludedFarm) -> None:
    """The farm was stopped by the tasks that failed."""
    farm.coordinator.stop_reasons.too_many_failures = True


def lose_all(farm: ConcludedFarm) -> None:
    """Too much failed, and then the disk."""
    stop_for_failures(farm)
    lose_storage(farm)


@pytest.mark.parametrize(
    ("counts", "before", "status"),
    [
        (ALL_FINISHED, lambda farm: None, ExitStatus.ALL_FINISHED),
        (ONE_FAILED, lambda farm: None, ExitStatus.SOME_FAILED),
        (COUNTS, lambda farm: None, ExitStatus.RUN_AGAIN),
        (COUNTS, stop_for_failures, ExitStatus.SOME_FAILED),
        (COUNTS, lose_storage, ExitStatus.RUN_AGAIN),
        (ONE_FAILED, lose_storage, ExitStatus.RUN_AGAIN),
        (ALL_FINISHED, lose_storage, ExitStatus.ALL_FINISHED),
        (COUNTS, lose_all, ExitStatus.RUN_AGAIN),
        (ONE_FAILED, lose_all, ExitStatus.RUN_AGAIN),
    ],
)
def test_the_exit_status_follows_from_the_counts_the_failures_and_the_disk(
    counts, before, status
):
    end = ConcludedFarm(1, 0, left_nothing=True, counts=counts, before=before)
    assert end.status is end.end.status is status
    assert end.workdir.results[0]["exit_status"] == status.value


class LeftLines:
    """The growth of a list to which lines were added that nobody has taken up."""

    path = "list"

    def find_left(self, now: float) -> Left:
        return self.left

    def __init__(self, left: Left) -> None:
        self.left = left


@pytest.mark.parametrize(
    ("counts", "too_much_failed", "status", "is_told"),
    [
        (ALL_FINISHED, False, ExitStatus.RUN_AGAIN, True),
        (ONE_FAILED, False, ExitStatus.RUN_AGAIN, True),
        (ALL_FINISHED, True, ExitStatus.SOME_FAILED, True),
        (COUNTS, False, ExitStatus.RUN_AGAIN, False),
    ],
)
def test_lines_that_a_farm_has_left_want_another_start_unless_too_much_failed(
    counts, too_much_failed, status, is_told
):
    end = ConcludedFarm(
        *(1, 0),
        left_nothing=True,
        counts=counts,
        before=stop_for_failures if too_much_failed else lambda farm: None,
        growth=LeftLines(Left(2)),
    )
    assert end.status is status
    assert is_told is end.tells(
        "2 tasks were added to list last, and this farm has left them: give the same"
        " command again"
    )


EDITED = Odd(Oddity.EDITED)


@pytest.mark.parametrize(
    ("left", "status", "words"),
    [
        (Left(), ExitStatus.ALL_FINISHED, ""),
        (Left(0, EDITED), ExitStatus.ALL_FINISHED, "of the list as the farm knew it"),
        (Left(1, EDITED), ExitStatus.RUN_AGAIN, "it has 1 task more now"),
        (Left(0, Odd(Oddity.GONE)), ExitStatus.ALL_FINISHED, ""),
    ],
)
def test_an_edited_list_is_told_and_if_it_is_longer_wants_another_start(
    left, status, words
):
    growth = LeftLines(left)
    end = ConcludedFarm(1, 0, left_nothing=True, counts=ALL_FINISHED, growth=growth)
    assert end.status is status
    assert end.tells(words) if words else not end.tells("added to list")


WRONG = Odd(Oddity.WRONG, "line 5 of list names no tasks", "line 5 of list")


@pytest.mark.parametrize("counts", [ALL_FINISHED, ONE_FAILED, REST_WITH_OTHERS])
def test_a_list_that_goes_on_with_a_wrong_line_is_never_done(counts):
    growth = LeftLines(Left(0, WRONG))
    end = ConcludedFarm(1, 0, left_nothing=True, counts=counts, growth=growth)
    assert end.status is ExitStatus.RUN_AGAIN
    assert "line 5 of list names no tasks" in end.said
    assert end.said[-1] == (
        "exit status 75: line 5 of list and what follows it have not run: correct the"
        " line, then give the same command again"
    )
    assert end.workdir.results[0]["meaning"] == end.said[-1].partition(": ")[2]


@pytest.mark.parametrize(
    ("finished", "failed", "status"),
    [
        (3, 0, ExitStatus.ALL_FINISHED),
        (2, 0, ExitStatus.RUN_AGAIN),
        (2, 1, ExitStatus.RUN_AGAIN),
    ],
)
def test_what_is_recorded_counts_where_the_list_cannot_be_counted(
    finished, failed, status
):
    def record(farm: ConcludedFarm) -> None:
        farm.workdir.recorded = (finished, failed)

    end = ConcludedFarm(0, 0, before=record)
    assert end.status is status
    assert end.tells("the lock could not be had within 10 s")
    assert end.tells(
        f"{finished} finished and {failed} failed were recorded, of 3 tasks"
    )


def test_a_disk_that_has_failed_is_waited_for_half_a_second_and_not_told_again():
    end = ConcludedFarm(0, 0, before=lose_storage)
    assert end.lock.timeouts == [0.5]
    assert not end.tells("the lock could not be had")
    assert end.tells("ended early: the disk is full")


def test_results_that_could_not_be_recorded_are_told_but_for_those_on_disk():
    def lose_results(farm: ConcludedFarm) -> None:
        farm.coordinator.ending.unrecorded = tuple(range(13))
        farm.workdir.records = {1}

    end = ConcludedFarm(1, 0, before=lose_results)
    assert end.tells(
        "could not be recorded, will run again: tasks 0, 2, 3, 4, 5, 6, 7, 8, 9, 10"
        " and 2 more"
    )


def test_one_result_that_could_not_be_recorded_is_told_as_one():
    def lose_result(farm: ConcludedFarm) -> None:
        farm.coordinator.ending.unrecorded = (2,)

    end = ConcludedFarm(1, 0, before=lose_result)
    assert "could not be recorded, will run again: task 2" in end.said


@pytest.mark.parametrize("storage_failed", [False, True])
def test_a_result_file_that_cannot_be_written_is_told_unless_the_disk_was_told_of(
    storage_failed,
):
    def break_result(farm: ConcludedFarm) -> None:
        farm.workdir.result_fails = True
        if storage_failed:
            lose_storage(farm)

    end = ConcludedFarm(1, 0, counts=ALL_FINISHED, before=break_result)
    assert end.tells("can't write result.json") is not storage_failed
    assert end.status is ExitStatus.ALL_FINISHED


def test_the_keys_of_the_result_file_are_those_that_scripts_know():
    (payload,) = ConcludedFarm(
        1, 0, left_nothing=True, counts=ONE_FAILED
    ).workdir.results
    assert payload["tasks"] == {
        "total": 3,
        "finished": 2,
        "failed": 1,
        "toprocess": 0,
        "held_up": 0,
        "elsewhere": 0,
        "claimed": 0,
        "is_counted": True,
        "in_array": 0,
    }
    assert payload["version"] == 1


@pytest.mark.parametrize(
    ("lost", "held_up", "barrier", "is_database", "note"),
    [
        ((), 3, 5, False, None),
        (
            *((4,), 1, None, False),
            "1 task waits for task 4, which is in no file",
        ),
        (
            *((2, 3), 4, 5, False),
            (
                "4 tasks wait behind the barrier in front of task 5 for tasks 2-3,"
                " which are in no file"
            ),
        ),
        (
            *((4,), 2, 0, True),
            (
                "2 tasks wait behind the barrier in front of task 0 for task 4, which"
                " is with no farm of mpifarm"
            ),
        ),
    ],
)
def test_what_waits_for_tasks_that_nobody_has_is_told(
    lost, held_up, barrier, is_database, note
):
    counts = COUNTS._replace(lost=lost, held_up=held_up, barrier=barrier)
    found = finish._explain_wait(counts, is_database=is_database)
    assert found == ([] if note is None else [note])


def test_hooks_are_told_the_summary_that_is_written():
    end = ConcludedFarm(1, 0, left_nothing=True)
    (summary,) = end.events
    assert isinstance(summary, Summary)
    assert end.workdir.results == [summary.payload()]
