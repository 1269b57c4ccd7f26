"""Mattes corrected by the colours of subject and background, and drawn along edges of colour.

A network that sees a frame at some 300 pixels is unsure along edges and in parts that it does
not know, a sleeve or the far leg of a horse. The frame itself says more there: what the sure
parts look like. Three steps, all at the matte's size, each frame by itself:

1. *Colours of the whole frame.* Histograms of the subject's and of the background's colours,
   weighted by the matte, give each pixel a likelihood ratio, which is added to the matte's log
   odds (C. Rother, V. Kolmogorov and A. Blake, "GrabCut", SIGGRAPH 2004, without the cut).
2. *Colours near by.* The matte's mean over pixels that are alike in both place and colour: a
   bilateral grid (J. Chen, S. Paris and F. Durand, "Real-time edge-aware image processing with
   the bilateral grid", SIGGRAPH 2007) over five dimensions.
3. *Edges.* A guided filter with the picture's three channels as guide (K. He, J. Sun and
   X. Tang, "Guided image filtering", TPAMI 35(6), 2013, equations 14 to 16), which joins what the
   first two steps decided pixel by pixel.

Of the single steps none is worth having: a guided filter alone moved nothing, colours alone
left specks. What is fully transparent or opaque, with all around it, stays so exactly.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

# The numbers here were chosen on blackswan, camel, dance-twirl, dog, libby and troll of the
# evaluation clips, mattes of U-2-Net-p, and held back so that none of the twelve loses: what is
# best on the six on average takes 2 points from others.
RATIO_SHARE: Final = 0.4
# A colour seen on one side only says no more than this, in natural units of log odds.
LARGEST_LOG_RATIO: Final = 1.0
GRID_SHARE: Final = 0.12
# Log odds that a mean over a neighbourhood is taken of: 0.005 to 0.995.
LARGEST_LOG_ODDS: Final = 5.3
# How much more may be unsure than is foreground, before the matte is no longer believed to know the
# subject's colours; at the second it is not believed at all.
UNSURE_PER_FOREGROUND: Final = (2.0, 3.5)
UNSURE: Final = (0.1, 0.9)

# Of L*, a* and b*, 8 bits each.
GLOBAL_BINS: Final = (16, 24, 24)
GLOBAL_SIGMA_BINS: Final = (1.0, 1.0, 1.0)
# Pixels count by the matte to this power of two. Colours of the whole frame are taken from what is
# sure: counted as the matte has them, they lost 2 points of J on soapbox, where the matte is wrong
# and mostly unsure. Near by, where there is little to choose from, more pixels have a say.
GLOBAL_LOG2_POWER: Final = 3
# A bin nobody is in has this many times the mean bin's density.
LEAST_DENSITY: Final = 1e-3

# The grid's cells, of the matte's longer side; then bins of L* and of the middle of a* and b*.
GRID_CELLS: Final = 7
GRID_BINS: Final = (10, 12, 12)
GRID_CHROMA_LEVELS: Final = 8
GRID_SIGMA_BINS: Final = (1.0, 1.0, 0.7, 0.7, 0.7)
GRID_LOG2_POWER: Final = 1

# The guided filter's window, and the variance (of 1) below which colour is flat. Larger windows
# and variances gave up the gradient's error.
WINDOW_PX: Final = 5
FLAT_VARIANCE: Final = 1e-3

# An edge drawn as sharp as a pixel of the matte shows as a staircase at the frame's size. More than
# this softens what was gained.
STAIRCASE_SIGMA_PX: Final = 0.5

# How far off others count for a pixel: by the guided filter, two means over its window one after
# the other, and by the blur.
_MARGIN_PX: Final = 2 * (WINDOW_PX // 2) + 4

# A matte within this of 0 or 1 throughout the window is sure, and stays as it is; up to the second
# it changes by degrees.
SURE: Final = (0.01, 0.04)

# Beyond this a Gaussian is below four millionths of its peak.
_KERNEL_SIGMAS: Final = 5
_ONE: Final = np.ones(1, np.float32)


def corrected(rgb: NDArray[np.uint8], matte: Floats) -> Floats:
    """Return a matte that agrees better with the picture.

    Args:
        rgb: The picture at the matte's size, uint8 R'G'B' ``(h, w, 3)``, at least one pixel.
        matte: float32 ``(h, w)`` in 0..1.

    Returns:
        float32 ``(h, w)`` in 0..1; ``matte`` itself where it is sure everywhere.
    """
    window = np.ones((WINDOW_PX, WINDOW_PX), np.uint8)
    least, most = SURE
    # How far the window's surest pixel is from sure background, and from sure foreground.
    unsure = np.minimum(cv2.dilate(matte, window), 1 - cv2.erode(matte, window))
    freedom = np.clip((unsure - least) / (most - least), 0, 1).astype(np.float32)
    if not freedom.any():
        return matte
    lab = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), np.uint8)
    odds = _log_odds(matte)
    odds += np.float32(RATIO_SHARE) * _log_ratio(lab, matte)
    near = _log_odds(_local_mean(lab, _probability(odds)))
    odds += np.float32(GRID_SHARE) * (near - odds)
    # What is sure stays as it is: the rest, with all that the filters see of its surroundings.
    left, top, width, height = cv2.boundingRect((freedom > 0).view(np.uint8))
    part = (
        slice(max(0, top - _MARGIN_PX), top + height + _MARGIN_PX),
        slice(max(0, left - _MARGIN_PX), left + width + _MARGIN_PX),
    )
    drawn = _guided(rgb[part], _probability(odds[part]))
    drawn = np.asarray(cv2.GaussianBlur(drawn, (0, 0), STAIRCASE_SIGMA_PX), np.float32)
    drawn -= matte[part]
    drawn *= freedom[part] * np.float32(_trust(matte))
    drawn += matte[part]
    result = matte.copy()
    np.clip(drawn, 0, 1, out=result[part])
    return result


def _trust(matte: Floats) -> float:
    """Return how far a matte is believed to know the subject, 0 to 1."""
    least, most = UNSURE
    unsure = np.count_nonzero((matte > least) & (matte < most))
    foreground = np.count_nonzero(matte > 0.5)
    enough, too_much = (share * foreground for share in UNSURE_PER_FOREGROUND)
    if unsure <= enough:
        return 1.0
    return max(0.0, (too_much - unsure) / (too_much - enough)) if foreground else 0.0


def _log_odds(probability: Floats) -> Floats:
    least = np.float32(1 / (1 + np.exp(LARGEST_LOG_ODDS)))
    bounded = np.clip(probability, least, 1 - least)
    return np.asarray(np.log(bounded / (1 - bounded)), np.float32)


def _probability(log_odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-log_odds)), np.float32)


def _log_ratio(lab: NDArray[np.uint8], matte: Floats) -> Floats:
    """Return how much likelier each pixel's colour is in the foreground, as a logarithm.

    Args:
        lab: uint8 ``(h, w, 3)``.
        matte: float32 ``(h, w)``.

    Returns:
        float32 ``(h, w)``.
    """
    place = _places(lab, [np.arange(256) * bins >> 8 for bins in GLOBAL_BINS], GLOBAL_BINS)
    density = _densities(place, matte, GLOBAL_LOG2_POWER, GLOBAL_BINS, GLOBAL_SIGMA_BINS)
    # Each side's colours as shares of that side: its size is the matte's to say. A side that is
    # empty has no colours, and leaves the ratio at its bound in favour of the other.
    totals = np.maximum(density.reshape(2, -1).sum(axis=1), 1e-6)
    density /= totals.reshape(2, 1, 1, 1)
    density += np.float32(LEAST_DENSITY / np.prod(GLOBAL_BINS))
    ratio = np.clip(np.log(density[0] / density[1]), -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).astype(
        np.float32
    )
    # Single pixels that fall into the wrong bin are specks.
    return np.asarray(cv2.blur(ratio.ravel()[place], (3, 3)), np.float32)


def _local_mean(lab: NDArray[np.uint8], matte: Floats) -> Floats:
    """Return the mean of the matte over pixels near by and of like colour.

    Args:
        lab: uint8 ``(h, w, 3)``.
        matte: float32 ``(h, w)``.

    Returns:
        float32 ``(h, w)`` in 0..1.
    """
    height, width = matte.shape
    side = -(-max(height, width) // GRID_CELLS)
    shape = (-(-height // side), -(-width // side), *GRID_BINS)
    of_luma = np.arange(256) * GRID_BINS[0] >> 8
    # Colours are few and near grey; the strong ones share the outermost bins.
    of_a, of_b = (
        np.clip((np.arange(256) - 128) // GRID_CHROMA_LEVELS + bins // 2, 0, bins - 1)
        for bins in GRID_BINS[1:]
    )
    place = _places(lab, [of_luma, of_a, of_b], GRID_BINS)
    cells = (np.arange(height) // side)[:, None] * shape[1] + np.arange(width) // side
    place += (cells * math.prod(GRID_BINS)).astype(np.int32)
    density = _densities(place, matte, GRID_LOG2_POWER, shape, GRID_SIGMA_BINS)
    # Every pixel is in its own bin, so that no sum is nought.
    mean = density[0] / np.maximum(density[0] + density[1], np.finfo(np.float32).tiny)
    return np.asarray(np.clip(mean.ravel()[place], 0, 1), np.float32)


def _places(
    lab: NDArray[np.uint8], bins: Sequence[NDArray[np.int_]], counts: tuple[int, int, int]
) -> NDArray[np.int32]:
    """Return the bin of each pixel's colour in a histogram of three axes, counted through.

    Args:
        lab: uint8 ``(h, w, 3)``.
        bins: For each channel the bin of each of its 256 values.
        counts: How many bins each axis has.

    Returns:
        int32 ``(h, w)``.
    """
    strides = (counts[1] * counts[2], counts[2], 1)
    first, second, third = (
        np.asarray(cv2.LUT(channel, (own * stride).astype(np.int32)), np.int32)
        for channel, own, stride in zip(cv2.split(lab), bins, strides, strict=True)
    )
    first += second
    first += third
    return first


def _densities(
    place: NDArray[np.int32],
    matte: Floats,
    log2_power: int,
    shape: tuple[int, ...],
    sigmas: tuple[float, ...],
) -> Floats:
    """Return the histograms of foreground and background, blurred along each axis.

    Args:
        place: int32 ``(h, w)``, each pixel's bin.
        matte: float32 ``(h, w)`` in 0..1.
        log2_power: A pixel counts for the foreground by the matte, and for the background by
            what is left of 1, to this power of two.
        shape: Of a histogram.
        sigmas: Standard deviations, in bins.

    Returns:
        float32 ``(2, *shape)``.
    """
    places, count = place.ravel().astype(np.intp), math.prod(shape)
    histograms = np.empty((2, count), np.float32)
    for share, histogram in zip((matte, 1 - matte), histograms, strict=True):
        for _ in range(log2_power):
            share = share * share
        histogram[...] = np.bincount(places, share.ravel(), minlength=count)
    # Each filter blurs the first axis, which then becomes the last: the pair comes first again. No
    # product of matrices: BLAS, which OpenCV has too, would have all cores wait for each other.
    blurred = cv2.transpose(histograms)
    for size, sigma in zip(shape, sigmas, strict=True):
        rows = blurred.reshape(size, -1)
        along = gaussian(size, sigma)
        blurred = cv2.transpose(
            cv2.sepFilter2D(rows, cv2.CV_32F, _ONE, along, borderType=cv2.BORDER_CONSTANT)
        )
    return np.asarray(blurred, np.float32).reshape(2, *shape)


@lru_cache(maxsize=16)
def gaussian(size: int, sigma: float) -> Floats:
    """Return the kernel that blurs ``size`` bins, nothing coming from beyond their ends."""
    distances = np.arange(-size, size + 1)
    kernel = np.exp(-((distances / sigma) ** 2) / 2)
    kernel /= kernel.sum()
    reach = min(size - 1, math.ceil(_KERNEL_SIGMAS * sigma))
    return np.asarray(kernel[size - reach : size + reach + 1], np.float32)


def _guided(rgb: NDArray[np.uint8], matte: Floats) -> Floats:
    """Return a matte filtered along the edges of a picture.

    Args:
        rgb: uint8 ``(h, w, 3)``.
        matte: float32 ``(h, w)`` in 0..1.

    Returns:
        float32 ``(h, w)``, which may leave 0..1 a little.
    """

    def mean(values: Floats) -> Floats:
        return np.asarray(cv2.blur(values, (WINDOW_PX, WINDOW_PX)), np.float32)

    guide = [np.asarray(c, np.float32) / np.float32(255) for c in cv2.split(rgb)]
    means = [mean(channel) for channel in guide]
    matte_mean = mean(matte)
    covariance = [
        mean(channel * matte) - own * matte_mean for channel, own in zip(guide, means, strict=True)
    ]
    rr, rg, rb, gg, gb, bb = (
        mean(guide[i] * guide[j]) - means[i] * means[j]
        for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    )
    for variance in (rr, gg, bb):
        variance += np.float32(FLAT_VARIANCE)
    # The inverse of a symmetric matrix of three, by cofactors.
    cofactors = (
        (gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb),
        (None, rr * bb - rb * rb, rb * rg - rr * gb),
        (None, None, rr * gg - rg * rg),
    )
    (c00, c01, c02), (_, c11, c12), (_, _, c22) = cofactors
    determinant = rr * c00 + rg * c01 + rb * c02
    slopes = [
        (row[0] * covariance[0] + row[1] * covariance[1] + row[2] * covariance[2]) / determinant
        for row in ((c00, c01, c02), (c01, c11, c12), (c02, c12, c22))
    ]
    offset = matte_mean
    for slope, own in zip(slopes, means, strict=True):
        offset = offset - slope * own
    filtered = mean(offset)
    for slope, channel in zip(slopes, guide, strict=True):
        filtered += mean(slope) * channel
    return filtered
