"""The examples of a page of the documentation, typed as they stand there.

Rules of this file: what is typed is read from the page; what it prints is what the page
shows, but for ids of farms, times, hosts and widths.  A page may leave out the last
lines.
"""

import os
import sys
from pathlib import Path
from typing import ClassVar

from tests.farm_driver import FarmDriver, assert_ends
from tests.pages import Block, Typed, take_blocks, without_varying
from tests.support import Child

HOST = os.uname().nodename


class Page:
    """The examples of a page, and a place to type them; `left` are those not yet typed.

    `word` is an example, or tells it from all others that are left.  At the end of a
    test, nothing may be left on the pages that it has `opened`.
    """

    opened: ClassVar[list["Page"]] = []

    def __init__(self, place: FarmDriver, page: str | Block, *words: str) -> None:
        """With `words`, only the lines of blocks that begin with one are examples."""
        blocks = [page] if isinstance(page, Block) else take_blocks(page)
        typed = [typed for block in blocks for typed in block.typed]
        self.left = [each for each in typed if each.command.startswith(words or "")]
        self.opened.append(self)
        self._place = place
        programs = place.directory / "bin"
        programs.mkdir(exist_ok=True)
        here = f"{programs}:{place.directory}:{Path(sys.prefix, 'bin')}"
        place.environment["PATH"] = f"{here}:/usr/bin:/bin"
        shim = f'#!/bin/sh\nexec {sys.executable} -m mpifarm "$@"\n'
        place.write_program("bin/mpifarm", shim)

    def _take(self, word: str) -> Typed:
        whole = [typed for typed in self.left if typed.command == word]
        (found,) = whole or [typed for typed in self.left if word in typed.command]
        self.left.remove(found)
        return found

    def leave(self, word: str) -> None:
        self._take(word)

    def take_rest(self) -> list[Typed]:
        """Return what is left; the test types all of it."""
        taken, self.left = self.left, []
        return taken

    def start(self, word: str) -> Child:
        return self.type(self._take(word).command)

    def type(self, command: str) -> Child:
        return self._place.start_command(["/bin/bash", "-c", command])

    def run(self, *words: str) -> None:
        """Type examples side by side to their ends, and compare what they print."""
        typed = [self._take(word) for word in words]
        for each, child in [(each, self.type(each.command)) for each in typed]:
            assert_ends(child, 0)
            if each.printed:
                shown = without_varying(each.printed)
                printed = without_varying(child.text().splitlines(), HOST)
                assert printed[: len(shown)] == shown
