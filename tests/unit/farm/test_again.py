"""``--again``: what begins again, what goes on, and what is refused."""

import os
import shutil
import time
from typing import Any

import pytest

from mpifarm.errors import InputError
from mpifarm.farm import again
from mpifarm.farm.again import (
    SUPERVISOR_VARIABLE,
    begin_again,
    check_again,
    check_launch,
    refuse_place,
)
from mpifarm.model.settings import STDIN_LIST, Arguments, Settings
from mpifarm.store.aside import list_asides, name_next
from mpifarm.store.farm_liveness import read_file_clock, this_machine
from mpifarm.tasklists import ListTaskList


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with a list, of which a task has finished."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text("a\nb\n")
    (tmp_path / "w").mkdir()
    run(tmp_path)
    return tmp_path


def run(directory):
    """Leave what a farm leaves."""
    (directory / "w" / "finished").write_text("0 a\n")
    (directory / "w" / "toprocess").write_text("1 b\n")


def settings(**more: Any) -> Settings:
    return Settings(**{"tasklist": "list", "workdir": "w", "again": True, **more})


def test_the_user_is_told_where_the_workdir_of_before_is(here):
    told = begin_again(settings(), {}, 2)
    (old,) = list_asides("w")
    assert told.endswith(f"the workdir of before is {os.path.basename(old)}")
    assert sorted(os.listdir("w")) == ["begun-again", "lock"]
    assert begin_again(settings(), {}, 2) == ""
    assert list_asides("w") == [old]


def test_a_workdir_by_a_link_stays_on_its_disk(here):
    (here / "disk").mkdir()
    (here / "w").rename(here / "disk" / "real")
    (here / "w").symlink_to("disk/real")
    told = begin_again(settings(workdir="w/"), {}, 2)
    (old,) = list_asides("w")
    assert told.endswith(f" is {old}")
    assert os.path.dirname(old) == str(here / "disk")
    assert (here / "w").is_symlink()
    assert sorted(os.listdir(here / "w")) == ["begun-again", "lock"]


def test_the_list_of_a_start_that_came_to_nothing_may_be_another(here):
    for name in ("finished", "toprocess"):
        (here / "w" / name).unlink()
    (here / "w" / "fingerprint.json").write_text("{}")
    assert begin_again(settings(), {}, 2) == ""
    assert sorted(os.listdir("w")) == ["begun-again", "lock"]


JOB = {"SLURM_JOB_ID": "7"}
AGAIN = {**JOB, "SLURM_RESTART_COUNT": "2"}


@pytest.mark.parametrize(
    ("first", "then", "goes_on"),
    [
        (JOB, AGAIN, True),
        (AGAIN, AGAIN, True),
        (JOB, JOB, False),
        (JOB, {**JOB, "SLURM_RESTART_COUNT": "0"}, False),
        (JOB, {**AGAIN, "SLURM_JOB_ID": "8"}, False),
        ({}, AGAIN, False),
        ({"LSB_JOBID": "7"}, {"LSB_JOBID": "7", "LSB_RESTART": "Y"}, True),
        ({"LSB_JOBID": "7"}, {"LSB_JOBID": "7", "LSB_RESTART": "N"}, False),
        ({"PBS_JOBID": "7"}, {"PBS_JOBID": "7"}, True),
    ],
)
def test_a_job_goes_on_with_what_it_has_begun_again(
    here, monkeypatch, first, then, goes_on
):
    monkeypatch.setattr(again.os, "isatty", lambda _: False)  # type: ignore[attr-defined]
    assert "the workdir of before" in begin_again(settings(), first, 2)
    run(here)
    told = begin_again(settings(), then, 2)
    assert ("has begun this list again before, and goes on" in told) is goes_on
    assert len(list_asides("w")) == (1 if goes_on else 2)
    assert os.path.exists("w/finished") is goes_on


def test_a_job_that_was_killed_before_its_first_task_has_nothing_to_go_on_with(here):
    begin_again(settings(), JOB, 2)
    os.unlink("w/begun-again")
    assert begin_again(settings(), AGAIN, 2) == ""
    run(here)
    assert "goes on" in begin_again(settings(), AGAIN, 2)


def test_a_job_goes_on_with_what_it_has_begun_first(here):
    shutil.rmtree("w")
    assert begin_again(settings(), JOB, 2) == ""
    run(here)
    assert "Slurm job 7 has begun this list again" in begin_again(settings(), AGAIN, 2)
    assert list_asides("w") == []


def test_a_job_goes_on_with_the_move_that_it_has_finished(here):
    """Nobody knows what has become of the workdir of before."""
    shutil.rmtree("w")
    os.mkdir(name_next("w"))
    (here / name_next("w") / ".mpifarm-next").touch()
    assert begin_again(settings(), JOB, 2) == "--again: all tasks are to run"
    assert sorted(os.listdir("w")) == ["begun-again", "lock"]
    run(here)
    assert "goes on" in begin_again(settings(), AGAIN, 2)


@pytest.mark.parametrize("job", [{}, JOB])
def test_what_supervise_starts_once_more_goes_on(here, job):
    first = {**job, SUPERVISOR_VARIABLE: "a"}
    assert "the workdir of before" in begin_again(settings(), first, 2)
    run(here)
    told = begin_again(settings(), first, 2)
    assert "mpifarm supervise has begun this list again before, and goes" in told
    assert os.path.exists("w/finished")
    other = {**job, SUPERVISOR_VARIABLE: "b"}
    assert "the workdir of before" in begin_again(settings(), other, 2)
    assert len(list_asides("w")) == 2


class Another:
    """Another process, which begins the list of `here` again."""

    def __init__(self, monkeypatch: Any, **more: Any) -> None:
        self._monkeypatch = monkeypatch
        self.lives = True
        self.machine = this_machine().__class__(
            **{
                "host": "n1",
                "boot_id": "b1",
                "pid": 4711,
                "find_process_start": lambda pid: 99 if self.lives else None,
                "read_file_clock": read_file_clock,
                **more,
            }
        )

    def begin(self, environ: dict[str, str] | None = None) -> str:
        """Begin the list again, as this process."""
        with self._monkeypatch.context() as patch:
            patch.setattr(again, "this_machine", lambda: self.machine)
            return begin_again(settings(), environ or {}, 2)


def test_of_two_that_begin_a_list_again_at_once_one_is_refused(here, monkeypatch):
    one, other = Another(monkeypatch), Another(monkeypatch, pid=4712)
    assert "the workdir of before" in one.begin()
    with pytest.raises(InputError, match=r"n1 \(pid 4711\) begins .* just now: to"):
        other.begin()
    assert one.begin() == "", "the disk has failed it once"
    other.lives = False
    assert other.begin() == ""
    run(here)  # its farm has begun, and has ended
    assert "the workdir of before" in one.begin()
    assert len(list_asides("w")) == 2


@pytest.mark.parametrize(("age", "is_refused"), [(0, True), (61, False)])
def test_a_start_on_another_host_counts_by_its_age(here, monkeypatch, age, is_refused):
    Another(monkeypatch).begin()
    os.utime("w/begun-again", (time.time() - age,) * 2)
    other = Another(monkeypatch, host="n2", boot_id="b2")
    if is_refused:
        why = "or ended in the last minute: give the same command again in a minute"
        with pytest.raises(InputError, match=why):
            other.begin()
    else:
        assert other.begin() == ""


@pytest.mark.parametrize("content", ["", "a job", "j\ns\nx y z", "\n\n1 2", "\n\n\n"])
def test_a_record_of_another_format_refuses_nobody(here, monkeypatch, content):
    for name in ("finished", "toprocess"):
        (here / "w" / name).unlink()
    (here / "w" / "begun-again").write_text(content)
    assert Another(monkeypatch).begin() == ""


def test_who_submits_a_job_is_no_job_that_goes_on(here):
    begin_again(settings(), AGAIN, 2, in_job=False)
    assert not os.path.exists("w/begun-again")
    run(here)
    assert "the workdir of before" in begin_again(settings(), AGAIN, 2, in_job=False)


def test_what_would_be_moved_along_is_refused(here, monkeypatch):
    (here / "w" / "list").touch()
    with pytest.raises(InputError, match="the list w/list is in it: move the list"):
        begin_again(settings(tasklist="w/list"), {}, 2)
    refuse_place(settings(tasklist="w/stdin.txt"))
    arguments = Arguments(("x",), (), 2)
    for kept in ({"tasklist": STDIN_LIST}, {"arguments": arguments}):
        refuse_place(settings(**kept))
    with pytest.raises(InputError, match=r"the file w/x.ini of --config is in it: mov"):
        begin_again(settings(config="w/x.ini"), {}, 2)
    refuse_place(settings(config="x.ini"))
    (here / "w" / "below").mkdir()
    monkeypatch.chdir(here / "w" / "below")
    with pytest.raises(InputError, match="the commands would run in it"):
        begin_again(settings(tasklist="../../list", workdir="../../w"), {}, 2)
    assert list_asides("../../w") == []


def test_where_each_of_several_would_begin_again_it_is_refused():
    check_launch(settings(), JOB, sees_all=True)
    check_launch(settings(again=False), {"SLURM_ARRAY_JOB_ID": "7"}, sees_all=False)
    with pytest.raises(InputError, match="in a job array"):
        check_launch(settings(), {"SLURM_ARRAY_JOB_ID": "7"}, sees_all=True)
    check_launch(settings(), {"FARM_CHAIN_OF": "/here other_w"}, sees_all=True)
    with pytest.raises(InputError, match="in a chain of jobs"):
        check_launch(settings(), {"FARM_CHAIN_OF": "/here w"}, sees_all=True)
    several = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}
    check_launch(settings(), several, sees_all=True)
    with pytest.raises(InputError, match="given to 4 processes that don't see each"):
        check_launch(settings(), several, sees_all=False)


def test_a_list_that_has_its_states_itself_is_refused(here, monkeypatch):
    tasks = ListTaskList("list", "w")
    check_again(settings(), tasks, of_database=False)
    check_again(settings(again=False), tasks, of_database=True)
    with pytest.raises(InputError, match=r"database list .* export\), .* import\)"):
        check_again(settings(), tasks, of_database=True)
    monkeypatch.setattr(again, "keeps_own_state", lambda *_: True)
    with pytest.raises(InputError, match="handler 'default' keeps its own"):
        check_again(settings(), tasks, of_database=False)
