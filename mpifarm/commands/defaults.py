"""Values of options that nobody has typed: of the site, the user, the project, the job.

Rules of this file: rank 0 reads the files, and tells all ranks (`Comm.told`).  A value
becomes what the same word on the command line would become, by the same function, and a
wrong one is an InputError that names its file and line, or its variable.  A file that a
stranger could have written is not read.  Where there is no file, it costs a few calls
of stat.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from mpifarm.commands.option_values import NO_WORDS, usage_error
from mpifarm.commands.options import (
    BY_NAME,
    CONTRARY,
    ONE_RUN,
    YES,
    Option,
    join_names,
    parse_default,
)
from mpifarm.errors import InputError, StorageError
from mpifarm.model.settings import Default
from mpifarm.plugins.registry import (
    PROJECT_FILE,
    NoOptionsError,
    find_search_path,
    find_user_file,
    read_options,
)
from mpifarm.plugins.site_files import (
    SITE,
    SITE_VARIABLE,
    find_site_places,
    list_ini_files,
)

PREFIX: Final = "MPIFARM_"

_OTHER_VARIABLES: Final = {"--tasklist": "MPIFARM_HANDLER"}
"""Variables that are not named after their option: MPIFARM_TASKLIST is the list, for
the commands of hooks."""

VARIABLES: Final[Mapping[str, str]] = {
    _OTHER_VARIABLES.get(name, PREFIX + name[2:].upper().replace("-", "_")): name
    for name in BY_NAME
}
"""The options, by their variables."""

OWN_VARIABLES: Final = frozenset(
    PREFIX + name
    for name in (
        # of tasks
        *("TASK_ID", "ATTEMPT", "RANK", "WORKER", "NODE_WORKER", "WORKDIR", "FARM"),
        # of the commands of hooks
        *("EVENT", "FAILURES", "NEW_FAILURES", "USER", "JOB_ID", "TASKLIST", "TOTAL"),
        *("FINISHED", "FAILED", "LEFT", "EXIT_STATUS", "MEANING", "REASON"),
        # of mpifarm itself
        *("SITE_CONFIG", "TRACE", "LAUNCH", "SUPERVISOR"),
    )
)
"""Variables of mpifarm that set no option, and may stand in any environment."""

_OF_USERS: Final = (SITE_VARIABLE, f"{PREFIX}TRACE")
"""Those of them that users set, and may misspell."""

_OF_MODULES: Final = frozenset({"BIN", "DIR", "HOME", "LIB", "ROOT", "VERSION"})
"""Ends of variables that the modules of a site set for any program."""

_YES_WORDS: Final = frozenset({"1", "true", "yes", "on"})


class PlaceRead(NamedTuple):
    """A file, or the environment, and what it says."""

    title: str
    """Whose it is: site, user, project, environment."""
    path: str
    """The path; "" of the environment."""
    defaults: tuple[Default, ...] = ()
    fault: str = ""
    """Why it was not read; "" if it was."""
    absence: str = ""
    """Why there is nothing to read; "" if there is."""
    remarks: tuple[str, ...] = ()
    """Sentences about what is there, and has no effect."""

    @property
    def is_there(self) -> bool:
        """Whether there is something to read."""
        return not self.absence


NOT_THERE: Final = "not there"
NO_INI: Final = "no *.ini in it"


def find_defaults(
    environ: Mapping[str, str],
) -> tuple[tuple[Default, ...], tuple[str, ...]]:
    """Return the defaults that count, and warnings of files that are not read.

    Raises InputError for a wrong value, StorageError if the disk fails.
    """
    places = read_places(environ)
    return tuple(join_places(places)), tuple(warn_of_places(places))


def warn_of_places(places: Iterable[PlaceRead]) -> Iterator[str]:
    """Yield a warning for each file that is not read, and for what has no effect."""
    for place in places:
        if place.fault:
            yield f"WARNING: the options of {place.path} are left out: {place.fault}"
        for remark in place.remarks:
            yield f"WARNING: {remark}"


def find_words(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the values of options, by their names: of an option with one value each.

    Raises as `find_defaults`.
    """
    found, _ = find_defaults(environ)
    return {each.option: each.words[0] for each in found if each.words}


def join_places(places: Iterable[PlaceRead]) -> list[Default]:
    """Return the defaults that count: of an option those of the last place.

    One without words is that of a hook, whose like of the site's it leaves out.
    """
    counting: dict[str, Default] = {}
    for place in places:
        for each in place.defaults:
            counting[each.option] = each
            if place.title == SITE and not each.words:
                del counting[each.option]  # a site has no hooks of others to leave out
            if each.words == (YES,) and each.option in CONTRARY:
                counting.pop(CONTRARY[each.option], None)
    return [
        each
        for each in counting.values()
        if each.words or BY_NAME[each.option].is_of_hooks
    ]


# ---- the places ----------------------------------------------------------------------


def read_places(environ: Mapping[str, str]) -> list[PlaceRead]:
    """Return all places, each with what it says; a later one has precedence.

    Raises InputError for a wrong value, StorageError if the disk fails.
    """
    return [
        *_read_site_places(environ),
        _read_own("user", _find_user_file(environ)),
        *(_read_own("project", path) for path in _find_project_file()),
        PlaceRead("environment", "", _check(_read_variables(environ))),
    ]


def _read_site_places(environ: Mapping[str, str]) -> Iterator[PlaceRead]:
    """Yield the files of the site; a place itself if it has none."""
    for place in find_site_places(environ):
        try:
            paths = list_ini_files(place)
        except OSError as error:
            yield PlaceRead(SITE, place, fault=f"{error.strerror}")
            continue
        yield from map(_read_site, paths)
        if not paths:
            absence = NO_INI if os.path.isdir(place) else NOT_THERE
            remarks = _remark_on_named(place, absence, environ)
            yield PlaceRead(SITE, place, absence=absence, remarks=remarks)


def _remark_on_named(
    place: str, absence: str, environ: Mapping[str, str]
) -> tuple[str, ...]:
    """Return a sentence about a place that the user has named, and that has nothing."""
    if not environ.get(SITE_VARIABLE):
        return ()
    what = "which is not there" if absence == NOT_THERE else f"and there is {absence}"
    told = (
        f"{SITE_VARIABLE} names {place}, {what}: the site's options and hooks are left"
        " out; correct the name, or unset the variable"
    )
    return (told,)


def _find_user_file(environ: Mapping[str, str]) -> str:
    return find_user_file(find_search_path(environ, None))


def _find_project_file() -> Iterator[str]:
    try:
        yield os.path.join(os.getcwd(), PROJECT_FILE)
    except FileNotFoundError:  # the directory was removed
        return


def _read_site(path: str) -> PlaceRead:
    """Read a file of the site; one that this user may not read is left out.

    So is a broken one without options: no user's farm ends because of its hooks.
    """
    try:
        return _read(SITE, path)
    except OSError as error:
        return PlaceRead(SITE, path, fault=f"{error.strerror}")
    except NoOptionsError as error:
        return PlaceRead(SITE, path, fault=str(error))


def _read_own(title: str, path: str) -> PlaceRead:
    """Read a file of the user's, if it is there; raise InputError if that fails."""
    if not os.path.lexists(path):
        return PlaceRead(title, path, absence=NOT_THERE)
    try:
        return _read(title, path)
    except OSError as error:
        raise InputError(
            f"can't read the options in {path} ({error.strerror}): correct that, or"
            " remove the file"
        ) from error


def _read(title: str, path: str) -> PlaceRead:
    """Read a file; raises InputError for a wrong value, OSError."""
    from mpifarm.system.patience import is_of_the_disk
    from mpifarm.system.trust import find_stranger

    try:
        if why := find_stranger(path):
            return PlaceRead(title, path, fault=why)
        found = read_options(path)
    except OSError as error:
        if is_of_the_disk(error):
            raise StorageError(f"can't read {path}: {error.strerror}") from error
        raise
    defaults = _check(_read_key(path, *each) for each in found.values)
    remarks: tuple[str, ...] = ()
    if found.hollow:
        from mpifarm.commands.hollow_sections import explain_sections  # for mistakes

        remarks = (*explain_sections(title, path, found.hollow, [*BY_NAME]),)
    return PlaceRead(title, path, defaults, remarks=remarks)


def _check(found: Iterable[Default]) -> tuple[Default, ...]:
    """Return the defaults of one place; raise InputError if two contradict."""
    defaults = tuple(found)
    on = {each.option: each for each in defaults if each.words == (YES,)}
    if CONTRARY.keys() <= on.keys():
        one, other = (on[name] for name in CONTRARY)
        raise usage_error(
            f"{one.place}: {one.option} contradicts {other.option} ({other.place}):"
            " leave one out"
        )
    return defaults


# ---- a key, a variable ---------------------------------------------------------------


def _read_key(path: str, key: str, value: str, line: int) -> Default:
    """Return what a line of a file says; raises InputError."""
    where = f"{path}, line {line}" if line else path
    option = BY_NAME.get(f"--{key}")
    if option is None:
        from mpifarm.commands.misspelt import explain_key

        names = [name for name in BY_NAME if name not in ONE_RUN]
        raise usage_error(f"{where}: there is no option {key}{explain_key(key, names)}")
    _refuse_of_one_run(option, f"{where}: {key}")
    if re.search(r"\s[#;]", value) and option.metavar != "COMMAND":
        raise usage_error(
            f"{where}: a comment behind the value of {key} would be part of it: move it"
            " to a line of its own"
        )
    words = _parse(option, value, f"{where}: {key}", where)
    return Default(option.long_name, words, path, line)


def _read_variables(environ: Mapping[str, str]) -> Iterator[Default]:
    """Yield what the variables say; raises InputError."""
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in OWN_VARIABLES:
            continue
        if name in VARIABLES:
            option = BY_NAME[VARIABLES[name]]
            _refuse_of_one_run(option, name)
            yield Default(
                option.long_name, _parse(option, environ[name], name, name), name
            )
        else:
            _refuse_misspelt(name)


def find_other_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the variables that look like mpifarm's, and are none."""
    known = OWN_VARIABLES | VARIABLES.keys()
    return sorted(
        each for each in environ if each.startswith(PREFIX) and each not in known
    )


def _refuse_of_one_run(option: Option, named: str) -> None:
    if why := ONE_RUN.get(option.long_name):
        raise usage_error(
            f"{named} can't be set for all runs, because {why}: give"
            f" {option.long_name} on the command line"
        )


def _refuse_misspelt(name: str) -> None:
    """Raise InputError for a variable that is surely meant to be one of mpifarm's."""
    from mpifarm.model.nearness import find_near_word

    if name.removeprefix(PREFIX) in _OF_MODULES:
        return
    names = [each for each, option in VARIABLES.items() if option not in ONE_RUN]
    bare = {each.removeprefix(PREFIX): each for each in (*names, *_OF_USERS)}
    if near := find_near_word(name.removeprefix(PREFIX), [*bare]):
        raise usage_error(f"mpifarm has no variable {name}, did you mean {bare[near]}?")


def _parse(option: Option, value: str, named: str, where: str) -> tuple[str, ...]:
    """Return the words of a value, () for an empty one; raise InputError if wrong.

    `named` is the key or the variable in words, and `where` its place.
    """
    words = _split(option, value)
    if option.is_flag:
        words = tuple(_parse_flag(word, named) for word in words)
    elif option.is_path:
        words = tuple(_complete(word, named) for word in words)
    try:
        parsed = parse_default(option, words) if words else None
        if option.is_list and option.long_name in ("--limit", "--id-variable"):
            join_names(option.long_name, parsed or ())
    except ValueError:
        assert option.kind is not None
        sentence = f"{named} takes {option.kind.takes}, not {value!r}"
        raise usage_error(sentence) from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return words


def _split(option: Option, value: str) -> tuple[str, ...]:
    """Return the words of a value: several of an option that may be given again."""
    words = re.split(r"[,\n]", value) if option.is_list else [value]
    return tuple(word.strip() for word in words if word.strip())


def _parse_flag(word: str, named: str) -> str:
    if word.lower() in _YES_WORDS:
        return YES
    if word.lower() in NO_WORDS:
        return "no"
    raise usage_error(f"{named} takes yes or no, not {word!r}")


def _complete(path: str, named: str) -> str:
    """Return a path as the shell would have made it, counted from here.

    Raises InputError for a variable, which is not filled in.
    """
    if "$" in path:
        raise usage_error(
            f"{named} has a $, and no variable is filled in there: write the whole"
            " path, or export the option's own variable in your job script"
        )
    try:
        return os.path.abspath(os.path.expanduser(path))
    except OSError:
        raise usage_error(
            f"{named} counts from the current directory, which is gone: write the whole"
            " path"
        ) from None
