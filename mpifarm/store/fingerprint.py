"""The fingerprint of a tasklist, by which a later start knows an edited list.

Rules of this file: it opens nothing.  The hash of each prefix of 1 000 tasks tells
"lines were added at the end" from "the list was edited", and about where.  What a list
says of its order is hashed with it: the same tasks in another order are another list.
"""

import hashlib
import json
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from mpifarm.model.paths import parse_queue_staging
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.store.status_lines import encode_texts

FORMAT_VERSION = 1
BLOCK = 1000
"""Tasks by which each prefix is longer than the one before."""


class Fingerprint(NamedTuple):
    """A tasklist of `total` tasks.

    `prefixes[k]` is the hash of the first ``(k + 1) * BLOCK`` tasks, the last prefix
    that of all tasks.  `first_added` is the first id that was added after the workdir
    was begun, so that plain farmers at work may not know it; `total` if none was.
    """

    total: int
    prefixes: tuple[str, ...]
    first_added: int
    heeds_order: bool = True
    """Whether an mpifarm wrote it that heeds the order of a list."""
    staging: str = ""
    """The name of the staging file that became the first ``toprocess`` of a list with
    constraints; "" for any other list.  As long as there is such a file, no farm has
    begun."""


class ListMatch(Enum):
    """The difference of a tasklist from the one that the workdir was begun with."""

    SAME = "same"
    LINES_ADDED = "lines were added at the end"
    EDITED = "edited"


def take_fingerprint(
    tasks: Sequence[str],
    first_added: int | None = None,
    constraints: Constraints = UNORDERED,
    hashes: "PrefixHashes | None" = None,
) -> Fingerprint:
    """Return the fingerprint of a list; `first_added` is its length by default.

    `hashes` are those of the list, if some of it has been read.
    """
    total = len(tasks)
    first_added = total if first_added is None else first_added
    hashes = hashes or PrefixHashes(tasks, constraints)
    return Fingerprint(total, hashes.find(total), first_added)


class PrefixHashes:
    """The hashes of the prefixes of a list that may grow: each block is read once."""

    def __init__(
        self, tasks: Sequence[str], constraints: Constraints = UNORDERED
    ) -> None:
        self._tasks = tasks
        self._constraints = constraints
        self._whole = [hashlib.blake2b(digest_size=12)]
        """The digest of each number of whole blocks, from 0 on."""
        if constraints.is_foreign:
            self._whole[0].update(b"\n#FOREIGN\n")
        self._hashes: list[str] = []
        """The hash of each prefix of whole blocks."""

    def find(self, count: int) -> tuple[str, ...]:
        """Return a hash of each `BLOCK` of the first `count` tasks with all before it.

        The last hash is that of all `count` tasks.
        """
        whole, rest = divmod(count, BLOCK)
        for number in range(len(self._hashes), whole):
            digest = self._read_on(number, BLOCK)
            self._whole.append(digest)
            self._hashes.append(digest.hexdigest())
        hashes = self._hashes[:whole]
        if rest:
            hashes.append(self._read_on(whole, rest).hexdigest())
        return tuple(hashes)

    def _read_on(self, block: int, count: int) -> "hashlib.blake2b":
        """Return the digest of so many whole blocks and `count` tasks more."""
        digest, begin = self._whole[block].copy(), block * BLOCK
        end = begin + count
        for taskid, directives in self._constraints.describe(begin, end):
            digest.update(encode_texts(begin, taskid, self._tasks))
            # No text is empty: so none is taken for a directive.
            digest.update(b"\n" + directives.encode())
            begin = taskid
        digest.update(encode_texts(begin, end, self._tasks))
        return digest

    def forget(self, count: int) -> None:
        """Forget what was read behind the first `count` tasks: they were cut off."""
        del self._hashes[count // BLOCK :]
        del self._whole[count // BLOCK + 1 :]


def compare(
    stored: Fingerprint,
    tasks: Sequence[str],
    constraints: Constraints = UNORDERED,
    hashes: PrefixHashes | None = None,
) -> ListMatch:
    """Compare a tasklist with the fingerprint `stored` of an earlier start.

    `hashes` are those of the list, if some of it has been read.
    """
    if stored.total > len(tasks):
        return ListMatch.EDITED
    hashes = hashes or PrefixHashes(tasks, constraints)
    if stored.prefixes != hashes.find(stored.total):
        return ListMatch.EDITED
    return ListMatch.SAME if stored.total == len(tasks) else ListMatch.LINES_ADDED


def find_edited_block(
    stored: Fingerprint, tasks: Sequence[str], constraints: Constraints = UNORDERED
) -> range:
    """Return the block of ids with the first edit; it is empty if nothing differs."""
    now = PrefixHashes(tasks, constraints).find(min(stored.total, len(tasks)))
    same = 0
    for before, after in zip(stored.prefixes, now, strict=False):
        if before != after:
            break
        same += 1
    return range(same * BLOCK, max(min((same + 1) * BLOCK, stored.total), same * BLOCK))


def encode_fingerprint(fingerprint: Fingerprint) -> bytes:
    """Return the content of ``fingerprint.json``."""
    record: dict[str, object] = {
        "version": FORMAT_VERSION,
        "count": fingerprint.total,
        "block": BLOCK,
        "prefixes": fingerprint.prefixes,
        "first_added": fingerprint.first_added,
        "order": True,
    }
    if fingerprint.staging:
        record["toprocess"] = fingerprint.staging
    return json.dumps(record).encode() + b"\n"


def parse_fingerprint(content: bytes) -> Fingerprint | None:
    """Parse ``fingerprint.json``; return None if it is damaged or of another format."""
    try:
        record = json.loads(content)
        if record["version"] != FORMAT_VERSION or record["block"] != BLOCK:
            return None
        count, prefixes = record["count"], tuple(record["prefixes"])
        first_added = record.get("first_added", count)
        heeds_order, staging = record.get("order") is True, record.get("toprocess", "")
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if type(count) is not int or count < 0 or len(prefixes) != -(-count // BLOCK):
        return None
    if type(first_added) is not int or not 0 <= first_added <= count:
        return None
    if not all(isinstance(each, str) for each in (*prefixes, staging)):
        return None
    # Another name than that of a staging file stands for none.
    staging = staging if parse_queue_staging(staging) else ""
    return Fingerprint(count, prefixes, first_added, heeds_order, staging)
