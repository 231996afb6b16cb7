"""What a handler of a user may get wrong in the constraints of its tasks.

Rules of this file: pure; types are not trusted.
"""

import re

from mpifarm.order.constraints import Barrier, Constraints

_is_kind = re.compile(r"[A-Za-z0-9_.-]+").fullmatch


def find_fault(constraints: Constraints, total: int) -> str:
    """Return what is wrong with constraints of `total` tasks, "" if nothing is.

    The text follows "has constraints whose" in a sentence.
    """
    return (
        _find_fault_in_barriers(constraints.barriers, total)
        or _find_fault_in_after(constraints.after, total)
        or _find_fault_in_kinds(constraints.kinds, total)
    )


def _find_fault_in_barriers(barriers: object, total: int) -> str:
    if not isinstance(barriers, list):
        return f"barriers are not a list but {type(barriers).__name__}"
    above = 0
    for each in barriers:
        if not isinstance(each, Barrier) or not all(
            map(_is_id, (each.first, each.since))
        ):
            return f"barriers have {each!r}, which is no Barrier of ids"
        if not above < each.first <= total:
            return (
                f"barriers have {each!r} out of place: ids are to ascend, from 1 to"
                f" {total}"
            )
        if not each.since <= each.first:
            return f"barriers have {each!r}, which checks from behind itself"
        above = each.first
    return ""


def _find_fault_in_after(after: object, total: int) -> str:
    if not isinstance(after, dict):
        return f"after is not a dict but {type(after).__name__}"
    for taskid, ids in after.items():
        if not _is_id(taskid) or taskid >= total:
            return f"after has {taskid!r}, which is no id of the {total} tasks"
        if not isinstance(ids, tuple) or not all(map(_is_id, ids)):
            return f"after has {ids!r} for task {taskid}, which is no tuple of ids"
        if ids and max(ids) >= taskid:
            return (
                f"after lets task {taskid} wait for task {max(ids)}, but a task can"
                " only wait for lower ids"
            )
    return ""


def _find_fault_in_kinds(kinds: object, total: int) -> str:
    if not isinstance(kinds, dict):
        return f"kinds are not a dict but {type(kinds).__name__}"
    for taskid, kind in kinds.items():
        if not _is_id(taskid) or taskid >= total:
            return f"kinds have {taskid!r}, which is no id of the {total} tasks"
        if not isinstance(kind, str) or not _is_kind(kind):
            return (
                f"kinds have {kind!r} for task {taskid}: a name has letters, digits,"
                " _ . -"
            )
    return ""


def _is_id(value: object) -> bool:
    return isinstance(value, int) and value >= 0
