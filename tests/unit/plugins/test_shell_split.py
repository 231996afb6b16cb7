"""Tables of lines that are started directly; a comparison with bash is in
``tests/process/test_runner_against_bash.py``."""

import shlex
import shutil
import string
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.plugins.shell_split import BUILTINS, KEYWORDS, SHELL_WORDS, split_direct

DIRECT = {
    "date": ["date"],
    "gzip -9 a.txt": ["gzip", "-9", "a.txt"],
    "a  b\t c ": ["a", "b", "c"],
    "./run.sh 1 2": ["./run.sh", "1", "2"],
    "/usr/bin/env A=1 b": ["/usr/bin/env", "A=1", "b"],
    "dd if=/dev/zero of=x": ["dd", "if=/dev/zero", "of=x"],
    "rsync u@host:a,b %1 +x -- -": ["rsync", "u@host:a,b", "%1", "+x", "--", "-"],
    "env if then cd true": ["env", "if", "then", "cd", "true"],
    "-x +y": ["-x", "+y"],
    "true": ["/bin/true"],
    "true a": ["/bin/true", "a"],
    "false": ["/bin/false"],
    "echo": ["/bin/echo"],
    "echo a  b=c": ["/bin/echo", "a", "b=c"],
    "a-b_c.d+e": ["a-b_c.d+e"],
    "cd-all": ["cd-all"],
}

BY_SHELL = [
    *("", " ", "\t", "A=1 cmd", "A=1", "a/b=c", "%1", "=", "=a"),
    *("true --help", "false a -x", "echo -n a", "echo -", "echo a -n", "echo --help"),
    *("cmd ~", "~/cmd", "cmd a=~/b", "cmd ~user", "cmd *", "cmd a?", "cmd [a]"),
    *("cmd {a,b}", "cmd $HOME", "cmd `x`", "cmd 'a'", 'cmd "a"', "cmd a\\"),
    *("cmd \\a", "cmd #x", "cmd a#x", "#x", "cmd;x", "cmd&", "cmd&&x", "cmd|x"),
    *("cmd>x", "cmd<x", "cmd<<<x", "(cmd)", "cmd !", "! cmd", "a^b", "cmd\n"),
    *("cmd\nx", "cmd\r", "cmd\va", "cmd\fa", "cmd\x00", "cmd\x7f", "cmd\x1fa"),
    *("cmd\u00a0a", "cmd\u2003a", "cmd \u00e9", "cmd \u0661", "cmd \udcff"),
]


@pytest.mark.parametrize("line", DIRECT)
def test_a_plain_line_is_split_at_its_blanks(line: str) -> None:
    assert split_direct(line) == DIRECT[line]


@pytest.mark.parametrize("line", BY_SHELL)
def test_a_line_with_shell_syntax_goes_to_the_shell(line: str) -> None:
    assert split_direct(line) is None


@pytest.mark.parametrize("name", sorted(SHELL_WORDS - {"true", "false", "echo"}))
def test_a_word_of_the_shell_goes_to_the_shell(name: str) -> None:
    assert split_direct(name) is None
    assert split_direct(f"{name} x") is None


def test_an_exported_function_goes_to_the_shell() -> None:
    functions = frozenset({"date", "true"})
    assert split_direct("date", functions) is None
    assert split_direct("date -u", functions) is None
    assert split_direct("true", functions) is None
    assert split_direct("/bin/date", functions) == ["/bin/date"]


@pytest.mark.parametrize("char", sorted(set(map(chr, range(256)))))
def test_only_plain_characters_pass(char: str) -> None:
    plain = string.ascii_letters + string.digits + "_./:=,@%+- \t"
    assert (split_direct(f"cmd a{char}b") is not None) == (char in plain)


@given(st.text(alphabet=st.sampled_from("ab1-=%@+.,:/ \t'\"$~*\\#;\n\u00e9\udcff")))
def test_a_direct_line_is_what_shlex_makes_of_it(line: str) -> None:
    argv = split_direct(line)
    assert argv is None or argv == shlex.split(line)


@pytest.mark.skipif(not shutil.which("bash"), reason="asks the real bash")
@pytest.mark.parametrize(("option", "known"), [("-b", BUILTINS), ("-k", KEYWORDS)])
def test_no_word_of_the_real_bash_is_missing(
    option: str, known: frozenset[str]
) -> None:
    words = _output_of("bash", "--norc", "-c", f"compgen {option}").split()
    assert len(words) > 20
    assert set(words) <= known


@pytest.mark.parametrize("shell", ["bash", "dash", "sh"])
def test_no_program_here_has_the_name_of_an_unknown_builtin(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    programs = _output_of("bash", "--norc", "-c", "compgen -c")
    names = [name for name in programs.split() if split_direct(name) is not None]
    asking = 'while read -r name; do command -v "$name" || :; done'
    answers = _output_of(shell, "-c", asking, text="\n".join(names) + "\n")
    own = {line for line in answers.splitlines() if not line.startswith(("/", "."))}
    assert own <= {"true", "false", "echo"}


def _output_of(*argv: str, text: str = "") -> str:
    done = subprocess.run(
        argv, input=text, stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    return done.stdout
