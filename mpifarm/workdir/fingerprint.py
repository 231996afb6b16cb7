"""The fingerprint of a tasklist: how a later start knows that it is still the same.

Rules of this file: it opens nothing.  The hash of each prefix of 1 000 tasks tells
"lines were added at the end" from "the list was edited", and about where.
"""

import hashlib
import json
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

FORMAT_VERSION = 1
BLOCK = 1000


class Fingerprint(NamedTuple):
    """A tasklist of `total` tasks.

    `prefixes[k]` is the hash of its first ``(k + 1) * BLOCK`` tasks, the last of all.
    """

    total: int
    prefixes: tuple[str, ...]


class Verdict(Enum):
    """How a tasklist compares with the one that the workdir was begun with."""

    SAME = "same"
    LINES_ADDED = "lines were added at the end"
    EDITED = "edited"


def take_fingerprint(tasks: Sequence[str], count: int | None = None) -> Fingerprint:
    """The fingerprint of the first `count` tasks (default: all)."""
    count = len(tasks) if count is None else count
    digest = hashlib.blake2b(digest_size=12)
    prefixes = []
    for begin in range(0, count, BLOCK):
        block = tasks[begin : min(begin + BLOCK, count)]
        digest.update("\n".join([*block, ""]).encode("utf-8", "surrogateescape"))
        prefixes.append(digest.hexdigest())
    return Fingerprint(count, tuple(prefixes))


def compare(stored: Fingerprint, tasks: Sequence[str]) -> Verdict:
    """What has become of the tasklist since `stored` was taken."""
    if stored.total > len(tasks) or stored != take_fingerprint(tasks, stored.total):
        return Verdict.EDITED
    return Verdict.SAME if stored.total == len(tasks) else Verdict.LINES_ADDED


def find_edited_block(stored: Fingerprint, tasks: Sequence[str]) -> range:
    """The ids among which the first edit is."""
    now = take_fingerprint(tasks, min(stored.total, len(tasks)))
    same = 0
    for before, after in zip(stored.prefixes, now.prefixes, strict=False):
        if before != after:
            break
        same += 1
    return range(same * BLOCK, max(min((same + 1) * BLOCK, stored.total), same * BLOCK))


def encode_fingerprint(fingerprint: Fingerprint) -> bytes:
    """The content of ``fingerprint.json``."""
    record = {
        "version": FORMAT_VERSION,
        "count": fingerprint.total,
        "block": BLOCK,
        "prefixes": fingerprint.prefixes,
    }
    return json.dumps(record).encode() + b"\n"


def parse_fingerprint(content: bytes) -> Fingerprint | None:
    """None where it is damaged, or of a format that isn't known."""
    try:
        record = json.loads(content)
        if record["version"] != FORMAT_VERSION or record["block"] != BLOCK:
            return None
        count, prefixes = record["count"], tuple(record["prefixes"])
    except (ValueError, TypeError, KeyError):
        return None
    if not isinstance(count, int) or len(prefixes) != -(-count // BLOCK):
        return None
    return Fingerprint(count, prefixes)
