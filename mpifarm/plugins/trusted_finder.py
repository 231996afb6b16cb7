"""A finder of modules that refuses those that a stranger could have written.

Rules of this file: a module is judged each time before it is imported, with what Python
would read in its place.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from mpifarm.plugins.loading import RefusedModuleError
from mpifarm.system.trust import judge_file

_COPY: Final = "use a copy of it that is yours, in a directory of yours"


class TrustedFinder:
    """Finds modules as Python does; raises RefusedModuleError for a stranger's.

    Judged are the module of the class `dotted` with its packages, and all modules of
    the directory in which it is found, and of `directories`.  Those that are installed
    elsewhere are trusted as mpifarm itself is.
    """

    def __init__(self, dotted: str, directories: Sequence[str]) -> None:
        self._dotted = dotted
        self._directories = {os.path.abspath(each) for each in directories if each}

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return where Python finds a module, None for nowhere."""
        for finder in [each for each in sys.meta_path if each is not self]:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self._judge(spec)
                return spec
        return None

    def _judge(self, spec: ModuleSpec) -> None:
        if not spec.has_location or spec.origin is None:
            return  # a module of the interpreter, or a package without a file
        directory = _find_directory_of(spec, spec.origin)
        if self._dotted.startswith(f"{spec.name}."):
            self._directories.add(directory)
        elif directory not in self._directories:
            return
        # What is cached is run in place of the source.
        for path in filter(None, (spec.origin, spec.cached)):
            if found := judge_file(_find_nearest(path)):
                raise RefusedModuleError(
                    f"the module {spec.name} is not used: {found.why}, and it would run"
                    f" as you: {found.find_remedy(_COPY)}"
                )


def _find_directory_of(spec: ModuleSpec, origin: str) -> str:
    """Return the directory of the path of modules in which a module is, or its package.

    `origin` is its file.
    """
    path = os.path.abspath(origin)
    is_package = spec.submodule_search_locations is not None
    for _ in range(spec.name.count(".") + 1 + is_package):
        path = os.path.dirname(path)
    return path


def _find_nearest(path: str) -> str:
    """Return a path, or the directory or archive above it if it is not there."""
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path
