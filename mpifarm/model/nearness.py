"""The word that a misspelt one is surely near.

Rules of this file: pure; it is imported for mistakes only.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

SURELY_NEAR: Final = 0.75
"""The least likeness where a word need not be ours at all: PORC is meant to be PROC,
TIME is not meant to be TIMEOUT."""


def find_near_word(word: str, words: Iterable[str]) -> str:
    """Return the one of `words` that `word` surely misspells, or ""."""
    near = get_close_matches(word, [*words], n=1, cutoff=SURELY_NEAR)
    return near[0] if near else ""
