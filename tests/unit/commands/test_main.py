"""The command line as a whole: who runs, what is printed, and the exit status."""

import importlib
import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mpifarm.commands import SUBCOMMANDS, main
from mpifarm.commands.options import HelpAsked
from mpifarm.errors import FutileError, InputError, StorageError
from mpifarm.farm import process
from mpifarm.system.signals import SIGNALS

SUBCOMMANDS_THAT_END_BY_SIGNALS = {*SUBCOMMANDS} - {"selftest", "supervise"}


class Printed:
    """A console that keeps what it gets."""

    def __init__(self):
        self.texts: list[str] = []
        self.errors: list[str] = []
        self.lines: list[str] = []
        self.farm: tuple[str, object] | None = None

    def print_text(self, text):
        self.texts.append(text)

    def print_error(self, text):
        self.errors.append(text)

    def print_line(self, text):
        self.lines.append(text)

    def begin_farm(self, progress, errors):
        self.farm = progress, errors

    def show_progress(self, *_):
        pass

    def unmute(self):
        pass


@pytest.fixture
def console():
    return Printed()


@pytest.fixture
def call(console, monkeypatch):
    """Give a command line to the first rank, or to another one."""
    monkeypatch.setattr("gc.disable", lambda: None)

    def give(*argv, first=True, signals=()):
        inbox = SimpleNamespace(take=lambda: [*signals])
        return main._run([*argv], cast(Any, inbox), cast(Any, console), first=first)

    return give


@pytest.fixture
def subcommand(monkeypatch):
    """Stand in for each subcommand: it ends as `ends` says."""
    calls: list[Any] = []
    restored: list[str] = []
    monkeypatch.setattr(main, "_restore_signals", lambda: restored.append("restored"))

    def put(ends=0):
        def run_it(argv, _console, _environ, **others):
            calls.append((argv, others))
            if isinstance(ends, BaseException):
                raise ends
            return ends

        def import_it(name):
            calls.append(name)
            return SimpleNamespace(main=run_it)

        monkeypatch.setattr(importlib, "import_module", import_it)
        return calls, restored

    return put


@pytest.mark.parametrize("name", sorted(SUBCOMMANDS))
def test_a_subcommand_runs_on_the_first_rank_with_the_words_after_it(
    call, subcommand, name
):
    calls, restored = subcommand(3)
    assert call(name, "-x", "dir", signals=[15]) == 3
    early = {"early": [15]} if name == "supervise" else {}
    assert calls == [f"mpifarm.commands.{name}", (["-x", "dir"], early)]
    assert restored == ["restored"] * (name in SUBCOMMANDS_THAT_END_BY_SIGNALS)


@pytest.mark.parametrize("name", sorted(SUBCOMMANDS))
def test_on_other_ranks_the_self_test_alone_runs(call, console, subcommand, name):
    calls, _ = subcommand(5)
    assert call(name, first=False) == (5 if name == "selftest" else 0)
    assert bool(calls) is (name == "selftest")
    assert console.errors == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("the reason"), 2),
        (StorageError("the reason"), 75),
        (FutileError("the reason"), 75),
    ],
)
def test_an_error_of_a_subcommand_is_a_sentence_and_a_status(
    call, console, subcommand, error, status
):
    subcommand(error)
    assert call("check") == status
    assert console.errors == ["the reason"]


def test_a_wrong_command_line_of_the_self_test_is_told_once(call, console, subcommand):
    subcommand(InputError("the reason"))
    assert call("selftest", first=False) == 0
    assert console.errors == []
    subcommand(StorageError("the disk"))
    assert call("selftest", first=False) == 75


def test_a_defect_of_a_subcommand_has_its_own_status_and_a_traceback(
    call, console, subcommand
):
    subcommand(ZeroDivisionError("by accident"))
    assert call("ls") == 70
    (told,) = console.errors
    assert told.startswith("a defect of mpifarm:\nTraceback")
    assert "ZeroDivisionError: by accident" in told


def test_help_of_a_subcommand_is_printed(call, console, subcommand):
    subcommand(HelpAsked("the help"))
    assert call("ls", "--help") == 0
    assert console.texts == ["the help"]


def test_help_and_version_are_printed(call, console):
    assert call("--version") == 0
    assert call("help") == 0
    version, text = console.texts
    assert version.startswith("mpifarm ")
    assert "--proc" in text
    assert console.errors == []


def test_bad_input_is_one_sentence_and_one_status_for_the_whole_launch(call, console):
    assert call("--grace", "x", "list", first=False) == 0
    assert console.errors == []
    assert call("--grace", "x", "list") == 2
    (told,) = console.errors
    assert "--grace" in told


@pytest.fixture
def farm(monkeypatch):
    """Stand in for the farm: what it gets."""
    got: list[Any] = []

    def run_farm(settings, context):
        got.append((settings, context))
        return 3

    monkeypatch.setattr(process, "run_farm", run_farm)
    return got


@pytest.mark.parametrize("first", [True, False])
def test_a_farm_runs_on_each_rank_and_its_status_is_that_of_the_process(
    call, console, farm, first
):
    assert call("tasks.txt", "--progress", "lines", first=first) == 3
    ((settings, context),) = farm
    assert settings.tasklist == "tasks.txt"
    assert console.farm is not None
    assert console.farm[0] == "lines"
    context.output.mention("a line")
    context.output.say("another")
    context.output.complain("an error")
    assert (console.lines, console.errors) == (["a line", "another"], ["an error"])


def test_a_quiet_farm_mentions_nothing_and_shows_no_progress(call, console, farm):
    call("tasks.txt", "--quiet")
    assert console.farm is not None
    assert console.farm[0] == "off"
    _, context = farm[0]
    context.output.mention("a line")
    context.output.say("another")
    assert console.lines == ["another"]


@pytest.mark.parametrize("first", [True, False])
def test_a_list_with_the_name_of_a_subcommand_is_told_of_once(
    call, console, farm, tmp_path, monkeypatch, first
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "check").touch()
    assert call("check", "--quiet", first=first) == 3
    assert len(console.errors) == first
    assert all("./check" in told for told in console.errors)


@pytest.mark.parametrize(("rank", "prints"), [("0", True), ("1", False)])
def test_only_the_first_rank_prints_and_the_console_is_closed(
    monkeypatch, rank, prints
):
    made: list[Any] = []

    class Console:
        def __init__(self, *, prints, place):
            made.append(prints)

        def close(self):
            made.append("closed")

    monkeypatch.setattr("mpifarm.system.console.Console", Console)

    def run_it(*_, first):
        made.append(first)
        return 7

    monkeypatch.setattr(main, "_run", run_it)
    monkeypatch.setenv("PMI_RANK", rank)
    monkeypatch.setenv("PMI_SIZE", "2")
    assert main.run([], cast(Any, None)) == 7
    assert made == [prints, prints, "closed"]


def test_signals_have_their_defaults_again_but_for_ignored_ones(monkeypatch):
    set_to: dict[int, object] = {}
    ignored = {signal.SIGHUP}
    monkeypatch.setattr(
        signal,
        "getsignal",
        lambda signum: signal.SIG_IGN if signum in ignored else "a handler",
    )
    monkeypatch.setattr(signal, "signal", set_to.__setitem__)
    main._restore_signals()
    assert set_to == dict.fromkeys({*SIGNALS} - ignored, signal.SIG_DFL)


def test_the_process_ends_with_the_status_and_no_signal_changes_it(monkeypatch):
    done: list[object] = []

    class Inbox:
        def install(self):
            done.append("installed")

        def ignore(self):
            done.append("ignored")

    monkeypatch.setattr(main, "SignalInbox", Inbox)
    monkeypatch.setattr("sys.argv", ["mpifarm", "a", "b"])
    monkeypatch.setattr("gc.set_threshold", lambda *_: None)

    def run_it(argv, _signals):
        done.append(argv)
        return 75

    monkeypatch.setattr(main, "run", run_it)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 75
    assert done == ["installed", ["a", "b"], "ignored"]


def test_a_python_without_sqlite_is_told_in_one_sentence(call, console, subcommand):
    subcommand(ModuleNotFoundError("No module named '_sqlite3'", name="_sqlite3"))
    assert call("ls", "tasks.db") == 2
    assert console.errors == [main.NO_SQLITE]
