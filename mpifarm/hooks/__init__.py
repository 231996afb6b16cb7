"""Hooks: what watches a farm, each in a process of its own beside rank 0.

Rules of this file: the public face.  Rank 0 reads the definitions (`definitions`,
`site`), starts a helper for each hook (`helper`) and writes it lines of JSON, which
`mpifarm.model.events` names.  What a helper does or fails to do costs its own output
alone.
"""

from collections.abc import Mapping
from typing import Any


class Hook:
    """The base of a hook of your own, which an INI file names: ``Hook = module.Class``.

    Keys of the section are keyword arguments of the constructor, all of them texts.
    The methods are called in a process of the hook's own; an exception is told once,
    with the class's name.
    """

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take in one event; docs/hooks.md lists the keys."""

    def close(self) -> None:
        """End: no event follows, and the process ends."""
