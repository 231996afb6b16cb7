"""The real PyTaskFarmer, 0.0.1 and 0.1.0, beside mpifarm on one list.

Rules of this file: mpifarm is held to its own promises.  What a plain farmer that is
stopped loses or runs twice is its own affair (docs/protocol.md); where none is
stopped, nothing at all may be lost or run twice.
"""

import json
import signal
from collections import Counter
from contextlib import suppress
from typing import NamedTuple

import pytest

from mpifarm.store.start_order import shuffled
from tests.support import try_rounds, wait_until

TASKS = 1000
SHORTER = 200
"""Where a farmer is stopped in the middle: stopping and going on takes time too."""

WORKERS = "4"


class Start(NamedTuple):
    """A line that a command has written as it began."""

    taskid: int
    farm: str
    """Of mpifarm's farms; "plain" for the others."""
    too_late: bool
    """Whether the task stood in ``finished`` already."""


def create_list(create_place, count, seconds=0.05, plain_seconds=0.05, name="here"):
    """Each command notes who runs it, and whether that is too late.

    It takes `seconds` in mpifarm, which is to leave a PyTaskFarmer its share.  Until
    the test lets all go on, a farmer that has begun 40 waits for the other.
    """
    place = create_place(name=name)
    script = place.script(
        "mark",
        f'late=$(grep -c "^$1 " {place.workdir}/finished 2>/dev/null)',
        'echo "$1 ${MPIFARM_FARM:-plain} ${late:-0}" >> starts',
        "if [ ! -e go ]; then",
        '  if [ $(grep -c " ${MPIFARM_FARM:-plain} " starts) -gt 40 ]; then',
        "    until [ -e go ]; do sleep 0.02; done",
        "  fi",
        "fi",
        f'[ -n "$MPIFARM_FARM" ] && exec sleep {seconds}',
        f"exec sleep {plain_seconds}" if plain_seconds else "exit 0",
    )
    lines = "".join(f"{script} {taskid}\n" for taskid in range(count))
    place.tasklist.write_text(lines)
    return place


def starts(place):
    words = [line.split() for line in place.notes("starts")]
    return [Start(int(i), farm, late != "0") for i, farm, late in words]


def started_by_mpifarm(place):
    return [start for start in starts(place) if start.farm != "plain"]


def await_both_at_work(place, share=5):
    """Until each of the two has started so many."""

    wait_until(lambda: are_both_at_work(place, share), 60)


def are_both_at_work(place, share=5):
    plain = Counter(start.farm == "plain" for start in starts(place))
    return plain[True] >= share and plain[False] >= share


def assert_mpifarm_kept_its_promises(place):
    """Whatever the plain farmers did."""
    assert place.violations(alone=False) == []
    assert [start for start in started_by_mpifarm(place) if start.too_late] == []
    assert place.claims() == []


def assert_nothing_is_lost(place, count):
    assert place.finished() == list(range(count))
    assert place.content("failed") == b""
    assert place.content("toprocess") == b""


# ---- side by side to the end ---------------------------------------------------------


def test_each_task_runs_once_when_both_work_on_one_list(
    create_place, plain_farmer, request
):
    place = create_list(create_place, TASKS, seconds=0.015, plain_seconds=0)
    # each order with one of the two versions
    if "0.0.1" in request.node.name:
        plain = place.start_plain(plain_farmer, "--proc", WORKERS)
        wait_until(lambda: starts(place))
        farm = place.start("--proc", WORKERS)
    else:
        farm = place.start("--proc", WORKERS)
        wait_until(lambda: starts(place))
        plain = place.start_plain(plain_farmer, "--proc", WORKERS)
    await_both_at_work(place, share=40)
    place.allow()
    # 3: mpifarm had nothing left while the plain one still ran its last tasks
    assert farm.wait(110) in (0, 3)
    assert plain.wait(60) == 0
    assert_nothing_is_lost(place, TASKS)
    assert_mpifarm_kept_its_promises(place)
    assert sorted(start.taskid for start in starts(place)) == list(range(TASKS))
    share = len(started_by_mpifarm(place))
    assert 40 <= share <= TASKS - 40
    assert place.run() == 0


# ---- mpifarm is stopped in the middle ------------------------------------------------


def stop_by_usr1(place, farm):
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == 75


def stop_by_kill(place, farm):
    place.kill(farm)


@pytest.mark.parametrize(
    ("plain_farmer", "stop", "options"),
    [
        ("0.0.1", stop_by_usr1, ()),
        ("0.1.0", stop_by_kill, ()),
        ("0.1.0", stop_by_kill, ("--shuffle", "7")),
    ],
    indirect=["plain_farmer"],
    ids=["USR1", "kill", "kill of a shuffled one"],
)
def test_mpifarm_stopped_in_the_middle_goes_on_beside_a_plain_farmer(
    create_place, plain_farmer, stop, options
):
    place = create_list(create_place, SHORTER)
    plain = place.start_plain(plain_farmer, "--proc", "2")
    farm = place.start("--proc", WORKERS, *options)
    await_both_at_work(place)
    stop(place, farm)
    place.allow()
    ours = [start.taskid for start in started_by_mpifarm(place)]
    in_order = shuffled(7).sort(ours) if options else sorted(ours)
    places = {taskid: place for place, taskid in enumerate(in_order)}
    # four workers start what stands side by side at about the same time, but for those
    # whose command a stall of the machine held up
    late = [each for at, each in enumerate(ours) if abs(at - places[each]) > 8]
    assert len(late) <= 4
    again = place.start("--proc", WORKERS, *options)
    assert again.wait() in (0, 3)
    assert plain.wait() == 0
    assert place.run() == 0
    # the plain farmer was left in peace: nothing may be lost
    assert_nothing_is_lost(place, SHORTER)
    assert_mpifarm_kept_its_promises(place)
    often = Counter(start.taskid for start in starts(place))
    # only what ran, or had just ended, at the stop
    assert len([taskid for taskid, times in often.items() if times > 1]) <= 60
    assert max(often.values()) == 2


# ---- the plain farmer is stopped in the middle ---------------------------------------


def await_plain_end(place, plain):
    """Its stop hangs now and then, in a lock of its own pool."""
    with suppress(AssertionError):
        plain.wait(4)
    kill_plain(place, plain)


def stop_plain_by_usr1(place, plain):
    plain.send_signal(signal.SIGUSR1)
    await_plain_end(place, plain)


def kill_plain(place, plain):
    place.kill(plain, "plain")


@pytest.mark.parametrize(
    ("plain_farmer", "stop", "options"),
    [
        ("0.0.1", stop_plain_by_usr1, ()),
        ("0.1.0", stop_plain_by_usr1, ()),
        ("0.1.0", await_plain_end, ("--timeout", "1")),
        ("0.0.1", kill_plain, ()),
    ],
    indirect=["plain_farmer"],
    ids=["USR1 0.0.1", "USR1 0.1.0", "timeout", "kill"],
)
def test_a_plain_farmer_stopped_in_the_middle_takes_nothing_of_mpifarm_with_it(
    create_place, plain_farmer, stop, options
):

    def begin(number):
        # a blank in its path would part a command for the plain farmer
        place = create_list(create_place, SHORTER, name=f"here-{number}")
        plain = place.start_plain(plain_farmer, "--proc", "2", *options)
        farm = place.start("--proc", WORKERS)
        wait_until(lambda: plain.has_ended() or are_both_at_work(place), 60)
        if are_both_at_work(place):
            return place, farm, plain
        place.kill(farm)  # the plain one's time was over
        return None

    place, farm, plain = try_rounds(begin)
    stop(place, plain)
    place.allow()
    status = farm.wait()
    mine = Counter(start.taskid for start in started_by_mpifarm(place))
    assert set(mine.values()) == {1}
    # what mpifarm had is there; what is lost was the plain one's to lose
    finished = set(place.ids("finished"))
    assert set(mine) <= finished
    lost = set(range(SHORTER)) - finished - set(place.ids("failed"))
    assert status == (3 if lost else 1 if place.content("failed") else 0)
    assert place.result()["tasks"]["elsewhere"] == len(lost)
    assert place.run() == status
    # a timeline.json that the plain one left half written is mended at a start
    assert_mpifarm_kept_its_promises(place)


def test_a_finished_task_that_a_plain_farmer_puts_back_never_runs_again(
    create_place, plain_farmer
):
    place = create_place()
    waits = place.script(
        "wait", 'echo "$1" >> starts', "until [ -e go ]; do sleep 0.02; done"
    )
    ends = place.script("end", 'echo "$1" >> starts')
    place.tasklist.write_text(f"{ends} 0\n{ends} 1\n{waits} 2\n")
    plain = place.start_plain(plain_farmer, "--proc", "2")
    wait_until(lambda: len(place.ids("finished")) == 2)
    place.await_notes("starts", 3)
    stop_plain_by_usr1(place, plain)
    if not {0, 1} & set(place.ids("toprocess")):
        # its idle worker does so most of the time
        (place.workdir / "toprocess").write_text(f"1 {ends} 1\n2 {waits} 2\n")
    place.allow()
    assert place.run() == 0
    assert sorted(place.notes("starts")) == ["0", "1", "2", "2"]
    assert place.finished() == [0, 1, 2]
    place.assert_sound()


def test_the_timelines_of_both_become_one_with_names_and_numbers_of_each(
    create_place, plain_farmer
):
    place = create_list(create_place, SHORTER)
    # The first farm is alone: the plain one has to keep its names and counts.
    farm = place.start("--proc", WORKERS)
    place.await_notes("starts", 30)
    farm.send_signal(signal.SIGTERM)
    assert farm.wait() == 75
    before = place.events()
    assert {event["ph"] for event in before} == {"M", "X", "C"}
    plain = place.start_plain(plain_farmer, "--proc", "2")
    wait_until(lambda: len(place.ids("finished")) > 50)
    farm = place.start("--proc", WORKERS)
    wait_until(lambda: len({start.farm for start in starts(place)}) == 3)
    place.allow()
    assert farm.wait(60) in (0, 3)
    assert plain.wait(60) == 0
    assert_nothing_is_lost(place, SHORTER)
    assert place.events()[: len(before)] == before
    assert list(place.workdir.glob("timeline.*.json"))
    merged = place.directory / "all.json"
    assert place.run_words("timeline", str(place.workdir), "-o", str(merged)) == 0
    events = json.loads(merged.read_text())
    attempts = [event for event in events if event["ph"] == "X"]
    assert sorted(each["name"] for each in attempts) == sorted(place.tasks)
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    by_mpifarm = [event for event in attempts if event["args"]]
    assert len(by_mpifarm) == len(place.attempts())
    assert {names[event["pid"]].split(" on ")[0] for event in by_mpifarm} == {"rank 0"}
    assert not names.keys() & {e["pid"] for e in attempts if not e["args"]}
    assert len({event["pid"] for event in attempts}) == 3


def test_mpifarm_goes_on_where_a_plain_farmer_was_stopped(create_place, plain_farmer):
    place = create_list(create_place, 100)
    plain = place.start_plain(plain_farmer, "--proc", "2")
    place.await_notes("starts", 30)
    stop_plain_by_usr1(place, plain)
    place.allow()
    lost = set(range(100)) - set(place.ids("finished")) - set(place.ids("toprocess"))
    assert place.run() == (3 if lost else 0)
    assert_mpifarm_kept_its_promises(place)
    assert {*place.ids("finished"), *lost} == set(range(100))


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_both_meet_in_the_lock_area_of_the_environment(create_place, plain_farmer):
    place = create_list(create_place, 100)
    place.allow()
    area = place.directory / "area"
    area.mkdir()
    place.environment["SCRATCH"] = str(area)
    farm = place.start("--proc", WORKERS)
    plain = place.start_plain(plain_farmer, "--proc", "2")
    assert farm.wait() in (0, 3)
    assert plain.wait() == 0
    assert_nothing_is_lost(place, 100)
    assert_mpifarm_kept_its_promises(place)
    assert sorted(start.taskid for start in starts(place)) == list(range(100))
    assert len(list(area.iterdir())) == 1


def test_what_is_held_is_never_run_by_a_plain_farmer_and_once_it_is_released_once(
    create_place, plain_farmer
):
    place = create_place()
    script = place.script(
        "mark",
        'echo "$1 ${MPIFARM_FARM:-plain} 0" >> starts',
        '[ -z "$MPIFARM_FARM" ] || until [ -e go ]; do sleep 0.02; done',
    )
    place.write_list(f"{script} {taskid}" for taskid in range(40))
    farm = place.start("--proc", "1")
    place.await_notes("starts", 1)
    assert place.run_words("hold", str(place.tasklist), "25-34") == 0
    plain = place.start_plain(plain_farmer, "--proc", "2")
    assert plain.wait() == 0, plain.text()
    ran = {start.taskid for start in starts(place) if start.farm == "plain"}
    assert ran
    assert not ran & {*range(25, 35)}
    place.allow()
    wait_until(lambda: place.finished() == [*range(25), *range(35, 40)])
    assert place.start_plain(plain_farmer).wait() == 0
    assert place.run_words("release", str(place.tasklist)) == 0
    assert farm.wait() == 0, farm.text()
    assert Counter(start.taskid for start in starts(place)) == Counter(range(40))
    assert_nothing_is_lost(place, 40)
