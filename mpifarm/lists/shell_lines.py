"""The commands of a shell line, its expansions, and whether it is complete.

Rules of this file: pure.  A line is read as bash reads it.  A line that the reader is
not sure of has `Reading.is_sure` False, and nothing else is known of it: the reader may
miss a fact, and never states a wrong one.  A test compares it with bash.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from mpifarm.lists.shell_words import (
    CALCULATION,
    Expansion,
    StrayError,
    UnfinishedError,
    UnsureError,
    Word,
    WordReader,
    plain_names,
)


@dataclass(slots=True)
class Command:
    """A simple command: assignments, then words."""

    assignments: list[Word] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The first word, "" if there is none or an expansion is part of it."""
        return (self.words[0].value or "") if self.words else ""


@dataclass(slots=True)
class Reading:
    """A line as a shell reads it."""

    commands: list[Command] = field(default_factory=list)
    """The simple commands that the line's own shell runs, outside of subshells."""
    expansions: list[Expansion] = field(default_factory=list)
    substituted: list[str] = field(default_factory=list)
    """The text in each ``$(…)``."""
    names: set[str] = field(default_factory=set)
    """Variables that the line itself may set."""
    prefixed: set[str] = field(default_factory=set)
    """Variables that the line sets before a command, for that command alone.  The words
    of that command are expanded without them."""
    unfinished: str = ""
    """The construct that is open at the end: a quote, a ``for``, an operator."""
    stray: str = ""
    """A word that ends a construct that the line has not begun, such as ``done``."""
    has_heredoc: bool = False
    ends_in_background: bool = False
    """Whether ``&`` is the last operator, at the end of the line."""
    has_compound: bool = False
    """Whether the line has a loop, a group, a function or the like."""
    only_defines: bool = False
    """Whether the line does nothing but define a function."""
    is_sure: bool = True


def read_line(text: str) -> Reading:
    """Read a line as bash does, in about 10 µs.

    A line that ends early (`unfinished`, `stray`) is read up to there.  One that the
    reader is not sure of has `is_sure` False and nothing else.
    """
    reading = Reading()
    try:
        _Reader(text, reading).read_list("")
    except UnfinishedError as error:
        reading.unfinished = str(error)
    except StrayError as error:
        reading.stray = str(error)
    except (UnsureError, RecursionError):
        return Reading(is_sure=False)
    return reading


class _Level:
    """The state of a list of commands: the line's, or that of a ``( … )`` in it."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        """Open compound commands, the innermost last, each by its last keyword."""
        self.expects = _COMMAND
        self.command = Command()
        self.head = ""
        """``for``, ``select`` or ``case`` while the words before ``do`` or ``in`` are
        read."""
        self.last = ""
        """The last operator."""
        self.is_redirected = False
        """Whether the command begins with a redirection: no keyword may follow."""
        self.needs_body = False
        """Whether ``name()`` was read, and the function's body comes next."""
        self.commands_before: int | None = None
        """Number of commands of the line before its first function."""
        self.commands_within = 0
        """Number of commands of the line when the last compound command ended."""

    @property
    def is_empty(self) -> bool:
        """Whether the next command has not begun."""
        begun = bool(self.command.assignments) or self.is_redirected
        return self.expects == _COMMAND and not begun


_COMMAND: Final = "a command"
_ARGUMENT: Final = "an argument"
_AFTER: Final = "the end of a compound command"
_PATTERN: Final = "a pattern of a case"

_OPERATOR = re.compile(
    r"&&|\|\||;;&|;;|;&|;|\|&|\||&>>|&>|&|<<<|<<-?|<&|<>|<(?!\()|>>|>&|>\||>(?!\()"
    r"|\(\(|\(|\)"
)
_REDIRECTIONS: Final = frozenset(
    {"&>>", "&>", "<<<", "<<", "<<-", "<&", "<>", "<", ">>", ">&", ">|", ">"}
)
_JOINTS: Final = frozenset({"&&", "||", "|", "|&"})
"""Operators that need a command after them."""

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\[[^]]*\])?\+?=")
_SETTING = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:\[[^]]*\])?\+?(?:=.*)?", re.DOTALL)
_EMPTY_PARENTHESES = re.compile(r"[ \t]*\([ \t]*\)")
_DESCRIPTOR = re.compile(r"[0-9]+|\{[A-Za-z_][A-Za-z0-9_]*\}")
_LET = re.compile(rf"(?:\s*[A-Za-z_]\w*\s*[-+*/%]?=)?({CALCULATION})", re.ASCII)
_FOLLOWS: Final = {
    "then": (("if",), "then"),
    "elif": (("then",), "if"),
    "else": (("then",), "else"),
    "do": (("while", "for"), "do"),
}
"""Keywords within a compound command: the last keyword before, and the one to remember.
"""

_CLOSES: Final = {
    "fi": ("then", "else"),
    "done": ("do",),
    "esac": ("case",),
    "}": ("{",),
}
_OPENS: Final = {"if": "if", "while": "while", "until": "while", "{": "{"}
_HEADS: Final = {"for": "for", "select": "for", "case": "case"}
_OTHERS: Final = frozenset({"!", "time", "[[", "function", "coproc", "in"})
_RESERVED: Final = frozenset({*_FOLLOWS, *_CLOSES, *_OPENS, *_HEADS, *_OTHERS})


class _Reader:
    """A reader of the commands of one text, from left to right, into a `Reading`."""

    def __init__(self, text: str, reading: Reading) -> None:
        self._reading = reading
        self._depth = 0
        """Number of open subshells and substitutions."""
        self._words = WordReader(
            text,
            expansions=reading.expansions,
            names=reading.names,
            substituted=reading.substituted,
            read_commands=self._read_in_parentheses,
            read_backticked=self._read_backticked,
        )

    # ---- lists of commands ----------------------------------------------------------

    def read_list(self, end: str) -> None:
        """Read commands up to the end of the text, or behind the ``)`` that is `end`.

        `end` is "" or ``)``.  Raises UnfinishedError, StrayError or UnsureError.
        """
        level = _Level()
        while True:
            self._words.skip_blanks()
            if self._words.is_at_end() or self._words.next() == "#":
                if end:
                    raise UnfinishedError("(")
                self._end_list(level)
                return
            found = _OPERATOR.match(self._words.text, self._words.at)
            if found is None:
                self._on_word(level, self._words.read_word())
                continue
            self._words.at = found.end()
            if found.group() == ")" and end and level.expects != _PATTERN:
                self._end_list(level)
                return
            self._on_operator(level, found.group())

    def _end_list(self, level: _Level) -> None:
        """End the last command of a list, and record facts about the whole line.

        Raises UnfinishedError if a construct or an operator needs more.
        """
        if level.opened:
            raise UnfinishedError(level.opened[0])
        if level.is_empty and (level.last in _JOINTS or level.needs_body):
            raise UnfinishedError(level.last or "function")
        if not self._depth:
            self._reading.ends_in_background = level.is_empty and level.last == "&"
        self._end_command(level, "")
        if not self._depth and level.commands_before == 0:
            count = len(self._reading.commands)
            self._reading.only_defines = count == level.commands_within

    def _end_command(self, level: _Level, operator: str) -> None:
        """Record the command of `level` and its assignments, and begin the next one.

        `operator` ends the command; "" at the end of a list.
        """
        command = level.command
        found = (_SETTING.fullmatch(each.raw) for each in command.assignments)
        names = self._reading.prefixed if command.words else self._reading.names
        names.update(each.group(1) for each in found if each is not None)
        if not self._depth and (command.words or command.assignments):
            self._reading.commands.append(command)
        level.command, level.head, level.is_redirected = Command(), "", False
        level.expects, level.last = _COMMAND, operator

    # ---- operators ------------------------------------------------------------------

    def _on_operator(self, level: _Level, operator: str) -> None:
        if operator in _REDIRECTIONS:
            self._read_target(operator)
            level.is_redirected |= level.expects in (_COMMAND, _AFTER)
        elif level.expects == _PATTERN:
            self._on_operator_in_pattern(level, operator)
        elif operator in ("(", "(("):
            self._on_opening(level, operator)
        elif operator == ")":
            raise StrayError(")")
        elif operator.startswith((";;", ";&")):
            self._end_clause(level, operator)
        else:
            self._join(level, operator)

    def _read_target(self, operator: str) -> None:
        self._words.skip_blanks()
        if self._words.is_at_end() or _OPERATOR.match(self._words.text, self._words.at):
            raise UnsureError
        self._words.read_word()
        if operator in ("<<", "<<-"):
            self._reading.has_heredoc = True

    def _on_operator_in_pattern(self, level: _Level, operator: str) -> None:
        if operator == ")":
            level.expects = _COMMAND
        elif operator not in ("|", "("):
            raise UnsureError

    def _on_opening(self, level: _Level, operator: str) -> None:
        if operator == "((" and (level.is_empty or level.head == "for"):
            self._words.read_arithmetic()
            level.expects = _AFTER if level.head != "for" else _ARGUMENT
            self._reading.has_compound = True
        elif level.is_empty:
            self._read_subshell()
            level.expects, level.needs_body = _AFTER, False
        elif self._begins_function(level):
            self._words.at = self._words.text.index(")", self._words.at) + 1
            self._define_function(level)
        else:
            raise UnsureError

    def _begins_function(self, level: _Level) -> bool:
        """Return whether the command so far is a name and ``(``, and ``)`` follows."""
        is_name = level.expects == _ARGUMENT and len(level.command.words) == 1
        rest = self._words.text[self._words.at :].lstrip(" \t")
        return is_name and not level.head and rest.startswith(")")

    def _define_function(self, level: _Level) -> None:
        self._reading.has_compound = True
        if level.commands_before is None:
            level.commands_before = len(self._reading.commands)
        level.command, level.expects, level.needs_body = Command(), _COMMAND, True

    def _read_subshell(self) -> None:
        self._reading.has_compound = True
        self._read_in_parentheses()

    def _read_in_parentheses(self) -> None:
        self._depth += 1
        self.read_list(")")
        self._depth -= 1

    def _read_backticked(self, text: str) -> None:
        """Record the expansions and names of a text that stood in backticks.

        Raises UnsureError unless the text is complete.
        """
        read = read_line(text)
        if not read.is_sure or read.unfinished or read.stray or read.has_heredoc:
            raise UnsureError
        self._reading.expansions += read.expansions
        self._reading.names |= read.names

    def _end_clause(self, level: _Level, operator: str) -> None:
        if not level.opened or level.opened[-1] != "case":
            raise StrayError(operator)
        self._end_command(level, operator)
        level.expects = _PATTERN

    def _join(self, level: _Level, operator: str) -> None:
        if level.is_empty or (level.head and operator != ";"):
            raise UnsureError  # Most likely a syntax error.
        self._end_command(level, operator)

    # ---- words of commands ----------------------------------------------------------

    def _on_word(self, level: _Level, word: Word) -> None:
        if _DESCRIPTOR.fullmatch(word.raw) and self._words.next() in "<>":
            return
        if level.expects == _PATTERN:
            if word.raw == "esac":
                self._on_reserved(level, "esac")
        elif word.raw in _RESERVED and level.expects in (_COMMAND, _AFTER):
            self._on_reserved(level, word.raw)
        elif level.expects == _AFTER or level.needs_body:
            raise UnsureError
        elif level.expects == _COMMAND and _ASSIGNMENT.match(word.raw):
            self._on_assignment(level, word)
        else:
            self._add_word(level, word)

    def _on_assignment(self, level: _Level, word: Word) -> None:
        level.command.assignments.append(word)
        if self._words.next() == "(":
            self._words.at += 1
            self._read_array()

    def _read_array(self) -> None:
        while True:
            self._words.skip_blanks()
            if self._words.is_at_end():
                raise UnfinishedError("(")
            if self._words.next() == ")":
                self._words.at += 1
                return
            if _OPERATOR.match(self._words.text, self._words.at):
                raise UnsureError
            self._words.read_word()

    def _add_word(self, level: _Level, word: Word) -> None:
        name = level.command.name
        self._record_name(word, is_env=name == "env" or name.endswith("/env"))
        if name == "let":
            self._record_let(word.value or "")
        level.command.words.append(word)
        level.expects = _ARGUMENT
        raws = [each.raw for each in level.command.words]
        if level.head == "case" and len(raws) == 3:
            if raws[2] != "in":
                raise UnsureError
            level.command, level.head, level.expects = Command(), "", _PATTERN
        elif level.head == "for" and raws[-1] in ("do", "{") and "in" not in raws:
            raise UnsureError

    def _record_name(self, word: Word, *, is_env: bool) -> None:
        """Record that the line may set the variable that a word names, if any.

        `is_env`: whether the word is an argument of ``env``, which sets variables for
        its own program only.
        """
        found = _SETTING.fullmatch(word.raw)
        if found is not None:
            is_for_program = is_env and "=" in word.raw
            names = self._reading.prefixed if is_for_program else self._reading.names
            names.add(found.group(1))

    def _record_let(self, expression: str) -> None:
        """Record the variables that an argument of ``let`` uses."""
        found = _LET.fullmatch(expression)
        if found is not None:
            self._reading.expansions += plain_names(found.group(1))

    def _on_reserved(self, level: _Level, word: str) -> None:
        if level.command.assignments or level.is_redirected:
            raise UnsureError
        if level.expects == _AFTER and word not in (*_FOLLOWS, *_CLOSES):
            raise UnsureError
        self._reading.has_compound |= word not in ("!", "time")
        opened = level.opened
        if word in _FOLLOWS:
            before, now = _FOLLOWS[word]
            self._check_open(level, word, before)
            opened[-1], level.expects = now, _COMMAND
        elif word in _CLOSES:
            self._check_open(level, word, _CLOSES[word])
            opened.pop()
            level.expects = _AFTER
            level.commands_within = len(self._reading.commands)
        elif word in _OPENS:
            opened.append(_OPENS[word])
            level.needs_body = False
        elif word in _HEADS:
            opened.append(_HEADS[word])
            level.head, level.expects = _HEADS[word], _ARGUMENT
            level.command.words.append(Word(word, word))
        else:
            self._on_other(level, word)
            return
        level.last = word

    def _check_open(self, level: _Level, word: str, allowed: tuple[str, ...]) -> None:
        """Raise StrayError or UnsureError unless an `allowed` keyword is open."""
        if not level.opened:
            raise StrayError(word)
        if level.opened[-1] not in allowed:
            raise UnsureError

    def _on_other(self, level: _Level, word: str) -> None:
        if word == "[[":
            self._read_test()
            level.expects = _AFTER
        elif word == "function":
            self._words.skip_blanks()
            self._words.read_word()
            found = _EMPTY_PARENTHESES.match(self._words.text, self._words.at)
            self._words.at = found.end() if found else self._words.at
            self._define_function(level)
        elif word in ("coproc", "in"):
            raise UnsureError
        else:
            level.last = word  # A ! or a time alone is a command: "a && !" is complete.

    def _read_test(self) -> None:
        """Read behind the ``]]``; operators before it do not end a command."""
        while True:
            self._words.skip_blanks()
            if self._words.is_at_end():
                raise UnfinishedError("[[")
            if self._words.next() in ";&|<>()":
                self._words.at += 1
            elif self._words.read_word().raw == "]]":
                return
