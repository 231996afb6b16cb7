"""The first lines of a farm: who is where."""

import pytest

from mpifarm.coordinator.state import RankRecord
from mpifarm.farm.first_words import MAX_HOSTS, describe_ranks


def records(*of):
    return [
        RankRecord(rank, host=host, workers=workers)
        for rank, (host, workers) in enumerate(of)
    ]


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([("n1", 1)], "n1 × 1 worker"),
        ([(f"n{number}", 64) for number in range(1, 9)], "n[1-8] × 64 workers"),
        ([("n1", 16)] * 4, "n1 × 4 ranks × 16 workers"),
        ([("n1", 16), ("n2", 16), ("n2", 16)], "n1 × 16 workers; n2 × 2 ranks × 16"),
        ([("n1", 16), ("n1", 15)], "n1 × 2 ranks, 31 workers"),
        ([("n1", 4), ("", 0)], "n1 × 4 workers; 1 rank has not joined yet"),
    ],
)
def test_ranks_are_told_by_host(ranks, words):
    assert describe_ranks(records(*ranks)).startswith(f"ranks: {words}")


def test_the_line_of_hosts_without_numbers_has_an_end():
    names = ["x" * 20 + chr(ord("a") + number) for number in range(26)]
    told = describe_ranks(records(*[(name, 1) for name in names]))
    assert len(told) <= MAX_HOSTS + len("ranks: ")
