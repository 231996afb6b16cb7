"""Job scripts for PBS, LSF and Grid Engine, but their directives: mpirun starts farms.

Rules of this file: pure.  A farm on one node needs no mpirun, and gets none.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from mpifarm.submit.request import GoingOn, JobRequest, Launcher
from mpifarm.submit.shell import (
    CHAIN_AFTER,
    COUNT_LINKS,
    IS_LEFT,
    MAX_IDLE,
    RECORDED,
    RUN_AGAIN,
    assign,
    finish,
    join_words,
    name_workdir,
    trap_signal,
    wait_for,
    write_head,
    write_source,
)


class Dialect(NamedTuple):
    """What differs between the batch systems."""

    name: str
    """The script's name in ``jobs/``, for its messages."""
    mark: str
    """The beginning of each directive."""
    submit: str
    """The command that submits a script, up to the script's path."""
    ranks: str
    """The number of ranks, as bash finds it."""
    hint: str
    """The comment about how mpirun finds the nodes."""
    signal: str
    """The comment about the signal."""
    signals: str = "USR1"
    """The signals that stop the farm."""
    limit: tuple[str, str] = ("", "")
    """The assignment of a limit of the farm, and its comment; "" if the batch system
    tells the farm."""
    option: str = ""
    """The option of the farm that has this limit."""
    enter: Sequence[str] = ()
    """Lines that enter the directory of a script without a source."""
    job: str = ""
    """The number of the job, as bash finds it."""
    requeue: str = ""
    """The line that ends a job so that it goes back into the queue."""
    last_signal: str = ""
    """The one of the signals after which no job goes back into the queue."""
    chain_before: str = ""
    """The lines that submit the successor."""
    chain_cancel: str = ""
    """The line that cancels the successor."""


def write_by_mpirun(
    request: JobRequest,
    dialect: Dialect,
    directives: Iterable[str],
    output: Sequence[str] = (),
) -> str:
    """Return the script of a job.

    `output` are the lines that say where the output goes, if a directive can't.
    """
    again = ""
    if request.source is not None:
        again = f"{dialect.submit} {join_words([request.source.path])}"
    return finish(
        [
            write_head(request, again),
            [f"{dialect.mark} {line}" for line in directives],
            "",
            write_source(request, with_list=False),
            [*output],
            *_write_body(request, dialect),
        ]
    )


def _write_body(request: JobRequest, dialect: Dialect) -> Iterator[list[str] | str]:
    """Yield the blocks of a script behind its directives."""
    script = dialect.name
    if request.source is not None:
        script = request.source.path.rpartition("/")[2]
    yield [*_assign(request, dialect), ""]
    if request.source is None and dialect.enter:
        yield [*dialect.enter, ""]
    if request.launcher is Launcher.MPIRUN:
        yield [_RESULT_STATE, ""]
    if request.going_on is GoingOn.NOT:
        yield from _run(request, dialect, script)
    else:
        yield [RECORDED, ""]
        yield _before(request, dialect, script)
        yield from _run(request, dialect, script)
        yield _after(request, dialect, script)
    yield 'exit "$status"'


def _run(request: JobRequest, dialect: Dialect, script: str) -> Iterator[str]:
    """Yield the lines that start the farm, wait for its end, and judge its status."""
    is_judged = request.launcher is Launcher.MPIRUN
    launched, article = ("ranks", "an mpirun") if is_judged else ("run", "a farm")
    last = dialect.last_signal if request.going_on is GoingOn.REQUEUE else ""
    signals = " ".join(each for each in dialect.signals.split() if each != last)
    yield trap_signal(dialect.signal, launched, article, signals)
    if last:
        yield _TRAP_LAST.format(signal=last, variable=launched)
    yield ""
    if is_judged:
        yield "state=$(result_state)"
        yield dialect.hint
    yield f"{_launch(request, dialect)} &"
    yield wait_for(launched, article)
    yield ""
    if is_judged:
        yield _JUDGE.format(script=script)
        if request.going_on is not GoingOn.NOT:
            yield ""


def _assign(request: JobRequest, dialect: Dialect) -> list[str]:
    alone = " --mpi off" if request.launcher is Launcher.NONE else ""
    workers = "auto" if request.cpus is None else str(request.cpus)
    in_array = " --in-array" if request.array else ""
    python = join_words(request.python)
    proc = f" --proc {workers}" if request.chooses_workers else ""
    farm = f"farm=({python} -m mpifarm{alone}{proc}{in_array})"
    lines = []
    if dialect.option:
        lines.append(dialect.limit)
    every = "auto: a worker for each CPU" if request.cpus is None else ""
    lines.append((farm, every))
    tasklist = "tasklist=${tasklist:-tasks.txt}"
    if request.source is not None:
        tasklist = f"tasklist={join_words(request.source.words[:1])}"
    lines.append((tasklist, ""))
    lines.append(name_workdir(request, "${tasklist}"))
    return assign(request, lines)


def _launch(request: JobRequest, dialect: Dialect) -> str:
    limit = f" {dialect.option}" if dialect.option else ""
    farm = f'"${{farm[@]}}"{limit} --workdir "$workdir" "$tasklist" "$@"'
    if request.launcher is Launcher.NONE:
        return farm
    program, *options = request.mpirun
    words = [join_words([program]), "-n", dialect.ranks, "--bind-to none", *options]
    return f"{' '.join(words)} \\\n  {farm}"


_TRAP_LAST: Final = """\
is_over=  # after {signal}: no exit status puts the job back into the queue then
trap 'is_over=yes; again=yes; [[ ! ${variable} ]] || pass_on' {signal}"""

_RESULT_STATE: Final = """\
# Identifies result.json: a farm that ends by itself writes a new one.
result_state() { stat -c "%i %z" "$workdir/result.json" 2>/dev/null; }"""

_JUDGE: Final = """\
# An mpirun may end with 0 though all its ranks were killed.
if ((status == 0)) && [[ $(result_state) == "$state" ]] \\
  && grep -Eqv "^(#|\\s*$)" "$tasklist"; then
  echo "{script}: the farm was killed before its end; submit the same again" >&2
  status=75
fi"""


# ---- jobs that go on -----------------------------------------------------------------


def _before(request: JobRequest, dialect: Dialect, script: str) -> str:
    if request.going_on is GoingOn.CHAIN:
        assert request.source is not None
        path = join_words([request.source.path])
        counted = COUNT_LINKS.format(script=script, most=MAX_IDLE)
        return f"{counted}\n\n{dialect.chain_before.format(path=path)}\n"
    return f"{_COUNT_RUNS.format(job=dialect.job)}\n"


def _after(request: JobRequest, dialect: Dialect, script: str) -> str:
    is_chain = request.going_on is GoingOn.CHAIN
    comment = RUN_AGAIN.format(run="link" if is_chain else "run")
    after = CHAIN_AFTER if is_chain else _REQUEUE_AFTER
    written = after.format(
        script=script,
        is_left=IS_LEFT,
        most=MAX_IDLE,
        job=dialect.job,
        requeue=dialect.requeue,
        unless_over=_UNLESS_OVER.format(script=script) if dialect.last_signal else "",
        cancel=dialect.chain_cancel,
    )
    return f"{comment}\n{written}"


_COUNT_RUNS: Final = """\
# idle: how many runs before this one, in a row, have recorded nothing.
idle_file=$workdir/job-{job}.idle
idle=$(cat "$idle_file" 2>/dev/null)
[[ $idle =~ ^[0-9]+$ ]] || idle=0
before=$(recorded)"""

_UNLESS_OVER: Final = """\
if [[ $is_over ]]; then
    echo "{script}: not requeued, because the job was deleted or reached its time" \\
      "limit: submit the same again" >&2
  el"""

_REQUEUE_AFTER: Final = """\
if {is_left}; then
  if (($(recorded) > before)); then idle=0; else idle=$((idle + 1)); fi
  {unless_over}if ((idle > {most})); then
    echo "{script}: not requeued, because the last four runs recorded nothing" >&2
    status=1
  elif echo "$idle" >"$idle_file"; then
    echo "{script}: the job goes on as job {job} again, back in the queue:" \\
      "there is nothing to submit"
    {requeue}
  else  # it could go on for ever
    echo "{script}: not requeued, because the disk does not keep how many runs" \\
      "recorded nothing" >&2
    status=1
  fi
fi
rm -f "$idle_file\""""
