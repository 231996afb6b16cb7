"""``mpifarm add``: tasks are added to the end of a tasklist, also while it is farmed.

Rules of this file: arguments and words; `mpifarm.store.adding` writes the lines.  All
that can be wrong is told before anything is written.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from mpifarm.audit.farms import Farm, Life, read_claimed
from mpifarm.audit.snapshot import observer, read_claims
from mpifarm.commands.argument_words import SEPARATORS, split_line
from mpifarm.commands.farm_command import (
    find_farm_command,
    find_remap_command,
    find_wait,
)
from mpifarm.commands.subcommand import SubcommandParser, parse_id_word
from mpifarm.commands.target import (
    add_target_arguments,
    ask_for_list,
    find_target,
    patience_of,
)
from mpifarm.database.names import is_database_name
from mpifarm.errors import ExitStatus, InputError
from mpifarm.farm.arguments import warn_of_options
from mpifarm.farm.kinds import name_limits
from mpifarm.farm.standard_input import make_list_of
from mpifarm.model.id_ranges import encode_ids
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import Arguments
from mpifarm.model.task import decode_text, encode_text
from mpifarm.model.wording import agree
from mpifarm.order.directives import kind_of
from mpifarm.store import adding
from mpifarm.store.adding import ListEnd
from mpifarm.store.farm_file import find_last_farm_file
from mpifarm.store.fingerprint import parse_fingerprint
from mpifarm.store.target import (
    SUFFIX,
    Target,
    find_lock,
    find_workdir_of_kept,
    is_database,
    refuse_status_file,
)
from mpifarm.system import files
from mpifarm.system.console import Console
from mpifarm.system.patience import try_again
from mpifarm.tasklists import ListReader

MAX_SHOWN: Final = 3
"""Tasks whose commands are shown."""

LOCK_SECONDS: Final = 60.0
"""Seconds that an adder waits for the lock."""

_DESCRIPTION = (
    "Add tasks to the end of a tasklist, each command a line, and print their ids.  A"
    " farm that works on the list takes them up within two seconds."
)
_EPILOG = (
    "A command in front of ::: is a task for each argument, as for mpifarm itself.  "
    "Without a command, or with -, commands are read from standard input, one a line."
    "  Exit status: 0, the tasks are in the list; 2 the command line or an input is"
    " wrong, and nothing was written; 75 the disk fails."
)


class Added(NamedTuple):
    """Tasks that are in the list now.

    `commands` are theirs.  `was_killed`: an earlier adder of the same lines was killed,
    and had begun.
    """

    ids: list[int]
    commands: Sequence[bytes]
    was_killed: bool = False


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm add``: append commands to a list, and print their ids.

    Raises `InputError` and `StorageError`.
    """
    chosen, arguments = _parse(argv)
    patience = patience_of(console.print_error)
    target = try_again(lambda: _find_list(chosen, environ), patience)
    after = "" if chosen.after is None else _parse_after(chosen.after)
    given = _make(arguments) if arguments else _find_commands(chosen)
    commands = [*_check(given, target.tasklist or "")]
    if after:
        _check_are_no_ids(
            after, arguments.command[:1] if arguments else chosen.commands
        )
    if not commands:
        raise InputError("no command is given: there is nothing to add")
    if arguments and arguments.like_option:
        console.print_error(warn_of_options(arguments.like_option))
    tell = _Teller(console, target, as_json=chosen.json)
    if is_database(target, environ):
        _add_rows(target, environ, commands, after, tell)
    else:
        _add(target, environ, commands, after, tell)
    return ExitStatus.ALL_FINISHED


def _parse(argv: list[str]) -> tuple[Any, Arguments | None]:
    """Return the choices, and the command with arguments that makes the tasks."""
    parser = SubcommandParser("add", _DESCRIPTION)
    parser.usage = (
        "mpifarm add [options] WORKDIR COMMAND ...\n"
        "       mpifarm add [options] WORKDIR COMMAND ::: ARGUMENT ..."
    )
    parser.epilog = _EPILOG
    add_target_arguments(parser)
    parser.add_argument(
        "commands",
        metavar="COMMAND",
        nargs="*",
        help="the command of a task, in quotes; -: read standard input",
    )
    parser.add_argument(
        "--file", metavar="FILE", help="read the commands from a file, one a line"
    )
    parser.add_argument(
        "--after",
        metavar="IDS",
        help="the tasks start only when these have finished, as 3,7-9",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object in place of sentences"
    )
    parser.is_intermixed = True
    if not any(word in SEPARATORS for word in argv):
        return parser.parse_args(argv), None
    options = parser.list_options()
    words, arguments = split_line(
        argv, lambda word, _: int(options.get(word, False)), options, in_front=1
    )
    chosen = parser.parse_args([*words])
    if chosen.file is not None:
        raise InputError("give either a command with arguments or --file FILE")
    return chosen, arguments


def _make(arguments: Arguments) -> Iterator[str]:
    """Yield the commands that a command and its arguments make."""
    yield from _split_lines(make_list_of(arguments, lambda: None))


def _parse_after(word: str) -> str:
    """Return the ids of ``--after``; raise `InputError` for a command in its place."""
    if re.search(r"[^0-9,\s-]", word) or not word.strip():
        raise InputError(f"--after takes ids, as 3,7-9, not {_shorten(word)}")
    return encode_ids({*parse_id_word(word)})


def _check_are_no_ids(after: str, words: Sequence[str]) -> None:
    """Raise `InputError` for commands that seem to be more ids for ``--after``."""
    if ids := [word for word in words if word.strip("0123456789,-") == ""]:
        raise InputError(
            f"{ids[0]!r} would be a task, and is no command: give all ids in one word,"
            f" --after {','.join([after, *ids])}"
        )


# ---- the list -----------------------------------------------------------------------


def _find_list(chosen: Any, environ: Mapping[str, str]) -> Target:
    """Return workdir and list; raise `InputError` for a list that can't be added to."""
    if not is_database_name(chosen.workdir):
        _refuse_command_first(chosen)
        _check_begun(chosen)
    target = find_target(chosen, environ)
    with suppress(InputError):  # an unknown handler is told below
        if is_database(target, environ):
            return target
    last = find_last_farm_file(WorkdirPaths(os.path.abspath(target.workdir)))
    tasklist = target.tasklist
    is_named = chosen.tasklist is not None or os.path.isfile(chosen.workdir)
    if not is_named and _is_another_list(last.get("tasklist", ""), tasklist):
        tasklist = last["tasklist"]
    if tasklist is None:
        way = ask_for_list(target.workdir)
        raise InputError(f"{target.workdir} names no tasklist{way}")
    if target.handler != "default":
        raise InputError(
            f"{tasklist} is read by the handler {target.handler!r}, which alone knows"
            " what a task is there: add to it as that handler wants it"
        )
    _check_file(tasklist)
    return target._replace(tasklist=tasklist)


def _is_another_list(named: str, tasklist: str | None) -> bool:
    """Return whether the list that a farm has named is there, and not `tasklist`."""
    if not os.path.isfile(named):
        return False
    return tasklist is None or not os.path.samefile(named, tasklist)


def _check_begun(chosen: Any) -> None:
    """Raise `InputError` for a list that no farm has begun: it is any text file yet."""
    named = chosen.workdir
    is_list = chosen.tasklist is None and os.path.isfile(named)
    is_begun = os.path.isdir(named + SUFFIX) or find_workdir_of_kept(named) is not None
    if is_list and not is_begun:
        refuse_status_file(named)
        name = shlex.quote(named)
        raise InputError(
            f"no workdir {named}{SUFFIX}: no farm has run this list, so append the line"
            f" to {named} yourself, or start mpifarm {name} first.  If you used"
            f" --workdir DIR, run: {chosen.example} --list {name} 'COMMAND'"
        )


def _refuse_command_first(chosen: Any) -> None:
    """Raise `InputError` for a command in the place of a list, and the list behind."""
    words: list[str] = [chosen.workdir, *chosen.commands]
    *commands, last = words
    is_list = any(map(os.path.exists, (chosen.workdir, chosen.workdir + SUFFIX)))
    if commands and not is_list and os.path.isdir(last + SUFFIX):
        line = shlex.join(["mpifarm", "add", last, *commands])
        raise InputError(f"the list stands first: {line}")


def _check_file(tasklist: str) -> None:
    """Raise `InputError` for a list that is no file, or not to be written."""
    if not os.path.lexists(tasklist):
        raise InputError(f"there is no tasklist {tasklist}: nothing can be added to it")
    if not os.path.isfile(tasklist):
        raise InputError(f"{tasklist} is not a file: nothing can be added to it")
    if not os.access(tasklist, os.R_OK | os.W_OK):
        raise InputError(
            f"you may not write to the tasklist {tasklist}: ask its owner, or change"
            " its permissions"
        )


# ---- the commands -------------------------------------------------------------------


def _find_commands(chosen: Any) -> Iterator[str]:
    """Yield the commands that are given, or those of a file or standard input."""
    words: list[str] = chosen.commands
    if chosen.file is not None and words:
        raise InputError("give either commands or --file FILE, not both")
    if chosen.file is not None:
        yield from _read_lines(chosen.file)
    elif words and words != ["-"]:
        yield from words
    elif not words and os.isatty(0):
        raise InputError(
            "no command is given: name it in quotes, or - to read standard input"
        )
    else:
        yield from _split_lines(sys.stdin.buffer.read())


def _read_lines(path: str) -> Iterator[str]:
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    yield from _split_lines(content)


def _split_lines(content: bytes) -> Iterator[str]:
    """Yield the lines, without blank ones."""
    text = decode_text(content).replace("\r\n", "\n").replace("\r", "\n")
    yield from (line for line in text.split("\n") if line.strip())


def _check(commands: Iterable[str], tasklist: str) -> Iterator[bytes]:
    """Yield each command as its line has it; raise `InputError` for one that is none.

    Directives are for whoever writes the list.
    """
    for command in commands:
        text = command.strip()
        if text.startswith(("#BARRIER", "#AFTER")):
            raise InputError(
                f"{_shorten(text)} is no command: write the line into {tasklist}"
                " yourself; to let what is added wait, use --after"
            )
        if fault := _find_fault(text):
            raise InputError(f"the command {_shorten(command)} {fault}")
        yield encode_text(text)


def _find_fault(text: str) -> str:
    if not text:
        return "is empty: name a command"
    if "\0" in text:
        return "has a NUL byte in it, which no command can have"
    if "\n" in text or "\r" in text:
        return "has a line break in it, and a task is one line: join its lines by ;"
    if text.startswith("#"):
        return "begins with #, which makes a comment of it in a list"
    return ""


def _shorten(text: str) -> str:
    return repr(_cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


# ---- adding -------------------------------------------------------------------------


def _add(
    target: Target,
    environ: Mapping[str, str],
    commands: Sequence[bytes],
    after: str,
    tell: "_Teller",
) -> None:
    """Append the commands under the lock, and tell their ids before that is given up.

    What an adder that was killed has begun is finished before.
    """
    assert target.tasklist is not None
    paths = WorkdirPaths(os.path.abspath(target.workdir))
    end = ListEnd(os.path.realpath(target.tasklist))
    _read(end)  # the long way, without the lock
    _refuse_edited(end, paths, target)
    lock = find_lock(target, environ)
    lock.probe()
    with lock.hold(LOCK_SECONDS):
        before = adding.find_unfinished(paths, end.path)
        _read(end)
        wanted = adding.compose(end, commands, after)
        if before is not None:
            ids = adding.finish(before)
            _read(end)
            if before.is_like(wanted):
                tell(Added(ids, commands, was_killed=True))
                adding.forget(paths)
                return
            wanted = adding.compose(end, commands, after)
        _check_order(target.tasklist, end, commands, after)
        adding.add(paths, wanted)
        # Before `adding` is removed: whoever has seen no ids gives the same again.
        tell(Added(adding.find_ids(wanted), commands))
        adding.forget(paths)


def _add_rows(
    target: Target,
    environ: Mapping[str, str],
    commands: Sequence[bytes],
    after: str,
    tell: "_Teller",
) -> None:
    """Insert the commands into a database, and tell their ids under the lock."""
    from mpifarm.store import database_changes as changes  # imports sqlite3

    lock = find_lock(target, environ)
    lock.probe()
    ids = parse_id_word(after) if after else []
    with changes.opened(target.tasklist or "", lock) as connection:
        added, was_killed = changes.add_rows(connection, commands, ids)
        tell(Added(added, commands, was_killed=was_killed))
        changes.forget_added(connection)


def _read(end: ListEnd) -> None:
    try:
        end.read()
    except OSError as error:
        raise InputError(f"can't read {end.path}: {error.strerror}") from error


def _refuse_edited(end: ListEnd, paths: WorkdirPaths, target: Target) -> None:
    """Raise `InputError` for an edited list, of which farms take up no more lines."""
    stored = parse_fingerprint(files.find_content(paths.fingerprint) or b"")
    if stored is None or not end.is_edited(stored):
        return
    raise InputError(
        f"{target.tasklist} was edited since {target.workdir} was begun, and no farm"
        " takes up what is added to an edited list: undo the edit, or"
        f" {find_wait(target)}give {find_remap_command(target)}, and then add"
    )


def _check_order(
    tasklist: str, end: ListEnd, commands: Sequence[bytes], after: str
) -> None:
    """Raise `InputError` for ids that are not in the list, or a broken prefix."""
    ids = parse_id_word(after) if after else []
    if ids and max(ids) >= end.total:
        tasks = f"ids 0 to {end.total - 1}" if end.total else "no tasks yet"
        raise InputError(
            f"--after names task {max(ids)}, and {tasklist} has {tasks}: a task can"
            " only wait for one that is in the list"
        )
    ListReader("what is added", tasks=end.total).take(b"\n".join([*commands, b""]))


# ---- words --------------------------------------------------------------------------


class _Teller:
    """What is said of the tasks that were added."""

    def __init__(self, console: Console, target: Target, *, as_json: bool) -> None:
        self._console = console
        self._target = target
        self._as_json = as_json

    def __call__(self, added: Added) -> None:
        found = find_farms(self._target)
        farms = [farm for farm in found if takes_up(farm)]
        others = [farm for farm in found if not takes_up(farm)]
        command = find_farm_command(self._target)
        if self._as_json:
            record = {
                "workdir": self._target.workdir,
                "list": self._target.tasklist,
                "tasks": encode_ids(added.ids),
                "count": len(added.ids),
                "was_killed": added.was_killed,
                "farms": [farm.farm for farm in farms],
                "no_limit": _find_unlimited(added, farms),
                "command": None if farms else command,
            }
            self._console.print_text(json.dumps(record) + "\n")
            return
        for line in describe(added, self._target, farms, others, command):
            self._console.print_line(line)


def find_farms(target: Target) -> list[Farm]:
    """Return the farms of a workdir that live, or may."""
    paths = WorkdirPaths(os.path.abspath(target.workdir))
    claims = read_claims(paths.root, observer())
    return [farm for farm in read_claimed(paths, claims) if farm.lives]


def takes_up(farm: Farm) -> bool:
    """Return whether a farm takes up what is added to its list."""
    if farm.life is not Life.LIVES or farm.report is None:
        return False
    return farm.report.grows and farm.report.phase == "working"


def describe(
    added: Added,
    target: Target,
    farms: Sequence[Farm],
    others: Sequence[Farm],
    command: str,
) -> Iterator[str]:
    """Yield the sentences about tasks that were added, and about who runs them."""
    count = len(added.ids)
    tasks = f"{agree(count, 'task', 'tasks')} {encode_ids(added.ids)}"
    was = agree(count, "was", "were")
    if added.was_killed:
        yield (
            f"{tasks} {was} added to {target.tasklist} by an earlier mpifarm add of"
            " the same, which was killed: nothing was added twice"
        )
    else:
        yield f"{tasks} {was} added to {target.tasklist}"
    if count > 1:
        yield from _show(added)
    them = agree(count, "it", "them")
    for farm in farms:
        where = f" on {farm.report.host}" if farm.report else ""
        yield f"farm {farm.farm}{where} {_explain_taking(added, farm)}"
    if kinds := _find_unlimited(added, farms):
        options = name_limits(kinds)
        yield f"no running farm has that limit: start one with {options} beside it"
    for farm in others:
        yield f"farm {farm.farm} {_explain_other(farm)}"
    if not farms:
        lacks = [kind for kind in _find_kinds(added) if f"{kind}=" not in command]
        options = f" with {name_limits(lacks)}" if lacks else ""
        runs = f"{command}{options} runs {them}"
        yield f"no farm is known to take {them} up: {runs}"


def _explain_taking(added: Added, farm: Farm) -> str:
    """Return what a farm does with tasks that were added.

    It starts none of a kind for which it has no limit.
    """
    count = len(added.ids)
    them = agree(count, "it", "them")
    kinds = _find_unlimited(added, [farm])
    if not kinds:
        return f"takes {them} up"
    what = f"{agree(len(kinds), 'kind', 'kinds')} {', '.join(map(repr, kinds))}"
    if all(_kind_of(each) in kinds for each in added.commands):
        return f"leaves {them} waiting: it has no limit for the {what}"
    return f"takes them up, but leaves those of the {what} waiting: it has no limit"


def _find_unlimited(added: Added, farms: Sequence[Farm]) -> list[str]:
    """Return the kinds of added tasks for which none of these farms has a limit."""
    limits = [farm.report.limits for farm in farms if farm.report is not None]
    if not limits or None in limits:
        return []
    limited = {name for names in limits for name in names or ()}
    return [kind for kind in _find_kinds(added) if kind not in limited]


def _find_kinds(added: Added) -> list[str]:
    """Return the kinds of added tasks, each once."""
    return [*filter(None, dict.fromkeys(map(_kind_of, added.commands)))]


def _kind_of(command: bytes) -> str:
    return kind_of(decode_text(command))


def _show(added: Added) -> Iterator[str]:
    """Yield a line for each of the first tasks: who forgot quotes sees it here."""
    for taskid, command in zip(added.ids[:MAX_SHOWN], added.commands, strict=False):
        yield f"task {taskid}: {_cut(decode_text(command))}"
    if (more := len(added.ids) - MAX_SHOWN) > 0:
        yield f"and {more} more"


def _explain_other(farm: Farm) -> str:
    """Return why a farm that lives is not known to take up what is added."""
    report = farm.report
    if report is None:
        return "has said nothing of itself yet: it may take up what is added"
    if farm.life is not Life.LIVES:
        return "is silent: it may take up what is added, if it lives"
    if report.phase != "working":
        return f"is {report.phase}: it takes nothing up any more"
    return "takes nothing up: its list is not one that grows, or its version is older"
