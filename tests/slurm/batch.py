"""Jobs of the test cluster: submitted, signalled, waited for.

Rules of this file: Slurm is asked as a user asks it, by its commands.  A job's exit
status is what Slurm has recorded.
"""

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support import ROOT, Launch, wait_until

JOBS = ROOT / "jobs"

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL")

DEADLINE = 90.0
"""Seconds; a job may have to wait for its nodes."""

POLL_SECONDS = 0.2
"""Between two questions to slurmctld."""


class Ended(NamedTuple):
    """How a job ended, as Slurm says it."""

    state: str
    status: int
    """The exit status of the batch script."""
    signum: int
    """The signal that killed the batch script, or 0."""
    restarts: int


class Job:
    """A submitted job, or one task of a job array (its id is then ``7_1``)."""

    def __init__(self, slurm: "Slurm", jobid: str, output: Path) -> None:
        self.jobid = jobid
        self.output = output
        self._slurm = slurm

    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text() if self.output.exists() else ""

    def scancel(self, *options: str) -> None:
        """Cancel it, or what the options say."""
        self._slurm.ask("scancel", *options, self.jobid)

    def signal_step(self, signal: str) -> None:
        """To the ranks of its first srun.

        The same as ``scancel --signal``, which Slurm 22.05 calls an error for a task of
        an array while other tasks wait (and sends the signal).
        """
        self._slurm.ask("scancel", f"--signal={signal}", f"{self.jobid}.0")

    def fields(self) -> dict[str, str]:
        """What ``scontrol show job`` says."""
        answer = self._slurm.ask("scontrol", "--oneliner", "show", "job", self.jobid)
        pairs = (word.partition("=") for word in answer.split())
        return {name: value for name, _, value in pairs}

    def is_running(self) -> bool:
        """Whether Slurm has started it, and has not ended it."""
        return self.fields()["JobState"] == "RUNNING"

    def wait_until_running(self) -> None:
        """Until Slurm has started it."""
        state = "RUNNING"
        wait_until(lambda: self._fields_now_and_then()["JobState"] == state, DEADLINE)

    def wait_until_restarted(self, times: int) -> None:
        """Until Slurm has requeued it so often."""

        def restarts() -> int:
            return int(self._fields_now_and_then()["Restarts"])

        wait_until(lambda: restarts() == times, DEADLINE)

    def wait(self, deadline: float = DEADLINE) -> Ended:
        """Until it has ended; after `deadline` seconds AssertionError."""

        def find_end() -> Ended | None:
            fields = self._fields_now_and_then()
            if fields["JobState"] not in ENDED:
                return None
            status, _, signum = fields["ExitCode"].partition(":")
            restarts = int(fields["Restarts"])
            return Ended(fields["JobState"], int(status), int(signum), restarts)

        try:
            return wait_until(find_end, deadline)  # type: ignore[return-value]
        except AssertionError:
            raise AssertionError(f"{self.fields()}\n{self.text()}") from None

    def assert_ends(self, status: int, deadline: float = DEADLINE) -> Ended:
        """It ends by itself, with this exit status."""
        ended = self.wait(deadline)
        assert ended[1:3] == (status, 0), f"{ended}\n{self.text()}"
        return ended

    def _fields_now_and_then(self) -> dict[str, str]:
        time.sleep(POLL_SECONDS)
        return self.fields()


class Slurm:
    """The test cluster, for one test: jobs run in `directory` with `environment`."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self.environment = dict(environment)
        self.directory = directory

    def ask(self, *argv: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(
            argv,
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def srun(self, *options: str) -> Callable[..., Launch]:
        """A launcher of farms: a rank on each node, without a batch script."""

        def launch(nodes: int, *argv: str) -> Launch:
            words = ["srun", "-N", str(nodes), *options, *argv]
            return Launch(words, self.environment)

        return launch

    def submit(self, *argv: str) -> Job:
        """``sbatch`` with these arguments; ``jobs/…`` is the project's own script.

        With the word ``submit`` among them, ``mpifarm submit`` with the others.
        """
        if "submit" in argv:
            words = [word for word in argv if word != "submit"]
            submit = ("python", "-m", "mpifarm", "submit", "--json")
            told = json.loads(self.ask(*submit, *words))
            workdir = self.directory / "tasks.txt_workdir"
            return Job(self, told["job"], workdir / f"job-{told['job']}.out")
        jobid = self._sbatch(*argv, output="job-%j.out")
        return Job(self, jobid, self.directory / f"job-{jobid}.out")

    def submit_array(self, array: str, *argv: str) -> list[Job]:
        """The tasks of a job array: ``1-3``, or ``1-3%1`` for one at a time."""
        jobid = self._sbatch(f"--array={array}", *argv, output="job-%A_%a.out")
        last = int(array.removeprefix("1-").partition("%")[0])
        ids = [f"{jobid}_{number}" for number in range(1, last + 1)]
        return [Job(self, i, self.directory / f"job-{i}.out") for i in ids]

    def _sbatch(self, *argv: str, output: str) -> str:
        words = [str(ROOT / w) if w.startswith("jobs/") else w for w in argv]
        return self.ask("sbatch", "--parsable", f"--output={output}", *words)

    def queue(self) -> list[Job]:
        """The jobs of this directory that wait or run."""
        lines = self.ask("squeue", "--noheader", "--format=%i %Z").splitlines()
        pairs = [line.strip().partition(" ") for line in lines]
        here = str(self.directory)
        ids = [jobid for jobid, _, directory in pairs if directory == here]
        return [Job(self, i, self.directory / f"slurm-{i}.out") for i in ids]

    def cancel_all(self) -> None:
        """The nodes are free for other jobs."""
        for job in self.queue():
            job.scancel("--quiet")
        wait_until(lambda: not self.queue(), DEADLINE)
