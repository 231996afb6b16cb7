"""How much memory processes have, as the kernel counts it in /proc.

Rules of this file: it reads only.  A process that is gone, or not ours, has none.
"""

import os
from collections.abc import Iterable

_PAGE = os.sysconf("SC_PAGE_SIZE")


def measure_together(pids: Iterable[int], limit: int) -> int:
    """Return the bytes of memory that processes have together.

    A page that several of them share counts once, as far as the kernel says so, and the
    pages of files do not count: the kernel can drop them.  Where a quick look shows
    that the sum is at most `limit`, return what that look has seen, which is no less.
    """
    pids = list(pids)
    quick = sum(map(resident, pids))
    return quick if quick <= limit else sum(map(own_share, pids))


def resident(pid: int) -> int:
    """Return the bytes in memory that a process can reach, shared or not."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def own_share(pid: int) -> int:
    """Return the bytes of a process; a page that n processes have counts 1/n.

    The pages of files do not count.  Where the kernel does not tell shares, each page
    counts as the process's own.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            return parse_share(rollup.read())
    except OSError:  # an old kernel, or a program that changes its user
        return _own_pages(pid)


def parse_share(rollup: bytes) -> int:
    """Return the share in bytes of a text of /proc/PID/smaps_rollup.

    Kernels before 5.4 do not set the pages of files apart: they count there.
    """
    sizes = _parse_sizes(rollup)
    parts = [sizes[name] for name in (b"Pss_Anon", b"Pss_Shmem") if name in sizes]
    return sum(parts) if parts else sizes.get(b"Pss", 0)


def _own_pages(pid: int) -> int:
    """Return the bytes that a process can reach and that are of no file."""
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            sizes = _parse_sizes(status.read())
    except OSError:
        return 0
    return sizes.get(b"RssAnon", 0) + sizes.get(b"RssShmem", 0)


def _parse_sizes(text: bytes) -> dict[bytes, int]:
    """Return the bytes of each line ``NAME: NUMBER kB``."""
    sizes = {}
    for line in text.splitlines():
        name, _, rest = line.partition(b":")
        match rest.split():
            case [number, b"kB"] if number.isdigit():
                sizes[name] = int(number) * 1024
    return sizes
