"""Mattes made steady over time: an average along the optical flow.

A network that sees each frame by itself changes its mind from frame to frame, and the edge
flickers. The last few mattes are carried along the motion of the picture to where their pixels
are now, and averaged with weights that fall off with age and with how much the picture itself
differs there. Such recursive filters along motion are as old as E. Dubois and S. Sabri, "Noise
reduction in image sequences using motion-compensated temporal filtering", IEEE Transactions on
Communications 32(7), 1984; a weight by the warped picture's error is common since W. Lai et al.,
"Learning blind video temporal consistency", ECCV 2018.

The average is over a window, not recursive: a segment of a clip that starts PREROLL_FRAMES early
comes out the same, bit for bit, as in the whole clip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from vidbg.frames import MattedBatch
from vidbg.temporal.flow import flow, warp
from vidbg.temporal.scenes import is_cut

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

PREROLL_FRAMES: Final = 3
"""The matte of frame n depends on frames n - PREROLL_FRAMES to n."""

LOOKAHEAD_FRAMES: Final = 0
"""The matte of frame n depends on no frame after n + LOOKAHEAD_FRAMES."""

DEFAULT_STRENGTH: Final = 0.8
"""With mattes of U-2-Net-p on five clips of DAVIS and composites, at 448x256: the change of alpha
along the motion fell from 17.9 to 10.4 thousandths, and overlap with the truth (J) rose from 0.796
to 0.818. Full strength comes to 9.4, and gives up overlap."""

# Difference of luma, in levels and averaged over 3 by 3 pixels, at which a past matte counts
# 1/e of what it does where the picture is the same. 8 left a tenth more flicker; 20 took from the
# overlap with the truth.
_AGREEMENT_LEVELS: Final = 12.0
_AGREEMENT: Final = np.exp(-((np.arange(256) / _AGREEMENT_LEVELS) ** 2))

# Past mattes are kept in 16 bits, which OpenCV warps in a fraction of float32's time.
_CODES: Final = 65535


def smooth(batches: Iterable[MattedBatch], strength: float) -> Iterator[MattedBatch]:
    """Return the batches with mattes that flicker less.

    Count, order, frames and thumbnails stay as they are; so do the sizes of the batches, which
    have no effect on the mattes. The average starts anew at a cut.

    Args:
        batches: Consecutive frames with their mattes, all of one size.
        strength: 0 leaves everything as it is, the same objects. Otherwise a matte counts
            ``strength`` times as much as the one after it, up to 1 for a plain average.

    Raises:
        ValueError: ``strength`` is not in 0..1.
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength is in 0..1, not {strength!r}")
    return iter(batches) if strength == 0.0 else _averages(batches, strength)


def _averages(batches: Iterable[MattedBatch], strength: float) -> Iterator[MattedBatch]:
    """Yield each batch with its mattes averaged with those before."""
    weights = [(strength**age * _AGREEMENT).astype(np.float32) for age in range(PREROLL_FRAMES + 1)]
    # Mattes and luma of the frames before, warped to the latest of them, newest first.
    past: list[tuple[NDArray[np.uint16], NDArray[np.uint8]]] = []
    previous: NDArray[np.uint8] | None = None
    for batch in batches:
        steady = np.empty_like(batch.matte)
        for rgb, matte, target in zip(batch.thumbnails, batch.matte, steady, strict=True):
            luma = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
            if previous is not None and is_cut(previous, rgb):
                past.clear()
            if past:
                motion = flow(luma, past[0][1])
                past = [(warp(codes, motion), warp(seen, motion)) for codes, seen in past]
            target[...] = _average(matte, luma, past, weights)
            past.insert(0, (np.rint(matte * np.float32(_CODES)).astype(np.uint16), luma))
            del past[PREROLL_FRAMES:]
            # A copy, so that no more than one thumbnail of the batch is kept.
            previous = rgb.copy()
        yield MattedBatch(batch.frames, batch.thumbnails, steady)
        # Or the frames stay in memory while the next ones are made.
        del batch


def _average(
    matte: NDArray[np.float32],
    luma: NDArray[np.uint8],
    past: list[tuple[NDArray[np.uint16], NDArray[np.uint8]]],
    weights: list[NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Return a matte averaged with those before it.

    Args:
        matte: float32 ``(h, w)`` in 0..1.
        luma: uint8 ``(h, w)``, the picture.
        past: uint16 ``(h, w)`` mattes in 0..65535, and luma likewise, one frame ago first,
            all in the place of ``luma``.
        weights: By age in frames, the weight for each difference of luma, float32 ``(256,)``.

    Returns:
        float32 ``(h, w)`` in 0..1.
    """
    # Summed as differences from the matte, so that one that does not change stays exact.
    scaled = matte * np.float32(_CODES)
    change = np.zeros_like(matte)
    weight_sum = np.ones_like(matte)
    for age, (codes, seen) in enumerate(past, start=1):
        difference = cv2.blur(cv2.absdiff(seen, luma), (3, 3))
        weight = cv2.LUT(difference, weights[age])
        weight_sum += weight
        change += (codes - scaled) * weight
    change /= weight_sum * np.float32(_CODES)
    return np.clip(matte + change, 0.0, 1.0, out=change)
