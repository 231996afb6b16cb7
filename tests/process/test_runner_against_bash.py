"""The default runner against ``/bin/bash -c``: the same output, the same status.

Lines are run in one scratch directory with one environment.  First on PATH stand
decoys: programs with the names of all builtins and keywords, which a shell never runs.
So a builtin that is missing in `shellwords` shows, on any machine.

What is kept out of the corpus, because it differs from one run of bash to the next:
pids (``$$``, ``$!``), ``$RANDOM``, measured times, and what still runs when bash has
ended (``&``, ``coproc``, process substitution).  And because it differs without a
shell: the variable ``_`` in the environment.
"""

import os
import random
import re
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from mpifarm import runners
from mpifarm.plugins.shell_split import SHELL_WORDS, split_direct
from mpifarm.runners import ARGUMENT_LIMIT, BasicRunner, Runner
from mpifarm.system import task_command

pytestmark = pytest.mark.skipif(
    not os.access("/bin/bash", os.X_OK), reason="bash is what it is compared with"
)

TASKID = 7

SHOW_ARGUMENTS = """#!/bin/sh
printf '%s:' "$0" "$#" "$PROC_NUMBER" "$PWD" "$SHLVL"; printf '<%s>' "$@"; echo
"""
DECOY = '#!/bin/sh\necho decoy "$0" "$@"\nexit 42\n'
PROGRAMS = ("x", "xy", "xyz", "wxyz", "abcdefg")


class Ended(NamedTuple):
    """How a line ended, and what it wrote."""

    status: int
    output: bytes


class Scratch:
    """A directory in which lines run; files that a line leaves are removed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        self.log = root / "log"
        for name in ("work", "work/dir", "home", "bin"):
            (root / name).mkdir()
        self._write_programs()
        self._write_files()
        self.before = self.listing()
        directories = (self.work, self.work / "dir")
        self.names = {path: frozenset(os.listdir(path)) for path in directories}

    def _write_programs(self) -> None:
        for name in (SHELL_WORDS | {"A=1", "%1"}) - {"."}:
            write_program(self.root / "bin" / name, DECOY)
        for name in PROGRAMS:
            write_program(self.root / "bin" / name, SHOW_ARGUMENTS)

    def _write_files(self) -> None:
        write_program(self.work / "show", SHOW_ARGUMENTS)
        write_program(self.work / "die", '#!/bin/sh\nkill -"$1" $$\n')
        write_program(self.work / "plain", 'echo plain "$0" "$@"; exit 7\n')
        write_program(self.work / "empty", "")
        write_program(self.work / "lost", "#!/no/such/interpreter\n")
        write_program(self.work / "binary", "\x7fELF\x00\x01\x02\n\x00")
        write_program(self.work / "caf\udce9", SHOW_ARGUMENTS)
        for name in ("a.txt", "b c.txt", "-n", "dir/inner.txt"):
            (self.work / name).write_text(f"text of {name}\n")

    def listing(self) -> dict[str, bytes]:
        files = [path for path in self.work.rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in files}

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.root / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.root / "home"),
            "PWD": str(self.work),
            "SHLVL": "1",
            "LC_ALL": "C.UTF-8",
            "VALUE": "two words",
        }

    def run(self, runner: Runner, line: str) -> Ended:
        with self.log.open("wb", buffering=0) as log:
            status = runner.run(TASKID, line, log)
        return self._ended(status)

    def bash(self, line: str, shell: str = "/bin/bash") -> Ended:
        argv: list[bytes | str] = [shell, "-c"]
        if line.startswith(("-", "+")):
            argv.append("--")
        argv.append(line.encode("utf-8", "surrogateescape"))
        env = os.environ | {"PROC_NUMBER": str(TASKID)}
        with self.log.open("wb", buffering=0) as log:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                start_new_session=True,
                timeout=60,
                check=False,
            )
        return self._ended(done.returncode)

    def _ended(self, status: int) -> Ended:
        for directory, names in self.names.items():
            for name in names.symmetric_difference(os.listdir(directory)):
                (directory / name).unlink()
        return Ended(status, self.log.read_bytes())

    def differences(self, lines: Sequence[str]) -> list[tuple[str, Ended, Ended]]:
        """The lines of which the runner makes something else than bash."""
        runner = BasicRunner()
        found = []
        for line in lines:
            mine = comparable(line, self.run(runner, line))
            of_bash = comparable(line, self.bash(line))
            if mine != of_bash:
                found.append((line, mine, of_bash))
        return found


def write_program(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(0o755)


VOLATILE = re.compile(
    rb"^(declare -\S+ )?(RANDOM|SRANDOM|EPOCH\w+|BASHPID|SECONDS)=.*\n", re.MULTILINE
)
MEASURED = re.compile(rb"\d+m\d+\.\d+s")


def comparable(line: str, ended: Ended) -> Ended:
    output = MEASURED.sub(b"TIME", VOLATILE.sub(b"", ended.output))
    if "|" in line:
        # Both ends of a pipe write to the same log, whoever comes first.
        output = b"\n".join(sorted(output.split(b"\n")))
    return Ended(ended.status, output)


@pytest.fixture(scope="module")
def scratch_directory(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    return Scratch(tmp_path_factory.mktemp("scratch").resolve())


@pytest.fixture
def scratch(
    scratch_directory: Scratch, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scratch]:
    for name in os.environ:
        monkeypatch.delenv(name)
    for name, value in scratch_directory.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(scratch_directory.work)
    hide_inherited_descriptors()
    yield scratch_directory
    assert scratch_directory.listing() == scratch_directory.before


def hide_inherited_descriptors() -> None:
    """What a worker does at its start: whoever started pytest may have left some."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if int(name) > 2:
                os.set_inheritable(int(name), False)


# ---- the corpus ---------------------------------------------------------------------

LINES = {
    "programs": [
        *("x", "xy", "xyz", "wxyz", "abcdefg", "x a", "xyz a b  c\td", "./show a"),
        *("show", "dir/../show a", "env x", "x =", "x a=b", "x %1 @ + - -- , : ."),
        *("ls", "cat a.txt", "head -n 1 a.txt", "ls /proc/self/fd", "printenv HOME"),
        *("env printenv PROC_NUMBER PWD SHLVL", "sh -c true", "seq 3", "expr 1 + 1"),
    ],
    "programs that fail": [
        *("nosuch", "nosuch a", "./nosuch", "/no/such/x", "./no\xe9such", "a.txt"),
        *("dir", "./dir", "/", "/tmp", "dir/", "..", "./a.txt", "./a.txt/x"),
        *("./plain", "./plain a b", "./empty", "./lost", "./binary", "caf\xe9"),
        *("./caf\udce9 a", "-n", "-x a", "--help", "+x", "%1", "2", "=", "=a"),
        *("cat nosuch.txt", "@", "A=1", "A=1 x", "A=1 B=2 printenv A B", "A=1 nosuch"),
        *("a-b=1 x", "1a=2"),
    ],
    "killed programs": [
        *(f"./die {signum}" for signum in (1, 2, 9, 10, 13, 15)),
        *("sh -c 'kill -9 $$'", "exec ./die 15", "(./die 13)", "kill -TERM $$"),
        *("./die 13; echo $?", "./die 13 || x", "./die 9 | x"),
    ],
    "quotes": [
        *("x 'a b'", 'x "a b"', "x a'b'\"c\"", "x ''", 'x ""', "''", '""', "x 'a"),
        *('x "', "x $'a\\tb'", 'x "$VALUE"', "x '$VALUE'", "x a\\ b", "x a\\"),
        *("\\x a", "'x' a", "x \\", "x \\\\", "x \\'", 'x "a\\"b"', "'", "\\"),
        *("x 'a\tb'", 'x "it\'s"', "x \\udcff", "x '\udcff\udc80'", "x \udcff"),
        *("printf %s '\udce9' | od -c",),
    ],
    "expansions": [
        *("x $VALUE", "x $NOSUCH", "x ${VALUE}", "x ${VALUE%s}", "x ${#VALUE}"),
        *("x $#", "x $0", "x $?", "x $@", "x $-", "x ${NOSUCH:-d}", "x ${NOSUCH?m}"),
        *("x $(x)", "x `x b`", "x $((1+1))", "x $[1+1]", "x $", "x $ a", "x ${"),
        *("x $((1/0))", "x *", "x *.txt", "x ?.txt", "x [ab].txt", "x [!a]*"),
        *("x nosuch*", "./sho?", "x ~", "x ~/a", "~", "~/x", "x a~", "x a=~", "x a:~"),
        *("x ~root", "x ~nosuch", "x ~+", "x ~-", "x {a,b}", "x {1..3}", "x {a}"),
        *("x a{b,c}d", "x {", "x }", "x [a", "x a]", "x @(a|b)", "x !(a)", "x +(a)"),
        *("$VALUE", "$NOSUCH", "$NOSUCH x"),
    ],
    "operators": [
        *("x && x", "x || x", "x | cat", "x ; x", "x;x", "false && x", "true && x"),
        *("x |", "x &&", "&& x", ";", "x ;; x", "x |& cat", "(x)", "(x", "x)"),
        *("{ x; }", "{x}", "{ x", "x & wait", "& x", "!", "! x", "! false", "x !"),
        *("x a!b", "x !a", "!!", "x > out; cat out", "x >out", "> out", "x >> out"),
        *("x 2>&1", "nosuch 2>out", "x < a.txt", "cat < a.txt", "cat < nosuch"),
        *("cat <<< b", 'cat <<< "a  b"', "x >", "x >dir", "x &>out", "x >&2"),
        *("cat << E", "cat << E\nb\nE", "x 3>&1 >&3", "x <", "x ^ x", "x^x", "^a^b"),
        *("x %", "x a,b", "x {fd}>out", "x 2>", "x 2 > out"),
    ],
    "comments and blanks": [
        *("#", "# x", "#x", "x #a", "x # a", "x a#b", "x a #'", "x a # b; x", "", " "),
        *("\t", " x", "x ", "\tx\ta\t", "  x  a  ", "x\n", "x\nx", "\nx", "x\ra"),
        *("x a\r", "x\x0ba", "x\x0ca", "x a\x01b", "x a\x7fb", "x \x1b[0m", "x\\\na"),
        *("x a\\\nb",),
    ],
    "unicode": [
        *("x \xe9", "x \xa0", "x\xa0a", "x a\u2003b", "x \u3000 a", "x \u0661"),
        *("x \u201ca\u201d", "\xe9", "x \U0001f600", "x e\u0301", "x \ufeffa"),
        *("\ufeffx", "x a\x85b", "x\u2028a", "x \uff5c x", "\uff41", "x=\xe9"),
        *("\xe9=1",),
    ],
    "builtins": [
        *("cd dir; pwd", "cd", "cd nosuch", "exit 3", "exit", "exit x", ":", ": a"),
        *("pwd", "pwd -P", "true", "true a", "true --help", "false"),
        *("false --version", "echo", "echo a", "echo a  b", "echo -n a"),
        *("echo -e 'a\\tb'", "echo -E a", "echo -", "echo --", "echo --help"),
        *("echo --version", "echo a -n", "echo -nx", "echo 'a'", "echo a\\\\tb"),
        *("test a = a", "test -f a.txt", "test", "[ a ]", "[ a", "[ ]", "printf %s a"),
        *("printf", "printf -v A a", "printf %q 'a b'", "kill -l 9", "[[ a ]]"),
        *("type x", "type cd", "command x a", "command -v x", "builtin echo a"),
        *("exec x a", "exec nosuch; x", "eval x a", "eval 'x a'; x", ". ./plain a"),
        *("source a.txt", "umask", "ulimit -n", "export A=1; printenv A"),
        *("set -e; false; x", "unset PATH; ls", "readonly A=1; A=2; x"),
        *("trap 'x end' EXIT; x", "shift", "return 3", "local a", "let 1-1", "((1))"),
        *("((0))", "help :", "hash -r", "wait", "times", "jobs", "fg"),
        *("read a < a.txt; x $a", "mapfile -t a < a.txt; x $a"),
        *("shopt -s nullglob; x z*", "getopts a: b -a c; x $b", "history", "logout"),
        *("suspend", "enable -n echo; echo a"),
    ],
    "keywords": [
        *("time x", "time", "if true; then x; fi", "if", "then", "fi", "in", "in a"),
        *("do", "for i in a b; do x $i; done", "for", "while false; do x; done"),
        *("done", "else", "case a in a) x;; esac", "until true; do x; done"),
        *("function f { x a; }; f", "f() { x $1; }; f b", "select a in b; do x; done"),
        *("esac", "x if", "x time a", "! ! true", "time -p true", "coproc", "if true"),
        *("x then fi done", "elif", "]]"),
    ],
}


@pytest.mark.parametrize("kind", LINES)
def test_known_lines_give_what_bash_gives(scratch: Scratch, kind: str) -> None:
    assert scratch.differences(LINES[kind]) == []


ENDS_LATER = frozenset({"coproc x", "coproc a b"})


@pytest.mark.parametrize("arguments", ["", " x", " a b"])
def test_words_of_the_shell_are_never_programs(
    scratch: Scratch, arguments: str
) -> None:
    lines = {f"{word}{arguments}" for word in SHELL_WORDS} - ENDS_LATER
    assert scratch.differences(sorted(lines)) == []


def test_each_decoy_would_be_noticed(scratch: Scratch) -> None:
    for word in sorted(SHELL_WORDS - {"."}):
        program = shlex.quote(str(scratch.root / "bin" / word))
        assert scratch.run(BasicRunner(), program).output.startswith(b"decoy ")
        if word not in NOT_OF_BASH:
            assert not scratch.bash(word).output.startswith(b"decoy ")


NOT_OF_BASH = frozenset({"chdir", "in", "]]"})
"""dash's own; and two keywords that are words like any other in the first place."""

FIRST = [
    *PROGRAMS,
    *("./show", "./plain", "./die 15", "./dir", "./a.txt", "nosuch", "echo", "A=1"),
    *("A=1 x", "cd dir;", ":", "[", "test", "printf %s", "true", "false", "exit", "!"),
    *("{", "(", "if", "time", "exec", "eval", "cat", "", "-", "ls"),
]
PIECES = [
    *"$*?[]{}()'\"`\\!#~^=%@:,+-.|;<>/ \t",
    *("Q", "1", "a.txt", "dir", "x", "&&", "||", "<<<", ">>", "2>&1", "$VALUE", "$Q"),
    *(
        "''",
        "\u00e9",
        "\u00a0",
        "\udcff",
        "*.txt",
        "~/a",
        "{a,b}",
        "'a b'",
        "\\ ",
        "$(x)",
    ),
    *("\u3000", "a=b", "fi", "then", "done", " ", " ", " ", " "),
]
EXCLUDED = re.compile(
    r"\$\$|[<>]\(|\(\s*\)"  # a pid; ends later; a function that may call itself
    r"|>.*([/~*?\[]|\.txt)"  # writes to what other lines read
)


def generated_lines(seed: int, count: int) -> list[str]:
    """Lines of a first word and up to eight pieces with and without blanks between."""
    source = random.Random(seed)
    lines: list[str] = []
    while len(lines) < count:
        pieces = source.choices(PIECES, k=source.randrange(9))
        blank = source.choice(["", " "])
        line = source.choice(FIRST) + source.choice(["", " ", " "]) + blank.join(pieces)
        if not EXCLUDED.search(line):
            lines.append(line)
    return lines


@pytest.mark.parametrize("seed", range(12))
def test_generated_lines_give_what_bash_gives(scratch: Scratch, seed: int) -> None:
    assert scratch.differences(generated_lines(seed, 100)) == []


def test_one_character_amid_a_plain_line_gives_what_bash_gives(
    scratch: Scratch,
) -> None:
    characters = sorted(set(map(chr, range(1, 256))) - {"&"})
    lines = [f"x a{char}b {char} {char}Q" for char in characters]
    lines += [f"{char}x a" for char in characters]
    assert scratch.differences([line.replace(">", "> out ") for line in lines]) == []


def test_many_lines_of_the_corpus_are_started_directly() -> None:
    lines = [line for seed in range(12) for line in generated_lines(seed, 100)]
    direct = [line for line in lines if split_direct(line) is not None]
    assert 100 < len(direct) < len(lines) - 500


# ---- long lines ---------------------------------------------------------------------


@pytest.mark.parametrize("length", [5_000, 131_071])
@pytest.mark.parametrize("form", ["x {}", "x '{}' $#", "echo {}", "x {} | wc -c"])
def test_a_line_that_fits_one_argument_gives_what_bash_gives(
    scratch: Scratch, length: int, form: str
) -> None:
    line = form.format("a" * (length - len(form) + 2))
    assert len(line) == length
    assert scratch.differences([line]) == []


@pytest.mark.parametrize("length", [131_071, 131_072, 1_000_000])
@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])
def test_a_line_of_any_length_runs(
    scratch: Scratch, length: int, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shell == "/bin/sh":
        monkeypatch.setattr(runners, "BASH", "/no/such/bash")
    form = "printf '%s\\n' '{}' | wc -c; echo $0 $#; exit 5"
    line = form.format("b" * (length - len(form) + 2))
    ended = scratch.run(BasicRunner(), line)
    expected = f"{length - len(form) + 3}\n{shell} 0\n".encode()
    assert ended == (5, expected)


def test_a_long_line_of_plain_words_is_started_directly(scratch: Scratch) -> None:
    line = "/bin/echo" + " word" * 100_000
    assert split_direct(line) is not None
    assert scratch.run(BasicRunner(), line) == (0, line[10:].encode() + b"\n")


def test_a_builtin_takes_a_word_that_is_too_long_for_exec(scratch: Scratch) -> None:
    word = "w" * 200_000
    assert scratch.run(BasicRunner(), f"echo {word}") == (0, f"{word}\n".encode())
    ended = scratch.run(BasicRunner(), f"x {word}")
    assert ended.status == 126
    assert b"Argument list too long" in ended.output


@pytest.mark.parametrize("has_memory_files", [True, False])
def test_every_byte_of_a_long_line_passes(
    scratch: Scratch,
    has_memory_files: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if not has_memory_files:
        monkeypatch.delattr(os, "memfd_create")
    odd = bytes(set(range(1, 256)) - {ord("'")}) * 1000
    line = b"printf %s '" + odd + b"'; ls /proc/$$/fd"
    assert len(line) > ARGUMENT_LIMIT
    ended = scratch.run(BasicRunner(), line.decode("utf-8", "surrogateescape"))
    assert ended == (0, odd + b"0\n1\n2\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", ["-x", "--", "+x", "#", "exit 4;"])
def test_a_long_line_begins_as_a_short_one(scratch: Scratch, start: str) -> None:
    short = scratch.bash(f"{start} ''")
    assert scratch.run(BasicRunner(), f"{start} '{'a' * 200_000}'") == short


# ---- the environment, and how a command ends ----------------------------------------


def test_a_task_knows_its_number_and_its_attempt(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = BasicRunner()
    for attempt in ("1", "2"):
        monkeypatch.setenv("MPIFARM_ATTEMPT", attempt)
        ended = scratch.run(runner, "printenv PROC_NUMBER MPIFARM_ATTEMPT")
        assert ended == (0, f"{TASKID}\n{attempt}\n".encode())


@pytest.mark.parametrize(
    "variables",
    [
        {"BASH_FUNC_x%%": "() { echo function \"$@\"; }"},
        {"BASH_FUNC_true%%": "() { echo function; }"},
        {"BASH_FUNC_nosuch%%": "() { echo function; }"},
        {"BASH_ENV": "./plain"},
        {"SHELLOPTS": "xtrace"},
        {"SHELLOPTS": "noexec"},
        {"EXECIGNORE": "*/x"},
        {"PATH": "~/bin:/usr/bin:/bin"},
        {"PATH": ""},
        {"PATH": "."},
        {"PATH": ":/usr/bin"},  # but for a script's own name: `show`, not `./show`
        {"PATH": "/nosuch:dir:.:/usr/bin"},
        {"PWD": "/nosuch"},
        {"PWD": "work"},
        {"LC_ALL": "C"},
        {"POSIXLY_CORRECT": "1"},
    ],
)  # fmt: skip
def test_variables_that_bash_heeds_are_heeded(
    scratch: Scratch, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    lines = ["x a", "true", "echo a", "nosuch", "./show a", "plain", "ls", "empty"]
    assert scratch.differences([*lines, "x \u00e9", "x $VALUE; x", "cat"]) == []


def test_without_path_the_shell_has_its_own(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PATH")
    assert scratch.differences(["ls", "x a", "true", "nosuch"]) == []


@pytest.mark.parametrize("name", ["PWD", "SHLVL", "HOME"])
def test_what_a_launcher_may_not_set_does_no_harm(
    scratch: Scratch, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name)
    assert (
        scratch.differences(["printenv PWD", "printenv HOME", "x a ~", "nosuch"]) == []
    )


@pytest.mark.parametrize("line", ["./die {}", "sh -c 'kill -{} $$'"])
@pytest.mark.parametrize("signum", [1, 2, 9, 10, 13, 15])
def test_a_command_killed_by_a_signal_gives_its_negative_number(
    scratch: Scratch, line: str, signum: int
) -> None:
    assert scratch.run(BasicRunner(), line.format(signum)) == (-signum, b"")


def test_where_there_is_no_bash_sh_runs_the_line(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "BASH", "/no/such/bash")
    runner = BasicRunner()
    for line in ("echo $0 $#", "nosuch", "x 'a b'", "-x", "./plain", "chdir dir"):
        assert scratch.run(runner, line) == scratch.bash(line, "/bin/sh")


def test_where_there_is_no_shell_the_log_says_so(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "BASH", "/no/such/bash")
    monkeypatch.setattr(runners, "SH", "/no/such/sh")
    runner = BasicRunner()
    assert scratch.run(runner, "ls a.txt") == (0, b"a.txt\n")
    for line in ("nosuch", "x 'a b'", "x '" + "a" * 200_000 + "'"):
        ended = scratch.run(runner, line)
        assert ended.status == 127
        assert ended.output.startswith(b"mpifarm: can't start /no/such/sh: ")


def test_what_was_written_to_the_log_before_stands_before(scratch: Scratch) -> None:
    with scratch.log.open("w") as log:
        log.write("second attempt\n")
        BasicRunner().run(TASKID, "/bin/echo a", log)
    assert scratch.log.read_bytes() == b"second attempt\na\n"


@pytest.mark.parametrize("line", ["sh ./waiting", "x; sleep 900; x"])
def test_terminate_ends_the_command_and_what_it_started(
    scratch: Scratch, line: str
) -> None:
    runner = BasicRunner()
    ended: list[Ended] = []
    line = (
        "sh -c 'sleep 900 & echo $!; wait'" if "waiting" in line else f"echo $$; {line}"
    )
    running = threading.Thread(target=lambda: ended.append(scratch.run(runner, line)))
    scratch.log.write_bytes(b"")
    running.start()
    wait_for(lambda: scratch.log.read_bytes().endswith(b"\n"))
    pid = int(scratch.log.read_bytes().split()[0])
    runner.terminate()
    running.join(60)
    assert [status for status, _ in ended] == [-signal.SIGTERM]
    wait_for(lambda: not is_running(pid))


def test_terminate_before_a_task_does_not_reach_it(scratch: Scratch) -> None:
    runner = BasicRunner()
    runner.terminate()
    task_command.forget_termination()
    assert scratch.run(runner, "sleep 0.1; x") == scratch.bash("sleep 0.1; x")


@pytest.mark.parametrize("line", ["sleep 900", "sleep 900; x", "nosuch || sleep 900"])
def test_terminate_while_a_command_is_being_started_reaches_it(
    scratch: Scratch, line: str
) -> None:
    runner = BasicRunner()
    runner.terminate()
    assert scratch.run(runner, line).status == -signal.SIGTERM


def test_terminate_while_nothing_can_be_started_for_long(scratch: Scratch) -> None:
    """Bash may have said that there is no such command before the signal is there."""
    runner = BasicRunner()
    runner.terminate()
    not_found = scratch.bash("nosuch").status
    assert scratch.run(runner, "nosuch").status in (-signal.SIGTERM, not_found)


def wait_for(condition: Callable[[], bool], deadline: float = 30.0) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
