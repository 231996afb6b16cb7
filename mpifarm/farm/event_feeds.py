"""The way of events from rank 0 to the helpers of its hooks, without ever waiting.

Rules of this file: what a helper does not take at once waits in a queue of bounded
size; what finds no room there is dropped, counted, and told at the end.  A helper that
ends, hangs or floods costs its own events alone.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mpifarm.hooks.definitions import HookDefinition
from mpifarm.hooks.helper import END_MARK, start_helper
from mpifarm.model.events import TASK_EVENTS, Event, encode_event
from mpifarm.model.wording import counted
from mpifarm.system.time_of_day import encode_time

MAX_WAITING = 1 << 22
"""Bytes of events on tasks that wait for a helper; all others may take as much more."""

FLUSH_SECONDS = 0.2
"""Seconds between two writes to a helper."""

BEHIND_SECONDS = 0.01
"""The same while more waits than its pipe takes, in a loop that is awake anyway."""

END_SECONDS = 5.0
"""Seconds for which the end of a farm waits for its helpers, all together."""

MAX_TOLD = 10
"""Sentences of one helper that the user is told."""

_MAX_SENTENCE = 500
_LOOK_SECONDS = 0.01


class Helper(Protocol):
    """A process that reads lines (`system.processes.Companion`)."""

    def write(self, content: memoryview) -> int:
        """Return how many bytes were taken; raise BrokenPipeError if it has ended."""

    def close_input(self) -> None:
        """Let it read the end of its input."""

    def read(self) -> bytes | None:
        """Return what it says, b"" for nothing now, None if it has ended."""

    def end(self) -> None:
        """Kill and reap it."""


Start = Callable[[HookDefinition], Helper]


class Feed:
    """The queue of one hook, and its helper."""

    def __init__(
        self, definition: HookDefinition, start: Start, say: Callable[[str], None]
    ) -> None:
        self.events = definition.events
        """Names of the events that the hook gets; None for all."""
        self.dropped = 0
        """Events that found no room."""
        self._title = definition.title
        self._say = say
        self._told = 0
        self._waiting = bytearray()
        self._heard = b""
        self._has_said_end = False
        """Whether the helper has said that it has done all."""
        self._helper: Helper | None = None
        try:
            self._helper = start(definition)
        except OSError as error:
            self._tell(f"can't be started ({error.strerror}) and is left out")

    @property
    def is_open(self) -> bool:
        """Whether the helper lives, as far as is known."""
        return self._helper is not None

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for the helper."""
        return not self._waiting

    def put(self, name: str, line: bytes) -> None:
        """Queue the line of an event, or drop it if the queue is full."""
        if self._helper is None or (
            self.events is not None and name not in self.events
        ):
            return
        most = MAX_WAITING if name in TASK_EVENTS else 2 * MAX_WAITING
        if len(self._waiting) + len(line) > most:
            self.dropped += 1
        else:
            self._waiting += line

    def flush(self) -> None:
        """Write what the helper takes now, and tell what it says."""
        if self._helper is None:
            return
        self._listen(self._helper)
        try:
            while self._waiting:
                taken = self._helper.write(memoryview(self._waiting[:65536]))
                if not taken:
                    return
                del self._waiting[:taken]
        except BrokenPipeError:
            self._lose("has ended before the farm: it did not get all events")

    def finish(self, *, in_order: bool) -> None:
        """Queue the mark of an end in order, however full the queue is."""
        if self._helper is not None and in_order:
            self._waiting += END_MARK

    def has_ended(self) -> bool:
        """Write what is left, then close the input; return whether the helper ended."""
        self.flush()
        if self._helper is not None and not self._waiting:
            self._helper.close_input()
            if self._listen(self._helper):
                if self._has_said_end:
                    self._forget()
                else:
                    self._lose("has ended before the farm: it did not get all events")
        return self._helper is None

    def kill(self) -> None:
        """End a helper that has not ended in time, and tell that."""
        if self._helper is not None:
            self._lose(f"had not ended {END_SECONDS:g} s after the farm: it was killed")

    def tell_dropped(self) -> None:
        """Tell how many events were dropped, if any."""
        if self.dropped:
            what = counted(self.dropped, "event was", "events were")
            self._tell(f"was too slow: {what} dropped")

    def _listen(self, helper: Helper) -> bool:
        """Tell what the helper says; return whether it has ended."""
        while True:
            said = helper.read()
            if not said:
                return said is None
            *lines, self._heard = (self._heard + said).split(b"\n")
            self._heard = self._heard[:_MAX_SENTENCE]
            for line in lines:
                if line + b"\n" == END_MARK:
                    self._has_said_end = True
                    continue
                self._note_said(line.decode("utf-8", "replace")[:_MAX_SENTENCE])

    def _note_said(self, sentence: str) -> None:
        self._told += 1
        if self._told <= MAX_TOLD:
            self._say(sentence)

    def _lose(self, why: str) -> None:
        helper = self._helper
        self._forget()
        if helper is not None and not self._told:  # else it has said why itself
            self._tell(why)

    def _forget(self) -> None:
        if self._helper is not None:
            self._helper.end()
        self._helper = None
        self._waiting.clear()

    def _tell(self, what: str) -> None:
        self._say(f"{self._title} {what}")


class EventFeeds:
    """The feeds of all hooks of a farm."""

    def __init__(
        self,
        hooks: Sequence[HookDefinition],
        env: Mapping[bytes, bytes],
        farm: str,
        say: Callable[[str], None],
        start: Start | None = None,
    ) -> None:
        self.due_at = float("-inf")
        """When to wake up for the next flush."""
        self._flush_at = float("-inf")
        self._farm = farm
        self._number = 0
        begin = start or (lambda definition: start_helper(definition, env))
        self._feeds = [Feed(each, begin, say) for each in hooks]

    def wants(self, name: str) -> bool:
        """Return whether a hook that lives gets this event."""
        return any(
            each.is_open and (each.events is None or name in each.events)
            for each in self._feeds
        )

    def post(self, event: Event) -> None:
        """Queue an event for each hook that gets it."""
        self._number += 1
        when = encode_time(time.time())
        line = encode_event(event, self._number, when, self._farm)
        for feed in self._feeds:
            feed.put(event.event, line)

    def step(self, now: float) -> None:
        """Flush, if it is time."""
        if now < self._flush_at:
            return
        for feed in self._feeds:
            feed.flush()
        if not any(each.is_open for each in self._feeds):
            self.due_at = self._flush_at = float("inf")
            return
        # A helper that hangs wakes nobody more often than one that reads.
        is_behind = not all(each.is_empty for each in self._feeds)
        self.due_at = now + FLUSH_SECONDS
        self._flush_at = now + BEHIND_SECONDS if is_behind else self.due_at

    def close(self, *, in_order: bool) -> None:
        """Let all helpers end, for `END_SECONDS`; kill those that have not by then.

        `in_order`: the farm has said how it ended.
        """
        for feed in self._feeds:
            feed.finish(in_order=in_order)
        until = time.monotonic() + END_SECONDS
        left = [each for each in self._feeds if not each.has_ended()]
        while left and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
            left = [each for each in left if not each.has_ended()]
        for feed in self._feeds:
            feed.kill()
            feed.tell_dropped()
