"""Logs on a disk that fails: how a task ended is what its command has made of it."""

import subprocess

import pytest

from tests.farm_driver import MPIFARM
from tests.fault.faulty_disk import Fault
from tests.workdir_files import WorkdirFiles

pytestmark = pytest.mark.timeout(120)

COUNT = 24
FAILING = {5, 13}


def run(disk, farm_environment, *options):
    """A farm to its end: exit status, and what it said."""
    tasklist = disk.root / "list"
    ended = subprocess.run(
        [*MPIFARM, "--proc", "2", *options, str(tasklist)],
        env=farm_environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


def ids(disk, name):
    return {*WorkdirFiles(disk.backing / "list_workdir").ids(name)}


def write_list(disk):
    lines = [
        f"echo output; exit {7 if each in FAILING else 0}\n" for each in range(COUNT)
    ]
    (disk.backing / "list").write_text("".join(lines))


LOG = r"/logs/log_\d"
KEPT = r"/logs/(packed|unkept)/\w+\.\d+\.\d+\.\d+$"
END_OF_LOGS = [
    ("all", Fault("flush", LOG, "EIO", count=0)),
    # all from there on: a command's own close of its log is such a call, too
    ("all", Fault("flush", LOG, "EDQUOT", first=9, count=0)),
    ("packed", Fault("truncate", KEPT, "EIO", count=0)),
    ("packed", Fault("read", KEPT, "EIO", first=3, count=0)),
    ("packed", Fault("write|flush", r"\.pack$", "EIO", count=0)),
    ("packed", Fault("write", r"\.index$", "EIO", first=3, count=1)),
    ("failed", Fault("rename", f"{LOG}|{KEPT}", "EIO", count=0)),
    ("failed", Fault("rename", f"{LOG}|{KEPT}", "done:EIO", count=0)),
]


@pytest.mark.parametrize(
    ("kept", "fault"),
    END_OF_LOGS,
    ids=[f"{kept}: {fault.calls} {fault.deed}" for kept, fault in END_OF_LOGS],
)
def test_what_a_disk_does_to_the_end_of_a_log_changes_no_outcome(
    disk, farm_environment, kept, fault
):
    write_list(disk)
    disk.inject(fault)
    status, said = run(disk, farm_environment, "--logs", kept)
    assert disk.struck()
    assert ids(disk, "failed") == FAILING, said
    assert ids(disk, "finished") == {*range(COUNT)} - FAILING, said
    assert status == 1, said
    assert ("may not be whole" in said) == (kept == "all" or "rename" in fault.calls)
    disk.heal()
    if kept == "packed":
        words = ["log", str(disk.root / "list"), f"0-{COUNT - 1}"]
        shown = subprocess.run([*MPIFARM, *words], capture_output=True, check=False)
        assert shown.stdout.count(b"output\n") == COUNT, shown


@pytest.mark.parametrize(
    ("kept", "error"),
    [("all", "EPERM"), ("packed", "EACCES"), ("failed", "EROFS")],
)
def test_no_task_fails_where_a_log_can_not_be_begun(
    disk, farm_environment, kept, error
):
    write_list(disk)
    disk.inject(Fault("create", r"/logs/", error, first=4, count=0))
    status, said = run(disk, farm_environment, "--logs", kept, "--grace", "0.3")
    assert disk.struck()
    assert status == 75 or (kept == "failed" and status == 1), said
    assert ids(disk, "failed") <= FAILING, said
    disk.heal()
    assert run(disk, farm_environment)[0] == 1
    assert ids(disk, "finished") == {*range(COUNT)} - FAILING
