"""From the user's wishes to a request: what is asked of which program, and chosen.

Rules of this file: it asks through `Programs` alone, so that a test gives the answers.
What can't work is an `InputError`.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from mpifarm.errors import InputError
from mpifarm.immutable import immutable
from mpifarm.model.durations import parse_duration
from mpifarm.submit import choosing
from mpifarm.submit.request import DEFAULT_LEAD, After, GoingOn, JobRequest, Launcher
from mpifarm.submit.slurm import name_options, quote_directive
from mpifarm.submit.systems import SUBMITTING, SYSTEMS, find_systems

ARRAY_CPUS: Final = 8
"""CPUs of a job of an array, unless ``-c`` or the nodes say otherwise."""
BACKFILL_CPUS: Final = 4
"""The same for a job that fills a gap."""
MIN_SECONDS: Final = 60
"""The shortest time limit: the clock of Slurm and LSF has minutes."""
LEAD_BY_MINUTES: Final = 120
"""Seconds before the end of a job at which its farm stops, for PBS and LSF."""

_NAME = re.compile(r"[A-Za-z_][\w.+-]{0,62}", re.ASCII)
_WORD = re.compile(r"[\w.,@:/+%*&=-]+", re.ASCII)
_JOB = re.compile(r"[0-9][\w.\[\]-]*", re.ASCII)


class Asker(Protocol):
    """What `planning` needs of `asking.Programs`."""

    def find(self, names: tuple[str, ...]) -> set[str]:
        """Return those of the `names` that are programs here."""

    def ask(self, *words: str) -> str:
        """Return what a program prints, "" if it fails."""

    def ask_errors(self, *words: str) -> str:
        """Return what a program prints as errors, whether it fails or not."""

    def ask_python(self, program: str) -> str:
        """Return what a program in Python prints, "" if it fails."""


@immutable
class Wishes:
    """The options of ``mpifarm submit``, parsed one by one; None: not given."""

    scheduler: str | None = None
    nodes: int = 1
    seconds: float | None = None
    cpus: int | None = None
    name: str | None = None
    account: str = ""
    partition: str = ""
    qos: str = ""
    environment: str = ""
    array: int | None = None
    until_done: bool = False
    chain: bool = False
    backfill: bool = False
    supervise: bool = False
    after: tuple[str, ...] = ()
    directives: tuple[str, ...] = ()
    is_print: bool = False
    """Whether the script is only shown, which no batch system has to be here for."""


class Python(NamedTuple):
    """The Python of a job: the words that start it, and the directory of its mpirun."""

    words: tuple[str, ...]
    programs: str


def find_scheduler(wishes: Wishes, programs: Asker, environ: Mapping[str, str]) -> str:
    """Return the name of the batch system; raise `InputError` without one."""
    here = programs.find(SUBMITTING)
    if wishes.scheduler is not None:
        program = SYSTEMS[wishes.scheduler].program
        if program not in here and not wishes.is_print:
            title = SYSTEMS[wishes.scheduler].title
            raise InputError(
                f"there is no {program} here, by which {title} takes jobs: submit where"
                " it is, or see the script with --print"
            )
        return wishes.scheduler
    if found := find_systems(here, environ):
        return found[0]
    if wishes.is_print:
        return "slurm"
    raise InputError(
        "no batch system is here (no sbatch, qsub or bsub): submit on a login node of"
        " the cluster, or see the script with --print"
    )


_TIME_OF_SBATCH: Final = "SBATCH_TIMELIMIT"


def take_variables(
    wishes: Wishes, scheduler: str, environ: Mapping[str, str]
) -> Wishes:
    """Return the wishes, with those that the variables of sbatch add.

    Raises `InputError` for a time that is none.
    """
    if scheduler != "slurm":
        return wishes
    wishes = replace(
        wishes,
        account=wishes.account or environ.get("SBATCH_ACCOUNT", ""),
        partition=wishes.partition or environ.get("SBATCH_PARTITION", ""),
        qos=wishes.qos or environ.get("SBATCH_QOS", ""),
    )
    clusters = environ.get("SBATCH_CLUSTERS", "")
    if clusters and "clusters" not in name_options(wishes.directives):
        typed = quote_directive(f"--clusters={clusters}")
        wishes = replace(wishes, directives=(*wishes.directives, typed))
    time = environ.get(_TIME_OF_SBATCH, "")
    if wishes.seconds is None and time:
        try:
            wishes = replace(wishes, seconds=parse_duration(time, 60))
        except ValueError:
            raise InputError(
                f"{_TIME_OF_SBATCH} is no time ({time!r}): correct it, or give -t"
            ) from None
    return wishes


def plan(
    wishes: Wishes,
    scheduler: str,
    grace: float,
    programs: Asker,
    python: Python,
    *,
    identity: str,
) -> JobRequest:
    """Return the request, still without its source.

    `grace` is that of the farm.  `identity` tells the list from others, in the name of
    a chain.  Raises `InputError`.
    """
    _check_together(wishes, scheduler)
    planner = _SlurmPlanner if scheduler == "slurm" else _Planner
    return planner(wishes, scheduler, grace, programs, python, identity).plan()


# ---- wishes that no batch system can fulfil ------------------------------------------


def check_wishes(wishes: Wishes) -> None:
    """Raise `InputError` for a wish that no batch system can fulfil."""
    words = {
        "--account": wishes.account,
        "--partition": wishes.partition,
        "--qos": wishes.qos,
        "--pe": wishes.environment,
    }
    for option, word in words.items():
        if word and not _WORD.fullmatch(word):
            raise InputError(f"{option} takes a name, not {word!r}")
    if wishes.name is not None and not _NAME.fullmatch(wishes.name):
        raise InputError(
            f"--job-name takes a name of letters, digits, . + _ and -, not"
            f" {wishes.name!r}"
        )
    for directive in wishes.directives:
        if not directive.isprintable() or not directive.strip():
            raise InputError(
                f"--directive takes one line for the batch system, not {directive!r}"
            )
    for word in wishes.after:
        _parse_after(word)
    if wishes.seconds is not None and wishes.seconds < MIN_SECONDS:
        raise InputError(
            f"-t {wishes.seconds:g} s is too short for a job: it takes a minute or more"
        )


def _parse_after(word: str) -> After:
    kind, colon, job = word.rpartition(":")
    if kind not in ("", "any") or (colon and not kind) or not _JOB.fullmatch(job):
        raise InputError(
            f"--after takes the id of a job, as --after 123, or any:123 for whatever"
            f" end it has, not {word!r}"
        )
    return After(job, is_any=kind == "any")


def _check_together(wishes: Wishes, scheduler: str) -> None:
    """Raise `InputError` for options that contradict each other."""
    title = SYSTEMS[scheduler].title
    only_slurm = {
        "--backfill": wishes.backfill,
        "--supervise": wishes.supervise,
        "--qos": wishes.qos,
    }
    for option, given in only_slurm.items():
        if given and scheduler != "slurm":
            raise InputError(f"{option} is for Slurm, not for {title}: leave it out")
    if wishes.environment and scheduler != "sge":
        raise InputError(f"--pe is for Grid Engine, not for {title}: leave it out")
    if wishes.array is not None and (wishes.until_done or wishes.chain):
        raise InputError(
            "--array and --until-done contradict each other: all jobs of an array would"
            " go on, even those with nothing to do; leave one out"
        )
    if wishes.backfill and wishes.nodes > 1:
        raise InputError(
            f"--backfill is for jobs that fit into gaps, each on one node: in place of"
            f" -N {wishes.nodes} give --array {wishes.nodes}"
        )
    waiting = SYSTEMS[scheduler].waiting
    if wishes.after and SYSTEMS[scheduler].waits(wishes.directives):
        raise InputError(
            f"--after and {waiting} contradict each other, because {title} heeds only"
            f" one: give --after for each job, or name all jobs in one {waiting}"
        )
    ok = [word for word in wishes.after if not _parse_after(word).is_any]
    if ok and scheduler == "sge":
        raise InputError(
            "Grid Engine lets a job wait for another's end, whatever that is: give"
            f" --after any:{ok[0]}"
        )


# ---- PBS, LSF, Grid Engine -----------------------------------------------------------


class _Planner:
    """The choices for one job of PBS, LSF or Grid Engine."""

    def __init__(
        self,
        wishes: Wishes,
        scheduler: str,
        grace: float,
        programs: Asker,
        python: Python,
        identity: str,
    ) -> None:
        self.wishes = wishes
        self.scheduler = scheduler
        self.grace = grace
        self.programs = programs
        self.python = python
        self.identity = identity

    def plan(self) -> JobRequest:
        """Return the request; raises `InputError`."""
        wishes = self.wishes
        seconds = choosing.choose_seconds(wishes.seconds, None)
        self._check_size()
        vendor = self.find_vendor() if wishes.nodes > 1 else ""
        launcher = Launcher.MPIRUN if wishes.nodes > 1 else Launcher.NONE
        going_on = self._choose_going_on()
        return JobRequest(
            seconds=seconds,
            nodes=wishes.nodes,
            cpus=self._find_cpus(),
            name=self.choose_name(going_on),
            account=wishes.account,
            partition=wishes.partition,
            environment=self._choose_environment(),
            array=wishes.array or 0,
            going_on=going_on,
            after=(*map(_parse_after, wishes.after),),
            directives=wishes.directives,
            lead=choosing.choose_lead(self.grace, seconds, self._find_lead()),
            launcher=launcher,
            mpirun=self._find_mpirun(vendor),
            python=self.python.words,
        )

    def _find_lead(self) -> int:
        return DEFAULT_LEAD if self.scheduler == "sge" else LEAD_BY_MINUTES

    def find_vendor(self) -> str:
        """Return the MPI library of mpi4py; raise `InputError` without one.

        To see a script, none is needed: "".
        """
        vendor = choosing.parse_vendor(self.programs.ask_python(choosing.VENDOR))
        if not (vendor or self.wishes.is_print):
            choosing.choose_pmi("", frozenset())
        return vendor

    def choose_name(self, going_on: GoingOn) -> str:
        """Return the job's name; a chain's is its own, as it is cancelled by it."""
        if going_on is GoingOn.CHAIN:
            return f"{self.wishes.name or 'farm'}-{self.identity}"
        return self.wishes.name or ("farm-gap" if self.wishes.backfill else "farm")

    def _check_size(self) -> None:
        nodes, cpus = self.wishes.nodes, self.wishes.cpus
        title = SYSTEMS[self.scheduler].title
        if self.scheduler == "lsf":
            if cpus is not None and nodes > 1:
                raise InputError(
                    "a farm over several hosts of LSF takes whole hosts: leave out"
                    f" -c {cpus}"
                )
        elif cpus is None:
            raise InputError(
                f"{title} has to know how many CPUs the farm gets on each node: give"
                " them, as -c 32"
            )

    def _find_cpus(self) -> int | None:
        """Return the CPUs of a node's share, None for whole hosts of LSF."""
        wishes = self.wishes
        if wishes.cpus is None and wishes.array is not None and wishes.nodes == 1:
            return ARRAY_CPUS
        return wishes.cpus

    def _choose_going_on(self) -> GoingOn:
        wishes = self.wishes
        if not (wishes.until_done or wishes.chain):
            return GoingOn.NOT
        if self.scheduler == "pbs":
            return GoingOn.CHAIN
        if wishes.chain:
            title = SYSTEMS[self.scheduler].title
            raise InputError(
                f"--chain is for Slurm and PBS: with {title} the same job goes back"
                " into the queue, by --until-done"
            )
        return GoingOn.REQUEUE

    def _choose_environment(self) -> str:
        """Return the parallel environment of Grid Engine."""
        wishes = self.wishes
        if self.scheduler != "sge" or wishes.environment:
            return wishes.environment
        names = self.programs.ask("qconf", "-spl").split()
        answers = [self.programs.ask("qconf", "-sp", name) for name in names]
        known = dict(map(choosing.parse_environment, answers))
        if not known and wishes.is_print:
            return "" if wishes.nodes * (wishes.cpus or 1) == 1 else "mpi"
        return choosing.choose_environment(known, wishes.nodes, wishes.cpus or 1)

    def _find_mpirun(self, vendor: str) -> tuple[str, ...]:
        beside = os.path.join(self.python.programs, "mpirun")
        program = beside if self.programs.find((beside,)) else "mpirun"
        if self.scheduler != "sge":
            return (program,)
        one_each = ("--map-by", "ppr:1:node") if vendor == "Open MPI" else ("-ppn", "1")
        return (program, *one_each)


# ---- Slurm ---------------------------------------------------------------------------


class _SlurmPlanner(_Planner):
    """The choices for one job of Slurm, which can be asked for more."""

    def plan(self) -> JobRequest:
        """Return the request; raises `InputError`."""
        wishes = self.wishes
        is_here = bool(self.programs.find(("scontrol",)))
        # --all: else a partition that is hidden from lists would not be there.
        words = ("scontrol", "--all", "--oneliner", "show", "partition")
        shown = self._ask_cluster(*words) if is_here else ""
        partitions = choosing.parse_partitions(shown)
        partition = choosing.choose_partition(partitions, wishes.partition)
        seconds = choosing.choose_seconds(wishes.seconds, partition)
        if partition is not None:
            choosing.check_partition(partition, wishes.nodes, seconds)
        has_ranks = wishes.nodes > 1
        going_on = self._choose_going_on()
        return JobRequest(
            seconds=seconds,
            nodes=wishes.nodes,
            cpus=self._choose_cpus(partition.name if partition else wishes.partition),
            name=self.choose_name(going_on),
            account=wishes.account,
            partition=wishes.partition,
            qos=wishes.qos,
            array=wishes.array or 0,
            going_on=going_on,
            is_backfill=wishes.backfill,
            is_supervised=wishes.supervise,
            after=(*map(_parse_after, wishes.after),),
            directives=wishes.directives,
            lead=choosing.choose_lead(self.grace, seconds),
            launcher=Launcher.SRUN if has_ranks else Launcher.NONE,
            pmi=self._choose_pmi() if has_ranks else "",
            python=self.python.words,
        )

    def _ask_cluster(self, *words: str) -> str:
        """Return what a program prints, "" if the job is for another cluster."""
        if "clusters" in name_options(self.wishes.directives):
            return ""
        return self.programs.ask(*words)

    def _choose_pmi(self) -> str:
        vendor = self.find_vendor()
        is_here = bool(self.programs.find(("srun",)))
        listed = self.programs.ask("srun", "--mpi=list") if is_here else ""
        if not vendor:
            return ""
        pmi = choosing.choose_pmi(vendor, choosing.parse_plugins(listed))
        if is_here and not self.wishes.is_print:
            # --test-only: srun loads the plugin, and starts nothing.
            words = ("srun", f"--mpi={pmi}", "--test-only", "true")
            choosing.check_plugin(pmi, vendor, self.programs.ask_errors(*words))
        return pmi

    def _choose_going_on(self) -> GoingOn:
        if self.wishes.chain:
            return GoingOn.CHAIN
        if not self.wishes.until_done:
            return GoingOn.NOT
        shown = self._ask_cluster("scontrol", "show", "config")
        return GoingOn.REQUEUE if choosing.requeues(shown) else GoingOn.CHAIN

    def _choose_cpus(self, partition: str) -> int | None:
        """Return the CPUs of a job that shares its node, None for whole nodes."""
        wishes = self.wishes
        is_small = wishes.nodes == 1 and (wishes.array is not None or wishes.backfill)
        if wishes.cpus is None and not is_small:
            return None
        of = [f"--partition={partition}"] if partition else []
        words = ("sinfo", "--noheader", "--exact", *of, "--format=%c")
        known = choosing.parse_cpus(self._ask_cluster(*words))
        if wishes.cpus is None:
            wanted = BACKFILL_CPUS if wishes.backfill else ARRAY_CPUS
            return choosing.choose_cpus(wanted, known)
        choosing.check_cpus(wishes.cpus, known)
        return wishes.cpus
