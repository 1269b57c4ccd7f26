"""Dense optical flow between thumbnails, how far to trust it, and warping along it.

T. Kroeger, R. Timofte, D. Dai and L. Van Gool, "Fast optical flow using dense inverse search",
ECCV 2016, as OpenCV implements it. It is found at half the thumbnails' size, where its finest
patches lie as they would at the whole; over a few frames it is joined from that between neighbours.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import cv2
import numpy as np

from vidbg.frames import Motion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = TypeVar("Array", bound=NDArray[Any])

# The search's patches are 8 pixels wide, at half the size of what it gets, which is half the size
# of the thumbnails already.
_LEAST_SIDE_PX: Final = 16
_FINEST_SCALE: Final = 1
# Sundaram et al. have 0.01, with which more is gained in stability, but a fast subject loses 0.9
# points of its overlap with the truth to votes from beside it, instead of 0.3.
SLACK_PER_MOTION: Final = 0.003
# OpenCV's stubs do not know that these arguments may be left out.
_NONE: Final = cast("Any", None)


def flow(from_grey: NDArray[np.uint8], to_grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return where each pixel of one frame is found in another.

    Args:
        from_grey: uint8 ``(h, w)``, at least one pixel: a frame at half its thumbnail's size.
        to_grey: uint8 ``(h, w)``.

    Returns:
        float32 ``(h, w, 2)``, x and y in pixels: what is at p in ``from_grey`` is at
        ``p + flow[p]`` in ``to_grey``.
    """
    height, width = from_grey.shape
    right, below = max(0, _LEAST_SIDE_PX - width), max(0, _LEAST_SIDE_PX - height)
    source, target = (
        cv2.copyMakeBorder(grey, 0, below, 0, right, cv2.BORDER_REPLICATE)
        for grey in (from_grey, to_grey)
    )
    # Made anew each time: it holds buffers, which two threads must not share, and costs little.
    # The next preset up was worth 0.1 of 10 in the stability of mattes, for twice the time; patches
    # further apart took two thirds of it, and up to 6 points of overlap from small subjects.
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    search.setFinestScale(_FINEST_SCALE)
    found = search.calc(source, target, _NONE)
    return np.ascontiguousarray(found[:height, :width], np.float32)


def motion_between(one_grey: NDArray[np.uint8], other_grey: NDArray[np.uint8]) -> Motion:
    """Return where two frames find each other's points, both ways.

    Args:
        one_grey: uint8 ``(h, w)``: the first frame at half its thumbnail's size.
        other_grey: The second, likewise.
    """
    return Motion(flow(one_grey, other_grey), flow(other_grey, one_grey))


def joined(first: Motion, second: Motion) -> Motion:
    """Return the motion over two spans of which one begins where the other ends.

    Args:
        first: From one frame to another.
        second: From that to a third.
    """
    return Motion(
        first.onward + warp(second.onward, first.onward),
        second.home + warp(first.home, second.home),
    )


def full_places(motion: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return where each pixel of a thumbnail is found, of flow at half its size.

    Args:
        motion: float32 ``(h, w, 2)``, half of a :class:`~vidbg.frames.Motion`.
        size: (height, width) of the thumbnail.

    Returns:
        float32 ``(height, width, 2)``, x and y in its pixels, as :func:`look_up` takes them.
    """
    height, width = size
    grown = cv2.resize(motion, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.scaleAdd(grown, 2.0, _grid(height, width)), np.float32)


def warp(array: Array, flow: NDArray[np.float32]) -> Array:
    """Return what belongs to the flow's target frame as its source frame sees it.

    Bilinear; what comes from outside the frame is what is at its edge.

    Args:
        array: uint8, uint16 or float32 ``(h, w)`` or ``(h, w, C)`` with up to 4 channels, in
            the place of ``to_grey``.
        flow: float32 ``(h, w, 2)`` from :func:`flow`.

    Returns:
        The array's shape and dtype, in the place of ``from_grey``.
    """
    return look_up(array, places(flow))


def places(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return where each pixel is found, x and y in pixels: for several arrays, made once.

    Args:
        flow: float32 ``(h, w, 2)`` from :func:`flow`.
    """
    found: NDArray[np.float32] = flow + _grid(*flow.shape[:2])
    return found


def look_up(array: Array, places: NDArray[np.float32]) -> Array:
    """Return what is found at places, as :func:`warp` does.

    OpenCV is fast with one channel: two of them take three times as long in one array as in two.

    Args:
        array: uint8, uint16 or float32 ``(h, w)`` or ``(h, w, C)`` with up to 4 channels.
        places: float32 ``(h, w, 2)`` from :func:`places`.
    """
    found = cv2.remap(array, places, _NONE, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    # OpenCV drops an axis of one channel.
    return cast("Array", found.reshape(array.shape))


def agreement(
    forward: NDArray[np.float32], backward: NDArray[np.float32], slack_px: float
) -> NDArray[np.float32]:
    """Return how far each pixel's way to the other frame and back leads home, 0 (lost) to 1.

    What is hidden in the other frame, or has left it, is found at a wrong place there, from
    where the flow back leads elsewhere: N. Sundaram, T. Brox and K. Keutzer, "Dense point
    trajectories by GPU-accelerated large displacement optical flow", ECCV 2010, equation 5,
    with their threshold made soft: ``exp(-e^2 / (0.003 (|f|^2 + |b|^2) + slack^2))`` for an
    error of e pixels, stricter than theirs on what moves fast.

    Args:
        forward: float32 ``(h, w, 2)``, :func:`flow` from this frame to the other.
        backward: float32 ``(h, w, 2)``, the flow from the other to this one.
        slack_px: The error, in pixels, that is 1/e to where nothing moves. Above 0.

    Returns:
        float32 ``(h, w)``, in the place of this frame.
    """
    there = places(forward)
    allowed = np.zeros(forward.shape[:2], np.float32)
    error = np.zeros_like(allowed)
    for axis in (0, 1):
        away: NDArray[np.float32] = np.ascontiguousarray(forward[..., axis])
        home: NDArray[np.float32] = np.ascontiguousarray(backward[..., axis])
        back = look_up(home, there)
        allowed += away * away
        allowed += back * back
        back += away
        back *= back
        error += back
    allowed *= np.float32(SLACK_PER_MOTION)
    allowed += np.float32(slack_px * slack_px)
    error /= allowed
    found: NDArray[np.float32] = np.exp(np.negative(error, out=error), out=error)
    return found


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> NDArray[np.float32]:
    """Return the x and y of each pixel, float32 ``(height, width, 2)``, read-only."""
    grid = np.dstack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)
    grid.flags.writeable = False
    return grid
