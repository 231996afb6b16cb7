"""Other orders of starts than the list's: what is picked, and what stays as it was."""

from math import inf
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.errors import StorageError
from mpifarm.order.constraints import Constraints
from mpifarm.store import picking
from mpifarm.store.picking import Picker
from mpifarm.store.start_order import BLOCK, StartOrder, longest_first, shuffled
from mpifarm.store.status_lines import encode_lines
from mpifarm.system import file_contents
from tests.unit.store_fakes import SMALL_PARTS, TASKS, PlainFarmer, Site, ended


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "workdir")
    site.order = shuffled(7)
    return site


def take_all(workdir, at_once=1):
    taken = []
    while True:
        workdir.prepare((), (), at_once)
        done = workdir.transact([ended(each) for each in workdir.held], (), at_once)
        taken += done.taken
        if done.empty and not workdir.held:
            return taken


# ---- the orders ----------------------------------------------------------------------


@given(st.integers(0, 10**9), st.integers(0, 3 * BLOCK))
def test_a_seed_means_one_order_however_long_the_list_has_become(seed, total):
    whole = shuffled(seed).sort(range(total + 100))
    assert sorted(whole) == [*range(total + 100)]
    known = [each for each in whole if each < total]
    assert [*shuffled(seed).sort(range(total))] == known
    assert shuffled(seed).find_first(range(total), 5) == known[:5]


def test_seeds_differ_and_no_place_of_the_list_is_preferred():
    assert shuffled(1).sort(range(100)) != shuffled(2).sort(range(100))
    total = 3 * BLOCK
    for first in (shuffled(seed).find_first(range(total), 1000) for seed in range(5)):
        assert abs(sum(first) / 1000 - total / 2) < total / 20


@given(st.dictionaries(st.integers(0, 30), st.floats(0, 1e9)))
def test_the_longest_start_first_and_the_unknown_before_all(durations):
    order = [*longest_first(durations).sort(range(40))]
    expected = sorted(range(40), key=lambda each: (-durations.get(each, inf), each))
    assert order == expected


# ---- what a farm takes ---------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 2, 5, 20])
def test_tasks_are_taken_in_the_order_and_the_queue_stays_sorted(site, at_once):
    workdir = site.open()
    done = workdir.transact((), (), at_once)
    queue = site.ids("toprocess")
    assert queue == sorted({*range(12)} - {*done.taken})
    order = [*site.order.sort(range(12))]
    assert done.taken == order[:at_once]
    assert done.taken + take_all(workdir, at_once) == order
    assert site.violations() == []


def test_the_next_farm_goes_on_in_the_same_order(site):
    order = [*site.order.sort(range(12))]
    first = site.open()
    first.transact((), (), 4)
    first.transact([ended(each) for each in order[:2]], (), 0)
    site.kill(first)
    site.order = shuffled(7)
    assert take_all(site.open(), 3) == order[2:]


@pytest.mark.parametrize("least", [1, 64])
def test_what_goes_back_comes_next(site, monkeypatch, least):
    monkeypatch.setattr(picking, "LEAST", least)
    workdir = site.open()
    order = [*site.order.sort(range(12))]
    taken = [workdir.transact((), (), 1).taken[0] for _ in range(6)]
    assert taken == order[:6]
    workdir.transact((), order[2:4], 1)
    assert workdir.transact((), (), 3).taken == [*order[2:4], order[7]]


def test_a_queue_of_which_a_part_is_taken_is_not_empty(site):
    """Also where the tasks in it had to wait."""
    site.constraints.add_barrier(4, checks=False)
    workdir = site.open()
    workdir.transact((), (), 12)
    done = workdir.transact([ended(each) for each in range(4)], (), 2)
    assert (len(done.taken), done.empty) == (2, False)
    assert not workdir.transact((), (), 5).empty
    assert workdir.transact((), (), 5).empty


def test_what_a_prepared_step_takes_and_puts_back_is_not_lost(site):
    workdir = site.open()
    order = workdir.transact((), (), 6).taken
    workdir.prepare((), order[:2], 3)
    popped = PlainFarmer(site).pop()
    done = workdir.transact((), order[:2], 3)
    assert not {*done.taken} & {*order, popped}
    rest = {*take_all(workdir, 4)}
    assert rest == {*range(12)} - {*order[2:], *done.taken, popped}


def test_others_may_take_anything_from_the_queue_and_put_it_back(site):
    """What is finished leaves the queue without a start."""
    workdir = site.open()
    order = workdir.transact((), (), 2).taken
    plain = PlainFarmer(site)
    got = [each for _ in range(5) if (each := plain.pop()) is not None]
    plain.record(got[0], 0)
    plain.requeue(got[0])
    plain.requeue(got[1])
    workdir.transact([ended(each) for each in order], (), 0)
    assert {*take_all(workdir)} == {*range(12)} - {*order, *got} | {got[1]}
    assert site.ids("toprocess") == []


def test_a_queue_of_finished_tasks_alone_gets_empty(site):
    workdir = site.open()
    taken = workdir.transact((), (), 12).taken
    workdir.transact([ended(each) for each in taken], (), 0)
    site.write("toprocess", [3, 4])
    done = workdir.transact((), (), 1)
    assert (done.taken, done.empty, site.ids("toprocess")) == ([], True, [])


@pytest.mark.parametrize("line", ["99 of a longer list", "3 something else"])
def test_a_line_of_another_list_is_told_when_it_is_met(site, line):
    workdir = site.open()
    (site.root / "toprocess").write_text(f"{line}\n")
    with pytest.raises(StorageError, match="not of this tasklist"):
        workdir.transact((), (), 1)


def test_lines_that_are_added_come_last_in_an_order_of_their_own(site):
    site.grows = True
    workdir = site.open()
    assert len(workdir.transact((), (), 1).taken) == 1
    site.tasks += [f"new {number}" for number in range(8)]
    site.take_up(workdir)
    rest = take_all(workdir, 3)
    assert {*rest[:11]} < {*range(12)}
    assert rest[11:] == [*site.order.sort(range(12, 20))]


@pytest.mark.parametrize("at_once", [1, 3, 12])
def test_an_order_of_the_list_comes_before_that_of_the_starts(site, at_once):
    site.constraints = Constraints(after={2: (0,)}, kinds={1: "disk"})
    site.constraints.add_barrier(4, checks=False)
    site.constraints.add_barrier(8, checks=False)
    taken = take_all(site.open(), at_once)
    for stage in (range(4), range(4, 8), range(8, 12)):
        assert {*taken[stage.start : stage.stop]} == {*stage}
    assert taken.index(2) > taken.index(0)
    assert taken[4:8] == [*site.order.sort(range(4, 8))]
    assert taken[8:] == [*site.order.sort(range(8, 12))]
    assert site.violations() == []


def test_what_is_never_to_run_is_told_in_an_order_too(site):
    site.constraints.add_barrier(4, checks=True)
    workdir = site.open()
    taken = workdir.transact((), (), 12).taken
    ends = [ended(each, status=int(each == 0)) for each in taken]
    done = workdir.transact(ends, (), 2)
    assert (done.taken, [each for each, _ in done.not_run]) == ([], [*range(4, 12)])


def test_what_users_hold_is_not_picked(site):
    workdir = site.open()
    order = [*site.order.sort(range(12))]
    assert workdir.transact((), (), 1).taken == order[:1]
    workdir._queues.hold(order[1:3])
    workdir.transact((), (), 0, pull=order[1:3])
    workdir.transact((), order[1:3], 0)
    assert workdir.transact((), (), 12).taken == order[3:]


# ---- a picker ------------------------------------------------------------------------


@given(st.data())
def test_a_picker_takes_each_task_once_whatever_others_do(data):
    """Others take, and put back; a step that is planned happens, or does not."""
    tasks = [f"task {number}" for number in range(30)]
    numbers = st.integers(0, 29)
    queued = data.draw(st.sets(numbers), label="queued")
    picker, held = Picker(shuffled(data.draw(numbers))), set[int]()
    with mock.patch.object(picking, "LEAST", data.draw(st.integers(1, 9))):
        for _ in range(data.draw(st.integers(1, 12))):
            move = data.draw(st.sampled_from(["plan", "take", "put"]))
            some = data.draw(st.sets(numbers, max_size=5))
            if move == "take":
                queued -= some
            elif move == "put":
                queued |= some - held
            else:
                content = encode_lines(sorted(queued), tasks)
                back = sorted(held & some)
                take = data.draw(st.integers(1, 6), label="take")
                plan = picker.plan(content, tasks, held.__contains__, back, take)
                assert len(plan.taken) == min(take, len(queued))
                assert {*plan.taken} <= queued
                after = b"".join(map(file_contents.bytes_of, plan.chunks))
                left = queued - {*plan.taken} | {*back}
                assert after == encode_lines(sorted(left), tasks)
                assert plan.empty == (not left)
                if data.draw(st.booleans(), label="happens"):
                    queued, held = left, held - {*back} | {*plan.taken}


def test_large_queues_are_picked_from_in_parts(site):
    small: dict[str, Any] = {**SMALL_PARTS}
    with mock.patch.multiple(file_contents, **small):
        assert take_all(site.open(), 5) == [*site.order.sort(range(len(TASKS)))]


def test_an_order_is_asked_for_no_more_keys_than_the_list_needs():
    asked = []

    def make_keys(begin):
        asked.append(begin)
        return [0.0] * BLOCK

    order = StartOrder(make_keys)
    assert [*order.sort([BLOCK, 3])] == [BLOCK, 3]
    assert asked == [0, BLOCK]
