"""The lines of bash that the scripts of all batch systems have in common.

Rules of this file: pure.  A word of the user's is quoted by `quote_word` or
`join_words`; nothing else puts one into a script, except into a comment.
"""

import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from mpifarm.submit.request import JobRequest

SHEBANG: Final = "#!/bin/bash"

MAX_IDLE: Final = 3
"""Runs in a row that may record nothing before a job goes on no more."""

RUN_AGAIN: Final = """\
# 75: tasks are left.  Not a farm's own status (9, 14, 137): a rank was killed, perhaps
# for memory; the next {run} takes back what it had."""

IS_LEFT: Final = "[[ ! $status =~ ^([0-3]|70|12[67])$ ]]"
"""The question to a status whether tasks may be left that another run can do: it is 75,
or no farm's own.  126 and 127 are of a program that could not be started."""

RECORDED: Final = """\
recorded() { wc -l 2>/dev/null <"$workdir/attempts.tsv" || echo 0; }"""
"""A function that tells one run's progress from none."""


COUNT_LINKS: Final = """\
# idle: how many links before this one, in a row, have recorded nothing.  A chain that
# was submitted by one of another list counts for itself.
before=$(recorded)
idle=0
chain="$PWD $workdir"
if [[ ${{FARM_CHAIN_OF:-$chain}} == "$chain" ]] \\
  && ((before <= ${{FARM_CHAIN_RECORDED:--1}})); then
  before=$FARM_CHAIN_RECORDED
  idle=$((FARM_CHAIN_IDLE + 1))
fi
if ((idle > {most})); then
  echo "{script}: the chain ends, because its last four links recorded nothing" >&2
  exit 75
fi

export FARM_CHAIN_OF=$chain FARM_CHAIN_RECORDED=$before FARM_CHAIN_IDLE=$idle"""
"""The lines that count the links of a chain, for the script and the next link."""

CHAIN_AFTER: Final = """\
goes_on=
if {is_left}; then
  if (($(recorded) <= before && idle >= {most})); then
    echo "{script}: the chain ends, because its last four links recorded nothing" >&2
  elif [[ $successor ]]; then
    goes_on=yes  # the successor may have the name of its cluster behind a semicolon
    echo "{script}: the job goes on as job ${{successor%%;*}}, the next of the" \\
      "chain: there is nothing to submit"
  else
    echo "{script}: no next job of the chain could be submitted: submit the same" \\
      "again" >&2
  fi
fi
[[ $goes_on || ! $successor ]] || {cancel}"""
"""The lines at the end of a link: it says how the chain goes on, or ends it."""


def trap_signal(what: str, variable: str, program: str, signals: str = "USR1") -> str:
    """Return the lines that pass a signal on to the program of a variable.

    `what` is the comment about the signal, `program` the launcher with its article.
    """
    return f"""\
# {what}  It interrupts the wait, so wait again.
trap 'again=yes; [[ ! ${variable} ]] || pass_on' {signals}
pass_on() {{  # not at once to {program} that has just begun, which would lose it
  ((SECONDS >= 5)) || sleep 5
  kill -USR1 "${variable}"
}}"""


def wait_for(variable: str, program: str) -> str:
    """Return the lines that wait for the program of a variable, started just before."""
    return f"""\
{variable}=$!
[[ ! $again ]] || pass_on  # it came before there was {program}
again=yes
while [[ $again ]]; do
  again=
  wait "${variable}"
  status=$?
done"""


def quote_word(word: str) -> str:
    """Return a word that bash reads as it is."""
    return shlex.quote(word)


def join_words(words: Iterable[str]) -> str:
    """Return words that bash reads as they are."""
    return " ".join(map(quote_word, words))


def as_comment(text: str) -> str:
    """Return a text of the user's as it may stand in a comment: in one line."""
    return text if text.isprintable() else ascii(text)


AGAIN: Final = "To submit it once more:  "


def find_submit_command(script: str) -> str:
    """Return the command that submits a script, by its head; "" if it names none."""
    for line in script.splitlines():
        if line.startswith(f"# {AGAIN}"):
            return line.removeprefix(f"# {AGAIN}")
    return ""


def write_head(request: JobRequest, submit: str) -> list[str]:
    """Return the first lines: what the script is, and how it is submitted.

    `submit` is the command that submits the script.
    """
    head: Sequence[str] = request.head
    if request.source is not None:
        typed, again = as_comment(request.source.command), as_comment(submit)
        head = (f"Written by: {typed}", "", f"{AGAIN}{again}")
    return [SHEBANG, *(f"# {line}".rstrip() for line in head), "#"]


def write_source(request: JobRequest, *, with_list: bool = True) -> list[str]:
    """Return the lines that make the user's words the script's arguments.

    Return none for a script that gets its arguments itself.
    """
    source = request.source
    if source is None:
        return []
    words = source.words if with_list else source.words[1:]
    lines = [
        f"cd {quote_word(source.directory)} || exit 2",
        f"set -- {join_words(words)}".rstrip(),
    ]
    if source.modules:
        path = quote_word(source.modules)
        # Without the test, each link of a chain would get a longer variable.
        export = f"export PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}}"
        lines += [f"[[ $PYTHONPATH: == {path}:* ]] || {export}"]
    return [*lines, ""]


def assign(request: JobRequest, lines: Iterable[tuple[str, str]]) -> list[str]:
    """Return lines of code, with their comments in one column.

    The words of a user are long, and who has submitted them edits nothing: there, the
    comments are left out.
    """
    lines = list(lines)
    if request.source is not None:
        return [code for code, _ in lines]
    width = max((len(code) for code, comment in lines if comment), default=0)
    return [
        f"{code:{width}}  # {comment}" if comment else code for code, comment in lines
    ]


def name_workdir(request: JobRequest, tasklist: str) -> tuple[str, str]:
    """Return the assignment of the workdir, with its comment.

    `tasklist` is the list's name in the shell, for a script without a source.
    """
    source = request.source
    value = f"{tasklist}_workdir" if source is None else quote_word(source.workdir)
    return f"workdir={value}", "where the farm keeps its state"


def name_end(request: JobRequest) -> str:
    """Return the assignment of the end of a job that its batch system doesn't tell.

    It is early: a job has run for a while before its script begins.
    """
    return f"end=$(($(date +%s) + {_limit_of(request)} - {request.lead}))"


def _limit_of(request: JobRequest) -> str:
    """Return the time limit as bash computes it, with hours where users edit it."""
    hours, rest = divmod(request.seconds, 3600)
    is_edited = request.source is None and not rest
    return f"{hours} * 3600" if is_edited else str(request.seconds)


def finish(blocks: Iterable[Sequence[str] | str]) -> str:
    """Return the text of a script: its blocks, an empty one left out."""
    lines: list[str] = []
    for block in blocks:
        lines += [block] if isinstance(block, str) else block
    return "\n".join(lines) + "\n"
