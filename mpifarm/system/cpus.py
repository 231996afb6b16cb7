"""The CPUs that a rank was given, and each worker's share of them.

Rules of this file:

- It reads affinities, /proc and /sys; only `bind_to` changes anything.
- A CPU is a CPU of the kernel: with hyperthreads, a core has two.
- A missing file is not an error.  A rank that finds no other rank on its CPUs takes all
  of them; on a machine that does not list its cores, each CPU is a core.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from mpifarm.batch.launcher import launched_rank, launched_size, was_launched
from mpifarm.immutable import immutable


@immutable
class Sharers:
    """The number of ranks that share CPUs, and this rank's place among them, from 0."""

    place: int
    count: int


ALONE = Sharers(0, 1)

Share = tuple[int, ...]
"""CPUs of a worker or of a core, in rising order."""


# ---- shares -------------------------------------------------------------------------


def share_out(
    cores: Sequence[Share], workers: int, sharers: Sharers = ALONE
) -> tuple[Share, ...]:
    """Return each worker's own CPUs, out of the rank's `cores`.

    Workers get whole cores if there are enough, else single CPUs.  If there are more
    workers than CPUs, each worker gets one CPU, round robin.
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
    """Return the ``OMP_NUM_THREADS`` of an unbound worker: its CPUs, at least 1."""
    return max(1, cpus // (workers * sharers.count))


def bind_to(share: Collection[int]) -> None:
    """Bind this process, and all that it starts, to these CPUs, if the kernel may."""
    # The kernel refuses if a changed cgroup has taken the CPUs away.
    with suppress(OSError):
        os.sched_setaffinity(0, share)


# ---- the rank's CPUs and the machine's ----------------------------------------------

SYSTEM = "/sys/devices/system"


def cpus_of_rank() -> frozenset[int]:
    """Return the CPUs that this process may use, as its launcher has bound it."""
    return frozenset(os.sched_getaffinity(0))


def cpus_of_machine() -> int:
    """Return the number of CPUs of the machine that are online."""
    return os.sysconf("SC_NPROCESSORS_ONLN")


def read_cores(cpus: Collection[int], system: str = SYSTEM) -> list[Share]:
    """Return `cpus` grouped by core, in the order of their memory nodes (NUMA)."""
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
    """Return the memory node of each CPU."""
    nodes = parse_cpu_list(_read(f"{system}/node/has_cpu"))
    return {
        cpu: node
        for node in nodes
        for cpu in parse_cpu_list(_read(f"{system}/node/node{node}/cpulist"))
    }


def parse_cpu_list(text: str) -> list[int]:
    """Parse a list of CPUs of the kernel (``0-2,8``).  Other text gives no numbers.

    The format is that of cpuset(7), "List format".
    """
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
    """Find the ranks of our launch on this node that may use the same CPUs.

    `environ` is the environment of this process.  To be called after `MPI_Init`, when
    all ranks have started: only then do all of them get the same answer.  Without a
    launcher, the answer is `ALONE`.
    """
    return _find_ranks(environ, pid or os.getpid(), proc, with_our_cpus=True)


def place_on_node(
    environ: Mapping[str, str], pid: int | None = None, proc: str = "/proc"
) -> int:
    """Return the number of lower ranks of our launch on this node, on any CPUs.

    For ranks that cannot ask each other; 0 without a launcher.  See `find_sharers` for
    when to call it.
    """
    return _find_ranks(environ, pid or os.getpid(), proc, with_our_cpus=False).place


def count_on_node(
    environ: Mapping[str, str], pid: int | None = None, proc: str = "/proc"
) -> int:
    """Return the number of ranks of our launch on this node, on any CPUs.

    1 without a launcher.  See `find_sharers` for when to call it.
    """
    return _find_ranks(environ, pid or os.getpid(), proc, with_our_cpus=False).count


def _find_ranks(
    environ: Mapping[str, str], own: int, proc: str, *, with_our_cpus: bool
) -> Sharers:
    """Return this rank's place among the ranks of the node, and their number."""
    if not was_launched(environ):
        return ALONE
    # The ranks of a node are children of one process of the launcher (mpirun, prted,
    # slurmstepd), or its grandchildren if a script is between.
    seat, cpus = _seat(environ), _read_process(own, proc).cpus
    top, launcher = own, _read_process(own, proc).parent
    while launcher > 1 and _seat(_environment(launcher, proc)) == seat:
        top, launcher = launcher, _read_process(launcher, proc).parent
    ranks = {top: seat.rank}
    for child in _children_of(launcher, proc):
        # The affinity first: an environment takes longer to read.
        if child == top or (with_our_cpus and _read_process(child, proc).cpus != cpus):
            continue
        other = _seat(_environment(child, proc))
        if other.size == seat.size:
            ranks[child] = other.rank
    in_order = sorted(ranks, key=lambda each: (ranks[each], each))
    return Sharers(in_order.index(top), len(in_order))


class _Seat(NamedTuple):
    """The rank and the size that a launcher gave to a process; size 0 without one."""

    rank: int
    size: int


def _seat(environ: Mapping[str, str]) -> _Seat:
    size = launched_size(environ) if was_launched(environ) else 0
    return _Seat(launched_rank(environ), size)


class _Process(NamedTuple):
    parent: int
    cpus: str
    """The CPUs that the process may use, as the kernel lists them."""


def _read_process(pid: int, proc: str) -> _Process:
    """Return parent and CPUs of a process; 0 and "" if it is gone."""
    lines = _read(f"{proc}/{pid}/status").splitlines()
    fields = {
        name: value.strip() for name, _, value in (x.partition(":") for x in lines)
    }
    return _Process(int(fields.get("PPid", 0)), fields.get("Cpus_allowed_list", ""))


def _environment(pid: int, proc: str) -> dict[str, str]:
    """Return the environment that a process was started with, {} if it is not ours."""
    entries = _read(f"{proc}/{pid}/environ").split("\0")
    return {name: value for name, _, value in (x.partition("=") for x in entries)}


def _children_of(pid: int, proc: str) -> list[int]:
    """Return the children of all threads of a process."""
    # A launcher may start each rank from another thread.
    try:
        threads = os.listdir(f"{proc}/{pid}/task")
    except OSError:
        return []
    lists = [_read(f"{proc}/{pid}/task/{thread}/children") for thread in threads]
    return [int(child) for children in lists for child in children.split()]


def _read(path: str) -> str:
    """Return a file's text, "" if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


# ---- the warning at the start -------------------------------------------------------


def binding_warning(
    environ: Mapping[str, str],
    cpus: int,
    workers: int,
    total: int,
    sharers: Sharers = ALONE,
) -> str:
    """Return a warning for a rank with fewer `cpus` than `workers`, else "".

    `total` is the number of CPUs of the rank's machine.
    """
    # A rank that may use all CPUs of the machine cannot get more from a launcher.
    if cpus >= total or not lacks_cpus(cpus, workers, sharers):
        return ""
    from mpifarm.model.wording import counted  # most ranks have nothing to say

    has = counted(workers, "worker")
    common = f", in common with {sharers.count - 1} more" if sharers.count > 1 else ""
    return (
        f"WARNING: this rank has {has} and may use only {cpus} of the {total} CPUs of "
        f"its node{common}. {find_remedy(environ, cpus, workers, total, sharers)}."
    )


def lacks_cpus(cpus: int, workers: int, sharers: Sharers = ALONE) -> bool:
    """Return whether a rank has fewer CPUs than workers."""
    return cpus // sharers.count < workers


def find_remedy(
    environ: Mapping[str, str], cpus: int, workers: int, total: int, sharers: Sharers
) -> str:
    """Return what to do about a rank with fewer `cpus` than `workers`.

    A rank that has all CPUs of its machine can only have fewer workers.
    """
    fitting = max(1, cpus // sharers.count)
    if cpus < total:
        remedy = _remedy(environ, min(workers, total))
        return f"{remedy}; or --proc {fitting} fits what it has"
    # auto counts the CPUs that other ranks have as well.
    word = f"auto, here {fitting}" if sharers.count == 1 else f"{fitting}"
    return (
        f"for tasks that compute give --proc {word}: more workers than CPUs are for"
        " tasks that wait"
    )


def _remedy(environ: Mapping[str, str], wanted: int) -> str:
    if "OMPI_COMM_WORLD_SIZE" in environ:
        return (
            "Open MPI binds ranks unless told otherwise: give mpirun --bind-to none, "
            f"or --map-by slot:PE={wanted} for {wanted} cores a rank"
        )
    # Before Slurm: a rank of an mpiexec in a step of Slurm has the variables of both.
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
