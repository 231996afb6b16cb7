"""``python -m mpifarm``: see `mpifarm.commands.main`.

Rules of this file: a Python older than 3.11 must be able to read it.  Such a Python
cannot read the other modules, so the version is checked before any of them is imported.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - a checkout runs without any installer
    import os

    # Only the first rank prints the sentence: else it appears once for each rank.
    ranks = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
    if next((os.environ[name] for name in ranks if name in os.environ), "0") == "0":
        # The sentence of pip, and of make: one to search for.
        sys.stderr.write(
            "Package 'mpifarm' requires a different Python: "
            f"{sys.version.split()[0]} not in '>=3.11': name another, as in "
            "/path/to/python3.11 -m mpifarm\n"
        )
    sys.exit(2)

if not sys.flags.safe_path:
    # `python -m` puts the current directory before the standard library.  The user's
    # copy.py or signal.py there would be imported in place of Python's own, and each
    # rank would search that directory, often on a shared disk, for each module.
    sys.path.append(sys.path.pop(0))

from mpifarm.commands.main import main

main()
