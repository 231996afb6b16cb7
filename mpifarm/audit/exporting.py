"""A list as text, or a workdir as a database, made of a view.

Rules of this file: it reads a view and the attempts, and writes new files alone.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

from mpifarm.audit.database_rows import (
    blocks_of,
    commands_of,
    order_of,
    write_view,
)
from mpifarm.audit.databases import row_ends
from mpifarm.audit.view import State, View
from mpifarm.database import tasks as statements
from mpifarm.database.attempts import write_attempts
from mpifarm.database.schema import creating, write_about
from mpifarm.errors import InputError
from mpifarm.order.list_text import (
    UnsayableError,
    choose_tasks,
    encode_list,
    encode_plain,
)
from mpifarm.store.attempts import Column, read_rows, unescape
from mpifarm.store.target import Target, is_database
from mpifarm.system.time_of_day import encode_time

STATES: Final = {
    "finished": (State.FINISHED,),
    "failed": (State.FAILED,),
    "cancelled": (State.FAILED,),
    "running": (State.RUNNING, State.CLAIMED, State.NOWHERE),
    "waiting": (State.WAITING, State.HELD, State.ORPHANED),
}
"""The states that each word of ``--state`` means."""


def choose(view: View, words: Sequence[str]) -> Sequence[int]:
    """Return the ids of the tasks in some states, of all without a word.

    Raises `StorageError`.
    """
    if not words:
        return range(view.total)
    ids = set(view.ids_in(*chain.from_iterable(STATES[each] for each in words)))
    if {"failed", "cancelled"}.intersection(words):
        failed = view.ids_in(State.FAILED)
        cancelled = view.find_cancelled(view.read_attempts(failed))
        if "cancelled" not in words:
            ids -= cancelled
        if "failed" not in words:
            ids -= {*failed} - cancelled
    return sorted(ids)


def encode_text_list(
    view: View, target: Target, taskids: Sequence[int]
) -> Iterator[bytes]:
    """Yield some tasks of a view as a plain list, with the order among them.

    Raises `InputError` for what no plain list can say.
    """
    commands = commands_of(view, target)
    order = order_of(view.constraints)
    if order and len(taskids) < view.total:
        order = choose_tasks(order, taskids)
    try:
        if not order:
            for ids in blocks_of(taskids):
                yield encode_plain(commands.among(ids), ids[0])
            return
        texts = chain.from_iterable(map(commands.among, blocks_of(taskids)))
        yield from encode_list(enumerate(texts), order)
    except UnsayableError as error:
        raise InputError(
            f"no text list can say all that {target.tasklist or target.workdir} says:"
            f" {error}; to keep it: mpifarm export --sqlite FILE.db"
        ) from error


def export_database(
    view: View, target: Target, environ: Mapping[str, str], path: str
) -> int:
    """Make a database at `path` of a view.  Return the number of attempts in it.

    Raises `InputError` if there is such a file, `StorageError` if the disk fails.
    """
    commands = commands_of(view, target)
    with creating(path) as connection:
        write_view(connection, view, commands)
        if is_database(target, environ):
            # Plain farmers write no attempts, and their rows have the ends.
            with row_ends(target, environ) as ends:
                statements.fill_ends(connection, ends)
        source = target.tasklist or target.workdir
        write_about(connection, "list", os.path.abspath(source))
        write_about(connection, "exported_from", view.paths.root)
        write_about(connection, "exported", encode_time(time.time()))
        return write_attempts(connection, _unescaped(read_rows(view.paths)))


def _unescaped(rows: Iterable[list[bytes]]) -> Iterator[list[bytes]]:
    """Yield the fields of attempts, with commands as they are in the list."""
    for fields in rows:
        fields[Column.COMMAND] = unescape(fields[Column.COMMAND])
        yield fields
