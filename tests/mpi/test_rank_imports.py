"""What a rank imports: a thousand of them read it from one shared file system at once.

Rules of this file: the lists say what the ranks other than 0 import, and not one module
more.  A list may shrink.  Before it grows, ask whether rank 0 can do it for all.
"""

import pytest

from mpifarm.database import schema
from mpifarm.database import tasks as statements
from tests.imported import (
    OF_NOBODY,
    OF_RANK_0,
    ROLES,
    among,
    compare,
    modules_of_ranks,
)

OF_EACH_RANK = """
mpifarm
mpifarm.batch mpifarm.batch.launcher
mpifarm.commands mpifarm.commands.main
mpifarm.commands.option_values mpifarm.commands.options
mpifarm.errors
mpifarm.farm mpifarm.farm.agent mpifarm.farm.context
mpifarm.farm.feeding mpifarm.farm.process mpifarm.farm.reporting
mpifarm.farm.running mpifarm.farm.shared_directories mpifarm.farm.sureness
mpifarm.immutable
mpifarm.model mpifarm.model.messages mpifarm.model.paths mpifarm.model.settings
mpifarm.model.task
mpifarm.output mpifarm.output.keepers mpifarm.output.task_log
mpifarm.pool mpifarm.pool.client mpifarm.pool.definition
mpifarm.pool.fork_server mpifarm.pool.framing mpifarm.pool.out_of_memory
mpifarm.pool.run_processes mpifarm.pool.shared_state mpifarm.pool.usage
mpifarm.pool.worker mpifarm.pool.worker_link
mpifarm.system mpifarm.system.cgroups mpifarm.system.console mpifarm.system.cpus
mpifarm.system.destination mpifarm.system.event_loop mpifarm.system.patience
mpifarm.system.processes mpifarm.system.regular_files mpifarm.system.signals
mpifarm.system.task_command
mpifarm.transport mpifarm.transport.mpi

argparse array collections contextlib ctypes dataclasses enum errno fcntl functools gc
heapq itertools locale marshal math mmap operator os pickle re resource select shlex
signal socket stat struct sys time typing warnings
"""
"""All of mpifarm, and what that imports of Python itself: no more than before there was
a `submit`."""

OF_THE_RANK = "mpi4py mpi4py.MPI mpi4py.rc"
"""What a rank imports besides."""

OF_ITS_POOL = """
mpifarm.plugins mpifarm.plugins.loading mpifarm.plugins.shell_split mpifarm.runners
"""
"""What its fork server and its workers import, while the rank goes on into MPI."""

FOR_ARGUMENTS = "mpifarm.commands.argument_words"
"""What finds the arguments among the words.  Each rank has to: where they are wrong,
all ranks end before MPI begins."""

OF_ARGUMENTS = {
    "mpifarm.farm.arguments",
    "mpifarm.farm.standard_input",
    "mpifarm.lists",
}
"""What makes a list of arguments."""

LIST = ["sleep 0.05", "sleep 0.05; exit 3"] * 6
"""Tasks that succeed and fail, on each rank."""


@pytest.fixture
def imported(mpirun, farm_processes, farm_environment, tmp_path):
    """Run a farm of two ranks, and return what each of their processes has imported.

    The lists are looked at first, those of each process of rank 1: `more` is there.
    """

    def imported(*words, more="", lines=LIST):
        (tmp_path / "tasks.txt").write_text("".join(f"{line}\n" for line in lines))
        ranks = modules_of_ranks(mpirun, farm_processes, tmp_path, *words)
        for role in ROLES:
            besides = OF_THE_RANK if role == "rank" else OF_ITS_POOL
            listed = f"{OF_EACH_RANK} {besides} {more}".split()
            changes = compare(ranks[1][role], listed, farm_environment)
            assert not changes, f"{role} of rank 1:\n" + "\n".join(changes)
        return ranks

    return imported


def test_another_rank_imports_what_the_list_holds_and_nothing_more(imported):
    first, _ = imported("tasks.txt")
    # or the names would be out of date: rank 0 alone has these
    assert among(OF_RANK_0, first["rank"]) == OF_RANK_0


def test_no_rank_imports_what_a_farm_has_no_use_for(imported):
    first, _ = imported("tasks.txt", lines=["sleep 0.05"] * 12)
    assert among(OF_NOBODY, first["rank"]) == set()


def test_rank_0_alone_imports_what_reads_a_database(imported, tmp_path):
    with schema.creating(str(tmp_path / "tasks.db")) as connection:
        statements.insert_plain(connection, 0, [line.encode() for line in LIST])
    first, _ = imported("tasks.db")
    names = {"sqlite3", "mpifarm.database", "mpifarm.databases"}
    assert among(names, first["rank"]) == names


def test_rank_0_alone_imports_what_makes_a_list_of_arguments(imported):
    first, _ = imported("sleep {}; exit 3", ":::", *["0.05"] * 12, more=FOR_ARGUMENTS)
    assert among(OF_ARGUMENTS, first["rank"]) == OF_ARGUMENTS


def test_rank_0_alone_imports_what_reads_a_file_of_options(imported, tmp_path):
    options = (
        "[options]\ngrace = 3\nquarantine = off\nretries = 1\norder = longest-first\n"
    )
    (tmp_path / "mpifarm.ini").write_text(options)
    first, _ = imported("tasks.txt")
    names = {"configparser", "mpifarm.commands.defaults"}
    assert among(names, first["rank"]) == names


def test_rank_0_alone_imports_what_reads_a_list_of_another_tool(imported):
    first, _ = imported("-t", "disbatch", "tasks.txt")
    assert "mpifarm.dialects" in first["rank"]


@pytest.mark.one_mpi
def test_what_is_new_is_named_and_what_is_gone(farm_environment):
    modules = {"json", "json.decoder", "mpifarm", "shlex"}
    new = compare(modules, ["mpifarm", "shlex"], farm_environment)
    assert "json is imported, and not in the list" in new
    assert compare({"mpifarm"}, ["mpifarm", "mpifarm.errors"], farm_environment) == [
        "mpifarm.errors is in the list, and no longer imported: remove it"
    ]
    listed = ["mpifarm", "json", "shlex", "os"]  # os is there before each program
    assert compare(modules, listed, farm_environment) == []
