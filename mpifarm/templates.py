"""The template handler: one command for all lines, such as ``gzip -9 {}``.

Rules of this file: pure, apart from the reading of the list.  The replacement strings
and their values are GNU parallel's.  The quoting is not: each value is quoted for its
place (outside quotes, in ``"..."``, in ``'...'``), so that the shell gets exactly the
bytes of the line.  A template that the shell may read in another way is refused.
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, NamedTuple, NoReturn

from mpifarm.plugins.shell_split import split_direct
from mpifarm.tasklists import ListTaskList, OptionError


class TemplateTaskList(ListTaskList):
    """A handler that makes a command of each line by the option `command`, a template.

    ``tasks[taskid]`` is the line, as in the status files; ``[taskid]`` is the command.
    Raises InputError for a wrong template, and as `ListTaskList`.
    """

    def __init__(self, path: str, workdir: str, command: str) -> None:
        self._template = parse_template(command)
        super().__init__(path, workdir)

    def __getitem__(self, taskid: int, /) -> str:
        return self._template.render(super().__getitem__(taskid), taskid + 1)


# ---- the values of replacement strings -----------------------------------------------


def without_extension(value: str) -> str:
    """Return ``{.}``: the value without the last dot and the text after it.

    The dot must be in the last part of a path.
    """
    return _extension.sub("", value)


def last_part(value: str) -> str:
    """Return ``{/}``: the text after the last slash, which may be empty."""
    return value.rpartition("/")[2]


def directory_part(value: str) -> str:
    """Return ``{//}``: Perl's dirname, "." without a slash, and for ``a/``."""
    directory, name = _split_path(value)
    return directory if name else _split_path(directory)[0]


def _split_path(value: str) -> tuple[str, str]:
    head, slash, name = value.rpartition("/")
    return (head.rstrip("/") or slash or "."), name


def last_part_without_extension(value: str) -> str:
    """Return ``{/.}``: the last part without its extension."""
    return without_extension(last_part(value))


_extension = re.compile(r"\.[^/.]*\Z")

NUMBER: Final = "{#}"
"""The replacement string for the task's number from 1, which is its id plus 1."""

REPLACEMENTS: Final[Mapping[str, Callable[[str], str]]] = {
    "{}": str,
    "{.}": without_extension,
    "{/}": last_part,
    "{//}": directory_part,
    "{/.}": last_part_without_extension,
}
"""The replacement strings, except `NUMBER`, with their functions: as in man parallel,
and in its source where that says more (``%Global::rpl`` of 20221122)."""


# ---- quoting -------------------------------------------------------------------------


class Context(Enum):
    """The place of a replacement string in a template, as a shell reads it."""

    PLAIN = "a command that needs no shell"
    COMMAND = "outside quotes"
    DOUBLE = "in double quotes"
    SINGLE = "in single quotes"
    DIGITS = "where the number stands bare"


def quote_single(value: str) -> str:
    """Return the value in single quotes, as one word for any POSIX shell."""
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
    """A replacement string in a template, with its place."""

    name: str
    context: Context

    def fill(self, value: str, number: int) -> str:
        """Return the hole's text for a value and a number, quoted for its place."""
        text = str(number) if self.name == NUMBER else REPLACEMENTS[self.name](value)
        return _QUOTING[self.context](text)


class Template:
    """A command with holes, into which each line's value is put."""

    def __init__(self, parts: list[str | Hole]) -> None:
        self.parts = parts

    def render(self, value: str, number: int) -> str:
        """Return the command for a line; `number` counts the tasks from 1."""
        return "".join([
            part if isinstance(part, str) else part.fill(value, number)
            for part in self.parts
        ])  # fmt: skip


def parse_template(text: str) -> Template:
    """Parse a template.  Without any replacement string, it gets `` {}`` at its end.

    Raises OptionError if the text is empty, has a NUL byte or an unclosed quote, or if
    a replacement string is at a place where no quoting is certain to be right.
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
                "has no replacement string before its comment: write {} in place of the"
                " line, before any #",
            )
        reading = _read(f"{reading.text} {{}}")
    return Template(_as_plain_if_possible(reading.parts))


def _wrong(text: str, what: str) -> OptionError:
    shown = text if len(text) <= 100 else f"{text[:97]}..."
    return OptionError(f"the option command, {shown!r}, {what}")


def _as_plain_if_possible(parts: list[str | Hole]) -> list[str | Hole]:
    """Return the parts, with holes that leave plain values unquoted.

    If the command needs a shell for plain values, too, return `parts` unchanged.
    """
    # In the first word, a shell has its own meaning for plain values such as "if" or
    # "a=b".  In other words it has none.
    before = parts[0] if isinstance(parts[0], str) else ""
    is_name_whole = "/" in before or len(f"{before}x".split()) > 1
    sample = "".join([part if isinstance(part, str) else "x" for part in parts])
    if not is_name_whole or split_direct(sample) is None:
        return parts
    return [
        part if isinstance(part, str) else Hole(part.name, Context.PLAIN)
        for part in parts
    ]


# ---- the shell's reading of a template -----------------------------------------------

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
    """The reading of a template from left to right, as a shell reads it."""

    def __init__(self, text: str) -> None:
        self.parts: list[str | Hole] = []
        self.has_comment = False
        self.joint = -1
        """The place of a line continuation, at which the reading ends; else -1."""
        self.text = text
        self._at = 0
        self._kept = 0
        """The end of the text that is in `parts`."""
        self._sure_until = len(text)
        """The beginning of a here-document, in which quotes have another meaning."""
        self._open: list[str] = []
        """Open marks, the innermost last: ``'``, ``"``, ``$(``, ``(``."""
        self._escaped_until = -1
        self._named_until = -1

    @property
    def has_holes(self) -> bool:
        return any(isinstance(part, Hole) for part in self.parts)

    @property
    def _innermost(self) -> str:
        return self._open[-1] if self._open else ""

    def read(self) -> None:
        """Read the text into `parts`, to its end or to a line continuation.

        At a continuation, set `joint` to its place.  Raises OptionError for an unclosed
        quote or bracket, and for a hole that cannot be quoted.
        """
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
        """Return the next token; None at the end, or where a here-document begins."""
        pattern = _SEEN_IN.get(self._innermost, _in_command)
        token = pattern.search(self.text, self._at)
        return token if token and token.start() < self._sure_until else None

    def _take(self, token: re.Match[str]) -> None:
        """Act on a token: add its text or hole to `parts`, or change the open marks."""
        match token.lastgroup:
            case "hole":
                self._add_hole(token)
            case "backslash" | "escape" | "variable":
                self._record(token)
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

    def _record(self, token: re.Match[str]) -> None:
        """Record a token on which the meaning of the next character depends."""
        match token.lastgroup:
            case "escape":
                self._escaped_until = token.end()
            case "variable":
                self._named_until = token.end()
            case "backslash":
                # In double quotes a backslash before a brace means itself, but before
                # the value it could quote a character.
                self._keep(token.end())
                self.parts.append("\\")

    def _open_or_close(self, token: re.Match[str]) -> None:
        mark, innermost = token[0], self._innermost
        is_in_parentheses = innermost in ("$(", "(")
        if mark == (")" if is_in_parentheses else innermost):
            self._open.pop()
        elif mark not in ("(", ")") or (mark == "(" and is_in_parentheses):
            self._open.append(mark)
        # Other parentheses do not matter: subshells, patterns of a case.
        if mark == "$(" and _esac.search(_joined(self.text[self._at :])):
            # The ")" of a pattern would be read as the end of the substitution.
            self._give_up(token.start(), "after a case in $(...)")

    def _add_hole(self, token: re.Match[str]) -> None:
        context = _CONTEXT_IN.get(self._innermost, Context.COMMAND)
        is_after_name = token.start() == self._named_until
        self._keep(token.start())
        if context is Context.DOUBLE and is_after_name:
            self.parts.append('""')  # Else the value would be part of the name.
        if context is Context.COMMAND and token[0] == NUMBER:
            is_descriptor = _descriptor.match(self.text, token.start())
            if not is_after_name and not is_descriptor:
                context = Context.DIGITS  # Quoted, {1..{#}} would not be a sequence.
        self.parts.append(Hole(token[0], context))
        self._kept = token.end()

    def _pass_comment(self, token: re.Match[str]) -> None:
        if token.start() == self._escaped_until:
            self._at = token.start() + 1  # The # after "\ " is within a word.
        else:
            self.has_comment = True

    def _pass_opaque(self, token: re.Match[str]) -> None:
        self._pass(*token.span(), f"in {_OPAQUE[token[0][0]]}")
        mark = token[0].removeprefix("$")
        if mark[-1] != mark[0] or len(mark) == 1:
            self._open.append(mark[0])

    def _pass_uncertain(self, token: re.Match[str]) -> None:
        if hole := _hole.match(self.text, token.end()):
            self._refuse(hole[0], "after a $")
        self._give_up(token.start(), f"after ${self.text[token.end()]}")

    def _pass_read_twice(self, token: re.Match[str]) -> None:
        # bash expands the word of ">& word", turns it into "&> word" and expands the
        # word again, without its quotes.
        for hole in _hole.finditer(self.text, token.end()):
            if hole[0] != NUMBER:
                raise _wrong(
                    self.text,
                    f"has {hole[0]} after >&, which bash reads twice: write &> instead",
                )
        self._give_up(token.start(), "after >&")

    def _pass_arithmetic(self, start: int) -> None:
        depth = 0
        for token in _arithmetic_token.finditer(self.text, start):
            if token.lastgroup != "parenthesis":
                break
            depth += 1 if token[0] == "(" else -1
            if depth == 0:
                self._pass(start, token.end(), "in ((...))")
                return
        self._give_up(start, "after ((")

    def _give_up(self, start: int, where: str) -> None:
        """Close all marks, and allow only numbers in the rest of the template.

        Raises OptionError for another hole in that rest, which `where` describes.
        """
        self._pass(start, len(self.text), where)
        self._open.clear()

    def _pass(self, start: int, end: int, where: str) -> None:
        """Add the text between two places to the parts, with numbers for its holes.

        A number needs no quotes anywhere.  Raises OptionError for any other hole.
        """
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
            f" begin the command with f={name}; and write $f there",
        )

    def _keep(self, end: int) -> None:
        """Add the text from the last part up to `end` to the parts, unchanged."""
        if self._kept < end:
            self.parts.append(self.text[self._kept : end])
        self._kept = end


def _joined(text: str) -> str:
    return text.replace("\\\n", "")


_esac = re.compile(r"\besac\b")
_descriptor = re.compile(r"(?:\{\#\}|\d)+[<>]")
_loose_backslash = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")


def _read(text: str) -> _Reading:
    """Read a template without its line continuations; raises OptionError.

    A backslash and newline in single quotes, comments and here-documents stays.
    """
    # One continuation at a time: the joined text may be read in another way.
    while True:
        reading = _Reading(text)
        reading.read()
        if reading.joint < 0:
            return reading
        text = text[: reading.joint] + text[reading.joint + 2 :]
