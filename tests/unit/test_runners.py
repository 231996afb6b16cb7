"""The options of runners, and runners made of definitions; nothing is started."""

import errno
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from mpifarm import runners
from mpifarm.errors import InputError
from mpifarm.model.settings import RunnerDefinition
from mpifarm.runners import (
    ARGUMENT_LIMIT,
    SHELL_SETTINGS,
    BasicRunner,
    Runner,
    after_setup,
    check_runner,
    create_runner,
)
from mpifarm.system import task_command
from tests.pages import take_block

HERE = __name__
BASIC = "mpifarm.runners.BasicRunner"


class GoodRunner(Runner):
    def __init__(self, *, image: str, size: str = "1") -> None:
        self.image = image
        self.size = size

    def run(self, taskid: int, command: str, logfh: Any) -> int:
        return 0

    def terminate(self) -> None:
        pass


class RaisingRunner(GoodRunner):
    def __init__(self) -> None:
        raise OSError(2, "no licence", "licence.txt")


class MistypedRunner(GoodRunner):
    def __init__(self, size: str) -> None:
        super().__init__(image="a", colour=size)  # type: ignore[call-arg]


class LeavingRunner(GoodRunner):
    def __init__(self) -> None:
        raise SystemExit(3)


class HalfRunner:
    def run(self, taskid: int, command: str, logfh: Any) -> int:
        return 0


class VariableRunner(HalfRunner):
    terminate = "now"


class ForgetfulRunner(Runner):
    """A runner that derives from the base and lacks `run`."""

    def terminate(self) -> None:
        pass


class LateRunner:
    """A runner that gets its methods from another object."""

    def __init__(self, image: str) -> None:
        self.inner = GoodRunner(image=image)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def definition(
    python_class: str, source: str = "/etc/r.ini", **options: str
) -> RunnerDefinition:
    if "." not in python_class:
        python_class = f"{HERE}.{python_class}"
    return RunnerDefinition("mine", python_class, options, source)


def complaint(checked: RunnerDefinition) -> str:
    with pytest.raises(InputError) as caught:
        check_runner(checked)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- from a definition to a runner --------------------------------------------------


def test_the_default_definition_makes_the_default_runner() -> None:
    assert type(create_runner(RunnerDefinition())) is BasicRunner


def test_options_are_keywords_of_the_constructor() -> None:
    runner = create_runner(definition("GoodRunner", image="a b", size="2"))
    assert vars(runner) == {"image": "a b", "size": "2"}


def test_what_a_constructor_raises_comes_through_in_a_worker() -> None:
    with pytest.raises(OSError, match="no licence"):
        create_runner(definition("RaisingRunner"))


@pytest.mark.parametrize("name", ["nosuch.module.X", "mpifarm.runners.X", "X"])
def test_a_class_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InputError, match=name):
        create_runner(RunnerDefinition("mine", name))


# ---- what rank 0 finds before anything is touched -----------------------------------


def test_a_good_definition_passes() -> None:
    check_runner(definition("GoodRunner", image="a"))
    check_runner(definition(BASIC, shell="never"))


def test_the_default_without_options_is_not_even_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: object) -> None:
        raise AssertionError("it was made")

    monkeypatch.setattr(BasicRunner, "__init__", refuse)
    check_runner(RunnerDefinition())
    with pytest.raises(InputError, match="it was made"):
        check_runner(definition(BASIC))


def test_a_missing_option_is_told_with_runner_file_class_and_what_it_takes() -> None:
    assert complaint(definition("GoodRunner")) == (
        "the runner 'mine' in /etc/r.ini: it misses the option image: "
        f"{HERE}.GoodRunner takes image, size"
    )


def test_an_unknown_option_is_told_with_those_there_are() -> None:
    told = complaint(definition("GoodRunner", image="a", imgae="b"))
    assert "it doesn't know the option imgae" in told
    assert told.endswith("GoodRunner takes image, size")
    told = complaint(definition("RaisingRunner", a="b"))
    assert told.endswith("RaisingRunner takes no options")


def test_an_exception_of_the_users_constructor_is_one_sentence_with_its_type() -> None:
    assert complaint(definition("RaisingRunner")).startswith(
        f"the runner 'mine' in /etc/r.ini: its class {HERE}.RaisingRunner can't be "
        f"made (FileNotFoundError: [Errno 2] no licence: 'licence.txt', raised in "
        f"{__file__}, line "
    )
    told = complaint(definition("MistypedRunner", size="2"))
    assert "can't be made (TypeError: " in told
    assert "colour" in told
    assert "(SystemExit: 3, " in complaint(definition("LeavingRunner"))


def test_a_class_that_is_no_runner_is_told_with_the_method_it_lacks() -> None:
    assert complaint(definition("HalfRunner")).endswith(
        "HalfRunner is not a runner: it has no method terminate()"
    )
    assert "terminate()" in complaint(definition("VariableRunner"))
    assert "run()" in complaint(definition("builtins.dict"))


def test_a_class_of_another_kind_is_no_runner_whatever_options_it_takes() -> None:
    dotted = "mpifarm.tasklists.ListTaskList"
    assert complaint(definition(dotted)) == (
        f"the runner 'mine' in /etc/r.ini: its class {dotted} is not a runner: it has"
        " no method run()"
    )


@pytest.mark.parametrize(
    "name", ["mpifarm.runners.Runner", "mpifarm.runners.CommandRunner"]
)
def test_the_abstract_classes_are_no_runners(name: str) -> None:
    assert complaint(definition(name)).endswith("it has no method run()")
    assert complaint(definition("ForgetfulRunner")).endswith("it has no method run()")


def test_a_class_whose_methods_are_another_objects_is_a_runner() -> None:
    check_runner(definition("LateRunner", image="a"))
    told = complaint(definition("BasicRunnerMade", shell="zsh"))
    assert "the option shell is 'zsh'" in told


def BasicRunnerMade(shell: str) -> Runner:  # noqa: N802 - it stands for a class
    return BasicRunner(shell=shell)


@pytest.mark.parametrize("name", ["nosuch.module.X", "mpifarm.runners.X", "X", "dict"])
def test_a_class_that_cannot_be_imported_is_told_with_runner_and_file(
    name: str,
) -> None:
    told = complaint(RunnerDefinition("mine", name, {}, "/etc/r.ini"))
    assert told.startswith("the runner 'mine' in /etc/r.ini: ")
    assert name in told


def test_a_definition_of_no_file_is_told_by_its_name() -> None:
    told = complaint(definition(BASIC, source="", shell="zsh"))
    assert told.startswith("the runner 'mine': the option shell is 'zsh'")


# ---- options of the default runner --------------------------------------------------


@pytest.mark.parametrize("shell", ["auto", "always", "never"])
def test_a_shell_is_used_where_needed_or_always_or_never(shell: str) -> None:
    check_runner(definition(BASIC, shell=shell))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shell": "Auto"}, "the option shell is 'Auto': write auto, always or never"),
        ({"shell": ""}, "the option shell is ''"),
        ({"shell": "never", "setup": "x"}, "setup needs a shell, and shell = never"),
        (
            {"Shell": "never"},
            "no option Shell (did you mean shell?); there are shell, setup, cwd",
        ),
        ({"env": "A=1"}, "there is no option env;"),
        ({"env.": "1"}, "the option env. does not name a variable: write env.NAME"),
        ({"env.A=B": "1"}, "env.A=B does not name a variable"),
        ({"env.A": "a\0b"}, "env.A does not name a variable"),
        ({"env.PROC_NUMBER": "1"}, "can't be set: the farm sets PROC_NUMBER"),
        ({"env.MPIFARM_RANK": "1"}, "can't be set: the farm sets MPIFARM_RANK"),
        ({"cwd": "no/such"}, "the option cwd is no/such, and "),
        ({"cwd": "~/no/such"}, "the option cwd is ~/no/such, and /home/of/me/no/such"),
        ({"cwd": "/etc/passwd"}, "/etc/passwd is not a directory: create it, or name"),
    ],
)
def test_a_wrong_option_is_told_with_its_remedy(
    options: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/of/me")
    assert words in complaint(definition(BASIC, **options))


def test_making_a_runner_changes_neither_directory_nor_environment(tmp_path) -> None:
    before, environment = os.getcwd(), dict(os.environ)
    check_runner(definition(BASIC, cwd=str(tmp_path), **{"env.ABC_OF_TEST": "1"}))
    assert os.getcwd() == before
    assert dict(os.environ) == environment


# ---- the line that a setup makes ----------------------------------------------------


@pytest.mark.parametrize("setup", ["", " ", "\n\n"])
def test_without_a_setup_the_command_stays_as_it_is(setup: str) -> None:
    assert after_setup(setup, " a; b ") == " a; b "


@pytest.mark.parametrize(
    "command", ["x", "x 'a b' | y > z 2>&1", "x && y", "A=1 x &> z", "! x <&3"]
)
def test_a_plain_command_follows_its_setup_as_in_pytaskfarmer(command: str) -> None:
    assert after_setup("source a && b\n", command) == f"source a && b && {command}"


@pytest.mark.parametrize("command", ["x; y", "x || y", "x & y", "x &", "x\ny"])
def test_a_command_that_would_come_apart_stands_on_lines_of_its_own(
    command: str,
) -> None:
    first, *_, last = after_setup("source a", command).split("\n", 3)
    assert (first, last) == ("source a", command)


@pytest.mark.parametrize("command", ["# x", " #x", "#", "", "  "])
def test_a_comment_or_a_blank_is_not_joined_to_its_setup(command: str) -> None:
    assert "&&" not in after_setup("source a", command)
    assert after_setup("source a", command).endswith(f"\n{command}")


@pytest.mark.parametrize("setup", ["a # b", "a\nb", "a \\", "a;", "a &", "a ||"])
def test_a_setup_that_would_swallow_the_command_stands_on_lines_of_its_own(
    setup: str,
) -> None:
    assert after_setup(setup, "x").startswith(setup + "\n\n")
    assert after_setup(setup, "x").endswith("\nx")


# ---- how a line is started -----------------------------------------------------------

LONG = "x" * ARGUMENT_LIMIT


class Started:
    """What would be started in place of a command: each fails as `fails` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *fails: OSError | None) -> None:
        self.calls: list[tuple[list[bytes | str], dict[bytes, bytes]]] = []
        self.texts: list[bytes] = []
        self._fails = [*fails]
        monkeypatch.setattr(task_command, "start_command", self._start)
        monkeypatch.setattr(task_command, "wait_command", lambda pid: pid - 1000)

    def _start(self, argv: list[Any], env: dict[bytes, bytes], _log: int) -> int:
        self.calls.append(([*argv], dict(env)))
        for word in argv:
            found = re.search(r"(?<=[< ])/[^ )]*(?=\)\"$)", os.fsdecode(word))
            if found is not None and os.path.exists(found[0]):
                with open(found[0], "rb") as file:
                    self.texts.append(file.read())
        error = self._fails.pop(0) if self._fails else None
        if error is not None:
            raise error
        return 1007


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[bytes]]:
    with open(tmp_path / "log", "w+b") as file:
        yield file


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what a runner does to this process."""
    before, place = dict(os.environb), os.getcwd()
    for name in (*SHELL_SETTINGS, b"PROC_NUMBER"):
        monkeypatch.delenv(os.fsdecode(name), raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    yield
    os.chdir(place)
    os.environb.clear()
    os.environb.update(before)


def test_a_plain_line_is_started_without_a_shell(monkeypatch, log) -> None:
    started = Started(monkeypatch)
    assert BasicRunner().run(3, "frob a  b", log) == 7
    ((argv, env),) = started.calls
    assert [*map(os.fsdecode, argv)] == ["frob", "a", "b"]
    assert env[b"PROC_NUMBER"] == b"3"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "echo $HOME | cat"),
        ({"shell": "always"}, "echo a"),
    ],
)
def test_what_needs_a_shell_gets_one(monkeypatch, log, options, line) -> None:
    started = Started(monkeypatch)
    assert BasicRunner(**options).run(0, line, log) == 7
    assert [argv for argv, _ in started.calls] == [["/bin/bash", "-c", line.encode()]]


def test_a_setup_needs_a_shell_and_stands_first(monkeypatch, log) -> None:
    started = Started(monkeypatch)
    BasicRunner(setup="module load a").run(0, "echo a", log)
    assert started.calls[0][0][2] == b"module load a && echo a"


@pytest.mark.parametrize(
    ("name", "value"), [("PATH", "~/bin"), ("BASH_ENV", "/etc/bashrc")]
)
def test_where_a_shell_would_find_another_program_it_is_asked(
    monkeypatch, log, name, value
) -> None:
    started = Started(monkeypatch)
    monkeypatch.setenv(name, value)
    BasicRunner().run(0, "echo a", log)
    assert started.calls[0][0][:2] == ["/bin/bash", "-c"]


def test_a_function_of_the_environment_is_left_to_the_shell(monkeypatch, log) -> None:
    started = Started(monkeypatch)
    monkeypatch.setenv("BASH_FUNC_greet%%", "() { echo hello; }")
    runner = BasicRunner()
    runner.run(0, "greet a", log)
    runner.run(0, "greeting a", log)
    assert [argv[0] for argv, _ in started.calls] == ["/bin/bash", "greeting"]


def test_a_program_that_does_not_start_is_tried_by_the_shell(monkeypatch, log) -> None:
    error = OSError(errno.ENOEXEC, "Exec format error")
    started = Started(monkeypatch, error)
    assert BasicRunner().run(0, "./script a", log) == 7
    assert [argv[0] for argv, _ in started.calls] == ["./script", "/bin/bash"]


@pytest.mark.parametrize(
    ("code", "status"), [(errno.ENOENT, 127), (errno.EACCES, 126), (errno.E2BIG, 126)]
)
@pytest.mark.parametrize("shell", ["never", "always"])
def test_what_cannot_start_is_told_in_the_log(
    monkeypatch, log, shell, code, status
) -> None:
    Started(monkeypatch, OSError(code, "the reason"))
    log.write(b"before\n")
    assert BasicRunner(shell=shell).run(0, "frob 'a", log) == status
    log.seek(0)
    program = "frob" if shell == "never" else "/bin/bash"
    assert log.read().decode() == (
        f"before\nmpifarm: can't start {program}: [Errno {code}] the reason\n"
    )


def test_without_a_shell_the_words_are_taken_as_they_are(monkeypatch, log) -> None:
    started = Started(monkeypatch)
    runner = BasicRunner(shell="never")
    runner.run(0, "echo  'a b' $X", log)
    runner.run(0, " ", log)
    assert [argv for argv, _ in started.calls] == [
        [b"echo", b"'a", b"b'", b"$X"],
        [b""],
    ]


@pytest.mark.parametrize("line", ["-x; a", "+x; a"])
def test_a_line_is_no_option_of_its_shell(monkeypatch, log, line) -> None:
    started = Started(monkeypatch)
    BasicRunner(shell="always").run(0, line, log)
    assert started.calls[0][0] == ["/bin/bash", "-c", "--", line.encode()]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_line_too_long_for_an_argument_is_read_from_a_file(
    monkeypatch, log, in_memory
) -> None:
    if not in_memory:
        monkeypatch.setattr(runners, "_create_memory_file", lambda: None)
    started = Started(monkeypatch)
    runner = BasicRunner(shell="always")
    runner.run(0, LONG[1:], log)
    assert started.calls[0][0][2] == LONG[1:].encode()
    runner.run(0, LONG, log)
    line = os.fsdecode(started.calls[1][0][2])
    assert re.fullmatch(r'eval " \$\(</[^ ]*\)"', line)
    assert started.texts == [LONG.encode()]
    monkeypatch.setattr(BasicRunner, "_shell", "/bin/sh")
    BasicRunner(shell="always").run(0, LONG, log)
    assert os.fsdecode(started.calls[2][0][2]).startswith('eval " $(cat /')


def test_without_bash_sh_runs_the_lines(monkeypatch, log) -> None:
    started = Started(monkeypatch)
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    BasicRunner(shell="always").run(0, "a", log)
    assert started.calls[0][0][0] == "/bin/sh"


def test_a_task_gets_the_variables_of_runner_farm_and_lists(
    monkeypatch, log, tmp_path
) -> None:
    started = Started(monkeypatch)
    runner = BasicRunner(cwd=str(tmp_path), **{"env.A": "b"})
    runner.numbers = ((b"ZERO", 0), (b"SEVEN", 7))
    runner.attempt = 2
    runner.run(5, "a", log)
    _, env = started.calls[0]
    names = ("A", "PROC_NUMBER", "MPIFARM_TASK_ID", "MPIFARM_ATTEMPT", "ZERO", "SEVEN")
    assert [env[name.encode()] for name in names] == [
        *(b"b", b"5", b"5", b"2", b"5", b"12"),
    ]
    assert env[b"PWD"] == os.fsencode(tmp_path.resolve())
    assert os.getcwd() == str(tmp_path.resolve())


def test_a_wrong_pwd_is_put_right_and_a_right_one_stays(monkeypatch, tmp_path) -> None:
    other = tmp_path / "link"
    other.symlink_to(tmp_path)
    os.chdir(tmp_path)
    for pwd, right in (
        ("/nowhere", str(tmp_path.resolve())),
        (".", str(tmp_path.resolve())),
        (str(other), str(other)),
    ):
        env = {b"PWD": os.fsencode(pwd)}
        runners._mend_pwd(env)
        assert env[b"PWD"] == os.fsencode(right)


def test_the_checkpoint_signal_is_sent_by_terminate(monkeypatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(task_command, "terminate_command", lambda: ended.append("x"))
    BasicRunner().terminate()
    assert ended == ["x"]


@pytest.mark.parametrize(
    ("definition", "shell"),
    [
        (RunnerDefinition(), True),
        (RunnerDefinition(options={"shell": "never"}), False),
        (RunnerDefinition("a", "mpifarm.containers.DockerRunner"), True),
        (RunnerDefinition("a", "site.Runner"), False),
    ],
)
def test_it_is_known_whether_a_shell_reads_the_lines(definition, shell) -> None:
    assert runners.has_shell(definition) is shell


def test_where_no_file_in_memory_can_be_made_there_is_none(monkeypatch):
    file = runners._create_memory_file()
    assert file is not None
    with file:
        assert not os.get_inheritable(file.fileno())

    def refuse(_: str) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "memfd_create", refuse)
    assert runners._create_memory_file() is None
    monkeypatch.delattr(os, "memfd_create")
    assert runners._create_memory_file() is None


def test_the_class_of_the_page_has_the_methods_of_a_runner():
    names = dict[str, Any]()
    exec(take_block("runners.md", "class MyRunner").text(), names)
    mine = names["MyRunner"]
    for name in ("run", "terminate"):
        shown, wanted = (
            [*inspect.signature(getattr(each, name)).parameters]
            for each in (mine, Runner)
        )
        assert shown == wanted
    assert mine("2.5").seconds == 2.5
