"""Completion for fish.

Rules of this file: pure.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from mpifarm.commands import SUBCOMMANDS
from mpifarm.commands.help_files.candidates import (
    BEHIND_LIST,
    HELP_TOPICS,
    OTHER_WORDS,
    Candidates,
    find_candidates,
    find_places,
    names_with_values,
)
from mpifarm.commands.help_files.command_lines import (
    Argument,
    CommandLine,
    Takes,
    summarize,
)
from mpifarm.commands.options import NO, UNDONE

_HEAD: Final = """\
# fish completion for mpifarm, made from its --help

function __mpifarm_is --description 'Whether the command line is that of a command'
    set -l words (commandline -opc)
    set -l command farm
    contains -- "$words[2]" {subcommands} help
    and set command $words[2]
    if contains -- $command {behind_list}
        set -e words[1..2]
        __mpifarm_has_list $words
        and set command farm # whose options stand behind the list
    end
    test $command = $argv[1]
end

function __mpifarm_has_list --description 'Whether a list stands in the words'
    set -l is_value 0
    for word in $argv
        if test $is_value = 1
            set is_value 0
        else if contains -- $word {values}
            set is_value 1
        else if not string match -q -- '-?*' $word
            return 0
        end
    end
    return 1
end

function __mpifarm_undoes --description 'Whether an option that undoes one is typed'
    __mpifarm_is farm
    and string match -q -- '{no}*' (commandline -ct)
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
    parted = [line for line in lines if line.name in BEHIND_LIST]
    values = " ".join(name for line in parted for name in names_with_values(line))
    head = _HEAD.replace("{subcommands}", " ".join(SUBCOMMANDS)).replace("{no}", NO)
    head = head.replace("{behind_list}", " ".join(BEHIND_LIST))
    yield head.replace("{values}", values).rstrip("\n")
    for word, text in sorted({**summarize(farm), **OTHER_WORDS}.items()):
        yield f"complete -c mpifarm -n __mpifarm_begins -a {word} -d {_quote(text)}"
    topics = " ".join(HELP_TOPICS)
    yield f"complete -c mpifarm -n '__mpifarm_is help' -f -a {_quote(topics)}"
    for line in lines:
        yield ""
        yield from _places_of(line)
        for option in line.options:
            yield _write_option(line, option)
    yield ""
    for name in UNDONE:  # too many to be shown among the others
        yield f"complete -c mpifarm -n __mpifarm_undoes -l {name[2:]}"


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
