"""``mpifarm joblog --gnu``: the attempts of a workdir as GNU parallel logs its jobs.

Rules of this file: the format is that of parallel(1), ``--joblog``; a job's number is
the task's id and 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
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
    target = try_again(lambda: find_target(chosen, environ), patience)
    view = try_again(lambda: read_view(target, environ), patience)
    for warning in view.warnings():
        console.print_error(warning)
    write_all(format_joblog(view))
    return ExitStatus.ALL_FINISHED


def _parse(argv: list[str]) -> Any:
    parser = SubcommandParser("joblog", _DESCRIPTION)
    parser.epilog = _EPILOG
    add_target_arguments(parser)
    parser.add_argument(
        "--gnu",
        action="store_true",
        help="the format of GNU parallel's --joblog; there is no other, so it may be"
        " left out (mpifarm's own is attempts.tsv in the workdir)",
    )
    return parser.parse_args(argv)


def format_joblog(view: View) -> Iterator[bytes]:
    """Yield the header, a line for each attempt, and one for each end without one.

    Raises `StorageError`.
    """
    yield _HEADER
    formatter = _Formatter(view)
    left = read_rows(view.paths)
    while rows := [*islice(left, _ROWS_AT_ONCE)]:
        yield formatter.format(rows)
    for state in (State.FINISHED, State.FAILED):
        has_finished = state is State.FINISHED
        for taskid in view.ids_in(state):
            if formatter.completed.get(taskid) is not has_finished:
                text = _in_one_line(encode_text(view.text(taskid)))
                status = b"0" if has_finished else b"1"
                yield _LINE % (
                    taskid + 1,
                    b":",
                    b"0.",
                    b"000",
                    0,
                    0,
                    status,
                    b"0",
                    text,
                )


_ROWS_AT_ONCE: Final = 1000
_LINE: Final = b"%d\t%b\t%b%b\t%10.3f\t0\t%d\t%b\t%b\t%b\n"


class _Formatter:
    """Makes lines of attempts.

    `completed` says of each task whether the last of them completed.
    """

    def __init__(self, view: View) -> None:
        self.completed: dict[int, bool] = {}
        self._view = view
        self._ends: dict[tuple[bytes, ...], tuple[bool, bytes, bytes]] = {}
        """The results of `_end`: most attempts end as others."""
        self._seconds: dict[bytes, bytes] = {}
        """Times: in a long file most lines have the second of another."""

    def format(self, rows: Sequence[list[bytes]]) -> bytes:
        """Return the lines of attempts; an odd row is no attempt."""
        try:
            return self._format(rows)
        except ValueError:
            if len(rows) == 1:
                return b""
            return b"".join([self.format([row]) for row in rows])

    def _format(self, rows: Sequence[list[bytes]]) -> bytes:
        # Column by column, because there may be a million rows.
        columns = [*zip(*rows, strict=True)]
        taskids = [*map(int, columns[Column.TASKID])]
        keys = zip(*columns[Column.OUTCOME : Column.HOST], strict=True)
        ends = [self._ends.get(key) or self._end(key) for key in keys]
        known, started = self._seconds, columns[Column.STARTED]
        received = [int(size or 0) for size in columns[Column.OUTPUT_BYTES]]
        commands = [
            self._command(taskid, text) if not text or b"\\" in text else text
            for taskid, text in zip(taskids, columns[Column.COMMAND], strict=True)
        ]
        parts = zip(
            taskids,
            columns[Column.HOST],
            [known.get(each[:19]) or self._second(each[:19]) for each in started],
            started,
            map(float, columns[Column.SECONDS]),
            received,
            ends,
            commands,
            strict=True,
        )
        lines = [
            _LINE
            % (
                *(taskid + 1, host or b":", second, start[20:23].rjust(3, b"0")),
                *(took, size, status, signum, command),
            )
            for taskid, host, second, start, took, size, end, command in parts
            for _, status, signum in [end]
        ]
        self.completed.update(zip(taskids, [end[0] for end in ends], strict=True))
        return b"".join(lines)

    def _end(self, fields: tuple[bytes, ...]) -> tuple[bool, bytes, bytes]:
        """Return whether an attempt completed, its status and its signal; keep them.

        Raises ValueError for odd fields.
        """
        outcome, status, signum = fields
        signal = int(signum)
        number = 0 if signal else int(status)
        is_completed = outcome == COMPLETED
        if not (number or signal or is_completed):
            number = -1  # as parallel has it for a job that it has ended itself
        end = self._ends[fields] = is_completed, b"%d" % number, b"%d" % signal
        return end

    def _command(self, taskid: int, field: bytes) -> bytes:
        """Return the command as it was run; attempts of before 0.5 do not have it."""
        text = unescape(field) if field else encode_text(self._view.text(taskid))
        return _in_one_line(text)

    def _second(self, field: bytes) -> bytes:
        """Return the second of a time, since the epoch, with a point behind it.

        Raises ValueError for no time.
        """
        second = b"%d." % int(parse_time(field + b"Z"))
        self._seconds[field] = second
        return second


def _in_one_line(command: bytes) -> bytes:
    # As parallel does it.
    return command.replace(b"\n", b"\0")
