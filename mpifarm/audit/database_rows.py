"""The tasks of a view as the rows of a database.

Rules of this file: a view in, rows out; it changes nothing but a new database.
"""

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from mpifarm.audit.view import State, View, is_of
from mpifarm.database import tasks as statements
from mpifarm.database.farming import PLAIN_FARMER
from mpifarm.database.schema import Connection
from mpifarm.database.tasks import NewTask, Row, TaskState
from mpifarm.errors import InputError
from mpifarm.model.id_ranges import encode_ids
from mpifarm.model.packed_texts import PackedTexts
from mpifarm.model.task import encode_text
from mpifarm.order.constraints import Constraints
from mpifarm.store.attempts import Column, LastAttempts
from mpifarm.store.database_reading import DatabaseTasks
from mpifarm.store.target import Target
from mpifarm.tasklists import ListTaskList, TaskList, find_constraints

AT_ONCE: Final = 1000
"""Tasks that are written together."""

_STATES: Final = {
    State.FINISHED: TaskState.FINISHED,
    State.FAILED: TaskState.FAILED,
    State.RUNNING: TaskState.RUNNING,
    State.CLAIMED: TaskState.RUNNING,
    State.NOWHERE: TaskState.RUNNING,
}
"""All others are to be run."""


class Commands:
    """The commands of a list, encoded, without the prefixes of their kinds."""

    def __init__(self, tasks: TaskList) -> None:
        self._tasks = tasks
        # In one piece, where the texts are the commands.
        is_plain = type(tasks) is ListTaskList and not find_constraints(tasks).kinds
        is_direct = is_plain or isinstance(tasks, DatabaseTasks)
        self._packed = tasks.tasks if is_direct else None

    def __len__(self) -> int:
        return len(self._tasks)

    def among(self, taskids: Sequence[int]) -> list[bytes]:
        """Return the commands of some tasks."""
        packed = self._packed
        if isinstance(packed, PackedTexts) and _is_range(taskids):
            texts = packed.encoded_texts(taskids[0], taskids[-1] + 1)
            return bytes(texts).split(b"\n")[:-1]
        return [encode_text(self._tasks[taskid]) for taskid in taskids]


def _is_range(taskids: Sequence[int]) -> bool:
    return bool(taskids) and taskids[-1] - taskids[0] + 1 == len(taskids)


def blocks_of(taskids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield the ids, `AT_ONCE` at a time."""
    for begin in range(0, len(taskids), AT_ONCE):
        yield taskids[begin : begin + AT_ONCE]


def commands_of(view: View, target: Target) -> Commands:
    """Return the commands of a view; raise `InputError` if its list is unknown."""
    if view.tasklist is None:
        why = view.unread[0] if view.unread else "the tasklist is not known"
        raise InputError(
            f"the commands of {target.workdir} can't be told ({why}): name its list"
            " with --list FILE"
        )
    return Commands(view.tasklist)


# ---- without states ------------------------------------------------------------------


def write_new(connection: Connection, commands: Commands, order: Constraints) -> None:
    """Insert tasks of which none has begun; `order` is that of their list."""
    statements.insert_barriers(connection, order.barriers)
    ordered = order_of(order)
    for ids in blocks_of(range(len(commands))):
        texts = commands.among(ids)
        if not ordered:
            statements.insert_plain(connection, ids[0], texts)
            continue
        shared = set(ordered.find_shared(ids))
        statements.insert(
            connection,
            (
                NewTask(
                    taskid,
                    text,
                    TaskState.TO_PROCESS if taskid in shared else TaskState.WAITING,
                    ordered.after.get(taskid, ()),
                    ordered.kinds.get(taskid),
                )
                for taskid, text in zip(ids, texts, strict=True)
            ),
        )


def order_of(constraints: Constraints) -> Constraints:
    """Return constraints without the mark of a dialect: rows have whole commands."""
    return Constraints(constraints.barriers, constraints.after, constraints.kinds)


# ---- with states ---------------------------------------------------------------------


def write_view(connection: Connection, view: View, commands: Commands) -> None:
    """Insert the tasks of a view, with their states and their last attempts."""
    statements.insert_barriers(connection, view.constraints.barriers)
    rows = _Rows(view, commands, view.read_attempts())
    for ids in blocks_of(range(view.total)):
        statements.insert_rows(connection, rows.make(ids))


End: TypeAlias = tuple[
    int | str,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
    str | None,
]
"""The columns of a row from `attempt` on."""

_NO_END: Final[End] = (0, None, None, None, None, None, None, None)


class _Rows:
    """Makes rows of tasks."""

    def __init__(self, view: View, commands: Commands, last: LastAttempts) -> None:
        self._view = view
        self._commands = commands
        self._last = last
        self._order = order_of(view.constraints)
        self._cancelled = view.find_cancelled(last)

    def make(self, ids: Sequence[int]) -> Iterator[Row]:
        """Yield the rows of a range of ids."""
        shared = set(self._order.find_shared(ids)) if self._order else set(ids)
        return (
            self._make(taskid, text, state, fields, is_shared=taskid in shared)
            for taskid, text, state, fields in zip(
                ids,
                self._commands.among(ids),
                self._view.states(ids),
                map(self._last.fields, ids),
                strict=True,
            )
        )

    def _make(
        self,
        taskid: int,
        command: bytes,
        state: State,
        fields: list[bytes],
        *,
        is_shared: bool,
    ) -> Row:
        after = self._order.after.get(taskid)
        return Row(
            taskid,
            statements.as_value(command),
            self._state(taskid, state, is_shared=is_shared).value,
            encode_ids(after) if after else None,
            self._order.kinds.get(taskid),
            self._holder(taskid, state),
            *_describe_end(state, fields),
        )

    def _state(self, taskid: int, state: State, *, is_shared: bool) -> TaskState:
        if taskid in self._cancelled:
            return TaskState.CANCELLED
        to_run = TaskState.TO_PROCESS if is_shared else TaskState.WAITING
        return _STATES.get(state, to_run)

    def _holder(self, taskid: int, state: State) -> str | None:
        if state is State.NOWHERE:
            return f"{PLAIN_FARMER}elsewhere"
        is_held = state in (State.RUNNING, State.CLAIMED)
        holder = self._view.holder(taskid) if is_held else None
        return holder.farm if holder else None


def _describe_end(state: State, fields: list[bytes]) -> End:
    """Return the columns of the last attempt, from the fields of its line."""
    if not fields or not is_of(state, fields[Column.OUTCOME]):
        return _NO_END
    # All at once: there may be a million lines.
    texts = b"\t".join(fields[: Column.OUTPUT_BYTES]).decode("utf-8", "replace")
    _, attempt, outcome, status, signal, host, *others = texts.split("\t")
    _, _, _, started, seconds, _, _, peak = others
    return (
        attempt,
        outcome,
        status or None,
        signal or None,
        host or None,
        started or None,
        seconds or None,
        peak or None,
    )
