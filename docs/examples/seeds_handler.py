"""An example of a handler: each line of the tasklist is run with several seeds.

Put this file where Python finds it (the current directory, or one in PYTHONPATH), and
beside your tasklist an INI file such as seeds_handler.ini; then

    mpifarm runs.txt --tasklist seeds
"""

from mpifarm.tasklists import ListTaskList, OptionError


class SeedsTaskList(ListTaskList):
    """Makes `count` tasks of each line; `niceness` is that of `nice`, and may be left.

    All options come as text, as they stand in the INI file.
    """

    def __init__(
        self, path: str, workdir: str, count: str, niceness: str = "0"
    ) -> None:
        super().__init__(path, workdir)
        if not count.isdecimal():
            raise OptionError(f"count is {count!r}, which is no number")
        # The texts of the tasks: what stands in the status files.  They say which task
        # is which, so each start must make the same of the same tasklist.
        self.tasks = [
            f"{line} --seed {seed}"
            for line in self.tasks
            for seed in range(1, int(count) + 1)
        ]
        self.niceness = niceness

    def __getitem__(self, taskid: int, /) -> str:
        """What is run; it may differ from start to start."""
        return f"nice -n {self.niceness} {self.tasks[taskid]}"
