"""What ``mpifarm log`` says where it waits, gives up, or has nothing to show."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from mpifarm.audit.audit import ClaimView
from mpifarm.audit.locate import LocatedTask
from mpifarm.commands.log import command, follow
from mpifarm.commands.log import explain as explain_module
from mpifarm.commands.log.explain import NO_FARM, Explainer
from mpifarm.commands.log.gaps import MAX_GAPS, Gap, Gaps
from mpifarm.errors import ExitStatus, InputError, StorageError
from mpifarm.store.farm_liveness import FarmLiveness
from mpifarm.store.held_file import Held, encode_held
from mpifarm.store.target import Target
from mpifarm.store.task_map import Location

ALIVE = ClaimView("f00d", "on n1", FarmLiveness.HOLDS_LOCK, frozenset(), frozenset())
WAITS = "has not started yet: it waits to be run"
DEAD = ALIVE._replace(liveness=FarmLiveness.DEAD)


class Complaints:
    def __init__(self):
        self.said: list[str] = []

    def print_error(self, sentence):
        self.said.append(sentence)


@pytest.fixture
def console():
    return Complaints()


@pytest.fixture
def explain(tmp_path, console):
    """Make an explainer for a workdir, with or without its list."""

    def make(*, with_list=True, little=False):
        root = tmp_path / "list_workdir"
        (root / "logs").mkdir(parents=True, exist_ok=True)
        if little:
            (root / "logs" / "unkept").mkdir(exist_ok=True)
        (tmp_path / "list").write_text("a\nb\n")
        (root / "toprocess").write_text("0 a\n1 b\n")
        tasklist = str(tmp_path / "list") if with_list else None
        return Explainer(Target(str(root), tasklist), {}, cast(Any, console))

    return make


@pytest.mark.parametrize(
    ("found", "little", "said"),
    [
        (
            LocatedTask(Location.FINISHED, None, may_start=False),
            False,
            "has finished, and has no output",
        ),
        (
            LocatedTask(Location.FINISHED, None, may_start=False),
            True,
            (
                "has finished, and has no output (--logs failed keeps nothing of what"
                " completed)"
            ),
        ),
        (
            LocatedTask(Location.FAILED, None, may_start=True),
            True,
            "has failed, and has no output",
        ),
        (
            LocatedTask(Location.CLAIMED, ALIVE, may_start=True),
            False,
            "has not started yet: farm f00d on n1 has taken it",
        ),
        (
            LocatedTask(Location.CLAIMED, ALIVE, may_start=True),
            True,
            (
                "has not started yet: farm f00d on n1 has taken it; or it has just"
                " completed (--logs failed keeps nothing then)"
            ),
        ),
        (
            LocatedTask(Location.CLAIMED, DEAD, may_start=True),
            False,
            (
                "has no output here: farm f00d had taken it and died; the next start"
                " takes it back"
            ),
        ),
        (
            LocatedTask(Location.QUEUED, None, may_start=True),
            False,
            "has not started yet: it waits to be run",
        ),
        (
            LocatedTask(Location.QUEUED, None, may_start=False),
            False,
            (
                "has not started yet: it waits to be run, and no farm is running:"
                " give the farm's command again to run it"
            ),
        ),
        (
            LocatedTask(Location.NOWHERE, None, may_start=False),
            False,
            "has no log, and is in no file (a PyTaskFarmer may have taken it)",
        ),
        (
            LocatedTask(Location.UNKNOWN, None, may_start=False),
            False,
            "has no output here; only its tasklist knows whether it has run",
        ),
    ],
)
def test_each_reason_for_no_output_has_its_words(explain, found, little, said):
    assert explain(little=little).reason(0, found) == said


def test_a_held_task_is_told_with_the_command_that_releases_it(explain, tmp_path):
    queued = LocatedTask(Location.QUEUED, None, may_start=True)
    explainer = explain()
    (tmp_path / "list_workdir" / "held").write_bytes(encode_held(Held(frozenset({1}))))
    release = f"mpifarm release {tmp_path}/list_workdir"
    assert explainer.reason(1, queued) == (
        f"has not started yet: it is held, and {release} lets it start"
    )
    assert explainer.reason(0, queued) == WAITS


def test_a_task_behind_others_that_have_not_ended_is_told_so(explain, tmp_path):
    explainer = explain()
    (tmp_path / "list").write_text("a\n#BARRIER\nb\n")
    assert explainer.explain(1) == (
        "task 1 has not started yet: it waits for others, by the order of the list"
        + NO_FARM
    )
    assert explainer.explain(0) == f"task 0 {WAITS}{NO_FARM}"
    (tmp_path / "list_workdir" / "finished").write_text("0 a\n")
    assert explainer.explain(1) == f"task 1 {WAITS}{NO_FARM}"


def test_an_unknown_task_is_told_with_the_list_or_how_to_name_it(explain):
    with pytest.raises(InputError, match=r"there is no task 2: .*/list has 2 tasks"):
        explain().locate(2)
    assert explain().locate(1).location is Location.QUEUED
    with pytest.raises(InputError, match="to name the tasklist, add --list FILE"):
        explain(with_list=False).locate(2)


def test_ids_beyond_the_list_are_parted_where_the_list_is_known(explain):
    known, said = explain().split_known([0, 5, 1, 2])
    assert known == [0, 1]
    assert said.startswith("there are no tasks 2, 5: ")
    assert explain().split_known([1])[1] == ""
    assert explain().split_known([2])[1].startswith("there is no task 2: ")
    assert explain(with_list=False).split_known([0, 5]) == ([0, 5], "")


@pytest.mark.parametrize(
    ("found", "has_begun", "said"),
    [
        (LocatedTask(Location.CLAIMED, ALIVE, may_start=True), True, None),
        (LocatedTask(Location.CLAIMED, ALIVE, may_start=True), False, "has taken it"),
        (LocatedTask(Location.CLAIMED, DEAD, may_start=True), False, None),
        (LocatedTask(Location.FINISHED, None, may_start=True), True, None),
        (
            LocatedTask(Location.QUEUED, None, may_start=True),
            True,
            "waits to be run again",
        ),
        (LocatedTask(Location.QUEUED, None, may_start=False), True, None),
        (
            LocatedTask(Location.UNKNOWN, None, may_start=True),
            True,
            "may run again, as far as the files tell",
        ),
        (LocatedTask(Location.UNKNOWN, None, may_start=False), True, None),
        (
            LocatedTask(Location.NOWHERE, None, may_start=False),
            True,
            "is in no file: a PyTaskFarmer may be running it",
        ),
    ],
)
def test_why_it_waits_is_told(explain, console, found, has_begun, said):
    follow._report_waiting(explain(), 7, found, has_begun=has_begun)
    if said is None:
        assert console.said == []
    else:
        (sentence,) = console.said
        assert sentence.startswith("task 7 ")
        assert sentence.endswith(f"{said}; this waits for it (Ctrl-C ends that)")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (LocatedTask(Location.FINISHED, None, may_start=True), []),
        (LocatedTask(Location.CLAIMED, ALIVE, may_start=True), []),
        (
            LocatedTask(Location.CLAIMED, DEAD, may_start=True),
            [
                (
                    "task 7 has not ended: farm f00d had it and died; the farm's"
                    " command, given again, runs it again"
                )
            ],
        ),
        (
            LocatedTask(Location.QUEUED, None, may_start=True),
            ["task 7 has not ended: it waits to be run"],
        ),
        (
            LocatedTask(Location.QUEUED, None, may_start=False),
            [
                (
                    "task 7 has not ended: it waits to be run, and no farm is"
                    " running: give the farm's command again to run it"
                )
            ],
        ),
    ],
)
def test_why_nothing_more_comes_is_told(explain, console, found, said):
    follow._report_unfinished(explain(), 7, found)
    assert console.said == said


def test_many_reasons_are_told_in_few_sentences():
    gaps = Gaps()
    for number in range(MAX_GAPS + 3):
        for taskid in range(2):
            gaps.note(Gap("", f" has reason {number}"), 2 * number + taskid)
    sentences = gaps.sentences()
    assert len(sentences) == MAX_GAPS + 1
    assert sentences[0] == "each of the tasks 0-1 has reason 0"
    assert sentences[-1] == "the like is true of 6 more tasks"
    gaps = Gaps()
    for number in range(MAX_GAPS):
        gaps.note(Gap("", f" has reason {number}"), number)
    assert gaps.sentences()[-1] == f"task {MAX_GAPS - 1} has reason {MAX_GAPS - 1}"
    many = Gaps()
    for taskid in range(0, 100, 2):
        many.note(Gap("", " have none"), taskid)
    (sentence,) = many.sentences()
    assert sentence.startswith("each of 50 tasks (0, 2, 4,")


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (BrokenPipeError(), ExitStatus.ALL_FINISHED),
        (PermissionError(13, "Permission denied", "log_0"), InputError),
        (OSError(5, "Input/output error", "log_0"), StorageError),
    ],
)
def test_an_error_while_printing_is_told_by_its_kind(
    tmp_path, monkeypatch, console, error, ends
):
    (tmp_path / "list").write_text("a\n")
    (tmp_path / "list_workdir" / "logs").mkdir(parents=True)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(command, "_print_one", fail)
    monkeypatch.chdir(tmp_path)
    if isinstance(ends, ExitStatus):
        assert command.main(["list", "0"], console, {}) == ends
        return
    with pytest.raises(ends, match="log_0"):
        command.main(["list", "0"], console, {})


def test_failed_tasks_of_a_list_with_its_own_state_are_not_known():
    view: Any = SimpleNamespace(
        has_own_state=True, target=Target("w", "list", handler="db")
    )
    with pytest.raises(InputError, match=r"--failed is impossible: .*'db' keeps"):
        command._find_failed(view)


def test_words_of_the_command_line_are_checked():
    assert command._parse_attempt("-1") == -1
    assert command._parse_attempt("3") == 3
    assert command._parse_attempt(None) is None
    assert command._parse_last("1") == 1
    for wrong in ("0", "-0", "x", "1.5", ""):
        with pytest.raises(InputError, match="--attempt takes 1, 2"):
            command._parse_attempt(wrong)
    for wrong in ("0", "-1", "x", ""):
        with pytest.raises(InputError, match="--last takes a number of lines"):
            command._parse_last(wrong)


@pytest.mark.parametrize(
    ("attempt", "last", "failed", "told"),
    [
        (None, None, True, "leave out --failed, or -f"),
        (None, 3, False, "leave out --last"),
        (1, None, False, "leave out --attempt, or -f"),
    ],
)
def test_following_is_for_all_that_is_still_to_come(attempt, last, failed, told):
    command._check_follow(None, None, failed=False)
    with pytest.raises(InputError, match=told):
        command._check_follow(attempt, last, failed=failed)


# ---- what is asked while a task is followed ------------------------------------------

HOLDS = ALIVE._replace(held=frozenset({7}))


@pytest.mark.parametrize(
    ("found", "may_begin"),
    [
        (LocatedTask(Location.CLAIMED, ALIVE, may_start=False), True),
        (LocatedTask(Location.CLAIMED, DEAD, may_start=True), False),
        (LocatedTask(Location.QUEUED, None, may_start=True), True),
        (LocatedTask(Location.QUEUED, None, may_start=False), False),
        (LocatedTask(Location.UNKNOWN, None, may_start=True), True),
        (LocatedTask(Location.UNKNOWN, None, may_start=False), False),
        (LocatedTask(Location.NOWHERE, None, may_start=False), True),
        (LocatedTask(Location.FINISHED, None, may_start=True), False),
        (LocatedTask(Location.FAILED, None, may_start=True), False),
    ],
)
def test_a_task_may_begin_by_itself_where_somebody_may_have_it(found, may_begin):
    assert follow.may_begin(found) is may_begin


CLAIMED = LocatedTask(Location.CLAIMED, HOLDS, may_start=True)
WAITS_AGAIN = LocatedTask(Location.QUEUED, None, may_start=True)
ENDED = LocatedTask(Location.FINISHED, None, may_start=True)


@pytest.mark.parametrize(
    ("found", "claim", "located", "answer"),
    [
        (CLAIMED, HOLDS, None, (CLAIMED, False)),
        (CLAIMED, HOLDS._replace(held=frozenset()), ENDED, (ENDED, True)),
        (
            CLAIMED,
            HOLDS._replace(liveness=FarmLiveness.DEAD),
            WAITS_AGAIN,
            (WAITS_AGAIN, False),
        ),
        (CLAIMED, None, ENDED, (ENDED, True)),
        (CLAIMED, None, CLAIMED, (CLAIMED, False)),
        (
            CLAIMED,
            None,
            LocatedTask(Location.NOWHERE, None, may_start=True),
            (LocatedTask(Location.NOWHERE, None, may_start=True), True),
        ),
        (WAITS_AGAIN, None, ENDED, (ENDED, False)),
        (ENDED, None, ENDED, (ENDED, True)),
    ],
)
def test_while_its_claim_lives_only_that_is_asked(
    monkeypatch, found, claim, located, answer
):
    asked: list[int] = []

    def locate(taskid):
        asked.append(taskid)
        return located

    explainer = SimpleNamespace(locate=locate, target=Target("w", None))
    printer = cast(Any, SimpleNamespace(explainer=explainer))
    monkeypatch.setattr(follow, "find_claim", lambda *_: claim)
    assert follow.Following(printer, 7, [])._ask(found) == answer
    assert asked == ([] if located is None else [7])


def test_the_last_look_for_attempts_comes_though_the_output_has_just_grown(
    monkeypatch,
):
    asked: list[str] = []

    def note(name: str) -> Any:
        def answer(*_: object) -> bool:
            asked.append(name)
            return True

        return answer

    sink = SimpleNamespace(wait=lambda _: None)
    printer: Any = SimpleNamespace(explainer=None, print_new=note("output"), sink=sink)
    following = follow.Following(printer, 7, [cast(Any, None)])
    answers = iter([(CLAIMED, False), (ENDED, True)])
    monkeypatch.setattr(follow, "TASK_SECONDS", 0.0)
    monkeypatch.setattr(following, "_ask", lambda _: next(answers))
    monkeypatch.setattr(following, "print_new_attempts", note("attempts"))
    assert following.run(CLAIMED) is ENDED
    assert asked[-2:] == ["output", "attempts"]
    assert asked.count("attempts") == 1


# ---- the order of things while a task is followed ------------------------------------


class Followed:
    """A printer whose explainer, readers and loop are stand-ins."""

    def __init__(self, monkeypatch, found: LocatedTask, readers: int) -> None:
        self.acts: list[Any] = []
        self.readers = [object() for _ in range(readers)]
        acts = self.acts
        self.printer: Any = SimpleNamespace(
            explainer=SimpleNamespace(
                locate=lambda _: found,
                explain=lambda taskid: f"task {taskid} has no output",
                note_doubt=lambda *of: acts.append(("doubt", *of)),
                report_doubts=lambda: acts.append("report"),
            ),
            open_outputs=lambda taskid, split: self.readers,
            begin_attempt=lambda reader, is_first: acts.append(
                (self.readers.index(reader), is_first)
            ),
        )

        def run(following: Any, found: LocatedTask) -> LocatedTask:
            acts.append("run")
            return ENDED

        def wait(_: Any, taskid: int, at: LocatedTask, *, has_begun: bool) -> None:
            acts.append(("waiting", taskid, at, has_begun))

        monkeypatch.setattr(follow.Following, "run", run)
        monkeypatch.setattr(follow, "_report_waiting", wait)
        monkeypatch.setattr(
            *(follow, "_report_unfinished"),
            lambda _, taskid, at: acts.append(("unfinished", taskid, at)),
        )
        monkeypatch.setattr(follow, "outputs_of", len)
        monkeypatch.setattr(
            follow, "close_all", lambda readers: acts.append(f"close {len(readers)}")
        )


def test_a_task_is_followed_from_its_first_attempt_to_its_doubts(monkeypatch):
    followed = Followed(monkeypatch, CLAIMED, 2)
    follow.follow(followed.printer, 7)
    assert followed.acts == [
        *((0, True), (1, False)),
        *(("waiting", 7, CLAIMED, True), "run", ("doubt", 7, 2), "close 2"),
        *(("unfinished", 7, ENDED), "report"),
    ]


@pytest.mark.parametrize(
    ("found", "readers", "follows"),
    [(ENDED, 0, False), (ENDED, 1, True), (WAITS_AGAIN, 0, True)],
)
def test_only_a_task_that_has_no_output_and_gets_none_is_refused(
    monkeypatch, found, readers, follows
):
    followed = Followed(monkeypatch, found, readers)
    if follows:
        follow.follow(followed.printer, 7)
        assert ("waiting", 7, found, bool(readers)) in followed.acts
        return
    with pytest.raises(InputError, match="task 7 has no output"):
        follow.follow(followed.printer, 7)
    assert followed.acts == ["close 0"]


def test_outputs_are_closed_also_where_nobody_reads_any_more(monkeypatch):
    followed = Followed(monkeypatch, CLAIMED, 1)

    def fail(*_: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(follow.Following, "run", fail)
    with pytest.raises(BrokenPipeError):
        follow.follow(followed.printer, 7)
    assert followed.acts[-1] == "close 1"


def test_each_new_attempt_is_opened_once(monkeypatch):
    """By its place in a pack, by its path, or as a file that was moved meanwhile."""
    begun: list[Any] = []
    paths = ["old", "moved", "gone", "new"]
    outputs = [SimpleNamespace(path=path, source=None) for path in paths]

    def create(output: Any) -> Any:
        if output.path == "gone":
            raise FileNotFoundError
        return SimpleNamespace(output=output, reads=lambda path: False)

    known: Any = SimpleNamespace(output=outputs[0], reads="moved".__eq__)
    printer: Any = SimpleNamespace(
        explainer=SimpleNamespace(logs="logs", patiently=lambda act: act()),
        begin_attempt=lambda reader, is_first: begun.append(
            (reader.output.path, is_first)
        ),
    )
    monkeypatch.setattr(follow, "OutputReader", create)
    monkeypatch.setattr(follow, "find_outputs", lambda *_, split, sources: outputs)
    following = follow.Following(printer, 7, [known])
    assert following.print_new_attempts()
    assert begun == [("new", False)]
    assert not following.print_new_attempts()
    first = follow.Following(printer, 7, [])
    assert first.print_new_attempts()
    assert begun[1:] == [
        *(("old", True), ("moved", False), ("new", False)),
    ]


class Loop:
    """The loop over one task in virtual time, with what it does and when."""

    def __init__(self, monkeypatch, ends_at: float, *, asking: float = 0.0) -> None:
        monkeypatch.setattr(follow, "OUTPUT_SECONDS", 0.125)  # its sums are exact
        self.now = 128.0
        self.acts: list[tuple[str, float]] = []
        self.comes: set[float] = set()
        """When there is new output."""
        self.polls: list[float] = []
        """Seconds that polls take, the first ones."""
        self.ends_at, self.asking = ends_at, asking
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(follow, "time", clock)
        printer: Any = SimpleNamespace(
            explainer=None,
            print_new=self._print_new,
            sink=SimpleNamespace(wait=self._wait),
        )
        reader: Any = object()
        self.following = follow.Following(printer, 7, [reader])
        monkeypatch.setattr(self.following, "_ask", self._ask)
        monkeypatch.setattr(self.following, "print_new_attempts", self._look)

    def _note(self, what: str) -> float:
        at = self.now - 128.0
        self.acts.append((what, at))
        return at

    def _ask(self, _: LocatedTask) -> tuple[LocatedTask, bool]:
        has_ended = self._note("ask") >= self.ends_at
        self.now += self.asking
        return (ENDED if has_ended else CLAIMED), has_ended

    def _print_new(self, _: object) -> bool:
        at = self._note("print")
        self.now += self.polls.pop(0) if self.polls else 0.0
        if at not in self.comes:
            return False
        self.comes.remove(at)
        return True

    def _look(self) -> bool:
        self._note("look")
        return False

    def _wait(self, seconds: float) -> None:
        self._note("wait")
        self.now += seconds

    def times(self, what: str) -> list[float]:
        return [at for name, at in self.acts if name == what]


def test_output_is_polled_often_attempts_seldom_and_the_task_more_seldom(monkeypatch):
    loop = Loop(monkeypatch, ends_at=2.0)
    assert loop.following.run(CLAIMED) is ENDED
    assert loop.times("ask") == [0.0, 1.0, 2.0]
    assert loop.times("look") == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert loop.times("print") == [number / 8 for number in range(17)]
    assert loop.times("wait") == [number / 8 for number in range(16)]
    assert loop.acts[-3:] == [("ask", 2.0), ("print", 2.0), ("look", 2.0)]


def test_a_task_that_prints_all_the_time_is_polled_with_pauses(monkeypatch):
    """Each poll reads files of a shared disk."""
    loop = Loop(monkeypatch, ends_at=1.0)
    loop.comes = {number / 8 for number in range(9)}
    loop.following.run(CLAIMED)
    assert loop.times("print") == [number / 8 for number in range(9)]
    assert loop.times("wait") == [number / 8 for number in range(8)]
    assert loop.times("look") == [1.0]


def test_a_slow_poll_has_a_long_pause_and_a_reader_that_stops_has_none(monkeypatch):
    loop = Loop(monkeypatch, ends_at=3600.0)
    loop.polls = [0.5, 4000.0]
    loop.following.run(CLAIMED)
    assert loop.times("print") == [0.0, 0.5 + 2.0, 4002.5 + 4.0]


def test_searches_for_the_task_take_a_tenth_of_the_time(monkeypatch):
    loop = Loop(monkeypatch, ends_at=9.0, asking=0.5)
    loop.following.run(CLAIMED)
    assert loop.times("ask") == [0.0, 5.0, 10.0]


def test_a_task_without_an_output_is_asked_for_and_its_attempts(monkeypatch):
    loop = Loop(monkeypatch, ends_at=1.0)
    loop.following._readers.clear()
    loop.following.run(CLAIMED)
    assert loop.times("print") == []
    assert loop.times("look") == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("has_list", "own", "texts"),
    [(True, False, "texts"), (True, True, None), (False, False, None)],
)
def test_a_list_that_keeps_its_own_state_is_not_compared_by_its_texts(
    monkeypatch, has_list, own, texts
):
    given: dict[str, Any] = {}

    def locate(contents: object, found: object, **more: object) -> str:
        given.update(more, texts=found)
        return "the locator"

    monkeypatch.setattr(explain_module, "is_database", lambda *_: False)
    monkeypatch.setattr(explain_module, "has_own_state", lambda *_: own)
    monkeypatch.setattr(explain_module, "examine_whole", lambda *_, **__: "contents")
    monkeypatch.setattr(explain_module, "find_constraints", lambda _: "constraints")
    monkeypatch.setattr(explain_module, "locate_tasks", locate)
    explainer = Explainer(Target("w", "list"), {}, cast(Any, Complaints()))
    tasks = SimpleNamespace(tasks="texts") if has_list else None
    explainer.__dict__["_tasks"] = tasks
    assert cast(Any, explainer.locator()) == "the locator"
    assert (given["texts"], given["has_own_state"]) == (texts, own)
    assert (given["constraints"] == "constraints") is has_list
