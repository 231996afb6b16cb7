"""The hooks that a site switches on for all its users.

Rules of this file: a fault of the site's files is told, and costs its hooks alone: no
user's job ends because of it.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from mpifarm.errors import FarmError, InputError
from mpifarm.hooks.definitions import (
    HookDefinition,
    HookKind,
    define_commands,
    fill_in,
    leave_out,
)
from mpifarm.plugins.registry import HOOK_KEY, HOOKS_SECTION, read_ini
from mpifarm.plugins.site_files import list_ini_files
from mpifarm.system.trust import find_stranger

if TYPE_CHECKING:
    from configparser import ConfigParser

_KEYS = frozenset({"events", "metrics", "on-end", "on-failure", "path"})


def find_site_hooks(
    places: Iterable[str], environ: Mapping[str, str], left_out: Collection[str] = ()
) -> tuple[list[HookDefinition], list[str]]:
    """Return the hooks of the files at `places`, and the sentences about faulty files.

    A place that does not exist has none.  `left_out` are the options whose like the
    user does without.
    """
    hooks: list[HookDefinition] = []
    faults: list[str] = []
    for path in _list_files(places, faults):
        try:
            hooks += leave_out(_read(path, environ), left_out)
        except (FarmError, OSError) as error:
            faults.append(_describe_fault(path, error))
    return hooks, faults


def _list_files(places: Iterable[str], faults: list[str]) -> Iterator[str]:
    """Yield the files at `places`; add a sentence about a faulty place to `faults`."""
    for place in places:
        try:
            yield from list_ini_files(place)
        except OSError as error:
            faults.append(_describe_fault(place, error))


def _describe_fault(path: str, error: Exception) -> str:
    why = error.strerror if isinstance(error, OSError) else error
    return f"WARNING: the hooks of {path} are left out: {why}"


def _read(path: str, environ: Mapping[str, str]) -> list[HookDefinition]:
    """Return the hooks of one file; raises FarmError or OSError."""
    if why := find_stranger(path):
        raise InputError(f"{why}, and they run as you")
    parser = read_ini(path)
    modules = ""
    hooks: list[HookDefinition] = []
    if parser.has_section(HOOKS_SECTION):
        values = _find_values(parser)
        modules = values.get("path", "")
        hooks += _define_ready(values, path, environ)
    for name in parser.sections():
        if name != HOOKS_SECTION and HOOK_KEY in parser[name]:
            options = _read_options(parser, name)
            named = options.pop(HOOK_KEY)
            hooks.append(
                HookDefinition(
                    *(HookKind.CLASS, options, name, named, path),
                    path=modules,
                    by_site=True,
                )
            )
    return hooks


def _read_options(parser: "ConfigParser", name: str) -> dict[str, str]:
    """Return the keys of a class's section; raise InputError for a stray ``%``."""
    from configparser import InterpolationError

    try:
        return dict(parser[name])
    except InterpolationError as error:
        raise InputError(
            f"section [{name}], key {error.option}: a % there begins a reference such"
            " as %(name)s, and this one can't be resolved: write %% for a percent sign"
        ) from error


def _find_values(parser: "ConfigParser") -> dict[str, str]:
    """Return the keys of the section of ready hooks; raise InputError for others.

    A ``%`` is one: commands have them.
    """
    values = dict(parser.items(HOOKS_SECTION, raw=True))
    if unknown := sorted(values.keys() - _KEYS):
        raise InputError(
            f"section [{HOOKS_SECTION}] has {unknown[0]}, and takes only"
            f" {', '.join(sorted(_KEYS))}"
        )
    if values.get("path") and not os.path.isabs(values["path"]):
        raise InputError(f"path = {values['path']} has to begin with /")
    if values.get("path") and (why := find_stranger(values["path"])):
        raise InputError(f"{why}, and its modules run as you")
    return {key: value for key, value in values.items() if value}


def _define_ready(
    values: Mapping[str, str], path: str, environ: Mapping[str, str]
) -> Iterator[HookDefinition]:
    for key, kind in (("events", HookKind.EVENTS), ("metrics", HookKind.METRICS)):
        if key in values:
            target = fill_in(values[key], environ)
            if not os.path.isabs(target):
                raise InputError(f"{key} = {target} has to begin with /")
            yield HookDefinition(kind, {"path": target}, source=path, by_site=True)
    yield from define_commands(values.get("on-end"), values.get("on-failure"), path)
