"""Lists whose files are too large to be read whole: stopped, shared, gone on with.

Rules of this file: a list just long enough for that; what it costs `tests.bench` tells.
"""

import signal

import pytest

from mpifarm.system import file_contents
from tests.support import wait_until

LINES = 110_000
RUN_AGAIN = 75


def write_list(place, command: str) -> None:
    lines = (f"{command} {n} ".ljust(79, "x") + "\n" for n in range(LINES))
    place.tasklist.write_text("".join(lines))
    assert place.tasklist.stat().st_size > file_contents.LARGE


@pytest.fixture
def place(create_place):
    place = create_place()
    write_list(place, "true")
    return place


def queued(place):
    return place.content("toprocess").count(b"\n")


def run_and_stop(place):
    """Stop a farm once it has finished something."""
    before = len(place.content("finished"))
    farm = place.start()
    wait_until(lambda: len(place.content("finished")) > before)
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == RUN_AGAIN


def test_a_long_list_is_stopped_gone_on_with_and_checked(place):
    for starts in (1, 2):
        run_and_stop(place)
        done = len(set(place.ids("finished")))
        assert done >= starts
        assert place.result()["tasks"]["finished"] == done
        assert queued(place) == LINES - done
        place.assert_sound()
    assert place.run_words("check", str(place.workdir)) == 0


def test_a_long_list_goes_on_where_a_killed_farm_was(place):
    farm = place.start()
    wait_until(lambda: len(place.content("finished")) > 0, 30)
    place.kill(farm)
    assert queued(place) < LINES
    run_and_stop(place)
    assert place.claims() == []
    assert queued(place) == LINES - len(set(place.ids("finished")))
    place.assert_sound()


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_a_plain_farmer_gets_its_share_of_a_long_list(create_place, plain_farmer):
    place = create_place()
    script = place.script("note", 'echo "$1" >> "run_by_${MPIFARM_FARM:-plain}"')
    write_list(place, str(script))
    farm = place.start("--proc", "1")
    wait_until(lambda: len(place.content("finished")) > 0, 30)
    plain = place.start_plain(plain_farmer, "--proc", "1")
    place.await_notes("run_by_plain", 2)
    before = len(place.content("attempts.tsv"))
    wait_until(lambda: len(place.content("attempts.tsv")) > before, 30)
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == RUN_AGAIN
    assert place.claims() == []
    # Killed while it writes, it may leave half of a timeline.
    place.kill(plain, "plain")
    assert set(place.counts().values()) == {1}
