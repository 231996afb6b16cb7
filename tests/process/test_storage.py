"""Storage that gives way in mid-run: the farm stops with 75, and damages nothing.

Rules of this file: a full disk is a small tmpfs, which only root can mount, or a limit
on the size of files, which everyone has.
"""

import fcntl
import os
import shutil
import signal
import subprocess
from collections import Counter
from contextlib import suppress

import pytest

from tests.support import survivors, wait_until

LONG = "a" * 300


def notes_ids(count, seconds=0.05):
    """Commands that note their ids elsewhere; long texts fill the status files."""
    return [f"echo $PROC_NUMBER >> starts; sleep {seconds} # {LONG}"] * count


WAITS = "[ $PROC_NUMBER -lt 12 ] || until [ -e go ]; do sleep 0.02; done"
"""All but the first wait until the test lets them go on."""


def wait_after_first(count):
    """The same commands; the farm has not ended before the test lets them go on."""
    note = "echo $PROC_NUMBER >> starts"
    return [f"{note}; {WAITS}; sleep 0.05 # {LONG}"] * count


def started(place):
    return Counter(map(int, place.notes("starts")))


def assert_it_stopped(place, farm, farm_token):
    """With 75, in words, with no process left."""
    assert farm.wait() == 75, farm.text()
    text = farm.text()
    assert "Traceback" not in text
    assert "exit status 75" in text
    wait_until(lambda: not survivors(farm_token))


def assert_the_next_start_finishes(place, count):
    """And runs nothing again that stood in ``finished``."""
    finished, before = set(place.ids("finished")), started(place)
    status = place.run()
    assert status == 0
    assert not set(started(place) - before) & finished
    place.assert_all_finished()


def remove(directory):
    """Remove a directory that a farm may write into meanwhile."""

    def is_gone():
        shutil.rmtree(directory, ignore_errors=True)
        return not directory.exists()

    wait_until(is_gone)


# ---- a full disk ---------------------------------------------------------------------


class Disk:
    """A small file system."""

    def __init__(self, path, options):
        self.path = path
        path.mkdir()
        self._mount("-t", "tmpfs", "-o", options, "tmpfs")

    def _mount(self, *arguments):
        command = ["mount", *arguments, str(self.path)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            pytest.skip(f"can't mount a tmpfs: {ended.stderr.strip()}")

    def change(self, options):
        self._mount("-o", f"remount,{options}")

    def fill(self):
        """Leave no free block."""
        with (self.path / "filler").open("ab", buffering=0) as filler:
            try:
                while filler.write(b"x" * 4096):
                    pass
            except OSError:
                return

    def clear(self):
        (self.path / "filler").unlink()

    def end(self):
        subprocess.run(["umount", "-l", str(self.path)], check=False)


@pytest.fixture
def create_disk(tmp_path):
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a tmpfs")
    disks = []

    def create(options):
        disk = Disk(tmp_path / "disk", options)
        disks.append(disk)
        return disk

    yield create
    for disk in disks:
        disk.end()


def place_on(create_place, disk, commands):
    """The workdir is on the disk; the list and what the commands note is not."""
    place = create_place(commands)
    place.workdir.symlink_to(disk.path / "workdir")
    (disk.path / "workdir").mkdir()
    return place


def test_a_disk_that_fills_up_stops_the_farm_is_told_and_damages_nothing(
    create_place, create_disk, farm_token
):
    disk = create_disk("size=2m")
    place = place_on(create_place, disk, wait_after_first(200))
    farm = place.start("--proc", "4")
    wait_until(lambda: len(place.ids("finished")) >= 8)
    disk.fill()
    place.allow()
    assert_it_stopped(place, farm, farm_token)
    assert "No space left on device" in farm.text()
    place.assert_sound()
    assert place.content("failed") == b""
    told = told_as_unrecorded(farm)
    assert told
    # what stands in a file was recorded, and will not run again
    assert not told & {*place.ids("finished"), *place.ids("failed")}
    assert told <= set(started(place))
    disk.clear()
    assert_the_next_start_finishes(place, 200)


def told_as_unrecorded(farm):
    """The ids that the farm says could not be recorded, but for "and 5 more"."""
    said = [e for e in farm.text().splitlines() if "could not be recorded" in e]
    words = " ".join(e.partition(" and ")[0] for e in said).replace(",", "").split()
    return {int(word) for word in words if word.isdigit()}


def test_a_disk_that_is_full_from_the_start_is_told_in_one_sentence(
    create_place, create_disk
):
    disk = create_disk("size=256k")
    place = place_on(create_place, disk, notes_ids(3, 0))
    disk.fill()
    farm = place.start()
    assert farm.wait() == 75
    assert "No space left on device" in farm.text()
    assert "Traceback" not in farm.text()
    assert not started(place)
    place.assert_sound()
    disk.clear()
    assert_the_next_start_finishes(place, 3)


def test_a_full_disk_that_gets_room_during_the_stop_keeps_the_promises(
    create_place, create_disk, farm_token
):
    disk = create_disk("size=2m")
    note = "echo $PROC_NUMBER >> starts"
    ignores = f"{note}; trap '' TERM; {WAITS}; sleep 0.4 # {LONG}"
    place = place_on(create_place, disk, [ignores] * 60)
    farm = place.start("--proc", "8")
    wait_until(lambda: len(place.ids("finished")) >= 8)
    disk.fill()
    place.allow()
    wait_until(lambda: "ended now" in farm.text() or farm.has_ended())
    disk.clear()
    assert_it_stopped(place, farm, farm_token)
    place.assert_sound()
    assert_the_next_start_finishes(place, 60)


def test_a_task_without_a_log_for_lack_of_inodes_is_not_booked_as_failed(
    create_place, create_disk, farm_token
):
    # a quota on the number of files: the status files can still be written
    disk = create_disk("size=4m,nr_inodes=40")
    place = place_on(create_place, disk, notes_ids(80, 0.01))
    farm = place.start("--proc", "4")
    assert_it_stopped(place, farm, farm_token)
    assert place.content("failed") == b""
    place.assert_sound()
    disk.change("nr_inodes=400")
    assert_the_next_start_finishes(place, 80)


# ---- a limit on the size of files ----------------------------------------------------


@pytest.mark.parametrize("blocks", [11, 40])
def test_a_file_that_can_not_grow_is_cut_back_to_whole_lines(
    create_place, farm_token, blocks
):
    # each file of the farm may have so many blocks of 512 bytes: a write that crosses
    # the limit is written in part, which is what a full disk does
    place = create_place(notes_ids(60, 0.02))
    before = ("sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh")
    farm = place.start("--proc", "4", before=before)
    assert farm.wait() == 75
    assert "File too large" in farm.text()
    assert "Traceback" not in farm.text()
    wait_until(lambda: not survivors(farm_token))
    place.assert_sound()
    for name in ("finished", "failed", "toprocess"):
        assert place.content(name)[-1:] in (b"", b"\n")
    assert_the_next_start_finishes(place, 60)


# ---- a workdir that goes away --------------------------------------------------------


def test_a_workdir_that_is_removed_stops_the_farm(create_place, farm_token):
    place = create_place(wait_after_first(400))
    farm = place.start("--proc", "4")
    wait_until(lambda: len(place.ids("finished")) >= 4)
    remove(place.workdir)
    place.allow()
    assert_it_stopped(place, farm, farm_token)
    assert str(place.workdir) in farm.text()
    # it must not come back: a new one without its files would begin at the first task
    assert not place.workdir.exists()


def test_a_workdir_that_is_moved_away_can_be_moved_back(create_place, farm_token):
    place = create_place(wait_after_first(100))
    farm = place.start("--proc", "4")
    wait_until(lambda: len(place.ids("finished")) >= 4)
    moved = place.directory / "moved"
    place.workdir.rename(moved)
    place.allow()
    assert_it_stopped(place, farm, farm_token)
    assert not place.workdir.exists()
    moved.rename(place.workdir)
    place.assert_sound()
    assert place.content("failed") == b""
    assert_the_next_start_finishes(place, 100)


def test_a_workdir_that_is_replaced_is_not_written_into(create_place, farm_token):
    place = create_place(wait_after_first(100))
    farm = place.start("--proc", "4")
    wait_until(lambda: len(place.ids("finished")) >= 4)
    with (place.workdir / "lock").open("w") as lock:
        # not while it writes: it would go on writing, into the new one
        fcntl.flock(lock, fcntl.LOCK_EX)
        place.workdir.rename(place.directory / "moved")
        place.workdir.mkdir()
        (place.workdir / "logs").mkdir()
    place.allow()
    assert_it_stopped(place, farm, farm_token)
    assert place.content("finished") == place.content("failed") == b""
    assert not (place.workdir / "toprocess").exists()


def test_logs_that_are_removed_fail_no_task(create_place, farm_token):
    place = create_place(wait_after_first(60))
    farm = place.start("--proc", "4")
    wait_until(lambda: len(place.ids("finished")) >= 4)
    remove(place.workdir / "logs")
    place.allow()
    assert_it_stopped(place, farm, farm_token)
    assert place.content("failed") == b""
    assert_the_next_start_finishes(place, 60)


def put_a_directory_at(path):
    """In the place of a file that a farm may write at any moment."""

    def is_there():
        path.unlink(missing_ok=True)
        with suppress(FileExistsError):
            path.mkdir()
        return path.is_dir()

    wait_until(is_there)


def test_what_stands_in_a_file_is_not_told_as_unrecorded(create_place, farm_token):
    # the table of attempts comes last: what it says no more has been recorded
    place = create_place(wait_after_first(60))
    farm = place.start("--proc", "4")
    wait_until(lambda: len(place.ids("finished")) >= 4)
    put_a_directory_at(place.workdir / "attempts.tsv")
    place.allow()
    assert farm.wait() in (0, 75)
    wait_until(lambda: not survivors(farm_token))
    told = told_as_unrecorded(farm)
    assert not told & {*place.ids("finished"), *place.ids("failed")}
    place.assert_sound()


def test_a_claim_that_is_removed_stops_the_farm(create_place, farm_token):
    # as a farm on another host does that takes this one for dead
    place = create_place(wait_after_first(60))
    farm = place.start("--proc", "4")
    wait_until(lambda: len(place.ids("finished")) >= 4)
    (name,) = place.claims()
    (place.workdir / "claims" / name).unlink()
    recorded = len(place.ids("finished"))
    place.allow()
    assert_it_stopped(place, farm, farm_token)
    # what was under way when the claim went may have been recorded; nothing after it
    assert len(place.ids("finished")) <= recorded + 20
    assert "claim" in farm.text()


def test_a_lock_held_for_seconds_only_delays_the_farm(create_place):
    place = create_place(notes_ids(20, 0))
    place.workdir.mkdir()
    with (place.workdir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        farm = place.start()
        wait_until(lambda: "held by another farmer; waiting" in farm.text())
        assert str(place.workdir / "lock") in farm.text()
        assert not farm.has_ended()
        assert not place.claims()
    assert farm.wait() == 0
    place.assert_sound()


def test_a_lock_that_nobody_gives_back_does_not_keep_a_farm_from_stopping(
    create_place, farm_token
):
    place = create_place(["echo $PROC_NUMBER >> starts; sleep 1000"] * 4)
    farm = place.start()
    place.await_notes("starts", 4)
    with (place.workdir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        farm.send_signal(signal.SIGUSR1)
        # the grace, the time that a stop gives the lock, and not as much again
        assert farm.wait() == 75
        wait_until(lambda: not survivors(farm_token))
    assert str(place.workdir / "lock") in farm.text()
    again = place.start()
    place.await_notes("starts", 8)
    again.send_signal(signal.SIGUSR1)
    assert again.wait() == 75
    assert place.ids("toprocess") == [0, 1, 2, 3]
    place.assert_sound()
