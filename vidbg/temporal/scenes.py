"""Shot cuts, told from a few thumbnails before and after.

Between two frames of one shot the arrangement of light and dark moves; across a cut it is
replaced. So frames are compared by the correlation of their luma, small and soft, at the best of
all shifts: a pan changes it little, and a flash, a fade or another exposure not at all, because
a correlation knows neither brightness nor contrast. Colour histograms, which J. S. Boreczky and
L. A. Rowe, "Comparison of video shot boundary detection techniques", Journal of Electronic
Imaging 5(2), 1996, found best of the simple measures, are fooled by both, and added nothing here.

A cut stands out from the motion around it, hence a threshold that adapts: Y. Yusoff, W. Christmas
and J. Kittler, "Video shot cut detection using adaptive thresholding", BMVC 2000. And it lasts:
no frame soon after it is like one shortly before, where a flash, or a bird before the lens, is
over after a frame or two.

A frame that shows nothing, as in a fade to black, belongs to no shot. The shot after a fade begins
where it begins to be seen. Dissolves and wipes have no frame at which one shot ends, and
are not reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BEFORE_FRAMES: Final = 4
"""How many frames before a cut are looked at."""

AFTER_FRAMES: Final = 2
"""How many frames after a shot's first are looked at."""

# So many frames on either side are compared, each with each: where the picture is back within two
# frames, it was a flash.
_FLASH_FRAMES: Final = 3

# By how much the change across a cut exceeds the mean of the changes just before and after it.
# On 1,353 frames of real clips that are none the excess comes to 0.20 at most, where a drone
# brushes past a car; across 300 cuts between clips it is below 0.22 in none, across 123 cuts from
# a scene to its mirror image in 8, and to a closer view of its middle in 35.
_EXCESS: Final = 0.215

# A frame that shows two shots at once has so much of either, and what is not explained by the two
# has so small a share of the energy of their difference.
_LEAST_SHARE: Final = 0.15
_UNLIKE_MIX: Final = 0.01

SKETCH_SIDE_PX: Final = 48
# Noise and a movement by one cell are no change of arrangement.
SKETCH_BLUR_PX: Final = 1.0
# Shifts looked through, in cells: a sixth of the picture to all sides.
_REACH_PX: Final = 8
# Below this much structure, in levels, a picture is flat, and its noise no arrangement.
_FLAT_LEVELS: Final = 2.0
# Below this much it shows nothing: the ends of a fade, a closed shutter, a white-out.
_EMPTY_LEVELS: Final = 3.0


def sketch(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what cuts are told from: a frame's luma, float32 ``(48, 48)`` in 0..255, blurred.

    Args:
        rgb: uint8 R'G'B' ``(h, w, 3)``, at least one pixel.
    """
    luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(luma, (SKETCH_SIDE_PX, SKETCH_SIDE_PX), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small.astype(np.float32), (0, 0), SKETCH_BLUR_PX).astype(
        np.float32, copy=False
    )


def is_cut(before: Sequence[NDArray[np.float32]], after: Sequence[NDArray[np.float32]]) -> bool:
    """Return whether a new shot begins between two frames.

    Args:
        before: Sketches of the last frames before, in order, up to :data:`BEFORE_FRAMES`:
            fewer only at the beginning of a clip; without any there is no cut.
        after: Sketches of the frame after and of up to :data:`AFTER_FRAMES` more, in order:
            fewer only at the end of a clip.

    Raises:
        ValueError: ``after`` is empty.
    """
    if not after:
        raise ValueError("a shot begins with a frame")
    if not before or _is_empty(after[0]):
        return False
    earlier = [frame for frame in before if not _is_empty(frame)]
    later = [frame for frame in after[:_FLASH_FRAMES] if not _is_empty(frame)]
    if not earlier:
        return True
    if _is_replaced(earlier[-_FLASH_FRAMES:], later, _EXCESS):
        return True
    # Or the last frame shows both shots, as conversions of frame rate leave behind.
    *earlier, between = earlier
    return (
        len(earlier) > 0
        and _is_mixed(between, earlier[-1], later[0])
        and _is_replaced(earlier[-_FLASH_FRAMES:], later, _EXCESS)
        # Unless it was taken for the first of the new shot.
        and not _is_replaced(earlier[-_FLASH_FRAMES:], [between, *later][:_FLASH_FRAMES], _EXCESS)
    )


def _is_mixed(
    frame: NDArray[np.float32], one: NDArray[np.float32], other: NDArray[np.float32]
) -> bool:
    """Return whether a frame is two others laid over each other, and neither of them."""
    apart = other - one
    share = float(((frame - one) * apart).sum()) / max(float((apart * apart).sum()), 1.0)
    left = float(np.square(frame - one - share * apart).sum())
    return _LEAST_SHARE < share < 1.0 - _LEAST_SHARE and left < _UNLIKE_MIX * float(
        (apart * apart).sum()
    )


def _is_replaced(
    earlier: Sequence[NDArray[np.float32]], later: Sequence[NDArray[np.float32]], excess: float
) -> bool:
    """Return whether no frame is like one of those before, given how much they change."""
    # Of a side with a single frame nothing is known, and nothing is taken to move there.
    around = sum(change(*pair) for pair in (earlier[-2:], later[:2]) if len(pair) == 2) / 2
    # The last before and the first after are the likeliest to be alike: mostly all is said.
    return all(change(a, b) > excess + around for a in reversed(earlier) for b in later)


def change(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return how much two frames differ in arrangement, 0 (not at all) to 2 (a negative).

    One less the correlation of the middle of one with the place in the other where it is
    highest, the better of both ways round.

    Args:
        first: float32 ``(48, 48)`` from :func:`sketch`.
        second: Likewise.
    """
    return 1.0 - max(_correlation(first, second), _correlation(second, first))


def _correlation(whole: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the highest correlation of the middle of ``other`` with a part of ``whole``."""
    middle = other[_REACH_PX:-_REACH_PX, _REACH_PX:-_REACH_PX]
    side, count = middle.shape[0], middle.size
    middle = middle - middle.mean()
    flat = count * _FLAT_LEVELS**2
    products = cv2.matchTemplate(whole, middle, cv2.TM_CCORR)
    # The sums over each part that it is compared with, from summed-area tables.
    sums, squares = (
        table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
        for table in cv2.integral2(whole)
    )
    variances = np.maximum(squares - sums * sums / count, 0.0)
    norm = np.sqrt((float((middle * middle).sum()) + flat) * (variances + flat))
    return float((products / norm).max())


def _is_empty(frame: NDArray[np.float32]) -> bool:
    return float(frame.std()) < _EMPTY_LEVELS
