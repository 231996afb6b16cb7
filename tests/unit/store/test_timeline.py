"""The timeline: valid at each write, PyTaskFarmer's fields, saved where damaged."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import Outcome, Result
from mpifarm.store import timeline_file
from mpifarm.store.timeline import (
    PAGE,
    cut_pieces,
    encode_counter,
    encode_event,
    encode_timeline,
    ends_well,
    find_end,
    is_valid,
    salvage,
)
from mpifarm.store.timeline_file import TimelineFile
from mpifarm.store.tracks import FIRST_SPARE, Tracks
from mpifarm.store.types import Recorded
from mpifarm.system import files


def recorded(
    outcome: Outcome = Outcome.COMPLETED,
    status: int = 0,
    *,
    rank: int = 3,
    pid: int = 10,
    host: str = "n17",
    worker: int = 11,
    index: int | None = 5,
) -> Recorded:
    result = Result(
        *(7, 2, outcome, status, worker, 1_700_000_000.25, 0.5, 1.0), worker_index=index
    )
    return Recorded(7, outcome is Outcome.COMPLETED, result, rank, pid, host)


def event(text: str = "echo", attempt: Recorded | None = None) -> bytes:
    attempt = attempt or recorded()
    return encode_event(text, Tracks("0123abcd").find(attempt), attempt)


def test_an_event_has_pytaskfarmers_fields_and_tells_the_attempt():
    assert json.loads(event("echo 'é' \t \"x\"")) == {
        "cat": "task",
        "name": "echo 'é' \t \"x\"",
        "pid": 10,
        "tid": 11,
        "ts": 1_700_000_000.25 * 1e6,
        "dur": 0.5e6,
        "ph": "X",
        "args": {
            "taskid": 7,
            "attempt": 2,
            "outcome": "completed",
            "status": 0,
            "signal": 0,
            "host": "n17",
        },
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\U0001f600 \U0010ffff", b"\xf0\x9f\x98\x80 \xf4\x8f\xbf\xbf"),
        ("\xe9 \udcff\udcfe", rb"\u00e9 \ufffd\ufffd"),
        ("\ud83dx\ude00", rb"\ufffdx\ufffd"),
        ("\\ud83d \\\\udcff", rb"\\ud83d \\\\udcff"),
        ("\\\U0001f600 \ud7ff", b"\\\\\xf0\x9f\x98\x80 \\ud7ff"),
    ],
)
def test_an_event_has_no_escape_of_a_surrogate_for_which_perfetto_refuses_the_file(
    text, shown
):
    found = event(text, recorded(host=text))
    assert b'"name": "' + shown + b'", "pid"' in found
    assert b'"host": "' + shown + b'"}' in found
    # A file without its end is saved in the same bytes, also if others escape more.
    assert salvage(b"[" + found) == [found]
    assert salvage(json.dumps(json.loads(found)).encode()) == [found]


def test_attempts_that_failed_are_told_apart_by_category_and_colour():
    failed = [outcome for outcome in Outcome if outcome is not Outcome.COMPLETED]
    events = [json.loads(event("x", recorded(outcome, -9))) for outcome in failed]
    for outcome, each in zip(failed, events, strict=True):
        assert each["cat"] == f"task,{outcome.value}"
        assert each["args"]["outcome"] == outcome.value
        assert (each["args"]["status"], each["args"]["signal"]) == (137, 9)
    assert len({each["cname"] for each in events}) == len(failed)


# ---- processes and threads ----------------------------------------------------------


def names_of(tracks: Tracks) -> list[tuple[str, int, int, str]]:
    """The names: kind, pid, tid, name."""
    events = [json.loads(each) for each in tracks.names]
    return [
        (each["name"], each["pid"], each["tid"], each["args"]["name"])
        for each in events
        if "name" in each["args"]
    ]


def test_ranks_and_workers_are_named_once():
    tracks = Tracks("0123abcd")
    first = tracks.find(recorded())
    assert tracks.find(recorded()) == first
    tracks.find(recorded(worker=12, index=6))
    assert names_of(tracks) == [
        ("process_name", 10, 10, "rank 3 on n17"),
        ("thread_name", 10, 11, "worker 5"),
        ("thread_name", 10, 12, "worker 6"),
    ]


def test_a_worker_and_its_successor_are_one_thread():
    tracks = Tracks("0123abcd")
    assert tracks.find(recorded()) == tracks.find(recorded(worker=99))


def test_equal_pids_of_different_hosts_become_different_numbers():
    tracks = Tracks("0123abcd")
    for rank in range(50):
        tracks.find(recorded(rank=rank, host=f"n{rank}"))
    processes = [pid for kind, pid, _, _ in names_of(tracks) if kind == "process_name"]
    threads = [tid for kind, _, tid, _ in names_of(tracks) if kind == "thread_name"]
    assert len({*processes, *threads}) == 100
    assert processes[0] == 10
    assert all(FIRST_SPARE < pid < 1 << 28 for pid in processes[1:])


def test_an_attempt_without_a_worker_has_a_thread_of_its_own():
    tracks = Tracks("0123abcd")
    tracks.find(recorded(Outcome.LOST, worker=0, index=None))
    (_, process, _, _), (_, pid, tid, name) = names_of(tracks)
    assert (pid, name) == (process, "no worker")
    assert tid > FIRST_SPARE


def test_names_and_counters_are_events_that_a_salvage_keeps():
    tracks = Tracks("0123abcd")
    tracks.find(recorded())
    place = tracks.place_of_counters()
    counter = encode_counter(place, 12.5, {"running": 3, "waiting": 4})
    whole = [*tracks.names, counter]
    assert all(each.startswith(b'{"cat"') for each in whole)
    assert salvage(encode_timeline(whole)[:-1]) == whole
    assert json.loads(counter)["args"] == {"running": 3, "waiting": 4}
    assert json.loads(counter)["pid"] < 1 << 29


# ---- the array ----------------------------------------------------------------------


@given(
    st.integers(0, 40),
    st.lists(st.integers(0, 5000), min_size=1, max_size=60),
    st.integers(0, PAGE),
)
def test_the_array_is_valid_after_each_piece(before, lengths, blanks):
    content = encode_timeline([event()] * before)
    content = content[:1] + b" " * blanks + content[1:]
    events = [event("x" * length) for length in lengths]
    end = find_end(content, 0)
    assert end is not None
    crossings = 0
    offset = end.offset
    for piece in cut_pieces(end, events):
        crosses = offset // PAGE != (offset + len(piece) - 1) // PAGE
        assert not crosses or piece.count(b'"cat"') == 1
        crossings += crosses
        content = content[:offset] + piece
        offset += len(piece) - 1
        json.loads(content)
    assert json.loads(content)[before:] == [json.loads(each) for each in events]


@given(st.integers(1, 3), st.lists(st.integers(0, 5000), min_size=1, max_size=4))
def test_a_kill_at_any_byte_of_an_append_costs_no_event_before_it(before, lengths):
    tracks = Tracks("0123abcd")
    track = tracks.find(recorded())
    old = [event()] * before
    new = [encode_event("x" * length, track, recorded()) for length in lengths]
    counter = encode_counter(tracks.place_of_counters(), 12.5, {"running": 1})
    content = encode_timeline(old)
    end = find_end(content, 0)
    assert end is not None
    events = [*old, *tracks.names, *new, counter]
    offset, sure = end.offset, before
    for piece in cut_pieces(end, [*tracks.names, *new, counter]):
        for length in {0, 1, 2, len(piece) // 2, len(piece) - 1}:
            found = salvage(content[:offset] + piece[:length])
            assert found == events[: len(found)]
            assert len(found) >= sure
        content = content[:offset] + piece
        offset += len(piece) - 1
        sure = len(json.loads(content))
    assert salvage(content) == events


@pytest.mark.parametrize(
    "content", [b"", b"[", b"{}", b"[1]", b'[{"a": 1', b"[{},", b"]", b"x]", b"[{}]\0"]
)
def test_what_does_not_end_as_an_array_of_events_has_no_end(content):
    assert find_end(content, 0) is None


@pytest.mark.parametrize("content", [b"[]", b"[ ]\n", b"[{}]", b'[{"a": {}}\n]\n \n'])
def test_an_array_of_events_has_an_end(content):
    end = find_end(content, 100)
    assert end is not None
    assert content[end.offset - 100 : end.offset - 99] == b"]"
    assert end.empty == (b"{" not in content)


def test_a_large_timeline_is_judged_by_its_ends():
    large = encode_timeline([event("x" * 100)] * 6000)
    assert len(large) > 1 << 20
    assert ends_well(large)
    assert is_valid(large)
    for damaged in (large[:-1], large[:-200], b"\0" + large, large + b"]"):
        assert not is_valid(damaged)


def test_a_torn_event_whose_text_ends_like_an_array_is_still_damage():
    torn = encode_timeline([event(), event("awk {a}]")])
    torn = torn[: torn.index(b"{a}]") + 4]
    assert find_end(torn, 0) is not None
    assert not is_valid(torn)
    assert not ends_well(torn)


@pytest.mark.parametrize(
    ("damage", "saved"),
    [
        (lambda whole: whole[:-1], 3),
        (lambda whole: whole[:-20], 2),
        (lambda whole: b"\0" * 40 + whole[40:], 2),
        (lambda whole: whole[:100] + b"\0" * 20 + whole[120:], 2),
        (lambda _: b"", 0),
        (lambda _: b"{" * 5000, 0),
        (lambda whole: whole + whole, 6),
    ],
)
def test_the_whole_events_of_a_damaged_timeline_are_saved(damage, saved):
    events = [event("one {} [x]"), event("two"), event("three")]
    found = salvage(damage(encode_timeline(events)))
    assert len(found) == saved
    for each in found:
        assert json.loads(each)["cat"] == "task"


def test_a_full_disk_leaves_the_timeline_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "timeline.json"
    path.write_bytes(b"[{}]")
    real = os.pwrite
    writes = []

    def pwrite(descriptor, content, offset):
        writes.append(offset)
        if len(writes) == 2:
            real(descriptor, content[:3], offset)
            raise OSError(28, "No space left on device")
        return real(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(StorageError):
        files.write_tail(str(path), 3, [b", {}]", b", {}]"], b"]")
    assert path.read_bytes() == b"[{}]"


# ---- the file -----------------------------------------------------------------------


def file_of(tmp_path, **options):
    notes: list[str] = []
    paths = WorkdirPaths(str(tmp_path))
    texts = [f"echo {number}" for number in range(12)]
    return TimelineFile(paths, "0123abcd", texts, notes, **options), notes


def events_in(path):
    return json.loads(path.read_bytes())


def test_an_append_that_failed_is_taken_back_before_the_next(tmp_path, monkeypatch):
    timeline, _ = file_of(tmp_path)
    path = tmp_path / "timeline.json"
    timeline.append([recorded()])
    before = path.read_bytes()
    real = files.write_tail

    def fail(path, offset, pieces, end):
        real(path, offset, [pieces[0][: len(pieces[0]) // 2]], b"")
        raise StorageError("full")

    monkeypatch.setattr(files, "write_tail", fail)
    with pytest.raises(StorageError):
        timeline.append([recorded(rank=4)])
    assert not is_valid(path.read_bytes())
    monkeypatch.setattr(files, "write_tail", real)
    timeline.append([recorded(rank=5)])
    events = events_in(path)
    assert path.read_bytes().startswith(before[:-1])
    assert [each["args"].get("taskid") for each in events].count(7) == 2


def test_what_others_wrote_behind_a_failed_append_is_kept(tmp_path, monkeypatch):
    timeline, notes = file_of(tmp_path)
    path = tmp_path / "timeline.json"
    timeline.append([recorded()])
    real = files.write_tail

    def fail(path, offset, pieces, end):
        real(path, offset, [b",\n" + event("theirs") + b"]"], b"]")
        raise StorageError("full")

    monkeypatch.setattr(files, "write_tail", fail)
    with pytest.raises(StorageError):
        timeline.append([recorded(rank=4)])
    monkeypatch.setattr(files, "write_tail", real)
    timeline.append([recorded(rank=5)])
    names = [each["name"] for each in events_in(path)]
    assert names.count("theirs") == 1
    assert notes == []


def test_a_new_timeline_whose_rename_failed_but_happened_is_taken_back(
    tmp_path, monkeypatch
):
    timeline, _ = file_of(tmp_path)
    real = files.replace

    def fail(*arguments):
        real(*arguments)
        raise StorageError("lost answer")

    monkeypatch.setattr(files, "replace", fail)
    with pytest.raises(StorageError):
        timeline.append([recorded()])
    monkeypatch.setattr(files, "replace", real)
    timeline.append([recorded()])
    events = events_in(tmp_path / "timeline.json")
    assert [each["args"].get("taskid") for each in events].count(7) == 1


@pytest.mark.parametrize(
    ("more", "note"),
    [
        (0, "was not valid JSON: saved 1 event of it, and the old file is "),
        (1, "was not valid JSON: it is "),
    ],
)
def test_an_invalid_timeline_is_moved_aside_and_saved_unless_it_is_huge(
    tmp_path, monkeypatch, more, note
):
    timeline, notes = file_of(tmp_path)
    path = tmp_path / "timeline.json"
    content = b"[" + event() + b", {torn"
    path.write_bytes(content)
    monkeypatch.setattr(timeline_file, "MAX_SALVAGED", len(content) - more)
    timeline.mend()
    assert len(events_in(path)) == 1 - more
    aside = WorkdirPaths(str(tmp_path)).timeline_aside("0123abcd")
    with open(aside, "rb") as file:
        assert file.read() == content
    (said,) = notes
    assert said.startswith(f"{path} {note}{aside}")
    timeline.mend()
    assert len(notes) == 1


def test_what_is_there_or_missing_and_valid_is_not_mended(tmp_path):
    timeline, notes = file_of(tmp_path)
    timeline.mend()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "timeline.json").write_bytes(b"[]")
    timeline.mend()
    assert (tmp_path / "timeline.json").read_bytes() == b"[]"
    assert notes == []
    (tmp_path / "timeline.json").unlink()
    (tmp_path / "timeline.json").mkdir()
    with pytest.raises(StorageError):
        timeline.mend()
    with pytest.raises(StorageError):
        timeline.append([recorded()])


@pytest.mark.parametrize(("more", "is_moved"), [(0, False), (1, True)])
def test_beside_others_a_farm_has_a_file_of_its_own(
    tmp_path, monkeypatch, more, is_moved
):
    timeline, _ = file_of(tmp_path)
    timeline.append([recorded()])
    path = tmp_path / "timeline.json"
    size = path.stat().st_size
    monkeypatch.setattr(timeline_file, "LARGE_TIMELINE", size - more)
    timeline.leave_to_others()
    timeline.append([recorded(rank=9)])
    own = events_in(tmp_path / "timeline.0123abcd.json")
    assert len(events_in(path)) == (0 if is_moved else 4)
    ranks = {each["args"].get("name") for each in own}
    assert "rank 9 on n17" in ranks
    assert ("rank 3 on n17" in ranks) is is_moved


@pytest.mark.parametrize("limit", [1 << 16, 1 << 20])
def test_a_large_timeline_is_valid_by_its_ends_alone(tmp_path, monkeypatch, limit):
    path = tmp_path / "timeline.json"
    path.write_bytes(b"[" + event() + b" hole " * (1 << 14) + event() + b"]")
    monkeypatch.setattr(timeline_file, "JUDGED_BY_ITS_ENDS", limit)
    assert timeline_file.is_valid_timeline(str(path)) is (limit == 1 << 16)
    path.write_bytes(b"[" * 100_000)
    assert not timeline_file.is_valid_timeline(str(path))


def test_counters_come_once_a_second_and_at_the_end(tmp_path):
    now = [1000.0]
    timeline, _ = file_of(
        tmp_path, count_waiting=lambda running: 10 - running, clock=lambda: now[0]
    )
    timeline.append([recorded()])
    timeline.count_running = lambda: 4
    for seconds in (0.0, 0.9, 0.1, 0.5):
        now[0] += seconds
        timeline.append([recorded()])
    timeline.count_running = lambda: 0
    timeline.close()
    counters = [
        (each["ts"] / 1e6, each["args"])
        for each in events_in(tmp_path / "timeline.json")
        if each["ph"] == "C"
    ]
    assert counters == [
        (1000.0, {"running": 4, "waiting": 5}),
        (1001.0, {"running": 4, "waiting": 5}),
        (1001.5, {"running": 0, "waiting": 10}),
    ]


def test_noted_attempts_are_written_with_the_next_or_at_the_end(tmp_path):
    timeline, _ = file_of(tmp_path)
    path = tmp_path / "timeline.json"
    timeline.close()
    assert not path.exists()
    timeline.note([recorded(Outcome.LOST, 1)])
    assert not path.exists()
    timeline.append([recorded()])
    outcomes = [each["args"].get("outcome") for each in events_in(path)]
    assert [each for each in outcomes if each] == ["lost", "completed"]
    timeline.note([recorded(Outcome.FAILED, 1)])
    timeline.close()
    timeline.close()
    outcomes = [each["args"].get("outcome") for each in events_in(path)]
    assert [each for each in outcomes if each] == ["lost", "completed", "failed"]


@pytest.mark.parametrize("content", [b"[" * 200_000, b"", b"{}", b"[1,", b"[] x"])
def test_what_is_no_array_is_no_timeline(tmp_path, content):
    (tmp_path / "timeline.json").write_bytes(content)
    assert not timeline_file.is_valid_timeline(str(tmp_path / "timeline.json"))
