"""Each block of code on a page is taken by a test, or stands here with a reason.

Rules of this file: tests are read, not run.  A test takes blocks by calling a function
of TAKERS with the page, and with how the blocks begin: what takes a block has read it
from its page.
"""

import ast
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.pages import Block, blocks_of, list_pages, read_page
from tests.support import ROOT

PICTURE = "a picture or a formula: nothing in it can be typed"
CONTENTS = "a table of contents: tests/unit/test_site.py reads it"
INSTALL = "it installs Debian packages on this machine, which no test does"
BUILD = "`make docs` types it, and fails where it fails"

NOT_TAKEN = {
    "CONTRIBUTING.md": {"for package in": INSTALL},
    "architecture.md": {" rank 0": PICTURE},
    "commands.md": {"mpifarm": BUILD},
    "index.md": {":caption:": CONTENTS},
}
"""How the blocks begin that no test takes, by their page, and why none does."""

TAKERS = {"take_block", "take_blocks", "Page"}
BY_LINE = "Page"
"""Takes only blocks of which each typed line begins with one of the words."""


class Taken(NamedTuple):
    """Blocks that a call in a test takes: of a page, those that begin so."""

    taker: str
    page: str
    words: tuple[str, ...]
    place: str

    def has(self, block: Block) -> bool:
        if not self.words:
            return True
        if self.taker == BY_LINE:
            return all(each.command.startswith(self.words) for each in block.typed)
        return any(map(block.begins_with, self.words))


def _list_taken() -> Iterator[Taken]:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text()
        if "tests.pages" not in text and path.name != "pages.py":
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            words = [
                each.value
                for each in node.args
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            ]
            if node.func.id in TAKERS and words:
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                yield Taken(node.func.id, words[0], tuple(words[1:]), place)


TAKEN = [*_list_taken()]
PAGES = list_pages()


def _find_takers(page: str, block: Block) -> list[str]:
    return [each.place for each in TAKEN if each.page == page and each.has(block)]


def _list_reasons(page: str, block: Block) -> list[str]:
    reasons = NOT_TAKEN.get(page, {})
    return [reasons[words] for words in reasons if block.begins_with(words)]


@pytest.mark.parametrize("page", PAGES)
def test_each_block_is_taken_by_a_test_or_has_a_reason(page):
    left = [
        block.lines[0]
        for block in blocks_of(read_page(page))
        if not _find_takers(page, block) and not _list_reasons(page, block)
    ]
    assert left == [], (
        f"no test takes these blocks of {page}: run them in a test that calls "
        f"take_block({page!r}, …) (tests/process/test_pages.py has most), or say in "
        "NOT_TAKEN why none does"
    )


@pytest.mark.parametrize("page", NOT_TAKEN)
def test_what_a_test_takes_has_no_reason_not_to(page):
    for block in blocks_of(read_page(page)):
        if _list_reasons(page, block):
            assert _find_takers(page, block) == [], block.lines[0]


def test_each_reason_is_for_a_block():
    for page, reasons in NOT_TAKEN.items():
        blocks = [*blocks_of(read_page(page))]
        for words in reasons:
            assert any(each.begins_with(words) for each in blocks), (page, words)


def test_each_call_takes_a_block_of_a_page():
    for call in TAKEN:
        assert call.page in PAGES, f"{call.place}: write the page's name in the call"
        assert any(call.has(each) for each in blocks_of(read_page(call.page))), call
