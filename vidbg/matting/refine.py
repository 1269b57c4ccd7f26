"""Mattes brought to frame size and to code values: alphas ready to composite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vidbg.frames import MattedBatch


def finish_matte(matted: MattedBatch) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the alphas of frames, at luma size.

    Along an axis that grows the matte is interpolated linearly between its pixels' centres,
    along one that shrinks averaged over area; at the frame's size it stays as it is. Fully
    transparent and fully opaque stay exactly so. The source's own alpha, where it has one, is
    multiplied in. Everything is rounded once, to nearest.

    Args:
        matted: Frames with their mattes, at any size.

    Returns:
        Straight alpha ``(B, H, W)``: uint8 0..255 for 8-bit formats, uint16 0..65535 for
        deeper ones.
    """
    frames = matted.frames
    count, height, width = frames.planes[0].shape
    is_8_bit = frames.format.depth == 8
    alpha = np.empty((count, height, width), np.uint8 if is_8_bit else np.uint16)
    top = np.float32(255 if is_8_bit else 65535)
    source_top = np.float32((1 << frames.format.depth) - 1)
    for index in range(count):
        codes = _resized(matted.matte[index], height, width) * top
        if frames.source_alpha is not None:
            codes *= frames.source_alpha[index]
            codes /= source_top
        alpha[index] = np.rint(codes, out=codes)
    return alpha


def _resized(matte: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Return a matte float32 ``(h, w)`` at another size, with half-pixel centres."""
    rows, columns = matte.shape
    # One call does not average one axis and interpolate the other.
    smaller = (min(width, columns), min(height, rows))
    if smaller != (columns, rows):
        matte = np.asarray(cv2.resize(matte, smaller, interpolation=cv2.INTER_AREA), np.float32)
    if smaller != (width, height):
        matte = np.asarray(
            cv2.resize(matte, (width, height), interpolation=cv2.INTER_LINEAR), np.float32
        )
    return matte
