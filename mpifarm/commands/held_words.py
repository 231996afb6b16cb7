"""What is said of tasks that users hold, with the command that releases them.

Rules of this file: pure.
"""

import shlex
from collections.abc import Sequence

from mpifarm.model.id_ranges import name_ids
from mpifarm.model.wording import agree
from mpifarm.store.target import Target, words_of


def name_release(target: Target) -> str:
    """Return the command that releases all tasks of a workdir."""
    return shlex.join(["mpifarm", "release", *words_of(target)])


def describe_held(target: Target, held: Sequence[int], *, holds_all: bool) -> str:
    """Return the sentence about the tasks that are `held`; "" for none.

    `holds_all`: whether all tasks are.
    """
    release = name_release(target)
    if holds_all:
        return f"held: nothing starts until {release}"
    if not held:
        return ""
    tasks = f"{agree(len(held), 'task', 'tasks')} {name_ids(held)}"
    them = agree(len(held), "it", "them")
    return f"{len(held)} held ({tasks}): {release} lets {them} start"
