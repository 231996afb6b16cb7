"""What ``mpifarm submit`` says of a job.

Rules of this file: words only; three lines before a job is submitted, its id and the
commands for it after that.
"""

import json
import os
import shlex
from collections.abc import Iterator
from typing import Final

from mpifarm.commands.sink import write_all
from mpifarm.commands.submit_farm import FarmOfJob
from mpifarm.model.durations import clock_of
from mpifarm.model.settings import Settings
from mpifarm.model.wording import counted
from mpifarm.store.target import SUFFIX, find_target_of, words_of
from mpifarm.submit.request import GoingOn, JobRequest, Launcher
from mpifarm.submit.systems import JobId, System
from mpifarm.system.console import Console


class Teller:
    """Says what is submitted, as sentences or as a JSON object.

    `farm` is the farm of the job.
    """

    def __init__(self, console: Console, farm: FarmOfJob, *, as_json: bool) -> None:
        self._console = console
        self._farm = farm
        self._as_json = as_json

    def begin(self, system: System, request: JobRequest) -> None:
        """Say in three lines what is going to be submitted."""
        if self._as_json:
            return
        for line in describe(system, request, self._farm):
            self._console.print_line(line)

    def end(self, system: System, request: JobRequest, job: JobId) -> None:
        """Say the job's id, and the commands for it."""
        commands = system.find_commands(job, request)
        status = name_command("status", self._farm.settings)
        assert request.source is not None
        if self._as_json:
            record = {
                "job": job.number,
                "cluster": job.cluster or None,
                "scheduler": system.ending,
                "script": request.source.path,
                "tasks": self._farm.tasks,
                "left": self._farm.left,
                "status": status,
                "log": commands.log,
                "cancel": commands.cancel,
            }
            write_all([json.dumps(record).encode("ascii"), b"\n"])
            return
        on = f" on {job.cluster}" if job.cluster else ""
        self._console.print_text(
            f"job {job.number}{on} is submitted\n"
            f"  status:  {status}\n"
            f"  log:     {commands.log}\n"
            f"  cancel:  {commands.cancel}\n"
        )


_OF_A_NODE: Final = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - they are told of
"""Directories that each node has for itself on most clusters."""


def warn_of_own_directory(settings: Settings, here: str) -> str:
    """Return the warning of a list, a workdir or a directory that a job won't see."""
    for path in (settings.tasklist, settings.workdir, settings.chdir or here):
        real = os.path.realpath(os.path.join(here, path))
        for own in _OF_A_NODE:
            if real == own or real.startswith(f"{own}/"):
                return (
                    f"WARNING: {path} is in {own}, which on most clusters each node has"
                    " for itself: unless it is shared here, put the list and its"
                    " workdir elsewhere, else the job will not find them"
                )
    return ""


def describe(system: System, request: JobRequest, farm: FarmOfJob) -> Iterator[str]:
    """Yield the three lines that say what a job is, how it ends, and where it is."""
    settings = farm.settings
    of = f"{farm.left} of " if farm.left < farm.tasks else ""
    what = f"{of}{counted(farm.tasks)} of {settings.tasklist}"
    if farm.made is not None:
        what += f", the first: {farm.made.first}"
    yield f"{describe_job(system, request)}: {what}"
    yield describe_end(request)
    assert request.source is not None
    yield f"workdir {settings.workdir}, job script {request.source.path}"


def describe_job(system: System, request: JobRequest) -> str:
    """Return a job in words: its size, its place, its time, its launcher."""
    nodes = request.nodes or 1
    on = counted(nodes, "node") if nodes > 1 else "one node"
    share = "" if request.cpus is None else f" with {counted(request.cpus, 'CPU')}"
    if request.cpus is not None and nodes > 1:
        share += " each"
    what = "one farm on"
    if request.array:
        what = f"{request.array} farms on one list, each on"
    where = f" in {request.partition}" if request.partition else ""
    by = ""
    if request.launcher is Launcher.SRUN:
        by = f", by srun --mpi={request.pmi or 'pmi2'}"
    elif request.launcher is Launcher.MPIRUN:
        by = ", by mpirun"
    supervised = ", started again if ranks die" if request.is_supervised else ""
    time = f" for {clock_of(request.seconds)} h"
    return f"{system.title}: {what} {on}{share}{where}{time}{by}{supervised}"


def describe_end(request: JobRequest) -> str:
    """Return what happens near the job's end, and while tasks are left then."""
    job, farm = ("a job", "its farm") if request.array else ("the job", "the farm")
    stops = f"{request.lead} s before {job}'s end {farm} stops and puts back what runs"
    return f"{stops}; {_AFTER_THAT[request.going_on]}"


_AFTER_THAT: Final = {
    GoingOn.REQUEUE: "the job goes back into the queue until the list is done",
    GoingOn.CHAIN: "the next job goes on until the list is done",
    GoingOn.NOT: "the same command goes on with the tasks that are left",
}


def name_command(subcommand: str, settings: Settings) -> str:
    """Return the command line of a subcommand for the list."""
    target = find_target_of(settings)
    words = words_of(target)
    if settings.workdir == settings.tasklist + SUFFIX:
        words[0] = settings.tasklist
    return shlex.join(["mpifarm", subcommand, *words])
