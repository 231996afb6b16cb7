"""The two kinds of MPI tests: inside ranks, and of whole farms from outside.

Rules of this file: tests marked `mpi` run inside ranks, under mpirun and --with-mpi;
all others start farms themselves, and run in one process without it.  Inside ranks,
rank 0 speaks; the others only when something went wrong there.  What any MPI library
does alike, and Debian's Open MPI, is tested in one environment: MPICH's (`one_mpi`).
"""

import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.farm_driver import Mpirun
from tests.support import Launch, find_launcher

HERE = Path(__file__).parent


def _rank() -> int:
    variables = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
    return int(next((os.environ[v] for v in variables if v in os.environ), "0"))


class HeldBack(io.StringIO):
    """Keeps what is printed, until it is shown on stderr; from then on, all is."""

    def write(self, text: str) -> int:
        # pytest-timeout says this, and then leaves by os._exit
        if "Timeout" in text:
            self.show()
        return sys.stderr.write(text) if self.closed else super().write(text)

    def flush(self) -> None:
        if self.closed:
            sys.stderr.flush()

    def show(self) -> None:
        if not self.closed:
            sys.stderr.write(f"\n==== rank {_rank()} ====\n{self.getvalue()}")
            self.close()


class QuietRank:
    """A plugin: pytest's own reporter, writing to where text is held back."""

    def __init__(self, config: pytest.Config) -> None:
        self.text = HeldBack()
        config.pluginmanager.unregister(name="terminalreporter")
        reporter = pytest.TerminalReporter(config, self.text)
        config.pluginmanager.register(reporter, "terminalreporter")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.failed = exitstatus != pytest.ExitCode.OK

    def pytest_unconfigure(self) -> None:
        if self.failed:
            self.text.show()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--with-mpi"):
        # Ranks that make their temporary directories in one place race for the names.
        root = tempfile.mkdtemp(prefix="mpifarm-rank-")
        os.environ["PYTEST_DEBUG_TEMPROOT"] = root
        config.add_cleanup(lambda: shutil.rmtree(root, ignore_errors=True))
    if config.getoption("--with-mpi") and _rank() != 0:
        config.pluginmanager.register(QuietRank(config))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    inside = config.getoption("--with-mpi")
    here = [item for item in items if HERE in item.path.parents]
    other = [item for item in here if not _is_for(item, inside, _is_mpich())]
    config.hook.pytest_deselected(items=other)
    items[:] = [item for item in items if item not in other]
    # pytest-mpi has taken the name of this folder for its marker, and skips all in it
    for item in set(here) - set(other):
        item.own_markers[:] = [m for m in item.own_markers if not _is_its_skip(m)]


def _is_for(item: pytest.Item, inside: bool, is_mpich: bool) -> bool:
    """Whether the test belongs inside ranks or outside, and to this MPI library."""
    is_inside = item.get_closest_marker("mpi") is not None
    is_of_one = item.get_closest_marker("one_mpi") is not None
    return is_inside == inside and (is_mpich or not is_of_one)


def _is_mpich() -> bool:
    launcher = find_launcher()
    return launcher is not None and launcher.mpi == "MPICH"


def _is_its_skip(mark: pytest.Mark) -> bool:
    return mark.name == "skip" and "--with-mpi" in str(mark.kwargs.get("reason"))


@pytest.fixture
def ulfm(mpirun: Mpirun) -> Mpirun:
    """An mpirun that tells its ranks of those that die."""

    def launch(ranks: int, *args: str) -> Launch:
        argv, env = mpirun(ranks, *args)
        if not os.path.exists(os.path.join(os.path.dirname(argv[0]), "prterun")):
            pytest.skip("only Open MPI 5 tells of ranks that die")
        return Launch([argv[0], "--with-ft", "ulfm", *argv[1:]], env)

    return launch
