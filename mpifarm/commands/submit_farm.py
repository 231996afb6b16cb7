"""The farm of a job that is to be submitted: its words, its list, what is wrong.

Rules of this file: it reads, and changes nothing.  A list that is no file is made here,
so that the job needs neither standard input nor the files of ``::::``.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

from mpifarm.audit.view import State, read_view
from mpifarm.commands.argument_words import SEPARATORS
from mpifarm.commands.defaults import find_defaults
from mpifarm.commands.made_list import MadeList
from mpifarm.commands.options import ALL_NAMES, parse_line
from mpifarm.commands.target import patience_of
from mpifarm.errors import InputError
from mpifarm.farm.arguments import (
    NO_ARGUMENT,
    NO_COMMAND,
    describe_rest,
    warn_of_options,
)
from mpifarm.farm.input_check import NoTasksError, check_input
from mpifarm.farm.standard_input import is_kept
from mpifarm.model.settings import KEPT_WORKDIR, Arguments, Settings
from mpifarm.model.wording import counted
from mpifarm.store.target import find_target_of, is_database
from mpifarm.submit.slurm import OPTIONS
from mpifarm.system import files
from mpifarm.system.console import Console
from mpifarm.system.patience import try_again


class FarmOfJob(NamedTuple):
    """A farm that a job is to start: its settings, and the words that start it there.

    `tasks` is the number of its tasks; of these, `finished` and `failed` have ended.
    `made` is the list that is no file yet.
    """

    settings: Settings
    words: list[str]
    tasks: int
    finished: int
    failed: int
    warnings: list[str]
    made: MadeList | None = None

    @property
    def left(self) -> int:
        """The number of tasks that have not ended."""
        return self.tasks - self.finished - self.failed


def find_farm(
    words: Sequence[str],
    environ: Mapping[str, str],
    console: Console,
    names: Collection[str],
) -> FarmOfJob:
    """Return the farm of a command line, checked as its start would check it.

    `names` are those of the job's options.  Raises `InputError`, `StorageError`.
    """
    settings = _parse(words, environ, names)
    made = None
    if is_kept(settings):
        made = MadeList(settings, environ, console.print_error)
        if made.is_empty and settings.follow is None:
            raise InputError(_explain_empty(settings))
    patience = patience_of(console.print_error)
    with made.as_file() if made else nullcontext(settings) as with_file:
        try:
            checked = try_again(lambda: check_input(with_file, environ), patience)
        except NoTasksError as error:
            if made is None:
                raise
            raise InputError(_explain_empty(settings, has_lines=True)) from error
        ended = try_again(lambda: _count_ended(with_file, environ), patience)
    warnings = [*checked.warnings]
    if made is None:
        return FarmOfJob(settings, [*words], checked.tasks, *ended, warnings)
    warnings += _warn_of_made(settings, made)
    kept = made.in_workdir
    again = _name_kept(words, settings, kept)
    return FarmOfJob(kept, again, checked.tasks, *ended, warnings, made)


def _explain_empty(settings: Settings, *, has_lines: bool = False) -> str:
    if settings.arguments is not None:
        return f"{NO_COMMAND if has_lines else NO_ARGUMENT}, and nothing to submit"
    what = (
        "no line of standard input is a task"
        if has_lines
        else "standard input has no line"
    )
    return f"{what}: there is nothing to submit"


def _count_ended(settings: Settings, environ: Mapping[str, str]) -> tuple[int, int]:
    """Return how many tasks have finished, and how many failed, as far as is known.

    Those of a list that was edited are known when the farm has done its ``--remap``,
    and one that begins again has none.
    """
    target = find_target_of(settings)
    is_begun = files.is_directory(settings.workdir) or is_database(target, environ)
    if settings.remap or settings.again or not is_begun:
        return 0, 0
    counts = read_view(target, environ).counts
    return counts[State.FINISHED], counts[State.FAILED]


def refuse_without_work(farm: FarmOfJob, again: str) -> None:
    """Raise `InputError` for a farm that would have nothing to run.

    `again` is the command that puts failed tasks back.
    """
    if farm.left > 0 or farm.settings.follow is not None:
        return
    what = f"all {counted(farm.tasks)} of {farm.settings.tasklist}"
    if not farm.failed:
        raise InputError(
            f"{what} are finished: there is nothing to submit (--again behind the list"
            " starts all of them again)"
        )
    raise InputError(
        f"{what} have ended, {farm.failed} of them failed: {again} puts these back,"
        " then submit the list again"
    )


def _parse(
    words: Sequence[str], environ: Mapping[str, str], names: Collection[str]
) -> Settings:
    """Return the settings of the farm; raises `InputError` for wrong ones.

    What files and variables set holds in the job as well.
    """
    if not any(word in SEPARATORS for word in words):
        _refuse_pipe(words[0])
        _refuse_behind_list(words, names)
    settings = parse_line(words, environ).settle(find_defaults(environ)[0])
    if settings.dry_run:
        raise InputError(
            "mpifarm submit --print shows the job script, and mpifarm --dry-run LIST"
            " what would run: leave --dry-run out here"
        )
    if settings.arguments is not None:
        _refuse_among_arguments(settings.arguments, names)
        return settings
    if settings.tasklist != words[0]:
        raise InputError(
            f"the options of the farm stand behind the list: {settings.tasklist}"
            f" {words[0]} ..."
        )
    if settings.handler[:1].isdecimal():
        raise InputError(
            f"-t {settings.handler} is the farm's --tasklist behind the list; the time"
            f" limit stands before it: mpifarm submit -t {settings.handler} ..."
            f" {settings.tasklist}"
        )
    return settings


def _refuse_pipe(tasklist: str) -> None:
    """Raise `InputError` for a list that only this process can read."""
    if tasklist.startswith(("/dev/", "/proc/")):
        raise InputError(
            f"{tasklist} will be gone when the job starts: write the list into a file,"
            " and submit that; or give - as the list, and the list as standard input"
        )


def _refuse_behind_list(words: Sequence[str], names: Collection[str]) -> None:
    """Raise `InputError` for an option of the job that stands behind the list."""
    of_slurm = {f"--{name}" for name in OPTIONS}
    for word in words[1:]:
        name = word.partition("=")[0]
        if (name in names or name in of_slurm) and name not in ALL_NAMES:
            raise InputError(
                f"{name} must stand before the list: mpifarm submit {name} ..."
                f" {words[0]}"
            )


def _refuse_among_arguments(arguments: Arguments, names: Collection[str]) -> None:
    """Raise `InputError` for an option of the job among arguments.

    Who writes one there would get a job that runs something else.
    """
    for word in _words_of(arguments):
        name = word.partition("=")[0]
        if name.startswith("--") and name in names:
            raise InputError(
                f"{name} stands behind :::, where all words are arguments: put it in"
                " front of the command; an argument of that name is written into a"
                " file, :::: FILE"
            )


def _words_of(arguments: Arguments) -> Iterator[str]:
    """Yield the arguments that were typed."""
    for source in arguments.sources:
        if not source.is_file:
            yield from source.words


def _warn_of_made(settings: Settings, made: MadeList) -> Iterator[str]:
    """Yield what is to be told of a list that was made, as a farm tells it."""
    if made.rest:
        yield describe_rest(made.path, made.rest)
    if settings.arguments is not None and settings.arguments.like_option:
        yield warn_of_options(settings.arguments.like_option)


def _name_kept(words: Sequence[str], settings: Settings, kept: Settings) -> list[str]:
    """Return the words of a farm with the list in the workdir, and the same options."""
    if settings.arguments is None:
        options = [*words[1:]]
    else:
        options = [*words[: len(words) - settings.arguments.size]]
        if options[-1:] == ["--"]:
            options.pop()
    if settings.workdir == KEPT_WORKDIR:  # as it is where none was given
        options += ["--workdir", KEPT_WORKDIR]
    return [kept.tasklist, *options]
