"""The programs of batch systems and MPI: started, waited for, read.

Rules of this file: the only owner of these programs for a job that is to be submitted.
A question that can't be answered has the answer "".
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

ANSWER_SECONDS: Final = 30.0
"""Seconds that a program gets to answer a question."""
SUBMIT_SECONDS: Final = 300.0
"""Seconds that a program gets to submit a job: a busy server is slow."""
LATE: Final = 124
"""The status of a program that has not ended in time."""


class Answer(NamedTuple):
    """How a program ended, and what it printed."""

    status: int
    output: str
    errors: str


class Programs:
    """The programs that are asked, with the environment of the user."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = {**environ}

    def find(self, names: Sequence[str]) -> set[str]:
        """Return those of the `names` that are programs here."""
        path = self._environ.get("PATH", os.defpath)
        return {name for name in names if shutil.which(name, path=path)}

    def ask(self, *words: str) -> str:
        """Return what a program prints on both streams, "" if it fails."""
        answer = self.run(words)
        return answer.output + answer.errors if answer.status == 0 else ""

    def ask_errors(self, *words: str) -> str:
        """Return what a program prints as errors, whether it fails or not."""
        return self.run(words).errors

    def ask_python(self, program: str) -> str:
        """Return what a program in Python prints, "" if it fails.

        It runs in a process of its own: an MPI library may end its process.
        """
        answer = self.run([sys.executable, "-c", program])
        return answer.output if answer.status == 0 else ""

    def run(
        self,
        words: Sequence[str],
        content: str = "",
        seconds: float = ANSWER_SECONDS,
        without: Collection[str] = (),
    ) -> Answer:
        """Run a program to its end, with `content` as its standard input.

        The variables `without` are not in its environment.  Status 127: it can't be
        started; `LATE`: it takes more than `seconds`.
        """
        try:
            ended = subprocess.run(
                words,
                input=content.encode("utf-8", "surrogateescape"),
                env={k: v for k, v in self._environ.items() if k not in without},
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Answer(LATE, "", f"no answer within {seconds:g} s")
        except (OSError, ValueError) as error:
            return Answer(127, "", str(error))
        output, errors = (
            each.decode("utf-8", "replace") for each in (ended.stdout, ended.stderr)
        )
        return Answer(ended.returncode, output, errors)
