"""Failures, grouped by cause.

Each failure has a *head* (a cause that is known, or how a line begins, or how the
attempt ended) and, within it, an *entry* (the folded words that may divide the head).
At the end entries that are alike are united: but what holds a large share of them
stays by itself (all tasks miss one file: that is another cause than that each misses
its own).

Rules of this file: pure; the memory is bounded but for the ids.
"""

import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mpifarm.audit.causes import known
from mpifarm.audit.causes.failure import Example, Failure, Group
from mpifarm.audit.causes.folding import (
    ALIKE,
    WILD,
    Tokens,
    common_text,
    find_detail,
    fold_name,
    similarity,
)
from mpifarm.audit.causes.hosts import find_blamed
from mpifarm.audit.causes.known import KnownCause, Weight
from mpifarm.audit.causes.lines import MAX_LINES, NEAR, LineReader, Telling, last_lines
from mpifarm.model.id_ranges import encode_ids

MAX_GROUPS = 20
"""Groups for the user, with that of all other causes."""
OTHER_CAUSES = "other causes"

_MAX_HEADS = 300
_MAX_ENTRIES = 300
"""Entries of a head that are kept apart while failures come in."""
_MAX_ALIKE = 5
"""Entries with which a further one is compared."""
_OWN_SHARE = 0.3
"""An entry with this share of those alike is a cause by itself."""
_MIN_SHARE = 0.05
"""Last lines of fewer failures that ended alike are chance, no message."""
_MAX_SAMPLES = 40
"""Lines of a bin that are compared for the words of its cause."""
_MAX_EXAMPLES = 2000
_MAX_CAUSE = 120
"""Letters of a cause."""

_CAUSE_OF_OUTCOME = {
    "timed out": known.TIME_LIMIT,
    "out of memory": known.OUT_OF_MEMORY,
}
_WORDS_OF_OUTCOME = {
    "lost": "lost: the worker or the rank died",
    "interrupted": "interrupted: the farm stopped",
}
_WITH_LOG = {"failed", "not run"}
"""Outcomes whose reason stands in the log."""
_SUDDEN = {
    *(signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    *(signal.SIGSEGV, signal.SIGBUS),
}
"""Signals that end a program in the midst of something else."""

Head = tuple[str, ...]
_REST: Tokens = ("\0",)
"""The entry of all that came when a head had too many."""


@dataclass(slots=True)
class _Bin:
    """Failures with one head and entry."""

    tasks: dict[str, list[int]] = field(default_factory=dict)
    """By host."""
    samples: list[str] = field(default_factory=list)
    """The first telling lines."""
    examples: dict[str, Failure] = field(default_factory=dict)
    """By host."""

    @property
    def count(self) -> int:
        """Attempts."""
        return sum(map(len, self.tasks.values()))

    def merge(self, other: "_Bin") -> None:
        """Add what another holds."""
        for host, tasks in other.tasks.items():
            self.tasks.setdefault(host, []).extend(tasks)
        self.samples += other.samples[: max(2, _MAX_SAMPLES - len(self.samples))]
        for host, example in other.examples.items():
            self.examples.setdefault(host, example)

    def take(self, hosts: Iterable[str]) -> "_Bin":
        """Return what is of some hosts."""
        wanted = set(hosts)
        return _Bin(
            {host: tasks for host, tasks in self.tasks.items() if host in wanted},
            self.samples,
            examples={
                host: each for host, each in self.examples.items() if host in wanted
            },
        )


@dataclass(slots=True)
class _Cause:
    """A bin that is to become a group."""

    words: str
    bin: _Bin
    blamed: tuple[str, ...] = ()


class CauseGrouper:
    """Takes failures one by one, and returns them as groups."""

    def __init__(self) -> None:
        self._reader = LineReader()
        self._heads: dict[Head, dict[Tokens, _Bin]] = {}
        self._causes: dict[Head, KnownCause] = {}
        self._alike: dict[Head, list[Tokens]] = {}
        """Some entries by head, length and first word."""
        self._examples = 0

    def add(self, failure: Failure) -> None:
        """Add a failure."""
        head, entry, telling = self._classify(failure)
        found = self._find_bin(head, entry)
        of_host = found.tasks.get(failure.host)
        if of_host is None:
            found.tasks[failure.host] = [failure.taskid]
            if self._examples < _MAX_EXAMPLES or not found.examples:
                self._examples += 1
                found.examples[failure.host] = failure
        else:
            of_host.append(failure.taskid)
        if telling is not None and len(found.samples) < _MAX_SAMPLES:
            found.samples.append(telling.text)

    def _find_bin(self, head: Head, entry: Tokens) -> _Bin:
        """Return the bin of an entry; of one that is alike, where there are many."""
        entries = self._heads.get(head)
        if entries is None:
            if len(self._heads) >= _MAX_HEADS:
                head, entry = ("line", ""), _REST
            entries = self._heads.setdefault(head, {})
        found = entries.get(entry)
        if found is None:
            place = (*head, str(len(entry)), *entry[:1])
            alike = self._alike.setdefault(place, [])
            if len(entries) >= _MAX_ENTRIES:
                likes = (each for each in alike if similarity(each, entry) >= ALIKE)
                entry = next(likes, _REST)
            elif len(alike) < _MAX_ALIKE:
                alike.append(entry)
            found = entries.setdefault(entry, _Bin())
        return found

    def groups(
        self, ran: Mapping[str, int] | None = None, most: int = MAX_GROUPS
    ) -> list[Group]:
        """Return the groups, the largest first, `most` at most.

        `ran` is the number of attempts on each host, those that did not fail as well.
        It tells a host that fails all it gets from one that got all.
        """
        causes = [
            cause
            for head, entries in self._heads.items()
            for cause in self._divide(head, entries)
        ]
        if ran is None:
            ran = dict.fromkeys(
                (host for cause in causes for host in cause.bin.tasks if host), 1
            )
        causes = [part for cause in causes for part in _divide_by_host(cause, ran)]
        causes.sort(key=lambda cause: (-cause.bin.count, cause.words))
        if len(causes) > most:
            rest = _Cause(f"{OTHER_CAUSES} ({len(causes) - most + 1} kinds)", _Bin())
            for cause in causes[most - 1 :]:
                rest.bin.merge(cause.bin)
            causes[most - 1 :] = [rest]
        return [_make_group(cause) for cause in causes]

    # ---- one failure ----------------------------------------------------------------

    def _classify(self, failure: Failure) -> tuple[Head, Tokens, Telling | None]:
        """Return the head and the entry of a failure, and the line that tells."""
        cause = _CAUSE_OF_OUTCOME.get(failure.outcome)
        if cause is not None:
            return self._know(cause), (), None
        if failure.outcome not in _WITH_LOG:
            words = _WORDS_OF_OUTCOME.get(failure.outcome, failure.outcome)
            return ("ended", words), (), None
        telling = self._reader.find_telling(failure.tail, _lines_of(failure))
        if telling is not None and telling.weight > Weight.END:
            return *self._place(telling, failure), telling
        return self._classify_end(failure, telling)

    def _classify_end(
        self, failure: Failure, telling: Telling | None
    ) -> tuple[Head, Tokens, Telling | None]:
        """Classify a failure whose log has no reason: by how it ended."""
        cause = _cause_of_end(failure)
        if cause is not None:
            return self._know(cause), (), None
        if telling is not None and telling.line.cause is not None:
            return *self._place(telling, failure), telling
        head = ("ended", failure.outcome, _words_of_end(failure))
        if telling is None or failure.signal:
            return head, (), None
        return head, telling.tokens, telling

    def _place(self, telling: Telling, failure: Failure) -> tuple[Head, Tokens]:
        """Return the head and the entry of a line that tells the cause."""
        cause = telling.line.cause
        if failure.status == 127 and _is_missing_command(telling):
            cause = known.COMMAND_NOT_FOUND
        if cause is None:
            return ("line", telling.exception), telling.tokens
        if not cause.subjects:
            return self._know(cause), ()
        subject = cause.find_subject(telling.text)
        return self._know(cause), (fold_name(subject),) if subject else ()

    def _know(self, cause: KnownCause) -> Head:
        head = ("known", cause.words)
        self._causes[head] = cause
        return head

    # ---- all of them ----------------------------------------------------------------

    def _divide(self, head: Head, entries: dict[Tokens, _Bin]) -> list[_Cause]:
        """Return the causes of a head: entries that are alike are united."""
        if head[0] == "ended":
            return _divide_ended(head, entries)
        clusters: list[list[tuple[Tokens, _Bin]]] = []
        for entry, bin_ in sorted(entries.items(), key=lambda item: -item[1].count):
            for cluster in clusters:
                if head[0] == "known" or similarity(cluster[0][0], entry) >= ALIKE:
                    cluster.append((entry, bin_))
                    break
            else:
                clusters.append([(entry, bin_)])
        bins = [part for cluster in clusters for part in _part(cluster)]
        cause = self._causes.get(head)
        causes: dict[str, _Cause] = {}
        for bin_ in bins:
            words = _word(bin_, cause)
            if words in causes:
                causes[words].bin.merge(bin_)
            else:
                causes[words] = _Cause(words, bin_)
        return list(causes.values())


def _part(cluster: list[tuple[Tokens, _Bin]]) -> list[_Bin]:
    """Return the bins of entries that are alike: large ones, and one of all others.

    What differs before the last colon is the place, not the cause.
    """
    total = sum(bin_.count for _, bin_ in cluster)
    by_detail: dict[Tokens, _Bin] = {}
    for entry, bin_ in cluster:
        detail = find_detail(entry)
        if detail in by_detail:
            by_detail[detail].merge(bin_)
        else:
            by_detail[detail] = bin_
    parts: list[_Bin] = []
    rest: _Bin | None = None
    for detail, bin_ in by_detail.items():
        if detail and bin_.count >= _OWN_SHARE * total:
            parts.append(bin_)
        elif rest is None:
            rest = bin_
        else:
            rest.merge(bin_)
    return parts if rest is None else [*parts, rest]


def _divide_ended(head: Head, entries: dict[Tokens, _Bin]) -> list[_Cause]:
    """Return the causes of failures without a message: frequent last lines."""
    total = sum(bin_.count for bin_ in entries.values())
    clusters: list[tuple[Tokens, _Bin]] = []
    for entry, bin_ in sorted(entries.items(), key=lambda item: -item[1].count):
        for tokens, cluster in clusters:
            if similarity(tokens, entry) >= ALIKE:
                cluster.merge(bin_)
                break
        else:
            clusters.append((entry, bin_))
    causes = []
    silent = _Bin()
    for entry, bin_ in clusters:
        text, whole = common_text(bin_.samples)
        if entry and whole >= 0.5 and bin_.count >= _MIN_SHARE * total:
            causes.append(_Cause(f"{head[-1]}; last line: {text}", bin_))
        else:
            silent.merge(bin_)
    if silent.tasks:
        causes.append(_Cause(head[-1], silent))
    return causes


def _word(bin_: _Bin, cause: KnownCause | None) -> str:
    """Return the cause of a bin in words: what its lines have in common, if enough."""
    text, whole = common_text(bin_.samples)
    if cause is None:
        return text
    names = {cause.find_subject(sample) or "" for sample in bin_.samples} - {""}
    name, _ = common_text(name.rstrip("/").rpartition("/")[2] for name in names)
    if name.strip(WILD):
        return f"{cause.words}: {name}"
    return text if whole >= 0.75 and cause.tells(text) else cause.words


def _divide_by_host(cause: _Cause, ran: Mapping[str, int]) -> list[_Cause]:
    """Divide a cause only where its failures are concentrated on hosts."""
    counts = {host: len(tasks) for host, tasks in cause.bin.tasks.items() if host}
    blamed = find_blamed(counts, ran)
    if not blamed:
        return [cause]
    others = [host for host in cause.bin.tasks if host not in blamed]
    words = f"{cause.words}, on {', '.join(blamed)}"
    if not others:
        return [_Cause(f"{words} only", cause.bin, blamed)]
    return [
        _Cause(words, cause.bin.take(blamed), blamed),
        _Cause(f"{cause.words}, elsewhere", cause.bin.take(others)),
    ]


def _make_group(cause: _Cause) -> Group:
    tasks = cause.bin.tasks
    hosts = sorted(tasks, key=lambda host: (-len(tasks[host]), host))
    example = next(iter(cause.bin.examples.values()))
    words = cause.words
    return Group(
        words if len(words) <= _MAX_CAUSE else words[: _MAX_CAUSE - 1] + "…",
        tuple(sorted({taskid for ids in tasks.values() for taskid in ids})),
        cause.bin.count,
        {host: len(tasks[host]) for host in hosts if host},
        cause.blamed,
        Example(example.taskid, example.host, last_lines(example.tail)),
    )


def _is_missing_command(telling: Telling) -> bool:
    """Return whether a shell may have said so, where its status says that it has."""
    return telling.line.cause is known.MISSING_FILE or "not found" in telling.text


# ---- the end of an attempt ----------------------------------------------------------


def _cause_of_end(failure: Failure) -> KnownCause | None:
    """Return the cause that status and signal alone tell."""
    if failure.outcome != "failed":
        return None
    number = failure.signal or max(0, failure.status - 128)
    if number == signal.SIGKILL:
        return known.KILLED
    if number == signal.SIGSEGV:
        return known.SEGMENTATION_FAULT
    return None


def _lines_of(failure: Failure) -> int:
    """Return how many lines may tell: a sudden end has no reason far above."""
    number = failure.signal or max(0, failure.status - 128)
    return NEAR if number in _SUDDEN else MAX_LINES


def _words_of_end(failure: Failure) -> str:
    """Return outcome, status and signal of an attempt in words."""
    status, number = failure.status, failure.signal
    if failure.outcome != "failed":
        return failure.outcome
    if number:
        return f"killed by signal {number}{_signal_name(number)}"
    if status == 126:
        return "the command cannot be executed (126)"
    if status == 127:
        return "command not found (127)"
    return f"exit status {status}{_signal_name(status - 128)}"


def _signal_name(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal, or none
        return ""


# ---- at once ------------------------------------------------------------------------


def group_failures(
    failures: Iterable[Failure],
    ran: Mapping[str, int] | None = None,
    most: int = MAX_GROUPS,
) -> list[Group]:
    """Return failures as groups; see `CauseGrouper`."""
    grouper = CauseGrouper()
    for failure in failures:
        grouper.add(failure)
    return grouper.groups(ran, most)


def encode_groups(groups: Iterable[Group]) -> dict[str, Any]:
    """Encode groups for ``--json``; ids as ranges, as ``mpifarm retry --ids`` takes."""
    return {
        "groups": [
            {
                "cause": group.cause,
                "count": group.count,
                "tasks": (ids := encode_ids(group.tasks)),
                "hosts": dict(group.hosts),
                "example": {
                    "task": group.example.taskid,
                    "host": group.example.host,
                    "lines": list(group.example.lines),
                },
                "retry": ids,
            }
            for group in groups
        ]
    }
