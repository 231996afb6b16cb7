"""The page of all options, from the table that the command line is parsed by.

    python -m tests.site.options [--page docs/options.md]

Rules of this file: what an option means and its default stand in its help, and nowhere
else.  Here is only where there is more to read.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mpifarm.commands.options import ONE_RUN, OPTIONS, Option, own_default
from tests.support import ROOT

PAGE: Final = ROOT / "docs" / "options.md"

HEAD: Final = """\
# All options of a farm

<!-- written by `make options` from mpifarm/commands/options.py -->

`mpifarm --help-all` prints the same. A TIME is seconds, or `90s`, `10m`, `1h30m`,
`1-02:03:04`. Options may stand before or behind the list, but in front of a command
with `:::`. The command line and its defaults are
[PyTaskFarmer's](coming-from-pytaskfarmer.md); the options of the
[subcommands](commands.md) have a page of their own.

A file or a variable can set an option once ([defaults](defaults.md)): `--task-memory
4G` is `task-memory = 4G` in a file and `MPIFARM_TASK_MEMORY=4G` in the environment,
and `--no-task-memory` undoes it. Those with an asterisk (*) can only be typed.
"""

TITLES: Final = {
    "options": "The farm, its list and its files",
    "for each task": "Each task",
    "for the farm": "The whole farm",
    "for those who watch": "Those who watch",
}
"""Headings by the heads of the help."""

MORE: Final = {
    "--proc": "cpus-and-gpus.md#how-many-workers",
    "--runner": "runners.md",
    "--tasklist": "handlers.md",
    "--config": "runners.md#where-a-runner-is-defined",
    "--bind": "cpus-and-gpus.md#--bind-cpus-of-its-own-for-each-worker",
    "--gpus": "cpus-and-gpus.md#--gpus-a-gpu-for-each-worker",
    "--grace": "exit-status.md#signals",
    "--logs": "logs.md",
    "--progress": "screen.md",
    "--lock-area": "file-systems.md",
    "--again": "edited-lists.md#all-from-the-beginning",
    "--remap": "edited-lists.md",
    "--follow": "adding-tasks.md#a-farm-that-waits-for-more",
    "--dry-run": "runners.md#what-would-run",
    "--as-is": "lists-from-other-tools.md",
    "--id-variable": "lists-from-other-tools.md#the-number-of-a-task",
    "--in-array": "batch-systems.md#arrays",
    "--span-nodes": "cpus-and-gpus.md#--span-nodes-tasks-that-take-several-nodes",
    "--setup": "runners.md",
    "--task-timeout": "when-tasks-fail.md#time",
    "--task-memory": "when-tasks-fail.md#memory",
    "--checkpoint-signal": "when-tasks-fail.md#saving-at-a-stop",
    "--retries": "when-tasks-fail.md#retries",
    "--requeue-status": "when-tasks-fail.md#tasks-that-run-in-pieces",
    "--max-failures": "when-tasks-fail.md#a-limit-for-failures",
    "--quarantine": "when-tasks-fail.md#nodes-that-fail-everything",
    "--rank-timeout": "when-ranks-fail.md#a-rank-that-hangs",
    "--start-rate": "pace.md",
    "--limit": "pace.md#at-most-so-many-of-a-kind-at-a-time",
    "--deadline": "when-tasks-fail.md#the-end-of-the-job",
    "--task-time": "when-tasks-fail.md#the-end-of-the-job",
    "--order": "order.md#which-task-starts-first",
    "--shuffle": "order.md#which-task-starts-first",
    "--durations": "time-left.md",
    "--events": "hooks.md",
    "--metrics": "hooks.md#--metrics-file",
    "--on-end": "hooks.md",
    "--on-failure": "hooks.md",
    "--hook": "hooks.md#a-hook-of-your-own",
}
"""Where there is more to read of an option."""

_DEFAULT = re.compile(r" \(default: (.*?)\)")
_WORD = re.compile(r"(?<![\w`-])(--?[a-z][a-z-]*|\$[A-Z_]+)")
_QUOTED = re.compile(r"(?<!\w)'([^']+)'")


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *(_section(name) for name in OPTIONS)])


def _section(name: str) -> str:
    rows = [_row(option) for option in OPTIONS[name]]
    head = ["| option | meaning | default |", "|---|---|---|"]
    return "\n".join([f"## {TITLES[name]}", "", *head, *rows, ""])


def _row(option: Option) -> str:
    text, default = _explain(option)
    if option.long_name in MORE:
        text += f" ([more]({MORE[option.long_name]}))"
    mark = r" \*" if option.long_name in ONE_RUN else ""
    cells = [", ".join(_names(option)) + mark, text, default]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _names(option: Option) -> Iterator[str]:
    value = f" {option.metavar}" if option.metavar and not option.is_flag else ""
    return (f"`{name}{value}`" for name in option.names.split())


def _explain(option: Option) -> tuple[str, str]:
    """Return the meaning and the default, as Markdown."""
    own = own_default(option) if option.field else None
    shown = f"'{own}'" if isinstance(own, str) else own
    text = option.help % {"default": shown}
    found = _DEFAULT.search(text)
    default = found[1] if found else _unsaid(own)
    if isinstance(own, bool) and found:
        default = f"{_unsaid(own)}: {default}"
    return _marked(_DEFAULT.sub("", text)), _marked(default)


def _unsaid(default: object) -> str:
    """Return a default that the help leaves out."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, str) and default:
        return f"'{default}'"
    return str(default) if isinstance(default, int | float) else ""


def _marked(text: str) -> str:
    """Return `text` with what is typed between backticks."""
    text = _QUOTED.sub(r"`\1`", text)
    pieces = re.split(r"(`[^`]*`)", text)
    marked = (
        each if each.startswith("`") else _WORD.sub(r"`\1`", each) for each in pieces
    )
    return "".join(marked).replace("<tasklist>_workdir", "`<tasklist>_workdir`")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Write the page of all options.")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.parse_args().page.write_text(page())


if __name__ == "__main__":
    main()
