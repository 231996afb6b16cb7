"""Sentences about sections of a site's, a user's or a project's file that say nothing.

Rules of this file: pure; it is imported for mistakes only.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from mpifarm.model.nearness import find_near_word
from mpifarm.plugins.registry import (
    HOOK_KEY,
    HOOKS_SECTION,
    OPTIONS_SECTION,
    describe_hollow,
    find_near_key,
    misspells_class,
)
from mpifarm.plugins.site_files import SITE


def explain_sections(
    title: str,
    path: str,
    hollow: Mapping[str, Collection[str]],
    options: Sequence[str],
) -> Iterator[str]:
    """Yield a sentence for each section of `hollow`, which has the keys of each.

    `title` says whose file it is, and `options` are the long names of all options.
    """
    for name, keys in hollow.items():
        if (title, name) != (SITE, HOOKS_SECTION):
            yield _explain(title, path, name, keys, options)


def _explain(
    title: str, path: str, name: str, keys: Collection[str], options: Sequence[str]
) -> str:
    where = f"section [{name}] of {path} has no effect"
    near = find_near_word(name.lower().strip(), [OPTIONS_SECTION, HOOKS_SECTION])
    if near == HOOKS_SECTION and title != SITE:
        return (
            f"{where}, which only a site has: write events, metrics, on-end and"
            f" on-failure under [{OPTIONS_SECTION}]"
        )
    if not near and not misspells_class(keys):
        near = OPTIONS_SECTION if any(f"--{key}" in options for key in keys) else ""
    if near:
        return f"{where}: did you mean [{near}]?"
    if title != SITE:
        return describe_hollow(name, path, keys)
    if misspelt := find_near_key(keys, HOOK_KEY):
        return f"{where}: write {HOOK_KEY} instead of {misspelt}"
    return (
        f"{where}: a site's file has [{OPTIONS_SECTION}], [{HOOKS_SECTION}] and"
        f" sections with {HOOK_KEY}"
    )
