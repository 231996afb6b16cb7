"""``mpifarm retry``: failed tasks go back to those to be processed.

Rules of this file: arguments and words; `workdir.retrying` does it.
"""

import shlex
from collections.abc import Mapping
from typing import Any

from mpifarm.arguments import SubcommandParser
from mpifarm.console import Console
from mpifarm.errors import ExitStatus, InputError
from mpifarm.place import (
    Place,
    add_place_arguments,
    farm_words_of,
    find_existing_lock,
    find_lock,
    find_place,
    has_own_state,
    read_tasks,
    words_of,
)
from mpifarm.workdir.claims import DamagedClaimError, parse_ids
from mpifarm.workdir.examining import observer
from mpifarm.workdir.retrying import (
    Retried,
    Wanted,
    rehearse,
    retry,
    shorten_ids,
    spread_status,
)

_DESCRIPTION = (
    "Put failed tasks back into toprocess, so that farms run them again: those that run"
    " now, or the next one.  Without --ids and --status: all that failed."
)


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """The subcommand; raises `InputError` and `StorageError`."""
    chosen = _parse(argv)
    place = find_place(chosen)
    wanted = Wanted(_parse_ids(chosen.ids), _parse_statuses(chosen.status))
    tasks = read_tasks(place, environ)
    if tasks is None:
        raise InputError(
            f"a retry in {place.workdir} needs its tasklist: name it with --list FILE"
        )
    if has_own_state(tasks, place):
        raise InputError(
            f"the tasklist handler {place.handler!r} keeps by itself what is done, and"
            " mpifarm has no way to tell it that a task is to run again"
        )
    lock = find_lock(place, environ)
    if find_existing_lock(place, environ) is None:
        # Nobody is at work; what is wrong is told before a lock file is made.
        rehearse(place.workdir, tasks.tasks, observer(), wanted)
    lock.probe()
    retried = retry(place.workdir, tasks.tasks, lock, observer(), wanted)
    for line in report(place, wanted, retried):
        console.say(line)
    return ExitStatus.ALL_FINISHED


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("retry", _DESCRIPTION)
    add_place_arguments(parser)
    parser.add_argument(
        "--failed",
        action="store_true",
        help="all that failed; so it is without --ids and --status as well",
    )
    parser.add_argument(
        "--ids", metavar="IDS", help="only these, as 3,7-9; each must have failed"
    )
    parser.add_argument(
        "--status",
        metavar="STATUS",
        help="only those whose last attempt ended so, as 1 or 2,137; -9 and 137 are the"
        " same: killed by signal 9",
    )
    return parser.parse_args(_joined(argv))


def _joined(argv: list[str]) -> list[str]:
    """``--status -9,-15`` as one word, for the list looks like an option."""
    words: list[str] = []
    for word in argv:
        if (
            words
            and words[-1] == "--status"
            and word[:1] == "-"
            and word[1:2].isdigit()
        ):
            words[-1] = f"--status={word}"
        else:
            words.append(word)
    return words


def _parse_ids(text: str | None) -> frozenset[int] | None:
    if text is None:
        return None
    try:
        ids = parse_ids(text.replace(" ", ""))
    except DamagedClaimError:
        ids = []
    ranges = (each.partition("-")[::2] for each in text.split(","))
    if not ids or any(last and int(last) < int(first) for first, last in ranges):
        raise InputError(f"--ids takes ids and ranges, as 3,7-9, not {text!r:.60}")
    return frozenset(ids)


def _parse_statuses(text: str | None) -> frozenset[int] | None:
    if text is None:
        return None
    statuses: set[int] = set()
    for word in text.split(","):
        number = word.strip().removeprefix("-")
        if not (number.isdecimal() and number.isascii()) or int(number[:9]) > 255:
            raise InputError(
                f"--status takes exit statuses, as 1 or 137, not {text!r:.60}"
            )
        if not int(number):
            raise InputError("no task has failed with exit status 0")
        statuses |= spread_status(int(word))
    return frozenset(statuses)


def report(place: Place, wanted: Wanted, retried: Retried) -> list[str]:
    """What was done, and how to go on."""
    count = len(retried.moved)
    if count:
        tasks = "task" if count == 1 else "tasks"
        command = shlex.join(["mpifarm", *farm_words_of(place)])
        lines = [
            f"{count} {tasks} put back into toprocess: {shorten_ids(retried.moved)}"
        ]
        lines.append(f"to run them, if no farm is at work: {command}")
    else:
        all_of_them = wanted.ids is None and wanted.statuses is None
        lines = ["nothing failed" if all_of_them else "no failed task ended so"]
    if retried.held:
        repair = shlex.join(["mpifarm", "check", "--repair", *words_of(place)])
        lines.append(
            f"left alone, since a farm has claimed them: {shorten_ids(retried.held)}"
            f" (if it is dead: {repair})"
        )
    if retried.unknown:
        lines.append(
            f"{len(retried.unknown)} failed tasks have no status in attempts.tsv, for"
            f" another farmer ran them: {shorten_ids(retried.unknown)}"
        )
    return lines
