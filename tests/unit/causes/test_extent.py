"""How many attempts the tasks of a cause had, and which memory they have met."""

import pytest

from mpifarm.causes.failure import Failure, Group
from mpifarm.causes.groups import group_failures
from mpifarm.pool.out_of_memory import excess_line, kernel_line
from mpifarm.pool.shared_state import BY_KERNEL

MB = 2**20
LIMIT = 200 * MB


def group(*failures: Failure) -> Group:
    (found,) = group_failures(failures)
    return found


def grown(taskid: int, line: str, peak: int | None = None, **more) -> Failure:
    tail = f"step 1\n=== mpifarm: {line} ===\n".encode()
    return Failure(taskid, "out of memory", 137, 9, tail=tail, peak_memory=peak, **more)


@pytest.mark.parametrize(
    ("attempts", "told"),
    [
        ([1], ""),
        ([0], ""),
        ([1, 1], ""),
        ([3], "the last of 3 attempts"),
        ([2, 2], "each the last of 2 attempts"),
        ([1, 3, 2], "each the last of up to 3 attempts"),
        ([0, 2], "each the last of 2 attempts"),
    ],
)
def test_attempts_are_told_where_a_task_had_several(attempts, told):
    hosts = ["n1", "n2"]
    failures = [
        Failure(taskid, "failed", 3, host=hosts[taskid % 2], attempt=attempt)
        for taskid, attempt in enumerate(attempts)
    ]
    assert group(*failures).attempts == told


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ([(excess_line(LIMIT + 1, LIMIT), None)], "limit 200 MB, largest seen 201 MB"),
        (
            [
                (excess_line(369 * MB, LIMIT), 90 * MB),
                (excess_line(12 * 2**30, LIMIT), 80 * MB),
                (kernel_line(LIMIT), 99 * MB),
            ],
            "limit 200 MB, largest seen 12.0 GB",
        ),
        (
            [(excess_line(BY_KERNEL, LIMIT), 150 * MB)],
            "limit 200 MB, largest seen 150 MB",
        ),
        ([(kernel_line(LIMIT), None)], "limit 200 MB"),
        (
            [(kernel_line(LIMIT), 150 * MB), (kernel_line(4 * LIMIT), None)],
            "largest seen 150 MB",
        ),
        ([("it failed, and the limit is 9 MB", None)], ""),
    ],
)
def test_the_limit_of_memory_and_the_largest_seen_are_told(failures, told):
    found = group(*(grown(taskid, *each) for taskid, each in enumerate(failures)))
    assert found.memory == told
    assert found.title == (f"{found.cause} ({told})" if told else found.cause)


def test_a_program_that_speaks_of_memory_has_met_no_limit_of_ours():
    tail = b"memory ran out: the limit is 3 MB\n"
    assert group(Failure(7, "failed", 1, tail=tail, peak_memory=5)).memory == ""


def test_each_host_that_is_blamed_has_its_own():
    failures = [
        grown(taskid, excess_line((300 + taskid) * MB, LIMIT), host="n1", attempt=2)
        for taskid in range(40)
    ]
    failures += [Failure(99, "out of memory", 137, 9, host="n2", attempt=1)]
    ran = {"n1": 40, "n2": 400}
    blamed, other = group_failures(failures, ran)
    assert (blamed.attempts, other.attempts) == ("each the last of 2 attempts", "")
    assert blamed.memory == "limit 200 MB, largest seen 339 MB"
    assert other.memory == ""
