"""The command line of ``mpifarm log``.

Rules of this file: nothing is printed before all arguments are checked.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from mpifarm.audit.view import State, View, read_view
from mpifarm.commands.log.explain import Explainer
from mpifarm.commands.log.follow import follow
from mpifarm.commands.log.follow_many import TasksFollower
from mpifarm.commands.log.printer import Printed, Printer
from mpifarm.commands.log.task_sink import Style, TaskSink
from mpifarm.commands.subcommand import SubcommandParser, parse_id_word
from mpifarm.commands.target import add_target_arguments, find_target, patience_of
from mpifarm.errors import ExitStatus, InputError
from mpifarm.system.console import Console
from mpifarm.system.patience import as_storage_error, try_again

_DESCRIPTION = (
    "Print what tasks have written, all attempts of a task in the order of their"
    " starts, whatever --logs the farms had, also while farms run.  Name tasks by their"
    " ids (the first is 0), or all failed ones by --failed; without, all tasks are"
    " printed."
)
_EPILOG = (
    "Exit status: 0 all that is there was printed, 1 of several named tasks some, or"
    " all, have no output, 2 the task has no output, or the command line is wrong."
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
        _check_follow(attempt, last, failed=chosen.failed)
    if chosen.failed:
        view = try_again(lambda: read_view(target, environ), patience)
        taskids = _find_failed(view)
        if not taskids:
            console.print_error("no task has failed")
            return ExitStatus.ALL_FINISHED
    is_one = len(taskids) == 1 and not chosen.failed
    style = Style.PLAIN if is_one else Style.HEADING
    sink = TaskSink(Style.TAG if chosen.tag else style)
    printer = Printer(Explainer(target, environ, console), sink, last)
    try:
        if is_one:
            return _print_one(printer, taskids[0], attempt, follows=chosen.follow)
        return _print_several(printer, taskids, attempt, follows=chosen.follow)
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


def _print_one(
    printer: Printer, taskid: int, attempt: int | None, *, follows: bool
) -> ExitStatus:
    if follows:
        follow(printer, taskid)
    else:
        printer.print_task(taskid, attempt)
    return ExitStatus.ALL_FINISHED


def _print_several(
    printer: Printer, taskids: list[int], attempt: int | None, *, follows: bool
) -> ExitStatus:
    """Print several tasks, or all without `taskids`."""
    if follows:
        printed = _follow(printer, taskids)
    elif taskids:
        printed = printer.print_tasks(taskids, attempt)
    else:
        total = printer.explainer.locator().total
        if not total:
            printer.explainer.complain("the list has no task yet")
        printed = printer.print_tasks(range(total), attempt)
    # Of tasks that nobody has named, some may not have begun.
    is_all = printed.all_read and (printed.all_there or not taskids)
    return ExitStatus.ALL_FINISHED if is_all else ExitStatus.SOME_FAILED


def _follow(printer: Printer, taskids: list[int]) -> Printed:
    """Follow several tasks, or all without `taskids`, also those that are added."""
    if not taskids:
        follower = TasksFollower(printer, lambda locator: range(locator.total))
        return follower.run(awaits_farms=True)
    known, beyond = printer.explainer.split_known(taskids)
    if beyond:
        printer.explainer.complain(beyond)
    printed = TasksFollower(printer, lambda _: known).run(awaits_farms=False)
    return printed._replace(all_there=printed.all_there and not beyond)


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("log", _DESCRIPTION)
    parser.epilog = _EPILOG
    parser.is_intermixed = True
    add_target_arguments(parser, after="ID")
    parser.add_argument(
        "ids",
        metavar="ID",
        nargs="*",
        default=[],
        help="the id of a task, or of several, as 3,7-9 (default: all tasks)",
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
        "--tag",
        action="store_true",
        help="begin each line with the id of its task and a tab, in place of headings",
    )
    parser.add_argument(
        "--follow",
        "-f",
        action="store_true",
        help="go on with what tasks write, until they have ended or no farm that runs"
        " has them; a task in no file is followed until Ctrl-C",
    )
    chosen = parser.parse_args(argv)
    if chosen.ids and chosen.failed:
        parser.error("--failed stands in place of ids: leave out one of the two")
    return chosen


def _check_follow(attempt: int | None, last: int | None, *, failed: bool) -> None:
    if failed:
        raise InputError(
            "-f (--follow) follows tasks until they end, and failed ones have ended:"
            " leave out --failed, or -f"
        )
    if last is not None:
        raise InputError("-f (--follow) shows all of the output: leave out --last")
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
