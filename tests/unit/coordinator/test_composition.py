"""The shape of the coordinator: members, each of which can be read alone."""

import ast
from pathlib import Path

import pytest

import mpifarm.coordinator
from mpifarm.coordinator.state import (
    MOVES,
    PHASES,
    RANK_MOVES,
    Phase,
    RankState,
    TaskState,
)
from tests.unit.coordinator.test_coordinator import Hand

ROOM = Path(mpifarm.coordinator.__file__).parent
TREES = {path.stem: ast.parse(path.read_text()) for path in ROOM.glob("*.py")}

STATE_OWNERS = {"phase": {"ending"}, "state": {"task_table", "rank_use"}}
"""The only modules that set this attribute of a record."""


OF_NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}
"""Public, in spite of their names."""


def private_reaches(tree: ast.AST) -> list[str]:
    """What is private to another object, as far as one sees from the text."""
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and node.attr not in OF_NAMED_TUPLES
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
    ]


@pytest.mark.parametrize("name", TREES)
def test_no_member_reaches_into_another(name):
    assert private_reaches(TREES[name]) == []


def test_a_reach_into_another_member_would_be_found():
    source = "self._table._move(task); self._x = self.__class__; other._y()"
    assert private_reaches(ast.parse(source)) == ["self._table._move", "other._y"]


def test_no_member_inherits_from_another():
    classes = [
        node
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    names = {node.name for node in classes}
    bases = {ast.unparse(base) for node in classes for base in node.bases}
    assert names & bases == set()


@pytest.mark.parametrize("attribute", STATE_OWNERS)
def test_a_state_has_one_setter(attribute):
    setters = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AugAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and target.attr == attribute
    }
    assert setters == STATE_OWNERS[attribute]


def test_each_state_has_its_row_in_its_table():
    assert set(PHASES) == set(Phase)
    assert set(MOVES) == set(TaskState)
    assert set(RANK_MOVES) == set(RankState)


@pytest.mark.parametrize("state", [RankState.JOINING, RankState.WORKING])
def test_a_rank_that_was_given_up_never_works_again(state):
    coordinator = Hand(size=2).coordinator
    record = coordinator.ranks[1]
    coordinator.rank_use.enter(record, RankState.LOST)
    with pytest.raises(AssertionError, match="rank 1: "):
        coordinator.rank_use.enter(record, state)
    assert record.state is RankState.LOST
