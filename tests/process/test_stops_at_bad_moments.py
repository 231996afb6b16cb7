"""A signal that comes when a farm is busy with something else."""

import fcntl
import signal

from tests.support import survivors, wait_until


def test_a_farm_of_many_workers_that_are_slow_to_die_ends_at_term(
    create_place, farm_token
):
    """Rank 0 itself is given up after 0.1 s, and still leaves."""
    place = create_place(["exec python3 -c 'import time; time.sleep(1000)'"] * 64)
    farm = place.start("--proc", "64")
    wait_until(lambda: len(survivors(farm_token)) > 64)
    farm.send_signal(signal.SIGTERM)
    assert farm.wait() == 75
    wait_until(lambda: not survivors(farm_token))
    assert sorted(place.ids("toprocess")) == list(range(64))
    place.assert_sound()


def test_a_signal_ends_a_start_that_waits_for_the_lock(create_place):
    place = create_place(["true"])
    place.workdir.mkdir()
    with (place.workdir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        farm = place.start()
        wait_until(lambda: farm.has_ended() or _waits_for_locks(farm.pid))
        farm.send_signal(signal.SIGTERM)
        assert farm.wait() == 75
    assert "signal" in farm.text()
    assert not (place.workdir / "toprocess").exists()
    assert place.run() == 0


def test_the_timeout_ends_a_start_that_waits_for_the_lock(create_place):
    place = create_place(["true"])
    place.workdir.mkdir()
    with (place.workdir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        farm = place.start("--timeout", "0.5")
        assert farm.wait() == 75
    assert "timeout" in farm.text()


def test_more_workers_than_a_pool_can_have_are_refused(create_place):
    place = create_place(["true"])
    farm = place.start("--proc", "5000")
    assert farm.wait() == 2
    assert "4096" in farm.text()


def _waits_for_locks(pid: int) -> bool:
    """Whether the process sleeps between two tries: it has the workdir's lock file."""
    try:
        with open(f"/proc/{pid}/wchan") as wchan:
            sleeping = "nanosleep" in wchan.read()
    except OSError:
        return False
    return sleeping
