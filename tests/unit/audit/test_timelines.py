"""All timelines of a workdir in one: numbers, what is damaged, what is there twice."""

import errno
import json
import os
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.audit import timelines
from mpifarm.audit.timelines import MergedTimeline, find_timelines
from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import Outcome, Result
from mpifarm.store.timeline import (
    COST_OF_NESTING,
    encode_event,
    encode_timeline,
    match_attempt,
    salvage,
)
from mpifarm.store.tracks import Tracks
from mpifarm.store.types import Recorded
from mpifarm.system import files

FARM, OTHER = "0123abcd", "89abcdef"


def farm_events(
    farm: str, host: str = "n1", pid: int = 10, taskids: Iterable[int] = (0, 1)
) -> list[bytes]:
    """Names and attempts as a farm of one rank and one worker writes them."""
    tracks = Tracks(farm)
    tracks.place_of_counters()
    events = []
    for taskid in taskids:
        result = Result(
            *(taskid, 1, Outcome.COMPLETED, 0, pid + 1, 1e9 + taskid, 0.5, 1.0),
            worker_index=0,
        )
        attempt = Recorded(taskid, True, result, 0, pid, host)
        track = tracks.find(attempt)
        events.append(encode_event(f"{farm} {taskid}", track, attempt))
    return [*tracks.names, *events]


def plain_event(name: str, pid: int = 10, tid: int = 11) -> bytes:
    """An event as PyTaskFarmer writes it."""
    event = {"cat": "task", "name": name, "pid": pid, "tid": tid, "ts": 1e15}
    return json.dumps(event | {"dur": 5e5, "ph": "X", "args": {}}).encode()


@pytest.fixture
def paths(tmp_path):
    return WorkdirPaths(str(tmp_path))


def write(path: str, events: list[bytes]) -> None:
    Path(path).write_bytes(encode_timeline(events))


def merge(paths: WorkdirPaths) -> list[dict[str, Any]]:
    merged = MergedTimeline(paths, find_timelines(paths))
    events: list[dict[str, Any]] = json.loads(b"".join(merged.blocks()))
    assert merged.events == len(attempts_of(events))
    return events


def attempts_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == "X"]


def pids(events: list[dict[str, Any]], beginning: str) -> set[int]:
    return {e["pid"] for e in attempts_of(events) if e["name"].startswith(beginning)}


def process_names(events: list[dict[str, Any]]) -> dict[int, str]:
    found = [e for e in events if e["name"] == "process_name"]
    named = {event["pid"]: event["args"]["name"] for event in found}
    assert len(named) == len(found)
    return named


def test_all_kinds_of_timelines_are_found(paths):
    names = {
        os.path.basename(path)
        for path in (
            paths.timeline,
            paths.timeline_of(FARM),
            paths.timeline_aside(FARM),
            paths.file("timeline.json.before-repair-20260101T000000"),
        )
    }
    for name in (*names, "timeline.json.0123abcd", "result.json", "toprocess"):
        Path(paths.file(name)).touch()
    assert set(find_timelines(paths)) == names


def test_events_of_one_file_keep_their_numbers(paths):
    events = farm_events(FARM)
    write(paths.timeline, events)
    assert merge(paths) == [json.loads(each) for each in events]


def test_surrogates_that_others_escape_are_shown_also_in_events_with_new_numbers(paths):
    tangled = plain_event("\U0001f600 \udcff \\ud83d")
    write(
        paths.timeline, [tangled, tangled.replace(b"\\ud83d\\ude00", rb"\uD83D\uDE00")]
    )
    write(paths.timeline_of(FARM), [*farm_events(FARM), tangled])
    merged = b"".join(MergedTimeline(paths, find_timelines(paths)).blocks())
    assert merged.count(rb"\ufffd \\ud83d") == 3
    assert merged.count("\U0001f600".encode()) == 3
    assert len({each["pid"] for each in attempts_of(json.loads(merged))}) == 3


def test_an_event_with_escapes_that_was_saved_from_a_damaged_file_comes_once(paths):
    event = plain_event("\U0001f600 \udcff é")
    write(paths.timeline_aside(FARM), [event])
    write(paths.timeline, salvage(encode_timeline([event])))
    assert len(merge(paths)) == 1


@pytest.mark.parametrize("host", ["n1", "n2"])
def test_equal_pids_of_two_farms_become_two_numbers(paths, host):
    write(paths.timeline, [*farm_events(FARM), *farm_events(OTHER, host)])
    events = merge(paths)
    (first,), (second,) = pids(events, FARM), pids(events, OTHER)
    assert first != second
    named = process_names(events)
    assert named[first] == "rank 0 on n1"
    assert named[second] == f"rank 0 on {host}"
    assert len({each["tid"] for each in attempts_of(events)}) == 2


def test_equal_pids_of_a_farm_and_a_plain_farmer_become_two_numbers(paths):
    write(paths.timeline, [plain_event("plain 1"), plain_event("plain 2")])
    write(paths.timeline_of(FARM), farm_events(FARM))
    events = merge(paths)
    assert len(pids(events, "plain")) == 1
    assert pids(events, "plain") != pids(events, FARM)


def test_a_farm_that_left_the_common_file_is_one_process_with_one_name(paths):
    write(paths.timeline, farm_events(FARM))
    write(paths.timeline_of(FARM), farm_events(FARM, taskids=(2, 3)))
    events = merge(paths)
    assert len(pids(events, FARM)) == 1
    assert sorted(process_names(events).values()) == [f"farm {FARM}", "rank 0 on n1"]


@pytest.mark.parametrize("cut", [1, 5, 120, 400])
def test_the_whole_events_of_a_torn_timeline_are_kept(paths, cut, monkeypatch):
    monkeypatch.setattr(timelines, "TRY_SECONDS", 0)
    events = farm_events(FARM, taskids=range(5))
    content = encode_timeline(events)[:-cut]
    Path(paths.timeline).write_bytes(content)
    found = merge(paths)
    whole = [each for each in events if each in content]
    assert found == [json.loads(each) for each in whole]
    assert len(whole) >= len(events) - 2


def test_a_hole_in_a_timeline_costs_its_events_alone(paths):
    events = farm_events(FARM, taskids=range(50))
    content = encode_timeline(events)
    hole = content.index(events[20]) + 30
    Path(paths.timeline).write_bytes(
        content[:hole] + b"\0" * 4096 + content[hole + 4096 :]
    )
    found = [event["name"] for event in attempts_of(merge(paths))]
    assert set(found) < {f"{FARM} {taskid}" for taskid in range(50)}
    assert len(found) > 25


def test_saved_events_of_a_timeline_aside_are_there_once(paths):
    events = farm_events(FARM)
    Path(paths.timeline_aside(OTHER)).write_bytes(encode_timeline(events)[:-30])
    write(paths.timeline, [*events[:-1], plain_event("later")])
    names = [event["name"] for event in attempts_of(merge(paths))]
    assert sorted(names) == [f"{FARM} 0", "later"]


def test_events_are_read_across_chunks(paths, monkeypatch):
    events = farm_events(FARM, taskids=range(40))
    write(paths.timeline, [*events, plain_event("é" * 300)])
    expected = merge(paths)
    monkeypatch.setattr(timelines, "CHUNK", 61)
    monkeypatch.setattr(timelines, "BLOCK", 100)
    assert merge(paths) == expected


def test_a_file_that_a_plain_farmer_writes_now_is_awaited(paths, monkeypatch):
    content = encode_timeline([plain_event(f"plain {number}") for number in range(9)])
    Path(paths.timeline).write_bytes(content[:500])

    def write_the_rest(_seconds: float) -> None:
        with Path(paths.timeline).open("r+b") as file:
            file.write(content)

    monkeypatch.setattr(time, "sleep", write_the_rest)
    assert len(attempts_of(merge(paths))) == 9


@pytest.mark.parametrize("content", [b"", b"[]", b"[1, 2]", b"x", b'[{"a": 1}]'])
def test_what_has_no_events_adds_none(paths, content, monkeypatch):
    monkeypatch.setattr(timelines, "TRY_SECONDS", 0)
    Path(paths.timeline).write_bytes(content)
    assert merge(paths) == []


def test_the_search_in_a_file_that_is_no_timeline_ends(paths, monkeypatch):
    monkeypatch.setattr(timelines, "TRY_SECONDS", 0)
    monkeypatch.setattr(timelines, "MAX_IN_VAIN", 1000)
    Path(paths.timeline).write_bytes(b'[{"a":' * 2000)
    merged = MergedTimeline(paths, find_timelines(paths))
    assert json.loads(b"".join(merged.blocks())) == []
    (note,) = merged.notes
    assert "timeline.json is damaged" in note


@pytest.mark.parametrize(
    "event",
    [
        {"name": "x", "ph": "X", "ts": 1},
        {"name": "x", "ph": "X", "ts": 1, "pid": "p", "args": {}},
        {"name": "x", "ph": "X", "ts": 1, "pid": 1, "tid": None, "args": {}},
        {"name": "x", "ph": "X", "ts": 1, "pid": 1, "args": {"host": [1], "farm": {}}},
        {"name": ["x"], "ph": 7, "ts": None, "pid": 1, "tid": 2, "args": []},
    ],
)
def test_events_of_other_forms_are_kept_as_they_are(paths, event):
    Path(paths.timeline).write_text(json.dumps([event]))
    merged = MergedTimeline(paths, find_timelines(paths))
    assert json.loads(b"".join(merged.blocks())) == [event]


NAMES = ["plain", 'say "x" \\', "\x1b\n\udcff", "ünï", ', "pid": 10, "tid": 11,']


@given(st.sampled_from(Outcome), st.text(), st.floats(0, 1e10), st.integers(-64, 255))
def test_each_attempt_that_mpifarm_writes_is_known_without_decoding(
    outcome, text, seconds, status
):
    result = Result(3, 1, outcome, status, 11, seconds, seconds / 7, 1.0)
    attempt = Recorded(3, True, result, 0, 10, "n1")
    event = encode_event(text, Tracks(FARM).find(attempt), attempt).decode()
    found = match_attempt(f"{event}, {{")
    assert found is not None
    assert found.groups() == ('"pid": 10, "tid": 11,', '"n1"')
    assert found.end() == len(event)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"name": "x"', '"name": "\\x"'),
        ('"name": "x"', '"name": "\\u12"'),
        ('"name": "x"', '"name": "\t"'),
        ('"taskid": 3', '"taskid": 03'),
        ('"taskid": 3', '"taskid": "3"'),
        ('"dur": 5', '"dur": 05'),
        ('"pid": 10', '"pid": 010'),
        ('"n1"}}', '"n1"}'),
        ('"n1"}}', '"n1", "more": 1}}'),
    ],
)
def test_an_attempt_of_any_other_form_is_decoded(old, new):
    result = Result(3, 1, Outcome.COMPLETED, 0, 11, 1e9, 5.0, 1.0)
    attempt = Recorded(3, True, result, 0, 10, "n1")
    event = encode_event("x", Tracks(FARM).find(attempt), attempt).decode()
    assert match_attempt(event)
    assert event.count(old) == 1
    assert match_attempt(event.replace(old, new)) is None


@pytest.mark.parametrize("seed", range(20))
def test_attempts_become_the_same_whether_they_are_decoded_or_not(
    paths, monkeypatch, seed
):
    draw = random.Random(seed)
    monkeypatch.setattr(timelines, "TRY_SECONDS", 0)
    monkeypatch.setattr(timelines, "CHUNK", draw.choice([61, 700, 1 << 20]))
    files = [paths.timeline, paths.timeline_of(FARM), paths.timeline_aside(OTHER)]
    for path in files:
        events = [plain_event(draw.choice(NAMES), *draw.choices((10, 11), k=2))]
        for farm in draw.choices((FARM, OTHER, "f"), k=3):
            tracks, more = Tracks(farm), list[bytes]()
            for taskid in range(draw.randrange(6)):
                outcome = draw.choice([*Outcome])
                result = Result(
                    taskid, 1, outcome, -9, draw.choice((10, 12)), 1e9, 1, 1
                )
                attempt = Recorded(taskid, True, result, 0, 10, draw.choice(("n1", "")))
                track = tracks.find(attempt)
                more.append(encode_event(draw.choice(NAMES), track, attempt))
            events += draw.choice(([*tracks.names, *more], [*more, *tracks.names]))
        content = encode_timeline(events)
        Path(path).write_bytes(content[: draw.choice((None, -40))])
    merged = b"".join(MergedTimeline(paths, find_timelines(paths)).blocks())
    monkeypatch.setattr(timelines, "match_attempt", lambda *_: None)
    assert b"".join(MergedTimeline(paths, find_timelines(paths)).blocks()) == merged


# ---- what is read, and how much ------------------------------------------------------


def test_a_merged_timeline_comes_in_blocks(paths, monkeypatch):
    write(paths.timeline, farm_events(FARM, taskids=range(20)))
    monkeypatch.setattr(timelines, "BLOCK", 400)
    merged = MergedTimeline(paths, find_timelines(paths))
    blocks = [*merged.blocks()]
    assert len(blocks) > 5
    assert all(400 <= len(block) < 1000 for block in blocks[:-1])


def test_of_a_timeline_aside_that_is_too_large_nothing_was_saved(paths, monkeypatch):
    event = plain_event("twice")
    write(paths.timeline_aside(OTHER), [event])
    write(paths.timeline, [event])
    assert len(attempts_of(merge(paths))) == 1
    monkeypatch.setattr(timelines, "MAX_SALVAGED", 10)
    assert len(attempts_of(merge(paths))) == 2


def test_two_timelines_aside_have_an_event_once(paths):
    for farm in (FARM, OTHER):
        write(paths.timeline_aside(farm), [plain_event("saved"), plain_event(farm)])
    names = [event["name"] for event in attempts_of(merge(paths))]
    assert sorted(names) == [FARM, OTHER, "saved"]


def test_a_disk_that_does_not_give_a_timeline_is_told(paths, monkeypatch):
    write(paths.timeline, [plain_event("x")])

    def fail(*_: object) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "opened", fail)
    with pytest.raises(StorageError, match=r"^can't read .*timeline\.json: Input"):
        merge(paths)


def test_a_timeline_that_is_gone_meanwhile_has_no_events(paths):
    merged = MergedTimeline(paths, ["timeline.json"])
    assert b"".join(merged.blocks()) == b"[]\n"


def test_an_event_that_is_too_long_is_left_out_and_no_other(paths, monkeypatch):
    monkeypatch.setattr(timelines, "CHUNK", 50)
    monkeypatch.setattr(timelines, "MAX_EVENT", 200)
    events = [plain_event("first"), plain_event("x" * 999), plain_event("last")]
    write(paths.timeline, events)
    assert [event["name"] for event in attempts_of(merge(paths))] == ["first", "last"]


@pytest.mark.parametrize("missing", ["ph", "name", "ts"])
def test_an_event_has_a_phase_a_name_and_a_time(paths, missing):
    event = {"name": "x", "ph": "X", "ts": 1}
    del event[missing]
    Path(paths.timeline).write_text(json.dumps([event]))
    assert merge(paths) == []


def test_a_search_in_vain_costs_what_was_read():
    error = json.JSONDecodeError("no", "x" * 999, 640)
    assert timelines._cost_of(error, 600) == 40 + 20
    assert timelines._cost_of(RecursionError(), 600) == COST_OF_NESTING


def test_a_whole_timeline_is_not_waited_for(paths, monkeypatch):
    write(paths.timeline, farm_events(FARM))
    monkeypatch.setattr(time, "sleep", None)
    assert len(attempts_of(merge(paths))) == 2


def test_a_pid_that_is_no_number_stays(paths):
    event = {"name": "x", "ph": "X", "ts": 1, "pid": [1], "tid": 2, "args": {}}
    Path(paths.timeline).write_text(json.dumps([event]))
    assert merge(paths) == [event]


def test_a_process_that_names_its_host_is_the_same_in_all_files(paths):
    first, second = (
        json.dumps(json.loads(plain_event(name)) | {"args": {"host": "n1"}}).encode()
        for name in ("one", "two")
    )
    write(paths.timeline_aside(OTHER), [first])
    write(paths.timeline, [second])
    assert pids(merge(paths), "") == {10}
