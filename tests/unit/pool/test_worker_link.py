"""The rank's end of a worker's socket, where the worker is slow or dead."""

import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.pool.worker_link import WorkerLink


class Socket:
    """A socket that takes so many bytes, or fails."""

    def __init__(self, takes: int | OSError) -> None:
        self.takes = takes
        self.sent = b""

    def send(self, content: bytes) -> int:
        if isinstance(self.takes, OSError):
            raise self.takes
        self.sent += bytes(content[: self.takes])
        return min(self.takes, len(content))

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR
        if isinstance(self.takes, OSError):
            raise self.takes
        self.sent += b"|"


def link_to(takes: int | OSError) -> tuple[WorkerLink, Socket]:
    row: Any = SimpleNamespace()
    epoll: Any = SimpleNamespace(modify=lambda *_: None)
    link, stand_in = WorkerLink(3, row, epoll), Socket(takes)
    vars_of: Any = link
    vars_of._socket = stand_in
    link.outgoing += b"abcdef"
    return link, stand_in


GONE = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@pytest.mark.parametrize(
    ("takes", "left"),
    [
        (99, b""),
        (2, b"cdef"),
        (BlockingIOError(errno.EAGAIN, "full"), b"abcdef"),
        (GONE, b""),
    ],
)
def test_what_a_worker_takes_leaves_and_for_a_dead_one_all_does(takes, left):
    link, _ = link_to(takes)
    link._flush()
    assert bytes(link.outgoing) == left


@pytest.mark.parametrize(("takes", "sent"), [(99, b"|"), (GONE, b"")])
def test_the_end_of_the_leases_is_sent_also_where_nobody_hears_it(takes, sent):
    link, stand_in = link_to(takes)
    link.send_no_more()
    assert (stand_in.sent, bytes(link.outgoing), link.unsent) == (sent, b"", [])
    vars_of: Any = link
    vars_of._socket = None
    link.send_no_more()
