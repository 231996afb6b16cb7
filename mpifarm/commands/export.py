"""``mpifarm export``: a list as text, or a workdir as a database for queries.

Rules of this file: arguments and words; `mpifarm.audit.exporting` makes both.  A file
is written beside its place, and gets its name when it is whole.
"""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpifarm.audit.exporting import (
    STATES,
    choose,
    encode_text_list,
    export_database,
)
from mpifarm.audit.view import View, read_view
from mpifarm.commands.sink import write_all
from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.commands.target import add_target_arguments, find_target, patience_of
from mpifarm.errors import ExitStatus, InputError
from mpifarm.model.wording import counted
from mpifarm.store.target import Target
from mpifarm.system import files
from mpifarm.system.console import Console
from mpifarm.system.new_files import staging_for
from mpifarm.system.patience import try_again

_DESCRIPTION = (
    "Print the tasks of a workdir or a database as a plain list, each command with its"
    " #AFTER and [limit=], or only those in some states; or write all that is known of"
    " them into a database (SQLite), for queries.  Farms may run meanwhile."
)
_EPILOG = (
    "The database has a table tasks, with a row for each task, and a table attempts,"
    " with the columns of attempts.tsv.  No file is written over.  Exit status: 0, or 2"
    " if the command line or an input is wrong, 75 if the disk fails."
)


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm export``.  Return 0; raises `InputError` and `StorageError`."""
    chosen = _parse(argv)
    states = _parse_states(chosen.state)
    _check_output(chosen.sqlite if chosen.output is None else chosen.output)
    patience = patience_of(console.print_error)
    target = try_again(lambda: find_target(chosen, environ), patience)
    view = try_again(lambda: read_view(target, environ), patience)
    for warning in view.warnings():
        console.print_error(warning)
    if chosen.sqlite is not None:
        path = chosen.sqlite
        attempts = try_again(
            lambda: export_database(view, target, environ, path), patience
        )
        console.print_line(
            f"{path} has {counted(view.total)} and {counted(attempts, 'attempt')} of"
            f" {target.workdir}: sqlite3 {shlex.quote(path)}"
        )
        return ExitStatus.ALL_FINISHED
    if view.has_own_state and states:
        raise InputError(
            f"the tasklist handler {target.handler!r} keeps the state of the tasks"
            " itself: leave out --state"
        )
    taskids = try_again(lambda: choose(view, states), patience)
    if chosen.output is None:
        write_all(encode_text_list(view, target, taskids))
        return ExitStatus.ALL_FINISHED
    try_again(lambda: _write(view, target, taskids, chosen.output), patience)
    console.print_line(f"{chosen.output} has {counted(len(taskids))}")
    return ExitStatus.ALL_FINISHED


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("export", _DESCRIPTION)
    parser.epilog = _EPILOG
    add_target_arguments(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--output",
        "-o",
        metavar="FILE",
        help="write the list into a new file, not to standard output",
    )
    form.add_argument(
        "--sqlite",
        metavar="FILE.db",
        help="write a new database, in place of a list",
    )
    parser.add_argument(
        "--state",
        metavar="STATES",
        action="append",
        default=[],
        help=f"only tasks in these states, as failed,cancelled: {', '.join(STATES)}",
    )
    chosen = parser.parse_args(argv)
    if chosen.sqlite is not None and chosen.state:
        parser.error("--sqlite writes all tasks: leave out --state, and query its rows")
    return chosen


def _parse_states(words: Sequence[str]) -> list[str]:
    states = [each.strip() for word in words for each in word.split(",")]
    for each in states:
        if each not in STATES:
            raise InputError(
                f"--state takes {', '.join(STATES)}, or several with commas, not"
                f" {each!r:.60}"
            )
    return states


def _check_output(path: str | None) -> None:
    """Raise `InputError` for a file that can't be written, or is there."""
    if path is None:
        return
    if not path:
        raise InputError("the name of a file is empty: is a variable not set?")
    directory = os.path.dirname(path) or "."
    files.refuse_existing(path)
    if not files.is_directory(directory):
        raise InputError(f"cannot write {path}: there is no directory {directory}")
    if not files.is_permitted(directory, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: {directory} is not writable")


def _write(view: View, target: Target, taskids: Sequence[int], path: str) -> None:
    _write_new(path, encode_text_list(view, target, taskids))


def _write_new(path: str, blocks: Iterable[bytes]) -> None:
    """Write a new file, which gets its name at the end."""
    with staging_for(path) as staging:
        files.write_staging_file(staging, blocks)
