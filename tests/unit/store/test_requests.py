"""The files ``requests``, ``answers`` and ``held``: lines, torn lines, odd files."""

import os

import pytest

from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.requests import Answer, Fate, FateOfTasks, Request, RequestKind
from mpifarm.store.held_file import Held, encode_held, find_held, parse_held
from mpifarm.store.requests import (
    Answered,
    AnswerInbox,
    Asked,
    DamagedLineError,
    RequestInbox,
    append_request,
    encode_answer,
    encode_request,
    parse_answer,
    parse_request,
)
from tests.unit.store_fakes import Killed, Site, ended, interference

FARM, SUCCESSOR, OTHER = "0badcafe00000001", "0badcafe00000002", "feedbeef00000001"
CANCEL = Request("r1", RequestKind.CANCEL, (3, 7, 8), "eve on login1")
ANSWER = Answer("r1", (FateOfTasks(Fate.WAITED, "", (3,)),), 2)


@pytest.fixture
def paths(tmp_path):
    return WorkdirPaths(str(tmp_path))


@pytest.fixture
def inbox(paths):
    return RequestInbox(paths, FARM, [])


def ask(paths, request, *farms):
    append_request(paths, Asked(request, farms or (FARM,)))


# ---- lines ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        CANCEL,
        Request("r2", RequestKind.HOLD, None),
        Request("r3", RequestKind.RELEASE, (0,)),
        Request("r4", RequestKind.DRAIN),
    ],
)
def test_a_request_is_read_as_it_was_written(request_):
    asked = Asked(request_, (FARM, OTHER))
    assert parse_request(encode_request(asked)) == asked


def test_an_answer_is_read_as_it_was_written():
    answered = Answered(FARM, ANSWER)
    assert parse_answer(encode_answer(answered)) == answered


GOOD = encode_request(Asked(CANCEL, (FARM,)))


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{}", b"[]", b"3", b"null", GOOD[:-2], GOOD[:20], b"\xff\xfe"),
        *(b"[" * 100_000, GOOD.replace(b"cancel", b"explode")),
        *(GOOD.replace(b'"3,7-8"', b) for b in (b"7", b'"8-7"', b'"x"', b"null")),
        GOOD.replace(b'"3,7-8"', b'"0-99999999999"'),
        *(GOOD.replace(b"eve", b) for b in (b"\\u001b[31m", b"e" * 300)),
        GOOD.replace(b'["0badcafe00000001"]', b"7"),
    ],
)
def test_a_damaged_line_is_no_request(line):
    with pytest.raises(DamagedLineError):
        parse_request(line)


@pytest.mark.parametrize("line", [b"", b"{}", b'{"request": "r1", "farm": "f"}', b"7"])
def test_a_damaged_line_is_no_answer(line):
    with pytest.raises(DamagedLineError):
        parse_answer(line)


# ---- a farm reads on -----------------------------------------------------------------


def test_each_request_to_the_farm_is_heard_once(paths, inbox):
    assert inbox.poll() == []
    ask(paths, CANCEL)
    ask(paths, Request("to another", RequestKind.DRAIN), OTHER)
    assert inbox.poll() == [CANCEL]
    assert inbox.poll() == []
    later = Request("r5", RequestKind.DRAIN)
    ask(paths, later)
    assert inbox.poll() == [later]


def test_a_torn_line_waits_for_its_end_and_never_swallows_the_next(paths, inbox):
    with open(paths.requests, "wb") as file:
        file.write(GOOD[:40])
    assert inbox.poll() == []
    ask(paths, CANCEL)  # its writer was killed; the next ends the line
    assert inbox.poll() == [CANCEL]
    (note,) = inbox._notes
    assert "is no request, and was passed over" in note
    assert inbox.poll() == []
    assert len(inbox._notes) == 1


def test_a_file_that_was_replaced_or_emptied_is_read_again_without_doubles(
    paths, inbox
):
    ask(paths, CANCEL)
    ask(paths, Request("r6", RequestKind.DRAIN))
    assert len(inbox.poll()) == 2
    os.truncate(paths.requests, 0)
    assert inbox.poll() == []
    late = Request("r7", RequestKind.DRAIN)
    ask(paths, late)
    assert inbox.poll() == [late]
    os.rename(paths.requests, paths.requests + ".away")
    ask(paths, CANCEL)
    ask(paths, Request("r8", RequestKind.HOLD))
    assert [each.name for each in inbox.poll()] == ["r8"]


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_no_file_is_told_once_and_never_opened(paths, inbox, kind, tmp_path):
    match kind:
        case "link":
            (tmp_path / "elsewhere").write_bytes(GOOD)
            os.symlink("elsewhere", paths.requests)
        case "fifo":
            os.mkfifo(paths.requests)
        case "directory":
            os.mkdir(paths.requests)
    assert inbox.poll() == []
    assert inbox.poll() == []
    (note,) = inbox._notes
    assert paths.requests in note
    os.rename(paths.requests, paths.requests + ".away")
    ask(paths, CANCEL)
    assert inbox.poll() == [CANCEL]


def test_a_rank_that_leads_the_farm_on_heeds_what_is_not_answered(paths):
    first = RequestInbox(paths, FARM, [])
    ask(paths, CANCEL)
    ask(paths, Request("r9", RequestKind.DRAIN))
    first.poll()
    first.answer([ANSWER])
    heir = RequestInbox(paths, SUCCESSOR, [])
    heir.begin(beside_others=True)
    assert [each.name for each in heir.poll()] == ["r9"]
    assert RequestInbox(paths, OTHER, []).poll() == []


def test_what_another_farm_has_answered_is_open_for_this_one(paths):
    heir = RequestInbox(paths, SUCCESSOR, [])
    ask(paths, CANCEL, FARM, OTHER)
    RequestInbox(paths, OTHER, []).answer([ANSWER])
    RequestInbox(paths, FARM, []).answer([ANSWER._replace(request="r0")])
    assert heir.poll() == [CANCEL]


def test_an_heir_that_cannot_read_answers_hears_all_in_their_order_later(paths):
    ask(paths, CANCEL)
    os.mkdir(paths.answers)
    notes: list[str] = []
    heir = RequestInbox(paths, SUCCESSOR, notes)
    assert heir.poll() == []
    ask(paths, Request("r9", RequestKind.DRAIN), SUCCESSOR)
    assert heir.poll() == []
    (note,) = notes
    assert "hears of no mpifarm cancel" in note
    assert paths.answers in note
    os.rmdir(paths.answers)
    assert [each.name for each in heir.poll()] == ["r1", "r9"]
    assert heir.poll() == []


def test_a_start_beside_no_other_farm_empties_both_files(paths, inbox):
    ask(paths, CANCEL)
    inbox.answer([ANSWER])
    inbox.begin(beside_others=True)
    assert os.path.getsize(paths.requests)
    inbox.begin(beside_others=False)
    sizes = map(os.path.getsize, (paths.requests, paths.answers))
    assert [*sizes] == [0, 0]


def test_answers_are_read_on_and_odd_lines_passed_over(paths, inbox):
    answers = AnswerInbox(paths)
    assert answers.poll() == []
    inbox.answer([ANSWER])
    with open(paths.answers, "ab") as file:
        file.write(b"odd\n")
    inbox.answer([ANSWER._replace(request="r2")])
    assert [each.answer.request for each in answers.poll()] == ["r1", "r2"]
    assert answers.poll() == []


# ---- what is held --------------------------------------------------------------------


def test_what_is_held_follows_from_the_requests():
    held = Held()
    for kind, tasks, expected in (
        (RequestKind.HOLD, (3, 4), Held(frozenset({3, 4}))),
        (RequestKind.HOLD, None, Held(frozenset({3, 4}), holds_all=True)),
        (RequestKind.RELEASE, (4, 9), Held(frozenset({3}), holds_all=True)),
        (RequestKind.CANCEL, (3,), Held(frozenset({3}), holds_all=True)),
        (RequestKind.RELEASE, None, Held()),
    ):
        held = held.after(Request("r", kind, tasks))
        assert held == expected
        assert parse_held(encode_held(held)) == held


def test_a_damaged_file_holds_nothing_and_is_told(paths):
    assert find_held(paths) is None
    with open(paths.held, "w") as file:
        file.write('{"version": 1, "all": tr')
    held, sentence = find_held(paths) or (None, "")
    assert held == Held()
    assert paths.held in sentence


# ---- tasks that are pulled out of the queues -----------------------------------------


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "workdir")


def test_tasks_are_pulled_out_of_the_queue_that_has_them(site):
    workdir = site.open()
    workdir.transact((), (), 2)
    done = workdir.transact((), (), 0, (0, 5, 11))
    assert (done.taken, done.pulled) == ([], [5, 11])
    assert workdir.held == {0, 1, 5, 11}
    assert site.ids("toprocess") == [2, 3, 4, 6, 7, 8, 9, 10]
    workdir.transact([ended(5, -15)], (), 0)
    assert site.ids("failed") == [5]
    assert site.violations({}) == []


def test_nothing_is_pulled_that_others_hold_or_that_has_finished(site):
    workdir, other = site.open(), site.open()
    other.transact((), (), 2)
    other.transact([ended(0)], (), 0)
    assert workdir.transact((), (), 0, (0, 1)).pulled == []
    assert other.held == {1}


def test_before_anything_began_all_tasks_are_in_the_queue(site):
    workdir = site.open()
    done = workdir.transact((), (), 0, (3,))
    assert done.pulled == [3]
    assert site.ids("toprocess") == [*range(3), *range(4, 12)]


def test_held_tasks_go_where_plain_farmers_do_not_look_and_stay(site):
    workdir = site.open()
    workdir.hold(Held(frozenset({2, 3})))
    workdir.transact((), (), 0, (2, 3))
    done = workdir.transact((), (2, 3), 3)
    assert site.ids("waiting") == [2, 3]
    assert site.ids("toprocess") == [*range(5, 12)][: len(site.ids("toprocess"))]
    assert done.taken == [0, 1, 4]
    rest = workdir.transact_or_reclaim((), (), 99)
    assert rest.taken == [*range(5, 12)]
    empty = workdir.transact_or_reclaim((), (), 99)
    assert (empty.taken, empty.empty, empty.more_may_come) == ([], True, True)
    workdir.hold(Held(frozenset({3})))
    assert workdir.transact((), (), 99).taken == [2]
    workdir.hold(Held())
    assert workdir.transact((), (), 99).taken == [3]
    assert site.ids("waiting") == []


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("back", [(), (1,)])
def test_they_stay_there_when_toprocess_is_removed_so_that_all_tasks_are_to_run(
    site, prepared, back
):
    workdir = site.open()
    workdir.transact((), (), 2)
    workdir.hold(Held(frozenset({2, 5, 50})))
    workdir.transact((), (), 0, (2, 5))
    workdir.transact((), (2, 5), 0)
    (site.root / "toprocess").unlink()
    if prepared:
        workdir.prepare((), back, 2)
    done = workdir.transact((), back, 2)
    assert (done.taken, [*done.pulled]) == ([3], [2, 5])
    assert site.ids("toprocess") == [*back, 4, *range(6, 12)]
    workdir.transact((), (2, 5), 0)
    assert site.ids("waiting") == [2, 5]
    assert site.violations() == []
    assert not workdir.transact((), (), 1).pulled


def test_a_start_without_toprocess_leaves_them_there_too(site):
    first = site.open()
    first.hold(Held(frozenset({2, 5})))
    first.transact((), (), 1, (2, 5))
    first.transact([ended(0)], (2, 5), 0)
    with open(first.paths.held, "wb") as file:
        file.write(encode_held(Held(frozenset({2, 5}))))
    assert first.close()
    (site.root / "toprocess").unlink()
    second = site.open()
    assert site.ids("waiting") == [2, 5]
    assert site.ids("toprocess") == [1, 3, 4, *range(6, 12)]
    second.hold(Held())
    assert second.transact((), (), 99).taken == [1, 3, 4, *range(6, 12), 2, 5]


def test_a_farm_that_starts_later_knows_what_is_held(site):
    first = site.open()
    first.hold(Held(frozenset({2})))
    first.transact((), (), 0, (2,))
    first.transact((), (2,), 0)
    with open(first.paths.held, "wb") as file:
        file.write(encode_held(Held(frozenset({2}))))
    second = site.open()
    assert second.held_by_users == Held(frozenset({2}))
    assert 2 not in second.transact((), (), 99).taken


@pytest.mark.parametrize("half", [False, True])
def test_a_kill_at_any_step_of_a_pull_loses_nothing(tmp_path, monkeypatch, half):
    for at in range(1, 60):
        site = Site(tmp_path / f"site {at} {half}")
        workdir = site.open()
        workdir.hold(Held(frozenset({4})))
        workdir.transact((), (), 2)
        try:
            with interference(monkeypatch, at, Killed(), half=half):
                workdir.transact([ended(0)], (1,), 0, (4, 9))
                workdir.transact([ended(9, -15)], (4,), 0)
        except Killed:
            site.kill(workdir)
            heir = site.open()
            assert site.violations(set()) == []
            heir.close()
        else:
            assert site.violations(set()) == []
            return
    pytest.fail("it takes more steps than were tried")


def test_a_start_tells_of_a_damaged_file_and_holds_nothing(tmp_path):
    site = Site(tmp_path / "workdir")
    site.open().close()
    (site.root / "held").write_text("odd")
    workdir = site.open()
    assert workdir.held_by_users == Held()
    assert any(str(site.root / "held") in note for note in workdir.notes)
    (site.root / "held").write_bytes(encode_held(Held(frozenset({3}))))
    workdir = site.open()
    assert workdir.held_by_users == Held(frozenset({3}))
    assert not any(str(site.root / "held") in note for note in workdir.notes)
