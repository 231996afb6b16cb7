"""The definition of a pool reaches the fork server whole."""

import signal
from dataclasses import fields
from typing import Any

import pytest

from mpifarm.immutable import immutable
from mpifarm.model.settings import RunnerDefinition, TaskLimits
from mpifarm.pool.definition import (
    Allotment,
    PoolDefinition,
    _encode,
    _parse,
    encode_definition,
    parse_definition,
)
from mpifarm.pool.framing import FrameReader, encode_frame

ODD = "\udcff\udc80 no UTF-8"

DEFINITION = PoolDefinition(
    workers=7,
    rank=3,
    farm="f0",
    workdir=ODD,
    logs="/w/logs",
    runner=RunnerDefinition("own", "own.Runner", {"image": ODD}, "farm.ini"),
    environment={b"A\xff": b"\xfe"},
    node_worker=14,
    allotment=Allotment(2, ((0, 1), (2, 3)), {"CUDA_VISIBLE_DEVICES": ("0", "1")}),
    limits=TaskLimits(2.5, 2**40, 10),
    grace=0.25,
    kept_logs="packed",
    id_variables=(("SLURM_ARRAY_TASK_ID", 1),),
)
"""Each field says something."""


def through_a_frame(definition: PoolDefinition) -> PoolDefinition:
    frame = encode_frame(("start", encode_definition(definition)))
    ((_, content),) = FrameReader().feed(frame)
    return parse_definition(content)


@pytest.mark.parametrize(
    "definition",
    [PoolDefinition(1, 0, "f", "w", "l"), DEFINITION],
    ids=["least", "all"],
)
def test_a_definition_comes_out_as_it_went_in(definition):
    assert through_a_frame(definition) == definition


@pytest.mark.parametrize("part", [PoolDefinition, RunnerDefinition, TaskLimits])
def test_a_word_in_each_field_is_among_these(part: Any):
    parts = [DEFINITION, DEFINITION.runner, DEFINITION.limits]
    (given,) = [each for each in parts if isinstance(each, part)]
    least = part(0, 0, "", "", "") if part is PoolDefinition else part()
    names = [field.name for field in fields(part)]
    assert all(getattr(given, name) != getattr(least, name) for name in names)


@immutable
class LimitsOfTomorrow(TaskLimits):
    open_files: int | None = None


@immutable
class DefinitionOfTomorrow(PoolDefinition):
    limits: LimitsOfTomorrow = LimitsOfTomorrow()
    color: str = ""


def test_a_field_that_is_added_is_not_forgotten():
    limits = LimitsOfTomorrow(1.0, 2, 3, open_files=4)
    definition = DefinitionOfTomorrow(1, 0, "f", "w", "l", limits=limits, color="red")
    assert _parse(DefinitionOfTomorrow, _encode(definition)) == definition


def test_a_field_that_only_one_end_knows_is_no_definition():
    with pytest.raises(ValueError, match="longer"):
        parse_definition(_encode(DefinitionOfTomorrow(1, 0, "f", "w", "l")))


def test_a_signal_is_a_number_to_the_fork_server():
    limits = TaskLimits(checkpoint_signal=signal.SIGUSR1)
    definition = through_a_frame(PoolDefinition(1, 0, "f", "w", "l", limits=limits))
    assert definition.limits.checkpoint_signal == 10
