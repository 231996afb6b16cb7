"""The README and the pages of the reference taken at their word.

Rules of this file: what is tested is read from the pages, never repeated here; a
command of the README that no test knows is a failure. A command runs as it stands, in
bash, in a directory that holds the README's own tasklist; `python`, `mpirun` and
`mpifarm` are those of the running environment. Without a Slurm, `srun` is a script that
starts the same command under that `mpirun`, one rank for each node.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

from mpifarm.errors import ExitStatus
from mpifarm.farm.summary import MEANINGS
from mpifarm.model.settings import Policy, Settings, TaskLimits
from tests.pages import Block, read_page, take_block, take_blocks
from tests.process.stand_ins import SRUN
from tests.required import need_launcher
from tests.site import options
from tests.support import ROOT, Child, clean_environment, find_launcher

README = read_page("README.md")
BLOCKS = take_blocks("README.md")
OPTIONS = read_page("options.md")
EXIT_STATUS = read_page("exit-status.md")
ENVIRONMENT = read_page("environment.md")
FILES = read_page("files.md")
PROTOCOL = read_page("protocol.md")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

DEFAULT_WORKERS = 8


# ---- reading Markdown ---------------------------------------------------------------


def _is_ini(block: Block) -> bool:
    return block.lines[0].startswith("[")


def _is_tasklist(block: Block) -> bool:
    return "has one command a line" in " ".join(block.before.split())


def _commands() -> list[str]:
    """Each line of the README's blocks that is typed into a shell."""
    return [
        line
        for block in BLOCKS
        if not (_is_ini(block) or _is_tasklist(block))
        for line in block.lines
        if line.strip()
    ]


def _only(blocks: Iterable[Block], what: str) -> Block:
    found = list(blocks)
    assert len(found) == 1, f"{len(found)} blocks of the README are {what}"
    return found[0]


def _tasklist() -> Block:
    return _only(filter(_is_tasklist, BLOCKS), "a tasklist")


def _ini_file() -> str:
    """Its sections are blocks of their own."""
    return "".join(block.text() for block in filter(_is_ini, BLOCKS))


def _tables(text: str) -> Iterator[list[list[str]]]:
    """The cells of each table, its head the first row."""
    rows = list[list[str]]()
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip()[1:-1])
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif rows:
            yield [rows[0], *rows[2:]]
            rows = []


def _table(text: str, head: str) -> list[list[str]]:
    """The rows of the one table whose first column is headed so."""
    found = [table[1:] for table in _tables(text) if table[0][0] == head]
    assert len(found) == 1, f"{len(found)} tables with the head {head!r}"
    return found[0]


def _code(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


# ---- the scratch directory ----------------------------------------------------------

APPTAINER = """\
#!/bin/bash
# apptainer where there is none: runs the command on this machine
while [[ $1 != *.sif ]]; do shift; done
echo "$1" >> images
exec "${@:2}"
"""

CONVERT = """\
#!/bin/sh
echo "from $1" > "$2"
"""


class Desk(NamedTuple):
    """A directory with the README's tasklist and what its commands need."""

    directory: Path
    start: Callable[[str], Child]
    """Start a line in bash."""

    @property
    def workdir(self) -> Path:
        return self.directory / "tasks.txt_workdir"

    def run(self, line: str) -> int:
        return self.start(line).wait()

    def result(self):
        return json.loads((self.workdir / "result.json").read_text())


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _write_programs(directory: Path) -> str:
    """The PATH on which the commands are found."""
    programs, installed = directory / "bin", Path(sys.prefix, "bin")
    programs.mkdir()
    if not (installed / "mpifarm").exists():
        _write_program(programs / "mpifarm", '#!/bin/sh\nexec python -m mpifarm "$@"\n')
    if not _has_slurm(nodes=8):
        _write_program(programs / "srun", SRUN)
    _write_program(programs / "apptainer", APPTAINER)
    _write_program(programs / "convert", CONVERT)
    return f"{programs}:{installed}:/usr/local/bin:/usr/bin:/bin"


def _has_slurm(nodes: int) -> bool:
    """Whether a Slurm answers, with so many idle nodes, for an MPI that knows pmi2."""
    launcher = find_launcher()
    if shutil.which("srun") is None or launcher is None or launcher.mpi != "MPICH":
        return False
    sinfo = ["sinfo", "--noheader", "--states=idle", "--format=%D"]
    try:
        answer = subprocess.run(
            sinfo, capture_output=True, text=True, timeout=30, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return sum(int(word) for word in answer.stdout.split()) >= nodes


@pytest.fixture
def desk(tmp_path, farm_environment, farm_processes):
    directory = tmp_path / "a desk"
    directory.mkdir()
    (directory / "tasks.txt").write_text(_tasklist().text())
    launcher = find_launcher()
    env = farm_environment | dict(launcher.variables if launcher else {})
    env["PATH"] = _write_programs(directory)
    if "SLURM_CONF" in os.environ:
        env |= {"SLURM_CONF": os.environ["SLURM_CONF"], "SLURM_MPI_TYPE": "pmi2"}

    def start(line):
        return farm_processes(["/bin/bash", "-c", line], env=env, cwd=directory)

    return Desk(directory, start)


# ---- the commands -------------------------------------------------------------------


def check_make_target(command, desk):
    words = shlex.split(command, comments=True)
    targets = (ROOT / "Makefile").read_text()
    for target in words[1:]:
        assert re.search(rf"^{re.escape(target)}:.* ## ", targets, re.MULTILINE), target


def check_requirement(command, desk):
    program, verb, *requirements = shlex.split(command, comments=True)
    assert (program, verb) == ("pip", "install")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in requirements:
        name, _, extra = requirement.rstrip("]").partition("[")
        assert name in (project["name"], ".")
        assert not extra or extra in extras
    for alternative in re.findall(r"\[(\w+)\]", command):
        assert alternative in extras


def check_submission(command, desk):
    """The jobs themselves are run by the tests on a real Slurm."""
    script = next(word for word in command.split() if word.startswith("jobs/"))
    subprocess.run(["/bin/bash", "-n", ROOT / script], check=True)


def check_submit(command, desk):
    """The script is shown; tests on a real Slurm submit it."""
    shown = desk.start(command.replace(" submit ", " submit --print ", 1))
    assert shown.wait() == 0, shown.text()
    assert shown.text().startswith("#!/bin/bash\n")


def check_configured_farm(command, desk):
    (desk.directory / "mine.ini").write_text(_ini_file())
    (desk.directory / "reco.sif").touch()
    (desk.directory / "files.txt").write_text("a photo.jpg\nb.tiff\n")
    farm = desk.start(command)
    assert farm.wait() == 0, farm.text()
    assert (desk.directory / "a photo.png").read_text() == "from a photo.jpg\n"
    assert (desk.directory / "b.png").read_text() == "from b.tiff\n"
    assert (desk.directory / "images").read_text() == "reco.sif\n" * 2


def check_farm(command, desk):
    words = shlex.split(command, comments=True)
    if "--config" in words:
        check_configured_farm(command, desk)
        return
    if words[0] != "mpifarm":
        need_launcher()
    if words[1] == "submit":
        check_submit(command, desk)
        return
    if words[1] in ("retry", "log"):
        return  # in their order, below
    farm = desk.start(command)
    assert farm.wait() == ExitStatus.SOME_FAILED, farm.text()
    result, ranks = desk.result(), _ranks_of(words)
    assert result["exit_status"] == ExitStatus.SOME_FAILED
    assert result["this_farm"]["ranks"] == ranks
    assert result["this_farm"]["workers"] == ranks * DEFAULT_WORKERS
    _check_outputs(desk)


def _ranks_of(words: list[str]) -> int:
    """What -n of mpirun or -N of srun says."""
    if "--" in words:  # of mpifarm supervise
        words = words[words.index("--") + 1 :]
    if words[0] == "mpifarm":
        return 1
    return int(words[words.index("-n" if words[0] == "mpirun" else "-N") + 1])


FAILS_ONCE = 7
"""The task of the README's tasklist that does."""


def _check_outputs(desk: Desk) -> None:
    """What the README's tasklist leaves when a shell runs it."""
    assert (desk.workdir / "failed").read_text().startswith(f"{FAILS_ONCE} ")
    logs = desk.workdir / "logs"
    said = [(logs / f"log_{taskid}").read_text() for taskid in range(FAILS_ONCE + 1)]
    assert said[0] == "pi is about 3.14159\n"
    assert said[3] == "2262 primes.txt\n"
    assert said[5].startswith("task 5: worker ")
    assert said[6:] == ["nobody waited for me\n", "I fail once\n"]
    primes = (desk.directory / "primes.txt").read_text().split()
    assert (primes[0], primes[-1]) == ("2", "19997")


CHECKS = {
    "make": check_make_target,
    "pip": check_requirement,
    "mpifarm": check_farm,
    "mpirun": check_farm,
    "sbatch": check_submission,
    "srun": check_farm,
}


@pytest.mark.parametrize("command", _commands())
def test_a_command_of_the_readme_does_what_it_says(command, desk):
    program = command.split()[0]
    assert program in CHECKS, f"no test knows what to do with {command!r}"
    CHECKS[program](command, desk)


def test_what_failed_of_the_first_list_runs_again_as_the_readme_says(desk):
    again = take_block("README.md", "mpifarm retry")
    assert "ends with status 1" in " ".join(again.before.split())
    assert desk.run("mpifarm tasks.txt") == ExitStatus.SOME_FAILED
    retry, farm, log = again.lines
    for line in (retry, farm):
        assert desk.run(line) == 0, line
    assert desk.result()["tasks"]["finished"] == FAILS_ONCE + 1
    told = desk.start(log)
    assert told.wait() == 0
    for words in ("pi is about 3.14159", "nobody waited for me", "but not twice"):
        assert words in told.text()


def test_the_first_list_is_the_one_in_the_repository():
    assert _tasklist().text() == (ROOT / "jobs" / "tasks.txt").read_text()


def test_the_first_screen_has_the_commands_for_a_fresh_machine():
    screen = README.splitlines()[:30]
    for command in ("make demo", "make test"):
        assert any(line.strip().startswith(command) for line in screen)


def test_each_link_to_a_file_of_the_project_leads_there():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)", document.read_text()):
            assert link.startswith("https://") or (document.parent / link).exists()


# ---- the options --------------------------------------------------------------------


class Option(NamedTuple):
    """As help and README write it: ``--proc N``, ``-n N``; ``[N]`` may be left out."""

    names: frozenset[str]
    value: str

    def is_documented_as(self, other: "Option") -> bool:
        """Whether a table may write it so: it need not tell what may be left out."""
        allowed = {self.value}
        if self.value.startswith("["):
            allowed |= {self.value.strip("[]"), ""}
        return self.names == other.names and other.value in allowed


def _option(words: list[str]) -> Option:
    names, values = zip(*(word.partition(" ")[::2] for word in words), strict=True)
    assert len(set(values)) == 1, words
    return Option(frozenset(names), values[0])


@pytest.fixture(scope="module")
def help_text():
    env = clean_environment(os.environ) | {"COLUMNS": "100"}
    argv = [sys.executable, "-m", "mpifarm", "--help-all"]
    ended = subprocess.run(
        argv, env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""
    return ended.stdout


def _help_options(text: str) -> list[Option]:
    section = text.partition("\noptions:\n")[2].partition("\nexit status:")[0]
    lines = re.findall(r"^  (-.*?)(?:  .*)?$", section, re.MULTILINE)
    return [_option(line.split(", ")) for line in lines]


def test_the_page_of_options_is_that_of_the_table_and_has_those_of_the_help(help_text):
    assert options.page() == OPTIONS, "run: make options"
    of_help = _help_options(help_text)
    documented = _documented_options(OPTIONS)
    for option in of_help:
        assert any(option.is_documented_as(other) for other in documented), option
    assert len(documented) == len(of_help)


def test_other_pages_name_options_as_the_help_does(help_text):
    of_help = _help_options(help_text)
    for document in DOCUMENTS:
        for other in _documented_options(document.read_text()):
            assert any(option.is_documented_as(other) for option in of_help), other


def _documented_options(text: str) -> list[Option]:
    return [_option(_code(row[0])) for row in _option_rows(text)]


def _option_rows(text: str) -> list[list[str]]:
    """The rows of all tables of options of the command line."""
    return [
        row
        for table in _tables(text)
        # the options of runners and of subcommands stand in tables of their own
        if table[0][0] == "option" and _code(table[1][0])[0].startswith("-")
        for row in table[1:]
    ]


FIELDS = {"--proc": "workers"}
"""The setting that an option sets, where it has another name."""


def test_the_documented_defaults_are_those_of_the_settings():
    settings = {
        field.name: field.default
        for of_settings in (Settings, TaskLimits, Policy)
        for field in fields(of_settings)
        if field.default is not MISSING
    }
    for option, _, default in _option_rows(OPTIONS):
        name = _code(option)[0].split()[0]
        words = name[2:].replace("-", "_")
        value = settings.get(FIELDS.get(name, words), MISSING)
        if isinstance(value, bool):
            assert default.partition(":")[0] == ("on" if value else "off")
        elif isinstance(value, int | float):
            assert float(default.partition(",")[0]) == value
        elif isinstance(value, str):
            assert default.startswith((f"`{value}`", value)), name
        elif name == "--timeout":
            assert (value, default) == (None, "0, never")


def test_the_default_workdir_is_as_the_page_says(desk):
    default = next(row[2] for row in _option_rows(OPTIONS) if "-w DIR" in row[0])
    name = _code(default)[0].replace("<tasklist>", "tasks.txt")
    assert desk.run("mpifarm tasks.txt") == ExitStatus.SOME_FAILED
    assert (desk.directory / name / "result.json").exists()


# ---- the exit statuses --------------------------------------------------------------


def test_the_table_of_exit_statuses_has_all_of_them_in_the_farms_own_words():
    rows = {int(status): meaning for status, meaning in _table(EXIT_STATUS, "status")}
    assert rows.keys() == set(ExitStatus) == MEANINGS.keys()
    for status, meaning in rows.items():
        assert meaning.startswith(MEANINGS[ExitStatus(status)]), status


def test_the_help_has_the_exit_statuses_in_the_farms_own_words(help_text):
    section = help_text.partition("exit status:\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^  (\d+) +(.*(?:\n {4,}.*)*)", section, re.MULTILINE)
    said = {int(status): " ".join(meaning.split()) for status, meaning in rows}
    assert said.keys() == set(ExitStatus)
    for status, meaning in said.items():
        assert meaning.startswith(MEANINGS[ExitStatus(status)]), status


# ---- the files ----------------------------------------------------------------------


def _patterns(text: str, head: str) -> list[str]:
    """The files of a table, ``<id>`` and the like as ``*``."""
    return [
        re.sub(r"<\w+>", "*", name)
        for row in _table(text, head)
        for name in _code(row[0])
    ]


def _left_behind(workdir: Path) -> list[str]:
    return [
        str(path.relative_to(workdir))
        for path in workdir.rglob("*")
        if not path.is_dir()
    ]


@pytest.fixture
def ended(desk):
    """A workdir whose farm has ended: one task finished, one failed."""
    lines = ["echo out; echo err >&2", "exit 3"]
    (desk.directory / "tasks.txt").write_text("\n".join(lines) + "\n")
    assert desk.run("mpifarm tasks.txt") == ExitStatus.SOME_FAILED
    return desk.workdir


def test_a_farm_leaves_each_file_of_the_page(ended):
    left = _left_behind(ended)
    for pattern in _patterns(FILES, "file"):
        assert [name for name in left if fnmatchcase(name, pattern)], pattern


def test_a_farm_leaves_nothing_that_the_protocol_does_not_name(ended):
    patterns = _patterns(PROTOCOL, "path in the workdir")
    for name in _left_behind(ended):
        assert [p for p in patterns if fnmatchcase(name, p)], name


def test_the_protocol_names_each_file_of_the_page():
    protocol = _patterns(PROTOCOL, "path in the workdir")
    assert set(_patterns(FILES, "file")) <= set(protocol)


def test_the_files_hold_what_the_page_says(ended):
    assert (ended / "finished").read_text() == "0 echo out; echo err >&2\n"
    assert (ended / "failed").read_text() == "1 exit 3\n"
    assert (ended / "toprocess").read_text() == ""
    assert (ended / "logs" / "log_0").read_text() == "out\nerr\n"
    head, *attempts = (ended / "attempts.tsv").read_text().splitlines()
    held = next(r[1] for r in _table(FILES, "file") if "attempts" in r[0])
    for word in held.partition(": ")[2].split(", "):
        assert word in head, word
    assert len(attempts) == 2
    assert json.loads((ended / "timeline.json").read_text())
    result = json.loads((ended / "result.json").read_text())
    assert result["exit_status"] == ExitStatus.SOME_FAILED


# ---- what a command gets ------------------------------------------------------------


def test_a_command_has_the_variables_that_the_page_names(desk):
    after = ENVIRONMENT.partition("## The environment of a command")[2]
    section = after.partition("\n## ")[0]
    named = re.findall(r"`([A-Z][A-Z_]+)`", section)
    assert named
    line = " && ".join(f"echo ${{{name}?}}" for name in named)
    (desk.directory / "tasks.txt").write_text(f"true\n{line}\n")
    farm = desk.start("mpifarm tasks.txt")
    assert farm.wait() == 0, farm.text()
    values = (desk.workdir / "logs" / "log_1").read_text().splitlines()
    got = dict(zip(named, values, strict=True))
    assert got["PROC_NUMBER"] == got["MPIFARM_TASK_ID"] == "1"
    assert got["MPIFARM_ATTEMPT"] == "1"
    assert got["MPIFARM_RANK"] == "0"
    assert Path(got["MPIFARM_WORKDIR"]) == desk.workdir
