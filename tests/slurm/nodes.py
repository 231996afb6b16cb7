"""Nodes of the test cluster: which a job has, how one dies and comes back.

Rules of this file: what is killed are processes of the test cluster, each by its pid.
"""

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.farm_driver import send_signal
from tests.slurm.batch import DEADLINE, Job, Slurm
from tests.support import TOKEN_VARIABLE, is_running, wait_until


def nodes_of(slurm: Slurm, job: Job) -> list[str]:
    """The names of the job's nodes; the batch script runs on the first."""
    names = job.fields()["NodeList"]
    return slurm.ask("scontrol", "show", "hostnames", names).split()


def set_state(slurm: Slurm, node: str, state: str) -> None:
    """Set the state of a node as an administrator does."""
    change = (f"NodeName={node}", f"State={state}", "Reason=test")
    slurm.ask("scontrol", "update", *change)


class Daemon:
    """The slurmd of a node; ended by the pid in its own file."""

    def __init__(self, slurm: Slurm, node: str) -> None:
        self._slurm = slurm
        self._node = node
        self._conf = Path(slurm.environment["SLURM_CONF"])

    def kill(self) -> None:
        """End the slurmd, and nothing that it has started."""
        pid = int((self._conf.parent / f"slurmd.{self._node}.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid))

    def kill_steps(self) -> None:
        """End all that runs on the node, in one moment, until nothing is left."""
        while pids := self._find_steps():
            send_signal(pids, signal.SIGKILL)

    def start(self) -> None:
        """It outlives the test, so it must not carry its token."""
        environment = dict(self._slurm.environment)
        del environment[TOKEN_VARIABLE]
        path = os.pathsep.join([environment["PATH"], "/usr/sbin"])
        program = shutil.which("slurmd", path=path) or "slurmd"
        clean = Slurm(environment, self._slurm.directory)
        clean.ask(program, "-f", str(self._conf), "-N", self._node)

    def _find_steps(self) -> list[int]:
        """The steps of the node, and all that these have started."""
        spool = str(self._conf.parent / "spool" / self._node)
        parents = {pid: parent for pid in _list_pids() if (parent := _parent_of(pid))}
        found = {pid for pid in parents if _is_step(pid, spool)}
        while more := {p for p, parent in parents.items() if parent in found} - found:
            found |= more
        return [pid for pid in found if is_running(pid)]


def _list_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _parent_of(pid: int) -> int:
    """The parent; 0 if the process is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(stat.rpartition(b") ")[2].split()[1])


def _is_step(pid: int, spool: str) -> bool:
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        return name == "slurmstepd" and os.readlink(f"/proc/{pid}/cwd") == spool
    except OSError:
        return False


def kill_nodes(slurm: Slurm, nodes: Sequence[str]) -> None:
    """Let nodes die with all that runs there; they are noticed, and come back."""
    for node in nodes:
        Daemon(slurm, node).kill()
        Daemon(slurm, node).kill_steps()
        set_state(slurm, node, "DOWN")  # as Slurm itself does after SlurmdTimeout
    for node in nodes:
        Daemon(slurm, node).start()
    for node in nodes:
        wait_until(lambda node=node: _is_back(slurm, node), DEADLINE)  # type: ignore[misc]


def _is_back(slurm: Slurm, node: str) -> bool:
    """Return whether the node takes jobs; it may come back by itself."""
    state = slurm.ask("sinfo", "-h", "-p", "debug", "-n", node, "-o", "%t")
    if state == "down":
        set_state(slurm, node, "RESUME")
    return state in ("idle", "mix", "alloc")
