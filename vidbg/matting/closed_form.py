"""Closed-form matting: alpha that is, in every small window, a linear function of colour.

A. Levin, D. Lischinski and Y. Weiss, "A closed-form solution to natural image matting",
TPAMI 30(2), 2008. The matting Laplacian is never written down: its product with a matte is that
matte less its regressions on colour in all windows (K. He, J. Sun and X. Tang, "Fast matting
using large kernel matting Laplacian matrices", CVPR 2010, section 3), which box filters give. So
it needs no sparse solver, and the conjugate gradients take a dozen filters a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from vidbg.matting import trimap as trimaps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_WINDOW_PX: Final = 3
_WINDOW_AREA: Final = _WINDOW_PX**2
# A product reaches as far as two windows do.
_REACH_PX: Final = _WINDOW_PX - 1
# Levin's epsilon, of the variance of colours in 0..1. Their 1e-7 is for stills; with 1e-4 and
# compressed video the gradient's error was a twentieth larger, with 1e-3 a quarter.
_EPSILON: Final = 1e-5
# What the matte that is refined counts in the unknown, beside the Laplacian. The classic trimap
# matting, 0, moved the contours of the evaluation clips by 3 points of F the wrong way: a network's
# unknown is often a whole limb, over which colours run away. From 0.03 to 0.3 little changes.
_PRIOR_WEIGHT: Final = 0.1
_TOLERANCE: Final = 1e-3
_MOST_STEPS: Final = 60


def closed_form(guide: Floats, trimap: NDArray[np.uint8], prior: Floats) -> Floats:
    """Return the matte that fits the colours in the unknown part of a trimap.

    Minimises a'La + w·|a - prior|² over the unknown pixels, with the known ones fixed (Levin et
    al., section 3, and a prior of weight w = 0.1). Deterministic.

    Args:
        guide: The picture, float32 ``(h, w, 3)``, any three components about 0..1.
        trimap: uint8 ``(h, w)``, as :func:`vidbg.matting.trimap.trimap` makes it.
        prior: float32 ``(h, w)`` in 0..1.

    Returns:
        float32 ``(h, w)`` in 0..1; exactly 0 or 1 where the trimap is known.
    """
    matte = np.where(
        trimap == trimaps.UNKNOWN, prior, (trimap == trimaps.FOREGROUND).astype(np.float32)
    )
    rows, columns = np.nonzero(trimap == trimaps.UNKNOWN)
    if not len(rows):
        return matte
    window = tuple(
        slice(max(0, int(places.min()) - _REACH_PX), int(places.max()) + 1 + _REACH_PX)
        for places in (rows, columns)
    )
    laplacian = _Laplacian(guide[window])
    is_unknown = (trimap[window] == trimaps.UNKNOWN).astype(np.float32)
    solved = _solved(laplacian, is_unknown, matte[window])
    matte[window] = np.clip(solved, 0, 1)
    return matte


def _solved(laplacian: _Laplacian, is_unknown: Floats, matte: Floats) -> Floats:
    """Return the minimiser by conjugate gradients, started at the matte itself.

    Args:
        laplacian: Of the picture.
        is_unknown: float32 ``(h, w)``, 0 or 1.
        matte: float32 ``(h, w)``, the known values and the prior.
    """
    # At the start only the Laplacian pulls; the prior is where it wants to be.
    residual = -laplacian.times(matte) * is_unknown
    solution = matte.copy()
    direction = residual.copy()
    energy = float(np.vdot(residual, residual))
    enough = _TOLERANCE**2 * energy
    for _ in range(_MOST_STEPS):
        if energy <= enough:
            break
        pulled = laplacian.times(direction)
        pulled += np.float32(_PRIOR_WEIGHT) * direction
        pulled *= is_unknown
        step = np.float32(energy / float(np.vdot(direction, pulled)))
        solution += step * direction
        residual -= step * pulled
        before, energy = energy, float(np.vdot(residual, residual))
        direction *= np.float32(energy / before)
        direction += residual
    return solution


class _Laplacian:
    """The matting Laplacian of a picture, as a function.

    Windows are those that lie in the picture as a whole.

    Args:
        guide: float32 ``(h, w, 3)``.
    """

    def __init__(self, guide: Floats) -> None:
        # An edge between two colours has all its variance along one line, and the inverse of
        # such a covariance is nothing but rounding in 32 bits.
        centred = guide.astype(np.float64) - guide.mean(axis=(0, 1))
        channels = [np.ascontiguousarray(centred[..., i]) for i in range(3)]
        means = [_mean(channel) for channel in channels]
        rr, rg, rb, gg, gb, bb = (
            _mean(channels[i] * channels[j]) - means[i] * means[j]
            for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
        )
        for variance in (rr, gg, bb):
            variance += _EPSILON / _WINDOW_AREA
        # By cofactors; the matrix is symmetric.
        inverse = {
            (0, 0): gg * bb - gb * gb,
            (0, 1): gb * rb - rg * bb,
            (0, 2): rg * gb - gg * rb,
            (1, 1): rr * bb - rb * rb,
            (1, 2): rb * rg - rr * gb,
            (2, 2): rr * gg - rg * rg,
        }
        self._is_window = _whole_windows(*guide.shape[:2])
        self._count = _summed(self._is_window)
        # Windows that reach beyond the picture count nothing.
        scale = self._is_window / (rr * inverse[0, 0] + rg * inverse[0, 1] + rb * inverse[0, 2])
        self._inverse = {
            place: (cofactor * scale).astype(np.float32) for place, cofactor in inverse.items()
        }
        self._guide = [channel.astype(np.float32) for channel in channels]
        self._means = [mean.astype(np.float32) for mean in means]

    def times(self, matte: Floats) -> Floats:
        """Return the product with a matte, both float32 ``(h, w)``."""
        mean = _mean(matte)
        covariance = [
            _mean(channel * matte) - own * mean
            for channel, own in zip(self._guide, self._means, strict=True)
        ]
        slopes = [
            sum(self._inverse[min(i, j), max(i, j)] * covariance[j] for j in range(3))
            for i in range(3)
        ]
        offset = mean * self._is_window
        for slope, own in zip(slopes, self._means, strict=True):
            offset -= slope * own
        product = self._count * matte
        product -= _summed(offset)
        for slope, channel in zip(slopes, self._guide, strict=True):
            product -= _summed(slope) * channel
        return product


def _whole_windows(height: int, width: int) -> Floats:
    """Return 1 at the middle of each window that lies in the picture, else 0."""
    margin = _WINDOW_PX // 2
    inside = np.zeros((height, width), np.float32)
    inside[margin : height - margin, margin : width - margin] = 1
    return inside


def _mean(values: NDArray[Any]) -> NDArray[Any]:
    # Of windows beyond the edge no use is made.
    return np.asarray(cv2.blur(values, (_WINDOW_PX, _WINDOW_PX)))


def _summed(values: Floats) -> Floats:
    """Return, at each pixel, the sum over the windows that it is in."""
    return np.asarray(
        cv2.boxFilter(
            values,
            -1,
            (_WINDOW_PX, _WINDOW_PX),
            normalize=False,
            borderType=cv2.BORDER_CONSTANT,
        ),
        np.float32,
    )
