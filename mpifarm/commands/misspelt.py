"""Sentences about words in a command line that mean nothing to mpifarm.

Rules of this file: pure, except that it asks whether files exist; imported for mistakes
only.  A word of another tool gets the sentence with mpifarm's word for the same.  A
near spelling is offered only if the word is really near.
"""

import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from mpifarm.commands import SUBCOMMANDS
from mpifarm.commands.option_values import (
    ANY_ORDER,
    EVER,
    FOLLOW,
    SHUFFLE,
    Kind,
)
from mpifarm.model.nearness import SURELY_NEAR, find_near_word

NEAR = 0.65
"""The least likeness of two names without their dashes: grade and grace are alike,
setup and help are not, restart and retries are not."""

NEAR_WITHOUT_DASHES = 0.8
"""The least likeness for a word without dashes: hello is not meant to be --help."""

MAX_NEAR = 4

FOLLOW_EVER: Final = f"--follow={EVER}"
"""The word that stands for ``--follow`` without seconds."""

SHUFFLE_ANY: Final = f"--shuffle={ANY_ORDER}"
"""The word that stands for ``--shuffle`` without a seed."""

DASHES: Final = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
"""Characters that word processors and PDFs make of a hyphen."""


def _by_name(table: Mapping[str, str]) -> Mapping[str, str]:
    """Return `table` with a row for each name in a key."""
    return {name: said for names, said in table.items() for name in names.split()}


_AFRESH = (
    "to start all tasks afresh: mpifarm LIST --again, which keeps the workdir of before"
    " beside the new one"
)

COMMANDS_OF_OTHERS: Final = _by_name({
    "stat info progress state watch top htop monitor summary dashboard eta ps squeue"
    " qstat bjobs": (
        "mpifarm status LIST says what is finished and failed, what runs where since"
        " when, and how long it takes still; --watch shows it again and again"
    ),
    "list queue show find filter dir": (
        "mpifarm ls LIST lists the tasks, and --failed, --running, --waiting or"
        " --slowest 10 some of them"
    ),
    "stats statistics report timing profile": (
        "LIST_workdir/result.json has the last farm's figures, attempts.tsv a line for"
        " each attempt, and mpifarm ls LIST --slowest 10 the slowest tasks"
    ),
    "history accounting sacct attempts job-log": (
        "attempts.tsv in the workdir has a line for each attempt, and mpifarm joblog"
        " LIST --gnu prints them as GNU parallel does"
    ),
    "sbatch qsub bsub enqueue job batch": (
        "mpifarm submit -N 8 -t 4:00:00 LIST submits a job that farms the list"
    ),
    "run start launch exec execute farm go process": (
        "give the list alone, mpifarm LIST; the same command goes on where the last"
        " one stopped"
    ),
    "resume continue": (
        "mpifarm release LIST lets held tasks start; after a stop, give the farm's own"
        " command again, and it goes on where that was"
    ),
    "wait attach join": (
        "mpifarm status LIST --watch shows the state again and again, and ends with the"
        " farms"
    ),
    "limit throttle scale resize": (
        "--limit and --start-rate are options of a farm; in a farm that runs, mpifarm"
        " hold LIST has it start nothing more, and mpifarm release LIST lets it go on"
    ),
    "stop kill abort terminate quit end": (
        "to stop now, send USR1 to any rank (scancel -s USR1 JOB); mpifarm drain LIST"
        " lets running tasks end, and mpifarm cancel LIST ID ends single tasks"
    ),
    "scancel qdel bkill cancelled delete-task skip": (
        "mpifarm cancel LIST ID ends tasks of a running farm, or keeps them from"
        " starting"
    ),
    "pause suspend freeze qhold": (
        "mpifarm hold LIST has running farms start nothing more, and mpifarm hold LIST"
        " ID holds single tasks; mpifarm release lets them start"
    ),
    "unpause unhold qrls thaw unsuspend": "mpifarm release LIST lets held tasks start",
    "explain reason reasons cause causes failed failures fails debug": (
        "mpifarm why LIST says why tasks failed, in groups, one for each cause"
    ),
    "requeue rescue": (
        "mpifarm retry LIST puts failed tasks back, and the same farm runs them"
    ),
    "rerun redo reset restart": (
        "the same command, mpifarm LIST, goes on where the last one stopped, and"
        f" mpifarm retry LIST puts failed tasks back; {_AFRESH}"
    ),
    "sql sqlite sqlite3 query database db convert dump": (
        "mpifarm export LIST --sqlite FILE.db makes a database of all that is known,"
        " for sqlite3, and mpifarm import LIST FILE.db one to farm"
    ),
    "logs output outputs results cat tail stdout errors": (
        "mpifarm log LIST ID prints what a task has written, and mpifarm log LIST"
        " --failed what failed tasks have"
    ),
    "repair fix fsck verify validate recover": (
        "mpifarm check LIST says what is wrong in a workdir, and --repair mends it"
    ),
    "test diagnose health": (
        "mpifarm doctor says whether MPI, launcher, disk and batch system fit here, and"
        " mpifarm selftest tests this cluster's disks and MPI"
    ),
    "clean clear purge delete remove rm": (
        f"to end or skip single tasks: mpifarm cancel LIST ID; {_AFRESH}; to remove all"
        " that is known of a list: rm -r LIST_workdir, once no farm runs there"
    ),
    "init setup create new server worker workers alloc": (
        "nothing is prepared or kept running: mpifarm LIST makes the workdir and starts"
    ),
    "append push": "mpifarm add LIST 'COMMAND' adds a task, also while a farm runs",
    "configure settings options preferences defaults env": (
        "mpifarm config says what each option is here, and which file or variable says"
        " so"
    ),
    "trace traces perfetto chrome gantt": (
        "mpifarm timeline LIST -o FILE writes which worker ran which task when, for"
        " https://ui.perfetto.dev"
    ),
    "usage": "mpifarm --help",
})  # fmt: skip
"""Subcommands of other tools, with a sentence about the same in mpifarm."""

_AGAIN = (
    "none is needed: the same command goes on where the last one stopped, and mpifarm"
    " retry LIST puts failed tasks back"
)
_LAUNCHER = (
    "nodes, CPUs and memory are asked for by sbatch, srun or mpirun: give it to them,"
    " before python -m mpifarm, or to mpifarm submit, before the list"
)
_LIST = "the list needs no option: mpifarm LIST"
_KEPT = (
    "each task's output is in the workdir, logs/log_ID, and mpifarm log LIST ID"
    " prints it"
)
_LINES = (
    "mpifarm 'COMMAND {}' ::: a b runs COMMAND a and COMMAND b, and behind :::: stands"
    " a FILE with an argument on each line (- for standard input); a second one is"
    " linked to it by ::::+"
)
_NONE_RUNS = "nothing is kept running: mpifarm LIST starts, works, and ends"
_PROC = "-n N (--proc N) is the number of tasks at one time on each rank"
_CPUS = (
    "mpifarm doctor says how many CPUs (hardware threads) a farm may use here, -n auto"
    " runs a task on each, and -n 50% on half of them"
)
_NEEDLESS = "none is needed: leave it out"

OPTIONS_OF_OTHERS: Final = _by_name({
    "--jobs -j --workers --worker -P --max-procs --np -np --nproc --nprocs --processes"
    " --num-workers --cores --procs --tasks-at-once": _PROC,
    "--tasks-per-node --jobs-per-node": (
        f"{_PROC}, and mpirun or srun starts a rank on each node"
    ),
    "--number-of-cpus --number-of-cores --number-of-threads --number-of-sockets"
    " --use-cores-instead-of-threads --use-sockets-instead-of-threads"
    " --use-cpus-instead-of-cores": _CPUS,
    "--resume --continue --resume-failed --requeue --resume-from --use-status-file"
    " --append": _AGAIN,
    "--restart --rerun": f"{_AGAIN}; {_AFRESH}",
    "--fresh --force --overwrite --reset": _AFRESH,
    "--retry-failed --rerun-failed --only-failed --failed-only": (
        "mpifarm retry LIST puts failed tasks back, and the same command runs them"
    ),
    "--joblog --jl --job-log --logfile --log-file --report --statusfile": (
        "attempts.tsv in the workdir has a line for each attempt, and mpifarm joblog"
        " LIST --gnu prints them as GNU parallel does"
    ),
    "--results --result --output -o --outputdir --output-dir --error --stdout --stderr"
    " --group --ungroup -u --files"
    " --output-as-files --outputasfiles --res --latest-line --ll --stream": _KEPT,
    "--compress --compress-program --use-compress-program --decompress-program"
    " --use-decompress-program": f"{_KEPT}; --logs packed keeps it in a few files",
    "--color --colour --color-failed --colour-failed --color-fail --colour-fail --cf": (
        "what a task prints is kept as it is, and with pip install 'mpifarm[rich]',"
        " mpifarm ls LIST has colours on a terminal"
    ),
    "--keep-order --no-keep-order -k": (
        "each task's output is in the workdir, and mpifarm log LIST prints all of them"
        " in the order of the list"
    ),
    "--tag --tagstring --ctag --ctag-string --line-buffer --line-buffered --lb": (
        "each task's output is in the workdir, and mpifarm log LIST --tag prints all"
        " lines, each with its task (with -f also while the tasks run)"
    ),
    "--halt --halt-on-error --fail-fast --exit-on-error --stop-on-error --bail": (
        "--max-failures 1 stops the farm at the first failed task (fail=5% is"
        " --max-failures 5%); tasks that run are put back"
    ),
    "--max-fails --maxfails --crash-limit": (
        "--max-failures N stops the farm when N tasks have failed, and --retries N runs"
        " a failed task again"
    ),
    "--eta --bar --status --total-jobs --total --monitor": (
        "the farm shows its progress anyway, and mpifarm status LIST shows it elsewhere"
    ),
    "--watch --wait": (
        "a farm is waited for anyway, and mpifarm status LIST --watch shows it"
        " elsewhere until it ends"
    ),
    "--delay --stagger --interval --rate --max-rate --rate-limit --throttle": (
        "--start-rate 30/m starts at most thirty tasks in a minute on all ranks"
        " together, one each two seconds, and --start-rate 2 two in a second"
    ),
    "--load --max-load --memsuspend --noswap --limit-load": (
        "the nodes of a job are yours: --proc N is the number of tasks at one time on"
        " each rank, and --limit NAME=N bounds the tasks of a kind"
    ),
    "--memory --mem-per-task --memfree": (
        "--task-memory 4G limits the processes of a task, each and all together, and"
        " --proc N is the number of tasks at one time"
    ),
    "--nice": "say it in the command, nice -n 10 ..., or in front: nice mpifarm LIST",
    "--dryrun --dry_run --no-run --just-print": (
        "--dry-run shows what would run, mpifarm check LIST what is finished and left,"
        " and --canary 4 runs four tasks before any other"
    ),
    "--record-env --session": (
        "none is needed: commands have the environment of mpifarm, and --setup 'source"
        " env.sh' runs before each, in its shell"
    ),
    "--prolog --prologue --pre --init --env --env-file --module --source --preamble": (
        "--setup 'source env.sh' runs before each command, in its shell; what the job"
        " script has set before mpifarm, commands have as well"
    ),
    "--wd --cwd --directory --cd -D --task-dir": (
        "--chdir DIR is where the commands run, --workdir DIR where progress and logs"
        " are kept"
    ),
    "--prefix --tmpdir --tempdir --server-dir --context-dir": (
        "--workdir DIR is where progress and logs are kept (default: LIST_workdir)"
    ),
    "--arg-file --a -a --file -f --input --taskfile --task-file --commands"
    " --command-file --joblist --list -i --from-json --each-line": _LIST,
    "--profile": (
        "options for many farms stand in ~/.config/mpifarm/config.ini, and mpifarm"
        " config says what each is here"
    ),
    "--process-slot-var --slot-replace": (
        "each command has the number of its worker in $MPIFARM_WORKER"
    ),
    "--colsep -C --csv -d --delimiter -0 --null -I -L --max-lines --max-args"
    " --max-replace-args -X -m --xargs --trim --rpl --parens --plus --link --xapply"
    " --arg-sep --arg-file-sep --replace -U --extension-replace --basename-replace"
    " --dirname-replace --basename-extension-replace --seq-replace --er --bnr --dnr"
    " --bner --eof -E -e -l --max-chars -s --max-line-length-allowed --show-limits"
    " --link-input-source --xapply-input-source --skip-first-line": _LINES,
    "--header": (
        "there are no named parameters: use {1} {2} for those of the first and the"
        " second :::"
    ),
    "--sem --semaphore --semaphore-name --semaphore-timeout --st --licence --licences"
    " --license --licenses --seats": (
        "--limit NAME=N runs at most N tasks of the kind NAME at a time, which the list"
        " has as [limit=NAME] COMMAND"
    ),
    "-q --silent": "--quiet prints warnings and errors alone",
    "--shell --use-shell": "a line runs as /bin/bash -c would run it: leave it out",
    "--quote --shell-quote": (
        "quote the command as for a shell: mpifarm 'echo \"a  b\" {}' ::: 1 2"
    ),
    "--debug -x": "-v prints a line for each task",
    "--will-cite --no-notice --nn --citation --bibtex --no-run-if-empty --gnu --plain"
    " --tollef --bug --unsafe --ctrl-c --no-ctrl-c": _NEEDLESS,
    "--shuf --randomize --random --random-order": (
        "--shuffle starts tasks in a random order, --shuffle 42 in the same one again"
    ),
    "--priority --sort --longest --longest-first --lpt": (
        "tasks start in the order of the list, of which lines can be moved; --order"
        " longest-first starts those first that took longest before"
    ),
    "--max-time --time-limit --job-timeout --task-limit --time-request": (
        "--task-timeout TIME is for each task, --timeout TIME for the farm, and"
        " --task-time TIME says how long a task takes"
    ),
    "--term-seq --termseq --killtimeout": (
        "--grace TIME lies between TERM and KILL, and --checkpoint-signal SIG is sent"
        " in place of TERM at a stop"
    ),
    "--idle-timeout --linger": "--follow TIME waits so long for lines that are added",
    "--on-exit --on-finish --on-completion --at-exit --epilog --epilogue --post": (
        "--on-end COMMAND runs it by the shell when the farm has ended"
    ),
    "--on-error --on-fail": (
        "--on-failure COMMAND runs it by the shell when tasks have failed"
    ),
    "--pin": "--bind gives each worker its own share of the rank's CPUs",
    "--retire-cmd --no-retire --startup-only --ssh-node --context-launch"
    " --use-address --mailto --mailfreq --mail": _NONE_RUNS,
    "--pipe --pipe-part --block --block-size --block-timeout --bt --spreadstdin --fifo"
    " --cat --tee --round-robin --round --shard --bin --group-by --recstart --recend"
    " --regexp --regex --remove-rec-sep --rrs --tmux --tmux-pane --stdin --interactive"
    " --open-tty --tty --template --tmpl --embed --shebang --hashbang"
    " --fg --bg --nonall --onall --basefile --bf --transfer --trc --return --cleanup"
    " --transfer-files --transfer-file --tf --sql --sql-master --sql-worker"
    " --sql-and-worker": (
        "mpifarm runs a list of commands, each once, with nothing on its standard"
        " input: write what each reads into its line"
    ),
    "--sshlogin --sshloginfile -S --slf --hosts --host -H --hostfile --machinefile"
    " --filter-hosts --filter-host --host-groups --host-group --host-grp --hgrp --ssh"
    " --ssh-delay --controlmaster -M --rsync-opts --name"
    " --ntasks --nodes --ntasks-per-node --cpus-per-task -c"
    " --bind-to --map-by --cpu-bind --overlap --oversubscribe --exclusive --partition"
    " -p --account -A --qos --walltime --mem --mem-per-cpu --nodelist --exclude"
    " --job-name -J --array --begin --dependency --constraint --gres --cpus --resource":
        _LAUNCHER,
    "-N": (
        f"{_LAUNCHER}; two arguments for each command are sources that are linked,"
        " mpifarm 'COMMAND {1} {2}' :::: FILE ::::+ FILE"
    ),
})  # fmt: skip
"""Options of other tools, with a sentence about the same in mpifarm."""


def explain_theirs(name: str) -> str:
    """Return the sentence about an option of another tool, "" for any other word.

    GNU parallel takes ``--keeporder`` for ``--keep-order``, and disBatch has
    ``--tasksPerNode``.
    """
    if said := OPTIONS_OF_OTHERS.get(name, ""):
        return said
    if not name.startswith("--"):
        return ""
    joined = {_join(each): said for each, said in OPTIONS_OF_OTHERS.items()}
    return joined.get(_join(name), "")


def _join(name: str) -> str:
    """Return a long option without the dashes and capitals in it, and others whole."""
    if not name.startswith("--"):
        return name
    return "--" + name[2:].replace("-", "").replace("_", "").lower()


_SECOND_NAME = "the database is the second name: mpifarm import LIST FILE.db"

OPTIONS_OF_NO_SUBCOMMAND: Final[Mapping[str, Mapping[str, str]]] = {
    "add": _by_name({
        "--command -c": "the command stands behind the list: mpifarm add LIST 'COMMAND'"
    }),
    "check": _by_name({"--fix --mend": "--repair mends what is wrong"}),
    "export": _by_name({
        "--failed": "--state failed prints the failed tasks alone",
        "--database --db": "--sqlite FILE.db writes a database",
    }),
    "hold": {"--all": "without ids, farms start nothing more: mpifarm hold LIST"},
    "import": _by_name({
        "--output -o --sqlite --database --db": _SECOND_NAME,
    }),
    "log": _by_name({
        "--all -a": "without ids, all tasks are printed: mpifarm log LIST",
        "--tail --lines -n": "--last N prints the last N lines of each task",
    }),
    "ls": _by_name({
        "--all -a": "without options, all tasks are listed: mpifarm ls LIST",
        "--state --states": (
            "mpifarm ls LIST --failed lists the failed tasks, and --finished,"
            " --running and --waiting those in another state"
        ),
        "--node --nodes --hostname": "--host NAME lists the tasks of a host",
        "--task --tasks": "--ids 3,7-9 names tasks",
    }),
    "release": {"--all": "without ids, all tasks are released: mpifarm release LIST"},
    "retry": _by_name({
        "--all": "without options, all failed tasks are put back: mpifarm retry LIST",
        "--task --tasks": "--ids 3,7-9 names tasks",
    }),
    "status": _by_name({"--follow -f": "--watch shows the state again and again"}),
}  # fmt: skip
"""By subcommand: options that it has not, with a sentence about the same."""


def explain_dash(words: Iterable[str]) -> str:
    """Return a sentence about a word with a wrong dash in front, "" without such."""
    for word in words:
        if word and word[0] in DASHES and not os.path.exists(word):
            return f"{word} begins with a dash that is not '-': type it anew"
    return ""


def explain_command(word: str) -> str:
    """Return a sentence about a subcommand of another tool, "" for any other word."""
    if word.lower() not in COMMANDS_OF_OTHERS:
        return ""
    return (
        f"mpifarm has no {_shown(word)}, and no file of that name is here:"
        f" {COMMANDS_OF_OTHERS[word.lower()]}"
    )


def explain_near_command(word: str) -> str:
    """Return a sentence about a word alone that misspells a subcommand, or "".

    No file has this name, and if one has nearly this name, that is told elsewhere.
    A word with a dot or a slash, as status.txt, is meant for the name of a file.
    """
    from mpifarm.tasklists import name_near

    near = find_near_word(word.lower(), _FIRST_WORDS)
    if not near or "." in word or "/" in word or name_near(word):
        return ""
    return f"no file {word} is here: did you mean mpifarm {near}?"


_FIRST_WORDS: Final = (*SUBCOMMANDS, "help", "version")
"""The first words of command lines that are not a farm's."""


def explain_list_named_as_command(tasklist: str) -> str:
    """Return a sentence about a list with the name of a subcommand, or ``run``."""
    if tasklist not in SUBCOMMANDS:  # run, behind which another list would stand
        return (
            f"the file {tasklist} is taken for the list, because no list stands behind"
            f" it: say ./{tasklist} for the list"
        )
    return (
        f"the file {tasklist} is taken for the list, because no workdir stands behind"
        f" it: say ./{tasklist} for the list, or mpifarm {tasklist} WORKDIR for the"
        " command"
    )


def explain_words(
    words: Sequence[str], extra: Sequence[str], tasklist: str, options: Sequence[str]
) -> str:
    """Return a sentence about `extra`, the words that mean nothing in a farm's `words`.

    `tasklist` is the word taken for the list, `options` are all options of a farm.
    """
    return (
        explain_dash(words)
        or _explain_bare(FOLLOW_EVER, FOLLOW, words, tasklist, extra)
        or _explain_bare(SHUFFLE_ANY, SHUFFLE, words, tasklist, extra)
        or _explain_missing_dash(words, options)
        or _explain_command_behind(extra, words, tasklist, options)
        or _explain_extra_option(extra, words, tasklist, options)
        or _explain_surplus([tasklist, *extra], options)
    )


def _explain_missing_dash(words: Sequence[str], options: Sequence[str]) -> str:
    """Return a sentence about an option that lacks a dash, "" without such."""
    for word in words:
        if f"-{word}" in options:
            return f"{word} is not an option, did you mean -{word}?"
    return ""


def _explain_extra_option(
    extra: Sequence[str], words: Sequence[str], tasklist: str, options: Sequence[str]
) -> str:
    """Return a sentence about an unknown option, "" without such.

    The arguments are those of `explain_words`.
    """
    if said := explain_number(tasklist):
        return said
    for word in extra:
        name = word.partition("=")[0]
        if name in SUBCOMMANDS.get(tasklist, ()) and os.path.isfile(tasklist):
            return explain_list_named_as_command(tasklist)
        if len(word) > 1 and word.startswith("-") and " " not in word:
            said = _explain_letter(word, words) or _explain_option(word, options)
            return f"there is no option {_shown(word)}{said}"
    return ""


def explain_number(tasklist: str) -> str:
    """Return a sentence about an option such as -0 that was taken for the list, or "".

    argparse takes a negative number for a value.
    """
    if not re.fullmatch(r"-[0-9.]+", tasklist) or os.path.exists(tasklist):
        return ""
    return f"there is no option {tasklist}{_explain_option(tasklist, ())}"


def _explain_command_behind(
    extra: Sequence[str], words: Sequence[str], tasklist: str, options: Sequence[str]
) -> str:
    """Return a sentence about a subcommand that stands behind the list, or "".

    The arguments are those of `explain_words`.  A word may also be an option that
    lacks its dashes.
    """
    word = _find_command(extra)
    is_name = os.path.exists(word) or _find_spaced([tasklist, *extra]) != ""
    if not word or is_name or f"--{word}" in options:
        return ""
    if OPTIONS_OF_OTHERS.get(f"--{word}") == _PROC and extra[1:2] and is_ids(extra[1]):
        return f"{word!r} is one word too many: {_PROC}"
    has_options = any(each.startswith("-") for each in words)
    rest = [_REST] if has_options else extra[1:]
    if word in SUBCOMMANDS:
        return f"a subcommand stands first: {_put_first(word, tasklist, rest)}"
    if why := explain_command(word):
        return why
    near = find_near_word(word.lower(), [*SUBCOMMANDS])
    if near and not [*find_near(f"--{word}", options, NEAR_WITHOUT_DASHES)]:
        return f"{_shown(word)!r}: did you mean {_put_first(near, tasklist, rest)}?"
    return ""


def _find_command(extra: Sequence[str]) -> str:
    """Return the word among `extra` that may be meant for a subcommand, or "".

    Behind an unknown option it may be a value, unless the subcommand has that option.
    """
    word = next((each for each in extra if not each.startswith("-")), "")
    if not word or "=" in word:
        return ""
    if word is extra[0]:
        return word
    names = {each.partition("=")[0] for each in extra[: extra.index(word)]}
    return word if names.issubset(SUBCOMMANDS.get(word, ())) else ""


def _put_first(subcommand: str, tasklist: str, rest: Sequence[str]) -> str:
    """Return the command line of a subcommand; `_REST` stands for options in `rest`."""
    if subcommand in _TAKE_NO_LIST:
        return f"mpifarm {subcommand}"
    if subcommand == "submit" and rest == [_REST]:  # its options stand before the list
        return f"mpifarm submit {_REST} {shlex.quote(tasklist)}"
    words = [tasklist, *rest]
    if tasklist[:1].isdigit() and not os.path.exists(tasklist):
        words.sort(key=is_ids)  # of 3 cancel LIST, too, the list comes first
    return shlex.join(["mpifarm", subcommand, *words])


def _find_spaced(words: Sequence[str]) -> str:
    """Return the name of a file that the first of the `words` make, or ""."""
    names = (" ".join(words[:count]) for count in range(2, len(words) + 1))
    return next(filter(os.path.exists, names), "")


_REST: Final = "..."
"""What stands for the options in a command line."""

_TAKE_NO_LIST: Final = (
    *("completion", "config", "doctor", "jobs", "selftest", "supervise"),
)


def explain_key(
    key: str,
    options: Sequence[str],
    rest: str = ": mpifarm config lists all that a file may have",
) -> str:
    """Return the end of a sentence about a key of a file that is no option.

    `options` are those that a file may have.  Return `rest` if none is near.
    """
    name = "--" + key.lstrip("-").lower().replace("_", "-")
    near = [name] if name in options else [*find_near(name, options)]
    if near:
        return f", did you mean {_either([each[2:] for each in near])}?"
    if said := explain_theirs(name):
        return f": {said}"
    return rest


def _explain_bare(
    bare: str, kind: Kind, words: Sequence[str], tasklist: str, extra: Sequence[str]
) -> str:
    """Return a sentence about a word that is no value of the option before it, or "".

    `bare` is that option without a value.  The word is no file, and another word is
    there for the list.
    """
    if bare not in words[:-1]:
        return ""
    after = words[words.index(bare) + 1]
    lists = [each for each in (tasklist, *extra) if each == "-" or _is_there(each)]
    if after not in (tasklist, *extra) or after in lists or not lists:
        return ""
    return f"{bare.partition('=')[0]} takes {kind.takes}, not {after!r}"


def _is_there(word: str) -> bool:
    return not word.startswith("-") and os.path.exists(word)


def explain_extra(
    program: str,
    extra: Sequence[str],
    options: Sequence[str],
    of_farm: Collection[str] = (),
) -> str:
    """Return a sentence about `extra`, words that mean nothing to a subcommand.

    `program` is the name of the subcommand, `options` are its own options, and
    `of_farm` those of a farm.
    """
    if why := explain_dash(extra):
        return why
    for word in extra:
        if len(word) > 1 and word.startswith("-"):
            name = word.partition("=")[0]
            said = _explain_option_of(program, name, options, of_farm)
            return f"{program} has no option {_shown(word)}{said}"
    return _explain_surplus_of(program, extra)


def _explain_option_of(
    program: str, name: str, options: Sequence[str], of_farm: Collection[str]
) -> str:
    """Return the end of a sentence about an unknown option of a subcommand, or ""."""
    said = OPTIONS_OF_NO_SUBCOMMAND.get(program.split()[1], {}).get(name)
    if said or name in of_farm:
        return f": {said}" if said else _explain_option_of_farm(program, name)
    if near := [*find_near(name, options)]:
        return f", did you mean {_either(near)}?"
    if name in {"--id", "--ids", "--task", "--tasks"} and program in _TAKE_IDS:
        return f": ids need none, {program} LIST 3,7-9"
    if others := _name_those_with(name):
        return f"; {others}"
    if program == "mpifarm submit":
        return _explain_option_of_batch_system(name, [*of_farm])
    return ""


def _name_those_with(name: str) -> str:
    """Return ``mpifarm ls has one`` for an option of subcommands, or ""."""
    those = [each for each, options in SUBCOMMANDS.items() if name in options]
    if not those:
        return ""
    has = "has" if len(those) == 1 else "have"
    return f"mpifarm {_listed(those[:MAX_NEAR])} {has} one"


_FLAGS: Final = frozenset(
    ("exclusive", "get-user-env", "nice", "no-requeue", "propagate", "requeue")
)
"""Options of sbatch that stand without a value, and seem to be others."""


def _explain_option_of_batch_system(name: str, of_farm: Sequence[str]) -> str:
    """Return the end of a sentence about an option that submit has not."""
    from mpifarm.submit.slurm import OPTIONS

    bare = name.removeprefix("--")
    if bare not in _FLAGS:
        if bare in OPTIONS:
            return f": write its value behind a =, {name}=..."
        if name.startswith("--") and (said := explain_theirs(name)):
            return f": {said}"
        if near := [*find_near(name, of_farm)]:
            return f", did you mean the farm's {_either(near)}?"
    word = name if name.startswith("--") else f"'{name} ...'"
    return f"; for one of the batch system's, give --directive {word}"


def _explain_option_of_farm(program: str, name: str) -> str:
    """Return the end of a sentence about a farm's option, given to a subcommand."""
    if program == _CONFIG:
        return f" and {_ONLY_SHOWS}"
    if program == "mpifarm submit" and name == "--dry-run":
        return ": --print prints the job's script, and submits nothing"
    if program == "mpifarm submit":
        return ": it is one of the farm, and stands behind the list"
    if name in {"-w", "--workdir"}:
        return ": give the workdir in place of the list, and the list with --list FILE"
    return f": it is one of a farm, mpifarm {name} ... LIST"


_CONFIG: Final = "mpifarm config"

_ONLY_SHOWS: Final = (
    "only shows: write a value, as proc = 6, under [options] in"
    " ~/.config/mpifarm/config.ini"
)

_TAKE_ONE: Final = {
    "mpifarm completion": "shell",
    "mpifarm doctor": "directory",
    "mpifarm selftest": "directory",
}
"""Subcommands that take one word, which is no list."""

_TAKE_IDS: Final = ("mpifarm cancel", "mpifarm hold", "mpifarm log", "mpifarm release")
_NAME_IDS: Final = ("mpifarm ls", "mpifarm retry")
"""Subcommands that take ids behind ``--ids``."""


def _explain_surplus_of(program: str, extra: Sequence[str]) -> str:
    """Return a sentence about words too many for a subcommand."""
    if program == _CONFIG:
        return f"{program} {_ONLY_SHOWS}"
    if noun := _TAKE_ONE.get(program):
        return (
            f"{extra[0]!r} is one word too many for {program}: name one {noun}, in"
            " quotes if it has spaces in its name"
        )
    explain = _explain_surplus_ids if is_ids(extra[0]) else _explain_surplus_word
    said = explain(program, extra)
    return f"{extra[0]!r} is one word too many for {program}{said}"


def _explain_surplus_word(program: str, extra: Sequence[str]) -> str:
    """Return the end of a sentence about a word too many that is no id."""
    word, subcommand = extra[0], program.split()[1]
    if said := OPTIONS_OF_NO_SUBCOMMAND.get(subcommand, {}).get(f"--{word}"):
        return f": {said}"
    if subcommand == "export" and not os.path.exists(word):
        return f": {_explain_exported(word)}"
    return ": name one list, in quotes if it has spaces in its name"


def _explain_surplus_ids(program: str, extra: Sequence[str]) -> str:
    """Return the end of a sentence about ids for which there is no place."""
    ids = ",".join(filter(is_ids, extra))
    if program in _NAME_IDS:
        # Not bare, as for cancel: no ids by mistake would mean all.
        return f": name tasks by --ids {ids}"
    if program == "mpifarm drain":
        return (
            f", which is for a whole farm: mpifarm hold LIST {ids} keeps single tasks"
            " from starting"
        )
    return f": mpifarm log LIST {ids} prints what single tasks have written"


def _explain_exported(path: str) -> str:
    """Return how the file that an export makes is named."""
    from mpifarm.database.names import is_database_name

    if is_database_name(path):
        return f"--sqlite {shlex.quote(path)} writes a database"
    return f"-o {shlex.quote(path)} writes the list, and --sqlite FILE.db a database"


def is_ids(word: str) -> bool:
    """Return whether a word seems to be ids of tasks, as 3,7-9."""
    return word != "" and word.strip("0123456789,-") == ""


def explain_ids_first(program: str, first: str, rest: Sequence[str]) -> str:
    """Return a sentence about ids in the place of the list of a subcommand, or "".

    `rest` are the words behind them.  Among unknown options they may be a value.
    """
    is_name = os.path.exists(first) or os.path.isdir(f"{first}_workdir")
    if not is_ids(first) or is_name or any(each.startswith("-") for each in rest):
        return ""
    tasklist = next((each for each in rest if not is_ids(each)), "")
    ids = [first, *(each for each in rest if each != tasklist)]
    named = shlex.quote(tasklist) if tasklist else "LIST"
    if program in _TAKE_IDS:
        line = f"{program} {named} {shlex.join(ids)}"
        return f"the list stands first, then the ids: {line}"
    if program in _NAME_IDS:
        line = f"{program} {named} --ids {','.join(filter(is_ids, ids))}"
        return f"the list stands first, then the ids: {line}"
    return _explain_surplus_of(program, ids) if tasklist else ""


def _explain_letter(word: str, words: Sequence[str]) -> str:
    """Return the end of a sentence about a letter that stands for no option, or "".

    With a number behind it, one that is the number of workers to another tool, or lies
    beside n on the keyboard, is taken for ``-n``.
    """
    letter = _LETTER.fullmatch(word)
    after = words[words.index(word) + 1 :]
    number = letter.group(2) or "".join(after[:1]) if letter else ""
    if letter is None or not (number.isdecimal() and number.isascii()):
        return ""
    theirs = OPTIONS_OF_OTHERS.get(letter.group(1), "")
    if theirs != _PROC and letter.group(1) not in _SLIPS_FOR_N:
        return ""
    more = f"; else, {theirs}" if theirs and theirs != _PROC else ""
    return f": -n {number} runs {number} tasks at one time on each rank{more}"


_SLIPS_FOR_N: Final = ("-b", "-m", "-N")
"""Letters that are typed in place of n.  (-h is help, and -j in the table.)"""

_LETTER: Final = re.compile(r"(-[A-Za-z])=?([0-9]*)", re.ASCII)


def _explain_option(word: str, options: Sequence[str]) -> str:
    """Return the end of a sentence about an unknown option, "" if nothing is near."""
    name = word.partition("=")[0]
    if name not in OPTIONS_OF_OTHERS and (others := _name_those_with(name)):
        return f"; {others}"
    # -partition is --partition
    said = explain_theirs(name) or explain_theirs(f"-{name}") or _explain_joined(name)
    if said:
        return f": {said}"
    near = [*find_near(name, options)]
    if name.lstrip("-") in SUBCOMMANDS:
        near.append(f"mpifarm {name.lstrip('-')}")
    return f", did you mean {_either(near)}?" if near else ""


def _explain_joined(name: str) -> str:
    """Return the sentence about a letter with its value behind it, or "".

    -j8 is -j 8.  -log is no -l of GNU parallel, which takes a number.
    """
    said = explain_theirs(name[:2])
    return "" if said == _LINES and _WORD.match(name) else said


_WORD: Final = re.compile(r"-[a-z]{3}")


def find_near(name: str, options: Sequence[str], cutoff: float = NEAR) -> Iterator[str]:
    """Yield the options that `name` misspells or shortens, or whose end it is."""
    shortened = [each for each in options if len(name) > 3 and each.startswith(name)]
    word = name.lstrip("-")
    ends = [each for each in options if len(word) > 1 and each.endswith(f"-{word}")]
    if ends:
        cutoff = max(cutoff, SURELY_NEAR)  # --rate is --start-rate, not --grace
    bare = [each.lstrip("-") for each in options]
    alike = get_close_matches(word, bare, n=1, cutoff=cutoff)
    near = dict.fromkeys([*(f"--{each}" for each in alike), *shortened, *ends])
    yield from [*near][:MAX_NEAR]


def _either(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _explain_surplus(lists: Sequence[str], options: Sequence[str]) -> str:
    """Return a sentence about several words in the place of one list."""
    first, second = lists[:2]
    if name := _find_spaced(lists):
        return f"quote a name that has spaces in it: {shlex.quote(name)}"
    if not os.path.exists(first):
        if why := _explain_first(first, second):
            return why
    elif first in COMMANDS_OF_OTHERS:
        return (
            f"{second!r} is one word too many behind {first}, a file that is taken for"
            f" the list (say ./{first}); a command {first} there is not:"
            f" {COMMANDS_OF_OTHERS[first]}"
        )
    meant = f"--{second.partition('=')[0]}"
    near = [*find_near(meant, options, NEAR_WITHOUT_DASHES)]
    if near and not os.path.exists(second):
        rest = f", did you mean {near[0]}?"
    else:
        rest = ": quote a name that has spaces in it"
    return f"{second!r} is one word too many, because a farm has one tasklist{rest}"


def _explain_first(first: str, second: str) -> str:
    """Return a sentence about the first of two words that stand for a list, or "".

    `first` may be a subcommand that comes too late, another program or a misspelt
    subcommand.  If `second` is a file, it is taken for the list.
    """
    if first in SUBCOMMANDS:
        return f"a subcommand stands first: mpifarm {first} ..."
    if why := explain_command(first):
        return why
    if near := get_close_matches(first.lower(), _FIRST_WORDS, 1, NEAR):
        return f"{first!r}: did you mean mpifarm {near[0]}?"
    looks_so = first.replace("-", "").isalnum()
    if not looks_so or not os.path.exists(second):
        return ""
    return (
        f"there is no subcommand {_shown(first)}, only {_listed(SUBCOMMANDS)}; a list"
        f" alone is farmed: mpifarm {_shown(shlex.quote(second))}"
    )


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _shown(word: str) -> str:
    return word if word.isprintable() else repr(word)
