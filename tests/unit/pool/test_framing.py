"""Frames between a rank, its fork server and its workers."""

import pytest

from mpifarm.pool.framing import FrameReader, encode_frame

VALUES = [
    (),
    (17, 2, "echo hi"),
    (0, 1, "bytes that are not UTF-8: \udcff\udc80, and ü, \U0001f600, \0, \n"),
    (2**62, -9, 0.25, None, b"\0\xff", ("nested", {b"PATH": b"/bin"})),
    (1, 1, "x" * 1_000_000),
]


@pytest.mark.parametrize("values", VALUES, ids=range(len(VALUES)))
def test_a_frame_comes_out_as_it_went_in(values):
    assert FrameReader().feed(encode_frame(values)) == [values]


def test_frames_come_out_whole_wherever_they_were_split():
    stream = b"".join(encode_frame(values) for values in VALUES[:-1])
    for split in range(len(stream) + 1):
        reader = FrameReader()
        frames = reader.feed(stream[:split]) + reader.feed(stream[split:])
        assert frames == VALUES[:-1]


def test_frames_come_out_whole_from_single_bytes():
    reader = FrameReader()
    stream = b"".join(encode_frame(values) for values in VALUES[:-1])
    frames = [frame for byte in stream for frame in reader.feed(bytes([byte]))]
    assert frames == VALUES[:-1]


def test_a_frame_cut_short_is_kept_back():
    frame = encode_frame((1, 2, "three"))
    reader = FrameReader()
    assert reader.feed(frame + frame[:-1]) == [(1, 2, "three")]
    assert reader.feed(b"") == []
    assert reader.feed(frame[-1:]) == [(1, 2, "three")]


def test_a_large_frame_in_small_pieces_takes_no_quadratic_time():
    frame = encode_frame(("x" * 20_000_000,))
    reader = FrameReader()
    pieces = (frame[at : at + 65536] for at in range(0, len(frame), 65536))
    assert sum(len(reader.feed(piece)) for piece in pieces) == 1
