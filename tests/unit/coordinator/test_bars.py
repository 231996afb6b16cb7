"""Which tasks must not start, and that it costs one look where there is none."""

from mpifarm.coordinator.bars import Bars


def test_a_bar_is_set_as_long_as_any_task_is_cancelled_or_held():
    bars = Bars()
    assert not bars.is_set
    bars.cancel([3, 4])
    assert bars.is_set
    bars.forget([3])
    assert bars.is_set
    bars.forget([4, 9])
    assert (bars.is_set, bars.cancelled) == (False, set())
    bars.hold([5])
    assert bars.is_set
    bars.release([5, 9])
    assert (bars.is_set, bars.held) == (False, set())


def test_a_hold_of_all_holds_each_task_until_all_are_released():
    bars = Bars()
    bars.hold(None)
    assert (bars.is_set, bars.holds(7)) == (True, True)
    bars.hold([5])
    bars.release([5])
    assert bars.holds(5)
    bars.hold([6])
    bars.release(None)
    assert (bars.is_set, bars.holds(5), bars.holds(6)) == (False, False, False)


def test_a_cancelled_task_is_not_held_and_a_release_does_not_forget_it():
    bars = Bars()
    bars.cancel([3])
    assert not bars.holds(3)
    bars.release(None)
    assert bars.is_set
    assert bars.cancelled == {3}


def test_only_the_named_tasks_are_held():
    bars = Bars()
    bars.hold([3])
    assert bars.holds(3)
    assert not bars.holds(4)
