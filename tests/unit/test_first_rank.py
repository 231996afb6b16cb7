"""What rank 0 makes of what the user's handler gives it, and what it says last."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.config import Settings
from mpifarm.coordinator import Coordinator
from mpifarm.errors import ExitStatus, InputError, StorageError
from mpifarm.first_rank import Commands, Ending
from mpifarm.report import Tally
from mpifarm.workdir import ChangedError, Counts
from tests.unit import fakes


class Text(str):
    """A string of a class of the user's own, which is shown in another way."""

    __slots__ = ()

    def __str__(self) -> str:
        return "shown"


class Handler:
    """A tasklist of one task."""

    def __init__(self, command: object) -> None:
        self._command = command

    def __len__(self) -> int:
        return 1

    def __getitem__(self, taskid: int) -> Any:
        if isinstance(self._command, BaseException):
            raise self._command
        return self._command


def command_of(given: object) -> object:
    handler: Any = Handler(given)
    return Commands(handler, "mine")[0]


def test_a_command_of_a_class_of_its_own_becomes_a_plain_string():
    # pipes and messages take no other
    command = command_of(Text("true"))
    assert command == "true"
    assert type(command) is str


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (17, "it is a int, not a text"),
        (b"true", "it is a bytes, not a text"),
        (KeyError("no line"), "no line"),
        (SystemExit(3), "3"),
    ],
    ids=repr,
)
def test_what_is_no_command_is_told_with_handler_and_task(given, why):
    with pytest.raises(InputError) as told:
        command_of(given)
    assert "the handler 'mine' gave no command for task 0" in str(told.value)
    assert why in str(told.value)


# ---- the end ------------------------------------------------------------------------

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
        self._left = times

    @contextmanager
    def hold(self, timeout: float) -> Iterator[None]:
        assert not self.held
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

    recorded = (1, 0)

    def __init__(self, lock: BusyLock, changes: int, *, left_nothing: bool) -> None:
        self._lock = lock
        self._changes = changes
        self._left_nothing = left_nothing
        self.closed = 0

    def survey(self) -> object:
        assert self._lock.held
        return object()

    def close(self) -> bool:
        assert self._lock.held
        self.closed += 1
        return self._left_nothing

    def counts(self, survey: object) -> Counts:
        if self._changes:
            self._changes -= 1
            raise ChangedError("toprocess was changed while it was read")
        return COUNTS

    def write_result(self, payload: dict[str, object]) -> None:
        pass


class Conclusion:
    """What a farm of three tasks has said at its end, and how it has ended."""

    def __init__(self, locks: int, changes: int, *, left_nothing: bool = False) -> None:
        self.said: list[str] = []
        lock = BusyLock(locks)
        self.workdir = ChangingWorkdir(lock, changes, left_nothing=left_nothing)
        conductor: Any = SimpleNamespace(
            coordinator=Coordinator(
                *(fakes.Commands(3), fakes.define_farm(), fakes.crew_of(1, 1), 0.0)
            ),
            workdir=self.workdir,
            lock=lock,
            tally=Tally(0.0),
        )
        voice = SimpleNamespace(say=self.said.append, complain=self.said.append)
        parts: Any = SimpleNamespace(
            settings=Settings("list", "list_workdir"),
            around=SimpleNamespace(voice=voice, environ={}),
            comm=None,
            begun=0.0,
        )
        ending = Ending(conductor, parts)
        ending.conclude()
        self.status = ending.status

    def tells(self, words: str) -> bool:
        """Whether a line of it has these words; they come once at the most."""
        lines = [line for line in self.said if words in line]
        assert len(lines) <= 1
        return bool(lines)


def test_a_queue_that_changes_while_it_is_counted_is_counted_again_under_the_lock():
    end = Conclusion(locks=2, changes=1)
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
    end = Conclusion(locks, changes)
    assert end.tells("stand in its claim; the next start takes them back")
    assert end.tells(why)
    assert end.status is ExitStatus.RUN_AGAIN


def test_a_claim_that_holds_nothing_is_not_spoken_of():
    assert not Conclusion(1, 1, left_nothing=True).tells("claim")
    assert not Conclusion(1, 0, left_nothing=True).tells("claim")
