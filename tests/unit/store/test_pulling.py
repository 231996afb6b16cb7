"""Tasks that are taken out of the middle of a queue, by their ids."""

import pytest

from mpifarm.store.queue import AlienTaskError, pull_out
from mpifarm.system.file_contents import bytes_of


def lines(*taskids: int) -> bytes:
    return b"".join(b"%d task %d\n" % (each, each) for each in taskids)


def pull(content: bytes, taskids, blocked=()):
    taken, chunks = pull_out(content, {*blocked}.__contains__, taskids)
    return taken, b"".join(map(bytes_of, chunks))


@pytest.mark.parametrize(
    ("taskids", "taken", "left"),
    [
        ([], [], [1, 4, 5, 9]),
        ([1], [1], [4, 5, 9]),
        ([9, 1], [1, 9], [4, 5]),
        ([5, 4, 4], [4, 5], [1, 9]),
        ([9, 5, 4, 1], [1, 4, 5, 9], []),
        ([0, 2, 11], [], [1, 4, 5, 9]),
        ([0, 4, 7], [4], [1, 5, 9]),
    ],
)
def test_what_is_asked_for_and_there_is_taken_and_the_rest_stays(taskids, taken, left):
    assert pull(lines(1, 4, 5, 9), taskids) == (taken, lines(*left))


@pytest.mark.parametrize("blocked", [[4], [1, 9], [1, 4, 5, 9]])
def test_what_has_ended_or_runs_elsewhere_is_not_taken(blocked):
    taken, left = pull(lines(1, 4, 5, 9), [1, 4, 9], blocked)
    expected = [each for each in (1, 4, 9) if each not in blocked]
    assert taken == expected
    assert left == lines(*(each for each in (1, 4, 5, 9) if each not in expected))


def test_nothing_is_in_an_empty_queue():
    assert pull(b"", [1, 2]) == ([], b"")


def test_a_line_of_another_list_is_told():
    with pytest.raises(AlienTaskError):
        pull(b"one two\n", [3])
