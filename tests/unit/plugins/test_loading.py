"""The user's classes by their names; messages name the class that may be meant."""

import sys

import pytest

import mpifarm
from mpifarm.errors import InputError
from mpifarm.plugins.loading import (
    check_options,
    import_class,
    in_one_line,
    nearest,
)


@pytest.fixture
def create_module(tmp_path, monkeypatch):
    """Write a module, importable until the test's end.  Return its path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)

    def create(name, content=""):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return str(path)

    yield create
    for name in set(sys.modules) - known:
        del sys.modules[name]


def complaint(dotted):
    with pytest.raises(InputError) as caught:
        import_class(dotted)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_class_is_found_by_its_dotted_name(create_module):
    create_module("odd-name", "class Own: pass")
    assert import_class("mpifarm.errors.InputError") is InputError
    assert import_class("odd-name.Own").__name__ == "Own"


@pytest.mark.parametrize(
    "value", ['"a.b.C"', "'a.b.C'", "a.b.C ; note", "a.b.C # note", "a.b.C;note"]
)
def test_quotes_and_comments_in_the_value_are_told(value):
    said = complaint(value)
    assert said.startswith(f"{value!r} is not the name of a class: write")
    assert "without quotes, and move a comment to a line of its own" in said


@pytest.mark.parametrize("value", ["", "C"])
def test_a_name_without_a_module_is_told(value):
    assert "is not the name of a class: write package.module.Class" in complaint(value)


def test_a_package_that_is_not_there_is_told_with_the_remedy():
    said = complaint("nowhere_at_all.module.Class")
    assert said.endswith(
        ": install nowhere_at_all, or put its directory into PYTHONPATH"
    )


def test_what_a_users_module_needs_is_told_as_well(create_module):
    create_module("needy", "import nowhere_at_all")
    assert "install nowhere_at_all, or put" in complaint("needy.Class")


def test_pytaskfarmer_is_to_be_installed_only_where_it_is_missing(create_module):
    assert "pip install PyTaskFarmer" in complaint("taskfarmer.runner.BasicRunner")
    for name in ("__init__", "runners", "task"):
        create_module(f"taskfarmer/{name}")
    said = complaint("taskfarmer.runner.BasicRunner")
    assert said.endswith("taskfarmer has no module 'runner', did you mean 'runners'?")
    assert complaint("taskfarmer.zzz.C").endswith("taskfarmer has no module 'zzz'")


def test_a_module_is_no_package():
    assert complaint("io.nothing.C").endswith("io has no module 'nothing'")


def test_a_class_that_is_not_in_its_module_is_told_with_the_file():
    assert complaint("mpifarm.errors.None_") == (
        "the class mpifarm.errors.None_ can't be imported:"
        f" {mpifarm.__path__[0]}/errors.py has no None_; correct the name in the INI"
        " file, or define the class"
    )


@pytest.mark.parametrize("code", ["1 / 0", "import sys; sys.exit(7)"])
def test_a_module_that_fails_is_told_with_its_place(create_module, code):
    path = create_module("failing", f"\n{code}\n")
    assert f", raised in {path}, line 2)" in complaint("failing.Class")


# ---- exceptions ----------------------------------------------------------------------


def raised_in(path):
    with pytest.raises(ValueError, match="odd") as caught:
        exec(compile("raise ValueError('odd\\n one')", path, "exec"))
    return in_one_line(caught.value)


def test_an_exception_is_told_with_the_users_line_and_not_with_ours():
    package = mpifarm.__path__[0]
    for path in ("/x/own.py", f"{package}_plugins/own.py"):
        assert raised_in(path) == f"ValueError: odd one, raised in {path}, line 1"
    for path in (f"{package}/runners.py", "<frozen importlib>"):
        assert raised_in(path) == "ValueError: odd one"


# ---- options -------------------------------------------------------------------------


class Takes:
    def __init__(self, first, second, depth, *, width="1"):
        pass


def check(options, given=()):
    with pytest.raises(InputError) as caught:
        check_options(Takes, "m.Takes", options, given)
    return str(caught.value)


def test_options_are_those_behind_what_is_given():
    check_options(Takes, "m.Takes", {"depth": "1"}, ("a path", "a place"))
    assert check({"first": "x"}, ("a path", "a place")) == (
        "misses the option depth, and doesn't know the option first:"
        " m.Takes takes depth, width"
    )
    assert check({}) == (
        "misses the option depth and first and second:"
        " m.Takes takes depth, first, second, width"
    )


def test_a_class_that_does_not_take_what_is_given_is_told_in_the_givers_words():
    assert check({}, ["a path", "a place", "a day", "an hour"]) == (
        "can't be made: m.Takes doesn't take a path and a place and a day and an hour"
        " as its first arguments"
    )


class TakesAny:
    def __init__(self, first, *, needed, **options):
        pass


class TakesMore:
    def __init__(self, *parts, width="1"):
        pass


class TakesNone:
    pass


@pytest.mark.parametrize(
    ("python_class", "options", "given", "said"),
    [
        (TakesAny, {"needed": "1", "other": "2"}, ["a path"], None),
        (
            TakesAny,
            {"other": "2"},
            ["a path"],
            "misses the option needed: C takes needed",
        ),
        (
            TakesAny,
            {"needed": "1"},
            [],
            "misses the option first: C takes first, needed",
        ),
        (TakesMore, {}, ["a", "b", "c"], None),
        (TakesMore, {"width": "2"}, [], None),
        (
            TakesMore,
            {"widht": "2"},
            [],
            "doesn't know the option widht (did you mean width?): C takes width",
        ),
        (
            TakesMore,
            {"x": "2"},
            [],
            "doesn't know the option x: C takes width",
        ),
        (TakesNone, {}, [], None),
        (TakesNone, {"x": "2"}, [], "doesn't know the option x: C takes no options"),
        (
            TakesNone,
            {},
            ["a path"],
            "can't be made: C doesn't take a path as its first",
        ),
        (type, {"x": "2"}, [], None),
    ],
)
def test_each_signature_says_what_it_takes(python_class, options, given, said):
    if said is None:
        check_options(python_class, "C", options, given)
        return
    with pytest.raises(InputError) as caught:
        check_options(python_class, "C", options, given)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("path", "added"), [(["/x"], True), (["/x", ""], False), (["/x", "HERE"], False)]
)
def test_the_current_directory_is_searched_last_and_once(
    monkeypatch, tmp_path, path, added
):
    monkeypatch.chdir(tmp_path)
    before = [str(tmp_path) if each == "HERE" else each for each in path]
    monkeypatch.setattr(sys, "path", [*before])
    import_class("mpifarm.errors.InputError")
    assert sys.path == [*before, *[str(tmp_path)] * added]


def test_an_exception_without_a_text_is_told_by_its_type():
    assert in_one_line(ValueError()) == "ValueError"
    assert in_one_line(ValueError("a\n  b")) == "ValueError: a b"


@pytest.mark.parametrize(
    ("option", "said"), [("widht", " (did you mean width?)"), ("xyz", ""), ("", "")]
)
def test_an_option_that_is_near_is_asked_for(option, said):
    assert nearest(option, ["width", "depth"]) == said


def test_a_module_without_a_file_is_named_where_it_lacks_a_class():
    with pytest.raises(InputError, match="imported: sys has no Nothing; correct the"):
        import_class("sys.Nothing")
    with pytest.raises(InputError, match=r"imported: /.*json/__init__\.py has no Not"):
        import_class("json.Nothing")
