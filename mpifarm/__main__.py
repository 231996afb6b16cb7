"""``python -m mpifarm``: see `mpifarm.cli`.

Rules of this file: Python has put the directory in which it was started before its own
library.  There, where the user works, a ``copy.py`` or a ``signal.py`` may lie, and
each rank would look there for each module; so it goes to the end, before all else.
"""

import sys

if not sys.flags.safe_path:
    sys.path.append(sys.path.pop(0))

from mpifarm.cli import main

main()
