"""A farm that hooks watch: their helpers live as long as rank 0 leads.

Rules of this file: it is imported only where there are hooks.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from mpifarm.farm.context import RankContext
from mpifarm.farm.event_feeds import EventFeeds
from mpifarm.farm.farm_events import FarmEvents
from mpifarm.farm.leader import Leader


@contextmanager
def raised_events(context: RankContext, leader: Leader) -> Iterator[None]:
    """Start the helpers of the context's hooks, and raise events, for a ``with`` block.

    At its end all helpers end.
    """
    farm = leader.coordinator.definition.farm
    say, mention = context.process.output.say, context.process.output.mention
    for each in context.hooks:
        # Whoever is watched by others learns of it, also with --quiet.
        (say if each.by_site else mention)(each.describe())
    feeds = EventFeeds(context.hooks, context.environment, farm, say)
    leader.events = events = FarmEvents(
        leader.coordinator, leader.store, feeds, lambda: leader.task_rate
    )
    events.note_began(context)
    try:
        yield
    finally:
        feeds.close(in_order=events.has_ended)
