"""The old background's light on the subject: taken out where a colour leans to it too far.

A green screen shines on cheeks, white hair and glass. Every film since P. Vlahos ("Comprehensive
electronic compositing system", US patent 4,100,569, 1978) limits green to the larger of red and
blue, which leaves no hue within 60° of green. Here the same limit is put on chroma in the
frame's own planes, for a background of any hue: what leans to its hue by more than a colour 60°
beside it is drawn back along that hue. Luma (of planar RGB, the components' mean) stays.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, cast

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vidbg.frames import Plane, PlaneFormat, Planes

    Floats = NDArray[np.float32]

# Along the background's hue no more than this times what a colour has across it: tan 30°.
_LIMIT: Final = 1 / math.sqrt(3)
# Backgrounds below the first chroma have no colour to speak of, and from the second on their
# light is taken out whole (levels of 255; #00b140 has 96, a lawn 40, a wall 10).
_COLOURED_LEVELS: Final = (12.0, 24.0)
# The background that shines on a subject is that around it: within this share of the height.
_AROUND_SHARE: Final = 1 / 6
_CELLS_HIGH: Final = 60


def suppress_spill(
    planes: Planes, format: PlaneFormat, screens: Sequence[tuple[float, float, float]]
) -> Planes:
    """Return frames without the old background's tint on the subject.

    Colours with a hue farther than 60° from the background's, and all greys, stay bit for bit.
    Each frame is by itself.

    Args:
        planes: Three arrays ``(B, H, W)``, ``(B, h, w)``, ``(B, h, w)``, uint8 or uint16.
        format: The planes' working format.
        screens: The background's colour in code values of the planes, for each frame.

    Returns:
        Arrays of the shapes and dtype of ``planes``.
    """
    coloured = range(3) if format.is_rgb else range(1, 3)
    results = [plane.copy() if number in coloured else plane for number, plane in enumerate(planes)]
    neutral = 0.0 if format.is_rgb else float(1 << (format.depth - 1))
    least, enough = (level * (1 << (format.depth - 8)) for level in _COLOURED_LEVELS)
    for index, screen in enumerate(screens):
        hue = np.array([screen[number] for number in coloured], np.float64)
        hue -= hue.mean() if format.is_rgb else neutral
        size = float(np.linalg.norm(hue))
        share = min(1.0, max(0.0, (size - least) / (enough - least)))
        if share:
            frame = [planes[number][index] for number in coloured]
            suppressed = _suppressed(frame, hue / size, share, neutral, format)
            for number, plane in zip(coloured, suppressed, strict=True):
                results[number][index] = plane
    return cast("Planes", tuple(results))


def colours_around(planes: Planes, alphas: Planes) -> list[tuple[float, float, float]]:
    """Return the mean colour of the background around the subject, in code values.

    Args:
        planes: Three arrays ``(B, H, W)``, ``(B, h, w)``, ``(B, h, w)``, with the background as
            it was.
        alphas: Straight alpha at each plane's size.

    Returns:
        For each frame three numbers; where there is no subject, or nothing else, the frame's
        mean.
    """
    return [
        tuple(
            _around(plane[index], alpha[index]) for plane, alpha in zip(planes, alphas, strict=True)
        )  # type: ignore[misc]
        for index in range(len(planes[0]))
    ]


def _suppressed(
    frame: list[Plane],
    hue: NDArray[np.float64],
    share: float,
    neutral: float,
    format: PlaneFormat,
) -> list[Plane]:
    """Return the coloured planes of one frame with the lean to a hue limited.

    Args:
        frame: Two or three planes ``(h, w)``.
        hue: A unit vector in their space; of three, it adds up to zero.
        share: How much of what is too much is taken out, 0..1.
        neutral: The code of no colour; of no matter for three planes.
        format: The planes' working format.
    """
    weights = hue.astype(np.float32)
    components = [plane.astype(np.float32) for plane in frame]
    if format.is_rgb:
        grey = (components[0] + components[1] + components[2]) * np.float32(1 / 3)
        components = [component - grey for component in components]
    else:
        components = [component - np.float32(neutral) for component in components]
    along = np.zeros_like(components[0])
    total = np.zeros_like(along)
    for component, weight in zip(components, weights, strict=True):
        along += component * weight
        total += component * component
    across = np.sqrt(np.maximum(total - along * along, 0))
    excess = np.maximum(along - np.float32(_LIMIT) * across, 0) * np.float32(share)
    highest = (1 << format.depth) - 1
    return [
        np.clip(np.rint(plane - excess * weight), 0, highest).astype(plane.dtype)
        for plane, weight in zip(frame, weights, strict=True)
    ]


def _around(plane: Plane, alpha: Plane) -> float:
    """Return the mean of one plane ``(h, w)`` around the subject."""
    height, width = alpha.shape
    factor = max(1, height // _CELLS_HIGH)
    size = -(-width // factor), -(-height // factor)
    opacity = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    opacity /= np.iinfo(alpha.dtype).max
    reach = max(1, round(size[1] * _AROUND_SHARE))
    # A soft edge has the subject's colour in it.
    weight = cv2.blur(opacity, (2 * reach + 1, 2 * reach + 1)) * np.maximum(1 - 8 * opacity, 0)
    cells = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
    least = 1e-6
    total = float((weight * cells).sum()) + least * float(cells.mean())
    return total / (float(weight.sum()) + least)
