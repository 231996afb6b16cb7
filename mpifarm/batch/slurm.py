"""Slurm's states of nodes, its steps, and the options of srun that choose nodes.

Rules of this file: pure; texts in, words out.  The options are those of srun 22.05
(its man page).
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

SINFO = ("sinfo", "--noheader", "--Node", "--format=%N %t")
"""Prints ``<node> <state>`` for each node and partition; ``--nodes=`` follows."""

SQUEUE = ("squeue", "--noheader", "--format=%N")
"""Prints the nodes that a job has now, abbreviated; ``--jobs=`` follows.  A job that
has lost a node has fewer than it began with."""

HOSTNAMES = ("scontrol", "show", "hostnames")
"""Prints one node a line for an abbreviated list, which follows."""

STEPS = ("squeue", "--steps", "--noheader", "--format=%i %j")
"""Prints ``<job>.<step> <name>`` for each step of a job; ``--jobs=`` follows."""

SCANCEL = ("scancel",)
"""Ends the steps that follow."""

_SHORT_FLAGS = frozenset("EHhIKklOQsuVvXZ")
"""Options of one letter that do not take the next word as their value."""
_WITH_ATTACHED_VALUE = frozenset("IK")
"""Options of one letter whose value, if any, is attached."""

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
    """The nodes of a job, with the gone and the suspect ones among them."""

    known: tuple[str, ...]
    """All nodes that Slurm was asked for."""
    gone: frozenset[str]
    """Nodes on which nothing can be started."""
    suspect: frozenset[str]
    """Nodes on which an administrator or a health check wants nothing more started."""


class SrunLine(NamedTuple):
    """The options of an srun, and the program that it starts."""

    options: frozenset[str]
    """The names of the options, without dashes."""
    program: str
    """The program that srun starts; empty if there is none."""


class _Option(NamedTuple):
    """An option of srun, which takes up `length` words from the place `at`."""

    at: int
    length: int
    name: str
    """The name without dashes, the long one if `_LONG_NAMES` has it."""
    value: str


def parse_states(text: str) -> NodeStates:
    """Parse the output of `SINFO`, without the lines that have another form.

    A state may end in a mark; ``*`` marks a node that does not respond.
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
    """Return `states` with each node that is not `present` among the gone ones.

    `present` are the nodes that the job has now; empty means unknown, and changes
    nothing.
    """
    if not present:
        return states
    gone = states.gone | (frozenset(states.known) - frozenset(present))
    return NodeStates(states.known, gone, states.suspect - gone)


def parse_steps(text: str, name: str) -> list[str]:
    """Return the steps called `name` in the output of `STEPS`."""
    words = (line.split(maxsplit=1) for line in text.splitlines())
    return [each[0] for each in words if each[1:] == [name]]


def name_step(words: Sequence[str], name: str) -> list[str]:
    """Return `words` with the job name `name` for srun.

    Words without srun, or with a job name already, stay as they are.
    """
    srun = find_srun(words)
    if srun is None or any(o.name == "job-name" for o in _options(words, srun + 1)):
        return list(words)
    return [*words[: srun + 1], f"--job-name={name}", *words[srun + 1 :]]


def node_of_host(host: str, nodes: Iterable[str]) -> str | None:
    """Return the one of `nodes` that is called `host`, None if none is.

    Slurm's name of a node may be the host's name without its domain.
    """
    for name in (host, host.partition(".")[0]):
        if name in nodes:
            return name
    return None


def find_srun(words: Sequence[str]) -> int | None:
    """Return the index of ``srun`` in the words of a command line, or None."""
    names = [os.path.basename(word) for word in words]
    return names.index("srun") if "srun" in names else None


def read_srun(words: Sequence[str]) -> SrunLine:
    """Parse a command line that begins with srun."""
    options = list(_options(words, 1))
    at = options[-1].at + options[-1].length if options else 1
    program = words[at] if at < len(words) else ""
    return SrunLine(frozenset(option.name for option in options), program)


def exclude_nodes(
    words: Sequence[str],
    excluded: Sequence[str],
    job_nodes: int,
    environ: Mapping[str, str],
) -> list[str]:
    """Return `words`, a command line with srun, changed to avoid the `excluded` nodes.

    `job_nodes` is the number of nodes of the allocation, 0 outside of an allocation.
    In an allocation, ``--nodes`` and ``--ntasks`` are lowered to the nodes that are
    left.  A command line without srun, or that names its nodes (``--nodelist``), stays
    as it is.
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
        # Else srun refuses: it was asked, by an option or by the variables of the job,
        # for more nodes than are left.
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


def set_option(words: Sequence[str], name: str, value: str) -> list[str]:
    """Return `words` with srun's long option `name` set to `value`.

    Words without srun stay as they are.
    """
    srun = find_srun(words)
    if srun is None:
        return list(words)
    dropped = {
        option.at + i
        for option in _options(words, srun + 1)
        if option.name == name
        for i in range(option.length)
    }
    rest = [w for i, w in enumerate(words) if i > srun and i not in dropped]
    return [*words[: srun + 1], f"--{name}={value}", *rest]


def _sizes(
    values: Mapping[str, str], job_nodes: int, left: int, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the options ``nodes`` and, if it has to shrink, ``ntasks`` for srun.

    `left` is the number of nodes that are left of `job_nodes`.
    """
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
    """Yield the options of srun from the word `at` on, up to the program."""
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
