"""Names and records of outputs that are not a file for each task.

Rules of this file: nothing is opened here.  A record is one line, written by one write.
It begins with ``@`` and ends with a dot and a newline, and has none of these within.
So a record that a full disk or a killed host has torn is none, and does not spoil the
record that is written behind it.

Below the directory of the logs there is ``packed`` (``--logs packed``) or ``unkept``
(``--logs failed``).  Each rank of a farm has there:

- ``<farm>.<rank>.<worker>.<n>``, the *scratch* of a worker: what the attempt that runs
  now has written.  One that is not emptied for the next attempt is kept as it is.
- ``<farm>.<rank>.running``: a *slot* of `SLOT` bytes for each worker, with a record of
  the attempt that has its scratch.
- ``<farm>.<rank>.pack`` and ``.index``, only where logs are packed: the outputs of the
  attempts that have ended, one behind the other, and a record of each.
"""

import re
import time
from collections.abc import Container, Iterator, Mapping
from typing import NamedTuple

from mpifarm.immutable import immutable
from mpifarm.model.paths import PACKED, UNKEPT

_WHEN = "%Y-%m-%d %H:%M:%S"

DIRECTORIES = (PACKED, UNKEPT)

SLOT = 96
"""Bytes of a slot."""
NO_RECORD = b" " * (SLOT - 1) + b"\n"
"""The content of a slot whose worker has ended."""

_REST = (
    rb" ([0-9]{1,9}) ([0-9]{1,9}) ([0-9]{1,12}\.[0-9]{6})"
    rb" (-|[0-9]{1,9}) ([0-9]{1,18}) (-|[0-9]{1,18})\. *\n"
)
_RECORD = rb"@([0-9]{1,15})" + _REST
_OF_RANK = r"(?P<farm>[A-Za-z0-9_-]+)\.(?P<rank>[0-9]{1,9})"
_AGAIN = (
    rb"(?m)^=== mpifarm: started again, attempt ([0-9]{1,9}) of farm (\S*),"
    rb" ([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}), [^\n]* ===\n"
)
# Compiled where they are used: most processes that write these files read none.


class Record(NamedTuple):
    """An attempt, and the place of its output.

    `started` is in seconds since the epoch, to the microsecond.  `file` is the number
    of the worker's scratch, None for the rank's pack.  `length` is in bytes, None for
    the whole file.
    """

    taskid: int
    attempt: int
    worker: int
    started: float
    file: int | None
    offset: int
    length: int | None

    @property
    def key(self) -> tuple[int, int, int, float]:
        """The task, attempt, worker and start, the same in all records of an attempt.

        Another rank or farm may have the same key.
        """
        return self.taskid, self.attempt, self.worker, self.started


def encode_record(record: Record) -> bytes:
    """Encode a record as a line of an index."""
    taskid, attempt, worker, started, file, offset, length = record
    return b"@%d %d %d %.6f %b %d %b.\n" % (
        *(taskid, attempt, worker, started),
        *(_encode_number(file), offset, _encode_number(length)),
    )


def encode_slot(record: Record) -> bytes:
    """Encode a record as a line that fills a slot."""
    return encode_record(record)[:-1].ljust(SLOT - 1) + b"\n"


def parse_records(
    content: bytes, wanted: int | Container[int] | None = None
) -> Iterator[Record]:
    """Yield the whole records of an index or of slots; torn ones are left out.

    `wanted`: an id or ids of tasks, to which the records are limited; None for all.
    """
    pattern = rb"@(%d)" % wanted + _REST if isinstance(wanted, int) else _RECORD
    some = None if isinstance(wanted, int) else wanted
    for match in re.finditer(pattern, content):
        if some is not None and int(match[1]) not in some:
            continue
        found, attempt, worker, started, file, offset, length = match.groups()
        yield Record(
            *(int(found), int(attempt), int(worker), float(started)),
            *(_parse_number(file), int(offset), _parse_number(length)),
        )


def renumber(content: bytes, places: Mapping[int, int]) -> bytes:
    """Return an index with the records of the tasks in `places`, under new ids.

    `places` maps old ids to new ones.  Records of other tasks, and torn ones, are left
    out.
    """
    return b"".join(
        encode_record(record._replace(taskid=places[record.taskid]))
        for record in parse_records(content)
        if record.taskid in places
    )


def renumber_slots(content: bytes, places: Mapping[int, int]) -> bytes:
    """Return slots with the records of the tasks in `places`, under new ids.

    Each record keeps its slot.  The slots of other tasks, and torn ones, are empty.
    """
    slots = [NO_RECORD] * -(-len(content) // SLOT)
    for number in range(len(slots)):
        slot = content[number * SLOT : (number + 1) * SLOT]
        for record in parse_records(slot):
            if record.taskid in places:
                slots[number] = encode_slot(
                    record._replace(taskid=places[record.taskid])
                )
    return b"".join(slots)


def _encode_number(number: int | None) -> bytes:
    return b"-" if number is None else b"%d" % number


def _parse_number(word: bytes) -> int | None:
    return None if word == b"-" else int(word)


# ---- names --------------------------------------------------------------------------


@immutable
class RankFiles:
    """The files of one rank of a farm in one of `DIRECTORIES`."""

    directory: str
    farm: str
    rank: int

    @property
    def _stem(self) -> str:
        return f"{self.directory}/{self.farm}.{self.rank}"

    @property
    def running(self) -> str:
        """The path of the slots."""
        return f"{self._stem}.running"

    @property
    def index(self) -> str:
        """The path of the index: a record for each attempt that has ended."""
        return f"{self._stem}.index"

    @property
    def pack(self) -> str:
        """The path of the pack: the outputs that the index names."""
        return f"{self._stem}.pack"

    def scratch(self, worker: int, number: int) -> str:
        """Return the path of the scratch `number` of a worker."""
        return f"{self._stem}.{worker}.{number}"

    def place_of(self, record: Record) -> str:
        """Return the path of the file that has a record's output: pack or scratch."""
        if record.file is None:
            return self.pack
        return self.scratch(record.worker, record.file)


def find_rank_files(directory: str, name: str, kind: str) -> RankFiles | None:
    """Return the files of the rank of whose files one has this `name`, else None.

    `kind` is the ending of the name without its dot: ``running`` or ``index``.
    """
    stem, dot, last = name.rpartition(".")
    match = re.fullmatch(_OF_RANK, stem) if dot and last == kind else None
    return RankFiles(directory, match["farm"], int(match["rank"])) if match else None


# ---- one log with several attempts --------------------------------------------------


def encode_again(attempt: int, farm: str, started: float | None, where: str) -> str:
    """Encode the text of mpifarm's line before an attempt that is not a log's first.

    `started` is in seconds since the epoch, None for now.  `where` names the host.
    """
    when = time.strftime(_WHEN, time.localtime(started))
    return f"started again, attempt {attempt} of farm {farm}, {when}, {where}"


class Again(NamedTuple):
    """A line before an attempt, at the bytes from `begin` to `end` of a log.

    `started` is in seconds since the epoch, to the second; 0 if the time is impossible.
    """

    begin: int
    end: int
    attempt: int
    farm: str
    started: float


def find_again_lines(content: bytes) -> Iterator[Again]:
    """Yield the lines before attempts, and lines of tasks that look the same."""
    for match in re.finditer(_AGAIN, content):
        attempt, farm, when = match.groups()
        yield Again(
            *(match.start(), match.end(), int(attempt)),
            *(farm.decode("utf-8", "replace"), _parse_when(when.decode("ascii"))),
        )


def _parse_when(when: str) -> float:
    try:
        return time.mktime(time.strptime(when, _WHEN))
    except (ValueError, OverflowError):
        return 0.0
