"""``mpifarm ls``: the tasks of a workdir as a table, as ids, or as JSON.

Rules of this file: arguments and words; `mpifarm.audit.selection` chooses the tasks.
"""

import time
from collections.abc import Mapping
from typing import Any, Final

from mpifarm.audit.selection import Conditions, select
from mpifarm.audit.view import State, View, read_view
from mpifarm.commands.ls_json import format_json
from mpifarm.commands.ls_table import format_tasks
from mpifarm.commands.option_values import SECONDS, parse_seconds
from mpifarm.commands.sink import write_all
from mpifarm.commands.statuses import join_statuses, parse_statuses
from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.commands.table import find_width
from mpifarm.commands.target import add_target_arguments, find_target, patience_of
from mpifarm.errors import ExitStatus, InputError
from mpifarm.model.id_ranges import encode_ids
from mpifarm.system.console import Console
from mpifarm.system.patience import try_again

_DESCRIPTION = (
    "List the tasks of a workdir, also while farms run: the id, the state and the"
    " command of each, and how, where and when its last attempt ran.  Several options"
    " choose the tasks that fulfil all of them; --failed --waiting together choose both"
    " kinds."
)
_EPILOG = (
    "States: finished; failed; running (its farm says so); claimed (a farm that lives"
    " has taken it: it is about to run, or has just begun); waiting; held (it waits"
    " until mpifarm release lets it start); orphaned (its farm has died, and the next"
    " start takes it back); nowhere (a PyTaskFarmer has it, or has lost it)."
    '  Example: mpifarm retry LIST --ids "$(mpifarm ls LIST --failed --status 3'
    ' --ids)".  Exit status: 0 tasks were listed, 1 no task is such, 2 the command line'
    " is wrong."
)

_STATES: Final = {
    "failed": frozenset({State.FAILED}),
    "finished": frozenset({State.FINISHED}),
    "running": frozenset({State.RUNNING, State.CLAIMED}),
    "waiting": frozenset({State.WAITING, State.HELD, State.ORPHANED}),
    "held": frozenset({State.HELD}),
}
"""The states that each option chooses."""

_IN_WORDS: Final = {
    "failed": "has failed",
    "finished": "is finished",
    "running": "is running",
    "waiting": "is waiting",
    "held": "is held",
}
"""What is true of a task that one of these options chooses."""

_MAY_HAVE_ENDED: Final = (State.FINISHED, State.FAILED, State.UNKNOWN)
"""The states of tasks that a PyTaskFarmer, which keeps no attempts, may have ended."""


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm ls``.  Return 0, or 1 if there is no such task.

    Raises `InputError` and `StorageError`.
    """
    chosen = _parse(argv)
    wanted = _conditions(chosen)
    patience = patience_of(console.print_error)
    target = try_again(lambda: find_target(chosen, environ), patience)
    view = try_again(lambda: read_view(target, environ), patience)
    _refuse_unknown(view, wanted)
    now = time.time()
    selection = try_again(
        lambda: select(view, wanted, now, with_attempts=not chosen.ids), patience
    )
    for warning in view.warnings():
        console.print_error(warning)
    if not (selection.taskids or chosen.json):
        console.print_error(_none_found(view, wanted, chosen))
    if chosen.ids:
        pieces = iter([f"{encode_ids(selection.taskids)}\n".encode()])
    elif chosen.json:
        pieces = format_json(view, selection, now)
    else:
        pieces = format_tasks(view, selection, now, find_width())
    if selection.taskids or chosen.json:
        write_all(pieces)
    return ExitStatus.ALL_FINISHED if selection.taskids else ExitStatus.SOME_FAILED


# ---- arguments ----------------------------------------------------------------------


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("ls", _DESCRIPTION)
    parser.epilog = _EPILOG
    add_target_arguments(parser)
    for name, what in (
        ("failed", "only tasks that have failed"),
        ("finished", "only tasks that have finished"),
        ("running", "only tasks that farms have taken: running and claimed ones"),
        (
            "waiting",
            "only tasks that are still to run: waiting, held and orphaned ones",
        ),
        ("held", "only tasks that wait until mpifarm release lets them start"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=what)
    parser.add_argument(
        "--slowest",
        metavar="N",
        help="only the N tasks whose last attempts took longest, the longest first",
    )
    parser.add_argument(
        "--host",
        metavar="HOST",
        help="only tasks whose last attempt was on this host; a pattern may match"
        " several: 'node0*'",
    )
    parser.add_argument(
        "--longer-than",
        metavar="TIME",
        help="only tasks whose last attempt took longer: seconds, or as 90s, 5m, 1.5h",
    )
    parser.add_argument(
        "--status",
        metavar="STATUS",
        help="only tasks whose last attempt ended with this status, as 1 or 2,137;"
        " -9 and 137 both mean killed by signal 9",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--ids",
        action="store_true",
        help="print only the ids, as 3,7-9, for --ids of mpifarm retry",
    )
    form.add_argument("--json", action="store_true", help="print JSON, for programs")
    return parser.parse_args(join_statuses(argv))


def _conditions(chosen: Any) -> Conditions:
    states = [states for name, states in _STATES.items() if getattr(chosen, name)]
    if chosen.host == "":
        raise InputError("--host needs the name of a host: is a variable not set?")
    return Conditions(
        frozenset().union(*states) if states else None,
        chosen.host,
        None if chosen.longer_than is None else parse_duration(chosen.longer_than),
        None if chosen.status is None else parse_statuses(chosen.status),
        None if chosen.slowest is None else _parse_count(chosen.slowest),
    )


def parse_duration(text: str) -> float:
    """Return the seconds of ``--longer-than``; a blank may stand before the unit.

    Raises `InputError`.
    """
    try:
        return parse_seconds(text.replace(" ", ""))
    except ValueError:
        raise InputError(
            f"--longer-than takes {SECONDS.takes}, not {text!r:.60}"
        ) from None


def _parse_count(text: str) -> int:
    if not (text.isdecimal() and text.isascii()) or not int(text[:9]):
        raise InputError(
            f"--slowest takes a number of tasks, 1 or more, not {text!r:.60}"
        )
    return int(text[:9])


def _refuse_unknown(view: View, wanted: Conditions) -> None:
    """Raise `InputError` for states that only the tasklist itself knows."""
    if view.has_own_state and wanted.states is not None:
        raise InputError(
            f"the tasklist handler {view.target.handler!r} keeps the state of the tasks"
            " itself: leave out --failed, --finished, --running, --waiting and --held"
        )


def _none_found(view: View, wanted: Conditions, chosen: Any) -> str:
    if not view.total:
        return f"{view.target.workdir} has no tasks"
    is_one = view.total == 1
    subject = (
        "the only task is not one that" if is_one else f"none of {view.total} tasks"
    )
    sentence = f"{subject} {_describe_wanted(chosen)}"
    if not wanted.need_attempts or view.read_attempts().lines:
        return sentence
    if view.live_farms:
        rest = " yet: no attempt has ended; a farm works: ask again in some seconds"
    elif any(view.counts[state] for state in _MAY_HAVE_ENDED):
        rest = ": attempts.tsv has no attempts, because no mpifarm has run any"
    else:
        rest = " yet: no attempt has ended"
    return sentence + rest


def _describe_wanted(chosen: Any) -> str:
    """Return what is true of the tasks that are wanted, and of no others."""
    states = [words for name, words in _IN_WORDS.items() if getattr(chosen, name)]
    last = [
        f"on {chosen.host}" if chosen.host is not None else "",
        f"longer than {chosen.longer_than}" if chosen.longer_than is not None else "",
        f"with status {chosen.status}" if chosen.status is not None else "",
    ]
    if any(last):
        attempt = f"has a last attempt {', '.join(filter(None, last))}"
    else:
        attempt = "has a known duration" if chosen.slowest is not None else ""
    return " and ".join(filter(None, [" or ".join(states), attempt]))
