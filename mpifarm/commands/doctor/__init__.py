"""``mpifarm doctor``: whether a farm has here what it needs, and what to do if not.

Rules of this package: nothing hangs and nothing dies with what is looked at.  Each
program has a deadline, and so has each child: in a child are MPI libraries loaded, and
files of the user's file systems touched.  MPI is initialized by the trial of a launcher
alone.  What only ranks on two nodes can show is left to ``mpifarm selftest``.
"""

from mpifarm.commands.doctor.command import main

__all__ = ["main"]
