"""Texts that are alike: what varies in a line is folded, what stays is compared.

Rules of this file: pure functions of texts.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile

WILD = "*"
MAX_TOKENS = 40
"""Words of a line that are compared: the rest of a long line tells no more."""
ALIKE = 0.6
"""Share of equal words from which two lines are taken for one."""

Tokens = tuple[str, ...]

_LABELS = re.compile(
    rb"(?:"
    rb"\[?\d{4}-\d\d-\d\d[t ]\d\d:\d\d(?::\d\d)?[.,\d]*z?(?:[+-]\d\d:?\d\d)?\]?[ :,-]*|"
    rb"\[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]? +|"
    rb"\[\d+,\d+\]<std(?:err|out)>:|\[\d+(?:,\d+)?\] |"
    rb"\[(?:rank ?|default)\d+\]: ?|\(?(?:rank|proc|process|task)[ =]?\d+\)?[:>] ?|"
    rb"\d+: |\[[\w.-]+:\d+\] |"
    rb"[\w.-]+\s*\| "
    rb")+",
    re.IGNORECASE,
)
"""Labels before a line: times, ranks, hosts with pids."""

_FOLDS = (
    (re.compile(r"0x[0-9a-fA-F]+"), WILD),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), WILD),
    (re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{7,}\b", re.IGNORECASE), WILD),
    (re.compile(r"\btmp[\w.]{4,}"), WILD),
    (
        re.compile(r"(?<![\w.])(?:~|\.{1,2})?/[\w.+@%=,~#:-]*(?:/[\w.+@%=,~#:-]*)*"),
        WILD,
    ),
    (re.compile(r"\b[\w.+@%=~-]+(?:/[\w.+@%=~-]+)+\.\w+"), WILD),
    (re.compile(r"[-+]?\d[\d.,:_]*(?:e[-+]?\d+)?", re.IGNORECASE), "#"),
    (re.compile(r"#\s?[kmgtp]i?b(?:ytes)?\b", re.IGNORECASE), "#"),
    (re.compile(r"#(?:[-:.,x#]*#)+"), "#"),
)


def find_label_end(line: bytes) -> int:
    """Return where a line begins behind its labels; it keeps its indentation."""
    match = _LABELS.match(line)
    return match.end() if match else 0


def fold(text: str) -> Tokens:
    """Return the words of a line; numbers, ids, addresses, paths, times are folded."""
    for pattern, sign in _FOLDS:
        text = pattern.sub(sign, text)
    return tuple(text.split()[:MAX_TOKENS])


def fold_name(name: str) -> str:
    """Return the last part of a path with its digits folded."""
    name = name.rstrip("/").rpartition("/")[2]
    return re.sub(r"\d+", "#", name)


def similarity(one: Tokens, other: Tokens) -> float:
    """Return the share of words that two lines have in common, from 0 to 1.

    Words at the same place, or before and behind one part that differs.
    """
    longest = max(len(one), len(other))
    if not longest:
        return 1.0
    if len(one) == len(other):
        return sum(map(str.__eq__, one, other)) / longest
    front = _common(one, other)
    back = _common(one[front:][::-1], other[front:][::-1])
    return (front + back) / longest


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def common_text(texts: Iterable[str]) -> tuple[str, float]:
    """Return what texts have in common, and the share of its words that are whole.

    Where they differ stands ``*``, beside the letters that they share there:
    ``No module named 'nump*'``.
    """
    words: list[str] | None = None
    for text in texts:
        other = text.split()
        words = other if words is None else _unite(words, other)
    if not words:
        return "", 0.0
    whole = sum(1 for word in words if WILD not in word)
    return " ".join(words), whole / len(words)


def _unite(one: list[str], other: list[str]) -> list[str]:
    if len(one) == len(other):
        pairs = zip(one, other, strict=True)
        return [word if word == its else unite_words(word, its) for word, its in pairs]
    front = _common(one, other)
    back = _common(one[front:][::-1], other[front:][::-1])
    return [*one[:front], WILD, *one[len(one) - back :]]


def unite_words(one: str, other: str) -> str:
    """Return the letters that two words begin and end with, and ``*`` between."""
    if one == other:
        return one
    front = _common(one, other)
    back = _common(one[front:][::-1], other[front:][::-1])
    united = one[:front] + WILD + (one[-back:] if back else "")
    return re.sub(r"\*+", WILD, united)
