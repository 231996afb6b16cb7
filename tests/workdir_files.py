"""The files of a workdir as docs/protocol.md describes them, read and written by tests.

Rules of this file: standard library only, and none of mpifarm's readers: no test judges
a reader by itself.  No other file of the tests knows the columns of ``attempts.tsv``.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Attempt(NamedTuple):
    """A line of ``attempts.tsv``; times in seconds, `started` since 1970."""

    taskid: int
    attempt: int = 1
    status: int = 0
    rank: int = 0
    worker: int = 1
    started: float = 1.0
    seconds: float = 1.0
    farm: str = "x"

    @property
    def ended(self) -> float:
        return self.started + self.seconds

    @property
    def line(self) -> str:
        """The line with its newline."""
        return "\t".join(map(str, self)) + "\n"


ATTEMPTS_HEAD = "\t".join(Attempt._fields) + "\n"
_COLUMNS = tuple(Attempt.__annotations__.values())


def format_attempts(*attempts: Attempt) -> str:
    """Return the whole file."""
    return ATTEMPTS_HEAD + "".join(attempt.line for attempt in attempts)


def split_attempts(content: bytes) -> tuple[list[Attempt], list[str]]:
    """Return the attempts, and the whole lines that are neither one nor the head."""
    attempts, odd = [], []
    for line in content.decode().split("\n")[:-1]:
        cells = line.split("\t")
        try:
            values = [read(cell) for read, cell in zip(_COLUMNS, cells, strict=True)]
            attempts.append(Attempt(*values))
        except ValueError:
            odd += [line] if f"{line}\n" != ATTEMPTS_HEAD else []
    return attempts, odd


def parse_ids(content: bytes, tasks: Sequence[str] | None = None) -> list[int]:
    """Return the ids of the whole lines of a status file, in their order.

    With `tasks`, only of the lines whose text is that of their task.
    """
    lines = [line for line in content.split(b"\n")[:-1] if line]
    if tasks is None:
        return [int(line.split(b" ")[0]) for line in lines]
    known = {os.fsencode(f"{i} {text}"): i for i, text in enumerate(tasks)}
    return [known[line] for line in lines if line in known]


class WorkdirFiles:
    """What is in a workdir, which need not be there yet."""

    def __init__(self, workdir: Path | str) -> None:
        self.workdir = Path(workdir)

    def content(self, name: str) -> bytes:
        """The bytes of a file, none where there is none."""
        try:
            return (self.workdir / name).read_bytes()
        except FileNotFoundError:
            return b""

    def ids(self, name: str, tasks: Sequence[str] | None = None) -> list[int]:
        """The ids in a status file; see `parse_ids`."""
        return parse_ids(self.content(name), tasks)

    def attempts(self) -> list[Attempt]:
        """The attempts, if nothing else is in ``attempts.tsv``."""
        attempts, odd = split_attempts(self.content("attempts.tsv"))
        assert not odd
        return attempts

    def ranks_at_work(self) -> set[int]:
        """The ranks that have run a task whose result is on disk."""
        return {attempt.rank for attempt in self.attempts()}

    def claims(self) -> list[str]:
        """The names of the claims that farms hold or have left."""
        with suppress(FileNotFoundError):
            return sorted(os.listdir(self.workdir / "claims"))
        return []
