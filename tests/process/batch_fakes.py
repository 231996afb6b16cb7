"""Stand-ins for qsub of PBS and bsub of LSF: they check a job script, and keep it.

Rules of this file: standard library only; it runs as a program, without the checkout on
its path.  A directive or an argument that the manual does not have is refused as the
real program would: on stderr, with status 1.  What is submitted is kept in the
directory ``$SPOOL`` as ``<number>.script`` and ``<number>.words``.
"""

import os
import re
import sys
from pathlib import Path

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
    rf"-W depend=after(?:ok|any):{_JOB}",
    r"-V",
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
    r'-w "(?:done|ended)\(\d+\)"',
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
