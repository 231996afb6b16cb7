"""Which hooks a farm has: those of its command line, and those of its site.

Rules of this file: a farm without hooks imports nothing for them.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mpifarm.errors import InputError
from mpifarm.farm.context import RankContext
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import HookSettings, Settings
from mpifarm.plugins.site_files import find_site_places

if TYPE_CHECKING:
    from mpifarm.hooks.definitions import HookDefinition


def with_hooks(context: RankContext) -> RankContext:
    """Return the context with its hooks; tell of faults in the files of the site.

    Raise InputError for a hook of the command line that is wrong.
    """
    settings, environ = context.settings, context.process.environ
    places = [*filter(os.path.lexists, find_site_places(environ))]
    if settings.hooks == HookSettings() and not places:
        return context
    hooks = find_own_hooks(settings, environ)
    if places:
        from mpifarm.hooks.site import find_site_hooks

        left_out = settings.hooks.left_out
        of_site, faults = find_site_hooks(places, environ, left_out)
        for sentence in faults:
            context.process.output.say(sentence)
        hooks += of_site
    return replace(context, hooks=tuple(hooks))


def check_hooks(
    hooks: "Sequence[HookDefinition]", environment: Mapping[bytes, bytes]
) -> None:
    """Raise InputError for a class of the command line that can't be a hook.

    One of the site is told later, and left out: no user's job ends because of it.
    `environment` is that of the commands.
    """
    for each in hooks:
        if each.python_class and not each.by_site:
            from mpifarm.hooks.helper import find_fault

            if why := find_fault(each, environment):
                raise InputError(f"--hook {each.name}: {why}")


def find_own_hooks(
    settings: Settings, environ: Mapping[str, str]
) -> "list[HookDefinition]":
    """Return the hooks of the command line; raise InputError for a wrong one."""
    if settings.hooks == HookSettings():
        return []
    from mpifarm.hooks.definitions import HookDefinition, HookKind, define_by_options
    from mpifarm.plugins.registry import find_hook, find_search_path_of

    hooks = define_by_options(settings.hooks, environ)
    for each in hooks:
        if path := each.options.get("path"):
            _refuse_in_use(f"--{each.kind.value}", path, settings)
    search_path = find_search_path_of(settings, environ)
    for name in settings.hooks.names:
        python_class, options, source = find_hook(name, search_path)
        hooks.append(
            HookDefinition(HookKind.CLASS, options, name, python_class, source)
        )
    return hooks


def _refuse_in_use(option: str, path: str, settings: Settings) -> None:
    """Raise InputError for the list, or a file of the workdir, in place of a hook's."""
    from mpifarm.store.strangers import is_of_workdir

    with suppress(OSError):  # one of both is not there
        if os.path.samefile(path, settings.tasklist):
            raise InputError(
                f"{option} {path} is the tasklist itself: name another file"
            )
    if is_of_workdir(WorkdirPaths(os.path.abspath(settings.workdir)), path):
        raise InputError(
            f"{option} {path} is a file that mpifarm keeps in the workdir: name"
            " another file"
        )
