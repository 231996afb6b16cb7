"""Disks that give way for a while: the farm holds its results and tries again.

Rules of this file: a full disk is a small tmpfs, a read-only one a mount over the
workdir, and only root can have them; what a file server answers comes from a stand-in
(`failing.py`), which Python loads into the farm before anything else.
"""

import errno
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.process.test_bad_input import without_privileges
from tests.required import find_tool
from tests.support import survivors, wait_until

CAN_NOT = "; trying again for "
CAN_AGAIN = "can be written again"

STAND_IN = """\
import errno, json, os

CONTROL = os.environ["FARM_TEST_FAILING"]
WORKDIR = os.environ["FARM_TEST_FAILING_IN"]


def path_of(where, others):
    if isinstance(where, int):
        where = os.readlink(f"/proc/self/fd/{where}")
    return os.fspath(where)


def failing(name, call):
    def fails(where, *others, **options):
        if os.path.exists(CONTROL):
            error, calls = json.load(open(CONTROL))
            path = path_of(where, others)
            if name in calls and path.startswith(WORKDIR) and "/logs" not in path:
                number = getattr(errno, error)
                raise OSError(number, os.strerror(number), path)
        return call(where, *others, **options)

    return fails


for name in ("pwrite", "fsync", "rename", "open", "utime", "unlink", "ftruncate"):
    setattr(os, name, failing(name, getattr(os, name)))
"""

WRITES = ["pwrite", "fsync", "rename", "utime", "unlink", "ftruncate"]


def notes_ids(count, seconds=0.05):
    """Commands that note their ids outside of the workdir.

    All but the first wait until the test lets them go on.
    """
    waits = "[ $PROC_NUMBER -lt 12 ] || until [ -e go ]; do sleep 0.02; done"
    return [f"echo $PROC_NUMBER >> starts; {waits}; sleep {seconds}"] * count


def started(place):
    return Counter(map(int, place.notes("starts")))


def assert_it_went_on_as_if_nothing_had_been(place, farm, count):
    assert farm.wait() == 0, farm.text()
    assert farm.text().count(CAN_NOT) == 1, farm.text()
    assert farm.text().count(CAN_AGAIN) == 1, farm.text()
    assert "Traceback" not in farm.text()
    assert started(place) == dict.fromkeys(range(count), 1)
    assert place.finished() == list(range(count))
    assert sorted(event["name"] for event in place.timeline()) == sorted(place.tasks)
    place.assert_sound()
    assert place.claims() == []
    assert not list(place.workdir.glob("toprocess.*"))


def assert_it_stopped_and_the_next_start_finishes(place, farm, farm_token, count):
    assert farm.wait() == 75, farm.text()
    assert farm.text().count(CAN_NOT) == 1, farm.text()
    assert "Traceback" not in farm.text()
    assert not re.search("mpifarm: .*-.* with others", farm.text())
    wait_until(lambda: not survivors(farm_token))
    violations = [each for each in place.violations() if "timeline" not in each]
    assert violations == []
    assert place.content("failed") == b""
    recorded, before = set(place.ids("finished")), started(place)
    told = told_as_unrecorded(farm)
    assert told
    assert place.run() == 0
    again = set(started(place) - before)
    assert not again & recorded
    # a line that could not be synced may stand there all the same
    assert told - recorded <= again
    place.assert_all_finished()


def told_as_unrecorded(farm):
    """The ids that the farm says could not be recorded, but for "and 5 more"."""
    said = [e for e in farm.text().splitlines() if "could not be recorded" in e]
    words = " ".join(e.partition(" and ")[0] for e in said).replace(",", "").split()
    return {int(word) for word in words if word.isdigit()}


# ---- what a file server answers -----------------------------------------------------


class Server:
    """The stand-in in a farm, and what it answers now."""

    def __init__(self, place, directory):
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(STAND_IN)
        self._control = directory / "control"
        path = os.pathsep.join(
            filter(None, [str(directory), place.environment.get("PYTHONPATH")])
        )
        self.environment = {
            "PYTHONPATH": path,
            "FARM_TEST_FAILING": str(self._control),
            "FARM_TEST_FAILING_IN": str(place.workdir),
        }

    def fail(self, error, calls):
        beside = self._control.with_suffix(".new")
        beside.write_text(json.dumps([error, calls]))
        beside.rename(self._control)

    def recover(self):
        self._control.unlink()


@pytest.fixture
def create_server(tmp_path):
    return lambda place: Server(place, tmp_path / "stand-in")


@pytest.mark.parametrize(
    ("error", "calls"), [("EIO", WRITES), ("ESTALE", ["open"])], ids=["EIO", "ESTALE"]
)
def test_a_server_that_comes_back_in_time_is_told_and_no_more(
    create_place, create_server, error, calls
):
    count = 160
    place = create_place(notes_ids(count))
    server = create_server(place)
    farm = place.start("--proc", "4", "--grace", "60", env=server.environment)
    wait_until(lambda: len(place.ids("finished")) >= 8)
    before = len(place.notes("starts"))
    server.fail(error, calls)
    place.allow()
    wait_until(lambda: CAN_NOT in farm.text() or farm.has_ended())
    # its workers go on with all that they have, which on a busy machine they may have
    # done before the farm says so; the farm goes on trying
    wait_until(
        lambda: (
            len(place.notes("starts")) > before
            or len(place.notes("starts")) == count - len(place.ids("toprocess"))
            or farm.has_ended()
        )
    )
    server.recover()
    assert os.strerror(getattr(errno, error)) in farm.text()
    assert_it_went_on_as_if_nothing_had_been(place, farm, count)


def test_a_server_that_does_not_come_back_stops_the_farm_with_75(
    create_place, create_server, farm_token
):
    place = create_place(notes_ids(60))
    server = create_server(place)
    farm = place.start("--proc", "4", "--grace", "1", env=server.environment)
    wait_until(lambda: len(place.ids("finished")) >= 8)
    server.fail("EIO", WRITES)
    place.allow()
    assert farm.wait() == 75, farm.text()
    server.recover()
    assert_it_stopped_and_the_next_start_finishes(place, farm, farm_token, 60)


# ---- logs that can't be written any more ---------------------------------------------


def test_no_task_fails_when_logs_turn_unwritable(create_place):
    place = create_place(notes_ids(150, 0.02))
    options = ("--proc", "4", "--grace", "0.5")
    farm = place.start(*options, before=without_privileges())
    wait_until(lambda: len(place.ids("finished")) >= 8)
    logs = place.workdir / "logs"
    logs.chmod(0o555)
    place.allow()
    try:
        assert farm.wait() == 75, farm.text()
    finally:
        logs.chmod(0o755)
    assert "logs/log_" in farm.text()
    assert "Permission denied" in farm.text()
    assert place.content("failed") == b""
    place.assert_sound()
    assert place.run() == 0
    assert place.finished() == list(range(150))


def test_a_log_whose_close_fails_is_no_failure_of_its_task(create_place):
    # not /bin/echo, which looks at how its own close went
    place = create_place(["echo one", "echo two; exit 0", "exit 7"])
    (place.workdir / "logs").mkdir(parents=True)
    logs = [place.workdir / "logs" / f"log_{number}" for number in (1, 2)]
    paths = []
    for log in logs:
        log.touch()  # strace wants it there
        paths += ["-P", str(log)]
    inject = ["-e", "trace=close", "-e", "inject=close:error=EIO:when=1+"]
    before = (find_tool("strace"), "-qq", "-f", "-o", "/dev/null", *paths, *inject)
    farm = place.start("--proc", "1", before=before)
    assert farm.wait() == 1, farm.text()
    assert place.finished() == [0, 1]
    said = "the output of 2 tasks may not be whole: task 1: can't write the end of"
    assert f"{said} {logs[0]}: Input/output error" in farm.text()
    assert "task 2: exit status 7; can't write the end of" in farm.text()
    told = json.loads(place.content("result.json"))
    assert told["this_farm"]["outputs_not_whole"] == 2


# ---- real file systems --------------------------------------------------------------


def mount(*arguments: str | Path) -> None:
    command = ["mount", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip(f"can't mount: {ended.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A file system of 2 MiB."""
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a tmpfs")
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", path)
    yield path
    while os.path.ismount(path):
        subprocess.run(["umount", "-l", str(path)], check=True)


def place_on(create_place, disk, count):
    place = create_place([f"{each} # {'a' * 300}" for each in notes_ids(count)])
    (disk / "workdir").mkdir()
    place.workdir.symlink_to(disk / "workdir")
    return place


def fill(disk):
    """Leave no free block."""
    with (disk / "filler").open("ab", buffering=0) as filler:
        try:
            while filler.write(b"x" * 4096):
                pass
        except OSError:
            return


def test_a_full_disk_that_gets_room_in_time_is_told_and_no_more(create_place, disk):
    place = place_on(create_place, disk, 80)
    farm = place.start("--proc", "4", "--grace", "60")
    wait_until(lambda: len(place.ids("finished")) >= 8)
    fill(disk)
    place.allow()
    wait_until(lambda: CAN_NOT in farm.text() or farm.has_ended())
    (disk / "filler").unlink()
    assert "No space left on device" in farm.text()
    assert_it_went_on_as_if_nothing_had_been(place, farm, 80)


def become_read_only(disk):
    """What is open stays open, as when a server fences a client off."""
    beside = disk.with_name("read-only")
    beside.mkdir()
    mount("--bind", disk, beside)
    mount("-o", "remount,bind,ro", beside)
    mount("--bind", beside, disk)
    subprocess.run(["umount", "-l", str(beside)], check=True)


def test_a_disk_that_is_read_only_for_a_while_is_told_and_no_more(create_place, disk):
    place = place_on(create_place, disk, 80)
    farm = place.start("--proc", "4", "--grace", "60")
    wait_until(lambda: len(place.ids("finished")) >= 8)
    become_read_only(disk)
    place.allow()
    wait_until(lambda: CAN_NOT in farm.text() or farm.has_ended())
    subprocess.run(["umount", "-l", str(disk)], check=True)
    assert "Read-only file system" in farm.text()
    assert farm.wait() in (0, 75), farm.text()
    # a task whose log could not be made in between is no failure either
    assert place.content("failed") == b""
    if farm.wait() == 75:
        assert place.run() == 0
    assert place.finished() == list(range(80))
    place.assert_sound()


def test_a_disk_that_is_read_only_from_the_start_is_told_in_one_sentence(
    create_place, disk
):
    place = place_on(create_place, disk, 3)
    become_read_only(disk)
    farm = place.start()
    assert farm.wait() == 2
    assert len([e for e in farm.text().splitlines() if "Read-only" in e]) <= 1
    assert "Traceback" not in farm.text()
    assert not started(place)
    subprocess.run(["umount", "-l", str(disk)], check=True)
    assert list((disk / "workdir").iterdir()) == []
    assert place.run() == 0
