"""The end of a list that may grow: whether the farm may leave when all is done.

Rules of this file: pure; time is an argument (seconds, monotonic).
"""

from mpifarm.coordinator.effects import LookAtList, Post


class GrowingList:
    """What the farm knows of lines to come; it expects none until `expect`."""

    def __init__(self, post: Post) -> None:
        self.follow: float | None = None
        """Seconds for which the farm waits for more when all is done; None: not."""
        self._post = post
        self.is_expected = False
        """Whether lines that are added are taken up."""
        self._idle_since: float | None = None
        """Since when all has been done."""
        self._is_asked = False
        """Whether `LookAtList` was posted since the list has grown last."""
        self._is_seen = False
        """Whether that look has shown nothing new."""

    def expect(self, follow: float | None) -> None:
        """Have the list looked at before the farm leaves, and wait as `follow` says."""
        self.is_expected, self.follow = True, follow

    @property
    def is_waiting(self) -> bool:
        """Whether all is done, and the farm waits for more."""
        return self.follow is not None and self._idle_since is not None

    def may_leave(self, now: float) -> bool:
        """Return whether no more is to come, now that all is done.

        The list is looked at before (`LookAtList`).
        """
        if self._idle_since is None:
            self._idle_since = now
        if now < self._idle_since + (self.follow or 0.0):
            return False
        if self.is_expected and not self._is_asked:
            self._is_asked = True
            self._post(LookAtList())
        return self._is_seen or not self.is_expected

    def note_seen(self) -> None:
        """Note that the look at the list's end has shown nothing new."""
        self._is_seen = self._is_asked

    def note_work(self) -> None:
        """Note that there is, or may be, something to do."""
        self._idle_since = None
        self._is_asked = self._is_seen = False

    def end_following(self) -> None:
        """Wait for no more: nobody is left who could add lines."""
        self.follow = None

    def wake_at(self) -> float:
        """Return when the wait for more is over; `inf` if there is none."""
        if self.follow is None or self._idle_since is None or self._is_asked:
            return float("inf")
        return self._idle_since + self.follow
