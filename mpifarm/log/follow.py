"""``mpifarm log -f``: one task, until nothing more comes of it.

Rules of this file: it asks seldom what has become of the task, since that reads the
whole workdir, and looks often at the output.
"""

import time

from mpifarm.errors import InputError
from mpifarm.log.show import Show, close_all, outputs_of
from mpifarm.log.words import NO_FARM, Words
from mpifarm.workdir.examining import find_claim, observer
from mpifarm.workdir.outputs import Output, OutputReader, find_outputs
from mpifarm.workdir.whereabouts import At, Sighting

PAUSE = 0.1
"""Seconds between two looks at an output that is followed."""
LOOK = 0.5
"""Seconds between two looks for an attempt that has begun."""
ASK = 1.0
"""Seconds between two looks at what has become of the task, at least; a look takes a
tenth of the time at most."""

_CTRL_C = "; this waits for it (Ctrl-C ends that)"


def follow(show: Show, taskid: int) -> None:
    """Show what is there and what comes, until the task has ended.

    Raises `InputError` where nothing is, and nothing is to come.
    """
    words = show.words
    found = words.look_up(taskid)
    readers = show.open(taskid, split=False)
    try:
        if not (readers or _may_begin(found)):
            raise InputError(words.explain(taskid))
        for number, reader in enumerate(readers):
            show.begin(reader, b"", is_first=not number)
        _say_what_it_waits_for(words, taskid, found, has_begun=bool(readers))
        found = _Following(show, taskid, readers).run(found)
        words.note_doubt(taskid, outputs_of(readers))
    finally:
        close_all(readers)
    _say_what_is_left(words, taskid, found)
    words.remark()


def _say_what_it_waits_for(
    words: Words, taskid: int, found: Sighting, *, has_begun: bool
) -> None:
    """Silence would look like a command that hangs."""
    if not _may_begin(found) or (has_begun and found.at is At.HELD):
        return
    if not has_begun:
        sentence = words.reason(found)
    elif found.at is At.WAITING:
        sentence = "waits in toprocess, to run again"
    elif found.at is At.UNTOLD:
        sentence = "may run again, as far as the files tell"
    else:
        sentence = "is in no file: a PyTaskFarmer has it, or lost it"
    words.complain(f"task {taskid} {sentence}{_CTRL_C}")


def _say_what_is_left(words: Words, taskid: int, found: Sighting) -> None:
    """Why nothing more comes, of a task that has not ended."""
    holder = found.holder
    if holder and not holder.may_live:
        words.complain(
            f"task {taskid} has not ended: farm {holder.farm} had it and died; the"
            " farm's command, given again, runs it again"
        )
    elif found.at is At.WAITING:
        rest = "" if found.may_start else NO_FARM
        words.complain(f"task {taskid} has not ended: it waits in toprocess{rest}")


class _Following:
    """Shows what comes of one task; `readers` are those of its attempts so far."""

    def __init__(self, show: Show, taskid: int, readers: list[OutputReader]) -> None:
        self._show = show
        self._words = show.words
        self._taskid = taskid
        self._readers = readers

    def run(self, found: Sighting) -> Sighting:
        """Until nothing more is to come; returns where the task is then."""
        ask_at = look_at = 0.0
        while True:
            # Before the last look at the output: what ends now was written before.
            has_ended = False
            now = time.monotonic()
            if now >= ask_at:
                found, has_ended = self._ask(found)
                took = time.monotonic() - now
                ask_at = now + took + max(ASK, 9 * took)
            came = bool(self._readers) and self._show.drain(self._readers[-1])
            if has_ended or (not came and now >= look_at):
                look_at = now + LOOK
                came = self._show_new() or came
            if has_ended:
                return found
            if not came:
                self._show.sink.rest(PAUSE)

    def _ask(self, found: Sighting) -> tuple[Sighting, bool]:
        """Where the task is now, and whether nothing more is to come of it."""
        words, taskid = self._words, self._taskid
        if found.holder is None:
            # What ends between the two looks is shown before the third.
            return words.look_up(taskid), not _may_begin(found)
        claim = find_claim(words.place.workdir, observer(), found.holder.farm)
        if claim is not None and claim.may_live and taskid in claim.held:
            return found, False
        found = words.look_up(taskid)
        runs_again = found.at in (At.HELD, At.WAITING) and _may_begin(found)
        return found, not runs_again

    def _show_new(self) -> bool:
        """Show attempts that have begun since; whether there are any."""
        readers = self._readers
        known = {_key_of(reader.output) for reader in readers}
        came = False
        for output in find_outputs(self._words.logs, self._taskid, split=False):
            is_known = _key_of(output) in known or any(
                reader.reads(output.path) for reader in readers if not output.source
            )
            if is_known:
                continue
            try:
                reader = OutputReader(output)
            except OSError:  # it has just moved: at the next look
                continue
            self._show.begin(reader, b"", is_first=not readers)
            readers.append(reader)
            came = True
        return came


def _may_begin(found: Sighting) -> bool:
    if found.holder is not None:
        return found.holder.may_live
    if found.at in (At.WAITING, At.UNTOLD):
        return found.may_start
    return found.at is At.NOWHERE


def _key_of(output: Output) -> tuple[object, ...]:
    return output.source.key if output.source else (output.path,)
