"""Which modules a hook may import: none that a stranger could have written.

Rules of this file: for the process of a hook alone.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mpifarm.hooks.definitions import HookDefinition, HookKind
from mpifarm.plugins.trusted_finder import TrustedFinder
from mpifarm.system.processes import find_directory


@contextmanager
def trusting_modules(hook: HookDefinition) -> Iterator[None]:
    """Have imports judged, and the modules of the site found, for a hook of a class."""
    if hook.kind is not HookKind.CLASS:
        yield
        return
    path, finders = [*sys.path], [*sys.meta_path]
    here = find_directory()
    if hook.by_site and here:
        # It is the user's, and may be a directory that all users share.
        sys.path[:] = [each for each in path if os.path.abspath(each) != here]
    if hook.path:
        sys.path.insert(0, hook.path)
    sys.meta_path.insert(0, TrustedFinder(hook.python_class, (hook.path, here)))
    try:
        yield
    finally:
        sys.path[:], sys.meta_path[:] = path, finders
