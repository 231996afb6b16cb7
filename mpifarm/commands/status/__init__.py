"""``mpifarm status``: what goes on in a workdir, once or again and again.

Rules of this package: it changes nothing.  `mpifarm.audit.status` reads; here are the
arguments and the loop (`command`), the words (`words`), the JSON (`encoding`), and
what a terminal needs (`screen`).
"""

from mpifarm.commands.status.command import main

__all__ = ["main"]
