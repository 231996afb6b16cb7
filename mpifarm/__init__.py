"""mpifarm: run each command of a text file once, over MPI ranks.

The design is drawn in ``docs/design.md``.  This module imports nothing, so that
every rank of a large job starts from it at no cost.
"""

__version__ = "0.4.0"
