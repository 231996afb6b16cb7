"""``--again`` and ``--shuffle``: whole farms, a real PyTaskFarmer, and a supervisor."""

import re
import shlex
import signal
import sys
from collections import Counter

import pytest

from tests.support import wait_until

MPIFARM = [sys.executable, "-m", "mpifarm"]


def waiting_tasks(count):
    """Each notes its number; those from 3 on wait until they are let go."""
    line = "echo $PROC_NUMBER >> starts; [ {} -lt 3 ] || [ -e go ] || exec sleep 1000"
    return [line.format(number) for number in range(count)]


def starts(place):
    return Counter(map(int, place.notes("starts")))


def old_ones(place):
    """The workdirs that were moved aside, the latest last."""
    workdir = place.workdir
    return sorted(workdir.parent.glob(f"{workdir.name}.before-*"))


def test_a_list_begins_again_once_no_farm_lives_and_the_old_state_is_kept(create_place):
    """A farm at work keeps its workdir; one that was killed with -9 does not."""
    place = create_place(waiting_tasks(6))
    farm = place.start("--proc", "2")
    wait_until(lambda: {3, 4} <= starts(place).keys())
    refused = place.start("--again")
    assert refused.wait() == 2
    assert re.search(r"farm \w+ on .* is at work there: end it", refused.text())
    assert old_ones(place) == []
    place.kill(farm)
    before = place.content("finished")
    assert before
    (place.directory / "go").touch()
    place.finish("--again", "--shuffle", "3")
    (old,) = old_ones(place)
    assert (old / "finished").read_bytes() == before
    assert starts(place)[0] == 2
    assert place.finished() == [*range(6)]
    place.assert_sound()
    place.finish("--again", "--order", "longest-first")
    assert starts(place)[0] == 3
    assert len(old_ones(place)) == 2


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_a_list_does_not_begin_again_under_a_plain_farmer(create_place, plain_farmer):
    place = create_place()
    script = place.script("wait", "echo $1 >> starts", "[ -e go ] || exec sleep 1000")
    place.tasklist.write_text("".join(f"{script} {each}\n" for each in range(4)))
    plain = place.start_plain(plain_farmer, "--proc", "2")
    wait_until(lambda: len(starts(place)) == 2)
    refused = place.start("--again")
    assert refused.wait() == 2
    assert "tasks 0-1 are in no file there: with a PyTaskFarmer" in refused.text()
    place.kill(plain, "plain")
    assert old_ones(place) == []
    assert place.run("--again") == 2  # nobody knows whether it lives
    (place.workdir / "toprocess").unlink()
    (place.directory / "go").touch()
    place.finish("--again")
    assert len(old_ones(place)) == 1


@pytest.mark.parametrize("in_script", [False, True])
def test_a_supervised_farm_begins_again_once(create_place, in_script):
    place = create_place(waiting_tasks(6))
    first = place.start("--proc", "1")
    wait_until(lambda: starts(place)[3] and place.finished() == [0, 1, 2])
    first.send_signal(signal.SIGUSR1)
    assert first.wait() == 75
    farm = [*MPIFARM, "--mpi", "off", "--proc", "1", "--again", str(place.tasklist)]
    if in_script:
        farm = ["bash", "-c", f"{shlex.join(farm)}; exit $?"]
    child = place.start_command([*MPIFARM, "supervise", "--", *farm], name="sup")
    wait_until(lambda: starts(place)[3] == 2 and place.finished() == [0, 1, 2])
    (place.directory / "go").touch()
    place.signal_rank(0, signal.SIGKILL)
    assert child.wait() == 0
    assert place.finished() == [*range(6)]
    assert len(old_ones(place)) == 1
    assert starts(place)[0] == 2


def test_arguments_begin_again_with_the_same_list_or_another(create_place):
    place = create_place()

    def run(*words):
        line = [*MPIFARM, "--mpi", "off", "--workdir", str(place.workdir), *words]
        child = place.start_command(line)
        return child.wait(), child.text()

    count = "echo {} >> starts", ":::"
    assert run(*count, "1", "2")[0] == 0
    assert run(*count, "1", "3")[0] == 2
    status, text = run("--again", *count, "1", "3")
    assert (status, "the workdir of before is" in text) == (0, True)
    assert starts(place) == {1: 2, 2: 1, 3: 1}
    listed = (old_ones(place)[0] / "stdin.txt").read_text()
    assert listed == "echo 1 >> starts\necho 2 >> starts\n"
    assert run("--again", *count, "1", "3")[0] == 0
    assert run("--again", "-")[0] == 0  # no line: those that were kept
    assert starts(place) == {1: 4, 2: 1, 3: 3}
    assert len(old_ones(place)) == 3
