"""A farm that hooks watch: who is told of them, and how they end."""

from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.farm import startup, watched
from mpifarm.farm.watched import raised_events


class Watched:
    """A farm with two hooks, of which the second is the site's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.acts: list[Any] = []
        acts = self.acts
        output = SimpleNamespace(
            say=lambda text: acts.append(f"say {text}"),
            mention=lambda text: acts.append(f"mention {text}"),
        )
        hooks = [
            SimpleNamespace(by_site=by_site, describe=lambda name=name: name)
            for name, by_site in (("mine", False), ("the site's", True))
        ]
        self.context: Any = SimpleNamespace(
            hooks=hooks, environment={}, process=SimpleNamespace(output=output)
        )
        definition = SimpleNamespace(farm="f00d")
        self.leader: Any = SimpleNamespace(
            coordinator=SimpleNamespace(definition=definition),
            store="store",
            events=None,
            task_rate=3.0,
        )
        self.events: Any = SimpleNamespace(
            note_began=lambda context: acts.append("began"), has_ended=False
        )
        self.given: tuple[Any, ...] = ()
        monkeypatch.setattr(watched, "EventFeeds", self._create_feeds)
        monkeypatch.setattr(watched, "FarmEvents", self._create_events)

    def _create_feeds(self, hooks: Any, environment: Any, farm: str, say: Any) -> Any:
        assert (hooks, environment, farm) == (self.context.hooks, {}, "f00d")
        say("something")
        return SimpleNamespace(close=self._close)

    def _close(self, *, in_order: bool) -> None:
        self.acts.append(f"close {in_order}")

    def _create_events(self, *given: Any) -> Any:
        self.given = given
        return self.events


@pytest.fixture
def farm(monkeypatch):
    return Watched(monkeypatch)


def test_hooks_are_told_of_the_begin_and_close_at_the_end(farm):
    with raised_events(farm.context, farm.leader):
        assert farm.leader.events is farm.events
        coordinator, store, _, find_rate = farm.given
        assert (coordinator, store) == (farm.leader.coordinator, "store")
        assert find_rate() == 3.0
        farm.acts.append("run")
        farm.events.has_ended = True
    assert farm.acts == [
        *("mention mine", "say the site's", "say something"),
        *("began", "run", "close True"),
    ]


def test_hooks_close_also_behind_a_defect_and_know_that_the_farm_broke_off(farm):
    with pytest.raises(ZeroDivisionError), raised_events(farm.context, farm.leader):
        raise ZeroDivisionError
    assert farm.acts[-1] == "close False"


def test_a_farm_without_hooks_has_none(farm):
    with startup._watched(farm.context, farm.leader):
        assert farm.leader.events is farm.events
    farm.context.hooks, farm.leader.events = (), None
    with startup._watched(farm.context, farm.leader):
        assert farm.leader.events is None
