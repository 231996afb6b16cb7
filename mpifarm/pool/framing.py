"""Frames between a rank, its fork server and its workers.

Rules of this file: pure, no I/O.  A frame is the length of its body in 4 bytes (little
endian), then the body: a tuple of plain values by `marshal`.  Both ends are forks of
one process, so they are the same Python.  Lone surrogates pass.
"""

import marshal
import struct
from typing import Any

_LENGTH = struct.Struct("<I")


def encode_frame(values: tuple[Any, ...]) -> bytes:
    """Encode a tuple of numbers, strings, bytes, tuples, dicts and None.

    Raises ValueError for another kind of value.
    """
    body = marshal.dumps(values)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """A reader that puts whole frames together from bytes that come in any pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> list[tuple[Any, ...]]:
        """Add a piece.  Return the frames that are complete now, and forget them."""
        buffer = self._buffer
        buffer += piece
        frames = []
        start = 0
        while (body := start + _LENGTH.size) <= len(buffer):
            end = body + _LENGTH.unpack_from(buffer, start)[0]
            if end > len(buffer):
                break
            # Both ends are one program: see the head of this file.
            frames.append(marshal.loads(bytes(buffer[body:end])))  # noqa: S302
            start = end
        del buffer[:start]
        return frames
