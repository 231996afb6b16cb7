"""What the pages for developers measure with, as they have it, in small amounts.

Rules of this file: a line is that of its page, with options of SMALL behind it; only
the rows of a table that are the same on each machine are compared.
"""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.bench import big_lists, contenders, ledger
from tests.pages import Block, read_page, take_block, take_blocks
from tests.required import need_launcher
from tests.support import ROOT, find_launcher, wait_until

SMALL = {
    "tests.bench.bench": "--only limit --rounds 1 --tasks 40 --starts 1",
    "tests.bench.big_lists": "--tasks 1000 --rounds 0 --stop 0.2",
    "tests.bench.ledger": "--only frames",
    "tests.bench.ledger --page": "--seconds 0.5 --only '`true`, 1' frames",
    "tests.bench.report": "",
    "tests.bench.startup": "",
    "tests.bench.list_kinds": "--tasks 200 --lines 200 --rounds 1",
    "tests.bench.looking": "--tasks 100 --rounds 1 --only ls why",
    "tests.fault.crowd": "--runs 0",
    "tests.fault.database_crowd": "--runs 0",
    "tests.fault.harness": "--runs 0",
    "tests.simulation": "--ranks 4 --seconds 2 --rounds 2 --tasks 40000",
    "tests.simulation --granularity": "--ranks 4 --tasks 400",
    "tests.simulation.measure": "--list 2000",
    "tests.simulation.time_left": "--kinds equal",
}
"""What makes it short, by the module and by what else is on its line."""

CLONE, *_ = take_block("CONTRIBUTING.md", "git clone").lines

BLOCKS = [
    take_block("CONTRIBUTING.md", "git clone"),
    take_block("CONTRIBUTING.md", ".venvs/mpich/bin/python -m tests.fault"),
    take_block("CONTRIBUTING.md", "make bench"),
    take_block("large-jobs.md", ".venvs/mpich/bin/python"),
    *take_blocks("performance.md"),
    *take_blocks("scale.md"),
]


def lines_of(blocks: list[Block]) -> list[str]:
    """The lines of blocks without comments, each once; one that goes on is one."""
    text = "".join(block.text() for block in blocks).replace("\\\n", "")
    return [*dict.fromkeys(re.sub(r" +#.*", "", line) for line in text.splitlines())]


def small(line: str) -> str:
    """Return the line with the options that make it short."""
    module, _, words = line.partition(" -m ")[2].partition(" ")
    special = f"{module} {words.partition(' ')[0]}"
    return f"{line} {SMALL.get(special) or SMALL[module]}"


@pytest.fixture
def type_line(tmp_path, farm_environment, farm_processes):
    """Type a line where a checkout's Python and page are; what it has printed."""
    python = tmp_path / ".venvs" / "mpich" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "build").mkdir()
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "performance.md", tmp_path / "docs")
    launcher = find_launcher()
    env = farm_environment | dict(launcher.variables if launcher else {})
    env = {name: env[name] for name in env if not name.startswith(("MAKE", "MFLAGS"))}
    installed = Path(sys.prefix, "bin")
    env |= {"PYTHONPATH": str(ROOT), "PATH": f"{installed}:{os.environ['PATH']}"}

    def type_line(line: str) -> str:
        argv = ["/bin/bash", "-c", line]
        child = farm_processes(argv, env=env, cwd=tmp_path)
        assert child.wait(60) == 0, child.text()
        text: str = child.text()
        return text

    return type_line


def recipe(type_line, target: str) -> list[str]:
    """The commands of a target of the Makefile that measure, in small amounts."""
    of_bench = shlex.quote(f"BENCH={SMALL['tests.bench.bench']}")
    shown = type_line(f"make -C {shlex.quote(str(ROOT))} -n {target} {of_bench}")
    lines = [line for line in shown.splitlines() if " -m tests." in line]
    return [line if ".bench.bench" in line else small(line) for line in lines]


@pytest.mark.parametrize(
    "line",
    [line for line in lines_of(BLOCKS) if not re.match("git|make|.*time_left", line)],
)
def test_a_line_that_measures_prints_what_it_has_measured(type_line, line):
    if line.startswith("mpiexec"):
        need_launcher()
    if "tests.bench.startup" in line and shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    *_, last = type_line(small(line)).splitlines()
    assert re.search(r"\d", last), last
    assert "nan" not in last


@pytest.mark.parametrize(
    "line", [line for line in lines_of(BLOCKS) if line.startswith("make")]
)
def test_each_target_of_the_pages_for_developers_is_one_that_help_lists(
    type_line, line
):
    _, target = line.split()
    at = f"-C {shlex.quote(str(ROOT))}"
    assert f"  make {target} " in type_line(f"make {at} help")
    assert type_line(f"make {at} -n {target}")


def test_a_checkout_has_the_makefile(type_line, tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "mpifarm").symlink_to(ROOT)
    trusted = (
        "GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'"
    )
    clone = CLONE.replace("<this repository>", "from/mpifarm")
    assert "Makefile" in type_line(f"export {trusted}; {clone} && ls")


def heads(text: str) -> list[str]:
    """The heads of the tables, without their widths."""
    lines = [re.sub(" +", " ", line) for line in text.splitlines()]
    rules = [at for at, line in enumerate(lines) if line.startswith("|--")]
    return [lines[at - 1] for at in rules]


def test_make_bench_full_writes_the_page(type_line, tmp_path):
    first, *others = recipe(type_line, "bench-full")
    (short,) = recipe(type_line, "bench")
    assert short == first.replace(" --full --out build/bench-full.json", "")
    shown = {*heads(read_page("performance.md"))}
    printed = {*heads(type_line(first))}
    assert printed
    assert printed <= shown
    for line in others:
        type_line(line)
    page = tmp_path / "docs" / "performance.md"
    assert page.read_text() != read_page("performance.md")
    assert {*heads(page.read_text())} <= shown
    assert page.with_suffix(".svg").exists()


def rows(text: str) -> list[str]:
    """The rows of tables, as they are printed and as they stand on a page."""
    lines = re.findall(r"^\|.*\|$", text, re.MULTILINE)
    return [line.replace(" %", "%").replace("**", "") for line in lines]


@pytest.mark.parametrize(
    "block", take_blocks("time-left.md", ".venvs/mpich/bin/python")
)
def test_how_often_the_time_left_comes_true_is_what_the_page_says(type_line, block):
    (line,) = block.lines
    on_the_page = rows(read_page("time-left.md"))
    head, _, *printed = rows(type_line(small(line)))
    assert head in on_the_page
    assert printed
    if line.endswith("--farm"):  # rank 0's own time is real
        printed = [row[: row.index("|", 2)] for row in printed]
        on_the_page = [row[: row.index("|", 2)] for row in on_the_page]
    for row in printed:
        assert row in on_the_page or row.startswith("| all ")


def test_a_farm_that_is_to_be_killed_may_have_ended(tmp_path):
    yard = big_lists.Yard(tmp_path, 1, "true")
    started = yard.start()
    os.waitid(os.P_PID, started.child.pid, os.WEXITED | os.WNOWAIT)
    assert yard.end(started, kill_after=0).status == 0


def test_a_farm_that_is_done_has_no_costs_in_the_ledger(tmp_path, monkeypatch):
    """Its processes are gone at the second look, and all costs would be 0."""
    folder = tmp_path / "farm"
    finished = folder / "workdir" / "finished"

    def wait_for_the_end(_seconds):
        wait_until(lambda: finished.read_bytes().count(b"\n") == 1500)

    monkeypatch.setattr(ledger, "LINES", 1500)
    monkeypatch.setattr(ledger, "time", SimpleNamespace(sleep=wait_for_the_end))
    farm = contenders.mpifarm("", 1, 8)
    with pytest.raises(SystemExit, match="did all 1500 lines"):
        ledger.microseconds_by_kind(farm, folder, 1.0)


def test_a_farm_is_watched_until_it_has_recorded_something(tmp_path, monkeypatch):
    """However short the time to watch is, and however long the machine stalls."""
    monkeypatch.setattr(ledger, "LINES", 100_000)
    monkeypatch.setattr(ledger, "time", SimpleNamespace(sleep=lambda _seconds: None))
    farm = contenders.mpifarm("", 1, 8)
    costs = ledger.microseconds_by_kind(farm, tmp_path / "farm", 0.0)
    assert [*costs] == [*ledger.KINDS]
