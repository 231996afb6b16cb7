"""The template handler: one command for all lines, such as ``gzip -9 {}``.

Rules of this file: pure but for the reading of the list.  The replacement strings are
GNU parallel's, and so is what they make of a line.  The quoting is not: each value is
quoted for the place where it stands (outside quotes, in ``"..."``, in ``'...'``), so
that the shell sees exactly the bytes of the line.  Where the shell's own reading is
not certain, a template is refused, never guessed at.  Line continuations are taken out
first, as by a shell, for what they join may be read in another way.  A command that
could be started without a shell stays such a command wherever its values allow it
(`shellwords`).
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, NamedTuple, NoReturn

from mpifarm.shellwords import split_direct
from mpifarm.tasklists import ListTaskList, OptionError


class TemplateTaskList(ListTaskList):
    """Makes a command of each line by a template: the option `command`.

    ``tasks[taskid]`` is the line, as it stands in the status files; ``[taskid]`` is
    the command.  Raises InputError: as `ListTaskList`, or the template is wrong.
    """

    def __init__(self, path: str, workdir: str, command: str) -> None:
        self._template = parse_template(command)
        super().__init__(path, workdir)

    def __getitem__(self, taskid: int, /) -> str:
        return self._template.render(self.tasks[taskid], taskid + 1)


# ---- what the replacement strings mean -----------------------------------------------


def without_extension(value: str) -> str:
    """``{.}``: less the last dot of the last part and what follows it."""
    return _extension.sub("", value)


def last_part(value: str) -> str:
    """``{/}``: what follows the last slash, which may be nothing."""
    return value.rpartition("/")[2]


def directory_part(value: str) -> str:
    """``{//}``: Perl's dirname, which knows ``a/`` as a name in ``.``."""
    directory, name = _parted(value)
    return directory if name else _parted(directory)[0]


def _parted(value: str) -> tuple[str, str]:
    head, slash, name = value.rpartition("/")
    return (head.rstrip("/") or slash or "."), name


def last_part_without_extension(value: str) -> str:
    """``{/.}``: both."""
    return without_extension(last_part(value))


_extension = re.compile(r"\.[^/.]*\Z")

NUMBER: Final = "{#}"
"""The task's number, from 1: its id and one."""

REPLACEMENTS: Final[Mapping[str, Callable[[str], str]]] = {
    "{}": str,
    "{.}": without_extension,
    "{/}": last_part,
    "{//}": directory_part,
    "{/.}": last_part_without_extension,
}
"""The replacement strings, `NUMBER` apart; from man parallel, and its source where
that says more (``%Global::rpl`` of 20221122)."""


# ---- quoting -------------------------------------------------------------------------


class Context(Enum):
    """Where in the shell's reading of a template a replacement string stands."""

    PLAIN = "a command that needs no shell"
    COMMAND = "outside quotes"
    DOUBLE = "in double quotes"
    SINGLE = "in single quotes"
    DIGITS = "where the number stands bare"


def quote_single(value: str) -> str:
    """As a word of its own, in single quotes, as in any POSIX shell."""
    return "'" + _escape_in_single(value) + "'"


def _escape_in_single(value: str) -> str:
    return value.replace("'", "'\\''")


def _escape_in_double(value: str) -> str:
    return _special_in_double.sub(r"\\\g<0>", value)


def _quote_if_needed(value: str) -> str:
    return value if _is_plain_word(value) else quote_single(value)


_special_in_double = re.compile(r'[\\$`"]')
_is_plain_word = re.compile(r"[A-Za-z0-9_./:=,@%+\-]+").fullmatch

_QUOTING: Final[Mapping[Context, Callable[[str], str]]] = {
    Context.PLAIN: _quote_if_needed,
    Context.COMMAND: quote_single,
    Context.DOUBLE: _escape_in_double,
    Context.SINGLE: _escape_in_single,
    Context.DIGITS: str,
}


# ---- templates -----------------------------------------------------------------------


class Hole(NamedTuple):
    """A replacement string, and where it stands."""

    name: str
    context: Context

    def fill(self, value: str, number: int) -> str:
        """What stands there in the command of a line."""
        text = str(number) if self.name == NUMBER else REPLACEMENTS[self.name](value)
        return _QUOTING[self.context](text)


class Template:
    """A command with holes."""

    def __init__(self, parts: list[str | Hole]) -> None:
        self.parts = parts

    def render(self, value: str, number: int) -> str:
        """The command for a line; `number` counts the tasks from 1."""
        return "".join([
            part if isinstance(part, str) else part.fill(value, number)
            for part in self.parts
        ])  # fmt: skip


def parse_template(text: str) -> Template:
    """Read a template; one without any replacement string gets `` {}`` at its end.

    Raises InputError: it is empty, or its quotes are not closed, or a replacement
    string stands where no quoting is known to be right.
    """
    if "\0" in text or _loose_backslash.search(text):
        what = "a NUL byte in it" if "\0" in text else "a backslash at its end"
        raise _wrong(text, f"has {what}")
    reading = _read(text)
    if not reading.text.strip():
        raise OptionError("the option command is empty: give it as in command = cat {}")
    if not reading.has_holes:
        if reading.has_comment:
            raise _wrong(
                text,
                "has no replacement string before its comment: write {} where the line"
                " is to stand, and no # behind it",
            )
        reading = _read(f"{reading.text} {{}}")
    return Template(_as_plain_if_possible(reading.parts))


def _wrong(text: str, what: str) -> OptionError:
    shown = text if len(text) <= 100 else f"{text[:97]}..."
    return OptionError(f"the option command, {shown!r}, {what}")


def _as_plain_if_possible(parts: list[str | Hole]) -> list[str | Hole]:
    """The parts, with holes that leave plain values as they are, where that is right.

    It is where the template could be started without a shell, and the name of the
    program is not the value's: a shell takes a plain ``if`` or ``a=b`` for its own
    there, and these only there.
    """
    before = parts[0] if isinstance(parts[0], str) else ""
    is_name_whole = "/" in before or len(f"{before}x".split()) > 1
    sample = "".join([part if isinstance(part, str) else "x" for part in parts])
    if not is_name_whole or split_direct(sample) is None:
        return parts
    return [
        part if isinstance(part, str) else Hole(part.name, Context.PLAIN)
        for part in parts
    ]


# ---- how a shell reads a template ----------------------------------------------------

_HOLE: Final = r"\{(?:\#|\.|//?|/\.)?\}"

_BACKQUOTED: Final = r"`(?:[^`\\]|\\.)*`?"

_EXPANSIONS: Final = rf"""
    (?!\${_HOLE}) \$\{{[^'"\\`{{}}$]*\}}
  | (?P<uncertain>\$(?={_HOLE}|[{{\[]))
  | (?P<substitution>\$\()
  | (?P<variable>\$(?:\w+|[$?!@*\#-]))
  | (?P<hole>{_HOLE})
"""


def _tokens(own: str) -> re.Pattern[str]:
    return re.compile(own, re.VERBOSE | re.DOTALL)


_in_command = _tokens(rf"""
    (?P<escape>\\.)
  | (?P<opaque>\$'(?:[^'\\]|\\.)*'? | {_BACKQUOTED})
  | (?P<quote>['"])
  | (?P<comment>(?<![^ \t\n;&|()<>])\#[^\n]*)
  | <<< | (?P<here_document><<)
  | >&[ \t]*(?:\d+-?|-)(?!(?!\\\n)[^\s;&|()<>])
  | (?P<read_twice>>&(?![ \t]*\\\n))
  | (?P<arithmetic>\$?\(\()
  | {_EXPANSIONS}
  | (?P<parenthesis>[()])
""")
_in_double = _tokens(rf"""
    (?P<backslash>\\)(?={_HOLE})
  | (?P<escape>\\.)
  | (?P<opaque>{_BACKQUOTED})
  | (?P<quote>")
  | (?P<arithmetic>\$\(\()
  | {_EXPANSIONS}
""")
_in_single = _tokens(rf"(?P<quote>') | (?P<hole>{_HOLE})")
_hole = _tokens(_HOLE)
_arithmetic_token = _tokens(r"(?P<parenthesis>[()]) | ['\"\\`] | \$\{")

_SEEN_IN: Final = {"'": _in_single, '"': _in_double}
_OPAQUE: Final = {"`": "`...`", "$": "$'...'"}
_CONTEXT_IN: Final = {"'": Context.SINGLE, '"': Context.DOUBLE}


class _Reading:
    """Reads a template from left to right, as a shell does."""

    def __init__(self, text: str) -> None:
        self.parts: list[str | Hole] = []
        self.has_comment = False
        self.joint = -1
        """Where a line continuation stands, at which the reading has ended."""
        self.text = text
        self._at = 0
        self._kept = 0
        """Where the text begins that is not in `parts` yet."""
        self._sure_until = len(text)
        """Where a here-document begins, in which quotes mean something else."""
        self._open: list[str] = []
        """What has to be closed yet, innermost last: ``'``, ``"``, ``$(``, ``(``."""
        self._escaped_until = -1
        self._named_until = -1

    @property
    def has_holes(self) -> bool:
        return any(isinstance(part, Hole) for part in self.parts)

    @property
    def _innermost(self) -> str:
        return self._open[-1] if self._open else ""

    def read(self) -> None:
        """Take the text apart, up to a line continuation; raises InputError."""
        while token := self._find_token():
            if token[0] == "\\\n":
                self.joint = token.start()
                return
            self._at = token.end()
            self._take(token)
        if self._sure_until < len(self.text):
            self._give_up(max(self._at, self._sure_until), "in a here-document")
        self._keep(len(self.text))
        if self._open:
            raise _wrong(self.text, f"has an unclosed {self._open[-1]}")

    def _find_token(self) -> re.Match[str] | None:
        pattern = _SEEN_IN.get(self._innermost, _in_command)
        token = pattern.search(self.text, self._at)
        return token if token and token.start() < self._sure_until else None

    def _take(self, token: re.Match[str]) -> None:
        match token.lastgroup:
            case "hole":
                self._add_hole(token)
            case "backslash" | "escape" | "variable":
                self._note(token)
            case "quote" | "substitution" | "parenthesis":
                self._open_or_close(token)
            case "comment":
                self._pass_comment(token)
            case "arithmetic":
                self._pass_arithmetic(token.start())
            case "here_document" if "\n" in self.text[token.end() :]:
                self._sure_until = self.text.index("\n", token.end())
            case "read_twice":
                self._pass_read_twice(token)
            case "uncertain":
                self._pass_uncertain(token)
            case "opaque":
                self._pass_opaque(token)

    def _note(self, token: re.Match[str]) -> None:
        """Note what decides how the next character is read."""
        match token.lastgroup:
            case "escape":
                self._escaped_until = token.end()
            case "variable":
                self._named_until = token.end()
            case "backslash":
                # In double quotes it stands for itself before a brace, but would not
                # before what the hole may become.
                self._keep(token.end())
                self.parts.append("\\")

    def _open_or_close(self, token: re.Match[str]) -> None:
        mark, innermost = token[0], self._innermost
        is_in_parentheses = innermost in ("$(", "(")
        if mark == (")" if is_in_parentheses else innermost):
            self._open.pop()
        elif mark not in ("(", ")") or (mark == "(" and is_in_parentheses):
            self._open.append(mark)
        # Other parentheses close nothing that matters: subshells, patterns of a case.
        if mark == "$(" and _esac.search(_joined(self.text[self._at :])):
            # The ")" of a pattern would be taken for the end.
            self._give_up(token.start(), "behind a case in $(...)")

    def _add_hole(self, token: re.Match[str]) -> None:
        context = _CONTEXT_IN.get(self._innermost, Context.COMMAND)
        is_behind_name = token.start() == self._named_until
        self._keep(token.start())
        if context is Context.DOUBLE and is_behind_name:
            self.parts.append('""')  # Else the value is read as part of the name.
        if context is Context.COMMAND and token[0] == NUMBER:
            is_descriptor = _descriptor.match(self.text, token.start())
            if not is_behind_name and not is_descriptor:
                context = Context.DIGITS  # So {1..{#}} is a sequence of numbers.
        self.parts.append(Hole(token[0], context))
        self._kept = token.end()

    def _pass_comment(self, token: re.Match[str]) -> None:
        if token.start() == self._escaped_until:
            self._at = token.start() + 1  # "\ #" is within a word
        else:
            self.has_comment = True

    def _pass_opaque(self, token: re.Match[str]) -> None:
        self._pass(*token.span(), f"in {_OPAQUE[token[0][0]]}")
        mark = token[0].removeprefix("$")
        if mark[-1] != mark[0] or len(mark) == 1:
            self._open.append(mark[0])

    def _pass_uncertain(self, token: re.Match[str]) -> None:
        if hole := _hole.match(self.text, token.end()):
            self._refuse(hole[0], "behind a $")
        self._give_up(token.start(), f"behind ${self.text[token.end()]}")

    def _pass_read_twice(self, token: re.Match[str]) -> None:
        # bash makes "&> word" of ">& word" when it has expanded the word, and then
        # expands it again: quotes are gone by then.
        for hole in _hole.finditer(self.text, token.end()):
            if hole[0] != NUMBER:
                raise _wrong(
                    self.text,
                    f"has {hole[0]} behind >&, which bash reads twice: write &>"
                    " instead",
                )
        self._give_up(token.start(), "behind >&")

    def _pass_arithmetic(self, start: int) -> None:
        depth = 0
        for token in _arithmetic_token.finditer(self.text, start):
            if token.lastgroup != "parenthesis":
                break
            depth += 1 if token[0] == "(" else -1
            if depth == 0:
                self._pass(start, token.end(), "in ((...))")
                return
        self._give_up(start, "behind ((")

    def _give_up(self, start: int, where: str) -> None:
        """Only numbers may stand in all that follows."""
        self._pass(start, len(self.text), where)
        self._open.clear()

    def _pass(self, start: int, end: int, where: str) -> None:
        """Only numbers may stand between: any shell reads a number as it is."""
        for hole in _hole.finditer(self.text, start, end):
            if hole[0] != NUMBER:
                self._refuse(hole[0], where)
            self._keep(hole.start())
            self.parts.append(Hole(NUMBER, Context.DIGITS))
            self._kept = hole.end()
        self._at = end

    def _refuse(self, name: str, where: str) -> NoReturn:
        raise _wrong(
            self.text,
            f"has {name} {where}, where no quoting is sure to be right:"
            f" write f={name}; in front of all, and $f there",
        )

    def _keep(self, end: int) -> None:
        """The text up to `end` stays as it is."""
        if self._kept < end:
            self.parts.append(self.text[self._kept : end])
        self._kept = end


def _joined(text: str) -> str:
    return text.replace("\\\n", "")


_esac = re.compile(r"\besac\b")
_descriptor = re.compile(r"(?:\{\#\}|\d)+[<>]")
_loose_backslash = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")


def _read(text: str) -> _Reading:
    """Read a text without its line continuations; raises InputError.

    In single quotes, comments and here-documents they are none, and stay.
    """
    while True:
        reading = _Reading(text)
        reading.read()
        if reading.joint < 0:
            return reading
        text = text[: reading.joint] + text[reading.joint + 2 :]
