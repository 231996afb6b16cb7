"""Lines that were added to a list while its farm works: the store takes them up.

Rules of this file: the lock is held, and this farm has its claim.  First the tasks are
put into their queue, then the fingerprint is replaced, then this farm knows them.  A
kill between any two writes is harmless: until the fingerprint has them, no farm takes
tasks that it does not know, and the next farm puts them into the queue again.
"""

from enum import Enum

from mpifarm.model.packed_texts import PackedTexts
from mpifarm.model.paths import WorkdirPaths, staging_of
from mpifarm.store.fingerprint import (
    BLOCK,
    Fingerprint,
    PrefixHashes,
    encode_fingerprint,
    parse_fingerprint,
)
from mpifarm.store.ledger import Ledgers
from mpifarm.store.queue_pair import QueuePair
from mpifarm.system import files


class TakenUp(Enum):
    """What has become of lines that were added."""

    YES = "taken up"
    LATER = "to be offered again"
    """Another farm has taken up more, or ``toprocess`` is missing for now."""
    NO = "of another list"
    """The fingerprint is that of another list."""


class TakeUp:
    """The taking up of added lines by one farm, whose list is `tasks`.

    `hashes` are those of the list, which its start has read.
    """

    def __init__(
        self,
        paths: WorkdirPaths,
        tasks: PackedTexts,
        farm: str,
        queues: QueuePair,
        ledgers: Ledgers,
        hashes: PrefixHashes,
    ) -> None:
        self._paths = paths
        self._tasks = tasks
        self._farm = farm
        self._queues = queues
        self._ledgers = ledgers
        self._hashes = hashes

    def take_up(self, fresh: PackedTexts, begin: int, most: int) -> TakenUp:
        """Add up to `most` texts of `fresh`, from `begin` on, to the end of the list.

        Raises `StorageError`.  The list stays as it is then, and unless YES is
        returned.
        """
        known = len(self._tasks)
        count = min(most, len(fresh) - begin)
        stored = parse_fingerprint(files.find_content(self._paths.fingerprint) or b"")
        if stored is not None and stored.total > known + count:
            # Another farm has taken up more: its whole blocks alone can be compared.
            count = (known + count) // BLOCK * BLOCK - known
            if count <= 0:
                return TakenUp.LATER
        self._tasks.extend_encoded(split_texts(fresh, begin, begin + count))
        taken_up = TakenUp.NO
        try:
            for ledger in self._ledgers:
                ledger.resize()
            taken_up = self._write(known, stored)
        finally:
            if taken_up is TakenUp.YES:
                self._queues.grow(known)
            else:
                self._cut(known)
        return taken_up

    def _cut(self, known: int) -> None:
        self._tasks.cut(known)
        self._hashes.forget(known)
        for ledger in self._ledgers:
            ledger.resize()

    def _write(self, known: int, stored: Fingerprint | None) -> TakenUp:
        """Write the tasks from `known` on, unless other farmers have them already.

        `stored` is the fingerprint as it is on the disk.
        """
        total, queues = len(self._tasks), self._queues
        if stored is not None:
            common = min(total, stored.total)
            hashes = self._hashes.find(common)
            if stored.total < known or stored.prefixes[: len(hashes)] != hashes:
                return TakenUp.NO
            queues.first_added = stored.first_added
            if stored.total >= total:
                return TakenUp.YES
            known = stored.total
        if not files.exists(self._paths.toprocess):
            return TakenUp.LATER  # it means "all tasks": the next taking writes it
        if not queues.is_taken_up(known, self._ledgers):
            queues.add(known)
        now = Fingerprint(total, self._hashes.find(total), queues.first_added)
        if stored is not None:
            now = now._replace(staging=stored.staging)
        staging = staging_of(self._paths.fingerprint, self._farm)
        files.replace(self._paths.fingerprint, staging, encode_fingerprint(now))
        return TakenUp.YES


def split_texts(texts: PackedTexts, begin: int, end: int) -> list[bytes]:
    """Return the encoded texts of the ids from `begin` to `end` - 1."""
    return bytes(texts.encoded_texts(begin, end)).split(b"\n")[:-1]
