"""What ``mpifarm config`` prints, and that its page says the same."""

import json
import re
from typing import Any, cast

import pytest

from mpifarm.commands import config
from mpifarm.commands.defaults import NOT_THERE, PlaceRead
from mpifarm.commands.options import ONE_RUN
from mpifarm.errors import InputError
from mpifarm.hooks.definitions import name_user
from mpifarm.model.settings import Default
from tests.pages import read_page, take_block

USER, PROJECT = "/home/ada/.config/mpifarm/config.ini", "/home/ada/project/mpifarm.ini"


class Printed:
    """A console that keeps what it gets."""

    def __init__(self) -> None:
        self.text = ""

    def print_text(self, text: str) -> None:
        self.text += text


@pytest.fixture
def call(tmp_path, monkeypatch, capfdbinary):
    """Run the subcommand where ``mpifarm.ini`` has the lines of the page."""
    monkeypatch.chdir(tmp_path)
    example = take_block("defaults.md", "[options]\nproc = 32")
    (tmp_path / "mpifarm.ini").write_text(example.text())

    def run(*argv: str, **variables: str) -> str:
        console = Printed()
        environ = {"HOME": str(tmp_path), "MPIFARM_SITE_CONFIG": "", **variables}
        assert config.main([*argv], cast(Any, console), environ) == 0
        written: bytes = capfdbinary.readouterr().out
        return console.text + written.decode()

    return run


def test_the_page_shows_what_is_printed():
    shown = take_block("defaults.md", "MPIFARM_GRACE")
    lines = [PlaceRead("site", "/etc/mpifarm", absence=NOT_THERE)]
    lines += [PlaceRead("site", "/opt/farm/etc/mpifarm", absence=NOT_THERE)]
    memory = Default("--task-memory", ("4G",), USER, 3)
    proc = Default("--proc", ("32",), PROJECT, 2)
    limit = Default("--limit", ("license=5", "gpu=8"), PROJECT, 5)
    grace = Default("--grace", ("30",), "MPIFARM_GRACE")
    lines += [PlaceRead("user", USER, (memory, memory))]
    lines += [PlaceRead("project", PROJECT, (proc, proc, limit, limit))]
    lines += [PlaceRead("environment", "", (grace,))]
    counting = {each.option: each for each in (memory, proc, limit, grace)}
    printed = "".join(config.format_config(lines, counting)).splitlines()
    for line in shown.lines[1:]:
        assert line in [*printed, "..."]


def test_each_option_has_its_value_and_its_place(call, tmp_path):
    text = call(MPIFARM_GRACE="30", MPIFARM_ROOT="/opt")
    for option, value, place in (
        ("--proc", "32", f"{tmp_path}/mpifarm.ini, line 2"),
        ("--limit", "license=5 gpu=8", f"{tmp_path}/mpifarm.ini, line 5"),
        ("--grace", "30", "MPIFARM_GRACE"),
        ("--quarantine", "10", "mpifarm"),
        ("--quiet", "no", "mpifarm"),
        ("--deadline", "", "the command line alone"),
    ):
        assert re.search(rf"^{option} +{value} *  {place}$", text, re.MULTILINE), option
    assert re.search(rf"^project +sets 4 +{tmp_path}/mpifarm.ini$", text, re.MULTILINE)
    assert text.endswith("variables that set no option: MPIFARM_ROOT\n")


def test_a_file_that_is_not_read_is_told_with_the_reason(call, tmp_path):
    path = tmp_path / "mpifarm.ini"
    path.chmod(0o666)
    text = call()
    assert re.search(rf"^project +not read +{path}$", text, re.MULTILINE)
    why = f"WARNING: the options of {path} are left out: everyone may write {path}\n"
    assert text.endswith(f"\n\n{why}")


def test_hooks_of_the_site_are_shown_with_their_file(call, tmp_path):
    site = tmp_path / "site.ini"
    site.write_text(
        "[options]\ngrace = 3\n[hooks]\nevents = /x/ev-{user}.jsonl\n"
        "on-end = date +%F\n[accounting]\nHook = site_hooks.Accounting\n"
    )
    site.chmod(0o600)
    path = f"/x/ev-{name_user()}.jsonl"
    text = call(MPIFARM_SITE_CONFIG=str(site))
    for line in (
        f"site +sets 1, and 3 hooks +{site}",
        f"events +{path} +{site}",
        rf"on-end +date \+%F +{site}",
        rf"\[accounting\] +site_hooks.Accounting +{site}",
    ):
        assert re.search(rf"^{line}$", text, re.MULTILINE), line
    found = json.loads(call("--json", MPIFARM_SITE_CONFIG=str(site)))
    assert found["hooks"] == [
        {"hook": "events", "value": path, "from": str(site)},
        {"hook": "on-end", "value": "date +%F", "from": str(site)},
        *(
            {
                "hook": "[accounting]",
                "value": "site_hooks.Accounting",
                "from": str(site),
            },
        ),
    ]


def test_hooks_of_the_site_that_a_user_leaves_out_are_not_shown(call, tmp_path):
    site = tmp_path / "site.ini"
    site.write_text("[hooks]\nevents = /x/e\nmetrics = /x/m\n")
    site.chmod(0o600)
    (tmp_path / "mpifarm.ini").write_text("[options]\nevents =\n")
    more = {"MPIFARM_SITE_CONFIG": str(site), "MPIFARM_METRICS": ""}
    text = call(**more)
    assert "site's hook" not in text
    assert re.search(rf"^--events +{tmp_path}/mpifarm.ini, line 2$", text, re.MULTILINE)
    found = json.loads(call("--json", **more))
    assert found["hooks"] == []
    assert found["options"]["--metrics"]["value"] is None
    assert found["options"]["--metrics"]["from"] == "MPIFARM_METRICS"


def test_a_fault_of_the_sites_hooks_is_told_as_a_farm_tells_it(call, tmp_path):
    site = tmp_path / "site.ini"
    site.write_text("[hooks]\nevnts = /x/e\n")
    site.chmod(0o600)
    *_, told = call(MPIFARM_SITE_CONFIG=str(site)).splitlines()
    assert told.startswith(
        f"WARNING: the hooks of {site} are left out: section [hooks]"
    )


def test_what_a_farm_warns_of_stands_below_and_in_json(call, tmp_path):
    missing = tmp_path / "siet.ini"
    (tmp_path / "mpifarm.ini").write_text("[option]\nproc = 4\n")
    text = call(MPIFARM_SITE_CONFIG=str(missing), MPIFARM_ROOT="/opt")
    assert re.search(rf"^site +not there +{missing}$", text, re.MULTILINE)
    *_, first, second, _, others = text.splitlines()
    assert first.startswith(f"WARNING: MPIFARM_SITE_CONFIG names {missing}, which is")
    assert second.startswith("WARNING: section [option] of ")
    assert others == "variables that set no option: MPIFARM_ROOT"
    found = json.loads(call("--json", MPIFARM_SITE_CONFIG=str(missing)))
    assert found["warnings"] == [first, second]


def test_a_config_that_everyone_could_have_written_is_told(call, tmp_path):
    config = tmp_path / "o.ini"
    config.write_text("[e]\nRunner = a.B\n")
    config.chmod(0o666)
    *_, told = call(MPIFARM_CONFIG=str(config)).splitlines()
    assert told.startswith(f"WARNING: the sections of {config} are left out: everyone")
    config.chmod(0o644)
    assert "WARNING" not in call(MPIFARM_CONFIG=str(config))


def test_options_in_another_file_of_ones_own_are_told(call, tmp_path):
    own = tmp_path / ".config" / "mpifarm" / "mpifarm.ini"
    own.parent.mkdir(parents=True)
    own.write_text("[options]\nproc = 4\n")
    *_, told = call().splitlines()
    assert told == (
        f"WARNING: section [options] of {own} has no effect there: move it to"
        f" {own.parent}/config.ini"
    )


def test_json_has_values_as_they_would_be_typed(call, tmp_path):
    found = json.loads(call("--json", MPIFARM_GRACE="30"))
    options = found["options"]
    assert options["--proc"] == {
        "value": "32",
        "from": f"{tmp_path}/mpifarm.ini",
        "line": 2,
        "variable": "MPIFARM_PROC",
    }
    assert options["--limit"]["value"] == ["license=5", "gpu=8"]
    assert options["--hook"]["value"] == []
    assert options["--grace"]["line"] is None
    assert options["--task-memory"]["value"] is None
    assert options["--tasklist"]["variable"] == "MPIFARM_HANDLER"
    assert not options.keys() & ONE_RUN.keys()
    assert [each["place"] for each in found["places"]] == [
        *("user", "project", "environment"),
    ]
    assert found["places"][1]["sets"] == ["--proc", "--logs", "--bind", "--limit"]


def test_a_wrong_value_is_told_as_a_farm_tells_it(call):
    with pytest.raises(InputError, match="MPIFARM_PROC takes a number, or 'auto'"):
        call(MPIFARM_PROC="many")


def test_the_page_says_which_options_no_file_can_set_and_why():
    page = read_page("defaults.md")
    rows = dict(re.findall(r"^\| `(--[\w-]+)` \| (.*) \|$", page, re.MULTILINE))
    assert rows == ONE_RUN


@pytest.mark.parametrize("words", ["proc=6", "set proc 6", "--proc 6", "--proc=6"])
def test_who_wants_to_set_a_value_is_told_where(call, words):
    with pytest.raises(InputError, match=r"only shows: .* \[options\] in ~/.config/"):
        call(*words.split())


def test_a_misspelt_option_of_its_own_is_told(call):
    with pytest.raises(InputError, match="did you mean --json"):
        call("--jsn")
