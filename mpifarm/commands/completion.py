"""``mpifarm completion``: the script by which a shell completes mpifarm's words.

Rules of this file: it prints, and writes nothing.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.errors import ExitStatus, InputError
from mpifarm.system.console import Console

_DESCRIPTION = (
    "Print the script by which a shell completes subcommands, options, lists and"
    " workdirs.  A package has it in its place already (share/), where the shells of"
    " this machine look for it; this is for an environment of your own."
)
_EPILOG = """\
For bash, in ~/.bashrc:  eval "$(mpifarm completion bash)"; for zsh, in ~/.zshrc behind
compinit:  eval "$(mpifarm completion zsh)"; for fish, in its config.fish:  mpifarm
completion fish | source.  Exit status: 0, or 2 if the shell is another one.
"""
_SHELLS = ("bash", "fish", "zsh")


def main(argv: list[str], console: Console, _environ: Mapping[str, str]) -> int:
    """Run ``mpifarm completion``; raises `InputError`."""
    parser = SubcommandParser("completion", _DESCRIPTION)
    parser.epilog = _EPILOG
    parser.add_argument("shell", metavar="SHELL", help="bash, fish or zsh")
    shell = parser.parse_args(argv).shell
    _check_shell(shell, _SHELLS)
    from mpifarm.commands.help_files.files import write_completion

    console.print_text(write_completion(shell))
    return ExitStatus.ALL_FINISHED


def _check_shell(shell: str, shells: Sequence[str]) -> None:
    if shell not in shells:
        near = get_close_matches(shell, shells, n=1)
        meant = f": did you mean {near[0]}?" if near else ", only for bash, fish, zsh"
        raise InputError(f"mpifarm has no completion for {shell!r}{meant}")
