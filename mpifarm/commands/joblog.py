"""``mpifarm joblog --gnu``: the attempts of a workdir as GNU parallel logs its jobs.

Rules of this file: the format is that of parallel(1), ``--joblog``; a job's number is
the task's id and 1.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mpifarm.audit.view import State, View, read_view
from mpifarm.commands.sink import write_all
from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.commands.target import add_target_arguments, find_target, patience_of
from mpifarm.errors import ExitStatus
from mpifarm.model.task import encode_text
from mpifarm.store.attempts import (
    COMPLETED,
    Column,
    parse_time,
    read_rows,
    unescape,
)
from mpifarm.system.console import Console
from mpifarm.system.patience import try_again

_DESCRIPTION = (
    "Print the attempts of a workdir in the format of GNU parallel's --joblog, so that"
    " its tools read them, and parallel --resume-failed --joblog FILE goes on with the"
    " same list.  Seq is the id of the task and 1.  A task that ended with a"
    " PyTaskFarmer, which keeps no times, has the time 0 and the status 0 or 1."
)
_EPILOG = (
    "parallel counts each line of its input: give it the list without comments and"
    " blank lines.  Exit status: 0, or 2 if the command line is wrong."
)
_HEADER: Final = (
    b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
)


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm joblog``.  Return the exit status.

    Raises `InputError` and `StorageError`.
    """
    chosen = _parse(argv)
    patience = patience_of(console.print_error)
    target = try_again(lambda: find_target(chosen), patience)
    view = try_again(lambda: read_view(target, environ), patience)
    for warning in view.warnings():
        console.print_error(warning)
    write_all(format_joblog(view))
    return ExitStatus.ALL_FINISHED


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("joblog", _DESCRIPTION)
    parser.epilog = _EPILOG
    add_target_arguments(parser, after="--gnu")
    parser.add_argument(
        "--gnu", action="store_true", help="the format of GNU parallel's --joblog"
    )
    chosen = parser.parse_args(argv)
    if not chosen.gnu:
        parser.error(
            "mpifarm joblog needs --gnu, for GNU parallel's format; mpifarm's own is"
            " attempts.tsv in the workdir"
        )
    return chosen


def format_joblog(view: View) -> Iterator[bytes]:
    """Yield the header, a line for each attempt, and one for each end without one.

    Raises `StorageError`.
    """
    yield _HEADER
    completed: dict[int, bool] = {}
    seconds = _Seconds()
    for fields in read_rows(view.paths):
        try:
            taskid = int(fields[Column.TASKID])
            line = _format_attempt(view, taskid, fields, seconds)
        except ValueError:  # an odd line, which is no attempt
            continue
        completed[taskid] = fields[Column.OUTCOME] == COMPLETED
        yield line
    for state in (State.FINISHED, State.FAILED):
        has_finished = state is State.FINISHED
        for taskid in view.ids_in(state):
            if completed.get(taskid) is not has_finished:
                text = _in_one_line(encode_text(view.text(taskid)))
                status = b"0" if has_finished else b"1"
                yield _join(taskid, b"", (b"0.000", 0.0, b"0", status, b"0"), text)


def _format_attempt(
    view: View, taskid: int, fields: list[bytes], seconds: "_Seconds"
) -> bytes:
    """Return the line of an attempt; raise ValueError for an odd one."""
    text = fields[Column.COMMAND]
    # The command as it was run; attempts of before 0.5 have none.
    command = unescape(text) if text else encode_text(view.text(taskid))
    signum = int(fields[Column.SIGNAL])
    status = 0 if signum else int(fields[Column.STATUS])
    if not (status or signum or fields[Column.OUTCOME] == COMPLETED):
        status = -1  # as parallel has it for a job that it has ended itself
    numbers = (
        seconds.parse(fields[Column.STARTED]),
        float(fields[Column.SECONDS]),
        b"%d" % int(fields[Column.OUTPUT_BYTES] or 0),
        b"%d" % status,
        b"%d" % signum,
    )
    return _join(taskid, fields[Column.HOST], numbers, _in_one_line(command))


def _join(
    taskid: int,
    host: bytes,
    numbers: tuple[bytes, float, bytes, bytes, bytes],
    command: bytes,
) -> bytes:
    started, seconds, received, status, signum = numbers
    return b"%d\t%b\t%b\t%10.3f\t0\t%b\t%b\t%b\t%b\n" % (
        *(taskid + 1, host or b":", started, seconds),
        *(received, status, signum, command),
    )


def _in_one_line(command: bytes) -> bytes:
    # As parallel does it.
    return command.replace(b"\n", b"\0")


class _Seconds:
    """A parser of times: in a long file most lines have the second of another."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def parse(self, field: bytes) -> bytes:
        """Return seconds since the epoch; raise ValueError."""
        text = field[:19]
        second = self._known.get(text)
        if second is None:
            second = self._known[text] = int(parse_time(text + b"Z"))
        return b"%d.%b" % (second, field[20:23].rjust(3, b"0"))
