"""A change is composed without the lock, and applied only to what it was made from."""

import pytest

from mpifarm.store.optimistic import TRIES_WITHOUT_LOCK, write_optimistically
from mpifarm.system.file_contents import ChangedError
from tests.unit.store_fakes import FakeLock


class Disk:
    """A number, which others may change while a change is composed."""

    def __init__(self, interferences: int) -> None:
        self.lock = FakeLock()
        self.content = 0
        self.left = interferences
        self.composed_with_lock: list[bool] = []

    def read(self) -> int:
        assert self.lock.held
        return self.content

    def compose(self, seen: int) -> int:
        self.composed_with_lock.append(self.lock.held)
        if self.left and not self.lock.held:
            self.left -= 1
            self.content += 1
        return seen + 100

    def is_current(self, seen: int) -> bool:
        assert self.lock.held
        return self.content == seen

    def apply(self, change: int) -> None:
        assert self.lock.held
        assert change == self.content + 100, "made from something else"
        self.content = change

    def write(self, *, is_needed: bool = True) -> int:
        return write_optimistically(
            self.lock,
            self.read,
            self.compose,
            self.apply,
            is_current=self.is_current,
            is_needed=lambda _: is_needed,
            seconds=1,
        )


@pytest.mark.parametrize("times", range(TRIES_WITHOUT_LOCK + 2))
def test_a_change_is_applied_to_what_it_was_made_from(times):
    disk = Disk(times)
    assert disk.write() == disk.content == 100 + min(times, TRIES_WITHOUT_LOCK)
    tries = min(times + 1, TRIES_WITHOUT_LOCK)
    last = [True] if times >= TRIES_WITHOUT_LOCK else []
    assert disk.composed_with_lock == [False] * tries + last


def test_a_large_file_that_changes_while_it_is_read_on_is_read_whole_in_the_end():
    disk = Disk(0)
    reads: list[str] = []

    def compose(seen: str) -> str:
        reads.append(seen)
        if seen == "part":
            raise ChangedError("it has changed")
        return seen

    done = write_optimistically(
        disk.lock,
        lambda: "part",
        compose,
        lambda _: None,
        is_current=lambda _: True,
        read_whole=lambda: "whole",
        seconds=1,
    )
    assert (done, reads) == ("whole", ["part"] * TRIES_WITHOUT_LOCK + ["whole"])


def test_a_change_that_changes_nothing_is_not_applied():
    disk = Disk(0)
    assert disk.write(is_needed=False) == 100
    assert disk.content == 0


def test_nothing_is_written_where_the_change_can_not_be_composed():
    disk = Disk(0)

    def refuse(_):
        raise ValueError

    disk.compose = refuse  # type: ignore[method-assign]
    with pytest.raises(ValueError):  # noqa: PT011
        disk.write()
    assert (disk.content, disk.lock.held) == (0, False)


def test_three_tries_leave_the_lock_to_others():
    assert TRIES_WITHOUT_LOCK == 3
