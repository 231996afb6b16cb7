"""The sentence at the end of a farm about a list that changed while it ran."""

import os

import pytest

from mpifarm.lists.growth import Change, explain_change, find_change
from mpifarm.tasklists import read_list


@pytest.fixture
def tasklist(tmp_path):
    """Make a list of two tasks, whose changes show in its size."""
    path = tmp_path / "tasks.txt"
    path.write_text("# a comment\none\n\ntwo\n")
    return path


@pytest.mark.parametrize(
    ("appended", "added"),
    [
        ("", 0),
        ("three\n", 1),
        ("three\n\nfour\n", 2),
        ("three\nfo", 1),
        ("thr", 0),
        ("# a comment\n\n", 0),
        ("three\r", 1),
    ],
)
def test_tasks_on_whole_lines_at_the_end_are_counted(tasklist, appended, added):
    texts = read_list(str(tasklist)).texts
    with tasklist.open("a", newline="") as stream:
        stream.write(appended)
    assert find_change(str(tasklist), texts) == Change(added)


def test_a_last_line_without_a_newline_that_was_there_is_no_new_one(tmp_path):
    path = tmp_path / "tasks.txt"
    path.write_text("one\ntwo")
    texts = read_list(str(path)).texts
    os.utime(path, (1, 1))
    assert find_change(str(path), texts) == Change()
    path.write_text("one\ntwo\nthree\n")
    assert find_change(str(path), texts) == Change(added=1)


@pytest.mark.parametrize(
    ("content", "added"),
    [
        ("one\n", 0),
        ("one\n2wo\n", 0),
        ("none\ntwo\nthree\n", 1),
        ("none\ntwo\nthr", 0),
        ("", 0),
    ],
)
def test_another_content_is_an_edit_and_may_be_longer(tasklist, content, added):
    texts = read_list(str(tasklist)).texts
    tasklist.write_text(content)
    assert find_change(str(tasklist), texts) == Change(added, is_edited=True)


def test_a_list_that_is_gone_or_is_no_file_any_more_counts_as_it_was(tasklist):
    texts = read_list(str(tasklist)).texts
    tasklist.unlink()
    assert find_change(str(tasklist), texts) == Change()
    os.mkfifo(tasklist)
    assert find_change(str(tasklist), texts) == Change()


def test_the_list_is_not_read_again_where_nothing_has_changed(tasklist, monkeypatch):
    texts = read_list(str(tasklist)).texts
    monkeypatch.setattr("mpifarm.lists.growth.read_list", None)
    assert find_change(str(tasklist), texts) == Change()


def test_the_sentences_name_the_list_and_the_remedy():
    assert explain_change("t", Change()) == ""
    assert explain_change("t", Change(1)) == (
        "1 line was added to t while the farm ran: give the same command again"
    )
    assert explain_change("t", Change(3)).startswith("3 lines were added to t while")
    edited = explain_change("t", Change(0, is_edited=True))
    assert edited.startswith("WARNING: t was edited while")
    assert "--remap" not in edited
    longer = explain_change("t", Change(1, is_edited=True))
    assert longer.startswith(f"{edited}; it has 1 task more now")
    assert longer.endswith("give the same command with --remap")
