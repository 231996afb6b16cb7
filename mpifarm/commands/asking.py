"""``mpifarm cancel``, ``hold``, ``release`` and ``drain``: arguments and words.

Rules of this file: `mpifarm.audit.asking` asks the farms; here is who is asked for
what, and what came of it in words and as JSON.
"""

import getpass
import json
import os
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from mpifarm.audit.asking import LivingFarm, Outcome, ask, await_answers
from mpifarm.audit.view import State, read_view
from mpifarm.commands.farm_command import find_farm_command
from mpifarm.commands.held_words import name_release
from mpifarm.commands.option_values import SECONDS, parse_seconds
from mpifarm.commands.sink import Sink
from mpifarm.commands.subcommand import SubcommandParser, parse_id_word
from mpifarm.commands.target import (
    add_target_arguments,
    find_target,
    patience_of,
    texts_of,
)
from mpifarm.errors import ExitStatus, InputError
from mpifarm.model.id_ranges import encode_ids, name_ids
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.requests import Fate, Request, RequestKind
from mpifarm.model.wording import agree, counted
from mpifarm.store.farm_liveness import this_machine
from mpifarm.store.held_file import Held, find_held
from mpifarm.store.target import (
    Target,
    find_existing_lock,
    find_lock,
    read_tasks,
    words_of,
)
from mpifarm.system.console import Console
from mpifarm.system.patience import try_again

WAIT_SECONDS = 60.0
"""Seconds for which a command waits for answers, unless the user says otherwise."""

MAX_WORD: Final = 100


class Wording(NamedTuple):
    """The words of one command."""

    description: str
    takes_ids: str
    """None of "", "needs", "may": whether ids follow the workdir."""


WORDS: Final = {
    RequestKind.CANCEL: Wording(
        "End these tasks in the farms that run now: what runs gets TERM, and KILL after"
        " the farm's grace time; what waits never starts.  They stand in failed as"
        " cancelled, and mpifarm retry brings them back.",
        "needs",
    ),
    RequestKind.HOLD: Wording(
        "Start none of these tasks, or no task at all without IDs, until mpifarm"
        " release.  What runs goes on, and the farms keep their ranks.",
        "may",
    ),
    RequestKind.RELEASE: Wording(
        "Let held tasks start again: these, or all without IDs.", "may"
    ),
    RequestKind.DRAIN: Wording(
        "Have the farms that run now start nothing more, and end when their running"
        " tasks have ended.  Farms that start later are not concerned.",
        "",
    ),
}

_EPILOG = (
    "Exit status: 0 all is done; 1 not all could be done{or_no_farm}; 2 the command"
    " line or an input is wrong; 75 a farm lives and has not answered, or the disk"
    " fails."
)

_ENDED: Final = (State.FINISHED, State.FAILED, State.NOWHERE)
"""The states of tasks that no farm starts, as things stand."""

_OUTLAST_FARMS: Final = (RequestKind.HOLD, RequestKind.RELEASE)
"""What is done also where no farm works: it holds for the next one."""


def run(
    kind: RequestKind, argv: list[str], console: Console, environ: Mapping[str, str]
) -> int:
    """Run a subcommand: ask the farms of a workdir, and print what came of it.

    Return the exit status.  Raises `InputError` and `StorageError`.
    """
    chosen = _parse(kind, argv)
    patience = patience_of(console.print_error)
    target = try_again(lambda: find_target(chosen, environ), patience)
    seconds = _parse_seconds(chosen.wait)
    taskids = _find_ids(kind, chosen, target, environ)
    request = Request(os.urandom(8).hex(), kind, taskids, _find_asker())
    before = try_again(lambda: _find_held(target), patience)
    # What is released may end at once; what is cancelled or held is judged by the end.
    states = _find_states(target, environ, _find_released(request, before))
    outcome = try_again(lambda: _ask(target, environ, request, seconds), patience)
    if kind is not RequestKind.RELEASE:
        states = _find_states(target, environ, request.tasks)
    told = Told(target, request, outcome, states, held=(before, _find_held(target)))
    if chosen.json:
        Sink().write(json.dumps(told.encode()).encode("ascii") + b"\n")
    else:
        for line in told.lines():
            console.print_line(line)
    return told.exit_status


# ---- what is asked ------------------------------------------------------------------


def _parse(kind: RequestKind, argv: list[str]) -> Any:
    words = WORDS[kind]
    parser = SubcommandParser(kind.value, words.description)
    or_no_farm = "" if kind in _OUTLAST_FARMS else ", or no farm works there"
    parser.epilog = _EPILOG.format(or_no_farm=or_no_farm)
    add_target_arguments(parser)
    if words.takes_ids:
        parser.add_argument(
            "ids",
            metavar="IDS",
            nargs="+" if words.takes_ids == "needs" else "*",
            default=[],  # without it, argparse calls "*" required
            help="the tasks, as 3 or 3,7-9",
        )
    parser.add_argument(
        "--wait",
        metavar="TIME",
        default=f"{WAIT_SECONDS:g}",
        help=f"how long to wait for the farms' answers (default: {WAIT_SECONDS:g})",
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object, on one line"
    )
    return parser.parse_args(argv)


def _parse_seconds(text: str) -> float:
    with suppress(ValueError):
        if (seconds := parse_seconds(text)) < 1e9:
            return seconds
    raise InputError(f"--wait takes {SECONDS.takes}, not {text!r:.60}")


def _find_ids(
    kind: RequestKind, chosen: Any, target: Target, environ: Mapping[str, str]
) -> tuple[int, ...] | None:
    """Return the ids that the user names, None for all.

    Raises `InputError` for an id that the list does not have.
    """
    words = getattr(chosen, "ids", [])
    if not words:
        return None
    taskids = sorted({each for word in words for each in parse_id_word(word)})
    tasks = read_tasks(target, environ)
    texts = texts_of(tasks, target, f"mpifarm {kind.value} with ids")
    if taskids[-1] >= len(texts):
        unknown = [each for each in taskids if each >= len(texts)]
        raise InputError(
            f"the tasklist {target.tasklist} has {counted(len(texts))}, from 0 on, and"
            f" no task {name_ids(unknown)}: mpifarm ls {shlex.quote(target.workdir)}"
            " lists them"
        )
    return tuple(taskids)


def _find_held(target: Target) -> Held:
    held, _ = find_held(WorkdirPaths(target.workdir)) or (Held(), "")
    return held


def _find_asker() -> str:
    """Return who asks, for the farm's own screen."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no name, as in some containers
        user = str(os.geteuid())
    asker = f"{user} on {socket.gethostname()}"
    return "".join(filter(str.isprintable, asker))[:MAX_WORD]


def _ask(
    target: Target, environ: Mapping[str, str], request: Request, seconds: float
) -> Outcome:
    paths, machine = WorkdirPaths(os.path.abspath(target.workdir)), this_machine()
    lock = find_lock(target, environ)
    if find_existing_lock(target, environ) is None:
        if request.kind in (RequestKind.CANCEL, RequestKind.DRAIN):
            return Outcome((), (), (), ())  # without a lock file no farm runs
        lock.probe()
    farms = ask(paths, lock, machine, request)
    return await_answers(paths, machine, request, farms, seconds)


def _find_states(
    target: Target, environ: Mapping[str, str], tasks: Sequence[int] | None
) -> dict[int, State]:
    """Return the states of these tasks as they are now, by the files; {} for None."""
    if not tasks:
        return {}
    view = read_view(target, environ)
    return {taskid: view.state(taskid) for taskid in tasks}


def _find_released(request: Request, before: Held) -> Sequence[int] | None:
    """Return the tasks that a request lets start, () if it is no release; None: all.

    `before`: what was held when it was made.  While all tasks are held, it lets none
    start but all.
    """
    if request.kind is not RequestKind.RELEASE:
        return ()
    if before.holds_all:
        return None if request.tasks is None else ()
    if request.tasks is None:
        return sorted(before.tasks)
    return [each for each in request.tasks if each in before.tasks]


# ---- what came of it ----------------------------------------------------------------


class Told:
    """What a command tells of a request's outcome.

    `states` are those of its tasks: before a release, after any other request.  `held`:
    what was held before, and what is now.
    """

    def __init__(
        self,
        target: Target,
        request: Request,
        outcome: Outcome,
        states: Mapping[int, State],
        *,
        held: tuple[Held, Held] = (Held(), Held()),
    ) -> None:
        self._target = target
        self._request = request
        self._outcome = outcome
        self._states = states
        before, self._held_now = held
        self._released = _find_released(request, before)
        self._fates = _join_fates(outcome)

    @property
    def exit_status(self) -> ExitStatus:
        """Return 0 if all is done, 75 if that is not known, else 1."""
        if self._outcome.silent:
            return ExitStatus.RUN_AGAIN
        if not self._outcome.farms:
            is_kept = self._request.kind in _OUTLAST_FARMS and not self._left()
            return ExitStatus.ALL_FINISHED if is_kept else ExitStatus.SOME_FAILED
        is_done = not (self._left() or self._outcome.gone or self._deaf())
        is_done &= not any(answer.refusal for _, answer in self._outcome.answers)
        return ExitStatus.ALL_FINISHED if is_done else ExitStatus.SOME_FAILED

    def _deaf(self) -> list[LivingFarm]:
        return [farm for farm in self._outcome.farms if not farm.heeds]

    def _with_fate(self, *fates: Fate) -> list[int]:
        return [taskid for taskid, (fate, _) in self._fates.items() if fate in fates]

    def _left(self) -> dict[int, State]:
        """Return the named tasks that are not as they were asked to be."""
        if self._request.kind is RequestKind.CANCEL:
            done = self._with_fate(Fate.ENDED_NOW, Fate.WAITED)
        elif self._request.kind is RequestKind.HOLD:
            done = self._with_fate(Fate.WAITED, Fate.RUNS_ON)
            done += filter(self._is_kept_back, self._states)
        else:
            return {}
        left = {*self._states}.difference(done)
        return {each: state for each, state in self._states.items() if each in left}

    def _is_kept_back(self, taskid: int) -> bool:
        """Return whether the file `held` keeps a task from whatever would start it."""
        state = self._states[taskid]
        if self._outcome.farms:
            return state in (State.HELD, State.ORPHANED)
        return state not in _ENDED

    # ---- in words ----------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """Yield the lines for the user."""
        if not self._outcome.farms:
            yield self._describe_without_farm()
        elif self._outcome.answers:
            yield from self._describe_done()
        yield from self._describe_undone()
        yield from self._describe_unheld()
        yield from self._describe_farms()

    def _describe_without_farm(self) -> str:
        """Return the sentence for a workdir without a farm, with what to do."""
        nobody = f"no farm works in {self._target.workdir}"
        match self._request.kind:
            case RequestKind.HOLD:
                return f"{nobody}{self._describe_next_held()}"
            case RequestKind.RELEASE:
                return f"{nobody}{self._describe_next_released()}"
            case RequestKind.CANCEL:
                open_ = self._open(self._request.tasks)
                hold = f"; {self._explain_hold(open_)}" if open_ else ""
                return f"{nobody}: nothing was cancelled{hold}"
            case RequestKind.DRAIN:
                return f"{nobody}: there is nothing to drain"

    def _describe_next_held(self) -> str:
        held = self._name(self._open(self._request.tasks), "tasks")
        if not held:
            return ", and nothing was held"
        farm, release = find_farm_command(self._target), name_release(self._target)
        return f": the next one, {farm}, starts {held} only after {release}"

    def _describe_next_released(self) -> str:
        if still_held := self._describe_still_held():
            return f", and {still_held}"
        if released := self._name(self._open(self._released), "all tasks"):
            farm = find_farm_command(self._target)
            return f": the next one, {farm}, starts {released} too"
        return f", and {self._nothing_was()}"

    def _explain_hold(self, tasks: Sequence[int]) -> str:
        """Return what keeps tasks from the next farm, and what that costs."""
        hold = shlex.join(
            ["mpifarm", "hold", *words_of(self._target), encode_ids(tasks)]
        )
        return (
            f"{hold} keeps {_name(tasks)} back, but a farm then waits for"
            f" {agree(len(tasks), 'its', 'their')} release to the end of the job"
        )

    def _ended(self) -> dict[int, State]:
        """Return the tasks of the request that no farm starts, as things stand."""
        return {each: state for each, state in self._states.items() if state in _ENDED}

    def _open(self, tasks: Sequence[int] | None) -> Sequence[int] | None:
        """Return those of the tasks that a farm may start; None for all."""
        if tasks is None:
            return None
        return [each for each in tasks if self._states.get(each) not in _ENDED]

    @staticmethod
    def _name(tasks: Sequence[int] | None, all_of_them: str) -> str:
        """Return the tasks in words, "" for none."""
        if tasks is None:
            return all_of_them
        return _name(tasks) if tasks else ""

    def _describe_released(self) -> Iterator[str]:
        if still_held := self._describe_still_held():
            yield still_held
            return
        if text := self._name(self._open(self._released), "all tasks"):
            yield f"released {text}"
        elif self._request.tasks is None:
            yield self._nothing_was()

    def _nothing_was(self) -> str:
        is_asked = self._request.tasks or self._released
        return "nothing was released" if is_asked else "nothing was held"

    def _describe_unheld(self) -> Iterator[str]:
        """Yield a line about the tasks that were to be released, and not held."""
        if self._request.kind is not RequestKind.RELEASE or self._held_now.holds_all:
            return
        tasks, released = self._request.tasks or (), self._released or ()
        if unheld := sorted({*tasks}.difference(released)):
            yield f"not released, because they were not held: {name_ids(unheld)}"

    def _describe_still_held(self) -> str:
        if not self._held_now.holds_all:
            return ""
        release = name_release(self._target)
        return f"all tasks are still held: {release} lets them start"

    def _describe_done(self) -> Iterator[str]:
        running = sum(answer.running for _, answer in self._outcome.answers)
        still = f"{counted(running, 'task runs', 'tasks run')} on"
        match self._request.kind:
            case RequestKind.CANCEL:
                yield self._describe_cancelled()
            case RequestKind.HOLD if self._request.tasks is None:
                yield f"all tasks are held; {still}"
            case RequestKind.HOLD:
                yield self._describe_held()
            case RequestKind.RELEASE:
                yield from self._describe_released()
            case RequestKind.DRAIN:
                farms = counted(
                    len(self._outcome.answers), "farm drains", "farms drain"
                )
                yield f"{farms}; {still}"

    def _describe_cancelled(self) -> str:
        done = self._with_fate(Fate.ENDED_NOW, Fate.WAITED)
        if not done:
            return "cancelled no task"
        ran, waited = self._count_by_host(Fate.ENDED_NOW), self._with_fate(Fate.WAITED)
        parts = [f"{count} ran on {host}" for host, count in ran.items()]
        parts += [f"{len(waited)} waited"] if waited else []
        return f"cancelled {counted(len(done))}: {', '.join(parts)}"

    def _describe_held(self) -> str:
        held = {*self._with_fate(Fate.WAITED, Fate.RUNS_ON)}
        held.update(filter(self._is_kept_back, self._states))
        if not held:
            return "held no task"
        ran = self._count_by_host(Fate.RUNS_ON)
        parts = [
            f"{count} {agree(count, 'runs', 'run')} on {host}, and"
            f" {agree(count, 'goes', 'go')} on"
            for host, count in ran.items()
        ]
        return "; ".join([f"held {counted(len(held))}", *parts])

    def _count_by_host(self, fate: Fate) -> dict[str, int]:
        hosts: dict[str, int] = {}
        for found, host in self._fates.values():
            if found is fate:
                hosts[host] = hosts.get(host, 0) + 1
        return hosts

    def _describe_undone(self) -> Iterator[str]:
        """Yield a line for each reason for which tasks are not as they should be."""
        verb = _DONE[self._request.kind]
        is_release = self._request.kind is RequestKind.RELEASE
        by_state = is_release or not self._outcome.farms
        left = self._ended() if by_state else self._left()
        by_why: dict[str, list[int]] = {}
        for taskid, state in left.items():
            fate, _ = self._fates.get(taskid, (None, ""))
            by_why.setdefault(_explain(verb, state, fate), []).append(taskid)
        for why, taskids in by_why.items():
            yield f"not {verb}{why}: {name_ids(taskids)}"

    def _describe_farms(self) -> Iterator[str]:
        """Yield a line for each farm that has not done what was asked."""
        for farm, answer in self._outcome.answers:
            if answer.refusal:
                yield f"{_describe(farm)} has done nothing: {answer.refusal}"
        for farm in self._outcome.silent:
            yield (
                f"{_describe(farm)} has not answered yet: it does this as soon as"
                " it can (mpifarm status tells)"
            )
        for farm in self._outcome.gone:
            yield (
                f"{_describe(farm)} has ended before it answered: what it held may run"
                " again; give this command again"
            )
        for farm in self._deaf():
            yield (
                f"{_describe(farm)} does not answer: it is of an older version of"
                " mpifarm (send its job USR1 to stop it, or make a file named drain in"
                " the workdir)"
            )
        is_all = self._request.tasks is None
        if self._request.kind is RequestKind.HOLD and is_all and self._outcome.farms:
            yield "a PyTaskFarmer that works here does not heed this"

    # ---- as JSON -----------------------------------------------------------------

    def encode(self) -> dict[str, Any]:
        """Return the outcome as a JSON object."""
        fates: dict[str, list[int]] = {}
        for taskid, (fate, _) in self._fates.items():
            fates.setdefault(fate.value, []).append(taskid)
        answers = dict(self._outcome.answers)
        return {
            "request": self._request.kind.value,
            "tasks": None
            if self._request.tasks is None
            else encode_ids(self._request.tasks),
            "done": self.exit_status is ExitStatus.ALL_FINISHED,
            "fates": {fate: encode_ids(taskids) for fate, taskids in fates.items()},
            "not_done": {
                state.value: encode_ids(
                    each for each, found in self._left().items() if found is state
                )
                for state in {*self._left().values()}
            },
            "farms": [
                {
                    "farm": farm.farm,
                    "answered": farm in answers,
                    "heeds_requests": farm.heeds,
                    "running": answers[farm].running if farm in answers else None,
                    "refusal": answers[farm].refusal if farm in answers else "",
                    "ended": farm in self._outcome.gone,
                }
                for farm in self._outcome.farms
            ],
        }


_WHY: Final = {
    State.FINISHED: "they had finished",
    State.FAILED: "they had failed already",
    State.NOWHERE: "they are in no file: a PyTaskFarmer has them, or lost them",
}
_ELSEWHERE: Final = "no farm that answered holds them"


_DONE: Final = {
    RequestKind.CANCEL: "cancelled",
    RequestKind.HOLD: "held",
    RequestKind.RELEASE: "released",
    RequestKind.DRAIN: "drained",
}


def _explain(verb: str, state: State, fate: Fate | None) -> str:
    """Return why tasks in a state were not held, say; it follows that word.

    What has failed may run again, and what users hold is remembered.
    """
    has_just_ended = fate is Fate.ENDED_BEFORE
    why = _WHY.get(state, "they had just ended" if has_just_ended else _ELSEWHERE)
    again = state is State.FAILED and verb != "cancelled"
    return f"{' before mpifarm retry puts them back' if again else ''}, because {why}"


_PRIORITY: Final = (
    *(Fate.ENDED_NOW, Fate.WAITED, Fate.RUNS_ON, Fate.ENDED_BEFORE, Fate.NOT_HERE),
)
"""The fates in the order in which they count, where farms say different things."""


def _join_fates(outcome: Outcome) -> dict[int, tuple[Fate, str]]:
    """Return the fate of each task, by what all farms have answered, and its host."""
    fates: dict[int, tuple[Fate, str]] = {}
    for wanted in reversed(_PRIORITY):
        for _, answer in outcome.answers:
            for fate, host, taskids in answer.fates:
                if fate is wanted:
                    fates.update(dict.fromkeys(taskids, (fate, host)))
    return fates


def _name(taskids: Sequence[int]) -> str:
    what = "task" if len(taskids) == 1 else "tasks"
    return f"{what} {name_ids(taskids)}"


def _describe(farm: LivingFarm) -> str:
    return f"farm {farm.farm} {farm.where}".rstrip()
