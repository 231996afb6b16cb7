"""Which children a process has got, told by the kernel."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest

from mpifarm.system.processes import ChildrenWatch


@pytest.fixture
def start_child():
    """Starts a child that waits; all are ended at the end."""
    children: list[subprocess.Popen[bytes]] = []

    def start() -> int:
        argv = [sys.executable, "-c", "input()"]
        children.append(subprocess.Popen(argv, stdin=subprocess.PIPE))
        return children[-1].pid

    yield start
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def watch():
    watch = ChildrenWatch(os.getpid())
    yield watch
    watch.forget()


def test_a_child_is_new_once(watch: ChildrenWatch, start_child: Callable[[], int]):
    watch.find_new()

    first = start_child()
    assert watch.find_new() == {first}
    second = start_child()
    assert watch.find_new() == {second}
    assert watch.find_new() == set()


def test_one_that_has_ended_hides_no_other(watch: ChildrenWatch, start_child):
    start_child()
    watch.find_new()

    with subprocess.Popen(["true"]) as ended:
        pass
    assert ended.pid not in watch.find_new()
    child = start_child()
    assert watch.find_new() == {child}


def test_a_list_longer_than_the_kernel_gives_at_once_is_whole(
    watch: ChildrenWatch, start_child, monkeypatch
):
    begun = {start_child() for _ in range(12)}
    monkeypatch.setattr(os, "pread", _at_most_a_page(os.pread))

    assert begun <= watch.find_new()


def _at_most_a_page(pread: Callable[[int, int, int], bytes], page: int = 16):
    return lambda fd, size, offset: pread(fd, min(size, page), offset)


def test_without_the_kernels_list_they_are_found_by_their_parent(
    watch: ChildrenWatch, start_child, monkeypatch
):
    def without(path, *arguments, **options):
        if str(path).endswith("/children"):
            raise FileNotFoundError(path)
        return real(path, *arguments, **options)

    real = os.open
    monkeypatch.setattr(os, "open", without)
    watch.find_new()

    child = start_child()
    assert child in watch.find_new()
    assert watch.find_new() == set()


def test_of_one_that_is_gone_nothing_stays_open():
    before = len(os.listdir("/proc/self/fd"))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as going:
        watch = ChildrenWatch(going.pid)
        assert watch.find_new() == set()

    with suppress(OSError):
        assert watch.find_new() == set()
    watch.forget()
    assert len(os.listdir("/proc/self/fd")) == before
