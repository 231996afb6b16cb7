"""Sentences about options that files and variables have set, and not the user.

Rules of this file: pure.
"""

import re
from collections.abc import Sequence

from mpifarm.model.settings import Default


def describe_defaults(defaults: Sequence[Default]) -> str:
    """Return the line at the farm's start about options that nobody has typed."""
    by_source: dict[str, list[str]] = {}
    for each in defaults:
        value = " ".join([each.option, *each.words])
        undone = f"--no-{each.option[2:]}"
        by_source.setdefault(each.source, []).append(value if each.words else undone)
    said = [f"{', '.join(names)} ({source})" for source, names in by_source.items()]
    return f"set by default: {'; '.join(said)}" if said else ""


def name_sources(sentence: str, defaults: Sequence[Default]) -> str:
    """Return a sentence about a fault, with the place of each option that it names."""
    places = [
        f"{each.option} is set in {each.place}"
        for each in defaults
        if each.words and re.search(rf"(?<![\w-]){each.option}(?![\w-])", sentence)
    ]
    return f"{sentence} ({'; '.join(places)})" if places else sentence
