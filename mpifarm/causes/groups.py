"""Failures, grouped by cause.

Each failure has a *head* (a cause that is known, or how a line begins, or how the
attempt ended) and, within it, an *entry* (the folded words that may divide the head).
At the end entries that are alike are united: but what holds a large share of them
stays by itself (all tasks miss one file: that is another cause than that each misses
its own).

Rules of this file: pure; the memory is bounded but for the ids.
"""

import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

from mpifarm.causes import known
from mpifarm.causes.extent import Extent
from mpifarm.causes.failure import Example, Failure, Group
from mpifarm.causes.folding import (
    ALIKE,
    WILD,
    Tokens,
    common_text,
    find_detail,
    fold_name,
    similarity,
    unite_words,
)
from mpifarm.causes.hosts import find_blamed
from mpifarm.causes.known import KnownCause, Weight
from mpifarm.causes.lines import MAX_LINES, NEAR, LineReader, Telling, last_lines
from mpifarm.model.id_ranges import encode_ids
from mpifarm.model.task import NOT_RUN

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
_MAX_COMPARED = 8
"""Examples of which one is chosen."""
_MAX_CAUSE = 120
"""Letters of a cause."""
_MAX_PATH = 70
"""Letters of a path in it."""

_CAUSE_OF_OUTCOME = {
    "timed out": known.TIME_LIMIT,
    "out of memory": known.OUT_OF_MEMORY,
}
_WORDS_OF_OUTCOME = {
    "lost": "lost: the worker or the rank died",
    "interrupted": "interrupted: the farm stopped",
    "cancelled": "cancelled: a user gave mpifarm cancel",
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
    extents: dict[str, Extent] = field(default_factory=dict)
    """By host."""

    @property
    def count(self) -> int:
        """Attempts."""
        return sum(map(len, self.tasks.values()))

    def take(self, hosts: Iterable[str]) -> "_Bin":
        """Return what is of some hosts."""
        wanted = set(hosts)
        return _Bin(
            {host: tasks for host, tasks in self.tasks.items() if host in wanted},
            self.samples,
            {host: each for host, each in self.examples.items() if host in wanted},
            {host: each for host, each in self.extents.items() if host in wanted},
        )


def _unite(bins: Sequence[_Bin]) -> _Bin:
    """Return what several bins hold; those stay as they are."""
    if len(bins) == 1:
        return bins[0]
    united = _Bin()
    for each in bins:
        for host, tasks in each.tasks.items():
            united.tasks.setdefault(host, []).extend(tasks)
            united.extents.setdefault(host, Extent()).unite(each.extents[host])
        left = max(2, _MAX_SAMPLES - len(united.samples))
        united.samples += each.samples[:left]
        united.examples = each.examples | united.examples
    return united


@dataclass(slots=True)
class _Cause:
    """A bin that is to become a group."""

    words: str
    bin: _Bin
    blamed: tuple[str, ...] = ()
    is_not_run: bool = False
    is_of_the_line: bool = False


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
        found.extents.setdefault(failure.host, Extent()).add(failure)
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

        Those of tasks that were not run come behind all others.

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
        # What was not run fails of nothing of its own, however much of it there is.
        causes.sort(key=lambda each: (each.is_not_run, -each.bin.count, each.words))
        if len(causes) > most:
            rest = causes[most - 1 :]
            words = f"{OTHER_CAUSES} ({len(rest)} kinds)"
            causes[most - 1 :] = [_Cause(words, _unite([each.bin for each in rest]))]
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
        if cause is known.COMMAND_NOT_UNDERSTOOD and known.names_script(telling.text):
            cause = known.SCRIPT_NOT_UNDERSTOOD
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
        if head[0] == "ended" and head[1].startswith(NOT_RUN):
            words, bin_ = head[1], _unite([*entries.values()])
            return [_Cause(words, bin_, is_not_run=True)]
        if head[0] == "ended":
            return _divide_ended(head, entries)
        clusters = _find_alike(entries, 0.0 if head[0] == "known" else ALIKE)
        bins = [part for cluster in clusters for part in _part(cluster)]
        cause = self._causes.get(head)
        by_words: dict[str, list[_Bin]] = {}
        for bin_ in bins:
            by_words.setdefault(_word(bin_, cause), []).append(bin_)
        found = [_Cause(words, _unite(same)) for words, same in by_words.items()]
        if cause is not None and cause.is_of_the_line:
            for each in found:
                each.is_of_the_line = not all(map(known.names_script, each.bin.samples))
        return found


def _part(cluster: list[tuple[Tokens, _Bin]]) -> list[_Bin]:
    """Return the bins of entries that are alike: large ones, and one of all others.

    What differs before the last colon is the place, not the cause.
    """
    by_detail: dict[Tokens, list[_Bin]] = {}
    for entry, bin_ in cluster:
        by_detail.setdefault(find_detail(entry), []).append(bin_)
    bins = {detail: _unite(same) for detail, same in by_detail.items()}
    least = _OWN_SHARE * sum(bin_.count for bin_ in bins.values())
    large = [bin_ for detail, bin_ in bins.items() if detail and bin_.count >= least]
    rest = [bin_ for bin_ in bins.values() if bin_ not in large]
    return [*large, _unite(rest)] if rest else large


def _divide_ended(head: Head, entries: dict[Tokens, _Bin]) -> list[_Cause]:
    """Return the causes of failures without a message: frequent last lines."""
    least = _MIN_SHARE * sum(bin_.count for bin_ in entries.values())
    causes: list[_Cause] = []
    silent: list[_Bin] = []
    for cluster in _find_alike(entries, ALIKE):
        bin_ = _unite([found for _, found in cluster])
        text, whole = common_text(bin_.samples)
        if cluster[0][0] and whole >= 0.5 and bin_.count >= least:
            causes.append(_Cause(_shorten(f"{head[-1]}; last line: {text}"), bin_))
        else:
            silent.append(bin_)
    return [*causes, _Cause(head[-1], _unite(silent))] if silent else causes


def _find_alike(
    entries: Mapping[Tokens, _Bin], alike: float
) -> list[list[tuple[Tokens, _Bin]]]:
    """Return entries that are alike side by side, the largest first."""
    clusters: list[list[tuple[Tokens, _Bin]]] = []
    for entry, bin_ in sorted(entries.items(), key=lambda item: -item[1].count):
        for cluster in clusters:
            if similarity(cluster[0][0], entry) >= alike:
                cluster.append((entry, bin_))
                break
        else:
            clusters.append([(entry, bin_)])
    return clusters


def _word(bin_: _Bin, cause: KnownCause | None) -> str:
    """Return the cause of a bin in words: what its lines have in common, if enough."""
    text, whole = common_text(bin_.samples)
    if cause is None:
        return _shorten(text)
    names = {cause.find_subject(sample) or "" for sample in bin_.samples} - {""}
    name = _common_path(names) if cause.is_of_path else ""
    if not name:
        name, _ = common_text(name.rstrip("/").rpartition("/")[2] for name in names)
    if name.strip(WILD):
        return _shorten(f"{cause.words}: {name}")
    if cause.weight is Weight.CAUSE and whole >= 0.75 and cause.tells(text):
        return _shorten(text)
    return cause.words


def _common_path(names: Iterable[str]) -> str:
    """Return what paths have in common, each part by itself; "" if they differ more.

    Of a long one, the end.
    """
    parts = [name.split("/") for name in names]
    if len({*map(len, parts)}) != 1:
        return ""
    path = "/".join(reduce(unite_words, each) for each in zip(*parts, strict=True))
    return path if len(path) <= _MAX_PATH else f"…{path[1 - _MAX_PATH :]}"


def _divide_by_host(cause: _Cause, ran: Mapping[str, int]) -> list[_Cause]:
    """Divide a cause only where its failures are concentrated on hosts."""
    counts = {host: len(tasks) for host, tasks in cause.bin.tasks.items() if host}
    blamed = find_blamed(counts, ran)
    if cause.is_not_run or not blamed:
        return [cause]
    others = [host for host in cause.bin.tasks if host not in blamed]
    words = f"{cause.words}, on {', '.join(blamed)}"
    if not others:
        return [replace(cause, words=f"{words} only", blamed=blamed)]
    return [
        replace(cause, words=words, bin=cause.bin.take(blamed), blamed=blamed),
        replace(cause, words=f"{cause.words}, elsewhere", bin=cause.bin.take(others)),
    ]


def _make_group(cause: _Cause) -> Group:
    tasks = cause.bin.tasks
    hosts = sorted(tasks, key=lambda host: (-len(tasks[host]), host))
    # Those of some hosts were not kept, where there are very many.
    first = Failure(tasks[hosts[0]][0], "", 0, host=hosts[0])
    example = _choose_example([*cause.bin.examples.values(), first])
    extent = Extent()
    for each in cause.bin.extents.values():
        extent.unite(each)
    taskids = {taskid for ids in tasks.values() for taskid in ids}
    return Group(
        cause.words,
        tuple(sorted(taskids)),
        cause.bin.count,
        {host: len(tasks[host]) for host in hosts if host},
        cause.blamed,
        Example(example.taskid, example.host, last_lines(example.tail)),
        cause.is_of_the_line,
        extent.describe_attempts(len(taskids)),
        extent.describe_memory(),
    )


def _choose_example(failures: Sequence[Failure]) -> Failure:
    """Return the first failure whose last lines have what tells its cause."""
    for failure in failures[:_MAX_COMPARED]:
        telling = LineReader().find_telling(failure.tail, _lines_of(failure))
        if telling is None or telling.is_among(last_lines(failure.tail)):
            return failure
    return failures[0]


def _shorten(words: str) -> str:
    return words if len(words) <= _MAX_CAUSE else words[: _MAX_CAUSE - 1] + "…"


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
    if not status:
        return "failed, and its exit status was not kept"
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
