"""The paths in a workdir, and the names of its temporary files.

Rules of this file: every path in a workdir is a property or a method of `WorkdirPaths`,
and every name of a temporary file is made and parsed here; nothing is opened.
``toprocess``, ``finished``, ``failed``, ``timeline.json``, ``logs/`` and ``lock`` are
shared with plain farmers.  All other files are mpifarm's own, and plain farmers never
read them.

A *staging file* has the next content of another file, until a rename replaces that
file.
"""

import re

from mpifarm.immutable import immutable

STATUS_FILES = (
    *("toprocess", "added", "waiting", "finished", "failed", "attempts.tsv"),
)
"""The files of a workdir that look like a tasklist."""

LOCK_NAME = "lock"
LOG_PREFIX = "log_"
PACKED = "packed"
_GIVEN = "given-"
JOB_ENDINGS = ("slurm", "pbs", "lsf", "sge")
"""The ends of the names of job scripts, one for each batch system."""

JOB_SCRIPT = rf"job(?:-[0-9]+)?\.(?:{'|'.join(JOB_ENDINGS)})"
"""The pattern of the names of job scripts."""
UNKEPT = "unkept"
"""The directory of ``--logs failed``.  It stays when it is empty: by it, a check knows
that finished tasks may have no logs."""

_FARM = "[0-9a-f]{8,}"
# Not compiled here: most ranks use none of the patterns.
_QUEUE_STAGING = r"toprocess\.([A-Za-z0-9_-]+)\.([0-9]{1,15})"
_ASIDE = r"(?s)(.+)\.before-([0-9]{8}-[0-9]{6})(?:-([0-9]+))?"
_TIMELINE = r"timeline(?:\.(?!invalid\.)[A-Za-z0-9_-]+)?\.json"
_TIMELINE_ASIDE = (
    rf"timeline\.invalid\.{_FARM}\.json"
    r"|timeline(?:\.[A-Za-z0-9_-]+)?\.json\.before-repair-[0-9T-]+"
)
_STAGING = rf"""(?x)
       (?: result\.json | fingerprint\.json | begun-in
           | timeline (?:\.{_FARM})? \.json )
         \.(?P<farm>{_FARM})
       | timeline\.invalid\.(?P<farm_of_invalid>{_FARM})\.json\.new
       | (?: held | requests | answers ) \.new
       | stdin\.txt\.[0-9a-f]{{8}} \.new
       | [a-z.]+ \.repair
       | .+ \.before-repair-[0-9T-]+ \.new
"""
"""Names of staging files, except those of a queue."""


@immutable
class WorkdirPaths:
    """The paths in the workdir `root`."""

    root: str

    # ---- shared with plain farmers --------------------------------------------------

    @property
    def toprocess(self) -> str:
        """The tasks still to be processed; absent means all tasks."""
        return f"{self.root}/toprocess"

    @property
    def finished(self) -> str:
        """The tasks that ended with status 0."""
        return f"{self.root}/finished"

    @property
    def failed(self) -> str:
        """The tasks that ended with another status."""
        return f"{self.root}/failed"

    @property
    def timeline(self) -> str:
        """The events of all farmers."""
        return f"{self.root}/timeline.json"

    @property
    def logs(self) -> str:
        """The directory of the logs."""
        return f"{self.root}/logs"

    @property
    def lock(self) -> str:
        """The lock file that every farmer takes."""
        return f"{self.root}/{LOCK_NAME}"

    def log(self, taskid: int) -> str:
        """Return the path of the output of one task."""
        return log_path(self.logs, taskid)

    # ---- mpifarm's own --------------------------------------------------------------

    @property
    def added(self) -> str:
        """The tasks to be processed that were added to a list in use."""
        return f"{self.root}/added"

    @property
    def waiting(self) -> str:
        """The tasks to be processed that plain farmers may not run as they stand."""
        return f"{self.root}/waiting"

    @property
    def adding(self) -> str:
        """The lines that ``mpifarm add`` is just adding to the list."""
        return f"{self.root}/adding"

    @property
    def stdin_list(self) -> str:
        """The list, if that is standard input: the lines that were read."""
        return f"{self.root}/stdin.txt"

    @property
    def begun_in(self) -> str:
        """The name of the directory in which the commands ran first."""
        return f"{self.root}/begun-in"

    @property
    def begun_again(self) -> str:
        """The job and the process that have begun the list again, by ``--again``."""
        return f"{self.root}/begun-again"

    @property
    def next_mark(self) -> str:
        """The mark of a next workdir, which ``--again`` makes; gone once it is one."""
        return f"{self.root}/.mpifarm-next"

    @property
    def packed_logs(self) -> str:
        """The directory of outputs that are packed into few files."""
        return f"{self.logs}/{PACKED}"

    @property
    def unkept_logs(self) -> str:
        """The directory of outputs that are removed when their tasks complete."""
        return f"{self.logs}/{UNKEPT}"

    @property
    def claims(self) -> str:
        """The directory of the claims."""
        return f"{self.root}/claims"

    @property
    def farms(self) -> str:
        """The directory of what farms say of themselves."""
        return f"{self.root}/farms"

    def farm(self, farm: str) -> str:
        """Return what a farm says of itself: its ranks, and what runs where."""
        return f"{self.farms}/{farm}.json"

    @property
    def attempts(self) -> str:
        """One line for each attempt, with its exit status."""
        return f"{self.root}/attempts.tsv"

    @property
    def first_attempts(self) -> str:
        """The lines of attempts that were written up to version 0.4.0."""
        return f"{self.root}/attempts.1.tsv"

    @property
    def fingerprint(self) -> str:
        """The identity of the tasklist at the beginning of the workdir."""
        return f"{self.root}/fingerprint.json"

    @property
    def result(self) -> str:
        """The result of the last farm, for scripts."""
        return f"{self.root}/result.json"

    @property
    def requests(self) -> str:
        """What users ask of the farms that run."""
        return f"{self.root}/requests"

    @property
    def answers(self) -> str:
        """What farms have answered to that."""
        return f"{self.root}/answers"

    @property
    def held(self) -> str:
        """The tasks that users hold."""
        return f"{self.root}/held"

    @property
    def drain(self) -> str:
        """A file that the user creates to drain the farms."""
        return f"{self.root}/drain"

    def job_script(self, ending: str, number: int) -> str:
        """Return the path of a job script that ``mpifarm submit`` has written."""
        return f"{self.root}/job{f'-{number}' if number > 1 else ''}.{ending}"

    def given_list(self, mark: str) -> str:
        """Return the path of the list that one start by a script has given."""
        return f"{self.root}/{_GIVEN}{mark}.txt"

    def claim(self, farm: str) -> str:
        """Return the path of the claim of one farm."""
        return f"{self.claims}/{farm}"

    def timeline_of(self, farm: str) -> str:
        """Return the path of the events of a farm that shares the workdir."""
        return f"{self.root}/timeline.{farm}.json"

    def timeline_aside(self, farm: str) -> str:
        """Return the path to which this farm moves an invalid ``timeline.json``."""
        return f"{self.root}/timeline.invalid.{farm}.json"

    def file(self, name: str) -> str:
        """Return the path of the file `name` in the workdir."""
        return f"{self.root}/{name}"

    def in_logs(self, name: str) -> str:
        """Return the path of the file `name` in the directory of the logs."""
        return f"{self.logs}/{name}"

    # ---- staging files --------------------------------------------------------------

    def queue_staging(self, farm: str, step: int) -> str:
        """Return the staging file of a queue for one step of a farm."""
        return f"{self.toprocess}.{farm}.{step}"

    def list_staging(self, mark: str) -> str:
        """Return the staging file of `stdin_list` of the start that has this `mark`.

        Each has its own: in a new workdir there is no lock.
        """
        return copy_staging_of(f"{self.stdin_list}.{mark}")

    # ---- --remap --------------------------------------------------------------------

    @property
    def remap(self) -> str:
        """A directory that exists while ``--remap`` adapts the workdir to its list."""
        return f"{self.root}/remap.begun"

    @property
    def remap_staging(self) -> str:
        """The directory that becomes `remap`."""
        return f"{self.remap}.new"

    def before_remap(self, stamp: str) -> str:
        """Return the directory in which a ``--remap`` leaves the old files."""
        return f"{self.root}/before-remap-{stamp}"


@immutable
class RemapPaths(WorkdirPaths):
    """The paths in `WorkdirPaths.remap`, which has the old files of a workdir.

    The new files are in `new_directory`.
    """

    @property
    def plan(self) -> str:
        """The steps of the ``--remap``."""
        return f"{self.root}/plan.json"

    @property
    def aside(self) -> str:
        """The ids whose logs are to be moved here."""
        return f"{self.root}/aside.json"

    @property
    def new_directory(self) -> str:
        """The directory of the new files."""
        return f"{self.root}/new"

    def new(self, name: str) -> str:
        """Return the path of the new file `name` of the workdir."""
        return f"{self.new_directory}/{name}"

    def new_records(self, name: str) -> str:
        """Return the path of the new records `name` of packed logs."""
        return self.new(name.replace("/", "-"))


# ---- names ---------------------------------------------------------------------------


def log_path(logs: str, taskid: int) -> str:
    """Return the path of the output of one task in the directory `logs`."""
    return f"{logs}/{log_name(taskid)}"


def log_name(taskid: int) -> str:
    """Return the name of the output of one task in its directory."""
    return f"{LOG_PREFIX}{taskid}"


def parse_log_name(name: str) -> int | None:
    """Return the task of a name that `log_name` makes, None for any other name."""
    number = name.removeprefix(LOG_PREFIX)
    if not (number.isascii() and number.isdigit()):
        return None
    taskid = int(number)
    return taskid if log_name(taskid) == name else None


def mark_of_given(host: str, pid: int, start: str) -> str:
    """Return the mark of a start by a script, for `WorkdirPaths.given_list`."""
    return f"{host}-{pid}-{start}"


def parse_given_name(name: str) -> tuple[str, int] | None:
    """Return host and pid of the script that gave the list `name`, else None."""
    found = re.fullmatch(_GIVEN + r"(.+)-([0-9]{1,10})-[0-9a-f]{8}\.txt", name)
    return (found[1], int(found[2])) if found else None


def staging_of(path: str, farm: str) -> str:
    """Return the staging file by which `farm` replaces the file `path`."""
    return f"{path}.{farm}"


def copy_staging_of(path: str) -> str:
    """Return the staging file of a copy that is kept at `path`."""
    return f"{path}.new"


def repair_staging_of(path: str) -> str:
    """Return the staging file by which a repair or a retry replaces `path`."""
    return f"{path}.repair"


def name_before_repair(name: str, stamp: str) -> str:
    """Return the name of the copy that a repair makes of the file `name`."""
    return f"{name}.before-repair-{stamp}"


def clock_file(directory: str, pid: int) -> str:
    """Return the path of the file by which a process reads a file system's clock."""
    return f"{directory}/.clock.{pid}"


def is_clock_file(name: str) -> bool:
    """Return whether `clock_file` makes this name."""
    return name.startswith(".clock.")


def parse_queue_staging(name: str) -> tuple[str, int] | None:
    """Return farm and step of a name that `WorkdirPaths.queue_staging` makes.

    Return None for any other name.
    """
    match = re.fullmatch(_QUEUE_STAGING, name)
    return (match[1], int(match[2])) if match else None


def parse_staging(name: str) -> frozenset[str] | None:
    """Return the farms in the name of a staging file, none for one of a repair.

    Return None for a name that is not of a staging file, or of one of a queue.
    """
    match = re.fullmatch(_STAGING, name)
    return frozenset(filter(None, match.groups())) if match else None


def is_result_staging(name: str) -> bool:
    """Return whether `name` is a staging file of ``result.json``."""
    return name.startswith("result.json.")


def aside_of(root: str, stamp: str, number: int) -> str:
    """Return a path to which the workdir `root` is moved (``--again``).

    `number` tells several of one `stamp`, which is of the time, from each other.
    """
    return f"{root}.before-{stamp}{f'-{number}' if number > 1 else ''}"


def parse_aside(path: str) -> tuple[str, str, int] | None:
    """Return root, stamp and number of a path that `aside_of` makes with a real stamp.

    Return None for any other path.
    """
    match = re.fullmatch(_ASIDE, path)
    return (match[1], match[2], int(match[3] or 1)) if match else None


def is_farm_id(text: str) -> bool:
    """Return whether `text` is the id of a farm."""
    return re.fullmatch(_FARM, text) is not None


def is_timeline(name: str) -> bool:
    """Return whether the file `name` is a timeline that has to be valid JSON.

    One that was moved aside because it is invalid is not.
    """
    return re.fullmatch(_TIMELINE, name) is not None


def is_timeline_aside(name: str) -> bool:
    """Return whether the file `name` is an invalid timeline that was moved aside."""
    return re.fullmatch(_TIMELINE_ASIDE, name) is not None


_BEGINNINGS = (*("timeline.", "before-remap-", "claim-", "job.", "job-", _GIVEN),)


def is_own_name(name: str) -> bool:
    """Return whether `name`, in a workdir, is that of a file or directory of farms."""
    paths = WorkdirPaths("")
    names = (getattr(paths, each) for each in dir(WorkdirPaths))
    known = {each[1:].partition("/")[0] for each in names if isinstance(each, str)}
    return (
        name in known - {""}
        or name.startswith(_BEGINNINGS)
        or parse_queue_staging(name) is not None
        or parse_staging(name) is not None
        or ".before-repair-" in name
    )
