"""Every command line of mpifarm on the pages: its options are those that it has.

Rules of this file: nothing is run; what a command prints is for tests/process.
"""

import re
import shlex
from itertools import takewhile

from mpifarm.commands import SUBCOMMANDS
from mpifarm.commands.help_files.command_lines import list_command_lines
from tests.pages import blocks_of
from tests.support import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OF_THE_PAST = {"changelog.md"}

NAMES = {
    line.name: {name for option in line.options for name in option.names}
    for line in list_command_lines()
}
REFUSED = "mpifarm --halt soon,fail=1 tasks.txt"
"""The page shows what is said of it."""

PATTERN = re.compile(r"…|\.\.\.|\[-|mpifarm: ")
"""Lines that are not typed as they stand, or that were printed."""

ENDS = {"|", "||", "&", "&&", ";", ">", ">>", "<", ">&", ":::", "::::", "--"}


def lines_of(text):
    """Yield what is typed: in blocks, and between backticks."""
    for block in blocks_of(text):
        yield from (typed.command for typed in block.typed)
    prose = "\n".join(line for line in text.splitlines() if line[:4] != "    ")
    yield from (code for code in re.findall(r"`([^`]+)`", prose) if "mpifarm " in code)


def words_of(line):
    """Yield the words behind each mpifarm of a line, up to another command."""
    line = re.sub(r"\$\(.*?\)", "X", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    try:
        words = [*lexer]
    except ValueError:  # a line of a list, or of Python
        return
    while "mpifarm" in words:
        words = words[words.index("mpifarm") + 1 :]
        yield [*takewhile(lambda word: word not in ENDS, words)]


def test_each_option_that_a_page_types_is_one_of_its_command():
    seen, unknown = 0, []
    for page in PAGES:
        for line in lines_of(page.read_text()):
            if page.name in OF_THE_PAST or PATTERN.search(line) or line == REFUSED:
                continue
            for words in words_of(line):
                name = words[0] if words and words[0] in SUBCOMMANDS else ""
                options = {each.partition("=")[0] for each in words if each[:1] == "-"}
                seen += 1
                # submit takes the options of the batch system, too
                if name != "submit" and not options <= NAMES[name] | {"-"}:
                    unknown.append((page.name, line))
    assert seen > 200
    assert unknown == []
