"""Whatever stands in a file that other programs can write is read, or refused.

Rules of this file: a parser may return, and may raise what its docstring names; nothing
else, and not after minutes, and not with the memory full.  What it takes, it gives back
as it was written.
"""

import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpifarm.errors import InputError, StorageError
from mpifarm.model.id_ranges import MAX_IDS, IdRangesError, encode_ids, parse_ids
from mpifarm.model.paths import WorkdirPaths, parse_queue_staging
from mpifarm.plugins.registry import SearchPath, find_handler, find_runner
from mpifarm.store import claim_journal, timeline
from mpifarm.store.claim_journal import (
    DamagedClaimError,
    Event,
    Head,
    Journal,
    LockFile,
    encode_event,
    encode_head,
    parse_event,
    parse_head,
)
from mpifarm.store.claims import OtherClaims, grasped, share_a_lock
from mpifarm.store.farm_liveness import (
    ClaimEvidence,
    ClaimLock,
    FarmLiveness,
    Machine,
    assess_liveness,
    find_process_start,
)
from mpifarm.store.fingerprint import (
    compare,
    encode_fingerprint,
    find_edited_block,
    parse_fingerprint,
    take_fingerprint,
)
from mpifarm.store.status_lines import (
    classify_odd,
    encode_lines,
    parse_line,
    parse_status,
    scan_ids,
    scan_status,
)
from mpifarm.store.validate import validate_lines
from mpifarm.tasklists import ListTaskList, TasklistFileError
from tests.invariants import find_violations

pytestmark = pytest.mark.timeout(60)

DEEP = b"[" * 200_000
HUGE = 10**400
HEAD = Head("f1", "node1", "boot1", 42, 5042, 1000.5, (LockFile("/w/lock", 1, 2),))
TASKS = ["cmd", "cmd arg", "echo é", "x", "1 x", "echo \udcff", "x"]

numbers = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from([HUGE, -HUGE, 2**63, 2**64, 10**20]),
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        numbers,
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["0-9", "0-99999999999", "5-2", "٣", "1" * 5000, "\x1b[2J"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=8,
)


def said_in_short(error: Exception, most: int = 200) -> None:
    """One line, whatever it speaks of."""
    assert "\n" not in str(error)
    assert len(str(error)) < most


def dumped(record: object) -> bytes:
    return json.dumps(record).encode()


# ---- claims -------------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from(HEAD._fields), values))
@example({"pid": 0})
@example({"pid": -1})
@example({"pid": True})
@example({"pid": 4.5})
@example({"started": HUGE})
@example({"started": float("nan")})
@example({"started": float("inf")})
@example({"pid": float("inf")})
@example({"locks": {"a": 1}})
@example({"locks": [[["/w/lock"], [1], [2]]]})
@example({"locks": "abc"})
@example({"host": "\x1b[2Jnode"})
@example({"host": ["node"]})
def test_a_head_with_any_values_is_damage_or_one_that_can_be_judged(changes):
    line = dumped(json.loads(encode_head(HEAD)) | changes)
    try:
        head = parse_head(line)
    except DamagedClaimError as error:
        said_in_short(error)
        return
    assert head.pid >= 1
    assert head.host.isprintable()
    for boot in ("boot1", "boot2"):
        machine = Machine("here", boot, 1, find_process_start, lambda _: 1e9)
        evidence = ClaimEvidence(head, False, ClaimLock.TAKEN, lambda: 1e9)
        assert assess_liveness(evidence, machine) in FarmLiveness
    for same_boot in (True, False):
        share_a_lock(HEAD.locks, head, same_boot=same_boot)
    assert parse_head(encode_head(head)) == head


@pytest.mark.parametrize("parse", [parse_head, parse_event, parse_fingerprint])
@given(content=st.one_of(st.binary(max_size=200), values.map(dumped)))
@example(content=b"\xff\xfe[")
@example(content=b"\xef\xbb\xbf{}")
@example(content=b"NaN")
def test_any_line_is_read_or_refused(parse, content):
    try:
        parse(content)
    except DamagedClaimError as error:
        said_in_short(error)


@pytest.mark.parametrize("parse", [parse_head, parse_event])
@pytest.mark.parametrize("line", [DEEP, b'{"take": ' + DEEP], ids=["list", "object"])
def test_a_line_nested_too_deeply_is_damage(parse, line):
    with pytest.raises(DamagedClaimError):
        parse(line)


@pytest.mark.parametrize("line", [DEEP, b'{"version": ' + b"9" * 5000])
def test_a_fingerprint_that_python_refuses_to_read_is_none(line):
    assert parse_fingerprint(line) is None


@given(st.dictionaries(st.sampled_from(Event._fields), values))
@example({"via": HUGE})
@example({"via": -1})
@example({"via": True})
@example({"failed": -1, "take": "1"})
@example({"failed": 1.5})
def test_an_event_with_any_values_is_damage_or_comes_back(record):
    try:
        event = parse_event(dumped(record))
    except DamagedClaimError:
        return
    assert event is not None
    assert event.step is None or event.step >= 1
    assert event.failed >= 0
    again = parse_event(encode_event(event))
    assert again is not None
    assert set(again.take) == set(event.take)
    assert again.step == event.step


@pytest.mark.parametrize(
    "text",
    [
        "0-99999999",
        f"0-{MAX_IDS}",
        ",".join(["0-2000000"] * 3),
        "5-2",
        "0-" + "9" * 5000,
        "9" * 5000,
        "999999999999999999",
        "1,2\n",
        "٣",
    ],
)
def test_more_ids_than_a_farm_can_hold_fill_no_memory(text):
    with pytest.raises(IdRangesError):
        parse_ids(text)


def test_a_journal_holds_no_more_ids_than_one_of_its_lines_may(monkeypatch):
    monkeypatch.setattr(claim_journal, "MAX_IDS", 1000)
    journal = Journal(lambda _: True)
    journal.feed(encode_head(HEAD))
    journal.feed(encode_event(Event(take=range(900))))
    with pytest.raises(DamagedClaimError, match="more than 1000"):
        journal.feed(encode_event(Event(take=range(900, 1800))))


@given(st.lists(st.integers(0, 10**14), max_size=30))
def test_any_ids_come_back(taskids):
    assert parse_ids(encode_ids(set(taskids))) == sorted(set(taskids))


events = st.builds(
    Event,
    take=st.lists(st.integers(0, 30), max_size=5),
    put=st.lists(st.integers(0, 30), max_size=5),
    done=st.lists(st.integers(0, 30), max_size=5),
    giving=st.lists(st.integers(0, 30), max_size=5),
    step=st.one_of(st.none(), st.integers(1, 9)),
    failed=st.integers(0, 99),
)
torn = st.binary(max_size=20).filter(lambda part: b"{" not in part)


@given(
    st.lists(st.one_of(events.map(encode_event), torn), max_size=8),
    st.lists(st.integers(1, 40), max_size=20),
    st.sets(st.integers(1, 9)),
)
def test_a_journal_read_in_any_pieces_is_the_same(lines, sizes, pending):
    content = encode_head(HEAD) + b"".join(lines)
    whole, pieces = (Journal(lambda step: step not in pending) for _ in range(2))
    whole.feed(content)
    for size in sizes:
        pieces.feed(content[:size])
        content = content[size:]
    pieces.feed(content)
    assert (whole.head, whole.held, whole.giving, whole.last_step) == (
        pieces.head,
        pieces.held,
        pieces.giving,
        pieces.last_step,
    )


@given(st.binary(max_size=300))
def test_a_journal_of_anything_is_read_or_damaged(content):
    journal = Journal(lambda _: True)
    try:
        journal.feed(encode_head(HEAD) + content)
        journal.feed(content)
    except DamagedClaimError:
        pass
    assert journal.head == HEAD


def put_directory(path: Path) -> None:
    path.mkdir()


def put_fifo(path: Path) -> None:
    os.mkfifo(path)


def put_link(path: Path) -> None:
    path.symlink_to("elsewhere")


def put_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("put", [put_directory, put_fifo, put_link, put_device])
def test_what_is_no_file_among_the_claims_is_damage_and_holds_nobody_up(tmp_path, put):
    (tmp_path / "claims").mkdir()
    put(tmp_path / "claims" / "feedbeef")
    others = OtherClaims(WorkdirPaths(str(tmp_path)), farm="mine")
    others.poll()
    others.poll()
    claim = others.claims["feedbeef"]
    assert claim.damage is not None
    with grasped(claim, Machine("here", "b", 1, find_process_start, lambda _: 0.0)) as (
        liveness,
        _,
    ):
        assert liveness is FarmLiveness.DAMAGED


def test_a_process_that_goes_while_it_is_asked_for_is_gone(monkeypatch):
    monkeypatch.setattr("mpifarm.system.files.read_from", lambda _: b"")
    assert find_process_start(7) is None


def test_a_step_that_can_not_be_asked_for_is_read_again(tmp_path, monkeypatch):
    (tmp_path / "claims").mkdir()
    path = tmp_path / "claims" / "feedbeef"
    path.write_bytes(encode_head(HEAD) + encode_event(Event(take=[1, 2], step=1)))
    others = OtherClaims(WorkdirPaths(str(tmp_path)), farm="mine")

    def fail(_):
        raise StorageError("Stale file handle")

    with monkeypatch.context() as stale:
        stale.setattr("mpifarm.system.files.exists", fail)
        with pytest.raises(StorageError):
            others.poll()
    others.poll()
    assert others.held_ids() == {1, 2}


# ---- status files -------------------------------------------------------------------

pieces = st.one_of(
    st.sampled_from(
        [*(f"{i} {text}\n".encode(errors="replace") for i, text in enumerate(TASKS))]
    ),
    st.sampled_from(
        [b"0", b"1", b"12 ", b" ", b"\n", b"\r\n", b"\0\0", b"\xff", b"cmd"]
    ),
    st.binary(max_size=12),
)
status_files = st.lists(pieces, max_size=12).map(b"".join)


@given(status_files, st.booleans())
@example(b"9" * 5000 + b" cmd\n", False)
@example(b"9" * 5000, True)
@example(b"9" * 5000 + b"\n", True)
@example(b"1 " * 3000, True)
def test_any_status_file_is_read_and_only_whole_lines_count(content, is_same):
    found, odd, tail = scan_status(content, TASKS)
    ids = list(found)
    assert all(0 <= taskid < len(TASKS) for taskid in ids)
    whole = {
        line: i for i, line in enumerate(encode_lines(range(7), TASKS).split(b"\n"))
    }
    assert ids == [whole[e] for e in content.split(b"\n")[:-1] if e and e in whole]
    list(scan_ids([content]))
    for line in [*odd, tail]:
        parse_line(line, TASKS)
        classify_odd(line, TASKS, may_be_torn=is_same)
    how = {"list_is_same": is_same, "counts_begun": True}
    parsed = parse_status(content, TASKS, **how)
    assert [each.line for each in parsed.odd] == odd
    assert (parsed.tail.line if parsed.tail else b"") == tail
    assert list(parsed.ids)[: len(ids)] == ids
    assert set(parsed.ended().ids) <= set(range(len(TASKS)))
    try:
        validate_lines("toprocess", parsed, TASKS, **how)
    except InputError as error:
        said_in_short(error, 1000)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "line",
    [
        b"1 " * 300_000,
        b"1" * 1_000_000,
        b"1" * 1_000_000 + b" x",
        b" " * 1_000_000,
        b"\xff" * 1_000_000,
        b"\0" * 1_000_000,
        b"0 cmd" * 100_000,
    ],
)
def test_a_line_of_megabytes_is_judged_in_no_time(line):
    parse_status(line + b"\n" + line, TASKS, list_is_same=True)
    classify_odd(line, TASKS, may_be_torn=True)


# ---- the fingerprint ----------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from(["version", "count", "block", "prefixes"]), values)
)
@example({"count": True})
@example({"count": -5, "prefixes": []})
@example({"count": 2500, "prefixes": "abc"})
@example({"count": 2500, "prefixes": [1, 2, 3]})
@example({"count": 2500, "prefixes": [["a"], {}, None]})
@example({"count": HUGE})
def test_a_fingerprint_with_any_values_is_none_or_can_be_compared(changes):
    stored = json.loads(encode_fingerprint(take_fingerprint(TASKS))) | changes
    fingerprint = parse_fingerprint(dumped(stored))
    if fingerprint is None:
        return
    assert fingerprint.total >= 0
    assert all(isinstance(prefix, str) for prefix in fingerprint.prefixes)
    compare(fingerprint, TASKS)
    assert find_edited_block(fingerprint, TASKS).start >= 0
    assert parse_fingerprint(encode_fingerprint(fingerprint)) == fingerprint


# ---- the timeline -------------------------------------------------------------------


@given(st.one_of(st.binary(max_size=200), values.map(dumped)), st.integers(0, 100))
@example(b"\xff\xfe[\0", 0)
def test_any_timeline_is_valid_or_its_events_are_saved(content, cut):
    content = content[: len(content) - cut]
    timeline.find_end(content[-64:], 0)
    timeline.ends_well(content)
    if timeline.is_valid(content):
        assert isinstance(json.loads(content), list)
        return
    saved = timeline.encode_timeline(timeline.salvage(content))
    assert timeline.is_valid(saved)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "content",
    [b'{"a":' * 200_000, b"{" * 1_000_000, b'{"a":[' * 900 + b"{}," * 300_000],
)
def test_nested_brackets_are_given_up(content):
    assert timeline.salvage(content) == []


def test_a_timeline_nested_too_deeply_is_a_violation_and_no_crash(tmp_path):
    (tmp_path / "timeline.json").write_bytes(DEEP)
    assert find_violations(str(tmp_path), TASKS) == [
        f"{tmp_path}/timeline.json is not a JSON array"
    ]


# ---- names --------------------------------------------------------------------------


@given(st.text(max_size=30))
@example("toprocess.ab." + "9" * 5000)
@example("toprocess.ab.٣")
def test_any_file_name_is_a_step_or_none(name):
    parse_queue_staging(name)
    parse_queue_staging("toprocess.ab." + name)


# ---- the user's own files -----------------------------------------------------------

list_pieces = st.one_of(
    st.sampled_from(
        [b"cmd\n", b"# no\n", b"\r\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf"]
    ),
    st.sampled_from(["\x85", "\u2028", "\x0c", "é", "\ud800"]).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    ),
    st.binary(max_size=10),
)


@given(content=st.lists(list_pieces, max_size=15).map(b"".join))
@example(content=b"\xef\xbb\xbfcmd\n")
@example(content=b"\xed\xa0\x80\n")
def test_any_tasklist_is_refused_or_comes_back_from_the_status_files(
    tmp_path_factory, content
):
    path = tmp_path_factory.getbasetemp() / "fuzzed-tasks.txt"
    path.write_bytes(content)
    try:
        tasks = ListTaskList(str(path), "").tasks
    except TasklistFileError:
        assert any(each in content for each in (b"\0", b"[limit=", b"#"))
        return
    for task in tasks:
        assert "\n" not in task
        assert "\r" not in task
    count = len(tasks)
    ids, odd, tail = scan_status(encode_lines(range(count), tasks), tasks)
    assert (list(ids), odd, tail) == (list(range(count)), [], b"")
    fingerprint = parse_fingerprint(encode_fingerprint(take_fingerprint(tasks)))
    assert fingerprint == take_fingerprint(tasks)


def test_a_line_of_megabytes_is_one_task(tmp_path):
    path = tmp_path / "tasks.txt"
    path.write_bytes(b"x" * 10_000_000 + b"\n")
    tasks = ListTaskList(str(path), "").tasks
    assert [len(task) for task in tasks] == [10_000_000]
    assert list(scan_status(encode_lines([0], tasks), tasks)[0]) == [0]


ini_pieces = st.one_of(
    st.sampled_from(
        [
            *(
                "[mine]\n",
                "[DEFAULT]\n",
                "Runner = x.Y\n",
                "TaskList = x.Y\n",
                "a = %(a)s\n",
            ),
            *(
                "%",
                "=",
                "\n",
                "\r",
                " ",
                "[",
                "]",
                "#",
                "\0",
                "runner = x\n",
                "a = %(b)s\n",
            ),
        ]
    ),
    st.text(max_size=8),
)


@given(
    content=st.one_of(
        st.lists(ini_pieces, max_size=12).map(
            lambda parts: "".join(parts).encode("utf-8", "surrogatepass")
        ),
        st.binary(max_size=60),
    )
)
@example(content=b"[mine]\nRunner = %(Runner)s\n")
@example(
    content=b"[mine]\nRunner = " + b"%(a)s" * 50 + b"\na = %(b)s%(b)s\nb = %(a)s\n"
)
def test_any_ini_file_has_the_name_or_is_told(tmp_path_factory, content):
    directory = tmp_path_factory.getbasetemp()
    path = directory / "fuzzed.ini"
    path.write_bytes(content)
    home = str(directory / "no home")
    places = SearchPath(home, home, home, config=str(path))
    for find in (find_runner, find_handler):
        try:
            definition = find("mine", places)
        except InputError as error:
            said_in_short(error, 1000)
            continue
        assert definition.name == "mine"
