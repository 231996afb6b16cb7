"""``mpifarm config``: the value of each option here, and where it is from.

Rules of this file: it reads what a farm would read, started in the same place, and
prints it; a wrong value is told as a farm would tell it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mpifarm.commands.defaults import (
    VARIABLES,
    PlaceRead,
    find_other_variables,
    join_places,
    read_places,
    warn_of_places,
)
from mpifarm.commands.options import BY_NAME, ONE_RUN, Option, own_default
from mpifarm.commands.sink import write_all
from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.commands.table import TableColumn, format_table
from mpifarm.errors import ExitStatus
from mpifarm.hooks.definitions import HookDefinition, HookKind
from mpifarm.hooks.site import find_site_hooks
from mpifarm.model.settings import Default
from mpifarm.model.wording import counted
from mpifarm.plugins.registry import (
    find_idle_sections,
    find_search_path,
    find_untrusted,
)
from mpifarm.plugins.site_files import find_site_places
from mpifarm.system.console import Console

_DESCRIPTION = (
    "Print the value that each option of a farm has here when it is not typed, and the"
    " file or variable that says so, after all places that were looked at; a later"
    " place wins.  Below stand the hooks that the site switches on."
)
_EPILOG = (
    "It only shows: write a value, as proc = 32, under [options] in"
    " ~/.config/mpifarm/config.ini or another of these files; --proc 16 on the"
    " command line wins, --no-proc has mpifarm's own default, and --no-events leaves"
    " that hook of the site out (mpifarm help docs/defaults.md).  Exit status: 0, or 2"
    " if a value is wrong."
)

_OWN: Final = "mpifarm"
"""The place of a value that no other place sets."""


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm config``.  Return 0.

    Raises `InputError` for a wrong value, `StorageError` if the disk fails.
    """
    parser = SubcommandParser("config", _DESCRIPTION)
    parser.epilog = _EPILOG
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object in place of tables"
    )
    chosen = parser.parse_args(argv)
    places = read_places(environ)
    counting = {each.option: each for each in join_places(places)}
    left_out = [each.option for each in counting.values() if not each.words]
    hooks, faults = find_site_hooks(find_site_places(environ), environ, left_out)
    idle = find_idle_sections(find_search_path(environ, None), "default", "default")
    config = counting["--config"].words[0] if "--config" in counting else None
    untrusted = find_untrusted(find_search_path(environ, config))
    warnings = [*warn_of_places(places), *faults, *untrusted, *idle]
    if chosen.json:
        found = encode_config(places, counting, hooks, warnings)
        write_all([json.dumps(found, indent=1).encode("ascii") + b"\n"])
        return ExitStatus.ALL_FINISHED
    others = find_other_variables(environ)
    for text in format_config(places, counting, hooks, warnings, others):
        console.print_text(text)
    return ExitStatus.ALL_FINISHED


def format_config(
    places: Sequence[PlaceRead],
    counting: Mapping[str, Default],
    hooks: Sequence[HookDefinition] = (),
    warnings: Sequence[str] = (),
    others: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the text: the places, the options, the site's hooks, and what is odd.

    That is what a farm warns of, and the variables that set no option.
    """
    columns = [TableColumn("place"), TableColumn("state"), TableColumn("path")]
    rows = [(each.title, _describe_state(each, hooks), each.path) for each in places]
    yield from format_table(columns, rows, None)
    yield "\n"
    columns = [TableColumn("option"), TableColumn("value"), TableColumn("from")]
    yield from format_table(columns, [*_list_options(counting)], None)
    if hooks:
        yield "\n"
        columns = [
            TableColumn("site's hook"),
            TableColumn("value"),
            TableColumn("from"),
        ]
        yield from format_table(columns, [*_list_hooks(hooks)], None)
    if warnings:
        yield "".join(f"\n{each}" for each in warnings) + "\n"
    if others:
        yield f"\nvariables that set no option: {', '.join(others)}\n"


def _describe_state(place: PlaceRead, hooks: Sequence[HookDefinition]) -> str:
    if place.fault:
        return "not read"  # a warning below says why
    if place.absence:
        return place.absence
    of_place = [each for each in hooks if each.source == place.path]
    count = sum(1 for _ in _list_hooks(of_place))
    more = f", and {counted(count, 'hook')}" if count else ""
    return f"sets {len(place.defaults)}{more}"


def _list_hooks(hooks: Sequence[HookDefinition]) -> Iterator[tuple[str, str, str]]:
    """Yield the name, the value and the file of each hook of the site."""
    for each in hooks:
        match each.kind:
            case HookKind.EVENTS | HookKind.METRICS:
                yield each.kind.value, each.options["path"], each.source
            case HookKind.COMMANDS:
                for name, key in (("on-end", "on_end"), ("on-failure", "on_failure")):
                    if command := each.options[key]:
                        yield name, command, each.source
            case HookKind.CLASS:
                yield f"[{each.name}]", each.python_class, each.source


def _list_options(counting: Mapping[str, Default]) -> Iterator[tuple[str, str, str]]:
    for name, option in BY_NAME.items():
        if name in ONE_RUN:
            yield name, "", "the command line alone"
        elif default := counting.get(name):
            yield name, " ".join(default.words), default.place
        else:
            yield name, _show(own_default(option)), _OWN


def _show(value: object) -> str:
    """Return mpifarm's own default of an option as it would be typed, "" for none."""
    match value:
        case None | ():
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
    return str(value)


def encode_config(
    places: Sequence[PlaceRead],
    counting: Mapping[str, Default],
    hooks: Sequence[HookDefinition],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Return what JSON has: places, options that they may set, hooks, warnings."""
    variables = {name: variable for variable, name in VARIABLES.items()}
    return {
        "places": [
            {
                "place": each.title,
                "path": each.path or None,
                "is_there": each.is_there,
                "fault": each.fault or None,
                "sets": [default.option for default in each.defaults],
            }
            for each in places
        ],
        "options": {
            name: {
                **_encode_value(option, counting.get(name)),
                "variable": variables[name],
            }
            for name, option in BY_NAME.items()
            if name not in ONE_RUN
        },
        "hooks": [
            {"hook": name, "value": value, "from": path}
            for name, value, path in _list_hooks(hooks)
        ],
        "warnings": [*warnings],
    }


def _encode_value(option: Option, default: Default | None) -> dict[str, Any]:
    if default is None:
        shown = _show(own_default(option)) or None
        own: object = [] if option.is_list else shown
        return {"value": own, "from": _OWN, "line": None}
    value: object = [*default.words]
    if not option.is_list:
        value = default.words[0] if default.words else None
    return {"value": value, "from": default.source, "line": default.line or None}
