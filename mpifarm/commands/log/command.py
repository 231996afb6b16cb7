"""The command line of ``mpifarm log``.

Rules of this file: nothing is printed before all arguments are checked.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from mpifarm.audit.view import State, View, read_view
from mpifarm.commands.log.explain import Explainer
from mpifarm.commands.log.follow import follow
from mpifarm.commands.log.printer import Printer
from mpifarm.commands.sink import Sink
from mpifarm.commands.subcommand import SubcommandParser, parse_id_word
from mpifarm.commands.target import add_target_arguments, find_target, patience_of
from mpifarm.errors import ExitStatus, InputError
from mpifarm.system.console import Console
from mpifarm.system.patience import as_storage_error, try_again

_DESCRIPTION = (
    "Print what tasks have written, all attempts of a task in the order of their"
    " starts, whatever --logs the farms had, also while farms run.  Name tasks by their"
    " ids, or all failed ones by --failed."
)
_EPILOG = (
    "Exit status: 0 all was printed, 1 of several tasks some, or all, have no output, 2"
    " the task has no output, or the command line is wrong."
)


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm log``: print the outputs of tasks.  Return the exit status.

    The status is 0, too, if the reader of standard output has closed it.  Raises
    `InputError` and `StorageError`.
    """
    chosen = _parse(argv)
    patience = patience_of(console.print_error)
    target = try_again(lambda: find_target(chosen, environ), patience)
    # In the order of the words, each once.
    taskids = [*dict.fromkeys(chain.from_iterable(map(parse_id_word, chosen.ids)))]
    attempt, last = _parse_attempt(chosen.attempt), _parse_last(chosen.last)
    if chosen.follow:
        _check_follow(taskids, attempt, last, failed=chosen.failed)
    if chosen.failed:
        view = try_again(lambda: read_view(target, environ), patience)
        taskids = _find_failed(view)
        if not taskids:
            console.print_error("no task has failed")
            return ExitStatus.ALL_FINISHED
    printer = Printer(Explainer(target, environ, console), Sink(), last)
    several = chosen.failed or len(taskids) > 1
    try:
        return _print(printer, taskids, attempt, follows=chosen.follow, several=several)
    except BrokenPipeError:
        return ExitStatus.ALL_FINISHED
    except OSError as error:
        if trouble := as_storage_error(error):
            raise trouble from error
        what = error.filename or "an output"
        raise InputError(f"can't read {what}: {error.strerror}") from error


def _find_failed(view: View) -> list[int]:
    """Return the failed tasks.

    Raises `InputError` if only the tasklist itself knows which have failed.
    """
    if view.has_own_state:
        raise InputError(
            f"--failed is impossible: the tasklist handler {view.target.handler!r}"
            " keeps the state of the tasks itself"
        )
    return view.ids_in(State.FAILED)


def _print(
    printer: Printer,
    taskids: list[int],
    attempt: int | None,
    *,
    follows: bool,
    several: bool,
) -> ExitStatus:
    if follows:
        follow(printer, taskids[0])
    elif not several:
        printer.print_task(taskids[0], attempt)
    elif not printer.print_tasks(taskids, attempt):
        return ExitStatus.SOME_FAILED
    return ExitStatus.ALL_FINISHED


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("log", _DESCRIPTION)
    parser.epilog = _EPILOG
    add_target_arguments(parser, after="ID")
    parser.add_argument(
        "ids",
        metavar="ID",
        # With *, argparse takes no id behind an option.
        nargs="*" if not {"--failed", "--help", "-h"}.isdisjoint(argv) else "+",
        help="the id of a task, or of several, as 3,7-9",
    )
    parser.add_argument(
        "--failed",
        action="store_true",
        help="the outputs of all failed tasks, in place of ids",
    )
    parser.add_argument(
        "--last",
        metavar="N",
        help="only the last N lines (of 1 MiB at most) of each task's last attempt",
    )
    parser.add_argument(
        "--attempt",
        metavar="N",
        help="print only the N-th attempt, -1 is the last; the attempts of all farms"
        " count",
    )
    parser.add_argument(
        "--follow",
        "-f",
        action="store_true",
        help="go on with what one task writes, until the task has ended or no farm that"
        " runs has it; a task in no file is followed until Ctrl-C",
    )
    chosen = parser.parse_args(argv)
    if chosen.ids and chosen.failed:
        parser.error("--failed stands in place of ids: leave out one of the two")
    return chosen


def _check_follow(
    taskids: list[int], attempt: int | None, last: int | None, *, failed: bool
) -> None:
    if failed:
        raise InputError("-f (--follow) follows one task: name it, without --failed")
    if last is not None:
        raise InputError("-f (--follow) shows all of the output: leave out --last")
    if len(taskids) > 1:
        raise InputError(
            f"-f (--follow) follows one task, and {len(taskids)} are named: name one"
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


def _parse_last(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isdecimal() and text.isascii()) or not int(text[:9]):
        raise InputError(f"--last takes a number of lines, 1 or more, not {text!r:.60}")
    return int(text[:9])
