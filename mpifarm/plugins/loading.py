"""Import of the user's classes, and the check of their options.

Rules of this file: each mistake is an InputError of one sentence.  The sentence for an
exception of the user's own code contains its type and its place.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mpifarm.errors import InputError
from mpifarm.system.processes import find_directory

if TYPE_CHECKING:
    from inspect import Parameter


class RefusedModuleError(InputError):
    """A module that a finder of ours has refused."""


def import_class(dotted: str, *, looks_here: bool = True) -> Any:
    """Import the class of a dotted name such as ``package.module.Class``.

    Modules are searched as by Python (``PYTHONPATH``), then, if `looks_here`, in the
    current directory, which is added to `sys.path`.  Raises InputError, also for an
    exception of the imported module.
    """
    if _never_in_name.search(dotted):
        raise InputError(
            f"{dotted!r} is not the name of a class: write package.module.Class,"
            " without quotes, and move a comment to a line of its own"
        )
    module_name, _, class_name = dotted.rpartition(".")
    if not module_name:
        raise InputError(
            f"{dotted!r} is not the name of a class: write package.module.Class"
        )
    here = find_directory() if looks_here else ""
    if here and here not in sys.path and "" not in sys.path:
        # "python -m mpifarm" has put it into sys.path; the script "mpifarm" has not.
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except RefusedModuleError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"the class {dotted} can't be imported ({in_one_line(error)})"
            f"{_remedy(error)}"
        ) from error
    try:
        return getattr(module, class_name)
    except AttributeError as error:
        where = getattr(module, "__file__", None) or module_name
        raise InputError(
            f"the class {dotted} can't be imported: {where} has no {class_name}; "
            "correct the name in the INI file, or define the class"
        ) from error


_never_in_name = re.compile(r"""["'\s;#]""")


def _remedy(error: BaseException) -> str:
    """Return the end of a sentence about a module that is not found, else ""."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    package, _, module = error.name.rpartition(".")
    if package:
        return f": {package} has no module {module!r}{_guess(package, module)}"
    if error.name == "taskfarmer":
        return ": it needs PyTaskFarmer beside mpifarm (pip install PyTaskFarmer)"
    return f": install {error.name}, or put its directory into PYTHONPATH"


def _guess(package: str, module: str) -> str:
    """Return a question with the module that may be meant, "" if none is similar.

    The module is looked for in the directories of `package`.
    """
    from difflib import get_close_matches
    from pkgutil import iter_modules

    # The package itself was imported before its module was not found.
    path = getattr(sys.modules.get(package), "__path__", ())
    near = get_close_matches(module, [each.name for each in iter_modules(path)], n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def in_one_line(error: BaseException) -> str:
    """Return an exception of the user's code as one line: type, text, place.

    The place is left out if mpifarm's own code raised the exception.
    """
    text = " ".join(str(error).split())
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code if trace is not None else None
    ours = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
    is_theirs = code is not None and not code.co_filename.startswith((ours, "<"))
    place = (
        f", raised in {code.co_filename}, line {trace.tb_lineno}"
        if is_theirs and code is not None and trace is not None
        else ""
    )
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


# ---- options ------------------------------------------------------------------------


class _AcceptedOptions(NamedTuple):
    """The options that a class takes."""

    names: set[str]
    required: set[str]
    takes_any: bool


def check_options(
    python_class: Any,
    dotted: str,
    options: Mapping[str, str],
    given: Sequence[str] = (),
) -> None:
    """Raise InputError for options that are missing, or that the class does not take.

    `given` are words for the positional arguments before the options, which the class
    has to take, too.  A class whose signature Python cannot tell passes.
    """
    from inspect import signature

    try:
        parameters = list(signature(python_class).parameters.values())
    except (TypeError, ValueError):
        # A class in C may have no signature.  Its constructor raises TypeError later.
        return
    taken = _find_taken(parameters, dotted, given)
    missing = sorted(taken.required - options.keys())
    unknown = [] if taken.takes_any else sorted(options.keys() - taken.names)
    if not missing and not unknown:
        return
    complaints = [
        *(["misses the option " + " and ".join(missing)] if missing else []),
        *(["doesn't know the option " + " and ".join(unknown)] if unknown else []),
    ]
    near = nearest(unknown[0], taken.names) if unknown else ""
    there_are = ", ".join(sorted(taken.names)) if taken.names else "no options"
    raise InputError(f"{', and '.join(complaints)}{near}: {dotted} takes {there_are}")


def nearest(option: str, options: Iterable[str]) -> str:
    """Return a question with the option that may be meant, "" if none is similar."""
    from difflib import get_close_matches

    near = get_close_matches(option, [*options], n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _find_taken(
    parameters: "list[Parameter]", dotted: str, given: Sequence[str]
) -> _AcceptedOptions:
    """Return the options behind the `given` arguments of a constructor.

    Raises InputError if the constructor takes fewer positional arguments than `given`.
    """
    positional = [
        each
        for each in parameters
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    takes_more = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    if len(positional) < len(given) and not takes_more:
        raise InputError(
            f"can't be made: {dotted} doesn't take {' and '.join(given)} as its first"
            " arguments"
        )
    named = positional[len(given) :] + [
        each for each in parameters if each.kind is each.KEYWORD_ONLY
    ]
    return _AcceptedOptions(
        {each.name for each in named},
        {each.name for each in named if each.default is each.empty},
        any(each.kind is each.VAR_KEYWORD for each in parameters),
    )
