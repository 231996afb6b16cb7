"""Definitions of runners, handlers and hooks in INI files, found by name.

Rules of this file: rank 0 reads the files, and all ranks use its definitions.  An INI
file is read as PyTaskFarmer reads it (RunnerManager.load and TaskListManager.load in
PyTaskFarmer 0.1.0), with these differences:

- A file without the wanted name, or after the file that has it, may be broken.
- A broken file that seems to have the name is an error: the next definition of the name
  would run every task wrongly.
- Without INI files, configparser is not imported: each start would wait for it.
- A definition in a file that a stranger could have written is an error, too: its class
  would run as this user.  Only a warning tells of one in PyTaskFarmer's directories,
  which keep its behaviour, in a file that the user has typed, or in one that only the
  owner of a directory above it could have replaced, unless it is a hook.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from mpifarm.errors import InputError, StorageError
from mpifarm.immutable import immutable
from mpifarm.model.settings import HandlerDefinition, RunnerDefinition, Settings
from mpifarm.model.wording import counted
from mpifarm.plugins.site_files import find_site_places
from mpifarm.system.patience import is_of_the_disk
from mpifarm.system.processes import find_directory
from mpifarm.system.regular_files import open_regular

if TYPE_CHECKING:
    import configparser
    from configparser import ConfigParser

    from mpifarm.system.trust import Stranger

OWN_CLASSES: Final[Mapping[str, str]] = {
    "taskfarmer.runners.BasicRunner": "mpifarm.runners.BasicRunner",
    "taskfarmer.runners.ShifterRunner": "mpifarm.containers.ShifterRunner",
    "taskfarmer.task.ListTaskList": "mpifarm.tasklists.ListTaskList",
    "taskfarmer.tasks.ListTaskList": "mpifarm.tasklists.ListTaskList",
}
"""The classes of PyTaskFarmer in INI files, and the classes of mpifarm in their place.

PyTaskFarmer's manual spells ``taskfarmer.task`` as ``taskfarmer.tasks``.
"""


@immutable
class SearchPath:
    """The places of INI files."""

    home: str
    config_home: str
    """The directory of all programs' settings, with mpifarm's in ``mpifarm``."""
    directory: str = "."
    config: str | None = None
    """The file of ``--config``; None without that option."""
    site_places: tuple[str, ...] = ()
    """The site's files and directories, which define neither runner nor handler."""
    is_typed: bool = False
    """Whether the user has typed ``--config``, and so has chosen its file."""

    @property
    def typed_config(self) -> str | None:
        """The file of ``--config`` if the user has typed it."""
        return self.config if self.is_typed else None


def find_search_path_of(settings: Settings, environ: Mapping[str, str]) -> SearchPath:
    """Return the places of INI files for a farm."""
    is_typed = not settings.has_default("--config")
    return find_search_path(environ, settings.config, is_typed=is_typed)


def find_search_path(
    environ: Mapping[str, str], config: str | None, *, is_typed: bool = False
) -> SearchPath:
    """Return the places of INI files by ``HOME`` and ``XDG_CONFIG_HOME``.

    A relative ``XDG_CONFIG_HOME`` is ignored; the default is ``.config`` in the home.
    `is_typed`: whether the user has typed `config`.
    """
    home = environ.get("HOME") or os.path.expanduser("~")
    config_home = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(config_home):  # As in the XDG Base Directory Specification.
        config_home = os.path.join(home, ".config")
    site_places = find_site_places(environ)
    return SearchPath(
        home, config_home, config=config, site_places=site_places, is_typed=is_typed
    )


def find_runner(
    name: str, search_path: SearchPath, setup: str | None = None
) -> RunnerDefinition:
    """Return the definition of a runner, or the built-in one, with the `setup`.

    Raises InputError if no INI file defines `name`, or one that may is broken, or if it
    has another setup, UntrustedFileError if a stranger could have written it, and
    StorageError if the disk fails.
    """
    section = _find(_RUNNER, name, search_path)
    if section is None:
        options = {} if setup is None else {_SETUP: setup}
        return RunnerDefinition(name, _RUNNER.built_in[name], options)
    options = section.options
    if setup is not None:
        if options.get(_SETUP, "").strip():
            raise InputError(
                f"the runner {name!r} in {section.source} has a setup, and --setup"
                " gives another: leave one out, or write both into one"
            )
        options = {**options, _SETUP: setup}
    return RunnerDefinition(name, section.python_class, options, section.source)


_SETUP: Final = "setup"
"""The option of a runner for the lines of ``--setup``."""


def find_handler(name: str, search_path: SearchPath) -> HandlerDefinition:
    """Return the definition of a tasklist handler, or the built-in one.

    Raises as `find_runner`.
    """
    section = _find(_HANDLER, name, search_path)
    if section is None:
        return HandlerDefinition(name, _HANDLER.built_in[name])
    return HandlerDefinition(
        name, section.python_class, section.options, section.source
    )


def is_built_in_handler(name: str) -> bool:
    """Return whether mpifarm itself has a handler of that name."""
    return name in _HANDLER.built_in


def find_hook(name: str, search_path: SearchPath) -> tuple[str, dict[str, str], str]:
    """Return class, options and INI file of a hook.

    Raises as `find_runner`.
    """
    section = _find(_HOOK, name, search_path)
    assert section is not None  # no hook is built in
    return section.python_class, section.options, section.path


# ---- the kinds -----------------------------------------------------------------------


class _PluginKind(NamedTuple):
    """A kind of plug-in: runner or handler."""

    title: str
    key: str
    """The key of a section of this kind; its value names the class."""
    option: str
    plain_directory: str
    """PyTaskFarmer's directory of INI files of this kind; "" if it has none."""
    is_local: bool
    """Whether INI files of the current directory count."""
    built_in: Mapping[str, str]
    """The classes of the names that need no INI file."""


_RUNNER: Final = _PluginKind(
    *("runner", "Runner", "--runner", "runners.d"),
    is_local=False,
    built_in={"default": "mpifarm.runners.BasicRunner"},
)
_HANDLER: Final = _PluginKind(
    *("tasklist handler", "TaskList", "--tasklist", "tasklists.d"),
    is_local=True,
    built_in={
        "default": "mpifarm.tasklists.ListTaskList",
        "disbatch": "mpifarm.dialects.DisBatchTaskList",
        "greasy": "mpifarm.dialects.GreasyTaskList",
        "sqlite": "mpifarm.databases.SqliteTaskList",
    },
)
OPTIONS_SECTION: Final = "options"
"""The section of options of the command line, in files that may have them
(`mpifarm.commands.defaults`)."""

HOOKS_SECTION: Final = "hooks"
"""The section of ready hooks, in a site's files alone (`mpifarm.hooks.site`)."""

USER_FILE: Final = "config.ini"
"""The file with that section, among those of `SearchPath.config_home`."""

PROJECT_FILE: Final = "mpifarm.ini"
"""The file with that section in the current directory."""

HOOK_KEY: Final = "Hook"
"""The key of a section that names the class of a hook."""

_HOOK: Final = _PluginKind(
    *("hook", HOOK_KEY, "--hook", ""),
    is_local=False,
    built_in={},
)
_READY_HOOKS: Final = {
    "events": "--events FILE",
    "metrics": "--metrics FILE",
    "on-end": "--on-end COMMAND",
    "on-failure": "--on-failure COMMAND",
}
"""Hooks that have an option of their own, and no name for ``--hook``."""
_OTHER: Final = {
    _RUNNER.title: _HANDLER,
    _HANDLER.title: _RUNNER,
    _HOOK.title: _RUNNER,
}
_CLASS_KEYS: Final = frozenset({_RUNNER.key, _HANDLER.key, _HOOK.key})
_BUILT_IN: Final = "default"


class _Section(NamedTuple):
    """A section with the wanted definition."""

    python_class: str
    options: dict[str, str]
    source: str
    """The file, with the section names if ``[DEFAULT]`` has a part in the
    definition."""
    path: str
    """The file."""


class UndefinedError(InputError):
    """A name that no file defines here; it may be defined in another directory."""


# ---- the search ----------------------------------------------------------------------


def _find(kind: _PluginKind, name: str, search_path: SearchPath) -> _Section | None:
    """Return the section with the definition, None for a built-in one.

    The file of ``--config`` comes first.  Raises InputError if no file defines `name`,
    or one that may is broken, UntrustedFileError if a stranger could have written it,
    and StorageError if the disk fails.
    """
    _check_name(kind, name)
    if search_path.config is not None:
        parser = _read_config(search_path.config)
        if _defines(parser, name, kind):
            if kind is _HOOK or not search_path.is_typed:
                of_config = f"--config {search_path.config}"
                _refuse_stranger(kind, name, search_path.config, of_config)
            return _read_section(parser, name, kind, search_path.config)
        if parser.has_section(name):
            _refuse_misspelt(parser, name, kind, search_path.config)
    search = _Search(kind, search_path)
    for path in search.paths():
        parsed = search.find_parser(path, name)
        if parsed is not None and _defines(parsed, name, kind):
            if not search.is_plain(path):
                _refuse_stranger(kind, name, path, path)
            return _read_section(parsed, name, kind, path)
    if name not in kind.built_in:
        raise search.not_found(name)
    search.check_built_in(name)
    return None


def _check_name(kind: _PluginKind, name: str) -> None:
    """Raise InputError for a name that no section with a class can have."""
    if name == "DEFAULT":
        raise InputError(
            f"{kind.option} DEFAULT does not name a {kind.title}: [DEFAULT] in an INI"
            " file has keys for all its sections"
            f"{f'; did you mean {_BUILT_IN!r}?' if kind.built_in else ''}"
        )
    if not name.strip():
        raise InputError(
            f"{kind.option} {name!r} does not name a {kind.title}: give the name of its"
            f" section in an INI file{f', or {_BUILT_IN}' if kind.built_in else ''}"
        )


def _refuse_misspelt(
    parser: "ConfigParser", name: str, kind: _PluginKind, path: str
) -> None:
    """Raise InputError for a section whose key is misspelt or missing.

    Without the error, a definition in another file would run every task wrongly.
    """
    if _is_hollow(parser, name):
        raise InputError(describe_hollow(name, path, parser[name]))
    if other := find_near_key(parser[name], kind.key):
        raise InputError(
            f"section [{name}] of {path} defines no {kind.title}: write {kind.key}"
            f" instead of {other}"
        )


@dataclass
class _Search:
    """The INI files of a kind, the first of them having precedence."""

    kind: _PluginKind
    search_path: SearchPath
    broken: dict[str, str] = field(default_factory=dict)
    """The error of each unreadable file or directory, by its path."""

    def paths(self) -> Iterator[str]:
        """Yield the INI files in the order of precedence, without that of ``--config``.

        Raises StorageError if the disk fails.
        """
        yield from self._paths_in(self._directories())

    def _directories(self) -> Iterator[str]:
        if self.kind.is_local:
            yield self.search_path.directory
        yield os.path.join(self.search_path.config_home, "mpifarm")
        if self.kind.plain_directory:
            yield self._plain_directory(self.kind)

    def is_plain(self, path: str) -> bool:
        """Return whether an INI file is in PyTaskFarmer's directory of the kind."""
        plain = self.kind.plain_directory and self._plain_directory(self.kind)
        return os.path.dirname(path) == plain

    def _plain_directory(self, kind: _PluginKind) -> str:
        plain = os.path.join(
            self.search_path.home, ".pytaskfarmer", kind.plain_directory
        )
        return os.path.normpath(plain)

    def trusted_paths(self) -> Iterator[str]:
        """Yield the files that are used whoever wrote them.

        They are a typed one, and those in PyTaskFarmer's directories of all kinds.
        """
        if self.search_path.typed_config is not None:
            yield self.search_path.typed_config
        kinds = _RUNNER, _HANDLER
        yield from self._paths_in(map(self._plain_directory, kinds))

    def judged_paths(self) -> Iterator[str]:
        """Yield the files that are for mpifarm alone, but for a typed one."""
        typed, config = self.search_path.typed_config, self.search_path.config
        if config is not None and typed is None:
            yield config
        for path in self.own_paths():
            if path != typed:
                yield path

    def _paths_in(self, directories: Iterable[str]) -> Iterator[str]:
        """Yield the INI files in directories; note an unreadable one in `broken`."""
        for directory in directories:
            try:
                names = os.listdir(directory)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                _raise_if_disk_failed(directory, error)
                self.broken[directory] = f"{directory}: {error.strerror}"
                continue
            # The last name has precedence.  In PyTaskFarmer, too, a later file wins; it
            # reads them in glob's order, which is arbitrary, and without hidden files.
            for name in sorted(names, reverse=True):
                if name.endswith(".ini") and not name.startswith("."):
                    yield os.path.normpath(os.path.join(directory, name))

    def find_parser(self, path: str, name: str) -> "ConfigParser | None":
        """Parse a file that may define `name`.  Return None for any other file.

        An unreadable file is passed over.  Raises InputError for a broken file that
        seems to define `name`, StorageError if the disk fails.
        """
        # Checked in the bytes first: most INI files here belong to other programs.
        header = f"[{name}]".encode("utf-8", "surrogateescape")
        try:
            content = _read(path)
        except OSError as error:
            _raise_if_disk_failed(path, error)
            return None
        if header not in content or self.kind.key.encode() not in content:
            return None
        try:
            return _parse(path, content)
        except _BrokenFileError as error:
            raise InputError(
                f"can't tell what the {self.kind.title} {name!r} is: {error}; correct"
                " the file"
            ) from error

    def check_built_in(self, name: str) -> None:
        """Raise InputError for a section of a built-in name that defines nothing."""
        for path, parser in self.own_parsers().items():
            if parser.has_section(name) and _is_hollow(parser, name):
                raise InputError(describe_hollow(name, path, parser[name]))

    def own_parsers(self) -> "dict[str, ConfigParser]":
        """Return the parsed files that are for mpifarm alone, by their paths.

        A broken file of ``--config`` raises InputError; a broken one in mpifarm's own
        directory is noted in `broken`, and left out.
        """
        parsers = {}
        if self.search_path.config is not None:
            parsers[self.search_path.config] = _read_config(self.search_path.config)
        return parsers | self._parsers_of(self.own_paths())

    def own_paths(self) -> Iterator[str]:
        """Yield the INI files in mpifarm's own directory."""
        yield from self._paths_in(
            [os.path.join(self.search_path.config_home, "mpifarm")]
        )

    # ---- names that no file defines ----

    def not_found(self, name: str) -> InputError:
        """Return the error for a name that no file defines, with a remedy.

        All INI files are read; the unreadable ones are named in place of the remedy.
        """
        parsers = self._all_parsers()
        known = {*self.kind.built_in} | {
            section
            for parser in parsers.values()
            for section in parser.sections()
            if _defines(parser, section, self.kind)
        }
        built_in = self.kind.built_in
        names = ", ".join([*built_in, *sorted(known - {*built_in})]) or "none"
        sentence = (
            f"there is no {self.kind.title} {name!r} for {self.kind.option}, only:"
            f" {names}"
        )
        if self.broken:
            also = "; it may be in a file that can't be read, and has to be mended: "
            return InputError(sentence + also + "; ".join(self.broken.values()))
        return UndefinedError(f"{sentence}; {self._remedy(name, known, parsers)}")

    def _all_parsers(self) -> "dict[str, ConfigParser]":
        parsers = {}
        if self.search_path.config is not None:
            parsers[self.search_path.config] = _read_config(self.search_path.config)
        return parsers | self._parsers_of(self.paths())

    def _parsers_of(self, paths: Iterable[str]) -> "dict[str, ConfigParser]":
        """Parse files; note each that cannot be read in `broken`, and leave it out."""
        parsers = {}
        for path in paths:
            try:
                parsers[path] = _parse(path, _read(path))
            except (OSError, _BrokenFileError) as error:
                self.broken[path] = _in_words(path, error)
        return parsers

    def _remedy(
        self, name: str, known: Iterable[str], parsers: "Mapping[str, ConfigParser]"
    ) -> str:
        key = self.kind.key
        for path, parser in parsers.items():
            if parser.has_section(name) and (other := find_near_key(parser[name], key)):
                return f"in section [{name}] of {path}, write {key} instead of {other}"
        if elsewhere := self._find_elsewhere(name):
            return elsewhere
        for path, parser in parsers.items():
            if parser.has_section(name):
                return f"section [{name}] of {path} has no key {key}"
        return self._guess(name, known)

    def _guess(self, name: str, known: Iterable[str]) -> str:
        """Return a remedy for a name of which no file has a section."""
        key, config = self.kind.key, self.search_path.config
        if self.kind is _HANDLER and name.isdecimal():
            return (
                f"-t, --task and --ta are short for --tasklist: write --proc {name} for"
                " the number of tasks at one time on each rank, and spell out"
                " --task-timeout, --task-time or --task-memory if one is meant"
            )
        from difflib import get_close_matches

        ready = _READY_HOOKS if self.kind is _HOOK else {}
        if near := get_close_matches(name, [*ready, *sorted(known)], n=1):
            return f"did you mean {ready.get(near[0], repr(near[0]))}?"
        if config is not None:
            return f"{config} has no section [{name}] with {key}"
        own = os.path.join(self.search_path.config_home, "mpifarm")
        return (
            f"define it as [{name}] with {key} = package.module.Class in an .ini file"
            f" in {own}, or name its file with --config"
        )

    def _find_elsewhere(self, name: str) -> str:
        """Return a remedy for a name that is defined in another place or kind, or "".

        All files of the other kind, and of directories that are not searched, are read.
        """
        other = _Search(_OTHER[self.kind.title], self.search_path)
        for parser in other._all_parsers().values():
            if _defines(parser, name, other.kind):
                title = other.kind.title
                return f"{name} is a {title}: {other.kind.option} {name}"
        directories = [self.search_path.directory, self._plain_directory(other.kind)]
        for path, parser in other._parsers_of(other._paths_in(directories)).items():
            if _defines(parser, name, self.kind):
                return f"{path} has it, but is not looked at without --config {path}"
        return ""


def find_near_key(keys: Iterable[str], key: str) -> str:
    """Return the one of a section's keys that is a misspelt `key`, "" for none."""
    from mpifarm.model.nearness import find_near_word

    by_lower = {each.lower(): each for each in keys}
    near = find_near_word(key.lower(), by_lower)
    return by_lower[near] if near else ""


def _is_hollow(parser: "ConfigParser", name: str) -> bool:
    """Return whether a section has no key that names a class."""
    return not _CLASS_KEYS & {*parser[name]}


def describe_hollow(name: str, path: str, keys: Iterable[str]) -> str:
    """Return the sentence about a hollow section, with its remedy."""
    return f"section [{name}] of {path} defines nothing: {_missing_key([*keys])}"


def misspells_class(keys: Iterable[str]) -> bool:
    """Return whether one of the keys is a misspelt one that names a class."""
    return any(find_near_key(keys, key) for key in _CLASS_KEYS)


def _missing_key(keys: Sequence[str]) -> str:
    """Return the remedy for a section that defines nothing."""
    for key in sorted(_CLASS_KEYS):
        if other := find_near_key(keys, key):
            return f"write {key} instead of {other}"
    return (
        "for a runner, add the line Runner = mpifarm.runners.BasicRunner; for a"
        " handler, TaskList = package.module.Class"
    )


# ---- sections and files without effect -----------------------------------------------


def find_idle_sections(
    search_path: SearchPath,
    runner: str,
    handler: str,
    hooks: Sequence[str] = (),
) -> Iterator[str]:
    """Yield a warning for each section and ``--config`` file that has no effect.

    If ``--config`` does not define the runner or the handler, also yield a sentence
    with the file that does.  `runner`, `handler` and `hooks` are the names in use.  A
    default of ``--config`` need not have an effect.  Raises InputError if the file of
    ``--config`` is missing or broken.
    """
    yield from _find_hollow_sections(search_path)
    typed = search_path.typed_config
    if typed is not None:
        used = ((runner, _RUNNER), (handler, _HANDLER))
        parser = _read_config(typed)
        all_used = [*used, *((name, _HOOK) for name in hooks)]
        if not any(_defines(parser, name, kind) for name, kind in all_used):
            yield _warn_of_idle_config(typed, parser)
        for name, kind in used:
            if name not in kind.built_in and not _defines(parser, name, kind):
                yield _describe_source(kind, name, search_path)


def _find_hollow_sections(search_path: SearchPath) -> Iterator[str]:
    """Yield a warning for each section without effect in files for mpifarm alone."""
    for path, parser in _Search(_RUNNER, search_path).own_parsers().items():
        if _is_of_options(path, search_path):
            continue  # whoever reads its options tells of its sections
        found = None if path == search_path.typed_config else _find_stranger(path)
        if found and not found.is_above:
            continue  # it is left out
        for name in parser.sections():
            if name == OPTIONS_SECTION:
                yield from _warn_of_options(path, search_path)
            elif _is_hollow(parser, name):
                yield f"WARNING: {describe_hollow(name, path, parser[name])}"


def _is_of_options(path: str, search_path: SearchPath) -> bool:
    """Return whether a file is one of those of which options are read."""
    here = find_directory()  # no abspath: that directory may be gone
    path, project = (
        os.path.normpath(os.path.join(here, each))
        for each in (path, os.path.join(search_path.directory, PROJECT_FILE))
    )
    read = {find_user_file(search_path), project, *search_path.site_places}
    return not read.isdisjoint((path, os.path.dirname(path)))


def find_user_file(search_path: SearchPath) -> str:
    """Return the path of the user's file of options."""
    return os.path.join(search_path.config_home, "mpifarm", USER_FILE)


def _warn_of_options(path: str, search_path: SearchPath) -> Iterator[str]:
    """Yield a warning for options in a file of which they are not read."""
    # With --chdir, that may be the project's file, of the directory before.
    if path != search_path.config or os.path.basename(path) != PROJECT_FILE:
        yield (
            f"WARNING: section [{OPTIONS_SECTION}] of {path} has no effect there: move"
            f" it to {find_user_file(search_path)}"
        )


def _describe_source(kind: _PluginKind, name: str, search_path: SearchPath) -> str:
    """Return a sentence with the source of a name that ``--config`` does not define."""
    section = _find(kind, name, search_path)
    source = section.source if section else _BUILT_IN
    return (
        f"the {kind.title} {name} is that of {source}: {search_path.config} has no"
        f" section [{name}] with {kind.key}"
    )


def _warn_of_idle_config(config: str, parser: "ConfigParser") -> str:
    defined = [
        f"{kind.option} {name}"
        for kind in (_RUNNER, _HANDLER, _HOOK)
        for name in parser.sections()
        if _defines(parser, name, kind)
    ]
    why = f" without {' or '.join(defined)}"
    if not defined:
        why = ": no section of it defines a runner, a handler or a hook"
    return f"WARNING: --config {config} has no effect{why}"


# ---- files that strangers could have written -----------------------------------------


class UntrustedFileError(InputError):
    """A definition in a file that a stranger could have written."""


def find_untrusted(
    search_path: SearchPath, runner: str = _BUILT_IN, handler: str = _BUILT_IN
) -> Iterator[str]:
    """Yield a warning of the INI files that strangers could have written, by the cause.

    Those of the current directory may be for any program: one is told when it is used.
    So is one that only the owner of a directory above it could have replaced.  `runner`
    and `handler` are the names in use.  Raises StorageError if the disk fails.
    """
    search, causes = _Search(_RUNNER, search_path), dict[str, _Cause]()
    for path in search.trusted_paths():
        if (found := _find_stranger(path)) and not found.is_above:
            _Cause.find(causes, found).used.append(path)
    for path in search.judged_paths():
        # Whoever reads a file's options tells that it is left out.
        found = None if _is_of_options(path, search_path) else _find_stranger(path)
        if found and not found.is_above:
            _Cause.find(causes, found).left_out.append(path)
    for path in _find_used(search_path, ((_RUNNER, runner), (_HANDLER, handler))):
        if (found := _find_stranger(path)) and found.is_above:
            _Cause.find(causes, found).used.append(path)
    for cause in causes.values():
        yield cause.describe()


def _find_used(
    search_path: SearchPath, names: Iterable[tuple[_PluginKind, str]]
) -> list[str]:
    """Return the INI files of the names in use; raises StorageError."""
    paths: dict[str, None] = {}
    for kind, name in names:
        try:
            if section := _find(kind, name, search_path):
                paths[section.path] = None
        except InputError:  # told by whoever uses that name
            continue
    return [*paths]


@dataclass
class _Cause:
    """What lets strangers write INI files, and which files."""

    found: "Stranger"
    used: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @classmethod
    def find(cls, causes: "dict[str, _Cause]", found: "Stranger") -> "_Cause":
        """Return the cause at the path of `found`; add it to `causes` if it is new."""
        return causes.setdefault(found.path, cls(found))

    def describe(self) -> str:
        """Return the warning: the files, why, and what to do."""
        why, used, left_out = self.found.why, self.used, self.left_out
        does = f"{_name_files(used)} {'say' if used[1:] else 'says'} what runs as you"
        if not used:
            told = f"the sections of {_name_files(left_out)} are left out: {why}, and"
            told += " they would say what runs as you"
        elif left_out:
            told = f"{does}, the sections of {_name_files(left_out)} are left out, and"
            told += f" {why}"
        else:
            told = f"{does}, and {why}"
        return f"WARNING: {told}: {self._find_remedy()}"

    def _find_remedy(self) -> str:
        one = len(self.used) + len(self.left_out) == 1
        if self.found.is_above:
            return (
                f"move {'it' if one else 'them'} out of {self.found.path} unless you"
                " trust the owner of that directory"
            )
        if not one:
            copies = "use copies of them that are yours, in a directory of yours"
            return self.found.find_remedy(copies)
        if self.left_out:
            return _find_remedy(self.left_out[0], self.found)
        copy = "use a copy of it that is yours, in a directory of yours"
        return self.found.find_remedy(copy)


def _name_files(paths: Sequence[str]) -> str:
    """Return the name of the first file, and how many others there are."""
    if not paths[1:]:
        return "".join(paths)
    return f"{paths[0]} and {counted(len(paths) - 1, 'other file')}"


def _find_stranger(path: str) -> "Stranger | None":
    """Return who could have written a file, None if it is to be trusted, or not there.

    Raises StorageError if the disk fails.
    """
    from mpifarm.system.trust import judge_file  # for those who have such files

    try:
        return judge_file(path)
    except OSError as error:
        _raise_if_disk_failed(path, error)
        return None


def _refuse_stranger(kind: _PluginKind, name: str, path: str, named: str) -> None:
    """Raise UntrustedFileError if a stranger could have written a definition.

    `path` is its file, and `named` what the user knows it by.
    """
    from mpifarm.system.trust import judge_file  # for those who have such files

    try:
        found = judge_file(path)
    except OSError as error:  # it was there a moment ago
        _raise_if_disk_failed(path, error)
        raise InputError(f"can't read {path}: {error.strerror}; try again") from error
    if found is not None and (kind is _HOOK or not found.is_above):
        remedy = _find_remedy(path, found)
        if kind is _HOOK and not found.is_mendable:
            remedy = f"copy [{name}] to a file that is yours, in a directory of yours"
        raise UntrustedFileError(
            f"the {kind.title} {name!r} of {named} is not used: {found.why}, and it"
            f" would run as you: {remedy}"
        )


def _find_remedy(path: str, found: "Stranger") -> str:
    return found.find_remedy(
        f"read it, and name it with --config {shlex.quote(path)} if it is right"
    )


# ---- reading -------------------------------------------------------------------------


class _BrokenFileError(Exception):
    """A fault of an INI file, with its place."""


def _read(path: str) -> bytes:
    """Return the content of a regular file; raises `OSError`, also for any other."""
    # Regular files only: a fifo could block for ever.
    with open(open_regular(path, os.O_RDONLY, follow=True), "rb") as stream:
        return stream.read()


def read_ini(path: str) -> "ConfigParser":
    """Parse an INI file; raises InputError if broken, OSError if it is missing."""
    try:
        return _parse(path, _read(path))
    except _BrokenFileError as error:
        raise InputError(f"{error}; correct the file") from error


class IniValue(NamedTuple):
    """A key of a section with its value, as it stands there, and its line."""

    key: str
    value: str
    line: int


class OptionsFile(NamedTuple):
    """What a file with options says."""

    values: list[IniValue]
    """The keys of the section `OPTIONS_SECTION`, [] without it."""
    hollow: dict[str, tuple[str, ...]]
    """The keys of each other section that names no class."""


class NoOptionsError(InputError):
    """A broken file that does not seem to have the section of options."""


def read_options(path: str) -> OptionsFile:
    """Read the options of an INI file, and find sections that define nothing.

    In options a ``%`` is one, and ``[DEFAULT]`` has no part in them.  Raises InputError
    for a broken file, NoOptionsError if it does not seem to have any, OSError if it
    can't be read.
    """
    content = _read(path)
    try:
        parser = _parse(path, content, default_section="")
    except _BrokenFileError as error:
        told = f"{error}; {_mend(error)}"
        has_options = f"[{OPTIONS_SECTION}]".encode() in content
        raise (InputError if has_options else NoOptionsError)(told) from error
    text = _decode(path, content)
    hollow = _find_hollow(parser)
    if not parser.has_section(OPTIONS_SECTION):
        _refuse_indented(path, text)
        return OptionsFile([], hollow)  # it stands in a comment
    lines = _find_lines(text, OPTIONS_SECTION)
    values = [
        IniValue(key, value, lines.get(key, 0))
        for key, value in parser.items(OPTIONS_SECTION, raw=True)
    ]
    return OptionsFile(values, hollow)


def _mend(error: _BrokenFileError) -> str:
    """Return what to do about a broken file of options."""
    from configparser import MissingSectionHeaderError

    if isinstance(error.__cause__, MissingSectionHeaderError):
        return f"write [{OPTIONS_SECTION}] above it if it is an option"
    return "correct the file"


def _find_hollow(parser: "ConfigParser") -> dict[str, tuple[str, ...]]:
    """Return the keys of each section, but that of options, that names no class.

    `parser` takes ``[DEFAULT]`` for a section like others: it is hollow if it stands
    alone, as its keys are for sections with classes.
    """
    keys = {name: (*parser[name],) for name in parser.sections()}
    keys.pop(OPTIONS_SECTION, None)
    shared = keys.pop(_SHARED, ())
    hollow = {
        name: own for name, own in keys.items() if not _CLASS_KEYS & {*own, *shared}
    }
    return {_SHARED: shared} if shared and not keys else hollow


_SHARED: Final = "DEFAULT"
"""The section whose keys are those of all others."""


def _refuse_indented(path: str, text: str) -> None:
    """Raise InputError for a head of a section that is part of the value above."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() == f"[{OPTIONS_SECTION}]":
            raise InputError(
                f"{path}, line {number}: an indented [{OPTIONS_SECTION}] belongs to the"
                " value above: begin it at the left"
            )


def _find_lines(text: str, section: str) -> dict[str, int]:
    """Return the lines of the keys of a section, as far as they can be told."""
    lines: dict[str, int] = {}
    is_inside = False
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if line.lstrip().startswith("["):
            is_inside = line.lstrip().startswith(f"[{section}]")
        elif is_inside and (found := _KEY.match(line)):
            lines.setdefault(found[1], number)
    return lines


_KEY: Final = re.compile(r"\s*([^\s#;=:][^=:]*?)\s*[=:]")


def _read_config(path: str) -> "ConfigParser":
    """Parse the file of ``--config``; raises InputError if it is missing or broken."""
    try:
        return _parse(path, _read(path))
    except (OSError, _BrokenFileError) as error:
        remedy = (
            "correct the file, or leave --config out"
            if isinstance(error, _BrokenFileError)
            else "name a file that you can read, or leave --config out"
        )
        raise InputError(
            f"can't read the file of --config: {_in_words(path, error)}; {remedy}"
        ) from error


def _raise_if_disk_failed(path: str, error: OSError) -> None:
    """Raise `StorageError` if the disk has failed: the file may have the definition."""
    if is_of_the_disk(error):
        raise StorageError(f"can't read {path}: {error.strerror}") from error


def _in_words(path: str, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return f"{path}: {reason}" if reason else str(error)


def _parse(
    path: str, content: bytes, default_section: str = "DEFAULT"
) -> "ConfigParser":
    """Parse an INI file as PyTaskFarmer does; raises `_BrokenFileError`.

    The keys of the section `default_section` are those of all sections.
    """
    import configparser
    import io

    parser = configparser.ConfigParser(default_section=default_section)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    # newline=None: the same line ends as in a file that is opened as text.
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
    """Return the place and the kind of a fault in a file, in one line.

    `lines` are the lines of the file, and `path` is its name.
    """
    import configparser

    match error:
        case configparser.MissingSectionHeaderError(lineno=line):
            what = f"{error.line.strip()!r} is before the first [section]"
        case configparser.DuplicateSectionError(lineno=line, section=section):
            what = f"a second section [{section}]"
        case configparser.DuplicateOptionError(lineno=line):
            what = f"a second {error.option} in section [{error.section}]"
        case configparser.ParsingError(errors=[(line, _), *_]):
            what = f"{lines[line - 1].strip()!r} is not of the form key = value"
        case _:
            line, what = 0, " ".join(str(error).split())
    return f"{path}, line {line}: {what}" if line else f"{path}: {what}"


def _defines(parser: "ConfigParser", name: str, kind: _PluginKind) -> bool:
    return parser.has_section(name) and kind.key in parser[name]


def _read_section(
    parser: "ConfigParser", name: str, kind: _PluginKind, path: str
) -> _Section:
    """Return a section's class and options, some of which may be from ``[DEFAULT]``.

    A class of PyTaskFarmer becomes mpifarm's (`OWN_CLASSES`).  Raises InputError for a
    stray ``%``.
    """
    from configparser import InterpolationError

    values: dict[str, str] = {}
    for key in parser[name]:
        try:
            values[key] = parser[name][key]
        except InterpolationError as error:
            section = "DEFAULT" if _is_of_default(parser, name, key) else name
            raise InputError(
                f"{path}, section [{section}], key {key}: {_percent_fault(error)}"
            ) from error
    named = values[kind.key]
    options = {key: value for key, value in values.items() if key not in _CLASS_KEYS}
    has_part = any(_is_of_default(parser, name, key) for key in values)
    source = f"{path}, sections [{name}] and [DEFAULT]" if has_part else path
    return _Section(OWN_CLASSES.get(named, named), options, source, path)


def _is_of_default(parser: "ConfigParser", name: str, key: str) -> bool:
    """Return whether a section has a key, with its value, from ``[DEFAULT]``."""
    defaults = parser.defaults()
    return key in defaults and parser.get(name, key, raw=True) == defaults[key]


def _percent_fault(error: "configparser.InterpolationError") -> str:
    """Return the fault of a value with a percent sign, and its remedy."""
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
