"""Retries on a disk that fails, without a disk."""

import errno
import os

import pytest

from mpifarm.errors import ExitStatus, FutileError, InputError, StorageError
from mpifarm.system.patience import (
    RETRY_SECONDS,
    Patience,
    is_of_the_disk,
    try_again,
)


class Time:
    """A clock that only `sleep` moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def time():
    return Time()


def os_error(number, path="/w/finished"):
    return OSError(number, os.strerror(number), path)


def wrapped(kind, cause):
    """Return an error of mpifarm with that cause."""
    error = kind("can't read /w/finished")
    error.__cause__ = cause
    return error


class Disk:
    """A disk that raises these errors, one at each use, and then works."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.uses = 0

    def __call__(self):
        self.uses += 1
        if self.errors:
            raise self.errors.pop(0)
        return "content"


def try_it(disk, time, seconds=2.0, said=None):
    say = (said if said is not None else []).append
    patience = Patience("the disk", seconds, say, "can be used again")
    return try_again(disk, patience, time.sleep, time)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize(
    "create",
    [
        lambda cause: cause,
        lambda cause: wrapped(StorageError, cause),
        lambda cause: wrapped(InputError, cause),
        lambda cause: wrapped(InputError, wrapped(StorageError, cause)),
    ],
)
def test_what_the_disk_fails_to_do_is_tried_again_whoever_tells_of_it(
    time, number, create
):
    disk = Disk(*(create(os_error(number)) for _ in range(5)))
    said: list[str] = []
    assert try_it(disk, time, said=said) == "content"
    assert disk.uses == 6
    assert len(said) == 2
    assert said[0].endswith("; trying again for 2 s")
    assert said[1] == "the disk can be used again"


def test_a_disk_that_goes_on_failing_is_75_after_that_time(time):
    disk = Disk(*(wrapped(InputError, os_error(errno.EIO)) for _ in range(1000)))
    with pytest.raises(StorageError, match="can't read /w/finished") as raised:
        try_it(disk, time)
    assert raised.value.exit_status is ExitStatus.RUN_AGAIN
    assert time.now == pytest.approx(102.0, abs=0.2)


def test_an_error_that_nobody_has_put_into_words_gets_some(time):
    disk = Disk(*(os_error(errno.EIO) for _ in range(1000)))
    with pytest.raises(StorageError, match="can't use /w/finished: Input/output error"):
        try_it(disk, time, seconds=0.0)
    assert disk.uses == 1


MISTAKES = (
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR),
    *(errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG),
)


@pytest.mark.parametrize("number", MISTAKES)
def test_what_the_user_has_to_mend_is_told_at_once(time, number):
    error = wrapped(InputError, os_error(number))
    disk = Disk(error)
    with pytest.raises(InputError) as raised:
        try_it(disk, time)
    assert raised.value is error
    assert disk.uses == 1


def test_a_refusal_that_nobody_has_put_into_words_is_the_users_to_mend(time):
    with pytest.raises(InputError, match="can't use /w/finished: Read-only file"):
        try_it(Disk(os_error(errno.EROFS)), time)


def test_a_file_that_is_gone_is_told_as_that(time):
    with pytest.raises(FileNotFoundError):
        try_it(Disk(os_error(errno.ENOENT)), time)


def test_what_no_disk_has_said_is_told_at_once(time):
    disk = Disk(InputError("the tasklist was edited"))
    with pytest.raises(InputError):
        try_it(disk, time)
    assert disk.uses == 1


def test_what_does_not_pass_is_told_at_once(time):
    disk = Disk(FutileError("the claim is gone"))
    with pytest.raises(FutileError):
        try_it(disk, time)
    assert disk.uses == 1


@pytest.mark.parametrize("number", MISTAKES)
def test_a_mistake_is_not_of_the_disk(number):
    assert not is_of_the_disk(os_error(number))
    assert not is_of_the_disk(wrapped(StorageError, os_error(number)))


def test_storage_that_gives_way_without_a_system_call_is_of_the_disk():
    assert is_of_the_disk(StorageError("another farm has taken over the claim"))
    assert not is_of_the_disk(InputError("the tasklist was edited"))


# ---- what is said, and when ----------------------------------------------------------


def test_each_failure_after_a_success_is_told_anew_and_none_between():
    said: list[str] = []
    patience = Patience("the workdir", 2.0, said.append)
    full = StorageError(
        "can't write /w/failed: no space; make room, then give it again"
    )
    patience.note_success()
    for begun in (10.0, 20.0):
        assert not patience.is_over(full, begun)
        assert not patience.is_over(full, begun + 1.9)
        patience.note_success()
        patience.note_success()
    told = [
        "can't write /w/failed: no space; trying again for 2 s",
        "the workdir can be written again",
    ]
    assert said == told * 2


def test_nothing_is_said_of_a_try_that_is_not_repeated():
    said: list[str] = []
    assert Patience("the disk", 0.0, said.append).is_over(StorageError("bad"), 10.0)
    assert said == []


def test_a_disk_that_fails_is_tried_again_after_a_tenth_of_a_second():
    patience = Patience("the disk", 2.0, lambda _: None)
    patience.is_over(StorageError("bad"), 10.0)
    assert patience.retry_at == 10.0 + RETRY_SECONDS
    assert RETRY_SECONDS == 0.1
    assert patience.is_over(StorageError("bad"), 12.0)


# ---- to the bound --------------------------------------------------------------------


def patience_of(seconds: float) -> tuple[Patience, list[str]]:
    said: list[str] = []
    return Patience("the disk", seconds, said.append), said


FULL = StorageError("can't write /x: no space left; make room on the disk")


def test_patience_is_over_at_its_last_instant_and_says_what_it_does():
    patience, said = patience_of(2.0)
    assert not patience.is_over(FULL, 100.0)
    assert patience.retry_at == 100.0 + RETRY_SECONDS
    assert not patience.is_over(FULL, 101.999)
    assert patience.retry_at == 101.999 + RETRY_SECONDS
    assert patience.is_over(FULL, 102.0)
    assert said == ["can't write /x: no space left; trying again for 2 s"]


def test_without_patience_nothing_is_said_or_tried_again():
    patience, said = patience_of(0.0)
    assert patience.is_over(FULL, 100.0)
    assert said == []


def test_a_success_is_told_after_a_failure_alone_and_begins_the_time_anew():
    patience, said = patience_of(2.0)
    patience.note_success()
    assert said == []
    patience.is_over(FULL, 100.0)
    patience.note_success()
    patience.note_success()
    assert said[1:] == ["the disk can be written again"]
    assert not patience.is_over(FULL, 103.0)


def test_what_is_futile_is_over_at_once_and_no_failure_of_the_disk():
    patience, said = patience_of(60.0)
    assert patience.is_over(FutileError("a signal came"), 100.0)
    assert (said, patience.retry_at) == ([], 0.0)
    patience.note_success()
    assert said == []
