"""What the commands that tell a farm something say of the outcome."""

import json
import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mpifarm.audit import view
from mpifarm.audit.asking import LivingFarm, Outcome, ask, await_answers, find_living
from mpifarm.audit.view import State
from mpifarm.commands import asking
from mpifarm.commands.asking import Told, _parse_seconds, run
from mpifarm.commands.options import HelpAsked
from mpifarm.errors import InputError, StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.requests import Answer, Fate, FateOfTasks, Request, RequestKind
from mpifarm.store import old_requests
from mpifarm.store.farm_liveness import FarmLiveness
from mpifarm.store.held_file import Held, find_held, replace_held
from mpifarm.store.target import Target
from tests.unit.audit.test_view import write_claim, write_list
from tests.unit.store_fakes import FakeLock, Site, ended

TARGET = Target("tasks.txt_workdir", "tasks.txt")
ONE = LivingFarm("0badcafe", "on n1 (pid 7)", FarmLiveness.RUNNING, heeds=True)
TWO = ONE._replace(farm="feedbeef", where="on n2 (pid 8)")
OLD = ONE._replace(farm="deadbeef", where="on n3 (pid 9)", heeds=False)
NONE, ALL = Held(), Held(holds_all=True)
CANCEL, HOLD = RequestKind.CANCEL, RequestKind.HOLD


def fates(*tasks, running=0, refusal=""):
    found = tuple(FateOfTasks(fate, host, ids) for fate, host, *ids in tasks)
    found = tuple(each._replace(tasks=tuple(each.tasks)) for each in found)
    return Answer("r1", found, running, refusal)


def told(kind, tasks, answers=(), states=(), silent=(), gone=(), more=(), held=NONE):
    farms = (*(farm for farm, _ in answers), *silent, *gone, *more)
    request = Request("r1", kind, tasks, "eve on login1")
    outcome = Outcome(farms, tuple(answers), tuple(silent), tuple(gone))
    return Told(
        TARGET, request, outcome, dict(states), held=(held, held.after(request))
    )


def test_a_cancel_says_where_what_ran_and_what_was_not_cancelled():
    first = fates((Fate.ENDED_NOW, "n2", 0), (Fate.NOT_HERE, "", 1, 2, 3, 4, 5))
    second = fates((Fate.NOT_HERE, "", 0, 3, 4, 5), (Fate.WAITED, "", 1, 2))
    states = {
        **dict.fromkeys(range(3), State.FAILED),
        3: State.FINISHED,
        4: State.FAILED,
        5: State.NOWHERE,
    }
    answers = [(ONE, first), (TWO, second)]
    found = told(CANCEL, (0, 1, 2, 3, 4, 5), answers, states)
    assert [*found.lines()] == [
        "cancelled 3 tasks: 1 ran on n2, 2 waited",
        "not cancelled, because they had finished: 3",
        "not cancelled, because they had failed already: 4",
        (
            "not cancelled, because they are in no file: a PyTaskFarmer has them, or"
            " lost them: 5"
        ),
    ]
    assert found.exit_status == 1
    encoded = found.encode()
    assert encoded["fates"] == {"ended now": "0", "waited": "1-2", "not here": "3-5"}
    assert encoded["not_done"] == {"finished": "3", "failed": "4", "nowhere": "5"}


def test_what_one_farm_did_counts_though_another_has_nothing_to_do_with_it():
    first, second = fates((Fate.WAITED, "", 0)), fates((Fate.NOT_HERE, "", 0))
    for answers in ([(ONE, first), (TWO, second)], [(TWO, second), (ONE, first)]):
        found = told(CANCEL, (0,), answers, {0: State.FAILED})
        assert [*found.lines()] == ["cancelled 1 task: 1 waited"]
        assert found.exit_status == 0


@pytest.mark.parametrize(
    ("found", "line", "status"),
    [
        (
            told(
                HOLD,
                (1, 2),
                [(ONE, fates((Fate.RUNS_ON, "n1", 1)))],
                {1: State.RUNNING},
            ),
            "held 1 task; 1 runs on n1, and goes on",
            0,
        ),
        (
            told(HOLD, (4,), [(ONE, fates())], {4: State.FAILED}),
            (
                "not held before mpifarm retry puts them back, because they had failed"
                " already: 4"
            ),
            1,
        ),
        (
            told(HOLD, None, [(ONE, fates(running=3))]),
            "all tasks are held; 3 tasks run on",
            0,
        ),
        (
            told(RequestKind.RELEASE, (1,), [(ONE, fates())], held=ALL),
            (
                "all tasks are still held: mpifarm release tasks.txt_workdir lets them"
                " start"
            ),
            0,
        ),
        (
            told(RequestKind.DRAIN, None, [(ONE, fates(running=1))]),
            "1 farm drains; 1 task runs on",
            0,
        ),
        (
            told(RequestKind.DRAIN, None, silent=[ONE]),
            (
                "farm 0badcafe on n1 (pid 7) has not answered yet: it does this as soon"
                " as it can (mpifarm status tells)"
            ),
            75,
        ),
        (
            told(RequestKind.DRAIN, None, gone=[ONE]),
            (
                "farm 0badcafe on n1 (pid 7) has ended before it answered: what it held"
                " may run again; give this command again"
            ),
            1,
        ),
        (
            told(RequestKind.DRAIN, None, more=[OLD]),
            (
                "farm deadbeef on n3 (pid 9) does not answer: it is of an older version"
                " of mpifarm (send its job USR1 to stop it, or make a file named drain"
                " in the workdir)"
            ),
            1,
        ),
        (
            told(RequestKind.DRAIN, None, [(ONE, fates(refusal="it ends"))]),
            "farm 0badcafe on n1 (pid 7) has done nothing: it ends",
            1,
        ),
        (
            told(CANCEL, (1,)),
            (
                "no farm works in tasks.txt_workdir: nothing was cancelled; mpifarm"
                " hold tasks.txt_workdir 1 keeps task 1 back, but a farm then waits for"
                " its release to the end of the job"
            ),
            1,
        ),
        (
            told(HOLD, (1,)),
            (
                "no farm works in tasks.txt_workdir: the next one, mpifarm tasks.txt,"
                " starts task 1 only after mpifarm release tasks.txt_workdir"
            ),
            0,
        ),
    ],
)
def test_each_outcome_has_its_words_and_its_status(found, line, status):
    assert line in [*found.lines()]
    assert found.exit_status == status


RELEASE = RequestKind.RELEASE
NO_CONSOLE: Any = None


@pytest.mark.parametrize(
    ("tasks", "held", "lines"),
    [
        ((1,), Held(frozenset({1, 2})), ["released task 1"]),
        (
            (1, 5),
            Held(frozenset({1, 2})),
            ["released task 1", "not released, because they were not held: 5"],
        ),
        ((5,), NONE, ["not released, because they were not held: 5"]),
        (None, NONE, ["nothing was held"]),
        (None, Held(frozenset({1, 2})), ["released tasks 1-2"]),
        (None, ALL, ["released all tasks"]),
    ],
)
def test_what_was_not_held_is_not_said_to_be_released(tasks, held, lines):
    found = told(RELEASE, tasks, [(ONE, fates())], held=held)
    assert [*found.lines()] == lines
    assert found.exit_status == 0


NOBODY = "no farm works in tasks.txt_workdir"


@pytest.mark.parametrize(
    ("kind", "tasks", "held", "lines"),
    [
        (
            *(HOLD, (0, 1), NONE),
            [
                (
                    f"{NOBODY}: the next one, mpifarm tasks.txt, starts task 1 only"
                    " after mpifarm release tasks.txt_workdir"
                ),
                "not held, because they had finished: 0",
            ],
        ),
        (
            *(HOLD, (0,), NONE),
            [
                f"{NOBODY}, and nothing was held",
                "not held, because they had finished: 0",
            ],
        ),
        (
            *(RELEASE, (0, 1, 5), Held(frozenset({0, 1}))),
            [
                f"{NOBODY}: the next one, mpifarm tasks.txt, starts task 1 too",
                "not released, because they had finished: 0",
                "not released, because they were not held: 5",
            ],
        ),
        (RELEASE, None, NONE, [f"{NOBODY}, and nothing was held"]),
        (
            *(RELEASE, None, Held(frozenset({0}))),
            [
                f"{NOBODY}, and nothing was released",
                "not released, because they had finished: 0",
            ],
        ),
        (
            *(RELEASE, (1,), ALL),
            [
                (
                    f"{NOBODY}, and all tasks are still held: mpifarm release"
                    " tasks.txt_workdir lets them start"
                )
            ],
        ),
        (
            *(CANCEL, (1, 2), NONE),
            [
                (
                    f"{NOBODY}: nothing was cancelled; mpifarm hold"
                    " tasks.txt_workdir 1-2 keeps tasks 1-2 back, but a farm then waits"
                    " for their release to the end of the job"
                )
            ],
        ),
    ],
)
def test_without_a_farm_each_command_says_what_is_so_for_the_next(
    kind, tasks, held, lines
):
    states = {0: State.FINISHED, 1: State.WAITING, 2: State.WAITING, 5: State.FINISHED}
    named = {each: states[each] for each in tasks or held.tasks}
    if kind is RELEASE:  # the others may be in any state
        named = {each: state for each, state in named.items() if each in held.tasks}
    found = told(kind, tasks, states=named, held=held)
    assert [*found.lines()] == lines


# ---- the same word with a farm and without one ---------------------------------------


FAILED_ALREADY = "before mpifarm retry puts them back, because they had failed already"
IN_NO_FILE = "because they are in no file: a PyTaskFarmer has them, or lost them"
LEFT = {
    (CANCEL, State.FINISHED): ", because they had finished",
    (CANCEL, State.FAILED): ", because they had failed already",
    (CANCEL, State.NOWHERE): f", {IN_NO_FILE}",
    (CANCEL, State.ORPHANED): ", because no farm that answered holds them",
    (HOLD, State.FINISHED): ", because they had finished",
    (HOLD, State.FAILED): f" {FAILED_ALREADY}",
    (HOLD, State.NOWHERE): f", {IN_NO_FILE}",
    (RELEASE, State.FINISHED): ", because they had finished",
    (RELEASE, State.FAILED): f" {FAILED_ALREADY}",
    (RELEASE, State.NOWHERE): f", {IN_NO_FILE}",
}
"""What is said where nothing can be done about a task, behind "not held", say."""
PAST = {CANCEL: "cancelled", HOLD: "held", RELEASE: "released"}
STATES = [each for each in State if each is not State.UNKNOWN]
TAKEN = {State.RUNNING, State.CLAIMED}
"""States of tasks that a farm has which lives."""


class Asker:
    """Gives commands about task 3 of a list, which is in `state`, beside a farm or not.

    The farm answers what a coordinator would.
    """

    def __init__(self, tmp_path, monkeypatch, state, *, has_farm):
        self.site, self.state = Site(tmp_path / "list_workdir"), state
        self.printed = list[str]()
        write_list(self.site, self.site.tasks)
        self.site.root.mkdir()
        self.farm = self.site.open() if has_farm else None
        self._put(state)
        monkeypatch.setattr(asking, "this_machine", lambda: self.site.machine(99))
        monkeypatch.setattr(view, "observer", lambda: self.site.machine(99))
        monkeypatch.setattr(asking, "ask", self._ask)

    def _put(self, state):
        queued, left = [0, 1, 2, *range(4, 12)], []
        if state is State.HELD or state is State.WAITING:
            queued = [*range(12)]
        elif state in (State.FINISHED, State.FAILED):
            left = [3]
        elif state is not State.NOWHERE:
            write_claim(self.site, 50, [3])
        if state is State.ORPHANED:
            self.site.dead.add(50)
        self.site.write("finished", left if state is State.FINISHED else [])
        self.site.write("failed", left if state is State.FAILED else [])
        self.site.write("toprocess", queued)
        if state is State.HELD:
            self.hold()

    def hold(self):
        replace_held(WorkdirPaths(str(self.site.root)), Held(frozenset({3})))

    def _ask(self, paths, lock, machine, request):
        farms = ask(paths, lock, machine, request)
        if self.farm is None:
            return farms
        assert self.farm.requests.poll() == [request]
        answered = (
            fates() if request.kind is RELEASE else fates(self._find_fate(request))
        )
        self.farm.requests.answer([answered._replace(request=request.name)])
        # The other claim is there for its task alone.
        return tuple(each for each in farms if each.farm == self.farm.farm)

    def _find_fate(self, request):
        if self.state in TAKEN:
            fate = Fate.ENDED_NOW if request.kind is CANCEL else Fate.RUNS_ON
            return (fate, "n1", 3)
        is_queued = self.state in (State.WAITING, State.HELD)
        return (Fate.WAITED if is_queued else Fate.NOT_HERE, "", 3)

    def give(self, kind, *words):
        """Give a command about the task; its status."""
        self.printed.clear()
        console: Any = SimpleNamespace(print_line=self.printed.append, print_error=None)
        return run(kind, [str(self.site.root), "3", "--wait", "9", *words], console, {})

    def told_left(self):
        return [each for each in self.printed if each.startswith("not ")]


@pytest.mark.parametrize("is_held", [True, False])
@pytest.mark.parametrize(
    ("state", "has_farm"),
    [
        (state, has_farm)
        for state in STATES
        for has_farm in (True, False)
        if has_farm or state not in TAKEN
    ],
)
@pytest.mark.parametrize("kind", [CANCEL, HOLD, RELEASE])
def test_the_state_of_a_task_says_what_is_done_with_a_farm_and_without(
    tmp_path, monkeypatch, kind, state, has_farm, is_held
):
    is_held = is_held or state is State.HELD
    asker = Asker(tmp_path, monkeypatch, state, has_farm=has_farm)
    if is_held:
        asker.hold()
    left = LEFT.get((kind, state), "")
    if kind is RELEASE and not is_held:
        left = ", because they were not held"
    if kind is CANCEL and state is State.ORPHANED and not has_farm:
        left = ""  # it is told how to keep the next farm from it
    is_undone = kind is not RELEASE and bool(left)
    status = is_undone or (kind is CANCEL and not has_farm)
    assert asker.give(kind) == status, asker.printed
    assert asker.told_left() == [f"not {PAST[kind]}{left}: 3"] * bool(left)
    held, _ = find_held(WorkdirPaths(str(asker.site.root))) or (NONE, "")
    assert (3 in held.tasks) == (kind is HOLD or (is_held and kind is CANCEL))
    is_named = any("task 3" in each or "1 task" in each for each in asker.printed)
    assert is_named == (not left)


@pytest.mark.parametrize("has_farm", [True, False])
@pytest.mark.parametrize(
    ("state", "not_done"),
    [
        (State.WAITING, {}),
        (State.ORPHANED, {}),
        (State.FAILED, {"failed": "3"}),
        (State.NOWHERE, {"nowhere": "3"}),
    ],
)
def test_the_object_of_a_hold_names_what_is_not_held(
    tmp_path, monkeypatch, state, not_done, has_farm
):
    asker = Asker(tmp_path, monkeypatch, state, has_farm=has_farm)
    written = list[bytes]()
    monkeypatch.setattr(asking, "Sink", lambda: SimpleNamespace(write=written.append))
    assert asker.give(HOLD, "--json") == bool(not_done)
    encoded = json.loads(written[0])
    assert (encoded["done"], encoded["not_done"]) == (not not_done, not_done)


def test_what_has_just_ended_is_said_so_though_the_files_don_t_have_it_yet():
    answers = [(ONE, fates((Fate.ENDED_BEFORE, "", 1)))]
    found = told(HOLD, (1,), answers, {1: State.CLAIMED})
    assert "not held, because they had just ended: 1" in [*found.lines()]
    assert found.exit_status == 1


@pytest.mark.parametrize("kind", RequestKind)
def test_the_help_says_which_status_follows_where_no_farm_works(kind):
    with pytest.raises(HelpAsked) as asked:
        run(kind, ["--help"], NO_CONSOLE, {})
    gives_1 = "or no farm works there" in " ".join(asked.value.text.split())
    assert gives_1 == (told(kind, (1,)).exit_status == 1)


def test_a_hold_needs_no_ids():
    with pytest.raises(InputError) as caught:
        run(HOLD, [], NO_CONSOLE, {})
    assert "mpifarm hold needs the list or its workdir after it" in str(caught.value)


# ---- asking --------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "workdir")


def test_farms_that_live_are_asked_and_their_answers_awaited(site):
    machine, lock = site.machine(99), FakeLock(site.root / "lock")
    farm, dead = site.open(), site.open()
    site.kill(dead)
    request = Request("r1", HOLD, (3,))
    farms = ask(farm.paths, lock, machine, request)
    assert [each.farm for each in farms] == [farm.farm]
    assert find_held(farm.paths) == (Held(frozenset({3})), "")
    assert farm.requests.poll() == [request]
    silent = await_answers(farm.paths, machine, request, farms, 0.0)
    assert silent.silent == farms
    farm.requests.answer([Answer("r0"), Answer("r1")])
    outcome = await_answers(farm.paths, machine, request, farms, 9.0)
    assert outcome.answers == ((farms[0], Answer("r1")),)


def test_what_is_old_and_done_goes_with_the_next_request(site, monkeypatch):
    monkeypatch.setattr(old_requests, "MAX_BYTES", 0)
    monkeypatch.setattr(old_requests, "KEPT_SECONDS", -1.0)
    farm, lock = site.open(), FakeLock(site.root / "lock")
    for name in ("r1", "r2"):
        request = Request(name, RequestKind.DRAIN)
        farms = ask(farm.paths, lock, site.machine(99), request)
        assert farm.requests.poll() == [request]
        farm.requests.answer([Answer(name)])
        outcome = await_answers(farm.paths, site.machine(99), request, farms, 9.0)
        assert outcome.answers == ((farms[0], Answer(name)),)
    assert b"r1" not in (site.root / "requests").read_bytes()


def test_a_farm_that_dies_is_waited_for_no_longer(site, monkeypatch):
    monkeypatch.setattr("mpifarm.audit.asking.ASSESS_SECONDS", 0.0)
    farm = site.open()
    farms = tuple(find_living(farm.paths, site.machine(99)))
    site.kill(farm)
    outcome = await_answers(
        *(farm.paths, site.machine(99), Request("r1", CANCEL, (0,))), farms, 60.0
    )
    assert outcome.gone == farms


def test_the_answer_of_a_farm_may_be_its_last_word(site, monkeypatch):
    monkeypatch.setattr("mpifarm.audit.asking.ASSESS_SECONDS", 0.0)
    farm, request = site.open(), Request("r1", CANCEL, (0,))
    farms = tuple(find_living(farm.paths, site.machine(99)))

    def answer_and_die(*_: object) -> bool:
        farm.requests.answer([Answer("r1")])
        return False

    monkeypatch.setattr("mpifarm.audit.asking.lives_on", answer_and_die)
    outcome = await_answers(farm.paths, site.machine(99), request, farms, 60.0)
    assert outcome.answers == ((farms[0], Answer("r1")),)
    assert outcome.gone == ()


def test_a_farm_whose_claim_says_nothing_of_requests_is_not_asked(site):
    farm = site.open()
    claim = site.root / "claims" / farm.farm
    claim.write_bytes(claim.read_bytes().replace(b'"requests": 1', b'"array": ""'))
    request = Request("r1", RequestKind.DRAIN)
    (old,) = ask(farm.paths, FakeLock(site.root / "lock"), site.machine(99), request)
    assert not old.heeds
    assert farm.requests.poll() == []


@pytest.mark.parametrize(
    ("kind", "held", "said"),
    [
        (
            HOLD,
            Held(holds_all=True),
            "; farms that start from now on heed the hold, an",
        ),
        (RequestKind.DRAIN, NONE, "; nothing was asked"),
    ],
)
def test_what_holds_is_told_where_a_full_disk_takes_no_request(
    site, monkeypatch, kind, held, said
):
    farm, request = site.open(), Request("r1", kind)

    def fail(*_: object) -> None:
        raise StorageError("no space left on device")

    monkeypatch.setattr("mpifarm.audit.asking.append_request", fail)
    with pytest.raises(StorageError, match=f"device{said}"):
        ask(farm.paths, FakeLock(site.root / "lock"), site.machine(99), request)
    assert (find_held(farm.paths) or (NONE, ""))[0] == held


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("1.5", 1.5), ("2m", 120.0), ("999999999", 999999999.0)],
)
def test_seconds_to_wait_are_none_or_more(text, seconds):
    assert _parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["-1", "1e9", "nan", "inf", "soon", ""])
def test_odd_seconds_to_wait_are_refused(text):
    with pytest.raises(InputError, match="--wait takes seconds, 0 or more"):
        _parse_seconds(text)


# ---- the commands as a whole ---------------------------------------------------------


class Lines:
    def __init__(self) -> None:
        self.said: list[str] = []

    def print_line(self, line: str) -> None:
        self.said.append(line)

    print_error = print_line


@pytest.fixture
def told_by(tmp_path, monkeypatch):
    """Return a function that runs a command on a list of four tasks."""
    monkeypatch.chdir(tmp_path)
    tasks = [f"echo {number}" for number in range(4)]
    (tmp_path / "list").write_text("".join(f"{each}\n" for each in tasks))
    site = Site(tmp_path / "list_workdir", tasks)
    farm = site.open()
    farm.transact((), (), 1)
    farm.transact([ended(0)], (), 0)
    farm.close()

    def tell(kind: RequestKind, *words: str) -> tuple[int, list[str]]:
        console = Lines()
        status = run(kind, [*words], cast(Any, console), {})
        return status, console.said

    return tell


def test_a_hold_counts_for_the_next_farm_and_is_told(told_by, tmp_path):
    _, said = told_by(HOLD, "list", "3", "0-1,3")
    assert said[0].endswith("starts tasks 1, 3 only after mpifarm release list_workdir")
    assert said[1:] == ["not held, because they had finished: 0"]
    paths = WorkdirPaths(str(tmp_path / "list_workdir"))
    assert find_held(paths) == (Held(frozenset({0, 1, 3})), "")
    _, said = told_by(RELEASE, "list", "1", "2")
    assert said[-1] == "not released, because they were not held: 2"
    assert find_held(paths) == (Held(frozenset({0, 3})), "")


def test_a_request_is_told_as_one_json_object(told_by, capfd):
    assert told_by(CANCEL, "list", "2", "--json", "--wait", "0") == (1, [])
    found = json.loads(capfd.readouterr().out)
    assert found["fates"] == {}


def test_tasks_that_the_list_does_not_have_are_named(told_by, tmp_path):
    with pytest.raises(InputError) as caught:
        told_by(HOLD, "list", "3-5", "9")
    assert str(caught.value) == (
        "the tasklist list has 4 tasks, from 0 on, and no task 4-5, 9: mpifarm ls"
        " list_workdir lists them"
    )
    assert not (tmp_path / "list_workdir" / "held").exists()


def test_odd_seconds_are_refused_before_anything_is_asked(told_by, tmp_path):
    with pytest.raises(InputError, match="--wait takes seconds"):
        told_by(HOLD, "list", "1", "--wait", "soon")
    assert not (tmp_path / "list_workdir" / "held").exists()


@pytest.mark.parametrize("error", [KeyError("no name"), OSError("no name")])
def test_who_asks_is_told_also_without_a_name(monkeypatch, error):
    def fail() -> str:
        raise error

    monkeypatch.setattr("socket.gethostname", lambda: "a\nhost" + "x" * 999)
    monkeypatch.setattr("getpass.getuser", lambda: "eve")
    assert asking._find_asker().startswith("eve on ahostxxx")
    assert len(asking._find_asker()) == asking.MAX_WORD
    monkeypatch.setattr("getpass.getuser", fail)
    assert asking._find_asker().startswith(f"{os.geteuid()} on ahostxxx")


def test_the_states_of_no_tasks_are_not_asked_for(monkeypatch):
    monkeypatch.setattr(asking, "read_view", None)
    assert asking._find_states(TARGET, {}, None) == {}
    assert asking._find_states(TARGET, {}, ()) == {}
    view = SimpleNamespace(state=lambda taskid: State.WAITING)
    monkeypatch.setattr(asking, "read_view", lambda *_: view)
    waiting = dict.fromkeys((1, 2), State.WAITING)
    assert asking._find_states(TARGET, {}, (1, 2)) == waiting


SOME = Held(frozenset({5, 1}))


@pytest.mark.parametrize(
    ("kind", "tasks", "before", "released"),
    [
        (HOLD, (1,), SOME, ()),
        (CANCEL, None, ALL, ()),
        (RELEASE, (1, 2), SOME, [1]),
        (RELEASE, None, SOME, [1, 5]),
        (RELEASE, (1,), ALL, ()),
        (RELEASE, None, ALL, None),
        (RELEASE, None, NONE, []),
    ],
)
def test_a_release_lets_start_what_was_held(kind, tasks, before, released):
    request = Request("r1", kind, tasks)
    assert asking._find_released(request, before) == released
