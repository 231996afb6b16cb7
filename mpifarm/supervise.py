"""``mpifarm supervise -- COMMAND``: start a farm again when its ranks or launcher die.

Rules of this file: what to do after a run is decided in `supervision`; nothing is
decided here.  Signals are waited for, never handled: so none comes between a look and a
wait, and the kernel says who sent it.
"""

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpifarm.arguments import HelpAsked, SubcommandParser, parse_arguments
from mpifarm.errors import ExitStatus, InputError
from mpifarm.launcher import launched_size
from mpifarm.signals import SIGNALS
from mpifarm.slurm import (
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
from mpifarm.supervision import (
    Records,
    Run,
    Supervision,
    Told,
    Verdict,
    exit_status_of,
    is_of_launch,
    parse_told,
    words_for,
)

if TYPE_CHECKING:
    from mpifarm.console import Console

DEAF_SECONDS = 5.0
"""A launcher that has just begun loses a signal, or dies of it."""

LONG_RUN = 60.0
"""Seconds after which a run whose records are not known is taken to have had some."""

END_SECONDS = 30.0
"""A launcher gets so long to end after its farm has, then TERM, …"""

KILL_SECONDS = 10.0
"""… and so much later KILL."""

LAUNCH_VARIABLE = "MPIFARM_LAUNCH"
"""Its value is another one for each start, and comes back in ``result.json``: other
farms may be at work on the same list."""

ANSWER_SECONDS = 30.0
LOOK_AGAIN = 5.0

# ---- the workdir ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FarmFiles:
    """The files of a workdir that tell how a run went; it may not be there yet."""

    workdir: str

    def read_told(self) -> Told | None:
        """``result.json``; None where there is none that can be read."""
        import json  # for the one process that supervises

        try:
            with open(f"{self.workdir}/result.json", encoding="utf-8") as file:
                return parse_told(json.load(file))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def read_records(self) -> Records:
        """What is recorded now."""
        names = ("finished", "failed", "attempts.tsv")
        lines = sum(_count_lines(f"{self.workdir}/{name}") for name in names[:2])
        return Records(lines, sum(_size_of(f"{self.workdir}/{name}") for name in names))

    def has_nothing_left(self) -> bool:
        """Whether no task waits, and no farm has left a claim."""
        try:
            claims = os.listdir(f"{self.workdir}/claims")
        except OSError:
            claims = []
        return not claims and not _size_of(f"{self.workdir}/toprocess")


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _count_lines(path: str) -> int:
    try:
        with open(path, "rb") as file:
            return sum(
                piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b"")
            )
    except OSError:
        return 0


def find_farm(words: Sequence[str], environ: Mapping[str, str]) -> FarmFiles | None:
    """The workdir of the farm that this command line starts; None if it can't be told.

    The farm's own arguments are what stands behind ``mpifarm``.
    """
    for place, word in enumerate(words):
        if os.path.basename(word) != "mpifarm":
            continue
        try:
            settings = parse_arguments(words[place + 1 :], environ)
        except (InputError, HelpAsked):
            continue
        if os.path.exists(settings.tasklist):
            return FarmFiles(os.path.abspath(settings.workdir))
    return None


# ---- the launcher --------------------------------------------------------------------


class Mailbox:
    """The signals to this process, which from now on wait until they are asked for."""

    def __init__(self, early: Sequence[int] = ()) -> None:
        # Ignored under nohup: it stays so.
        self._passed = {
            signum
            for signum in SIGNALS
            if signal.getsignal(signum) is not signal.SIG_IGN
        }
        signal.pthread_sigmask(signal.SIG_BLOCK, self._passed | {signal.SIGCHLD})
        self.stop_asked = bool(early)
        self.has_terminal = os.isatty(0)
        """Then a launcher gets Ctrl-C from it as we do."""

    def wait(self, seconds: float) -> int | None:
        """The next signal that is to be passed on; None if there is none by then.

        The death of a child ends the wait as well.
        """
        came = signal.sigtimedwait(self._passed | {signal.SIGCHLD}, max(0.0, seconds))
        if came is None or came.si_signo == signal.SIGCHLD:
            return None
        self.stop_asked = True
        # What the kernel sends is from the terminal, and went to the launcher too.
        return None if self.has_terminal and came.si_code > 0 else came.si_signo


class Launcher:
    """The command while it runs: our own stdin, stdout and stderr are its own."""

    def __init__(
        self, words: Sequence[str], environ: Mapping[str, str], *, shares_group: bool
    ) -> None:
        self._begun = time.monotonic()
        self._waiting: list[int] = []
        self._look_at = self._begun + LOOK_AGAIN
        self._late_at = math.inf
        # In a group of its own, a signal to our group comes once, through us.  From a
        # terminal only the group in the foreground may read, so there it is ours.
        self._process = subprocess.Popen(
            words,
            env=environ,
            process_group=None if shares_group else 0,
            preexec_fn=_unblock_signals,  # noqa: PLW1509 - one thread, no MPI
        )

    def run(self, mailbox: Mailbox, has_farm_ended: Callable[[], bool]) -> int:
        """Until its end; its status as a shell has it."""
        while self._process.poll() is None:
            now = time.monotonic()
            self._pass_on_what_waits(now)
            if now >= self._look_at:
                self._look_at = now + LOOK_AGAIN
                if has_farm_ended():
                    self._end_if_late(now)
            signum = mailbox.wait(self._wake_at() - now)
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
        """A rank that hangs, and was given up, keeps a launcher from ending."""
        self._late_at = min(self._late_at, now + END_SECONDS)
        if now >= self._late_at + KILL_SECONDS:
            self._process.kill()
        elif now >= self._late_at:
            self._process.terminate()


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def ask_slurm(nodes: str, job: str = "") -> NodeStates:
    """What Slurm says of these nodes, and of them as nodes of `job` if that is given.

    Of none where it can't be asked.
    """
    states = parse_states(_ask((*SINFO, f"--nodes={nodes}")))
    present = _ask((*SQUEUE, f"--jobs={job}")).strip() if job else ""
    names = _ask((*HOSTNAMES, present)).split() if present else []
    return without_missing(states, names)


def _ask(words: Sequence[str]) -> str:
    """What the command prints; nothing where it fails."""
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
    """End the steps of this name, and return which they were.

    An srun that was killed leaves its ranks alive; they hold the nodes, and may hang.
    """
    steps = parse_steps(_ask((*STEPS, f"--jobs={job}")), name)
    if steps:
        _ask((*SCANCEL, *steps))
    return steps


# ---- the nodes -----------------------------------------------------------------------


class Nodes:
    """The nodes to stay away from, in the words of srun; nothing without one."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str]) -> None:
        self._words = list(words)
        self._environ = environ
        self._job = environ.get("SLURM_JOB_ID", "")
        self._job_nodes = environ.get("SLURM_JOB_NODELIST", "")
        self._lost: tuple[str, ...] = ()
        self._quarantined: dict[str, None] = {}

    @property
    def in_allocation(self) -> bool:
        """Whether the command runs in a job of Slurm's."""
        return (
            bool(self._job and self._job_nodes) and find_srun(self._words) is not None
        )

    def note(self, told: Told | None) -> None:
        """Who lost a rank counts for the next start, who is quarantined for good."""
        self._lost = () if told is None else told.lost
        self._quarantined |= dict.fromkeys(() if told is None else told.quarantined)

    def next_words(
        self, ask: Callable[[str, str], NodeStates] = ask_slurm
    ) -> tuple[list[str], Sequence[str]]:
        """The command line for the next start, and the nodes that it leaves out."""
        named = [*self._quarantined, *self._lost]
        in_job = self._job_nodes
        asked = in_job or ",".join(host.partition(".")[0] for host in named)
        if find_srun(self._words) is None or not asked:
            return self._words, ()
        states = ask(asked, self._job if in_job else "")
        # Outside of a job srun finds nodes by itself, so none of these is needed.
        excluded = choose_excluded(states, named) if in_job else states.known
        count = len(states.known) if in_job else 0
        if in_job and len(excluded) == count:
            return self._words, ()
        words = exclude_nodes(self._words, excluded, count, self._environ)
        return words, excluded if words != self._words else ()


def choose_excluded(states: NodeStates, named: Sequence[str]) -> Sequence[str]:
    """The nodes to leave out: those that are gone, and the others if any are left."""
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
    """``mpifarm supervise``; the exit status is that of the last farm.

    `early` are signals that came before this was called.  Raises InputError for a
    command line that is wrong.
    """
    max_restarts, words = _parse(argv)
    if launched_size(environ) > 1:
        raise InputError(
            "supervise starts the launcher and not the other way round: write "
            "'mpifarm supervise -- srun ... python -m mpifarm ...'"
        )
    return Supervisor(words, environ, console, max_restarts, Mailbox(early)).run()


def _parse(argv: Sequence[str]) -> tuple[int | None, list[str]]:
    words = list(argv)
    place = words.index("--") if "--" in words else len(words)
    parser = SubcommandParser(
        "supervise",
        "Run a command that starts a farm, and start it again when ranks or their"
        " launcher have died, until the list is done or nothing moves any more.",
    )
    command = "srun ... python -m mpifarm tasks.txt"
    parser.usage = f"mpifarm supervise [--max-restarts N] -- {command}"
    parser.add_argument(
        "--max-restarts",
        metavar="N",
        help="start it again at most N times (default: while anything gets done)",
    )
    asks_for_help = not {"-h", "--help"}.isdisjoint(words[:place])
    if not words[place + 1 :] and not asks_for_help:
        raise InputError(
            "no command to supervise: write it behind --, as in 'mpifarm supervise -- "
            "srun -N 8 python -m mpifarm tasks.txt'"
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
    """One command, run until there is no more use in it."""

    def __init__(
        self,
        words: Sequence[str],
        environ: Mapping[str, str],
        console: "Console",
        max_restarts: int | None,
        mailbox: Mailbox,
    ) -> None:
        self._environ = environ
        self._launch = ""
        """Which start this is."""
        self._console = console
        self._mailbox = mailbox
        self._farm = find_farm(words, environ)
        self._nodes = Nodes(words, environ)
        self._supervision = Supervision(
            max_restarts,
            knows_workdir=self._farm is not None,
            in_allocation=self._nodes.in_allocation,
        )

    def run(self) -> int:
        """The exit status of the last run."""
        if self._mailbox.stop_asked:
            self._say("a signal came before the start: nothing was started")
            return ExitStatus.RUN_AGAIN
        words = self._choose_nodes()
        while True:
            run = self._run_once(words)
            verdict = self._supervision.judge(run)
            goes_on = verdict in (Verdict.BROKEN, Verdict.CLAIM_LEFT)
            pause = self._supervision.pause(verdict) if goes_on else 0.0
            self._nodes.note(run.told)
            without: Sequence[str] = ()
            if goes_on and not pause:
                words, without = self._nodes.next_words()
            if line := words_for(verdict, run, pause, without):
                self._say(line)
            if not goes_on:
                return exit_status_of(run)
            self._end_steps()
            if self._is_stopped_within(pause):
                self._say("a signal came: it is not started again")
                return ExitStatus.RUN_AGAIN
            if pause:  # Slurm may know more by now
                words = self._choose_nodes()

    def _end_steps(self) -> None:
        if not self._nodes.in_allocation:
            return
        steps = end_steps(self._environ["SLURM_JOB_ID"], step_name(self._launch))
        if steps:
            self._say(f"ending what the last srun has left, {', '.join(steps)}")

    def _choose_nodes(self) -> list[str]:
        words, without = self._nodes.next_words()
        if without:
            self._say(f"starting without {', '.join(without)}")
        return words

    def _run_once(self, words: Sequence[str]) -> Run:
        launch = self._launch = os.urandom(4).hex()
        before, told_before = self._read_records(), self._read_told()
        begun = time.monotonic()
        launcher = self._start(words, launch)
        status = launcher.run(self._mailbox, lambda: self._has_ended(launch))
        seconds = time.monotonic() - begun
        told, now = self._read_told(), self._read_records()
        is_own = is_of_launch(told, launch, told_before)
        return Run(
            status,
            told if is_own else None,
            moved=now.size > before.size if self._farm else seconds >= LONG_RUN,
            recorded=now.tasks - before.tasks,
            left_nothing=self._farm is None or self._farm.has_nothing_left(),
            asked=self._mailbox.stop_asked,
        )

    def _start(self, words: Sequence[str], launch: str) -> Launcher:
        environ = {**self._environ, LAUNCH_VARIABLE: launch}
        if self._nodes.in_allocation:
            words = name_step(words, step_name(launch))
        shares = self._mailbox.has_terminal
        try:
            return Launcher(words, environ, shares_group=shares)
        except OSError as error:
            raise InputError(
                f"{words[0]!r} can't be started ({error.strerror}): is it installed, "
                "and is its module loaded?"
            ) from None

    def _has_ended(self, launch: str) -> bool:
        """Whether the farm has, whatever its launcher still waits for."""
        told = self._read_told()
        return told is not None and told.launch == launch

    def _read_told(self) -> Told | None:
        return self._farm.read_told() if self._farm else None

    def _read_records(self) -> Records:
        return self._farm.read_records() if self._farm else Records(0, 0)

    def _is_stopped_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not self._mailbox.stop_asked:
            left = until - time.monotonic()
            self._mailbox.wait(left)
            if left <= 0:
                break
        return self._mailbox.stop_asked

    def _say(self, line: str) -> None:
        self._console.say_whole(f"mpifarm supervise: {line}\n")


def step_name(launch: str) -> str:
    """What a step is called, so that it can be found again."""
    return f"mpifarm-{launch}"
