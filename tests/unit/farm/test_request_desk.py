"""`RequestDesk`: requests go to the coordinator, and answers back to the disk."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from mpifarm.errors import StorageError
from mpifarm.farm.request_desk import LAST_SECONDS, LOCK_SECONDS, RequestDesk
from mpifarm.model.requests import Answer, Request, RequestKind
from mpifarm.store.held_file import Held
from mpifarm.system.patience import RETRY_SECONDS


class Office:
    """All that a desk deals with."""

    def __init__(self) -> None:
        self.requests = self
        self.waiting: list[Request] = []
        self.held_by_users = Held()
        self.heard: list[Any] = []
        self.answers: list[str] = []
        self.is_free, self.is_locked, self.fails = True, False, False
        self.patience: list[float] = []

    def poll(self) -> list[Request]:
        return self.waiting

    def hold(self, held: Held) -> None:
        self.held_by_users = held
        self.heard.append(held)

    def on_request(self, request: Request, now: float) -> None:
        self.heard.append((request.name, now))

    def answer(self, answers: Sequence[Answer]) -> None:
        assert self.is_locked
        if self.fails:
            raise StorageError("no space left")
        self.answers += [each.request for each in answers]

    def try_acquire(self) -> bool:
        self.is_locked = self.is_free
        return self.is_free

    def release(self) -> None:
        assert self.is_locked
        self.is_locked = False

    @contextmanager
    def hold_lock(self, seconds: float) -> Iterator[None]:
        self.patience.append(seconds)
        assert self.try_acquire()
        yield
        self.release()


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
def desk(office: Office) -> RequestDesk:
    farm: Any = office

    class Lock:
        try_acquire = staticmethod(office.try_acquire)
        release = staticmethod(office.release)
        hold = staticmethod(office.hold_lock)

    lock: Any = Lock
    return RequestDesk(farm, farm, lock)


@pytest.mark.parametrize(
    ("kind", "held"),
    [
        (RequestKind.HOLD, [Held(frozenset({3}))]),
        (RequestKind.RELEASE, [Held()]),
        (RequestKind.CANCEL, []),
        (RequestKind.DRAIN, []),
    ],
)
def test_a_request_is_noted_after_what_it_holds_and_before_it_is_heard(
    office, desk, kind, held
):
    office.waiting = [Request("x", kind, (3,), "eve")]
    desk.note_request = lambda request: office.heard.append(request.kind)
    desk.look(100.0)
    assert office.heard == [*held, kind, ("x", 100.0)]


def test_answers_are_written_once_when_the_lock_can_be_had(office, desk):
    assert desk.due_at == math.inf
    desk.write(100.0)
    desk.note_answer(Answer("x"), 100.0)
    desk.note_answer(Answer("y"), 100.5)
    assert desk.due_at == 100.5
    desk.write(100.4)
    assert office.answers == []
    office.is_free = False
    desk.write(100.5)
    assert desk.due_at == 100.5 + LOCK_SECONDS
    office.is_free = True
    desk.write(desk.due_at)
    assert office.answers == ["x", "y"]
    assert desk.due_at == math.inf
    assert not office.is_locked
    desk.close()
    assert (office.answers, office.patience) == (["x", "y"], [])


def test_answers_that_the_disk_refuses_are_tried_again_later(office, desk):
    desk.note_answer(Answer("x"), 100.0)
    office.fails = True
    desk.write(100.0)
    assert desk.due_at == 100.0 + RETRY_SECONDS
    assert not office.is_locked
    office.fails = False
    desk.write(100.0 + RETRY_SECONDS)
    assert office.answers == ["x"]


def test_the_last_answers_wait_for_the_lock_for_a_while(office, desk):
    desk.note_answer(Answer("x"), 100.0)
    desk.close()
    assert (office.answers, office.patience) == (["x"], [LAST_SECONDS])
    assert desk.due_at == math.inf
    desk.close()
    assert office.answers == ["x"]


def test_the_last_answers_are_left_where_the_disk_fails(office, desk, monkeypatch):
    def refuse(answers: Any) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(office, "answer", refuse)
    desk.note_answer(Answer("x"), 100.0)
    desk.close()
    assert desk.due_at == math.inf
