"""What the user is told of another list than the one that the workdir keeps.

Rules of this file: it reads the words of this process, and which workdirs there are.
"""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence

from mpifarm.batch.launcher import launched_size
from mpifarm.farm.arguments import shorten_line
from mpifarm.farm.own_words import is_read_once, without_workdir
from mpifarm.model.paths import WorkdirPaths, parse_given_name
from mpifarm.model.settings import Settings

MAX_COMMAND = 500
"""Characters of a command that is printed whole."""

_REMAP = "--remap"


def explain_other(
    settings: Settings, environ: Mapping[str, str], content: bytes, before: bytes
) -> str:
    """Return why a list can't go on with `content`, and the commands that run that.

    `before` is the list that the workdir has.
    """
    path = WorkdirPaths(settings.workdir.rstrip("/")).stdin_list
    if settings.arguments is None:
        return (
            f"standard input has other lines than {path} has from the start before:"
            " give the same lines, or none (</dev/null), to go on with those"
            f"{_name_ways(settings, environ)}"
        )
    pairs = zip(before.split(b"\n"), content.split(b"\n"), strict=False)
    number, line, made = next((n, a, b) for n, (a, b) in enumerate(pairs, 1) if a != b)
    return (
        f"these arguments make another list than {path}: line {number} is"
        f" {shorten_line(line)} there, and {shorten_line(made)} now; give the same"
        f" arguments to go on{_name_ways(settings, environ)}"
    )


def _name_ways(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return how to run the other list beside the first, or in its place.

    The words of a launcher are not known here, nor is a long command one to copy.  What
    was read from a pipe is gone.
    """
    options = ["-w", _name_free(settings.workdir)], ["--again"]
    ways = [_with_option(settings, each) for each in options]
    commands = [shlex.join(["mpifarm", *words]) for words in ways]
    is_long = len(commands[0]) > MAX_COMMAND
    if _is_gone(settings) or is_long or launched_size(environ) > 1:
        has_remap = _REMAP in _split_words(settings)[0]
        place = "in place of --remap" if has_remap else "in the command"
        commands = [f"{shlex.join(each)} {place}" for each in options]
    return (
        f", or run these in another workdir: {commands[0]}; or begin anew, with the old"
        f" workdir moved aside: {commands[1]}"
    )


def _is_gone(settings: Settings) -> bool:
    """Return whether the same words would read another list, or none."""
    if settings.arguments is None:
        return True
    is_given = parse_given_name(os.path.basename(sys.argv[-1])) is not None
    return is_given or any(map(is_read_once, settings.arguments.sources))


def _with_option(settings: Settings, option: Sequence[str]) -> list[str]:
    """Return the words of this process with an option, in front of a command.

    ``--remap``, which goes on with a list, is left out.
    """
    options, rest = _split_words(settings)
    options = [word for word in options if word != _REMAP]
    if option[0] == "-w":
        options = without_workdir(options)
    return [*options, *option, *rest]


def _split_words(settings: Settings) -> tuple[list[str], list[str]]:
    """Return the options among the words of this process, and what stands behind."""
    words = sys.argv[1:]
    size = settings.arguments.size if settings.arguments is not None else 0
    end = len(words) - size
    if "--" in words[:end]:
        end = words.index("--")
    return words[:end], words[end:]


def _name_free(workdir: str) -> str:
    """Return the name of a workdir that is not there, made from that of another."""
    base, number = workdir.rstrip("/"), 2
    while os.path.lexists(f"{base}{number}"):
        number += 1
    return f"{base}{number}"
