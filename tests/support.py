"""What tests and the benchmark share: conditions, launchers, processes, environments.

Rules of this file: standard library only.  Nothing here kills what it was not given;
processes are told from others by the value of `TOKEN_VARIABLE` in their environment.
"""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""

TOKEN_VARIABLE = "FARM_TEST_TOKEN"
"""Its value is unique to a test, and inherited by all that the test starts."""

# ---- conditions ---------------------------------------------------------------------


def wait_until(condition: Callable[[], T], deadline: float = 30.0) -> T:
    """Return the first true value of `condition`, asked for every 10 ms.

    After `deadline` seconds: AssertionError, with its last value.
    """
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not true within {deadline} s; last: {value!r}")
        time.sleep(0.01)
    return value


ROUNDS = 20


def try_rounds(attempt: Callable[[int], T | None]) -> T:
    """Return what the first round gives that no stall of the machine has spoilt.

    `attempt` gets the number of its round.  It returns None where what it set out from
    did not hold: two signals were not close to each other, a task took longer than the
    limit that it was to stay within.
    """
    for number in range(ROUNDS):
        if (found := attempt(number)) is not None:
            return found
    raise AssertionError(f"the machine stalled in each of {ROUNDS} rounds")


# ---- environments -------------------------------------------------------------------

_OF_A_LAUNCHER = (
    "HYDI_",
    "HYDRA_",
    "MPI4PY_",
    "MPIR_",
    "MPI_LOCAL",
    "OMPI_",
    "OPAL_",
    "ORTE_",
    "PMI",
    "PRTE_",
    "SLURM_",
)
_OF_A_LOCK_AREA = ("SCRATCH", "TMP", "TMPDIR", "TEMP")
_OF_A_FARM = ("MPIFARM_", "PROC_NUMBER")
_OF_PYTEST = ("PYTEST_", "PYTHON")


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what would make a farm another farm than in a new login.

    Gone are: what launchers set, what chooses a lock area, what a farm or pytest sets.
    """
    prefixes = _OF_A_LAUNCHER + _OF_A_FARM + _OF_PYTEST
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(prefixes) and name not in _OF_A_LOCK_AREA
    }


# ---- launchers ----------------------------------------------------------------------

# The Makefile has the same variables, and why.
OPENMPI_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_mtl": "^ofi",
    "OMPI_MCA_btl": "^ofi",
}


def find_plain_python(version: str) -> Path | None:
    """The Python of the environment that has this PyTaskFarmer, if there is one."""
    default = ROOT / ".venvs" / f"ptf-{version}" / "bin" / "python"
    python = Path(os.environ.get(plain_variable(version)) or default)
    return python if (python.parent / "pytaskfarmer.py").exists() else None


def plain_variable(version: str) -> str:
    """The variable that names that Python."""
    return "MPIFARM_TEST_PTF_" + version.replace(".", "_")


def plain_missing(version: str) -> str:
    """Why a test that wants it is skipped."""
    return f"no PyTaskFarmer {version}: set {plain_variable(version)}, or use make test"


def make_bare_python(directory: Path) -> Path:
    """Make an environment with the MPI of this one, and without mpifarm."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", directory], check=True
    )
    packages = sysconfig.get_path("purelib", vars={"base": str(directory)})
    for name in ("mpi4py", "filelock"):
        origin = Path(sysconfig.get_path("purelib"), name)
        Path(packages, name).symlink_to(origin)
    for library in Path(sys.prefix, "lib").iterdir():
        if not library.name.startswith("python"):
            (directory / "lib" / library.name).symlink_to(library)
    return directory / "bin" / "python"


class Launch(NamedTuple):
    """A command line under a launcher, and its whole environment."""

    argv: list[str]
    env: dict[str, str]


@dataclass(frozen=True)
class Launcher:
    """An ``mpirun``: its name as users know it, its path, its options, its variables.

    A call puts a command under it: ``launcher(env, 4, "python", "-m", "mpifarm")``.
    """

    mpi: str
    path: str
    options: tuple[str, ...]
    variables: Mapping[str, str]

    def __call__(self, env: Mapping[str, str], ranks: int, *args: str) -> Launch:
        argv = [self.path, *self.options, "-n", str(ranks), *args]
        return Launch(argv, {**env, **self.variables})


_OPENMPI_OPTIONS = ("--oversubscribe", "--bind-to", "none")


def find_launcher(environment: str | Path = sys.prefix) -> Launcher | None:
    """The launcher of the MPI wheel in a virtual environment: the running one."""
    programs = Path(environment, "bin")
    if (programs / "mpiexec.hydra").exists():
        return Launcher("MPICH", str(programs / "mpiexec"), (), {})
    if (programs / "prterun").exists():
        path = str(programs / "mpirun")
        return Launcher("Open MPI", path, _OPENMPI_OPTIONS, OPENMPI_ENVIRONMENT)
    return None


def find_debian_openmpi() -> Launcher | None:
    """Debian's own Open MPI, which mpi4py's wheel loads when told so."""
    path = shutil.which("mpirun.openmpi", path="/usr/bin")
    library = next(Path("/usr/lib").glob("*-linux-gnu/libmpi.so.40"), None)
    if path is None or library is None:
        return None
    variables = {**OPENMPI_ENVIRONMENT, "MPI4PY_LIBMPI": str(library)}
    return Launcher("Debian's Open MPI", path, _OPENMPI_OPTIONS, variables)


# ---- processes ----------------------------------------------------------------------


class Process(NamedTuple):
    """A process as /proc shows it."""

    pid: int
    command: str
    """Its arguments, joined by blanks."""


def _read(path: Path) -> bytes:
    """The file's bytes; none where the process is gone or another user's."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    return _letter_of(pid) not in (b"", b"Z", b"X")


def is_suspended(pid: int) -> bool:
    """Whether a STOP has reached the process."""
    return _letter_of(pid) == b"T"


def is_asleep(pid: int) -> bool:
    """Whether the process waits for something other than a disk."""
    return _letter_of(pid) == b"S"


def _letter_of(pid: int) -> bytes:
    """Its letter in /proc; empty where the process is gone."""
    return _read(Path(f"/proc/{pid}/stat")).rpartition(b") ")[2][:1]


def find_pids(token: str) -> Iterator[int]:
    """Pids of the processes that carry `token`, this one apart."""
    entry = f"{TOKEN_VARIABLE}={token}".encode()
    for directory in Path("/proc").iterdir():
        pid = int(directory.name) if directory.name.isdigit() else os.getpid()
        if pid != os.getpid() and entry in _environment(directory).split(b"\0"):
            yield pid


def _environment(directory: Path) -> bytes:
    """What the process got; empty for a zombie, which is no survivor.

    In the middle of an exec there is none for a moment, and no process may be missed
    for that; a thread of the kernel, which never has one, has no program either.
    """
    environment = b""
    for _ in range(50):
        environment = _read(directory / "environ")
        if environment or not is_running(int(directory.name)):
            break
        try:
            os.readlink(directory / "exe")
        except OSError:
            break
        time.sleep(0.001)
    return environment


def survivors(token: str) -> list[Process]:
    """The living processes that carry `token`: commands, workers, ranks, launchers."""
    return [
        Process(pid, _read(Path(f"/proc/{pid}/cmdline")).replace(b"\0", b" ").decode())
        for pid in find_pids(token)
    ]


def kill_survivors(token: str) -> None:
    """Kill what carries `token`, until nothing does: a dying farm may start more."""

    def killed() -> bool:
        pids = list(find_pids(token))
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    wait_until(killed)


class Child:
    """A process that a test has started, in a session of its own.

    Its stdout and stderr go to the file `output`: nobody has to read a pipe, and
    whoever holds it open holds up nobody.
    """

    def __init__(self, launch: Launch, cwd: Path, output: Path) -> None:
        self.output = output
        with output.open("wb") as out:
            self.process = subprocess.Popen(
                launch.argv,
                env=launch.env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="backslashreplace")

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self, deadline: float = 60.0) -> int:
        """Its exit status, -n for signal n.

        After `deadline` seconds: AssertionError, with what it has printed.
        """
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            message = f"still runs after {deadline} s; it printed:\n{self.text()}"
            raise AssertionError(message) from None

    def send_signal(self, signum: int) -> None:
        """To this process only, not to its group."""
        self.process.send_signal(signum)

    def end(self) -> None:
        """Kill its process group, if it still runs."""
        if not self.has_ended():
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


class Processes:
    """Starts processes in sessions of their own: ``start(argv, env=..., cwd=...)``.

    Takes a `Launch` as well.  `env` is the whole environment, `environment` when there
    is none; all must have the same token.  What they print goes to ``output-N.txt``
    in the directory.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.children: list[Child] = []
        self._directory = directory
        self._environment = environment

    def __call__(
        self,
        command: Launch | list[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Child:
        if not isinstance(command, Launch):
            command = Launch(command, dict(self._environment if env is None else env))
        output = self._directory / f"output-{len(self.children)}.txt"
        self.children.append(Child(command, cwd or self._directory, output))
        return self.children[-1]

    def end(self) -> None:
        """End them and all that carries their token: ranks have their own sessions."""
        for child in self.children:
            child.end()
        kill_survivors(self._environment[TOKEN_VARIABLE])


def environment_of(pid: int) -> list[bytes]:
    """The entries with which a process was started; none where it is gone."""
    return _read(Path(f"/proc/{pid}/environ")).split(b"\0")


def snapshot(directory: Path, *, but: Iterable[str] = ()) -> dict[str, object]:
    """Every path below a directory, with what would tell that it was touched."""
    left_out = {directory / name for name in but}
    return {
        str(path.relative_to(directory)): _state_of(path)
        for path in [directory, *directory.rglob("*")]
        if path not in left_out
    }


def _state_of(path: Path) -> object:
    status = path.lstat()
    content = path.read_bytes() if path.is_file() else None
    return (
        status.st_mode,
        status.st_ino,
        content,
        status.st_mtime_ns if content is not None else None,
    )
