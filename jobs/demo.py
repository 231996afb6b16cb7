"""The demo: farm 201 real commands over the ranks of one ``mpirun``.

For each of many modules of Python's standard library, compress it, count its lines and
check its syntax.  The report at the end is read from the workdir.

    python jobs/demo.py [--ranks 4] [--modules 67] [folder]
"""

import argparse
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from shlex import join, quote


def find_modules(count: int) -> list[Path]:
    """Return the `count` largest modules of the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    return sorted(library.glob("*.py"), key=lambda m: (-m.stat().st_size, m))[:count]


def commands(module: Path, folder: Path) -> Iterator[str]:
    """Yield three commands for a module.  The first and the last need a shell."""
    source, compressed = quote(str(module)), folder / "gz" / f"{module.name}.gz"
    yield f"gzip -9 -c {source} > {quote(str(compressed))}"
    yield f"wc -lwc {source}"
    bytecode = quote(str(folder / "bytecode"))
    python = quote(sys.executable)
    yield f"PYTHONPYCACHEPREFIX={bytecode} {python} -B -m py_compile {source}"


def write_tasklist(modules: list[Path], folder: Path) -> Path:
    """Replace the folder by an empty one with a tasklist.  Return the tasklist."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "gz").mkdir(parents=True)
    tasklist = folder / "tasks.txt"
    lines = [line for module in modules for line in commands(module, folder)]
    tasklist.write_text("# three commands for each module\n" + "\n".join(lines) + "\n")
    return tasklist


def farm(tasklist: Path, ranks: int) -> int:
    """Run the tasklist under this environment's MPI.  Return mpirun's exit status."""
    mpirun = shutil.which("mpirun", path=Path(sys.executable).parent) or "mpirun"
    program = [sys.executable, "-m", "mpifarm", str(tasklist), "-n", "2"]
    command = [mpirun, "-n", str(ranks), *program]
    print("$", join(command), flush=True)
    return subprocess.run(command, check=False).returncode


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file, none if it does not exist."""
    return path.read_text().splitlines() if path.exists() else []


def total_size(paths: list[Path]) -> int:
    """Return the size of all files in bytes."""
    return sum(path.stat().st_size for path in paths)


def report(modules: list[Path], folder: Path, workdir: Path) -> None:
    """Print the numbers of tasks and results, and the places of the outputs."""
    tasks = len(lines_of(folder / "tasks.txt")) - 1
    finished, failed = lines_of(workdir / "finished"), lines_of(workdir / "failed")
    counted = [line.split(" ", 1)[0] for line in finished if " wc -lwc " in line]
    logs = {taskid: workdir / "logs" / f"log_{taskid}" for taskid in counted}
    lines = sum(int(log.read_text().split()[0]) for log in logs.values())
    compressed = list((folder / "gz").iterdir())
    bytecode = list((folder / "bytecode").rglob("*.pyc"))
    before, after = total_size(modules), total_size(compressed)
    print(f"""
commands    {len(finished)} finished, {len(failed)} failed, of {tasks}
counted     {lines} lines in {len(counted)} modules
compressed  {before} bytes to {after} in {len(compressed)} files: {folder / "gz"}
compiled    {len(bytecode)} modules, {total_size(bytecode)} bytes: {folder / "bytecode"}
workdir     {workdir}: finished, failed, logs, result.json, timeline.json""")
    for taskid, log in list(logs.items())[:1]:
        print(f"for example {log}: {log.read_text().strip()}  (task {taskid})")


def main() -> int:
    """Run the demo.  Return mpirun's exit status."""
    parser = argparse.ArgumentParser(description="the demo of mpifarm")
    parser.add_argument("folder", nargs="?", default="demo", type=Path)
    parser.add_argument("--ranks", default=4, type=int)
    parser.add_argument("--modules", default=67, type=int)
    args = parser.parse_args()
    modules = find_modules(args.modules)
    tasklist = write_tasklist(modules, args.folder)
    status = farm(tasklist, args.ranks)
    report(modules, args.folder, tasklist.with_name("tasks.txt_workdir"))
    return status


if __name__ == "__main__":
    sys.exit(main())
