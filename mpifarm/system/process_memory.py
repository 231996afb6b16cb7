"""How much memory processes have, as the kernel counts it in /proc.

Rules of this file: it reads only, and never waits for a process that the kernel holds.
A process that is gone, or not ours, has none.

Counted are the anonymous pages: heaps and stacks.  The pages of files do not count,
because the kernel can drop them, nor does shared memory: it may be that of other tasks.
"""

import os
from collections.abc import Iterable

from mpifarm.system import processes

_PAGE = os.sysconf("SC_PAGE_SIZE")

_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "ppc64le": 354, "s390x": 343}
"""The number of the system call kcmp, by the name of the machine."""
_KCMP_VM = 1


def measure_together(pids: Iterable[int], limit: int) -> int:
    """Return the bytes of memory that processes have together.

    A page that several of them share after a fork counts once, as far as the kernel
    says so.  Where a quick look shows that the sum is at most `limit`, return what that
    look has seen, which is no less.
    """
    found = set(pids)
    quick = sum(map(anonymous, found))
    if quick <= limit:
        return quick
    counted = [pid for pid in found if not _has_its_parents(pid)]
    return sum(_find_share(pid, len(counted)) for pid in counted)


def _find_share(pid: int, sharers: int) -> int:
    """Return the bytes of one of so many processes that may share pages.

    Of a process that is held, it is the least that they can be.
    """
    return anonymous(pid) // sharers if processes.is_held(pid) else own_share(pid)


def anonymous(pid: int) -> int:
    """Return the bytes of a process's anonymous pages, shared after a fork or not.

    It neither walks the pages nor waits for the process's locks.
    """
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            _, resident, of_files, *_ = statm.read().split()
    except (OSError, ValueError):
        return 0
    # Not RssAnon of /proc/PID/status, which kernels before 4.5 do not have.
    return (int(resident) - int(of_files)) * _PAGE


def own_share(pid: int) -> int:
    """Return the bytes of a process; a page that n processes have counts 1/n.

    Where the kernel does not tell shares, each page counts as the process's own.  It
    waits for the process's locks.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            share = parse_share(rollup.read())
    except OSError:  # an old kernel, or a program that changes its user
        share = None
    return anonymous(pid) if share is None else share


def parse_share(rollup: bytes) -> int | None:
    """Return the share in bytes of a text of /proc/PID/smaps_rollup.

    None where the text does not say.
    """
    sizes = _parse_sizes(rollup)
    if b"Pss_Anon" in sizes:
        return sizes[b"Pss_Anon"]
    # Kernels before 5.4: the share has the pages of files, too, and what is anonymous
    # is told without regard to who shares it.  Neither is less than the share of that.
    bounds = [sizes[name] for name in (b"Pss", b"Anonymous") if name in sizes]
    return min(bounds, default=None)


def has_same_memory(pid: int, other: int) -> bool:
    """Return whether two processes have the very same memory, not a copy by a fork.

    That is so between vfork, by which posix_spawn starts a process, and exec.  False
    where the kernel does not say.
    """
    number = _KCMP.get(os.uname().machine)
    if number is None:
        return False
    try:
        import ctypes

        call = ctypes.CDLL(None).syscall
    except (ImportError, OSError, AttributeError):
        return False
    words = (number, pid, other, _KCMP_VM, 0, 0)
    return bool(call(*map(ctypes.c_long, words)) == 0)


def _has_its_parents(pid: int) -> bool:
    """Return whether the memory of a process is that of its parent."""
    return has_same_memory(pid, processes.parent_of(pid))


def _parse_sizes(text: bytes) -> dict[bytes, int]:
    """Return the bytes of each line ``NAME: NUMBER kB``."""
    sizes = {}
    for line in text.splitlines():
        name, _, rest = line.partition(b":")
        match rest.split():
            case [number, b"kB"] if number.isdigit():
                sizes[name] = int(number) * 1024
    return sizes
