"""What files and variables set of a farm's options, and how a wrong value is told."""

import argparse
import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import mpifarm
from mpifarm.commands import defaults as module
from mpifarm.commands.defaults import (
    OWN_VARIABLES,
    VARIABLES,
    find_defaults,
    find_words,
    read_places,
)
from mpifarm.commands.options import BY_NAME, ONE_RUN, HelpAsked, parse_line
from mpifarm.errors import InputError, StorageError
from mpifarm.farm.default_words import describe_defaults, name_sources
from mpifarm.model.settings import Default, HookSettings, Settings
from mpifarm.plugins import registry, site_files
from mpifarm.system import trust

PACKAGE = Path(mpifarm.__file__).parent


class Places:
    """A machine with the places of defaults; a farm is started in `here`."""

    def __init__(self, root: Path) -> None:
        self.site = root / "etc" / "mpifarm"
        self.installed = root / "venv" / "etc" / "mpifarm"
        self.user = root / "home" / ".config" / "mpifarm" / "config.ini"
        self.here = root / "project"
        self.here.mkdir()
        self.project = self.here / "mpifarm.ini"
        self.environ = {"HOME": str(root / "home")}

    def write(self, path: Path, *lines: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["[options]", *lines]) + "\n")
        path.chmod(0o644)

    def settings(self, *argv: str) -> Settings:
        found, _ = find_defaults(self.environ)
        return parse_line([*argv, "tasks.txt"], {}).settle(found)

    def mistake(self) -> str:
        with pytest.raises(InputError) as caught:
            find_defaults(self.environ)
        return str(caught.value)


@pytest.fixture
def places(tmp_path, monkeypatch):
    places = Places(tmp_path)
    monkeypatch.setattr(site_files, "MACHINE_DIRECTORY", str(places.site))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.chdir(places.here)
    return places


def test_a_value_of_proc_may_be_the_name_of_a_file(places):
    places.environ["MPIFARM_PROC"] = "32"
    (places.here / "32").mkdir()
    assert places.settings().workers == 32
    places.environ["MPIFARM_PROC"] = "tasks.txt"
    (places.here / "tasks.txt").touch()
    assert places.mistake().startswith(
        "MPIFARM_PROC takes a number, or 'auto', or 50% for half of the CPUs, not"
        " 'tasks.txt'"
    )


def test_each_place_wins_over_those_before_it_and_the_command_line_over_all(places):
    assert places.settings().workers == 8
    places.write(places.site / "config.ini", "proc = 1", "grace = 11")
    assert places.settings().workers == 1
    places.write(places.installed / "config.ini", "proc = 2")
    assert places.settings().workers == 2
    places.write(places.user, "proc = 3")
    assert places.settings().workers == 3
    places.write(places.project, "proc = 4")
    assert places.settings().workers == 4
    places.environ["MPIFARM_PROC"] = "5"
    assert places.settings().workers == 5
    assert places.settings("-n", "6").workers == 6
    assert places.settings("-n", "6").grace == 11.0


def test_a_value_knows_its_place_and_what_was_typed_is_no_default(places):
    places.write(places.user, "", "# a comment", "proc = 3", "bind = yes")
    places.environ["MPIFARM_GRACE"] = "4"
    assert [each.place for each in places.settings("--no-bind").defaults] == [
        f"{places.user}, line 4",
        "MPIFARM_GRACE",
    ]


def test_xdg_config_home_is_where_the_users_file_is(places, tmp_path):
    places.write(places.user, "proc = 3")
    places.environ["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    assert places.settings().workers == 8
    places.write(tmp_path / "xdg" / "mpifarm" / "config.ini", "proc = 4")
    assert places.settings().workers == 4
    places.environ["XDG_CONFIG_HOME"] = "relative"
    assert places.settings().workers == 3


def test_a_variable_names_the_site_or_switches_it_off(places, tmp_path):
    places.write(places.site / "config.ini", "proc = 1")
    places.environ["MPIFARM_SITE_CONFIG"] = ""
    assert places.settings().workers == 8
    other = tmp_path / "other.ini"
    places.write(other, "proc = 7")
    places.environ["MPIFARM_SITE_CONFIG"] = str(other)
    assert places.settings().workers == 7


def test_all_files_of_a_site_may_have_options_beside_hooks(places):
    places.write(places.site / "a.ini", "proc = 1", "grace = 3", "[hooks]", "path = /x")
    places.write(places.site / "b.ini", "proc = 2")
    (places.site / "c.ini").write_text("[watch]\nHook = site.Watch\n")
    (places.site / ".d.ini").write_text("[options]\nproc = 9\n")
    settings = places.settings()
    assert (settings.workers, settings.grace) == (2, 3.0)


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("proc = 32", "--proc 32"),
        ("timeout = 60", "--timeout 60"),
        ("verbose = on", "-v"),
        ("bind = True", "--bind"),
        ("bind = no", ""),
        ("span-nodes = 1", "--span-nodes"),
        ("runner = reco", "--runner reco"),
        ("tasklist = disbatch", "-t disbatch"),
        ("config = /a.ini", "--config /a.ini"),
        ("gpus = auto", "--gpus auto"),
        ("logs = packed", "--logs packed"),
        ("lock-area = /locks", "--lock-area /locks"),
        ("id-variable = A, B=7", "--id-variable A --id-variable B=7"),
        ("task-memory = 4G", "--task-memory 4G"),
        ("checkpoint-signal = USR1", "--checkpoint-signal USR1"),
        ("max-failures = 5%", "--max-failures 5%"),
        ("quarantine = off", "--quarantine off"),
        ("start-rate = 90/m", "--start-rate 90/m"),
        ("limit =\n  gpu=2\n  disk=3", "--limit gpu=2 --limit disk=3"),
        ("events = /e/{user}.jsonl", "--events /e/{user}.jsonl"),
        ("on-end = date +%F # now", "--on-end 'date +%F # now'"),
        ("hook = watch", "--hook watch"),
    ],
)
def test_a_line_of_a_file_means_what_the_option_means(places, line, argv):

    places.write(places.project, line)
    settings = places.settings()
    assert len(settings.defaults) == 1
    typed = parse_line([*shlex.split(argv), "tasks.txt"], {}).settle()
    assert replace(settings, defaults=()) == typed


def test_each_option_but_those_of_one_run_has_a_key_and_a_variable(places):
    assert {*VARIABLES.values()} == {*BY_NAME}
    assert {*ONE_RUN} < {*BY_NAME}
    for name, why in ONE_RUN.items():
        places.write(places.project, f"{name[2:]} = 1")
        assert (
            f"mpifarm.ini, line 2: {name[2:]} can't be set for all runs, because"
            in (told := places.mistake())
        )
        assert f"{why}: give {name} on the command line" in told


def test_a_path_counts_from_here_and_from_the_home(places, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    places.write(places.user, "events = ~/e.jsonl", "metrics = out/m.prom")
    hooks = places.settings().hooks
    assert hooks.events == f"{tmp_path}/home/e.jsonl"
    assert hooks.metrics == f"{places.here}/out/m.prom"


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_value_undoes_what_earlier_places_say(places, value):
    places.write(places.site / "config.ini", "task-memory = 4G", "limit = a=1")
    places.write(places.user, f"limit ={value}")
    places.environ["MPIFARM_TASK_MEMORY"] = value
    settings = places.settings()
    assert (settings.limits.memory, settings.policy.seats) == (None, ())
    assert settings.defaults == ()


def test_the_command_line_can_undo_any_default(places):
    places.write(places.user, "bind = yes", "proc = 3", "limit = a=1", "on-end = x")
    settings = places.settings("--no-bind", "--no-proc", "--no-limit", "--no-on-end")
    assert settings == parse_line(["--no-on-end", "tasks.txt"], {}).settle()
    assert settings.hooks == HookSettings(left_out=("--on-end",))
    assert places.settings("--no-proc", "-n", "4").workers == 4
    assert places.settings("--no-limit", "--limit", "b=2").policy.seats == (("b", 2),)


@pytest.mark.parametrize("name", ["events", "metrics", "on-end", "on-failure", "hook"])
def test_a_user_leaves_a_hook_of_the_site_out_in_each_place_but_the_sites(places, name):
    option = f"--{name}"
    undo = f"--no-{name}"
    typed = places.settings(undo, undo, option, "mine").hooks
    assert typed.left_out == (option,)
    assert typed != places.settings(undo).hooks  # one's own is there all the same
    places.write(places.site / "config.ini", f"{name} =")
    assert places.settings().hooks.left_out == ()
    places.write(places.user, f"{name} =")
    for settings in (places.settings(), places.settings(option, "mine")):
        assert settings.hooks.left_out == (option,)
        assert describe_defaults(settings.defaults) == (
            f"set by default: {undo} ({places.user})"
        )
    assert find_words(places.environ) == {}
    places.write(places.project, f"{name} = x")
    assert places.settings().hooks.left_out == ()
    places.environ[f"MPIFARM_{name.upper().replace('-', '_')}"] = ""
    assert places.settings().hooks == HookSettings(left_out=(option,))


def test_a_fault_of_what_was_typed_is_not_laid_on_an_empty_default():
    default = Default("--events", (), "/x.ini", 2)
    assert name_sources("--events x is a directory", [default]) == (
        "--events x is a directory"
    )


def test_what_may_be_given_again_replaces_what_earlier_places_say(places):
    places.write(places.user, "limit = a=1, b=2")
    assert places.settings("--limit", "c=3").policy.seats == (("c", 3),)
    places.write(places.project, "limit = d=4")
    assert places.settings().policy.seats == (("d", 4),)


def test_the_later_one_of_quiet_and_verbose_counts(places):
    places.write(places.user, "quiet = yes")
    places.write(places.project, "verbose = yes")
    settings = places.settings()
    assert (settings.quiet, settings.verbose) == (False, True)
    settings = places.settings("--quiet")
    assert (settings.quiet, settings.verbose) == (True, False)
    places.write(places.project, "verbose = yes", "quiet = yes")
    assert re.search(
        "line 3: --quiet contradicts --verbose .* line 2.: leave one out",
        places.mistake(),
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "proc = many",
            "line 2: proc takes a number, or 'auto', or 50% for half of the CPUs, not",
        ),
        (
            "proc = 0",
            "line 2: --proc 0 would run nothing: write a number of tasks, 1 or more",
        ),
        ("proc = 3 # all", "line 2: a comment behind the value of proc would be part"),
        ("bind = perhaps", "line 2: bind takes yes or no, not 'perhaps'"),
        ("verbose = very", "line 2: verbose takes yes or no, not 'very'"),
        ("logs = some", "line 2: logs takes 'all', 'packed' or 'failed', not 'some'"),
        ("limit = a=1, a=2", "line 2: --limit a=1 and --limit a=2 contradict"),
        ("limit = a", "line 2: limit takes NAME=N, "),
        ("events = $HOME/e", "line 2: events has a $, and no variable is filled in"),
        ("prok = 3", "line 2: there is no option prok, did you mean proc?"),
        ("Proc = 3", "line 2: there is no option Proc, did you mean proc?"),
        ("--proc = 3", "line 2: there is no option --proc, did you mean proc?"),
        ("task_memory = 4G", "no option task_memory, did you mean task-memory?"),
        ("jobs = 3", "there is no option jobs: -n N (--proc N) is the number"),
        ("xyzzy = 3", "there is no option xyzzy: mpifarm config lists all that"),
        ("bind", "mpifarm.ini, line 2: 'bind' is not of the form key = value; correct"),
        ("proc = 1\nproc = 2", "line 3: a second proc in section [options]"),
    ],
)
def test_a_wrong_line_is_told_with_its_place_and_the_remedy(places, line, told):
    places.write(places.project, line)
    assert told in (sentence := places.mistake())
    assert sentence.startswith(f"{places.project}, line ")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "PROC",
            "many",
            "MPIFARM_PROC takes a number, or 'auto', or 50% for half of the CPUs, not",
        ),
        ("PROC", "0", "MPIFARM_PROC: --proc 0 would run nothing"),
        ("BIND", "perhaps", "MPIFARM_BIND takes yes or no"),
        ("PORC", "3", "mpifarm has no variable MPIFARM_PORC, did you mean"),
        ("LOG", "all", "no variable MPIFARM_LOG, did you mean MPIFARM_LOGS?"),
        ("SITECONFIG", "/x", "_SITECONFIG, did you mean MPIFARM_SITE_CONFIG?"),
        ("TRACES", "/x", "MPIFARM_TRACES, did you mean MPIFARM_TRACE?"),
        (
            "DEADLINE",
            "none",
            "MPIFARM_DEADLINE can't be set for all runs, because it is",
        ),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(places, name, value, told):
    places.environ[f"MPIFARM_{name}"] = value
    assert told in places.mistake()


def test_variables_of_mpifarm_itself_and_of_modules_set_no_option(places):
    for name in OWN_VARIABLES - {"MPIFARM_SITE_CONFIG"}:
        places.environ[name] = "/x"
    for name in ("ROOT", "HOME", "DIR", "BIN", "LIB", "VERSION", "PREFIX", "BASE"):
        places.environ[f"MPIFARM_{name}"] = "/opt/mpifarm"
    assert places.settings().defaults == ()
    places.environ["MPIFARM_HANDLER"] = "greasy"
    assert places.settings().handler == "greasy"


def test_no_variable_of_mpifarm_is_unknown_or_sets_an_option_by_accident():
    text = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    named = set(re.findall(r"\"(MPIFARM_[A-Z_]*[A-Z])\"", text))
    assert named - VARIABLES.keys() - {"MPIFARM_HANDLER"} <= OWN_VARIABLES
    # A farm that a task or a hook starts has them in its environment.
    assert OWN_VARIABLES & VARIABLES.keys() == {"MPIFARM_WORKDIR"}
    assert "--workdir" in ONE_RUN


@pytest.mark.parametrize("which", ["site", "user", "project"])
def test_a_file_that_a_stranger_could_write_is_told_and_not_read(places, which):
    path = {"site": places.site / "a.ini"}.get(which) or getattr(places, which)
    places.write(path, "proc = 3", "nonsense = 1")
    path.chmod(0o666)
    found, warnings = find_defaults(places.environ)
    assert found == ()
    assert warnings == (
        f"WARNING: the options of {path} are left out: everyone may write {path}",
    )


def test_a_file_of_another_user_is_not_read(places, monkeypatch):
    places.write(places.project, "proc = 3")
    stranger = SimpleNamespace(st_uid=4_000_000, st_mode=0o100644)
    monkeypatch.setattr(trust, "_find_status", lambda path: stranger)
    found, (warning,) = find_defaults(places.environ)
    assert found == ()
    assert "belongs to user 4000000, not to you or root" in warning


def test_a_file_that_can_not_be_read_is_told_and_that_of_a_site_left_out(
    places, monkeypatch
):
    def refuse(path: str) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(registry, "_read", refuse)
    places.write(places.site / "a.ini", "proc = 3")
    _, warnings = find_defaults(places.environ)
    assert warnings == (
        f"WARNING: the options of {places.site}/a.ini are left out: Permission denied",
    )
    places.write(places.user, "proc = 3")
    assert places.mistake() == (
        f"can't read the options in {places.user} (Permission denied): correct that, or"
        " remove the file"
    )


def test_a_disk_that_fails_is_no_mistake_of_the_user(places, monkeypatch):
    def fail(path: str) -> bytes:
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(registry, "_read", fail)
    places.write(places.user, "proc = 3")
    with pytest.raises(StorageError, match=r"can't read .*: Input/output error"):
        find_defaults(places.environ)


def test_a_broken_file_of_a_site_without_options_is_told_and_ends_no_farm(places):
    places.site.mkdir(parents=True)
    path = places.site / "a.ini"
    path.write_text("proc = 4\n")
    found, (told,) = find_defaults(places.environ)
    assert found == ()
    assert told == (
        f"WARNING: the options of {path} are left out: {path}, line 1: 'proc = 4' is"
        " before the first [section]; write [options] above it if it is an option"
    )
    path.write_text("hooks\n[options]\nproc = 2\n")
    assert "line 1: 'hooks' is before the first [section]" in places.mistake()


@pytest.mark.parametrize("which", ["user", "project"])
def test_an_option_of_ones_own_before_any_section_is_refused(places, which):
    path = getattr(places, which)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("proc = 4\n")
    assert places.mistake() == (
        f"{path}, line 1: 'proc = 4' is before the first [section]; write [options]"
        " above it if it is an option"
    )


@pytest.mark.parametrize("which", ["site", "user", "project"])
def test_a_section_that_is_misspelt_is_told(places, which):
    path = {"site": places.site / "a.ini"}.get(which) or getattr(places, which)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[option]\nproc = 4\n")
    found, (told,) = find_defaults(places.environ)
    assert found == ()
    assert told == (
        f"WARNING: section [option] of {path} has no effect: did you mean [options]?"
    )


def test_sections_with_a_class_and_keys_for_them_are_nothing_to_tell(places):
    places.user.parent.mkdir(parents=True)
    places.user.write_text("[DEFAULT]\nsetup = x%\n[reco]\nRunner = a.B\n")
    places.project.write_text("[DEFAULT]\nRunner = a.B\n[reco]\nproc = x\n")
    assert find_defaults(places.environ) == ((), ())
    places.user.write_text("[DEFAULT]\nproc = 4\n")
    (_, (told,)) = find_defaults(places.environ)
    assert "section [DEFAULT] of" in told


def test_a_named_place_of_the_site_that_has_nothing_is_told(places, tmp_path):
    missing = tmp_path / "siet.ini"
    places.environ["MPIFARM_SITE_CONFIG"] = str(missing)
    found, (told,) = find_defaults(places.environ)
    assert found == ()
    assert told == (
        f"WARNING: MPIFARM_SITE_CONFIG names {missing}, which is not there: the site's"
        " options and hooks are left out; correct the name, or unset the variable"
    )
    missing.mkdir()
    _, (told,) = find_defaults(places.environ)
    assert f"names {missing}, and there is no *.ini in it: the site's" in told


def test_a_directory_of_the_site_says_what_is_wrong_with_it(places, monkeypatch):
    places.site.mkdir(parents=True)
    assert read_places(places.environ)[0].absence == "no *.ini in it"
    assert find_defaults(places.environ) == ((), ())

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    _, warnings = find_defaults(places.environ)
    assert warnings == (
        f"WARNING: the options of {places.site} are left out: Permission denied",
    )


def test_keys_for_all_sections_are_no_options_and_odd_layouts_are_read(places):
    places.project.write_text(
        "[DEFAULT]\nimage = x\n[reco]\nRunner = a.B\nproc = 7\n"
        "; [options]\n[options]\n  proc: 3\r\n  grace=5\n"
    )
    settings = places.settings()
    assert (settings.workers, settings.grace) == (3, 5.0)
    assert [each.line for each in settings.defaults] == [8, 9]


def test_an_indented_head_of_the_section_is_told_and_one_in_a_comment_not(places):
    places.project.write_text("[reco]\nRunner = a.B\n  [options]\n  proc = 3\n")
    assert "line 3: an indented [options] belongs to the value" in places.mistake()
    places.project.write_text("# [options]\n# proc = 3\n")
    assert find_defaults(places.environ) == ((), ())


def test_the_value_of_an_option_is_there_for_subcommands(places):
    places.write(places.user, "lock-area = /locks", "tasklist = greasy")
    assert find_words(places.environ) == {
        "--lock-area": "/locks",
        "--tasklist": "greasy",
    }


def test_places_say_what_they_are(places):
    places.write(places.user, "proc = 3")
    assert [
        (each.title, each.path, each.is_there, len(each.defaults))
        for each in read_places(places.environ)
    ] == [
        ("site", str(places.site), False, 0),
        ("site", str(places.installed), False, 0),
        ("user", str(places.user), True, 1),
        ("project", str(places.project), False, 0),
        ("environment", "", True, 0),
    ]


def test_a_start_without_files_asks_for_four_names_and_parses_nothing(
    places, monkeypatch
):
    asked: set[Path] = set()
    lexists = os.path.lexists

    def look(path: str) -> bool:
        asked.add(Path(path))
        return lexists(path)

    monkeypatch.setattr(os.path, "lexists", look)
    monkeypatch.setattr(module, "_read", None)
    assert find_defaults(places.environ) == ((), ())
    assert asked == {places.site, places.installed, places.user, places.project}


def test_the_help_does_not_list_how_to_undo_each_default():
    with pytest.raises(HelpAsked) as asked:
        parse_line(["--help-all"], {})
    assert "--no-proc has mpifarm's own default" in asked.value.text
    assert asked.value.text.count("--no-") == 1
    assert argparse.SUPPRESS not in asked.value.text
    with pytest.raises(InputError, match="--no-NAME, which undoes a default, takes no"):
        parse_line(["--no-bind=3", "tasks.txt"], {})
