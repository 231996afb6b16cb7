"""What a task has used, by the counts that the kernel keeps of processes."""

from resource import RUSAGE_CHILDREN, RUSAGE_SELF
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mpifarm.pool import usage
from mpifarm.pool.usage import CommandMeter, ProcessMeter
from mpifarm.system import task_command

LOG = cast(Any, SimpleNamespace(output_bytes=lambda: 77))


def counts(user, system, peak):
    return SimpleNamespace(ru_utime=user, ru_stime=system, ru_maxrss=peak)


@pytest.fixture
def measured(monkeypatch):
    """Measure a task: counts of the process, and of its children, before and after."""

    def measure(meter, own, children):
        looks = {
            RUSAGE_SELF: iter(own),
            RUSAGE_CHILDREN: iter(children),
        }
        monkeypatch.setattr(usage, "getrusage", lambda who: next(looks[who]))
        meter.begin()
        return meter.read(LOG)

    return measure


@pytest.mark.parametrize(
    ("own_peak", "childrens_peak", "peak"),
    [(100, 200, 0), (101, 200, 101), (100, 201, 201), (300, 201, 300), (150, 250, 250)],
)
def test_a_users_runner_is_measured_with_its_children(
    measured, own_peak, childrens_peak, peak
):
    assert measured(
        ProcessMeter(),
        [counts(1.0, 10.0, 100), counts(1.5, 10.25, own_peak)],
        [counts(2.0, 20.0, 200), counts(4.0, 21.0, childrens_peak)],
    ) == (2.5, 1.25, peak * 1024, 77)


@pytest.mark.parametrize(("now", "highest"), [(200, 0), (201, 201)])
def test_the_peak_of_a_command_is_known_if_it_is_the_highest(
    measured, monkeypatch, now, highest
):
    monkeypatch.setattr(task_command, "peak_memory", lambda highest: highest)
    assert measured(
        CommandMeter(), [], [counts(2.0, 20.0, 200), counts(4.0, 21.0, now)]
    ) == (2.0, 1.0, highest, 77)
