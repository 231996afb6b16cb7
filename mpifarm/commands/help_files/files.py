"""The files of the help that a package installs beside mpifarm.

Rules of this file: pure.  The paths are those below a prefix, where shells and ``man``
look for them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mpifarm.commands.help_files.bash import write_bash
from mpifarm.commands.help_files.command_lines import CommandLine, list_command_lines
from mpifarm.commands.help_files.fish import write_fish
from mpifarm.commands.help_files.manual import write_pages
from mpifarm.commands.help_files.zsh import write_zsh

_WRITERS: Final[Mapping[str, Callable[[Sequence[CommandLine]], str]]] = {
    "bash": write_bash,
    "fish": write_fish,
    "zsh": write_zsh,
}
_PATHS: Final = {
    "bash": "share/bash-completion/completions/mpifarm",
    "fish": "share/fish/vendor_completions.d/mpifarm.fish",
    "zsh": "share/zsh/site-functions/_mpifarm",
}


def write_completion(shell: str) -> str:
    """Return the script of a shell: bash, fish or zsh."""
    return _WRITERS[shell](list_command_lines())


def write_help_files(date: str) -> dict[str, str]:
    """Return all files by their paths below a prefix; `date` is the manual's."""
    lines = list_command_lines()
    files = {_PATHS[shell]: write(lines) for shell, write in _WRITERS.items()}
    for name, text in write_pages(lines, date).items():
        files[f"share/man/man1/{name}"] = text
    return files
