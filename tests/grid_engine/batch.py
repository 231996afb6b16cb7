"""Jobs of the test cell: submitted by ``mpifarm submit``, asked for, waited for.

Rules of this file: Grid Engine is asked as a user asks it, by its commands.  A job's
exit status is what its accounting has recorded.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import wait_until

DEADLINE = 120.0
"""Seconds; a job may have to wait for its slots."""

POLL_SECONDS = 0.3
"""Between two questions to sge_qmaster."""


class Run(NamedTuple):
    """A run of a job that has ended, as the accounting has it."""

    task: str
    """The task of an array; ``undefined`` outside of one."""
    failed: str
    """Why Grid Engine counts it as failed, ``0`` if it does not."""
    status: int
    slots: int
    queue: str
    account: str


def parse_accounting(text: str) -> list[Run]:
    """Return the runs that ``qacct -j JOB`` prints."""
    runs = []
    for block in text.split("=" * 62):
        words = (line.split(maxsplit=1) for line in block.splitlines())
        fields = {each[0]: each[1].strip() for each in words if len(each) == 2}
        if fields:
            status, slots = int(fields["exit_status"].split()[0]), int(fields["slots"])
            failed = fields["failed"].split()[0]
            place = fields["qname"], fields["account"]
            runs.append(Run(fields["taskid"], failed, status, slots, *place))
    return runs


class Job:
    """A job that ``mpifarm submit --json`` has told of."""

    def __init__(self, cell: "GridEngine", told: Mapping[str, Any]) -> None:
        self.told = told
        self.number = str(told["job"])
        self._cell = cell

    def type(self, name: str) -> str:
        """Type one of the commands that were printed; return what it prints."""
        return self._cell.ask("bash", "-c", self.told[name])

    def text(self, name: str = "farm", member: str = "") -> str:
        """What it has printed so far."""
        output = self._cell.directory / f"{name}.o{self.number}{member}"
        return output.read_text() if output.exists() else ""

    def fields(self) -> str:
        """What ``qstat -j`` says, "" of a job that has ended."""
        time.sleep(POLL_SECONDS)
        return self._cell.try_ask("qstat", "-j", self.number)

    def wait(self, runs: int = 1) -> list[Run]:
        """Until it has ended; return its runs, of which the accounting has `runs`."""

        def find_end() -> list[Run]:
            if self.fields():
                return []
            found = parse_accounting(self._cell.try_ask("qacct", "-j", self.number))
            return found if len(found) >= runs else []

        try:
            return wait_until(find_end, DEADLINE)
        except AssertionError:
            raise AssertionError(f"{self.fields()}\n{self.text()}") from None

    def assert_ends(self, *statuses: int) -> list[Run]:
        """Its runs, or the tasks of an array, end with these exit statuses."""
        found = self.wait(len(statuses))
        assert [run.status for run in found] == list(statuses), (found, self.text())
        return found


class GridEngine:
    """The test cell, for one test: jobs run in `directory` with `environment`."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self.environment = dict(environment)
        self.directory = directory
        self._jobs: list[Job] = []

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a user types it."""
        return subprocess.run(
            argv,
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def ask(self, *argv: str) -> str:
        """What a command prints, which must succeed."""
        done = self.run(*argv)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def try_ask(self, *argv: str) -> str:
        """What a command prints, "" if it fails."""
        done = self.run(*argv)
        return done.stdout.strip() if done.returncode == 0 else ""

    def submit(self, *words: str) -> Job:
        """``mpifarm submit --scheduler sge`` with these words."""
        job = Job(self, json.loads(self.ask(*make_submit("--json", *words))))
        self._jobs.append(job)
        return job

    def refusal(self, *words: str) -> str:
        """What ``mpifarm submit`` says when it refuses these words."""
        done = self.run(*make_submit(*words))
        assert done.returncode == 2, done.stdout + done.stderr
        return done.stderr

    def queue(self) -> list[str]:
        """The numbers of the jobs that wait or run, of all tests."""
        time.sleep(POLL_SECONDS)
        lines = self.ask("qstat", "-u", "*").splitlines()[2:]
        return [line.split()[0] for line in lines]

    def delete_all(self) -> None:
        """End the jobs of this directory that are left; wait until they are gone."""
        left = {job.number for job in self._jobs} & {*self.queue()}
        for number in left:
            self.run("qdel", number)
        wait_until(lambda: not left & {*self.queue()}, DEADLINE)


def make_submit(*words: str) -> list[str]:
    """Return the command line that submits to Grid Engine, whatever else is here."""
    return [sys.executable, "-m", "mpifarm", "submit", "--scheduler", "sge", *words]
