"""mpifarm beside the limit, beside its peers, and beside its goals.

    python -m tests.bench.bench [--full] [--only SECTION ...] [--out FILE]

Rules of this file: standard library only; what is measured stands in `measurements`,
who against whom in `contenders`.  Ratios are taken within a round, where all contenders
run one after the other, and of them the median: rates of two minutes can't be compared.
With --out the results are added to a file, from which `tests.bench.report` makes the
table and the plot.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import mpifarm
from tests.bench.contenders import find_openmpi, find_peer, first_line_of
from tests.bench.goals import table_of_goals, table_of_granularity, table_of_rates
from tests.bench.measurements import FULL, ONLY_IN_FULL, SECTIONS, SHORT, Bench, Plan
from tests.bench.results import Results, load, save
from tests.bench.rounds import Scratch
from tests.support import find_plain_python

TMPFS = Path("/dev/shm")
DISK = Path("/var/tmp")


# ---- machine and versions -----------------------------------------------------------


def describe_machine() -> dict[str, str]:
    return {
        "CPUs": f"{os.cpu_count()} x {_cpu_model()}",
        "memory": f"{_memory_bytes() / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": platform.python_version(),
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return models[0] if models else platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe_versions() -> dict[str, str]:
    """Of all that takes part, as each environment's own Python knows them."""
    here = ("mpi4py", "mpich", "filelock")
    found = {"mpifarm": mpifarm.__version__}
    found |= dict(_versions_in(sys.executable, here))
    openmpi = find_openmpi()
    if not isinstance(openmpi, str):
        found |= dict(_versions_in(openmpi.python, ("openmpi",)))
    plain = find_plain_python("0.1.0")
    if plain is not None:
        found |= dict(_versions_in(str(plain), ("PyTaskFarmer",)))
    for package in ("hyperqueue", "hypershell", "disbatch"):
        python = find_peer(package, "python")
        if python is not None:
            found |= dict(_versions_in(str(python), (package,)))
    for program in ("xargs", "parallel"):
        if shutil.which(program):
            found[program] = first_line_of([program, "--version"]).split()[-1]
    return found


def _versions_in(python: str, packages: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    code = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    for package in packages:
        said = first_line_of([python, "-c", code, package])
        if said:
            yield package, said


# ---- places -------------------------------------------------------------------------


def is_in_memory(folder: Path) -> bool:
    """Whether the folder is on a tmpfs, as ``df`` says."""
    done = subprocess.run(
        ["df", "--output=fstype", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()[-1] in {"tmpfs", "ramfs"}


def create_scratch(disk: Path, places: ExitStack) -> Scratch:
    """Folders that are gone when `places` is closed."""
    if not TMPFS.is_dir():
        raise SystemExit(f"no {TMPFS}: rates on a disk say more about the disk")

    def create(parent: Path) -> Path:
        made = tempfile.TemporaryDirectory(prefix="mpifarm-bench-", dir=parent)
        return Path(places.enter_context(made))

    on_disk = None if is_in_memory(disk) else create(disk)
    return Scratch(create(TMPFS), on_disk)


# ---- the command --------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--full", action="store_true", help="the amounts of the goals")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION")
    parser.add_argument("--rounds", type=int, help="instead of 3, or 5 with --full")
    parser.add_argument("--tasks", type=int, help="instead of 10000, or 20000")
    parser.add_argument("--starts", type=int, help="instead of 10, or 20")
    parser.add_argument("--disk", type=Path, default=DISK, help=f"default: {DISK}")
    parser.add_argument("--out", type=Path, help="add the results to this JSON file")
    parser.epilog = "sections: " + ", ".join(SECTIONS)
    return parser.parse_args()


def choose_plan(args: argparse.Namespace) -> Plan:
    plan = FULL if args.full else SHORT
    asked = {name: getattr(args, name) for name in ("rounds", "tasks", "starts")}
    given = {name: value for name, value in asked.items() if value is not None}
    return replace(plan, **given)


def note_amounts(plan: Plan, results: Results) -> None:
    """Raises SystemExit where the results so far are of other amounts."""
    amounts = json.loads(json.dumps(asdict(plan)))
    for repeated in ("rounds", "starts", "busy_runs"):
        del amounts[repeated]
    if results.amounts not in ({}, amounts):
        raise SystemExit("--out names a file of other amounts (--full, --tasks)")
    results.amounts = amounts


def measure(args: argparse.Namespace, results: Results) -> None:
    plan = choose_plan(args)
    note_amounts(plan, results)
    default = [name for name in SECTIONS if args.full or name not in ONLY_IN_FULL]
    with ExitStack() as places:
        bench = Bench(plan, create_scratch(args.disk, places), results)
        for name in args.only or default:
            print(f"\n{name}", flush=True)
            SECTIONS[name](bench)
            if args.out:
                save(results, args.out)


def note_circumstances(results: Results) -> None:
    results.machine = describe_machine()
    results.versions = describe_versions()
    command = shlex.join(["python", "-m", "tests.bench.bench", *sys.argv[1:]])
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    results.parts.append({"date": date, "command": command})
    for name, text in {**results.machine, **results.versions}.items():
        print(f"{name}: {text}")


def clean_up_at_term() -> None:
    """Leave by an exception: farms are ended and folders removed on its way."""
    signal.signal(signal.SIGTERM, lambda _signum, _frame: sys.exit(143))


def main() -> None:
    args = parse_arguments()
    clean_up_at_term()
    results = load(args.out) if args.out else Results()
    began = time.monotonic()
    note_circumstances(results)
    measure(args, results)
    print()
    print("\n".join(table_of_rates(results)))
    print()
    print("\n".join(table_of_granularity(results)))
    print()
    print("\n".join(table_of_goals(results)))
    print(f"\nall that took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
