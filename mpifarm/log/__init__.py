"""``mpifarm log``: what tasks have written, while farms run or after them.

Rules of this package: it changes nothing.  Where outputs are `workdir.outputs` knows,
where tasks are `workdir.whereabouts`; here are arguments (`command`), the order in
which things are shown (`show`, `follow`) and what is said of tasks (`words`, `gaps`).
"""

from mpifarm.log.command import main

__all__ = ["main"]
