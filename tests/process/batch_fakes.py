"""Stand-ins for the programs of batch systems.

qsub of PBS and bsub of LSF check a job script, and keep it; squeue, qstat and bjobs
tell their version and the end of a job.

Rules of this file: standard library only; it runs as a program, without the checkout on
its path.  A directive or an argument that the manual does not have is refused as the
real program would: on stderr, with status 1.  What is submitted is kept in the
directory ``$SPOOL`` as ``<number>.script`` and ``<number>.words``.
"""

import os
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

_JOB = r"[0-9]+(?:\[\])?(?:\.[A-Za-z0-9.]+)?"

PBS = (
    r"-N [A-Za-z_][\w.+-]{0,229}",
    r"-j oe",
    r"-S /bin/bash",
    r"-l walltime=\d+:[0-5]\d:[0-5]\d",
    r"-l select=[1-9]\d*:ncpus=[1-9]\d*(?::mpiprocs=1)?",
    r"-l place=scatter",
    r"-J 1-[1-9]\d*",
    r"-A \S+",
    r"-q \S+",
    rf"-W depend=after(?:ok|any)(?::{_JOB})+(?:,afterany(?::{_JOB})+)?",
    r"-V",
    r"-r [yn]",
    r"-m [abe]+",
)
"""Directives of qsub, PBS Professional's reference guide."""

LSF = (
    r'-J (?:[\w.+-]+|"[\w.+-]+\[1-[1-9]\d*\]")',
    r"-o [\w.+-]+\.%J(?:\.%I)?\.out",
    r"-W \d+:[0-5]\d",
    r'-n [1-9]\d* -R "span\[hosts=1\]"',
    r'-n [1-9]\d* -R "span\[ptile=1\]" -x',
    r"-wt [1-9]\d* -wa USR1",
    r"-P \S+",
    r"-q \S+",
    r'-w "(?:done|ended)\(\d+\)(?: && (?:done|ended)\(\d+\))*"',
    r'-r -Q "75"',
    r"-u \S+",
)
"""Directives of bsub, its reference."""


def check_directives(text: str, mark: str, known: tuple[str, ...]) -> str:
    """Return what is wrong with the directives of a script, "" if nothing is."""
    lines = text.splitlines()
    if lines[0] != "#!/bin/bash":
        return "the first line names no bash"
    head = next(i for i, line in enumerate(lines) if line and line[0] != "#")
    found = [line for line in lines[:head] if line.startswith(mark)]
    if not found:
        return "no directive"
    if late := [line for line in lines[head:] if line.startswith(mark)]:
        return f"a directive behind a command: {late[0]}"
    for line in found:
        options = line.removeprefix(mark).strip()
        if not any(re.fullmatch(pattern, options) for pattern in known):
            return f"illegal option: {line}"
    names = [line.removeprefix(mark).strip()[:6] for line in found]
    if len({*names}) < len(names):
        return "an option twice"
    return ""


def read_submission(kind: str, words: list[str]) -> tuple[str, str]:
    """Return the text of a script, and what is wrong with how it is submitted."""
    if kind == "lsf":
        wrong = f"unexpected words: {words}" if words else ""
        return sys.stdin.buffer.read().decode("utf-8", "surrogateescape"), wrong
    *options, path = words
    allowed = ["-V", "-W", rf"depend=afterany:{_JOB}"]
    unknown = [w for w in options if not any(re.fullmatch(a, w) for a in allowed)]
    text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
    return text, f"unexpected words: {unknown}" if unknown else ""


# ---- the programs that are asked -----------------------------------------------------


def end_by_squeue(seconds: int) -> str:
    """Return what Slurm's squeue prints of a job with so many seconds left, under 60.

    As with --format=%A|%L|%e.
    """
    return f"17|0:{seconds:02}|N/A"


def end_by_qstat(seconds: int, start: str = "stime") -> str:
    """Return what ``qstat -f`` prints of such a job that began a minute ago.

    `start` is the name that PBS has for the start; in Torque it is ``start_time``.
    """
    begun = time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(time.time() - 60))
    limit = f"00:01:{seconds:02}"
    return (
        "Job Id: 7.server\n    job_state = R\n"
        f"    Resource_List.walltime = {limit}\n    {start} = {begun}"
    )


def end_by_bjobs(seconds: int) -> str:
    """Return what LSF's bjobs prints of such a job, as with -o finish_time."""
    end = time.localtime(time.time() + seconds)
    return f"{time.strftime('%b %e %H:%M:%S %Y', end)} L"


class Client(NamedTuple):
    """What a program of a batch system prints.

    `version` is printed for `option`, on the stream `stream`; `jobs` of its server for
    the words `asks`; the line `end` for all else, or it ends with 1 if there is none.
    """

    name: str
    option: str
    version: str
    asks: str
    jobs: str
    end: str = ""
    stream: int = 1

    def script(self) -> str:
        """Return the program as a shell script, without its first line."""
        end = f"/bin/cat <<'END'\n{self.end}\nEND" if self.end else "exit 1"
        return (
            f"case \"$*\" in\n'{self.option}')\n"
            f"/bin/cat >&{self.stream} <<'END'\n{self.version}\nEND\nexit;;\n"
            f"'{self.asks}') echo '{self.jobs}'; exit;;\nesac\n{end}"
        )


def find_client(kind: str, seconds: int = 50) -> Client:
    """Return the program of a batch system, in a job with so many seconds left."""
    lsf = "IBM Spectrum LSF Standard 10.1.0.14, Apr 20 2023\nCopyright IBM Corp."
    squeue = f"--user={os.getuid()} --format=%A"
    return {
        "slurm": Client(
            *("squeue", "--version", "slurm-wlm 22.05.8", squeue, "JOBID"),
            end_by_squeue(seconds),
        ),
        "pbs": Client(
            *("qstat", "--version", "pbs_version = 2022.1.1", "-B", "Server  Max"),
            end_by_qstat(seconds),
        ),
        "torque": Client(
            *("qstat", "--version", "Version: 6.1.2\nCommit: 6b", "-B", "Server  Max"),
            end_by_qstat(seconds, "start_time"),
        ),
        "lsf": Client(
            *("bjobs", "-V", lsf, "", "No unfinished job found"),
            end_by_bjobs(seconds),
            stream=2,
        ),
        "sge": Client(
            *("qstat", "-help", "SGE 8.1.9\nusage: qstat [options]"),
            *("-g c", "CLUSTER QUEUE"),
        ),
    }[kind]


# ---- the programs that submit --------------------------------------------------------


def main() -> int:
    """Submit a script.  Return the exit status."""
    kind, *words = sys.argv[1:]
    text, wrong = read_submission(kind, words)
    mark, known = {"pbs": ("#PBS", PBS), "lsf": ("#BSUB", LSF)}[kind]
    if wrong := wrong or check_directives(text, mark, known):
        sys.stderr.write(f"{kind}: {wrong}\n")
        return 1
    spool = Path(os.environ["SPOOL"])
    number = 7 + len([*spool.glob("*.script")])
    content = text.encode("utf-8", "surrogateescape")
    (spool / f"{number}.script").write_bytes(content)
    (spool / f"{number}.words").write_text(" ".join(words[:-1]))
    said = {
        "pbs": f"{number}.server",
        "lsf": f"Job <{number}> is submitted to queue <q>.",
    }
    sys.stdout.write(said[kind] + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
