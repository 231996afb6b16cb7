"""A view of a workdir says what the files say, whatever state they are in."""

import json
import os
from pathlib import Path

import pytest

from mpifarm.audit import view as module
from mpifarm.audit.snapshot import glance
from mpifarm.audit.view import State, View, is_of, read_view
from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store import attempts as attempts_module
from mpifarm.store.attempts import Column, LastAttempts
from mpifarm.store.claim_journal import Event, Head, encode_event, encode_head
from mpifarm.store.fingerprint import encode_fingerprint, take_fingerprint
from mpifarm.store.target import Target
from tests.unit.store_fakes import TASKS, PlainFarmer, Site
from tests.workdir_files import OLD_ATTEMPTS_HEAD, Attempt, format_attempts

ALL = list(range(len(TASKS)))


@pytest.fixture
def site(tmp_path):
    """0 and 1 are finished; 2, 3 and 4 failed; all others are to be processed."""
    site = Site(tmp_path / "list_workdir")
    site.write("toprocess", ALL[5:])
    site.write("finished", [1, 0])
    site.write("failed", [4, 2, 3])
    write_list(site, TASKS)
    return site


def write_list(site: Site, tasks: list[str]) -> None:
    lines = "".join(f"{text}\n" for text in tasks)
    (site.root.parent / "list").write_bytes(os.fsencode(lines))


def write_claim(site: Site, pid: int, taken: list[int]) -> str:
    head = Head(f"c1a1{pid:04x}", "node1", "boot1", pid, 5000 + pid, 1.0, ())
    path = Path(WorkdirPaths(str(site.root)).claim(head.farm))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode_head(head) + encode_event(Event(take=taken)))
    return head.farm


def look(site: Site, *, with_list: bool = True) -> View:
    tasklist = str(site.root.parent / "list") if with_list else None
    return read_view(Target(str(site.root), tasklist), {}, site.machine(1))


def states(view: View) -> dict[str, list[int]]:
    by_name = {state.value: view.ids_in(state) for state in State}
    assert {state.value: count for state, count in view.counts.items()} == {
        name: len(ids) for name, ids in by_name.items()
    }
    for name, ids in by_name.items():
        assert all(view.state(taskid).value == name for taskid in ids)
    return {name: ids for name, ids in by_name.items() if ids}


def test_each_task_has_its_state_and_its_text(site):
    view = look(site)
    assert states(view) == {
        "finished": sorted(site.ids("finished")),
        "failed": [2, 3, 4],
        "waiting": ALL[5:],
    }
    assert [view.text(taskid) for taskid in ALL] == TASKS
    assert view.ids_in(*State) == ALL
    assert view.ids_in(State.FAILED, State.FINISHED) == [0, 1, 2, 3, 4]
    assert [*view.warnings()] == []


def test_what_is_held_is_told_apart_from_what_waits(site):
    write_claim(site, 1, [6])
    site.write("toprocess", [5, *ALL[7:]])
    for record, held in (
        ({"all": False, "tasks": "0,2,5-7,99"}, [5, 7]),
        ({"all": True, "tasks": "5"}, [5, *ALL[7:]]),
    ):
        (site.root / "held").write_text(json.dumps({"version": 1, **record}))
        view = look(site)
        found = states(view)
        assert found["held"] == held
        assert found["claimed"] == [6]
        assert found.get("waiting", []) == [
            each for each in ALL[7:] if each not in held
        ]
        assert view.ids_in(State.WAITING, State.HELD) == [5, *ALL[7:]]
        assert [*view.states(ALL)] == [view.state(each) for each in ALL]


def test_what_a_dead_farm_had_is_held_if_a_user_holds_it(site):
    write_claim(site, 8, [6, 8])
    site.dead.add(8)
    site.write("toprocess", [5, 7, *ALL[9:]])
    for record, held in (
        ({"all": False, "tasks": "5,6"}, [5, 6]),
        ({"all": True, "tasks": ""}, ALL[5:]),
    ):
        (site.root / "held").write_text(json.dumps({"version": 1, **record}))
        view = look(site)
        assert states(view)["held"] == held
        assert states(view).get("orphaned", []) == [*{8}.difference(held)]
        assert [*view.states(ALL)] == [view.state(each) for each in ALL]


def test_a_damaged_file_of_held_tasks_is_told_and_holds_nothing(site):
    (site.root / "held").write_text("{")
    view = look(site)
    assert "held" not in states(view)
    assert any("held can't be read" in each for each in view.warnings())


def test_an_id_beyond_the_list_is_nowhere_and_has_no_text(site):
    view = look(site)
    assert view.state(len(TASKS)) is State.NOWHERE
    assert view.text(len(TASKS)) == ""


def test_claimed_tasks_are_of_farms_that_live_or_of_dead_ones(site):
    site.write("toprocess", ALL[9:])
    live, dead = write_claim(site, 7, [5, 6]), write_claim(site, 8, [7, 8])
    site.dead.add(8)
    view = look(site)
    assert states(view)["claimed"] == [5, 6]
    assert states(view)["orphaned"] == [7, 8]
    assert [claim.farm for claim in view.live_farms] == [live]
    holders = [claim and claim.farm for claim in map(view.holder, (6, 7))]
    assert holders == [live, dead]
    assert view.holder(9) is None


def test_a_task_that_runs_is_no_longer_only_claimed(site, monkeypatch):
    farm = write_claim(site, 7, [5, 6])
    running = {5: module.RunningTask(5, farm, "node1", 0, 3, 77, 12.5)}
    monkeypatch.setattr(module, "read_running", lambda *_: running)
    seen = states(look(site))
    assert (seen["running"], seen["claimed"]) == ([5], [6])


def test_without_its_list_a_workdir_tells_the_tasks_that_its_files_name(site):
    view = look(site, with_list=False)
    assert not view.list_is_known
    assert states(view) == states(look(site))
    assert view.text(3) == TASKS[3]


def test_without_toprocess_all_other_tasks_wait(site):
    (site.root / "toprocess").unlink()
    assert states(look(site)) == {"finished": [0, 1], "waiting": ALL[2:]}


def test_an_empty_workdir_has_all_tasks_waiting(tmp_path):
    site = Site(tmp_path / "list_workdir")
    site.root.mkdir()
    write_list(site, TASKS)
    view = look(site)
    assert states(view) == {"waiting": ALL}
    assert view.read_attempts().lines == {}
    assert states(look(site, with_list=False)) == {}


def test_lines_that_were_added_to_the_list_wait(site):
    fingerprint = encode_fingerprint(take_fingerprint(TASKS))
    (site.root / "fingerprint.json").write_bytes(fingerprint)
    write_list(site, [*TASKS, "one more"])
    view = look(site)
    assert states(view)["waiting"] == [*ALL[5:], len(TASKS)]
    assert view.text(len(TASKS)) == "one more"


def test_an_edited_list_is_warned_of(site):
    fingerprint = encode_fingerprint(take_fingerprint(["other", *TASKS[1:]]))
    (site.root / "fingerprint.json").write_bytes(fingerprint)
    (warning,) = look(site).warnings()
    assert "was edited" in warning


def test_an_interrupted_remap_is_warned_of_with_the_remedy(site):
    (site.root / "remap.begun").mkdir()
    assert [*look(site).warnings()] == [
        "a --remap was interrupted: give the farm's command with --remap"
    ]


def test_a_line_that_is_being_written_does_not_count_yet(site):
    with (site.root / "finished").open("a") as stream:
        stream.write(site.lines([5])[:-1])
    assert states(look(site))["waiting"] == ALL[5:]


@pytest.mark.parametrize("name", ["toprocess", "finished", "failed", "added"])
@pytest.mark.parametrize(
    "junk", [b"\0" * 50, b"\xff\xfe\n\n", b"99999999999999999999 x\n", b"7" * 5000]
)
def test_damage_costs_no_more_than_its_own_lines(site, name, junk):
    with (site.root / name).open("ab") as stream:
        stream.write(junk)
    assert states(look(site)) == {
        "finished": [0, 1],
        "failed": [2, 3, 4],
        "waiting": ALL[5:],
    }


@pytest.mark.parametrize("name", ["finished", "attempts.tsv", "claims"])
def test_a_directory_or_file_in_the_wrong_place_ends_in_a_sentence(site, name):
    path = site.root / name
    if name == "claims":
        path.touch()
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
    view = look(site)
    assert view.total == len(TASKS)
    if name == "attempts.tsv":
        with pytest.raises(StorageError, match=r"attempts\.tsv"):
            view.read_attempts()
    else:
        assert [*view.warnings()]


def test_a_damaged_claim_holds_what_was_read_of_it(site):
    farm = write_claim(site, 7, [5])
    with (site.root / "claims" / farm).open("ab") as stream:
        stream.write(b'{"take": "no ids"}\n')
    site.dead.add(7)
    assert states(look(site))["orphaned"] == [5]


def test_texts_may_hold_any_bytes(tmp_path):
    tasks = ["echo \udcff\udc80", "echo \x1b[31m", "echo\t'ä"]
    site = Site(tmp_path / "list_workdir", tasks)
    site.root.mkdir()
    write_list(site, tasks)
    (site.root / "toprocess").write_bytes(os.fsencode(site.lines([0, 2])))
    (site.root / "finished").write_bytes(os.fsencode(site.lines([1])))
    for with_list in (True, False):
        view = look(site, with_list=with_list)
        assert states(view) == {"finished": [1], "waiting": [0, 2]}
        assert [view.text(taskid) for taskid in range(3)] == tasks


def test_a_file_that_a_plain_farmer_just_writes_is_read_again(site, monkeypatch):
    """PyTaskFarmer empties toprocess, then writes it anew."""
    farmer = PlainFarmer(site)
    written = iter([set(), {9, 10, 11}])

    def write_and_glance(*arguments):
        farmer.write(next(written, set(ALL[5:])))
        return glance(*arguments)

    monkeypatch.setattr(module, "glance", write_and_glance)
    assert states(look(site))["waiting"] == ALL[5:]


def test_a_task_that_a_plain_farmer_has_is_in_no_file(site):
    farmer = PlainFarmer(site)
    taskid = farmer.pop()
    assert states(look(site))["nowhere"] == [taskid]


def test_nothing_is_written_and_no_lock_is_taken(site):
    write_claim(site, 7, [5])
    before = site.files()
    names = sorted(os.listdir(site.root))
    look(site).read_attempts()
    assert site.files() == before
    assert sorted(os.listdir(site.root)) == names


# ---- attempts -----------------------------------------------------------------------


def found(attempts: LastAttempts, taskid: int) -> attempts_module.Attempt:
    attempt = attempts.find(taskid)
    assert attempt
    return attempt


def test_the_last_attempt_counts_whichever_file_it_is_in(site):
    old = [Attempt(2, status=1), Attempt(3, status=-9, started=5.5, seconds=2.5)]
    new = [Attempt(2, 2, status=7, host="n2"), Attempt(4, status=-11)]
    (site.root / "attempts.1.tsv").write_text(
        OLD_ATTEMPTS_HEAD + "".join(each.old_line for each in old)
    )
    (site.root / "attempts.tsv").write_text(format_attempts(*new))
    attempts = look(site).read_attempts()
    assert sorted(attempts.lines) == [2, 3, 4]
    statuses = {each: attempts.field(each, Column.STATUS) for each in (2, 3, 4, 5)}
    assert statuses == {2: b"7", 3: b"137", 4: b"139", 5: b""}
    assert attempts.field(2, Column.HOST) == b"n2"
    third = found(attempts, 3)
    assert (third.signal, third.started, third.seconds) == (9, 5.5, 2.5)
    assert attempts.find(5) is None


def test_only_the_wanted_attempts_are_kept(site):
    rows = [Attempt(taskid) for taskid in ALL]
    (site.root / "attempts.tsv").write_text(format_attempts(*rows))
    assert sorted(look(site).read_attempts([3, 7, 99]).lines) == [3, 7]
    assert look(site).read_attempts([]).lines == {}


def test_a_torn_or_odd_line_hides_no_whole_one(site):
    whole = Attempt(2, status=3)
    odd = ["2\t1\tfailed\n", "\n", "7" * 5000 + "\t" * 16 + "\n", "\t" * 16 + "\n"]
    odd += [OLD_ATTEMPTS_HEAD, whole.line[:40]]
    (site.root / "attempts.tsv").write_text(format_attempts(whole) + "".join(odd))
    assert found(look(site).read_attempts(), 2).status == 3


def test_a_line_with_odd_values_is_no_attempt(site):
    line = Attempt(2, command="x").line.replace("\t1\t", "\tone\t", 1)
    (site.root / "attempts.tsv").write_text(line)
    attempts = look(site).read_attempts()
    assert attempts.find(2) is None
    assert attempts.field(2, Column.STATUS) == b"0"


def test_a_large_file_is_read_in_parts(site, monkeypatch):
    monkeypatch.setattr("mpifarm.store.attempts.BYTES_AT_ONCE", 100)
    rows = [Attempt(taskid, status=taskid) for taskid in ALL]
    (site.root / "attempts.tsv").write_text(format_attempts(*rows))
    attempts = look(site).read_attempts()
    assert [found(attempts, taskid).status for taskid in ALL] == ALL


@pytest.mark.parametrize(
    ("state", "outcome", "explains"),
    [
        (State.FINISHED, b"completed", True),
        (State.FINISHED, b"failed", False),
        (State.FAILED, b"timed out", True),
        (State.FAILED, b"completed", False),
        (State.WAITING, b"failed", True),
    ],
)
def test_an_attempt_from_before_a_plain_farmer_does_not_explain_a_state(
    state, outcome, explains
):
    assert is_of(state, outcome) is explains
