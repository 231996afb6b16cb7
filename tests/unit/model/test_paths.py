"""The names in a workdir: each is made and parsed in one place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.model.paths import (
    RemapPaths,
    WorkdirPaths,
    clock_file,
    copy_staging_of,
    is_clock_file,
    is_farm_id,
    is_own_name,
    is_timeline,
    is_timeline_aside,
    log_name,
    name_before_repair,
    parse_log_name,
    parse_queue_staging,
    parse_staging,
    repair_staging_of,
    staging_of,
)

PATHS = WorkdirPaths("/w")
FARM = "0123abcd"


def name_of(path: str) -> str:
    return path.rpartition("/")[2]


def test_no_two_files_of_a_workdir_have_one_name():
    kinds = (WorkdirPaths, RemapPaths)
    for kind in kinds:
        names = [n for n in dir(kind) if isinstance(getattr(kind, n), property)]
        paths = [getattr(kind("/w"), name) for name in names]
        assert len({*paths}) == len(paths)
        assert all(path.startswith("/w/") for path in paths)


@given(st.integers(0, 10**9), st.text(max_size=8))
def test_a_log_is_known_by_its_name(taskid, other):
    assert parse_log_name(log_name(taskid)) == taskid
    found = parse_log_name(f"log_{other}")
    assert found is None or log_name(found) == f"log_{other}"


@given(st.integers(1, 10**14))
def test_the_staging_file_of_a_queue_tells_farm_and_step(step):
    assert parse_queue_staging(name_of(PATHS.queue_staging(FARM, step))) == (FARM, step)


@pytest.mark.parametrize(
    "path",
    [
        PATHS.result,
        PATHS.fingerprint,
        PATHS.begun_in,
        PATHS.timeline,
        PATHS.timeline_of("89abcdef"),
    ],
)
def test_a_staging_file_tells_its_farm(path):
    assert parse_staging(name_of(staging_of(path, FARM))) == frozenset({FARM})
    assert parse_staging(name_of(path)) is None


def test_what_a_killed_repair_leaves_is_known():
    copy = PATHS.file(name_before_repair("failed", "20260101T000000-2"))
    for path in (copy_staging_of(copy), repair_staging_of(PATHS.failed)):
        assert parse_staging(name_of(path)) == frozenset()
    aside = copy_staging_of(PATHS.timeline_aside(FARM))
    assert parse_staging(name_of(aside)) == frozenset({FARM})
    assert parse_staging(name_of(copy)) is None


def test_the_list_that_a_killed_start_was_making_is_known():
    name = name_of(PATHS.list_staging("0123abcd"))
    assert parse_staging(name) == frozenset()
    assert is_own_name(name)


def test_timelines_that_have_to_be_valid_are_known():
    for path in (PATHS.timeline, PATHS.timeline_of(FARM)):
        assert is_timeline(name_of(path))
    assert not is_timeline(name_of(PATHS.timeline_aside(FARM)))


def test_a_file_for_the_clock_is_known():
    assert is_clock_file(name_of(clock_file(PATHS.claims, 7)))


@pytest.mark.parametrize(
    ("name", "taskid"),
    [
        ("log_0", 0),
        ("log_17", 17),
        *[(name, None) for name in ("log_", "log_007", "log_-1", "log_1a", "17x")],
        *[(name, None) for name in ("log_²", "log_٣", "17", "log_1.new")],
    ],
)
def test_only_a_name_that_is_made_of_an_id_is_that_of_a_log(name, taskid):
    assert parse_log_name(name) == taskid


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (FARM, True),
        (FARM[:-1], False),
        (FARM + "0", True),
        (f"x{FARM}", False),
        (f"{FARM}x", False),
        ("0123ABCD", False),
    ],
)
def test_the_id_of_a_farm_is_known(text, is_one):
    assert is_farm_id(text) is is_one


def test_a_timeline_that_was_moved_aside_is_known():
    aside = name_of(PATHS.timeline_aside(FARM))
    assert is_timeline_aside(aside)
    assert not is_timeline_aside(name_of(PATHS.timeline))
    assert not is_timeline_aside(f"{aside}.new")


@pytest.mark.parametrize(
    "name",
    [
        *[name_of(path) for path in (PATHS.result, PATHS.failed, PATHS.timeline)],
        *[PATHS.claims[len("/w/") :].partition("/")[0], "timeline.x", "claim-x"],
        name_of(PATHS.queue_staging(FARM, 3)),
        name_of(staging_of(PATHS.result, FARM)),
        name_of(repair_staging_of(PATHS.failed)),
        name_before_repair("failed", "20260101T000000-2"),
        "before-remap-1",
    ],
)
def test_the_files_of_farms_in_a_workdir_are_known(name):
    assert is_own_name(name)


@pytest.mark.parametrize("name", ["", "notes.txt", "results", "timelines", "x.result"])
def test_the_files_of_others_in_a_workdir_are_not_taken_for_those_of_farms(name):
    assert not is_own_name(name)


def test_what_is_no_staging_file_of_a_queue_has_no_farm():
    assert parse_queue_staging("toprocess") is None
    assert parse_queue_staging("notes.txt") is None
