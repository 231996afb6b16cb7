"""A batch system of the tests' own, which a script starts and ends on this machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support import clean_environment


def find_lack(programs: Sequence[str], system: str, wants_mpich: str) -> str:
    """What tests of a batch system want and this machine has not; "" if it has all.

    `system` is its name with the packages that bring it; `wants_mpich` what wants that.
    """
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [name for name in programs if not shutil.which(name, path=path)]
    if missing:
        return f"no {system}: no {', '.join(missing)}"
    if not Path(sys.prefix, "bin", "mpiexec.hydra").exists():
        return f"{wants_mpich} wants MPICH, which is not in {sys.prefix}"
    return ""


@contextmanager
def hold(
    script: Path, errors: Path, begin: str, *words: str | int, deadline: float = 60.0
) -> Iterator[dict[str, str]]:
    """Run a script that holds a cluster; yield the variables that it exports.

    They stand in its first line, of which `begin` is the first one.  The cluster ends
    with the standard input of the script, within `deadline` seconds.
    """
    with errors.open("wb") as stderr:
        cluster = subprocess.Popen(
            [str(script), "hold", *map(str, words)],
            env=clean_environment(os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    line = cluster.stdout.readline()
    assert line.startswith(f"export {begin}="), errors.read_text()
    yield dict(word.split("=", 1) for word in line.split()[1:])
    cluster.stdin.close()
    assert cluster.wait(deadline) == 0, errors.read_text()
    cluster.stdout.close()
