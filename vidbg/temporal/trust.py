"""How far one frame's word counts in another: by the way there and back, and by the colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from vidbg.temporal.flow import agreement, warp

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The largest difference of a colour component, in levels and averaged over 6 by 6 pixels, at which
# a vote counts 1/e of what it does where the colour is the same. 20 took overlap with the truth,
# 10 left a twentieth more flicker.
COLOUR_LEVELS: Final = 14.0
# How far from home, in pixels of the colours, the way there and back may lead.
SLACK_PX: Final = 0.25
_DIFFERENCES: Final = np.arange(256) / COLOUR_LEVELS
_WEIGHT_OF: Final = np.exp(-_DIFFERENCES * _DIFFERENCES).astype(np.float32)


def half_size(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture at half its size, rounded up: what :func:`trust` compares.

    Args:
        rgb: uint8 ``(h, w, 3)``.
    """
    height, width = rgb.shape[:2]
    half = (width + 1) // 2, (height + 1) // 2
    return cv2.resize(rgb, half, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def grey(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what flow is found in, uint8 ``(h, w)``, of :func:`half_size`."""
    return cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)


def trust(
    here: NDArray[np.uint8],
    there: NDArray[np.uint8],
    forward: NDArray[np.float32],
    backward: NDArray[np.float32],
    size: tuple[int, int],
    most: float = 1.0,
) -> NDArray[np.float32]:
    """Return what the word of one frame counts in another, pixel by pixel.

    That the flow there and the flow back agree says that the point is in sight in both frames;
    that the colours are the same, as in W. Lai et al., "Learning blind video temporal
    consistency", ECCV 2018, that it is the same point.

    Args:
        here: The frame that it is for: :func:`half_size` of it, uint8 R'G'B' ``(h, w, 3)``.
        there: The frame that it is from, likewise.
        forward: The flow from here to there, in these pixels, float32 ``(h, w, 2)``.
        backward: The flow from there to here, likewise.
        size: (height, width) of what is returned.
        most: What is returned where nothing speaks against it.

    Returns:
        float32 in 0..most, in the place of ``here``.
    """
    found = agreement(forward, backward, SLACK_PX)
    apart = cv2.split(cv2.absdiff(warp(there, forward), here))
    difference = cv2.blur(cv2.max(cv2.max(apart[0], apart[1]), apart[2]), (3, 3))
    found *= cv2.LUT(difference, np.float32(most) * _WEIGHT_OF)
    height, width = size
    grown = cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR)
    return grown.astype(np.float32, copy=False)
