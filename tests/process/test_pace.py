"""The pace of starts and shared seats, with real commands."""

import pytest


@pytest.fixture
def farm(create_place):
    """Tasks that fail where another of their kind runs, between others."""
    alone = "mkdir running && sleep 0.02 && rmdir running"
    lines = [f"[limit=disk] {alone}" if number % 3 else "true" for number in range(24)]
    return create_place(lines)


def test_tasks_of_a_kind_share_its_seats(farm):
    farm.finish("-n", "6", "--limit", "disk=1", "--start-rate", "200")
    assert sorted(farm.ids("finished")) == [*range(24)]


def test_a_kind_without_a_limit_is_refused_and_nothing_is_touched(farm):
    assert farm.run("-n", "6") == 2
    assert not farm.workdir.exists()
