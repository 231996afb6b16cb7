"""``mpifarm submit``: a job that farms a list, written and submitted.

Rules of this file: arguments, words, and the script's file; `mpifarm.submit` plans the
job and writes its script.  All that can be wrong is told before anything is written.  A
job that the batch system refuses leaves no file behind that no other job may have.
"""

import hashlib
import os
import re
import shlex
import stat
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, NamedTuple

import mpifarm
from mpifarm.commands.argument_words import SEPARATORS
from mpifarm.commands.made_list import MadeList
from mpifarm.commands.misspelt import find_near
from mpifarm.commands.options import ALL_NAMES, count_values
from mpifarm.commands.sink import write_all
from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.commands.submit_farm import FarmOfJob, find_farm, refuse_without_work
from mpifarm.commands.submit_words import Teller, name_command, warn_of_own_directory
from mpifarm.commands.target import patience_of
from mpifarm.errors import ExitStatus, FarmError, InputError, StorageError
from mpifarm.farm.again import begin_again, undo
from mpifarm.model.durations import DURATIONS, parse_duration
from mpifarm.model.paths import JOB_SCRIPT, WorkdirPaths
from mpifarm.model.settings import Settings
from mpifarm.store.directories import make_root
from mpifarm.submit.asking import LATE, SUBMIT_SECONDS, Programs
from mpifarm.submit.planning import (
    Python,
    Wishes,
    check_wishes,
    find_scheduler,
    plan,
    take_variables,
)
from mpifarm.submit.request import JobRequest, Launcher, Source
from mpifarm.submit.slurm import OPTIONS, find_clusters, quote_directive
from mpifarm.submit.systems import SYSTEMS, JobId, System
from mpifarm.system.console import Console
from mpifarm.system.files import find_names, storage_error
from mpifarm.system.patience import try_again
from mpifarm.system.processes import find_directory
from mpifarm.system.regular_files import open_regular

MAX_SCRIPTS: Final = 10_000
"""Job scripts that a workdir may have."""

MAX_COMMAND: Final = 1000
"""Characters of what the user typed that a script has in its head."""

_DESCRIPTION = (
    "Write a job script that farms a list, submit it, and print the commands that watch"
    " and end the job.  Options before the list are the batch system's, those behind it"
    " the farm's; both stand in front of a command with arguments (:::)."
)
_EPILOG = (
    "For Slurm, any option of sbatch with a value may be given too, as --mem=16G or"
    " --constraint=knl; others by --directive.  The list - is standard input.  The"
    " script goes into the list's workdir, and its head says how to submit it once"
    " more.  Exit status: 0, the job is submitted; 2 the command line or an input is"
    " wrong, or the batch system refuses the job; then nothing is written, unless no"
    " answer says whether the job is queued; 75 the disk fails."
)

_HELP: Final = {
    "--nodes": "nodes of the job, or of each job of an array (default: 1)",
    "--time": "the time limit, as 4:00:00, 90m or 1-12:00:00; a number alone is"
    " minutes (default: that of the partition)",
    "--account": "the account, or project",
    "--partition": "the partition, or queue",
    "--qos": "Slurm's quality of service",
    "--cpus-per-task": "CPUs on each node; the job then shares its nodes (default:"
    " whole nodes; 8 for an array, 4 for a gap)",
    "--job-name": "the job's name (default: farm)",
    "--pe": "the parallel environment of Grid Engine",
    "--directive": "one more option for the batch system, as it stands in a script:"
    " --directive '-C knl'",
    "--after": "start when this job has ended with status 0; any:JOB: whatever its end;"
    " given again: when all of these jobs have ended",
    "--until-done": "go on, by a requeue or a chain of jobs, until the list is done",
    "--chain": "the same by a new job each time, where jobs aren't requeued",
    "--array": "submit K jobs as an array, each a farm, all on this list",
    "--backfill": "a small job that Slurm may shorten to fit a gap between others",
    "--supervise": "start the farm again in the job if ranks, a node or srun die",
    "--install-free": "take mpifarm from where it is now: the Python of the job need"
    " not have it installed",
    "--scheduler": "the batch system (default: the one that is here)",
    "--print": "print the script, and write and submit nothing",
    "--json": "print a JSON object in place of sentences",
}


class Words(NamedTuple):
    """A command line in its parts; `passed_on` are options for sbatch."""

    front: list[str]
    passed_on: list[str]
    farm: list[str]


class Submission(NamedTuple):
    """A job; or none, the reason, and whether the job may be queued all the same."""

    job: JobId
    why: str = ""
    may_be_queued: bool = False


class Plan(NamedTuple):
    """A job that is to be submitted."""

    system: System
    request: JobRequest
    workdir: str


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm submit``.  Raises `InputError` and `StorageError`."""
    parser = _make_parser()
    options = parser.list_options()
    words = split_words(argv, options)
    chosen = parser.parse_args(words.front)
    if not words.farm:
        raise InputError(
            "no tasklist is given: name it behind the options of the job, as mpifarm"
            " submit -N 8 -t 4:00:00 tasks.txt"
        )
    wishes = _wishes_of(chosen, words.passed_on)
    check_wishes(wishes)
    farm = find_farm(words.farm, environ, console, options)
    programs = Programs(environ)
    found = _plan(wishes, words, farm.settings, programs, environ)
    source = _make_source(farm, argv, environ, chosen)
    if chosen.print:
        _show(found, source)
        if farm.settings.again:
            console.print_error(_NOT_MOVED)
        if farm.made is not None and not farm.made.is_kept:
            console.print_error(_NOT_KEPT.format(farm.made.path))
        return ExitStatus.ALL_FINISHED
    if not _waits_for_jobs(found):  # they may put tasks back
        refuse_without_work(farm, name_command("retry", farm.settings))
    own = warn_of_own_directory(farm.settings, source.directory)
    for warning in filter(None, [*farm.warnings, own]):
        console.print_error(warning)
    has_moved = farm.settings.again and _begin_again(farm, console, environ)
    teller = Teller(console, farm, as_json=chosen.json)
    try:
        _submit(found, source, programs, teller, farm.made, has_moved=has_moved)
    except _MayBeQueuedError:
        raise
    except InputError as error:
        if not has_moved:
            raise
        ours = farm.made.content if farm.made is not None else None
        raise InputError(f"{error}; {undo(farm.settings, environ, ours)}") from error
    return ExitStatus.ALL_FINISHED


def _waits_for_jobs(found: Plan) -> bool:
    request = found.request
    return bool(request.after) or found.system.waits(request.directives)


class _MayBeQueuedError(InputError):
    """No answer says whether a job is queued."""


_NOT_MOVED: Final = (
    "this script goes on with the list: mpifarm submit without --print moves the"
    " workdir aside when it submits the job, for --again"
)


def _begin_again(farm: FarmOfJob, console: Console, environ: Mapping[str, str]) -> bool:
    """Move the workdir aside now: the job may be requeued, or be one of a chain.

    Return whether there was something to move.
    """
    told = try_again(
        lambda: begin_again(farm.settings, environ, farm.tasks, in_job=False),
        patience_of(console.print_error),
    )
    if told:
        console.print_error(told)
    return bool(told)


_NOT_KEPT: Final = (
    "this script farms {}, which is not there yet: mpifarm submit without --print"
    " writes both"
)


def _plan(
    wishes: Wishes,
    words: Words,
    settings: Settings,
    programs: Programs,
    environ: Mapping[str, str],
) -> Plan:
    """Return the job for what is wished, still without its script."""
    scheduler = find_scheduler(wishes, programs, environ)
    _check_passed_on(words.passed_on, scheduler)
    wishes = take_variables(wishes, scheduler, environ)
    check_wishes(wishes)
    identity = _identify(settings)
    request = plan(
        *(wishes, scheduler, settings.grace, programs, find_python()), identity=identity
    )
    _check_farm(settings, request)
    request = replace(request, chooses_workers=not settings.has_default("--proc"))
    return Plan(SYSTEMS[scheduler], request, settings.workdir)


def _show(found: Plan, source: Source) -> None:
    """Print the script as it would be written."""
    path = _name_script(found, 1)
    shown = replace(found.request, source=source._replace(path=path))
    write_all([found.system.write(shown).encode("utf-8", "surrogateescape")])


# ---- the command line ----------------------------------------------------------------


def _make_parser() -> SubcommandParser:
    parser = SubcommandParser("submit", _DESCRIPTION)
    parser.usage = (
        "mpifarm submit [-N NODES] [-t TIME] [options of the job] LIST [options of the"
        " farm]\n"
        "       mpifarm submit [-N NODES] [-t TIME] [options of both] COMMAND :::"
        " ARGUMENT ..."
    )
    parser.epilog = _EPILOG
    with_values = (
        ("-N", "--nodes", "NODES", _count("-N")),
        ("-t", "--time", "TIME", _parse_time),
        ("-A", "--account", "NAME", _name("--account")),
        ("-p", "--partition", "NAME", _name("--partition")),
        ("", "--qos", "NAME", _name("--qos")),
        ("-c", "--cpus-per-task", "CPUS", _count("-c")),
        ("-J", "--job-name", "NAME", _name("--job-name")),
        ("", "--array", "K", _count("--array", "the number of jobs, as 5")),
        ("", "--pe", "NAME", _name("--pe")),
        ("", "--scheduler", "|".join(SYSTEMS), _parse_scheduler),
    )
    for short, name, metavar, kind in with_values:
        names = [name, *filter(None, [short])]
        parser.add_argument(*names, metavar=metavar, type=kind, help=_HELP[name])
    several = (("--after", "JOB", _name("--after")), ("--directive", "WORDS", str))
    for name, metavar, kind in several:
        parser.add_argument(
            name, metavar=metavar, type=kind, action="append", help=_HELP[name]
        )
    flags = ("--until-done", "--chain", "--backfill", "--supervise")
    for name in (*flags, "--install-free", "--print", "--json"):
        parser.add_argument(name, action="store_true", help=_HELP[name])
    return parser


def _count(option: str, takes: str = "a number, 1 or more") -> Any:
    def parse(word: str) -> int:
        if not (word.isdecimal() and word.isascii()) or not 0 < int(word) < 10**7:
            raise InputError(f"{option} takes {takes}, not {word!r}")
        return int(word)

    return parse


def _name(option: str) -> Any:
    def parse(word: str) -> str:
        if not word:
            raise InputError(f"the value of {option} is empty: is a variable not set?")
        return word

    return parse


def _parse_time(word: str) -> float:
    try:
        return parse_duration(word, 60)
    except ValueError:
        raise InputError(f"-t takes {DURATIONS}, not {word!r}") from None


def _parse_scheduler(word: str) -> str:
    if word not in SYSTEMS:
        *first, last = SYSTEMS
        raise InputError(
            f"--scheduler takes {', '.join(first)} or {last}, not {word!r}"
        )
    return word


def split_words(argv: Sequence[str], options: Mapping[str, bool]) -> Words:
    """Part a command line at the list: the first word that is no option's value.

    `options` are the job's, each with whether it takes a value.  In front of a command
    with arguments (``:::``) stand those of the farm as well.
    """
    has_arguments = any(word in SEPARATORS for word in argv)
    front, passed_on, farm = list[str](), list[str](), list[str]()
    waiting = [*reversed(argv)]
    while waiting and waiting[-1].startswith("-") and waiting[-1] not in ("-", "--"):
        word = waiting.pop()
        takes_value = options.get(word, False)
        if takes_value and waiting[-1:] and waiting[-1].startswith("-"):
            # In one word, else argparse would take the value for an option.
            front.append(f"{word}{'=' if word[:2] == '--' else ''}{waiting.pop()}")
        elif takes_value and waiting:
            front += [word, waiting.pop()]
        elif has_arguments and _is_of_farm(word, options):
            farm.append(word)
            if waiting and count_values(word, waiting[-1]):
                farm.append(waiting.pop())
        elif _is_passed_on(word):
            passed_on.append(word)
        else:
            front.append(word)
    if waiting[-1:] == ["--"] and not has_arguments:
        waiting.pop()
    return Words(front, passed_on, [*farm, *reversed(waiting)])


def _is_of_farm(word: str, options: Collection[str]) -> bool:
    """Return whether a word is an option of the farm, and not of the job."""
    name = word.partition("=")[0] if word.startswith("--") else word[:2]
    return name in ALL_NAMES and name not in options


def _is_passed_on(word: str) -> bool:
    """Return whether a word is an option with its value that is not one of ours."""
    name, equals, value = word.partition("=")
    is_long = name.startswith("--") and bool(equals) and bool(value)
    return is_long and name not in _HELP


def _check_passed_on(words: Sequence[str], scheduler: str) -> None:
    """Raise `InputError` for an option that sbatch can't mean, or no sbatch gets."""
    for word in words:
        name = word.partition("=")[0]
        is_known = name.removeprefix("--") in OPTIONS
        if near := [*find_near(name, [] if is_known else [*_HELP])]:
            raise InputError(
                f"mpifarm submit has no option {name}, did you mean {near[0]}?  For one"
                f" of the batch system's: --directive {shlex.quote(word)}"
            )
        if name in ALL_NAMES:
            raise InputError(
                f"{name} is an option of the farm, and stands behind the list; for the"
                f" batch system's own: --directive {shlex.quote(word)}"
            )
        if scheduler != "slurm":
            raise InputError(
                f"mpifarm submit has no option {name}: give --directive"
                f" {shlex.quote(word)} with the words of {SYSTEMS[scheduler].title}"
            )


def _check_farm(settings: Settings, request: JobRequest) -> None:
    """Raise `InputError` for options of the farm that contradict the job."""
    if settings.mpi == "off" and request.launcher is not Launcher.NONE:
        raise InputError(
            f"--mpi off makes {request.nodes} farms of one over {request.nodes} nodes:"
            f" leave it out, or submit --array {request.nodes}"
        )


def _wishes_of(chosen: Any, passed_on: Sequence[str]) -> Wishes:
    return Wishes(
        scheduler=chosen.scheduler,
        nodes=chosen.nodes or 1,
        seconds=chosen.time,
        cpus=chosen.cpus_per_task,
        name=chosen.job_name,
        account=chosen.account or "",
        partition=chosen.partition or "",
        qos=chosen.qos or "",
        environment=chosen.pe or "",
        array=chosen.array,
        until_done=chosen.until_done,
        chain=chosen.chain,
        backfill=chosen.backfill,
        supervise=chosen.supervise,
        after=(*(chosen.after or ()),),
        directives=(*map(quote_directive, passed_on), *(chosen.directive or ())),
        is_print=chosen.print,
    )


# ---- what the job runs ---------------------------------------------------------------


def find_python() -> Python:
    """Return the Python that runs this: the job's, wherever that is."""
    programs = os.path.dirname(sys.executable)
    return Python((sys.executable or "python",), programs)


def _identify(settings: Settings) -> str:
    """Return a short word for a list, by its workdir."""
    path = os.fsencode(os.path.abspath(settings.workdir))
    return hashlib.sha256(path).hexdigest()[:6]


def _find_here(environ: Mapping[str, str]) -> str:
    """Return the current directory by the name that the user knows it by.

    On a cluster the real path of a home may be another on each node.
    """
    here, named = find_directory(), environ.get("PWD", "")
    if not here:
        raise InputError("the current directory is gone: go to one that is there")
    with suppress(OSError):
        if os.path.isabs(named) and os.path.samefile(named, here):
            return named
    return here


def _make_source(
    farm: FarmOfJob,
    argv: Sequence[str],
    environ: Mapping[str, str],
    chosen: Any,
) -> Source:
    """Return the source of a job, with the path of its script still empty."""
    here, workdir = _find_here(environ), farm.settings.workdir
    if ".." in workdir.split("/"):  # which a link in the name of `here` would mislead
        workdir = os.path.abspath(workdir)
    return Source(
        words=tuple(word for word in farm.words if word != "--again"),
        directory=here,
        workdir=os.path.normpath(os.path.join(here, workdir)),
        path="",
        command=_shorten(shlex.join(["mpifarm", "submit", *argv])),
        modules=_find_modules() if chosen.install_free else "",
    )


def _find_modules() -> str:
    """Return the directory that has this mpifarm; raise `InputError` for a colon."""
    modules = os.path.dirname(os.path.dirname(os.path.abspath(mpifarm.__file__)))
    if os.pathsep in modules:
        raise InputError(
            f"--install-free: {modules} has a colon, at which PYTHONPATH parts: have"
            " mpifarm in another directory"
        )
    return modules


def _shorten(command: str) -> str:
    """Return a command, cut to `MAX_COMMAND` characters: it may have many arguments."""
    if len(command) <= MAX_COMMAND:
        return command
    return f"{command[:MAX_COMMAND]} ..."


# ---- submitting ----------------------------------------------------------------------


def _name_script(found: Plan, number: int) -> str:
    root = os.path.abspath(found.workdir)
    return WorkdirPaths(root).job_script(found.system.ending, number)


def _submit(
    found: Plan,
    source: Source,
    programs: Programs,
    tell: Teller,
    made: MadeList | None,
    *,
    has_moved: bool,
) -> None:
    """Write list and script, and submit it; raise `InputError` if that is refused.

    What was written for a job that is refused is removed again, unless the job of
    another submission may use it.  A job that may be queued all the same needs its
    script.
    """
    is_new = make_root(os.path.abspath(found.workdir))
    own = ""
    try:
        # The script is first: by it others see that the list is in use.
        path, text, has_written = _write_script(found, source)
        own = path if has_written else ""
        if made is not None:
            made.keep()
    except FarmError:
        _remove(found, own, is_new=is_new)
        raise
    request = replace(found.request, source=source._replace(path=path))
    tell.begin(found.system, request)
    answer = _hand_in(found.system, request, text, programs)
    if answer.job.number or answer.may_be_queued:
        _release(own)
    if answer.job.number:
        tell.end(found.system, request, answer.job)
        return
    title = found.system.title
    if answer.may_be_queued:
        look = found.system.look(find_clusters(request.directives))
        raise _MayBeQueuedError(
            f"{title} may have queued the job: {answer.why}; look with {look} before"
            f" you submit it again; its script is {path}"
        )
    _remove(found, own, is_new=False)
    left = ""
    # A workdir that has moved goes back in its place with its list.
    if made and not has_moved and not made.put_back(lambda: _has_scripts(found)):
        left = (
            f"; the new tasks stay in {made.path}, because another job may have them"
            " by now"
        )
    _remove(found, "", is_new=is_new)
    raise InputError(f"{title} refused the job: {answer.why}{left}")


def _remove(found: Plan, script: str, *, is_new: bool) -> None:
    """Remove what was made for a job that there is not: its `script`, and the workdir.

    A workdir that has anything else stays.
    """
    with suppress(OSError):
        if script:
            os.unlink(script)
        if is_new:
            os.rmdir(os.path.abspath(found.workdir))


def _has_scripts(found: Plan) -> bool:
    """Return whether a workdir has a job script: a job may use the list, or will."""
    try:
        names = find_names(os.path.abspath(found.workdir))
    except StorageError:
        return True
    return any(re.fullmatch(JOB_SCRIPT, name) for name in names)


def _write_script(found: Plan, source: Source) -> tuple[str, str, bool]:
    """Write the script under the first free name.  Return path, text, and whether so.

    A job that still waits may need its script, so that none is written over; one with
    the same text serves again.
    """
    paths = (_name_script(found, number) for number in range(1, MAX_SCRIPTS))
    for path in paths:
        request = replace(found.request, source=source._replace(path=path))
        text = found.system.write(request)
        content = text.encode("utf-8", "surrogateescape")
        try:
            _write_new(path, content)
        except FileExistsError:
            if _is_same(path, content):
                return path, text, False
        except OSError as error:
            raise storage_error("write", path, error) from error
        else:
            return path, text, True
    raise InputError(f"{found.workdir} has {MAX_SCRIPTS} job scripts: remove old ones")


def _write_new(path: str, content: bytes) -> None:
    """Write a file that is not there yet: the whole, or nothing.  Raises OSError."""
    with open(path, "xb") as stream:
        try:
            stream.write(content)
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.unlink(path)
            raise


def _release(script: str) -> None:
    """Let other submissions use a script from now on: it is not removed any more.

    It becomes executable, which says so.
    """
    with suppress(OSError):
        if script:
            mode = os.stat(script).st_mode
            os.chmod(script, stat.S_IMODE(mode | (mode & 0o444) >> 2))


def _is_same(path: str, content: bytes) -> bool:
    """Return whether a script has this content, and its job was not refused."""
    try:
        with open(open_regular(path, os.O_RDONLY), "rb") as stream:
            is_released = os.fstat(stream.fileno()).st_mode & stat.S_IXUSR
            return bool(is_released) and stream.read(len(content) + 1) == content
    except OSError:  # also a link or a pipe in its place
        return False


def _hand_in(
    system: System, request: JobRequest, text: str, programs: Programs
) -> Submission:
    """Submit the script.  Return the job, or why there is none."""
    assert request.source is not None
    words, content = [*system.submit, request.source.path], ""
    if system.reads_stdin:
        words, content = [*system.submit], text
    without = system.overrides(request)
    answer = programs.run(words, content, SUBMIT_SECONDS, without)
    printed = f"{answer.errors}\n{answer.output}"
    job = system.parse(answer.output)
    if answer.status == 0 and job.number:
        return Submission(job)
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    told = "; ".join(lines[:3]) or f"{system.program} ended with {answer.status}"
    # Without an answer in time, the server may have taken the job all the same.
    is_late = answer.status == LATE or "timed out" in printed
    return Submission(JobId(""), told, may_be_queued=is_late or answer.status == 0)
