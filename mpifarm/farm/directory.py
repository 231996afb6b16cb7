"""Where the commands of a farm run: ``--chdir``, and where the list was begun.

Rules of this file: a directory is told from another by what it is, not by its name: a
list that is resumed through a symbolic link is resumed where it was.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from shlex import quote

from mpifarm.errors import InputError
from mpifarm.model.settings import (
    STDIN_LIST,
    Arguments,
    RunnerDefinition,
    Settings,
)
from mpifarm.model.wording import agree
from mpifarm.system.processes import find_directory


def enter_directory(settings: Settings) -> tuple[Settings, str]:
    """Change the directory to ``--chdir``; return new settings, and the fault or "".

    Other paths of the command line are made to count from where mpifarm was started,
    which joins `sys.path`; PWD is set.  Without ``--chdir``, nothing changes.
    """
    if fault := _explain_gone(settings):
        return settings, fault
    if settings.chdir is None:
        return settings, ""
    here = find_directory()
    try:
        os.chdir(settings.chdir)
    except OSError as error:
        return settings, _explain_no_directory(settings.chdir, error)
    os.environ["PWD"] = os.getcwd()
    if here and here not in sys.path:
        sys.path.append(here)  # the user's classes are where they were
    return count_from(settings, here), ""


def check_directory(settings: Settings) -> None:
    """Raise `InputError` if a farm could not change the directory to ``--chdir``.

    Also if the current directory is gone, and the list or the workdir is named from it.
    """
    if fault := _explain_gone(settings):
        raise InputError(fault)
    if settings.chdir is None:
        return
    try:
        os.stat(os.path.join(settings.chdir, "."))  # asks for what chdir asks for
    except OSError as error:
        raise InputError(_explain_no_directory(settings.chdir, error)) from error


def _explain_gone(settings: Settings) -> str:
    """Return why paths can't be found in a directory that is gone, "" if they can."""
    if find_directory():
        return ""
    is_file = settings.arguments is None and settings.tasklist != STDIN_LIST
    for path in (*([settings.tasklist] if is_file else []), settings.workdir):
        if not os.path.isabs(path):
            return (
                f"can't find {path}, because the current directory is gone: go to one"
                " that is there, or write whole paths of list and workdir, and --chdir"
            )
    return ""


def _explain_no_directory(path: str, error: OSError) -> str:
    return f"can't run commands in {path}: {error.strerror}"


def count_from(settings: Settings, here: str) -> Settings:
    """Return the settings with all their paths counted from `here`."""

    def path_of(name: str | None) -> str | None:
        return None if name is None else os.path.join(here, name)

    tasklist = os.path.join(here, settings.tasklist)
    return replace(
        settings,
        # What is no file is a name that only its handler understands.
        tasklist=tasklist if os.path.exists(tasklist) else settings.tasklist,
        workdir=os.path.join(here, settings.workdir),
        arguments=_count_arguments_from(settings.arguments, here),
        config=path_of(settings.config),
        lock_area=path_of(settings.lock_area),
        durations=path_of(settings.durations),
        hooks=replace(
            settings.hooks,
            events=path_of(settings.hooks.events),
            metrics=path_of(settings.hooks.metrics),
        ),
    )


def _count_arguments_from(arguments: Arguments | None, here: str) -> Arguments | None:
    """Return arguments with the files that have them counted from `here`."""
    if arguments is None:
        return None
    sources = tuple(
        replace(source, words=(os.path.join(here, source.words[0]),))
        if source.is_file and source.words != (STDIN_LIST,)
        else source
        for source in arguments.sources
    )
    return replace(arguments, sources=sources)


def find_directory_of_commands(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return the directory in which the commands run.

    Raises `InputError` if the directory is gone, or is not the one that the job was to
    enter.
    """
    here = find_directory()
    if not here:
        raise InputError(
            "can't run commands in the current directory, because it is gone: go to one"
            " that is there, or name it with --chdir"
        )
    if settings.chdir is None and (wanted := find_not_entered(here, environ)):
        raise InputError(explain_not_entered(wanted, os.uname().nodename))
    return here


def find_not_entered(here: str, environ: Mapping[str, str]) -> str:
    """Return the directory that Slurm could not enter on this node; "" if it could.

    Slurm then starts its processes in /tmp (slurmstepd, "going to /tmp instead").
    """
    if "SLURM_JOB_ID" in environ and here == os.path.realpath("/tmp"):  # noqa: S108
        for name in ("PWD", "SLURM_SUBMIT_DIR"):
            wanted = environ.get(name, "")
            if wanted and not os.access(wanted, os.X_OK):
                return wanted
    return ""


def explain_not_entered(wanted: str, host: str) -> str:
    """Return why no command can run where Slurm has gone to /tmp."""
    return (
        f"can't run commands in {_shown(wanted)}: Slurm could not enter it on {host},"
        " and went to /tmp; start where all nodes can go, or say with --chdir where"
        " the commands run"
    )


def runs_anywhere(runner: RunnerDefinition) -> bool:
    """Return whether the commands run in the same directory wherever mpifarm starts."""
    cwd = runner.options.get("cwd", "")
    return cwd.startswith(("/", "~"))


def is_other(begun: str, here: str) -> bool:
    """Return whether `begun` is another directory than `here`; False if it is gone."""
    try:
        return not os.path.samefile(begun, here)
    except OSError:
        return False  # the place has moved with all that is in it


def warn_of_other(begun: str, here: str) -> str:
    """Return the warning at the start in another directory than before."""
    return (
        f"WARNING: this list was begun in {_shown(begun)}, and its commands run in"
        f" {_shown(here)} now: give --chdir {quote(_shown(begun))} if they name files"
        " from there"
    )


def explain_not_found(count: int, begun: str) -> str:
    """Return why a farm ends whose first `count` commands were not found."""
    which = agree(count, "the first command", f"the first {count} commands")
    return (
        f"{which} could not be started (status 126 or 127), and the list was begun in"
        f" {_shown(begun)}: no failure is recorded; {go_on_there(begun)}"
    )


def go_on_there(begun: str) -> str:
    """Return how to go on after a farm that found no command."""
    return f"give --chdir {quote(_shown(begun))} with the same command"


def _shown(path: str) -> str:
    return path if path.isprintable() else repr(path)
