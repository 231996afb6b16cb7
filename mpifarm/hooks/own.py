"""A hook of the user's own, or of the site's: a class that an INI file names.

Rules of this file: an exception of the class is told once, with its name, and the next
event is tried all the same.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from mpifarm.errors import InputError
from mpifarm.hooks.definitions import HookDefinition
from mpifarm.hooks.sink import Report
from mpifarm.model.wording import counted
from mpifarm.plugins.loading import check_options, import_class, in_one_line


def import_hook(definition: HookDefinition) -> Any:
    """Return the class of a hook; raise InputError if it can't be one."""
    looks_here = not definition.by_site
    python_class = import_class(definition.python_class, looks_here=looks_here)
    if not callable(getattr(python_class, "on_event", None)):
        raise InputError(f"{definition.python_class} has no method on_event(event)")
    check_options(python_class, definition.python_class, definition.options)
    return python_class


class OwnHook:
    """Calls the object of a class, one event at a time."""

    def __init__(self, definition: HookDefinition, report: Report) -> None:
        """Make the object; raises InputError, or what its constructor raises."""
        self._title = definition.title
        self._report = report
        self._failures = 0
        self._hook: Any = import_hook(definition)(**definition.options)

    def take(self, lines: Sequence[bytes]) -> None:
        """Call the object for each event."""
        for line in lines:
            event = json.loads(line)
            self._try(lambda: self._hook.on_event(event))  # noqa: B023 - called at once

    def wake_at(self) -> float:
        """Return `inf`: an own hook has no times of ours."""
        return float("inf")

    def step(self, now: float) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Close the object, if it has a method for that; tell of its failures."""
        close = getattr(self._hook, "close", None)
        if callable(close):
            self._try(close)
        if self._failures > 1:
            self._report(f"{self._title} failed {counted(self._failures, 'time')}")

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code
            self._failures += 1
            if self._failures == 1:
                self._report(f"{self._title} fails: {in_one_line(error)}")
