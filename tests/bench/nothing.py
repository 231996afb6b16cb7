"""A runner that starts nothing, to measure what mpifarm itself costs."""

from typing import TextIO


class NothingRunner:
    """Each task has succeeded at once."""

    def run(self, _taskid: int, _command: str, _logfh: TextIO) -> int:
        return 0

    def terminate(self) -> None:
        """Nothing runs."""
