"""``mpifarm help TOPIC``: some lines about one thing, and where all of it stands.

Rules of this file: pure; imported for this question only.  A topic is a word that a
user has in mind.  Subcommands are topics, too: main asks their own --help.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from mpifarm.commands import SUBCOMMANDS
from mpifarm.commands.misspelt import COMMANDS_OF_OTHERS
from mpifarm.commands.option_values import usage_error
from mpifarm.commands.options import ALL_NAMES
from mpifarm.model.nearness import find_near_word

TOPICS: Final[Mapping[str, str]] = {
    "arguments ::: parallel params parameters combinations": """\
mpifarm 'convert {} {.}.png' ::: *.jpg      once for each argument
mpifarm 'run {1} {2}' ::: a b ::: 1 2       all combinations (:::+ links them)
mpifarm 'run {}' :::: names.txt             an argument a line (- is stdin)
Replacement strings and quoting are those of GNU parallel; options of the farm stand
in front of the command.  The workdir is mpifarm_workdir, or --workdir DIR.
mpifarm submit -N 8 'run {}' ::: a b        the same in a job
More: mpifarm help docs/arguments.md
""",
    "defaults config options environment variables site": """\
Options that nobody types: mpifarm.ini here, ~/.config/mpifarm/config.ini,
/etc/mpifarm/*.ini (section [options]), and variables as MPIFARM_PROC=32.  The command
line wins; --no-NAME undoes.  mpifarm config shows each value and where it is from.
More: mpifarm help docs/defaults.md, docs/site-staff.md.  All options: --help-all
""",
    "exit status statuses": """\
0   all tasks of the list are finished
1   nothing is left to do; some tasks failed: mpifarm why LIST, mpifarm retry LIST
2   the command line or an input is wrong; nothing was started
3   nothing is left to start; some tasks are with another farm, or in no file
70  a defect of mpifarm
75  tasks are left: give the same command again to go on
More: mpifarm help docs/exit-status.md
""",
    "failures failed retry retries": """\
mpifarm why LIST      why tasks failed, in groups, one for each cause
mpifarm log LIST ID   what a task has written
mpifarm retry LIST    put failed tasks back; then give the farm's command again
--retries N runs a failed task up to N times more, --max-failures N stops the farm.
More: mpifarm help docs/when-tasks-fail.md
""",
    "files workdir": """\
LIST_workdir (or --workdir DIR) has all that is known of a list:
finished, failed, toprocess   lines of task id and command
logs/log_ID                   what the task has written
attempts.tsv                  a line for each attempt: outcome, host, seconds, ...
result.json                   the last farm's summary
timeline.json                 for https://ui.perfetto.dev
The subcommands take the list or the workdir.  More: mpifarm help docs/files.md
""",
    "gpus cpus cores memory": """\
--proc N (-n N, -j N) is the number of tasks at one time on each rank.
--bind gives each worker its own CPUs, --gpus auto its own GPU, and --task-memory 4G
limits the memory of a task, of each of its processes and of all together.
More: mpifarm help docs/cpus-and-gpus.md
""",
    "limits limit licence licences license licenses pace rate": """\
--limit licence=5 runs at most five tasks of this kind at a time, on all ranks together;
the list has them as [limit=licence] COMMAND.
--start-rate 2 starts at most two tasks in a second, --start-rate 30/m thirty in a
minute.  More: mpifarm help docs/pace.md
""",
    "list lists tasklist tasks stdin": """\
A list is a text file of commands, one a line, as you would type them.  Blank lines and
lines that begin with # don't count, but for #BARRIER and #AFTER (mpifarm help order).
The id of a task is its place, from 0.  The list - is standard input.
mpifarm add LIST 'COMMAND' adds tasks, also while a farm runs.  Lists of other tools can
be read.  More: mpifarm help docs/adding-tasks.md, docs/lists-from-other-tools.md
""",
    "logs output progress watch": """\
What a task writes is in LIST_workdir/logs/log_ID; mpifarm log LIST ID prints it, and
mpifarm log LIST that of all tasks (-f: while they run; --tag: each line with its task).
--logs packed keeps all of it in a few files, --logs failed that of failed tasks alone.
mpifarm status LIST says how far a farm is, and how long it takes still; --watch, again
and again.  More: mpifarm help docs/logs.md, docs/what-is-going-on.md
""",
    "mpi ranks nodes": """\
mpirun -n 4 python -m mpifarm tasks.txt
srun --mpi=pmi2 -N 8 python -m mpifarm tasks.txt      (pmix for Open MPI)
One rank a node is right: each has --proc workers.  The farm goes on if ranks die where
the launcher lets the others live.  mpifarm selftest tests MPI and disks.
More: mpifarm help docs/large-jobs.md, docs/when-ranks-fail.md
""",
    "order after barrier dependencies stages": """\
#BARRIER         all tasks above end before any below starts, which then run even if
                 some above have failed
#BARRIER CHECK   the same, but nothing below runs if a task above has failed
#AFTER 3,7-9     for the next task alone: it starts when these have succeeded
A task that waits for a failed one is "not run"; mpifarm retry LIST puts both back.
More: mpifarm help docs/order.md
""",
    "resume restart continue anew afresh rerun": """\
Give the same command again: it goes on where the last one stopped or was killed, and
runs no finished task again.  mpifarm retry LIST puts failed tasks back first.  To
start all tasks afresh: mpifarm LIST --again, which keeps the workdir of before.
""",
    "setup environment-modules modules": """\
--setup 'source env.sh' runs before each command, in its shell; if it fails, the task
fails.  What the job script has set before mpifarm, commands have as well.
mpifarm --dry-run --setup 'source env.sh' LIST shows what would run.
More: mpifarm help docs/runners.md
""",
    "signals stop drain": """\
Sent to any rank, a signal acts on the whole farm:
USR1             stop: end the running tasks, put them back, exit 75
TERM, INT, HUP   the same without the grace time
USR2             drain: start no more tasks, finish the running ones
From elsewhere: mpifarm drain LIST, mpifarm cancel LIST ID, mpifarm hold LIST.
More: mpifarm help docs/signals.md, docs/telling-a-farm.md
""",
    "slurm pbs lsf sge jobs array": """\
mpifarm submit -N 8 -t 4:00:00 tasks.txt   write a job script, and submit it
mpifarm submit --until-done ...            go on in further jobs until all is done
mpifarm jobs                               the scripts, to copy
More: mpifarm help docs/submit.md, docs/batch-systems.md
""",
    "time timeout durations walltime": """\
--timeout TIME stops the farm, --task-timeout TIME ends a task that takes longer, and
--grace TIME lies between TERM and KILL.  A TIME is seconds, or 90s, 10m, 1h30m or
1-02:03:04.  The end of a job is known from the batch system, or --deadline 23:59.
More: mpifarm help docs/time-left.md, docs/when-tasks-fail.md
""",
}  # fmt: skip
"""Texts by the words for them; the first word is the topic's name."""

TOPIC_NAMES: Final = tuple(words.split()[0] for words in TOPICS)

_BY_WORD: Final = {
    word: text for words, text in TOPICS.items() for word in words.split()
}

PAGES: Final[Mapping[str, str]] = {
    "adding-tasks": "follow growing",
    "check-and-repair": "repair",
    "coming-from-parallel": "xargs",
    "coming-from-pytaskfarmer": "pytaskfarmer",
    "databases": "database sqlite sqlite3",
    "edited-lists": "edited remap",
    "file-systems": "gpfs lock locks lustre nfs",
    "handlers": "handler",
    "hooks": "events hook metrics on-end on-failure prometheus",
    "lists-from-other-tools": "dialect dialects disbatch greasy launcher",
    "python": "notebook notebooks",
    "runners": (
        "apptainer container containers docker podman runner shifter singularity"
    ),
    "time-left": "deadline",
}
"""Words for pages of which there are no few lines."""

_PAGE_BY_WORD: Final = {
    word: page for page, words in PAGES.items() for word in words.split()
}

_LISTS: Final = ("topics", "topic", "help", "--help")
"""Words that ask for the topics themselves."""


def find_topic(word: str) -> str:
    """Return the text of a topic, or of a page (``docs/order.md``, or ``order``).

    Raises InputError that names the nearest ones.
    """
    from mpifarm.commands.doc_pages import find_page, list_pages, page_names

    if word.startswith(("docs", "README")) or ".md" in word:
        if word in ("docs", "docs/"):
            return list_pages()
        return "\n".join(map(find_page, word.replace(",", " ").split()))
    asked = word.lower()
    if asked in _BY_WORD:
        return _BY_WORD[asked]
    if asked in _LISTS:
        return _list_topics(page_names())
    page_by_word = {page.lower(): page for page in page_names()} | _PAGE_BY_WORD
    if asked in page_by_word:
        return find_page(page_by_word[asked])
    known = [*SUBCOMMANDS, *_BY_WORD, *page_by_word, *_LISTS]
    raise usage_error(f"there is no topic {word!r}{_explain_unknown(asked, known)}")


def _explain_unknown(asked: str, known: list[str]) -> str:
    """Return the end of a sentence about a word that is none of the `known` topics."""
    if f"--{asked.lstrip('-')}" in ALL_NAMES:
        return ": it is an option, and mpifarm --help-all says what it does"
    if asked in COMMANDS_OF_OTHERS:
        return f": {COMMANDS_OF_OTHERS[asked]}"
    if near := find_near_word(asked, known):
        return f": did you mean {near}?"
    return (
        f": the subcommands are topics, and {', '.join(TOPIC_NAMES)}, and the pages"
        " that mpifarm help docs lists"
    )


def _list_topics(pages: Iterable[str]) -> str:
    """Return the words that ``mpifarm help`` may be asked."""
    from textwrap import fill

    heads = {
        "Topics: ": TOPIC_NAMES,
        "Subcommands: ": SUBCOMMANDS,
        "Pages (as they are): ": pages,
    }
    return "".join(
        fill(head + ", ".join(words), 88, break_on_hyphens=False) + "\n"
        for head, words in heads.items()
    )
