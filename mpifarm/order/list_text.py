"""The text of a plain list, made of commands and constraints.

Rules of this file: pure.  What `DirectiveReader` reads in the text are the same
commands with the same constraints.  What no plain list can say raises
`UnsayableError`: a list that says less would run tasks too early.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from mpifarm.model.id_ranges import encode_ids
from mpifarm.order.constraints import Barrier, Constraints
from mpifarm.order.directives import LIMIT, seems_limit, shorten


class UnsayableError(ValueError):
    """A command or a barrier that no line of a plain list can say, and why."""


def encode_list(
    commands: Iterable[tuple[int, bytes]], constraints: Constraints
) -> Iterator[bytes]:
    """Yield the lines of a list, with newlines; the ids ascend from 0 without gaps.

    `commands` are without the prefixes of their kinds.
    """
    barriers = {each.first: each for each in constraints.barriers}
    taskid = -1
    for taskid, command in commands:
        if found := barriers.get(taskid):
            yield _encode_barrier(found)
        if waits_for := constraints.after.get(taskid):
            yield f"#AFTER {encode_ids(waits_for)}\n".encode()
        yield _encode_command(taskid, command, constraints.kinds.get(taskid))
    if found := barriers.get(taskid + 1):
        yield _encode_barrier(found)


def encode_plain(commands: Sequence[bytes], first: int) -> bytes:
    """Return the lines of commands with ids from `first` on and without constraints."""
    lines = b"\n".join([*commands, b""])
    is_odd = lines.startswith((b"#", b"[")) or b"\n#" in lines or b"\n[" in lines
    if is_odd or not lines.isascii() or not all(map(bytes.strip, commands)):
        return b"".join(encode_list(enumerate(commands, first), Constraints()))
    return lines


def _encode_barrier(barrier: Barrier) -> bytes:
    if barrier.since:
        raise UnsayableError(
            f"the barrier in front of task {barrier.first} checks the tasks from"
            f" {barrier.since} on alone"
        )
    return b"#BARRIER CHECK\n" if barrier.checks else b"#BARRIER\n"


def _encode_command(taskid: int, command: bytes, kind: str | None) -> bytes:
    text = command.decode("utf-8", "surrogateescape").strip()
    if not text:
        raise UnsayableError(f"the command of task {taskid} is blank")
    if seems_limit(text):
        raise UnsayableError(
            f"the command of task {taskid} begins with {shorten(text)}, which would"
            " name a kind in a list"
        )
    if kind:
        return f"{LIMIT}{kind}] {text}\n".encode("utf-8", "surrogateescape")
    # A # in column 0 would make a comment of it.
    begin = b" " if text.startswith("#") else b""
    return begin + text.encode("utf-8", "surrogateescape") + b"\n"


def choose_tasks(constraints: Constraints, taskids: Sequence[int]) -> Constraints:
    """Return the constraints among some tasks, whose new ids are their places.

    `taskids` ascend.  What a task waits for outside of these is left out.
    """
    place_of = {taskid: place for place, taskid in enumerate(taskids)}
    chosen = Constraints(is_foreign=constraints.is_foreign)
    for first, checks, since in constraints.barriers:
        # A barrier that ends up behind all tasks holds nothing back.
        if (place := bisect_left(taskids, first)) < len(taskids):
            begin = bisect_left(taskids, since)
            chosen.add_barrier(place, checks=checks, since=begin)
    for taskid in taskids:
        place = place_of[taskid]
        waits_for = constraints.after.get(taskid, ())
        if kept := tuple(place_of[each] for each in waits_for if each in place_of):
            chosen.after[place] = kept
        if taskid in constraints.kinds:
            chosen.kinds[place] = constraints.kinds[taskid]
    return chosen
