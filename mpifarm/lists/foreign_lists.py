"""Warnings about a list that was written for another tool, or as a script.

Rules of this file: the texts of a list in, warnings out; only `check_list` reads a
file, for line numbers.  A million lines must cost little.  So patterns over the bytes
choose the lines that are checked, and only in blocks of the list that have one of the
marks in `_MARKED`.  Faults without a mark (``do``, ``cd``, ``export``) are found at
both ends of the list, where a script has them.
"""

import re
import shlex
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from mpifarm.lists.line_faults import (
    CONDORS,
    QUOTE,
    WHOLE_COMMANDS,
    Fault,
    LineChecker,
    fault_of_script,
)
from mpifarm.model.packed_texts import PackedTexts
from mpifarm.order.directives import find_misspelt
from mpifarm.tasklists import end_ids, find_line_numbers


class LineWarning(NamedTuple):
    """A fault at its place in a list."""

    fault: Fault
    taskid: int | None
    """None for a comment line; then `line` is known."""
    line: int = 0
    """The number of the line from 1; 0 until it is known."""


def find_foreign(texts: PackedTexts, checker: LineChecker) -> list[LineWarning]:
    """Return a warning for the first line with each kind of fault.

    A second line with an open quote makes that fault certain.
    """
    found: dict[str, LineWarning] = {}
    for each in (*_find_in_remarks(texts.remarks), *_find_in_texts(texts, checker)):
        kind = each.fault.kind
        first = found.setdefault(kind, each)
        if kind == QUOTE and first.taskid != each.taskid:
            # One open quote may be a slip, and its task fails with a message.  Between
            # two open quotes are lines that run, though they are text.
            found[kind] = first._replace(fault=first.fault._replace(is_certain=True))
    return list(found.values())


# ---- the lines that are checked -----------------------------------------------------

_PREFIXES: Final = (
    *("LAUNCHER_", "SLURM_", "SGE_TASK_", "PBS_", "MOAB_", "LSB_", "OAR_", "PJM_"),
    *("DISBATCH_", "GREASY_", "PARALLEL_", "HQ_", "FLUX_", "AWS_BATCH_"),
    *("JOB_COMPLETION_", "CLOUD_RUN_", "BATCH_TASK_", "PMI_", "PMIX_", "PMI2_"),
    *("OMPI_", "MV2_", "PALS_", "MPI_LOCAL"),
)
_VARIABLE = re.compile(
    rb"\$(?:\{?[#!]?((?:%s)[A-Za-z0-9_]+)|\(\(|\[|\((?:%s)\))"
    % ("|".join(_PREFIXES).encode(), "|".join(CONDORS).encode())
)
_BEGINNINGS: Final = frozenset(
    f"${between}{name}".encode()[:3]
    for between, names in (
        *((sign, _PREFIXES) for sign in ("", "{", "#", "!", "{#", "{!")),
        ("((", ("",)),
        ("(", CONDORS),
    )
    for name in names
)
"""The first three bytes of each text that `_VARIABLE` finds, except ``$[``."""
_BEGINNING = re.compile(rb"\$..", re.DOTALL)
_MAX_KNOWN: Final = 3


class _SameDollars:
    """The beginnings of variables that need no check, learned from earlier blocks.

    A list with ``$HOME`` in each line then costs a third of the time.
    """

    def __init__(self) -> None:
        self._known: set[bytes] = set()
        """Up to `_MAX_KNOWN` texts of three bytes, with which `_VARIABLE` never
        begins."""

    def has_only_known(self, block: bytes) -> bool:
        """Return whether `_VARIABLE` surely finds nothing in a block.

        If not, learn harmless beginnings from the block.
        """
        known = self._known
        if known and sum(map(block.count, known)) == block.count(b"$"):
            return True
        for hit in _BEGINNING.finditer(block):
            beginning = hit.group()
            if beginning in known:
                continue
            is_looked_at = beginning in _BEGINNINGS or beginning.startswith(b"$[")
            if is_looked_at or len(known) == _MAX_KNOWN:
                break
            known.add(beginning)
        return False


_MARKED: Final = (
    (b"$", _VARIABLE),
    (b"&", re.compile(rb"&[ \t]*[\n#]")),
    (b"\\", re.compile(rb"\\\n")),
    (b"<", re.compile(rb"<<(?!<)")),
    (b"\xef", re.compile(rb"(?m)^\xef\xbb\xbf")),
)
"""The pattern that is searched in blocks with a mark."""


def _find_in_texts(texts: PackedTexts, checker: LineChecker) -> Iterator[LineWarning]:
    """Yield a warning for each fault at the ends of a list and in marked blocks.

    A line may be checked, and its faults yielded, more than once.
    """
    for taskid in end_ids(texts):
        for fault in checker.faults_of(texts[taskid]):
            yield LineWarning(fault, taskid)
    dollars = _SameDollars()
    for mark, pattern in _MARKED:
        for begin, block in texts.blocks_with(mark):
            if mark == b"$" and dollars.has_only_known(block):
                continue
            yield from _find_in_block(begin, block, pattern, checker)


def _find_in_block(
    begin: int, block: bytes, pattern: re.Pattern[bytes], checker: LineChecker
) -> Iterator[LineWarning]:
    for hit in pattern.finditer(block):
        name = hit.group(1) if hit.re.groups else None
        if name is not None and not checker.is_missing(name.decode()):
            continue
        start = block.rfind(b"\n", 0, hit.start()) + 1
        line = block[start : block.find(b"\n", hit.start())]
        for fault in checker.faults_of(line.decode("utf-8", "surrogateescape")):
            yield LineWarning(fault, begin + block.count(b"\n", 0, hit.start()))


# ---- comments that mean something to another tool -----------------------------------

_DISBATCH = re.compile(r"#DISBATCH\b\s*(PREFIX|SUFFIX|BARRIER|REPEAT|PERENGINE)?")
_BATCH = re.compile(r"#(?:SBATCH|PBS|BSUB|OAR|PJM|MSUB|COBALT|HQ|flux:|FLUX:|\$ ?-)")

_NEAR_ORDER = re.compile(r"#\s*(BARRIER|AFTER)\b", re.IGNORECASE)


def _find_in_remarks(remarks: Iterable[tuple[int, str]]) -> Iterator[LineWarning]:
    for number, text in remarks:
        if fault := _find_directive(text):
            yield LineWarning(fault, None, number)


def _find_directive(text: str) -> Fault | None:
    if found := _DISBATCH.match(text):
        name = " ".join(filter(None, ("#DISBATCH", found.group(1))))
        what = f"is a directive of disBatch ({name}), and a comment in a plain list"
        return Fault("disBatch", what, "give --tasklist disbatch")
    if found := _BATCH.match(text):
        what = f"is for a batch system ({found.group().rstrip(' -')})"
        return fault_of_script("directive", what)
    if near := _find_near_order(text):
        return near
    if text.startswith("#SWARM"):
        what = "is for swarm (#SWARM), and a comment here"
        remedy = "give its options to mpifarm or to the job"
        return Fault("swarm", what, remedy, is_certain=False)
    return None


def _find_near_order(text: str) -> Fault | None:
    """Return the fault of a line that is nearly a directive of the list itself."""
    seems = f"seems to say what waits ({text[:40]!r}), and is"
    if text.startswith((" ", "\t")):
        what = f"{seems} a task of its own, because of the blank in front"
        word = text.split(maxsplit=1)[0]
        remedy = f"write {word} at the beginning of the line, if it is to count"
    elif found := _NEAR_ORDER.match(text):
        what = f"{seems} a comment"
        word = found.group(1).upper()
        remedy = f"write #{word}, without a blank and in capitals, if it is to count"
    elif near := find_misspelt(text):
        what = f"{seems} a comment"
        remedy = f"write {near}, if it is to count"
    else:
        return None
    return Fault("order", what, remedy, is_certain=False)


# ---- sentences ----------------------------------------------------------------------


def check_list(
    texts: PackedTexts, path: str, checker: LineChecker
) -> list[tuple[str, bool]]:
    """Return the warnings about a list as sentences, each with whether it is certain.

    Read the list at `path` again for line numbers; raises OSError.  A list with an
    uncertain warning may be right.  A script that is not for a shell gets one sentence
    in all.
    """
    if language := find_language(texts):
        return [(_language_sentence(language, path), True)]
    found = find_foreign(texts, checker)
    taskids = [each.taskid for each in found if each.taskid is not None]
    numbers = find_line_numbers(path, taskids)
    placed = [
        each if each.taskid is None else each._replace(line=numbers.get(each.taskid, 0))
        for each in found
    ]
    is_script = any(text.startswith("#!") for _, text in texts.remarks[:1])
    return describe(placed, path, begins_as_script=is_script)


AS_IS: Final = "--as-is runs the list as it stands"
"""The end of the sentence about a list that is refused."""

RUNS: Final = "the list runs as it stands, and with --as-is without this WARNING"
"""The end of the sentence about a list that runs."""

_OTHER_LANGUAGE = re.compile(
    r"#!\s*(?:\S*/)?(?:env\s+(?:-\S+\s+)*)?(?:\S*/)?"
    r"(python[\d.]*|perl|ruby|Rscript|julia|node|php|[gmn]?awk|lua|tclsh|octave|gnuplot"
    r"|csh|tcsh|fish)\b"
)
"""A first line by which a program other than a POSIX shell runs the file."""


def find_language(texts: PackedTexts) -> str:
    """Return the language that the list's ``#!`` names, "" for a shell or none."""
    number, text = texts.remarks[0] if texts.remarks else (0, "")
    found = _OTHER_LANGUAGE.match(text) if number == 1 else None
    return found.group(1) if found else ""


def _language_sentence(language: str, path: str) -> str:
    return (
        f"line 1 of {path} makes it a script of {language}, and here each line would "
        "be a command for the shell: make a list in which each line runs the script"
    )


def describe(
    warnings: Iterable[LineWarning], path: str, *, begins_as_script: bool = False
) -> list[tuple[str, bool]]:
    """Return a sentence for each warning, with whether it is certain.

    Certain ones come first.  Two or more warnings that mark the list as a script share
    one sentence, and so does one in a list with a ``#!`` line (`begins_as_script`).
    """
    ordered = sorted(warnings, key=lambda each: each.line)
    of_script = [each for each in ordered if each.fault.is_of_script]
    single = [each for each in ordered if not each.fault.is_of_script]
    if len(of_script) + begins_as_script > 1:
        is_certain = any(each.fault.is_certain for each in of_script)
        sentences = [(_script_sentence(of_script, path), is_certain)]
    else:
        sentences, single = [], [*single, *of_script]
    sentences += [(_sentence(each, path), each.fault.is_certain) for each in single]
    return sorted(sentences, key=lambda each: not each[1])


def _sentence(warning: LineWarning, path: str) -> str:
    remedy = warning.fault.remedy.replace("FILE", shlex.quote(path))
    # A list with an uncertain fault runs, and what fails then is named by its id.
    is_run = warning.taskid is not None and not warning.fault.is_certain
    task = f" (task {warning.taskid})" if is_run else ""
    return f"line {warning.line} of {path}{task} {warning.fault.what}: {remedy}"


def _script_sentence(warnings: Iterable[LineWarning], path: str) -> str:
    shown = "; ".join(f"line {each.line} {each.fault.what}" for each in warnings)
    return (
        f"{path} is a script, and here each line would be a task of its own ({shown}): "
        f"{WHOLE_COMMANDS}"
    )
