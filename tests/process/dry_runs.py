"""What ``--dry-run`` has shown, beside what a farm then did.

Rules of this file: all that differs between the environment of a user and that of a
command has to be shown, and nothing else.
"""

import re
import shlex
from collections.abc import Mapping, Sequence

from mpifarm.containers import ANY
from tests.farm_driver import NAME_VARIABLE

_OF_OTHERS = {"LC_CTYPE", "_", "SHLVL", NAME_VARIABLE}
"""Variables that Python (PEP 538), a shell between, or the driver of the tests sets."""


def read_starts(text: str) -> list[list[str]]:
    """The words of each program that a dry run has shown, without any newline."""
    found = re.findall(r"^    starts (.*)$", text, re.MULTILINE)
    return [shlex.split(words) for words in found]


def assert_called(shown: Sequence[str], argv: Sequence[str]) -> None:
    """The words of a program are those that were shown."""
    assert len(shown) == len(argv), (shown, argv)
    for word, given in zip(shown, argv, strict=True):
        pattern = re.escape(word).replace(ANY, "[a-z0-9_]+")
        assert re.fullmatch(pattern, given), (word, given)


def assert_changed(
    text: str, before: Mapping[str, str], after: Mapping[str, str]
) -> None:
    """The environment of a command differs from that of the user as a text says."""
    told = dict(re.findall(r"^variable set: (.*?)=(.*)$", text, re.MULTILINE))
    varying = _names_of("variables of each task", text)
    varying |= _names_of("and once more, for the container", text)
    gone = {*before} - {*after} - _OF_OTHERS
    changed = {
        name for name in {*after} - _OF_OTHERS if after[name] != before.get(name)
    }
    told_gone = _names_of("variables that commands don't get", text)
    assert gone == told_gone, gone ^ told_gone
    assert told.items() <= after.items(), told
    assert varying <= {*after}, varying - {*after}
    assert changed - varying == {*told}, changed - varying ^ {*told}


def _names_of(begin: str, text: str) -> set[str]:
    """The names in the line that begins so; the notes on them are left out."""
    line = re.search(rf"^{begin}: (.*)$", text, re.MULTILINE)
    return set(re.sub(r" \([^)]*\)", "", line[1]).split(", ")) if line else set()
