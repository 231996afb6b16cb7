"""A scene whose list is a database, and judges of what stands in it.

Rules of this file: the database is read by Python's ``sqlite3`` alone, as a user does
it.  A judge returns sentences, none where all is right.
"""

import sqlite3
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.fault.crowd_evidence import CrowdScene, Listing, Sight, read_task
from tests.fault.evidence import PLAIN, Run
from tests.workdir_files import Attempt, parse_ranges

INI = """[sqlite]
TaskList = mpifarm.databases.SqliteTaskList
"""

STATES = {
    "finished": ("finished",),
    "failed": ("failed", "cancelled"),
    "toprocess": ("to process",),
    "waiting": ("waiting",),
    "added": (),
}
"""The states of the rows that stand in the files of a text list."""

BUSY_SECONDS = 20.0
"""Seconds to wait until another program has committed."""

KILL_SLACK = 1.0
"""Seconds in which what is killed starts a last command, if no time stalls."""

RECORD_SECONDS = 3.0
"""Seconds in which a farm has recorded an end, while a program writes the database, if
no time stalls."""

Rows = list[tuple[Any, ...]]


class DatabaseScene(CrowdScene):
    """A scene with a database."""

    list_name = "tasks.db"
    pops_known = True
    plain_options = ("--tasklist", "sqlite")
    plain_path = f":{sysconfig.get_path('purelib')}"

    def build(self) -> None:
        super().build()
        self.tasklist.unlink()  # it comes by an import
        (self.directory / "sqlite.ini").write_text(INI)

    def ask(self, query: str, seconds: float = BUSY_SECONDS) -> Rows:
        """Ask as a user does, without the lock of the workdir."""
        with closing(sqlite3.connect(self.tasklist, timeout=seconds)) as connection:
            return connection.execute(query).fetchall()

    # ---- what is there --------------------------------------------------------------

    def is_made(self) -> bool:
        return (self.workdir / "lock").exists()

    def is_begun(self) -> bool:
        return (self.workdir / "claims").exists()

    def ids(self, name: str, tasks: Sequence[str] | None = None) -> list[int]:
        """The ids of the rows that would stand in a file of this name."""
        states = ",".join(f"'{state}'" for state in STATES[name])
        query = f"SELECT id FROM tasks WHERE state IN ({states}) ORDER BY id"
        return [taskid for (taskid,) in self.ask(query)]

    def read_listing(self) -> Listing:
        with closing(sqlite3.connect(self.tasklist, timeout=BUSY_SECONDS)) as open_one:
            return _read_listing(open_one)

    def look(self) -> Sight | None:
        """Read all, by one transaction; None while a program writes."""
        try:
            with closing(sqlite3.connect(self.tasklist, timeout=0)) as connection:
                connection.execute("BEGIN")
                return self._see(connection)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        return None

    def _see(self, connection: sqlite3.Connection) -> Sight:
        listing = _read_listing(connection)
        faults = connection.execute("PRAGMA integrity_check").fetchall()
        listing.odd += [text for (text,) in faults if text != "ok"]
        states = dict(connection.execute("SELECT id, state FROM tasks"))

        def find(name: str) -> list[int]:
            return [i for i, state in states.items() if state in STATES[name]]

        # What a user has inserted in an order is to be processed until a farm sees it.
        shown = [i for i in find("toprocess") if listing.is_shared(i)]
        return Sight(
            listing,
            frozenset(find("finished")),
            frozenset(find("failed")),
            {name: find(name) for name in ("toprocess", "waiting")},
            [f"{i} {listing.tasks[i].line}" for i in shown],
        )

    # ---- judges ---------------------------------------------------------------------

    def judge_end(self, status: int) -> Iterator[str]:
        yield from self._judge_names()
        yield from self._judge_lock()
        yield from self._judge_timelines()
        yield from self._judge_attempts()
        yield from self._judge_result(status)
        yield from self._judge_rows()

    def _judge_rows(self) -> Iterator[str]:
        if (found := self.ask("PRAGMA integrity_check")) != [("ok",)]:
            yield f"the database is damaged: {found}"
        query = "SELECT id, state, farm FROM tasks WHERE farm IS NOT NULL"
        if held := self.ask(query):
            yield f"rows are with somebody at the end: {held}"
        journal = Path(f"{self.tasklist}-journal")
        if journal.exists() and journal.stat().st_size:
            yield f"{journal.name} was left with {journal.stat().st_size} bytes"

    def judge_agreement(
        self, kills: Sequence[float], stalled: float = 0.0
    ) -> Iterator[str]:
        """Judge whether rows and ``attempts.tsv`` tell the same.

        A kill between the two, soon after the end of a run, leaves out a line.
        `stalled` are the seconds for which the machine kept processes still.
        """
        lines = {(each.taskid, each.attempt): each for each in self.attempts()}
        rows = self.ask(
            "SELECT id, attempt, outcome, status, signal, host, state FROM tasks"
        )
        for taskid, attempt, *told, state in rows:
            line = lines.get((taskid, attempt))
            ended = [run for run in self.runs(taskid) if run.end is not None]
            if ended and ended[-1].attempt == PLAIN:
                continue
            if line is None and (not attempt or _is_lost(ended, kills, stalled)):
                continue
            found = None if line is None else _columns_of(line)
            if found != tuple(told):
                yield (
                    f"row {taskid} ({state}) says of attempt {attempt} {told},"
                    f" attempts.tsv {found}"
                )

    def judge_repeats(
        self, kills: Sequence[float], stalled: float = 0.0
    ) -> Iterator[str]:
        """Judge runs of a task that has run already: a kill has to lie between.

        A failing task may be tried again.
        """
        for taskid, task in enumerate(self.tasks):
            runs = [] if task.status else self.runs(taskid)
            for before, after in pairwise(runs):
                begun = before.start - KILL_SLACK - stalled
                if not any(begun <= kill <= after.start for kill in kills):
                    yield f"task {taskid} ran again without a kill: {before}, {after}"


def _read_listing(connection: sqlite3.Connection) -> Listing:
    listing = Listing()
    query = 'SELECT id, command, kind, "after" FROM tasks ORDER BY id'
    for taskid, command, kind, after in connection.execute(query):
        task = read_task(f"[limit={kind}] {command}" if kind else command)
        if task is None or taskid != len(listing.tasks):
            listing.odd.append(f"{taskid} {command}")
            continue
        listing.tasks.append(task)
        if after:
            listing.after[taskid] = parse_ranges(after)
    query = 'SELECT "before", checks FROM barriers ORDER BY 1'
    listing.barriers = [(first, bool(on)) for first, on in connection.execute(query)]
    return listing


def _is_lost(ended: Sequence[Run], kills: Sequence[float], stalled: float) -> bool:
    """Whether a kill may have come between a row and its line."""
    if not ended or ended[-1].end is None:
        return bool(kills)
    begin = ended[-1].end - KILL_SLACK
    end = begin + RECORD_SECONDS
    return any(begin - stalled <= kill <= end + stalled for kill in kills)


def _columns_of(line: Attempt) -> tuple[Any, ...]:
    signal = max(-line.status, 0)
    status = 128 + signal if signal else line.status
    return line.outcome, status, signal, line.host or None
