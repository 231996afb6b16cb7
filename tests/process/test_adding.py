"""Tasks that are added while farms run: by hand, by ``mpifarm add``, by a pipe.

Rules of this file: each command notes its own start, so that what ran, and how often,
is known without asking a farmer.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from shlex import quote

import pytest

from tests.farm_driver import MPIFARM
from tests.required import find_tool
from tests.support import wait_until

TAKE_UP_SECONDS = 2.0
"""Seconds within which a farm takes tasks up; tests give a loaded machine more."""


def mark(name, seconds=0.0):
    """A command that notes its name and takes so long; plain farmers have no shell."""
    return f"./mark {name} {seconds}"


def append(place, *lines):
    """As a shell's >> does it."""
    with place.tasklist.open("a") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def add(place, *words, status=0, env=None):
    """Run ``mpifarm add`` to its end; what it has printed."""
    child = place.start_command([*MPIFARM, "add", str(place.tasklist), *words], env=env)
    assert child.wait() == status, child.text()
    return child.text()


def create(create_place, names=(), seconds=0.0):
    """A list whose commands note their names."""
    place = create_place([mark(name, seconds) for name in names])
    place.script("mark", 'echo "$1" >> starts', 'exec sleep "$2"')
    return place


def begin(create_place, *names):
    """A farm that has begun a list, and waits for more when that is done."""
    place = create(create_place, names)
    farm = place.start("--follow", "--proc", "2")
    place.await_notes("starts", len(names))
    return place, farm


def often(place):
    return Counter(place.notes("starts"))


def drain(place, farm, status=0):
    (place.workdir / "drain").touch()
    assert farm.wait() == status, farm.text()
    (place.workdir / "drain").unlink()


# ---- one farm -----------------------------------------------------------------------


def test_a_farm_runs_what_is_appended_or_added_while_it_waits(create_place):
    place, farm = begin(create_place, "a", "b")
    append(place, mark("c"), "", "# a comment", mark("d"))
    place.await_notes("starts", 4)
    with place.tasklist.open("a") as stream:
        stream.write("./mark e 0")
        stream.flush()
        said = json.loads(add(place, mark("f"), "--json"))
        assert (said["tasks"], said["command"]) == ("5", None)
        assert len(said["farms"]) == 1
    place.await_notes("starts", 6)
    drain(place, farm)
    assert often(place) == Counter("abcdef")
    assert place.finished() == [0, 1, 2, 3, 4, 5]
    assert "all tasks of the list are finished" in farm.text()
    place.assert_sound()


def test_a_task_that_is_added_behind_others_waits_for_them(create_place):
    place, farm = begin(create_place, "a")
    add(place, "sleep 1; false", mark("slow", 1))
    add(place, mark("never"), "--after", "1")
    add(place, mark("last"), "--after", "2")
    place.await_notes("starts", 3)
    wait_until(lambda: len(place.counts()) == 5)
    drain(place, farm, status=1)
    assert place.notes("starts") == ["a", "slow", "last"]
    assert place.failed() == [1, 3]


LEFT = "leaves it waiting: it has no limit for the kind 'zz'"


def test_a_task_of_a_kind_without_a_limit_waits_for_a_farm_with_one(create_place):
    place, farm = begin(create_place, "a")
    seat = "mkdir seat && ./mark z 0.3 && rmdir seat"
    append(place, f"[limit=zz] {seat}")
    warning = "WARNING: tasks of the kind 'zz' were added, which has no limit in this"
    wait_until(lambda: warning in farm.text())
    assert LEFT in add(place, f"[limit=zz] {seat}")
    add(place, mark("b"))
    place.await_notes("starts", 2)
    assert place.notes("starts") == ["a", "b"]
    place.finish("--proc", "2", "--limit", "zz=1", status=0)
    assert sorted(place.notes("starts")) == ["a", "b", "z", "z"]
    append(place, f"[limit=zz] {seat}")
    wait_until(lambda: (place.workdir / "waiting").stat().st_size > 0)
    drain(place, farm, status=75)
    assert farm.text().count(warning) == 1
    assert "to go on, remove " in farm.text()
    assert "give the same command with --limit zz=N" in farm.text()
    assert place.finished() == [0, 1, 2, 3]
    place.assert_sound()


def test_a_list_that_is_edited_is_told_and_the_farm_goes_on(create_place):
    place, farm = begin(create_place, "a", "b")
    before = place.tasklist.read_bytes()
    place.tasklist.write_bytes(before.replace(b"mark a", b"mark X"))
    wait_until(lambda: "was edited, and not only added to" in farm.text())
    append(place, mark("c"))
    place.tasklist.write_bytes(before)
    append(place, mark("d"))
    place.await_notes("starts", 3)
    drain(place, farm)
    assert often(place) == Counter("abd")
    assert farm.text().count("was edited") == 1


def test_many_lines_at_once_leave_the_farm_at_work(create_place):
    place, farm = begin(create_place, "a")
    with place.tasklist.open("a") as stream:
        stream.writelines(f"true {number}\n" for number in range(100_000))
    wait_until(lambda: len(place.content("finished")) > 1000, 60)
    wait_until(lambda: "100000 tasks were added" in farm.text(), 60)
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == 75
    left = len(place.content("added").splitlines())
    assert left + len(place.counts()) == 100_001


# ---- kills --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1])
def test_nothing_is_lost_or_doubled_when_adder_and_farm_are_killed(create_place, seed):
    chance = random.Random(seed)
    place, farm = begin(create_place, "first")
    names = [f"n{number}" for number in range(60)]
    waiting = list(reversed(names))
    farms = kills = 0
    while waiting:
        count = min(len(waiting), chance.randrange(1, 9))
        batch = [waiting.pop() for _ in range(count)]
        words = [mark(name) for name in batch]
        while True:
            child = place.start_command(
                [*MPIFARM, "add", str(place.tasklist), *words], name="adder"
            )
            if not kills or chance.random() < 0.6:  # the first one at once
                time.sleep(chance.uniform(0.0, 0.4) if kills else 0.0)
                child.end()
            child.wait()
            kills += child.wait() != 0
            if "added to" in child.text():  # else its user gives it again
                break
        if chance.random() < 0.25 or not (waiting or farms):
            place.kill(farm)
            farms += 1
            farm = place.start("--follow", "--proc", "2")
    place.await_notes("starts", len(names) + 1, deadline=60)
    wait_until(lambda: len(place.finished()) == len(names) + 1, 60)
    drain(place, farm)
    assert farms
    assert kills
    listed = Counter(place.tasks)
    assert listed == Counter(mark(name) for name in ["first", *names])
    # A task that a killed farm had not recorded runs again.
    assert set(often(place)) == {"first", *names}
    assert max(place.counts().values()) == 1
    place.assert_sound()


def test_an_adder_that_is_killed_at_each_of_its_writes_adds_once(create_place):
    place = create_place(["true"])
    assert place.run() == 0
    strace = [find_tool("strace"), "-f", "-qq", "-o", "/dev/null", "-e"]
    expected, kills = ["true"], 0
    for call in ("pwrite64", "fsync", "rename", "unlink"):
        ended = False
        for number in range(1, 9):
            expected.append(f"true {call} {number}")
            inject = f"inject={call}:signal=KILL:when={number}"
            command = [*MPIFARM, "add", str(place.tasklist), expected[-1]]
            child = place.start_command([*strace, inject, *command])
            ended = child.wait() == 0
            kills += not ended
            if "added to" not in child.text():
                add(place, expected[-1])
            if ended:
                break
        assert ended
    assert kills >= 6
    assert place.tasks == expected
    assert place.run() == 0
    assert place.finished() == [*range(len(expected))]


# ---- several farmers ----------------------------------------------------------------


def test_two_farms_and_a_plain_farmer_share_a_list_that_grows(
    create_place, plain_farmer
):
    place = create(create_place, range(30), seconds=0.1)
    first = place.start("--follow", "--proc", "1", name="first")
    place.await_notes("starts", 2)
    plain = place.start_plain(plain_farmer, "--proc", "2")
    second = place.start("--follow", "--proc", "1", name="second")
    for number in range(30, 40):
        add(place, mark(number, 0.1))
    append(place, *(mark(number, 0.1) for number in range(40, 50)))
    late = place.start_plain(plain_farmer, "--proc", "1", name="late")
    for farmer in (plain, late):
        assert farmer.wait() == 0
        assert "Error" not in farmer.text()
        assert "Traceback" not in farmer.text()
    wait_until(lambda: len(place.finished()) == 50)
    (place.workdir / "drain").touch()
    for farm in (first, second):
        assert farm.wait() == 0
        assert "is of no task" not in farm.text()
    assert often(place) == Counter(map(str, range(50)))
    assert {each.taskid for each in place.attempts()} >= {*range(30, 50)}
    assert place.violations(alone=False) == []


# ---- standard input -----------------------------------------------------------------


class Producer:
    """A pipe into a farm whose list is standard input."""

    def __init__(self, place, *options, name="farm"):
        self.pipe = place.directory / f"pipe {name}"
        os.mkfifo(self.pipe)
        words = [*MPIFARM, *options, "-", "--workdir", str(place.workdir)]
        line = f"exec {' '.join(map(quote, words))} < {quote(str(self.pipe))}"
        self.farm = place.start_command(["bash", "-c", line], name=name)
        self.stream = self.pipe.open("w")

    def write(self, text):
        self.stream.write(text)
        self.stream.flush()

    def end(self):
        with suppress(BrokenPipeError):
            self.stream.close()


def stdin_list(place):
    return (place.workdir / "stdin.txt").read_text()


def test_a_producer_is_a_list_for_as_long_as_it_lives(create_place):
    place = create(create_place)
    producer = Producer(place, "--follow", "--proc", "2")
    producer.write(mark("a") + "\n" + mark("b"))
    place.await_notes("starts", 1)
    producer.write("\n")
    place.await_notes("starts", 2)
    said = place.start_command(
        [*MPIFARM, "add", str(place.workdir), mark("c")], name="adder"
    )
    assert said.wait() == 0, said.text()
    place.await_notes("starts", 3)
    producer.write(mark("d", 0.5))
    producer.end()
    assert producer.farm.wait() == 0, producer.farm.text()
    assert often(place) == Counter("abcd")
    assert len(stdin_list(place).splitlines()) == 4


def test_a_farm_that_waits_for_no_more_waits_for_the_first_task(create_place):
    place = create(create_place)
    producer = Producer(place, "--follow", "0", "--proc", "1")
    wait_until(lambda: "the lock of this workdir" in producer.farm.text())
    producer.write("# a header\n\n")
    wait_until(lambda: stdin_list(place) == "# a header\n\n")
    producer.write(mark("a") + "\n")
    assert producer.farm.wait() == 0, producer.farm.text()
    assert often(place) == Counter("a")
    producer.end()


def test_a_farm_of_a_pipe_that_is_killed_goes_on_with_what_it_had_read(create_place):
    place = create(create_place)
    producer = Producer(place, "--follow", "--proc", "1")
    for name in "abc":
        producer.write(mark(name, 0.3) + "\n")
    place.await_notes("starts", 1)
    wait_until(lambda: len(stdin_list(place).splitlines()) == 3)
    place.kill(producer.farm)
    with (place.workdir / "stdin.txt").open("a") as stream:
        stream.write("echo torn >> starts; rm -rf .")  # as a kill would leave it
    with pytest.raises(BrokenPipeError):
        producer.write("\n" * 100_000)
    producer.end()
    again = Producer(place, "--follow", "--proc", "1", name="again")
    again.write(mark("d") + "\n")
    again.end()
    assert again.farm.wait() == 0, again.farm.text()
    assert set(often(place)) == {*"abcd"}
    assert len(stdin_list(place).splitlines()) == 4


def test_without_follow_standard_input_is_read_to_its_end_first(create_place):
    place = create(create_place)
    producer = Producer(place)
    producer.write(mark("a") + "\n")
    time.sleep(0.5)
    assert not place.workdir.exists() or not place.finished()
    producer.write(mark("b"))
    producer.end()
    assert producer.farm.wait() == 0
    words = [*MPIFARM, "-", "--workdir", str(place.workdir)]

    def run(text):
        ended = subprocess.run(
            words,
            check=False,
            input=text.encode(),
            env=place.environment,
            cwd=place.directory,
        )
        return ended.returncode

    lines = [mark(name) for name in "abc"]
    assert run("") == run("\n".join(lines[:2])) == run("\n".join(lines)) == 0
    assert run("\n".join(reversed(lines))) == 2
    assert often(place) == Counter("abc")


def test_a_stalled_producer_delays_no_stop(create_place):
    place = create(create_place)
    producer = Producer(place, "--follow")
    producer.write(mark("a", 1000) + "\n")
    place.await_notes("starts", 1)
    producer.farm.send_signal(signal.SIGUSR1)
    assert producer.farm.wait() == 75
    producer.end()


# ---- an older mpifarm ---------------------------------------------------------------


def test_an_older_mpifarm_beside_a_farm_whose_list_grows_does_no_harm(
    create_place, old_mpifarm
):
    place = create(create_place, range(24))
    place.script(
        "mark",
        'echo "$1" >> starts',
        "echo $FARM_TEST_NAME >> farms",
        '[ "$FARM_TEST_NAME" != new ] || until [ -e go ]; do sleep 0.02; done',
        "exec sleep 0.05",
    )
    farm = place.start("--follow", "--proc", "1", name="new")
    place.await_notes("starts", 1)
    old = [place.start("--proc", "1", name="old", env=old_mpifarm)]
    place.await_notes("starts", 3)
    add(place, *map(mark, range(24, 30)))
    old.append(place.start("--proc", "1", name="old", env=old_mpifarm))
    place.allow()
    wait_until(lambda: len(place.finished()) == 30)
    assert {each.wait() for each in old} <= {0, 3}
    drain(place, farm)
    assert often(place) == Counter(map(str, range(30)))
    assert {*place.notes("farms")} == {"new", "old"}
    place.assert_sound()
