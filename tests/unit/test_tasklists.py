"""Tasklists: ids and texts are PyTaskFarmer's; a mistake gives one sentence."""

import importlib
import io
import os
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpifarm.errors import ExitStatus, InputError
from mpifarm.model.settings import HandlerDefinition
from mpifarm.order.constraints import Barrier, Constraints
from mpifarm.tasklists import (
    ListReader,
    ListTaskList,
    OptionError,
    TaskList,
    end_ids,
    find_constraints,
    keeps_own_state,
    open_tasklist,
    parse_tasks,
    read_lines,
    read_list,
)


def never():
    raise AssertionError("the workdir was made")


def nothing():
    """Keep a workdir that existed before."""
    return lambda: None


def open_default(path) -> TaskList:
    return open_tasklist(HandlerDefinition(), str(path), "workdir", never)


def tasks_of(tmp_path, content: bytes) -> list[str]:
    path = tmp_path / "tasks.txt"
    path.write_bytes(content)
    tasklist = open_default(path)
    assert [tasklist[taskid] for taskid in range(len(tasklist))] == tasklist.tasks
    return tasklist.tasks


def pytaskfarmer_tasks(content: bytes) -> list[str]:
    """Return the tasks that PyTaskFarmer 0.0.1 and 0.1.0 read in a file."""
    in_tasks = io.TextIOWrapper(
        io.BytesIO(content), encoding="utf-8", errors="surrogateescape"
    )
    # fmt: off
    return [line.strip() for line in in_tasks.readlines() if not line.startswith('#') and line.strip()!='']  # noqa: E501
    # fmt: on


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n\n  \n\t\n", []),
        (b"# only\n#comments", []),
        (b"a", ["a"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\r\rc", ["a", "b", "c"]),
        (b"a\n\r\nb", ["a", "b"]),
        (b"# c\na\n#b\n\nc # not a comment\n", ["a", "c # not a comment"]),
        (b" # a task\n", ["# a task"]),
        (b"  a  b  \n", ["a  b"]),
        ("\u00a0\n\u00a0a\u00a0\n".encode(), ["a"]),
        (b"a\fb\n\f\n\v\n", ["a\fb"]),
        ("a\u0085b\n\u0085\n".encode(), ["a\u0085b"]),
        ("a\u2028b\n\u2028c".encode(), ["a\u2028b", "c"]),
        (b"a\x1cb\x1d\n\x1e\x1f\n", ["a\x1cb"]),
        (b"\x1a\n", ["\x1a"]),
        ("\ufeffa\n\ufeff# b\n".encode(), ["\ufeffa", "\ufeff# b"]),
        (b"caf\xe9 \xff\n\x85\n\xa0\n", ["caf\udce9 \udcff", "\udc85", "\udca0"]),
        (b"# \0 in a comment\na\n", ["a"]),
        (b"x" * 5000 + b"\nb", ["x" * 5000, "b"]),
        (b"y" * 1_000_000 + b"\nb", ["y" * 1_000_000, "b"]),
    ],
)
def test_lines_and_white_space_are_what_python_makes_of_them(
    tmp_path, content, expected
):
    assert tasks_of(tmp_path, content) == expected == pytaskfarmer_tasks(content)


PIECES = st.one_of(
    st.sampled_from([
        "\n", "\r", "\r\n", "\f", "\v", "\x1c", "\x1d", "\x1e", "\x1f", "\x85",
        "\u00a0", "\u2028", "\u2029", "\u3000", "\u200b", "\ufeff", " ", "\t", "#", "a",
    ]).map(str.encode),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=6).map(
        str.encode
    ),
    st.binary(max_size=4).map(lambda some: some.replace(b"\0", b"")),
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map(b"".join))
@example(b"\xef\xbb\xbf#\r\n#\r \r\n a")
def test_ids_and_texts_are_exactly_those_of_pytaskfarmer(tmp_path_factory, content):
    tmp_path = tmp_path_factory.getbasetemp()
    assert tasks_of(tmp_path, content) == pytaskfarmer_tasks(content)


@given(st.lists(PIECES, max_size=30).map(b"".join))
def test_texts_are_the_bytes_of_the_file(content):
    text = content.decode("utf-8", "surrogateescape")
    for task in parse_tasks(text.split("\n")):
        assert task.encode("utf-8", "surrogateescape") in content


# ---- what is wrong ------------------------------------------------------------------


def sentence(path) -> str:
    with pytest.raises(InputError) as caught:
        open_default(path)
    assert caught.value.exit_status == ExitStatus.BAD_INPUT
    return str(caught.value)


def test_a_missing_tasklist_is_named(tmp_path):
    assert sentence(tmp_path / "no.txt") == (
        f"can't read the tasklist {tmp_path}/no.txt: there is no such file"
    )


def test_a_missing_tasklist_is_told_with_the_near_name_beside_it(tmp_path, monkeypatch):
    (tmp_path / "my.txt").touch()
    (tmp_path / "my.tx_workdir").mkdir()
    near = f": there is no such file: did you mean {tmp_path}/my.txt?"
    assert sentence(tmp_path / "my.tx").endswith(near)
    assert sentence(tmp_path / "yours.txt").endswith(": there is no such file")
    assert sentence(tmp_path / "no" / "my.tx").endswith(": there is no such file")
    monkeypatch.chdir(tmp_path)
    assert sentence("my.tx").endswith(": did you mean my.txt?")
    (tmp_path / "a list.txt").touch()
    assert sentence("alist.txt").endswith(": did you mean 'a list.txt'?")
    assert sentence("a lst.txt").endswith(
        ": there is no such file: did you mean 'a list.txt', or a command, with ::: in"
        " front of it?"
    )
    assert sentence("no list here.txt").endswith(
        ": there is no such file; to run it as a command, write ::: in front of it"
    )


def test_a_directory_is_no_tasklist(tmp_path):
    assert "it is a directory" in sentence(tmp_path)


def test_a_path_through_a_file_is_told(tmp_path):
    (tmp_path / "file").touch()
    assert "Not a directory" in sentence(tmp_path / "file" / "tasks.txt")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied"), "no permission"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_an_unreadable_tasklist_is_told(monkeypatch, error, told):
    def refuse(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match=told):
        ListTaskList("tasks.txt", "workdir")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a\0b\n", 1),
        (b"# \0\n\n\na\nb\0\n", 5),
        (b"a\r\nb\rc\0", 3),
        (b"a\n\0\n", 2),
    ],
)
def test_a_nul_byte_is_told_with_its_line_in_the_file(tmp_path, content, line):
    path = tmp_path / "tasks.txt"
    path.write_bytes(content)
    assert f"line {line} of the tasklist {path} has a NUL byte" in sentence(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_list_in_utf_16_is_told_with_what_converts_it(tmp_path, encoding):
    path = tmp_path / "tasks.txt"
    path.write_bytes("\ufeffecho ä\n".encode(encoding))
    assert f"the tasklist {path} is UTF-16" in sentence(path)
    assert f"iconv -f UTF-16 -t UTF-8 {path}" in sentence(path)


def test_a_million_tasks_are_read_without_a_step_of_python_for_each(tmp_path):
    path = tmp_path / "tasks.txt"
    path.write_text("".join(f"echo task {n} --of many\n" for n in range(1_000_000)))
    steps = 0

    def count(*_: object) -> Any:
        nonlocal steps
        steps += 1
        return count

    tracing = sys.gettrace()
    sys.settrace(count)
    try:
        length = len(open_default(path))
    finally:
        sys.settrace(tracing)
    assert length == 1_000_000
    assert steps < 100_000


# ---- handlers of the user's ----------------------------------------------------------


class Capitals(ListTaskList):
    """A handler that takes an option, and makes commands of the texts."""

    def __init__(self, path, workdir, greeting, mark="!"):
        super().__init__(path, workdir)
        self.greeting = greeting
        self.mark = mark

    def __getitem__(self, taskid):
        return f"{self.greeting} {self.tasks[taskid].upper()}{self.mark}"


class Made:
    """A handler without a base class; the test gives its `texts`."""

    texts: ClassVar[Any] = ["a", "b"]
    count = 2

    def __init__(self, path, workdir, **options):
        self.tasks = self.texts
        self.options = options

    def __len__(self):
        return self.count

    def __getitem__(self, taskid):
        return self.tasks[taskid]


@pytest.fixture
def open_users(monkeypatch, tmp_path):
    """Return a function that opens a list with a class of the user, by its name."""
    path = tmp_path / "tasks.txt"
    path.write_text("one\ntwo\n")

    def open_with(python_class, make_workdir=nothing, **options):
        module: Any = types.ModuleType("handlers")
        module.Handler = python_class
        monkeypatch.setitem(sys.modules, "handlers", module)
        definition = HandlerDefinition("mine", "handlers.Handler", options, "my.ini")
        return open_tasklist(definition, str(path), "workdir", make_workdir)

    return open_with


def complaint(open_users, python_class, **options) -> str:
    with pytest.raises(InputError) as caught:
        open_users(python_class, **options)
    said = str(caught.value)
    assert "'mine' in my.ini" in said
    assert "\n" not in said
    return said


def test_a_users_class_gets_its_options_and_makes_the_commands(open_users):
    tasks = open_users(Capitals, greeting="hello")
    assert tasks.tasks == ["one", "two"]
    assert [tasks[0], tasks[1]] == ["hello ONE!", "hello TWO!"]


def test_a_users_class_finds_the_workdir_made(open_users):
    order = []

    class Looks(ListTaskList):
        def __init__(self, path, workdir):
            order.append("constructor")
            super().__init__(path, workdir)

    def make():
        order.append("workdir")
        return lambda: order.append("taken back")

    open_users(Looks, make_workdir=make)
    assert order == ["workdir", "constructor"]


class Raises(ListTaskList):
    def __init__(self, path, workdir):
        raise ValueError("no good")


class Exits(ListTaskList):
    def __init__(self, path, workdir):
        sys.exit(3)


class ReadsAnother(ListTaskList):
    def __init__(self, path, workdir):
        super().__init__("no/such/list.txt", workdir)


class LineBreaks(ListTaskList):
    def __init__(self, path, workdir):
        super().__init__(path, workdir)
        self.tasks = [f"{text}\n" for text in self.tasks]


class NoCommands(ListTaskList):
    def __getitem__(self, taskid):
        raise LookupError(f"nothing for {self.tasks[taskid]}")


def make_list(path, workdir):
    return ListTaskList(path, workdir)


class Borrows:
    def __init__(self, path, workdir):
        self.tasks = ListTaskList(path, workdir).tasks

    def __len__(self):
        return len(self.tasks)

    def __getitem__(self, taskid):
        return self.tasks[taskid]


class AddsOne(Borrows):
    def __init__(self, path, workdir):
        self.tasks = ListTaskList(path, workdir).tasks + ["last"]  # noqa: RUF005


@pytest.mark.parametrize(
    ("python_class", "texts"),
    [
        (make_list, ["one", "two"]),
        (Borrows, ["one", "two"]),
        (AddsOne, ["one", "two", "last"]),
    ],
)
def test_a_class_may_use_the_list_of_another(open_users, python_class, texts):
    tasks = open_users(python_class)
    assert [*tasks.tasks] == texts
    assert [tasks[taskid] for taskid in range(len(texts))] == texts


@pytest.mark.parametrize(
    "python_class", [Raises, Exits, ReadsAnother, LineBreaks, NoCommands]
)
def test_the_workdir_is_taken_back_where_the_class_is_wrong(open_users, python_class):
    done = []

    def make():
        done.append("made")
        return lambda: done.append("taken back")

    with pytest.raises(InputError):
        open_users(python_class, make_workdir=make)
    assert done == ["made", "taken back"]


def test_a_missing_option_is_told_before_the_workdir_is_made(open_users):
    said = complaint(open_users, Capitals, make_workdir=never)
    assert "misses the option greeting" in said
    assert "takes greeting, mark" in said


def test_an_unknown_option_is_told_with_those_that_there_are(open_users):
    said = complaint(
        open_users, Capitals, greeting="hi", gretting="hi", make_workdir=never
    )
    assert "doesn't know the option gretting" in said
    assert "takes greeting, mark" in said


def test_missing_and_unknown_options_are_told_together(open_users):
    said = complaint(open_users, Capitals, gretting="hi", make_workdir=never)
    assert "misses the option greeting, and doesn't know the option gretting" in said


@pytest.mark.parametrize("name", ["path", "workdir", "self"])
def test_what_every_handler_gets_is_no_option(open_users, name):
    with pytest.raises(InputError, match=f"doesn't know the option {name}"):
        open_users(Capitals, never, **{"greeting": "hi", name: "x"})


def test_the_default_handler_takes_no_options(tmp_path):
    definition = HandlerDefinition(
        "default", "mpifarm.tasklists.ListTaskList", {"shell": "no"}, "my.ini"
    )
    with pytest.raises(InputError, match=r"in my\.ini doesn't know the option shell"):
        open_tasklist(definition, str(tmp_path / "no"), "workdir", never)


def test_a_class_with_keyword_arguments_of_any_name_takes_any_option(open_users):
    assert open_users(Made, anything="goes").options == {"anything": "goes"}


def test_a_class_that_takes_no_paths_is_no_handler(open_users):
    class OnlyPath:
        def __init__(self, path):
            pass

    said = complaint(open_users, OnlyPath, make_workdir=never)
    assert "handlers.Handler doesn't take the path of the tasklist and that of" in said


def test_options_by_keyword_only_are_options(open_users):
    class Strict(ListTaskList):
        def __init__(self, *paths, depth):
            super().__init__(*paths)
            self.depth = depth

    assert open_users(Strict, depth="3").depth == "3"
    assert "misses the option depth" in complaint(open_users, Strict)


def test_what_the_constructor_raises_is_one_sentence_with_its_place(open_users):
    class Broken(ListTaskList):
        def __init__(self, path, workdir):
            raise ValueError("first line\nsecond line")

    said = complaint(open_users, Broken)
    assert "ValueError: first line second line" in said
    assert f"raised in {__file__}, line " in said


def test_code_that_exits_does_not_end_the_farm_by_itself(open_users):
    class ExitsLater(ListTaskList):
        def __getitem__(self, taskid):
            sys.exit(4)

    class ExitsWhenCounted(ListTaskList):
        def __len__(self):  # noqa: PLE0303
            sys.exit(5)

    assert "SystemExit: 3" in complaint(open_users, Exits)
    assert "command of task 0: SystemExit: 4" in complaint(open_users, ExitsLater)
    assert "how many tasks it has: SystemExit: 5" in complaint(
        open_users, ExitsWhenCounted
    )


def test_an_input_error_of_the_constructor_is_told_with_the_handler(open_users):
    class Refuses(ListTaskList):
        def __init__(self, path, workdir):
            raise InputError("the list is too odd")

    assert complaint(open_users, Refuses).endswith("my.ini: the list is too odd")


def test_a_list_that_can_not_be_read_is_told_without_the_handler(open_users):
    with pytest.raises(InputError, match=r"^can't read the tasklist no/such/list\.txt"):
        open_users(ReadsAnother)


def test_an_option_error_is_told_with_the_handler_and_its_file(open_users):
    class Refuses(ListTaskList):
        def __init__(self, path, workdir, depth):
            raise OptionError("depth is no number")

    assert complaint(open_users, Refuses, depth="x").endswith(": depth is no number")


def test_a_class_that_is_not_there_is_told_with_the_handler(tmp_path):
    definition = HandlerDefinition("mine", "no.such.Handler", {}, "my.ini")
    with pytest.raises(InputError, match=r"'mine' in my\.ini .* no\.such\.Handler"):
        open_tasklist(definition, str(tmp_path), "workdir", never)


def test_a_runner_is_no_handler_and_told_before_it_is_made(tmp_path):
    runner = "mpifarm.runners.BasicRunner"
    definition = HandlerDefinition("p", runner, {}, "h.ini")
    with pytest.raises(InputError) as caught:
        open_tasklist(definition, str(tmp_path), "workdir", never)
    assert str(caught.value) == (
        f"the tasklist handler 'p' in h.ini names {runner}, which is a runner: write"
        " Runner = in place of TaskList =, and give --runner p, or name the class of a"
        " handler after TaskList ="
    )


def test_a_name_that_is_no_class_is_told(open_users):
    assert "is not a class" in complaint(open_users, 17, make_workdir=never)


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["a", 1], "'1'; put one line of UTF-8 text into self.tasks for each task"),
        (["a", 1], "of task 1 that is not a str but int"),
        (["a", b"b"], "of task 1 that is not a str but bytes"),
        (["a\nb", "c"], "of task 0 that has a line break"),
        (["a", "c\r"], "of task 1 that has a line break"),
        (["a", "\0"], "of task 1 that has a NUL byte"),
        (["\ud800", "b"], "of task 0 that can't be written as UTF-8"),
        (["a"], "its list has 1: let its __len__() return len(self.tasks)"),
        (["a"], "says that it has 2 tasks, but its list has 1"),
        ({0: "a", 1: "b"}, "no list of texts named tasks: dict"),
        (None, "named tasks: NoneType; set self.tasks to a list of str"),
    ],
)
def test_texts_that_a_status_file_can_not_hold_are_told(
    open_users, monkeypatch, texts, told
):
    monkeypatch.setattr(Made, "texts", texts)
    assert told in complaint(open_users, Made)


@pytest.mark.parametrize(
    "texts", [[], [""], ("a", "b"), ["a\udcff", "\u2028"], ["x"] * 3]
)
def test_all_other_texts_are_fit(open_users, monkeypatch, texts):
    monkeypatch.setattr(Made, "texts", texts)
    monkeypatch.setattr(Made, "count", len(texts))
    assert open_users(Made).tasks == texts


def test_a_class_of_mpifarm_that_is_no_handler_is_told(tmp_path):
    definition = HandlerDefinition("mine", "mpifarm.model.settings.HandlerDefinition")
    with pytest.raises(InputError, match="how many tasks"):
        open_tasklist(definition, str(tmp_path), "workdir", nothing)


def test_a_class_without_a_length_is_told(open_users):
    class NoLength:
        def __init__(self, path, workdir):
            self.tasks = ["a"]

    assert "how many tasks" in complaint(open_users, NoLength)


def test_a_handler_that_fails_at_the_first_command_is_told_at_once(open_users):
    said = complaint(open_users, NoCommands)
    assert "command of task 0: LookupError: nothing for one" in said


def test_a_command_that_is_no_text_is_told_at_once(open_users):
    class Wrong(ListTaskList):
        def __getitem__(self, taskid):
            return ["ls", self.tasks[taskid]]

    assert "not a str but list: ['ls', 'one']" in complaint(open_users, Wrong)


# ---- lists that keep their own state -------------------------------------------------


class PlainTaskList:
    """The shape of PyTaskFarmer's abstract TaskList."""

    def __init__(self, path, workdir):
        self.workdir = workdir
        self.path_lock = workdir + "/lock"

    def pop_task(self): ...
    def record_toprocess_task(self, taskid): ...
    def record_done_task(self, taskid, returncode): ...
    def get_finished(self): ...
    def lock(self): ...
    def unlock(self): ...
    def __len__(self):
        return 1

    def __getitem__(self, taskid):
        return {"any": "thing"}


class PlainListTaskList(PlainTaskList):
    """The shape of PyTaskFarmer's ListTaskList, which is told by its name."""

    __module__ = "taskfarmer.task"
    __qualname__ = "ListTaskList"

    def __init__(self, path, workdir):
        super().__init__(path, workdir)
        self.path_toprocess = workdir + "/toprocess"
        self.path_finished = workdir + "/finished"
        self.path_failed = workdir + "/failed"
        self.tasks = ["a"]

    def pop_task(self): ...
    def record_toprocess_task(self, taskid): ...
    def record_done_task(self, taskid, returncode): ...
    def get_finished(self): ...
    def read_toprocess(self): ...
    def write_toprocess(self, tasks): ...
    def read_finished(self): ...
    def __getitem__(self, taskid):
        return self.tasks[taskid]


class OtherCommands(PlainListTaskList):
    def __init__(self, path, workdir):
        super().__init__(path, workdir)
        self.tasks = [f"cat {text}" for text in self.tasks]

    def __getitem__(self, taskid):
        return super().__getitem__(taskid) + " | sort"

    def __len__(self):
        return len(self.tasks)


@pytest.mark.parametrize("python_class", [PlainListTaskList, OtherCommands])
def test_the_workdir_has_the_state_of_a_list_that_is_pytaskfarmers(python_class):
    assert not keeps_own_state(python_class("tasks.txt", "workdir"), "./workdir")


def test_the_workdir_has_the_state_of_mpifarms_lists_and_their_subclasses(tmp_path):
    path = tmp_path / "tasks.txt"
    path.write_text("a\n")
    for tasks in (ListTaskList(str(path), "w"), Capitals(str(path), "w", "hi")):
        assert not keeps_own_state(tasks, "w")


def test_the_workdir_has_the_state_of_a_list_without_methods_for_it():
    assert not keeps_own_state(Made("tasks.txt", "workdir"), "workdir")


@pytest.mark.parametrize(
    "name",
    [
        *("pop_task", "record_toprocess_task", "record_done_task", "get_finished"),
        *("read_toprocess", "write_toprocess", "read_finished", "lock", "unlock"),
    ],
)
def test_a_list_that_overrides_one_method_keeps_its_own_state(name):
    overriding = type("Overriding", (OtherCommands,), {name: lambda *_: None})
    assert keeps_own_state(overriding("tasks.txt", "workdir"), "workdir")
    assert keeps_own_state(type("Next", (overriding,), {})("t", "workdir"), "workdir")


def test_a_method_that_is_put_upon_the_list_itself_counts_as_well():
    tasks: Any = OtherCommands("tasks.txt", "workdir")
    tasks.pop_task = lambda: None
    assert keeps_own_state(tasks, "workdir")


@pytest.mark.parametrize("name", ["toprocess", "finished", "failed", "lock"])
def test_a_list_with_other_files_keeps_its_own_state(name):
    tasks: Any = OtherCommands("tasks.txt", "workdir")
    setattr(tasks, f"path_{name}", f"elsewhere/{name}")
    assert keeps_own_state(tasks, "workdir")


def test_any_other_list_with_methods_for_it_keeps_its_own_state(open_users):
    tasks = open_users(PlainTaskList)
    assert keeps_own_state(tasks, "workdir")


# ---- constraints of a user's handler ---------------------------------------------


class Ordered(ListTaskList):
    """A handler that makes two tasks of each line, the second after the first."""

    made: ClassVar[Any] = Constraints(
        [Barrier(2, checks=True, since=1)], {1: (0,), 3: (0, 2)}, {0: "disk"}
    )

    def __init__(self, path, workdir):
        super().__init__(path, workdir)
        self.tasks = [f"{text} {each}" for text in self.tasks for each in "ab"]
        self.constraints = self.made


def test_a_handler_may_give_its_tasks_an_order(open_users):
    assert find_constraints(open_users(Ordered)) is Ordered.made
    assert not find_constraints(open_users(Made))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ({1: (0,)}, "has constraints that are not Constraints but dict"),
        (Constraints(barriers=(Barrier(1, False),)), "barriers are not a list but tup"),  # type: ignore[arg-type]
        (Constraints([(1, False)]), "barriers have (1, False), which is no Barrier"),  # type: ignore[list-item]
        (Constraints([Barrier(5, checks=True)]), "are to ascend, from 1 to 4"),
        (Constraints([Barrier(0, checks=True)]), "out of place: ids are to ascend"),
        (Constraints([Barrier(2, checks=True)] * 2), "out of place: ids are to ascend"),
        (Constraints([Barrier(1, checks=True, since=2)]), "checks from behind itself"),
        (Constraints(after=[1]), "after is not a dict but list"),  # type: ignore[arg-type]
        (Constraints(after={4: (0,)}), "after has 4, which is no id of the 4 tasks"),
        (Constraints(after={1: [0]}), "after has [0] for task 1, which is no tuple"),  # type: ignore[dict-item]
        (Constraints(after={1: (-1,)}), "after has (-1,) for task 1"),
        (Constraints(after={1: ("0",)}), "after has ('0',) for task 1"),  # type: ignore[dict-item]
        (Constraints(after={1: (1,)}), "after lets task 1 wait for task 1, but"),
        (Constraints(after={1: (0, 3)}), "after lets task 1 wait for task 3, but"),
        (Constraints(kinds=["disk"]), "kinds are not a dict but list"),  # type: ignore[arg-type]
        (Constraints(kinds={7: "disk"}), "kinds have 7, which is no id of the 4 tasks"),
        (Constraints(kinds={0: "a b"}), "kinds have 'a b' for task 0: a name has"),
        (Constraints(kinds={0: 5}), "kinds have 5 for task 0: a name has"),  # type: ignore[dict-item]
    ],
)
def test_wrong_constraints_of_a_handler_are_told(open_users, monkeypatch, made, why):
    monkeypatch.setattr(Ordered, "made", made)
    assert why in complaint(open_users, Ordered)


def test_the_example_of_a_handler_with_an_order_is_one(open_users, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs" / "examples")
    handler = importlib.import_module("plots_handler").PlotsTaskList
    constraints = find_constraints(open_users(handler))
    assert constraints.after == {2: (0,), 3: (1,)}
    assert constraints.kinds == {0: "licence", 1: "licence"}
    assert constraints.barriers == [Barrier(4, checks=True)]


def test_an_order_of_the_lines_is_not_taken_for_one_of_other_tasks(
    open_users, tmp_path
):
    class Doubled(ListTaskList):
        def __init__(self, path, workdir):
            super().__init__(path, workdir)
            self.tasks = [*self.tasks, *self.tasks]

    class Loud(ListTaskList):
        def __init__(self, path, workdir):
            super().__init__(path, workdir)
            self.tasks = [text.upper() for text in self.tasks]

    open_users(Doubled)
    (tmp_path / "tasks.txt").write_text("one\n#BARRIER\ntwo\n")
    assert "makes 4 tasks of 2 lines, for which the list has #BARRIER" in complaint(
        open_users, Doubled
    )
    assert find_constraints(open_users(Loud)).barriers == [Barrier(1, checks=False)]


def test_a_list_that_keeps_its_own_state_can_have_no_order(open_users):
    class OwnState(Made):
        texts = ("a", "b")

        def pop_task(self):
            return None

    open_users(OwnState)
    OwnState.constraints = Constraints(after={1: (0,)})  # type: ignore[attr-defined]
    assert "keeps the state of its tasks itself, and then they have no order" in (
        complaint(open_users, OwnState)
    )


# ---- directives in a plain list --------------------------------------------------


def test_directives_are_read_and_the_command_is_without_its_prefix(tmp_path):
    path = tmp_path / "tasks.txt"
    path.write_text("a\n#BARRIER\n[limit=disk] b\n#AFTER 0\nc\n")
    tasks = open_default(path)
    assert tasks.tasks == ["a", "[limit=disk] b", "c"]
    assert [tasks[0], tasks[1], tasks[2]] == ["a", "b", "c"]
    assert find_constraints(tasks) == Constraints(
        [Barrier(1, checks=False)], {2: (0,)}, {1: "disk"}
    )


@pytest.mark.parametrize(
    "text", ["a\r\nb\r\n{}\r\nc", "ä\rb\r{}\rc", "\x1c\nb\nc\n{}\nd"]
)
def test_directives_are_read_whatever_the_line_ends_are(tmp_path, text):
    path = tmp_path / "tasks.txt"
    path.write_bytes(text.replace("{}", "#AFTER 1").encode())
    assert find_constraints(open_default(path)).after == {2: (1,)}
    path.write_bytes(text.replace("{}", "[limit=x] d").encode())
    assert find_constraints(open_default(path)).kinds == {2: "x"}
    path.write_bytes(text.replace("{}", "#BARRIER CHECK").encode())
    assert find_constraints(open_default(path)).barriers == [Barrier(2, checks=True)]


def test_a_wrong_directive_is_told_with_list_and_line(tmp_path):
    path = tmp_path / "tasks.txt"
    path.write_text("a\n" * 300_000 + "#AFTER 300000\nb\n")
    with pytest.raises(InputError) as raised:
        open_default(path)
    assert str(raised.value).startswith(
        f"line 300001 of {path} lets task 300000 wait for itself, but "
    )


def test_directives_far_apart_have_the_right_tasks(tmp_path):
    path = tmp_path / "tasks.txt"
    lines = [f"echo {each}" for each in range(200_000)]
    lines[50_000:50_000] = ["#AFTER 7", "", "#BARRIER"]
    lines[150_000:150_000] = ["#AFTER 149900", "# note"]
    path.write_text("\n".join(lines))
    found = find_constraints(open_default(path))
    assert found.after == {50_000: (7,), 149_997: (149_900,)}
    assert found.barriers == [Barrier(50_000, checks=False)]


def test_added_lines_are_read_as_if_they_had_been_there(tmp_path):
    content = b"a\n#AFTER 0\nb\n[limit=x] c\n#BARRIER\n#HQ x\n#AFTER 1\nd\n"
    path = tmp_path / "tasks.txt"
    path.write_bytes(content)
    whole = read_list(str(path))
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    for end in ends[:-1]:
        path.write_bytes(content[:end])
        known = read_list(str(path))
        added = ListReader(str(path), known.lines, len(known.texts))
        for line in content[end:].splitlines(keepends=True):
            added.take(line)
        known.constraints.extend(added.constraints)
        assert [*known.texts, *added.texts] == [*whole.texts]
        assert known.constraints == whole.constraints
        assert added.lines == whole.lines
        assert known.texts.remarks + added.texts.remarks == whole.texts.remarks


def append(path, text):
    with path.open("a") as stream:
        stream.write(text)


def test_a_line_that_gets_its_end_during_the_reading_is_never_two(
    tmp_path, monkeypatch
):
    path = tmp_path / "tasks.txt"
    path.write_text("echo 1\necho tw")
    take_end = ListReader.take_end

    def take_end_beside_a_writer(reader, line):
        take_end(reader, line)
        append(path, "o\necho 3\n")

    monkeypatch.setattr(ListReader, "take_end", take_end_beside_a_writer)
    reader = read_list(str(path))
    assert [*reader.texts] == ["echo 1", "echo tw"]
    assert reader.is_unended


def test_no_line_follows_one_that_nothing_ends(tmp_path):
    path = tmp_path / "tasks.txt"
    path.write_text("echo 1\necho tw")
    lines = read_lines(str(path))
    assert [next(lines), next(lines)] == [("echo 1", True), ("echo tw", False)]
    append(path, "o\necho 3\n")
    assert [*lines] == []


def test_a_handler_without_constraints_has_none():
    plain: Any = types.SimpleNamespace(tasks=["a"])
    assert not find_constraints(plain)


@pytest.mark.parametrize(
    ("count", "ids"),
    [
        (0, []),
        (3, [0, 1, 2]),
        (1000, [*range(1000)]),
        (1100, [*range(1100)]),
        (1250, [*range(1250)]),
        (1251, [*range(1000), *range(1001, 1251)]),
    ],
)
def test_both_ends_of_a_list_are_looked_at_each_task_once(count, ids):
    assert [*end_ids(["a"] * count)] == ids


def test_the_default_list_knows_its_file_and_its_workdir(tmp_path):
    (tmp_path / "list").write_text("a\n")
    made = ListTaskList(str(tmp_path / "list"), "the workdir")
    assert (made.path, made.workdir) == (str(tmp_path / "list"), "the workdir")
