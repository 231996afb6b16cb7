"""Which watch over its list a farm has."""

from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.databases import SqliteTaskList
from mpifarm.farm import find_growth as module
from mpifarm.farm.database_growth import DatabaseGrowth
from mpifarm.farm.find_growth import find_growth
from mpifarm.tasklists import ListTaskList, TaskList
from tests.unit.database_fakes import DatabaseSite
from tests.unit.store_fakes import Site

OUTPUT: Any = SimpleNamespace(say="say", mention="mention")
LOCK: Any = "the lock"
COORDINATOR: Any = "the coordinator"


def read_list(tmp_path) -> TaskList:
    (tmp_path / "list").write_text("echo a\n")
    return ListTaskList(str(tmp_path / "list"), str(tmp_path / "list_workdir"))


@pytest.fixture
def made(monkeypatch) -> list[Any]:
    made: list[Any] = []

    def note(*given: Any) -> str:
        made.extend(given)
        return "a growth"

    monkeypatch.setattr(module, "Growth", note)
    monkeypatch.setattr(DatabaseGrowth, "of_store", note)
    monkeypatch.setattr("time.monotonic", lambda: 7.0)
    return made


PARTS = [LOCK, COORDINATOR, "say", "mention", 7.0]


def test_a_text_file_grows_in_a_workdir_of_status_files(tmp_path, made):
    tasks, store = read_list(tmp_path), Site(tmp_path / "list_workdir").open()
    found: object = find_growth(tasks, store, LOCK, COORDINATOR, OUTPUT)
    assert found == "a growth"
    assert made == [tasks, store, *PARTS]
    other: Any = object()
    assert find_growth(tasks, other, LOCK, COORDINATOR, OUTPUT) is None


def test_a_database_grows_by_its_rows(tmp_path, made):
    site = DatabaseSite(tmp_path)
    store: Any = site.open()
    tasks: Any = SqliteTaskList(str(site.path), str(site.root))
    found: object = find_growth(tasks, store, LOCK, COORDINATOR, OUTPUT)
    assert found == "a growth"
    assert made == [tasks, store, *PARTS]


def test_a_list_of_a_handler_does_not_grow(tmp_path, made):
    tasks: Any = ["echo a"]
    store = Site(tmp_path / "list_workdir").open()
    assert find_growth(tasks, store, LOCK, COORDINATOR, OUTPUT) is None
    assert made == []


def test_a_store_of_files_is_none_of_a_database(tmp_path):
    store: Any = Site(tmp_path / "list_workdir").open()
    tasks: Any = None
    of_store = DatabaseGrowth.of_store
    assert of_store(tasks, store, LOCK, COORDINATOR, print, print, 0.0) is None
