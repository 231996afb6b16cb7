"""The options of a farm as keyword arguments: ``proc=4``, ``task_timeout=60``.

Rules of this file: pure.  Which options there are, and what they take, is known to the
command line alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from mpifarm.commands.misspelt import explain_key
from mpifarm.commands.options import BY_NAME, NO, ONE_RUN, Option
from mpifarm.errors import InputError

Value: TypeAlias = str | float | Sequence[str] | Mapping[str, int] | None
"""The value of an option: a word or a number; True or False; for an option that may be
given again, several words, or names with numbers.  None: as if it were not given."""

_OWN: Final = {
    "--workdir": "",
    "--progress": "",
    "--tasklist": ": the tasks are commands, and no handler reads them",
    "--dry-run": ": it prints, and runs nothing, so it is for the command line",
}
"""Options that are arguments of `Farm` itself, or have no meaning here."""

OPTIONS: Final = {
    name[2:].replace("-", "_"): option
    for long_name, option in BY_NAME.items()
    for name in option.names.split()
    if name.startswith("--") and long_name not in _OWN
}
"""The options by their keywords."""


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
    names = [option.long_name for option in OPTIONS.values()]
    rest = ": mpifarm --help lists all, such as --task-timeout, which is task_timeout"
    return explain_key(keyword, names, rest)


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
    return [str(value)]
