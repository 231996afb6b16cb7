"""Keepers of logs that make no file for each task, on a real directory."""

import os
import random
import resource
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mpifarm.output import packed as scratch
from mpifarm.output.keepers import create_log_keeper, note_in_log
from mpifarm.output.reader import OutputReader, find_outputs, list_kept_ids
from mpifarm.output.records import SLOT, parse_records
from mpifarm.output.task_log import LogKeeper, LogPlace
from mpifarm.system import task_command

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


@pytest.fixture(autouse=True)
def nobody_writes(monkeypatch):
    """No command was started here, and nobody has an output open."""
    monkeypatch.setattr(scratch.ScratchKeeper, "_find_offspring", lambda _: set())
    monkeypatch.setattr(task_command, "last_command", lambda: 0)


def place_of(logs: Path, kind: str, farm: str = "f00dcafe") -> LogPlace:
    return LogPlace(str(logs), farm, 3, kind)


class Site:
    """A directory of logs, and workers that write there."""

    def __init__(self, directory: Path) -> None:
        self.logs = directory / "logs"
        self.logs.mkdir()

    def keeper(self, kind: str, worker: int = 0, farm: str = "f00dcafe") -> LogKeeper:
        return create_log_keeper(place_of(self.logs, kind, farm), worker)

    def names(self, directory: str = "") -> list[str]:
        path = self.logs / directory
        return sorted(path.name for path in path.iterdir() if path.is_file())

    def read(self, taskid: int, *, split: bool = True) -> list[bytes]:
        outputs = find_outputs(str(self.logs), taskid, split=split)
        return [read_all(OutputReader(output)) for output in outputs]


def read_all(reader: OutputReader) -> bytes:
    parts = []
    while part := reader.read():
        parts.append(part)
    reader.close()
    return b"".join(parts)


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(tmp_path)


def run(
    keeper: LogKeeper,
    taskid: int,
    content: bytes,
    *,
    attempt: int = 1,
    failed: bool = False,
) -> None:
    log = keeper.begin(taskid, attempt)
    os.write(log.fileno(), content)
    keeper.end(log, failed=failed)


# ---- packed -------------------------------------------------------------------------


def test_packed_outputs_are_read_as_they_were_written(site):
    keeper = site.keeper("packed")
    for taskid, content in enumerate((b"a\n", b"", b"\0\xff no newline")):
        run(keeper, taskid, content)
    assert [site.read(taskid) for taskid in range(4)] == [
        [b"a\n"],
        [b""],
        [b"\0\xff no newline"],
        [],
    ]


def test_many_tasks_leave_two_files_for_each_rank(site):
    keepers = [site.keeper("packed", worker) for worker in range(4)]
    for taskid in range(100):
        run(keepers[taskid % 4], taskid, b"x" * taskid)
    for keeper in keepers:
        keeper.close()
    assert site.names("packed") == ["f00dcafe.3.index", "f00dcafe.3.pack"]
    assert site.names() == []
    assert list_kept_ids(str(site.logs)) == set(range(100))


def test_a_worker_without_a_task_leaves_no_file(site):
    keeper = site.keeper("packed")
    keeper.close()
    assert not os.path.exists(site.logs / "packed")


def test_a_large_output_is_not_copied(site, monkeypatch):
    monkeypatch.setattr(scratch, "MAX_COPIED", 10)
    keeper = site.keeper("packed")
    run(keeper, 0, b"x" * 10)
    run(keeper, 1, b"y" * 11)
    run(keeper, 2, b"z")
    keeper.close()
    assert (site.logs / "packed" / "f00dcafe.3.0.0").read_bytes() == b"y" * 11
    assert (site.logs / "packed" / "f00dcafe.3.pack").read_bytes() == b"x" * 10 + b"z"
    assert [site.read(taskid) for taskid in range(3)] == [
        [b"x" * 10],
        [b"y" * 11],
        [b"z"],
    ]


def test_a_command_that_empties_its_output_empties_no_other(site):
    keeper = site.keeper("packed")
    run(keeper, 0, b"kept\n")
    log = keeper.begin(1, 1)
    os.write(log.fileno(), b"gone\n")
    os.truncate(log.name, 0)  # echo oops > /dev/stderr
    os.write(log.fileno(), b"oops\n")
    keeper.end(log, failed=False)
    assert (site.read(0), site.read(1)) == ([b"kept\n"], [b"oops\n"])


def test_what_writes_on_after_its_attempt_writes_into_its_own_log(site, monkeypatch):
    keeper = site.keeper("packed")
    monkeypatch.setattr(task_command, "last_command", os.getpgrp)
    log = keeper.begin(0, 1)
    left = os.dup(log.fileno())
    os.write(left, b"before\n")
    keeper.end(log, failed=False)
    monkeypatch.setattr(task_command, "last_command", lambda: 0)
    run(keeper, 1, b"next\n")
    os.write(left, b"after\n")
    os.close(left)
    assert (site.read(0), site.read(1)) == ([b"before\nafter\n"], [b"next\n"])


def test_a_user_runners_child_that_has_the_output_open_is_found(site, monkeypatch):
    read_end, write_end = os.pipe()
    keeper = site.keeper("packed")
    log = keeper.begin(0, 1)
    pid = os.fork()
    if not pid:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    monkeypatch.setattr(scratch.ScratchKeeper, "_find_offspring", lambda _: {pid})
    try:
        keeper.end(log, failed=False)
    finally:
        os.close(write_end)
        os.waitpid(pid, 0)
    run(keeper, 1, b"next\n")
    assert site.names("packed")[0] == "f00dcafe.3.0.0"


def test_an_output_that_cannot_be_packed_stays_where_it_is(site):
    keeper = site.keeper("packed")
    (site.logs / "packed").mkdir()
    (site.logs / "packed" / "f00dcafe.3.pack").mkdir()
    run(keeper, 0, b"here\n")
    run(keeper, 1, b"there\n")
    assert (site.read(0), site.read(1)) == ([b"here\n"], [b"there\n"])


def test_records_that_the_disk_does_not_take_are_written_later(site):
    keeper = site.keeper("packed")
    index = site.logs / "packed" / "f00dcafe.3.index"
    (site.logs / "packed").mkdir()
    index.mkdir()
    run(keeper, 0, b"a\n")
    with pytest.raises(OSError, match="it is a directory"):
        keeper.begin(1, 1)
    index.rmdir()
    run(keeper, 1, b"b\n")
    keeper.close()
    assert (site.read(0), site.read(1)) == ([b"a\n"], [b"b\n"])


def test_no_link_is_followed_and_no_file_of_others_written_to(site, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    packed = site.logs / "packed"
    packed.mkdir()
    for name in ("0.0", "running", "pack", "index"):
        (packed / f"f00dcafe.3.{name}").symlink_to(target)
    keeper = site.keeper("packed")
    with pytest.raises(OSError, match="it is a link"):
        keeper.begin(0, 1)
    (packed / "f00dcafe.3.running").unlink()
    run(keeper, 0, b"output")
    assert target.read_bytes() == b"precious"
    assert (packed / "f00dcafe.3.0.1").read_bytes() == b"output"


def test_a_new_farm_touches_nothing_of_an_old_one(site):
    run(site.keeper("packed", farm="01d01d01"), 0, b"old\n")
    before = {
        name: (site.logs / "packed" / name).read_bytes()
        for name in site.names("packed")
    }
    run(site.keeper("packed", farm="11111111"), 0, b"new\n")
    assert site.read(0) == [b"old\n", b"new\n"]
    assert all((site.logs / "packed" / n).read_bytes() == c for n, c in before.items())


# ---- failed -------------------------------------------------------------------------


def test_only_failed_tasks_leave_a_log(site):
    keeper = site.keeper("failed")
    run(keeper, 0, b"fine\n")
    run(keeper, 1, b"bad\n", failed=True)
    run(keeper, 2, b"fine\n")
    run(keeper, 3, b"", failed=True)
    keeper.close()
    assert site.names() == ["log_1", "log_3"]
    assert (site.logs / "log_1").read_bytes() == b"bad\n"
    assert site.names("unkept") == []


def test_a_second_failure_stands_behind_the_first(site, monkeypatch):
    monkeypatch.setenv("MPIFARM_FARM", "f00dcafe")
    keeper = site.keeper("failed")
    large = os.urandom(3 << 20)
    run(keeper, 1, b"first", failed=True)
    run(keeper, 1, large, attempt=2, failed=True)
    run(keeper, 2, b"fine\n")
    first, second = (site.logs / "log_1").read_bytes().split(b" ===\n", 1)
    assert first.startswith(b"first\n=== mpifarm: started again, attempt 2 of farm f00")
    assert second == large
    assert site.read(1) == [b"first\n", large]


def test_the_output_of_a_failure_that_goes_on_goes_on_in_its_log(site, monkeypatch):
    keeper = site.keeper("failed")
    monkeypatch.setattr(task_command, "last_command", os.getpgrp)
    log = keeper.begin(0, 1)
    left = os.dup(log.fileno())
    keeper.end(log, failed=True)
    monkeypatch.setattr(task_command, "last_command", lambda: 0)
    run(keeper, 1, b"next\n", failed=True)
    os.write(left, b"after\n")
    os.close(left)
    assert (site.read(0), site.read(1)) == ([b"after\n"], [b"next\n"])


# ---- kills --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["packed", "failed"])
def test_what_an_attempt_has_written_is_there_while_it_runs(site, kind):
    keeper = site.keeper(kind, worker=2)
    run(keeper, 4, b"earlier\n")
    log = keeper.begin(5, 1)
    os.write(log.fileno(), b"until now\n")
    assert site.read(5) == [b"until now\n"]


@pytest.mark.parametrize("kind", ["packed", "failed"])
def test_a_worker_keeps_what_the_one_before_it_was_at(site, kind):
    log = site.keeper(kind).begin(5, 1)
    os.write(log.fileno(), b"until it died\n")
    after = site.keeper(kind)
    run(after, 6, b"next\n")
    log = after.begin(7, 1)
    assert site.read(5) == [b"until it died\n"]
    assert site.read(6) == ([b"next\n"] if kind == "packed" else [])


@pytest.mark.parametrize("kind", ["packed", "failed"])
def test_a_dead_workers_attempt_gets_a_note(site, kind):
    log = site.keeper(kind, worker=2).begin(5, 1)
    os.write(log.fileno(), b"until it died")
    place = place_of(site.logs, kind)
    note_in_log(place, 2, 5, "ended after 1 s")
    note_in_log(place, 2, 6, "ended after 2 s")
    note = b"=== mpifarm: ended after %d s ===\n"
    assert site.read(5) == [b"until it died\n" + note % 1]
    assert site.read(6) == [note % 2]


def test_a_death_between_the_record_and_the_emptying_doubles_nothing(site, monkeypatch):
    keeper = site.keeper("packed")
    monkeypatch.setattr(type(keeper), "_empty", lambda self: None)
    run(keeper, 5, b"once\n")
    monkeypatch.undo()
    assert site.read(5) == [b"once\n"]
    monkeypatch.setattr(scratch.ScratchKeeper, "_find_offspring", lambda _: set())
    run(site.keeper("packed"), 6, b"next\n")
    assert (site.read(5), site.read(6)) == ([b"once\n"], [b"next\n"])


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_each_whole_output_is_found(site, monkeypatch, seed):
    """Workers of two farms that take turns, are killed, and meet torn indexes."""
    chance = random.Random(seed)
    monkeypatch.setattr(scratch, "MAX_COPIED", 200)
    farms = ["aaaaaaaa", "bbbbbbbb"]
    keepers: dict[tuple[str, int], LogKeeper] = {}
    expected: dict[int, list[bytes]] = {}
    clock = iter(range(10**9, 2 * 10**9))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    for taskid in (chance.randrange(60) for _ in range(200)):
        place = chance.choice(farms), chance.randrange(3)
        keeper = keepers.setdefault(place, site.keeper("packed", place[1], place[0]))
        log = keeper.begin(taskid, 1)
        content = odd_content(chance)
        os.write(log.fileno(), content)
        if chance.random() < 0.1:
            del keepers[place]  # killed; a new worker comes in its place
        else:
            keeper.end(log, failed=False)
        expected.setdefault(taskid, []).append(content)
        if chance.random() < 0.1:
            tear(site, chance)
    for taskid, contents in expected.items():
        assert list(filter(None, site.read(taskid))) == list(filter(None, contents))


def odd_content(chance: random.Random) -> bytes:
    """Random bytes, among them what looks like records and like our own lines."""
    pieces = [
        b"",
        b"@1 1 0 1764000000.123456 - 0 7.\n",
        b"=== mpifarm: started again, attempt 2 of farm a, now, here ===\n",
        b"\0" * SLOT,
        chance.randbytes(chance.randrange(400)),
    ]
    return b"".join(chance.choice(pieces) for _ in range(chance.randrange(3)))


def tear(site: Site, chance: random.Random) -> None:
    """What a full disk leaves: the beginning of a record, without its end."""
    for path in (site.logs / "packed").glob("*.index"):
        record = path.read_bytes()[:30]
        with path.open("ab") as index:
            index.write(record[: chance.randrange(len(record) or 1)])


def test_slots_are_written_in_place(site):
    keeper = site.keeper("packed", worker=2)
    for taskid in range(5):
        run(keeper, taskid, b"")
    slots = (site.logs / "packed" / "f00dcafe.3.running").read_bytes()
    assert len(slots) == 3 * SLOT
    assert [record.taskid for record in parse_records(slots)] == [4]


# ---- what may not reach another task's output ---------------------------------------


def test_what_a_dead_worker_left_and_cannot_be_kept_is_in_no_other_log(site):
    dead = site.keeper("failed")
    os.write(dead.begin(7, 1).fileno(), b"of task 7\n")
    (site.logs / "log_7").mkdir()
    keeper = site.keeper("failed")
    run(keeper, 8, b"of task 8\n", failed=True)
    assert site.read(8) == [b"of task 8\n"]


def test_what_a_dead_worker_left_is_kept_though_its_successor_has_no_task(site):
    dead = site.keeper("failed")
    os.write(dead.begin(7, 1).fileno(), b"of task 7\n")
    site.keeper("failed").close()
    assert site.names() == ["log_7"]
    assert site.names("unkept") == []
    assert site.read(7) == [b"of task 7\n"]


@pytest.mark.parametrize("kind", ["all", "packed"])
def test_a_log_that_a_runner_has_kept_reaches_no_later_output(site, kind):
    keeper = site.keeper(kind)
    first = keeper.begin(0, 1)
    first.write("first\n")
    keeper.end(first, failed=False)
    second = keeper.begin(1, 1)
    with suppress(OSError, ValueError):
        first.write("late\n")
        first.flush()
    second.write("second\n")
    keeper.end(second, failed=False)
    assert site.read(1) == [b"second\n"]


def test_what_is_still_written_behind_an_older_attempt_is_not_written_over(
    site, monkeypatch
):
    keeper = site.keeper("failed")
    run(keeper, 5, b"attempt 1\n", failed=True)
    writer = os.open(site.logs / "log_5", os.O_WRONLY | os.O_APPEND)
    read = os.read

    def read_while_it_writes(descriptor: int, most: int) -> bytes:
        os.write(writer, b"left behind\n")
        return read(descriptor, most)

    monkeypatch.setattr(os, "read", read_while_it_writes)
    run(keeper, 5, b"attempt 2\n" * 3, attempt=2, failed=True)
    monkeypatch.undo()
    content = (site.logs / "log_5").read_bytes()
    assert content.count(b"left behind\n") == 2
    assert b"attempt 2\n" * 3 in content


@pytest.mark.parametrize("kind", ["packed", "failed"])
def test_what_is_on_the_disk_is_kept_though_the_rest_does_not_fit(site, kind):
    keeper = site.keeper(kind)
    log = keeper.begin(5, 1)
    os.write(log.fileno(), b"there\n")
    log.write("last words")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, hard))
    try:
        keeper.end(log, failed=True)
        assert log.trouble.endswith("File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run(keeper, 6, b"other\n")
    keeper.close()
    assert site.read(5) == [b"there\n"]


def test_tasks_that_print_nothing_have_an_empty_output(site):
    keeper = site.keeper("packed")
    run(keeper, 0, b"")
    keeper.close()
    assert site.names("packed") == ["f00dcafe.3.index"]
    assert site.read(0) == [b""]


def test_records_that_wait_for_the_disk_are_not_lost_with_their_worker(site):
    keeper = site.keeper("packed")
    index = site.logs / "packed" / "f00dcafe.3.index"
    (site.logs / "packed").mkdir()
    index.mkdir()
    run(keeper, 0, b"a\n")
    index.rmdir()
    run(site.keeper("packed"), 1, b"b\n")  # the worker was killed, and has a successor
    assert (site.read(0), site.read(1)) == ([b"a\n"], [b"b\n"])


@pytest.mark.parametrize("failed", [False, True])
def test_what_an_attempt_that_is_not_kept_goes_on_to_write_is_in_no_other_log(
    site, monkeypatch, failed
):
    keeper = site.keeper("failed")
    if failed:
        run(keeper, 0, b"attempt 1\n", failed=True)
    monkeypatch.setattr(task_command, "last_command", os.getpgrp)
    log = keeper.begin(0, 2)
    left = os.dup(log.fileno())
    keeper.end(log, failed=failed)
    monkeypatch.setattr(task_command, "last_command", lambda: 0)
    log = keeper.begin(1, 1)
    os.write(left, b"late\n")
    os.close(left)
    os.write(log.fileno(), b"own\n")
    keeper.end(log, failed=True)
    assert site.read(1) == [b"own\n"]


def test_an_output_that_the_pack_takes_only_a_part_of_stays_in_its_scratch(
    site, monkeypatch
):
    keeper = site.keeper("packed")
    run(keeper, 0, b"before\n")
    write = os.write

    def write_half(fd: int, content: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".pack"):
            content = content[: len(content) // 2]
        return write(fd, content)

    monkeypatch.setattr(os, "write", write_half)
    run(keeper, 1, b"whole\n")
    monkeypatch.setattr(os, "write", write)
    run(keeper, 2, b"after\n")
    assert [site.read(taskid) for taskid in range(3)] == [
        *([b"before\n"], [b"whole\n"], [b"after\n"])
    ]


@pytest.mark.parametrize("kind", ["packed", "failed"])
def test_an_output_whose_size_can_not_be_asked_is_kept_as_it_is(
    site, monkeypatch, kind
):
    keeper = site.keeper(kind)
    log = keeper.begin(0, 1)
    os.write(log.fileno(), b"there\n")

    def fail(*args: object) -> int:
        raise OSError("no answer")

    lseek = os.lseek
    monkeypatch.setattr(os, "lseek", fail)
    keeper.end(log, failed=True)
    monkeypatch.setattr(os, "lseek", lseek)
    run(keeper, 1, b"next\n", failed=True)
    assert (site.read(0), site.read(1)) == ([b"there\n"], [b"next\n"])


@pytest.mark.parametrize("kind", ["packed", "failed"])
def test_a_scratch_that_can_not_be_emptied_is_no_later_attempts(
    site, monkeypatch, kind
):
    def fail(*args: object) -> None:
        raise OSError("no answer")

    keeper = site.keeper(kind)
    monkeypatch.setattr(os, "ftruncate", fail)
    run(keeper, 0, b"done\n")
    run(keeper, 1, b"next\n", failed=True)
    assert site.read(1) == [b"next\n"]
    assert site.read(0) == ([b"done\n"] if kind == "packed" else [])


def test_an_output_of_a_dead_worker_that_is_still_written_to_stays_one(site):
    log = site.keeper("packed").begin(5, 1)
    left = os.dup(log.fileno())
    os.write(left, b"until it died\n")
    run(site.keeper("packed"), 6, b"next\n")
    os.write(left, b"late\n")
    os.close(left)
    assert (site.read(5), site.read(6)) == ([b"until it died\nlate\n"], [b"next\n"])


def test_a_worker_that_ends_before_the_disk_takes_its_records_leaves_the_output(site):
    keeper = site.keeper("packed")
    index = site.logs / "packed" / "f00dcafe.3.index"
    (site.logs / "packed").mkdir()
    index.mkdir()
    run(keeper, 0, b"a\n")
    keeper.close()
    index.rmdir()
    assert site.read(0) == [b"a\n"]


def test_a_worker_that_ends_takes_no_slot_from_another_and_keeps_nothing_open(site):
    ending, running = site.keeper("packed"), site.keeper("packed", worker=1)
    run(ending, 4, b"done\n")
    log = running.begin(5, 1)
    os.write(log.fileno(), b"until now\n")
    before = open_files("f00dcafe.3.running")
    ending.close()
    assert open_files("f00dcafe.3.running") == before - 1
    assert site.read(5) == [b"until now\n"]
    running.end(log, failed=False)


def open_files(name: str) -> int:
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{descriptor}").endswith(name)
    return found


def test_an_output_that_can_not_be_moved_is_told_and_kept(site, monkeypatch):
    def fail(*args: object) -> None:
        raise OSError(5, "no answer")

    keeper = site.keeper("failed")
    log = keeper.begin(0, 1)
    os.write(log.fileno(), b"there\n")
    monkeypatch.setattr(os, "rename", fail)
    keeper.end(log, failed=True)
    scratch_path = site.logs / "unkept" / "f00dcafe.3.0.0"
    told = "can't move what the task has written away from"
    assert log.trouble == f"{told} {scratch_path}: no answer"
    assert scratch_path.read_bytes() == b"there\n"


def test_a_worker_itself_is_none_that_its_task_has_left(site, monkeypatch):
    keeper = site.keeper("packed")
    own = {os.getpid()}
    monkeypatch.setattr(scratch.ScratchKeeper, "_find_offspring", lambda _: own)
    run(keeper, 0, b"x\n")
    assert (site.logs / "packed" / "f00dcafe.3.pack").read_bytes() == b"x\n"


def test_a_worker_keeps_as_many_files_open_after_many_tasks_as_after_one(
    site, monkeypatch
):
    monkeypatch.setattr(scratch, "MAX_COPIED", 10)
    keeper, opened = site.keeper("packed"), []
    for taskid in range(12):
        run(keeper, taskid, b"x" * (5 if taskid % 2 else 50))
        opened.append(len(os.listdir("/proc/self/fd")))
    assert opened[2::2] == opened[2:3] * 5
    assert opened[3::2] == opened[3:4] * 5
