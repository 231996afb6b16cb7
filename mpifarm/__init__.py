"""mpifarm: run each command of a text file once, over MPI ranks.

``docs/design.md`` describes the design, ``docs/python.md`` what is for scripts and
notebooks.  This module imports nothing until a name of `__all__` is used: every rank of
a large job reads it, all at once and from one shared file system.
"""

__version__ = "0.5.0"

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

TYPE_CHECKING = False  # as typing's, which would be an import
if TYPE_CHECKING:
    from mpifarm.errors import ExitStatus, FarmError, InputError, StorageError
    from mpifarm.interface.attempts import Attempt
    from mpifarm.interface.farm import Farm, run
    from mpifarm.interface.results import Results, TasksFailedError
else:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module 'mpifarm' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module("mpifarm.interface"), name)

    def __dir__():
        return [*globals(), *__all__]
