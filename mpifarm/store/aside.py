"""Workdirs that were moved aside, so that their lists begin again (``--again``)."""

import os
import re
from typing import Final

_ASIDE: Final = r"(.*)\.before-([0-9]{8}-[0-9]{6})(?:-([0-9]+))?"


def name_aside(root: str, stamp: str) -> str:
    """Return the path to which the workdir `root` is moved."""
    return f"{root}.before-{stamp}"


def list_asides(root: str) -> list[str]:
    """Return the workdirs that were moved aside from `root`, the latest last."""
    above, name = os.path.split(os.path.realpath(root))
    try:
        found = [re.fullmatch(_ASIDE, each) for each in os.listdir(above)]
    except OSError:
        return []
    ours = [each for each in found if each and each[1] == name]
    ours.sort(key=lambda each: (each[2], int(each[3] or 0)))
    return [os.path.join(above, each[0]) for each in ours]
