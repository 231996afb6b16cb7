"""Which failed commands a worker puts down to memory; the kernel is the test's."""

from pathlib import Path
from typing import Any

import pytest

from mpifarm.model.settings import TaskLimits
from mpifarm.output.task_log import TaskLog
from mpifarm.pool import out_of_memory as memory
from mpifarm.pool.out_of_memory import OomDetector
from mpifarm.system import task_command

MB = 2**20


@pytest.fixture
def kernel(monkeypatch) -> dict[str, Any]:
    """The kills of the kernel, the peak of the last command, the limit that holds."""
    says = {"kills": 3, "peak": 0, "limit": 500 * MB}
    monkeypatch.setattr(memory, "find_oom_file", lambda: "/dev/null")
    monkeypatch.setattr(memory, "parse_oom_kills", lambda _: says["kills"])
    monkeypatch.setattr(task_command, "peak_memory", lambda: says["peak"])
    monkeypatch.setattr(
        *(task_command, "limit_memory"), lambda limit: min(limit, says["limit"])
    )
    return says


@pytest.fixture
def log(tmp_path) -> Any:
    log = TaskLog(str(tmp_path / "log_0"), 1)
    yield log
    log.end()


LIMITED = TaskLimits(memory=500 * MB)


@pytest.mark.parametrize(
    ("status", "kills", "is_reason"),
    [(-9, 4, True), (137, 4, True), (1, 4, False), (-9, 3, False), (-15, 4, False)],
)
def test_a_command_that_the_kernel_killed_lacked_memory(
    kernel, log, status, kills, is_reason
):
    detector = OomDetector(TaskLimits())
    kernel["kills"] = kills
    reason = detector.find_reason(status, log)
    assert (reason is not None) is is_reason
    assert reason is None or "by the kernel" in reason


def test_a_kill_is_put_down_to_one_command_alone(kernel, log):
    detector = OomDetector(TaskLimits())
    kernel["kills"] = 4
    assert detector.find_reason(-9, log) is not None
    assert detector.find_reason(-9, log) is None


def test_a_command_at_its_limit_lacked_memory(kernel, log):
    detector = OomDetector(LIMITED)
    kernel["peak"] = 460 * MB
    reason = detector.find_reason(1, log)
    assert reason is not None
    assert reason.endswith("is 500 MB for each process (--task-memory)")
    kernel["peak"] = 400 * MB
    assert detector.find_reason(1, log) is None


def test_a_users_own_limit_is_named_where_it_is_lower(kernel, log):
    kernel["limit"] = 200 * MB
    detector = OomDetector(LIMITED)
    kernel["peak"] = 190 * MB
    reason = detector.find_reason(1, log)
    assert reason is not None
    assert reason.endswith("is 200 MB for each process (ulimit -d)")


def test_a_word_on_memory_counts_as_soon_as_it_is_written(kernel, log):
    detector = OomDetector(LIMITED)
    log.write("MemoryError\n")  # still in the text layer
    assert detector.find_reason(1, log) is not None


def test_without_a_limit_words_and_peaks_say_nothing(kernel, log):
    kernel["peak"] = 2**40
    log.write("MemoryError\n")
    assert OomDetector(TaskLimits()).find_reason(1, log) is None


def test_words_of_an_earlier_attempt_say_nothing(kernel, tmp_path):
    path = Path(tmp_path / "log_1")
    path.write_text("MemoryError\n")
    log = TaskLog(str(path), 2)
    assert OomDetector(LIMITED).find_reason(1, log) is None
    log.end()


@pytest.mark.parametrize(
    ("size", "told"), [(500 * MB + 1, "501 MB"), (2**34 + 2**30, "17.0 GB")]
)
def test_what_processes_had_together_is_told_as_more_than_the_limit(size, told):
    line = memory.excess_line(size, 500 * MB)
    assert f"its processes had {told} together, and the limit is 500 MB" in line
