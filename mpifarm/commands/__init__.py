"""The commands that a user types: the farm, and the subcommands."""

from collections.abc import Mapping, Sequence
from typing import Final

SUBCOMMANDS: Final[Mapping[str, Sequence[str]]] = {
    "add": ("--file", "--after", "--json"),
    "cancel": ("--json",),
    "check": ("--repair", "--assume-idle"),
    "completion": (),
    "config": (),
    "doctor": (),
    "drain": ("--json",),
    "export": ("--output", "--sqlite", "--state"),
    "hold": ("--json",),
    "import": (),
    "joblog": ("--gnu",),
    "jobs": ("--to",),
    "log": ("--attempt", "--failed", "--last", "--tag"),
    "ls": (
        *("--failed", "--finished", "--running", "--waiting", "--slowest", "--host"),
        *("--longer-than", "--status", "--ids", "--json"),
    ),
    "release": ("--json",),
    "retry": ("--failed", "--ids", "--status", "--why"),
    "selftest": ("--kill-a-rank",),
    "status": ("--watch", "--json"),
    "submit": (
        *("--nodes", "--account", "--partition", "--qos", "--cpus-per-task"),
        *("--job-name", "--pe", "--directive", "--after", "--until-done", "--chain"),
        *("--array", "--backfill", "--supervise", "--install-free", "--scheduler"),
        *("--print", "--json"),
    ),
    "supervise": ("--max-restarts",),
    "timeline": (),
    "why": ("--json",),
}
"""The subcommands, and the options of each that a farm does not have.

(``submit --time`` is left out: to a farm, that word is short for ``--timeout``.)

Each is a module of this package with ``main(argv, console, environ) -> int``.
"""
