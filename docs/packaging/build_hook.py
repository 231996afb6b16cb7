"""What hatchling runs to build mpifarm: help files, and the README of an index.

Rules of this file: it needs hatchling and the standard library, and nothing else.  A
Python that is too old for mpifarm must be able to run it: pip asks for the metadata
before it says which Python is needed.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


class HelpFilesHook(BuildHookInterface):
    """Puts manual pages and completion for shells into the wheel, made from ``--help``.

    Their date comes from SOURCE_DATE_EPOCH, if whoever builds has set it, so that a
    build can be repeated to the byte.
    """

    PLUGIN_NAME = "custom"
    _directory: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files to the wheel, by their paths below a prefix."""
        if sys.version_info < (3, 11):  # noqa: UP036 - pip has not looked yet
            return  # pip refuses what it gets, in one sentence
        sys.path.insert(0, self.root)
        from mpifarm.commands.help_files.files import write_help_files

        seconds = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
        date = time.strftime("%Y-%m-%d", time.gmtime(seconds))
        self._directory = tempfile.TemporaryDirectory(prefix="mpifarm-build-")
        for name, text in write_help_files(date).items():
            path = Path(self._directory.name, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            build_data["shared_data"][str(path)] = name

    def finalize(self, version: str, build_data: dict[str, Any], artifact: str) -> None:
        """Remove the directory: the wheel has its files."""
        if self._directory is not None:
            self._directory.cleanup()


class IndexHook(MetadataHookInterface):
    """Makes the long description and the links that an index shows.

    ``address`` in ``pyproject.toml`` is where the files of the project can be read.
    """

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Set what `dynamic` names, but for the version."""
        address = self.config.get("address", "").rstrip("/")
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": rewrite_links(text, address),
        }
        metadata["urls"] = list_urls(address)


_LINK = re.compile(r"(!?)\[([^][]*)\]\((?!https?:|#)([^()]*)\)")


def rewrite_links(text: str, address: str) -> str:
    """Return a page of the project as it can be read without the project's files.

    Without an address, a link to a page becomes the command that prints it, and any
    other link its words.
    """

    def rewrite(found: re.Match[str]) -> str:
        mark, words, target = found.groups()
        if address:
            return f"{mark}[{words}]({address}/{target})"
        page = target.partition("#")[0]
        if mark or not page.endswith(".md"):
            return words
        return f"{words} (`mpifarm help {page}`)"

    return _LINK.sub(rewrite, text)


def list_urls(address: str) -> dict[str, str]:
    """Return the links of the project by their names, none without an address."""
    if not address:
        return {}
    return {
        "Documentation": f"{address}/docs/index.md",
        "Source": address,
        "Changelog": f"{address}/docs/changelog.md",
    }
