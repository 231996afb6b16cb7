"""The CPUs that a rank was given, and each worker's share of them.

Rules of this file:

- It looks (affinities, /proc, /sys) and reckons; only `bind_to` changes anything.
- A CPU is what the kernel calls one: with hyperthreads a core has two.
- What can't be seen is no error.  A rank that sees no others with its CPUs takes them
  for its own; a machine that doesn't tell its cores has cores of one CPU.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from mpifarm.launcher import launched_rank, launched_size, was_launched


@dataclass(frozen=True, slots=True)
class Sharers:
    """How many ranks of a launch have the same CPUs, and our place among them."""

    place: int
    count: int


ALONE = Sharers(0, 1)

Share = tuple[int, ...]
"""CPUs of a worker, in rising order."""


# ---- shares -------------------------------------------------------------------------


def share_out(
    cores: Sequence[Share], workers: int, sharers: Sharers = ALONE
) -> tuple[Share, ...]:
    """Each worker's own CPUs, out of the rank's, which stand in `cores` core by core.

    Neighbours get whole cores where there are enough of them, else single CPUs; where
    even those are too few, each worker has one, and the CPUs go round.
    """
    slots = workers * sharers.count
    first = workers * sharers.place
    cpus = [cpu for core in cores for cpu in core]
    if len(cpus) < slots:
        return tuple(
            (cpus[slot % len(cpus)],) for slot in range(first, first + workers)
        )
    pieces = cores if len(cores) >= slots else [(cpu,) for cpu in cpus]
    return tuple(_block(pieces, slot, slots) for slot in range(first, first + workers))


def _block(pieces: Sequence[Share], slot: int, slots: int) -> Share:
    begin, end = (len(pieces) * edge // slots for edge in (slot, slot + 1))
    return tuple(sorted(cpu for piece in pieces[begin:end] for cpu in piece))


def threads_of_worker(cpus: int, workers: int, sharers: Sharers = ALONE) -> int:
    """The CPUs of a worker that isn't bound, at least 1: for ``OMP_NUM_THREADS``."""
    return max(1, cpus // (workers * sharers.count))


def bind_to(share: Collection[int]) -> None:
    """Let this process, and all that it starts, run on these CPUs only.

    Without effect if the kernel has taken them away since (a cgroup that was changed).
    """
    with suppress(OSError):
        os.sched_setaffinity(0, share)


# ---- the rank's CPUs and the machine's ----------------------------------------------

SYSTEM = "/sys/devices/system"


def cpus_of_rank() -> frozenset[int]:
    """The CPUs that this process may use: what its launcher has left to it."""
    return frozenset(os.sched_getaffinity(0))


def cpus_of_machine() -> int:
    """How many CPUs the machine has."""
    return os.sysconf("SC_NPROCESSORS_ONLN")


def read_cores(cpus: Collection[int], system: str = SYSTEM) -> list[Share]:
    """`cpus` by core, cores of one memory node (NUMA) beside each other."""
    node_of = _read_nodes(system)
    cores: list[Share] = []
    left = set(cpus)
    for cpu in sorted(cpus):
        if cpu in left:
            siblings = _read(f"{system}/cpu/cpu{cpu}/topology/thread_siblings_list")
            core = left & {cpu, *parse_cpu_list(siblings)}
            left -= core
            cores.append(tuple(sorted(core)))
    return sorted(cores, key=lambda core: (node_of.get(core[0], 0), core))


def _read_nodes(system: str) -> dict[int, int]:
    """The memory node of each CPU."""
    nodes = parse_cpu_list(_read(f"{system}/node/has_cpu"))
    return {
        cpu: node
        for node in nodes
        for cpu in parse_cpu_list(_read(f"{system}/node/node{node}/cpulist"))
    }


def parse_cpu_list(text: str) -> list[int]:
    """The numbers of a list as the kernel writes it (``0-2,8``); none of other text."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            numbers += range(int(first), int(last or first) + 1)
    return numbers


# ---- the ranks that have the same CPUs ----------------------------------------------


def find_sharers(
    environ: Mapping[str, str], pid: int | None = None, proc: str = "/proc"
) -> Sharers:
    """The ranks of our launch on this node that may use the same CPUs as we may.

    Ranks are children of one process of the launcher (mpirun, prted, slurmstepd), or
    below one where a script is between.  All of them find the same only after all have
    started, as they have after `MPI_Init`.  `environ` is this process's.
    """
    return _find_ranks(environ, pid or os.getpid(), proc, with_our_cpus=True)


def place_on_node(
    environ: Mapping[str, str], pid: int | None = None, proc: str = "/proc"
) -> int:
    """How many ranks of our launch on this node come before us, whatever their CPUs.

    For ranks that can't ask each other; see `find_sharers`.
    """
    return _find_ranks(environ, pid or os.getpid(), proc, with_our_cpus=False).place


def _find_ranks(
    environ: Mapping[str, str], own: int, proc: str, *, with_our_cpus: bool
) -> Sharers:
    if not was_launched(environ):
        return ALONE
    seat, cpus = _seat(environ), _look_at(own, proc).cpus
    top, launcher = own, _look_at(own, proc).parent
    while launcher > 1 and _seat(_environment(launcher, proc)) == seat:
        top, launcher = launcher, _look_at(launcher, proc).parent
    ranks = {top: seat.rank}
    for child in _children_of(launcher, proc):
        # The affinity first: to read an environment takes longer.
        if child == top or (with_our_cpus and _look_at(child, proc).cpus != cpus):
            continue
        other = _seat(_environment(child, proc))
        if other.size == seat.size:
            ranks[child] = other.rank
    in_order = sorted(ranks, key=lambda each: (ranks[each], each))
    return Sharers(in_order.index(top), len(in_order))


class _Seat(NamedTuple):
    """What a launcher has told a process; the size is 0 where none has."""

    rank: int
    size: int


def _seat(environ: Mapping[str, str]) -> _Seat:
    size = launched_size(environ) if was_launched(environ) else 0
    return _Seat(launched_rank(environ), size)


class _Process(NamedTuple):
    parent: int
    cpus: str
    """As the kernel lists them."""


def _look_at(pid: int, proc: str) -> _Process:
    lines = _read(f"{proc}/{pid}/status").splitlines()
    fields = {
        name: value.strip() for name, _, value in (x.partition(":") for x in lines)
    }
    return _Process(int(fields.get("PPid", 0)), fields.get("Cpus_allowed_list", ""))


def _environment(pid: int, proc: str) -> dict[str, str]:
    """What the process was started with; empty if that is not for us to see."""
    entries = _read(f"{proc}/{pid}/environ").split("\0")
    return {name: value for name, _, value in (x.partition("=") for x in entries)}


def _children_of(pid: int, proc: str) -> list[int]:
    """Those of all its threads: a launcher may start each rank in another one."""
    try:
        threads = os.listdir(f"{proc}/{pid}/task")
    except OSError:
        return []
    lists = [_read(f"{proc}/{pid}/task/{thread}/children") for thread in threads]
    return [int(child) for children in lists for child in children.split()]


def _read(path: str) -> str:
    """The file's text; empty where there is none, or none for us."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


# ---- what to say at the start -------------------------------------------------------


def binding_warning(
    environ: Mapping[str, str],
    cpus: int,
    workers: int,
    total: int,
    sharers: Sharers = ALONE,
) -> str:
    """What to tell of a rank that may use fewer CPUs than it has workers; "" if not.

    `total` are the CPUs of its machine.  Where the rank may use them all, there is
    nothing that a launcher could give it.
    """
    share = cpus // sharers.count
    if cpus >= total or share >= workers:
        return ""
    has = f"{workers} {'worker' if workers == 1 else 'workers'}"
    common = f", in common with {sharers.count - 1} more" if sharers.count > 1 else ""
    return (
        f"WARNING: this rank has {has} and may use only {cpus} of the {total} CPUs of "
        f"its node{common}. {_remedy(environ, min(workers, total))}; or --proc "
        f"{max(1, share)} fits what it has."
    )


def _remedy(environ: Mapping[str, str], wanted: int) -> str:
    if "OMPI_COMM_WORLD_SIZE" in environ:
        return (
            "Open MPI binds ranks unless told otherwise: give mpirun --bind-to none, "
            f"or --map-by slot:PE={wanted} for {wanted} cores a rank"
        )
    # Before Slurm: below an mpiexec in a step of Slurm's are the variables of both.
    if "MPI_LOCALNRANKS" in environ:
        return (
            "Give mpiexec -bind-to none if it was told to bind, else ask the batch "
            "system for more"
        )
    if "SLURM_STEP_NUM_TASKS" in environ:
        return (
            f"Give sbatch and srun --cpus-per-task={wanted} (both: srun may not take "
            "it over), or srun --cpu-bind=none where the job has more"
        )
    if "SLURM_JOB_ID" in environ:
        return f"Give sbatch --cpus-per-task={wanted}"
    return "Ask what started it for more (a batch system, taskset, a container)"
