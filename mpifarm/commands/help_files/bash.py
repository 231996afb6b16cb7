"""Completion for bash.

Rules of this file: pure.  The script needs bash 4.4, and nothing of the package
bash-completion.  Files are left to readline (an empty answer), because it knows of
quotes and of ``~``.
"""

import shlex
from collections.abc import Iterable, Iterator, Sequence
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
from mpifarm.commands.help_files.command_lines import CommandLine, Takes
from mpifarm.commands.options import NO, UNDONE

_HEAD: Final = """\
# bash completion for mpifarm, made from its --help

_mpifarm_workdirs() { # directories, and lists that have a workdir
    local workdir
    mapfile -t COMPREPLY < <(compgen -d -- "$1")
    for workdir in "$1"*_workdir/; do
        workdir=${workdir%/}
        [[ -f ${workdir%_workdir} ]] && COMPREPLY+=("${workdir%_workdir}")
    done
    compopt -o filenames
}

_mpifarm_words() {
    compopt +o default
    mapfile -t COMPREPLY < <(compgen -W "$2" -- "$1")
}

_mpifarm_find() {
    case $2 in
    files) ;;
    directories) compopt -o dirnames +o default ;;
    workdirs) _mpifarm_workdirs "$1" ;;
    nothing) compopt +o default ;;
    words) _mpifarm_words "$1" "$3" ;;
    esac
}

_mpifarm_first() {
    mapfile -t COMPREPLY < <(
        compgen -W "$2" -- "$1"
        compgen -f -- "$1"
    )
    compopt -o filenames
}

_mpifarm_options() {
    case $command in
{options}
    esac
    # Too many to be shown among the others.
    if [[ $command == farm && $current == {no}* ]]; then
        options={undone}
    fi
}

_mpifarm() {
    local current=$2 before=$3 command=farm options='' values=' ' i first=1 place=0
    COMPREPLY=()
    # = is a word of its own: --logs = packed
    if [[ $before == '=' ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    elif [[ ${COMP_WORDS[COMP_CWORD]} == '=' ]]; then
        current=''
    fi
"""

_MIDDLE: Final = """\
    _mpifarm_options
    for ((i = first; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == -- ]] && return
        if [[ ${COMP_WORDS[i + 1]} == '=' && ${COMP_WORDS[i]} == -* ]]; then
            ((i += 2))
        elif [[ $values == *" ${COMP_WORDS[i]} "* ]]; then
            ((i += 1))
        elif [[ ${COMP_WORDS[i]} != -?* ]]; then
            ((place += 1))
        fi
    done
    if [[ $command == {behind_list} ]] && ((place > 0)); then
        command=farm # whose options stand behind the list
        _mpifarm_options
    fi
    if [[ $current == -* && $values != *" $before "* ]]; then
        _mpifarm_words "$current" "$options"
        return
    fi
    case "$command $before" in
"""

_END: Final = """\
    esac
}

complete -o default -F _mpifarm mpifarm
"""


def write_bash(lines: Sequence[CommandLine]) -> str:
    """Return the script that ``share/bash-completion/completions/mpifarm`` is."""
    return "".join(f"{line}\n" for line in _write(lines))


def _write(lines: Sequence[CommandLine]) -> Iterator[str]:
    options = "\n".join(each for line in lines for each in _options_of(line))
    head = _HEAD.rstrip("\n").replace("{options}", options).replace("{no}", NO)
    yield head.replace("{undone}", shlex.quote(" ".join(UNDONE)))
    yield from _first_word()
    behind_list = f"@({'|'.join(BEHIND_LIST)})"
    yield _MIDDLE.rstrip("\n").replace("{behind_list}", behind_list)
    for line in lines:
        yield from _values_of(line)
    yield '    *) case "$command $place" in'
    for line in lines:
        yield from _places_of(line)
    yield "        esac ;;"
    yield _END.rstrip("\n")


def _first_word() -> Iterator[str]:
    firsts = " ".join(sorted((*SUBCOMMANDS, *OTHER_WORDS)))
    yield "    if ((COMP_CWORD == 1)) && [[ $current != -* ]]; then"
    yield f'        _mpifarm_first "$current" {shlex.quote(firsts)}'
    yield "        return"
    yield "    fi"
    yield "    case ${COMP_WORDS[1]} in"
    yield f"    {'|'.join(SUBCOMMANDS)}) command=${{COMP_WORDS[1]}} first=2 ;;"
    yield "    run) first=2 ;;"
    yield "    help)"
    yield f'        _mpifarm_words "$current" {shlex.quote(" ".join(HELP_TOPICS))}'
    yield "        return ;;"
    yield "    esac"


def _name(line: CommandLine) -> str:
    return line.name or "farm"


def _options_of(line: CommandLine) -> Iterator[str]:
    names = " ".join(name for option in line.options for name in option.names)
    values = " ".join(names_with_values(line))
    yield f"    {_name(line)})"
    yield f"        options={shlex.quote(names)}"
    yield f"        values=' {values} ' ;;"


def _values_of(line: CommandLine) -> Iterator[str]:
    for option in line.options:
        if option.takes is Takes.VALUE:
            pattern = "|".join(f'"{_name(line)} {name}"' for name in option.names)
            found = find_candidates(line.name, option.metavar)
            yield f"    {pattern}) {_find(found)} ;;"


def _places_of(line: CommandLine) -> Iterator[str]:
    *first, last = find_places(line)
    for number, found in enumerate(first):
        yield f'        "{_name(line)} {number}") {_find(found)} ;;'
    yield f'        "{_name(line)} "*) {_find(last)} ;;'


def _find(found: Candidates | Iterable[str]) -> str:
    if isinstance(found, Candidates):
        return f'_mpifarm_find "$current" {found.value}'
    return f'_mpifarm_find "$current" words {shlex.quote(" ".join(found))}'
