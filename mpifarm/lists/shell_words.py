"""The words of a shell line: quotes and expansions, as bash reads them.

Rules of this file: pure.  The reader raises `UnsureError` where it is not sure how bash
reads a word.  It knows nothing of commands: their reader, `shell_lines`, reads those in
a substitution.
"""

import re
from collections.abc import Callable
from typing import Final, NamedTuple


class Expansion(NamedTuple):
    """A variable that the line's own shell replaces by its value."""

    name: str
    guard: str = ""
    """The character of ``${NAME:-word}`` and the like: ``-``, ``=``, ``?`` or ``+``."""


class Word(NamedTuple):
    """A word of a command, with and without its quotes."""

    raw: str
    """The text in the line."""
    value: str | None
    """The text without quotes; None if an expansion is part of the word."""
    runs: bool = False
    """Whether a command substitution is part of the word."""


class UnsureError(Exception):
    """A text that bash may read in another way than the reader."""


class UnfinishedError(Exception):
    """A line that ends within a construct, which the error's text names."""


class StrayError(Exception):
    """A line with the end of a construct that it has not begun, the error's text."""


_BLANKS = re.compile(r"[ \t]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = re.compile(r"[^\s\\'\"$`;&|<>()]+")
_IN_DOUBLE = re.compile(r"[^\"\\$`]+")
_PARAMETER = re.compile(r"([A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-])(\[[^]]*\])?")
_IN_SUBSCRIPT = re.compile(
    r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})"
)
CALCULATION: Final = r"(?:(?!\+\+|--)[\w \t+*/%()-])*"
"""A pattern for an arithmetic expression that sets no variable."""
_OLD_ARITHMETIC = re.compile(rf"\$\[({CALCULATION.replace('[', '[$', 1)})\]", re.ASCII)
_SPECIAL: Final = frozenset("0123456789@*#?$!-")


class WordReader:
    """A reader of one text, from left to right; `at` is its place.

    The reader adds to `expansions`, to `names` (variables that words set) and to
    `substituted` (the text of each substitution).  `read_commands` reads the commands
    of a substitution up to its parenthesis, `read_backticked` the commands of a text in
    backticks.

    Each method that reads moves `at` behind the read text, and raises UnsureError or
    UnfinishedError.
    """

    def __init__(
        self,
        text: str,
        *,
        expansions: list[Expansion],
        names: set[str],
        substituted: list[str],
        read_commands: Callable[[], None],
        read_backticked: Callable[[str], None],
    ) -> None:
        self.text = text
        self.at = 0
        self._expansions = expansions
        self._names = names
        self._substituted = substituted
        self._read_commands = read_commands
        self._read_backticked = read_backticked
        self._substitutions = 0
        """Command substitutions that were read."""

    def is_at_end(self) -> bool:
        """Return whether the whole text was read."""
        return self.at >= len(self.text)

    def next(self) -> str:
        """Return the next character, a blank at the end; `at` stays."""
        return self.text[self.at] if self.at < len(self.text) else " "

    def skip_blanks(self) -> None:
        """Move to the next character that is not a blank."""
        found = _BLANKS.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def read_word(self) -> Word:
        """Read a word up to a blank or an operator."""
        start, parts, runs_before = self.at, list[str | None](), self._substitutions
        while not self.is_at_end():
            plain = _PLAIN.match(self.text, self.at)
            if plain is not None:
                parts.append(plain.group())
                self.at = plain.end()
                continue
            if not self._read_part(parts):
                break
        if self.at == start:
            raise UnsureError  # White space that is not a blank to bash.
        value = None if None in parts else "".join(map(str, parts))
        return Word(
            self.text[start : self.at], value, self._substitutions > runs_before
        )

    def _read_part(self, parts: list[str | None]) -> bool:
        """Read a quote or an expansion, and add its value to `parts`.

        The value of an expansion is None.  Return False at the end of the word.
        """
        match self.next():
            case "\\":
                self._need(2, "\\")
                parts.append(self.text[self.at + 1])
                self.at += 2
            case "'":
                end = self._find("'", self.at + 1, "'")
                parts.append(self.text[self.at + 1 : end])
                self.at = end + 1
            case '"':
                self.at += 1
                parts.extend(self._read_double())
            case "$":
                parts.append(self._read_dollar(is_quoted=False))
            case "`":
                self._read_backticks()
                parts.append(None)
            case "<" | ">" if self.text.startswith(("<(", ">("), self.at):
                self.at += 2
                parts.append(None)
                self._read_substitution()
            case _:
                return False
        return True

    def _need(self, count: int, what: str) -> None:
        if self.at + count > len(self.text):
            raise UnfinishedError(what)

    def _find(self, end: str, start: int, what: str) -> int:
        place = self.text.find(end, start)
        if place < 0:
            raise UnfinishedError(what)
        return place

    def _read_double(self) -> list[str | None]:
        """Read up to the closing double quote.  Return the parts before the quote.

        An expansion is None among the parts.
        """
        parts: list[str | None] = []
        while True:
            self._need(1, '"')
            plain = _IN_DOUBLE.match(self.text, self.at)
            if plain is not None:
                parts.append(plain.group())
                self.at = plain.end()
                continue
            match self.next():
                case '"':
                    self.at += 1
                    return parts
                case "\\":
                    self._need(2, '"')
                    escaped = self.text[self.at : self.at + 2]
                    parts.append(escaped[escaped[1] in '$`"\\' :])
                    self.at += 2
                case "$":
                    parts.append(self._read_dollar(is_quoted=True))
                case _:
                    self._read_backticks()
                    parts.append(None)

    # ---- expansions -----------------------------------------------------------------

    def _read_dollar(self, *, is_quoted: bool) -> str | None:
        """Read a ``$`` and the expansion that it begins.  Return None for that.

        Else return the text that stands for the ``$``: "" before a double quote.
        """
        following = self.text[self.at + 1 : self.at + 2]
        name = _NAME.match(self.text, self.at + 1)
        if name is not None:
            self._expansions.append(Expansion(name.group()))
            self.at = name.end()
        elif following == "{":
            self.at += 2
            self._read_braced(is_quoted=is_quoted)
        elif following == "(":
            self._read_parenthesized()
        elif self.text.startswith(("$$(", "$${", "$$["), self.at):
            raise UnsureError  # In quotes, bash reads the second $ as a beginning.
        elif following in _SPECIAL and following:
            self.at += 2
        elif following == "'" and not is_quoted:
            self.at += 2
            self._read_ansi_quote()
        elif following == "[":
            self._read_old_arithmetic()
        else:
            self.at += 1
            return "" if following == '"' and not is_quoted else "$"
        return None

    def _read_ansi_quote(self) -> None:
        """Read up to the end of a ``$'…'``."""
        while True:
            self._need(1, "'")
            char = self.next()
            self.at += 2 if char == "\\" else 1
            if char == "'":
                return

    def _read_parenthesized(self) -> None:
        if self.text.startswith("$((", self.at):
            self.at += 3
            self.read_arithmetic()
            return
        self.at += 2
        self._read_substitution()

    def _read_substitution(self) -> None:
        """Read the commands of a ``$(…)`` or ``<(…)`` from behind its parenthesis."""
        self._substitutions += 1
        start = self.at
        self._read_commands()
        self._substituted.append(self.text[start : self.at - 1])

    def _read_backticks(self) -> None:
        """Read a text in backticks, and the commands in it."""
        end = self.at + 1
        while end < len(self.text) and self.text[end] != "`":
            end += 2 if self.text[end] == "\\" else 1
        if end >= len(self.text):
            raise UnfinishedError("`")
        inner = re.sub(r"\\([$`\\])", r"\1", self.text[self.at + 1 : end])
        self._read_backticked(inner)
        self._substitutions += 1
        self.at = end + 1

    def _read_braced(self, *, is_quoted: bool) -> None:
        """Read the rest of a ``${…}``, after its brace, and record its variables.

        A word after ``:-`` and the like is read, and its expansions are left out.
        """
        is_length = self.next() == "#" and self.text[self.at + 1 : self.at + 2] != "}"
        is_indirect = self.next() == "!"
        self.at += is_length or is_indirect
        found = _PARAMETER.match(self.text, self.at)
        if found is None:
            self._need(1, "${")
            raise UnsureError
        for name in _IN_SUBSCRIPT.finditer(found.group(2) or ""):
            self._expansions.append(Expansion(name.group(1) or name.group(2)))
        self.at = found.end()
        operator = re.compile(r":?([-=?+])").match(self.text, self.at)
        before = len(self._expansions)
        self._skip_to_brace(is_quoted=is_quoted)
        # The word in ``${NAME:-word}`` is expanded in some cases only.
        del self._expansions[before:]
        if not is_indirect and _NAME.fullmatch(found.group(1)):
            guard = operator.group(1) if operator and not is_length else ""
            self._expansions.append(Expansion(found.group(1), guard))
            if guard == "=":
                self._names.add(found.group(1))

    def _skip_to_brace(self, *, is_quoted: bool) -> None:
        """Read behind the closing brace; expansions before it are recorded."""
        while True:
            self._need(1, "${")
            match self.next():
                case "}":
                    self.at += 1
                    return
                case "\\":
                    self.at += 2
                case "'" if not is_quoted:
                    self.at = self._find("'", self.at + 1, "'") + 1
                case '"' if not is_quoted:
                    self.at += 1
                    self._read_double()
                case "$":
                    self._read_dollar(is_quoted=is_quoted)
                case "'" | '"' | "`":
                    raise UnsureError
                case _:
                    self.at += 1

    def read_arithmetic(self) -> None:
        """Read from after a ``((`` behind its ``))``; record the variables in between.

        Names without ``$`` are variables.  They are left out if the expression may skip
        a part of itself.
        """
        start, depth, bare = self.at, 2, list[Expansion]()
        while depth:
            self._need(1, "((")
            name = _NAME.match(self.text, self.at)
            number = re.compile(r"[0-9][0-9A-Za-z_#@]*").match(self.text, self.at)
            if name is not None:
                bare += self._bare_name(name.group(), name.end())
                self.at = name.end()
            elif number is not None:
                self.at = number.end()
            else:
                depth += self._read_in_arithmetic()
        inner = self.text[start : self.at]
        if not inner.endswith("))"):
            raise UnsureError  # It may be a subshell in a substitution.
        if not any(mark in inner for mark in ("&&", "||", "?", ",")):
            self._expansions += bare

    def _read_old_arithmetic(self) -> None:
        """Read ``$[…]``, the old form of ``$((…))``; record its variables.

        Raises UnsureError if the expression may set a variable.
        """
        found = _OLD_ARITHMETIC.match(self.text, self.at)
        if found is None:
            raise UnsureError
        self._expansions += plain_names(found.group(1).replace("$", ""))
        self.at = found.end()

    def _read_in_arithmetic(self) -> int:
        """Read a character or an expansion.  Return the change of depth: 1, -1 or 0."""
        match self.next():
            case "$":
                self._read_dollar_in_arithmetic()
                return 0
            case "'" | '"' | "`" | "\\":
                raise UnsureError
            case char:
                self.at += 1
                return {"(": 1, ")": -1}.get(char, 0)

    def _read_dollar_in_arithmetic(self) -> None:
        try:
            self._read_dollar(is_quoted=True)
        except UnfinishedError as error:
            if str(error) == "${":
                raise UnsureError from None  # bash looks for the )) first.
            raise

    def _bare_name(self, name: str, end: int) -> list[Expansion]:
        """Return the use of a name, which ends at `end`, in an arithmetic expression.

        If the expression may set the variable, add the name to `names`, and return [].
        """
        is_set = re.compile(r"[ \t]*(?:[-+*/%&|^]|<<|>>)?=(?!=)|[ \t]*(?:\+\+|--)")
        before = self.text[: self.at].rstrip()
        if is_set.match(self.text, end) or before.endswith(("++", "--")):
            self._names.add(name)
            return []
        return [Expansion(name)]


def plain_names(calculation: str) -> list[Expansion]:
    """Return the variables that an arithmetic expression uses; it must set none."""
    words = re.findall(r"\w+", calculation, re.ASCII)
    return [Expansion(word) for word in words if not word[0].isdigit()]
