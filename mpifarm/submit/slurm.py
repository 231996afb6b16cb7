"""Job scripts for Slurm.

Rules of this file: pure; a request in, the text of a script out.  The directives are
those of sbatch 22.05 (its man page).
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from mpifarm.model.durations import clock_of
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

_NAMES: Final = """
account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment
constraint container container-id core-spec cores-per-socket cpu-freq cpus-per-gpu
cpus-per-task deadline delay-boot dependency distribution error exclude exclusive export
export-file extra extra-node-info get-user-env gid gpu-bind gpu-freq gpus gpus-per-node
gpus-per-socket gpus-per-task gres gres-flags hint input job-name kill-on-invalid-dep
licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus
network nice nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu
ntasks-per-node ntasks-per-socket open-mode output partition power prefer priority
profile propagate qos reservation signal sockets-per-node switches thread-spec
threads-per-core time time-min tmp tres-bind tres-per-task uid wait-all-nodes wckey wrap
"""
_OF_PLUGINS: Final = """
container-entrypoint container-env container-image container-mounts container-name
container-save container-workdir entrypoint image module volume
"""
OPTIONS: Final = frozenset((_NAMES + _OF_PLUGINS).split())
"""The options of sbatch that take a value, with those of Shifter and of pyxis."""

CPUS: Final = '"$SLURM_CPUS_PER_TASK"'

_PLAIN = re.compile(r"[\w./:@%+,=\[\]-]+", re.ASCII)


def write_script(request: JobRequest) -> str:
    """Return the script of a job."""
    again = "sbatch"
    if request.source is not None:
        again = join_words(["sbatch", request.source.path])
    return finish(
        [
            write_head(request, again),
            [f"#SBATCH {line}" for line in _directives(request)],
            "",
            write_source(request),
            *_body(request),
        ]
    )


_OVERRIDING: Final = (
    *("ACCOUNT", "ARRAY_INX", "ERROR", "EXCLUSIVE", "JOB_NAME", "NO_KILL"),
    *("NO_REQUEUE", "OPEN_MODE", "OUTPUT", "PARTITION", "QOS", "REQUEUE", "SIGNAL"),
    *("TIMELIMIT", "WAIT"),
)
_OVERRIDING_MEMORY: Final = ("MEM_PER_CPU", "MEM_PER_GPU", "MEM_PER_NODE")
_OVERRIDING_SWITCHES: Final = ("REQ_SWITCH", "WAIT4SWITCH")

_SHORT: Final = {
    "-C": "constraint",
    "-d": "dependency",
    "-e": "error",
    "-G": "gpus",
    "-i": "input",
    "-m": "distribution",
    "-M": "clusters",
    "-o": "output",
    "-O": "overcommit",
    "-S": "core-spec",
}
"""The short options of sbatch that have a variable, or that submit heeds, and that are
none of its own."""


def find_overriding(request: JobRequest) -> frozenset[str]:
    """Return the variables that sbatch would heed in place of the script's directives.

    What users set by some of them is in the script, and what they typed is there, too.
    """
    names = [*_OVERRIDING]
    if request.cpus is None:
        names += _OVERRIDING_MEMORY
    for option in name_options(request.directives):
        names += _name_variables(option)
    # Of two options there are variables of srun, which sbatch heeds as well.
    others = {f"SLURM_{name}" for name in ("CLUSTERS", "HINT") if name in names}
    return frozenset(f"SBATCH_{name}" for name in names) | others


def name_options(directives: Iterable[str]) -> set[str]:
    """Return the names of the options in directives, the long ones, without dashes."""
    words = [word.lstrip('"') for line in directives for word in line.split()]
    short = {_SHORT[word[:2]] for word in words if word[:2] in _SHORT}
    long = (word for word in words if word.startswith("--"))
    return short | {_complete(word[2:].partition("=")[0]) for word in long}


def waits_for_jobs(directives: Iterable[str]) -> bool:
    """Return whether directives name jobs that have to end first."""
    return "dependency" in name_options(directives)


def _complete(name: str) -> str:
    """Return the name of an option that may be abbreviated, as sbatch takes it."""
    if name in OPTIONS:
        return name
    found = [each for each in OPTIONS if each.startswith(name)]
    return found[0] if len(found) == 1 else name


def find_clusters(directives: Iterable[str]) -> str:
    """Return the clusters to which directives send a job, as they name them, or ""."""
    for line in directives:
        try:
            words = shlex.split(line)
        except ValueError:  # sbatch will tell
            continue
        for word, following in zip(words, [*words[1:], ""], strict=True):
            name, equals, value = word.partition("=")
            if word.startswith("-M"):
                return word[2:] or following
            if name.startswith("--") and _complete(name[2:]) == "clusters":
                return value if equals else following
    return ""


def _name_variables(option: str) -> Sequence[str]:
    """Return what the variables of an option are called behind ``SBATCH_``."""
    if option == "mem" or option.startswith("mem-per-"):
        return _OVERRIDING_MEMORY
    if option == "switches":
        return _OVERRIDING_SWITCHES
    return [option.upper().replace("-", "_")]


def quote_directive(word: str) -> str:
    """Return a word of a directive that sbatch reads as it is."""
    if _PLAIN.fullmatch(word):
        return word
    escaped = re.sub(r'(["\\])', r"\\\1", word)
    return f'"{escaped}"'


# ---- directives ----------------------------------------------------------------------


def _directives(request: JobRequest) -> Iterator[str]:
    time = f"--time={clock_of(request.seconds)}"
    if request.is_backfill:
        time += f" --time-min={clock_of(_least_time(request))}"
    yield f"--job-name={quote_directive(request.name)} {time}"
    yield _size(request)
    yield _end(request)
    if request.array:
        yield f"--array=1-{request.array}"
    where = {
        "account": request.account,
        "partition": request.partition,
        "qos": request.qos,
    }
    if named := [f"--{k}={quote_directive(v)}" for k, v in where.items() if v]:
        yield " ".join(named)
    if request.after:
        yield f"--dependency={request.dependency}"
    if request.source is not None and (output := output_pattern(request)):
        yield f"--output={quote_directive(output)}"
    yield from request.directives


def _least_time(request: JobRequest) -> int:
    """Return the seconds to which Slurm may shorten a job: an eighth of them.

    The clock of Slurm has minutes.
    """
    least = max(request.seconds // 8, 2 * request.lead)
    return min(-(-least // 60) * 60, request.seconds)


def _size(request: JobRequest) -> str:
    nodes = "" if request.nodes is None else f"--nodes={request.nodes} "
    if request.cpus is None:
        return f"{nodes}--ntasks-per-node=1 --exclusive --mem=0"
    tasks = "--ntasks=1" if request.nodes == 1 else "--ntasks-per-node=1"
    return f"{nodes}{tasks} --cpus-per-task={request.cpus}"


def _end(request: JobRequest) -> str:
    """Return the directive of the signal before the end, and what follows the end."""
    to_shell = "" if _signals_ranks(request) else "B:"
    words = [f"--signal={to_shell}USR1@{request.lead}"]
    if request.is_supervised:
        words.append("--no-kill")
    if request.going_on is GoingOn.CHAIN:
        words.append("--no-requeue")  # each start of a link submits a successor
    elif request.going_on is GoingOn.REQUEUE or request.is_backfill:
        words += ["--requeue", "--open-mode=append"]
    return " ".join(words)


def _signals_ranks(request: JobRequest) -> bool:
    """Return whether the signal before the end goes to the ranks, not to the shell."""
    return (
        request.launcher is Launcher.SRUN
        and not request.is_supervised
        and request.going_on is GoingOn.NOT
    )


def output_pattern(request: JobRequest) -> str:
    """Return the path of the output as Slurm takes it, "" for a path that it can't.

    A backslash would switch off the number of the job in it.
    """
    assert request.source is not None
    workdir = request.source.workdir
    if "\\" in workdir or not workdir.isprintable():
        return ""
    number = "%A_%a" if request.array else "%j"
    return f"{workdir.replace('%', '%%')}/job-{number}.out"


# ---- the body ------------------------------------------------------------------------


def _body(request: JobRequest) -> Iterator[list[str] | str]:
    if request.going_on is GoingOn.NOT:
        yield from _write_once(request)
    else:
        yield _assignments(request)
        yield ""
        yield from _write_going_on(request)


def _assignments(request: JobRequest) -> list[str]:
    lines = []
    if request.launcher is Launcher.SRUN:
        fits = "MPICH and its like; pmix for Open MPI"
        lines.append((f"mpi={request.pmi or 'pmi2'}", "" if request.pmi else fits))
    if request.going_on is not GoingOn.NOT:
        lines.append(name_workdir(request, "$1"))
    alone = request.launcher is Launcher.NONE
    mpi = " --mpi off" if alone else ""
    workers = "auto" if request.cpus is None else CPUS
    comment = "auto: a worker for each CPU" if request.cpus is None else ""
    python = join_words(request.python)
    proc = f" --proc {workers}" if request.chooses_workers else ""
    lines.append((f"farm=({python} -m mpifarm{mpi}{proc})", comment))
    written = assign(request, lines)
    if request.array or _may_be_array(request):
        written.append("[[ ! ${SLURM_ARRAY_JOB_ID:-} ]] || farm+=(--in-array)")
    return written


def _may_be_array(request: JobRequest) -> bool:
    """Return whether a script without a source may be submitted as an array."""
    is_small = request.launcher is Launcher.NONE and request.cpus is not None
    return request.source is None and is_small and not request.is_backfill


def _launch(request: JobRequest) -> str:
    """Return the words that start the farm, without its list and options."""
    supervise = f"{join_words(request.python)} -m mpifarm supervise --"
    if request.launcher is Launcher.NONE:
        farm = '"${farm[@]}"'
        return f"{supervise} {farm}" if request.is_supervised else farm
    cpus = "" if request.cpus is None else f" --cpus-per-task={CPUS}"
    survives = " --no-kill" if request.is_supervised else ""
    options = f"--cpu-bind=none{cpus} --export=ALL -K0{survives}"
    srun = f'srun --mpi="$mpi" {options} "${{farm[@]}}"'
    return f"{supervise} \\\n  {srun}" if request.is_supervised else srun


def _write_once(request: JobRequest) -> Iterator[list[str] | str]:
    yield _assignments(request)
    yield ""
    alone = request.launcher is Launcher.NONE
    if request.is_supervised and not alone:
        yield _NO_KILL
        yield f'exec {_launch(request)} "$@"'
    elif alone:
        yield _EXEC
        yield f'exec {_launch(request)} "$@"'
    else:
        yield _TRAP_FULL
        yield ""
        yield _ONE_RANK_EACH
        if request.source is None:
            yield _STATUS_OF_SRUN
        yield f'{_launch(request)} "$@"'


_EXEC: Final = """\
# exec: the signal before the time limit goes to the batch shell's process only."""

_NO_KILL: Final = """\
# --no-kill: a node that dies ends neither the job nor the farm.
# exec: the signal before the time limit goes to the batch shell's process only."""

_TRAP_FULL: Final = """\
# `scancel --full --signal=USR1` comes to this shell as well, which would die of it.
trap : USR1"""

_ONE_RANK_EACH: Final = """\
# --cpu-bind=none: a rank's commands may use all CPUs that the job has on its node.
# -K0: when a rank dies, the others run what it had (not without rank 0).
# --export=ALL: the ranks get this shell's variables, whatever sbatch --export says."""

_STATUS_OF_SRUN: Final = """\
# srun ends with 137 all the same; supervised.slurm ends with the status of the farm."""


# ---- jobs that go on -----------------------------------------------------------------


def _write_going_on(request: JobRequest) -> Iterator[list[str] | str]:
    is_chain = request.going_on is GoingOn.CHAIN
    script = "chain.slurm" if is_chain else "requeue.slurm"
    if request.source is not None:
        script = request.source.path.rpartition("/")[2]
    else:
        yield _CHECK_ARGUMENTS.format(script=script)
        yield ""
    yield RECORDED
    yield ""
    launched, an_srun = "step", "an srun"
    if request.launcher is Launcher.NONE:
        an_srun = "a farm"
    yield trap_signal("The signal comes to this shell only.", launched, an_srun)
    yield ""
    before = _CHAIN_BEFORE if is_chain else _REQUEUE_BEFORE
    # Of a job that Slurm has shortened, the limit would shrink from link to link.
    time = "" if request.is_backfill else _TIME_OF_THIS
    yield before.format(script=script, most=MAX_IDLE, time=time)
    yield f'{_launch(request)} --workdir "$workdir" "$@" &'
    yield wait_for(launched, an_srun)
    yield ""
    yield RUN_AGAIN.format(run="link" if is_chain else "run")
    after = CHAIN_AFTER if is_chain else _REQUEUE_AFTER
    yield after.format(
        script=script, is_left=IS_LEFT, most=MAX_IDLE, cancel=_CHAIN_CANCEL
    )
    yield 'exit "$status"'


_CHECK_ARGUMENTS: Final = """\
case $1 in "" | -*)
  echo "{script}: the tasklist comes first, then options" >&2
  exit 2 ;;
esac
case " $*" in *" -w"* | *" --w"*)
  echo "{script}: the workdir is set at the top of the script, not by an option" >&2
  exit 2 ;;
esac"""

_REQUEUE_BEFORE: Final = """\
# idle: how many runs before this one, in a row, have recorded nothing.  Slurm keeps the
# number, in the job's comment: a disk that fails could not.
comment=$(squeue -h -j "$SLURM_JOB_ID" -o %k)
[[ $comment =~ idle=([0-9]+)$ ]] && idle=${{BASH_REMATCH[1]}} || idle=0

before=$(recorded)"""

_REQUEUE_AFTER: Final = """\
if {is_left}; then
  if (($(recorded) > before)); then idle=0; else idle=$((idle + 1)); fi
  if ((idle > {most})); then
    echo "{script}: not requeued, because the last four runs recorded nothing" >&2
  elif scontrol update job="$SLURM_JOB_ID" comment="${{comment%idle=*}}idle=$idle" \\
    || ((idle == 0 || ${{SLURM_RESTART_COUNT:-0}} <= {most})); then
    echo "{script}: the job goes on as job $SLURM_JOB_ID again, back in the queue:" \\
      "there is nothing to submit"
    # also a job that has lost a node, so has no count
    scontrol requeue "$SLURM_JOB_ID" \\
      || echo "{script}: not requeued by Slurm: submit the same again" >&2
  else
    echo "{script}: not requeued, because Slurm does not keep how many runs" \\
      "recorded nothing" >&2
  fi
fi"""

_TIME_OF_THIS: Final = '--time="$(squeue -h -j "$SLURM_JOB_ID" -o %l)" '

_CHAIN_BEFORE: Final = (
    COUNT_LINKS
    + """
successor=$(sbatch --parsable --export=ALL --dependency="afterany:$SLURM_JOB_ID" \\
  --nodes="$SLURM_JOB_NUM_NODES" {time}\\
  --partition="$SLURM_JOB_PARTITION" --job-name="$SLURM_JOB_NAME" \\
  ${{SLURM_JOB_ACCOUNT:+--account="$SLURM_JOB_ACCOUNT"}} "$0" "$@")
"""
)

_CHAIN_CANCEL: Final = 'scancel "${successor%%;*}"'
