"""What a run's time and memory are judged by: pure, with a clock of the test's own."""

import pytest

from mpifarm.pool import out_of_memory as memory
from mpifarm.pool.shared_state import SharedState, TimeVerdict
from mpifarm.pool.time_limit import LATE, PAUSE, REMIND, SECOND, TimeAction, TimeKeeper

LIMIT, GRACE = 10 * SECOND, 2 * SECOND
START = 1000 * SECOND


# ---- verdicts -----------------------------------------------------------------------


@pytest.fixture
def row():
    return SharedState().row(0)


def test_a_verdict_is_of_the_run_that_it_was_given_for(row):
    row.start_clock()
    first = row.since
    for verdict in (TimeVerdict.TERMINATE, TimeVerdict.KILL):
        row.pass_verdict(verdict, first)
        assert row.verdict is verdict
    row.stop_clock()
    assert row.verdict is TimeVerdict.IN_TIME
    row.start_clock()
    row.pass_verdict(TimeVerdict.KILL, first)
    assert row.verdict is TimeVerdict.IN_TIME


def test_a_new_worker_finds_no_verdict(row):
    row.start_clock()
    row.pass_verdict(TimeVerdict.KILL, row.since)
    row.clear()
    assert (row.since, row.verdict) == (0, TimeVerdict.IN_TIME)


class Clock:
    """A worker whose run began at `START`, and the keeper of its time."""

    def __init__(self, monkeypatch):
        self.shared = SharedState()
        self.keeper = TimeKeeper(10, 2)
        self._patch = monkeypatch
        self.rows = {}

    def begin(self, index=0, at=START):
        self.rows[index] = self.shared.row(index)
        self._patch.setattr("time.monotonic_ns", lambda: at)
        self.rows[index].start_clock()

    def look(self, after):
        """What is due then, after all the looks that come before."""
        while 0 < self.keeper.look_at < START + after - 1:
            self.keeper.look(self.rows, self.keeper.look_at)
        return self.wake(after)

    def wake(self, after):
        """What is due then, without a look before."""
        due = self.keeper.look(self.rows, START + after)
        return due, self.rows[0].verdict


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_a_run_is_terminated_killed_and_given_up_in_its_turn(clock):
    clock.begin()
    remind = [(0, TimeAction.REMIND)]
    assert clock.look(LIMIT - 1) == ([], TimeVerdict.IN_TIME)
    assert clock.keeper.look_at == START + LIMIT
    assert clock.look(LIMIT) == (remind, TimeVerdict.TERMINATE)
    assert clock.keeper.look_at == START + LIMIT + REMIND
    assert clock.look(LIMIT + GRACE - 1) == (remind, TimeVerdict.TERMINATE)
    assert clock.look(LIMIT + GRACE) == (remind, TimeVerdict.KILL)
    assert clock.look(LIMIT + GRACE + LATE - 1) == (remind, TimeVerdict.KILL)
    give_up = [(0, TimeAction.KILL_WORKER)]
    assert clock.look(LIMIT + GRACE + LATE) == (give_up, TimeVerdict.KILL)


def test_the_next_look_is_when_the_first_run_is_over(clock):
    clock.begin(0)
    clock.begin(1, at=START - SECOND)
    clock.look(SECOND)
    assert clock.keeper.look_at == START - SECOND + LIMIT


def test_a_limit_that_no_clock_can_hold_is_one_of_years():
    keeper = TimeKeeper(1e300, float("inf"))
    keeper.look({}, START)
    assert keeper.look_at == START + 10**8 * SECOND


def test_without_runs_the_next_look_is_a_limit_away(clock):
    assert clock.keeper.look({}, START) == []
    assert clock.keeper.look_at == START + LIMIT


def test_a_new_run_has_all_its_time(clock):
    clock.begin()
    clock.look(LIMIT)
    clock.begin(at=START + LIMIT + 1)
    assert clock.look(LIMIT + 2) == ([], TimeVerdict.IN_TIME)


def test_the_time_in_which_a_farm_was_suspended_does_not_count(clock):
    clock.begin()
    clock.look(0)
    pause = 5 * LIMIT
    assert clock.wake(LIMIT + pause) == (
        [(0, TimeAction.REMIND)],
        TimeVerdict.TERMINATE,
    )


def test_a_run_that_no_look_has_seen_before_a_suspension_is_forgiven_as_well(clock):
    clock.keeper.look({}, START - SECOND)
    clock.begin()
    assert clock.wake(5 * LIMIT) == ([], TimeVerdict.IN_TIME)
    assert clock.look(5 * LIMIT + SECOND)[1] is TimeVerdict.TERMINATE


def test_a_late_look_is_no_suspension(clock):
    clock.begin()
    clock.look(0)
    kill = ([(0, TimeAction.REMIND)], TimeVerdict.KILL)
    clock.look(LIMIT + GRACE - PAUSE // 2)
    assert clock.wake(LIMIT + GRACE + PAUSE // 3) == kill


def test_a_pause_before_the_end_of_the_time_is_given_back(clock):
    clock.begin(0)
    clock.begin(1, at=START - LIMIT // 2)
    clock.look(1)  # the next look is when worker 1 is over: at LIMIT / 2
    assert clock.wake(LIMIT // 2 + 3 * LIMIT)[1] is TimeVerdict.IN_TIME
    assert clock.rows[1].verdict is TimeVerdict.TERMINATE
    clock.rows[1].stop_clock()
    verdicts = [clock.look(4 * LIMIT + step)[1] for step in (-1, 0)]
    assert verdicts == [TimeVerdict.IN_TIME, TimeVerdict.TERMINATE]


# ---- memory -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "MemoryError",
        "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 7 GiB for",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "./solve: Cannot allocate memory",
        "/bin/bash: xrealloc: cannot allocate 18446744071562067968 bytes",
        "Error: cannot allocate vector of size 7.5 Gb",
        "Exception in thread main java.lang.OutOfMemoryError: Java heap space",
        "# There is insufficient memory for the Java Runtime Environment to continue.",
        "fatal error: runtime: out of memory",
        "memory allocation of 8589934592 bytes failed",
        "Error allocating 8000000000 bytes",
        "Out of memory!",
        "sort: memory exhausted",
        "forrtl: severe (41): insufficient virtual memory",
    ],
)
def test_what_programs_print_when_memory_runs_out_is_known(line):
    assert memory.tells_of_memory(f"begins\n{line}\nends\n".encode())


@pytest.mark.parametrize(
    "line",
    [
        "",
        "memory: 500 MB",
        "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "torch.cuda.OutOfMemoryError: HIP out of memory",
        "No space left on device",
        "Segmentation fault",
    ],
)
def test_other_lines_are_not_taken_for_it(line):
    assert not memory.tells_of_memory(line.encode())


def test_a_peak_near_the_limit_is_enough():
    assert memory.has_met_limit(901, 1000, b"")
    assert memory.has_met_limit(900, 1000, b"")
    assert not memory.has_met_limit(899, 1000, b"")
    assert memory.has_met_limit(0, 1000, b"MemoryError")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (500 * 2**20, "500 MB"),
        (4 * 2**30, "4 GB"),
        (1536 * 2**20, "1536 MB"),
        (2**20 + 1, "1048577 bytes"),
        (3 * 2**10, "3 KB"),
        (2**10, "1 KB"),
        (2**10 - 1, "1023 bytes"),
        (2**20, "1 MB"),
        (2**30, "1 GB"),
        (0, "0 bytes"),
    ],
)
def test_a_size_is_told_as_the_user_wrote_it(size, text):
    assert memory.readable_size(size) == text


def test_kills_are_told_once(tmp_path, monkeypatch):
    events = tmp_path / "events"
    events.write_text("oom_kill 2\n")
    monkeypatch.setattr(memory, "find_oom_file", lambda: str(events))
    kills = memory.OomKills()
    assert not kills.has_grown()
    events.write_text("oom_kill 3\n")
    assert kills.has_grown()
    assert not kills.has_grown()
    events.unlink()
    assert not kills.has_grown()


def test_without_a_file_nothing_is_put_down_to_the_kernel(monkeypatch):
    monkeypatch.setattr(memory, "find_oom_file", lambda: None)
    assert not memory.OomKills().has_grown()


@pytest.mark.parametrize("status", [-9, 137])
def test_both_ways_to_be_killed_are_known(status):
    assert status in memory.KILLED


def test_a_count_that_shrinks_or_that_is_new_is_no_kill(tmp_path, monkeypatch):
    events = tmp_path / "events"
    monkeypatch.setattr(memory, "find_oom_file", lambda: str(events))
    kills = memory.OomKills()
    events.write_text("oom_kill 3\n")
    assert not kills.has_grown(), "nobody knows since when"
    events.write_text("oom_kill 2\n")
    assert not kills.has_grown()
    events.write_text("oom_kill 3\n")
    assert kills.has_grown()


def test_another_line_of_a_log_may_name_a_gpu():
    assert memory.tells_of_memory(b"cuda is there\nMemoryError\n")
    assert not memory.tells_of_memory(b"MemoryError of the GPU\n")


def test_a_run_that_began_after_a_suspension_is_forgiven_nothing(clock):
    clock.keeper.look({}, START - SECOND)
    late = 5 * LIMIT - SECOND // 2
    clock.begin(at=START + late)
    assert clock.wake(5 * LIMIT) == ([], TimeVerdict.IN_TIME)
    verdicts = [clock.look(late + LIMIT + step)[1] for step in (-1, 0)]
    assert verdicts == [TimeVerdict.IN_TIME, TimeVerdict.TERMINATE]
