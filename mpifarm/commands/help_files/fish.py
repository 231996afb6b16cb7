"""Completion for fish.

Rules of this file: pure.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from mpifarm.commands import SUBCOMMANDS
from mpifarm.commands.help_files.candidates import (
    HELP_TOPICS,
    OTHER_WORDS,
    Candidates,
    find_candidates,
    find_places,
)
from mpifarm.commands.help_files.command_lines import (
    Argument,
    CommandLine,
    Takes,
    summarize,
)

_HEAD: Final = """\
# fish completion for mpifarm, made from its --help

function __mpifarm_is --description 'Whether the command line is that of a command'
    set -l words (commandline -opc)
    set -l command farm
    contains -- "$words[2]" {subcommands} help
    and set command $words[2]
    test $command = $argv[1]
end

function __mpifarm_begins --description 'Whether the first word is being typed'
    test (count (commandline -opc)) -eq 1
end

function __mpifarm_lists --description 'Lists that have a workdir'
    for workdir in (commandline -ct)*_workdir
        string replace -r '_workdir$' '' -- $workdir
    end
end

complete -c mpifarm -e
"""


def write_fish(lines: Sequence[CommandLine]) -> str:
    """Return ``share/fish/vendor_completions.d/mpifarm.fish``."""
    return "".join(f"{line}\n" for line in _write(lines))


def _write(lines: Sequence[CommandLine]) -> Iterator[str]:
    farm = lines[0]
    yield _HEAD.replace("{subcommands}", " ".join(SUBCOMMANDS)).rstrip("\n")
    for word, text in sorted({**summarize(farm), **OTHER_WORDS}.items()):
        yield f"complete -c mpifarm -n __mpifarm_begins -a {word} -d {_quote(text)}"
    topics = " ".join(HELP_TOPICS)
    yield f"complete -c mpifarm -n '__mpifarm_is help' -f -a {_quote(topics)}"
    for line in lines:
        yield ""
        yield from _places_of(line)
        for option in line.options:
            yield _write_option(line, option)


def _begin(line: CommandLine) -> str:
    return f"complete -c mpifarm -n '__mpifarm_is {line.name or 'farm'}'"


def _places_of(line: CommandLine) -> Iterator[str]:
    """Yield what may stand in the first place; fish does not count places."""
    match find_places(line)[0]:
        case Candidates.FILES:
            return
        case Candidates.WORKDIRS:
            yield f"{_begin(line)} -f -a '(__mpifarm_lists)'"
            yield f"{_begin(line)} -a '(__fish_complete_directories)'"
        case Candidates.DIRECTORIES:
            yield f"{_begin(line)} -f -a '(__fish_complete_directories)'"
        case Candidates.NOTHING:
            yield f"{_begin(line)} -f"
        case words:
            yield f"{_begin(line)} -f -a {_quote(' '.join(words))}"


def _write_option(line: CommandLine, option: Argument) -> str:
    names = " ".join(
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
        for name in option.names
    )
    value = ""
    if option.takes is Takes.VALUE:
        value = _value(find_candidates(line.name, option.metavar))
    text = re.split(r"[;:(]", option.help)[0].strip()
    return f"{_begin(line)} {names}{value} -d {_quote(text)}"


def _value(found: Candidates | tuple[str, ...]) -> str:
    match found:
        case Candidates.FILES:
            return " -r -F"
        case Candidates.DIRECTORIES | Candidates.WORKDIRS:
            return " -x -a '(__fish_complete_directories)'"
        case Candidates.NOTHING:
            return " -x"
        case words:
            return f" -x -a {_quote(' '.join(words))}"


def _quote(text: str) -> str:
    """Return `text` in quotes as fish reads them: only ' and the backslash count."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
