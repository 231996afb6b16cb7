"""The INI files of a site, which hold for all users of a machine or an installation.

Rules of this file: it finds the files and reads none.  One file may have options
(`mpifarm.commands.defaults`) and hooks (`mpifarm.hooks.site`).
"""

import os
import sys
from collections.abc import Mapping
from typing import Final

SITE: Final = "site"
"""Whose the files are, in words."""

SITE_VARIABLE: Final = "MPIFARM_SITE_CONFIG"
"""Names a file, or a directory of INI files, in place of the site's; empty: none."""

MACHINE_DIRECTORY: Final = "/etc/mpifarm"

INSTALLED_DIRECTORY: Final = "etc/mpifarm"
"""The directory under the prefix of the Python environment in which mpifarm is."""


def find_site_places(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the site's files and directories, of which each may be missing.

    Those of the machine come first, so that those of an installation win.
    """
    named = environ.get(SITE_VARIABLE)
    if named is not None:
        return (named,) if named else ()
    installed = os.path.join(sys.prefix, INSTALLED_DIRECTORY)
    return tuple(dict.fromkeys((MACHINE_DIRECTORY, installed)))


def list_ini_files(place: str) -> list[str]:
    """Return the INI files at a place; [] if it is missing.

    Raises OSError for a directory that can't be listed.
    """
    if not os.path.isdir(place):
        return [place] if os.path.lexists(place) else []
    return [
        os.path.join(place, name)
        for name in sorted(os.listdir(place))
        if name.endswith(".ini") and not name.startswith(".")
    ]
