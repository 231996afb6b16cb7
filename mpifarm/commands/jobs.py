"""``mpifarm jobs``: the job scripts that come with mpifarm, listed and copied.

Rules of this file: no file is written over; a name that is wrong copies nothing.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.errors import ExitStatus, InputError
from mpifarm.submit.samples import DESCRIPTIONS, write_samples
from mpifarm.system.console import Console

_DESCRIPTION = (
    "List the job scripts that come with mpifarm, or copy some of them.  Each is"
    " submitted with a tasklist, as its first lines say; mpifarm submit writes and"
    " submits the same for one list."
)
_EPILOG = "Exit status: 0, or 2 if a name is wrong or a file is there already."


def main(argv: list[str], console: Console, _environ: Mapping[str, str]) -> int:
    """Run ``mpifarm jobs``; raises `InputError`."""
    chosen = _parse(argv)
    if not chosen.names and chosen.to is None:
        console.print_text("".join(f"{line}\n" for line in _list()))
        return ExitStatus.ALL_FINISHED
    names = chosen.names or [*DESCRIPTIONS]
    _check_names(names)
    for path in _copy(names, chosen.to if chosen.to is not None else "."):
        console.print_line(f"{path} is written")
    return ExitStatus.ALL_FINISHED


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("jobs", _DESCRIPTION)
    parser.epilog = _EPILOG
    parser.add_argument(
        "names",
        metavar="NAME",
        nargs="*",
        help="the scripts to copy, as requeue.slurm (default: list all)",
    )
    parser.add_argument(
        "--to",
        metavar="DIR",
        help="the directory to copy them into (default: the current one); without"
        " names: copy all",
    )
    return parser.parse_args(argv)


def _list() -> Iterator[str]:
    width = max(map(len, DESCRIPTIONS))
    for name, description in DESCRIPTIONS.items():
        yield f"{name:{width}}  {description}"
    yield ""
    yield "mpifarm jobs NAME copies one into this directory"


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if name not in DESCRIPTIONS:
            near = get_close_matches(name, [*DESCRIPTIONS], n=1)
            meant = f", did you mean {near[0]}?" if near else ": mpifarm jobs lists all"
            raise InputError(f"no job script is named {name!r}{meant}")


def _copy(names: Sequence[str], directory: str) -> Iterator[str]:
    """Write the scripts of these names, and yield their paths.

    Raises `InputError`, before anything is written if it can be known by then.
    """
    if not os.path.isdir(directory):
        raise InputError(f"{directory!r} is not a directory: make it first (mkdir -p)")
    texts = write_samples()
    paths = {name: os.path.join(directory, name) for name in dict.fromkeys(names)}
    for path in paths.values():
        if os.path.lexists(path):
            raise InputError(
                f"{path} is there already: remove it, or name another --to"
            )
    for name, path in paths.items():
        try:
            with open(path, "x", encoding="utf-8", opener=_open_new) as stream:
                stream.write(texts[name])
        except OSError as error:
            raise InputError(f"can't write {path}: {error.strerror}") from error
        yield path


def _open_new(path: str, flags: int) -> int:
    """Open a new file; one that no batch system starts may be executed."""
    return os.open(path, flags, 0o777 if path.endswith(".sh") else 0o666)
