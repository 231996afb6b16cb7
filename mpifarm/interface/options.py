"""The options of a farm as keyword arguments: ``proc=4``, ``task_timeout=60``.

Rules of this file: of files, only those of defaults are read.  Which options there are,
and what they take, is known to the command line alone.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from mpifarm.commands.misspelt import explain_key
from mpifarm.commands.option_values import usage_error
from mpifarm.commands.options import BY_NAME, NO, ONE_RUN, Option, parse_line
from mpifarm.errors import InputError

Value: TypeAlias = str | float | Sequence[str] | Mapping[str, int] | None
"""The value of an option: a word or a number; True or False; for an option that may be
given again, several words, or names with numbers.  None: as if it were not given."""

_OWN: Final = {
    "--workdir": "",
    "--progress": "",
    "--tasklist": ": the tasks are commands, and no handler reads them",
    "--again": ": name another workdir, or remove the one that is there",
    "--dry-run": ": it prints, and runs nothing, so it is for the command line",
}
"""Options that are arguments of `Farm` itself, or have no meaning here."""

_ARGUMENTS: Final = ("--workdir", "--launcher", "--progress", "--check")
"""Arguments of `Farm` and `run` that are no options of these names, as if they were."""

_NUMBER = "proc=N is the number of tasks at one time on each rank"
_RANKS = "launcher='srun -N 8' starts a rank on each of 8 nodes"
_OF_PYTHON: Final = {
    name: said
    for names, said in {
        "n_jobs max_workers num_workers n_workers workers processes nproc nprocs"
        " num_procs ncpus n_cpus cpus cores ncores": _NUMBER,
        "ranks nranks nodes n_nodes num_nodes": _RANKS,
        "cwd": "chdir=DIR is where the commands run, workdir=DIR where the farm keeps"
        " its state",
        "env": "commands have what os.environ has, and setup=COMMAND runs before each",
        "shell": "each command runs in a shell",
        "name names": "a name stands beside its command, as (command, name)",
    }.items()
    for name in names.split()
}
"""What is ours for keywords that users know from other packages for Python."""

_NEAR: Final = ", did you mean"
"""The beginning of an explanation that names options, which are keywords here."""

_HELP: Final = str(usage_error(""))
"""The end of a sentence about a command line, which says how to get help there."""

OPTIONS: Final = {
    name[2:].replace("-", "_"): option
    for long_name, option in BY_NAME.items()
    for name in option.names.split()
    if name.startswith("--") and long_name not in _OWN
}
"""The options by their keywords."""


def parse_options(words: Sequence[str]) -> None:
    """Raise `InputError` if the words of a command line are wrong.

    Its sentence names the options by their keywords.
    """
    try:
        parse_line(words, os.environ).settle()
    except InputError as error:
        said = name_keywords(str(error).removesuffix(_HELP))
        raise InputError(said) from None


def name_keywords(sentence: str) -> str:
    """Return what a farm says of its options, in terms of the keywords.

    A command line in the sentence stays as it is, and what stands in quotes.
    """
    parts = re.split(r"(\bmpifarm [^;:,()]*|(?<!\w)'[^']*')", sentence)
    return "".join(
        part if part.startswith(("mpifarm ", "'")) else _name_keywords(part)
        for part in parts
    )


def _name_keywords(text: str) -> str:
    def name_limits(found: re.Match[str]) -> str:
        pairs = [f'"{kind}": {n}' for kind, n in re.findall(_LIMIT, found[0])]
        return f"limit={{{', '.join(pairs)}}}"

    def name_option(found: re.Match[str]) -> str:
        option = OPTIONS.get(keyword := found[1].replace("-", "_"))
        if option is None:
            return found[0]
        return f"{keyword}=True" if option.is_flag else keyword

    text = re.sub(rf"{_LIMIT}(?: {_LIMIT})*", name_limits, text)
    return re.sub(r"(?<![\w-])--([a-z]+(?:-[a-z]+)*)(?![\w-])", name_option, text)


_LIMIT: Final = r"(?<![\w-])--limit (\w[\w.-]*)=(\d+|N)"


def spell_options(options: Mapping[str, Value]) -> list[str]:
    """Return the words of a command line; raise `InputError` for an unknown option."""
    words: list[str] = []
    for keyword, value in options.items():
        if keyword not in OPTIONS:
            raise InputError(f"there is no option {keyword}{_explain(keyword)}")
        words += _spell(keyword, OPTIONS[keyword], value)
    return words


def _explain(keyword: str) -> str:
    """Return the end of a sentence about an unknown option."""
    name = "--" + keyword.replace("_", "-")
    if name in _OWN:
        return _OWN[name]
    if keyword in _OF_PYTHON:
        return f": {_OF_PYTHON[keyword]}"
    names = [*_ARGUMENTS, *(option.long_name for option in OPTIONS.values())]
    rest = ": mpifarm --help-all lists all, as --task-timeout, which is task_timeout"
    said = explain_key(keyword, names, rest)
    return said.replace("-", "_") if said.startswith(_NEAR) else said


def _spell(keyword: str, option: Option, value: Value) -> Iterator[str]:
    name = option.long_name
    if value is None:
        return
    if value is False:
        if name not in ONE_RUN:
            yield NO + name[2:]
    elif value is True and (option.is_flag or name in ("--follow", "--shuffle")):
        yield name
    elif option.is_flag:
        raise InputError(f"{keyword} takes True or False, not {value!r:.60}")
    else:
        for word in _words_of(value):
            yield f"{name}={word}"


def _words_of(value: Value) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{name}={number}" for name, number in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [str(word) for word in value]
    if isinstance(value, float) and value.is_integer():
        return [str(int(value))]
    return [str(value)]
