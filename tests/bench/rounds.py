"""Contenders against each other: each once in a round, one after the other.

Rules of this file: standard library only.  Each run has an empty folder, which is also
its HOME and TMPDIR; whole programs are timed, start and end included.  A run that fails
is told, and leaves a hole in its round.
"""

import os
import resource
import shutil
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.contenders import DISPATCH_INI, Contender
from tests.bench.results import Results, Run
from tests.support import ROOT, TOKEN_VARIABLE, clean_environment, kill_survivors

LONGEST_SECONDS = 300.0
"""A contender that takes longer is killed, and counts as failed."""


@dataclass(frozen=True)
class Scratch:
    """Empty places: on a tmpfs, and on a disk where one is known."""

    memory: Path
    disk: Path | None

    def folder_of(self, contender: Contender) -> Path:
        place = self.disk if contender.on_disk else self.memory
        assert place is not None
        return place / "run"


def environment(folder: Path) -> dict[str, str]:
    """That of a new login whose home is the folder."""
    env = clean_environment(os.environ)
    # an installed package is found without; a checkout that isn't installed needs it
    home = {"HOME": str(folder), "TMPDIR": str(folder)}
    return {**env, **home, "PYTHONPATH": str(ROOT)}


def prepare(contender: Contender, folder: Path) -> None:
    """What a contender finds in its folder."""
    folder.mkdir()
    (folder / "tasks.txt").write_text(f"{contender.line}\n" * contender.tasks)
    numbers = "".join(f"{number}\n" for number in range(contender.tasks))
    (folder / "numbers.txt").write_text(numbers)
    (folder / "nothing.ini").write_text(DISPATCH_INI)


def run_once(contender: Contender, folder: Path) -> Run | None:
    """None when it didn't do what it should; the caller removes the folder."""
    prepare(contender, folder)
    token = uuid.uuid4().hex
    env = {**environment(folder), **contender.variables, TOKEN_VARIABLE: token}
    said = folder / "said.txt"
    with said.open("wb") as out, (folder / contender.stdin).open("rb") as stdin:
        cpu, began = _cpu_of_children(), time.perf_counter()
        process = subprocess.Popen(
            contender.argv,
            cwd=folder,
            env=env,
            stdin=stdin,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | str = process.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            status = f"none within {LONGEST_SECONDS:g} s"
        finally:
            seconds = time.perf_counter() - began
            kill_survivors(token)
            process.wait()
    used = _cpu_of_children() - cpu
    if status == 0 and _is_done(contender, folder):
        return Run(contender.tasks, seconds, used)
    tail = said.read_text(errors="replace")[-500:]
    print(f"{contender.name}: exit status {status}; it said:\n{tail}")
    return None


def _is_done(contender: Contender, folder: Path) -> bool:
    try:
        return contender.is_done(folder, contender.tasks)
    except (OSError, ValueError):  # not even the file that would tell
        return False


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def choose(asked: Sequence[Contender | str], results: Results) -> list[Contender]:
    """Those that can run; a word on each of the others."""
    chosen: list[Contender] = []
    for contender in asked:
        if isinstance(contender, Contender):
            chosen.append(contender)
            results.commands[contender.name] = contender.command
        else:
            print(f"skipped  {contender}")
            results.skipped[contender.partition(":")[0]] = contender
    return chosen


def run_rounds(
    section: str,
    asked: Sequence[Contender | str],
    rounds: int,
    scratch: Scratch,
    results: Results,
) -> None:
    """Each contender once in each round; a round is in the results when it is over."""
    contenders = choose(asked, results)
    for number in range(rounds):
        print(f"{section}: round {number + 1} of {rounds}", flush=True)
        runs: dict[str, Run] = {}
        # The other way round each second time: a machine may get slower meanwhile.
        direction = -1 if len(results.rounds.get(section, [])) % 2 else 1
        for contender in contenders[::direction]:
            folder = scratch.folder_of(contender)
            try:
                run = run_once(contender, folder)
            finally:
                shutil.rmtree(folder)
            if run is not None:
                runs[contender.name] = run
                print(f"  {contender.name:44}{run.rate:>10.0f}/s", flush=True)
        results.add_round(section, runs)
