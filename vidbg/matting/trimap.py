"""What of a matte is sure, and what is left to find out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BACKGROUND: Final = 0
UNKNOWN: Final = 128
FOREGROUND: Final = 255

_BACKGROUND_BELOW: Final = 0.1
_FOREGROUND_ABOVE: Final = 0.9
# Of the matte's shorter side. Half of it and twice it came to the same within 0.1 points of J.
_BAND_SHARE: Final = 1 / 120


def trimap(matte: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return where a matte is sure: above 0.9 or below 0.1, and not near what is otherwise.

    The unknown band is widened on both sides in proportion to the size, because a network draws
    its ramps at its own resolution, beside the true edge as often as on it.

    Args:
        matte: float32 ``(h, w)`` in 0..1, at least one pixel.

    Returns:
        uint8 ``(h, w)``: :data:`BACKGROUND`, :data:`UNKNOWN` or :data:`FOREGROUND`.
    """
    radius_px = max(1, round(_BAND_SHARE * min(matte.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
    result = np.full(matte.shape, UNKNOWN, np.uint8)
    for is_sure, value in (
        (matte > _FOREGROUND_ABOVE, FOREGROUND),
        (matte < _BACKGROUND_BELOW, BACKGROUND),
    ):
        # Beyond the frame's edge lies what is at it.
        result[cv2.erode(is_sure.view(np.uint8), disc) > 0] = value
    return result
