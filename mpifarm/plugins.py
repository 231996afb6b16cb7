"""What INI files define: runners and handlers, by name.

Rules of this file: rank 0 reads the files, and all ranks use what it has read.  An INI
file is read as PyTaskFarmer reads it (its RunnerManager.load, TaskListManager.load),
but only where it speaks of the name that is asked for: a file of something else, or
behind the one that has the name, is nobody's concern, broken or not; one that seems to
have the name and is broken is not passed over, for another definition in place of the
user's own would run every task wrongly.  Where there are no INI files, configparser is
not even imported: the start waits for it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from mpifarm.config import HandlerDefinition, RunnerDefinition
from mpifarm.errors import InputError

if TYPE_CHECKING:
    import configparser
    from configparser import ConfigParser

OWN_CLASSES: Final[Mapping[str, str]] = {
    "taskfarmer.runners.BasicRunner": "mpifarm.runners.BasicRunner",
    "taskfarmer.runners.ShifterRunner": "mpifarm.containers.ShifterRunner",
    "taskfarmer.task.ListTaskList": "mpifarm.tasklists.ListTaskList",
    "taskfarmer.tasks.ListTaskList": "mpifarm.tasklists.ListTaskList",
}
"""PyTaskFarmer's classes by the names in INI files, and mpifarm's in their place.

``taskfarmer.tasks`` is how PyTaskFarmer's manual spells ``taskfarmer.task``.
"""


@dataclass(frozen=True, slots=True)
class Places:
    """Where INI files are looked for."""

    home: str
    config_home: str
    """Where the user's programs have their settings; mpifarm's are in ``mpifarm``."""
    directory: str = "."
    config: str | None = None
    """The file of ``--config``."""


def find_places(environ: Mapping[str, str], config: str | None) -> Places:
    """The places in an environment (``HOME``, ``XDG_CONFIG_HOME``)."""
    home = environ.get("HOME") or os.path.expanduser("~")
    config_home = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(config_home):  # The XDG specification has it so.
        config_home = os.path.join(home, ".config")
    return Places(home, config_home, config=config)


def find_runner(name: str, places: Places) -> RunnerDefinition:
    """The runner of that name; raises InputError."""
    section = _find(_RUNNER, name, places)
    if section is None:
        return RunnerDefinition(name)
    return RunnerDefinition(name, section.python_class, section.options, section.source)


def find_handler(name: str, places: Places) -> HandlerDefinition:
    """The tasklist handler of that name; raises InputError."""
    section = _find(_HANDLER, name, places)
    if section is None:
        return HandlerDefinition(name)
    return HandlerDefinition(
        name, section.python_class, section.options, section.source
    )


# ---- the two kinds -------------------------------------------------------------------


class _Kind(NamedTuple):
    """What is looked for."""

    title: str
    key: str
    """The key that makes a section one of this kind; its value names the class."""
    option: str
    plain_directory: str
    """PyTaskFarmer's directory of it."""
    is_local: bool
    """Whether the current directory is looked at."""


_RUNNER: Final = _Kind("runner", "Runner", "--runner", "runners.d", is_local=False)
_HANDLER: Final = _Kind(
    "tasklist handler", "TaskList", "--tasklist", "tasklists.d", is_local=True
)
_OTHER: Final = {_RUNNER: _HANDLER, _HANDLER: _RUNNER}
_CLASS_KEYS: Final = frozenset({_RUNNER.key, _HANDLER.key})
_BUILT_IN: Final = "default"


class _Section(NamedTuple):
    """A section that defines what was asked for."""

    python_class: str
    options: dict[str, str]
    source: str
    """The file, and its sections where ``[DEFAULT]`` has a part in it."""


# ---- looking -------------------------------------------------------------------------


def _find(kind: _Kind, name: str, places: Places) -> _Section | None:
    """The section that defines it; None where it is the one that is built in."""
    _check_name(kind, name)
    if places.config is not None:
        parser = _read_config(places.config)
        if _defines(parser, name, kind):
            return _read_section(parser, name, kind, places.config)
    search = _Search(kind, places)
    for path in search.paths():
        parsed = search.find_parser(path, name)
        if parsed is not None and _defines(parsed, name, kind):
            return _read_section(parsed, name, kind, path)
    if name != _BUILT_IN:
        raise search.not_found(name)
    return None


def _check_name(kind: _Kind, name: str) -> None:
    """Raise InputError for what can't be the name of a section with a class."""
    if name == "DEFAULT":
        raise InputError(
            f"{kind.option} DEFAULT names no {kind.title}: [DEFAULT] in an INI file"
            f" holds keys for all its sections; did you mean {_BUILT_IN!r}?"
        )
    if not name.strip():
        raise InputError(
            f"{kind.option} {name!r} names no {kind.title}: give the name of its"
            f" section in an INI file, or {_BUILT_IN}"
        )


@dataclass
class _Search:
    """The INI files of a kind, the first of them having precedence."""

    kind: _Kind
    places: Places
    broken: dict[str, str] = field(default_factory=dict)
    """What is wrong with a file or directory, by its path."""

    def paths(self) -> Iterator[str]:
        """All files but that of ``--config``."""
        yield from self._paths_in(self._directories())

    def _directories(self) -> Iterator[str]:
        if self.kind.is_local:
            yield self.places.directory
        yield os.path.join(self.places.config_home, "mpifarm")
        yield self._plain_directory(self.kind)

    def _plain_directory(self, kind: _Kind) -> str:
        return os.path.join(self.places.home, ".pytaskfarmer", kind.plain_directory)

    def _paths_in(self, directories: Iterable[str]) -> Iterator[str]:
        for directory in directories:
            try:
                names = os.listdir(directory)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                self.broken[directory] = f"{directory}: {error.strerror}"
                continue
            # The last of a directory wins, as in PyTaskFarmer, which takes the names
            # as glob gives them: hidden ones not at all, and in no order.
            for name in sorted(names, reverse=True):
                if name.endswith(".ini") and not name.startswith("."):
                    yield os.path.normpath(os.path.join(directory, name))

    def find_parser(self, path: str, name: str) -> "ConfigParser | None":
        """The file, if the name may be that of a section in it; None for any other.

        A look at the bytes spares the parsing of the INI files of other programs.
        Raises InputError for a broken file whose bytes look like what is asked for.
        """
        header = f"[{name}]".encode("utf-8", "surrogateescape")
        try:
            with open(path, "rb") as stream:
                content = stream.read()
        except OSError:
            return None
        if header not in content or self.kind.key.encode() not in content:
            return None
        try:
            return _parse(path, content)
        except _BrokenFileError as error:
            raise InputError(
                f"can't tell what the {self.kind.title} {name!r} is: {error}"
            ) from error

    # ---- what is told of a name that is in no file ----

    def not_found(self, name: str) -> InputError:
        """What is told of a name that is in no file."""
        parsers = self._all_parsers()
        known = {_BUILT_IN} | {
            section
            for parser in parsers.values()
            for section in parser.sections()
            if _defines(parser, section, self.kind)
        }
        names = ", ".join([_BUILT_IN, *sorted(known - {_BUILT_IN})])
        sentence = (
            f"there is no {self.kind.title} {name!r} for {self.kind.option}, only:"
            f" {names}"
        )
        if self.broken:
            also = "; it may be in what can't be read: "
            return InputError(sentence + also + "; ".join(self.broken.values()))
        return InputError(f"{sentence}; {self._remedy(name, known, parsers)}")

    def _all_parsers(self) -> "dict[str, ConfigParser]":
        parsers = {}
        if self.places.config is not None:
            parsers[self.places.config] = _read_config(self.places.config)
        return parsers | self._parsers_of(self.paths())

    def _parsers_of(self, paths: Iterable[str]) -> "dict[str, ConfigParser]":
        parsers = {}
        for path in paths:
            try:
                with open(path, "rb") as stream:
                    parsers[path] = _parse(path, stream.read())
            except (OSError, _BrokenFileError) as error:
                self.broken[path] = _told(path, error)
        return parsers

    def _remedy(
        self, name: str, known: Iterable[str], parsers: "Mapping[str, ConfigParser]"
    ) -> str:
        key, config = self.kind.key, self.places.config
        for path, parser in parsers.items():
            if parser.has_section(name) and (other := _other_case(parser, name, key)):
                return f"in section [{name}] of {path}, write {key} instead of {other}"
        if elsewhere := self._find_elsewhere(name):
            return elsewhere
        for path, parser in parsers.items():
            if parser.has_section(name):
                return f"section [{name}] of {path} has no key {key}"
        from difflib import get_close_matches

        if near := get_close_matches(name, sorted(known), n=1):
            return f"did you mean {near[0]!r}?"
        if config is not None:
            return f"{config} has no section [{name}] with {key}"
        own = os.path.join(self.places.config_home, "mpifarm")
        return (
            f"define it as [{name}] with {key} = package.module.Class in an .ini file"
            f" in {own}, or name its file with --config"
        )

    def _find_elsewhere(self, name: str) -> str:
        """What the name is where it is looked for otherwise; empty if nothing."""
        other = _Search(_OTHER[self.kind], self.places)
        for parser in other._all_parsers().values():
            if _defines(parser, name, other.kind):
                title = other.kind.title
                return f"{name} is a {title}: {other.kind.option} {name}"
        directories = [self.places.directory, self._plain_directory(other.kind)]
        for path, parser in other._parsers_of(other._paths_in(directories)).items():
            if _defines(parser, name, self.kind):
                return f"{path} has it, but is not looked at without --config {path}"
        return ""


def _other_case(parser: "ConfigParser", name: str, key: str) -> str:
    """The key of a section that is the one meant but for its case; empty if none."""
    return next((each for each in parser[name] if each.lower() == key.lower()), "")


# ---- reading -------------------------------------------------------------------------


class _BrokenFileError(Exception):
    """What is wrong with an INI file, and where."""


def _read_config(path: str) -> "ConfigParser":
    """The file of ``--config``, which must be there and whole."""
    try:
        with open(path, "rb") as stream:
            return _parse(path, stream.read())
    except (OSError, _BrokenFileError) as error:
        raise InputError(
            f"can't read the file of --config: {_told(path, error)}"
        ) from error


def _told(path: str, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return f"{path}: {reason}" if reason else str(error)


def _parse(path: str, content: bytes) -> "ConfigParser":
    """Read an INI file as PyTaskFarmer does; raises `_BrokenFileError`."""
    import configparser
    import io

    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    # The same line ends as those of a file that is opened as text.
    stream = io.StringIO(_decode(path, content), newline=None)
    try:
        parser.read_file(stream, path)
    except configparser.Error as error:
        lines = stream.getvalue().split("\n")
        raise _BrokenFileError(_place_of(error, path, lines)) from error
    return parser


def _decode(path: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _BrokenFileError(f"{path}, line {line}: is not UTF-8") from error


def _place_of(error: "configparser.Error", path: str, lines: Sequence[str]) -> str:
    """Where a file is broken, and how, in one line."""
    import configparser

    match error:
        case configparser.MissingSectionHeaderError(lineno=line):
            what = f"{error.line.strip()!r} stands before the first [section]"
        case configparser.DuplicateSectionError(lineno=line, section=section):
            what = f"a second section [{section}]"
        case configparser.DuplicateOptionError(lineno=line):
            what = f"a second {error.option} in section [{error.section}]"
        case configparser.ParsingError(errors=[(line, _), *_]):
            what = f"{lines[line - 1].strip()!r} is no line of the form key = value"
        case _:
            line, what = 0, " ".join(str(error).split())
    return f"{path}, line {line}: {what}" if line else f"{path}: {what}"


def _defines(parser: "ConfigParser", name: str, kind: _Kind) -> bool:
    return parser.has_section(name) and kind.key in parser[name]


def _read_section(
    parser: "ConfigParser", name: str, kind: _Kind, path: str
) -> _Section:
    """The section's class and options; raises InputError for a ``%`` that is none."""
    from configparser import InterpolationError

    values: dict[str, str] = {}
    for key in parser[name]:
        try:
            values[key] = parser[name][key]
        except InterpolationError as error:
            section = "DEFAULT" if _is_of_default(parser, name, key) else name
            raise InputError(
                f"{path}, section [{section}], key {key}: {_why(error)}"
            ) from error
    named = values[kind.key]
    options = {key: value for key, value in values.items() if key not in _CLASS_KEYS}
    has_part = any(_is_of_default(parser, name, key) for key in values)
    source = f"{path}, sections [{name}] and [DEFAULT]" if has_part else path
    return _Section(OWN_CLASSES.get(named, named), options, source)


def _is_of_default(parser: "ConfigParser", name: str, key: str) -> bool:
    """Whether a section has the key from ``[DEFAULT]``, or like there."""
    defaults = parser.defaults()
    return key in defaults and parser.get(name, key, raw=True) == defaults[key]


def _why(error: "configparser.InterpolationError") -> str:
    """What is wrong with a value."""
    from configparser import InterpolationMissingOptionError

    if isinstance(error, InterpolationMissingOptionError):
        return (
            f"there is no key {error.reference!r} for %({error.reference})s, and"
            " if none is meant: write %% for a percent sign"
        )
    return (
        "a % there begins a reference such as %(name)s, and this one can't be"
        " resolved: write %% for a percent sign"
    )
