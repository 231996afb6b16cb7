"""Texts that are alike: what varies in a line is folded, what stays is compared.

Rules of this file: pure functions of texts.
"""

import re
from collections import Counter
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

_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_ID = re.compile(
    r"\b(?:[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|"
    r"(?=[a-fA-F]*\d)[0-9a-fA-F]{7,})\b"
)
_TEMPORARY = re.compile(r"\btmp[\w.]{4,}")
_PATH = re.compile(
    r"(?<![\w.])(?:~|\.{1,2})?/[\w.+@%=,~#:/-]*|"
    r"[\w.+@%=~-]+(?:/[\w.+@%=~-]+)+\.\w+"
)
_NUMBER = re.compile(r"[-+]?\d+(?:[.,:_]\d+)*(?:[eE][-+]?\d+)?")
_SIZE = re.compile(r"#[kKMGTP]i?[bB]?\b")
_NUMBERS = re.compile(r"#(?:[-:.,x#]*#)+")
_UNITS = {"B", "bytes", *(f"{size}{i}B" for size in "kKMGTP" for i in ("", "i"))}
_MAX_WORDS = 50_000
_WORDS: dict[str, str] = {}
"""Folded words: programs use the same again and again."""


_PREFIX = re.compile(
    r"(?:exception in thread \"[^\"]*\" +|caused by: +|\w*error: +"
    r"(?=(?:[a-z_]\w*\.)*\w+(?:error|exception)\b))+",
    re.IGNORECASE,
)
"""What stands before the exception that tells."""
_FRAME = " \t|*=#!>"
"""Letters around a message in a box or under a rule."""
_SIGNS = {"*", "#"}


def strip_frame(text: str) -> str:
    """Return a message without its box, and without exceptions that only pass it on."""
    if "\ufffd" in text:
        text = " ".join(text.replace("\ufffd", "").split())
    text = text.strip(_FRAME)
    match = _PREFIX.match(text)
    return text[match.end() :] if match else text


def find_label_end(line: bytes) -> int:
    """Return where a line begins behind its labels; it keeps its indentation."""
    match = _LABELS.match(line)
    return match.end() if match else 0


def fold(text: str) -> Tokens:
    """Return the words of a line; numbers, ids, addresses, paths, times are folded."""
    words: list[str] = []
    last = ""
    for word in text.split():
        folded = word if word.isalpha() else fold_word(word)
        # A list of numbers is one thing, however long; so are 3.5 GiB and 20 MiB.
        if folded != last or folded not in _SIGNS:
            if last != "#" or folded.rstrip(".,;)") not in _UNITS:
                words.append(folded)
                last = folded
            if len(words) == MAX_TOKENS:
                break
    return tuple(words)


def fold_word(word: str) -> str:
    """Return a word with what varies in it replaced by a sign."""
    folded = _WORDS.get(word)
    if folded is None:
        if len(_WORDS) >= _MAX_WORDS:
            _WORDS.clear()
        folded = _WORDS[word] = _fold_word(word)
    return folded


def _fold_word(word: str) -> str:
    if "/" in word:
        word = _PATH.sub(WILD, word)
    if "tmp" in word:
        word = _TEMPORARY.sub(WILD, word)
    if not any(map(str.isdigit, word)):
        return word
    if "0x" in word:
        word = _ADDRESS.sub(WILD, word)
    word = _NUMBER.sub("#", _ID.sub(WILD, word))
    return _NUMBERS.sub("#", _SIZE.sub("#", word))


def fold_name(name: str) -> str:
    """Return the last part of a path with its digits folded."""
    name = name.rstrip("/").rpartition("/")[2]
    return re.sub(r"\d+", "#", name)


def find_detail(line: Tokens) -> Tokens:
    """Return the words behind the last colon, all where there is none."""
    for place in range(len(line) - 1, 0, -1):
        if line[place - 1].endswith(":"):
            return line[place:]
    return line


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
    """Return what texts have in common, and how much of them that is, from 0 to 1.

    Where they differ stands ``*``, beside the letters that they share there:
    ``No module named 'nump*'``.  Texts of one length are compared: the most frequent.
    """
    lists = [text.split() for text in texts]
    if not lists:
        return "", 0.0
    lengths = Counter(map(len, lists))
    length, number = lengths.most_common(1)[0]
    words: list[str] = []
    for others in lists:
        if len(others) == length:
            pairs = zip(words or others, others, strict=True)
            words = [unite_words(word, its) for word, its in pairs]
    whole = sum(1 for word in words if WILD not in word)
    return " ".join(words), whole / max(1, length) * number / len(lists)


def unite_words(one: str, other: str) -> str:
    """Return the letters that two words begin and end with, and ``*`` between."""
    if one == other:
        return one
    front = _common(one, other)
    back = _common(one[front:][::-1], other[front:][::-1])
    united = one[:front] + WILD + (one[-back:] if back else "")
    return re.sub(r"\*+", WILD, united)
