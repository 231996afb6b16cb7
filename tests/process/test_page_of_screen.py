"""What a farm prints, as its page shows it: first lines, states, failures, last lines.

Rules of this file: the lines are read from the page.  What a terminal shows is what the
recorder has seen of it.
"""

import re
import signal

import pytest

from tests.farm_driver import MPIFARM
from tests.pages import take_block
from tests.process.page_desk import Desk, assert_has
from tests.recorded_terminal import Recorder
from tests.required import need_launcher
from tests.support import Launch, wait_until

NUMBER = re.compile(r"\d[\d.]*")


@pytest.fixture
def desk(create_place):
    need_launcher()
    return Desk(create_place())


def write_state_before(place, tasks, finished, failed):
    """Write the files of a list that is not at its beginning, as PyTaskFarmer does."""
    place.workdir.mkdir()
    lines = [f"{number} {text}\n" for number, text in enumerate(tasks)]
    for name, part in {
        "failed": lines[:failed],
        "finished": lines[failed : finished + failed],
        "toprocess": lines[finished + failed :],
    }.items():
        (place.workdir / name).write_text("".join(part))


def test_the_first_lines_and_a_state_in_a_log(desk):
    place = desk.place
    tasks = ["sleep $((PROC_NUMBER % 512))"] * 100000  # one ends each second
    place.write_list(tasks)
    write_state_before(place, tasks, finished=4203, failed=2)
    hosts = " ".join(f"n{number}" for number in range(1, 9))
    command = "mpirun -n 8 python -m mpifarm -n 64 tasks.txt"
    farm = desk.start(command, hosts, job="4711")
    (state,) = take_block("screen.md", "2026-11-30").lines

    def has_state():
        printed = [NUMBER.sub("N", line) for line in farm.text().splitlines()]
        return any(line.startswith(NUMBER.sub("N", state)) for line in printed)

    wait_until(has_state, deadline=70)  # there is one each 30 s
    printed = farm.text().replace(str(place.directory), "/work/ada/reco").splitlines()
    assert_has(printed, take_block("screen.md", "mpifarm: version").lines)
    farm.send_signal(signal.SIGTERM)
    assert farm.wait() != 0


FIT = """\
echo "reading $1.dat"
[ ! -e fits ] || exit 0
case $1 in 17|31|4?) touch started.$1 ;; *) exit 0 ;; esac
until [ $(ls started.* | wc -l) = 6 ]; do sleep 0.02; done
until [ $1 = 17 ] || grep -qs "^17 " tasks.txt_workdir/failed; do sleep 0.02; done
echo "ValueError: no convergence"
exit 3
"""
"""Fails in six tasks, which all six workers have at the same time; 17 fails first."""


def test_failures_and_the_last_lines_on_a_terminal(desk):
    place = desk.place
    place.script("fit.sh", FIT)
    place.write_list([f"./fit.sh {number}" for number in range(44)])

    def run(status):
        """Run a farm on a terminal to its end; return what this shows then."""
        recorder = Recorder(columns=200)
        command = "mpirun -n 3 python -m mpifarm -n 2 tasks.txt"
        argv = ["/bin/bash", "-c", command]
        launch = Launch(argv, place.environment | {"FARM_TEST_HOSTS": "n1 n2 n3"})
        farm = place.start_command(recorder.put_before(launch))
        assert recorder.record(farm) == status
        shown = recorder.screen()
        recorder.close()
        return shown

    screen = run(status=1)
    # the third line comes after a minute: tests/unit/farm/test_failures.py
    assert_has(screen, take_block("screen.md", "mpifarm: task 17").lines[:2])
    *failures, again = take_block("screen.md", "mpifarm: failed: 6").lines
    assert_has(screen, [*failures, again])
    (place.directory / "fits").touch()
    desk.type(again.partition("these alone: ")[2])
    assert place.to_process() == [17, 31, 40, 41, 42, 43]
    assert_has(run(status=0)[-3:], take_block("screen.md", "mpifarm: outputs").lines)


def test_what_had_failed_before_is_one_line(create_place):
    place = create_place()
    place.write_list(["case $PROC_NUMBER in 1[0-3567]|2[07]) exit 1; esac"] * 30)
    assert place.run_words("tasks.txt") == 1
    with place.tasklist.open("a") as stream:
        stream.write("true\n")
    farm = place.start_command([*MPIFARM, "tasks.txt"])
    assert farm.wait() == 1
    shown = [line.partition(" mpifarm: ")[2] for line in farm.text().splitlines()]
    (line,) = take_block("screen.md", "mpifarm: failed: 9 tasks in").lines
    failures = [each for each in shown if each.startswith("failed: ")]
    assert failures == [line.removeprefix("mpifarm: ")]
