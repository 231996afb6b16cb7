"""All timelines of a workdir, merged into one.

Rules of this file: it reads without the lock, and writes nothing.  Memory does not grow
with the number of events.  Farms may append meanwhile, and plain farmers replace a
file: an event that is not whole is passed over.

Events of mpifarm name the host of their process, so that equal pids of two hosts, or of
two farms one after the other, become two numbers.  Those of plain farmers, and of
versions up to 0.4.0, have nothing but a pid: one process in each file.
"""

import codecs
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from mpifarm.model.paths import WorkdirPaths, is_timeline, is_timeline_aside
from mpifarm.store.timeline import (
    COST_OF_NESTING,
    MAX_IN_VAIN,
    encode_json,
    match_attempt,
    show_surrogates,
)
from mpifarm.store.timeline_file import MAX_SALVAGED
from mpifarm.store.tracks import FIRST_SPARE
from mpifarm.system import files

CHUNK = 1 << 20
"""Bytes that are read at once."""

BLOCK = 1 << 18
"""Characters that a block of the merged timeline has at least, but for the last."""

MAX_EVENT = 4 << 20
"""Characters of the longest event that is looked for."""

TRIES = 10
TRY_SECONDS = 0.02
"""Looks at a file without its end, and seconds between: a plain farmer
replaces the whole file for each task."""

_FIRST_SPARE: Final = 2 * FIRST_SPARE
"""Above the spare numbers of each farm."""


def find_timelines(paths: WorkdirPaths) -> list[str]:
    """Return the names of all timelines, those that were moved aside first.

    Raises `StorageError`.
    """
    names = sorted(files.find_names(paths.root))
    aside = [name for name in names if is_timeline_aside(name)]
    return aside + [name for name in names if is_timeline(name)]


class MergedTimeline:
    """The events of the timelines `names`, in the order of the files."""

    def __init__(self, paths: WorkdirPaths, names: Sequence[str]) -> None:
        self.events = 0
        """Events so far, without names and counters."""
        self.notes: list[str] = []
        """Sentences for the user."""
        self._paths = paths
        self._names = names
        self._numbers = Numbers()
        self._named: set[str] = set()
        """The names of processes and threads so far."""
        self._saved: set[int] = set()
        """Hashes of events of files aside, which were saved into another file, too."""

    def blocks(self) -> Iterator[bytes]:
        """Yield the merged array in blocks; raise `StorageError`."""
        begin = "["
        block: list[str] = []
        size = 0
        for name in self._names:
            for text in self._merge(name):
                block += (begin, text)
                begin = ",\n"
                size += len(text)
                if size >= BLOCK:
                    yield "".join(block).encode("utf-8", "replace")
                    block.clear()
                    size = 0
        end = "[]\n" if begin == "[" else "]\n"
        yield ("".join(block) + end).encode("utf-8", "replace")

    def _merge(self, name: str) -> Iterator[str]:
        """Yield the events of one file that no file before it has had."""
        path = self._paths.file(name)
        is_aside = is_timeline_aside(name)
        is_saved = is_aside and files.find_size(path) <= MAX_SALVAGED
        found = Events(path)
        for original, event in found:
            # Plain farmers, and versions up to 0.4.0, escape them.
            text = show_surrogates(original)
            if self._saved and not is_aside and hash(text) in self._saved:
                continue
            if is_saved:
                if hash(text) in self._saved:
                    continue
                self._saved.add(hash(text))
            if isinstance(event, re.Match):
                self.events += 1
                yield self._numbers.apply_to_attempt(text, event, name)
                continue
            renumbered = self._numbers.apply(text, event, name)
            if event["ph"] == "M":
                if renumbered in self._named:
                    continue
                self._named.add(renumbered)
            self.events += event["ph"] == "X"
            yield renumbered
        if found.gave_up:
            self.notes.append(f"{path} is damaged: the events at its end are left out")


Event: TypeAlias = "dict[str, Any] | re.Match[str]"


class Events:
    """The whole events of the file `path`, each with its text, in one iteration.

    An attempt as mpifarm writes it is a match of `match_attempt`: to decode it would
    take three times as long.
    """

    def __init__(self, path: str) -> None:
        self.gave_up = False
        """Whether so much of the file is no event that its rest was not read."""
        self._path = path

    def __iter__(self) -> Iterator[tuple[str, Event]]:
        """Yield the events; raise `StorageError`."""
        try:
            with files.opened(self._path, os.O_RDONLY) as descriptor:
                yield from self._scan(descriptor)
        except FileNotFoundError:
            return
        except OSError as error:
            raise files.storage_error("read", self._path, error) from error

    def _scan(self, descriptor: int) -> Iterator[tuple[str, Event]]:
        decode = json.JSONDecoder().raw_decode
        chunks = _read_chunks(descriptor)
        text, start, in_vain = "", -1, 0
        while True:
            while start < 0:
                text = next(chunks, "")
                if not text:
                    return
                start = text.find("{")
            if attempt := match_attempt(text, start):
                yield text[start : attempt.end()], attempt
                start = text.find("{", attempt.end())
                continue
            try:
                event, after = decode(text, start)
            except (ValueError, RecursionError) as error:
                if len(text) - start < MAX_EVENT and (more := next(chunks, "")):
                    text, start = text[start:] + more, 0
                    continue
                in_vain += _cost_of(error, start)
                if in_vain > MAX_IN_VAIN:
                    self.gave_up = True
                    return
                event, after = None, start + 1
            if (
                type(event) is dict
                and "ph" in event
                and "name" in event
                and "ts" in event
            ):
                yield text[start:after], event
            start = text.find("{", after)


def _cost_of(error: Exception, start: int) -> int:
    """Return the characters that were read in vain, as in `timeline.salvage`."""
    if isinstance(error, json.JSONDecodeError):
        return error.pos - start + error.pos // 32
    return COST_OF_NESTING


def _read_chunks(descriptor: int) -> Iterator[str]:
    """Yield a file's text in parts; wait for the end that a plain farmer writes now."""
    _await_end(descriptor)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while chunk := os.read(descriptor, CHUNK):
        if text := decoder.decode(chunk):
            yield text


def _await_end(descriptor: int) -> None:
    """Wait until an array ends in ``]``, or for `TRIES` times `TRY_SECONDS`."""
    for _ in range(TRIES):
        size = os.fstat(descriptor).st_size
        end = os.pread(descriptor, 64, max(0, size - 64)).rstrip()
        if end.endswith(b"]"):
            return
        time.sleep(TRY_SECONDS)


class Numbers:
    """The ``pid`` and ``tid`` of the merged timeline.

    Threads of different processes get different numbers, too: some viewers name a
    thread by its ``tid`` alone.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._farms: dict[tuple[int, str, str], int] = {}
        """The number of each process that was named, by pid, host and farm."""
        self._processes: dict[tuple[int, str], int] = {}
        """The present number of each pid, by its host or else its file."""
        self._threads: dict[tuple[int, int], int] = {}
        """The number of each thread, by the number of its process and by tid."""
        self._places: dict[tuple[str, str, str], str] = {}
        """The present numbers of attempts, by what they were, host and file."""

    def apply_to_attempt(self, text: str, found: "re.Match[str]", source: str) -> str:
        """Return the text of an attempt as mpifarm writes it, with its numbers."""
        place, host = found.groups()
        renumbered = self._places.get((place, host, source))
        if renumbered is None:
            # Its numbers alone are an event of the same process and thread.
            event = json.loads(f'{{{place} "name": "", "args": {{"host": {host}}}}}')
            renumbered = self.apply(place, event, source)
            self._places[place, host, source] = renumbered
        return text if renumbered == place else text.replace(place, renumbered)

    def apply(self, text: str, event: dict[str, Any], source: str) -> str:
        """Return the text of an event, encoded anew if its numbers change."""
        pid, tid, args = event.get("pid"), event.get("tid"), event.get("args")
        if type(pid) is not int or type(args) is not dict:
            return text
        host, farm = str(args.get("host", "")), str(args.get("farm", ""))
        place = host or source
        if farm and event["name"] == "process_name":
            named = (pid, host, farm)
            if named not in self._farms:
                self._farms[named] = self._take(pid)
            self._processes[pid, place] = self._farms[named]
            self._places.clear()
        process = self._processes.get((pid, place))
        if process is None:
            process = self._processes[pid, place] = self._take(pid)
        if type(tid) is int:
            thread = self._threads.get((process, tid))
            if thread is None:
                thread = process if tid == pid else self._take(tid)
                self._threads[process, tid] = thread
            if process == pid and thread == tid:
                return text
            old = f'"pid": {pid}, "tid": {tid},'
            if text.count(old) == 1:  # As all farmers write it: twice as fast.
                return text.replace(old, f'"pid": {process}, "tid": {thread},')
            event["tid"] = thread
        elif process == pid:
            return text
        event["pid"] = process
        return encode_json(event)

    def _take(self, number: int) -> int:
        """Return `number`, or a spare number if it is taken."""
        if number in self._taken:
            number = _FIRST_SPARE + len(self._taken)
        self._taken.add(number)
        return number
