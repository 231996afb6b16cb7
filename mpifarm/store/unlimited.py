"""The tasks of kinds for which a farm has no ``--limit``: it starts none of them.

Rules of this file: ids and names.  A start is refused for such a kind, so these tasks
were added while the farm works.  They stay queued, for a farm with a limit.
"""

from collections.abc import Iterable, Mapping
from itertools import takewhile

from mpifarm.order.constraints import Constraints


class Unlimited:
    """Those of a list's tasks that a farm does not start, by what the list says.

    There are none until `name_limits`.
    """

    def __init__(self, constraints: Constraints) -> None:
        self.tasks: set[int] = set()
        """Their ids; it grows, and no other set takes its place."""
        self._constraints = constraints
        self._limits: frozenset[str] | None = None

    def name_limits(self, names: Iterable[str]) -> None:
        """Set the kinds that have a limit in this farm."""
        self._limits = frozenset(names)
        self.tasks.clear()
        self.grow(0)

    def grow(self, known: int) -> None:
        """Heed the kinds of the tasks that the list has got, from `known` on."""
        if self._limits is not None:
            self.tasks.update(self.find_kinds(known))

    def find_kinds(self, begin: int = 0) -> Mapping[int, str]:
        """Return the kinds of these tasks from `begin` on, by id."""
        kinds, limits = self._constraints.kinds, self._limits
        if limits is None:
            return {}
        # What was added stands last.
        new = takewhile(begin.__le__, reversed(kinds))
        return {each: kinds[each] for each in new if kinds[each] not in limits}
