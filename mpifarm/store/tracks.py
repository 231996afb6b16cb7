"""The processes and threads of one farm in its timeline: their numbers and names.

Rules of this file: pure.  Viewers take ``pid`` for a process of one machine, and some
take ``tid`` for a thread of any process.  So each number stands for one thing in a
farm: a rank and a worker get their own pids, unless another host has given the same
pid.  A worker that died and its successor are one thread.
"""

from binascii import crc32

from mpifarm.store import timeline
from mpifarm.store.types import Recorded

FIRST_SPARE = 1 << 22
"""The least number above all pids of Linux."""

FIRST_OF_FARMS = 1 << 28
"""Numbers of farms are 28 bits of a hash above this: viewers have 32 bits."""


class Tracks:
    """The tracks of a farm; `names` are the encoded names that no file has yet."""

    def __init__(self, farm: str) -> None:
        self._farm = farm
        self.names: list[bytes] = []
        self._taken: set[int] = set()
        self._processes: dict[int, int] = {}
        """The number of each rank."""
        self._tracks: dict[tuple[int, int | None], timeline.Track] = {}
        """By rank and index of the worker."""
        self._counters = ""

    def find(self, recorded: Recorded) -> timeline.Track:
        """Return the track of an attempt.  At the first, add names to `names`."""
        key = recorded.rank, recorded.result.worker_index
        track = self._tracks.get(key)
        if track is None:
            track = self._tracks[key] = self._begin(recorded)
        return track

    def place_of_counters(self) -> str:
        """Return the place of the counters: a process that stands for the farm.

        At the first call, add its name to `names`.
        """
        if not self._counters:
            number = FIRST_OF_FARMS + crc32(self._farm.encode()) % FIRST_OF_FARMS
            self._counters = f'"pid": {number}, "tid": {number}'
            self._name_process(self._counters, f"farm {self._farm}", -1)
        return self._counters

    def _begin(self, recorded: Recorded) -> timeline.Track:
        rank, index, host = recorded.rank, recorded.result.worker_index, recorded.host
        process = self._processes.get(rank)
        if process is None:
            process = self._processes[rank] = self._take(recorded.pid)
            place = f'"pid": {process}, "tid": {process}'
            self._name_process(place, f"rank {rank} on {host}", rank, host=host)
        thread = self._take(recorded.result.worker)
        place = f'"pid": {process}, "tid": {thread}'
        name = "no worker" if index is None else f"worker {index}"
        self._add("thread_name", place, name=name, host=host)
        return timeline.Track(place, timeline.encode_json(host))

    def _name_process(
        self, place: str, name: str, order: int, **arguments: object
    ) -> None:
        self._add("process_name", place, name=name, **arguments, farm=self._farm)
        self._add("process_sort_index", place, sort_index=order, **arguments)

    def _add(self, kind: str, place: str, **arguments: object) -> None:
        self.names.append(timeline.encode_name(kind, place, arguments))

    def _take(self, number: int) -> int:
        """Return `number`, a pid, or a spare number if it is 0 or already taken."""
        if number <= 0 or number in self._taken:
            number = FIRST_SPARE + len(self._taken)
        self._taken.add(number)
        return number
