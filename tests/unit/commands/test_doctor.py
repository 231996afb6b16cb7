"""What the doctor says of machines that are not as they should be, and that it ends.

Rules of this file: launchers and clients of batch systems are scripts on the PATH.
"""

import errno
import json
import os
import re
import signal
import sys
import time
import tomllib
from importlib import util
from pathlib import Path
from typing import Any, cast

import pytest

from mpifarm.commands.doctor import asking, command, findings, machine, mpi
from mpifarm.commands.doctor.findings import Verdict, bad, good, note
from mpifarm.commands.selftest import storage
from mpifarm.commands.selftest.findings import broken, holds, measured, untested
from mpifarm.system import cgroups, cpus, files
from mpifarm.transport.mpi import Library
from tests.pages import read_page, take_block
from tests.support import ROOT

PAGE = read_page("doctor.md")
MPICH = Library("MPICH", "MPICH Version: 5.0.2", "/farm/lib/libmpi.so.12")
OPEN_MPI = Library("Open MPI", "Open MPI v5.0.11", "/farm/lib/libmpi.so.40")
HYDRA = "HYDRA build details:\n    Version:          5.0.2"


class Machine:
    """A machine whose programs are scripts."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs = root / "bin"
        self.programs.mkdir()
        self.environ = {"PATH": f"{self.programs}", "HOME": f"{root}"}
        monkeypatch.setenv("PATH", f"{self.programs}:/usr/bin:/bin")
        monkeypatch.setattr(sys, "prefix", str(root / "venv"))
        for name in mpi._AS_ROOT:
            monkeypatch.delenv(name.decode(), raising=False)

    def has(self, name: str, *lines: str) -> str:
        path = self.programs / name
        path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        path.chmod(0o755)
        return str(path)

    def has_mpirun(self, version: str, *sizes: int, says: str = "") -> mpi.Launcher:
        """Put an mpirun there, whose ranks see so many."""
        ranks = [f"echo mpifarm sees {size}" for size in sizes]
        path = self.has(
            "mpirun",
            f"if [ $1 = --version ]; then echo '{version}'; exit; fi",
            *ranks,
            f"echo '{says}'",
        )
        return mpi._identify(path)


@pytest.fixture
def here(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def die() -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


# ---- asking --------------------------------------------------------------------------


def test_a_program_is_asked_and_one_that_is_missing_or_hangs_is_no_answer(here):
    env = dict(os.environb)
    path = here.has("says", "echo out; echo err >&2; exit 3")
    assert asking.ask_program([path], env, 20) == ("out\nerr\n", "")
    answer = asking.ask_program(["/nowhere"], env, 20)
    assert answer == ("", "can't be started: No such file or directory")
    path = here.has("hangs", "echo begun; exec /bin/sleep 1000")
    assert asking.ask_program([path], env, 0.2) == ("", "no answer in 0.2 s")


def test_a_child_is_asked_whatever_becomes_of_it(capfd):
    def fail() -> None:
        raise OSError(5, "Input/output error")

    def hang() -> None:
        time.sleep(1000)

    def shout() -> str:
        os.write(1, b"noise")
        os.write(2, b"noise")
        return "quiet"

    assert asking.ask_child(lambda: [1, "a"], 20) == ([1, "a"], "")
    assert asking.ask_child(shout, 20) == ("quiet", "")
    assert capfd.readouterr() == ("", "")
    assert asking.ask_child(fail, 20) == (None, "[Errno 5] Input/output error")
    assert asking.ask_child(die, 20) == (None, "it dies of SIGKILL")
    assert asking.ask_child(lambda: os._exit(3), 20) == (None, "it ends with status 3")
    assert asking.ask_child(hang, 0.2) == (None, "no answer in 0.2 s")


def test_the_first_line_that_says_something_is_shown():
    text = "\n-----\n   \x1b[0m\nmpirun has  detected an attempt\n"
    assert asking.first_line(text) == "mpirun has detected an attempt"
    assert asking.first_line("--\n") == "it printed nothing"


# ---- MPI -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("mpirun (Open MPI) 5.0.11", ("Open MPI", "5.0.11")),
        ("mpirun.openmpi (OpenRTE) 4.1.4", ("Open MPI", "4.1.4")),
        (HYDRA, ("MPICH", "5.0.2")),
        (
            "Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 2023",
            ("Intel MPI", "2021.9"),
        ),
        ("mpirun, an old one", ("", "")),
    ],
)
def test_a_launcher_says_to_which_mpi_it_belongs(here, version, kind):
    launcher = here.has_mpirun(version)
    assert (launcher.kind, launcher.version) == kind


def test_ranks_that_see_each_other_are_good(here):
    finding = mpi.try_launcher(here.has_mpirun(HYDRA, 2, 2), MPICH)
    path = f"{here.programs}/mpirun"
    seen = "MPICH 5.0.2, two ranks of MPICH see each other"
    line = f"{path} -n 4 {sys.executable} -m mpifarm tasks.txt"
    assert finding == good(path, seen, line)


def test_python_is_named_as_the_user_has_to_type_it(here, tmp_path, monkeypatch):
    real = os.path.realpath(sys.executable)
    for name in ("own", "other"):
        programs = tmp_path / name / "bin"
        programs.mkdir(parents=True)
        (programs / "python").symlink_to(real)
        (programs / "python3").symlink_to(real)
    own = tmp_path / "own" / "bin"
    monkeypatch.setattr(sys, "executable", f"{own}/python3")
    monkeypatch.setenv("PATH", f"{own}:/usr/bin:/bin")
    remedy = mpi.try_launcher(here.has_mpirun(HYDRA, 2, 2), MPICH).remedy
    assert remedy.endswith("mpirun -n 4 python -m mpifarm tasks.txt")
    # Another environment comes first: its python has no mpifarm, or another one.
    monkeypatch.setenv("PATH", f"{tmp_path}/other/bin:{own}:/usr/bin:/bin")
    remedy = mpi.try_launcher(here.has_mpirun(HYDRA, 2, 2), MPICH).remedy
    assert remedy.endswith(f"mpirun -n 4 {own}/python3 -m mpifarm tasks.txt")
    here.has("srun", "echo pmi2")
    monkeypatch.setenv("PATH", f"{here.programs}:/usr/bin:/bin")
    finding = mpi.look_at_srun(MPICH, here.environ)
    line = f"srun --mpi=pmi2 -N 2 {own}/python3 -m mpifarm tasks.txt"
    assert finding.remedy == line


@pytest.mark.parametrize(
    ("has_own", "has_srun", "remedy"),
    [
        (False, False, "the launcher of /farm/lib/libmpi.so.12"),
        (False, True, "the launcher of /farm/lib/libmpi.so.12, or by srun --mpi=pmi2"),
        (True, False, "{own}, which is of the environment of this Python"),
    ],
)
def test_a_wrong_launch_is_told_with_the_launchers_that_are_here(
    here, tmp_path, has_own, has_srun, remedy
):
    own = tmp_path / "venv" / "bin" / "mpiexec"
    if has_own:
        own.parent.mkdir(parents=True)
        own.touch(0o755)
    if has_srun:
        here.has("srun")
    environ = {**here.environ, "OMPI_COMM_WORLD_SIZE": "2"}
    finding = mpi.look_at_launch(MPICH, environ)
    assert finding.verdict is Verdict.BAD
    assert finding.remedy == f"start farms by {remedy.format(own=own)}"


@pytest.mark.parametrize(
    ("sizes", "says", "told"),
    [
        ((1, 1), "", "starts ranks that don't see each other with MPICH"),
        ((2,), "", "starts ranks that don't see each other with MPICH"),
        ((), "Abort: unsupported", "starts no ranks of MPICH: Abort: unsupported"),
        ((), "", "starts no ranks of MPICH: it printed nothing"),
    ],
)
def test_ranks_that_do_not_see_each_other_are_bad(here, sizes, says, told):
    launcher = here.has_mpirun("mpirun (Open MPI) 4.1.4", *sizes, says=says)
    finding = mpi.try_launcher(launcher, MPICH)
    assert finding.verdict is Verdict.BAD
    assert finding.seen == f"Open MPI 4.1.4 {told}"
    assert finding.remedy.startswith("start farms by the launcher of /farm/lib")


def test_the_remedy_is_the_launcher_of_this_python_or_the_library_of_the_other(
    here, tmp_path
):
    launcher = here.has_mpirun("mpirun (Open MPI) 4.1.4", 1, 1)
    library = tmp_path / "lib" / "libmpi.so.40"
    library.parent.mkdir()
    library.touch()
    assert mpi.try_launcher(launcher, MPICH).remedy == (
        f"MPI4PY_LIBMPI={library} in the environment has mpi4py load the library of"
        " this launcher"
    )
    own = tmp_path / "venv" / "bin" / "mpiexec"
    own.parent.mkdir(parents=True)
    own.touch(0o755)
    remedy = mpi.try_launcher(launcher, MPICH).remedy
    assert remedy.startswith(f"start farms by {own}, which is of the environment")


def refuse_root(here: Machine, *sizes: int) -> mpi.Launcher:
    """Put an Open MPI there that starts ranks as root only if it is told to."""
    path = here.has(
        "mpirun",
        "if [ $1 = --version ]; then echo 'mpirun (Open MPI) 5.0.11'; exit; fi",
        'if [ "$OMPI_ALLOW_RUN_AS_ROOT$PRTE_ALLOW_RUN_AS_ROOT_CONFIRM" != 11 ]; then',
        "echo 'mpirun has detected an attempt to run as root.'; exit 1; fi",
        *(f"echo mpifarm sees {size}" for size in sizes),
    )
    return mpi._identify(path)


def test_root_is_told_what_open_mpi_wants(here):
    finding = mpi.try_launcher(refuse_root(here, 2, 2), OPEN_MPI)
    assert finding.verdict is Verdict.BAD
    assert finding.seen == (
        "Open MPI 5.0.11 starts no ranks as root; else two ranks of Open MPI see each"
        " other"
    )
    assert finding.remedy.startswith("as root, Open MPI")


def test_that_a_launcher_does_not_fit_is_told_apart_from_its_refusal_of_root(here):
    finding = mpi.try_launcher(refuse_root(here, 1, 1), MPICH)
    assert finding.seen == (
        "Open MPI 5.0.11 starts ranks that don't see each other with MPICH"
    )
    assert "root" not in finding.remedy


def test_a_launcher_that_hangs_is_bad(here, monkeypatch):
    monkeypatch.setattr(mpi, "TRIAL_SECONDS", 0.3)
    path = here.has("mpirun", "[ $1 = --version ] && exit", "exec /bin/sleep 1000")
    finding = mpi.try_launcher(mpi._identify(path), MPICH)
    assert finding.verdict is Verdict.BAD
    assert finding.seen == "an unknown MPI starts no ranks of MPICH: no answer in 0.3 s"


def test_each_launcher_is_tried_once_by_its_first_name(here, tmp_path):
    own = tmp_path / "venv" / "bin" / "mpiexec"
    own.parent.mkdir(parents=True)
    here.has("mpirun")
    (here.programs / "mpiexec").symlink_to("mpirun")
    own.symlink_to(here.has("hydra"))
    paths = [f"{here.programs}/mpirun", str(own)]
    assert mpi._find_launchers(here.environ) == paths


@pytest.mark.parametrize(
    ("lines", "library", "verdict", "told"),
    [
        (
            ["echo MPI types are; echo none; echo pmi2"],
            MPICH,
            "good",
            "and MPICH takes pmi2",
        ),
        (["echo none; echo pmix_v4 >&2"], OPEN_MPI, "good", "and Open MPI takes pmix"),
        (["echo none; echo pmi2"], OPEN_MPI, "bad", "and Open MPI needs pmix"),
        (["echo none; echo pmix"], MPICH, "bad", "--mpi=none, pmix, and MPICH needs"),
        (["echo none"], Library("Other MPI", "", ""), "note", "--mpi=none for Other"),
        (["echo none"], None, "note", "it offers --mpi=none"),
        (
            ["echo srun: error: no config"],
            MPICH,
            "note",
            "=list offers nothing: srun: er",
        ),
    ],
)
def test_srun_has_to_offer_the_pmi_of_the_library(here, lines, library, verdict, told):
    here.has("srun", *lines)
    finding = mpi.look_at_srun(library, here.environ)
    assert (finding.verdict, told in finding.seen) == (verdict, True)
    assert finding.remedy


def test_an_srun_without_its_slurm_is_bad_in_a_job_alone(here):
    here.has("srun", "echo srun: error: no config")
    finding = mpi.look_at_srun(MPICH, {**here.environ, "SLURM_JOB_ID": "7"})
    assert finding.verdict is Verdict.BAD


def test_without_any_launcher_the_user_is_told_what_brings_one(here):
    (finding,) = mpi.look_at_launchers(MPICH, here.environ)
    assert (finding.name, finding.verdict) == ("launcher", Verdict.NOTE)
    assert "pip install 'mpifarm[mpich]'" in finding.remedy


def test_without_a_library_nothing_is_tried(here):
    launcher = here.has_mpirun(HYDRA, says="tried")
    finding = mpi.try_launcher(launcher, None)
    assert (finding.verdict, "not tried" in finding.seen) == (Verdict.NOTE, True)


@pytest.mark.parametrize(
    ("environ", "library", "verdict"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2"}, OPEN_MPI, "good"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, MPICH, "bad"),
        ({"PMI_FD": "5", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"}, MPICH, "good"),
        ({"PMI_FD": "5", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"}, OPEN_MPI, "bad"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_MPI_TYPE": "none"}, MPICH, "bad"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, MPICH, "bad"),
        ({"SLURM_STEP_NUM_TASKS": "1"}, MPICH, "good"),
        ({"SLURM_STEP_NUM_TASKS": "2", "PMI_FD": "3"}, MPICH, "good"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, Library("Other", "", ""), "good"),
        ({"PMI_FD": "5", "PMI_SIZE": "2"}, None, "bad"),
    ],
)
def test_a_launch_that_is_not_for_the_library_is_bad(environ, library, verdict):
    finding = mpi.look_at_launch(library, environ)
    assert (finding.name, finding.verdict) == ("this launch", verdict)


@pytest.mark.parametrize(
    ("error", "verdict", "told"),
    [
        (ImportError("libmpi.so: cannot open\nmore"), "bad", "cannot open"),
        (ModuleNotFoundError("No module named 'mpi4py'"), "note", "not installed"),
    ],
)
def test_a_library_that_can_not_be_loaded_is_told(monkeypatch, error, verdict, told):
    def fail() -> Library:
        raise error

    monkeypatch.setattr(mpi, "find_library", fail)
    library, finding = mpi.look_for_library()
    assert library is None
    assert (finding.verdict, told in finding.seen) == (verdict, True)
    assert "pip install 'mpifarm[mpich]'" in finding.remedy


def test_a_library_that_kills_its_process_is_told(monkeypatch):
    monkeypatch.setattr(mpi, "find_library", die)
    library, finding = mpi.look_for_library()
    assert library is None
    assert finding.seen == "mpi4py can't load one: it dies of SIGKILL"


# ---- the machine ---------------------------------------------------------------------


def test_versions_that_are_too_old_are_told_with_what_to_install(monkeypatch):
    assert machine.look_at_versions().verdict is Verdict.GOOD
    found = {"mpi4py": "4.0.3", "filelock": "3.25.2"}
    monkeypatch.setattr(machine, "_find_version", lambda name: found[name])
    finding = machine.look_at_versions()
    assert finding.verdict is Verdict.BAD
    assert finding.remedy == "pip install 'mpi4py>=4.1' 'filelock>=3.30'"
    found |= {"mpi4py": "of an unknown version", "filelock": ""}
    finding = machine.look_at_versions()
    assert "mpi4py of an unknown version, filelock missing" in finding.seen
    assert finding.remedy == "pip install 'filelock>=3.30'"
    found |= {"mpi4py": "", "filelock": "4.0"}
    assert "mpi4py missing" in machine.look_at_versions().seen
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert "has no SQLite" in machine.look_at_versions().seen


def test_a_library_without_what_pip_notes_is_not_missing(tmp_path, monkeypatch):
    (tmp_path / "copied.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert machine._find_version("copied") == "of an unknown version"
    assert machine._find_version("not_there") == ""
    assert machine.parse_version("of an unknown version") == ()


def test_the_versions_that_are_wanted_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = " ".join(project["dependencies"])
    wanted = dict(re.findall(r"(\w+)>=([\d.]+)(?:;| |$)", listed))
    assert wanted == {
        name: ".".join(map(str, least))
        for name, least in machine.LEAST_VERSIONS.items()
    }


def test_options_are_counted_and_a_wrong_one_is_bad(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environ = {**here.environ, "MPIFARM_SITE_CONFIG": ""}
    _, finding = machine.look_at_options(environ)
    assert finding == good("options", "none set by files or variables")
    path = tmp_path / "mpifarm.ini"
    path.write_text("[options]\nproc = 3\nlock-area = locks\n")
    options, finding = machine.look_at_options(environ)
    assert options == (f"{tmp_path}/locks", "3")
    assert finding.seen == f"2 set by {path}"
    path.chmod(0o666)
    options, finding = machine.look_at_options(environ)
    assert (options, finding.verdict) == ((None, None), Verdict.NOTE)
    assert "everyone may write" in finding.seen
    options, finding = machine.look_at_options({**environ, "MPIFARM_PROC": "many"})
    assert finding.verdict is Verdict.BAD
    assert "MPIFARM_PROC takes a number" in finding.seen


def test_the_disk_is_looked_at_as_by_the_self_test_and_left_as_it_was(tmp_path):
    area, directory = tmp_path / "locks", tmp_path / "scratch"
    area.mkdir()
    directory.mkdir()
    found = [*machine.look_at_disk(str(directory), str(area))]
    names = [each.name for each in found]
    assert names == ["file system", "free space", "fsync", "lock"]
    assert f"flock in {area} and the workdir; the holder" in found[-1].seen
    assert [*area.iterdir()] == [*directory.iterdir()] == []


ANOTHER = (
    "name a directory that you may write, on the file system of your workdirs: mpifarm"
    " doctor DIRECTORY"
)


@pytest.mark.parametrize("name", ["none", "file", "file/below"])
def test_a_place_that_is_not_a_directory_is_bad(tmp_path, name):
    (tmp_path / "file").touch()
    where = str(tmp_path / name)
    assert [*machine.look_at_disk(where, None)] == [
        bad("file system", f"{where} is not a directory", ANOTHER)
    ]


def test_a_directory_that_takes_no_files_is_one():
    (found,) = machine.look_at_disk("/proc", None)
    assert "is not a directory" not in found.seen
    assert found.seen.endswith(
        "no file can be made in /proc: No such file or directory"
    )
    assert found.remedy == ANOTHER


def test_a_current_directory_that_is_gone_is_bad_and_another_is_looked_at(
    tmp_path, monkeypatch
):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    remedy = "go to one that is there, or name a whole path: mpifarm doctor DIRECTORY"
    for name in (".", "below"):
        assert [*machine.look_at_disk(name, None)] == [
            bad("file system", "the current directory is gone", remedy)
        ]
    assert "lock" in [each.name for each in machine.look_at_disk(str(tmp_path), None)]


@pytest.mark.parametrize(
    ("number", "why", "remedy"),
    [
        (errno.EROFS, "Read-only file system", ANOTHER),
        (errno.EACCES, "Permission denied", ANOTHER),
        (errno.ENOSPC, "No space left on device", storage.FULL_REMEDY),
        (errno.EDQUOT, "Disk quota exceeded", storage.FULL_REMEDY),
    ],
)
def test_a_place_that_can_not_be_written_is_bad_with_its_file_system(
    tmp_path, monkeypatch, number, why, remedy
):
    def refuse(path: str, _mode: int = 0) -> None:
        raise OSError(number, os.strerror(number), path)

    mounted = storage.check_mount(storage.Stage(str(tmp_path))).seen
    monkeypatch.setattr(os, "mkdir", refuse)
    seen = f"{mounted}; no file can be made in {tmp_path}: {why}"
    assert [*machine.look_at_disk(str(tmp_path), None)] == [
        bad("file system", seen, remedy)
    ]


def test_a_disk_that_hangs_is_bad_behind_what_was_seen_before(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "append", lambda *_, **__: time.sleep(1000))
    # Only fsync is looked at so shortly: a busy machine may be slow before.
    seconds = iter([20.0, 20.0, 0.3])

    def ask(find: Any, _seconds: float) -> asking.Answer:
        return asking.ask_child(find, next(seconds))

    monkeypatch.setattr(machine, "ask_child", ask)
    *before, finding = machine.look_at_disk(str(tmp_path), None)
    assert [each.name for each in before] == ["file system", "free space"]
    assert finding.name == "fsync"
    assert finding.seen == f"{tmp_path}: no answer in 0.3 s"
    assert finding.remedy.startswith("this file system hangs")


def test_an_error_of_the_disk_has_a_remedy(tmp_path, monkeypatch):
    def fail(path: str, *_: Any, **__: Any) -> None:
        raise files.storage_error("write", path, OSError(5, "Input/output error"))

    monkeypatch.setattr(files, "append", fail)
    finding = [*machine.look_at_disk(str(tmp_path), None)][2]
    assert (finding.name, finding.verdict) == ("fsync", Verdict.BAD)
    assert finding.seen.endswith("/synced: Input/output error")
    assert finding.remedy == "ask your site, or name a directory on another file system"


@pytest.mark.parametrize(
    ("name", "trouble"), [("none", "does not exist"), ("file", "is not a directory")]
)
def test_a_lock_area_that_can_not_be_used_is_told_of_the_lock_alone(
    tmp_path, name, trouble
):
    (tmp_path / "file").touch()
    area = tmp_path / name
    *before, finding = machine.look_at_disk(str(tmp_path), str(area))
    assert [each.name for each in before] == ["file system", "free space", "fsync"]
    assert finding == bad(
        "lock",
        f"the lock area {area} (from --lock-area) {trouble}",
        "name another one, the same for every farmer of this workdir",
    )


def test_a_lock_that_does_not_exclude_is_bad(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "take", lambda *_: True)
    *_, finding = machine.look_at_disk(str(tmp_path), None)
    assert (finding.name, finding.verdict) == ("lock", Verdict.BAD)
    assert "both held it at once" in finding.seen


@pytest.mark.parametrize(
    ("own", "words", "finding"),
    [
        (
            *(2, None),
            note(
                "CPUs",
                "2 of the node's 2 for 8 workers, the default of --proc",
                "for tasks that compute give --proc auto, here 2: more workers than"
                " CPUs are for tasks that wait",
            ),
        ),
        (
            *(2, "3"),
            note(
                "CPUs",
                "2 of the node's 2 for 3 workers",
                "for tasks that compute give --proc auto, here 2: more workers than"
                " CPUs are for tasks that wait",
            ),
        ),
        (2, "auto", good("CPUs", "2 of the node's 2 for 2 workers")),
        (
            *(64, None),
            good(
                "CPUs",
                "64 of the node's 64 for 8 workers, the default of --proc",
                "--proc auto has a worker for each CPU, for tasks of one thread",
            ),
        ),
    ],
)
def test_more_workers_than_cpus_are_told_with_the_way_to_change_it(
    monkeypatch, own, words, finding
):
    monkeypatch.setattr(cpus, "cpus_of_rank", lambda: frozenset(range(own)))
    monkeypatch.setattr(cpus, "cpus_of_machine", lambda: own)
    assert machine.look_at_cpus({}, words) == finding


def test_a_rank_that_is_bound_is_told_by_its_launcher(monkeypatch):
    monkeypatch.setattr(cpus, "cpus_of_rank", lambda: frozenset({0}))
    monkeypatch.setattr(cpus, "cpus_of_machine", lambda: 64)
    finding = machine.look_at_cpus({"SLURM_JOB_ID": "7"}, "4")
    assert finding.verdict is Verdict.NOTE
    assert finding.seen == "1 of the node's 64 for 4 workers"
    assert finding.remedy == (
        "Give sbatch --cpus-per-task=4; or --proc 1 fits what it has"
    )


def test_what_bounds_the_memory_of_a_task_is_told(here, monkeypatch):
    found = cgroups.Delegated(2, "/sys/fs/cgroup/x")
    monkeypatch.setattr(machine, "find_delegated", lambda: found)
    assert machine.look_at_task_memory({}) == good(
        "task memory",
        "with --task-memory, each task gets a cgroup of version 2 in /sys/fs/cgroup/x,"
        " which was delegated",
    )


@pytest.mark.parametrize(
    ("user", "environ", "places", "remedy"),
    [
        (0, {}, {"system.slice"}, "systemd-run --scope -p Delegate=yes mpifarm LIST"),
        (
            *(7, {}, {"system.slice", "/run/user/7/systemd"}),
            "systemd-run --user --scope -p Delegate=yes mpifarm LIST",
        ),
        (7, {}, {"system.slice"}, ""),
        (0, {}, set(), ""),
        (0, {"SLURM_JOB_ID": "4711"}, {"system.slice"}, ""),
    ],
)
def test_where_no_cgroup_can_be_made_systemd_may_delegate_one_outside_of_jobs(
    monkeypatch, user, environ, places, remedy
):
    def refuse():
        raise cgroups.NoCgroupError("the cgroup /c was not delegated")

    monkeypatch.setattr(machine, "find_delegated", refuse)
    monkeypatch.setattr(os, "getuid", lambda: user)
    monkeypatch.setattr(
        os.path, "isdir", lambda path: any(path.endswith(place) for place in places)
    )
    finding = machine.look_at_task_memory(environ)
    assert finding.verdict is Verdict.GOOD
    assert finding.seen.endswith("each second; the cgroup /c was not delegated")
    assert (
        finding.remedy.removeprefix("to have the kernel bound it at once: ") == remedy
    )


# ---- the whole -----------------------------------------------------------------------


def test_a_finding_of_the_self_test_is_one_of_the_doctor():
    for result, verdict in (
        (holds("x"), "good"),
        (measured("x"), "good"),
        (measured("x", "then y"), "note"),
        (untested("x"), "note"),
        (broken("x", "then y"), "bad"),
    ):
        assert findings.of_selftest(result.named("n")).verdict == verdict
    assert findings.of_selftest(holds("x").named("n"), "m").name == "m"


class Printed:
    """A console that keeps what it gets."""

    def __init__(self) -> None:
        self.text = ""

    def print_text(self, text: str) -> None:
        self.text += text


@pytest.mark.parametrize(
    ("found", "status", "end"),
    [
        ([good("a", "x"), note("b", "y", "do")], 0, "\nNothing is wrong here.  "),
        ([good("a", "x"), bad("b", "y", "do")], 1, "\n1 thing to mend: b.\n"),
    ],
)
def test_each_line_has_its_remedy_and_the_status_counts_bad_ones(
    monkeypatch, capfdbinary, found, status, end
):
    monkeypatch.setattr(command, "look", lambda *_: iter(found))
    console = Printed()
    assert command.main([], cast(Any, console), {}) == status
    assert console.text.startswith("good  a: x\n")
    assert f"{found[1].verdict:4}  b: y\n      -> do\n{end}" in console.text
    assert command.main(["--json"], cast(Any, console), {}) == status
    told = json.loads(capfdbinary.readouterr().out)
    assert told["bad"] == ["b"] * status
    assert told["findings"][1] == {
        "name": "b",
        "verdict": str(found[1].verdict),
        "seen": "y",
        "remedy": "do",
    }


def test_the_tutorial_names_the_verdicts():
    found = re.search(
        r"Each finding begins with (.*?);", read_page("tutorial.md"), re.DOTALL
    )
    assert found
    assert re.findall(r"`(\w+)`", found[1]) == [*Verdict]


def test_the_page_has_all_lines_and_shows_them_as_they_are(here, tmp_path):
    here.has("squeue", "echo slurm")
    listed = "".join(re.findall(r"^\| (.*?) \|.*\|.*\|$", PAGE, re.MULTILINE))
    environ = {**here.environ, "MPIFARM_SITE_CONFIG": ""}
    names = [each.name for each in command.look(str(tmp_path), None, environ)]
    for name in [*names, "srun", "this launch", "launcher"]:
        assert f"`{name}`" in listed
    sample = take_block("doctor.md", "good")
    for line in filter(None, sample.lines[:-1]):
        found = re.fullmatch(r"(?:(?:good|note|bad ) |     ) (.*)", line)
        assert found, line
        name = found[1].partition(":")[0]
        assert line.startswith("      -> ") or f"`{name}`" in listed or "/" in name
