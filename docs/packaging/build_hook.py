"""Puts manual pages and completion for shells into the wheel, made from ``--help``.

Rules of this file: hatchling runs it, with the standard library and nothing else.  A
date comes from SOURCE_DATE_EPOCH, if whoever builds has set it, so that a build can be
repeated to the byte.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class HelpFilesHook(BuildHookInterface):
    """Writes the files into a directory that is gone after the build."""

    PLUGIN_NAME = "custom"
    _directory: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files to the wheel, by their paths below a prefix."""
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
