"""Names and records of the logs that are not a file for each task.

Rules of this file: nothing is opened here.  A record is one line that was written by
one write.  It begins with ``@`` and ends with a dot, a newline and nothing less, and
has neither within: what a full disk or a killed host has torn is no record, and spoils
none that is written behind it.

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
from dataclasses import dataclass
from typing import NamedTuple

_WHEN = "%Y-%m-%d %H:%M:%S"

PACKED = "packed"
UNKEPT = "unkept"
"""It stays when it is empty: it tells that finished tasks may have no log here."""

DIRECTORIES = (PACKED, UNKEPT)

SLOT = 96
"""Bytes."""
NO_RECORD = b" " * (SLOT - 1) + b"\n"
"""What a slot holds whose worker has ended."""

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
# Compiled where they are used: most processes that write such files read none.


class Record(NamedTuple):
    """An attempt, and where its output is.

    `started` is in seconds since the epoch, to the microsecond.  `file` is the n of a
    scratch of its worker, None for the rank's pack; `length` in bytes, None for all
    that the file has got.
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
        """What is the same in all records of one attempt, within a rank of a farm."""
        return self.taskid, self.attempt, self.worker, self.started


def encode_record(record: Record) -> bytes:
    """The line."""
    taskid, attempt, worker, started, file, offset, length = record
    return b"@%d %d %d %.6f %b %d %b.\n" % (
        *(taskid, attempt, worker, started),
        *(_encode_number(file), offset, _encode_number(length)),
    )


def encode_slot(record: Record) -> bytes:
    """The line, as long as every slot."""
    return encode_record(record)[:-1].ljust(SLOT - 1) + b"\n"


def parse_records(
    content: bytes, wanted: int | Container[int] | None = None
) -> Iterator[Record]:
    """All whole records in an index, or in slots; or those of one task, or some."""
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
    """An index with the records of the tasks that have a place, under their new ids."""
    return b"".join(
        encode_record(record._replace(taskid=places[record.taskid]))
        for record in parse_records(content)
        if record.taskid in places
    )


def renumber_slots(content: bytes, places: Mapping[int, int]) -> bytes:
    """Slots with the records of the tasks that have a place, under their new ids."""
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


@dataclass(frozen=True, slots=True)
class RankFiles:
    """The files of one rank of a farm in one of those directories."""

    directory: str
    farm: str
    rank: int

    @property
    def _stem(self) -> str:
        return f"{self.directory}/{self.farm}.{self.rank}"

    @property
    def running(self) -> str:
        """The slots."""
        return f"{self._stem}.running"

    @property
    def index(self) -> str:
        """A record for each attempt that has ended."""
        return f"{self._stem}.index"

    @property
    def pack(self) -> str:
        """What they have written."""
        return f"{self._stem}.pack"

    def scratch(self, worker: int, number: int) -> str:
        """The n-th scratch of a worker."""
        return f"{self._stem}.{worker}.{number}"

    def place_of(self, record: Record) -> str:
        """The file that has the output."""
        if record.file is None:
            return self.pack
        return self.scratch(record.worker, record.file)


def find_rank_files(directory: str, name: str, kind: str) -> RankFiles | None:
    """Whose the file `name` is, if it is one of that kind (``running``, ``index``)."""
    stem, dot, last = name.rpartition(".")
    match = re.fullmatch(_OF_RANK, stem) if dot and last == kind else None
    return RankFiles(directory, match["farm"], int(match["rank"])) if match else None


# ---- one log with several attempts --------------------------------------------------


def encode_again(attempt: int, farm: str, started: float | None, where: str) -> str:
    """What stands in a log before each attempt but the first, in mpifarm's own line.

    `started` in seconds since the epoch; None: now.
    """
    when = time.strftime(_WHEN, time.localtime(started))
    return f"started again, attempt {attempt} of farm {farm}, {when}, {where}"


class Again(NamedTuple):
    """Such a line, and where it stands; `started` is to the second."""

    begin: int
    end: int
    attempt: int
    farm: str
    started: float


def find_again_lines(content: bytes) -> Iterator[Again]:
    """All such lines; one that a task has written itself can't be told from ours."""
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
