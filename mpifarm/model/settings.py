"""The settings of a farm, as checked once by the command line.

Rules of this file: frozen values only.  A setting was checked before it got here, and
is not checked again.
"""

from dataclasses import field

from mpifarm.immutable import immutable

LOG_KINDS = ("all", "packed", "failed")
"""The values of ``--logs``: a file for each task, a few files for all tasks, or a file
for each task that failed."""


STDIN_LIST = "-"
"""The name of the list that is standard input."""

ARGUMENTS_LIST = ":::"
"""The name of the list that a command and arguments make, until the list is made."""

KEPT_WORKDIR = "mpifarm_workdir"
"""The workdir of both, unless ``--workdir`` names another: they have no name."""


ORDERS = ("list", "longest-first")
"""The values of ``--order``: as in the list, or by what tasks took before."""

ANY_SEED = -1
"""The value of ``--shuffle`` without a seed."""


def is_passing(path: str) -> bool:
    """Return whether a name means something only to one process: ``/dev/fd/63``."""
    return path.startswith(("/dev/fd/", "/dev/stdin", "/proc/"))


PROGRESS_KINDS = ("auto", "bar", "lines", "off")
"""The values of ``--progress``: by the output, a live line, lines that stay, none."""


@immutable
class TaskLimits:
    """The limits of each command, and the signal that a stop sends to it."""

    timeout: float | None = None
    """Seconds from the command's start to TERM; KILL comes the grace time later."""
    memory: int | None = None
    """Bytes of private memory that each process of a command may have, and of memory
    that all may have together."""
    checkpoint_signal: int | None = None
    """The signal that a stop sends in place of TERM; KILL comes a grace time later."""


@immutable
class Policy:
    """The rules for tasks that fail, ranks that fail, and the end of the job."""

    retries: int = 0
    """Attempts beyond the first that a failed task gets."""
    retry_delay: float = 0.0
    """Seconds between a failure and the next attempt."""
    max_failures: int | None = None
    """Failed tasks at which the farm stops."""
    max_failed_share: float | None = None
    """Failed tasks at which the farm stops, as a share (0 to 1) of the list."""
    requeue_status: int | None = None
    """The exit status of a task that made a checkpoint and is to run again."""
    quarantine: int = 10
    """Fast failures in a row after which a rank gets no more tasks, while other ranks
    succeed (0: never)."""
    canary: int = 0
    """Tasks to run before any other; one of them has to succeed (0: none)."""
    deadline: float | None = None
    """The end of the job in seconds since the epoch: `inf` if it has none, None if the
    batch system is to be asked."""
    task_time: float | None = None
    """Seconds that a task takes; None: estimated from the tasks that have ended."""
    rank_timeout: float = 60.0
    """Seconds of silence after which a rank is given up."""
    start_rate: float | None = None
    """Tasks that may start in a second; None: any number."""
    seats: tuple[tuple[str, int], ...] = ()
    """For kinds of tasks, how many may run at a time (0: any number)."""


@immutable
class HookSettings:
    """What is to watch the farm."""

    events: str | None = None
    """Path of the file to which events are appended."""
    metrics: str | None = None
    """Path of the file with the farm's numbers for Prometheus."""
    on_end: str | None = None
    """A command for the shell, at the farm's end."""
    on_failure: str | None = None
    """A command for the shell, when tasks have failed."""
    names: tuple[str, ...] = ()
    """Names of hooks in INI files (``--hook``)."""
    left_out: tuple[str, ...] = ()
    """Options, as ``--events``, whose like of the site's hooks the user leaves out by
    ``--no-NAME`` or an empty value."""


@immutable
class Default:
    """The value that a file or a variable gives to an option that nobody has typed."""

    option: str
    """The long name, as ``--proc``."""
    words: tuple[str, ...]
    """The values, as the command line would have them: one, or several of an option
    that may be given again; ``yes`` or ``no`` of a flag.  (): mpifarm's own default."""
    source: str
    """The path of the file, or the name of the variable."""
    line: int = 0
    """The line in the file; 0 for a variable."""

    @property
    def place(self) -> str:
        """The source in words, with the line of a file."""
        return f"{self.source}, line {self.line}" if self.line else self.source


@immutable
class ArgumentSource:
    """The words behind one ``:::``, or a file behind ``::::``."""

    words: tuple[str, ...]
    """The arguments, or the name of the file."""
    is_file: bool = False
    is_linked: bool = False
    """Whether each argument goes with one of the source before, and not with all."""


@immutable
class Arguments:
    """A command, and the arguments for each of which it runs: they make the list."""

    command: tuple[str, ...]
    sources: tuple[ArgumentSource, ...]
    size: int
    """The number of words of the command line that these are, its last ones."""
    like_option: str = ""
    """An argument that has the name of an option of the farm."""


@immutable
class Settings:
    """The checked command line.  Times are in seconds."""

    tasklist: str
    """Path of the tasklist as the user gave it."""
    workdir: str
    """Path of the workdir as the user gave it, or its default beside the tasklist."""
    workers: int = 8
    """Workers on this rank (``--proc``)."""
    timeout: float | None = None
    verbose: bool = False
    quiet: bool = False
    """Whether only warnings, errors and the summary of failures are told."""
    progress: str = "auto"
    """How the state of the farm is shown: one of `PROGRESS_KINDS`."""
    runner: str = "default"
    handler: str = "default"
    names_handler: bool = False
    """Whether anybody has named the handler, be it the default one."""
    setup: str | None = None
    """Lines that the shell runs before each command (``--setup``)."""
    grace: float = 2.0
    lock_area: str | None = None
    mpi: str = "auto"
    config: str | None = None
    """Path of an INI file that names runners and handlers (``--config``)."""
    bind: bool = False
    """Each worker gets its own share of the rank's CPUs."""
    gpus: str = "none"
    """How many GPUs the workers share: ``none``, ``auto`` or a number."""
    logs: str = "all"
    """How the commands' output is kept: one of `LOG_KINDS`."""
    span_nodes: bool = False
    """Whether a launcher in a task may take other nodes of the job."""
    dry_run: bool = False
    """Whether what would run is shown, and nothing runs (``--dry-run``)."""
    as_is: bool = False
    """Whether a list runs without a check of whether it is for another tool."""
    id_variables: tuple[tuple[str, int], ...] = ()
    """More variables that hold a task's number, each with the number of task 0."""
    chdir: str | None = None
    """The directory of the commands (``--chdir``); None: where mpifarm was started."""
    remap: bool = False
    """Whether finished tasks of an edited list are found by the text of their lines."""
    order: str = "list"
    """The order in which tasks start: one of `ORDERS` (``--order``)."""
    shuffle: int | None = None
    """The seed of a random order, 0 or more, or `ANY_SEED` (``--shuffle``)."""
    again: bool = False
    """Whether the list begins again, and what was there is moved aside (``--again``).
    """
    durations: str | None = None
    """Path of a file that says how long tasks take (``--durations``)."""
    follow: float | None = None
    """Seconds for which the farm waits for more lines when all is done (``--follow``);
    None: it does not wait."""
    arguments: Arguments | None = None
    """What makes the list, if that is no file."""
    in_array: bool = False
    """Whether tasks held by living farms of the same job array count as done."""
    limits: TaskLimits = TaskLimits()
    policy: Policy = Policy()
    hooks: HookSettings = HookSettings()
    defaults: tuple[Default, ...] = ()
    """The options above that files and variables have set."""

    def has_default(self, option: str) -> bool:
        """Return whether a file or a variable has set an option, by its long name."""
        return any(each.option == option for each in self.defaults)


@immutable
class RunnerDefinition:
    """The class and options of the runner, read by rank 0, used by all ranks."""

    name: str = "default"
    python_class: str = "mpifarm.runners.BasicRunner"
    options: dict[str, str] = field(default_factory=dict)
    """Keyword arguments of the class."""
    source: str = ""
    """The INI file with the definition, for messages; empty for a built-in one."""


@immutable
class HandlerDefinition:
    """The class and options by which rank 0 reads the tasklist."""

    name: str = "default"
    python_class: str = "mpifarm.tasklists.ListTaskList"
    options: dict[str, str] = field(default_factory=dict)
    """Keyword arguments of the class, after `path` and `workdir`."""
    source: str = ""
    """The INI file with the definition, for messages; empty for a built-in one."""


@immutable
class FarmDefinition:
    """The part of the settings that rank 0 sends to each rank before the first task."""

    farm: str
    """The farm's random id."""
    workdir: str
    """Absolute path."""
    runner: RunnerDefinition
    grace: float
    limits: TaskLimits = TaskLimits()
    logs: str = "all"
    id_variables: tuple[tuple[str, int], ...] = ()
    """As in `Settings`."""
    directory: str = ""
    """The directory of the commands on rank 0; empty: each rank keeps its own."""
    verbose: bool = False
    """Whether the user, or a hook, is told of each task that begins."""
