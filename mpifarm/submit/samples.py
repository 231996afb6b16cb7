"""The scripts of ``jobs/``: requests without a list, which their arguments name.

Rules of this file: pure.  A test holds that the files in ``jobs/`` are these texts.
"""

from collections.abc import Mapping
from typing import Final

from mpifarm.submit import grid_engine, lsf, pbs, slurm
from mpifarm.submit.request import GoingOn, JobRequest, Launcher

_HOURS: Final = 3600


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.splitlines())


_REQUESTS: Final[Mapping[str, JobRequest]] = {
    "multinode.slurm": JobRequest(
        seconds=4 * _HOURS,
        launcher=Launcher.SRUN,
        head=_lines("""\
One farm over all nodes of the job, one rank on each:

  sbatch -N 8 jobs/multinode.slurm tasks.txt [options of mpifarm]

A minute before its time limit the job stops the farm and ends with status 75: submit
the same again, and it goes on.  requeue.slurm and chain.slurm do that by themselves.
"""),
    ),
    "requeue.slurm": JobRequest(
        seconds=4 * _HOURS,
        launcher=Launcher.SRUN,
        going_on=GoingOn.REQUEUE,
        head=_lines("""\
One farm over all nodes of a job that goes back into the queue until the list is done:

  sbatch -N 8 jobs/requeue.slurm tasks.txt [options of mpifarm]
  sbatch -N 8 --time=8:00:00 --time-min=0:30:00 jobs/requeue.slurm tasks.txt

A minute before its time limit the job stops the farm and requeues itself: the same
job, the same output file.  When four runs in a row have recorded nothing, it ends.
To end it all: scancel.  To end only this run: scancel --batch --signal=USR1.
"""),
    ),
    "chain.slurm": JobRequest(
        seconds=4 * _HOURS,
        name="farm-chain",
        launcher=Launcher.SRUN,
        going_on=GoingOn.CHAIN,
        head=_lines("""\
One farm over all nodes of the job, and a successor that waits for its end, until the
list is done; for sites where jobs aren't requeued:

  sbatch -N 8 jobs/chain.slurm tasks.txt [options of mpifarm]

The successor is submitted first, so that a link which is killed has one too; at the
end of the list it is cancelled.  When four links in a row have recorded nothing, the
chain ends.  To end it all: scancel --name=farm-chain.  Nodes, time limit, partition,
account and job name go on from link to link; write other options into the lines
below.
"""),
    ),
    "array.slurm": JobRequest(
        seconds=4 * _HOURS,
        nodes=1,
        cpus=8,
        head=_lines("""\
A farm without MPI in each task of a job array, all at work on one list:

  sbatch --array=1-8 jobs/array.slurm tasks.txt [options of mpifarm]

Each farm begins when there is room for its job, and takes its share of the tasks that
are left.  To start a job when all are finished:  sbatch
--dependency=afterok:ARRAY_JOB next.slurm

--in-array: a farm that finds no task to start, while others of the array still run,
ends with 0.  afterok needs 0 from all of them, so the others answer for the rest.
"""),
    ),
    "backfill.slurm": JobRequest(
        seconds=2 * _HOURS,
        nodes=1,
        cpus=4,
        name="farm-gap",
        is_backfill=True,
        head=_lines("""\
A small farm for the gaps between large jobs.  It joins the farm that runs on the same
list, or begins the list while the large job still waits in the queue:

  sbatch jobs/backfill.slurm tasks.txt [options of mpifarm]
  sbatch --array=1-20 jobs/backfill.slurm tasks.txt

--time-min: Slurm may shorten the job so that it fits a gap.  --requeue: where
preempted jobs may go back into the queue, this one does.
"""),
    ),
    "supervised.slurm": JobRequest(
        seconds=4 * _HOURS,
        launcher=Launcher.SRUN,
        is_supervised=True,
        head=_lines("""\
One farm over all nodes of the job, started again at once where ranks, a node or srun
die:

  sbatch -N 8 jobs/supervised.slurm tasks.txt [options of mpifarm]

It goes on in the same job, on the nodes that are left.  A minute before its time
limit the job stops the farm and ends with status 75: submit the same again, and it
goes on.
"""),
    ),
    "multinode.pbs": JobRequest(
        seconds=4 * _HOURS,
        lead=120,
        launcher=Launcher.MPIRUN,
        head=_lines("""\
One farm over all nodes of the job, one rank on each, with PBS (Professional,
OpenPBS):

  qsub -l select=8:ncpus=32:mpiprocs=1 -v tasklist=tasks.txt jobs/multinode.pbs

Two minutes before its end the job stops the farm and ends with status 75: submit the
same again, and it goes on.  qsub passes no arguments on: options of mpifarm go into
`farm`.
"""),
    ),
    "multinode.lsf": JobRequest(
        seconds=4 * _HOURS,
        lead=120,
        launcher=Launcher.MPIRUN,
        head=_lines("""\
One farm over all nodes of the job, one rank on each, with LSF:

  tasklist=tasks.txt bsub -n 8 < jobs/multinode.lsf

Two minutes before its end the job stops the farm and ends with status 75: submit the
same again, and it goes on.  bsub passes no arguments on: options of mpifarm go into
`farm`.
"""),
    ),
    "multinode.sge": JobRequest(
        seconds=4 * _HOURS,
        launcher=Launcher.MPIRUN,
        mpirun=("mpirun", "-ppn", "1"),
        head=_lines("""\
One farm over all hosts of the job, one rank on each, with Grid Engine:

  qsub -pe mpi 64 -v tasklist=tasks.txt jobs/multinode.sge

A minute before its end the job stops the farm and ends with status 75: submit the same
again, and it goes on.  qsub passes no arguments on: options of mpifarm go into `farm`.
-ppn 1 is MPICH's word for one rank on each host; Open MPI's is --map-by ppr:1:node.
"""),
    ),
}
_WRITERS: Final = {
    "slurm": slurm.write_script,
    "pbs": pbs.write_script,
    "lsf": lsf.write_script,
    "sge": grid_engine.write_script,
}

_LOCAL: Final = """\
#!/bin/bash
# A farm on this machine alone, without MPI and batch system:
#
#   jobs/local.sh tasks.txt [options of mpifarm]
#   nohup jobs/local.sh tasks.txt >farm.log 2>&1 &  # goes on after you have logged out
#
# Ctrl-C stops it; the same command goes on.

farm=(python -m mpifarm --mpi off --proc auto)  # auto: a worker for each CPU

# nice: the machine stays usable.  exec: a signal to this process is one to the farm.
exec nice "${farm[@]}" "$@"
"""

DESCRIPTIONS: Final[Mapping[str, str]] = {
    "multinode.slurm": "one farm over all nodes of the job",
    "requeue.slurm": "the same; the job is requeued until the list is done",
    "chain.slurm": "the same; each job submits its successor",
    "array.slurm": "a job array, in each task a farm without MPI, all on one list",
    "backfill.slurm": "a small farm for the gaps between large jobs",
    "supervised.slurm": "one farm, started again if ranks, a node or srun die",
    "multinode.pbs": "one farm over all nodes, for PBS",
    "multinode.lsf": "one farm over all nodes, for LSF",
    "multinode.sge": "one farm over all hosts, for Grid Engine",
    "local.sh": "a farm on this machine, without MPI and batch system",
}
"""What each script is for, by its name."""


def write_samples() -> dict[str, str]:
    """Return the texts of all scripts, by their names."""
    written = {
        name: _WRITERS[name.rpartition(".")[2]](request)
        for name, request in _REQUESTS.items()
    }
    return {**written, "local.sh": _LOCAL}
