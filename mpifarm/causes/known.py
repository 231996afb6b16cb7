"""Causes that many programs tell in the same words.

The system's own messages (strerror), signals, and what batch systems, MPI, GPUs and
licence servers print do not depend on the program: one table knows them.  All else is
told by the program's own words, without a table.

Rules of this file: texts only.  Phrases are in small letters, with spaces for ``-`` and
``_``, and begin with the first letter of a word.
"""

import re
from enum import IntEnum
from typing import NamedTuple


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


def normalise(text: str) -> str:
    """Return a text in which phrases are found."""
    return text.lower().replace("_", " ").replace("-", " ")


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
    is_of_the_line: bool = False
    """Whether the command itself may be wrong, as its line has it, unless the shell
    names a script."""
    is_of_path: bool = False
    """Whether a whole path says what it is about, and not its last part alone."""

    def find_subject(self, text: str) -> str | None:
        """Return what a line says that the cause is about."""
        for pattern in self.subjects:
            match = re.search(pattern, text, re.IGNORECASE)
            if match:
                return match[1]
        return None

    def tells(self, text: str) -> bool:
        """Return whether a text names the cause."""
        text = normalise(text)
        return any(phrase in text for phrase in self.phrases)


GPU = ("cuda", "gpu", "hip out of", "device memory", "cublas", "cudnn")

COMMAND_NOT_FOUND = KnownCause(
    "command not found",
    ("command not found", "no command"),
    subjects=(
        r"not found: ['\"]?([^\s:'\"]+)",
        r"([^\s:'\"]+)['\"]?: (?:command )?not found",
        r"([^\s:'\"‘’]+)['\"’]?: no such file",
    ),
    is_of_the_line=True,
)
COMMAND_NOT_UNDERSTOOD = KnownCause(
    "the shell does not understand the command",
    (
        *("unexpected eof while looking", "syntax error near unexpected"),
        *("syntax error: unexpected", "syntax error: unterminated"),
    ),
    is_of_the_line=True,
)
SCRIPT_NOT_UNDERSTOOD = KnownCause(
    "the shell does not understand a script", (), subjects=(r"^(?:\S*/)?([^\s:]+):",)
)
MISSING_FILE = KnownCause(
    "a file is missing (No such file or directory)",
    ("no such file or directory", "filenotfound", "file not found"),
    subjects=(
        r"['\"‘`]([^'\"’`]+)['\"’`]",
        r"([^\s'\"(),:]+)\)?: no such file",
        r"file ([^\s,]+)\s*$",
    ),
    is_of_path=True,
)
SEGMENTATION_FAULT = KnownCause(
    "segmentation fault (signal 11)",
    ("segmentation fault", "sigsegv", "segfault", "address not mapped"),
    Weight.CRASH,
)
OUT_OF_MEMORY = KnownCause(
    "out of memory",
    (
        *("out of memory", "outofmemory", "oom kill", "oom killed"),
        *("memoryerror", "arraymemoryerror", "bad alloc", "cannot allocate"),
        *("can't allocate", "unable to allocate", "could not allocate"),
        *("failed to allocate", "error allocating", "memory allocation of"),
        *("allocation failed", "memory exhausted", "insufficient memory"),
        *("insufficient virtual memory", "not enough memory", "memory of the job ran"),
        "memory ran out",
    ),
    unless=GPU,
)
KILLED = KnownCause("killed by signal 9 (out of memory?)", ("sigkill",), Weight.END)
TIME_LIMIT = KnownCause("time limit (--task-timeout)", ())

GPU_OUT_OF_MEMORY = KnownCause(
    "GPU out of memory",
    (
        *("out of memory", "outofmemory", "alloc failed"),
        *("failed to allocate", "cudaerrormemoryallocation", "oom when allocating"),
    ),
    unless=("oom kill",),
)

KNOWN = (
    GPU_OUT_OF_MEMORY,
    KnownCause(
        "GPU memory error (uncorrectable ECC error)",
        ("uncorrectable ecc", "ecc uncorrectable", "cudaerroreccuncorrectable"),
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
    KnownCause("read-only file system", ("read only file system",)),
    KnownCause("too many open files", ("too many open files",)),
    KnownCause(
        "a file cannot be locked",
        ("unable to lock file", "unable to lock the file", "no locks available"),
    ),
    KnownCause(
        "no more processes or threads",
        ("fork: ", "cannot fork", "can't fork", "pthread create", "start new thread"),
    ),
    KnownCause(
        "resource temporarily unavailable", ("resource temporarily unavailable",)
    ),
    KnownCause("text file busy", ("text file busy",)),
    KnownCause("not executable here (Exec format error)", ("exec format error",)),
    KnownCause("argument list too long", ("argument list too long",)),
    KnownCause("address already in use", ("address already in use",)),
    KnownCause("connection refused", ("connection refused",)),
    KnownCause("connection timed out", ("connection timed out",)),
    KnownCause("connection reset by peer", ("connection reset by peer",)),
    KnownCause(
        "a connection was closed by the other side",
        (
            *("connection closed by", "connection unexpectedly closed"),
            "lost connection",
        ),
    ),
    KnownCause("ssh does not trust the host", ("host key verification failed",)),
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
    KnownCause(
        "a shared library is too old",
        ("not found (required by",),
        subjects=(r"([^\s/:]+\.so[^\s/:]*): version",),
    ),
    COMMAND_NOT_FOUND,
    COMMAND_NOT_UNDERSTOOD,
    MISSING_FILE,
    KnownCause(
        "the end of a file was reached too early",
        ("end of file", "eoferror"),
        unless=("syntax error",),
    ),
    KnownCause("permission denied", ("permission denied",)),
    KnownCause("the job's time limit (Slurm)", ("due to time limit",)),
    KnownCause("a node failed (Slurm)", ("due to node failure",)),
    KnownCause("preempted (Slurm)", ("due to preemption",)),
    SEGMENTATION_FAULT,
    KnownCause("bus error (signal 7)", ("bus error", "sigbus"), Weight.CRASH),
    KnownCause(
        "arithmetic error (signal 8)",
        ("floating point exception", "sigfpe"),
        Weight.CRASH,
        unless=("following", "are signalling"),
    ),
    KnownCause(
        "illegal instruction (signal 4)",
        ("illegal instruction", "sigill"),
        Weight.CRASH,
    ),
    KILLED,
    KnownCause("the program called MPI_Abort", ("mpi abort",), Weight.END, ("note:",)),
)

NO_LICENCE = KnownCause("no licence", ())


def names_script(text: str) -> bool:
    """Return whether a shell says a line of a script, and not one of its own command.

    bash: "-c: line 1: ", "run.sh: line 2: "; dash: "run.sh: 2: "; zsh: "run.sh:2: ".
    """
    place = _PLACE.match(text)
    if place is None or place["command"]:
        return False
    return place["name"] not in _SHELLS or place["line"] != "1"


_PLACE = re.compile(
    r"(?:\S*/)?(?P<name>[^\s:/]+):(?: (?P<command>-c):| eval:)? ?(?:line )?"
    r"(?P<line>[0-9]+): ",
    re.ASCII,
)
_SHELLS = ("bash", "sh", "dash", "ash", "ksh", "zsh")
