"""Completion in real shells on a terminal, and manual pages by real formatters.

Rules of this file: a shell is typed to as a user does: letters, the Tab key, Enter.
Its mpifarm is a program that writes down which words it was given, but for those that
ask for the completion itself.
"""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys

import pytest

from mpifarm.commands.help_files.files import write_help_files
from tests.pages import take_block
from tests.required import skip_where_allowed
from tests.support import ROOT, clean_environment, wait_until

FILES = ("tasks.txt", "mine.ini", "two words")
DIRECTORIES = ("tasks.txt_workdir", "two words_workdir", "results")

STARTS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], ""),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -D -u; "),
    "fish": (["fish", "--no-config", "-i"], ""),
}
"""How each is started, and what it has to be told before the line of the page."""

TYPED = {
    shell: line.partition("#")[0].strip()
    for line in take_block("site-staff.md", 'eval "$(mpifarm completion').lines
    for shell in STARTS
    if f"completion {shell}" in line
}

COMPLETED = {
    "mpifarm stat": "status",
    "mpifarm tas": "tasks.txt",
    "mpifarm status ta": "status tasks.txt",
    "mpifarm why two": "why two words",
    "mpifarm status tasks.txt --js": "status tasks.txt --json",
    "mpifarm status --list mi": "status --list mine.ini",
    "mpifarm tasks.txt --max-f": "tasks.txt --max-failures",
    "mpifarm -n 4 tasks.txt --logs pac": "-n 4 tasks.txt --logs packed",
    "mpifarm tasks.txt --logs=pac": "tasks.txt --logs=packed",
    "mpifarm tasks.txt --workdir res": "tasks.txt --workdir results",
    "mpifarm 'wc {}' ::: mi": "wc {} ::: mine.ini",
    "mpifarm jobs req": "jobs requeue.slurm",
    "mpifarm help resum": "help resume",
    "mpifarm help ru": "help run",
    "mpifarm run tasks.txt --qui": "run tasks.txt --quiet",
    "mpifarm tasks.txt --no-bi": "tasks.txt --no-bind",
    "mpifarm submit --unt": "submit --until-done",
    "mpifarm submit -N 8 tas": "submit -N 8 tasks.txt",
    "mpifarm submit --scheduler sl": "submit --scheduler slurm",
    "mpifarm submit -N 8 tasks.txt --max-f": "submit -N 8 tasks.txt --max-failures",
    "mpifarm submit -N 8 tasks.txt --unt": "submit -N 8 tasks.txt --unt",
    "mpifarm submit --mem=4G tasks.txt --logs pac": (
        "submit --mem=4G tasks.txt --logs packed"
    ),
    "mpifarm submit -N 8 'wc {}' ::: mi": "submit -N 8 wc {} ::: mine.ini",
}
"""What is typed before the key, and which words the line has then."""


PROGRAM = """\
#!/bin/sh
if [ "$1" = completion ]; then
    PYTHONPATH={root} exec {python} -m mpifarm "$@"
fi
printf "%s\\n" "$*" >> {said}
"""


class Shell:
    """An interactive shell on a terminal, with a way to know what it has run."""

    def __init__(self, argv, directory):
        self._said = directory / "said"
        program = directory / "bin" / "mpifarm"
        program.parent.mkdir()
        program.write_text(
            PROGRAM.format(python=sys.executable, root=ROOT, said=self._said)
        )
        program.chmod(0o755)
        env = clean_environment(os.environ)
        env |= {"TERM": "xterm", "HOME": str(directory)}
        env["PATH"] = f"{program.parent}:{env['PATH']}"
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.execvpe(argv[0], argv, env)
        self._shown = b""

    def enter(self, keys):
        """Type a line, and return what the mpifarm in it was given."""
        before = self._count()
        os.write(self._terminal, f"{keys}\r".encode())

        def has_run():
            # A shell that nobody reads waits.
            while select.select([self._terminal], [], [], 0)[0]:
                self._shown += os.read(self._terminal, 1 << 16)
            return self._count() > before

        try:
            wait_until(has_run)
        except AssertionError:
            pytest.fail(f"not run: {keys!r}, on the screen: {self._shown!r}")
        return self._said.read_text().splitlines()[-1]

    def _count(self):
        return len(self._said.read_text().splitlines()) if self._said.exists() else 0

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)


@pytest.fixture(params=[*STARTS])
def shell(request, tmp_path):
    argv, first = STARTS[request.param]
    if shutil.which(argv[0]) is None:
        skip_where_allowed("shells", f"{argv[0]} is not installed")
    for name in FILES:
        (tmp_path / name).touch()
    for name in DIRECTORIES:
        (tmp_path / name).mkdir()
    shell = Shell(argv, tmp_path)
    shell.enter(f"{first}{TYPED[request.param]}; mpifarm ready")
    yield shell
    shell.close()


def test_a_shell_completes_what_a_user_types(shell):
    # zsh writes --retries= and results/, and may take the last of it back.
    completed = {t: shell.enter(f"{t}\t").rstrip("=/") for t in COMPLETED}
    assert completed == COMPLETED


@pytest.fixture
def pages(tmp_path):
    files = write_help_files("2026-12-01")
    for name, text in files.items():
        if "/man1/" in name:
            (tmp_path / name.rpartition("/")[2]).write_text(text)
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize(
    "formatter", [["groff", "-ww", "-z", "-man"], ["mandoc", "-Tlint", "-Wstyle"]]
)
def test_a_formatter_of_manuals_has_nothing_to_say(pages, formatter):
    if shutil.which(formatter[0]) is None:
        skip_where_allowed("shells", f"{formatter[0]} is not installed")
    ended = subprocess.run(
        [*formatter, *pages], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")
