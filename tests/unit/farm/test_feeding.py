"""`Feeder`: which leases go to workers, come back from them, and go back to rank 0."""

import math
from collections.abc import Iterable
from typing import Any

import pytest

from mpifarm.farm.feeding import (
    IDLE_SECONDS,
    MAX_IN_PIPE,
    PIPE_SECONDS,
    RECALL_SECONDS,
    REFUSED_SECONDS,
    RETURN_SECONDS,
    Feeder,
)
from mpifarm.model.task import Lease


def lease(taskid: int, attempt: int = 1) -> Lease:
    return Lease(taskid, attempt, "true")


class Pool:
    """Says what a test wants of its workers, and keeps what it is given."""

    def __init__(self) -> None:
        self.room: dict[int, int] = {}
        """Vacancies by the number of leases ahead."""
        self.asked: list[int] = []
        self.given: list[int] = []
        self.in_pipes: list[Lease] = []
        self.leases: list[Lease] = []
        self.busy = 0
        self.ahead = 0

    def vacancies(self, ahead: int) -> int:
        self.asked.append(ahead)
        return self.room.get(ahead, 0)

    def submit(self, leases: Iterable[Lease]) -> None:
        self.given += [each.taskid for each in leases]

    def recall(self) -> list[Lease]:
        recalled, self.in_pipes = self.in_pipes, []
        return recalled

    def least_ahead(self) -> int:
        return self.ahead


class Fed:
    """A feeder of four workers, at second 100."""

    def __init__(self) -> None:
        self.pool = Pool()
        pool: Any = self.pool
        self.feeder = Feeder(pool, 4, 100.0)

    def queued(self) -> list[int]:
        return [each.taskid for each in self.feeder.queue]


@pytest.fixture
def fed():
    return Fed()


def test_what_is_put_back_stands_before_all_others_in_its_order(fed):
    fed.feeder.accept([lease(1), lease(2)], 100.0)
    fed.feeder.put_back([lease(8), lease(9)])
    assert fed.queued() == [8, 9, 1, 2]


def test_only_leases_for_an_empty_queue_begin_the_times_anew(fed):
    fed.feeder.accept([lease(1)], 103.0)
    assert fed.feeder.recall_at() == 103.0 + RECALL_SECONDS
    fed.feeder.accept([lease(2)], 104.0)
    assert fed.feeder.recall_at() == 103.0 + RECALL_SECONDS


def test_leases_are_recalled_soon_where_a_worker_idles_and_nothing_waits(fed):
    assert fed.feeder.recall_at() == 100.0 + RECALL_SECONDS
    fed.pool.room = {0: 1}
    assert fed.feeder.recall_at() == 100.0 + IDLE_SECONDS
    assert fed.feeder.is_starving
    fed.feeder.accept([lease(1)], 100.0)
    assert fed.feeder.recall_at() == 100.0 + RECALL_SECONDS
    assert not fed.feeder.is_starving


def test_a_queue_without_leases_asks_nothing_of_the_pool(fed):
    fed.feeder.feed()
    assert (fed.pool.asked, fed.pool.given) == ([], [])


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_workers_get_what_they_have_room_for(fed, room):
    fed.pool.room = {0: room}
    fed.feeder.accept([lease(1), lease(2)], 100.0)
    fed.feeder.feed()
    assert fed.pool.given == [1, 2][:room]
    assert fed.queued() == [1, 2][room:]
    assert not fed.feeder.is_fed_ahead


@pytest.mark.parametrize(
    ("seconds", "ahead"),
    [
        (0.0, 0),
        (PIPE_SECONDS / 2 + 1e-9, 0),
        (PIPE_SECONDS / 2, 3),
        (PIPE_SECONDS / 4, 5),
        (PIPE_SECONDS / 94.5, 95),
        (PIPE_SECONDS / 1000, MAX_IN_PIPE),
    ],
)
def test_so_many_leases_wait_in_a_pipe_by_the_time_of_a_task(fed, seconds, ahead):
    fed.feeder.note_end(seconds, 101.0)
    fed.pool.room = {ahead: 1}
    fed.feeder.accept([lease(1)], 101.0)
    fed.feeder.feed()
    assert fed.pool.asked == [ahead]
    assert fed.pool.given == [1]
    assert fed.feeder.is_fed_ahead == (ahead > 0)


def test_the_mean_follows_the_first_tasks_exactly_and_later_ones_slowly(fed):
    fed.pool.ahead = 1
    fed.feeder.is_fed_ahead = True
    work = fed.feeder.work_ahead

    fed.feeder.note_end(1.0, 100.0)
    assert work() == 1.0
    fed.feeder.note_end(3.0, 100.0)
    assert work() == pytest.approx(2.0)
    for _ in range(98):
        fed.feeder.note_end(2.0, 100.0)
    fed.feeder.note_end(22.0, 100.0)
    assert work() == pytest.approx(3.0), "a twentieth of what it differs by"


def test_a_rank_that_is_not_fed_ahead_has_no_work_ahead(fed):
    fed.feeder.note_end(1.0, 100.0)
    fed.pool.ahead = 3
    assert fed.feeder.work_ahead() == 0.0
    fed.feeder.is_fed_ahead = True
    assert fed.feeder.work_ahead() == 3.0


def test_after_a_recall_nothing_is_put_ahead_until_tasks_are_short_again(fed):
    fed.feeder.note_end(0.001, 100.0)
    fed.feeder.is_fed_ahead = True
    fed.pool.in_pipes = [lease(8), lease(9)]
    fed.feeder.accept([lease(1)], 100.0)
    fed.feeder.recall()
    assert fed.queued() == [8, 9, 1]
    assert not fed.feeder.is_fed_ahead
    fed.feeder.feed()
    assert fed.pool.asked == [0]


def test_a_recall_that_brings_nothing_leaves_the_mean(fed):
    fed.feeder.note_end(PIPE_SECONDS / 4, 100.0)
    fed.feeder.recall()
    fed.feeder.accept([lease(1)], 100.0)
    fed.feeder.feed()
    assert fed.pool.asked == [5]


def test_a_recall_makes_no_long_mean_shorter(fed):
    fed.feeder.note_end(10.0, 100.0)
    fed.pool.in_pipes = [lease(8)]
    fed.feeder.recall()
    assert fed.feeder.return_at() == 100.0 + 15.0


# ---- refusals ------------------------------------------------------------------------


def test_a_refused_lease_is_tried_again_until_the_patience_is_over(fed):
    assert fed.feeder.try_again(lease(1), 200.0, 2.0)
    assert fed.queued() == [1]
    assert fed.feeder.feed_at == 200.0 + REFUSED_SECONDS
    fed.feeder.queue.clear()
    assert fed.feeder.try_again(lease(2), 201.9, 2.0)
    fed.feeder.queue.clear()
    assert not fed.feeder.try_again(lease(1), 202.0, 2.0)
    assert fed.queued() == []


def test_a_refused_lease_stands_first_again(fed):
    fed.feeder.accept([lease(1)], 200.0)
    fed.feeder.try_again(lease(9), 200.0, 2.0)
    assert fed.queued() == [9, 1]


def test_without_patience_nothing_is_tried_again(fed):
    assert not fed.feeder.try_again(lease(1), 200.0, 0.0)
    assert fed.feeder.feed_at == -math.inf


def test_an_end_forgets_the_refusals_before_it(fed):
    fed.feeder.try_again(lease(1), 200.0, 2.0)
    fed.feeder.note_end(1.0, 201.0)
    assert fed.feeder.try_again(lease(1), 202.5, 2.0)
    assert not fed.feeder.try_again(lease(1), 204.5, 2.0)


# ---- back to rank 0 ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "mean", "after"),
    [
        (4, 0.1, RETURN_SECONDS),
        (4, 1.0, 1.5),
        (1, 1.0, 4.0),
        (2, 1.0, 2.0),
        (8, 1.0, 1.5),
    ],
)
def test_a_queue_goes_back_when_some_task_should_have_ended(workers, mean, after):
    pool: Any = Pool()
    feeder = Feeder(pool, workers, 100.0)
    feeder.note_end(mean, 103.0)
    assert feeder.return_at() == pytest.approx(103.0 + after)


@pytest.mark.parametrize(
    ("busy", "refused", "at"),
    [
        (4, False, math.inf),
        (3, False, 100.0 + RETURN_SECONDS),
        (3, True, math.inf),
        (5, False, math.inf),
    ],
)
def test_before_the_first_end_a_queue_goes_back_where_a_worker_is_missing(
    fed, busy, refused, at
):
    fed.pool.busy = busy
    if refused:
        fed.feeder.try_again(lease(1), 100.0, 2.0)
    assert fed.feeder.return_at() == at


@pytest.mark.parametrize(
    ("count", "idle", "popped"),
    [
        (2, 0, [3, 4]),
        (4, 0, [1, 2, 3, 4]),
        (9, 0, [1, 2, 3, 4]),
        (2, 2, [3, 4]),
        (2, 3, [4]),
        (2, 5, []),
        (0, 0, []),
    ],
)
def test_spare_are_the_last_that_no_worker_can_begin(fed, count, idle, popped):
    fed.feeder.accept(map(lease, [1, 2, 3, 4]), 100.0)
    fed.pool.room = {0: idle}
    assert [each.taskid for each in fed.feeder.pop_spare(count)] == popped
    assert fed.queued() == [each for each in [1, 2, 3, 4] if each not in popped]


@pytest.mark.parametrize(
    ("count", "is_ahead", "popped"),
    [(1, True, [1]), (2, True, [9, 1]), (2, False, [1])],
)
def test_leases_in_pipes_are_spare_where_the_queue_has_too_few(
    fed, count, is_ahead, popped
):
    fed.feeder.accept([lease(1)], 100.0)
    fed.pool.in_pipes = [lease(9)]
    fed.feeder.is_fed_ahead = is_ahead
    assert [each.taskid for each in fed.feeder.pop_spare(count)] == popped


def test_all_of_the_queue_goes_back_in_its_order(fed):
    fed.feeder.accept(map(lease, [1, 2, 3]), 100.0)
    assert [each.taskid for each in fed.feeder.pop_all()] == [1, 2, 3]
    assert fed.queued() == []


def test_of_what_is_wanted_all_that_waits_is_popped_and_the_rest_stays(fed):
    fed.feeder.accept(map(lease, [1, 2, 3]), 100.0)
    fed.pool.in_pipes = [lease(9)]
    assert fed.feeder.pop_wanted({(1, 1), (3, 1)}) == [lease(1), lease(3)]
    assert fed.queued() == [2]
    assert fed.pool.in_pipes == [lease(9)], "the queue had all of them"
    assert fed.feeder.pop_wanted({(9, 1), (2, 7)}) == [lease(9)]
    assert fed.queued() == [2], "another attempt is not wanted"


def test_what_workers_have_is_begun_and_what_has_not_ended_is_held(fed):
    fed.feeder.accept([lease(1)], 100.0)
    fed.pool.leases = [lease(5, 2), lease(6)]
    assert fed.feeder.find_begun({(5, 2), (6, 2), (1, 1)}) == [(5, 2)]
    assert fed.feeder.held == [(1, 1), (5, 2), (6, 1)]


@pytest.mark.parametrize(
    ("busy", "waiting", "has_work"), [(0, 0, False), (1, 0, True), (0, 1, True)]
)
def test_a_rank_has_work_that_runs_or_waits(fed, busy, waiting, has_work):
    fed.pool.busy = busy
    fed.feeder.accept(map(lease, range(waiting)), 100.0)
    assert fed.feeder.has_work is has_work
