"""Numbers and durations as words of a sentence.

Rules of this file: pure; it imports nothing of mpifarm.
"""


def counted(number: int, noun: str = "task", plural: str = "") -> str:
    """Return a number with its noun: ``1 task``, ``2 tasks``.

    `plural` is by default `noun` with an s: ``counted(2, "task is", "tasks are")``.
    """
    return f"{number} {agree(number, noun, plural or noun + 's')}"


def agree(number: int, singular: str, plural: str) -> str:
    """Return the word that agrees with a number: ``agree(2, "is", "are")``."""
    return singular if number == 1 else plural


def duration_in_words(seconds: float) -> str:
    """Return a duration of `seconds` in words: 4.2 s, 85 s, 3:07 min, 12:00:05 h."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return (
        f"{hours}:{minute:02}:{second:02} h" if hours else f"{minute}:{second:02} min"
    )
