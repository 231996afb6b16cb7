"""An example of a handler with an order: simulations, their plots, and an overview.

Put this file where Python finds it (the current directory, or one in PYTHONPATH), and
beside your tasklist an INI file such as plots_handler.ini; then

    mpifarm parameters.txt --tasklist plots --limit licence=4
"""

from mpifarm.tasklists import Constraints, ListTaskList


class PlotsTaskList(ListTaskList):
    """A handler that makes a simulation and a plot of each line.

    A plot waits for its simulation.  The overview waits for all, and is not run if one
    of them fails.  Simulations share seats by the name ``licence``.
    """

    def __init__(self, path: str, workdir: str) -> None:
        super().__init__(path, workdir)
        lines, count = self.tasks, len(self.tasks)
        self.tasks = [f"./simulate {line}" for line in lines]
        self.tasks += [f"./plot {line}" for line in lines]
        self.tasks += ["./overview"]
        self.constraints = Constraints(
            after={count + each: (each,) for each in range(count)},
            kinds=dict.fromkeys(range(count), "licence"),
        )
        self.constraints.add_barrier(2 * count, checks=True)
