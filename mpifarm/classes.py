"""The user's classes, by the names that INI files give them.

Rules of this file: whatever is wrong with a name is an InputError of one sentence; an
exception of the user's own code is told with its type.
"""

import importlib
import os
import sys
from typing import Any

from mpifarm.errors import InputError


def import_class(dotted: str) -> Any:
    """The class of a dotted name such as ``package.module.Class``.

    Found as Python finds modules (``PYTHONPATH``), and in the current directory.
    Raises InputError.
    """
    module_name, _, class_name = dotted.rpartition(".")
    if not module_name:
        raise InputError(f"{dotted!r} names no class: write package.module.Class")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        # "python -m mpifarm" has it, the script "mpifarm" has not.
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"the class {dotted} can't be imported "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
            f"{_remedy(error)}"
        ) from error
    try:
        return getattr(module, class_name)
    except AttributeError as error:
        where = getattr(module, "__file__", None) or module_name
        raise InputError(
            f"the class {dotted} can't be imported: {where} has no {class_name}"
        ) from error


def _remedy(error: BaseException) -> str:
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    if error.name.partition(".")[0] == "taskfarmer":
        return ": it needs PyTaskFarmer beside mpifarm (pip install PyTaskFarmer)"
    return f": install {error.name}, or put its directory into PYTHONPATH"
