"""The command line of ``mpifarm log``.

Rules of this file: nothing is shown before all arguments are checked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mpifarm.arguments import SubcommandParser
from mpifarm.console import Console
from mpifarm.errors import ExitStatus, InputError
from mpifarm.log.follow import follow
from mpifarm.log.show import Show, Sink
from mpifarm.log.words import Words
from mpifarm.place import add_place_arguments, find_place
from mpifarm.workdir.claims import MOST_IDS, DamagedClaimError, parse_ids

_DESCRIPTION = (
    "Print what tasks have written, all attempts of each in the order of their starts,"
    " whatever --logs the farms had; needs no MPI, and works while they run."
)
_EPILOG = (
    "Exit status: 0; 2 if there is nothing to print, with the reason; of several tasks,"
    " 1 if some, or all, had nothing."
)


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """The subcommand; raises `InputError`."""
    chosen = _parse(argv)
    place = find_place(chosen)
    taskids = _parse_taskids(chosen.ids)
    attempt = _parse_attempt(chosen.attempt)
    if chosen.follow:
        _check_follow(taskids, attempt)
    show = Show(Words(place, environ, console), Sink())
    try:
        return _show(show, taskids, attempt, follows=chosen.follow)
    except BrokenPipeError:
        return ExitStatus.ALL_FINISHED
    except OSError as error:
        what = error.filename or "an output"
        raise InputError(f"can't read {what}: {error.strerror}") from error


def _show(
    show: Show, taskids: list[int], attempt: int | None, *, follows: bool
) -> ExitStatus:
    if follows:
        follow(show, taskids[0])
    elif len(taskids) == 1:
        show.task(taskids[0], attempt)
    elif not show.several(taskids, attempt):
        return ExitStatus.SOME_FAILED
    return ExitStatus.ALL_FINISHED


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("log", _DESCRIPTION)
    parser.epilog = _EPILOG
    add_place_arguments(parser)
    parser.add_argument(
        "ids", metavar="ID", nargs="+", help="a task's id; or several, as 3,7-9"
    )
    parser.add_argument(
        "--attempt",
        metavar="N",
        help="only the N-th attempt of those that would be printed, whichever farm's;"
        " -1 is the last",
    )
    parser.add_argument(
        "--follow",
        "-f",
        action="store_true",
        help="go on with what is being written, next attempts included, until the task"
        " has ended or no live farm has it (one that is in no file is waited for until"
        " Ctrl-C); one task only",
    )
    return parser.parse_args(argv)


def _parse_taskids(words: Sequence[str]) -> list[int]:
    """The ids in the order in which they stand, each once."""
    taskids: dict[int, None] = {}
    for word in words:
        part = word.replace(" ", "").strip(",")
        try:
            found = parse_ids(part)
        except DamagedClaimError:
            found = []
        if not found:
            raise InputError(_explain_ids(word, part))
        taskids.update(dict.fromkeys(found))
    return [*taskids]


def _explain_ids(word: str, part: str) -> str:
    """Why `word` names no tasks."""
    count = 0
    for each in part.split(","):
        begin, dash, last = each.partition("-")
        if not (_is_number(begin) and (_is_number(last) or not dash)):
            return f"{word!r:.60} is no id of a task: write a number, or 3,7-9"
        first, end = int(begin), int(last or begin)
        if end < first:
            return f"the range {each} ends before it begins: write {end}-{first}"
        count += end - first + 1
    return f"{word!r:.60} names {count} tasks: {MOST_IDS} at a time are the most"


def _is_number(text: str) -> bool:
    return text.isdecimal() and text.isascii() and len(text) <= 15


def _check_follow(taskids: list[int], attempt: int | None) -> None:
    if len(taskids) > 1:
        raise InputError(
            f"-f (--follow) follows one task, and these are {len(taskids)}: name one"
        )
    if attempt is not None:
        raise InputError(
            "-f (--follow) shows all attempts and goes on with the next: leave out"
            " --attempt, or -f"
        )


def _parse_attempt(text: str | None) -> int | None:
    if text is None:
        return None
    digits = text.removeprefix("-")
    if not (digits.isdecimal() and digits.isascii()) or not int(digits[:9]):
        raise InputError(f"--attempt takes 1, 2, ... or -1 for the last, not {text!r}")
    return int(text[:9])
