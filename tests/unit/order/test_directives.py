"""Directives of a plain list: what they mean, and a sentence for each mistake."""

import pytest

from mpifarm.order import directives
from mpifarm.order.constraints import Barrier, Constraints
from mpifarm.order.directives import DirectiveError, DirectiveReader, command_of


def read(text: str) -> Constraints:
    constraints = Constraints()
    DirectiveReader().read(constraints, text.split("\n"), 1, 0)
    return constraints


def test_a_barrier_stands_in_front_of_the_next_task() -> None:
    found = read("a\nb\n#BARRIER\n\n# why\nc\n#BARRIER CHECK \t\nd\ne")
    assert found.barriers == [Barrier(2, checks=False), Barrier(3, checks=True)]


def test_a_barrier_without_tasks_on_both_sides_holds_nothing_back() -> None:
    assert not read("#BARRIER\na\nb")
    assert read("a\n#BARRIER").barriers == [Barrier(1, checks=False)]


def test_a_task_waits_for_all_that_the_lines_above_it_name() -> None:
    found = read("a\nb\nc\nd\n#AFTER 3\n#AFTER 0-1, 1\n\ne\nf\n#AFTER\t4 , 2-2\ng")
    assert found.after == {4: (0, 1, 3), 6: (2, 4)}


@pytest.mark.parametrize(
    "line",
    [
        *("#BARRIERS", "# BARRIER", "#barrier", " #BARRIER", "##BARRIER", "#BARRIER2"),
        *("#AFTERWARDS", "# AFTER 0", "#After 0", "x #AFTER 0", "#AFTER_ALL"),
    ],
)
def test_what_only_resembles_a_directive_is_a_comment_or_a_command(line) -> None:
    assert not read(f"a\n{line}\nb")


def test_a_prefix_names_the_kind_of_its_task() -> None:
    found = read("a\n  [limit=disk] b\n[limit=gpu_A.1-x]\tc  d\n[ -e x ] && [limit=no]")
    assert found.kinds == {1: "disk", 2: "gpu_A.1-x"}


def test_the_command_is_without_the_prefix() -> None:
    assert command_of("[limit=disk]  cp [limit=a] b") == "cp [limit=a] b"
    assert command_of("[ -e x ] && y") == "[ -e x ] && y"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("#BARRIER foo", "more stands in it ('foo')"),
        ("#BARRIER CHECK CHECK", "more stands in it ('CHECK CHECK')"),
        (f"#BARRIER {'x' * 90}", f"stands in it ('{'x' * 39}…'): write"),
        ("#BARRIER check", "more stands in it ('check')"),
        ("#BARRIER: the plots", "more stands in it (': the plots')"),
        ("#BARRIER:CHECK", "more stands in it (':CHECK')"),
        ("#AFTER x", "names no tasks after #AFTER ('x')"),
        ("#AFTER", "names no tasks after #AFTER ('')"),
        ("#AFTER 0,", "'0,' after #AFTER, which are no ids: write one comma"),
        ("#AFTER ,0", "none at the end: #AFTER 0"),
        ("#AFTER 0-1 1,,0", "none at the end: #AFTER 0-1,1,0"),
        (f"#AFTER x {'9' * 20}", "names no tasks after #AFTER ('x 9"),
        ("#AFTER:0", "names no tasks after #AFTER (':0')"),
        ("#AFTER=0", "names no tasks"),
        ("#AFTER -1", "names no tasks"),
        ("#AFTER 0 1", "'0 1' after #AFTER, which are no ids: write one comma"),
        ("#AFTER 0 - 1", "names no tasks"),
        (f"#AFTER {'0 ' * 50}", "between two of them, and none at the end"),
        (f"#AFTER {'9' * 5000}", f"wait for task {'9' * 39}…, but a task can"),
        (f"#AFTER 0,{'9' * 19}", f"lets task 2 wait for task {'9' * 19}, but a task"),
        (f"#AFTER {'9' * 18}", "above it are the ids 0 to 1: correct the ids after"),
        ("#AFTER 1-0", "has 1-0 after #AFTER: write 0-1"),
        (
            "#AFTER 2",
            "lets task 2 wait for itself, but a task can only wait for",
        ),
        ("#AFTER 0-3", "lets task 2 wait for task 3, but a task can only wait for"),
        ("#AFTER 0,12", "wait for task 12, but"),
        ("#AFTER 12", "above it are the ids 0 to 1: correct the ids after #AFTER"),
        ("[limit=] c", "begins with a broken prefix, '[limit=] c'"),
        ("[limit=a b] c", "begins with a broken prefix"),
        ("[limit=a]c", "a blank before the command"),
        ("[limit=a]", "a blank before the command"),
        ("[limit=ä] c", "with letters, digits, _ . - in NAME"),
        ("[limit=a c", "begins with a broken prefix"),
        ("[Limit=a] c", "write [limit=NAME] in small letters and a blank before"),
        ("  [LIMITS: a] c", "begins with a broken prefix, '[LIMITS: a] c'"),
        ("[limit] c", "begins with a broken prefix"),
        ("[limit=a] [limit=b] c", "names two kinds ('[limit=a] [limit=b] c'), and a"),
        ("[limit=a]\t[limit=a] c", "leave one [limit=NAME] in front of the command"),
        ("[limit=a] [Limit: b] c", "names two kinds"),
    ],
)
def test_a_wrong_directive_is_told_with_its_line_and_the_remedy(line, what) -> None:
    with pytest.raises(DirectiveError) as raised:
        read(f"a\n# note\nb\n{line}\nc")
    assert raised.value.number == 4
    assert what in str(raised.value)


@pytest.mark.parametrize(
    ("comment", "meant"),
    [
        *(("#BARIER", "#BARRIER"), ("#BARRIERS", "#BARRIER"), ("#AFTR 0,1", "#AFTER")),
        *((each, "") for each in ("#BARRIER", "#AFTER 0", "#BENCHMARK", "#AFTR", "#a")),
    ],
)
def test_a_misspelt_directive_is_known_by_its_shape(comment, meant) -> None:
    assert directives.find_misspelt(comment) == meant


def test_there_is_nothing_above_the_first_task() -> None:
    with pytest.raises(DirectiveError, match="there is none above the first task"):
        read("#AFTER 0\na")
    with pytest.raises(DirectiveError, match="above it is only task 0: correct"):
        read("a\n#AFTER 1\nb")


def test_a_list_may_not_have_more_pairs_than_the_memory_holds(monkeypatch) -> None:
    monkeypatch.setattr(directives, "MAX_WAITS", 4)
    read("a\nb\nc\n#AFTER 0-1\n#AFTER 1\nd\n#AFTER 0-1\ne")
    with pytest.raises(DirectiveError, match="lets tasks wait for more than 4"):
        read("a\nb\nc\n#AFTER 0-1\nd\n#AFTER 0-2\ne")
    with pytest.raises(DirectiveError, match="lets tasks wait for more than 4"):
        read("a\nb\nc\nd\ne\n#AFTER 0-4\nf")


def test_a_reader_goes_on_with_the_next_block() -> None:
    constraints = Constraints()
    reader = DirectiveReader()
    reader.read(constraints, ["a", "b", "#AFTER 0"], 1, 0)
    reader.read(constraints, ["#AFTER 1", "c", "[limit=x] d"], 4, 2)
    assert constraints.after == {2: (0, 1)}
    assert constraints.kinds == {3: "x"}
    with pytest.raises(DirectiveError) as raised:
        reader.read(constraints, ["e", "#AFTER 5"], 7, 4)
    assert raised.value.number == 8


def test_added_constraints_join_those_at_the_end_of_the_list() -> None:
    whole = (
        "a\nb\n#AFTER 0\n#BARRIER\n#AFTER 1\n#BARRIER CHECK\n[limit=x] c\n#AFTER 2\nd"
    )
    lines = whole.split("\n")
    for known in range(len(lines) + 1):
        constraints, added = Constraints(), Constraints()
        DirectiveReader().read(constraints, lines[:known], 1, 0)
        tasks = sum(not line.startswith("#") for line in lines[:known])
        DirectiveReader().read(added, lines[known:], known + 1, tasks)
        constraints.extend(added)
        assert constraints == read("\n".join(lines))


@pytest.mark.parametrize(
    ("name", "is_one"), [("gpu_A.1-x", True), ("", False), ("a b", False), ("ä", False)]
)
def test_the_name_of_a_kind_has_letters_digits_and_a_few_signs(name, is_one):
    assert directives.is_kind(name) is is_one


def test_ids_are_in_order_however_far_apart_they_are() -> None:
    tasks = "a\n" * 20
    assert read(f"{tasks}#AFTER 16,9\nb").after == {20: (9, 16)}
    assert read(f"{tasks}#AFTER 16\n#AFTER 9\nb").after == {20: (9, 16)}


@pytest.mark.parametrize(("length", "is_whole"), [(40, True), (41, False)])
def test_a_text_of_forty_letters_is_shown_whole(length, is_whole):
    text = "x" * length
    assert (directives.shorten(f" {text} ") == repr(text)) is is_whole


@pytest.mark.parametrize(("count", "has_example"), [(20, True), (21, False)])
def test_corrected_ids_are_shown_unless_they_are_many(count, has_example):
    ids = " ".join("0" for _ in range(count)) + ("0" if count == 20 else "")
    with pytest.raises(DirectiveError) as raised:
        read(f"a\n#AFTER {ids}\nb")
    assert (": #AFTER 0,0" in str(raised.value)) is has_example
