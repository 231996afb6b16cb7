"""Causes that many programs tell in the same words, and words that tell of a failure.

The system's own messages (strerror), signals, and what batch systems, MPI, GPUs and
licence servers print do not depend on the program: one table knows them.  All else is
told by the program's own words, without a table.

Rules of this file: texts and the look-up only.  Everything is compared in small
letters, and nothing depends on a digit (`lines` keeps what it knows of a line for all
lines that differ in digits).
"""

import re
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple


class Weight(IntEnum):
    """How much a line tells of the cause."""

    NOTHING = 0
    CONSEQUENCE = 1
    """That something failed: exit statuses, aborts of other processes."""
    END = 2
    """How the program was ended, without a reason."""
    COMPLAINT = 3
    """A line that says "error" or the like."""
    CRASH = 4
    """An exception, a signal, the message of a runtime."""
    CAUSE = 5
    """A cause of the table."""


class KnownCause(NamedTuple):
    """A cause that is known by phrases."""

    words: str
    """The cause, for the user."""
    phrases: tuple[str, ...]
    weight: Weight = Weight.CAUSE
    unless: tuple[str, ...] = ()
    """Phrases beside which this cause is another one."""
    subjects: tuple[str, ...] = ()
    """Patterns of what the cause is about, a file or a command: the first group of the
    first that matches."""

    def find_subject(self, text: str) -> str | None:
        """Return what a line says that the cause is about."""
        for pattern in self.subjects:
            match = re.search(pattern, text, re.IGNORECASE)
            if match:
                return match[1]
        return None

    def tells(self, text: str) -> bool:
        """Return whether a text names the cause."""
        return any(phrase in text.lower() for phrase in self.phrases)


_GPU = ("cuda", "gpu", "hip out of", "device memory", "cublas", "cudnn")

COMMAND_NOT_FOUND = KnownCause(
    "command not found",
    ("command not found", ": not found"),
    unless=("version",),
    subjects=(
        r"not found: ['\"]?([^\s:'\"]+)",
        r"([^\s:'\"]+)['\"]?: (?:command )?not found",
        r"([^\s:'\"‘’]+)['\"’]?: no such file",
    ),
)
MISSING_FILE = KnownCause(
    "a file is missing (No such file or directory)",
    ("no such file or directory", "filenotfound", "file not found"),
    subjects=(
        r"['\"‘`]([^'\"’`]+)['\"’`]",
        r"([^\s'\"(),:]+)\)?: no such file",
        r"file ([^\s,]+)\s*$",
    ),
)
SEGMENTATION_FAULT = KnownCause(
    "segmentation fault (signal 11)",
    ("segmentation fault", "sigsegv", "segfault", "address not mapped"),
    Weight.CRASH,
)
OUT_OF_MEMORY = KnownCause(
    "out of memory",
    (
        *("out of memory", "outofmemory", "out-of-memory", "oom-kill", "oom_kill"),
        *("oom killed", "memoryerror", "bad_alloc", "cannot allocate"),
        *("can't allocate", "unable to allocate", "could not allocate"),
        *("failed to allocate", "error allocating", "memory allocation of"),
        *("allocation failed", "memory exhausted", "insufficient memory"),
        *("insufficient virtual memory", "not enough memory", "memory of the job ran"),
        "memory ran out",
    ),
    unless=_GPU,
)
KILLED = KnownCause("killed by signal 9 (out of memory?)", ("sigkill",), Weight.END)
TIME_LIMIT = KnownCause("time limit (--task-timeout)", ("the limit of --task-timeout",))

KNOWN = (
    KnownCause(
        "GPU out of memory",
        (
            *("out of memory", "out_of_memory", "outofmemory", "alloc_failed"),
            *("failed to allocate", "memoryallocation", "oom when allocating"),
        ),
        unless=("oom-kill", "oom_kill"),
    ),
    KnownCause(
        "GPU memory error (uncorrectable ECC error)",
        ("uncorrectable ecc", "ecc_uncorrectable", "eccuncorrectable"),
    ),
    OUT_OF_MEMORY,
    KnownCause(
        "the disk is full (No space left on device)",
        ("no space left on device", "disk full", "disk is full"),
    ),
    KnownCause(
        "the disk quota is used up (Disk quota exceeded)",
        ("disk quota exceeded", "quota exceeded"),
    ),
    KnownCause("read or write failed (Input/output error)", ("input/output error",)),
    KnownCause("stale file handle", ("stale file handle", "stale nfs file handle")),
    KnownCause("read-only file system", ("read-only file system",)),
    KnownCause("too many open files", ("too many open files",)),
    KnownCause(
        "no more processes or threads (Resource temporarily unavailable)",
        ("resource temporarily unavailable",),
    ),
    KnownCause("text file busy", ("text file busy",)),
    KnownCause("not executable here (Exec format error)", ("exec format error",)),
    KnownCause("argument list too long", ("argument list too long",)),
    KnownCause("address already in use", ("address already in use",)),
    KnownCause("connection refused", ("connection refused",)),
    KnownCause("connection timed out", ("connection timed out",)),
    KnownCause("connection reset by peer", ("connection reset by peer",)),
    KnownCause(
        "network unreachable (No route to host)",
        ("no route to host", "network is unreachable"),
    ),
    KnownCause(
        "a host name is unknown",
        (
            *("name or service not known", "temporary failure in name resolution"),
            *("could not resolve host", "nodename nor servname"),
        ),
    ),
    KnownCause(
        "a shared library is missing",
        ("error while loading shared libraries",),
        subjects=(r"libraries: ([^\s:]+)",),
    ),
    COMMAND_NOT_FOUND,
    MISSING_FILE,
    KnownCause(
        "the end of a file was reached too early",
        ("end of file", "end-of-file", "eoferror"),
        unless=("syntax error",),
    ),
    KnownCause("permission denied", ("permission denied",)),
    KnownCause("the job's time limit (Slurm)", ("due to time limit",)),
    KnownCause("a node failed (Slurm)", ("due to node failure",)),
    KnownCause("preempted (Slurm)", ("due to preemption",)),
    TIME_LIMIT,
    SEGMENTATION_FAULT,
    KnownCause("bus error (signal 7)", ("bus error", "sigbus"), Weight.CRASH),
    KnownCause(
        "arithmetic error (signal 8)",
        ("floating point exception", "floating-point exception", "sigfpe"),
        Weight.CRASH,
        unless=("following", "are signalling"),
    ),
    KnownCause(
        "illegal instruction (signal 4)",
        ("illegal instruction", "sigill"),
        Weight.CRASH,
    ),
    KILLED,
    KnownCause("the program called MPI_Abort", ("mpi_abort",), Weight.END, ("note:",)),
)

LICENCE = KnownCause("no licence", ())
_LICENCE = re.compile(r"licen[sc](?:e|ing)")
_LICENCE_TROUBLE = re.compile(
    r"check\s?out|error|fail|denied|reached|server|expired|unavailable|"
    r"not available|cannot|could not|unable|invalid|no valid|no more"
)
_GPU_MEMORY = KNOWN[0]

_KILLED_LINE = re.compile(r"(?:^|\s)killed\b(?:\s*\(core dumped\))?(?:\s{2,}|$)")
_METRIC = re.compile(
    r"unknown\s+unknown|"
    r"(?:errors?|failed|failures?)\s*[:=(]*\s*[-+]?[\d.]+(?:e[-+]?\d+)?\s*%?\)?\s*$|"
    r"\b(?:0|no|without) (?:errors?|failures?)|"
    r"(?:mean|max|min|avg|rms|std|abs|rel|squared|absolute|relative|training|"
    r"validation|test|standard|total|numerical|estimated|fit\w*) error"
)
_COMPLAINTS = (
    *("error", "fatal", "exception", "panic", "abort", "critical", "severe"),
    *("failed", "failure", "cannot", "can't", "could not", "unable to", "invalid"),
    *("unknown", "unrecognized", "unexpected", "illegal", "assertion", "undefined"),
    *("not found", "not enough", "no such", "denied", "terminate called", "exceeded"),
    *("corrupt", "refused", "missing", "not available"),
)
_CONSEQUENCES = (
    *("exit code", "exit status", "errorcode", "exited with", "non-zero", "nonzero"),
    *("bad termination", "mpirun noticed", "mpiexec noticed", "prterun noticed"),
    *("terminating job step", "job step aborted", "make: ***", "make[", "aborting"),
    *("exiting", "terminated", "core dumped", "error termination", "cleaning up"),
    *("cancelled at", "program stopped", "error message ***", "errors_are_fatal"),
    *("help message", "error messages", "error log", "backtrace", "stack trace"),
    *("if you believe", "for more information", "reported by process"),
)
_WARNINGS = (
    "warning",
    "[warn",
    "deprecat",
    "[info",
    "info:",
    "[debug",
    "debug:",
    "note:",
)
_EXCEPTION = re.compile(
    r"(?:[a-z_][\w$]*\.)*_*[a-z]\w*(?:error|exception|interrupt)(?::\s|$)"
)
_RUNTIME = re.compile(
    r"fortran runtime error|forrtl: severe|terminate called|fatal error in|"
    r"fatal python error|assertion .*failed|panicked at|cuda ?error|"
    r"cublas_status|cudnn_status|caught signal|stack smashing|double free|"
    r"error while loading|unable to create (?:job )?step"
)


STEMS = (
    *("err", "fail", "fatal", "exception", "panic", "abort", "critical", "severe"),
    *("cannot", "can't", "could not", "unable", "invalid", "unknown", "unrecog"),
    *("unexpected", "illegal", "undefined", " not ", "no such", "no space", "denied"),
    *("terminat", "exceed", "corrupt", "refused", "missing", "out of mem", "memory"),
    *("oom", "alloc", "kill", "sigb", "sigf", "sigi", "sigk", "sigs", "segm", "segf"),
    *("ecc", "licen", "exit", "due to", "busy", "stale", "quota", "disk ", "notfound"),
    *("read-only", "end of file", "end-of-file", "too ", "timed out", "reset by"),
    *("unreach", "no route", "already in", "limit", "assert", "non-zero", "nonzero"),
    *("***", "make[", "cleaning", "cancelled", "stopped", "dumped", "believe"),
    *("for more", "trace", "temporar", "address ", "reported", "caught sig", "smash"),
    *("double free", "floating", "servname", "interrupt", "mpi_abort", "outofmem"),
)
"""A line without any of these tells nothing."""


def compile_words(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of the words.

    Beginnings that words share stand in it once: so it takes a tenth of the time of a
    look for each word.
    """
    tree: dict[str, Any] = {}
    for word in words:
        place = tree
        for letter in word:
            place = place.setdefault(letter, {})
        place[""] = {}
    return re.compile(_write_tree(tree))


def _write_tree(tree: dict[str, Any]) -> str:
    if "" in tree:
        return ""
    parts = [re.escape(letter) + _write_tree(tree[letter]) for letter in sorted(tree)]
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


_STEM = re.compile(compile_words(STEMS).pattern.encode("ascii"))
_COMPLAINT = compile_words(_COMPLAINTS)
_CONSEQUENCE = compile_words(_CONSEQUENCES)
_PHRASE = compile_words(phrase for cause in KNOWN for phrase in cause.phrases)
_CAUSES: dict[str, list[int]] = {}
"""The places in `KNOWN` of the causes of each phrase."""
for _place, _cause in enumerate(KNOWN):
    for _phrase in _cause.phrases:
        _CAUSES.setdefault(_phrase, []).append(_place)


def may_tell(line: bytes) -> bool:
    """Return whether a line may tell anything: cheap, because most lines do not."""
    return _STEM.search(line.lower()) is not None


def weigh(text: str) -> tuple[Weight, KnownCause | None]:
    """Return how much a line tells, and the known cause that it names."""
    text = text.lower()
    cause = _find_known(text)
    if cause is not None and not _is_warning(text):
        return cause.weight, cause
    told = _CONSEQUENCE.search(text)
    if not _COMPLAINT.search(text):
        return (Weight.CONSEQUENCE if told else Weight.NOTHING), None
    if _is_warning(text) or _METRIC.search(text):
        return Weight.NOTHING, None
    if _RUNTIME.search(text) or _EXCEPTION.match(text):
        return Weight.CRASH, None
    return (Weight.CONSEQUENCE if told else Weight.COMPLAINT), None


def _find_known(text: str) -> KnownCause | None:
    places = sorted(
        place for phrase in _PHRASE.findall(text) for place in _CAUSES[phrase]
    )
    for place in places:
        if _fits(KNOWN[place], text):
            return KNOWN[place]
    if _LICENCE.search(text) and _LICENCE_TROUBLE.search(text):
        return LICENCE
    if "killed" in text and _KILLED_LINE.search(text):
        return KILLED
    return None


def _fits(cause: KnownCause, text: str) -> bool:
    if cause is _GPU_MEMORY and not any(word in text for word in _GPU):
        return False
    return not any(word in text for word in cause.unless)


def _is_warning(text: str) -> bool:
    return any(word in text[:60] for word in _WARNINGS)
