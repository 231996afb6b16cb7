"""A disk that fails for a while: what is given again ends as if nothing had been.

Rules of this file: no process, no sleep.  Every call on the file system fails, one
after the other; it may have done nothing, its work by half, or all of it (NFS loses
answers), and those behind it, which clean up, may fail with it.
"""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from mpifarm.audit.retry import Wanted, retry
from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import NOT_RUN, Outcome, Result
from mpifarm.order.constraints import Constraints
from mpifarm.store import claims
from mpifarm.store.claims import ClaimLostError, OtherClaims
from mpifarm.store.timeline import cut_pieces, find_end, is_part
from mpifarm.system import files
from tests.unit.store.test_custom_store import Farms
from tests.unit.store_fakes import (
    FakeLock,
    PlainFarmer,
    Site,
    ended,
    instead_of_os,
)
from tests.workdir_files import split_attempts

MAX_CALLS = 300
TRIES = 12

BEFORE, HALF, BEHIND = "nothing was done", "half was done", "all was done"


class BadDisk:
    """Stands in for ``os``: call `at` fails with `number`, and `more` behind it."""

    CALLS = frozenset(
        {
            *("pwrite", "pread", "fsync", "rename", "unlink", "ftruncate", "truncate"),
            *("mkdir", "utime", "fchmod", "fstat", "stat", "listdir", "close", "open"),
        }
    )

    def __init__(self, at: int, more: int, number: int, moment: str) -> None:
        self.calls = 0
        self._bad = range(at, at + 1 + more)
        self._number = number
        self._moment = moment

    @property
    def has_struck(self) -> bool:
        return self.calls >= self._bad.start

    def __getattr__(self, name: str) -> object:
        value = getattr(os, name)
        return self._counted(name, value) if name in self.CALLS else value

    def _counted(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **others: object) -> object:
            self.calls += 1
            if self.calls not in self._bad:
                return call(*args, **others)
            if name == "close" or (self._moment == BEHIND and name != "open"):
                call(*args, **others)
            elif self._moment == HALF and name == "pwrite":
                descriptor, content, offset = args
                assert isinstance(content, memoryview)
                call(descriptor, content[: len(content) // 2], offset)
            raise OSError(self._number, os.strerror(self._number))

        return counted


@contextmanager
def bad_disk(_patch: pytest.MonkeyPatch, *how: object) -> Iterator[BadDisk]:
    disk = BadDisk(*how)  # type: ignore[arg-type]
    with instead_of_os(disk, claims):
        yield disk


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def sites(tmp_path):
    numbers = iter(range(10**6))
    return lambda: Site(tmp_path / f"site {next(numbers)}")


# ---- what is tried ------------------------------------------------------------------


def begin(site, others=()):
    """A farm that holds 0 to 5 of 12; 6 and 7 are finished and failed."""
    site.write("toprocess", range(12))
    workdir = site.open()
    workdir.transact((), (), 8)
    workdir.transact([ended(6), ended(7, 1)], (), 0)
    if others:
        site.write("finished", [6, *others])
    return workdir


def everything(workdir, prepare):
    """Record, put back what is finished and what is not, and take."""
    arguments = [ended(0), ended(1, 3), ended(2)], (3, 4), 2
    if prepare:
        workdir.prepare(*arguments)
    return workdir.transact(*arguments).taken


def with_others(workdir, prepare):
    """The same where another farmer has finished what is put back."""
    return everything(workdir, prepare)


def failed_only(workdir, prepare):
    return workdir.transact([ended(0, 9), ended(5, 9)], (), 0).taken


def take_only(workdir, prepare):
    if prepare:
        workdir.prepare((), (), 3)
    return workdir.transact((), (), 3).taken


def begin_not_run(site):
    """A farm that holds 0, 2 and 3, and 6 to 11, which wait for 1: that has failed,
    and a retry puts it back before they are recorded as not run.
    """
    site.constraints = Constraints(after=dict.fromkeys(range(6, 12), (1,)))
    workdir = site.open()
    workdir.transact((), (), 6)
    done = workdir.transact([ended(1, 1)], (4, 5), 4)
    assert [taskid for taskid, _ in done.not_run] == [*range(6, 12)]
    lock = FakeLock(site.root / "lock")
    known = (str(site.root), site.tasks, lock, site.machine(9), Wanted())
    assert retry(*known, site.constraints).moved == [1]
    return workdir


def reopening(workdir, prepare):
    results = []
    for taskid in range(6, 12):
        result = Result(taskid, 0, Outcome.NOT_RUN, 1, 0, 0.0, 0.0, 9.0, NOT_RUN)
        results.append(ended(taskid, 1)._replace(result=result))
    arguments = [ended(0), *results], (2,), 2
    if prepare:
        workdir.prepare(*arguments)
    done = workdir.transact(*arguments)
    return done.taken, done.reopened


TRANSACTIONS = [everything, with_others, failed_only, take_only, reopening]


def start(site, transaction):
    if transaction is reopening:
        return begin_not_run(site)
    return begin(site, others=[3] if transaction is with_others else ())


def contents(site):
    """What must be the same: all but claims and temporary files."""
    return {
        name: content
        for name, content in site.files().items()
        if not name.startswith(("claims/", "toprocess."))
    }


def held_on_disk(site, workdir):
    """What another farm reads out of the claim."""
    others = OtherClaims(WorkdirPaths(str(site.root)), farm="")
    others.poll()
    assert others.claims[workdir.farm].damage is None
    return set(others.claims[workdir.farm].journal.held)


def try_until_done(transaction, workdir, prepare):
    """What the leader does, as far as the workdir sees it."""
    for _ in range(TRIES):
        try:
            return transaction(workdir, prepare)
        except StorageError:
            continue
    pytest.fail("it never succeeded")


# ---- for a while --------------------------------------------------------------------


@pytest.mark.parametrize("more", [0, 1, 2, 5])
@pytest.mark.parametrize("moment", [BEFORE, HALF, BEHIND])
@pytest.mark.parametrize("transaction", TRANSACTIONS)
def test_given_again_it_leaves_what_it_would_have_left(
    transaction, moment, more, sites, monkeypatch
):
    prepare = more % 2 == 0
    number = errno.ENOSPC if more % 2 else errno.EIO
    model = sites()
    expected_taken = transaction(start(model, transaction), prepare)
    for at in range(1, MAX_CALLS):
        site = sites()
        workdir = start(site, transaction)
        with bad_disk(monkeypatch, at, more, number, moment) as disk:
            taken = try_until_done(transaction, workdir, prepare)
        assert taken == expected_taken, at
        assert_same_contents(site, model, at)
        assert site.violations() == [], at
        assert held_on_disk(site, workdir) == workdir.held, at
        assert_it_can_be_ended(site, workdir)
        if not disk.has_struck:
            return
    pytest.fail("the transaction never came to its end")


def assert_same_contents(site, model, at):
    now, then = contents(site), contents(model)
    # nobody counts these lines: one may be torn, or stand there twice
    assert whole_attempts(now) == whole_attempts(then)
    assert now == then, at


def whole_attempts(contents):
    attempts, _ = split_attempts(contents.pop("attempts.tsv"))
    return {attempt for attempt in attempts if attempt.farm.endswith("0000001")}


def assert_it_can_be_ended(site, workdir):
    rest = [ended(taskid) for taskid in sorted(workdir.held)]
    workdir.transact(rest, (), 0)
    assert workdir.close()
    assert not list((site.root / "claims").iterdir())
    assert not list(site.root.glob("toprocess.*"))
    finished = site.ids("finished")
    assert len(finished) == len(set(finished))


# ---- for good -----------------------------------------------------------------------


@pytest.mark.parametrize("moment", [BEFORE, HALF, BEHIND])
@pytest.mark.parametrize("transaction", TRANSACTIONS)
def test_where_it_never_works_again_the_next_start_is_right(
    transaction, moment, sites, monkeypatch
):
    for at in range(1, MAX_CALLS):
        site = sites()
        workdir = start(site, transaction)
        recorded = set(site.ids("finished"))
        with bad_disk(monkeypatch, at, 10**6, errno.EIO, moment) as disk:
            for _ in range(2):
                try:
                    transaction(workdir, True)
                    break
                except StorageError:
                    continue
            try:
                workdir.close()
            except StorageError:
                workdir._member.claim.end()
        site.dead.add(workdir._member._machine.pid)
        violations = [each for each in site.violations() if "timeline" not in each]
        assert violations == [], at
        finish(site, recorded)
        if not disk.has_struck:
            return
    pytest.fail("the transaction never came to its end")


def finish(site, recorded):
    """A new farm does all that is left, and nothing that was recorded."""
    workdir = site.open()
    ran: Counter[int] = Counter()
    while taken := workdir.transact((), (), 5).taken:
        ran.update(taken)
        workdir.transact([ended(taskid) for taskid in taken], (), 0)
    assert workdir.close()
    assert not recorded & ran.keys()
    assert site.violations(()) == []
    assert not list((site.root / "claims").iterdir())
    assert not list(site.root.glob("toprocess.*"))


# ---- what others do meanwhile -------------------------------------------------------


@pytest.mark.parametrize("more", [0, 3])
@pytest.mark.parametrize("moment", [BEFORE, HALF, BEHIND])
@pytest.mark.parametrize("transaction", [everything, failed_only])
def test_others_may_read_and_write_between_the_tries(
    transaction, moment, more, sites, monkeypatch
):
    for at in range(1, MAX_CALLS):
        site = sites()
        plain = PlainFarmer(site)
        workdir = start(site, transaction)
        other = site.open()
        (theirs,) = other.transact((), (), 1).taken
        first = plain.pop()
        with bad_disk(monkeypatch, at, more, errno.EIO, moment) as disk:
            with suppress(StorageError):
                transaction(workdir, True)
            struck = disk.has_struck
        other.transact([ended(theirs, 5)], (), 0)
        if first is not None:
            plain.record(first, 0)
        other.transact((), (), 0)
        if struck and not is_done(workdir, transaction):
            try_until_done(transaction, workdir, prepare=True)
        violations = [each for each in site.violations() if "odd" not in each]
        assert violations == [], at
        assert Counter(site.ids("finished")).most_common(1)[0][1] == 1, at
        if transaction is failed_only:
            assert Counter(site.ids("failed"))[5] == 1, at
        assert other.close()
        if not struck:
            return
    pytest.fail("the transaction never came to its end")


def is_done(workdir, transaction):
    """Whether the first try has not raised (its error came to nothing)."""
    asked = {0, 1, 2, 3, 4} if transaction is everything else {0, 5}
    return not asked & workdir.held and not workdir._transactions._open.progress._done


# ---- single promises ----------------------------------------------------------------


def test_a_claim_that_another_farm_has_taken_over_is_told_from_a_bad_disk(sites):
    site = sites()
    workdir = begin(site)
    (site.root / "claims" / workdir.farm).unlink()
    with pytest.raises(ClaimLostError):
        workdir.transact((), (), 1)


def test_a_step_that_the_claim_names_all_the_same_keeps_its_file(sites, monkeypatch):
    site = sites()
    workdir = begin(site)

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", lambda d: fail() if is_claim(d) else None)
        broken.setattr(os, "ftruncate", fail)
        with pytest.raises(StorageError):
            workdir.transact((), (), 2)
    assert [path.stat().st_size for path in site.root.glob("toprocess.*")] == [0]
    assert held_on_disk(site, workdir) == workdir.held == {0, 1, 2, 3, 4, 5}


def is_claim(descriptor):
    return "/claims/" in os.readlink(f"/proc/self/fd/{descriptor}")


class Diary:
    """Stands in for ``os``: notes what is synced, renamed and removed, in order."""

    def __init__(self, root):
        self.root = str(root)
        self.entries: list[tuple[str, str]] = []

    def __getattr__(self, name):
        return getattr(os, name)

    def _note(self, what, path):
        self.entries.append((what, os.path.relpath(path, self.root)))

    def fsync(self, descriptor):
        self._note("sync", os.readlink(f"/proc/self/fd/{descriptor}"))

    def rename(self, source, target):
        os.rename(source, target)
        self._note("rename", target)

    def unlink(self, path):
        os.unlink(path)
        self._note("remove", path)


def test_each_promise_has_its_sync_before_the_step_that_relies_on_it(
    tmp_path, monkeypatch
):
    site = Site(tmp_path / "w")
    diary = Diary(site.root)
    monkeypatch.setattr(files, "os", diary)
    workdir = site.open()
    claim = f"claims/{workdir.farm}"
    assert diary.entries[-2:] == [("sync", claim), ("sync", "claims")]
    assert diary.entries.count(("sync", ".")) == 2, "for logs and claims"
    assert diary.entries[0] == ("sync", ".."), "for the workdir itself"
    diary.entries.clear()
    workdir.transact((), (), 3)
    beside = f"toprocess.{workdir.farm}.1"
    take = [("sync", beside), ("sync", claim), ("rename", "toprocess")]
    assert diary.entries == take
    diary.entries.clear()
    workdir.transact([ended(0)], (), 0)
    recorded = [("sync", "finished"), ("sync", "."), ("sync", claim)]
    assert [entry for entry in diary.entries if "timeline" not in entry[1]] == recorded
    diary.entries.clear()
    workdir.transact([ended(1)], (2,), 0)
    assert ("sync", ".") not in diary.entries, "nothing was made"
    diary.entries.clear()
    assert workdir.close()
    assert diary.entries == [("sync", "."), ("remove", claim)]


def test_the_claim_of_a_dead_farm_goes_when_its_tasks_are_back_for_good(
    tmp_path, monkeypatch
):
    site = Site(tmp_path / "w")
    dead = site.open()
    dead.transact((), (), 3)
    site.kill(dead)
    diary = Diary(site.root)
    monkeypatch.setattr(files, "os", diary)
    site.open()
    entries = diary.entries
    back = entries.index(("rename", "toprocess"))
    gone = entries.index(("remove", f"claims/{dead.farm}"))
    assert ("sync", ".") in entries[back:gone]


def test_what_can_not_be_asked_is_not_taken_for_gone(tmp_path, monkeypatch):
    path = str(tmp_path / "there")
    with bad_disk(monkeypatch, 1, 0, errno.ESTALE, BEFORE), pytest.raises(StorageError):
        files.exists(path)
    assert not files.exists(path)
    (tmp_path / "there").touch()
    assert files.exists(path)


def test_a_write_that_writes_nothing_is_an_error_and_no_endless_loop(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(StorageError, match="No space left"):
        files.append(str(tmp_path / "file"), b"line\n", sync=False)


def test_any_part_of_an_append_to_the_timeline_is_known_as_one():
    before = b"[" + b" " * 4000 + b"{}]"
    end = find_end(before, 0)
    assert end is not None
    pieces = cut_pieces(end, [b'{"name": "%d"}' % number for number in range(9)])
    assert len(pieces) > 1
    content = before
    offset = end.offset
    for piece in pieces:
        for cut in range(len(piece) + 1):
            left = content[:offset] + piece[:cut] + content[offset + cut :]
            assert is_part(left[end.offset :], pieces)
            assert is_part(b"]" + left[end.offset + 1 :], pieces)
        content = content[:offset] + piece
        offset += len(piece) - 1
    assert not is_part(content[end.offset :] + b" ", pieces)
    assert not is_part(b"", pieces)


# ---- lists that keep their own state ------------------------------------------------


@pytest.mark.parametrize("more", [0, 2])
@pytest.mark.parametrize("moment", [BEFORE, HALF, BEHIND])
def test_a_list_of_its_own_is_asked_for_nothing_twice(
    moment, more, tmp_path, monkeypatch
):
    for at in range(1, MAX_CALLS):
        farms = Farms(tmp_path / f"workdir{at}")
        workdir = farms.open()
        assert farms.transact(workdir, take=4) == [11, 10, 9, 8]
        with bad_disk(monkeypatch, at, more, errno.EIO, moment) as disk:
            results = [ended(11), ended(10, 5)]
            taken = try_with_list(farms, workdir, results, [9], 2)
        assert sorted(taken) in ([6, 7], [7, 9]), at
        assert farms.list.done == {11: [0], 10: [5]}, at
        assert sorted([*farms.list.queue, *workdir.held]) == list(range(10)), at
        assert len(farms.site.timeline()) == 2
        farms.transact(workdir, [ended(taskid) for taskid in workdir.held])
        assert farms.close(workdir)
        if not disk.has_struck:
            return
    pytest.fail("the transaction never came to its end")


def try_with_list(farms, workdir, results, give_back, take):
    for _ in range(TRIES):
        with suppress(StorageError):
            return farms.transact(workdir, results, give_back, take)
    pytest.fail("it never succeeded")
