"""How much a line tells of a cause, by its words.

Rules of this file: pure; nothing depends on a digit (`lines` keeps what it knows of a
line for all lines that differ in digits alone).
"""

import re
from collections.abc import Iterable
from typing import Any

from mpifarm.causes.known import (
    GPU,
    GPU_OUT_OF_MEMORY,
    KILLED,
    KNOWN,
    NO_LICENCE,
    KnownCause,
    Weight,
    normalise,
)

# What a word tells of its line.  Not an `IntFlag`: that takes half the time of a line.
COMPLAINT = 1
CONSEQUENCE = 2
RUNTIME = 4
"""The message of a runtime or library."""
WARNING = 8
METRIC = 16
"""An error is a number here."""
LICENCE = 32
LINE_KILLED = 64

WORDS = {
    COMPLAINT: (
        *("error", "errors", "fatal", "panic", "abort", "aborted", "critical"),
        *("severe", "failed", "fails", "failure", "cannot", "can't", "could not"),
        *("couldn't", "unable to", "invalid", "illegal", "undefined", "corrupt"),
        *("unknown option", "unknown argument", "unknown keyword", "unknown command"),
        *("unrecognized", "unrecognised", "unexpected", "assertion", "not enough"),
        *("not found", "no such", "denied", "exceeded", "refused", "missing"),
        "not available",
    ),
    CONSEQUENCE: (
        *("exit code", "exit status", "errorcode", "exited with", "non zero"),
        *("nonzero", "bad termination", "mpirun noticed", "mpiexec noticed"),
        *("prterun noticed", "terminating job step", "job step aborted", "make: ***"),
        *("make[", "aborting", "exiting", "terminated", "core dumped", "begin failed"),
        *("error termination", "cleaning up", "cancelled at", "program stopped"),
        *("end of error message", "errors are fatal", "help message"),
        *("error messages", "error log", "backtrace", "stack trace"),
        *("compilation failed in", "execution halted", "if you believe"),
        *("may have caused other processes", "prterun has exited"),
        *("for more information", "reported by process"),
    ),
    RUNTIME: (
        *("fortran runtime error", "forrtl: severe", "terminate called"),
        *("fatal error in", "fatal python error", "panicked at", "cuda error"),
        *("cudaerror", "cublas status", "cudnn status", "caught signal"),
        *("stack smashing", "double free", "unable to create step"),
        "unable to create job step",
    ),
    WARNING: (
        *("warning", "warn]", "warn:", "deprecat", "info]", "info:", "debug]"),
        *("debug:", "note:"),
    ),
    METRIC: (
        *("no error", "no failure", "without error", "mean error", "max error"),
        *("min error", "avg error", "rms error", "std error", "abs error", "rel error"),
        *("squared error", "absolute error", "relative error", "training error"),
        *("validation error", "test error", "standard error", "total error"),
        *("numerical error", "estimated error", "fit error", "errors: 0", "0 errors"),
    ),
    LICENCE: ("license", "licence", "licensing", "licensed"),
    LINE_KILLED: ("killed",),
}
MAX_WARNING = 60
"""Letters at the begin of a line among which a warning says that it is one."""


def compile_words(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds the longest of the words that begin at a place.

    What words have in common at their begin stands in it once: so it takes a tenth of
    the time of a look for each word.
    """
    tree: dict[str, Any] = {}
    for word in words:
        place = tree
        for letter in word:
            place = place.setdefault(letter, {})
        place[""] = {}
    return re.compile(r"\b" + _write_tree(tree))


def _write_tree(tree: dict[str, Any]) -> str:
    parts = [
        re.escape(letter) + _write_tree(tree[letter])
        for letter in sorted(tree)
        if letter
    ]
    if not parts:
        return ""
    written = parts[0] if len(parts) == 1 else "|".join(parts)
    if "" in tree:
        return f"(?:{written})?"
    return written if len(parts) == 1 else f"(?:{written})"


_MEANINGS: dict[str, int] = {}
for _meaning, _words in WORDS.items():
    for _word in _words:
        _MEANINGS[_word] = _MEANINGS.get(_word, 0) | _meaning
_CAUSES: dict[str, list[int]] = {}
"""The places in `KNOWN` of the causes of each phrase."""
for _place, _cause in enumerate(KNOWN):
    for _phrase in _cause.phrases:
        _CAUSES.setdefault(_phrase, []).append(_place)
_WORD = compile_words([*_MEANINGS, *_CAUSES])
_WARNING = compile_words(WORDS[WARNING])

_URL = re.compile(r"https?://\S+")
_LICENCE_TROUBLE = re.compile(
    r"check\s?out|error|fail|denied|reached|server|expired|unavailable|"
    r"not available|cannot|could not|unable|invalid|no valid|no more"
)
_KILLED_LINE = re.compile(r"(?:^|\s)killed\b(?:\s*\(core dumped\))?(?:\s{2,}|$)")
_METRIC = re.compile(
    r"(?:errors?|failed|failures?)\s*[:=(]*\s*[-+]?\d[-+.\d e]*%?\)?\s*$"
)
_EXCEPTION = re.compile(
    r"(?:[a-z_][\w$]*\.)*_*[a-z]\w*(?:error|exception|interrupt)(?::|\s|$)",
    re.IGNORECASE,
)
_RULE = re.compile(r"[-=*_~#]{8}")
"""A line that divides others, with a title or without."""


def weigh(text: str) -> tuple[Weight, KnownCause | None]:
    """Return how much a line tells, and the known cause that it names."""
    lowered = text.lower()
    if "http" in lowered:
        lowered = _URL.sub("", lowered)
    text = normalise(lowered)
    found = _WORD.findall(text)
    # These count as parts of words as well.
    meaning = COMPLAINT if "error" in text or "exception" in text else 0
    if not found and not meaning:
        return Weight.NOTHING, None
    for word in found:
        meaning |= _MEANINGS.get(word, 0)
    if meaning & WARNING and _WARNING.search(text, 0, MAX_WARNING):
        return Weight.NOTHING, None
    cause = _find_known(text, found, meaning)
    if cause is not None:
        return cause.weight, cause
    return _weigh_unknown(lowered, meaning), None


def _weigh_unknown(text: str, meaning: int) -> Weight:
    if _RULE.search(text):
        return Weight.NOTHING
    if meaning & RUNTIME or _EXCEPTION.match(text):
        return Weight.CRASH
    if meaning & CONSEQUENCE:
        return Weight.CONSEQUENCE
    if not meaning & COMPLAINT or meaning & METRIC:
        return Weight.NOTHING
    return Weight.NOTHING if _METRIC.search(text) else Weight.COMPLAINT


def find_exception(text: str) -> tuple[str, str]:
    """Return the class of the exception with which a line begins, and what follows.

    The class is without its module, and empty if the line begins with none.
    """
    match = _EXCEPTION.match(text)
    if match is None:
        return "", text
    return match[0].rstrip(": ").rpartition(".")[2], text[match.end() :]


def _find_known(text: str, found: list[str], meaning: int) -> KnownCause | None:
    for place in sorted({place for word in found for place in _CAUSES.get(word, ())}):
        if _fits(KNOWN[place], text):
            return KNOWN[place]
    if meaning & LICENCE and _LICENCE_TROUBLE.search(text):
        return NO_LICENCE
    if meaning & LINE_KILLED and _KILLED_LINE.search(text):
        return KILLED
    return None


def _fits(cause: KnownCause, text: str) -> bool:
    if cause is GPU_OUT_OF_MEMORY and not any(word in text for word in GPU):
        return False
    return not any(word in text for word in cause.unless)
