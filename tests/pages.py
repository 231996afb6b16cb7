"""The pages of the documentation as tests read them: blocks of code, and what is typed.

Rules of this file: standard library only; it reads pages and runs nothing.  A line of a
block that begins with "$ " was typed, and what it printed stands in the lines below it.
A test takes the blocks that it runs by `take_block` or `take_blocks`, with the page and
how the block begins as words in the call: tests/unit/test_page_blocks.py reads the
calls, and finds the blocks that no test takes.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.support import ROOT

TYPED = "$ "
GAP = "..."


class Typed(NamedTuple):
    """A command as a page has it, and the lines that it printed."""

    command: str
    printed: list[str]


class Block(NamedTuple):
    """A block of code, and the paragraph before it."""

    lines: list[str]
    before: str

    @property
    def typed(self) -> list[Typed]:
        """What was typed: the lines behind a "$ ", or all where there is none."""
        if not any(line.startswith(TYPED) for line in self.lines):
            return [Typed(line, []) for line in self.lines]
        found: list[Typed] = []
        for line in self.lines:
            if line.startswith(TYPED):
                found.append(Typed(line.removeprefix(TYPED), []))
            else:
                found[-1].printed.append(line)
        return found

    def begins_with(self, words: str) -> bool:
        """Whether the block does; the words may leave out its first "$ "."""
        text = self.text()
        return text.startswith(words) or text.removeprefix(TYPED).startswith(words)

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


README = "README.md"


def list_pages() -> list[str]:
    """Return the names of all pages: of the README, and of those in ``docs``."""
    return [README, *sorted(path.name for path in (ROOT / "docs").glob("*.md"))]


def read_page(name: str) -> str:
    """Return the text of the README or of a page of ``docs``."""
    return (ROOT / name if name == README else ROOT / "docs" / name).read_text()


def take_blocks(page: str, first: str = "") -> list[Block]:
    """Return the blocks of a page that begin with the words `first`."""
    found = [each for each in blocks_of(read_page(page)) if each.begins_with(first)]
    assert found, f"{page} has no block that begins with {first!r}"
    return found


def take_block(page: str, first: str) -> Block:
    """Return the one block of a page that begins with the words `first`."""
    found, *more = take_blocks(page, first)
    assert not more, f"{page} has {len(more) + 1} blocks that begin with {first!r}"
    return found


def blocks_of(text: str) -> Iterator[Block]:
    """Yield the indented and the fenced blocks of code, in their order.

    Blank lines between indented lines are part of the block.
    """
    paragraph, before, code, gap = list[str](), "", list[str](), 0
    fenced = False
    for line in [*text.splitlines(), "", "the end"]:
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or (line.startswith("    ") and not paragraph):
            code += [*[""] * gap, line if fenced else line[4:]]
            gap = 0
            continue
        elif code and not line.strip():
            gap += 1
            continue
        if code and not fenced:
            yield Block(code, before)
            code, gap = [], 0
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            before, paragraph = "\n".join(paragraph), []


def tutorial() -> tuple[str, list[Typed], list[Typed]]:
    """Return the tutorial's program, and what is typed on a laptop and on Slurm."""
    program = take_block("tutorial.md", "#!")
    blocks = [each for each in take_blocks("tutorial.md") if each != program]
    slurm = blocks.index(take_block("tutorial.md", "mpifarm doctor"))
    here, there = (
        [typed for block in part for typed in block.typed]
        for part in (blocks[:slurm], blocks[slurm:])
    )
    return program.text(), here, there


def find_missing(shown: list[str], printed: list[str]) -> str:
    """Return the first line that is shown and not printed in its place, else "".

    A line "..." stands for any lines; the last lines may be left out.
    """
    rest = iter(printed)
    is_after_gap = False
    for line in shown:
        if line == GAP:
            is_after_gap = True
        elif is_after_gap:
            if line not in rest:  # reads on to it
                return line
            is_after_gap = False
        elif next(rest, None) != line:
            return line
    return ""


_VARYING = (
    (re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d (?=mpifarm: )"), ""),
    (re.compile(r"(?<=version )[\d.]+"), "VERSION"),
    (re.compile(r"\b[0-9a-f]{8}\b"), "FARM"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "DATE"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\([\d.:]+ (?:s|min|h) ago\)"), "(AGE)"),
    (re.compile(r"\b[\d.]+ s\b"), "SECONDS"),
    (re.compile(r"\bn\d+\b"), "HOST"),
    (re.compile(r"\b(?:job[ -]|scancel )\d+\b"), "JOB"),
    (re.compile(r" {2,}"), "  "),
)
"""What is another in each run: ids of farms, times, hosts, widths of columns."""


def without_varying(lines: list[str], host: str = "") -> list[str]:
    """Return lines without blank ones and without what differs from run to run."""
    found = []
    for line in filter(None, map(str.strip, lines)):
        if host:
            line = re.sub(rf"\b{re.escape(host)}\b", "HOST", line)  # noqa: PLW2901 - the same line
        for pattern, word in _VARYING:
            line = pattern.sub(word, line)  # noqa: PLW2901 - the same line
        found.append(line)
    return found
