"""Nodes of the job on which nothing of the farm runs: whether to say so, and how.

Rules of this file: a word only where something is to be gained.  None where the nodes
may be in use: by tasks that start programs on other nodes, by the farm of which this
one is a task, or where `supervise` keeps a farm off nodes; nor where another line to
start the farm by has been given already.
"""

import os
import sys
from collections.abc import Collection

from mpifarm.batch.launch_lines import (
    JobNodes,
    count_nodes,
    describe_idle_nodes,
    find_farm_words,
    is_by_mpirun,
    line_over_all_nodes,
    starts_programs_elsewhere,
)
from mpifarm.batch.launcher import launched_rank, launched_size
from mpifarm.farm.context import RankContext
from mpifarm.order.directives import command_of
from mpifarm.tasklists import ListTaskList, TaskList

TASKS_READ = 200
"""At the head of the list, in which a command for other nodes is looked for."""


class IdleNodes:
    """The nodes of the job that idle, and the warnings of them."""

    def __init__(self, context: RankContext, tasks: TaskList) -> None:
        self._context = context
        self._environ = context.process.environ
        self._nodes = None if self._may_be_meant(tasks) else self._count()

    def warn_at_start(self) -> str:
        """Return the warning that needs no answer of a rank, or ""."""
        return self._describe(self._nodes) if self._nodes else ""

    def warn_of_hosts(self, hosts: Collection[str]) -> str:
        """Return the warning that only the `hosts` of all ranks lead to, or "".

        srun's nodes are known from the start, but mpirun may put all ranks on one node.
        """
        nodes = self._nodes
        if nodes is None or nodes.used < nodes.job or not is_by_mpirun(self._environ):
            return ""
        return self._describe(JobNodes(nodes.job, len(hosts)))

    def _may_be_meant(self, tasks: TaskList) -> bool:
        """Return whether nodes may idle on purpose, or are told of elsewhere."""
        names = ("MPIFARM_TASK_ID", "MPIFARM_LAUNCH")
        if self._context.settings.span_nodes or any(n in self._environ for n in names):
            return True
        if self._is_split():
            return True
        texts = tasks.tasks[:TASKS_READ] if type(tasks) is ListTaskList else ()
        return starts_programs_elsewhere([*map(command_of, texts)])

    def _is_split(self) -> bool:
        """Return whether the ranks don't see each other; they are told a line for that.

        A second line beside that would not say which to take.  Where ``--mpi off``
        splits the ranks, the first of them still warns.
        """
        if self._context.comm is not None or launched_size(self._environ) == 1:
            return False
        return self._context.settings.mpi == "auto" or launched_rank(self._environ) > 0

    def _count(self) -> JobNodes | None:
        ranks = self._context.comm.size if self._context.comm else 1
        return count_nodes(self._environ, ranks, self._read_hosts())

    def _read_hosts(self) -> list[str]:
        """Return the lines of the file ``PBS_NODEFILE``; [] if there is none."""
        path = self._environ.get("PBS_NODEFILE", "")
        try:
            with open(path, encoding="utf-8", errors="replace") as hosts:
                return hosts.readlines()
        except (OSError, ValueError):
            return []

    def _describe(self, nodes: JobNodes) -> str:
        """Return the warning of idle nodes, with a line over all of them, or ""."""
        if nodes.used >= nodes.job:
            return ""
        comm, words = self._context.comm, find_farm_words(sys.orig_argv)
        vendor = comm.vendor if comm else find_installed_mpi(sys.prefix)
        line = line_over_all_nodes(self._environ, nodes.job, vendor, words)
        return describe_idle_nodes(nodes, line)


def find_installed_mpi(prefix: str) -> str:
    """Return the vendor of the MPI library that pip has installed; "" for none."""
    by_file = {"libmpi.so.12": "MPICH", "libmpi.so.40": "Open MPI"}
    names = (name for name in by_file if os.path.exists(f"{prefix}/lib/{name}"))
    return next((by_file[name] for name in names), "")
