"""``mpifarm import``: a database, made of a list.

Rules of this file: arguments and words; `mpifarm.audit.importing` makes the database.
"""

import os
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mpifarm.audit.importing import Imported, count_words, import_list
from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.commands.target import complete, patience_of
from mpifarm.database.names import SUFFIXES, is_database_name
from mpifarm.errors import ExitStatus, InputError
from mpifarm.model.wording import counted
from mpifarm.store.target import SUFFIX, Target, recall_handler, refuse_as_list
from mpifarm.system import files
from mpifarm.system.console import Console
from mpifarm.system.patience import try_again

_DESCRIPTION = (
    "Make a database (SQLite) of a tasklist, with its order and, if its workdir is"
    " there, with what has finished and failed.  mpifarm then farms the database in"
    " place of the list, and sqlite3 queries it."
)
_EPILOG = (
    "No file is written over.  The list and its workdir stay as they are.  Exit status:"
    " 0, or 2 if the command line or an input is wrong, 75 if the disk fails."
)
_STDIN: Final = "-"


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm import``.  Return 0; raises `InputError` and `StorageError`."""
    chosen = _parse(argv)
    path: str = chosen.database
    target = _find_target(chosen, environ)
    imported = try_again(
        lambda: import_list(target, environ, path), patience_of(console.print_error)
    )
    for line in describe(imported, chosen.tasklist, target, path):
        console.print_line(line)
    return ExitStatus.ALL_FINISHED


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("import", _DESCRIPTION)
    parser.epilog = _EPILOG
    parser.add_argument(
        "tasklist", metavar="LIST", help="the tasklist; -: read standard input"
    )
    parser.add_argument(
        "database",
        metavar="FILE.db",
        help=f"the database to make; its name ends in {', '.join(SUFFIXES)}",
    )
    parser.add_argument(
        "--workdir",
        "-w",
        metavar="DIR",
        help="the list's workdir (default: LIST_workdir)",
    )
    parser.add_argument(
        "--tasklist",
        "-t",
        metavar="HANDLER",
        dest="handler",
        help="the handler that reads the list (default: that of the workdir's last"
        " farm)",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="an INI file that defines the handler"
    )
    return parser.parse_args(argv)


def _find_target(chosen: Any, environ: Mapping[str, str]) -> Target:
    """Return list and workdir; raises `InputError` for wrong ones."""
    tasklist, path, workdir = chosen.tasklist, chosen.database, chosen.workdir
    if not tasklist or not path or workdir == "" or chosen.config == "":
        raise InputError("a name is empty: is a variable not set?")
    if not is_database_name(path):
        is_turned = os.path.exists(path) or not os.path.exists(tasklist)
        if is_database_name(tasklist) and is_turned:
            line = shlex.join(["mpifarm", "import", path, tasklist])
            raise InputError(f"the list stands first: {line}")
        raise InputError(
            f"{path} is no name of a database, by which a farm would know it: let it"
            f" end in {' or '.join(SUFFIXES)}"
        )
    for name in (tasklist, path):
        os.path.abspath(name)  # raises in a directory that is gone
    directory = os.path.dirname(path) or "."
    if not files.is_directory(directory):
        raise InputError(f"cannot write {path}: there is no directory {directory}")
    if not files.is_permitted(directory, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: {directory} is not writable")
    if workdir is not None and not files.is_directory(workdir):
        raise InputError(f"no workdir {workdir}: leave out --workdir, or correct it")
    is_typed = chosen.config is not None
    complete(chosen, environ)
    handler = chosen.handler or "default"
    if tasklist == _STDIN:
        # Without --workdir there is none: nothing can have this name.
        return Target(
            *(workdir or "/dev/stdin/none", "/dev/stdin", handler, chosen.config),
            has_typed_config=is_typed,
        )
    refuse_as_list(tasklist)
    found = workdir or tasklist + SUFFIX
    target = Target(found, tasklist, handler, chosen.config, has_typed_config=is_typed)
    return target if chosen.handler else recall_handler(target)


def describe(
    imported: Imported, tasklist: str, target: Target, path: str
) -> Iterator[str]:
    """Yield the sentences about a new database."""
    source = "standard input" if tasklist == _STDIN else tasklist
    states = f": {count_words(imported.states)}" if imported.has_state else ""
    yield f"{path} has the {counted(imported.total)} of {source}{states}"
    if imported.has_state:
        yield f"the logs of what has run stay in {target.workdir}"
    yield f"to run it: {shlex.join(['mpifarm', path])}"
