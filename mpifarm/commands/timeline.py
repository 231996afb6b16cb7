"""``mpifarm timeline``: all timelines of a workdir in one file.

Rules of this file: arguments and words; `mpifarm.audit.timelines` merges.  The file is
written beside its place and renamed, so that a kill leaves no half of it there.
"""

import os
from collections.abc import Mapping
from typing import Any

from mpifarm.audit.timelines import MergedTimeline, find_timelines
from mpifarm.commands.sink import Sink
from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.commands.target import add_target_arguments, find_target, patience_of
from mpifarm.errors import ExitStatus, InputError
from mpifarm.model.paths import WorkdirPaths, is_own_name
from mpifarm.model.wording import counted
from mpifarm.store.target import Target
from mpifarm.system import files
from mpifarm.system.console import Console
from mpifarm.system.patience import try_again

_DESCRIPTION = (
    "Merge timeline.json, the timelines of farms beside other farmers, and those that"
    " were moved aside, into one file for https://ui.perfetto.dev.  Farms may run"
    " meanwhile."
)

STDOUT = "-"


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm timeline``: merge the timelines of a workdir.

    Return 0, also if the reader of standard output has closed it.  Raises `InputError`
    and `StorageError`.
    """
    chosen = _parse(argv)
    patience = patience_of(console.print_error)
    target = try_again(lambda: find_target(chosen, environ), patience)
    paths = WorkdirPaths(os.path.abspath(target.workdir))
    names = try_again(lambda: find_timelines(paths), patience)
    if not names:
        raise InputError(
            f"{target.workdir} has no timeline: no task has ended there yet"
        )
    if chosen.output == STDOUT:
        return _print(MergedTimeline(paths, names), console)
    output = os.path.realpath(chosen.output)
    try_again(lambda: _check_output(chosen.output, output, target), patience)
    merged = try_again(lambda: _write(paths, names, output), patience)
    for note in merged.notes:
        console.print_error(note)
    console.print_line(
        f"{counted(merged.events, 'attempt')} of {counted(len(names), 'timeline')} in"
        f" {chosen.output}: open it in https://ui.perfetto.dev (Open trace file), which"
        " shows which worker ran which task when"
    )
    return ExitStatus.ALL_FINISHED


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("timeline", _DESCRIPTION)
    add_target_arguments(parser, after="-o FILE")
    parser.add_argument(
        "--output",
        "-o",
        metavar="FILE",
        required=True,
        help="the file to write, or - for standard output",
    )
    return parser.parse_args(argv)


def _print(merged: MergedTimeline, console: Console) -> ExitStatus:
    sink = Sink()
    try:
        for block in merged.blocks():
            sink.write(block)
    except BrokenPipeError:
        return ExitStatus.ALL_FINISHED
    for note in merged.notes:
        console.print_error(note)
    return ExitStatus.ALL_FINISHED


def _write(paths: WorkdirPaths, names: list[str], output: str) -> MergedTimeline:
    merged = MergedTimeline(paths, names)
    staging = f"{output}.{os.getpid()}.new"
    files.write_staging_file(staging, merged.blocks(), like=output)
    files.rename(staging, output)
    return merged


def _check_output(named: str, output: str, target: Target) -> None:
    """Raise `InputError` if `output` must not be replaced; `named` is the user's word.

    Files of the workdir, and files that are no timelines, are kept.
    """
    if not named:
        raise InputError("the name of --output is empty: is a variable not set?")
    directory, name = os.path.split(output)
    root = os.path.realpath(target.workdir)
    inside = os.path.relpath(output, root).split(os.sep)
    if inside[0] != os.pardir and (len(inside) > 1 or is_own_name(name)):
        raise InputError(
            f"{named} is a name of the workdir's own files: give -o another name"
        )
    if not files.is_directory(directory):
        raise InputError(f"cannot write {named}: there is no directory {directory}")
    if not files.is_permitted(directory, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {named}: {directory} is not writable")
    if not files.is_there(output):
        return
    if not files.is_file(output):
        raise InputError(f"{named} is not a file: give -o another name, or -")
    if files.find_start(output, 2) not in (b"", b"[]", b"[{"):
        raise InputError(
            f"{named} exists and is not a timeline: give -o another name, or remove it"
        )
