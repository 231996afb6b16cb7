"""What the user is told of the order of starts, and for which lists there is none."""

from typing import Any

import pytest

from mpifarm.errors import InputError
from mpifarm.farm import start_order
from mpifarm.farm.expected import choose_order_of, read_durations_of
from mpifarm.farm.start_order import choose_order, find_durations
from mpifarm.model.settings import ANY_SEED, Default, Settings
from mpifarm.tasklists import ListTaskList

FILE: Any = {"of_database": False}
HEADER = "taskid\tattempt\toutcome\tseconds\n"


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "list"
    path.write_text("a\nb\nc\nd\n")
    return ListTaskList(str(path), str(tmp_path / "w"))


def settings(tmp_path, **more: Any) -> Settings:
    return Settings(str(tmp_path / "list"), str(tmp_path / "w"), **more)


def test_without_a_wish_there_is_no_order(tmp_path, tasks):
    assert choose_order_of(settings(tmp_path), tasks, {}, of_database=False) is None
    assert read_durations_of(settings(tmp_path)) == {}


def test_a_seed_is_told_so_that_it_can_be_given_again(tmp_path, tasks, monkeypatch):
    monkeypatch.setattr("secrets.randbelow", lambda most: most - 1)
    chosen = choose_order(settings(tmp_path, shuffle=ANY_SEED), tasks, {}, **FILE)
    assert "(--shuffle 999999 means the same again)" in chosen.sentence
    again = choose_order(settings(tmp_path, shuffle=999999), tasks, {}, **FILE)
    assert chosen.order is not None
    assert again.order is not None
    assert chosen.order.sort(range(99)) == again.order.sort(range(99))


@pytest.mark.parametrize(
    ("durations", "said"),
    [
        (
            {},
            "no duration is known yet, so tasks start in the order of the list (--ord",
        ),
        ({9: 1.0}, "no duration is known yet"),
        (
            {1: 3.0},
            "by 1 known duration, the 3 others, of unknown duration, before them",
        ),
        ({0: 1.0, 1: 2.0, 2: 3.0}, "by 3 known durations, the other one, of unknown"),
        ({0: 1.0, 1: 2.0, 2: 3.0, 3: 0.0}, "start longest first, by 4 known durations"),
    ],
)
def test_what_is_known_is_told(tmp_path, tasks, durations, said):
    wish = settings(tmp_path, order="longest-first")
    chosen = choose_order(wish, tasks, durations, **FILE)
    assert said in chosen.sentence
    assert (chosen.order is None) == ("no duration" in said)


def test_durations_are_those_of_the_workdir_and_of_the_last_one_moved_aside(tmp_path):
    for name, seconds in (
        ("w.before-20240101-000000", "7.0"),
        ("w.before-20250101-000000-2", "4.0"),
        ("w.before-20250101-000000-10", "5.0"),
        ("w.before-20250101-000000x", "8.0"),
        ("other.before-20260101-000000", "9.0"),
        ("w", "6.0"),
    ):
        (tmp_path / name).mkdir()
        number = 2 if name == "w" else 1
        row = f"{number}\t1\tcompleted\t{seconds}\n"
        (tmp_path / name / "attempts.tsv").write_text(HEADER + row)
    wish = settings(tmp_path, order="longest-first")
    assert find_durations(wish) == {1: 5.0, 2: 6.0}
    assert read_durations_of(wish) == {1: 5.0, 2: 6.0}
    (tmp_path / "w" / "attempts.tsv").write_text("taskid\tstatus\n")
    assert find_durations(wish) == {1: 5.0}


@pytest.mark.parametrize(
    ("given", "option"),
    [({"shuffle": 3}, "--shuffle"), ({"order": "longest-first"}, "--order")],
)
def test_a_list_that_hands_out_its_tasks_itself_is_refused(
    tmp_path, tasks, monkeypatch, given, option
):
    wish = settings(tmp_path, **given)
    with pytest.raises(InputError, match=rf"{option} is .* database .*mpifarm export"):
        choose_order(wish, tasks, {}, of_database=True)
    monkeypatch.setattr(start_order, "keeps_own_state", lambda *_: True)
    with pytest.raises(InputError, match=f"{option} .* handler 'default' hands out"):
        choose_order(wish, tasks, {}, **FILE)


def test_a_default_does_not_count_for_such_a_list(tmp_path, tasks, monkeypatch):
    monkeypatch.setattr(start_order, "keeps_own_state", lambda *_: True)
    default = Default("--order", ("longest-first",), "mpifarm.ini", 3)
    wish = settings(tmp_path, order="longest-first", defaults=(default,))
    assert choose_order(wish, tasks, {1: 2.0}, **FILE).order is None
