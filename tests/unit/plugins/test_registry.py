"""INI files, read as by PyTaskFarmer; messages name the place of a mistake."""

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.dialects import DisBatchTaskList, GreasyTaskList
from mpifarm.errors import InputError
from mpifarm.model.settings import HandlerDefinition, RunnerDefinition
from mpifarm.plugins.loading import import_class
from mpifarm.plugins.registry import (
    OWN_CLASSES,
    SearchPath,
    find_handler,
    find_hook,
    find_idle_sections,
    find_runner,
    find_search_path,
    find_untrusted,
)
from mpifarm.plugins.site_files import find_site_places
from mpifarm.system import trust


@pytest.fixture
def places(tmp_path):
    """Make a home and a current directory without INI files."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    return SearchPath(
        home=str(tmp_path / "home"),
        config_home=str(tmp_path / "home" / ".config"),
        directory=str(tmp_path / "here"),
    )


OWN = "home/.config/mpifarm/own.ini"
PLAIN_RUNNERS = "home/.pytaskfarmer/runners.d/plain.ini"
PLAIN_HANDLERS = "home/.pytaskfarmer/tasklists.d/plain.ini"
HERE = "here/local.ini"
PROJECT = "here/mpifarm.ini"


@pytest.fixture
def write(tmp_path):
    """Write a file below the test's directory.  Return its path."""

    def write_file(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file


def with_config(places, path):
    return replace(places, config=path, is_typed=True)


def runner_complaint(places, name="x"):
    with pytest.raises(InputError) as caught:
        find_runner(name, places)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def handler_complaint(places, name="x"):
    with pytest.raises(InputError) as caught:
        find_handler(name, places)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- what is in a file ---------------------------------------------------------------


def test_default_is_always_there(places):
    assert find_runner("default", places) == RunnerDefinition()
    assert find_handler("default", places) == HandlerDefinition()


@pytest.mark.parametrize(
    ("name", "python_class"),
    [("disbatch", DisBatchTaskList), ("greasy", GreasyTaskList)],
)
def test_handlers_of_other_tools_lists_need_no_file(places, write, name, python_class):
    found = find_handler(name, places)
    assert import_class(found.python_class) is python_class
    assert found == HandlerDefinition(name, found.python_class)
    path = write(HERE, f"[{name}]\nTaskList = m.A\n")
    assert find_handler(name, places) == HandlerDefinition(name, "m.A", {}, path)
    with pytest.raises(InputError, match=f"there is no runner '{name}'"):
        find_runner(name, places)


def test_the_keys_beside_the_class_are_the_options_with_their_case(places, write):
    path = write(PLAIN_RUNNERS, "[x]\nRunner = a.B\nimage = i\nsetUp=s  # t\nE :\n")
    assert find_runner("x", places) == RunnerDefinition(
        "x", "a.B", {"image": "i", "setUp": "s  # t", "E": ""}, path
    )


def test_a_file_may_define_several(places, write):
    path = write(
        PLAIN_HANDLERS,
        "[a]\nTaskList = m.A\n\n; comment\n[other]\nk = v\n[b]\nTaskList = m.B\nk=1\n",
    )
    assert find_handler("a", places) == HandlerDefinition("a", "m.A", {}, path)
    assert find_handler("b", places) == HandlerDefinition("b", "m.B", {"k": "1"}, path)
    assert "only: default, disbatch, greasy, sqlite, a, b" in handler_complaint(places)


def test_interpolation_is_pytaskfarmers(places, write):
    write(
        OWN,
        "[DEFAULT]\nbase = /sw\n[x]\nRunner = a.%(kind)s\nkind = B\n"
        "share = 50%% of %(base)s\n",
    )
    found = find_runner("x", places)
    assert found.python_class == "a.B"
    assert found.options == {"kind": "B", "share": "50% of /sw", "base": "/sw"}


def test_a_value_may_go_on_in_lines_that_are_indented(places, write):
    write(OWN, "[x]\nTaskList = a.B\ncommand = one &&\n  two {}\n")
    assert find_handler("x", places).options == {"command": "one &&\ntwo {}"}


def test_a_class_for_all_sections_may_stand_in_DEFAULT(places, write):  # noqa: N802
    write(OWN, "[DEFAULT]\nRunner = a.B\n[x]\nimage = i\n")
    assert find_runner("x", places).options == {"image": "i"}


def test_a_section_may_define_a_runner_and_a_handler(places, write):
    write(OWN, "[x]\nRunner = a.R\nTaskList = a.T\nk = v\n")
    runner, handler = find_runner("x", places), find_handler("x", places)
    assert (runner.python_class, runner.options) == ("a.R", {"k": "v"})
    assert (handler.python_class, handler.options) == ("a.T", {"k": "v"})


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("begin", ["", "\ufeff"])
def test_line_ends_and_a_byte_order_mark_make_no_difference(places, write, begin, end):
    write(OWN, begin + end.join(["[été]", "Runner = a.B", "k = é", ""]))
    assert find_runner("été", places).options == {"k": "é"}


@pytest.mark.parametrize(("written", "meant"), OWN_CLASSES.items())
def test_pytaskfarmers_classes_mean_mpifarms(places, write, written, meant):
    write(OWN, f"[x]\nRunner = {written}\nTaskList = {written}\n")
    assert find_runner("x", places).python_class == meant
    assert find_handler("x", places).python_class == meant


def test_other_classes_of_pytaskfarmer_are_meant_as_written(places, write):
    write(OWN, "[x]\nTaskList = taskfarmer.atlas.TransformTaskList\n")
    found = find_handler("x", places)
    assert found.python_class == "taskfarmer.atlas.TransformTaskList"


# ---- which file ----------------------------------------------------------------------


RUNNER = "[x]\nRunner = m.{}\n[default]\nRunner = d.{}\n"
HANDLER = "[x]\nTaskList = m.{}\n[default]\nTaskList = d.{}\n"


@pytest.mark.parametrize("name", ["x", "default"])
def test_the_order_for_handlers(places, write, tmp_path, name):
    config = write("conf.ini", HANDLER.replace("{}", "Config"))
    write(HERE, HANDLER.replace("{}", "Here"))
    write(OWN, HANDLER.replace("{}", "Own"))
    write(PLAIN_HANDLERS, HANDLER.replace("{}", "Plain"))
    assert find_handler(name, with_config(places, config)).python_class[2:] == "Config"
    for path, kind in [(HERE, "Here"), (OWN, "Own"), (PLAIN_HANDLERS, "Plain")]:
        found = find_handler(name, places)
        assert found.python_class[2:] == kind
        assert found.source == str(tmp_path / path)
        (tmp_path / path).unlink()


@pytest.mark.parametrize("name", ["x", "default"])
def test_the_order_for_runners(places, write, tmp_path, name):
    config = write("conf.ini", RUNNER.replace("{}", "Config"))
    write(OWN, RUNNER.replace("{}", "Own"))
    write(PLAIN_RUNNERS, RUNNER.replace("{}", "Plain"))
    assert find_runner(name, with_config(places, config)).python_class[2:] == "Config"
    for path, kind in [(OWN, "Own"), (PLAIN_RUNNERS, "Plain")]:
        assert find_runner(name, places).python_class[2:] == kind
        (tmp_path / path).unlink()


def test_runners_are_not_looked_for_where_only_handlers_are(places, write):
    write(HERE, RUNNER)
    write(PLAIN_HANDLERS, RUNNER)
    assert "only: default" in runner_complaint(places)
    assert find_runner("default", places) == RunnerDefinition()


def test_the_last_file_of_a_directory_wins(places, write):
    write("home/.config/mpifarm/a.ini", "[x]\nRunner = m.First\n")
    write("home/.config/mpifarm/b.ini", "[x]\nRunner = m.Last\n")
    write("home/.config/mpifarm/c.ini", "[y]\nRunner = m.Other\n")
    assert find_runner("x", places).python_class == "m.Last"


@pytest.mark.parametrize("name", [".hidden.ini", "x.ini~", "x.conf", "ini"])
def test_only_files_that_end_in_ini_are_read(places, write, name):
    write(f"home/.config/mpifarm/{name}", "[x]\nRunner = m.A\n")
    assert "only: default" in runner_complaint(places)


def test_a_section_of_the_config_file_without_the_key_is_skipped(places, write):
    write(OWN, "[x]\nRunner = m.Own\n")
    config = write("conf.ini", "[x]\nTaskList = m.T\n")
    assert find_runner("x", with_config(places, config)).python_class == "m.Own"


def test_the_places_are_those_of_the_environment():
    environ = {"HOME": "/h"}
    site = find_site_places(environ)
    found = find_search_path(environ, "c")
    assert found == SearchPath("/h", "/h/.config", ".", "c", site)
    environ["XDG_CONFIG_HOME"] = "/x"
    assert find_search_path(environ, None) == SearchPath("/h", "/x", ".", None, site)
    environ["XDG_CONFIG_HOME"] = "relative"
    assert find_search_path(environ, None).config_home == "/h/.config"


def test_a_path_in_the_current_directory_is_told_as_one_writes_it(
    places, write, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path / "here")
    write(HERE, HANDLER)
    here = SearchPath(places.home, places.config_home)
    assert find_handler("x", here).source == "local.ini"


# ---- what is wrong -------------------------------------------------------------------


BROKEN = [
    (b"Runner = a.B\n[x]\n", "line 1: 'Runner = a.B' is before the first"),
    (b"[x]\nk = 1\n\n[x]\n", "line 4: a second section [x]"),
    (b"[x]\nRunner = a\nk = 1\nk = 2\n", "line 4: a second k in section [x]"),
    (b"[x]\nRunner = a.B\nonly words\n", "line 3: 'only words' is not of"),
    (b"[x]\n= v\n", "line 2: '= v' is not of"),
    (b"[x]\nRunner = a.B\nk = caf\xe9\n", "line 3: is not UTF-8"),
    ("[x]\nRunner = a.B\n".encode("utf-16"), "line 1: is not UTF-8"),
]


@pytest.mark.parametrize(("content", "told"), BROKEN)
def test_a_broken_file_is_told_with_its_line_where_nothing_is_found(
    places, write, content, told
):
    path = write(OWN, content)
    said = runner_complaint(places, "y")
    assert "there is no runner 'y' for --runner, only: default" in said
    assert f"{path}, {told}" in said


SEEM_TO_HAVE_IT = [
    (content, told)
    for content, told in BROKEN
    if b"[x]" in content and b"Runner" in content
]


@pytest.mark.parametrize(("content", "told"), SEEM_TO_HAVE_IT)
@pytest.mark.parametrize("name", ["x", "default"])
@pytest.mark.parametrize("place", [OWN, "home/.pytaskfarmer/runners.d/zz.ini"])
def test_a_broken_file_that_seems_to_have_the_name_is_not_passed_over(
    places, write, content, told, name, place
):
    header = f"[{name}]".encode()
    write(PLAIN_RUNNERS, header + b"\nRunner = m.Plain\n")
    path = write(place, content.replace(b"[x]", header))
    said = runner_complaint(places, name)
    assert said.startswith(f"can't tell what the runner {name!r} is: {path}, ")
    assert told.replace("[x]", f"[{name}]") in said


@pytest.mark.parametrize(("content", "told"), SEEM_TO_HAVE_IT)
def test_a_broken_file_behind_the_one_that_has_it_is_nobodys_concern(
    places, write, content, told
):
    write(OWN, "[x]\nRunner = m.Own\n")
    write("home/.config/mpifarm/first.ini", content)
    write(PLAIN_RUNNERS, content)
    assert find_runner("x", places).python_class == "m.Own"


@pytest.mark.parametrize(("content", "told"), BROKEN)
def test_a_broken_config_file_is_told_in_any_case(places, write, content, told):
    write(OWN, "[x]\nRunner = m.Own\n")
    path = write("conf.ini", content)
    for name in ("x", "default"):
        said = runner_complaint(with_config(places, path), name)
        assert said.startswith(f"can't read the file of --config: {path}, {told}")
        assert said.endswith("; correct the file, or leave --config out")


@pytest.mark.parametrize(("content", "told"), BROKEN)
def test_a_broken_file_that_does_not_have_the_name_is_nobodys_concern(
    places, write, content, told
):
    write(OWN, content)
    write(PLAIN_RUNNERS, "[y]\nRunner = m.Plain\n")
    assert find_runner("y", places).python_class == "m.Plain"
    assert find_runner("default", places) == RunnerDefinition()


def test_a_missing_config_file_is_told(places):
    said = handler_complaint(with_config(places, "no/such.ini"), "default")
    assert "--config: no/such.ini: No such file or directory" in said


def test_a_directory_as_config_file_is_told(places, tmp_path):
    assert "it is a directory" in runner_complaint(with_config(places, str(tmp_path)))


def test_what_is_not_a_file_is_told_where_nothing_is_found(places, tmp_path):
    (tmp_path / "here" / "x.ini").mkdir()
    (tmp_path / "here" / "y.ini").symlink_to("nowhere")
    said = handler_complaint(places)
    assert "x.ini: it is a directory" in said
    assert "y.ini: No such file" in said
    assert find_handler("default", places) == HandlerDefinition()


def test_a_broken_file_that_redefines_default_is_not_passed_over(places, write):
    path = write(HERE, "[default]\nTaskList = a.B\nnonsense\n")
    said = handler_complaint(places, "default")
    assert said.startswith("can't tell what the tasklist handler 'default' is: ")
    assert f"{path}, line 3" in said
    assert find_runner("default", places) == RunnerDefinition()


def test_a_broken_file_of_another_program_leaves_default_alone(places, write):
    write(HERE, "[default]\nnonsense\n")
    assert find_handler("default", places) == HandlerDefinition()


@pytest.mark.parametrize("value", ["100% sure", "%(none)s", "%(k)s", "%d.png", "50%"])
def test_a_percent_sign_that_is_none_is_told_with_the_remedy(places, write, value):
    path = write(OWN, f"[y]\nRunner = a.B\n[x]\nRunner = a.B\nk = {value}\n")
    said = runner_complaint(places)
    assert said.startswith(f"{path}, section [x], key k: ")
    assert "write %%" in said
    assert find_runner("y", places).python_class == "a.B"


def test_a_reference_to_no_key_is_told_with_that_key(places, write):
    write(OWN, "[x]\nRunner = a.B\nimage = %(nope)s.sif\n")
    assert "key image: there is no key 'nope' for %(nope)s" in runner_complaint(places)


def test_what_is_from_DEFAULT_is_told_so(places, write):  # noqa: N802
    path = write(OWN, "[DEFAULT]\nk = 50%\n[x]\nRunner = a.B\n[y]\nRunner = a\nk=1\n")
    assert runner_complaint(places).startswith(f"{path}, section [DEFAULT], key k: ")
    assert find_runner("y", places).source == path
    write(OWN, "[DEFAULT]\nk = 1\n[x]\nRunner = a.B\n")
    assert find_runner("x", places).source == f"{path}, sections [x] and [DEFAULT]"


def test_names_that_are_near_are_proposed(places, write):
    write(OWN, "[shifter]\nRunner = a.B\n[shell]\nRunner = a.B\n")
    said = runner_complaint(places, "shiftr")
    assert "only: default, shell, shifter; did you mean 'shifter'?" in said
    assert "did you mean 'default'?" in runner_complaint(places, "deflaut")


def test_a_name_like_no_other_is_told_with_how_to_define_it(places):
    said = handler_complaint(places, "athena")
    assert "there is no tasklist handler 'athena' for --tasklist, only: default" in said
    assert "[athena] with TaskList = " in said
    assert f"{places.config_home}/mpifarm" in said
    assert "--config" in said


@pytest.mark.parametrize("key", ["runner", "RUNNER"])
def test_a_key_in_the_wrong_case_is_told(places, write, key):
    path = write(OWN, f"[x]\n{key} = a.B\n")
    said = runner_complaint(places)
    assert f"in section [x] of {path}, write Runner instead of {key}" in said


def test_a_section_without_a_class_is_told(places, write):
    path = write(HERE, "[x]\nimage = i\n")
    said = handler_complaint(places)
    assert f"section [x] of {path} has no key TaskList" in said


@pytest.mark.parametrize("path", ["conf.ini", OWN, PLAIN_RUNNERS])
def test_a_runner_that_is_asked_for_as_a_handler_is_told(places, write, path):
    written = write(path, "[x]\nRunner = a.B\n")
    known = with_config(places, written) if path == "conf.ini" else places
    assert handler_complaint(known).endswith("; x is a runner: --runner x")


@pytest.mark.parametrize("path", [HERE, OWN, PLAIN_HANDLERS])
def test_a_handler_that_is_asked_for_as_a_runner_is_told(places, write, path):
    write(path, "[x]\nTaskList = a.B\n")
    said = runner_complaint(places)
    assert said.endswith("; x is a tasklist handler: --tasklist x")


@pytest.mark.parametrize("path", [HERE, PLAIN_HANDLERS])
def test_a_runner_where_only_handlers_are_looked_for_is_told_with_its_file(
    places, write, path
):
    write("here/broken.ini", "nonsense")
    written = write(path, "[x]\nRunner = a.B\n")
    said = runner_complaint(places)
    assert said.endswith(f"; {written} has it, but is not looked at without --config"
                         f" {written}")  # fmt: skip
    assert "Runner = " in runner_complaint(places, "zzzz")


def test_a_name_that_the_config_file_does_not_have_is_told(places, write):
    path = write("e.ini", "[y]\nRunner = a.B\n")
    said = runner_complaint(with_config(places, path), "other")
    assert said.endswith(f"only: default, y; {path} has no section [other] with Runner")


def test_the_default_section_of_a_file_is_no_runner(places, write):
    write(OWN, "[DEFAULT]\nRunner = a.B\n")
    said = runner_complaint(places, "DEFAULT")
    assert said.startswith(
        "--runner DEFAULT does not name a runner: [DEFAULT] in an INI file"
    )
    assert "did you mean 'default'?" in said


@pytest.mark.parametrize("name", ["", " "])
def test_a_name_of_nothing_is_told(places, name):
    said = handler_complaint(places, name)
    assert said.startswith(f"--tasklist {name!r} does not name a tasklist handler: ")


# ---- sections that define nothing ----------------------------------------------------

CONFIG = "mine.ini"


@pytest.mark.parametrize(
    ("section", "remedy"),
    [
        (
            "setup = module load gcc",
            "add the line Runner = mpifarm.runners.BasicRunner",
        ),
        ("Runer = mpifarm.runners.BasicRunner", "write Runner instead of Runer"),
        ("runner = mpifarm.runners.BasicRunner", "write Runner instead of runner"),
        ("Task_List = a.B", "write TaskList instead of Task_List"),
        ("", "add the line Runner ="),
    ],
)
def test_a_default_that_defines_nothing_is_refused_in_files_of_mpifarms_own(
    places, write, section, remedy
):
    path = write(OWN, f"[default]\n{section}\n")
    for said in (
        runner_complaint(places, "default"),
        handler_complaint(places, "default"),
    ):
        assert f"section [default] of {path} defines nothing" in said
        assert remedy in said
    config = write(CONFIG, f"[default]\n{section}\n")
    said = runner_complaint(with_config(places, config), "default")
    assert f"section [default] of {config} defines nothing" in said


def test_a_default_of_the_other_kind_or_of_pytaskfarmers_defines_nothing_wrong(
    places, write
):
    write(OWN, "[default]\nTaskList = a.B\n")
    write(PLAIN_RUNNERS, "[default]\nsetup = x\n")
    write(HERE, "[default]\nverbose = 1\n")
    assert find_runner("default", places) == RunnerDefinition("default")


def test_each_section_of_mpifarms_own_files_that_defines_nothing_is_told(places, write):
    own = write(OWN, "[slow]\nRuner = x.Y\n")
    config = write(CONFIG, "[runner]\nsetup = x\n[reco]\nRunner = a.B\n")
    write(PLAIN_RUNNERS, "[hollow]\nsetup = x\n")
    write(HERE, "[hollow]\nsetup = x\n")
    first, second = find_idle_sections(with_config(places, config), "reco", "default")
    assert first.startswith(f"WARNING: section [runner] of {config} defines nothing")
    assert second.startswith(f"WARNING: section [slow] of {own} defines nothing")
    assert second.endswith("write Runner instead of Runer")


def test_options_have_no_effect_but_in_the_file_that_is_for_them(places, write):
    own = write(OWN, "[options]\nproc = 3\n")
    place = os.path.join(os.path.dirname(own), "config.ini")
    (told,) = find_idle_sections(places, "default", "default")
    assert told == (
        f"WARNING: section [options] of {own} has no effect there: move it to {place}"
    )
    os.rename(own, place)
    assert list(find_idle_sections(places, "default", "default")) == []


def test_options_in_the_file_of_config_are_told_unless_they_are_read(
    places, write, tmp_path
):
    text = "[options]\nproc = 3\n[reco]\nRunner = a.B\n"

    def warnings(path, *site_places):
        of_config = replace(with_config(places, path), site_places=site_places)
        return [*find_idle_sections(of_config, "reco", "default")]

    config = write(CONFIG, text)
    (told,) = warnings(config)
    assert told.startswith(f"WARNING: section [options] of {config} has no effect")
    assert warnings(config, config) == []
    assert warnings(config, os.path.dirname(config)) == []
    assert warnings(write(PROJECT, text)) == []
    assert warnings(write("elsewhere/mpifarm.ini", text)) == []


def test_files_are_searched_also_where_the_directory_is_gone(
    places, tmp_path, monkeypatch, write
):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    places = replace(places, directory=".")
    own = write(OWN, "[options]\nproc = 3\n")
    (told,) = find_idle_sections(places, "default", "default")
    assert f"section [options] of {own} has no effect there" in told


def test_sections_of_a_file_of_options_are_told_by_who_reads_these(places, write):
    own = write(OWN, "[option]\nproc = 3\n")
    os.rename(own, os.path.join(os.path.dirname(own), "config.ini"))
    assert list(find_idle_sections(places, "default", "default")) == []
    here = write(PROJECT, "[option]\nproc = 3\n[reco]\nRunner = a.B\n")
    places = with_config(places, here)
    assert list(find_idle_sections(places, "reco", "default")) == []


def test_a_config_that_a_file_has_set_need_not_be_used(places, write):
    config = write(CONFIG, "[reco]\nRunner = a.B\n")
    places = replace(places, config=config, is_typed=False)
    assert list(find_idle_sections(places, "default", "default")) == []


def test_a_config_that_nothing_is_taken_from_is_told_with_the_options_that_would(
    places, write
):
    config = write(CONFIG, "[reco]\nRunner = a.B\n[db]\nTaskList = a.C\n")
    places = with_config(places, config)
    (told,) = find_idle_sections(places, "default", "default")
    assert told == (
        f"WARNING: --config {config} has no effect without --runner reco or"
        " --tasklist db"
    )
    assert list(find_idle_sections(places, "reco", "default")) == []
    assert list(find_idle_sections(places, "default", "db")) == []
    empty = with_config(places, write(CONFIG, ""))
    (told,) = find_idle_sections(empty, "default", "default")
    assert told.endswith(
        "has no effect: no section of it defines a runner, a handler or a hook"
    )


def test_a_number_for_a_handler_is_told_as_what_task_is_short_for(places):
    told = handler_complaint(places, "3")
    assert "-t, --task and --ta are short for --tasklist: write --proc 3 for" in told


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ("Tasklist = a.B", "defines nothing: write TaskList instead of Tasklist"),
        ("runner = a.B", "defines nothing: write Runner instead of runner"),
        ("setup = x", "defines nothing: for a runner, add the line Runner ="),
    ],
)
def test_a_section_of_config_that_defines_nothing_is_refused_for_no_other_files(
    places, write, section, why
):
    write(HERE, "[conv]\nTaskList = other.B\n")
    write(OWN, "[conv]\nRunner = other.B\n")
    config = write(CONFIG, f"[conv]\n{section}\n")
    places = with_config(places, config)
    for said in (handler_complaint(places, "conv"), runner_complaint(places, "conv")):
        assert said.startswith(f"section [conv] of {config} {why}")


def test_a_misspelt_key_beside_one_of_the_other_kind_is_refused(places, write):
    write(HERE, "[conv]\nTaskList = other.B\n")
    config = write(CONFIG, "[conv]\nRunner = a.B\nTasklist = a.C\n")
    places = with_config(places, config)
    assert handler_complaint(places, "conv") == (
        f"section [conv] of {config} defines no tasklist handler: write TaskList"
        " instead of Tasklist"
    )
    assert find_runner("conv", places).source == config


def test_what_comes_from_another_file_than_that_of_config_is_told_with_it(
    places, write
):
    here = write(HERE, "[db]\nTaskList = a.C\n")
    config = write(CONFIG, "[reco]\nRunner = a.B\n")
    (told,) = find_idle_sections(with_config(places, config), "reco", "db")
    assert told == (
        f"the tasklist handler db is that of {here}: {config} has no section [db] with"
        " TaskList"
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("events", "--events FILE"),
        ("event", "--events FILE"),
        ("metrics", "--metrics FILE"),
        ("on-end", "--on-end COMMAND"),
        ("on_failure", "--on-failure COMMAND"),
        ("wacht", "'watch'"),
    ],
)
def test_a_hook_that_has_an_option_of_its_own_is_named_by_that(
    places, write, name, meant
):
    write(OWN, "[watch]\nHook = a.B\n")
    with pytest.raises(InputError, match=f"; did you mean {meant}\\?$"):
        find_hook(name, places)


def test_a_setup_of_the_command_line_is_an_option_of_the_runner(places, write):
    setup = "source env.sh"
    found = find_runner("default", places, setup)
    assert found == RunnerDefinition(options={"setup": setup})
    write(OWN, "[mine]\nRunner = mpifarm.runners.BasicRunner\nshell = always\n")
    found = find_runner("mine", places, setup)
    assert found.options == {"shell": "always", "setup": setup}
    assert find_runner("mine", places).options == {"shell": "always"}


# ---- files that strangers could have written -----------------------------------------


@pytest.mark.parametrize("place", [OWN, HERE, PROJECT, CONFIG])
@pytest.mark.parametrize("name", ["default", "x"])
def test_a_definition_that_everyone_could_have_written_is_refused(
    places, write, place, name
):
    path = write(place, f"[{name}]\nTaskList = a.B\nRunner = a.C\n")
    if place == CONFIG:  # as a default, which nobody has typed
        places = replace(places, config=path)
    os.chmod(path, 0o666)
    named = f"--config {path}" if place == CONFIG else path
    told = (
        f"{name!r} of {named} is not used: everyone may write {path}, and it would run"
        f" as you: chmod go-w {path}"
    )
    assert handler_complaint(places, name) == f"the tasklist handler {told}"
    if place in (OWN, CONFIG):
        assert runner_complaint(places, name) == f"the runner {told}"
    os.chmod(path, 0o644)
    assert find_handler(name, places).python_class == "a.B"


def test_a_definition_in_a_file_of_another_user_is_refused(places, write, monkeypatch):
    path = write(HERE, "[x]\nTaskList = a.B\n")
    stranger = SimpleNamespace(st_uid=4_000_000, st_mode=0o100644)
    find_status = trust._find_status
    monkeypatch.setattr(
        trust,
        "_find_status",
        lambda each: stranger if each == path else find_status(each),
    )
    assert handler_complaint(places) == (
        f"the tasklist handler 'x' of {path} is not used: {path} belongs to user"
        " 4000000, not to you or root, and it would run as you: read it, and name it"
        f" with --config {path} if it is right"
    )
    assert find_handler("x", with_config(places, path)).python_class == "a.B"


def test_a_definition_behind_the_one_that_is_used_may_be_a_strangers(places, write):
    write(OWN, "[x]\nRunner = a.B\n")
    os.chmod(write("home/.config/mpifarm/a.ini", "[x]\nRunner = evil.B\n"), 0o666)
    assert find_runner("x", places).python_class == "a.B"


def test_a_file_that_is_gone_before_it_is_judged_is_not_used(
    places, write, monkeypatch
):
    path = write(OWN, "[x]\nRunner = a.B\n")

    def remove(path: str) -> Any:
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(trust, "judge_file", remove)
    assert runner_complaint(places) == (
        f"can't read {path}: No such file or directory; try again"
    )


@pytest.mark.parametrize("place", [PLAIN_RUNNERS, CONFIG])
def test_of_a_file_that_is_typed_or_pytaskfarmers_a_warning_tells(places, write, place):
    path = write(place, "[x]\nRunner = a.B\n[watch]\nHook = a.C\n")
    os.chmod(path, 0o666)
    if place == CONFIG:
        places = with_config(places, path)
    assert find_runner("x", places).python_class == "a.B"
    (told,) = find_untrusted(places)
    assert told == (
        f"WARNING: {path} says what runs as you, and everyone may write {path}:"
        f" chmod go-w {path}"
    )
    os.chmod(path, 0o644)
    assert [*find_untrusted(places)] == []


def test_a_hook_is_refused_in_a_file_that_is_typed(places, write):
    path = write(CONFIG, "[watch]\nHook = a.C\n")
    places = with_config(places, path)
    os.chmod(path, 0o666)
    with pytest.raises(InputError, match=f"as you: chmod go-w {path}$"):
        find_hook("watch", places)


def test_a_file_that_everyone_could_have_written_is_left_out_with_a_warning(
    places, write
):
    own = write(OWN, "[x]\nRunner = a.B\n[hollow]\nk = 1\n")
    config = write(CONFIG, "[y]\nRunner = a.B\n[hollow]\nk = 1\n")
    options = write("home/.config/mpifarm/config.ini", "[y]\nRunner = a.B\n")
    for path in (own, config, options):
        os.chmod(path, 0o666)
    places = replace(places, config=config)
    assert find_runner("default", places) == RunnerDefinition()
    # The reader of the options tells of config.ini.
    assert [*find_untrusted(places)] == [
        f"WARNING: the sections of {path} are left out: everyone may write {path}, and"
        f" they would say what runs as you: chmod go-w {path}"
        for path in (config, own)
    ]
    assert [*find_idle_sections(places, "default", "default")] == []


@pytest.fixture
def of_stranger(monkeypatch):
    """Let paths belong to another user."""
    find_status, theirs = trust._find_status, set[str]()

    def find_changed_status(path: str) -> Any:
        status = find_status(path)
        uid = 4_000_000 if path in theirs else status.st_uid
        return SimpleNamespace(st_uid=uid, st_mode=status.st_mode)

    monkeypatch.setattr(trust, "_find_status", find_changed_status)
    return theirs.add


DEFINED = "[x]\nTaskList = a.B\nRunner = a.C\n[watch]\nHook = a.D\n"


@pytest.mark.parametrize(
    ("place", "key"),
    [(OWN, "runner"), (CONFIG, "runner"), (HERE, "handler"), (PROJECT, "handler")],
)
def test_ones_own_file_below_a_directory_of_another_user_is_used_with_a_warning(
    places, write, of_stranger, tmp_path, place, key
):
    path = write(place, DEFINED)
    if place == CONFIG:  # as a default, which nobody has typed
        places = replace(places, config=path)
    of_stranger(str(tmp_path))
    find: Any = {"runner": find_runner, "handler": find_handler}[key]
    assert find("x", places).source == path
    (told,) = find_untrusted(places, **{key: "x"})
    assert told == (
        f"WARNING: {path} says what runs as you, and {tmp_path} belongs to user"
        f" 4000000, not to you or root: move it out of {tmp_path} unless you trust the"
        " owner of that directory"
    )
    assert [*find_untrusted(places)] == []
    of_stranger(path)
    with pytest.raises(InputError, match=f"{path} belongs to user 4000000"):
        find("x", places)


def test_a_hook_in_ones_own_file_below_a_directory_of_another_user_is_refused(
    places, write, of_stranger, tmp_path
):
    write(OWN, DEFINED)
    of_stranger(str(tmp_path))
    with pytest.raises(InputError, match=f"{tmp_path} belongs to user 4000000"):
        find_hook("watch", places)


def test_a_hollow_section_in_a_file_that_is_used_is_told(
    places, write, of_stranger, tmp_path
):
    path = write(OWN, "[hollow]\nk = 1\n")
    of_stranger(str(tmp_path))
    (told,) = find_idle_sections(places, "default", "default")
    assert f"section [hollow] of {path} defines nothing" in told


def test_a_cause_is_told_once_with_the_first_of_its_files(places, write, tmp_path):
    used = [write(f"home/.pytaskfarmer/runners.d/{n}.ini", "") for n in "cba"]
    left_out = [write(f"home/.config/mpifarm/{n}.ini", "") for n in "ba"]
    home = tmp_path / "home"
    home.chmod(0o777)
    says = f"WARNING: {used[0]} and 2 other files say what runs as you"
    why = f"everyone may write {home}"
    (told,) = find_untrusted(places)
    assert told == (
        f"{says}, the sections of {left_out[0]} and 1 other file are left out, and"
        f" {why}: chmod go-w {home}"
    )
    for path in left_out:
        os.remove(path)
    assert [*find_untrusted(places)] == [f"{says}, and {why}: chmod go-w {home}"]


def test_many_files_below_a_directory_that_the_user_cant_mend_are_to_be_copied(
    places, write, monkeypatch, tmp_path
):
    left_out = [write(f"home/.config/mpifarm/{n}.ini", "") for n in "ba"]
    home = tmp_path / "home"
    home.chmod(0o777)
    find_status, user = trust._find_status, os.geteuid() + 1

    def find_status_of_root(path: str) -> Any:
        return SimpleNamespace(st_uid=0, st_mode=find_status(path).st_mode)

    monkeypatch.setattr(trust, "_find_status", find_status_of_root)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    (told,) = find_untrusted(places)
    assert told == (
        f"WARNING: the sections of {left_out[0]} and 1 other file are left out:"
        f" everyone may write {home}, and they would say what runs as you: use copies"
        " of them that are yours, in a directory of yours"
    )


def test_a_link_to_nothing_is_no_strangers_file(places, tmp_path, write):
    link = tmp_path / PLAIN_RUNNERS
    link.parent.mkdir(parents=True)
    link.symlink_to("nowhere")
    assert [*find_untrusted(places)] == []


def test_two_setups_of_one_runner_are_refused(places, write):
    write(OWN, "[mine]\nRunner = mpifarm.runners.BasicRunner\nsetup = true\n")
    with pytest.raises(InputError, match="has a setup, and --setup"):
        find_runner("mine", places, "source env.sh")
