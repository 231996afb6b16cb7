"""Handlers in whole farms: INI files, the template handler, classes of the user's.

Rules of this file: each farm has a home of its own.  What is said of PyTaskFarmer's
classes is said with the real package.
"""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mpifarm.plugins.registry import SearchPath, find_runner
from mpifarm.templates import NUMBER, REPLACEMENTS, parse_template
from tests.farm_driver import FarmDriver
from tests.pages import read_page, take_block
from tests.support import ROOT, Child, snapshot, wait_until
from tests.workdir_files import parse_ids

EXAMPLES = ROOT / "docs" / "examples"

PLACES = {
    "config": "conf.ini",
    "here": "here/local.ini",
    "own": "home/.config/mpifarm/own.ini",
    "plain": "home/.pytaskfarmer/tasklists.d/plain.ini",
}
"""Where an INI file may be, in their order, from the test's directory."""


@pytest.fixture
def create_farm(create_place, tmp_path):
    """A tasklist with an empty home; the lines, and INI files by their paths."""

    def create(lines, **ini: str) -> FarmDriver:
        place: FarmDriver = create_place(lines)
        (tmp_path / "home").mkdir()
        place.environment["HOME"] = str(tmp_path / "home")
        place.environment.pop("XDG_CONFIG_HOME", None)
        for name, content in ini.items():
            write_ini(place, name, content)
        return place

    return create


def write_ini(place: FarmDriver, name: str, content: str) -> Path:
    path = place.directory.parent / PLACES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def template(command: str, name: str = "mine") -> str:
    handler = "mpifarm.templates.TemplateTaskList"
    return f"[{name}]\nTaskList = {handler}\ncommand = {command}\n"


def finish(farm: Child, status: int = 0) -> str:
    """What a farm says that ends with that status."""
    assert farm.wait() == status, farm.text()
    return farm.text()


def complaint(place: FarmDriver, *options: str) -> str:
    """The one sentence with which a farm refuses, that has touched nothing."""
    before = snapshot(place.directory)
    said = finish(place.start(*options), 2)
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    assert snapshot(place.directory) == before
    return said


# ---- INI files -----------------------------------------------------------------------


@pytest.mark.parametrize("name", PLACES)
def test_a_handler_is_found_in_each_place(create_farm, name):
    place = create_farm(["a b"], **{name: template("echo {} >> ran")})
    config = ["--config", "../conf.ini"] if name == "config" else []
    finish(place.start("-t", "mine", *config))
    assert place.notes("ran") == ["a b"]
    assert place.ids("finished") == [0]


def test_the_first_place_has_precedence(create_farm):
    place = create_farm(["x"])
    paths = [
        write_ini(place, name, template(f"echo {name} >> ran", "default"))
        for name in PLACES
    ]
    for name, path in zip(PLACES, paths, strict=True):
        config = ["--config", str(path)] if name == "config" else []
        finish(place.start("--workdir", f"workdir.{name}", *config))
        path.unlink()
    assert place.notes("ran") == [f"{name} x" for name in PLACES]


def test_other_ini_files_are_nobodys_concern(create_farm):
    place = create_farm(["echo ran >> ran"])
    write_ini(place, "here", "no section = 1\n")
    write_ini(place, "own", "[x]\nTaskList = no.such.Class\n[y]\nk = %\n")
    finish(place.start())
    assert place.notes("ran") == ["ran"]


EVIL = """\
open("ran", "a").write("evil\\n")
from mpifarm.runners import BasicRunner as Evil
"""


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    "options", ["", "runner = e\nconfig = o.ini\n"], ids=["user", "default"]
)
def test_a_class_of_a_file_that_everyone_may_write_is_not_imported(
    create_farm, words, options
):
    place = create_farm(["true"])
    (place.directory / "evil.py").write_text(EVIL)
    place.environment["PYTHONPATH"] = f"{place.directory}:{ROOT}"
    if options:
        (place.directory / "mpifarm.ini").write_text(f"[options]\n{options}")
        path = place.directory / "o.ini"
        path.write_text("[e]\nRunner = evil.Evil\n")
        name, named = "e", f"--config {path}"
    else:
        path = write_ini(place, "own", "[default]\nRunner = evil.Evil\n")
        name, named = "default", str(path)
    path.chmod(0o666)
    said = complaint(place, *words)
    assert (
        f"the runner '{name}' of {named} is not used: everyone may write {path}, and it"
        f" would run as you: chmod go-w {path}"
    ) in said
    assert ("(--config is set in " in said) == bool(options)
    assert place.notes("ran") == []
    path.chmod(0o644)
    finish(place.start(*words))
    assert "evil" in place.notes("ran")


def test_of_a_typed_file_that_everyone_may_write_a_warning_tells(create_farm):
    place = create_farm(["a b"], config=template("echo {} >> ran"))
    path = place.directory.parent / PLACES["config"]
    path.chmod(0o666)
    said = finish(place.start("-t", "mine", "--config", str(path)))
    assert f"WARNING: {path} says what runs as you, and everyone may write" in said
    assert place.notes("ran") == ["a b"]
    plain = write_ini(place, "plain", template("echo plain >> ran", "other"))
    plain.chmod(0o666)
    said = finish(place.start("-t", "other", "--dry-run"))
    assert f"WARNING: {plain} says what runs as you, and everyone may write" in said


def test_without_ini_files_configparser_is_not_even_imported(tmp_path):
    code = (
        "import sys\n"
        "from mpifarm.plugins.registry import find_handler, find_runner\n"
        "from mpifarm.plugins.registry import find_search_path\n"
        "places = find_search_path({'HOME': '.'}, None)\n"
        "print(find_runner('default', places), find_handler('default', places))\n"
        "sys.exit('configparser' in sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)


# ---- the template handler ------------------------------------------------------------

ODD_NAMES = ["plain.txt", "with blank.tar.gz", 'it\'s "quoted".x', "$HOME.`id`", "-v.x"]


def test_files_of_any_name_go_through_a_template(create_farm):
    names = [*map(str.encode, ODD_NAMES), b"caf\xe9.\xff"]
    command = (
        'cat "in/{}" > out/{#}-{.} && cp -- out/{#}-{.} "$MPIFARM_WORKDIR/{/.}" &&'
        " echo '{#}: {}'"
    )
    place = create_farm(names, own=template(command))
    directory = os.fsencode(place.directory)
    for part in (b"in", b"out"):
        os.mkdir(directory + b"/" + part)
    for name in names:
        with open(directory + b"/in/" + name, "wb") as file:
            file.write(b"of " + name)
    finish(place.start("-t", "mine"))
    assert place.finished() == list(range(len(names)))
    for number, name in enumerate(names, start=1):
        stem = name.rpartition(b".")[0]
        with open(directory + b"/out/%d-" % number + stem, "rb") as file:
            assert file.read() == b"of " + name
        assert os.path.exists(os.fsencode(place.workdir) + b"/" + stem)
        assert (
            place.content(f"logs/log_{number - 1}") == b"%d: " % number + name + b"\n"
        )


def test_a_template_that_is_a_plain_command_is_run_without_a_shell(create_farm):
    tell_parent = "import os; print(open(f'/proc/{os.getppid()}/comm').read().strip())"
    place = create_farm(["tell.py", "tell it.py"])
    for name in place.tasks:
        (place.directory / name).write_text(tell_parent)
    write_ini(place, "own", template(f"{sys.executable} {{}}"))
    finish(place.start("-t", "mine"))
    assert [place.log(0), place.log(1)] == [place.log(0)] * 2
    assert "bash" not in place.log(0)


@pytest.mark.parametrize(
    ("ini", "told"),
    [
        (template(""), "the option command is empty"),
        (template("echo don't {}"), "has an unclosed '"),
        (template("echo {}.%d"), "write %% for a percent sign"),
        (template("cat").replace("command", "comand"), "misses the option command"),
        (template("cat").replace("Template", "Tamplate"), "has no TamplateTaskList"),
        (template("cat", "mime"), "did you mean 'mime'?"),
        (template("cat").replace("TaskList =", "tasklist ="), "write TaskList instead"),
        ("TaskList = a.B\n" + template("cat"), "own.ini, line 1: "),
        (template("cat") + "nonsense\n", "own.ini, line 4: "),
    ],
)
def test_a_wrong_ini_file_is_one_sentence_and_nothing_is_touched(
    create_farm, ini, told
):
    place = create_farm(["a"], own=ini)
    said = complaint(place, "-t", "mine")
    assert told in said
    assert "'mine'" in said or "[mine]" in said


def test_a_broken_file_in_front_of_the_one_that_has_the_name_is_told(create_farm):
    place = create_farm(["a"], own=template("echo {}"))
    write_ini(place, "here", template("echo new {}") + "nonsense\n")
    said = complaint(place, "-t", "mine")
    assert "can't tell what the tasklist handler 'mine' is: local.ini, line 4: " in said


def test_a_config_file_that_is_not_there_is_told(create_farm):
    said = complaint(create_farm(["true"]), "--config", "no.ini")
    assert "no.ini: No such file" in said


# ---- classes of the user's -----------------------------------------------------------


def test_the_example_of_a_handler_works_as_it_stands(create_farm):
    place = create_farm(["echo a", "echo 'b  c'"])
    for name in ("seeds_handler.py", "seeds_handler.ini"):
        shutil.copy(EXAMPLES / name, place.directory)
    finish(place.start("-t", "seeds"))
    assert len(place.content("finished").splitlines()) == 6
    assert b"5 echo 'b  c' --seed 3\n" in place.content("finished")
    assert place.log(1) == "a --seed 2\n"
    assert place.log(3) == "b  c --seed 1\n"


def test_the_example_tells_what_is_wrong_with_its_option(create_farm):
    place = create_farm(["echo a"])
    shutil.copy(EXAMPLES / "seeds_handler.py", place.directory)
    ini = (EXAMPLES / "seeds_handler.ini").read_text().replace("= 3", "= many")
    write_ini(place, "here", ini)
    said = finish(place.start("-t", "seeds"), 2)
    assert "'seeds' in local.ini: count is 'many', which is no number" in said


BROKEN_HANDLERS = """
import sys

from mpifarm.tasklists import ListTaskList


class Raises(ListTaskList):
    def __init__(self, path, workdir):
        raise RuntimeError("no good today")


class Needs(ListTaskList):
    def __init__(self, path, workdir, depth):
        super().__init__(path, workdir)


class Lines(ListTaskList):
    def __init__(self, path, workdir):
        super().__init__(path, workdir)
        self.tasks = [text + "\\n" for text in self.tasks]


class Exits(ListTaskList):
    def __getitem__(self, taskid):
        sys.exit(0)
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Raises", "RuntimeError: no good today, raised in "),
        ("Needs", "misses the option depth: broken.Needs takes depth"),
        ("Lines", "made a text of task 0 that has a line break"),
        ("Exits", "can't make the command of task 0: SystemExit: 0, raised in "),
        ("Nobody", "has no Nobody"),
    ],
)
def test_what_is_wrong_with_a_users_class_is_one_sentence(create_farm, name, told):
    place = create_farm(["a"], here=f"[mine]\nTaskList = broken.{name}\n")
    (place.directory / "broken.py").write_text(BROKEN_HANDLERS)
    place.environment["PYTHONDONTWRITEBYTECODE"] = "1"
    said = complaint(place, "-t", "mine")
    assert told in said
    assert "'mine' in local.ini" in said


# ---- the real PyTaskFarmer -----------------------------------------------------------


@pytest.fixture
def with_taskfarmer(plain_farmer):
    """Give a place PyTaskFarmer's package, of one version after the other."""
    [package] = Path(plain_farmer[0]).parent.parent.glob("lib/python*/site-packages")

    def give(place: FarmDriver) -> None:
        known = place.environment.get("PYTHONPATH")
        parts = [str(place.directory), *([known] if known else []), str(package)]
        place.environment["PYTHONPATH"] = os.pathsep.join(parts)

    return give


OWN_SUBCLASS = """
from taskfarmer import task


class Loud(task.ListTaskList):
    def __init__(self, path, workdir, prefix):
        super().__init__(path, workdir)
        self.prefix = prefix

    def __getitem__(self, taskid):
        return f"{self.prefix} {self.tasks[taskid]}"
"""


def test_a_subclass_of_pytaskfarmers_list_runs_unchanged(create_farm, with_taskfarmer):
    place = create_farm(
        [f"task {n}" for n in range(20)],
        plain="[loud]\nTaskList = loud.Loud\nprefix = echo the:\n",
    )
    with_taskfarmer(place)
    (place.directory / "loud.py").write_text(OWN_SUBCLASS)
    finish(place.start("-t", "loud"))
    assert place.finished() == list(range(20))
    assert place.log(7) == "the: task 7\n"


TRANSFORM = """\
#!/bin/bash
# A stand-in for an ATLAS transform: needs its options, writes its output file.
while [ $# -gt 0 ]; do
  case $1 in
    --inputHITSFile) input=$2 ;;
    --outputRDOFile) output=$2 ;;
    --preExec) pre=$2 ;;
  esac
  shift
done
echo "$input ${MPIFARM_FARM:-plain}" >> began
while [ ! -e "go.$input" ] && [ ! -e go ]; do sleep 0.02; done
echo "$input: $pre" > "$output"
echo "$input" >> ran
"""

RSYNC = '#!/bin/sh\ncp "$2" "$3"\n'

DIGI = """
[digi]
TaskList = taskfarmer.atlas.TransformTaskList
transform = Reco_tf.py
input = HITS
output = RDO
preExec = all:x; y
"""

BASH_RUNNER = """
from subprocess import Popen

from taskfarmer import runners


class BashRunner(runners.BasicRunner):
    def run(self, taskid, command, logfh):
        self.execute = Popen(["bash", "-c", command], stdout=logfh, stderr=logfh)
        self.execute.communicate()
        return self.execute.returncode
"""


with_transforms = pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
"""PyTaskFarmer 0.0.1 has no such handler yet."""


@pytest.fixture
def create_transforms(create_farm, with_taskfarmer):
    """A list of input files for PyTaskFarmer's own handler of ATLAS transforms."""

    def create(count: int) -> FarmDriver:
        place: FarmDriver = create_farm(
            [f"{n}.HITS.root" for n in range(count)], plain=DIGI
        )
        with_taskfarmer(place)
        write_transform(place)
        runners = Path(place.environment["HOME"], ".pytaskfarmer", "runners.d")
        runners.mkdir()
        (runners / "bash.ini").write_text("[bash]\nRunner = bashes.BashRunner\n")
        (place.directory / "bashes.py").write_text(BASH_RUNNER)
        return place

    return create


def write_transform(place: FarmDriver) -> None:
    programs = place.directory / "bin"
    programs.mkdir()
    for name, script in {"Reco_tf.py": TRANSFORM, "rsync": RSYNC}.items():
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    place.environment["PATH"] = f"{programs}:{place.environment['PATH']}"


def outputs(place: FarmDriver) -> dict[str, str]:
    """What the transforms have put into the output directory of the workdir."""
    return {path.name: path.read_text() for path in place.workdir.glob("output/*")}


def assert_all_transformed(place: FarmDriver, count: int) -> None:
    assert outputs(place) == {
        f"RDO.{n}.root": f"{n}.HITS.root: all:x; y\n" for n in range(count)
    }
    assert sorted(parse_ids(place.content("finished"))) == list(range(count))
    assert place.content("failed") == b""


@with_transforms
def test_pytaskfarmers_transforms_run_and_go_on(create_transforms):
    place = create_transforms(12)
    for n in range(4):
        (place.directory / f"go.{n}.HITS.root").touch()
    farm = place.start("-t", "digi", "-n", "3")
    place.await_notes("began", 7)
    wait_until(lambda: place.content("finished").count(b"\n") == 4)
    farm.send_signal(signal.SIGUSR1)
    finish(farm, 75)
    assert len(place.notes("ran")) == 4
    place.allow()
    finish(place.start("-t", "digi", "-r", "bash"))
    assert_all_transformed(place, 12)
    assert Counter(place.notes("ran")) == {f"{n}.HITS.root": 1 for n in range(12)}


@with_transforms
def test_pytaskfarmer_joins_the_workdir_of_its_own_handler(
    create_transforms, plain_farmer
):
    place = create_transforms(40)
    plain = place.start_plain(plain_farmer, "-t", "digi", "-r", "bash", "-n", "2")
    place.await_notes("began", 2)
    farm = place.start("-t", "digi", "-n", "2")
    place.await_notes("began", 4)
    place.allow()
    finish(plain)
    assert farm.wait() in (0, 3), farm.text()
    finish(place.start("-t", "digi"))
    assert_all_transformed(place, 40)
    began = [line.split() for line in place.notes("began")]
    assert len(began) == len(place.notes("ran")) == 40
    assert {who == "plain" for _, who in began} == {True, False}


def test_the_same_need_is_a_few_lines_for_the_template_handler(create_farm):
    place = create_farm([f"{n}.HITS.root" for n in range(3)])
    write_transform(place)
    place.allow()
    shutil.copy(EXAMPLES / "transform.ini", place.directory)
    finish(place.start("-t", "digi"))
    assert outputs(place) == {
        f"RDO.{n}.root": (
            f"{n}.HITS.root: all:from ParticleBuilderOptions.AODFlags import AODFlags\n"
        )
        for n in range(3)
    }


@with_transforms
def test_a_missing_option_of_pytaskfarmers_class_is_told(create_transforms):
    place = create_transforms(1)
    write_ini(place, "plain", DIGI.replace("input = HITS", "inputs = HITS"))
    said = complaint(place, "-t", "digi")
    assert "misses the option input" in said


def test_without_pytaskfarmer_its_classes_are_told_with_the_remedy(create_farm):
    place = create_farm(["a"], plain=DIGI)
    said = complaint(place, "-t", "digi")
    assert "pip install PyTaskFarmer" in said
    assert "'digi' in " in said


# ---- INI files as PyTaskFarmer reads them --------------------------------------------

ODD_INI = """
# comment
[DEFAULT]
base = /sw
Shared=yes

[a]
Runner = probe.Probe
Key = v  # no comment
key : w
empty =
several = one
   two

   three
percent = 100%% of %(base)s/%(Key)s

[not one]
k = v
[b c]
    Runner = probe.Probe
    ; comment
    indented = "quoted"
base = /own
"""

PROBE = """
import json, sys
from taskfarmer import runners

class Probe:
    def __init__(self, **options):
        self.options = options

manager = runners.RunnerManager()
sys.modules["probe"] = sys.modules["__main__"]
manager.load(sys.argv[1])
found = {n: r.options for n, r in manager.runners.items() if n != "default"}
print(json.dumps(found))
"""


def test_options_are_those_that_pytaskfarmer_reads(plain_farmer, tmp_path):
    path = tmp_path / "odd.ini"
    path.write_text(ODD_INI)
    said = subprocess.run(
        [plain_farmer[0], "-c", PROBE, str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    theirs = json.loads(said.stdout)
    places = SearchPath(str(tmp_path), str(tmp_path), config=str(path))
    assert theirs == {name: find_runner(name, places).options for name in ("a", "b c")}
    assert theirs["a"]["percent"] == "100% of /sw/v  # no comment"


# ---- the page about handlers ---------------------------------------------------------

PAGE = read_page("handlers.md")


def page_tables() -> list[list[str]]:
    """The cells of all rows of tables, without their code marks."""
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.split("|")[1:-1]] for row in rows]


def test_the_pages_table_of_replacement_strings_is_right():
    [head] = [row for row in page_tables() if row[1:2] == ["stands for"]]
    rows = [row for row in page_tables() if row[0].startswith("{")]
    assert [name for name, *_ in rows] == [*REPLACEMENTS, NUMBER]
    for name, _, *cells in rows:
        made = [
            parse_template(f"'{name}'").render(value, number).strip("'")
            for number, value in enumerate(head[2:], start=1)
        ]
        assert made == cells


def test_the_pages_examples_are_those_of_the_files():
    section = take_block("handlers.md", "[digi]").text()
    assert section in (EXAMPLES / "transform.ini").read_text()
    section = take_block("handlers.md", "[seeds]").text()
    assert section in (EXAMPLES / "seeds_handler.ini").read_text()
    code = take_block(
        "handlers.md", "from mpifarm.tasklists import ListTaskList"
    ).text()
    assert code_of(code) == code_of((EXAMPLES / "seeds_handler.py").read_text())
    code = take_block("handlers.md", "from mpifarm.tasklists import Constraints").text()
    assert code_of(code) == code_of((EXAMPLES / "plots_handler.py").read_text())


def code_of(source: str) -> str:
    """The code without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                del node.body[0]
    return ast.unparse(tree)


def test_the_pages_templates_are_right_for_any_name(create_farm):
    commands = take_block("handlers.md", "command = cat {}").lines
    names = [*ODD_NAMES[:-1], "100%"]
    place = create_farm(names)
    (place.directory / "out").mkdir()
    for name in names:
        (place.directory / name).write_text("first word\n")
    write_ini(
        place,
        "own",
        "\n".join(
            f"[p{n}]\nTaskList = mpifarm.templates.TemplateTaskList\n{command}"
            for n, command in enumerate(commands)
        ),
    )
    for n in range(4):
        finish(place.start("-t", f"p{n}", "-w", f"workdir{n}", env={"USER": "me"}))
    for taskid, name in enumerate(names):
        stem = name.rpartition(".")[0] or name
        made = {f"{stem}.txt", f"{stem} of me.txt"}
        assert made <= set(os.listdir(place.directory / "out"))
        assert (place.directory / f"size of {name}").read_text() == "11\n"
        log = place.directory / f"workdir3/logs/log_{taskid}"
        assert log.read_text() == f"size of {name}: 11\n"
