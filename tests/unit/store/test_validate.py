"""Does a workdir belong to a list?  What is read of it, and what the user is told."""

import json
from pathlib import Path

import pytest

from mpifarm.errors import InputError, StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.store.fingerprint import (
    encode_fingerprint,
    parse_fingerprint,
    take_fingerprint,
)
from mpifarm.store.status_lines import AlienLine
from mpifarm.store.validate import (
    REMEDY,
    EditedListError,
    Validation,
    _from_the_difference,
    describe_alien,
    read_snapshot,
    shorten,
    validate_access,
    validate_snapshot,
)
from mpifarm.system import file_contents, files

TASKS = ["echo a", "echo b", "echo c", "echo d"]


class Workdir:
    """A workdir with the files that a test writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = WorkdirPaths(str(root))

    def write(self, **contents: str) -> None:
        for name, content in contents.items():
            (self.root / name).write_text(content)

    def begin(
        self,
        tasks: list[str] = TASKS,
        first_added: int | None = None,
        constraints: Constraints = UNORDERED,
        staging: str = "",
    ) -> None:
        added = len(tasks) if first_added is None else first_added
        fingerprint = take_fingerprint(tasks, added, constraints)
        content = encode_fingerprint(fingerprint._replace(staging=staging))
        (self.root / "fingerprint.json").write_bytes(content)

    def validate(
        self, tasks: list[str] = TASKS, constraints: Constraints = UNORDERED
    ) -> Validation:
        snapshot = read_snapshot(self.paths)
        return validate_snapshot(snapshot, tasks, self.paths, constraints)


@pytest.fixture
def workdir(tmp_path):
    return Workdir(tmp_path)


def test_a_workdir_in_which_nothing_was_begun_belongs_to_any_list(workdir):
    workdir.begin(["another"], first_added=0)
    found = workdir.validate()
    assert not found.snapshot.begun
    assert (found.first_added, found.grown_from, found.is_new) == (4, None, True)


@pytest.mark.parametrize("name", ["toprocess", "finished", "failed"])
def test_any_status_file_and_any_claim_are_a_begin(workdir, name):
    (workdir.root / name).touch()
    assert read_snapshot(workdir.paths).begun
    (workdir.root / name).unlink()
    (workdir.root / "claims").mkdir()
    assert not read_snapshot(workdir.paths).begun
    (workdir.root / "claims" / "f00d").touch()
    assert read_snapshot(workdir.paths).begun


def test_a_list_that_has_grown_keeps_what_was_added_first(workdir):
    workdir.begin(TASKS[:3], first_added=2)
    workdir.write(toprocess="0 echo a\n")
    found = workdir.validate()
    assert (found.first_added, found.grown_from, found.is_new) == (2, 3, True)
    workdir.begin(TASKS, first_added=2)
    found = workdir.validate()
    assert (found.first_added, found.grown_from, found.is_new) == (2, None, False)


def test_without_a_fingerprint_the_queue_tells_what_was_added(workdir):
    workdir.write(toprocess="0 echo a\n", added="2 echo c\n3 ech")
    found = workdir.validate()
    assert (found.first_added, found.is_new) == (2, True)
    assert found.notes == [], "nobody mends it at a start"
    workdir.begin()
    assert read_snapshot(workdir.paths).added is None


def test_torn_lines_of_the_other_files_are_told(workdir):
    workdir.begin()
    workdir.write(finished="0 ec\n1 echo b\n")
    (note,) = workdir.validate().notes
    assert note.startswith(f"a torn line of {workdir.root}/finished ")


def test_large_queues_are_read_whole_if_they_are_to_be(workdir, monkeypatch):
    monkeypatch.setattr(file_contents, "LARGE", 0)
    workdir.write(toprocess="0 echo a\n", added="3 echo d\n", finished="1 echo b\n")
    for whole in (False, True):
        found = read_snapshot(workdir.paths, whole=whole)
        for queue in (found.toprocess, found.added):
            assert queue is not None
            assert (queue.content is not None) is whole
        assert found.finished is not None
        assert found.finished.content is None


def test_what_can_not_be_read_is_bad_input_and_a_disk_that_fails_is_not(
    workdir, monkeypatch
):
    (workdir.root / "finished").mkdir()
    with pytest.raises(InputError, match="finished"):
        read_snapshot(workdir.paths)

    def fail(path: str) -> None:
        raise files.storage_error("read", path, OSError(5, "Input/output error"))

    monkeypatch.setattr(files, "find_content", fail)
    (workdir.root / "finished").rmdir()
    with pytest.raises(StorageError, match="Input/output error"):
        read_snapshot(workdir.paths)


def test_a_queue_that_is_still_staged_is_seen(workdir):
    workdir.begin(staging="toprocess.f00d.1")
    assert not read_snapshot(workdir.paths).has_staging
    (workdir.root / "toprocess.f00d.1").touch()
    assert read_snapshot(workdir.paths).has_staging
    workdir.begin()
    assert not read_snapshot(workdir.paths).has_staging


# ---- another list --------------------------------------------------------------------


def edited(workdir: Workdir, *given: object) -> str:
    with pytest.raises(EditedListError) as caught:
        workdir.validate(*given)  # type: ignore[arg-type]
    assert str(caught.value).endswith(REMEDY)
    return str(caught.value).removesuffix(f"; {REMEDY}")


def staged(first: int) -> Constraints:
    constraints = Constraints()
    constraints.add_barrier(first, checks=False)
    return constraints


def test_an_edited_list_is_told_with_the_first_change(workdir):
    workdir.begin()
    workdir.write(toprocess="0 echo a\n")
    begun = f"the tasklist was edited since {workdir.root} was begun"
    assert edited(workdir, [*TASKS[:3], "echo x"]) == (
        f"{begun}: it had 4 tasks, it has 4 now, and the first change is among the ids"
        " 0 to 3"
    )
    order = "tasks are the same, but their order has changed (#BARRIER, #AFTER)"
    workdir.begin(TASKS, None, staged(4))  # which stands behind all tasks
    assert edited(workdir, TASKS, staged(3)) == f"{begun}: the {order}"
    dialect = staged(3)
    dialect.is_foreign = True
    in_other_words = order.removesuffix(" (#BARRIER, #AFTER)")
    assert edited(workdir, TASKS, dialect) == f"{begun}: the {in_other_words}"
    workdir.begin(TASKS, None, staged(2))
    said = edited(workdir, [*TASKS[:3], "echo x"], staged(2))
    assert "the same" not in said
    assert "it had 4 tasks, it has 4 now" in said


def test_a_line_of_another_list_is_told_with_both_texts(workdir):
    lines = (AlienLine(None, "x y"), AlienLine(7, "echo h"), AlienLine(2, "echo y"))
    assert [describe_alien("w/failed", each, TASKS) for each in lines] == [
        "a line of w/failed is not of this tasklist: 'x y'",
        (
            "the tasklist was edited since the workdir was begun: task 7 is 'echo h' in"
            " w/failed, and the tasklist has only 4 tasks"
        ),
        (
            "the tasklist was edited since the workdir was begun: task 2 is 'echo y' in"
            " w/failed, and in the tasklist it is 'echo c'"
        ),
    ]


def test_long_texts_are_told_from_their_first_difference():
    same = "s" * 31
    assert _from_the_difference(f"{same}a", f"{same}b") == (
        *("…" + "s" * 30 + "a", "…" + "s" * 30 + "b"),
    )
    same = "s" * 30
    assert _from_the_difference(f"{same}a", f"{same}b") == (f"{same}a", f"{same}b")
    assert _from_the_difference(same * 2, same * 2 + "b") == (
        *("…" + same, "…" + same + "b"),
    )


def test_texts_are_shown_in_80_characters():
    assert shorten("x" * 80) == "x" * 80
    assert shorten("x" * 81) == "x" * 79 + "…"
    assert shorten("abcdef", 3) == "ab…"
    assert shorten("a\udcffb") == r"a\udcffb"


@pytest.mark.parametrize(
    "name",
    [
        *("toprocess", "added", "waiting", "finished", "failed", "timeline.json"),
        *("attempts.tsv", "logs", "claims"),
    ],
)
def test_each_file_has_to_be_readable_and_writable(workdir, monkeypatch, name):
    if name in ("logs", "claims"):
        (workdir.root / name).mkdir()
    else:
        (workdir.root / name).touch()
    validate_access(workdir.paths)
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(
        files, "is_permitted", lambda path, mode: asked.append((path, mode))
    )
    with pytest.raises(InputError, match=f"{name} can't be read and written"):
        validate_access(workdir.paths)
    assert asked == [(f"{workdir.root}/{name}", 7 if name in ("logs", "claims") else 6)]


@pytest.mark.parametrize(
    "change",
    [
        *({"version": 2}, {"block": 999}, {"count": -1}, {"count": 4.0}),
        *({"prefixes": []}, {"prefixes": [7]}, {"first_added": 5}, {"first_added": -1}),
        *({"first_added": None}, {"toprocess": 7}),
    ],
)
def test_a_fingerprint_of_another_format_or_with_odd_values_is_none(change):
    record = json.loads(encode_fingerprint(take_fingerprint(TASKS, 2)))
    assert parse_fingerprint(json.dumps(record).encode()) is not None
    assert parse_fingerprint(json.dumps(record | change).encode()) is None


def test_only_a_staging_file_is_one_in_a_fingerprint():
    fingerprint = take_fingerprint(TASKS)
    for name, staging in (("toprocess.0badcafe.1", "toprocess.0badcafe.1"), ("x", "")):
        content = encode_fingerprint(fingerprint._replace(staging=name))
        found = parse_fingerprint(content)
        assert found == fingerprint._replace(staging=staging)
