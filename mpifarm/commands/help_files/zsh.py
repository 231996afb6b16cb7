"""Completion for zsh.

Rules of this file: pure.  The script is a function to be found in ``fpath``, and may be
evaluated after ``compinit`` as well.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from mpifarm.commands.help_files.candidates import (
    BEHIND_LIST,
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
from mpifarm.commands.options import NO, UNDONE

_HEAD: Final = """\
#compdef mpifarm
# zsh completion for mpifarm, made from its --help

_mpifarm_workdirs() { # directories, and lists that have a workdir
    local -a lists
    lists=(${(Q)${~PREFIX}}*_workdir(N-/))
    lists=(${^lists%_workdir}(N-.))
    _alternative 'lists:list:compadd -f -a lists' 'directories:directory:_files -/'
}

_mpifarm_argument() { # a message for an option would hide it
    [[ $PREFIX == -* ]] || _message argument
}

_mpifarm_farm() {
    local -a undone
    if [[ $PREFIX == {no}* ]]; then # too many to be shown among the others
        undone=({undone})
    fi
{arguments}
}

_mpifarm_behind() { # the list, and behind it the options of a farm
    if ((CURRENT == 1)); then
        _files
    else
        _mpifarm_farm
    fi
}

_mpifarm() {
    local curcontext=$curcontext ret=1
    local -a commands
    commands=(
"""

_MIDDLE: Final = """\
    )
    if ((CURRENT == 2)) && [[ $words[2] != -* ]]; then
        _alternative 'lists:list:_files' \\
            'commands:command:{_describe -t commands command commands}'
        return
    fi
    case $words[2] in
"""

_END: Final = """\
    esac
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _mpifarm "$@"
elif ((${+functions[compdef]})); then
    compdef _mpifarm mpifarm
fi
"""

_ACTIONS: Final = {
    Candidates.FILES: "_files",
    Candidates.DIRECTORIES: "_files -/",
    Candidates.WORKDIRS: "_mpifarm_workdirs",
    Candidates.NOTHING: "_mpifarm_argument",
}

_SIGNS: Final = {
    Takes.NOTHING: ("", ""),
    Takes.VALUE: ("+", "="),
    # in the same word alone: the next one may be the list
    Takes.MAY: ("-", "=-"),
}
"""What stands between an option's name and its text, for short and for long names."""


def write_zsh(lines: Sequence[CommandLine]) -> str:
    """Return the script that ``share/zsh/site-functions/_mpifarm`` is."""
    return "".join(f"{line}\n" for line in _write(lines))


def _write(lines: Sequence[CommandLine]) -> Iterator[str]:
    farm, *subcommands = lines
    yield from _head_of(farm)
    for word, text in sorted({**summarize(farm), **OTHER_WORDS}.items()):
        yield f"        {shlex.quote(word + ':' + text)}"
    yield _MIDDLE.rstrip("\n")
    for line in subcommands:
        yield f"    {line.name})"
        yield _SHIFT
        yield from _arguments(line)
        yield "        ;;"
    yield "    help) compadd " + " ".join(HELP_TOPICS) + " ;;"
    yield "    run)"
    yield _SHIFT
    yield "        _mpifarm_farm"
    yield "        ;;"
    yield "    *) _mpifarm_farm ;;"
    yield _END.rstrip("\n")


_SHIFT: Final = "        shift words && ((CURRENT -= 1))"


def _head_of(farm: CommandLine) -> Iterator[str]:
    specs = (shlex.quote(f"{name}[undo a default]") for name in UNDONE)
    head = _HEAD.rstrip("\n").replace("{no}", NO).replace("{undone}", " ".join(specs))
    yield head.replace("{arguments}", "\n".join(_arguments(farm, " $undone")))


def _arguments(line: CommandLine, more: str = "") -> Iterator[str]:
    specs = [spec for option in line.options for spec in _specs_of(line, option)]
    *first, last = find_places(line)
    specs += [f":{_head(line, n)}:{_action(found)}" for n, found in enumerate(first)]
    if line.name in BEHIND_LIST:
        specs.append("*::list:_mpifarm_behind")
        more = " -A '-*'"  # its own options don't stand behind the list
    else:
        specs.append(f"*:{_head(line, len(first))}:{_action(last)}")
    yield f"        _arguments -S{more} \\"
    for spec in specs[:-1]:
        yield f"            {shlex.quote(spec)} \\"
    yield f"            {shlex.quote(specs[-1])}"


def _head(line: CommandLine, number: int) -> str:
    if number < len(line.places):
        return _escape(line.places[number].metavar)
    return "argument"


def _specs_of(line: CommandLine, option: Argument) -> Iterator[str]:
    """Yield a spec for each name of an option; one rules out the others."""
    others = "" if option.may_repeat else f"({' '.join(option.names)})"
    value = f":{_escape(option.metavar)}:"
    value += _action(find_candidates(line.name, option.metavar))
    if option.takes is Takes.MAY:
        value = f":{value}"
    star = "*" if option.may_repeat else ""
    text = _escape(_shorten(option.help))
    for name in option.names:
        sign = _SIGNS[option.takes][name.startswith("--")]
        yield f"{others}{star}{name}{sign}[{text}]{value if sign else ''}"


def _action(found: Candidates | tuple[str, ...]) -> str:
    if isinstance(found, Candidates):
        return _ACTIONS[found]
    return f"({' '.join(found)})"


def _shorten(text: str) -> str:
    """Return the first clause of a help: one line of a menu."""
    return re.split(r"[;:(]", text)[0].strip()


def _escape(text: str) -> str:
    return re.sub(r"([\\:\[\]])", r"\\\1", text)
