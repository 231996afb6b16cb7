"""An example of a handler: each line of the tasklist is run with several seeds.

Put this file where Python finds it (the current directory, or one in PYTHONPATH), and
beside your tasklist an INI file such as seeds_handler.ini; then

    mpifarm runs.txt --tasklist seeds
"""

from mpifarm.tasklists import ListTaskList, OptionError


class SeedsTaskList(ListTaskList):
    """A handler that makes `count` tasks of each line, run with `niceness` (default 0).

    All options are text, as in the INI file.
    """

    def __init__(
        self, path: str, workdir: str, count: str, niceness: str = "0"
    ) -> None:
        super().__init__(path, workdir)
        if not count.isdecimal():
            raise OptionError(f"count is {count!r}, which is no number")
        # The texts of the tasks, as in the status files.  A task is recognized by its
        # text, so each start must make the same texts of the same tasklist.
        self.tasks = [
            f"{line} --seed {seed}"
            for line in self.tasks
            for seed in range(1, int(count) + 1)
        ]
        self.niceness = niceness

    def __getitem__(self, taskid: int, /) -> str:
        """Return the command of a task; it may differ from start to start."""
        return f"nice -n {self.niceness} {self.tasks[taskid]}"
