"""The interface for Python: farms that a script or a notebook starts.

Rules of this room: a farm is a process of its own, started by its command line, so what
holds for that holds here.  Nothing is printed but what ``progress`` asks for.  Users
import the names of `__all__` from `mpifarm`.
"""

from mpifarm.errors import ExitStatus, FarmError, InputError, StorageError
from mpifarm.interface.attempts import Attempt
from mpifarm.interface.farm import Farm, run
from mpifarm.interface.results import Results, TasksFailedError

__all__ = [
    "Attempt",
    "ExitStatus",
    "Farm",
    "FarmError",
    "InputError",
    "Results",
    "StorageError",
    "TasksFailedError",
    "run",
]
