"""``mpifarm supervise -- COMMAND``: start a farm again when its ranks or launcher die.

Rules of this file: `restart_policy` decides after each run, nothing is decided here.
Signals are waited for, never handled: so none comes between a poll and a wait, and the
kernel tells the sender.
"""

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

from mpifarm.batch.launcher import launched_size
from mpifarm.batch.slurm import (
    HOSTNAMES,
    SCANCEL,
    SINFO,
    SQUEUE,
    STEPS,
    NodeStates,
    exclude_nodes,
    find_srun,
    name_step,
    node_of_host,
    parse_states,
    parse_steps,
    without_missing,
)
from mpifarm.commands.options import HelpAsked, parse_arguments
from mpifarm.commands.restart_policy import (
    FarmResult,
    Records,
    RestartDecision,
    RestartPolicy,
    Run,
    describe_run,
    exit_status_of,
    is_of_launch,
    parse_result,
)
from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.errors import ExitStatus, InputError
from mpifarm.farm.again import SUPERVISOR_VARIABLE
from mpifarm.immutable import immutable
from mpifarm.model.paths import WorkdirPaths
from mpifarm.system.regular_files import open_regular
from mpifarm.system.signals import SIGNALS

if TYPE_CHECKING:
    from mpifarm.system.console import Console

DEAF_SECONDS = 5.0
"""Seconds after its start in which a launcher loses a signal, or dies of one."""

LONG_RUN = 60.0
"""Seconds after which a run in an unknown workdir counts as having left a record."""

END_SECONDS = 30.0
"""Seconds that a launcher gets to end after its farm; then it gets TERM."""

KILL_SECONDS = 10.0
"""Seconds between that TERM and KILL."""

LAUNCH_VARIABLE = "MPIFARM_LAUNCH"
"""The variable that marks a start.  Each start has another value, which comes back in
``result.json``: other farms may work on the same list."""

ANSWER_SECONDS = 30.0
"""Seconds that a program of Slurm gets to answer."""
LOOK_AGAIN = 5.0
"""Seconds between two looks at whether the farm has ended."""

# ---- the workdir ---------------------------------------------------------------------


@immutable
class FarmFiles:
    """The files that tell the result of a run, in a workdir that may not exist yet."""

    workdir: str
    begins_again: bool = False
    """Whether the farm is told to begin its list again (``--again``)."""

    @property
    def paths(self) -> WorkdirPaths:
        """The paths of these files."""
        return WorkdirPaths(self.workdir)

    def read_result(self) -> FarmResult | None:
        """Return ``result.json``, None if it is missing or cannot be read."""
        import json  # for the one process that supervises

        try:
            with _open(self.paths.result) as file:
                return parse_result(json.load(file))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def read_records(self) -> Records:
        """Count recorded tasks and bytes; an unreadable file counts as empty."""
        ended = (self.paths.finished, self.paths.failed)
        attempts = (self.paths.first_attempts, self.paths.attempts)
        sizes = map(_size_of, (*ended, *attempts))
        return Records(sum(map(_count_lines, ended)), sum(sizes))

    def read_claims(self) -> frozenset[str]:
        """Return the farms that have a claim, alive or dead; none if unreadable."""
        try:
            return frozenset(os.listdir(self.paths.claims))
        except OSError:
            return frozenset()

    def find_place(self) -> tuple[int, int]:
        """Return device and inode of the workdir; zeros without one."""
        try:
            status = os.stat(self.workdir)
        except OSError:
            return 0, 0
        return status.st_dev, status.st_ino

    def has_nothing_left(self) -> bool:
        """Return whether no task waits, and no farm has a claim."""
        return not self.read_claims() and not _size_of(self.paths.toprocess)


def _open(path: str) -> BinaryIO:
    return open(open_regular(path, os.O_RDONLY), "rb")


def _size_of(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _count_lines(path: str) -> int:
    try:
        with _open(path) as file:
            return sum(
                piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b"")
            )
    except OSError:
        return 0


def find_farm(words: Sequence[str], environ: Mapping[str, str]) -> FarmFiles | None:
    """Return the workdir of the farm that a command line starts.

    The farm's own arguments are the words after ``mpifarm``.  Return None if no word is
    ``mpifarm``, if its arguments are wrong, or if a list that is a file does not exist.
    """
    from mpifarm.commands.main import spell_out
    from mpifarm.farm.standard_input import is_kept

    for place, word in enumerate(words):
        if os.path.basename(word) != "mpifarm":
            continue
        try:
            argv = spell_out([*words[place + 1 :]])
            settings = parse_arguments(argv, environ)
        except (InputError, HelpAsked):
            continue
        if is_kept(settings) or os.path.exists(settings.tasklist):
            return FarmFiles(os.path.abspath(settings.workdir), settings.again)
    return None


# ---- the launcher --------------------------------------------------------------------


class SignalWaiter:
    """The signals to this process, blocked from now on until `wait` takes them.

    `early` are signals that came before.  `stop_asked`: whether any signal has come.
    """

    def __init__(self, early: Sequence[int] = ()) -> None:
        # nohup has them ignored, and that stays so.
        self._passed = {
            signum
            for signum in SIGNALS
            if signal.getsignal(signum) is not signal.SIG_IGN
        }
        signal.pthread_sigmask(signal.SIG_BLOCK, self._passed | {signal.SIGCHLD})
        self.stop_asked = bool(early)
        self.has_terminal = os.isatty(0)
        """Whether a launcher gets Ctrl-C as we do, from the terminal."""

    def wait(self, seconds: float) -> int | None:
        """Wait for a signal, and set `stop_asked`.  Return the signal to pass on.

        Return None if no signal comes within `seconds`, if a child has died, or if the
        launcher got the signal from the terminal, too.
        """
        came = signal.sigtimedwait(self._passed | {signal.SIGCHLD}, max(0.0, seconds))
        if came is None or came.si_signo == signal.SIGCHLD:
            return None
        self.stop_asked = True
        # The kernel sends the signals of the terminal, to the launcher as well.
        return None if self.has_terminal and came.si_code > 0 else came.si_signo


class Launcher:
    """The command while it runs, with this process's stdin, stdout and stderr.

    The constructor starts the command, and raises OSError.  `shares_group`: the command
    runs in this process's group, as it must to read from a terminal.
    """

    def __init__(
        self, words: Sequence[str], environ: Mapping[str, str], *, shares_group: bool
    ) -> None:
        self._begun = time.monotonic()
        self._waiting: list[int] = []
        """Signals that the launcher would lose, or die of, now."""
        self._look_at = self._begun + LOOK_AGAIN
        """The time of the next look at whether the farm has ended."""
        self._late_at = math.inf
        """The time from which a launcher is late to end after its farm."""
        # In a group of its own, a signal to our group comes once, through us.  From a
        # terminal only the group in the foreground may read, so there it is ours.
        self._process = subprocess.Popen(
            words,
            env=environ,
            process_group=None if shares_group else 0,
            preexec_fn=_unblock_signals,  # noqa: PLW1509 - one thread, no MPI
        )

    def run(self, signals: SignalWaiter, has_farm_ended: Callable[[], bool]) -> int:
        """Wait for the command's end, and pass signals on to it.

        USR1 and USR2 wait until `DEAF_SECONDS` after the start.  If `has_farm_ended`
        returns True and the command goes on, it gets TERM, then KILL.  Return its
        status as a shell has it: 128 + n if signal n ended it.
        """
        while self._process.poll() is None:
            now = time.monotonic()
            self._pass_on_what_waits(now)
            if now >= self._look_at:
                self._look_at = now + LOOK_AGAIN
                if has_farm_ended():
                    self._end_if_late(now)
            signum = signals.wait(self._wake_at() - now)
            if signum in (signal.SIGUSR1, signal.SIGUSR2):
                self._waiting.append(signum)
            elif signum is not None:
                self._process.send_signal(signum)
        status = self._process.returncode
        return 128 - status if status < 0 else status

    def _wake_at(self) -> float:
        hears_at = self._begun + DEAF_SECONDS
        return min(self._look_at, hears_at if self._waiting else math.inf)

    def _pass_on_what_waits(self, now: float) -> None:
        if now >= self._begun + DEAF_SECONDS:
            for signum in self._waiting:
                self._process.send_signal(signum)
            self._waiting.clear()

    def _end_if_late(self, now: float) -> None:
        """End a launcher that still waits `END_SECONDS` after its farm's end.

        Such a launcher waits for a rank that hangs, and that the farm has given up.
        """
        self._late_at = min(self._late_at, now + END_SECONDS)
        if now >= self._late_at + KILL_SECONDS:
            self._process.kill()
        elif now >= self._late_at:
            self._process.terminate()


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def ask_slurm(nodes: str, job: str = "") -> NodeStates:
    """Ask Slurm for the states of `nodes`, a list in Slurm's notation.

    Nodes that `job` does not have any more count as gone; "" means no job.  Return no
    states if Slurm cannot be asked.
    """
    states = parse_states(_ask((*SINFO, f"--nodes={nodes}")))
    present = _ask((*SQUEUE, f"--jobs={job}")).strip() if job else ""
    names = _ask((*HOSTNAMES, present)).split() if present else []
    return without_missing(states, names)


def _ask(words: Sequence[str]) -> str:
    """Return the output of a command, "" if it fails or takes `ANSWER_SECONDS`."""
    try:
        answer = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return "" if answer.returncode else answer.stdout


def end_steps(job: str, name: str) -> Sequence[str]:
    """End the steps called `name` of a Slurm job.  Return their ids.

    An srun that was killed leaves its ranks alive, which hold the nodes and may hang.
    """
    steps = parse_steps(_ask((*STEPS, f"--jobs={job}")), name)
    if steps:
        _ask((*SCANCEL, *steps))
    return steps


# ---- the nodes -----------------------------------------------------------------------


class Nodes:
    """The nodes to leave out at the next start, for a command with an srun."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str]) -> None:
        self._words = list(words)
        self._environ = environ
        self._job = environ.get("SLURM_JOB_ID", "")
        self._job_nodes = environ.get("SLURM_JOB_NODELIST", "")
        self._lost: tuple[str, ...] = ()
        self._quarantined: dict[str, None] = {}

    @property
    def in_allocation(self) -> bool:
        """Whether the command has an srun that runs in a job of Slurm."""
        return (
            bool(self._job and self._job_nodes) and find_srun(self._words) is not None
        )

    def note(self, result: FarmResult | None) -> None:
        """Note the hosts of a result that are to be left out.

        Hosts that lost a rank count for the next start, quarantined hosts for good.
        """
        self._lost = () if result is None else result.lost
        self._quarantined |= dict.fromkeys(() if result is None else result.quarantined)

    @property
    def words(self) -> Sequence[str]:
        """The command, with all nodes."""
        return self._words

    def leave_out_option(self, name: str) -> None:
        """Leave an option of the farm out of the command, from the next start on."""
        farm = [os.path.basename(word) for word in self._words].index("mpifarm")
        if name in self._words[farm:]:
            del self._words[self._words.index(name, farm)]

    def next_words(
        self, ask: Callable[[str, str], NodeStates] = ask_slurm
    ) -> tuple[list[str], Sequence[str]]:
        """Ask Slurm, and return the next command line and the nodes that it leaves out.

        Without an srun, or if no node would be left, leave out none.
        """
        named = [*self._quarantined, *self._lost]
        in_job = self._job_nodes
        asked = in_job or ",".join(host.partition(".")[0] for host in named)
        if find_srun(self._words) is None or not asked:
            return self._words, ()
        states = ask(asked, self._job if in_job else "")
        # Outside of a job srun finds nodes by itself: all of these may be left out.
        excluded = choose_excluded(states, named) if in_job else states.known
        count = len(states.known) if in_job else 0
        if in_job and len(excluded) == count:
            return self._words, ()
        words = exclude_nodes(self._words, excluded, count, self._environ)
        return words, excluded if words != self._words else ()


def choose_excluded(states: NodeStates, named: Sequence[str]) -> Sequence[str]:
    """Return the nodes to leave out: gone, suspect, or `named` (hosts).

    If no node would be left, return only the gone ones.
    """
    shunned = {node_of_host(host, states.known) for host in named} | states.suspect
    excluded = [n for n in states.known if n in states.gone or n in shunned]
    if len(excluded) < len(states.known):
        return excluded
    return [node for node in states.known if node in states.gone]


# ---- the command ---------------------------------------------------------------------


def main(
    argv: Sequence[str],
    console: "Console",
    environ: Mapping[str, str],
    early: Sequence[int] = (),
) -> int:
    """Run ``mpifarm supervise``.  Return the exit status of the last farm.

    From now on all signals of a farm are blocked.  `early` are signals that came
    before.  Raises InputError for a wrong command line, or if a launcher has started
    this process.
    """
    max_restarts, words = _parse(argv)
    if launched_size(environ) > 1:
        raise InputError(
            "supervise starts the launcher, and not the launcher supervise: run"
            " mpifarm supervise -- srun ... python -m mpifarm ..."
        )
    return Supervisor(words, environ, console, max_restarts, SignalWaiter(early)).run()


def _parse(argv: Sequence[str]) -> tuple[int | None, list[str]]:
    words = list(argv)
    place = words.index("--") if "--" in words else len(words)
    parser = SubcommandParser(
        "supervise",
        "Run a command that starts a farm, and run it again when ranks or their"
        " launcher have died, until the list is done or nothing gets done any more."
        "  The exit status is that of the last farm.",
    )
    command = "srun ... python -m mpifarm tasks.txt"
    parser.usage = f"mpifarm supervise [--max-restarts N] -- {command}"
    parser.add_argument(
        "--max-restarts",
        metavar="N",
        help="run it again at most N times (default: as long as anything gets done)",
    )
    asks_for_help = not {"-h", "--help"}.isdisjoint(words[:place])
    if not words[place + 1 :] and not asks_for_help:
        raise InputError(
            "no command to supervise: write it after --, as in mpifarm supervise --"
            " srun -N 8 python -m mpifarm tasks.txt"
        )
    chosen = parser.parse_args(words[:place])
    return _parse_count(chosen.max_restarts), words[place + 1 :]


def _parse_count(word: str | None) -> int | None:
    if word is None:
        return None
    if not (word.isdecimal() and word.isascii()):
        raise InputError(f"--max-restarts takes a number, 0 or more, not {word!r}")
    return int(word)


class Supervisor:
    """One command, run until the policy says that it is over."""

    def __init__(
        self,
        words: Sequence[str],
        environ: Mapping[str, str],
        console: "Console",
        max_restarts: int | None,
        signals: SignalWaiter,
    ) -> None:
        own = environ.get(SUPERVISOR_VARIABLE) or os.urandom(8).hex()
        # One that a supervised script starts is a part of the same.
        self._environ = {**environ, SUPERVISOR_VARIABLE: own}
        self._launch = ""
        """The value of `LAUNCH_VARIABLE` for this start."""
        self._console = console
        self._signals = signals
        self._farm = find_farm(words, environ)
        self._nodes = Nodes(words, environ)
        self._policy = RestartPolicy(
            max_restarts,
            knows_workdir=self._farm is not None,
            in_allocation=self._nodes.in_allocation,
        )

    def run(self) -> int:
        """Run the command until the policy ends it.  Return the last exit status.

        Return 75 if a signal came before a start.  Each end, start and left-out node is
        printed.  Raises InputError if the command cannot be started.
        """
        if self._signals.stop_asked:
            self._say("stopped by a signal before the start: nothing was started")
            return ExitStatus.RUN_AGAIN
        words = self._choose_nodes()
        while True:
            run = self._run_once(words)
            if run.begun:
                self._leave_out_again()
            decision = self._policy.decide(run)
            goes_on = decision in (RestartDecision.BROKEN, RestartDecision.CLAIM_LEFT)
            pause = self._policy.pause_after(decision) if goes_on else 0.0
            self._nodes.note(run.result)
            excluded: Sequence[str] = ()
            if goes_on and not pause:
                words, excluded = self._nodes.next_words()
            if line := describe_run(decision, run, pause, excluded):
                self._say(line)
            if not goes_on:
                return exit_status_of(run)
            self._end_steps()
            if self._is_stopped_within(pause):
                self._say("a signal came, so it is not started again")
                return ExitStatus.RUN_AGAIN
            if pause:  # Slurm may know of more dead nodes by now
                words = self._choose_nodes()

    def _leave_out_again(self) -> None:
        """Leave out ``--again``: what has begun again, the next start goes on with.

        A farm that a script starts knows that by `SUPERVISOR_VARIABLE`.
        """
        for _ in range(self._nodes.words.count("--again")):
            farm = find_farm(self._nodes.words, self._environ)
            if farm is None or not farm.begins_again:
                return
            self._nodes.leave_out_option("--again")

    def _end_steps(self) -> None:
        """End the Slurm steps that the last srun has left, and print their ids."""
        if not self._nodes.in_allocation:
            return
        steps = end_steps(self._environ["SLURM_JOB_ID"], step_name(self._launch))
        if steps:
            self._say(f"ending steps that the last srun has left: {', '.join(steps)}")

    def _choose_nodes(self) -> list[str]:
        words, excluded = self._nodes.next_words()
        if excluded:
            self._say(f"starting without {', '.join(excluded)}")
        return words

    def _run_once(self, words: Sequence[str]) -> Run:
        """Start the command under a new mark, and wait for its end.

        Return the facts about the run, as far as the workdir is known.  Raises
        InputError if the command cannot be started.
        """
        launch = self._launch = os.urandom(4).hex()
        before, result_before = self._read_records(), self._read_result()
        claims = self._read_claims()
        begun = time.monotonic()
        place = self._find_place()
        launcher = self._start(words, launch)
        status = launcher.run(self._signals, lambda: self._has_ended(launch))
        seconds = time.monotonic() - begun
        result, now = self._read_result(), self._read_records()
        if self._find_place() != place:  # for --again: what was there is aside
            before = Records(0, 0)
        is_own = is_of_launch(result, launch, result_before)
        moved = now.size > before.size if self._farm else seconds >= LONG_RUN
        return Run(
            status,
            result if is_own else None,
            moved=moved,
            recorded=now.tasks - before.tasks,
            left_nothing=self._farm is None or self._farm.has_nothing_left(),
            stop_asked=self._signals.stop_asked,
            begun=moved or is_own or self._read_claims() != claims,
        )

    def _start(self, words: Sequence[str], launch: str) -> Launcher:
        """Start the command with its mark `launch`; raises InputError."""
        environ = {**self._environ, LAUNCH_VARIABLE: launch}
        if self._nodes.in_allocation:
            words = name_step(words, step_name(launch))
        shares = self._signals.has_terminal
        try:
            return Launcher(words, environ, shares_group=shares)
        except OSError as error:
            raise InputError(
                f"cannot start {words[0]!r} ({error.strerror}): is it installed, and is"
                " its module loaded?"
            ) from None

    def _has_ended(self, launch: str) -> bool:
        """Return whether the farm of this start has written its result."""
        result = self._read_result()
        return result is not None and result.launch == launch

    def _find_place(self) -> tuple[int, int]:
        return self._farm.find_place() if self._farm else (0, 0)

    def _read_result(self) -> FarmResult | None:
        return self._farm.read_result() if self._farm else None

    def _read_records(self) -> Records:
        return self._farm.read_records() if self._farm else Records(0, 0)

    def _read_claims(self) -> frozenset[str]:
        return self._farm.read_claims() if self._farm else frozenset()

    def _is_stopped_within(self, seconds: float) -> bool:
        """Sleep for `seconds` or until a signal.  Return whether any has come."""
        until = time.monotonic() + seconds
        while not self._signals.stop_asked:
            left = until - time.monotonic()
            self._signals.wait(left)
            if left <= 0:
                break
        return self._signals.stop_asked

    def _say(self, line: str) -> None:
        self._console.print_text(f"mpifarm supervise: {line}\n")


def step_name(launch: str) -> str:
    """Return the name of the Slurm step of one start, for ``--job-name``."""
    return f"mpifarm-{launch}"
