"""``python -m mpifarm``: see `mpifarm.cli`."""

from mpifarm.cli import main

main()
