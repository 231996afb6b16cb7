"""What a rank opens and reads from its start to its end, and whose files these are.

    python -m tests.bench.startup [--python PYTHON] [--options=-I] [--rank 1] [--list]

A thousand ranks read all that at once from one shared file system, so it is counted and
not timed: each rank of a small farm runs under strace.  What its fork server and its
workers open counts, what the commands open doesn't.

Rules of this file: standard library and strace only.  The farm runs in the environment
of ``--python``, with mpirun from beside it; pyc files are read, never written.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from tests.support import (
    OPENMPI_ENVIRONMENT,
    clean_environment,
)

RANKS = 2
TASKS = 8
CALLS = "%file,read,pread64,getdents64,mmap,close,dup,clone,clone3,fork,vfork"

ASK_PATHS = """
import os, sys, sysconfig, importlib.util
spec = importlib.util.find_spec("mpifarm")
print(os.path.dirname(spec.origin)); print(sys.prefix); print(sys.base_prefix)
"""

UNDER_STRACE = (
    'exec strace -ff -s 500 -e trace="$1" '
    '-o "$2.${PMI_RANK:-$OMPI_COMM_WORLD_RANK}" "${@:3}"'
)


# ---- one line of strace -------------------------------------------------------------

_LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|0x[0-9a-f]+|\?)")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


class Call(NamedTuple):
    """A system call that has returned."""

    name: str
    arguments: str
    result: int

    @property
    def path(self) -> str | None:
        """The first string among the arguments."""
        found = _STRING.search(self.arguments)
        return found[1] if found else None

    @property
    def descriptor(self) -> int:
        """The first argument, of calls that have one there."""
        return int(self.arguments.partition(",")[0])


def parse_call(line: str) -> Call | None:
    """None for signals, exits and calls that never returned."""
    found = _LINE.match(line)
    if found is None or found[3] == "?":
        return None
    return Call(found[1], found[2], int(found[3], 0))


# ---- whose file ---------------------------------------------------------------------


@dataclass(frozen=True)
class Owners:
    """Which directories belong to what."""

    package: str
    prefix: str
    base_prefix: str
    place: str

    def find(self, path: str) -> str:
        """Who has brought the file with it; a relative path is one of the farm's."""
        if path.startswith(self.place) or not path.startswith("/"):
            return "the farm"
        return next((name for name, begins in self._table() if begins(path)), "system")

    def _table(self) -> Iterator[tuple[str, Callable[[str], bool]]]:
        """The first that fits."""
        yield "kernel", lambda path: path.startswith(("/proc", "/sys", "/dev/"))
        yield "mpifarm", lambda path: path.startswith(self.package)
        yield "mpi4py", lambda path: "/mpi4py" in path
        yield "other packages", lambda path: "/site-packages" in path
        yield "Python", lambda path: "python3" in path or path.endswith("pyvenv.cfg")
        yield "MPI library", lambda path: path.startswith(self.prefix + "/lib/")
        yield "Python", lambda path: path.startswith((self.base_prefix, self.prefix))
        yield "MPI library", lambda path: "/libmpi" in path or "openmpi" in path


# ---- counting -----------------------------------------------------------------------


@dataclass
class Count:
    """What was asked of the files of one owner."""

    opened: int = 0
    looked: int = 0
    """Questions for a path: stat and the like, and opens of what isn't there."""
    read: int = 0
    """Bytes."""
    mapped: int = 0
    """Bytes; of these, only what is touched is read."""

    def __iadd__(self, other: "Count") -> Self:
        self.opened += other.opened
        self.looked += other.looked
        self.read += other.read
        self.mapped += other.mapped
        return self


@dataclass
class Tracer:
    """Follows one process, from its birth."""

    owners: Owners
    open: dict[int, str] = field(default_factory=dict)
    counts: defaultdict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    paths: Counter[str] = field(default_factory=Counter)
    """Opened, and how often."""

    def note(self, call: Call) -> None:
        if call.name == "openat":
            self._note_open(call)
        elif call.name in {"read", "pread64"}:
            path = self.open.get(call.descriptor)
            if path is not None:
                self._count(path).read += max(0, call.result)
        elif call.name == "mmap":
            self._note_map(call)
        elif call.name == "close":
            self.open.pop(call.descriptor, None)
        elif call.path and call.name not in {"execve", "unlink", "rename", "mkdir"}:
            self._count(call.path).looked += 1

    def _note_open(self, call: Call) -> None:
        path = call.path or ""
        if call.result < 0:
            self._count(path).looked += 1
            return
        self.open[call.result] = path
        self.paths[path] += 1
        self._count(path).opened += 1

    def _note_map(self, call: Call) -> None:
        _, size, _, _, descriptor, _ = call.arguments.split(", ")
        if (path := self.open.get(int(descriptor))) is not None:
            self._count(path).mapped += int(size)

    def _count(self, path: str) -> Count:
        return self.counts[self.owners.find(path)]


def rank_processes(traces: Path, rank: int) -> Iterator[list[Call]]:
    """What each process of a rank has called; the commands are left out."""
    files = sorted(traces.glob(f"trace.{rank}.*"), key=lambda path: path.stat().st_size)
    first = files[-1]  # the rank's own
    for path in files:
        lines = path.read_text(errors="replace").splitlines()
        calls = [call for line in lines if (call := parse_call(line))]
        if path == first or not any(call.name == "execve" for call in calls):
            yield calls


def count_rank(traces: Path, rank: int, owners: Owners) -> Tracer:
    """All processes of a rank in one."""
    total = Tracer(owners)
    for calls in rank_processes(traces, rank):
        tracer = Tracer(owners)
        for call in calls:
            tracer.note(call)
        for owner, count in tracer.counts.items():
            total.counts[owner] += count
        total.paths += tracer.paths
    return total


# ---- the farm -----------------------------------------------------------------------


def ask_owners(
    python: str, options: list[str], place: Path, env: dict[str, str]
) -> Owners:
    argv = [python, *options, "-c", ASK_PATHS]
    told = subprocess.run(
        argv, env=env, cwd=place, check=True, capture_output=True, text=True
    )
    package, prefix, base_prefix = told.stdout.splitlines()
    return Owners(package, prefix, base_prefix, str(place))


def create_environment() -> dict[str, str]:
    env = {**clean_environment(os.environ), **OPENMPI_ENVIRONMENT}
    if "PYTHONPATH" in os.environ:
        env["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return {**env, "PYTHONDONTWRITEBYTECODE": "1"}


def run_farm(python: str, options: list[str], place: Path, env: dict[str, str]) -> None:
    (place / "tasks.txt").write_text("sleep 0.05\n" * TASKS)
    launcher = str(Path(python).parent / "mpiexec")
    traced = ["bash", "-c", UNDER_STRACE, "bash", CALLS, str(place / "trace")]
    farm = [python, *options, "-m", "mpifarm", "tasks.txt", "-n", "2"]
    done = subprocess.run(
        [launcher, "-n", str(RANKS), *traced, *farm],
        env=env,
        cwd=place,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"the farm ended with {done.returncode}:\n{done.stderr}")


def print_counts(tracer: Tracer) -> None:
    print(f"{'':16}{'opened':>10}{'looked for':>12}{'kB read':>10}{'kB mapped':>12}")
    total = Count()
    for owner, count in sorted(tracer.counts.items(), key=lambda item: -item[1].opened):
        print_row(owner, count)
        if owner != "kernel":
            total += count
    print_row("but the kernel", total)


def print_row(name: str, count: Count) -> None:
    print(
        f"{name:16}{count.opened:10}{count.looked:12}"
        f"{count.read // 1000:10}{count.mapped // 1000:12}"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="that of the farm")
    parser.add_argument("--options", default="", help="for that Python, as in -I")
    parser.add_argument("--rank", type=int, default=1, help="0 or 1; default: 1")
    parser.add_argument("--list", action="store_true", help="name the files, too")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if shutil.which("strace") is None:
        raise SystemExit("there is no strace here: install it")
    options = args.options.split()
    with tempfile.TemporaryDirectory(prefix="mpifarm-startup-") as directory:
        place, env = Path(directory), create_environment()
        owners = ask_owners(args.python, options, place, env)
        run_farm(args.python, options, place, env)
        tracer = count_rank(place, args.rank, owners)
    print_counts(tracer)
    if args.list:
        for path, times in sorted(tracer.paths.items()):
            print(f"{times:4} {owners.find(path):16} {path}")


if __name__ == "__main__":
    main()
