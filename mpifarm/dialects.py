"""Handlers for lists that were written for disBatch and for GREASY.

Rules of this file: pure, apart from the reading of the list.  What these tools do with
a list is read from their sources (disBatch 3.0, ``TaskGenerator``; GREASY 2.2.3,
``AbstractEngine::parseTaskFile`` and ``GreasyTask::addDependencies``).  A word that is
not understood, or that a tool passes over with no more than a line in its log, is a
mistake: the list would run otherwise than its author thinks.
"""

import os
import re
import shlex
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple, NoReturn

from mpifarm.model.packed_texts import PackedTexts
from mpifarm.order.constraints import Constraints
from mpifarm.order.directives import MAX_WAITS, find_misspelt, seems_limit, shorten
from mpifarm.tasklists import ListTaskList, TasklistFileError, read_lines


class _Place(NamedTuple):
    """A line of a list."""

    path: str
    number: int
    is_ended: bool = True
    """Whether it has a newline at its end; else it may be half written."""

    @property
    def name(self) -> str:
        """The place in words."""
        return f"line {self.number} of {self.path}"

    def refuse(self, what: str) -> NoReturn:
        """Raise the error whose sentence begins with this place."""
        place = self.name, self.number
        is_unended = not self.is_ended
        raise TasklistFileError(f"{self.name} {what}", *place, is_unended=is_unended)


def _read_places(path: str) -> Iterator[tuple[_Place, str]]:
    """Yield the lines of a list, with their places."""
    for number, (line, is_ended) in enumerate(read_lines(path), start=1):
        place = _Place(path, number, is_ended)
        if number == 1 and line.startswith("\ufeff"):
            remedy = f"sed -i '1s/^\\xEF\\xBB\\xBF//' {shlex.quote(path)}"
            place.refuse(
                "begins with a byte order mark, which a shell takes for a part of the"
                f" command: remove it ({remedy})"
            )
        yield place, line


_is_plain_directive = re.compile(r"#(?:BARRIER|AFTER)(?![A-Za-z0-9_])").match


def _refuse_plain_directive(place: _Place, line: str, tool: str, remedy: str) -> None:
    """Refuse a directive of a plain list, which is a comment to other tools."""
    if _is_plain_directive(line):
        place.refuse(
            f"is a directive of a plain list ({shorten(line)}), and a comment to"
            f" {tool}: {remedy}"
        )
    if near := find_misspelt(line):
        place.refuse(
            f"seems to say what waits ({shorten(line)}), and is a comment to {tool}, as"
            f" {near} is: {remedy}, or a blank behind the # if it is a comment"
        )


def _refuse_limit(place: _Place, command: str, tool: str) -> None:
    """Refuse a kind of a plain list, which is a command to other tools."""
    if seems_limit(command):
        place.refuse(
            f"names a kind as a plain list does ({shorten(command)}), and to {tool} it"
            " is a command: take [limit=…] out, or write the list as a plain one"
        )


_BATCH: Final = 1000
"""Texts that are packed together: one by one it would take three times as long."""


class _Texts:
    """The texts of a list that is being read."""

    def __init__(self) -> None:
        self.packed = PackedTexts()
        self._waiting: list[str] = []

    def __len__(self) -> int:
        return len(self.packed) + len(self._waiting)

    def add(self, text: str) -> None:
        self._waiting.append(text)
        if len(self._waiting) == _BATCH:
            self.pack()

    def pack(self) -> PackedTexts:
        """Pack what was added; return all texts."""
        self.packed.extend(self._waiting)
        self._waiting = []
        return self.packed


# ---- disBatch ------------------------------------------------------------------------


class DisBatchTaskList(ListTaskList):
    """A handler for task files of disBatch: PREFIX, SUFFIX, BARRIER, REPEAT.

    A task's text is its command with prefix and suffix.  In front of one of a REPEAT
    stands ``DISBATCH_REPEAT_INDEX=…; ``.  Raises TasklistFileError for a mistake in the
    list.
    """

    def __init__(self, path: str, workdir: str) -> None:
        reader, self.unended_place = _DisBatchReader(), ""
        for place, line in _read_places(path):
            before = len(reader.texts)
            reader.take(place, line)
            if not place.is_ended and len(reader.texts) > before:
                self.unended_place = place.name
        self.path = path
        self.workdir = workdir
        self.tasks = reader.texts.pack()
        self.constraints = reader.constraints
        self._numbers = reader.numbers
        self._name = shlex.quote(os.path.basename(path))

    def __getitem__(self, taskid: int, /) -> str:
        first = 3 * taskid
        number, line, repeat = self._numbers[first : first + 3]
        return (
            f"export DISBATCH_TASKID={number} DISBATCH_TASKID_ZP={number:06}"
            f" DISBATCH_STREAM_INDEX={line} DISBATCH_STREAM_INDEX_ZP={line:06}"
            f" DISBATCH_REPEAT_INDEX={repeat} DISBATCH_REPEAT_INDEX_ZP={repeat:06}"
            f" DISBATCH_NAMETASKS={self._name} DISBATCH_JOBID=$MPIFARM_FARM"
            " DISBATCH_ENGINE_RANK=$MPIFARM_RANK"
            " DISBATCH_CYLINDER_RANK=$MPIFARM_WORKER"
            f" DISBATCH_CORES_PER_TASK=$OMP_NUM_THREADS; {self.tasks[taskid]}"
        )


MAX_TASKS: Final = 100_000_000
"""The number of tasks that the REPEATs of a list may make."""

_DISBATCH: Final = "#DISBATCH"
_split_directive = re.compile(r"#DISBATCH ([A-Za-z]+)(?![A-Za-z0-9_])(.*)").fullmatch
_is_comment = re.compile(r"\s*(?:#|\Z)").match
_match_remark = re.compile(
    r"\s*#(\s*)([a-z]+)\s+(PREFIX|SUFFIX|BARRIER|REPEAT|PERENGINE)\b", re.IGNORECASE
).match
_split_repeat = re.compile(
    r"\s+([0-9]{1,15})(?:\s+start\s+([0-9]{1,15}))?(?:\s+step\s+([0-9]{1,15}))?"
    r"(?: (.+))?\s*",
    re.IGNORECASE,
).fullmatch
_is_option = re.compile(r"\s*(?:start|step)\b", re.IGNORECASE).match
_match_number = re.compile(r"\s*([A-Za-z]+)(?:\s+|\s*[=:]\s*)([0-9]+)(?=\s|\Z)").match
"""Finds a word with a number behind it, where a command begins."""


def _find_near(word: str, *names: str) -> str:
    """Return the one of `names` that `word` surely misspells, or ""."""
    from mpifarm.model.nearness import find_near_word  # for odd words only

    return find_near_word(word, names)


def _seems_directive(line: str) -> bool:
    """Return whether a comment is nearly a directive of disBatch."""
    if not (found := _match_remark(line)):
        return False
    blank, name, word = found.groups()
    # "# disbatch repeats" may be prose.
    is_meant = not blank or word.isupper()
    return is_meant and _find_near(name.upper(), "DISBATCH") != ""


def _seems_check(words: list[str]) -> bool:
    """Return whether the words behind BARRIER are a name, and may mean CHECK.

    disBatch takes a word that begins with CHECK for a check and others for a name.
    """
    upper = [word.upper() for word in words]
    if words[:1] in ([], ["CHECK"]):
        return False
    is_near = words[0].startswith("CHECK") or _find_near(upper[0], "CHECK") != ""
    return is_near or "CHECK" in upper


class _DisBatchReader:
    """What the lines of a task file of disBatch make, one after the other."""

    def __init__(self) -> None:
        self.texts = _Texts()
        self.constraints = Constraints(
            is_foreign=True, barrier_words=f"{_DISBATCH} BARRIER"
        )
        self.numbers = array("q")
        """For each task, its number to disBatch, that of its line, and its index in a
        REPEAT, or -1."""
        self._prefix = self._suffix = ""
        self._number = 0
        """The next number that disBatch gives, to a task or to a barrier."""
        self._since = 0
        """The first task behind the last barrier."""

    def take(self, place: _Place, line: str) -> None:
        """Take the next line; raise TasklistFileError for a mistake in it."""
        if line.startswith(_DISBATCH):
            self._take_directive(place, line)
        elif not _is_comment(line):
            self._add(place, f"{self._prefix}{line}{self._suffix}".strip(), -1)
        else:
            remedy = "write #DISBATCH BARRIER, which is the order that it knows"
            _refuse_plain_directive(place, line, "disBatch", remedy)
            if _seems_directive(line):
                place.refuse(
                    f"is a comment to disBatch ({shorten(line)}): begin the line with"
                    " #DISBATCH and one blank, or change the comment's words"
                )

    def _add(self, place: _Place, text: str, repeat: int) -> None:
        _refuse_limit(place, text, "disBatch")
        self.texts.add(text)
        self.numbers.extend((self._number, place.number, repeat))
        self._number += 1

    def _take_directive(self, place: _Place, line: str) -> None:
        found = _split_directive(line)
        match found.group(1).upper() if found else "":
            case "PREFIX":
                self._prefix = _value_of(place, "PREFIX", line)
            case "SUFFIX":
                self._suffix = _value_of(place, "SUFFIX", line)
            case "BARRIER":
                self._take_barrier(place, line)
            case "REPEAT":
                self._take_repeat(place, line)
            case "PERENGINE" | "PERNODE" as word:
                place.refuse(
                    f"has #DISBATCH {word}, a command for each node, which mpifarm does"
                    " not run: run it in the job script before and after the farm"
                    " (srun --ntasks-per-node=1 …), and take the line out"
                )
            case _:
                place.refuse(
                    f"has a directive that disBatch does not know ({shorten(line)}):"
                    " write PREFIX, SUFFIX, BARRIER or REPEAT after #DISBATCH and one"
                    " blank"
                )

    def _take_barrier(self, place: _Place, line: str) -> None:
        words = line.split()[2:]
        if _seems_check(words):
            place.refuse(
                f"has {shorten(' '.join(words))} after BARRIER, which may be a name or"
                " mean CHECK: write #DISBATCH BARRIER CHECK if a failed task is to keep"
                " the rest from running, else a name that is less like it"
            )
        first, checks = len(self.texts), words[:1] == ["CHECK"]
        self.constraints.add_barrier(first, checks=checks, since=self._since)
        self._since = first
        self._number += 1

    def _take_repeat(self, place: _Place, line: str) -> None:
        found = _split_repeat(line[len(f"{_DISBATCH} REPEAT") :])
        command = (found.group(4) or "") if found else ""
        if found is None or _is_option(command):
            place.refuse(
                f"has a REPEAT that is not understood ({shorten(line)}): write"
                " #DISBATCH REPEAT N start S step T COMMAND, of which start, step and"
                " COMMAND may be left out"
            )
        _refuse_near_option(place, command)
        text = f"{self._prefix}{command}{self._suffix}".strip()
        count, index, step = (int(found.group(each) or 0) for each in (1, 2, 3))
        if found.group(3) is None:
            step = 1
        if count and not text:
            place.refuse(
                "has a REPEAT without a command, and there is no PREFIX and no SUFFIX:"
                " write the command behind the numbers"
            )
        _refuse_limit(place, text, "disBatch")
        if len(self.texts) + count > MAX_TASKS:
            place.refuse(
                f"makes more than {MAX_TASKS} tasks by its REPEAT: correct the number,"
                " or let each task do a part of the indices"
            )
        for _ in range(count):
            self._add(place, f"DISBATCH_REPEAT_INDEX={index}; {text}", index)
            index += step


def _refuse_near_option(place: _Place, command: str) -> None:
    """Refuse a command of a REPEAT that begins with a misspelt option of the REPEAT."""
    found = _match_number(command)
    option = _find_near(found.group(1).lower(), "start", "step") if found else ""
    if found and option:
        typed, number = found.group().strip(), found.group(2)
        place.refuse(
            f"has {typed!r} in its REPEAT, where the command begins: write {option}"
            f" {number}, or, if it is the beginning of a command, env {typed}"
        )


def _value_of(place: _Place, word: str, line: str) -> str:
    """Return the text of a PREFIX or SUFFIX, which begins behind one blank."""
    value = line[len(f"{_DISBATCH} {word}") :]
    if not value.startswith(" "):
        place.refuse(
            f"has no blank after {word}, so that disBatch passes over it: write"
            f" #DISBATCH {word} and a blank before the text, and for none"
            f" #DISBATCH {word} with a blank at the end"
        )
    return value[1:]


# ---- GREASY --------------------------------------------------------------------------


class GreasyTaskList(ListTaskList):
    """A handler for task files of GREASY: ``[# 1-3, 7 #]`` and ``[@ dir @]``.

    A task's text is its line.  Raises TasklistFileError for a mistake in the list.
    """

    def __init__(self, path: str, workdir: str) -> None:
        texts = _Texts()
        constraints = Constraints(is_foreign=True)
        taskids = array("q", [_NO_TASK])
        """The id of the task in each line, by the line's number."""
        waits, self.unended_place = 0, ""
        for place, line in _read_places(path):
            text = line.strip()
            if not text or text.startswith("#"):
                remedy = "write [# … #], with the numbers of lines, before the command"
                _refuse_plain_directive(place, line, "GREASY", remedy)
                taskids.append(_NO_TASK)
                continue
            marks = _split_marks(place, text)
            _refuse_limit(place, marks.command, "GREASY")
            if marks.waits_for and (ids := _find_ids(place, marks.waits_for, taskids)):
                constraints.after[len(texts)] = ids
                waits += len(ids)
                if waits > MAX_WAITS:
                    place.refuse(
                        f"lets tasks wait for more than {MAX_WAITS} others in all:"
                        " write stages as a plain list, with #BARRIER between them"
                    )
            taskids.append(len(texts))
            texts.add(text)
            self.unended_place = "" if place.is_ended else place.name
        self.path = path
        self.workdir = workdir
        self.tasks = texts.pack()
        self.constraints = constraints

    def __getitem__(self, taskid: int, /) -> str:
        marks = _split_marks(_Place(self.path, 0), self.tasks[taskid])
        if not marks.directory:
            return marks.command
        # Never elsewhere: GREASY's "cd DIR && a; b" runs b in another directory.
        return f"cd {marks.directory} || exit; {marks.command}"


_NO_TASK: Final = -1

_has_comment = re.compile(r"(?:\A|\s)#").search
"""Finds a "#" that would make a comment of all that stands behind a directory."""


class _Marks(NamedTuple):
    """The parts of a line of GREASY."""

    waits_for: str
    """The text of ``[# … #]``, "" without it."""
    directory: str
    command: str


def _split_marks(place: _Place, text: str) -> _Marks:
    """Split a line that is not blank into its marks, in any order, and its command."""
    found: dict[str, str] = {}
    rest = text
    while (kind := rest[:2]) in ("[#", "[@"):
        inner, end, behind = rest[2:].partition(f"{kind[1]}]")
        if not end:
            place.refuse(
                f'has "{kind}" without "{kind[1]}]" ({shorten(text)}): write both, and'
                " the command behind them"
            )
        if kind in found:
            place.refuse(f'has "{kind}" twice ({shorten(text)}): write one of them')
        found[kind], rest = inner.strip(), behind.strip()
    if not rest:
        place.refuse(
            f"has no command behind its marks ({shorten(text)}): write it there, or"
            " take the line out"
        )
    if "[@" in rest and re.search(r"\[@.*@\]", rest):
        place.refuse(
            f'has "[@ … @]" behind its beginning ({shorten(text)}), where GREASY would'
            " cut it out of the command: write it at the beginning of the line"
        )
    if "[#" in rest and re.search(r"\[#[^][]*#\]", rest):
        place.refuse(
            f'has "[# … #]" behind its beginning ({shorten(text)}), where it is a part'
            " of the command and lets no task wait: write it at the beginning of the"
            " line"
        )
    directory = found.get("[@", "")
    if "[@" in found and (not directory or _has_comment(directory)):
        place.refuse(f'has no directory in its "[@ … @]" ({shorten(text)}): write one')
    return _Marks(found.get("[#", ""), directory, rest)


_split_wait = re.compile(
    r"\s*(-?)([1-9][0-9]{0,15})(?:\s*-\s*([1-9][0-9]{0,15}))?\s*"
).fullmatch


def _find_ids(place: _Place, waits_for: str, taskids: "array[int]") -> tuple[int, ...]:
    """Return the ids of the tasks that ``[# … #]`` names by their lines."""
    ids: set[int] = set()
    for part in waits_for.removesuffix(",").split(","):
        found = _split_wait(part)
        if found is None or (found.group(1) and found.group(3)):
            place.refuse(
                f'has {shorten(part)} in its "[# … #]": write numbers of lines above'
                " it, as in [# 1-3, 7 #], or how many lines above, as in [# -1 #]"
            )
        ends = [int(each) for each in found.groups()[1:] if each]
        if found.group(1):
            ends = [place.number - ends[0]]
        lines = range(min(ends), max(ends) + 1)
        _check_lines(place, lines, taskids)
        ids.update(taskids[lines.start : lines.stop])
    return tuple(sorted(ids))


def _check_lines(place: _Place, lines: range, taskids: "array[int]") -> None:
    """Refuse lines for which a task can't wait."""
    if lines.start < 1:
        place.refuse(
            f"waits for the line {place.number - lines.start} above it, and there are"
            f" {place.number - 1}: correct its [# … #]"
        )
    if lines.stop > place.number:
        last = lines.stop - 1
        itself = "itself" if last == place.number else f"line {last}"
        place.refuse(
            f"waits for {itself}, but a task can only wait for tasks in lines above it:"
            " correct its [# … #]"
        )
    for number in lines:
        if taskids[number] == _NO_TASK:
            place.refuse(
                f"waits for line {number}, which is blank or a comment: correct its"
                " [# … #] (GREASY counts all lines, blank ones and comments included)"
            )
