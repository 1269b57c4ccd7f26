"""Raw frames on a pipe, as arrays."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from vidbg.frames import FrameBatch, PlaneFormat
from vidbg.media import ffmpeg as ff

if TYPE_CHECKING:
    from vidbg.frames import Plane, Planes


def read_batches(
    process: ff.Process,
    plane_format: PlaneFormat,
    size: tuple[int, int],
    *,
    batch_size: int,
    first: int = 0,
    alpha_depth: int | None = None,
) -> Iterator[FrameBatch]:
    """Yield the raw frames that a process writes to its standard output.

    Args:
        process: FFmpeg with rawvideo on its standard output.
        plane_format: Format of the three planes.
        size: Width and height in pixels.
        batch_size: Frames per batch; the last may be shorter.
        first: Index of the first frame.
        alpha_depth: Bits of an alpha plane that follows the three, or None.
    """
    width, height = size
    shapes = [*plane_format.plane_sizes(width, height)]
    if alpha_depth is not None:
        shapes.append((height, width))
    dtype = np.dtype(np.uint8 if plane_format.depth == 8 else "<u2")
    lengths = [h * w for h, w in shapes]
    samples = sum(lengths)
    frame_bytes = samples * dtype.itemsize
    spare: list[mmap.mmap] = []
    while True:
        buffer = _buffer(spare, (batch_size, samples), dtype)
        filled = process.read_into(buffer.reshape(-1).view(np.uint8).data)
        count = filled // frame_bytes
        if count:
            planes = _split(buffer[:count], lengths, shapes)
            source_alpha = None
            if alpha_depth is not None:
                source_alpha = planes[3]
                if alpha_depth > plane_format.depth:
                    # The alpha layout is deeper than the format; bring all to its depth.
                    planes = [shifted(plane, plane_format.depth - alpha_depth) for plane in planes]
                    source_alpha = planes[3]
            colour_planes: Planes = (planes[0], planes[1], planes[2])
            yield FrameBatch(colour_planes, plane_format, first, source_alpha)
            del planes, colour_planes, source_alpha
        first += count
        if filled < len(buffer) * frame_bytes:
            return
        del buffer


def _buffer(
    spare: list[mmap.mmap], shape: tuple[int, int], dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    """Return an array that no batch in use has, for which the system need not clear new pages.

    Mapped by itself: frames are held for long, and between them the heap would be full of holes,
    which at 4K took as much memory as the frames.

    Args:
        spare: Room that is free again. What is returned comes back to it with its last view.
        shape: What is wanted.
        dtype: Likewise; the same in each call with this list.
    """
    count = shape[0] * shape[1]
    room = spare.pop() if spare else mmap.mmap(-1, count * dtype.itemsize)
    flat = np.frombuffer(room, dtype, count)
    # At the end of the process all goes anyway.
    weakref.finalize(flat, spare.append, room).atexit = False
    return flat.reshape(shape)


def shifted(plane: Plane, bits: int) -> Plane:
    """Return samples moved to a depth ``bits`` higher (lower where negative)."""
    if not bits:
        return plane
    return cast("Plane", plane << bits if bits > 0 else plane >> -bits)


def _split(
    buffer: np.ndarray[Any, Any], lengths: list[int], shapes: list[tuple[int, int]]
) -> list[Plane]:
    """Return views of packed frames ``(B, samples)`` as one ``(B, h, w)`` array a plane."""
    planes: list[Plane] = []
    offset = 0
    for length, (height, width) in zip(lengths, shapes, strict=True):
        part = buffer[:, offset : offset + length]
        planes.append(part.reshape(len(buffer), height, width))
        offset += length
    return planes
