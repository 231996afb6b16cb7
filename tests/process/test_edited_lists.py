"""Lists that were edited between two starts, or while farmers work on them.

Rules of this file: each command notes its own start, so that what ran, and how often,
is known without asking a farmer.
"""

import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support import wait_until


def create_list(create_place, count, seconds=0.0, free=1000):
    """Each command notes its id; it takes `seconds`.

    But for the `free` first ones, they wait until the test lets them go on.
    """
    place = create_place()
    waits = "until [ -e go ]; do sleep 0.02; done"
    waits = f'if [ "$1" -ge {free} ] 2> /dev/null; then {waits}; fi'
    place.script("mark", 'echo "$1" >> starts', waits, f"exec sleep {seconds}")
    write_list(place, range(count))
    return place


def write_list(place, names):
    """The list with a line for each name, replaced as editors do it."""
    beside = place.directory / "tasks.new"
    mark = place.directory / "mark"
    beside.write_text("".join(f"{mark} {name}\n" for name in names))
    beside.rename(place.tasklist)


def often(place):
    """How often each name has been started."""
    return Counter(place.notes("starts"))


def each_once(names):
    return Counter(map(str, names))


# ---- lines added at the end ---------------------------------------------------------


def test_lines_added_after_a_list_was_done_run_at_the_next_start(create_place):
    place = create_list(create_place, 3)
    assert place.run() == 0
    write_list(place, range(5))
    farm = place.start()
    assert farm.wait() == 0
    assert "2 tasks were added to the list since the last start: they run too" in (
        farm.text()
    )
    assert often(place) == each_once(range(5))
    assert place.finished() == [0, 1, 2, 3, 4]
    assert place.result()["tasks"]["total"] == 5
    place.assert_sound()


def test_lines_that_are_added_while_the_farm_runs_run_too(create_place):
    place = create_list(create_place, 3)
    text = place.tasklist.read_text()
    # The last task adds a line, and so does that: the farm looks again at its end.
    again = f'echo "echo true >> {place.tasklist}" >> {place.tasklist}'
    place.tasklist.write_text(f"{text}{again}\n")
    farm = place.start("--proc", "1")
    assert farm.wait() == 0
    assert f"added to {place.tasklist}: it runs too" in farm.text()
    assert place.finished() == [0, 1, 2, 3, 4, 5]
    assert place.result()["tasks"]["total"] == 6
    assert place.ids("toprocess") == place.ids("added") == []
    place.assert_sound()


def test_a_list_that_is_edited_and_appended_to_meanwhile_is_not_done(create_place):
    place = create_list(create_place, 3)
    edit = "sed -i '1s/.*/true edited/; $a true appended'"
    text = place.tasklist.read_text()
    place.tasklist.write_text(f"{text}{edit} {place.tasklist}\n")
    farm = place.start("--proc", "1")
    assert farm.wait() == 75
    assert "it has 1 task more now" in farm.text()
    assert place.run() == 2
    assert place.run("--remap") == 0
    assert place.result()["tasks"]["finished"] == 5


def test_a_farm_that_is_killed_while_it_does_them_loses_none(create_place):
    place = create_list(create_place, 4, seconds=0.05)
    assert place.run() == 0
    write_list(place, range(30))
    farm = place.start("--proc", "2")
    place.await_notes("starts", 10)
    place.kill(farm)
    assert place.content("toprocess") == b""
    assert place.run() == 0
    assert place.finished() == list(range(30))
    assert max(often(place).values()) <= 2
    place.assert_sound()


def test_what_a_stop_gives_back_of_them_is_not_in_toprocess(create_place):
    place = create_list(create_place, 2, seconds=0.05, free=12)
    assert place.run() == 0
    write_list(place, range(40))
    farm = place.start("--proc", "2")
    place.await_notes("starts", 10)
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == 75
    assert place.ids("toprocess") == []
    assert len(place.ids("added")) >= 20
    place.allow()
    assert place.run() == 0
    assert place.finished() == list(range(40))
    place.assert_sound()


def test_two_farms_share_the_lines_that_are_added_while_they_run(create_place):
    place = create_list(create_place, 60, seconds=0.05)
    first = place.start("--proc", "2", name="first")
    place.await_notes("starts", 5)
    write_list(place, range(70))
    second = place.start("--proc", "2", name="second")
    assert sorted((first.wait(), second.wait())) in ([0, 0], [0, 3])
    assert often(place) == each_once(range(70))
    assert place.finished() == list(range(70))
    for farm in (first, second):
        assert "is of no task" not in farm.text()
        assert "Traceback" not in farm.text()
    place.assert_sound()


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_a_plain_farmer_of_the_shorter_list_works_on_beside(create_place, plain_farmer):
    place = create_list(create_place, 100, seconds=0.05, free=30)
    # mpifarm has seen the list before it grows
    early = place.start("--proc", "2", name="early")
    place.await_notes("starts", 5)
    early.send_signal(signal.SIGUSR1)
    assert early.wait() == 75
    began = often(place)
    plain = place.start_plain(plain_farmer, "--proc", "2")
    wait_until(lambda: len(often(place)) >= len(began) + 5)
    write_list(place, range(130))
    farm = place.start("--proc", "2")
    wait_until(lambda: len(place.content("added")) > 0)
    place.allow()
    assert plain.wait() == 0
    assert farm.wait() in (0, 3)
    assert "Error" not in plain.text()
    assert place.run() == 0
    assert place.finished() == list(range(130))
    twice = often(place) - each_once(range(130))
    # what the first farm was stopped in
    assert set(twice) <= set(began)
    assert sum(twice.values()) <= 6
    assert place.violations(alone=False) == []


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_a_plain_farmer_of_the_longer_list_leaves_the_added_ones_to_mpifarm(
    create_place, plain_farmer
):
    place = create_list(create_place, 10, seconds=0.02, free=4)
    farm = place.start("--proc", "1")
    place.await_notes("starts", 2)
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == 75
    place.allow()
    write_list(place, range(14))
    drain = place.workdir / "drain"
    drain.touch()
    assert place.run() == 75
    drain.unlink()
    assert place.start_plain(plain_farmer, "--proc", "2").wait() == 0
    assert place.finished() == list(range(10))
    assert place.run() == 0
    assert place.finished() == list(range(14))
    place.assert_sound()


# ---- any other edit -----------------------------------------------------------------


def test_remap_runs_only_what_is_new_or_was_changed(create_place):
    place = create_list(create_place, 6)
    assert place.run() == 0
    write_list(place, ["front", 5, 1, 2, "changed", 4, "end"])
    refused = place.start()
    assert refused.wait() == 2
    assert "--remap" in refused.text()
    farm = place.start("--remap")
    assert farm.wait() == 0
    assert (
        "--remap: of 7 lines now, 4 were finished before, 0 failed, 3 run; 2 that had "
        "finished are not in the list any more"
    ) in farm.text()
    assert often(place) == each_once([*range(6), "front", "changed", "end"])
    assert place.finished() == list(range(7))
    assert len(place.attempts()) == 7
    place.assert_sound()
    (kept,) = place.workdir.glob("before-remap-*")
    assert len((kept / "finished").read_text().splitlines()) == 6
    assert place.run() == 0


def test_remap_keeps_each_log_with_its_task(create_place):
    place = create_place(["echo one", "echo two", "echo three; exit 3"])
    assert place.run() == 1
    place.tasklist.write_text("echo three; exit 3\necho new\necho one\n")
    assert place.run("--remap") == 1
    assert [place.log(taskid) for taskid in range(3)] == ["three\n", "new\n", "one\n"]
    assert place.ids("failed") == [0]


def test_remap_of_a_list_that_was_not_edited_changes_nothing(create_place):
    place = create_list(create_place, 3)
    assert place.run() == 0
    before = place.content("finished")
    farm = place.start("--remap")
    assert farm.wait() == 0
    assert "--remap" not in farm.text()
    assert place.content("finished") == before
    assert not list(place.workdir.glob("before-remap-*"))


def test_remap_is_refused_while_a_farm_works(create_place, mpifarm):
    place = create_list(create_place, 4, seconds=1000)
    farm = place.start("--proc", "4")
    place.await_notes("starts", 4)
    write_list(place, ["front", *range(4)])
    refused = place.start("--remap", name="refused")
    assert refused.wait() == 2
    assert "is at work there: end it first" in refused.text()
    other = place.start(name="other")
    assert other.wait() == 2
    assert re.search(
        r"; once the farm \w+ on \S+ \(pid \d+\) has ended, add --remap to run",
        other.text(),
    )
    for command, wait in [
        ("status", "once the farm at work has ended, to run what is new"),
        ("check", "text of each line: once the farm at work has ended, mpifarm --r"),
        ("retry", "needs no retry: once the farm at work has ended, mpifarm --remap"),
    ]:
        assert wait in mpifarm(place, command, str(place.tasklist))[1]
    farm.send_signal(signal.SIGTERM)
    assert farm.wait() == 75


@pytest.mark.parametrize("command", ["why", "retry", "status", "check"])
def test_what_commands_say_of_a_corrected_typo_runs_it(create_place, mpifarm, command):
    """The first failure of a new user, and the command that each names."""
    place = create_place(["echo one >> ran", "eccho two >> ran", "false"])
    assert place.run("--proc", "2") == 1
    words = (command, str(place.tasklist))
    _, told = mpifarm(place, "why", str(place.tasklist))
    (advice,) = [line for line in told.splitlines() if "the line is wrong" in line]
    place.tasklist.write_text("echo one >> ran\necho two >> ran\nfalse\n")
    ended, said = mpifarm(place, *words)
    assert ended == {"retry": 2, "check": 1}.get(command, 0)
    farm = f"mpifarm --remap --proc 2 {place.tasklist}"
    assert farm in said
    assert advice.endswith(f"correct it in {place.tasklist} and run: {farm}")
    assert place.run_words(*farm.split()[1:]) == 1
    assert place.notes("ran") == ["one", "two"]
    assert place.failed() == [2]
    ended, said = mpifarm(place, "retry", str(place.tasklist))
    assert (ended, "1 task put back to be run: 2" in said) == (0, True)


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_a_line_corrected_after_a_plain_farmer_is_run_by_what_commands_say(
    create_place, mpifarm, plain_farmer
):
    """No fingerprint tells that the list was edited: the lines of the files do."""
    place = create_place(["mkdir one", "rmdir two", "false"])
    place.start_plain(plain_farmer, "--proc", "1").wait()
    assert (place.finished(), place.failed()) == ([0], [1, 2])
    place.tasklist.write_text("mkdir one\nmkdir two\nfalse\n")
    farm = f"mpifarm --remap {place.tasklist}"
    for command, status in {"why": 0, "retry": 2, "status": 0, "check": 1}.items():
        ended, said = mpifarm(place, command, str(place.tasklist))
        assert (ended, farm in said) == (status, True), said
        assert "is in no file" not in said
    assert mpifarm(place, "status", str(place.tasklist), "--watch")[0] == 0
    ended, said = mpifarm(place, "--dry-run", str(place.tasklist))
    assert (ended, "; add --remap to run" in said) == (2, True), said
    ended, said = mpifarm(place, "--dry-run", "--remap", str(place.tasklist))
    assert (ended, "\ntask 1: mkdir two\n" in said) == (0, True), said
    assert "\ntask 0: " not in said
    assert place.run_words(*farm.split()[1:]) == 1
    assert (place.finished(), place.failed()) == ([0, 1], [2])


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_while_a_plain_farmer_works_its_end_is_named_before_a_remap(
    create_place, mpifarm, plain_farmer
):
    place = create_place(["true", "sleep 60", "rmdir none"])
    farmer = place.start_plain(plain_farmer, "--proc", "1")
    wait_until(lambda: place.finished() == [0] and place.to_process() == [2])
    tasklist = str(place.tasklist)
    place.tasklist.write_text("true\nsleep 60\nmkdir none\n")
    none = f"(if none does, first rm {place.workdir}/toprocess)"
    wait = f"once no PyTaskFarmer works there {none}, "
    farm = f"mpifarm --remap {tasklist}"
    for command, before in [
        ("retry", "needs no retry: "),
        ("check", "by the text of each line: "),
    ]:
        assert f"{before}{wait}{farm}" in mpifarm(place, command, tasklist)[1]
    way_on = f"; {wait}to run what is new or was changed: {farm} "
    assert way_on in mpifarm(place, "status", tasklist)[1]
    for words in [tasklist], ["--dry-run", tasklist]:
        refused, said = mpifarm(place, *words)
        assert (refused, f"; {wait}add --remap to run" in said) == (2, True)
    refused, said = mpifarm(place, "--remap", tasklist)
    assert (refused, "taken by a PyTaskFarmer (at work" in said) == (2, True)
    farmer.send_signal(signal.SIGKILL)
    farmer.wait()


def test_a_lost_task_of_an_edited_list_runs_by_the_commands_that_are_named(
    create_place, mpifarm
):
    """No PyTaskFarmer is to be waited for: a line was taken out by hand."""
    place = create_place(["true", "true two", "false"])
    assert place.run() == 1
    (place.workdir / "finished").write_text("0 true\n")
    place.tasklist.write_text("true\ntrue two\ntrue three\n")
    tasklist = str(place.tasklist)
    said = mpifarm(place, "status", tasklist)[1]
    found = re.search(r"works there \(if none does, first rm (.*?)\), to run", said)
    assert found is not None, said
    for words in ["--remap", tasklist], ["--dry-run", "--remap", tasklist]:
        refused, said = mpifarm(place, *words)
        assert (refused, "are in no file of" in said) == (2, True), said
    for words in ["--again", tasklist], ["--dry-run", "--again", tasklist]:
        refused, said = mpifarm(place, *words)
        assert (refused, "task 1 is in no file there" in said) == (2, True), said
    Path(found[1]).unlink()
    assert "PyTaskFarmer" not in mpifarm(place, "status", tasklist)[1]
    assert mpifarm(place, "--dry-run", "--again", tasklist)[0] == 0
    assert place.run_words("--remap", tasklist) == 0
    assert place.finished() == [0, 1, 2]


def test_what_was_only_moved_can_be_retried_after_a_remap(create_place, mpifarm):
    place = create_place(["true", "false moved"])
    assert place.run() == 1
    place.tasklist.write_text("true new\ntrue\nfalse moved\n")
    said = mpifarm(place, "why", str(place.tasklist))[1]
    assert "task 1 failed, and its line is not at its place in the list any " in said
    assert "; what was only moved can be retried then\n" in said
    assert place.run("--remap") == 1
    assert mpifarm(place, "retry", str(place.tasklist), "--ids", "2")[0] == 0


def test_a_farm_on_an_edited_list_names_both_ways_on(create_place):
    place = create_place(["true", "eccho two"])
    assert place.run() == 1
    place.tasklist.write_text("true\ntrue two\n")
    refused = place.start()
    assert refused.wait() == 2
    assert "add --remap to run what is new or was changed" in refused.text()
    assert "--again to run all of it afresh" in refused.text()
    assert place.run("--again") == 0
