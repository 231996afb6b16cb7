"""The steps of a transaction: each is done once for each task, whatever fails."""

from typing import Any

import pytest

from mpifarm.store.progress import Progress, TransactionStep
from tests.unit.store_fakes import ended

STEP, OTHER = TransactionStep.FINISHED, TransactionStep.FAILED
RESULTS = [ended(1), ended(2), ended(3)]


def test_a_step_is_left_for_the_tasks_for_which_it_was_not_noted():
    progress = Progress()
    assert progress.left(STEP, [3, 1]) == [3, 1]
    progress.note(STEP, [1])
    progress.note(STEP, [2])
    assert progress.left(STEP, [3, 2, 1]) == [3]
    assert progress.left(OTHER, [1]) == [1]
    progress.forget()
    assert progress.left(STEP, [3, 1]) == [3, 1]


def test_what_is_written_once_is_not_written_again():
    progress, written = Progress(), list[Any]()
    progress.note(STEP, [2])
    progress.once(STEP, RESULTS, written.append)
    assert written == [[RESULTS[0], RESULTS[2]]]
    progress.once(STEP, RESULTS, written.append)
    assert len(written) == 1
    progress.once(OTHER, RESULTS, written.append)
    assert written[1:] == [RESULTS]


def test_what_fails_is_written_again():
    progress, written = Progress(), list[Any]()

    def fail(results: Any) -> None:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        progress.once(STEP, RESULTS, fail)
    progress.once(STEP, RESULTS, written.append)
    assert written == [RESULTS]
