"""The list that a command and its arguments make, on rank 0.

Rules of this file: it makes texts, and opens nothing.
"""

import os
import re
from collections.abc import Callable

from mpifarm.errors import InputError
from mpifarm.lists.arguments import Source, make_lines, split_arguments
from mpifarm.model.settings import Arguments, ArgumentSource
from mpifarm.model.task import decode_text
from mpifarm.model.wording import counted

MAX_SHOWN = 60
"""Characters of a line that are shown."""


NO_ARGUMENT = "there are no tasks: all that stands behind :::: is empty"
"""What is told where arguments make an empty list."""

NO_COMMAND = "there are no tasks: each command that the arguments make is empty"
"""What is told where arguments make only empty lines."""


def make_list(arguments: Arguments, read_file: Callable[[str], bytes]) -> bytes:
    """Return the list that arguments make, a task a line; b"" without an argument.

    `read_file` returns the content of a file behind ``::::``, and what it raises is
    raised.  Raises InputError for a command that can't be one of a list, and where one
    becomes a comment.
    """
    sources = [
        Source(split_arguments(_read(source, read_file)), source.is_linked)
        for source in arguments.sources
    ]
    lines = make_lines([os.fsencode(word) for word in arguments.command], sources)
    _check_no_comment(lines)
    return lines


def _check_no_comment(lines: bytes) -> None:
    """Raise InputError for a line that a list takes for a comment or a directive.

    It would be dropped, or let tasks wait; GNU parallel gives it to a shell.
    """
    if not lines.startswith(b"#") and b"\n#" not in lines:
        return  # a million lines cost two looks
    found = re.search(rb"^#.*", lines, re.MULTILINE)
    assert found is not None
    number = lines.count(b"\n", 0, found.start()) + 1
    line = shorten_line(found[0])
    raise InputError(
        f"line {number} that the arguments make, {line}, begins with #, which makes a"
        " comment or a directive of it in a list: leave it out; if it is to be one,"
        " write a list in a file (mpifarm FILE)"
    )


def _read(source: ArgumentSource, read_file: Callable[[str], bytes]) -> bytes:
    """Return the arguments of a source, one a line.

    So an argument with a line break is two, as for GNU parallel.
    """
    if not source.is_file:
        return b"".join(os.fsencode(word) + b"\n" for word in source.words)
    (path,) = source.words
    return read_file(path)


def shorten_line(line: bytes) -> str:
    """Return a line in quotes, cut to `MAX_SHOWN` characters."""
    text = decode_text(line)
    return repr(text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…")


def warn_of_options(like_option: str) -> str:
    """Return the warning of an argument that may be meant as an option."""
    return (
        f"WARNING: {like_option} behind ::: is taken for one more argument; options"
        " stand in front of the command"
    )


def describe_rest(tasklist: str, rest: int) -> str:
    """Return a sentence about lines of a list that its arguments do not make."""
    return (
        f"{tasklist} has {counted(rest, 'line')} more than these arguments make, from"
        " an earlier start or by mpifarm add: all of them are farmed"
    )
