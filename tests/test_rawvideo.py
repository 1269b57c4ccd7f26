"""Raw frames on a pipe become arrays."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from vidbg.media import ffmpeg as ff
from vidbg.media.formats import working_format
from vidbg.media.rawvideo import read_batches, shifted


class Pipe:
    """Stands for a process that has written all it will."""

    def __init__(self, content: bytes) -> None:
        self._left = content

    def read_into(self, buffer: memoryview) -> int:
        taken = self._left[: len(buffer)]
        buffer[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)


def process(content: bytes) -> ff.Process:
    return cast("ff.Process", Pipe(content))


@pytest.mark.parametrize(("frames", "batch_size"), [(1, 1), (5, 2), (6, 3), (2, 8), (0, 2)])
def test_frames_come_in_batches_in_order(frames: int, batch_size: int) -> None:
    plane_format, _ = working_format("yuv420p10le")
    # 5x3: luma 15 samples, chroma 3x2.
    made = np.arange(frames * 27, dtype="<u2").reshape(frames, 27)
    batches = list(
        read_batches(process(made.tobytes()), plane_format, (5, 3), batch_size=batch_size, first=40)
    )
    assert [batch.first_index for batch in batches] == list(range(40, 40 + frames, batch_size))
    if not frames:
        return
    luma, cb, cr = (np.concatenate([b.planes[n] for b in batches]) for n in range(3))
    assert luma.dtype == np.uint16
    np.testing.assert_array_equal(luma, made[:, :15].reshape(-1, 3, 5))
    np.testing.assert_array_equal(cb, made[:, 15:21].reshape(-1, 2, 3))
    np.testing.assert_array_equal(cr, made[:, 21:].reshape(-1, 2, 3))
    assert batches[0].source_alpha is None


def test_a_frame_that_breaks_off_is_no_frame() -> None:
    plane_format, _ = working_format("gbrp")
    (batch,) = read_batches(process(bytes(12 * 2 + 7)), plane_format, (2, 2), batch_size=5)
    assert len(batch) == 2


def test_a_deeper_layout_comes_back_to_the_formats_depth() -> None:
    """14-bit planes travel in 16 bits where FFmpeg has no 14-bit layout with alpha."""
    plane_format, _ = working_format("gbrp14le")
    made = np.random.default_rng(0).integers(0, 1 << 14, (2, 4, 6)).astype("<u2")
    sent = made << 2 | made >> 12
    (batch,) = read_batches(
        process(sent.tobytes()), plane_format, (3, 2), batch_size=2, alpha_depth=16
    )
    assert batch.source_alpha is not None
    for number, plane in enumerate([*batch.planes, batch.source_alpha]):
        np.testing.assert_array_equal(plane, made[:, number].reshape(2, 2, 3))


def test_samples_are_shifted_both_ways() -> None:
    samples = np.array([[[1, 1023]]], np.uint16)
    np.testing.assert_array_equal(shifted(samples, 6), samples * 64)
    np.testing.assert_array_equal(shifted(samples, -2), [[[0, 255]]])
    assert shifted(samples, 0) is samples


def test_room_is_used_again_once_nobody_has_a_view_of_it() -> None:
    plane_format, _ = working_format("yuv420p")
    made = np.arange(12 * 6, dtype=np.uint8).reshape(12, 6)
    kept, places = [], set()
    for n, batch in enumerate(
        read_batches(process(made.tobytes()), plane_format, (2, 2), batch_size=1)
    ):
        places.add(batch.planes[0].ctypes.data)
        if n % 4 == 0:
            kept.append(batch.planes[2][:, 0])  # a corner of it is enough
        del batch
    assert len(places) <= 3 + 2
    assert [int(corner[0, 0]) for corner in kept] == [5, 29, 53]
