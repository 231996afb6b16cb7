"""A fake of the trees of processes that /proc shows, for what looks at them."""


class FakeTree:
    """Processes with children and environments, in place of those of the machine."""

    def __init__(self) -> None:
        self.children: dict[int, list[int]] = {}
        self.environments: dict[int, bytes] = {}
        self.held: set[int] = set()
        """Processes that the kernel holds."""

    def children_of(self, pid: int) -> list[int]:
        if pid == 0:
            raise ProcessLookupError
        return self.children.get(pid, [])

    def tree_of(self, pid: int) -> list[int]:
        tree = [pid]
        for each in tree:
            tree += self.children_of(each)
        return tree

    def is_held(self, pid: int) -> bool:
        return pid in self.held

    def environment_of(self, pid: int) -> bytes:
        assert pid not in self.held, "the read hangs"
        return self.environments.get(pid, b"")
