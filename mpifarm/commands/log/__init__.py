"""``mpifarm log``: the outputs of tasks, while farms run or after them.

Rules of this package: it changes nothing.  `mpifarm.output.reader` finds outputs,
`mpifarm.audit.locate` finds tasks; here are the arguments (`command`), the order in
which outputs are printed (`printer`, `follow`), and the reasons why an output is not
there (`explain`, `gaps`).
"""

from mpifarm.commands.log.command import main

__all__ = ["main"]
