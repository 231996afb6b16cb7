"""Slurm's words: what ``sinfo`` says of nodes, and srun's options that choose them.

Rules of this file: texts in, words out; it runs nothing and reads no environment of its
own.  The options are those of srun 22.05.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

SINFO = ("sinfo", "--noheader", "--Node", "--format=%N %t")
"""Prints ``<node> <state>`` for each node and partition; ``--nodes=`` follows."""

SQUEUE = ("squeue", "--noheader", "--format=%N")
"""Prints the nodes that a job has now, as Slurm abbreviates them; ``--jobs=`` follows.
A job that outlived one of its nodes has fewer than it began with."""

HOSTNAMES = ("scontrol", "show", "hostnames")
"""Prints each of the nodes of an abbreviated list, which follows, on a line."""

STEPS = ("squeue", "--steps", "--noheader", "--format=%i %j")
"""Prints ``<job>.<step> <name>`` for each step of a job; ``--jobs=`` follows."""

SCANCEL = ("scancel",)
"""Ends the steps that follow."""

_SHORT_FLAGS = frozenset("EHhIKklOQsuVvXZ")
"""Options of one letter without a value, or with one that is attached."""
_WITH_ATTACHED_VALUE = frozenset("IK")

_LONG_FLAGS = frozenset(
    (
        *("accel-bind", "bell", "contiguous", "disable-status", "exact", "exclusive"),
        *("help", "hold", "immediate", "interactive", "join", "kill-on-bad-exit"),
        *("label", "multi-prog", "nice", "no-allocate", "no-bell", "no-kill"),
        *("no-rotate", "overcommit", "overlap", "oversubscribe", "preserve-env"),
        *("propagate", "pty", "quiet", "reboot", "resv-ports", "share", "spread-job"),
        *("test-only", "unbuffered", "usage", "use-min-nodes", "verbose", "version"),
        *("whole", "x11"),
    )
)
"""Long options that don't take the next word as their value."""

_LONG_NAMES = {
    "J": "job-name",
    "N": "nodes",
    "n": "ntasks",
    "x": "exclude",
    "w": "nodelist",
}
_NODE_COUNT = re.compile(r"(\d+)(?:-(\d+))?")

_GONE = ("down", "fail", "boot", "unk", "inval", "futr", "power")
_SUSPECT = ("drain", "drng", "failg", "maint")


class NodeStates(NamedTuple):
    """Nodes, by what can be expected of them."""

    known: tuple[str, ...]
    """All that Slurm was asked for."""
    gone: frozenset[str]
    """Nothing can be started there."""
    suspect: frozenset[str]
    """Somebody, or a health check, wants nothing more to be started there."""


class _Option(NamedTuple):
    """An option of srun; it takes up `length` words from the place `at`."""

    at: int
    length: int
    name: str
    """Without dashes, the long name where it has one here."""
    value: str


def parse_states(text: str) -> NodeStates:
    """What ``sinfo`` has printed for `SINFO`; lines that are none are passed over.

    A state may have a mark behind it; ``*`` is for a node that does not respond.
    """
    states = dict(
        words for line in text.splitlines() if len(words := line.split()) == 2
    )
    gone = {
        node
        for node, state in states.items()
        if state.endswith("*") or (state.startswith(_GONE) and state != "failg")
    }
    suspect = {node for node, state in states.items() if state.startswith(_SUSPECT)}
    return NodeStates(tuple(states), frozenset(gone), frozenset(suspect - gone))


def without_missing(states: NodeStates, present: Collection[str]) -> NodeStates:
    """`states`, where a node that the job has no more is gone, whatever its state."""
    if not present:
        return states
    gone = states.gone | (frozenset(states.known) - frozenset(present))
    return NodeStates(states.known, gone, states.suspect - gone)


def parse_steps(text: str, name: str) -> list[str]:
    """The steps of this name in what `STEPS` has printed."""
    words = (line.split(maxsplit=1) for line in text.splitlines())
    return [each[0] for each in words if each[1:] == [name]]


def name_step(words: Sequence[str], name: str) -> list[str]:
    """`words`, with this name for the step, where srun is not given another."""
    srun = find_srun(words)
    if srun is None or any(o.name == "job-name" for o in _options(words, srun + 1)):
        return list(words)
    return [*words[: srun + 1], f"--job-name={name}", *words[srun + 1 :]]


def node_of_host(host: str, nodes: Iterable[str]) -> str | None:
    """The node that calls itself `host`; None if it is none of `nodes`."""
    for name in (host, host.partition(".")[0]):
        if name in nodes:
            return name
    return None


def find_srun(words: Sequence[str]) -> int | None:
    """The place of ``srun`` among the words of a command line."""
    names = [os.path.basename(word) for word in words]
    return names.index("srun") if "srun" in names else None


def exclude_nodes(
    words: Sequence[str],
    excluded: Sequence[str],
    job_nodes: int,
    environ: Mapping[str, str],
) -> list[str]:
    """`words`, a command line with ``srun`` in it, kept off the `excluded` nodes.

    `job_nodes` is the number of nodes of the allocation, 0 outside of one.  There srun
    refuses to run on fewer nodes than it was asked for, be it by an option or by the
    variables of the job; so it is asked for what is left.  A command line that names
    its nodes (``--nodelist``) stays as it is.
    """
    srun = find_srun(words)
    if srun is None or not excluded:
        return list(words)
    options = list(_options(words, srun + 1))
    values = {option.name: option.value for option in options}
    if "nodelist" in values:
        return list(words)
    names = [*filter(None, [values.get("exclude")]), *excluded]
    chosen = {"exclude": ",".join(names)}
    if job_nodes:
        chosen |= _sizes(values, job_nodes, job_nodes - len(excluded), environ)
    inserted = [f"--{name}={value}" for name, value in chosen.items()]
    dropped = {
        option.at + i
        for option in options
        if option.name in chosen
        for i in range(option.length)
    }
    rest = [w for i, w in enumerate(words) if i > srun and i not in dropped]
    return [*words[: srun + 1], *inserted, *rest]


def _sizes(
    values: Mapping[str, str], job_nodes: int, left: int, environ: Mapping[str, str]
) -> dict[str, str]:
    """``nodes``, and ``ntasks`` where it was said, for the nodes that are left."""
    wanted = values.get("nodes") or environ.get("SLURM_JOB_NUM_NODES", "")
    found = _NODE_COUNT.fullmatch(wanted)
    least = int(found[1]) if found else job_nodes
    most = int(found[2] or found[1]) if found else job_nodes
    nodes = min(most, left)
    span = f"{least}-{nodes}" if least < nodes else str(nodes)
    tasks = values.get("ntasks") or environ.get("SLURM_NTASKS", "")
    if nodes == most or not tasks.isdecimal():
        return {"nodes": span}
    return {"nodes": span, "ntasks": str(max(nodes, int(tasks) * nodes // most))}


def _options(words: Sequence[str], at: int) -> Iterator[_Option]:
    """The options of srun, up to the program that it starts."""
    while (
        at < len(words) and words[at].startswith("-") and words[at] not in ("-", "--")
    ):
        read = _read_long if words[at].startswith("--") else _read_short
        after = words[at + 1] if at + 1 < len(words) else ""
        option = read(at, words[at], after)
        yield option
        at += option.length


def _read_long(at: int, word: str, after: str) -> _Option:
    name, equals, value = word.removeprefix("--").partition("=")
    if equals or name in _LONG_FLAGS:
        return _Option(at, 1, name, value)
    return _Option(at, 2, name, after)


def _read_short(at: int, word: str, after: str) -> _Option:
    letters = word[1:]
    while letters[1:] and letters[0] in _SHORT_FLAGS - _WITH_ATTACHED_VALUE:
        letters = letters[1:]
    letter, value = letters[0], letters[1:]
    name = _LONG_NAMES.get(letter, letter)
    if letter in _SHORT_FLAGS or value:
        return _Option(at, 1, name, value)
    return _Option(at, 2, name, after)
