"""Where a cgroup may be made, and what is written there: directories of the test's own.

Rules of this file: nothing of the real cgroups is changed; tests/process has real ones.
"""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from mpifarm.system import cgroups, processes
from mpifarm.system.cgroups import (
    PROCESSES,
    Delegated,
    NoCgroupError,
    TaskCgroup,
    TaskCgroups,
    find_delegated,
    find_oom_file,
    open_task_cgroups,
    parse_oom_kills,
)
from tests.pages import take_block

LIMIT = 500 << 20
OURS = os.stat("/proc/self/ns/pid").st_ino
"""The namespace of this process's pid."""


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Have the kernel say these of this process: ``kernel(cgroups, mounts)``."""

    def say(own: str, mounts: str) -> None:
        for name, text in (("PROC_CGROUP", own), ("PROC_MOUNTS", mounts)):
            (tmp_path / name).write_text(text)
            monkeypatch.setattr(cgroups, name, str(tmp_path / name))

    return say


# ---- the own one ---------------------------------------------------------------------

V1_MOUNTS = (
    "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"
    "cgroup /sys/fs/cgroup/memory cgroup rw,nosuid,memory 0 0\n"
    "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
)
V2_MOUNTS = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"


@pytest.mark.parametrize(
    ("cgroups", "mounts", "path"),
    [
        (
            "0::/slurm/job_7/step_0/user/task_0\n",
            V2_MOUNTS,
            "/sys/fs/cgroup/slurm/job_7/step_0/user/task_0/memory.events",
        ),
        ("0::/\n", V2_MOUNTS, "/sys/fs/cgroup/memory.events"),
        (
            "9:name=systemd:/\n4:memory:/slurm/uid_1/a:b\n1:cpu:/\n0::/\n",
            V1_MOUNTS,
            "/sys/fs/cgroup/memory/slurm/uid_1/a:b/memory.oom_control",
        ),
        ("0::/x\n", "proc /proc proc rw 0 0\n", None),
        ("4:memory:/x\n0::/\n", "c /cpu cgroup rw,cpu 0 0\n", None),
        ("4:memory:/x\n", "m /m cgroup2 rw,memory 0 0\n", None),
        (
            "4:cpu,memory:/x\n",
            "m /m cgroup cpu,memory 0 0\n",
            "/m/x/memory.oom_control",
        ),
        ("4:memory:/x\n", "m /m nfs memory 0 0\n", None),
        ("", V2_MOUNTS, None),
        ("torn", "torn", None),
    ],
)
def test_the_file_of_the_own_cgroup_is_found(kernel, cgroups, mounts, path):
    kernel(cgroups, mounts)
    assert find_oom_file() == path


@pytest.mark.parametrize(
    ("content", "kills"),
    [
        (b"low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n", 2),
        (b"oom_kill_disable 0\nunder_oom 0\noom_kill 5\n", 5),
        (b"oom_kill_disable 0\nunder_oom 0\n", None),
        (b"", None),
        (b"oom_kill many\n", None),
    ],
)
def test_the_kernels_kills_are_counted(content, kills):
    assert parse_oom_kills(content) == kills


# ---- what was delegated --------------------------------------------------------------


class Tree:
    """A file system of cgroups, whose files are ordinary ones."""

    def __init__(self, place: Path, version: int, kernel: Any) -> None:
        self.place, self.version, self.kernel = place, version, kernel
        self.marks: dict[str, bytes] = {}

    def make(self, path: str) -> Path:
        """Make a cgroup, and have it be that of this process."""
        directory = self.place / path.strip("/")
        directory.mkdir(parents=True, exist_ok=True)
        files = {
            1: {"memory.use_hierarchy": "1\n"},
            2: {
                "cgroup.controllers": "cpu memory pids\n",
                "cgroup.subtree_control": "",
                "cgroup.type": "domain\n",
            },
        }[self.version]
        for name, text in {"cgroup.procs": "", **files}.items():
            (directory / name).write_text(text)
        self.enter(path)
        return directory

    def enter(self, path: str) -> None:
        if self.version == 1:
            self.kernel(f"4:memory:{path}\n", f"m {self.place} cgroup rw,memory 0 0\n")
        else:
            self.kernel(f"0::{path}\n", f"m {self.place} cgroup2 rw 0 0\n")

    def getxattr(self, path: str, name: str) -> bytes:
        if (mark := self.marks.get(f"{path}:{name}")) is None:
            raise OSError(errno.ENODATA, "no data", path)
        return mark

    def delegate(self, directory: Path) -> None:
        self.marks[f"{directory}:user.delegate"] = b"1"


@pytest.fixture(params=[1, 2])
def tree(request, tmp_path, kernel, monkeypatch):
    place = tmp_path / "cgroup"
    place.mkdir()
    tree = Tree(place, request.param, kernel)
    monkeypatch.setattr(os, "getxattr", tree.getxattr)
    return tree


def why_not() -> str:
    with pytest.raises(NoCgroupError) as raised:
        find_delegated()
    return str(raised.value)


def test_a_cgroup_that_is_marked_is_taken_and_no_other(tree):
    directory = tree.make("/slurm/job_7")
    assert why_not() == f"the cgroup {directory} was not delegated"
    tree.delegate(directory)
    assert find_delegated() == Delegated(tree.version, str(directory))


def test_what_was_delegated_to_a_daemon_is_not_taken(tree):
    for path in ("/system.slice/slurmd.service", "/system.slice/run-u7.service"):
        tree.delegate(tree.make(path))
    tree.enter("/system.slice/slurmd.service")
    assert "slurmd.service was not delegated" in why_not()
    tree.enter("/system.slice/run-u7.service")
    assert find_delegated().directory.endswith("/run-u7.service")


def test_what_is_outside_of_the_namespace_is_not_taken(tree):
    tree.make("/")
    tree.enter("/../cgroup")
    assert why_not() == "no cgroup counts the memory of this process"


def test_the_root_of_a_container_is_taken_and_that_of_the_machine_is_not(tree):
    directory = tree.make("/")
    assert find_delegated().directory == str(directory)
    if tree.version == 1:
        (directory / "release_agent").touch()
    else:
        (directory / "cgroup.type").unlink()
    assert "was not delegated" in why_not()


def test_a_cgroup_that_this_user_may_not_write_to_is_not_taken(tree, monkeypatch):
    directory = tree.make("/x")
    tree.delegate(directory)
    monkeypatch.setattr(os, "access", lambda path, _: "procs" not in str(path))
    (shown,) = take_block("when-tasks-fail.md", "2026-11-30").lines
    sentence, _, of_the_page = shown.rpartition(" ")
    assert of_the_page.startswith("/sys/fs/cgroup/")
    assert sentence.endswith(": " + why_not().removesuffix(f" {directory}"))


def test_a_cgroup_whose_children_could_not_bound_memory_is_not_taken(tree):
    directory = tree.make("/x")
    tree.delegate(directory)
    name = {1: "memory.use_hierarchy", 2: "cgroup.controllers"}[tree.version]
    (directory / name).write_text("0 cpu\n")
    assert why_not() == f"the cgroup {directory} has no memory controller"


def test_without_a_cgroup_nothing_is_taken(kernel, tmp_path):
    kernel("", "")
    assert why_not() == "no cgroup counts the memory of this process"
    kernel("0::/x\n", f"m {tmp_path}/none cgroup2 rw 0 0\n")
    assert why_not() == "no cgroup counts the memory of this process"


@pytest.mark.parametrize(
    ("script", "is_taken"),
    [("echo Delegate=yes", True), ("echo Delegate=no", False), ("exit 1", False)],
)
def test_the_users_systemd_is_asked_for_its_units(
    tree, tmp_path, monkeypatch, script, is_taken
):
    program = tmp_path / "systemctl"
    program.write_text(f'#!/bin/sh\n[ "$5" = run-7.scope ] && {script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tree.make(f"/user.slice/user@{os.getuid()}.service/app.slice/run-7.scope")
    assert ("was not delegated" not in _try()) is is_taken
    tree.make("/user.slice/user@4711.service/app.slice/run-7.scope")
    assert "was not delegated" in _try(), "another user's"


def _try() -> str:
    try:
        return str(find_delegated())
    except NoCgroupError as why:
        return str(why)


# ---- those of tasks ------------------------------------------------------------------


class Files:
    """What was written into files of the kernel; its files come with a directory."""

    def __init__(self, version: int) -> None:
        self.written: list[tuple[str, str]] = []
        self.procs: dict[str, list[int]] = {}
        self.texts: dict[str, bytes] = {}
        self.busy = 0
        """How often a write to a subtree_control is refused."""

    def write(self, path: str, text: str) -> None:
        if path.endswith("subtree_control") and self.busy:
            self.busy -= 1
            raise OSError(errno.EBUSY, "busy", path)
        self.written.append((path, text))

    def read(self, path: str) -> bytes:
        directory, _, name = path.rpartition("/")
        if name == "cgroup.procs":
            return "".join(f"{pid}\n" for pid in self.procs.get(directory, [])).encode()
        if path not in self.texts:
            raise FileNotFoundError(errno.ENOENT, "none", path)
        return self.texts[path]


@pytest.fixture(params=[1, 2])
def version(request):
    return request.param


@pytest.fixture
def files(version, monkeypatch):
    files = Files(version)
    monkeypatch.setattr(cgroups, "_write", files.write)
    monkeypatch.setattr(cgroups, "_read", files.read)
    monkeypatch.setattr(cgroups, "_PAUSE", 0)
    return files


def test_the_processes_of_a_delegated_cgroup_go_into_one_of_their_own(
    files, version, tmp_path
):
    above = str(tmp_path)
    files.procs[above] = [70, 71]
    files.busy = 3 if version == 2 else 0
    made = TaskCgroups(Delegated(version, above), LIMIT)
    home = f"{above}/mpifarm-{OURS}-{os.getpid()}"
    moves = [(path, text) for path, text in files.written if "procs" in path]
    controls = [path for path, _ in files.written if "subtree_control" in path]
    if version == 1:
        assert (made.outside, moves, controls) == (above, [], [])
        return
    assert made.outside == f"{above}/{PROCESSES}"
    assert set(moves) == {(f"{made.outside}/cgroup.procs", pid) for pid in ("70", "71")}
    assert controls == [
        f"{above}/cgroup.subtree_control",
        f"{home}/cgroup.subtree_control",
    ]


def test_a_cgroup_whose_processes_start_others_for_ever_is_given_up(
    files, version, tmp_path
):
    files.busy = 10**6
    if version == 2:
        with pytest.raises(NoCgroupError, match="busy"):
            TaskCgroups(Delegated(version, str(tmp_path)), LIMIT)


def test_a_worker_enters_the_cgroup_of_its_task_and_leaves_it(files, version, tmp_path):
    made = TaskCgroups(Delegated(version, str(tmp_path)), LIMIT)
    cgroup = TaskCgroup(made)
    cgroup.begin("0-7")
    assert not os.path.exists(made.path_of("0-7")), "a runner may start no command"
    files.written.clear()
    cgroup.enter()
    cgroup.leave()
    cgroup.enter()
    ours, place = str(os.getpid()), made.path_of("0-7")
    bounds = {
        1: [("memory.limit_in_bytes", LIMIT), ("memory.memsw.limit_in_bytes", LIMIT)],
        2: [("memory.max", LIMIT), ("memory.swap.max", 0), ("memory.oom.group", 1)],
    }[version]
    assert files.written == [
        *((f"{place}/{name}", str(value)) for name, value in bounds),
        (f"{place}/cgroup.procs", ours),
        (f"{made.outside}/cgroup.procs", ours),
        (f"{place}/cgroup.procs", ours),
    ]
    cgroup.end()
    assert not os.path.exists(place)
    assert (cgroup.count_kills(), cgroup.processes()) == (0, [])


def test_what_the_kernel_has_killed_is_counted_and_whose_limit_it_was(
    files, version, tmp_path
):
    cgroup = TaskCgroup(made := TaskCgroups(Delegated(version, str(tmp_path)), LIMIT))
    cgroup.begin("0-7")
    cgroup.enter()
    place = made.path_of("0-7")
    assert (cgroup.count_kills(), cgroup.has_met_limit()) == (0, False)
    files.texts[f"{place}/memory.oom_control"] = b"under_oom 0\noom_kill 2\n"
    files.texts[f"{place}/memory.events"] = b"max 9\noom 0\noom_kill 2\n"
    files.texts[f"{place}/memory.max_usage_in_bytes"] = b"%d\n" % (LIMIT >> 1)
    assert (cgroup.count_kills(), cgroup.has_met_limit()) == (2, False)
    files.texts[f"{place}/memory.events"] = b"max 9\noom 1\noom_kill 2\n"
    files.texts[f"{place}/memory.max_usage_in_bytes"] = b"%d\n" % (LIMIT - 4096)
    assert (made.count_kills("0-7"), cgroup.has_met_limit()) == (2, True)


def test_a_cgroup_whose_processes_are_dying_is_removed_when_they_are_dead(
    files, version, tmp_path, monkeypatch
):
    cgroup = TaskCgroup(made := TaskCgroups(Delegated(version, str(tmp_path)), LIMIT))
    removed: list[str] = []

    def rmdir(path: str) -> None:
        removed.append(path)
        if len(removed) < 3:
            raise OSError(errno.EBUSY, "busy", path)

    monkeypatch.setattr(os, "rmdir", rmdir)
    for name in ("0-7", "0-8"):
        cgroup.begin(name)
        cgroup.enter()
        cgroup.end(1 if name == "0-7" else 60)
    first, *others = map(made.path_of, ("0-7", "0-8", "0-8"))
    assert removed == [first, *others]


def test_what_dead_farms_have_left_is_removed_and_nothing_else(
    files, version, tmp_path, monkeypatch
):
    of_others = {"mpifarm-1-70", "other", f"mpifarm-{OURS}-72x"}
    for name in (f"mpifarm-{OURS}-70", f"mpifarm-{OURS}-71", *of_others):
        (tmp_path / name / "0-7").mkdir(parents=True)
    monkeypatch.setattr(processes, "is_alive", lambda pid: pid == 71)
    TaskCgroups(Delegated(version, str(tmp_path)), LIMIT).close()
    left = {each.name for each in tmp_path.iterdir()} - {PROCESSES}
    assert left == {f"mpifarm-{OURS}-71", *of_others}


def test_a_cgroup_that_another_made_is_not_removed(files, version, tmp_path):
    same = tmp_path / f"mpifarm-{OURS}-{os.getpid()}"
    same.mkdir()
    with pytest.raises(NoCgroupError, match="File exists"):
        TaskCgroups(Delegated(version, str(tmp_path)), LIMIT)
    assert same.exists()


def test_a_worker_that_could_not_leave_is_no_process_of_its_task(
    files, version, tmp_path
):
    cgroup = TaskCgroup(made := TaskCgroups(Delegated(version, str(tmp_path)), LIMIT))
    assert made.processes("0-7") == []
    cgroup.begin("0-7")
    cgroup.enter()
    files.procs[made.path_of("0-7")] = [70, os.getpid()]
    assert cgroup.processes() == [70]
    assert made.processes("0-7") == [70, os.getpid()]


def test_where_a_cgroup_can_not_be_made_there_is_none(tree, monkeypatch):
    assert open_task_cgroups(LIMIT) is None
    tree.delegate(tree.make("/x"))
    monkeypatch.setattr(cgroups, "_write", _denied)
    monkeypatch.setattr(cgroups, "REMOVALS", 1)
    assert open_task_cgroups(LIMIT) is None


def test_a_task_whose_cgroup_can_not_be_made_runs_without_one(
    files, version, tmp_path, monkeypatch
):
    cgroup = TaskCgroup(TaskCgroups(Delegated(version, str(tmp_path)), LIMIT))
    cgroup.begin("0-7")
    monkeypatch.setattr(os, "mkdir", _denied)
    cgroup.enter()
    cgroup.leave()
    assert (cgroup.count_kills(), cgroup.processes()) == (0, [])
    cgroup.end()


def _denied(path: str, *_: object) -> None:
    raise PermissionError(errno.EACCES, "denied", path)
