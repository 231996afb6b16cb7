"""The exit statuses in an option ``--status``.

Rules of this file: pure.
"""

from mpifarm.audit.retry import spread_status
from mpifarm.errors import InputError


def join_statuses(argv: list[str]) -> list[str]:
    """Return `argv` with ``--status -9,-15`` as one word: -9 looks like an option."""
    words: list[str] = []
    for word in argv:
        if (
            words
            and words[-1] == "--status"
            and word[:1] == "-"
            and word[1:2].isdigit()
        ):
            words[-1] = f"--status={word}"
        else:
            words.append(word)
    return words


def parse_statuses(text: str) -> frozenset[int]:
    """Return all statuses that a word as ``1,137`` means: -9 and 137 are the same.

    Raises `InputError`.
    """
    statuses: set[int] = set()
    for word in text.split(","):
        number = word.strip().removeprefix("-")
        if not (number.isdecimal() and number.isascii()) or int(number[:9]) > 255:
            raise InputError(
                f"--status takes exit statuses, as 1 or 137, not {text!r:.60}"
            )
        statuses |= spread_status(int(word))
    return frozenset(statuses)
